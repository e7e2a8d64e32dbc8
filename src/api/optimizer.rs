//! `AdamW(model, #{ ... })`: torch's optimizer for a training loop of a script's own.
//!
//! It changes the weights of the model that it was made for, from the gradients that `loss.backward()` has added up.

#![expect(clippy::unwrap_used, reason = "in what `export_module` generates")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;
use rhai::plugin::*;
use rhai::{Array, Map};

use crate::api::loops;
use crate::api::options::Options;
use crate::api::session::Session;
use crate::api::tensor::number;
use crate::cancel::meter;
use crate::error::{Error, Result, What};
use crate::head::Model;
use crate::head::script::convert::{ScriptResult, raise, type_name};
use crate::train::loop_optimizer::{GroupValues, LoopOptimizer};
use crate::train::optimizer::{AdamWSettings, Moments, OptimizerState, decays};

/// An optimizer as a script holds it. Cheap to clone; all clones are the same optimizer.
#[derive(Clone)]
pub struct ScriptOptimizer(Arc<Shared>);

struct Shared {
    model: Model,
    optimizer: Mutex<LoopOptimizer>,
}

impl ScriptOptimizer {
    /// The optimizer itself.
    pub(super) fn lock(&self) -> MutexGuard<'_, LoopOptimizer> {
        self.0.optimizer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn adamw(model: Model, options: Map) -> Result<Self> {
        let mut options = Options::new("`AdamW`", options);
        // torch's defaults.
        let none = GroupValues { lr: 1e-3, initial_lr: 1e-3, weight_decay: 1e-2, adam: AdamWSettings::default() };
        let groups = options.array("param_groups")?.unwrap_or_default();
        let allow_unused = options.bool("allow_unused")?.unwrap_or(false);
        let defaults = values(&mut options, none)?;
        options.finish()?;
        let group = |group: Dynamic| -> Result<(Vec<String>, GroupValues)> {
            let of = "an entry of `param_groups`";
            let got = type_name(&group);
            let wrong = || What::WrongType { name: of.into(), wanted: "a map with `params`".into(), got };
            let mut options = Options::new(of, group.try_cast::<Map>().ok_or_else(wrong)?);
            let params = match options.take("params") {
                Some(value) => patterns(&value)?,
                None => return Err(options.missing("params", "write `params: \"classifier.*\"`")),
            };
            let values = values(&mut options, defaults)?;
            options.finish()?;
            Ok((params, values))
        };
        let groups = groups.into_iter().map(group).collect::<Result<Vec<_>>>()?;
        let optimizer = LoopOptimizer::new(model.parameters(), &groups, defaults, allow_unused)?;
        Ok(ScriptOptimizer(Arc::new(Shared { model, optimizer: Mutex::new(optimizer) })))
    }

    fn param_groups(&self) -> Array {
        let strings = |names: &[String]| Dynamic::from_array(names.iter().cloned().map(Dynamic::from).collect());
        let optimizer = self.lock();
        let group = |group: &crate::train::loop_optimizer::Group| {
            let GroupValues { lr, initial_lr, weight_decay, adam } = group.values;
            let mut map = Map::new();
            map.insert("params".into(), strings(&group.params));
            let betas = vec![Dynamic::from(adam.beta1), Dynamic::from(adam.beta2)];
            map.insert("betas".into(), Dynamic::from_array(betas));
            for (key, value) in
                [("lr", lr), ("initial_lr", initial_lr), ("weight_decay", weight_decay), ("eps", adam.eps)]
            {
                map.insert(key.into(), Dynamic::from(value));
            }
            Dynamic::from_map(map)
        };
        optimizer.groups().iter().map(group).collect()
    }

