//! The engine, in one place: everything that decides how a script is compiled and run.

use rhai::{Dynamic, Engine, OptimizationLevel, Position};

use crate::api::session::Session;
use crate::host::limits::{self, Deadline};
use crate::host::resolver::Resolver;
use crate::host::sources::Sources;
use crate::host::tokens;

/// A new engine for the scripts of `session`. Recipes and task scripts get one each, made here.
///
/// Variables are strict, a missing map property is an error, `print` goes to the session's reporter, and
/// nothing is folded at compile time, so that every error keeps its position.
pub fn engine(session: Session, sources: &Sources, deadline: &Deadline) -> Engine {
    let mut engine = Engine::new();
    engine.set_optimization_level(OptimizationLevel::None);
    engine.set_strict_variables(true);
    engine.set_fail_on_invalid_map_property(true);
    limits::apply(&mut engine, deadline);
    tokens::apply(&mut engine);
    engine.set_module_resolver(Resolver::new(session.places().clone(), sources.clone()));
    let reporter = session.reporter().clone();
    engine.on_print(move |text| reporter.line(text));
    let reporter = session.reporter().clone();
    engine.on_debug(move |text, source, position| reporter.line(&debug_line(text, source, position)));
    crate::api::register(&mut engine);
    engine.set_default_tag(Dynamic::from(session));
    engine
}

fn debug_line(text: &str, source: Option<&str>, position: Position) -> String {
    match (source, position.line()) {
        (Some(source), Some(line)) => format!("{source}:{line}: {text}"),
        _ => text.to_string(),
    }
}
