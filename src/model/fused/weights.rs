//! The encoder's matrices, packed for products in both directions.

use std::sync::Arc;

use crate::error::Result;
use crate::kernels::tiles::{DEPTH, Kernels, Operand, Pack, Source};
use crate::kernels::with_values;
use crate::model::gradient::Pool;
use crate::model::layers::{LayerNorm, Linear, Stored};
use crate::model::parameters::Parameter;

/// A linear layer, or several of the same size side by side (query, key and value), each filled up to whole tiles.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    /// One parameter for all parts, or one for each.
    pub(super) weights: Vec<Arc<Parameter>>,
    /// Room for the gradients of the weights.
    pub(super) pools: Vec<Arc<Pool>>,
    pub(super) biases: Vec<Arc<Parameter>>,
    pub(super) n_in: usize,
    /// Outputs of one part.
    pub(super) n_out: usize,
    pub(super) n_parts: usize,
    pub(super) stored: Stored,
}

/// A matrix ready for products.
#[derive(Debug, Default)]
pub(super) struct PackedMatrix {
    /// From inputs to outputs: depth is the inputs.
    pub(super) forward: Operand,
    /// From outputs to inputs: depth is the outputs of all parts.
    pub(super) backward: Operand,
    /// Of all parts, filled up.
    pub(super) bias: Vec<f32>,
}

/// Which ways a matrix is packed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Directions {
    /// The forward alone.
    Forward,
    /// The backward alone.
    Backward,
    /// Both of them.
    Both,
}

/// A layer norm's numbers.
#[derive(Debug, Default)]
pub(super) struct PackedNorm {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) eps: f32,
}

/// Rounded up to whole tiles in both roles.
pub(super) fn padded(n: usize) -> usize {
    n.next_multiple_of(DEPTH)
}

impl Matrix {
    /// Of one layer whose outputs are `n_parts` parts; `None` for a layer without a bias.
    pub(super) fn of(linear: &Linear, n_parts: usize) -> Option<Matrix> {
        let dims = linear.weight.value().dims();
        let (n_in, n_out) = match linear.stored {
            Stored::OutIn => (dims[1], dims[0]),
            Stored::InOut => (dims[0], dims[1]),
        };
        Some(Matrix {
            weights: vec![linear.weight.clone()],
            pools: vec![Arc::default()],
            biases: vec![linear.bias.clone()?],
            n_in,
            n_out: n_out / n_parts,
            n_parts,
            stored: linear.stored,
        })
    }

    /// Of several layers of the same size that are stored row by row of their outputs.
    pub(super) fn side_by_side(linears: [&Linear; 3]) -> Option<Matrix> {
        let mut all = Matrix::of(linears[0], 1)?;
        for linear in &linears[1..] {
            all.weights.push(linear.weight.clone());
            all.pools.push(Arc::default());
            all.biases.push(linear.bias.clone()?);
        }
        all.n_parts = linears.len();
        (all.stored == Stored::OutIn).then_some(all)
    }

    /// Outputs of all parts, each filled up where there are several.
    pub(super) fn width(&self) -> usize {
        if self.n_parts == 1 { self.n_out } else { self.n_parts * padded(self.n_out) }
    }

    /// The weights that training changes, with room for their gradients.
    pub(super) fn trainable_weights(&self) -> impl Iterator<Item = (&Arc<Parameter>, &Arc<Pool>)> {
        self.weights.iter().zip(&self.pools).filter(|(weight, _)| weight.is_trainable())
    }

    /// Whether training changes any of it.
    pub(super) fn is_trainable(&self) -> bool {
        self.weights.iter().chain(&self.biases).any(|parameter| parameter.is_trainable())
    }

    /// Packs the weights as they are now.
    pub(super) fn pack(
        &self,
        kernels: &Kernels,
        directions: Directions,
        packed: &mut PackedMatrix,
        gathered: &mut Vec<f32>,
    ) -> Result<()> {
        let (width, each) = (self.width(), padded(self.n_out));
        packed.bias.clear();
        packed.bias.resize(padded(width), 0.0);
        for (number, bias) in self.biases.iter().enumerate() {
            with_values([bias.value()], |[bias]| {
                for (part, values) in bias.chunks_exact(self.n_out).enumerate() {
                    packed.bias[(number + part) * each..][..self.n_out].copy_from_slice(values);
                }
            })?;
        }
        if self.n_parts == 1 || (self.weights.len() == 1 && each == self.n_out) {
            with_values([self.weights[0].value()], |[weight]| self.pack_values(kernels, directions, weight, packed))?;
            return Ok(());
        }
        gathered.clear();
        gathered.resize(width * self.n_in, 0.0);
        for (number, weight) in self.weights.iter().enumerate() {
            with_values([weight.value()], |[weight]| match self.stored {
                Stored::OutIn => {
                    for (part, values) in weight.chunks_exact(self.n_out * self.n_in).enumerate() {
                        gathered[(number + part) * each * self.n_in..][..values.len()].copy_from_slice(values);
                    }
                }
                Stored::InOut => {
                    for (row, values) in weight.chunks_exact(self.n_parts * self.n_out).enumerate() {
                        for (part, values) in values.chunks_exact(self.n_out).enumerate() {
                            gathered[row * width + part * each..][..self.n_out].copy_from_slice(values);
                        }
                    }
                }
            })?;
        }
        self.pack_values(kernels, directions, gathered, packed);
        Ok(())
    }

    fn pack_values(&self, kernels: &Kernels, directions: Directions, values: &[f32], packed: &mut PackedMatrix) {
        let (source, forward, backward) = match self.stored {
            Stored::OutIn => (Source::rows(values, self.width(), self.n_in), Pack::TransposedB, Pack::B),
            Stored::InOut => (Source::rows(values, self.n_in, self.width()), Pack::B, Pack::TransposedB),
        };
        if directions != Directions::Backward {
            kernels.pack(forward, source, &mut packed.forward);
        }
        if directions != Directions::Forward {
            kernels.pack(backward, source, &mut packed.backward);
        }
    }

    /// How inputs are packed for the weights' gradient.
    pub(super) fn input_pack(&self) -> Pack {
        match self.stored {
            Stored::OutIn => Pack::B,
            Stored::InOut => Pack::TransposedA,
        }
    }

    /// How outputs' gradients are packed for the weights' gradient.
    pub(super) fn gradient_pack(&self) -> Pack {
        match self.stored {
            Stored::OutIn => Pack::TransposedA,
            Stored::InOut => Pack::B,
        }
    }
}

impl PackedNorm {
    /// Copies the numbers as they are now.
    pub(super) fn pack(&mut self, norm: &LayerNorm) -> Result<()> {
        self.eps = norm.eps as f32;
        with_values([norm.weight.value(), norm.bias.value()], |[weight, bias]| {
            self.weight.clear();
            self.weight.extend_from_slice(weight);
            self.bias.clear();
            self.bias.extend_from_slice(bias);
        })?;
        Ok(())
    }
}
