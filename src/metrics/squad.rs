//! Answers to questions as SQuAD's official scripts score them, versions 1.1 and 2.0 (Rajpurkar et al. 2016 and 2018), with
//! the keys of Hugging Face's `squad` and `squad_v2`.
//!
//! Texts of predictions and gold answers flow in, percentages flow out. An answer counts as exact where it equals a gold one
//! after [`normalize`]; F1 compares the bags of words; of several gold answers the best counts.

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexMap;

use crate::data::{Row, Value};
use crate::error::{Error, Result, What};

/// The text in lower case, without ASCII punctuation, without the words `a`, `an` and `the`, with single spaces.
pub fn normalize(text: &str) -> String {
    let lower = text.to_lowercase();
    let bare: String = lower.chars().filter(|letter| !letter.is_ascii_punctuation()).collect();
    let mut kept = String::with_capacity(bare.len());
    let mut rest = bare.as_str();
    while let Some(first) = rest.chars().next() {
        let here = is_word(first);
        let end = rest.find(|letter| is_word(letter) != here).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        kept.push_str(if matches!(run, "a" | "an" | "the") { " " } else { run });
        rest = after;
    }
    kept.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Python's `\w`: letters, numbers and the underscore; marks and circled letters are none, though Unicode calls some of
/// them alphabetic. (Marks of other scripts do not stand beside an English article, so they are not listed.)
fn is_word(letter: char) -> bool {
    let marked =
        matches!(letter, '\u{345}' | '\u{363}'..='\u{36F}' | '\u{24B6}'..='\u{24E9}' | '\u{1F130}'..='\u{1F189}');
    letter == '_' || letter.is_numeric() || (letter.is_alphabetic() && !marked)
}

/// Python's `str.isspace`: Unicode's white space and four ASCII separators.
fn is_space(letter: char) -> bool {
    letter.is_whitespace() || ('\u{1C}'..='\u{1F}').contains(&letter)
}

/// F1 of the words of two normalized texts, and none where one of them has no words.
fn overlap(prediction: &str, gold: &str) -> Option<f64> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let (mut n_gold, mut n_prediction, mut n_same) = (0, 0, 0);
    for word in gold.split(' ').filter(|word| !word.is_empty()) {
        *counts.entry(word).or_default() += 1;
        n_gold += 1;
    }
    for word in prediction.split(' ').filter(|word| !word.is_empty()) {
        n_prediction += 1;
        if let Some(left) = counts.get_mut(word).filter(|left| **left > 0) {
            *left -= 1;
            n_same += 1;
        }
    }
    if n_gold == 0 || n_prediction == 0 {
        return None;
    }
    if n_same == 0 {
        return Some(0.0);
    }
    let (precision, recall) = (f64::from(n_same) / f64::from(n_prediction), f64::from(n_same) / f64::from(n_gold));
    Some((2.0 * precision * recall) / (precision + recall))
}

/// SQuAD 1.1: every question has an answer. Counts as it goes, in constant memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Squad {
    exact: u64,
    f1: f64,
    total: u64,
}

impl Squad {
    /// Counts a question: its predicted answer, nothing where there is none, and its gold answers.
    ///
    /// # Errors
    /// A question without gold answers.
    pub fn add(&mut self, prediction: Option<&str>, golds: &[&str]) -> Result<()> {
        if golds.is_empty() {
            let error =
                Error::new(What::BadData("a question has no gold answer, which SQuAD 1.1 does not know".into()));
            return Err(error.hint("`squad_v2` scores questions that may have no answer"));
        }
        self.total += 1;
        let Some(prediction) = prediction.map(normalize) else { return Ok(()) };
        let golds: Vec<String> = golds.iter().map(|gold| normalize(gold)).collect();
        self.exact += u64::from(golds.contains(&prediction));
        // Here two texts without words share nothing; in version 2.0 they agree.
        let scores = golds.iter().map(|gold| overlap(&prediction, gold).unwrap_or(0.0));
        self.f1 += scores.fold(0.0, f64::max);
        Ok(())
    }

    /// `exact_match` and `f1`, in percent.
    ///
    /// # Errors
    /// No question.
    pub fn scores(&self) -> Result<Row> {
        if self.total == 0 {
            return Err(What::BadData("there are no references to score".into()).into());
        }
        let exact_match = 100.0 * self.exact as f64 / self.total as f64;
        let f1 = 100.0 * self.f1 / self.total as f64;
        Ok(named([("exact_match", Value::Float(exact_match)), ("f1", Value::Float(f1))]))
    }
}

/// A predicted answer for SQuAD 2.0.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The answer; empty where the question is taken to have none.
    pub text: String,
    /// How sure the model is that there is none.
    pub no_answer_probability: f64,
}

