//! Every differentiable operation against finite differences.
//!
//! Operations run on 64-bit floats. The difference quotient is the central one of fourth order with a step of 1e-3, whose
//! error is about 1e-12 for these functions plus 1e-13 of rounding; candle's GELU gradients carry constants of six
//! digits, hence a tolerance of 2e-6 relative to the larger of 1 and the gradient. The encoder has 32-bit parameters and
//! is tested with a larger step and tolerance, which are reasoned where they are used.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use retune::batch::{Batch, Draw, Features};
use retune::error::Result;
use retune::head::{packed, spans};
use retune::model::{Backbone, ModelConfig};
use retune::tensor::arithmetic::{Arithmetic, Operand, arithmetic};
use retune::tensor::loss::{self, CrossEntropy};
use retune::tensor::ops::{self, Activation};
use retune::tensor::reduce::{self, Extreme};
use retune::tensor::rng::Rng;
use retune::tensor::shape;
use serde_json::json;

use crate::loading::{load_settings, ragged};

const TOLERANCE: f64 = 2e-6;

/// Normal numbers as 64-bit floats.
pub(crate) fn normal(name: &str, dims: &[usize]) -> Tensor {
    let rng = Rng::new(3, name, 0);
    let values: Vec<f64> = (0..dims.iter().product::<usize>() as u64).map(|index| rng.normal(index)).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// Numbers from 0.5 upwards, for functions that need them positive.
pub(crate) fn positive(name: &str, dims: &[usize]) -> Tensor {
    (normal(name, dims).abs().unwrap() + 0.5).unwrap()
}

/// A scalar that every element of `y` takes part in with a weight of its own.
fn weighed(y: &Tensor) -> Tensor {
    let weights = normal("weights of the scalar", y.dims());
    (y.to_dtype(DType::F64).unwrap() * weights).unwrap().sum_all().unwrap()
}

/// Checks the gradient of `function`, reduced to a scalar, at `inputs` for each element of each input.
pub(crate) fn check(name: &str, inputs: &[Tensor], function: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let vars: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input).unwrap()).collect();
    let tracked: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let grads = weighed(&function(&tracked).unwrap()).backward().unwrap();
    for (number, input) in inputs.iter().enumerate() {
        let gradient = grads.get(vars[number].as_tensor());
        let gradient = gradient.unwrap_or_else(|| panic!("{name}: no gradient reaches input {number}"));
        let gradient: Vec<f64> = gradient.flatten_all().unwrap().to_vec1().unwrap();
        let values: Vec<f64> = input.flatten_all().unwrap().to_vec1().unwrap();
        let at = |element: usize, change: f64| {
            let mut changed = values.clone();
            changed[element] += change;
            let mut inputs = inputs.to_vec();
            inputs[number] = Tensor::from_vec(changed, input.shape(), &Device::Cpu).unwrap();
            weighed(&function(&inputs).unwrap()).to_scalar::<f64>().unwrap()
        };
        for (element, &found) in gradient.iter().enumerate() {
            let expected = quotient(1e-3, |change| at(element, change));
            let allowed = TOLERANCE * expected.abs().max(1.0);
            assert!(
                (found - expected).abs() <= allowed,
                "{name}: input {number}, element {element}: gradient {found}, differences {expected}"
            );
        }
    }
}

/// The central difference quotient of fourth order.
fn quotient(step: f64, value: impl Fn(f64) -> f64) -> f64 {
    (8.0 * (value(step) - value(-step)) - (value(2.0 * step) - value(-2.0 * step))) / (12.0 * step)
}

pub(crate) fn ids(values: &[i64], dims: &[usize]) -> Tensor {
    Tensor::from_slice(values, dims, &Device::Cpu).unwrap()
}

#[test]
fn arithmetic_with_broadcasting() {
    let shapes: [(&[usize], &[usize]); 7] = [
        (&[3], &[3]),
        (&[2, 3], &[3]),
        (&[3, 1], &[1, 5]),
        (&[1], &[2, 1, 3]),
        (&[], &[2, 3]),
        (&[5, 1, 3], &[7, 1]),
        (&[], &[]),
    ];
    for op in [Arithmetic::Add, Arithmetic::Sub, Arithmetic::Mul, Arithmetic::Div] {
        for (a, b) in shapes {
            check(&format!("{op:?} {a:?} {b:?}"), &[normal("a", a), positive("b", b)], |x| {
                arithmetic(op, &x[0].clone().into(), &x[1].clone().into())
            });
        }
        for number in [Operand::Int(3), Operand::Float(-0.7), Operand::Int(0)] {
            let by_zero = op == Arithmetic::Div && matches!(number, Operand::Int(0));
            if !by_zero {
                check(&format!("{op:?} x {number:?}"), &[normal("a", &[2, 3])], |x| {
                    arithmetic(op, &x[0].clone().into(), &number)
                });
            }
            check(&format!("{op:?} {number:?} x"), &[positive("b", &[2, 3])], |x| {
                arithmetic(op, &number, &x[0].clone().into())
            });
        }
    }
}

