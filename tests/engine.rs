//! Many callers on one network: each gets what it would get alone, nobody waits for good, and what goes wrong stays with
//! whom it concerns.

mod support;

use psld::array::{Precision, ValuesMut};
use psld::engine::{Engine, EngineOptions, HEAD_START, MAX_PRIORITY, Request, Ticket};
use psld::network::analytic::{Mixture, MixtureNetwork};
use psld::network::{Backend, Evaluator, Inputs, Interrupt, Network};
use psld::run::{Cancel, Inpaint, Progress};
use psld::spec::{Conditioning, Guidance, GuidanceKind, InpaintMethod, What};
use psld::{Error, Model, ModelSpec, Result, Run, RunOptions, Sampler, Status};
use serde_json::{Value, json};
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};
use support::*;

const CLASSES: usize = 6;
/// Past this a test is taken to hang.
const HANG: Duration = Duration::from_secs(30);

/// Points in the plane, a class each.
fn classes() -> Mixture {
    let means: Vec<[f64; 2]> = (0..CLASSES).map(|i| [(i as f64).sin(), (i as f64 * 2.0).cos()]).collect();
    let means: Vec<&[f64]> = means.iter().map(|mean| &mean[..]).collect();
    Mixture {
        labels: (0..CLASSES as i64).collect(),
        ..mixture(&[1.0; CLASSES], &means, &[0.01, 0.04, 0.09, 0.02, 0.05, 0.03])
    }
}

fn labelled() -> ModelSpec {
    spec(psld(), json!({ "label_input": "y", "classes": CLASSES }), &[2])
}

fn few_steps(name: &str, steps: usize) -> Value {
    match name {
        "rk45" => json!({ "sampler": name, "rtol": 1e-2, "atol": 1e-2 }),
        _ => json!({ "sampler": name, "steps": steps }),
    }
}

fn options(max_batch: usize) -> EngineOptions {
    EngineOptions { max_batch, ..EngineOptions::default() }
}

/// All that can be read of what a request or a run came to.
type Result_ = (Vec<f64>, Option<Vec<f64>>, Progress);

fn solo(model: &Model, request: &Request) -> Result_ {
    let mut run = Run::start(model, &request.sampler, request.options.clone()).unwrap();
    let progress = run.step(usize::MAX).unwrap();
    let x0 = request.options.previews.then(|| read(&run, What::X0));
    (read(&run, What::State), x0, progress)
}

fn read_ticket(ticket: &Ticket, what: What) -> Vec<f64> {
    let mut out = vec![0.0; ticket.shape(what).iter().product()];
    ticket.read(what, &mut out).unwrap();
    out
}

/// Waits, but not for ever.
fn wait(ticket: &Ticket) -> Result<Progress> {
    let progress = ticket.wait_for(HANG)?;
    assert!(progress.done, "{ticket:?} hangs");
    Ok(progress)
}

fn failure(ticket: &Ticket) -> Error {
    let error = wait(ticket).expect_err("a failure");
    let again = ticket.wait().unwrap_err();
    assert_eq!((error.status(), error.to_string()), (again.status(), again.to_string()), "said again");
    error
}

fn assert_solo(model: &Model, request: &Request, ticket: &Ticket, what: &str) {
    let progress = wait(ticket).unwrap_or_else(|e| panic!("{what}: {e}"));
    let (state, x0, end) = solo(model, request);
    assert_same(&read_ticket(ticket, What::State), &state, what);
    if let Some(x0) = x0 {
        assert_same(&read_ticket(ticket, What::X0), &x0, what);
    }
    assert_eq!((progress, ticket.progress()), (end, end), "{what}");
}

/// Requests of every kind: all samplers, lengths, sizes, precisions, classes, guidance by the model itself and by networks of
/// their own, and images to be completed.
fn requests(spec: &ModelSpec, guides: &[(GuidanceKind, Option<Model>)], count: usize) -> Vec<Request> {
    let mut names = planned(spec);
    names.extend(["rk45", "rk45"]);
    let labels = spec.network.label_input.is_some();
    let request = |i: usize| {
        let name = names[i % names.len()];
        let n = 1 + i * 7 % 10;
        let mut json = few_steps(name, 2 + i % 5);
        let mut options = RunOptions {
            seed: i as u64 * 1000,
            precision: if i.is_multiple_of(3) { Precision::F64 } else { Precision::F32 },
            labels: (labels && i % 4 != 3).then(|| vec![(i % CLASSES) as i64]),
            previews: i.is_multiple_of(5),
            ..RunOptions::new(n)
        };
        let mut conditioning = Conditioning::default();
        match i % 7 {
            1 if !guides.is_empty() => {
                let (kind, guide) = guides[i / 7 % guides.len()].clone();
                conditioning.guidance = Some(Guidance::from(kind));
                options.labels = Some(vec![(i % CLASSES) as i64]);
                options.scales = Some((0..n).map(|i| i as f64 * 0.5).collect());
                options.guide = guide;
            }
            3 if name != "rk45" => {
                conditioning.inpaint = Some(InpaintMethod::Corrected.into());
                options.inpaint = Some(Inpaint {
                    image: tensor(&[1, 2], &[0.5, -0.5]),
                    mask: tensor(&[1, 2], &[1.0, 0.0]),
                });
            }
            5 if name == "rk45" => json["error_norm"] = json!("sample"),
            _ => {}
        }
        let sampler = Sampler::compile(spec, &support::options(json), conditioning).unwrap();
        Request { priority: i as i32 % 3 - 1, ..Request::new(&Arc::new(sampler), options) }
    };
    (0..count).map(request).collect()
}

