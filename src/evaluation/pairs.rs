//! Distances between all points of two sets, without ever holding them all.

use super::points::{Points, matrix};
use ndarray::Array2;
use ndarray::linalg::general_mat_mul;
use rayon::prelude::*;

/// Points of the first set that are compared at a time.
const ROWS: usize = 128;
/// Values of the second set that are compared at a time: what a processor's cache holds.
const VALUES: usize = 1 << 20;

/// For each point of `x`, what `fold` makes of its squared Euclidean distances to all points of `y`, beginning with
/// `start(i)`: it is called with the state, the number j of the first point of `y`, and the distances to j and those
/// behind it, with j ascending.
///
/// In float32, about the mean of `y`, as |x|² + |y|² − 2 x·y: within about 1e-6 of the larger of the squared norms.
/// Parallel over the points of `x`, and the same for any number of threads.
pub(super) fn fold<S: Send>(
    x: Points<'_>,
    y: Points<'_>,
    start: impl Fn(usize) -> S + Sync,
    fold: impl Fn(&mut S, usize, &[f32]) + Sync,
) -> Vec<S> {
    let (dim, columns) = (x.dim(), (VALUES / x.dim()).clamp(16, 2048));
    let mean: Vec<f32> = y.mean().into_iter().map(|mean| mean as f32).collect();
    let centred = |points: Points<'_>, first: usize, most: usize| {
        let rows = first..points.len().min(first + most);
        let values = points.values()[rows.start * dim..rows.end * dim].chunks_exact(dim);
        let values: Vec<f32> = values.flat_map(|row| row.iter().zip(&mean).map(|(x, m)| x - m)).collect();
        let norms: Vec<f32> = values
            .chunks_exact(dim)
            .map(|row| row.iter().map(|x| f64::from(x * x)).sum::<f64>() as f32)
            .collect();
        (values, norms)
    };
    let blocks: Vec<usize> = (0..x.len()).step_by(ROWS).collect();
    let states: Vec<Vec<S>> = blocks
        .into_par_iter()
        .map(|first| {
            let (rows, row_norms) = centred(x, first, ROWS);
            let mut states: Vec<S> = (first..first + row_norms.len()).map(&start).collect();
            for j in (0..y.len()).step_by(columns) {
                let (others, norms) = centred(y, j, columns);
                // Into a row-major matrix: of points of one coordinate ndarray makes a column-major one.
                let mut products = Array2::zeros((row_norms.len(), norms.len()));
                let (a, b) = (matrix(&rows, row_norms.len(), dim), matrix(&others, norms.len(), dim));
                general_mat_mul(1.0, &a, &b.t(), 0.0, &mut products);
                for ((state, norm), mut row) in states.iter_mut().zip(&row_norms).zip(products.rows_mut()) {
                    row.iter_mut()
                        .zip(&norms)
                        .for_each(|(product, other)| *product = (norm + other - 2.0 * *product).max(0.0));
                    fold(state, j, row.as_slice().expect("a row of a row-major matrix is in one piece"));
                }
            }
            states
        })
        .collect();
    states.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Purpose, fill_f32};

    #[test]
    fn all_distances_in_order() {
        for (n, m, dim) in [(1, 1, 1), (150, 3000, 1), (300, 5000, 3), (130, 40, 70_000)] {
            let draw = |seed, count| {
                let mut values = vec![0.0; count * dim];
                fill_f32(seed, Purpose::Probe, 0, 0, &mut values);
                // Far from the origin, where products would cancel.
                values.iter_mut().for_each(|value| *value += 30.0);
                values
            };
            let (x, y) = (draw(1, n), draw(2, m));
            let (x, y) = (Points::new(&x, dim).unwrap(), Points::new(&y, dim).unwrap());
            let found = fold(
                x,
                y,
                |i| (i, Vec::new()),
                |(_, all), j, distances| {
                    assert_eq!(all.len(), j);
                    all.extend_from_slice(distances);
                },
            );
            assert_eq!(found.len(), n);
            for (place, (i, distances)) in found.iter().enumerate() {
                assert_eq!((*i, distances.len()), (place, m));
                for (j, distance) in distances.iter().enumerate().step_by(7) {
                    let exact: f64 =
                        x.row(*i).iter().zip(y.row(j)).map(|(x, y)| f64::from(x - y).powi(2)).sum();
                    let most = 2e-5 * dim as f64;
                    assert!((f64::from(*distance) - exact).abs() < most, "{i}, {j}: {distance} for {exact}");
                }
            }
        }
    }
}