#[test]
fn elementwise_functions() {
    type Function = fn(&Tensor) -> Result<Tensor>;
    let functions: [(&str, Function); 17] = [
        ("exp", |x| Ok(x.exp()?)),
        ("sqr", |x| Ok(x.sqr()?)),
        ("abs", ops::abs),
        ("tanh", |x| Ok(x.tanh()?)),
        ("sigmoid", ops::sigmoid),
        ("relu", ops::relu),
        ("gelu", |x| Activation::Gelu.apply(x)),
        ("gelu_new", |x| Activation::GeluTanh.apply(x)),
        ("silu", |x| Activation::Silu.apply(x)),
        ("linear", |x| Activation::Linear.apply(x)),
        ("pow 0", |x| ops::pow(x, 0.0)),
        ("pow 1", |x| ops::pow(x, 1.0)),
        ("pow 2", |x| ops::pow(x, 2.0)),
        ("pow 3", |x| ops::pow(x, 3.0)),
        ("clamp", |x| ops::clamp(x, -0.6, 0.8)),
        ("softmax", |x| ops::softmax(x, 1)),
        ("log_softmax", |x| ops::log_softmax(x, 0)),
    ];
    for (name, function) in functions {
        check(name, &[normal(name, &[3, 5])], |x| function(&x[0]));
    }
    let functions: [(&str, Function); 4] = [
        ("log", |x| Ok(x.log()?)),
        ("sqrt", |x| Ok(x.sqrt()?)),
        ("pow 0.5", |x| ops::pow(x, 0.5)),
        ("pow -1.5", |x| ops::pow(x, -1.5)),
    ];
    for (name, function) in functions {
        check(name, &[positive(name, &[3, 5])], |x| function(&x[0]));
    }
}

/// At their kinks, the gradients are those that PyTorch documents.
#[test]
fn gradients_at_kinks() {
    type Function = fn(&Tensor) -> Result<Tensor>;
    let cases: [(&str, Function, [f64; 3], [f64; 3]); 5] = [
        ("relu", ops::relu, [-1.0, 0.0, 2.0], [0.0, 0.0, 1.0]),
        ("abs", ops::abs, [-1.0, 0.0, 2.0], [-1.0, 0.0, 1.0]),
        ("clamp", |x| ops::clamp(x, -1.0, 1.0), [-1.0, 1.0, 1.5], [1.0, 1.0, 0.0]),
        ("max", |x| reduce::extreme(x, Extreme::Max, Some(0)), [2.0, 2.0, 1.0], [1.0, 0.0, 0.0]),
        // The derivative of the loss is (sigmoid(x) - t) / n, also at 0.
        (
            "bce",
            |x| loss::bce_with_logits(x, &Tensor::new(&[1.0f64, 0.0, 1.0], &Device::Cpu)?),
            [0.0, 0.0, 0.0],
            [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        ),
    ];
    for (name, function, at, expected) in cases {
        let x = Var::new(&at, &Device::Cpu).unwrap();
        let grads = function(&x).unwrap().sum_all().unwrap().backward().unwrap();
        let found = grads.get(&x).unwrap().to_vec1::<f64>().unwrap();
        let same = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-15);
        assert!(same, "{name}: {found:?} instead of {expected:?}");
    }
}

#[test]
fn reductions() {
    for dim in [None, Some(0), Some(1), Some(-1)] {
        let x = [normal("reduce", &[3, 5, 2])];
        check(&format!("sum {dim:?}"), &x, |x| reduce::sum(&x[0], dim));
        check(&format!("mean {dim:?}"), &x, |x| reduce::mean(&x[0], dim));
        check(&format!("variance {dim:?}"), &x, |x| reduce::variance(&x[0], dim));
        check(&format!("max {dim:?}"), &x, |x| reduce::extreme(&x[0], Extreme::Max, dim));
        check(&format!("min {dim:?}"), &x, |x| reduce::extreme(&x[0], Extreme::Min, dim));
    }
    // Views that are not contiguous.
    check("max of a transposed", &[normal("reduce", &[3, 5])], |x| reduce::extreme(&x[0].t()?, Extreme::Max, Some(0)));
}

