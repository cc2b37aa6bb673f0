//! Clipping of the data estimate: static and dynamic, by every sampler, at every call.

mod support;

use psld::network::analytic::{Mixture, MixtureNetwork};
use psld::process::Process;
use psld::spec::What;
use psld::{ModelSpec, Run, RunOptions, Sampler, Status, solver};
use serde_json::{Value, json};
use support::*;

/// Data at one point, which the range of the data does not reach.
fn beyond() -> Mixture {
    mixture(&[1.0], &[&[3.0, -0.25]], &[1e-6])
}

/// Paths and networks of every kind: own and driven, of one block and of several.
fn specs() -> Vec<(&'static str, ModelSpec)> {
    let of = |process: Value, network: Value| spec(process, network, &[2]);
    let ddpm = json!({ "kind": "ddpm" });
    vec![
        ("vp", of(json!({ "kind": "vp" }), json!({}))),
        ("vp v", of(json!({ "kind": "vp" }), json!({ "prediction": "v" }))),
        ("ddpm", of(ddpm.clone(), json!({}))),
        ("ddpm x0", of(ddpm.clone(), json!({ "prediction": "x0" }))),
        ("edm raw", of(json!({ "kind": "edm" }), json!({ "prediction": "edm" }))),
        ("ve score", of(json!({ "kind": "ve" }), json!({ "prediction": "score" }))),
        ("flow", of(json!({ "kind": "flow" }), json!({ "prediction": "velocity" }))),
        ("psld", of(psld(), json!({}))),
        ("psld score", of(psld(), json!({ "prediction": "score" }))),
        ("psld dsm", of(json!({ "kind": "psld", "score_matching": "dsm" }), json!({}))),
        ("cld", of(json!({ "kind": "cld" }), json!({}))),
        ("psld by ddpm", of(psld(), json!({ "process": ddpm }))),
        ("third order", of(third_order(4.0), json!({}))),
    ]
}

fn clips() -> [Value; 3] {
    [json!(true), json!(0.9), json!({ "percentile": 0.75, "max": 1.5 })]
}

/// Samples of all samplers end in the data's range, with room for no rounding. (`clip` used to leave the last call out.)
#[test]
fn samples_are_in_the_range() {
    for (path, spec) in specs() {
        let model = model(&spec, &beyond());
        for name in planned(&spec).into_iter().chain(["rk45"]) {
            for clip in clips() {
                let mut json = with(named(name), json!({ "clip": clip }));
                if name != "rk45" {
                    json["steps"] = json!(12);
                }
                for options in [f64_run(3), RunOptions::new(3)] {
                    let (states, _) = finish(&model, &sampler(&spec, json.clone()), options);
                    let k = spec.process().unwrap().k();
                    let (highest, other) = states
                        .chunks(2 * k)
                        .fold((f64::NEG_INFINITY, 0.0_f64), |(a, b), z| (a.max(z[0]), b.max(z[1].abs())));
                    assert!(highest <= 1.0 && other <= 1.0, "{name} on {path}, {clip}: {highest}, {other}");
                }
            }
        }
    }
}

/// What samplers that are exact for a point make of a clipped one is that point.
#[test]
fn the_clipped_estimate_is_what_samplers_follow() {
    for (path, spec) in specs() {
        let model = model(&spec, &beyond());
        for name in ["gddim", "dpmpp", "unipc", "ancestral"] {
            let json = with(named(name), json!({ "clip": true, "steps": 40, "time_grid": "log_snr" }));
            let (states, _) = finish(&model, &sampler(&spec, json), f64_run(2));
            let d = 2 * spec.process().unwrap().k();
            for z in states.chunks(d) {
                assert!((z[0] - 1.0).abs() < 0.03 && (z[1] + 0.25).abs() < 0.03, "{name} on {path}: {z:?}");
            }
        }
    }
}

