//! The elementary functions of the kernels, written so that the compiler turns loops over them into SIMD code, and the
//! choice of the instruction set at run time.
//!
//! Polynomials multiply and add in one rounding. Where a machine has no such instruction, that is a slow function call.

/// Runs a loop body compiled for the widest instruction set of this machine. The body must be `#[inline(always)]`.
macro_rules! simd {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        $visibility fn $name($($arg: $type),*) {
            #[inline(always)]
            fn body($($arg: $type),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")]
                fn wide($($arg: $type),*) {
                    body($($arg),*);
                }
                #[target_feature(enable = "avx2,fma")]
                fn middle($($arg: $type),*) {
                    body($($arg),*);
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                {
                    // SAFETY: the features were detected on this machine; avx512f implies avx2 and fma.
                    return unsafe { wide($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the features were detected on this machine.
                    return unsafe { middle($($arg),*) };
                }
            }
            body($($arg),*);
        }
    };
}
pub(crate) use simd;

/// Partial results of a row: one a SIMD lane.
pub const LANES: usize = 16;

/// Calls `each` with sixteen numbers of every slice at a time, all of them as long as the first; behind their end they are filled up.
///
/// The lanes of a sum stay in one register this way: a loop over single numbers at the end would take them out of it. `each` is
/// called in two places, and the compiler takes a small closure alone into both: a large one would be compiled without the instruction
/// set around it, so it is a function that is always inlined instead, as in `norm`.
#[inline(always)]
pub fn lanes_of<const N: usize>(slices: [&[f32]; N], filling: f32, mut each: impl FnMut([[f32; LANES]; N])) {
    let n = slices.first().map_or(0, |slice| slice.len());
    let chunks = slices.map(|slice| slice[..n].as_chunks::<LANES>());
    for place in 0..n / LANES {
        each(chunks.map(|(whole, _)| whole[place]));
    }
    if !n.is_multiple_of(LANES) {
        each(chunks.map(|(_, rest)| filled(rest, filling)));
    }
}

/// Fewer than sixteen numbers, filled up.
#[inline(always)]
pub fn filled(rest: &[f32], filling: f32) -> [f32; LANES] {
    let mut last = [filling; LANES];
    last[..rest.len()].copy_from_slice(rest);
    last
}

/// The sum of `of` over sixteen numbers of every slice at a time. `of` is zero where all of them are.
#[inline(always)]
pub fn sum_of<const N: usize>(slices: [&[f32]; N], of: impl Fn([f32; N]) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    lanes_of(slices, 0.0, |lanes| {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += of(lanes.map(|slice| slice[lane]));
        }
    });
    sum(sums)
}

/// The sum of all lanes. Halves are added to each other, so that it takes four steps that depend on each other and not fifteen.
#[inline(always)]
pub fn sum(lanes: [f32; LANES]) -> f32 {
    fold(lanes, |a, b| a + b)
}

/// The largest of all lanes, in steps like those of [`sum`]; what is not a number does not count.
#[inline(always)]
pub fn largest(lanes: [f32; LANES]) -> f32 {
    fold(lanes, |a, b| if b > a { b } else { a })
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES], with: impl Fn(f32, f32) -> f32) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            lanes[i] = with(lanes[i], lanes[i + n]);
        }
        n /= 2;
    }
    lanes[0]
}

/// e^x to about 2 units in the last place; underflows to 0 below -87.3 and saturates near 88.7.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor polynomial of degree 7 (remainder below 6e-9), times 2^n.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.3, 88.37);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let mut p = 1.0 / 5040.0;
    p = r.mul_add(p, 1.0 / 720.0);
    p = r.mul_add(p, 1.0 / 120.0);
    p = r.mul_add(p, 1.0 / 24.0);
    p = r.mul_add(p, 1.0 / 6.0);
    p = r.mul_add(p, 0.5);
    p = r.mul_add(p, 1.0);
    p = r.mul_add(p, 1.0);
    let exponent = (shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23;
    let result = p * f32::from_bits(exponent);
    if x < -87.3 { 0.0 } else { result }
}

/// The normal distribution function Φ(x) and e^(-x²/2).
///
/// The upper tail of |x| is e^(-x²/2) w / 2 with the scaled complementary error function w, a smooth function: a polynomial
/// of degree 9 in u = 1 / (1 + 0.6 |x| / √2), times u, fitted by Chebyshev interpolation of its exact values on [0, 9.5]. The error of
/// Φ is 1.7e-7, the rounding of f32 included.
#[inline(always)]
pub fn normal_cdf(x: f32) -> (f32, f32) {
    #[expect(clippy::excessive_precision, reason = "the coefficients as they were fitted")]
    const TAIL: [f32; 10] = [
        0.33853551745414734,
        0.3379892408847809,
        0.28271156549453735,
        0.1299545168876648,
        0.07149742543697357,
        -0.15161146223545074,
        -0.302293062210083,
        0.5360054969787598,
        -0.3062540590763092,
        0.06346486508846283,
    ];
    let u = 1.0 / x.abs().mul_add(0.6 * std::f32::consts::FRAC_1_SQRT_2, 1.0);
    let mut w = TAIL[9];
    let mut index = 9;
    while index > 0 {
        index -= 1;
        w = w.mul_add(u, TAIL[index]);
    }
    let density = exp(-0.5 * x * x);
    let tail = 0.5 * density * w * u;
    (if x >= 0.0 { 1.0 - tail } else { tail }, density)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_three_units_in_the_last_place() {
        for step in -87_000..88_000 {
            let x = step as f32 * 1e-3;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 3.0 * f64::from(f32::EPSILON), "exp({x}): relative error {error:e}");
        }
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    /// Values of the normal distribution function from scipy.stats.norm.cdf.
    #[test]
    fn the_normal_distribution_function_has_its_known_values() {
        let cases = [
            (0.0, 0.5),
            (1.0, 0.841_344_746_068_542_9),
            (-1.0, 0.158_655_253_931_457_05),
            (1.959_963_984_540_054, 0.975),
            (-3.0, 0.001_349_898_031_630_094_6),
            (0.1, 0.539_827_837_277_029),
            (-6.0, 9.865_876_450_376_946e-10),
            (8.0, 1.0),
        ];
        for (x, expected) in cases {
            let (cdf, _) = normal_cdf(x as f32);
            assert!((f64::from(cdf) - expected).abs() < 2e-7, "Φ({x}) = {cdf}");
        }
    }
}
