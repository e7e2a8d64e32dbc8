//! A model: an encoder with a task's head on it.

use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};
use std::time::Instant;

use candle_core::{Device, Tensor};
use serde_json::{Map, Value as Json};

use crate::batch::{Batch, Features, ListLabels};
use crate::data::files::Folder;
use crate::data::{Row, Value, durable};
use crate::error::{Error, Result, What};
use crate::head::autograd::{Deposit, LoopState};
use crate::head::generation::defaults;
use crate::head::output::Leading;
use crate::head::{Function, Head, HeadBuilder, Output, Task};
use crate::kernels::linear::{OfModel, WithinModel};
use crate::kernels::profile::{self, Part};
use crate::model::backbone::LoadSettings;
use crate::model::encoder::Encoder;
use crate::model::family::Family;
use crate::model::parameters::Parameters;
use crate::model::{Backbone, ModelConfig, save};
use crate::tokenizer::{Tokenizer, TokenizerOptions};

/// A model with a head. Cheap to clone; all clones are the same model.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    name: String,
    config: RwLock<ModelConfig>,
    family: &'static Family,
    encoder: Encoder,
    parameters: Parameters,
    head: RwLock<Arc<Head>>,
    architecture: String,
    device: Device,
    leading: OnceLock<Vec<Leading>>,
    report: LoadReport,
    state: LoopState,
    head_gradients: Arc<Deposit>,
    /// Where it was loaded from: the tokenizer's files lie beside the weights.
    folder: Option<Folder>,
    tokenizer: RwLock<Option<Tokenizer>>,
    /// generation_config.json; empty where there was none.
    generation_config: Map<String, Json>,
}

/// The file of what a head remembers beside its parameters.
const HEAD_STATE: &str = "head_state.bin";

/// A model that does not keep its weights alive.
#[derive(Clone)]
pub struct WeakModel(Weak<Inner>);

impl WeakModel {
    /// The model, unless it is gone.
    pub fn upgrade(&self) -> Option<Model> {
        self.0.upgrade().map(Model)
    }
}

/// How a model is made.
pub struct ModelSettings {
    /// The name it was asked for by, for messages.
    pub name: String,
    /// What follows the family's class prefix: `ForSequenceClassification`.
    pub suffix: String,
    /// The head.
    pub task: Arc<dyn Task>,
    /// How the encoder is loaded.
    pub load: LoadSettings,
}

/// What became of a checkpoint's weights, for people.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// The model's name.
    pub name: String,
    /// The number of tensors that were filled from the checkpoint.
    pub matched: usize,
    /// Parameters that are new.
    pub new: Vec<String>,
    /// Tensors of the checkpoint that were not used.
    pub unused: Vec<String>,
    /// Parameters whose shape differs: name, shape in the checkpoint, shape in the model.
    pub mismatched: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// The checkpoint's stored type.
    pub dtype_from: String,
    /// The number of parameters.
    pub parameters: usize,
    /// Seconds that loading took.
    pub seconds: f64,
}

impl Model {
    /// Loads a model from a folder and puts the task's head on it.
    ///
    /// # Errors
    /// Those of [`Backbone::from_pretrained`], a head of another shape, and what the task raises.
    pub fn from_pretrained(folder: &Folder, settings: ModelSettings) -> Result<Self> {
        let started = Instant::now();
        let backbone = Backbone::from_pretrained(folder, &settings.load)?;
        Self::with_head(backbone, settings, started, Some(folder))
    }

    /// A model with new weights.
    ///
    /// # Errors
    /// Those of [`Backbone::from_config`], and what the task raises.
    pub fn from_config(config: ModelConfig, settings: ModelSettings) -> Result<Self> {
        let started = Instant::now();
        let backbone = Backbone::from_config(config, &settings.load)?;
        Self::with_head(backbone, settings, started, None)
    }

