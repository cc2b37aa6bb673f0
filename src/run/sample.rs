//! The whole way at once: any number of samples, in batches.

use super::{Element, Progress, Run, RunOptions, What, fits};
use crate::Model;
use crate::solver::{Rows, Sampler};
use crate::{Error, Result, Status};
use ndarray::ArrayD;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Samples and how they were made.
#[derive(Clone, Debug)]
pub struct Samples<T> {
    /// [n, C, ...] (data) or [n, k*C, ...] (state).
    pub values: ArrayD<T>,
    /// Network calls for each sample, the closing one included.
    pub nfe: usize,
    /// Where the time went.
    pub seconds: Seconds,
}

/// Where the time of a call to [`sample`] went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seconds {
    /// In network calls.
    pub network: f64,
    /// In everything else: updates, noise, copies.
    pub solver: f64,
}

/// How far a call to [`sample`] is.
#[derive(Clone, Copy, Debug)]
pub struct Overall {
    /// Samples in all.
    pub n: usize,
    /// Samples finished.
    pub finished: usize,
    /// Samples in flight.
    pub in_flight: usize,
    /// Progress of those in flight.
    pub run: Progress,
}

impl Overall {
    /// Share of the work that is done, 0 to 1.
    pub fn fraction(&self) -> f64 {
        (self.finished as f64 + self.in_flight as f64 * self.run.fraction) / self.n as f64
    }
}

/// Draws `options.n` samples, in batches of `options.batch`.
///
/// Noise does not depend on the batch size. An adaptive sampler keeps all samples in one run (its step sizes come
/// from all of them) and batches only the network's calls. `observe` is called after each step.
///
/// # Errors
/// Those of [`Run::start`] and [`Run::step`]; [`Status::Cancelled`] also where `observe` breaks.
pub fn sample<T: Element>(
    model: &Model,
    sampler: &Arc<Sampler>,
    options: &RunOptions,
    what: What,
    observe: impl FnMut(Overall) -> ControlFlow<()>,
) -> Result<Samples<T>> {
    let began = Instant::now();
    let shape = shape(sampler, options.n, what);
    let len = elements(&shape);
    // The result's own memory comes on top of a run's.
    let batches = Batches::new(sampler, options, len)?;
    let mut values = Vec::new();
    let len = len as usize;
    values.try_reserve_exact(len).map_err(|e| {
        Error::new(Status::OutOfMemory, format!("the result of {len} elements cannot be allocated")).source(e)
    })?;
    values.resize(len, T::default());
    let (nfe, seconds) = batches.run(model, sampler, what, &mut values, began, observe)?;
    let values = ArrayD::from_shape_vec(shape, values)
        .map_err(|e| Error::new(Status::Internal, "the result's shape").source(e))?;
    Ok(Samples { values, nfe, seconds })
}

/// [`sample`] into the caller's memory: exactly the elements of [n, C, ...] or [n, k*C, ...]. Gives the network
/// calls and where the time went.
///
/// After an error `out` holds the batches that were finished, and is otherwise as it was.
///
/// # Errors
/// Those of [`sample`]; [`Status::BufferTooSmall`] or [`Status::InvalidArgument`] for an `out` of another length.
pub fn sample_into<T: Element>(
    model: &Model,
    sampler: &Arc<Sampler>,
    options: &RunOptions,
    what: What,
    out: &mut [T],
    observe: impl FnMut(Overall) -> ControlFlow<()>,
) -> Result<(usize, Seconds)> {
    let began = Instant::now();
    let batches = Batches::new(sampler, options, 0)?;
    fits(out.len(), elements(&shape(sampler, options.n, what)))?;
    batches.run(model, sampler, what, out, began, observe)
}

fn shape(sampler: &Sampler, n: usize, what: What) -> Vec<usize> {
    let mut shape = vec![n];
    shape.extend(&sampler.model.data.shape);
    if what == What::State {
        shape[1] *= sampler.process.k();
    }
    shape
}

fn elements(shape: &[usize]) -> u128 {
    shape.iter().map(|size| *size as u128).product()
}

/// Checked options, and how many samples are in one run.
struct Batches {
    options: RunOptions,
    at_once: usize,
}

impl Batches {
    /// `result`: elements that the result takes beside the runs.
    fn new(sampler: &Sampler, options: &RunOptions, result: u128) -> Result<Self> {
        let n = options.n;
        let batch = options.batch.unwrap_or(64).clamp(1, n.max(1));
        let mut options = RunOptions { batch: Some(batch), ..options.clone() };
        options.check(&sampler.model, sampler)?;
        let at_once = if matches!(sampler.rows, Rows::Adaptive(_)) { n } else { batch };
        options.check_memory(result + at_once as u128 * sampler.elements())?;
        Ok(Self { options, at_once })
    }

    fn run<T: Element>(
        &self,
        model: &Model,
        sampler: &Arc<Sampler>,
        what: What,
        out: &mut [T],
        began: Instant,
        mut observe: impl FnMut(Overall) -> ControlFlow<()>,
    ) -> Result<(usize, Seconds)> {
        let Self { options, at_once } = self;
        let n = options.n;
        let (mut nfe, mut network) = (0, Duration::ZERO);
        let len = out.len() / n;
        for (i, out) in out.chunks_mut(at_once * len).enumerate() {
            let finished = i * at_once;
            let in_flight = out.len() / len;
            let mut part = options.slice(finished..finished + in_flight);
            part.deadline = options.deadline.map(|d| d.saturating_sub(began.elapsed()));
            let mut run = Run::start(model, sampler, part)?;
            let cancelled = |p: Progress| {
                Error::new(
                    Status::Cancelled,
                    format!("cancelled after step {} and {finished} samples", p.step),
                )
            };
            let (last, go_on) = loop {
                let progress = run.step(1)?;
                let go_on = observe(Overall { n, finished, in_flight, run: progress });
                if progress.done {
                    break (progress, go_on);
                }
                if go_on.is_break() {
                    return Err(cancelled(progress));
                }
            };
            run.read(what, out)?;
            if go_on.is_break() && finished + in_flight < n {
                return Err(cancelled(last));
            }
            nfe = nfe.max(run.progress().nfe);
            network += run.network_time();
        }
        let seconds = Seconds {
            network: network.as_secs_f64(),
            solver: began.elapsed().saturating_sub(network).as_secs_f64(),
        };
        Ok((nfe, seconds))
    }
}
