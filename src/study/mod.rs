//! Samplers compared on a network: how far from the converged solution each ends, at each number of network calls.
//!
//! The reference is the converged probability flow from the same starts (the same seeds), so that deterministic samplers
//! are compared sample by sample. Of samplers that draw noise only the distribution can be compared; every measure of it
//! leaves the pairs of samples from the same start out of account, or draws them again together. Each figure comes with
//! a bootstrap interval and has a *floor*: the same figure of a second, less converged reference.

use crate::array::Precision;
use crate::evaluation::{
    Bootstrap, Figure, Points, Reference, energy_distance_of_pairs, median, modes, precision_recall,
};
use crate::run::{self, Overall, RunOptions};
use crate::spec::{SamplerSpec, What};
use crate::{Error, Model, Result, Sampler};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::sync::Arc;

/// What all samplers of a study have in common.
#[derive(Clone, Debug)]
pub struct StudyOptions {
    /// Starts.
    pub n: usize,
    /// Seed of the first; sample i has seed + i.
    pub seed: u64,
    /// Class of each start, one after another, from the beginning again where there are fewer than starts; empty:
    /// the null class.
    pub labels: Vec<i64>,
    /// Samples of one network call; `None`: at most 64.
    pub batch: Option<usize>,
    /// The converged solution: a deterministic sampler.
    pub reference: SamplerSpec,
    /// How intervals are made.
    pub bootstrap: Bootstrap,
    /// Of precision and recall.
    pub neighbours: usize,
}

impl StudyOptions {
    /// The defaults: 256 starts from seed 0, the reference `rk45` with tolerances of 1e-5.
    pub fn new() -> Self {
        Self {
            n: 256,
            seed: 0,
            labels: Vec::new(),
            batch: None,
            reference: SamplerSpec {
                sampler: Some("rk45".into()),
                rtol: Some(1e-5),
                atol: Some(1e-5),
                ..SamplerSpec::default()
            },
            bootstrap: Bootstrap::default(),
            neighbours: 3,
        }
    }
}

impl Default for StudyOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Samples of one sampler.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// [n, C, ...].
    pub data: Vec<f32>,
    /// Network calls for each.
    pub nfe: usize,
}

/// Features of samples, and what they are compared with.
#[derive(Clone, Copy, Debug)]
pub struct Features<'a> {
    /// Of the sampler's samples.
    pub samples: Points<'a>,
    /// Of the converged solution.
    pub converged: Points<'a>,
    /// Mean and covariance of the training data's.
    pub reference: &'a Reference,
    /// Of training data, as many as there are samples at most.
    pub train: Option<Points<'a>>,
}

/// The figures of one sampler at one number of calls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Median over the samples of the root mean square distance to the converged solution from the same start; of
    /// deterministic samplers.
    pub rms: Option<Figure>,
    /// Share of the samples that land elsewhere: farther from their converged solution than half the median distance
    /// between two converged solutions. Of deterministic samplers.
    pub elsewhere: Option<Figure>,
    /// [`energy_distance_of_pairs`] to the converged solution.
    pub energy_distance: Figure,
    /// [`modes`] of a known mixture: [`ModeFigures::counts`](crate::evaluation::ModeFigures::counts).
    pub mode_counts: Option<Figure>,
    /// The same: [`ModeFigures::spread`](crate::evaluation::ModeFigures::spread).
    pub mode_spread: Option<Figure>,
    /// Frechet distance of features to those of the training data.
    pub frechet_distance: Option<Figure>,
    /// By how much that distance is larger than the converged solution's own: an interval that holds 0 is one that
    /// cannot be told from it. Samples and converged solution are drawn again together, as pairs.
    pub frechet_excess: Option<Figure>,
    /// Share of the samples within the manifold of the training data's features.
    pub precision: Option<Figure>,
    /// Share of the training data within the manifold of the samples' features.
    pub recall: Option<Figure>,
}

