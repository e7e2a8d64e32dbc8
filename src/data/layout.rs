//! Which files of a data set's folder or repository make up which split: by a README.md, by a configuration's folder, by
//! `data_files`, or by the files' names, in Hugging Face's order.
//!
//! Names of files flow in, splits with their files flow out; nothing is read here.

use indexmap::IndexMap;

use crate::data::configs::{self, Config};
use crate::data::load::DataFiles;
use crate::data::splits;
use crate::error::{Error, Place, Result, What};

/// The files of each split, as paths within the folder.
pub(super) type Splits = IndexMap<String, Vec<String>>;

/// What the layout of a data set is found from.
pub(super) struct Layout<'a> {
    /// What messages call the data set.
    pub(super) dataset: &'a str,
    /// All its files, with `/` between the parts of a path.
    pub(super) files: &'a [String],
    /// The text of its README.md, where it has one.
    pub(super) readme: Option<&'a str>,
    /// The configuration that was asked for.
    pub(super) config: Option<&'a str>,
}

impl Layout<'_> {
    /// The splits and their files; none where no file's name is that of data.
    ///
    /// # Errors
    /// A README.md that cannot be understood, a configuration that is not there, a pattern that no file matches.
    pub(super) fn splits(&self) -> Result<Splits> {
        let configs = match self.readme {
            Some(readme) => configs::read(readme).map_err(|error| error.at(self.within()))?,
            None => Vec::new(),
        };
        if !configs.is_empty() {
            return self.of_config(configs::choose(&configs, self.config, self.dataset)?);
        }
        let Some(config) = self.config.filter(|config| *config != "default") else {
            return Ok(splits::assign(self.files));
        };
        let found = self.inside(config);
        match found.is_empty() {
            false => Ok(found),
            true => {
                let mut folders: Vec<&str> =
                    self.files.iter().filter_map(|file| Some(file.split_once('/')?.0)).collect();
                folders.retain(|folder| !self.inside(folder).is_empty() && splits::split_of(folder).is_none());
                folders.sort_unstable();
                folders.dedup();
                Err(configs::unknown(config, &folders, self.dataset))
            }
        }
    }

    /// The splits that `data_files` names.
    ///
    /// # Errors
    /// A pattern that no file matches.
    pub(super) fn given(&self, data_files: &DataFiles) -> Result<Splits> {
        match data_files {
            DataFiles::Train(patterns) => Ok(Splits::from([("train".to_string(), self.matching(patterns)?)])),
            DataFiles::Splits(given) => {
                given.iter().map(|(split, patterns)| Ok((split.clone(), self.matching(patterns)?))).collect()
            }
        }
    }

    fn of_config(&self, config: &Config) -> Result<Splits> {
        let folder = config.data_dir.as_deref().map(|folder| folder.trim_start_matches("./").trim_matches('/'));
        let folder = folder.filter(|folder| !matches!(*folder, "" | "."));
        let Some(data_files) = &config.data_files else {
            return Ok(folder.map_or_else(|| splits::assign(self.files), |folder| self.inside(folder)));
        };
        let path = |pattern: &String| folder.map_or_else(|| pattern.clone(), |folder| format!("{folder}/{pattern}"));
        let of = |patterns: &Vec<String>| self.matching(&patterns.iter().map(path).collect::<Vec<_>>());
        data_files.iter().map(|(split, patterns)| Ok((split.clone(), of(patterns)?))).collect()
    }

    /// The splits of the files in one folder.
    fn inside(&self, folder: &str) -> Splits {
        let inner = |file: &String| file.strip_prefix(folder)?.strip_prefix('/').map(str::to_string);
        let found = splits::assign(&self.files.iter().filter_map(inner).collect::<Vec<_>>());
        let outer = |files: Vec<String>| files.into_iter().map(|file| format!("{folder}/{file}")).collect();
        found.into_iter().map(|(split, files)| (split, outer(files))).collect()
    }

    /// The files that the patterns match, each once.
    fn matching(&self, patterns: &[String]) -> Result<Vec<String>> {
        let mut found: IndexMap<String, ()> = IndexMap::new();
        for pattern in patterns {
            let matches = splits::matching(self.files, pattern)?;
            if matches.is_empty() {
                let name = format!("{}/{pattern}", self.dataset);
                return Err(Error::new(What::NotFound { kind: "file", name })
                    .hint("no file of the data set has this name or matches this pattern"));
            }
            found.extend(matches.into_iter().map(|file| (file, ())));
        }
        if found.is_empty() {
            return Err(What::BadData("`data_files` names no files".into()).into());
        }
        Ok(found.into_keys().collect())
    }

    fn within(&self) -> Place {
        Place::Within(format!("data set `{}`", self.dataset))
    }
}
