//! The checkpoints of a folder, for recipes that go on by themselves.

use std::path::Path;

use rhai::Engine;
use rhai::plugin::*;

use crate::api::session::Session;
use crate::head::script::convert::{ScriptResult, raise};
use crate::train::checkpoint::folders;

/// Registers the functions of this file.
pub(crate) fn register(engine: &mut Engine) {
    engine.register_global_module(rhai::exported_module!(checkpoints).into());
}

#[export_module]
mod checkpoints {
    /// The newest checkpoint of a folder that is whole, or `()` where there is none; those that are not whole are named and passed over.
    ///
    /// ```rhai
    /// let trainer = Trainer(#{
    ///     model: AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny"),
    ///     args: TrainingArguments(#{ output_dir: "going-on", max_steps: 2, save_steps: 1 }),
    ///     train_dataset: load_dataset("std/reviews", #{ split: "train[:16]" }),
    ///     processing_class: AutoTokenizer::from_pretrained("std/minilm-tiny"),
    /// });
    /// let last = get_last_checkpoint("going-on");
    /// if last == () { trainer.train() } else { trainer.train(#{ resume_from_checkpoint: last }) }
    /// expect(get_last_checkpoint("going-on").ends_with("checkpoint-2"), "saved after both steps");
    /// ```
    #[rhai_fn(name = "get_last_checkpoint", return_raw)]
    pub fn get_last_checkpoint(context: NativeCallContext, folder: &str) -> ScriptResult<Dynamic> {
        let folder = Path::new(folder);
        Session::of(&context).permissions().read_below(folder).map_err(raise)?;
        if !folder.is_dir() {
            return Ok(Dynamic::UNIT);
        }
        let (newest, passed_over) = folders::newest_of(folder).map_err(raise)?;
        for error in passed_over {
            Session::of(&context).reporter().warning(&format!("passed over: {error}"));
        }
        Ok(newest.map_or(Dynamic::UNIT, |newest| newest.folder().display().to_string().into()))
    }
}
