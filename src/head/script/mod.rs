//! Tasks written in Rhai: a script's functions behind the task contract.
//!
//! The script is compiled by the host and has an engine of its own; each function is called with the script's syntax tree,
//! without running its top level again. Values go through `convert`.

pub mod convert;

use std::sync::{Arc, PoisonError, RwLock};

use candle_core::Tensor;
use rhai::{AST, CallFnOptions, Dynamic, Engine, EvalAltResult, FuncArgs, Map, Position, Scope};

use crate::batch::Batch;
use crate::cancel::meter;
use crate::data::{Row, Value};
use crate::error::{Error, Place, Result, What};
use crate::head::{Function, HeadBuilder, HeadState, Output, Task};
use crate::model::ModelConfig;
use crate::tokenizer::Tokenizer;
use convert::{from_dynamic, lower, row_to_dynamic, to_dynamic, type_name};

/// A task script, which may be replaced by another version of itself while a model uses it.
pub struct ScriptTask {
    name: String,
    engine: Arc<Engine>,
    version: RwLock<Arc<TaskVersion>>,
    fingerprint: RwLock<Option<String>>,
}

/// One version of a task script.
pub struct TaskVersion {
    name: String,
    engine: Arc<Engine>,
    ast: AST,
    /// The task that this one extends, as it is with the functions of this one in place of its own.
    base: Option<AST>,
    /// The functions that this script defines itself.
    own: Vec<String>,
    functions: Vec<(String, usize)>,
    pads_rows: bool,
    generates: bool,
}

/// The functions that every task has: name, number of parameters, signature.
const REQUIRED: [(&str, usize, &str); 3] = [
    ("create", 2, "create(p, config)"),
    ("forward", 3, "forward(head, hidden, batch)"),
    ("loss", 3, "loss(head, output, batch)"),
];
/// The functions that a task may have.
const OPTIONAL: [(&str, usize, &str); 12] = [
    ("padding", 0, "padding()"),
    ("options", 0, "options()"),
    ("encode", 3, "encode(tokenizer, row, options)"),
    ("block_size", 1, "block_size(options)"),
    ("collate", 2, "collate(batch, options)"),
    ("decode", 3, "decode(output, batch, options)"),
    ("decode", 4, "decode(output, batch, options, tokenizer)"),
    ("generates", 0, "generates()"),
    ("merge", 3, "merge(results, row, options)"),
    ("reduce", 3, "reduce(output, batch, options)"),
    ("metrics", 2, "metrics(predictions, references)"),
    ("metrics", 3, "metrics(predictions, references, options)"),
];

impl ScriptTask {
    /// A task of the functions of `ast`, called on `engine`. Functions that it lacks are those of `base`, the task it extends.
    ///
    /// # Errors
    /// As [`TaskVersion::new`].
    pub fn new(name: String, engine: Arc<Engine>, ast: AST, base: Option<&AST>) -> Result<Self> {
        let version = TaskVersion::new(name.clone(), engine.clone(), ast, base)?;
        Ok(ScriptTask { name, engine, version: RwLock::new(Arc::new(version)), fingerprint: RwLock::default() })
    }

