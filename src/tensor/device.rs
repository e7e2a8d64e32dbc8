//! Where tensors live: the processor, or a GPU that this build knows.
//!
//! A name from `--device` flows in, an open device flows out. `auto` takes a GPU where the build has one and it works.

use candle_core::Device;

use crate::error::{Error, Result, What};

/// The names that [`open`] knows.
pub const NAMES: &[&str] = &["auto", "cpu", "cuda", "metal"];

/// Opens the device `name`: one of [`NAMES`].
///
/// # Errors
/// A device that was asked for and is not in this build or does not work; the hint is the build command or the driver's message.
pub fn open(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "cuda" => gpu("cuda", cfg!(feature = "cuda"), || Device::new_cuda(0)),
        "metal" => gpu("metal", cfg!(feature = "metal"), || Device::new_metal(0)),
        "auto" => Ok(open("cuda").or_else(|_| open("metal")).unwrap_or(Device::Cpu)),
        other => {
            let allowed = NAMES.join(", ");
            Err(What::OutOfRange { name: "the device".into(), value: format!("`{other}`"), allowed }.into())
        }
    }
}

fn gpu(name: &str, compiled_in: bool, new: impl FnOnce() -> candle_core::Result<Device>) -> Result<Device> {
    let missing = Error::new(What::Device(name.into()));
    if !compiled_in {
        return Err(
            missing.hint(format!("build it in with `cargo build --release --features {name}`, or use `--device cpu`"))
        );
    }
    new().map_err(|error| missing.hint(format!("the driver says: {error}; `--device cpu` works everywhere")))
}
