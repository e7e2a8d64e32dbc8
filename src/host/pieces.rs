//! A script in pieces: its named functions, its top level, and what stands in the calls that a hot reload understands.
//!
//! A text flows in; tokens without comments and blanks flow out, sorted by where they stand, so that two versions of a script
//! can be compared: which functions differ, whether the top level differs, which keys of a `TrainingArguments(#{ ... })`
//! differ. What follows from a difference is left to `reload`.

use std::collections::BTreeSet;
use std::ops::Range;

use indexmap::IndexMap;

/// A token with its place in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token<'t> {
    pub(crate) text: &'t str,
    pub(crate) start: usize,
}

/// A named function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) n_params: usize,
    /// Its tokens, with a blank between them.
    pub(crate) tokens: String,
    /// From `fn` (or what stands before it) to the closing brace.
    pub(crate) span: Range<usize>,
    /// Where its name stands.
    pub(crate) name_at: usize,
    /// The names it may call, with their namespaces.
    pub(crate) mentions: BTreeSet<String>,
}

/// The map of one `TrainingArguments(#{ ... })`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// The text of each value by its key.
    pub(crate) values: IndexMap<String, String>,
    /// Where the call stands.
    pub(crate) at: usize,
    /// Where its closing brace stands.
    pub(crate) end: usize,
}

/// A closure within `Trainer(#{ ... })`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Closure {
    pub(crate) tokens: String,
    pub(crate) at: usize,
}

/// A script in pieces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pieces {
    pub(crate) functions: Vec<Function>,
    /// The tokens outside of functions, with marks in place of the arguments and closures below.
    pub(crate) top: String,
    /// What the top level may call at once: everything but functions that are handed to a Trainer.
    pub(crate) mentions: BTreeSet<String>,
    pub(crate) arguments: Vec<Arguments>,
    pub(crate) closures: Vec<Closure>,
    /// The path and the name of each `import` anywhere in the script.
    pub(crate) imports: Vec<(String, String)>,
}

impl Pieces {
    /// Takes a script apart. A text that does not compile gives something, too.
    pub(crate) fn of(text: &str) -> Self {
        let tokens = lex(text);
        let mut pieces = Pieces { imports: imports(&tokens), ..Pieces::default() };
        let mut top: Vec<&Token<'_>> = Vec::new();
        let mut depth = 0usize;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let is_private = token.text == "private" && tokens.get(at + 1).is_some_and(|next| next.text == "fn");
            if depth == 0 && (token.text == "fn" || is_private) {
                let start = at;
                let head = if is_private { at + 1 } else { at };
                let open = (head..tokens.len()).find(|&place| tokens[place].text == "{").unwrap_or(tokens.len());
                at = closing(&tokens, open);
                pieces.functions.push(function(&tokens[start..at.min(tokens.len())], head - start));
                continue;
            }
            match token.text {
                "{" | "#{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth = depth.saturating_sub(1),
                _ => {}
            }
            top.push(token);
            at += 1;
        }
        pieces.read_top(text, &top);
        pieces
    }

    /// The function of that name and number of parameters.
    pub(crate) fn function(&self, name: &str, n_params: usize) -> Option<&Function> {
        self.functions.iter().find(|function| function.name == name && function.n_params == n_params)
    }

    /// The names of the functions that one of two versions has and the other has not, or not like that.
    pub(crate) fn changed_functions(&self, other: &Pieces) -> BTreeSet<String> {
        let differs = |one: &Function, others: &Pieces| {
            others.function(&one.name, one.n_params).is_none_or(|known| known.tokens != one.tokens)
        };
        let mine = self.functions.iter().filter(|one| differs(one, other));
        let theirs = other.functions.iter().filter(|one| differs(one, self));
        mine.chain(theirs).map(|one| one.name.clone()).collect()
    }

    fn read_top(&mut self, text: &str, tokens: &[&Token<'_>]) {
        // The names before the brackets that are open: what is called, or nothing.
        let mut open: Vec<&str> = Vec::new();
        let mut shown: Vec<String> = Vec::new();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let next = tokens.get(at + 1).map(|token| token.text);
            let in_trainer = open.contains(&"Trainer");
            if token.text == "TrainingArguments"
                && next == Some("(")
                && tokens.get(at + 2).is_some_and(|t| t.text == "#{")
            {
                let end = closing_of(tokens, at + 1);
                self.arguments.push(arguments(text, &tokens[at..end.min(tokens.len())]));
                self.mentions.extend(mentions(&tokens[at + 1..end.min(tokens.len())]));
                shown.push("TrainingArguments(...)".into());
                at = end;
                continue;
            }
            if in_trainer && matches!(token.text, "|" | "||") && starts_closure(tokens, at) {
                let end = closure_end(tokens, at);
                let words: Vec<&str> = tokens[at..end].iter().map(|token| token.text).collect();
                self.closures.push(Closure { tokens: words.join(" "), at: token.start });
                shown.push("|...|".into());
                at = end;
                continue;
            }
            match token.text {
                "(" | "[" | "{" | "#{" => {
                    let before = at.checked_sub(1).and_then(|before| tokens.get(before)).map_or("", |token| token.text);
                    let is_call = token.text == "(" && is_word(before);
                    open.push(if is_call { before } else { "" });
                }
                ")" | "]" | "}" => {
                    open.pop();
                }
                _ => self.mentions.extend(mentioned(tokens, at, Some(&open))),
            }
            shown.push(token.text.to_string());
            at += 1;
        }
        self.top = shown.join(" ");
    }
}

