//! Hot reload: an edit counts from its update on and from no other, and an edit that is broken leaves no trace.

use retune::api::live::{Live, Request, unanswered};
use retune::data::Value;
use retune::host::reload::Reruns;
use retune::train::ledger::Outcome;
use retune::train::live_arguments::RatePolicy;

use crate::live_run::{Edits, FILES, Finished, HELPER, RECIPE, TASK, once, run, run_with};

fn undisturbed() -> Finished {
    run(&FILES, |_| Vec::new())
}

/// An edit before update `k + 1` gives the run whose script switches by itself at that update.
fn counts_from(name: &'static str, text: &str, from: &str, to: &str) {
    assert!(text.contains(from), "{from:?} is not in the script");
    let edited = run(&FILES, once(5, name, text.replace(from, to)));
    assert_eq!(edited.failed, None, "{}", edited.shown);
    assert_eq!(edited.outcomes(), [Outcome::Adopted], "{}", edited.shown);
    assert_eq!(edited.ledger[0].step, 5);
    let switching = text.replace(from, &format!("if current_update() <= 5 {{ {from} }} else {{ {to} }}"));
    let files = FILES.map(|(known, text)| if known == name { (known, switching.as_str()) } else { (known, text) });
    let expected = run(&files, |_| Vec::new());
    assert_eq!(expected.failed, None, "{}", expected.shown);
    assert_eq!(edited.history, expected.history, "{}", edited.shown);
    assert!(edited.weights == expected.weights, "other weights");
    let before = undisturbed();
    assert!(edited.history != before.history, "the edit changed nothing");
    assert_eq!(edited.history[..6], before.history[..6], "the updates before it are the same");
}

#[test]
fn a_new_loss_counts_from_its_update_on() {
    let old = "helper::scaled(cross_entropy(output, batch.labels))";
    counts_from("recipe.rhai", RECIPE, old, "cross_entropy(output, batch.labels) * 2.0");
}

#[test]
fn a_new_function_of_an_imported_script_counts_from_its_update_on() {
    counts_from("helper.rhai", HELPER, "loss * 1.0", "loss * 3.0");
}

#[test]
fn a_new_forward_of_a_task_counts_from_its_update_on() {
    let old = "head.scorer.forward(hidden.mean(batch).dropout(0.1, batch))";
    counts_from("task.rhai", TASK, old, "head.scorer.forward(hidden.first(batch) * 0.5)");
}

#[test]
fn a_new_callback_counts_from_its_update_on() {
    let old = "if state.global_step == 1000 { control.should_training_stop = true; }";
    counts_from("recipe.rhai", RECIPE, old, "if state.global_step == 8 { control.should_training_stop = true; }");
}

#[test]
fn a_new_metric_counts_from_its_update_on() {
    let old = "#{ hits: accuracy(argmax(eval_pred.predictions), eval_pred.label_ids) }";
    counts_from(
        "recipe.rhai",
        RECIPE,
        old,
        "#{ misses: 1.0 - accuracy(argmax(eval_pred.predictions), eval_pred.label_ids) }",
    );
}

#[test]
fn a_new_learning_rate_keeps_the_curve() {
    let edited = run(&FILES, once(5, "recipe.rhai", RECIPE.replace("learning_rate: 1e-3", "learning_rate: 3e-3")));
    let rates: Vec<f64> =
        edited.history.iter().filter_map(|log| log.get("learning_rate")).map(|rate| rate.as_f64().unwrap()).collect();
    let expected: Vec<f64> =
        (0..12).map(|step| if step < 5 { 1e-3 } else { 3e-3 } * ((12 - step) as f64 / 12.0)).collect();
    assert_eq!(rates.len(), 12);
    for (rate, expected) in rates.iter().zip(&expected) {
        assert!((rate - expected).abs() < 1e-15, "{rates:?}");
    }
    assert_eq!(edited.ledger[0].arguments[0].key, "learning_rate");
    assert_eq!(edited.ledger[0].lr_policy.as_deref(), Some("keep_shape"));
}

