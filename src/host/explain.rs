//! From a script error to a [`Diagnostic`]: words for people, the trail of calls, and a hint.
//!
//! Rhai nests an error in the calls and imports it came through; each layer knows the script that the layers
//! inside it belong to. Library errors travel inside script errors and keep their own places and hints.

use rhai::{Engine, EvalAltResult, Position};

use crate::error::{Error, Place, What, nearest};
use crate::host::diagnostics::{Diagnostic, Frame, Location};
use crate::host::limits::MAX_CALL_LEVELS;
use crate::host::mistakes::{self, lowered};
use crate::host::names::Api;
use crate::host::sources::Sources;

/// Exit code for errors of a script's own making (sysexits' EX_CONFIG).
const SCRIPT: u8 = 78;

/// Explains an error of the script `name`.
pub fn explain(error: &EvalAltResult, engine: &Engine, sources: &Sources, name: &str) -> Box<Diagnostic> {
    let mut walk = Walk::new(engine, sources, name);
    walk.enter(error);
    walk.finish()
}

/// Explains an error of the library that was raised outside any script; it may carry a script error.
pub fn explain_error(error: &Error, engine: &Engine, sources: &Sources, name: &str) -> Box<Diagnostic> {
    let mut walk = Walk::new(engine, sources, name);
    walk.library_error(error, Position::NONE);
    walk.finish()
}

struct Walk<'a> {
    engine: &'a Engine,
    sources: &'a Sources,
    /// The script that positions belong to.
    file: String,
    /// The function that positions are in.
    function: Option<String>,
    diagnostic: Diagnostic,
}

impl<'a> Walk<'a> {
    fn new(engine: &'a Engine, sources: &'a Sources, name: &str) -> Self {
        Walk { engine, sources, file: name.to_string(), function: None, diagnostic: Diagnostic::default() }
    }

    fn finish(self) -> Box<Diagnostic> {
        let mut diagnostic = self.diagnostic;
        diagnostic.trail.reverse();
        // Without a position of its own, an error happened where the innermost call is.
        if diagnostic.location.is_none() && !diagnostic.trail.is_empty() {
            diagnostic.location = Some(diagnostic.trail.remove(0).from);
        }
        // A native function that calls a closure is a frame of its own, at the same place.
        diagnostic.trail.dedup_by(|outer, inner| {
            let same = outer.from == inner.from;
            if same {
                inner.within = outer.within.take();
            }
            same
        });
        Box::new(diagnostic)
    }

    fn enter(&mut self, error: &EvalAltResult) {
        use EvalAltResult as E;
        match error {
            E::ErrorInFunctionCall(name, source, inner, position) => {
                self.frame("called", *position);
                if !source.is_empty() {
                    self.file.clone_from(source);
                }
                self.function = Some(name.clone());
                self.enter(inner);
            }
            E::ErrorInModule(path, inner, position) => {
                self.frame("imported", *position);
                self.file.clone_from(path);
                self.function = None;
                self.enter(inner);
            }
            E::ErrorRuntime(value, position) => {
                if let Some(error) = value.read_lock::<Error>() {
                    self.library_error(&error, *position);
                } else {
                    self.thrown(value);
                    self.place(*position);
                }
            }
            other => self.script_error(other),
        }
    }

    fn library_error(&mut self, error: &Error, position: Position) {
        let Some(inner) = inner_script_error(error) else {
            let known = std::mem::take(&mut self.diagnostic);
            self.diagnostic = Diagnostic { trail: known.trail, ..Diagnostic::from(error) };
            self.diagnostic.places.extend(known.places);
            return self.place(position);
        };
        self.frame("called", position);
        self.function = None;
        let scripts = self.sources.names();
        // A task script is named by the place; any other place is about data and stays.
        for place in error.places() {
            match place {
                Place::File { path, line: None, .. }
                    if scripts.iter().any(|name| **name == *path.to_string_lossy()) =>
                {
                    self.file = path.to_string_lossy().into_owned();
                }
                place => self.diagnostic.places.push(place.clone()),
            }
        }
        self.enter(inner);
    }

