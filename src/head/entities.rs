//! Scores of tokens turned into entities, as Hugging Face's token-classification pipeline does, with its five strategies.
//!
//! What a window's tokens are and where they stand in the sentence ([`Pieces`]) flows in beside their logits; entities flow
//! out. Numbers are computed in f32 and in the order in which the pipeline computes them.

use crate::error::{Result, What};
use crate::tokenizer::Tokenizer;

/// How the tokens of an entity are brought together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    /// Every token by itself.
    None,
    /// Neighbours whose labels go on.
    Simple,
    /// As [`Aggregation::Simple`], words having the label of their first token.
    First,
    /// Words having the label of the mean of their tokens' scores.
    Average,
    /// Words having the label of their surest token.
    Max,
}

impl Aggregation {
    /// The strategy that is called `name`, in Hugging Face's words.
    ///
    /// # Errors
    /// An unknown name.
    pub fn named(name: &str) -> Result<Self> {
        Ok(match name {
            "none" => Aggregation::None,
            "simple" => Aggregation::Simple,
            "first" => Aggregation::First,
            "average" => Aggregation::Average,
            "max" => Aggregation::Max,
            _ => {
                let allowed = "\"none\", \"simple\", \"first\", \"average\" or \"max\"".into();
                let (name, value) = ("`aggregation_strategy`".into(), format!("{name:?}"));
                return Err(What::OutOfRange { name, value, allowed }.into());
            }
        })
    }
}

/// The tokens of a window, and where they stand in the sentence, in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// The whole sentence.
    pub sentence: Vec<char>,
    /// The id of each token.
    pub ids: Vec<u32>,
    /// Start and end of each token in the sentence.
    pub offsets: Vec<(usize, usize)>,
    /// Whether the token was put around the text.
    pub special: Vec<bool>,
}

/// An entity, or a token with its label.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The label, or the type where tokens were brought together.
    pub label: String,
    /// Its score.
    pub score: f32,
    /// The token's place in its window, where it is a single one.
    pub index: Option<usize>,
    /// The text that its tokens make.
    pub word: String,
    /// Its first character in the sentence.
    pub start: usize,
    /// The character behind its last one.
    pub end: usize,
}

struct Piece {
    word: String,
    scores: Vec<f32>,
    start: usize,
    end: usize,
    index: usize,
    goes_on: bool,
}

/// The entities of a window whose tokens have these `logits`, one row of them a token, and `names` of their labels.
///
/// # Errors
/// A decoder that fails.
pub fn entities(
    pieces: &Pieces,
    logits: &[Vec<f32>],
    names: &[&str],
    aggregation: Aggregation,
    tokenizer: &Tokenizer,
) -> Result<Vec<Found>> {
    let pieces = gather(pieces, logits, tokenizer);
    let single = |piece: &Piece| {
        let (best, score) = largest(&piece.scores);
        let (word, index) = (piece.word.clone(), Some(piece.index));
        Found { label: names[best].to_string(), score, index, word, start: piece.start, end: piece.end }
    };
    let words = match aggregation {
        Aggregation::None => return Ok(pieces.iter().map(single).collect()),
        Aggregation::Simple => pieces.iter().map(single).collect(),
        _ => {
            let words = pieces.chunk_by(|_, piece| piece.goes_on);
            words.map(|word| one_word(word, names, aggregation, tokenizer)).collect::<Result<Vec<_>>>()?
        }
    };
    let groups = words.chunk_by(|before, here| {
        let ((_, before), (begins, here)) = (tag_of(&before.label), tag_of(&here.label));
        before == here && !begins
    });
    groups.map(|group| grouped(group, tokenizer)).collect()
}