#[test]
fn arguments_that_need_a_new_run_stay_and_say_so() {
    let text =
        RECIPE.replace("max_steps: 12", "max_steps: 10").replace("logging_steps: 1", "logging_steps: 2, seed: 7");
    let edited = run(&FILES, once(4, "recipe.rhai", text));
    assert_eq!(edited.failed, None);
    assert!(edited.shown.contains("seed 42 -> 7 needs a new run and stays"), "{}", edited.shown);
    assert!(edited.shown.contains("max_steps 12 -> 10"), "{}", edited.shown);
    assert_eq!(edited.history.last().unwrap()["step"], 10, "the run is shorter now");
}

#[test]
fn a_new_batch_size_waits_for_the_next_epoch() {
    let longer = RECIPE.replace("max_steps: 12", "num_train_epochs: 2");
    let files = [("recipe.rhai", longer.as_str()), FILES[1], FILES[2]];
    let edited = run(&files, once(2, "recipe.rhai", longer.replace("train_batch_size: 4", "train_batch_size: 8")));
    // Six updates of four rows, then three of eight.
    assert_eq!(edited.failed, None);
    assert_eq!(edited.history.last().unwrap()["step"], 9, "{}", edited.shown);
    assert_eq!(edited.history.last().unwrap()["epoch"], 2.0);
    assert!(edited.shown.contains("from the next epoch on"), "{}", edited.shown);
}

#[test]
fn closures_stay_and_a_notice_says_so_once() {
    let text = RECIPE.replace("let here = 1;", "let here = 2;");
    let again = format!("{text}\n// a comment");
    let edited = run(&FILES, move |step| match step {
        3 => vec![("recipe.rhai", Some(text.clone()))],
        6 => vec![("recipe.rhai", Some(again.clone()))],
        _ => Vec::new(),
    });
    let line = RECIPE.lines().position(|line| line.contains("let here")).unwrap() + 1;
    let notice = format!("recipe.rhai:{line}: a closure stays");
    assert_eq!(edited.shown.matches(&notice).count(), 1, "{}", edited.shown);
    assert!(edited.weights == undisturbed().weights);
}

#[test]
fn what_came_before_training_cannot_change_while_it_goes_on() {
    let edited = run(&FILES, once(3, "recipe.rhai", RECIPE.replace("for i in 0..24", "for i in 0..20")));
    assert!(edited.shown.contains("the top level of"), "{}", edited.shown);
    let edited = run(&FILES, once(3, "task.rhai", TASK.replace("p.linear(\"scorer\"", "p.linear(\"other\"")));
    assert!(edited.shown.contains("`create` of task.rhai has done its work before training began"), "{}", edited.shown);
    assert!(edited.weights == undisturbed().weights);
}

/// The broken edits of one kind: the script, its text, a part of the message, and the place that is shown.
fn broken(kind: usize, number: usize) -> (&'static str, Option<String>, &'static str, &'static str) {
    let loss = "helper::scaled(cross_entropy(output, batch.labels))";
    let mark = format!("// {number}\n");
    let recipe = |new: &str| Some(format!("{}{mark}", RECIPE.replace(loss, new)));
    let task = |from: &str, to: &str| Some(format!("{}{mark}", TASK.replace(from, to)));
    match kind {
        0 => ("recipe.rhai", recipe("helper::scaled(cross_entropy(output, batch.labels)"), "", "recipe.rhai:"),
        1 => ("recipe.rhai", recipe("cross_entropee(output, batch.labels)"), "cross_entropee", "recipe.rhai:4:5"),
        2 => ("recipe.rhai", recipe("throw \"no\"; 1"), "no", "recipe.rhai:4:5"),
        3 => ("recipe.rhai", recipe("loop { }"), "time", "recipe.rhai:4"),
        4 => (
            "task.rhai",
            task("hidden.mean(batch).dropout(0.1, batch))", "hidden)"),
            "24 rows of logits",
            "recipe.rhai:4:20",
        ),
        5 => ("recipe.rhai", recipe("cross_entropy(output, batch.labels) * (0.0 / 0.0)"), "NaN", ""),
        6 => ("helper.rhai", None, "`", ""),
        7 => ("recipe.rhai", Some(format!("{mark}{}", &RECIPE[..400 + number])), "", "recipe.rhai:"),
        8 => ("helper.rhai", Some(format!("fn scaled(loss) {{ los }} {mark}")), "los", "helper.rhai:1:19"),
        _ => ("recipe.rhai", recipe("cross_entropy(output, batch.labels).detach()"), "gradient", ""),
    }
}

