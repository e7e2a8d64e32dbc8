//! From the scores of tokens to answers: as run_qa evaluates, and as Hugging Face's question-answering pipeline answers.
//!
//! Start and end scores of a batch's windows flow in with what [`crate::head::question_windows`] kept of them; first the best
//! spans of each window flow out ([`n_best_spans`], [`answer_spans`]), then, over the windows of a row, its answers
//! ([`best_answers`], [`merge_answers`]).

use std::cmp::Ordering;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use indexmap::IndexMap;

use crate::batch::Batch;
use crate::data::{Row, Value};
use crate::error::{Error, Result, What};
use crate::head::question_windows::{count, option, slice};
use crate::head::token_spans::{TokenSpan, unpack};

/// A window's scores, with what its tokens stand for.
struct Window {
    start: Vec<f32>,
    end: Vec<f32>,
    first_token: usize,
    class_token: Option<usize>,
    spans: Vec<TokenSpan>,
}

/// Cuts the scores of a batch, `(tokens)` each, into its windows.
fn scored(start: &Tensor, end: &Tensor, batch: &Batch) -> Result<Vec<Window>> {
    let numbers = |tensor: &Tensor, name: &str| -> Result<Vec<f32>> {
        if tensor.dims() != [batch.n_tokens()] {
            let (got, n) = (format!("{:?}", tensor.dims()), batch.n_tokens());
            let problem = format!("`{name}` must be one score for each of {n} tokens, but has shape {got}");
            return Err(What::Conflict(problem).into());
        }
        Ok(tensor.to_dtype(DType::F32)?.to_vec1()?)
    };
    let (starts, ends) = (numbers(start, "start_logits")?, numbers(end, "end_logits")?);
    let rows = batch.starts.iter().zip(&batch.key_lengths).zip(&batch.kept);
    let window = |((&at, &length), kept): ((&usize, &usize), &Row)| {
        let Some(Value::Map(window)) = kept.get("window") else { return Err(not_kept("window")) };
        let place = |name: &str| window.get(name).and_then(Value::as_int).and_then(|place| usize::try_from(place).ok());
        let spans = window.get("spans").and_then(Value::as_str).ok_or_else(|| not_kept("spans"))?;
        let first_token = place("first_token").ok_or_else(|| not_kept("first_token"))?;
        let mut spans = unpack(spans);
        spans.truncate(length.saturating_sub(first_token));
        Ok(Window {
            start: starts[at..at + length].to_vec(),
            end: ends[at..at + length].to_vec(),
            first_token,
            class_token: place("class_token").filter(|place| *place < length),
            spans,
        })
    };
    rows.map(window).collect()
}

fn not_kept(name: &str) -> Error {
    Error::new(What::BadData(format!("the windows have no `{name}`")))
        .hint("`question_windows(tokenizer, row, options)` makes the windows that answers can be read from")
}

/// The best spans of each window as run_qa collects them: pairs of the `n_best_size` best starts and ends that lie in the
/// context and are not longer than `max_answer_length` tokens; and the scores of "no answer", those of the first token.
///
/// One map a window: `start_logits`, `end_logits`, `starts` and `ends` (in characters) of its spans, best first, and `null`.
/// Rows that a recipe has encoded itself are no windows: they give nothing.
///
/// # Errors
/// Scores of another shape, options out of range.
pub fn n_best_spans(start: &Tensor, end: &Tensor, batch: &Batch, options: &Value) -> Result<Vec<Value>> {
    let n_best = count(options, "n_best_size", 1)?.unwrap_or(20);
    let longest = count(options, "max_answer_length", 1)?.unwrap_or(30);
    if !batch.kept.iter().any(|kept| kept.contains_key("window")) {
        return Ok(vec![Value::Null; batch.n_rows()]);
    }
    let windows = scored(start, end, batch)?;
    Ok(windows.iter().map(|window| collected(window, n_best, longest)).collect())
}

