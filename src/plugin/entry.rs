//! The entry of a plugin: what it says of itself, checked and copied.
//!
//! Structs of an older minor version are shorter: what they lack is null here. Nothing of a plugin runs while its entry is read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use retune_plugin_sdk::abi::{self, Entry, Head, SIZES_OF_1_0, Str};

use crate::data::{Row, Value};
use crate::error::{Error, Place, Result, What, nearest};
use crate::plugin::arguments;
use crate::plugin::crash::Site;

/// A plugin that is open. It stays open until the process ends.
#[derive(Debug)]
pub struct Plugin {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The version of the ABI it was built with.
    pub abi: (u16, u16),
    /// The sha256 of its file, in hexadecimal; empty for one that is linked into this program.
    pub sha256: String,
    /// The file it was asked for by.
    pub path: PathBuf,
    /// Its heads.
    pub heads: Vec<Arc<Declaration>>,
}

/// What a plugin declares of a head.
#[derive(Debug)]
pub struct Declaration {
    /// The name after `plugin:`.
    pub name: String,
    /// The options of its functions with their defaults.
    pub options: Row,
    /// Its functions.
    pub raw: Head,
    sites: Vec<(&'static str, Site)>,
}

/// The functions of a head, by the names that errors and crash reports say.
pub const FUNCTIONS: [&str; 12] = [
    "create",
    "destroy",
    "forward",
    "loss",
    "encode",
    "collate",
    "decode",
    "merge",
    "reduce",
    "metrics",
    "save_state",
    "load_state",
];

impl Declaration {
    /// Where a function stands in errors and crash reports.
    pub fn site(&self, function: &str) -> Site {
        self.sites.iter().find(|(known, _)| *known == function).map_or(Site::current(), |(_, site)| *site)
    }

    /// The names of the optional functions that the head has.
    pub fn has(&self) -> Vec<&'static str> {
        let Head { encode, collate, decode, merge, reduce, metrics, save_state, .. } = self.raw;
        let all = [
            ("encode", encode),
            ("collate", collate),
            ("decode", decode),
            ("merge", merge),
            ("reduce", reduce),
            ("metrics", metrics),
            ("save_state", save_state),
        ];
        all.into_iter().filter_map(|(name, function)| function.map(|_| name)).collect()
    }

    fn name_sites(&mut self, plugin: &str, version: &str) {
        let site = |function: &'static str| {
            (
                function,
                Site::new(format!("`{function}` of the head `{}` of the plugin `{plugin}` {version}", self.name)),
            )
        };
        self.sites = FUNCTIONS.map(site).into();
    }
}

/// More heads than any plugin has: a number above it is a sign of something else.
const MAX_HEADS: u32 = 1024;

fn refused<T>(problem: impl Into<String>) -> Result<T> {
    Err(What::Plugin(problem.into()).into())
}

impl Plugin {
    /// A plugin that is linked into this program: its `retune_plugin_entry`.
    ///
    /// # Errors
    /// An entry that is no entry of a plugin of this version.
    pub fn linked(entry: &'static Entry) -> Result<Arc<Plugin>> {
        // SAFETY: a reference leads to an entry; a static one was made by `export_heads!` or by hand, with the same promises.
        unsafe { read(entry, Path::new("(linked)"), "") }.map(Arc::new)
    }

    /// The head `name`.
    ///
    /// # Errors
    /// A name that the plugin does not have.
    pub fn head(&self, name: &str) -> Result<Arc<Declaration>> {
        if let Some(head) = self.heads.iter().find(|head| head.name == name) {
            return Ok(head.clone());
        }
        let names: Vec<&str> = self.heads.iter().map(|head| head.name.as_str()).collect();
        let error = Error::new(What::NotFound { kind: "head", name: name.to_string() }).at(Place::file(&self.path));
        Err(match nearest(name, names.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `plugin:{near}`?")),
            None => error.hint(format!("the plugin `{}` has {}", self.name, names.join(", "))),
        })
    }
}

