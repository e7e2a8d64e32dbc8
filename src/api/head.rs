//! What a task's `create` makes a head of: `HeadBuilder` (`p`), and the layers and parameters it gives.

#![expect(clippy::unwrap_used, reason = "in what `export_module` generates")]

use std::sync::Arc;

use candle_core::{DType, Tensor};
use rhai::plugin::*;
use rhai::{Array, INT, Map};
use serde_json::Value as Json;

use crate::api::options::Options;
use crate::api::session::Session;
use crate::api::tensor::sizes;
use crate::error::{Result, What};
use crate::head::HeadBuilder;
use crate::head::script::convert::{ScriptResult, from_dynamic, raise, raise_in};
use crate::model::backbone::LoadSettings;
use crate::model::layers::{Bias, Embedding, LayerNorm, Linear};
use crate::model::parameters::{Init, Parameter};
use crate::model::{Backbone, ModelConfig};
use crate::tensor::shape::{conflict, index_select, shown};

/// Makes the types and their functions known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_type_with_name::<HeadBuilder>("HeadBuilder");
    engine.register_type_with_name::<Linear>("Linear");
    engine.register_type_with_name::<LayerNorm>("LayerNorm");
    engine.register_type_with_name::<Embedding>("Embedding");
    engine.register_type_with_name::<Arc<Parameter>>("Parameter");
    engine.register_static_module("HeadBuilder", exported_module!(constructors).into());
    engine.register_global_module(exported_module!(builder).into());
    engine.register_global_module(exported_module!(layers).into());
}

#[export_module]
mod constructors {
    /// A builder with new weights on a small BERT, for trying out a head by itself; the map changes keys of its configuration.
    ///
    /// A task's `create(p, config)` is given one that reads the checkpoint.
    ///
    /// ```rhai
    /// let p = HeadBuilder::from_config(#{ hidden_size: 4 });
    /// let classifier = p.linear("classifier", 4, 2);
    /// expect(classifier.forward(Tensor::ones([3, 4])).shape == [3, 2], "three rows, two labels");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn from_config(context: NativeCallContext, config: Map) -> ScriptResult<HeadBuilder> {
        super::small(&Session::of(&context), config).map_err(raise_in(&context))
    }
}

#[export_module]
mod builder {
    /// A linear layer from `n_in` to `n_out` numbers, with the parameters `NAME.weight` and `NAME.bias`.
    ///
    /// ```rhai
    /// let p = HeadBuilder::from_config(#{});
    /// expect(p.linear("classifier", 8, 2).weight.shape == [2, 8], "(out, in)");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn linear(p: &mut HeadBuilder, name: &str, n_in: INT, n_out: INT) -> ScriptResult<Linear> {
        super::linear(p, name, n_in, n_out, Map::new()).map_err(raise)
    }

    /// A linear layer with options: `bias: false` leaves the bias out.
    ///
    /// ```rhai
    /// let p = HeadBuilder::from_config(#{});
    /// expect(p.linear("score", 8, 2, #{ bias: false }).bias == (), "no bias");
    /// ```
    #[rhai_fn(name = "linear", return_raw, pure)]
    pub fn linear_with(p: &mut HeadBuilder, name: &str, n_in: INT, n_out: INT, options: Map) -> ScriptResult<Linear> {
        super::linear(p, name, n_in, n_out, options).map_err(raise)
    }

    /// A layer norm over the last dimension, with the parameters `NAME.weight` and `NAME.bias` and the model's epsilon.
    ///
    /// ```rhai
    /// let p = HeadBuilder::from_config(#{});
    /// expect(p.layer_norm("norm", 8).forward(Tensor::randn([3, 8])).shape == [3, 8], "the shape stays");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn layer_norm(p: &mut HeadBuilder, name: &str, size: INT) -> ScriptResult<LayerNorm> {
        super::layer_norm(p, name, size, Map::new()).map_err(raise)
    }

    /// A layer norm with options: `eps`, which is added to the variance.
    ///
    /// ```rhai
    /// let p = HeadBuilder::from_config(#{});
    /// expect(p.layer_norm("norm", 8, #{ eps: 0.001 }).weight.to_array()[0] == 1.0, "the weight begins with ones");
    /// ```
    #[rhai_fn(name = "layer_norm", return_raw, pure)]
    pub fn layer_norm_with(p: &mut HeadBuilder, name: &str, size: INT, options: Map) -> ScriptResult<LayerNorm> {
        super::layer_norm(p, name, size, options).map_err(raise)
    }

    /// A table of `entries` vectors of `size` numbers, with the parameter `NAME.weight`.
    ///
    /// ```rhai
    /// let table = HeadBuilder::from_config(#{}).embedding("kinds", 5, 8);
    /// expect(table.forward(Tensor::from_array([0, 4, 4])).shape == [3, 8], "three vectors");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn embedding(p: &mut HeadBuilder, name: &str, entries: INT, size: INT) -> ScriptResult<Embedding> {
        let made = super::counts(name, &[entries, size]).and_then(|sizes| p.embedding(name, sizes[0], sizes[1]));
        made.map_err(raise)
    }

    /// A parameter of any shape, normal with the model's `initializer_range`.
    ///
    /// ```rhai
    /// let scale = HeadBuilder::from_config(#{}).param("scale", [8]);
    /// expect(scale.name == "scale" && scale.value.shape == [8], "by its name");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn param(p: &mut HeadBuilder, name: &str, shape: Array) -> ScriptResult<Arc<Parameter>> {
        super::param(p, name, &shape, Map::new()).map_err(raise)
    }

    /// A parameter with options: `init` is `"zeros"`, `"ones"` or `"normal"`, the last with the standard deviation `std`.
    ///
    /// ```rhai
    /// let bias = HeadBuilder::from_config(#{}).param("cls.bias", [3], #{ init: "zeros" });
    /// expect(bias.value.to_array() == [0.0, 0.0, 0.0], "zeros");
    /// ```
    #[rhai_fn(name = "param", return_raw, pure)]
    pub fn param_with(p: &mut HeadBuilder, name: &str, shape: Array, options: Map) -> ScriptResult<Arc<Parameter>> {
        super::param(p, name, &shape, options).map_err(raise)
    }

    /// The encoder's table of token vectors, `(vocabulary, hidden)`, for a last layer that is tied to it.
    ///
    /// ```rhai
    /// let words = HeadBuilder::from_config(#{ vocab_size: 30 }).word_embeddings();
    /// expect(words.value.shape == [30, 8], "a vector a token");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn word_embeddings(p: &mut HeadBuilder) -> ScriptResult<Arc<Parameter>> {
        p.word_embeddings().map_err(raise)
    }
}

