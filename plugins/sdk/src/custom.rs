//! Operations on raw numbers with a gradient of one's own: a CRF's forward-backward, a kernel, existing C code.

use std::ffi::c_void;

use crate::Result;
use crate::abi::{self, Buffer, Host, Status};
use crate::context::Cx;
use crate::export::guarded;

/// A tensor's numbers, row by row, and its shape.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The numbers.
    pub data: &'a [f32],
    /// The shape.
    pub dims: &'a [usize],
}

/// An operation with one to three inputs and one output.
///
/// It may keep what it needs from forward to backward behind a lock; the two never run at once.
pub trait CustomOp: Send + Sync + 'static {
    /// Fills `output`, which is zeros before.
    ///
    /// # Errors
    /// Inputs that the operation cannot take.
    fn forward(&self, inputs: &[View<'_>], output: &mut [f32]) -> Result<()>;

    /// Fills the gradient of each input, zeros before, from that of the output.
    ///
    /// # Errors
    /// As [`CustomOp::forward`].
    fn backward(
        &self,
        inputs: &[View<'_>],
        output: &[f32],
        gradient: &[f32],
        gradients: &mut [&mut [f32]],
    ) -> Result<()>;
}

/// An operation and the host that its errors go to.
struct Declared<O> {
    op: O,
    host: &'static Host,
}

/// The declaration of an operation for the host, which takes it over.
pub(crate) fn declare<O: CustomOp>(op: O, host: &'static Host) -> abi::Custom {
    let user = Box::into_raw(Box::new(Declared { op, host }));
    abi::Custom {
        struct_size: std::mem::size_of::<abi::Custom>() as u32,
        reserved: 0,
        user: user.cast(),
        forward: Some(forward::<O>),
        backward: Some(backward::<O>),
        drop: Some(release::<O>),
    }
}

/// # Safety
/// The host passes a buffer that lives during the call.
unsafe fn numbers<'a>(buffer: &Buffer) -> &'a mut [f32] {
    if buffer.data.is_null() {
        return &mut [];
    }
    // SAFETY: the caller's promise: so many numbers, which nobody else writes to.
    unsafe { std::slice::from_raw_parts_mut(buffer.data, buffer.len) }
}

/// # Safety
/// As [`numbers`]; others may read too.
unsafe fn read_only<'a>(buffer: &Buffer) -> &'a [f32] {
    if buffer.data.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(buffer.data, buffer.len) }
}

/// # Safety
/// As [`numbers`], for the dimensions.
unsafe fn dims<'a>(buffer: &Buffer) -> &'a [usize] {
    if buffer.dims.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(buffer.dims, buffer.rank) }
}

/// # Safety
/// As [`numbers`], for `count` buffers.
unsafe fn views<'a>(buffers: *const Buffer, count: usize) -> Vec<View<'a>> {
    // SAFETY: the caller's promise.
    let buffers = unsafe { std::slice::from_raw_parts(buffers, count) };
    // SAFETY: the caller's promise.
    let view = |buffer: &Buffer| unsafe { View { data: read_only(buffer), dims: dims(buffer) } };
    buffers.iter().map(view).collect()
}

unsafe extern "C" fn forward<O: CustomOp>(
    user: *mut c_void,
    inputs: *const Buffer,
    n_inputs: usize,
    output: *mut Buffer,
) -> Status {
    // SAFETY: `user` is what `declare` has made; the host passes buffers that live during the call.
    unsafe {
        let declared = &*user.cast::<Declared<O>>();
        guarded(Cx::from_host(declared.host), |_| declared.op.forward(&views(inputs, n_inputs), numbers(&*output)))
    }
}

unsafe extern "C" fn backward<O: CustomOp>(
    user: *mut c_void,
    inputs: *const Buffer,
    n_inputs: usize,
    output: *const Buffer,
    gradient: *const Buffer,
    gradients: *mut Buffer,
) -> Status {
    // SAFETY: as for `forward`.
    unsafe {
        let declared = &*user.cast::<Declared<O>>();
        guarded(Cx::from_host(declared.host), |_| {
            let mut gradients: Vec<&mut [f32]> =
                std::slice::from_raw_parts(gradients, n_inputs).iter().map(|buffer| numbers(buffer)).collect();
            declared.op.backward(&views(inputs, n_inputs), read_only(&*output), read_only(&*gradient), &mut gradients)
        })
    }
}

unsafe extern "C" fn release<O: CustomOp>(user: *mut c_void) {
    // SAFETY: `user` is what `declare` has made, and the host calls this once.
    let declared = unsafe { Box::from_raw(user.cast::<Declared<O>>()) };
    let host = declared.host;
    // SAFETY: the table lives as long as the process.
    guarded(unsafe { Cx::from_host(host) }, |_| {
        drop(declared);
        Ok(())
    });
}
