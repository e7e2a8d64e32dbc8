//! Normal numbers for many weights at once: those of [`Rng::normal`], bit by bit, several at a time and on all threads.
//!
//! The logarithm and the cosine are made of series here, whose errors are a few units in the last place of an f64. An f32 that
//! comes of one is the same whichever way it was made, unless the f64 lies next to the middle between two f32: those few are
//! drawn again by the generator itself.

use rayon::prelude::*;

use crate::kernels::math::simd;
use crate::tensor::rng::Rng;

/// Numbers that one task draws.
const CHUNK: usize = 1 << 14;
/// Numbers that are drawn side by side.
const LANES: usize = 8;
/// Units in the last place of an f64 within which a number is drawn again.
const CLOSE: u64 = 1 << 10;

/// Fills `out` with `rng.normal(index) * deviation`, for indices from 0 on.
pub fn fill(rng: &Rng, deviation: f64, out: &mut [f32]) {
    out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| draw(rng, (chunk * CHUNK) as u64, deviation, out));
}

simd! {
    fn draw(rng: &Rng, first: u64, deviation: f64, out: &mut [f32]) {
        for (chunk, out) in out.chunks_mut(LANES).enumerate() {
            let first = first + (chunk * LANES) as u64;
            let words = rng.blocks::<LANES>(first);
            let mut values = [0.0f64; LANES];
            let mut is_close = false;
            for lane in 0..LANES {
                let unit = |low: u64, high: u64| ((high << 32 | low) >> 11) as f64 * (1.0 / (1u64 << 53) as f64);
                let (u, w) = (unit(words[0][lane], words[1][lane]), unit(words[2][lane], words[3][lane]));
                let value = normal(u, w) * deviation;
                values[lane] = value;
                is_close |= is_uncertain(value);
            }
            for (lane, (out, value)) in out.iter_mut().zip(values).enumerate() {
                *out = value as f32;
                if is_close && is_uncertain(value) {
                    *out = (rng.normal(first + lane as u64) * deviation) as f32;
                }
            }
        }
    }
}

/// Whether an f64 a few units away could be another f32: next to the middle between two, or too small for this count.
#[inline(always)]
fn is_uncertain(value: f64) -> bool {
    const MIDDLE: u64 = 1 << 28;
    let behind = value.to_bits() & (2 * MIDDLE - 1);
    behind.wrapping_sub(MIDDLE - CLOSE) <= 2 * CLOSE || value.abs() < 1e-36
}

/// Box and Muller's number for `u` and `w` in [0, 1), multiples of 2^-53.
#[inline(always)]
fn normal(u: f64, w: f64) -> f64 {
    (-2.0 * ln(1.0 - u)).sqrt() * cos(std::f64::consts::TAU * w)
}

/// The natural logarithm of a normal number: x = m 2^k with m between √½ and √2, ln m = 2 artanh((m - 1) / (m + 1)).
#[inline(always)]
fn ln(x: f64) -> f64 {
    // The high part has 20 zeros behind it, so that k times it is exact.
    const HIGH: f64 = f64::from_bits(std::f64::consts::LN_2.to_bits() & !0xf_ffff);
    const LOW: f64 = std::f64::consts::LN_2 - HIGH;
    const ROOT_HALF: u64 = std::f64::consts::FRAC_1_SQRT_2.to_bits();
    let k = (x.to_bits().wrapping_sub(ROOT_HALF) as i64) >> 52;
    let m = f64::from_bits(x.to_bits().wrapping_sub((k as u64) << 52));
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    // The series ends where its terms are below 2^-60: |s| < 0.1716.
    let mut p = 1.0 / 21.0;
    p = p * z + 1.0 / 19.0;
    p = p * z + 1.0 / 17.0;
    p = p * z + 1.0 / 15.0;
    p = p * z + 1.0 / 13.0;
    p = p * z + 1.0 / 11.0;
    p = p * z + 1.0 / 9.0;
    p = p * z + 1.0 / 7.0;
    p = p * z + 1.0 / 5.0;
    p = p * z + 1.0 / 3.0;
    let k = k as f64;
    k * HIGH + (k * LOW + (2.0 * s + 2.0 * s * (z * p)))
}

