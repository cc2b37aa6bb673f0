//! The whole way at once: any number of samples, in batches.

use super::checkpoint::{Reader, Writer, invalid};
use super::{Inpaint, Measurement, Progress, Run, RunOptions};
use crate::array::{Buffer, Element, Precision, Tensor, fits};
use crate::plan::Plan;
use crate::solver::{Rows, Sampler};
use crate::spec::{Conditioning, SamplerSpec, What};
use crate::{Error, Model, Result, Status};
use ndarray::ArrayD;
use serde::{Deserialize, Serialize};
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
    /// How many of them are data estimates, since the deadline of an anytime sampling passed.
    pub estimates: usize,
}

/// How samples were made.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// Network calls for each sample, the closing one included.
    pub nfe: usize,
    /// Where the time went.
    pub seconds: Seconds,
    /// How many of them are data estimates, since the deadline of an anytime sampling passed.
    pub estimates: usize,
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

/// Bytes of the arrays that a run of [`Run::start`] with these arguments holds, those among them that it is given and keeps
/// (images to complete, measurements, noise): what [`RunOptions::max_memory`] bounds. The network's outputs are counted in the
/// state's precision, though it may have less; its own memory is not part of it.
pub fn memory(sampler: &Sampler, options: &RunOptions) -> u128 {
    options.needed(sampler, options.n)
}

/// Whether [`sample`] with these arguments stays within `options.max_memory`: its result and the samples in flight.
///
/// # Errors
/// [`Status::MemoryLimit`].
pub fn check_size(sampler: &Sampler, options: &RunOptions, what: What) -> Result<()> {
    let (_, at_once) = in_flight(sampler, options);
    let result = options.bytes(elements(&shape(sampler, options.n, what)));
    options.check_memory(result.saturating_add(options.needed(sampler, at_once)))
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
    let mut values = zeros(shape.iter().product())?;
    let Made { nfe, seconds, estimates } = sample_into(model, sampler, options, what, &mut values, observe)?;
    let values = ArrayD::from_shape_vec(shape, values)
        .map_err(|e| Error::new(Status::Internal, "the result's shape").source(e))?;
    Ok(Samples { values, nfe, seconds, estimates })
}

/// Room for the whole result of a [`Sampling`].
///
/// # Errors
/// [`Status::OutOfMemory`].
pub fn room<T: Element>(sampler: &Sampler, options: &RunOptions, what: What) -> Result<Vec<T>> {
    zeros(shape(sampler, options.n, what).iter().product())
}

pub(super) fn zeros<T: Element>(len: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|e| {
        Error::new(Status::OutOfMemory, format!("the result of {len} elements cannot be allocated")).source(e)
    })?;
    values.resize(len, T::default());
    Ok(values)
}

/// [`sample`] into the caller's memory: exactly the elements of [n, C, ...] or [n, k*C, ...].
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
) -> Result<Made> {
    let mut sampling = Sampling::new(model, sampler, options, what)?;
    fits(out.len(), elements(&shape(sampler, options.n, what)))?;
    while let Some(overall) = sampling.step(out)? {
        // A break at the very end comes too late to cancel anything.
        if observe(overall).is_break() && !sampling.done() {
            return Err(sampling.cancelled(overall));
        }
    }
    Ok(sampling.made())
}

/// The whole way, step by step: any number of samples, a run for each batch of them.
pub struct Sampling<'a> {
    model: &'a Model,
    sampler: &'a Arc<Sampler>,
    options: &'a RunOptions,
    what: What,
    began: Instant,
    batch: usize,
    at_once: usize,
    finished: usize,
    run: Option<Run>,
    nfe: usize,
    estimates: usize,
    network: Duration,
    /// Network time that the run in flight had spent before it was resumed.
    earlier: Duration,
}

