//! The engine's thread.

use super::job::Job;
use super::{Desk, HEAD_START, InFlight, Shared};
use crate::array::Precision;
use crate::network::{Evaluator, Network};
use crate::run::{Evaluation, Lengths, Sheet};
use crate::{Error, Model, Result, Status};
use std::any::Any;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

pub(super) struct Worker {
    shared: Arc<Shared>,
    /// The network that the engine was made for is the first; guidance networks of requests follow.
    served: Vec<Served>,
    waiting: Vec<Waiting>,
    /// Network calls so far: the clock by which waiting is measured.
    calls: i64,
    /// How many began to wait.
    turns: u64,
    /// Until when the first call after a pause waits for company.
    patience: Option<Instant>,
}

/// What those in one network call have in common.
#[derive(Clone)]
struct Key {
    network: Arc<dyn Network>,
    precision: Precision,
    lengths: Lengths,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        same(&self.network, &other.network)
            && (self.precision, self.lengths) == (other.precision, other.lengths)
    }
}

/// Not `Arc::ptr_eq`, which compares vtables, too, and those may have copies.
fn same(a: &Arc<dyn Network>, b: &Arc<dyn Network>) -> bool {
    ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}

/// Calls of one kind.
pub(super) struct Served {
    key: Key,
    /// None after a defect: it is opened again.
    evaluator: Option<Box<dyn Evaluator>>,
    sheet: Sheet,
}

impl Served {
    /// Those of a model with single-precision states.
    pub fn model(model: &Model, max_batch: usize) -> Result<Self> {
        let (spec, d) = (model.spec(), model.spec().data_len());
        let k = spec.process()?.k();
        let lengths = Lengths { input: spec.input_blocks(k) * d, output: spec.output_blocks(k) * d };
        let network = model.network().clone();
        Self::open(Key { network, precision: Precision::F32, lengths }, max_batch)
    }

    fn open(key: Key, max_batch: usize) -> Result<Self> {
        let sheet = Sheet::new(&*key.network, key.lengths, key.precision, max_batch)?;
        Ok(Self { evaluator: Some(key.network.evaluator()?), key, sheet })
    }
}

/// A job in the hands of the engine's thread, which owes its owner an end: one that a panic takes out of them ends with that.
struct Owed {
    job: Arc<Job>,
    shared: Arc<Shared>,
}

impl Owed {
    /// Ends it, and counts it.
    fn end(&self, outcome: Result<()>) {
        {
            let stats = &mut self.shared.desk().stats;
            *(if outcome.is_ok() { &mut stats.completed } else { &mut stats.failed }) += 1;
        }
        // Without the desk's lock: what the job holds gives its place back.
        self.job.end(outcome);
    }
}

impl Deref for Owed {
    type Target = Arc<Job>;
    fn deref(&self) -> &Arc<Job> {
        &self.job
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if !self.job.has_ended() {
            let lost = "a defect in psld or a network took it out of the engine";
            self.end(Err(Error::new(Status::Panic, lost).hint("please report it")));
        }
    }
}

/// Who arrived: from here on the engine's thread has them.
fn owed(shared: &Arc<Shared>, desk: &mut Desk) -> Vec<Owed> {
    desk.arrived.drain(..).map(|job| Owed { job, shared: shared.clone() }).collect()
}

/// A request that waits for a network call.
struct Waiting {
    job: Owed,
    evaluation: Evaluation,
    key: Key,
    /// The first lane that was in no call yet.
    next: usize,
    /// Lanes that were in a call since its turn began.
    taken: usize,
    /// Who comes first: see the module's documentation.
    rank: (i64, u64),
}

/// Lanes of a request in a call.
struct Part {
    /// Of the request, among those that wait.
    index: usize,
    /// The lane after the last.
    next: usize,
    /// The first of the sheet's.
    at: usize,
}

/// The longest that is waited for company.
const CENTURY: Duration = Duration::from_secs(3_000_000_000);

impl Worker {
    pub fn new(shared: Arc<Shared>, model: Served) -> Self {
        Self { shared, served: vec![model], waiting: Vec::new(), calls: 0, turns: 0, patience: None }
    }

    /// Works until the engine is ended, or closed and nothing is left to do.
    pub fn run(&mut self) {
        loop {
            match guarded(|| Ok(self.turn())) {
                Ok(true) => {}
                Ok(false) => break,
                // Nobody is left to wait for what does not come.
                Err(e) => self.waiting.drain(..).for_each(|waiting| waiting.job.end(Err(e.again()))),
            }
        }
        let left = owed(&self.shared, &mut self.shared.desk());
        for job in left.into_iter().chain(self.waiting.drain(..).map(|waiting| waiting.job)) {
            job.end(Err(Error::new(Status::Cancelled, "the engine was closed")));
        }
    }

