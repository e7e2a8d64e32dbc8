//! A model's parameters by name: what is trained, saved and loaded.
//!
//! Names are Hugging Face's. A parameter that is frozen gives a tensor that no gradient flows into, and so does every one
//! within [`without_gradients`].

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use candle_core::{Device, Tensor, Var};
use indexmap::IndexMap;

use crate::error::{Error, Result, What, nearest};
use crate::kernels::{normal, pages};
use crate::memory;
use crate::model::weights::Weights;
use crate::tensor::rng::Rng;

/// A variable that counts its changes, as torch's `_version` does: whoever keeps what was made of it looks at the count. Cheap
/// to clone; all clones are the same variable.
#[derive(Clone, Debug)]
pub struct Variable {
    var: Var,
    changes: Arc<AtomicU64>,
}

impl Variable {
    /// The value, for reading.
    pub fn value(&self) -> &Tensor {
        self.var.as_tensor()
    }

    /// The variable, for changing it: counted as a change.
    pub fn change(&self) -> &Var {
        self.changes.fetch_add(1, Ordering::AcqRel);
        &self.var
    }

    /// How often it may have changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }
}

impl From<Var> for Variable {
    fn from(var: Var) -> Self {
        Variable { var, changes: Arc::default() }
    }
}

/// One parameter.
#[derive(Debug)]
pub struct Parameter {
    name: String,
    variable: Variable,
    trainable: AtomicBool,
}

impl Parameter {
    /// Hugging Face's name, for example `bert.encoder.layer.0.output.dense.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The variable, for changing it: what was made of the old value, such as packed weights, is made again.
    pub fn var(&self) -> &Var {
        self.variable.change()
    }

    /// The variable with the count of its changes.
    pub fn variable(&self) -> &Variable {
        &self.variable
    }

    /// The value, for reading.
    pub fn value(&self) -> &Tensor {
        self.variable.value()
    }

    /// The value for a forward pass: tracked while trainable, a constant while frozen.
    pub fn tensor(&self) -> Tensor {
        let tracked = self.is_trainable() && !NO_GRADIENTS.get();
        let var = &self.variable.var;
        if tracked { var.as_tensor().clone() } else { var.as_detached_tensor() }
    }

    /// Whether training changes it.
    pub fn is_trainable(&self) -> bool {
        self.trainable.load(Ordering::Relaxed)
    }
}

/// Whether a forward is tracked at all: not within [`without_gradients`].
pub fn tracked() -> bool {
    !NO_GRADIENTS.get()
}

thread_local! {
    static NO_GRADIENTS: Cell<bool> = const { Cell::new(false) };
}

/// Calls `forward`, in which every parameter is a constant: nothing is kept for a backward. torch's `no_grad`.
pub fn without_gradients<T>(forward: impl FnOnce() -> T) -> T {
    /// Puts the old value back, whatever way the call ends.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            NO_GRADIENTS.set(self.0);
        }
    }
    let _restore = Restore(NO_GRADIENTS.replace(true));
    forward()
}

/// The parameters of a model in the order they were made. Cheap to clone; all clones are the same parameters.
#[derive(Clone, Debug, Default)]
pub struct Parameters(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    by_name: RwLock<IndexMap<String, Arc<Parameter>>>,
    /// How often other parameters have taken the place of those that were made.
    exchanges: AtomicU64,
}

