//! Any denoiser drives any path: networks of k = 1, exact for a mixture, along paths that they were not trained on.

mod support;

use psld::decode::Times;
use psld::network::analytic::{Mixture, MixtureNetwork};
use psld::plan::{Plan, Row};
use psld::run::Inpaint;
use psld::spec::{Conditioning, Guidance, GuidanceKind, InpaintMethod, Inpainting, What};
use psld::{ModelSpec, Run, RunOptions, Sampler, Status, solver};
use serde_json::{Value, json};
use std::fmt::Write;
use support::*;

/// Every way in which a network of k = 1 may have been trained and may be asked.
fn networks() -> Vec<(&'static str, Value)> {
    let vp = json!({ "kind": "vp" });
    let ddpm = json!({ "kind": "ddpm", "schedule": "scaled_linear" });
    let edm = json!({ "kind": "edm" });
    vec![
        ("vp eps", json!({ "process": vp })),
        ("vp score", json!({ "process": vp, "prediction": "score" })),
        ("vp x0", json!({ "process": vp, "prediction": "x0" })),
        ("vp v", json!({ "process": vp, "prediction": "v" })),
        ("vp edm", json!({ "process": vp, "prediction": "edm", "sigma_data": 0.7 })),
        ("ve score", json!({ "process": { "kind": "ve", "sigma_max": 30.0 }, "prediction": "score" })),
        ("edm x0", json!({ "process": edm, "prediction": "x0" })),
        ("edm raw", json!({ "process": edm, "prediction": "edm" })),
        ("flow velocity", json!({ "process": { "kind": "flow" }, "prediction": "velocity" })),
        (
            "flow reversed",
            json!({ "process": { "kind": "flow" }, "prediction": "velocity", "time": "reversed" }),
        ),
        ("ddpm linear", json!({ "process": { "kind": "ddpm" } })),
        ("ddpm scaled", json!({ "process": ddpm, "prediction": "v" })),
        ("ddpm cosine", json!({ "process": { "kind": "ddpm", "schedule": "cosine", "entries": 50 } })),
    ]
}

/// The paths to sample along.
fn paths() -> Vec<(&'static str, Value)> {
    vec![
        ("psld", psld()),
        ("psld published", json!({ "kind": "psld", "beta_min": 0.5, "beta_max": 14.0 })),
        ("cld", json!({ "kind": "cld", "decomposition": "upper" })),
        ("psld dsm", json!({ "kind": "psld", "score_matching": "dsm" })),
        ("third order", third_order(6.0)),
        ("vp", json!({ "kind": "vp" })),
        ("ve", json!({ "kind": "ve" })),
        ("edm", json!({ "kind": "edm" })),
        ("flow", json!({ "kind": "flow" })),
        ("ddpm", json!({ "kind": "ddpm" })),
    ]
}

fn with_network(process: &Value, network: &Value) -> ModelSpec {
    spec(process.clone(), network.clone(), &[2])
}

