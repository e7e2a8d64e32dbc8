//! `DataLoader(dataset, #{ ... })`: the batches of a data set, epoch by epoch, for a training loop of a script's own.
//!
//! Rows are encoded once by the model's task; each `for batch in loader` is the next epoch. While the model is in training mode
//! the batches carry the random draws that the Trainer's would have, so that a loop can equal it bit for bit.

#![expect(clippy::unwrap_used, reason = "in what `export_module` generates")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rhai::Map;
use rhai::plugin::*;

use crate::api::options::Options;
use crate::api::session::Session;
use crate::batch::cut::Limits;
use crate::batch::{Batch, features};
use crate::data::{Dataset, Row, Value};
use crate::error::{Error, Result, What};
use crate::head::script::convert::{ScriptResult, raise};
use crate::head::{Function, Model, class_weights, labels, options, prepare::prepare};
use crate::tokenizer::Tokenizer;
use crate::train::Sampling;
use crate::train::loader::{Layout, Loader, LoaderEpoch};

/// A loader as a script holds it. Cheap to clone; all clones count the same epochs.
#[derive(Clone)]
pub struct DataLoader {
    loader: Arc<Loader>,
    next_epoch: Arc<AtomicUsize>,
}

/// torch's options that change nothing here, and why.
const INERT: [(&str, &str); 5] = [
    ("num_workers", "rows are encoded once, in this process"),
    ("pin_memory", "rows are encoded once, in this process"),
    ("prefetch_factor", "rows are encoded once, in this process"),
    ("persistent_workers", "rows are encoded once, in this process"),
    ("timeout", "rows are encoded once, in this process"),
];

/// torch's options that this loader has by another name.
const REFUSED: [(&str, &str); 5] = [
    ("collate_fn", "leave it out: batches are packed without padding, and the model's task collates them"),
    ("sampler", "write `shuffle: true`, or `train_sampling_strategy: \"group_by_length\"`"),
    ("batch_sampler", "write `batch_size` and `shuffle`"),
    ("generator", "write `seed`"),
    ("worker_init_fn", "leave it out: there are no worker processes"),
];

impl DataLoader {
    fn new(session: &Session, dataset: &Dataset, options: Map) -> Result<Self> {
        let mut options = Options::new("`DataLoader`", options);
        let model = options.object::<Model>("model", "a model")?;
        let model = model.ok_or_else(|| options.missing("model", "give `model: model`: its task encodes the rows"))?;
        let named = options.object::<Tokenizer>("tokenizer", "a tokenizer")?;
        let tokenizer = options.object::<Tokenizer>("processing_class", "a tokenizer")?.or(named);
        for (key, why) in INERT {
            if options.take(key).is_some() {
                session.reporter().note(&format!("`{key}` of `DataLoader` changes nothing here: {why}"));
            }
        }
        for (key, hint) in REFUSED {
            if options.take(key).is_some() {
                return Err(Error::new(What::Unsupported(format!("`{key}` of `DataLoader`"))).hint(hint));
            }
        }
        let seed = options.count("seed", 0)?.map_or(session.seed(), |seed| seed as u64);
        let data_seed = options.count("data_seed", 0)?.map_or(seed, |seed| seed as u64);
        let (seed, data_seed) =
            if session.seed_is_forced() { (session.seed(), session.seed()) } else { (seed, data_seed) };
        let tokens = options.count("max_tokens_per_batch", 1)?;
        let rows = options.count("batch_size", 1)?.or(tokens.is_none().then_some(1));
        let layout = Layout {
            limits: Limits { rows, tokens, drop_last: options.bool("drop_last")?.unwrap_or(false) },
            accumulation: options.count("gradient_accumulation_steps", 1)?.unwrap_or(1),
            sampling: sampling(&mut options)?,
            seed: data_seed,
        };
        let label_smoothing = options.float("label_smoothing_factor")?.unwrap_or(0.0);
        if !(0.0..1.0).contains(&label_smoothing) {
            let name = "`label_smoothing_factor` of `DataLoader`".into();
            let allowed = "at least 0 and below 1".into();
            return Err(What::OutOfRange { name, value: label_smoothing.to_string(), allowed }.into());
        }
        let max_length = options.count(options::MAX_LENGTH, 1)?;
        let mut task_options = (*options.row("task_options")?).clone();
        if let Some(length) = max_length {
            task_options.insert(options::MAX_LENGTH.into(), Value::Int(length as i64));
        }
        options.finish()?;
        let task_options = Row::new(task_options);
        options::check(&*model.task(), &task_options, "`task_options`")?;
        labels::settle(&model, dataset, &task_options)?;
        if tokenizer.is_none() && !features::is_encoded(dataset.column_names()) && model.task().has(Function::Encode) {
            return Err(no_tokenizer(dataset));
        }
        let prepared = if class_weights::is_balanced(&task_options) {
            class_weights::prepare_balanced(&model, tokenizer.as_ref(), dataset, &task_options)?.0
        } else {
            prepare(&model, tokenizer.as_ref(), dataset, &task_options)?
        };
        if prepared.n_truncated > 0 {
            let (cut, all, length) = (prepared.n_truncated, dataset.len(), prepared.max_length);
            session
                .reporter()
                .note(&format!("{cut} of {all} rows of `{}` were cut to {length} tokens", dataset.name()));
        }
        let loader = Arc::new(Loader::new(model, prepared, layout, seed, label_smoothing)?);
        Ok(DataLoader { loader, next_epoch: Arc::default() })
    }

