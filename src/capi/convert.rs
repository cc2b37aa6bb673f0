//! From C to Rust and back. All dereferencing of the caller's pointers is here, behind the checks that are possible.

use super::structs::{Struct, null};
use super::types::{psld_dtype, psld_output, psld_tensor};
use crate::array::{Precision, Tensor};
use crate::spec::What;
use crate::{Error, Result, Status};
use ndarray::ArrayD;
use std::ffi::{CStr, c_char, c_void};
use std::path::Path;

/// A place that the caller wants a result written to. Checked before the work, written after it.
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    pub fn new(place: *mut T, name: &str) -> Result<Self> {
        if place.is_null() { Err(null(name)) } else { Ok(Self(place)) }
    }

    pub fn set(self, value: T) {
        // SAFETY: not NULL; that it points to room for a `T` is the caller's side of the contract.
        unsafe { self.0.write(value) }
    }
}

/// A string that may be NULL.
pub fn optional_text<'a>(text: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL; that it ends with a NUL and lives through the call is the caller's side of the contract.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|e| Error::new(Status::InvalidUtf8, format!("{name} is not UTF-8: {e}")))
}

/// A string.
pub fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str> {
    optional_text(text, name)?.ok_or_else(|| null(name))
}

/// A path that may be NULL.
pub fn optional_path<'a>(path: *const c_char, name: &str) -> Result<Option<&'a Path>> {
    Ok(optional_text(path, name)?.map(Path::new))
}

/// A path.
pub fn path<'a>(path: *const c_char, name: &str) -> Result<&'a Path> {
    text(path, name).map(Path::new)
}

/// Whether `len` elements of `T` can lie at `data`.
fn check_array<T>(data: *const T, len: usize, name: &str) -> Result<()> {
    if data.is_null() {
        return Err(null(name));
    }
    if !data.is_aligned() {
        return Err(Error::argument(format!(
            "{name}: the pointer is not aligned to {} bytes",
            align_of::<T>()
        )));
    }
    if len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Error::argument(format!("{name}: {len} elements are more than there can be")));
    }
    Ok(())
}

/// An array to read; NULL is an empty one.
pub fn slice<'a, T>(data: *const T, len: usize, name: &str) -> Result<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    check_array(data, len, name)?;
    // SAFETY: checked as far as possible; the rest is the caller's side of the contract.
    Ok(unsafe { std::slice::from_raw_parts(data, len) })
}

/// An array to write; NULL is an empty one.
fn slice_mut<'a, T>(data: *mut T, len: usize, name: &str) -> Result<&'a mut [T]> {
    if len == 0 {
        return Ok(&mut []);
    }
    check_array(data, len, name)?;
    // SAFETY: as above; it is the caller's alone during the call.
    Ok(unsafe { std::slice::from_raw_parts_mut(data, len) })
}

/// An array of a type that is known at run time, to write.
pub enum Buffer<'a> {
    F32(&'a mut [f32]),
    F64(&'a mut [f64]),
}

/// The caller's buffer of `elements` elements.
pub fn buffer<'a>(data: *mut c_void, dtype: i32, elements: usize) -> Result<Buffer<'a>> {
    if data.is_null() {
        return Err(null("buffer"));
    }
    Ok(match precision(dtype, "dtype")? {
        Precision::F32 => Buffer::F32(slice_mut(data.cast(), elements, "buffer")?),
        Precision::F64 => Buffer::F64(slice_mut(data.cast(), elements, "buffer")?),
    })
}

/// One of `psld_dtype`.
pub fn precision(dtype: i32, name: &str) -> Result<Precision> {
    const F32: i32 = psld_dtype::F32 as i32;
    const F64: i32 = psld_dtype::F64 as i32;
    match dtype {
        F32 => Ok(Precision::F32),
        F64 => Ok(Precision::F64),
        other => Err(Error::argument(format!("{name} = {other}: expected a value of psld_dtype"))),
    }
}

/// One of `psld_output`.
pub fn what(what: i32) -> Result<What> {
    const DATA: i32 = psld_output::Data as i32;
    const STATE: i32 = psld_output::State as i32;
    const X0: i32 = psld_output::X0 as i32;
    match what {
        DATA => Ok(What::Data),
        STATE => Ok(What::State),
        X0 => Ok(What::X0),
        other => Err(Error::argument(format!("what = {other}: expected a value of psld_output"))),
    }
}

/// 0 or 1.
pub fn flag(value: i32, name: &str) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Error::argument(format!("{name} = {other}: expected 0 or 1"))),
    }
}

/// A count where 0 means "not given".
pub fn count<T: TryFrom<i64>>(value: impl Into<i64>, name: &str) -> Result<Option<T>> {
    match value.into() {
        0 => Ok(None),
        value => T::try_from(value).map(Some).map_err(|_| {
            Error::argument(format!("{name} = {value}: expected a count, or 0 for the default"))
        }),
    }
}

