//! Orders of rows: permutations, pure functions of seed and epoch, similar lengths side by side.

use proptest::prelude::*;
use retune::batch::sampler::{group_by_length, mega_batch, random, sequential};

fn is_permutation(order: &[usize], n: usize) -> bool {
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    sorted == (0..n).collect::<Vec<_>>()
}

#[test]
fn mega_batches_have_the_size_that_transformers_gives_them() {
    // min(n // (batch * 4), 50) batches, at least one: get_length_grouped_indices of transformers 5.23.
    for (n, batch_size, expected) in [(1000, 8, 248), (10_000, 8, 400), (10, 8, 8), (64, 8, 16), (0, 4, 4)] {
        assert_eq!(mega_batch(n, batch_size), expected, "{n} rows in batches of {batch_size}");
    }
}

#[test]
fn an_order_depends_on_seed_and_epoch_alone() {
    let lengths: Vec<usize> = (0..200).map(|row| row * 37 % 101).collect();
    for order in [
        |seed, epoch, _: &[usize]| random(seed, epoch, 200),
        |seed, epoch, lengths: &[usize]| group_by_length(seed, epoch, lengths, 4),
    ] {
        assert_eq!(order(1, 0, &lengths), order(1, 0, &lengths));
        assert_ne!(order(1, 0, &lengths), order(2, 0, &lengths));
        assert_ne!(order(1, 0, &lengths), order(1, 1, &lengths));
    }
    assert_eq!(sequential(3), [0, 1, 2]);
}

proptest! {
    #[test]
    fn every_row_is_visited_once(seed: u64, epoch in 0u64..100, lengths in prop::collection::vec(0usize..500, 0..300),
                                 batch_size in 1usize..40) {
        prop_assert!(is_permutation(&random(seed, epoch, lengths.len()), lengths.len()));
        prop_assert!(is_permutation(&group_by_length(seed, epoch, &lengths, batch_size), lengths.len()));
    }

    /// The longest row comes first; the row it traded places with is the only one out of order.
    #[test]
    fn lengths_fall_within_a_mega_batch(seed: u64, lengths in prop::collection::vec(0usize..500, 1..300),
                                        batch_size in 1usize..40) {
        let order = group_by_length(seed, 0, &lengths, batch_size);
        prop_assert_eq!(lengths[order[0]], *lengths.iter().max().unwrap());
        for part in order.chunks(mega_batch(lengths.len(), batch_size)) {
            prop_assert!(part[1..].is_sorted_by(|left, right| lengths[*left] >= lengths[*right]));
        }
    }
}
