//! How a sampler is conditioned: what changes its plan, beside the sampler's own options.

use super::Restoration;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// How the known region enters an inpainting run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InpaintMethod {
    /// After each step the known region is replaced by a draw of the kernel at the time where the step *ends*, and
    /// after the last row by the image itself: known pixels are kept exactly.
    #[default]
    Corrected,
    /// As in the code published with arXiv 2303.01748: after each step the known region is replaced by a draw
    /// of the kernel at the time where the step *began*, at the end by its mean at t_end.
    Published,
}

/// How images are completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inpainting {
    /// How the known region enters.
    pub method: InpaintMethod,
    /// How often each step is taken, at least 1: after all but the last time the state is taken back to the step's
    /// start by the forward process (arXiv 2201.09865, "resampling"), which harmonises known and unknown. Multiplies
    /// the network calls. For samplers that are accurate over one step, such as `ancestral` and `sscs`: the errors of
    /// others add up.
    pub resample: u32,
}

impl Default for Inpainting {
    fn default() -> Self {
        InpaintMethod::default().into()
    }
}

impl From<InpaintMethod> for Inpainting {
    fn from(method: InpaintMethod) -> Self {
        Self { method, resample: 1 }
    }
}

/// What guides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuidanceKind {
    /// Classifier-free (arXiv 2207.12598): the output becomes (1 + w) output - w guide, where the guide is the model
    /// with the null class, or a second, weaker network (arXiv 2406.02507).
    Cfg,
    /// By a classifier (arXiv 2105.05233): the score gains w times the gradient of log p(y | z_t, t); w = 1 is Bayes'
    /// rule.
    Classifier,
}

/// How a sampler is guided; scale, class and guidance network are the run's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guidance {
    /// What guides.
    pub kind: GuidanceKind,
    /// Forward times between which guidance acts, both included; elsewhere the model is on its own.
    pub interval: [f64; 2],
    /// How far the guided output is brought back to the spread that the model's own output has over one sample
    /// (arXiv 2305.08891, section 3.4), 0 to 1; for [`GuidanceKind::Cfg`].
    pub rescale: f64,
}

impl From<GuidanceKind> for Guidance {
    /// At all times, without rescaling.
    fn from(kind: GuidanceKind) -> Self {
        Self { kind, interval: [0.0, 1.0], rescale: 0.0 }
    }
}

impl Guidance {
    /// Whether guidance acts at time `t`.
    pub fn acts_at(&self, t: f64) -> bool {
        (self.interval[0]..=self.interval[1]).contains(&t)
    }

    /// Whether its numbers are in range.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`](crate::Status::InvalidArgument), naming the option.
    pub fn check(&self) -> Result<()> {
        let [low, high] = self.interval;
        if !(0.0 <= low && low < high && high <= 1.0) {
            return Err(Error::argument(format!(
                "guidance: interval = [{low:?}, {high:?}]: expected forward times t0 < t1 between 0 and 1"
            )));
        }
        if !(0.0..=1.0).contains(&self.rescale) {
            return Err(Error::argument(format!(
                "guidance: rescale = {:?}: expected a number from 0 to 1",
                self.rescale
            )));
        }
        if self.rescale != 0.0 && self.kind == GuidanceKind::Classifier {
            return Err(Error::argument("guidance: rescale is an option of kind `cfg`"));
        }
        Ok(())
    }
}

/// What a sampler is compiled for, beside its own options. The default is nothing: plain samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conditioning {
    /// Images to complete.
    pub inpaint: Option<Inpainting>,
    /// Guidance.
    pub guidance: Option<Guidance>,
    /// Measurements to restore images from; excludes `inpaint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restoration>,
}

impl From<Option<InpaintMethod>> for Conditioning {
    fn from(method: Option<InpaintMethod>) -> Self {
        Self { inpaint: method.map(Inpainting::from), ..Self::default() }
    }
}

impl Conditioning {
    /// This, with what `other` has where this has nothing.
    pub fn or(self, other: Self) -> Self {
        Self {
            inpaint: self.inpaint.or(other.inpaint),
            guidance: self.guidance.or(other.guidance),
            restore: self.restore.or(other.restore),
        }
    }

    /// How often each step is taken.
    pub(crate) fn resample(&self) -> u32 {
        let restored = self.restore.as_ref().map(|restore| restore.resample);
        self.inpaint.map(|inpaint| inpaint.resample).or(restored).unwrap_or(1)
    }
}

impl From<Guidance> for Conditioning {
    fn from(guidance: Guidance) -> Self {
        Self { guidance: Some(guidance), ..Self::default() }
    }
}

impl From<Restoration> for Conditioning {
    fn from(restore: Restoration) -> Self {
        Self { restore: Some(restore), ..Self::default() }
    }
}