/// Submits requests from many threads, each waiting for its own, and compares every one with its run alone.
fn compare(model: &Model, requests: &[Request], max_batch: usize, threads: usize) -> Arc<Engine> {
    let engine = Arc::new(Engine::new(model, options(max_batch)).unwrap());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    // A few at a time: some wait, some are handed in.
                    let first = next.fetch_add(4, Ordering::Relaxed);
                    let Some(mine) = requests.get(first..(first + 4).min(requests.len())) else { break };
                    let tickets: Vec<_> =
                        mine.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
                    for (i, (request, ticket)) in mine.iter().zip(&tickets).enumerate() {
                        let name = request.sampler.info().name;
                        assert_solo(model, request, ticket, &format!("request {} by {name}", first + i));
                    }
                }
            });
        }
    });
    let stats = engine.stats();
    assert_eq!((stats.requests, stats.completed, stats.failed), (0, requests.len() as u64, 0));
    assert!(stats.samples <= stats.calls * max_batch as u64);
    engine
}

/// Two hundred requests from sixteen threads, to the bit what each is alone.
#[test]
fn two_hundred_requests_equal_their_runs_alone() {
    let spec = labelled();
    let model = model(&spec, &classes());
    let gradient =
        support::spec(psld(), json!({ "output": "grad", "label_input": "y", "classes": CLASSES }), &[2]);
    let guides = [
        (GuidanceKind::Cfg, None),
        (GuidanceKind::Classifier, Some(support::model(&gradient, &classes()))),
        (GuidanceKind::Cfg, Some(support::model(&spec, &Mixture { weights: vec![3.0; 6], ..classes() }))),
    ];
    let requests = requests(&spec, &guides, 200);
    let engine = compare(&model, &requests, 16, 16);
    // They were really gathered: alone they would have made many times the calls.
    let (stats, alone) = (engine.stats(), requests.iter().map(|r| solo(&model, r).2.nfe as u64).sum::<u64>());
    assert!(stats.calls * 2 < alone, "{stats:?}, {alone} calls alone");
}

/// A network that sees a projection of the state; and calls smaller than any request.
#[test]
fn projections_and_split_requests_equal_their_runs_alone() {
    let spec = spec(psld(), json!({ "process": { "kind": "ddpm" }, "prediction": "x0" }), &[2]);
    let model = support::model(&spec, &plane());
    for max_batch in [1, 3] {
        compare(&model, &requests(&spec, &[], 40), max_batch, 4);
    }
}

/// A network that says what it is called with, and makes a call only where it is let through.
struct Gate {
    inner: MixtureNetwork,
    inside: Arc<Inside>,
}

#[derive(Default)]
struct Inside {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    open: bool,
    permits: usize,
    /// Class and time of each sample of each call that was begun.
    calls: Vec<Vec<(i64, f64)>>,
    interruptible: bool,
    interrupted: bool,
    /// How long a request takes to be made ready.
    slow: Duration,
    /// Calls with samples of this class fail, panic, or give NaN for them.
    fails: Option<i64>,
    panics: Option<i64>,
    spoils: Option<i64>,
}

impl Inside {
    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap()
    }

    fn set(&self, change: impl FnOnce(&mut GateState)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn open(&self) {
        self.set(|state| state.open = true);
    }

    /// Waits until call `number` (from 1) has begun.
    fn begun(&self, number: usize) {
        let (state, out) =
            self.changed.wait_timeout_while(self.state(), HANG, |state| state.calls.len() < number).unwrap();
        assert!(!out.timed_out(), "call {number} does not begin: {:?}", state.calls);
    }

    /// Lets calls through one by one, up to call `last`, which has begun then.
    fn advance(&self, last: usize) {
        let now = self.state().calls.len();
        for number in now..last {
            self.begun(number);
            self.set(|state| state.permits += 1);
        }
        self.begun(last);
    }

    /// How many samples of each class the calls had.
    fn counts(&self) -> Vec<Vec<(i64, usize)>> {
        let count = |call: &Vec<(i64, f64)>| {
            let classes = (0..CLASSES as i64).map(|c| (c, call.iter().filter(|(l, _)| *l == c).count()));
            classes.filter(|(_, count)| *count > 0).collect()
        };
        self.state().calls.iter().map(count).collect()
    }
}

