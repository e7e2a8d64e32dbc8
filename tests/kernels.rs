//! Every kernel, forward and backward, against its plain twin on 64-bit floats.
//!
//! The twins are the candle compositions of `tensor::ops`, the composed cross entropy, and for attention the formula row
//! by row; on 64-bit floats they are exact for this purpose, so what is measured is the kernel's own rounding, as a relative
//! Frobenius norm. Tolerances: 1e-6 for a product and what is made of one (a sum of n terms in f32 carries about
//! sqrt(n) / 2 units of 6e-8); 2e-6 where a backward subtracts means; 4e-6 for attention's backward, which has two products
//! with a softmax between them. Others are reasoned where they stand. Kernels that only multiply must agree to the bit.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor, Var};
use retune::error::Result;
use retune::kernels::attention::Attention;
use retune::kernels::dropout::{Site, TokenNumber};
use retune::kernels::{activation, linear, norm, residual};
use retune::tensor::loss::{self, CrossEntropy};
use retune::tensor::ops::{self, Activation};
use retune::tensor::rng::Rng;

/// Normal numbers, multiplied by `scale`.
fn scaled(name: &str, dims: &[usize], scale: f64) -> Tensor {
    let rng = Rng::new(7, name, 0);
    let n = dims.iter().product::<usize>() as u64;
    let values: Vec<f32> = (0..n).map(|index| (rng.normal(index) * scale) as f32).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

fn normal(name: &str, dims: &[usize]) -> Tensor {
    scaled(name, dims, 1.0)
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The norm of the difference over the norm of what is expected.
fn error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let (found, expected) = (numbers(found), numbers(expected));
    let difference = norm(&mut found.iter().zip(&expected).map(|(found, expected)| found - expected));
    if difference == 0.0 { 0.0 } else { difference / norm(&mut expected.iter().copied()) }
}

/// The value of a function, and the gradient of each input, where each element of the value counts with its own weight.
fn evaluate(inputs: &[Tensor], function: &dyn Fn(&[Tensor]) -> Result<Tensor>) -> Vec<Tensor> {
    let vars: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input).unwrap()).collect();
    let tracked: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let value = function(&tracked).unwrap();
    let weights = normal("weights of the scalar", value.dims()).to_dtype(value.dtype()).unwrap();
    let grads = (&value * weights).unwrap().sum_all().unwrap().backward().unwrap();
    let mut all = vec![value.detach()];
    for (number, var) in vars.iter().enumerate() {
        let gradient = grads.get(var.as_tensor()).unwrap_or_else(|| panic!("input {number} has no gradient"));
        all.push(gradient.clone());
    }
    all
}

/// Tolerances of the value and of the gradients.
#[derive(Clone, Copy)]
struct Tolerance(f64, f64);

type Function<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

fn compare(name: &str, inputs: &[Tensor], kernel: Function<'_>, twin: Function<'_>, tolerance: Tolerance) {
    let exact: Vec<Tensor> = inputs.iter().map(|input| input.to_dtype(DType::F64).unwrap()).collect();
    let (found, expected) = (evaluate(inputs, kernel), evaluate(&exact, twin));
    for (number, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let allowed = if number == 0 { tolerance.0 } else { tolerance.1 };
        let error = error(found, expected);
        let what = if number == 0 { "the value".into() } else { format!("the gradient of input {}", number - 1) };
        assert!(error <= allowed, "{name}: {what} is off by {error:e}, allowed is {allowed:e}");
    }
}

fn check_linear(name: &str, inputs: &[Tensor], view: fn(&[Tensor]) -> Result<[Tensor; 3]>, tolerance: Tolerance) {
    let kernel = |x: &[Tensor]| view(x).and_then(|[x, w, b]| linear::linear(&x, &w, Some(&b)));
    let twin = |x: &[Tensor]| view(x).and_then(|[x, w, b]| ops::linear(&x, &w, Some(&b)));
    compare(name, inputs, &kernel, &twin, tolerance);
}