/// The scores of one question before thresholds.
struct Raw<'a> {
    has_answer: bool,
    prediction: &'a Prediction,
    exact: f64,
    f1: f64,
}

/// SQuAD 2.0, where a question may have no answer: predictions and gold answers by the question's id.
///
/// A prediction whose `no_answer_probability` is above `threshold` counts as "no answer". Gives `exact`, `f1` and `total`, the same
/// over questions with (`HasAns_...`) and without answers (`NoAns_...`) where there are such, and the best scores any threshold
/// gives with the first such threshold (`best_exact`, `best_exact_thresh`, `best_f1`, `best_f1_thresh`).
///
/// # Errors
/// No question, and a question without a prediction.
pub fn squad_v2(
    predictions: &IndexMap<String, Prediction>,
    references: &IndexMap<String, Vec<String>>,
    threshold: f64,
) -> Result<Row> {
    let mut questions: IndexMap<&str, Raw<'_>> = IndexMap::new();
    for (id, golds) in references {
        let Some(prediction) = predictions.get(id) else {
            let error = Error::new(What::BadData(format!("there is no prediction for the question `{id}`")));
            return Err(error.hint("give every question one; its text is empty where there is no answer"));
        };
        questions.insert(id, raw(prediction, golds));
    }
    if questions.is_empty() {
        return Err(What::BadData("there are no references to score".into()).into());
    }
    let decided = |raw: &Raw<'_>, score: fn(&Raw<'_>) -> f64| match raw.prediction.no_answer_probability > threshold {
        true => f64::from(u8::from(!raw.has_answer)),
        false => score(raw),
    };
    let mut result = IndexMap::new();
    for (prefix, wanted) in [("", None), ("HasAns_", Some(true)), ("NoAns_", Some(false))] {
        let part = || questions.values().filter(|raw| wanted.is_none_or(|wanted| raw.has_answer == wanted));
        let total = part().count();
        if total == 0 {
            continue;
        }
        let percent = |score: fn(&Raw<'_>) -> f64| {
            Value::Float(100.0 * part().fold(0.0, |sum, raw| sum + decided(raw, score)) / total as f64)
        };
        result.insert(format!("{prefix}exact"), percent(|raw| raw.exact));
        result.insert(format!("{prefix}f1"), percent(|raw| raw.f1));
        result.insert(format!("{prefix}total"), Value::Int(total as i64));
    }
    // From the surest to have an answer to the least sure; equal ones in the order of the predictions.
    let mut order: Vec<&Raw<'_>> = predictions.keys().filter_map(|id| questions.get(id.as_str())).collect();
    order.sort_by(|a, b| a.prediction.no_answer_probability.total_cmp(&b.prediction.no_answer_probability));
    for (name, score) in [("exact", (|raw| raw.exact) as fn(&Raw<'_>) -> f64), ("f1", |raw| raw.f1)] {
        let (best, best_threshold) = best(&order, score);
        result.insert(format!("best_{name}"), Value::Float(100.0 * best / questions.len() as f64));
        result.insert(format!("best_{name}_thresh"), Value::Float(best_threshold));
    }
    Ok(Arc::new(result))
}

fn raw<'a>(prediction: &'a Prediction, golds: &[String]) -> Raw<'a> {
    let text = normalize(&prediction.text);
    let mut known: Vec<String> = golds.iter().map(|gold| normalize(gold)).filter(|gold| !gold.is_empty()).collect();
    if known.is_empty() {
        // What has no words is no answer.
        known.push(String::new());
    }
    let agree = |gold: &String| f64::from(u8::from(*gold == text));
    let f1 = known.iter().map(|gold| overlap(&text, gold).unwrap_or_else(|| agree(gold))).fold(0.0, f64::max);
    Raw { has_answer: !golds.is_empty(), prediction, exact: f64::from(u8::from(known.contains(&text))), f1 }
}

/// The best sum of scores over all thresholds, and the first threshold that gives it.
fn best(order: &[&Raw<'_>], score: fn(&Raw<'_>) -> f64) -> (f64, f64) {
    // Below every probability all questions count as unanswerable.
    let mut sum = order.iter().filter(|raw| !raw.has_answer).count() as f64;
    let mut best = (sum, 0.0);
    for raw in order {
        sum += match (raw.has_answer, raw.prediction.text.is_empty()) {
            (true, _) => score(raw),
            (false, true) => 0.0,
            (false, false) => -1.0,
        };
        if sum > best.0 {
            best = (sum, raw.prediction.no_answer_probability);
        }
    }
    best
}

fn named<const N: usize>(entries: [(&str, Value); N]) -> Row {
    Arc::new(entries.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
}