impl Interrupt for Inside {
    fn interrupt(&self) {
        self.set(|state| state.interrupted = true);
    }
    fn clear(&self) {
        self.set(|state| state.interrupted = false);
    }
}

impl Network for Gate {
    fn spec(&self) -> &ModelSpec {
        self.inner.spec()
    }
    fn backend(&self) -> Backend {
        self.inner.backend()
    }
    fn output_precision(&self, state: Precision) -> Precision {
        let slow = self.inside.state().slow;
        thread::sleep(slow);
        state
    }
    fn hash(&self) -> Result<String> {
        self.inner.hash()
    }
    fn evaluator(&self) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(GateEvaluator { inner: self.inner.evaluator()?, inside: self.inside.clone() }))
    }
}

struct GateEvaluator {
    inner: Box<dyn Evaluator>,
    inside: Arc<Inside>,
}

impl Evaluator for GateEvaluator {
    fn evaluate(&mut self, inputs: Inputs<'_>, mut out: ValuesMut<'_>) -> Result<()> {
        let labels = inputs.labels.expect("classes").to_vec();
        let mut state = self.inside.state();
        state.calls.push(labels.iter().copied().zip(inputs.t.iter().copied()).collect());
        self.inside.changed.notify_all();
        let shut = |state: &mut GateState| !state.open && state.permits == 0 && !state.interrupted;
        let mut state = self.inside.changed.wait_while(state, shut).unwrap();
        if state.interrupted {
            return Err(Error::new(Status::RuntimeFailure, "interrupted"));
        }
        state.permits -= usize::from(!state.open);
        let has = |class: Option<i64>| class.is_some_and(|class| labels.contains(&class));
        if has(state.fails) {
            return Err(Error::new(Status::RuntimeFailure, "out of order").hint("mend it"));
        }
        let (panics, spoils) = (has(state.panics), state.spoils);
        drop(state);
        assert!(!panics, "the network panics");
        let again = match &mut out {
            ValuesMut::F32(out) => ValuesMut::F32(out),
            ValuesMut::F64(out) => ValuesMut::F64(out),
        };
        self.inner.evaluate(inputs, again)?;
        if let (Some(spoiled), ValuesMut::F64(out)) = (spoils, out) {
            let rows = out.chunks_mut(4).zip(&labels).filter(|(_, label)| **label == spoiled);
            rows.for_each(|(row, _)| row[1] = f64::NAN);
        }
        Ok(())
    }

    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        self.inside.state().interruptible.then(|| self.inside.clone() as _)
    }
}

/// Opens the gate where a test ends early: an engine waits for its call.
struct Handle(Arc<Inside>);