#[test]
fn linear_is_its_twin() {
    let tolerance = Tolerance(1e-6, 1e-6);
    let plain = |x: &[Tensor]| Ok([x[0].clone(), x[1].clone(), x[2].clone()]);
    let shapes: [(&[usize], usize); 9] = [
        (&[1, 1], 1),
        (&[1, 5], 3),
        (&[3, 5], 1),
        (&[5], 2),
        (&[17, 33], 7),
        (&[2, 3, 5], 4),
        (&[130, 15], 16),
        (&[64, 384], 96),
        (&[333, 97], 201),
    ];
    for (dims, n_out) in shapes {
        let n_in = dims[dims.len() - 1];
        let rest = [normal("w", &[n_out, n_in]), normal("b", &[n_out])];
        for scale in [1.0, 1e4, 1e-15] {
            let inputs = [scaled("x", dims, scale), rest[0].clone(), rest[1].clone()];
            check_linear(&format!("{dims:?} to {n_out}, times {scale}"), &inputs, plain, tolerance);
        }
    }
    // Below 1.2e-38, f32 has fewer digits: 1e-40 is 7e4 of its smallest steps. So it is wherever 1e-4 is allowed.
    let tiny = [scaled("x", &[17, 33], 1e-40), normal("w", &[7, 33]), scaled("b", &[7], 0.0)];
    check_linear("denormal", &tiny, plain, Tolerance(1e-4, 1e-4));
    let turned = |x: &[Tensor]| Ok([x[0].t()?, x[1].t()?, x[2].clone()]);
    let inputs = [normal("x", &[33, 17]), normal("w", &[33, 7]), normal("b", &[7])];
    check_linear("transposed", &inputs, turned, tolerance);
    let cut =
        |x: &[Tensor]| Ok([x[0].narrow(1, 3, 33)?.narrow(0, 2, 9)?, x[1].narrow(1, 1, 33)?, x[2].narrow(0, 4, 7)?]);
    let inputs = [normal("x", &[17, 40]), normal("w", &[7, 35]), normal("b", &[12])];
    check_linear("narrowed", &inputs, cut, tolerance);
}

#[test]
fn layer_norm_is_its_twin() {
    let eps = 1e-12;
    let check = |name: &str, x: Tensor, view: fn(&Tensor) -> candle_core::Result<Tensor>, tolerance: Tolerance| {
        let n = view(&x).unwrap().dims().last().copied().unwrap();
        let inputs = [x, normal("w", &[n]), normal("b", &[n])];
        let kernel = |x: &[Tensor]| norm::layer_norm(&view(&x[0])?, &x[1], &x[2], eps);
        let twin = |x: &[Tensor]| ops::layer_norm(&view(&x[0])?, &x[1], &x[2], eps);
        compare(name, &inputs, &kernel, &twin, tolerance);
    };
    let same: fn(&Tensor) -> candle_core::Result<Tensor> = |x| Ok(x.clone());
    let tolerance = Tolerance(1e-6, 2e-6);
    let shapes: [&[usize]; 9] =
        [&[1, 1], &[4, 1], &[1, 3], &[7], &[3, 5], &[17, 33], &[2, 65, 16], &[130, 15], &[65, 384]];
    for dims in shapes {
        for scale in [1.0, 1e4, 1e-3] {
            check(&format!("{dims:?}, times {scale}"), scaled("x", dims, scale), same, tolerance);
        }
    }
    // Denormal values: the variance is nothing beside eps, and the gradient is that of a linear function.
    check("denormal", scaled("x", &[3, 20], 1e-40), same, Tolerance(1e-6, 1e-4));
    // The mean near 1e3 is an f32, whose half step there, 3e-5, shifts all normalised values of a row.
    check("offset", (normal("x", &[9, 40]) + 1e3).unwrap(), same, Tolerance(6e-5, 1.2e-4));
    check("transposed", normal("x", &[33, 17]), |x| x.t(), tolerance);
    check("narrowed", normal("x", &[17, 40]), |x| x.narrow(1, 5, 33)?.narrow(0, 1, 11), tolerance);
}

