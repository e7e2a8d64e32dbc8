//! Shapes: dimensions counted from either end, reshaping, picking, joining, and the product of matrices.
//!
//! What PyTorch calls an operation is what it is called here, with its rules for negative dimensions and
//! broadcasting. Everything passes gradients on; errors name the operation and the shapes.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result, What};
use crate::memory;
use crate::tensor::arithmetic::promoted;

/// A shape as people write it: `(2, 3)`.
pub fn shown(dims: &[usize]) -> String {
    format!("({})", dims.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
}

/// The dimension `dim` of `x`, where -1 is the last one.
///
/// # Errors
/// A dimension that the tensor does not have.
pub fn axis(name: &str, x: &Tensor, dim: i64) -> Result<usize> {
    position(name, x, dim, x.rank())
}

fn position(name: &str, x: &Tensor, dim: i64, n_places: usize) -> Result<usize> {
    let n = n_places as i64;
    let from_front = if dim < 0 { dim + n } else { dim };
    if (0..n).contains(&from_front) {
        return Ok(from_front as usize);
    }
    let allowed = match n {
        0 => format!("left out for a tensor of shape {}", shown(x.dims())),
        _ => format!("{} to {} for a tensor of shape {}", -n, n - 1, shown(x.dims())),
    };
    Err(What::OutOfRange { name: format!("the dimension of `{name}`"), value: dim.to_string(), allowed }.into())
}

/// An error about shapes.
pub fn conflict(text: String) -> Error {
    What::Conflict(text).into()
}

/// The shape that `a` and `b` have in common, aligned at the last dimension, where a dimension of 1 fits any.
///
/// # Errors
/// Shapes that do not fit, or a shape that no memory holds.
pub fn common_shape(name: &str, a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], place: usize| (place + dims.len()).checked_sub(rank).map_or(1, |own| dims[own]);
    let each = (0..rank).map(|place| match (at(a, place), at(b, place)) {
        (left, right) if left == right || right == 1 => Ok(left),
        (1, right) => Ok(right),
        (left, right) => Err(conflict(format!(
            "{name} of {} and {}: {left} and {right} do not fit (dimension {place} of the result)",
            shown(a),
            shown(b)
        ))),
    });
    let shape: Vec<usize> = each.collect::<Result<_>>()?;
    memory::require_tensor(&shape, size_of::<f32>())?;
    Ok(shape)
}

/// `x` repeated to `shape`, without copying; -1 keeps a dimension as it is.
///
/// # Errors
/// A shape that `x` cannot be repeated to.
pub fn expand(x: &Tensor, shape: &[i64]) -> Result<Tensor> {
    let unfit =
        || conflict(format!("expand of {} to {shape:?}: only dimensions of 1 can be repeated", shown(x.dims())));
    let Some(n_added) = shape.len().checked_sub(x.rank()) else { return Err(unfit()) };
    let mut full = Vec::with_capacity(shape.len());
    for (place, &wanted) in shape.iter().enumerate() {
        let own = place.checked_sub(n_added).map(|own| x.dims()[own]);
        full.push(match (usize::try_from(wanted), own) {
            (Ok(wanted), None | Some(1)) => wanted,
            (Ok(wanted), Some(own)) if wanted == own => wanted,
            (Err(_), Some(own)) if wanted == -1 => own,
            _ => return Err(unfit()),
        });
    }
    // Without a copy for now: what is done with it needs one.
    memory::require_tensor(&full, x.dtype().size_in_bytes())?;
    Ok(x.broadcast_as(full)?)
}

/// The same numbers in another shape; one dimension may be -1 and is then worked out.
///
/// # Errors
/// A shape with another number of elements.
pub fn reshape(x: &Tensor, shape: &[i64]) -> Result<Tensor> {
    let count = x.elem_count();
    let unfit = |why: &str| conflict(format!("reshape of {} to {shape:?}: {why}", shown(x.dims())));
    if shape.iter().any(|&dim| dim < -1) || shape.iter().filter(|&&dim| dim == -1).count() > 1 {
        return Err(unfit("one dimension may be -1, the others are counts"));
    }
    let known: usize = shape
        .iter()
        .filter(|&&dim| dim != -1)
        .try_fold(1usize, |product, &dim| product.checked_mul(dim as usize))
        .ok_or_else(|| unfit("the shape is too large"))?;
    let open = shape.contains(&-1);
    if open && (known == 0 || !count.is_multiple_of(known)) {
        return Err(unfit(&format!("{count} elements cannot be divided by {known}")));
    }
    if !open && known != count {
        return Err(unfit(&format!("the tensor has {count} elements, the shape {known}")));
    }
    let full: Vec<usize> = shape.iter().map(|&dim| if dim == -1 { count / known } else { dim as usize }).collect();
    Ok(x.reshape(full)?)
}

