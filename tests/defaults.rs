//! Options whose right value follows from the network or from the published code: whole times, orders of the last steps, strengths
//! that no step bears.

mod support;

use psld::decode::Times;
use psld::plan::{Plan, Row};
use psld::{Model, ModelSpec, Sampler, Status};
use serde_json::{Value, json};
use support::*;

/// A spec whose network is told whole numbers, as the graph of an ONNX file with an int64 input says.
fn whole(process: Value, network: Value) -> ModelSpec {
    let mut spec = spec(process, network, &[2]);
    spec.network.whole_times = true;
    spec
}

fn grid(spec: &ModelSpec, json: Value) -> Vec<f64> {
    sampler(spec, with(json!({ "sampler": "euler" }), json)).plan().unwrap().grid.clone()
}

/// How far the times of a grid are from those of entries, in entries.
fn off_entries(grid: &[f64], entry: impl Fn(f64) -> f64) -> f64 {
    grid.iter().map(|t| (entry(*t) - entry(*t).round()).abs()).fold(0.0, f64::max)
}

/// Named grids of networks that take whole numbers are made of their times; grids and ends that the caller gives are kept.
#[test]
fn grids_of_whole_times() {
    for n in [50, 1000] {
        for schedule in ["linear", "cosine"] {
            let table = json!({ "kind": "ddpm", "schedule": schedule, "entries": n });
            let own = whole(table.clone(), json!({}));
            let entry = |t: f64| t * f64::from(n) - 1.0;
            let driven = whole(psld(), json!({ "process": table }));
            let (path, its) = (driven.process().unwrap(), own.process().unwrap());
            let (first, last) = its.times();
            let seen = |t: f64| entry(its.time_of_log_snr(path.log_snr(t), first, last));
            for name in psld::grid::NAMES {
                for steps in [1, 7, 30, 48] {
                    let named = json!({ "time_grid": name, "steps": steps });
                    let points = grid(&own, named.clone());
                    let place = format!("{schedule} {n}, {name}, {steps} steps");
                    assert_eq!(points.len(), steps + 1);
                    assert!(points.windows(2).all(|pair| pair[0] > pair[1]), "{place}: {points:?}");
                    // A cosine table's start leaves too few entries for 48 steps of 50.
                    if schedule == "linear" || n == 1000 || steps < 48 {
                        assert!(off_entries(&points, entry) < 1e-9, "{place}: {points:?}");
                        let driven = grid(&driven, named);
                        assert!(off_entries(&driven, seen) < 1e-5, "driven, {place}: {driven:?}");
                    }
                    let times = Times::of_model(&own).unwrap();
                    assert_eq!((points[0], points[steps]), (times.start, times.end), "{place}");
                }
            }
        }
    }
    let table = whole(json!({ "kind": "ddpm" }), json!({}));
    let points = json!([0.9005, 0.5003, 0.0107]);
    assert_eq!(json!(grid(&table, json!({ "time_grid": points }))), points);
    let ends =
        grid(&table, json!({ "time_grid": "uniform", "steps": 4, "t_start": 0.7005, "t_end": 0.0107 }));
    assert_eq!((ends[0], ends[4]), (0.7005, 0.0107));
    assert!(off_entries(&ends[1..4], |t| t * 1000.0) < 1e-9, "{ends:?}");
    // There are not that many entries.
    let many = grid(&whole(json!({ "kind": "ddpm", "entries": 20 }), json!({})), json!({ "steps": 40 }));
    assert!(many.len() == 41 && off_entries(&many, |t| t * 20.0) > 0.1);
    // Times of other kinds: thousandths of a flow, forwards and backwards.
    for time in ["t", "reversed"] {
        let network = json!({ "prediction": "velocity", "time": time, "time_scale": 1000.0 });
        let points = grid(&whole(json!({ "kind": "flow" }), network), json!({ "steps": 9 }));
        assert!(off_entries(&points, |t| t * 1000.0) < 1e-9, "{time}: {points:?}");
        assert!(points.windows(2).all(|pair| pair[0] > pair[1]));
    }
    // Others are told the time as it is.
    let plain = spec(json!({ "kind": "ddpm" }), json!({}), &[2]);
    assert!(off_entries(&grid(&plain, json!({ "steps": 9 })), |t| t * 1000.0) > 0.01);
}

/// What it is for: a network that rounds its time errs by the rounding, unless the grid does it first.
#[test]
fn whole_times_spare_the_rounding() {
    let process = json!({ "kind": "ddpm" });
    let (rounding, plain) = (whole(process.clone(), json!({})), spec(process, json!({}), &[2]));
    let exact = model(&plain, &plane());
    let nearest = |t: f64| (t * 1000.0).round_ties_even() / 1000.0;
    let rounded = |spec: &ModelSpec| altered(spec, &plane(), nearest, 1.0);
    let json = json!({ "sampler": "unipc", "steps": 60, "order": 3, "time_grid": "order2.5" });
    let run = |model: &Model, spec: &ModelSpec| finish(model, &sampler(spec, json.clone()), f64_run(16)).0;
    let converged =
        sampler(&plain, json!({ "sampler": "unipc", "steps": 400, "time_grid": "log_snr", "order": 3 }));
    let (solution, _) = finish(&exact, &converged, f64_run(16));
    let rms = |z: &[f64]| {
        let sum: f64 = z.iter().zip(&solution).map(|(a, b)| (a - b) * (a - b)).sum();
        (sum / z.len() as f64).sqrt()
    };
    let (snapped, asked) = (rms(&run(&rounded(&rounding), &rounding)), rms(&run(&rounded(&plain), &plain)));
    assert!(snapped < 0.5 * asked, "{snapped:e} on entries, {asked:e} between them");
}

