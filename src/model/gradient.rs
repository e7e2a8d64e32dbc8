//! The gradient of one parameter, in the form that its source gives it.
//!
//! What candle's autograd computes is a tensor. The fused encoder writes into rooms that it lends out and gets back when the
//! gradient is dropped, so that the weights' gradients are allocated once; of a table it gives only the rows that tokens looked up.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::{pages, rows, sums, with_values};

/// Numbers that one task adds up or moves: large enough to pay for the sharing out.
const CHUNK: usize = 1 << 14;

/// A gradient. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gradient {
    dims: Vec<usize>,
    values: Values,
    /// The sum of the squares, where it was formed on the way.
    squares: Option<f64>,
}

#[derive(Clone, Debug)]
enum Values {
    Tensor(Tensor),
    Dense(Buffer),
    /// Distinct rows of a table in ascending order, and their values one after the other.
    Rows(Arc<[u32]>, Buffer),
}

/// What a gradient consists of.
#[derive(Clone, Copy, Debug)]
pub enum View<'a> {
    /// A tensor of the parameter's shape, on any device.
    Tensor(&'a Tensor),
    /// All values.
    Dense(&'a [f32]),
    /// The rows of a table that were looked up, ascending, and their values one after the other; all others are zero.
    Rows(&'a [u32], &'a [f32]),
}

/// Numbers that are not changed any more, unless only one clone is left.
#[derive(Clone, Debug)]
pub struct Buffer(Arc<Room>);

/// Room for numbers, which goes home when it is dropped.
#[derive(Debug)]
pub struct Room {
    values: Vec<f32>,
    /// How many of them count: the others are left from a larger use.
    n: usize,
    home: Option<Arc<Pool>>,
}

/// Rooms that nobody has borrowed.
#[derive(Debug, Default)]
pub struct Pool(Mutex<Vec<Vec<f32>>>);

impl Pool {
    /// Room for `n` numbers; what stands in it does not matter and is to be overwritten.
    pub fn lend(self: &Arc<Self>, n: usize) -> Room {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, or else the largest of all, which grows.
        let best = (0..free.len()).min_by_key(|&place| match free[place].len() {
            length if length >= n => (false, length),
            length => (true, usize::MAX - length),
        });
        let mut values = best.map(|place| free.swap_remove(place)).unwrap_or_default();
        drop(free);
        pages::grow(&mut values, n);
        Room { values, n, home: Some(self.clone()) }
    }

    fn take_back(&self, values: Vec<f32>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(values);
    }
}

impl Room {
    /// The numbers, to be written.
    pub fn numbers(&mut self) -> &mut [f32] {
        &mut self.values[..self.n]
    }

    /// The same room for another number of them; what stands in it does not matter.
    pub fn resized(mut self, n: usize) -> Self {
        pages::grow(&mut self.values, n);
        self.n = n;
        self
    }
}

impl From<Room> for Buffer {
    fn from(room: Room) -> Self {
        Buffer(Arc::new(room))
    }
}

impl Buffer {
    /// Numbers of nobody else.
    pub fn owned(values: Vec<f32>) -> Self {
        Buffer(Arc::new(Room { n: values.len(), values, home: None }))
    }

    /// Room of the same size, from the same place.
    fn sibling(&self) -> Room {
        let n = self.0.n;
        match &self.0.home {
            Some(home) => home.lend(n),
            None => Room { values: vec![0.0; n], n, home: None },
        }
    }

    fn values(&self) -> &[f32] {
        &self.0.values[..self.0.n]
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            home.take_back(std::mem::take(&mut self.values));
        }
    }
}

impl From<Tensor> for Gradient {
    fn from(tensor: Tensor) -> Self {
        Gradient { dims: tensor.dims().to_vec(), values: Values::Tensor(tensor.detach()), squares: None }
    }
}

impl Gradient {
    /// A gradient of all values, with the sum of their squares where it is known.
    pub fn dense(dims: &[usize], values: Buffer, squares: Option<f64>) -> Self {
        Gradient { dims: dims.to_vec(), values: Values::Dense(values), squares }
    }

