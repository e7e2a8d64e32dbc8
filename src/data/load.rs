//! Loading a data set by name: a file, a folder of splits, `std/...`, or files given one by one.
//!
//! A name and options flow in; a [`Dataset`], or one for each split, flows out. Which file belongs to which split is
//! said by [`crate::data::splits`], what `train[:100]` means by [`slices`], what a file holds by its [`Format`].

use indexmap::IndexMap;

use crate::cancel;
use crate::data::conll;
use crate::data::dataset::{Dataset, listed};
use crate::data::digest::digest;
use crate::data::files::Places;
use crate::data::format::Format;
use crate::data::hub::{Hub, is_repository};
use crate::data::hub_dataset;
use crate::data::slices;
use crate::data::sources::{self, Source};
use crate::data::stages::{self, Key};
use crate::error::{Error, Place, Result, What, nearest};

/// What is loaded: the rows of one file or of the splits asked for, or every split of a folder.
#[derive(Clone, Debug)]
pub enum Loaded {
    /// One data set.
    One(Dataset),
    /// A data set for each split, in the order train, validation, test, then others.
    Splits(IndexMap<String, Dataset>),
}

/// The options of [`load`].
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Which split, with Hugging Face's slice syntax.
    pub split: Option<String>,
    /// The format, where the extension does not tell it.
    pub format: Option<String>,
    /// Which files, relative to the folder where the name is one.
    pub data_files: Option<DataFiles>,
    /// Which of a data set's configurations.
    pub config: Option<String>,
    /// A version of a hub data set: a branch, a tag or a commit.
    pub revision: Option<String>,
    /// Where a name that is not here is looked for.
    pub hub: Option<Hub>,
    /// Which column of a CoNLL file holds the tokens: 0 unless given.
    pub token_column: Option<i64>,
    /// Which column of a CoNLL file holds the tags: the last one unless given.
    pub tag_column: Option<i64>,
}

/// Files given one by one; `*`, `?` and `[...]` match names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataFiles {
    /// The files of the split `train`.
    Train(Vec<String>),
    /// The files of each split.
    Splits(IndexMap<String, Vec<String>>),
}

/// Hugging Face's names for "the files in `data_files`, in this format".
const BUILDERS: &[&str] = &["json", "csv", "text", "parquet", "conll"];

/// The split of files that nothing else is said about.
const TRAIN: &str = "train";

/// Loads the data set `name`.
///
/// # Errors
/// A name that is not there, a split that is not there, and everything a format refuses.
pub fn load(places: &Places, name: &str, options: &LoadOptions) -> Result<Loaded> {
    let plan = plan(places, name, options)?;
    stages::cached(|| plan.key(options), || plan.load(options))
}

impl Plan<'_> {
    /// What the rows are made of. The files of a hub are kept by the hub's cache.
    fn key(&self, options: &LoadOptions) -> Result<Option<Key>> {
        if self.kind == Kind::Hub {
            return Ok(None);
        }
        let mut files = String::new();
        for (split, sources) in &self.files {
            for source in sources {
                cancel::check()?;
                files += &format!("{split} {} {}\n", source.shown.display(), digest(&source.bytes()?));
            }
        }
        let said = format!(
            "{:?} {:?} {:?} {:?} {:?}",
            options.split, options.format, options.data_files, options.token_column, options.tag_column
        );
        let parts = vec![("files", digest(files.as_bytes())), ("options", digest(said.as_bytes()))];
        Ok(Some(Key { stage: "load_dataset", about: self.name.to_string(), parts }))
    }

    fn load(&self, options: &LoadOptions) -> Result<Loaded> {
        match &options.split {
            Some(split) => self.slice(split).map(Loaded::One),
            None if self.kind == Kind::File => self.read(TRAIN).map(Loaded::One),
            None => {
                let splits = self.files.keys().map(|split| Ok((split.clone(), self.read(split)?)));
                splits.collect::<Result<_>>().map(Loaded::Splits)
            }
        }
    }
}

