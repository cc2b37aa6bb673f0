//! Linear restoration: what of an image was measured, and how the samples are held to it.

use super::strict;
use crate::{Error, Result, Status};
use serde::{Deserialize, Serialize};

/// H of a measurement y = H x + noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Operator {
    /// Some elements are measured, others are not: y has the shape of x, and the mask is the run's.
    Mask,
    /// The mean over squares of `factor` x `factor` pixels of each channel: y is [C, H / factor, W / factor].
    /// Super-resolution.
    Average {
        /// Pixels along the side of a square, at least 1; divides height and width.
        factor: usize,
    },
    /// The convolution of each channel with a Gaussian, normalised to sum 1 and cut off at four standard deviations; periodic, as
    /// [`Operator::Convolve`]. Deblurring.
    Blur {
        /// Standard deviation in pixels, above 0.
        std: f64,
    },
    /// The periodic convolution of each channel: y[i, j] = sum over p, q of kernel[p][q] x[i - (p - P/2), j - (q - Q/2)],
    /// indices modulo height and width.
    Convolve {
        /// P rows of Q numbers, no larger than the image.
        kernel: Vec<Vec<f64>>,
    },
}

/// What samples are held to. Each data estimate E\[x_0 | z_t\] is moved to the mean of N(E\[x_0 | z_t\], r^2 1) given
/// y = H x_0 + noise n, with r^2 the variance of x_0 given z_t for data of variance `data_std`^2: without noise the projection
/// on the images that give y (the null-space form of arXiv 2212.00490); with noise as far as the noise allows. Exact for
/// Gaussian data of that variance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restoration {
    /// H.
    pub operator: Operator,
    /// Standard deviation of the measurement's noise, in the units of the data range; 0: samples give the measurement exactly.
    #[serde(default)]
    pub noise: f64,
    /// Standard deviation of the data, in the same units; `None`: a quarter of the range's width, as images have. Matters with
    /// noise only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_std: Option<f64>,
    /// How often each step is taken, as [`Inpainting::resample`](super::Inpainting::resample): brings what is measured and
    /// what is not into harmony, and multiplies the network calls.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub resample: u32,
}

fn once() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_once(resample: &u32) -> bool {
    *resample == 1
}

impl From<Operator> for Restoration {
    /// A measurement without noise.
    fn from(operator: Operator) -> Self {
        Self { operator, noise: 0.0, data_std: None, resample: 1 }
    }
}

impl Restoration {
    /// Reads a JSON object with the fields of this.
    ///
    /// # Errors
    /// [`Status::InvalidConfig`] naming the field, those of [`Self::check`].
    pub fn parse(text: &str) -> Result<Self> {
        const BAD: Status = Status::InvalidConfig;
        let restoration: Self = strict::from_value(strict::parse(text, BAD, "restore")?, BAD, "restore")?;
        restoration.check()?;
        Ok(restoration)
    }

    /// Whether its numbers are in range; what depends on the data's shape is checked when a sampler is compiled.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`], naming the option.
    pub fn check(&self) -> Result<()> {
        if !(self.noise >= 0.0 && self.noise.is_finite()) {
            return Err(Error::argument(format!(
                "restore: noise = {:?}: expected a standard deviation, at least 0",
                self.noise
            )));
        }
        if let Some(std) = self.data_std.filter(|std| !(*std > 0.0 && std.is_finite())) {
            return Err(Error::argument(format!("restore: data_std = {std:?}: expected a number above 0")));
        }
        Ok(())
    }

    /// The variance of the data.
    pub(crate) fn data_variance(&self, range: [f64; 2]) -> f64 {
        let std = self.data_std.unwrap_or(0.25 * (range[1] - range[0]));
        std * std
    }
}
