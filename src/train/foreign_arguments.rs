//! Hugging Face's arguments that have no effect of their own here: each is accepted with a note or refused with the
//! reason, so that a recipe from a guide either runs as meant or says why not.
//!
//! A name and a value flow in; a note, a translation to another name, or an error flows out.

use crate::data::Value;
use crate::error::{Error, Result, What};
use crate::train::argument_values::{Argument, Refusal, shown};
use crate::train::arguments::OF;

/// What becomes of an argument that was given another value than its default.
#[derive(Clone, Copy)]
enum Fate {
    /// Accepted with a note that ends in these words.
    Inert(&'static str),
    /// Refused; the words are the hint.
    Refused(&'static str),
}
use Fate::{Inert, Refused};

/// The type of an argument. `Any` is for those that Hugging Face gives several.
#[derive(Clone, Copy)]
enum Kind {
    Bool,
    Int,
    Float,
    Text,
    Any,
}
use Kind::{Any, Bool, Float, Int, Text};

/// One such argument.
pub(crate) struct Foreign {
    pub(crate) name: &'static str,
    kind: Kind,
    /// Its default, as JSON.
    default: &'static str,
    fate: Fate,
}

const fn argument(name: &'static str, kind: Kind, default: &'static str, fate: Fate) -> Foreign {
    Foreign { name, kind, default, fate }
}

const ENGINE: &str = "evaluation follows `bf16`";
const REENTRANT: &str = "there is one way to compute a layer again";
const HUB: &str = "save with `trainer.save_model(dir)` and upload the folder with the hub's own tools";
const NO_HUB: &str = "nothing is pushed to a hub";
const ONE_DEVICE: &str = "training runs on one device";
const LAUNCHER: &str = "training over several devices comes later";
const NO_LOADER: &str = "rows are encoded once, in this process, without worker processes";
const NO_TORCH: &str = "there is no PyTorch below; leave it out";
const NO_SERVICE: &str = "there is no service to report to yet";
const LOG_LEVEL: &str = "`--quiet` and `--json` choose what is shown";
const RECIPE: &str = "the recipe itself calls `train`, `evaluate` and `predict`";
const COMPLETE: &str = "a checkpoint always holds all that resuming needs";
const METRICS: &str = "`compute_metrics` gets predictions and labels";
const ADAMW_ONLY: &str = "the optimizer is AdamW without options of its own";

/// All of them, in the order of Hugging Face's class; those of earlier versions follow.
pub(crate) const FOREIGN: &[Foreign] = &[
    argument("fp16", Bool, "false", Refused("train in f32, or with the other half precision, `bf16`")),
    argument("activation_checkpointing", Bool, "false", Refused("write `gradient_checkpointing: true`")),
    argument("gradient_checkpointing_kwargs", Any, "null", Inert(REENTRANT)),
    argument("activation_checkpointing_kwargs", Any, "null", Inert(REENTRANT)),
    argument("optim_args", Text, "null", Refused(ADAMW_ONLY)),
    argument("optim_target_modules", Any, "null", Refused(ADAMW_ONLY)),
    argument("average_tokens_across_devices", Bool, "true", Inert(ONE_DEVICE)),
    argument("bf16_full_eval", Bool, "false", Refused(ENGINE)),
    argument("fp16_full_eval", Bool, "false", Refused("evaluation runs in f32")),
    argument("tf32", Bool, "null", Inert("`float32_matmul_precision` says how exact products are")),
    argument("torch_compile", Bool, "false", Refused(NO_TORCH)),
    argument("torch_compile_backend", Text, "null", Refused(NO_TORCH)),
    argument("torch_compile_mode", Text, "null", Refused(NO_TORCH)),
    argument("use_liger_kernel", Bool, "false", Refused(NO_TORCH)),
    argument("liger_kernel_config", Any, "null", Refused(NO_TORCH)),
    argument("use_cache", Bool, "false", Inert("training never keeps attention states for generation")),
    argument("neftune_noise_alpha", Float, "null", Refused("noise on embeddings is not there; leave it out")),
    argument("torch_empty_cache_steps", Int, "null", Inert("there is no cache to empty")),
    argument("auto_find_batch_size", Bool, "false", Refused("give `per_device_train_batch_size`")),
    argument("log_on_each_node", Bool, "true", Inert(ONE_DEVICE)),
    argument(
        "logging_nan_inf_filter",
        Bool,
        "false",
        Inert("a loss that is not finite is never hidden: see `nan_policy`"),
    ),
    argument("include_num_input_tokens_seen", Any, "\"no\"", Refused("tokens are not counted; leave it out")),
    argument("log_level", Text, "\"passive\"", Inert(LOG_LEVEL)),
    argument("log_level_replica", Text, "\"warning\"", Inert(LOG_LEVEL)),
    argument("project", Text, "\"huggingface\"", Inert(NO_SERVICE)),
    argument("trackio_space_id", Text, "null", Inert(NO_SERVICE)),
    argument("trackio_bucket_id", Text, "null", Inert(NO_SERVICE)),
    argument("trackio_static_space_id", Any, "null", Inert(NO_SERVICE)),
    argument("prediction_loss_only", Bool, "false", Refused("leave `compute_metrics` out of the `Trainer` instead")),
    argument("eval_do_concat_batches", Bool, "true", Refused("predictions are one list, in the order of the rows")),
    argument("eval_use_gather_object", Bool, "false", Inert(ONE_DEVICE)),
    argument("eval_accumulation_steps", Int, "null", Inert("predictions are kept in main memory, batch by batch")),
    argument("include_for_metrics", Any, "[]", Refused(METRICS)),
    argument("batch_eval_metrics", Bool, "false", Refused(METRICS)),
    argument("save_only_model", Bool, "false", Refused(COMPLETE)),
    argument("save_on_each_node", Bool, "false", Inert(ONE_DEVICE)),
    argument("enable_jit_checkpoint", Bool, "false", Inert("SIGINT and SIGTERM always save before they end a run")),
    argument("push_to_hub", Bool, "false", Refused(HUB)),
    argument("hub_token", Text, "null", Inert(NO_HUB)),
    argument("hub_private_repo", Bool, "null", Inert(NO_HUB)),
    argument("hub_model_id", Text, "null", Inert(NO_HUB)),
    argument("hub_strategy", Text, "\"every_save\"", Inert(NO_HUB)),
    argument("hub_always_push", Bool, "false", Inert(NO_HUB)),
    argument("hub_revision", Text, "null", Inert(NO_HUB)),
    argument("ignore_data_skip", Bool, "false", Refused("a resumed run goes on at the row where it stopped")),
    argument("restore_callback_states_from_checkpoint", Bool, "true", Refused("resuming restores callbacks always")),
    argument("full_determinism", Bool, "true", Inert("runs are always deterministic")),
    argument("accelerator_config", Any, "null", Refused(LAUNCHER)),
    argument("parallelism_config", Any, "null", Refused(LAUNCHER)),
    argument("dataloader_num_workers", Int, "0", Inert(NO_LOADER)),
    argument("dataloader_pin_memory", Bool, "true", Inert(NO_LOADER)),
    argument("dataloader_persistent_workers", Bool, "false", Inert(NO_LOADER)),
    argument("dataloader_prefetch_factor", Int, "null", Inert(NO_LOADER)),
    argument("dataloader_multiprocessing_context", Text, "null", Inert(NO_LOADER)),
    argument("dataloader_in_order", Bool, "true", Inert(NO_LOADER)),
    argument("remove_unused_columns", Bool, "true", Inert("columns that the task does not read never reach the model")),
    argument("length_column_name", Text, "\"length\"", Inert("lengths are counted from the encoded rows")),
    argument("ddp_find_unused_parameters", Bool, "null", Inert(ONE_DEVICE)),
    argument("ddp_bucket_cap_mb", Int, "null", Inert(ONE_DEVICE)),
    argument("ddp_broadcast_buffers", Bool, "null", Inert(ONE_DEVICE)),
    argument("ddp_static_graph", Bool, "null", Inert(ONE_DEVICE)),
    argument("ddp_backend", Text, "null", Refused(LAUNCHER)),
    argument("ddp_timeout", Int, "1800", Inert(ONE_DEVICE)),
    argument("fsdp", Any, "null", Refused(LAUNCHER)),
    argument("fsdp_config", Any, "null", Refused(LAUNCHER)),
    argument("deepspeed", Any, "null", Refused(LAUNCHER)),
    argument("debug", Any, "\"\"", Refused(NO_TORCH)),
    argument("skip_memory_metrics", Bool, "true", Refused("memory is not measured; leave it out")),
    argument("do_train", Bool, "false", Inert(RECIPE)),
    argument("do_eval", Bool, "false", Inert(RECIPE)),
    argument("do_predict", Bool, "false", Inert(RECIPE)),
    argument("local_rank", Int, "-1", Refused(LAUNCHER)),
    argument("overwrite_output_dir", Bool, "false", Inert("`resume_from_checkpoint` says whether to go on from one")),
    argument("logging_dir", Text, "null", Inert("TensorBoard files come later")),
    argument("save_safetensors", Bool, "true", Refused("weights are always saved as safetensors")),
    argument("include_inputs_for_metrics", Bool, "false", Refused(METRICS)),
    argument("include_tokens_per_second", Bool, "false", Refused("tokens are not counted; leave it out")),
    argument("adafactor", Bool, "false", Refused("the optimizer is AdamW: leave it out")),
    argument("use_mps_device", Bool, "false", Refused("run with `--device metal`")),
    argument("use_ipex", Bool, "false", Refused(NO_TORCH)),
    argument("jit_mode_eval", Bool, "false", Refused(NO_TORCH)),
    argument("torchdynamo", Text, "null", Refused(NO_TORCH)),
    argument("half_precision_backend", Text, "\"auto\"", Inert("training runs in f32")),
    argument("fp16_opt_level", Text, "\"O1\"", Inert("training runs in f32")),
    argument("push_to_hub_model_id", Text, "null", Inert(NO_HUB)),
    argument("push_to_hub_organization", Text, "null", Inert(NO_HUB)),
    argument("push_to_hub_token", Text, "null", Inert(NO_HUB)),
    argument("past_index", Int, "-1", Refused("no model here gives past states back")),
];

impl Foreign {
    /// The argument of that name.
    pub(crate) fn named(name: &str) -> Option<&'static Foreign> {
        FOREIGN.iter().find(|foreign| foreign.name == name)
    }

    /// What it is when nobody gives it.
    pub(crate) fn default(&self) -> Value {
        let json: serde_json::Value = serde_json::from_str(self.default).expect("the table holds JSON");
        json.into()
    }

    /// Accepts a value, with a note where it differs from what happens anyway, or refuses it.
    pub(crate) fn accept(&self, value: &Value) -> Result<Option<String>> {
        let typed = match self.kind {
            Bool => bool::read(value).map(drop),
            Int => i64::read(value).map(drop),
            Float => f64::read(value).map(drop),
            Text => String::read(value).map(drop),
            Any => Ok(()),
        };
        if *value == Value::Null || *value == self.default() || (typed.is_ok() && is_off(value) && self.is_off()) {
            return Ok(None);
        }
        typed.map_err(|refusal: Refusal| refusal.error(self.name, OF, value))?;
        match self.fate {
            Inert(why) => Ok(Some(format!("`{}` changes nothing here: {why}", self.name))),
            Refused(why) => {
                // A value may be long or secret; the name is what matters then.
                let written = match value {
                    Value::Bool(_) | Value::Int(_) | Value::Float(_) => format!(": {}", shown(value)),
                    _ => String::new(),
                };
                Err(Error::new(What::Unsupported(format!("`{}{written}` of {OF}", self.name))).hint(why))
            }
        }
    }

    /// Whether it is off by default.
    fn is_off(&self) -> bool {
        is_off(&self.default())
    }
}

/// Whether a value is one of the ways to say no.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Str(text) => text.is_empty() || &**text == "no",
        Value::List(values) => values.is_empty(),
        Value::Map(map) => map.is_empty(),
        _ => false,
    }
}

