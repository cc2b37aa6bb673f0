//! Runs on networks whose answer is known: what results may depend on, and what happens when something fails.

mod support;

use ndarray::{ArrayD, IxDyn};
use psld::array::{Precision, Tensor, ValuesMut};
use psld::network::analytic::{Mixture, MixtureNetwork};
use psld::network::{Backend, Evaluator, Inputs, Network};
use psld::noise::{Purpose, fill_f32, fill_f64};
use psld::run::{Cancel, Inpaint, Samples};
use psld::spec::{Conditioning, GuidanceKind, InpaintMethod, Inpainting, What};
use psld::{Error, Model, ModelSpec, Result, Run, RunOptions, Sampler, Status};
use serde_json::{Value, json};
use std::fmt::Write;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::moments::Gaussian;
use support::*;

/// Every sampler for k = 2.
fn samplers() -> impl Iterator<Item = &'static str> {
    planned(&plane_spec()).into_iter().chain(["rk45"])
}

fn few_steps(name: &str) -> Value {
    match name {
        "rk45" => json!({ "sampler": name, "rtol": 1e-2, "atol": 1e-2 }),
        _ => json!({ "sampler": name, "steps": 5 }),
    }
}

fn plane_spec() -> ModelSpec {
    spec(psld(), json!({}), &[2])
}

fn inpainting(spec: &ModelSpec, options: Value, method: InpaintMethod) -> Arc<Sampler> {
    Arc::new(Sampler::compile(spec, &support::options(options), Some(method)).unwrap())
}

fn resampling(spec: &ModelSpec, options: Value, resample: u32) -> Arc<Sampler> {
    Arc::new(try_resampling(spec, options, resample).unwrap())
}

fn try_resampling(spec: &ModelSpec, options: Value, resample: u32) -> Result<Sampler> {
    let inpaint = Some(Inpainting { resample, ..Inpainting::default() });
    let conditioning = Conditioning { inpaint, ..Conditioning::default() };
    Sampler::compile(spec, &support::options(options), conditioning)
}

/// Samplers that, unless asked for first order, read what earlier steps left.
const MULTISTEP: [&str; 6] = ["gddim", "deis", "dpmpp", "unipc", "sde_dpmpp", "sa_solver"];

/// Image-shaped data, no multiple of any block size; 80 samples are enough for rows with noise to go to several
/// threads.
fn wide() -> (ModelSpec, Mixture) {
    let shape = [3, 17, 13];
    let mean = |i: usize| (0..663).map(|j| ((j * (i + 2)) as f64 * 0.37).sin() * 0.8).collect::<Vec<_>>();
    let means: Vec<_> = (0..3).map(mean).collect();
    let means: Vec<&[f64]> = means.iter().map(Vec::as_slice).collect();
    (spec(psld(), json!({}), &shape), mixture(&[0.2, 0.3, 0.5], &means, &[0.04, 0.01, 0.02]))
}

fn whole<T: psld::array::Element>(
    model: &Model,
    sampler: &Arc<Sampler>,
    options: &RunOptions,
) -> Result<Samples<T>> {
    psld::run::sample(model, sampler, options, What::State, |_| ControlFlow::Continue(()))
}

/// A run computes what its plan says: the interpreter's affine map of initial state and noise.
#[test]
fn the_executor_does_what_the_plan_says() {
    let processes = [
        psld(),
        json!({ "kind": "psld", "score_matching": "dsm" }),
        json!({ "kind": "psld", "decomposition": "upper", "gamma": 0.25, "nu": 4.25 }),
        json!({ "kind": "cld" }),
        json!({ "kind": "vp" }),
        third_order(4.0),
    ];
    let networks = [
        json!({ "predicts": "all" }),
        json!({ "predicts": "momentum" }),
        json!({ "predicts": "position" }),
        json!({ "prediction": "score", "predicts": "all" }),
        json!({ "prediction": "score", "predicts": "momentum" }),
        json!({ "prediction": "x0" }),
        json!({ "prediction": "v" }),
    ];
    for process in &processes {
        for network in &networks {
            let text = json!({
                "format": 1, "process": process, "data": { "shape": [1] }, "network": network
            });
            // Halves are for k = 2, v for k = 1.
            let Ok(spec) = ModelSpec::parse(&text.to_string()) else { continue };
            let law = Gaussian::new(&spec, 0.5, 0.36);
            let model = model(&spec, &mixture(&[2.0], &[&[0.5]], &[0.36]));
            for name in planned(&spec) {
                // The interpreter's kernels cancel at small t.
                let sampler = sampler(&spec, json!({ "sampler": name, "steps": 6, "t_end": 0.1 }));
                let plan = sampler.plan().unwrap();
                let (k, draws) = (plan.k, plan.draws());
                let number = |i: usize| (i as f64 * 0.73 + 0.2).sin();
                let init: Vec<f64> = (0..k).map(number).collect();
                let noise: Vec<f64> = (k..k + draws * k).map(number).collect();
                let run = RunOptions {
                    init: Some(tensor(&[1, k], &init)),
                    noise: Some(tensor(&[draws, 1, k], &noise)),
                    ..f64_run(1)
                };
                let (z, _) = finish(&model, &sampler, run);
                let expected = law.interpret(plan).at(&[init, noise].concat());
                let scale = 1.0 + expected.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
                assert_close(&z, &expected, 1e-8 * scale, &format!("{name}, {process}, {network}"));
            }
        }
    }
}

/// Not the batch size, nor the number of threads, nor the instruction set changes a bit.
#[test]
fn results_do_not_depend_on_batches_and_threads() {
    let (spec, mixture) = wide();
    for name in samplers() {
        let sampler = sampler(&spec, few_steps(name));
        let mut first: Option<(Vec<f32>, Vec<f64>)> = None;
        for (threads, batch) in [(1, None), (2, Some(5)), (3, None), (3, Some(1)), (2, Some(80))] {
            let model = model_on(&spec, &mixture, threads);
            let options = RunOptions { batch, seed: 77, ..RunOptions::new(80) };
            let narrow = whole::<f32>(&model, &sampler, &options).unwrap();
            let options = RunOptions { precision: Precision::F64, ..options };
            let double = whole::<f64>(&model, &sampler, &options).unwrap();
            assert_eq!(narrow.nfe, double.nfe);
            let (narrow, double) = (narrow.values.into_raw_vec_and_offset().0, double.values);
            let double = double.into_raw_vec_and_offset().0;
            let (a, b) = first.get_or_insert_with(|| (narrow.clone(), double.clone()));
            assert!(*a == narrow, "{name}, f32: {threads} threads, batch {batch:?}");
            assert!(*b == double, "{name}, f64: {threads} threads, batch {batch:?}");
        }
    }
}

/// Sample i of seed s is sample 0 of seed s + i, up to the last seed and round it.
#[test]
fn samples_depend_on_their_seed_alone() {
    let (spec, model) = (plane_spec(), model(&plane_spec(), &plane()));
    for name in planned(&spec) {
        let sampler = sampler(&spec, few_steps(name));
        for seed in [0, 41, u64::MAX - 1] {
            let (many, _) = finish(&model, &sampler, RunOptions { seed, ..f64_run(4) });
            for i in 0..4 {
                let one = RunOptions { seed: seed.wrapping_add(i as u64), ..f64_run(1) };
                assert_same(&finish(&model, &sampler, one).0, &many[i * 4..][..4], name);
            }
            let distinct = many.chunks(4).all(|a| many.chunks(4).filter(|b| a == *b).count() == 1);
            assert!(distinct, "{many:?}");
        }
    }
}

/// The step sizes of an adaptive run come from all of its samples, whatever the batches of its network calls.
#[test]
fn an_adaptive_run_is_one_system() {
    let (spec, model) = (plane_spec(), model(&plane_spec(), &plane()));
    let sampler = sampler(&spec, few_steps("rk45"));
    let (together, progress) = finish(&model, &sampler, f64_run(7));
    for batch in [1, 3, 7] {
        let (z, p) = finish(&model, &sampler, RunOptions { batch: Some(batch), ..f64_run(7) });
        assert_same(&z, &together, "batches");
        assert_eq!(p, progress);
    }
    let (alone, _) = finish(&model, &sampler, f64_run(1));
    assert_ne!(alone, together[..4]);
    assert_close(&alone, &together[..4], 0.1, "tolerance");
}

