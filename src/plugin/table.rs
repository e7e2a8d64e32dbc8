//! The table of functions that plugins get: the C side of a call.
//!
//! There is one table for the whole process. Each function finds its call through the thread, checks what it was passed, and
//! leaves the work to `ops`, `custom` and the services of the call.

use std::ffi::c_void;

use candle_core::{DType, Tensor};
use retune_plugin_sdk::abi::{self, Custom, Handle, Host, Status, Str};
use retune_plugin_sdk::opcodes::opcode;

use crate::error::{Error, Result, What, nearest};
use crate::model::parameters::Init;
use crate::plugin::arguments::{bytes, dims as shape, room, slice, text};
use crate::plugin::call::{Call, NOTHING, always, within};
use crate::plugin::{custom, ops};
use crate::tensor::shape::shown;

/// The table.
pub static HOST: Host = Host {
    struct_size: size_of::<Host>() as u32,
    abi_major: abi::ABI_MAJOR,
    abi_minor: abi::ABI_MINOR,
    op,
    has_op,
    param,
    input,
    has_input,
    tensor,
    read,
    dims,
    custom: custom_op,
    output,
    text: text_of,
    result,
    call,
    is_training,
    failed,
    set_error,
    log,
    get_extension,
    dtype,
};

fn refused<T>(problem: String) -> Result<T> {
    Err(What::Plugin(problem).into())
}

/// Shapes for people: `(2, 3) and (3)`.
fn shapes(call: &Call<'_>, handles: &[Handle]) -> String {
    let shape = |handle: &Handle| call.tensors.get(*handle).map_or("nothing".into(), |tensor| shown(tensor.dims()));
    handles.iter().map(shape).collect::<Vec<_>>().join(" and ")
}

unsafe extern "C" fn op(
    code: u32,
    tensors: *const Handle,
    n_tensors: usize,
    ints: *const i64,
    n_ints: usize,
    floats: *const f64,
    n_floats: usize,
) -> Handle {
    let name = opcode(code).map_or_else(|| format!("operation {code}"), |known| format!("`{}`", known.name));
    let place = |call: &Call<'_>| {
        // SAFETY: the plugin's promise: so many values each, which live during this function.
        let handles = unsafe { slice("tensors", tensors, n_tensors) }.unwrap_or_default();
        format!("{name} of {}", shapes(call, handles))
    };
    within(0, place, |call| {
        // SAFETY: as above.
        let (handles, ints, floats) = unsafe {
            (slice("tensors", tensors, n_tensors)?, slice("ints", ints, n_ints)?, slice("floats", floats, n_floats)?)
        };
        ops::check(code, [handles.len(), ints.len(), floats.len()])?;
        let operands = handles.iter().map(|handle| call.tensors.get(*handle).cloned()).collect::<Result<Vec<_>>>()?;
        let result = match ops::apply(code, &operands, ints, floats)? {
            Some(result) => result,
            None => call.services()?.with_batch(code, &operands[0], ints, floats)?,
        };
        Ok(call.tensors.hold(result))
    })
}

unsafe extern "C" fn has_op(code: u32) -> i32 {
    i32::from(opcode(code).is_some())
}

unsafe extern "C" fn param(name: Str, dims: *const usize, rank: usize, init: abi::Init) -> Handle {
    // SAFETY: the plugin's promise about the text it passes.
    let place = |_: &Call<'_>| format!("the parameter `{}`", unsafe { text("name", name) }.unwrap_or_default());
    within(0, place, |call| {
        // SAFETY: the plugin's promise about the text and the shape it passes.
        let (name, (dims, _)) = unsafe { (text("name", name)?, shape(dims, rank)?) };
        let init = match init.kind {
            abi::INIT_MODEL => None,
            abi::INIT_ZEROS => Some(Init::Zeros),
            abi::INIT_ONES => Some(Init::Ones),
            abi::INIT_NORMAL if init.std.is_finite() && init.std >= 0.0 => Some(Init::Normal(init.std)),
            abi::INIT_NORMAL => return refused(format!("a standard deviation of {}", init.std)),
            other => return refused(format!("there is no initialisation {other}")),
        };
        if name.is_empty() {
            return refused("a parameter needs a name".into());
        }
        let value = call.services()?.param(name, dims, init)?;
        Ok(call.tensors.hold(value))
    })
}

