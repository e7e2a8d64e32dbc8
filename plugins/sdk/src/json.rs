//! JSON: options, rows, metrics and everything else that crosses the border as text.
//!
//! A value is read with [`Json::parse`] and written with `to_string`. Numbers keep the distinction between whole and other
//! numbers; the keys of a map keep their order.

use std::fmt::{self, Write};

use crate::{Error, Result};

/// A JSON value.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Json {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Str(String),
    /// A list.
    List(Vec<Json>),
    /// A map, in the order of its keys.
    Map(Vec<(String, Json)>),
}

/// How deep lists and maps may stand in each other.
const MAX_DEPTH: usize = 128;

impl Json {
    /// Reads a text.
    ///
    /// # Errors
    /// Text that is no JSON, with the place.
    pub fn parse(text: &str) -> Result<Json> {
        let mut parser = Parser { bytes: text.as_bytes(), at: 0 };
        let value = parser.value(0)?;
        parser.space();
        if parser.at < parser.bytes.len() { Err(parser.wrong("the end")) } else { Ok(value) }
    }

    /// The value under a key of a map; null where there is none.
    pub fn get(&self, key: &str) -> &Json {
        let Json::Map(map) = self else { return &Json::Null };
        map.iter().find(|(known, _)| known == key).map_or(&Json::Null, |(_, value)| value)
    }

    /// Sets the value under a key of a map.
    pub fn set(&mut self, key: &str, value: impl Into<Json>) {
        let value = value.into();
        if let Json::Map(map) = self {
            match map.iter_mut().find(|(known, _)| known == key) {
                Some((_, old)) => *old = value,
                None => map.push((key.to_string(), value)),
            }
        }
    }

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        *self == Json::Null
    }

    /// The text, where it is text.
    pub fn as_str(&self) -> Option<&str> {
        if let Json::Str(text) = self { Some(text) } else { None }
    }

    /// The whole number, where it is one.
    pub fn as_i64(&self) -> Option<i64> {
        if let Json::Int(number) = self { Some(*number) } else { None }
    }

    /// The number, where it is one.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Json::Int(number) => Some(*number as f64),
            Json::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// Whether it is `true`.
    pub fn is_true(&self) -> bool {
        *self == Json::Bool(true)
    }

    /// The values of a list; none where it is no list.
    pub fn list(&self) -> &[Json] {
        if let Json::List(values) = self { values } else { &[] }
    }

    /// A count under a key of a map.
    ///
    /// # Errors
    /// No whole number from 0 under that key.
    pub fn count(&self, key: &str) -> Result<usize> {
        let value = self.get(key);
        let count = value.as_i64().and_then(|number| usize::try_from(number).ok());
        count.ok_or_else(|| Error::new(format!("`{key}` must be a count, but is {value}")))
    }

    /// A number under a key of a map.
    ///
    /// # Errors
    /// No number under that key.
    pub fn number(&self, key: &str) -> Result<f64> {
        let value = self.get(key);
        value.as_f64().ok_or_else(|| Error::new(format!("`{key}` must be a number, but is {value}")))
    }

    /// A text under a key of a map.
    ///
    /// # Errors
    /// No text under that key.
    pub fn text(&self, key: &str) -> Result<&str> {
        let value = self.get(key);
        value.as_str().ok_or_else(|| Error::new(format!("`{key}` must be a text, but is {value}")))
    }

    /// A map of keys and values.
    pub fn map<K: Into<String>>(entries: impl IntoIterator<Item = (K, Json)>) -> Json {
        Json::Map(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }
}

macro_rules! from {
    ($($type:ty => |$value:ident| $json:expr;)*) => {
        $(impl From<$type> for Json {
            fn from($value: $type) -> Json {
                $json
            }
        })*
    };
}

from! {
    bool => |value| Json::Bool(value);
    i64 => |value| Json::Int(value);
    i32 => |value| Json::Int(i64::from(value));
    usize => |value| Json::Int(value as i64);
    f64 => |value| Json::Float(value);
    f32 => |value| Json::Float(f64::from(value));
    &str => |value| Json::Str(value.to_string());
    String => |value| Json::Str(value);
    &Json => |value| value.clone();
}

impl<T: Into<Json>> From<Vec<T>> for Json {
    fn from(values: Vec<T>) -> Json {
        Json::List(values.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Json {
        value.map_or(Json::Null, Into::into)
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => write!(f, "{value}"),
            Json::Int(number) => write!(f, "{number}"),
            // JSON has no word for infinity. The debug form of a float always reads back as the same float.
            Json::Float(number) if number.is_finite() => write!(f, "{number:?}"),
            Json::Float(_) => f.write_str("null"),
            Json::Str(text) => quoted(f, text),
            Json::List(values) => {
                f.write_char('[')?;
                for (place, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if place > 0 { "," } else { "" })?;
                }
                f.write_char(']')
            }
            Json::Map(map) => {
                f.write_char('{')?;
                for (place, (key, value)) in map.iter().enumerate() {
                    f.write_str(if place > 0 { "," } else { "" })?;
                    quoted(f, key)?;
                    write!(f, ":{value}")?;
                }
                f.write_char('}')
            }
        }
    }
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for letter in text.chars() {
        match letter {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            control if (control as u32) < 0x20 => write!(f, "\\u{:04x}", control as u32)?,
            other => f.write_char(other)?,
        }
    }
    f.write_char('"')
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn wrong(&self, wanted: &str) -> Error {
        Error::new(format!("JSON: {wanted} is missing at byte {}", self.at))
    }

