//! Finding ONNX Runtime's shared library, and telling it from everything else before it is used.

use super::api::{Api, Unusable};
use crate::pin::file_of;
use crate::{Error, Result, Status};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The newest minor version (of 1.x) that this crate is tested with; newer ones are compatible by ONNX Runtime's
/// own promise.
pub(super) const TESTED_MINOR: u32 = 31;

/// Environment variables that name the library, the first set one counts.
pub(super) const VARIABLES: [&str; 2] = ["PSLD_ONNXRUNTIME", "ORT_DYLIB_PATH"];

/// Where the user has not set it, it is set before the library is loaded: see [`load`].
pub(super) const TELEMETRY_OFF: &str = "ORT_DISABLE_TELEMETRY";

const HOW_TO_GET: &str = "\
    get one with `make onnxruntime` in psld's source tree, or `pip download --no-deps onnxruntime==1.31.1` and \
    unzip the wheel; then set PSLD_ONNXRUNTIME to its libonnxruntime file, or put that file beside the program";

/// The loaded library: checked, and never unloaded.
pub(super) struct Library {
    pub api: Api,
    pub version: String,
    /// Canonical, where the system says.
    pub path: PathBuf,
}

/// Loads the library at `explicit`, else that of the environment, else one beside us, else the system's.
///
/// A place that names a library decides: if that one cannot be used it is an error, never a reason to go on to
/// the next place, which would run something else than was asked for.
pub(super) fn find(explicit: Option<&Path>) -> Result<Library> {
    if let Some(path) = explicit {
        return open_named(path, "the path given");
    }
    let mut looked_at = String::new();
    for variable in VARIABLES {
        match std::env::var_os(variable).filter(|value| !value.is_empty()) {
            Some(value) => return open_named(Path::new(&value), variable),
            None => _ = write!(looked_at, "\n  {variable}: not set"),
        }
    }
    for folder in folders() {
        match newest_in(&folder) {
            Some(path) => return open(&path),
            None => _ = write!(looked_at, "\n  {}: no {}", folder.display(), names::PATTERN),
        }
    }
    let mut refused = String::new();
    for name in names::system() {
        match load(name.as_ref()) {
            Ok(library) => return check(library, Path::new(&name)),
            Err(e) if refused.is_empty() => refused = loader_says(e),
            Err(_) => {}
        }
    }
    _ = write!(looked_at, "\n  the system's loader, as {}: {refused}", names::PATTERN);
    Err(Error::new(Status::RuntimeNotFound, format!("ONNX Runtime was not found; looked at{looked_at}"))
        .hint(HOW_TO_GET))
}

fn open_named(path: &Path, named_by: &str) -> Result<Library> {
    if path.try_exists().unwrap_or(true) {
        return open(path).map_err(|e| e.context(named_by));
    }
    let message = format!("ONNX Runtime was not found: {} ({named_by}) does not exist", path.display());
    Err(Error::new(Status::RuntimeNotFound, message).hint(HOW_TO_GET))
}

fn incompatible(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(Status::RuntimeIncompatible, format!("{} {what}", path.display())).hint(HOW_TO_GET)
}

fn open(path: &Path) -> Result<Library> {
    if path.is_dir() {
        return Err(incompatible(path, format_args!("is a folder; expected the file {}", names::PATTERN)));
    }
    // Absolute, or the loader would look for a bare name elsewhere.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    match load(&absolute) {
        Ok(library) => check(library, path),
        Err(e) => Err(incompatible(path, "cannot be loaded as a library").source(loader_says(e))),
    }
}

/// Loads a library that is named ONNX Runtime, with its telemetry off.
///
/// From 1.29 on ONNX Runtime writes a device id below the home folder and queues an event for its makers while it starts,
/// before its API can be told not to: only the environment can say so in time. What the user has set there stands.
fn load(path: &Path) -> Result<libloading::Library, libloading::Error> {
    if std::env::var_os(TELEMETRY_OFF).is_none() {
        // SAFETY: of Rust's own readers and writers of the environment there is one at a time, and one thread is here at a
        // time. A thread of C's may read it right now; psld.h tells hosts with such threads to set the variable themselves.
        unsafe { std::env::set_var(TELEMETRY_OFF, "1") };
    }
    // SAFETY: loading a library runs its initialisers. Those of ONNX Runtime are harmless; the file is the caller's choice, or
    // what the system has under ONNX Runtime's name.
    unsafe { libloading::Library::new(path) }
}