/// The same run with the exact network of the path itself and with one that knows another path: the same start, the
/// same noise, the same interval.
#[test]
fn a_network_of_one_coordinate_equals_the_exact_network_of_the_path() {
    let mixture = plane();
    let mut worst = (0.0, String::new());
    for (path, process) in paths() {
        let own = with_network(&process, &json!({ "predicts": "all" }));
        let exact = model(&own, &mixture);
        for (network, fields) in networks() {
            let foreign = with_network(&process, &fields);
            let times = Times::of_model(&foreign).unwrap();
            let driven = model(&foreign, &mixture);
            for info in solver::list() {
                let mut json = json!({ "sampler": info.name, "t_start": times.high, "t_end": times.end });
                // Its many calls are of one kind, and a step that just fails for one network may pass for the other.
                // Six steps can amplify rounding (`unipc` in third order, ten thousandfold).
                let tolerance = if info.adaptive { 1e-6 } else { 1e-7 };
                if info.adaptive {
                    if !["vp x0", "edm raw", "flow velocity"].contains(&network) {
                        continue;
                    }
                    json["rtol"] = json!(1e-3);
                } else {
                    json["steps"] = json!(6);
                    json["time_grid"] = json!("log_snr");
                }
                let compiled = |spec| Sampler::compile(spec, &options(json.clone()), None);
                let samplers = match (compiled(&own), compiled(&foreign)) {
                    (Ok(a), Ok(b)) => (a.into(), b.into()),
                    (Err(a), Err(b)) => {
                        assert_eq!(a.to_string(), b.to_string());
                        assert!(
                            matches!(a.status(), Status::Unsupported | Status::InvalidArgument),
                            "{} on {path}: {a}",
                            info.name
                        );
                        continue;
                    }
                    (a, b) => panic!("{} on {path}: {:?}, {:?}", info.name, a.err(), b.err()),
                };
                let start = start_of(&exact, &samplers.0);
                let run = |model, sampler: &_| {
                    let init = Some(tensor(&[5, start.len() / 5], &start));
                    finish(model, sampler, RunOptions { init, seed: 3, ..f64_run(5) })
                };
                let (expected, progress) = run(&exact, &samplers.0);
                let (got, other) = run(&driven, &samplers.1);
                assert_eq!(progress.nfe, other.nfe);
                let scale = expected.iter().fold(1.0_f64, |scale, x| scale.max(x.abs()));
                let error = distance(&expected, &got) / scale;
                let place = format!("{network} drives {path} by {}", info.name);
                assert!(error < tolerance, "{place}: {error:e} apart\n{expected:?}\n{got:?}");
                if error > worst.0 && !info.adaptive {
                    worst = (error, place);
                }
            }
        }
    }
    println!("worst {:e}: {}", worst.0, worst.1); // shown by --nocapture
}

/// Completed images and guided samples, too, are those of the exact network of the path: a network of k = 1 that is driven
/// through phase space, by itself, by its own null class and by a classifier of phase-space states.
#[test]
fn inpainting_and_guidance_along_another_path() {
    let mixture = Mixture { labels: vec![0, 1, 2], ..plane() };
    let labelled = |fields: Value| with(fields, json!({ "label_input": "y", "classes": 3 }));
    let inpaint = Inpaint { image: tensor(&[1, 2], &[0.75, 0.0]), mask: tensor(&[1, 2], &[1.0, 0.0]) };
    for (path, process) in [("psld", psld()), ("third order", third_order(6.0))] {
        let guide = spec(process.clone(), labelled(json!({ "output": "grad" })), &[2]);
        let guide = model(&guide, &mixture);
        let own = with_network(&process, &labelled(json!({ "predicts": "all" })));
        let exact = model(&own, &mixture);
        for (network, fields) in
            networks().into_iter().filter(|(name, _)| ["vp eps", "edm raw", "flow velocity"].contains(name))
        {
            let foreign = with_network(&process, &labelled(fields));
            let driven = model(&foreign, &mixture);
            let times = Times::of_model(&foreign).unwrap();
            let interval = json!({ "t_start": times.high, "t_end": times.end, "time_grid": "order2" });
            let start = start_of(&exact, &sampler(&own, with(interval.clone(), json!({ "steps": 1 }))));
            let paint = |method, resample| (Some(Inpainting { method, resample }), None);
            let guided = |kind| (None, Some(Guidance::from(kind)));
            for (what, (painting, guidance)) in [
                ("corrected", paint(InpaintMethod::Corrected, 1)),
                ("resampled", paint(InpaintMethod::Corrected, 3)),
                ("published", paint(InpaintMethod::Published, 1)),
                ("cfg", guided(GuidanceKind::Cfg)),
                ("classifier", guided(GuidanceKind::Classifier)),
                ("completed and guided", (Some(Inpainting::default()), Some(GuidanceKind::Cfg.into()))),
            ] {
                for name in ["ancestral", "sscs", "heun", "unipc", "sa_solver"] {
                    if what == "resampled" && ["unipc", "sa_solver"].contains(&name) {
                        continue; // They remember earlier steps.
                    }
                    let run = |model: &psld::Model, spec: &ModelSpec| {
                        let options = options(with(interval.clone(), json!({ "sampler": name, "steps": 8 })));
                        let conditioning = Conditioning { inpaint: painting, guidance, restore: None };
                        let sampler = Sampler::compile(spec, &options, conditioning).unwrap().into();
                        // A classifier guides samples of the null class.
                        let classes = guidance.map(|_| vec![0, 1, 2, 1, 0]);
                        let by_classifier = guidance.is_some_and(|g| g.kind == GuidanceKind::Classifier);
                        finish(
                            model,
                            &sampler,
                            RunOptions {
                                seed: 3,
                                init: Some(tensor(&[5, start.len() / 5], &start)),
                                inpaint: painting.map(|_| inpaint.clone()),
                                scales: classes.as_ref().map(|_| vec![1.5]),
                                labels: classes,
                                guide: by_classifier.then(|| guide.clone()),
                                ..f64_run(5)
                            },
                        )
                    };
                    let ((expected, end), (got, other)) = (run(&exact, &own), run(&driven, &foreign));
                    let place = format!("{network} drives {path} by {name}, {what}");
                    assert_eq!(end.nfe, other.nfe, "{place}");
                    let scale = expected.iter().fold(1.0_f64, |scale, x| scale.max(x.abs()));
                    assert_close(&got, &expected, 1e-7 * scale, &place);
                    if painting.is_some_and(|painting| painting.method == InpaintMethod::Corrected) {
                        let k = expected.len() / 10;
                        assert!(got.chunks(2 * k).all(|z| z[0] == 0.75), "{place}: {got:?}");
                    }
                }
            }
        }
    }
}

