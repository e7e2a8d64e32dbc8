//! The C ABI between retune and a plugin, as `repr(C)` declarations: the Rust side of `include/retune_plugin.h`.
//!
//! The header is where the contract is told, function by function; here are the same declarations in the same order. A test
//! compiles the header and compares sizes and offsets with [`LAYOUT`]. What has been released is never changed, only
//! appended to: a new field raises [`ABI_MINOR`], and everything else would be another [`ABI_MAJOR`].

use std::ffi::c_void;

/// The first four bytes of an entry: `RTUN`.
pub const MAGIC: u32 = 0x4E55_5452;
/// The version that breaks: a plugin and a program of different major versions do not understand each other.
pub const ABI_MAJOR: u16 = 1;
/// The version that grows: a program loads plugins of its own minor version and of all before it.
pub const ABI_MINOR: u16 = 1;
/// The name of the one symbol that a plugin exports, an [`Entry`].
pub const ENTRY: &str = "retune_plugin_entry";

/// A tensor of the current call; 0 stands for what an operation that failed has given.
pub type Handle = u64;

/// How a call ended: [`OK`], [`ERROR`] or [`PANIC`].
pub type Status = i32;
/// All went well.
pub const OK: Status = 0;
/// It failed; the text was given to `set_error`, or an operation has failed before.
pub const ERROR: Status = -1;
/// A panic was caught.
pub const PANIC: Status = -2;

/// 32-bit floats.
pub const F32: u32 = 1;
/// 64-bit floats.
pub const F64: u32 = 2;
/// 64-bit whole numbers.
pub const I64: u32 = 3;

/// Normal numbers with the standard deviation of the model's `initializer_range`.
pub const INIT_MODEL: u32 = 0;
/// Zeros.
pub const INIT_ZEROS: u32 = 1;
/// Ones.
pub const INIT_ONES: u32 = 2;
/// Normal numbers with the standard deviation `std`.
pub const INIT_NORMAL: u32 = 3;

/// For people who look closely.
pub const LOG_DEBUG: u32 = 0;
/// For everybody.
pub const LOG_INFO: u32 = 1;
/// Something is not as it should be.
pub const LOG_WARNING: u32 = 2;

/// A flag of a head: its loss looks at padding, so the rows of a batch are filled up to the longest.
pub const PADS_ROWS: u32 = 1;
/// A flag of a head: its functions must not run on two threads at once, and the program sees to it.
pub const SERIAL: u32 = 2;

/// Text or bytes: not ended by a zero, owned by whoever passes them, valid during the call they are passed to.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Str {
    /// The first byte; may be null where `len` is 0.
    pub ptr: *const u8,
    /// The number of bytes.
    pub len: usize,
}

/// A tensor's numbers as a custom operation sees them: contiguous, row by row, owned by the program.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// The numbers.
    pub data: *mut f32,
    /// The size of each dimension.
    pub dims: *const usize,
    /// The number of dimensions.
    pub rank: usize,
    /// The number of numbers.
    pub len: usize,
}

/// How a new parameter is filled.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Init {
    /// One of the constants `INIT_...`.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
    /// The standard deviation of [`INIT_NORMAL`].
    pub std: f64,
}

/// The forward of a custom operation: from inputs to the output.
pub type CustomForward =
    unsafe extern "C" fn(user: *mut c_void, inputs: *const Buffer, n_inputs: usize, output: *mut Buffer) -> Status;
/// The backward of a custom operation: from the gradient of the output to that of each input.
pub type CustomBackward = unsafe extern "C" fn(
    user: *mut c_void,
    inputs: *const Buffer,
    n_inputs: usize,
    output: *const Buffer,
    gradient: *const Buffer,
    gradients: *mut Buffer,
) -> Status;

/// An operation of the plugin's own.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Custom {
    /// The size of this struct.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// What the functions are given.
    pub user: *mut c_void,
    /// Computes the output.
    pub forward: Option<CustomForward>,
    /// Computes gradients; null for an operation that no gradient passes.
    pub backward: Option<CustomBackward>,
    /// Called once, when neither forward nor backward can be called again.
    pub drop: Option<unsafe extern "C" fn(user: *mut c_void)>,
}

