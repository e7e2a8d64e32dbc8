//! What the task of question answering calls: windows of a long context, the best spans of each, answers over all of them.

use candle_core::Tensor;
use rhai::plugin::*;
use rhai::{Array, Map};

use crate::batch::Batch;
use crate::data::{Dataset, Row, Value};
use crate::error::{Result, What};
use crate::head::script::convert::{ScriptResult, from_dynamic, raise, row_to_dynamic, to_dynamic, type_name};
use crate::head::{best_answers as answers, question_windows as questions};
use crate::tokenizer::Tokenizer;

/// Makes the functions known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_global_module(exported_module!(question_functions).into());
}

#[export_module]
mod question_functions {
    /// The windows of a row with `question`, `context` and, where it has a label, `answers`: one feature map each.
    ///
    /// Options, with Hugging Face's names: `max_length` (also `max_seq_length`, `max_seq_len`), never above the model's;
    /// `doc_stride` (also `stride`): how many tokens of the context a window shares with the one before it, by default 128, or half of
    /// `max_length` where that is less; `max_question_len`: longer questions are cut, by default those that would fill a
    /// window, to 64 tokens or half a window. `check_answers: true` refuses answers that do
    /// not stand where their `answer_start` says. `start_positions` and `end_positions` are those of the first gold answer; the
    /// class token's place stands for a question without an answer, and for an answer that is not wholly in the window.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let row = #{
    ///     question: "Where does the ferry land?",
    ///     context: "The ferry leaves at nine. It lands in the old harbour.",
    ///     answers: #{ text: ["in the old harbour"], answer_start: [35] },
    /// };
    /// let windows = question_windows(tokenizer, row, #{ max_length: 16, doc_stride: 4 });
    /// expect(windows.len > 1 && windows[0].input_ids.len == 16, "the context does not fit into one window");
    /// expect(windows[0].start_positions == 0, "the first window does not hold the answer");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn question_windows(tokenizer: Tokenizer, row: Map, options: Map) -> ScriptResult<Array> {
        super::windows(&tokenizer, row, options).map_err(raise)
    }

    /// The best spans of each window of a batch, as run_qa collects them, for `reduce` of a task.
    ///
    /// `output` has `start_logits` and `end_logits`, one score a token. Options: `n_best_size` (20) and `max_answer_length` (30).
    /// One map a window: `start_logits`, `end_logits`, `starts` and `ends` of its spans, best first, and `null`, the scores of "no answer".
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 5, 3] }]);
    /// let scores = #{ start_logits: Tensor::zeros([3]), end_logits: Tensor::zeros([3]) };
    /// expect(n_best_spans(scores, batch, #{}) == [()], "a row that a recipe has encoded itself is no window of a text");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn n_best_spans(output: Map, batch: Batch, options: Map) -> ScriptResult<Array> {
        super::spans(&output, &batch, options, answers::n_best_spans).map_err(raise)
    }

    /// The best answer to each question over its windows, for `metrics` of a task: `#{ predictions, references }` as `squad` and `squad_v2` take them.
    ///
    /// `predictions` are those of `n_best_spans`. Options: `n_best_size` (20), `version_2_with_negative` (false) and
    /// `null_score_diff_threshold` (0.0): an answer is empty where "no answer" scores higher by more than that.
    ///
    /// ```rhai
    /// let window = #{ number: 0, id: "q1", context: "It lands in the harbour.", answers: ["in the harbour"] };
    /// let spans = #{ start_logits: [2.0, 1.0], end_logits: [1.5, 1.0], starts: [9, 0], ends: [23, 2], "null": [4.0, 0.5] };
    /// let best = best_answers([spans], [#{ window: window }], #{});
    /// expect(best.predictions[0].prediction_text == "in the harbour", "the span with the higher score");
    /// let best = best_answers([spans], [#{ window: window }], #{ version_2_with_negative: true });
    /// expect(best.predictions[0].prediction_text == "", "no answer scores 4.5, the span 3.5");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn best_answers(predictions: Array, references: Array, options: Map) -> ScriptResult<Map> {
        super::best(&predictions, &references, options).map_err(raise)
    }

    /// The best spans of each window of a batch, as Hugging Face's question-answering pipeline finds them, for `decode` of a task.
    ///
    /// Options: `top_k` (1), `max_answer_len` (15) and `align_to_words` (true). One map a window: `scores`, `starts` and `ends`,
    /// best first, and `null`, the score of "no answer".
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 5, 3] }]);
    /// let refused = "";
    /// try { answer_spans(#{ start_logits: Tensor::zeros([3]) }, batch, #{}); } catch (error) { refused = error.to_string(); }
    /// expect(refused.contains("end_logits"), "there must be scores of both ends");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn answer_spans(output: Map, batch: Batch, options: Map) -> ScriptResult<Array> {
        super::spans(&output, &batch, options, answers::answer_spans).map_err(raise)
    }

    /// The answer to a row's question from `answer_spans` of its windows, for `merge` of a task: `#{ score, start, end, answer }`.
    ///
    /// With `top_k` above 1, an array of at most that many, best first; with `handle_impossible_answer`, one of them may be empty.
    ///
    /// ```rhai
    /// let spans = #{ scores: [0.5, 0.25], starts: [0, 9], ends: [2, 23], "null": 0.125 };
    /// let row = #{ context: "It lands in the harbour." };
    /// expect(merge_answers([spans], row, #{}).answer == "It", "the best one");
    /// let more = merge_answers([spans, spans], row, #{ top_k: 3, handle_impossible_answer: true });
    /// expect(more[0].score == 1.0 && more[2].answer == "", "equal answers of several windows are one");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn merge_answers(results: Array, row: Map, options: Map) -> ScriptResult<Dynamic> {
        super::merge(&results, row, options).map_err(raise)
    }

    /// Checks that every answer of a data set stands in its context where its `answer_start` says.
    ///
    /// The first that does not is an error with the row, what stands there instead and where the answer is found.
    ///
    /// ```rhai
    /// let row = #{ context: "naïve 🙂 ferry", question: "What?", answers: #{ text: ["ferry"], answer_start: [8] } };
    /// check_answers(Dataset::from_rows([row]));
    /// row.answers.answer_start = [12];
    /// let refused = "";
    /// try { check_answers(Dataset::from_rows([row])); } catch (error) { refused = error.to_string(); }
    /// expect(refused.contains("ferry"), "12 would be its place in bytes");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn check_answers(dataset: Dataset) -> ScriptResult<()> {
        super::check(&dataset).map_err(raise)
    }
}