/// With `error_norm: sample` every sample is the run of it alone, to the last bit: steps, estimate and result, whatever its
/// neighbours, the batches and the threads; who has arrived is not called for again.
#[test]
fn adaptive_samples_of_their_own() {
    let (spec, mixture) = (plane_spec(), plane());
    let n = 9;
    // Starts of the prior, and two far from it, which take more steps.
    let init: Vec<f64> =
        (0..4 * n).map(|i| (i as f64 * 0.73).sin() * if i < 8 { 6.0 } else { 0.9 }).collect();
    for tolerance in [1e-2, 1e-5] {
        let rk45 = |norm: &str| {
            sampler(
                &spec,
                json!({ "sampler": "rk45", "rtol": tolerance, "atol": tolerance, "error_norm": norm }),
            )
        };
        let (whole, each) = (rk45("run"), rk45("sample"));
        for precision in [Precision::F64, Precision::F32] {
            let options = |n: usize| RunOptions { precision, previews: true, ..RunOptions::new(n) };
            let alone: Vec<_> = init
                .chunks(4)
                .map(|init| {
                    let options = RunOptions { init: Some(tensor(&[1, 4], init)), ..options(1) };
                    let mut run = Run::start(&model(&spec, &mixture), &whole, options).unwrap();
                    let progress = run.step(usize::MAX).unwrap();
                    (read(&run, What::State), read(&run, What::X0), progress.nfe)
                })
                .collect();
            let most = alone.iter().map(|(.., nfe)| *nfe).max().unwrap();
            assert!(alone.iter().any(|(.., nfe)| *nfe < most), "the samples take different numbers of steps");
            for (threads, batch) in [(1, None), (3, Some(4)), (1, Some(1))] {
                let network = Hooked::before(&spec, |_| Ok(()));
                let calls = network.calls();
                let model = Model::new(Arc::new(network), threads).unwrap();
                let options = RunOptions { init: Some(tensor(&[n, 4], &init)), batch, ..options(n) };
                let mut run = Run::start(&model, &each, options).unwrap();
                let mut last = run.progress();
                while !last.done {
                    let now = run.step(1).unwrap();
                    assert!(now.step == last.step + 1 && now.fraction >= last.fraction, "{now:?}");
                    last = now;
                }
                assert_eq!(last.nfe, most);
                let (z, x0) = (read(&run, What::State), read(&run, What::X0));
                for (i, (state, estimate, _)) in alone.iter().enumerate() {
                    assert_same(&z[i * 4..][..4], state, "state");
                    assert_same(&x0[i * 2..][..2], estimate, "data estimate");
                }
                let made = calls.calls.load(Ordering::Relaxed);
                match batch {
                    None => assert_eq!(made, most),
                    Some(1) => assert_eq!(made, alone.iter().map(|(.., nfe)| nfe).sum::<usize>()),
                    _ => assert!(made < most * n.div_ceil(4)),
                }
            }
        }
    }
}

/// Such a run goes on where it was interrupted, says which sample broke, and keeps to its limit of calls.
#[test]
fn adaptive_samples_of_their_own_under_pressure() {
    let spec = plane_spec();
    let options = json!({ "sampler": "rk45", "rtol": 1e-2, "atol": 1e-2, "error_norm": "sample" });
    let each = sampler(&spec, options.clone());
    let (expected, end) = finish(&model(&spec, &plane()), &each, f64_run(3));
    for call in 0..end.nfe {
        let network = Hooked::before(&spec, move |made| {
            if made == call { Err(Error::new(Status::Cancelled, "terminated")) } else { Ok(()) }
        });
        let mut run = Run::start(&network.model(), &each, f64_run(3)).unwrap();
        assert_eq!(run.step(usize::MAX).unwrap_err().status(), Status::Cancelled);
        assert_eq!(run.step(usize::MAX).unwrap(), end, "call {call}");
        assert_same(&read(&run, What::State), &expected, "resumed");

        let model = Hooked::spoiled(&spec, f64::NAN, 1, call).model();
        let error = Run::start(&model, &each, f64_run(3)).unwrap().step(usize::MAX).unwrap_err();
        assert_eq!(error.status(), Status::NonFinite);
        assert!(error.to_string().contains("sample 1 is not finite"), "call {call}: {error}");
    }
    let mut few = options;
    few["max_nfe"] = json!(20);
    let mut run = Run::start(&model(&spec, &plane()), &sampler(&spec, few), f64_run(3)).unwrap();
    let error = run.step(usize::MAX).unwrap_err();
    assert_eq!((error.status(), run.progress().nfe), (Status::MaxNfe, 14));
}

/// One step at a time, any number, or all at once: the same bits, and the progress that the plan promises.
#[test]
fn stepping_and_progress() {
    let (spec, model) = (plane_spec(), model(&plane_spec(), &plane()));
    for name in samplers() {
        let sampler = sampler(&spec, few_steps(name));
        let (expected, end) = finish(&model, &sampler, f64_run(3));
        assert!(end.done && end.fraction == 1.0, "{name}: {end:?}");
        for stride in [1, 2, 100] {
            let mut run = Run::start(&model, &sampler, f64_run(3)).unwrap();
            let start = run.progress();
            assert_eq!((start.step, start.fraction, start.nfe, start.done, start.t), (0, 0.0, 0, false, 1.0));
            assert_eq!(run.step(0).unwrap(), start, "no step asked for, none done");
            let mut last = start;
            while !run.progress().done {
                let now = run.step(stride).unwrap();
                assert!(now.step > last.step && now.step - last.step <= stride, "{name}: {now:?}");
                assert!(now.nfe > last.nfe && now.fraction >= last.fraction, "{name}: {now:?}");
                assert_eq!(now.of, start.of);
                assert_eq!(now, run.progress());
                if let Some(plan) = sampler.plan() {
                    assert!(now.t <= last.t);
                    assert_eq!(now.fraction, now.step as f64 / now.of as f64);
                    let per_step = sampler.info().nfe_per_step as usize;
                    assert_eq!(now.nfe, (now.step * per_step).min(plan.nfe), "{name}");
                }
                last = now;
            }
            assert_eq!(last, end, "{name}");
            assert_eq!(run.step(5).unwrap(), end, "a complete run stays as it is");
            assert_same(&read(&run, What::State), &expected, name);
        }
        match sampler.plan() {
            Some(plan) => assert_eq!((end.step, end.of, end.nfe), (6, 6, plan.nfe), "{name}"),
            // Two calls to begin, six an attempted step, one to close.
            None => assert_eq!((end.of, end.nfe), (0, 2 + 6 * (end.step - 1) + 1), "{name}"),
        }
        assert_eq!(end.t, 0.001);
    }
}

/// What a whole call reports: the samples of all batches, never going back.
#[test]
fn overall_progress() {
    let (spec, model) = (plane_spec(), model(&plane_spec(), &plane()));
    for name in ["em", "rk45"] {
        let mut seen = Vec::new();
        let options = RunOptions { batch: Some(2), ..RunOptions::new(5) };
        let sampler = sampler(&spec, few_steps(name));
        let samples = psld::run::sample::<f32>(&model, &sampler, &options, What::Data, |overall| {
            seen.push((overall.finished, overall.in_flight, overall.fraction()));
            assert_eq!(overall.n, 5);
            ControlFlow::Continue(())
        });
        let samples = samples.unwrap();
        assert_eq!(samples.values.shape(), [5, 2]);
        assert!(seen.windows(2).all(|w| w[0].2 <= w[1].2), "{seen:?}");
        assert_eq!(seen.last().unwrap().2, 1.0);
        let mut parts: Vec<_> = seen.iter().map(|(finished, size, _)| (*finished, *size)).collect();
        parts.dedup();
        // An adaptive run is one system, whatever the batch.
        let expected = if name == "em" { vec![(0, 2), (2, 2), (4, 1)] } else { vec![(0, 5)] };
        assert_eq!(parts, expected);
        if name == "em" {
            assert_eq!((seen.len(), samples.nfe), (18, 6));
        }
    }
}

