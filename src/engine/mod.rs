//! Many callers, one network: requests of any size, sampler, length and class are submitted on any thread at any time, and
//! the network calls that are due are made together, as one batch of samples at different times t.
//!
//! An engine has one thread of its own. It makes the network's calls, one after the other, and between them executes the
//! rows that need none; the network and large rows use the model's threads, as in a run. Each request gets what a
//! [`Run`](crate::Run) of it alone would get: bit for bit on an analytic network, within rounding through ONNX Runtime,
//! whose last bits depend on the size of a batch.
//!
//! # Who comes next
//! A request waits for one network call at a time. Those that wait are served in the order in which they began to wait, and a
//! level of priority is worth a head start of [`HEAD_START`] calls. A call takes samples from one after the other until it has
//! `max_batch`, of the last one a part; who has had `max_batch` of them, and needs more, goes to the end of the queue. So
//! nobody is kept waiting by large requests, nor for good by a higher priority: beside N others of its own one
//! waits for N calls at most, and who is D levels above comes before it only if it began to wait less than D head starts
//! later.
//!
//! A call never waits for company, since who comes while it is made joins the next one; only the first call after a pause does,
//! for `max_wait`.
//!
//! # What goes wrong
//! stays with whom it concerns. A sample that becomes non-finite fails its request. A network call that fails, fails the
//! requests that have samples in it, and no others. Cancelled and late requests leave before the next call; a call in
//! flight is ended where all who have samples in it are cancelled.

mod job;
mod worker;

pub use job::Ticket;

use crate::fork;
use crate::network::Interrupt;
use crate::run::RunOptions;
use crate::{Error, Model, Result, Run, Sampler, Status};
use job::Job;
use serde::Serialize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use worker::{Served, Worker};

/// Network calls that a level of priority is worth.
pub const HEAD_START: u32 = 8;

/// Priorities are from -`MAX_PRIORITY` to `MAX_PRIORITY`.
pub const MAX_PRIORITY: i32 = 10;

/// How an engine works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Samples of one network call at most, at least 1. Where a model is its own guide a sample counts twice.
    pub max_batch: usize,
    /// How long the first call after a pause waits for company, unless `max_batch` samples are there, or somebody's deadline
    /// passes, before.
    pub max_wait: Duration,
    /// Requests that may be in the engine at once, at least 1; one more is [`Status::QueueFull`]. All of them are worked on,
    /// and hold their arrays.
    pub queue: usize,
}

impl Default for EngineOptions {
    /// 64 samples, no wait, 256 requests.
    fn default() -> Self {
        Self { max_batch: 64, max_wait: Duration::ZERO, queue: 256 }
    }
}

/// What is submitted to an engine.
#[derive(Clone, Debug)]
pub struct Request {
    /// A sampler compiled for the engine's model.
    pub sampler: Arc<Sampler>,
    /// As for a run, but for `batch`, which is the engine's. A deadline counts from the submission.
    pub options: RunOptions,
    /// From -[`MAX_PRIORITY`] to [`MAX_PRIORITY`]; more is served earlier.
    pub priority: i32,
}

impl Request {
    /// A request of priority 0.
    pub fn new(sampler: &Arc<Sampler>, options: RunOptions) -> Self {
        Self { sampler: sampler.clone(), options, priority: 0 }
    }
}

/// What an engine has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests that are in the engine.
    pub requests: usize,
    /// Requests that were ever submitted and taken.
    pub submitted: u64,
    /// Requests that came to their end.
    pub completed: u64,
    /// Requests that ended otherwise: failed, cancelled, late.
    pub failed: u64,
    /// Network calls.
    pub calls: u64,
    /// Samples in all those calls together.
    pub samples: u64,
}

/// A network that many requests share. Any thread, at once.
///
/// Its tickets keep it at work: dropped, it takes no more requests, and those that were submitted go on to their ends.
/// [`close`](Self::close) ends them.
pub struct Engine {
    model: Model,
    core: Arc<Core>,
}

