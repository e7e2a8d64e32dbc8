//! Writing so that nothing is ever half there, whatever becomes of the process, the disk or the power.
//!
//! Bytes flow in; a file or a whole folder flows out under its name at one moment, when it is complete and on the disk:
//! written beside its place, synced, renamed, and the folder around it synced. What a process that died leaves behind has
//! names that begin with a dot and is removed by [`sweep`].

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cancel;
use crate::error::{Error, Result, What};

/// What the names of things that are being written begin with.
const NEW: &str = ".retune-new-";
/// What the names of things that are being removed begin with.
const OLD: &str = ".retune-old-";
/// What the names of other things begin with that go with the run that made them, where every letter counts.
pub const PASSING: &str = ".rt-";

/// Writes `bytes` to `path`, in place of what was there; folders that are missing are made.
///
/// # Errors
/// A folder that cannot be written to, a full disk; what was there before stays.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_by(path, |beside| std::fs::write(beside, bytes))
}

/// As [`write_file`], for what writes itself: `write` gets the path of the file to write.
///
/// # Errors
/// As [`write_file`].
pub fn write_by(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    // A signal waits for the file.
    let _finishing = cancel::finish_first();
    let folder = folder_of(path);
    make_folder(folder)?;
    let beside = Beside(hidden(path, NEW)?);
    let written = write(&beside.0).and_then(|()| sync(&beside.0)).and_then(|()| std::fs::rename(&beside.0, path));
    written.and_then(|()| sync_folder(folder)).map_err(failed(path))
}

/// Makes a folder and those around it.
///
/// # Errors
/// A folder that cannot be made; where a file is in the way, it is named.
pub fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|source| {
        let error = failed(folder)(source);
        match folder.ancestors().find(|part| part.is_file()) {
            Some(file) => error.hint(format!("`{}` is a file, not a folder", file.display())),
            None => error,
        }
    })
}

/// A folder that is being written. It gets its name with [`Transaction::commit`]; without that nothing of it remains.
#[derive(Debug)]
pub struct Transaction {
    beside: Beside,
    target: PathBuf,
}

impl Transaction {
    /// Begins to write what will be the folder `target`.
    ///
    /// # Errors
    /// A folder around it that cannot be written to.
    pub fn begin(target: &Path) -> Result<Self> {
        make_folder(folder_of(target))?;
        let beside = Beside(hidden(target, NEW)?);
        std::fs::create_dir(&beside.0).map_err(failed(target))?;
        Ok(Transaction { beside, target: target.to_path_buf() })
    }

    /// Where to write meanwhile.
    pub fn folder(&self) -> &Path {
        &self.beside.0
    }

    /// Gives the folder its name, at one moment, in place of a folder of that name. Whatever was written with
    /// [`write_file`] or [`write_by`] is on the disk by then.
    ///
    /// # Errors
    /// A disk that fails; a folder that was there before stays.
    pub fn commit(self) -> Result<()> {
        let Transaction { beside, target } = &self;
        sync_folder(&beside.0).map_err(failed(target))?;
        let parent = folder_of(target);
        if target.exists() {
            exchange(&beside.0, target).map_err(failed(target))?;
            // From here on what was there before lies beside, where it is removed as a transaction that was given up.
        } else {
            std::fs::rename(&beside.0, target).map_err(failed(target))?;
        }
        sync_folder(parent).map_err(failed(target))
    }
}

/// Removes a folder so that it is whole or gone at each moment.
///
/// # Errors
/// A folder that cannot be removed.
pub fn remove_folder(folder: &Path) -> Result<()> {
    let old = hidden(folder, OLD)?;
    std::fs::rename(folder, &old).map_err(failed(folder))?;
    std::fs::remove_dir_all(&old).map_err(failed(folder))
}

/// Removes what writers that died have left in `folder`. Nobody else may be writing into it.
pub fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if [NEW, OLD, PASSING].iter().any(|mark| name.starts_with(mark)) {
            // What cannot be removed is in nobody's way.
            remove(&entry.path());
        }
    }
}

/// The folder that a path lies in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Something that is being written, removed where it was given up.
#[derive(Debug)]
struct Beside(PathBuf);

impl Drop for Beside {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(path: &Path) {
    let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
}

/// A name beside `path` that nobody else uses.
fn hidden(path: &Path, mark: &str) -> Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name() else {
        return Err(failed(path)(io::ErrorKind::IsADirectory.into()));
    };
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    Ok(path.with_file_name(format!("{mark}{}-{}-{number}", name.to_string_lossy(), std::process::id())))
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    sync(folder)
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// Exchanges two folders, at one moment where the system can.
fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
            // Some file systems cannot.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
            done => return done.map_err(io::Error::from),
        }
    }
    let aside = new.with_extension("before");
    std::fs::rename(old, &aside)?;
    if let Err(error) = std::fs::rename(new, old) {
        std::fs::rename(&aside, old)?;
        return Err(error);
    }
    std::fs::rename(&aside, new)
}

/// The error of a write to `path`, with what can be done about it.
fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| {
        let hint = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "the disk is full: make room, or write elsewhere"
            }
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                "choose another folder, or mend its permissions"
            }
            _ => return Error::new(What::Write { path: path.clone(), source }),
        };
        Error::new(What::Write { path: path.clone(), source }).hint(hint)
    }
}

/// A folder that one run writes into at a time.
#[derive(Debug)]
pub struct Lock {
    /// Locked until it is closed, also where the process dies.
    _file: File,
    path: PathBuf,
}

impl Lock {
    /// Locks `folder`, which has to be there, for as long as the lock lives.
    ///
    /// # Errors
    /// A folder that another run has locked, with that run's process; one that cannot be written to.
    pub fn of(folder: &Path) -> Result<Lock> {
        let path = folder.join(".lock");
        loop {
            let mut options = File::options();
            let file =
                options.create(true).truncate(false).read(true).write(true).open(&path).map_err(failed(&path))?;
            match file.try_lock() {
                Err(std::fs::TryLockError::WouldBlock) => return Err(locked(folder, &path)),
                // A file system without locks: there is nothing to go by.
                Err(std::fs::TryLockError::Error(_)) => {}
                // The run before removes its file; what was locked then is no longer what others open.
                Ok(()) if !is_at(&file, &path) => continue,
                Ok(()) => {}
            }
            file.set_len(0).map_err(failed(&path))?;
            io::Write::write_all(&mut &file, std::process::id().to_string().as_bytes()).map_err(failed(&path))?;
            return Ok(Lock { _file: file, path });
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before it is unlocked, so that nobody locks a file that is about to go.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn locked(folder: &Path, path: &Path) -> Error {
    let process = std::fs::read_to_string(path).ok().filter(|process| !process.is_empty());
    let process = process.map(|process| format!(" (process {process})")).unwrap_or_default();
    Error::new(What::Conflict(format!("another run{process} is writing into `{}`", folder.display())))
        .hint("choose another `output_dir`, or wait until that run has ended")
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(one), Ok(other)) = (file.metadata(), std::fs::metadata(path)) else { return false };
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> bool {
    true
}

/// The bytes that may still be written where `folder` lies; none where the system does not say.
pub fn free_space(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let told = rustix::fs::statvfs(folder).ok()?;
        Some(told.f_bavail.saturating_mul(told.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}
