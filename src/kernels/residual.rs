//! Dropout, alone and with the residual connection that follows it, and its backward. The mask is drawn again in the
//! backward rather than kept.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::dropout::{Site, TokenNumber};
use crate::kernels::{Path, covers, path, values, with_values};

/// `x` `(n, width)` with the elements of `site` dropped; row i is the token `numbers[i]`.
///
/// # Errors
/// Those of the tensor operations.
pub fn dropout(x: &Tensor, site: Site, numbers: &Arc<[TokenNumber]>) -> Result<Tensor> {
    let rows = numbers.len();
    let width = x.elem_count() / rows.max(1);
    if path() == Path::Reference || !covers(&[x]) || width == 0 || rows * width != x.elem_count() {
        let mask = Tensor::from_vec(site.mask(numbers, width), x.shape(), x.device())?;
        return Ok((x * mask.to_dtype(x.dtype())?)?);
    }
    Ok(x.contiguous()?.apply_op1(Dropout { site, numbers: numbers.clone() })?)
}

struct Dropout {
    site: Site,
    numbers: Arc<[TokenNumber]>,
}

impl Dropout {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let width = x.len() / self.numbers.len();
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(width).zip(x.par_chunks(width)).zip(&self.numbers[..]).with_min_len(8).for_each(
            |((y, x), number)| {
                self.site.factors(*number, y);
                y.iter_mut().zip(x).for_each(|(factor, x)| *factor *= x);
            },
        );
        y
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.apply(values(x, layout)?)), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dx = with_values([gradient], |[gradient]| self.apply(gradient))?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}
