//! From images: image to image, and latents and back, against closed forms on Gaussian data and on mixtures.

mod support;

use psld::array::{Precision, Tensor};
use psld::network::analytic::Mixture;
use psld::noise::{Purpose, fill_f64};
use psld::plan::Plan;
use psld::run::{Checkpoint, Estimate, Likelihood, Sampling, interpolate, likelihood, sample};
use psld::spec::What;
use psld::{Error, Model, ModelSpec, Run, RunOptions, Sampler, Status};
use serde_json::{Value, json};
use std::fmt::Write;
use std::ops::ControlFlow;
use std::sync::Arc;
use support::*;

/// The samplers that encode, where they are defined.
fn both_ways(spec: &ModelSpec) -> Vec<&'static str> {
    let all = ["unipc", "gddim", "exp_heun", "deis", "ddim", "heun", "euler", "rk45"];
    all.into_iter().filter(|name| *name != "ddim" || spec.process().unwrap().k() == 1).collect()
}

fn encoder(spec: &ModelSpec, options: Value) -> Arc<Sampler> {
    sampler(spec, with(options, json!({ "encode": true })))
}

fn from_images(shape: &[usize], values: &[f64]) -> RunOptions {
    RunOptions { from_image: Some(tensor(shape, values)), ..f64_run(shape[0]) }
}

/// The positions of states [n, k, d].
fn positions(z: &[f64], k: usize, d: usize) -> Vec<f64> {
    z.chunks(k * d).flat_map(|z| z[..d].to_vec()).collect()
}

/// n draws of a mixture, as data.
fn data(mixture: &Mixture, n: usize) -> Vec<f64> {
    let d = mixture.means[0].len();
    let total: f64 = mixture.weights.iter().sum();
    let draw = |i: usize| {
        let mut place = (i as f64 + 0.5) / n as f64 * total;
        let component = mixture.weights.iter().position(|w| {
            place -= w;
            place < 0.0
        });
        let component = component.unwrap_or(0);
        let mut noise = vec![0.0; d];
        fill_f64(i as u64, Purpose::Solver, 0, 0, &mut noise);
        let deviation = mixture.variances[component].sqrt();
        (0..d).map(|j| mixture.means[component][j] + deviation * noise[j]).collect::<Vec<_>>()
    };
    (0..n).flat_map(draw).collect()
}

/// A run that starts from an image starts from a draw of the exact perturbation kernel, with the prior's noise.
#[test]
fn images_are_perturbed_exactly() {
    let x = [0.5, -0.25, 0.75, -1.0];
    for process in [psld(), json!({ "kind": "vp" }), json!({ "kind": "cld" }), third_order(4.0)] {
        let spec = spec(process.clone(), json!({}), &[2]);
        let (law, model) = (spec.process().unwrap(), model(&spec, &plane()));
        let k = law.k();
        for t in [0.3, 1.0] {
            let sampler = sampler(&spec, json!({ "steps": 3, "t_start": t }));
            let run = |shape: &[usize], x: &[f64]| {
                let options = RunOptions { from_image: Some(tensor(shape, x)), seed: 5, ..f64_run(2) };
                read(&Run::start(&model, &sampler, options).unwrap(), What::State)
            };
            let z = run(&[2, 2], &x);
            let (mean, factor) = (law.mean(t), law.data_factor(t).0);
            let mut noise = vec![0.0; 2 * k];
            for i in 0..2 {
                fill_f64(5 + i as u64, Purpose::Prior, 0, 0, &mut noise);
                for (b, j) in (0..k).flat_map(|b| [(b, 0), (b, 1)]) {
                    let drawn: f64 = (0..k).map(|c| factor[(b, c)] * noise[c * 2 + j]).sum();
                    let expected = mean[(b, 0)] * x[i * 2 + j] + drawn;
                    let got = z[(i * k + b) * 2 + j];
                    assert!((got - expected).abs() < 1e-12, "{process}, t = {t}: {got}, not {expected}");
                }
            }
            // One image for all is the image for each.
            assert_same(&run(&[1, 2], &x[..2]), &run(&[2, 2], &[x[0], x[1], x[0], x[1]]), "shared");
        }
        // To encode, the image itself, with momenta as they are at t_end.
        let sampler = encoder(&spec, json!({ "steps": 3 }));
        let start = Run::start(&model, &sampler, from_images(&[2, 2], &x)).unwrap();
        assert!(start.progress().t < 0.01, "it begins at the data");
        let z = read(&start, What::State);
        assert_same(&positions(&z, k, 2), &x, "positions");
        if k == 2 {
            let mut noise = vec![0.0; 4];
            fill_f64(1, Purpose::Prior, 0, 0, &mut noise);
            let (a, s) = (law.mean(0.001)[(1, 0)], law.data_covariance(0.001)[(1, 1)].sqrt());
            assert_close(&z[6..], &[a * x[2] + s * noise[2], a * x[3] + s * noise[3]], 1e-15, "momenta");
        }
    }
}

