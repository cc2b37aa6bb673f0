//! The kernel of any recipe: Taylor series without cancellation, in double-double.
//!
//! Per unit of b = ∫β the flow is Φ(b) = exp(A b), and noise adds N(b) = ∫₀ᵇ exp(A s) 2D exp(A s)ᵀ ds.
//! The stationary form S − Φ S Φᵀ cancels (N₁₁ ~ b⁵ in third order), and the block exponential of Van
//! Loan (IEEE Trans. Autom. Control 23, 1978) mixes exp(A b) with exp(−A b). Here N is summed by its own
//! series, dN/db = A N + N Aᵀ + 2D, on an interval short enough to converge fast, where a position that
//! noise reaches through a chain of zeros keeps exact zeros in its first terms; N(2b) = N + Φ N Φᵀ then
//! reaches b. The factor comes from the square roots of the two parts of Σ = Φ Σ₀ Φᵀ + N (square-root
//! filtering; Bierman, Factorization Methods, 1977), which loses half the digits that Σ itself would.

use super::dd::Dd;
use super::mat::{MAX_K, Mat, halvings};
use super::{Decomposition, Kernel};

/// The k x k matrices of double-double numbers that the kernel is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Square {
    k: usize,
    a: [[Dd; MAX_K]; MAX_K],
}

impl Square {
    fn zeros(k: usize) -> Self {
        Self { k, a: [[Dd::ZERO; MAX_K]; MAX_K] }
    }

    fn from_fn(k: usize, mut f: impl FnMut(usize, usize) -> Dd) -> Self {
        let mut m = Self::zeros(k);
        for i in 0..k {
            for j in 0..k {
                m.a[i][j] = f(i, j);
            }
        }
        m
    }

    fn diagonal(k: usize, x: Dd) -> Self {
        Self::from_fn(k, |i, j| if i == j { x } else { Dd::ZERO })
    }

    fn widen(m: &Mat) -> Self {
        Self::from_fn(m.rows(), |i, j| m[(i, j)].into())
    }

    fn round(&self) -> Mat {
        Mat::from_fn(self.k, self.k, |i, j| self.a[i][j].round())
    }

    fn add(&self, other: &Self) -> Self {
        Self::from_fn(self.k, |i, j| self.a[i][j] + other.a[i][j])
    }

    fn scale(&self, x: Dd) -> Self {
        Self::from_fn(self.k, |i, j| self.a[i][j] * x)
    }

    /// Passes over the zeros of `self`: about half of the drift of a chain, which is what is multiplied most.
    fn mul(&self, other: &Self) -> Self {
        let mut product = Self::zeros(self.k);
        for i in 0..self.k {
            for m in (0..self.k).filter(|&m| self.a[i][m] != Dd::ZERO) {
                for j in 0..self.k {
                    product.a[i][j] = product.a[i][j] + self.a[i][m] * other.a[m][j];
                }
            }
        }
        product
    }

    /// self · otherᵀ.
    fn mul_transposed(&self, other: &Self) -> Self {
        Self::from_fn(self.k, |i, j| (0..self.k).fold(Dd::ZERO, |s, m| s + self.a[i][m] * other.a[j][m]))
    }

    /// self + selfᵀ.
    fn plus_transpose(&self) -> Self {
        Self::from_fn(self.k, |i, j| self.a[i][j] + self.a[j][i])
    }

    /// The lower Cholesky factor of a positive semidefinite matrix; a pivot that is not positive leaves its
    /// column zero (Σ₀ has no position, and at b = 0 there is no noise).
    fn semidefinite_cholesky(&self) -> Self {
        let mut l = Self::zeros(self.k);
        for j in 0..self.k {
            let residual = |l: &Self, i: usize| (0..j).fold(self.a[i][j], |s, m| s - l.a[i][m] * l.a[j][m]);
            let pivot = residual(&l, j).sqrt();
            if pivot.round() > 0.0 {
                for i in j..self.k {
                    l.a[i][j] = if i == j { pivot } else { residual(&l, i) / pivot };
                }
            }
        }
        l
    }

    /// The inverse of a triangular matrix, by substitution in the given order of its rows.
    fn triangular_inverse(&self, order: &[usize]) -> Self {
        let mut x = Self::zeros(self.k);
        for (n, &i) in order.iter().enumerate() {
            for c in 0..self.k {
                let unit = if i == c { Dd::ONE } else { Dd::ZERO };
                let s = order[..n].iter().fold(unit, |s, &j| s - self.a[i][j] * x.a[j][c]);
                x.a[i][c] = s / self.a[i][i];
            }
        }
        x
    }
}

