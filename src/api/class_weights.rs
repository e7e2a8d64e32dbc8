//! Class weights: what a task's `collate` puts on a batch, and scikit-learn's `compute_class_weight`.

#![expect(clippy::unwrap_used, reason = "in what `export_module` generates")]

use rhai::plugin::*;
use rhai::{Array, Map};

use crate::api::options::Options;
use crate::api::tensor::number;
use crate::batch::Batch;
use crate::error::{Error, Result, What};
use crate::head::class_weights::balanced;
use crate::head::script::convert::{ScriptResult, from_dynamic, raise};

/// Makes the functions known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_global_module(exported_module!(weights).into());
}

#[export_module]
mod weights {
    /// The same batch, whose labels count with the weights of their classes, one number a class: for `collate` of a task.
    ///
    /// `options.class_weights` is such a list, or `()`: a recipe gives it as `task_options: #{ class_weights: ... }`, where it may be
    /// a list, a map from label names to numbers, or "balanced". `()` leaves the batch as it is.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 3], labels: 1 }, #{ input_ids: [4], labels: 0 }]);
    /// expect(batch.with_class_weights([0.5, 2.0]).class_weights.to_array() == [0.5, 2.0], "for the loss");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn with_class_weights(batch: &mut Batch, weights: Dynamic) -> ScriptResult<Batch> {
        super::weigh(batch, &weights).map_err(raise)
    }

    /// The weight of each class in the loss, `(classes)`, or `()`: for `cross_entropy(logits, labels, #{ weight: batch.class_weights })`.
    ///
    /// ```rhai
    /// expect(Batch::of([#{ input_ids: [2, 3], labels: 1 }]).class_weights == (), "all classes count alike");
    /// ```
    #[rhai_fn(get = "class_weights", pure)]
    pub fn class_weights(batch: &mut Batch) -> Dynamic {
        batch.class_weights.clone().map_or(Dynamic::UNIT, Dynamic::from)
    }

    /// scikit-learn's weights of classes: with "balanced", `n / (k * count)` of each of the `classes` among the labels `y`.
    ///
    /// ```rhai
    /// let weights = compute_class_weight("balanced", #{ classes: ["neg", "pos"], y: ["neg", "neg", "neg", "pos"] });
    /// expect(weights == [4.0 / (2.0 * 3.0), 2.0], "the rare class counts more");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn compute_class_weight(class_weight: &str, options: Map) -> ScriptResult<Array> {
        super::compute(class_weight, options).map_err(raise)
    }
}

fn weigh(batch: &Batch, weights: &Dynamic) -> Result<Batch> {
    if weights.is_unit() {
        return Ok(batch.clone());
    }
    let name = "the weights of `with_class_weights`";
    let list = weights.as_array_ref().map_err(|got| {
        Error::from(What::WrongType { name: name.into(), wanted: "an array of numbers".into(), got: got.into() })
    })?;
    let list = list.iter().map(|one| Ok(number(name, one)? as f32)).collect::<Result<Vec<_>>>()?;
    batch.clone().with_class_weights(&list)
}

fn compute(class_weight: &str, options: Map) -> Result<Array> {
    if class_weight != "balanced" {
        let (name, value) = ("the kind of `compute_class_weight`".into(), format!("{class_weight:?}"));
        return Err(What::OutOfRange { name, value, allowed: "\"balanced\"".into() }.into());
    }
    let mut options = Options::new("`compute_class_weight`", options);
    let mut list = |key| {
        let list = options.array(key)?.ok_or_else(|| options.missing(key, "give `classes` and `y`"))?;
        list.iter().map(from_dynamic).collect::<Result<Vec<_>>>()
    };
    let (classes, labels) = (list("classes")?, list("y")?);
    options.finish()?;
    let mut numbers = Vec::with_capacity(labels.len());
    for label in &labels {
        let number = classes.iter().position(|class| class == label).ok_or_else(|| {
            let name = label.as_str().map_or_else(|| label.to_json().to_string(), str::to_string);
            Error::new(What::NotFound { kind: "class", name }).hint("`classes` has to hold every label of `y`")
        })?;
        numbers.push(number);
    }
    if let Some(missing) = (0..classes.len()).find(|number| !numbers.contains(number)) {
        let problem = format!("the class {} does not occur in `y`", classes[missing].to_json());
        return Err(Error::new(What::BadData(problem)).hint("leave it out of `classes`"));
    }
    Ok(balanced(&numbers, classes.len()).into_iter().map(Dynamic::from).collect())
}