    /// Takes over the rates and decays of groups that were read and changed; nothing else of a group can change.
    fn set_param_groups(&self, groups: Array) -> Result<()> {
        let before = self.param_groups();
        if groups.len() != before.len() {
            let problem = format!("the optimizer has {} parameter groups, not {}", before.len(), groups.len());
            return Err(What::Conflict(problem).into());
        }
        for (number, (group, before)) in groups.into_iter().zip(before).enumerate() {
            let of = format!("entry {number} of `param_groups`");
            let got = type_name(&group);
            let wrong = || What::WrongType { name: of.clone(), wanted: "a map".into(), got };
            let mut options = Options::new(of.clone(), group.try_cast::<Map>().ok_or_else(wrong)?);
            let before = before.cast::<Map>();
            for key in ["params", "betas", "eps"] {
                let kept =
                    options.take(key).is_none_or(|value| shown(&value) == before.get(key).map_or(String::new(), shown));
                if !kept {
                    return Err(Error::new(What::Conflict(format!("`{key}` of {of} cannot be changed")))
                        .hint("`lr` and `weight_decay` can; for the rest make another optimizer"));
                }
            }
            let old = self.lock().groups()[number].values;
            let lr = options.float("lr")?.unwrap_or(old.lr);
            let weight_decay = options.float("weight_decay")?.unwrap_or(old.weight_decay);
            let initial_lr = options.float("initial_lr")?.unwrap_or(old.initial_lr);
            options.finish()?;
            let mut optimizer = self.lock();
            optimizer.set(number, lr, weight_decay)?;
            optimizer.set_initial_lr(number, initial_lr);
        }
        Ok(())
    }

    fn state_dict(&self) -> Result<Map> {
        let mut state = Map::new();
        for (name, Moments { step, exp_avg, exp_avg_sq }) in self.lock().state()? {
            let mut one = Map::new();
            one.insert("step".into(), Dynamic::from(step as i64));
            one.insert("exp_avg".into(), Dynamic::from(exp_avg));
            one.insert("exp_avg_sq".into(), Dynamic::from(exp_avg_sq));
            state.insert(name.into(), Dynamic::from_map(one));
        }
        let groups = Dynamic::from_array(self.param_groups());
        Ok(Map::from([("state".into(), Dynamic::from_map(state)), ("param_groups".into(), groups)]))
    }

    fn load_state_dict(&self, dict: Map) -> Result<()> {
        let mut options = Options::new("`load_state_dict`", dict);
        let state = options.map("state")?.ok_or_else(|| options.missing("state", "give what `state_dict()` gave"))?;
        let groups = options.array("param_groups")?;
        options.finish()?;
        let mut all = OptimizerState::new();
        for (name, one) in state {
            let of = format!("`state` of `{name}`");
            let got = type_name(&one);
            let wrong = || What::WrongType { name: of.clone(), wanted: "a map".into(), got };
            let mut one = Options::new(of.clone(), one.try_cast::<Map>().ok_or_else(wrong)?);
            let step = one.count("step", 0)?.ok_or_else(|| one.missing("step", "give what `state_dict()` gave"))?;
            let mut tensor = |key| {
                let tensor = one.object::<Tensor>(key, "a Tensor")?;
                tensor.ok_or_else(|| one.missing(key, "give what `state_dict()` gave"))
            };
            let moments = Moments { step: step as u64, exp_avg: tensor("exp_avg")?, exp_avg_sq: tensor("exp_avg_sq")? };
            one.finish()?;
            all.insert(name.to_string(), moments);
        }
        self.lock().load_state(all)?;
        groups.map_or(Ok(()), |groups| self.set_param_groups(groups))
    }
}

fn shown(value: &Dynamic) -> String {
    format!("{value:?}")
}

/// A pattern, or a list of patterns.
fn patterns(value: &Dynamic) -> Result<Vec<String>> {
    let one = |value: &Dynamic| value.clone().into_string().ok();
    let list = match value.as_array_ref() {
        Ok(list) => list.iter().map(one).collect::<Option<Vec<_>>>(),
        Err(_) => one(value).map(|one| vec![one]),
    };
    list.filter(|list| !list.is_empty()).ok_or_else(|| {
        let wanted = "a pattern of parameter names, or an array of them".into();
        What::WrongType { name: "`params` of a parameter group".into(), wanted, got: type_name(value) }.into()
    })
}