impl Figures {
    /// Names of all figures, for columns.
    pub const NAMES: [&str; 9] = [
        "rms",
        "elsewhere",
        "energy_distance",
        "mode_counts",
        "mode_spread",
        "frechet_distance",
        "frechet_excess",
        "precision",
        "recall",
    ];

    /// Whether all that there are, are numbers: samples may be too far apart for squares of their distances.
    pub fn finite(&self) -> bool {
        let finite = |figure: Figure| [figure.value, figure.low, figure.high].iter().all(|x| x.is_finite());
        self.all().into_iter().flatten().all(finite)
    }

    /// In the order of [`Self::NAMES`].
    pub fn all(&self) -> [Option<Figure>; 9] {
        [
            self.rms,
            self.elsewhere,
            Some(self.energy_distance),
            self.mode_counts,
            self.mode_spread,
            self.frechet_distance,
            self.frechet_excess,
            self.precision,
            self.recall,
        ]
    }
}

/// A network with a reference.
pub struct Study<'a> {
    model: &'a Model,
    options: &'a StudyOptions,
    reference: Arc<Sampler>,
    second: Arc<Sampler>,
}

impl<'a> Study<'a> {
    /// Begins; no network call yet.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`](crate::Status::InvalidArgument) for options out of range, or a reference that draws
    /// noise; those of [`Sampler::compile`].
    pub fn new(model: &'a Model, options: &'a StudyOptions) -> Result<Self> {
        if options.n < 2 {
            return Err(Error::argument(format!("n = {}: a study needs at least two samples", options.n)));
        }
        let compile = |spec: &SamplerSpec| -> Result<Sampler> {
            Sampler::compile(model.spec(), spec, None).map_err(|e| e.context("reference"))
        };
        let reference = compile(&options.reference)?;
        let info = reference.info();
        if info.stochastic {
            return Err(Error::argument(format!("reference: `{}` draws noise", info.name)).hint(
                "what the others are compared with is the converged probability flow: `rk45`, or a deterministic \
                 sampler with many calls",
            ));
        }
        // What it takes of a reference that it is only just converged.
        let given = &options.reference;
        let second = if info.adaptive {
            let looser = |tolerance: Option<f64>| Some(10.0 * tolerance.unwrap_or(1e-4));
            SamplerSpec { rtol: looser(given.rtol), atol: looser(given.atol), ..given.clone() }
        } else {
            let half = |calls: u32| (calls / 2).max(1);
            let steps = reference.plan().map_or(0, |plan| u32::try_from(plan.steps).unwrap_or(u32::MAX));
            SamplerSpec { steps: Some(half(steps)), nfe: None, ..given.clone() }
        };
        let second = Arc::new(compile(&second)?);
        Ok(Self { model, options, reference: Arc::new(reference), second })
    }

    /// The sampler of the reference.
    pub fn reference(&self) -> &Sampler {
        &self.reference
    }

    /// The converged solution. Its state is in double precision.
    ///
    /// # Errors
    /// Those of [`run::sample`].
    pub fn converge(&self, observe: impl FnMut(Overall) -> ControlFlow<()>) -> Result<Solution> {
        self.solve(&self.reference, Precision::F64, observe)
    }

    /// A less converged one, with ten times the tolerances or half the steps, for floors.
    ///
    /// # Errors
    /// Those of [`run::sample`].
    pub fn converge_less(&self, observe: impl FnMut(Overall) -> ControlFlow<()>) -> Result<Solution> {
        self.solve(&self.second, Precision::F64, observe)
    }

    /// Samples of `sampler` from the same starts, in single precision.
    ///
    /// # Errors
    /// Those of [`run::sample`].
    pub fn draw(
        &self,
        sampler: &Arc<Sampler>,
        observe: impl FnMut(Overall) -> ControlFlow<()>,
    ) -> Result<Solution> {
        self.solve(sampler, Precision::F32, observe)
    }

