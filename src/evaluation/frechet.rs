//! The Fréchet distance between Gaussians, of features (D. C. Dowson and B. V. Landau, *The Fréchet distance between
//! multivariate normal distributions*, 1982; for generated images arXiv 1706.08500).

use super::bootstrap::{Bootstrap, Figure};
use super::points::{Points, matrix};
use super::symmetric::{congruent, eigenvalues, factor};
use crate::{Error, Result, Status};

/// The most features that a covariance is made of: its matrices take 128 MB each.
pub const MAX_FEATURES: usize = 4096;

/// Rows of one product when a covariance is summed. Part of the result's last digits, so never a matter of threads.
const ROWS: usize = 512;

/// Mean and covariance of a set of points.
#[derive(Clone, Debug, PartialEq)]
pub struct Gaussian {
    /// How many points it was made of.
    pub count: usize,
    /// D values.
    pub mean: Vec<f64>,
    /// D x D values, row-major; the unbiased estimate, divided by `count - 1`.
    pub covariance: Vec<f64>,
}

impl Gaussian {
    /// Mean and covariance of `points`, in f64.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for fewer than two points, or more than [`MAX_FEATURES`] coordinates.
    pub fn of(points: Points<'_>) -> Result<Self> {
        let mean = points.mean();
        let weights = vec![1.0; points.len()];
        Self::weighted(points, &mean, &weights)
    }

    /// The same of points that occur `weights` times, in all as many as there are; `about` is near their mean, so that
    /// nothing cancels.
    fn weighted(points: Points<'_>, about: &[f64], weights: &[f64]) -> Result<Self> {
        let (n, dim) = (points.len(), points.dim());
        if n < 2 {
            return Err(Error::argument("a covariance needs at least two samples, got one"));
        }
        if dim > MAX_FEATURES {
            return Err(Error::argument(format!(
                "a covariance of {dim} features: expected at most {MAX_FEATURES}"
            ))
            .hint("choose a smaller output of the feature network (--feature-output)"));
        }
        let (mut first, mut second) = (vec![0.0; dim], ndarray::Array2::<f64>::zeros((dim, dim)));
        let mut rows = Vec::with_capacity(ROWS.min(n) * dim);
        let mut weighted = Vec::with_capacity(ROWS.min(n) * dim);
        for start in (0..n).step_by(ROWS) {
            rows.clear();
            weighted.clear();
            for (i, &weight) in weights.iter().enumerate().skip(start).take(ROWS).filter(|(_, w)| **w > 0.0) {
                rows.extend(points.row(i).iter().zip(about).map(|(x, mean)| f64::from(*x) - mean));
                weighted.extend(rows[rows.len() - dim..].iter().map(|x| weight * x));
            }
            let count = rows.len() / dim;
            for row in weighted.chunks_exact(dim) {
                first.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            if count > 0 {
                let (x, w) = (matrix(&rows, count, dim), matrix(&weighted, count, dim));
                ndarray::linalg::general_mat_mul(1.0, &w.t(), &x, 1.0, &mut second);
            }
        }
        let n = n as f64;
        first.iter_mut().for_each(|sum| *sum /= n);
        for ((i, j), c) in second.indexed_iter_mut() {
            *c = (*c - n * first[i] * first[j]) / (n - 1.0);
        }
        let mean = about.iter().zip(&first).map(|(about, by)| about + by).collect();
        Ok(Self { count: points.len(), mean, covariance: second.into_raw_vec_and_offset().0 })
    }

    /// The number of features.
    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    fn variance(&self) -> f64 {
        let n = self.dim();
        (0..n).map(|i| self.covariance[i * n + i]).sum()
    }
}

/// A Gaussian that others are compared with: its covariance is factored once.
#[derive(Clone, Debug)]
pub struct Reference {
    gaussian: Gaussian,
    factor: Vec<f64>,
    rank: usize,
}

impl Reference {
    /// Prepares `gaussian`.
    ///
    /// # Errors
    /// [`Status::Numeric`]: its covariance is not positive semidefinite; [`Status::ShapeMismatch`]: it is none of as
    /// many features as the mean has; [`Status::InvalidArgument`]: of more than [`MAX_FEATURES`].
    pub fn new(gaussian: Gaussian) -> Result<Self> {
        let dim = gaussian.dim();
        if dim > MAX_FEATURES || dim == 0 {
            return Err(Error::argument(format!("{dim} features: expected 1 to {MAX_FEATURES}")));
        }
        if gaussian.covariance.len() != dim * dim {
            let message = format!("a covariance of {} values for {dim} features", gaussian.covariance.len());
            return Err(Error::new(Status::ShapeMismatch, message));
        }
        let (factor, rank) = factor(&gaussian.covariance, dim)?;
        Ok(Self { gaussian, factor, rank })
    }