/// What is going to be read.
struct Plan<'a> {
    name: &'a str,
    kind: Kind,
    format: Chosen,
    columns: conll::Columns,
    files: IndexMap<String, Vec<Source>>,
}

/// What the name of a data set means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One file: there is no need to name its split.
    File,
    /// A folder whose files are sorted by their names.
    Folder,
    /// Files given one by one, in a folder.
    Given,
    /// A format, for files given one by one.
    Builder,
    /// A repository of a hub.
    Hub,
}

/// How the format of a file is found.
#[derive(Clone, Copy)]
enum Chosen {
    /// By the file's extension.
    ByExtension,
    /// The option `format` says it.
    Given(Format),
    /// One of [`BUILDERS`]: the extension may still tell `.tsv` from CSV and `.jsonl` from JSON.
    Builder(Format),
}

impl Chosen {
    fn of(self, source: &Source) -> Result<Format> {
        match self {
            Chosen::ByExtension => Format::of(&source.shown),
            Chosen::Given(format) => Ok(format),
            Chosen::Builder(format) => Ok(match (format, Format::of(&source.shown)) {
                (Format::Csv, Ok(Format::Tsv)) => Format::Tsv,
                (Format::Json, Ok(Format::JsonLines)) => Format::JsonLines,
                _ => format,
            }),
        }
    }
}

fn plan<'a>(places: &Places, name: &'a str, options: &LoadOptions) -> Result<Plan<'a>> {
    let is_builder = options.data_files.is_some() && BUILDERS.contains(&name) && places.path(name)?.is_none();
    let format = match &options.format {
        Some(format) => Chosen::Given(Format::named(format)?),
        None if is_builder => Chosen::Builder(Format::named(name)?),
        None => Chosen::ByExtension,
    };
    let folder = if is_builder { None } else { sources::folder(places, name)? };
    let (kind, files) = match (&options.data_files, folder) {
        (Some(files), _) if is_builder => (Kind::Builder, sources::given(places, None, files)?),
        (Some(files), Some(folder)) => (Kind::Given, sources::given(places, Some((name, &folder)), files)?),
        (None, Some(folder)) => (Kind::Folder, sources::of_folder(name, &folder, options.config.as_deref())?),
        (files, None) => match sources::file(places, name)? {
            Some(file) if files.is_none() => (Kind::File, IndexMap::from([(TRAIN.to_string(), vec![file])])),
            _ => (Kind::Hub, of_hub(places, name, options)?),
        },
    };
    let elsewhere = [
        ("revision", options.revision.is_some(), kind != Kind::Hub),
        ("config", options.config.is_some(), matches!(kind, Kind::File | Kind::Given | Kind::Builder)),
    ];
    if let Some((option, ..)) = elsewhere.iter().find(|(_, is_given, has_none)| *is_given && *has_none) {
        let problem = format!("`{name}` is local, so `{option}` says nothing about it");
        return Err(Error::new(What::Conflict(problem)).hint(format!("leave `{option}` out")));
    }
    let columns = conll::Columns {
        token: options.token_column.unwrap_or(conll::Columns::ENDS.token),
        tag: options.tag_column.unwrap_or(conll::Columns::ENDS.tag),
    };
    let plan = Plan { name, kind, format, columns, files };
    plan.refuse_columns(options)?;
    Ok(plan)
}

/// The files of a data set that is not here. A name that is nearly one of those here is not looked for elsewhere.
fn of_hub(places: &Places, name: &str, options: &LoadOptions) -> Result<IndexMap<String, Vec<Source>>> {
    let here = sources::missing(places, name);
    let is_meant = matches!(here.what(), What::NotFound { kind: "data set", .. });
    let is_near = here.hint_text().is_some_and(|hint| hint.starts_with("did you mean"));
    match &options.hub {
        Some(hub) if is_meant && !is_near && is_repository(name) => {
            hub_dataset::splits(hub, name, options).map_err(|error| match error.hint_text() {
                Some(_) => error,
                None => {
                    error.hint(format!("`{name}` is neither a file nor a folder here, so it was looked for on the hub"))
                }
            })
        }
        _ => Err(here),
    }
}

