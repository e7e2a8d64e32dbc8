//! Methods of `Tensor` that change its shape or pick from it.

#![expect(clippy::unwrap_used, reason = "in what `export_module` generates")]

use candle_core::Tensor;
use rhai::plugin::*;
use rhai::{Array, INT};

use crate::api::tensor::whole_numbers;
use crate::head::script::convert::{ScriptResult, raise};
use crate::tensor::shape;

/// Makes the methods known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_global_module(exported_module!(shapes).into());
}

#[export_module]
mod shapes {
    /// The product of matrices: `(..., n, k)` and `(..., k, m)` to `(..., n, m)`.
    ///
    /// Leading dimensions are a batch of matrices; those of 1 are repeated to fit.
    ///
    /// ```rhai
    /// let x = Tensor::from_array([[1.0, 2.0], [3.0, 4.0]]);
    /// expect(x.matmul(x).to_array() == [[7.0, 10.0], [15.0, 22.0]], "rows times columns");
    /// expect(Tensor::ones([5, 1, 2, 3]).matmul(Tensor::ones([4, 3, 2])).shape == [5, 4, 2, 2], "a batch of them");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn matmul(x: &mut Tensor, y: Tensor) -> ScriptResult<Tensor> {
        shape::matmul(x, &y).map_err(raise)
    }

    /// The last two dimensions exchanged.
    ///
    /// ```rhai
    /// expect(Tensor::zeros([2, 3]).t().shape == [3, 2], "rows become columns");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn t(x: &mut Tensor) -> ScriptResult<Tensor> {
        shape::transpose(x, -2, -1).map_err(raise)
    }

    /// Two dimensions exchanged.
    ///
    /// ```rhai
    /// expect(Tensor::zeros([2, 3, 4]).transpose(0, -1).shape == [4, 3, 2], "the first and the last");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn transpose(x: &mut Tensor, a: INT, b: INT) -> ScriptResult<Tensor> {
        shape::transpose(x, a, b).map_err(raise)
    }

    /// The same numbers in another shape; one dimension may be -1 and is then worked out.
    ///
    /// ```rhai
    /// expect(Tensor::arange(6).reshape([2, -1]).to_array() == [[0, 1, 2], [3, 4, 5]], "two rows");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn reshape(x: &mut Tensor, shape: Array) -> ScriptResult<Tensor> {
        whole_numbers("reshape", &shape).and_then(|shape| shape::reshape(x, &shape)).map_err(raise)
    }

    /// Without dimension `dim`, where its size is 1; unchanged where it is not.
    ///
    /// ```rhai
    /// expect(Tensor::zeros([2, 1]).squeeze(1).shape == [2], "the 1 is gone");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn squeeze(x: &mut Tensor, dim: INT) -> ScriptResult<Tensor> {
        shape::squeeze(x, dim).map_err(raise)
    }

    /// With a dimension of 1 put in at `dim`.
    ///
    /// ```rhai
    /// expect(Tensor::zeros([2]).unsqueeze(-1).shape == [2, 1], "a column");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn unsqueeze(x: &mut Tensor, dim: INT) -> ScriptResult<Tensor> {
        shape::unsqueeze(x, dim).map_err(raise)
    }

    /// `len` entries of dimension `dim`, from `start`.
    ///
    /// ```rhai
    /// expect(Tensor::arange(5).narrow(0, 1, 3).to_array() == [1, 2, 3], "three from the second on");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn narrow(x: &mut Tensor, dim: INT, start: INT, len: INT) -> ScriptResult<Tensor> {
        shape::narrow(x, dim, start, len).map_err(raise)
    }

    /// The entries of dimension `dim` that `ids` names, in their order; a name may come twice.
    ///
    /// ```rhai
    /// let x = Tensor::from_array([[1.0, 2.0], [3.0, 4.0]]);
    /// expect(x.index_select(0, Tensor::from_array([1, 1, 0])).to_array() == [[3.0, 4.0], [3.0, 4.0], [1.0, 2.0]], "rows");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn index_select(x: &mut Tensor, dim: INT, ids: Tensor) -> ScriptResult<Tensor> {
        shape::index_select(x, dim, &ids).map_err(raise)
    }

    /// One entry of dimension `dim` for each of `ids`, whose other dimensions are those of the tensor.
    ///
    /// ```rhai
    /// let scores = Tensor::from_array([[0.1, 0.9], [0.7, 0.3]]);
    /// let of_labels = scores.gather(1, Tensor::from_array([[1], [0]]));
    /// expect(of_labels.shape == [2, 1], "one score a row");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn gather(x: &mut Tensor, dim: INT, ids: Tensor) -> ScriptResult<Tensor> {
        shape::gather(x, dim, &ids).map_err(raise)
    }

    /// Dimensions of 1 repeated to `shape`; -1 keeps a dimension as it is, and new ones may come in front.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([[1], [2]]).expand([-1, 3]).to_array() == [[1, 1, 1], [2, 2, 2]], "columns repeated");
    /// ```
    #[rhai_fn(name = "expand", name = "broadcast_to", return_raw, pure)]
    pub fn expand(x: &mut Tensor, shape: Array) -> ScriptResult<Tensor> {
        whole_numbers("expand", &shape).and_then(|shape| shape::expand(x, &shape)).map_err(raise)
    }
}
