//! The trait of a head: the functions of retune's task contract.

use crate::context::Cx;
use crate::json::Json;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The functions that a head may have beside `create`, `forward` and `loss`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// [`TaskHead::encode`].
    Encode,
    /// [`TaskHead::collate`].
    Collate,
    /// [`TaskHead::decode`].
    Decode,
    /// [`TaskHead::merge`].
    Merge,
    /// [`TaskHead::reduce`].
    Reduce,
    /// [`TaskHead::metrics`].
    Metrics,
    /// [`TaskHead::save_state`] and [`TaskHead::load_state`].
    State,
}

/// A head. Its functions take `&self` and may run on several threads at once; what changes is behind a lock or an atomic.
pub trait TaskHead: Sized + Send + Sync + 'static {
    /// The name after `plugin:`.
    const NAME: &'static str;

    /// The options of the functions from `encode` on with their defaults, a JSON map; `null` where an option has none.
    const OPTIONS: &'static str = "{}";

    /// The functions that the head has beside `create`, `forward` and `loss`: only these are called.
    const FUNCTIONS: &'static [Function] = &[];

    /// Whether the loss looks at padding, so that the rows of a batch are filled up to the longest.
    const PADS_ROWS: bool = false;

    /// Makes the head and its parameters. `config` has the keys of the model's config.json, `num_labels`, `label_names` and
    /// what the family says of its heads.
    ///
    /// # Errors
    /// A configuration that the head cannot work with.
    fn create(cx: Cx<'_>, config: &Json) -> Result<Self>;

    /// Hidden states `(tokens, hidden)` to outputs: each has one entry a row or one a token in its first dimension.
    ///
    /// # Errors
    /// What the head raises.
    fn forward<'c>(&self, cx: Cx<'c>, hidden: Tensor<'c>) -> Result<Outputs<'c>>;

    /// The loss, a scalar: the mean over the batch's labels. Outputs are inputs here, by their names.
    ///
    /// # Errors
    /// What the head raises.
    fn loss<'c>(&self, cx: Cx<'c>) -> Result<Tensor<'c>>;

    /// A row to a map of features, or to a list of such maps for windows of a long text.
    ///
    /// # Errors
    /// What the head raises.
    fn encode(&self, _cx: Cx<'_>, _row: &Json, _options: &Json) -> Result<Json> {
        Err(absent::<Self>("encode"))
    }

    /// Changes the batch before it is looked at, by functions of scripts that give a batch.
    ///
    /// # Errors
    /// What the head raises.
    fn collate(&self, _cx: Cx<'_>, _options: &Json) -> Result<()> {
        Err(absent::<Self>("collate"))
    }

    /// Outputs to what a pipeline returns: a list with one value a row.
    ///
    /// # Errors
    /// What the head raises.
    fn decode(&self, _cx: Cx<'_>, _options: &Json) -> Result<Json> {
        Err(absent::<Self>("decode"))
    }

    /// What was decoded of a row's windows to what a pipeline returns for the row.
    ///
    /// # Errors
    /// What the head raises.
    fn merge(&self, _cx: Cx<'_>, _results: &Json, _row: &Json, _options: &Json) -> Result<Json> {
        Err(absent::<Self>("merge"))
    }

    /// Outputs to the little that metrics need of them: a list with one value a row.
    ///
    /// # Errors
    /// What the head raises.
    fn reduce(&self, _cx: Cx<'_>, _options: &Json) -> Result<Json> {
        Err(absent::<Self>("reduce"))
    }

    /// Predictions and references of a data set to numbers by name.
    ///
    /// # Errors
    /// What the head raises.
    fn metrics(&self, _cx: Cx<'_>, _predictions: &Json, _references: &Json, _options: &Json) -> Result<Json> {
        Err(absent::<Self>("metrics"))
    }

    /// What the head remembers beside its parameters.
    ///
    /// # Errors
    /// What the head raises.
    fn save_state(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// The same bytes again: in a head that was just made, or in one that was tried out meanwhile and is to go on as before.
    ///
    /// # Errors
    /// Bytes of something else.
    fn load_state(&mut self, _state: &[u8]) -> Result<()> {
        Ok(())
    }
}

fn absent<T: TaskHead>(function: &str) -> Error {
    Error::new(format!("the head `{}` lists `{function}` among its functions, but does not have it", T::NAME))
}

/// What a forward gives: tensors by name.
pub struct Outputs<'c>(Vec<(&'static str, Tensor<'c>)>);

impl<'c> Outputs<'c> {
    /// Several tensors by name.
    pub fn named(tensors: impl IntoIterator<Item = (&'static str, Tensor<'c>)>) -> Self {
        Outputs(tensors.into_iter().collect())
    }

    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&'static str, Tensor<'c>)> {
        self.0.iter().copied()
    }
}

/// One tensor, which is called `logits`.
impl<'c> From<Tensor<'c>> for Outputs<'c> {
    fn from(logits: Tensor<'c>) -> Self {
        Outputs(vec![("logits", logits)])
    }
}