/// `x` without dimension `dim` where that is 1; unchanged where it is not, as in PyTorch.
///
/// # Errors
/// A dimension that does not exist.
pub fn squeeze(x: &Tensor, dim: i64) -> Result<Tensor> {
    Ok(x.squeeze(axis("squeeze", x, dim)?)?)
}

/// `x` with a dimension of 1 put in at `dim`.
///
/// # Errors
/// A place that does not exist.
pub fn unsqueeze(x: &Tensor, dim: i64) -> Result<Tensor> {
    Ok(x.unsqueeze(position("unsqueeze", x, dim, x.rank() + 1)?)?)
}

/// Two dimensions exchanged.
///
/// # Errors
/// A dimension that does not exist.
pub fn transpose(x: &Tensor, a: i64, b: i64) -> Result<Tensor> {
    Ok(x.transpose(axis("transpose", x, a)?, axis("transpose", x, b)?)?)
}

/// `len` entries of dimension `dim` from `start`; a negative start counts from the end.
///
/// # Errors
/// Entries that do not exist.
pub fn narrow(x: &Tensor, dim: i64, start: i64, len: i64) -> Result<Tensor> {
    let axis = axis("narrow", x, dim)?;
    let size = x.dims()[axis] as i64;
    let from = if start < 0 { start.saturating_add(size) } else { start };
    if from < 0 || len < 0 || from.saturating_add(len) > size {
        let shape = shown(x.dims());
        return Err(conflict(format!(
            "narrow of {shape}: {len} entries from {start} are asked for, but dimension {axis} has {size}"
        )));
    }
    Ok(x.narrow(axis, from as usize, len as usize)?)
}

/// The product of matrices: `(..., n, k)` and `(..., k, m)` to `(..., n, m)`; leading dimensions are broadcast.
///
/// # Errors
/// Tensors of fewer than two dimensions, shapes that do not fit.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let unfit = |why: String| conflict(format!("matmul of {} and {}: {why}", shown(a.dims()), shown(b.dims())));
    let (&[ref a_lead @ .., n, k], &[ref b_lead @ .., other, m]) = (a.dims(), b.dims()) else {
        return Err(unfit("both need at least two dimensions".into()));
    };
    if k != other {
        return Err(unfit(format!("the first has {k} columns, the second {other} rows")));
    }
    let lead = common_shape("matmul", a_lead, b_lead)
        .map_err(|_| unfit(format!("the leading dimensions {} and {} do not fit", shown(a_lead), shown(b_lead))))?;
    let (a, b) = promoted(a, b)?;
    let float = if a.dtype().is_int() { DType::F32 } else { a.dtype() };
    let whole = a.dtype();
    let shape_of = |rows: usize, columns: usize| lead.iter().copied().chain([rows, columns]).collect::<Vec<usize>>();
    memory::require_tensor(&shape_of(n, m), float.size_in_bytes())?;
    let full = |x: &Tensor, rows: usize, columns: usize| -> Result<Tensor> {
        let shape = shape_of(rows, columns);
        memory::require_tensor(&shape, float.size_in_bytes())?;
        Ok(x.to_dtype(float)?.broadcast_as(shape)?.contiguous()?)
    };
    Ok(full(&a, n, k)?.matmul(&full(&b, k, m)?)?.to_dtype(whole)?) // (..., n, m)
}

/// The entries of dimension `dim` that `ids` `(n)` names, in their order.
///
/// # Errors
/// Ids that are not whole numbers in one dimension, or out of range.
pub fn index_select(x: &Tensor, dim: i64, ids: &Tensor) -> Result<Tensor> {
    let axis = axis("index_select", x, dim)?;
    if ids.rank() != 1 {
        return Err(conflict(format!("index_select takes ids of (n), but got {}", shown(ids.dims()))));
    }
    let ids = checked_ids("index_select", ids, x.dims()[axis])?;
    let mut dims = x.dims().to_vec();
    dims[axis] = ids.elem_count();
    memory::require_tensor(&dims, x.dtype().size_in_bytes())?;
    Ok(x.contiguous()?.index_select(&ids, axis)?)
}

