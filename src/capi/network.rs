//! Networks that the caller computes.

use super::convert::{self, Out};
use super::guard::guard;
use super::model::{psld_model_options, read};
use super::types::{psld_dtype, psld_error, psld_log, psld_model};
use super::{handle, log};
use crate::array::{Precision, Values, ValuesMut};
use crate::decode::Clock;
use crate::hash::hex;
use crate::network::{Backend, Evaluator, Inputs, Network};
use crate::{Error, Model, ModelOptions, ModelSpec, Result, Status};
use sha2::{Digest, Sha256};
use std::ffi::{c_char, c_void};
use std::mem::size_of;
use std::ptr::null;
use std::sync::Arc;

/// One evaluation that a psld_network_callback computes, of `n` samples. All arrays are dense, row-major and live through
/// the call; `z` and `out` have the type that the run's states have.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct psld_evaluation {
    /// sizeof(psld_evaluation) of the library.
    pub struct_size: usize,
    /// Samples.
    pub n: i64,
    /// One of psld_dtype: the type of `z` and `out`.
    pub dtype: i32,
    /// 0.
    pub reserved: i32,
    /// The states, [n, k*C, ...], position channels first; [n, C, ...] where the spec's network has a process of its own.
    pub z: *const c_void,
    /// Elements of `z` in all.
    pub z_elements: usize,
    /// The time of each sample, [n], as the spec says that the network takes it (`time` and `time_scale` are applied); the
    /// forward time in (0, 1] where it says nothing.
    pub t: *const f64,
    /// Class of each sample, [n], `classes` for the null class; NULL where the spec has no label input.
    pub labels: *const i64,
    /// Receives what the spec says the network predicts, all of it.
    pub out: *mut c_void,
    /// Elements of `out` in all.
    pub out_elements: usize,
    /// Receives, if need be, why the callback returns another value than 0: UTF-8 with a NUL, for the error's message.
    pub message: *mut c_char,
    /// Bytes of `message`, the NUL included.
    pub message_capacity: usize,
    /// Which samples these are, [n]: of each the number that its sample had, from 0, when its run was started (of psld_sample
    /// and psld_likelihood: among all `n`, whatever the batch). So conditions of the caller's own are looked up: a sample keeps
    /// its number when psld_run_gather moves or copies it, and when the run is saved and loaded; one that is evaluated with
    /// its class and without in one call comes twice.
    pub indices: *const i64,
    /// The psld_run_options.tag of each sample's run, [n]: it tells the requests apart that an engine has in one call.
    pub tags: *const u64,
}

/// Computes a network, on a thread that steps a run of its model; where several are stepped at once, on several threads at
/// once; of an engine, on the engine's thread, which must not wait for its tickets. A return value other than 0 ends the
/// step with PSLD_STATUS_RUNTIME_FAILURE, and the error tells the value and what `evaluation->message` was set to. It may
/// call any function of psld but on the run that is stepped, and must return: no exception, no longjmp.
pub type psld_network_callback =
    Option<extern "C" fn(user: *mut c_void, evaluation: *const psld_evaluation) -> i32>;

/// Told that `user` is needed no more: once, on the thread that frees the last thing that uses the network. It must return.
pub type psld_release_callback = Option<extern "C" fn(user: *mut c_void)>;

/// Makes a model of a network that the caller computes: of another inference engine, a framework, or a formula. All that
/// works with an ONNX model works with it; a cancel token stops it between its calls.
///
/// Threads: any.
///
/// @param[in]  network  computes the network.
/// @param[in]  user     passed to the callbacks; or NULL.
/// @param[in]  release  NULL, or told when `user` is needed no more; where this function fails, before it returns.
/// @param[in]  name     tells this network from others in hashes, plans and saved runs: change it with the weights.
/// @param[in]  options  `spec_json` is needed, and `threads` are the solver's; the rest must be as it was initialised.
/// @param[out] out      the model; free it with psld_model_free.
/// @param[out] err      NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_SPEC_MISSING, PSLD_STATUS_SPEC_INVALID, or another error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_model_create(
    network: psld_network_callback,
    user: *mut c_void,
    release: psld_release_callback,
    name: *const c_char,
    options: *const psld_model_options,
    out: *mut *mut psld_model,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let user = User { pointer: user, release };
        let out = Out::new(out, "out")?;
        let call = network.ok_or_else(|| Error::new(Status::NullPointer, "network is NULL"))?;
        let name = convert::text(name, "name")?;
        let ModelOptions { spec, threads, .. } = only_what_applies(read(options)?)?;
        let spec = spec.ok_or_else(|| {
            Error::new(Status::SpecMissing, "options.spec_json is NULL")
                .hint("a network of the caller's has no other spec")
        })?;
        let hash = Sha256::new().chain_update(spec.to_json()).chain_update([0]).chain_update(name).finalize();
        let network = CallerNetwork {
            null_class: spec.network.label_input.is_some().then_some(i64::from(spec.network.classes)),
            clock: Clock::new(&spec)?,
            spec,
            hash: hex(&hash),
            call,
            user,
        };
        let model = Model::new(Arc::new(Shared(Arc::new(network))), threads)?;
        log::emit(psld_log::Info, || format!("made a model of the caller's network {name}"));
        out.set(handle::create(model)?);
        Ok(())
    })
}