/// What [`Sampling`] holds besides its run and its result.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedSampling {
    sampler: SamplerSpec,
    /// A plan of the caller's, which the options do not describe.
    own_plan: Option<Plan>,
    plan: String,
    model: String,
    conditioning: Conditioning,
    what: What,
    n: usize,
    seed: u64,
    precision: Precision,
    batch: Option<usize>,
    labels: Option<Vec<i64>>,
    scales: Option<Vec<f64>>,
    tag: u64,
    /// Shapes of the arrays that the caller gave.
    init: Option<Vec<usize>>,
    from_image: Option<Vec<usize>>,
    noise: Option<Vec<usize>>,
    image: Option<Vec<usize>>,
    mask: Option<Vec<usize>>,
    measurement: Option<Vec<usize>>,
    measurement_mask: Option<Vec<usize>>,
    finished: usize,
    elements: usize,
    nfe: usize,
}

const KIND: &str = "sampling";

impl<'a> Sampling<'a> {
    /// Begins; no network call yet.
    ///
    /// # Errors
    /// Those of [`Run::start`].
    pub fn new(
        model: &'a Model,
        sampler: &'a Arc<Sampler>,
        options: &'a RunOptions,
        what: What,
    ) -> Result<Self> {
        let (batch, at_once) = in_flight(sampler, options);
        options.check_memory(options.needed(sampler, at_once))?;
        options.check(&sampler.model, sampler)?;
        if options.anytime && what != What::Data {
            return Err(Error::argument(
                "anytime: what a deadline leaves is an estimate of the data, not a state",
            ));
        }
        options.warn_of_range(sampler);
        Ok(Self {
            model,
            sampler,
            options,
            what,
            began: Instant::now(),
            batch,
            at_once,
            finished: 0,
            run: None,
            nfe: 0,
            estimates: 0,
            network: Duration::ZERO,
            earlier: Duration::ZERO,
        })
    }

    /// Whether all samples are drawn.
    pub fn done(&self) -> bool {
        self.finished == self.options.n
    }

    /// One step of the batch in flight; `None` once all samples are drawn. `out` is the whole result, and receives
    /// the batch with its last step.
    ///
    /// # Errors
    /// Those of [`Run::start`], [`Run::step`] and [`Run::read`].
    pub fn step<T: Element>(&mut self, out: &mut [T]) -> Result<Option<Overall>> {
        if self.done() {
            return Ok(None);
        }
        let Self { options, finished, at_once, .. } = *self;
        let (n, in_flight) = (options.n, at_once.min(options.n - finished));
        let run = match &mut self.run {
            Some(run) => run,
            None => {
                let mut part = options.slice(finished..finished + in_flight);
                part.batch = Some(self.batch);
                part.deadline = options.deadline.map(|d| d.saturating_sub(self.began.elapsed()));
                if options.anytime {
                    // Every sample gets its estimate, so the batches that are left share what time is left.
                    let left = (n - finished).div_ceil(at_once);
                    part.deadline = part.deadline.map(|d| d / u32::try_from(left).unwrap_or(u32::MAX));
                }
                self.run.insert(Run::start_at(finished, self.model, self.sampler, part)?)
            }
        };
        let len = out.len() / n;
        let own = &mut out[finished * len..][..in_flight * len];
        let mut overall = Overall { n, finished, in_flight, run: run.progress() };
        match run.step(1) {
            Ok(progress) => overall.run = progress,
            Err(e) if e.status() == Status::Partial => {
                run.read(What::X0, own)?;
                self.estimates += in_flight;
                overall.run = Progress { done: true, fraction: 1.0, ..run.progress() };
            }
            Err(e) => return Err(e),
        }
        if overall.run.done {
            if run.progress().done {
                run.read(self.what, own)?;
            }
            self.nfe = self.nfe.max(overall.run.nfe);
            self.network += run.network_time() - std::mem::take(&mut self.earlier);
            self.finished += in_flight;
            self.run = None;
        }
        Ok(Some(overall))
    }

    /// The error of who stops after `overall`.
    pub fn cancelled(&self, overall: Overall) -> Error {
        let Overall { n, finished, run: Progress { step, .. }, .. } = overall;
        let message = format!("cancelled after step {step}, with {finished} of {n} samples finished before");
        Error::new(Status::Cancelled, message)
    }

