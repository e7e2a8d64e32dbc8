//! What every recipe uses: arguments, JSON files, expectations, the seed, and errors that were caught.

use std::path::Path;

use rhai::plugin::*;
use rhai::{Dynamic, Engine, ImmutableString, Map, NativeCallContext};

use crate::api::session::Session;
use crate::data::{Value, durable};
use crate::error::{Error, Place, Result, What};
use crate::head::script::convert::{ScriptResult, from_dynamic, raise, to_dynamic, type_name};

/// Registers the functions of this file.
pub(crate) fn register(engine: &mut Engine) {
    engine.register_type_with_name::<Error>("Error");
    engine.register_global_module(rhai::exported_module!(basics).into());
}

#[export_module]
mod basics {
    /// Reads `name=value` from the command line, or gives `default`.
    ///
    /// The value has the type of the default: a bool, an integer, a float or a string; with `()` as default it is a string.
    /// A value that cannot be read as that type is an error, and so is an argument that the recipe never asks for.
    ///
    /// ```rhai
    /// let model = arg("model", "std/minilm-tiny");
    /// let epochs = arg("num_train_epochs", 3.0);
    /// expect(model == "std/minilm-tiny" && epochs == 3.0, "nothing was given");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn arg(context: NativeCallContext, name: &str, default: Dynamic) -> ScriptResult<Dynamic> {
        let given = Session::of(&context).argument(name, &default.to_string());
        match given {
            Some(text) => typed(name, &text, &default).map_err(raise),
            None => Ok(default),
        }
    }

    /// Fails with `message` where `condition` is false.
    ///
    /// ```rhai
    /// let rows = [1, 2, 3];
    /// expect(rows.len() == 3, "three rows are needed");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn expect(condition: bool, message: &str) -> ScriptResult<()> {
        if condition { Ok(()) } else { Err(raise(What::Script(message.to_string()).into())) }
    }

    /// Sets the seed that initialises new weights; `--seed` on the command line wins.
    ///
    /// ```rhai
    /// set_seed(7);
    /// ```
    #[rhai_fn(return_raw)]
    pub fn set_seed(context: NativeCallContext, seed: i64) -> ScriptResult<()> {
        let seed = u64::try_from(seed).map_err(|_| {
            let (value, allowed) = (seed.to_string(), "zero or more".to_string());
            raise(What::OutOfRange { name: "the seed".into(), value, allowed }.into())
        })?;
        Session::of(&context).set_seed(seed);
        Ok(())
    }

    /// Reads a JSON file: objects become maps, lists arrays, null `()`; integers stay integers.
    ///
    /// A relative path is looked up in the working directory, then beside the recipe.
    ///
    /// ```rhai
    /// write_json("numbers.json", #{ loss: 0.25, steps: [10, 20] });
    /// let numbers = read_json("numbers.json");
    /// expect(numbers.steps[1] == 20, "as it was written");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn read_json(context: NativeCallContext, path: &str) -> ScriptResult<Dynamic> {
        read(&Session::of(&context), path).map_err(raise)
    }

    /// Writes a value to a JSON file, with floats in full precision; the folder is created where it is missing.
    ///
    /// The file is complete or not there at all: it is written beside its place and then renamed. Tensors become lists.
    ///
    /// ```rhai
    /// write_json("results/best.json", #{ accuracy: 0.82 });
    /// expect(read_json("results/best.json").accuracy == 0.82, "all digits are kept");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn write_json(context: NativeCallContext, path: &str, value: Dynamic) -> ScriptResult<()> {
        let path = Session::of(&context).permissions().write(Path::new(path)).map_err(raise)?;
        write(&path, &value).map_err(raise)
    }

    /// A value as JSON text on one line.
    ///
    /// ```rhai
    /// expect(to_json([1, 2.5, "three", ()]) == `[1,2.5,"three",null]`, "lists");
    /// expect(to_json(#{ a: true }) == `{"a":true}`, "maps");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn to_json(value: Dynamic) -> ScriptResult<String> {
        from_dynamic(&value).map(|value| value.to_json().to_string()).map_err(raise)
    }

    /// A map as JSON text on one line.
    ///
    /// ```rhai
    /// expect(#{ epoch: 1.0 }.to_json() == `{"epoch":1.0}`, "a float stays a float");
    /// ```
    #[rhai_fn(name = "to_json", return_raw, pure)]
    pub fn map_to_json(map: &mut Map) -> ScriptResult<String> {
        from_dynamic(&Dynamic::from_map(map.clone())).map(|value| value.to_json().to_string()).map_err(raise)
    }

    /// Reads JSON text: objects become maps, lists arrays, null `()`.
    ///
    /// ```rhai
    /// expect(parse_json(`{"ids": [1, 2]}`).ids.len() == 2, "a list in a map");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn parse_json(text: &str) -> ScriptResult<Dynamic> {
        parse(text, None).map_err(raise)
    }

    /// What happened, of an error that was caught.
    ///
    /// Errors of the library are `Error` values; errors of the script language are maps that also have a `message`;
    /// `throw value` is caught as that value.
    ///
    /// ```rhai
    /// try { read_json("not-there.json"); }
    /// catch (error) { expect(error.message == "file `not-there.json` was not found", error.message); }
    /// ```
    #[rhai_fn(get = "message", pure)]
    pub fn message(error: &mut Error) -> String {
        error.what().to_string()
    }

    /// What to do next, of an error that was caught; `()` where there is no hint.
    ///
    /// ```rhai
    /// try { read_json("not-there.json"); }
    /// catch (error) { expect(error.hint != (), "it says where it looked"); }
    /// ```
    #[rhai_fn(get = "hint", pure)]
    pub fn hint(error: &mut Error) -> Dynamic {
        error.hint_text().map_or(Dynamic::UNIT, |hint| Dynamic::from(hint.to_string()))
    }

    /// An error that was caught as text: what happened, and where.
    ///
    /// ```rhai
    /// try { parse_json("[1, 2"); }
    /// catch (error) { expect(error.to_string().contains("JSON"), error.to_string()); }
    /// ```
    #[rhai_fn(global, name = "to_string", name = "to_debug", pure)]
    pub fn error_text(error: &mut Error) -> String {
        error.to_string()
    }
}

