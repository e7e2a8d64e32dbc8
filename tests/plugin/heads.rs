//! Heads that this binary is linked with: a sound one, and those that fail in one function each.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use retune::plugin::Plugin;
use retune_plugin_sdk::{
    CustomOp, Cx, Embedding, Error, Function, Init, Json, LayerNorm, Level, Linear, Outputs, Param, Result, TaskHead,
    Tensor, View, export_heads,
};
use std::sync::Arc;

/// The plugin that is linked into this binary.
pub(super) fn linked() -> Arc<Plugin> {
    static LINKED: OnceLock<Arc<Plugin>> = OnceLock::new();
    LINKED.get_or_init(|| Plugin::linked(&retune_plugin_entry).unwrap()).clone()
}

/// Every layer of the SDK, an operation of its own, and a state.
pub(super) struct Sound {
    norm: LayerNorm,
    kinds: Embedding,
    scale: Param,
    out: Linear,
    calls: AtomicU64,
}

/// The cube of each element, times a scale.
struct Cube;

impl CustomOp for Cube {
    fn forward(&self, inputs: &[View<'_>], output: &mut [f32]) -> Result<()> {
        let scale = inputs[1].data[0];
        output.iter_mut().zip(inputs[0].data).for_each(|(y, x)| *y = scale * x * x * x);
        Ok(())
    }

    fn backward(&self, inputs: &[View<'_>], _: &[f32], gradient: &[f32], gradients: &mut [&mut [f32]]) -> Result<()> {
        let scale = inputs[1].data[0];
        for (place, (x, g)) in inputs[0].data.iter().zip(gradient).enumerate() {
            gradients[0][place] = 3.0 * scale * x * x * g;
            gradients[1][0] += x * x * x * g;
        }
        Ok(())
    }
}

impl TaskHead for Sound {
    const NAME: &'static str = "sound";
    const OPTIONS: &'static str = r#"{"top_k": 1}"#;
    const FUNCTIONS: &'static [Function] = &[Function::Decode, Function::Reduce, Function::Metrics, Function::State];

    fn create(cx: Cx<'_>, config: &Json) -> Result<Self> {
        let hidden = config.count("hidden_size")?;
        Ok(Sound {
            norm: LayerNorm::new(cx, "sound.norm", hidden, 1e-5),
            kinds: Embedding::new(cx, "sound.kinds", 4, hidden),
            scale: Param::new(cx, "sound.scale", &[1], Init::Ones),
            out: Linear::new(cx, "sound.out", hidden, config.count("num_labels")?),
            calls: AtomicU64::new(0),
        })
    }

    fn forward<'c>(&self, cx: Cx<'c>, hidden: Tensor<'c>) -> Result<Outputs<'c>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let positions = cx.input("position_ids").clamp(0.0, 3.0);
        let kinds = self.kinds.forward(cx.ints(&positions.to_ints()?, &[positions.dims()?[0]]));
        let x = self.norm.forward(hidden + kinds).first().dropout(0.1); // (rows, hidden)
        let dims = x.dims()?;
        let cubes = cx.custom(Cube, &[x, self.scale.value(cx)], &dims);
        Ok(self.out.forward(x.gelu() + cubes * 0.1).into()) // (rows, labels)
    }

    fn loss<'c>(&self, cx: Cx<'c>) -> Result<Tensor<'c>> {
        cx.input("logits").task_cross_entropy(cx.input("labels"))
    }

    fn decode(&self, cx: Cx<'_>, options: &Json) -> Result<Json> {
        cx.log(Level::Warning, "decoding");
        let best = cx.input("logits").argmax(-1).to_ints()?;
        let batch = cx.json("batch")?;
        let one = |label: &i64| Json::map([("label", Json::Int(*label)), ("top_k", options.get("top_k").clone())]);
        match batch.get("rows").list().len() == best.len() {
            true => Ok(Json::List(best.iter().map(one).collect())),
            false => Err(Error::new("rows and labels differ in number")),
        }
    }

    fn reduce(&self, cx: Cx<'_>, _: &Json) -> Result<Json> {
        Ok(Json::from(cx.input("logits").argmax(-1).to_ints()?))
    }

    fn metrics(&self, _: Cx<'_>, predictions: &Json, references: &Json, _: &Json) -> Result<Json> {
        let both = predictions.list().iter().zip(references.list());
        let right = both.filter(|(one, other)| one.as_i64() == other.as_i64()).count();
        Ok(Json::map([("right", Json::from(right as f64 / predictions.list().len() as f64))]))
    }

    fn save_state(&self) -> Result<Vec<u8>> {
        Ok(self.calls.load(Ordering::Relaxed).to_le_bytes().to_vec())
    }

    fn load_state(&mut self, state: &[u8]) -> Result<()> {
        let calls = <[u8; 8]>::try_from(state).map_err(|_| Error::new("the state has eight bytes"))?;
        self.calls = AtomicU64::new(u64::from_le_bytes(calls));
        Ok(())
    }
}