impl Deref for Handle {
    type Target = Arc<Inside>;
    fn deref(&self) -> &Arc<Inside> {
        &self.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// An engine behind a gate, the gate (to be dropped first), and the model without it.
fn gated(options: EngineOptions) -> (Engine, Handle, Model) {
    let inside = Arc::new(Inside::default());
    let inner = MixtureNetwork::new(labelled(), classes()).unwrap();
    let gate = Model::new(Arc::new(Gate { inner, inside: inside.clone() }), 1).unwrap();
    (Engine::new(&gate, options).unwrap(), Handle(inside), model(&labelled(), &classes()))
}

/// A request of `n` samples of one class; its samples are told by that.
fn of_class(class: i64, n: usize, steps: usize) -> Request {
    let sampler = sampler(&labelled(), json!({ "sampler": "em", "steps": steps }));
    Request::new(&sampler, RunOptions { seed: class as u64, labels: Some(vec![class]), ..f64_run(n) })
}

/// Requests at different times t are in one call, and who comes while a call is made joins the next.
#[test]
fn calls_hold_samples_of_different_times() {
    let (engine, gate, model) = gated(options(8));
    let requests = [of_class(0, 2, 4), of_class(1, 3, 7), of_class(2, 1, 3)];
    let first = engine.submit(requests[0].clone()).unwrap();
    gate.begun(1);
    let second = engine.submit(requests[1].clone()).unwrap();
    gate.advance(2);
    let third = engine.submit(requests[2].clone()).unwrap();
    gate.advance(3);
    let times: Vec<_> = gate.state().calls[2].iter().map(|(_, t)| *t).collect();
    assert!(times.len() == 6 && times.iter().filter(|t| **t == 1.0).count() == 1, "{times:?}");
    let mut distinct = times.clone();
    distinct.dedup();
    assert_eq!(distinct.len(), 3, "{times:?}");
    assert_eq!(gate.counts(), [vec![(0, 2)], vec![(0, 2), (1, 3)], vec![(0, 2), (1, 3), (2, 1)]]);
    assert!(!first.wait_for(Duration::ZERO).unwrap().done);
    assert_eq!((first.progress().step, second.progress().step), (2, 1));
    gate.open();
    for (request, ticket) in requests.iter().zip([first, second, third]) {
        assert_solo(&model, request, &ticket, "gathered");
    }
}

/// The first call after a pause waits until it is full, or its time is over.
#[test]
fn the_first_call_waits_for_company() {
    let (engine, gate, _) = gated(EngineOptions { max_wait: HANG, ..options(3) });
    gate.open();
    let first = engine.submit(of_class(0, 1, 2)).unwrap();
    assert!(!first.wait_for(Duration::from_millis(30)).unwrap().done);
    assert!(gate.counts().is_empty(), "the call waits");
    let second = engine.submit(of_class(1, 2, 2)).unwrap();
    for ticket in [&first, &second] {
        assert_eq!(wait(ticket).unwrap().nfe, 3);
    }
    assert_eq!(gate.counts(), vec![vec![(0, 1), (1, 2)]; 3]);
    let cancelled = engine.submit(of_class(2, 1, 2)).unwrap();
    cancelled.cancel();
    assert_eq!(failure(&cancelled).status(), Status::Cancelled, "also while it waits for company");

    let (engine, gate, _) = gated(EngineOptions { max_wait: Duration::from_millis(20), ..options(3) });
    gate.open();
    let began = Instant::now();
    wait(&engine.submit(of_class(0, 1, 2)).unwrap()).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(20));
}

/// A large request takes a batch and goes to the end of the queue: nobody waits for all of it.
#[test]
fn large_requests_do_not_keep_others_waiting() {
    let (engine, gate, model) = gated(options(8));
    let requests: Vec<_> =
        [40, 1, 1, 1, 1, 1].iter().zip(0..).map(|(n, class)| of_class(class, *n, 2)).collect();
    let large = engine.submit(requests[0].clone()).unwrap();
    gate.begun(1);
    let mut tickets: Vec<_> = requests[1..].iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
    gate.advance(6);
    let (small, all) = ((1..6).map(|class| (class, 1)), vec![(0, 8)]);
    let shared: Vec<_> = [(0, 3)].into_iter().chain(small).collect();
    // What is left beside the small ones is a part of its turn, which ends with a batch.
    let expected = [&all, &shared, &all, &shared, &all, &shared];
    assert_eq!(gate.counts().iter().collect::<Vec<_>>(), expected);
    gate.open();
    tickets.insert(0, large);
    for (request, ticket) in requests.iter().zip(&tickets) {
        assert_solo(&model, request, ticket, "beside a large one");
    }
}

/// A higher priority comes first, and a lower one is not left for good: it waits for its head start.
#[test]
fn priorities_are_head_starts() {
    for levels in [0, 1, 2] {
        let (engine, gate, model) = gated(options(4));
        // Two who fill every call between them, and one who is in their way.
        let mut requests = [of_class(0, 4, 60), of_class(1, 4, 60), of_class(2, 1, 4)];
        (requests[0].priority, requests[1].priority) = (levels, levels);
        let mut tickets = vec![engine.submit(requests[0].clone()).unwrap()];
        gate.begun(1);
        tickets.extend(requests[1..].iter().map(|request| engine.submit(request.clone()).unwrap()));
        gate.advance(90);
        gate.open();
        for (request, ticket) in requests.iter().zip(&tickets) {
            assert_solo(&model, request, ticket, "of its priority");
        }
        let calls = gate.counts();
        let served: Vec<_> =
            (0..calls.len()).filter(|call| calls[*call].contains(&(2, 1))).map(|call| call + 1).collect();
        let head = (levels as u32 * HEAD_START) as usize;
        assert_eq!(served.len(), 5, "{served:?}");
        // From the call in flight when it came on; beside two others it waits for two calls more.
        for gap in [1].iter().chain(&served).zip(&served).map(|(a, b)| b - a) {
            assert!((head.max(1)..=head + 3).contains(&gap), "{levels} levels: served in calls {served:?}");
        }
    }
}

#[test]
fn a_full_queue_is_said() {
    let (engine, gate, model) = gated(EngineOptions { queue: 2, ..options(4) });
    let request = of_class(0, 1, 2);
    let tickets: Vec<_> = (0..2).map(|_| engine.submit(request.clone()).unwrap()).collect();
    let error = engine.submit(request.clone()).unwrap_err();
    assert_eq!(error.status(), Status::QueueFull);
    insta::assert_snapshot!(error, @"
    the engine's queue is full: 2 requests are in it
    hint: submit again when one of them has ended, or make an engine with a larger `queue`
    ");
    assert!(engine.submit(Request { priority: 99, ..request.clone() }).is_err(), "takes no place");
    gate.open();
    assert_solo(&model, &request, &tickets[0], "in a full queue");
    // The place is free before its owner hears of the end.
    let third = engine.submit(request.clone()).unwrap();
    wait(&third).unwrap();
    assert_eq!((engine.stats().submitted, engine.stats().requests), (3, 0));
}

#[test]
fn cancelled_before_and_within_a_call() {
    let (engine, gate, model) = gated(options(8));
    let requests = [of_class(0, 2, 4), of_class(1, 1, 4), of_class(2, 1, 4), of_class(3, 1, 4)];
    let (early, late) = (Cancel::new(), Cancel::new());
    early.cancel();
    let with = |i: usize, cancel: &Cancel| {
        let mut request = requests[i].clone();
        request.options.cancel = Some(cancel.clone());
        engine.submit(request).unwrap()
    };
    let before = with(3, &early);
    assert_eq!(failure(&before).status(), Status::Cancelled);
    assert!(gate.counts().is_empty(), "no call was made for it");

    let goes_on = engine.submit(requests[0].clone()).unwrap();
    gate.begun(1);
    let tickets = [with(1, &late), engine.submit(requests[2].clone()).unwrap()];
    let dropped = engine.submit(requests[3].clone()).unwrap();
    gate.advance(2);
    late.cancel();
    tickets[1].cancel();
    drop(dropped);
    gate.advance(3);
    assert_eq!(gate.counts()[1..], [vec![(0, 2), (1, 1), (2, 1), (3, 1)], vec![(0, 2)]]);
    for ticket in &tickets {
        let error = failure(ticket);
        assert_eq!(error.status(), Status::Cancelled);
        assert_eq!(error.message(), format!("request {}: cancelled after step 1", ticket.id()));
        let error = ticket.read(What::Data, &mut [0.0; 2]).unwrap_err();
        assert_eq!(error.status(), Status::RunState);
    }
    assert_eq!(engine.stats().requests, 1, "their places are free");
    gate.open();
    assert_solo(&model, &requests[0], &goes_on, "beside cancelled ones");
    goes_on.cancel();
    assert!(goes_on.wait().is_ok(), "too late");
}

/// A call that only cancelled requests are in is ended, one that others share is not.
#[test]
fn a_call_that_nobody_wants_is_ended() {
    let (engine, gate, model) = gated(options(8));
    gate.set(|gate| gate.interruptible = true);
    let requests = [of_class(0, 1, 3), of_class(1, 1, 3)];
    let tickets: Vec<_> = requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    gate.begun(1);
    gate.advance(2);
    assert_eq!(gate.counts()[1], [(0, 1), (1, 1)]);
    tickets[0].cancel();
    assert!(!gate.state().interrupted);
    assert!(!tickets[1].wait_for(Duration::from_millis(20)).unwrap().done);
    tickets[1].cancel();
    for ticket in &tickets {
        assert_eq!(failure(ticket).status(), Status::Cancelled);
    }
    gate.open();
    let ticket = engine.submit(requests[0].clone()).unwrap();
    assert_solo(&model, &requests[0], &ticket, "after an interruption");
}

#[test]
fn deadlines() {
    let (engine, gate, model) = gated(options(8));
    // Long enough for three steps on a busy machine.
    let deadline = Some(Duration::from_millis(1000));
    let late = |anytime: bool| {
        let mut request = of_class(i64::from(anytime), 2, 4);
        (request.options.deadline, request.options.anytime) = (deadline, anytime);
        request
    };
    let (punctual, request) = (of_class(2, 1, 4), late(true));
    let tickets: Vec<_> =
        [late(false), request.clone(), punctual.clone()].map(|r| engine.submit(r).unwrap()).into();
    gate.begun(1);
    gate.advance(3);
    thread::sleep(Duration::from_millis(1100));
    gate.advance(4);
    assert_eq!(gate.counts()[3], [(2, 1)]);
    let error = failure(&tickets[0]);
    assert_eq!(error.status(), Status::DeadlineExceeded);
    assert!(error.message().ends_with("the deadline passed after step 3 of 5"), "{error}");
    let error = failure(&tickets[1]);
    assert_eq!(error.status(), Status::Partial);
    let mut run =
        Run::start(&model, &request.sampler, RunOptions { deadline: None, ..request.options }).unwrap();
    run.step(3).unwrap();
    assert_same(&read_ticket(&tickets[1], What::X0), &read(&run, What::X0), "the estimate so far");
    gate.open();
    assert_solo(&model, &punctual, &tickets[2], "beside late ones");
}

/// A deadline counts from the submission: neither the time behind another's call nor that of making the request ready is free.
#[test]
fn deadlines_count_from_the_submission() {
    let (engine, gate, model) = gated(options(8));
    let deadline = Duration::from_millis(300);
    let late = |class: i64| {
        let mut request = of_class(class, 1, 4);
        request.options.deadline = Some(deadline);
        request
    };
    let assert_late = |ticket: &Ticket| {
        let error = failure(ticket);
        assert_eq!(error.status(), Status::DeadlineExceeded);
        assert!(error.message().ends_with("the deadline passed after step 0 of 5"), "{error}");
    };
    let first = of_class(0, 1, 4);
    let ticket = engine.submit(first.clone()).unwrap();
    gate.begun(1);
    // Submitted within a call that outlives it: the engine sees it for the first time when it is late.
    let began = Instant::now();
    let behind = engine.submit(late(1)).unwrap();
    thread::sleep(deadline.saturating_sub(began.elapsed()));
    gate.advance(2);
    assert_late(&behind);

    gate.set(|gate| gate.slow = deadline);
    let slow = engine.submit(late(2)).unwrap();
    gate.set(|gate| gate.slow = Duration::ZERO);
    gate.open();
    assert_late(&slow);
    assert_solo(&model, &first, &ticket, "before late ones");
    assert!(gate.counts().iter().all(|call| call == &[(0, 1)]), "{:?}", gate.counts());
}

/// Company is waited for no longer than until a deadline: who is late leaves, and who wants an estimate gets its call.
#[test]
fn a_deadline_ends_the_wait_for_company() {
    let (engine, gate, _) = gated(EngineOptions { max_wait: HANG, ..options(8) });
    gate.open();
    for (anytime, status, calls) in [(false, Status::DeadlineExceeded, 0), (true, Status::Partial, 1)] {
        let mut request = of_class(0, 1, 4);
        (request.options.deadline, request.options.anytime) = (Some(Duration::from_millis(20)), anytime);
        let began = Instant::now();
        let ticket = engine.submit(request).unwrap();
        assert_eq!(failure(&ticket).status(), status);
        assert!(began.elapsed() < HANG / 2);
        assert_eq!(gate.counts().len(), calls, "anytime {anytime}");
    }
}

/// Tickets of an engine that is closed while it works end, whatever they are at, and so does the thread.
#[test]
fn closed_while_busy() {
    for interruptible in [true, false] {
        let (engine, gate, _) = gated(options(2));
        gate.set(|gate| gate.interruptible = interruptible);
        let tickets: Vec<_> = (0..5).map(|i| engine.submit(of_class(i, 2, 5)).unwrap()).collect();
        gate.begun(1);
        thread::scope(|scope| {
            let waiting: Vec<_> = tickets.iter().map(|ticket| scope.spawn(|| failure(ticket))).collect();
            if !interruptible {
                // It cannot be ended: it is waited for.
                let gate = Arc::clone(&gate);
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(20));
                    gate.open();
                });
            }
            engine.close();
            for error in waiting.into_iter().map(|thread| thread.join().unwrap()) {
                assert_eq!(error.status(), Status::Cancelled);
                assert!(error.message().ends_with("the engine was closed"), "{error}");
            }
        });
        assert_eq!(engine.submit(of_class(0, 1, 1)).unwrap_err().status(), Status::Cancelled);
        assert_eq!((engine.stats().requests, engine.stats().failed), (0, 5));
        drop(engine);
        assert_eq!(tickets[0].samples(), 2, "a ticket outlives its engine");
    }
}

