//! The energy distance (G. J. Székely and M. L. Rizzo, *Energy statistics: a class of statistics based on distances*,
//! 2013), which needs no features: zero only for equal distributions.

use super::bootstrap::{Bootstrap, Figure};
use super::pairs;
use super::points::Points;
use crate::{Error, Result, Status};

/// How often each sample is in each resample; the sample itself, each point once, comes first.
struct Weights {
    resamples: usize,
    /// [point, resample].
    all: Vec<f64>,
}

impl Weights {
    fn new(bootstrap: &Bootstrap, n: usize) -> Result<Self> {
        let resamples = bootstrap.resamples as usize + 1;
        let mut all = Vec::new();
        all.try_reserve_exact(n.saturating_mul(resamples)).map_err(|e| {
            let message = format!("{} resamples of {n} samples cannot be allocated", bootstrap.resamples);
            Error::new(Status::OutOfMemory, message).source(e)
        })?;
        all.resize(n * resamples, 1.0);
        for number in 0..bootstrap.resamples {
            for (i, weight) in bootstrap.weights(number, n).into_iter().enumerate() {
                all[i * resamples + number as usize + 1] = weight;
            }
        }
        Ok(Self { resamples, all })
    }

    /// Of point i in all resamples.
    fn of(&self, i: usize) -> &[f64] {
        &self.all[i * self.resamples..][..self.resamples]
    }

    /// For each point of `a` with its place i, sum_{j != i} w_j |a_i − b_j| in all resamples.
    fn distances(&self, a: Points<'_>, b: Points<'_>) -> Vec<(usize, Vec<f64>)> {
        pairs::fold(
            a,
            b,
            |i| (i, vec![0.0; self.resamples]),
            |(i, sums), first, squares| {
                for (j, square) in squares.iter().enumerate().filter(|(j, _)| first + j != *i) {
                    let distance = f64::from(square.sqrt());
                    let weights = self.of(first + j);
                    sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight * distance);
                }
            },
        )
    }
}

/// The number of a resample's pairs; none where it is one point all over, as happens among few points: such a resample says
/// nothing.
fn some_pairs(pairs: f64) -> Option<f64> {
    (pairs > 0.0).then_some(pairs)
}

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

    let weights = Weights::new(bootstrap, n)?;
    let (resamples, of) = (weights.resamples, |i| weights.of(i));
    let sums = weights.distances(x, x);
    let mut figures = (0..resamples).filter_map(|r| {
        let (mut to_y, mut within, mut same) = (0.0, 0.0, 0.0);
        for (i, sums) in &sums {
            let weight = of(*i)[r];
            to_y += weight * across[*i];
            within += weight * sums[r];
            // Pairs of a point with its own repetition are no pairs.
            same += weight * weight;
        }
        let n = n as f64;
        let pairs = some_pairs(n * n - same)?;
        Some(2.0 * to_y / (n * m as f64) - within * unit / pairs - within_y)
    });
    let value = figures.next().unwrap_or_default();
    Ok(Figure::of(value, figures.collect()))
}

