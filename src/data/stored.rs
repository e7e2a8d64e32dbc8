//! The bytes of a file that are read where they are needed: of a checkpoint's weights each number is copied once.
//!
//! A folder and a name flow in; stretches of the file flow out, from any thread. Files of the embedded library are there already.

use std::borrow::Cow;
use std::fs::File;
use std::path::PathBuf;

use crate::data::files::Folder;
use crate::error::{Error, Result, What};

/// A file of a folder.
#[derive(Debug)]
pub struct Stored(Bytes);

#[derive(Debug)]
enum Bytes {
    Memory(Cow<'static, [u8]>),
    Disk { file: File, path: PathBuf, length: usize },
}

impl Stored {
    /// Opens the file `name` of `folder`; `None` where the folder has no such file.
    ///
    /// # Errors
    /// A file that is there and cannot be opened.
    pub fn open(folder: &Folder, name: &str) -> Result<Option<Stored>> {
        let path = match folder {
            Folder::Disk(place) => place.join(name),
            Folder::Restricted(place, permissions) => permissions.read(&place.join(name))?,
            Folder::Embedded(_) => return Ok(folder.read(name)?.map(|bytes| Stored(Bytes::Memory(bytes)))),
        };
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        match opened {
            Ok((length, file)) => Ok(Some(Stored(Bytes::Disk { file, path, length: length as usize }))),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(What::Read { path, source }.into()),
        }
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        match &self.0 {
            Bytes::Memory(bytes) => bytes.len(),
            Bytes::Disk { length, .. } => *length,
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `out` with the bytes from `start` on.
    ///
    /// # Errors
    /// A file that ends before, or that cannot be read any more.
    pub fn read(&self, start: usize, out: &mut [u8]) -> Result<()> {
        match &self.0 {
            Bytes::Memory(bytes) => match bytes.get(start..start.saturating_add(out.len())) {
                Some(bytes) => out.copy_from_slice(bytes),
                None => return Err(Error::new(What::Internal(format!("byte {start} of {}", bytes.len())))),
            },
            Bytes::Disk { file, path, .. } => {
                read_at(file, start as u64, out).map_err(|source| What::Read { path: path.clone(), source })?;
            }
        }
        Ok(())
    }

    /// All of it.
    ///
    /// # Errors
    /// As [`Stored::read`].
    pub fn all(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.len()];
        self.read(0, &mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(unix)]
fn read_at(file: &File, start: u64, out: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, start)
}

#[cfg(not(unix))]
fn read_at(file: &File, start: u64, out: &mut [u8]) -> std::io::Result<()> {
    use std::io::{Read, Seek};
    let mut own = file.try_clone()?;
    own.seek(std::io::SeekFrom::Start(start))?;
    own.read_exact(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::permissions::{Grants, Permissions};

    #[test]
    fn stretches_are_those_of_the_file_and_its_end_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..100).collect();
        std::fs::write(place.path().join("a"), &bytes).unwrap();
        let folder = Folder::Disk(place.path().to_path_buf());
        let on_disk = Stored::open(&folder, "a").unwrap().unwrap();
        for stored in [on_disk, Stored(Bytes::Memory(Cow::Owned(bytes.clone())))] {
            let mut out = [0; 7];
            stored.read(93, &mut out).unwrap();
            assert_eq!(out[..], bytes[93..]);
            assert!(stored.read(94, &mut out).is_err());
            assert_eq!((stored.len(), stored.all().unwrap()), (100, bytes.clone()));
        }
        assert!(Stored::open(&folder, "b").unwrap().is_none());
    }

    #[test]
    fn a_file_on_disk_is_read_where_it_is_needed_also_where_a_recipe_asks_for_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("numbers"), [1, 2, 3, 4]).unwrap();
        let permissions = Permissions::of_recipe(&folder.path().join("recipe.rhai"), folder.path(), &Grants::default());
        let place = folder.path().to_path_buf();
        for folder in [Folder::Disk(place.clone()), Folder::Restricted(place, permissions)] {
            let stored = Stored::open(&folder, "numbers").unwrap().unwrap();
            assert!(matches!(stored.0, Bytes::Disk { length: 4, .. }), "{folder:?}");
            let mut two = [0; 2];
            stored.read(1, &mut two).unwrap();
            assert_eq!(two, [2, 3]);
            assert!(Stored::open(&folder, "nothing").unwrap().is_none());
        }
    }
}
