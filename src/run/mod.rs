//! A run: one batch of samples in flight, advanced step by step.

mod cancel;
mod checkpoint;
mod gather;
mod guide;
mod options;
mod sample;
mod save;
mod tap;

pub use cancel::Cancel;
pub use options::{Inpaint, RunOptions, Tensor};
pub use sample::{
    Checkpoint, Made, Overall, Samples, Sampling, Seconds, check_size, memory, room, sample, sample_into,
    shape,
};

use crate::Model;
use crate::exec::{Batch, Buffer, Executor, Known};
use crate::guidance::{self, GUIDE};
use crate::network::{Evaluator, Inputs, Network, Precision};
use crate::plan::{Eval, Map, MapKind, Plan, Row, Update};
use crate::solver::rk45::{self, Rk45};
use crate::solver::{CALLS_OF_GUIDED, Decoder, Rows, Sampler};
use crate::spec::{Guidance, GuidanceKind};
use crate::{Error, Result, Status};
use cancel::Watch;
use gather::History;
use guide::{Guide, Lengths, Twice};
use serde::{Deserialize, Serialize};
use std::ops::Range;
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

/// What to read from a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// The position half of the state, [n, C, ...]: after the last step, the samples.
    Data,
    /// The whole state, [n, k*C, ...].
    State,
    /// The data estimate E[x_0 | z_t] at the last network call, [n, C, ...]; needs [`RunOptions::previews`].
    X0,
}

/// One batch of samples in flight. One thread at a time; holds its network and sampler.
pub struct Run {
    network: Arc<dyn Network>,
    sampler: Arc<Sampler>,
    batch: Batch,
    calls: Calls,
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

enum Cursor {
    Planned { plan: Arc<Plan>, next: usize },
    Adaptive(Rk45),
}

/// The network's side of a run.
struct Calls {
    evaluator: Box<dyn Evaluator>,
    decoder: Decoder,
    /// Samples of one network call.
    size: usize,
    times: Vec<f64>,
    labels: Option<Vec<i64>>,
    guide: Option<Guide>,
    /// State and time of the model's last call.
    seen: (usize, f64),
    /// What the network sees where that is not the state: one block for each sample.
    projected: Option<Buffer>,
    /// The data estimate, where it is wanted.
    x0: Option<Buffer>,
    seconds: Duration,
}

impl Run {
    /// Begins a run: allocates all that it needs and draws (or takes) the initial state. No network call yet.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] or [`Status::ShapeMismatch`] naming the option; [`Status::MemoryLimit`] or
    /// [`Status::OutOfMemory`] where memory does not suffice.
    pub fn start(model: &Model, sampler: &Arc<Sampler>, options: RunOptions) -> Result<Self> {
        Self::start_at(0, model, sampler, options)
    }

