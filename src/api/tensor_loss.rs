//! Layers and losses as functions of tensors.

use candle_core::{DType, Tensor};
use rhai::Map;
use rhai::plugin::*;

use crate::api::options::Options;
use crate::api::tensor::number;
use crate::batch::Batch;
use crate::error::{Result, What};
use crate::head::script::convert::{ScriptResult, from_dynamic, raise, type_name};
use crate::head::spans;
use crate::kernels::{linear, vocabulary_loss};
use crate::tensor::arithmetic::as_float;
use crate::tensor::loss::{self, CrossEntropy};
use crate::tensor::ops;

/// Makes the functions known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_global_module(exported_module!(losses).into());
}

#[export_module]
mod losses {
    /// A linear layer: `x W^T + b`, with a weight of `(out, in)` and a bias of `(out)`.
    ///
    /// ```rhai
    /// let y = linear(Tensor::ones([2, 3]), Tensor::ones([4, 3]), Tensor::ones([4]));
    /// expect(y.shape == [2, 4] && y.max().item() == 4.0, "three ones and the bias");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn linear(x: Tensor, weight: Tensor, bias: Tensor) -> ScriptResult<Tensor> {
        as_float(&x).and_then(|x| linear::linear(&x, &weight, Some(&bias))).map_err(raise)
    }

    /// A linear layer without bias: `x W^T`.
    ///
    /// ```rhai
    /// expect(linear(Tensor::ones([2, 3]), Tensor::ones([4, 3])).max().item() == 3.0, "three ones");
    /// ```
    #[rhai_fn(name = "linear", return_raw)]
    pub fn linear_without_bias(x: Tensor, weight: Tensor) -> ScriptResult<Tensor> {
        as_float(&x).and_then(|x| linear::linear(&x, &weight, None)).map_err(raise)
    }

    /// Layer normalisation over the last dimension, with a weight and a bias of its size; `eps` is added to the variance.
    ///
    /// ```rhai
    /// let y = layer_norm(Tensor::from_array([[1.0, 3.0]]), Tensor::ones([2]), Tensor::zeros([2]), 0);
    /// expect(y.to_array() == [[-1.0, 1.0]], "mean 0, variance 1");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: Dynamic) -> ScriptResult<Tensor> {
        let eps = number("the `eps` of `layer_norm`", &eps).map_err(raise)?;
        as_float(&x).and_then(|x| ops::layer_norm(&x, &weight, &bias, eps)).map_err(raise)
    }

    /// Layer normalisation over the last dimension with PyTorch's `eps` of 1e-5.
    ///
    /// ```rhai
    /// let y = layer_norm(Tensor::randn([2, 8]), Tensor::ones([8]), Tensor::zeros([8]));
    /// expect(y.mean().abs().item() < 0.000001, "mean 0");
    /// ```
    #[rhai_fn(name = "layer_norm", return_raw)]
    pub fn layer_norm_by_default(x: Tensor, weight: Tensor, bias: Tensor) -> ScriptResult<Tensor> {
        as_float(&x).and_then(|x| ops::layer_norm(&x, &weight, &bias, 1e-5)).map_err(raise)
    }

    /// Cross entropy of logits `(items, classes)` against classes `(items)`, the mean over the items.
    ///
    /// Items with the label -100 take no part; where no item is left, the loss is 0.
    ///
    /// ```rhai
    /// let loss = cross_entropy(Tensor::zeros([3, 2]), Tensor::from_array([0, 1, -100]));
    /// expect(loss.item() > 0.6931 && loss.item() < 0.6932, "the logarithm of 2");
    /// ```
    #[rhai_fn(name = "cross_entropy", return_raw)]
    pub fn cross_entropy_by_default(logits: Tensor, labels: Tensor) -> ScriptResult<Tensor> {
        vocabulary_loss::cross_entropy(&logits, &labels, &CrossEntropy::default()).map_err(raise)
    }

    /// Cross entropy with options, as in PyTorch: `ignore_index` (-100), `label_smoothing` (0.0), `weight` (one number a class).
    ///
    /// With weights, the mean is weighted too.
    ///
    /// ```rhai
    /// let logits = Tensor::from_array([[2.0, 0.0], [0.0, 2.0]]);
    /// let labels = Tensor::from_array([0, 1]);
    /// let plain = cross_entropy(logits, labels).item();
    /// let smooth = cross_entropy(logits, labels, #{ label_smoothing: 0.1, weight: [1.0, 1.0], ignore_index: -1 }).item();
    /// expect(smooth > plain, "smoothing asks for less certainty");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn cross_entropy(logits: Tensor, labels: Tensor, options: Map) -> ScriptResult<Tensor> {
        super::settings(options, &logits)
            .and_then(|set| vocabulary_loss::cross_entropy(&logits, &labels, &set))
            .map_err(raise)
    }

    /// The mean squared difference of two tensors of one shape.
    ///
    /// ```rhai
    /// expect(mse_loss(Tensor::from_array([1.0, 2.0]), Tensor::from_array([1, 4])).item() == 2.0, "(0 + 4) / 2");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn mse_loss(predictions: Tensor, targets: Tensor) -> ScriptResult<Tensor> {
        loss::mse(&predictions, &targets).map_err(raise)
    }

    /// Binary cross entropy of logits against targets between 0 and 1, the mean over all elements.
    ///
    /// ```rhai
    /// let loss = bce_with_logits(Tensor::from_array([[100.0, -100.0]]), Tensor::from_array([[1, 0]]));
    /// expect(loss.item() == 0.0, "certain and right");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn bce_with_logits(logits: Tensor, targets: Tensor) -> ScriptResult<Tensor> {
        loss::bce_with_logits(&logits, &targets).map_err(raise)
    }

    /// The cross entropy of each row's scores over its own tokens against its position, the mean over the rows.
    ///
    /// `logits` has one score a token, `positions` one position a row, counted from the row's first token. A position
    /// outside the row takes no part; where no row is left, the loss is 0.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [5, 6] }, #{ input_ids: [5, 6, 7, 8] }]);
    /// let loss = span_loss(Tensor::zeros([6]), Tensor::from_array([9, 2]), batch);
    /// expect(loss.item() > 1.3862 && loss.item() < 1.3863, "the logarithm of 4: the second row alone");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn span_loss(logits: Tensor, positions: Tensor, batch: Batch) -> ScriptResult<Tensor> {
        spans::span_loss(&logits, &positions, &batch).map_err(raise)
    }
}

