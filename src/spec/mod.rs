//! What a caller describes: the model's spec (from ONNX metadata) and the sampler's options; parsed strictly,
//! completed with defaults, checked.

mod config;
mod golden;
mod model;
mod sampler;
pub(crate) mod strict;

pub use config::{Config, InpaintFiles};
pub use golden::{Difference, GOLDEN_KEY, Golden};
pub use model::{
    DataSpec, ModelSpec, NetworkSpec, NetworkTime, Prediction, Predicts, ProcessKind, ProcessSpec, SPEC_KEY,
    Schedule,
};
pub use sampler::{ConjugateMatrix, DenoiseTime, ErrorNorm, Grid, InpaintMethod, SamplerSpec, Variant};