    /// How the samples were made.
    pub fn made(&self) -> Made {
        let network = self.network;
        let seconds = Seconds {
            network: network.as_secs_f64(),
            solver: self.began.elapsed().saturating_sub(network).as_secs_f64(),
        };
        Made { nfe: self.nfe, seconds, estimates: self.estimates }
    }

    /// All of it as bytes, for [`Checkpoint::read`]: what is finished of `out`, the run in flight, and the options, the
    /// caller's arrays among them.
    ///
    /// # Errors
    /// Those of [`Run::save`]; [`Status::Unsupported`] for `anytime`.
    pub fn save<T: Element>(&self, out: &[T]) -> Result<Vec<u8>> {
        let RunOptions {
            n,
            seed,
            precision,
            batch,
            max_memory: _,
            deadline: _,
            cancel: _,
            init,
            from_image,
            noise,
            labels,
            inpaint,
            measurement,
            scales,
            guide: _,
            previews: _,
            anytime,
            tag,
        } = self.options;
        if *anytime {
            return Err(Error::new(Status::Unsupported, "an anytime sampling has no checkpoint"));
        }
        let shape = |t: &Tensor| t.shape().to_vec();
        let arrays = [
            ("init", init.as_ref()),
            ("noise", noise.as_ref()),
            ("image", inpaint.as_ref().map(|i| &i.image)),
            ("mask", inpaint.as_ref().map(|i| &i.mask)),
            ("from_image", from_image.as_ref()),
            ("measurement", measurement.as_ref().map(|m| &m.values)),
            ("measurement mask", measurement.as_ref().and_then(|m| m.mask.as_ref())),
        ];
        let elements = out.len() / n * self.finished;
        let saved = SavedSampling {
            sampler: self.sampler.options().clone(),
            own_plan: self.sampler.plan().filter(|_| self.sampler.info().name == "plan").cloned(),
            plan: self.sampler.hash(),
            model: self.model.hash()?,
            conditioning: self.sampler.conditioning.clone(),
            what: self.what,
            n: *n,
            seed: *seed,
            precision: *precision,
            batch: *batch,
            labels: labels.clone(),
            scales: scales.clone(),
            tag: *tag,
            init: arrays[0].1.map(shape),
            noise: arrays[1].1.map(shape),
            image: arrays[2].1.map(shape),
            mask: arrays[3].1.map(shape),
            from_image: arrays[4].1.map(shape),
            measurement: arrays[5].1.map(shape),
            measurement_mask: arrays[6].1.map(shape),
            finished: self.finished,
            elements,
            nfe: self.nfe,
        };
        let mut writer = Writer::new();
        writer.floats("out", T::values(&out[..elements]))?;
        for (name, tensor) in arrays {
            if let Some(tensor) = tensor {
                writer.buffer(name, &tensor.clone().into_buffer())?;
            }
        }
        if let Some(run) = &self.run {
            writer.bytes("run", &run.save()?)?;
        }
        writer.finish(KIND, &saved)
    }
}

/// An interrupted [`Sampling`]: what it was started with, and where it is.
pub struct Checkpoint {
    saved: SavedSampling,
    options: RunOptions,
    out: Buffer,
    run: Option<Vec<u8>>,
}

