//! `Batch`: several examples packed without padding, and what a head does with packed hidden states.

#![expect(clippy::unwrap_used, reason = "in what `export_module` generates")]

use candle_core::Tensor;
use indexmap::IndexMap;
use rhai::plugin::*;
use rhai::{Array, INT, ImmutableString, Map};

use crate::api::options::Options;
use crate::api::session::Session;
use crate::api::tensor::number;
use crate::batch::{Batch, Draw, Features, features};
use crate::data::Value;
use crate::error::{Result, What};
use crate::head::packed;
use crate::head::script::convert::{ScriptResult, from_dynamic, raise, raise_in, to_dynamic, type_name};

/// Makes the type and its functions known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_type_with_name::<Batch>("Batch");
    engine.register_static_module("Batch", exported_module!(constructors).into());
    engine.register_global_module(exported_module!(looks).into());
    engine.register_global_module(exported_module!(packing).into());
}

#[export_module]
mod constructors {
    /// A batch of encoded rows, each a map with `input_ids` and any other columns of numbers.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 5, 3], labels: 1 }, #{ input_ids: [2, 3], labels: 0 }]);
    /// expect(batch.n_rows == 2 && batch.n_tokens == 5, "packed: nothing is padded");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn of(context: NativeCallContext, rows: Array) -> ScriptResult<Batch> {
        super::pack(&Session::of(&context), &rows, Map::new()).map_err(raise_in(&context))
    }

    /// A batch of encoded rows with options: `training: true` for a batch whose dropout drops, by `seed` (42) and `step` (0);
    /// `label_smoothing` (0.0).
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 5, 3] }], #{ training: true, seed: 1 });
    /// expect(batch.training, "dropout drops");
    /// ```
    #[rhai_fn(name = "of", return_raw)]
    pub fn of_with(context: NativeCallContext, rows: Array, options: Map) -> ScriptResult<Batch> {
        super::pack(&Session::of(&context), &rows, options).map_err(raise_in(&context))
    }
}

#[export_module]
mod looks {
    /// The number of rows.
    ///
    /// ```rhai
    /// expect(Batch::of([#{ input_ids: [2, 3] }]).n_rows == 1, "one row");
    /// ```
    #[rhai_fn(get = "n_rows", pure)]
    pub fn n_rows(batch: &mut Batch) -> INT {
        batch.n_rows() as INT
    }

    /// The number of tokens of all rows together.
    ///
    /// ```rhai
    /// expect(Batch::of([#{ input_ids: [2, 3] }, #{ input_ids: [4] }]).n_tokens == 3, "two and one");
    /// ```
    #[rhai_fn(get = "n_tokens", pure)]
    pub fn n_tokens(batch: &mut Batch) -> INT {
        batch.n_tokens() as INT
    }

    /// The number of tokens of each row.
    ///
    /// ```rhai
    /// expect(Batch::of([#{ input_ids: [2, 3] }, #{ input_ids: [4] }]).lengths == [2, 1], "two and one");
    /// ```
    #[rhai_fn(get = "lengths", pure)]
    pub fn lengths(batch: &mut Batch) -> Array {
        super::array(&batch.lengths)
    }

    /// Where each row starts among the tokens; one more entry than there are rows, the last being the number of tokens.
    ///
    /// ```rhai
    /// expect(Batch::of([#{ input_ids: [2, 3] }, #{ input_ids: [4] }]).starts == [0, 2, 3], "and where the last one ends");
    /// ```
    #[rhai_fn(get = "starts", pure)]
    pub fn starts(batch: &mut Batch) -> Array {
        super::array(&batch.starts)
    }

    /// The rows' numbers in the data set they come from.
    ///
    /// ```rhai
    /// expect(Batch::of([#{ input_ids: [2, 3] }, #{ input_ids: [4] }]).rows == [0, 1], "in order");
    /// ```
    #[rhai_fn(get = "rows", pure)]
    pub fn rows(batch: &mut Batch) -> Array {
        super::array(&batch.rows)
    }

    /// Whether the batch is for training: then `dropout` drops.
    ///
    /// ```rhai
    /// expect(!Batch::of([#{ input_ids: [2, 3] }]).training, "not unless asked for");
    /// ```
    #[rhai_fn(get = "training", pure)]
    pub fn training(batch: &mut Batch) -> bool {
        batch.draw.is_some()
    }

    /// The share of a target that the loss spreads over all classes: `label_smoothing_factor` while training, else 0.
    ///
    /// ```rhai
    /// expect(Batch::of([#{ input_ids: [2, 3] }]).label_smoothing == 0.0, "none");
    /// ```
    #[rhai_fn(get = "label_smoothing", pure)]
    pub fn label_smoothing(batch: &mut Batch) -> f64 {
        batch.label_smoothing
    }

    /// The token ids of all rows, `(tokens)`.
    ///
    /// ```rhai
    /// expect(Batch::of([#{ input_ids: [2, 3] }, #{ input_ids: [4] }]).input_ids.to_array() == [2, 3, 4], "one after the other");
    /// ```
    #[rhai_fn(get = "input_ids", pure)]
    pub fn input_ids(batch: &mut Batch) -> Tensor {
        batch.input_ids.clone()
    }