fn collected(window: &Window, n_best: usize, longest: usize) -> Value {
    let in_context = |token: usize| token.checked_sub(window.first_token).filter(|place| *place < window.spans.len());
    let mut found = Vec::new();
    let ends = largest(&window.end, n_best);
    for &from in &largest(&window.start, n_best) {
        for &to in &ends {
            let (Some(first), Some(last)) = (in_context(from), in_context(to)) else { continue };
            if first <= last && last - first < longest {
                found.push(Span {
                    start_logit: window.start[from],
                    end_logit: window.end[to],
                    start: window.spans[first].start,
                    end: window.spans[last].end,
                });
            }
        }
    }
    found.sort_by(|a, b| descending(a.score(), b.score()));
    found.truncate(n_best);
    let null = [window.start[0], window.end[0]].map(|score| Value::Float(f64::from(score)));
    let list = |value: fn(&Span) -> Value| Value::List(found.iter().map(value).collect());
    map([
        ("start_logits", list(|span| Value::Float(f64::from(span.start_logit)))),
        ("end_logits", list(|span| Value::Float(f64::from(span.end_logit)))),
        ("starts", list(|span| Value::Int(span.start as i64))),
        ("ends", list(|span| Value::Int(span.end as i64))),
        ("null", Value::List(null.into())),
    ])
}

/// The places of the `n` largest scores, best first; of equal ones the later, as a reversed `argsort` gives them.
fn largest(scores: &[f32], n: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..scores.len()).rev().collect();
    places.sort_by(|&a, &b| descending(scores[a], scores[b]));
    places.truncate(n);
    places
}

fn descending(a: f32, b: f32) -> Ordering {
    b.total_cmp(&a)
}

/// A possible answer; its score is the sum of both scores, in f32 as Hugging Face adds them.
#[derive(Clone, Copy)]
struct Span {
    start_logit: f32,
    end_logit: f32,
    start: usize,
    end: usize,
}

impl Span {
    fn score(&self) -> f32 {
        self.start_logit + self.end_logit
    }
}

/// The best answer to each question, from [`n_best_spans`] of its windows, in the form that `squad` and `squad_v2` take:
/// predictions with `id`, `prediction_text` and `no_answer_probability`, references with `id` and `answers`.
///
/// With `version_2_with_negative` the answer is empty where the smallest "no answer" score of the windows is above that of
/// the best span by more than `null_score_diff_threshold`.
///
/// # Errors
/// References that are no windows, or not as many as predictions.
pub fn best_answers(predictions: &[Value], references: &[Value], options: &Value) -> Result<(Vec<Value>, Vec<Value>)> {
    if predictions.len() != references.len() {
        let problem = format!("there are {} predictions for {} windows", predictions.len(), references.len());
        return Err(What::BadData(problem).into());
    }
    let with_negative = option(options, "version_2_with_negative").and_then(Value::as_int) == Some(1);
    let threshold = option(options, "null_score_diff_threshold").and_then(Value::as_float).unwrap_or(0.0);
    let n_best = count(options, "n_best_size", 1)?.unwrap_or(20);
    let mut questions: Vec<(&IndexMap<String, Value>, Vec<&Value>)> = Vec::new();
    for (prediction, reference) in predictions.iter().zip(references) {
        let window = option(reference, "window").ok_or_else(|| not_kept("window"))?;
        let Value::Map(window) = window else { return Err(not_kept("window")) };
        match questions.last_mut() {
            Some((_, windows)) if window.get("number").and_then(Value::as_int) != Some(0) => windows.push(prediction),
            _ => questions.push((&**window, vec![prediction])),
        }
    }
    let ids = ids(&questions.iter().map(|(window, _)| window.get("id")).collect::<Vec<_>>());
    let (mut answers, mut golds) = (Vec::new(), Vec::new());
    for (id, (window, windows)) in ids.into_iter().zip(&questions) {
        let context = window.get("context").and_then(Value::as_str).ok_or_else(|| not_kept("context"))?;
        let text = best_text(windows, context, n_best, with_negative.then_some(threshold));
        answers.push(map([
            ("id", id.clone()),
            ("prediction_text", Value::from(text)),
            ("no_answer_probability", Value::Float(0.0)),
        ]));
        let texts = window.get("answers").cloned().filter(|texts| *texts != Value::Null);
        let texts = texts.unwrap_or_else(|| Value::List([].into()));
        golds.push(map([("id", id), ("answers", map([("text", texts)]))]));
    }
    Ok((answers, golds))
}

