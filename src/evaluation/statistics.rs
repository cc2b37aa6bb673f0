//! Mean and covariance of features in a file, with what they are features of.

use super::frechet::{Gaussian, MAX_FEATURES};
use crate::array::Tensor;
use crate::io::{NewFile, npy, npz};
use crate::spec::strict;
use crate::{Error, Result, Status};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// What statistics are of: figures of different features must not be compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Version of this document; 1.
    pub format: u32,
    /// The feature network's file, for people.
    pub model: String,
    /// SHA-256 of that file, in hexadecimal.
    pub sha256: String,
    /// Which of its outputs.
    pub output: String,
    /// The time at which a noise-conditional network was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t: Option<f64>,
    /// Shape of one image.
    pub shape: Vec<usize>,
    /// Smallest and largest value of an image.
    pub range: [f64; 2],
    /// What the images were, for people.
    #[serde(default)]
    pub images: String,
}

/// The Gaussian of a set's features, as a file: `.npz`, for numpy and for this crate.
///
/// `numpy.load(path)` gives `mean` (D) and `covariance` (D, D) as float64, `count` as int64, and `about.json` as bytes
/// ([`About`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// What they are of.
    pub about: About,
    /// The numbers.
    pub gaussian: Gaussian,
}

impl Statistics {
    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// [`Status::WriteFailed`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let Gaussian { count, mean, covariance } = &self.gaussian;
        let about = serde_json::to_vec(&self.about)
            .map_err(|e| Error::new(Status::Internal, "statistics cannot be described").source(e))?;
        NewFile::write_with(path, |out| {
            fn array<T: npy::Number>(shape: &[usize], values: &[T]) -> io::Result<Vec<u8>> {
                let mut bytes = Vec::new();
                npy::write(&mut bytes, shape, values)?;
                Ok(bytes)
            }
            let dim = mean.len();
            let members = [
                ("mean.npy", array(&[dim], mean)?),
                ("covariance.npy", array(&[dim, dim], covariance)?),
                ("count.npy", array(&[], &[*count as i64])?),
                ("about.json", about),
            ];
            npz::write(out, &members)
        })
    }

    /// Reads a file that [`Self::write`] wrote.
    ///
    /// # Errors
    /// [`Status::ReadFailed`]: missing, damaged, no such file; naming what is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let members = npz::read(path)?;
        let bad = |what: String| Error::new(Status::ReadFailed, format!("{}: {what}", path.display()));
        let member = |name: &str| {
            members.iter().find(|(member, _)| member == name).map(|(_, bytes)| &bytes[..]).ok_or_else(|| {
                let names: Vec<_> = members.iter().map(|(name, _)| name.as_str()).collect();
                bad(format!("holds no `{name}`, only {}", names.join(", ")))
                    .hint("statistics are made by `psld fd --make-stats`")
            })
        };
        let array = |name: &str| -> Result<(Vec<usize>, Vec<f64>)> {
            let values = npy::parse(member(name)?)
                .map_err(|e| e.context(format_args!("{}: {name}", path.display())))?;
            let shape = values.values.shape().to_vec();
            let all: Vec<f64> = match values.values {
                Tensor::F32(a) => a.iter().map(|x| f64::from(*x)).collect(),
                Tensor::F64(a) => a.into_raw_vec_and_offset().0,
            };
            match all.iter().all(|x| x.is_finite()) {
                true => Ok((shape, all)),
                false => Err(bad(format!("{name} holds a number that is not finite"))),
            }
        };
        let about =
            std::str::from_utf8(member("about.json")?).map_err(|e| bad("about.json".into()).source(e))?;
        let place = format!("{}: about.json", path.display());
        let about: About = strict::from_value(
            strict::parse(about, Status::ReadFailed, &place)?,
            Status::ReadFailed,
            &place,
        )?;
        if about.format != 1 {
            return Err(bad(format!(
                "format {} is not known to this version, which reads format 1",
                about.format
            )));
        }
        let ((mean_shape, mean), (shape, covariance)) = (array("mean.npy")?, array("covariance.npy")?);
        let dim = mean.len();
        if mean_shape != [dim] || shape != [dim, dim] || !(1..=MAX_FEATURES).contains(&dim) {
            return Err(bad(format!(
                "a mean of shape {mean_shape:?} with a covariance of {shape:?}: expected [D] and [D, D], D at most \
                 {MAX_FEATURES}"
            )));
        }
        let count = match &array("count.npy")?.1[..] {
            &[count] if count >= 2.0 && count.fract() == 0.0 && count < 2e15 => count as usize,
            _ => return Err(bad("count.npy: expected one integer of at least 2".into())),
        };
        Ok(Self { about, gaussian: Gaussian { count, mean, covariance } })
    }

    /// That these are statistics of the features that `network` describes.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`], with both networks.
    pub fn check(&self, network: &About) -> Result<()> {
        let mine = &self.about;
        let same = mine.sha256 == network.sha256
            && (&mine.output, &mine.t, &mine.shape) == (&network.output, &network.t, &network.shape)
            && mine.range == network.range;
        if same {
            return Ok(());
        }
        let described = |about: &About| {
            let sha = about.sha256.get(..12).unwrap_or(&about.sha256);
            let [low, high] = about.range;
            format!(
                "output `{}` of {} (sha256 {sha}, images {:?} from {low} to {high})",
                about.output, about.model, about.shape
            )
        };
        Err(Error::argument(format!(
            "the statistics are of other features: expected {}, got {}",
            described(network),
            described(mine)
        ))
        .hint("make them anew with this network: `psld fd --make-stats`"))
    }
}
