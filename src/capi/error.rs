//! Errors as C reads them.

use super::error_text::ErrorText;
use super::guard::{guard, guard_value};
use super::handle;
use super::types::psld_error;
use crate::Status;
use std::ffi::{CStr, c_char};
use std::ptr::null_mut;

/// The status that the failed call returned.
///
/// Threads: any.
///
/// @param[in] error  an error.
/// @return that status, or PSLD_STATUS_NULL_POINTER or PSLD_STATUS_INVALID_HANDLE where `error` is none.
#[unsafe(no_mangle)]
pub extern "C" fn psld_error_status(error: *const psld_error) -> i32 {
    guard_value(Status::Panic as i32, || {
        handle::get(error, "error").map_or_else(|e| e.status() as i32, |e| e.status as i32)
    })
}

/// What went wrong: what, where, expected and got. UTF-8, without a final newline.
///
/// Threads: any.
///
/// @param[in] error  an error.
/// @return a string that lives until psld_error_free; never NULL ("" where `error` is no error).
#[unsafe(no_mangle)]
pub extern "C" fn psld_error_message(error: *const psld_error) -> *const c_char {
    guard_value(c"".as_ptr(), || text(error, |error| &error.message))
}

/// What can be done about it.
///
/// Threads: any.
///
/// @param[in] error  an error.
/// @return a string that lives until psld_error_free; never NULL ("" where there is no advice).
#[unsafe(no_mangle)]
pub extern "C" fn psld_error_hint(error: *const psld_error) -> *const c_char {
    guard_value(c"".as_ptr(), || text(error, |error| &error.hint))
}

/// Frees an error.
///
/// Threads: any.
///
/// @param[in] error  an error, or NULL.
/// @return PSLD_STATUS_OK or PSLD_STATUS_INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn psld_error_free(error: *mut psld_error) -> i32 {
    guard(null_mut(), || handle::release(error, "error"))
}

/// The pointer outlives the clone that it is taken from: the table holds the error until it is freed.
fn text(error: *const psld_error, of: impl FnOnce(&ErrorText) -> &CStr) -> *const c_char {
    handle::get(error, "error").map_or(c"".as_ptr(), |error| of(&error).as_ptr())
}
