//! A run: one batch of samples in flight, advanced step by step.

mod call;
mod cancel;
mod checkpoint;
mod gather;
mod guide;
mod latents;
mod likelihood;
mod limit;
mod options;
mod sample;
mod save;
mod tap;

pub(crate) use call::{Evaluation, Lengths, Sheet};
pub use cancel::Cancel;
pub(crate) use cancel::Watch;
pub use latents::interpolate;
pub use likelihood::{Estimate, Likelihood, SAMPLER as LIKELIHOOD_SAMPLER, likelihood};
pub use options::{Inpaint, Measurement, RunOptions};
pub use sample::{
    Checkpoint, Made, Overall, Samples, Sampling, Seconds, check_size, memory, room, sample, sample_into,
    shape,
};

use crate::array::{Buffer, Element, Precision, Tensor, fits};
use crate::decode::Decoder;
use crate::exec::{Batch, Executor, Known, Measured};
use crate::network::Network;
use crate::plan::{Eval, GUIDE, Map, MapKind, Plan, Row, Update};
use crate::solver::rk45::{self, Rk45};
use crate::solver::{Rows, Sampler, clip};
use crate::spec::{Guidance, GuidanceKind, What};
use crate::{Error, Model, Result, Status, fork, guidance};
use call::Own;
use gather::History;
use guide::Guide;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Steps done; an adaptive run counts attempted steps.
    pub step: usize,
    /// Steps in all, the closing one included; 0 where an adaptive run cannot know.
    pub of: usize,
    /// Share of the work that is done, 0 to 1; for an adaptive run, of the time interval.
    pub fraction: f64,
    /// Forward time of the last network call.
    pub t: f64,
    /// Network calls so far, each on the whole run.
    pub nfe: usize,
    /// Whether the run is complete.
    pub done: bool,
}

/// One batch of samples in flight. One thread at a time; holds its network and sampler.
pub struct Run {
    network: Arc<dyn Network>,
    sampler: Arc<Sampler>,
    batch: Batch,
    calls: Calls,
    /// None in an engine, which makes the calls.
    own: Option<Own>,
    executor: Executor,
    rows: Cursor,
    progress: Progress,
    deadline: Option<Instant>,
    /// Whether the deadline leaves an estimate: see [`RunOptions::anytime`].
    anytime: bool,
    cancel: Option<Watch>,
    /// Number of the first sample in messages.
    first_sample: usize,
    poisoned: bool,
    /// Hashes of sampler and model, computed when they are first asked for.
    hashes: OnceLock<(String, String)>,
    /// Where samples have been gathered.
    history: Option<History>,
}

#[allow(clippy::large_enum_variant)] // A run has one.
enum Cursor {
    Planned { plan: Arc<Plan>, next: usize },
    Adaptive { solver: Rk45, asked: VecDeque<Asked> },
}

/// What an adaptive solver asked for with its last network call, and waits for.
#[allow(clippy::large_enum_variant)] // Rows are few.
enum Asked {
    /// At one time for all samples: the call, and what guides it.
    Row(Row),
    /// At times of the samples' own.
    Each(rk45::Call),
}

/// The network's side of a run.
struct Calls {
    decoder: Decoder,
    labels: Option<Vec<i64>>,
    /// Number of each sample as networks are told it, and the run's tag.
    indices: Vec<i64>,
    tag: u64,
    guide: Option<Guide>,
    /// State and time of the model's last call.
    seen: (usize, f64),
    /// What the network sees where that is not the state: one block for each sample.
    projected: Option<Buffer>,
    /// The data estimate, where it is wanted.
    x0: Option<Buffer>,
    seconds: Duration,
}

/// The part of a run that updates work on.
struct Workpiece<'a> {
    executor: &'a Executor,
    batch: &'a mut Batch,
    sampler: &'a Sampler,
    progress: &'a Progress,
    first_sample: usize,
}

impl Run {
    /// Begins a run: allocates all that it needs and draws (or takes) the initial state. No network call yet.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] or [`Status::ShapeMismatch`] naming the option; [`Status::MemoryLimit`] or
    /// [`Status::OutOfMemory`] where memory does not suffice.
    pub fn start(model: &Model, sampler: &Arc<Sampler>, options: RunOptions) -> Result<Self> {
        options.warn_of_range(sampler);
        Self::start_at(0, model, sampler, options)
    }