    fn space(&mut self) {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn peek(&mut self) -> Option<u8> {
        self.space();
        self.bytes.get(self.at).copied()
    }

    /// Whether this byte comes next; it is then passed.
    fn next_is(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json> {
        match self.bytes[self.at..].starts_with(word.as_bytes()) {
            true => {
                self.at += word.len();
                Ok(value)
            }
            false => Err(self.wrong("a value")),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json> {
        if depth > MAX_DEPTH {
            return Err(Error::new("JSON: lists and maps are nested too deep"));
        }
        match self.peek() {
            Some(b'n') => self.word("null", Json::Null),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'"') => Ok(Json::Str(self.string()?)),
            Some(b'[') => {
                self.at += 1;
                let mut values = Vec::new();
                if self.next_is(b']') {
                    return Ok(Json::List(values));
                }
                loop {
                    values.push(self.value(depth + 1)?);
                    if self.next_is(b']') {
                        return Ok(Json::List(values));
                    }
                    if !self.next_is(b',') {
                        return Err(self.wrong("`,` or `]`"));
                    }
                }
            }
            Some(b'{') => {
                self.at += 1;
                let mut map = Vec::new();
                if self.next_is(b'}') {
                    return Ok(Json::Map(map));
                }
                loop {
                    if self.peek() != Some(b'"') {
                        return Err(self.wrong("a key"));
                    }
                    let key = self.string()?;
                    if !self.next_is(b':') {
                        return Err(self.wrong("`:`"));
                    }
                    map.push((key, self.value(depth + 1)?));
                    if self.next_is(b'}') {
                        return Ok(Json::Map(map));
                    }
                    if !self.next_is(b',') {
                        return Err(self.wrong("`,` or `}`"));
                    }
                }
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.wrong("a value")),
        }
    }

    fn number(&mut self) -> Result<Json> {
        let start = self.at;
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        while self.bytes.get(self.at).is_some_and(is_part) {
            self.at += 1;
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).unwrap_or_default();
        if let Ok(whole) = text.parse::<i64>() {
            return Ok(Json::Int(whole));
        }
        text.parse::<f64>().map(Json::Float).map_err(|_| self.wrong("a number"))
    }

    fn string(&mut self) -> Result<String> {
        self.at += 1;
        let mut text = Vec::new();
        loop {
            match self.bytes.get(self.at) {
                None => return Err(self.wrong("`\"`")),
                Some(b'"') => {
                    self.at += 1;
                    return String::from_utf8(text).map_err(|_| self.wrong("UTF-8 text"));
                }
                Some(b'\\') => {
                    let letter = self.escape()?;
                    text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Some(byte) => {
                    text.push(*byte);
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        let letter = self.bytes.get(self.at + 1).copied();
        self.at += 2;
        Ok(match letter {
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'u') => {
                let high = self.four()?;
                if !(0xD800..0xDC00).contains(&high) {
                    return char::from_u32(high).ok_or_else(|| self.wrong("a character"));
                }
                if self.bytes.get(self.at..self.at + 2) != Some(b"\\u") {
                    return Err(self.wrong("the other half of a character"));
                }
                self.at += 2;
                let low = self.four()?.wrapping_sub(0xDC00);
                let letter = if low < 0x400 { char::from_u32(0x10000 + ((high - 0xD800) << 10) + low) } else { None };
                letter.ok_or_else(|| self.wrong("a character"))?
            }
            Some(other @ (b'"' | b'\\' | b'/')) => char::from(other),
            _ => return Err(self.wrong("an escape")),
        })
    }

    fn four(&mut self) -> Result<u32> {
        let digits = self.bytes.get(self.at..self.at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        self.at += 4;
        number.ok_or_else(|| self.wrong("four hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        match Json::parse(text) {
            Ok(value) => {
                assert_eq!(value.to_string(), expected, "{text}");
                assert_eq!(Json::parse(expected), Ok(value), "what is written reads back");
            }
            Err(error) => assert_eq!(error.to_string(), expected, "{text}"),
        }
    }

    #[test]
    fn values_are_read_and_written() {
        check(" [ null , true,false ] ", "[null,true,false]");
        check("[0,-7,9223372036854775807,1.0,1e3,-2.5E-2,0.1]", "[0,-7,9223372036854775807,1.0,1000.0,-0.025,0.1]");
        check(r#"{"b": 1, "a": {"": []}}"#, r#"{"b":1,"a":{"":[]}}"#);
        let text = Json::parse("\"a\\\"\\\\\\/\\n\\t\\u00e9\\ud83d\\ude00é\"");
        assert_eq!(text, Ok(Json::from("a\"\\/\n\té😀é")));
        assert_eq!(Json::from("a\"\\/\n\té😀").to_string(), "\"a\\\"\\\\/\\n\\u0009é😀\"");
        assert_eq!(Json::Float(f64::NAN).to_string(), "null");
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for (text, problem) in [
            ("", "JSON: a value is missing at byte 0"),
            ("[1", "JSON: `,` or `]` is missing at byte 2"),
            ("[1,]", "JSON: a value is missing at byte 3"),
            ("{\"a\"}", "JSON: `:` is missing at byte 4"),
            ("{a:1}", "JSON: a key is missing at byte 1"),
            ("{\"a\":1 \"b\"", "JSON: `,` or `}` is missing at byte 7"),
            ("tru", "JSON: a value is missing at byte 0"),
            ("1-2", "JSON: a number is missing at byte 3"),
            ("\"a", "JSON: `\"` is missing at byte 2"),
            ("\"\\x\"", "JSON: an escape is missing at byte 3"),
            ("\"\\ud800x\"", "JSON: the other half of a character is missing at byte 7"),
            ("\"\\u12", "JSON: four hexadecimal digits is missing at byte 7"),
            ("1 2", "JSON: the end is missing at byte 2"),
        ] {
            check(text, problem);
        }
        assert!(Json::parse(&"[".repeat(100_000)).is_err(), "no depth overflows the stack");
    }
}
