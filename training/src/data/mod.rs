//! Data sets, in memory.

mod cifar;
mod fetch;
mod folder;
mod idx;
mod npy;
mod pack;

use std::path::{Path, PathBuf};

use psld::{Error, Result, Status, noise};

pub use fetch::fetch;
#[cfg(feature = "torch")]
pub(crate) use fetch::hex;
pub use pack::{pack, unpack};

use crate::random;
use crate::recipe::{DataKind, DataRecipe, MixtureRecipe};

/// The elements of all samples.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Pixels; 0 to 255 stands for -1 to 1.
    U8(Vec<u8>),
    /// The values themselves.
    F32(Vec<f32>),
}

/// A data set: samples of one shape, with their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// Channels first.
    pub shape: Vec<usize>,
    /// The elements, sample after sample.
    pub values: Values,
    /// The class of each sample.
    pub labels: Option<Vec<i64>>,
    /// The number of classes.
    pub classes: usize,
    /// The smallest and largest value.
    pub range: [f64; 2],
    /// Files that were left out as unreadable.
    pub skipped: Vec<PathBuf>,
}

/// The part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What is held back.
    Test,
}

impl Dataset {
    /// Loads what a recipe describes.
    ///
    /// # Errors
    /// [`Status::ReadFailed`] naming the file; [`Status::InvalidConfig`] or [`Status::ShapeMismatch`] where the
    /// recipe and the data do not fit; [`Status::InvalidArgument`] for the test part of data that have none.
    pub fn load(recipe: &DataRecipe, split: Split, seed: u64) -> Result<Self> {
        let divided = matches!(recipe.kind, DataKind::Cifar10 | DataKind::Mnist | DataKind::FashionMnist);
        if split == Split::Test && !divided {
            let message = format!("data of kind `{}` have no part that is held back", recipe.kind.name());
            return Err(Error::argument(message));
        }
        let path = recipe.path.clone().unwrap_or_else(|| Path::new("data").join(recipe.kind.name()));
        let mut data = match recipe.kind {
            DataKind::Cifar10 => cifar::load(&path, split),
            DataKind::Mnist | DataKind::FashionMnist => idx::load(&path, split),
            DataKind::Folder => folder::load(&path, recipe),
            DataKind::Npy => npy::load(&path, recipe),
            DataKind::Mixture => mixture(recipe.mixture.as_ref(), seed),
        }
        .map_err(|e| match divided && !path.exists() {
            true => e.hint(format!("fetch it: psld-training data fetch {}", recipe.kind.name())),
            false => e,
        })?;
        if let Some(limit) = recipe.limit {
            data.truncate(limit);
        }
        if let Some(size) = recipe.size {
            data = data.padded(size)?;
        }
        if recipe.flip && data.shape.len() != 3 {
            let message =
                format!("data.flip: only images can be mirrored, the data have shape {:?}", data.shape);
            return Err(Error::new(Status::InvalidConfig, message));
        }
        Ok(data)
    }

