//! Is this file a whole shared library for this machine, with a plugin's entry? Looked at before it is opened, since opening one
//! that is half written ends the process.

use crate::error::{Error, Result, What};
use retune_plugin_sdk::abi;

/// Checks a file's bytes. Where libraries are no ELF files (macOS), the loader of the system is left to judge.
///
/// # Errors
/// What the file is instead, or what it lacks.
pub fn check(bytes: &[u8]) -> Result<()> {
    if cfg!(target_os = "linux") { check_elf(bytes) } else { Ok(()) }
}

const SHARED_OBJECT: u16 = 3;
const LOAD: u32 = 1;
const NO_BITS: u32 = 8;
const DYNAMIC_SYMBOLS: u32 = 11;

/// The machine that this program was built for, and its name.
const MACHINE: (u16, &str) = match () {
    () if cfg!(target_arch = "x86_64") => (62, "x86-64"),
    () if cfg!(target_arch = "aarch64") => (183, "aarch64"),
    () => (0, "another"),
};

fn no_plugin(problem: impl Into<String>) -> Error {
    What::Plugin(problem.into()).into()
}

fn cut(what: &str) -> Error {
    no_plugin(format!("the file ends before its {what}")).hint("it is damaged, or still being written: build it again")
}

/// Little-endian numbers at places of a file.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn at<const N: usize>(&self, place: u64, what: &str) -> Result<[u8; N]> {
        let start = usize::try_from(place).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(N)?));
        range.and_then(|range| self.0.get(range)).and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| cut(what))
    }

    fn u16(&self, place: u64, what: &str) -> Result<u16> {
        Ok(u16::from_le_bytes(self.at(place, what)?))
    }

    fn u32(&self, place: u64, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.at(place, what)?))
    }

    fn u64(&self, place: u64, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.at(place, what)?))
    }

    /// Whether `size` bytes from `place` are in the file.
    fn holds(&self, place: u64, size: u64) -> bool {
        place.checked_add(size).is_some_and(|end| end <= self.0.len() as u64)
    }
}

fn check_elf(bytes: &[u8]) -> Result<()> {
    let file = Bytes(bytes);
    if bytes.len() >= 4 && bytes[..4] != *b"\x7fELF" || bytes.is_empty() {
        return Err(no_plugin("the file is no shared library").hint("a plugin is a library such as `libNAME.so`"));
    }
    let [_, _, _, _, class, order, ..] = file.at::<16>(0, "header")?;
    if (class, order) != (2, 1) {
        return Err(no_plugin("the file is no 64-bit little-endian library"));
    }
    let machine = file.u16(18, "header")?;
    if machine != MACHINE.0 {
        return Err(no_plugin(format!(
            "the file was built for another machine ({machine}) than this {} one",
            MACHINE.1
        ))
        .hint("build the plugin on this machine"));
    }
    if file.u16(16, "header")? != SHARED_OBJECT {
        return Err(no_plugin("the file is no shared library").hint("build a `cdylib`, or with `cc -shared -fPIC`"));
    }
    let (programs, sections) = (file.u64(32, "header")?, file.u64(40, "header")?);
    let [program_size, n_programs, section_size, n_sections] = {
        let mut sizes = [0; 4];
        for (size, place) in sizes.iter_mut().zip([54, 56, 58, 60]) {
            *size = u64::from(file.u16(place, "header")?);
        }
        sizes
    };
    if n_programs == 0 || program_size < 56 || !file.holds(programs, n_programs * program_size) {
        return Err(cut("program headers"));
    }
    for number in 0..n_programs {
        let place = programs + number * program_size;
        let (offset, size) = (file.u64(place + 8, "segments")?, file.u64(place + 32, "segments")?);
        if file.u32(place, "segments")? == LOAD && !file.holds(offset, size) {
            return Err(cut("segments"));
        }
    }
    if n_sections == 0 {
        // A library without a table of sections is unusual and loads; its symbols are asked for when it is opened.
        return Ok(());
    }
    if section_size < 64 || !file.holds(sections, n_sections * section_size) {
        return Err(cut("section headers"));
    }
    let mut symbols = None;
    for number in 0..n_sections {
        let place = sections + number * section_size;
        let kind = file.u32(place + 4, "sections")?;
        let (offset, size) = (file.u64(place + 24, "sections")?, file.u64(place + 32, "sections")?);
        if kind != NO_BITS && !file.holds(offset, size) {
            return Err(cut("sections"));
        }
        if kind == DYNAMIC_SYMBOLS {
            symbols = Some((offset, size, u64::from(file.u32(place + 40, "sections")?)));
        }
    }
    let Some((offset, size, names)) = symbols else {
        return Err(no_plugin("the file has no table of symbols").hint("it is damaged, or still being written"));
    };
    let names = file.u64(sections + names.min(n_sections - 1) * section_size + 24, "names")?;
    exports(&file, (offset, size), names)
}

/// Whether a table of symbols has the entry of a plugin.
fn exports(file: &Bytes<'_>, (offset, size): (u64, u64), names: u64) -> Result<()> {
    const SYMBOL: u64 = 24;
    let wanted = abi::ENTRY.as_bytes();
    for number in 0..size / SYMBOL {
        let place = offset + number * SYMBOL;
        let name = names.saturating_add(u64::from(file.u32(place, "symbols")?));
        let is_defined = file.u16(place + 6, "symbols")? != 0;
        let end = name.saturating_add(wanted.len() as u64);
        let found = usize::try_from(name).ok().zip(usize::try_from(end).ok());
        let found = found.and_then(|(name, end)| file.0.get(name..=end));
        if is_defined && found.is_some_and(|found| found.starts_with(wanted) && found.ends_with(&[0])) {
            return Ok(());
        }
    }
    Err(no_plugin(format!("the library is no plugin: it does not export `{}`", abi::ENTRY))
        .hint("`export_heads!` makes the entry; in C it is `RETUNE_EXPORT const retune_plugin retune_plugin_entry`"))
}
