//! Trains phase-space score networks with libtorch and exports them to ONNX for `psld`.

pub mod data;
pub mod export;
pub mod import;
pub mod net;
pub mod random;
pub mod recipe;
#[cfg(feature = "torch")]
pub mod train;