    /// A gradient of these rows of a table, distinct and ascending; all others are zero.
    pub fn of_rows(dims: &[usize], rows: Arc<[u32]>, values: Buffer) -> Self {
        Gradient { dims: dims.to_vec(), values: Values::Rows(rows, values), squares: None }
    }

    /// The shape of the parameter.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// What it consists of.
    pub fn view(&self) -> View<'_> {
        match &self.values {
            Values::Tensor(tensor) => View::Tensor(tensor),
            Values::Dense(buffer) => View::Dense(buffer.values()),
            Values::Rows(rows, buffer) => View::Rows(rows, buffer.values()),
        }
    }

    /// The gradient as a tensor of the parameter's shape, a copy where it is none.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub fn to_tensor(&self) -> Result<Tensor> {
        Ok(match self.view() {
            View::Tensor(tensor) => tensor.clone(),
            View::Dense(values) => Tensor::from_slice(values, self.dims(), &Device::Cpu)?,
            View::Rows(rows, values) => {
                let mut all = vec![0.0f32; self.dims.iter().product()];
                let width = self.width();
                for (row, values) in rows.iter().zip(values.chunks_exact(width)) {
                    all[*row as usize * width..][..width].copy_from_slice(values);
                }
                Tensor::from_vec(all, self.dims(), &Device::Cpu)?
            }
        })
    }

    /// Numbers of a row of a table.
    fn width(&self) -> usize {
        self.dims.iter().skip(1).product::<usize>().max(1)
    }

    /// Adds another gradient of the same parameter.
    ///
    /// # Errors
    /// Those of the tensor operations: other shapes among them.
    pub fn add(&mut self, other: &Gradient) -> Result<()> {
        self.squares = None;
        let width = self.width();
        match (&mut self.values, &other.values) {
            (Values::Dense(mine), Values::Dense(others)) if mine.values().len() == others.values().len() => {
                let sum = mine.for_change();
                let chunks = sum.par_chunks_mut(CHUNK).zip(others.values().par_chunks(CHUNK));
                chunks.for_each(|(sum, other)| rows::add(sum, other));
            }
            (Values::Dense(mine), Values::Rows(others, added)) if self.dims == other.dims => {
                let sum = mine.for_change();
                for (row, added) in others.iter().zip(added.values().chunks_exact(width)) {
                    rows::add(&mut sum[*row as usize * width..][..width], added);
                }
            }
            (Values::Rows(mine, values), Values::Rows(others, added)) if self.dims == other.dims => {
                let (merged, sum) = merge((mine, values.values()), (others, added.values()), width);
                *values = Buffer::owned(sum);
                *mine = merged.into();
            }
            _ => *self = Gradient::from((self.to_tensor()? + other.to_tensor()?)?),
        }
        Ok(())
    }

    /// The gradient times a number.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub fn scaled(&self, factor: f64) -> Result<Gradient> {
        let scale = |buffer: &Buffer| {
            let mut room = buffer.sibling();
            rows::scaled(buffer.values(), factor as f32, room.numbers());
            Buffer::from(room)
        };
        let values = match &self.values {
            Values::Tensor(tensor) => Values::Tensor((tensor * factor)?.detach()),
            Values::Dense(buffer) => Values::Dense(scale(buffer)),
            Values::Rows(rows, buffer) => Values::Rows(rows.clone(), scale(buffer)),
        };
        Ok(Gradient { dims: self.dims.clone(), values, squares: None })
    }

    /// The sum of the squares of all values in f64, in an order that does not depend on threads; not finite where a value is not.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub fn sum_of_squares(&self) -> Result<f64> {
        if let Some(squares) = self.squares {
            return Ok(squares);
        }
        match self.view() {
            View::Tensor(tensor) if !tensor.device().is_cpu() => {
                Ok(f64::from(tensor.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>()?))
            }
            View::Tensor(tensor) => Ok(with_values([&tensor.to_dtype(DType::F32)?], |[values]| sum(values))?),
            View::Dense(values) | View::Rows(_, values) => Ok(sum(values)),
        }
    }
}

