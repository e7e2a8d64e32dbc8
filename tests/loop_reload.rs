//! Hot reload in a training loop of a script's own: new functions of its task count from the next step on.

use retune::api::live::Request;
use retune::host::reload::Reruns;
use retune::train::ledger::Outcome;

use crate::live_run::{Finished, TASK, once, run, run_with};

/// Twelve steps of a loop without a Trainer.
const RECIPE: &str = r#"let rows = [];
for i in 0..24 {
    let ids = [2];
    for j in 0..(1 + i * 7 % 10) { ids.push(4 + (i * 31 + j * 17 + j * j * i) % 36); }
    ids.push(3);
    rows.push(#{ input_ids: ids, labels: i * i % 2 });
}
let data = Dataset::from_rows(rows);
let out = arg("out", "out");
let base = BertForSequenceClassification::from_config(#{
    vocab_size: 40, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4,
    intermediate_size: 64, max_position_embeddings: 16, initializer_range: 0.2, num_labels: 2,
});
base.save_pretrained(out + "/base");
let model = AutoModelForTask::from_pretrained(out + "/base", "task.rhai", #{ num_labels: 2 });
let loader = DataLoader(data, #{ model: model, batch_size: 4, shuffle: true });
let optimizer = AdamW(model, #{ lr: 1e-3 });
let history = [];
model.train();
for epoch in 0..2 {
    for batch in loader {
        let loss = model.forward(batch).loss;
        loss.backward();
        history.push(#{ loss: loss.item() });
        optimizer.step();
        optimizer.zero_grad();
    }
}
model.save_pretrained(out);
write_json(out + "/history.json", history);
"#;

const FILES: [(&str, &str); 2] = [("recipe.rhai", RECIPE), ("task.rhai", TASK)];

const FORWARD: &str = "head.scorer.forward(hidden.mean(batch).dropout(0.1, batch))";

fn same(one: &Finished, other: &Finished) {
    assert_eq!(one.failed, None, "{}", one.shown);
    assert_eq!(other.failed, None, "{}", other.shown);
    assert_eq!(one.history.len(), 12);
    assert_eq!(one.history, other.history, "{}", one.shown);
    assert!(one.weights == other.weights, "other weights");
}

#[test]
fn a_new_forward_counts_from_the_next_step_of_a_loop_on() {
    let new = "head.scorer.forward(hidden.first(batch) * 0.5)";
    let edited = run(&FILES, once(5, "task.rhai", TASK.replace(FORWARD, new)));
    assert_eq!(edited.outcomes(), [Outcome::Adopted], "{}", edited.shown);
    assert_eq!(edited.ledger[0].step, 5);
    assert!(edited.ledger[0].message.as_ref().unwrap().contains("loss of the held batch"), "{}", edited.shown);
    let switching = TASK.replace(FORWARD, &format!("if current_update() <= 5 {{ {FORWARD} }} else {{ {new} }}"));
    same(&edited, &run(&[FILES[0], ("task.rhai", &switching)], |_| Vec::new()));
    let undisturbed = run(&FILES, |_| Vec::new());
    assert!(edited.history != undisturbed.history && edited.history[..5] == undisturbed.history[..5]);
}

#[test]
fn a_broken_task_leaves_no_trace_in_a_loop() {
    let broken = |forward: &str| Some(TASK.replace(FORWARD, forward));
    let edited = run(&FILES, move |step| match step {
        2 => vec![("task.rhai", broken("head.scorer.forward(hidden)"))],
        3 => vec![("task.rhai", broken("throw \"no\""))],
        4 => vec![("task.rhai", broken("head.scorer.forward("))],
        5 => vec![("task.rhai", broken("head.scorer.forward(hidden.mean(batch)) * (0.0 / 0.0)"))],
        // This one is right when it is tried, and fails when it is used.
        7 => vec![("task.rhai", broken(&format!("if current_update() > 9 {{ throw \"late\" }} {FORWARD}")))],
        _ => Vec::new(),
    });
    use Outcome::{Adopted, Refused, RolledBack};
    assert_eq!(edited.outcomes(), [Refused, Refused, Refused, Refused, Adopted, RolledBack], "{}", edited.shown);
    assert_eq!(edited.ledger[5].step, 9);
    same(&edited, &run(&FILES, |_| Vec::new()));
}

#[test]
fn what_needs_a_trainer_is_refused_with_a_reason() {
    let (sender, answers) = std::sync::mpsc::channel();
    let finished = run_with(
        &FILES,
        Reruns::Never,
        |_| Vec::new(),
        move |step, _| {
            let sender = sender.clone();
            let answer = Box::new(move |answer: retune::error::Result<_>| drop(sender.send(answer)));
            match step {
                2 => vec![Request::Evaluate(answer)],
                3 => vec![Request::Status(answer)],
                _ => Vec::new(),
            }
        },
    );
    assert_eq!(finished.failed, None);
    let error = answers.recv().unwrap().unwrap_err();
    assert!(error.to_string().contains("the recipe has a loop of its own"), "{error}");
    assert_eq!(answers.recv().unwrap().unwrap()["step"], 3);
    assert!(finished.shown.contains("an evaluation is a Trainer's"), "{}", finished.shown);
}

/// What the loop itself calls is the recipe's own: it cannot change while it goes on, and says so.
#[test]
fn an_edit_of_the_loop_itself_is_noted() {
    let edited = run(
        &FILES,
        once(4, "recipe.rhai", RECIPE.replace("optimizer.zero_grad();", "optimizer.zero_grad(); let x = 1;")),
    );
    assert_eq!(edited.outcomes(), [Outcome::Noted], "{}", edited.shown);
    assert!(edited.shown.contains("it counts when the recipe runs again"), "{}", edited.shown);
}
