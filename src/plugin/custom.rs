//! Operations of a plugin's own: its forward and backward on raw numbers, as an operation that autograd knows.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Shape, Tensor};
use retune_plugin_sdk::abi::{Buffer, Custom};

use crate::error::{Error, Result, What};
use crate::kernels::{values, with_values};
use crate::plugin::call;
use crate::plugin::crash::Site;

/// An operation that the program has taken over: it is dropped once.
pub struct Own {
    declaration: Custom,
    site: Site,
    /// The shape of the output.
    dims: Vec<usize>,
    /// What went wrong, for whoever asked for the operation.
    failure: Mutex<Option<Error>>,
}

// SAFETY: the contract: `forward` and `backward` may run on any thread, though never at once, for which autograd sees to: a graph
// is walked by one thread.
unsafe impl Send for Own {}
// SAFETY: as above.
unsafe impl Sync for Own {}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(drop) = self.declaration.drop {
            let user = self.declaration.user;
            // SAFETY: the contract: called once, with the operation's own pointer.
            let _ = call::run(self.site, None, || unsafe {
                drop(user);
                0
            });
        }
    }
}

/// Takes an operation over.
///
/// # Errors
/// A null pointer, a declaration of another size, no forward.
///
/// # Safety
/// A pointer that is not null leads to a declaration.
pub unsafe fn take_over(declaration: *const Custom) -> Result<Own> {
    let refused = |problem: &str| Err(Error::new(What::Plugin(problem.to_string())));
    if declaration.is_null() || !declaration.is_aligned() {
        return refused("the declaration of its own operation is null");
    }
    // SAFETY: the caller's promise; the size comes first in every version.
    let size = unsafe { (*declaration).struct_size } as usize;
    if size < size_of::<Custom>() {
        return refused(&format!(
            "the declaration of its own operation has {size} bytes instead of {}",
            size_of::<Custom>()
        ));
    }
    // SAFETY: the caller's promise, and there are enough bytes.
    let declaration = unsafe { *declaration };
    let own = Own { declaration, site: Site::current(), dims: Vec::new(), failure: Mutex::default() };
    if own.declaration.forward.is_none() { refused("its own operation has no forward") } else { Ok(own) }
}

/// Applies an operation to one to three tensors; its output has the shape `dims`.
///
/// # Errors
/// Another number of tensors, and what the operation raises.
pub fn apply(mut own: Own, inputs: &[Tensor], dims: &[usize]) -> Result<Tensor> {
    own.dims = dims.to_vec();
    let own = Arc::new(own);
    let prepare = |x: &Tensor| x.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.contiguous();
    let result = match inputs {
        [a] => prepare(a)?.apply_op1(Shared(own.clone())),
        [a, b] => prepare(a)?.apply_op2(&prepare(b)?, Shared(own.clone())),
        [a, b, c] => prepare(a)?.apply_op3(&prepare(b)?, &prepare(c)?, Shared(own.clone())),
        several => return Err(What::Plugin(format!("it takes one to three tensors, but got {}", several.len())).into()),
    };
    let failure = own.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (result, failure) {
        (Ok(result), None) => Ok(result.to_device(inputs[0].device())?),
        (_, Some(error)) => Err(error),
        (Err(error), None) => Err(error.into()),
    }
}

struct Shared(Arc<Own>);

fn buffer(data: *const f32, len: usize, dims: &[usize]) -> Buffer {
    Buffer { data: data.cast_mut(), dims: dims.as_ptr(), rank: dims.len(), len }
}

impl Shared {
    fn user(&self) -> *mut c_void {
        self.0.declaration.user
    }

    /// Keeps an error for whoever asked for the operation, and gives it to candle as text.
    fn failed(&self, error: Error) -> candle_core::Error {
        let text = error.to_string();
        *self.0.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        candle_core::Error::Msg(text)
    }

    fn forward(&self, inputs: &[(&[f32], &[usize])]) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut out = vec![0.0f32; self.0.dims.iter().product()];
        let buffers: Vec<Buffer> = inputs.iter().map(|(data, dims)| buffer(data.as_ptr(), data.len(), dims)).collect();
        let mut output = buffer(out.as_mut_ptr(), out.len(), &self.0.dims);
        let Some(forward) = self.0.declaration.forward else { candle_core::bail!("no forward") };
        // SAFETY: the contract; every buffer lives during the call, and the output is written by the plugin alone.
        let run = || unsafe { forward(self.user(), buffers.as_ptr(), buffers.len(), &raw mut output) };
        call::run(self.0.site, None, run).map_err(|error| self.failed(error))?;
        Ok((CpuStorage::F32(out), Shape::from(self.0.dims.as_slice())))
    }

    fn backward<const N: usize>(
        &self,
        inputs: [&Tensor; N],
        output: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<[Option<Tensor>; N]> {
        let Some(backward) = self.0.declaration.backward else {
            let problem = format!("an operation of the plugin's own has no backward ({})", self.0.site);
            return Err(candle_core::Error::Msg(problem));
        };
        let mut gradients: Vec<Vec<f32>> = inputs.iter().map(|input| vec![0.0; input.elem_count()]).collect();
        with_values(inputs, |numbers: [&[f32]; N]| {
            with_values([output, gradient], |[out, given]: [&[f32]; 2]| {
                let view = |(data, x): (&[f32], &Tensor)| buffer(data.as_ptr(), data.len(), x.dims());
                let buffers: Vec<Buffer> = numbers.into_iter().zip(inputs).map(view).collect();
                let (output, given) = (view((out, output)), view((given, gradient)));
                let targets = gradients.iter_mut().zip(inputs);
                let mut targets: Vec<Buffer> =
                    targets.map(|(data, x)| buffer(data.as_mut_ptr(), data.len(), x.dims())).collect();
                // SAFETY: the contract; every buffer lives during the call, and the gradients are written by the plugin alone.
                let run = || unsafe {
                    backward(
                        self.user(),
                        buffers.as_ptr(),
                        N,
                        &raw const output,
                        &raw const given,
                        targets.as_mut_ptr(),
                    )
                };
                call::run(self.0.site, None, run).map(drop).map_err(|error| self.failed(error))
            })
        })???;
        let mut tensors: [Option<Tensor>; N] = [const { None }; N];
        for ((tensor, gradient), input) in tensors.iter_mut().zip(gradients).zip(inputs) {
            *tensor = Some(Tensor::from_vec(gradient, input.shape(), input.device())?);
        }
        Ok(tensors)
    }
}

impl CustomOp1 for Shared {
    fn name(&self) -> &'static str {
        "plugin"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward(&[(values(a, la)?, la.dims())])
    }

    fn bwd(&self, a: &Tensor, y: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let [da] = self.backward([a], y, gradient)?;
        Ok(da)
    }
}

impl CustomOp2 for Shared {
    fn name(&self) -> &'static str {
        "plugin"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward(&[(values(a, la)?, la.dims()), (values(b, lb)?, lb.dims())])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        y: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let [da, db] = self.backward([a, b], y, gradient)?;
        Ok((da, db))
    }
}

impl CustomOp3 for Shared {
    fn name(&self) -> &'static str {
        "plugin"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
        c: &CpuStorage,
        lc: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward(&[(values(a, la)?, la.dims()), (values(b, lb)?, lb.dims()), (values(c, lc)?, lc.dims())])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        y: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [da, db, dc] = self.backward([a, b, c], y, gradient)?;
        Ok((da, db, dc))
    }
}
