//! ONNX Runtime: finding it, loading models, running them. Needs the library (`make onnxruntime`).
#![cfg(feature = "onnxruntime")]

mod engine;
mod evaluate;
mod external;
mod gradient;
mod interrupt;
mod library;
mod models;
mod paths;
mod support;
