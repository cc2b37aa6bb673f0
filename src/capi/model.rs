//! Models.

use super::convert::{self, Out};
use super::guard::guard;
use super::structs::Struct;
use super::types::{psld_error, psld_log, psld_model, psld_runtime, psld_tensor};
use super::{handle, log};
use crate::{Error, Model, ModelOptions, ModelSpec, Result, Status, run};
use std::ffi::{c_char, c_void};
use std::mem::{offset_of, size_of};
use std::ptr::{null, null_mut};

/// How a model is loaded. Fill it with psld_model_options_init, then change what you need.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct psld_model_options {
    /// sizeof(psld_model_options); set by psld_model_options_init.
    pub struct_size: usize,
    /// A spec (JSON) that replaces the one in the file, for networks exported by others; default NULL: the file's.
    pub spec_json: *const c_char,
    /// Execution providers in order of preference, such as "cuda" or "cuda,cpu", by these names or by ONNX
    /// Runtime's ("CUDAExecutionProvider"); default NULL: "cpu". The model runs on
    /// the first, or loading fails: a fallback is only what is listed behind it.
    pub providers: *const c_char,
    /// Which device of the provider; default 0.
    pub device: i32,
    /// Threads for network and solver, which take turns, 1 to 1024; default 0: all CPUs that this process may use.
    /// 1 starts none: all is computed on the threads that call. (ONNX Runtime may keep one asleep for its environment.)
    pub threads: i32,
    /// Network calls that may be in flight at once, for several runs on one model, 1 to 1024; others wait for their
    /// turn; default 0: 1. More than one needs the provider "cpu", and pays where `threads` is less than the CPUs.
    pub concurrent_calls: i32,
}

// SAFETY: `repr(C)`, size first, then pointers and integers.
unsafe impl Struct for psld_model_options {
    const NAME: &str = "psld_model_options";
    // What follows was appended.
    const LEAST: usize = offset_of!(Self, concurrent_calls);
    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            spec_json: null(),
            providers: null(),
            device: 0,
            threads: 0,
            concurrent_calls: 0,
        }
    }
}

/// Fills `options` with the defaults.
///
/// Threads: any.
///
/// @param[out] options      the struct.
/// @param[in]  struct_size  sizeof(psld_model_options).
/// @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER, or PSLD_STATUS_INVALID_ARGUMENT for another size.
#[unsafe(no_mangle)]
pub extern "C" fn psld_model_options_init(options: *mut psld_model_options, struct_size: usize) -> i32 {
    guard(null_mut(), || psld_model_options::init(options, struct_size))
}

/// Loads a model: an ONNX file with a `psld.spec` in its metadata, or, with the extension .json, the exact network of a
/// Gaussian mixture, which needs no ONNX Runtime.
///
/// Threads: any.
///
/// @param[in]  runtime  a runtime; or NULL for the one that is loaded already, or that psld_runtime_load(NULL)
///                      would find.
/// @param[in]  path     the file, UTF-8. External data of an ONNX model is looked for beside it; files that are
///                      missing or too short are PSLD_STATUS_READ_FAILED.
/// @param[in]  options  NULL for the defaults.
/// @param[out] out      the model; free it with psld_model_free.
/// @param[out] err      NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_READ_FAILED, a 2xx status for the model or its spec, a 3xx status for the
///         runtime or a provider, or another error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_model_load_file(
    runtime: *const psld_runtime,
    path: *const c_char,
    options: *const psld_model_options,
    out: *mut *mut psld_model,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let out = Out::new(out, "out")?;
        handle::get_optional(runtime, "runtime")?;
        let path = convert::path(path, "path")?;
        let model = Model::from_file(path, read(options)?)?;
        log::emit(psld_log::Info, || format!("loaded {}: {}", path.display(), what_runs(&model)));
        out.set(handle::create(model)?);
        Ok(())
    })
}

/// Loads a model from memory; as psld_model_load_file, but an ONNX model cannot have external data
/// (PSLD_STATUS_MODEL_INVALID).
///
/// Threads: any.
///
/// @param[in]  runtime  a runtime or NULL, as in psld_model_load_file.
/// @param[in]  bytes    the content of the file; not needed any more after the call.
/// @param[in]  size     its number of bytes.
/// @param[in]  options  NULL for the defaults.
/// @param[out] out      the model; free it with psld_model_free.
/// @param[out] err      NULL, or receives the error.
/// @return as psld_model_load_file.
#[unsafe(no_mangle)]
pub extern "C" fn psld_model_load_memory(
    runtime: *const psld_runtime,
    bytes: *const c_void,
    size: usize,
    options: *const psld_model_options,
    out: *mut *mut psld_model,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let out = Out::new(out, "out")?;
        handle::get_optional(runtime, "runtime")?;
        let bytes = convert::slice(bytes.cast::<u8>(), size, "bytes")?;
        let model = Model::from_bytes(bytes, read(options)?)?;
        log::emit(psld_log::Info, || format!("loaded a model of {size} bytes: {}", what_runs(&model)));
        out.set(handle::create(model)?);
        Ok(())
    })
}

