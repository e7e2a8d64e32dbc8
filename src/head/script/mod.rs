//! Tasks written in Rhai: a script's functions behind the task contract.
//!
//! The script is compiled by the host and has an engine of its own; each function is called with the script's syntax tree,
//! without running its top level again. Values go through `convert`.

pub mod convert;

use std::sync::Arc;

use candle_core::Tensor;
use rhai::{AST, CallFnOptions, Dynamic, Engine, EvalAltResult, FuncArgs, Map, Position, Scope};

use crate::batch::Batch;
use crate::data::{Row, Value};
use crate::error::{Error, Place, Result, What};
use crate::head::{Function, HeadBuilder, HeadState, Output, Task};
use crate::model::ModelConfig;
use crate::tokenizer::Tokenizer;
use convert::{from_dynamic, lower, row_to_dynamic, to_dynamic, type_name};

/// A task script.
pub struct ScriptTask {
    name: String,
    engine: Arc<Engine>,
    ast: AST,
    functions: Vec<(String, usize)>,
    pads_rows: bool,
}

/// The functions that every task has: name, number of parameters, signature.
const REQUIRED: [(&str, usize, &str); 3] = [
    ("create", 2, "create(p, config)"),
    ("forward", 3, "forward(head, hidden, batch)"),
    ("loss", 3, "loss(head, output, batch)"),
];
/// The functions that a task may have.
const OPTIONAL: [(&str, usize, &str); 3] = [
    ("encode", 3, "encode(tokenizer, row, options)"),
    ("decode", 3, "decode(output, batch, options)"),
    ("metrics", 2, "metrics(predictions, references)"),
];

impl ScriptTask {
    /// A task of the functions of `ast`, called on `engine`.
    ///
    /// # Errors
    /// A script that lacks one of `create`, `forward` and `loss`, or gives a function of the contract other parameters.
    pub fn new(name: String, engine: Arc<Engine>, ast: AST) -> Result<Self> {
        let functions: Vec<_> =
            ast.iter_functions().map(|function| (function.name.to_string(), function.params.len())).collect();
        for (wanted, n_params, signature) in REQUIRED.iter().chain(&OPTIONAL) {
            let found: Vec<_> = functions.iter().filter(|(name, _)| name == wanted).collect();
            let required = REQUIRED.iter().any(|(name, ..)| name == wanted);
            if found.iter().any(|(_, n)| n == n_params) || (found.is_empty() && !required) {
                continue;
            }
            let problem = match found.first() {
                Some((_, n)) => {
                    format!("the task `{name}` has a function `{wanted}` with {n} parameters instead of {n_params}")
                }
                None => format!("the task `{name}` has no function `{wanted}`"),
            };
            let error = Error::new(What::Script(problem)).hint(format!("a task has a function `{signature}`"));
            return Err(match defined_at(&ast, wanted) {
                Some(line) => error.at(line),
                None => error,
            });
        }
        let mut task = ScriptTask { name, engine, ast, functions, pads_rows: false };
        if task.functions.iter().any(|(name, n_params)| name == "padding" && *n_params == 0) {
            let value = task.call("padding", ())?;
            task.pads_rows = match value.clone().into_string().as_deref() {
                Ok("longest") => true,
                Ok("none") => false,
                _ => return Err(task.unexpected("padding", "\"longest\" or \"none\"", &value)),
            };
        }
        Ok(task)
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
        let result = self.engine.call_fn_with_options::<Dynamic>(options, &mut scope, &self.ast, function, args);
        result.map_err(|mut error| {
            adjust(&mut error);
            // The position is one of this script, whatever script is being run when the error is shown.
            let source = self.ast.source().unwrap_or(&self.name).to_string();
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
        match defined_at(&self.ast, function) {
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

    fn pads_rows(&self) -> bool {
        self.pads_rows
    }

    fn has(&self, function: Function) -> bool {
        let name = match function {
            Function::Encode => "encode",
            Function::Decode => "decode",
            Function::Metrics => "metrics",
        };
        self.functions.iter().any(|(known, _)| known == name)
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

    fn decode(&self, output: &Output, batch: &Batch, options: &Value) -> Result<Value> {
        from_dynamic(&self.call_on(batch, "decode", (output_to_dynamic(output), batch.clone(), to_dynamic(options)))?)
    }

    fn metrics(&self, predictions: &Value, references: &Value) -> Result<Value> {
        from_dynamic(&self.call("metrics", (to_dynamic(predictions), to_dynamic(references)))?)
    }
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
