//! Tuned plans: what they gain, that they are the same however they were made, and what they are refused for.

mod support;

use psld::plan::{Plan, Row};
use psld::tune::{Event, Report, Trial, TuneOptions, Tuned, tune};
use psld::{Model, Run, RunOptions, Sampler, Status};
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
        run.read(psld::run::What::Data, &mut out).unwrap();
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