/// The cosine of a number between 0 and 2π: the number less a multiple of π/2, by its Taylor polynomials.
#[inline(always)]
fn cos(x: f64) -> f64 {
    use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};
    // π/2 in three parts; the first ones have so many zeros behind them that their products with 1 to 4 are exact.
    const FIRST: f64 = f64::from_bits(FRAC_PI_2.to_bits() & !0x7ff_ffff);
    const SECOND: f64 = FRAC_PI_2 - FIRST;
    // The first 53 bits of π/2 - FRAC_PI_2, from the digits of π.
    const THIRD: f64 = 6.123_233_995_736_766e-17;
    // Adding and taking away 1.5 * 2^52 rounds to the nearest integer, which then stands in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let shifted = x * FRAC_2_PI + ROUND;
    let n = shifted - ROUND;
    let quarter = shifted.to_bits();
    let r = ((x - n * FIRST) - n * SECOND) - n * THIRD;
    let z = r * r;
    let mut s = -1.0 / 121_645_100_408_832_000.0;
    s = s * z + 1.0 / 355_687_428_096_000.0;
    s = s * z - 1.0 / 1_307_674_368_000.0;
    s = s * z + 1.0 / 6_227_020_800.0;
    s = s * z - 1.0 / 39_916_800.0;
    s = s * z + 1.0 / 362_880.0;
    s = s * z - 1.0 / 5040.0;
    s = s * z + 1.0 / 120.0;
    s = s * z - 1.0 / 6.0;
    let sin = r + r * (z * s);
    let mut c = -1.0 / 6_402_373_705_728_000.0;
    c = c * z + 1.0 / 20_922_789_888_000.0;
    c = c * z - 1.0 / 87_178_291_200.0;
    c = c * z + 1.0 / 479_001_600.0;
    c = c * z - 1.0 / 3_628_800.0;
    c = c * z + 1.0 / 40320.0;
    c = c * z - 1.0 / 720.0;
    c = c * z + 1.0 / 24.0;
    c = c * z - 0.5;
    let cos = 1.0 + z * c;
    // cos(r + n π/2): cos, -sin, -cos, sin.
    let value = if quarter & 1 == 0 { cos } else { sin };
    if (quarter + 1) & 2 == 0 { value } else { -value }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two million draws, and lengths that end within a block.
    #[test]
    fn the_numbers_are_those_of_the_generator() {
        for (seed, deviation, n) in [(42, 0.02, 2_000_003), (7, 1.0, 13), (7, 1e-3, 100_001), (1, 0.2, 0)] {
            let rng = Rng::new(seed, "init/test", 3);
            let mut out = vec![9.0; n];
            fill(&rng, deviation, &mut out);
            for (index, value) in out.iter().enumerate() {
                let expected = (rng.normal(index as u64) * deviation) as f32;
                assert_eq!(value.to_bits(), expected.to_bits(), "draw {index} of seed {seed}");
            }
        }
    }

    /// Where the logarithm or the cosine is close to zero, far out, and at the ends: as near to std's as the rounding of their
    /// own results, far less than what is drawn again.
    #[test]
    fn the_functions_hold_at_their_edges() {
        let unit = 1.0 / (1u64 << 53) as f64;
        let near = |at: u64| (0..200).flat_map(move |by| [at.saturating_sub(by), at + by]);
        for quarter in 0..=4u64 {
            for eighth in 0..2 {
                let at = (quarter << 51) + (eighth << 50);
                for w in near(at).filter(|w| *w < 1 << 53) {
                    let angle = std::f64::consts::TAU * (w as f64 * unit);
                    let (ours, theirs) = (cos(angle), angle.cos());
                    assert!((ours - theirs).abs() <= 1e-15 * theirs.abs(), "cos {angle:e}: {ours:e} {theirs:e}");
                }
            }
        }
        let edges = (0..53).flat_map(|bit| near(1 << bit)).chain(near((1 << 53) - 200));
        for u in edges.filter(|u| *u < 1 << 53) {
            let x = 1.0 - u as f64 * unit;
            let (ours, theirs) = (ln(x), x.ln());
            assert!((ours - theirs).abs() <= 1e-15 * theirs.abs(), "ln {x:e}: {ours:e} {theirs:e}");
        }
    }

    /// Numbers beside the middle of two f32 are drawn again, others are not.
    #[test]
    fn only_what_could_round_either_way_is_uncertain() {
        let middle = f64::from(1.0f32) + f64::from(f32::EPSILON) / 2.0;
        for (value, expected) in [(1.0, false), (middle, true), (-middle, true), (0.0, true), (1e-37, true)] {
            assert_eq!(is_uncertain(value), expected, "{value:e}");
        }
        let beside = |units: i64| f64::from_bits(middle.to_bits().wrapping_add_signed(units));
        assert!(is_uncertain(beside(-1000)) && is_uncertain(beside(1000)));
        assert!(!is_uncertain(beside(-2000)) && !is_uncertain(beside(2000)));
    }
}