/// States near the prior of a path, whatever its sampler starts from.
fn start_of(model: &psld::Model, sampler: &std::sync::Arc<Sampler>) -> Vec<f64> {
    read(&Run::start(model, sampler, f64_run(5)).unwrap(), What::State)
}

fn plan_of(spec: &ModelSpec, json: Value) -> Plan {
    sampler(spec, json).plan().unwrap().clone()
}

/// What a projected call looks like, in words and in JSON, and that plans without one are as before.
#[test]
fn plans_with_an_input() {
    let spec = with_network(&psld(), &json!({ "process": { "kind": "vp" } }));
    let plan = plan_of(&spec, json!({ "sampler": "euler", "steps": 2, "time_grid": "uniform" }));
    insta::assert_snapshot!(plan.explain());
    let read = Plan::parse(&plan.to_json()).unwrap();
    assert_eq!(read, plan);
    let again = std::sync::Arc::new(Sampler::from_plan(&spec, read).unwrap());
    let network = model(&spec, &plane());
    let compiled = sampler(&spec, json!({ "sampler": "euler", "steps": 2, "time_grid": "uniform" }));
    assert_same(
        &finish(&network, &again, f64_run(3)).0,
        &finish(&network, &compiled, f64_run(3)).0,
        "a plan that was read",
    );
    let own = plan_of(&with_network(&psld(), &json!({})), json!({ "steps": 2 }));
    assert!(!own.to_json().contains("input"), "{}", own.to_json());
}

#[test]
fn refused_inputs() {
    let spec = with_network(&psld(), &json!({ "process": { "kind": "vp" } }));
    let own = with_network(&psld(), &json!({}));
    let plan = plan_of(&spec, json!({ "sampler": "euler", "steps": 1 }));
    let mut messages = String::new();
    let mut refuse = |what: &str, change: &dyn Fn(&mut Value)| {
        let mut json: Value = serde_json::from_str(&plan.to_json()).unwrap();
        change(&mut json["rows"][0]);
        let error = Plan::parse(&json.to_string()).unwrap_err();
        assert_eq!(error.status(), Status::InvalidConfig);
        writeln!(messages, "{what}: {error}").unwrap();
    };
    refuse("time", &|row| row["input"]["t"] = json!(1.5));
    refuse("shape", &|row| row["input"]["project"] = json!([[1.0]]));
    refuse("rows", &|row| row["input"]["project"] = json!([[1.0, 0.0], [0.0, 1.0]]));
    refuse("field", &|row| row["input"]["time"] = json!(0.5));
    for (what, spec, plan) in [
        ("no input", &spec, plan_of(&own, json!({ "sampler": "euler", "steps": 1 }))),
        ("input", &own, plan.clone()),
    ] {
        let mut plan = plan;
        plan.output_blocks = spec.output_blocks(2);
        for row in &mut plan.rows {
            if let Row::Update(row) = row {
                row.terms.clear();
            }
        }
        let error = Sampler::from_plan(spec, plan).unwrap_err();
        writeln!(messages, "{what}: {error}").unwrap();
    }
    insta::assert_snapshot!(messages);
}