/// The last update of state 0 in each step: how many network calls it is made of.
fn orders(plan: &Plan) -> Vec<usize> {
    let mut orders = vec![0; plan.steps];
    for row in &plan.rows {
        if let Row::Update(update) = row
            && update.into == 0
            && update.step < plan.steps
        {
            orders[update.step] = update.terms.len() + update.states.len();
        }
    }
    orders
}

/// With `lower_order_final` no step has a higher order than there are calls left, the closing one counted, as in diffusers;
/// `dpmpp` only with fewer than 15 calls.
#[test]
fn lower_orders_in_the_last_steps() {
    let x0 = |process: Value| spec(process, json!({ "prediction": "x0" }), &[2]);
    for (path, spec) in [("vp", x0(json!({ "kind": "vp" }))), ("psld", x0(psld()))] {
        let plan = |json: Value| sampler(&spec, json).plan().unwrap().clone();
        for (denoise, last) in [(true, [3, 2]), (false, [2, 1])] {
            let dpmpp = json!({ "sampler": "dpmpp", "order": 3, "steps": 8, "denoise": denoise });
            assert_eq!(orders(&plan(dpmpp.clone())), [1, 2, 3, 3, 3, 3, 3, 3], "{path}");
            let lowered = with(dpmpp, json!({ "lower_order_final": true }));
            assert_eq!(orders(&plan(lowered))[6..], last, "{path}, denoise = {denoise}");
        }
        // The last step of a lower order is the one that a sampler of that order makes.
        let end = |order: u32, lower: bool| {
            let json = json!({ "sampler": "unipc", "order": order, "steps": 6, "lower_order_final": lower });
            let plan = plan(json);
            let Some(Row::Update(update)) = plan
                .rows
                .iter()
                .rfind(|row| matches!(row, Row::Update(update) if update.into == 0 && update.step == 5))
            else {
                panic!("no update");
            };
            let newest = update.terms.iter().map(|(_, b)| b.max_abs()).fold(0.0, f64::max);
            (update.a, newest)
        };
        assert_ne!(end(3, true), end(3, false), "{path}");
        let long = |sampler: &str, lower: bool| {
            let json = json!({ "sampler": sampler, "order": 3, "nfe": 15, "lower_order_final": lower });
            plan(json).hash()
        };
        assert_eq!(long("dpmpp", true), long("dpmpp", false), "{path}: of few steps only");
        assert_ne!(long("unipc", true), long("unipc", false), "{path}");
    }
}

/// A strength that no step bears is refused at once, however large, and the one that is named instead is taken.
#[test]
fn strengths_past_what_a_step_bears() {
    let psld_of = |beta_max: f64| json!({ "kind": "psld", "beta_min": 4.0, "beta_max": beta_max });
    let cases = [("conjugate", Some("ones")), ("conjugate", Some("identity")), ("cvv", None)];
    for beta_max in [4.0, 12.0] {
        let spec = spec(psld_of(beta_max), json!({}), &[2]);
        for (name, matrix) in cases {
            for lambda in [1e4, 1e5, 1e6, 1e12, 1e300, -1e6, -1e300] {
                let compile = |lambda: f64| {
                    let mut json = json!({ "sampler": name, "steps": 3, "lambda": lambda });
                    if let Some(matrix) = matrix {
                        json["matrix"] = matrix.into();
                    }
                    Sampler::compile(&spec, &options(json), None)
                };
                let error = compile(lambda).unwrap_err();
                assert_eq!(error.status(), Status::InvalidArgument, "{name}: {error}");
                assert!(error.message().starts_with(&format!("lambda = {lambda:?}: ")), "{error}");
                let hint = error.hint_text().unwrap();
                let named = hint.split([' ', ',']).filter_map(|word| word.parse::<f64>().ok());
                let taken = named.fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
                assert!(taken * lambda > 0.0, "{hint}");
                compile(taken).unwrap_or_else(|e| panic!("{name} {matrix:?}, {lambda}: {hint}: {e}"));
            }
        }
    }
}

/// A strength that nobody asked for is not in the way of few steps: what is asked for by name alone works at any number of calls.
#[test]
fn defaults_of_strengths_are_stable() {
    for process in
        [psld(), json!({ "kind": "cld" }), json!({ "kind": "psld", "beta_min": 0.5, "beta_max": 14.0 })]
    {
        let spec = spec(process, json!({}), &[2]);
        for sampler in [json!({ "sampler": "cvv" }), json!({ "sampler": "conjugate", "matrix": "ones" })] {
            for nfe in [5, 8, 12, 20, 30, 60] {
                let options = options(with(sampler.clone(), json!({ "nfe": nfe })));
                Sampler::compile(&spec, &options, None).unwrap_or_else(|e| panic!("{sampler}, {nfe}: {e}"));
            }
        }
    }
}
