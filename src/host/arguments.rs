//! Which arguments a recipe asks for, read from its text before anything runs.
//!
//! Compiled scripts flow in; the names in their `arg("name", ...)` calls flow out, so that a misspelt
//! `name=value` is refused at once and not after an hour of training.

use std::collections::BTreeMap;

use rhai::{AST, ASTNode, Expr, Position, Stmt};

use crate::error::{Error, Result, What, nearest};

/// The `arg` calls of some scripts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The names that are written out.
    pub names: Vec<String>,
    /// Whether some call computes its name, so that the list is not complete.
    pub computed: bool,
}

impl Asked {
    /// Adds the calls of a script.
    pub fn learn(&mut self, ast: &AST) {
        ast.walk(&mut |path| {
            if let Some(call) = called(path).filter(|call| call.name == "arg" && call.namespace.is_empty()) {
                match call.args.first() {
                    Some(Expr::StringConstant(name, _)) => self.names.push(name.to_string()),
                    _ => self.computed = true,
                }
            }
            true
        });
        self.names.sort();
        self.names.dedup();
    }

    /// Refuses arguments that no call asks for, where that can be told.
    ///
    /// # Errors
    /// The first such argument, with the nearest name.
    pub fn refuse_others(&self, given: &BTreeMap<String, String>) -> Result<()> {
        let Some(name) = given.keys().find(|name| !self.names.contains(name)) else { return Ok(()) };
        if self.computed {
            return Ok(());
        }
        let error = Error::new(What::Usage(format!("the recipe has no argument `{name}`")));
        Err(match nearest(name, self.names.iter().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean `{near}=...`?")),
            None if self.names.is_empty() => error.hint("it takes no arguments"),
            None => error.hint(format!("it asks for {}", self.names.join(", "))),
        })
    }
}

/// The function call at the end of a walk's path.
pub(crate) fn called<'a>(path: &'a [ASTNode<'a>]) -> Option<&'a rhai::FnCallExpr> {
    match path.last()? {
        ASTNode::Expr(Expr::FnCall(call, _) | Expr::MethodCall(call, _)) => Some(call),
        ASTNode::Stmt(Stmt::FnCall(call, _)) => Some(call),
        _ => None,
    }
}

/// The `import "path"` statements of a script that are written out, with the position of the path.
pub(crate) fn imports(ast: &AST) -> Vec<(String, Position)> {
    let mut found = Vec::new();
    ast.walk(&mut |path| {
        if let Some(ASTNode::Stmt(Stmt::Import(import, _))) = path.last()
            && let Expr::StringConstant(name, position) = &import.0
        {
            found.push((name.to_string(), *position));
        }
        true
    });
    found
}