/// What the program does for a plugin. One table for the whole life of the process.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// The size of this struct.
    pub struct_size: u32,
    /// The program's [`ABI_MAJOR`].
    pub abi_major: u16,
    /// The program's [`ABI_MINOR`].
    pub abi_minor: u16,
    /// Applies an operation of the table of opcodes.
    pub op: unsafe extern "C" fn(
        opcode: u32,
        tensors: *const Handle,
        n_tensors: usize,
        ints: *const i64,
        n_ints: usize,
        floats: *const f64,
        n_floats: usize,
    ) -> Handle,
    /// Whether the program knows an operation.
    pub has_op: unsafe extern "C" fn(opcode: u32) -> i32,
    /// A parameter by name: made in `create`, looked up elsewhere.
    pub param: unsafe extern "C" fn(name: Str, dims: *const usize, rank: usize, init: Init) -> Handle,
    /// An input of the call by name.
    pub input: unsafe extern "C" fn(name: Str) -> Handle,
    /// Whether the call has an input.
    pub has_input: unsafe extern "C" fn(name: Str) -> i32,
    /// A constant tensor of the plugin's numbers.
    pub tensor: unsafe extern "C" fn(dtype: u32, data: *const c_void, dims: *const usize, rank: usize) -> Handle,
    /// Copies a tensor's numbers out; gives their number, or -1.
    pub read: unsafe extern "C" fn(tensor: Handle, dtype: u32, out: *mut c_void, capacity: usize) -> i64,
    /// Copies a tensor's shape out; gives the number of dimensions, or -1.
    pub dims: unsafe extern "C" fn(tensor: Handle, out: *mut usize, capacity: usize) -> i32,
    /// Applies an operation of the plugin's own.
    pub custom: unsafe extern "C" fn(
        op: *const Custom,
        tensors: *const Handle,
        n_tensors: usize,
        dims: *const usize,
        rank: usize,
    ) -> Handle,
    /// Gives a tensor back by name.
    pub output: unsafe extern "C" fn(name: Str, tensor: Handle) -> Status,
    /// A text of the call by name; JSON, except for `state`.
    pub text: unsafe extern "C" fn(name: Str) -> Str,
    /// Gives a text back: JSON, except for `save_state`.
    pub result: unsafe extern "C" fn(text: Str) -> Status,
    /// Calls a function that scripts have, with a JSON list of arguments.
    pub call: unsafe extern "C" fn(function: Str, arguments: Str) -> Str,
    /// Whether the batch is for training.
    pub is_training: unsafe extern "C" fn() -> i32,
    /// Whether anything of this call has failed.
    pub failed: unsafe extern "C" fn() -> i32,
    /// Says why the call fails.
    pub set_error: unsafe extern "C" fn(text: Str),
    /// Says something to people.
    pub log: unsafe extern "C" fn(level: u32, text: Str),
    /// Functions that are not part of this table, by id.
    pub get_extension: unsafe extern "C" fn(id: Str) -> *const c_void,
    /// Since 1.1: the type of a tensor's numbers, or -1.
    pub dtype: unsafe extern "C" fn(tensor: Handle) -> i32,
}

/// A function of a head: what it reads and gives goes through the host.
pub type HeadFunction = unsafe extern "C" fn(head: *mut c_void, host: *const Host) -> Status;

/// A head: its functions, null where it has none.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The size of this struct.
    pub struct_size: u32,
    /// [`PADS_ROWS`], [`SERIAL`].
    pub flags: u32,
    /// The name after `plugin:`.
    pub name: Str,
    /// The options with their defaults, a JSON map; may be empty.
    pub options: Str,
    /// Makes a head and its parameters.
    pub create: Option<unsafe extern "C" fn(host: *const Host, head: *mut *mut c_void) -> Status>,
    /// Frees a head.
    pub destroy: Option<unsafe extern "C" fn(head: *mut c_void)>,
    /// Hidden states to outputs.
    pub forward: Option<HeadFunction>,
    /// Outputs to the loss.
    pub loss: Option<HeadFunction>,
    /// A row to features.
    pub encode: Option<HeadFunction>,
    /// Outputs to what a pipeline returns.
    pub decode: Option<HeadFunction>,
    /// Predictions and references to numbers.
    pub metrics: Option<HeadFunction>,
    /// The state beside the parameters, as bytes.
    pub save_state: Option<HeadFunction>,
    /// The same bytes, read back.
    pub load_state: Option<HeadFunction>,
    /// Functions that are not part of this struct, by id.
    pub get_extension: Option<unsafe extern "C" fn(id: Str) -> *const c_void>,
    /// Since 1.1: changes a batch before it is looked at.
    pub collate: Option<HeadFunction>,
    /// Since 1.1: what was decoded of a row's windows to what a pipeline returns.
    pub merge: Option<HeadFunction>,
    /// Since 1.1: outputs to the little that metrics need.
    pub reduce: Option<HeadFunction>,
}