#[test]
fn shapes_and_products() {
    let x = [normal("x", &[3, 5, 2])];
    check("reshape", &x, |x| shape::reshape(&x[0], &[5, -1]));
    check("transpose", &x, |x| shape::transpose(&x[0], 0, -1));
    check("squeeze", &[normal("x", &[3, 1, 2])], |x| shape::squeeze(&x[0], 1));
    check("unsqueeze", &x, |x| shape::unsqueeze(&x[0], -1));
    check("narrow", &x, |x| shape::narrow(&x[0], 1, 1, 3));
    check("narrow from the end", &x, |x| shape::narrow(&x[0], 1, -2, 2));
    check("expand", &[normal("x", &[3, 1])], |x| shape::expand(&x[0], &[2, -1, 4]));
    check("index_select", &x, |x| shape::index_select(&x[0], 1, &ids(&[4, 0, 4, 2], &[4])));
    check("index_select of a transposed", &x, |x| {
        shape::index_select(&shape::transpose(&x[0], 0, 1)?, -2, &ids(&[2, 2, 0], &[3]))
    });
    check("gather", &[normal("x", &[3, 5])], |x| shape::gather(&x[0], 1, &ids(&[4, 4, 0, 1, 2, 0], &[3, 2])));
    check("gather of a transposed", &[normal("x", &[5, 3])], |x| {
        shape::gather(&x[0].t()?, -1, &ids(&[4, 0, 1], &[3, 1]))
    });
    let two = [normal("a", &[2, 3]), normal("b", &[4, 3])];
    check("cat 0", &two, |x| shape::cat(x, 0));
    check("cat 1", &[normal("a", &[3, 1]), normal("b", &[3, 4])], |x| shape::cat(x, -1));
    check("cat with itself", &two[..1], |x| shape::cat(&[x[0].clone(), x[0].clone()], 0));
    check("stack", &[normal("a", &[2, 3]), normal("b", &[2, 3])], |x| shape::stack(x, -1));
    let products: [(&[usize], &[usize]); 5] = [
        (&[2, 3], &[3, 5]),
        (&[1, 1], &[1, 1]),
        (&[4, 2, 3], &[4, 3, 1]),
        (&[4, 2, 3], &[3, 5]),
        (&[2, 1, 2, 3], &[3, 3, 2]),
    ];
    for (a, b) in products {
        check(&format!("matmul {a:?} {b:?}"), &[normal("a", a), normal("b", b)], |x| shape::matmul(&x[0], &x[1]));
    }
    check("matmul of views", &[normal("a", &[3, 2]), normal("b", &[5, 6])], |x| {
        shape::matmul(&x[0].t()?, &x[1].narrow(1, 2, 3)?.narrow(0, 1, 3)?)
    });
}

#[test]
fn layers() {
    check("linear", &[normal("x", &[2, 3, 5]), normal("w", &[4, 5]), normal("b", &[4])], |x| {
        ops::linear(&x[0], &x[1], Some(&x[2]))
    });
    check("linear without bias", &[normal("x", &[5]), normal("w", &[1, 5])], |x| ops::linear(&x[0], &x[1], None));
    for eps in [1e-12, 0.1] {
        check("layer_norm", &[normal("x", &[3, 7]), normal("w", &[7]), normal("b", &[7])], |x| {
            ops::layer_norm(&x[0], &x[1], &x[2], eps)
        });
    }
}

#[test]
fn losses() {
    let weight = Tensor::new(&[0.5f32, 2.0, 0.0, 1.5], &Device::Cpu).unwrap();
    for (ignore_index, label_smoothing, weight) in [
        (-100, 0.0, None),
        (1, 0.0, None),
        (-100, 0.1, None),
        (3, 0.3, Some(weight.clone())),
        (-100, 0.0, Some(weight)),
    ] {
        let settings = CrossEntropy { ignore_index, label_smoothing, weight };
        let labels = ids(&[0, 3, 1, ignore_index, 2], &[5]);
        check(&format!("{settings:?}"), &[normal("logits", &[5, 4])], |x| {
            loss::cross_entropy(&x[0], &labels, &settings)
        });
    }
    check("mse", &[normal("a", &[3, 2]), normal("b", &[3, 2])], |x| loss::mse(&x[0], &x[1]));
    let targets = Tensor::new(&[[0.0f64, 1.0, 0.3], [1.0, 0.0, 0.9]], &Device::Cpu).unwrap();
    check("bce", &[normal("logits", &[2, 3])], |x| loss::bce_with_logits(&x[0], &targets));
}

/// A batch of rows with these numbers of tokens, in the draw of a training step.
fn training_batch(lengths: &[usize], vocab_size: usize) -> Batch {
    let rows = ragged(lengths, vocab_size, 100);
    let numbered: Vec<(usize, &Features)> = rows.iter().enumerate().collect();
    Batch::pack(&numbered, &Device::Cpu).unwrap().training(Draw { seed: 5, step: 2 }, 0)
}

