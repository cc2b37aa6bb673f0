//! Tuned plans: what they gain, that they are the same however they were made, and what they are refused for.

mod support;

use psld::plan::{Plan, Row};
use psld::tune::{Event, ProbeOptions, Probed, Report, Trial, TuneOptions, Tuned, listed, probe, tune};
use psld::{Model, Run, RunOptions, Sampler, SamplerSpec, Status};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::sync::Arc;
use support::*;

fn setting(sampler: Value) -> TuneOptions {
    TuneOptions {
        samples: 32,
        held_out: 48,
        teacher_steps: 96,
        evaluations: 20,
        ..TuneOptions::new(options(sampler))
    }
}

fn tuned(model: &Model, options: &TuneOptions) -> Tuned {
    tune(model, options, |_| ControlFlow::Continue(())).unwrap()
}

fn plane_model() -> Model {
    model(&spec(psld(), json!({}), &[2]), &plane())
}

/// On Gaussian data the flow is affine in the state and so is every step: the fit is the flow itself, up to the spread
/// of the starts' accuracy.
#[test]
fn a_gaussian_is_learned_exactly() {
    for process in [psld(), json!({ "kind": "vp" }), json!({ "kind": "cld" }), third_order(4.0)] {
        let spec = spec(process.clone(), json!({}), &[2]);
        let model = model(&spec, &mixture(&[1.0], &[&[0.0, 0.0]], &[0.3]));
        let Report { given, tuned, .. } =
            tuned(&model, &setting(json!({ "sampler": "euler", "nfe": 8 }))).report;
        assert!(tuned.mean < 1e-3 && given.mean > 50.0 * tuned.mean, "{process}: {given:?}, {tuned:?}");
    }
}

/// On a mixture, on starts that were not learned from: the grid alone helps, the coefficients more.
#[test]
fn tuning_gains_on_other_starts() {
    let model = plane_model();
    for sampler in ["euler", "heun"] {
        let Report { given, on_grid, tuned, learned, .. } =
            tuned(&model, &setting(json!({ "sampler": sampler, "nfe": 15 }))).report;
        assert!(tuned.mean < 0.5 * given.mean, "{sampler}: {given:?}, {tuned:?}");
        assert!(tuned.mean < on_grid.mean, "{sampler}: {on_grid:?}, {tuned:?}");
        assert!(tuned.median < 3.0 * learned.median, "{sampler}: {learned:?}, {tuned:?}");
    }
}

/// What is reported is what the plan does: measured again, from the file that a user has, by the public way.
#[test]
fn the_report_is_of_the_plan() {
    let model = plane_model();
    let options = setting(json!({ "sampler": "heun", "nfe": 21 }));
    let Tuned { plan, report } = tuned(&model, &options);
    assert_eq!(plan.nfe, 21);
    assert_eq!(plan.rows.iter().filter(|row| matches!(row, Row::Eval(_))).count(), 21);
    // The same distance again, by the public way, from the file that a user has.
    let plan = Plan::parse(&plan.to_json()).unwrap();
    let starts = RunOptions { seed: 32, ..RunOptions::new(48) };
    let ends = |sampler: Sampler| {
        let mut run = Run::start(&model, &Arc::new(sampler), starts.clone()).unwrap();
        run.step(usize::MAX).unwrap();
        let mut out = vec![0.0f64; 96];
        run.read(psld::spec::What::Data, &mut out).unwrap();
        out
    };
    let fine = support::options(json!({ "sampler": "heun", "steps": 96 }));
    let truth = ends(Sampler::compile(model.spec(), &fine, None).unwrap());
    let made = ends(Sampler::from_plan(model.spec(), plan).unwrap());
    let mean = truth
        .chunks(2)
        .zip(made.chunks(2))
        .map(|(a, b)| (((a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)) / 2.0).sqrt())
        .sum::<f64>()
        / 48.0;
    assert!((mean - report.tuned.mean).abs() < 1e-5, "{mean} {report:?}");
}

