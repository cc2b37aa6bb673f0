//! ONNX Runtime.

use super::convert::{self, Out};
use super::guard::guard;
use super::handle;
use super::log;
use super::types::{psld_error, psld_log, psld_runtime};
use crate::Result;
use std::ffi::c_char;
use std::path::Path;
use std::ptr::null_mut;

/// Loads ONNX Runtime, which executes ONNX models. It is loaded once and stays until the process ends; further
/// calls return further handles of it.
///
/// With `path` NULL these places are looked at, and the first that names a library decides: the environment variables
/// PSLD_ONNXRUNTIME and ORT_DYLIB_PATH, the folder of this library, the system's loader.
///
/// ONNX Runtime 1.29 and later write below the home folder and send events to its makers as soon as they are loaded. So this
/// sets the environment variable ORT_DISABLE_TELEMETRY to 1 just before, unless it is set to anything (also to nothing)
/// already. setenv() races with another thread's getenv(): a host whose threads read the environment at that time exports
/// the variable itself, before it starts them, and then nothing is set here.
///
/// Threads: any.
///
/// @param[in]  path  file of the library (libonnxruntime.so), UTF-8, or NULL.
/// @param[out] out   the runtime; free it with psld_runtime_free.
/// @param[out] err   NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_RUNTIME_NOT_FOUND (the message names every place looked at),
///         PSLD_STATUS_RUNTIME_INCOMPATIBLE (no ONNX Runtime, or too old), PSLD_STATUS_RUNTIME_CONFLICT (another one is
///         loaded already), PSLD_STATUS_UNSUPPORTED (a build without ONNX Runtime).
#[unsafe(no_mangle)]
pub extern "C" fn psld_runtime_load(
    path: *const c_char,
    out: *mut *mut psld_runtime,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let out = Out::new(out, "out")?;
        let runtime = load(convert::optional_path(path, "path")?)?;
        log::emit(psld_log::Info, || format!("loaded ONNX Runtime: {}", info(&runtime)));
        out.set(handle::create(runtime)?);
        Ok(())
    })
}

/// Version, file and execution providers of ONNX Runtime, as a JSON object. Size-query form.
///
/// Threads: any.
///
/// @param[in]  runtime   a runtime.
/// @param[out] buffer    receives the text with its NUL; or NULL.
/// @param[in]  capacity  bytes in `buffer`; 0 with NULL.
/// @param[out] needed    NULL, or receives the bytes needed, the NUL included.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, or an error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_runtime_info_json(
    runtime: *const psld_runtime,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let runtime = handle::get(runtime, "runtime")?;
        convert::put_text(&info(&runtime), buffer, capacity, needed)
    })
}

/// Frees the handle of a runtime. ONNX Runtime itself, and models that use it, stay.
///
/// Threads: any.
///
/// @param[in] runtime  a runtime, or NULL.
/// @return PSLD_STATUS_OK or PSLD_STATUS_INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn psld_runtime_free(runtime: *mut psld_runtime) -> i32 {
    guard(null_mut(), || handle::release(runtime, "runtime"))
}

#[cfg(feature = "onnxruntime")]
fn load(path: Option<&Path>) -> Result<handle::Runtime> {
    crate::network::onnxruntime::Runtime::load(path)
}

#[cfg(not(feature = "onnxruntime"))]
fn load(_: Option<&Path>) -> Result<handle::Runtime> {
    Err(crate::Error::new(crate::Status::Unsupported, "this build of psld has no ONNX Runtime support")
        .hint("build with the feature `onnxruntime`"))
}

#[cfg(feature = "onnxruntime")]
fn info(runtime: &handle::Runtime) -> String {
    serde_json::json!({
        "version": runtime.version(),
        "library": runtime.library_path(),
        "providers": runtime.providers(),
    })
    .to_string()
}

#[cfg(not(feature = "onnxruntime"))]
fn info(runtime: &handle::Runtime) -> String {
    match *runtime {}
}