/// Reads the entry of a plugin.
///
/// # Errors
/// Another magic number, another major or a later minor version, shorter structs than any version has, missing names or functions.
///
/// # Safety
/// A pointer that is not null leads to an entry that lives for ever, and so does everything in it.
pub unsafe fn read(entry: *const Entry, path: &Path, sha256: &str) -> Result<Plugin> {
    let read = || {
        if entry.is_null() || !entry.is_aligned() {
            return refused("the entry of the plugin is null");
        }
        // SAFETY: the caller's promise; magic, versions and size are where they are in every version.
        let (magic, abi, size) = unsafe {
            let abi = ((*entry).abi_major, (*entry).abi_minor);
            ((*entry).magic, abi, (*entry).struct_size as usize)
        };
        check_version(magic, abi, size)?;
        // SAFETY: the caller's promise, and the entry is long enough.
        let entry = unsafe { *entry };
        if entry.n_heads == 0 || entry.n_heads > MAX_HEADS {
            return refused(format!("the plugin has {} heads", entry.n_heads));
        }
        // SAFETY: the caller's promise.
        let pointers = unsafe { arguments::slice("heads", entry.heads, entry.n_heads as usize)? };
        // SAFETY: the caller's promise.
        let (name, version) =
            unsafe { (named("the plugin's name", entry.name)?, named("the plugin's version", entry.version)?) };
        let mut heads: Vec<Arc<Declaration>> = Vec::with_capacity(pointers.len());
        for pointer in pointers {
            // SAFETY: the caller's promise.
            let mut head = unsafe { declaration(*pointer)? };
            head.name_sites(&name, &version);
            if heads.iter().any(|known| known.name == head.name) {
                return refused(format!("the plugin has two heads `{}`", head.name));
            }
            heads.push(Arc::new(head));
        }
        Ok(Plugin { name, version, abi, sha256: sha256.to_string(), path: path.to_path_buf(), heads })
    };
    read().map_err(|error: Error| error.at(Place::file(path)))
}

fn check_version(magic: u32, (major, minor): (u16, u16), size: usize) -> Result<()> {
    if magic != abi::MAGIC {
        return refused(format!("`{}` is no entry of a plugin: it begins with {magic:#010x}", abi::ENTRY));
    }
    let ours = format!("{}.{}", abi::ABI_MAJOR, abi::ABI_MINOR);
    let error = || {
        What::Plugin(format!(
            "the plugin was built for version {major}.{minor} of the plugin ABI, this program has {ours}"
        ))
    };
    if major != abi::ABI_MAJOR {
        return Err(Error::new(error()).hint("build it again with the header or the SDK of this program"));
    }
    if minor > abi::ABI_MINOR {
        return Err(Error::new(error()).hint("it needs a newer retune, or a build with an older header"));
    }
    if size < SIZES_OF_1_0[0] {
        return refused(format!("the entry has {size} bytes instead of {}", SIZES_OF_1_0[0]));
    }
    Ok(())
}

/// # Safety
/// As [`read`], for a head.
unsafe fn declaration(pointer: *const Head) -> Result<Declaration> {
    if pointer.is_null() || !pointer.is_aligned() {
        return refused("a head of the plugin is null");
    }
    // SAFETY: the caller's promise; the size comes first in every version.
    let size = unsafe { (*pointer).struct_size } as usize;
    if size < SIZES_OF_1_0[1] {
        return refused(format!("a head has {size} bytes instead of {}", SIZES_OF_1_0[1]));
    }
    let mut raw = std::mem::MaybeUninit::<Head>::zeroed();
    // SAFETY: the head has `size` bytes, of which no more are copied than there is room for; all zeros is a head without
    // functions, and each byte that is copied is part of a field of the same struct.
    let raw = unsafe {
        std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), raw.as_mut_ptr().cast(), size.min(size_of::<Head>()));
        raw.assume_init()
    };
    // SAFETY: the caller's promise.
    let (name, options) = unsafe { (named("the name of a head", raw.name)?, arguments::text("options", raw.options)?) };
    let missing = [
        ("create", raw.create.is_none()),
        ("destroy", raw.destroy.is_none()),
        ("forward", raw.forward.is_none()),
        ("loss", raw.loss.is_none()),
    ];
    if let Some((function, _)) = missing.iter().find(|(_, missing)| *missing) {
        return refused(format!("the head `{name}` has no function `{function}`"));
    }
    if raw.save_state.is_some() != raw.load_state.is_some() {
        return refused(format!("the head `{name}` has one of `save_state` and `load_state`, but not the other"));
    }
    let options = match serde_json::from_str::<serde_json::Value>(if options.is_empty() { "{}" } else { options })
        .map(Value::from)
    {
        Ok(Value::Map(options)) => options,
        Ok(other) => return refused(format!("the options of the head `{name}` are {}, not a map", other.type_name())),
        Err(error) => return refused(format!("the options of the head `{name}` are no JSON: {error}")),
    };
    Ok(Declaration { name, options, raw, sites: Vec::new() })
}

/// # Safety
/// As [`read`], for a text.
unsafe fn named(what: &str, text: Str) -> Result<String> {
    // SAFETY: the caller's promise.
    let text = unsafe { arguments::text(what, text)? };
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.' | '+');
    if text.is_empty() || text.len() > 128 || !text.chars().all(fits) {
        return refused(format!("{what} is {text:?}, but has to be letters, digits, `-`, `_`, `.` and `+`"));
    }
    Ok(text.to_string())
}
