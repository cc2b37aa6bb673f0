//! Networks in ONNX form, run by ONNX Runtime.
//!
//! [`Runtime`] finds and loads the shared library, [`OnnxNetwork`] loads a model and checks it against its spec,
//! and its evaluators run it on the caller's buffers.

mod api;
mod buffers;
mod evaluator;
mod function;
mod library;
mod log;
mod network;
mod ports;
mod provider;
mod runtime;
mod session;
mod verify;

pub(crate) use function::Function;
pub use log::{LogLevel, LogSink, set_log_sink};
pub(crate) use network::Files;
pub use network::{OnnxNetwork, OnnxOptions};
pub use provider::Provider;
pub use runtime::Runtime;
pub use verify::{Verification, verify};