    fn with_head(
        backbone: Backbone,
        settings: ModelSettings,
        started: Instant,
        folder: Option<&Folder>,
    ) -> Result<Self> {
        let sizes = backbone.encoder.config();
        let (deviation, eps) = (sizes.initializer_range, sizes.layer_norm_eps);
        let builder = HeadBuilder::new(backbone.builder.clone(), backbone.family, deviation, eps);
        let head = settings.task.create(&builder, &backbone.config)?;
        let record = backbone.record();
        let parameters = backbone.builder.parameters().clone();
        let report = LoadReport {
            name: settings.name.clone(),
            matched: record.matched.len(),
            new: record.new,
            unused: record.unused,
            mismatched: record.mismatched,
            dtype_from: backbone.stored_type,
            parameters: parameters.count(),
            seconds: started.elapsed().as_secs_f64(),
        };
        let model = Model(Arc::new(Inner {
            name: settings.name,
            config: RwLock::new(backbone.config),
            family: backbone.family,
            encoder: backbone.encoder,
            parameters,
            head: RwLock::new(Arc::new(Head { task: settings.task, state: head })),
            architecture: backbone.family.class_name(&settings.suffix),
            device: settings.load.device,
            leading: OnceLock::new(),
            report,
            state: LoopState::default(),
            head_gradients: Arc::default(),
            generation_config: folder.map(defaults::read).transpose()?.unwrap_or_default(),
            folder: folder.cloned(),
            tokenizer: RwLock::default(),
        }));
        if let Some(folder) = folder {
            model.load_head_state(folder)?;
        }
        model.probe();
        Ok(model)
    }

    /// Learns from two rows of two and three tokens whether the task's outputs have one entry a row or one a token; a
    /// task whose forward needs columns of its own is asked at its first real batch instead.
    fn probe(&self) {
        let row = |n: usize| Features::of_tokens(&vec![0; n], 0);
        let attempt = || -> Result<Option<Vec<Leading>>> {
            let batch = Batch::pack(&[(0, &row(2)), (1, &row(3))], &self.0.device)?;
            let shape = (batch.n_tokens(), self.0.encoder.config().hidden_size);
            let hidden = Tensor::zeros(shape, candle_core::DType::F32, &self.0.device)?;
            let head = self.head();
            Ok(head.task.forward(&head.state, &hidden, &batch)?.leading(&batch))
        };
        if let Ok(Some(leading)) = attempt() {
            self.0.leading.get_or_init(|| leading);
        }
    }

    /// What a list under `labels` counts: a head with one output a row has its labels a row too.
    pub fn list_labels(&self) -> ListLabels {
        match self.0.leading.get() {
            Some(leading) if leading.iter().all(|kind| *kind == Leading::Rows) => ListLabels::PerRow,
            _ => ListLabels::ByLength,
        }
    }

    /// The same model, not kept alive.
    pub fn downgrade(&self) -> WeakModel {
        WeakModel(Arc::downgrade(&self.0))
    }

    /// What a training loop of a script's own keeps of it.
    pub(super) fn loop_state(&self) -> &LoopState {
        &self.0.state
    }

    /// The gradients that the head's backward leaves beside candle's store.
    pub(super) fn head_gradients(&self) -> &Deposit {
        &self.0.head_gradients
    }