/// Where runs start and end by default, and what is refused: the signal-to-noise ratio that the network knows.
#[test]
fn times_that_the_network_knows() {
    let mut table = String::new();
    for (network, fields) in networks() {
        for (path, process) in [&paths()[0], &paths()[4], &paths()[7], &paths()[8]] {
            let spec = with_network(process, &fields);
            let times = Times::of_model(&spec).unwrap();
            let grid = plan_of(&spec, json!({ "sampler": "euler", "steps": 3 })).grid;
            assert_eq!((grid[0], grid[3]), (times.start, times.end), "{network} on {path}");
            assert_eq!(times.start < times.high, network == "ddpm cosine", "{network} on {path}");
            writeln!(
                table,
                "{network} on {path}: {:.6} to {:.6}, ends at {:.6}",
                times.low, times.high, times.end
            )
            .unwrap();
            // The ends are where the ratios are equal, or the path's own.
            let (own, its) = (spec.process().unwrap(), spec.network_process().unwrap());
            let (first, last) = its.times();
            let (low, high) = own.times();
            let equal =
                |t: f64, end: f64, bound: f64| t == bound || (own.log_snr(t) - its.log_snr(end)).abs() < 1e-9;
            assert!(equal(times.low, first, low) && equal(times.high, last, high), "{network} on {path}");
        }
    }
    insta::assert_snapshot!(table);

    let mut messages = String::new();
    let narrow =
        |min: f64, max: f64| json!({ "process": { "kind": "edm", "sigma_min": min, "sigma_max": max } });
    let cases = [
        (psld(), narrow(0.5, 3.0), json!({ "t_start": 1.0 })),
        (psld(), narrow(0.5, 3.0), json!({ "t_end": 0.001 })),
        (psld(), narrow(0.5, 3.0), json!({ "time_grid": [1.0, 0.5, 0.2] })),
        (psld(), narrow(0.5, 3.0), json!({ "sampler": "rk45", "t_start": 1.0 })),
        (json!({ "kind": "ve", "sigma_min": 5.0, "sigma_max": 9.0 }), narrow(0.5, 3.0), json!({})),
        (json!({ "kind": "flow" }), json!({}), json!({ "t_start": 1.0 })),
        (json!({ "kind": "flow" }), json!({}), json!({ "time_grid": [1.0, 0.5] })),
        (json!({ "kind": "ddpm", "entries": 10 }), json!({}), json!({ "t_end": 0.05 })),
        (json!({ "kind": "edm" }), json!({}), json!({ "t_end": 1e-5 })),
    ];
    for (process, network, json) in cases {
        let error = Sampler::compile(&with_network(&process, &network), &options(json), None).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
        writeln!(messages, "{error}").unwrap();
    }
    insta::assert_snapshot!(messages);
}