    /// The position of each token in its row, `(tokens)`.
    ///
    /// ```rhai
    /// expect(Batch::of([#{ input_ids: [2, 3] }, #{ input_ids: [4] }]).position_ids.to_array() == [0, 1, 0], "from 0 in each row");
    /// ```
    #[rhai_fn(get = "position_ids", pure)]
    pub fn position_ids(batch: &mut Batch) -> Tensor {
        batch.position_ids.clone()
    }

    /// The segment of each token, `(tokens)`: 1 for the second text of a pair.
    ///
    /// ```rhai
    /// expect(Batch::of([#{ input_ids: [2, 3] }]).token_type_ids.to_array() == [0, 0], "one text");
    /// ```
    #[rhai_fn(get = "token_type_ids", pure)]
    pub fn token_type_ids(batch: &mut Batch) -> Tensor {
        batch.token_type_ids.clone()
    }

    /// What the task's `encode` kept under a name beside the numbers, one entry a row; `()` for rows without it.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 3], labels: 1 }]);
    /// expect(batch.kept("text") == [()], "rows that a recipe has encoded keep nothing");
    /// ```
    #[rhai_fn(pure)]
    pub fn kept(batch: &mut Batch, name: &str) -> Array {
        batch.kept.iter().map(|row| row.get(name).map_or(Dynamic::UNIT, to_dynamic)).collect()
    }

    /// Whether the batch has a column.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 3], labels: 1 }]);
    /// expect(batch.has("labels") && !batch.has("start_positions"), "labels alone");
    /// ```
    #[rhai_fn(pure)]
    pub fn has(batch: &mut Batch, name: &str) -> bool {
        matches!(name, "input_ids" | "position_ids" | "token_type_ids") || batch.columns.contains_key(name)
    }

    /// A column of the rows as a tensor, as `batch.labels` or `batch["labels"]`.
    ///
    /// Its shape is `(rows)`, `(rows, k)`, or `(tokens)` for one value a token. A column that the batch does not have is an
    /// error; `has` asks.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 3], labels: 1 }, #{ input_ids: [4], labels: 0 }]);
    /// expect(batch.labels.to_array() == [1, 0] && batch["labels"].is_int, "one a row");
    /// ```
    #[rhai_fn(index_get, return_raw, pure)]
    pub fn column(batch: &mut Batch, name: ImmutableString) -> ScriptResult<Tensor> {
        match name.as_str() {
            "input_ids" => Ok(batch.input_ids.clone()),
            "position_ids" => Ok(batch.position_ids.clone()),
            "token_type_ids" => Ok(batch.token_type_ids.clone()),
            name => batch.column(name).cloned().map_err(raise),
        }
    }
}

