//! Files that are there whole or not at all.

use crate::{Error, Result, Status};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file in the making: written under another name in the target's folder and renamed onto the target by
/// [`Self::finish`]. Until then the target is untouched; dropped before that, it leaves nothing.
#[derive(Debug)]
pub struct NewFile {
    /// What messages call it.
    name: PathBuf,
    target: PathBuf,
    temporary: PathBuf,
    out: Option<BufWriter<File>>,
}

impl NewFile {
    /// Begins a file that shall be at `path`.
    ///
    /// # Errors
    /// [`Status::WriteFailed`]: the folder is missing or cannot be written, or there is something at `path` that
    /// must not be replaced (a folder, a device, a file that is read-only).
    pub fn create(path: &Path) -> Result<Self> {
        let target = replaceable(path)?;
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for attempt in 0.. {
            let temporary = target.with_file_name(format!(".{name}.{}-{attempt}.tmp", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && attempt < 100 => {}
                Err(e) => return Err(unwritable(path, e)),
                Ok(file) => {
                    let out = Some(BufWriter::with_capacity(1 << 16, file));
                    return Ok(Self { name: path.into(), target, temporary, out });
                }
            }
        }
        unreachable!("the loop returns")
    }

    /// Writes through `write`, then puts the file in its place.
    ///
    /// # Errors
    /// [`Status::WriteFailed`]; what was at the target before is still there then.
    pub fn write_with(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let mut file = Self::create(path)?;
        write(&mut file).map_err(|e| unwritable(path, e))?;
        file.finish()
    }

    /// The error for a write to this file that failed.
    pub fn failed(&self, cause: io::Error) -> Error {
        unwritable(&self.name, cause)
    }

    /// Puts the file in its place, on the disk and not only in its cache.
    ///
    /// # Errors
    /// [`Status::WriteFailed`]; what was at the target before is still there then.
    pub fn finish(mut self) -> Result<()> {
        let Some(out) = self.out.take() else { return Ok(()) };
        let whole = || -> io::Result<()> {
            let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            if let Ok(old) = fs::metadata(&self.target) {
                file.set_permissions(old.permissions())?;
            }
            file.sync_all()?;
            drop(file);
            fs::rename(&self.temporary, &self.target)
        };
        whole().map_err(|e| {
            let _ = fs::remove_file(&self.temporary);
            unwritable(&self.name, e)
        })
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.as_mut().map_or(Ok(0), |out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(out) = self.out.take() {
            // Not flushed: nobody will read it.
            drop(out.into_parts());
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Finds out, before any work is done, whether [`NewFile`] could put `bytes` bytes at `path`.
///
/// # Errors
/// Those of [`NewFile::create`], and [`Status::WriteFailed`] where the disk has not that much room.
pub fn check_writable(path: &Path, bytes: u128) -> Result<()> {
    let probe = NewFile::create(path)?;
    match free_space(folder(&probe.target)) {
        Some(free) if bytes > free => Err(Error::new(
            Status::WriteFailed,
            format!("{}: {} will not fit, the disk has {} free", path.display(), size(bytes), size(free)),
        )),
        _ => Ok(()),
    }
}

/// Where a file at `path` really goes: through symbolic links.
fn replaceable(path: &Path) -> Result<PathBuf> {
    let bad = |what: &str| Error::new(Status::WriteFailed, format!("{}: {what}", path.display()));
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => Err(bad("is a folder")),
        Ok(there) if !there.is_file() => Err(bad("is not a regular file")),
        Ok(_) => {
            // A rename would replace a file that its owner protected.
            OpenOptions::new().write(true).open(path).map_err(|e| unwritable(path, e))?;
            path.canonicalize().map_err(|e| unwritable(path, e))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let folder = folder(path);
            if path.file_name().is_none() {
                return Err(bad("is no file name"));
            }
            if !folder.is_dir() {
                return Err(bad("cannot be written")
                    .source(format!("there is no folder {}", folder.display()))
                    .hint("make the folder first"));
            }
            Ok(path.into())
        }
        Err(e) => Err(unwritable(path, e)),
    }
}

/// The folder of a file; "." where the path names none.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn unwritable(path: &Path, cause: io::Error) -> Error {
    let hint = match cause.raw_os_error() {
        Some(libc::EFBIG) => Some("a limit on the size of files (ulimit -f) is in force"),
        Some(libc::ENOSPC | libc::EDQUOT) => Some("make room, or write to another disk"),
        _ => None,
    };
    let error =
        Error::new(Status::WriteFailed, format!("{}: cannot be written", path.display())).source(cause);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Bytes that this user can still write to the file system of `folder`.
fn free_space(folder: &Path) -> Option<u128> {
    use std::os::unix::ffi::OsStrExt;
    let folder = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    let mut stats = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path is a NUL-terminated string, `stats` is writable, and it is read only if the call filled it.
    let stats = unsafe {
        if libc::statvfs(folder.as_ptr(), stats.as_mut_ptr()) != 0 {
            return None;
        }
        stats.assume_init()
    };
    Some(u128::from(stats.f_bavail) * u128::from(stats.f_frsize))
}

/// "12 kB", "340 MB": for people.
fn size(bytes: u128) -> String {
    match bytes {
        0..10_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        10_000_000..10_000_000_000 => format!("{} MB", bytes.div_ceil(1_000_000)),
        _ => format!("{} GB", bytes.div_ceil(1_000_000_000)),
    }
}

/// The text of a file that a person wrote: a spec, a configuration.
///
/// # Errors
/// [`Status::ReadFailed`]: it is missing, no UTF-8, or larger than 16 MB, which no such file is.
pub fn read_text(path: &Path) -> Result<String> {
    let failed = |e: io::Error| {
        Error::new(Status::ReadFailed, format!("{}: cannot be read", path.display())).source(e)
    };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    io::Read::read_to_string(&mut io::Read::take(file, (16 << 20) + 1), &mut text).map_err(failed)?;
    if text.len() > 16 << 20 {
        return Err(Error::new(
            Status::ReadFailed,
            format!("{}: more than 16 MB: no file of options", path.display()),
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        fs::write(&path, "old").unwrap();
        let error = NewFile::write_with(&path, |out| {
            out.write_all(&[1; 100_000])?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(error.unwrap_err().status(), Status::WriteFailed);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a.npy"]);

        NewFile::write_with(&path, |out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a.npy"]);
    }

    #[test]
    fn a_link_is_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        NewFile::write_with(&link, |out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn what_cannot_be_written_is_known_before() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path, bytes| check_writable(path, bytes).unwrap_err().to_string();
        assert!(refused(folder.path(), 0).contains("is a folder"));
        assert!(refused(&folder.path().join("no/a.npy"), 0).contains("there is no folder"));
        assert!(refused(&folder.path().join("a.npy"), 1 << 100).contains("will not fit"));
        assert!(refused(Path::new("/dev/null"), 0).contains("not a regular file"));
        check_writable(&folder.path().join("a.npy"), 1000).unwrap();
        assert!(names(folder.path()).is_empty());
    }
}
