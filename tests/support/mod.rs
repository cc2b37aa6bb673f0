//! What the mathematical tests share: specs and models with exact networks, and an interpreter of plans on
//! Gaussian data.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod moments;

use ndarray::{ArrayD, IxDyn};
use psld::array::{Precision, Tensor, Values, ValuesMut};
use psld::network::analytic::{Mixture, MixtureNetwork};
use psld::network::{Backend, Evaluator, Inputs, Network};
use psld::run::Progress;
use psld::spec::What;
use psld::{Model, ModelSpec, Run, RunOptions, Sampler, SamplerSpec, Status, solver};
use serde_json::{Value, json};
use std::sync::Arc;

/// Options by name, as in `gddim eta=0.5 order=1`.
pub fn named(name: &str) -> Value {
    let mut words = name.split(' ');
    let mut options = json!({ "sampler": words.next().unwrap() });
    for (option, value) in words.map(|word| word.split_once('=').unwrap()) {
        options[option] = serde_json::from_str(value).unwrap();
    }
    options
}

/// `base` with `fields` set.
pub fn with(mut base: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        base[name] = value.clone();
    }
    base
}

/// A spec for data of `shape`.
pub fn spec(process: Value, network: Value, shape: &[usize]) -> ModelSpec {
    let text = json!({ "format": 1, "process": process, "data": { "shape": shape }, "network": network });
    ModelSpec::parse(&text.to_string()).unwrap()
}

/// The published PSLD without its `numerical_eps`, as in the tables of the tests.
pub fn psld() -> Value {
    json!({ "kind": "psld", "gamma": 0.01, "nu": 4.01, "numerical_eps": 0.0 })
}

/// Third-order Langevin at critical damping as a plain recipe: g = 2 sqrt 2, xi = 3 sqrt 3.
pub fn third_order(beta: f64) -> Value {
    let (g, xi) = (2.0 * 2.0_f64.sqrt(), 3.0 * 3.0_f64.sqrt());
    json!({
        "kind": "recipe", "beta_min": beta, "beta_max": beta, "numerical_eps": 0.0,
        "d": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, xi]],
        "q": [[0.0, -1.0, 0.0], [1.0, 0.0, -g], [0.0, g, 0.0]],
        "s": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    })
}

/// Sampler options from their JSON form.
pub fn options(json: Value) -> SamplerSpec {
    SamplerSpec::from_json(json).unwrap()
}

/// A compiled sampler.
pub fn sampler(spec: &ModelSpec, json: Value) -> Arc<Sampler> {
    Arc::new(Sampler::compile(spec, &options(json), None).unwrap())
}

/// The samplers that make a plan for networks of `spec`, in the order in which they are listed.
pub fn planned(spec: &ModelSpec) -> Vec<&'static str> {
    let defined =
        |name: &str| match Sampler::compile(spec, &options(json!({ "sampler": name, "steps": 4 })), None) {
            Ok(_) => true,
            Err(e) if e.status() == Status::Unsupported => false,
            Err(e) => panic!("{name}: {e}"),
        };
    solver::list().filter(|info| !info.adaptive).map(|info| info.name).filter(|name| defined(name)).collect()
}

/// The exact network of a mixture, on one thread.
pub fn model(spec: &ModelSpec, mixture: &Mixture) -> Model {
    model_on(spec, mixture, 1)
}

/// The exact network of a mixture, on `threads` threads.
pub fn model_on(spec: &ModelSpec, mixture: &Mixture, threads: usize) -> Model {
    Model::new(Arc::new(MixtureNetwork::new(spec.clone(), mixture.clone()).unwrap()), threads).unwrap()
}

/// The wide mixture of docs/methods.md.
pub fn golden_mixture() -> Mixture {
    mixture(&[0.3, 0.5, 0.2], &[&[-1.2], &[0.3], &[1.5]], &[0.25, 0.16, 0.09])
}

/// A mixture of three components in the plane.
pub fn plane() -> Mixture {
    mixture(&[0.5, 0.3, 0.2], &[&[-1.0, 0.5], &[0.75, 0.25], &[0.0, -1.0]], &[0.01, 0.04, 0.09])
}

