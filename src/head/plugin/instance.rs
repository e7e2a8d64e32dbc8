//! A head that a plugin has made, and who may call it when.

use std::ffi::c_void;
use std::sync::{Arc, PoisonError, RwLock};

use retune_plugin_sdk::abi::{self, HeadFunction};

use crate::error::{Result, What};
use crate::head::HeadBuilder;
use crate::head::plugin::Environment;
use crate::head::plugin::services::{Parameters, Request};
use crate::plugin::call::{self, Given};
use crate::plugin::table::HOST;
use crate::plugin::{Declaration, Plugin};

/// A head of a plugin.
pub struct Instance {
    declaration: Arc<Declaration>,
    /// Keeps what the declaration came from.
    _plugin: Arc<Plugin>,
    /// What the head's parameters were made with, for a newer version of the head.
    pub(super) builder: HeadBuilder,
    /// The names of its parameters, in the order they were asked for.
    pub(super) parameters: Vec<String>,
    /// Those among them that it has made, and not found in the encoder.
    pub(super) own: Vec<String>,
    raw: *mut c_void,
    /// Functions run beside each other, unless the head is serial; `load_state` runs alone.
    turns: RwLock<()>,
}

/// What became of the parameters when a newer head took the place of an older one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Parameters that are new: they have no moments yet.
    pub made: Vec<String>,
    /// Parameters that the older head had made and the newer one does not use.
    pub unused: Vec<String>,
}

// SAFETY: the contract: functions of a head may be called on any thread, and on several at once unless it says otherwise, which
// `turns` sees to.
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

/// Makes a head.
///
/// # Errors
/// What the plugin raises.
pub(super) fn create(declaration: &Declaration, request: &mut Request<'_>) -> Result<*mut c_void> {
    let Some(create) = declaration.raw.create else {
        return Err(What::Internal("a head without `create` was let in".into()).into());
    };
    let mut raw = std::ptr::null_mut();
    // SAFETY: the contract; the place for the pointer lives during the call.
    let made =
        call::run(declaration.site("create"), Some(request), || unsafe { create(&raw const HOST, &raw mut raw) });
    match made {
        Ok(_) => Ok(raw),
        Err(error) => {
            // A head that was made although something had failed is given back.
            if let (false, Some(destroy)) = (raw.is_null(), declaration.raw.destroy) {
                // SAFETY: the contract: called once for what `create` has made.
                let _ = call::run(declaration.site("destroy"), None, || unsafe {
                    destroy(raw);
                    abi::OK
                });
            }
            Err(error)
        }
    }
}

impl Instance {
    pub(super) fn new(
        declaration: Arc<Declaration>,
        plugin: Arc<Plugin>,
        builder: HeadBuilder,
        raw: *mut c_void,
        parameters: Vec<String>,
        own: Vec<String>,
    ) -> Self {
        Instance { declaration, _plugin: plugin, builder, parameters, own, raw, turns: RwLock::new(()) }
    }

    /// The names of the head's parameters.
    pub fn parameters(&self) -> &[String] {
        &self.parameters
    }

    /// Calls a function of the head.
    ///
    /// # Errors
    /// What the plugin raises.
    pub(super) fn call(&self, function: &str, pointer: HeadFunction, request: &mut Request<'_>) -> Result<Given> {
        let serial = self.declaration.raw.flags & abi::SERIAL != 0;
        let _beside = (!serial).then(|| self.turns.read().unwrap_or_else(PoisonError::into_inner));
        let _alone = serial.then(|| self.turns.write().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: the contract: a function of this head, called with what its `create` has made.
        call::run(self.declaration.site(function), Some(request), || unsafe { pointer(self.raw, &raw const HOST) })
    }

    /// What the head remembers beside its parameters.
    ///
    /// # Errors
    /// What the plugin raises.
    pub fn save_state(&self, environment: &dyn Environment) -> Result<Option<Vec<u8>>> {
        let Some(pointer) = self.declaration.raw.save_state else { return Ok(None) };
        let mut request = Request::new(&self.builder, environment, Parameters::LookUp(&self.builder));
        let given = self.call("save_state", pointer, &mut request)?;
        Ok(Some(given.result.unwrap_or_default()))
    }

    /// The same bytes again.
    ///
    /// # Errors
    /// What the plugin raises.
    pub fn load_state(&self, environment: &dyn Environment, state: &[u8]) -> Result<()> {
        let Some(pointer) = self.declaration.raw.load_state else { return Ok(()) };
        let mut request = Request::new(&self.builder, environment, Parameters::LookUp(&self.builder));
        request.texts = vec![("state", state.to_vec())];
        let _alone = self.turns.write().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: as for `call`; no other function of the head runs.
        call::run(self.declaration.site("load_state"), Some(&mut request), || unsafe {
            pointer(self.raw, &raw const HOST)
        })
        .map(drop)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(destroy) = self.declaration.raw.destroy {
            // SAFETY: the contract: called once, last of all.
            let _ = call::run(self.declaration.site("destroy"), None, || unsafe {
                destroy(self.raw);
                abi::OK
            });
        }
    }
}