/// The loader's own words, which the error keeps as its source.
fn loader_says(error: libloading::Error) -> String {
    std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Makes sure that `library` is a usable ONNX Runtime; unloads it otherwise.
fn check(library: libloading::Library, path: &Path) -> Result<Library> {
    type GetBase = unsafe extern "system" fn() -> *const ort_sys::OrtApiBase;
    // SAFETY: only ONNX Runtime has a symbol of this name, and this is its type.
    let get_base = match unsafe { library.get::<GetBase>(c"OrtGetApiBase") } {
        Ok(symbol) => *symbol,
        Err(_) => return Err(incompatible(path, "is another library: it has no symbol `OrtGetApiBase`")),
    };
    // SAFETY: it is the library's `OrtGetApiBase`; the library stays loaded wherever the result is kept.
    match unsafe { Api::from_base(get_base) } {
        Ok((api, version)) => {
            let path = file_of(get_base as *const ()).unwrap_or_else(|| path.to_path_buf());
            let path = path.canonicalize().unwrap_or(path);
            // The environment is never torn down (it can crash at exit), so its code must never go away.
            std::mem::forget(library);
            Ok(Library { api, version, path })
        }
        Err(Unusable::Version(found)) => {
            let least = Api::LEAST_MINOR;
            let wanted = format!(
                "is ONNX Runtime {found}; expected 1.{least} or newer (tested up to 1.{TESTED_MINOR})"
            );
            Err(incompatible(path, wanted))
        }
        Err(Unusable::Foreign) => Err(incompatible(
            path,
            "is another library: its `OrtGetApiBase` does not answer as ONNX Runtime's",
        )),
    }
}

/// Where a library that belongs to us would be: beside the shared library or program that holds this code, beside
/// the program, and in the `lib` beside the program's folder (`make install`).
fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    let program = std::env::current_exe().ok();
    let program_folder = program.as_deref().and_then(Path::parent);
    let candidates = [
        file_of(find as *const ()).and_then(|file| file.canonicalize().ok()?.parent().map(Path::to_path_buf)),
        program_folder.map(Path::to_path_buf),
        program_folder.and_then(Path::parent).map(|prefix| prefix.join("lib")),
    ];
    for folder in candidates.into_iter().flatten() {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// The library in `folder` with the highest version in its name; the plain name counts as the highest.
fn newest_in(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    let versions = entries.flatten().filter_map(|entry| {
        let version = names::version(entry.file_name().to_str()?)?;
        Some((version, entry.path()))
    });
    versions.max().map(|(_, path)| path)
}

/// What the library's file is called.
mod names {
    #[cfg(target_os = "macos")]
    pub const PATTERN: &str = "libonnxruntime.dylib";
    #[cfg(windows)]
    pub const PATTERN: &str = "onnxruntime.dll";
    #[cfg(not(any(target_os = "macos", windows)))]
    pub const PATTERN: &str = "libonnxruntime.so*";

    /// The version in a file name, `[1, 31, 1]` of `libonnxruntime.so.1.31.1`, or `None` if the file is called
    /// something else.
    pub fn version(file_name: &str) -> Option<Vec<u32>> {
        let numbers = if cfg!(windows) {
            file_name.strip_prefix("onnxruntime")?.strip_suffix(".dll")?
        } else if cfg!(target_os = "macos") {
            file_name.strip_prefix("libonnxruntime")?.strip_suffix(".dylib")?
        } else {
            file_name.strip_prefix("libonnxruntime.so")?
        };
        match numbers.strip_prefix('.') {
            None if numbers.is_empty() => Some(vec![u32::MAX]),
            None => None,
            Some(numbers) => numbers.split('.').map(|n| n.parse().ok()).collect(),
        }
    }

    /// The names to ask the system's loader for. Debian's package has no others than those with a minor version.
    pub fn system() -> Vec<String> {
        if cfg!(windows) {
            vec!["onnxruntime.dll".into()]
        } else if cfg!(target_os = "macos") {
            vec!["libonnxruntime.dylib".into()]
        } else {
            let minors = (super::Api::LEAST_MINOR..=super::TESTED_MINOR).rev();
            ["libonnxruntime.so".into(), "libonnxruntime.so.1".into()]
                .into_iter()
                .chain(minors.map(|minor| format!("libonnxruntime.so.1.{minor}")))
                .collect()
        }
    }
}