    /// The number of the next epoch.
    fn next(&self) -> usize {
        self.next_epoch.load(Ordering::Relaxed)
    }
}

fn no_tokenizer(dataset: &Dataset) -> Error {
    let problem = format!("the data set `{}` holds text, and there is no tokenizer", dataset.name());
    Error::new(What::BadData(problem)).hint("give the DataLoader `tokenizer: tokenizer`")
}

/// `shuffle`, or the Trainer's word for the order.
fn sampling(options: &mut Options) -> Result<Sampling> {
    let shuffle = options.bool("shuffle")?;
    let strategy = options.choice("train_sampling_strategy", Sampling::NAMES)?;
    match (shuffle, strategy.as_deref()) {
        (Some(_), Some(_)) => {
            let problem = "`shuffle` and `train_sampling_strategy` of `DataLoader` say the same";
            Err(Error::new(What::Conflict(problem.into())).hint("keep one of the two"))
        }
        (_, Some("group_by_length")) => Ok(Sampling::GroupByLength),
        (Some(true), _) | (_, Some("random")) => Ok(Sampling::Random),
        _ => Ok(Sampling::Sequential),
    }
}

/// The batches of one epoch.
pub struct Epoch {
    loader: Arc<Loader>,
    epoch: LoaderEpoch,
    next_window: usize,
    ready: VecDeque<Batch>,
    failed: bool,
}

impl Iterator for Epoch {
    type Item = ScriptResult<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if self.ready.is_empty() {
            match self.loader.window(&self.epoch, self.next_window) {
                Ok(window) => self.ready = window?.into(),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(raise(error)));
                }
            }
            self.next_window += 1;
        }
        self.ready.pop_front().map(Ok)
    }
}

impl IntoIterator for DataLoader {
    type Item = ScriptResult<Batch>;
    type IntoIter = Epoch;

    fn into_iter(self) -> Epoch {
        let epoch = self.next_epoch.fetch_add(1, Ordering::Relaxed);
        let epoch = self.loader.epoch(epoch);
        Epoch { loader: self.loader, epoch, next_window: 0, ready: VecDeque::new(), failed: false }
    }
}

/// Makes the type and its functions known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_type_with_name::<DataLoader>("DataLoader");
    engine.register_iterator_result::<DataLoader, Batch>();
    engine.register_global_module(exported_module!(loaders).into());
    engine.register_global_module(exported_module!(parts).into());
}

#[export_module]
mod loaders {
    /// The batches of a data set, for a training loop of the recipe's own.
    ///
    /// `for batch in loader { ... }` is one epoch, and the next such loop the next one. The rows are encoded once.
    ///
    /// Options: `model`, whose task encodes the rows; `tokenizer` (or `processing_class`); `batch_size` (1); `max_tokens_per_batch`,
    /// which bounds a batch's tokens, beside `batch_size` where that is given; `shuffle` (false) or `train_sampling_strategy`; `seed` of order and dropout (that of `set_seed`); `data_seed` of the order alone;
    /// `drop_last`; `max_length`; `gradient_accumulation_steps`, which tells each batch its `loss_scale` and the last one of
    /// a window `sync_gradients`; `label_smoothing_factor`; `task_options`.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let data = load_dataset("std/reviews", #{ split: "train[:20]" });
    /// let loader = DataLoader(data, #{ model: model, tokenizer: tokenizer, batch_size: 8, shuffle: true });
    /// let rows = 0;
    /// for batch in loader {
    ///     rows += batch.n_rows;
    /// }
    /// expect(rows == 20 && loader.len() == 3, "eight, eight and four");
    /// ```
    #[rhai_fn(name = "DataLoader", return_raw)]
    pub fn loader(context: NativeCallContext, dataset: Dataset, options: Map) -> ScriptResult<DataLoader> {
        DataLoader::new(&Session::of(&context), &dataset, options).map_err(raise)
    }

    /// The number of batches of the next epoch; with `max_tokens_per_batch` epochs differ.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let rows = Dataset::from_rows([#{ input_ids: [2, 5, 3] }, #{ input_ids: [2, 3] }, #{ input_ids: [2, 4, 3] }]);
    /// expect(DataLoader(rows, #{ model: model, batch_size: 2 }).len() == 2, "two rows and one");
    /// ```
    #[rhai_fn(name = "len", pure)]
    pub fn n_batches(loader: &mut DataLoader) -> i64 {
        loader.loader.n_batches(loader.next()) as i64
    }