/// The triangular L with L Lᵀ = Σ parts · partsᵀ, for rows eliminated in `order`: modified Gram-Schmidt on
/// the rows of the parts laid side by side. Nothing is squared, so small pivots keep their digits.
fn triangularize(parts: [&Square; 3], order: &[usize]) -> Square {
    let k = parts[0].k;
    let mut rows = [[Dd::ZERO; 3 * MAX_K]; MAX_K];
    for (i, row) in rows.iter_mut().enumerate().take(k) {
        for (p, part) in parts.iter().enumerate() {
            row[p * k..(p + 1) * k].copy_from_slice(&part.a[i][..k]);
        }
    }
    let dot = |x: &[Dd], y: &[Dd]| x.iter().zip(y).fold(Dd::ZERO, |s, (&a, &b)| s + a * b);
    let mut l = Square::zeros(k);
    for (n, &j) in order.iter().enumerate() {
        let norm = dot(&rows[j], &rows[j]).sqrt();
        l.a[j][j] = norm;
        if norm.round() == 0.0 {
            continue;
        }
        let q = rows[j].map(|x| x / norm);
        for &i in &order[n + 1..] {
            let along = dot(&q, &rows[i]);
            l.a[i][j] = along;
            rows[i].iter_mut().zip(&q).for_each(|(x, &q)| *x = *x - along * q);
        }
    }
    l
}

/// Terms of the series. At ‖A‖ b ≤ 1/4 that of N gains a factor 2 ‖A‖ b / n a term. Its smallest element starts at term
/// 2k − 2 ≤ 6 at the latest, and 0.5^22 · 6! / 28! < 1e-33 follows.
const TERMS: u32 = 28;

/// A recipe solved per unit of b.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Linear {
    /// A = −(D + Q) S⁻¹.
    drift: Square,
    norm: f64,
    /// 2D.
    diffusion: Square,
    /// A square root of Σ₀ = κ S without the position's row and column.
    initial_factor: Square,
}

impl Linear {
    pub fn new(d: &Mat, q: &Mat, s: &Mat, kappa: f64) -> Self {
        let k = d.rows();
        // S⁻¹ from its Cholesky factor, in double-double like all that follows.
        let order: Vec<usize> = (0..k).collect();
        let inverse_factor = Square::widen(s).semidefinite_cholesky().triangular_inverse(&order);
        let inverse = Square::from_fn(k, |i, j| {
            (0..k).fold(Dd::ZERO, |sum, m| sum + inverse_factor.a[m][i] * inverse_factor.a[m][j])
        });
        let drift = Square::widen(d).add(&Square::widen(q)).mul(&inverse).scale((-1.0).into());
        let initial =
            Square::from_fn(
                k,
                |i, j| {
                    if i == 0 || j == 0 { Dd::ZERO } else { Dd::from(s[(i, j)]) * kappa.into() }
                },
            );
        Self {
            drift,
            norm: drift.round().norm_inf(),
            diffusion: Square::widen(d).scale(2.0.into()),
            initial_factor: initial.semidefinite_cholesky(),
        }
    }

    pub fn drift(&self) -> Mat {
        self.drift.round()
    }

    /// Φ(b) and N(b); b of any sign.
    fn flow(&self, b: f64) -> (Square, Square) {
        let doublings = halvings(self.norm * b.abs(), 0.25);
        let h = Dd::from(libm::ldexp(b, -doublings));
        let mut phi = Square::diagonal(self.drift.k, Dd::ONE);
        let mut phi_term = phi;
        let mut noise_term = self.diffusion.scale(h);
        let mut noise = noise_term;
        for n in 1..TERMS {
            phi_term = self.drift.mul(&phi_term).scale(h / f64::from(n).into());
            phi = phi.add(&phi_term);
            noise_term = self.drift.mul(&noise_term).plus_transpose().scale(h / f64::from(n + 1).into());
            noise = noise.add(&noise_term);
        }
        for _ in 0..doublings {
            noise = noise.add(&phi.mul(&noise).mul_transposed(&phi));
            phi = phi.mul(&phi);
        }
        (phi, noise)
    }

    /// Φ(b) alone, at a third of the cost of [`flow`](Self::flow) and with the same bits.
    pub fn transition(&self, b: f64) -> Mat {
        let doublings = halvings(self.norm * b.abs(), 0.25);
        let h = Dd::from(libm::ldexp(b, -doublings));
        let mut phi = Square::diagonal(self.drift.k, Dd::ONE);
        let mut term = phi;
        for n in 1..TERMS {
            term = self.drift.mul(&term).scale(h / f64::from(n).into());
            phi = phi.add(&term);
        }
        (0..doublings).fold(phi, |phi, _| phi.mul(&phi)).round()
    }

    pub fn noise(&self, b: f64) -> Mat {
        self.flow(b).1.round()
    }

    pub fn kernel(&self, b: f64, initial: bool, eps: f64, decomposition: Decomposition) -> Kernel {
        let k = self.drift.k;
        let (phi, noise) = self.flow(b);
        let carried = if initial { phi.mul(&self.initial_factor) } else { Square::zeros(k) };
        let eps = Dd::from(eps);
        let covariance = carried.mul_transposed(&carried).add(&noise).add(&Square::diagonal(k, eps));

        let order: Vec<usize> = match decomposition {
            Decomposition::Lower => (0..k).collect(),
            Decomposition::Upper => (0..k).rev().collect(),
        };
        let parts = [&carried, &noise.semidefinite_cholesky(), &Square::diagonal(k, eps.sqrt())];
        let factor = triangularize(parts, &order);
        let root = (0..k).fold(Dd::ONE, |product, i| product * factor.a[i][i]);
        Kernel {
            covariance: covariance.round(),
            determinant: (root * root).round(),
            factor: factor.round(),
            inverse_factor: factor.triangular_inverse(&order).round(),
        }
    }
}
