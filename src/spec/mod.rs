//! What a caller describes: the model's spec (from ONNX metadata) and the sampler's options; parsed strictly,
//! completed with defaults, checked.

mod conditioning;
mod config;
mod golden;
mod model;
mod restoration;
mod sampler;
pub(crate) mod strict;

pub use conditioning::{Conditioning, Guidance, GuidanceKind, InpaintMethod, Inpainting};
pub use config::{Config, GuidanceFile, InpaintFiles, OneOrMany, RestoreFiles, conditions};
pub use golden::{Difference, GOLDEN_KEY, Golden};
pub use model::{
    DataSpec, GRADIENT_OUTPUT, ModelSpec, NetworkSpec, NetworkTime, Prediction, Predicts, ProcessKind,
    ProcessSpec, SPEC_KEY, Schedule,
};
pub use restoration::{Operator, Restoration};
pub use sampler::{Clip, ConjugateMatrix, DenoiseTime, ErrorNorm, Grid, SamplerSpec, Variant};
