//! How numbers, log lines and bars look to people. Everything is rounded here and nowhere else: events and
//! `log_history` keep full precision.

use serde_json::{Map, Value};

use super::streams::Look;

/// A number in about four significant digits. Null is a number that JSON cannot hold: NaN or infinity.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "nan".into(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => float(number.as_f64().unwrap_or(f64::NAN)),
        Value::Array(values) => format!("[{}]", values.iter().map(cell).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(key, value)| format!("{key}: {}", cell(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

/// Four decimals below ten, fewer above; the scientific form for the very small and the very large.
fn float(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size < 1e-3 => scientific(value, 2),
        size if size < 10.0 => format!("{value:.4}"),
        size if size < 1e3 => format!("{value:.2}"),
        size if size < 1e6 => format!("{value:.1}"),
        _ => scientific(value, 2),
    }
}

/// As Python writes it: `9.1e-05`.
fn scientific(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$e}");
    match text.split_once('e') {
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
        None => text,
    }
}

/// One log line: `step  50  epoch  0.27  loss 0.5263  grad_norm  3.21  lr 9.1e-05`. `step_digits` aligns the steps of a run.
pub(super) fn log(logs: &Map<String, Value>, step_digits: usize) -> String {
    if logs.contains_key("train_runtime") {
        return training_ended(logs);
    }
    let mut parts = place(logs, step_digits);
    parts.extend(logs.iter().filter(|(key, _)| !is_place(key)).map(|(key, value)| field(key, value)));
    parts.join("  ")
}

/// One evaluation line: where in the run, the metrics, and how long it took.
pub(super) fn evaluation(metrics: &Map<String, Value>, step_digits: usize) -> String {
    let mut parts = place(metrics, step_digits);
    let shown = metrics.iter().filter(|(key, _)| !is_place(key) && !is_speed(key));
    parts.extend(shown.map(|(key, value)| field(key, value)));
    parts.extend(speed(metrics, ""));
    parts.join("  ")
}

fn training_ended(logs: &Map<String, Value>) -> String {
    let mut parts = vec!["trained".to_string()];
    parts.extend(place(logs, 0));
    parts.extend(logs.get("train_loss").map(|loss| field("train_loss", loss)));
    parts.extend(speed(logs, " samples"));
    parts.join("  ")
}

fn place(logs: &Map<String, Value>, step_digits: usize) -> Vec<String> {
    let step = logs.get("step").map(|step| format!("step {:>step_digits$}", cell(step)));
    let epoch = logs.get("epoch").and_then(Value::as_f64).map(|epoch| format!("epoch {epoch:>5.2}"));
    step.into_iter().chain(epoch).collect()
}

fn is_place(key: &str) -> bool {
    key == "step" || key == "epoch"
}

fn is_speed(key: &str) -> bool {
    ["_runtime", "_samples_per_second", "_steps_per_second", "_tokens_per_second"].iter().any(|end| key.ends_with(end))
}

/// `(1.20 s, 417/s)`, where the keys are there: short, so that a line with two metrics fits 80 columns.
fn speed(logs: &Map<String, Value>, unit: &str) -> Option<String> {
    let number = |end: &str| logs.iter().find(|(key, _)| key.ends_with(end)).and_then(|(_, value)| value.as_f64());
    let runtime = number("_runtime")?;
    let samples = number("_samples_per_second").map(|rate| {
        let decimals = if rate < 10.0 { 2 } else { usize::from(rate < 100.0) };
        format!(", {rate:.decimals$}{unit}/s")
    });
    Some(format!("({}{})", seconds(runtime), samples.unwrap_or_default()))
}

fn field(key: &str, value: &Value) -> String {
    let number = value.as_f64();
    match (key, number) {
        ("learning_rate", Some(0.0)) => "lr       0".into(),
        ("learning_rate", Some(rate)) => format!("lr {:>7}", scientific(rate, 1)),
        ("loss", Some(loss)) if loss.abs() < 1e4 => format!("loss {loss:>6.4}"),
        ("grad_norm", Some(norm)) if norm < 1e4 => format!("grad_norm {norm:>5.2}"),
        ("learning_rate", None) => format!("lr {:>7}", cell(value)),
        ("grad_norm", None) => format!("grad_norm {:>5}", cell(value)),
        _ => format!("{key} {:>6}", cell(value)),
    }
}

/// A length of time: `0.41 s`, `12.3 s`, `4:05`, `2:07:31`.
pub(super) fn seconds(seconds: f64) -> String {
    if seconds < 10.0 {
        format!("{seconds:.2} s")
    } else if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        clock(seconds)
    }
}

