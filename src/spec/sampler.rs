//! The sampler's options, as they stand in a configuration file, on the command line and in the C struct.

use super::strict;
use crate::{Error, Result, Status};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options of a sampler. A field left `None` takes the documented default of the chosen sampler; a field that
/// the chosen sampler does not know is an error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SamplerSpec {
    /// Name of the sampler (JSON also takes `kind`); default `auto`, to encode `unipc`. [`crate::solver::list`] has them all.
    #[serde(default, alias = "kind", skip_serializing_if = "Option::is_none")]
    pub sampler: Option<String>,
    /// Solver steps; excludes `nfe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// All network calls, the closing one included; default 30, to encode 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfe: Option<u32>,
    /// The time grid; default `quadratic`, for `ve` and `edm` `karras`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_grid: Option<Grid>,
    /// Forward time at which sampling starts; default 1, or the largest at which the network knows the signal-to-noise
    /// ratio ([`Times`](crate::decode::Times)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t_start: Option<f64>,
    /// Forward time at which the solver's steps end; default 0.001, but sigma_min/sigma_max for `edm`, the first entry
    /// of a `ddpm`, and no less than the network knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t_end: Option<f64>,
    /// Whether a noise-free step of length `t_end` (for `ve`, `edm`, `flow`, `ddpm`: the data estimate) closes the run;
    /// default true.
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
    /// Order of the scheme: for interpolating samplers the degree of the polynomial plus one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
    /// Share of the reverse-time noise, 0 (deterministic) to 1 (ancestral).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<f64>,
    /// Strength of the conjugate integrator's [`matrix`](Self::matrix).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
    /// B of the conjugate integrator, up to [`lambda`](Self::lambda).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matrix: Option<ConjugateMatrix>,
    /// Strength of the position's noise in stochastic splittings; 1 is exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lambda_s: Option<f64>,
    /// Which form of a sampler that has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<Variant>,
    /// For k = 1, the form that the sampler's paper and code publish, to the letter; default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<bool>,
    /// How every data estimate is clipped, the closing one included; default not at all. Excludes `encode`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<Clip>,
    /// Whether `dpmpp` and `unipc` take lower orders in their last steps, as diffusers does by default ([`Self::order`] says
    /// the highest); default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower_order_final: Option<bool>,
    /// Whether the probability flow is followed from data to noise, from `t_end` to `t_start`: images in, latents out.
    /// For deterministic samplers; default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encode: Option<bool>,
    /// Seed of the first sample; sample i has seed + i. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// A time grid, by name or by its points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected the name of a grid or file, or an array of times")]
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
    /// Each sample by itself: each has its own steps and does not depend on the others. The run makes the network
    /// calls of the sample that needs most.
    Sample,
}

/// B of the conjugate integrators (arXiv 2310.07894), up to its strength lambda.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConjugateMatrix {
    /// B = 0: the exponential integrator.
    #[default]
    Zero,
    /// B = lambda I.
    Identity,
    /// B = lambda times the matrix of ones.
    Ones,
}

/// B(h) of UniPC (arXiv 2302.04867).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// B(h) = h.
    Bh1,
    /// B(h) = e^h - 1.
    #[default]
    Bh2,
}

/// How data estimates are clipped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum Clip {
    /// Not at all.
    Off,
    /// To the data range (static thresholding).
    Range,
    /// Dynamic thresholding (arXiv 2205.11487, section 2.3): with y the distance from the middle of the data range in half
    /// ranges, and s the given percentile of |y| over a sample, at least 1 and at most `max`, y is clipped to [-s, s] and
    /// divided by s.
    Percentile {
        /// Above 0 and at most 1: 0.995 is the value that 99.5 % of a sample stay below.
        percentile: f64,
        /// Largest s, at least 1; without, s has no bound.
        max: Option<f64>,
    },
}

impl TryFrom<Value> for Clip {
    type Error = String;

    /// From `true`, `false`, `{"percentile": 0.995, "max": 1}`, or the percentile alone.
    fn try_from(value: Value) -> Result<Self, String> {
        let refused = || {
            let forms = "true, false, a percentile such as 0.995, or {\"percentile\": 0.995, \"max\": 1}";
            format!("clip: expected {forms}, got {value}")
        };
        match &value {
            Value::Bool(false) => Ok(Self::Off),
            Value::Bool(true) => Ok(Self::Range),
            Value::Number(percentile) => {
                Ok(Self::Percentile { percentile: percentile.as_f64().ok_or_else(refused)?, max: None })
            }
            Value::Object(fields) => {
                let known = fields.keys().all(|name| ["percentile", "max"].contains(&name.as_str()));
                let number = |name: &str| fields.get(name).and_then(Value::as_f64);
                let max = fields.get("max").filter(|max| !max.is_null());
                match (known, number("percentile"), max, number("max")) {
                    (true, Some(percentile), None, _) => Ok(Self::Percentile { percentile, max: None }),
                    (true, Some(percentile), _, Some(max)) => {
                        Ok(Self::Percentile { percentile, max: Some(max) })
                    }
                    _ => Err(refused()),
                }
            }
            _ => Err(refused()),
        }
    }
}