    /// Samples in all.
    pub fn len(&self) -> usize {
        let elements = match &self.values {
            Values::U8(v) => v.len(),
            Values::F32(v) => v.len(),
        };
        elements / self.sample_len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All elements as the network sees them, in [`range`](Self::range).
    pub fn scaled(&self) -> Vec<f32> {
        match &self.values {
            Values::U8(pixels) => pixels.iter().map(|pixel| f32::from(*pixel) / 127.5 - 1.0).collect(),
            Values::F32(values) => values.clone(),
        }
    }

    /// Elements of a sample.
    pub fn sample_len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Images of 8-bit pixels.
    fn images(shape: [usize; 3], pixels: Vec<u8>, labels: Option<(Vec<i64>, usize)>) -> Result<Self> {
        let (labels, classes) = labels.map_or((None, 0), |(labels, classes)| (Some(labels), classes));
        let values = Values::U8(pixels);
        let range = [-1.0, 1.0];
        Self { shape: shape.to_vec(), values, labels, classes, range, skipped: Vec::new() }.checked()
    }

    /// One label for each sample, and at least one sample.
    fn checked(self) -> Result<Self> {
        if self.is_empty() {
            return Err(Error::new(Status::ReadFailed, "the data set holds no samples"));
        }
        let Some(labels) = &self.labels else { return Ok(self) };
        if labels.len() != self.len() {
            let message =
                format!("{} labels for {} samples: expected one for each", labels.len(), self.len());
            return Err(Error::new(Status::ShapeMismatch, message));
        }
        match labels.iter().position(|label| !(0..self.classes as i64).contains(label)) {
            Some(i) => {
                let message =
                    format!("the label of sample {i} is {}: expected 0 to {}", labels[i], self.classes - 1);
                Err(Error::new(Status::ShapeMismatch, message))
            }
            None => Ok(self),
        }
    }

    fn truncate(&mut self, samples: usize) {
        let elements = samples.saturating_mul(self.sample_len());
        match &mut self.values {
            Values::U8(v) => v.truncate(elements),
            Values::F32(v) => v.truncate(elements),
        }
        if let Some(labels) = &mut self.labels {
            labels.truncate(samples);
        }
    }

    /// Images in the middle of larger ones.
    fn padded(self, size: usize) -> Result<Self> {
        let (&[channels, height, width], Values::U8(pixels)) = (self.shape.as_slice(), &self.values) else {
            let message = format!("data.size: the data are no images, but of shape {:?}", self.shape);
            return Err(Error::new(Status::InvalidConfig, message));
        };
        if (height, width) == (size, size) {
            return Ok(self);
        }
        if height > size || width > size {
            let message =
                format!("data.size: {size} is smaller than the images, which are {height} x {width}");
            return Err(Error::new(Status::InvalidConfig, message));
        }
        let (top, left) = ((size - height) / 2, (size - width) / 2);
        let mut padded = vec![0; self.len() * channels * size * size];
        for (row, pixels) in pixels.chunks_exact(width).enumerate() {
            let start = (row / height * size + top + row % height) * size + left;
            padded[start..start + width].copy_from_slice(pixels);
        }
        Ok(Self { shape: vec![channels, size, size], values: Values::U8(padded), ..self })
    }
}

impl DataKind {
    /// The name in a recipe, and of the folder that holds the data by default.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar10",
            Self::Mnist => "mnist",
            Self::FashionMnist => "fashion-mnist",
            Self::Folder => "folder",
            Self::Npy => "npy",
            Self::Mixture => "mixture",
        }
    }
}

/// Points of a mixture: element e of point i is made of the prior's normals, seeded with the run's seed and i, and
/// the component of word 0 of `random::Purpose::Component`.
fn mixture(recipe: Option<&MixtureRecipe>, seed: u64) -> Result<Dataset> {
    let bad = |what: &str| Err(Error::new(Status::InvalidConfig, format!("data.mixture: {what}")));
    let Some(MixtureRecipe { weights, means, variances, count }) = recipe else {
        return bad("a mixture's weights, means, variances and count are missing");
    };
    let d = means.first().map_or(0, Vec::len);
    if d == 0
        || weights.len() != means.len()
        || variances.len() != means.len()
        || means.iter().any(|m| m.len() != d)
    {
        return bad("expected as many weights and variances as means, and means of one length");
    }
    let all = weights.iter().chain(variances).chain(means.iter().flatten());
    let total: f64 = weights.iter().sum();
    if weights.iter().chain(variances).any(|x| *x < 0.0)
        || total <= 0.0
        || all.clone().any(|x| !x.is_finite())
    {
        return bad("expected finite numbers, with weights and variances of at least 0");
    }
    let mut points = vec![0.0f32; count * d];
    for (i, point) in points.chunks_exact_mut(d).enumerate() {
        let mut u = random::uniform(seed, random::Purpose::Component, 0, i as u32) * total;
        let component = weights.iter().position(|w| {
            u -= w;
            u < 0.0
        });
        let component = component.unwrap_or(weights.len() - 1);
        noise::fill_f32(seed.wrapping_add(i as u64), noise::Purpose::Prior, 0, 0, point);
        for (x, mean) in point.iter_mut().zip(&means[component]) {
            *x = (mean + variances[component].sqrt() * f64::from(*x)) as f32;
        }
    }
    let range = range_of(&points);
    let values = Values::F32(points);
    Dataset { shape: vec![d], values, labels: None, classes: 0, range, skipped: Vec::new() }.checked()
}

/// The smallest and largest value; never equal.
fn range_of(values: &[f32]) -> [f64; 2] {
    let bound = |start: f32, pick: fn(f32, f32) -> f32| f64::from(values.iter().copied().fold(start, pick));
    let (low, high) = (bound(f32::INFINITY, f32::min), bound(f32::NEG_INFINITY, f32::max));
    if low < high { [low, high] } else { [low - 1.0, low + 1.0] }
}

/// Reads a file whole.
fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path)
        .map_err(|e| Error::new(Status::ReadFailed, format!("{}: cannot be read", path.display())).source(e))
}

/// An error about the contents of a file.
fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(Status::ReadFailed, format!("{}: {what}", path.display()))
}