/// The initial state is what data of unit variance are at the time where the run starts.
#[test]
fn the_start_has_the_variance_of_its_time() {
    let n = 20_000;
    let variances = |process: &Value, network: Value, json: Value| -> Vec<f64> {
        let spec = spec(process.clone(), network, &[1]);
        let compiled = sampler(&spec, json);
        let network = model(&spec, &mixture(&[1.0], &[&[0.0]], &[1.0]));
        let z = read(&Run::start(&network, &compiled, f64_run(n)).unwrap(), What::State);
        let k = z.len() / n;
        (0..k).map(|b| z.iter().skip(b).step_by(k).map(|x| x * x).sum::<f64>() / n as f64).collect()
    };
    let close = |got: Vec<f64>, expected: &[f64]| {
        // Five standard errors.
        let far = got.iter().zip(expected).any(|(g, e)| (g / e - 1.0).abs() > 5.0 * (2.0 / n as f64).sqrt());
        assert!(got.len() == expected.len() && !far, "{got:?}, expected {expected:?}");
    };
    let steps = json!({ "steps": 2 });
    close(variances(&json!({ "kind": "edm" }), json!({}), steps.clone()), &[6400.0]);
    close(
        variances(&json!({ "kind": "edm" }), json!({}), json!({ "steps": 2, "t_start": 0.02 })),
        &[1.6 * 1.6 + 1.0],
    );
    close(variances(&json!({ "kind": "ve", "sigma_max": 3.0 }), json!({}), steps.clone()), &[9.0]);
    close(variances(&json!({ "kind": "flow" }), json!({}), json!({ "t_start": 0.6 })), &[0.36 + 0.16]);
    close(
        variances(&json!({ "kind": "flow" }), json!({}), json!({ "sampler": "rk45", "t_start": 0.6 })),
        &[0.36 + 0.16],
    );
    // A network that knows little noise: PSLD's own kernel at t = 0.1 (docs/methods.md) plus that of the data.
    let process = spec(psld(), json!({}), &[1]).process().unwrap();
    let level = (-process.log_snr(0.1)).exp();
    let network = json!({ "process": { "kind": "edm", "sigma_max": level } });
    close(
        variances(&psld(), network, steps.clone()),
        &[0.22801074575 + 0.80556343 * 0.80556343, 0.21603119193 + 0.17901410 * 0.17901410],
    );
    // And one that knows all of it: the prior itself.
    close(variances(&psld(), json!({ "process": { "kind": "ddpm", "entries": 2000 } }), steps), &[1.0, 0.25]);
}

/// Previews are the data estimate of the network, whatever its path.
#[test]
fn previews() {
    let mixture = plane();
    let state: Vec<f64> = (0..12).map(|i| (f64::from(i) * 0.7).sin()).collect();
    let estimate = |network: &Value| {
        let spec = with_network(&psld(), network);
        let network = model(&spec, &mixture);
        let compiled = sampler(&spec, json!({ "sampler": "euler", "time_grid": [0.3, 0.2] }));
        let init = Some(tensor(&[3, 4], &state));
        let mut run =
            Run::start(&network, &compiled, RunOptions { init, previews: true, ..f64_run(3) }).unwrap();
        run.step(1).unwrap();
        read(&run, What::X0)
    };
    let expected = estimate(&json!({ "prediction": "x0" }));
    for (name, network) in networks() {
        assert_close(&estimate(&network), &expected, 1e-11, name);
    }
}

/// What the samplers of these paths are in their own papers, by their own formulas.
#[test]
fn published_forms() {
    let mixture = plane();
    let start: Vec<f64> = (0..6).map(|i| f64::from(i) - 2.5).collect();
    // EDM, algorithm 1 without noise: Heun in sigma on the Karras grid, the last step by Euler to 0.
    let spec_of = |process: Value, network: Value| spec(process, network, &[2]);
    let edm = spec_of(json!({ "kind": "edm" }), json!({ "prediction": "x0" }));
    let network = MixtureNetwork::new(edm.clone(), mixture.clone()).unwrap();
    let (n, rho) = (7, 7.0);
    let sigma = |i: usize| -> f64 {
        if i == n {
            return 0.0;
        }
        let root = |s: f64| s.powf(1.0 / rho);
        (root(80.0) + i as f64 / (n - 1) as f64 * (root(0.002) - root(80.0))).powf(rho)
    };
    let denoise = |x: &[f64], s: f64| call(&network, x, &[s / 80.0; 3], 2);
    let slope =
        |x: &[f64], s: f64| -> Vec<f64> { x.iter().zip(denoise(x, s)).map(|(x, d)| (x - d) / s).collect() };
    let mut x: Vec<f64> = start.iter().map(|x| 80.0 * x).collect();
    let init = x.clone();
    for i in 0..n {
        let (s, u) = (sigma(i), sigma(i + 1));
        let d = slope(&x, s);
        let euler: Vec<f64> = x.iter().zip(&d).map(|(x, d)| x + (u - s) * d).collect();
        x = if u == 0.0 {
            euler
        } else {
            let e = slope(&euler, u);
            x.iter().zip(d.iter().zip(&e)).map(|(x, (d, e))| x + (u - s) * 0.5 * (d + e)).collect()
        };
    }
    let compiled = sampler(&edm, json!({ "sampler": "heun", "nfe": 13 }));
    let options = RunOptions { init: Some(tensor(&[3, 2], &init)), ..f64_run(3) };
    let (got, progress) = finish(&model(&edm, &mixture), &compiled, options);
    assert_eq!(progress.nfe, 2 * n - 1);
    assert_close(&got, &x, 1e-11, "EDM's algorithm 1");

    // Flow matching by Euler: z += (u - t) v, the last step to t = 0.
    let flow = spec_of(json!({ "kind": "flow" }), json!({ "prediction": "velocity" }));
    let network = MixtureNetwork::new(flow.clone(), mixture.clone()).unwrap();
    let grid = [0.999, 0.7, 0.4, 0.2, 0.0];
    let mut z = start.clone();
    for pair in grid.windows(2) {
        let v = call(&network, &z, &[pair[0]; 3], 2);
        z.iter_mut().zip(v).for_each(|(z, v)| *z += (pair[1] - pair[0]) * v);
    }
    let compiled = sampler(&flow, json!({ "sampler": "euler", "time_grid": grid[..4].to_vec() }));
    let options = RunOptions { init: Some(tensor(&[3, 2], &start)), ..f64_run(3) };
    assert_close(&finish(&model(&flow, &mixture), &compiled, options).0, &z, 1e-11, "flow matching by Euler");
}

