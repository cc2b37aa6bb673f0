//! Structs of the ABI, which grow from version to version.

use crate::{Error, Result, Status};
use std::mem::size_of;

pub fn null(name: &str) -> Error {
    Error::new(Status::NullPointer, format!("{name} is NULL"))
}

/// A struct of the ABI: `repr(C)`, its first field is its size, and every bit pattern is a value.
///
/// # Safety
/// An implementor has this layout, and consists of integers, floats and raw pointers only.
pub unsafe trait Struct: Copy {
    const NAME: &str;
    /// Its size when it was first released.
    const LEAST: usize;
    fn defaults() -> Self;

    /// Fills the caller's struct with the defaults.
    fn init(place: *mut Self, struct_size: usize) -> Result<()> {
        if place.is_null() {
            return Err(null(Self::NAME));
        }
        Self::check_size(struct_size)?;
        let mut defaults = Self::defaults();
        // SAFETY: the caller says that its struct has `struct_size` bytes; of the library's own as many are read as
        // there are. The first field of both is the size.
        unsafe {
            place.cast::<u8>().write_bytes(0, struct_size);
            (&raw mut defaults).cast::<usize>().write(struct_size);
            Self::copy(&defaults, place, struct_size);
        }
        Ok(())
    }

    /// Reads the caller's struct, whose fields may be fewer or more than those known here.
    fn read(place: *const Self) -> Result<Self> {
        if place.is_null() {
            return Err(null(Self::NAME));
        }
        let mut own = Self::defaults();
        // SAFETY: not NULL; the first field is the size of what the caller has.
        unsafe {
            let struct_size = place.cast::<usize>().read_unaligned();
            Self::check_size(struct_size)?;
            Self::copy(place, &mut own, struct_size);
        }
        Ok(own)
    }

    /// Writes the caller's struct, which keeps its size.
    fn write(mut self, place: *mut Self) -> Result<()> {
        // SAFETY: as in `read`.
        unsafe {
            let struct_size = place.cast::<usize>().read_unaligned();
            Self::check_size(struct_size)?;
            (&raw mut self).cast::<usize>().write(struct_size);
            Self::copy(&self, place, struct_size);
        }
        Ok(())
    }

    /// Whether the caller's struct can be written.
    fn check(place: *const Self) -> Result<()> {
        if place.is_null() { Ok(()) } else { Self::read(place).map(drop) }
    }

    fn check_size(struct_size: usize) -> Result<()> {
        // More than a page is no struct of a later version but memory that was never set, and no compiler makes a size
        // that is no multiple of the alignment.
        if (Self::LEAST..=4096).contains(&struct_size) && struct_size.is_multiple_of(align_of::<Self>()) {
            return Ok(());
        }
        let name = Self::NAME;
        Err(Error::argument(format!(
            "{name}.struct_size = {struct_size}: expected sizeof({name}), at least {}",
            Self::LEAST
        ))
        .hint(format!("set it with {name}_init")))
    }

    /// # Safety
    /// Both hold the lesser of `struct_size` and the size of `Self` in bytes.
    unsafe fn copy(from: *const Self, to: *mut Self, struct_size: usize) {
        let bytes = struct_size.min(size_of::<Self>());
        // SAFETY: promised by the caller of this function; the two are never the same object.
        unsafe { to.cast::<u8>().copy_from_nonoverlapping(from.cast(), bytes) }
    }
}