unsafe extern "C" fn input(name: Str) -> Handle {
    within(
        0,
        |_| String::new(),
        |call| {
            // SAFETY: the plugin's promise about the text it passes.
            let name = unsafe { text("name", name)? };
            let services = call.services()?;
            let Some(value) = services.input(name)? else {
                let names = services.input_names();
                let error = Error::new(What::NotFound { kind: "column", name: name.to_string() });
                return Err(match nearest(name, names.iter().map(String::as_str)) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None if names.is_empty() => error.hint("this call has no inputs"),
                    None => error.hint(format!("the call has {}", names.join(", "))),
                });
            };
            Ok(call.tensors.hold(value))
        },
    )
}

unsafe extern "C" fn has_input(name: Str) -> i32 {
    within(
        0,
        |_| String::new(),
        |call| {
            // SAFETY: the plugin's promise about the text it passes.
            let name = unsafe { text("name", name)? };
            Ok(i32::from(call.services()?.input(name)?.is_some()))
        },
    )
}

unsafe extern "C" fn tensor(dtype: u32, data: *const c_void, dims: *const usize, rank: usize) -> Handle {
    within(
        0,
        |_| "a constant".into(),
        |call| {
            // SAFETY: the plugin's promise: a shape, and as many numbers as it says.
            let (dims, count) = unsafe { shape(dims, rank)? };
            let device = call.services()?.device();
            // SAFETY: as above.
            let tensor = unsafe {
                match dtype {
                    abi::F32 => Tensor::from_slice(slice("data", data.cast::<f32>(), count)?, dims, &device)?,
                    abi::F64 => Tensor::from_slice(slice("data", data.cast::<f64>(), count)?, dims, &device)?,
                    abi::I64 => Tensor::from_slice(slice("data", data.cast::<i64>(), count)?, dims, &device)?,
                    other => return refused(format!("there is no type {other}")),
                }
            };
            Ok(call.tensors.hold(tensor))
        },
    )
}

unsafe extern "C" fn read(handle: Handle, dtype: u32, out: *mut c_void, capacity: usize) -> i64 {
    within(
        -1,
        |call| format!("reading a tensor of {}", shapes(call, &[handle])),
        |call| {
            let flat = call.tensors.get(handle)?.detach().flatten_all()?;
            let count = flat.elem_count();
            if count <= capacity {
                // SAFETY: the plugin's promise: room for `capacity` numbers of the type.
                unsafe {
                    match dtype {
                        abi::F32 => copy(&flat.to_dtype(DType::F32)?.to_vec1::<f32>()?, out.cast())?,
                        abi::F64 => copy(&flat.to_dtype(DType::F64)?.to_vec1::<f64>()?, out.cast())?,
                        abi::I64 => copy(&flat.to_dtype(DType::I64)?.to_vec1::<i64>()?, out.cast())?,
                        other => return refused(format!("there is no type {other}")),
                    }
                }
            }
            Ok(count as i64)
        },
    )
}

/// # Safety
/// There is room for the values behind `out`.
unsafe fn copy<T: Copy>(values: &[T], out: *mut T) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { room("out", out, values.len())? }.copy_from_slice(values);
    Ok(())
}

unsafe extern "C" fn dims(handle: Handle, out: *mut usize, capacity: usize) -> i32 {
    within(
        -1,
        |_| "the shape of a tensor".into(),
        |call| {
            let dims = call.tensors.get(handle)?.dims();
            if dims.len() <= capacity {
                // SAFETY: the plugin's promise: room for `capacity` numbers.
                unsafe { copy(dims, out)? };
            }
            Ok(dims.len() as i32)
        },
    )
}

unsafe extern "C" fn dtype(handle: Handle) -> i32 {
    within(
        -1,
        |_| "the type of a tensor".into(),
        |call| {
            Ok(match call.tensors.get(handle)?.dtype() {
                dtype if dtype.is_int() => abi::I64 as i32,
                DType::F64 => abi::F64 as i32,
                _ => abi::F32 as i32,
            })
        },
    )
}

