//! A model's head in another build of its plugin: parameters and state stay, and everything can be taken back.
//!
//! A model and a plugin flow in; the model has a head of the new build, over the parameters of the old one by name, and a
//! [`Change`] flows out that says which are new and which are gone, and leads back. Moments are left to the optimizer.

use std::sync::Arc;

use crate::error::Result;
use crate::head::plugin::Adopted;
use crate::head::{HeadState, Model, Task, WeakModel};
use crate::model::parameters::Parameter;
use crate::plugin::Plugin;

/// A task with what it has made for a model.
#[derive(Clone)]
pub struct Head {
    /// The task.
    pub task: Arc<dyn Task>,
    /// What its `create` made.
    pub state: HeadState,
}

/// A head of another build.
pub struct Rebuilt {
    /// The head.
    pub head: Head,
    /// What became of the parameters.
    pub adopted: Adopted,
}

/// What to do with a head's state when the head before it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// It was only tried: the state before it is the one that counts.
    Tried,
    /// It was in use, and what it remembers goes on.
    Used,
}

/// What a model had before its head was built anew.
pub struct Change {
    model: WeakModel,
    head: Arc<Head>,
    parameters: Vec<Arc<Parameter>>,
    /// What became of the parameters.
    pub adopted: Adopted,
}

/// Gives a model a head of another build.
///
/// # Errors
/// A plugin without such a head, a parameter that has another shape now, and what the plugin raises; nothing has changed then.
pub fn rebuild(model: &Model, plugin: &Arc<Plugin>) -> Result<Change> {
    let (head, parameters) = (model.head(), model.parameters().all());
    let rebuilt = head.task.rebuilt(plugin, &head.state, &model.config());
    let Rebuilt { head: new, adopted } = match rebuilt {
        Ok(rebuilt) => rebuilt,
        Err(error) => {
            // What was made before it failed.
            model.parameters().exchange(parameters);
            return Err(error);
        }
    };
    if adopted != Adopted::default() {
        let all = model.parameters().all().into_iter();
        model
            .parameters()
            .exchange(all.filter(|known| !adopted.unused.iter().any(|name| name == known.name())).collect());
    }
    model.set_head(Arc::new(new));
    Ok(Change { model: model.downgrade(), head, parameters, adopted })
}

impl Change {
    /// Gives the model back the head that it had.
    pub fn undo(&self, back: Back) {
        let Some(model) = self.model.upgrade() else { return };
        let state = (back == Back::Used).then(|| model.head_state());
        model.set_head(self.head.clone());
        if let Some(Ok(Some(state))) = state {
            // A state that the older build does not understand leaves it the one it had.
            let _ = model.set_head_state(&state);
        }
        if self.adopted != Adopted::default() {
            model.parameters().exchange(self.parameters.clone());
        }
    }
}

impl Model {
    /// What the head remembers beside its parameters.
    ///
    /// # Errors
    /// What the task raises.
    pub fn head_state(&self) -> Result<Option<Vec<u8>>> {
        let head = self.head();
        head.task.save_state(&head.state)
    }

    /// Lets the head remember after `attempt` what it did before.
    ///
    /// # Errors
    /// What the task or the attempt raises.
    pub fn leaving_no_trace<T>(&self, attempt: impl FnOnce() -> Result<T>) -> Result<T> {
        let state = self.head_state()?;
        let result = attempt();
        if let Some(state) = state {
            self.set_head_state(&state)?;
        }
        result
    }

    /// Lets the head remember what [`Model::head_state`] gave.
    ///
    /// # Errors
    /// What the task raises.
    pub fn set_head_state(&self, state: &[u8]) -> Result<()> {
        let head = self.head();
        head.task.load_state(&head.state, state)
    }
}