/// `nfe` counts all calls, the closing one included, and a run makes just those.
#[test]
fn calls_are_those_promised() {
    let spec = plane_spec();
    for name in planned(&spec) {
        for (denoise, nfe) in [(true, 21), (false, 20)] {
            let network = Hooked::before(&spec, |_| Ok(()));
            let (counter, model) = (network.calls(), network.model());
            let sampler = sampler(&spec, json!({ "sampler": name, "nfe": nfe, "denoise": denoise }));
            let (_, progress) = finish(&model, &sampler, f64_run(2));
            let made = counter.calls.load(Ordering::Relaxed);
            assert_eq!((sampler.plan().unwrap().nfe, progress.nfe, made), (nfe, nfe, nfe), "{name}");
        }
    }
    // An odd budget of a sampler that calls twice a step is not overdrawn.
    assert_eq!(sampler(&spec, json!({ "sampler": "heun", "nfe": 20 })).plan().unwrap().nfe, 19);
    // What was asked for and rounded down is told.
    let asked = |name, nfe| sampler(&spec, json!({ "sampler": name, "nfe": nfe })).nfe_asked();
    assert_eq!((asked("heun", 20), asked("heun", 21), asked("em", 20)), (Some(20), None, None));
    // The default is 30 calls of `auto`.
    let default = sampler(&spec, json!({}));
    assert_eq!(default.hash(), sampler(&spec, json!({ "sampler": "auto", "nfe": 30 })).hash());
    assert_eq!((default.plan().unwrap().nfe, default.nfe_asked()), (30, None));

    let network = Hooked::before(&spec, |_| Ok(()));
    let (counter, model) = (network.calls(), network.model());
    let (_, progress) = finish(&model, &sampler(&spec, few_steps("rk45")), f64_run(2));
    assert_eq!(progress.nfe, counter.calls.load(Ordering::Relaxed));
}