/// The questions' ids where each has one of its own, else their numbers.
fn ids(given: &[Option<&Value>]) -> Vec<Value> {
    let texts = given.iter().map(|id| match id {
        Some(Value::Str(id)) => Some(id.to_string()),
        Some(Value::Int(id)) => Some(id.to_string()),
        _ => None,
    });
    let mut seen = std::collections::HashSet::new();
    let texts: Option<Vec<String>> = texts.collect();
    match texts.filter(|texts| texts.iter().all(|id| seen.insert(id.clone()))) {
        Some(texts) => texts.iter().map(|id| Value::from(id.as_str())).collect(),
        None => (0..given.len()).map(|number| Value::from(number.to_string().as_str())).collect(),
    }
}

/// The text of a question's best span over its windows; empty where `null_threshold` lets "no answer" win.
fn best_text<'a>(windows: &[&Value], context: &'a str, n_best: usize, null_threshold: Option<f64>) -> &'a str {
    let numbers = |window: &Value, name: &str| -> Vec<f64> {
        let list = option(window, name).and_then(Value::as_list).unwrap_or_default();
        list.iter().filter_map(Value::as_float).collect()
    };
    let mut spans = Vec::new();
    let mut null: Option<f32> = None;
    for window in windows {
        let (starts, ends) = (numbers(window, "starts"), numbers(window, "ends"));
        let logits = numbers(window, "start_logits").into_iter().zip(numbers(window, "end_logits"));
        for ((start_logit, end_logit), (start, end)) in logits.zip(starts.into_iter().zip(ends)) {
            let (start_logit, end_logit) = (start_logit as f32, end_logit as f32);
            spans.push(Span { start_logit, end_logit, start: start as usize, end: end as usize });
        }
        if let [start, end] = numbers(window, "null")[..] {
            let score = start as f32 + end as f32;
            null = Some(null.map_or(score, |least| if least > score { score } else { least }));
        }
    }
    spans.sort_by(|a, b| descending(a.score(), b.score()));
    spans.truncate(n_best);
    let Some(threshold) = null_threshold else {
        return spans.first().map_or("", |best| slice(context, best.start, best.end));
    };
    let Some(best) = spans.iter().find(|span| span.end > span.start) else { return "" };
    let difference = null.unwrap_or(f32::NEG_INFINITY) - best.start_logit - best.end_logit;
    if f64::from(difference) > threshold { "" } else { slice(context, best.start, best.end) }
}

/// The best spans of each window as Hugging Face's pipeline finds them: probabilities over the context and the class token,
/// a span's score being the product of its ends'; at most `max_answer_len` tokens, whole words with `align_to_words`.
///
/// One map a window: `scores`, `starts` and `ends` (in characters), best first, and `null`, the score of "no answer".
///
/// # Errors
/// Scores of another shape, rows that are no windows, options out of range.
pub fn answer_spans(start: &Tensor, end: &Tensor, batch: &Batch, options: &Value) -> Result<Vec<Value>> {
    let top_k = count(options, "top_k", 1)?.unwrap_or(1);
    let longest = count(options, "max_answer_len", 1)?.unwrap_or(15);
    let whole_words = option(options, "align_to_words").and_then(Value::as_int) != Some(0);
    // Spans of one word become one answer, so that more of them are needed.
    let n_spans = if whole_words { top_k.saturating_mul(2).saturating_add(10) } else { top_k };
    let windows = scored(start, end, batch)?;
    Ok(windows.iter().map(|window| answered(window, n_spans, longest, whole_words)).collect())
}

fn answered(window: &Window, n_spans: usize, longest: usize, whole_words: bool) -> Value {
    let n = window.spans.len();
    let context = window.first_token..window.first_token + n;
    // The class token counts in the sum, but is no answer.
    let class = window.class_token.filter(|place| !context.contains(place));
    let probabilities = |scores: &[f32]| -> (Vec<f64>, f64) {
        let of_class = class.map(|place| scores[place]);
        let most = scores[context.clone()].iter().copied().chain(of_class).fold(f32::NEG_INFINITY, f32::max);
        let exp = |score: f32| f64::from(score - most).exp();
        let mut all: Vec<f64> = scores[context.clone()].iter().map(|&score| exp(score)).collect();
        let of_class = of_class.map_or(0.0, exp);
        let sum = all.iter().sum::<f64>() + of_class;
        all.iter_mut().for_each(|one| *one /= sum);
        (all, if sum > 0.0 { of_class / sum } else { 0.0 })
    };
    let ((starts, start_null), (ends, end_null)) = (probabilities(&window.start), probabilities(&window.end));
    let pairs = (0..n).flat_map(|from| (from..n.min(from.saturating_add(longest))).map(move |to| (from, to)));
    let mut found: Vec<(f64, usize, usize)> = pairs.map(|(from, to)| (starts[from] * ends[to], from, to)).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.truncate(n_spans);
    let places = found.iter().map(|&(_, from, to)| characters(&window.spans, from, to, whole_words));
    let (from, to): (Vec<_>, Vec<_>) =
        places.map(|(start, end)| (Value::Int(start as i64), Value::Int(end as i64))).unzip();
    map([
        ("scores", Value::List(found.iter().map(|&(score, ..)| Value::Float(score)).collect())),
        ("starts", Value::List(from.into())),
        ("ends", Value::List(to.into())),
        ("null", Value::Float(start_null * end_null)),
    ])
}