/// Images of the data's law, perturbed to any time and sampled from there, have the data's law again.
#[test]
fn image_to_image_keeps_the_law() {
    let spec = spec(psld(), json!({}), &[1]);
    let model = model(&spec, &golden_mixture());
    let n = 4000;
    let x = data(&golden_mixture(), n);
    let moments = |x: &[f64]| {
        let mean = x.iter().sum::<f64>() / n as f64;
        (mean, x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64)
    };
    let (mean, variance) = moments(&x);
    for t in [0.2, 0.6] {
        let sampler = sampler(&spec, json!({ "sampler": "sde_dpmpp", "steps": 40, "t_start": t }));
        let (z, _) = finish(&model, &sampler, from_images(&[n, 1], &x));
        let (m, v) = moments(&positions(&z, 2, 1));
        println!("t = {t}: mean {m:.4} of {mean:.4}, variance {v:.4} of {variance:.4}");
        // Four standard errors of the mean; the variance's is about the same.
        let error = 4.0 * (variance / n as f64).sqrt();
        assert!((m - mean).abs() < error && (v - variance).abs() < error, "t = {t}: {m} {v}");
    }
}

/// On Gaussian data the flow is linear: closed for k = 1, and by plain small Runge-Kutta steps of the two equations else.
#[test]
fn gaussian_latents() {
    let (mu, v) = (0.5, 0.36);
    let (from, to): (f64, f64) = (0.001, 1.0);
    for process in [json!({ "kind": "vp" }), psld(), json!({ "kind": "cld" })] {
        let spec = spec(process.clone(), json!({}), &[1]);
        let (law, model) = (spec.process().unwrap(), model(&spec, &mixture(&[1.0], &[&[mu]], &[v])));
        let k = law.k();
        let inverse = |t: f64| {
            let a = law.mean(t);
            (law.data_covariance(t) + a * a.transpose() * v).inverse().unwrap()
        };
        let start: Vec<f64> = [1.1, -0.07][..k].to_vec();
        let slope = |z: &[f64], t: f64| -> Vec<f64> {
            let (f, g, a, inverse) = (law.drift(t), law.diffusion(t) * 0.5, law.mean(t), inverse(t));
            let score =
                |c: usize| -> f64 { -(0..k).map(|e| inverse[(c, e)] * (z[e] - a[(e, 0)] * mu)).sum::<f64>() };
            (0..k).map(|b| (0..k).map(|c| f[(b, c)] * z[c] - g[(b, c)] * score(c)).sum()).collect()
        };
        let expected = match k {
            1 => {
                let (p, q) = (inverse(from)[(0, 0)], inverse(to)[(0, 0)]);
                vec![law.mean(to)[(0, 0)] * mu + (p / q).sqrt() * (start[0] - law.mean(from)[(0, 0)] * mu)]
            }
            _ => {
                // In ln t, as the covariance changes by decades.
                let steps = 4000;
                let h = (to / from).ln() / f64::from(steps);
                let mut z = start.clone();
                let mut s = from.ln();
                for _ in 0..steps {
                    let f = |z: &[f64], s: f64| -> Vec<f64> {
                        slope(z, s.exp().min(1.0)).iter().map(|x| x * s.exp()).collect()
                    };
                    let plus =
                        |k: &[f64], h: f64| -> Vec<f64> { z.iter().zip(k).map(|(z, k)| z + h * k).collect() };
                    let k1 = f(&z, s);
                    let k2 = f(&plus(&k1, h / 2.0), s + h / 2.0);
                    let k3 = f(&plus(&k2, h / 2.0), s + h / 2.0);
                    let k4 = f(&plus(&k3, h), s + h);
                    z = (0..k)
                        .map(|b| z[b] + h / 6.0 * (k1[b] + 2.0 * k2[b] + 2.0 * k3[b] + k4[b]))
                        .collect();
                    s += h;
                }
                z
            }
        };
        for name in both_ways(&spec) {
            let (options, tolerance) = match name {
                "rk45" => (json!({ "sampler": name, "rtol": 1e-9, "atol": 1e-9 }), 1e-7),
                "euler" => (json!({ "sampler": name, "steps": 2000 }), 1e-1),
                _ => (json!({ "sampler": name, "steps": 2000 }), 1e-3),
            };
            let options = with(options, json!({ "t_end": from, "t_start": to, "denoise": false }));
            let run = RunOptions { init: Some(tensor(&[1, k], &start)), ..f64_run(1) };
            let (z, _) = finish(&model, &encoder(&spec, options), run);
            assert_close(&z, &expected, tolerance, &format!("{name}, {process}"));
        }
        // The opening step is the closing one backwards: from t = 0, with the drift at t_end.
        let run = RunOptions { init: Some(tensor(&[1, k], &start)), ..f64_run(1) };
        let mut run =
            Run::start(&model, &encoder(&spec, json!({ "sampler": "heun", "steps": 2 })), run).unwrap();
        run.step(1).unwrap();
        let mut moved = start.clone();
        moved[0] += from * slope(&start, from)[0];
        assert_close(&read(&run, What::State), &moved, 1e-9, "the first step");
    }
}