/// A second version of `sound`: without the scale, with a bias of its own, the same output layer and the same state.
pub(super) struct Newer {
    out: Linear,
    shift: Param,
    calls: AtomicU64,
}

impl TaskHead for Newer {
    const NAME: &'static str = "newer";
    const FUNCTIONS: &'static [Function] = &[Function::State];

    fn create(cx: Cx<'_>, config: &Json) -> Result<Self> {
        Ok(Newer {
            out: Linear::new(cx, "sound.out", config.count("hidden_size")?, config.count("num_labels")?),
            shift: Param::new(cx, "newer.shift", &[config.count("num_labels")?], Init::Zeros),
            calls: AtomicU64::new(0),
        })
    }

    fn forward<'c>(&self, cx: Cx<'c>, hidden: Tensor<'c>) -> Result<Outputs<'c>> {
        Ok((self.out.forward(hidden.row_mean()) + self.shift.value(cx)).into())
    }

    fn loss<'c>(&self, cx: Cx<'c>) -> Result<Tensor<'c>> {
        Ok(cx.input("logits").cross_entropy(cx.input("labels")))
    }

    fn save_state(&self) -> Result<Vec<u8>> {
        Ok(self.calls.load(Ordering::Relaxed).to_le_bytes().to_vec())
    }

    fn load_state(&mut self, state: &[u8]) -> Result<()> {
        self.calls = AtomicU64::new(u64::from_le_bytes(state.try_into().map_err(|_| Error::new("eight bytes"))?));
        Ok(())
    }
}

/// A version of `sound` whose output layer has another shape.
pub(super) struct Wider;

impl TaskHead for Wider {
    const NAME: &'static str = "wider";

    fn create(cx: Cx<'_>, config: &Json) -> Result<Self> {
        Linear::new(cx, "sound.out", config.count("hidden_size")?, 1 + config.count("num_labels")?);
        Ok(Wider)
    }

    fn forward<'c>(&self, _: Cx<'c>, hidden: Tensor<'c>) -> Result<Outputs<'c>> {
        Ok(hidden.into())
    }

    fn loss<'c>(&self, cx: Cx<'c>) -> Result<Tensor<'c>> {
        Ok(cx.input("logits").mean_all())
    }
}

