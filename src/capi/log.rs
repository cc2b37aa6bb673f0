//! What the library has to say to people, where they asked for it.

use super::guard::guard;
use super::types::psld_log;
use crate::fork::PerProcess;
use crate::{Error, Result, Status};
use std::cell::Cell;
use std::ffi::{CString, c_char, c_void};
use std::ptr::null_mut;

/// Receives a message: `message` is one line of UTF-8 that lives through the call. Called on the thread that has
/// something to say, on several at once if need be. It must return: no exception, no longjmp.
pub type psld_log_callback = Option<extern "C" fn(user: *mut c_void, level: i32, message: *const c_char)>;

#[derive(Clone)]
struct Sink {
    level: i32,
    callback: extern "C" fn(*mut c_void, i32, *const c_char),
    user: *mut c_void,
}

// SAFETY: `user` is the caller's, who was told that the callback is called on any thread.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

static SINK: PerProcess<Option<Sink>> = PerProcess::new();

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Sends messages to `callback`, for the whole process; without one the library says nothing. When this returns, the
/// callback set before is not running and will not be called again.
///
/// Threads: any; not from inside of the callback (PSLD_STATUS_BUSY).
///
/// @param[in] level     the most detailed level wanted, one of psld_log.
/// @param[in] callback  receives messages of that level and below; NULL: none.
/// @param[in] user      passed to the callback.
/// @return PSLD_STATUS_OK, PSLD_STATUS_INVALID_ARGUMENT or PSLD_STATUS_BUSY.
#[unsafe(no_mangle)]
pub extern "C" fn psld_set_log_callback(level: i32, callback: psld_log_callback, user: *mut c_void) -> i32 {
    guard(null_mut(), || set(level, callback, user))
}

fn set(level: i32, callback: psld_log_callback, user: *mut c_void) -> Result<()> {
    if !(psld_log::Off as i32..=psld_log::Debug as i32).contains(&level) {
        return Err(Error::argument(format!("level = {level}: expected a value of psld_log")));
    }
    if INSIDE.get() {
        return Err(Error::new(Status::Busy, "the log callback cannot be replaced from inside of itself"));
    }
    let sink = callback.map(|callback| Sink { level, callback, user });
    #[cfg(feature = "onnxruntime")]
    forward_onnxruntime(sink.is_some());
    forward_warnings(sink.is_some());
    *SINK.write() = sink;
    Ok(())
}

#[cfg(feature = "onnxruntime")]
fn forward_onnxruntime(wanted: bool) {
    use crate::network::onnxruntime::{LogLevel, LogSink, set_log_sink};
    let sink: LogSink = std::sync::Arc::new(|level, message| {
        let level = match level {
            LogLevel::Error => psld_log::Error,
            LogLevel::Warning => psld_log::Warn,
            LogLevel::Info => psld_log::Debug,
        };
        emit(level, || format!("ONNX Runtime: {message}"));
    });
    set_log_sink(wanted.then_some(sink));
}

/// Warnings of the core.
fn forward_warnings(wanted: bool) {
    let sink: crate::log::Sink = std::sync::Arc::new(|message| emit(psld_log::Warn, || message.to_owned()));
    crate::log::set_sink(wanted.then_some(sink));
}

/// Says something, if anyone listens. What is said while the callback runs on this thread is lost.
pub fn emit(level: psld_log, message: impl FnOnce() -> String) {
    if INSIDE.get() {
        return;
    }
    let sink = SINK.read();
    let Some(sink) = sink.as_ref().filter(|sink| level as i32 <= sink.level) else { return };
    let line = message().replace(['\n', '\0'], " ");
    let Ok(line) = CString::new(line) else { return };
    INSIDE.set(true);
    (sink.callback)(sink.user, level as i32, line.as_ptr());
    INSIDE.set(false);
}
