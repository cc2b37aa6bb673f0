//! The log of a run, as CSV.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use psld::{Error, Result, Status};

/// The first line.
const HEADER: &str = "step,loss,lr,images_per_second,gradient_norm";

/// One line: means since the one before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Steps done.
    pub step: u64,
    /// The loss.
    pub loss: f64,
    /// The learning rate of the last step.
    pub lr: f64,
    /// Samples learned from in a second.
    pub images_per_second: f64,
    /// The norm of the gradient, before it was clipped.
    pub gradient_norm: f64,
}

/// A log that lines are appended to.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens `path` and forgets the lines past `step`, which a run resumed there writes again.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let kept: String = match std::fs::read_to_string(path) {
            Ok(text) => {
                let known = |line: &&str| parse(line).is_some_and(|line| line.step <= step);
                text.lines().filter(known).map(|line| format!("{line}\n")).collect()
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(cannot(path, Status::ReadFailed, e)),
        };
        let open = || -> std::io::Result<File> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            let text = format!("{HEADER}\n{kept}");
            file.write_all(text.as_bytes())?;
            file.set_len(text.len() as u64)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = open().map_err(|e| cannot(path, Status::WriteFailed, e))?;
        Ok(Self { path: path.into(), file })
    }

    /// Appends a line.
    pub fn append(&mut self, line: &Line) -> Result<()> {
        let Line { step, loss, lr, images_per_second, gradient_norm } = line;
        writeln!(self.file, "{step},{loss:.6},{lr:.4e},{images_per_second:.1},{gradient_norm:.5}")
            .map_err(|e| cannot(&self.path, Status::WriteFailed, e))
    }

    /// The lines of a log.
    pub fn read(path: &Path) -> Result<Vec<Line>> {
        let text = std::fs::read_to_string(path).map_err(|e| cannot(path, Status::ReadFailed, e))?;
        Ok(text.lines().filter_map(parse).collect())
    }
}

fn parse(line: &str) -> Option<Line> {
    let fields: Vec<&str> = line.split(',').collect();
    let [step, rest @ ..] = fields.as_slice() else { return None };
    let numbers: Vec<f64> = rest.iter().map(|field| field.parse().ok()).collect::<Option<_>>()?;
    let &[loss, lr, images_per_second, gradient_norm] = numbers.as_slice() else { return None };
    Some(Line { step: step.parse().ok()?, loss, lr, images_per_second, gradient_norm })
}

fn cannot(path: &Path, status: Status, error: std::io::Error) -> Error {
    let what = if status == Status::ReadFailed { "read" } else { "written" };
    Error::new(status, format!("{}: cannot be {what}", path.display())).source(error)
}
