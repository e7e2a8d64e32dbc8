//! Which values training arguments may have, and which of them fit together: Hugging Face's rules.
//!
//! Arguments flow in as they were given; defaults that depend on other arguments are filled in, and the first rule
//! that is broken flows out as an error.

use crate::error::{Error, Result, What};
use crate::train::argument_values::{Interval, SaveInterval, shown};
use crate::train::arguments::{OF, TrainingArguments};
use crate::train::schedule::ScheduleKind;

/// Fills in what follows from other arguments, and checks all of them. `given` tells what the user wrote.
pub(crate) fn check(args: &mut TrainingArguments, given: &dyn Fn(&str) -> bool, notes: &mut Vec<String>) -> Result<()> {
    ranges(args)?;
    names(args, notes)?;
    derive(args)?;
    intervals(args)?;
    best_model(args)?;
    schedule(args)?;
    if args.warmup_ratio.is_some() && args.warmup_steps > 0.0 {
        notes.push("`warmup_steps` wins over `warmup_ratio`".into());
    }
    if given("num_train_epochs") && args.max_steps > 0 {
        notes.push("`max_steps` wins over `num_train_epochs`".into());
    }
    Ok(())
}

fn ranges(args: &TrainingArguments) -> Result<()> {
    let eval_steps = args.eval_steps.unwrap_or(1.0);
    let ratio = args.warmup_ratio.unwrap_or(0.0);
    let norm = args.max_grad_norm.unwrap_or(0.0);
    let rules = [
        ("per_device_train_batch_size", args.per_device_train_batch_size >= 1, "at least 1"),
        ("per_device_eval_batch_size", args.per_device_eval_batch_size >= 1, "at least 1"),
        ("max_tokens_per_batch", args.max_tokens_per_batch != Some(0), "at least 1"),
        ("gradient_accumulation_steps", args.gradient_accumulation_steps >= 1, "at least 1"),
        ("num_train_epochs", args.num_train_epochs > 0.0 || args.max_steps > 0, "above 0"),
        ("max_steps", args.max_steps > 0 || args.max_steps == -1, "above 0, or -1 to count epochs"),
        ("learning_rate", args.learning_rate >= 0.0, "at least 0"),
        ("weight_decay", args.weight_decay >= 0.0, "at least 0"),
        ("adam_beta1", (0.0..1.0).contains(&args.adam_beta1), "at least 0 and below 1"),
        ("adam_beta2", (0.0..1.0).contains(&args.adam_beta2), "at least 0 and below 1"),
        ("adam_epsilon", args.adam_epsilon >= 0.0, "at least 0"),
        ("max_grad_norm", norm >= 0.0, "at least 0; 0 switches clipping off"),
        ("label_smoothing_factor", (0.0..1.0).contains(&args.label_smoothing_factor), "at least 0 and below 1"),
        ("warmup_steps", args.warmup_steps >= 0.0, "at least 0"),
        ("warmup_ratio", (0.0..=1.0).contains(&ratio), "between 0 and 1"),
        ("logging_steps", args.logging_steps >= 0.0, "at least 0"),
        ("eval_steps", eval_steps >= 0.0, "at least 0"),
        ("save_steps", args.save_steps >= 0.0, "at least 0"),
        ("eval_delay", args.eval_delay >= 0.0, "at least 0"),
        ("save_total_limit", args.save_total_limit != Some(0), "at least 1"),
        ("output_dir", !args.output_dir.is_empty(), "a path"),
    ];
    match rules.into_iter().find(|(_, holds, _)| !holds) {
        Some((key, _, allowed)) => Err(out_of_range(args, key, allowed)),
        None => Ok(()),
    }
}

/// The optimizers that are AdamW by another name.
const ADAMW: [&str; 3] = ["adamw_torch_fused", "adamw_torch", "adamw"];

/// Implementations of AdamW for other devices or of earlier versions: accepted with a note.
const OTHER_ADAMW: [&str; 4] = ["adamw_hf", "adamw_apex_fused", "adamw_torch_xla", "adamw_torch_npu_fused"];

/// Hugging Face's other optimizers, to tell what exists from what is misspelt.
const OTHER_OPTIMIZERS: [&str; 10] = [
    "adafactor",
    "ademamix",
    "sgd",
    "adagrad",
    "rmsprop",
    "lomo",
    "adalomo",
    "grokadamw",
    "stable_adamw",
    "adamw_anyprecision",
];

/// Families of which Hugging Face knows several each.
const OTHER_FAMILIES: [&str; 8] =
    ["paged_", "galore_", "apollo_", "schedule_free_", "lion_", "rmsprop_", "_8bit", "_4bit"];

fn names(args: &mut TrainingArguments, notes: &mut Vec<String>) -> Result<()> {
    let optim = args.optim.as_str();
    if OTHER_ADAMW.contains(&optim) {
        notes.push(format!("`optim: {optim:?}` is \"adamw_torch\" here: the same numbers"));
    } else if !ADAMW.contains(&optim) {
        if OTHER_OPTIMIZERS.contains(&optim) || OTHER_FAMILIES.iter().any(|part| optim.contains(part)) {
            let error = Error::new(What::Unsupported(format!("`optim: {optim:?}` of {OF}")));
            return Err(error.hint("the optimizer is AdamW: leave `optim` out"));
        }
        return Err(out_of_range(args, "optim", "\"adamw_torch_fused\", \"adamw_torch\" or \"adamw\""));
    }
    match args.report_to.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {}
        ["none"] => args.report_to.clear(),
        ["all"] => {
            notes.push("`report_to: \"all\"`: there is no service to report to yet".into());
            args.report_to.clear();
        }
        [service, ..] => {
            let error = Error::new(What::Unsupported(format!("`report_to: {service:?}` of {OF}")));
            return Err(error.hint("reporting to services comes later; write `report_to: \"none\"`"));
        }
    }
    Ok(())
}