impl Parameters {
    /// All parameters in order.
    pub fn all(&self) -> Vec<Arc<Parameter>> {
        self.0.by_name.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The parameter `name`.
    pub fn get(&self, name: &str) -> Option<Arc<Parameter>> {
        self.0.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Puts these in the place of all: when a head of another build needs others.
    pub fn exchange(&self, all: Vec<Arc<Parameter>>) {
        let by_name = all.into_iter().map(|parameter| (parameter.name.clone(), parameter)).collect();
        *self.0.by_name.write().unwrap_or_else(PoisonError::into_inner) = by_name;
        self.0.exchanges.fetch_add(1, Ordering::AcqRel);
    }

    /// How often [`Parameters::exchange`] was called: whoever keeps something for each parameter looks at this.
    pub fn exchanges(&self) -> u64 {
        self.0.exchanges.load(Ordering::Acquire)
    }

    /// The number of numbers in all parameters.
    pub fn count(&self) -> usize {
        self.all().iter().map(|parameter| parameter.value().elem_count()).sum()
    }

    /// Freezes or unfreezes the parameters whose names match the glob `pattern`; returns how many matched.
    ///
    /// # Errors
    /// A malformed pattern, or one that matches nothing.
    pub fn set_trainable(&self, pattern: &str, trainable: bool) -> Result<usize> {
        let matching = self.matching(pattern)?;
        for parameter in &matching {
            parameter.trainable.store(trainable, Ordering::Relaxed);
        }
        Ok(matching.len())
    }

    /// The parameters whose names match the glob `pattern`, in order: at least one.
    ///
    /// # Errors
    /// A malformed pattern, or one that matches nothing.
    pub fn matching(&self, pattern: &str) -> Result<Vec<Arc<Parameter>>> {
        let glob = glob::Pattern::new(pattern).map_err(|error| {
            Error::new(What::Malformed { format: format!("the pattern `{pattern}`"), problem: error.msg.to_string() })
                .hint("`*` matches any characters, `?` one, `[01]` one of those; `]` closes what `[` opens")
        })?;
        let all = self.all();
        let matching: Vec<_> = all.iter().filter(|parameter| glob.matches(&parameter.name)).collect();
        if matching.is_empty() {
            let error = Error::new(What::NotFound { kind: "parameter", name: pattern.to_string() });
            // A pattern is held against the patterns that the names have: `bert.encoder.*`, `bert.encoder.layer.*`, ...
            let names: Vec<String> = if pattern.contains('*') {
                let cut = |name: &str| {
                    name.match_indices('.').map(|(at, _)| format!("{}.*", &name[..at])).collect::<Vec<_>>()
                };
                all.iter().flat_map(|parameter| cut(&parameter.name)).collect()
            } else {
                all.iter().map(|parameter| parameter.name.clone()).collect()
            };
            return Err(match nearest(pattern, names.iter().map(String::as_str)) {
                Some(near) => {
                    error.hint(format!("did you mean `{near}`? a pattern such as `bert.encoder.*` matches several"))
                }
                None => error.hint("`model.parameter_names()` lists the names; `*` matches any characters"),
            });
        }
        Ok(matching.into_iter().cloned().collect())
    }

    fn insert(&self, parameter: Parameter) -> Result<Arc<Parameter>> {
        let mut map = self.0.by_name.write().unwrap_or_else(PoisonError::into_inner);
        if map.contains_key(&parameter.name) {
            let error = Error::new(What::Conflict(format!("the parameter `{}` is made twice", parameter.name)));
            return Err(error.hint("each layer needs a name of its own"));
        }
        let parameter = Arc::new(parameter);
        map.insert(parameter.name.clone(), parameter.clone());
        Ok(parameter)
    }
}

/// How a new parameter is filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Zeros.
    Zeros,
    /// Ones.
    Ones,
    /// Normal numbers with mean 0 and this standard deviation.
    Normal(f64),
}

/// Makes parameters: from the weights of a checkpoint where it has them, else new.
#[derive(Clone)]
pub struct Builder {
    parameters: Parameters,
    weights: Arc<Weights>,
    device: Device,
    seed: u64,
    ignore_mismatched: bool,
    record: Arc<RwLock<LoadRecord>>,
}

/// What became of the weights of a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct LoadRecord {
    /// Parameters filled from the checkpoint.
    pub matched: Vec<String>,
    /// Parameters that the checkpoint does not have.
    pub new: Vec<String>,
    /// Parameters whose shape differs: name, shape in the checkpoint, shape in the model.
    pub mismatched: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Tensors of the checkpoint that the model has no use for.
    pub unused: Vec<String>,
}

impl Builder {
    /// A builder over the weights of a checkpoint (empty for a model from its configuration alone).
    pub fn new(weights: Weights, device: Device, seed: u64, ignore_mismatched: bool) -> Self {
        Builder {
            parameters: Parameters::default(),
            weights: Arc::new(weights),
            device,
            seed,
            ignore_mismatched,
            record: Arc::default(),
        }
    }

    /// The parameters made so far.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Where the parameters live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What became of the checkpoint's weights; unused ones are known when the model is complete.
    pub fn record(&self) -> LoadRecord {
        let mut record = self.record.read().unwrap_or_else(PoisonError::into_inner).clone();
        record.unused = self.weights.names_except(&record.matched, &record.mismatched);
        record
    }

    /// Makes the parameter `name` of `shape`: from the checkpoint, else filled by `init` from a stream of its own, so
    /// that its first value depends on the seed and its name alone.
    ///
    /// # Errors
    /// Weights of another shape (unless mismatches are ignored), a name made twice, weights that cannot be read.
    pub fn make(&self, name: &str, shape: &[usize], init: Init) -> Result<Arc<Parameter>> {
        let mut record = self.record.write().unwrap_or_else(PoisonError::into_inner);
        let loaded = match self.weights.shape(name) {
            None => {
                record.new.push(name.to_string());
                None
            }
            Some(found) if found == shape => {
                record.matched.push(name.to_string());
                Some(self.weights.values(name)?)
            }
            Some(found) => {
                record.mismatched.push((name.to_string(), found.clone(), shape.to_vec()));
                if !self.ignore_mismatched {
                    let problem = format!("`{name}` has shape {found:?} in the checkpoint, but {shape:?} in the model");
                    return Err(What::Weights(problem).into());
                }
                None
            }
        };
        drop(record);
        let var = match loaded {
            Some(values) => Var::from_vec(values, shape, &self.device)?,
            None => {
                memory::require_tensor(shape, size_of::<f32>())?;
                Var::from_vec(self.fill(name, shape, init), shape, &self.device)?
            }
        };
        let variable = Variable::from(var);
        self.parameters.insert(Parameter { name: name.to_string(), variable, trainable: AtomicBool::new(true) })
    }

    fn fill(&self, name: &str, shape: &[usize], init: Init) -> Vec<f32> {
        let count = shape.iter().product::<usize>();
        match init {
            Init::Zeros => vec![0.0; count],
            Init::Ones => vec![1.0; count],
            Init::Normal(deviation) => {
                let mut values = pages::zeros(count);
                normal::fill(&Rng::new(self.seed, &format!("init/{name}"), 0), deviation, &mut values);
                values
            }
        }
    }
}
