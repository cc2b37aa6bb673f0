//! Trains phase-space score networks with libtorch and exports them to ONNX for `psld`.

pub mod export;
pub mod import;
pub mod net;
