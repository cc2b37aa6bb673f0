//! What this library is.

use super::guard::guard_value;
use super::handle;
use crate::Status;
use std::ffi::{CStr, c_char};

/// The version of the C ABI that this header describes. It grows when functions or fields are appended; a program
/// runs with any library whose psld_abi_version() is at least the one that it was compiled with.
pub const PSLD_ABI_VERSION: i32 = 1;

/// The library's version, such as "0.1.0".
///
/// Threads: any.
///
/// @return a static string, never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn psld_version() -> *const c_char {
    guard_value(c"".as_ptr(), || concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast())
}

/// The version of the library's C ABI; compare it with PSLD_ABI_VERSION where the library is loaded at run time.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn psld_abi_version() -> i32 {
    guard_value(0, || PSLD_ABI_VERSION)
}

/// The name of a status, such as "PSLD_STATUS_INVALID_ARGUMENT".
///
/// Threads: any.
///
/// @param[in] status  any number.
/// @return a static string, never NULL; "PSLD_STATUS_UNKNOWN" for a number that this version does not know.
#[unsafe(no_mangle)]
pub extern "C" fn psld_status_name(status: i32) -> *const c_char {
    guard_value(c"PSLD_STATUS_UNKNOWN".as_ptr(), || {
        status_name(status).unwrap_or(c"PSLD_STATUS_UNKNOWN").as_ptr()
    })
}

/// The number of handles that this process gave out and that were not freed yet, for leak checks in tests.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn psld_debug_live_handles() -> usize {
    guard_value(0, handle::live)
}

macro_rules! status_names {
    ($($status:ident $name:literal,)*) => {
        fn status_name(number: i32) -> Option<&'static CStr> {
            // A status without a name does not compile.
            const _: fn(Status) = |status| match status { $(Status::$status => {})* };
            match number {
                $(n if n == Status::$status as i32 => Some($name),)*
                _ => None,
            }
        }
    };
}

status_names! {
    Ok c"PSLD_STATUS_OK",
    InvalidArgument c"PSLD_STATUS_INVALID_ARGUMENT",
    NullPointer c"PSLD_STATUS_NULL_POINTER",
    InvalidHandle c"PSLD_STATUS_INVALID_HANDLE",
    BufferTooSmall c"PSLD_STATUS_BUFFER_TOO_SMALL",
    InvalidUtf8 c"PSLD_STATUS_INVALID_UTF8",
    InvalidConfig c"PSLD_STATUS_INVALID_CONFIG",
    ShapeMismatch c"PSLD_STATUS_SHAPE_MISMATCH",
    MemoryLimit c"PSLD_STATUS_MEMORY_LIMIT",
    ReadFailed c"PSLD_STATUS_READ_FAILED",
    WriteFailed c"PSLD_STATUS_WRITE_FAILED",
    Unsupported c"PSLD_STATUS_UNSUPPORTED",
    Forked c"PSLD_STATUS_FORKED",
    ModelInvalid c"PSLD_STATUS_MODEL_INVALID",
    SpecMissing c"PSLD_STATUS_SPEC_MISSING",
    SpecInvalid c"PSLD_STATUS_SPEC_INVALID",
    ModelMismatch c"PSLD_STATUS_MODEL_MISMATCH",
    RuntimeNotFound c"PSLD_STATUS_RUNTIME_NOT_FOUND",
    RuntimeIncompatible c"PSLD_STATUS_RUNTIME_INCOMPATIBLE",
    RuntimeConflict c"PSLD_STATUS_RUNTIME_CONFLICT",
    ProviderUnavailable c"PSLD_STATUS_PROVIDER_UNAVAILABLE",
    RuntimeFailure c"PSLD_STATUS_RUNTIME_FAILURE",
    NonFinite c"PSLD_STATUS_NON_FINITE",
    Numeric c"PSLD_STATUS_NUMERIC",
    MaxNfe c"PSLD_STATUS_MAX_NFE",
    Cancelled c"PSLD_STATUS_CANCELLED",
    Busy c"PSLD_STATUS_BUSY",
    DeadlineExceeded c"PSLD_STATUS_DEADLINE_EXCEEDED",
    RunState c"PSLD_STATUS_RUN_STATE",
    CheckpointInvalid c"PSLD_STATUS_CHECKPOINT_INVALID",
    Partial c"PSLD_STATUS_PARTIAL",
    QueueFull c"PSLD_STATUS_QUEUE_FULL",
    Internal c"PSLD_STATUS_INTERNAL",
    Panic c"PSLD_STATUS_PANIC",
    OutOfMemory c"PSLD_STATUS_OUT_OF_MEMORY",
}
