//! What people write when they mean something else: hints for scripts that do not compile.
//!
//! A parse error and the text flow in, a sentence flows out. The hints look at the line as it is written,
//! because the parser stops at the first token it cannot use.

use rhai::{LexError, ParseErrorType};

use crate::error::nearest;
use crate::host::elsewhere;
use crate::host::names::Api;

/// What happened, in people's words.
pub(crate) fn message(error: &ParseErrorType) -> String {
    use ParseErrorType as P;
    match error {
        P::VariableUndefined(name) => format!("there is no variable `{name}` here"),
        P::ModuleUndefined(name) => format!("there is no namespace `{name}`"),
        P::Reserved(name) if name.chars().all(char::is_alphanumeric) => {
            format!("`{name}` is a reserved word of the script language")
        }
        P::Reserved(sign) => format!("unexpected `{sign}`"),
        P::UnexpectedEOF => "the script ends in the middle of something".into(),
        P::MissingToken(token, context) => {
            let context = quoted(context).replace("object map literal", "map").replace("array literal", "array");
            format!("expected `{token}` {context}")
        }
        P::BadInput(LexError::MalformedChar(text)) => format!("`'{text}'` is not a single character"),
        P::BadInput(LexError::UnterminatedString) => "the string is not closed".into(),
        P::BadInput(LexError::UnexpectedInput(text)) => format!("unexpected `{text}`"),
        P::FnDuplicatedDefinition(name, count) => {
            format!("the function `{name}` with {count} parameters is defined twice")
        }
        P::DuplicatedProperty(name) => format!("the key `{name}` is there twice"),
        P::AssignmentToConstant(name) => format!("`{name}` is a constant and cannot be changed"),
        P::ExprTooDeep => "the expression is nested too deeply".into(),
        P::BadInput(LexError::ImproperSymbol(sign, _)) if sign == "=" => {
            "`=` sets a variable and cannot stand here".into()
        }
        other => lowered(&quoted(&other.to_string())),
    }
}

/// What to do about it, where that can be told from the line.
pub(crate) fn hint(error: &ParseErrorType, text: &str, line: usize, column: usize, api: &Api) -> Option<String> {
    use ParseErrorType as P;
    let source = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let trimmed = source.trim_start();
    if let Some(hint) = from_python(trimmed).or_else(|| from_python_call(source, column)) {
        return Some(hint);
    }
    match error {
        P::VariableUndefined(name) => Some(match name.as_str() {
            "None" | "null" | "nil" => "nothing is written `()`".into(),
            "True" | "False" => format!("write `{}`", name.to_lowercase()),
            "not" => "write `!condition`".into(),
            "and" | "or" => "write `&&` and `||`".into(),
            _ => return near_variable(name, text, api),
        }),
        P::ModuleUndefined(name) => {
            if let Some(hint) = elsewhere::namespace(name) {
                return Some(hint.into());
            }
            let aliases = declared(text, &["as"]);
            let known = api.namespaces.iter().map(String::as_str).chain(aliases.iter().map(String::as_str));
            nearest(name, known).map(|near| format!("did you mean `{near}`?"))
        }
        P::Reserved(name) if !name.chars().all(char::is_alphanumeric) => operator_hint(name),
        P::Reserved(name) => Some(match name.as_str() {
            "null" => "nothing is written `()`".into(),
            "match" => "write `switch`".into(),
            "var" => "a variable is written `let name = value;`".into(),
            name => format!("choose another name, for example `{name}_`"),
        }),
        P::BadInput(LexError::MalformedChar(_)) => {
            Some("strings are written in double quotes; single quotes hold one character".into())
        }
        P::BadInput(LexError::UnterminatedString) => {
            Some("close it with `\"`; text over several lines is written in backticks".into())
        }
        P::BadInput(LexError::UnexpectedInput(sign)) if sign == "#" => {
            Some("comments begin with `//`; a map is written `#{ key: value }`".into())
        }
        P::MissingToken(token, _) if token == ";" => Some(semicolon(source, column)),
        P::BadInput(LexError::ImproperSymbol(sign, _)) if sign == "=" => Some("write `==` to compare".into()),
        P::MissingToken(token, context) if token == "," || context.contains("literal") => {
            Some("items of an array or a map are separated by commas, and every `[` and `{` must be closed".into())
        }
        P::MissingToken(token, _) if token == "}" => Some("every `{`, `(` and `[` must be closed".into()),
        P::UnexpectedEOF => Some("every `{`, `(` and `[` must be closed".into()),
        _ => None,
    }
}

/// Statements that Python has and Rhai has not.
fn from_python(line: &str) -> Option<String> {
    let line = line.trim_end();
    let starts = |words: &[&str]| words.iter().any(|word| line.starts_with(word));
    Some(if line.trim_start_matches("} ").starts_with("elif ") {
        "write `else if condition { ... }`".into()
    } else if starts(&["def "]) {
        "a function is written `fn name(parameters) { ... }`".into()
    } else if starts(&["import "]) && !line.contains(['"', '`']) {
        let name = line["import ".len()..].split([' ', ';']).next().unwrap_or_default();
        format!("write `import \"{name}\" as {name};`")
    } else if starts(&["from "]) && line.contains(" import ") {
        "write `import \"helpers\" as helpers;` and call `helpers::name(...)`".into()
    } else if starts(&["for ", "if ", "while "]) && line.ends_with(':') {
        "a block is written in braces: `{ ... }`".into()
    } else {
        return None;
    })
}

