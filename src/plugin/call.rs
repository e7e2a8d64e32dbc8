//! One call of a plugin's function: the tensors it holds, its first failure, what it gives back.
//!
//! A call is found through the thread that runs it. Handles carry the call's generation, so one that was kept from an earlier
//! call is told from one of this call, and on another thread there is no call at all.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

use candle_core::{Device, Tensor};
use indexmap::IndexMap;
use retune_plugin_sdk::abi::{self, Handle, Status};

use crate::error::{Error, Place, Result, What};
use crate::model::parameters::Init;
use crate::plugin::crash::Site;

/// What a call needs of the task contract.
pub trait Services {
    /// Where new tensors go.
    fn device(&self) -> Device;
    /// The parameter `name`; `init` is the model's own where it is `None`.
    ///
    /// # Errors
    /// A parameter of another shape, or one that was not made in `create`.
    fn param(&mut self, name: &str, dims: &[usize], init: Option<Init>) -> Result<Tensor>;
    /// The input `name`, where the call has it.
    ///
    /// # Errors
    /// Those of the tensor operations.
    fn input(&self, name: &str) -> Result<Option<Tensor>>;
    /// The names of all inputs, for messages.
    fn input_names(&self) -> Vec<String>;
    /// The text `name`, where the call has it.
    fn text(&self, name: &str) -> Option<Vec<u8>>;
    /// An operation that looks at the batch.
    ///
    /// # Errors
    /// A call without a batch, shapes that do not fit.
    fn with_batch(&self, opcode: u32, x: &Tensor, ints: &[i64], floats: &[f64]) -> Result<Tensor>;
    /// A function that scripts have, with its arguments and its result as JSON.
    ///
    /// # Errors
    /// What the function raises.
    fn call(&mut self, tensors: &mut Tensors, function: &str, arguments: &str) -> Result<String>;
    /// Whether the batch is for training.
    fn is_training(&self) -> bool;
    /// Says something to people.
    fn log(&self, level: u32, text: &str);
}

/// The tensors of a call.
pub struct Tensors {
    generation: u32,
    held: Vec<Tensor>,
}

static GENERATION: AtomicU32 = AtomicU32::new(1);

impl Tensors {
    fn new() -> Self {
        // 31 bits, so that a handle is a whole number of JSON; never 0, so that no handle is.
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed) & 0x7fff_ffff;
        Tensors { generation: generation.max(1), held: Vec::new() }
    }

    /// Takes a tensor in.
    pub fn hold(&mut self, tensor: Tensor) -> Handle {
        self.held.push(tensor);
        (Handle::from(self.generation) << 32) | self.held.len() as Handle
    }

    /// The tensor of a handle.
    ///
    /// # Errors
    /// 0, a handle of another call, or one that was never given.
    pub fn get(&self, handle: Handle) -> Result<&Tensor> {
        let refused = |problem: &str| Err(What::Plugin(problem.to_string()).into());
        if handle == 0 {
            return refused(
                "it used the tensor 0, which is what a function of the host gives when it fails, or on another thread",
            );
        }
        if (handle >> 32) as u32 != self.generation {
            return refused("it used a tensor of an earlier call; tensors live until their call ends");
        }
        let place = (handle as u32 as usize).wrapping_sub(1);
        self.held.get(place).ok_or_else(|| What::Plugin("it used a tensor that was never given".into()).into())
    }
}

/// A call that is running.
pub struct Call<'a> {
    /// Its tensors.
    pub tensors: Tensors,
    /// What it can ask for; nothing within an operation of the plugin's own.
    services: Option<&'a mut dyn Services>,
    error: Option<Error>,
    outputs: IndexMap<String, Tensor>,
    result: Option<Vec<u8>>,
    texts: Vec<Vec<u8>>,
}

/// What a call has given back.
#[derive(Debug, Default)]
pub struct Given {
    /// Tensors by name.
    pub outputs: IndexMap<String, Tensor>,
    /// A text.
    pub result: Option<Vec<u8>>,
}

thread_local! {
    static CURRENT: Cell<*mut Call<'static>> = const { Cell::new(std::ptr::null_mut()) };
}

