//! A request in an engine, and its owner's ticket.

use super::{Core, Place, Shared};
use crate::array::Element;
use crate::network::{Interrupt, Network};
use crate::run::{Cancel, Progress, Watch};
use crate::spec::What;
use crate::{Error, Result, Run, Status};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A request that was taken: shared by its ticket and the engine's thread.
pub(super) struct Job {
    /// What messages call it.
    pub id: u64,
    pub priority: i32,
    /// A guidance network of its own.
    pub guide: Option<Arc<dyn Network>>,
    pub deadline: Option<Instant>,
    run: Mutex<Run>,
    told: Mutex<Told>,
    changed: Condvar,
    /// Whether its ticket was cancelled.
    cancelled: AtomicBool,
    /// The caller's token.
    token: Option<Cancel>,
    held: Mutex<Option<Held>>,
}

/// What is known of a job without its run, which may be at work.
struct Told {
    progress: Progress,
    outcome: Option<Result<()>>,
}

/// What a job has until it ends.
struct Held {
    _place: Place,
    _watch: Option<Watch>,
}

/// Tells the engine of a cancelled token.
struct Signal(Arc<Shared>);

impl Interrupt for Signal {
    fn interrupt(&self) {
        self.0.look_again();
    }

    fn clear(&self) {}
}

impl Job {
    pub fn new(run: Run, priority: i32, guide: Option<Arc<dyn Network>>, token: Option<Cancel>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            priority,
            guide,
            deadline: run.deadline(),
            told: Mutex::new(Told { progress: run.progress(), outcome: None }),
            run: Mutex::new(run),
            changed: Condvar::new(),
            cancelled: AtomicBool::new(false),
            token,
            held: Mutex::new(None),
        })
    }

    /// Keeps a place in the queue, and hears of its token, until it ends.
    pub fn hold(&self, place: Place, shared: &Arc<Shared>) {
        // Of its own: a token takes a signal back by its address.
        let signal = || Arc::new(Signal(shared.clone())) as Arc<dyn Interrupt>;
        let watch = self.token.clone().map(|token| Watch::new(token, vec![signal()]));
        *self.held() = Some(Held { _place: place, _watch: watch });
    }

    pub fn let_go(&self) {
        // Not while it is locked: a watch that ends waits for its token's lock.
        let held = self.held().take();
        drop(held);
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst) || self.token.as_ref().is_some_and(Cancel::is_cancelled)
    }

    /// The run, unless it met a defect.
    pub fn run(&self) -> Result<MutexGuard<'_, Run>> {
        self.run.lock().map_err(|_| Error::new(Status::Panic, "it met a defect in psld, and holds nothing"))
    }

    /// Fails where the request is not to go on.
    pub fn interrupted(&self) -> Result<()> {
        if self.cancelled.load(Ordering::SeqCst) {
            let step = self.told().progress.step;
            return Err(Error::new(Status::Cancelled, format!("cancelled after step {step}")));
        }
        self.run()?.interrupted()
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tell(&self, progress: Progress) {
        self.told().progress = progress;
    }

    pub fn has_ended(&self) -> bool {
        self.told().outcome.is_some()
    }

    /// Ends it. Its place is free before its owner hears of that.
    pub fn end(&self, outcome: Result<()>) {
        self.let_go();
        let outcome = outcome.map_err(|e| e.context(format_args!("request {}", self.id)));
        self.told().outcome.get_or_insert(outcome);
        self.changed.notify_all();
    }
}

/// A request that was submitted. Any thread, at once.
///
/// Dropping it cancels a request that has not ended: nobody could read it. The last of an engine's tickets, where the engine
/// was dropped before, also waits for its thread.
pub struct Ticket {
    job: Arc<Job>,
    core: Arc<Core>,
}

impl Ticket {
    pub(super) fn new(job: Arc<Job>, core: Arc<Core>) -> Self {
        Self { job, core }
    }

    /// The number by which messages call the request ("request 7: ..."); it counts from 1 in each process.
    pub fn id(&self) -> u64 {
        self.job.id
    }

    /// Waits for the request's end.
    ///
    /// # Errors
    /// Those of [`Run::step`]: [`Status::Cancelled`] (also by [`Engine::close`](super::Engine::close)), [`Status::DeadlineExceeded`],
    /// [`Status::Partial`], [`Status::NonFinite`], [`Status::MaxNfe`]; where a network call that had samples of it
    /// failed, that call's. The same at each call.
    pub fn wait(&self) -> Result<Progress> {
        self.wait_until(None)
    }

    /// Waits for the request's end, for `time` at most: [`Progress::done`] says whether it came. Zero only looks.
    ///
    /// # Errors
    /// Those of [`Self::wait`].
    pub fn wait_for(&self, time: Duration) -> Result<Progress> {
        // Past what the clock can tell there is no end.
        self.wait_until(Instant::now().checked_add(time))
    }

    fn wait_until(&self, end: Option<Instant>) -> Result<Progress> {
        self.core.shared.check_process(format_args!("request {}", self.id()))?;
        let mut told = self.job.told();
        loop {
            match &told.outcome {
                Some(Ok(())) => return Ok(told.progress),
                Some(Err(e)) => return Err(e.again()),
                None => {}
            }
            told = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                None => self.job.changed.wait(told).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return Ok(Progress { done: false, ..told.progress }),
                Some(left) => {
                    self.job.changed.wait_timeout(told, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// How far the request is, also after it has ended.
    pub fn progress(&self) -> Progress {
        let told = self.job.told();
        // Done is who has come to the end and was told so.
        Progress { done: matches!(told.outcome, Some(Ok(()))), ..told.progress }
    }

    /// Asks for the request's end, with [`Status::Cancelled`]: before the next network call, or in the one in flight
    /// where that has samples of cancelled requests only. It does nothing to a request that has ended.
    pub fn cancel(&self) {
        self.job.cancelled.store(true, Ordering::SeqCst);
        self.core.shared.look_again();
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        // A run that met a defect has the samples that it had.
        self.job.run.lock().unwrap_or_else(PoisonError::into_inner).samples()
    }

    /// The shape of what [`Self::read`] gives.
    pub fn shape(&self, what: What) -> Vec<usize> {
        self.job.run.lock().unwrap_or_else(PoisonError::into_inner).shape(what)
    }

    /// Copies out data or state of a request that is complete; or at any time, also after a failure, the data estimate of
    /// one that was submitted with `previews` or `anytime`.
    ///
    /// # Errors
    /// [`Status::RunState`] where it is not complete, or has no data estimate; those of [`Run::read`].
    pub fn read<T: Element>(&self, what: What, out: &mut [T]) -> Result<()> {
        let named = |e: Error| e.context(format_args!("request {}", self.id()));
        if what != What::X0 && !matches!(self.job.told().outcome, Some(Ok(()))) {
            return Err(named(Error::new(Status::RunState, "it is not complete"))
                .hint("wait for it; of one that did not come to its end there is only the data estimate"));
        }
        self.job.run().map_err(named)?.read(what, out)
    }

    /// What made these samples: [`Run::provenance`].
    ///
    /// # Errors
    /// Those of [`Run::provenance`].
    pub fn provenance(&self) -> Result<serde_json::Value> {
        self.job.run()?.provenance()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.core.shared.check_process("").is_ok() && !self.job.has_ended() {
            self.cancel();
        }
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id()).field("progress", &self.progress()).finish()
    }
}