/// Specs that cannot be meant, and what they are told.
#[test]
fn refused_specs() {
    let mut messages = String::new();
    let mut refuse = |process: Value, network: Value| {
        let text = json!({ "format": 1, "process": process, "data": { "shape": [2] }, "network": network });
        let error = ModelSpec::parse(&text.to_string()).unwrap_err();
        assert_eq!(error.status(), Status::SpecInvalid);
        writeln!(messages, "{error}").unwrap();
    };
    let ddpm = |rest: Value| {
        let mut process = rest;
        process["kind"] = json!("ddpm");
        process
    };
    // Processes.
    refuse(json!({ "kind": "vee" }), json!({}));
    refuse(json!({ "kind": "ve", "sigma": 3.0 }), json!({}));
    refuse(json!({ "kind": "ve", "beta_min": 3.0 }), json!({}));
    refuse(json!({ "kind": "vp", "sigma_max": 3.0 }), json!({}));
    refuse(json!({ "kind": "flow", "numerical_eps": 1e-5 }), json!({}));
    refuse(json!({ "kind": "ve", "sigma_min": 0.0 }), json!({}));
    refuse(json!({ "kind": "ve", "sigma_min": 60.0 }), json!({}));
    refuse(json!({ "kind": "ve", "sigma_max": 1e200 }), json!({}));
    refuse(json!({ "kind": "edm", "sigma_min": 1e-9 }), json!({}));
    refuse(json!({ "kind": "edm", "sigma_max": -1.0 }), json!({}));
    refuse(ddpm(json!({ "betas": [0.1] })), json!({}));
    refuse(ddpm(json!({ "betas": [0.1, 1.0] })), json!({}));
    refuse(ddpm(json!({ "betas": [0.1, 0.0] })), json!({}));
    refuse(ddpm(json!({ "betas": vec![0.999; 200] })), json!({}));
    refuse(ddpm(json!({ "betas": [0.1, "x"] })), json!({}));
    refuse(ddpm(json!({ "betas": [0.1, 0.2], "schedule": "linear" })), json!({}));
    refuse(ddpm(json!({ "betas": [0.1, 0.2], "beta_max": 0.3 })), json!({}));
    refuse(ddpm(json!({ "schedule": "quadratic" })), json!({}));
    refuse(ddpm(json!({ "schedule": "cosine", "beta_min": 0.1 })), json!({}));
    refuse(ddpm(json!({ "schedule": "cosine", "max_beta": 1.0 })), json!({}));
    refuse(ddpm(json!({ "schedule": "cosine", "offset": -1.0 })), json!({}));
    refuse(ddpm(json!({ "offset": 0.008 })), json!({}));
    refuse(ddpm(json!({ "entries": 1 })), json!({}));
    refuse(ddpm(json!({ "entries": 4_000_000_000_u32 })), json!({}));
    refuse(ddpm(json!({ "beta_max": 20.0 })), json!({}));
    // Networks.
    refuse(psld(), json!({ "process": { "kind": "psld" } }));
    refuse(psld(), json!({ "process": { "kind": "edm", "sigma_mx": 3.0 } }));
    refuse(psld(), json!({ "process": { "kind": "edm", "sigma_max": 0.0 } }));
    refuse(psld(), json!({ "process": "edm" }));
    refuse(psld(), json!({ "process": { "kind": "vp" }, "predicts": "momentum" }));
    refuse(psld(), json!({ "prediction": "v" }));
    refuse(psld(), json!({ "prediction": "edm" }));
    refuse(psld(), json!({ "prediction": "velocity" }));
    refuse(psld(), json!({ "prediction": "velocity", "process": { "kind": "vp" } }));
    refuse(psld(), json!({ "prediction": "flow" }));
    refuse(psld(), json!({ "time": "sigma" }));
    refuse(psld(), json!({ "time": "index", "process": { "kind": "vp" } }));
    refuse(psld(), json!({ "time": "tau" }));
    refuse(psld(), json!({ "sigma_data": 0.5 }));
    refuse(json!({ "kind": "edm" }), json!({ "prediction": "edm", "sigma_data": 0.0 }));
    insta::assert_snapshot!(messages);
}