/// Refuses options of the library's own networks.
fn only_what_applies(options: ModelOptions) -> Result<ModelOptions> {
    #[cfg(feature = "onnxruntime")]
    let providers = !options.providers.is_empty();
    #[cfg(not(feature = "onnxruntime"))]
    let providers = false;
    let given = [
        (providers, "providers"),
        (options.device != 0, "device"),
        (options.concurrent_calls != 1, "concurrent_calls"),
    ];
    match given.iter().find(|(given, _)| *given) {
        Some((_, field)) => Err(Error::argument(format!("options.{field}: the caller runs this network"))
            .hint("leave it as psld_model_options_init sets it")),
        None => Ok(options),
    }
}

/// What the callbacks are given. Owned: dropping it tells the caller.
struct User {
    pointer: *mut c_void,
    release: psld_release_callback,
}

// SAFETY: the pointer is only passed back, to callbacks that the caller lets be called on any thread.
unsafe impl Send for User {}
// SAFETY: as above.
unsafe impl Sync for User {}

impl Drop for User {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            release(self.pointer);
        }
    }
}

struct CallerNetwork {
    spec: ModelSpec,
    clock: Clock,
    hash: String,
    /// Of a network with labels.
    null_class: Option<i64>,
    call: extern "C" fn(*mut c_void, *const psld_evaluation) -> i32,
    user: User,
}

struct Shared(Arc<CallerNetwork>);

impl Network for Shared {
    fn spec(&self) -> &ModelSpec {
        &self.0.spec
    }

    fn backend(&self) -> Backend {
        Backend { name: "caller", version: String::new(), provider: "caller".into(), library: None }
    }

    fn output_precision(&self, state: Precision) -> Precision {
        state
    }

    fn hash(&self) -> Result<String> {
        Ok(self.0.hash.clone())
    }

    fn evaluator(&self) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(CallerEvaluator {
            network: Arc::clone(&self.0),
            times: Vec::new(),
            labels: Vec::new(),
            message: vec![0; MESSAGE],
        }))
    }
}

/// Bytes of a message that a callback may leave.
const MESSAGE: usize = 1024;

struct CallerEvaluator {
    network: Arc<CallerNetwork>,
    times: Vec<f64>,
    /// The null class for all, where a run has no labels.
    labels: Vec<i64>,
    message: Vec<u8>,
}

impl Evaluator for CallerEvaluator {
    fn evaluate(&mut self, inputs: Inputs<'_>, mut out: ValuesMut<'_>) -> Result<()> {
        // What a callback forgets to write is no number, and not the last call's.
        match &mut out {
            ValuesMut::F32(out) => out.fill(f32::NAN),
            ValuesMut::F64(out) => out.fill(f64::NAN),
        }
        let (z, z_elements, states) = match inputs.z {
            Values::F32(z) => (z.as_ptr().cast(), z.len(), psld_dtype::F32),
            Values::F64(z) => (z.as_ptr().cast(), z.len(), psld_dtype::F64),
        };
        let (out, out_elements, outputs) = match out {
            ValuesMut::F32(out) => (out.as_mut_ptr().cast(), out.len(), psld_dtype::F32),
            ValuesMut::F64(out) => (out.as_mut_ptr().cast(), out.len(), psld_dtype::F64),
        };
        // The callback is told one type, and writes by it.
        if states != outputs {
            return Err(Error::new(Status::Internal, "states and outputs of two precisions"));
        }
        self.message.fill(0);
        self.times.clear();
        self.times.extend(inputs.t.iter().map(|t| self.network.clock.at(*t)));
        let labels = match (self.network.null_class, inputs.labels) {
            (None, _) => null(),
            (Some(_), Some(labels)) => labels.as_ptr(),
            (Some(none), None) => {
                self.labels.clear();
                self.labels.resize(inputs.t.len(), none);
                self.labels.as_ptr()
            }
        };
        let Some(rows) = inputs.rows else {
            return Err(Error::new(Status::Internal, "samples of no run"));
        };
        let evaluation = psld_evaluation {
            struct_size: size_of::<psld_evaluation>(),
            n: inputs.t.len() as i64,
            dtype: states as i32,
            reserved: 0,
            z,
            z_elements,
            t: self.times.as_ptr(),
            labels,
            out,
            out_elements,
            message: self.message.as_mut_ptr().cast(),
            message_capacity: MESSAGE,
            indices: rows.indices.as_ptr(),
            tags: rows.tags.as_ptr(),
        };
        match (self.network.call)(self.network.user.pointer, &evaluation) {
            0 => Ok(()),
            value => {
                let text = self.message.split(|byte| *byte == 0).next().unwrap_or_default();
                let why = if text.is_empty() { "" } else { ": " };
                let text = String::from_utf8_lossy(text);
                let message = format!("the caller's network returned {value}{why}{text}");
                Err(Error::new(Status::RuntimeFailure, message))
            }
        }
    }
}