    /// [`Self::start`] for a part of a larger set, in which the first sample has number `first_sample`.
    fn start_at(
        first_sample: usize,
        model: &Model,
        sampler: &Arc<Sampler>,
        options: RunOptions,
    ) -> Result<Self> {
        let network = model.network();
        let spec = network.spec();
        if *spec != sampler.model {
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
        options.check_memory(n as u128 * sampler.elements())?;
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
            scales: match &options.scales {
                Some(scales) if scales.len() == 1 => vec![scales[0]; n],
                scales => scales.clone().unwrap_or_default(),
            },
            partial: vec![0.0; n],
        };
        let executor = model.executor().clone();
        match options.init {
            Some(init) => init.copy_to(&mut batch.states[0]),
            None => executor.prior(&mut batch, &sampler.prior_factor),
        }
        let size = options.batch.unwrap_or(n).min(n);
        let labels = options.labels.map(|l| if l.len() == 1 { vec![l[0]; n] } else { l });
        let (labels, guide) = match (sampler.conditioning.guidance, &options.guide) {
            (None, _) => (labels, None),
            // By Bayes' rule a classifier's class is none of the model's own business.
            (Some(Guidance { kind: GuidanceKind::Classifier, .. }), Some(guide)) => {
                (None, Some(Guide::other(guide, labels)?))
            }
            (Some(_), Some(guide)) => (labels.clone(), Some(Guide::other(guide, labels)?)),
            (Some(_), None) => (labels, Some(own_guide(model, sampler, size, options.precision)?)),
        };
        let projected =
            if sampler.projects() { Some(Buffer::zeros(options.precision, n * d)?) } else { None };
        let previews = options.previews || options.anytime;
        let x0 = if previews { Some(Buffer::zeros(options.precision, n * d)?) } else { None };
        let decoder = Decoder::new(spec)?;
        let (rows, of, t) = match &sampler.rows {
            Rows::Planned(plan) => {
                let of = plan.rows.last().map_or(0, |row| row.step() + 1);
                (
                    Cursor::Planned { plan: plan.clone(), next: 0 },
                    of,
                    plan.grid.first().copied().unwrap_or(1.0),
                )
            }
            Rows::Adaptive(o) => (Cursor::Adaptive(Rk45::new(*o, decoder.clone(), n)), 0, o.t_start),
        };
        let mut run = Self {
            calls: Calls {
                evaluator: network.evaluator()?,
                decoder,
                size,
                times: vec![0.0; size],
                labels,
                guide,
                seen: (0, t),
                projected,
                x0,
                seconds: Duration::ZERO,
            },
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
        };
        run.resume_with(options.deadline, options.cancel);
        Ok(run)
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
                return Err(error);
            }
        }
        Ok(self.progress)
    }

    /// One row of a plan, or one attempted step of an adaptive solver.
    fn advance(&mut self) -> Result<()> {
        self.interrupted()?;
        match &mut self.rows {
            Cursor::Planned { plan, next } => {
                let (plan, first) = (plan.clone(), *next);
                let row = &plan.rows[first];
                let mut done = 1;
                match row {
                    Row::Eval(eval) => match plan.rows.get(first + 1) {
                        Some(Row::Eval(guide)) if self.at_once(eval, guide) => {
                            self.eval_both(eval, guide)?;
                            done = 2;
                        }
                        _ => self.eval(eval)?,
                    },
                    Row::Update(update) => self.update(update)?,
                    Row::Map(map) => self.map(map)?,
                }
                let following = plan.rows.get(first + done).map(Row::step);
                // Only now: a call that was interrupted in flight is made again.
                if let Cursor::Planned { next, .. } = &mut self.rows {
                    *next += done;
                }
                self.progress.done = following.is_none();
                if following != Some(row.step()) {
                    self.progress.step = row.step() + 1;
                    self.progress.fraction = self.progress.step as f64 / self.progress.of as f64;
                }
            }
            Cursor::Adaptive(solver) => {
                let mut solver = solver.clone();
                let sampler = self.sampler.clone();
                solver.advance(&sampler.process, self)?;
                self.progress.step += 1;
                self.progress.fraction = solver.fraction();
                self.progress.nfe = solver.nfe as usize;
                self.progress.done = solver.done;
                self.rows = Cursor::Adaptive(solver);
            }
        }
        Ok(())
    }

    fn interrupted(&self) -> Result<()> {
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

    /// Calls the network of `row`; a guide that would change nothing is not called.
    fn eval(&mut self, row: &Eval) -> Result<()> {
        if row.network == GUIDE && !self.guides() {
            return Ok(());
        }
        self.progress.t = row.t;
        let began = Instant::now();
        let n = self.batch.n;
        if let (Some(input), Some(projected)) = (&row.input, &mut self.calls.projected) {
            self.executor.project(&self.batch, row.from, &input.project, projected);
        }
        let t = row.input.as_ref().map_or(row.t, |input| input.t);
        let output_len = self.sampler.blocks_of(row.network) * self.batch.d;
        let mut first = 0;
        while first < n {
            let samples = first..(first + self.calls.size).min(n);
            let of = |len: usize| -> Range<usize> { samples.start * len..samples.end * len };
            let calls = &mut self.calls;
            let times = &mut calls.times[..samples.len()];
            times.fill(t);
            let (evaluator, labels) = match &mut calls.guide {
                Some(Guide::Other { evaluator, labels, .. }) if row.network == GUIDE => {
                    (evaluator, labels.as_deref())
                }
                Some(Guide::Model(_)) if row.network == GUIDE => (&mut calls.evaluator, None),
                _ => (&mut calls.evaluator, calls.labels.as_deref()),
            };
            let inputs = Inputs {
                z: match (&row.input, &calls.projected) {
                    (Some(_), Some(projected)) => projected.values(of(self.batch.d)),
                    _ => self.batch.states[row.from].values(of(self.batch.k * self.batch.d)),
                },
                t: times,
                labels: labels.map(|labels| &labels[samples.clone()]),
            };
            let out = self.batch.slots[row.slot].values_mut(of(output_len));
            if let Err(e) = evaluator.evaluate(inputs, out) {
                // Of a call that was ended on request; where it failed by itself, it will again.
                self.interrupted()?;
                return Err(e.context(place(&self.progress)));
            }
            first = samples.end;
        }
        self.calls.seconds += began.elapsed();
        self.progress.nfe += 1;
        if row.network == GUIDE {
            return Ok(());
        }
        self.calls.seen = (row.from, row.t);
        self.preview(row.slot)
    }

    /// Whether guidance changes anything: without a scale other than zero the guide is not called.
    fn guides(&self) -> bool {
        self.batch.scales.iter().any(|w| *w != 0.0)
    }

    /// Whether the calls of two rows are of one network on the same states and times.
    fn at_once(&self, own: &Eval, guide: &Eval) -> bool {
        let same = (own.network, guide.network) == (0, GUIDE)
            && (own.from, own.t, &own.input) == (guide.from, guide.t, &guide.input);
        same && self.guides() && matches!(self.calls.guide, Some(Guide::Model(_)))
    }

    /// Calls the model with the samples' classes and without, at once, in batches of twice the samples.
    fn eval_both(&mut self, own: &Eval, guide: &Eval) -> Result<()> {
        let Some(Guide::Model(twice)) = &mut self.calls.guide else {
            return Err(Error::new(Status::Internal, "a guide of its own is called on its own"));
        };
        self.progress.t = own.t;
        let began = Instant::now();
        let n = self.batch.n;
        let mut state = &self.batch.states[own.from];
        if let (Some(input), Some(projected)) = (&own.input, &mut self.calls.projected) {
            self.executor.project(&self.batch, own.from, &input.project, projected);
            state = projected;
        }
        let t = own.input.as_ref().map_or(own.t, |input| input.t);
        let mut first = 0;
        while first < n {
            let samples = first..(first + self.calls.size).min(n);
            let labels = self.calls.labels.as_deref();
            let called = twice.evaluate(&mut *self.calls.evaluator, &samples, state, t, labels);
            if let Err(e) = called {
                self.interrupted()?;
                return Err(e.context(place(&self.progress)));
            }
            twice.read(&samples, &mut self.batch.slots, own.slot, guide.slot);
            first = samples.end;
        }
        self.calls.seconds += began.elapsed();
        self.progress.nfe += 2;
        self.calls.seen = (own.from, own.t);
        self.preview(own.slot)
    }

    /// Executes a map row; one that guides changes the data estimate, too.
    fn map(&mut self, row: &Map) -> Result<()> {
        let guides = matches!(row.kind, MapKind::Cfg { .. } | MapKind::Gradient { .. });
        if guides && !self.guides() {
            return Ok(());
        }
        self.executor.map(&mut self.batch, &row.kind, row.into);
        if guides { self.preview(row.into) } else { Ok(()) }
    }

    /// Makes the data estimate of the model's last call, whose output is in `slot`, where it is wanted.
    fn preview(&mut self, slot: usize) -> Result<()> {
        let (from, t) = self.calls.seen;
        if let Some(x0) = &mut self.calls.x0 {
            let (on_z, on_output) = self.calls.decoder.x0(&self.sampler.process, t)?;
            self.executor.x0(&self.batch, from, slot, &on_z, &on_output, x0);
        }
        Ok(())
    }

    /// Calls the network on the samples of `state` that have a time. A call in which no sample has one is not made; in
    /// the others the rest keep their place, so that shapes and addresses stay.
    fn eval_each(&mut self, state: usize, times: &[Option<f64>], slot: usize) -> Result<()> {
        let latest = times.iter().flatten().copied().fold(f64::NAN, f64::max);
        self.progress.t = latest;
        let began = Instant::now();
        let n = self.batch.n;
        let (decoder, process) = (&self.calls.decoder, &self.sampler.process);
        let inputs: Vec<_> = times.iter().map(|t| t.and_then(|t| decoder.input(process, t))).collect();
        if let Some(projected) = &mut self.calls.projected {
            let projects: Vec<_> = inputs.iter().map(|input| input.as_ref().map(|i| i.project)).collect();
            self.executor.project_each(&self.batch, state, &projects, projected);
        }
        // The network's own times; who has none is given one that the network knows.
        let own = |i: usize| inputs[i].as_ref().map_or(times[i], |input| Some(input.t));
        let spare = (0..n).find_map(own).unwrap_or(latest);
        let output_len = self.sampler.blocks_of(0) * self.batch.d;
        let mut first = 0;
        while first < n {
            let samples = first..(first + self.calls.size).min(n);
            first = samples.end;
            if times[samples.clone()].iter().all(Option::is_none) {
                continue;
            }
            let of = |len: usize| -> Range<usize> { samples.start * len..samples.end * len };
            let calls = &mut self.calls;
            let at = &mut calls.times[..samples.len()];
            at.iter_mut().zip(samples.clone()).for_each(|(at, i)| *at = own(i).unwrap_or(spare));
            let inputs = Inputs {
                z: match &calls.projected {
                    Some(projected) => projected.values(of(self.batch.d)),
                    None => self.batch.states[state].values(of(self.batch.k * self.batch.d)),
                },
                t: at,
                labels: calls.labels.as_ref().map(|labels| &labels[samples.clone()]),
            };
            let out = self.batch.slots[slot].values_mut(of(output_len));
            if let Err(e) = calls.evaluator.evaluate(inputs, out) {
                // Of a call that was ended on request; where it failed by itself, it will again.
                self.interrupted()?;
                return Err(e.context(place(&self.progress)));
            }
        }
        self.calls.seconds += began.elapsed();
        self.progress.nfe += 1;
        if let Some(x0) = &mut self.calls.x0 {
            let map =
                |t: &Option<f64>| t.map(|t| self.calls.decoder.x0(&self.sampler.process, t)).transpose();
            let maps = times.iter().map(map).collect::<Result<Vec<_>>>()?;
            self.executor.x0_each(&self.batch, state, slot, &maps, x0);
        }
        Ok(())
    }

    fn update(&mut self, row: &Update) -> Result<()> {
        let Err(sample) = self.executor.update(&mut self.batch, row) else { return Ok(()) };
        Err(self.non_finite(row, sample))
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
            format!("{}: {what} of sample {sample} is not finite", place(&self.progress)),
        )
    }

    fn non_finite_at(&self, row: Option<&Update>, sample: usize) -> Error {
        match row {
            Some(row) => self.non_finite(row, sample),
            None => Error::new(Status::Internal, "a sample that was left alone became non-finite"),
        }
    }

    /// How far the run is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Time spent in network calls.
    pub fn network_time(&self) -> Duration {
        self.calls.seconds
    }

    /// Replaces the deadline (`None`: no deadline) and the cancel token, to continue an interrupted run.
    pub fn resume_with(&mut self, deadline: Option<Duration>, cancel: Option<Cancel>) {
        self.deadline = at(deadline);
        // Before calls are let run again: from here on the old token does not reach them.
        self.cancel = None;
        let call = self.calls.evaluator.interrupt();
        if let Some(call) = &call {
            call.clear();
        }
        self.cancel = cancel.map(|cancel| Watch::new(cancel, call));
    }

    /// What made these samples: a JSON object with `psld` (version), `sampler` (options in full), `plan` and `model`
    /// (hashes), `process`, `backend`, `noise` ("philox" or "caller"), `seeds` (first, count: at the start), `gathered` (step,
    /// indices, seeds of each [`gather`](Self::gather); null without), `precision`, `batch`, `labels`, `conditioning`,
    /// `scales` (both as they are now), `guide` (hash), `steps`, `nfe`, `t`, `done` and `seconds` in the network. With the
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
            "batch": self.calls.size,
            "labels": self.calls.labels,
            "steps": { "done": step, "of": of },
            "nfe": nfe,
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

