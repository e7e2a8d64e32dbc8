//! `Tensor`: making one, looking at it, and its operators.
//!
//! The tensor is candle's. Names and rules are PyTorch's; negative dimensions count from the end. Element by element
//! functions and reductions are in `tensor_math`, shapes and picking in `tensor_shape`, losses in `tensor_loss`.

#![expect(clippy::unwrap_used, reason = "in what `export_module` generates")]

use candle_core::{DType, Device, Tensor};
use rhai::plugin::*;
use rhai::{Array, FuncRegistration, INT, Map, Module};

use crate::api::options::Options;
use crate::api::session::Session;
use crate::error::{Error, Result, What};
use crate::head::script::convert::{ScriptResult, raise, raise_in, tensor_to_value, to_dynamic, type_name};
use crate::kernels::normal;
use crate::memory;
use crate::tensor::arithmetic::{Arithmetic, Operand, arithmetic};
use crate::tensor::rng::Rng;
use crate::tensor::shape::{self, conflict, dtype_name, shown};

/// Makes the type, its namespace and its operators known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_type_with_name::<Tensor>("Tensor");
    engine.register_static_module("Tensor", exported_module!(constructors).into());
    engine.register_global_module(exported_module!(looks).into());
    let mut operators = Module::new();
    for (sign, op, summary, example) in OPERATORS {
        register_operator(
            &mut operators,
            sign,
            op,
            &format!("/// {summary}\n///\n/// ```rhai\n/// {example}\n/// ```"),
        );
    }
    engine.register_global_module(operators.into());
    super::tensor_math::register(engine);
    super::tensor_shape::register(engine);
    super::tensor_loss::register(engine);
}

const OPERATORS: [(&str, Arithmetic, &str, &str); 4] = [
    (
        "+",
        Arithmetic::Add,
        "The sum, element by element; dimensions of 1 are repeated to fit.",
        "expect((Tensor::from_array([1, 2]) + 0.5).to_array() == [1.5, 2.5], \"a number fits every shape\");",
    ),
    (
        "-",
        Arithmetic::Sub,
        "The difference, element by element; dimensions of 1 are repeated to fit.",
        "expect((1 - Tensor::from_array([1, 2])).to_array() == [0, -1], \"whole numbers stay whole\");",
    ),
    (
        "*",
        Arithmetic::Mul,
        "The product, element by element (`matmul` is the one of matrices); dimensions of 1 are repeated to fit.",
        "let x = Tensor::ones([2, 3]) * Tensor::from_array([[2.0], [3.0]]); expect(x.to_array()[1] == [3.0, 3.0, 3.0], \"each row by its factor\");",
    ),
    (
        "/",
        Arithmetic::Div,
        "The quotient, element by element, of floats; dimensions of 1 are repeated to fit.",
        "expect((Tensor::from_array([1, 2]) / 2).to_array() == [0.5, 1.0], \"a quotient is a float\");",
    ),
];

/// Registers one operator for every pair of tensors and numbers.
fn register_operator(module: &mut Module, sign: &str, op: Arithmetic, documentation: &str) {
    fn compute(op: Arithmetic, a: impl Into<Operand>, b: impl Into<Operand>) -> ScriptResult<Tensor> {
        arithmetic(op, &a.into(), &b.into()).map_err(raise)
    }
    macro_rules! overload {
        ($($left:ty, $right:ty, $names:expr;)*) => {$(
            FuncRegistration::new(sign)
                .in_global_namespace()
                .with_params_info($names)
                .with_comments([documentation])
                .set_into_module(module, move |a: $left, b: $right| compute(op, a, b));
        )*};
    }
    overload! {
        Tensor, Tensor, ["a: Tensor", "b: Tensor", "Tensor"];
        Tensor, f64, ["a: Tensor", "b: float", "Tensor"];
        Tensor, INT, ["a: Tensor", "b: int", "Tensor"];
        f64, Tensor, ["a: float", "b: Tensor", "Tensor"];
        INT, Tensor, ["a: int", "b: Tensor", "Tensor"];
    }
}