/// Puts the former call of this thread back, whatever way the new one ends.
struct Entered(*mut Call<'static>);

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

fn enter(call: *mut Call<'static>) -> Entered {
    Entered(CURRENT.replace(call))
}

/// Calls `function` of a plugin, which may ask for `services` while it runs.
///
/// # Errors
/// The first thing that failed, or a status that says so.
pub fn run(site: Site, services: Option<&mut dyn Services>, function: impl FnOnce() -> Status) -> Result<Given> {
    let mut call = Call {
        tensors: Tensors::new(),
        services,
        error: None,
        outputs: IndexMap::new(),
        result: None,
        texts: Vec::new(),
    };
    let status = {
        let _site = site.enter();
        let _entered = enter((&raw mut call).cast());
        function()
    };
    let Call { error, outputs, result, .. } = call;
    let error = match (error, status) {
        (None, abi::OK) => return Ok(Given { outputs, result }),
        (Some(error), _) => error,
        (None, abi::PANIC) => What::Plugin("it panicked".into()).into(),
        (None, status) => What::Plugin(format!("it failed with the status {status} and did not say why")).into(),
    };
    Err(error.at(Place::Within(site.to_string())))
}

/// Does what a function of the table is for, in the call that is running on this thread. Gives `refused` where there is none,
/// where something has failed before, and where `function` fails now or panics: then `place` says in what.
pub fn within<R: Copy>(
    refused: R,
    place: impl FnOnce(&Call<'_>) -> String,
    function: impl FnOnce(&mut Call<'_>) -> Result<R>,
) -> R {
    always(refused, |call| {
        if call.error.is_some() {
            return refused;
        }
        let result = catch_unwind(AssertUnwindSafe(|| function(call)));
        let error = match result {
            Ok(Ok(value)) => return value,
            Ok(Err(error)) => error,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
                What::Internal(format!("a function of the host panicked: {text}")).into()
            }
        };
        let place = catch_unwind(AssertUnwindSafe(|| place(call))).unwrap_or_default();
        call.error = Some(if place.is_empty() { error } else { error.at(Place::Within(place)) });
        refused
    })
}

/// As [`within`], also after a failure; `function` must not panic.
pub fn always<R: Copy>(refused: R, function: impl FnOnce(&mut Call<'_>) -> R) -> R {
    let current = CURRENT.get();
    if current.is_null() {
        return refused;
    }
    // While the function works no other one finds the call, so there is no second reference to it.
    let _alone = enter(std::ptr::null_mut());
    // SAFETY: `run` keeps the call alive while the pointer is set, and touches it only after that.
    function(unsafe { &mut *current })
}

impl<'a> Call<'a> {
    /// What the call can ask for.
    ///
    /// # Errors
    /// Within an operation of the plugin's own there is nothing.
    pub fn services(&mut self) -> Result<&mut (dyn Services + 'a)> {
        match &mut self.services {
            Some(services) => Ok(&mut **services),
            None => {
                Err(What::Plugin("an operation of the plugin's own can use `set_error` and `log` alone".into()).into())
            }
        }
    }

    /// What the call can ask for, and its tensors.
    ///
    /// # Errors
    /// As [`Call::services`].
    pub fn services_and_tensors(&mut self) -> Result<(&mut (dyn Services + 'a), &mut Tensors)> {
        self.services()?;
        match &mut self.services {
            Some(services) => Ok((&mut **services, &mut self.tensors)),
            None => Err(What::Internal("services went away".into()).into()),
        }
    }

    /// Whether something has failed.
    pub fn failed(&self) -> bool {
        self.error.is_some()
    }

    /// Fails the call with a text, unless something has failed before.
    pub fn fail(&mut self, text: &str) {
        self.error.get_or_insert_with(|| What::Plugin(text.to_string()).into());
    }

    /// Takes a tensor that is given back.
    pub fn give(&mut self, name: &str, tensor: Tensor) {
        self.outputs.insert(name.to_string(), tensor);
    }

    /// Takes a text that is given back.
    pub fn give_text(&mut self, text: &[u8]) {
        self.result = Some(text.to_vec());
    }

    /// Keeps a text until the call ends.
    pub fn keep(&mut self, text: Vec<u8>) -> abi::Str {
        self.texts.push(text);
        self.texts.last().map_or(NOTHING, |text| abi::Str { ptr: text.as_ptr(), len: text.len() })
    }
}

/// What a function that returns a text gives when it fails.
pub const NOTHING: abi::Str = abi::Str { ptr: std::ptr::null(), len: 0 };
