//! Plans made by a caller: the splittings of `examples/plans`, a script that shares no code with the library, held to the
//! same numbers as the samplers that are built in.

#![cfg(feature = "cli")]

#[path = "cli/harness.rs"]
mod harness;
mod support;

use harness::Folder;
use psld::plan::{Plan, Row};
use psld::process::Mat;
use psld::{ModelSpec, RunOptions, Sampler};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use support::moments::Gaussian;
use support::*;

/// What the script writes for networks of `spec`.
fn script(spec: &ModelSpec, scheme: &str, options: &str) -> Plan {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spec.json");
    std::fs::write(&file, serde_json::to_string(spec).unwrap()).unwrap();
    let output = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/plans/splittings.py"))
        .arg(scheme)
        .arg(&file)
        .args(options.split_whitespace())
        .output()
        .expect("python3 (see README, `The two commands`) runs the example");
    assert!(output.status.success(), "{scheme}: {}", String::from_utf8_lossy(&output.stderr));
    Plan::parse(std::str::from_utf8(&output.stdout).unwrap()).unwrap()
}

/// Uniform grid from 1 to `t_end`, no closing step.
fn uniform(spec: &ModelSpec, scheme: &str, steps: usize, t_end: f64, more: &str) -> Plan {
    script(spec, scheme, &format!("--steps {steps} --grid uniform --t-end {t_end} --no-denoise {more}"))
}

fn with(mut base: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        base[name] = value.clone();
    }
    base
}

/// What an independent implementation gives, from the starts of `tests/golden.rs`, to the digits given.
#[test]
fn deterministic_integrators() {
    let spec = spec(psld(), json!({}), &[1]);
    let model = model(&spec, &golden_mixture());
    for (scheme, more, calls, expected) in [
        ("NSE", "", 80, ["0.841339294", "-0.046466398", "-1.134463638", "-0.057332615"]),
        ("RSE", "", 40, ["0.841334002", "-0.046470915", "-1.134461664", "-0.057331331"]),
        ("NVV", "", 120, ["0.864765300", "-0.024969062", "-1.190030017", "-0.084149070"]),
        ("RVV", "", 80, ["0.877353536", "-0.031833668", "-1.206987145", "-0.054426214"]),
        ("CSE", "--lambda 0.5", 40, ["0.5616499", "0.17557273", "-0.47818614", "-0.49547208"]),
        ("CVV", "--lambda 0.5", 80, ["0.77777497", "0.10522968", "-0.97208279", "-0.25971838"]),
    ] {
        let plan = uniform(&spec, scheme, 40, 0.1, more);
        assert_eq!((plan.nfe, plan.draws()), (calls, 0), "{scheme}");
        let sampler = Arc::new(Sampler::from_plan(&spec, plan).unwrap());
        let run = RunOptions { init: Some(tensor(&[2, 2], &[0.5, -0.3, -1.0, 0.4])), ..f64_run(2) };
        let (z, _) = finish(&model, &sampler, run);
        for (value, text) in z.iter().zip(expected) {
            let decimals = text.split_once('.').unwrap().1.len();
            assert_eq!(format!("{value:.decimals$}"), text, "{scheme}: {z:?}");
        }
    }
}

/// The table of weak errors there.
#[test]
fn weak_errors() {
    let law = Gaussian::new(&spec(psld(), json!({}), &[1]), 0.5, 0.36);
    for (scheme, more, expected) in [
        ("NOBA", "", ["0.176", "0.106", "0.0585", "0.0307"]),
        ("NBAO", "", ["0.174", "0.105", "0.0580", "0.0304"]),
        ("NOBAB", "", ["0.0358", "0.0181", "0.0089", "0.00448"]),
        ("ROBA", "", ["0.177", "0.107", "0.0588", "0.0309"]),
        ("RBAO", "", ["0.174", "0.106", "0.0583", "0.0306"]),
        ("ROBAB", "", ["0.0387", "0.0180", "0.00862", "0.00421"]),
        ("COBA", "--lambda 0", ["0.345", "0.231", "0.134", "0.0722"]),
        ("COBA", "--lambda 0.5", ["0.348", "0.231", "0.133", "0.0712"]),
    ] {
        for (steps, text) in [25, 50, 100, 200].into_iter().zip(expected) {
            let plan = uniform(law.spec(), scheme, steps, 0.05, more);
            let error = law.propagate(&plan, &law.marginal(1.0)).distance(&law.marginal(0.05));
            let decimals = text.len() - 2;
            assert_eq!(format!("{error:.decimals$}"), text, "{scheme} {more}, {steps} steps");
        }
    }
}