/// Data is the position half of the state; the data estimate is E[x_0 | z] at the last call.
#[test]
fn reading() {
    let spec = spec(psld(), json!({}), &[2]);
    let model = model(&spec, &mixture(&[1.0], &[&[0.5, 0.5]], &[0.36]));
    let law = Gaussian::new(&spec, 0.5, 0.36);
    let sampler = sampler(&spec, json!({ "sampler": "em", "steps": 6, "t_end": 0.05 }));
    let mut run = Run::start(&model, &sampler, RunOptions { previews: true, ..f64_run(2) }).unwrap();
    assert_eq!((run.shape(What::State), run.shape(What::Data)), (vec![2, 4], vec![2, 2]));
    assert_eq!((run.samples(), run.precision()), (2, Precision::F64));
    let early = run.read(What::X0, &mut [0.0; 4]).unwrap_err();
    assert_eq!(early.status(), Status::RunState);
    while !run.progress().done {
        let before = read(&run, What::State);
        let t = run.step(1).unwrap().t;
        let (on_z, offset) = law.x0(t);
        let expected: Vec<f64> = (0..4)
            .map(|i| {
                let (sample, j) = (i / 2 * 4, i % 2);
                on_z[(0, 0)] * before[sample + j] + on_z[(0, 1)] * before[sample + 2 + j] + offset[(0, 0)]
            })
            .collect();
        assert_close(&read(&run, What::X0), &expected, 1e-9, &format!("t = {t}"));
        let state = read(&run, What::State);
        assert_eq!(read(&run, What::Data), [&state[..2], &state[4..6]].concat());
    }
    let mut narrow = [0.0_f32; 4];
    run.read(What::Data, &mut narrow).unwrap();
    assert_eq!(narrow.to_vec(), read(&run, What::Data).iter().map(|x| *x as f32).collect::<Vec<_>>());

    let error = run.read(What::Data, &mut [0.0_f32; 3]).unwrap_err();
    assert_eq!(error.status(), Status::BufferTooSmall);
    insta::assert_snapshot!(error, @"expected a buffer of 4 elements, got 3");
    let error = run.read(What::Data, &mut [0.0_f32; 5]).unwrap_err();
    assert_eq!(error.status(), Status::InvalidArgument, "longer is a mistake too");
    let run = Run::start(&model, &sampler, f64_run(1)).unwrap();
    insta::assert_snapshot!(run.read(What::X0, &mut [0.0_f32; 2]).unwrap_err(), @r#"
    this run keeps no data estimates
    hint: start it with `previews` or `anytime`
    "#);
}

#[test]
fn single_precision_is_close_to_double() {
    let (spec, mixture) = wide();
    let model = model(&spec, &mixture);
    for name in planned(&spec) {
        let sampler = sampler(&spec, json!({ "sampler": name, "nfe": 40 }));
        let (double, _) = finish(&model, &sampler, f64_run(2));
        let (single, _) = finish(&model, &sampler, RunOptions::new(2));
        let far = distance(&single, &double);
        assert!(far < 2e-5 && far > 0.0, "{name}: {far:e}");
    }
}

/// A caller who passes Philox's own draws in the order of the plan gets the run without them, bit for bit.
#[test]
fn noise_of_the_caller_in_plan_order() {
    let spec = plane_spec();
    let model = model(&spec, &plane());
    let (n, len, seed) = (3, 4, 5);
    let image = || Inpaint { image: tensor(&[1, 2], &[0.5, -0.5]), mask: tensor(&[1, 2], &[1.0, 0.0]) };
    use InpaintMethod::{Corrected, Published};
    for (name, method) in [
        ("em", None),
        ("sscs", None),
        ("ancestral", None),
        ("sde_dpmpp", None),
        ("em", Some(Published)),
        ("sscs", Some(Published)),
        ("heun", Some(Published)),
        ("unipc", Some(Published)),
        ("sde_dpmpp", Some(Published)),
        ("em", Some(Corrected)),
        ("ancestral", Some(Corrected)),
        ("heun", Some(Corrected)),
        ("unipc", Some(Corrected)),
    ] {
        let inpaint = method.is_some();
        let sampler = match method {
            Some(method) => inpainting(&spec, few_steps(name), method),
            None => sampler(&spec, few_steps(name)),
        };
        let plan = sampler.plan().unwrap();
        let draws: Vec<_> = plan.rows.iter().flat_map(|row| row.draws()).collect();
        assert_eq!(draws.len(), plan.draws());
        if inpaint {
            // docs/methods.md, "Noise": the known region's draw at the start, then each step solver before known region.
            assert_eq!(draws[0], (Purpose::Inpaint, 0));
            let solver = draws.iter().filter(|d| d.0 == Purpose::Solver).count();
            let expected: Vec<_> = (0..5)
                .flat_map(|step| {
                    let per_step = (solver / 5) as u32;
                    let own = (0..per_step).map(move |i| (Purpose::Solver, step * per_step + i));
                    own.chain([(Purpose::Inpaint, step + 1)])
                })
                .collect();
            assert_eq!(draws[1..], expected, "{name}");
        }
        let philox = |precision| {
            let mut values = vec![0.0; draws.len() * n * len];
            for (out, i) in values.chunks_mut(len).zip(0..) {
                let ((purpose, draw), seed) = (draws[i / n], seed + (i % n) as u64);
                match precision {
                    Precision::F64 => fill_f64(seed, purpose, draw, 0, out),
                    Precision::F32 => {
                        let mut narrow = vec![0.0; len];
                        fill_f32(seed, purpose, draw, 0, &mut narrow);
                        out.iter_mut().zip(narrow).for_each(|(o, x)| *o = f64::from(x));
                    }
                }
            }
            tensor(&[draws.len(), n, len], &values)
        };
        for precision in [Precision::F64, Precision::F32] {
            let own = RunOptions {
                precision,
                seed,
                inpaint: inpaint.then(image),
                batch: Some(2),
                ..RunOptions::new(n)
            };
            let given = RunOptions { noise: Some(philox(precision)), ..own.clone() };
            let own = whole::<f64>(&model, &sampler, &own).unwrap().values;
            let given = whole::<f64>(&model, &sampler, &given).unwrap().values;
            assert!(own == given, "{name}, inpaint {inpaint}, {precision:?}:\n{own}\n{given}");
        }
    }
}

/// The initial state is the prior's factor times the draw (prior, 0).
#[test]
fn prior_draw() {
    let (spec, model) = (plane_spec(), model(&plane_spec(), &plane()));
    let run =
        Run::start(&model, &sampler(&spec, few_steps("em")), RunOptions { seed: 3, ..f64_run(2) }).unwrap();
    let mut expected = [0.0; 8];
    fill_f64(3, Purpose::Prior, 0, 0, &mut expected[..4]);
    fill_f64(4, Purpose::Prior, 0, 0, &mut expected[4..]);
    // Positions have variance 1, momenta M = 1/4.
    for i in [2, 3, 6, 7] {
        expected[i] *= 0.5;
    }
    assert_close(&read(&run, What::State), &expected, 1e-15, "prior");
}

/// Cancelled or out of time before any call, a run can be continued and ends in the same bits.
#[test]
fn interrupted_runs_continue() {
    let spec = plane_spec();
    for name in samplers() {
        let sampler = sampler(&spec, few_steps(name));
        let expected = finish(&model(&spec, &plane()), &sampler, f64_run(3));
        for call in 0..expected.1.nfe {
            // The caller cancels from within a call, which is the latest that one can.
            let cancel = Cancel::new();
            let token = Mutex::new(Some(cancel.clone()));
            let model = Hooked::before(&spec, move |made| {
                if made == call
                    && let Some(token) = token.lock().unwrap().take()
                {
                    token.cancel();
                }
                Ok(())
            })
            .model();
            let options = RunOptions { cancel: Some(cancel.clone()), previews: true, ..f64_run(3) };
            let mut run = Run::start(&model, &sampler, options).unwrap();
            let stopped = run.step(usize::MAX);
            let last = call + 1 == expected.1.nfe;
            match stopped {
                Ok(progress) => {
                    assert!(last && progress.done, "{name}: cancelled in call {call}: {progress:?}")
                }
                Err(error) => {
                    assert_eq!(error.status(), Status::Cancelled, "{name}: {error}");
                    assert_eq!(run.step(1).unwrap_err().status(), Status::Cancelled, "cancelling is sticky");
                    run.resume_with(Some(Duration::ZERO), None);
                    assert_eq!(run.step(1).unwrap_err().status(), Status::DeadlineExceeded);
                    run.resume_with(Some(Duration::MAX), Some(Cancel::new()));
                }
            }
            let end = run.step(usize::MAX).unwrap();
            assert_eq!(end, expected.1, "{name}: cancelled in call {call}");
            assert_same(&read(&run, What::State), &expected.0, name);
        }
    }
}

/// A network that is interrupted in flight says so by its error; the call is made again.
#[test]
fn calls_interrupted_in_flight_are_repeated() {
    let spec = plane_spec();
    for name in samplers() {
        let sampler = sampler(&spec, few_steps(name));
        let (expected, end) = finish(&model(&spec, &plane()), &sampler, f64_run(3));
        for call in 0..end.nfe {
            let network = Hooked::before(&spec, move |made| {
                if made == call { Err(Error::new(Status::Cancelled, "terminated")) } else { Ok(()) }
            });
            let mut run = Run::start(&network.model(), &sampler, f64_run(3)).unwrap();
            assert_eq!(run.step(usize::MAX).unwrap_err().status(), Status::Cancelled);
            assert_eq!(run.step(usize::MAX).unwrap(), end, "{name}, call {call}");
            assert_same(&read(&run, What::State), &expected, name);
        }
    }
}

#[test]
fn interruption_messages() {
    let (spec, model) = (plane_spec(), model(&plane_spec(), &plane()));
    let mut messages = String::new();
    for name in ["em", "rk45"] {
        let sampler = sampler(&spec, few_steps(name));
        let cancel = Cancel::new();
        assert!(!cancel.is_cancelled());
        let options = RunOptions { cancel: Some(cancel.clone()), ..f64_run(1) };
        let mut run = Run::start(&model, &sampler, options).unwrap();
        run.step(2).unwrap();
        cancel.cancel();
        assert!(cancel.is_cancelled());
        writeln!(messages, "{name}: {}", run.step(1).unwrap_err()).unwrap();
        run.resume_with(Some(Duration::ZERO), None);
        writeln!(messages, "{name}: {}", run.step(1).unwrap_err()).unwrap();
    }
    let options = RunOptions { deadline: Some(Duration::ZERO), ..f64_run(1) };
    let error = whole::<f32>(&model, &sampler(&spec, few_steps("em")), &options).unwrap_err();
    writeln!(messages, "sample: {error}").unwrap();
    let stop = |_| ControlFlow::Break(());
    let sampler = sampler(&spec, few_steps("em"));
    let error = psld::run::sample::<f32>(&model, &sampler, &f64_run(1), What::Data, stop).unwrap_err();
    assert_eq!(error.status(), Status::Cancelled);
    writeln!(messages, "observer: {error}").unwrap();
    insta::assert_snapshot!(messages, @r#"
    em: cancelled after step 2
    em: the deadline passed after step 2 of 6
    rk45: cancelled after step 2
    rk45: the deadline passed after step 2
    sample: the deadline passed after step 0 of 6
    observer: cancelled after step 1, with 0 of 1 samples finished before
    "#);

    // A deadline that cannot be reached is none.
    let options = RunOptions { deadline: Some(Duration::MAX), ..f64_run(1) };
    Run::start(&model, &sampler, options).unwrap().step(usize::MAX).unwrap();
}

/// The first value that is not finite stops the run, and the message says where it came from.
#[test]
fn non_finite_values() {
    let spec = plane_spec();
    let mut messages = String::new();
    for (name, value, sample, call) in [
        ("em", f64::NAN, 2, 3),
        ("em", f64::INFINITY, 0, 0),
        ("sscs", f64::NAN, 1, 5),
        ("heun", f64::NAN, 2, 3),
        ("ancestral", f64::NEG_INFINITY, 2, 2),
        ("rk45", f64::NAN, 1, 0),
        ("rk45", f64::NAN, 1, 10),
        // The last stage of an attempted step enters its error estimate only.
        ("rk45", f64::INFINITY, 2, 7),
    ] {
        let sampler = sampler(&spec, few_steps(name));
        let network = Hooked::spoiled(&spec, value, sample, call);
        let mut run = Run::start(&network.model(), &sampler, f64_run(3)).unwrap();
        let error = run.step(usize::MAX).unwrap_err();
        assert_eq!(error.status(), Status::NonFinite, "{name}: {error}");
        writeln!(messages, "{name}, {value} in call {call}: {error}").unwrap();
        let again = run.step(1).unwrap_err();
        assert_eq!(again.status(), Status::RunState);
        run.read(What::State, &mut [0.0; 12]).unwrap();
    }
    insta::assert_snapshot!(messages, @r#"
    em, NaN in call 3: step 4 of 6 (t = 0.16084000000000004): the network's output of sample 2 is not finite
    em, inf in call 0: step 1 of 6 (t = 1): the network's output of sample 0 is not finite
    sscs, NaN in call 5: step 6 of 6 (t = 0.001): the network's output of sample 1 is not finite
    heun, NaN in call 3: step 2 of 6 (t = 0.36063999999999996): the network's output of sample 2 is not finite
    ancestral, -inf in call 2: step 3 of 6 (t = 0.36063999999999996): the network's output of sample 2 is not finite
    rk45, NaN in call 0: attempted step 1 (t = 1): the network's output of sample 1 is not finite
    rk45, NaN in call 10: attempted step 2 (t = 0.7242234242877715): the network's output of sample 1 is not finite
    rk45, inf in call 7: attempted step 1 (t = 0.9128401648683366): the network's output of sample 2 is not finite
    "#);
}

/// Sample numbers in messages are those of the whole call, not of the batch.
#[test]
fn messages_count_samples_over_all_batches() {
    let spec = plane_spec();
    // Six calls a batch of two samples: call 7 is the second one of the second batch.
    let model = Hooked::spoiled(&spec, f64::NAN, 1, 7).model();
    let options = RunOptions { batch: Some(2), ..RunOptions::new(6) };
    let error = whole::<f32>(&model, &sampler(&spec, few_steps("em")), &options).unwrap_err();
    insta::assert_snapshot!(error, @"step 2 of 6 (t = 0.6403600000000002): the network's output of sample 3 is not finite");
}

/// A state that grows out of range is told from a network that fails.
#[test]
fn overflow_of_the_state() {
    let spec = plane_spec();
    let run = RunOptions { init: Some(tensor(&[1, 4], &[0.0, 0.0, 5e37, 0.0])), ..RunOptions::new(1) };
    let model = model(&spec, &plane());
    let sampler = sampler(&spec, json!({ "sampler": "euler", "steps": 2, "time_grid": "uniform" }));
    let error = Run::start(&model, &sampler, run).unwrap().step(usize::MAX).unwrap_err();
    assert_eq!(error.status(), Status::NonFinite);
    insta::assert_snapshot!(error, @"step 1 of 3 (t = 1): the state of sample 0 is not finite");
}

#[test]
fn errors_of_the_network_say_where() {
    let spec = plane_spec();
    let network = Hooked::before(&spec, |made| match made {
        3 => Err(Error::new(Status::RuntimeFailure, "the graph failed")),
        _ => Ok(()),
    });
    let mut run = Run::start(&network.model(), &sampler(&spec, few_steps("em")), f64_run(1)).unwrap();
    let error = run.step(usize::MAX).unwrap_err();
    assert_eq!(error.status(), Status::RuntimeFailure);
    let after = run.step(1).unwrap_err();
    assert_eq!(after.status(), Status::RunState);
    insta::assert_snapshot!(format!("{error}\n{after}"), @r#"
    step 4 of 6 (t = 0.16084000000000004): the graph failed
    the run has failed before and cannot be continued
    "#);
}

#[test]
fn limit_of_calls() {
    let (spec, model) = (plane_spec(), model(&plane_spec(), &plane()));
    let options = json!({ "sampler": "rk45", "rtol": 1e-9, "atol": 1e-9, "max_nfe": 50 });
    let error =
        Run::start(&model, &sampler(&spec, options), f64_run(1)).unwrap().step(usize::MAX).unwrap_err();
    assert_eq!(error.status(), Status::MaxNfe);
    insta::assert_snapshot!(error, @r#"
    rk45: max_nfe = 50 is reached at t = 0.9414707866726713 after 44 network calls
    hint: raise max_nfe, rtol or atol
    "#);
}

#[test]
fn option_errors() {
    let spec = plane_spec();
    let model = model(&spec, &plane());
    let em = sampler(&spec, few_steps("em"));
    let rk45 = sampler(&spec, few_steps("rk45"));
    let painter = inpainting(&spec, few_steps("em"), InpaintMethod::Corrected);
    let zeros = |shape: &[usize]| Tensor::F32(ArrayD::zeros(IxDyn(shape)));
    let filled = |shape: &[usize], x: f32| Tensor::F32(ArrayD::from_elem(IxDyn(shape), x));
    let two = || RunOptions::new(2);
    let paint = |image: Tensor, mask: Tensor| RunOptions { inpaint: Some(Inpaint { image, mask }), ..two() };
    let cases: Vec<(&str, &Arc<Sampler>, RunOptions)> = vec![
        ("no samples", &em, RunOptions::new(0)),
        ("no batch", &em, RunOptions { batch: Some(0), ..two() }),
        ("init's shape", &em, RunOptions { init: Some(zeros(&[2, 2])), ..two() }),
        ("init's number", &em, RunOptions { init: Some(zeros(&[1, 4])), ..two() }),
        ("init's values", &em, RunOptions { init: Some(filled(&[2, 4], f32::NAN)), ..two() }),
        ("noise's draws", &em, RunOptions { noise: Some(zeros(&[6, 2, 4])), ..two() }),
        ("noise's values", &em, RunOptions { noise: Some(filled(&[5, 2, 4], f32::INFINITY)), ..two() }),
        ("noise for rk45", &rk45, RunOptions { noise: Some(zeros(&[0, 2, 4])), ..two() }),
        ("label", &em, RunOptions { labels: Some(vec![0]), ..two() }),
        ("image for em", &em, paint(zeros(&[2, 2]), zeros(&[2, 2]))),
        ("no image", &painter, two()),
        ("image's shape", &painter, paint(zeros(&[2, 3]), zeros(&[2, 2]))),
        ("image's number", &painter, paint(zeros(&[3, 2]), zeros(&[2, 2]))),
        ("image's values", &painter, paint(filled(&[1, 2], f32::NAN), zeros(&[1, 1]))),
        ("mask's shape", &painter, paint(zeros(&[1, 2]), zeros(&[1, 3]))),
        ("mask's values", &painter, paint(zeros(&[1, 2]), filled(&[1, 1], 1.5))),
        ("memory", &em, RunOptions { max_memory: Some(79), ..two() }),
        ("absurd number", &em, RunOptions::new(1 << 60)),
        ("most absurd number", &em, RunOptions::new(usize::MAX)),
    ];
    let mut messages = String::new();
    for (case, sampler, options) in cases {
        let error = Run::start(&model, sampler, options.clone()).err().expect(case);
        writeln!(messages, "{case} [{:?}]: {error}", error.status()).unwrap();
        let status = whole::<f32>(&model, sampler, &options).expect_err(case).status();
        assert_eq!(status, error.status(), "{case}");
    }
    let filters = vec![(r"the limit is \d+ [kMG]B", "the limit is [LIMIT]")];
    insta::with_settings!({ filters => filters }, { insta::assert_snapshot!(messages, @r#"
    no samples [InvalidArgument]: n = 0: expected at least one sample
    no batch [InvalidArgument]: batch = 0: expected at least one sample
    init's shape [ShapeMismatch]: init: expected shape [2, 4], got [2, 2]
    init's number [ShapeMismatch]: init: expected shape [2, 4], got [1, 4]
    init's values [InvalidArgument]: init: a value is not finite
    noise's draws [ShapeMismatch]: noise: expected shape [5, 2, 4], got [6, 2, 4]
    noise's values [InvalidArgument]: noise: a value is not finite
    noise for rk45 [InvalidArgument]: noise: sampler `rk45` draws none
    label [InvalidArgument]: label: the model is not class-conditional (its spec has no label_input)
    image for em [InvalidArgument]: inpaint: the sampler was not compiled for inpainting
    no image [InvalidArgument]: inpaint: the sampler completes images and needs an image and a mask
    image's shape [ShapeMismatch]: inpaint image: expected shape [2 or 1, 2], got [2, 3]
    image's number [ShapeMismatch]: inpaint image: expected shape [2 or 1, 2], got [3, 2]
    image's values [InvalidArgument]: inpaint image: a value is not finite
    mask's shape [ShapeMismatch]: inpaint mask: expected shape [2 or 1, 1 or 2], got [1, 3]
    mask's values [InvalidArgument]: inpaint mask: expected values from 0 (unknown) to 1 (known)
    memory [MemoryLimit]: 2 samples need 1 kB of memory, the limit is [LIMIT]
    hint: take fewer samples at once (n, batch), or raise max_memory
    absurd number [MemoryLimit]: 1152921504606846976 samples need 46116860185 GB of memory, the limit is [LIMIT]
    hint: take fewer samples at once (n, batch), or raise max_memory
    most absurd number [MemoryLimit]: 18446744073709551615 samples need 737869762949 GB of memory, the limit is [LIMIT]
    hint: take fewer samples at once (n, batch), or raise max_memory
    "#) });

    // The smallest limit that suffices: a state of 4, one output of 4 and a data estimate of 2, in f32.
    Run::start(&model, &em, RunOptions { max_memory: Some(80), ..two() }).unwrap();
    let double = RunOptions { max_memory: Some(159), precision: Precision::F64, ..two() };
    assert_eq!(Run::start(&model, &em, double).err().unwrap().status(), Status::MemoryLimit);

    let other = support::spec(json!({ "kind": "cld" }), json!({}), &[2]);
    let error = Run::start(&model, &sampler(&other, few_steps("em")), two()).err().unwrap();
    insta::assert_snapshot!(error, @r#"
    the sampler was compiled for another model
    hint: compile it with the spec of the model that runs it
    "#);
}

/// A labelled run is the run on the mixture of that class; the null class is the whole mixture.
#[test]
fn labels() {
    let network = json!({ "label_input": "y", "classes": 2 });
    let spec = spec(psld(), network, &[2]);
    let labelled = Mixture { labels: vec![0, 1, 0], ..plane() };
    let conditional = model(&spec, &labelled);
    let part = |keep: &[usize]| Mixture {
        weights: keep.iter().map(|i| plane().weights[*i]).collect(),
        means: keep.iter().map(|i| plane().means[*i].clone()).collect(),
        variances: keep.iter().map(|i| plane().variances[*i]).collect(),
        labels: Vec::new(),
    };
    let plain = plane_spec();
    let alone =
        |keep: &[usize]| finish(&model(&plain, &part(keep)), &sampler(&plain, few_steps("em")), f64_run(3)).0;
    let (class0, class1, null) = (alone(&[0, 2]), alone(&[1]), alone(&[0, 1, 2]));
    let sampler = sampler(&spec, few_steps("em"));
    let run = |labels: Option<Vec<i64>>| {
        let options = RunOptions { labels, batch: Some(2), ..f64_run(3) };
        let values = whole::<f64>(&conditional, &sampler, &options).unwrap().values;
        values.into_raw_vec_and_offset().0
    };
    assert_same(&run(Some(vec![0])), &class0, "class 0");
    assert_same(&run(Some(vec![1])), &class1, "class 1");
    assert_same(&run(Some(vec![2])), &null, "the null class");
    assert_same(&run(None), &null, "no label");
    let mixed = [&class1[..4], &null[4..8], &class0[8..]].concat();
    assert_same(&run(Some(vec![1, 2, 0])), &mixed, "a class each");

    let mut messages = String::new();
    for labels in [vec![3], vec![-1], vec![0, 1]] {
        let options = RunOptions { labels: Some(labels), ..f64_run(3) };
        writeln!(messages, "{}", Run::start(&conditional, &sampler, options).err().unwrap()).unwrap();
    }
    insta::assert_snapshot!(messages, @r#"
    label 3: expected 0 to 1, or 2 for the null class
    label -1: expected 0 to 1, or 2 for the null class
    label: expected 1 or 3 labels, got 2
    "#);
    // Refused for its memory, before a label for each sample is made.
    let options = RunOptions { labels: Some(vec![0]), ..RunOptions::new(1 << 60) };
    assert_eq!(whole::<f32>(&conditional, &sampler, &options).unwrap_err().status(), Status::MemoryLimit);
    assert_eq!(Run::start(&conditional, &sampler, options).err().unwrap().status(), Status::MemoryLimit);
}

/// The known region ends at the kernel's mean, position and momentum; the rest is sampled given it.
#[test]
fn inpainting_keeps_the_known_region() {
    let spec = plane_spec();
    let model = model(&spec, &plane());
    let process = spec.process().unwrap();
    let mean = process.mean(1e-3);
    for name in planned(&spec) {
        let painter = inpainting(&spec, json!({ "sampler": name, "nfe": 61 }), InpaintMethod::Published);
        let inpaint = Inpaint { image: tensor(&[1, 2], &[0.125, 0.0]), mask: tensor(&[1, 2], &[1.0, 0.0]) };
        let options = RunOptions { inpaint: Some(inpaint), ..f64_run(64) };
        let (z, _) = finish(&model, &painter, options.clone());
        let (free, _) = finish(&model, &sampler(&spec, json!({ "sampler": name, "nfe": 61 })), f64_run(64));
        for (z, free) in z.chunks(4).zip(free.chunks(4)) {
            assert!(
                (z[0] - 0.125 * mean[(0, 0)]).abs() < 1e-15 && (z[2] - 0.125 * mean[(1, 0)]).abs() < 1e-15
            );
            assert_ne!(z[1], free[1]);
        }
        // Only the component at (0, -1) is near the known half, so the unknown one should be drawn from it; the
        // published method, whose known half lags a step behind, only tends to.
        let near = |z: &[f64]| z.chunks(4).filter(|z| (z[1] + 1.0).abs() < 1.0).count();
        assert!(near(&z) >= near(&free) + 6, "{name}: {} of 64, {} without the image", near(&z), near(&free));

        // One image for all, or one each; one channel for all, or one each.
        let (image, mask) = ([0.125, 0.0].repeat(64), [1.0, 0.0].repeat(64));
        let each = Inpaint { image: tensor(&[64, 2], &image), mask: tensor(&[64, 2], &mask) };
        let each = RunOptions { inpaint: Some(each), batch: Some(7), ..f64_run(64) };
        assert_same(&finish(&model, &painter, each).0, &z, "an image each");
    }
    // A mask of one channel covers them all; a mask of zeros leaves the sampler as it is.
    let painter = inpainting(&spec, few_steps("em"), InpaintMethod::Published);
    let run = |mask: Tensor| {
        let inpaint = Some(Inpaint { image: tensor(&[1, 2], &[0.75, 0.5]), mask });
        finish(&model, &painter, RunOptions { inpaint, ..f64_run(2) }).0
    };
    assert_same(&run(tensor(&[1, 1], &[1.0])), &run(tensor(&[2, 2], &[1.0; 4])), "one channel");
    let (free, _) = finish(&model, &sampler(&spec, few_steps("em")), f64_run(2));
    assert_same(&run(tensor(&[1, 1], &[0.0])), &free, "nothing known");
}

/// The corrected method keeps known pixels to the bit, with a closing step or without, and its unknown part is drawn
/// given them; also where each step is taken several times.
#[test]
fn corrected_inpainting() {
    let spec = plane_spec();
    let model = model(&spec, &plane());
    let image = 0.1_f32;
    let inpaint = Inpaint {
        image: Tensor::F32(ArrayD::from_shape_vec(IxDyn(&[1, 2]), vec![image, 7.0]).unwrap()),
        mask: tensor(&[1, 2], &[1.0, 0.0]),
    };
    let mut table = String::from(
        "of 64 samples near the one component that fits: free, known, each step 5 and 40 times\n",
    );
    for name in planned(&spec) {
        let near = |z: &[f64]| z.chunks(4).filter(|z| (z[1] + 1.0).abs() < 1.0).count();
        let free = sampler(&spec, json!({ "sampler": name, "nfe": 41 }));
        let mut counts = vec![near(&finish(&model, &free, f64_run(64)).0)];
        for (resample, denoise) in [(1, true), (1, false), (5, true), (40, true)] {
            let options = json!({ "sampler": name, "nfe": 40 * resample + 1, "denoise": denoise });
            if resample > 1 && MULTISTEP.contains(&name) {
                let error = try_resampling(&spec, options, resample).unwrap_err();
                assert_eq!(error.status(), Status::Unsupported, "{name}: {error}");
                continue;
            }
            let painter = resampling(&spec, options, resample);
            for precision in [Precision::F32, Precision::F64] {
                let options = RunOptions { inpaint: Some(inpaint.clone()), precision, ..RunOptions::new(64) };
                let (z, progress) = finish(&model, &painter, options);
                assert_eq!(progress.nfe, painter.plan().unwrap().nfe);
                assert!(z.chunks(4).all(|z| z[0] == f64::from(image) && z[2] == 0.0), "{name}: {z:?}");
                if precision == Precision::F64 && denoise {
                    counts.push(near(&z));
                }
            }
        }
        // Taking a step again mixes known and unknown where the step is accurate; errors of one that is not add up.
        if ["sscs", "ancestral"].contains(&name) {
            assert!(counts[3] >= counts[1] + 10, "{name}: {counts:?}");
            writeln!(table, "{name}: {counts:?}").unwrap();
        }
    }
    insta::assert_snapshot!(table);
    // The calls of all repetitions count, and a budget is not overdrawn.
    let plan = |options| resampling(&spec, options, 3).plan().unwrap().clone();
    assert_eq!(plan(json!({ "steps": 5 })).nfe, 16);
    assert_eq!(plan(json!({ "sampler": "heun", "nfe": 20 })).nfe, 19);
    // Repetitions have noise of their own: each draw is used once.
    for name in ["em", "sscs", "heun"] {
        let plan = plan(json!({ "sampler": name, "steps": 4 }));
        for purpose in [Purpose::Solver, Purpose::Inpaint] {
            let draws: Vec<u32> = plan
                .rows
                .iter()
                .flat_map(|row| row.draws())
                .collect::<Vec<_>>()
                .into_iter()
                .filter(|(of, _)| *of == purpose)
                .map(|(_, draw)| draw)
                .collect();
            assert_eq!(draws, (0..draws.len() as u32).collect::<Vec<_>>(), "{name}");
        }
    }
}

/// What is known of one sample does not touch another: with an image and a mask each, every sample is what it is
/// alone.
#[test]
fn masks_of_neighbours() {
    let spec = plane_spec();
    let model = model(&spec, &plane());
    let images = [0.125, 0.0, -0.5, 0.5, 0.75, 0.25];
    let masks = [1.0, 0.0, 0.0, 0.0, 0.5, 1.0];
    for method in [InpaintMethod::Corrected, InpaintMethod::Published] {
        for name in ["em", "heun"] {
            let painter = inpainting(&spec, few_steps(name), method);
            let of = |samples: std::ops::Range<usize>| {
                let at = 2 * samples.start..2 * samples.end;
                let n = samples.len();
                RunOptions {
                    seed: samples.start as u64,
                    batch: Some(2),
                    inpaint: Some(Inpaint {
                        image: tensor(&[n, 2], &images[at.clone()]),
                        mask: tensor(&[n, 2], &masks[at]),
                    }),
                    ..f64_run(n)
                }
            };
            let together = finish(&model, &painter, of(0..3)).0;
            let alone: Vec<f64> = (0..3).flat_map(|i| finish(&model, &painter, of(i..i + 1)).0).collect();
            assert_same(&together, &alone, name);
        }
    }
}

/// Outputs in double precision for a single-precision state are refused, not misread.
#[test]
fn output_precision() {
    let spec = plane_spec();
    let sampler = sampler(&spec, few_steps("em"));
    for (state, output) in [(Precision::F64, Precision::F32), (Precision::F32, Precision::F64)] {
        let model = Hooked { output: Some(output), ..Hooked::before(&spec, |_| Ok(())) }.model();
        let result = Run::start(&model, &sampler, RunOptions { precision: state, ..RunOptions::new(2) });
        match state {
            Precision::F64 => {
                let mut run = result.unwrap();
                run.step(usize::MAX).unwrap();
                let (exact, _) = finish(&support::model(&spec, &plane()), &sampler, f64_run(2));
                assert_close(&read(&run, What::State), &exact, 1e-5, "f32 outputs, f64 state");
            }
            Precision::F32 => {
                let error = result.err().unwrap();
                assert_eq!(error.status(), Status::Unsupported);
                insta::assert_snapshot!(error, @r#"
                the network gives f64 outputs for an f32 state, which no row reads
                hint: run with an f64 state
                "#);
            }
        }
    }
}

/// A net under everything: eight samples of each sampler, rounded. Nothing but a change that is meant to change
/// results may change these.
#[test]
fn outputs() {
    let spec = spec(json!({ "kind": "psld", "gamma": 0.01, "nu": 4.01 }), json!({}), &[2]);
    let model = model(&spec, &plane());
    for name in samplers() {
        let options =
            if name == "rk45" { json!({ "sampler": name }) } else { json!({ "sampler": name, "nfe": 50 }) };
        let (z, progress) = finish(&model, &sampler(&spec, options), f64_run(8));
        let mut table = format!("{} network calls\n", progress.nfe);
        for sample in z.chunks(4) {
            let row: Vec<String> = sample.iter().map(|x| format!("{x:>10.6}")).collect();
            writeln!(table, "{}", row.join(" ")).unwrap();
        }
        insta::assert_snapshot!(format!("outputs-{name}"), table);
    }
}

/// Classes, scales and images of their own, so that all that goes with a sample shows when it does not follow it.
fn individual() -> (Model, Vec<(String, Arc<Sampler>)>, RunOptions) {
    let spec = spec(psld(), json!({ "label_input": "y", "classes": 3 }), &[2]);
    let model = model(&spec, &Mixture { labels: vec![0, 1, 2], ..plane() });
    let inpaint = Inpaint {
        image: tensor(&[4, 2], &[0.5, 0.0, -0.5, 0.0, 0.1, 0.0, -0.2, 0.0]),
        mask: tensor(&[4, 2], &[1.0, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0, 0.0]),
    };
    let options = RunOptions {
        seed: 30,
        labels: Some(vec![0, 1, 2, 3]),
        scales: Some(vec![0.0, 1.0, 2.0, -0.5]),
        inpaint: Some(inpaint),
        previews: true,
        ..f64_run(4)
    };
    let conditioning = Conditioning {
        guidance: Some(GuidanceKind::Cfg.into()),
        inpaint: Some(Inpainting::default()),
        restore: None,
    };
    let compile = |name: &'static str| {
        let options = support::options(json!({ "sampler": name, "steps": 6 }));
        (name.to_owned(), Arc::new(Sampler::compile(&spec, &options, conditioning.clone()).unwrap()))
    };
    (model, planned(&spec).into_iter().map(compile).collect(), options)
}

/// A run that is gathered after `step` steps and goes on to its end: its state, and its data estimate.
fn gathered(
    model: &Model,
    sampler: &Arc<Sampler>,
    options: &RunOptions,
    step: usize,
    (indices, seeds): (&[usize], Option<&[u64]>),
) -> [Vec<f64>; 2] {
    let mut run = Run::start(model, sampler, options.clone()).unwrap();
    run.step(step).unwrap();
    run.gather(indices, seeds).unwrap();
    assert_eq!(run.samples(), indices.len());
    // What is saved after it goes on in the same way.
    let saved = run.save().unwrap();
    let mut again = Run::load_guided(model, sampler, options.guide.as_ref(), &saved).unwrap();
    for run in [&mut run, &mut again] {
        run.step(usize::MAX).unwrap();
    }
    assert_eq!(run.provenance().unwrap()["gathered"], again.provenance().unwrap()["gathered"]);
    let all = [What::State, What::X0];
    for what in all {
        assert_same(&read(&again, what), &read(&run, what), "saved after it was gathered");
    }
    all.map(|what| read(&run, what))
}

/// Reordered samples take all that is theirs with them: they end as without, at another place.
#[test]
fn gathered_samples_stay_what_they_are() {
    let (conditional, guided, options) = individual();
    let spec = plane_spec();
    let plain = model(&spec, &plane());
    // The error norm of a whole run is a sum in the order of the samples, so `rk45` has one for each here.
    let each = json!({ "sampler": "rk45", "rtol": 1e-2, "atol": 1e-2, "error_norm": "sample" });
    let few = json!({ "sampler": "em", "steps": 3 });
    let own = RunOptions { seed: 30, previews: true, batch: Some(3), ..f64_run(4) };
    let mut runs = vec![("rk45".to_owned(), &plain, sampler(&spec, each), own.clone())];
    runs.push(("em in batches".into(), &plain, sampler(&spec, few), own));
    // A guide of its own has classes of its own.
    let (_, by_other) = guided[0].clone();
    let other = RunOptions { guide: Some(conditional.clone()), ..options.clone() };
    runs.push(("by a second network".into(), &conditional, by_other, other));
    runs.extend(guided.into_iter().map(|(name, sampler)| (name, &conditional, sampler, options.clone())));
    for (name, model, sampler, options) in runs {
        let mut run = Run::start(model, &sampler, options.clone()).unwrap();
        let end = run.step(usize::MAX).unwrap().step;
        let plain = [What::State, What::X0].map(|what| read(&run, what));
        for step in [0, 1, end / 2, end - 1, end] {
            // The last one with the seeds that the samples have: draws go on counting.
            for (indices, seeds) in [
                (&[0, 1, 2, 3][..], None),
                (&[2, 0, 3, 1], None),
                (&[3, 3, 0, 3], None),
                (&[3, 1], None),
                (&[1, 2], Some(&[31, 32][..])),
            ] {
                let what = format!("{name}, {indices:?} after step {step}");
                let got = gathered(model, &sampler, &options, step, (indices, seeds));
                // Before the first call there is no data estimate, but there is one at the end.
                for (got, plain) in got.iter().zip(&plain) {
                    let len = plain.len() / 4;
                    let expected: Vec<f64> =
                        indices.iter().flat_map(|i| plain[i * len..][..len].to_vec()).collect();
                    assert_same(got, &expected, &what);
                }
            }
        }
    }
}

/// A new seed is a way of one's own from there on, and only with a sampler that draws.
#[test]
fn copies_part_by_their_seeds() {
    let spec = plane_spec();
    let model = model(&spec, &plane());
    for (name, draws) in [("em", true), ("sde_dpmpp", true), ("heun", false)] {
        let sampler = sampler(&spec, json!({ "sampler": name, "steps": 6 }));
        let mut run = Run::start(&model, &sampler, f64_run(2)).unwrap();
        run.step(3).unwrap();
        let before = read(&run, What::State);
        run.gather(&[1, 1], Some(&[1, 500])).unwrap();
        assert_same(&read(&run, What::State), &[&before[4..], &before[4..]].concat(), name);
        run.step(usize::MAX).unwrap();
        let (z, plain) = (read(&run, What::State), finish(&model, &sampler, f64_run(2)).0);
        assert_same(&z[..4], &plain[4..], name);
        assert_eq!(z[..4] != z[4..], draws, "{name}");
        let provenance = run.provenance().unwrap();
        assert_eq!(provenance["seeds"], json!({ "first": 0, "count": 2 }));
        assert_eq!(provenance["gathered"], json!([{ "step": 3, "indices": [1, 1], "seeds": [1, 500] }]));
    }
}

#[test]
fn what_cannot_be_gathered() {
    let spec = plane_spec();
    let model = model(&spec, &plane());
    let heun = sampler(&spec, json!({ "sampler": "heun", "steps": 3 }));
    let mut run = Run::start(&model, &heun, f64_run(3)).unwrap();
    run.step(1).unwrap();
    let before = run.save().unwrap();
    let mut messages = String::new();
    for (indices, seeds) in
        [(&[][..], None), (&[0; 4], None), (&[0, 1, 3], None), (&[0, 1], Some(&[1][..])), (&[0], Some(&[]))]
    {
        let error = run.gather(indices, seeds).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
        writeln!(messages, "{error}").unwrap();
    }
    assert!(run.save().unwrap() == before, "a refusal changes something");

    let noise = tensor(&[0, 3, 4], &[]);
    let mut given = Run::start(&model, &heun, RunOptions { noise: Some(noise), ..f64_run(3) }).unwrap();
    let error = given.gather(&[0], None).unwrap_err();
    writeln!(messages, "[{:?}] {error}", error.status()).unwrap();

    // Heun's step has two calls; one that is cancelled between them is no place between two steps.
    let cancel = Cancel::new();
    let options = RunOptions { cancel: Some(cancel.clone()), ..f64_run(3) };
    let stopping = Hooked::before(&spec, move |_| {
        cancel.cancel();
        Ok(())
    });
    let mut within = Run::start(&stopping.model(), &heun, options).unwrap();
    assert_eq!(within.step(1).unwrap_err().status(), Status::Cancelled);
    let error = within.gather(&[0], None).unwrap_err();
    writeln!(messages, "[{:?}] {error}", error.status()).unwrap();
    within.resume_with(None, None);
    within.step(1).unwrap();
    within.gather(&[0], None).unwrap();

    let far = RunOptions { init: Some(tensor(&[1, 4], &[0.0, 0.0, 5e37, 0.0])), ..RunOptions::new(1) };
    let mut failed = Run::start(&model, &sampler(&spec, json!({ "steps": 5 })), far).unwrap();
    assert_eq!(failed.step(5).unwrap_err().status(), Status::NonFinite);
    let error = failed.gather(&[0], None).unwrap_err();
    writeln!(messages, "[{:?}] {error}", error.status()).unwrap();
    insta::assert_snapshot!(messages);
}

/// An exact network that counts its calls, may refuse one, and may have its outputs spoiled.
struct Hooked {
    inner: MixtureNetwork,
    hooks: Arc<Hooks>,
    /// The outputs' precision, where it is not the state's.
    output: Option<Precision>,
}

struct Hooks {
    calls: AtomicUsize,
    before: Box<dyn Fn(usize) -> Result<()> + Send + Sync>,
    after: Box<dyn Fn(usize, ValuesMut<'_>) + Send + Sync>,
}

impl Hooked {
    fn build(
        spec: &ModelSpec,
        before: impl Fn(usize) -> Result<()> + Send + Sync + 'static,
        after: impl Fn(usize, ValuesMut<'_>) + Send + Sync + 'static,
    ) -> Self {
        let hooks = Hooks { calls: AtomicUsize::new(0), before: Box::new(before), after: Box::new(after) };
        let inner = MixtureNetwork::new(spec.clone(), plane()).unwrap();
        Self { inner, hooks: Arc::new(hooks), output: None }
    }

    /// `before` gets the number of each call, from 0.
    fn before(spec: &ModelSpec, before: impl Fn(usize) -> Result<()> + Send + Sync + 'static) -> Self {
        Self::build(spec, before, |_, _| {})
    }

    /// Spoils the last value of sample `sample` in call `call`.
    fn spoiled(spec: &ModelSpec, value: f64, sample: usize, call: usize) -> Self {
        Self::build(
            spec,
            |_| Ok(()),
            move |made, out| {
                let last = sample * 4 + 3;
                match out {
                    _ if made != call => {}
                    ValuesMut::F32(out) => out[last] = value as f32,
                    ValuesMut::F64(out) => out[last] = value,
                }
            },
        )
    }

    fn calls(&self) -> Arc<Hooks> {
        self.hooks.clone()
    }

    fn model(self) -> Model {
        Model::new(Arc::new(self), 1).unwrap()
    }
}

impl Network for Hooked {
    fn spec(&self) -> &ModelSpec {
        self.inner.spec()
    }
    fn backend(&self) -> Backend {
        self.inner.backend()
    }
    fn output_precision(&self, state: Precision) -> Precision {
        self.output.unwrap_or(state)
    }
    fn hash(&self) -> Result<String> {
        self.inner.hash()
    }
    fn evaluator(&self) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(HookedEvaluator { inner: self.inner.evaluator()?, hooks: self.hooks.clone() }))
    }
}

struct HookedEvaluator {
    inner: Box<dyn Evaluator>,
    hooks: Arc<Hooks>,
}

impl Evaluator for HookedEvaluator {
    fn evaluate(&mut self, inputs: Inputs<'_>, mut out: ValuesMut<'_>) -> Result<()> {
        let call = self.hooks.calls.fetch_add(1, Ordering::Relaxed);
        (self.hooks.before)(call)?;
        let again = match &mut out {
            ValuesMut::F32(out) => ValuesMut::F32(out),
            ValuesMut::F64(out) => ValuesMut::F64(out),
        };
        self.inner.evaluate(inputs, again)?;
        (self.hooks.after)(call, out);
        Ok(())
    }
}
