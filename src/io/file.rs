//! Files that are there whole or not at all.

use crate::hash::hex;
use crate::spec::strict;
use crate::{Error, Result, Status};
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

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
        let made = |temporary: &Path| OpenOptions::new().write(true).create_new(true).open(temporary);
        let (temporary, file) = temporary(folder(&target), made).map_err(|e| unwritable(path, e))?;
        let out = Some(BufWriter::with_capacity(1 << 16, file));
        Ok(Self { name: path.into(), target, temporary, out })
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

/// Makes something in `folder` under a name that nothing has. The name does not hold the target's, which may be as long as a
/// name can be.
fn temporary<T>(folder: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(PathBuf, T)> {
    // Another one each time: many files may be in the making at once.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut attempts = 0;
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".psld-{}-{number}.tmp", std::process::id()));
        match make(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && attempts < 100 => attempts += 1,
            made => return made.map(|made| (path, made)),
        }
    }
}

/// The file that belongs to `path` by the name `path` + `suffix`; where that is longer than names can be, the end of the
/// name gives way to a hash of it.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let name = path.file_name().unwrap_or_default().as_bytes();
    let mut long = name.to_vec();
    if name.len() + suffix.len() > LONGEST_NAME {
        let hash = hex(&Sha256::digest(name)[..8]);
        let mut kept = LONGEST_NAME - suffix.len() - hash.len() - 1;
        // Not within a character.
        while kept > 0 && name[kept] & 0xc0 == 0x80 {
            kept -= 1;
        }
        long.truncate(kept);
        long.push(b'~');
        long.extend(hash.as_bytes());
    }
    long.extend(suffix.as_bytes());
    path.with_file_name(OsString::from_vec(long))
}

/// The longest name, in bytes, that Linux's file systems take.
const LONGEST_NAME: usize = 255;

/// The images of a run in the making, in a folder: [`Self::finish`] puts them there all at once, in the place of those that an
/// earlier run left. Dropped before that, it leaves the folder as it was.
#[derive(Debug)]
pub struct NewImages {
    folder: PathBuf,
    /// Beside the folder, where it is not there yet, or within it.
    temporary: PathBuf,
    names: Vec<String>,
    finished: bool,
}

impl NewImages {
    /// Whether a run may leave its images in `folder`. The PNG files of an earlier one are in the way, unless they are to be
    /// removed: then those that [`Self::add`] names as it does, 0.png and so on.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`], naming what is there; [`Status::WriteFailed`] where it cannot be seen.
    pub fn check(folder: &Path, overwrite: bool) -> Result<()> {
        let pngs = pngs(folder)?;
        let (earlier, others): (Vec<&String>, Vec<&String>) = pngs.iter().partition(|name| is_numbered(name));
        let error = |what: String| Error::argument(format!("{}: {what}", folder.display()));
        match (&earlier[..], &others[..]) {
            (_, [other, ..]) => Err(error(format!("holds {other}, which would be mixed with the samples"))
                .hint("name another folder, or move it away")),
            ([first, ..], []) if !overwrite => {
                Err(error(format!("holds {} images already, such as {first}", earlier.len()))
                    .hint("name another folder, or remove them with --overwrite"))
            }
            _ => Ok(()),
        }
    }

    /// Begins images that shall be in `folder`, which is made where it is missing.
    ///
    /// # Errors
    /// Those of [`Self::check`]; [`Status::WriteFailed`] where the folder cannot be written.
    pub fn create(folder: &Path, overwrite: bool) -> Result<Self> {
        Self::check(folder, overwrite)?;
        let place = if folder.is_dir() { folder } else { self::folder(folder) };
        let (temporary, ()) =
            temporary(place, |path| fs::create_dir(path)).map_err(|e| unwritable(folder, e))?;
        Ok(Self { folder: folder.into(), temporary, names: Vec::new(), finished: false })
    }

    /// Adds the next of `of` images: 0.png, or 000.png.
    ///
    /// # Errors
    /// [`Status::WriteFailed`].
    pub fn add(&mut self, of: usize, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let digits = of.saturating_sub(1).to_string().len();
        let name = format!("{:0digits$}.png", self.names.len());
        let failed = |e| unwritable(&self.folder.join(&name), e);
        let mut file = BufWriter::new(File::create(self.temporary.join(&name)).map_err(failed)?);
        write(&mut file).map_err(failed)?;
        let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)?;
        self.names.push(name);
        Ok(())
    }

    /// Puts them in their place.
    ///
    /// # Errors
    /// [`Status::WriteFailed`]. What was in the folder before is still there then, or gone, but never beside new images.
    pub fn finish(mut self) -> Result<()> {
        let failed = |e| unwritable(&self.folder, e);
        if !self.folder.is_dir() {
            fs::rename(&self.temporary, &self.folder).map_err(failed)?;
            self.finished = true;
            return Ok(());
        }
        for name in pngs(&self.folder)?.iter().filter(|name| is_numbered(name)) {
            fs::remove_file(self.folder.join(name)).map_err(failed)?;
        }
        for name in &self.names {
            fs::rename(self.temporary.join(name), self.folder.join(name)).map_err(failed)?;
        }
        Ok(())
    }
}

