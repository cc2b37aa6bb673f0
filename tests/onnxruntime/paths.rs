//! Ordinary diffusion networks through ONNX Runtime: along their own paths and through phase space.

use crate::support::runtime;
use ndarray::ArrayD;
use psld::array::{Precision, Tensor, Values, ValuesMut};
use psld::network::analytic::{Mixture, MixtureNetwork};
use psld::network::onnxruntime::{OnnxNetwork, OnnxOptions};
use psld::network::{Inputs, Network};
use psld::onnx::networks::{Half, Means, Mixture as OnnxMixture, Path};
use psld::onnx::{Dim, ElementType, Graph, Model, Value};
use psld::run::{Estimate, Overall, likelihood};
use psld::spec::What;
use psld::{ModelSpec, Run, RunOptions, Sampler, SamplerSpec};
use serde_json::{Value as Json, json};
use std::ops::ControlFlow;
use std::sync::Arc;

const SHAPE: [usize; 2] = [2, 3];

fn spec(process: &Json, network: &Json) -> ModelSpec {
    let spec = json!({ "format": 1, "process": process, "data": { "shape": SHAPE }, "network": network });
    ModelSpec::parse(&spec.to_string()).unwrap()
}

fn load(model: &Model, spec: &ModelSpec) -> OnnxNetwork {
    let options = OnnxOptions { spec: Some(spec.clone()), ..OnnxOptions::default() };
    OnnxNetwork::from_bytes(runtime(), &model.to_bytes(), &options).unwrap()
}

fn data(variance: f64) -> Mixture {
    let mean = |shift: f64| (0..6).map(|i| shift + 0.1 * f64::from(i)).collect();
    Mixture {
        weights: vec![0.4, 0.6],
        means: vec![mean(-0.8), mean(0.5)],
        variances: vec![variance, variance],
        labels: vec![],
    }
}

/// The final states of four samples.
fn sample(network: impl Network + 'static, spec: &ModelSpec, sampler: &Json) -> Vec<f64> {
    let options = SamplerSpec::from_json(sampler.clone()).unwrap();
    let sampler = Arc::new(Sampler::compile(spec, &options, None).unwrap());
    let model = psld::Model::new(Arc::new(network), 1).unwrap();
    let options = RunOptions { precision: Precision::F64, seed: 5, batch: Some(3), ..RunOptions::new(4) };
    let mut run = Run::start(&model, &sampler, options).unwrap();
    run.step(usize::MAX).unwrap();
    let mut out = vec![0.0; run.shape(What::State).iter().product()];
    run.read(What::State, &mut out).unwrap();
    out
}

/// The network in ONNX form and the exact one that `spec` describes give the same samples.
fn same(model: &Model, mixture: &Mixture, process: &Json, network: &Json) {
    let spec = spec(process, network);
    for sampler in [
        json!({ "sampler": "heun", "steps": 6 }),
        json!({ "sampler": "ancestral", "steps": 8, "time_grid": "log_snr" }),
        json!({ "sampler": "rk45", "rtol": 1e-2, "atol": 1e-2 }),
    ] {
        let exact = sample(MixtureNetwork::new(spec.clone(), mixture.clone()).unwrap(), &spec, &sampler);
        let got = sample(load(model, &spec), &spec, &sampler);
        let far = exact.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        // The network sees float32.
        assert!(far < 2e-4, "{process}, {network}, {sampler}: {far:e} apart\n{exact:?}\n{got:?}");
    }
}

/// The paths that a network drives.
fn with_own(own: &Json) -> [Json; 3] {
    [own.clone(), json!({ "kind": "psld" }), json!({ "kind": "cld", "beta_min": 4.0 })]
}

/// The network's fields where `process` is its own and where it is not.
fn fields(own: &Json, process: &Json, rest: &Json) -> Json {
    let mut fields = rest.clone();
    if own != process {
        fields["process"] = own.clone();
    }
    fields
}