    fn solve(
        &self,
        sampler: &Arc<Sampler>,
        precision: Precision,
        observe: impl FnMut(Overall) -> ControlFlow<()>,
    ) -> Result<Solution> {
        let StudyOptions { n, seed, batch, .. } = *self.options;
        // Before there are labels for so many.
        run::check_size(sampler, &RunOptions { batch, precision, ..RunOptions::new(n) }, What::Data)?;
        let labels = self.labels();
        let options = RunOptions {
            seed,
            batch,
            precision,
            labels: (!labels.is_empty()).then_some(labels),
            ..RunOptions::new(n)
        };
        let made = run::sample::<f32>(self.model, sampler, &options, What::Data, observe)?;
        Ok(Solution { data: made.values.into_raw_vec_and_offset().0, nfe: made.nfe })
    }

    /// The class of each sample; empty for none.
    fn labels(&self) -> Vec<i64> {
        let labels = &self.options.labels;
        labels.iter().copied().cycle().take(if labels.is_empty() { 0 } else { self.options.n }).collect()
    }

    /// The figures of `samples`, which are those of a sampler that draws noise or not, against the converged solution.
    ///
    /// # Errors
    /// Those of the figures; [`Status::NonFinite`](crate::Status::NonFinite) for samples that are not finite.
    pub fn figures(
        &self,
        samples: &Solution,
        converged: &Solution,
        stochastic: bool,
        features: Option<Features<'_>>,
    ) -> Result<Figures> {
        let d = self.model.spec().data_len();
        let bootstrap = &self.options.bootstrap;
        let (x, y) = (Points::new(&samples.data, d)?, Points::new(&converged.data, d)?);
        let mut figures = Figures {
            rms: None,
            elsewhere: None,
            energy_distance: energy_distance_of_pairs(x, y, bootstrap)?,
            mode_counts: None,
            mode_spread: None,
            frechet_distance: None,
            frechet_excess: None,
            precision: None,
            recall: None,
        };
        if !stochastic {
            let n = y.len();
            let apart: Vec<f64> = (0..n).map(|i| rms(x.row(i), y.row(i))).collect();
            // Half the set apart, or a little more, so that labels in turn are the same: n pairs that depend on no draw.
            let half = (n / 2).next_multiple_of(self.options.labels.len().max(1));
            let step = if half < n { half } else { n / 2 };
            let mut typical: Vec<f64> = (0..n).map(|i| rms(y.row(i), y.row((i + step) % n))).collect();
            typical.sort_by(f64::total_cmp);
            let elsewhere = 0.5 * typical[n / 2];
            let landed: Vec<f64> =
                apart.iter().map(|apart| f64::from(u8::from(*apart > elsewhere))).collect();
            figures.rms = Some(median(&apart, bootstrap));
            figures.elsewhere = Some(bootstrap.mean(&landed));
        }
        if let Some(mixture) = self.model.mixture() {
            let found = modes(x, mixture, &self.labels(), bootstrap)?;
            figures.mode_counts = Some(found.counts);
            figures.mode_spread = found.spread;
        }
        if let Some(features) = features {
            self.compare(&mut figures, features)?;
        }
        Ok(figures)
    }

    fn compare(&self, figures: &mut Figures, features: Features<'_>) -> Result<()> {
        let StudyOptions { bootstrap, neighbours, .. } = self.options;
        let Features { samples, converged, reference, train } = features;
        figures.frechet_distance = Some(reference.distance_of(samples, bootstrap)?);
        figures.frechet_excess = Some(reference.excess_of(samples, converged, bootstrap)?);
        if let Some(train) = train {
            let found = precision_recall(samples, train, *neighbours, bootstrap)?;
            (figures.precision, figures.recall) = (Some(found.precision), Some(found.recall));
        }
        Ok(())
    }
}

/// Root of the mean square of the difference.
fn rms(a: &[f32], b: &[f32]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    libm::sqrt(sum / a.len() as f64)
}