/// A copy of the caller's array; `None` for NULL.
pub fn tensor(tensor: *const psld_tensor, name: &str) -> Result<Option<Tensor>> {
    if tensor.is_null() {
        return Ok(None);
    }
    let tensor = Struct::read(tensor)?;
    if !(1..=16).contains(&tensor.ndim) {
        return Err(Error::argument(format!("{name}: ndim = {}: expected 1 to 16", tensor.ndim)));
    }
    let dims = slice(tensor.shape, tensor.ndim as usize, &format!("{name}: shape"))?;
    let too_large = || Error::new(Status::ShapeMismatch, format!("{name}: shape {dims:?} is not possible"));
    let shape: Vec<usize> =
        dims.iter().map(|dim| usize::try_from(*dim)).collect::<Result<_, _>>().map_err(|_| too_large())?;
    let len = shape.iter().try_fold(1usize, |len, dim| len.checked_mul(*dim)).ok_or_else(too_large)?;
    fn copy<T: Clone>(data: *const c_void, len: usize, shape: Vec<usize>, name: &str) -> Result<ArrayD<T>> {
        let from = slice(data.cast::<T>(), len, &format!("{name}: data"))?;
        let mut values = Vec::new();
        values.try_reserve_exact(len).map_err(|e| {
            Error::new(Status::OutOfMemory, format!("{name}: {len} elements cannot be copied")).source(e)
        })?;
        values.extend_from_slice(from);
        ArrayD::from_shape_vec(shape, values).map_err(|e| Error::argument(format!("{name}: {e}")))
    }
    Ok(Some(match precision(tensor.dtype, &format!("{name}: dtype"))? {
        Precision::F32 => Tensor::F32(copy(tensor.data, len, shape, name)?),
        Precision::F64 => Tensor::F64(copy(tensor.data, len, shape, name)?),
    }))
}

/// Gives a text to the caller: the size-query form.
pub fn put_text(text: &str, buffer: *mut c_char, capacity: usize, needed: *mut usize) -> Result<()> {
    // A NUL can stand in a file's content only, and ends the text.
    let bytes = text.as_bytes().split(|byte| *byte == 0).next().unwrap_or_default();
    let size = bytes.len() + 1;
    if !needed.is_null() {
        // SAFETY: not NULL; room for a `size_t` is the caller's side of the contract.
        unsafe { needed.write(size) };
    }
    if buffer.is_null() {
        return if capacity == 0 { Ok(()) } else { Err(null("buffer")) };
    }
    let buffer = slice_mut(buffer.cast::<u8>(), capacity, "buffer")?;
    let Some(buffer) = buffer.get_mut(..size) else {
        return Err(Error::new(
            Status::BufferTooSmall,
            format!("buffer: {size} bytes are needed, it has {capacity}"),
        ));
    };
    buffer[..size - 1].copy_from_slice(bytes);
    buffer[size - 1] = 0;
    Ok(())
}

/// Gives bytes to the caller: the size-query form.
pub fn put_bytes(bytes: &[u8], buffer: *mut c_void, capacity: usize, needed: *mut usize) -> Result<()> {
    if !needed.is_null() {
        // SAFETY: not NULL; room for a `size_t` is the caller's side of the contract.
        unsafe { needed.write(bytes.len()) };
    }
    if buffer.is_null() {
        return if capacity == 0 { Ok(()) } else { Err(null("buffer")) };
    }
    let Some(buffer) = slice_mut(buffer.cast::<u8>(), capacity, "buffer")?.get_mut(..bytes.len()) else {
        let message = format!("buffer: {} bytes are needed, it has {capacity}", bytes.len());
        return Err(Error::new(Status::BufferTooSmall, message));
    };
    buffer.copy_from_slice(bytes);
    Ok(())
}

/// Gives sizes to the caller: the size-query form.
pub fn put_sizes(sizes: &[usize], buffer: *mut i64, capacity: usize, needed: *mut usize) -> Result<()> {
    if !needed.is_null() {
        // SAFETY: not NULL; room for a `size_t` is the caller's side of the contract.
        unsafe { needed.write(sizes.len()) };
    }
    if buffer.is_null() {
        return if capacity == 0 { Ok(()) } else { Err(null("shape")) };
    }
    let Some(buffer) = slice_mut(buffer, capacity, "shape")?.get_mut(..sizes.len()) else {
        let message = format!("shape: {} elements are needed, it has {capacity}", sizes.len());
        return Err(Error::new(Status::BufferTooSmall, message));
    };
    buffer.iter_mut().zip(sizes).for_each(|(to, size)| *to = *size as i64);
    Ok(())
}