#[test]
fn a_hundred_broken_edits_leave_no_trace() {
    let longer = RECIPE.replace("max_steps: 12", "max_steps: 110");
    let files = [("recipe.rhai", longer.as_str()), FILES[1], FILES[2]];
    let edits = |step: usize| -> Edits {
        if !(1..=100).contains(&step) {
            return Vec::new();
        }
        let (name, text, ..) = broken(step % 10, step);
        let text = text.map(|text| text.replace("max_steps: 12", "max_steps: 110"));
        vec![(name, text)]
    };
    let disturbed = run(&files, edits);
    assert_eq!(disturbed.failed, None, "{}", disturbed.shown);
    let quiet = run(&files, |_| Vec::new());
    assert!(disturbed.weights == quiet.weights, "other weights");
    assert_eq!(disturbed.history, quiet.history);
    assert_eq!(disturbed.ledger.len(), 100, "each is reported once");
    for (number, entry) in (1..=100).zip(&disturbed.ledger) {
        let (name, _, message, place) = broken(number % 10, number);
        assert_eq!((entry.step, entry.outcome), (number, Outcome::Refused), "{entry:?}");
        assert!(entry.files[0].file.ends_with(name), "{entry:?}");
        let shown = entry.message.as_deref().unwrap();
        assert!(shown.contains(message) && shown.contains(place), "{number}: {shown}");
    }
}

/// What is left where a disk is full or an editor fails does not begin the recipe again.
#[test]
fn a_script_that_is_empty_is_no_edit() {
    let edits = |step: usize| -> Edits {
        match step {
            3 => vec![("recipe.rhai", Some(String::new()))],
            5 => vec![("helper.rhai", Some("\n".into()))],
            7 => vec![("recipe.rhai", Some(RECIPE.into())), ("helper.rhai", Some(HELPER.into()))],
            _ => Vec::new(),
        }
    };
    let edited = run_with(&FILES, Reruns::WhereNeeded, edits, |_, _| Vec::new());
    assert_eq!(edited.failed, None, "{}", edited.shown);
    assert_eq!(edited.outcomes(), [Outcome::Refused; 2], "{}", edited.shown);
    assert!(edited.shown.contains("script `recipe.rhai` is empty"), "{}", edited.shown);
    assert!(edited.weights == undisturbed().weights);
}

#[test]
fn a_version_that_fails_later_is_rolled_back_and_the_run_goes_on() {
    let bad_loss = RECIPE.replace(
        "fn compute_loss(output, batch) {",
        "fn compute_loss(output, batch) { if current_update() > 7 { throw \"late\" }",
    );
    let bad_callback = RECIPE.replace("if state.global_step == 1000", "if state.global_stepp == 1000");
    let endless = RECIPE.replace("if state.global_step == 1000 {", "loop { } if state.global_step == 1000 {");
    for (text, at, message) in [(bad_loss, 7, "late"), (bad_callback, 5, "global_stepp"), (endless, 5, "time")] {
        let edited = run(&FILES, once(5, "recipe.rhai", text.clone()));
        assert_eq!(edited.failed, None, "{}", edited.shown);
        assert_eq!(edited.outcomes(), [Outcome::Adopted, Outcome::RolledBack], "{}", edited.shown);
        assert_eq!(edited.ledger[1].step, at);
        assert!(edited.ledger[1].message.as_ref().unwrap().contains(message), "{:?}", edited.ledger[1]);
        assert!(edited.weights == undisturbed().weights, "other weights after {message}");
        // The same text is not tried again.
        let twice = run(&FILES, move |step| match step {
            5 | 9 | 10 => vec![("recipe.rhai", Some(text.clone()))],
            _ => Vec::new(),
        });
        assert_eq!(twice.outcomes(), [Outcome::Adopted, Outcome::RolledBack], "{}", twice.shown);
    }
}

