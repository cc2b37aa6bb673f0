//! The sampler's options, as they stand in a configuration file, on the command line and in the C struct.

use super::strict;
use crate::{Error, Result, Status};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options of a sampler. A field left `None` takes the documented default of the chosen sampler; a field that
/// the chosen sampler does not know is an error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SamplerSpec {
    /// Name of the sampler (JSON also takes `kind`); default `em`. [`crate::solver::list`] has them all.
    #[serde(default, alias = "kind", skip_serializing_if = "Option::is_none")]
    pub sampler: Option<String>,
    /// Solver steps; excludes `nfe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// All network calls, the closing one included; default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfe: Option<u32>,
    /// The time grid; default `quadratic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_grid: Option<Grid>,
    /// Forward time at which sampling starts; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t_start: Option<f64>,
    /// Forward time at which the solver's steps end; default 0.001.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t_end: Option<f64>,
    /// Whether a noise-free step of length `t_end` closes the run; default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denoise: Option<bool>,
    /// Times of the closing step; default exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denoise_time: Option<DenoiseTime>,
    /// Relative tolerance of adaptive samplers; default 1e-4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtol: Option<f64>,
    /// Absolute tolerance of adaptive samplers; default 1e-4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub atol: Option<f64>,
    /// Limit of network calls of adaptive samplers; default 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_nfe: Option<u32>,
    /// Over what adaptive samplers take their error norm; default the whole run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_norm: Option<ErrorNorm>,
    /// Seed of the first sample; sample i has seed + i. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// A time grid, by name or by its points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "time_grid: expected the name of a grid or file, or an array of times")]
pub enum Grid {
    /// A named grid ([`crate::grid::NAMES`]), or the path of a grid file.
    Name(String),
    /// Decreasing forward times.
    Points(Vec<f64>),
}

/// Times of the closing step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DenoiseTime {
    /// Score time and length are `t_end`.
    #[default]
    Exact,
    /// The published code's rounding of `em`, `sscs` and inpainting, for parity: score time
    /// 1 - fl32(1 - t_end), length fl32(t_end). The published probability-flow code does not round.
    Float32,
}

/// Over what an adaptive sampler takes its error norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorNorm {
    /// All samples of the run, whatever the batch size: one step size for all.
    #[default]
    Run,
}

/// How the known region enters an inpainting run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InpaintMethod {
    /// As in the code published with arXiv 2303.01748: after each step the known region is replaced by a draw
    /// of the kernel at the time where the step *began*, at the end by its mean at t_end.
    Published,
}

impl SamplerSpec {
    /// Reads options from a JSON object.
    ///
    /// # Errors
    /// [`Status::InvalidConfig`], naming the field and, for an unknown one, the nearest known.
    pub fn parse(text: &str) -> Result<Self> {
        Self::from_json(strict::parse(text, Status::InvalidConfig, "sampler options")?)
    }

    /// Reads options from a JSON value; see [`Self::parse`].
    pub fn from_json(value: Value) -> Result<Self> {
        strict::from_value(value, Status::InvalidConfig, "sampler options")
    }

    /// The sampler's name.
    pub fn name(&self) -> &str {
        self.sampler.as_deref().unwrap_or("em")
    }

    /// The first sample's seed.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(0)
    }

    /// Start and end of the grid in forward time, checked.
    pub fn interval(&self) -> Result<(f64, f64)> {
        let (start, end) = (self.t_start.unwrap_or(1.0), self.t_end.unwrap_or(0.001));
        // The kernel's closed forms are held to 1e-9 from 1e-7 on; below it the factor of the covariance has no
        // meaning in the precision that networks are trained in.
        if !(end >= 1e-7 && end < start && start <= 1.0) {
            return Err(Error::argument(format!(
                "t_start = {start:?}, t_end = {end:?}: expected 1e-7 <= t_end < t_start <= 1"
            )));
        }
        Ok((start, end))
    }
}
