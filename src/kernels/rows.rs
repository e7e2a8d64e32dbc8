//! What the fused encoder does with single rows between its products: biases, activations with their slopes, dropout with the
//! residual, layer norms, softmax. Each has its twin in `tensor::ops`, of which the reference path is made.

use crate::kernels::math::{LANES, exp, lanes_of, largest, normal_cdf, simd, sum, sum_of};
use crate::kernels::norm;
use crate::tensor::ops::Activation;

simd! {
    /// `x += bias`.
    pub fn add(x: &mut [f32], bias: &[f32]) {
        for (x, bias) in x.iter_mut().zip(bias) {
            *x += bias;
        }
    }
}

simd! {
    /// `x *= factors`.
    pub fn multiply(x: &mut [f32], factors: &[f32]) {
        for (x, factor) in x.iter_mut().zip(factors) {
            *x *= factor;
        }
    }
}

simd! {
    /// `out = x * factor`.
    pub fn scaled(x: &[f32], factor: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x * factor;
        }
    }
}

simd! {
    /// `out = (x + bias) * factors + residual`.
    pub fn residual(x: &[f32], bias: &[f32], factors: &[f32], residual: &[f32], out: &mut [f32]) {
        let n = out.len();
        let (x, bias, factors, residual) = (&x[..n], &bias[..n], &factors[..n], &residual[..n]);
        for i in 0..n {
            out[i] = (x[i] + bias[i]) * factors[i] + residual[i];
        }
    }
}

simd! {
    /// `out = x + bias + residual`: [`residual`] with factors of 1.
    pub fn residual_alone(x: &[f32], bias: &[f32], residual: &[f32], out: &mut [f32]) {
        let n = out.len();
        let (x, bias, residual) = (&x[..n], &bias[..n], &residual[..n]);
        for i in 0..n {
            out[i] = (x[i] + bias[i]) + residual[i];
        }
    }
}

simd! {
    /// The products of a query with keys that stand `stride` apart.
    pub fn dots(query: &[f32], keys: &[f32], stride: usize, scores: &mut [f32]) {
        for (score, key) in scores.iter_mut().zip(keys.chunks(stride)) {
            *score = sum_of([query, &key[..query.len()]], |[q, k]| q * k);
        }
    }
}

simd! {
    /// The sum of values that stand `stride` apart, each times its weight.
    pub fn weighted_sum(weights: &[f32], values: &[f32], stride: usize, out: &mut [f32]) {
        out.fill(0.0);
        let n = out.len();
        for (weight, value) in weights.iter().zip(values.chunks(stride)) {
            for (out, value) in out.iter_mut().zip(&value[..n]) {
                *out += weight * value;
            }
        }
    }
}

simd! {
    /// Adds a row to sums in f64.
    pub fn add_to_sums(row: &[f32], sums: &mut [f64]) {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += f64::from(*x);
        }
    }
}

simd! {
    fn gelu(x: &mut [f32], bias: &[f32], slope: &mut [f32]) {
        // d/dx x Φ(x) = Φ(x) + x φ(x), with φ(x) = e^(-x²/2) / √(2π).
        const INVERSE_ROOT: f32 = 0.398_942_3;
        for ((x, bias), slope) in x.iter_mut().zip(bias).zip(slope) {
            let z = *x + bias;
            let (cdf, density) = normal_cdf(z);
            *slope = (z * INVERSE_ROOT).mul_add(density, cdf);
            *x = z * cdf;
        }
    }
}

simd! {
    /// bf16 with the bits of `half`: to the nearest, ties to even, and what is not a number stays so.
    pub fn round(x: &[f32], rounded: &mut [u16]) {
        for (x, rounded) in x.iter().zip(rounded) {
            let bits = x.to_bits();
            let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            *rounded = (if bits & 0x7fff_ffff > 0x7f80_0000 { bits >> 16 | 0x40 } else { nearest }) as u16;
        }
    }
}

simd! {
    /// The f32 numbers that bf16 ones are.
    pub fn widen(rounded: &[u16], x: &mut [f32]) {
        for (x, rounded) in x.iter_mut().zip(rounded) {
            *x = f32::from_bits(u32::from(*rounded) << 16);
        }
    }
}