/// The characters of the tokens `from` to `to`, extended to whole words where the tokenizer has words.
fn characters(spans: &[TokenSpan], from: usize, to: usize, whole_words: bool) -> (usize, usize) {
    let of_word = |token: usize| {
        let word = spans[token].word.filter(|_| whole_words)?;
        let first = spans.iter().find(|span| span.word == Some(word))?;
        let last = spans.iter().rfind(|span| span.word == Some(word))?;
        Some((first.start, last.end))
    };
    match (of_word(from), of_word(to)) {
        (Some((start, _)), Some((_, end))) => (start, end),
        _ => (spans[from].start, spans[to].end),
    }
}

/// The answers to a question from [`answer_spans`] of its windows: `#{ score, start, end, answer }`, or a list of at most
/// `top_k` of them, best first, where that is given and above 1.
///
/// Spans whose texts differ in case at most are one answer, and their scores are added, as in Hugging Face. With
/// `handle_impossible_answer` an empty text, with the smallest "no answer" score of the windows, is an answer too.
///
/// # Errors
/// A row without `context`.
pub fn merge_answers(results: &[Value], row: &Row, options: &Value) -> Result<Value> {
    let top_k = count(options, "top_k", 1)?.unwrap_or(1);
    let with_none = option(options, "handle_impossible_answer").and_then(Value::as_int) == Some(1);
    let context = row.get("context").and_then(Value::as_str).ok_or_else(|| not_kept("context"))?;
    let mut answers: IndexMap<String, Answer<'_>> = IndexMap::new();
    let mut null = f64::INFINITY;
    for window in results {
        let list = |name: &str| option(window, name).and_then(Value::as_list).unwrap_or_default();
        let place = |value: &Value| value.as_int().and_then(|place| usize::try_from(place).ok()).unwrap_or(0);
        for ((score, start), end) in list("scores").iter().zip(list("starts")).zip(list("ends")) {
            let (start, end) = (place(start), place(end));
            let text = slice(context, start, end);
            let new = Answer { score: 0.0, start, end, text };
            answers.entry(text.to_lowercase()).or_insert(new).score += score.as_float().unwrap_or(0.0);
        }
        null = null.min(option(window, "null").and_then(Value::as_float).unwrap_or(f64::INFINITY));
    }
    let mut answers: Vec<Answer<'_>> = answers.into_values().collect();
    if with_none {
        answers.push(Answer { score: null, start: 0, end: 0, text: "" });
    }
    if answers.is_empty() {
        // A context without a single token.
        answers.push(Answer { score: 0.0, start: 0, end: 0, text: "" });
    }
    answers.sort_by(|a, b| b.score.total_cmp(&a.score));
    answers.truncate(top_k);
    match top_k {
        1 => Ok(answers[0].to_value()),
        _ => Ok(Value::List(answers.iter().map(Answer::to_value).collect())),
    }
}

/// An answer of the pipeline; places count characters of the context.
struct Answer<'a> {
    score: f64,
    start: usize,
    end: usize,
    text: &'a str,
}

impl Answer<'_> {
    fn to_value(&self) -> Value {
        map([
            ("score", Value::Float(self.score)),
            ("start", Value::Int(self.start as i64)),
            ("end", Value::Int(self.end as i64)),
            ("answer", Value::from(self.text)),
        ])
    }
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Map(Arc::new(entries.into_iter().map(|(name, value)| (name.to_string(), value)).collect()))
}
