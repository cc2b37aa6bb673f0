//! Samplers of phase-space diffusion models: the recipe of arXiv 2303.01748 (VP, CLD, PSLD and any linear
//! forward diffusion with constant D, Q), compiled to plans and executed over ONNX Runtime.
//!
//! **Describe** (process, grid, sampler) → **compile** to a [`plan`] (rows of f64 coefficients) →
//! **execute** the plan (one fused kernel, one network call a row).

pub mod error;
pub mod isa;
pub mod noise;
pub mod onnx;
pub mod process;

pub use error::{Error, Result, Status};
