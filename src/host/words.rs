//! The engine's own errors in people's words: what happened, and what to do.
//!
//! An error and the text of its script flow in, a message and a hint flow out: types have the names that the
//! documentation uses, an unknown name comes with the nearest known one, a wrong call with the right ones.

use std::sync::Arc;

use rhai::{Engine, EvalAltResult};

use crate::error::nearest;
use crate::host::elsewhere;
use crate::host::limits::MAX_CALL_LEVELS;
use crate::host::mistakes::{self, lowered};
use crate::host::names::{Api, Function};

/// What is needed to explain the errors of one script.
pub(crate) struct Words<'a> {
    engine: &'a Engine,
    api: Api,
    text: Arc<str>,
}

impl<'a> Words<'a> {
    /// Words for errors of the script `text`.
    pub(crate) fn new(engine: &'a Engine, text: Arc<str>) -> Self {
        Words { engine, api: Api::of(engine, true), text }
    }

    /// What happened and what to do, for the errors that the engine raises itself.
    pub(crate) fn explain(&self, error: &EvalAltResult) -> (String, Option<String>) {
        use EvalAltResult as E;
        let items = |count: usize| if count == 1 { "1 item".to_string() } else { format!("{count} items") };
        match error {
            E::ErrorParsing(what, position) => {
                let (line, column) = (position.line().unwrap_or(0), position.position().unwrap_or(0));
                let hint = mistakes::hint(what, &self.text, line, column, &self.api);
                (mistakes::message(what), hint)
            }
            E::ErrorVariableNotFound(name, _) => {
                let what = rhai::ParseErrorType::VariableUndefined(name.clone());
                (mistakes::message(&what), mistakes::hint(&what, &self.text, 0, 0, &self.api))
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
                (format!("`{name}` of {} cannot be set", with_article(&self.type_word(typ))), None)
            }
            E::ErrorIndexingType(text, _) => {
                let typ = text.split(" [").next().unwrap_or(text);
                (format!("{} cannot be indexed like this", with_article(&self.type_word(typ))), None)
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
        let api = &self.api;
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
        if name.starts_with("anon$") {
            let (count, bars) = match types.len() {
                1 => ("one argument".to_string(), "|x| ...".to_string()),
                n => (
                    format!("{n} arguments"),
                    format!("|{}| ...", ["a", "b", "c", "d", "e", "f"][..n.min(6)].join(", ")),
                ),
            };
            let hint = format!("it needs as many names between its bars: `{bars}`");
            return (format!("a closure was called with {count}, {arguments}, but takes another number"), Some(hint));
        }
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
        let own = mistakes::declared_functions(&self.text);
        if let Some((_, parameters)) = own.iter().find(|(function, _)| *function == name) {
            let count = if types.len() == 1 { "1 argument".to_string() } else { format!("{} arguments", types.len()) };
            return (format!("`{name}({parameters})` cannot be called with {count}"), None);
        }
        let message = match types.first() {
            Some(_) => format!("there is no function `{name}` for {arguments}"),
            None => format!("there is no function `{name}`"),
        };
        if let Some(hint) = self.not_a_function(name) {
            return (message, Some(hint));
        }
        if let Some(other) = mistakes::other_name(name) {
            return (message, Some(format!("it is called `{other}`")));
        }
        let near = api.nearest_call(name, own.iter().map(|(function, _)| function.as_str()));
        (message, near.map(|near| format!("did you mean `{near}`?")))
    }

    /// What to write where a name is called that is a value or a namespace here, or a function elsewhere.
    fn not_a_function(&self, name: &str) -> Option<String> {
        if mistakes::declared(&self.text, &["let", "const"]).iter().any(|known| known == name) {
            return Some(format!(
                "`{name}` is a value and not a function: write `{name}.encode(...)` of a tokenizer, `{name}.predict(...)` of a pipeline, `{name}.forward(...)` of a model"
            ));
        }
        let inside = self.api.functions.iter().filter(|function| function.namespace.as_deref() == Some(name));
        let mut calls: Vec<String> = inside.map(|function| format!("`{name}::{}(...)`", function.name)).collect();
        calls.sort();
        calls.dedup();
        if !calls.is_empty() {
            return Some(format!("`{name}` is a namespace: write {}", calls.join(" or ")));
        }
        elsewhere::function(name).map(str::to_string)
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
        let api = &self.api;
        let of_type = |function: &&Function| function.parameters.first().is_some_and(|(_, receiver)| *receiver == typ);
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

    fn type_word(&self, typ: &str) -> String {
        self.api.type_word(self.engine.map_type_name(typ.trim()))
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