/// Tickets keep an engine that was dropped at work; nobody waits for that, and company is not waited for.
#[test]
fn dropped_while_busy() {
    let (engine, gate, model) = gated(EngineOptions { max_wait: HANG, ..options(6) });
    let requests: Vec<_> = (0..3).map(|i| of_class(i, 2, 5)).collect();
    let tickets: Vec<_> = requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    gate.begun(1);
    let late = of_class(3, 1, 5);
    let ticket = engine.submit(late.clone()).unwrap();
    drop(engine);
    let began = Instant::now();
    gate.open();
    for (request, ticket) in requests.iter().chain([&late]).zip(tickets.iter().chain([&ticket])) {
        assert_solo(&model, request, ticket, "of a dropped engine");
    }
    assert!(began.elapsed() < HANG);
    // Those that nobody can read any more end with their tickets.
    let (engine, gate, _) = gated(options(2));
    gate.set(|gate| gate.interruptible = true);
    let left = engine.submit(of_class(0, 2, 5)).unwrap();
    gate.begun(1);
    drop(engine);
    drop(left);
}

/// What becomes non-finite fails alone; a call that fails takes those along who are in it, and nobody else.
#[test]
fn failures_stay_with_whom_they_concern() {
    let (engine, gate, model) = gated(options(4));
    gate.set(|gate| gate.spoils = Some(1));
    let requests = [of_class(0, 2, 4), of_class(1, 1, 4), of_class(2, 1, 4)];
    let submit = || requests.iter().map(|r| engine.submit(r.clone()).unwrap()).collect::<Vec<_>>();
    let tickets = submit();
    gate.open();
    let error = failure(&tickets[1]);
    assert_eq!(error.status(), Status::NonFinite);
    let id = tickets[1].id();
    assert_eq!(
        error.message(),
        format!("request {id}: step 1 of 5 (t = 1): the network's output of sample 0 is not finite")
    );
    assert_solo(&model, &requests[0], &tickets[0], "beside a NaN");
    assert_solo(&model, &requests[2], &tickets[2], "beside a NaN");

    for (status, message) in [
        (Status::RuntimeFailure, "in a network call of 3 samples of 2 requests: out of order"),
        (
            Status::Panic,
            "in a network call of 3 samples of 2 requests: a defect in psld or the network: the network panics",
        ),
    ] {
        gate.set(|gate| (gate.open, gate.spoils, gate.calls) = (false, None, Vec::new()));
        let first = engine.submit(requests[0].clone()).unwrap();
        gate.begun(1);
        let second = engine.submit(requests[1].clone()).unwrap();
        gate.advance(2);
        // Not in the call that fails.
        let third = engine.submit(requests[2].clone()).unwrap();
        gate.set(|gate| {
            let bad = Some(1);
            if status == Status::Panic {
                gate.panics = bad
            } else {
                gate.fails = bad
            }
            gate.permits += 1;
        });
        gate.begun(3);
        gate.set(|gate| (gate.fails, gate.panics) = (None, None));
        for (ticket, step) in [(&first, 2), (&second, 1)] {
            let error = failure(ticket);
            assert_eq!(error.status(), status);
            let place = format!("request {}: step {step} of 5 (t = ", ticket.id());
            assert!(error.message().starts_with(&place) && error.message().ends_with(message), "{error}");
            let hint = if status == Status::Panic { "please report it" } else { "mend it" };
            assert_eq!(error.hint_text(), Some(hint));
        }
        gate.open();
        assert_solo(&model, &requests[2], &third, "after a call that failed");
    }
}