/// Encoded and decoded again, images come back; latents have the prior's law.
#[test]
fn round_trips() {
    let wide = mixture(&[0.3, 0.5, 0.2], &[&[-0.8, 0.1], &[0.3, -0.4], &[0.9, 0.6]], &[0.25, 0.16, 0.09]);
    let overlapping = Mixture { variances: vec![0.3, 0.25, 0.2], ..wide.clone() };
    // Corners of a cube, as narrow as the images of models/cifar10-exact.onnx.
    let corners = [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]];
    let apart = mixture(&[1.0; 4], &corners.each_ref().map(|corner| &corner[..]), &[9e-4; 4]);
    let n = 200;
    let ve = json!({ "kind": "ve", "sigma_min": 0.01, "sigma_max": 20.0 });
    for (process, mixture, sampler, nfe) in [
        (json!({ "kind": "vp" }), &wide, "unipc order=3", 50),
        (json!({ "kind": "vp" }), &plane(), "unipc order=3", 50),
        (json!({ "kind": "vp" }), &wide, "deis", 50),
        (json!({ "kind": "vp" }), &wide, "exp_heun", 51),
        (json!({ "kind": "flow" }), &wide, "gddim", 100),
        (ve, &wide, "exp_heun", 101),
        (psld(), &overlapping, "unipc order=3", 50),
        (psld(), &wide, "unipc order=3", 50),
        (psld(), &plane(), "unipc order=3", 100),
        (psld(), &plane(), "gddim", 200),
        (psld(), &apart, "gddim order=2", 50),
        (json!({ "kind": "cld" }), &wide, "unipc order=3", 100),
        (psld(), &plane(), "rk45", 0),
    ] {
        let network = if process["kind"] == "flow" { json!({ "prediction": "velocity" }) } else { json!({}) };
        let spec = spec(process.clone(), network, &[2]);
        let k = spec.process().unwrap().k();
        let model = model(&spec, mixture);
        let x = data(mixture, n);
        let options = match nfe {
            0 => json!({ "sampler": sampler, "rtol": 1e-6, "atol": 1e-6 }),
            nfe => with(named(sampler), json!({ "nfe": nfe, "time_grid": "order2" })),
        };
        let (z, end) = finish(&model, &encoder(&spec, options.clone()), from_images(&[n, 2], &x));
        let init = RunOptions { init: Some(tensor(&[n, 2 * k], &z)), ..f64_run(n) };
        let (back, _) = finish(&model, &support::sampler(&spec, options), init);
        let back = positions(&back, k, 2);
        let square: f64 = back.iter().zip(&x).map(|(a, b)| (a - b).powi(2)).sum();
        let rms = (square / x.len() as f64).sqrt();
        println!("{process}, {sampler}, {} calls: {rms:.2e}", end.nfe);
        // What the README says.
        let bound = match (process["kind"].as_str().unwrap(), sampler, nfe) {
            ("vp", "unipc order=3", _) => 5e-4,
            ("psld", "unipc order=3", 50) => 3e-4,
            ("psld", "unipc order=3", 100) => 6e-4,
            _ => 1e-3,
        };
        assert!(rms <= bound, "{process}, {sampler}, {} calls: {rms:e}", end.nfe);
        if nfe > 0 {
            assert!(end.nfe <= nfe);
        }
    }
}