/// The model as its own guide, for calls of `size` samples.
fn own_guide(model: &Model, sampler: &Sampler, size: usize, state: Precision) -> Result<Guide> {
    let (spec, d) = (model.spec(), model.spec().data_len());
    let k = sampler.process.k();
    let input = if sampler.projects() { d } else { k * d };
    let lengths = Lengths { size, input, output: spec.output_blocks(k) * d };
    let precisions = (state, precision_of(0, model, None, state));
    Ok(Guide::Model(Twice::new(lengths, precisions, spec.network.classes.into())?))
}

/// A buffer of another length than the result's is a mistake, too, where it is longer: of type or shape.
fn fits(len: usize, wanted: u128) -> Result<()> {
    if len as u128 == wanted {
        return Ok(());
    }
    let status = if (len as u128) < wanted { Status::BufferTooSmall } else { Status::InvalidArgument };
    Err(Error::new(status, format!("expected a buffer of {wanted} elements, got {len}")))
}

/// A type that results can be read as.
pub trait Element: Copy + Default + sealed::Copied {}
impl Element for f32 {}
impl Element for f64 {}

mod sealed {
    use super::{Buffer, Range};
    use crate::network::Values;

    pub trait Copied: Sized {
        #[allow(private_interfaces)]
        fn copy(from: &Buffer, range: Range<usize>, to: &mut [Self]);
        fn values(of: &[Self]) -> Values<'_>;
    }
    macro_rules! copied {
        ($t:ty, $variant:ident) => {
            impl Copied for $t {
                #[allow(private_interfaces)]
                fn copy(from: &Buffer, range: Range<usize>, to: &mut [Self]) {
                    match from {
                        Buffer::F32(v) => to.iter_mut().zip(&v[range]).for_each(|(o, x)| *o = *x as $t),
                        Buffer::F64(v) => to.iter_mut().zip(&v[range]).for_each(|(o, x)| *o = *x as $t),
                    }
                }
                fn values(of: &[Self]) -> Values<'_> {
                    Values::$variant(of)
                }
            }
        };
    }
    copied!(f32, F32);
    copied!(f64, F64);
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

