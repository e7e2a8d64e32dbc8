//! Whether a sequence ends with one of the texts that stop it.

use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// Whether the last of `tokens` completes one of `texts`. As in Hugging Face, the text may begin in the prompt, and the
/// token may go on behind it.
///
/// # Errors
/// A decoder that fails.
pub(super) fn completes(tokens: &[u32], texts: &[String], tokenizer: &Tokenizer) -> Result<bool> {
    let Some((_, before)) = tokens.split_last().filter(|_| !texts.is_empty()) else { return Ok(false) };
    let (before, all) = (tokenizer.decode(before, false)?, tokenizer.decode(tokens, false)?);
    // A character that was cut in two stood there as another one, so what is new begins where the two differ.
    let old = before.bytes().zip(all.bytes()).take_while(|(a, b)| a == b).count();
    let ends = |text: &String| {
        let from = (old + 1).saturating_sub(text.len());
        let from = (0..=from).rev().find(|&start| all.is_char_boundary(start)).unwrap_or(0);
        let starts = all[from..].char_indices().map(|(start, _)| from + start);
        starts.into_iter().any(|start| start + text.len() > old && all[start..].starts_with(text.as_str()))
    };
    Ok(texts.iter().any(ends))
}