/// The network of a mixture along the path `vp`, whose process is `own`.
fn vp_network(mixture: &Mixture, own: &Json) -> Model {
    let network = OnnxMixture {
        path: Path::Vp { beta_min: 0.1, beta_max: 20.0 },
        numerical_eps: 0.0,
        shape: SHAPE.to_vec(),
        weights: mixture.weights.clone(),
        means: Means::Values(mixture.means.concat()),
        variances: vec![0.05],
        labels: vec![],
        classes: 0,
        half: Half::All,
        ports: ElementType::F32,
    };
    network.network(&spec(own, &json!({})).to_json()).unwrap()
}

#[test]
fn a_vp_mixture_drives_psld() {
    let (mixture, own) = (data(0.05), json!({ "kind": "vp" }));
    let model = vp_network(&mixture, &own);
    for process in with_own(&own) {
        same(&model, &mixture, &process, &fields(&own, &process, &json!({})));
    }
    // And the exact network of phase space, which shares no projection, ends in the same place.
    let psld = json!({ "kind": "psld" });
    let (driven, whole) = (spec(&psld, &json!({ "process": own })), spec(&psld, &json!({})));
    let sampler = json!({ "sampler": "heun", "steps": 20, "t_start": 0.9 });
    let exact = sample(
        MixtureNetwork::new(whole.clone(), mixture).unwrap(),
        &whole,
        &json!({ "sampler": "heun", "steps": 20, "t_start": 0.9 }),
    );
    let got = sample(load(&model, &driven), &driven, &sampler);
    // They start from S and from the law of unit-variance data at t = 0.9, which differ by 1e-3.
    let far = exact.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(far < 2e-2, "{far:e} apart\n{exact:?}\n{got:?}");
}

/// What keeps buffers in order and takes differences of outputs in single precision: samples that were gathered, latents
/// and likelihoods are those of the exact network.
#[test]
fn gathered_encoded_and_measured() {
    let (mixture, own) = (data(0.05), json!({ "kind": "vp" }));
    let onnx = vp_network(&mixture, &own);
    for process in with_own(&own) {
        let spec = spec(&process, &fields(&own, &process, &json!({})));
        let exact = MixtureNetwork::new(spec.clone(), mixture.clone()).unwrap();
        let networks: [Arc<dyn Network>; 2] = [Arc::new(load(&onnx, &spec)), Arc::new(exact)];
        let compile = |options: Json| {
            Arc::new(Sampler::compile(&spec, &SamplerSpec::from_json(options).unwrap(), None).unwrap())
        };
        let results = networks.map(|network| {
            let model = psld::Model::new(network, 1).unwrap();
            let options = RunOptions { seed: 5, batch: Some(3), ..RunOptions::new(4) };
            let em = compile(json!({ "sampler": "sde_dpmpp", "steps": 8 }));
            let mut run = Run::start(&model, &em, options.clone()).unwrap();
            run.step(3).unwrap();
            run.gather(&[3, 0, 3], Some(&[8, 50, 51])).unwrap();
            run.step(usize::MAX).unwrap();
            let mut gathered = vec![0.0; run.shape(What::State).iter().product()];
            run.read(What::State, &mut gathered).unwrap();

            let images: Vec<f32> =
                (0..24).map(|i| 0.1 * (i % 6) as f32 - 0.7 + 0.2 * (i as f32).sin()).collect();
            let images = ArrayD::from_shape_vec(vec![4, 2, 3], images).unwrap();
            let options = RunOptions { from_image: Some(Tensor::F32(images)), ..options };
            let encoder = compile(json!({ "encode": true, "nfe": 30 }));
            let mut run = Run::start(&model, &encoder, options.clone()).unwrap();
            run.step(usize::MAX).unwrap();
            let mut latents = vec![0.0; run.shape(What::State).iter().product()];
            run.read(What::State, &mut latents).unwrap();

            let go = |_: Overall| ControlFlow::Continue(());
            let measured = likelihood(&model, encoder.options(), &options, Estimate::default(), go).unwrap();
            [gathered, latents, measured.bits]
        });
        for (what, i) in [("gathered", 0), ("latents", 1), ("bits", 2)] {
            let pairs = results[0][i].iter().zip(&results[1][i]);
            let far = pairs.map(|(a, b): (&f64, &f64)| (a - b).abs()).fold(0.0, f64::max);
            println!("{process}, {what}: {far:e}");
            assert!(far < if what == "bits" { 1e-4 } else { 2e-5 }, "{process}, {what}: {far:e} apart");
        }
    }
}