impl Checkpoint {
    /// Reads what [`Sampling::save`] wrote.
    ///
    /// # Errors
    /// [`Status::CheckpointInvalid`] where it is torn or edited.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let (reader, saved) = Reader::new::<SavedSampling>(KIND, bytes)?;
        let tensor = |name: &str, shape: &Option<Vec<usize>>| -> Result<Option<Tensor>> {
            let Some(shape) = shape else { return Ok(None) };
            let len = shape.iter().try_fold(1usize, |len, dim| len.checked_mul(*dim));
            let len = len.ok_or_else(|| invalid(format!("the shape of its `{name}`")))?;
            let tensor = match reader.buffer(name, len)? {
                Buffer::F32(values) => ArrayD::from_shape_vec(shape.clone(), values).map(Tensor::F32),
                Buffer::F64(values) => ArrayD::from_shape_vec(shape.clone(), values).map(Tensor::F64),
            };
            tensor.map(Some).map_err(|e| invalid(format!("its `{name}`")).source(e))
        };
        let inpaint = match (tensor("image", &saved.image)?, tensor("mask", &saved.mask)?) {
            (Some(image), Some(mask)) => Some(Inpaint { image, mask }),
            _ => None,
        };
        let mask = tensor("measurement mask", &saved.measurement_mask)?;
        let measurement = tensor("measurement", &saved.measurement)?;
        let measurement = measurement.map(|values| Measurement { values, mask });
        let options = RunOptions {
            seed: saved.seed,
            precision: saved.precision,
            batch: saved.batch,
            init: tensor("init", &saved.init)?,
            from_image: tensor("from_image", &saved.from_image)?,
            noise: tensor("noise", &saved.noise)?,
            labels: saved.labels.clone(),
            scales: saved.scales.clone(),
            tag: saved.tag,
            inpaint,
            measurement,
            ..RunOptions::new(saved.n)
        };
        let run = reader.has("run").then(|| reader.bytes("run").map(<[u8]>::to_vec)).transpose()?;
        Ok(Self { options, out: reader.buffer("out", saved.elements)?, run, saved })
    }

    /// The sampler's options.
    pub fn sampler(&self) -> &SamplerSpec {
        &self.saved.sampler
    }

    /// The plan, where it was the caller's own; [`Self::sampler`] says nothing then.
    pub fn plan(&self) -> Option<&Plan> {
        self.saved.own_plan.as_ref()
    }

    /// What the sampler was compiled for.
    pub fn conditioning(&self) -> &Conditioning {
        &self.saved.conditioning
    }

    /// What is sampled.
    pub fn what(&self) -> What {
        self.saved.what
    }

    /// The run's options, with neither deadline, token, limit of memory nor guidance network.
    pub fn options(&self) -> &RunOptions {
        &self.options
    }

    /// Goes on, with the samples that were finished in `out`: exactly the elements of the whole result. `options` are
    /// [`Self::options`], with a deadline, token, limit of memory and the
    /// guidance network of its own.
    ///
    /// # Errors
    /// [`Status::CheckpointInvalid`] where it is of another model or sampler; those of [`Sampling::new`].
    pub fn resume<'a, T: Element>(
        &self,
        model: &'a Model,
        sampler: &'a Arc<Sampler>,
        options: &'a RunOptions,
        out: &mut [T],
    ) -> Result<Sampling<'a>> {
        let saved = &self.saved;
        for (what, saved, own) in
            [("model", &saved.model, model.hash()?), ("sampler", &saved.plan, sampler.hash())]
        {
            if *saved != own {
                return Err(invalid(format!("of another {what}: its hash is {saved}, expected {own}"))
                    .hint("resume with the model and the sampler options that it was started with"));
            }
        }
        let mut sampling = Sampling::new(model, sampler, options, saved.what)?;
        fits(out.len(), elements(&shape(sampler, saved.n, saved.what)))?;
        let whole = saved.finished == saved.n || saved.finished.is_multiple_of(sampling.at_once);
        if saved.finished > saved.n || !whole || out.len() / saved.n * saved.finished != saved.elements {
            return Err(invalid("its number of finished samples cannot be"));
        }
        T::copy(&self.out, 0..saved.elements, &mut out[..saved.elements]);
        sampling.finished = saved.finished;
        sampling.nfe = saved.nfe;
        if let Some(run) = &self.run {
            let mut run = Run::load_guided(model, sampler, options.guide.as_ref(), run)?;
            if run.samples() != sampling.at_once.min(saved.n - saved.finished) {
                return Err(invalid("its run has another number of samples"));
            }
            run.resume_with(options.deadline, options.cancel.clone());
            sampling.earlier = run.network_time();
            sampling.run = Some(run);
        }
        Ok(sampling)
    }
}

/// [n, C, ...] or [n, k*C, ...].
pub fn shape(sampler: &Sampler, n: usize, what: What) -> Vec<usize> {
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