    /// `throw value`: text is the message; a map may bring `message` and `hint`, as caught errors do.
    fn thrown(&mut self, value: &rhai::Dynamic) {
        let diagnostic = &mut self.diagnostic;
        diagnostic.exit_code = SCRIPT;
        diagnostic.message = value.to_string();
        if value.is_unit() || diagnostic.message.is_empty() {
            diagnostic.message = "the script threw an error without a message".into();
        }
        if let Ok(map) = value.as_map_ref() {
            let text = |key: &str| map.get(key).filter(|value| !value.is_unit()).map(ToString::to_string);
            if let Some(message) = text("message") {
                diagnostic.message = lowered(message.lines().next().unwrap_or_default());
            }
            diagnostic.hint = text("hint");
        }
    }

    fn script_error(&mut self, error: &EvalAltResult) {
        use EvalAltResult as E;
        let (message, hint) = self.words(error);
        self.diagnostic.message = message;
        self.diagnostic.hint = hint;
        self.diagnostic.exit_code = match error {
            E::ErrorParsing(..) => 65,
            _ => SCRIPT,
        };
        self.place(error.position());
        if let (E::ErrorParsing(what, _), Some(location)) = (error, &mut self.diagnostic.location) {
            let text = self.sources.text(&location.file).unwrap_or_default();
            location.column = mistakes::column(what, &text, location.line, location.column);
            // The end of the text is shown at the end of its last line.
            let last = text.trim_end();
            let count = last.lines().count();
            if count > 0 && location.line > count {
                (location.line, location.column) = (count, last.lines().last().unwrap_or_default().chars().count());
            }
        }
    }

    /// What happened and what to do, for the errors that the engine raises itself.
    fn words(&self, error: &EvalAltResult) -> (String, Option<String>) {
        use EvalAltResult as E;
        let items = |count: usize| if count == 1 { "1 item".to_string() } else { format!("{count} items") };
        match error {
            E::ErrorParsing(what, position) => {
                let text = self.sources.text(&self.file).unwrap_or_default();
                let (line, column) = (position.line().unwrap_or(0), position.position().unwrap_or(0));
                let hint = mistakes::hint(what, &text, line, column, &Api::of(self.engine, true));
                (mistakes::message(what), hint)
            }
            E::ErrorVariableNotFound(name, _) => {
                let text = self.sources.text(&self.file).unwrap_or_default();
                let what = rhai::ParseErrorType::VariableUndefined(name.clone());
                (mistakes::message(&what), mistakes::hint(&what, &text, 0, 0, &Api::of(self.engine, true)))
            }
            E::ErrorFunctionNotFound(call, _) => self.unknown_function(call),
            E::ErrorPropertyNotFound(name, _) => {
                let hint = format!("`map.keys()` lists what is there; `\"{name}\" in map` asks for it");
                (format!("the map has no `{name}`"), Some(hint))
            }
            E::ErrorDotExpr(text, _) if text.contains("getter is not registered") => self.unknown_property(text),
            E::ErrorDotExpr(text, _) if text.contains("setter is not registered") => {
                let mut parts = text.split('\'').skip(1).step_by(2);
                let (name, typ) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                (format!("`{name}` of a {} cannot be set", self.type_word(typ)), None)
            }
            E::ErrorIndexingType(text, _) => {
                let typ = text.split(" [").next().unwrap_or(text);
                (format!("a {} cannot be indexed like this", self.type_word(typ)), None)
            }
            E::ErrorMismatchDataType(wanted, got, _) | E::ErrorMismatchOutputType(wanted, got, _) => {
                let (wanted, got) = (self.type_word(wanted), self.type_word(got));
                let hint =
                    (wanted == "bool").then(|| "a condition is true or false: compare, as in `x > 0`".to_string());
                (format!("expected {}, but got {}", with_article(&wanted), with_article(&got)), hint)
            }
            E::ErrorArrayBounds(count, index, _) => (
                format!("there is no item {index}: the array has {}", items(*count)),
                Some("items are counted from 0".into()),
            ),
            E::ErrorStringBounds(count, index, _) => (
                format!("there is no character {index}: the string has {count}"),
                Some("characters are counted from 0".into()),
            ),
            E::ErrorFor(_) => (
                "this is not something `for` can go through".into(),
                Some("`for i in 0..n` counts; arrays, ranges and data sets can be gone through".into()),
            ),
            E::ErrorAssignmentToConstant(name, _) => (
                format!("`{name}` is a constant and cannot be changed"),
                Some(format!("declare it with `let {name} = ...;`")),
            ),
            E::ErrorStackOverflow(_) => (
                format!("calls are nested more than {MAX_CALL_LEVELS} deep"),
                Some("a function that calls itself must come to an end; use a loop for long repetitions".into()),
            ),
            E::ErrorTooManyModules(_) => ("too many imports".into(), None),
            E::ErrorTerminated(reason, _) => (reason.to_string(), None),
            E::ErrorSystem(..) => (lowered(&error.to_string()), None),
            other => {
                let text = other.to_string();
                let text = text.split(" (line ").next().unwrap_or(&text);
                (lowered(&text.replace('\'', "`")), None)
            }
        }
    }

