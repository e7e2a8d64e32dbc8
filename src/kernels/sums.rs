//! Sums in f64 whose order depends on the values' number alone.

use crate::kernels::math::simd;

const LANES: usize = 16;

simd! {
    fn add_squares(values: &[f32], lanes: &mut [f64; LANES]) {
        let whole = values.len() / LANES * LANES;
        for chunk in values[..whole].chunks_exact(LANES) {
            for (value, lane) in chunk.iter().zip(lanes.iter_mut()) {
                let value = f64::from(*value);
                *lane += value * value;
            }
        }
        for (value, lane) in values[whole..].iter().zip(lanes.iter_mut()) {
            let value = f64::from(*value);
            *lane += value * value;
        }
    }
}

/// The sum of the squares.
pub fn of_squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0; LANES];
    add_squares(values, &mut lanes);
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    /// Squares of small whole numbers are exact in any order.
    #[test]
    fn squares_are_summed_to_the_last_value() {
        for n in [0usize, 1, 15, 16, 17, 100] {
            let values: Vec<f32> = (0..n).map(|i| i as f32 - 7.0).collect();
            let expected: f64 = (0..n).map(|i| (i as f64 - 7.0).powi(2)).sum();
            assert_eq!(super::of_squares(&values), expected, "{n}");
        }
        assert!(super::of_squares(&[1.0, f32::INFINITY]).is_infinite() && super::of_squares(&[f32::NAN]).is_nan());
    }
}
