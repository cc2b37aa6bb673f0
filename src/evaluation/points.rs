//! Points of a space: rows of a matrix.

use crate::{Error, Result, Status};
use ndarray::ArrayView2;

/// Points of one dimension, at least one, all finite; row-major, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Points<'a> {
    values: &'a [f32],
    dim: usize,
}

impl<'a> Points<'a> {
    /// The rows of `values`, [n, dim].
    ///
    /// # Errors
    /// [`Status::ShapeMismatch`]: no points, or not a whole number of them; [`Status::NonFinite`], naming the point.
    pub fn new(values: &'a [f32], dim: usize) -> Result<Self> {
        if dim == 0 || values.is_empty() || !values.len().is_multiple_of(dim) {
            let message = format!("expected points of {dim} values, got {} values", values.len());
            return Err(Error::new(Status::ShapeMismatch, message));
        }
        if let Some(place) = values.iter().position(|value| !value.is_finite()) {
            let message = format!("sample {} holds {} at value {}", place / dim, values[place], place % dim);
            return Err(Error::new(Status::NonFinite, message));
        }
        Ok(Self { values, dim })
    }

    /// How many there are; at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.values.len() / self.dim
    }

    /// The number of coordinates of each.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Point `i`.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.values[i * self.dim..][..self.dim]
    }

    /// All values.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// The points of these numbers, copied.
    pub fn select(&self, indices: &[usize]) -> Vec<f32> {
        indices.iter().flat_map(|&i| self.row(i)).copied().collect()
    }

    /// The mean of all points.
    pub(super) fn mean(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.dim];
        for row in self.values.chunks_exact(self.dim) {
            mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let n = self.len() as f64;
        mean.iter_mut().for_each(|sum| *sum /= n);
        mean
    }

    /// Points of the same space, or an error that says which spaces.
    pub(super) fn check_same(&self, other: &Points<'_>) -> Result<()> {
        if self.dim == other.dim {
            return Ok(());
        }
        let message = format!("points of {} and of {} values cannot be compared", self.dim, other.dim);
        Err(Error::new(Status::ShapeMismatch, message))
    }
}

/// A row-major matrix as ndarray sees it; its product is the one matrix product of this folder.
pub(super) fn matrix<T>(values: &[T], rows: usize, columns: usize) -> ArrayView2<'_, T> {
    ArrayView2::from_shape((rows, columns), values).expect("a matrix has rows * columns values")
}