fn gather(pieces: &Pieces, logits: &[Vec<f32>], tokenizer: &Tokenizer) -> Vec<Piece> {
    let knows_words = tokenizer.continuing_subword_prefix().is_some();
    let mut found = Vec::new();
    for (index, (&id, logits)) in pieces.ids.iter().zip(logits).enumerate() {
        if pieces.special[index] {
            continue;
        }
        let (start, end) = pieces.offsets[index];
        let within = |range: std::ops::Range<usize>| pieces.sentence.get(range).unwrap_or_default();
        let text = within(start..end);
        let mut word = tokenizer.id_to_token(id).unwrap_or_default();
        // A tokenizer that marks the pieces inside words shows them by a longer token; else only spaces can tell.
        let mut goes_on = if knows_words {
            word.chars().count() != text.len()
        } else {
            start > 0 && !within(start - 1..(start + 1).min(pieces.sentence.len())).contains(&' ')
        };
        if tokenizer.unk_id() == Some(id) {
            word = text.iter().collect();
            goes_on = false;
        }
        found.push(Piece { word, scores: softmax(logits), start, end, index, goes_on });
    }
    found
}

fn one_word(word: &[Piece], names: &[&str], aggregation: Aggregation, tokenizer: &Tokenizer) -> Result<Found> {
    let (best, score) = match aggregation {
        Aggregation::Average => {
            let mut sums = vec![0.0f32; names.len()];
            for piece in word {
                for (sum, score) in sums.iter_mut().zip(&piece.scores) {
                    *sum += score;
                }
            }
            largest(&sums.iter().map(|sum| sum / word.len() as f32).collect::<Vec<_>>())
        }
        // Of equally sure tokens the first one counts.
        Aggregation::Max => word
            .iter()
            .map(|piece| largest(&piece.scores))
            .fold((0, f32::NEG_INFINITY), |one, other| if other.1 > one.1 { other } else { one }),
        _ => largest(&word[0].scores),
    };
    let text = tokenizer.join(word.iter().map(|piece| piece.word.clone()).collect())?;
    let (start, end) = (word[0].start, word[word.len() - 1].end);
    Ok(Found { label: names[best].to_string(), score, index: None, word: text, start, end })
}

/// Tokens or words brought together under the type of the first one.
fn grouped(group: &[Found], tokenizer: &Tokenizer) -> Result<Found> {
    let first = &group[0].label;
    let label = first.split_once('-').map_or(first.as_str(), |(_, kind)| kind).to_string();
    let score = group.iter().map(|one| one.score).sum::<f32>() / group.len() as f32;
    let word = tokenizer.join(group.iter().map(|one| one.word.clone()).collect())?;
    Ok(Found { label, score, index: None, word, start: group[0].start, end: group[group.len() - 1].end })
}

/// Whether a label begins an entity, and its type; a label of another form goes on.
fn tag_of(label: &str) -> (bool, &str) {
    match (label.strip_prefix("B-"), label.strip_prefix("I-")) {
        (Some(kind), _) => (true, kind),
        (None, Some(kind)) => (false, kind),
        (None, None) => (false, label),
    }
}

/// Of entities of several windows that overlap, the longest; of equally long ones, the surest.
pub fn join_windows(windows: Vec<Vec<Found>>) -> Vec<Found> {
    let several = windows.len() > 1;
    let mut all: Vec<Found> = windows.into_iter().flatten().collect();
    if !several || all.is_empty() {
        return all;
    }
    all.sort_by_key(|found| found.start);
    let mut kept: Vec<Found> = Vec::new();
    let mut best = all[0].clone();
    for found in all {
        if (best.start..best.end).contains(&found.start) {
            let (here, before) = (found.end - found.start, best.end - best.start);
            if here > before || (here == before && found.score > best.score) {
                best = found;
            }
        } else {
            kept.push(std::mem::replace(&mut best, found));
        }
    }
    kept.push(best);
    kept
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f32> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let sum: f32 = exps.iter().sum();
    exps.into_iter().map(|exp| exp / sum).collect()
}

/// The first of the largest scores, with its place.
fn largest(scores: &[f32]) -> (usize, f32) {
    let start = (0, f32::NEG_INFINITY);
    scores.iter().copied().enumerate().fold(start, |best, here| if here.1 > best.1 { here } else { best })
}