impl Plan<'_> {
    fn format_of(&self, source: &Source) -> Result<Format> {
        Ok(match self.format.of(source)? {
            Format::Conll(_) => Format::Conll(self.columns),
            format => format,
        })
    }

    /// Options of CoNLL have no effect on other formats.
    fn refuse_columns(&self, options: &LoadOptions) -> Result<()> {
        if options.token_column.is_none() && options.tag_column.is_none() {
            return Ok(());
        }
        for source in self.files.values().flatten() {
            if !matches!(self.format_of(source)?, Format::Conll(_)) {
                let problem =
                    format!("`token_column` and `tag_column` are for CoNLL, but `{}` is none", source.shown.display());
                return Err(Error::new(What::Conflict(problem))
                    .hint("for a CoNLL file of another name, give `format: \"conll\"`"));
            }
        }
        Ok(())
    }

    /// Reads the files of one split, one after the other.
    fn read(&self, split: &str) -> Result<Dataset> {
        let sources = &self.files[split];
        let formats = sources.iter().map(|source| self.format_of(source)).collect::<Result<Vec<_>>>()?;
        if let Some(other) = formats.iter().position(|format| *format != formats[0])
            && matches!(self.kind, Kind::Folder | Kind::Hub)
        {
            let (one, two) = (sources[0].shown.display(), sources[other].shown.display());
            let problem = format!("the split `{split}` has files of two formats: `{one}` and `{two}`");
            return Err(Error::new(What::Conflict(problem)).hint("choose with `data_files`"));
        }
        let mut whole: Option<Dataset> = None;
        for (source, format) in sources.iter().zip(formats) {
            let parsed = format.parse(&source.bytes()?, &source.shown)?;
            let name = match self.kind {
                Kind::File | Kind::Builder => source.shown.display().to_string(),
                Kind::Folder | Kind::Given | Kind::Hub => format!("{}[{split}]", self.name),
            };
            let data = Dataset::from_file(name, &source.shown, parsed);
            whole = Some(whole.map_or_else(|| data.clone(), |before| before.concat(&data)));
        }
        Ok(whole.expect("a split has at least one file"))
    }

    /// Reads what the option `split` asks for.
    fn slice(&self, split: &str) -> Result<Dataset> {
        let mut whole: Option<Dataset> = None;
        for slice in slices::parse(split)? {
            let names: Vec<&str> = match slice.split.as_str() {
                "all" => self.files.keys().map(String::as_str).collect(),
                name if self.files.contains_key(name) => vec![name],
                name => return Err(self.no_split(name)),
            };
            let mut data = self.read(names[0])?;
            for name in &names[1..] {
                data = data.concat(&self.read(name)?);
            }
            let part = slice.of(&data);
            whole = Some(whole.map_or_else(|| part.clone(), |before| before.concat(&part)));
        }
        let data = whole.expect("a split that parses has a part").named(format!("{}[{split}]", self.name));
        match data.is_empty() {
            true => {
                let error = Error::new(What::BadData(format!("`{}` has no rows", data.name())));
                Err(error.hint("the slice begins behind the last row, or ends where it begins"))
            }
            false => Ok(data),
        }
    }

    fn no_split(&self, split: &str) -> Error {
        let known: Vec<&str> = self.files.keys().map(String::as_str).collect();
        let error = Error::new(What::NotFound { kind: "split", name: split.into() });
        let error = error.at(Place::Within(format!("data set `{}`", self.name)));
        match nearest(split, known.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("it has {}", listed(&known))),
        }
    }
}