fn value(map: Map) -> Result<Value> {
    from_dynamic(&Dynamic::from_map(map))
}

fn row_of(row: Map) -> Result<Row> {
    match value(row)? {
        Value::Map(row) => Ok(row),
        _ => Err(What::Internal("a map became something else".into()).into()),
    }
}

fn values(list: &[Dynamic]) -> Result<Vec<Value>> {
    list.iter().map(from_dynamic).collect()
}

fn array(values: &[Value]) -> Array {
    values.iter().map(to_dynamic).collect()
}

fn windows(tokenizer: &Tokenizer, row: Map, options: Map) -> Result<Array> {
    let rows = questions::windows(tokenizer, &row_of(row)?, &value(options)?)?;
    Ok(rows.iter().map(row_to_dynamic).collect())
}

type Reader = fn(&Tensor, &Tensor, &Batch, &Value) -> Result<Vec<Value>>;

fn spans(output: &Map, batch: &Batch, options: Map, read: Reader) -> Result<Array> {
    let scores = |name: &str| {
        let found = output.get(name).cloned().unwrap_or_default();
        let (of, wanted) = (format!("`{name}` of the output"), "a Tensor".to_string());
        let got = type_name(&found);
        found.try_cast::<Tensor>().ok_or(What::WrongType { name: of, wanted, got })
    };
    Ok(array(&read(&scores("start_logits")?, &scores("end_logits")?, batch, &value(options)?)?))
}

fn best(predictions: &[Dynamic], references: &[Dynamic], options: Map) -> Result<Map> {
    let (found, golds) = answers::best_answers(&values(predictions)?, &values(references)?, &value(options)?)?;
    let parts = [("predictions", found), ("references", golds)];
    Ok(parts.into_iter().map(|(name, list)| (name.into(), Dynamic::from_array(array(&list)))).collect())
}

fn merge(results: &[Dynamic], row: Map, options: Map) -> Result<Dynamic> {
    Ok(to_dynamic(&answers::merge_answers(&values(results)?, &row_of(row)?, &value(options)?)?))
}

fn check(dataset: &Dataset) -> Result<()> {
    let mut rows = dataset.rows().iter().enumerate();
    rows.try_for_each(|(index, row)| questions::check_answers(row).map_err(|error| dataset.locate(error, index)))
}