/// A guidance network that panics where it is opened, or let go.
struct Fragile {
    inner: MixtureNetwork,
    on_opening: bool,
}

impl Network for Fragile {
    fn spec(&self) -> &ModelSpec {
        self.inner.spec()
    }
    fn backend(&self) -> Backend {
        self.inner.backend()
    }
    fn output_precision(&self, state: Precision) -> Precision {
        state
    }
    fn hash(&self) -> Result<String> {
        self.inner.hash()
    }
    fn evaluator(&self) -> Result<Box<dyn Evaluator>> {
        assert!(!self.on_opening, "it cannot be opened");
        self.inner.evaluator()
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        assert!(self.on_opening || thread::panicking(), "it cannot be let go");
    }
}

/// A request of class 1 that such a network guides, and the only one to have it.
fn fragile(on_opening: bool) -> Request {
    let inner = MixtureNetwork::new(labelled(), classes()).unwrap();
    let guide = Model::new(Arc::new(Fragile { inner, on_opening }), 1).unwrap();
    let guidance = Conditioning { guidance: Some(Guidance::from(GuidanceKind::Cfg)), ..Default::default() };
    let sampler =
        Sampler::compile(&labelled(), &support::options(json!({ "sampler": "em", "steps": 4 })), guidance);
    let mut request = of_class(1, 1, 4);
    request.sampler = Arc::new(sampler.unwrap());
    (request.options.guide, request.options.scales) = (Some(guide), Some(vec![1.0]));
    request
}