/// All about a model, as a JSON object: `spec` (with the defaults filled in), `given` (the spec as it was given, of which
/// hashes are), `k` (blocks of a state), `backend` (what runs it: name, version, the provider really used, library) and `hash`
/// (SHA-256 of the model; with external data, of the hashes of its files). Size-query form.
///
/// Threads: any.
///
/// @param[in]  model     a model.
/// @param[out] buffer    receives the text with its NUL; or NULL.
/// @param[in]  capacity  bytes in `buffer`; 0 with NULL.
/// @param[out] needed    NULL, or receives the bytes needed, the NUL included.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, or an error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_model_info_json(
    model: *const psld_model,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let model = handle::get(model, "model")?;
        let info = serde_json::json!({
            "spec": model.spec().filled(),
            "given": model.spec(),
            "k": model.spec().process()?.k(),
            "backend": model.backend(),
            "hash": model.hash()?,
        });
        convert::put_text(&info.to_string(), buffer, capacity, needed)
    })
}

/// The shape of one sample. Size-query form.
///
/// Threads: any.
///
/// @param[in]  model     a model.
/// @param[in]  what      PSLD_OUTPUT_DATA for [C, ...], PSLD_OUTPUT_STATE for [k*C, ...].
/// @param[out] shape     receives the sizes; or NULL. There are at most 8.
/// @param[in]  capacity  elements of `shape`; 0 with NULL.
/// @param[out] ndim      NULL, or receives the number of sizes.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, or an error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_model_shape(
    model: *const psld_model,
    what: i32,
    shape: *mut i64,
    capacity: usize,
    ndim: *mut usize,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let what = convert::what(what)?;
        let model = handle::get(model, "model")?;
        convert::put_sizes(&model.sample_shape(what)?, shape, capacity, ndim)
    })
}

/// Latents on the way through others, by spherical interpolation of each block (position, momentum) in the coordinates in
/// which the prior is white.
///
/// Threads: any.
///
/// @param[in]  model     the model.
/// @param[in]  latents   states [m, k*C, ...], such as a sampler compiled with `encode` makes them.
/// @param[in]  at        `n` places on the way: p is between latents floor(p) and floor(p) + 1, 0 to m - 1; a whole number is
///                       that latent itself.
/// @param[in]  n         the number of places.
/// @param[in]  dtype     type of the buffer's elements, one of psld_dtype.
/// @param[out] buffer    receives [n, k*C, ...], row-major: initial states for psld_run_options.init.
/// @param[in]  elements  elements (not bytes) of `buffer`: exactly the product of that shape.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_SHAPE_MISMATCH, PSLD_STATUS_INVALID_ARGUMENT for a place outside of the way,
///         PSLD_STATUS_NUMERIC between opposite latents, or another error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_model_interpolate(
    model: *const psld_model,
    latents: *const psld_tensor,
    at: *const f64,
    n: usize,
    dtype: i32,
    buffer: *mut c_void,
    elements: usize,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let model = handle::get(model, "model")?;
        let at = convert::slice(at, n, "at")?;
        let Some(latents) = convert::tensor(latents, "latents")? else {
            return Err(Error::new(Status::NullPointer, "latents is NULL"));
        };
        let made = run::interpolate(model.spec(), &latents, at)?;
        match convert::buffer(buffer, dtype, elements)? {
            convert::Buffer::F32(out) => made.copy_into(out),
            convert::Buffer::F64(out) => made.copy_into(out),
        }
    })
}

/// Frees a model. Runs that use it go on.
///
/// Threads: any.
///
/// @param[in] model  a model, or NULL.
/// @return PSLD_STATUS_OK or PSLD_STATUS_INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn psld_model_free(model: *mut psld_model) -> i32 {
    guard(null_mut(), || handle::release(model, "model"))
}

/// Gives a model made in Rust (with a network of your own, say) to C callers in the same process, who free it with
/// `psld_model_free`.
///
/// # Errors
/// [`crate::Status::OutOfMemory`] where there are too many handles.
pub fn share_model(model: Model) -> Result<*mut psld_model> {
    handle::create(model)
}

pub(super) fn read(options: *const psld_model_options) -> Result<ModelOptions> {
    let options = if options.is_null() { Struct::defaults() } else { psld_model_options::read(options)? };
    let spec = convert::optional_text(options.spec_json, "spec_json")?;
    Ok(ModelOptions {
        spec: spec.map(ModelSpec::parse).transpose()?,
        #[cfg(feature = "onnxruntime")]
        providers: convert::optional_text(options.providers, "providers")?
            .map_or(Ok(Vec::new()), providers)?,
        device: options.device,
        threads: convert::count(options.threads, "threads")?.unwrap_or(0),
        concurrent_calls: convert::count(options.concurrent_calls, "concurrent_calls")?.unwrap_or(1),
    })
}

#[cfg(feature = "onnxruntime")]
fn providers(names: &str) -> Result<Vec<crate::network::onnxruntime::Provider>> {
    names.split(',').map(|name| name.trim().parse()).collect()
}

fn what_runs(model: &Model) -> String {
    let backend = model.backend();
    format!("{} {} on {}", backend.name, backend.version, backend.provider)
}