/// All are of order 1, those with Euler parts also where beta depends on time. (Of conjugate parts there, CVV is
/// compared below with the built-in one.)
#[test]
fn orders() {
    let euler = ["NSE", "RSE", "NVV", "NOBA", "NBAO", "NOBAB", "RBAO", "ROBAB"];
    let drifting = with(psld(), json!({ "beta_min": 4.0, "beta_max": 12.0 }));
    // Conjugate parts converge late, and take Python long to integrate.
    let cases = [
        (psld(), &euler[..], 400, 0.05),
        (drifting, &euler[..], 400, 0.05),
        (psld(), &["CSE", "COBA"][..], 120, 0.2),
    ];
    for (process, schemes, steps, tolerance) in cases {
        let law = Gaussian::new(&spec(process.clone(), json!({}), &[1]), 0.5, 0.36);
        for scheme in schemes {
            let error = |steps| {
                let plan = uniform(law.spec(), scheme, steps, 0.05, "");
                law.propagate(&plan, &law.marginal(1.0)).distance(&law.marginal(0.05))
            };
            let (coarse, fine) = (error(steps), error(2 * steps));
            let slope = (coarse / fine).log2();
            println!("{process}, {scheme}: {slope:.3} ({coarse:.2e} -> {fine:.2e})");
            assert!(
                (slope - 1.0).abs() < tolerance,
                "{process}, {scheme}: {slope:.3} ({coarse:e} -> {fine:e})"
            );
        }
    }
}

/// Every coefficient of the schemes that are built in, on processes and networks of all kinds that the script knows.
#[test]
fn the_script_agrees_with_the_samplers_that_are_built_in() {
    for (process, network) in [
        (json!({ "kind": "psld" }), json!({})),
        (with(psld(), json!({ "beta_min": 4.0, "beta_max": 12.0, "kappa": 0.3 })), json!({})),
        (with(psld(), json!({ "decomposition": "upper" })), json!({})),
        (with(psld(), json!({ "score_matching": "dsm" })), json!({})),
        (json!({ "kind": "cld" }), json!({})),
        (json!({ "kind": "cld" }), json!({ "predicts": "all" })),
    ] {
        let spec = spec(process, network, &[1]);
        let mut cases =
            vec![("RVV", json!({ "sampler": "rvv" }), ""), ("ROBA", json!({ "sampler": "roba" }), "")];
        cases.push(("CVV", json!({ "sampler": "cvv", "lambda": 1.5 }), "--lambda 1.5"));
        if spec.process().unwrap().parameters().unwrap().d[(0, 0)] > 0.0 {
            cases.push(("ROBA", json!({ "sampler": "roba", "lambda_s": 3.0 }), "--lambda-s 3"));
        }
        for (scheme, options, more) in cases {
            let ours = sampler(&spec, with(options, json!({ "steps": 7 })));
            let (ours, theirs) = (ours.plan().unwrap(), script(&spec, scheme, &format!("--steps 7 {more}")));
            assert_eq!(
                (ours.nfe, ours.output_blocks, ours.rows.len()),
                (theirs.nfe, theirs.output_blocks, theirs.rows.len())
            );
            let close = |a: &Mat, b: &Mat| (*a - *b).max_abs() <= 1e-11 * (1.0 + a.max_abs());
            for (a, b) in ours.rows.iter().zip(&theirs.rows) {
                match (a, b) {
                    (Row::Eval(a), Row::Eval(b)) => assert_eq!((a.step, a.slot), (b.step, b.slot)),
                    (Row::Update(a), Row::Update(b)) => {
                        assert!(close(&a.a, &b.a), "{scheme}: {a:?}\n{b:?}");
                        assert_eq!((a.terms.len(), a.noise.len()), (b.terms.len(), b.noise.len()));
                        assert!(
                            a.terms.iter().zip(&b.terms).all(|(a, b)| close(&a.1, &b.1)),
                            "{scheme}: {a:?}\n{b:?}"
                        );
                        assert!(
                            a.noise.iter().zip(&b.noise).all(|(a, b)| close(&a.2, &b.2)),
                            "{scheme}: {a:?}\n{b:?}"
                        );
                    }
                    _ => panic!("{scheme}: {a:?}\n{b:?}"),
                }
            }
        }
    }
}

