//! The table of precision, recall and F1 that scikit-learn's `classification_report` prints.

use super::classification::{Average, Scores, Tally};

/// The table: one line a class, then accuracy (or the micro average, where `labels` leaves out some that occur),
/// the plain and the weighted mean. `names` are the classes' names in the order of `labels`.
pub fn classification_report(tally: &Tally, labels: &[usize], names: &[String], zero_division: f64) -> String {
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("weighted avg".len());
    let row = |name: &str, cells: [String; 4]| {
        let cells: String = cells.iter().map(|cell| format!(" {cell:>9}")).collect();
        format!("{name:>width$} {cells}\n")
    };
    let scores = |name: &str, scores: &Scores| {
        let [precision, recall, f1] = [scores.precision, scores.recall, scores.f1].map(two_digits);
        row(name, [precision, recall, f1, scores.support.to_string()])
    };
    let averaged = |average| tally.average(labels, average, zero_division);

    let mut table = row("", ["precision", "recall", "f1-score", "support"].map(String::from));
    table.push('\n');
    for (name, class) in names.iter().zip(tally.per_class(labels, zero_division)) {
        table += &scores(name, &class);
    }
    table.push('\n');
    let micro = averaged(Average::Micro);
    if tally.labels().iter().all(|label| labels.contains(label)) {
        let empty = String::new;
        table += &row("accuracy", [empty(), empty(), two_digits(micro.f1), micro.support.to_string()]);
    } else {
        table += &scores("micro avg", &micro);
    }
    table += &scores("macro avg", &averaged(Average::Macro));
    table += &scores("weighted avg", &averaged(Average::Weighted));
    table
}

fn two_digits(value: f64) -> String {
    if value.is_nan() { "nan".into() } else { format!("{value:.2}") }
}
