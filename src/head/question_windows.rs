//! A question and its context as windows of tokens, with the answer's place as run_qa labels it.
//!
//! A row with `question`, `context` and, where it has a label, `answers` flows in; one feature map a window flows out. Each
//! window keeps which characters (Unicode code points) of the context its tokens stand for; what the scores of the tokens
//! make of that is left to [`crate::head::best_answers`].

use std::sync::Arc;

use indexmap::IndexMap;

use crate::data::{Row, Value};
use crate::error::{Error, Result, What};
use crate::head::token_spans::{TokenSpan, pack};
use crate::tokenizer::{EncodeOptions, Encoding, SpecialToken, Tokenizer, Truncation, TruncationStrategy};

/// Windows share this many tokens unless told otherwise, or half a window where that is less, as in the pipeline.
const DOC_STRIDE: usize = 128;

/// Where nothing is said of long questions, one that would fill a window is cut to this many tokens, or to half a window.
const MAX_QUESTION_LEN: usize = 64;

/// What the options say about windows.
struct Settings {
    max_length: usize,
    stride: Option<usize>,
    max_question_len: Option<usize>,
    check_answers: bool,
}

impl Settings {
    fn read(options: &Value) -> Result<Self> {
        // `max_length` is within the model's already; the pipeline's and run_qa's words for it may ask for more than the default.
        let longest = count(options, "model_max_length", 1)?;
        let named = match count(options, "max_seq_len", 1)? {
            Some(length) => Some(length),
            None => count(options, "max_seq_length", 1)?,
        };
        let max_length = match named.map(|length| longest.map_or(length, |longest| length.min(longest))) {
            Some(length) => length,
            None => count(options, "max_length", 1)?.or(longest).unwrap_or(384),
        };
        let stride = match count(options, "doc_stride", 0)? {
            Some(stride) => Some(stride),
            None => count(options, "stride", 0)?,
        };
        let max_question_len = count(options, "max_question_len", 1)?;
        let check_answers = option(options, "check_answers").and_then(Value::as_int) == Some(1);
        Ok(Settings { max_length, stride, max_question_len, check_answers })
    }
}

/// The windows of a row: `input_ids`, `token_type_ids` where the family has them, `start_positions` and `end_positions` where
/// the row has `answers`, and `window`: what the scores of its tokens are read with.
///
/// An answer that is not wholly in a window, and none, is labelled with the place of the class token; of several gold answers
/// the first counts.
///
/// # Errors
/// A row without a question or a context, answers of another form or outside the context, a window too small for the question.
pub fn windows(tokenizer: &Tokenizer, row: &Row, options: &Value) -> Result<Vec<Row>> {
    let settings = Settings::read(options)?;
    let context = text(row, "context")?;
    let full_question = text(row, "question")?;
    let (question, n_question, was_cut) = cut(tokenizer, full_question.trim_start(), &settings)?;
    let n_taken = tokenizer.n_special_tokens(true) + n_question;
    let Some(room) = settings.max_length.checked_sub(n_taken).filter(|room| *room > 0) else {
        let problem = format!(
            "the question takes {n_question} tokens, which leaves no room for the context in `max_length` {}",
            settings.max_length
        );
        return Err(
            Error::new(What::BadData(problem)).hint("set a larger `max_length`, or a smaller `max_question_len`")
        );
    };
    let usual = DOC_STRIDE.min(settings.max_length / 2);
    let stride = settings.stride.unwrap_or(if usual < room { usual } else { room / 2 });
    if stride >= room {
        let allowed = format!("less than {room}, what `max_length` leaves beside the question");
        return Err(What::OutOfRange { name: "`doc_stride`".into(), value: stride.to_string(), allowed }.into());
    }
    let golds = golds(row)?;
    let label = golds.as_deref().map(|golds| labelled(golds, &context)).transpose()?;
    if settings.check_answers {
        check(golds.as_deref().unwrap_or_default(), &context)?;
    }
    let truncation = Truncation {
        strategy: TruncationStrategy::OnlySecond,
        max_length: settings.max_length,
        stride,
        return_overflowing: true,
    };
    let how = EncodeOptions { truncation: Some(truncation), ..EncodeOptions::default() };
    let mut encoding = tokenizer.encode(question, Some(&context), &how)?;
    let further = std::mem::take(&mut encoding.overflowing);
    let mut rows = Vec::with_capacity(1 + further.len());
    for (number, part) in std::iter::once(encoding).chain(further).enumerate() {
        let first = part.sequence_ids.iter().position(|sequence| *sequence == Some(1));
        let spans = context_spans(&part);
        let class = place(tokenizer, &part, SpecialToken::Cls);
        let mut kept = vec![
            ("number", Value::Int(number as i64)),
            ("first_token", Value::Int(first.unwrap_or(part.len()) as i64)),
            ("spans", Value::Str(pack(&spans).into())),
            ("class_token", class.map_or(Value::Null, |class| Value::Int(class as i64))),
        ];
        if number == 0 {
            // Once a row: what metrics need beside the scores.
            kept.push(("id", row.get("id").cloned().unwrap_or(Value::Null)));
            kept.push(("context", Value::Str(context.clone())));
            let texts = golds.as_ref().map(|golds| golds.iter().map(|gold| Value::Str(gold.text.clone())).collect());
            kept.push(("answers", texts.map_or(Value::Null, Value::List)));
        }
        let mut features = IndexMap::new();
        features.insert("input_ids".to_string(), numbers(&part.input_ids));
        if tokenizer.uses_token_type_ids() {
            features.insert("token_type_ids".into(), numbers(&part.token_type_ids));
        }
        if let Some(label) = label {
            let none = class.or_else(|| place(tokenizer, &part, SpecialToken::Bos)).unwrap_or(0);
            let found = label.and_then(|(start, end)| positions(&spans, start, end));
            let (start, end) = found.map_or((none, none), |(start, end)| {
                let first = first.unwrap_or(0);
                (first + start, first + end)
            });
            features.insert("start_positions".into(), Value::Int(start as i64));
            features.insert("end_positions".into(), Value::Int(end as i64));
        }
        features.insert("truncated".into(), Value::Bool(was_cut));
        let kept = kept.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        features.insert("window".into(), Value::Map(Arc::new(kept)));
        rows.push(Row::new(features));
    }
    Ok(rows)
}

