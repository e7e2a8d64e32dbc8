//! Evaluation and prediction: forward only, in batches, answers in the order of the rows.

use std::sync::Arc;
use std::time::Instant;

use indexmap::IndexMap;
use serde_json::{Map, Value as Json};

use crate::batch::Batch;
use crate::batch::cut::Cut;
use crate::cancel;
use crate::data::{Dataset, Value};
use crate::error::{Error, Result, What};
use crate::head::encoded::encoded;
use crate::head::prepare::Prepared;
use crate::head::{Function, Leading, Output, Predictions, class_weights, label_of, reference_of};
use crate::model::parameters::without_gradients;
use crate::train::callbacks::{Event, Extra, Progress};
use crate::train::step::batch_of;
use crate::train::trainer::{Hooks, Trainer};

/// What there is to evaluate on: one data set, or several by name.
#[derive(Clone, Debug)]
pub enum EvaluationData {
    /// One data set; its metrics are `eval_...`.
    One(Dataset),
    /// Several by name; the metrics of `NAME` are `eval_NAME_...`.
    Named(IndexMap<String, Dataset>),
}

/// What an evaluation gave.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// The loss, where the data has labels, the metrics, and how long it took, each with its prefix.
    pub metrics: Map<String, Json>,
    /// Predictions and labels, one a row.
    pub predictions: Predictions,
}

/// What an evaluation is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Metrics,
    Predictions,
}

/// What gave the rows their labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    /// The data, or the task's `encode`.
    ByEncode,
    /// The task's `collate`: hidden tokens.
    ByCollate,
}

/// The label columns that are looked for when the arguments name none.
const DEFAULT_LABELS: [&str; 3] = ["labels", "start_positions", "end_positions"];

impl Trainer {
    /// Evaluates on `data`, or on the evaluation data of the trainer: logs the metrics and announces them, with `epoch`.
    ///
    /// # Errors
    /// No data, rows that cannot be encoded, labels that the model does not have, and what scripts raise.
    pub fn evaluate(&mut self, data: Option<&EvaluationData>, hooks: &mut Hooks<'_>) -> Result<Map<String, Json>> {
        let data = match data {
            Some(data) => data.clone(),
            None => self.settings.eval_dataset.clone().ok_or_else(|| {
                Error::new(What::Conflict("there is nothing to evaluate on".into()))
                    .hint("give the Trainer `eval_dataset`, or call `trainer.evaluate(dataset)`")
            })?,
        };
        let sets = match data {
            EvaluationData::One(dataset) => vec![("eval".to_string(), dataset)],
            EvaluationData::Named(sets) => {
                sets.into_iter().map(|(name, dataset)| (format!("eval_{name}"), dataset)).collect()
            }
        };
        let mut all = Map::new();
        for (prefix, dataset) in sets {
            let evaluation = self.run(&dataset, &prefix, Wanted::Metrics, hooks)?;
            let mut logged = self.log(evaluation.metrics, hooks)?;
            // Several data sets share one epoch, which stays the last key.
            all.shift_remove("epoch");
            let epoch = logged.shift_remove_entry("epoch");
            all.extend(logged);
            all.extend(epoch);
        }
        self.announce(Event::Evaluate, hooks, &Extra { metrics: Some(&all), ..Extra::default() })?;
        Ok(all)
    }

    /// Predicts `dataset`: one entry a row, in the order of the rows, with metrics where the rows have labels.
    ///
    /// # Errors
    /// As [`Trainer::evaluate`].
    pub fn predict(&mut self, dataset: &Dataset, hooks: &mut Hooks<'_>) -> Result<Evaluation> {
        let evaluation = self.run(dataset, "test", Wanted::Predictions, hooks)?;
        self.announce(Event::Predict, hooks, &Extra { metrics: Some(&evaluation.metrics), ..Extra::default() })?;
        Ok(evaluation)
    }

    /// Evaluates `dataset` and forgets the metrics.
    pub(super) fn try_evaluation(&mut self, dataset: &Dataset, hooks: &mut Hooks<'_>) -> Result<()> {
        self.run(dataset, "eval", Wanted::Metrics, hooks).map(|_| ())
    }