    /// [`Self::start`] for an engine, which makes the network calls.
    pub(crate) fn hosted(model: &Model, sampler: &Arc<Sampler>, options: RunOptions) -> Result<Self> {
        options.warn_of_range(sampler);
        Self::prepare(0, model, sampler, options)
    }

    /// [`Self::start`] for a part of a larger set, in which the first sample has number `first_sample`.
    fn start_at(
        first_sample: usize,
        model: &Model,
        sampler: &Arc<Sampler>,
        options: RunOptions,
    ) -> Result<Self> {
        let size = options.batch.unwrap_or(options.n).min(options.n);
        let (guide, deadline, cancel) = (options.guide.clone(), options.deadline, options.cancel.clone());
        let mut run = Self::prepare(first_sample, model, sampler, options)?;
        run.own = Some(run.open(guide.as_ref(), size)?);
        run.resume_with(deadline, cancel);
        Ok(run)
    }

    /// A run that cannot make calls yet.
    fn prepare(
        first_sample: usize,
        model: &Model,
        sampler: &Arc<Sampler>,
        options: RunOptions,
    ) -> Result<Self> {
        let network = model.network();
        let spec = network.spec();
        if !spec.is_of(&sampler.model) {
            return Err(Error::argument("the sampler was compiled for another model")
                .hint("compile it with the spec of the model that runs it"));
        }
        if let Some(tuned_for) = sampler.plan().and_then(|plan| plan.model.as_ref()) {
            let hash = model.hash()?;
            if hash != *tuned_for {
                return Err(Error::new(
                    Status::InvalidConfig,
                    format!("plan: tuned for the model with SHA-256 {tuned_for}, this one has {hash}"),
                )
                .hint("tune a plan for this model (`psld tune`), or use a sampler by its name"));
            }
        }
        let k = sampler.process.k();
        let (n, d) = (options.n, spec.data_len());
        // First: other checks may take memory for each sample.
        options.check_memory(options.needed(sampler, n))?;
        options.check(spec, sampler)?;
        let (states, slots) = sampler.buffers();
        let output_precision = network.output_precision(options.precision);
        if (options.precision, output_precision) == (Precision::F32, Precision::F64) {
            return Err(Error::new(
                Status::Unsupported,
                "the network gives f64 outputs for an f32 state, which no row reads",
            )
            .hint("run with an f64 state"));
        }

        let buffers = |count: usize, precision, blocks: usize| -> Result<Vec<Buffer>> {
            (0..count).map(|_| Buffer::zeros(precision, n * blocks * d)).collect()
        };
        let mut batch = Batch {
            n,
            k,
            d,
            states: buffers(states, options.precision, k)?,
            slots: slots
                .iter()
                .map(|of| {
                    let precision = precision_of(*of, model, options.guide.as_ref(), options.precision);
                    Buffer::zeros(precision, n * sampler.blocks_of(*of) * d)
                })
                .collect::<Result<_>>()?,
            seeds: (0..n as u64).map(|i| options.seed.wrapping_add(i)).collect(),
            draws: options.noise.map(Tensor::into_buffer),
            consumed: 0,
            known: options.inpaint.map(|inpaint| Known {
                image: inpaint.image.into_f32(),
                mask: inpaint.mask.broadcast_mask(&spec.data.shape),
            }),
            measured: sampler.measured.as_ref().zip(options.measurement).map(|(linear, measurement)| {
                Measured {
                    linear: linear.clone(),
                    values: measurement.values.into_f32(),
                    mask: measurement
                        .mask
                        .map_or_else(Vec::new, |mask| mask.broadcast_mask(&spec.data.shape)),
                }
            }),
            scales: match &options.scales {
                Some(scales) if scales.len() == 1 => vec![scales[0]; n],
                scales => scales.clone().unwrap_or_default(),
            },
            partial: vec![0.0; n],
        };
        let executor = model.executor().clone();
        match (options.init, options.from_image) {
            (Some(init), _) => init.copy_to(&mut batch.states[0]),
            (None, Some(image)) => {
                let (mean, factor) = &sampler.image_start;
                executor.prior(&mut batch, factor);
                batch.states[0].add_image(n, mean, &image.into_buffer());
            }
            (None, None) => executor.prior(&mut batch, &sampler.prior_factor),
        }
        let labels = options.labels.map(|l| if l.len() == 1 { vec![l[0]; n] } else { l });
        let (labels, guide) = match (sampler.conditioning.guidance, &options.guide) {
            (None, _) => (labels, None),
            // By Bayes' rule a classifier's class is none of the model's own business.
            (Some(Guidance { kind: GuidanceKind::Classifier, .. }), Some(guide)) => {
                (None, Some(Guide::other(guide, labels)))
            }
            (Some(_), Some(guide)) => (labels.clone(), Some(Guide::other(guide, labels))),
            (Some(_), None) => (labels, Some(Guide::Model)),
        };
        let projected =
            if sampler.projects() { Some(Buffer::zeros(options.precision, n * d)?) } else { None };
        let previews = options.previews || options.anytime;
        let x0 = if previews { Some(Buffer::zeros(options.precision, n * d)?) } else { None };
        let decoder = sampler.decoder.clone();
        let (rows, of, t) = match &sampler.rows {
            Rows::Planned(plan) => {
                let of = plan.rows.last().map_or(0, |row| row.step() + 1);
                (
                    Cursor::Planned { plan: plan.clone(), next: 0 },
                    of,
                    plan.grid.first().copied().unwrap_or(1.0),
                )
            }
            Rows::Adaptive(o) => (adaptive(Rk45::new(*o, decoder.clone(), n)), 0, o.first_time()),
        };
        Ok(Self {
            calls: Calls {
                decoder,
                labels,
                indices: gather::indices(first_sample, n, None).unwrap_or_default(),
                tag: options.tag,
                guide,
                seen: (0, t),
                projected,
                x0,
                seconds: Duration::ZERO,
            },
            own: None,
            network: network.clone(),
            sampler: sampler.clone(),
            batch,
            executor,
            rows,
            progress: Progress { step: 0, of, fraction: 0.0, t, nfe: 0, done: false },
            deadline: None,
            anytime: options.anytime,
            cancel: None,
            first_sample,
            poisoned: false,
            hashes: OnceLock::new(),
            history: None,
        })
    }

