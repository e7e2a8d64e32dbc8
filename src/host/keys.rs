//! Keys that steer a run from its terminal: `p` pause, `e` evaluate, `s` save, `q` stop, `l` set the learning rate.
//!
//! Letters flow in while a terminal is there, requests for the moment between two updates flow out. The terminal reads letter
//! by letter meanwhile; it is set back when the run ends, when it panics, and before a signal from the keyboard does its work.

/// What the keys are, for people.
pub const HELP: &str = "keys: p pause, e evaluate, s save, q stop, l learning rate";

#[cfg(unix)]
pub use unix::{Keys, listen, restore};

#[cfg(unix)]
mod unix {
    use std::io::IsTerminal;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex, Once, PoisonError};
    use std::thread::JoinHandle;

    use rustix::process::{Signal, getpid, kill_process};
    use rustix::stdio::stdin;
    use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

    use crate::api::live::{Live, Request, unanswered};
    use crate::data::Value;
    use crate::report::{Prompt, Reporter};

    /// The terminal as it was, while it is another way.
    static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

    /// Listens for as long as it lives.
    pub struct Keys {
        live: Arc<Mutex<Live>>,
        ended: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    }

    /// Listens to the terminal, where stdin and stderr are one and the process is in front.
    pub fn listen(live: Live, reporter: Reporter) -> Option<Keys> {
        let in_front = rustix::termios::tcgetpgrp(stdin()).is_ok_and(|group| group == rustix::process::getpgrp());
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() || !in_front || !letters() {
            return None;
        }
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                before(panic);
            }));
        });
        let ended = Arc::new(AtomicBool::new(false));
        let live = Arc::new(Mutex::new(live));
        let mut listener = Listener { live: live.clone(), reporter, typed: None, ended: ended.clone() };
        match std::thread::Builder::new().name("keys".into()).spawn(move || listener.listen()) {
            Ok(thread) => Some(Keys { live, ended, thread: Some(thread) }),
            Err(_) => {
                restore();
                None
            }
        }
    }

    impl Keys {
        /// Steers another run from now on.
        pub fn turn_to(&self, live: Live) {
            *self.live.lock().unwrap_or_else(PoisonError::into_inner) = live;
        }
    }

    impl Drop for Keys {
        fn drop(&mut self) {
            self.ended.store(true, Ordering::Release);
            // A listener that is left behind would take the next letter from whoever reads after it.
            if let Some(thread) = self.thread.take() {
                let _ = thread.join();
            }
            restore();
        }
    }

    /// Lets the terminal give letters as they are typed, without showing them.
    fn letters() -> bool {
        let Ok(mut terminal) = tcgetattr(stdin()) else { return false };
        let before = terminal.clone();
        terminal.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        // A read returns after a tenth of a second without a letter.
        terminal.special_codes[SpecialCodeIndex::VMIN] = 0;
        terminal.special_codes[SpecialCodeIndex::VTIME] = 1;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        tcsetattr(stdin(), OptionalActions::Now, &terminal).is_ok()
    }

    /// Sets the terminal back.
    pub fn restore() {
        if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A terminal that is gone needs nothing.
            let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
        }
    }

    struct Listener {
        live: Arc<Mutex<Live>>,
        reporter: Reporter,
        /// The learning rate that is being typed.
        typed: Option<(String, Prompt)>,
        ended: Arc<AtomicBool>,
    }

    impl Listener {
        fn live(&self) -> Live {
            self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }

        fn listen(&mut self) {
            let mut letter = [0u8];
            while !self.ended.load(Ordering::Acquire) {
                match rustix::io::read(stdin(), &mut letter) {
                    Ok(1) => self.key(letter[0]),
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(_) => return,
                }
            }
        }

        fn key(&mut self, key: u8) {
            match key {
                3 => return self.signal(Signal::INT),
                26 => return self.signal(Signal::TSTP),
                28 => return self.signal(Signal::QUIT),
                _ => {}
            }
            if self.typed.is_some() {
                return self.typing(key);
            }
            match key {
                b'p' => self.live().ask(Request::Pause(unanswered())),
                b'e' => self.live().ask(Request::Evaluate(unanswered())),
                b's' => self.live().ask(Request::Save(unanswered())),
                b'q' => self.live().ask(Request::Stop(unanswered())),
                b'l' => {
                    let prompt = self.reporter.prompt("learning rate (Enter sets it, Esc leaves it): ");
                    self.typed = Some((String::new(), prompt));
                }
                _ => {}
            }
        }

        fn typing(&mut self, key: u8) {
            let Some((typed, prompt)) = &mut self.typed else { return };
            match key {
                b'0'..=b'9' | b'.' | b'e' | b'E' | b'-' | b'+' => typed.push(char::from(key)),
                8 | 127 => drop(typed.pop()),
                b'\r' | b'\n' => {
                    let number = typed.parse::<f64>();
                    self.typed = None;
                    match number {
                        Ok(rate) => {
                            let pairs = vec![("learning_rate".to_string(), Value::Float(rate))];
                            let live = self.live();
                            live.ask(Request::Set(pairs, live.settings().policy, unanswered()));
                        }
                        Err(_) => self.reporter.note("that is no number: the learning rate stays"),
                    }
                    return;
                }
                27 => {
                    self.typed = None;
                    return;
                }
                _ => {}
            }
            prompt.show(typed);
        }

        /// What the terminal itself would do: the run gets the signal with the terminal as it was.
        fn signal(&mut self, signal: Signal) {
            self.typed = None;
            restore();
            let _ = kill_process(getpid(), signal);
            // Who comes back from a stop, or handles the signal, listens again.
            if !self.ended.load(Ordering::Acquire) {
                letters();
            }
        }
    }
}

/// There are no such terminals on this system.
#[cfg(not(unix))]
pub struct Keys;

#[cfg(not(unix))]
impl Keys {
    /// Does nothing.
    pub fn turn_to(&self, _live: crate::api::live::Live) {}
}

/// There are no such terminals on this system.
#[cfg(not(unix))]
pub fn listen(_live: crate::api::live::Live, _reporter: crate::report::Reporter) -> Option<Keys> {
    None
}