#[export_module]
mod constructors {
    /// A tensor of an array of numbers, nested to any depth: integers and bools give whole numbers, any float gives 32-bit floats.
    ///
    /// ```rhai
    /// let x = Tensor::from_array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
    /// expect(x.shape == [2, 3] && x.dtype == "float32", "two rows of three");
    /// expect(Tensor::from_array([1, 2]).is_int, "whole numbers");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn from_array(context: NativeCallContext, values: Array) -> ScriptResult<Tensor> {
        super::nested(&values, Session::of(&context).device()).map_err(raise_in(&context))
    }

    /// A tensor of zeros.
    ///
    /// ```rhai
    /// expect(Tensor::zeros([2, 2]).to_array() == [[0.0, 0.0], [0.0, 0.0]], "zeros");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn zeros(context: NativeCallContext, shape: Array) -> ScriptResult<Tensor> {
        super::filled(&context, &shape, 0.0).map_err(raise_in(&context))
    }

    /// A tensor of ones.
    ///
    /// ```rhai
    /// expect(Tensor::ones([3]).sum().item() == 3.0, "three ones");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn ones(context: NativeCallContext, shape: Array) -> ScriptResult<Tensor> {
        super::filled(&context, &shape, 1.0).map_err(raise_in(&context))
    }

    /// A tensor of one number, as 32-bit floats (whole numbers for an integer).
    ///
    /// ```rhai
    /// expect(Tensor::full([2], 0.5).to_array() == [0.5, 0.5], "the same number twice");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn full(context: NativeCallContext, shape: Array, value: Dynamic) -> ScriptResult<Tensor> {
        let filled =
            super::filled(&context, &shape, super::number("the value of `full`", &value).map_err(raise_in(&context))?);
        let filled = filled.map_err(raise_in(&context))?;
        if value.is_int() {
            filled.to_dtype(DType::I64).map_err(|error| raise_in(&context)(error.into()))
        } else {
            Ok(filled)
        }
    }

    /// Standard normal numbers, which depend on the seed alone: `#{ seed: 42 }`, by default that of the run.
    ///
    /// ```rhai
    /// let x = Tensor::randn([2, 3], #{ seed: 7 });
    /// expect(x.to_array() == Tensor::randn([2, 3], #{ seed: 7 }).to_array(), "the same seed, the same numbers");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn randn(context: NativeCallContext, shape: Array, options: Map) -> ScriptResult<Tensor> {
        super::randn(&context, &shape, options).map_err(raise_in(&context))
    }

    /// Standard normal numbers from the seed of the run.
    ///
    /// ```rhai
    /// expect(Tensor::randn([4]).shape == [4], "four numbers");
    /// ```
    #[rhai_fn(name = "randn", return_raw)]
    pub fn randn_by_run(context: NativeCallContext, shape: Array) -> ScriptResult<Tensor> {
        super::randn(&context, &shape, Map::new()).map_err(raise_in(&context))
    }

    /// The whole numbers from 0 to `n - 1`.
    ///
    /// ```rhai
    /// expect(Tensor::arange(3).to_array() == [0, 1, 2], "counted from 0");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn arange(context: NativeCallContext, n: INT) -> ScriptResult<Tensor> {
        let n = super::sizes("arange", &[Dynamic::from(n)]).map_err(raise_in(&context))?[0] as i64;
        Tensor::arange(0i64, n, Session::of(&context).device()).map_err(|error| raise_in(&context)(error.into()))
    }

    /// Tensors joined along a dimension that exists.
    ///
    /// ```rhai
    /// let x = Tensor::cat([Tensor::ones([1, 2]), Tensor::zeros([2, 2])], 0);
    /// expect(x.shape == [3, 2], "three rows");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn cat(context: NativeCallContext, tensors: Array, dim: INT) -> ScriptResult<Tensor> {
        super::tensors("cat", &tensors).and_then(|tensors| shape::cat(&tensors, dim)).map_err(raise_in(&context))
    }

    /// Tensors of one shape put side by side along a new dimension.
    ///
    /// ```rhai
    /// let x = Tensor::stack([Tensor::ones([3]), Tensor::zeros([3])], 0);
    /// expect(x.shape == [2, 3], "two rows");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn stack(context: NativeCallContext, tensors: Array, dim: INT) -> ScriptResult<Tensor> {
        super::tensors("stack", &tensors).and_then(|tensors| shape::stack(&tensors, dim)).map_err(raise_in(&context))
    }
}