/// √(2/π).
const ROOT: f32 = 0.797_884_6;

simd! {
    fn gelu_tanh(x: &mut [f32], bias: &[f32], slope: &mut [f32]) {
        // x/2 (1 + tanh u) with u = √(2/π) (x + 0.044715 x³), and 1 + tanh u = 2 σ(2 u).
        for ((x, bias), slope) in x.iter_mut().zip(bias).zip(slope) {
            let z = *x + bias;
            let u = ROOT * (z + 0.044_715 * z * z * z);
            let share = 1.0 / (1.0 + exp(-2.0 * u));
            let du = ROOT * (1.0 + 3.0 * 0.044_715 * z * z);
            *slope = share + 2.0 * z * share * (1.0 - share) * du;
            *x = z * share;
        }
    }
}

simd! {
    fn silu(x: &mut [f32], bias: &[f32], slope: &mut [f32]) {
        for ((x, bias), slope) in x.iter_mut().zip(bias).zip(slope) {
            let z = *x + bias;
            let share = 1.0 / (1.0 + exp(-z));
            *slope = share * (1.0 + z * (1.0 - share));
            *x = z * share;
        }
    }
}

/// `x = f(x + bias)`, with the derivative of f there in `slope`.
pub fn activate(activation: Activation, x: &mut [f32], bias: &[f32], slope: &mut [f32]) {
    let mut each = |f: fn(f32) -> (f32, f32)| {
        for ((x, bias), slope) in x.iter_mut().zip(bias).zip(slope.iter_mut()) {
            (*x, *slope) = f(*x + bias);
        }
    };
    match activation {
        Activation::Gelu => gelu(x, bias, slope),
        Activation::GeluTanh => gelu_tanh(x, bias, slope),
        Activation::Silu => silu(x, bias, slope),
        Activation::Relu => each(|z| if z > 0.0 { (z, 1.0) } else { (0.0, 0.0) }),
        Activation::Tanh => each(|z| {
            let y = z.tanh();
            (y, 1.0 - y * y)
        }),
        Activation::Linear => each(|z| (z, 1.0)),
    }
}

simd! {
    fn gelu_alone(x: &mut [f32], bias: &[f32]) {
        for (x, bias) in x.iter_mut().zip(bias) {
            let z = *x + bias;
            *x = z * normal_cdf(z).0;
        }
    }
}

simd! {
    fn gelu_tanh_alone(x: &mut [f32], bias: &[f32]) {
        for (x, bias) in x.iter_mut().zip(bias) {
            let z = *x + bias;
            let u = ROOT * (z + 0.044_715 * z * z * z);
            *x = z * (1.0 / (1.0 + exp(-2.0 * u)));
        }
    }
}

simd! {
    fn silu_alone(x: &mut [f32], bias: &[f32]) {
        for (x, bias) in x.iter_mut().zip(bias) {
            let z = *x + bias;
            *x = z * (1.0 / (1.0 + exp(-z)));
        }
    }
}

/// `x = f(x + bias)` to the bits of [`activate`], where nobody needs the slopes.
pub fn activate_alone(activation: Activation, x: &mut [f32], bias: &[f32]) {
    let mut each = |f: fn(f32) -> f32| x.iter_mut().zip(bias).for_each(|(x, bias)| *x = f(*x + bias));
    match activation {
        Activation::Gelu => gelu_alone(x, bias),
        Activation::GeluTanh => gelu_tanh_alone(x, bias),
        Activation::Silu => silu_alone(x, bias),
        Activation::Relu => each(|z| if z > 0.0 { z } else { 0.0 }),
        Activation::Tanh => each(f32::tanh),
        Activation::Linear => each(|z| z),
    }
}

/// One row's layer norm: `(x - mean) / sqrt(var + eps) * weight + bias`.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    norm::forward(x, weight, bias, eps, y);
}

/// One row's layer norm backward: the gradient of `x`, and what is added to the gradients of weight and bias (`sums`, one
/// behind the other).
pub fn layer_norm_backward(x: &[f32], weight: &[f32], gradient: &[f32], eps: f32, dx: &mut [f32], sums: &mut [f32]) {
    norm::backward(x, weight, gradient, eps, dx, sums);
}

