//! The loss of a batch: the negative log-likelihood of the right sequences, divided by the number of their places.

use retune_plugin_sdk::{CustomOp, Error, Result, View};

use crate::chain::{Scores, expected, log_partition, score};
use crate::gathered;

/// The tokens of a row that have labels, and the labels.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Places among the tokens of the batch.
    pub tokens: Vec<usize>,
    /// The right label of each.
    pub tags: Vec<usize>,
}

/// The operation: from logits `(tokens, labels)`, transitions `(labels, labels)` and boundaries `(2, labels)` to a scalar.
#[derive(Debug)]
pub struct NegativeLogLikelihood {
    chains: Vec<Chain>,
    n_places: usize,
}

impl NegativeLogLikelihood {
    /// The loss of these chains.
    ///
    /// # Errors
    /// A label that there is not.
    pub fn new(chains: Vec<Chain>, n_labels: usize) -> Result<Self> {
        if let Some(tag) = chains.iter().flat_map(|chain| &chain.tags).find(|tag| **tag >= n_labels) {
            return Err(Error::new(format!("a label is {tag}, but there are {n_labels} labels")));
        }
        let n_places = chains.iter().map(|chain| chain.tags.len()).sum();
        Ok(NegativeLogLikelihood { chains, n_places })
    }

    fn read(&self, inputs: &[View<'_>]) -> Result<(Scores, usize)> {
        let [logits, transitions, boundaries] = inputs else { return Err(Error::new("a CRF has three inputs")) };
        let &[n_tokens, n] = logits.dims else {
            return Err(Error::new(format!("a CRF takes logits of (tokens, labels), but got {:?}", logits.dims)));
        };
        if transitions.dims != [n, n] || boundaries.dims != [2, n] {
            let (steps, ends) = (transitions.dims, boundaries.dims);
            return Err(Error::new(format!(
                "{n} labels have steps of ({n}, {n}) and ends of (2, {n}), not {steps:?} and {ends:?}"
            )));
        }
        let fits =
            |chain: &Chain| chain.tokens.iter().all(|token| *token < n_tokens) && chain.tags.iter().all(|tag| *tag < n);
        if !self.chains.iter().all(fits) {
            return Err(Error::new("a chain goes beyond the logits"));
        }
        Ok((Scores::new(transitions.data, boundaries.data, n), n))
    }
}

impl CustomOp for NegativeLogLikelihood {
    fn forward(&self, inputs: &[View<'_>], output: &mut [f32]) -> Result<()> {
        let (scores, n) = self.read(inputs)?;
        let each = self.chains.iter().map(|chain| {
            let emissions = gathered(inputs[0].data, &chain.tokens, n);
            log_partition(&emissions, &scores) - score(&emissions, &chain.tags, &scores)
        });
        output[0] = (each.sum::<f64>() / self.n_places.max(1) as f64) as f32;
        Ok(())
    }

    /// Probabilities minus what is right, as for every log-likelihood.
    fn backward(&self, inputs: &[View<'_>], _: &[f32], gradient: &[f32], gradients: &mut [&mut [f32]]) -> Result<()> {
        let (scores, n) = self.read(inputs)?;
        let factor = f64::from(gradient[0]) / self.n_places.max(1) as f64;
        let (mut steps, mut ends) = (vec![0.0; n * n], vec![0.0; 2 * n]);
        for chain in &self.chains {
            let mut found = expected(&gathered(inputs[0].data, &chain.tokens, n), &scores);
            for (place, tag) in chain.tags.iter().enumerate() {
                found.emissions[place * n + tag] -= 1.0;
            }
            for pair in chain.tags.windows(2) {
                found.transitions[pair[0] * n + pair[1]] -= 1.0;
            }
            for (place, token) in chain.tokens.iter().enumerate() {
                for label in 0..n {
                    gradients[0][token * n + label] = (factor * found.emissions[place * n + label]) as f32;
                }
            }
            steps.iter_mut().zip(&found.transitions).for_each(|(sum, change)| *sum += change);
            if let Some(last) = chain.tags.len().checked_sub(1) {
                for label in 0..n {
                    ends[label] += found.emissions[label];
                    ends[n + label] += found.emissions[last * n + label];
                }
            }
        }
        gradients[1].iter_mut().zip(&steps).for_each(|(out, sum)| *out = (factor * sum) as f32);
        gradients[2].iter_mut().zip(&ends).for_each(|(out, sum)| *out = (factor * sum) as f32);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use retune_plugin_sdk::testing::gradient_error;

    /// Two chains of five tokens, of which one takes no part, and three labels.
    fn example() -> NegativeLogLikelihood {
        let chains = vec![
            Chain { tokens: vec![0, 1, 3], tags: vec![2, 0, 1] },
            Chain { tokens: vec![4], tags: vec![1] },
            Chain { tokens: vec![], tags: vec![] },
        ];
        NegativeLogLikelihood::new(chains, 3).expect("the labels are below 3")
    }

    const LOGITS: [f32; 15] = [0.3, -1.2, 0.8, 0.1, 0.9, -0.4, 5.0, 5.0, 5.0, -0.7, 0.2, 0.6, 1.1, -0.3, 0.0];
    const STEPS: [f32; 9] = [0.5, -0.2, 0.1, 0.7, 0.0, -0.9, -0.4, 0.3, 0.2];
    const ENDS: [f32; 6] = [0.1, -0.5, 0.4, 0.6, 0.0, -0.3];

    fn inputs() -> [View<'static>; 3] {
        [
            View { data: &LOGITS, dims: &[5, 3] },
            View { data: &STEPS, dims: &[3, 3] },
            View { data: &ENDS, dims: &[2, 3] },
        ]
    }

    #[test]
    fn the_gradient_agrees_with_finite_differences() {
        let error = gradient_error(&example(), &inputs(), 1).expect("the example fits");
        assert!(error < 5e-4, "{error}");
    }

    #[test]
    fn the_loss_is_the_mean_surprise_of_a_place() {
        let mut loss = [0.0];
        example().forward(&inputs(), &mut loss).expect("the example fits");
        let scores = Scores::new(&STEPS, &ENDS, 3);
        let chain = |tokens: &[usize], tags: &[usize]| {
            let emissions = gathered(&LOGITS, tokens, 3);
            log_partition(&emissions, &scores) - score(&emissions, tags, &scores)
        };
        let wanted = (chain(&[0, 1, 3], &[2, 0, 1]) + chain(&[4], &[1])) / 4.0;
        assert!((f64::from(loss[0]) - wanted).abs() < 1e-6, "{loss:?} {wanted}");
    }

    #[test]
    fn without_steps_it_is_the_cross_entropy() {
        let (zeros, mut loss) = ([0.0; 9], [0.0]);
        let inputs = [
            View { data: &LOGITS, dims: &[5, 3] },
            View { data: &zeros, dims: &[3, 3] },
            View { data: &zeros[..6], dims: &[2, 3] },
        ];
        example().forward(&inputs, &mut loss).expect("the example fits");
        let surprise = |token: usize, tag: usize| {
            let row = &LOGITS[token * 3..token * 3 + 3];
            f64::from(row.iter().map(|x| x.exp()).sum::<f32>().ln() - row[tag])
        };
        let wanted = (surprise(0, 2) + surprise(1, 0) + surprise(3, 1) + surprise(4, 1)) / 4.0;
        assert!((f64::from(loss[0]) - wanted).abs() < 1e-6, "{loss:?} {wanted}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(NegativeLogLikelihood::new(vec![Chain { tokens: vec![0], tags: vec![3] }], 3).is_err());
        let mut inputs = inputs();
        inputs[1] = View { data: &STEPS, dims: &[9] };
        assert!(example().forward(&inputs, &mut [0.0]).is_err());
        let short = [View { data: &LOGITS[..6], dims: &[2, 3] }, inputs[2], inputs[2]];
        assert!(example().forward(&short, &mut [0.0]).is_err());
    }
}