#[export_module]
mod looks {
    /// The size of each dimension.
    ///
    /// ```rhai
    /// expect(Tensor::zeros([2, 3]).shape == [2, 3], "two by three");
    /// ```
    #[rhai_fn(get = "shape", pure)]
    pub fn shape(x: &mut Tensor) -> Array {
        x.dims().iter().map(|&size| Dynamic::from(size as INT)).collect()
    }

    /// The number of dimensions; a scalar has 0.
    ///
    /// ```rhai
    /// expect(Tensor::zeros([2, 3]).rank == 2, "two dimensions");
    /// ```
    #[rhai_fn(get = "rank", pure)]
    pub fn rank(x: &mut Tensor) -> INT {
        x.rank() as INT
    }

    /// The type of the elements in PyTorch's words: `"float32"`, `"int64"`, ...
    ///
    /// ```rhai
    /// expect(Tensor::zeros([2]).dtype == "float32", "floats of 32 bits");
    /// ```
    #[rhai_fn(get = "dtype", pure)]
    pub fn dtype(x: &mut Tensor) -> String {
        dtype_name(x.dtype()).into()
    }

    /// Whether the elements are whole numbers, as class labels are.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([0, 1]).is_int && !Tensor::zeros([2]).is_int, "labels are, scores are not");
    /// ```
    #[rhai_fn(get = "is_int", pure)]
    pub fn is_int(x: &mut Tensor) -> bool {
        x.dtype().is_int()
    }

    /// The size of the first dimension, as Python's `len` gives it.
    ///
    /// ```rhai
    /// expect(Tensor::zeros([2, 3]).len == 2, "two rows");
    /// ```
    #[rhai_fn(get = "len", return_raw, pure)]
    pub fn len(x: &mut Tensor) -> ScriptResult<INT> {
        let first = x.dims().first().map(|&size| size as INT);
        first.ok_or_else(|| raise(conflict("a scalar has no `len`".into())))
    }

    /// The size of the first dimension, as Python's `len` gives it.
    ///
    /// ```rhai
    /// expect(Tensor::zeros([2, 3]).len() == 2, "two rows");
    /// ```
    #[rhai_fn(name = "len", return_raw, pure)]
    pub fn len_call(x: &mut Tensor) -> ScriptResult<INT> {
        len(x)
    }

    /// The number of elements.
    ///
    /// ```rhai
    /// expect(Tensor::zeros([2, 3]).elem_count == 6, "two times three");
    /// ```
    #[rhai_fn(get = "elem_count", pure)]
    pub fn elem_count(x: &mut Tensor) -> INT {
        x.elem_count() as INT
    }

    /// One entry of the first dimension; -1 is the last one.
    ///
    /// ```rhai
    /// let x = Tensor::from_array([[1, 2], [3, 4]]);
    /// expect(x[1].to_array() == [3, 4], "the second row");
    /// ```
    #[rhai_fn(index_get, return_raw, pure)]
    pub fn entry(x: &mut Tensor, index: INT) -> ScriptResult<Tensor> {
        let Some(&size) = x.dims().first() else {
            return Err(raise(conflict("a scalar has no entries: `item()` gives its number".into())));
        };
        let place = if index < 0 { index.saturating_add(size as INT) } else { index };
        if place < 0 || place >= size as INT {
            let allowed = format!("less than {size}, the size of the first dimension");
            return Err(raise(What::OutOfRange { name: "the index".into(), value: index.to_string(), allowed }.into()));
        }
        x.get(place as usize).map_err(|error| raise(error.into()))
    }

