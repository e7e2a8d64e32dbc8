//! The configurations of a data set, as the `configs` of its README.md name them: which files, and of which splits.
//!
//! The text of a README.md flows in; [`Config`]s flow out, after Hugging Face's `MetadataConfigs`. Finding the files that a
//! pattern names is left to [`crate::data::splits`].

use indexmap::IndexMap;
use serde::Deserialize;

use crate::data::dataset::listed;
use crate::data::guard;
use crate::error::{Error, Result, What, nearest};

/// The name that a configuration has where none is given.
const DEFAULT: &str = "default";

/// One configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its name, which the option `config` gives.
    pub name: String,
    /// Whether it is meant where none is named.
    pub is_default: bool,
    /// The folder that its files are in.
    pub data_dir: Option<String>,
    /// The patterns of each split's files; none where the files' names tell.
    pub data_files: Option<IndexMap<String, Vec<String>>>,
}

/// The configurations that a README.md names, in its order; none where it has no such part.
///
/// # Errors
/// A front matter that is not YAML, and `configs` of another form than Hugging Face's.
pub fn read(readme: &str) -> Result<Vec<Config>> {
    let Some(front) = front_matter(readme) else { return Ok(Vec::new()) };
    let front = guard::catch(|| serde_yaml_ng::from_str::<Option<Front>>(front)).map_err(malformed)?;
    let configs = front.and_then(|front| front.configs).unwrap_or_default();
    Ok(configs.into_iter().map(Written::read).collect())
}

/// What stands between the first line `---` and the next.
fn front_matter(readme: &str) -> Option<&str> {
    let rest = readme.trim_start_matches('\u{feff}').strip_prefix("---")?;
    let rest = rest.strip_prefix('\r').unwrap_or(rest).strip_prefix('\n')?;
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Some(&rest[..at]);
        }
        at += line.len();
    }
    None
}

fn malformed(problem: String) -> Error {
    Error::new(What::Malformed { format: "README.md".into(), problem })
}

/// The front matter, of which only the configurations matter here.
#[derive(Deserialize)]
struct Front {
    configs: Option<Vec<Written>>,
}

/// A configuration as it is written.
#[derive(Deserialize)]
struct Written {
    config_name: Option<String>,
    data_dir: Option<String>,
    data_files: Option<Files>,
    #[serde(default)]
    default: bool,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`data_files` must be patterns, or a list of `split` and `path`")]
enum Files {
    Splits(Vec<Part>),
    Patterns(Patterns),
}

#[derive(Deserialize)]
struct Part {
    split: String,
    path: Patterns,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "must be a pattern or a list of patterns")]
enum Patterns {
    One(String),
    Several(Vec<String>),
}

impl Patterns {
    fn list(self) -> Vec<String> {
        match self {
            Patterns::One(pattern) => vec![pattern],
            Patterns::Several(patterns) => patterns,
        }
    }
}

impl Written {
    fn read(self) -> Config {
        let name = self.config_name.unwrap_or_else(|| DEFAULT.into());
        let data_files = self.data_files.map(|files| match files {
            Files::Patterns(patterns) => IndexMap::from([("train".to_string(), patterns.list())]),
            Files::Splits(parts) => {
                let mut splits = IndexMap::<String, Vec<String>>::new();
                for part in parts {
                    splits.entry(part.split).or_default().extend(part.path.list());
                }
                splits
            }
        });
        Config { is_default: self.default || name == DEFAULT, name, data_dir: self.data_dir, data_files }
    }
}

/// The configuration that is meant: the one asked for, the default one, or the only one.
///
/// # Errors
/// A name that none has, and several without a default where none was asked for.
pub fn choose<'a>(configs: &'a [Config], wanted: Option<&str>, dataset: &str) -> Result<&'a Config> {
    let names: Vec<&str> = configs.iter().map(|config| config.name.as_str()).collect();
    match wanted {
        Some(wanted) => {
            configs.iter().find(|config| config.name == wanted).ok_or_else(|| unknown(wanted, &names, dataset))
        }
        None => match (configs, configs.iter().find(|config| config.is_default)) {
            (_, Some(config)) | ([config], None) => Ok(config),
            _ => {
                let problem =
                    format!("the data set `{dataset}` has several configurations and none is the default one");
                Err(Error::new(What::Conflict(problem)).hint(format!("choose with `config`: {}", some(&names))))
            }
        },
    }
}

/// The error for a configuration that is not there.
pub(super) fn unknown(wanted: &str, names: &[&str], dataset: &str) -> Error {
    let error = Error::new(What::NotFound { kind: "configuration", name: wanted.into() });
    let error = error.at(crate::error::Place::Within(format!("data set `{dataset}`")));
    match nearest(wanted, names.iter().copied()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None if names.is_empty() => error.hint("the data set has no configurations; leave `config` out"),
        None => error.hint(format!("it has {}", some(names))),
    }
}

fn some(names: &[&str]) -> String {
    const SHOWN: usize = 12;
    match names.len() {
        n if n > SHOWN => format!("{} and {} more", listed(&names[..SHOWN]), n - SHOWN),
        _ => listed(names),
    }
}