/// A guidance network that panics, wherever it is, ends its own request; and no ticket is forgotten for it.
#[test]
fn panics_of_guidance_networks() {
    let (engine, gate, model) = gated(options(4));
    let request = of_class(0, 1, 4);
    let (guided, plain) = (engine.submit(fragile(true)).unwrap(), engine.submit(request.clone()).unwrap());
    gate.open();
    let error = failure(&guided);
    assert_eq!(error.status(), Status::Panic);
    assert!(error.message().ends_with("the network: it cannot be opened"), "{error}");
    assert_solo(&model, &request, &plain, "beside one that cannot be guided");

    // The engine is the last to have the network when a call fails that its request is in.
    let (engine, gate, model) = gated(options(4));
    let first = engine.submit(request.clone()).unwrap();
    gate.begun(1);
    let (guided, other) = (engine.submit(fragile(false)).unwrap(), engine.submit(request.clone()).unwrap());
    gate.advance(2);
    assert_eq!(gate.counts()[1], [(0, 2), (1, 1)]);
    gate.set(|gate| gate.fails = Some(1));
    drop(guided);
    gate.set(|gate| gate.permits += 1);
    for ticket in [&first, &other] {
        let error = failure(ticket);
        assert_eq!(error.status(), Status::Panic);
        assert!(
            error.message().ends_with("a defect in psld or a network took it out of the engine"),
            "{error}"
        );
    }
    gate.open();
    assert_eq!((engine.stats().requests, engine.stats().failed), (0, 3));
    gate.set(|gate| gate.fails = None);
    let ticket = engine.submit(request.clone()).unwrap();
    assert_solo(&model, &request, &ticket, "after a panic");
}

/// A network that counts the evaluators that there are of it.
struct Counted {
    inner: MixtureNetwork,
    open: Arc<AtomicUsize>,
}

impl Network for Counted {
    fn spec(&self) -> &ModelSpec {
        self.inner.spec()
    }
    fn backend(&self) -> Backend {
        self.inner.backend()
    }
    fn output_precision(&self, state: Precision) -> Precision {
        state
    }
    fn hash(&self) -> Result<String> {
        self.inner.hash()
    }
    fn evaluator(&self) -> Result<Box<dyn Evaluator>> {
        let inner = self.inner.evaluator()?;
        self.open.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(CountedEvaluator { inner, open: self.open.clone() }))
    }
}

