//! Numbers that results can be read as.

use super::Buffer;
use crate::{Error, Result, Status};
use std::ops::Range;

/// A buffer of another length than the result's is a mistake, too, where it is longer: of type or shape.
pub(crate) fn fits(len: usize, wanted: u128) -> Result<()> {
    if len as u128 == wanted {
        return Ok(());
    }
    let status = if (len as u128) < wanted { Status::BufferTooSmall } else { Status::InvalidArgument };
    Err(Error::new(status, format!("expected a buffer of {wanted} elements, got {len}")))
}

/// A type that results can be read as.
pub trait Element: Copy + Default + sealed::Copied {}
impl Element for f32 {}
impl Element for f64 {}

mod sealed {
    use super::{Buffer, Range};
    use crate::array::Values;

    pub trait Copied: Sized {
        #[allow(private_interfaces)]
        fn copy(from: &Buffer, range: Range<usize>, to: &mut [Self]);
        fn values(of: &[Self]) -> Values<'_>;
    }
    macro_rules! copied {
        ($t:ty, $variant:ident) => {
            impl Copied for $t {
                #[allow(private_interfaces)]
                fn copy(from: &Buffer, range: Range<usize>, to: &mut [Self]) {
                    match from {
                        Buffer::F32(v) => to.iter_mut().zip(&v[range]).for_each(|(o, x)| *o = *x as $t),
                        Buffer::F64(v) => to.iter_mut().zip(&v[range]).for_each(|(o, x)| *o = *x as $t),
                    }
                }
                fn values(of: &[Self]) -> Values<'_> {
                    Values::$variant(of)
                }
            }
        };
    }
    copied!(f32, F32);
    copied!(f64, F64);
}
