//! Gradients of custom operations against finite differences, without a program around them.

use crate::custom::{CustomOp, View};
use crate::{Error, Result};

/// How far the gradient of an operation is from finite differences: the largest difference over all elements of all inputs,
/// relative to the larger of 1 and the gradient. `n_out` is the number of elements of the output, each of which counts with a
/// weight of its own.
///
/// Numbers are 32-bit floats, so a right gradient of a function with values around 1 gives some 1e-3.
///
/// # Errors
/// What the operation raises, and numbers that are not finite.
pub fn gradient_error(op: &dyn CustomOp, inputs: &[View<'_>], n_out: usize) -> Result<f64> {
    let weights: Vec<f32> = (0..n_out).map(|place| 0.5 + ((place * 7) % 5) as f32 / 4.0).collect();
    let mut output = vec![0.0; n_out];
    op.forward(inputs, &mut output)?;
    let mut gradients: Vec<Vec<f32>> = inputs.iter().map(|input| vec![0.0; input.data.len()]).collect();
    let mut borrowed: Vec<&mut [f32]> = gradients.iter_mut().map(Vec::as_mut_slice).collect();
    op.backward(inputs, &output, &weights, &mut borrowed)?;
    let step: f64 = 1e-2;
    let mut worst = 0.0f64;
    for (number, input) in inputs.iter().enumerate() {
        for element in 0..input.data.len() {
            let at = |change: f32| -> Result<f64> {
                let mut data = input.data.to_vec();
                data[element] += change;
                let mut changed = inputs.to_vec();
                changed[number] = View { data: &data, dims: input.dims };
                let mut output = vec![0.0; n_out];
                op.forward(&changed, &mut output)?;
                Ok(output.iter().zip(&weights).map(|(y, weight)| f64::from(*y) * f64::from(*weight)).sum())
            };
            let (high, low) = (at(step as f32)?, at(-step as f32)?);
            let expected = (high - low) / (2.0 * step);
            let found = f64::from(gradients[number][element]);
            if !found.is_finite() || !expected.is_finite() {
                return Err(Error::new(format!("element {element} of input {number}: {found} and {expected}")));
            }
            worst = worst.max((found - expected).abs() / expected.abs().max(1.0));
        }
    }
    Ok(worst)
}
