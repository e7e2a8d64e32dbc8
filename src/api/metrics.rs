//! Metrics, as `compute_metrics` and scripts call them: `accuracy(predictions, references)` and its kin.
//!
//! Arrays flow in, numbers, maps and tables flow out. The arithmetic is `crate::metrics`; this file only reads
//! what scripts give and writes what they get.

use rhai::plugin::*;
use rhai::{Array, Dynamic, Map};

use super::labels::{Labelled, label, labels, numbers, rows_of_numbers};
use super::options::Options;
use crate::data::Value;
use crate::error::{Error, Result, What};
use crate::head::script::convert::{ScriptResult, from_dynamic, raise, to_dynamic, type_name};
use crate::metrics::classification::{Average, Scores, Tally, confusion_matrix};
use crate::metrics::classification_report::classification_report;
use crate::metrics::multi_label::MultiLabelTally;
use crate::metrics::{ranking, regression};

/// Registers the metrics.
pub fn register(engine: &mut rhai::Engine) {
    engine.register_global_module(rhai::exported_module!(functions).into());
}

#[export_module]
#[expect(unreachable_pub, reason = "the macro exports public functions only")]
mod functions {
    /// The share of predictions that are right.
    ///
    /// Both arrays hold labels: integers or strings. Scores become labels with `argmax`.
    ///
    /// ```rhai
    /// expect(accuracy([0, 1, 1, 0], [0, 1, 0, 0]) == 0.75, "three of four");
    /// expect(accuracy(["pos", "neg"], ["pos", "pos"]) == 0.5, "one of two");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn accuracy(predictions: Dynamic, references: Dynamic) -> ScriptResult<f64> {
        tally(&predictions, &references).map(|tally| tally.accuracy()).map_err(raise)
    }

    /// The mean of the classes' recalls: accuracy in which each class of the references counts the same.
    ///
    /// ```rhai
    /// expect(balanced_accuracy([0, 0, 0, 1], [0, 0, 1, 1]) == 0.75, "the mean of 1.0 and 0.5");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn balanced_accuracy(predictions: Dynamic, references: Dynamic) -> ScriptResult<f64> {
        tally(&predictions, &references).map(|tally| tally.balanced_accuracy()).map_err(raise)
    }

    /// Matthews correlation coefficient, for any number of classes: 1 is perfect, 0 is chance.
    ///
    /// It is 0 where predictions or references have a single label.
    ///
    /// ```rhai
    /// expect(matthews_correlation([0, 1, 1, 0], [0, 1, 1, 0]) == 1.0, "all right");
    /// expect(matthews_correlation([1, 1, 1, 1], [0, 1, 1, 0]) == 0.0, "always the same answer");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn matthews_correlation(predictions: Dynamic, references: Dynamic) -> ScriptResult<f64> {
        tally(&predictions, &references).map(|tally| tally.matthews_correlation()).map_err(raise)
    }

    /// Precision, recall and F1 of label 1, as a map `#{ precision, recall, f1 }`.
    ///
    /// With more than two labels an `average` is needed: see the form with options.
    ///
    /// ```rhai
    /// let scores = precision_recall_f1([1, 1, 0, 0], [1, 0, 1, 1]);
    /// expect(scores.precision == 0.5, "one of two that were predicted");
    /// expect(scores.f1 == 0.4, "2 * 1 / (2 + 3)");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn precision_recall_f1(predictions: Dynamic, references: Dynamic) -> ScriptResult<Map> {
        scores_map(&predictions, &references, Map::new(), "`precision_recall_f1`").map_err(raise)
    }

    /// Precision, recall and F1 as a map, as scikit-learn defines them.
    ///
    /// - `average`: `"binary"` (the default: the scores of `pos_label`, for two labels), `"macro"`, `"micro"`, `"weighted"`,
    ///   or `"none"`: an array with one value a label, and `support`.
    /// - `pos_label`: the label that `"binary"` scores; 1 unless given.
    /// - `labels`: the labels to score and their order; all that occur, sorted, unless given. `"binary"` ignores it.
    /// - `zero_division`: the score where a ratio is 0 / 0: 0.0 (the default), 1.0, or NaN, which averages leave out.
    ///
    /// ```rhai
    /// let scores = precision_recall_f1(["a", "b", "b"], ["a", "b", "c"], #{ average: "none" });
    /// expect(scores.precision == [1.0, 0.5, 0.0], "for a, b and c");
    /// expect(scores.support == [1, 1, 1], "one row each");
    /// ```
    #[rhai_fn(name = "precision_recall_f1", return_raw)]
    pub fn precision_recall_f1_with(predictions: Dynamic, references: Dynamic, options: Map) -> ScriptResult<Map> {
        scores_map(&predictions, &references, options, "`precision_recall_f1`").map_err(raise)
    }

    /// F1 of label 1: the harmonic mean of precision and recall.
    ///
    /// ```rhai
    /// expect(f1([1, 1, 0, 0], [1, 0, 1, 1]) == 0.4, "2 * 1 / (2 + 3)");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn f1(predictions: Dynamic, references: Dynamic) -> ScriptResult<Dynamic> {
        f1_of(&predictions, &references, Map::new()).map_err(raise)
    }

    /// F1 with the options of `precision_recall_f1`; `average: "none"` gives an array with one value a label.
    ///
    /// ```rhai
    /// expect(f1([0, 1, 2, 2], [0, 1, 2, 2], #{ average: "macro" }) == 1.0, "all right");
    /// ```
    #[rhai_fn(name = "f1", return_raw)]
    pub fn f1_with(predictions: Dynamic, references: Dynamic, options: Map) -> ScriptResult<Dynamic> {
        f1_of(&predictions, &references, options).map_err(raise)
    }

    /// How often each true label (row) was predicted as each label (column), labels sorted.
    ///
    /// ```rhai
    /// let matrix = confusion_matrix([0, 1, 1], [0, 0, 1]);
    /// expect(matrix == [[1, 1], [0, 1]], "one 0 was taken for a 1");
    /// ```
    #[rhai_fn(name = "confusion_matrix", return_raw)]
    pub fn confusion_matrix_of(predictions: Dynamic, references: Dynamic) -> ScriptResult<Array> {
        matrix(&predictions, &references, Map::new()).map_err(raise)
    }

    /// How often each true label (row) was predicted as each label (column).
    ///
    /// `labels` are the labels and their order; pairs with any other label are left out.
    ///
    /// ```rhai
    /// let matrix = confusion_matrix(["no", "yes"], ["no", "no"], #{ labels: ["yes", "no"] });
    /// expect(matrix == [[0, 0], [1, 1]], "both are a no");
    /// ```
    #[rhai_fn(name = "confusion_matrix", return_raw)]
    pub fn confusion_matrix_with(predictions: Dynamic, references: Dynamic, options: Map) -> ScriptResult<Array> {
        matrix(&predictions, &references, options).map_err(raise)
    }

    /// A table of precision, recall and F1 of each label, as text.
    ///
    /// ```rhai
    /// let table = classification_report([0, 1, 1], [0, 0, 1]);
    /// expect(table.contains("weighted avg"), "it ends with the averages");
    /// ```
    #[rhai_fn(name = "classification_report", return_raw)]
    pub fn report(predictions: Dynamic, references: Dynamic) -> ScriptResult<String> {
        report_table(&predictions, &references, Map::new()).map_err(raise)
    }

    /// A table of precision, recall and F1 of each label, as text.
    ///
    /// `target_names` are the names to print, in the order of the labels; `labels` and `zero_division` as in
    /// `precision_recall_f1`.
    ///
    /// ```rhai
    /// let table = classification_report([0, 1, 1], [0, 0, 1], #{ target_names: ["negative", "positive"] });
    /// expect(table.contains("positive"), "labels have their names");
    /// ```
    #[rhai_fn(name = "classification_report", return_raw)]
    pub fn report_with(predictions: Dynamic, references: Dynamic, options: Map) -> ScriptResult<String> {
        report_table(&predictions, &references, options).map_err(raise)
    }

    /// F1 where a row has several labels, micro-averaged: all labels of all rows are counted together.
    ///
    /// Rows are arrays with one number or bool a label; a label counts as present where the number is above 0.5.
    ///
    /// ```rhai
    /// expect(multi_label_f1([[1, 0], [1, 1]], [[1, 0], [0, 1]]) == 0.8, "2 * 2 / (3 + 2)");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn multi_label_f1(predictions: Dynamic, references: Dynamic) -> ScriptResult<Dynamic> {
        multi_label(&predictions, &references, Map::new(), "`multi_label_f1`").map(f1_entry).map_err(raise)
    }

    /// F1 where a row has several labels, with the options of `multi_label_scores`.
    ///
    /// ```rhai
    /// let logits = [[2.1, -0.3], [-1.0, 0.7]];
    /// expect(multi_label_f1(logits, [[1, 0], [0, 1]], #{ average: "macro", threshold: 0.0 }) == 1.0, "all right");
    /// ```
    #[rhai_fn(name = "multi_label_f1", return_raw)]
    pub fn multi_label_f1_with(predictions: Dynamic, references: Dynamic, options: Map) -> ScriptResult<Dynamic> {
        multi_label(&predictions, &references, options, "`multi_label_f1`").map(f1_entry).map_err(raise)
    }

    /// Precision, recall, F1, subset accuracy and Hamming loss where a row has several labels, as a map.
    ///
    /// ```rhai
    /// let scores = multi_label_scores([[1, 0], [1, 1]], [[1, 0], [0, 1]]);
    /// expect(scores.subset_accuracy == 0.5, "one row is right as a whole");
    /// expect(scores.hamming_loss == 0.25, "one label of four is wrong");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn multi_label_scores(predictions: Dynamic, references: Dynamic) -> ScriptResult<Map> {
        multi_label(&predictions, &references, Map::new(), "`multi_label_scores`").map_err(raise)
    }

    /// Precision, recall, F1, subset accuracy and Hamming loss where a row has several labels, as a map.
    ///
    /// - `average`: `"micro"` (the default), `"macro"`, `"weighted"`, or `"none"`: an array with one value a label.
    /// - `threshold`: a predicted number above it means that the label is present; 0.5 unless given, 0.0 suits logits.
    /// - `zero_division`: the score where a ratio is 0 / 0; 0.0 unless given.
    ///
    /// ```rhai
    /// let scores = multi_label_scores([[0.9, 0.2]], [[1, 1]], #{ average: "none" });
    /// expect(scores.recall == [1.0, 0.0], "the second label was missed");
    /// ```
    #[rhai_fn(name = "multi_label_scores", return_raw)]
    pub fn multi_label_scores_with(predictions: Dynamic, references: Dynamic, options: Map) -> ScriptResult<Map> {
        multi_label(&predictions, &references, options, "`multi_label_scores`").map_err(raise)
    }

    /// The area under the ROC curve of scores against labels that are 0 or 1; NaN where all rows agree.
    ///
    /// ```rhai
    /// expect(roc_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75, "three of four pairs are in order");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn roc_auc(scores: Dynamic, references: Dynamic) -> ScriptResult<f64> {
        let area = || {
            let references = numbers("references", &references)?;
            if let Some(wrong) = references.iter().find(|value| **value != 0.0 && **value != 1.0) {
                let value = wrong.to_string();
                return Err(What::OutOfRange { name: "a reference".into(), value, allowed: "0 or 1".into() }.into());
            }
            let positive: Vec<bool> = references.iter().map(|value| *value == 1.0).collect();
            ranking::roc_auc(&numbers("scores", &scores)?, &positive)
        };
        area().map_err(raise)
    }

    /// The mean squared error.
    ///
    /// ```rhai
    /// expect(mse([1.0, 4.0], [1, 2]) == 2.0, "(0 + 4) / 2");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn mse(predictions: Dynamic, references: Dynamic) -> ScriptResult<f64> {
        of_numbers(&predictions, &references, regression::mse)
    }

    /// The square root of the mean squared error.
    ///
    /// ```rhai
    /// expect(rmse([1.0, 5.0], [1.0, 5.0]) == 0.0, "no error");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn rmse(predictions: Dynamic, references: Dynamic) -> ScriptResult<f64> {
        of_numbers(&predictions, &references, regression::rmse)
    }

    /// The mean absolute error.
    ///
    /// ```rhai
    /// expect(mae([1.0, 4.0], [1.0, 2.0]) == 1.0, "(0 + 2) / 2");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn mae(predictions: Dynamic, references: Dynamic) -> ScriptResult<f64> {
        of_numbers(&predictions, &references, regression::mae)
    }

    /// The share of the references' variance that the predictions explain: 1 is perfect, 0 is as good as the mean.
    ///
    /// ```rhai
    /// expect(r2([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]) == 0.0, "the mean explains nothing");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn r2(predictions: Dynamic, references: Dynamic) -> ScriptResult<f64> {
        of_numbers(&predictions, &references, regression::r2)
    }

    /// Pearson's correlation; NaN where one side does not vary.
    ///
    /// ```rhai
    /// expect((pearson([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) - 1.0).abs() < 1e-12, "a straight line");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn pearson(predictions: Dynamic, references: Dynamic) -> ScriptResult<f64> {
        of_numbers(&predictions, &references, regression::pearson)
    }

    /// Spearman's rank correlation, equal values sharing their mean rank; NaN where one side does not vary.
    ///
    /// ```rhai
    /// expect((spearman([1.0, 2.0, 9.0], [2.0, 4.0, 5.0]) - 1.0).abs() < 1e-12, "the same order");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn spearman(predictions: Dynamic, references: Dynamic) -> ScriptResult<f64> {
        of_numbers(&predictions, &references, regression::spearman)
    }

    /// The index of the largest score: of one array, or of each array in an array, to any depth.
    ///
    /// The first of equal scores wins, and NaN counts as largest, as in numpy.
    ///
    /// ```rhai
    /// expect(argmax([0.1, 0.7, 0.2]) == 1, "of one array");
    /// expect(argmax([[2.0, 1.0], [0.5, 3.0]]) == [0, 1], "of each row");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn argmax(scores: Dynamic) -> ScriptResult<Dynamic> {
        from_dynamic(&scores).and_then(|value| largest(&value)).map_err(raise)
    }

    /// As `argmax(scores)`, with the axis that numpy wants to be told: the last, `-1`.
    ///
    /// ```rhai
    /// expect(argmax([[2.0, 1.0], [0.5, 3.0]], #{ axis: -1 }) == [0, 1], "of each row");
    /// ```
    #[rhai_fn(name = "argmax", return_raw)]
    pub fn argmax_with(scores: Array, options: Map) -> ScriptResult<Dynamic> {
        let mut options = Options::new("`argmax`", options);
        let axis = options.int("axis").map_err(raise)?.unwrap_or(-1);
        options.finish().map_err(raise)?;
        argmax_of_axis(scores, axis)
    }

    /// As `argmax(scores)`, with the axis as a number.
    ///
    /// ```rhai
    /// expect(argmax([[2.0, 1.0], [0.5, 3.0]], -1) == [0, 1], "of each row");
    /// ```
    #[rhai_fn(name = "argmax", return_raw)]
    pub fn argmax_of_axis(scores: Array, axis: i64) -> ScriptResult<Dynamic> {
        let depth = super::depth(&scores);
        if axis != -1 && axis != depth - 1 {
            let (name, value) = ("the axis of `argmax`".into(), axis.to_string());
            let allowed = format!("-1 or {}: the innermost arrays", depth - 1);
            return Err(raise(What::OutOfRange { name, value, allowed }.into()));
        }
        argmax(Dynamic::from_array(scores))
    }
}

