//! The losses against numbers worked out independently, and at the extremes of their inputs.
//!
//! The expected values come from a Python script on 64-bit floats that writes out PyTorch's documented formulas with `math`
//! alone: cross entropy as `sum(w[y] (lse(x) - x[y])) / sum(w[y])`, smoothed as `(1 - e) nll + e / C sum(w[c] (lse(x) - x[c]))
//! / sum(w[y])`; bce as `max(x, 0) - x t + log1p(exp(-|x|))`.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use candle_core::{DType, Device, Tensor, Var};
use indexmap::IndexMap;
use retune::batch::{Batch, Features};
use retune::data::Value;
use retune::error::{Place, Result};
use retune::head::spans::span_loss;
use retune::kernels::linear::linear;
use retune::kernels::vocabulary_loss;
use retune::tensor::loss::{CrossEntropy, bce_with_logits, cross_entropy, mse};
use retune::tensor::ops;

/// Agreement of 32-bit results with 64-bit references.
fn close(name: &str, found: f32, expected: f64) {
    assert!((f64::from(found) - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{name}: {found} not {expected}");
}

fn scalar(loss: Result<Tensor>) -> f32 {
    loss.unwrap().to_scalar().unwrap()
}

fn logits() -> Tensor {
    let rows = [[1.5f32, -0.5, 0.25], [0.0, 2.0, -1.0], [-3.0, 0.5, 0.75], [0.1, 0.2, 0.3]];
    Tensor::new(&rows, &Device::Cpu).unwrap()
}

fn labels(values: &[i64]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

#[test]
fn cross_entropy_has_pytorchs_values() {
    let weight = Tensor::new(&[0.5f32, 2.0, 1.25], &Device::Cpu).unwrap();
    let cases = [
        ([0, 1, 2, 1], -100, 0.0, false, 0.553203659816),
        ([0, -100, 2, -100], -100, 0.0, false, 0.470512885739),
        ([0, 1, 2, 1], -100, 0.1, false, 0.655286993149),
        ([0, -100, 2, 1], -100, 0.1, false, 0.761545095458),
        ([0, 1, 2, 1], -100, 0.0, true, 0.601025400360),
        ([0, 1, -1, 1], -1, 0.2, true, 0.725350692639),
        ([2, 0, 0, 2], 0, 0.0, false, 1.301947356016),
    ];
    for (targets, ignore_index, label_smoothing, weighted, expected) in cases {
        let weight = weighted.then(|| weight.clone());
        let settings = CrossEntropy { ignore_index, label_smoothing, weight };
        let name = format!("{targets:?} {settings:?}");
        close(&name, scalar(cross_entropy(&logits(), &labels(&targets), &settings)), expected);
    }
}

#[test]
fn the_other_losses_have_pytorchs_values() {
    let x = Tensor::new(&[1.5f32, -0.5, 0.25, 30.0, -30.0, 0.0], &Device::Cpu).unwrap();
    let t = Tensor::new(&[1.0f32, 0.0, 0.3, 0.0, 1.0, 0.5], &Device::Cpu).unwrap();
    close("bce", scalar(bce_with_logits(&x, &t)), 10.353262810434);
    // By hand: (0.5^2 + 2^2 + 1^2) / 3.
    let (a, b) = (Tensor::new(&[1.5f32, 2.0, -1.0], &Device::Cpu).unwrap(), labels(&[1, 4, 0]));
    close("mse", scalar(mse(&a, &b)), 1.75);
}

#[test]
fn with_all_labels_ignored_the_loss_and_its_gradient_are_zero() {
    let x = Var::from_tensor(&logits()).unwrap();
    for label_smoothing in [0.0, 0.1] {
        let settings = CrossEntropy { label_smoothing, ..CrossEntropy::default() };
        let loss = cross_entropy(&x, &labels(&[-100; 4]), &settings).unwrap();
        assert_eq!(loss.to_scalar::<f32>().unwrap(), 0.0);
        // A parameter that takes part gets a gradient, of zeros.
        let grads = loss.backward().unwrap();
        let gradient = grads.get(&x).expect("a gradient of zeros, not none");
        assert!(gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|&g| g == 0.0));
    }
}

#[test]
fn extreme_logits_stay_finite() {
    let x = Tensor::new(&[[1e4f32, -1e4, 0.0], [-1e4, -1e4, -1e4]], &Device::Cpu).unwrap();
    let softmax: Vec<Vec<f32>> = ops::softmax(&x, 1).unwrap().to_vec2().unwrap();
    assert_eq!(softmax[0], [1.0, 0.0, 0.0]);
    softmax[1].iter().for_each(|&p| close("equal scores", p, 1.0 / 3.0));
    let log: Vec<Vec<f32>> = ops::log_softmax(&x, 1).unwrap().to_vec2().unwrap();
    assert_eq!(log[0], [0.0, -2e4, -1e4]);
    close(
        "wrong and certain",
        scalar(cross_entropy(&x, &labels(&[1, 0]), &CrossEntropy::default())),
        (2e4 + 3f64.ln()) / 2.0,
    );
    let var = Var::from_tensor(&x).unwrap();
    let targets = Tensor::new(&[[0.0f32, 1.0, 1.0], [0.0, 1.0, 1.0]], &Device::Cpu).unwrap();
    let loss = bce_with_logits(&var, &targets).unwrap();
    close("bce", loss.to_scalar().unwrap(), (1e4 + 1e4 + 2f64.ln() + 2e4) / 6.0);
    let gradient = loss.backward().unwrap().remove(&var).unwrap();
    assert!(gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|g| g.is_finite()));
    let ends = Tensor::new(&[-1e4f32, 1e4], &Device::Cpu).unwrap();
    assert_eq!(ops::sigmoid(&ends).unwrap().to_vec1::<f32>().unwrap(), [0.0, 1.0]);
}

#[test]
fn span_loss_is_over_each_rows_own_tokens() {
    let row = |length: usize| {
        let ids = Value::List((0..length).map(|id| Value::Int(id as i64)).collect());
        Features::from_row(&IndexMap::from([("input_ids".to_string(), ids)])).unwrap()
    };
    let (short, long) = (row(2), row(3));
    let batch = Batch::pack(&[(7, &short), (8, &long)], &Device::Cpu).unwrap();
    let scores = Tensor::new(&[0.5f32, -1.0, 2.0, 0.0, -0.5], &Device::Cpu).unwrap();
    for (positions, expected) in
        [([1, 0], 0.949073687451), ([2, 0], 0.196734096920), ([-1, 0], 0.196734096920), ([5, 3], 0.0)]
    {
        close(&format!("{positions:?}"), scalar(span_loss(&scores, &labels(&positions), &batch)), expected);
    }
}

#[test]
fn a_label_out_of_range_names_its_item() {
    let error = cross_entropy(&logits(), &labels(&[0, 1, 3, 0]), &CrossEntropy::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a label is 3, but must be 0 to 2 (3 classes) or -100 (ignored) (item 2 of the batch)"
    );
    assert_eq!(error.places(), [Place::Item(2)]);
}

/// The loss of a layer with a vocabulary's number of outputs goes on from the layer: loss and gradients are those of single
/// operations, whatever the labels that do not count and the smoothing, and when the scores are used elsewhere too.
#[test]
fn the_loss_of_a_layer_is_that_of_its_scores() {
    let (n, n_in, n_out) = (37, 24, 1500);
    let numbers = |n: usize, scale: f32| -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 % 1009) as f32 / 1009.0 - 0.5) * scale).collect()
    };
    let variable = |values: Vec<f32>, dims: &[usize]| Var::from_vec(values, dims, &Device::Cpu).unwrap();
    let x = variable(numbers(n * n_in, 3.0), &[n, n_in]);
    let weight = variable(numbers(n_out * n_in, 2.0), &[n_out, n_in]);
    let bias = variable(numbers(n_out, 1.0), &[n_out]);
    let targets: Vec<i64> = (0..n as i64).map(|i| if i % 4 == 3 { -100 } else { i * 397 % n_out as i64 }).collect();
    for smoothing in [0.0, 0.1] {
        let settings = CrossEntropy { label_smoothing: smoothing, ..CrossEntropy::default() };
        let loss_of = |scores: Tensor| {
            let elsewhere = (scores.narrow(0, 3, 2).unwrap().sqr().unwrap().mean_all().unwrap() * 0.01).unwrap();
            (vocabulary_loss::cross_entropy(&scores, &labels(&targets), &settings).unwrap() + elsewhere).unwrap()
        };
        let found = loss_of(linear(&x, &weight, Some(&bias)).unwrap());
        // In f64, where single operations compute.
        let wide = |var: &Var| Var::from_tensor(&var.to_dtype(DType::F64).unwrap()).unwrap();
        let plain = [wide(&x), wide(&weight), wide(&bias)];
        let expected = loss_of(ops::linear(&plain[0], &plain[1], Some(&plain[2])).unwrap());
        close("loss", found.to_scalar().unwrap(), expected.to_scalar().unwrap());
        let (found, expected) = (found.backward().unwrap(), expected.backward().unwrap());
        for (var, plain) in [&x, &weight, &bias].into_iter().zip(&plain) {
            let found = found.get(var).unwrap().to_dtype(DType::F64).unwrap();
            let expected = expected.get(plain).unwrap();
            let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().sqrt().unwrap().to_scalar::<f64>().unwrap();
            let error = norm(&(&found - expected).unwrap()) / norm(expected);
            // What f32 and six products of bf16 keep of a gradient.
            assert!(error < 3e-6, "smoothing {smoothing}, gradient of {:?}: {error:e}", var.dims());
        }
    }
}

/// A frozen layer gives its input the same gradient, and has none itself.
#[test]
fn the_loss_of_a_frozen_layer_reaches_its_input_alone() {
    let numbers = |n: usize| -> Vec<f32> { (0..n).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect() };
    let x = Var::from_vec(numbers(40 * 24), (40, 24), &Device::Cpu).unwrap();
    let weight = Var::from_vec(numbers(1100 * 24), (1100, 24), &Device::Cpu).unwrap();
    let targets: Vec<i64> = (0..40).map(|i| i * 27).collect();
    let of = |weight: &Tensor| {
        let scores = linear(&x, weight, None).unwrap();
        let loss = vocabulary_loss::cross_entropy(&scores, &labels(&targets), &CrossEntropy::default());
        let store = loss.unwrap().backward().unwrap();
        let gradient: Vec<f32> = store.get(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        (gradient, store.get(weight).is_some())
    };
    let ((trained, has), (frozen, has_frozen)) = (of(weight.as_tensor()), of(&weight.as_detached_tensor()));
    assert!(trained == frozen && trained.iter().any(|value| *value != 0.0));
    assert_eq!((has, has_frozen), (true, false));
}