#[export_module]
mod layers {
    /// Applies a linear layer: `(..., in)` to `(..., out)`.
    ///
    /// ```rhai
    /// let layer = HeadBuilder::from_config(#{}).linear("classifier", 8, 2);
    /// expect(layer.forward(Tensor::ones([5, 8])).shape == [5, 2], "five rows, two labels");
    /// ```
    #[rhai_fn(name = "forward", return_raw, pure)]
    pub fn linear_forward(layer: &mut Linear, x: Tensor) -> ScriptResult<Tensor> {
        layer.forward(&x).map_err(raise)
    }

    /// Applies a layer norm over the last dimension.
    ///
    /// ```rhai
    /// let layer = HeadBuilder::from_config(#{}).layer_norm("norm", 8);
    /// expect(layer.forward(Tensor::ones([5, 8])).shape == [5, 8], "the shape stays");
    /// ```
    #[rhai_fn(name = "forward", return_raw, pure)]
    pub fn layer_norm_forward(layer: &mut LayerNorm, x: Tensor) -> ScriptResult<Tensor> {
        layer.forward(&x).map_err(raise)
    }

    /// Looks up ids of any shape: `(...)` to `(..., size)`.
    ///
    /// ```rhai
    /// let table = HeadBuilder::from_config(#{}).embedding("kinds", 5, 8);
    /// expect(table.forward(Tensor::from_array([[0, 1], [4, 4]])).shape == [2, 2, 8], "a vector an id");
    /// ```
    #[rhai_fn(name = "forward", return_raw, pure)]
    pub fn embedding_forward(layer: &mut Embedding, ids: Tensor) -> ScriptResult<Tensor> {
        super::look_up(layer, &ids).map_err(raise)
    }

    /// The weight of a linear layer, `(out, in)`.
    ///
    /// ```rhai
    /// expect(HeadBuilder::from_config(#{}).linear("classifier", 8, 2).weight.shape == [2, 8], "(out, in)");
    /// ```
    #[rhai_fn(get = "weight", pure)]
    pub fn linear_weight(layer: &mut Linear) -> Tensor {
        layer.weight.tensor()
    }

    /// The bias of a linear layer, `(out)`, or `()` where it has none.
    ///
    /// ```rhai
    /// expect(HeadBuilder::from_config(#{}).linear("classifier", 8, 2).bias.shape == [2], "(out)");
    /// ```
    #[rhai_fn(get = "bias", pure)]
    pub fn linear_bias(layer: &mut Linear) -> Dynamic {
        layer.bias.as_ref().map_or(Dynamic::UNIT, |bias| Dynamic::from(bias.tensor()))
    }

    /// The weight of a layer norm.
    ///
    /// ```rhai
    /// expect(HeadBuilder::from_config(#{}).layer_norm("norm", 8).weight.shape == [8], "one a column");
    /// ```
    #[rhai_fn(get = "weight", pure)]
    pub fn layer_norm_weight(layer: &mut LayerNorm) -> Tensor {
        layer.weight.tensor()
    }

    /// The bias of a layer norm.
    ///
    /// ```rhai
    /// expect(HeadBuilder::from_config(#{}).layer_norm("norm", 8).bias.shape == [8], "one a column");
    /// ```
    #[rhai_fn(get = "bias", pure)]
    pub fn layer_norm_bias(layer: &mut LayerNorm) -> Tensor {
        layer.bias.tensor()
    }

