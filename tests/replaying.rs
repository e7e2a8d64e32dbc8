//! A run with edits, repeated from its record, and as one recipe: the same bits each time.

use std::path::Path;

use retune::api::live::{Live, Request, unanswered};
use retune::data::Value;
use retune::host::bake::bake;
use retune::host::diagnostics::Style;
use retune::host::reload::Reruns;
use retune::host::replay;
use retune::host::run::{Host, RunSettings};
use retune::host::sources::Sources;
use retune::report::Reporter;
use retune::train::ledger::{Outcome, Recorded};
use retune::train::live_arguments::RatePolicy;

use crate::live_run::{Edits, FILES, Finished, HELPER, RECIPE, TASK, history, run, run_with};

/// Functions, arguments, a helper and a task change, one edit is refused, one is rolled back, and somebody asks for things.
fn edited() -> Finished {
    let loss = "helper::scaled(cross_entropy(output, batch.labels))";
    let rate = |text: &str| text.replace("learning_rate: 1e-3", "learning_rate: 2e-3");
    let doubled = move |text: &str| text.replace(loss, "helper::scaled(cross_entropy(output, batch.labels)) * 2.0");
    let failing = |text: &str| text.replace("if state.global_step == 1000", "if state.no_such_key == 1000");
    let edits = move |step: usize| -> Edits {
        match step {
            2 => vec![("recipe.rhai", Some(doubled(RECIPE)))],
            3 => vec![("helper.rhai", Some(HELPER.replace("1.0", "0.5")))],
            5 => vec![("recipe.rhai", Some(rate(&doubled(RECIPE))))],
            6 => vec![("helper.rhai", Some("fn scaled(loss) { lose }".into()))],
            7 => vec![("recipe.rhai", Some(failing(&rate(&doubled(RECIPE)))))],
            8 => vec![("task.rhai", Some(TASK.replace("dropout(0.1, batch)", "dropout(0.2, batch)")))],
            _ => Vec::new(),
        }
    };
    let requests = |step: usize, _: &Live| match step {
        4 => vec![Request::Evaluate(unanswered())],
        9 => {
            let pairs = vec![("weight_decay".to_string(), Value::Float(0.1))];
            vec![Request::Set(pairs, RatePolicy::KeepShape, unanswered())]
        }
        10 => {
            let pairs = vec![("learning_rate".to_string(), Value::Float(5e-4))];
            vec![Request::Set(pairs, RatePolicy::Constant, unanswered())]
        }
        _ => Vec::new(),
    };
    let finished = run_with(&FILES, Reruns::Never, edits, requests);
    assert_eq!(finished.failed, None, "{}", finished.shown);
    use Outcome::{Adopted, Refused, RolledBack};
    let expected = [Adopted, Adopted, Adopted, Adopted, Refused, Adopted, RolledBack, Adopted, Adopted, Adopted];
    assert_eq!(finished.outcomes(), expected, "{}", finished.shown);
    finished
}

#[test]
fn a_replay_gives_the_same_bits() {
    let edited = edited();
    let recorded = Recorded::read(&edited.out).unwrap();
    // What lies on disk now is not what is replayed.
    for (name, _) in FILES {
        std::fs::write(edited.folder.path().join(name), "throw \"another text\";").unwrap();
    }
    let folder = edited.folder.path().join("again");
    let (reporter, sources) = (Reporter::capture(), Sources::default());
    let settings = replay::settings(&recorded, RunSettings::new("", reporter.clone()));
    let host = replay::host(&recorded, settings, &sources, &folder).unwrap();
    if let Err(error) = replay::run(&host, &recorded) {
        panic!("{}\n{}", error.render(&sources, Style::Plain), reporter.captured().stderr);
    }
    assert_eq!(history(&folder), edited.history);
    assert!(std::fs::read(folder.join("model.safetensors")).unwrap() == edited.weights, "other weights");
}

#[test]
fn a_replay_that_goes_another_way_says_where() {
    let edited = edited();
    let mut recorded = Recorded::read(&edited.out).unwrap();
    recorded.entries.retain(|entry| entry.outcome != Outcome::RolledBack);
    let sources = Sources::default();
    let settings = replay::settings(&recorded, RunSettings::new("", Reporter::capture()));
    let host = replay::host(&recorded, settings, &sources, &edited.folder.path().join("again")).unwrap();
    let error = replay::run(&host, &recorded).unwrap_err();
    assert!(error.message.contains("another way at step 7"), "{}", error.message);
}

fn run_baked(folder: &Path, recipe: &str) -> (Vec<u8>, Vec<serde_json::Map<String, serde_json::Value>>, String) {
    let out = folder.join("baked");
    let (reporter, sources) = (Reporter::capture(), Sources::default());
    let mut settings = RunSettings::new(recipe, reporter.clone());
    settings.arguments.insert("out".into(), out.display().to_string());
    if let Err(error) = Host::new(settings, &sources).run() {
        panic!("{}", error.render(&sources, Style::Plain));
    }
    (std::fs::read(out.join("model.safetensors")).unwrap(), history(&out), reporter.captured().stderr)
}

