//! Least squares of one update row against where the teacher is.

use crate::array::{Buffer, Float};
use crate::plan::Update;
use crate::process::Mat;

/// Pull towards the row's own coefficients, relative to the regressors' power: what the data do not determine stays
/// as the solver made it.
const RIDGE: f64 = 1e-6;

/// `row` with the A and B that bring its result nearest to `target`, [n, k, d], over all samples.
///
/// `states` are those that the row reads: `from`, then the further ones.
pub(super) fn fit(row: &Update, states: &[&Buffer], slots: &[&Buffer], target: &[f32], d: usize) -> Update {
    match (states.first(), slots.first()) {
        (Some(Buffer::F64(_)), Some(Buffer::F64(_)) | None) => {
            fit_in::<f64, f64>(row, states, slots, target, d)
        }
        (Some(Buffer::F64(_)), _) => fit_in::<f64, f32>(row, states, slots, target, d),
        _ => fit_in::<f32, f32>(row, states, slots, target, d),
    }
}

/// All A and B of a row, in the order of the regressors.
fn coefficients(row: &Update) -> impl Iterator<Item = &Mat> {
    [&row.a].into_iter().chain(row.states.iter().chain(&row.terms).map(|(_, m)| m))
}

fn fit_in<T: Float, E: Float>(
    row: &Update,
    states: &[&Buffer],
    slots: &[&Buffer],
    target: &[f32],
    d: usize,
) -> Update {
    let k = row.a.rows();
    // What a sample's result is a linear combination of: blocks of the states, then blocks of the outputs.
    let columns: Vec<usize> = row.terms.iter().map(|(_, b)| b.cols()).collect();
    let count = k * states.len() + columns.iter().sum::<usize>();
    let current: Vec<Vec<f64>> =
        (0..k).map(|b| coefficients(row).flat_map(|m| m.row_slice(b)).copied().collect()).collect();
    let (mut gram, mut moments) = (vec![0.0; count * count], vec![0.0; k * count]);
    let mut x = vec![0.0; count];
    for i in 0..target.len() / (k * d) {
        for e in 0..d {
            let mut at = 0;
            for state in states {
                let z = T::of(state);
                for b in 0..k {
                    x[at] = z[(i * k + b) * d + e].to_f64();
                    at += 1;
                }
            }
            for (slot, columns) in slots.iter().zip(&columns) {
                let outputs = E::of(slot);
                for c in 0..*columns {
                    x[at] = outputs[(i * columns + c) * d + e].to_f64();
                    at += 1;
                }
            }
            for p in 0..count {
                for q in 0..=p {
                    gram[p * count + q] += x[p] * x[q];
                }
            }
            for b in 0..k {
                let made: f64 = x.iter().zip(&current[b]).map(|(x, c)| c * x).sum();
                let missing = f64::from(target[(i * k + b) * d + e]) - made;
                for (sum, x) in moments[b * count..][..count].iter_mut().zip(&x) {
                    *sum += missing * x;
                }
            }
        }
    }
    for p in 0..count {
        // A regressor that is zero throughout keeps its coefficient.
        gram[p * count + p] = gram[p * count + p] * (1.0 + RIDGE) + f64::MIN_POSITIVE;
    }
    let Some(factor) = cholesky(gram, count) else { return row.clone() };
    let mut fitted = row.clone();
    for b in 0..k {
        let change = solve(&factor, &moments[b * count..][..count]);
        let mut at = 0;
        let further = fitted.states.iter_mut().chain(&mut fitted.terms).map(|(_, m)| m);
        for m in [&mut fitted.a].into_iter().chain(further) {
            for c in 0..m.cols() {
                m[(b, c)] += change[at];
                at += 1;
            }
        }
    }
    if coefficients(&fitted).all(Mat::is_finite) { fitted } else { row.clone() }
}

/// The lower factor of a symmetric positive definite matrix given by its lower half.
fn cholesky(mut a: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    for j in 0..n {
        for i in j..n {
            let dot: f64 = (0..j).map(|p| a[i * n + p] * a[j * n + p]).sum();
            let rest = a[i * n + j] - dot;
            if i == j {
                if rest.is_nan() || rest <= 0.0 {
                    return None;
                }
                a[j * n + j] = libm::sqrt(rest);
            } else {
                a[i * n + j] = rest / a[j * n + j];
            }
        }
    }
    Some(a)
}

fn solve(factor: &[f64], right: &[f64]) -> Vec<f64> {
    let n = right.len();
    let mut x = right.to_vec();
    for i in 0..n {
        let dot: f64 = (0..i).map(|j| factor[i * n + j] * x[j]).sum();
        x[i] = (x[i] - dot) / factor[i * n + i];
    }
    for i in (0..n).rev() {
        let dot: f64 = (i + 1..n).map(|j| factor[j * n + i] * x[j]).sum();
        x[i] = (x[i] - dot) / factor[i * n + i];
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A target that is a combination of states and output is found to the last digits; a column that is zero
    /// throughout keeps its coefficient.
    #[test]
    fn finds_the_combination() {
        let (n, d) = (3, 5);
        let noise = |seed: u64| -> Vec<f32> {
            let mut out = vec![0.0; n * 2 * d];
            crate::noise::fill_f32(seed, crate::noise::Purpose::Solver, 0, 0, &mut out);
            out
        };
        let (z, mut eps, kept) = (noise(1), noise(2), noise(3));
        for sample in eps.chunks_mut(2 * d) {
            sample[d..].fill(0.0);
        }
        let (a, b) = (Mat::from_rows([[0.9, 0.2], [-0.1, 0.7]]), Mat::from_rows([[0.3, 5.0], [-0.4, 6.0]]));
        let further = Mat::from_rows([[-0.2, 0.05], [0.1, 0.4]]);
        let mut target = vec![0.0; z.len()];
        for i in 0..n {
            for row in 0..2 {
                for e in 0..d {
                    let at = |c: usize| (i * 2 + c) * d + e;
                    let parts = [(&a, &z), (&b, &eps), (&further, &kept)];
                    target[at(row)] = (0..2)
                        .map(|c| parts.iter().map(|(m, x)| m[(row, c)] * f64::from(x[at(c)])).sum::<f64>())
                        .sum::<f64>() as f32;
                }
            }
        }
        let start = Update {
            step: 0,
            from: 0,
            a: Mat::identity(2),
            states: vec![(1, Mat::zeros(2, 2))],
            terms: vec![(0, Mat::from_rows([[0.0, 5.0], [0.0, 6.0]]))],
            noise: Vec::new(),
            into: 0,
        };
        let fitted = fit(&start, &[&Buffer::F32(z), &Buffer::F32(kept)], &[&Buffer::F32(eps)], &target, d);
        assert!((fitted.a - a).max_abs() < 1e-5, "{:?}", fitted.a);
        assert!((fitted.states[0].1 - further).max_abs() < 1e-5, "{:?}", fitted.states[0].1);
        assert!((fitted.terms[0].1 - b).max_abs() < 1e-5, "{:?}", fitted.terms[0].1);
    }
}
