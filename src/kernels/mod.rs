//! CPU kernels, the only SIMD code and the only raw memory, each beside a plain twin.
//!
//! Most files are one differentiable operation on contiguous f32 tensors: a candle custom op with its own backward. The
//! twins are the candle compositions of `tensor::ops`; they run on other devices and types, and everywhere when
//! `RETUNE_KERNELS=reference` asks for them. Work is cut by shape alone, never by the number of threads, so that the bits
//! are the same for any count.

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod dropout;
mod gemm;
pub mod linear;
pub mod math;
pub mod memory;
pub mod norm;
pub mod normal;
pub mod pages;
pub mod profile;
pub mod residual;
pub mod rows;
pub mod sums;
pub mod tiles;
pub(crate) mod vocabulary;
pub mod vocabulary_loss;

use std::sync::OnceLock;

use candle_core::{CpuStorage, DType, Layout, Storage, Tensor};

use crate::error::{Error, Result, What};
use tiles::Precision;

/// Which implementation is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Compositions of candle operations.
    Reference,
    /// The kernels of this module one by one, with matrix products of the gemm crate.
    Gemm,
    /// The fused encoder on tiles, in plain Rust: what the AMX path computes, on any machine.
    Emulated,
    /// The fused encoder on tiles, with AVX-512 and, where it is, `avx512bf16`.
    Avx512,
    /// The fused encoder on tiles, with AMX.
    Amx,
}

static PATH: OnceLock<Path> = OnceLock::new();

/// The values of `RETUNE_KERNELS`.
const PATHS: [(&str, Path); 5] = [
    ("reference", Path::Reference),
    ("emulated", Path::Emulated),
    ("gemm", Path::Gemm),
    ("avx512", Path::Avx512),
    ("amx", Path::Amx),
];

/// Reads `RETUNE_KERNELS`: `reference`, `emulated`, `gemm`, `avx512` or `amx`; absent means the fastest of this machine.
///
/// # Errors
/// Another value, or a path that this machine does not have.
pub fn path_from_env() -> Result<Path> {
    let value = std::env::var_os("RETUNE_KERNELS").unwrap_or_default();
    if value.is_empty() {
        return Ok(fastest());
    }
    let Some((name, path)) = PATHS.iter().find(|(name, _)| value.to_str() == Some(*name)) else {
        let (name, value) = ("`RETUNE_KERNELS`".into(), format!("{value:?}"));
        let allowed = "\"reference\", \"emulated\", \"gemm\", \"avx512\" or \"amx\"".into();
        let error = Error::new(What::OutOfRange { name, value, allowed });
        return Err(error.hint("it is an environment variable; without it the fastest kernels are used"));
    };
    let has_tiles = tiles::kernels_of(*path, Precision::Highest).is_some();
    if !has_tiles && !matches!(path, Path::Reference | Path::Gemm) {
        let error = Error::new(What::Unsupported(format!("`RETUNE_KERNELS={name}` on this machine")));
        return Err(error.hint("without the environment variable the fastest kernels of the machine are used"));
    }
    Ok(*path)
}

/// The fastest path of this machine.
fn fastest() -> Path {
    [Path::Amx, Path::Avx512].into_iter().find(|path| tiles::is_native(*path)).unwrap_or(Path::Gemm)
}

/// The implementation of this process: `RETUNE_KERNELS`, read once. A value that is not known counts as absent here; the
/// command line refuses it before anything runs.
pub fn path() -> Path {
    *PATH.get_or_init(|| path_from_env().unwrap_or_else(|_| fastest()))
}

/// Whether all tensors are f32 on the CPU, which is what the kernels take.
pub fn covers(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|tensor| tensor.device().is_cpu() && tensor.dtype() == DType::F32)
}

/// The contiguous values behind a layout of a custom op's input.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => candle_core::bail!("a kernel takes contiguous f32 values"),
    }
}

/// Calls `read` with the values of tensors, made contiguous where they are not.
pub(crate) fn with_values<const N: usize, T>(
    tensors: [&Tensor; N],
    read: impl FnOnce([&[f32]; N]) -> T,
) -> candle_core::Result<T> {
    let mut owned = Vec::with_capacity(N);
    for tensor in tensors {
        owned.push(tensor.contiguous()?);
    }
    let guards: Vec<_> = owned.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else { candle_core::bail!("a kernel takes tensors on the CPU") };
        *slice = values(storage, layout)?;
    }
    Ok(read(slices))
}
