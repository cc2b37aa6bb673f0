//! Numbers in either precision: what callers give and read, what networks see, and what runs compute in.

mod buffer;
mod element;
mod range;
mod tensor;

pub(crate) use buffer::{Buffer, Float, Spare, gather};
pub use element::Element;
pub(crate) use element::fits;
pub(crate) use range::warn_of_known;
pub use range::warn_of_range;
pub use tensor::Tensor;

use std::ops::Range;

/// The floating-point type of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// Double precision.
    F64,
}

/// Values of either precision, read.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Double precision.
    F64(&'a [f64]),
}

impl<'a> Values<'a> {
    /// The number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of the values; panics where `range` exceeds them, as slices do.
    pub fn slice(&self, range: Range<usize>) -> Values<'a> {
        match self {
            Self::F32(values) => Values::F32(&values[range]),
            Self::F64(values) => Values::F64(&values[range]),
        }
    }
}

/// Values of either precision, written.
#[derive(Debug)]
pub enum ValuesMut<'a> {
    /// Single precision.
    F32(&'a mut [f32]),
    /// Double precision.
    F64(&'a mut [f64]),
}