impl From<Clip> for Value {
    fn from(clip: Clip) -> Self {
        match clip {
            Clip::Off => false.into(),
            Clip::Range => true.into(),
            Clip::Percentile { percentile, max: None } => serde_json::json!({ "percentile": percentile }),
            Clip::Percentile { percentile, max } => {
                serde_json::json!({ "percentile": percentile, "max": max })
            }
        }
    }
}

impl Clip {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`], naming the number and its range.
    pub fn check(&self) -> Result<()> {
        let Self::Percentile { percentile, max } = *self else { return Ok(()) };
        if !(percentile > 0.0 && percentile <= 1.0) {
            return Err(Error::argument(format!(
                "clip: percentile = {percentile:?}: expected a share of a sample's values, above 0 and at most 1"
            ))
            .hint("0.995 is the usual one"));
        }
        match max {
            Some(max) if !(max >= 1.0 && max.is_finite()) => Err(Error::argument(format!(
                "clip: max = {max:?}: expected a finite number of at least 1, in halves of the data range"
            ))),
            _ => Ok(()),
        }
    }
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

    /// Whether each option that only some samplers take is given.
    pub(crate) fn special(&self) -> [(&'static str, bool); 12] {
        [
            ("rtol", self.rtol.is_some()),
            ("atol", self.atol.is_some()),
            ("max_nfe", self.max_nfe.is_some()),
            ("error_norm", self.error_norm.is_some()),
            ("order", self.order.is_some()),
            ("eta", self.eta.is_some()),
            ("lambda", self.lambda.is_some()),
            ("matrix", self.matrix.is_some()),
            ("lambda_s", self.lambda_s.is_some()),
            ("variant", self.variant.is_some()),
            ("published", self.published.is_some()),
            ("lower_order_final", self.lower_order_final.is_some()),
        ]
    }

    /// The first option that is given beside the seed.
    pub(crate) fn first_given(&self) -> Option<String> {
        let options = Self { seed: None, ..self.clone() };
        let fields = serde_json::to_value(options).ok()?;
        fields.as_object()?.keys().next().cloned()
    }

    /// These options, with those of `other` where they are not given; steps and nfe replace each other.
    pub fn or(self, other: Self) -> Self {
        let counted = self.steps.is_some() || self.nfe.is_some();
        Self {
            sampler: self.sampler.or(other.sampler),
            steps: if counted { self.steps } else { other.steps },
            nfe: if counted { self.nfe } else { other.nfe },
            time_grid: self.time_grid.or(other.time_grid),
            t_start: self.t_start.or(other.t_start),
            t_end: self.t_end.or(other.t_end),
            denoise: self.denoise.or(other.denoise),
            denoise_time: self.denoise_time.or(other.denoise_time),
            rtol: self.rtol.or(other.rtol),
            atol: self.atol.or(other.atol),
            max_nfe: self.max_nfe.or(other.max_nfe),
            error_norm: self.error_norm.or(other.error_norm),
            order: self.order.or(other.order),
            eta: self.eta.or(other.eta),
            lambda: self.lambda.or(other.lambda),
            matrix: self.matrix.or(other.matrix),
            lambda_s: self.lambda_s.or(other.lambda_s),
            variant: self.variant.or(other.variant),
            published: self.published.or(other.published),
            clip: self.clip.or(other.clip),
            lower_order_final: self.lower_order_final.or(other.lower_order_final),
            encode: self.encode.or(other.encode),
            seed: self.seed.or(other.seed),
        }
    }

    /// The sampler's name.
    pub fn name(&self) -> &str {
        self.sampler.as_deref().unwrap_or(if self.encodes() { "unipc" } else { "auto" })
    }

    /// The network calls of who says neither `steps` nor `nfe`. The way to noise is taken to come back, and needs more.
    pub fn default_nfe(&self) -> u32 {
        if self.encodes() { 100 } else { 30 }
    }

    /// How data estimates are clipped, if they are.
    pub fn clipping(&self) -> Option<Clip> {
        self.clip.filter(|clip| *clip != Clip::Off)
    }

    /// Whether it leads from data to noise.
    pub fn encodes(&self) -> bool {
        self.encode.unwrap_or(false)
    }

    /// The first sample's seed.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(0)
    }
}