/// One entry of dimension `dim` for each of `ids`, which has the other dimensions of `x`.
///
/// # Errors
/// Ids of another shape, that are not whole numbers, or out of range.
pub fn gather(x: &Tensor, dim: i64, ids: &Tensor) -> Result<Tensor> {
    let axis = axis("gather", x, dim)?;
    let fits = ids.rank() == x.rank()
        && ids.dims().iter().zip(x.dims()).enumerate().all(|(place, (own, other))| place == axis || own == other);
    if !fits {
        return Err(conflict(format!(
            "gather of {} with ids of {}: all dimensions but {axis} must agree",
            shown(x.dims()),
            shown(ids.dims())
        )));
    }
    memory::require_tensor(ids.dims(), x.dtype().size_in_bytes())?;
    let ids = checked_ids("gather", ids, x.dims()[axis])?;
    Ok(x.contiguous()?.gather(&ids, axis)?)
}

/// Ids as an index: contiguous, u32, all less than `size`.
fn checked_ids(name: &str, ids: &Tensor, size: usize) -> Result<Tensor> {
    if !ids.dtype().is_int() {
        return Err(What::WrongType {
            name: format!("the ids of `{name}`"),
            wanted: "whole numbers".into(),
            got: dtype_name(ids.dtype()).into(),
        }
        .into());
    }
    let values: Vec<i64> = ids.to_dtype(DType::I64)?.flatten_all()?.to_vec1()?;
    if let Some(value) = values.iter().find(|&&value| value < 0 || value >= size as i64) {
        let allowed = format!("at least 0 and less than {size}");
        return Err(What::OutOfRange { name: format!("an id of `{name}`"), value: value.to_string(), allowed }.into());
    }
    Ok(ids.to_dtype(DType::U32)?.contiguous()?)
}

/// Tensors joined along dimension `dim`; the other dimensions agree.
///
/// # Errors
/// No tensors, or shapes that do not fit.
pub fn cat(tensors: &[Tensor], dim: i64) -> Result<Tensor> {
    let Some(first) = tensors.first() else { return Err(conflict("cat needs at least one tensor".into())) };
    let axis = axis("cat", first, dim)?;
    for (number, tensor) in tensors.iter().enumerate() {
        let same = |(place, (own, other)): (usize, (&usize, &usize))| place == axis || own == other;
        if tensor.rank() != first.rank() || !tensor.dims().iter().zip(first.dims()).enumerate().all(same) {
            let (shape, wanted) = (shown(tensor.dims()), shown(first.dims()));
            let problem = format!("tensor {number} is {shape}, but all dimensions except {axis} must agree");
            return Err(conflict(format!("cat of {wanted} and others: {problem}")));
        }
    }
    require_joined(tensors)?;
    Ok(Tensor::cat(&of_one_type(tensors)?, axis)?)
}

/// Tensors of one shape put side by side along a new dimension `dim`.
///
/// # Errors
/// No tensors, or shapes that differ.
pub fn stack(tensors: &[Tensor], dim: i64) -> Result<Tensor> {
    let Some(first) = tensors.first() else { return Err(conflict("stack needs at least one tensor".into())) };
    let axis = position("stack", first, dim, first.rank() + 1)?;
    if let Some(number) = tensors.iter().position(|tensor| tensor.dims() != first.dims()) {
        let (shape, wanted) = (shown(tensors[number].dims()), shown(first.dims()));
        return Err(conflict(format!("stack of {wanted} and others: tensor {number} is {shape}")));
    }
    require_joined(tensors)?;
    Ok(Tensor::stack(&of_one_type(tensors)?, axis)?)
}

fn require_joined(tensors: &[Tensor]) -> Result<()> {
    let bytes = tensors.iter().map(|tensor| tensor.elem_count() as u128 * tensor.dtype().size_in_bytes() as u128);
    memory::require(bytes.sum(), || format!("a tensor of {} others", tensors.len()))
}

fn of_one_type(tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    let mut example = tensors[0].flatten_all()?.narrow(0, 0, 0)?;
    for tensor in tensors {
        example = promoted(&example, &tensor.flatten_all()?.narrow(0, 0, 0)?)?.0;
    }
    tensors.iter().map(|tensor| Ok(tensor.to_dtype(example.dtype())?.contiguous()?)).collect()
}

/// A type's name in PyTorch's words.
pub fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F64 => "float64",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        DType::U8 => "uint8",
        DType::U32 => "uint32",
        DType::I16 => "int16",
        DType::I32 => "int32",
        DType::I64 => "int64",
        other => other.as_str(),
    }
}
