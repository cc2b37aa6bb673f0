//! Runs that are saved and loaded again: as if they had never stopped.

mod support;

use ndarray::{ArrayD, IxDyn};
use psld::array::{Precision, Tensor, ValuesMut};
use psld::network::analytic::{Mixture, MixtureNetwork};
use psld::network::{Backend, Evaluator, Inputs, Interrupt, Network};
use psld::run::{Cancel, Checkpoint, Inpaint, Sampling, sample};
use psld::spec::{InpaintMethod, What};
use psld::{Error, Model, ModelSpec, Result, Run, RunOptions, Sampler, Status, solver};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use support::*;

fn few_steps(info: &solver::SamplerInfo) -> Value {
    match info.adaptive {
        true => json!({ "sampler": info.name, "rtol": 1e-2, "atol": 1e-2 }),
        false => json!({ "sampler": info.name, "steps": 5 }),
    }
}

/// Every sampler of the library, on a process that it is defined for.
fn everything() -> Vec<(ModelSpec, Arc<Sampler>)> {
    let specs = [spec(psld(), json!({}), &[2]), spec(json!({ "kind": "vp" }), json!({}), &[2])];
    let mut all = Vec::new();
    for info in solver::list() {
        let before = all.len();
        for spec in &specs {
            match Sampler::compile(spec, &options(few_steps(info)), None) {
                Ok(sampler) => all.push((spec.clone(), Arc::new(sampler))),
                Err(e) => assert_eq!(e.status(), Status::Unsupported, "{}: {e}", info.name),
            }
        }
        assert!(all.len() > before, "{} runs on neither process", info.name);
    }
    let own = sampler(&specs[0], json!({ "sampler": "heun", "steps": 4 })).plan().unwrap().clone();
    all.push((specs[0].clone(), Arc::new(Sampler::from_plan(&specs[0], own).unwrap())));
    // Steps of their own are more to remember.
    let each = json!({ "sampler": "rk45", "rtol": 1e-2, "atol": 1e-2, "error_norm": "sample" });
    all.push((specs[0].clone(), sampler(&specs[0], each)));
    all
}

#[test]
fn every_sampler_resumes_at_every_step() {
    for (spec, sampler) in everything() {
        let name = sampler.info().name;
        let model = model(&spec, &plane());
        for precision in [Precision::F32, Precision::F64] {
            let options =
                RunOptions { precision, seed: 9, batch: Some(2), previews: true, ..RunOptions::new(3) };
            let (expected, end) = finish(&model, &sampler, options.clone());
            for step in 0..=end.step {
                let mut run = Run::start(&model, &sampler, options.clone()).unwrap();
                let before = run.step(step).unwrap();
                let bytes = run.save().unwrap();
                assert_eq!(run.save().unwrap(), bytes, "{name}: saving changes something");
                let mut again = Run::load(&model, &sampler, &bytes).unwrap();
                assert_eq!(again.progress(), before, "{name}");
                assert_same(&read(&again, What::State), &read(&run, What::State), name);
                if before.nfe > 0 {
                    assert_same(&read(&again, What::X0), &read(&run, What::X0), name);
                }
                drop(run);
                assert_eq!(again.step(usize::MAX).unwrap(), end, "{name} after step {step}");
                assert_same(&read(&again, What::State), &expected, &format!("{name} after step {step}"));
            }
        }
    }
}

/// Cancels when the network is called for the `at`th time.
struct CancelAt {
    inner: MixtureNetwork,
    at: usize,
    calls: Arc<AtomicUsize>,
    cancel: Cancel,
}

impl Network for CancelAt {
    fn spec(&self) -> &ModelSpec {
        self.inner.spec()
    }
    fn backend(&self) -> Backend {
        self.inner.backend()
    }
    fn output_precision(&self, state: Precision) -> Precision {
        self.inner.output_precision(state)
    }
    fn hash(&self) -> Result<String> {
        self.inner.hash()
    }
    fn evaluator(&self) -> Result<Box<dyn Evaluator>> {
        let (at, calls, cancel) = (self.at, self.calls.clone(), self.cancel.clone());
        Ok(Box::new(Cancelling { inner: self.inner.evaluator()?, at, calls, cancel }))
    }
}

struct Cancelling {
    inner: Box<dyn Evaluator>,
    at: usize,
    calls: Arc<AtomicUsize>,
    cancel: Cancel,
}

impl Evaluator for Cancelling {
    fn evaluate(&mut self, inputs: Inputs<'_>, out: ValuesMut<'_>) -> Result<()> {
        if self.calls.fetch_add(1, Ordering::SeqCst) == self.at {
            self.cancel.cancel();
        }
        self.inner.evaluate(inputs, out)
    }
}

