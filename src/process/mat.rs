//! The small dense matrices that act on position, momentum and so on as K ⊗ I.

use std::fmt;
use std::ops::{Add, Index, IndexMut, Mul, Neg, Sub};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Error, Result, Status};

/// The most rows or columns of a [`Mat`].
pub const MAX_K: usize = 4;

/// A dense matrix of at most [`MAX_K`] x [`MAX_K`] f64, held in place; row-major in JSON: `[[1,0],[0,1]]`.
///
/// Its operations, like everything in [`crate::process`], are plain IEEE arithmetic, and elementary
/// functions come from the `libm` crate instead of the platform, so that coefficients are bit-identical
/// everywhere.
///
/// # Panics
/// Indices out of range and operands whose dimensions do not match are defects of the calling code, and
/// panic as slices do.
#[derive(Clone, Copy, PartialEq)]
pub struct Mat {
    rows: usize,
    cols: usize,
    /// Zero outside rows x cols, so that the derived comparison is one of matrices.
    a: [[f64; MAX_K]; MAX_K],
}

impl Mat {
    /// The `rows` x `cols` matrix of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        assert!((1..=MAX_K).contains(&rows) && (1..=MAX_K).contains(&cols), "{rows} x {cols} is no Mat");
        Self { rows, cols, a: [[0.0; MAX_K]; MAX_K] }
    }

    /// The `n` x `n` identity.
    pub fn identity(n: usize) -> Self {
        Self::from_fn(n, n, |i, j| f64::from(i == j))
    }

    /// The square matrix with `entries` on its diagonal.
    pub fn diagonal(entries: &[f64]) -> Self {
        Self::from_fn(entries.len(), entries.len(), |i, j| if i == j { entries[i] } else { 0.0 })
    }

    /// A matrix from its rows; more than [`MAX_K`] do not compile.
    pub fn from_rows<const R: usize, const C: usize>(rows: [[f64; C]; R]) -> Self {
        const { assert!(R >= 1 && R <= MAX_K && C >= 1 && C <= MAX_K) };
        Self::from_fn(R, C, |i, j| rows[i][j])
    }

    /// The matrix whose element (i, j) is `f(i, j)`.
    pub fn from_fn(rows: usize, cols: usize, mut f: impl FnMut(usize, usize) -> f64) -> Self {
        let mut m = Self::zeros(rows, cols);
        for i in 0..rows {
            for j in 0..cols {
                m.a[i][j] = f(i, j);
            }
        }
        m
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `i` as a slice of `cols` numbers.
    pub fn row_slice(&self, i: usize) -> &[f64] {
        &self.a[..self.rows][i][..self.cols]
    }

    /// Row `i` as a 1 x cols matrix.
    pub fn row(&self, i: usize) -> Self {
        Self::from_fn(1, self.cols, |_, j| self[(i, j)])
    }

    /// Column `j` as a rows x 1 matrix.
    pub fn column(&self, j: usize) -> Self {
        Self::from_fn(self.rows, 1, |i, _| self[(i, j)])
    }

    /// The transpose.
    pub fn transpose(&self) -> Self {
        Self::from_fn(self.cols, self.rows, |i, j| self[(j, i)])
    }

    /// Whether no element is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        self.a.iter().flatten().all(|x| x.is_finite())
    }

    /// The largest magnitude of an element.
    pub fn max_abs(&self) -> f64 {
        self.a.iter().flatten().fold(0.0, |m, x| m.max(x.abs()))
    }

    /// The largest sum of magnitudes along a row: the operator norm for the maximum norm.
    pub fn norm_inf(&self) -> f64 {
        self.a.iter().map(|row| row.iter().map(|x| x.abs()).sum()).fold(0.0, f64::max)
    }

    /// The determinant of a square matrix, by elimination with partial pivoting.
    ///
    /// Of a covariance near t = 0 it would cancel: use [`Process::determinant`](super::Process::determinant).
    pub fn det(&self) -> f64 {
        match self.eliminate() {
            Some((_, det)) => det,
            None => 0.0,
        }
    }

    /// The inverse of a square matrix; [`Status::Numeric`] if it is singular.
    pub fn inverse(&self) -> Result<Self> {
        match self.eliminate() {
            Some((inverse, _)) if inverse.is_finite() => Ok(inverse),
            _ => Err(Error::new(
                Status::Numeric,
                format!("the matrix {self:?} is singular: it has no inverse"),
            )),
        }
    }

    /// Gauss-Jordan elimination with partial pivoting: inverse and determinant, nothing if a pivot is zero.
    fn eliminate(&self) -> Option<(Self, f64)> {
        assert_eq!(self.rows, self.cols, "only a square matrix has an inverse");
        let n = self.rows;
        let (mut m, mut inverse, mut det) = (*self, Self::identity(n), 1.0);
        for c in 0..n {
            let p = (c..n).max_by(|&i, &j| m.a[i][c].abs().total_cmp(&m.a[j][c].abs()))?;
            let pivot = m.a[p][c];
            if pivot == 0.0 {
                return None;
            }
            if p != c {
                m.a.swap(p, c);
                inverse.a.swap(p, c);
                det = -det;
            }
            det *= pivot;
            for j in 0..n {
                m.a[c][j] /= pivot;
                inverse.a[c][j] /= pivot;
            }
            for i in (0..n).filter(|&i| i != c) {
                let f = m.a[i][c];
                for j in 0..n {
                    m.a[i][j] -= f * m.a[c][j];
                    inverse.a[i][j] -= f * inverse.a[c][j];
                }
            }
        }
        Some((inverse, det))
    }

    /// The lower triangular L with L Lᵀ = self; [`Status::Numeric`] if self is not positive definite.
    pub fn cholesky_lower(&self) -> Result<Self> {
        assert_eq!(self.rows, self.cols, "only a square matrix has a Cholesky factor");
        let mut l = Self::zeros(self.rows, self.rows);
        for i in 0..self.rows {
            for j in 0..i {
                let s: f64 = (0..j).map(|m| l[(i, m)] * l[(j, m)]).sum();
                l[(i, j)] = (self[(i, j)] - s) / l[(j, j)];
            }
            let s: f64 = (0..i).map(|m| l[(i, m)] * l[(i, m)]).sum();
            let pivot = self[(i, i)] - s;
            if !(pivot > 0.0 && pivot.is_finite()) {
                return Err(Error::new(
                    Status::Numeric,
                    format!("the matrix {self:?} is not positive definite: its Cholesky pivot is {pivot:e}"),
                ));
            }
            l[(i, i)] = libm::sqrt(pivot);
        }
        Ok(l)
    }

    /// The upper triangular U with U Uᵀ = self; [`Status::Numeric`] if self is not positive definite.
    pub fn cholesky_upper(&self) -> Result<Self> {
        // Reversing the order of the coordinates turns one factorisation into the other.
        let reverse = |m: &Self| Self::from_fn(m.rows, m.cols, |i, j| m[(m.rows - 1 - i, m.cols - 1 - j)]);
        Ok(reverse(&reverse(self).cholesky_lower()?))
    }

    /// The symmetric R with R Rᵀ = self, for a symmetric positive semidefinite matrix.
    ///
    /// Eigenvalues below zero, which rounding produces in nearly singular covariances, count as zero.
    pub fn psd_factor(&self) -> Self {
        let (values, v) = self.symmetric_eigen();
        Self::from_fn(self.rows, self.rows, |i, j| {
            (0..self.rows).map(|m| v[(i, m)] * libm::sqrt(values[m].max(0.0)) * v[(j, m)]).sum()
        })
    }

    /// Eigenvalues (the first `rows` numbers, in no order) and, as columns, orthonormal eigenvectors of a
    /// symmetric matrix, by cyclic Jacobi rotations (Golub and Van Loan, 8.5).
    pub fn symmetric_eigen(&self) -> ([f64; MAX_K], Self) {
        assert_eq!(self.rows, self.cols, "only a square matrix has eigenvalues");
        let n = self.rows;
        let (mut m, mut v) = (*self, Self::identity(n));
        // Quadratic convergence: at this size four or five sweeps reach the last bit.
        for _sweep in 0..16 {
            for p in 0..n {
                for q in p + 1..n {
                    if m[(p, q)] == 0.0 {
                        continue;
                    }
                    let tau = (m[(q, q)] - m[(p, p)]) / (2.0 * m[(p, q)]);
                    let t = f64::copysign(1.0, tau) / (tau.abs() + libm::hypot(1.0, tau));
                    let c = 1.0 / libm::hypot(1.0, t);
                    let mut rotation = Self::identity(n);
                    (rotation[(p, p)], rotation[(q, q)]) = (c, c);
                    (rotation[(p, q)], rotation[(q, p)]) = (t * c, -t * c);
                    m = rotation.transpose() * m * rotation;
                    v = v * rotation;
                    (m[(p, q)], m[(q, p)]) = (0.0, 0.0);
                }
            }
        }
        let mut values = [0.0; MAX_K];
        (0..n).for_each(|i| values[i] = m[(i, i)]);
        (values, v)
    }

    /// The exponential of a square matrix: Taylor's series of self / 2^s, squared s times.
    pub fn expm(&self) -> Self {
        assert_eq!(self.rows, self.cols, "only a square matrix has an exponential");
        let squarings = halvings(self.norm_inf(), 0.5);
        let x = *self * libm::ldexp(1.0, -squarings);
        let mut sum = Self::identity(self.rows);
        let mut term = sum;
        // 0.5^18 / 18! is below the last bit.
        for n in 1..18 {
            term = term * x * (1.0 / f64::from(n));
            sum = sum + term;
        }
        (0..squarings).fold(sum, |e, _| e * e)
    }
}

