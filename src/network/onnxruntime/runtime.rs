//! The loaded ONNX Runtime.

use super::api::Env;
use super::library::{self, Library};
use crate::fork::PerProcess;
use crate::pin;
use crate::{Error, Result, Status};
use std::path::Path;

/// ONNX Runtime, loaded: at most one in a process, for the rest of the process.
///
/// Its environment and its library are never torn down, as that can crash at exit. Any thread, at once.
pub struct Runtime {
    library: Library,
    env: Env,
    providers: Vec<String>,
}

static LOADED: PerProcess<Option<&'static Runtime>> = PerProcess::new();

impl Runtime {
    /// Loads ONNX Runtime, or returns the one loaded already.
    ///
    /// Without `path` these places are looked at: the environment variables `PSLD_ONNXRUNTIME` and
    /// `ORT_DYLIB_PATH`, the folders of this library and of the program, then the system's loader. The first that
    /// names a library decides. The library's version is checked before anything else of it is used.
    ///
    /// Any thread, at once. After an error the next call tries again.
    ///
    /// # Errors
    /// [`Status::RuntimeNotFound`] with every place looked at; [`Status::RuntimeIncompatible`] if what was found is
    /// no ONNX Runtime or too old a one; [`Status::RuntimeConflict`] if `path` is not the library loaded already.
    pub fn load(path: Option<&Path>) -> Result<&'static Self> {
        let mut loaded = LOADED.write();
        if let Some(runtime) = *loaded {
            return match path {
                Some(path) => runtime.must_be_at(path),
                None => Ok(runtime),
            };
        }
        // Which gets a function of ours to call.
        pin::stay_loaded();
        let library = library::find(path)?;
        let failed = |e| {
            let place = library.path.display();
            Error::new(Status::RuntimeFailure, format!("{place}: ONNX Runtime does not start")).source(e)
        };
        let env = Env::new(library.api).map_err(failed)?;
        let providers = library.api.providers().map_err(failed)?;
        Ok(loaded.insert(Box::leak(Box::new(Self { library, env, providers }))))
    }

    fn must_be_at(&'static self, path: &Path) -> Result<&'static Self> {
        let wanted = path.canonicalize().map_err(|e| {
            Error::new(Status::RuntimeNotFound, format!("ONNX Runtime was not found at {}", path.display()))
                .source(e)
        })?;
        if wanted == self.library.path {
            return Ok(self);
        }
        let (loaded, version) = (self.library.path.display(), &self.library.version);
        let message = format!(
            "{} cannot be loaded: ONNX Runtime {version} from {loaded} is loaded in this process already",
            wanted.display()
        );
        Err(Error::new(Status::RuntimeConflict, message)
            .hint("a process has one ONNX Runtime: choose it first"))
    }

    /// ONNX Runtime's version, such as "1.31.1".
    pub fn version(&self) -> &str {
        &self.library.version
    }

    /// The library's file.
    pub fn library_path(&self) -> &Path {
        &self.library.path
    }

    /// The execution providers that this build of ONNX Runtime was compiled with, by ONNX Runtime's names
    /// ("CPUExecutionProvider", ...). One that is here may still lack a driver or a library.
    pub fn providers(&self) -> &[String] {
        &self.providers
    }

    pub(super) fn env(&self) -> &Env {
        &self.env
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ONNX Runtime {} ({})", self.version(), self.library_path().display())
    }
}