/// A run stops before any network call, in the middle of a step, too; saved there, it still goes on.
#[test]
fn every_sampler_resumes_within_a_step() {
    for (spec, sampler) in everything() {
        let name = sampler.info().name;
        let plain = model(&spec, &plane());
        let (expected, end) = finish(&plain, &sampler, f64_run(2));
        for at in 0..end.nfe {
            let cancel = Cancel::new();
            let inner = MixtureNetwork::new(spec.clone(), plane()).unwrap();
            let network = CancelAt { inner, at, calls: Arc::default(), cancel: cancel.clone() };
            let model = Model::new(Arc::new(network), 1).unwrap();
            let options = RunOptions { cancel: Some(cancel), ..f64_run(2) };
            let mut run = Run::start(&model, &sampler, options).unwrap();
            if let Err(e) = run.step(usize::MAX) {
                assert_eq!(e.status(), Status::Cancelled);
            }
            let mut again = Run::load(&plain, &sampler, &run.save().unwrap()).unwrap();
            assert_eq!(again.step(usize::MAX).unwrap(), end, "{name}, call {at}");
            assert_same(&read(&again, What::State), &expected, &format!("{name}, call {at}"));
        }
    }
}

/// What the caller gave is part of what is saved.
#[test]
fn labels_noise_and_images_are_kept() {
    let spec = spec(psld(), json!({ "label_input": "y", "classes": 3 }), &[1, 2, 2]);
    let means: Vec<Vec<f64>> = (0..3).map(|i| (0..4).map(|j| ((i * 4 + j) as f64).sin()).collect()).collect();
    let means: Vec<&[f64]> = means.iter().map(Vec::as_slice).collect();
    let labelled = Mixture { labels: vec![0, 1, 2], ..mixture(&[0.2, 0.3, 0.5], &means, &[0.1, 0.2, 0.3]) };
    let model = model(&spec, &labelled);
    let sampler = Sampler::compile(&spec, &options(json!({ "steps": 4 })), Some(InpaintMethod::Published));
    let sampler = Arc::new(sampler.unwrap());
    let draws = sampler.plan().unwrap().draws();
    let number = |i: usize| (i as f64 * 0.71).sin();
    let noise: Vec<f64> = (0..draws * 2 * 8).map(number).collect();
    let image: Vec<f64> = (0..8).map(number).collect();
    let o = RunOptions {
        labels: Some(vec![2, 0]),
        noise: Some(tensor(&[draws, 2, 2, 2, 2], &noise)),
        inpaint: Some(Inpaint {
            image: tensor(&[2, 1, 2, 2], &image),
            mask: Tensor::F32(
                ArrayD::from_shape_vec(IxDyn(&[1, 1, 2, 2]), vec![1.0, 0.0, 0.5, 0.0]).unwrap(),
            ),
        }),
        ..f64_run(2)
    };
    let (expected, end) = finish(&model, &sampler, o.clone());
    for step in 0..=end.step {
        let mut run = Run::start(&model, &sampler, o.clone()).unwrap();
        run.step(step).unwrap();
        let mut again = Run::load(&model, &sampler, &run.save().unwrap()).unwrap();
        again.step(usize::MAX).unwrap();
        assert_same(&read(&again, What::State), &expected, &format!("after step {step}"));
        let provenance = again.provenance().unwrap();
        assert_eq!((&provenance["noise"], &provenance["labels"]), (&json!("caller"), &json!([2, 0])));
    }
}

