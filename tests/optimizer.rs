//! AdamW, clipping and the rule of weight decay, against numpy (`golden/generate_train.py`) and the reference run.

use candle_core::{DType, Device, Tensor, Var};
use retune::model::gradient::{Buffer, Gradient};
use retune::tensor::rng::Rng;
use retune::train::optimizer::{AdamW, AdamWSettings, Gradients, GroupSettings, clip_factor, decays, grad_norm};
use serde_json::Value as Json;

fn floats(json: &Json) -> Vec<f64> {
    json.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn tensor(json: &Json, shape: &[usize]) -> Tensor {
    let values: Vec<f32> = floats(json).into_iter().map(|number| number as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_near(found: &[f64], expected: &[f64], relative: f64, absolute: f64, what: &str) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let allowed = relative * expected.abs() + absolute;
        assert!((found - expected).abs() <= allowed, "{what}: {found} instead of {expected}");
    }
}

/// Against numpy in f32 with the same order of operations: one unit in the last place (1.2e-7) a step of slack.
/// Against f64: five steps of at most 2e-3 each, so that rounding stays below 1e-6 of weights around 1.
#[test]
fn five_steps_give_the_numbers_of_numpy() {
    let golden: Json = serde_json::from_str(include_str!("golden/adamw.json")).unwrap();
    let cases = golden["parameters"].as_array().unwrap();
    let shape = |case: &Json| floats(&case["shape"]).into_iter().map(|n| n as usize).collect::<Vec<_>>();
    let name = |case: &Json| case["name"].as_str().unwrap().to_string();
    for dtype in [DType::F32, DType::F64] {
        // f64 goes through the twin made of tensor operations.
        let make = || {
            let parameters = cases.iter().map(|case| {
                let start = tensor(&case["start"], &shape(case)).to_dtype(dtype).unwrap();
                let group = GroupSettings { weight_decay: case["weight_decay"].as_f64().unwrap(), lr_scale: 1.0 };
                (name(case), Var::from_tensor(&start).unwrap(), group)
            });
            parameters.collect::<Vec<_>>()
        };
        let parameters = make();
        let vars: Vec<Var> = parameters.iter().map(|(_, var, _)| var.clone()).collect();
        let mut optimizer = AdamW::new(parameters, AdamWSettings::default()).unwrap();
        for (step, (lr, scale)) in floats(&golden["lr"]).into_iter().zip(floats(&golden["grad_scale"])).enumerate() {
            let gradients: Gradients = cases
                .iter()
                .map(|case| {
                    (name(case), tensor(&case["gradients"][step], &shape(case)).to_dtype(dtype).unwrap().into())
                })
                .collect();
            // Halfway, the state moves to another optimizer of the same variables.
            if step == 3 {
                let state = optimizer.state().unwrap();
                let again = make().into_iter().zip(&vars).map(|((name, _, group), var)| (name, var.clone(), group));
                optimizer = AdamW::new(again.collect(), AdamWSettings::default()).unwrap();
                optimizer.load_state(state).unwrap();
            }
            optimizer.step(&gradients, lr, scale).unwrap();
        }
        let state = optimizer.state().unwrap();
        let (key, relative) = if dtype == DType::F32 { ("f32", 6e-7) } else { ("f64", 1e-12) };
        for (case, var) in cases.iter().zip(&vars) {
            let moments = &state[&name(case)];
            assert_eq!(moments.step, 5);
            let found = [values(var), values(&moments.exp_avg), values(&moments.exp_avg_sq)];
            for (found, what) in found.iter().zip(["weight", "exp_avg", "exp_avg_sq"]) {
                assert_near(found, &floats(&case[key][what]), relative, 1e-12, what);
            }
            assert_near(&found[0], &floats(&case["f64"]["weight"]), 1e-6, 1e-6, "weight against f64");
        }
    }
}

fn ragged(dtype: DType) -> (Vec<(String, Var, GroupSettings)>, Gradients) {
    let shapes: [&[usize]; 5] = [&[1], &[17, 3], &[16384], &[5, 7, 11], &[131, 257]];
    let make = |stream: &str, shape: &[usize]| {
        let rng = Rng::new(3, stream, 0);
        let numbers: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(|idx| rng.normal(idx) as f32).collect();
        Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    };
    let group = GroupSettings { weight_decay: 0.1, lr_scale: 0.5 };
    let parameters = shapes
        .iter()
        .enumerate()
        .map(|(idx, shape)| (format!("p{idx}"), Var::from_tensor(&make("w", shape)).unwrap(), group));
    let gradients = shapes.iter().enumerate().map(|(idx, shape)| (format!("p{idx}"), make("g", shape).into()));
    (parameters.collect(), gradients.collect())
}

fn trained(dtype: DType) -> Vec<Vec<f64>> {
    let (parameters, gradients) = ragged(dtype);
    let vars: Vec<Var> = parameters.iter().map(|(_, var, _)| var.clone()).collect();
    let mut optimizer = AdamW::new(parameters, AdamWSettings::default()).unwrap();
    for scale in [1.0, 0.3, 0.7] {
        optimizer.step(&gradients, 1e-2, scale).unwrap();
    }
    vars.iter().map(|var| values(var)).collect()
}

/// The twin computes in f64 here, the fused pass in f32: three steps of half a unit in the last place of weights up
/// to 5, several operations each.
#[test]
fn the_fused_pass_agrees_with_its_twin_on_ragged_shapes() {
    for (fused, twin) in trained(DType::F32).iter().zip(trained(DType::F64)) {
        assert_near(fused, &twin, 1e-6, 1e-7, "weight");
    }
}

/// A table's gradient as rows gives the very bits of the same gradient as a whole tensor, whichever rows come and go.
#[test]
fn rows_of_a_table_train_as_the_whole_of_it() {
    let dims = [131, 257];
    let start: Vec<f32> = (0..131 * 257).map(|i| (i % 97) as f32 * 0.01 - 0.5).collect();
    let steps: [&[u32]; 6] = [&[0, 5, 130], &[], &[130], &[5, 6, 77], &[1, 2, 3, 4], &[0]];
    let run = |decay: f64, as_rows: bool, threads: usize| {
        let var = Var::from_tensor(&Tensor::from_slice(&start, &dims[..], &Device::Cpu).unwrap()).unwrap();
        let group = GroupSettings { weight_decay: decay, lr_scale: 1.0 };
        let mut optimizer = AdamW::new(vec![("table".into(), var.clone(), group)], AdamWSettings::default()).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for (step, rows) in steps.iter().enumerate() {
            let rng = Rng::new(8, "rows", step as u64);
            let values: Vec<f32> = (0..rows.len() as u64 * 257).map(|i| rng.normal(i) as f32).collect();
            let rows = Gradient::of_rows(&dims, rows.to_vec().into(), Buffer::owned(values));
            let whole = Gradient::from(rows.to_tensor().unwrap());
            let gradients = Gradients::from([("table".to_string(), if as_rows { rows } else { whole })]);
            assert!(grad_norm(&gradients).unwrap().is_finite());
            pool.install(|| optimizer.step(&gradients, 1e-2, 0.5)).unwrap();
        }
        let state = optimizer.state().unwrap();
        [values(&var), values(&state["table"].exp_avg), values(&state["table"].exp_avg_sq)]
    };
    for decay in [0.0, 0.1] {
        let expected = run(decay, false, 1);
        assert!(run(decay, true, 1) == expected && run(decay, true, 4) == expected, "decay {decay}");
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| (trained(DType::F32), grad_norm(&ragged(DType::F32).1).unwrap()))
    };
    assert_eq!(run(1), run(4));
}