    /// The numbers as nested arrays; a scalar gives a number.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([[1, 2], [3, 4]]).to_array() == [[1, 2], [3, 4]], "as it was");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn to_array(x: &mut Tensor) -> ScriptResult<Dynamic> {
        tensor_to_value(x).map(|value| to_dynamic(&value)).map_err(raise)
    }

    /// The number of a tensor that has exactly one.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([2.0, 4.0]).mean().item() == 3.0, "a mean is one number");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn item(x: &mut Tensor) -> ScriptResult<Dynamic> {
        super::item(x).map_err(raise)
    }

    /// The numbers as text, abbreviated where there are many.
    ///
    /// ```rhai
    /// expect(Tensor::from_array([1.5]).sum().to_string() == "1.5", "a scalar is shown as its number");
    /// print(Tensor::zeros([2, 3]));
    /// ```
    #[rhai_fn(name = "to_string", name = "to_debug", pure)]
    pub fn to_string(x: &mut Tensor) -> String {
        match super::item(x) {
            Ok(number) if x.rank() == 0 => number.to_string(),
            _ => x.to_string(),
        }
    }
}

fn item(x: &Tensor) -> Result<Dynamic> {
    if x.elem_count() != 1 {
        let (shape, n) = (shown(x.dims()), x.elem_count());
        return Err(conflict(format!("`item()` of {shape}: the tensor has {n} elements instead of one"))
            .hint("`to_array()` gives all of them"));
    }
    Ok(to_dynamic(&tensor_to_value(&x.reshape(())?)?))
}

/// A number of a script, of either kind.
pub(super) fn number(name: &str, value: &Dynamic) -> Result<f64> {
    value
        .as_float()
        .or_else(|_| value.as_int().map(|number| number as f64))
        .map_err(|_| What::WrongType { name: name.into(), wanted: "a number".into(), got: type_name(value) }.into())
}

/// A tensor or a number of a script.
pub(super) fn operand(name: &str, value: &Dynamic) -> Result<Operand> {
    if let Some(tensor) = value.read_lock::<Tensor>() {
        return Ok(Operand::Tensor(tensor.clone()));
    }
    if let Ok(whole) = value.as_int() {
        return Ok(Operand::Int(whole));
    }
    value.as_float().map(Operand::Float).map_err(|_| {
        What::WrongType { name: name.into(), wanted: "a Tensor or a number".into(), got: type_name(value) }.into()
    })
}

/// An array of whole numbers, for example a shape with a -1 in it.
pub(super) fn whole_numbers(name: &str, values: &[Dynamic]) -> Result<Vec<i64>> {
    let each = values.iter().map(|value| {
        let wrong = || What::WrongType {
            name: format!("the shape of `{name}`"),
            wanted: "an array of integers".into(),
            got: format!("an array with {}", type_name(value)),
        };
        value.as_int().map_err(|_| Error::new(wrong()))
    });
    each.collect()
}

/// A shape without open dimensions.
pub(super) fn sizes(name: &str, values: &[Dynamic]) -> Result<Vec<usize>> {
    let sizes: Vec<usize> = whole_numbers(name, values)?
        .into_iter()
        .map(|size| {
            let (name, allowed) = (format!("a size for `{name}`"), "at least 0".into());
            usize::try_from(size).map_err(|_| What::OutOfRange { name, value: size.to_string(), allowed }.into())
        })
        .collect::<Result<_>>()?;
    // Far beyond any memory, and far below an overflow of the size in bytes.
    let count = sizes.iter().try_fold(1usize, |count, &size| count.checked_mul(size)).filter(|&count| count < 1 << 40);
    if count.is_none() {
        return Err(conflict(format!("`{name}` of {}: that is too large", shown(&sizes))));
    }
    memory::require_tensor(&sizes, size_of::<f64>())?;
    Ok(sizes)
}