/// What a plugin exports under the name [`ENTRY`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// [`MAGIC`].
    pub magic: u32,
    /// The plugin's [`ABI_MAJOR`].
    pub abi_major: u16,
    /// The plugin's [`ABI_MINOR`].
    pub abi_minor: u16,
    /// The size of this struct.
    pub struct_size: u32,
    /// The number of heads.
    pub n_heads: u32,
    /// The plugin's name.
    pub name: Str,
    /// The plugin's version.
    pub version: Str,
    /// The heads.
    pub heads: *const *const Head,
}

// SAFETY: an entry is constant; everything that its pointers lead to lives as long as the library.
unsafe impl Sync for Entry {}
// SAFETY: as for `Entry`.
unsafe impl Sync for Head {}
// SAFETY: as for `Entry`; a copy is no more than the same constants again.
unsafe impl Send for Head {}

impl Str {
    /// The text of a constant, which lives for ever.
    pub const fn of(text: &'static str) -> Str {
        Str { ptr: text.as_ptr(), len: text.len() }
    }

    /// Text that is borrowed for a call.
    pub const fn borrowed(text: &[u8]) -> Str {
        Str { ptr: text.as_ptr(), len: text.len() }
    }
}

/// A struct of the ABI as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub struct Struct {
    /// Its name in the header.
    pub name: &'static str,
    /// Its size in bytes.
    pub size: usize,
    /// Its fields in order, with their offsets.
    pub fields: &'static [(&'static str, usize)],
}

macro_rules! layout {
    ($($name:literal $rust:ident { $($field:ident),+ $(,)? })+) => {
        &[$(Struct {
            name: $name,
            size: std::mem::size_of::<$rust>(),
            fields: &[$((stringify!($field), std::mem::offset_of!($rust, $field))),+],
        }),+]
    };
}

/// Every struct of the ABI: what the header's compiler must find too.
pub const LAYOUT: &[Struct] = layout! {
    "retune_str" Str { ptr, len }
    "retune_buffer" Buffer { data, dims, rank, len }
    "retune_init" Init { kind, reserved, std }
    "retune_custom" Custom { struct_size, reserved, user, forward, backward, drop }
    "retune_host" Host {
        struct_size, abi_major, abi_minor, op, has_op, param, input, has_input, tensor, read, dims, custom, output, text, result,
        call, is_training, failed, set_error, log, get_extension, dtype,
    }
    "retune_head" Head {
        struct_size, flags, name, options, create, destroy, forward, loss, encode, decode, metrics, save_state, load_state,
        get_extension, collate, merge, reduce,
    }
    "retune_plugin" Entry { magic, abi_major, abi_minor, struct_size, n_heads, name, version, heads }
};

/// The constants that the header defines too, with its names.
pub const CONSTANTS: &[(&str, i64)] = &[
    ("RETUNE_MAGIC", MAGIC as i64),
    ("RETUNE_ABI_MAJOR", ABI_MAJOR as i64),
    ("RETUNE_ABI_MINOR", ABI_MINOR as i64),
    ("RETUNE_OK", OK as i64),
    ("RETUNE_ERROR", ERROR as i64),
    ("RETUNE_PANIC", PANIC as i64),
    ("RETUNE_F32", F32 as i64),
    ("RETUNE_F64", F64 as i64),
    ("RETUNE_I64", I64 as i64),
    ("RETUNE_INIT_MODEL", INIT_MODEL as i64),
    ("RETUNE_INIT_ZEROS", INIT_ZEROS as i64),
    ("RETUNE_INIT_ONES", INIT_ONES as i64),
    ("RETUNE_INIT_NORMAL", INIT_NORMAL as i64),
    ("RETUNE_LOG_DEBUG", LOG_DEBUG as i64),
    ("RETUNE_LOG_INFO", LOG_INFO as i64),
    ("RETUNE_LOG_WARNING", LOG_WARNING as i64),
    ("RETUNE_PADS_ROWS", PADS_ROWS as i64),
    ("RETUNE_SERIAL", SERIAL as i64),
];

/// The size of [`Entry`], [`Head`] and [`Host`] in version 1.0: no shorter one was ever released.
pub const SIZES_OF_1_0: [usize; 3] =
    [std::mem::size_of::<Entry>(), std::mem::offset_of!(Head, collate), std::mem::offset_of!(Host, dtype)];