/// Latents of the data's law are draws of the prior; in phase space, since momenta are drawn.
#[test]
fn latents_have_the_law_of_the_prior() {
    let spec = spec(psld(), json!({}), &[1]);
    let model = model(&spec, &golden_mixture());
    let n = 3000;
    let x = data(&golden_mixture(), n);
    let (z, _) = finish(&model, &encoder(&spec, json!({ "nfe": 150 })), from_images(&[n, 1], &x));
    let mean = |f: &dyn Fn(&[f64]) -> f64| z.chunks(2).map(f).sum::<f64>() / n as f64;
    let (xx, xm, mm) = (mean(&|z| z[0] * z[0]), mean(&|z| z[0] * z[1]), mean(&|z| z[1] * z[1]));
    println!("{xx:.3} {xm:.3} {mm:.4}");
    // M = 1/4; four standard errors of 3000 samples.
    let error = 4.0 / (n as f64).sqrt();
    assert!((xx - 1.0).abs() < error * 1.42, "{xx}");
    assert!(xm.abs() < error * 0.5, "{xm}");
    assert!((mm - 0.25).abs() < error * 0.25 * 1.42, "{mm}");
}

/// A sample depends on its image and seed alone: not on batches, neighbours, or a stop in between.
#[test]
fn seeds_and_batches() {
    let spec = spec(psld(), json!({}), &[2]);
    let model = model(&spec, &plane());
    let x = data(&plane(), 5);
    let each = json!({ "sampler": "rk45", "error_norm": "sample", "encode": true });
    for options in [
        json!({ "sampler": "sscs", "steps": 6, "t_start": 0.4 }),
        json!({ "steps": 6, "encode": true }),
        json!({ "sampler": "heun", "steps": 6, "encode": true }),
        each,
    ] {
        let what = options.to_string();
        let sampler = sampler(&spec, options);
        let of = |at: std::ops::Range<usize>, batch| RunOptions {
            seed: 9 + at.start as u64,
            batch,
            ..from_images(&[at.len(), 2], &x[2 * at.start..2 * at.end])
        };
        let together = finish(&model, &sampler, of(0..5, None)).0;
        let alone: Vec<f64> = (0..5).flat_map(|i| finish(&model, &sampler, of(i..i + 1, None)).0).collect();
        assert_same(&alone, &together, &what);
        let options = of(0..5, Some(2));
        let go = |_| ControlFlow::Continue(());
        let whole = sample::<f64>(&model, &sampler, &options, What::State, go).unwrap();
        assert_same(whole.values.as_slice().unwrap(), &together, &what);
        // Stopped in the first batch; the images of the others stand in the checkpoint.
        let mut room = vec![0.0; 20];
        let mut sampling = Sampling::new(&model, &sampler, &options, What::State).unwrap();
        (0..3).for_each(|_| assert!(sampling.step(&mut room).unwrap().is_some()));
        let checkpoint = Checkpoint::read(&sampling.save(&room).unwrap()).unwrap();
        let mut out = vec![0.0; 20];
        let mut again = checkpoint.resume(&model, &sampler, checkpoint.options(), &mut out).unwrap();
        while again.step(&mut out).unwrap().is_some() {}
        assert_same(&out, &together, &what);
        // A plan that was read leads the same way.
        if let Some(plan) = sampler.plan() {
            let plan = Sampler::from_plan(&spec, Plan::parse(&plan.to_json()).unwrap()).unwrap();
            assert_eq!(plan.encodes(), sampler.encodes());
            assert_same(&finish(&model, &Arc::new(plan), of(0..5, None)).0, &together, &what);
        }
    }
}