/// How many arrays stand one in the other, by the first of each.
fn depth(array: &Array) -> i64 {
    1 + array.first().and_then(|item| item.as_array_ref().ok().map(|inner| depth(&inner))).unwrap_or(0)
}

fn tally(predictions: &Dynamic, references: &Dynamic) -> Result<Tally> {
    let labelled = Labelled::new(predictions, references)?;
    Tally::of(&labelled.predictions, &labelled.references)
}

fn of_numbers(
    predictions: &Dynamic,
    references: &Dynamic,
    metric: fn(&[f64], &[f64]) -> Result<f64>,
) -> ScriptResult<f64> {
    let score = || metric(&numbers("predictions", predictions)?, &numbers("references", references)?);
    score().map_err(raise)
}

/// The indices to score: those of the option `labels`, else of all that occur.
fn chosen(options: &mut Options, labelled: &mut Labelled, tally: &Tally) -> Result<Vec<usize>> {
    let Some(listed) = options.take("labels") else { return Ok(tally.labels()) };
    Ok(labels("labels", &listed)?.into_iter().map(|label| labelled.index(label)).collect())
}

fn scores_map(predictions: &Dynamic, references: &Dynamic, options: Map, of: &str) -> Result<Map> {
    let mut labelled = Labelled::new(predictions, references)?;
    let tally = Tally::of(&labelled.predictions, &labelled.references)?;
    let mut options = Options::new(of, options);
    let average = options.choice("average", &["binary", "macro", "micro", "weighted", "none"])?;
    let zero_division = options.float("zero_division")?.unwrap_or(0.0);
    let pos_label = options.take("pos_label").unwrap_or(Dynamic::ONE);
    let chosen = chosen(&mut options, &mut labelled, &tally)?;
    options.finish()?;
    let average = average.as_deref().unwrap_or("binary");
    Ok(match average_of(average) {
        Some(average) => one_map(tally.average(&chosen, average, zero_division)),
        None if average == "none" => lists_map(&tally.per_class(&chosen, zero_division)),
        None => {
            let positive = label("pos_label", &pos_label)?;
            if tally.labels().len() == 2 && !labelled.knows(&positive) {
                let problem = format!("the positive label `{positive}` does not occur");
                let hint = format!("set `pos_label` to one of {}", labelled.listed().join(", "));
                return Err(Error::new(What::BadData(problem)).hint(hint));
            }
            one_map(tally.binary(labelled.index(positive), zero_division)?)
        }
    })
}