    /// The name the model was asked for by.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The configuration as it is now.
    pub fn config(&self) -> ModelConfig {
        self.0.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the configuration: label names and problem type.
    pub fn change_config(&self, change: impl FnOnce(&mut ModelConfig)) {
        change(&mut self.0.config.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The family.
    pub fn family(&self) -> &'static Family {
        self.0.family
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.0.encoder
    }

    /// The parameters by name.
    pub fn parameters(&self) -> &Parameters {
        &self.0.parameters
    }

    /// The task.
    pub fn task(&self) -> Arc<dyn Task> {
        self.head().task.clone()
    }

    /// The task with what it has made.
    pub fn head(&self) -> Arc<Head> {
        self.0.head.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the model another head over its parameters, between two forwards.
    pub(super) fn set_head(&self, head: Arc<Head>) {
        *self.0.head.write().unwrap_or_else(PoisonError::into_inner) = head;
    }

    /// Where the parameters live.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// What became of the checkpoint's weights.
    pub fn load_report(&self) -> &LoadReport {
        &self.0.report
    }

    /// The class name, for example `BertForSequenceClassification`.
    pub fn architecture(&self) -> &str {
        &self.0.architecture
    }

    /// A batch of examples, given with their row numbers: packed, and padded where the task asks for it.
    ///
    /// # Errors
    /// Those of [`Batch::pack`].
    pub fn pack(&self, examples: &[(usize, &Features)]) -> Result<Batch> {
        let head = self.head();
        if head.task.pads_rows() {
            let pad_id = self.config().count_or("pad_token_id", 0)? as u32;
            return Batch::pack_padded(examples, pad_id, &self.0.device);
        }
        Batch::pack(examples, &self.0.device)
    }

    /// The batch that the forward gets: what the task's `collate` makes of it, where there is one.
    ///
    /// # Errors
    /// What the task raises.
    pub fn collate(&self, batch: Batch, options: &Value) -> Result<Batch> {
        let head = self.head();
        if head.task.has(Function::Collate) { head.task.collate(&head.state, batch, options) } else { Ok(batch) }
    }

    /// Logits of a batch.
    ///
    /// # Errors
    /// A token the model has no entry for, and what the task raises; items are turned into rows.
    pub fn forward(&self, batch: &Batch) -> Result<Output> {
        batch.start_forward();
        let hidden = self.0.encoder.forward(batch)?;
        let _part = profile::begin(Part::Head);
        self.head_on(&hidden, batch)
    }

    /// The head's output for hidden states that come from elsewhere, as [`Model::forward`] gives it for the encoder's.
    ///
    /// # Errors
    /// What the task raises.
    pub fn head_forward(&self, hidden: &Tensor, batch: &Batch) -> Result<Output> {
        batch.start_forward();
        self.head_on(hidden, batch)
    }

    fn head_on(&self, hidden: &Tensor, batch: &Batch) -> Result<Output> {
        let sink = Some(self.0.head_gradients.sink(&self.0.parameters));
        let _within = WithinModel::set(OfModel { precision: self.0.encoder.precision(), sink });
        let head = self.head();
        head.task.forward(&head.state, hidden, batch).map_err(|error| batch.relocate(error))
    }

    /// The tokenizer that goes with the model: the one it was trained with, else that of the folder it was loaded from.
    ///
    /// # Errors
    /// A folder without a tokenizer, or files that are broken.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        let mut known = self.0.tokenizer.write().unwrap_or_else(PoisonError::into_inner);
        if let (None, Some(folder)) = (&*known, &self.0.folder) {
            *known = Some(Tokenizer::from_folder(folder, TokenizerOptions::default())?);
        }
        Ok(known.clone())
    }

    /// Keeps the tokenizer that the model is trained with.
    pub fn remember_tokenizer(&self, tokenizer: &Tokenizer) {
        *self.0.tokenizer.write().unwrap_or_else(PoisonError::into_inner) = Some(tokenizer.clone());
    }

    /// The model's own settings of text generation: generation_config.json, else what config.json says of special tokens.
    pub fn generation_config(&self) -> Map<String, Json> {
        match self.0.generation_config.is_empty() {
            true => defaults::of_config(&self.config(), self.0.family),
            false => self.0.generation_config.clone(),
        }
    }

    /// The task's loss of an output of [`Model::forward`].
    ///
    /// # Errors
    /// What the task raises, and a loss that is not a scalar.
    pub fn loss(&self, output: &Output, batch: &Batch) -> Result<Tensor> {
        let _part = profile::begin(Part::Head);
        let head = self.head();
        let loss = head.task.loss(&head.state, output, batch).map_err(|error| batch.relocate(error))?;
        scalar(loss)
    }

    /// One value a row of an output of [`Model::forward`].
    ///
    /// # Errors
    /// An output with neither one entry a row nor one a token.
    pub fn per_row(&self, output: &Output, batch: &Batch) -> Result<Vec<Value>> {
        let leading = match self.0.leading.get() {
            Some(leading) if leading.len() == output.tensors().len() => leading.clone(),
            _ => output.leading(batch).unwrap_or_else(|| vec![Leading::Rows; output.tensors().len()]),
        };
        output.per_row(batch, &leading)
    }

    /// What the task's pipeline returns for an output of [`Model::forward`].
    ///
    /// # Errors
    /// What the task raises, or a task without `decode`.
    pub fn decode(
        &self,
        output: &Output,
        batch: &Batch,
        options: &Value,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Value> {
        let head = self.head();
        if !head.task.has(Function::Decode) {
            return Err(Error::new(What::Unsupported(format!("a pipeline for the task `{}`", head.task.name())))
                .hint("give the task a function `decode(output, batch, options)`"));
        }
        head.task.decode(&head.state, output, batch, options, tokenizer)
    }

    /// What the task's pipeline returns for a row, from what was decoded of each of its features.
    ///
    /// # Errors
    /// What the task raises.
    pub fn merge(&self, results: &Value, row: &Row, options: &Value) -> Result<Value> {
        let head = self.head();
        head.task.merge(&head.state, results, row, options)
    }

    /// The little that the task's metrics need of an output of [`Model::forward`].
    ///
    /// # Errors
    /// What the task raises.
    pub fn reduce(&self, output: &Output, batch: &Batch, options: &Value) -> Result<Value> {
        let head = self.head();
        head.task.reduce(&head.state, output, batch, options)
    }

    /// The task's metrics of predictions against references.
    ///
    /// # Errors
    /// What the task raises.
    pub fn metrics(&self, predictions: &Value, references: &Value, options: &Value) -> Result<Value> {
        let head = self.head();
        head.task.metrics(&head.state, predictions, references, options)
    }

    /// Reads the state of the head that a model was saved with, where it has one.
    ///
    /// # Errors
    /// A file that cannot be read, and what the task raises.
    pub fn load_head_state(&self, folder: &Folder) -> Result<()> {
        match folder.read(HEAD_STATE)? {
            Some(state) => self.set_head_state(&state),
            None => Ok(()),
        }
    }

    /// Writes config.json and model.safetensors into `folder`, as Hugging Face's `save_pretrained` does.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn save_pretrained(&self, folder: &Path) -> Result<()> {
        if folder.is_file() {
            let source = std::io::Error::from(std::io::ErrorKind::NotADirectory);
            return Err(Error::new(What::Write { path: folder.to_path_buf(), source })
                .hint("a model is saved as a folder, and there is a file of that name: choose another"));
        }
        let mut config = self.config();
        let head = self.head();
        if !head.task.name().starts_with("std/tasks/") {
            config.set("retune_task", Json::from(head.task.name()));
        }
        if let Some(record) = head.task.record() {
            config.set("retune_plugin", record);
        }
        let text = save::config_json(&config, self.0.family, &self.0.architecture);
        let tensors = self.0.parameters.all();
        let tensors: Vec<_> =
            tensors.iter().map(|parameter| (parameter.name().to_string(), parameter.value().detach())).collect();
        save::write_safetensors(&folder.join(crate::model::weights::SINGLE), &tensors)?;
        if let Some(state) = head.task.save_state(&head.state)? {
            durable::write_file(&folder.join(HEAD_STATE), &state)?;
        }
        if head.task.generates() {
            let text = defaults::to_text(&self.generation_config());
            durable::write_file(&folder.join(defaults::FILE), text.as_bytes())?;
        }
        durable::write_file(&folder.join("config.json"), text.as_bytes())
    }

    /// The longest row the model takes, in tokens.
    pub fn max_length(&self) -> usize {
        self.0.encoder.config().max_length()
    }

    /// The task's features of one row; a row without tokens has none where rows are joined into blocks.
    ///
    /// # Errors
    /// What the task raises, or features that are malformed.
    pub fn encode(&self, tokenizer: &Tokenizer, row: &Row, options: &Value) -> Result<Vec<Features>> {
        let head = self.head();
        let rows = head.task.encode(&head.state, tokenizer, row, options)?;
        let is_empty = |row: &Row| row.get("input_ids").and_then(Value::as_list).is_some_and(<[Value]>::is_empty);
        let joined = head.task.block_size(options)?.is_some();
        let rows = rows.iter().filter(|row| !(joined && is_empty(row)));
        rows.map(|row| Features::keeping(row, self.list_labels())).collect()
    }
}

/// Checks that a loss is a scalar.
///
/// # Errors
/// Any other shape.
pub fn scalar(loss: Tensor) -> Result<Tensor> {
    if loss.elem_count() != 1 {
        let problem = format!("the loss must be a scalar, but has shape {:?}", loss.dims());
        return Err(Error::new(What::Conflict(problem)).hint("take its mean: `loss.mean()`"));
    }
    Ok(if loss.rank() == 0 { loss } else { loss.flatten_all()?.get(0)? })
}