/// For k = 1 four samplers of order 1 are DDIM, also where a table of betas is too steep for a quadrature in t.
#[test]
fn all_that_is_ddim_is_the_same() {
    for process in [
        json!({ "kind": "vp" }),
        json!({ "kind": "flow" }),
        json!({ "kind": "ddpm", "schedule": "cosine" }),
        json!({ "kind": "ddpm", "betas": vec![0.9; 20] }),
    ] {
        let spec = with_network(&process, &json!({}));
        let updates = |options: Value| -> Vec<(f64, f64)> {
            let options = serde_json::from_value(options).unwrap();
            let sampler = Sampler::compile(&spec, &options, None).unwrap();
            let rows = sampler.plan().unwrap().rows.iter();
            let update = |row: &Row| match row {
                Row::Update(update) => Some((update.a[(0, 0)], update.terms[0].1[(0, 0)])),
                _ => None,
            };
            rows.filter_map(update).collect()
        };
        let ddim = updates(json!({ "sampler": "ddim", "steps": 10 }));
        for other in ["conjugate", "gddim", "deis"] {
            let mut options = json!({ "sampler": other, "steps": 10 });
            if other != "conjugate" {
                options["order"] = json!(1);
            }
            for (step, (own, expected)) in updates(options).into_iter().zip(&ddim).enumerate() {
                let error = f64::max((own.0 - expected.0).abs(), (own.1 - expected.1).abs());
                assert!(
                    error <= 1e-12 * expected.0.abs(),
                    "{process}, {other}, step {step}: {own:?}, {expected:?}"
                );
            }
        }
    }
}

/// With its defaults written out a spec is one of the same process, and nothing is left to write.
#[test]
fn defaults_written_out() {
    let named = |process: Value, network: Value| with_network(&process, &network);
    let recipe = json!({ "kind": "recipe", "d": [[0.5]], "q": [[0.0]], "s": [[1.0]] });
    let processes = [
        json!({ "kind": "vp" }),
        json!({ "kind": "vp", "beta_max": 10.0 }),
        json!({ "kind": "cld" }),
        json!({ "kind": "psld", "gamma": 0.02, "nu": 4.02 }),
        recipe,
        json!({ "kind": "ve" }),
        json!({ "kind": "edm", "sigma_max": 40.0 }),
        json!({ "kind": "flow" }),
        json!({ "kind": "ddpm" }),
        json!({ "kind": "ddpm", "schedule": "scaled_linear", "entries": 500 }),
        json!({ "kind": "ddpm", "schedule": "cosine" }),
        json!({ "kind": "ddpm", "betas": [0.1, 0.2] }),
    ];
    for process in processes {
        let spec = named(process.clone(), json!({}));
        let full = spec.filled();
        assert_eq!(ModelSpec::parse(&full.to_json()).unwrap(), full, "{process}");
        assert_eq!(full.filled(), full, "{process}");
        assert_eq!(full.process().unwrap(), spec.process().unwrap(), "{process}");
        assert_eq!(full.network_time(), spec.network_time(), "{process}");
    }
    let full = named(json!({ "kind": "psld" }), json!({ "process": { "kind": "edm" } })).filled();
    let full: Value = serde_json::from_str(&full.to_json()).unwrap();
    let published = json!({ "kind": "psld", "beta_min": 8.0, "beta_max": 8.0, "gamma": 0.01, "nu": 4.01, "kappa": 0.04,
                            "decomposition": "lower", "score_matching": "hsm", "numerical_eps": 1e-9 });
    assert_eq!(full["process"], published);
    assert_eq!(full["network"]["process"], json!({ "kind": "edm", "sigma_min": 0.002, "sigma_max": 80.0 }));
    assert_eq!(full["network"]["time"], "sigma");
}

