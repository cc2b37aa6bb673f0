//! The forward times that a sampler may use.

use super::{Clock, Decoder};
use crate::process::Process;
use crate::spec::{ModelSpec, SamplerSpec};
use crate::{Error, Result};
use std::sync::Arc;

/// The forward times that a sampler may use.
#[derive(Clone, Debug)]
pub struct Times {
    /// The first.
    pub low: f64,
    /// The last.
    pub high: f64,
    /// Where sampling starts by default: the last, but for tables of betas whose network predicts epsilon or the score the
    /// largest entry with alpha of at least 0.005.
    pub start: f64,
    /// Where the solver's steps end by default.
    pub end: f64,
    /// Whether the network knows less than the whole path.
    pub(super) clipped: bool,
    /// What the network is told of the time, where that is whole numbers.
    pub(crate) whole: Option<Whole>,
}

/// Whole numbers that a network is told of the time.
#[derive(Clone, Debug)]
pub(crate) struct Whole {
    pub clock: Arc<Clock>,
    /// Whether the network was trained on another path than the one that is sampled.
    pub foreign: bool,
}

impl Times {
    /// Those of a process whose own network drives it.
    pub fn of(process: &Process) -> Self {
        let (low, high) = process.times();
        // The published 0.001 is near enough to the data, but not where the noise level is what time is, nor where
        // the first entry of a table of betas is the first that the network knows.
        let whole = process.entries().is_some() || process.explodes();
        let end = if whole && low > 1e-7 { low } else { 0.001 };
        Self { low, high, start: high, end, clipped: false, whole: None }
    }

    /// Those of `model`: of its process, as far as the network knows the signal-to-noise ratio there.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`](crate::Status::InvalidArgument) where it knows that of no time.
    pub fn of_model(model: &ModelSpec) -> Result<Self> {
        Decoder::new(model)?.times(&model.process()?)
    }

    /// Start and end of a sampler's grid in forward time, checked.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`](crate::Status::InvalidArgument), with the range.
    pub fn interval(&self, spec: &SamplerSpec) -> Result<(f64, f64)> {
        let (start, end) = (spec.t_start.unwrap_or(self.start), spec.t_end.unwrap_or(self.end));
        if self.low <= end && end < start && start <= self.high {
            return Ok((start, end));
        }
        let number = |t: f64| if t == 1.0 { "1".into() } else { format!("{t:?}") };
        let error = Error::argument(format!(
            "t_start = {start:?}, t_end = {end:?}: expected {} <= t_end < t_start <= {}",
            number(self.low),
            number(self.high)
        ));
        Err(match self.clipped {
            true => error.hint(
                "outside of these times the signal-to-noise ratio is one that the network was not trained on",
            ),
            false => error,
        })
    }
}