#[test]
fn what_cannot_be_loaded() {
    let spec = spec(psld(), json!({}), &[2]);
    let (one, other) = (model(&spec, &plane()), model(&spec, &mixture(&[1.0], &[&[0.0, 0.0]], &[1.0])));
    let em = sampler(&spec, json!({ "steps": 5 }));
    let mut run = Run::start(&one, &em, f64_run(2)).unwrap();
    run.step(2).unwrap();
    let bytes = run.save().unwrap();
    let refused = |model: &Model, sampler: &Arc<Sampler>, bytes: &[u8]| {
        let error = Run::load(model, sampler, bytes).err().expect("it is refused");
        assert_eq!(error.status(), Status::CheckpointInvalid, "{error}");
        error.to_string()
    };
    let mut edited = bytes.clone();
    edited[20] ^= 0x40;
    assert!(refused(&other, &em, &bytes).starts_with("checkpoint: of another model: its hash is "));
    assert!(refused(&one, &sampler(&spec, json!({ "steps": 6 })), &bytes).contains("of another sampler"));
    assert!(
        refused(&one, &sampler(&spec, json!({ "sampler": "rk45" })), &bytes).contains("of another sampler")
    );
    let torn = "checkpoint: torn or edited: its checksum is not that of its content";
    assert_eq!(refused(&one, &em, &edited), torn);
    assert_eq!(refused(&one, &em, &bytes[..bytes.len() - 1]), torn);
    assert_eq!(refused(&one, &em, &bytes[..9]), torn);
    assert_eq!(refused(&one, &em, b"{}"), "checkpoint: this is none of psld");
    assert_eq!(refused(&one, &em, b""), "checkpoint: this is none of psld");

    // A run that failed has nothing that could go on.
    let far = RunOptions { init: Some(tensor(&[1, 4], &[0.0, 0.0, 5e37, 0.0])), ..RunOptions::new(1) };
    let mut run = Run::start(&one, &em, far).unwrap();
    assert_eq!(run.step(5).unwrap_err().status(), Status::NonFinite);
    assert_eq!(run.save().unwrap_err().status(), Status::RunState);
}

/// A whole sampling in batches: saved after each step, in every form of result.
#[test]
fn samplings_resume() {
    let spec = spec(psld(), json!({}), &[2]);
    let model = model(&spec, &plane());
    for name in ["heun", "sscs", "rk45", "plan"] {
        let sampler = match solver::list().find(|info| info.name == name) {
            Some(info) => sampler(&spec, few_steps(info)),
            None => {
                let plan = sampler(&spec, json!({ "sampler": "heun", "steps": 4 })).plan().unwrap().clone();
                Arc::new(Sampler::from_plan(&spec, plan).unwrap())
            }
        };
        let o = RunOptions { seed: 3, batch: Some(2), ..f64_run(5) };
        let go = |_| ControlFlow::Continue(());
        let expected = sample::<f64>(&model, &sampler, &o, What::State, go).unwrap();
        let mut room = vec![0f64; 20];
        let mut sampling = Sampling::new(&model, &sampler, &o, What::State).unwrap();
        loop {
            let bytes = sampling.save(&room).unwrap();
            let checkpoint = Checkpoint::read(&bytes).unwrap();
            assert_eq!((checkpoint.options().n, checkpoint.options().seed), (5, 3));
            assert_eq!(checkpoint.sampler(), sampler.options());
            assert_eq!(checkpoint.plan(), sampler.plan().filter(|_| name == "plan"));
            let mut out = vec![0f64; 20];
            let mut again = checkpoint.resume(&model, &sampler, checkpoint.options(), &mut out).unwrap();
            while again.step(&mut out).unwrap().is_some() {}
            assert_same(&out, expected.values.as_slice().unwrap(), name);
            assert_eq!(again.made().nfe, expected.nfe);
            if sampling.step(&mut room).unwrap().is_none() {
                break;
            }
        }
        assert!(sampling.done());
        let error =
            Checkpoint::read(&Run::start(&model, &sampler, o).unwrap().save().unwrap()).err().unwrap();
        assert_eq!(error.message(), "checkpoint: it holds a run, expected a sampling");
    }
}

/// A network that takes its time.
struct Slow {
    inner: MixtureNetwork,
    time: Duration,
    call: Arc<Nap>,
}

#[derive(Default)]
struct Nap {
    ended: Mutex<bool>,
    changed: Condvar,
    napping: AtomicBool,
}

impl Interrupt for Nap {
    fn interrupt(&self) {
        *self.ended.lock().unwrap() = true;
        self.changed.notify_all();
    }
    fn clear(&self) {
        *self.ended.lock().unwrap() = false;
    }
}

impl Network for Slow {
    fn spec(&self) -> &ModelSpec {
        self.inner.spec()
    }
    fn backend(&self) -> Backend {
        self.inner.backend()
    }
    fn output_precision(&self, state: Precision) -> Precision {
        self.inner.output_precision(state)
    }
    fn hash(&self) -> Result<String> {
        self.inner.hash()
    }
    fn evaluator(&self) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(SlowCall { inner: self.inner.evaluator()?, time: self.time, call: self.call.clone() }))
    }
}

struct SlowCall {
    inner: Box<dyn Evaluator>,
    time: Duration,
    call: Arc<Nap>,
}