/// The settings of a group: those that are given, else `defaults`.
fn values(options: &mut Options, defaults: GroupValues) -> Result<GroupValues> {
    let of = options.of().to_string();
    if options.take("learning_rate").is_some() {
        let error = Error::new(What::UnknownOption { key: "learning_rate".into(), of });
        return Err(error.hint("torch calls it `lr`"));
    }
    let lr = options.float("lr")?.unwrap_or(defaults.lr);
    let weight_decay = options.float("weight_decay")?.unwrap_or(defaults.weight_decay);
    let eps = options.float("eps")?.unwrap_or(defaults.adam.eps);
    let AdamWSettings { mut beta1, mut beta2, .. } = defaults.adam;
    if let Some(betas) = options.array("betas")? {
        let name = format!("`betas` of {of}");
        match betas.as_slice() {
            [one, two] => (beta1, beta2) = (number(&name, one)?, number(&name, two)?),
            other => {
                let allowed = "two numbers".into();
                return Err(What::OutOfRange { name, value: format!("a list of {}", other.len()), allowed }.into());
            }
        }
    }
    for (key, value, fits, allowed) in [
        ("lr", lr, lr >= 0.0, "at least 0"),
        ("weight_decay", weight_decay, weight_decay >= 0.0, "at least 0"),
        ("eps", eps, eps >= 0.0, "at least 0"),
        ("betas", beta1, (0.0..1.0).contains(&beta1), "at least 0 and below 1"),
        ("betas", beta2, (0.0..1.0).contains(&beta2), "at least 0 and below 1"),
    ] {
        if !fits || !value.is_finite() {
            let name = format!("`{key}` of {of}");
            return Err(What::OutOfRange { name, value: value.to_string(), allowed: allowed.into() }.into());
        }
    }
    Ok(GroupValues { lr, initial_lr: lr, weight_decay, adam: AdamWSettings { beta1, beta2, eps } })
}

/// Makes the type and its functions known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_type_with_name::<ScriptOptimizer>("Optimizer");
    engine.register_global_module(exported_module!(optimizers).into());
}

#[export_module]
mod optimizers {
    /// torch's AdamW over all parameters of a model, with its defaults: `lr` 1e-3, `betas` [0.9, 0.999], `eps` 1e-8, `weight_decay` 1e-2.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// expect(AdamW(model).param_groups[0].weight_decay == 0.01, "as torch");
    /// ```
    #[rhai_fn(name = "AdamW", return_raw)]
    pub fn adamw_by_default(model: Model) -> ScriptResult<ScriptOptimizer> {
        ScriptOptimizer::adamw(model, Map::new()).map_err(raise)
    }

    /// torch's AdamW over all parameters of a model.
    ///
    /// Options: `lr`, `betas`, `eps`, `weight_decay` and `param_groups`, an array of maps that have `params` (a pattern of
    /// names as `model.freeze` takes, or an array of them) and settings of their own. A parameter belongs to the first group
    /// that names it; those that no group names make up a last group with the optimizer's own settings. As in torch,
    /// `weight_decay` reaches biases and norms too; the Trainer spares them, which is
    /// `weight_decay: 0.0, param_groups: [#{ params: get_decay_parameter_names(model), weight_decay: 0.01 }]`.
    /// `allow_unused: true` lets a trainable parameter stay without a gradient from the first update on.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let optimizer = AdamW(model, #{ lr: 2e-5, param_groups: [#{ params: "classifier.*", lr: 1e-3 }] });
    /// expect(optimizer.param_groups.map(|group| group.lr) == [1e-3, 2e-5], "the head learns faster");
    /// ```
    #[rhai_fn(name = "AdamW", return_raw)]
    pub fn adamw(model: Model, options: Map) -> ScriptResult<ScriptOptimizer> {
        ScriptOptimizer::adamw(model, options).map_err(raise)
    }