    /// The version that is called now.
    pub fn version(&self) -> Arc<TaskVersion> {
        self.version.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls another version from now on. Parameters and moments belong to the model, and stay.
    pub fn set_version(&self, version: Arc<TaskVersion>) {
        *self.version.write().unwrap_or_else(PoisonError::into_inner) = version;
    }

    /// Says by which digest the task's functions are known: whoever has their text.
    pub fn set_fingerprint(&self, fingerprint: Option<String>) {
        *self.fingerprint.write().unwrap_or_else(PoisonError::into_inner) = fingerprint;
    }

    /// Another version of this task, called on the same engine.
    ///
    /// # Errors
    /// As [`TaskVersion::new`].
    pub fn other_version(&self, ast: AST, base: Option<&AST>) -> Result<Arc<TaskVersion>> {
        TaskVersion::new(self.name.clone(), self.engine.clone(), ast, base).map(Arc::new)
    }
}

impl TaskVersion {
    /// A version made of the functions of `ast`.
    ///
    /// # Errors
    /// A script that lacks one of `create`, `forward` and `loss`, or gives a function of the contract other parameters.
    pub fn new(name: String, engine: Arc<Engine>, ast: AST, base: Option<&AST>) -> Result<Self> {
        let own: Vec<_> = defined(&ast);
        for (wanted, _, signature) in REQUIRED.iter().chain(&OPTIONAL) {
            let found: Vec<_> = own.iter().filter(|(name, _)| name == wanted).collect();
            let fits =
                |n: usize| REQUIRED.iter().chain(&OPTIONAL).any(|(name, params, _)| name == wanted && *params == n);
            let required = base.is_none() && REQUIRED.iter().any(|(name, ..)| name == wanted);
            if found.iter().any(|(_, n)| fits(*n)) || (found.is_empty() && !required) {
                continue;
            }
            let problem = match found.first() {
                Some((_, n)) => {
                    let right = signature.matches(',').count() + usize::from(!signature.contains("()"));
                    format!("the task `{name}` has a function `{wanted}` with {n} parameters instead of {right}")
                }
                None => format!("the task `{name}` has no function `{wanted}`"),
            };
            let error = Error::new(What::Script(problem)).hint(format!("a task has a function `{signature}`"));
            return Err(match defined_at(&ast, wanted) {
                Some(line) => error.at(line),
                None => error,
            });
        }
        // Each script calls its functions by its own name, so that errors name the right file; both see the same functions.
        let (ast, base) = match base {
            None => (ast, None),
            Some(base) => {
                let with_source = |source: &AST| {
                    let mut merged = base.clone();
                    merged.combine(ast.clone());
                    merged.set_source(source.source().unwrap_or_default().to_string());
                    merged
                };
                (with_source(&ast), Some(with_source(base)))
            }
        };
        let functions = defined(&ast);
        let own = own.into_iter().map(|(name, _)| name).collect();
        let mut task = TaskVersion { name, engine, ast, base, own, functions, pads_rows: false, generates: false };
        if task.defines("padding", 0) {
            let value = task.call("padding", ())?;
            task.pads_rows = match value.clone().into_string().as_deref() {
                Ok("longest") => true,
                Ok("none") => false,
                _ => return Err(task.unexpected("padding", "\"longest\" or \"none\"", &value)),
            };
        }
        if task.defines("generates", 0) {
            let value = task.call("generates", ())?;
            task.generates = value.as_bool().map_err(|_| task.unexpected("generates", "a bool", &value))?;
        }
        Ok(task)
    }

    fn defines(&self, function: &str, n_params: usize) -> bool {
        self.functions.iter().any(|(name, n)| name == function && *n == n_params)
    }

    /// The script that a function comes from.
    fn script(&self, function: &str) -> &AST {
        match &self.base {
            Some(base) if !self.own.iter().any(|name| name == function) => base,
            _ => &self.ast,
        }
    }

    fn call(&self, function: &str, args: impl FuncArgs) -> Result<Dynamic> {
        self.run(function, args, |_| {})
    }

    /// Calls a function that was given a batch: errors that name an item of the batch name the row instead.
    fn call_on(&self, batch: &Batch, function: &str, args: impl FuncArgs) -> Result<Dynamic> {
        self.run(function, args, |error| relocate(error, batch))
    }

    fn run(&self, function: &str, args: impl FuncArgs, adjust: impl FnOnce(&mut EvalAltResult)) -> Result<Dynamic> {
        let options = CallFnOptions::new().eval_ast(false);
        let mut scope = Scope::new();
        let ast = self.script(function);
        let _call = meter::call();
        let result = self.engine.call_fn_with_options::<Dynamic>(options, &mut scope, ast, function, args);
        result.map_err(|mut error| {
            adjust(&mut error);
            // The position is one of this script, whatever script is being run when the error is shown.
            let source = ast.source().unwrap_or(&self.name).to_string();
            match *error {
                EvalAltResult::ErrorInFunctionCall(..) => lower(error),
                _ => lower(Box::new(EvalAltResult::ErrorInFunctionCall(
                    function.to_string(),
                    source,
                    error,
                    Position::NONE,
                ))),
            }
        })
    }

    fn unexpected(&self, function: &str, wanted: &str, got: &Dynamic) -> Error {
        let error = Error::new(What::WrongType {
            name: format!("what `{function}` of the task `{}` returns", self.name),
            wanted: wanted.into(),
            got: type_name(got),
        });
        match defined_at(self.script(function), function) {
            Some(line) => error.at(line),
            None => error,
        }
    }

