//! Samplers of phase-space diffusion models: the recipe of arXiv 2303.01748 (VP, CLD, PSLD and any linear
//! forward diffusion with constant D, Q), compiled to plans and executed over ONNX Runtime.
//!
//! **Describe** (process, grid, sampler) → **compile** to a [`plan`] (rows of f64 coefficients) →
//! **execute** the plan (one fused kernel, one network call a row).

pub mod array;
pub mod capi;
pub mod config;
pub mod decode;
pub mod engine;
pub mod error;
pub mod evaluation;
mod exec;
mod fork;
pub mod golden;
pub mod grid;
mod guidance;
pub mod hash;
pub mod io;
pub mod isa;
pub mod log;
mod model;
pub mod network;
pub mod noise;
pub mod onnx;
mod pin;
pub mod plan;
#[cfg(feature = "plot")]
pub mod plot;
pub mod process;
pub mod restoration;
pub mod run;
pub mod solver;
pub mod spec;
pub mod study;
pub mod tune;

pub use error::{Error, Result, Status};
pub use model::{Model, ModelOptions};
pub use run::{Run, RunOptions};
pub use solver::Sampler;
pub use spec::{ModelSpec, SamplerSpec};

#[cfg(doctest)]
#[doc = include_str!("../docs/guide/rust.md")]
struct Guide;
