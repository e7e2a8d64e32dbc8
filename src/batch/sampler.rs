//! The order in which examples are visited.
//!
//! A seed, an epoch and the number of examples (or their lengths) flow in; a permutation flows out. The order
//! depends on nothing else, so that a resumed or a parallel run visits the same rows.

use std::cmp::Reverse;

use crate::tensor::rng::Rng;

/// A random order of `n` examples, another one each epoch.
pub fn random(seed: u64, epoch: u64, n: usize) -> Vec<usize> {
    Rng::new(seed, "shuffle", epoch).permutation(n)
}

/// The order of the data set.
pub fn sequential(n: usize) -> Vec<usize> {
    (0..n).collect()
}

/// A random order in which neighbours have similar lengths, after Hugging Face's `LengthGroupedSampler`.
///
/// A random order is cut into mega-batches of up to 50 batches (fewer where that would leave less than four of
/// them), each sorted by descending length; then the longest example of all trades places with the very first,
/// so that running out of memory happens at once rather than late.
pub fn group_by_length(seed: u64, epoch: u64, lengths: &[usize], batch_size: usize) -> Vec<usize> {
    if lengths.is_empty() {
        return Vec::new();
    }
    let mut order = Rng::new(seed, "group_by_length", epoch).permutation(lengths.len());
    let mega = mega_batch(lengths.len(), batch_size);
    for part in order.chunks_mut(mega) {
        part.sort_by_key(|&idx| Reverse(lengths[idx]));
    }
    // The first of each mega-batch is its longest; of equals the earliest counts, as in `argmax`.
    let longest = (0..order.len()).step_by(mega).min_by_key(|&start| Reverse(lengths[order[start]])).unwrap_or(0);
    order.swap(0, longest);
    order
}

/// How many examples are sorted together.
pub fn mega_batch(n: usize, batch_size: usize) -> usize {
    let batch_size = batch_size.max(1);
    batch_size * (n / batch_size.saturating_mul(4)).clamp(1, 50)
}