unsafe extern "C" fn custom_op(
    op: *const Custom,
    tensors: *const Handle,
    n_tensors: usize,
    dims: *const usize,
    rank: usize,
) -> Handle {
    // SAFETY: the plugin's promise: a declaration that lives during this function. It is taken over first of all, so that it is
    // dropped once, whatever comes next.
    let own = unsafe { custom::take_over(op) };
    let place = |call: &Call<'_>| {
        // SAFETY: the plugin's promise: so many handles.
        let handles = unsafe { slice("tensors", tensors, n_tensors) }.unwrap_or_default();
        format!("an operation of the plugin's own on {}", shapes(call, handles))
    };
    within(0, place, |call| {
        // SAFETY: the plugin's promise: so many handles and dimensions.
        let (handles, (dims, _)) = unsafe { (slice("tensors", tensors, n_tensors)?, shape(dims, rank)?) };
        call.services()?;
        let inputs = handles.iter().map(|handle| call.tensors.get(*handle).cloned()).collect::<Result<Vec<_>>>()?;
        let result = custom::apply(own?, &inputs, dims)?;
        Ok(call.tensors.hold(result))
    })
}

unsafe extern "C" fn output(name: Str, handle: Handle) -> Status {
    // SAFETY: the plugin's promise about the text it passes.
    let place = |_: &Call<'_>| format!("the output `{}`", unsafe { text("name", name) }.unwrap_or_default());
    within(abi::ERROR, place, |call| {
        // SAFETY: as above.
        let name = unsafe { text("name", name)? };
        call.services()?;
        let tensor = call.tensors.get(handle)?.clone();
        call.give(name, tensor);
        Ok(abi::OK)
    })
}

unsafe extern "C" fn text_of(name: Str) -> Str {
    within(
        NOTHING,
        |_| String::new(),
        |call| {
            // SAFETY: the plugin's promise about the text it passes.
            let name = unsafe { text("name", name)? };
            match call.services()?.text(name) {
                Some(text) => Ok(call.keep(text)),
                None => refused(format!("this call has no text `{name}`")),
            }
        },
    )
}

unsafe extern "C" fn result(given: Str) -> Status {
    within(
        abi::ERROR,
        |_| "the result".into(),
        |call| {
            // SAFETY: the plugin's promise about the bytes it passes.
            let given = unsafe { bytes("text", given)? };
            call.services()?;
            call.give_text(given);
            Ok(abi::OK)
        },
    )
}

unsafe extern "C" fn call(function: Str, arguments: Str) -> Str {
    // SAFETY: the plugin's promise about the text it passes.
    let place = |_: &Call<'_>| format!("`{}`", unsafe { text("function", function) }.unwrap_or_default());
    within(NOTHING, place, |call| {
        // SAFETY: the plugin's promise about the texts it passes.
        let (function, arguments) = unsafe { (text("function", function)?, text("arguments", arguments)?) };
        let (services, tensors) = call.services_and_tensors()?;
        let result = services.call(tensors, function, arguments)?;
        Ok(call.keep(result.into_bytes()))
    })
}

unsafe extern "C" fn is_training() -> i32 {
    within(0, |_| String::new(), |call| Ok(i32::from(call.services()?.is_training())))
}

unsafe extern "C" fn failed() -> i32 {
    // Without a call everything fails.
    always(1, |call| i32::from(call.failed()))
}

unsafe extern "C" fn set_error(given: Str) {
    always((), |call| {
        // SAFETY: the plugin's promise about the text it passes.
        match unsafe { bytes("text", given) } {
            Ok(text) => call.fail(&String::from_utf8_lossy(text)),
            Err(_) => call.fail("it failed, and the text that says why is null"),
        }
    });
}

unsafe extern "C" fn log(level: u32, given: Str) {
    always((), |call| {
        // SAFETY: the plugin's promise about the text it passes.
        if let (Ok(text), Ok(services)) = (unsafe { bytes("text", given) }, call.services()) {
            services.log(level, &String::from_utf8_lossy(text));
        }
    });
}

unsafe extern "C" fn get_extension(_id: Str) -> *const c_void {
    std::ptr::null()
}