/// The text of `name=value` as a value of the default's type.
fn typed(name: &str, text: &str, default: &Dynamic) -> Result<Dynamic> {
    let parsed = if default.is_bool() {
        match text {
            "true" => Some(true.into()),
            "false" => Some(false.into()),
            _ => None,
        }
    } else if default.is_int() {
        text.parse::<i64>().ok().map(Dynamic::from)
    } else if default.is_float() {
        text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Dynamic::from)
    } else if default.is_string() || default.is_unit() {
        Some(Dynamic::from(ImmutableString::from(text)))
    } else {
        let wanted = "a bool, an integer, a float, a string or `()`".to_string();
        return Err(
            What::WrongType { name: format!("the default of `{name}`"), wanted, got: type_name(default) }.into()
        );
    };
    parsed.ok_or_else(|| {
        let error = Error::new(What::WrongType {
            name: format!("the argument `{name}`"),
            wanted: type_name(default),
            got: format!("`{text}`"),
        });
        match default.is_bool() {
            true => error.hint(format!("write `{name}=true` or `{name}=false`")),
            false => error.hint(format!("its default is {default}")),
        }
    })
}

fn read(session: &Session, name: &str) -> Result<Dynamic> {
    let path = session.places().path(name)?.ok_or_else(|| {
        let roots: Vec<String> = session.places().roots.iter().map(|root| shown(root)).collect();
        let hint = if Path::new(name).is_absolute() || roots.is_empty() {
            "relative paths are looked up in the working directory".to_string()
        } else {
            format!("it was looked up in {}", roots.join(" and "))
        };
        Error::new(What::NotFound { kind: "file", name: name.to_string() }).hint(hint)
    })?;
    let opened = session.permissions().read(&path)?;
    let bytes = std::fs::read(opened).map_err(|source| What::Read { path: path.clone(), source })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let problem = format!("it is not UTF-8 (byte {})", error.utf8_error().valid_up_to());
        Error::new(What::Malformed { format: "JSON".into(), problem }).at(Place::file(&path))
    })?;
    parse(&text, Some(&path))
}

fn shown(root: &Path) -> String {
    if root.as_os_str().is_empty() { "the working directory".into() } else { format!("`{}`", root.display()) }
}

/// JSON text as a script's value; errors have line and column, in the file where there is one.
fn parse(text: &str, path: Option<&Path>) -> Result<Dynamic> {
    let json: serde_json::Value = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let problem = error.to_string();
        // serde_json calls the words `true`, `false` and `null` identifiers.
        let problem = match problem.split(" at line ").next().unwrap_or(&problem) {
            "expected ident" => "expected `true`, `false` or `null`".to_string(),
            problem => problem.to_string(),
        };
        Error::new(What::Malformed { format: "JSON".into(), problem }).at(match path {
            Some(path) => Place::line(path, line, Some(column)),
            None => Place::Within(format!("line {line}, column {column} of the text")),
        })
    })?;
    Ok(to_dynamic(&Value::from(json)))
}

fn write(path: &Path, value: &Dynamic) -> Result<()> {
    write_file(path, &from_dynamic(value)?.to_json())
}

/// Writes a JSON file, and its folder where that is not there.
pub(super) fn write_file(path: &Path, json: &serde_json::Value) -> Result<()> {
    let text = serde_json::to_string_pretty(json).expect("values have text keys and finite numbers") + "\n";
    durable::write_file(path, text.as_bytes())
}
