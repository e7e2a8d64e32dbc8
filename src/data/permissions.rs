//! Which files a recipe may read and write.
//!
//! The folders that are allowed flow in, from the command line; each path that a script names flows through
//! [`Permissions::read`] or [`Permissions::write`] before a file is touched, and flows out resolved: links and `..` are followed
//! first, so that none of them leads around the check. The embedded library, the hub's cache and the program's own files need no
//! permission, nor does what the user does without a recipe.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result, What};

/// Which files a recipe may read and write. Cheap to clone; the default allows everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions(Option<Arc<Allowed>>);

/// Folders and files, resolved.
#[derive(Debug, PartialEq, Eq)]
struct Allowed {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
}

/// What a recipe is allowed beside its own folder and the working directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// What it may read.
    pub read: Vec<PathBuf>,
    /// What it may write, and read too.
    pub write: Vec<PathBuf>,
}

/// What is to be done with a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl Access {
    fn doing(self) -> &'static str {
        match self {
            Access::Read => "reading",
            Access::Write => "writing",
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Access::Read => "--allow-read",
            Access::Write => "--allow-write",
        }
    }

    fn inside(self) -> &'static str {
        match self {
            Access::Read => "the working directory and the recipe's folder",
            Access::Write => "the working directory",
        }
    }
}

/// Where a path leads.
enum Target {
    /// There, with links and `..` followed; what is to be made need not exist.
    Path(PathBuf),
    /// To this link, which leads to nothing.
    Nothing(PathBuf),
}

impl Permissions {
    /// The permissions of a recipe: it reads below its own folder and the working directory, writes below the working
    /// directory, and does both where it was granted.
    pub fn of_recipe(recipe: &Path, working_dir: &Path, grants: &Grants) -> Self {
        let place = |path: &PathBuf| resolved(&working_dir.join(path));
        let mut write: Vec<PathBuf> = vec![resolved(working_dir)];
        write.extend(grants.write.iter().map(place));
        let mut read = write.clone();
        // The recipe itself may be a link to somewhere else: the user named it.
        let recipe = working_dir.join(recipe);
        read.extend(recipe.parent().map(resolved));
        read.push(resolved(&recipe));
        read.extend(grants.read.iter().map(place));
        Permissions(Some(Arc::new(Allowed { read, write })))
    }

    /// The same, with `path` to read from as well, where anything is forbidden.
    #[must_use]
    pub fn and_read(self, path: &Path) -> Self {
        self.and(path, Access::Read)
    }

    /// The same, with `path` to read from and write to as well, where anything is forbidden.
    #[must_use]
    pub fn and_write(self, path: &Path) -> Self {
        self.and(path, Access::Write)
    }

    fn and(self, path: &Path, access: Access) -> Self {
        Permissions(self.0.map(|allowed| {
            let Allowed { mut read, mut write } = Allowed { read: allowed.read.clone(), write: allowed.write.clone() };
            let path = resolved(&working_dir().join(path));
            if matches!(access, Access::Write) {
                write.push(path.clone());
            }
            read.push(path);
            Arc::new(Allowed { read, write })
        }))
    }

    /// The path to read instead of `asked`: the same file, without links on the way.
    ///
    /// # Errors
    /// A path that leads out of what may be read, or to nothing by a link.
    pub fn read(&self, asked: &Path) -> Result<PathBuf> {
        self.check(asked, Access::Read)
    }

    /// As [`Permissions::read`], of a path that was asked for by the name `asked`.
    ///
    /// # Errors
    /// As [`Permissions::read`].
    pub fn read_named(&self, asked: &str, path: &Path) -> Result<PathBuf> {
        self.check_named(Path::new(asked), path, Access::Read)
    }

    /// The path to write instead of `asked`: the same file, without links on the way; it need not exist.
    ///
    /// # Errors
    /// A path that leads out of what may be written, or to nothing by a link.
    pub fn write(&self, asked: &Path) -> Result<PathBuf> {
        let target = self.check(asked, Access::Write)?;
        // What was asked for relative to the working directory is shown so.
        let inner = target.strip_prefix(resolved(&working_dir())).ok();
        let inner = inner.filter(|inner| asked.is_relative() && !inner.as_os_str().is_empty());
        Ok(inner.map(Path::to_path_buf).unwrap_or(target))
    }

    /// Whether anything is forbidden.
    pub fn is_restricted(&self) -> bool {
        self.0.is_some()
    }

    /// Allows reading files below the folder `asked`: no link in it may lead out of what may be read.
    ///
    /// # Errors
    /// As [`Permissions::read`], for the folder and for every link in it.
    pub fn read_below(&self, asked: &Path) -> Result<()> {
        self.check_below(asked, Access::Read)
    }

    /// Allows writing files below the folder `asked`, now and later: no link in it may lead out of what may be written.
    ///
    /// # Errors
    /// As [`Permissions::write`], for the folder and for every link in it.
    pub fn write_below(&self, asked: &Path) -> Result<()> {
        self.check_below(asked, Access::Write)
    }

    fn check_below(&self, asked: &Path, access: Access) -> Result<()> {
        let folder = self.check(asked, access)?;
        if self.is_restricted() { self.no_way_out(&folder, asked, access, DEPTH) } else { Ok(()) }
    }