/// The same of pairs (x_i, y_i), such as two solutions from the same starts: the cross terms leave the pairs out, so that
/// a pair may depend on itself as much as it will. Zero where both sets are the same, and far less noisy than
/// [`energy_distance`] of independent sets where they are nearly so.
///
/// The interval is that of new pairs. The time grows with n² times the number of resamples.
///
/// # Errors
/// [`Status::ShapeMismatch`](crate::Status::ShapeMismatch) for points of different dimensions or sets of different
/// sizes; [`Status::InvalidArgument`](crate::Status::InvalidArgument) for fewer than two pairs.
pub fn energy_distance_of_pairs(x: Points<'_>, y: Points<'_>, bootstrap: &Bootstrap) -> Result<Figure> {
    x.check_same(&y)?;
    let n = x.len();
    if n != y.len() {
        let message = format!("pairs of {n} and {} samples", y.len());
        return Err(Error::new(Status::ShapeMismatch, message));
    }
    if n < 2 {
        return Err(Error::argument("an energy distance needs at least two samples in each set"));
    }
    let weights = Weights::new(bootstrap, n)?;
    let (resamples, of) = (weights.resamples, |i| weights.of(i));
    // sum over i != j of w_i w_j |a_i - b_j|, for each resample.
    let sums = |a: Points<'_>, b: Points<'_>| -> Vec<f64> {
        let mut all = vec![0.0; resamples];
        for (i, sums) in &weights.distances(a, b) {
            all.iter_mut().zip(sums.iter().zip(of(*i))).for_each(|(all, (sum, weight))| *all += weight * sum);
        }
        all
    };
    let (across, within_x, within_y) = (sums(x, y), sums(x, x), sums(y, y));
    let unit = 1.0 / (x.dim() as f64).sqrt();
    let mut figures = (0..resamples).filter_map(|r| {
        // Pairs of a point with its own repetition are no pairs.
        let same: f64 = (0..n).map(|i| of(i)[r] * of(i)[r]).sum();
        Some((2.0 * across[r] - within_x[r] - within_y[r]) * unit / some_pairs((n * n) as f64 - same)?)
    });
    let value = figures.next().unwrap_or_default();
    Ok(Figure::of(value, figures.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Purpose, fill_f32};

    fn draw(seed: u64, n: usize) -> Vec<f32> {
        let mut values = vec![0.0; n * 3];
        fill_f32(seed, Purpose::Probe, 0, 0, &mut values);
        values
    }

    #[test]
    fn few_points_have_intervals_too() {
        let bootstrap = Bootstrap { resamples: 200, seed: 1 };
        for n in [2, 3, 4] {
            let (x, y) = (draw(3, n), draw(4, n));
            let (x, y) = (Points::new(&x, 3).unwrap(), Points::new(&y, 3).unwrap());
            for figure in [energy_distance(x, y, &bootstrap), energy_distance_of_pairs(x, y, &bootstrap)] {
                let Figure { value, low, high } = figure.unwrap();
                assert!(
                    value.is_finite() && low.is_finite() && low <= high && high.is_finite(),
                    "{n}: {low}, {high}"
                );
            }
        }
    }

    #[test]
    fn pairs_that_are_equal_are_at_distance_zero_and_others_where_independent_sets_are() {
        let bootstrap = Bootstrap { resamples: 50, seed: 1 };
        let x = draw(1, 400);
        let points = Points::new(&x, 3).unwrap();
        let same = energy_distance_of_pairs(points, points, &bootstrap).unwrap();
        assert!(same.value.abs() < 1e-9 && same.low.abs() < 1e-9 && same.high.abs() < 1e-9, "{same:?}");

        // Shifted and stretched: dependent pairs and independent sets estimate the same, the former more sharply.
        let moved = |x: &[f32]| -> Vec<f32> { x.iter().map(|x| 0.5 + 1.3 * x).collect() };
        let none = Bootstrap { resamples: 0, seed: 0 };
        let estimate = |of: &dyn Fn(u64) -> Result<Figure>| {
            let values: Vec<f64> = (0..60).map(|seed| of(10 * seed).unwrap().value).collect();
            let mean = values.iter().sum::<f64>() / 60.0;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 59.0;
            (mean, (variance / 60.0).sqrt())
        };
        let (paired, error) = estimate(&|seed| {
            let x = draw(seed, 100);
            energy_distance_of_pairs(Points::new(&moved(&x), 3)?, Points::new(&x, 3)?, &none)
        });
        let (independent, its_error) = estimate(&|seed| {
            let (x, y) = (draw(seed + 1, 100), draw(seed + 2, 100));
            energy_distance(Points::new(&moved(&x), 3)?, Points::new(&y, 3)?, &none)
        });
        assert!((paired - independent).abs() < 3.0 * error.hypot(its_error), "{paired} for {independent}");
        assert!(error < 0.5 * its_error && error < 0.05 * paired, "{error}, {its_error} of {paired}");

        let moved = moved(&x);
        let figure = energy_distance_of_pairs(Points::new(&moved, 3).unwrap(), points, &bootstrap).unwrap();
        assert!(figure.low < figure.value && figure.value < figure.high, "{figure:?}");
        // 400 pairs in place of 100, and 1.96 standard deviations on both sides.
        let expected = 3.92 * error * 60_f64.sqrt() / 2.0;
        assert!((0.7..1.4).contains(&((figure.high - figure.low) / expected)), "{figure:?} for {expected}");
        assert!(energy_distance_of_pairs(Points::new(&moved[3..], 3).unwrap(), points, &none).is_err());
    }
}
