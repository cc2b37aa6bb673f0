//! Defaults of the structs that no function of their own begins.

use super::guard::guard;
use super::structs::Struct;
use super::types::{psld_progress, psld_tensor};
use std::ptr::null_mut;

/// Sets `tensor` to one without data.
///
/// Threads: any.
///
/// @param[out] tensor       the struct.
/// @param[in]  struct_size  sizeof(psld_tensor).
/// @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER, or PSLD_STATUS_INVALID_ARGUMENT for another size.
#[unsafe(no_mangle)]
pub extern "C" fn psld_tensor_init(tensor: *mut psld_tensor, struct_size: usize) -> i32 {
    guard(null_mut(), || psld_tensor::init(tensor, struct_size))
}

/// Sets `progress` to the state before the first step: all zero, not done.
///
/// Threads: any.
///
/// @param[out] progress     the struct.
/// @param[in]  struct_size  sizeof(psld_progress).
/// @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER, or PSLD_STATUS_INVALID_ARGUMENT for another size.
#[unsafe(no_mangle)]
pub extern "C" fn psld_progress_init(progress: *mut psld_progress, struct_size: usize) -> i32 {
    guard(null_mut(), || psld_progress::init(progress, struct_size))
}
