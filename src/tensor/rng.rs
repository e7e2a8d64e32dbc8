//! The counter-based generator: a draw is a function of (seed, stream, step, index) and of nothing else.
//!
//! Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The
//! seed is the key, so draws do not depend on history, threads or timing, and any of them can be made again.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds of Philox 4x32: four random words from a counter and a key.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let left = u64::from(MULTIPLIERS[0]) * u64::from(c0);
        let right = u64::from(MULTIPLIERS[1]) * u64::from(c2);
        (c0, c1, c2, c3) = ((right >> 32) as u32 ^ c1 ^ k0, right as u32, (left >> 32) as u32 ^ c3 ^ k1, left as u32);
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

/// The 64-bit FNV-1a hash of a stream's name.
pub fn stream_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// One stream of random numbers at one step.
#[derive(Clone, Copy, Debug)]
pub struct Rng {
    key: [u32; 2],
    step: u64,
}

impl Rng {
    /// The numbers of `stream` (a name such as `shuffle` or `init/classifier.weight`) at `step`.
    pub fn new(seed: u64, stream: &str, step: u64) -> Self {
        let [low, high, other, another] = {
            let hash = stream_hash(stream);
            philox([hash as u32, (hash >> 32) as u32, 0, 0], [seed as u32, (seed >> 32) as u32])
        };
        Rng { key: [low ^ other, high ^ another], step }
    }

    /// Four words for the block `index`.
    pub fn block(&self, index: u64) -> [u32; 4] {
        philox([index as u32, (index >> 32) as u32, self.step as u32, (self.step >> 32) as u32], self.key)
    }

    /// The blocks of `N` indices from `first` on, word by word: in this form a compiler draws them side by side.
    #[inline(always)]
    pub fn blocks<const N: usize>(&self, first: u64) -> [[u64; N]; 4] {
        const LOW: u64 = u32::MAX as u64;
        let multipliers = MULTIPLIERS.map(u64::from);
        let [mut c0, mut c1, mut c2, mut c3] = [[0; N], [0; N], [self.step & LOW; N], [self.step >> 32; N]];
        for lane in 0..N {
            let index = first.wrapping_add(lane as u64);
            (c0[lane], c1[lane]) = (index & LOW, index >> 32);
        }
        let [mut k0, mut k1] = self.key;
        for _ in 0..10 {
            for lane in 0..N {
                let left = multipliers[0] * (c0[lane] & LOW);
                let right = multipliers[1] * (c2[lane] & LOW);
                c0[lane] = (right >> 32) ^ c1[lane] ^ u64::from(k0);
                c1[lane] = right & LOW;
                c2[lane] = (left >> 32) ^ c3[lane] ^ u64::from(k1);
                c3[lane] = left & LOW;
            }
            k0 = k0.wrapping_add(WEYL[0]);
            k1 = k1.wrapping_add(WEYL[1]);
        }
        [c0, c1, c2, c3]
    }

    /// The `index`-th 32-bit word.
    pub fn u32(&self, index: u64) -> u32 {
        self.block(index / 4)[(index % 4) as usize]
    }

    /// The `index`-th uniform number in [0, 1), with 53 random bits.
    pub fn uniform(&self, index: u64) -> f64 {
        let [low, high, ..] = self.block(index);
        let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
        bits as f64 / (1u64 << 53) as f64
    }

    /// The `index`-th standard normal number (Box and Muller 1958).
    pub fn normal(&self, index: u64) -> f64 {
        let [a, b, c, d] = self.block(index);
        let unit = |low: u32, high: u32| ((u64::from(high) << 32 | u64::from(low)) >> 11) as f64 / (1u64 << 53) as f64;
        // 1 - u lies in (0, 1], so the logarithm is finite.
        (-2.0 * (1.0 - unit(a, b)).ln()).sqrt() * (std::f64::consts::TAU * unit(c, d)).cos()
    }

    /// A permutation of `0..n` (Fisher and Yates; each swap has a draw of its own).
    pub fn permutation(&self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for last in (1..n).rev() {
            let pick = (self.uniform(last as u64) * (last as f64 + 1.0)) as usize;
            order.swap(last, pick.min(last));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the authors' Random123 library, file kat_vectors.
    #[test]
    fn philox_gives_the_published_answers() {
        let ones = u32::MAX;
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox(counter, key), expected);
        }
    }

    #[test]
    fn blocks_side_by_side_are_the_blocks() {
        let rng = Rng::new(3, "test", 1 << 40);
        for first in [0, 5, (1 << 32) - 3] {
            let words = rng.blocks::<8>(first);
            for lane in 0..8 {
                let block = rng.block(first + lane as u64).map(u64::from);
                assert_eq!(words.map(|word| word[lane]), block);
            }
        }
    }

    #[test]
    fn a_permutation_holds_each_number_once_and_depends_on_every_part_of_its_key() {
        let order = |seed, stream, step| Rng::new(seed, stream, step).permutation(100);
        let mut sorted = order(1, "shuffle", 0);
        assert_eq!(order(1, "shuffle", 0), sorted);
        for other in [order(2, "shuffle", 0), order(1, "init", 0), order(1, "shuffle", 1)] {
            assert_ne!(other, sorted);
        }
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }

    /// Mean 0 and variance 1 within five standard errors of 100,000 draws (0.0032 and 0.0045).
    #[test]
    fn normal_numbers_have_the_moments_of_the_normal_distribution() {
        let rng = Rng::new(7, "test", 3);
        let draws: Vec<f64> = (0..100_000).map(|index| rng.normal(index)).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.016, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.023, "variance {variance}");
    }
}