/// DDIM with eta 1 and clipping is DDPM with its clipped posterior (arXiv 2006.11239, eq. 6 and 7, with x0 clipped), and
/// with eta 0 DDIM on epsilon of the clipped estimate.
#[test]
fn ddim_takes_the_clipped_posterior() {
    let spec = spec(json!({ "kind": "ddpm", "entries": 20, "beta_max": 0.4 }), json!({}), &[2]);
    let mixture = mixture(&[0.5, 0.5], &[&[1.6, 0.2], &[-0.9, -1.5]], &[0.01, 0.09]);
    let (exact, process) = (model(&spec, &mixture), spec.process().unwrap());
    let network = MixtureNetwork::new(spec.clone(), mixture).unwrap();
    let alpha = |t: f64| process.mean(t)[(0, 0)];
    let grid: Vec<f64> = (1..=20).rev().map(|i| f64::from(i) / 20.0).collect();
    for eta in [0.0, 1.0] {
        let clipped =
            sampler(&spec, json!({ "sampler": "ddim", "eta": eta, "clip": true, "time_grid": grid }));
        let draws: Vec<f64> = (0..19 * 3 * 2).map(|i| libm::sin(f64::from(i * i))).collect();
        let noise = (eta > 0.0).then(|| tensor(&[19, 3, 2], &draws));
        let init: Vec<f64> = (0..6).map(|i| libm::cos(f64::from(i))).collect();
        let options = RunOptions { noise, init: Some(tensor(&[3, 2], &init)), ..f64_run(3) };
        let (got, _) = finish(&exact, &clipped, options);

        let mut z = init;
        let estimate = |z: &[f64], t: f64| -> Vec<f64> {
            let eps = call(&network, z, &[t; 3], 2);
            let (a, s) = (alpha(t), libm::sqrt(1.0 - alpha(t) * alpha(t)));
            z.iter().zip(eps).map(|(z, eps)| ((z - s * eps) / a).clamp(-1.0, 1.0)).collect()
        };
        for (step, pair) in grid.windows(2).enumerate() {
            let x0 = estimate(&z, pair[0]);
            let (bar, before) = (alpha(pair[0]).powi(2), alpha(pair[1]).powi(2));
            let beta = 1.0 - bar / before;
            for i in 0..6 {
                z[i] = if eta == 1.0 {
                    let mean = before.sqrt() * beta / (1.0 - bar) * x0[i]
                        + (1.0 - beta).sqrt() * (1.0 - before) / (1.0 - bar) * z[i];
                    mean + ((1.0 - before) / (1.0 - bar) * beta).sqrt() * draws[step * 6 + i]
                } else {
                    let eps = (z[i] - bar.sqrt() * x0[i]) / (1.0 - bar).sqrt();
                    before.sqrt() * x0[i] + (1.0 - before).sqrt() * eps
                };
            }
        }
        assert_close(&got, &estimate(&z, grid[19]), 1e-9, &format!("eta {eta}"));
    }
}

/// Dynamic thresholding of one estimate, by its definition: percentiles are interpolated as numpy and torch do it.
#[test]
fn percentiles_scale_the_estimate() {
    let shape = [7];
    let values = [2.5, -0.5, 0.25, -3.0, 1.2, 0.0, 0.8];
    let point = mixture(&[1.0], &[&values], &[1e-12]);
    for range in [[-1.0, 1.0], [0.0, 1.0], [-2.0, 5.0]] {
        let text = json!({
            "format": 1, "process": { "kind": "vp" }, "data": { "shape": shape, "range": range },
            "network": { "prediction": "x0" },
        });
        let spec = ModelSpec::parse(&text.to_string()).unwrap();
        let model = model(&spec, &point);
        let (middle, half) = (0.5 * (range[0] + range[1]), 0.5 * (range[1] - range[0]));
        for (percentile, max) in [(0.5, None), (0.9, None), (0.9, Some(1.5)), (1.0, Some(1.0)), (0.01, None)]
        {
            let clip = json!({ "percentile": percentile, "max": max });
            let clipped = sampler(&spec, json!({ "sampler": "ddim", "steps": 3, "clip": clip }));
            let mut run = Run::start(&model, &clipped, RunOptions { previews: true, ..f64_run(1) }).unwrap();
            run.step(1).unwrap();

            let y: Vec<f64> = values.iter().map(|x| (x - middle) / half).collect();
            let mut sorted: Vec<f64> = y.iter().map(|y| y.abs()).collect();
            sorted.sort_by(f64::total_cmp);
            let place: f64 = percentile * 6.0;
            let (low, high) = (sorted[place as usize], sorted[(place.ceil() as usize).min(6)]);
            let s = (low + (place - place.floor()) * (high - low)).clamp(1.0, max.unwrap_or(f64::INFINITY));
            let expected: Vec<f64> = y.iter().map(|y| middle + half * y.clamp(-s, s) / s).collect();
            assert_close(&read(&run, What::X0), &expected, 1e-12, &format!("{clip} of {range:?}"));
        }
    }
}

