//! Score networks: what turns a state and a time into an epsilon (or whatever its spec says it predicts).
//!
//! Two implementations: [`onnxruntime`] runs an ONNX model, [`analytic`] computes the exact epsilon of a
//! Gaussian mixture and needs no library.

pub mod analytic;
#[cfg(feature = "onnxruntime")]
pub mod onnxruntime;

use crate::Result;
use crate::array::{Precision, Values, ValuesMut};
use crate::spec::ModelSpec;
use std::sync::Arc;

/// One evaluation of `t.len()` samples.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// States, [n, k*C, ...] in row-major order; [n, C, ...] where the network was trained on another process than
    /// the one to sample along (or the input that its prediction `edm` asks for).
    pub z: Values<'a>,
    /// Forward time of each sample on the path that the network was trained on, in (0, 1].
    pub t: &'a [f64],
    /// Class of each sample; `None` is the null class for all.
    pub labels: Option<&'a [i64]>,
    /// Which samples these are; `None` where they are of no run.
    pub rows: Option<Rows<'a>>,
}

/// Which samples the rows of an evaluation are: what a network needs that has conditions of its own for each. Rows are of part
/// of a run, of all of it, of one sample twice (with its class and without), or in an engine of several requests.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Of each row the number of its sample, from 0, in the run (or set of batches, or request) as it was started. It follows
    /// the sample as its class does: a copy that [`Run::gather`](crate::Run::gather) makes has its original's.
    pub indices: &'a [i64],
    /// Of each row the [`tag`](crate::RunOptions::tag) of its run.
    pub tags: &'a [u64],
}

/// Where and on what a network really runs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Backend {
    /// "onnxruntime", "analytic", or "caller" for a network of the C caller's.
    pub name: &'static str,
    /// Version of the library that runs the network.
    pub version: String,
    /// The execution provider really used: "cpu", "cuda", "tensorrt"; "caller" for a network of the caller's.
    pub provider: String,
    /// Path of the library, where there is one.
    pub library: Option<String>,
}

/// A network with its spec. Shared: any thread, at once.
pub trait Network: Send + Sync {
    /// What the network was trained on and what its output means.
    fn spec(&self) -> &ModelSpec;

    /// What runs it.
    fn backend(&self) -> Backend;

    /// The precision of the outputs for states of precision `state`.
    fn output_precision(&self, state: Precision) -> Precision;

    /// SHA-256 of the model, in hexadecimal, external data included. Read when asked for.
    ///
    /// # Errors
    /// [`Status::ReadFailed`](crate::Status::ReadFailed) if one of the model's files is gone or has changed.
    fn hash(&self) -> Result<String>;

    /// Opens an evaluator, the per-run part of a network: its buffers and bindings.
    fn evaluator(&self) -> Result<Box<dyn Evaluator>>;

    /// The law of the data, where it is known.
    fn mixture(&self) -> Option<&analytic::Mixture> {
        None
    }
}

/// The per-run part of a network. One thread at a time.
pub trait Evaluator: Send {
    /// Writes the network's raw output, [n, blocks*C, ...], for the samples of `inputs`.
    ///
    /// `out` has [`Network::output_precision`]. After the first call with buffers at given addresses, further
    /// calls with the same buffers allocate nothing in this library.
    fn evaluate(&mut self, inputs: Inputs<'_>, out: ValuesMut<'_>) -> Result<()>;

    /// What ends a call in flight from another thread, where that is possible.
    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        None
    }
}

/// Ends the network calls of one evaluator. Any thread, at once.
pub trait Interrupt: Send + Sync {
    /// Makes the call in flight and those that follow return soon, with an error.
    fn interrupt(&self);
    /// Lets calls run again.
    fn clear(&self);
}
