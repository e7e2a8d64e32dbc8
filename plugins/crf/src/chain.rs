//! One chain of labels: its likelihood, the probability of each label at each place, and the most likely sequence.
//!
//! `emissions` are `(places, labels)`, row by row; sums are taken in f64 and in logarithms, so nothing overflows.

/// The scores of steps between labels, and of the labels at both ends.
#[derive(Clone, Debug)]
pub struct Scores {
    /// From the row's label to the column's, `(labels, labels)`.
    pub transitions: Vec<f64>,
    /// Of the first label, `(labels)`.
    pub start: Vec<f64>,
    /// Of the last label, `(labels)`.
    pub end: Vec<f64>,
}

impl Scores {
    /// From `transitions` `(labels, labels)` and `boundaries` `(2, labels)`: start, then end.
    pub fn new(transitions: &[f32], boundaries: &[f32], n_labels: usize) -> Self {
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let (start, end) = boundaries.split_at(n_labels);
        Scores { transitions: wide(transitions), start: wide(start), end: wide(end) }
    }

    /// The number of labels.
    pub fn n_labels(&self) -> usize {
        self.start.len()
    }

    fn step(&self, from: usize, to: usize) -> f64 {
        self.transitions[from * self.n_labels() + to]
    }
}

fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY { max } else { max + values.map(|x| (x - max).exp()).sum::<f64>().ln() }
}

/// The score of a sequence of labels.
pub fn score(emissions: &[f64], tags: &[usize], scores: &Scores) -> f64 {
    let n = scores.n_labels();
    let (Some(&first), Some(&last)) = (tags.first(), tags.last()) else { return 0.0 };
    let at_places: f64 = tags.iter().enumerate().map(|(place, &tag)| emissions[place * n + tag]).sum();
    let steps: f64 = tags.windows(2).map(|pair| scores.step(pair[0], pair[1])).sum();
    scores.start[first] + at_places + steps + scores.end[last]
}

/// For each place and label the logarithm of the sum over all beginnings that end there, `(places, labels)`.
fn forward(emissions: &[f64], scores: &Scores) -> Vec<f64> {
    let n = scores.n_labels();
    let mut alpha = vec![0.0; emissions.len()];
    for place in 0..emissions.len() / n {
        for to in 0..n {
            let before = match place {
                0 => scores.start[to],
                _ => log_sum_exp((0..n).map(|from| alpha[(place - 1) * n + from] + scores.step(from, to))),
            };
            alpha[place * n + to] = before + emissions[place * n + to];
        }
    }
    alpha
}

/// For each place and label the logarithm of the sum over all ends that begin behind it, `(places, labels)`.
fn backward(emissions: &[f64], scores: &Scores) -> Vec<f64> {
    let n = scores.n_labels();
    let places = emissions.len() / n;
    let mut beta = vec![0.0; emissions.len()];
    for place in (0..places).rev() {
        for from in 0..n {
            beta[place * n + from] = match place + 1 == places {
                true => scores.end[from],
                false => {
                    let next = (place + 1) * n;
                    log_sum_exp((0..n).map(|to| scores.step(from, to) + emissions[next + to] + beta[next + to]))
                }
            };
        }
    }
    beta
}

/// The logarithm of the sum over all sequences; 0 for a chain without places.
pub fn log_partition(emissions: &[f64], scores: &Scores) -> f64 {
    let n = scores.n_labels();
    if emissions.is_empty() {
        return 0.0;
    }
    let alpha = forward(emissions, scores);
    let last = alpha.len() - n;
    log_sum_exp((0..n).map(|label| alpha[last + label] + scores.end[label]))
}

/// What the logarithm of the partition changes by with each score: probabilities of labels and of steps.
pub struct Expected {
    /// The probability of each label at each place, `(places, labels)`.
    pub emissions: Vec<f64>,
    /// The expected number of steps from each label to each, `(labels, labels)`.
    pub transitions: Vec<f64>,
}

/// The gradient of [`log_partition`], by forward and backward sums.
pub fn expected(emissions: &[f64], scores: &Scores) -> Expected {
    let n = scores.n_labels();
    let mut transitions = vec![0.0; n * n];
    if emissions.is_empty() {
        return Expected { emissions: Vec::new(), transitions };
    }
    let (alpha, beta) = (forward(emissions, scores), backward(emissions, scores));
    let last = alpha.len() - n;
    let total = log_sum_exp((0..n).map(|label| alpha[last + label] + scores.end[label]));
    for next in (n..emissions.len()).step_by(n) {
        for from in 0..n {
            for to in 0..n {
                let step = scores.step(from, to) + emissions[next + to] + beta[next + to];
                transitions[from * n + to] += (alpha[next - n + from] + step - total).exp();
            }
        }
    }
    let emissions = alpha.iter().zip(&beta).map(|(a, b)| (a + b - total).exp()).collect();
    Expected { emissions, transitions }
}