/// The line of a place in a text, from one.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

fn is_word(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_alphabetic() || letter == '_')
}

/// The place behind the bracket that closes the one at `open`.
fn closing<'t>(tokens: &[impl std::borrow::Borrow<Token<'t>>], open: usize) -> usize {
    let mut depth = 0usize;
    for (place, token) in tokens.iter().enumerate().skip(open) {
        match token.borrow().text {
            "{" | "#{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return place + 1;
        }
    }
    tokens.len()
}

fn closing_of(tokens: &[&Token<'_>], open: usize) -> usize {
    closing(tokens, open)
}

fn function(tokens: &[Token<'_>], head: usize) -> Function {
    let name = tokens.get(head + 1);
    // A method names its type before the function: `fn "Type".name(...)`, `fn int.name(...)`.
    let params = (head..tokens.len()).find(|&place| tokens[place].text == "(").unwrap_or(tokens.len());
    let name = params.checked_sub(1).and_then(|place| tokens.get(place)).or(name);
    let params_end = closing(tokens, params);
    let inside = params_end.saturating_sub(params + 2);
    let commas = tokens.get(params..params_end).unwrap_or_default().iter().filter(|token| token.text == ",").count();
    let words: Vec<&str> = tokens.iter().map(|token| token.text).collect();
    let body: Vec<&Token<'_>> = tokens.get(params_end..).unwrap_or_default().iter().collect();
    let start = tokens.first().map_or(0, |token| token.start);
    Function {
        name: name.map_or("", |token| token.text).to_string(),
        n_params: if inside == 0 { 0 } else { commas + 1 },
        tokens: words.join(" "),
        span: start..tokens.last().map_or(start, |token| token.start + token.text.len()),
        name_at: name.map_or(0, |token| token.start),
        mentions: mentions(&body),
    }
}

/// What the body of a function may call.
fn mentions(tokens: &[&Token<'_>]) -> BTreeSet<String> {
    (0..tokens.len()).filter_map(|at| mentioned(tokens, at, None)).collect()
}

/// What the token at `at` may call: `name(`, `space::name(`, `Fn("name")`. At the top level `open` has what stands before
/// the brackets that are open: a function pointer that goes to a Trainer, or into a variable that may go there, is called
/// by nobody yet.
fn mentioned(tokens: &[&Token<'_>], at: usize, open: Option<&[&str]>) -> Option<String> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let word = text(at);
    if word == "Fn" && text(at + 1) == "(" {
        let name = text(at + 2).strip_prefix('"')?.strip_suffix('"')?;
        let taker = open.map(|open| open.iter().rev().find(|name| !name.is_empty()));
        let waits = taker.is_some_and(|taker| taker.is_none_or(|name| *name == "Trainer"));
        return (!waits).then(|| name.to_string());
    }
    if !is_word(word) || text(at + 1) != "(" {
        return None;
    }
    match at.checked_sub(1).map_or("", text) {
        "::" => Some(format!("{}::{word}", at.checked_sub(2).map_or("", text))),
        _ => Some(word.to_string()),
    }
}

fn starts_closure(tokens: &[&Token<'_>], at: usize) -> bool {
    // An operator stands behind a value, a closure behind a bracket, a comma, a colon or an equals sign.
    at == 0 || matches!(tokens[at - 1].text, "(" | "[" | "{" | "#{" | "," | ":" | "=" | "return" | "=>")
}

/// The place behind a closure: its parameters, then a block or an expression.
fn closure_end(tokens: &[&Token<'_>], at: usize) -> usize {
    let mut body = at + 1;
    if tokens[at].text == "|" {
        while body < tokens.len() && tokens[body].text != "|" {
            body += 1;
        }
        body += 1;
    }
    let mut depth = 0usize;
    for (place, token) in tokens.iter().enumerate().skip(body) {
        match token.text {
            "{" | "#{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" if depth == 0 => return place,
            "}" | ")" | "]" => depth -= 1,
            "," | ";" if depth == 0 => return place,
            _ => {}
        }
    }
    tokens.len()
}

/// `TrainingArguments ( #{ key : value , ... } )`.
fn arguments(text: &str, tokens: &[&Token<'_>]) -> Arguments {
    let mut found = Arguments { at: tokens.first().map_or(0, |token| token.start), ..Arguments::default() };
    let close = closing_of(tokens, 2).saturating_sub(1);
    found.end = tokens.get(close).map_or(text.len(), |token| token.start);
    let mut at = 3;
    while at < close {
        let key = tokens[at].text.trim_matches('"').to_string();
        let start = at + 2;
        let mut end = start;
        let mut depth = 0usize;
        while end < close && !(depth == 0 && tokens[end].text == ",") {
            match tokens[end].text {
                "{" | "#{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth = depth.saturating_sub(1),
                _ => {}
            }
            end += 1;
        }
        let words: Vec<&str> = tokens.get(start..end).unwrap_or_default().iter().map(|token| token.text).collect();
        found.values.insert(key, words.join(" "));
        at = end + 1;
    }
    found
}

fn imports(tokens: &[Token<'_>]) -> Vec<(String, String)> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        if text(at) == "import"
            && let Some(path) = text(at + 1).strip_prefix('"').and_then(|path| path.strip_suffix('"'))
        {
            let name = if text(at + 2) == "as" { text(at + 3) } else { "" };
            found.push((path.to_string(), name.to_string()));
        }
    }
    found
}

/// The tokens of a text, without comments. Strings are one token each; what stands in `${ ... }` of a string are tokens.
pub(crate) fn lex(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < text.len() {
        at = lex_one(text, at, &mut tokens);
    }
    tokens
}

fn lex_one<'t>(text: &'t str, at: usize, tokens: &mut Vec<Token<'t>>) -> usize {
    let rest = &text[at..];
    let Some(first) = rest.chars().next() else { return text.len() };
    let mut push = |end: usize| {
        tokens.push(Token { text: &text[at..end], start: at });
        end
    };
    if first.is_whitespace() {
        return at + first.len_utf8();
    }
    if rest.starts_with("//") {
        return at + rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return at + comment(rest);
    }
    let hashes = rest.bytes().take_while(|byte| *byte == b'#').count();
    if hashes > 0 && rest[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let body = hashes + 1;
        return push(rest[body..].find(&end).map_or(text.len(), |found| at + body + found + end.len()));
    }
    match first {
        '"' | '\'' => push(at + quoted(rest, first)),
        '`' => interpolated(text, at, tokens),
        _ if first.is_alphanumeric() || first == '_' => {
            let is_number = first.is_ascii_digit();
            let bytes = rest.as_bytes();
            let mut end = 0;
            for (place, letter) in rest.char_indices() {
                let after = |offset: usize| bytes.get(place + offset).is_some_and(u8::is_ascii_digit);
                let in_number = is_number
                    && ((letter == '.' && after(1))
                        || (matches!(letter, '+' | '-')
                            && place > 0
                            && matches!(bytes[place - 1], b'e' | b'E')
                            && after(1)));
                if !(letter.is_alphanumeric() || letter == '_' || in_number) {
                    break;
                }
                end = place + letter.len_utf8();
            }
            push(at + end)
        }
        _ => {
            const SYMBOLS: [&str; 21] = [
                "#{", "::", "=>", "==", "!=", "<=", ">=", "&&", "||", "..=", "..", "+=", "-=", "*=", "/=", "%=", "**",
                "<<", ">>", "??", "?.",
            ];
            let long = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)).map(|symbol| symbol.len());
            push(at + long.unwrap_or(first.len_utf8()))
        }
    }
}

/// The length of a comment that may hold others.
fn comment(rest: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of a string or a character, with its quotes.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (place, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return place + 1,
            _ => {}
        }
    }
    rest.len()
}

fn interpolated<'t>(text: &'t str, start: usize, tokens: &mut Vec<Token<'t>>) -> usize {
    let mut piece = start;
    let mut at = start + 1;
    while at < text.len() {
        let here = &text.as_bytes()[at..];
        if here.starts_with(b"`") {
            tokens.push(Token { text: &text[piece..=at], start: piece });
            return at + 1;
        }
        if here.starts_with(b"${") {
            tokens.push(Token { text: &text[piece..=at], start: piece });
            at += 1;
            at = lex_one(text, at, tokens);
            let mut depth = 1usize;
            while depth > 0 && at < text.len() {
                let known = tokens.len();
                at = lex_one(text, at, tokens);
                for token in &tokens[known..] {
                    match token.text {
                        "{" | "#{" => depth += 1,
                        "}" => depth -= 1,
                        _ => {}
                    }
                }
            }
            piece = at;
            continue;
        }
        at += text[at..].chars().next().map_or(1, char::len_utf8);
    }
    if piece < text.len() {
        tokens.push(Token { text: &text[piece..], start: piece });
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<&str> {
        lex(text).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn texts_fall_into_tokens_without_comments() {
        assert_eq!(words("let a = 1.5e-3; // no\n/* nor /* this */ */ b"), ["let", "a", "=", "1.5e-3", ";", "b"]);
        assert_eq!(words("f(0..24, x.y)"), ["f", "(", "0", "..", "24", ",", "x", ".", "y", ")"]);
        assert_eq!(words(r##"#"raw "x" "# + "es\"c" "##), [r##"#"raw "x" "#"##, "+", r#""es\"c""#]);
        assert_eq!(words("`a ${f(`b${1}`)} c`"), ["`a $", "{", "f", "(", "`b$", "{", "1", "}", "`", ")", "}", " c`"]);
    }

    #[test]
    fn a_script_falls_into_functions_arguments_closures_and_the_rest() {
        let text = "import \"lib/h\" as h;\nfn f(a, b) { g(a) + h::k(`${m(b)}`) }\nprivate fn g(x) { x }\n\
            let d = rows(Fn(\"row\"));\nlet c = #{ on_step_end: Fn(\"hot\") };\n\
            let t = Trainer(#{ args: TrainingArguments(#{ seed: 1, list: [1, f(2)] }), compute_loss: Fn(\"f\"), x: |a| a + 1 });";
        let pieces = Pieces::of(text);
        let f = pieces.function("f", 2).unwrap();
        assert_eq!(&text[f.span.clone()], "fn f(a, b) { g(a) + h::k(`${m(b)}`) }");
        assert_eq!(f.mentions.iter().collect::<Vec<_>>(), ["g", "h::k", "m"]);
        assert!(pieces.function("g", 1).is_some() && pieces.function("g", 2).is_none());
        assert_eq!(pieces.imports, [("lib/h".to_string(), "h".to_string())]);
        assert_eq!(pieces.arguments[0].values["list"], "[ 1 , f ( 2 ) ]");
        assert_eq!(pieces.closures[0].tokens, "| a | a + 1");
        // What goes to a Trainer has not been called; what the arguments call has.
        for (name, called) in [("row", true), ("rows", true), ("hot", false), ("f", true), ("Trainer", true)] {
            assert_eq!(pieces.mentions.contains(name), called, "{name}");
        }
        let moved = Pieces::of(&text.replace("fn f(a, b) {", "// new\nfn f(a, b)   {").replace("seed: 1", "seed: 2"));
        assert!(pieces.changed_functions(&moved).is_empty() && pieces.top == moved.top);
        assert_ne!(pieces.arguments[0].values, moved.arguments[0].values);
    }

    proptest! {
        #[test]
        fn any_text_has_pieces_that_lie_in_it(text in "[fn Tr(){}#|\"`$/*,:a-c0-9.\\\\ é\n]{0,120}") {
            for token in lex(&text) {
                prop_assert_eq!(&text[token.start..token.start + token.text.len()], token.text);
            }
            for function in Pieces::of(&text).functions {
                prop_assert!(text.get(function.span).is_some());
            }
        }
    }
}