    /// The names of the parameters that the Trainer's `weight_decay` reaches: all but biases and norms.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let names = get_decay_parameter_names(model);
    /// expect(names.contains("classifier.weight") && !names.contains("classifier.bias"), "no biases");
    /// ```
    pub fn get_decay_parameter_names(model: Model) -> Array {
        let all = model.parameters().all();
        all.iter().filter(|one| decays(one.name())).map(|one| Dynamic::from(one.name().to_string())).collect()
    }

    /// One update from the gradients that have added up since the last `zero_grad`.
    ///
    /// Gradients that are not finite are an error that names the parameter, and leave all weights as they are; so does, at the
    /// first update, a trainable parameter without a gradient. The gradients stay until `zero_grad`.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let optimizer = AdamW(model, #{ lr: 1e-3, allow_unused: true });
    /// model.forward(Batch::of([#{ input_ids: [2, 100, 3], labels: 1 }])).loss.backward();
    /// optimizer.step();
    /// expect(model.parameter("classifier.bias").to_array() != [0.0, 0.0], "the bias has moved");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn step(context: NativeCallContext, optimizer: &mut ScriptOptimizer) -> ScriptResult<()> {
        meter::note_work();
        optimizer.lock().step(&optimizer.0.model).map_err(raise)?;
        loops::after_step(&Session::of(&context)).map_err(raise)
    }

    /// Sets all gradients of the optimizer's model to none.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// model.forward(Batch::of([#{ input_ids: [2, 100, 3], labels: 1 }])).loss.backward();
    /// AdamW(model).zero_grad();
    /// expect(model.grad("classifier.bias") == (), "they are gone");
    /// ```
    #[rhai_fn(name = "zero_grad", pure)]
    pub fn zero_gradients(optimizer: &mut ScriptOptimizer) {
        optimizer.0.model.gradients().clear();
    }

    /// The groups of parameters: maps with `params`, `lr`, `initial_lr`, `betas`, `eps` and `weight_decay`.
    ///
    /// `lr` and `weight_decay` can be set: `optimizer.param_groups[0].lr = 1e-4`.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let optimizer = AdamW(model, #{ lr: 2e-5 });
    /// expect(optimizer.param_groups[0].params.len == model.parameter_names().len, "all in one group");
    /// ```
    #[rhai_fn(get = "param_groups", pure)]
    pub fn param_groups(optimizer: &mut ScriptOptimizer) -> Array {
        optimizer.param_groups()
    }

    /// Takes over the `lr` and `weight_decay` of each group.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let optimizer = AdamW(model, #{ lr: 2e-5 });
    /// optimizer.param_groups[0].lr = 1e-4;
    /// expect(optimizer.param_groups[0].lr == 1e-4, "from the next update on");
    /// ```
    #[rhai_fn(set = "param_groups", pure, return_raw)]
    pub fn set_param_groups(optimizer: &mut ScriptOptimizer, groups: Array) -> ScriptResult<()> {
        optimizer.set_param_groups(groups).map_err(raise)
    }

    /// What the optimizer remembers: `state` with `step`, `exp_avg` and `exp_avg_sq` of each parameter by name, and `param_groups`.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// expect(AdamW(model).state_dict().state["classifier.bias"].step == 0, "no update yet");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn state_dict(optimizer: &mut ScriptOptimizer) -> ScriptResult<Map> {
        optimizer.state_dict().map_err(raise)
    }

    /// Takes up what `state_dict` gave: moments, steps, rates and decays.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let other = AdamW(model, #{ lr: 2e-5 });
    /// other.load_state_dict(AdamW(model, #{ lr: 1e-4 }).state_dict());
    /// expect(other.param_groups[0].lr == 1e-4, "the rate too");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn load_state_dict(optimizer: &mut ScriptOptimizer, state: Map) -> ScriptResult<()> {
        optimizer.load_state_dict(state).map_err(raise)
    }
}