/// Spherical interpolation: the ends to the bit, norms in between, each block by itself, in white coordinates.
#[test]
fn ways_between_latents() {
    let plane = spec(psld(), json!({}), &[2]);
    // Position from (1, 0) to (0, 1), momentum from (0.5, 0) to (0.25, 0).
    let ends = [1.0, 0.0, 0.5, 0.0, 0.0, 1.0, 0.25, 0.0];
    let Tensor::F64(way) = interpolate(&plane, &tensor(&[2, 4], &ends), &[0.0, 0.5, 1.0]).unwrap() else {
        panic!("in the precision of the latents");
    };
    let way = way.as_slice().unwrap();
    assert_same(&way[..4], &ends[..4], "first");
    assert_same(&way[8..], &ends[4..], "last");
    let half = 0.5_f64.sqrt();
    assert_close(&way[4..8], &[half, half, 0.375, 0.0], 1e-15, "half way");

    // A prior that is not diagonal: its white coordinates are not the state's.
    let skewed = json!({
        "kind": "recipe", "beta_min": 4.0, "beta_max": 4.0,
        "d": [[0.1, 0.0], [0.0, 1.0]], "q": [[0.0, -1.0], [1.0, 0.0]], "s": [[1.0, 0.5], [0.5, 1.0]]
    });
    let skewed = spec(skewed, json!({}), &[2]);
    let colour = skewed.process().unwrap().prior_factor();
    let coloured = |z: &[f64]| -> Vec<f64> {
        z.chunks(4)
            .flat_map(|z| (0..4).map(|i| (0..2).map(|b| colour[(i / 2, b)] * z[b * 2 + i % 2]).sum()))
            .collect()
    };
    let latents = tensor(&[2, 4], &coloured(&ends));
    let Tensor::F64(way) = interpolate(&skewed, &latents, &[0.5]).unwrap() else { panic!() };
    assert_close(way.as_slice().unwrap(), &coloured(&[half, half, 0.375, 0.0]), 1e-12, "skewed");
}

/// Bits per dimension of x under a mixture as it is at time `t`: what of it is in the position.
fn exact_bits(spec: &ModelSpec, mixture: &Mixture, t: f64, x: &[f64]) -> f64 {
    let law = spec.process().unwrap();
    let (a, s) = (law.mean(t)[(0, 0)], law.data_covariance(t)[(0, 0)]);
    let total: f64 = mixture.weights.iter().sum();
    let density: f64 = (0..mixture.weights.len())
        .map(|i| {
            let v = a * a * mixture.variances[i] + s;
            let square: f64 = x.iter().zip(&mixture.means[i]).map(|(x, mu)| (x - a * mu).powi(2)).sum();
            let volume = (2.0 * std::f64::consts::PI * v).powf(0.5 * x.len() as f64);
            mixture.weights[i] / total * (-0.5 * square / v).exp() / volume
        })
        .sum();
    -density.log2() / x.len() as f64
}

fn bits(model: &Model, o: Value, run: RunOptions, estimate: Estimate) -> Likelihood {
    likelihood(model, &options(o), &run, estimate, |_| ControlFlow::Continue(())).unwrap()
}

const PLAIN: Estimate = Estimate { probes: 1, dequantise: false };