/// The parts of a network for data N(mean, variance): its own inputs, and float64 values to compute with.
struct Parts {
    g: Graph,
    dims: Vec<Dim>,
    x: Value,
    time: Value,
}

fn parts(state: &str, time: &str, time_type: ElementType) -> Parts {
    let mut g = Graph::new("gaussian");
    let batch = Dim::from("N");
    let dims: Vec<Dim> = std::iter::once(batch.clone()).chain(SHAPE.map(Dim::from)).collect();
    let x = g.input(state, ElementType::F32, &dims);
    let t = g.input(time, time_type, &[batch]);
    let (x, t) = (g.cast(x, ElementType::F64), g.cast(t, ElementType::F64));
    let t = g.reshape(t, &[-1, 1, 1]);
    Parts { g, dims, x, time: t }
}

impl Parts {
    fn finish(mut self, output: Value) -> Model {
        let output = self.g.cast(output, ElementType::F32);
        self.g.output("out", output, &self.dims);
        self.g.finish().unwrap()
    }
}

const MEAN: f64 = 0.3;
const VARIANCE: f64 = 0.2;

fn gaussian() -> Mixture {
    Mixture { weights: vec![1.0], means: vec![vec![MEAN; 6]], variances: vec![VARIANCE], labels: vec![] }
}

/// F(c_in x; ln(sigma)/4) = (D - c_skip x)/c_out, with the formulas of EDM's table 1.
#[test]
fn a_network_of_edm_s_form() {
    let d = 0.4;
    let mut p = parts("x", "c_noise", ElementType::F32);
    let g = &mut p.g;
    let sigma = g.mul(p.time, 4.0);
    let sigma = g.exp(sigma);
    let s2 = g.mul(sigma, sigma);
    let norm2 = g.add(s2, d * d);
    let norm = g.sqrt(norm2);
    let x = g.mul(p.x, norm);
    // D(x) = (variance x + sigma^2 mean)/(variance + sigma^2)
    let (of_x, of_mean) = (g.mul(x, VARIANCE), g.mul(s2, MEAN));
    let denoised = g.add(of_x, of_mean);
    let total = g.add(s2, VARIANCE);
    let denoised = g.div(denoised, total);
    let skip = g.div(d * d, norm2);
    let skipped = g.mul(skip, x);
    let out = g.mul(sigma, d);
    let out = g.div(out, norm);
    let rest = g.sub(denoised, skipped);
    let f = g.div(rest, out);
    let model = p.finish(f);
    let rest = json!({ "prediction": "edm", "sigma_data": d, "state_input": "x", "time_input": "c_noise", "output": "out" });
    let own = json!({ "kind": "edm", "sigma_max": 20.0 });
    for process in with_own(&own) {
        same(&model, &gaussian(), &process, &fields(&own, &process, &rest));
    }
}