#[test]
fn a_baked_recipe_gives_the_same_bits() {
    let edited = edited();
    let baked = bake(&Recorded::read(&edited.out).unwrap()).unwrap();
    let names: Vec<&str> = baked.iter().map(|(name, _)| name.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["recipe.baked.rhai", "helper.baked.rhai", "task.baked.rhai"]);
    for (name, text) in &baked {
        std::fs::write(name, text).unwrap();
    }
    // Nothing of the edited scripts is needed.
    for (name, _) in FILES {
        std::fs::remove_file(edited.folder.path().join(name)).unwrap();
    }
    let (weights, history, shown) = run_baked(edited.folder.path(), &baked[0].0);
    for (now, then) in history.iter().zip(&edited.history) {
        assert_eq!(now, then, "{shown}\n{}", baked[0].1);
    }
    assert_eq!(history.len(), edited.history.len());
    assert!(weights == edited.weights, "other weights");
}

#[test]
fn a_baked_recipe_is_one_that_people_read() {
    let old = "    helper::scaled(cross_entropy(output, batch.labels))\n";
    let edited = run(&FILES, {
        let new = RECIPE.replace(old, "    cross_entropy(output, batch.labels) // plain\n");
        crate::live_run::once(5, "recipe.rhai", new.replace("learning_rate: 1e-3,", "learning_rate: 3e-3,"))
    });
    let [(_, text)] = bake(&Recorded::read(&edited.out).unwrap()).unwrap().try_into().unwrap();
    let functions = "fn compute_loss__1(output, batch) {\n    helper::scaled(cross_entropy(output, batch.labels))\n}\n\n\
        fn compute_loss__2(output, batch) {\n    cross_entropy(output, batch.labels) // plain\n}\n\n\
        fn compute_loss(output, batch) {\n    if current_update() <= 5 { return compute_loss__1(output, batch); }\n    \
        compute_loss__2(output, batch)\n}\n";
    assert!(text.contains(functions), "{text}");
    let changes =
        "    save_strategy: \"no\",\n    changes: [\n        #{ step: 5, learning_rate: 0.003 },\n    ],\n});";
    assert!(text.contains(changes), "{text}");
}

/// The recipe of a run with one edit at update 6, baked, gives the same bits.
fn bakes_to_the_same_bits(text: String, outcomes: &[Outcome]) -> String {
    let edited = run(&FILES, crate::live_run::once(5, "recipe.rhai", text));
    assert_eq!(edited.failed, None, "{}", edited.shown);
    assert_eq!(edited.outcomes(), outcomes, "{}", edited.shown);
    let baked = bake(&Recorded::read(&edited.out).unwrap()).unwrap();
    for (name, text) in &baked {
        std::fs::write(name, text).unwrap();
    }
    let (weights, history, shown) = run_baked(edited.folder.path(), &baked[0].0);
    assert_eq!(history, edited.history, "{shown}\n{}", baked[0].1);
    assert!(weights == edited.weights, "other weights");
    baked[0].1.clone()
}

#[test]
fn a_run_in_which_a_version_was_taken_back_is_baked() {
    use Outcome::{Adopted, RolledBack};
    // A loss that is used for two updates and fails in the third, and a callback that fails when it has been in use.
    let loss = RECIPE
        .replace(
            "fn compute_loss(output, batch) {",
            "fn compute_loss(output, batch) { if current_update() > 7 { throw \"late\" }",
        )
        .replace("helper::scaled(cross_entropy(output, batch.labels))", "cross_entropy(output, batch.labels) * 3.0");
    let text = bakes_to_the_same_bits(loss, &[Adopted, RolledBack]);
    assert!(text.contains("if current_update() <= 5") && text.contains("if current_update() <= 7"), "{text}");
    let callback = RECIPE.replace(
        "if state.global_step == 1000 {",
        "if state.global_step > 8 { throw \"late\" } if state.global_step == 1000 {",
    );
    bakes_to_the_same_bits(callback, &[Adopted, RolledBack]);
    // What fails at once has done nothing, but what came with it has changed arguments.
    let both = RECIPE
        .replace("if state.global_step == 1000 {", "if state.no_such_key == 1000 {")
        .replace("learning_rate: 1e-3", "learning_rate: 2e-3");
    let text = bakes_to_the_same_bits(both, &[Adopted, RolledBack]);
    assert!(text.contains("#{ step: 5, learning_rate: 0.002 }"), "{text}");
}

#[test]
fn a_version_that_was_used_in_part_of_an_update_is_not_baked() {
    let text = RECIPE
        .replace("helper::scaled(cross_entropy(output, batch.labels))", "cross_entropy(output, batch.labels) * 3.0")
        .replace("if state.global_step == 1000 {", "if state.no_such_key == 1000 {");
    let edited = run(&FILES, crate::live_run::once(5, "recipe.rhai", text));
    assert_eq!(edited.outcomes(), [Outcome::Adopted, Outcome::RolledBack], "{}", edited.shown);
    assert!(edited.ledger[1].called.contains(&"compute_loss".to_string()), "{:?}", edited.ledger);
    let error = bake(&Recorded::read(&edited.out).unwrap()).unwrap_err();
    let said = "`compute_loss` was called at step 6 by a version that was taken back then";
    assert!(error.to_string().contains(said), "{error}");
}