#[export_module]
mod packing {
    /// The vector of each row's first token: `(tokens, hidden)` to `(rows, hidden)`.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 3] }, #{ input_ids: [4] }]);
    /// let hidden = Tensor::from_array([[1.0], [2.0], [3.0]]);
    /// expect(hidden.first(batch).to_array() == [[1.0], [3.0]], "tokens 0 and 2");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn first(hidden: &mut Tensor, batch: Batch) -> ScriptResult<Tensor> {
        packed::first(hidden, &batch).map_err(raise)
    }

    /// The vector of each row's last token: `(tokens, hidden)` to `(rows, hidden)`.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 3] }, #{ input_ids: [4] }]);
    /// let hidden = Tensor::from_array([[1.0], [2.0], [3.0]]);
    /// expect(hidden.last(batch).to_array() == [[2.0], [3.0]], "tokens 1 and 2");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn last(hidden: &mut Tensor, batch: Batch) -> ScriptResult<Tensor> {
        packed::last(hidden, &batch).map_err(raise)
    }

    /// As `last`, passing over a row's closing tokens that are padding: `pad_token_id`, where it is not `()`.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 3, 0] }, #{ input_ids: [4] }]);
    /// let hidden = Tensor::from_array([[1.0], [2.0], [3.0], [4.0]]);
    /// expect(hidden.last(batch, #{ pad_token_id: 0 }).to_array() == [[2.0], [4.0]], "tokens 1 and 3");
    /// ```
    #[rhai_fn(name = "last", return_raw, pure)]
    pub fn last_with(hidden: &mut Tensor, batch: Batch, options: Map) -> ScriptResult<Tensor> {
        let mut options = Options::new("`last`", options);
        let pad = options.count("pad_token_id", 0).map_err(raise)?;
        options.finish().map_err(raise)?;
        match pad.and_then(|id| u32::try_from(id).ok()) {
            Some(id) => packed::last_unpadded(hidden, &batch, id).map_err(raise),
            None => packed::last(hidden, &batch).map_err(raise),
        }
    }

    /// The mean over each row's tokens: `(tokens, hidden)` to `(rows, hidden)`.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 3] }, #{ input_ids: [4] }]);
    /// let hidden = Tensor::from_array([[1.0], [2.0], [3.0]]);
    /// expect(hidden.mean(batch).to_array() == [[1.5], [3.0]], "each row by itself");
    /// ```
    #[rhai_fn(name = "mean", return_raw, pure)]
    pub fn mean_of_rows(hidden: &mut Tensor, batch: Batch) -> ScriptResult<Tensor> {
        packed::mean(hidden, &batch).map_err(raise)
    }

    /// The largest values over each row's tokens: `(tokens, hidden)` to `(rows, hidden)`.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 3] }, #{ input_ids: [4] }]);
    /// let hidden = Tensor::from_array([[1.0], [2.0], [-3.0]]);
    /// expect(hidden.max(batch).to_array() == [[2.0], [-3.0]], "each row by itself");
    /// ```
    #[rhai_fn(name = "max", return_raw, pure)]
    pub fn max_of_rows(hidden: &mut Tensor, batch: Batch) -> ScriptResult<Tensor> {
        packed::max(hidden, &batch).map_err(raise)
    }

    /// What stands behind each token in its row, `(tokens)` of whole numbers; -100, which losses ignore, where a row ends.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 3, 5] }, #{ input_ids: [4] }]);
    /// expect(batch.input_ids.next(batch).to_array() == [3, 5, -100, -100], "each row by itself");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn next(labels: &mut Tensor, batch: Batch) -> ScriptResult<Tensor> {
        packed::next(labels, &batch).map_err(raise)
    }

    /// The same batch, whose loss counts as a mean over those of `labels` that are not -100: for `collate` of a task.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 3, 5] }]);
    /// expect(batch.with_items(Tensor::from_array([3, 5, -100])).n_tokens == 3, "two labels take part");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn with_items(batch: &mut Batch, labels: Tensor) -> ScriptResult<Batch> {
        batch.clone().with_items(&labels).map_err(raise)
    }

    /// The same batch with a column of numbers, one a row or one a token: for `collate` of a task.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 3, 5] }]);
    /// expect(batch.with_column("labels", batch.input_ids).labels.to_array() == [2, 3, 5], "its own tokens");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn with_column(batch: &mut Batch, name: &str, values: Tensor) -> ScriptResult<Batch> {
        batch.clone().with_column(name, values).map_err(raise)
    }

    /// The padded view: `(tokens, hidden)` to `(rows, longest, hidden)`, with zeros where a row has ended.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 3] }, #{ input_ids: [4] }]);
    /// let hidden = Tensor::from_array([[1.0], [2.0], [3.0]]);
    /// expect(hidden.padded(batch).to_array() == [[[1.0], [2.0]], [[3.0], [0.0]]], "two rows of two");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn padded(hidden: &mut Tensor, batch: Batch) -> ScriptResult<Tensor> {
        packed::padded(hidden, &batch).map_err(raise)
    }

    /// Dropout: while training, each element is 0 with probability `p`, else divided by `1 - p`.
    ///
    /// What is dropped depends on the seed, the step, the row and the number of the call within the forward, and on nothing else.
    ///
    /// ```rhai
    /// let rows = [#{ input_ids: [2, 3, 4] }];
    /// let x = Tensor::ones([3, 100]);
    /// expect(x.dropout(0.5, Batch::of(rows)).min().item() == 1.0, "nothing is dropped in evaluation");
    /// let dropped = x.dropout(0.5, Batch::of(rows, #{ training: true }));
    /// expect(dropped.min().item() == 0.0 && dropped.max().item() == 2.0, "while training");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn dropout(x: &mut Tensor, p: Dynamic, batch: Batch) -> ScriptResult<Tensor> {
        number("the probability of `dropout`", &p).and_then(|p| packed::dropout(x, p, &batch)).map_err(raise)
    }
}

fn array(values: &[usize]) -> Array {
    values.iter().map(|&value| Dynamic::from(value as INT)).collect()
}

fn pack(session: &Session, rows: &[Dynamic], options: Map) -> Result<Batch> {
    let mut options = Options::new("`Batch::of`", options);
    let training = options.bool("training")?.unwrap_or(false);
    let seed = options.count("seed", 0)?.map_or_else(|| session.seed(), |seed| seed as u64);
    let step = options.count("step", 0)?.unwrap_or(0) as u64;
    let label_smoothing = options.float("label_smoothing")?.unwrap_or(0.0);
    options.finish()?;
    let read = |(index, row): (usize, &Dynamic)| match from_dynamic(row)? {
        Value::Map(map) => {
            let map: &IndexMap<String, Value> = &map;
            Features::from_row(map).map_err(|error| features::in_row(error, index))
        }
        _ => {
            let (name, got) = (format!("row {index} of `Batch::of`"), type_name(row));
            Err(What::WrongType { name, wanted: "a map with `input_ids`".into(), got }.into())
        }
    };
    let examples: Vec<Features> = rows.iter().enumerate().map(read).collect::<Result<_>>()?;
    let numbered: Vec<(usize, &Features)> = examples.iter().enumerate().collect();
    let mut batch = Batch::pack(&numbered, session.device())?;
    if training {
        batch = batch.training(Draw { seed, step }, 0);
    }
    batch.label_smoothing = label_smoothing;
    Ok(batch)
}
