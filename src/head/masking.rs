//! Masked language modelling: which tokens of a batch are hidden, as Hugging Face's `DataCollatorForLanguageModeling` does it.
//!
//! A batch without labels flows in; one whose chosen tokens are replaced and are its labels flows out. Whether a token is
//! chosen is a function of the seed, the step, the row and the position while training; in evaluation of the row's own
//! tokens and the position, so that the masks are the same for every run and every batch size.

use candle_core::Tensor;

use crate::batch::Batch;
use crate::error::{Error, Result, What};
use crate::tensor::loss::IGNORE_INDEX;
use crate::tensor::rng::{Rng, stream_hash};

/// How tokens are hidden: Hugging Face's names and defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Masking {
    /// The probability that a token is chosen.
    pub mlm_probability: f64,
    /// The share of chosen tokens that the mask token replaces.
    pub mask_replace_prob: f64,
    /// The share of chosen tokens that a random token replaces; the rest stays.
    pub random_replace_prob: f64,
    /// The mask token.
    pub mask_token_id: u32,
    /// Random tokens are below this number.
    pub vocab_size: u32,
    /// Tokens that are never chosen, sorted.
    pub special_token_ids: Vec<u32>,
}

impl Masking {
    /// Refuses probabilities that are none.
    ///
    /// # Errors
    /// One outside [0, 1], or two shares that exceed 1 together.
    pub fn check(&self) -> Result<()> {
        let all = [
            ("mlm_probability", self.mlm_probability),
            ("mask_replace_prob", self.mask_replace_prob),
            ("random_replace_prob", self.random_replace_prob),
        ];
        for (name, value) in all {
            if !(0.0..=1.0).contains(&value) {
                let (name, value) = (format!("`{name}`"), value.to_string());
                return Err(What::OutOfRange { name, value, allowed: "from 0 to 1".into() }.into());
            }
        }
        // As typed in decimals, 0.9 and 0.1 are allowed to be 1 together.
        if self.mask_replace_prob + self.random_replace_prob > 1.0 + 1e-9 {
            let problem = "`mask_replace_prob` and `random_replace_prob` must not exceed 1 together";
            return Err(Error::new(What::Conflict(problem.into()))
                .hint("they are shares of the chosen tokens; the rest of those stays as it is"));
        }
        Ok(())
    }

    /// The batch with tokens hidden, and `labels` that hold the tokens that were chosen.
    ///
    /// # Errors
    /// Those of [`Masking::check`].
    pub fn apply(&self, batch: &Batch) -> Result<Batch> {
        self.check()?;
        let mut ids: Vec<u32> = batch.input_ids.to_vec1()?;
        let mut labels = vec![IGNORE_INDEX; ids.len()];
        for row in 0..batch.n_rows() {
            let range = batch.starts[row]..batch.starts[row] + batch.key_lengths[row];
            let draws = match batch.draw {
                Some(draw) => Draws::new(draw.seed, "mask", draw.step, (batch.first_row + row) as u64),
                None => Draws::new(0, "mask/evaluation", content_hash(&ids[range.clone()]), 0),
            };
            for (position, place) in range.enumerate() {
                let token = ids[place];
                let [choose, replace, word] = draws.at(position);
                if choose >= self.mlm_probability || self.special_token_ids.binary_search(&token).is_ok() {
                    continue;
                }
                labels[place] = i64::from(token);
                if replace < self.mask_replace_prob {
                    ids[place] = self.mask_token_id;
                } else if replace < self.mask_replace_prob + self.random_replace_prob {
                    ids[place] = (word * f64::from(self.vocab_size)) as u32;
                }
            }
        }
        let device = batch.input_ids.device();
        let labels = Tensor::from_vec(labels, batch.n_tokens(), device)?;
        let mut masked = batch.with_input_ids(ids)?.with_items(&labels)?;
        masked.columns.insert("labels".into(), labels);
        Ok(masked)
    }
}

/// The uniform numbers of a row.
struct Draws {
    rng: Rng,
    row: u64,
}

impl Draws {
    fn new(seed: u64, stream: &str, step: u64, row: u64) -> Self {
        Draws { rng: Rng::new(seed, stream, step), row }
    }

    /// Three uniform numbers in [0, 1) for the token at `position`.
    fn at(&self, position: usize) -> [f64; 3] {
        // Rows have fewer than 2^32 tokens, so no two tokens of a step share a block.
        let [a, b, c, _] = self.rng.block(self.row << 32 | position as u64);
        [a, b, c].map(|word| f64::from(word) / (f64::from(u32::MAX) + 1.0))
    }
}

fn content_hash(ids: &[u32]) -> u64 {
    ids.iter().fold(stream_hash("tokens"), |hash, &id| {
        id.to_le_bytes().iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    })
}