    fn no_way_out(&self, folder: &Path, asked: &Path, access: Access, depth: usize) -> Result<()> {
        // A folder that is not there yet has no links; one that cannot be listed fails when it is used.
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let (Ok(kind), path) = (entry.file_type(), asked.join(entry.file_name())) else { continue };
            let is_ours = access == Access::Read || may_be_written(&entry.file_name().to_string_lossy(), &entry.path());
            if !is_ours || self.leads_inside(&entry.path(), access) {
                continue;
            }
            if kind.is_symlink() {
                self.check(&path, access)?;
            } else if kind.is_dir() && depth > 0 {
                self.no_way_out(&entry.path(), &path, access, depth - 1)?;
            }
        }
        Ok(())
    }

    /// Whether a link leads to something within what is allowed that is not there: to a checkpoint that made room.
    fn leads_inside(&self, link: &Path, access: Access) -> bool {
        let (Ok(target), Some(folder)) = (std::fs::read_link(link), link.parent()) else { return false };
        let roots = self.roots(access);
        matches!(follow(&folder.join(target)), Target::Path(path) if !path.exists() && roots.iter().any(|root| path.starts_with(root)))
    }

    fn roots(&self, access: Access) -> &[PathBuf] {
        match (&self.0, access) {
            (None, _) => &[],
            (Some(allowed), Access::Read) => &allowed.read,
            (Some(allowed), Access::Write) => &allowed.write,
        }
    }

    fn check(&self, asked: &Path, access: Access) -> Result<PathBuf> {
        self.check_named(asked, asked, access)
    }

    fn check_named(&self, asked: &Path, path: &Path, access: Access) -> Result<PathBuf> {
        if !self.is_restricted() {
            return Ok(path.to_path_buf());
        }
        let shown = asked.display();
        let target = match follow(&working_dir().join(path)) {
            Target::Path(path) => path,
            Target::Nothing(link) => {
                let which = match link == *asked {
                    true => "it is a link that leads to nothing".to_string(),
                    false => format!("the link `{}` leads to nothing", link.display()),
                };
                let problem = format!("{} `{shown}` is not allowed: {which}", access.doing());
                return Err(Error::new(What::NotAllowed(problem)).hint("remove the link, or make what it leads to"));
            }
        };
        if self.roots(access).iter().any(|root| target.starts_with(root)) {
            return Ok(target);
        }
        let place = match target == *asked {
            true => "it is".to_string(),
            false => format!("it is `{}`,", target.display()),
        };
        let problem = format!("{} `{shown}` is not allowed: {place} outside {}", access.doing(), access.inside());
        // A snapshot of Hugging Face's cache is a folder of links to one of blobs.
        let blobs = target.parent().filter(|folder| folder.ends_with("blobs"));
        let flag = format!("`{} {}` on the command line allows it", access.flag(), quoted(blobs.unwrap_or(&target)));
        Err(Error::new(What::NotAllowed(problem)).hint(flag))
    }
}

/// How deep a folder is searched for links: texts of a search's trial lie two folders below the run's.
const DEPTH: usize = 4;

/// Whether an entry of a folder that a run writes into may be one that it writes: files, and the folders with its own names. The
/// folder may be a project's, with other folders and links in it.
fn may_be_written(name: &str, path: &Path) -> bool {
    match path.is_dir() {
        true => {
            ["checkpoint-", "run-"].iter().any(|own| name.starts_with(own)) || ["scripts", "plugins"].contains(&name)
        }
        false => !name.starts_with('.') || name == ".lock",
    }
}

/// The working directory; the root where there is none, so that nothing becomes relative to something else.
fn working_dir() -> PathBuf {
    std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"))
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = text.chars().all(|letter| letter.is_alphanumeric() || "/._-+=@%:,".contains(letter));
    if is_plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Where a root lies. One that leads nowhere is kept as it is, and allows nothing.
fn resolved(path: &Path) -> PathBuf {
    match follow(path) {
        Target::Path(path) | Target::Nothing(path) => path,
    }
}

/// Follows links and `..` from the root on, as the system would. Parts that do not exist are kept.
fn follow(path: &Path) -> Target {
    if let Ok(path) = std::fs::canonicalize(path) {
        return Target::Path(path);
    }
    let mut real = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Prefix(_) | Component::RootDir => real.push(part),
            Component::CurDir => {}
            // All links before it have been followed, so the part above is the folder above.
            Component::ParentDir => {
                real.pop();
            }
            Component::Normal(name) => {
                real.push(name);
                let is_link = std::fs::symlink_metadata(&real).is_ok_and(|found| found.is_symlink());
                if is_link {
                    match std::fs::canonicalize(&real) {
                        Ok(target) => real = target,
                        // Nothing is there, a circle of links, or a folder that may not be entered: it leads nowhere for us.
                        Err(_) => return Target::Nothing(real),
                    }
                }
            }
        }
    }
    Target::Path(real)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_do_not_exist_are_kept_and_dots_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("in/deep")).unwrap();
        let cases = [
            ("in/new/file", "in/new/file"),
            ("in/deep/../new", "in/new"),
            ("in/new/../../out", "out"),
            ("./in/./deep", "in/deep"),
        ];
        for (asked, expected) in cases {
            assert_eq!(resolved(&root.join(asked)), root.join(expected), "{asked}");
        }
    }

    #[test]
    fn a_name_is_quoted_for_the_shell_where_it_has_to_be() {
        assert_eq!(quoted(Path::new("/data/a-b_1.json")), "/data/a-b_1.json");
        assert_eq!(quoted(Path::new("/my data/it's")), "'/my data/it'\\''s'");
    }
}
