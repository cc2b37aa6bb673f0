//! How a sampler is conditioned: what changes its plan, beside the sampler's own options.

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// What a sampler is compiled for, beside its own options. The default is nothing: plain samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditioning {
    /// Images to complete.
    pub inpaint: Option<Inpainting>,
}

impl From<Option<InpaintMethod>> for Conditioning {
    fn from(method: Option<InpaintMethod>) -> Self {
        Self { inpaint: method.map(Inpainting::from) }
    }
}