/// Where no estimate leaves the range, clipping changes nothing: the exact network's epsilon of all blocks is what its data
/// estimate leaves.
#[test]
fn what_is_in_the_range_stays() {
    let inside = mixture(&[0.6, 0.4], &[&[0.3, -0.2], &[-0.4, 0.1]], &[1e-8, 4e-8]);
    for (path, spec) in specs() {
        let model = model(&spec, &inside);
        for name in planned(&spec) {
            let json = with(named(name), json!({ "steps": 8, "time_grid": "log_snr" }));
            let (plain, _) = finish(&model, &sampler(&spec, json.clone()), f64_run(3));
            let clipped = sampler(&spec, with(json, json!({ "clip": true })));
            let (clipped, _) = finish(&model, &clipped, f64_run(3));

            // Few steps of the coarse samplers leave the range, and end in it.
            let k = spec.process().unwrap().k();
            let in_range = |z: &[f64]| z.chunks(2 * k).all(|z| z[..2].iter().all(|x| x.abs() < 0.999));
            if in_range(&plain) && in_range(&clipped) {
                let scale = plain.iter().fold(1.0_f64, |scale, x| scale.max(x.abs()));
                assert_close(&plain, &clipped, 1e-5 * scale, &format!("{name} on {path}"));
            }
        }
    }
}

/// Samples of a run that clips depend on nothing but themselves: batches, neighbours, single steps, saving.
#[test]
fn clipped_samples_stand_alone() {
    for (path, spec) in specs() {
        let model = model_on(&spec, &beyond(), 2);
        for name in ["unipc", "em", "rk45"] {
            let mut json = with(named(name), json!({ "clip": { "percentile": 0.8, "max": 2.0 } }));
            match name {
                "rk45" => json["error_norm"] = json!("sample"),
                _ => json["steps"] = json!(6),
            }
            let sampler = sampler(&spec, json);
            let options = |n: usize, seed| RunOptions { seed, batch: Some(2), ..f64_run(n) };
            let (together, _) = finish(&model, &sampler, options(5, 7));
            let len = together.len() / 5;
            for i in 0..5 {
                let (alone, _) = finish(&model, &sampler, options(1, 7 + i as u64));
                assert_same(&together[i * len..][..len], &alone, &format!("{name} on {path}, sample {i}"));
            }
            let mut run = Run::start(&model, &sampler, options(5, 7)).unwrap();
            run.step(2).unwrap();
            let mut again = Run::load(&model, &sampler, &run.save().unwrap()).unwrap();
            again.step(usize::MAX).unwrap();
            assert_same(&together, &read(&again, What::State), &format!("{name} on {path}, saved"));
        }
    }
}

/// What is not a clip, and what cannot be clipped.
#[test]
fn refused() {
    let spec = spec(json!({ "kind": "vp" }), json!({}), &[2]);
    for clip in [json!(0.0), json!(1.5), json!(-1), json!({ "percentile": 0.9, "max": 0.5 })] {
        let options = options(json!({ "sampler": "dpmpp", "clip": clip }));
        let error = Sampler::compile(&spec, &options, None).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument, "{clip}");
        assert!(error.message().starts_with("clip: "), "{error}");
    }
    for clip in [json!("range"), json!({}), json!({ "percentile": 0.9, "most": 2 }), json!([0.9])] {
        let error = psld::SamplerSpec::from_json(json!({ "clip": clip })).unwrap_err();
        assert_eq!(error.status(), Status::InvalidConfig, "{clip}");
        assert!(error.message().contains("clip"), "{error}");
    }
    for json in [json!({ "encode": true, "clip": true }), json!({ "encode": true, "clip": 0.9 })] {
        let error = Sampler::compile(&spec, &options(json), None).unwrap_err();
        assert_eq!(error.status(), Status::Unsupported);
        assert!(error.message().contains("clip"), "{error}");
    }
    // Said and off is as not said.
    let off = |json: Value| Sampler::compile(&spec, &options(json), None).unwrap().hash();
    assert_eq!(off(json!({ "sampler": "em", "clip": false })), off(json!({ "sampler": "em" })));
    assert!(off(json!({ "encode": true, "clip": false })).len() == 64);
    for info in solver::list().filter(|info| !["auto", "rk45"].contains(&info.name)) {
        assert!(!info.options.contains(&"clip"), "{}: it is an option of all samplers", info.name);
    }
}

