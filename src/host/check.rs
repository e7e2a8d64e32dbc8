//! Everything that can be said about a recipe without running it.
//!
//! A recipe flows in; it and all its imports are compiled, calls are compared with what the engine knows, and
//! every problem found flows out. Types of values are left to the run.

use std::collections::BTreeSet;

use rhai::{AST, ASTNode, Expr, Position};

use crate::error::{Error, What};
use crate::host::arguments::{Asked, called, imports};
use crate::host::diagnostics::{Diagnostic, Frame, Location};
use crate::host::explain::explain;
use crate::host::names::Api;
use crate::host::resolver::compile;
use crate::host::run::Host;
use crate::host::sources::{imported_name, read_script};

/// What was found out about a recipe.
#[derive(Debug, Default)]
pub struct Checked {
    /// The scripts that were compiled: the recipe and its imports.
    pub scripts: Vec<String>,
    /// The arguments that they ask for.
    pub asked: Asked,
    /// What is wrong, in the order of the scripts.
    pub problems: Vec<Diagnostic>,
}

/// Words that are called like functions and are part of the language.
const BUILT_IN: &[&str] =
    &["call", "curry", "debug", "eval", "Fn", "is_def_fn", "is_def_var", "is_shared", "print", "type_of"];

/// Checks the host's recipe and everything it imports.
pub fn check(host: &Host) -> Checked {
    let mut checked = Checked::default();
    let mut seen = BTreeSet::new();
    let recipe = host.recipe_name();
    match read_script(host.session.places(), &recipe) {
        Ok(text) => Checker { host, api: Api::of(&host.engine, true), checked: &mut checked, seen: &mut seen }
            .script(&recipe, &text, None),
        Err(error) => checked.problems.push(Diagnostic::from(&error)),
    }
    checked
}

struct Checker<'a> {
    host: &'a Host,
    api: Api,
    checked: &'a mut Checked,
    seen: &'a mut BTreeSet<String>,
}

impl Checker<'_> {
    fn script(&mut self, name: &str, text: &str, from: Option<&Location>) {
        if !self.seen.insert(name.to_string()) {
            return;
        }
        self.host.sources.add(name, text);
        self.checked.scripts.push(name.to_string());
        let ast = match compile(&self.host.engine, name, text) {
            Ok(ast) => ast,
            Err(error) => {
                let mut problem = *explain(&error, &self.host.engine, &self.host.sources, name);
                problem.trail.extend(from.map(|from| Frame { how: "imported", from: from.clone(), within: None }));
                return self.checked.problems.push(problem);
            }
        };
        self.checked.asked.learn(&ast);
        self.checked.problems.extend(unknown_calls(&self.api, name, &ast));
        for (path, position) in imports(&ast) {
            let imported = imported_name(name, &path);
            let place = location(name, position);
            match read_script(self.host.session.places(), &imported) {
                Ok(text) => {
                    self.host.sources.record(name, &imported, &text);
                    self.script(&imported, &text, place.as_ref());
                }
                Err(error) => self.problem(&error, place),
            }
        }
    }

    fn problem(&mut self, error: &Error, location: Option<Location>) {
        self.checked.problems.push(Diagnostic { location, ..Diagnostic::from(error) });
    }
}

/// Calls of plain functions and of namespaces that the engine knows; methods depend on values.
pub(crate) fn unknown_calls(api: &Api, name: &str, ast: &AST) -> Vec<Diagnostic> {
    let own: BTreeSet<String> = ast.iter_functions().map(|function| function.name.to_string()).collect();
    let mut unknown = Vec::new();
    ast.walk(&mut |path| {
        let Some(call) = called(path) else { return true };
        let (is_method, position) = match path.last() {
            Some(ASTNode::Expr(Expr::MethodCall(_, position))) => (true, *position),
            Some(ASTNode::Expr(Expr::FnCall(_, position))) => (false, *position),
            Some(ASTNode::Stmt(statement)) => (false, statement.position()),
            _ => (true, Position::NONE),
        };
        if is_method || call.op_token.is_some() {
            return true;
        }
        let namespace = call.namespace.to_string();
        let namespace = namespace.trim_end_matches("::");
        let full = if namespace.is_empty() { call.name.to_string() } else { format!("{namespace}::{}", call.name) };
        let can_tell = namespace.is_empty() || api.namespaces.iter().any(|known| known == namespace);
        let is_own = namespace.is_empty() && (own.contains(&*call.name) || BUILT_IN.contains(&&*call.name));
        if can_tell && !is_own && api.called(&full).next().is_none() {
            unknown.push((full, position));
        }
        true
    });
    let problem = |(call, position): (String, Position)| {
        let error = Error::new(What::Script(format!("there is no function `{call}`")));
        let error = match api.nearest_call(&call, own.iter().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error,
        };
        Diagnostic { location: location(name, position), ..Diagnostic::from(&error) }
    };
    unknown.into_iter().map(problem).collect()
}

fn location(file: &str, position: Position) -> Option<Location> {
    Some(Location { file: file.into(), line: position.line()?, column: position.position().unwrap_or(1) })
}