    fn tensor(&self, function: &str, value: Dynamic) -> Result<Tensor> {
        match value.read_lock::<Tensor>() {
            Some(tensor) => Ok(tensor.clone()),
            None => Err(self.unexpected(function, "a Tensor", &value)),
        }
    }
}

impl Task for ScriptTask {
    fn name(&self) -> &str {
        &self.name
    }

    fn fingerprint(&self) -> Option<String> {
        self.fingerprint.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn pads_rows(&self) -> bool {
        self.version().pads_rows
    }

    fn generates(&self) -> bool {
        self.version().generates
    }

    fn has(&self, function: Function) -> bool {
        self.version().has(function)
    }

    fn options(&self) -> Result<Row> {
        self.version().options()
    }

    fn create(&self, builder: &HeadBuilder, config: &ModelConfig) -> Result<HeadState> {
        self.version().create(builder, config)
    }

    fn forward(&self, head: &HeadState, hidden: &Tensor, batch: &Batch) -> Result<Output> {
        self.version().forward(head, hidden, batch)
    }

    fn loss(&self, head: &HeadState, output: &Output, batch: &Batch) -> Result<Tensor> {
        self.version().loss(head, output, batch)
    }

    fn encode(&self, _head: &HeadState, tokenizer: &Tokenizer, row: &Row, options: &Value) -> Result<Vec<Row>> {
        self.version().encode(tokenizer, row, options)
    }

    fn block_size(&self, options: &Value) -> Result<Option<usize>> {
        self.version().block_size(options)
    }

    fn collate(&self, _head: &HeadState, batch: Batch, options: &Value) -> Result<Batch> {
        self.version().collate(batch, options)
    }

    fn decode(
        &self,
        _head: &HeadState,
        output: &Output,
        batch: &Batch,
        options: &Value,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Value> {
        self.version().decode(output, batch, options, tokenizer)
    }

    fn merge(&self, _head: &HeadState, results: &Value, row: &Row, options: &Value) -> Result<Value> {
        self.version().merge(results, row, options)
    }

    fn reduce(&self, _head: &HeadState, output: &Output, batch: &Batch, options: &Value) -> Result<Value> {
        self.version().reduce(output, batch, options)
    }

    fn metrics(&self, _head: &HeadState, predictions: &Value, references: &Value, options: &Value) -> Result<Value> {
        self.version().metrics(predictions, references, options)
    }
}

impl TaskVersion {
    fn has(&self, function: Function) -> bool {
        self.functions.iter().any(|(known, _)| known == function.name())
    }

    fn options(&self) -> Result<Row> {
        if !self.defines("options", 0) {
            return Ok(Row::default());
        }
        let value = self.call("options", ())?;
        match from_dynamic(&value)? {
            Value::Map(map) => Ok(map),
            _ => Err(self.unexpected("options", "a map from names to defaults", &value)),
        }
    }

    fn create(&self, builder: &HeadBuilder, config: &ModelConfig) -> Result<HeadState> {
        let head = self.call("create", (builder.clone(), convert::config_map(config)?))?;
        Ok(Arc::new(head))
    }

    fn forward(&self, head: &HeadState, hidden: &Tensor, batch: &Batch) -> Result<Output> {
        let value = self.call_on(batch, "forward", (script_head(head)?, hidden.clone(), batch.clone()))?;
        let Some(map) = value.read_lock::<Map>().map(|map| map.clone()) else {
            return self.tensor("forward", value).map(Output::One);
        };
        let tensors = map.into_iter().map(|(name, value)| Ok((name.to_string(), self.tensor("forward", value)?)));
        tensors.collect::<Result<_>>().map(Output::Named)
    }

    fn loss(&self, head: &HeadState, output: &Output, batch: &Batch) -> Result<Tensor> {
        let value = self.call_on(batch, "loss", (script_head(head)?, output_to_dynamic(output), batch.clone()))?;
        self.tensor("loss", value)
    }

    fn encode(&self, tokenizer: &Tokenizer, row: &Row, options: &Value) -> Result<Vec<Row>> {
        let value = self.call("encode", (tokenizer.clone(), row_to_dynamic(row), to_dynamic(options)))?;
        let features = |value: &Dynamic| match from_dynamic(value)? {
            Value::Map(map) => Ok(map),
            _ => Err(self.unexpected("encode", "a map of features, or an array of such maps", value)),
        };
        match value.as_array_ref() {
            Ok(several) => several.iter().map(features).collect(),
            Err(_) => Ok(vec![features(&value)?]),
        }
    }

    fn block_size(&self, options: &Value) -> Result<Option<usize>> {
        if !self.defines("block_size", 1) {
            return Ok(None);
        }
        let value = self.call("block_size", (to_dynamic(options),))?;
        if value.is_unit() {
            return Ok(None);
        }
        match value.as_int().ok().and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0) {
            Some(size) => Ok(Some(size)),
            None => Err(self.unexpected("block_size", "a number of tokens from 1, or ()", &value)),
        }
    }

    fn collate(&self, batch: Batch, options: &Value) -> Result<Batch> {
        let value = self.call_on(&batch, "collate", (batch.clone(), to_dynamic(options)))?;
        value.clone().try_cast::<Batch>().ok_or_else(|| self.unexpected("collate", "a Batch", &value))
    }

    fn decode(&self, output: &Output, batch: &Batch, options: &Value, tokenizer: Option<&Tokenizer>) -> Result<Value> {
        let (output, items, options) = (output_to_dynamic(output), batch.clone(), to_dynamic(options));
        from_dynamic(&if self.defines("decode", 4) {
            let tokenizer = tokenizer.map_or(Dynamic::UNIT, |tokenizer| Dynamic::from(tokenizer.clone()));
            self.call_on(batch, "decode", (output, items, options, tokenizer))?
        } else {
            self.call_on(batch, "decode", (output, items, options))?
        })
    }

    fn merge(&self, results: &Value, row: &Row, options: &Value) -> Result<Value> {
        if !self.has(Function::Merge) {
            let problem = format!("a row gave several windows, which the task `{}` does not join", self.name);
            return Err(
                Error::new(What::Unsupported(problem)).hint("give the task a function `merge(results, row, options)`")
            );
        }
        from_dynamic(&self.call("merge", (to_dynamic(results), row_to_dynamic(row), to_dynamic(options)))?)
    }

    fn reduce(&self, output: &Output, batch: &Batch, options: &Value) -> Result<Value> {
        from_dynamic(&self.call_on(batch, "reduce", (output_to_dynamic(output), batch.clone(), to_dynamic(options)))?)
    }

    fn metrics(&self, predictions: &Value, references: &Value, options: &Value) -> Result<Value> {
        let (predictions, references) = (to_dynamic(predictions), to_dynamic(references));
        from_dynamic(&if self.defines("metrics", 3) {
            self.call("metrics", (predictions, references, to_dynamic(options)))?
        } else {
            self.call("metrics", (predictions, references))?
        })
    }
}

/// The functions of a script with their numbers of parameters.
fn defined(ast: &AST) -> Vec<(String, usize)> {
    ast.iter_functions().map(|function| (function.name.to_string(), function.params.len())).collect()
}

/// The line of the task script at which a function begins.
fn defined_at(ast: &AST, function: &str) -> Option<Place> {
    let line = ast.iter_fn_def().find(|known| known.name == function)?.body.start_position().line()?;
    Some(Place::line(ast.source()?, line, None))
}

/// Logits as a script sees them: a tensor, or a map of tensors.
pub fn output_to_dynamic(output: &Output) -> Dynamic {
    match output {
        Output::One(tensor) => Dynamic::from(tensor.clone()),
        Output::Named(map) => Dynamic::from_map(
            map.iter().map(|(name, tensor)| (name.as_str().into(), Dynamic::from(tensor.clone()))).collect(),
        ),
    }
}

fn relocate(error: &mut EvalAltResult, batch: &Batch) {
    match error {
        EvalAltResult::ErrorInFunctionCall(_, _, inner, _) | EvalAltResult::ErrorInModule(_, inner, _) => {
            relocate(inner, batch);
        }
        EvalAltResult::ErrorRuntime(value, _) => {
            if let Some(ours) = value.clone().try_cast::<Error>() {
                *value = Dynamic::from(batch.relocate(ours));
            }
        }
        _ => {}
    }
}

fn script_head(head: &HeadState) -> Result<Dynamic> {
    head.downcast_ref::<Dynamic>()
        .cloned()
        .ok_or_else(|| What::Internal("a script task was given another task's head".into()).into())
}