fn tensors(name: &str, values: &[Dynamic]) -> Result<Vec<Tensor>> {
    let each = values.iter().enumerate().map(|(index, value)| match value.read_lock::<Tensor>() {
        Some(tensor) => Ok(tensor.clone()),
        None => {
            let (name, got) = (format!("element {index} of `{name}`"), type_name(value));
            Err(What::WrongType { name, wanted: "a Tensor".into(), got }.into())
        }
    });
    each.collect()
}

fn filled(context: &NativeCallContext, shape: &[Dynamic], value: f64) -> Result<Tensor> {
    let device = Session::of(context).device().clone();
    Ok(Tensor::full(value, sizes("the tensor", shape)?, &device)?.to_dtype(DType::F32)?.contiguous()?)
}

fn randn(context: &NativeCallContext, shape: &[Dynamic], options: Map) -> Result<Tensor> {
    let session = Session::of(context);
    let mut options = Options::new("`Tensor::randn`", options);
    let seed = options.count("seed", 0)?.map_or_else(|| session.seed(), |seed| seed as u64);
    options.finish()?;
    let shape = sizes("randn", shape)?;
    let rng = Rng::new(seed, "randn", 0);
    let mut values = vec![0.0; shape.iter().product()];
    normal::fill(&rng, 1.0, &mut values);
    Ok(Tensor::from_vec(values, shape, session.device())?)
}

/// The numbers of a nested array while they are read.
struct Nested {
    shape: Vec<usize>,
    values: Vec<f64>,
    whole: Vec<i64>,
    is_whole: bool,
}

fn nested(values: &Array, device: &Device) -> Result<Tensor> {
    let mut shape = vec![values.len()];
    let mut first = values.first().cloned();
    while let Some(inner) = first.as_ref().and_then(|value| value.as_array_ref().ok().map(|inner| inner.clone())) {
        shape.push(inner.len());
        first = inner.first().cloned();
    }
    let mut numbers = Nested { shape, values: Vec::new(), whole: Vec::new(), is_whole: first.is_some() };
    read(values, 0, &mut Vec::new(), &mut numbers)?;
    let Nested { shape, values, whole, is_whole } = numbers;
    if is_whole {
        return Ok(Tensor::from_vec(whole, shape, device)?);
    }
    Ok(Tensor::from_vec(values.into_iter().map(|value| value as f32).collect::<Vec<_>>(), shape, device)?)
}

fn read(values: &Array, depth: usize, path: &mut Vec<usize>, numbers: &mut Nested) -> Result<()> {
    let place = |path: &[usize]| path.iter().map(|index| format!("[{index}]")).collect::<String>();
    if values.len() != numbers.shape[depth] {
        let (wanted, got) = (numbers.shape[depth], values.len());
        let problem = format!("the array is ragged: {} has {got} entries, those before it have {wanted}", place(path));
        return Err(conflict(problem));
    }
    for (index, value) in values.iter().enumerate() {
        path.push(index);
        let innermost = depth + 1 == numbers.shape.len();
        if let Ok(inner) = value.as_array_ref() {
            if innermost {
                return Err(conflict(format!("the array is ragged: {} is an array beside numbers", place(path))));
            }
            read(&inner, depth + 1, path, numbers)?;
        } else if !innermost {
            return Err(conflict(format!(
                "the array is ragged: {} is {} beside arrays",
                place(path),
                type_name(value)
            )));
        } else if let Ok(whole) = value.as_int().or_else(|_| value.as_bool().map(i64::from)) {
            numbers.whole.push(whole);
            numbers.values.push(whole as f64);
        } else {
            let float = value.as_float().map_err(|_| {
                let (name, got) = (format!("{} of the array", place(path)), type_name(value));
                let error = Error::new(What::WrongType { name, wanted: "a number".into(), got });
                if value.is::<Tensor>() { error.hint("`Tensor::stack(array, 0)` joins tensors") } else { error }
            })?;
            numbers.is_whole = false;
            numbers.values.push(float);
        }
        path.pop();
    }
    Ok(())
}
