//! What a caller describes: the model's spec (from ONNX metadata) and the sampler's options; parsed strictly,
//! completed with defaults, checked.

mod conditioning;
mod model;
mod restoration;
mod sampler;
pub(crate) mod strict;
mod what;

pub use conditioning::{Conditioning, Guidance, GuidanceKind, InpaintMethod, Inpainting};
pub use model::{
    DataSpec, GRADIENT_OUTPUT, ModelSpec, NetworkSpec, NetworkTime, Prediction, Predicts, ProcessKind,
    ProcessSpec, SPEC_KEY, Schedule,
};
pub use restoration::{Operator, Restoration};
pub use sampler::{Clip, ConjugateMatrix, DenoiseTime, ErrorNorm, Grid, SamplerSpec, Variant};
pub use what::What;
