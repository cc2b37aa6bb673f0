//! Symmetric matrices: a factor of a semidefinite one, and eigenvalues.
//!
//! Two textbook algorithms (Golub and Van Loan, *Matrix Computations*, 4th edition, sections 4.2.8 and 8.3) in place
//! of a linear-algebra crate, which would be the largest dependency of this library for two functions.

use super::points::matrix;
use crate::{Error, Result, Status};

/// F, [n, rank] row-major, with F Fᵀ = `a`, a symmetric positive semidefinite matrix [n, n]; and the rank.
///
/// Cholesky's factorisation with diagonal pivoting, so that a covariance of fewer samples than features is none the
/// worse: it ends where what is left of the diagonal is rounding error.
///
/// # Errors
/// [`Status::Numeric`]: the matrix has a negative variance that is no rounding error.
pub(super) fn factor(a: &[f64], n: usize) -> Result<(Vec<f64>, usize)> {
    let mut rest: Vec<f64> = (0..n).map(|i| a[i * n + i]).collect();
    let largest = rest.iter().copied().fold(0.0, f64::max);
    let negligible = largest * f64::EPSILON * n as f64;
    let mut columns: Vec<Vec<f64>> = Vec::new();
    while columns.len() < n {
        let (pivot, &variance) = match rest.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)) {
            Some(found) if *found.1 > negligible => found,
            _ => break,
        };
        let root = variance.sqrt();
        let mut column: Vec<f64> = (0..n).map(|i| a[pivot * n + i]).collect();
        for known in &columns {
            let by = known[pivot];
            column.iter_mut().zip(known).for_each(|(c, k)| *c -= by * k);
        }
        column.iter_mut().for_each(|c| *c /= root);
        rest.iter_mut().zip(&column).for_each(|(rest, c)| *rest -= c * c);
        // Exactly: it is not chosen again.
        rest[pivot] = f64::NEG_INFINITY;
        columns.push(column);
    }
    let negative = rest.iter().find(|rest| rest.is_finite() && **rest < -1e-6 * largest);
    if let Some(variance) = negative.or_else(|| rest.iter().find(|rest| rest.is_nan())) {
        let message =
            format!("a covariance is not positive semidefinite: a variance of {variance:e} is left");
        return Err(Error::new(Status::Numeric, message));
    }
    let rank = columns.len();
    let factor = (0..n * rank).map(|at| columns[at % rank][at / rank]).collect();
    Ok((factor, rank))
}

/// The product F' C F, [rank, rank], of F [n, rank] and a symmetric C [n, n].
pub(super) fn congruent(factor: &[f64], rank: usize, c: &[f64], n: usize) -> Vec<f64> {
    let factor = matrix(factor, n, rank);
    factor.t().dot(&matrix(c, n, n).dot(&factor)).into_raw_vec_and_offset().0
}

/// The eigenvalues of a symmetric matrix [n, n], in no order.
///
/// # Errors
/// [`Status::Numeric`]: the iteration does not end, as for numbers that are not finite.
pub(super) fn eigenvalues(mut a: Vec<f64>, n: usize) -> Result<Vec<f64>> {
    let (diagonal, beside) = tridiagonal(&mut a, n);
    implicit_ql(diagonal, beside)
}

