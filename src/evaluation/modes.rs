//! How samples of a known Gaussian mixture fill its modes.

use super::bootstrap::{Bootstrap, Figure};
use super::points::Points;
use crate::network::analytic::Mixture;
use crate::{Error, Result, Status};
use rayon::prelude::*;

/// Variance that a point's component is given, so that a sample near several of them belongs to the nearest.
const POINT: f64 = 1e-12;

/// How the modes of a mixture are filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModeFigures {
    /// Chi-square of the modes' counts against their weights, per degree of freedom: about 1 for exact samples of
    /// modes that are far apart, less where they overlap, as a sample counts in parts then. 0 for a single mode.
    pub counts: Figure,
    /// The root mean square distance of samples to the mean of their mode, over that of exact samples; `None` where all
    /// components are points.
    pub spread: Option<Figure>,
}

/// How `samples` fill the modes of `mixture`. `labels`: the class of each sample (or one for all), where the
/// mixture's components have classes; a class that no component has is the null class, for all components.
///
/// A sample belongs to component j in the part w_j N(x; mu_j, v_j) / sum, whose mean over exact samples is w_j however
/// much the components overlap.
///
/// # Errors
/// [`Status::ShapeMismatch`] for a mixture of another dimension, or for labels of another number.
pub fn modes(
    samples: Points<'_>,
    mixture: &Mixture,
    labels: &[i64],
    bootstrap: &Bootstrap,
) -> Result<ModeFigures> {
    let (n, d, count) = (samples.len(), samples.dim(), mixture.weights.len());
    if mixture.means.iter().any(|mean| mean.len() != d) {
        let message = format!("samples of {d} values cannot be of this mixture");
        return Err(Error::new(Status::ShapeMismatch, message));
    }
    if labels.len() > 1 && labels.len() != n {
        let message = format!("{} labels for {n} samples", labels.len());
        return Err(Error::new(Status::ShapeMismatch, message));
    }
    let of_class = |i: usize, j: usize| match labels.get(i.min(labels.len().saturating_sub(1))) {
        Some(class) if mixture.labels.contains(class) => mixture.labels[j] == *class,
        _ => true,
    };
    // Of each sample: its parts, what they are expected to be, its mean square distance to its modes, and that of exact
    // samples.
    type Sample = (Vec<f64>, Vec<f64>, f64, f64);
    let of = |i: usize| -> Sample {
        let mut expected: Vec<f64> =
            (0..count).map(|j| if of_class(i, j) { mixture.weights[j] } else { 0.0 }).collect();
        let total: f64 = expected.iter().sum();
        expected.iter_mut().for_each(|w| *w /= total);
        let squares: Vec<f64> = mixture
            .means
            .iter()
            .map(|mean| samples.row(i).iter().zip(mean).map(|(x, m)| (f64::from(*x) - m).powi(2)).sum())
            .collect();
        let logs: Vec<f64> = (0..count)
            .map(|j| {
                let variance = mixture.variances[j].max(POINT);
                libm::log(expected[j]) - 0.5 * (d as f64 * libm::log(variance) + squares[j] / variance)
            })
            .collect();
        let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut parts: Vec<f64> = logs.iter().map(|log| libm::exp(log - largest)).collect();
        let total: f64 = parts.iter().sum();
        parts.iter_mut().for_each(|part| *part /= total);
        let square = parts.iter().zip(&squares).map(|(part, square)| part * square).sum::<f64>() / d as f64;
        let exact = expected.iter().zip(&mixture.variances).map(|(w, v)| w * v).sum();
        (parts, expected, square, exact)
    };
    let all: Vec<Sample> = (0..n).into_par_iter().map(of).collect();

    let chi_square = |weights: &[f64]| -> Result<f64> {
        let (mut found, mut wanted) = (vec![0.0; count], vec![0.0; count]);
        for ((parts, expected, ..), weight) in all.iter().zip(weights) {
            found.iter_mut().zip(parts).for_each(|(sum, part)| *sum += weight * part);
            wanted.iter_mut().zip(expected).for_each(|(sum, w)| *sum += weight * w);
        }
        let seen = || found.iter().zip(&wanted).filter(|(_, wanted)| **wanted > 0.0);
        let freedom = seen().count().saturating_sub(1).max(1) as f64;
        Ok(seen().map(|(found, wanted)| (found - wanted).powi(2) / wanted).sum::<f64>() / freedom)
    };
    let spread = |weights: &[f64]| -> Result<f64> {
        let sum = |value: fn(&Sample) -> f64| -> f64 {
            all.iter().zip(weights).map(|(sample, weight)| weight * value(sample)).sum()
        };
        Ok((sum(|sample| sample.2) / sum(|sample| sample.3)).sqrt())
    };
    let once = vec![1.0; n];
    let counts = bootstrap.distance(chi_square(&once)?, n, chi_square)?;
    // Without its bias a resample's may be below zero, which chi-square is not.
    let counts = Figure { low: counts.low.max(0.0), ..counts };
    let spread = match all.iter().all(|sample| sample.3 > 0.0) {
        true => Some(bootstrap.distance(spread(&once)?, n, spread)?),
        false => None,
    };
    Ok(ModeFigures { counts, spread })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Purpose, fill_f32};

    /// n exact samples of a mixture in one dimension, the components by turns as their weights in tenths say.
    fn exact(weights: &[usize], means: &[f32], std: f32, n: usize) -> Vec<f32> {
        let mut noise = vec![0.0; n];
        fill_f32(4, Purpose::Probe, 0, 0, &mut noise);
        let turns: Vec<usize> =
            weights.iter().enumerate().flat_map(|(j, w)| std::iter::repeat_n(j, *w)).collect();
        noise.iter().enumerate().map(|(i, x)| means[turns[i % turns.len()]] + std * x).collect()
    }

    fn mixture(weights: &[f64], means: &[f64], variance: f64) -> Mixture {
        Mixture {
            weights: weights.to_vec(),
            means: means.iter().map(|m| vec![*m]).collect(),
            variances: vec![variance; weights.len()],
            labels: Vec::new(),
        }
    }

    #[test]
    fn exact_samples_fill_their_modes_and_others_do_not() {
        let bootstrap = Bootstrap { resamples: 100, seed: 2 };
        let of = |values: &[f32], mixture: &Mixture| {
            modes(Points::new(values, 1).unwrap(), mixture, &[], &bootstrap).unwrap()
        };
        let apart = mixture(&[3.0, 5.0, 2.0], &[-2.0, 0.0, 2.0], 0.01);
        let good = exact(&[3, 5, 2], &[-2.0, 0.0, 2.0], 0.1, 1000);
        let found = of(&good, &apart);
        // Stratified: exactly the weights.
        assert!(found.counts.value < 1e-6, "{found:?}");
        let spread = found.spread.unwrap();
        assert!(spread.low < 1.0 && 1.0 < spread.high && spread.high - spread.low < 0.15, "{spread:?}");
        // A third of one mode in another: chi-square by hand.
        let wrong = exact(&[2, 6, 2], &[-2.0, 0.0, 2.0], 0.2, 1000);
        let found = of(&wrong, &apart);
        let by_hand = (100.0_f64.powi(2) / 300.0 + 100.0_f64.powi(2) / 500.0) / 2.0;
        assert!((found.counts.value - by_hand).abs() < 1e-6, "{found:?}");
        assert!((found.spread.unwrap().value - 2.0).abs() < 0.2, "{found:?}");

        // Overlapping components: parts still add up to the weights, and the spread is right.
        let near = mixture(&[0.3, 0.5, 0.2], &[-0.1, 0.0, 0.1], 0.09);
        let found = of(&exact(&[3, 5, 2], &[-0.1, 0.0, 0.1], 0.3, 2000), &near);
        assert!(found.counts.value < 1.5 && (found.spread.unwrap().value - 1.0).abs() < 0.05, "{found:?}");
        // Points have no spread, and a sample belongs to the nearest.
        let points = mixture(&[1.0, 1.0], &[0.0, 1.0], 0.0);
        let found = of(&[0.1, 0.2, 0.9, 0.8], &points);
        assert!(found.counts.value < 1e-9 && found.spread.is_none());
    }

    #[test]
    fn classes_have_modes_of_their_own() {
        let bootstrap = Bootstrap { resamples: 0, seed: 0 };
        let labelled =
            Mixture { labels: vec![0, 1, 1], ..mixture(&[1.0, 1.0, 1.0], &[-1.0, 0.0, 1.0], 0.01) };
        let values = [-1.0, 0.0, 1.0, -1.0];
        let points = Points::new(&values, 1).unwrap();
        let counts = |labels: &[i64]| modes(points, &labelled, labels, &bootstrap).unwrap().counts.value;
        assert!(counts(&[0, 1, 1, 0]) < 1e-9);
        // The null class is of all: 2, 1, 1 for 4/3 each.
        assert!((counts(&[2]) - 0.25).abs() < 1e-9);
        assert!(modes(points, &labelled, &[0, 1], &bootstrap).is_err());
    }
}
