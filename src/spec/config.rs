//! Configuration files: what a command line can say about a run, kept.

use super::{Conditioning, Grid, InpaintMethod, Inpainting, SamplerSpec, strict};
use crate::{Error, Result, Status, grid, io};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A configuration file: `{"sampler": {...}, "inpaint": {"image", "mask", "method", "resample"}}`, both parts
/// optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The sampler's options.
    pub sampler: SamplerSpec,
    /// What is to be completed.
    pub inpaint: Option<InpaintFiles>,
}

/// Files and method of an inpainting run, as far as they are given.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct InpaintFiles {
    /// The known image, for [`io::read_image`].
    #[serde(default)]
    pub image: Option<PathBuf>,
    /// Where it is known, for [`io::read_mask`].
    #[serde(default)]
    pub mask: Option<PathBuf>,
    /// How the known region enters.
    #[serde(default)]
    pub method: Option<InpaintMethod>,
    /// How often each step is taken.
    #[serde(default)]
    pub resample: Option<u32>,
}

impl Config {
    /// Reads a configuration file. Paths in it become relative to its folder.
    ///
    /// # Errors
    /// [`Status::ReadFailed`], or [`Status::InvalidConfig`] naming the field and, for an unknown one, the nearest
    /// known.
    pub fn read(path: &Path) -> Result<Self> {
        let text = io::read_text(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder).map_err(|e| e.context(path.display()))
    }

    /// Reads a configuration; paths in it are relative to `folder`.
    ///
    /// # Errors
    /// [`Status::InvalidConfig`], as [`Self::read`].
    pub fn parse(text: &str, folder: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Sections {
            #[serde(default)]
            sampler: Option<Value>,
            #[serde(default)]
            inpaint: Option<Value>,
        }
        const BAD: Status = Status::InvalidConfig;
        let sections: Sections =
            strict::from_value(strict::parse(text, BAD, "configuration")?, BAD, "configuration")?;
        let mut sampler = sections.sampler.map(SamplerSpec::from_json).transpose()?.unwrap_or_default();
        if let Some(Grid::Name(name)) = &mut sampler.time_grid
            && !grid::NAMES.contains(&name.as_str())
        {
            *name = folder.join(&name).to_string_lossy().into_owned();
        }
        let inpaint: Option<InpaintFiles> =
            sections.inpaint.map(|v| strict::from_value(v, BAD, "inpaint")).transpose()?;
        let inpaint = inpaint.map(|files| InpaintFiles {
            image: files.image.map(|path| folder.join(path)),
            mask: files.mask.map(|path| folder.join(path)),
            ..files
        });
        Ok(Self { sampler, inpaint })
    }

    /// What the sampler is to be compiled for.
    pub fn conditioning(&self) -> Conditioning {
        Conditioning { inpaint: self.inpaint.as_ref().map(InpaintFiles::inpainting) }
    }
}

impl InpaintFiles {
    /// How images are completed, with the defaults.
    pub fn inpainting(&self) -> Inpainting {
        Inpainting { method: self.method.unwrap_or_default(), resample: self.resample.unwrap_or(1) }
    }

    /// Image and mask.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] where one of them is missing.
    pub fn files(&self) -> Result<(&Path, &Path)> {
        match (&self.image, &self.mask) {
            (Some(image), Some(mask)) => Ok((image, mask)),
            (Some(_), None) => Err(Error::argument("inpaint: an image, but no mask is given")
                .hint("`--inpaint-mask FILE` says where the image is known")),
            (None, Some(_)) => Err(Error::argument("inpaint: a mask, but no image is given")
                .hint("`--inpaint-image FILE` is the image to be completed")),
            (None, None) => Err(Error::argument("inpaint: neither image nor mask is given")
                .hint("`--inpaint-image FILE --inpaint-mask FILE`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_file() {
        let text = r#"{"sampler": {"kind": "em", "time_grid": "grid.txt"},
                       "inpaint": {"image": "x.npy", "mask": "/abs/m.npy", "method": "published"}}"#;
        let config = Config::parse(text, Path::new("/some/where")).unwrap();
        assert_eq!(config.sampler.time_grid, Some(Grid::Name("/some/where/grid.txt".into())));
        let inpaint = config.inpaint.unwrap();
        assert_eq!(inpaint.files().unwrap(), (Path::new("/some/where/x.npy"), Path::new("/abs/m.npy")));
        let named = Config::parse(r#"{"sampler": {"time_grid": "karras"}}"#, Path::new("/x")).unwrap();
        assert_eq!(named.sampler.time_grid, Some(Grid::Name("karras".into())));
    }

    #[test]
    fn unknown_fields_are_named() {
        for (text, nearest) in [
            (r#"{"sample": {}}"#, "sampler"),
            (r#"{"sampler": {"stepz": 3}}"#, "steps"),
            (r#"{"inpaint": {"msk": "a"}}"#, "mask"),
        ] {
            let error = Config::parse(text, Path::new("")).unwrap_err();
            assert_eq!(error.status(), Status::InvalidConfig);
            assert_eq!(error.hint_text(), Some(&*format!("did you mean `{nearest}`?")));
        }
    }
}