/// On Gaussian data each image by itself; for k = 1 and one dimension nothing is left to chance.
#[test]
fn likelihoods_of_gaussian_data() {
    // Of mean 0: the prior knows nothing of what is left of a mean at t_start.
    let gauss = mixture(&[1.0], &[&[0.0]], &[0.36]);
    let ve = json!({ "kind": "ve", "sigma_min": 0.01, "sigma_max": 50.0 });
    let foreign = json!({ "process": { "kind": "vp" }, "prediction": "x0" });
    for (process, network, tolerance) in [
        (json!({ "kind": "vp" }), json!({}), 1e-3),
        (json!({ "kind": "vp" }), json!({ "prediction": "v" }), 1e-3),
        (ve, json!({ "prediction": "score" }), 2e-3),
        // Its prior is that of t = 1, and the path ends at 0.999.
        (json!({ "kind": "flow" }), json!({ "prediction": "velocity" }), 1e-2),
        (psld(), json!({}), 2e-3),
        (psld(), json!({ "prediction": "score" }), 2e-3),
        (psld(), json!({ "predicts": "momentum" }), 2e-3),
        (psld(), foreign, 2e-3),
        (json!({ "kind": "cld" }), json!({}), 2e-3),
        (third_order(8.0), json!({}), 2e-2),
    ] {
        let spec = spec(process.clone(), network.clone(), &[1]);
        let model = model(&spec, &gauss);
        let x = [-1.2, 0.0, 0.4, 1.5];
        let t_end = *sampler(&spec, json!({})).plan().unwrap().grid.last().unwrap();
        // In phase space momenta are drawn, and their law is not quite that of the data: over several.
        let (copies, k) = (25, spec.process().unwrap().k());
        let all: Vec<f64> = x.iter().flat_map(|x| [*x; 25]).collect();
        let got = bits(&model, json!({ "nfe": 300 }), from_images(&[4 * copies, 1], &all), PLAIN);
        for (x, got) in x.iter().zip(got.bits.chunks(copies)) {
            let expected = exact_bits(&spec, &gauss, t_end, &[*x]);
            let mean = got.iter().sum::<f64>() / copies as f64;
            let spread = got.iter().map(|b| (b - mean).powi(2)).sum::<f64>() / copies as f64;
            let error = (spread / copies as f64).sqrt();
            println!("{process} {network}: {mean:.4} +- {error:.1e} of {expected:.4}");
            assert!(error < if k == 1 { 1e-12 } else { 0.01 }, "{process}, {network}: {error}");
            assert!((mean - expected).abs() < tolerance + 3.0 * error, "{process}, {network}: {mean}");
        }
    }
}

/// On mixtures the mean over images of the data's law, within three standard errors and 0.01 bits per dimension.
#[test]
fn likelihoods_of_mixtures() {
    let n = 150;
    let means: Vec<Vec<f64>> =
        (0..3).map(|i| (0..12).map(|j| ((i * 12 + j) as f64 * 0.7).sin() * 0.6).collect()).collect();
    let means: Vec<&[f64]> = means.iter().map(Vec::as_slice).collect();
    let images = mixture(&[0.5, 0.3, 0.2], &means, &[0.04, 0.09, 0.02]);
    for (process, data_of, shape) in [
        (json!({ "kind": "vp" }), plane(), &[2][..]),
        (json!({ "kind": "vp" }), images.clone(), &[3, 2, 2]),
        (psld(), images, &[3, 2, 2]),
    ] {
        let spec = spec(process.clone(), json!({}), shape);
        let model = model(&spec, &data_of);
        let d = spec.data_len();
        let x = data(&data_of, n);
        let sizes = [&[n][..], shape].concat();
        let estimate = Estimate { probes: 4, dequantise: false };
        for precision in [Precision::F64, Precision::F32] {
            let run = RunOptions { precision, ..from_images(&sizes, &x) };
            let got = bits(&model, json!({ "nfe": 200 }), run, estimate);
            let expected: Vec<f64> = x.chunks(d).map(|x| exact_bits(&spec, &data_of, 0.001, x)).collect();
            let mean = expected.iter().sum::<f64>() / n as f64;
            let differences: Vec<f64> = got.bits.iter().zip(&expected).map(|(a, b)| a - b).collect();
            let off = differences.iter().sum::<f64>() / n as f64;
            let spread = (differences.iter().map(|e| (e - off).powi(2)).sum::<f64>() / (n * n) as f64).sqrt();
            let said = (got.errors.iter().map(|e| e * e).sum::<f64>() / (n * n) as f64).sqrt();
            println!(
                "{process} {shape:?}: {:.4} of {mean:.4}: {off:.4} +- {spread:.4}, said {said:.4}",
                got.mean()
            );
            assert!(off.abs() < 0.01 && off.abs() < 3.0 * spread + 0.003, "{process}: {off} +- {spread}");
            // What the estimates say of themselves is what they are off.
            assert!((0.5..2.0).contains(&(said / spread)), "{process}: {said}, in fact {spread}");
            // The images' own spread is in the error of the mean.
            assert!(got.standard_error().unwrap() > spread);
            assert_eq!(got.nfe, 200 + 201 * 8);
        }
    }
}