/// Heads that panic in one function, and are sound in all others.
macro_rules! panics {
    ($($name:ident in $function:literal;)*) => {
        $(pub(super) struct $name;

        impl TaskHead for $name {
            const NAME: &'static str = concat!("panics_in_", $function);
            const FUNCTIONS: &'static [Function] = &[
                Function::Encode, Function::Collate, Function::Decode, Function::Merge, Function::Reduce, Function::Metrics,
                Function::State,
            ];

            fn create(_: Cx<'_>, _: &Json) -> Result<Self> {
                at::<Self>("create");
                Ok($name)
            }
            fn forward<'c>(&self, _: Cx<'c>, hidden: Tensor<'c>) -> Result<Outputs<'c>> {
                at::<Self>("forward");
                Ok(hidden.into())
            }
            fn loss<'c>(&self, cx: Cx<'c>) -> Result<Tensor<'c>> {
                at::<Self>("loss");
                Ok(cx.input("logits").mean_all())
            }
            fn encode(&self, _: Cx<'_>, _: &Json, _: &Json) -> Result<Json> {
                at::<Self>("encode");
                Ok(Json::map([("input_ids", Json::from(vec![1i64]))]))
            }
            fn collate(&self, _: Cx<'_>, _: &Json) -> Result<()> {
                at::<Self>("collate");
                Ok(())
            }
            fn decode(&self, _: Cx<'_>, _: &Json) -> Result<Json> {
                at::<Self>("decode");
                Ok(Json::List(Vec::new()))
            }
            fn merge(&self, _: Cx<'_>, _: &Json, _: &Json, _: &Json) -> Result<Json> {
                at::<Self>("merge");
                Ok(Json::Null)
            }
            fn reduce(&self, _: Cx<'_>, _: &Json) -> Result<Json> {
                at::<Self>("reduce");
                Ok(Json::List(Vec::new()))
            }
            fn metrics(&self, _: Cx<'_>, _: &Json, _: &Json, _: &Json) -> Result<Json> {
                at::<Self>("metrics");
                Ok(Json::map::<&str>([]))
            }
            fn save_state(&self) -> Result<Vec<u8>> {
                at::<Self>("save_state");
                Ok(Vec::new())
            }
            fn load_state(&mut self, _: &[u8]) -> Result<()> {
                at::<Self>("load_state");
                Ok(())
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                at::<Self>("destroy");
            }
        })*
    };
}

fn at<T: TaskHead>(function: &str) {
    if T::NAME == format!("panics_in_{function}") {
        panic!("thrown on purpose in {function}");
    }
}

panics! {
    InCreate in "create";
    InForward in "forward";
    InLoss in "loss";
    InEncode in "encode";
    InCollate in "collate";
    InDecode in "decode";
    InMerge in "merge";
    InReduce in "reduce";
    InMetrics in "metrics";
    InSaveState in "save_state";
    InLoadState in "load_state";
    InDestroy in "destroy";
}

/// A head whose own operation panics: forward for batches of one row, backward for others.
pub(super) struct OwnPanics;

struct Bad(bool);

impl CustomOp for Bad {
    fn forward(&self, _: &[View<'_>], _: &mut [f32]) -> Result<()> {
        if self.0 {
            panic!("forward of its own");
        }
        Ok(())
    }

    fn backward(&self, _: &[View<'_>], _: &[f32], _: &[f32], _: &mut [&mut [f32]]) -> Result<()> {
        panic!("backward of its own");
    }
}

impl TaskHead for OwnPanics {
    const NAME: &'static str = "own_panics";

    fn create(_: Cx<'_>, _: &Json) -> Result<Self> {
        Ok(OwnPanics)
    }

    fn forward<'c>(&self, cx: Cx<'c>, hidden: Tensor<'c>) -> Result<Outputs<'c>> {
        let one_row = cx.input("lengths").dims()? == [1];
        let dims = hidden.dims()?;
        Ok(cx.custom(Bad(one_row), &[hidden], &dims).into())
    }

    fn loss<'c>(&self, cx: Cx<'c>) -> Result<Tensor<'c>> {
        Ok(cx.input("logits").mean_all())
    }
}

/// A head that multiplies what cannot be multiplied, goes on as if nothing had happened, and fails once more in the end.
pub(super) struct Sticky;

impl TaskHead for Sticky {
    const NAME: &'static str = "sticky";

    fn create(_: Cx<'_>, _: &Json) -> Result<Self> {
        Ok(Sticky)
    }

    fn forward<'c>(&self, cx: Cx<'c>, hidden: Tensor<'c>) -> Result<Outputs<'c>> {
        let wrong = hidden.matmul(hidden).tanh().sum_all();
        assert!(cx.failed() && wrong.dims().is_err() && cx.input("no such input").dims().is_err());
        Ok(wrong.into())
    }

    fn loss<'c>(&self, cx: Cx<'c>) -> Result<Tensor<'c>> {
        cx.input("labels").dims()?;
        Err(Error::new("the reason is here"))
    }
}

export_heads!(
    Sound,
    Newer,
    Wider,
    InCreate,
    InForward,
    InLoss,
    InEncode,
    InCollate,
    InDecode,
    InMerge,
    InReduce,
    InMetrics,
    InSaveState,
    InLoadState,
    InDestroy,
    OwnPanics,
    Sticky,
);