/// A spec says the same after it was written and read, and those without the new fields are written as before.
#[test]
fn specs_survive_json() {
    for (name, fields) in networks() {
        let spec = with_network(&psld(), &fields);
        assert_eq!(ModelSpec::parse(&spec.to_json()).unwrap(), spec, "{name}");
    }
    let old = with_network(&psld(), &json!({})).to_json();
    for field in ["\"time\"", "sigma", "betas", "schedule", "network\":{\"process"] {
        assert!(!old.contains(field), "{field} in {old}");
    }
}

/// The named tables, by their formulas written out again.
#[test]
fn named_tables() {
    let log_snr = |rest: Value, entry: usize, of: usize| {
        let mut process = rest;
        process["kind"] = json!("ddpm");
        let process = spec(process, json!({}), &[1]).process().unwrap();
        assert_eq!(process.entries(), Some(of));
        process.log_snr((entry + 1) as f64 / of as f64)
    };
    let close = |got: f64, betas: Vec<f64>, entry: usize| {
        let kept: f64 = betas[..=entry].iter().map(|beta| 1.0 - beta).product();
        let expected = 0.5 * (kept / (1.0 - kept)).ln();
        assert!((got - expected).abs() < 1e-10, "entry {entry}: {got}, expected {expected}");
    };
    let line = |low: f64, high: f64, n: usize| -> Vec<f64> {
        (0..n).map(|i| low + (high - low) * i as f64 / (n - 1) as f64).collect()
    };
    for entry in [0, 1, 499, 999] {
        close(log_snr(json!({}), entry, 1000), line(1e-4, 0.02, 1000), entry);
        let root = line(0.00085_f64.sqrt(), 0.012_f64.sqrt(), 1000);
        let scaled = root.iter().map(|x| x * x).collect();
        close(log_snr(json!({ "schedule": "scaled_linear" }), entry, 1000), scaled, entry);
        let f = |i: usize| ((i as f64 / 1000.0 + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
        let cosine = (0..1000).map(|i| (1.0 - f(i + 1) / f(i)).min(0.999)).collect();
        close(log_snr(json!({ "schedule": "cosine" }), entry, 1000), cosine, entry);
    }
    let given = json!({ "beta_min": 0.01, "beta_max": 0.3, "entries": 20 });
    close(log_snr(given, 7, 20), line(0.01, 0.3, 20), 7);
    close(log_snr(json!({ "betas": [0.2, 0.1, 0.6] }), 2, 3), vec![0.2, 0.1, 0.6], 2);
}

/// Adaptive samples with steps of their own see the network at times of their own: each is the run of it alone.
#[test]
fn adaptive_samples_of_their_own() {
    for network in
        [json!({ "process": { "kind": "vp" } }), json!({ "process": { "kind": "edm" }, "prediction": "edm" })]
    {
        let spec = with_network(&psld(), &network);
        let model = model(&spec, &plane());
        let rk45 =
            |norm: &str| sampler(&spec, json!({ "sampler": "rk45", "rtol": 1e-3, "error_norm": norm }));
        let (z, progress) = finish(&model, &rk45("sample"), RunOptions { batch: Some(2), ..f64_run(5) });
        let alone: Vec<_> =
            (0..5).map(|i| finish(&model, &rk45("run"), RunOptions { seed: i, ..f64_run(1) })).collect();
        for (i, (state, _)) in alone.iter().enumerate() {
            assert_same(&z[i * 4..][..4], state, &network.to_string());
        }
        assert_eq!(Some(progress.nfe), alone.iter().map(|(_, progress)| progress.nfe).max());
    }
}
