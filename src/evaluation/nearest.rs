//! Whether samples are copies: how near to the training set they are.

use super::bootstrap::{Bootstrap, Figure, quantile};
use super::pairs;
use super::points::Points;
use crate::{Error, Result};

/// The distance of each of `points` to the nearest of `others`: the root of the mean square of the difference's
/// coordinates, so in units of the data.
///
/// # Errors
/// [`Status::ShapeMismatch`](crate::Status::ShapeMismatch) for points of different dimensions.
pub fn nearest(points: Points<'_>, others: Points<'_>) -> Result<Vec<f64>> {
    points.check_same(&others)?;
    let found = pairs::fold(
        points,
        others,
        |i| (i, 0, f32::INFINITY),
        |(_, best, least), first, squares| {
            for (j, &square) in squares.iter().enumerate().filter(|(_, square)| **square < f32::INFINITY) {
                if square < *least {
                    (*best, *least) = (first + j, square);
                }
            }
        },
    );
    // Of an exact copy the products leave rounding error; this is zero.
    let exact = |i: usize, j: usize| {
        let pairs = points.row(i).iter().zip(others.row(j));
        let square: f64 = pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
        (square / points.dim() as f64).sqrt()
    };
    Ok(found.into_iter().map(|(i, best, _)| exact(i, best)).collect())
}

/// The median of `values`, one for each sample.
pub fn median(values: &[f64], bootstrap: &Bootstrap) -> Figure {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let sorted: Vec<f64> = order.iter().map(|&i| values[i]).collect();
    let again = (0..bootstrap.resamples).map(|number| {
        let counts = bootstrap.counts(number, values.len());
        let drawn = order.iter().flat_map(|&i| std::iter::repeat_n(values[i], counts[i] as usize));
        quantile(&drawn.collect::<Vec<_>>(), 0.5)
    });
    Figure::of(quantile(&sorted, 0.5), again.collect())
}

/// The probability that a sample is nearer to the training set than a held-out image is, of equal ones half: 0.5
/// where samples keep the distance that unseen data have, 1 where all are copies, below 0.5 where they are far from
/// the data. (The statistic of C. Meehan, K. Chaudhuri and S. Dasgupta, *A non-parametric test to detect data-copying
/// in generative models*, arXiv 2004.05675, as a probability.)
///
/// `samples` and `held_out` are distances to the same training set: [`nearest`]. The interval is that of new samples.
///
/// # Errors
/// [`Status::InvalidArgument`](crate::Status::InvalidArgument) for an empty set.
pub fn copying(samples: &[f64], held_out: &[f64], bootstrap: &Bootstrap) -> Result<Figure> {
    if samples.is_empty() || held_out.is_empty() {
        return Err(Error::argument("copying: expected distances of samples and of held-out data"));
    }
    let mut sorted = held_out.to_vec();
    sorted.sort_by(f64::total_cmp);
    let farther = |distance: &f64| {
        let below = sorted.partition_point(|other| other < distance);
        let equal = sorted.partition_point(|other| other <= distance) - below;
        (sorted.len() - below - equal) as f64 + 0.5 * equal as f64
    };
    let shares: Vec<f64> = samples.iter().map(|distance| farther(distance) / sorted.len() as f64).collect();
    Ok(bootstrap.mean(&shares))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_at_distance_zero() {
        let others: Vec<f32> = (0..3000).map(|i| (i as f32 * 0.37).sin() * 100.0).collect();
        let others = Points::new(&others, 3).unwrap();
        let mut mine = others.select(&[17, 999]);
        mine.extend([100.0, 0.0, 0.0]);
        let distances = nearest(Points::new(&mine, 3).unwrap(), others).unwrap();
        assert_eq!(distances[..2], [0.0, 0.0]);
        assert!(distances[2] > 0.1);
    }

    #[test]
    fn copying_is_a_probability() {
        let none = Bootstrap { resamples: 0, seed: 0 };
        let test = [1.0, 2.0, 3.0, 4.0];
        let of = |samples: &[f64]| copying(samples, &test, &none).unwrap().value;
        assert_eq!(of(&test), 0.5);
        assert_eq!(of(&[0.0, 0.0]), 1.0);
        assert_eq!(of(&[9.0]), 0.0);
        assert_eq!(of(&[0.5, 2.0]), (1.0 + 2.5 / 4.0) / 2.0);
        assert!(copying(&[], &test, &none).is_err());
    }

    #[test]
    fn medians() {
        let values = [5.0, 1.0, 3.0, 2.0];
        let figure = median(&values, &Bootstrap { resamples: 100, seed: 0 });
        assert_eq!(figure.value, 2.5);
        assert!(figure.low < 2.5 && figure.high > 2.5);
    }
}