    /// Mean and covariance.
    pub fn gaussian(&self) -> &Gaussian {
        &self.gaussian
    }

    /// The squared Fréchet distance to another Gaussian, as this measure of samples is always given:
    /// |m − m'|² + tr(C + C' − 2 (C C')^(1/2)).
    ///
    /// With C = F Fᵀ the trace of the root is the sum of the roots of Fᵀ C' F's eigenvalues, those of C C'. Never
    /// below zero but by rounding, about 1e-8 of the variances.
    ///
    /// # Errors
    /// [`Status::ShapeMismatch`] for another number of features; [`Status::Numeric`] where the eigenvalues cannot be
    /// found.
    pub fn distance(&self, other: &Gaussian) -> Result<f64> {
        let (mine, dim) = (&self.gaussian, self.gaussian.dim());
        if other.dim() != dim || other.covariance.len() != dim * dim {
            let message = format!("{} features cannot be compared with {dim}", other.dim());
            return Err(Error::new(Status::ShapeMismatch, message));
        }
        let mean: f64 = mine.mean.iter().zip(&other.mean).map(|(a, b)| (a - b) * (a - b)).sum();
        let roots: f64 = match self.rank {
            0 => 0.0,
            rank => {
                let product = congruent(&self.factor, rank, &other.covariance, dim);
                eigenvalues(product, rank)?.into_iter().map(|value| value.max(0.0).sqrt()).sum()
            }
        };
        Ok(mean + mine.variance() + other.variance() - 2.0 * roots)
    }

    /// The distance of `points`, by their mean and covariance.
    ///
    /// It is biased upwards by about tr C / n and more, n the number of points: see [the module](super) about floors.
    /// A resample takes an eigenvalue problem: about 5 ms for 128 features, seconds for 2048.
    ///
    /// # Errors
    /// Those of [`Gaussian::of`] and of [`Self::distance`].
    pub fn distance_of(&self, points: Points<'_>, bootstrap: &Bootstrap) -> Result<Figure> {
        let gaussian = Gaussian::of(points)?;
        let value = self.distance(&gaussian)?;
        bootstrap.distance(value, points.len(), |weights| {
            self.distance(&Gaussian::weighted(points, &gaussian.mean, weights)?)
        })
    }