/// `0:34`, `4:05`, `2:07:31`.
fn clock(seconds: f64) -> String {
    let whole = seconds as u64; // saturates; time left may be absurd after one slow step
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Where a bar stands.
#[derive(Clone, Debug)]
pub(super) struct Standing<'a> {
    pub(super) title: &'a str,
    pub(super) position: usize,
    pub(super) total: usize,
    /// Steps a second, once known.
    pub(super) rate: Option<f64>,
    /// Seconds since the bar began.
    pub(super) elapsed: f64,
    /// Seconds to the end, once known.
    pub(super) left: Option<f64>,
}

/// A bar as one line that is never wider than the terminal: what matters least goes first.
pub(super) fn bar(at: &Standing, look: Look) -> String {
    // The last column stays free: some terminals wrap as soon as it is filled.
    let room = look.width.saturating_sub(1);
    let done = if at.total == 0 { 1.0 } else { (at.position as f64 / at.total as f64).min(1.0) };
    let head = format!("{:<8} {:>3}%", at.title, (done * 100.0).floor());
    let digits = at.total.to_string().len();
    let count = format!("{:>digits$}/{}", at.position, at.total);
    let rate = at
        .rate
        .map(|rate| if rate >= 1.0 { format!("  {rate:>5.2} it/s") } else { format!("  {:>5.2} s/it", 1.0 / rate) });
    let rate = rate.unwrap_or_default();
    let left = at.left.map(|left| format!("{} left", clock(left))).unwrap_or_default();
    let separator = if left.is_empty() { "" } else { ", " };
    let tails = [
        format!("{count}{rate}  {}{separator}{left}", clock(at.elapsed)),
        format!("{count}{rate}  {left}"),
        format!("{count}  {left}"),
        count.clone(),
    ];
    let width = |text: &str| text.chars().count();
    const SHORTEST_BAR: usize = 5;
    const LONGEST_BAR: usize = 40;
    for tail in &tails {
        let open = room.saturating_sub(width(&head) + width(tail) + 2);
        if open >= SHORTEST_BAR {
            let length = open.min(LONGEST_BAR);
            let full = (done * length as f64).floor() as usize;
            let [done, open] = look.glyphs.map(|glyph| glyph.to_string());
            return format!("{head} {}{} {}", done.repeat(full), open.repeat(length - full), tail.trim_end());
        }
    }
    format!("{head} {count}").chars().take(room).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded() {
        for (value, expected) in [
            (0.0, "0"),
            (0.52631, "0.5263"),
            (1.0, "1.0000"),
            (-0.25, "-0.2500"),
            (12.345678, "12.35"),
            (417.25, "417.25"),
            (123456.78, "123456.8"),
            (12345678.0, "1.23e+07"),
            (0.000091, "9.10e-05"),
            (1e-100, "1.00e-100"),
        ] {
            assert_eq!(cell(&value.into()), expected, "{value}");
        }
        assert_eq!(cell(&Value::from(f64::NAN)), "nan");
        assert_eq!(cell(&Value::from(7)), "7");
        assert_eq!(cell(&serde_json::json!([0.5, 1])), "[0.5000, 1]");
    }

    #[test]
    fn times_are_readable() {
        let cases = [(0.4123, "0.41 s"), (12.34, "12.3 s"), (245.0, "4:05"), (7651.9, "2:07:31")];
        for (value, expected) in cases {
            assert_eq!(seconds(value), expected);
        }
    }

    #[test]
    fn a_bar_fits_any_width() {
        let at =
            Standing { title: "train", position: 84, total: 312, rate: Some(6.711), elapsed: 12.9, left: Some(34.0) };
        let line = |width| bar(&at, Look { width, glyphs: ['#', '-'] });
        for (width, expected) in [
            (80, "train     26% #######---------------------  84/312   6.71 it/s  0:12, 0:34 left"),
            (64, "train     26% ###---------  84/312   6.71 it/s  0:12, 0:34 left"),
            (50, "train     26% ####------------  84/312  0:34 left"),
            (40, "train     26% #-----  84/312  0:34 left"),
            (24, "train     26%  84/312"),
            (10, "train    "),
            (0, ""),
        ] {
            assert_eq!(line(width), expected, "{width}");
            assert!(expected.len() < width.max(1), "{width}");
        }
        assert!(line(300).chars().count() < 100, "the bar does not grow without end");
    }

    #[test]
    fn a_slow_or_unknown_rate() {
        let at = Standing { title: "train", position: 0, total: 9, rate: None, elapsed: 3.0, left: None };
        let line = |at: &Standing| bar(at, Look { width: 80, glyphs: ['#', '-'] });
        assert!(line(&at).ends_with(" 0/9  0:03"), "{}", line(&at));
        let at = Standing { rate: Some(0.25), left: Some(36.0), position: 2, ..at };
        assert!(line(&at).ends_with(" 2/9   4.00 s/it  0:03, 0:36 left"), "{}", line(&at));
        let at = Standing { position: 0, total: 0, rate: None, left: None, ..at };
        assert!(line(&at).contains("100%"), "{}", line(&at));
    }
}
