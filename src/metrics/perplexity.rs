//! How well a language model predicts: perplexity, and the share of tokens that it gets right.
//!
//! Of a batch only two counts a row are kept, so a data set of any size takes no memory.

use candle_core::{D, DType, Tensor};

use crate::error::{Result, What};
use crate::tensor::loss::IGNORE_INDEX;

/// The perplexity of a mean loss in nats a token: its exponential.
pub fn perplexity(mean_loss: f64) -> f64 {
    mean_loss.exp()
}

/// How many tokens were asked for, and how many of them a model's best guess was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenTally {
    /// Best guesses that are right.
    pub right: u64,
    /// Tokens that were asked for.
    pub asked: u64,
}

impl TokenTally {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: TokenTally) -> TokenTally {
        TokenTally { right: self.right + other.right, asked: self.asked + other.asked }
    }

    /// The share of right guesses; `None` where nothing was asked.
    pub fn accuracy(self) -> Option<f64> {
        (self.asked > 0).then(|| self.right as f64 / self.asked as f64)
    }
}

/// One tally a row: `logits` is `(tokens, vocabulary)`, `labels` `(tokens)` with -100 where nothing is asked, and `starts`
/// says where each row begins, with one more entry for the end.
///
/// # Errors
/// Shapes that do not fit.
pub fn tally(logits: &Tensor, labels: &Tensor, starts: &[usize]) -> Result<Vec<TokenTally>> {
    if logits.rank() != 2 || labels.dims() != [logits.dims()[0]] || starts.last() != Some(&logits.dims()[0]) {
        let (scores, labels) = (logits.dims(), labels.dims());
        let problem = format!("scores of {scores:?} and labels of {labels:?} do not have one entry a token each");
        return Err(What::Conflict(problem).into());
    }
    let best: Vec<u32> = logits.argmax(D::Minus1)?.to_vec1()?; // (tokens)
    let labels: Vec<i64> = labels.to_dtype(DType::I64)?.to_vec1()?;
    let row = |span: &[usize]| {
        let pairs = best[span[0]..span[1]].iter().zip(&labels[span[0]..span[1]]);
        let asked = pairs.filter(|(_, label)| **label != IGNORE_INDEX);
        asked.fold(TokenTally::default(), |tally, (best, label)| {
            tally.plus(TokenTally { right: u64::from(i64::from(*best) == *label), asked: 1 })
        })
    };
    Ok(starts.windows(2).map(row).collect())
}
