//! The normal distribution cut to an interval, on logarithms: what Parzen estimators are made of.
//!
//! Intervals are given in standard deviations from the mean. The functions follow from the complementary error function;
//! tails are computed on the side where they are small.

use std::f64::consts::{PI, SQRT_2};

use candle_core::cpu::erf::{erfc_f64, erfc_inv};

/// The share of a standard normal distribution below `x`.
pub fn cdf(x: f64) -> f64 {
    0.5 * erfc_f64(-x / SQRT_2)
}

/// The logarithm of [`cdf`].
pub fn ln_cdf(x: f64) -> f64 {
    if x > 0.0 {
        return (-cdf(-x)).ln_1p();
    }
    if x > -30.0 {
        return cdf(x).ln();
    }
    // Abramowitz and Stegun 26.2.12; the first term left out is 945 / x^10, below 2e-12 here.
    let s = x.powi(-2);
    -0.5 * x * x - (-x).ln() - 0.5 * (2.0 * PI).ln() + (-s * (1.0 - s * (3.0 - s * (15.0 - s * 105.0)))).ln_1p()
}

/// The logarithm of the share between `a` and `b`.
pub fn ln_mass(a: f64, b: f64) -> f64 {
    if a > 0.0 {
        return ln_mass(-b, -a);
    }
    if b <= 0.0 {
        let (low, high) = (ln_cdf(a), ln_cdf(b));
        return high + (-(low - high).exp()).ln_1p();
    }
    (-cdf(a) - cdf(-b)).ln_1p()
}

/// The logarithm of the standard normal density at `x`.
pub fn ln_density(x: f64) -> f64 {
    -0.5 * x * x - 0.5 * (2.0 * PI).ln()
}

/// The place below which the share `u` of the distribution between `a` and `b` lies; `a <= 0 <= b`.
pub fn quantile(u: f64, a: f64, b: f64) -> f64 {
    let share = cdf(a) + u * (cdf(b) - cdf(a));
    // The upper half is computed from above, where the share that is left is small.
    let place = if share <= 0.5 {
        -SQRT_2 * erfc_inv(2.0 * share)
    } else {
        SQRT_2 * erfc_inv(2.0 * (cdf(-b) + (1.0 - u) * (cdf(-a) - cdf(-b))))
    };
    place.clamp(a, b)
}