    /// The number of updates of an epoch: batches, in windows of `gradient_accumulation_steps`.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let rows = Dataset::from_rows([#{ input_ids: [2, 5, 3] }, #{ input_ids: [2, 3] }, #{ input_ids: [2, 4, 3] }]);
    /// let loader = DataLoader(rows, #{ model: model, batch_size: 1, gradient_accumulation_steps: 2 });
    /// expect(loader.len() == 3 && loader.num_updates == 2, "two batches and one");
    /// ```
    #[rhai_fn(get = "num_updates", pure)]
    pub fn n_updates(loader: &mut DataLoader) -> i64 {
        loader.loader.n_updates(loader.next()) as i64
    }

    /// The number of encoded rows: windows of long rows count each.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let rows = Dataset::from_rows([#{ input_ids: [2, 5, 3] }, #{ input_ids: [2, 3] }]);
    /// expect(DataLoader(rows, #{ model: model }).num_rows == 2, "two rows");
    /// ```
    #[rhai_fn(get = "num_rows", pure)]
    pub fn n_features(loader: &mut DataLoader) -> i64 {
        loader.loader.n_rows() as i64
    }

    /// Makes the next loop over the loader the epoch `epoch`, counted from 0.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let rows = Dataset::from_rows([5, 6, 7, 8, 9, 10, 11, 12].map(|id| #{ input_ids: [id] }));
    /// let loader = DataLoader(rows, #{ model: model, batch_size: 8, shuffle: true });
    /// let orders = [];
    /// for epoch in [0, 1, 0] {
    ///     loader.set_epoch(epoch);
    ///     for batch in loader { orders.push(batch.input_ids.to_array()); }
    /// }
    /// expect(orders[0] != orders[1] && orders[0] == orders[2], "the order is a function of the epoch");
    /// ```
    #[rhai_fn(pure, return_raw)]
    pub fn set_epoch(loader: &mut DataLoader, epoch: i64) -> ScriptResult<()> {
        let Ok(epoch) = usize::try_from(epoch) else {
            let (name, allowed) = ("the epoch of `set_epoch`".into(), "at least 0".into());
            return Err(raise(What::OutOfRange { name, value: epoch.to_string(), allowed }.into()));
        };
        loader.next_epoch.store(epoch, Ordering::Relaxed);
        Ok(())
    }
}

#[export_module]
mod parts {
    /// What the batch's loss counts with in its accumulation window: its share of the window's labels; 1 without accumulation.
    ///
    /// `(outputs.loss * batch.loss_scale).backward()` adds up gradients as the Trainer does: one batch of 32 equals 4 of 8.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let rows = Dataset::from_rows([#{ input_ids: [2, 3], labels: 0 }, #{ input_ids: [2, 3], labels: 1 }]);
    /// for batch in DataLoader(rows, #{ model: model, gradient_accumulation_steps: 2 }) {
    ///     expect(batch.loss_scale == 0.5, "half of the window");
    /// }
    /// ```
    #[rhai_fn(get = "loss_scale", pure)]
    pub fn loss_scale(batch: &mut Batch) -> f64 {
        batch.part.share
    }

    /// Whether an accumulation window ends with this batch, as accelerate's `sync_gradients`: the time for `optimizer.step()`.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let rows = Dataset::from_rows([#{ input_ids: [2, 3] }, #{ input_ids: [2, 3] }, #{ input_ids: [2, 3] }]);
    /// let ends = [];
    /// for batch in DataLoader(rows, #{ model: model, gradient_accumulation_steps: 2 }) {
    ///     ends.push(batch.sync_gradients);
    /// }
    /// expect(ends == [false, true, true], "the last window is shorter");
    /// ```
    #[rhai_fn(get = "sync_gradients", pure)]
    pub fn sync_gradients(batch: &mut Batch) -> bool {
        batch.part.is_last
    }

    /// The number of labels that take part in the loss, of all batches of the accumulation window.
    ///
    /// ```rhai
    /// let model = AutoModelForSequenceClassification::from_pretrained("std/minilm-tiny");
    /// let rows = Dataset::from_rows([#{ input_ids: [2, 3], labels: 0 }, #{ input_ids: [2, 3], labels: -100 }]);
    /// for batch in DataLoader(rows, #{ model: model, gradient_accumulation_steps: 2 }) {
    ///     expect(batch.num_items_in_batch == 1, "the other label is ignored");
    /// }
    /// ```
    #[rhai_fn(get = "num_items_in_batch", pure)]
    pub fn num_items_in_batch(batch: &mut Batch) -> i64 {
        batch.part.num_items_in_batch as i64
    }
}