    /// Evaluators for calls of `size` samples.
    fn open(&self, guide: Option<&Model>, size: usize) -> Result<Own> {
        let twice = match (&self.calls.guide, &self.sampler.conditioning.guidance) {
            (Some(Guide::Model), Some(_)) => {
                let d = self.batch.d;
                let input = if self.sampler.projects() { d } else { self.batch.k * d };
                let lengths = Lengths { input, output: self.sampler.blocks_of(0) * d };
                Some(Sheet::new(&*self.network, lengths, self.precision(), 2 * size)?)
            }
            _ => None,
        };
        Ok(Own {
            evaluator: self.network.evaluator()?,
            guide: guide.map(|guide| guide.network().evaluator()).transpose()?,
            size,
            times: vec![0.0; size],
            tags: vec![self.calls.tag; size],
            twice,
            process: fork::process(),
        })
    }

    /// Advances by at most `max_steps` steps.
    ///
    /// # Errors
    /// [`Status::Cancelled`], [`Status::DeadlineExceeded`] and [`Status::Partial`] leave a run that can be continued
    /// (with another token or deadline) or saved; after any other error the run can only be read.
    pub fn step(&mut self, max_steps: usize) -> Result<Progress> {
        if self.poisoned {
            return Err(Error::new(Status::RunState, "the run has failed before and cannot be continued"));
        }
        let last = self.progress.step.saturating_add(max_steps);
        while !self.progress.done && self.progress.step < last {
            if let Err(error) = self.advance() {
                self.poisoned = !error.status().is_interruption();
                if let Cursor::Adaptive { solver, asked } = &mut self.rows {
                    solver.restart();
                    asked.clear();
                }
                return Err(error);
            }
        }
        Ok(self.progress)
    }

    /// One row: of a plan, or of those that an adaptive solver asks for.
    fn advance(&mut self) -> Result<()> {
        // An adaptive solver that has its outputs makes something of them: interrupted here, it would take them again.
        let answered = matches!(&self.rows, Cursor::Adaptive { solver, asked } if asked.is_empty() && solver.is_within_step());
        if !answered {
            self.interrupted()?;
        }
        if let Some(evaluation) = self.next()? {
            self.call(&evaluation)?;
            self.evaluated(&evaluation)?;
        }
        Ok(())
    }