struct CountedEvaluator {
    inner: Box<dyn Evaluator>,
    open: Arc<AtomicUsize>,
}

impl Evaluator for CountedEvaluator {
    fn evaluate(&mut self, inputs: Inputs<'_>, out: ValuesMut<'_>) -> Result<()> {
        self.inner.evaluate(inputs, out)
    }
}

impl Drop for CountedEvaluator {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A guidance network is open while requests have it, once for all of them, and let go of when the last has ended; the
/// engine's own model stays.
#[test]
fn guidance_networks_are_let_go_of() {
    let (engine, gate, _) = gated(options(8));
    let open = Arc::new(AtomicUsize::new(0));
    let inner = MixtureNetwork::new(labelled(), classes()).unwrap();
    let guide = Model::new(Arc::new(Counted { inner, open: open.clone() }), 1).unwrap();
    let guidance = Conditioning { guidance: Some(Guidance::from(GuidanceKind::Cfg)), ..Default::default() };
    let guided = |class: i64, steps: usize| {
        let options = support::options(json!({ "sampler": "em", "steps": steps }));
        let mut request = of_class(class, 1, steps);
        request.sampler = Arc::new(Sampler::compile(&labelled(), &options, guidance.clone()).unwrap());
        (request.options.guide, request.options.scales) = (Some(guide.clone()), Some(vec![1.0]));
        request
    };
    let becomes = |wanted: usize, when: &str| {
        let began = Instant::now();
        while open.load(Ordering::SeqCst) != wanted {
            assert!(began.elapsed() < HANG, "{when}: {} are open", open.load(Ordering::SeqCst));
            thread::sleep(Duration::from_millis(1));
        }
    };
    for _ in 0..2 {
        gate.set(|gate| gate.open = false);
        let short = engine.submit(guided(0, 1)).unwrap();
        let long = engine.submit(guided(1, 500)).unwrap();
        while !short.wait_for(Duration::from_millis(1)).unwrap().done {
            gate.set(|gate| gate.permits = 1);
        }
        becomes(1, "while one is left");
        assert!(!long.progress().done);
        gate.open();
        wait(&long).unwrap();
        becomes(0, "when all have ended");
    }
}

#[test]
fn what_cannot_be_submitted() {
    let (engine, gate, _) = gated(options(4));
    gate.open();
    let with = |change: &dyn Fn(&mut Request)| {
        let mut request = of_class(0, 2, 2);
        change(&mut request);
        let error = engine.submit(request).unwrap_err();
        format!("{} {error}", error.status() as i32)
    };
    let other = sampler(&spec(psld(), json!({}), &[2]), json!({}));
    let model = model(&labelled(), &classes());
    let options = |max_batch, queue| {
        let error =
            Engine::new(&model, EngineOptions { max_batch, queue, ..Default::default() }).unwrap_err();
        format!("{} {error}", error.status() as i32)
    };
    let messages = [
        with(&|r| r.priority = MAX_PRIORITY + 1),
        with(&|r| r.options.batch = Some(2)),
        with(&|r| r.options.n = 0),
        with(&|r| r.options.labels = Some(vec![9])),
        with(&|r| r.options.max_memory = Some(10)),
        with(&|r| r.options.init = Some(tensor(&[1, 4], &[0.0; 4]))),
        with(&|r| r.sampler = other.clone()),
        options(0, 1),
        options(1, 0),
        options(usize::MAX, 1),
    ];
    insta::assert_snapshot!(messages.join("\n"));
    assert_eq!(engine.stats().requests, 0);
}

/// What can be read, and when.
#[test]
fn reading_tickets() {
    let (engine, gate, model) = gated(options(8));
    let mut request = of_class(0, 2, 3);
    request.options.previews = true;
    let ticket = engine.submit(request.clone()).unwrap();
    let status = |what, out: &mut [f64]| ticket.read(what, out).unwrap_err().status();
    assert_eq!(status(What::X0, &mut [0.0; 4]), Status::RunState, "nothing yet");
    gate.begun(1);
    gate.advance(3);
    let mut run = Run::start(&model, &request.sampler, request.options.clone()).unwrap();
    run.step(2).unwrap();
    assert_same(&read_ticket(&ticket, What::X0), &read(&run, What::X0), "a preview");
    assert_eq!(status(What::Data, &mut [0.0; 4]), Status::RunState, "not complete");
    gate.open();
    assert_solo(&model, &request, &ticket, "previewed");
    assert_eq!(status(What::Data, &mut [0.0; 3]), Status::BufferTooSmall);
    assert_eq!((ticket.samples(), ticket.shape(What::State)), (2, vec![2, 4]));
    let made = ticket.provenance().unwrap();
    assert_eq!((&made["seeds"]["count"], &made["batch"], &made["nfe"]), (&json!(2), &Value::Null, &json!(4)));
    assert!(made["network_seconds"].as_f64().unwrap() > 0.0);
    let id = ticket.id();
    assert!(engine.submit(request).unwrap().id() > id);
}
