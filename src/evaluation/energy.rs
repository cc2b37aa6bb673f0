//! The energy distance (G. J. Székely and M. L. Rizzo, *Energy statistics: a class of statistics based on distances*,
//! 2013), which needs no features: zero only for equal distributions.

use super::bootstrap::{Bootstrap, Figure};
use super::pairs;
use super::points::Points;
use crate::{Error, Result};

/// 2 E|X − Y| − E|X − X'| − E|Y − Y'| for X of `x` and Y of `y`, |.| the root of the mean square of a difference's
/// coordinates: in units of the data, whatever their number.
///
/// Estimated without bias, from pairs of different points; for equal distributions it is as often below as above
/// zero. The time grows with n m and n² (distances), the interval's with n² times the number of resamples.
///
/// # Errors
/// [`Status::ShapeMismatch`](crate::Status::ShapeMismatch) for points of different dimensions;
/// [`Status::InvalidArgument`](crate::Status::InvalidArgument) for fewer than two points in a set.
pub fn energy_distance(x: Points<'_>, y: Points<'_>, bootstrap: &Bootstrap) -> Result<Figure> {
    x.check_same(&y)?;
    let (n, m) = (x.len(), y.len());
    if n.min(m) < 2 {
        return Err(Error::argument("an energy distance needs at least two samples in each set"));
    }
    let unit = 1.0 / (x.dim() as f64).sqrt();
    let sums = |a: Points<'_>, b: Points<'_>, same: bool| -> Vec<f64> {
        let add = |sum: &mut (usize, f64), first: usize, squares: &[f32]| {
            let far = squares.iter().enumerate().filter(|(j, _)| !(same && first + j == sum.0));
            sum.1 += far.map(|(_, square)| f64::from(square.sqrt())).sum::<f64>();
        };
        pairs::fold(a, b, |i| (i, 0.0), add).into_iter().map(|(_, sum)| sum * unit).collect()
    };
    let across = sums(x, y, false);
    let within_y = sums(y, y, true).iter().sum::<f64>() / (m * (m - 1)) as f64;

    // Weights of all resamples by sample, the sample itself (once) first: sum_j w_j |x_i - x_j| for all of them.
    let resamples = bootstrap.resamples as usize + 1;
    let mut weights = vec![1.0; n * resamples];
    for number in 0..bootstrap.resamples {
        for (i, weight) in bootstrap.weights(number, n).into_iter().enumerate() {
            weights[i * resamples + number as usize + 1] = weight;
        }
    }
    let of = |i: usize| &weights[i * resamples..][..resamples];
    let sums = pairs::fold(
        x,
        x,
        |i| (i, vec![0.0; resamples]),
        |(i, sums), first, squares| {
            for (j, square) in squares.iter().enumerate().filter(|(j, _)| first + j != *i) {
                let distance = f64::from(square.sqrt());
                sums.iter_mut().zip(of(first + j)).for_each(|(sum, weight)| *sum += weight * distance);
            }
        },
    );
    let mut figures = (0..resamples).map(|r| {
        let (mut to_y, mut within, mut same) = (0.0, 0.0, 0.0);
        for (i, sums) in &sums {
            let weight = of(*i)[r];
            to_y += weight * across[*i];
            within += weight * sums[r];
            // Pairs of a point with its own repetition are no pairs.
            same += weight * weight;
        }
        let n = n as f64;
        2.0 * to_y / (n * m as f64) - within * unit / (n * n - same) - within_y
    });
    let value = figures.next().unwrap_or_default();
    Ok(Figure::of(value, figures.collect()))
}