/// A flow whose time is 0 for noise and 1000 for data: its velocity points to the data.
#[test]
fn a_network_of_flow_form() {
    let mut p = parts("x_t", "timestep", ElementType::F32);
    let g = &mut p.g;
    let alpha = g.mul(p.time, 1e-3);
    let sigma = g.sub(1.0, alpha);
    // E[x_0 | z] = mean + alpha variance (z - alpha mean)/(alpha^2 variance + sigma^2), and v = x_0 - (z - alpha x_0)/sigma
    let am = g.mul(alpha, MEAN);
    let off = g.sub(p.x, am);
    let av = g.mul(alpha, VARIANCE);
    let a2v = g.mul(alpha, av);
    let s2 = g.mul(sigma, sigma);
    let total = g.add(a2v, s2);
    let pull = g.div(off, total);
    let pull = g.mul(av, pull);
    let x0 = g.add(pull, MEAN);
    let ax0 = g.mul(alpha, x0);
    let eps = g.sub(p.x, ax0);
    let eps = g.div(eps, sigma);
    let v = g.sub(x0, eps);
    let model = p.finish(v);
    let rest = json!({
        "prediction": "velocity", "time": "reversed", "time_scale": 1000.0, "state_input": "x_t",
        "time_input": "timestep", "output": "out",
    });
    let own = json!({ "kind": "flow" });
    for process in with_own(&own) {
        same(&model, &gaussian(), &process, &fields(&own, &process, &rest));
    }
}

/// What each network is told of the time: an output that is its time input.
#[test]
fn times_of_the_network() {
    let told = |process: Json, network: Json, element: ElementType, t: f64| -> f64 {
        let mut p = parts("z", "t", element);
        let zero = p.g.mul(p.x, 0.0);
        let time = p.g.add(zero, p.time);
        let model = p.finish(time);
        let mut network = network;
        network["output"] = json!("out");
        let network = load(&model, &spec(&process, &network));
        let (z, mut out) = ([0.5_f32; 6], [0.0_f32; 6]);
        let inputs = Inputs { z: Values::F32(&z), t: &[t], labels: None, rows: None };
        network.evaluator().unwrap().evaluate(inputs, ValuesMut::F32(&mut out)).unwrap();
        f64::from(out[0])
    };
    let (f32, i64) = (ElementType::F32, ElementType::I64);
    let ddpm = json!({ "kind": "ddpm" });
    for i in 0..1000 {
        let t = f64::from(i + 1) / 1000.0;
        if i % 37 == 0 || i > 990 {
            assert_eq!(told(ddpm.clone(), json!({}), i64, t), f64::from(i));
            assert_eq!(told(ddpm.clone(), json!({}), f32, t), f64::from(i));
        }
    }
    assert_eq!(told(ddpm.clone(), json!({}), f32, 0.5005), 499.5);
    assert_eq!(told(ddpm.clone(), json!({}), i64, 0.5004), 499.0);
    assert_eq!(told(ddpm, json!({ "time": "t", "time_scale": 999.0 }), f32, 0.5), 499.5);
    let vp = json!({ "kind": "vp" });
    assert_eq!(told(vp.clone(), json!({}), f32, 0.25), 0.25);
    assert_eq!(told(vp.clone(), json!({ "time": "reversed", "time_scale": 8.0 }), f32, 0.25), 6.0);
    // b = 0.1 * 0.25 + 19.9 * 0.25^2 / 2, sigma/alpha = sqrt(e^b - 1)
    let level = (0.025_f64 + 19.9 * 0.03125).exp_m1().sqrt();
    let close =
        |got: f64, expected: f64| assert!((got - expected).abs() < 1e-6 * expected.abs(), "{got} {expected}");
    close(told(vp.clone(), json!({ "time": "sigma" }), f32, 0.25), level);
    close(told(vp, json!({ "time": "c_noise", "time_scale": 4.0 }), f32, 0.25), level.ln());
    let edm = json!({ "kind": "edm" });
    close(told(edm.clone(), json!({}), f32, 0.1), 8.0);
    close(told(edm, json!({ "prediction": "edm" }), f32, 0.1), 8.0_f64.ln() / 4.0);
    close(told(json!({ "kind": "ve" }), json!({ "prediction": "score" }), f32, 0.5), 0.5_f64.sqrt());
    close(told(json!({ "kind": "flow" }), json!({}), f32, 0.25), 0.25);
}
