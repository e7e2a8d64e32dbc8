//! The gradients of weights, biases and norms, summed over the blocks of a batch in their order.

use std::sync::Arc;

use crate::kernels::rows;
use crate::kernels::sums;
use crate::kernels::tiles::{Kernels, Operand, SIDE, Tiles};
use crate::model::fused::block::room;
use crate::model::fused::course::Task;
use crate::model::fused::weights::{Matrix, padded};
use crate::model::fused::{Fused, named};
use crate::model::gradient::{Gradient, Pool, Room};
use crate::model::layers::{LayerNorm, Stored};
use crate::model::parameters::Parameter;

/// Rows of a weight's gradient that one task computes: whole tiles, so many that what they are multiplied with is read
/// from the nearer caches.
const STRIP: usize = 8 * SIDE;

/// A matrix with its packed inputs and outputs' gradients, block by block, and the sums of the outputs' gradients.
pub(super) type Summands<'a> = (&'a Matrix, Vec<[&'a Operand; 2]>, Vec<&'a [f64]>);

/// The gradients of the weights and biases of several matrices while they are formed.
pub(super) struct WeightGradients<'a> {
    matrices: Vec<Summands<'a>>,
    /// One for each trainable weight.
    rooms: Vec<Room>,
    /// The sums of the squares of all strips.
    squares: Vec<f64>,
}

impl<'a> WeightGradients<'a> {
    /// In the rooms that are given, one for each trainable weight; where there are none, in those of the weights' pools.
    pub(super) fn new(given: Vec<Room>, matrices: Vec<Summands<'a>>) -> Self {
        let mut given = given.into_iter();
        let weights = matrices.iter().flat_map(|(matrix, ..)| matrix.trainable_weights());
        let room = |(weight, pool): (&Arc<Parameter>, &Arc<Pool>)| {
            let n = weight.value().elem_count();
            given.next().map_or_else(|| pool.lend(n), |room| room.resized(n))
        };
        let rooms: Vec<Room> = weights.map(room).collect();
        let each = matrices.iter().map(|(matrix, ..)| matrix.trainable_weights().count() * matrix.tasks_of_a_weight());
        let squares = vec![0.0; each.sum()];
        WeightGradients { matrices, rooms, squares }
    }

    /// What is to be done, in any order; the longest first.
    pub(super) fn tasks<'s>(&'s mut self, fused: &'s Fused, kernels: &'static Kernels) -> Vec<Task<'s>> {
        let (mut rest, mut strips) = (&mut self.rooms[..], Vec::new());
        for (matrix, operands, _) in &self.matrices {
            let (own, others) = std::mem::take(&mut rest).split_at_mut(matrix.trainable_weights().count());
            rest = others;
            let pairs: Arc<[_]> = operands.iter().map(|[input, output]| matrix.sides(input, output)).collect();
            strips.extend(matrix.tasks(own, &pairs));
        }
        let mut strips: Vec<_> = strips.into_iter().zip(&mut self.squares).collect();
        strips.sort_by_key(|(strip, _)| usize::MAX - strip.out.len());
        let task = |(strip, square): (StripTask<'s>, &'s mut f64)| -> Task<'s> {
            Box::new(move || fused.with_scratch(|scratch| *square = strip.run(kernels, &mut scratch.wide)))
        };
        strips.into_iter().map(task).collect()
    }

    /// The gradients by name, when all tasks are done.
    pub(super) fn finish(self) -> Vec<(String, Gradient)> {
        let (mut squares, mut rooms) = (self.squares.into_iter(), self.rooms.into_iter());
        let mut all = Vec::new();
        for (matrix, _, biases) in &self.matrices {
            for ((weight, _), room) in matrix.trainable_weights().zip(&mut rooms) {
                let sum = squares.by_ref().take(matrix.tasks_of_a_weight()).sum();
                all.push((weight.name().to_string(), Gradient::dense(weight.value().dims(), room.into(), Some(sum))));
            }
            all.extend(matrix.bias_gradients(biases));
        }
        all
    }
}

/// A norm's gradients from the sums of all blocks, in their order.
pub(super) fn norm_gradients<'a>(norm: &LayerNorm, sums: impl Iterator<Item = &'a [f32]>) -> Vec<(String, Gradient)> {
    let width = norm.weight.value().elem_count();
    let mut total = vec![0.0f32; 2 * width];
    for sums in sums {
        rows::add(&mut total, sums);
    }
    let bias = total.split_off(width);
    let both = [(&norm.weight, total), (&norm.bias, bias)];
    let trainable = both.into_iter().filter(|(parameter, _)| parameter.is_trainable());
    trainable.map(|(parameter, sums)| named(parameter, sums)).collect()
}