    /// Goes on to the next network call; `None` at the run's end.
    pub(crate) fn proceed(&mut self) -> Result<Option<Evaluation>> {
        while !self.progress.done {
            if let Some(evaluation) = self.next()? {
                return Ok(Some(evaluation));
            }
        }
        Ok(None)
    }

    /// Executes the next row, or, where it is a network call, says which. Until [`Self::evaluated`] that row stays the next
    /// one: a call that was interrupted in flight is made again.
    fn next(&mut self) -> Result<Option<Evaluation>> {
        match &mut self.rows {
            Cursor::Planned { plan, next } => {
                let (plan, next) = (plan.clone(), *next);
                self.row(&plan.rows[next], plan.rows.get(next + 1))
            }
            Cursor::Adaptive { asked, .. } if asked.is_empty() => {
                self.ask()?;
                Ok(None)
            }
            Cursor::Adaptive { asked, .. } => match asked.pop_front() {
                Some(Asked::Row(row)) => {
                    let following = match asked.front() {
                        Some(Asked::Row(row)) => Some(row.clone()),
                        _ => None,
                    };
                    asked.push_front(Asked::Row(row.clone()));
                    self.row(&row, following.as_ref())
                }
                Some(Asked::Each(call)) => {
                    asked.push_front(Asked::Each(call.clone()));
                    Ok(Some(self.evaluation_of_each(&call)))
                }
                None => Ok(None),
            },
        }
    }

    fn row(&mut self, row: &Row, following: Option<&Row>) -> Result<Option<Evaluation>> {
        match row {
            // A guide that would change nothing is not called.
            Row::Eval(eval) if eval.network == GUIDE && !self.guides() => {}
            Row::Eval(eval) => {
                let guide = match following {
                    Some(Row::Eval(guide)) if self.at_once(eval, guide) => Some(guide),
                    _ => None,
                };
                return Ok(Some(self.evaluation(eval, guide)));
            }
            Row::Update(update) => self.workpiece().update(update)?,
            Row::Map(map) => self.map(map)?,
        }
        self.pass(1);
        Ok(None)
    }

    /// Lets an adaptive solver work until it asks for a network call, or has ended a step.
    fn ask(&mut self) -> Result<()> {
        let Cursor::Adaptive { solver, asked } = &mut self.rows else { return Ok(()) };
        let process = &self.sampler.process;
        let mut workpiece = Workpiece {
            executor: &self.executor,
            batch: &mut self.batch,
            sampler: &self.sampler,
            progress: &self.progress,
            first_sample: self.first_sample,
        };
        let Some(call) = solver.advance(process, &mut workpiece)? else {
            self.progress.step += 1;
            self.progress.fraction = solver.fraction();
            self.progress.nfe = solver.nfe as usize;
            self.progress.done = solver.done;
            if let (true, Rows::Adaptive(rk45::Options { clip: Some(_), denoise: true, .. })) =
                (solver.done, &self.sampler.rows)
            {
                let [low, high] = self.sampler.model.data.range;
                self.executor.map(&mut self.batch, &MapKind::Clip { low, high }, 0);
            }
            return Ok(());
        };
        let [Some(t)] = call.times[..] else {
            // Guidance is refused where samples have times of their own.
            asked.push_back(Asked::Each(call));
            return Ok(());
        };
        let input = self.calls.decoder.input(process, t);
        let (step, from, slot) = (self.progress.step, call.state, call.slot);
        let eval = Eval { step, network: 0, from, t, slot, input };
        let guided = match &self.sampler.conditioning.guidance {
            Some(guidance) if self.batch.guides() => {
                guidance::rows(guidance, &self.calls.decoder, process, &eval, rk45::SLOTS)?
            }
            _ => None,
        };
        let clipped =
            self.sampler.options().clipping().map(|how| {
                clip::row(how, self.sampler.model.data.range, &self.calls.decoder, process, &eval)
            });
        asked.push_back(Asked::Row(Row::Eval(eval)));
        if let Some((guide, map)) = guided {
            asked.extend([Asked::Row(Row::Eval(guide)), Asked::Row(Row::Map(map))]);
        }
        asked.extend(clipped.transpose()?.map(|map| Asked::Row(Row::Map(map))));
        Ok(())
    }

