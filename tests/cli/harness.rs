//! Runs the program in a folder of its own.

#![allow(dead_code)]

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A working directory that goes away with the test.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Copies a file of the repository.
    pub fn copy(&self, from: &str, to: &str) {
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(from), self.path(to)).unwrap();
    }

    /// What is in the folder or one within; nothing where there is none.
    pub fn names(&self, within: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(within)) else { return Vec::new() };
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_psld"));
        command.args(args).current_dir(self.0.path()).env("NO_COLOR", "1").env_remove("CLICOLOR_FORCE");
        command.stdin(Stdio::null());
        command
    }

    pub fn psld(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }
}

/// What a command did.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Itself, if all went well.
    pub fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{self}");
        self
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => writeln!(f, "exit code {code}")?,
            None => writeln!(f, "ended by a signal")?,
        }
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                write!(f, "--- {name}\n{text}")?;
            }
        }
        Ok(())
    }
}

/// Shape and numbers of an `.npy` file.
pub fn values(path: &Path) -> (Vec<usize>, Vec<f32>) {
    let array = psld::io::npy::read(path).unwrap();
    let shape = array.values.shape().to_vec();
    let values = match array.values {
        psld::array::Tensor::F32(a) => a.iter().copied().collect(),
        psld::array::Tensor::F64(a) => a.iter().map(|x| *x as f32).collect(),
    };
    (shape, values)
}