#[test]
fn packed_helpers() {
    for lengths in [&[2, 5, 1, 3][..], &[1], &[3, 3]] {
        let batch = training_batch(lengths, 7);
        for dims in [&[batch.n_tokens(), 3][..], &[batch.n_tokens()], &[batch.n_tokens(), 2, 3]] {
            let x = [normal("hidden", dims)];
            check("first", &x, |x| packed::first(&x[0], &batch));
            check("last", &x, |x| packed::last(&x[0], &batch));
            check("mean", &x, |x| packed::mean(&x[0], &batch));
            check("max", &x, |x| packed::max(&x[0], &batch));
            check("padded", &x, |x| packed::padded(&x[0], &batch));
            check("dropout", &x, |x| {
                batch.start_forward();
                packed::dropout(&packed::dropout(&x[0], 0.4, &batch)?, 0.3, &batch)
            });
        }
    }
    let batch = training_batch(&[2, 5, 1, 3], 7);
    for positions in [[0, 4, 0, 2], [2, 1, -1, 0], [9, 9, 9, 2]] {
        check("span_loss", &[normal("scores", &[11])], |x| spans::span_loss(&x[0], &ids(&positions, &[4]), &batch));
    }
}

/// The whole encoder, with dropout on (the draw is fixed, so it is a function), for a sample of each parameter's elements.
///
/// Weights are drawn with a deviation of 0.3 so that gradients are of size 1 and more. Hidden states are 32-bit floats: each
/// of 176 carries an error near 1e-6, so the scalar carries 1e-5 and the quotient (step 2e-2) about 1e-3, beside a
/// truncation error of the order of 1e-4: the tolerance is 5e-3 relative to the larger of 1 and the gradient. The batch has
/// padding tokens among the others.
#[test]
fn whole_encoder() {
    for activation in ["gelu", "gelu_new"] {
        let config = json!({
            "model_type": "bert", "vocab_size": 13, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 24, "max_position_embeddings": 9, "hidden_act": activation,
            "initializer_range": 0.3, "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.15,
        });
        let settings = load_settings();
        let config = ModelConfig::from_map(config.as_object().unwrap().clone());
        let backbone = Backbone::from_config(config, &settings).unwrap();
        let batch = training_batch(&[4, 1, 6], 13);
        let value = || weighed(&backbone.encoder.forward(&batch).unwrap());
        let parameters = backbone.builder.parameters().all();
        // Biases begin at 0 and norms at 1: move them, so that their neighbourhood is an ordinary one.
        for parameter in &parameters {
            let noise = (normal(parameter.name(), parameter.var().dims()) * 0.1).unwrap().to_dtype(DType::F32).unwrap();
            parameter.var().set(&(parameter.var().as_tensor() + noise).unwrap()).unwrap();
        }
        value().backward().unwrap();
        let grads = backbone.encoder.take_gradients().into_iter();
        let grads: HashMap<String, Tensor> =
            grads.map(|(name, gradient)| (name, gradient.to_tensor().unwrap())).collect();
        let mut n_checked = 0;
        for parameter in &parameters {
            let var = parameter.var();
            let gradient = grads.get(parameter.name()).unwrap_or_else(|| panic!("no gradient: {}", parameter.name()));
            let gradient: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
            let values: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
            for element in (0..5).map(|number| number * values.len() / 5) {
                let at = |change: f64| {
                    let mut changed = values.clone();
                    changed[element] += change as f32;
                    parameter.var().set(&Tensor::from_vec(changed, var.shape(), &Device::Cpu).unwrap()).unwrap();
                    value().to_scalar::<f64>().unwrap()
                };
                let expected = quotient(2e-2, at);
                var.set(&Tensor::from_slice(&values, var.shape(), &Device::Cpu).unwrap()).unwrap();
                let found = f64::from(gradient[element]);
                let name = parameter.name();
                n_checked += 1;
                // PyTorch's `padding_idx`: the entry of padding, token 0, takes part and is not trained.
                if name.ends_with("word_embeddings.weight") && element < var.dims()[1] {
                    assert!(found == 0.0 && expected.abs() > 1.0, "{activation}: {found}, differences {expected}");
                    continue;
                }
                assert!(
                    (found - expected).abs() <= 5e-3 * expected.abs().max(1.0),
                    "{activation}: {name}, element {element}: gradient {found}, differences {expected}"
                );
            }
        }
        // 5 embedding tensors and 16 a layer, five elements of each.
        assert_eq!(n_checked, 5 * 37);
    }
}
