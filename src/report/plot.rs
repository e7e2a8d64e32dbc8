//! The learning-rate finder's curve in characters: the loss over the logarithm of the rate.

use serde_json::{Map, json};

use super::{Reporter, lines};
use crate::train::lr_find::LrFind;

const WIDTH: usize = 60;
const HEIGHT: usize = 12;

impl Reporter {
    /// Reports what the learning-rate finder found: its curve and suggestion for people, and the event `lr_find`.
    pub fn lr_found(&self, found: &LrFind) {
        let mut text = curve(&found.lrs, &found.losses, found.suggestion);
        let cell = |value: f64| lines::cell(&value.into());
        text.push_str(&match (found.suggestion, found.lrs.last()) {
            (Some(rate), _) => format!("suggested learning rate: {}", cell(rate)),
            (None, _) => "no suggestion: too few losses; raise `num_training`".to_string(),
        });
        if let (true, Some(last)) = (found.stopped_early, found.lrs.last()) {
            text.push_str(&format!("; stopped at {}, where the loss had risen too far", cell(*last)));
        }
        self.note(&text);
        let body =
            [("suggestion", json!(found.suggestion)), ("lrs", json!(found.lrs)), ("losses", json!(found.losses))];
        self.event("lr_find", Map::from_iter(body.map(|(key, value)| (key.to_string(), value))));
    }
}

/// The curve with its axes; empty where there is no curve. `^` stands below the suggestion.
fn curve(rates: &[f64], losses: &[f64], suggestion: Option<f64>) -> String {
    let bounds = |values: &[f64]| {
        let finite = values.iter().copied().filter(|value| value.is_finite());
        finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
    };
    let places: Vec<f64> = rates.iter().map(|rate| rate.log10()).collect();
    let ((left, right), (low, high)) = (bounds(&places), bounds(losses));
    if !(left < right && low < high) {
        return String::new();
    }
    let column = |place: f64| (((place - left) / (right - left)) * (WIDTH - 1) as f64).round() as usize;
    let mut grid = [[' '; WIDTH]; HEIGHT];
    for (place, loss) in places.iter().zip(losses).filter(|(_, loss)| loss.is_finite()) {
        let row = ((high - loss) / (high - low) * (HEIGHT - 1) as f64).round() as usize;
        grid[row][column(*place)] = '*';
    }
    let label = |value: f64| format!("{:>9}", lines::cell(&value.into()));
    let mut text = format!("{:>9}\n", "loss");
    for (row, cells) in grid.iter().enumerate() {
        let label = if row == 0 {
            label(high)
        } else if row + 1 == HEIGHT {
            label(low)
        } else {
            " ".repeat(9)
        };
        let cells: String = cells.iter().collect();
        text.push_str(format!("{label} |{cells}").trim_end());
        text.push('\n');
    }
    let mut axis = ['-'; WIDTH];
    if let Some(rate) = suggestion {
        axis[column(rate.log10())] = '^';
    }
    text.push_str(&format!("{:9} +{}\n", "", axis.iter().collect::<String>()));
    let (first, last) = (format!("{:.0e}", rates[0]), format!("{:.0e}", rates[rates.len() - 1]));
    let gap = WIDTH.saturating_sub(first.len() + last.len());
    text.push_str(&format!("{:10} {first}{}{last}\n", "", " ".repeat(gap)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_curve_runs_from_the_upper_left_to_the_lower_right() {
        let rates = [1e-4, 1e-3, 1e-2, 1e-1];
        let text = curve(&rates, &[4.0, 3.0, 2.0, 1.0], Some(1e-2));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + HEIGHT + 2);
        assert_eq!(lines[1], "   4.0000 |*");
        assert_eq!(lines[HEIGHT], format!("   1.0000 |{}*", " ".repeat(WIDTH - 1)));
        assert_eq!(lines[HEIGHT + 1].find('^'), Some(11 + 39));
        assert!(lines[HEIGHT + 2].ends_with("1e-1") && lines[HEIGHT + 2].contains(" 1e-4 "), "{text}");
        assert!(lines.iter().all(|line| line.len() < 80));
    }

    #[test]
    fn there_is_no_curve_of_nothing() {
        assert_eq!(curve(&[], &[], None), "");
        assert_eq!(curve(&[1e-3], &[1.0], None), "");
        assert_eq!(curve(&[1e-3, 1e-2], &[1.0, 1.0], None), "");
        assert_eq!(curve(&[0.0, 1e-2], &[2.0, 1.0], None), "");
        assert!(curve(&[1e-4, 1e-3, 1e-2], &[1.0, f64::NAN, 2.0], None).contains('*'));
    }
}
