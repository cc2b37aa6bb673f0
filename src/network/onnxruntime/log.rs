//! What ONNX Runtime has to say besides its errors.

use crate::fork::PerProcess;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// How serious a message of ONNX Runtime is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LogLevel {
    /// Details.
    Info,
    /// Something unexpected that ONNX Runtime coped with.
    Warning,
    /// A failure, which is also returned as an error.
    Error,
}

/// Receives messages, on whatever thread they arise. A panic in it is caught and the message lost.
pub type LogSink = Arc<dyn Fn(LogLevel, &str) + Send + Sync>;

static SINK: PerProcess<Option<LogSink>> = PerProcess::new();

/// Sends ONNX Runtime's warnings and errors to `sink` from now on, for the whole process; `None`, the state at the
/// start, drops them. Any thread, at any time.
pub fn set_log_sink(sink: Option<LogSink>) {
    *SINK.write() = sink;
}

/// The logging function that ONNX Runtime calls.
pub(super) extern "system" fn receive(
    _: *mut c_void,
    severity: ort_sys::OrtLoggingLevel,
    _category: *const c_char,
    _id: *const c_char,
    _location: *const c_char,
    message: *const c_char,
) {
    // Cloned so that no lock is held while foreign code runs.
    let sink = SINK.read().clone();
    let Some(sink) = sink else { return };
    if message.is_null() {
        return;
    }
    use ort_sys::OrtLoggingLevel::*;
    let level = match severity {
        ORT_LOGGING_LEVEL_VERBOSE | ORT_LOGGING_LEVEL_INFO => LogLevel::Info,
        ORT_LOGGING_LEVEL_WARNING => LogLevel::Warning,
        ORT_LOGGING_LEVEL_ERROR | ORT_LOGGING_LEVEL_FATAL => LogLevel::Error,
    };
    // SAFETY: ONNX Runtime passes a NUL-terminated string that lives through the call.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    // Unwinding must not reach the C++ frames below.
    let _ = catch_unwind(AssertUnwindSafe(|| sink(level, &text)));
}