/// An earlier name of an argument.
pub(crate) struct Alias {
    pub(crate) key: &'static str,
    pub(crate) value: Value,
    pub(crate) note: String,
}

/// What an earlier name stands for today.
pub(crate) fn alias(written: &str, value: &Value) -> Result<Option<Alias>> {
    let key = match written {
        "evaluation_strategy" => "eval_strategy",
        "no_cuda" => "use_cpu",
        "per_gpu_train_batch_size" => "per_device_train_batch_size",
        "per_gpu_eval_batch_size" => "per_device_eval_batch_size",
        "group_by_length" => {
            let grouped = bool::read(value).map_err(|refusal| refusal.error(written, OF, value))?;
            let strategy = if grouped { "group_by_length" } else { "random" };
            let note = format!("`group_by_length` is now `train_sampling_strategy: {strategy:?}`");
            return Ok(Some(Alias { key: "train_sampling_strategy", value: strategy.into(), note }));
        }
        _ => return Ok(None),
    };
    Ok(Some(Alias { key, value: value.clone(), note: format!("`{written}` is now `{key}`") }))
}

/// A hint for options that people give to the wrong one of the two.
pub(crate) fn belongs_elsewhere(key: &str) -> Option<String> {
    const TRAINER: [&str; 12] = [
        "model",
        "args",
        "train_dataset",
        "eval_dataset",
        "processing_class",
        "tokenizer",
        "compute_metrics",
        "compute_loss",
        "compute_loss_func",
        "callbacks",
        "data_collator",
        "task_options",
    ];
    TRAINER.contains(&key).then(|| format!("`{key}` is an option of `Trainer`"))
}