impl Buffer {
    /// The values for changing them: a copy where somebody else holds them too.
    fn for_change(&mut self) -> &mut [f32] {
        if Arc::get_mut(&mut self.0).is_none() {
            let mut room = self.sibling();
            room.numbers().copy_from_slice(self.values());
            *self = Buffer::from(room);
        }
        Arc::get_mut(&mut self.0).map_or(&mut [], Room::numbers)
    }
}

fn sum(values: &[f32]) -> f64 {
    let sums: Vec<f64> = values.par_chunks(CHUNK).map(sums::of_squares).collect();
    sums.iter().sum()
}

/// Two lists of rows as one; rows that stand in both are added.
fn merge(left: (&[u32], &[f32]), right: (&[u32], &[f32]), width: usize) -> (Vec<u32>, Vec<f32>) {
    let (mut rows_of, mut values) = (Vec::new(), Vec::new());
    let (mut i, mut j) = (0, 0);
    while i < left.0.len() || j < right.0.len() {
        let (l, r) = (left.0.get(i).copied().unwrap_or(u32::MAX), right.0.get(j).copied().unwrap_or(u32::MAX));
        let (from_left, from_right) = (&left.1[i * width..], &right.1[j * width..]);
        rows_of.push(l.min(r));
        if l <= r {
            values.extend_from_slice(&from_left[..width]);
            i += 1;
        } else {
            values.extend_from_slice(&from_right[..width]);
        }
        if l == r {
            let place = values.len() - width;
            rows::add(&mut values[place..], &from_right[..width]);
        }
        j += usize::from(r <= l);
    }
    (rows_of, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(values: &[f32]) -> Buffer {
        Buffer::owned(values.to_vec())
    }

    fn table(rows: &[u32], values: &[f32]) -> Gradient {
        Gradient::of_rows(&[5, 2], rows.to_vec().into(), buffer(values))
    }

    fn numbers(gradient: &Gradient) -> Vec<f32> {
        gradient.to_tensor().unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Whatever form two gradients have, their sum is that of their tensors, and so is the norm.
    #[test]
    fn sums_do_not_depend_on_the_form() {
        let forms = |rows: &[u32], values: &[f32]| {
            let table = table(rows, values);
            let tensor = table.to_tensor().unwrap();
            [table, Gradient::from(tensor.clone()), Gradient::dense(&[5, 2], buffer(&numbers(&tensor.into())), None)]
        };
        for one in forms(&[0, 3], &[1.0, 2.0, 3.0, 4.0]) {
            for other in forms(&[1, 3, 4], &[10.0, 20.0, 30.0, 40.0, 50.0, 60.0]) {
                let mut sum = one.clone();
                sum.add(&other).unwrap();
                assert_eq!(numbers(&sum), [1.0, 2.0, 10.0, 20.0, 0.0, 0.0, 33.0, 44.0, 50.0, 60.0]);
                assert_eq!(numbers(&one)[..2], [1.0, 2.0], "the summand stays as it was");
                assert_eq!(sum.sum_of_squares().unwrap(), 9630.0);
                assert_eq!(numbers(&sum.scaled(0.5).unwrap())[6..8], [16.5, 22.0]);
            }
        }
    }

    #[test]
    fn rooms_go_home_and_are_lent_again() {
        let pool = Arc::new(Pool::default());
        let free = || pool.0.lock().unwrap().iter().map(Vec::len).collect::<Vec<_>>();
        let mut room = pool.lend(3);
        room.numbers().copy_from_slice(&[1.0, 2.0, 3.0]);
        let gradient = Gradient::dense(&[3], room.into(), None);
        let second = gradient.clone();
        drop(gradient);
        assert!(free().is_empty(), "it is still held");
        drop(second);
        assert_eq!(free(), [3]);
        // The smallest that is large enough; a smaller one grows; a larger one counts as asked for.
        let (small, large) = (pool.lend(2), pool.lend(5));
        assert!(free().is_empty());
        let gradient = Gradient::dense(&[4], large.resized(4).into(), None);
        assert_eq!(numbers(&gradient).len(), 4);
        drop((gradient, small));
        assert_eq!(pool.lend(4).numbers().len(), 4);
        let (three, five) = (pool.lend(3), pool.lend(6));
        assert_eq!((three.values.len(), five.values.len()), (3, 6));
        assert!(free().is_empty());
    }
}