/// What engine and tickets own together: the last of them ends the thread.
struct Core {
    shared: Arc<Shared>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

/// What the callers' threads and the engine's share.
struct Shared {
    options: EngineOptions,
    /// That has the engine's thread.
    process: u32,
    desk: Mutex<Desk>,
    /// Rung where the engine's thread has to look at the desk.
    bell: Condvar,
}

/// Its lock may be taken while a token's is held, and so no token's while this is.
#[derive(Default)]
struct Desk {
    /// Submitted, and not yet taken by the engine's thread.
    arrived: Vec<Arc<Job>>,
    /// The network call in flight.
    call: Option<InFlight>,
    /// No more requests are taken.
    closed: bool,
    /// Those that were taken are to end.
    ended: bool,
    stats: Stats,
}

/// A network call in flight: who has samples in it, and what ends it.
struct InFlight {
    jobs: Vec<Arc<Job>>,
    interrupt: Option<Arc<dyn Interrupt>>,
}

impl Shared {
    /// Fails in a child of the engine's process, where nobody works, and locks may be held for good.
    fn check_process(&self, what: impl std::fmt::Display) -> Result<()> {
        if self.process == fork::process() { Ok(()) } else { Err(Error::forked(what)) }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was cancelled: whoever waits looks again, and a call that nobody wants any more is ended.
    fn look_again(&self) {
        let desk = self.desk();
        if let Some(InFlight { jobs, interrupt: Some(interrupt) }) = &desk.call
            && (desk.ended || jobs.iter().all(|job| job.is_cancelled()))
        {
            interrupt.interrupt();
        }
        self.bell.notify_all();
    }
}

/// A place in the queue, until it is dropped.
struct Place(Arc<Shared>);

impl Place {
    fn take(shared: &Arc<Shared>) -> Result<Self> {
        let mut desk = shared.desk();
        if desk.closed {
            return Err(closed());
        }
        let queue = shared.options.queue;
        if desk.stats.requests >= queue {
            return Err(Error::new(
                Status::QueueFull,
                format!("the engine's queue is full: {queue} requests are in it"),
            )
            .hint("submit again when one of them has ended, or make an engine with a larger `queue`"));
        }
        desk.stats.requests += 1;
        Ok(Self(shared.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.desk().stats.requests -= 1;
    }
}

fn closed() -> Error {
    Error::new(Status::Cancelled, "the engine is closed")
}

impl Engine {
    /// Starts an engine, and its thread, on `model`.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] naming the option; [`Status::OutOfMemory`] where there is no memory for a batch, or no
    /// thread; those of the network.
    pub fn new(model: &Model, options: EngineOptions) -> Result<Self> {
        let EngineOptions { max_batch, queue, .. } = options;
        for (name, value) in [("max_batch", max_batch), ("queue", queue)] {
            if value == 0 {
                return Err(Error::argument(format!("{name} = 0: expected at least 1")));
            }
        }
        let served = Served::model(model, max_batch)
            .map_err(|e| e.context(format_args!("max_batch = {max_batch}")))?;
        let shared = Arc::new(Shared {
            options,
            process: fork::process(),
            desk: Mutex::default(),
            bell: Condvar::new(),
        });
        let mut worker = Worker::new(shared.clone(), served);
        let thread = thread::Builder::new().name("psld-engine".into()).spawn(move || worker.run());
        let thread = thread.map_err(|e| {
            Error::new(Status::OutOfMemory, "the engine's thread cannot be started").source(e)
        })?;
        Ok(Self { model: model.clone(), core: Arc::new(Core { shared, worker: Mutex::new(Some(thread)) }) })
    }

    /// Hands in a request. Its arrays are allocated, and its initial state is drawn, on the caller's thread; all that can be
    /// wrong with it is said here.
    ///
    /// # Errors
    /// [`Status::QueueFull`]; [`Status::InvalidArgument`], [`Status::ShapeMismatch`], [`Status::MemoryLimit`] and
    /// the others of [`Run::start`]; [`Status::Cancelled`] where the engine is closed.
    pub fn submit(&self, request: Request) -> Result<Ticket> {
        let shared = &self.core.shared;
        shared.check_process("the engine")?;
        let began = Instant::now();
        let Request { sampler, mut options, priority } = request;
        if !(-MAX_PRIORITY..=MAX_PRIORITY).contains(&priority) {
            return Err(Error::argument(format!(
                "priority = {priority}: expected -{MAX_PRIORITY} to {MAX_PRIORITY}"
            )));
        }
        if options.batch.is_some() {
            return Err(Error::argument("batch: network calls are shared in an engine")
                .hint("leave it out; the engine's `max_batch` bounds them"));
        }
        let place = Place::take(shared)?;
        let (deadline, cancel) = (options.deadline.take(), options.cancel.take());
        let guide = options.guide.as_ref().map(|guide| guide.network().clone());
        let mut run = Run::hosted(&self.model, &sampler, options)?;
        run.watch(deadline.map(|time| time.saturating_sub(began.elapsed())), cancel.clone());
        let job = Job::new(run, priority, guide, cancel);
        job.hold(place, shared);
        {
            let mut desk = shared.desk();
            if !desk.closed {
                desk.stats.submitted += 1;
                desk.arrived.push(job.clone());
                shared.bell.notify_all();
                return Ok(Ticket::new(job, self.core.clone()));
            }
        }
        job.let_go();
        Err(closed())
    }

    /// What it has done so far.
    pub fn stats(&self) -> Stats {
        self.core.shared.desk().stats
    }

    /// Ends the engine: the call in flight is ended where the network can be interrupted, and all tickets that are not ended
    /// end with [`Status::Cancelled`]. Returns when the engine's thread is gone. Tickets can still be read.
    pub fn close(&self) {
        self.core.close();
    }

    /// Takes no more requests. Those that were submitted go on.
    pub fn retire(&self) {
        if self.core.shared.check_process("the engine").is_ok() {
            self.core.shared.desk().closed = true;
            self.core.shared.bell.notify_all();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.retire();
    }
}

impl Core {
    fn close(&self) {
        if self.shared.check_process("the engine").is_err() {
            return;
        }
        {
            let mut desk = self.shared.desk();
            (desk.closed, desk.ended) = (true, true);
        }
        self.shared.look_again();
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker
            // A network may drop the last owner of its engine.
            && worker.thread().id() != thread::current().id()
        {
            // It catches what panics in it, and has nothing to say.
            drop(worker.join());
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("model", &self.model)
            .field("options", &self.core.shared.options)
            .field("stats", &self.stats())
            .finish()
    }
}