/// Networks that predict noise on a table of betas start where an error of theirs is at most 200 times as large in the data
/// estimate: cosine tables move, linear ones keep their end, and what predicts the data keeps it, too.
#[test]
fn cosine_tables_start_where_there_is_signal() {
    let start = |process: Value, network: Value| {
        let spec = spec(process, network, &[2]);
        let times = psld::decode::Times::of_model(&spec).unwrap();
        let grid = sampler(&spec, json!({ "sampler": "euler", "steps": 4 })).plan().unwrap().grid.clone();
        assert_eq!(grid[0], times.start);
        (times.start, times.high, spec)
    };
    let alpha = |process: &Process, t: f64| process.mean(t)[(0, 0)];
    for n in [50, 100, 1000] {
        let table = json!({ "kind": "ddpm", "schedule": "cosine", "entries": n });
        for prediction in ["epsilon", "score"] {
            let (t, high, spec) = start(table.clone(), json!({ "prediction": prediction }));
            let (process, next) = (spec.process().unwrap(), t + 1.0 / f64::from(n));
            assert!((t * f64::from(n) - (t * f64::from(n)).round()).abs() < 1e-9, "{t} is an entry");
            assert!(t < high && alpha(&process, t) >= 0.005 && alpha(&process, next) < 0.005, "{n}: {t}");
            // Driven through phase space, too: at the same signal-to-noise ratio.
            let (driven, _, spec) = start(psld(), json!({ "prediction": prediction, "process": table }));
            assert!((spec.process().unwrap().log_snr(driven) - process.log_snr(t)).abs() < 1e-9);
            // Who asks for the end gets it.
            sampler(&spec, json!({ "t_start": psld::decode::Times::of_model(&spec).unwrap().high }));
        }
        for prediction in ["x0", "v"] {
            let (t, high, _) = start(table.clone(), json!({ "prediction": prediction }));
            assert_eq!((t, high), (1.0, 1.0));
        }
    }
    for schedule in ["linear", "scaled_linear"] {
        assert_eq!(start(json!({ "kind": "ddpm", "schedule": schedule }), json!({})).0, 1.0);
    }
    assert_eq!(start(json!({ "kind": "vp" }), json!({})).0, 1.0);
}

/// A network whose output is off by one per cent, on a cosine table: samples are of the data's size.
#[test]
fn errors_of_the_network_do_not_grow_at_the_end_of_a_table() {
    let unit = mixture(&[1.0], &[&[0.0; 8]], &[1.0]);
    for n in [100, 1000] {
        let table = json!({ "kind": "ddpm", "schedule": "cosine", "entries": n });
        for (process, network) in [(table.clone(), json!({})), (psld(), json!({ "process": table }))] {
            let spec = spec(process, network, &[8]);
            let off = altered(&spec, &unit, |t| t, 1.01);
            for name in ["auto", "unipc", "ancestral", "dpmpp", "gddim"] {
                let json = with(named(name), json!({ "nfe": 20 }));
                let (states, _) = finish(&off, &sampler(&spec, json), f64_run(200));
                let d = 8 * spec.process().unwrap().k();
                let square: f64 = states.chunks(d).flat_map(|z| &z[..8]).map(|x| x * x).sum();
                let std = (square / 1600.0).sqrt();
                assert!((0.6..3.0).contains(&std), "{name}, {n} entries: standard deviation {std}");
            }
        }
    }
}
