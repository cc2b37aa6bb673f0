//! Buffers of either precision, and the numbers that kernels are written over.

use super::{Precision, Values, ValuesMut};
use crate::noise::Real;
use crate::process::Mat;
use crate::{Error, Result, Status};
use std::ops::{Add, AddAssign, Mul, Range};

/// A buffer of either precision. The default is empty: what stands in for one that is taken out.
#[derive(Clone, Debug)]
pub(crate) enum Buffer {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

impl Default for Buffer {
    fn default() -> Self {
        Buffer::F32(Vec::new())
    }
}

impl Buffer {
    /// Zeros; an error where memory cannot be had.
    pub fn zeros(precision: Precision, len: usize) -> Result<Self> {
        fn zeros<T: Clone + Default>(len: usize) -> Result<Vec<T>> {
            let mut values = Vec::new();
            values.try_reserve_exact(len).map_err(|e| {
                let bytes = len.saturating_mul(size_of::<T>());
                Error::new(Status::OutOfMemory, format!("{bytes} bytes cannot be allocated")).source(e)
            })?;
            values.resize(len, T::default());
            Ok(values)
        }
        Ok(match precision {
            Precision::F32 => Buffer::F32(zeros(len)?),
            Precision::F64 => Buffer::F64(zeros(len)?),
        })
    }

    /// Copies the values `range` of another buffer to `at` on.
    pub fn copy_from(&mut self, at: usize, from: &Buffer, range: Range<usize>) {
        let to = at..at + range.len();
        match (self, from) {
            (Buffer::F32(out), Buffer::F32(from)) => out[to].copy_from_slice(&from[range]),
            (Buffer::F64(out), Buffer::F64(from)) => out[to].copy_from_slice(&from[range]),
            (Buffer::F32(out), Buffer::F64(from)) => {
                out[to].iter_mut().zip(&from[range]).for_each(|(o, x)| *o = *x as f32);
            }
            (Buffer::F64(out), Buffer::F32(from)) => {
                out[to].iter_mut().zip(&from[range]).for_each(|(o, x)| *o = f64::from(*x));
            }
        }
    }

    /// Adds mean (k x 1) times the image, [n or 1, d], to states [n, k, d].
    pub fn add_image(&mut self, n: usize, mean: &Mat, image: &Buffer) {
        fn add<T: Float>(states: &mut [T], n: usize, mean: &Mat, image: impl Fn(usize) -> f64, len: usize) {
            let (k, state) = (mean.rows(), states.len() / n);
            let d = state / k;
            for (i, z) in states.iter_mut().enumerate() {
                let (sample, block, j) = (i / state, i % state / d, i % d);
                let x = image((sample * d + j) % len);
                *z = T::from_f64(z.to_f64() + mean[(block, 0)] * x);
            }
        }
        let at = |i: usize| match image {
            Buffer::F32(values) => f64::from(values[i]),
            Buffer::F64(values) => values[i],
        };
        match self {
            Buffer::F32(states) => add(states, n, mean, at, image.len()),
            Buffer::F64(states) => add(states, n, mean, at, image.len()),
        }
    }

    /// Puts the `len` values of sample `indices[i]` at place i; what is left over is cut off.
    pub fn gather(&mut self, len: usize, indices: &[usize], spare: &mut Spare) {
        match self {
            Buffer::F32(values) => gather(values, len, indices, &mut spare.f32),
            Buffer::F64(values) => gather(values, len, indices, &mut spare.f64),
        }
    }

    pub fn values(&self, range: Range<usize>) -> Values<'_> {
        match self {
            Buffer::F32(values) => Values::F32(&values[range]),
            Buffer::F64(values) => Values::F64(&values[range]),
        }
    }

    pub fn values_mut(&mut self, range: Range<usize>) -> ValuesMut<'_> {
        match self {
            Buffer::F32(values) => ValuesMut::F32(&mut values[range]),
            Buffer::F64(values) => ValuesMut::F64(&mut values[range]),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Buffer::F32(values) => values.len(),
            Buffer::F64(values) => values.len(),
        }
    }

    /// Its values, rounded to single precision.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Buffer::F32(values) => values,
            Buffer::F64(values) => values.into_iter().map(|x| x as f32).collect(),
        }
    }

    pub fn precision(&self) -> Precision {
        match self {
            Buffer::F32(_) => Precision::F32,
            Buffer::F64(_) => Precision::F64,
        }
    }

    /// The first index of `range` that is not finite.
    pub fn first_non_finite(&self, range: Range<usize>) -> Option<usize> {
        match self {
            Buffer::F32(values) => values[range].iter().position(|v| !v.is_finite()),
            Buffer::F64(values) => values[range].iter().position(|v| !v.is_finite()),
        }
    }
}

/// Puts the `len` values of sample `indices[i]` at place i; what is left over is cut off. The values keep their address.
pub(crate) fn gather<T: Copy>(values: &mut Vec<T>, len: usize, indices: &[usize], spare: &mut Vec<T>) {
    spare.clear();
    spare.extend_from_slice(values);
    for (to, index) in values.chunks_exact_mut(len).zip(indices) {
        to.copy_from_slice(&spare[index * len..][..len]);
    }
    values.truncate(indices.len() * len);
}

/// Room for a copy of a buffer, to reorder buffers one after the other.
#[derive(Default)]
pub(crate) struct Spare {
    f32: Vec<f32>,
    f64: Vec<f64>,
}

impl Spare {
    /// Makes room for `len` values; an error where memory cannot be had.
    pub fn reserve(&mut self, precision: Precision, len: usize) -> Result<()> {
        match precision {
            Precision::F32 => self.f32.try_reserve_exact(len),
            Precision::F64 => self.f64.try_reserve_exact(len),
        }
        .map_err(|e| {
            Error::new(Status::OutOfMemory, format!("a copy of {len} values cannot be allocated")).source(e)
        })
    }

    /// [`gather`], in the room that there is.
    pub fn gather_f32(&mut self, values: &mut Vec<f32>, len: usize, indices: &[usize]) {
        gather(values, len, indices, &mut self.f32);
    }
}

/// `f32` or `f64`.
pub(crate) trait Float:
    Real + Default + Send + Sync + Add<Output = Self> + AddAssign + Mul<Output = Self> + PartialOrd + 'static
{
    fn to_f64(self) -> f64;
    fn finite(self) -> bool;
    /// The values of a buffer that is known to have this precision.
    fn of(buffer: &Buffer) -> &[Self];
    fn of_mut(buffer: &mut Buffer) -> &mut [Self];
}

macro_rules! float {
    ($t:ty, $variant:ident) => {
        impl Float for $t {
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn finite(self) -> bool {
                self.abs() <= <$t>::MAX
            }
            fn of(buffer: &Buffer) -> &[Self] {
                match buffer {
                    Buffer::$variant(values) => values,
                    _ => unreachable!("a run's buffers of one kind have one precision"),
                }
            }
            fn of_mut(buffer: &mut Buffer) -> &mut [Self] {
                match buffer {
                    Buffer::$variant(values) => values,
                    _ => unreachable!("a run's buffers of one kind have one precision"),
                }
            }
        }
    };
}
float!(f32, F32);
float!(f64, F64);
