//! Calls of the script language that make much of little in one step, or wait: the same as the language's own, but bounded by the
//! machine's memory, and ended when the run is.
//!
//! What grows step by step is seen between the steps (`cancel::meter`); these would be seen too late.

use std::time::Duration;

use rhai::plugin::*;
use rhai::{Array, Blob, Engine, INT, ImmutableString};

use crate::cancel;
use crate::error::Result;
use crate::head::script::convert::{ScriptResult, raise};
use crate::memory;

/// Registers the functions of this file, before those of the language.
pub(crate) fn register(engine: &mut Engine) {
    engine.register_global_module(exported_module!(growing).into());
}

#[export_module]
mod growing {
    /// Fills a string up to `len` characters with a character.
    ///
    /// ```rhai
    /// let name = "ab";
    /// name.pad(4, '-');
    /// expect(name == "ab--", "two were missing");
    /// ```
    #[rhai_fn(name = "pad", return_raw)]
    pub fn pad_with_letter(text: &mut ImmutableString, len: INT, letter: char) -> ScriptResult<()> {
        super::fill_up(text, len, letter.encode_utf8(&mut [0; 4])).map_err(raise)
    }

    /// Fills a string up to `len` characters with a string, the last time cut where it would be too long.
    ///
    /// ```rhai
    /// let name = "ab";
    /// name.pad(5, "+-");
    /// expect(name == "ab+-+", "three were missing");
    /// ```
    #[rhai_fn(name = "pad", return_raw)]
    pub fn pad_with_text(text: &mut ImmutableString, len: INT, padding: &str) -> ScriptResult<()> {
        super::fill_up(text, len, padding).map_err(raise)
    }

    /// Fills an array up to `len` entries with a value.
    ///
    /// ```rhai
    /// let labels = [1];
    /// labels.pad(3, -100);
    /// expect(labels == [1, -100, -100], "two were missing");
    /// ```
    #[rhai_fn(name = "pad", return_raw)]
    pub fn pad_array(array: &mut Array, len: INT, item: Dynamic) -> ScriptResult<()> {
        let len = usize::try_from(len).unwrap_or(0);
        super::room(len.saturating_sub(array.len()), size_of::<Dynamic>(), "an array").map_err(raise)?;
        if len > array.len() {
            array.resize(len, item);
        }
        Ok(())
    }

    /// Fills a blob up to `len` bytes with a byte.
    ///
    /// ```rhai
    /// let bytes = blob(1, 7);
    /// bytes.pad(2, 9);
    /// expect(bytes.len() == 2 && bytes[1] == 9, "one was missing");
    /// ```
    #[rhai_fn(name = "pad", return_raw)]
    pub fn pad_blob(bytes: &mut Blob, len: INT, value: INT) -> ScriptResult<()> {
        let len = usize::try_from(len).unwrap_or(0);
        super::room(len.saturating_sub(bytes.len()), 1, "a blob").map_err(raise)?;
        if len > bytes.len() {
            bytes.resize(len, value as u8);
        }
        Ok(())
    }

    /// A blob of `len` bytes, all zero.
    ///
    /// ```rhai
    /// expect(blob(3).len() == 3, "three bytes");
    /// ```
    #[rhai_fn(name = "blob", return_raw)]
    pub fn blob_of_zeros(len: INT) -> ScriptResult<Blob> {
        blob_of(len, 0)
    }

    /// A blob of `len` bytes of one value.
    ///
    /// ```rhai
    /// expect(blob(3, 7)[2] == 7, "all the same");
    /// ```
    #[rhai_fn(name = "blob", return_raw)]
    pub fn blob_of(len: INT, value: INT) -> ScriptResult<Blob> {
        let len = usize::try_from(len).unwrap_or(0);
        super::room(len, 1, "a blob").map_err(raise)?;
        Ok(vec![value as u8; len])
    }

    /// Replaces each place where a string holds another one.
    ///
    /// ```rhai
    /// let text = "a good film";
    /// text.replace("good", "great");
    /// expect(text == "a great film", "one place");
    /// ```
    #[rhai_fn(name = "replace", return_raw)]
    pub fn replace_text(text: &mut ImmutableString, find: &str, substitute: &str) -> ScriptResult<()> {
        super::replace(text, find, substitute).map_err(raise)
    }

    /// Replaces each place where a string holds a character by a string.
    ///
    /// ```rhai
    /// let text = "a-b";
    /// text.replace('-', " to ");
    /// expect(text == "a to b", "one place");
    /// ```
    #[rhai_fn(name = "replace", return_raw)]
    pub fn replace_letter(text: &mut ImmutableString, find: char, substitute: &str) -> ScriptResult<()> {
        super::replace(text, find.encode_utf8(&mut [0; 4]), substitute).map_err(raise)
    }

    /// Waits for a number of seconds, or until the run is to end.
    ///
    /// ```rhai
    /// sleep(0);
    /// ```
    #[rhai_fn(name = "sleep", return_raw)]
    pub fn sleep(seconds: INT) -> ScriptResult<()> {
        sleep_for(seconds as f64)
    }

    /// Waits for a number of seconds with its fraction, or until the run is to end.
    ///
    /// ```rhai
    /// sleep(0.01);
    /// ```
    #[rhai_fn(name = "sleep", return_raw)]
    pub fn sleep_for(seconds: f64) -> ScriptResult<()> {
        // A time below zero is none, as in the language; one beyond all measure is for ever.
        let time = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
        cancel::sleep(time).map_err(raise)
    }
}

fn room(count: usize, size: usize, what: &str) -> Result<()> {
    memory::require(count as u128 * size as u128, || format!("{what} of {count} entries"))
}

fn fill_up(text: &mut ImmutableString, len: INT, padding: &str) -> Result<()> {
    let len = usize::try_from(len).unwrap_or(0);
    let missing = len.saturating_sub(text.chars().count());
    if missing == 0 || padding.is_empty() {
        return Ok(());
    }
    let widest = padding.chars().map(char::len_utf8).max().unwrap_or(1);
    room(missing, widest, "a string")?;
    let filled: String = text.chars().chain(padding.chars().cycle().take(missing)).collect();
    *text = filled.into();
    Ok(())
}

fn replace(text: &mut ImmutableString, find: &str, substitute: &str) -> Result<()> {
    if substitute.len() > find.len() {
        let grows = (text.matches(find).count() as u128) * (substitute.len() - find.len()) as u128;
        memory::require(grows + text.len() as u128, || "the string with what replaces its parts".into())?;
    }
    *text = text.replace(find, substitute).into();
    Ok(())
}