    /// The vectors of a table, `(entries, size)`.
    ///
    /// ```rhai
    /// expect(HeadBuilder::from_config(#{}).embedding("kinds", 5, 8).weight.shape == [5, 8], "five vectors");
    /// ```
    #[rhai_fn(get = "weight", pure)]
    pub fn embedding_weight(layer: &mut Embedding) -> Tensor {
        layer.weight.tensor()
    }

    /// The value of a parameter, which gradients flow into unless it is frozen.
    ///
    /// ```rhai
    /// expect(HeadBuilder::from_config(#{}).param("scale", [8], #{ init: "ones" }).value.sum().item() == 8.0, "ones");
    /// ```
    #[rhai_fn(get = "value", pure)]
    pub fn parameter_value(parameter: &mut Arc<Parameter>) -> Tensor {
        parameter.tensor()
    }

    /// The name of a parameter, by which it is saved.
    ///
    /// ```rhai
    /// expect(HeadBuilder::from_config(#{}).param("scale", [8]).name == "scale", "as it was made");
    /// ```
    #[rhai_fn(get = "name", pure)]
    pub fn parameter_name(parameter: &mut Arc<Parameter>) -> String {
        parameter.name().to_string()
    }
}

/// Sizes of a layer: whole numbers from 1.
fn counts(name: &str, values: &[INT]) -> Result<Vec<usize>> {
    let count = |&value: &INT| match usize::try_from(value) {
        Ok(count) if count > 0 => Ok(count),
        _ => {
            let (name, allowed) = (format!("a size of `{name}`"), "at least 1".into());
            Err(What::OutOfRange { name, value: value.to_string(), allowed }.into())
        }
    };
    values.iter().map(count).collect()
}

fn linear(p: &HeadBuilder, name: &str, n_in: INT, n_out: INT, options: Map) -> Result<Linear> {
    let mut options = Options::new("`linear`", options);
    let bias = if options.bool("bias")?.unwrap_or(true) { Bias::Yes } else { Bias::No };
    options.finish()?;
    let sizes = counts(name, &[n_in, n_out])?;
    p.linear(name, sizes[0], sizes[1], bias)
}

fn layer_norm(p: &HeadBuilder, name: &str, size: INT, options: Map) -> Result<LayerNorm> {
    let mut options = Options::new("`layer_norm`", options);
    let eps = options.float("eps")?;
    options.finish()?;
    p.layer_norm(name, counts(name, &[size])?[0], eps)
}

fn param(p: &HeadBuilder, name: &str, shape: &[Dynamic], options: Map) -> Result<Arc<Parameter>> {
    let mut options = Options::new("`param`", options);
    let init = options.choice("init", &["zeros", "ones", "normal"])?;
    let deviation = options.float("std")?;
    options.finish()?;
    let init = match (init.as_deref(), deviation) {
        (Some("zeros" | "ones"), Some(_)) => {
            return Err(conflict("`std` of `param` belongs to `init: \"normal\"`".into()));
        }
        (Some("zeros"), None) => Some(Init::Zeros),
        (Some("ones"), None) => Some(Init::Ones),
        (_, deviation) => deviation.map(Init::Normal),
    };
    p.param(name, &sizes(name, shape)?, init)
}

fn look_up(layer: &Embedding, ids: &Tensor) -> Result<Tensor> {
    if !ids.dtype().is_int() {
        return Err(conflict(format!("an embedding takes whole numbers, but got floats of {}", shown(ids.dims()))));
    }
    let weight = layer.weight.tensor();
    let shape: Vec<usize> = ids.dims().iter().copied().chain([weight.dims()[1]]).collect();
    Ok(index_select(&weight, 0, &ids.flatten_all()?.to_dtype(DType::I64)?)?.reshape(shape)?)
}

/// The sizes of the BERT that a head is tried out on, where the script does not give them.
const SMALL: [(&str, u64); 6] = [
    ("vocab_size", 100),
    ("hidden_size", 8),
    ("num_hidden_layers", 0),
    ("num_attention_heads", 1),
    ("intermediate_size", 8),
    ("max_position_embeddings", 16),
];

fn small(session: &Session, config: Map) -> Result<HeadBuilder> {
    let mut map = serde_json::Map::new();
    map.insert("model_type".into(), Json::from("bert"));
    map.extend(SMALL.map(|(key, size)| (key.to_string(), Json::from(size))));
    for (key, value) in &config {
        map.insert(key.to_string(), from_dynamic(value)?.to_json());
    }
    let settings = LoadSettings {
        caller: "`HeadBuilder`".into(),
        overrides: Vec::new(),
        ignore_mismatched_sizes: false,
        seed: session.seed(),
        device: session.device().clone(),
    };
    let backbone = Backbone::from_config(ModelConfig::from_map(map), &settings)?;
    let encoder = backbone.encoder.config();
    let (deviation, eps) = (encoder.initializer_range, encoder.layer_norm_eps);
    Ok(HeadBuilder::new(backbone.builder.clone(), backbone.family, deviation, eps))
}