simd! {
    /// One row's softmax of `scale` times the first `seen` scores; zero behind them. Scores come in whole groups of [`LANES`], and
    /// `scale` is positive.
    pub fn softmax(scores: &mut [f32], seen: usize, scale: f32) {
        if seen == 0 {
            return scores.fill(0.0);
        }
        let (whole, behind) = scores.split_at_mut(seen.next_multiple_of(LANES));
        behind.fill(0.0);
        whole[seen..].fill(f32::NEG_INFINITY);
        let (groups, _) = whole.as_chunks_mut::<LANES>();
        let mut tops = [f32::NEG_INFINITY; LANES];
        for scores in &*groups {
            for (top, score) in tops.iter_mut().zip(scores) {
                *top = if *score > *top { *score } else { *top };
            }
        }
        let top = largest(tops);
        let mut sums = [0.0f32; LANES];
        for scores in &mut *groups {
            for (score, sum) in scores.iter_mut().zip(&mut sums) {
                *score = exp((*score - top) * scale);
                *sum += *score;
            }
        }
        let inverse = 1.0 / sum(sums);
        for score in whole {
            *score *= inverse;
        }
    }
}

simd! {
    /// The largest number of a row and of what `top` holds; what is not a number does not count.
    pub fn top(row: &[f32], top: &mut [f32; 1]) {
        let mut tops = [top[0]; LANES];
        lanes_of([row], f32::NEG_INFINITY, |[lanes]| {
            for (top, x) in tops.iter_mut().zip(lanes) {
                *top = if x > *top { x } else { *top };
            }
        });
        top[0] = largest(tops);
    }
}

simd! {
    /// Adds the sum of e^(x - top) over some numbers.
    pub fn add_exps(row: &[f32], top: f32, total: &mut [f64; 1]) {
        let mut sums = [0.0f32; LANES];
        lanes_of([row], f32::NEG_INFINITY, |[lanes]| {
            for (sum, x) in sums.iter_mut().zip(lanes) {
                *sum += exp(x - top);
            }
        });
        total[0] += f64::from(sum(sums));
    }
}

simd! {
    /// `factor e^(score - top) - off`: a multiple of the softmax of some scores of a row, less a number.
    pub fn softmax_less(scores: &[f32], top: f32, factor: f32, off: f32, out: &mut [f32]) {
        for (out, score) in out.iter_mut().zip(scores) {
            *out = factor * exp(score - top) - off;
        }
    }
}

simd! {
    /// Probabilities with what dropout does to them: those whose factor is 0 get a sign.
    pub fn marked(probabilities: &[f32], factors: &[f32], marked: &mut [f32]) {
        for ((marked, p), factor) in marked.iter_mut().zip(probabilities).zip(factors) {
            *marked = if *factor == 0.0 { -*p } else { *p };
        }
    }
}

simd! {
    /// What [`marked`] was made of, where factors are 0 or `scale`.
    pub fn unmarked(marked: &[f32], scale: f32, probabilities: &mut [f32], factors: &mut [f32]) {
        for ((marked, p), factor) in marked.iter().zip(probabilities).zip(factors) {
            *factor = if marked.to_bits() >> 31 == 1 { 0.0 } else { scale };
            *p = marked.abs();
        }
    }
}