impl Matrix {
    /// Which of a product's input and its output's gradient is the left operand of the weight's gradient.
    fn sides<'a>(&self, input: &'a Operand, output: &'a Operand) -> [Tiles<'a>; 2] {
        match self.stored {
            Stored::OutIn => [output.tiles(), input.tiles()],
            Stored::InOut => [input.tiles(), output.tiles()],
        }
    }

    /// Rows and columns of the part of a weight's gradient that strips are cut from, and how many such parts a weight has.
    fn parts(&self) -> (usize, usize, usize) {
        match self.stored {
            Stored::OutIn => (self.n_out, self.n_in, self.n_parts / self.weights.len()),
            Stored::InOut => (self.n_in, self.n_parts * self.n_out, 1),
        }
    }

    fn tasks_of_a_weight(&self) -> usize {
        let (rows, _, n_parts) = self.parts();
        n_parts * rows.div_ceil(STRIP)
    }

    /// The strips of the gradients of the trainable weights, in their order.
    fn tasks<'a>(&self, weights: &'a mut [Room], pairs: &Arc<[[Tiles<'a>; 2]]>) -> Vec<StripTask<'a>> {
        let (rows, columns, per_weight) = self.parts();
        // With several parts each begins at a whole tile, because they are filled up to 32.
        let first_of = |part: usize| if self.stored == Stored::OutIn { part * padded(self.n_out) / SIDE } else { 0 };
        let trainable = (0..self.weights.len()).filter(|number| self.weights[*number].is_trainable());
        let numbers = trainable.flat_map(|number| number * per_weight..(number + 1) * per_weight);
        let parts = weights.iter_mut().flat_map(|weight| weight.numbers().chunks_exact_mut(rows * columns));
        let mut tasks = Vec::new();
        for (part, values) in numbers.zip(parts) {
            for (number, out) in values.chunks_mut(STRIP * columns).enumerate() {
                let first = first_of(part) + number * STRIP / SIDE;
                // Rows of the input come in parts with room behind each where they are side by side in one weight.
                let (gap, part) = match self.stored {
                    Stored::InOut if self.n_parts > 1 => (padded(self.n_out), self.n_out),
                    _ => (columns, columns),
                };
                tasks.push(StripTask { first, pairs: pairs.clone(), columns, part, gap, out });
            }
        }
        tasks
    }

    fn bias_gradients(&self, biases: &[&[f64]]) -> Vec<(String, Gradient)> {
        let each = if self.n_parts == 1 { self.n_out } else { padded(self.n_out) };
        let mut total = vec![0.0f64; self.width()];
        for sums in biases {
            total.iter_mut().zip(*sums).for_each(|(total, sum)| *total += sum);
        }
        let per_bias = self.n_parts / self.biases.len();
        let trainable = self.biases.iter().enumerate().filter(|(_, bias)| bias.is_trainable());
        let gradient = trainable.map(|(number, bias)| {
            let parts = number * per_bias..(number + 1) * per_bias;
            let values = parts.flat_map(|part| &total[part * each..][..self.n_out]);
            named(bias, values.map(|sum| *sum as f32).collect())
        });
        gradient.collect()
    }
}

/// A strip of a weight's gradient.
struct StripTask<'a> {
    /// Its first row, counted in tiles of the left operands.
    first: usize,
    pairs: Arc<[[Tiles<'a>; 2]]>,
    /// Columns of the gradient; they come in parts, which begin `gap` columns apart in the product.
    columns: usize,
    part: usize,
    gap: usize,
    out: &'a mut [f32],
}

impl StripTask<'_> {
    /// Writes the strip; gives the sum of its squares.
    fn run(self, kernels: &Kernels, strip: &mut Vec<f32>) -> f64 {
        let n = self.out.len() / self.columns;
        let count = n.div_ceil(SIDE);
        let width = self.columns / self.part * self.gap;
        let pairs: Vec<_> = self.pairs.iter().map(|[left, right]| [left.part(self.first, count), *right]).collect();
        if n.is_multiple_of(SIDE) && padded(width) == self.columns {
            kernels.sum_of_products(&pairs, n, self.out, self.columns);
        } else {
            let length = padded(width);
            let strip = room(strip, n, width);
            kernels.sum_of_products(&pairs, n, strip, length);
            for (out, values) in self.out.chunks_exact_mut(self.columns).zip(strip.chunks_exact(length)) {
                for (out, values) in out.chunks_exact_mut(self.part).zip(values.chunks(self.gap)) {
                    out.copy_from_slice(&values[..self.part]);
                }
            }
        }
        sums::of_squares(self.out)
    }
}