fn f1_of(predictions: &Dynamic, references: &Dynamic, options: Map) -> Result<Dynamic> {
    scores_map(predictions, references, options, "`f1`").map(f1_entry)
}

fn f1_entry(mut scores: Map) -> Dynamic {
    scores.remove("f1").expect("every map of scores has `f1`")
}

fn matrix(predictions: &Dynamic, references: &Dynamic, options: Map) -> Result<Array> {
    let mut labelled = Labelled::new(predictions, references)?;
    let tally = Tally::of(&labelled.predictions, &labelled.references)?;
    let mut options = Options::new("`confusion_matrix`", options);
    let chosen = chosen(&mut options, &mut labelled, &tally)?;
    options.finish()?;
    let rows = confusion_matrix(&labelled.predictions, &labelled.references, &chosen)?;
    let row = |counts: Vec<u64>| Dynamic::from_array(counts.into_iter().map(|n| Dynamic::from(n as i64)).collect());
    Ok(rows.into_iter().map(row).collect())
}

fn report_table(predictions: &Dynamic, references: &Dynamic, options: Map) -> Result<String> {
    let mut labelled = Labelled::new(predictions, references)?;
    let tally = Tally::of(&labelled.predictions, &labelled.references)?;
    let mut options = Options::new("`classification_report`", options);
    let zero_division = options.float("zero_division")?.unwrap_or(0.0);
    let names = options.take("target_names");
    let chosen = chosen(&mut options, &mut labelled, &tally)?;
    options.finish()?;
    let names: Vec<String> = match names {
        Some(names) => labels("target_names", &names)?.iter().map(ToString::to_string).collect(),
        None => chosen.iter().map(|&index| labelled.name(index)).collect(),
    };
    if names.len() != chosen.len() {
        let problem = format!("there are {} `target_names`, but {} labels", names.len(), chosen.len());
        let hint = format!("give `labels` too; those that occur are {}", labelled.listed().join(", "));
        return Err(Error::new(What::Conflict(problem)).hint(hint));
    }
    Ok(classification_report(&tally, &chosen, &names, zero_division))
}