    /// Goes past rows that are done.
    fn pass(&mut self, rows: usize) {
        match &mut self.rows {
            Cursor::Planned { plan, next } => {
                let step = plan.rows[*next].step();
                *next += rows;
                let following = plan.rows.get(*next).map(Row::step);
                self.progress.done = following.is_none();
                if following != Some(step) {
                    self.progress.step = step + 1;
                    self.progress.fraction = self.progress.step as f64 / self.progress.of as f64;
                }
            }
            Cursor::Adaptive { solver, asked } => {
                let call = |asked: &Asked| !matches!(asked, Asked::Row(Row::Update(_) | Row::Map(_)));
                solver.called(asked.drain(..rows.min(asked.len())).filter(call).count() as u32);
            }
        }
    }

    /// Fails where the token or the deadline says so.
    pub(crate) fn interrupted(&self) -> Result<()> {
        if self.own.as_ref().is_some_and(|own| own.process != fork::process()) {
            return Err(Error::forked("the run"));
        }
        if self.cancel.as_ref().is_some_and(Watch::is_cancelled) {
            return Err(Error::new(
                Status::Cancelled,
                format!("cancelled after step {}", self.progress.step),
            ));
        }
        // An estimate takes one network call at least.
        let bound = !self.anytime || self.progress.nfe > 0;
        if bound && self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let Progress { step, of, t, .. } = self.progress;
            let of = if of == 0 { String::new() } else { format!(" of {of}") };
            let passed = format!("the deadline passed after step {step}{of}");
            return Err(match self.anytime {
                false => Error::new(Status::DeadlineExceeded, passed),
                true => {
                    Error::new(Status::Partial, format!("{passed}: there is the data estimate at t = {t}"))
                }
            });
        }
        Ok(())
    }

    /// Whether guidance changes anything: without a scale other than zero the guide is not called.
    fn guides(&self) -> bool {
        self.batch.guides()
    }

    /// Whether the calls of two rows are of one network on the same states and times.
    fn at_once(&self, own: &Eval, guide: &Eval) -> bool {
        let same = (own.network, guide.network) == (0, GUIDE)
            && (own.from, own.t, &own.input) == (guide.from, guide.t, &guide.input);
        same && self.guides() && matches!(self.calls.guide, Some(Guide::Model))
    }

    /// Executes a map row; one that guides, restores or clips changes the data estimate, too.
    fn map(&mut self, row: &Map) -> Result<()> {
        let guides = matches!(row.kind, MapKind::Cfg { .. } | MapKind::Gradient { .. });
        if guides && !self.guides() {
            return Ok(());
        }
        self.executor.map(&mut self.batch, &row.kind, row.into);
        let moves = matches!(row.kind, MapKind::Restore { .. } | MapKind::Threshold(_));
        if guides || moves { self.preview(row.into) } else { Ok(()) }
    }

    /// How far the run is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Time spent in network calls.
    pub fn network_time(&self) -> Duration {
        self.calls.seconds
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// [`Self::resume_with`] in an engine: who else is told of a cancel.
    pub(crate) fn watch(&mut self, deadline: Option<Duration>, cancel: Option<Cancel>) {
        self.deadline = at(deadline);
        self.cancel = cancel.map(|cancel| Watch::new(cancel, Vec::new()));
    }

    /// Replaces the deadline (`None`: no deadline) and the cancel token, to continue an interrupted run.
    pub fn resume_with(&mut self, deadline: Option<Duration>, cancel: Option<Cancel>) {
        self.deadline = at(deadline);
        // Before calls are let run again: from here on the old token does not reach them.
        self.cancel = None;
        let calls: Vec<_> = self.own.iter().flat_map(Own::interrupts).collect();
        calls.iter().for_each(|call| call.clear());
        self.cancel = cancel.map(|cancel| Watch::new(cancel, calls));
    }

    /// What made these samples: a JSON object with `psld` (version), `sampler` (options in full), `plan` and `model`
    /// (hashes), `process`, `backend`, `noise` ("philox" or "caller"), `seeds` (first, count: at the start), `gathered` (step,
    /// indices, seeds of each [`gather`](Self::gather); null without), `precision`, `batch` (null in an engine), `labels`, `conditioning`,
    /// `scales` (both as they are now), `guide` (hash), `steps`, `nfe`, `nfe_asked` (of which a sampler of several calls a step may
    /// make fewer; null where none was said), `t`, `done` and `seconds` in the network. With the
    /// same model and these numbers anyone gets the same samples.
    ///
    /// # Errors
    /// [`Status::ReadFailed`] where the model's file is gone or has changed since it was loaded.
    pub fn provenance(&self) -> Result<serde_json::Value> {
        let (plan, model) = self.hashes()?;
        let Progress { step, of, t, nfe, done, .. } = self.progress;
        Ok(serde_json::json!({
            "psld": env!("CARGO_PKG_VERSION"),
            "sampler": { "name": self.sampler.info().name, "options": self.sampler.options() },
            "plan": plan,
            "model": model,
            "process": self.sampler.model.process,
            "backend": self.network.backend(),
            "noise": if self.batch.draws.is_some() { "caller" } else { "philox" },
            "seeds": match &self.history {
                None => serde_json::json!({ "first": self.batch.seeds.first(), "count": self.batch.n }),
                Some(History { first, count, .. }) => serde_json::json!({ "first": first, "count": count }),
            },
            "gathered": self.history.as_ref().map(|history| &history.gathered),
            "conditioning": self.sampler.conditioning,
            "scales": (!self.batch.scales.is_empty()).then_some(&self.batch.scales),
            "guide": self.calls.guide.as_ref().map(Guide::hash).transpose()?.flatten(),
            "precision": self.precision(),
            "batch": self.own.as_ref().map(|own| own.size),
            "labels": self.calls.labels,
            "steps": { "done": step, "of": of },
            "nfe": nfe,
            "nfe_asked": self.sampler.options().nfe,
            "t": t,
            "done": done,
            "network_seconds": self.calls.seconds.as_secs_f64(),
        }))
    }

    /// Hashes of the sampler and of the model.
    fn hashes(&self) -> Result<&(String, String)> {
        if let Some(hashes) = self.hashes.get() {
            return Ok(hashes);
        }
        let hashes = (self.sampler.hash(), self.network.hash()?);
        Ok(self.hashes.get_or_init(|| hashes))
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.batch.n
    }

    /// The shape of what [`Self::read`] gives.
    pub fn shape(&self, what: What) -> Vec<usize> {
        let mut shape = vec![self.batch.n];
        shape.extend(&self.sampler.model.data.shape);
        if what == What::State {
            shape[1] *= self.batch.k;
        }
        shape
    }

    /// The precision of the state.
    pub fn precision(&self) -> Precision {
        self.batch.states[0].precision()
    }

    /// Room for the data estimate in single precision.
    ///
    /// # Errors
    /// [`Status::RunState`] where the run keeps none; [`Status::OutOfMemory`].
    pub fn preview_buffer(&self) -> Result<Vec<f32>> {
        if self.calls.x0.is_none() {
            return Err(no_estimates());
        }
        sample::zeros(self.shape(What::X0).iter().product())
    }

    /// Copies out data, state or data estimate; see [`Self::shape`].
    ///
    /// # Errors
    /// [`Status::RunState`] for a data estimate that was not asked for or not made yet; [`Status::BufferTooSmall`]
    /// or [`Status::InvalidArgument`] unless `out` has exactly the number of elements.
    pub fn read<T: Element>(&self, what: What, out: &mut [T]) -> Result<()> {
        let wanted: usize = self.shape(what).iter().product();
        fits(out.len(), wanted as u128)?;
        let (d, state_len) = (self.batch.d, self.batch.k * self.batch.d);
        match what {
            What::State => T::copy(&self.batch.states[0], 0..wanted, out),
            What::Data => {
                for (i, row) in out.chunks_mut(d).enumerate() {
                    T::copy(&self.batch.states[0], i * state_len..i * state_len + d, row);
                }
            }
            What::X0 => match &self.calls.x0 {
                None => return Err(no_estimates()),
                Some(_) if self.progress.nfe == 0 => {
                    return Err(Error::new(
                        Status::RunState,
                        "there is no data estimate before the first step",
                    ));
                }
                Some(x0) => T::copy(x0, 0..wanted, out),
            },
        }
        Ok(())
    }
}