/// A mixture by its parts.
pub fn mixture(weights: &[f64], means: &[&[f64]], variances: &[f64]) -> Mixture {
    Mixture {
        weights: weights.to_vec(),
        means: means.iter().map(|mean| mean.to_vec()).collect(),
        variances: variances.to_vec(),
        labels: Vec::new(),
    }
}

/// An array in double precision.
pub fn tensor(shape: &[usize], values: &[f64]) -> Tensor {
    Tensor::F64(ArrayD::from_shape_vec(IxDyn(shape), values.to_vec()).unwrap())
}

/// Options of a run of `n` samples with f64 state.
pub fn f64_run(n: usize) -> RunOptions {
    RunOptions { precision: Precision::F64, ..RunOptions::new(n) }
}

/// Runs to the end.
pub fn finish(model: &Model, sampler: &Arc<Sampler>, options: RunOptions) -> (Vec<f64>, Progress) {
    let mut run = Run::start(model, sampler, options).unwrap();
    let progress = run.step(usize::MAX).unwrap();
    assert!(progress.done);
    (read(&run, What::State), progress)
}

/// Reads from a run.
pub fn read(run: &Run, what: What) -> Vec<f64> {
    let mut out = vec![0.0; run.shape(what).iter().product()];
    run.read(what, &mut out).unwrap();
    out
}

/// One network call in double precision.
pub fn call(network: &dyn Network, z: &[f64], t: &[f64], outputs: usize) -> Vec<f64> {
    let mut out = vec![0.0; outputs * t.len()];
    let inputs = Inputs { z: Values::F64(z), t, labels: None, rows: None };
    network.evaluator().unwrap().evaluate(inputs, ValuesMut::F64(&mut out)).unwrap();
    out
}

/// The bits of a result, to compare exactly and still print numbers where it fails.
pub fn assert_same(a: &[f64], b: &[f64], what: &str) {
    let same = a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits());
    assert!(same, "{what}:\n{a:?}\n{b:?}");
}

/// Agreement within an absolute tolerance.
pub fn assert_close(a: &[f64], b: &[f64], tolerance: f64, what: &str) {
    let far = distance(a, b);
    assert!(far <= tolerance, "{what}: {far:e} apart\n{a:?}\n{b:?}");
}

/// Largest absolute difference; infinite where a value is not finite.
pub fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let worst = |worst: f64, d: f64| if d.is_nan() { f64::INFINITY } else { worst.max(d) };
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, worst)
}

/// The exact network of a mixture, asked at other times and with outputs of another size.
pub fn altered(spec: &ModelSpec, mixture: &Mixture, time: fn(f64) -> f64, gain: f64) -> Model {
    let network = MixtureNetwork::new(spec.clone(), mixture.clone()).unwrap();
    Model::new(Arc::new(Altered { network, time, gain }), 1).unwrap()
}

struct Altered<N> {
    network: N,
    time: fn(f64) -> f64,
    gain: f64,
}

impl Network for Altered<MixtureNetwork> {
    fn spec(&self) -> &ModelSpec {
        self.network.spec()
    }
    fn backend(&self) -> Backend {
        self.network.backend()
    }
    fn output_precision(&self, state: Precision) -> Precision {
        self.network.output_precision(state)
    }
    fn hash(&self) -> psld::Result<String> {
        self.network.hash()
    }
    fn evaluator(&self) -> psld::Result<Box<dyn Evaluator>> {
        Ok(Box::new(Altered { network: self.network.evaluator()?, time: self.time, gain: self.gain }))
    }
}

impl Evaluator for Altered<Box<dyn Evaluator>> {
    fn evaluate(&mut self, inputs: Inputs<'_>, mut out: ValuesMut<'_>) -> psld::Result<()> {
        let t: Vec<f64> = inputs.t.iter().map(|t| (self.time)(*t)).collect();
        let again = match &mut out {
            ValuesMut::F32(out) => ValuesMut::F32(out),
            ValuesMut::F64(out) => ValuesMut::F64(out),
        };
        self.network.evaluate(Inputs { t: &t, ..inputs }, again)?;
        match out {
            ValuesMut::F32(out) => out.iter_mut().for_each(|x| *x *= self.gain as f32),
            ValuesMut::F64(out) => out.iter_mut().for_each(|x| *x *= self.gain),
        }
        Ok(())
    }
}
