//! A run: one batch of samples in flight, advanced step by step.

mod guide;
mod options;
mod sample;
mod tap;

pub use options::{Inpaint, RunOptions, Tensor};
pub use sample::{Overall, Samples, Seconds, check_size, sample, sample_into};

use crate::Model;
use crate::exec::{Batch, Buffer, Executor, Known};
use crate::guidance::{self, GUIDE};
use crate::network::{Evaluator, Inputs, Precision};
use crate::plan::{Eval, Map, MapKind, Plan, Row, Update};
use crate::solver::rk45::{self, Rk45};
use crate::solver::{CALLS_OF_GUIDED, Decoder, Rows, Sampler};
use crate::spec::{Guidance, GuidanceKind};
use crate::{Error, Result, Status};
use guide::{Guide, Lengths, Twice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A request to stop, made by the caller and passed to any number of runs. Sticky; any thread.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A token that nobody has cancelled yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the runs that hold this token to stop before their next network call.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether [`Self::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    sampler: Arc<Sampler>,
    batch: Batch,
    calls: Calls,
    executor: Executor,
    rows: Cursor,
    progress: Progress,
    deadline: Option<Instant>,
    cancel: Option<Cancel>,
    /// Number of the first sample in messages.
    first_sample: usize,
    poisoned: bool,
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
        let output_blocks = spec.output_blocks(k);
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
                .map(|network| {
                    let precision = match &options.guide {
                        Some(guide) if *network == GUIDE => {
                            guide.network().output_precision(options.precision)
                        }
                        _ => output_precision,
                    };
                    Buffer::zeros(precision, n * sampler.blocks_of(*network) * d)
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
            None => executor.prior(&mut batch, &sampler.process.prior_factor()),
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
            (Some(_), None) => {
                let lengths = Lengths { size, input: k * d, output: output_blocks * d };
                let null = spec.network.classes.into();
                let twice = Twice::new(lengths, (options.precision, output_precision), null)?;
                (labels, Some(Guide::Model(twice)))
            }
        };
        let x0 = if options.previews { Some(Buffer::zeros(options.precision, n * d)?) } else { None };
        let (rows, of, t) = match &sampler.rows {
            Rows::Planned(plan) => {
                let of = plan.rows.last().map_or(0, |row| row.step() + 1);
                (
                    Cursor::Planned { plan: plan.clone(), next: 0 },
                    of,
                    plan.grid.first().copied().unwrap_or(1.0),
                )
            }
            Rows::Adaptive(o) => (Cursor::Adaptive(Rk45::new(*o, &sampler.model)), 0, o.t_start),
        };
        Ok(Self {
            calls: Calls {
                evaluator: network.evaluator()?,
                decoder: Decoder::new(spec),
                size,
                times: vec![0.0; size],
                labels,
                guide,
                seen: (0, t),
                x0,
                seconds: Duration::ZERO,
            },
            sampler: sampler.clone(),
            batch,
            executor,
            rows,
            progress: Progress { step: 0, of, fraction: 0.0, t, nfe: 0, done: false },
            deadline: at(options.deadline),
            cancel: options.cancel,
            first_sample,
            poisoned: false,
        })
    }

    /// Advances by at most `max_steps` steps.
    ///
    /// # Errors
    /// [`Status::Cancelled`] and [`Status::DeadlineExceeded`] leave a run that can be continued (with another
    /// token or deadline); after any other error the run can only be read.
    pub fn step(&mut self, max_steps: usize) -> Result<Progress> {
        if self.poisoned {
            return Err(Error::new(Status::RunState, "the run has failed before and cannot be continued"));
        }
        let last = self.progress.step.saturating_add(max_steps);
        while !self.progress.done && self.progress.step < last {
            if let Err(error) = self.advance() {
                self.poisoned = !matches!(error.status(), Status::Cancelled | Status::DeadlineExceeded);
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
        if self.cancel.as_ref().is_some_and(Cancel::is_cancelled) {
            return Err(Error::new(
                Status::Cancelled,
                format!("cancelled after step {}", self.progress.step),
            ));
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let of = if self.progress.of == 0 { String::new() } else { format!(" of {}", self.progress.of) };
            return Err(Error::new(
                Status::DeadlineExceeded,
                format!("the deadline passed after step {}{of}", self.progress.step),
            ));
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
        let (n, state_len) = (self.batch.n, self.batch.k * self.batch.d);
        let output_len = self.sampler.blocks_of(row.network) * self.batch.d;
        let mut first = 0;
        while first < n {
            let samples = first..(first + self.calls.size).min(n);
            let of = |len: usize| -> Range<usize> { samples.start * len..samples.end * len };
            let calls = &mut self.calls;
            let times = &mut calls.times[..samples.len()];
            times.fill(row.t);
            let (evaluator, labels) = match &mut calls.guide {
                Some(Guide::Other { evaluator, labels }) if row.network == GUIDE => {
                    (evaluator, labels.as_deref())
                }
                Some(Guide::Model(_)) if row.network == GUIDE => (&mut calls.evaluator, None),
                _ => (&mut calls.evaluator, calls.labels.as_deref()),
            };
            let inputs = Inputs {
                z: self.batch.states[row.from].values(of(state_len)),
                t: times,
                labels: labels.map(|labels| &labels[samples.clone()]),
            };
            let out = self.batch.slots[row.slot].values_mut(of(output_len));
            evaluator.evaluate(inputs, out).map_err(|e| e.context(place(&self.progress)))?;
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
        let same = (own.network, guide.network) == (0, GUIDE) && (own.from, own.t) == (guide.from, guide.t);
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
        let mut first = 0;
        while first < n {
            let samples = first..(first + self.calls.size).min(n);
            let state = &self.batch.states[own.from];
            twice
                .evaluate(&mut *self.calls.evaluator, &samples, state, own.t, self.calls.labels.as_deref())
                .map_err(|e| e.context(place(&self.progress)))?;
            twice.read(&samples, &mut self.batch.slots, own.slot, guide.slot);
            first = samples.end;
        }
        self.calls.seconds += began.elapsed();
        self.progress.nfe += 2;
        self.calls.seen = (own.from, own.t);
        Ok(())
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
        self.cancel = cancel;
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
        match self.batch.states[0] {
            Buffer::F32(_) => Precision::F32,
            Buffer::F64(_) => Precision::F64,
        }
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
                None => {
                    return Err(Error::new(Status::RunState, "this run keeps no data estimates")
                        .hint("start it with `previews`"));
                }
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

    pub trait Copied: Sized {
        #[allow(private_interfaces)]
        fn copy(from: &Buffer, range: Range<usize>, to: &mut [Self]);
    }
    macro_rules! copied {
        ($t:ty) => {
            impl Copied for $t {
                #[allow(private_interfaces)]
                fn copy(from: &Buffer, range: Range<usize>, to: &mut [Self]) {
                    match from {
                        Buffer::F32(v) => to.iter_mut().zip(&v[range]).for_each(|(o, x)| *o = *x as $t),
                        Buffer::F64(v) => to.iter_mut().zip(&v[range]).for_each(|(o, x)| *o = *x as $t),
                    }
                }
            }
        };
    }
    copied!(f32);
    copied!(f64);
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
    fn eval(&mut self, state: usize, t: f64, slot: usize) -> Result<u32> {
        self.interrupted()?;
        let step = self.progress.step;
        let eval = Eval { step, network: 0, from: state, t, slot };
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

    fn update(&mut self, row: &Update) -> Result<()> {
        Run::update(self, row)
    }

    fn scaled_rms(&mut self, row: &Update, scale: [usize; 2], atol: f64, rtol: f64) -> Result<f64> {
        let rms = self.executor.scaled_rms(&mut self.batch, row, scale, atol, rtol);
        if rms.is_finite() {
            return Ok(rms);
        }
        // Not a rejected step, as scipy has it: the last stage's output enters no state before this.
        let sample = self.batch.partial.iter().position(|sum| !sum.is_finite()).unwrap_or(0);
        Err(self.non_finite(row, sample))
    }
}