/// The tokens of the spans that an answer from `start` to `end` covers, as run_qa finds them: the last token that starts at or
/// before its start, and the first one that ends at or after its end; none where the window does not hold the whole answer.
pub fn positions(spans: &[TokenSpan], start: usize, end: usize) -> Option<(usize, usize)> {
    let (first, last) = (spans.first()?, spans.last()?);
    if first.start > start || last.end < end {
        return None;
    }
    let from = spans.iter().rposition(|span| span.start <= start)?;
    let to = spans.iter().rposition(|span| span.end < end).map_or(0, |before| before + 1);
    // Several tokens of one character (bytes of an emoji) share its span, and then the two may cross.
    Some((from.min(to), from.max(to)))
}

/// The characters that the context's tokens stand for.
fn context_spans(window: &Encoding) -> Vec<TokenSpan> {
    let tokens = window.sequence_ids.iter().zip(&window.offsets).zip(&window.word_ids);
    let of_context = tokens.filter(|((sequence, _), _)| **sequence == Some(1));
    of_context.map(|((_, &(start, end)), &word)| TokenSpan { start, end, word }).collect()
}

/// Where a special token stands in a window.
fn place(tokenizer: &Tokenizer, window: &Encoding, token: SpecialToken) -> Option<usize> {
    let id = tokenizer.special_id(token)?;
    window.input_ids.iter().position(|known| *known == id)
}

/// The question, its number of tokens, and whether it was cut.
fn cut<'a>(tokenizer: &Tokenizer, question: &'a str, settings: &Settings) -> Result<(&'a str, usize, bool)> {
    let bare = EncodeOptions { add_special_tokens: false, truncation: None };
    let encoding = tokenizer.encode(question, None, &bare)?;
    let fits = encoding.len() + tokenizer.n_special_tokens(true) < settings.max_length;
    let usual = if fits { encoding.len() } else { MAX_QUESTION_LEN.min(settings.max_length / 2) };
    let longest = settings.max_question_len.unwrap_or(usual);
    if longest == 0 || encoding.len() <= longest {
        return Ok((question, encoding.len(), false));
    }
    let kept = slice(question, 0, encoding.offsets[longest - 1].1);
    // What is left may fall into other tokens at its end.
    Ok((kept, tokenizer.encode(kept, None, &bare)?.len(), true))
}

/// A gold answer.
struct Gold {
    text: Arc<str>,
    start: Option<i64>,
}

/// The gold answers of a row; none where it has no `answers`.
fn golds(row: &Row) -> Result<Option<Vec<Gold>>> {
    let wrong = |got: &Value| {
        let (name, got) = ("`answers`".into(), got.type_name().into());
        Error::new(What::WrongType { name, wanted: "`#{ text: [...], answer_start: [...] }`".into(), got })
    };
    let gold = |text: &Value, start: Option<&Value>| match text {
        Value::Str(text) => Ok(Gold { text: text.clone(), start: start.and_then(Value::as_int) }),
        other => Err(wrong(other)),
    };
    match row.get("answers") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Map(columns)) => {
            let texts =
                columns.get("text").and_then(Value::as_list).ok_or_else(|| wrong(&Value::Map(columns.clone())))?;
            let starts = columns.get("answer_start").and_then(Value::as_list).unwrap_or_default();
            texts.iter().enumerate().map(|(index, text)| gold(text, starts.get(index))).collect::<Result<_>>().map(Some)
        }
        Some(Value::List(answers)) => {
            let each = answers.iter().map(|answer| match answer {
                Value::Map(parts) => gold(parts.get("text").unwrap_or(&Value::Null), parts.get("answer_start")),
                other => Err(wrong(other)),
            });
            each.collect::<Result<_>>().map(Some)
        }
        Some(other) => Err(wrong(other)),
    }
}

