//! The whole way at once: any number of samples, in batches.

use super::{Element, Progress, Run, RunOptions, What};
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
    /// Samples finished.
    pub finished: usize,
    /// Samples in flight.
    pub in_flight: usize,
    /// Progress of those in flight.
    pub run: Progress,
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
    let blocks = if what == What::State { sampler.process.k() } else { 1 };
    let result = options.n as u128 * (blocks * sampler.model.data_len()) as u128;
    let (_, at_once) = in_flight(sampler, options);
    options.check_memory(result + at_once as u128 * sampler.elements())
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
    mut observe: impl FnMut(Overall) -> ControlFlow<()>,
) -> Result<Samples<T>> {
    let began = Instant::now();
    let n = options.n;
    let (batch, at_once) = in_flight(sampler, options);
    let spec = &sampler.model;
    let blocks = if what == What::State { sampler.process.k() } else { 1 };
    // First: other checks may take memory for each sample.
    check_size(sampler, options, what)?;
    options.check(spec, sampler)?;

    let mut values = Vec::new();
    let len = n * blocks * spec.data_len();
    values.try_reserve_exact(len).map_err(|e| {
        Error::new(Status::OutOfMemory, format!("the result of {len} elements cannot be allocated")).source(e)
    })?;
    values.resize(len, T::default());
    let (mut nfe, mut network) = (0, Duration::ZERO);
    for (i, out) in values.chunks_mut(at_once * blocks * spec.data_len()).enumerate() {
        let finished = i * at_once;
        let in_flight = out.len() / (blocks * spec.data_len());
        let mut part = options.slice(finished..finished + in_flight);
        part.batch = Some(batch);
        part.deadline = options.deadline.map(|d| d.saturating_sub(began.elapsed()));
        let mut run = Run::start_at(finished, model, sampler, part)?;
        loop {
            let progress = run.step(1)?;
            let go_on = observe(Overall { finished, in_flight, run: progress });
            if progress.done {
                break;
            }
            if go_on.is_break() {
                return Err(Error::new(Status::Cancelled, format!("cancelled after step {}", progress.step)));
            }
        }
        run.read(what, out)?;
        nfe = nfe.max(run.progress().nfe);
        network += run.network_time();
    }
    let mut shape = vec![n];
    shape.extend(&spec.data.shape);
    shape[1] *= blocks;
    let values = ArrayD::from_shape_vec(shape, values)
        .map_err(|e| Error::new(Status::Internal, "the result's shape").source(e))?;
    let seconds = Seconds {
        network: network.as_secs_f64(),
        solver: began.elapsed().saturating_sub(network).as_secs_f64(),
    };
    Ok(Samples { values, nfe, seconds })
}
