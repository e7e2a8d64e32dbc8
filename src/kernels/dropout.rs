//! Dropout's masks: which elements are kept is a function of (seed, step, site, the token's own number, column).
//!
//! Never of the block, the thread or the other rows of a batch, so that every path through the engine and every
//! split of a batch drops the same elements. Sixteen bits decide an element, so a probability is rounded to 1/65536.

use rayon::prelude::*;

use crate::kernels::math::simd;
use crate::tensor::rng::philox;

/// Where in the optimizer step's data a token stands: its example's number within the step, its position in the example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenNumber {
    /// The example's number, counted over all micro-batches of one optimizer step.
    pub row: u32,
    /// The token's position in its example.
    pub position: u32,
}

/// The draw of one dropout site at one step.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    key: [u32; 2],
    step: u32,
    threshold: u32,
}

impl Site {
    /// The site `name` (for example `encoder.0.attention.3`) with drop probability `p` in [0, 1).
    pub fn new(seed: u64, step: u64, name: u64, p: f64) -> Self {
        let mixed =
            philox([name as u32, (name >> 32) as u32, (step >> 32) as u32, 1], [seed as u32, (seed >> 32) as u32]);
        Site { key: [mixed[0], mixed[1]], step: step as u32, threshold: (p * 65536.0).round() as u32 }
    }

    /// What kept elements are multiplied by: one over the probability of being kept, after rounding.
    pub fn scale(&self) -> f32 {
        65536.0 / (65536 - self.threshold) as f32
    }

    /// Writes the factors of one token's columns: 0 for dropped elements, [`Site::scale`] for kept ones.
    ///
    /// Eight columns share a block of the generator: column c has the bits `16 (c % 2)..` of the word `c / 2 % 4` of block `c / 8`.
    pub fn factors(&self, token: TokenNumber, out: &mut [f32]) {
        let numbers = [token.position, token.row, self.step];
        let (key, threshold, scale) = (self.key, self.threshold, self.scale());
        write_factors(out, numbers, key, threshold, scale);
    }

    /// The factors of `(tokens, width)` elements, row by row.
    pub fn mask(&self, tokens: &[TokenNumber], width: usize) -> Vec<f32> {
        let mut mask = vec![0.0; tokens.len() * width];
        mask.par_chunks_mut(width).zip(tokens).for_each(|(row, token)| self.factors(*token, row));
        mask
    }
}

/// Blocks of the generator that are drawn at a time: one a SIMD lane.
const LANES: usize = 16;

simd! {
    fn write_factors(out: &mut [f32], numbers: [u32; 3], key: [u32; 2], threshold: u32, scale: f32) {
        for (group, chunk) in out.chunks_mut(8 * LANES).enumerate() {
            let words = philox_lanes((group * LANES) as u32, numbers, key);
            let mut bits = [0u32; 4 * LANES];
            for lane in 0..LANES {
                for word in 0..4 {
                    bits[lane * 4 + word] = words[word][lane];
                }
            }
            let mut factors = [0.0f32; 8 * LANES];
            for place in 0..4 * LANES {
                factors[2 * place] = if bits[place] & 0xffff < threshold { 0.0 } else { scale };
                factors[2 * place + 1] = if bits[place] >> 16 < threshold { 0.0 } else { scale };
            }
            let n = chunk.len();
            chunk.copy_from_slice(&factors[..n]);
        }
    }
}

/// [`philox`] of sixteen blocks that follow each other: four words of each.
#[inline(always)]
fn philox_lanes(first: u32, numbers: [u32; 3], key: [u32; 2]) -> [[u32; LANES]; 4] {
    const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let mut c0: [u32; LANES] = std::array::from_fn(|lane| first + lane as u32);
    let [mut c1, mut c2, mut c3] = numbers.map(|number| [number; LANES]);
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        for lane in 0..LANES {
            let left = MULTIPLIERS[0] * u64::from(c0[lane]);
            let right = MULTIPLIERS[1] * u64::from(c2[lane]);
            c0[lane] = (right >> 32) as u32 ^ c1[lane] ^ k0;
            c1[lane] = right as u32;
            c2[lane] = (left >> 32) as u32 ^ c3[lane] ^ k1;
            c3[lane] = left as u32;
        }
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The factors of any width are those of the generator's own definition, block by block.
    #[test]
    fn factors_are_the_generators_bits() {
        for (p, width) in [(0.1, 384), (0.5, 1), (0.25, 131), (0.0, 9), (0.9, 1027)] {
            let site = Site::new(7, 12_345, 99, p);
            let token = TokenNumber { row: 31, position: 77 };
            let mut factors = vec![-1.0; width];
            site.factors(token, &mut factors);
            for (column, factor) in factors.iter().enumerate() {
                let words = philox([column as u32 / 8, token.position, token.row, site.step], site.key);
                let bits = (words[column % 8 / 2] >> (16 * (column % 2))) & 0xffff;
                assert_eq!(*factor, if bits < site.threshold { 0.0 } else { site.scale() }, "{p}, column {column}");
            }
        }
    }

    #[test]
    fn a_tokens_mask_does_not_depend_on_its_neighbours_and_drops_the_asked_share() {
        let site = Site::new(1, 2, 3, 0.1);
        let tokens: Vec<_> = (0..300).map(|n| TokenNumber { row: n / 30, position: n % 30 }).collect();
        let all = site.mask(&tokens, 384);
        let alone = site.mask(&tokens[17..18], 384);
        assert_eq!(&all[17 * 384..18 * 384], &alone[..]);
        // A ragged width is a prefix of a wider one.
        assert_eq!(site.mask(&tokens[17..18], 13), alone[..13]);
        let dropped = all.iter().filter(|&&factor| factor == 0.0).count() as f64 / all.len() as f64;
        // Five standard errors of 115,200 draws at 0.1 are 0.0044.
        assert!((dropped - 0.1).abs() < 0.0044, "{dropped}");
        let mean = all.iter().map(|&f| f64::from(f)).sum::<f64>() / all.len() as f64;
        assert!((mean - 1.0).abs() < 0.005, "{mean}");
    }

    #[test]
    fn every_part_of_the_key_changes_the_mask() {
        let token = [TokenNumber { row: 0, position: 0 }];
        let base = Site::new(1, 1, 1, 0.5).mask(&token, 64);
        for other in [Site::new(2, 1, 1, 0.5), Site::new(1, 2, 1, 0.5), Site::new(1, 1, 2, 0.5)] {
            assert_ne!(other.mask(&token, 64), base);
        }
        let site = Site::new(1, 1, 1, 0.5);
        assert_ne!(site.mask(&[TokenNumber { row: 1, position: 0 }], 64), base);
        assert_ne!(site.mask(&[TokenNumber { row: 0, position: 1 }], 64), base);
    }
}
