//! What people and programs see: captured text and events, and bars on an emulated terminal.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking; clippy exempts only the test functions themselves")]

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use indicatif::TermLike;
use retune::report::{LoadReport, Output, Progress, Reporter, Streams};
use serde_json::{Map, Value, json};

const TEXT: Output = Output { json: false, quiet: false };
const JSON: Output = Output { json: true, quiet: false };
const QUIET: Output = Output { json: false, quiet: true };
const QUIET_JSON: Output = Output { json: true, quiet: true };

fn map(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("{value} is no map") };
    map
}

/// The events on stdout; each line must be an object of its own.
fn events(reporter: &Reporter) -> Vec<Value> {
    reporter.captured().stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn run(reporter: &Reporter) -> Progress {
    let progress = reporter.training(312, 0);
    progress.advance(50, 50.0 / 104.0);
    progress.log(&map(json!({"loss": 0.526312345, "grad_norm": 3.2148, "learning_rate": 9.1e-5})));
    progress.advance(104, 1.0);
    let evaluation = progress.evaluation(2, "evaluate");
    evaluation.advance();
    evaluation.advance();
    evaluation.finish();
    progress.evaluated(&map(json!({
        "eval_loss": 0.45118, "eval_accuracy": 0.822, "eval_runtime": 1.1987, "eval_samples_per_second": 417.1
    })));
    progress.save(Path::new("output/checkpoint-104"));
    progress
}

fn finish(reporter: &Reporter, progress: &Progress) {
    progress.advance(312, 3.0);
    progress.log(&map(json!({
        "train_runtime": 46.512, "train_samples_per_second": 107.6, "train_steps_per_second": 6.7, "train_loss": 0.3512
    })));
    progress.finish();
    reporter.set_result("output_dir", "output".into());
    reporter.finish();
}

#[test]
fn text_mode_has_lines_for_people() {
    let reporter = Reporter::capture();
    reporter.line("printed by the script");
    reporter.note("a note");
    reporter.warning("mind the gap");
    let progress = run(&reporter);
    finish(&reporter, &progress);
    reporter.finish();
    let captured = reporter.captured();
    assert_eq!(
        captured.stderr,
        "a note
warning: mind the gap
step  50  epoch  0.48  loss 0.5263  grad_norm  3.21  lr 9.1e-05
step 104  epoch  1.00  eval_loss 0.4512  eval_accuracy 0.8220  (1.20 s, 417/s)
step 104  epoch  1.00  saved output/checkpoint-104
trained  step 312  epoch  3.00  train_loss 0.3512  (46.5 s, 108 samples/s)
"
    );
    assert_eq!(
        captured.stdout,
        "printed by the script

summary
  eval_loss                 0.4512
  eval_accuracy             0.8220
  eval_runtime              1.20 s
  eval_samples_per_second   417.10
  train_runtime             46.5 s
  train_samples_per_second  107.60
  train_steps_per_second    6.7000
  train_loss                0.3512
  output_dir                output
"
    );
}

#[test]
fn json_mode_has_events_at_full_precision() {
    let reporter = Reporter::capture_as(JSON);
    reporter.line("printed by the script");
    reporter.warning("mind the gap");
    let progress = run(&reporter);
    reporter.error("error: too bad", map(json!({"message": "too bad", "event": "not this"})));
    finish(&reporter, &progress);
    reporter.finish();
    let metrics = json!({
        "eval_loss": 0.45118, "eval_accuracy": 0.822, "eval_runtime": 1.1987, "eval_samples_per_second": 417.1, "epoch": 1.0
    });
    let train = json!({
        "train_runtime": 46.512, "train_samples_per_second": 107.6, "train_steps_per_second": 6.7, "train_loss": 0.3512,
        "epoch": 3.0
    });
    let with_event = |event: &str, step: usize, body: &Value| {
        let mut all = map(json!({ "event": event, "step": step }));
        all.extend(map(body.clone()));
        Value::Object(all)
    };
    let expected = [
        json!({"event": "warning", "message": "mind the gap"}),
        json!({"event": "log", "step": 50, "loss": 0.526312345, "grad_norm": 3.2148, "learning_rate": 9.1e-5,
               "epoch": 0.4807692307692308}),
        with_event("evaluate", 104, &metrics),
        json!({"event": "save", "step": 104, "path": "output/checkpoint-104"}),
        json!({"event": "error", "message": "too bad"}),
        with_event("log", 312, &train),
        json!({"event": "result", "metrics": metrics, "train": train, "output_dir": "output",
               "time_to_first_step_s": null}),
    ];
    assert_eq!(events(&reporter), expected);
    let first_keys = reporter.captured().stdout.lines().all(|line| line.starts_with(r#"{"event":"#));
    assert!(first_keys, "the event's name comes first");
    let people = reporter.captured().stderr;
    for text in ["printed by the script\n", "warning: mind the gap\n", "loss 0.5263", "error: too bad\n", "summary\n"] {
        assert!(people.contains(text), "{text:?} is missing in {people}");
    }
}

#[test]
fn quiet_leaves_prints_warnings_and_events() {
    for (output, stdout_lines) in [(QUIET, 1), (QUIET_JSON, 6)] {
        let reporter = Reporter::capture_as(output);
        reporter.line("printed");
        reporter.note("a note");
        reporter.warning("mind the gap");
        let progress = run(&reporter);
        finish(&reporter, &progress);
        let captured = reporter.captured();
        assert_eq!(captured.stdout.lines().count(), stdout_lines, "{}", captured.stdout);
        let people = if output.json { "printed\nwarning: mind the gap\n" } else { "warning: mind the gap\n" };
        assert_eq!(captured.stderr, people);
    }
}

#[test]
fn numbers_that_json_cannot_hold_are_null() {
    let reporter = Reporter::capture_as(JSON);
    let progress = reporter.training(10, 0);
    progress.advance(1, 0.1);
    progress.log(&map(json!({"loss": f64::NAN, "grad_norm": f64::INFINITY, "learning_rate": 0.0})));
    let expected =
        json!({"event": "log", "step": 1, "loss": null, "grad_norm": null, "learning_rate": 0.0, "epoch": 0.1});
    assert_eq!(events(&reporter), [expected]);
    assert_eq!(reporter.captured().stderr, "step  1  epoch  0.10  loss    nan  grad_norm   nan  lr       0\n");
}

#[test]
fn nothing_trained_is_a_result_too() {
    let reporter = Reporter::capture_as(JSON);
    reporter.finish();
    let expected =
        json!({"event": "result", "metrics": {}, "train": {}, "output_dir": null, "time_to_first_step_s": null});
    assert_eq!(events(&reporter), [expected]);
    let reporter = Reporter::capture();
    reporter.finish();
    assert_eq!(reporter.captured(), Default::default());
}

#[test]
fn the_first_step_is_timed_once_and_from_the_start_of_the_process() {
    let reporter = Reporter::capture_as(JSON);
    let measured = retune::report::clock::process_start().elapsed().as_secs_f64();
    reporter.first_step_done();
    reporter.first_step_done();
    reporter.finish();
    let time = events(&reporter)[0]["time_to_first_step_s"].as_f64().unwrap();
    assert!(time >= measured && time < measured + 60.0, "{time}");
}

#[test]
fn loading_names_what_matters() {
    let names = |prefix: &str, count: usize| (0..count).map(|at| format!("{prefix}.{at}")).collect::<Vec<_>>();
    let mut report = LoadReport {
        name: "std/minilm-tiny".into(),
        matched: 37,
        dtype_from: "F16".into(),
        parameters: 4_386_178,
        seconds: 0.0213,
        ..LoadReport::default()
    };
    let text = |report: &LoadReport| {
        let reporter = Reporter::capture();
        reporter.loading(report);
        reporter.captured().stderr
    };
    let head = "loaded std/minilm-tiny: 37 tensors (F16), 4,386,178 parameters, 0.02 s\n";
    assert_eq!(text(&report), head);
    report.new = vec!["classifier.weight".into(), "classifier.bias".into()];
    report.unused = names("cls.predictions", 7);
    let expected = "  newly initialised: classifier.weight, classifier.bias; train the model before you use it
  not used: cls.predictions.0, cls.predictions.1, cls.predictions.2, cls.predictions.3 and 3 more
";
    assert_eq!(text(&report), format!("{head}{expected}"));
    report.new.clear();
    report.unused = names("cls", 5);
    report.mismatched = vec![("classifier.weight".into(), vec![2, 128], vec![3, 128])];
    let expected = "  another shape: classifier.weight [2, 128] in the file, [3, 128] in the model
  newly initialised: classifier.weight; train the model before you use it
  not used: cls.0, cls.1, cls.2, cls.3, cls.4
";
    assert_eq!(text(&report), format!("{head}{expected}"));
    report.unused = names("cls", 9);
    let reporter = Reporter::capture_as(JSON);
    reporter.loading(&report);
    let event = &events(&reporter)[0];
    assert_eq!(event["event"], "load");
    assert_eq!(event["unused"].as_array().unwrap().len(), 9, "the event has every name");
    assert_eq!(event["mismatched"], json!([{"name": "classifier.weight", "file": [2, 128], "model": [3, 128]}]));
}

/// A stream whose reader has gone.
struct Broken(Arc<Mutex<usize>>);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        *self.0.lock().unwrap() += 1;
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

#[test]
fn a_broken_pipe_is_left_alone() {
    let (tries, terminal) = (Arc::new(Mutex::new(0)), Terminal::new(80));
    let streams = Streams {
        stdout: Box::new(Broken(tries.clone())),
        stderr: Box::new(terminal.clone()),
        bars: Some(Box::new(BrokenTerminal)),
    };
    let reporter = Reporter::to_streams(TEXT, streams);
    let progress = run(&reporter);
    reporter.line("nobody reads this");
    reporter.line("nor this");
    finish(&reporter, &progress);
    assert_eq!(*tries.lock().unwrap(), 1, "the first failure ends it");
    assert!(terminal.shown().contains("loss 0.5263"), "the other stream goes on");
}

#[derive(Debug)]
struct BrokenTerminal;

impl TermLike for BrokenTerminal {
    fn width(&self) -> u16 {
        80
    }
    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn write_line(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn write_str(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn clear_line(&self) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&self) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

/// A terminal of endless height: a grid, a cursor, and wrapping at the right edge as xterm does it.
#[derive(Clone, Debug)]
struct Terminal(Arc<Mutex<Grid>>);

#[derive(Debug)]
struct Grid {
    width: usize,
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

impl Terminal {
    fn new(width: usize) -> Self {
        Terminal(Arc::new(Mutex::new(Grid { width, rows: vec![vec![]], row: 0, column: 0 })))
    }

    /// The rows without trailing blanks, and without empty rows at the end.
    fn shown(&self) -> String {
        let grid = self.0.lock().unwrap();
        let rows: Vec<String> =
            grid.rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_string()).collect();
        rows.join("\n").trim_end().to_string()
    }

    fn put(&self, text: &str) {
        let mut grid = self.0.lock().unwrap();
        for letter in text.chars() {
            if letter == '\r' {
                grid.column = 0;
                continue;
            }
            if letter == '\n' || grid.column == grid.width {
                grid.row += 1;
                grid.column = 0;
            }
            let (row, column) = (grid.row, grid.column);
            if grid.rows.len() <= row {
                grid.rows.resize(row + 1, vec![]);
            }
            if letter != '\n' {
                let cells = &mut grid.rows[row];
                cells.resize(cells.len().max(column + 1), ' ');
                cells[column] = letter;
                grid.column += 1;
            }
        }
    }

    fn move_by(&self, rows: isize, columns: isize) -> io::Result<()> {
        let mut grid = self.0.lock().unwrap();
        grid.row = grid.row.saturating_add_signed(rows).min(grid.rows.len() - 1);
        grid.column = grid.column.saturating_add_signed(columns).min(grid.width - 1);
        Ok(())
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        self.0.lock().unwrap().width as u16
    }
    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.move_by(-(n as isize), 0)
    }
    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.move_by(n as isize, 0)
    }
    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.move_by(0, n as isize)
    }
    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.move_by(0, -(n as isize))
    }
    fn write_line(&self, text: &str) -> io::Result<()> {
        self.put(text);
        self.put("\n");
        Ok(())
    }
    fn write_str(&self, text: &str) -> io::Result<()> {
        self.put(text);
        Ok(())
    }
    fn clear_line(&self) -> io::Result<()> {
        let mut grid = self.0.lock().unwrap();
        let row = grid.row;
        grid.rows[row].clear();
        grid.column = 0;
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(std::str::from_utf8(bytes).unwrap());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reporter whose three streams share one emulated terminal, as they do for people.
fn on_terminal(output: Output, width: usize) -> (Reporter, Terminal) {
    let terminal = Terminal::new(width);
    let streams = Streams {
        stdout: Box::new(terminal.clone()),
        stderr: Box::new(terminal.clone()),
        bars: Some(Box::new(terminal.clone())),
    };
    (Reporter::to_streams(output, streams), terminal)
}

#[test]
fn lines_appear_above_the_bars_and_bars_leave_no_trace() {
    let (reporter, terminal) = on_terminal(TEXT, 80);
    let progress = reporter.training(312, 0);
    progress.advance(50, 0.5);
    reporter.line("printed by a callback");
    progress.log(&map(json!({"loss": 0.5})));
    let rows = |terminal: &Terminal| terminal.shown().lines().map(str::to_string).collect::<Vec<_>>();
    let lines = ["printed by a callback", "step  50  epoch  0.50  loss 0.5000"];
    assert_eq!(rows(&terminal)[..2], lines, "{}", terminal.shown());
    assert_eq!(rows(&terminal).len(), 3, "{}", terminal.shown());
    assert!(rows(&terminal)[2].starts_with("train     16% ━"), "{}", terminal.shown());
    assert!(rows(&terminal)[2].contains(" 50/312 "), "{}", terminal.shown());

    let evaluation = progress.evaluation(4, "evaluate");
    evaluation.advance();
    reporter.line("two\nlines");
    let shown = rows(&terminal);
    assert_eq!(shown[2..4], ["two", "lines"], "{shown:?}");
    assert_eq!(shown.len(), 6, "{shown:?}");
    assert!(shown[4].starts_with("train     16%"), "{shown:?}");
    assert!(shown[5].starts_with("evaluate  25% ━") && shown[5].contains(" 1/4"), "{shown:?}");
    drop(evaluation);
    assert_eq!(rows(&terminal).len(), 5, "{}", terminal.shown());

    progress.finish();
    drop(progress);
    reporter.line("the end");
    assert_eq!(rows(&terminal)[2..], ["two", "lines", "the end"], "{}", terminal.shown());
}

#[test]
fn bars_fit_narrow_terminals() {
    for width in [8, 20, 40, 60, 200] {
        let (reporter, terminal) = on_terminal(TEXT, width);
        let progress = reporter.training(312, 0);
        for step in 1..=60 {
            progress.advance(step, 0.5);
        }
        let evaluation = progress.evaluation(4, "evaluate");
        evaluation.advance();
        assert_eq!(terminal.shown().lines().count(), 2, "{width}:\n{}", terminal.shown());
        drop(evaluation);
        drop(progress);
        assert_eq!(terminal.shown(), "", "{width}");
    }
}

#[test]
fn long_lines_above_the_bar_stay_whole() {
    let (reporter, terminal) = on_terminal(TEXT, 40);
    let progress = reporter.training(312, 0);
    progress.advance(1, 0.5);
    let text = "x".repeat(100);
    reporter.line(&text);
    progress.advance(2, 0.5);
    let shown: Vec<String> = terminal.shown().lines().map(str::to_string).collect();
    assert_eq!(shown[..3].concat(), text, "{}", terminal.shown());
    assert_eq!(shown.len(), 4, "{}", terminal.shown());
}

#[test]
fn quiet_draws_no_bars() {
    let (reporter, terminal) = on_terminal(QUIET, 80);
    let progress = run(&reporter);
    assert_eq!(terminal.shown(), "");
    finish(&reporter, &progress);
    assert_eq!(terminal.shown(), "");
}

#[test]
fn a_resumed_run_starts_where_it_was() {
    let (reporter, terminal) = on_terminal(TEXT, 80);
    let progress = reporter.training(300, 150);
    assert!(terminal.shown().starts_with("train     50% ━"), "{}", terminal.shown());
    progress.set_total(200);
    assert!(terminal.shown().contains(" 150/200 "), "{}", terminal.shown());
}