#[test]
fn an_interrupted_search_goes_on_to_the_same_plan() {
    let model = plane_model();
    let mut options = setting(json!({ "sampler": "euler", "nfe": 9, "seed": 3 }));
    let whole = tuned(&model, &options);
    let mut known: Vec<Trial> = Vec::new();
    let stopped = tune(&model, &options, |event| {
        if let Event::Tried { trial, .. } = event {
            known.push(trial.clone());
        }
        if known.len() == 7 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(stopped.unwrap_err().status(), Status::Cancelled);
    options.known = known;
    let mut tried = 0;
    let resumed = tune(&model, &options, |event| {
        tried += usize::from(matches!(event, Event::Tried { .. }));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!((resumed.plan.to_json(), resumed.report), (whole.plan.to_json(), whole.report));
    assert_eq!(tried, 13, "known grids are not tried again");
}

#[test]
fn a_given_grid_is_kept() {
    let model = plane_model();
    let grid = json!([1.0, 0.5, 0.2, 0.05, 0.001]);
    let Tuned { plan, report } = tuned(&model, &setting(json!({ "sampler": "euler", "time_grid": grid })));
    assert_eq!(json!(plan.grid), grid);
    assert_eq!(report.trials, 0);
    assert!(report.tuned.mean < report.given.mean, "{report:?}");
}

#[test]
fn a_plan_is_bound_to_its_model() {
    let model = plane_model();
    let plan = tuned(&model, &setting(json!({ "sampler": "euler", "nfe": 5 }))).plan;
    let sampler = Arc::new(Sampler::from_plan(model.spec(), plan).unwrap());
    assert!(Run::start(&model, &sampler, RunOptions::new(2)).is_ok());
    let other = support::model(&spec(psld(), json!({}), &[2]), &mixture(&[1.0], &[&[0.0, 0.5]], &[0.3]));
    let error = Run::start(&other, &sampler, RunOptions::new(2)).err().unwrap();
    assert_eq!(error.status(), Status::InvalidConfig);
    assert!(error.message().starts_with("plan: tuned for the model with SHA-256"), "{error}");
}

#[test]
fn what_cannot_be_tuned() {
    let model = plane_model();
    let refused = |options: &TuneOptions| {
        let error = tune(&model, options, |_| ControlFlow::Continue(())).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
        error.to_string()
    };
    let good = || setting(json!({ "sampler": "euler", "nfe": 5 }));
    let messages = [
        refused(&setting(json!({ "sampler": "em", "nfe": 5 }))),
        refused(&setting(json!({ "sampler": "rk45" }))),
        refused(&TuneOptions { samples: 0, ..good() }),
        refused(&TuneOptions { held_out: 0, ..good() }),
        refused(&TuneOptions { evaluations: 0, ..good() }),
        refused(&TuneOptions { teacher_steps: 15, ..good() }),
        refused(&TuneOptions { labels: vec![1], ..good() }),
    ];
    insta::assert_snapshot!(messages.join("\n"));
}

fn probed(model: &Model, sampler: Value) -> Probed {
    probe(model, &ProbeOptions::new(options(sampler)), |_| ControlFlow::Continue(())).unwrap()
}

/// Median over 256 starts, none of them the probe's, of the root mean square distance to the converged solution.
fn errors(model: &Model, all: &[SamplerSpec]) -> Vec<f64> {
    let starts = RunOptions { seed: 1 << 40, ..RunOptions::new(256) };
    let ends = |spec: &SamplerSpec| {
        let sampler = Arc::new(Sampler::compile(model.spec(), spec, None).unwrap());
        let mut run = Run::start(model, &sampler, starts.clone()).unwrap();
        run.step(usize::MAX).unwrap();
        let mut out = vec![0.0f64; 512];
        run.read(psld::spec::What::Data, &mut out).unwrap();
        out
    };
    let truth = ends(&options(json!({ "sampler": "rk45", "rtol": 1e-7, "atol": 1e-7 })));
    let error = |spec: &SamplerSpec| {
        let made = ends(spec);
        let pairs = truth.chunks(2).zip(made.chunks(2));
        let mut each: Vec<f64> =
            pairs.map(|(a, b)| (((a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)) / 2.0).sqrt()).collect();
        each.sort_by(f64::total_cmp);
        each[128]
    };
    all.iter().map(error).collect()
}

/// On starts that it has not seen, what the probe chooses is next to the best that there is, along every kind of path.
#[test]
fn the_probe_finds_the_best() {
    let paths = [psld(), json!({ "kind": "vp" }), json!({ "kind": "edm" }), json!({ "kind": "flow" })];
    for process in paths {
        let model = model(&spec(process.clone(), json!({}), &[2]), &plane());
        for nfe in [6, 12] {
            let asked = json!({ "nfe": nfe });
            let chosen = probed(&model, asked.clone());
            let all = listed(&model, &options(asked)).unwrap();
            assert!(
                all.len() > 20 && all.contains(&chosen.options),
                "{process}, {nfe}: {:?}",
                chosen.options
            );
            let best = errors(&model, &all).into_iter().fold(f64::INFINITY, f64::min);
            let own = errors(&model, std::slice::from_ref(&chosen.options))[0];
            assert!(own <= 1.5 * best, "{process}, {nfe} calls: {own} of {best}, {:?}", chosen.options);
        }
    }
}

#[test]
fn a_probe_keeps_what_is_given() {
    let model = plane_model();
    let found =
        probed(&model, json!({ "sampler": "dpmpp", "nfe": 8, "t_end": 0.01, "clip": true, "seed": 9 }));
    let chosen = serde_json::to_value(&found.options).unwrap();
    assert_eq!(
        (&chosen["sampler"], &chosen["t_end"], &chosen["clip"]),
        (&json!("dpmpp"), &json!(0.01), &json!(true))
    );
    assert!(found.tried.iter().all(|tried| tried.sampler == "dpmpp"));
    let found = probed(&model, json!({ "order": 2, "time_grid": "log_snr", "nfe": 8 }));
    assert!(found.tried.len() > 2 && found.tried.iter().all(|tried| tried.order == Some(2)), "{found:?}");
    let points = json!([1.0, 0.5, 0.2, 0.05, 0.001]);
    let found = probed(&model, json!({ "time_grid": points }));
    assert_eq!(serde_json::to_value(&found.options.time_grid).unwrap(), points);
    // Least first, and those of the last round before the others.
    let last: Vec<_> = found.tried.iter().filter(|tried| tried.starts == found.tried[0].starts).collect();
    assert!(last.windows(2).all(|pair| pair[0].error <= pair[1].error) && last.len() > 1);
    assert_eq!(found.error, found.tried[0].error);
}

/// With nothing given it goes through its short list, every row of which is a sampler.
#[test]
fn a_probe_is_short() {
    for (process, rows) in [(json!({ "kind": "vp" }), 32), (psld(), 12)] {
        let model = model(&spec(process, json!({}), &[2]), &plane());
        let asked = json!({ "nfe": 12 });
        let found = probed(&model, asked.clone());
        assert_eq!(found.tried.len(), rows);
        assert!(listed(&model, &options(asked)).unwrap().len() > 2 * rows);
        // No more calls than each row on the eighth, eight on three eighths, three on all, and the converged solution.
        assert!(found.calls <= 12 * (16 * rows + 8 * 32 + 3 * 80) + 40 * 128, "{found:?}");
    }
}

/// The same question is answered from memory; another one, or another model, is not.
#[test]
fn a_model_keeps_its_answers() {
    let model = plane_model();
    let ask = |model: &Model, sampler: Value| {
        let mut heard = 0;
        let found = probe(model, &ProbeOptions::new(options(sampler)), |probing| {
            heard += 1;
            assert!((0.0..=1.0).contains(&probing.fraction));
            ControlFlow::Continue(())
        });
        (found.unwrap(), heard)
    };
    let (first, heard) = ask(&model, json!({ "nfe": 6 }));
    assert!(heard > 100, "{heard}");
    assert_eq!(ask(&model.clone(), json!({ "nfe": 6 })), (first.clone(), 0));
    assert!(ask(&model, json!({ "nfe": 7 })).1 > 100);
    let (again, heard) = ask(&plane_model(), json!({ "nfe": 6 }));
    assert!(heard > 100);
    assert_eq!(again, first, "it is deterministic");
}

#[test]
fn a_probe_stops_and_refuses() {
    let model = plane_model();
    let mut calls = 0;
    let stopped = probe(&model, &ProbeOptions::new(options(json!({ "nfe": 6 }))), |probing| {
        calls = probing.calls;
        if calls > 500 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(stopped.unwrap_err().status(), Status::Cancelled);
    assert!(calls < 5000, "{calls}");
    let cancel = psld::run::Cancel::new();
    cancel.cancel();
    let stopped = ProbeOptions { cancel: Some(cancel), ..ProbeOptions::new(options(json!({ "nfe": 6 }))) };
    let go = |options: &ProbeOptions| probe(&model, options, |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(go(&stopped).status(), Status::Cancelled);
    let refused = |sampler: Value| go(&ProbeOptions::new(options(sampler))).to_string();
    let messages = [
        refused(json!({ "sampler": "em", "nfe": 5 })),
        refused(json!({ "sampler": "rk45" })),
        refused(json!({ "nfe": 1 })),
        refused(json!({ "order": 7, "nfe": 9 })),
        refused(json!({ "encode": true, "nfe": 9 })),
        go(&ProbeOptions { starts: Some(0), ..ProbeOptions::new(options(json!({ "nfe": 5 }))) }).to_string(),
        go(&ProbeOptions { labels: vec![1], ..ProbeOptions::new(options(json!({ "nfe": 5 }))) }).to_string(),
    ];
    insta::assert_snapshot!(messages.join("\n"));
}
