//! `plugin:qa`: extractive question answering, the task `std/tasks/qa` in Rust: where the answer starts and ends.
//!
//! Parameters, options and numbers are those of the script.

use retune_plugin_sdk::{Cx, Function, Json, Linear, Outputs, Result, TaskHead, Tensor, export_heads};

/// The head: a linear layer over each token, to the scores of a start and an end.
pub struct Qa {
    dropout: f64,
    qa_outputs: Linear,
}

impl TaskHead for Qa {
    const NAME: &'static str = "qa";
    const OPTIONS: &'static str = r#"{
        "max_length": 384, "max_seq_length": null, "max_seq_len": null, "doc_stride": null, "stride": null,
        "max_question_len": null, "check_answers": false,
        "version_2_with_negative": false, "null_score_diff_threshold": 0.0, "n_best_size": 20, "max_answer_length": 30,
        "top_k": null, "max_answer_len": 15, "handle_impossible_answer": false, "align_to_words": true
    }"#;
    const FUNCTIONS: &'static [Function] =
        &[Function::Encode, Function::Decode, Function::Merge, Function::Reduce, Function::Metrics];
    /// Hugging Face's loss takes the softmax over the padded row.
    const PADS_ROWS: bool = true;

    fn create(cx: Cx<'_>, config: &Json) -> Result<Self> {
        let qa_outputs = Linear::new(cx, "qa_outputs", config.count("hidden_size")?, 2);
        Ok(Qa { dropout: config.number("qa_dropout")?, qa_outputs })
    }

    fn forward<'c>(&self, _: Cx<'c>, hidden: Tensor<'c>) -> Result<Outputs<'c>> {
        let logits = self.qa_outputs.forward(hidden.dropout(self.dropout)); // (tokens, 2)
        let side = |which| logits.narrow(1, which, 1).squeeze(1); // (tokens)
        Ok(Outputs::named([("start_logits", side(0)), ("end_logits", side(1))]))
    }

    /// The mean of both ends' cross entropy over the row; positions outside the row take no part.
    fn loss<'c>(&self, cx: Cx<'c>) -> Result<Tensor<'c>> {
        let side = |logits: &str, positions: &str| -> Result<Tensor<'c>> {
            let arguments = [cx.input(logits).into(), cx.input(positions).into(), cx.batch()];
            Ok(cx.tensor_of(&cx.call("span_loss", &arguments)?))
        };
        Ok((side("start_logits", "start_positions")? + side("end_logits", "end_positions")?) / 2.0)
    }

    fn encode(&self, cx: Cx<'_>, row: &Json, options: &Json) -> Result<Json> {
        cx.call("question_windows", &[cx.tokenizer(), row.clone(), options.clone()])
    }

    fn decode(&self, cx: Cx<'_>, options: &Json) -> Result<Json> {
        cx.call("answer_spans", &[output(cx), cx.batch(), options.clone()])
    }

    fn merge(&self, cx: Cx<'_>, results: &Json, row: &Json, options: &Json) -> Result<Json> {
        cx.call("merge_answers", &[results.clone(), row.clone(), options.clone()])
    }

    fn reduce(&self, cx: Cx<'_>, options: &Json) -> Result<Json> {
        cx.call("n_best_spans", &[output(cx), cx.batch(), options.clone()])
    }

    /// Rows that a recipe has encoded itself bring no texts to compare: they have a loss alone.
    fn metrics(&self, cx: Cx<'_>, predictions: &Json, references: &Json, options: &Json) -> Result<Json> {
        if predictions.list().first().is_none_or(Json::is_null) {
            return Ok(Json::map::<&str>([]));
        }
        let answers = cx.call("best_answers", &[predictions.clone(), references.clone(), options.clone()])?;
        let both = [answers.get("predictions").clone(), answers.get("references").clone()];
        if !options.get("version_2_with_negative").is_true() {
            return cx.call("squad", &both);
        }
        let mut scores = cx.call("squad_v2", &both)?;
        let exact = scores.get("exact").clone();
        scores.set("exact_match", exact);
        Ok(scores)
    }
}

fn output(cx: Cx<'_>) -> Json {
    Json::map(["start_logits", "end_logits"].map(|name| (name, cx.input(name).into())))
}

export_heads!(Qa);