#[test]
fn the_record_holds_every_change_and_every_text() {
    let (good, bad) = (HELPER.replace("1.0", "2.0"), HELPER.replace("loss * 1.0", "oops"));
    let edited = run(&FILES, {
        let (good, bad) = (good.clone(), bad.clone());
        move |step| match step {
            3 => vec![("helper.rhai", Some(good.clone()))],
            6 => vec![("helper.rhai", Some(bad.clone()))],
            _ => Vec::new(),
        }
    });
    let recorded = retune::train::ledger::Recorded::read(&edited.out).unwrap();
    assert_eq!(recorded.entries, edited.ledger);
    assert_eq!(
        recorded.entries[0].files[0].diff,
        "@@ -1 +1 @@\n-fn scaled(loss) { loss * 1.0 }\n+fn scaled(loss) { loss * 2.0 }\n"
    );
    assert_eq!(recorded.text(&recorded.entries[0].files[0].new).unwrap(), good);
    assert_eq!(recorded.text(&recorded.entries[1].files[0].new).unwrap(), bad);
    assert_eq!(recorded.first_texts().unwrap().values().filter(|text| *text == HELPER).count(), 1);
}

/// The rates of a run in which the rate is set to 2e-3 before the fifth of twelve updates.
fn rates(policy: RatePolicy) -> Vec<f64> {
    let requests = move |step: usize, _: &Live| match step {
        4 => vec![Request::Set(vec![("learning_rate".into(), Value::Float(2e-3))], policy, unanswered())],
        _ => Vec::new(),
    };
    let finished = run_with(&FILES, Reruns::Never, |_| Vec::new(), requests);
    assert_eq!(finished.ledger[0].lr_policy.as_deref(), Some(policy.as_str()));
    finished.history.iter().filter_map(|log| log.get("learning_rate")).map(|rate| rate.as_f64().unwrap()).collect()
}

#[test]
fn the_policies_of_the_learning_rate() {
    let before = |step: usize| 1e-3 * (12 - step) as f64 / 12.0;
    let check = |policy: RatePolicy, after: &dyn Fn(usize) -> f64| {
        for (step, rate) in rates(policy).into_iter().enumerate() {
            let expected = if step < 4 { before(step) } else { after(step) };
            assert!((rate - expected).abs() < 1e-15, "{policy:?} at step {step}: {rate} instead of {expected}");
        }
    };
    check(RatePolicy::KeepShape, &|step| 2.0 * before(step));
    check(RatePolicy::Rewarp, &|step| 2e-3 * (12 - step) as f64 / 8.0);
    check(RatePolicy::Constant, &|_| 2e-3);
}

#[test]
fn a_run_that_goes_on_from_a_checkpoint_knows_what_changed_before_it() {
    let longer = RECIPE.replace("max_steps: 12", "num_train_epochs: 3");
    let wider = longer.replace("train_batch_size: 4", "train_batch_size: 8");
    let files = [("recipe.rhai", longer.as_str()), FILES[1], FILES[2]];
    let requests = |step: usize, _: &Live| match step {
        3 => vec![Request::Set(vec![("learning_rate".into(), Value::Float(2e-3))], RatePolicy::Rewarp, unanswered())],
        8 => vec![Request::Save(unanswered())],
        _ => Vec::new(),
    };
    let edit = once(2, "recipe.rhai", wider.clone());
    let whole = run_with(&files, Reruns::Never, edit, requests);
    assert_eq!(whole.failed, None, "{}", whole.shown);
    // Six updates of four rows, then twice three of eight.
    assert_eq!(whole.history.last().unwrap()["step"], 12);
    let checkpoint = whole.out.join("checkpoint-8");
    let text = wider.replace("learning_rate: 1e-3", "learning_rate: 2e-3").replace(
        "trainer.train();",
        &format!("trainer.train(#{{ resume_from_checkpoint: {:?} }});", checkpoint.display().to_string()),
    );
    let resumed = run(&[("recipe.rhai", text.as_str()), FILES[1], FILES[2]], |_| Vec::new());
    assert_eq!(resumed.failed, None, "{}", resumed.shown);
    assert!(resumed.weights == whole.weights, "other weights");
    assert_eq!(resumed.ledger, whole.ledger[..2], "the ledger goes on");
}