#[test]
fn gelu_is_its_twin() {
    let check = |name: &str, x: Tensor, view: fn(&Tensor) -> candle_core::Result<Tensor>, tolerance: Tolerance| {
        let kernel = |x: &[Tensor]| activation::activation(&view(&x[0])?, Activation::Gelu);
        // By its formula: the gradient of candle's GELU has the constant 1 / sqrt(2 pi) to six digits only.
        let twin = |x: &[Tensor]| {
            let x = view(&x[0])?;
            Ok(((((&x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)? * &x)?)
        };
        compare(name, &[x], &kernel, &twin, tolerance);
    };
    let tolerance = Tolerance(1e-6, 2e-6);
    let same: fn(&Tensor) -> candle_core::Result<Tensor> = |x| Ok(x.clone());
    for dims in [&[1][..], &[1, 1], &[15], &[16], &[17], &[3, 5], &[17, 33], &[64, 384], &[3, 5, 2000]] {
        for (scale, tolerance) in [(1.0, tolerance), (3.0, tolerance), (1e4, tolerance), (1e-40, Tolerance(1e-4, 2e-6))]
        {
            check(&format!("{dims:?}, times {scale}"), scaled("x", dims, scale), same, tolerance);
        }
    }
    check("transposed", normal("x", &[33, 17]), |x| x.t(), tolerance);
    check("narrowed", normal("x", &[17, 40]), |x| x.narrow(1, 5, 33)?.narrow(0, 1, 11), tolerance);
    // Each value alone: the distribution function carries 1.7e-7, which counts with |x|.
    let x: Vec<f32> = (-1300..=1300).map(|step| step as f32 * 0.01).chain([0.0, -0.0, 1e30, -1e30]).collect();
    let x = Tensor::new(x, &Device::Cpu).unwrap();
    let exact = numbers(&Activation::Gelu.apply(&x.to_dtype(DType::F64).unwrap()).unwrap());
    let found = numbers(&activation::activation(&x, Activation::Gelu).unwrap());
    for ((x, found), exact) in numbers(&x).iter().zip(found).zip(exact) {
        assert!((found - exact).abs() <= 2.5e-7 * x.abs().max(1.0), "gelu({x}) is {found}, but should be {exact}");
    }
}

/// A batch's rows for attention.
struct Rows {
    lengths: &'static [usize],
    key_lengths: &'static [usize],
    is_causal: bool,
}

impl Rows {
    fn starts(&self) -> Arc<[usize]> {
        let sums = self.lengths.iter().scan(0, |sum, length| {
            *sum += length;
            Some(*sum)
        });
        [0].into_iter().chain(sums).collect()
    }

    fn n_tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Attention over heads of `size`.
    fn attention(&self, n_heads: usize, size: usize, p: f64) -> Attention {
        let dropout = (p > 0.0).then(|| {
            let sites = (0..n_heads as u64).map(|head| Site::new(5, 3, 100 + head, p)).collect();
            let token = |row: usize, place: usize| TokenNumber { row: row as u32, position: place as u32 };
            let rows = self.lengths.iter().enumerate();
            (sites, rows.flat_map(|(row, &length)| (0..length).map(move |place| token(row, place))).collect())
        });
        Attention {
            starts: self.starts(),
            key_lengths: self.key_lengths.into(),
            n_heads,
            scale: 1.0 / (size as f32).sqrt(),
            is_causal: self.is_causal,
            dropout,
        }
    }
}

/// The formula, row by row and head by head.
fn plain_attention(attention: &Attention, [q, k, v]: [&Tensor; 3]) -> Result<Tensor> {
    let size = q.dim(1)? / attention.n_heads;
    let mut rows = Vec::new();
    for (row, &keys) in attention.key_lengths.iter().enumerate() {
        let (start, length) = (attention.starts[row], attention.starts[row + 1] - attention.starts[row]);
        let mut heads = Vec::new();
        for head in 0..attention.n_heads {
            let part = |x: &Tensor, n| x.narrow(0, start, n)?.narrow(1, head * size, size)?.contiguous();
            let mut scores = (part(q, length)?.matmul(&part(k, keys)?.t()?)? * f64::from(attention.scale))?;
            if attention.is_causal {
                let later =
                    (0..length * keys).map(|place| if place % keys > place / keys { f64::NEG_INFINITY } else { 0.0 });
                let later = Tensor::from_iter(later, &Device::Cpu)?.reshape((length, keys))?;
                scores = (scores + later.to_dtype(q.dtype())?)?;
            }
            let mut weights = ops::softmax(&scores, 1)?; // (length, keys)
            if let Some((sites, numbers)) = &attention.dropout {
                let mut factors = vec![0.0; length * keys];
                for (place, factors) in factors.chunks_exact_mut(keys).enumerate() {
                    sites[head].factors(numbers[start + place], factors);
                }
                let factors = Tensor::from_vec(factors, (length, keys), &Device::Cpu)?;
                weights = (weights * factors.to_dtype(q.dtype())?)?;
            }
            heads.push(weights.matmul(&part(v, keys)?)?);
        }
        rows.push(Tensor::cat(&heads, 1)?);
    }
    Ok(Tensor::cat(&rows, 0)?)
}

const RAGGED: Rows =
    Rows { lengths: &[1, 2, 15, 16, 17, 128, 512, 1], key_lengths: &[1, 2, 15, 16, 17, 128, 512, 1], is_causal: false };
const PADDED: Rows = Rows { lengths: &[5, 1, 16, 33, 17, 64], key_lengths: &[3, 1, 15, 1, 17, 40], is_causal: false };

fn check_attention(name: &str, attention: &Attention, inputs: &[Tensor], tolerance: Tolerance) {
    let kernel = |x: &[Tensor]| attention.clone().apply(&x[0], &x[1], &x[2]);
    let twin = |x: &[Tensor]| plain_attention(attention, [&x[0], &x[1], &x[2]]);
    compare(name, inputs, &kernel, &twin, tolerance);
}

#[test]
fn attention_is_its_formula() {
    let tolerance = Tolerance(1e-6, 4e-6);
    for (what, rows, n_heads, size, p) in [
        ("ragged", &RAGGED, 1, 1, 0.0),
        ("ragged", &RAGGED, 2, 7, 0.0),
        ("ragged", &RAGGED, 2, 32, 0.1),
        ("padded", &PADDED, 3, 1, 0.0),
        ("padded", &PADDED, 3, 7, 0.3),
        ("padded", &PADDED, 12, 32, 0.1),
        ("padded", &PADDED, 2, 64, 0.0),
        ("one token", &Rows { lengths: &[1], key_lengths: &[1], is_causal: false }, 2, 1, 0.5),
        ("causal", &Rows { is_causal: true, ..RAGGED }, 2, 7, 0.1),
        ("causal and padded", &Rows { is_causal: true, ..PADDED }, 3, 32, 0.0),
    ] {
        let dims = [rows.n_tokens(), n_heads * size];
        let name = format!("{what}, {n_heads} heads of {size}, dropout {p}");
        let inputs = [normal("q", &dims), normal("k", &dims), normal("v", &dims)];
        check_attention(&name, &rows.attention(n_heads, size, p), &inputs, tolerance);
    }
    // Scores up to 1e4 that f32 holds exactly (whole numbers and a scale of 1/4): nothing may overflow or lose digits.
    let dims = [PADDED.n_tokens(), 2 * 16];
    let whole = |name| (scaled(name, &dims, 25.0).round().unwrap()).detach();
    let inputs = [whole("q"), whole("k"), normal("v", &dims)];
    check_attention("large scores", &PADDED.attention(2, 16, 0.0), &inputs, tolerance);
    let alike = [scaled("q", &dims, 1e-40), normal("k", &dims), normal("v", &dims)];
    check_attention("denormal queries", &PADDED.attention(2, 16, 0.0), &alike, Tolerance(1e-6, 1e-4));
}

#[test]
fn attention_reads_views() {
    let attention = PADDED.attention(2, 7, 0.2);
    let hidden = 14;
    let views = |x: &Tensor| -> Result<[Tensor; 3]> {
        let x = x.t()?;
        Ok([x.narrow(1, 0, hidden)?, x.narrow(1, hidden, hidden)?, x.narrow(1, 2 * hidden, hidden)?])
    };
    let kernel = |x: &[Tensor]| views(&x[0]).and_then(|[q, k, v]| attention.clone().apply(&q, &k, &v));
    let twin = |x: &[Tensor]| views(&x[0]).and_then(|[q, k, v]| plain_attention(&attention, [&q, &k, &v]));
    let inputs = [normal("q, k and v", &[3 * hidden, PADDED.n_tokens()])];
    compare("columns of one transposed matrix", &inputs, &kernel, &twin, Tolerance(1e-6, 4e-6));
}

/// Keys that may not be looked at get no gradient, and what stands there does not matter.
#[test]
fn attention_ignores_padding() {
    let dims = [PADDED.n_tokens(), 6];
    let attention = PADDED.attention(2, 3, 0.0);
    let run = |filler: f32| {
        let mut inputs = [normal("q", &dims), normal("k", &dims), normal("v", &dims)];
        for input in &mut inputs[1..] {
            let mut values: Vec<Vec<f32>> = input.to_vec2().unwrap();
            for (row, &keys) in PADDED.key_lengths.iter().enumerate() {
                values[attention.starts[row] + keys..attention.starts[row + 1]].fill(vec![filler; 6]);
            }
            *input = Tensor::new(values, &Device::Cpu).unwrap();
        }
        evaluate(&inputs, &|x| attention.clone().apply(&x[0], &x[1], &x[2]))
    };
    let (ones, nans) = (run(1.0), run(f32::NAN));
    for (a, b) in ones.iter().zip(&nans) {
        assert_eq!(numbers(a), numbers(b));
    }
    for gradient in &ones[2..] {
        let rows: Vec<Vec<f32>> = gradient.to_vec2().unwrap();
        for (row, &keys) in PADDED.key_lengths.iter().enumerate() {
            for token in &rows[attention.starts[row] + keys..attention.starts[row + 1]] {
                assert!(token.iter().all(|&value| value == 0.0), "row {row}: {token:?}");
            }
        }
    }
}

#[test]
fn dropout_is_its_mask_to_the_bit() {
    for (n, width) in [(1, 1), (1, 7), (3, 5), (17, 33), (9, 8), (64, 384)] {
        let tokens: Arc<[TokenNumber]> = (0..n).map(|n| TokenNumber { row: n / 5, position: n % 5 }).collect();
        // Beyond 1 - 2^-17 the probability rounds to 1: everything is dropped.
        for p in [0.0, 0.1, 0.5, 0.999_999_9] {
            let site = Site::new(1, 2, 3, p);
            let mask = Tensor::from_vec(site.mask(&tokens, width), (n as usize, width), &Device::Cpu).unwrap();
            for x in [normal("x", &[n as usize, width]), scaled("x", &[n as usize, width], 1e30)] {
                let found = evaluate(&[x.t().unwrap().contiguous().unwrap()], &|x| {
                    residual::dropout(&x[0].t()?, site, &tokens)
                });
                let twin = evaluate(&[x.t().unwrap().contiguous().unwrap()], &|x| Ok((x[0].t()? * &mask)?));
                for (found, twin) in found.iter().zip(&twin) {
                    assert_eq!(numbers(found), numbers(twin), "({n}, {width}), p {p}");
                }
            }
        }
    }
}

#[test]
fn cross_entropy_is_its_twin() {
    for (n, classes) in [(1, 1), (1, 2), (3, 5), (17, 33), (64, 384), (5, 8000)] {
        let rng = Rng::new(1, "labels", 0);
        let labels: Vec<i64> = (0..n as u64).map(|item| (rng.uniform(item) * classes as f64) as i64).collect();
        let some: Vec<i64> = labels.iter().enumerate().map(|(i, &l)| if i % 3 == 1 { -100 } else { l }).collect();
        let weight = normal("weights", &[classes]).abs().unwrap();
        for (labels, label_smoothing, weight) in [
            (&labels, 0.0, None),
            (&some, 0.0, None),
            (&some, 0.1, None),
            (&some, 0.0, Some(weight.clone())),
            (&labels, 0.3, Some(weight.clone())),
            (&vec![-100; n], 0.1, None),
        ] {
            let settings = CrossEntropy { label_smoothing, weight, ..CrossEntropy::default() };
            let labels = Tensor::new(labels.as_slice(), &Device::Cpu).unwrap();
            for scale in [1.0, 1e4, 1e-40] {
                let function = |x: &[Tensor]| loss::cross_entropy(&x[0].t()?, &labels, &settings);
                let name = format!("({n}, {classes}), times {scale}, {settings:?}");
                // Computed in f64: what is lost is the rounding of the result, and of a gradient below 1e-38 all of it.
                let logits = [scaled("logits", &[classes, n], scale)];
                compare(&name, &logits, &function, &function, Tolerance(1e-7, 1e-7));
            }
        }
    }
}

/// Where a NaN goes in, NaN comes out, and nowhere that it could not reach.
#[test]
fn nan_stays_nan() {
    let poison = |dims: &[usize], at: usize| {
        let mut values: Vec<f32> = normal("x", dims).flatten_all().unwrap().to_vec1().unwrap();
        values[at] = f32::NAN;
        Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
    };
    // What is NaN in the value, and in the gradient of the first input.
    let check = |name: &str, inputs: &[Tensor], function: Function<'_>, value: &[usize], gradient: &[usize]| {
        for (result, expected) in evaluate(inputs, function).iter().zip([value, gradient]) {
            let nans: Vec<usize> =
                numbers(result).iter().enumerate().filter(|(_, x)| x.is_nan()).map(|(i, _)| i).collect();
            assert_eq!(nans, expected, "{name}");
        }
    };
    check("gelu", &[poison(&[3, 6], 4)], &|x| activation::activation(&x[0], Activation::Gelu), &[4], &[4]);
    let all: Vec<usize> = (18..36).collect();
    let affine = [poison(&[3, 18], 20), normal("w", &[18]), normal("b", &[18])];
    check("layer_norm", &affine, &|x| norm::layer_norm(&x[0], &x[1], &x[2], 1e-12), &all, &all);
    let product = [poison(&[3, 18], 20), normal("w", &[2, 18]), normal("b", &[2])];
    check("linear", &product, &|x| linear::linear(&x[0], &x[1], Some(&x[2])), &[2, 3], &[]);
    // Token 3 is the second of a row of tokens 2, 3 and 4; element 3 * 4 + 2 belongs to the second of two heads of 2.
    let rows = Rows { lengths: &[2, 3, 1], key_lengths: &[2, 3, 1], is_causal: false };
    let [q, k, v] = [normal("q", &[6, 4]), normal("k", &[6, 4]), normal("v", &[6, 4])];
    let apply = |x: &[Tensor]| rows.attention(2, 2, 0.0).apply(&x[0], &x[1], &x[2]);
    check("a query", &[poison(&[6, 4], 14), k.clone(), v], &apply, &[14, 15], &[14, 15]);
    let reached = [10, 11, 14, 15, 18, 19];
    check("a key", &[q.clone(), poison(&[6, 4], 14), normal("v", &[6, 4])], &apply, &reached, &reached);
    check("a value", &[q, k, poison(&[6, 4], 14)], &apply, &[10, 14, 18], &reached);
    let labels = Tensor::new(&[1i64, -100, 0], &Device::Cpu).unwrap();
    let entropy = |x: &[Tensor]| loss::cross_entropy(&x[0], &labels, &CrossEntropy::default());
    check("cross entropy", &[poison(&[3, 4], 9)], &entropy, &[0], &[8, 9, 10, 11]);
    check("cross entropy of an ignored row", &[poison(&[3, 4], 5)], &entropy, &[], &[]);
}

/// A loss of no classes at all is an error, not a panic.
#[test]
fn cross_entropy_refuses_no_classes() {
    let logits = Tensor::zeros((2, 0), DType::F32, &Device::Cpu).unwrap();
    let labels = Tensor::new(&[-100i64, -100], &Device::Cpu).unwrap();
    assert!(loss::cross_entropy(&logits, &labels, &CrossEntropy::default()).is_err());
}

/// Values and gradients of every kernel, at sizes that are shared out among threads.
fn everything() -> Vec<(String, Vec<Tensor>)> {
    let mut all = Vec::new();
    for (rows, n_in, n_out) in [(700, 384, 1536), (700, 1536, 384), (513, 384, 384), (37, 100, 3000), (1, 384, 2)] {
        let inputs = [normal("x", &[rows, n_in]), normal("w", &[n_out, n_in]), normal("b", &[n_out])];
        let results = evaluate(&inputs, &|x| linear::linear(&x[0], &x[1], Some(&x[2])));
        all.push((format!("linear of ({rows}, {n_in}) to {n_out}"), results));
    }
    let wide = normal("x", &[700, 1536]);
    let gelu = evaluate(&[wide], &|x| activation::activation(&x[0], Activation::Gelu));
    all.push(("gelu".into(), gelu));
    let inputs = [normal("x", &[700, 384]), normal("w", &[384]), normal("b", &[384])];
    let norm = evaluate(&inputs, &|x| norm::layer_norm(&x[0], &x[1], &x[2], 1e-12));
    all.push(("layer_norm".into(), norm));
    let dims = [RAGGED.n_tokens(), 64];
    let inputs = [normal("q", &dims), normal("k", &dims), normal("v", &dims)];
    let attention = evaluate(&inputs, &|x| RAGGED.attention(2, 32, 0.1).apply(&x[0], &x[1], &x[2]));
    all.push(("attention".into(), attention));
    let tokens: Arc<[TokenNumber]> = (0..700).map(|n| TokenNumber { row: n / 50, position: n % 50 }).collect();
    let site = Site::new(1, 2, 3, 0.1);
    all.push(("dropout".into(), evaluate(&inputs_of(700), &|x| residual::dropout(&x[0], site, &tokens))));
    let labels = Tensor::new((0..700i64).collect::<Vec<_>>(), &Device::Cpu).unwrap();
    let entropy = |x: &[Tensor]| loss::cross_entropy(&x[0], &labels, &CrossEntropy::default());
    all.push(("cross entropy".into(), evaluate(&inputs_of(700), &entropy)));
    all
}

fn inputs_of(rows: usize) -> [Tensor; 1] {
    [normal("x", &[rows, 1000])]
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let on = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(everything);
    let one = on(1);
    for n in [2, 3] {
        for ((name, results), (_, expected)) in on(n).iter().zip(&one) {
            for (number, (found, expected)) in results.iter().zip(expected).enumerate() {
                let bits = |x: &Tensor| -> Vec<u32> {
                    x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
                };
                assert!(bits(found) == bits(expected), "{name}: result {number} differs on {n} threads");
            }
        }
    }
    assert_eq!(one[0].1[0].dim(D::Minus1).unwrap(), 1536);
}
