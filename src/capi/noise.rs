//! Noise that anyone can reproduce.

use super::convert::{self, Buffer};
use super::guard::guard;
use super::types::{psld_error, psld_noise};
use crate::noise::{self, Purpose};
use crate::{Error, Result};
use std::ffi::c_void;

/// Writes the standard normals that a sample of this seed meets: a pure function of seed, purpose, draw and element
/// (Philox4x32-10 and Box-Muller), the same for every batch, thread count, processor and language.
///
/// Threads: any.
///
/// @param[in]  seed      the sample's seed.
/// @param[in]  purpose   one of psld_noise.
/// @param[in]  draw      which draw, counted from 0 within the purpose.
/// @param[in]  first     first element: a flat index into one sample's whole state, k*C*...
/// @param[in]  dtype     one of psld_dtype; F32 is F64 rounded once.
/// @param[out] buffer    receives elements first, first + 1, ...
/// @param[in]  elements  number of elements of `buffer`; first + elements is at most 2^34.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_INVALID_ARGUMENT or PSLD_STATUS_NULL_POINTER.
#[unsafe(no_mangle)]
pub extern "C" fn psld_noise_fill(
    seed: u64,
    purpose: i32,
    draw: u32,
    first: u64,
    dtype: i32,
    buffer: *mut c_void,
    elements: usize,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let purpose = self::purpose(purpose)?;
        if first.checked_add(elements as u64).is_none_or(|end| end > noise::MAX_ELEMENTS) {
            return Err(Error::argument(format!(
                "first = {first}, elements = {elements}: expected at most {} in all",
                noise::MAX_ELEMENTS
            )));
        }
        match convert::buffer(buffer, dtype, elements)? {
            Buffer::F32(out) => noise::fill_f32(seed, purpose, draw, first, out),
            Buffer::F64(out) => noise::fill_f64(seed, purpose, draw, first, out),
        }
        Ok(())
    })
}

fn purpose(purpose: i32) -> Result<Purpose> {
    const _: () = assert!(psld_noise::Prior as u32 == Purpose::Prior as u32);
    const _: () = assert!(psld_noise::Solver as u32 == Purpose::Solver as u32);
    const _: () = assert!(psld_noise::Inpaint as u32 == Purpose::Inpaint as u32);
    const _: () = assert!(psld_noise::Probe as u32 == Purpose::Probe as u32);
    Purpose::ALL
        .into_iter()
        .find(|known| *known as i32 == purpose)
        .ok_or_else(|| Error::argument(format!("purpose = {purpose}: expected a value of psld_noise")))
}
