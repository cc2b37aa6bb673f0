//! Opaque handle types, enumerations and the two plain structs that several functions share.

use super::structs::Struct;
use std::ffi::c_void;
use std::mem::size_of;
use std::ptr::null;

/// ONNX Runtime, loaded. Made by psld_runtime_load.
pub struct psld_runtime {
    _opaque: (),
}

/// A network with its spec. Made by psld_model_load_file, psld_model_load_memory and psld_model_create; any thread, at once.
pub struct psld_model {
    _opaque: (),
}

/// A compiled sampler. Made by psld_sampler_create and psld_sampler_create_from_plan; any thread, at once.
pub struct psld_sampler {
    _opaque: (),
}

/// One batch of samples in flight. Made by psld_run_start; one thread at a time, a second one gets
/// PSLD_STATUS_BUSY.
pub struct psld_run {
    _opaque: (),
}

/// A network that serves many callers. Made by psld_engine_create; any thread, at once.
pub struct psld_engine {
    _opaque: (),
}

/// A request in an engine. Made by psld_engine_submit; any thread, at once.
pub struct psld_ticket {
    _opaque: (),
}

/// A request to stop. Made by psld_cancel_create; any thread, at once.
pub struct psld_cancel {
    _opaque: (),
}

/// Why a call failed. Made by any function that has an `err`; any thread, at once.
pub struct psld_error {
    _opaque: (),
}

/// The type of an array's elements.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum psld_dtype {
    /// float
    F32 = 0,
    /// double
    F64 = 1,
}

/// What to read from a run.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum psld_output {
    /// The position half of the state, [n, C, ...]; after the last step, the samples.
    Data = 0,
    /// The whole state, [n, k*C, ...]: position, then momentum (then what else the process has).
    State = 1,
    /// The data estimate E[x_0 | z_t] at the last network call, [n, C, ...]: a preview. Needs
    /// psld_run_options.previews, and at least one step done.
    X0 = 2,
}

/// What noise is for. Draws of different purposes are independent, and each purpose counts its own from 0.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum psld_noise {
    /// The initial state.
    Prior = 0,
    /// The noise of a solver's steps.
    Solver = 1,
    /// The known region of an image that is completed.
    Inpaint = 2,
    /// Random directions of a trace estimate.
    Probe = 3,
}

/// How serious a message is; the numbers increase with detail.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum psld_log {
    /// Nothing.
    Off = 0,
    /// A failure, which is also returned as a status.
    Error = 1,
    /// Something unexpected that was coped with.
    Warn = 2,
    /// What was loaded, what ran.
    Info = 3,
    /// Details.
    Debug = 4,
}

/// An array that the caller lends for the length of one call: dense, row-major, and copied where it is kept. After
/// psld_tensor_init set data, ndim and shape, and dtype unless it is PSLD_DTYPE_F32.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct psld_tensor {
    /// sizeof(psld_tensor); set by psld_tensor_init.
    pub struct_size: usize,
    /// The first element, aligned as its type asks for.
    pub data: *const c_void,
    /// One of psld_dtype.
    pub dtype: i32,
    /// The number of sizes in `shape`, 1 to 16.
    pub ndim: i32,
    /// `ndim` sizes.
    pub shape: *const i64,
}

/// How far a run is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct psld_progress {
    /// sizeof(psld_progress); set by psld_progress_init.
    pub struct_size: usize,
    /// Steps done; an adaptive sampler counts attempted steps.
    pub step: i32,
    /// Steps in all, the closing one included; 0 where an adaptive sampler cannot know.
    pub of: i32,
    /// Network calls so far.
    pub nfe: i32,
    /// 1 after the last step, else 0.
    pub done: i32,
    /// Share of the work that is done, 0 to 1; of psld_sample, over all its batches.
    pub fraction: f64,
    /// Forward time of the last network call, 0 to 1; it decreases, and increases where the sampler encodes.
    pub t: f64,
    /// Samples that are finished.
    pub samples_done: i64,
    /// Samples in all.
    pub samples: i64,
}

// SAFETY: `repr(C)`, size first, then pointers and integers.
unsafe impl Struct for psld_tensor {
    const NAME: &str = "psld_tensor";
    const LEAST: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self { struct_size: size_of::<Self>(), data: null(), dtype: 0, ndim: 0, shape: null() }
    }
}

// SAFETY: `repr(C)`, size first, then integers and floats.
unsafe impl Struct for psld_progress {
    const NAME: &str = "psld_progress";
    const LEAST: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            step: 0,
            of: 0,
            nfe: 0,
            done: 0,
            fraction: 0.0,
            t: 0.0,
            samples_done: 0,
            samples: 0,
        }
    }
}
