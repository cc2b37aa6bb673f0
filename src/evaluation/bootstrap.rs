//! Intervals by drawing again, and subsets by lot.

use crate::noise::philox4x32;
use crate::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// What Philox's third word says a draw is for; psld's noise ends at 3, psld-training's numbers at 21.
const RESAMPLE: u32 = 32;
const SUBSET: u32 = 33;

/// A figure with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// What was measured.
    pub value: f64,
    /// 2.5 % of figures of as many samples are below; equal to `value` without resamples.
    pub low: f64,
    /// 2.5 % are above.
    pub high: f64,
}

impl Figure {
    /// The figure whose value is `value`, and on resamples `again`.
    pub(super) fn of(value: f64, mut again: Vec<f64>) -> Self {
        if again.is_empty() {
            return Self { value, low: value, high: value };
        }
        again.sort_by(f64::total_cmp);
        Self { value, low: quantile(&again, 0.025), high: quantile(&again, 0.975) }
    }
}

/// How intervals are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// How often the samples are drawn again; 0: no intervals.
    pub resamples: u32,
    /// Which draws these are.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 200, seed: 0 }
    }
}

impl Bootstrap {
    /// How often each of `n` samples occurs in resample `number`: n draws in all.
    ///
    /// Draw i is the sample floor(w n / 2^32), w word i % 4 of [`philox4x32`] at the counter (i / 4, `number`, 32, 0)
    /// under the seed's low and high half.
    pub fn counts(&self, number: u32, n: usize) -> Vec<u32> {
        let mut counts = vec![0; n];
        for index in draws(self.seed, number, RESAMPLE).take(n).map(|word| below(word, n)) {
            counts[index] += 1;
        }
        counts
    }

    /// A distance whose value is `value`, and `again(weights)` where sample i occurs `weights[i]` times; the weights' sum
    /// is `n`. The bias of a resample is taken out. Resamples are computed in parallel.
    ///
    /// # Errors
    /// Those of `again`.
    pub fn distance(
        &self,
        value: f64,
        n: usize,
        again: impl Fn(&[f64]) -> Result<f64> + Sync,
    ) -> Result<Figure> {
        let figures: Result<Vec<f64>> =
            (0..self.resamples).into_par_iter().map(|number| again(&self.weights(number, n))).collect();
        let figures = figures?;
        let bias = figures.iter().sum::<f64>() / figures.len().max(1) as f64 - value;
        Ok(Figure::of(value, figures.into_iter().map(|figure| figure - bias).collect()))
    }

    /// [`Self::counts`] as numbers.
    pub(super) fn weights(&self, number: u32, n: usize) -> Vec<f64> {
        self.counts(number, n).into_iter().map(f64::from).collect()
    }

    /// The mean of `values`, one for each sample.
    pub fn mean(&self, values: &[f64]) -> Figure {
        let n = values.len();
        let mean = |weights: &[f64]| weights.iter().zip(values).map(|(w, v)| w * v).sum::<f64>() / n as f64;
        let again = (0..self.resamples).map(|number| mean(&self.weights(number, n))).collect();
        Figure::of(values.iter().sum::<f64>() / n as f64, again)
    }
}

/// `count` of the numbers below `n`, in ascending order: a subset by lot, another one for each seed and `which`.
///
/// # Errors
/// [`Status::InvalidArgument`](crate::Status::InvalidArgument): `count` is more than `n`.
pub fn subset(seed: u64, which: u32, count: usize, n: usize) -> Result<Vec<usize>> {
    if count > n {
        return Err(Error::argument(format!("a subset of {count} cannot be drawn from {n}")));
    }
    let mut all: Vec<usize> = (0..n).collect();
    // The first steps of a shuffle.
    for (i, word) in (0..count).zip(draws(seed, which, SUBSET)) {
        all.swap(i, i + below(word, n - i));
    }
    all.truncate(count);
    all.sort_unstable();
    Ok(all)
}

fn draws(seed: u64, draw: u32, purpose: u32) -> impl Iterator<Item = u32> {
    let key = [seed as u32, (seed >> 32) as u32];
    (0..).flat_map(move |block| philox4x32([block, draw, purpose, 0], key))
}

/// A number below `n`, which is less than 2^32.
fn below(word: u32, n: usize) -> usize {
    ((u64::from(word) * n as u64) >> 32) as usize
}

/// The quantile at `share` of sorted values, linear between them.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, part) = (place as usize, place.fract());
    match sorted.get(below + 1) {
        Some(above) => sorted[below] + part * (above - sorted[below]),
        None => sorted[below],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_draws_with_replacement() {
        let bootstrap = Bootstrap { resamples: 3, seed: 5 };
        let counts = bootstrap.counts(1, 1000);
        assert_eq!(counts.iter().sum::<u32>(), 1000);
        // e^-1 of the samples are left out.
        let left_out = counts.iter().filter(|count| **count == 0).count();
        assert!((330..410).contains(&left_out), "{left_out}");
        assert_eq!(counts, bootstrap.counts(1, 1000));
        assert_ne!(counts, bootstrap.counts(2, 1000));
        assert_ne!(counts, Bootstrap { seed: 6, ..bootstrap }.counts(1, 1000));
    }

    #[test]
    fn a_subset_is_one() {
        let chosen = subset(3, 0, 40, 100).unwrap();
        assert_eq!(chosen.len(), 40);
        assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]) && chosen[39] < 100);
        assert_ne!(chosen, subset(3, 1, 40, 100).unwrap());
        assert_eq!(subset(3, 0, 7, 7).unwrap(), (0..7).collect::<Vec<_>>());
        assert!(subset(3, 0, 8, 7).is_err());
        // Every number is as likely: 2000 subsets of 3 of 10.
        let mut hits = [0; 10];
        (0..2000).for_each(|seed| subset(seed, 0, 3, 10).unwrap().iter().for_each(|&i| hits[i] += 1));
        assert!(hits.iter().all(|hits| (500..700).contains(hits)), "{hits:?}");
    }

    #[test]
    fn the_interval_of_a_mean_is_the_textbooks() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 20)).collect();
        let figure = Bootstrap { resamples: 2000, seed: 1 }.mean(&values);
        assert_eq!(figure.value, 9.5);
        let expected = 1.96 * (399.0 / 12.0 / 400.0_f64).sqrt();
        assert!(((figure.high - figure.low) / (2.0 * expected) - 1.0).abs() < 0.06, "{figure:?}");
        assert!(((figure.high + figure.low) / 2.0 - 9.5).abs() < 0.1 * expected, "{figure:?}");
        let none = Bootstrap { resamples: 0, seed: 1 }.mean(&values);
        assert_eq!((none.low, none.high), (9.5, 9.5));
    }

    #[test]
    fn quantiles_are_those_of_numpy() {
        let values = [1.0, 2.0, 4.0, 8.0];
        for (share, expected) in [(0.0, 1.0), (0.5, 3.0), (0.975, 7.7), (1.0, 8.0)] {
            assert!((quantile(&values, share) - expected).abs() < 1e-12);
        }
    }
}