/// 8-bit images: each value is somewhere in its bin, and the bits count bins.
#[test]
fn dequantised_likelihoods() {
    let gauss = mixture(&[1.0], &[&[0.1]], &[0.09]);
    let spec = spec(json!({ "kind": "vp" }), json!({}), &[1]);
    let model = model(&spec, &gauss);
    let n = 64;
    let levels: Vec<f64> = (0..n).map(|i| (80 + i % 100) as f64).collect();
    let x: Vec<f64> = levels.iter().map(|level| level / 127.5 - 1.0).collect();
    let run = RunOptions { seed: 3, ..from_images(&[n, 1], &x) };
    let got = bits(&model, json!({ "nfe": 200 }), run, Estimate { dequantise: true, ..PLAIN });
    let mut shares = Vec::new();
    for (i, (level, got)) in levels.iter().zip(&got.bits).enumerate() {
        // The density is read back for where in the bin the value is.
        let at = |share: f64| exact_bits(&spec, &gauss, 0.001, &[(level + share) / 128.0 - 1.0]) + 7.0;
        let (low, high) = (at(0.0).min(at(1.0)), at(0.0).max(at(1.0)));
        assert!((low - 2e-3..=high + 2e-3).contains(got), "image {i}: {got} of {low} to {high}");
        shares.push((got - at(0.0)) / (at(1.0) - at(0.0)));
    }
    // Near the mode a bin has no slope; elsewhere the places spread over it.
    let steep: Vec<f64> = shares.into_iter().filter(|share| (-0.2..=1.2).contains(share)).collect();
    let (low, high) = steep.iter().fold((1.0_f64, 0.0_f64), |(l, h), s| (l.min(*s), h.max(*s)));
    assert!(low < 0.2 && high > 0.8, "{low} to {high}");
}

/// An image's likelihood depends on its seed, not on its neighbours or batches.
#[test]
fn likelihoods_of_one_and_of_many() {
    let spec = spec(psld(), json!({}), &[2]);
    let model = model(&spec, &plane());
    let x = data(&plane(), 5);
    let few = json!({ "steps": 6 });
    let of = |at: std::ops::Range<usize>, batch| {
        let seed = 4 + at.start as u64;
        let run = RunOptions { seed, batch, ..from_images(&[at.len(), 2], &x[2 * at.start..2 * at.end]) };
        bits(&model, few.clone(), run, Estimate { probes: 3, dequantise: false })
    };
    let together = of(0..5, None);
    assert_eq!(of(0..5, Some(2)), together);
    for i in 0..5 {
        let one = of(i..i + 1, None);
        assert_same(&one.bits, &together.bits[i..i + 1], "bits");
        assert_same(&one.errors, &together.errors[i..i + 1], "errors");
    }
    assert_eq!((of(0..1, None).standard_error(), of(0..1, None).nfe), (None, 6 + 7 * 6));
}