impl Evaluator for SlowCall {
    fn evaluate(&mut self, inputs: Inputs<'_>, out: ValuesMut<'_>) -> Result<()> {
        let nap = &self.call;
        nap.napping.store(true, Ordering::SeqCst);
        let ended = nap.ended.lock().unwrap();
        let (ended, _) = nap.changed.wait_timeout_while(ended, self.time, |ended| !*ended).unwrap();
        if *ended {
            return Err(Error::new(Status::RuntimeFailure, "ended on request"));
        }
        self.inner.evaluate(inputs, out)
    }
    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        Some(self.call.clone())
    }
}

fn slow(time: Duration) -> (ModelSpec, Model, Arc<Nap>) {
    let spec = spec(psld(), json!({}), &[2]);
    let call = Arc::<Nap>::default();
    let inner = MixtureNetwork::new(spec.clone(), plane()).unwrap();
    let model = Model::new(Arc::new(Slow { inner, time, call: call.clone() }), 1).unwrap();
    (spec, model, call)
}

/// A cancel ends the call in flight, which is no failure; with another token the run goes on, and the old one has no
/// hold on it any more.
#[test]
fn a_cancel_ends_the_call_in_flight() {
    let (spec, model, nap) = slow(Duration::from_secs(3600));
    let sampler = sampler(&spec, json!({ "steps": 5 }));
    let cancel = Cancel::new();
    let options = RunOptions { cancel: Some(cancel.clone()), ..f64_run(2) };
    let mut run = Run::start(&model, &sampler, options).unwrap();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !nap.napping.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            cancel.cancel();
        });
        run.step(1).unwrap_err()
    });
    assert_eq!((error.status(), error.message()), (Status::Cancelled, "cancelled after step 0"));

    let (_, quick, _) = slow(Duration::ZERO);
    let expected = finish(&quick, &sampler, f64_run(2)).0;
    let mut again = Run::load(&quick, &sampler, &run.save().unwrap()).unwrap();
    again.step(usize::MAX).unwrap();
    assert_same(&read(&again, What::State), &expected, "loaded");

    let fresh = Cancel::new();
    run.resume_with(None, Some(fresh.clone()));
    cancel.cancel();
    assert!(!*nap.ended.lock().unwrap(), "the old token still reaches the run");
    fresh.cancel();
    assert!(*nap.ended.lock().unwrap());
    // A token that is cancelled already ends the next call, too.
    run.resume_with(None, Some(cancel));
    assert!(*nap.ended.lock().unwrap());
    run.resume_with(None, None);
    assert!(!*nap.ended.lock().unwrap());
}

/// Anytime: what the deadline leaves is the data estimate of each sample.
#[test]
fn anytime_gives_estimates() {
    let (spec, model, _) = slow(Duration::from_millis(20));
    let sampler = sampler(&spec, json!({ "steps": 1000 }));
    let deadline = Some(Duration::from_millis(100));
    let options = RunOptions { deadline, anytime: true, batch: Some(2), ..f64_run(6) };
    let began = Instant::now();
    let go = |_| ControlFlow::Continue(());
    let made = sample::<f64>(&model, &sampler, &options, What::Data, go).unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!((made.estimates, made.values.shape()), (6, &[6, 2][..]));
    assert!(made.values.iter().all(|x| x.is_finite() && *x != 0.0), "{}", made.values);

    // A run says so and keeps its estimate; with more time it ends as if nothing had been.
    let five = support::sampler(&spec, json!({ "steps": 5 }));
    let mut run =
        Run::start(&model, &five, RunOptions { deadline: Some(Duration::ZERO), ..options.clone() }).unwrap();
    let error = run.step(usize::MAX).unwrap_err();
    assert_eq!(error.status(), Status::Partial);
    assert_eq!(error.message(), "the deadline passed after step 0 of 6: there is the data estimate at t = 1");
    assert_eq!(run.progress().nfe, 1, "an estimate takes one call");
    let z = read(&run, What::X0);
    let mut one = Run::start(&model, &five, RunOptions { previews: true, ..f64_run(6) }).unwrap();
    one.step(1).unwrap();
    assert_same(&z, &read(&one, What::X0), "estimate");
    run.resume_with(None, None);
    run.step(usize::MAX).unwrap();
    one.step(usize::MAX).unwrap();
    assert_same(&read(&run, What::State), &read(&one, What::State), "continued");

    let error = sample::<f64>(&model, &sampler, &options, What::State, go).unwrap_err();
    assert_eq!(error.status(), Status::InvalidArgument);
    let unhurried = RunOptions { deadline: None, ..options };
    assert_eq!(sample::<f64>(&model, &five, &unhurried, What::Data, go).unwrap().estimates, 0);
}