    /// `name (type, type)`: another signature is listed, or the nearest name.
    fn unknown_function(&self, call: &str) -> (String, Option<String>) {
        let (name, types) =
            call.split_once(" (").map_or((call, ""), |(name, rest)| (name, rest.strip_suffix(')').unwrap_or(rest)));
        let name = name.trim();
        let types: Vec<String> =
            types.split(", ").filter(|typ| !typ.is_empty()).map(|typ| self.type_word(typ)).collect();
        let api = Api::of(self.engine, true);
        let named: Vec<_> = api.called(name).collect();
        let is_operator = !name.starts_with(|first: char| first.is_alphanumeric() || first == '_');
        if is_operator && types.len() == 2 {
            let message =
                format!("`{name}` does not work on {} and {}", with_article(&types[0]), with_article(&types[1]));
            return (message, self.operator_hint(name, &types));
        }
        let arguments = match types.as_slice() {
            [] => "no arguments".to_string(),
            [one] => with_article(one),
            several => format!("({})", several.join(", ")),
        };
        if !named.is_empty() {
            let mut signatures: Vec<String> =
                named.iter().map(|function| format!("`{}`", function.signature())).collect();
            signatures.sort();
            signatures.dedup();
            // Those for the same receiver come first, and a long list helps nobody.
            if let Some(receiver) = types.first() {
                let same = format!(": {receiver}");
                signatures.sort_by_key(|signature| !signature.split(',').next().unwrap_or_default().contains(&same));
            }
            let left_out = signatures.len().saturating_sub(4);
            signatures.truncate(4);
            let more = if left_out > 0 { format!(" (and {left_out} more)") } else { String::new() };
            return (
                format!("`{name}` cannot be called with {arguments}"),
                Some(format!("there is {}{more}", signatures.join(", "))),
            );
        }
        let own = self.script_functions();
        if let Some((_, parameters)) = own.iter().find(|(function, _)| *function == name) {
            let count = if types.len() == 1 { "1 argument".to_string() } else { format!("{} arguments", types.len()) };
            return (format!("`{name}({parameters})` cannot be called with {count}"), None);
        }
        let message = match types.first() {
            Some(_) => format!("there is no function `{name}` for {arguments}"),
            None => format!("there is no function `{name}`"),
        };
        if let Some(other) = mistakes::other_name(name) {
            return (message, Some(format!("it is called `{other}`")));
        }
        let near = match name.rsplit_once("::") {
            Some((namespace, _)) => {
                let candidates: Vec<String> = api
                    .functions
                    .iter()
                    .filter(|function| function.namespace.as_deref() == Some(namespace))
                    .map(|function| format!("{namespace}::{}", function.name))
                    .collect();
                nearest(name, candidates.iter().map(String::as_str)).map(str::to_string)
            }
            None => {
                let global =
                    api.functions.iter().filter(|function| function.is_global).map(|function| function.name.as_str());
                nearest(name, global.chain(own.iter().map(|(function, _)| function.as_str()))).map(str::to_string)
            }
        };
        (message, near.map(|near| format!("did you mean `{near}`?")))
    }

