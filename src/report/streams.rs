//! Where text goes: stdout, stderr and the bars, one line at a time.
//!
//! A stream whose reader has gone is left alone from then on: a broken pipe ends the output, not the run.
//! Before anything is written the bars are taken away, and drawn again below it.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use console::{Style, Term};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

/// Streams of one's own for a reporter.
pub struct Streams {
    /// Where stdout goes.
    pub stdout: Box<dyn Write + Send>,
    /// Where stderr goes.
    pub stderr: Box<dyn Write + Send>,
    /// The terminal that bars are drawn on; none where stderr is not a terminal.
    pub bars: Option<Box<dyn TermLike>>,
}

/// What a capturing reporter was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// What went to stdout.
    pub stdout: String,
    /// What went to stderr.
    pub stderr: String,
}

pub(super) struct Screen {
    stdout: Mutex<Stream>,
    stderr: Mutex<Stream>,
    bars: Option<Bars>,
    colours: bool,
    captured: Option<[Buffer; 2]>,
}

struct Bars {
    all: MultiProgress,
    terminal: Arc<dyn TermLike>,
    glyphs: [char; 2],
    timer: Option<Duration>,
}

/// What a bar needs to know of the terminal to draw itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Columns.
    pub(super) width: usize,
    /// What the done and the open part of a bar are made of.
    pub(super) glyphs: [char; 2],
}

impl Screen {
    pub(super) fn terminal(with_bars: bool) -> Self {
        // A dumb terminal cannot move its cursor.
        let term = Term::buffered_stderr();
        let can_draw = term.is_term() && std::env::var("TERM").is_ok_and(|kind| kind != "dumb");
        let streams = Streams {
            stdout: Box::new(io::stdout()),
            stderr: Box::new(io::stderr()),
            bars: can_draw.then(|| Box::new(term) as Box<dyn TermLike>),
        };
        let mut screen = Screen::to_streams(streams, with_bars);
        screen.colours = console::colors_enabled_stderr();
        if let Some(bars) = &mut screen.bars {
            // On a timer the clock runs on through a step of several seconds.
            bars.timer = Some(Duration::from_millis(100));
            if !locale_is_utf8() {
                bars.glyphs = ['#', '-'];
            }
        }
        screen
    }

    pub(super) fn capture() -> Self {
        let buffers = [Buffer::default(), Buffer::default()];
        let [stdout, stderr] = buffers.clone().map(|buffer| Box::new(buffer) as Box<dyn Write + Send>);
        let mut screen = Screen::to_streams(Streams { stdout, stderr, bars: None }, false);
        screen.captured = Some(buffers);
        screen
    }

    pub(super) fn to_streams(streams: Streams, with_bars: bool) -> Self {
        let bars = streams.bars.filter(|_| with_bars).map(|terminal| {
            let terminal: Arc<dyn TermLike> = terminal.into();
            let target = ProgressDrawTarget::term_like(Box::new(Patient(terminal.clone())));
            let all = MultiProgress::with_draw_target(target);
            Bars { all, terminal, glyphs: ['━', '─'], timer: None }
        });
        let stream = |writer| Mutex::new(Stream { writer, open: true });
        Screen { stdout: stream(streams.stdout), stderr: stream(streams.stderr), bars, colours: false, captured: None }
    }

    pub(super) fn stdout(&self, text: &str) {
        self.write(&self.stdout, text);
    }

    pub(super) fn stderr(&self, text: &str) {
        self.write(&self.stderr, text);
    }

    fn write(&self, stream: &Mutex<Stream>, text: &str) {
        let write = || stream.lock().unwrap_or_else(PoisonError::into_inner).write_line(text);
        match &self.bars {
            Some(bars) => bars.all.suspend(write),
            None => write(),
        }
    }

    pub(super) fn captured(&self) -> Captured {
        let Some([stdout, stderr]) = &self.captured else { return Captured::default() };
        Captured { stdout: stdout.text(), stderr: stderr.text() }
    }

    pub(super) fn painted(&self, text: &str, style: Style) -> String {
        if self.colours { style.force_styling(true).apply_to(text).to_string() } else { text.to_string() }
    }

    /// A bar below those that are there; `line` gives its text. None where bars are not shown.
    pub(super) fn bar(&self, line: impl Fn(Look) -> String + Clone + Send + Sync + 'static) -> Option<ProgressBar> {
        let bars = self.bars.as_ref()?;
        let (terminal, glyphs) = (bars.terminal.clone(), bars.glyphs);
        let write = move |_: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
            let look = Look { width: usize::from(terminal.width()), glyphs };
            // The formatter writes to a string, which cannot fail.
            let _ = out.write_str(&line(look));
        };
        let style = ProgressStyle::with_template("{line}").expect("the template is valid").with_key("line", write);
        let bar = bars.all.add(ProgressBar::no_length().with_style(style));
        match bars.timer {
            Some(interval) => bar.enable_steady_tick(interval),
            None => bar.tick(),
        }
        Some(bar)
    }
}

/// POSIX: the first of the three that is set and not empty decides.
fn locale_is_utf8() -> bool {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_ascii_lowercase();
    cfg!(not(unix)) || locale.contains("utf-8") || locale.contains("utf8")
}

struct Stream {
    writer: Box<dyn Write + Send>,
    open: bool,
}

impl Stream {
    fn write_line(&mut self, text: &str) {
        if self.open {
            let written = self.writer.write_all(format!("{text}\n").as_bytes()).and_then(|()| self.writer.flush());
            self.open = written.is_ok();
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A terminal whose errors are ignored: indicatif panics on them, and a terminal that has gone is no reason to stop a run.
#[derive(Debug)]
struct Patient(Arc<dyn TermLike>);

impl TermLike for Patient {
    fn width(&self) -> u16 {
        self.0.width()
    }
    fn height(&self) -> u16 {
        self.0.height()
    }
    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_up(n).or(Ok(()))
    }
    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_down(n).or(Ok(()))
    }
    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_right(n).or(Ok(()))
    }
    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_left(n).or(Ok(()))
    }
    fn write_line(&self, text: &str) -> io::Result<()> {
        self.0.write_line(text).or(Ok(()))
    }
    fn write_str(&self, text: &str) -> io::Result<()> {
        self.0.write_str(text).or(Ok(()))
    }
    fn clear_line(&self) -> io::Result<()> {
        self.0.clear_line().or(Ok(()))
    }
    fn flush(&self) -> io::Result<()> {
        self.0.flush().or(Ok(()))
    }
}