simd! {
    /// One row's softmax backward: `gradient = p * (gradient - sum(gradient * p))`.
    pub fn softmax_backward(probabilities: &[f32], gradient: &mut [f32]) {
        let dot = sum_of([probabilities, gradient], |[p, g]| p * g);
        for (p, g) in probabilities.iter().zip(gradient) {
            *g = p * (*g - dot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        // Every sign and exponent, with mantissas around the ties.
        let ends =
            [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x1_7fff, 0x1_8000, 0x1_8001, 0x7f_7fff, 0x7f_8000, 0x7f_ffff];
        let x: Vec<f32> = (0..512).flat_map(|top| ends.map(|end| f32::from_bits(top << 23 | end))).collect();
        let (mut rounded, mut wide) = (vec![0; x.len()], vec![0.0; x.len()]);
        round(&x, &mut rounded);
        widen(&rounded, &mut wide);
        for ((x, rounded), wide) in x.iter().zip(&rounded).zip(&wide) {
            let exact = half::bf16::from_f32(*x);
            assert_eq!((*rounded, wide.to_bits()), (exact.to_bits(), exact.to_f32().to_bits()), "{x:e}");
        }
    }

    #[test]
    fn an_activation_is_the_same_without_its_slopes() {
        use Activation::{Gelu, GeluTanh, Linear, Relu, Silu, Tanh};
        let z: Vec<f32> = (-300..=300).map(|i| i as f32 * 0.037).collect();
        let bias: Vec<f32> = (0..z.len()).map(|i| (i % 7) as f32 * 0.1 - 0.3).collect();
        for activation in [Gelu, GeluTanh, Silu, Relu, Tanh, Linear] {
            let (mut with, mut alone, mut slopes) = (z.clone(), z.clone(), z.clone());
            activate(activation, &mut with, &bias, &mut slopes);
            activate_alone(activation, &mut alone, &bias);
            assert!(with.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()), "{activation:?}");
        }
    }

    /// Softmax and its backward against the formulas in f64, however many scores are seen; nothing is left behind them.
    #[test]
    fn softmax_is_its_formula_at_any_length() {
        for (seen, room) in [(0, 16), (1, 16), (15, 16), (16, 32), (17, 32), (100, 128), (128, 128)] {
            let x: Vec<f32> = (0..room).map(|i| (i * 37 % 101) as f32 * 0.3 - 15.0).collect();
            let scale = 0.176_776_7;
            let mut p = x.clone();
            softmax(&mut p, seen, scale);
            let exact = |x: f32| (f64::from(x) * f64::from(scale)).exp();
            let total: f64 = x[..seen].iter().map(|x| exact(*x)).sum();
            for (p, x) in p[..seen].iter().zip(&x) {
                // An error of the exponent's argument, below 5.4 here, counts in full: 10 units in the last place with exp's own.
                let wanted = exact(*x) / total;
                assert!(
                    (f64::from(*p) - wanted).abs() < 10.0 * f64::from(f32::EPSILON) * wanted,
                    "{seen}: {p} {wanted}"
                );
            }
            assert!(p[seen..].iter().all(|p| *p == 0.0), "{seen}");

            let mut gradient = x.clone();
            softmax_backward(&p[..seen], &mut gradient[..seen]);
            let dot: f64 = p[..seen].iter().zip(&x).map(|(p, x)| f64::from(*p) * f64::from(*x)).sum();
            for ((g, p), x) in gradient[..seen].iter().zip(&p).zip(&x) {
                let wanted = f64::from(*p) * (f64::from(*x) - dot);
                assert!((f64::from(*g) - wanted).abs() < 1e-5, "{seen}: {g} {wanted}");
            }
            assert_eq!(gradient[seen..], x[seen..]);
        }
    }

    #[test]
    fn sums_over_rows_apart_are_those_of_plain_loops() {
        for size in [1, 16, 17, 32, 64, 75] {
            let (stride, n) = (size + 5, 9);
            let values: Vec<f32> = (0..stride * n).map(|i| (i * 37 % 101) as f32 / 101.0 - 0.5).collect();
            let query = &values[3..3 + size];
            let (mut scores, mut out) = (vec![0.0; n], vec![7.0; size]);
            dots(query, &values, stride, &mut scores);
            weighted_sum(&scores, &values, stride, &mut out);
            let at = |row: usize, column: usize| f64::from(values[row * stride + column]);
            for (row, score) in scores.iter().enumerate() {
                let exact: f64 = (0..size).map(|column| f64::from(query[column]) * at(row, column)).sum();
                assert!((f64::from(*score) - exact).abs() < 1e-5);
            }
            for (column, sum) in out.iter().enumerate() {
                let exact: f64 = (0..n).map(|row| f64::from(scores[row]) * at(row, column)).sum();
                assert!((f64::from(*sum) - exact).abs() < 1e-5);
            }
        }
    }
}