fn multi_label(predictions: &Dynamic, references: &Dynamic, options: Map, of: &str) -> Result<Map> {
    let mut options = Options::new(of, options);
    let average = options.choice("average", &["micro", "macro", "weighted", "none"])?;
    let threshold = options.float("threshold")?.unwrap_or(0.5);
    let zero_division = options.float("zero_division")?.unwrap_or(0.0);
    options.finish()?;
    let predictions = rows_of_numbers("predictions", predictions)?;
    let references = rows_of_numbers("references", references)?;
    if predictions.len() != references.len() || predictions.is_empty() {
        let problem = format!("there are {} predictions and {} references", predictions.len(), references.len());
        return Err(Error::new(What::BadData(problem)).hint("there must be one prediction for each reference"));
    }
    let mut tally = MultiLabelTally::new(references[0].len());
    for (prediction, reference) in predictions.iter().zip(&references) {
        let above = |row: &[f64], threshold: f64| row.iter().map(|&value| value > threshold).collect::<Vec<_>>();
        tally.add(&above(prediction, threshold), &above(reference, 0.5))?;
    }
    let mut scores = match average_of(average.as_deref().unwrap_or("micro")) {
        Some(average) => one_map(tally.average(average, zero_division)),
        None => lists_map(&tally.per_label(zero_division)),
    };
    scores.insert("subset_accuracy".into(), tally.subset_accuracy().into());
    scores.insert("hamming_loss".into(), tally.hamming_loss().into());
    Ok(scores)
}