/// The paper's form of lambda_s as far as it is known: the noise of friction over the time in the step's middle. Its best
/// strengths on a Gaussian, and the errors there (found by an independent implementation): quadratic grid, position's covariance.
#[test]
fn noise_by_the_middle_of_a_step() {
    let law = Gaussian::new(&spec(psld(), json!({}), &[1]), 0.5, 0.36);
    let error = |options: &str| {
        let plan = script(law.spec(), "ROBA", &format!("--steps 50 --no-denoise {options}"));
        let end = law.propagate(&plan, &law.marginal(1.0));
        (end.covariance - law.marginal(1e-3).covariance).max_abs()
    };
    let (exact, mid, step) = (error(""), error("--noise-time mid --lambda-s 1.14"), error("--lambda-s 7"));
    println!("{exact} {mid} {step}");
    assert!(mid < 0.6 * exact && step < 0.6 * exact, "{exact} {mid} {step}");
}

fn folder() -> Folder {
    let folder = Folder::new();
    folder.copy("tests/data/models/image.json", "image.json");
    folder.copy("tests/data/models/vector.json", "vector.json");
    let spec = ModelSpec::parse(
        &json!({
            "format": 1, "process": { "kind": "psld" }, "data": { "shape": [3, 4, 4] }, "network": {}
        })
        .to_string(),
    )
    .unwrap();
    let write = |name: &str, text: String| std::fs::write(folder.path(name), text).unwrap();
    write("nobab.json", script(&spec, "NOBAB", "--steps 6").to_json());
    let half = ModelSpec::parse(
        &json!({
            "format": 1, "process": { "kind": "cld" }, "data": { "shape": [3, 4, 4] }, "network": {}
        })
        .to_string(),
    )
    .unwrap();
    write("half.json", script(&half, "RSE", "--steps 6").to_json());
    write("damaged.json", script(&spec, "RSE", "--steps 6").to_json().replace("\"nfe\":7", "\"nfe\":8"));
    write("config.json", r#"{"sampler": {"seed": 5}, "plan": "nobab.json"}"#.into());
    write("both.json", r#"{"sampler": {"seed": 5, "steps": 6}, "plan": "nobab.json"}"#.into());
    folder
}

/// Through the command line: the same samples as the plan gives here, from the option and from a configuration.
#[test]
fn plans_on_the_command_line() {
    let folder = folder();
    let draw = |args: &str| {
        let ran = folder.psld(format!("sample image.json -n 3 --out x.npy --json {args}").split_whitespace());
        let report: Value = serde_json::from_str(&ran.success().stdout).unwrap();
        (report, harness::values(&folder.path("x.npy")).1)
    };
    let (report, x) = draw("--plan nobab.json --seed 5");
    assert_eq!((&report["sampler"], &report["nfe"]), (&json!("plan"), &json!(19)));
    assert_eq!(draw("--config config.json").1, x);
    assert_ne!(draw("--config config.json --seed 6").1, x);

    let text = std::fs::read_to_string(folder.path("nobab.json")).unwrap();
    let plan = Plan::parse(&text).unwrap();
    assert_eq!(report["plan_hash"], json!(plan.hash()));
    let model = psld::Model::from_file(&folder.path("image.json"), psld::ModelOptions::default()).unwrap();
    let sampler = Arc::new(Sampler::from_plan(model.spec(), plan).unwrap());
    let what = psld::spec::What::Data;
    let options = RunOptions { seed: 5, ..RunOptions::new(3) };
    let ours =
        psld::run::sample::<f32>(&model, &sampler, &options, what, |_| std::ops::ControlFlow::Continue(()));
    assert_eq!(ours.unwrap().values.into_raw_vec_and_offset().0, x);

    // Printed again as it is, or for people.
    assert_eq!(folder.psld(["plan", "image.json", "--plan", "nobab.json"]).success().stdout, text);
    let table = folder.psld(["plan", "image.json", "--plan", "nobab.json", "--explain"]).success().stdout;
    assert!(table.starts_with("NOBAB: 6 steps, 19 network calls, 6 noise draws; k = 2"), "{table}");
}

#[test]
fn bad_plans_on_the_command_line() {
    let folder = folder();
    let mut messages = String::new();
    for args in [
        "sample vector.json --plan nobab.json",
        "sample image.json --plan half.json",
        "sample image.json --plan damaged.json",
        "sample image.json --plan missing.json",
        "sample image.json --plan image.json",
        "sample image.json --plan nobab.json --steps 6",
        "sample image.json --plan nobab.json --sampler heun --clip",
        "sample image.json --config both.json",
        "sample image.json --plan nobab.json --inpaint-image a --inpaint-mask b --inpaint-method published",
        "plan vector.json --plan nobab.json",
        "tune image.json --plan nobab.json --out t.json",
    ] {
        let ran = folder.psld(args.split_whitespace());
        messages += &format!("psld {args}\n{ran}\n");
    }
    insta::assert_snapshot!(messages);
}