fn settings(options: Map, logits: &Tensor) -> Result<CrossEntropy> {
    let mut options = Options::new("`cross_entropy`", options);
    let mut settings = CrossEntropy::default();
    if let Some(index) = options.int("ignore_index")? {
        settings.ignore_index = index;
    }
    if let Some(share) = options.float("label_smoothing")? {
        if !(0.0..=1.0).contains(&share) {
            let name = "`label_smoothing` of `cross_entropy`".into();
            return Err(What::OutOfRange { name, value: share.to_string(), allowed: "from 0 to 1".into() }.into());
        }
        settings.label_smoothing = share;
    }
    settings.weight = match options.take("weight") {
        None => None,
        Some(value) => Some(match value.read_lock::<Tensor>() {
            Some(tensor) => tensor.clone(),
            None => {
                let wrong = || What::WrongType {
                    name: "`weight` of `cross_entropy`".into(),
                    wanted: "a Tensor or an array of numbers".into(),
                    got: type_name(&value),
                };
                let list = from_dynamic(&value)?;
                let numbers = list.as_list().and_then(|list| list.iter().map(|item| item.as_float()).collect());
                let numbers: Vec<f64> = numbers.ok_or_else(wrong)?;
                Tensor::new(numbers, logits.device())?.to_dtype(DType::F32)?
            }
        }),
    };
    options.finish()?;
    Ok(settings)
}
