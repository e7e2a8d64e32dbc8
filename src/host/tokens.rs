//! Words that the script language reserves and that Hugging Face's API has as names: `model.eval()`.

use rhai::{Engine, Token};

/// The function behind a method whose name is a word of the language.
const METHODS: [(&str, &str); 1] = [("eval", "eval_mode")];

/// Lets scripts write such a name. The word loses its meaning for the language: a script that runs text is refused.
pub(super) fn apply(engine: &mut Engine) {
    #[expect(deprecated, reason = "the engine marks it as subject to change, which a test would notice")]
    engine.on_parse_token(|token, _, _| match &token {
        Token::Reserved(word) | Token::Identifier(word) => {
            match METHODS.iter().find(|(written, _)| *written == word.as_str()) {
                Some((_, function)) => Token::Identifier(Box::new((*function).into())),
                None => token,
            }
        }
        _ => token,
    });
}
