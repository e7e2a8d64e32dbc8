//! What a call of the program brings: inputs, parameters, texts, and functions of scripts.

use std::ffi::c_void;
use std::marker::PhantomData;

use crate::abi::{self, Handle, Host, Status, Str};
use crate::custom::{self, CustomOp};
use crate::json::Json;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// One call of the program. Copied freely; it cannot leave the call or its thread.
#[derive(Clone, Copy)]
pub struct Cx<'c> {
    pub(crate) host: &'static Host,
    _call: PhantomData<(&'c (), *mut ())>,
}

/// How a new parameter is filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal numbers with the standard deviation of the model's `initializer_range`.
    Model,
    /// Zeros.
    Zeros,
    /// Ones.
    Ones,
    /// Normal numbers with this standard deviation.
    Normal(f64),
}

/// Whom a line of the log is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// People who look closely.
    Debug,
    /// Everybody.
    Info,
    /// Everybody: something is not as it should be.
    Warning,
}

impl<'c> Cx<'c> {
    /// The call that the program is making.
    ///
    /// # Safety
    /// `host` points to the program's table, which lives as long as the process, and a call is running on this thread for as
    /// long as `'c`.
    pub unsafe fn from_host(host: *const Host) -> Option<Cx<'c>> {
        // SAFETY: the caller's promise.
        unsafe { host.as_ref() }.map(|host| Cx { host, _call: PhantomData })
    }

    pub(crate) fn wrap(self, handle: Handle) -> Tensor<'c> {
        Tensor { handle, cx: self }
    }

    /// Applies an operation of the table to tensors, whole numbers and floats; [`Tensor`] has a method for each.
    pub fn op(self, opcode: u32, tensors: &[Tensor<'c>], ints: &[i64], floats: &[f64]) -> Tensor<'c> {
        let few: [Handle; 3] = std::array::from_fn(|place| tensors.get(place).map_or(0, |tensor| tensor.handle));
        let many: Vec<Handle>;
        let handles = if tensors.len() <= few.len() {
            &few[..tensors.len()]
        } else {
            many = tensors.iter().map(|tensor| tensor.handle).collect();
            &many
        };
        // SAFETY: each pointer comes with the length of its slice.
        let handle = unsafe {
            (self.host.op)(
                opcode,
                handles.as_ptr(),
                handles.len(),
                ints.as_ptr(),
                ints.len(),
                floats.as_ptr(),
                floats.len(),
            )
        };
        self.wrap(handle)
    }

    /// Whether the program knows an operation.
    pub fn has_op(self, opcode: u32) -> bool {
        // SAFETY: a plain call.
        unsafe { (self.host.has_op)(opcode) != 0 }
    }

    /// The parameter `name`: made in `create`, looked up elsewhere.
    pub fn param(self, name: &str, dims: &[usize], init: Init) -> Tensor<'c> {
        let (kind, std) = match init {
            Init::Model => (abi::INIT_MODEL, 0.0),
            Init::Zeros => (abi::INIT_ZEROS, 0.0),
            Init::Ones => (abi::INIT_ONES, 0.0),
            Init::Normal(std) => (abi::INIT_NORMAL, std),
        };
        let init = abi::Init { kind, reserved: 0, std };
        // SAFETY: name and dimensions are borrowed for the call.
        self.wrap(unsafe { (self.host.param)(borrowed(name), dims.as_ptr(), dims.len(), init) })
    }

    /// An input by name: a column of the batch such as `labels`, `lengths`, or what the head's forward has given.
    pub fn input(self, name: &str) -> Tensor<'c> {
        // SAFETY: the name is borrowed for the call.
        self.wrap(unsafe { (self.host.input)(borrowed(name)) })
    }

    /// The input `name`, where the call has it.
    pub fn optional_input(self, name: &str) -> Option<Tensor<'c>> {
        // SAFETY: the name is borrowed for the call.
        let found = unsafe { (self.host.has_input)(borrowed(name)) } != 0;
        found.then(|| self.input(name))
    }

    /// A constant of 32-bit floats; as many as the shape says.
    pub fn floats(self, values: &[f32], dims: &[usize]) -> Tensor<'c> {
        self.constant(abi::F32, values.as_ptr().cast(), values.len(), dims)
    }

    /// A constant of whole numbers; as many as the shape says.
    pub fn ints(self, values: &[i64], dims: &[usize]) -> Tensor<'c> {
        self.constant(abi::I64, values.as_ptr().cast(), values.len(), dims)
    }

    fn constant(self, dtype: u32, data: *const c_void, len: usize, dims: &[usize]) -> Tensor<'c> {
        let count = dims.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        if count != Some(len) {
            self.fail(&Error::new(format!("{len} numbers do not make a tensor of shape {dims:?}")));
            return self.wrap(0);
        }
        // SAFETY: there are as many numbers as the dimensions say.
        self.wrap(unsafe { (self.host.tensor)(dtype, data, dims.as_ptr(), dims.len()) })
    }

    /// Applies an operation of the plugin's own, whose output has the shape `dims`.
    pub fn custom<O: CustomOp>(self, op: O, inputs: &[Tensor<'c>], dims: &[usize]) -> Tensor<'c> {
        let op = custom::declare(op, self.host);
        let handles: Vec<Handle> = inputs.iter().map(|tensor| tensor.handle).collect();
        // SAFETY: each pointer comes with the length of its slice; the host calls `drop` once, whatever becomes of the operation.
        self.wrap(unsafe { (self.host.custom)(&op, handles.as_ptr(), handles.len(), dims.as_ptr(), dims.len()) })
    }

    /// A text of the call by name, as JSON.
    ///
    /// # Errors
    /// A text that this call does not have.
    pub fn json(self, name: &str) -> Result<Json> {
        let bytes = self.bytes(name)?;
        Json::parse(std::str::from_utf8(&bytes).map_err(|_| Error::new(format!("`{name}` is not UTF-8")))?)
    }

    /// A text of the call by name, as bytes.
    pub(crate) fn bytes(self, name: &str) -> Result<Vec<u8>> {
        // SAFETY: the name is borrowed for the call, and what is returned lives until the call ends.
        let text = unsafe { (self.host.text)(borrowed(name)) };
        self.copied(text).ok_or_else(|| Error::new(format!("the call has no text `{name}`")))
    }

    /// Calls a function that scripts have, by name, with its arguments in order; a method's object comes first, and `.name`
    /// reads a property. Tensors are arguments too; [`Json`] stands for everything else.
    ///
    /// # Errors
    /// What the function raises.
    pub fn call(self, function: &str, arguments: &[Json]) -> Result<Json> {
        let text = Json::List(arguments.to_vec()).to_string();
        // SAFETY: both texts are borrowed for the call, and what is returned lives until the call ends.
        let result = unsafe { (self.host.call)(borrowed(function), borrowed(&text)) };
        let result = self.copied(result).ok_or_else(|| Error::new(format!("`{function}` failed")))?;
        Json::parse(&String::from_utf8_lossy(&result))
    }

    /// The call's batch, as an argument of [`Cx::call`].
    pub fn batch(self) -> Json {
        Json::map([("$batch", Json::Bool(true))])
    }

    /// The call's tokenizer, as an argument of [`Cx::call`].
    pub fn tokenizer(self) -> Json {
        Json::map([("$tokenizer", Json::Bool(true))])
    }

    /// The tensor that [`Cx::call`] has returned.
    pub fn tensor_of(self, result: &Json) -> Tensor<'c> {
        self.wrap(result.get("$tensor").as_i64().map_or(0, |handle| handle as Handle))
    }

    /// Whether the batch is for training.
    pub fn is_training(self) -> bool {
        // SAFETY: a plain call.
        unsafe { (self.host.is_training)() != 0 }
    }

    /// Whether anything of this call has failed.
    pub fn failed(self) -> bool {
        // SAFETY: a plain call.
        unsafe { (self.host.failed)() != 0 }
    }

    /// Says something to people.
    pub fn log(self, level: Level, text: &str) {
        let level = match level {
            Level::Debug => abi::LOG_DEBUG,
            Level::Info => abi::LOG_INFO,
            Level::Warning => abi::LOG_WARNING,
        };
        // SAFETY: the text is borrowed for the call.
        unsafe { (self.host.log)(level, borrowed(text)) }
    }

    pub(crate) fn fail(self, error: &Error) {
        // SAFETY: the text is borrowed for the call.
        unsafe { (self.host.set_error)(borrowed(&error.0)) }
    }

    pub(crate) fn output(self, name: &str, tensor: Tensor<'c>) -> Status {
        // SAFETY: the name is borrowed for the call.
        unsafe { (self.host.output)(borrowed(name), tensor.handle) }
    }

    pub(crate) fn result(self, bytes: &[u8]) -> Status {
        // SAFETY: the bytes are borrowed for the call.
        unsafe { (self.host.result)(Str::borrowed(bytes)) }
    }

    fn copied(self, text: Str) -> Option<Vec<u8>> {
        if text.ptr.is_null() {
            return None;
        }
        // SAFETY: the host returns so many bytes, which live until the call ends.
        Some(unsafe { std::slice::from_raw_parts(text.ptr, text.len) }.to_vec())
    }
}

fn borrowed(text: &str) -> Str {
    Str::borrowed(text.as_bytes())
}
