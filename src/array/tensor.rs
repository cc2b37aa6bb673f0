//! Arrays that callers give.

use super::element::fits;
use super::{Buffer, Element};
use crate::Result;
use ndarray::{ArrayD, ArrayViewD, Axis, Slice};
use std::ops::Range;

/// An array given by the caller, in either precision.
#[derive(Clone, Debug, PartialEq)]
pub enum Tensor {
    /// Single precision.
    F32(ArrayD<f32>),
    /// Double precision.
    F64(ArrayD<f64>),
}

impl Tensor {
    /// Its sizes.
    pub fn shape(&self) -> &[usize] {
        match self {
            Tensor::F32(a) => a.shape(),
            Tensor::F64(a) => a.shape(),
        }
    }

    pub(crate) fn element_size(&self) -> usize {
        match self {
            Tensor::F32(_) => size_of::<f32>(),
            Tensor::F64(_) => size_of::<f64>(),
        }
    }

    /// Copies the elements out, row-major, in another precision where `out` has one.
    ///
    /// # Errors
    /// [`Status::BufferTooSmall`](crate::Status::BufferTooSmall) or
    /// [`Status::InvalidArgument`](crate::Status::InvalidArgument) unless `out` has exactly the number of elements.
    pub fn copy_into<T: Element>(&self, out: &mut [T]) -> Result<()> {
        let len = self.shape().iter().product();
        fits(out.len(), len as u128)?;
        T::copy(&self.clone().into_buffer(), 0..len, out);
        Ok(())
    }

    /// Rows `range` of axis `axis`, copied.
    pub(crate) fn slice(&self, axis: usize, range: Range<usize>) -> Self {
        let range = Slice::from(range);
        match self {
            Tensor::F32(a) => Tensor::F32(a.slice_axis(Axis(axis), range).to_owned()),
            Tensor::F64(a) => Tensor::F64(a.slice_axis(Axis(axis), range).to_owned()),
        }
    }

    pub(crate) fn into_buffer(self) -> Buffer {
        match self {
            Tensor::F32(a) => Buffer::F32(flat(a)),
            Tensor::F64(a) => Buffer::F64(flat(a)),
        }
    }

    /// The elements, row-major, in single precision.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Tensor::F32(a) => flat(a),
            Tensor::F64(a) => a.iter().map(|x| *x as f32).collect(),
        }
    }

    /// Writes the elements in row-major order into a buffer of the same length.
    pub(crate) fn copy_to(&self, out: &mut Buffer) {
        fn copy<A: Copy, B>(from: ArrayViewD<'_, A>, to: &mut [B], convert: impl Fn(A) -> B) {
            to.iter_mut().zip(&from).for_each(|(o, x)| *o = convert(*x));
        }
        match (self, out) {
            (Tensor::F32(a), Buffer::F32(o)) => copy(a.view(), o, |x| x),
            (Tensor::F32(a), Buffer::F64(o)) => copy(a.view(), o, f64::from),
            (Tensor::F64(a), Buffer::F32(o)) => copy(a.view(), o, |x| x as f32),
            (Tensor::F64(a), Buffer::F64(o)) => copy(a.view(), o, |x| x),
        }
    }

    /// A mask [n or 1, 1 or C, ...] as [n or 1, C, ...], row-major. The shape has been checked.
    pub(crate) fn broadcast_mask(self, data_shape: &[usize]) -> Vec<f32> {
        let mut shape = vec![self.shape()[0]];
        shape.extend(data_shape);
        let mask = match self {
            Tensor::F32(a) => a,
            Tensor::F64(a) => a.mapv(|x| x as f32),
        };
        match mask.broadcast(shape) {
            Some(view) => view.iter().copied().collect(),
            None => unreachable!("the mask's shape was checked"),
        }
    }

    pub(crate) fn all(&self, rule: impl Fn(f64) -> bool) -> bool {
        self.find(|x| !rule(x)).is_none()
    }

    /// The first element of which `what` is true.
    pub(crate) fn find(&self, what: impl Fn(f64) -> bool) -> Option<f64> {
        match self {
            Tensor::F32(a) => a.iter().map(|x| f64::from(*x)).find(|x| what(*x)),
            Tensor::F64(a) => a.iter().copied().find(|x| what(*x)),
        }
    }
}

fn flat<T: Clone>(a: ArrayD<T>) -> Vec<T> {
    if a.is_standard_layout() { a.into_raw_vec_and_offset().0 } else { a.iter().cloned().collect() }
}