/// How often `norm` must be halved to be at most `target`.
pub(super) fn halvings(norm: f64, target: f64) -> i32 {
    libm::ilogb(norm / target).saturating_add(1).clamp(0, 1100)
}

impl Index<(usize, usize)> for Mat {
    type Output = f64;
    fn index(&self, (i, j): (usize, usize)) -> &f64 {
        &self.a[..self.rows][i][..self.cols][j]
    }
}

impl IndexMut<(usize, usize)> for Mat {
    fn index_mut(&mut self, (i, j): (usize, usize)) -> &mut f64 {
        &mut self.a[..self.rows][i][..self.cols][j]
    }
}

impl Mul for Mat {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        assert_eq!(self.cols, other.rows, "inner dimensions of a product");
        Self::from_fn(self.rows, other.cols, |i, j| {
            (0..self.cols).fold(0.0, |sum, m| sum + self.a[i][m] * other.a[m][j])
        })
    }
}

impl Mul<f64> for Mat {
    type Output = Self;
    fn mul(self, factor: f64) -> Self {
        Self::from_fn(self.rows, self.cols, |i, j| self.a[i][j] * factor)
    }
}

impl Add for Mat {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols), "dimensions of a sum");
        Self::from_fn(self.rows, self.cols, |i, j| self.a[i][j] + other.a[i][j])
    }
}