/// The probability of each label at each place, `(places, labels)`.
pub fn marginals(emissions: &[f64], scores: &Scores) -> Vec<f64> {
    expected(emissions, scores).emissions
}

/// The most likely sequence (Viterbi); of equally likely ones that with the smaller label at the last place where they differ.
pub fn best(emissions: &[f64], scores: &Scores) -> Vec<usize> {
    let n = scores.n_labels();
    let places = emissions.len() / n;
    if places == 0 {
        return Vec::new();
    }
    let largest = |values: &mut dyn Iterator<Item = f64>| {
        values.enumerate().fold((0, f64::NEG_INFINITY), |most, (at, x)| if x > most.1 { (at, x) } else { most })
    };
    let mut reached: Vec<f64> = (0..n).map(|label| scores.start[label] + emissions[label]).collect();
    let mut from = vec![0; emissions.len()];
    for place in 1..places {
        let mut next = vec![0.0; n];
        for to in 0..n {
            let (label, score) = largest(&mut (0..n).map(|label| reached[label] + scores.step(label, to)));
            from[place * n + to] = label;
            next[to] = score + emissions[place * n + to];
        }
        reached = next;
    }
    let mut label = largest(&mut (0..n).map(|label| reached[label] + scores.end[label])).0;
    let mut tags = vec![label; places];
    for place in (1..places).rev() {
        label = from[place * n + label];
        tags[place - 1] = label;
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made-up numbers between -2 and 2.
    fn numbers(count: usize, seed: u64) -> Vec<f64> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % 4001) as f64 / 1000.0 - 2.0
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    fn scores(n: usize, seed: u64) -> Scores {
        Scores { transitions: numbers(n * n, seed), start: numbers(n, seed + 1), end: numbers(n, seed + 2) }
    }

    /// Every sequence of `places` labels.
    fn all(places: usize, n: usize) -> Vec<Vec<usize>> {
        (0..places).fold(vec![Vec::new()], |sequences, _| {
            let longer =
                |tags: &Vec<usize>| (0..n).map(|label| [tags.as_slice(), &[label]].concat()).collect::<Vec<_>>();
            sequences.iter().flat_map(longer).collect()
        })
    }

    #[test]
    fn everything_agrees_with_the_sum_over_all_sequences() {
        for (n, places) in [(1, 3), (2, 1), (2, 6), (3, 4), (4, 5), (5, 2)] {
            for seed in 1..6 {
                let (emissions, scores) = (numbers(n * places, 10 * seed), scores(n, 100 * seed));
                let sequences = all(places, n);
                let each: Vec<f64> = sequences.iter().map(|tags| score(&emissions, tags, &scores)).collect();
                let total = each.iter().map(|score| score.exp()).sum::<f64>();
                assert!((log_partition(&emissions, &scores) - total.ln()).abs() < 1e-10);
                let found = expected(&emissions, &scores);
                for place in 0..places {
                    for label in 0..n {
                        let with = sequences.iter().zip(&each).filter(|(tags, _)| tags[place] == label);
                        let probability = with.map(|(_, score)| score.exp()).sum::<f64>() / total;
                        assert!((found.emissions[place * n + label] - probability).abs() < 1e-10);
                    }
                }
                for step in 0..n * n {
                    let count = |tags: &[usize]| tags.windows(2).filter(|pair| pair[0] * n + pair[1] == step).count();
                    let each = sequences.iter().zip(&each);
                    let wanted = each.map(|(tags, score)| count(tags) as f64 * score.exp()).sum::<f64>() / total;
                    assert!((found.transitions[step] - wanted).abs() < 1e-10);
                }
                let most = each.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                assert!((score(&emissions, &best(&emissions, &scores), &scores) - most).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let scores = Scores { transitions: vec![900.0; 4], start: vec![0.0; 2], end: vec![0.0; 2] };
        let emissions = vec![500.0; 8];
        let wanted = 4.0 * 500.0 + 3.0 * 900.0 + 16f64.ln();
        assert!((log_partition(&emissions, &scores) - wanted).abs() < 1e-9);
        assert!(marginals(&emissions, &scores).iter().all(|p| (p - 0.5).abs() < 1e-12));
    }

    #[test]
    fn a_chain_without_places_counts_for_nothing() {
        let scores = scores(3, 1);
        assert_eq!((log_partition(&[], &scores), score(&[], &[], &scores)), (0.0, 0.0));
        assert!(best(&[], &scores).is_empty() && marginals(&[], &scores).is_empty());
    }
}