impl Drop for NewImages {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

/// The names of the PNG files in a folder, in order; none where there is no folder.
fn pngs(folder: &Path) -> Result<Vec<String>> {
    let failed = |e| unwritable(folder, e);
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if Path::new(&name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Whether a file is named as [`NewImages`] names them.
fn is_numbered(name: &str) -> bool {
    name.strip_suffix(".png").is_some_and(|stem| !stem.is_empty() && stem.bytes().all(|b| b.is_ascii_digit()))
}

/// Opens a file of which all is to be read: its length is given, too. Devices and pipes, which may have no end or make whoever
/// opens them wait, are refused.
///
/// # Errors
/// [`Status::ReadFailed`].
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64)> {
    let error = |what: &str| Error::new(Status::ReadFailed, format!("{}: {what}", path.display()));
    let failed = |e: io::Error| error("cannot be read").source(e);
    let there = fs::metadata(path).map_err(failed)?;
    if !there.is_file() {
        return Err(error(if there.is_dir() { "is a folder" } else { "is not a regular file" }));
    }
    let file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    Ok((file, len))
}

/// All bytes of a file.
///
/// # Errors
/// [`Status::ReadFailed`]: it is missing, or no regular file.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let (mut file, len) = open_regular(path)?;
    let failed = |e: io::Error| {
        Error::new(Status::ReadFailed, format!("{}: cannot be read", path.display())).source(e)
    };
    let mut bytes = Vec::new();
    bytes.try_reserve(usize::try_from(len).unwrap_or(usize::MAX)).map_err(|e| failed(io::Error::other(e)))?;
    io::Read::read_to_end(&mut file, &mut bytes).map_err(failed)?;
    Ok(bytes)
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

/// The text of a file that a person wrote: a spec, a configuration. A byte order mark, which some editors begin files with, is
/// no part of it.
///
/// # Errors
/// [`Status::ReadFailed`]: it is missing, no UTF-8, or larger than 16 MB, which no such file is.
pub fn read_text(path: &Path) -> Result<String> {
    let error = |what: &str| Error::new(Status::ReadFailed, format!("{}: {what}", path.display()));
    let failed = |e: io::Error| error("cannot be read").source(e);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    io::Read::read_to_end(&mut io::Read::take(file, (16 << 20) + 1), &mut bytes).map_err(failed)?;
    if bytes.len() > 16 << 20 {
        return Err(error("more than 16 MB: no file of options"));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(error("is text in UTF-16").hint("save it as UTF-8"));
    }
    let text = String::from_utf8(bytes).map_err(|e| error("is no text in UTF-8").source(e))?;
    Ok(strict::without_mark(&text).to_owned())
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

    /// Names of 255 bytes are as good as others; what belongs to one keeps within them.
    #[test]
    fn the_longest_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["n".repeat(255), "\u{e4}".repeat(127), format!("{}.npy", "\u{20ac}".repeat(83))] {
            let path = folder.path().join(&name);
            check_writable(&path, 10).unwrap();
            NewFile::write_with(&path, |out| out.write_all(b"new")).unwrap();
            let other = beside(&path, ".trials");
            fs::write(&other, "").unwrap();
            assert_eq!(other, beside(&path, ".trials"));
            assert!(other.to_str().unwrap().ends_with(".trials"));
            assert_ne!(other, beside(&folder.path().join(format!("m{}", &"n".repeat(254))), ".trials"));
        }
        assert_eq!(names(folder.path()).len(), 6);
        assert_eq!(beside(Path::new("a/b.json"), ".trials"), Path::new("a/b.json.trials"));
        let long = NewFile::create(&folder.path().join("n".repeat(256))).unwrap_err();
        assert_eq!(long.status(), Status::WriteFailed);
    }

    #[test]
    fn images_are_there_all_or_none() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("all");
        let run = |n: usize, overwrite: bool| {
            let mut images = NewImages::create(&folder, overwrite)?;
            (0..n).try_for_each(|_| images.add(n, |out| out.write_all(&[n as u8])))?;
            images.finish()
        };
        run(12, false).unwrap();
        assert_eq!(names(&folder), (0..12).map(|i| format!("{i:02}.png")).collect::<Vec<_>>());
        let refused = run(3, false).unwrap_err();
        assert!(refused.to_string().contains("holds 12 images already, such as 00.png"), "{refused}");
        assert_eq!(names(&folder).len(), 12);
        // Given up on the way: as it was.
        let mut images = NewImages::create(&folder, true).unwrap();
        images.add(2, |out| out.write_all(b"x")).unwrap();
        assert!(images.add(2, |_| Err(io::Error::other("no more"))).is_err());
        drop(images);
        assert_eq!(names(&folder).len(), 12);
        run(3, true).unwrap();
        assert_eq!(names(&folder), ["0.png", "1.png", "2.png"]);
        // What no run wrote is never removed, and in the way where it would be taken for a sample.
        fs::write(folder.join("notes.txt"), "").unwrap();
        run(1, true).unwrap();
        assert_eq!(names(&folder), ["0.png", "notes.txt"]);
        fs::write(folder.join("cat.PNG"), "").unwrap();
        assert!(run(1, true).unwrap_err().to_string().contains("holds cat.PNG"));
        assert_eq!(names(&folder), ["0.png", "cat.PNG", "notes.txt"]);
        assert_eq!(names(parent.path()), ["all"]);
    }

    #[test]
    fn texts_of_other_editors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            read_text(&path).map_err(|e| e.to_string())
        };
        assert_eq!(read(b"\xef\xbb\xbf{}\r\n").unwrap(), "{}\r\n");
        assert!(read(b"\xff\xfe{\0}\0").unwrap_err().contains("UTF-16"));
        assert!(read(b"\xfe\xff\0{\0}").unwrap_err().contains("UTF-16"));
        assert!(read(b"{\xe4}").unwrap_err().contains("no text in UTF-8"));
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