    fn operator_hint(&self, name: &str, types: &[String]) -> Option<String> {
        if name == "+" && types.iter().any(|typ| typ == "string") {
            return Some("text is built with backticks: `` `loss ${x}` ``".into());
        }
        if types.iter().any(|typ| typ == "()") {
            return Some("`()` is nothing: a value that was never set, or a function that returns none".into());
        }
        let is_number = |typ: &String| typ == "integer" || typ == "float";
        if types.iter().any(is_number) && types.iter().any(|typ| typ == "string") {
            return Some("`parse_float(text)` and `parse_int(text)` read a number".into());
        }
        None
    }

    fn unknown_property(&self, text: &str) -> (String, Option<String>) {
        let mut parts = text.split('\'').skip(1).step_by(2);
        let (name, typ) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let typ = self.type_word(typ);
        let api = Api::of(self.engine, true);
        let of_type = |function: &&crate::host::names::Function| {
            function.parameters.first().is_some_and(|(_, receiver)| *receiver == typ)
        };
        let known: Vec<&str> = api
            .functions
            .iter()
            .filter(|function| function.name.starts_with("get$"))
            .filter(of_type)
            .filter_map(|function| function.property())
            .collect();
        let is_method = api.called(name).any(|function| of_type(&function));
        let hint = if is_method {
            Some(format!("it is a function: write `.{name}()`"))
        } else if let Some(near) = nearest(name, known.iter().copied()) {
            Some(format!("did you mean `.{near}`?"))
        } else if known.is_empty() {
            None
        } else {
            Some(format!("it has {}", known.iter().map(|name| format!("`.{name}`")).collect::<Vec<_>>().join(", ")))
        };
        (format!("{} has no property `{name}`", with_article(&typ)), hint)
    }

    /// The functions that the scripts of this run define.
    fn script_functions(&self) -> Vec<(String, String)> {
        let texts = self.sources.text(&self.file);
        texts.iter().flat_map(|text| mistakes::declared_functions(text)).collect()
    }

    fn type_word(&self, typ: &str) -> String {
        Api::of(self.engine, false).type_word(self.engine.map_type_name(typ.trim()))
    }

    fn frame(&mut self, how: &'static str, position: Position) {
        if let Some(from) = self.at(position) {
            self.diagnostic.trail.push(Frame { how, from, within: self.function.clone() });
        }
    }

    fn place(&mut self, position: Position) {
        self.diagnostic.location = self.at(position);
    }

    fn at(&self, position: Position) -> Option<Location> {
        let line = position.line()?;
        Some(Location { file: self.file.clone(), line, column: position.position().unwrap_or(1).max(1) })
    }
}

fn inner_script_error(error: &Error) -> Option<&EvalAltResult> {
    match error.what() {
        What::InScript { error, .. } => {
            error.downcast_ref::<Box<EvalAltResult>>().map(Box::as_ref).or_else(|| error.downcast_ref())
        }
        _ => None,
    }
}

/// `an integer`, `a Dataset`, `nothing`.
fn with_article(word: &str) -> String {
    match word {
        "()" => "`()` (nothing)".into(),
        "integer" | "array" => format!("an {word}"),
        "float" | "bool" | "character" | "map" | "string" | "function" | "value" => format!("a {word}"),
        other if other.starts_with(['A', 'E', 'I', 'O', 'U']) => format!("an `{other}`"),
        other => format!("a `{other}`"),
    }
}
