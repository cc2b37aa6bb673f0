//! Where samples go, and how they get there.

use crate::args::What;
use psld::array::Precision;
use psld::io::{self, NewFile, NewImages, npy, png};
use psld::spec::DataSpec;
use psld::{Error, Result, Status};
use std::path::{Path, PathBuf};

/// What `--out` names.
#[derive(Debug, PartialEq)]
pub enum Target {
    /// One grid of all images.
    Png(PathBuf),
    Npy(PathBuf),
    /// One PNG each.
    Folder(PathBuf),
}

/// Samples as they were asked for.
pub enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

impl Target {
    /// By the name alone: an extension that is known, or a folder.
    pub fn parse(path: &Path) -> Result<Self> {
        let slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let extension = path.extension().map(|e| e.to_ascii_lowercase());
        match extension.as_ref().and_then(|e| e.to_str()) {
            _ if slash || path.is_dir() => Ok(Self::Folder(path.into())),
            Some("png") => Ok(Self::Png(path.into())),
            Some("npy") => Ok(Self::Npy(path.into())),
            _ => Err(Error::argument(format!(
                "--out {}: expected FILE.png, FILE.npy, or a folder ending in /",
                path.display()
            ))),
        }
    }

    /// Where samples go that nobody named a place for.
    pub fn default_for(data: &DataSpec, what: What) -> Self {
        if what == What::Data && png::is_image(data) {
            Self::Png("samples.png".into())
        } else {
            Self::Npy("samples.npy".into())
        }
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::Png(path) | Self::Npy(path) | Self::Folder(path) => path,
        }
    }

    /// Whether `n` samples can be written in this form.
    pub fn check_form(&self, data: &DataSpec, n: usize, columns: Option<usize>, what: What) -> Result<()> {
        if let Self::Npy(_) = self {
            return Ok(());
        }
        if what == What::State {
            return Err(
                Error::argument("--output state: a state is no image").hint("write it to a .npy file")
            );
        }
        // A folder holds grids of one.
        let images = if let Self::Png(_) = self { n } else { 1 };
        png::grid_size(data, images, columns).map(drop)
    }

    /// Whether there is a place for `bytes` bytes. Images of an earlier run are in the way unless they are to be removed.
    pub fn check_place(&self, bytes: u128, overwrite: bool) -> Result<()> {
        match self {
            Self::Folder(folder) if folder.is_dir() => {
                NewImages::check(folder, overwrite)?;
                io::check_writable(&folder.join("new.png"), bytes)
            }
            // A folder that can be made where a file could be.
            Self::Png(path) | Self::Npy(path) | Self::Folder(path) => io::check_writable(path, bytes),
        }
    }

    /// Bytes of the result, where they are known before (PNG compresses).
    pub fn size(&self, elements: u128, what: What, precision: Precision) -> u128 {
        match (self, what, precision) {
            (Self::Npy(_), What::State, Precision::F64) => elements * 8 + 128,
            (Self::Npy(_), ..) => elements * 4 + 128,
            _ => 0,
        }
    }

    /// Writes samples of `shape`.
    pub fn write(
        &self,
        data: &DataSpec,
        shape: &[usize],
        values: &Values,
        columns: Option<usize>,
        overwrite: bool,
    ) -> Result<()> {
        match (self, values) {
            (Self::Npy(path), Values::F32(v)) => NewFile::write_with(path, |out| npy::write(out, shape, v)),
            (Self::Npy(path), Values::F64(v)) => NewFile::write_with(path, |out| npy::write(out, shape, v)),
            (Self::Png(path), Values::F32(v)) => {
                NewFile::write_with(path, |out| png::write_grid(out, data, v, columns))
            }
            (Self::Folder(folder), Values::F32(v)) => {
                let images = v.chunks_exact(data.shape.iter().product());
                let mut new = NewImages::create(folder, overwrite)?;
                let n = images.len();
                for image in images {
                    new.add(n, |out| png::write_image(out, data, image))?;
                }
                new.finish()
            }
            (Self::Png(_) | Self::Folder(_), Values::F64(_)) => {
                Err(Error::new(Status::Internal, "images are read as float32"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let parse = |path: &str| Target::parse(Path::new(path)).ok();
        assert_eq!(parse("a/b.PNG"), Some(Target::Png("a/b.PNG".into())));
        assert_eq!(parse("b.npy"), Some(Target::Npy("b.npy".into())));
        assert_eq!(parse("new.png/"), Some(Target::Folder("new.png/".into())));
        assert_eq!(parse("/"), Some(Target::Folder("/".into())));
        assert_eq!(parse("b.jpg"), None);
        assert_eq!(parse("b"), None);
        assert_eq!(parse(""), None);
    }
}