    fn run(&mut self, dataset: &Dataset, prefix: &str, wanted: Wanted, hooks: &mut Hooks<'_>) -> Result<Evaluation> {
        let started = Instant::now();
        let _precision = self.precision(hooks);
        let prepared = self.prepared(dataset, hooks)?;
        // In the order of the rows, as Hugging Face: a token-level loss is a mean of batch means. Without padding there is
        // nothing to win by sorting.
        let order: Vec<usize> = (0..prepared.features.len()).collect();
        let mut cut = Cut::new(order, self.settings.args.eval_limits(), |row| prepared.features[row].n_tokens());
        cut.truncate(self.settings.args.fast_dev_run.batches().unwrap_or(usize::MAX));
        let batches: Vec<&[usize]> = (0..cut.n_batches()).map(|number| cut.batch(number)).collect();
        let features = &prepared.features[..batches.iter().map(|batch| batch.len()).sum()];
        let first = batches.first().map(|indices| self.batch(&prepared, indices)).transpose()?;
        let (names, made) = self.label_names(&prepared, first.as_ref());
        let has_labels = !names.is_empty();
        let task = self.settings.model.task().clone();
        // Logits are kept where somebody asked for them; a task's own metrics need less of them, or nothing.
        let scores_task = has_labels && hooks.compute_metrics.is_none() && task.has(Function::Metrics);
        let reduces = scores_task && task.has(Function::Reduce);
        let keeps_logits = wanted == Wanted::Predictions
            || (has_labels && hooks.compute_metrics.is_some())
            || (scores_task && !reduces);
        let mut predictions = vec![Value::Null; if keeps_logits { features.len() } else { 0 }];
        let mut reduced = Vec::new();
        let mut made_labels = Vec::new();
        let (mut loss_sum, mut n_items) = (0.0, 0usize);
        let mut first = first;
        for (number, indices) in batches.iter().enumerate() {
            cancel::check()?;
            hooks.refuse_to_go_on()?;
            let batch = match first.take() {
                Some(batch) => batch,
                None => self.batch(&prepared, indices)?,
            };
            let output = without_gradients(|| self.settings.model.forward(&batch))?;
            if has_labels {
                let loss = match &mut hooks.compute_loss {
                    Some(compute) => compute.in_evaluation(&output, &batch)?,
                    None => self.settings.model.loss(&output, &batch)?,
                };
                let loss: f64 = loss.to_dtype(candle_core::DType::F64)?.to_scalar()?;
                // Hugging Face weighs a batch's loss by its rows.
                loss_sum += loss * batch.n_rows() as f64;
                n_items += batch.n_rows();
            }
            if keeps_logits {
                for (&index, value) in indices.iter().zip(self.settings.model.per_row(&output, &batch)?) {
                    predictions[index] = value;
                }
            }
            if keeps_logits && has_labels && made == Made::ByCollate {
                made_labels.extend(labels_of(&batch, &names)?);
            }
            if reduces {
                let values = self.settings.model.reduce(&output, &batch, &prepared.options)?;
                reduced.extend(one_each(values, &batch, task.name())?);
            }
            let progress = Progress { done: number + 1, total: batches.len() };
            self.announce(Event::PredictionStep, hooks, &Extra { progress: Some(progress), ..Extra::default() })?;
        }
        // Whoever looks at the labels looks at the logits too.
        let label_ids: Vec<Value> = match made {
            Made::ByCollate => made_labels,
            Made::ByEncode if has_labels && keeps_logits => {
                features.iter().map(|features| label_of(features, &names).unwrap_or(Value::Null)).collect()
            }
            Made::ByEncode => Vec::new(),
        };
        let mut metrics = Map::new();
        let loss = (n_items > 0).then(|| loss_sum / n_items as f64);
        if let Some(loss) = loss {
            metrics.insert(format!("{prefix}_loss"), Json::from(loss));
        }
        let predictions = Predictions { predictions, label_ids };
        let computed = match &mut hooks.compute_metrics {
            Some(compute) if has_labels => compute(&predictions)?,
            _ if scores_task => {
                let references = features.iter().map(|features| reference_of(features, &names)).collect();
                let given = if reduces { reduced } else { predictions.predictions.clone() };
                let options = with_loss(&prepared.options, loss);
                self.settings.model.metrics(&Value::List(given.into()), &Value::List(references), &options)?
            }
            _ => Value::Map(Arc::default()),
        };
        for (name, value) in named(computed)? {
            let name = if name.starts_with(&format!("{prefix}_")) { name } else { format!("{prefix}_{name}") };
            metrics.insert(name, value);
        }
        let seconds = started.elapsed().as_secs_f64();
        metrics.insert(format!("{prefix}_runtime"), Json::from(seconds));
        metrics.insert(format!("{prefix}_samples_per_second"), Json::from(features.len() as f64 / seconds));
        metrics.insert(format!("{prefix}_steps_per_second"), Json::from(batches.len() as f64 / seconds));
        Ok(Evaluation { metrics, predictions })
    }