fn no_estimates() -> Error {
    Error::new(Status::RunState, "this run keeps no data estimates")
        .hint("start it with `previews` or `anytime`")
}

/// The precision of the outputs of a plan's network, for states of precision `state`.
fn precision_of(network: usize, model: &Model, guide: Option<&Model>, state: Precision) -> Precision {
    let network = if network == GUIDE { guide.unwrap_or(model) } else { model };
    network.network().output_precision(state)
}

/// The end of a time that begins now; none where the clock cannot tell it.
fn at(deadline: Option<Duration>) -> Option<Instant> {
    deadline.and_then(|time| Instant::now().checked_add(time))
}

/// "step 3 of 100 (t = 0.94)": where an error happened.
fn place(progress: &Progress) -> String {
    let Progress { step, of, t, .. } = *progress;
    match of {
        0 => format!("attempted step {} (t = {t})", step + 1),
        _ => format!("step {} of {of} (t = {t})", step + 1),
    }
}

/// The cursor of an adaptive solver between steps.
fn adaptive(solver: Rk45) -> Cursor {
    Cursor::Adaptive { solver, asked: VecDeque::new() }
}

impl Workpiece<'_> {
    fn update(&mut self, row: &Update) -> Result<()> {
        self.executor.update(self.batch, row).map_err(|sample| self.non_finite(row, sample))
    }

    /// Says which sample became non-finite by `row`, and whether the network's outputs were it already.
    fn non_finite(&self, row: &Update, sample: usize) -> Error {
        let output_len = self.sampler.blocks_of(0) * self.batch.d;
        let range = sample * output_len..(sample + 1) * output_len;
        let guilty = row
            .terms
            .iter()
            .any(|(slot, _)| self.batch.slots[*slot].first_non_finite(range.clone()).is_some());
        let what = if guilty { "the network's output" } else { "the state" };
        let sample = self.first_sample + sample;
        Error::new(
            Status::NonFinite,
            format!("{}: {what} of sample {sample} is not finite", place(self.progress)),
        )
    }

    fn non_finite_at(&self, row: Option<&Update>, sample: usize) -> Error {
        match row {
            Some(row) => self.non_finite(row, sample),
            None => Error::new(Status::Internal, "a sample that was left alone became non-finite"),
        }
    }
}