/// Reduces a symmetric matrix to a tridiagonal one by Householder reflections; its diagonal, and what is beside it.
fn tridiagonal(a: &mut [f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut diagonal = vec![0.0; n];
    let mut beside = vec![0.0; n.saturating_sub(1)];
    let (mut v, mut w) = (vec![0.0; n], vec![0.0; n]);
    for k in 0..n {
        diagonal[k] = a[k * n + k];
        let first = k + 1;
        let size = n - first;
        if size == 0 {
            break;
        }
        // Row k behind the diagonal is brought to (alpha, 0, 0, ...).
        let (v, w) = (&mut v[..size], &mut w[..size]);
        v.copy_from_slice(&a[k * n + first..][..size]);
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let tail: f64 = v[1..].iter().map(|x| x * x).sum();
        if tail == 0.0 {
            beside[k] = v[0];
            continue;
        }
        let alpha = -norm.copysign(v[0]);
        beside[k] = alpha;
        v[0] -= alpha;
        let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        v.iter_mut().for_each(|x| *x /= length);
        // With P = 1 - 2 v vᵀ: P A P = A - v wᵀ - w vᵀ, w = 2 (A v - (vᵀ A v) v).
        for (w, row) in w.iter_mut().zip(a[first * n..].chunks_exact(n)) {
            *w = dot(&row[first..], v);
        }
        let along = dot(v, w);
        w.iter_mut().zip(&*v).for_each(|(w, v)| *w = 2.0 * (*w - along * v));
        for (i, row) in a[first * n..].chunks_exact_mut(n).enumerate() {
            let (vi, wi) = (v[i], w[i]);
            for ((x, v), w) in row[first..].iter_mut().zip(&*v).zip(&*w) {
                *x -= vi * w + wi * v;
            }
        }
    }
    (diagonal, beside)
}

/// A sum of products in eight strands, for vector instructions.
fn dot(x: &[f64], y: &[f64]) -> f64 {
    let mut strands = [0.0; 8];
    let (x8, x_rest) = x.as_chunks::<8>();
    let (y8, y_rest) = y.as_chunks::<8>();
    for (x, y) in x8.iter().zip(y8) {
        for i in 0..8 {
            strands[i] += x[i] * y[i];
        }
    }
    strands.iter().sum::<f64>() + x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum::<f64>()
}

/// The eigenvalues of a symmetric tridiagonal matrix, by the QL algorithm with implicit shifts.
fn implicit_ql(mut d: Vec<f64>, mut e: Vec<f64>) -> Result<Vec<f64>> {
    /// What is ever needed is about 2 for each eigenvalue.
    const MOST: usize = 60;
    let n = d.len();
    e.push(0.0);
    // The rounding error of the largest elements, which all rotations mix into the others: eigenvalues that are 0 (a
    // covariance of fewer samples than features has many) never stand out from it.
    let noise = 0.5 * f64::EPSILON * d.iter().zip(&e).map(|(d, e)| d.abs() + e.abs()).fold(0.0, f64::max);
    for l in 0..n {
        for iteration in 0.. {
            // The block from l on ends where what is beside the diagonal is rounding error.
            let m = (l..n - 1)
                .find(|&m| e[m].abs() <= (f64::EPSILON * (d[m].abs() + d[m + 1].abs())).max(noise))
                .unwrap_or(n - 1);
            if m == l {
                break;
            }
            if iteration == MOST || !(d[l].is_finite() && e[l].is_finite()) {
                return Err(Error::new(Status::Numeric, "the eigenvalues of a covariance cannot be found"));
            }
            // Wilkinson's shift: the eigenvalue of the leading 2 x 2 block that is nearer to d[l].
            let half = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let shift = d[l] - e[l] / (half + half.hypot(1.0).copysign(half));
            let mut g = d[m] - shift;
            let (mut sine, mut cosine, mut p) = (1.0, 1.0, 0.0);
            let mut split = false;
            for i in (l..m).rev() {
                let (f, b) = (sine * e[i], cosine * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    // The matrix falls into two here; go on with the new blocks.
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    split = true;
                    break;
                }
                (sine, cosine) = (f / r, g / r);
                let g2 = d[i + 1] - p;
                let r2 = (d[i] - g2) * sine + 2.0 * cosine * b;
                p = sine * r2;
                d[i + 1] = g2 + p;
                g = cosine * r2 - b;
            }
            if !split {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
    Ok(d)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Purpose, fill_f64};

    fn random(rows: usize, columns: usize, seed: u64) -> Vec<f64> {
        let mut values = vec![0.0; rows * columns];
        fill_f64(seed, Purpose::Probe, 0, 0, &mut values);
        values
    }

    /// X Xᵀ of X [n, m].
    fn gram(n: usize, m: usize, seed: u64) -> Vec<f64> {
        let x = random(n, m, seed);
        let x = matrix(&x, n, m);
        x.dot(&x.t()).into_raw_vec_and_offset().0
    }

    #[test]
    fn a_factor_gives_its_matrix_back_whatever_the_rank() {
        for (n, m) in [(1, 1), (5, 9), (12, 12), (30, 7)] {
            let a = gram(n, m, 1);
            let (f, rank) = factor(&a, n).unwrap();
            assert_eq!(rank, n.min(m));
            let f = matrix(&f, n, rank);
            let back = f.dot(&f.t());
            let worst = back.iter().zip(&a).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-13 * n as f64 * m as f64, "{n} x {m}: {worst:e}");
        }
        assert_eq!(factor(&[0.0; 4], 2).unwrap(), (vec![], 0));
        assert_eq!(factor(&[1.0, 2.0, 2.0, 1.0], 2).unwrap_err().status(), Status::Numeric);
    }

    #[test]
    fn eigenvalues_have_the_matrix_s_moments() {
        for n in [1, 2, 3, 17, 64] {
            let a = gram(n, n + 2, n as u64);
            let values = eigenvalues(a.clone(), n).unwrap();
            let trace: f64 = (0..n).map(|i| a[i * n + i]).sum();
            let square: f64 = a.iter().map(|x| x * x).sum();
            let cube: f64 = {
                let a = matrix(&a, n, n);
                (a.dot(&a).dot(&a)).diag().sum()
            };
            let sum = |power: i32| values.iter().map(|x| x.powi(power)).sum::<f64>();
            for (expected, got) in [(trace, sum(1)), (square, sum(2)), (cube, sum(3))] {
                assert!((got / expected - 1.0).abs() < 1e-12, "{n}: {got} for {expected}");
            }
            assert!(values.iter().all(|value| *value > 0.0));
        }
    }

    /// Covariances of few samples: most eigenvalues are 0, and come out as rounding errors of the largest.
    #[test]
    fn eigenvalues_of_little_rank() {
        for (rank, seed) in [2, 3, 5, 9].into_iter().flat_map(|rank| (0..12).map(move |seed| (rank, seed))) {
            let n = 64;
            // Fᵀ X Xᵀ F of X [n, rank], and F of rows of very different sizes.
            let mut f = random(n, n, 100 + seed);
            let sizes = random(n, 1, 200 + seed);
            f.chunks_exact_mut(n).zip(sizes).for_each(|(row, size)| {
                row.iter_mut().for_each(|x| *x *= (2.0 * size).exp());
            });
            let a = congruent(&f, n, &gram(n, rank, seed), n);
            let trace: f64 = (0..n).map(|i| a[i * n + i]).sum();
            let mut values = eigenvalues(a, n).unwrap();
            values.sort_by(f64::total_cmp);
            assert!(values[n - rank - 1].abs().max(values[0].abs()) < 1e-14 * trace, "{rank}, {seed}");
            assert!((values.iter().sum::<f64>() / trace - 1.0).abs() < 1e-13, "{rank}, {seed}");
        }
    }

    #[test]
    fn known_eigenvalues() {
        // The second difference: 2 - 2 cos(pi i / (n + 1)).
        let n = 50;
        let a: Vec<f64> = (0..n * n)
            .map(|at: usize| match (at / n).abs_diff(at % n) {
                0 => 2.0,
                1 => -1.0,
                _ => 0.0,
            })
            .collect();
        let mut values = eigenvalues(a, n).unwrap();
        values.sort_by(f64::total_cmp);
        for (i, value) in values.iter().enumerate() {
            let expected = 2.0 - 2.0 * (std::f64::consts::PI * (i + 1) as f64 / (n + 1) as f64).cos();
            assert!((value - expected).abs() < 1e-13, "{i}: {value}");
        }
        let mut diagonal = vec![0.0; 9];
        (diagonal[0], diagonal[4], diagonal[8]) = (3.0, 0.0, -1.0);
        assert_eq!(eigenvalues(diagonal, 3).unwrap(), [3.0, 0.0, -1.0]);
        assert_eq!(eigenvalues(vec![f64::NAN; 9], 3).unwrap_err().status(), Status::Numeric);
    }
}