/// Defaults that depend on other arguments.
fn derive(args: &mut TrainingArguments) -> Result<()> {
    if args.eval_strategy == Interval::Steps && args.eval_steps.unwrap_or(0.0) == 0.0 {
        if args.logging_steps == 0.0 {
            let text = format!("`eval_strategy: \"steps\"` of {OF} needs `eval_steps` or `logging_steps` above 0");
            return Err(What::Conflict(text).into());
        }
        args.eval_steps = Some(args.logging_steps);
    }
    let needs_metric = args.load_best_model_at_end || args.lr_scheduler_type == ScheduleKind::ReduceLrOnPlateau;
    if needs_metric && args.metric_for_best_model.is_none() {
        args.metric_for_best_model = Some("loss".into());
    }
    if let (None, Some(metric)) = (args.greater_is_better, &args.metric_for_best_model) {
        args.greater_is_better = Some(!metric.ends_with("loss"));
    }
    Ok(())
}

fn intervals(args: &TrainingArguments) -> Result<()> {
    let logs = args.logging_strategy == Interval::Steps;
    let evaluates = args.eval_strategy == Interval::Steps;
    let saves = args.save_strategy == SaveInterval::Steps;
    if logs && args.logging_steps == 0.0 {
        return Err(out_of_range(args, "logging_steps", "above 0 with `logging_strategy: \"steps\"`"));
    }
    let all = [
        ("logging_steps", logs, args.logging_steps),
        ("eval_steps", evaluates, args.eval_steps.unwrap_or(1.0)),
        ("save_steps", saves, args.save_steps),
        ("warmup_steps", true, args.warmup_steps),
    ];
    match all.into_iter().find(|&(_, used, steps)| used && steps > 1.0 && steps.fract() != 0.0) {
        Some((key, ..)) => Err(out_of_range(args, key, "a whole number, or a share below 1")),
        None => Ok(()),
    }
}

/// The best checkpoint can only be loaded if what was evaluated was saved.
fn best_model(args: &TrainingArguments) -> Result<()> {
    if args.eval_strategy == Interval::No && args.load_best_model_at_end {
        let error = conflict("`load_best_model_at_end` needs evaluations, but `eval_strategy` is \"no\"".into());
        return Err(error.hint("write `eval_strategy: \"epoch\", save_strategy: \"epoch\"`"));
    }
    if args.save_strategy == SaveInterval::Best {
        if args.eval_strategy == Interval::No || args.metric_for_best_model.is_none() {
            let text = "`save_strategy: \"best\"` needs an `eval_strategy` and a `metric_for_best_model`";
            return Err(conflict(text.into()));
        }
        return Ok(());
    }
    if !args.load_best_model_at_end {
        return Ok(());
    }
    let (eval, save) = (args.eval_strategy.as_str(), args.save_strategy.as_str());
    if eval != save {
        let text = format!(
            "`load_best_model_at_end` needs the same `eval_strategy` and `save_strategy`, but they are {eval:?} and {save:?}"
        );
        return Err(conflict(text).hint(format!("write `save_strategy: {eval:?}`")));
    }
    let (every, kept) = (args.eval_steps.unwrap_or(1.0), args.save_steps);
    if args.eval_strategy != Interval::Steps || is_multiple(kept, every) {
        return Ok(());
    }
    let text = format!(
        "`load_best_model_at_end` needs `save_steps` to be a multiple of `eval_steps`, but they are {kept} and {every}"
    );
    let hint = if (kept < 1.0) == (every < 1.0) {
        format!("write `save_steps: {every}`")
    } else {
        "give both as numbers of updates, or both as shares".into()
    };
    Err(conflict(text).hint(hint))
}

/// Whether `steps` is a multiple of `of`; shares are compared to a millionth, as Hugging Face does.
fn is_multiple(steps: f64, of: f64) -> bool {
    match (steps < 1.0, of < 1.0) {
        (true, true) => (steps * 1e6) % (of * 1e6) == 0.0,
        (false, false) => steps % of == 0.0,
        _ => false,
    }
}

fn schedule(args: &TrainingArguments) -> Result<()> {
    if args.lr_scheduler_type == ScheduleKind::ReduceLrOnPlateau && args.eval_strategy == Interval::No {
        let error = conflict("`lr_scheduler_type: \"reduce_lr_on_plateau\"` needs an `eval_strategy`".into());
        return Err(error.hint("write `eval_strategy: \"epoch\"`"));
    }
    // The number of updates is not known yet, and no setting is wrong for one number only.
    args.schedule(1).map(|_| ())
}

fn conflict(text: String) -> Error {
    Error::new(What::Conflict(text))
}

fn out_of_range(args: &TrainingArguments, key: &str, allowed: &str) -> Error {
    let value = args.get(key).map(|value| shown(&value)).unwrap_or_default();
    What::OutOfRange { name: format!("`{key}` of {OF}"), value, allowed: allowed.into() }.into()
}

impl TrainingArguments {
    /// Refuses evaluations where there is no data for them.
    pub(super) fn check_evaluates(&self, has_data: bool) -> Result<()> {
        if self.eval_strategy == Interval::No || has_data {
            return Ok(());
        }
        let problem = format!("`eval_strategy: \"{}\"` needs an `eval_dataset`", self.eval_strategy.as_str());
        Err(Error::new(What::Conflict(problem)).hint("give one to the Trainer, or set `eval_strategy: \"no\"`"))
    }
}
