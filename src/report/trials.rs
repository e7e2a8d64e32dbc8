//! The trials of a search: a line when one begins and ends, the event `trial`, and the table of all of them.

use serde_json::Value;

use super::{Reporter, lines};
use crate::train::search::{State, Study, Trial, to_json};

impl Reporter {
    /// Reports a trial that begins or has ended: a line, and the event `trial` with the keys of `trials.json`.
    pub fn trial(&self, trial: &Trial, study: &Study) {
        let number = trial.number;
        let value = |value: Option<f64>| lines::cell(&Value::from(value.unwrap_or(f64::NAN)));
        let is_best = study.best().is_some_and(|best| best.number == number);
        self.note(&match trial.state {
            State::Running => {
                let params =
                    trial.params.iter().map(|(name, value)| format!("{name} {}", lines::cell(&value.to_json())));
                format!("trial {number}  {}", params.collect::<Vec<_>>().join("  "))
            }
            State::Complete => {
                let best = if is_best { "  (the best so far)" } else { "" };
                format!("trial {number}  objective {}{best}", value(trial.value))
            }
            State::Pruned => format!("trial {number}  pruned at objective {}", value(trial.value)),
            State::Fail => {
                format!("trial {number}  failed: {}", trial.error.as_deref().unwrap_or("no reason is known"))
            }
        });
        if let Value::Object(mut body) = to_json(trial) {
            body.insert("is_best".into(), is_best.into());
            self.event("trial", body);
        }
    }

    /// The table of all trials, the best first.
    pub fn trials(&self, study: &Study) {
        self.line(&table(study));
    }
}

/// Aligned columns: the number, the objective, each parameter, the state, the time. A `*` marks the best trial.
fn table(study: &Study) -> String {
    let trials = study.ranked();
    let mut names: Vec<&str> = Vec::new();
    for name in trials.iter().flat_map(|trial| trial.params.keys()) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let best = study.best().map(|trial| trial.number);
    let head = ["  trial", "objective"].into_iter().chain(names.iter().copied()).chain(["state", "time"]);
    let mut rows: Vec<Vec<String>> = vec![head.map(str::to_string).collect()];
    for trial in trials {
        let mark = if best == Some(trial.number) { "* " } else { "  " };
        let params =
            names.iter().map(|name| trial.params.get(*name).map_or("-".into(), |value| lines::cell(&value.to_json())));
        let objective = trial.value.map_or("-".into(), |value| lines::cell(&value.into()));
        let cells = [format!("{mark}{}", trial.number), objective].into_iter().chain(params);
        rows.push(cells.chain([trial.state.as_str().to_lowercase(), lines::seconds(trial.seconds)]).collect());
    }
    let n_columns = rows[0].len();
    let widths: Vec<usize> =
        (0..n_columns).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            // The first column and the state are words, the others numbers.
            if column == 0 || column + 2 == n_columns { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Value as Cell;
    use crate::train::search::Direction;
    use crate::train::search::space::Distribution;

    #[test]
    fn the_best_trial_is_first_and_marked() {
        let mut study = Study::new(Direction::Maximize, 1);
        let outcomes = [(State::Complete, 0.5), (State::Pruned, 0.9), (State::Complete, 0.75), (State::Fail, f64::NAN)];
        for (number, (state, value)) in outcomes.into_iter().enumerate() {
            study.begin();
            let choices = vec![Cell::Int(8 << number)];
            study.suggest(number, "batch", Distribution::categorical("batch", choices).unwrap()).unwrap();
            study.report(number, 10, value);
            study.finish(number, state, Some(value));
            study.trials[number].seconds = 1.5;
        }
        assert_eq!(
            table(&study),
            "  trial  objective  batch  state       time\n\
             * 2         0.7500     32  complete  1.50 s\n\
             \x20 0         0.5000      8  complete  1.50 s\n\
             \x20 1         0.9000     16  pruned    1.50 s\n\
             \x20 3              -     64  fail      1.50 s"
        );
    }
}