/// Calls and values that Python has and Rhai has not, by what stands at the column.
fn from_python_call(source: &str, column: usize) -> Option<String> {
    let letters: Vec<char> = source.chars().collect();
    let at = column.saturating_sub(1).min(letters.len());
    let (before, after): (String, String) = (letters[..at].iter().collect(), letters[at..].iter().collect());
    let word: String = after.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
    let rest = &after[word.len()..];
    if word == "f" && rest.starts_with(['"', '\'']) {
        return Some("text with values is written in backticks: `` `epoch ${epoch}` ``".into());
    }
    let is_assigned = rest.trim_start().strip_prefix('=').is_some_and(|rest| !rest.starts_with(['=', '>']));
    if !word.is_empty() && is_assigned && before.trim_end().ends_with(['(', ',']) {
        return Some("arguments have no names; options are given as a map at the end: `#{ name: value }`".into());
    }
    if after.starts_with(':') && before.contains("{\"") {
        return Some("a map is written `#{ key: value }`".into());
    }
    None
}

/// What a function of Rhai is called in other languages.
pub(crate) fn other_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "length" | "size" | "count" | "lenght" => "len",
        "append" | "add" => "push",
        "strip" => "trim",
        "upper" => "to_upper",
        "lower" => "to_lower",
        "startswith" => "starts_with",
        "endswith" => "ends_with",
        "str" => "to_string",
        "int" => "to_int",
        "float" => "to_float",
        "type" => "type_of",
        "tensor" => "Tensor::from_array",
        _ => return None,
    })
}

/// A missing semicolon is noticed at the next token, often on the next line.
fn semicolon(source: &str, column: usize) -> String {
    if source.chars().take(column.saturating_sub(1)).all(char::is_whitespace) {
        "the statement before this one has no `;` at its end".into()
    } else {
        "a statement ends with `;`".into()
    }
}

fn operator_hint(sign: &str) -> Option<String> {
    Some(match sign {
        "===" | "!==" => format!("write `{}`", &sign[..2]),
        "->" => "a function has no return type: `fn name(parameters) { ... }`".into(),
        "++" | "--" => format!("write `{} 1`", if sign == "++" { "+=" } else { "-=" }),
        "#" => "comments begin with `//`; a map is written `#{ key: value }`".into(),
        _ => return None,
    })
}

/// Whether the name is something else here, or the nearest of the names that the text declares.
fn near_variable(name: &str, text: &str, api: &Api) -> Option<String> {
    let namespaces = declared(text, &["as"]);
    // A variable of that name somewhere in the script is what is meant, rather than a namespace of ours.
    let is_variable = declared(text, &["let", "const", "for"]).iter().any(|known| known == name);
    let is_ours = !is_variable && api.namespaces.iter().any(|known| known == name);
    if is_ours || namespaces.iter().any(|known| known == name) {
        return Some(format!("`{name}` is a namespace: write `{name}::function(...)`"));
    }
    let variables = declared(text, &["let", "const", "for", "as", "fn"]);
    if variables.iter().any(|known| known == name) {
        return Some("functions do not see the variables around them: pass it as a parameter".into());
    }
    Some(match nearest(name, variables.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "declare it with `let`, or quote it if it is text".into(),
    })
}

/// The names that follow one of `keywords`, and the parameters of functions and closures.
pub(crate) fn declared(text: &str, keywords: &[&str]) -> Vec<String> {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut names = Vec::new();
    for line in text.lines().map(|line| line.split("//").next().unwrap_or_default()) {
        let words: Vec<&str> = line.split(|letter| !is_word(letter)).filter(|word| !word.is_empty()).collect();
        names.extend(words.windows(2).filter(|pair| keywords.contains(&pair[0])).map(|pair| pair[1].to_string()));
        let lists = line.split_once("fn ").and_then(|(_, rest)| rest.split_once('(')?.1.split_once(')'));
        let bars = line.split_once('|').and_then(|(_, rest)| rest.split_once('|'));
        for (list, _) in lists.into_iter().chain(bars) {
            names.extend(list.split(',').map(|part| part.trim().to_string()));
        }
    }
    names.retain(|name| !name.is_empty() && name.chars().all(is_word));
    names.sort();
    names.dedup();
    names
}

/// The functions that the text defines, each with its parameters: `("scale", "value, factor")`.
pub(crate) fn declared_functions(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let definitions = lines.filter_map(|line| {
        let (name, rest) = line.split_once("fn ")?.1.split_once('(')?;
        Some((name.trim().to_string(), rest.split(')').next().unwrap_or_default().trim().to_string()))
    });
    definitions.collect()
}

/// The column of what the error names: the parser points at the `let` before a reserved word.
pub(crate) fn column(error: &ParseErrorType, text: &str, line: usize, column: usize) -> usize {
    let source = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let (before, after): (String, String) = {
        let letters: Vec<char> = source.chars().collect();
        let at = column.saturating_sub(1).min(letters.len());
        (letters[..at].iter().collect(), letters[at..].iter().collect())
    };
    match error {
        ParseErrorType::Reserved(name) => match after.find(name.as_str()) {
            Some(byte) => before.chars().count() + after[..byte].chars().count() + 1,
            None => column,
        },
        _ => column,
    }
}

fn quoted(text: &str) -> String {
    text.replace('\'', "`")
}

/// The text with its first letter in lower case, as our messages are.
pub(crate) fn lowered(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect())
}
