//! What may stand in a row's masks: Hugging Face's fill-mask pipeline.

use candle_core::{DType, Tensor};

use crate::batch::Batch;
use crate::error::{Error, Place, Result, What};
use crate::head::generation::scores::softmax;
use crate::tensor::shape::{conflict, shown};
use crate::tokenizer::{EncodeOptions, SpecialToken, Tokenizer, Truncation};

/// A token that may stand in a mask.
#[derive(Clone, Debug, PartialEq)]
pub struct Filled {
    /// Its probability.
    pub score: f64,
    /// Its id.
    pub token: u32,
    /// Its text.
    pub token_str: String,
    /// The row's text with it in place of the mask.
    pub sequence: String,
}

/// For each row and each of its masks the `top_k` likeliest tokens, best first; among `targets` alone where there are any.
///
/// `logits` has the shape `(tokens, vocabulary)`.
///
/// # Errors
/// A row without a mask, a tokenizer without a mask token, logits of another shape.
pub fn fill_masks(
    logits: &Tensor,
    batch: &Batch,
    tokenizer: &Tokenizer,
    top_k: usize,
    targets: Option<&[u32]>,
) -> Result<Vec<Vec<Vec<Filled>>>> {
    let mask = mask_of(tokenizer)?;
    if logits.rank() != 2 || logits.dims()[0] != batch.n_tokens() {
        let (got, wanted) = (shown(logits.dims()), batch.n_tokens());
        return Err(conflict(format!("`fill_masks` takes scores of ({wanted}, vocabulary), but got {got}")));
    }
    let ids: Vec<u32> = batch.input_ids.to_vec1()?;
    let mut rows = Vec::with_capacity(batch.n_rows());
    for row in 0..batch.n_rows() {
        let start = batch.starts[row];
        let tokens = &ids[start..start + batch.key_lengths[row]];
        let places: Vec<usize> = (0..tokens.len()).filter(|&place| tokens[place] == mask).collect();
        if places.is_empty() {
            let token = tokenizer.special_token(SpecialToken::Mask).unwrap_or_default();
            return Err(Error::new(What::BadData(format!("no mask token (`{token}`) was found in the text")))
                .at(Place::Row(batch.rows[row]))
                .hint(format!("write `{token}` where a word is to be filled in")));
        }
        let one = places.len() == 1;
        let fill = |&place: &usize| {
            let scores: Vec<f32> = logits.get(start + place)?.to_dtype(DType::F32)?.to_vec1()?;
            let filled = likeliest(&scores, top_k, targets).into_iter().map(|(token, score)| {
                let mut sequence = tokens.to_vec();
                sequence[place] = token;
                sequence.retain(|&id| Some(id) != tokenizer.pad_id());
                // Among several masks the others stay to be seen, and with them the special tokens, as in Hugging Face.
                let sequence = tokenizer.decode(&sequence, one)?;
                Ok(Filled { score, token, token_str: tokenizer.decode(&[token], false)?, sequence })
            });
            filled.collect::<Result<Vec<_>>>()
        };
        rows.push(places.iter().map(fill).collect::<Result<Vec<_>>>()?);
    }
    Ok(rows)
}

/// The tokens with the largest probabilities, best first; of equal ones the lower id first.
fn likeliest(scores: &[f32], top_k: usize, targets: Option<&[u32]>) -> Vec<(u32, f64)> {
    let probabilities = softmax(scores);
    let mut all: Vec<u32> = match targets {
        Some(targets) => targets.iter().copied().filter(|&id| (id as usize) < scores.len()).collect(),
        None => (0..scores.len() as u32).collect(),
    };
    let order = |&a: &u32, &b: &u32| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b));
    let count = top_k.min(all.len());
    if count > 0 && count < all.len() {
        all.select_nth_unstable_by(count - 1, order);
    }
    all.truncate(count);
    all.sort_unstable_by(order);
    all.into_iter().map(|id| (id, probabilities[id as usize])).collect()
}

/// The ids of `targets`: of the vocabulary, or the first token of what is not in it.
///
/// # Errors
/// No target, or none that has a token.
pub fn target_ids(targets: &[String], tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let mut ids = Vec::with_capacity(targets.len());
    for target in targets {
        if let Some(id) = tokenizer.token_to_id(target) {
            ids.push(id);
            continue;
        }
        let options = EncodeOptions { add_special_tokens: false, truncation: Some(Truncation::new(1)) };
        ids.extend(tokenizer.encode(target, None, &options)?.input_ids.first());
    }
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Err(Error::new(What::BadData("none of the `targets` is a token".into()))
            .hint("give at least one word; without `targets` all tokens are looked at"));
    }
    Ok(ids)
}

fn mask_of(tokenizer: &Tokenizer) -> Result<u32> {
    tokenizer.mask_id().ok_or_else(|| {
        Error::new(What::Conflict("the tokenizer has no mask token".into()))
            .hint("masks are filled in by masked language models and their tokenizers, such as BERT's or RoBERTa's")
    })
}
