//! Every operation of the table: what it takes, and its gradient against finite differences.

use candle_core::{DType, Tensor};
use retune::plugin::ops;
use retune_plugin_sdk::opcodes::{TABLE, op};

use crate::gradients::{check, ids, normal, positive};

/// An example of an operation: the tensors that gradients flow to, further ones, whole numbers and floats.
type Example = (u32, Vec<Tensor>, Vec<Tensor>, Vec<i64>, Vec<f64>);

fn example(code: u32, tensors: Vec<Tensor>, ints: &[i64], floats: &[f64]) -> Example {
    (code, tensors, Vec::new(), ints.to_vec(), floats.to_vec())
}

fn examples() -> Vec<Example> {
    let x = || normal("x", &[3, 4]);
    let one = |code, ints: &[i64], floats: &[f64]| example(code, vec![x()], ints, floats);
    let pair = |code| example(code, vec![x(), positive("y", &[4])], &[], &[]);
    let mut all = vec![
        pair(op::ADD),
        pair(op::SUB),
        pair(op::MUL),
        pair(op::DIV),
        example(op::MATMUL, vec![x(), normal("y", &[4, 2])], &[], &[]),
        one(op::AFFINE, &[], &[-0.7, 2.0]),
        one(op::AFFINE, &[], &[0.0, 1.0]),
        example(op::LOG, vec![positive("x", &[3, 4])], &[], &[]),
        example(op::SQRT, vec![positive("x", &[3, 4])], &[], &[]),
        example(op::POW, vec![positive("x", &[3, 4])], &[], &[1.5]),
        one(op::CLAMP, &[], &[-0.5, 0.8]),
        one(op::SOFTMAX, &[-1], &[]),
        one(op::LOG_SOFTMAX, &[0], &[]),
        one(op::RESHAPE, &[2, -1], &[]),
        one(op::TRANSPOSE, &[0, 1], &[]),
        one(op::NARROW, &[1, 1, 2], &[]),
        one(op::UNSQUEEZE, &[-1], &[]),
        example(op::SQUEEZE, vec![normal("x", &[3, 1])], &[1], &[]),
        example(op::EXPAND, vec![normal("x", &[3, 1])], &[2, -1, 4], &[]),
        (op::INDEX_SELECT, vec![x()], vec![ids(&[2, 0, 2], &[3])], vec![0], vec![]),
        (op::GATHER, vec![x()], vec![ids(&[1, 3, 0], &[3, 1])], vec![1], vec![]),
        example(op::CAT, vec![x(), normal("y", &[3, 2])], &[1], &[]),
        example(op::STACK, vec![x(), normal("y", &[3, 4]), normal("z", &[3, 4])], &[0], &[]),
        example(op::LINEAR, vec![x(), normal("w", &[2, 4])], &[], &[]),
        example(op::LINEAR, vec![x(), normal("w", &[2, 4]), normal("b", &[2])], &[], &[]),
        example(op::LAYER_NORM, vec![x(), normal("w", &[4]), normal("b", &[4])], &[], &[1e-5]),
        (op::EMBEDDING, vec![x()], vec![ids(&[2, 0, 2, 1], &[2, 2])], vec![], vec![]),
        (op::CROSS_ENTROPY, vec![x()], vec![ids(&[1, -100, 3], &[3])], vec![], vec![]),
        (op::CROSS_ENTROPY, vec![x()], vec![ids(&[1, -7, 3], &[3]), positive("w", &[4])], vec![-7], vec![0.1]),
        (op::MSE_LOSS, vec![x()], vec![normal("y", &[3, 4])], vec![], vec![]),
        (op::BCE_WITH_LOGITS, vec![x()], vec![ids(&[0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0], &[3, 4])], vec![], vec![]),
    ];
    let plain =
        [op::GELU, op::GELU_TANH, op::SILU, op::TANH, op::SIGMOID, op::EXP, op::SUM, op::MEAN, op::MAX, op::MIN];
    // Where a function has a corner, away from it.
    let signs = Tensor::new(&[1.0, -1.0, -1.0, 1.0], &candle_core::Device::Cpu).unwrap();
    let away = || positive("x", &[3, 4]).broadcast_mul(&signs).unwrap();
    all.extend([op::RELU, op::ABS].map(|code| example(code, vec![away()], &[], &[])));
    all.extend(plain.map(|code| one(code, &[], &[])));
    all.extend([op::SUM, op::MEAN, op::MAX, op::MIN].map(|code| one(code, &[1], &[])));
    all
}

