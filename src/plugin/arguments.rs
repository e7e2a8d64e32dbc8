//! What a plugin passes, checked before it is used: pointers with lengths, text, shapes.
//!
//! A pointer that is not null but leads nowhere cannot be told from a right one; everything else is refused with its name.

use crate::error::{Result, What};
use retune_plugin_sdk::abi::Str;

/// The largest number of dimensions.
pub const MAX_RANK: usize = 8;

fn refused<T>(problem: String) -> Result<T> {
    Err(What::Plugin(problem).into())
}

/// `len` values from `pointer`.
///
/// # Errors
/// A null or misaligned pointer, a length that no memory has.
///
/// # Safety
/// A pointer that is not null leads to so many values, which live and stay as they are for `'a`.
pub unsafe fn slice<'a, T>(name: &str, pointer: *const T, len: usize) -> Result<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return refused(format!("`{name}` is null, but has {len} entries"));
    }
    if !pointer.is_aligned() {
        return refused(format!("`{name}` is not aligned"));
    }
    if len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return refused(format!("`{name}` has {len} entries, more than fit into memory"));
    }
    // SAFETY: the caller's promise, after the checks above.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// Room for `len` values behind `pointer`.
///
/// # Errors
/// As [`slice`].
///
/// # Safety
/// As [`slice`], and nobody else reads or writes them for `'a`.
pub unsafe fn room<'a, T>(name: &str, pointer: *mut T, len: usize) -> Result<&'a mut [T]> {
    // SAFETY: the caller's promise; the checked slice is not kept.
    unsafe { slice(name, pointer.cast_const(), len)? };
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: the caller's promise, after the checks of `slice`.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, len) })
}

/// Bytes.
///
/// # Errors
/// As [`slice`].
///
/// # Safety
/// As [`slice`].
pub unsafe fn bytes<'a>(name: &str, text: Str) -> Result<&'a [u8]> {
    // SAFETY: the caller's promise.
    unsafe { slice(name, text.ptr, text.len) }
}

/// Text.
///
/// # Errors
/// As [`slice`], and bytes that are not UTF-8.
///
/// # Safety
/// As [`slice`].
pub unsafe fn text<'a>(name: &str, text: Str) -> Result<&'a str> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { bytes(name, text)? };
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => refused(format!("`{name}` is not UTF-8 text (byte {})", error.valid_up_to())),
    }
}

/// The dimensions of a tensor, and the number of its elements.
///
/// # Errors
/// As [`slice`]; too many dimensions, more elements than memory has.
///
/// # Safety
/// As [`slice`].
pub unsafe fn dims<'a>(dims: *const usize, rank: usize) -> Result<(&'a [usize], usize)> {
    if rank > MAX_RANK {
        return refused(format!("a tensor has at most {MAX_RANK} dimensions, but {rank} are asked for"));
    }
    // SAFETY: the caller's promise.
    let dims = unsafe { slice("dims", dims, rank)? };
    let count = dims.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
    match count.filter(|count| count.checked_mul(size_of::<i64>()).is_some_and(|bytes| bytes <= isize::MAX as usize)) {
        Some(count) => Ok((dims, count)),
        None => refused(format!("a tensor of shape {dims:?} has more elements than fit into memory")),
    }
}