/// Start and end of the first gold answer in the context, in characters; none for a question without an answer.
fn labelled(golds: &[Gold], context: &str) -> Result<Option<(usize, usize)>> {
    let Some(gold) = golds.first().filter(|gold| !gold.text.is_empty()) else { return Ok(None) };
    let Some(start) = gold.start else {
        let error = Error::new(What::BadData(format!("the answer `{}` has no `answer_start`", gold.text)));
        return Err(
            error.hint("give `answers: #{ text: [...], answer_start: [...] }`, the start in characters of the context")
        );
    };
    let (n_answer, n_context) = (gold.text.chars().count(), context.chars().count());
    match usize::try_from(start).ok().filter(|start| start + n_answer <= n_context) {
        Some(start) => Ok(Some((start, start + n_answer))),
        None => Err(misplaced(gold, context, "outside the context")),
    }
}

/// Checks that each gold answer of a row stands in the context where its `answer_start` says.
///
/// # Errors
/// The first that does not, with what stands there instead and where the answer is found.
pub fn check_answers(row: &Row) -> Result<()> {
    check(&golds(row)?.unwrap_or_default(), &text(row, "context")?)
}

fn check(golds: &[Gold], context: &str) -> Result<()> {
    for gold in golds {
        let start = usize::try_from(gold.start.unwrap_or(-1)).ok();
        let found = start.map(|start| slice(context, start, start + gold.text.chars().count()));
        match found {
            Some(found) if *found == *gold.text => {}
            Some(found) => {
                return Err(misplaced(gold, context, &format!("not there: the context has `{found}` there")));
            }
            None => return Err(misplaced(gold, context, "without a place")),
        }
    }
    Ok(())
}

fn misplaced(gold: &Gold, context: &str, how: &str) -> Error {
    let start = gold.start.map_or("nothing".into(), |start| start.to_string());
    let error = Error::new(What::BadData(format!("the answer `{}` with `answer_start` {start} is {how}", gold.text)));
    match context.find(&*gold.text) {
        Some(at) => {
            let counted = context[..at].chars().count();
            error.hint(format!(
                "it is found at {counted}; `answer_start` counts characters (code points) from 0, not bytes"
            ))
        }
        None => error.hint("the context does not hold it: was the text changed after the answers were marked?"),
    }
}

/// A part of a text, counted in characters; what lies beyond its end is left out.
pub fn slice(text: &str, start: usize, end: usize) -> &str {
    let mut places = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    let from = places.nth(start).unwrap_or(text.len());
    if end <= start {
        return &text[from..from];
    }
    let to = places.nth(end - start - 1).unwrap_or(text.len());
    &text[from..to]
}

fn text(row: &Row, name: &str) -> Result<Arc<str>> {
    match row.get(name) {
        Some(Value::Str(text)) if !text.is_empty() => Ok(text.clone()),
        Some(Value::Str(_)) => Err(What::BadData(format!("the row's `{name}` is empty")).into()),
        Some(other) => {
            let error = Error::new(What::BadData(format!("the row's `{name}` is {}, not text", other.type_name())));
            Err(error.hint("leave such rows out, for example with `filter`"))
        }
        None => {
            let known = row.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let has = if known.is_empty() { "nothing".into() } else { known };
            let error = Error::new(What::BadData(format!("the row has no `{name}`; it has {has}")));
            Err(error.hint("question answering takes `#{ question: \"...\", context: \"...\" }`"))
        }
    }
}

fn numbers(ids: &[u32]) -> Value {
    Value::List(ids.iter().map(|&id| Value::Int(i64::from(id))).collect())
}

pub(super) fn option<'a>(options: &'a Value, key: &str) -> Option<&'a Value> {
    let Value::Map(map) = options else { return None };
    map.get(key).filter(|value| **value != Value::Null)
}

/// A whole number among the options, of at least `least`.
pub(super) fn count(options: &Value, key: &str, least: usize) -> Result<Option<usize>> {
    let Some(value) = option(options, key) else { return Ok(None) };
    let number = value.as_int().and_then(|number| usize::try_from(number).ok());
    match number.filter(|number| *number >= least) {
        Some(number) => Ok(Some(number)),
        None => {
            let value = value.to_json().to_string();
            Err(What::OutOfRange { name: format!("`{key}`"), value, allowed: format!("at least {least}") }.into())
        }
    }
}