/// Operations that no gradient passes, and those that look at a batch, whose functions have tests of their own.
const WITHOUT_GRADIENT: [u32; 5] = [op::EQ, op::GT, op::LT, op::ARGMAX, op::DETACH];
const WITH_BATCH: [u32; 7] = [op::DROPOUT, op::FIRST, op::LAST, op::ROW_MEAN, op::ROW_MAX, op::PADDED, op::NEXT];

#[test]
fn gradients_of_all_operations_agree_with_finite_differences() {
    let examples = examples();
    for known in TABLE {
        let here = examples.iter().any(|(code, ..)| *code == known.code);
        let exempt = WITHOUT_GRADIENT.contains(&known.code) || WITH_BATCH.contains(&known.code);
        assert!(here != exempt, "`{}` has no example, or is exempt and has one", known.name);
    }
    for (code, inputs, others, ints, floats) in &examples {
        let name = TABLE.iter().find(|known| known.code == *code).unwrap().name;
        ops::check(*code, [inputs.len() + others.len(), ints.len(), floats.len()]).unwrap();
        check(name, inputs, |x| {
            let all: Vec<Tensor> = x.iter().chain(others).cloned().collect();
            Ok(ops::apply(*code, &all, ints, floats)?.unwrap())
        });
    }
}

#[test]
fn operations_without_a_gradient_give_what_they_say() {
    let (a, b) = (ids(&[1, 5, 2], &[3]), ids(&[1, 2, 3], &[3]));
    let numbers = |code, ints: &[i64]| {
        ops::apply(code, &[a.clone(), b.clone()], ints, &[]).unwrap().unwrap().to_dtype(DType::I64).unwrap()
    };
    assert_eq!(numbers(op::EQ, &[]).to_vec1::<i64>().unwrap(), [1, 0, 0]);
    assert_eq!(numbers(op::GT, &[]).to_vec1::<i64>().unwrap(), [0, 1, 0]);
    assert_eq!(numbers(op::LT, &[]).to_vec1::<i64>().unwrap(), [0, 0, 1]);
    assert_eq!(numbers(op::ARGMAX, &[0]).to_scalar::<i64>().unwrap(), 1);
    assert_eq!(numbers(op::DETACH, &[]).to_vec1::<i64>().unwrap(), [1, 5, 2]);
    for code in WITH_BATCH {
        assert!(ops::apply(code, std::slice::from_ref(&a), &[], &[0.5]).unwrap().is_none());
    }
}

#[test]
fn too_few_and_too_many_operands_are_refused() {
    for known in TABLE {
        // No operation takes four floats, and none is without a tensor.
        for counts in [[0, 0, 0], [1, 0, 4]] {
            let error = ops::check(known.code, counts).unwrap_err().to_string();
            assert!(error.contains("it was given"), "{}: {error}", known.name);
        }
    }
    let error = ops::check(op::LINEAR, [4, 0, 0]).unwrap_err().to_string();
    assert_eq!(error, "it was given 4 tensors, but takes `x, weight, [bias]`");
    assert!(ops::check(op::RESHAPE, [1, 0, 0]).is_ok() && ops::check(op::CAT, [17, 1, 0]).is_ok());
    for unknown in [0, 86, u32::MAX] {
        assert!(ops::check(unknown, [1, 0, 0]).unwrap_err().to_string().contains("there is no operation"));
    }
}