/// numpy: the norm of 3, 4 and of 12 is 13; a factor of 1 / (13 + 1e-6).
#[test]
fn gradients_are_clipped_to_a_norm() {
    let mut gradients: Gradients = [
        ("a".to_string(), Tensor::new(&[3f32, 4.0], &Device::Cpu).unwrap().into()),
        ("b".to_string(), Tensor::new(&[[12f32]], &Device::Cpu).unwrap().into()),
    ]
    .into();
    assert_eq!(grad_norm(&gradients).unwrap(), 13.0);
    assert_eq!(clip_factor(13.0, 1.0), 1.0 / 13.000001);
    assert_eq!(clip_factor(0.5, 1.0), 1.0);
    for bad in [f32::NAN, f32::INFINITY] {
        gradients.insert("c".into(), Tensor::new(&[bad], &Device::Cpu).unwrap().into());
        assert!(!grad_norm(&gradients).unwrap().is_finite());
    }
}

/// BERT's names are taken from the lists that Hugging Face Trainer printed for MiniLM-L6; the others belong to families
/// whose modules are `nn.LayerNorm` under another name.
#[test]
fn weight_decay_spares_biases_and_norms() {
    let check = |name: &str, expected: bool| assert_eq!(decays(name), expected, "{name}");
    for name in [
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.position_embeddings.weight",
        "bert.encoder.layer.0.attention.self.query.weight",
        "bert.encoder.layer.0.attention.output.dense.weight",
        "bert.pooler.dense.weight",
        "classifier.weight",
        "transformer.h.0.attn.c_attn.weight",
        "normalizer.weight",
    ] {
        check(name, true);
    }
    for name in [
        "bert.embeddings.LayerNorm.weight",
        "bert.encoder.layer.0.attention.self.query.bias",
        "bert.encoder.layer.0.output.LayerNorm.bias",
        "classifier.bias",
        "cls.predictions.bias",
        "distilbert.transformer.layer.0.sa_layer_norm.weight",
        "lm_head.layer_norm.weight",
        "transformer.h.0.ln_1.weight",
        "transformer.ln_f.weight",
        "norm.weight",
        "encoder.final_norm",
    ] {
        check(name, false);
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused_by_name() {
    let optimizer = || AdamW::new(ragged(DType::F32).0, AdamWSettings::default()).unwrap();
    let check = |change: &dyn Fn(&mut retune::train::optimizer::OptimizerState), expected: &str| {
        let mut state = optimizer().state().unwrap();
        change(&mut state);
        let error = optimizer().load_state(state).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} does not contain {expected}");
    };
    check(&|state| drop(state.swap_remove("p1")), "lacks a parameter (tensor `p1`)");
    check(
        &|state| {
            let moments = state["p0"].clone();
            state.insert("q".into(), moments);
        },
        "not being trained (tensor `q`)",
    );
    check(
        &|state| state["p1"].exp_avg_sq = state["p0"].exp_avg.clone(),
        "has shape [1], its parameter [17, 3] (tensor `p1`)",
    );
}

#[test]
fn a_parameter_without_gradient_stays_and_settings_can_change() {
    let (parameters, mut gradients) = ragged(DType::F32);
    let vars: Vec<Var> = parameters.iter().map(|(_, var, _)| var.clone()).collect();
    let before: Vec<_> = vars.iter().map(|var| values(var)).collect();
    gradients.swap_remove("p0");
    let mut optimizer = AdamW::new(parameters, AdamWSettings::default()).unwrap();
    optimizer.set_groups(|name| GroupSettings { lr_scale: if name == "p1" { 0.0 } else { 1.0 }, ..Default::default() });
    optimizer.step(&gradients, 1e-3, 1.0).unwrap();
    let moved: Vec<bool> = vars.iter().zip(&before).map(|(var, before)| values(var) != *before).collect();
    assert_eq!(moved, [false, false, true, true, true]);
    assert_eq!(optimizer.state().unwrap()["p0"].step, 0);
    gradients.insert("p1".into(), gradients["p2"].clone());
    assert!(optimizer.step(&gradients, 1e-3, 1.0).unwrap_err().to_string().contains("(tensor `p1`)"));
}

/// What stays goes on, what is new begins as in an optimizer of its own, and what comes back has the moments it had.
#[test]
fn parameters_are_exchanged_and_the_moments_of_the_others_stay() {
    let group = GroupSettings { weight_decay: 0.1, lr_scale: 1.0 };
    let var = |start: f32| Var::from_tensor(&Tensor::new(&[start, -start], &Device::Cpu).unwrap()).unwrap();
    let with =
        |vars: &[(&str, &Var)]| vars.iter().map(|(name, var)| ((*name).to_string(), (*var).clone(), group)).collect();
    let gradients = |names: &[&str], step: usize| -> Gradients {
        let gradient = |number: f32| Tensor::new(&[number, 0.5 - number], &Device::Cpu).unwrap().into();
        names.iter().enumerate().map(|(at, name)| ((*name).to_string(), gradient((step * 3 + at) as f32))).collect()
    };
    let alone = |start: f32, steps: &[usize]| {
        let one = var(start);
        let mut optimizer = AdamW::new(with(&[("only", &one)]), AdamWSettings::default()).unwrap();
        for (step, at) in steps.iter().map(|packed| (packed / 10, packed % 10)) {
            let gradient = Tensor::new(&[(step * 3 + at) as f32, 0.5 - (step * 3 + at) as f32], &Device::Cpu).unwrap();
            let gradients: Gradients = [("only".to_string(), Gradient::from(gradient))].into_iter().collect();
            optimizer.step(&gradients, 0.01, 1.0).unwrap();
        }
        values(one.as_tensor())
    };
    let (stays, goes, comes) = (var(1.0), var(2.0), var(3.0));
    let mut optimizer = AdamW::new(with(&[("stays", &stays), ("goes", &goes)]), AdamWSettings::default()).unwrap();
    optimizer.step(&gradients(&["stays", "goes"], 1), 0.01, 1.0).unwrap();
    optimizer.exchange(with(&[("stays", &stays), ("comes", &comes)])).unwrap();
    assert_eq!(optimizer.state().unwrap().keys().collect::<Vec<_>>(), ["stays", "comes"]);
    optimizer.step(&gradients(&["stays", "comes"], 2), 0.01, 1.0).unwrap();
    // Another variable of a name that was there is another parameter.
    let fresh = var(2.0);
    optimizer.exchange(with(&[("stays", &stays), ("goes", &fresh)])).unwrap();
    optimizer.step(&gradients(&["stays", "goes"], 3), 0.01, 1.0).unwrap();
    optimizer.exchange(with(&[("goes", &goes), ("stays", &stays)])).unwrap();
    optimizer.step(&gradients(&["goes", "stays"], 4), 0.01, 1.0).unwrap();
    // A step, and the place of the gradient in it.
    assert_eq!(values(stays.as_tensor()), alone(1.0, &[10, 20, 30, 41]));
    assert_eq!(values(goes.as_tensor()), alone(2.0, &[11, 40]));
    assert_eq!(values(comes.as_tensor()), alone(3.0, &[21]));
    assert_eq!(values(fresh.as_tensor()), alone(2.0, &[31]));
    let doubled = with(&[("stays", &stays), ("stays", &goes)]);
    assert!(optimizer.exchange(doubled).is_err());
    assert_eq!(optimizer.state().unwrap()["stays"].step, 4);
}
