//! What the engine knows by name: functions with their signatures and documentation, types in people's words.
//!
//! Everything is read from the live engine's metadata; hints, `check` and the generated reference use it.

use std::collections::BTreeMap;

use rhai::Engine;
use serde::Deserialize;

use crate::error::nearest;

/// The functions and types of an engine.
#[derive(Debug, Default)]
pub struct Api {
    /// All functions that are not private, those of the global namespace first.
    pub functions: Vec<Function>,
    /// The names of the namespaces.
    pub namespaces: Vec<String>,
    types: BTreeMap<String, String>,
}

/// A function that scripts can call.
#[derive(Clone, Debug)]
pub struct Function {
    /// The namespace that `::` follows, where there is one.
    pub namespace: Option<String>,
    /// Whether it can also be called as a method or plain function.
    pub is_global: bool,
    /// The name; `get$x` and `set$x` are properties, `index$get$` and `index$set$` are indexing.
    pub name: String,
    /// Names and types of the parameters, in people's words.
    pub parameters: Vec<(String, String)>,
    /// The type that it returns, in people's words; empty where it returns nothing.
    pub returns: String,
    /// Its documentation, without comment marks.
    pub documentation: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawModule {
    #[serde(default)]
    modules: BTreeMap<String, RawModule>,
    #[serde(default)]
    custom_types: Vec<RawType>,
    #[serde(default)]
    functions: Vec<RawFunction>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawType {
    type_name: String,
    display_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawFunction {
    #[serde(default)]
    namespace: String,
    name: String,
    #[serde(default)]
    params: Vec<RawParameter>,
    #[serde(default)]
    return_type: String,
    #[serde(default)]
    doc_comments: Vec<String>,
}

#[derive(Deserialize)]
struct RawParameter {
    name: Option<String>,
    #[serde(rename = "type")]
    typ: Option<String>,
}

impl Api {
    /// What `engine` knows, with or without Rhai's own library.
    pub fn of(engine: &Engine, with_standard_library: bool) -> Api {
        let json = engine.gen_fn_metadata_to_json(with_standard_library).expect("metadata are plain strings");
        let root: RawModule = serde_json::from_str(&json).expect("the engine writes what it documents");
        let mut api = Api::default();
        api.learn_types(&root);
        api.learn(root, None);
        api
    }

    fn learn_types(&mut self, module: &RawModule) {
        for RawType { type_name, display_name } in &module.custom_types {
            self.types.insert(type_name.clone(), display_name.clone());
            // Signatures name types as the source does, without their path.
            let short = type_name.rsplit("::").next().unwrap_or(type_name).to_string();
            self.types.insert(short, display_name.clone());
        }
        module.modules.values().for_each(|inner| self.learn_types(inner));
    }

    fn learn(&mut self, module: RawModule, namespace: Option<&str>) {
        for raw in module.functions {
            let word = |typ: Option<&str>| self.type_word(typ.unwrap_or("?"));
            self.functions.push(Function {
                namespace: namespace.map(str::to_string),
                is_global: namespace.is_none() || raw.namespace == "global",
                parameters: raw
                    .params
                    .iter()
                    .filter(|parameter| !parameter.typ.as_deref().unwrap_or_default().contains("NativeCallContext"))
                    .map(|parameter| {
                        (parameter.name.clone().unwrap_or_else(|| "_".into()), word(parameter.typ.as_deref()))
                    })
                    .collect(),
                returns: if raw.return_type.is_empty() { String::new() } else { word(Some(&raw.return_type)) },
                documentation: documentation(&raw.doc_comments),
                name: raw.name,
            });
        }
        for (name, inner) in module.modules {
            let full = namespace.map_or(name.clone(), |outer| format!("{outer}::{name}"));
            self.namespaces.push(full.clone());
            self.learn(inner, Some(&full));
        }
    }

    /// The functions that `call` can mean: `name`, or `Namespace::name`.
    pub fn called<'a>(&'a self, call: &'a str) -> impl Iterator<Item = &'a Function> {
        let (namespace, name) = match call.rsplit_once("::") {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, call),
        };
        self.functions.iter().filter(move |function| {
            function.name == name
                && if namespace.is_some() { function.namespace.as_deref() == namespace } else { function.is_global }
        })
    }

    /// The nearest call to `call` among the engine's functions and those of the script itself.
    pub fn nearest_call<'a>(&'a self, call: &str, own: impl IntoIterator<Item = &'a str>) -> Option<String> {
        let Some((namespace, _)) = call.rsplit_once("::") else {
            let global =
                self.functions.iter().filter(|function| function.is_global).map(|function| function.name.as_str());
            return nearest(call, global.chain(own)).map(str::to_string);
        };
        let inside = self.functions.iter().filter(|function| function.namespace.as_deref() == Some(namespace));
        let candidates: Vec<String> = inside.map(|function| format!("{namespace}::{}", function.name)).collect();
        nearest(call, candidates.iter().map(String::as_str)).map(str::to_string)
    }

    /// Whether any of the engine's own types has this name in people's words.
    pub fn is_own_type(&self, word: &str) -> bool {
        self.types.values().any(|display| display == word)
    }

    /// A type as the engine writes it, in people's words.
    pub fn type_word(&self, typ: &str) -> String {
        let typ = typ.trim().trim_start_matches("&mut ").trim();
        if let Some(inner) =
            ["ScriptResult<", "RhaiResultOf<", "Result<"].iter().find_map(|open| typ.strip_prefix(open))
        {
            let inner = inner.trim_end_matches('>').split(", Box<").next().unwrap_or(inner);
            return if inner == "()" { String::new() } else { self.type_word(inner) };
        }
        if let Some(display) = self.types.get(typ) {
            return display.clone();
        }
        match typ.rsplit("::").next().unwrap_or(typ).trim_start_matches('&') {
            "i64" | "INT" => "integer",
            "f64" | "FLOAT" => "float",
            "char" => "character",
            "str" | "String" | "ImmutableString" => "string",
            "Array" => "array",
            "Map" => "map",
            "FnPtr" | "Fn" => "function",
            "Dynamic" | "?" | "RhaiResult" => "value",
            "()" => "()",
            _ if typ.contains("ImmutableString") => "string",
            other => other,
        }
        .to_string()
    }
}

impl Function {
    /// The call as a script writes it: `name(a: integer, b: string) -> float`.
    pub fn signature(&self) -> String {
        let list = |parameters: &[(String, String)]| {
            parameters.iter().map(|(name, typ)| format!("{name}: {typ}")).collect::<Vec<_>>().join(", ")
        };
        let receiver = |at: usize| self.parameters.get(at).map_or("value", |(_, typ)| typ.as_str());
        let returns = if self.returns.is_empty() { String::new() } else { format!(" -> {}", self.returns) };
        if let Some(property) = self.property() {
            return format!("{}.{property}{returns}", receiver(0));
        }
        match self.name.as_str() {
            "index$get$" => format!("{}[{}]{returns}", receiver(0), receiver(1)),
            "index$set$" => format!("{}[{}] = {}", receiver(0), receiver(1), receiver(2)),
            name if self.is_operator() => match self.parameters.len() {
                1 => format!("{name}{}{returns}", receiver(0)),
                _ => format!("{} {name} {}{returns}", receiver(0), receiver(1)),
            },
            name => {
                let prefix = match &self.namespace {
                    Some(namespace) if !self.is_global => format!("{namespace}::"),
                    _ => String::new(),
                };
                format!("{prefix}{name}({}){returns}", list(&self.parameters))
            }
        }
    }

    /// The property that it reads or writes, where it is one.
    pub fn property(&self) -> Option<&str> {
        self.name.strip_prefix("get$").or_else(|| self.name.strip_prefix("set$"))
    }

    /// Whether it is an operator.
    pub fn is_operator(&self) -> bool {
        !self.name.starts_with(|first: char| first.is_alphabetic() || first == '_')
    }
}

/// Doc comments without their marks: `///`, `/**`, and the space after them.
fn documentation(comments: &[String]) -> String {
    let lines = comments.iter().flat_map(|comment| comment.lines()).map(|line| {
        let line = line.trim_start_matches("///").trim_start_matches("/**").trim_end_matches("*/");
        line.strip_prefix(' ').unwrap_or(line).trim_end().to_string()
    });
    lines.collect::<Vec<_>>().join("\n").trim().to_string()
}
