//! The next token of a sequence: the scores after Hugging Face's logits processors, in its order, and a choice among them.
//!
//! Repetition penalty, repeated n-grams, ends of text that come too early; then, where tokens are drawn, temperature,
//! `top_k`, `top_p` and `min_p`. A score of minus infinity means that the token is not chosen.

use std::cmp::Ordering;

use crate::error::{Result, What};
use crate::head::generation::GenerationSettings;

/// Changes the scores of the token behind `tokens`, the first `n_prompt` of which are the prompt.
pub fn process(scores: &mut [f32], tokens: &[u32], n_prompt: usize, settings: &GenerationSettings) {
    if settings.repetition_penalty != 1.0 {
        penalize(scores, tokens, settings.repetition_penalty as f32);
    }
    if settings.no_repeat_ngram_size > 0 {
        forbid_repeats(scores, tokens, settings.no_repeat_ngram_size);
    }
    if tokens.len() < settings.min_length || tokens.len() - n_prompt < settings.min_new_tokens {
        for &id in &settings.eos_token_ids {
            if let Some(score) = scores.get_mut(id as usize) {
                *score = f32::NEG_INFINITY;
            }
        }
    }
    if !settings.do_sample {
        return;
    }
    if settings.temperature != 1.0 {
        scores.iter_mut().for_each(|score| *score /= settings.temperature as f32);
    }
    if settings.top_k > 0 {
        keep_best(scores, settings.top_k);
    }
    if settings.top_p < 1.0 {
        keep_mass(scores, settings.top_p);
    }
    if let Some(share) = settings.min_p {
        keep_near_best(scores, share);
    }
}

/// A token's score counts as less likely once for all the times it was seen.
fn penalize(scores: &mut [f32], tokens: &[u32], penalty: f32) {
    let mut seen = tokens.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
}

/// Forbids what would make the last `size` tokens a sequence that was there before.
fn forbid_repeats(scores: &mut [f32], tokens: &[u32], size: usize) {
    if tokens.len() + 1 < size {
        return;
    }
    let last = &tokens[tokens.len() + 1 - size..];
    for window in tokens.windows(size) {
        if let Some((next, before)) = window.split_last()
            && before == last
            && let Some(score) = scores.get_mut(*next as usize)
        {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// Keeps the `count` best scores, and those that equal the last of them.
fn keep_best(scores: &mut [f32], count: usize) {
    if count >= scores.len() {
        return;
    }
    let mut sorted = scores.to_vec();
    let (_, least, _) = sorted.select_nth_unstable_by(count - 1, |a, b| descending(*a, *b));
    let least = *least;
    scores.iter_mut().filter(|score| **score < least).for_each(|score| *score = f32::NEG_INFINITY);
}

/// Keeps the likeliest tokens whose probabilities reach `mass` together, at least one.
fn keep_mass(scores: &mut [f32], mass: f64) {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    // From the least likely, as Hugging Face sorts; the last one always stays.
    order.sort_by(|&a, &b| descending(scores[b as usize], scores[a as usize]));
    let probabilities = softmax(scores);
    let mut sum = 0.0;
    for &id in &order[..order.len().saturating_sub(1)] {
        sum += probabilities[id as usize];
        if sum as f32 > (1.0 - mass) as f32 {
            break;
        }
        scores[id as usize] = f32::NEG_INFINITY;
    }
}

/// Keeps tokens that have at least `share` of the likeliest's probability.
fn keep_near_best(scores: &mut [f32], share: f64) {
    let best = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let least = f64::from(best) + share.ln();
    scores.iter_mut().filter(|score| f64::from(**score) < least).for_each(|score| *score = f32::NEG_INFINITY);
}

fn descending(a: f32, b: f32) -> Ordering {
    b.total_cmp(&a)
}

/// The probabilities of scores.
pub fn softmax(scores: &[f32]) -> Vec<f64> {
    let best = f64::from(scores.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let mut all: Vec<f64> = scores.iter().map(|&score| (f64::from(score) - best).exp()).collect();
    let sum: f64 = all.iter().sum();
    all.iter_mut().for_each(|probability| *probability /= sum);
    all
}

/// The token with the best score; of several the first.
///
/// # Errors
/// Scores that are not numbers, or none that may be chosen.
pub fn best(scores: &[f32]) -> Result<u32> {
    check(scores)?;
    let better = |best: usize, (id, score): (usize, &f32)| if *score > scores[best] { id } else { best };
    Ok(scores.iter().enumerate().fold(0, better) as u32)
}

/// The token that a uniform number from [0, 1) draws by the probabilities of the scores.
///
/// # Errors
/// As [`best`].
pub fn draw(scores: &[f32], uniform: f64) -> Result<u32> {
    check(scores)?;
    let mut rest = uniform;
    let mut last = 0;
    for (id, probability) in softmax(scores).into_iter().enumerate().filter(|(_, probability)| *probability > 0.0) {
        last = id as u32;
        if rest < probability {
            break;
        }
        rest -= probability;
    }
    Ok(last)
}

fn check(scores: &[f32]) -> Result<()> {
    if scores.iter().any(|score| score.is_nan()) {
        return Err(What::Conflict("the model's scores of the next token are not numbers".into()).into());
    }
    if scores.iter().all(|&score| score == f32::NEG_INFINITY) {
        let problem = "no token may come next: the settings of `generate` forbid each of them";
        return Err(What::Conflict(problem.into()).into());
    }
    Ok(())
}
