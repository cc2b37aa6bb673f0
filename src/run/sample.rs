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

/// Samples of one network call, and of one run.
fn in_flight(sampler: &Sampler, options: &RunOptions) -> (usize, usize) {
    let batch = options.batch.unwrap_or(64).clamp(1, options.n.max(1));
    (batch, if matches!(sampler.rows, Rows::Adaptive(_)) { options.n } else { batch })
}

/// Whether [`sample`] with these arguments stays within `options.max_memory`: its result and the samples in flight.
///
/// # Errors
/// [`Status::MemoryLimit`].
pub fn check_size(sampler: &Sampler, options: &RunOptions, what: What) -> Result<()> {
    let (_, at_once) = in_flight(sampler, options);
    options.check_memory(elements(&shape(sampler, options.n, what)) + at_once as u128 * sampler.elements())
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
    // First: other checks may take memory for each sample.
    check_size(sampler, options, what)?;
    options.check(&sampler.model, sampler)?;
    let shape = shape(sampler, options.n, what);
    let len = shape.iter().product();
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|e| {
        Error::new(Status::OutOfMemory, format!("the result of {len} elements cannot be allocated")).source(e)
    })?;
    values.resize(len, T::default());
    let (nfe, seconds) = sample_into(model, sampler, options, what, &mut values, observe)?;
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
    mut observe: impl FnMut(Overall) -> ControlFlow<()>,
) -> Result<(usize, Seconds)> {
    let began = Instant::now();
    let n = options.n;
    let (batch, at_once) = in_flight(sampler, options);
    options.check_memory(at_once as u128 * sampler.elements())?;
    options.check(&sampler.model, sampler)?;
    fits(out.len(), elements(&shape(sampler, n, what)))?;
    let len = out.len() / n;
    let (mut nfe, mut network) = (0, Duration::ZERO);
    for (i, out) in out.chunks_mut(at_once * len).enumerate() {
        let finished = i * at_once;
        let in_flight = out.len() / len;
        let mut part = options.slice(finished..finished + in_flight);
        part.batch = Some(batch);
        part.deadline = options.deadline.map(|d| d.saturating_sub(began.elapsed()));
        let mut run = Run::start_at(finished, model, sampler, part)?;
        let mut stop = false;
        while !run.progress().done && !stop {
            let progress = run.step(1)?;
            stop = observe(Overall { n, finished, in_flight, run: progress }).is_break();
        }
        let done = run.progress().done;
        if done {
            run.read(what, out)?;
            nfe = nfe.max(run.progress().nfe);
            network += run.network_time();
        }
        // A break at the very end comes too late to cancel anything.
        if stop && !(done && finished + in_flight == n) {
            let step = run.progress().step;
            let message =
                format!("cancelled after step {step}, with {finished} of {n} samples finished before");
            return Err(Error::new(Status::Cancelled, message));
        }
    }
    let seconds = Seconds {
        network: network.as_secs_f64(),
        solver: began.elapsed().saturating_sub(network).as_secs_f64(),
    };
    Ok((nfe, seconds))
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