    /// By how much `points` are farther than `others`, pairs such as solutions from the same starts, which are drawn
    /// again together: what both have of the starts' luck cancels, so that the interval is a sharp one.
    ///
    /// # Errors
    /// Those of [`Self::distance_of`]; [`Status::ShapeMismatch`] for sets of different sizes.
    pub fn excess_of(&self, points: Points<'_>, others: Points<'_>, bootstrap: &Bootstrap) -> Result<Figure> {
        points.check_same(&others)?;
        if points.len() != others.len() {
            let message = format!("pairs of {} and {} samples", points.len(), others.len());
            return Err(Error::new(Status::ShapeMismatch, message));
        }
        let (mine, theirs) = (Gaussian::of(points)?, Gaussian::of(others)?);
        let value = self.distance(&mine)? - self.distance(&theirs)?;
        bootstrap.distance(value, points.len(), |weights| {
            let far = self.distance(&Gaussian::weighted(points, &mine.mean, weights)?)?;
            Ok(far - self.distance(&Gaussian::weighted(others, &theirs.mean, weights)?)?)
        })
    }
}

/// The squared Fréchet distance between two Gaussians: [`Reference::distance`].
///
/// # Errors
/// Those of [`Reference::new`] and [`Reference::distance`].
pub fn frechet_distance(a: &Gaussian, b: &Gaussian) -> Result<f64> {
    Reference::new(a.clone())?.distance(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Purpose, fill_f32};

    #[test]
    fn commuting_covariances_have_a_formula() {
        // sum (sqrt a - sqrt b)^2 along common axes.
        let gaussian = |mean: [f64; 3], variances: [f64; 3]| Gaussian {
            count: 10,
            mean: mean.to_vec(),
            covariance: (0..9).map(|at| if at % 4 == 0 { variances[at / 4] } else { 0.0 }).collect(),
        };
        let (a, b) =
            (gaussian([0.0, 1.0, 2.0], [4.0, 9.0, 0.0]), gaussian([0.0, 3.0, 2.0], [1.0, 9.0, 16.0]));
        assert!((frechet_distance(&a, &b).unwrap() - (4.0 + 1.0 + 0.0 + 16.0)).abs() < 1e-12);
        assert!((frechet_distance(&b, &a).unwrap() - 21.0).abs() < 1e-12);
        assert!(frechet_distance(&a, &a).unwrap().abs() < 1e-12);
        let point = gaussian([0.0; 3], [0.0; 3]);
        assert!((frechet_distance(&point, &a).unwrap() - (5.0 + 13.0)).abs() < 1e-12);
    }

    #[test]
    fn the_interval_covers_the_spread_of_new_draws() {
        // Distances of new draws of the same law: the interval of one of them is as wide as their spread.
        let draw = |seed| {
            let mut values = vec![0.0; 300 * 4];
            fill_f32(seed, Purpose::Probe, 0, 0, &mut values);
            values.chunks_exact_mut(4).for_each(|row| row[0] = 0.3 + 1.2 * row[0]);
            values
        };
        let identity = (0..16).map(|at| f64::from(at % 5 == 0)).collect();
        let reference =
            Reference::new(Gaussian { count: 1000, mean: vec![0.0; 4], covariance: identity }).unwrap();
        let none = Bootstrap { resamples: 0, seed: 0 };
        let mut others: Vec<f64> = (0..400)
            .map(|seed| reference.distance_of(Points::new(&draw(seed), 4).unwrap(), &none).unwrap().value)
            .collect();
        others.sort_by(f64::total_cmp);
        let spread = others[389] - others[10];
        let bootstrap = Bootstrap { resamples: 400, seed: 7 };
        let widths: Vec<f64> = (1000..1010)
            .map(|seed| {
                let figure = reference.distance_of(Points::new(&draw(seed), 4).unwrap(), &bootstrap).unwrap();
                assert!(figure.low < figure.value && figure.value < figure.high);
                figure.high - figure.low
            })
            .collect();
        let width = widths.iter().sum::<f64>() / 10.0;
        assert!((width / spread - 1.0).abs() < 0.15, "{width} for {spread}");
    }

    #[test]
    fn an_excess_is_sharper_than_the_distances() {
        let mut noise = vec![0.0; 500 * 4];
        fill_f32(3, Purpose::Probe, 0, 0, &mut noise);
        let moved: Vec<f32> = noise.iter().map(|x| 1.05 * x + 0.02).collect();
        let (points, others) = (Points::new(&moved, 4).unwrap(), Points::new(&noise, 4).unwrap());
        let identity = (0..16).map(|at| f64::from(at % 5 == 0)).collect();
        let reference =
            Reference::new(Gaussian { count: 1000, mean: vec![0.0; 4], covariance: identity }).unwrap();
        let bootstrap = Bootstrap { resamples: 200, seed: 1 };
        let excess = reference.excess_of(points, others, &bootstrap).unwrap();
        let [far, near] = [points, others].map(|points| reference.distance_of(points, &bootstrap).unwrap());
        assert!((excess.value - (far.value - near.value)).abs() < 1e-12);
        assert!(excess.high - excess.low < 0.8 * (far.high - far.low), "{excess:?}, {far:?}");
        let none = reference.excess_of(others, others, &bootstrap).unwrap();
        assert_eq!((none.value, none.low, none.high), (0.0, 0.0, 0.0));
        assert!(reference.excess_of(points, Points::new(&noise[4..], 4).unwrap(), &bootstrap).is_err());
    }

    #[test]
    fn what_cannot_be_compared() {
        let values = [0.0_f32, 1.0, 2.0, 3.0];
        assert_eq!(
            Gaussian::of(Points::new(&values, 4).unwrap()).unwrap_err().status(),
            Status::InvalidArgument
        );
        let pair = Gaussian::of(Points::new(&values, 2).unwrap()).unwrap();
        let quad = Gaussian::of(Points::new(&values, 1).unwrap()).unwrap();
        assert_eq!(frechet_distance(&pair, &quad).unwrap_err().status(), Status::ShapeMismatch);
        let torn = Gaussian { covariance: vec![1.0], ..pair };
        assert_eq!(Reference::new(torn).unwrap_err().status(), Status::ShapeMismatch);
    }
}