impl rk45::Rows for Run {
    fn eval(&mut self, state: usize, times: &[Option<f64>], slot: usize) -> Result<u32> {
        self.interrupted()?;
        let [Some(t)] = *times else {
            // Guidance is refused where samples have times of their own.
            self.eval_each(state, times, slot)?;
            return Ok(1);
        };
        let step = self.progress.step;
        let input = self.calls.decoder.input(&self.sampler.process, t);
        let eval = Eval { step, network: 0, from: state, t, slot, input };
        let guided = match &self.sampler.conditioning.guidance {
            Some(guidance) if self.guides() => {
                guidance::rows(guidance, &self.calls.decoder, &self.sampler.process, &eval, rk45::SLOTS)?
            }
            _ => None,
        };
        let Some((guide, map)) = guided else {
            Run::eval(self, &eval)?;
            return Ok(1);
        };
        if self.at_once(&eval, &guide) {
            self.eval_both(&eval, &guide)?;
        } else {
            Run::eval(self, &eval)?;
            Run::eval(self, &guide)?;
        }
        self.map(&map)?;
        Ok(CALLS_OF_GUIDED)
    }

    fn update(&mut self, rows: &[Option<Update>]) -> Result<()> {
        match rows {
            [Some(row)] => Run::update(self, row),
            _ => self
                .executor
                .update_each(&mut self.batch, rows)
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
            [Some(row)] => vec![self.executor.scaled_rms(&mut self.batch, row, scale, atol, rtol)],
            _ => self.executor.scaled_rms_each(&mut self.batch, rows, scale, atol, rtol),
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