impl Sub for Mat {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Neg for Mat {
    type Output = Self;
    fn neg(self) -> Self {
        // Not -x, which makes the zeros of a pattern negative zeros.
        Self::from_fn(self.rows, self.cols, |i, j| 0.0 - self.a[i][j])
    }
}

impl fmt::Debug for Mat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // On one line even with {:#?}: a matrix is a value, not a tree.
        let rows: Vec<&[f64]> = (0..self.rows).map(|i| self.row_slice(i)).collect();
        write!(f, "{rows:?}")
    }
}

impl Serialize for Mat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((0..self.rows).map(|i| self.row_slice(i)))
    }
}

impl<'de> Deserialize<'de> for Mat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let rows = Vec::<Vec<f64>>::deserialize(deserializer)?;
        let cols = rows.first().map_or(0, Vec::len);
        if rows.iter().any(|row| row.len() != cols) {
            return Err(de::Error::custom("the rows of a matrix must have equal lengths"));
        }
        if !(1..=MAX_K).contains(&rows.len()) || !(1..=MAX_K).contains(&cols) {
            let n = rows.len();
            return Err(de::Error::custom(format!(
                "a matrix has 1 to {MAX_K} rows and columns, got {n} x {cols}"
            )));
        }
        Ok(Self::from_fn(rows.len(), cols, |i, j| rows[i][j]))
    }
}
