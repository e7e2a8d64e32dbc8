//! `retune new plugin NAME`: a crate that builds, tests and trains as it stands.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::cli::{Context, print};
use crate::error::{Error, Result, What};
use crate::host::diagnostics::Outcome;
use crate::data::durable::write_file;

/// Make something new to start from.
#[derive(Args)]
pub(super) struct New {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Subcommand)]
enum Kind {
    /// A task head in Rust: a crate with a head, a test, a recipe, and a copy of the SDK
    Plugin {
        /// The name of the crate and of its head
        name: String,
        /// The folder to make, which must not exist; NAME by default
        #[arg(long, value_name = "DIR")]
        path: Option<PathBuf>,
        /// Use the SDK in DIR instead of a copy
        #[arg(long, value_name = "DIR")]
        sdk: Option<PathBuf>,
    },
}

/// The SDK as it is in this program: its files below the crate's `sdk`.
const SDK: [(&str, &str); 14] = [
    ("include/retune_plugin.h", include_str!("../../plugins/sdk/include/retune_plugin.h")),
    ("src/lib.rs", include_str!("../../plugins/sdk/src/lib.rs")),
    ("src/abi.rs", include_str!("../../plugins/sdk/src/abi.rs")),
    ("src/opcodes.rs", include_str!("../../plugins/sdk/src/opcodes.rs")),
    ("src/json.rs", include_str!("../../plugins/sdk/src/json.rs")),
    ("src/context.rs", include_str!("../../plugins/sdk/src/context.rs")),
    ("src/tensor.rs", include_str!("../../plugins/sdk/src/tensor.rs")),
    ("src/layers.rs", include_str!("../../plugins/sdk/src/layers.rs")),
    ("src/custom.rs", include_str!("../../plugins/sdk/src/custom.rs")),
    ("src/head.rs", include_str!("../../plugins/sdk/src/head.rs")),
    ("src/export.rs", include_str!("../../plugins/sdk/src/export.rs")),
    ("src/testing.rs", include_str!("../../plugins/sdk/src/testing.rs")),
    ("Cargo.toml", include_str!("../../plugins/template/sdk.toml")),
    ("LICENSE", include_str!("../../LICENSE")),
];

/// The crate: `{{name}}` stands for its name, `{{sdk}}` for the path of the SDK.
const CRATE: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("../../plugins/template/crate.toml")),
    ("src/lib.rs", include_str!("../../plugins/template/lib.rs")),
    ("train.rhai", include_str!("../../plugins/template/train.rhai")),
    ("README.md", include_str!("../../plugins/template/README.md")),
    (".gitignore", "/target\n"),
];

impl New {
    pub(super) fn execute(self, _context: &Context) -> Outcome {
        let Kind::Plugin { name, path, sdk } = self.kind;
        Ok(plugin(&name, &path.unwrap_or_else(|| PathBuf::from(&name)), sdk.as_deref())?)
    }
}

fn plugin(name: &str, folder: &Path, sdk: Option<&Path>) -> Result<()> {
    let fits = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '-' | '_');
    if !name.starts_with(|letter: char| letter.is_ascii_lowercase()) || !name.chars().all(fits) {
        let error = Error::new(What::Usage(format!("`{name}` cannot be the name of a crate")));
        return Err(error.hint("use lower-case letters, digits, `-` and `_`, the first a letter"));
    }
    if folder.exists() {
        let error = Error::new(What::Usage(format!("`{}` is there already", folder.display())));
        return Err(error.hint("choose another name, or another folder with `--path DIR`"));
    }
    let sdk_path = match sdk {
        Some(sdk) if sdk.join("src/abi.rs").is_file() => {
            std::path::absolute(sdk).unwrap_or_else(|_| sdk.to_path_buf()).display().to_string()
        }
        Some(sdk) => {
            let error = Error::new(What::NotFound { kind: "folder", name: sdk.display().to_string() });
            return Err(error.hint("`--sdk` wants the folder `plugins/sdk` of retune's source"));
        }
        None => "sdk".to_string(),
    };
    let write = |path: &Path, text: &str| {
        write_file(path, text.as_bytes())
    };
    for (path, text) in CRATE {
        let text = text.replace("{{library}}", &name.replace('-', "_"));
        write(&folder.join(path), &text.replace("{{name}}", name).replace("{{sdk}}", &sdk_path))?;
    }
    if sdk.is_none() {
        SDK.iter().try_for_each(|(path, text)| write(&folder.join("sdk").join(path), text))?;
    }
    let library = format!("target/release/lib{}.{}", name.replace('-', "_"), std::env::consts::DLL_EXTENSION);
    print(&format!(
        "made {}; next:\n  cd {0}\n  cargo test --release\n  cargo build --release\n  retune plugin allow {library}\n  retune run train.rhai\n",
        folder.display()
    ))
}