    /// Takes in who arrived, and makes a network call where one is due. `false`: there is nothing more to do.
    fn turn(&mut self) -> bool {
        let Some(arrived) = self.arrivals() else { return false };
        if self.waiting.is_empty() && !arrived.is_empty() {
            self.patience = Instant::now().checked_add(self.shared.options.max_wait.min(CENTURY));
        }
        arrived.into_iter().for_each(|job| self.go_on(job, None));
        self.let_leave();
        if !self.waiting.is_empty() && !self.is_waiting_for_company() {
            self.patience = None;
            self.call();
        }
        self.let_go_of_guides();
        true
    }

    /// Who arrived since the last time; without anything to do it waits for somebody. `None`: there is nothing more to do.
    fn arrivals(&self) -> Option<Vec<Owed>> {
        let mut desk = self.shared.desk();
        if desk.arrived.is_empty() && !desk.closed {
            if self.waiting.is_empty() {
                desk = self.shared.bell.wait(desk).unwrap_or_else(PoisonError::into_inner);
            } else if let Some(end) = self.end_of_patience() {
                let left = end.saturating_duration_since(Instant::now());
                desk = self.shared.bell.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        let idle = desk.closed && desk.arrived.is_empty() && self.waiting.is_empty();
        if desk.ended || idle { None } else { Some(owed(&self.shared, &mut desk)) }
    }

    /// Until when the next call may wait for company: no longer than until the first of those who wait is late.
    fn end_of_patience(&self) -> Option<Instant> {
        let deadlines = self.waiting.iter().filter_map(|waiting| waiting.job.deadline);
        self.patience.map(|end| deadlines.fold(end, Instant::min))
    }

    /// Whether the call that is next still waits for others to join it.
    fn is_waiting_for_company(&self) -> bool {
        if self.shared.desk().closed || self.end_of_patience().is_none_or(|end| Instant::now() >= end) {
            return false;
        }
        let Some(first) = self.waiting.iter().min_by_key(|waiting| waiting.rank) else { return false };
        let lanes = |waiting: &Waiting| {
            let run = waiting.job.run();
            run.map_or(0, |run| run.lanes_left(&waiting.evaluation, waiting.next))
        };
        let there: usize = self.waiting.iter().filter(|waiting| waiting.key == first.key).map(lanes).sum();
        there < self.shared.options.max_batch
    }

    /// Ends those that are cancelled or late.
    fn let_leave(&mut self) {
        self.waiting.retain(|waiting| match waiting.job.interrupted() {
            Ok(()) => true,
            Err(e) => {
                waiting.job.end(Err(e));
                false
            }
        });
    }

    /// What belongs to the engine's own model stays, what to a guidance network as long as somebody has it.
    fn let_go_of_guides(&mut self) {
        let (waiting, own) = (&self.waiting, self.served[0].key.network.clone());
        self.served.retain(|Served { key: Key { network, .. }, .. }| {
            let guides =
                |waiting: &Waiting| waiting.job.guide.as_ref().is_some_and(|guide| same(network, guide));
            same(network, &own) || waiting.iter().any(guides)
        });
    }

    /// Takes a job as far as it gets without a network call; `answered` is the call that it waited for.
    fn go_on(&mut self, job: Owed, answered: Option<Evaluation>) {
        let outcome = guarded(|| {
            let mut run = job.run()?;
            if let Some(evaluation) = answered {
                run.evaluated(&evaluation)?;
            }
            let next = run.proceed();
            job.tell(run.progress());
            let key = |evaluation: &Evaluation| Key {
                network: run.network_of(evaluation).clone(),
                precision: run.precision(),
                lengths: run.lengths_of(evaluation),
            };
            Ok(next?.map(|evaluation| (key(&evaluation), evaluation)))
        });
        match outcome {
            Ok(Some((key, evaluation))) => {
                self.queue(Waiting { job, evaluation, key, next: 0, taken: 0, rank: (0, 0) })
            }
            Ok(None) => job.end(Ok(())),
            Err(e) => job.end(Err(e)),
        }
    }

    /// Puts somebody to the end of the queue of those with its priority.
    fn queue(&mut self, mut waiting: Waiting) {
        self.turns += 1;
        waiting.rank = (self.calls - i64::from(waiting.job.priority) * i64::from(HEAD_START), self.turns);
        waiting.taken = 0;
        self.waiting.push(waiting);
    }

    /// Which of [`Self::served`] calls of this kind are made with: it has an evaluator.
    fn open(&mut self, key: Key) -> Result<usize> {
        let at = match self.served.iter().position(|served| served.key == key) {
            Some(at) => at,
            None => {
                self.served.push(Served::open(key, self.shared.options.max_batch)?);
                self.served.len() - 1
            }
        };
        let Served { key, evaluator, .. } = &mut self.served[at];
        if evaluator.is_none() {
            *evaluator = Some(key.network.evaluator()?);
        }
        Ok(at)
    }

    /// Makes one network call for those who come first.
    fn call(&mut self) {
        self.waiting.sort_by_key(|waiting| waiting.rank);
        let Some(first) = self.waiting.first() else { return };
        let key = first.key.clone();
        // A network's own code, as that of its call.
        let at = match guarded(|| self.open(key)) {
            Ok(at) => at,
            Err(e) => {
                let first = self.waiting.remove(0);
                return first.job.end(Err(e));
            }
        };
        let parts = self.gather(at);
        let jobs = || parts.iter().map(|part| &self.waiting[part.index].job);

        let served = &mut self.served[at];
        let Some(evaluator) = &mut served.evaluator else { return };
        let interrupt = evaluator.interrupt();
        {
            let mut desk = self.shared.desk();
            // Who was cancelled since it was asked found no call to end.
            if desk.ended || jobs().all(|job| job.is_cancelled()) {
                return;
            }
            if let Some(interrupt) = &interrupt {
                interrupt.clear();
            }
            desk.call = Some(InFlight { jobs: jobs().map(|job| job.job.clone()).collect(), interrupt });
        }
        let began = Instant::now();
        let made = guarded(|| served.sheet.evaluate(&mut **evaluator));
        let each = began.elapsed().div_f64(served.sheet.len().max(1) as f64);
        let arrived = {
            let mut desk = self.shared.desk();
            desk.call = None;
            desk.stats.calls += 1;
            desk.stats.samples += served.sheet.len() as u64;
            owed(&self.shared, &mut desk)
        };
        self.calls += 1;
        if made.as_ref().is_err_and(|e| e.status() == Status::Panic) {
            served.evaluator = None;
        }
        // Before those of the call, who begin to wait later.
        arrived.into_iter().for_each(|job| self.go_on(job, None));
        match made {
            Ok(()) => self.scatter(at, &parts, each),
            Err(e) => self.fail(at, &parts, &e),
        }
    }

    /// Fills the sheet of a network with those who come first.
    fn gather(&mut self, at: usize) -> Vec<Part> {
        let served = &mut self.served[at];
        served.sheet.clear();
        let mut parts = Vec::new();
        for (index, waiting) in self.waiting.iter().enumerate() {
            let at = served.sheet.len();
            if at == served.sheet.capacity() {
                break;
            }
            if waiting.key != served.key {
                continue;
            }
            // Who met a defect has been ended.
            let Ok(run) = waiting.job.run() else { continue };
            let lanes = run.lanes(&waiting.evaluation);
            let mut next = waiting.next;
            while next < lanes && served.sheet.len() < served.sheet.capacity() {
                run.show(&waiting.evaluation, next, &mut served.sheet);
                next += 1;
            }
            parts.push(Part { index, next, at });
        }
        parts
    }

    /// Gives the outputs to those who asked for them; `each` is the time that one took. Whoever has all of its outputs goes
    /// on, and whoever had a batch of them goes to the end of the queue for the rest.
    fn scatter(&mut self, at: usize, parts: &[Part], each: Duration) {
        let sheet = &self.served[at].sheet;
        for Part { index, next, at } in parts {
            let waiting = &mut self.waiting[*index];
            let Ok(mut run) = waiting.job.run() else { continue };
            let mut taken = 0;
            for lane in waiting.next..*next {
                taken += usize::from(run.take(&waiting.evaluation, lane, sheet, at + taken));
            }
            run.spent(each.mul_f64(taken as f64));
            drop(run);
            waiting.next = *next;
            waiting.taken += taken;
        }
        for waiting in self.remove(parts) {
            let left = waiting.job.run().map(|run| run.lanes_left(&waiting.evaluation, waiting.next));
            match left {
                Ok(0) | Err(_) => self.go_on(waiting.job, Some(waiting.evaluation)),
                Ok(_) if waiting.taken >= self.shared.options.max_batch => self.queue(waiting),
                Ok(_) => self.waiting.push(waiting),
            }
        }
    }

    /// Ends those who had samples in a call that failed.
    fn fail(&mut self, at: usize, parts: &[Part], error: &Error) {
        if self.shared.desk().ended {
            // The call was ended by that, and so are all who wait.
            return;
        }
        let samples = self.served[at].sheet.len();
        for waiting in self.remove(parts) {
            let failed = || {
                let shared = format!("in a network call of {samples} samples of {} requests", parts.len());
                let named = error.again().context(shared);
                match waiting.job.run() {
                    Ok(run) => named.context(run.place()),
                    Err(_) => named,
                }
            };
            // Of a call that was ended on request.
            let outcome = waiting.job.interrupted().and_then(|()| Err(failed()));
            waiting.job.end(outcome);
        }
    }

    /// Takes those in a call out of the queue, in their order.
    fn remove(&mut self, parts: &[Part]) -> Vec<Waiting> {
        let mut parts = parts.iter().map(|part| part.index).peekable();
        let (mut out, mut left) = (Vec::new(), Vec::new());
        for (index, waiting) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            if parts.next_if_eq(&index).is_some() { out.push(waiting) } else { left.push(waiting) }
        }
        self.waiting = left;
        out
    }
}

/// A panic, in a network or in this library, is the failure of those at work.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let error =
            Error::new(Status::Panic, format!("a defect in psld or the network: {}", text(&*payload)));
        // A payload may panic when it is dropped.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
        Err(error.hint("please report it"))
    })
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic of unknown cause")
}