fn average_of(name: &str) -> Option<Average> {
    match name {
        "micro" => Some(Average::Micro),
        "macro" => Some(Average::Macro),
        "weighted" => Some(Average::Weighted),
        _ => None,
    }
}

fn one_map(scores: Scores) -> Map {
    let entries = [("precision", scores.precision), ("recall", scores.recall), ("f1", scores.f1)];
    entries.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

fn lists_map(scores: &[Scores]) -> Map {
    let list = |of: fn(&Scores) -> Dynamic| Dynamic::from_array(scores.iter().map(of).collect());
    Map::from([
        ("precision".into(), list(|class| class.precision.into())),
        ("recall".into(), list(|class| class.recall.into())),
        ("f1".into(), list(|class| class.f1.into())),
        ("support".into(), list(|class| Dynamic::from(class.support as i64))),
    ])
}

fn largest(scores: &Value) -> Result<Dynamic> {
    let wrong = |got: String| What::WrongType {
        name: "`scores`".into(),
        wanted: "an array of numbers, or of such arrays".into(),
        got,
    };
    let Value::List(values) = scores else {
        return Err(wrong(type_name(&to_dynamic(scores))).into());
    };
    if values.iter().any(|value| value.as_list().is_some()) {
        return Ok(Dynamic::from_array(values.iter().map(largest).collect::<Result<_>>()?));
    }
    let mut best: Option<(i64, f64)> = None;
    for (at, value) in values.iter().enumerate() {
        let score =
            value.as_float().ok_or_else(|| wrong(format!("an array with {}", type_name(&to_dynamic(value)))))?;
        if best.is_none_or(|(_, largest)| score > largest || (score.is_nan() && !largest.is_nan())) {
            best = Some((at as i64, score));
        }
    }
    best.map(|(at, _)| at.into()).ok_or_else(|| wrong("an empty array".into()).into())
}