    fn batch(&self, prepared: &Prepared, indices: &[usize]) -> Result<Batch> {
        batch_of(&self.settings.model, prepared, indices, self.settings.args.label_smoothing_factor)
    }

    /// The label columns that every row has; where there is none, those that the task's `collate` gave the first batch.
    fn label_names(&self, prepared: &Prepared, first: Option<&Batch>) -> (Vec<String>, Made) {
        let wanted: Vec<String> = match &self.settings.args.label_names {
            Some(names) => names.clone(),
            None => DEFAULT_LABELS.iter().map(ToString::to_string).collect(),
        };
        let has = |name: &&String| prepared.features.iter().all(|features| features.column(name).is_some());
        let own: Vec<String> = wanted.iter().filter(has).cloned().collect();
        if !own.is_empty() {
            return (own, Made::ByEncode);
        }
        let made = wanted.into_iter().filter(|name| first.is_some_and(|batch| batch.columns.contains_key(name)));
        (made.collect(), Made::ByCollate)
    }

    /// The features of a data set, encoded once and kept while the trainer lives.
    pub(super) fn prepared(&mut self, dataset: &Dataset, hooks: &mut Hooks<'_>) -> Result<Arc<Prepared>> {
        let key = Arc::as_ptr(dataset.rows()).cast::<()>() as usize;
        if let Some((_, _, prepared)) = self.encoded.iter().find(|(known, ..)| *known == key) {
            return Ok(prepared.clone());
        }
        let tokenizer = self.settings.tokenizer.as_ref();
        let is_balanced = class_weights::is_balanced(&self.settings.task_options);
        let prepared = match &self.settings.train_dataset {
            // Weights that follow from the training set have to be known before anything else is encoded.
            Some(train) if is_balanced && Arc::ptr_eq(train.rows(), dataset.rows()) => {
                let given = &self.settings.task_options;
                let (prepared, settled) =
                    class_weights::prepare_balanced(&self.settings.model, tokenizer, dataset, given)?;
                self.settings.task_options = settled;
                Arc::new(prepared)
            }
            Some(train) if is_balanced => {
                let train = train.clone();
                self.prepared(&train, hooks)?;
                return self.prepared(dataset, hooks);
            }
            _ => encoded(&self.settings.model, tokenizer, dataset, &self.settings.task_options)?,
        };
        if prepared.n_truncated > 0 {
            let (cut, all) = (prepared.n_truncated, dataset.len());
            hooks.note(&format!(
                "{cut} of {all} rows of `{}` were cut to {} tokens",
                dataset.name(),
                prepared.max_length
            ));
        }
        // The data set is kept beside its features, so that its address stays its own.
        self.encoded.push((key, dataset.clone(), prepared.clone()));
        Ok(prepared)
    }
}

/// The labels of a batch, one entry a row.
fn labels_of(batch: &Batch, names: &[String]) -> Result<Vec<Value>> {
    let tensors = names.iter().filter_map(|name| Some((name.clone(), batch.columns.get(name)?.clone())));
    let output = match tensors.collect::<Vec<_>>().as_slice() {
        [(_, one)] => Output::One(one.clone()),
        several => Output::Named(several.iter().cloned().collect()),
    };
    let leading = output.leading(batch).unwrap_or_else(|| vec![Leading::Rows; names.len()]);
    output.per_row(batch, &leading)
}

/// What a task's `reduce` returned, one value a feature.
fn one_each(values: Value, batch: &Batch, task: &str) -> Result<Vec<Value>> {
    match values {
        Value::List(values) if values.len() == batch.n_rows() => Ok(values.to_vec()),
        other => {
            let (name, wanted) =
                (format!("what `reduce` of the task `{task}` returns"), format!("a list of {} values", batch.n_rows()));
            Err(What::WrongType { name, wanted, got: other.type_name().into() }.into())
        }
    }
}

/// The options of a task's `metrics`.
fn with_loss(options: &Value, loss: Option<f64>) -> Value {
    let mut map = match options {
        Value::Map(map) => (**map).clone(),
        _ => IndexMap::new(),
    };
    map.insert("loss".into(), loss.map_or(Value::Null, Value::Float));
    Value::Map(Arc::new(map))
}

/// Metrics by name.
fn named(value: Value) -> Result<Map<String, Json>> {
    match value {
        Value::Map(map) => Ok(map.iter().map(|(name, value)| (name.clone(), value.to_json())).collect()),
        other => Err(Error::new(What::WrongType {
            name: "what `compute_metrics` returns".into(),
            wanted: "a map from names to numbers".into(),
            got: other.type_name().into(),
        })
        .hint("name it: `#{ accuracy: ... }`")),
    }
}