impl rk45::Rows for Workpiece<'_> {
    fn update(&mut self, rows: &[Option<Update>]) -> Result<()> {
        match rows {
            [Some(row)] => Workpiece::update(self, row),
            _ => self
                .executor
                .update_each(self.batch, rows)
                .map_err(|sample| self.non_finite_at(rows.get(sample).and_then(Option::as_ref), sample)),
        }
    }

    fn scaled_rms(
        &mut self,
        rows: &[Option<Update>],
        scale: [usize; 2],
        atol: f64,
        rtol: f64,
    ) -> Result<Vec<f64>> {
        let norms = match rows {
            [Some(row)] => vec![self.executor.scaled_rms(self.batch, row, scale, atol, rtol)],
            _ => self.executor.scaled_rms_each(self.batch, rows, scale, atol, rtol),
        };
        if norms.iter().all(|rms| rms.is_finite()) {
            return Ok(norms);
        }
        // Not a rejected step, as scipy has it: the last stage's output enters no state before this.
        let sample = self.batch.partial.iter().position(|sum| !sum.is_finite()).unwrap_or(0);
        Err(self.non_finite_at(rows.get(sample).or(rows.first()).and_then(Option::as_ref), sample))
    }

    fn copy_slot(&mut self, from: usize, to: usize, systems: &[bool]) {
        let len = self.sampler.blocks_of(0) * self.batch.d;
        let all = 0..self.batch.n * len;
        match systems {
            [wanted] => {
                if *wanted {
                    self.batch.copy_slot(from, to, all);
                }
            }
            _ => {
                let wanted = systems.iter().enumerate().filter(|(_, wanted)| **wanted);
                wanted.for_each(|(i, _)| self.batch.copy_slot(from, to, i * len..(i + 1) * len));
            }
        }
    }
}