#[test]
fn likelihoods_that_are_refused() {
    let spec = spec(psld(), json!({}), &[2]);
    let model = model(&spec, &plane());
    let image = || from_images(&[1, 2], &[0.5, 0.0]);
    let go = |_| ControlFlow::Continue(());
    let mut messages = String::new();
    let three = RunOptions { n: 2, ..from_images(&[3, 2], &[0.0; 6]) };
    let outside = from_images(&[1, 2], &[0.5, 1.5]);
    for (case, sampler, run, estimate) in [
        ("none", json!({}), f64_run(1), PLAIN),
        ("probes", json!({}), image(), Estimate { probes: 0, ..PLAIN }),
        ("adaptive", json!({ "sampler": "rk45" }), image(), PLAIN),
        ("memory", json!({}), RunOptions { max_memory: Some(100), ..image() }, PLAIN),
        ("sampler", json!({ "sampler": "sscs" }), image(), PLAIN),
        ("images", json!({}), three, PLAIN),
        ("range", json!({}), outside, Estimate { dequantise: true, ..PLAIN }),
        ("label", json!({}), RunOptions { labels: Some(vec![1]), ..image() }, PLAIN),
    ] {
        let error = likelihood(&model, &options(sampler), &run, estimate, go).unwrap_err();
        writeln!(messages, "{case} [{:?}]: {error}", error.status()).unwrap();
    }
    let error = likelihood(&model, &options(json!({ "steps": 5 })), &image(), PLAIN, |overall| {
        if overall.run.step == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    writeln!(messages, "{}", error.unwrap_err()).unwrap();
    // Images are dequantised a batch at a time: one for so many samples takes no memory for each.
    let run = RunOptions { n: 1 << 45, batch: Some(2), ..image() };
    let dequantised = Estimate { dequantise: true, ..PLAIN };
    let error = likelihood(&model, &options(json!({})), &run, dequantised, |_| ControlFlow::Break(()));
    writeln!(messages, "{}", error.unwrap_err()).unwrap();
    let run = RunOptions { init: Some(tensor(&[1, 4], &[0.0; 4])), ..image() };
    writeln!(messages, "{}", likelihood(&model, &options(json!({})), &run, PLAIN, go).unwrap_err()).unwrap();
    insta::assert_snapshot!(messages);
}

#[test]
fn what_is_refused() {
    let plain = spec(psld(), json!({}), &[2]);
    let flat = model(&plain, &plane());
    let mut messages = String::new();
    let mut say = |case: &str, error: Error| {
        writeln!(messages, "{case} [{:?}]: {error}", error.status()).unwrap();
    };
    for o in [
        json!({ "sampler": "em" }),
        json!({ "sampler": "dpmpp" }),
        json!({ "sampler": "gddim", "eta": 0.5 }),
        json!({ "sampler": "gdim" }),
    ] {
        let o = options(with(o, json!({ "encode": true })));
        say("sampler", Sampler::compile(&plain, &o, None).unwrap_err());
    }
    let o = options(json!({ "encode": true }));
    let inpaint = Some(psld::spec::InpaintMethod::Corrected);
    say("inpainting", Sampler::compile(&plain, &o, inpaint).unwrap_err());
    let run =
        |sampler: &Arc<Sampler>, options: RunOptions| Run::start(&flat, sampler, options).err().unwrap();
    let (encode, decode) = (encoder(&plain, json!({ "steps": 2 })), sampler(&plain, json!({ "steps": 2 })));
    say("no image", run(&encode, f64_run(2)));
    let both = RunOptions { init: Some(tensor(&[1, 4], &[0.0; 4])), ..from_images(&[1, 2], &[0.0; 2]) };
    say("both", run(&decode, both));
    let three = RunOptions { from_image: Some(tensor(&[3, 2], &[0.0; 6])), ..f64_run(2) };
    say("images", run(&decode, three));
    say("NaN", run(&decode, from_images(&[1, 2], &[f64::NAN, 0.0])));
    say("anytime", run(&encode, RunOptions { anytime: true, ..from_images(&[1, 2], &[0.5, 0.0]) }));
    for (case, shape, at) in [("state", &[2, 2][..], 0.0), ("place", &[2, 4], 1.5), ("place", &[2, 4], -0.1)]
    {
        let values = vec![0.5; shape.iter().product()];
        say(case, interpolate(&plain, &tensor(shape, &values), &[at]).unwrap_err());
    }
    let opposite = tensor(&[2, 4], &[1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 1.0]);
    say("opposite", interpolate(&plain, &opposite, &[0.5]).unwrap_err());
    insta::assert_snapshot!(messages);
}

/// An adaptive encoder may use the last of the calls that it is allowed.
#[test]
fn rk45_encodes_with_as_many_calls_as_it_may() {
    let spec = spec(psld(), json!({}), &[2]);
    let model = model(&spec, &plane());
    let images = || from_images(&[1, 2], &[0.5, 0.0]);
    let encoder = |max_nfe: usize| {
        encoder(&spec, json!({ "sampler": "rk45", "max_nfe": max_nfe, "rtol": 1e-2, "atol": 1e-2 }))
    };
    let (whole, end) = finish(&model, &encoder(1000), images());
    let (same, _) = finish(&model, &encoder(end.nfe), images());
    assert_same(&same, &whole, "latents");
    let mut run = Run::start(&model, &encoder(end.nfe - 1), images()).unwrap();
    assert_eq!(run.step(usize::MAX).unwrap_err().status(), Status::MaxNfe);
}

/// The default encodes with `unipc` of order 3, and `auto` does not change that.
#[test]
fn the_default_encoder() {
    let spec = spec(psld(), json!({}), &[2]);
    let default = encoder(&spec, json!({ "nfe": 50 }));
    assert_eq!((default.info().name, default.encodes()), ("unipc", true));
    let third = encoder(&spec, json!({ "sampler": "unipc", "order": 3, "nfe": 50 }));
    assert_eq!(third.hash(), default.hash());
    assert_eq!(default.plan().unwrap().nfe, 50);
    assert_eq!(encoder(&spec, json!({ "sampler": "auto", "nfe": 50 })).hash(), default.hash());
}
