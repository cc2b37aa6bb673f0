//! Plans as data: what they look like, what is refused, and that they run as compiled; grids; options.

mod support;

use proptest::prelude::*;
use psld::decode::Times;
use psld::noise::Purpose;
use psld::plan::{Eval, FORMAT, Plan, Row, Update};
use psld::process::{Mat, Process};
use psld::spec::{Conditioning, Grid, InpaintMethod, Inpainting};
use psld::{ModelSpec, Sampler, SamplerSpec, Status, grid, solver};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;
use support::*;

/// The spec of the published CIFAR-10 model, but for the data's shape.
fn published() -> ModelSpec {
    spec(json!({ "kind": "psld", "gamma": 0.01, "nu": 4.01 }), json!({}), &[2])
}

fn vp() -> ModelSpec {
    spec(json!({ "kind": "vp" }), json!({}), &[2])
}

fn four_steps(spec: &ModelSpec, name: &str) -> Plan {
    sampler(spec, json!({ "sampler": name, "steps": 4 })).plan().unwrap().clone()
}

#[test]
fn listed_samplers() {
    let table: String =
        solver::list().map(|info| format!("{}\n", serde_json::to_string(info).unwrap())).collect();
    insta::assert_snapshot!(table);
    for info in solver::list() {
        let spec = if info.name == "ddim" { vp() } else { published() };
        let compiled = Sampler::compile(&spec, &options(json!({ "sampler": info.name })), None).unwrap();
        if info.name != "auto" {
            assert_eq!(compiled.info(), info);
        }
        assert_eq!(compiled.plan().is_none(), info.adaptive);
        if let Some(plan) = compiled.plan() {
            assert_eq!(plan.draws() > 0, info.stochastic, "{}", info.name);
        }
    }
}

/// `auto` is what its table says, option for option; a grid that is given stays.
#[test]
fn auto_takes_what_was_measured() {
    use solver::auto::{Choice, Data, Paths};
    let kinds = [
        (json!({ "kind": "vp" }), Paths::Vp),
        (json!({ "kind": "ddpm" }), Paths::Vp),
        (json!({ "kind": "ddpm", "schedule": "scaled_linear" }), Paths::Vp),
        (json!({ "kind": "ddpm", "schedule": "cosine", "entries": 100 }), Paths::Flow),
        (json!({ "kind": "flow" }), Paths::Flow),
        (json!({ "kind": "edm" }), Paths::Edm),
        (json!({ "kind": "ve" }), Paths::Ve),
        (psld(), Paths::Phase),
    ];
    for (process, paths) in kinds {
        let shapes = [
            (&[2][..], Data::Points),
            (&[16], Data::Sequences),
            (&[7, 16], Data::Sequences),
            (&[3, 4, 4], Data::Images),
        ];
        for (shape, data) in shapes {
            let spec = spec(process.clone(), json!({}), shape);
            for nfe in (2..=40).chain([90]) {
                let auto = sampler(&spec, json!({ "sampler": "auto", "nfe": nfe }));
                let of = |row: &&Choice| (row.paths, row.data) == (paths, data) && nfe <= row.up_to;
                let row = solver::auto::table().iter().find(of).unwrap();
                let order = row.order.min(nfe - 1);
                let explicit =
                    json!({ "sampler": row.sampler, "order": order, "time_grid": row.grid, "nfe": nfe });
                let explicit = sampler(&spec, explicit);
                assert_eq!(auto.hash(), explicit.hash(), "{process}, {nfe} calls");
                assert_eq!((auto.info(), auto.options()), (explicit.info(), explicit.options()));
                assert_eq!(auto.plan().unwrap().nfe, nfe as usize);
            }
        }
    }
    let grid = json!([1.0, 0.5, 0.25, 0.001]);
    let given = sampler(&published(), json!({ "sampler": "auto", "time_grid": grid }));
    assert_eq!(json!(given.plan().unwrap().grid), grid);
    let refused = options(json!({ "sampler": "auto", "order": 2 }));
    assert!(Sampler::compile(&published(), &refused, None).is_err());
}

/// Each sampler at four steps, as JSON and as the table for people.
#[test]
fn plans_of_four_steps() {
    let mut cases: Vec<_> =
        planned(&published()).into_iter().map(|name| (format!("psld-{name}"), published(), name)).collect();
    for kind in ["vp", "cld"] {
        cases.push((format!("{kind}-em"), spec(json!({ "kind": kind }), json!({}), &[2]), "em"));
    }
    for name in ["ddim", "dpmpp", "unipc"] {
        cases.push((format!("vp-{name}"), vp(), name));
    }
    for (case, spec, name) in cases {
        let plan = four_steps(&spec, name);
        insta::assert_snapshot!(format!("{case}.json"), plan.to_json());
        insta::assert_snapshot!(format!("{case}.txt"), plan.explain());
    }
    let clipped = sampler(&published(), json!({ "sampler": "dpmpp", "steps": 2, "clip": true }));
    insta::assert_snapshot!("psld-dpmpp-clip.json", clipped.plan().unwrap().to_json());
    insta::assert_snapshot!("psld-dpmpp-clip.txt", clipped.plan().unwrap().explain());
    let options = options(json!({ "sampler": "em", "steps": 4 }));
    let painter = Sampler::compile(&published(), &options, Some(InpaintMethod::Published)).unwrap();
    insta::assert_snapshot!("psld-em-inpaint.json", painter.plan().unwrap().to_json());
    insta::assert_snapshot!("psld-em-inpaint.txt", painter.plan().unwrap().explain());
    for (case, method, resample) in
        [("corrected", InpaintMethod::Corrected, 1), ("resampled", InpaintMethod::Corrected, 2)]
    {
        let painter = Sampler::compile(&published(), &options, painting(method, resample)).unwrap();
        insta::assert_snapshot!(format!("psld-em-inpaint-{case}.txt"), painter.plan().unwrap().explain());
    }
}

fn painting(method: InpaintMethod, resample: u32) -> Conditioning {
    Conditioning { inpaint: Some(Inpainting { method, resample }), ..Conditioning::default() }
}

/// JSON keeps every bit: a plan that is read back is the same, hash included, and runs to the same bits.
#[test]
fn plans_survive_json() {
    let mixture = plane();
    let specs = [
        published(),
        spec(json!({ "kind": "vp" }), json!({}), &[2]),
        spec(json!({ "kind": "cld" }), json!({ "prediction": "x0" }), &[2]),
        spec(third_order(4.0), json!({}), &[2]),
    ];
    for spec in &specs {
        for name in planned(spec).into_iter().chain(["dpmpp clip=true"]) {
            // Quadratic and logarithmic grids have times with all their bits in use.
            let compiled = sampler(spec, with(named(name), json!({ "steps": 7, "time_grid": "log_snr" })));
            let plan = compiled.plan().unwrap();
            let text = plan.to_json();
            let again = Plan::parse(&text).unwrap();
            assert_eq!(&again, plan);
            assert_eq!((again.to_json(), again.hash()), (text, plan.hash()));
            assert_eq!(compiled.hash(), plan.hash());

            let model = model(spec, &mixture);
            let (expected, progress) = finish(&model, &compiled, f64_run(3));
            let parsed = Arc::new(Sampler::from_plan(spec, again).unwrap());
            assert_eq!((parsed.info().name, parsed.info().adaptive), ("plan", false));
            let (z, p) = finish(&model, &parsed, f64_run(3));
            assert_same(&z, &expected, name);
            assert_eq!(p, progress);
        }
    }
    // Inpainting too.
    let options = options(json!({ "sampler": "em", "steps": 4 }));
    for method in [InpaintMethod::Published, InpaintMethod::Corrected] {
        let painter = Sampler::compile(&published(), &options, Some(method)).unwrap();
        let plan = painter.plan().unwrap();
        assert_eq!(&Plan::parse(&plan.to_json()).unwrap(), plan);
    }
}

#[test]
fn hashes() {
    let plan = four_steps(&published(), "em");
    insta::assert_snapshot!(plan.hash(), @"bf0e309947740dc632f1a6cec6d3d2dd39d764b5195111a09d0e1f6d399272c5");
    assert_eq!(plan.hash(), four_steps(&published(), "em").hash());
    let mut other = plan.clone();
    if let Row::Update(row) = &mut other.rows[1] {
        row.a[(0, 0)] = row.a[(0, 0)].next_up();
    }
    assert_ne!(plan.hash(), other.hash());
    // An adaptive sampler's hash is that of its options and the process.
    let hash = |spec: &ModelSpec, rtol: f64| sampler(spec, json!({ "sampler": "rk45", "rtol": rtol })).hash();
    insta::assert_snapshot!(hash(&published(), 1e-4), @"f91d9d3ea9fa61bf40a595ed73147179c63533d8a2d75896c3c33707828655c7");
    assert_ne!(hash(&published(), 1e-4), hash(&published(), 1e-5));
    let each = json!({ "sampler": "rk45", "error_norm": "sample" });
    assert_ne!(sampler(&published(), each).hash(), hash(&published(), 1e-4));
    assert_ne!(hash(&published(), 1e-4), hash(&spec(json!({ "kind": "cld" }), json!({}), &[2]), 1e-4));
}

/// Every rule of `Plan::check`, by a plan that breaks it.
#[test]
fn refused_plans() {
    let options = options(json!({ "sampler": "heun", "steps": 2, "denoise": false }));
    let compiled = Sampler::compile(&published(), &options, Some(InpaintMethod::Published)).unwrap();
    let good: Value = serde_json::from_str(&compiled.plan().unwrap().to_json()).unwrap();
    Plan::parse(&good.to_string()).unwrap();
    let zeros = |rows: usize, cols: usize| json!(vec![vec![0.0; cols]; rows]);
    // Rows: 0 map, 1 eval, 2 update into state 1, 3 eval, 4 update, 5 map, ...
    let cases: Vec<(&str, Value)> = vec![
        ("/format", json!(2)),
        ("/k", json!(0)),
        ("/k", json!(9)),
        ("/output_blocks", json!(0)),
        ("/output_blocks", json!(3)),
        ("/states", json!(0)),
        ("/states", json!(65)),
        ("/states", json!(1)),
        ("/slots", json!(1)),
        ("/slots", json!(1_000_000)),
        ("/nfe", json!(3)),
        ("/rows", json!([])),
        ("/rows/1/network", json!(1)),
        ("/rows/1/from", json!(1)),
        ("/rows/1/from", json!(7)),
        ("/rows/1/slot", json!(2)),
        ("/rows/1/t", json!(0.0)),
        ("/rows/1/t", json!(1.5)),
        ("/rows/1/step", json!(1)),
        ("/rows/3/step", json!(2)),
        ("/rows/0/step", json!(1)),
        ("/rows/7/step", json!(0)),
        ("/rows/6/step", json!(u64::MAX)),
        ("/rows/2/from", json!(1)),
        ("/rows/2/into", json!(2)),
        ("/rows/2/A", zeros(3, 3)),
        ("/rows/2/A", zeros(2, 1)),
        ("/rows/2/A", json!([[1.0, 2.0], [3.0]])),
        ("/rows/2/A", zeros(9, 9)),
        ("/rows/2/A/0/0", json!(null)),
        ("/rows/2/terms/0/0", json!(1)),
        ("/rows/2/terms/0/0", json!(5)),
        ("/rows/2/terms/0/1", zeros(2, 1)),
        ("/rows/2/noise", json!([["solver", 0, zeros(2, 1)]])),
        ("/rows/2/noise", json!([["thermal", 0, zeros(2, 2)]])),
        ("/rows/0/into", json!(1)),
        ("/rows/0/mean", zeros(2, 2)),
        ("/rows/0/noise/2", zeros(1, 2)),
        ("/rows/0/kind", json!("blur")),
        ("/rows/0/kind", json!("clip")),
        ("/rows/4/states", json!([[1, zeros(2, 1)]])),
        ("/rows/4/states", json!([[7, zeros(2, 2)]])),
        ("/rows/2/states", json!([[1, zeros(2, 2)]])),
        ("/rows/4/states", json!([[0, zeros(2, 2)]])),
        ("/rows/0/row", json!("filter")),
        ("/rows/0/extra", json!(1)),
        ("/rows/1/extra", json!(1)),
        ("/rows/2/extra", json!(1)),
        ("/extra", json!(1)),
    ];
    let mut messages = String::new();
    for (at, value) in cases {
        let mut bad = good.clone();
        match bad.pointer_mut(at) {
            Some(place) => *place = value.clone(),
            None => {
                let (parent, name) = at.rsplit_once('/').unwrap();
                bad.pointer_mut(parent).unwrap()[name] = value.clone();
            }
        }
        let result = Plan::parse(&bad.to_string());
        let shown = if at == "/rows" { json!([]) } else { value };
        match result {
            Ok(_) => panic!("accepted: {at} = {shown}"),
            Err(error) => {
                assert_eq!(error.status(), Status::InvalidConfig);
                writeln!(messages, "{at} = {shown}: {error}").unwrap();
            }
        }
    }
    insta::assert_snapshot!(messages, @r#"
    /format = 2: plan: format 2 is not known to this version, which reads 1
    /k = 0: plan: k = 0, output_blocks = 2: expected 1 <= output_blocks <= k <= 4
    /k = 9: plan: k = 9, output_blocks = 2: expected 1 <= output_blocks <= k <= 4
    /output_blocks = 0: plan: k = 2, output_blocks = 0: expected 1 <= output_blocks <= k <= 4
    /output_blocks = 3: plan: k = 2, output_blocks = 3: expected 1 <= output_blocks <= k <= 4
    /states = 0: plan: 0 states and 2 slots: expected 1 to 64 and at most 64
    /states = 65: plan: 65 states and 2 slots: expected 1 to 64 and at most 64
    /states = 1: plan: row 2: there is no state 1; the plan has 1, counted from 0
    /slots = 1: plan: row 3: there is no slot 1; the plan has 1, counted from 0
    /slots = 1000000: plan: 2 states and 1000000 slots: expected 1 to 64 and at most 64
    /nfe = 3: plan: nfe = 3, but the rows call the network 4 times
    /rows = []: plan: nfe = 4, but the rows call the network 0 times
    /rows/1/network = 1: plan: row 2: slot 0 holds the guide's output
    /rows/1/from = 1: plan: row 1: state 1 is read before it is written
    /rows/1/from = 7: plan: row 1: there is no state 7; the plan has 2, counted from 0
    /rows/1/slot = 2: plan: row 1: there is no slot 2; the plan has 2, counted from 0
    /rows/1/t = 0.0: plan: row 1: t = 0: expected 0 < t <= 1
    /rows/1/t = 1.5: plan: row 1: t = 1.5: expected 0 < t <= 1
    /rows/1/step = 1: plan: row 2: step 0 after step 1: steps count from 0, one by one
    /rows/3/step = 2: plan: row 3: step 2 after step 0: steps count from 0, one by one
    /rows/0/step = 1: plan: row 0: step 1 after step 0: steps count from 0, one by one
    /rows/7/step = 0: plan: row 7: step 0 after step 1: steps count from 0, one by one
    /rows/6/step = 18446744073709551615: plan: row 6: step 18446744073709551615 after step 0: steps count from 0, one by one
    /rows/2/from = 1: plan: row 2: state 1 is read before it is written
    /rows/2/into = 2: plan: row 2: there is no state 2; the plan has 2, counted from 0
    /rows/2/A = [[0.0,0.0,0.0],[0.0,0.0,0.0],[0.0,0.0,0.0]]: plan: row 2: A is 3 x 3, expected 2 x 2
    /rows/2/A = [[0.0],[0.0]]: plan: row 2: A is 2 x 1, expected 2 x 2
    /rows/2/A = [[1.0,2.0],[3.0]]: plan: rows[2]: the rows of a matrix must have equal lengths
    /rows/2/A = [[0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0],[0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0],[0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0],[0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0],[0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0],[0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0],[0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0],[0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0],[0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0]]: plan: rows[2]: a matrix has 1 to 4 rows and columns, got 9 x 9
    /rows/2/A/0/0 = null: plan: rows[2]: expected a number, got null
    /rows/2/terms/0/0 = 1: plan: row 2: slot 1 is read before it is written
    /rows/2/terms/0/0 = 5: plan: row 2: there is no slot 5; the plan has 2, counted from 0
    /rows/2/terms/0/1 = [[0.0],[0.0]]: plan: row 2: B is 2 x 1, expected 2 x 2
    /rows/2/noise = [["solver",0,[[0.0],[0.0]]]]: plan: row 2: C is 2 x 1, expected 2 x 2
    /rows/2/noise = [["thermal",0,[[0.0,0.0],[0.0,0.0]]]]: plan: rows[2]: expected one of prior, solver, inpaint, probe, got "thermal"
    /rows/0/into = 1: plan: row 0: state 1 is read before it is written
    /rows/0/mean = [[0.0,0.0],[0.0,0.0]]: plan: row 0: mean is 2 x 2, expected 2 x 1
    /rows/0/noise/2 = [[0.0,0.0]]: plan: row 0: C is 1 x 2, expected 2 x 2
    /rows/0/kind = "blur": plan: rows[0].kind: expected one of replace, clip, threshold, cfg, gradient, restore, consistent, got "blur"
    /rows/0/kind = "clip": plan: rows[0]: unknown field `t`
    hint: known: low, high
    /rows/4/states = [[1,[[0.0],[0.0]]]]: plan: row 4: A is 2 x 1, expected 2 x 2
    /rows/4/states = [[7,[[0.0,0.0],[0.0,0.0]]]]: plan: row 4: there is no state 7; the plan has 2, counted from 0
    /rows/2/states = [[1,[[0.0,0.0],[0.0,0.0]]]]: plan: row 2: state 1 is read before it is written
    /rows/4/states = [[0,[[0.0,0.0],[0.0,0.0]]]]: plan: row 4: state 0 is among `states` and written: it can be `from`
    /rows/0/row = "filter": plan: rows[0].row: expected one of eval, update, map, got "filter"
    /rows/0/extra = 1: plan: rows[0]: unknown field `extra`
    hint: known: t, mean, noise
    /rows/1/extra = 1: plan: rows[1]: unknown field `extra`
    hint: known: step, network, from, t, slot, input
    /rows/2/extra = 1: plan: rows[2]: unknown field `extra`
    hint: known: step, from, A, states, terms, noise, into
    /extra = 1: plan: unknown field `extra`
    hint: known: format, sampler, model, restore, k, output_blocks, states, slots, steps, nfe, grid, rows
    "#);
    let mut empty = good.clone();
    (empty["rows"], empty["nfe"]) = (json!([]), json!(0));
    insta::assert_snapshot!(Plan::parse(&empty.to_string()).unwrap_err(), @"plan: there are no rows");
    // A coefficient that JSON cannot say.
    let mut plan = compiled.plan().unwrap().clone();
    if let Row::Update(row) = &mut plan.rows[2] {
        row.a[(1, 0)] = f64::NAN;
    }
    insta::assert_snapshot!(plan.check().unwrap_err(), @"plan: row 2: A is not finite");
    let small = four_steps(&spec(json!({ "kind": "vp" }), json!({}), &[2]), "em");
    insta::assert_snapshot!(Sampler::from_plan(&published(), small).unwrap_err(), @"plan: made for k = 1 and 1 output block(s), the model has k = 2 and 2");
}

/// SSCS row by row, as the paper states it, with no row composed with another.
fn uncomposed_sscs(process: &Process, times: &[f64]) -> Plan {
    let reversed = process.time_reversed_ou().unwrap();
    let k = process.k();
    let mut rows = Vec::new();
    let mut draw = 0;
    let inverse_s = process.prior_covariance().inverse().unwrap();
    for (step, pair) in times.windows(2).enumerate() {
        let (t, u) = (pair[0], pair[1]);
        let middle = 0.5 * (t + u);
        let mut half = |rows: &mut Vec<Row>, t: f64, u: f64, from: usize, into: usize| {
            let covariance = reversed.added_noise(u, t) + Mat::identity(k) * process.numerical_eps();
            let c = covariance.cholesky_lower().unwrap();
            let (a, noise) = (reversed.transition(u, t), vec![(Purpose::Solver, draw, c)]);
            rows.push(Row::Update(Update { step, from, a, states: vec![], terms: vec![], noise, into }));
            draw += 1;
        };
        half(&mut rows, t, middle, 0, 1);
        rows.push(Row::Eval(Eval { step, network: 0, from: 1, t, slot: 0, input: None }));
        let pull = process.diffusion(t) * (t - u);
        rows.push(Row::Update(Update {
            step,
            from: 1,
            a: Mat::identity(k) + pull * inverse_s,
            states: vec![],
            terms: vec![(0, pull * process.score_from_eps(t))],
            noise: vec![],
            into: 2,
        }));
        half(&mut rows, middle, u, 2, 0);
    }
    let steps = times.len() - 1;
    Plan {
        format: FORMAT,
        sampler: "by hand".into(),
        model: None,
        restore: None,
        k,
        output_blocks: k,
        states: 3,
        slots: 1,
        steps,
        nfe: steps,
        grid: times.to_vec(),
        rows,
    }
}

/// Composing rows changes rounding only: a plan by hand without it gives the same samples.
#[test]
fn composed_rows_do_what_their_parts_do() {
    for process in [
        json!({ "kind": "psld" }),
        json!({ "kind": "psld", "beta_min": 4.0, "beta_max": 10.0 }),
        json!({ "kind": "vp" }),
    ] {
        let spec = spec(process, json!({ "predicts": "all" }), &[2]);
        let model = model(&spec, &plane());
        for steps in [1, 2, 5] {
            let compiled = sampler(&spec, json!({ "sampler": "sscs", "steps": steps, "denoise": false }));
            let plan = compiled.plan().unwrap();
            let by_hand = uncomposed_sscs(&spec.process().unwrap(), &plan.grid);
            by_hand.check().unwrap();
            assert!(plan.rows.len() < by_hand.rows.len());
            assert_eq!(plan.draws(), by_hand.draws());
            let by_hand = Arc::new(Sampler::from_plan(&spec, by_hand).unwrap());
            let (z, _) = finish(&model, &compiled, f64_run(8));
            assert_close(&z, &finish(&model, &by_hand, f64_run(8)).0, 1e-12, &format!("{steps} steps"));
        }
    }
}

/// Any process that is accepted, as its JSON form.
fn any_process() -> impl Strategy<Value = Value> {
    let beta = || (0.05_f64..4.0, 1.0_f64..20.0);
    let factor = || prop_oneof![Just("lower"), Just("upper")];
    let matching = || prop_oneof![Just("hsm"), Just("dsm")];
    let vp = beta().prop_map(|(low, high)| json!({ "kind": "vp", "beta_min": low, "beta_max": high }));
    let psld =
        (beta(), prop_oneof![Just(0.0), 0.001_f64..1.0], 0.5_f64..5.0, 0.001_f64..1.0, factor(), matching())
            .prop_map(|((low, high), gamma, more, kappa, factor, matching)| {
                json!({
                    "kind": "psld", "beta_min": low, "beta_max": high, "gamma": gamma, "nu": gamma + more,
                    "kappa": kappa, "decomposition": factor, "score_matching": matching
                })
            });
    let recipe = (beta(), 1.0_f64..4.0, 0.3_f64..4.0, 0.5_f64..5.0, 0.2_f64..3.0, factor(), matching())
        .prop_map(|((low, high), a, b, xi, mass, factor, matching)| {
            json!({
                "kind": "recipe", "beta_min": low, "beta_max": high, "decomposition": factor,
                "score_matching": matching,
                "d": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, xi]],
                "q": [[0.0, -a, 0.0], [a, 0.0, -b], [0.0, b, 0.0]],
                "s": [[1.0, 0.0, 0.0], [0.0, mass, 0.0], [0.0, 0.0, mass]],
            })
        });
    let explodes = (any::<bool>(), -3.0_f64..-1.0, 0.5_f64..2.5).prop_map(|(ve, min, max)| {
        let kind = if ve { "ve" } else { "edm" };
        json!({ "kind": kind, "sigma_min": 10.0_f64.powf(min), "sigma_max": 10.0_f64.powf(max) })
    });
    let schedule = prop::sample::select(vec!["linear", "scaled_linear", "cosine"]);
    let ddpm = (schedule, 20_u32..1500)
        .prop_map(|(schedule, entries)| json!({ "kind": "ddpm", "schedule": schedule, "entries": entries }));
    let betas = prop::collection::vec(1e-4_f64..0.3, 20..60)
        .prop_map(|betas| json!({ "kind": "ddpm", "betas": betas }));
    prop_oneof![3 => vp, 4 => psld, 4 => recipe, 2 => explodes, 1 => Just(json!({ "kind": "flow" })), 1 => ddpm, 1 => betas]
}

fn any_grid() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(grid::NAMES.to_vec());
    (name, -7.0_f64..-0.5, 0.5_f64..=1.0, 1_u32..40, any::<bool>()).prop_map(
        |(name, end, start, steps, denoise)| {
            json!({
                "time_grid": name, "t_end": 10.0_f64.powf(end), "t_start": start, "steps": steps,
                "denoise": denoise
            })
        },
    )
}

fn any_sampler() -> impl Strategy<Value = &'static str> {
    let special = [
        "ddim eta=0.3",
        "gddim eta=0.3",
        "gddim eta=1",
        "gddim order=1",
        "dpmpp clip=true",
        "dpmpp published=true",
        "sde_dpmpp published=true",
    ];
    prop::sample::select(
        solver::list().filter(|info| !info.adaptive).map(|info| info.name).chain(special).collect::<Vec<_>>(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any valid process, grid and sampler: a plan with finite coefficients (`check` has looked), strictly
    /// decreasing times, and as many calls as promised.
    #[test]
    fn any_plan_is_finite(process in any_process(), mut grid in any_grid(), name in any_sampler()) {
        let velocity = process["kind"] == "flow";
        let network = if velocity { json!({ "prediction": "velocity" }) } else { json!({}) };
        let spec = spec(process, network, &[1]);
        // Not every process has the times from 1e-7 to 1.
        let times = Times::of(&spec.process().unwrap());
        grid["t_end"] = json!(grid["t_end"].as_f64().unwrap().max(times.low));
        grid["t_start"] = json!(grid["t_start"].as_f64().unwrap().min(times.high));
        let options = with(named(name), grid.clone());
        let sampler = match Sampler::compile(&spec, &support::options(options), None) {
            Err(e) if e.status() == Status::Unsupported => return Ok(()),
            // A lambda, also the default one, that is unstable on a grid of few steps is refused by name.
            Err(e) if e.message().contains("is unstable with it") => return Ok(()),
            compiled => compiled.unwrap(),
        };
        let plan = sampler.plan().unwrap();
        plan.check().unwrap();
        let (steps, closing) = (grid["steps"].as_u64().unwrap() as usize, grid["denoise"] == true);
        prop_assert_eq!(plan.steps, steps);
        prop_assert_eq!(plan.nfe, steps * sampler.info().nfe_per_step as usize + usize::from(closing));
        prop_assert_eq!(plan.grid.len(), steps + 1);
        prop_assert!(plan.grid.windows(2).all(|w| w[0] > w[1]), "{:?}", plan.grid);
        prop_assert_eq!(Some(plan.grid[0]), grid["t_start"].as_f64());
        prop_assert_eq!(Some(plan.grid[steps]), grid["t_end"].as_f64());
    }
}

fn times(spec: &ModelSpec, json: Value) -> Vec<f64> {
    let process = spec.process().unwrap();
    grid::resolve(&options(json), &process, &Times::of(&process), 1).unwrap()
}

/// Each named grid against its formula in docs/methods.md, for VP with lambda in closed form.
#[test]
fn named_grids() {
    let vp = spec(json!({ "kind": "vp" }), json!({}), &[1]);
    // alpha^2 = e^-b, so e^(-2 lambda) = e^b - 1; b = 0.1 t + 9.95 t^2.
    let noise = |t: f64| ((0.1 * t + 9.95 * t * t).exp_m1()).sqrt();
    let time = |noise: f64| {
        let b = (noise * noise).ln_1p();
        // The stable root of 9.95 t^2 + 0.1 t - b.
        2.0 * b / (0.1 + (0.01 + 4.0 * 9.95 * b).sqrt())
    };
    let n = 10;
    for (start, end) in [(1.0_f64, 1e-3_f64), (0.9, 1e-5)] {
        let mix = |a: f64, b: f64, i: usize| a + (b - a) * i as f64 / n as f64;
        let remaining = |i: usize| (n - i) as f64 / n as f64;
        type Formula<'a> = Box<dyn Fn(usize) -> f64 + 'a>;
        let share = |noise: f64| 1.0 / (1.0 + ((1.0 + noise.ln()) / 2.5).exp());
        let formulas: [(&str, Formula<'_>); 7] = [
            ("uniform", Box::new(|i| mix(start, end, i))),
            ("quadratic", Box::new(|i| end + (start - end) * remaining(i).powi(2))),
            ("order2", Box::new(|i| mix(start.sqrt(), end.sqrt(), i).powi(2))),
            ("order2.5", Box::new(|i| mix(start.powf(0.4), end.powf(0.4), i).powf(2.5))),
            ("log_snr", Box::new(|i| time(mix(noise(start).ln(), noise(end).ln(), i).exp()))),
            (
                "logistic",
                Box::new(|i| {
                    let share = mix(share(noise(start)), share(noise(end)), i);
                    time((-1.0 - 2.5 * (share / (1.0 - share)).ln()).exp())
                }),
            ),
            (
                "karras",
                Box::new(|i| time(mix(noise(start).powf(1.0 / 7.0), noise(end).powf(1.0 / 7.0), i).powi(7))),
            ),
        ];
        assert_eq!(formulas.each_ref().map(|(name, _)| *name), grid::NAMES);
        for (name, formula) in formulas {
            let got = times(&vp, json!({ "time_grid": name, "steps": n, "t_start": start, "t_end": end }));
            assert_eq!((got.len(), got[0], got[n]), (n + 1, start, end), "{name}: end points are exact");
            for (i, t) in got.iter().enumerate() {
                let expected = formula(i);
                assert!((t / expected - 1.0).abs() < 1e-11, "{name}, {i}: {t} is not {expected}");
            }
        }
    }
    // The published schedule: quadratic in reversed time, tau = 0.999 (1 - ((N - i) / N)^2) (docs/methods.md, "Grids").
    for (i, t) in times(&published(), json!({ "steps": 50 })).into_iter().enumerate() {
        let tau = 0.999 * (1.0 - ((50 - i) as f64 / 50.0).powi(2));
        assert!((t - (1.0 - tau)).abs() < 1e-15);
    }
    // In phase space, lambda is one half of the log of a^T Sigma^-1 a.
    let process = published().process().unwrap();
    let lambdas: Vec<f64> = times(&published(), json!({ "time_grid": "log_snr", "steps": 30 }))
        .into_iter()
        .map(|t| {
            let (a, precision) = (process.mean(t), process.covariance(t).inverse().unwrap());
            0.5 * (a.transpose() * precision * a)[(0, 0)].ln()
        })
        .collect();
    let gap = (lambdas[30] - lambdas[0]) / 30.0;
    assert!(lambdas.windows(2).all(|w| ((w[1] - w[0]) / gap - 1.0).abs() < 1e-9), "{lambdas:?}");
}

#[test]
fn extreme_grids_decrease() {
    for kind in ["vp", "psld"] {
        let spec = spec(json!({ "kind": kind }), json!({}), &[1]);
        for name in grid::NAMES {
            let fine = times(&spec, json!({ "time_grid": name, "steps": 20000, "t_end": 1e-7 }));
            assert!(fine.windows(2).all(|w| w[0] > w[1]), "{kind}, {name}");
        }
    }
}

#[test]
fn grids_by_their_points() {
    let spec = published();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let expected = vec![1.0, 0.5, 0.25, 0.001];
    let array = json!({ "time_grid": expected });
    assert_eq!(times(&spec, array), expected);
    let lists =
        ["[1, 0.5, 2.5e-1, 0.001]\n", "1 0.5\n0.25,0.001\n", "1,0.5,0.25,0.001", "\n 1.0\n.5\n.25\n1e-3\n"];
    for (i, text) in lists.iter().enumerate() {
        assert_eq!(times(&spec, json!({ "time_grid": file(&format!("{i}.txt"), text) })), expected);
    }
    // Options that say the same as the points are right.
    let same = json!({ "time_grid": expected, "steps": 3, "t_start": 1.0, "t_end": 0.001 });
    assert_eq!(times(&spec, same), expected);
    let plan = sampler(&spec, json!({ "sampler": "heun", "time_grid": expected })).plan().unwrap().clone();
    assert_eq!((plan.steps, plan.nfe, plan.grid), (3, 7, expected.clone()));

    let mut messages = String::new();
    let cases = [
        json!({ "time_grid": [] }),
        json!({ "time_grid": [0.5] }),
        json!({ "time_grid": [1.0, 0.5, 0.5] }),
        json!({ "time_grid": [0.001, 0.5, 1.0] }),
        json!({ "time_grid": [1.5, 0.5] }),
        json!({ "time_grid": [1.0, 0.0] }),
        json!({ "time_grid": expected, "nfe": 4 }),
        json!({ "time_grid": expected, "steps": 4 }),
        json!({ "time_grid": expected, "t_start": 0.9 }),
        json!({ "time_grid": expected, "t_end": 0.01 }),
        json!({ "time_grid": file("words", "1, half") }),
        json!({ "time_grid": file("broken", "[1, 0.5") }),
        json!({ "time_grid": file("empty", "") }),
        json!({ "time_grid": "quadratc" }),
        json!({ "time_grid": "/no/such/file" }),
        json!({ "time_grid": folder.path().to_str().unwrap() }),
    ];
    for case in cases {
        let process = spec.process().unwrap();
        let error = grid::resolve(&options(case.clone()), &process, &Times::of(&process), 1).unwrap_err();
        writeln!(messages, "{} [{:?}]: {error}", case["time_grid"], error.status()).unwrap();
    }
    let place = folder.path().to_str().unwrap();
    insta::assert_snapshot!(messages.replace(place, "[DIR]"), @r#"
    [] [InvalidArgument]: time_grid: expected at least two times, got 0
    [0.5] [InvalidArgument]: time_grid: expected at least two times, got 1
    [1.0,0.5,0.5] [InvalidArgument]: time_grid: times must decrease (forward time, from noise to data), but time 2 is 0.5 after 0.5
    [0.001,0.5,1.0] [InvalidArgument]: time_grid: times must decrease (forward time, from noise to data), but time 1 is 0.5 after 0.001
    [1.5,0.5] [InvalidArgument]: time_grid: time 0 is 1.5: expected 1e-7 to 1
    [1.0,0.0] [InvalidArgument]: time_grid: time 1 is 0: expected 1e-7 to 1
    [1.0,0.5,0.25,0.001] [InvalidArgument]: time_grid: a grid given by its points excludes nfe
    [1.0,0.5,0.25,0.001] [InvalidArgument]: time_grid: 4 points make 3 steps, but steps = 4
    [1.0,0.5,0.25,0.001] [InvalidArgument]: time_grid: the grid's t_start is 1, but t_start = 0.9
    [1.0,0.5,0.25,0.001] [InvalidArgument]: time_grid: the grid's t_end is 0.001, but t_end = 0.01
    "[DIR]/words" [InvalidArgument]: time_grid: [DIR]/words: expected a JSON array or a list of times: not a number: half
    "[DIR]/broken" [InvalidArgument]: time_grid: [DIR]/broken: expected a JSON array or a list of times: EOF while parsing a list at line 1 column 7
    "[DIR]/empty" [InvalidArgument]: time_grid: expected at least two times, got 0
    "quadratc" [ReadFailed]: time_grid: no named grid, and no readable file: quadratc: cannot be read: No such file or directory (os error 2)
    hint: did you mean `quadratic`?
    "/no/such/file" [ReadFailed]: time_grid: no named grid, and no readable file: /no/such/file: cannot be read: No such file or directory (os error 2)
    hint: known: uniform, quadratic, order2, order2.5, log_snr, logistic, karras
    "[DIR]" [ReadFailed]: time_grid: no named grid, and no readable file: [DIR]: cannot be read: Is a directory (os error 21)
    hint: known: uniform, quadratic, order2, order2.5, log_snr, logistic, karras
    "#);
    assert_eq!(options(json!({ "time_grid": "karras" })).time_grid, Some(Grid::Name("karras".into())));
}

/// What a caller can get wrong in the options, and what is said.
#[test]
fn option_errors() {
    let cases = [
        r#"{"sampler": "em", "step": 10}"#,
        r#"{"temperature": 1}"#,
        r#"{"sampler": "emm"}"#,
        r#"{"sampler": "dpm-solver"}"#,
        r#"{"sampler": 3}"#,
        r#"{"kind": "heun", "sampler": "em"}"#,
        r#"{"steps": 10, "nfe": 11}"#,
        r#"{"steps": 0}"#,
        r#"{"steps": -1}"#,
        r#"{"steps": 2.5}"#,
        r#"{"steps": 1000001}"#,
        r#"{"nfe": 0}"#,
        r#"{"nfe": 1}"#,
        r#"{"nfe": 0, "denoise": false}"#,
        r#"{"sampler": "heun", "nfe": 2}"#,
        r#"{"t_start": 1.5}"#,
        r#"{"t_end": 0}"#,
        r#"{"t_end": 1e-9}"#,
        r#"{"t_start": 0.2, "t_end": 0.3}"#,
        r#"{"t_start": 0.5, "t_end": 0.49999999999999994, "steps": 2}"#,
        r#"{"denoise": "yes"}"#,
        r#"{"denoise_time": "float16"}"#,
        r#"{"sampler": "em", "rtol": 1e-4}"#,
        r#"{"sampler": "sscs", "atol": 1e-4}"#,
        r#"{"sampler": "heun", "max_nfe": 10}"#,
        r#"{"sampler": "em", "lambda": 0.3}"#,
        r#"{"sampler": "conjugate", "lambda": 0.3}"#,
        r#"{"sampler": "conjugate", "matrix": "two"}"#,
        r#"{"sampler": "conjugate", "matrix": "ones", "lambda": 80, "nfe": 21}"#,
        r#"{"sampler": "cvv", "lambda": 100, "nfe": 21}"#,
        r#"{"sampler": "roba", "lambda_s": -1}"#,
        r#"{"sampler": "euler", "error_norm": "run"}"#,
        r#"{"sampler": "rk45", "steps": 10}"#,
        r#"{"sampler": "rk45", "nfe": 10}"#,
        r#"{"sampler": "rk45", "time_grid": "uniform"}"#,
        r#"{"sampler": "rk45", "rtol": 1e-15}"#,
        r#"{"sampler": "rk45", "atol": -1}"#,
        r#"{"sampler": "rk45", "max_nfe": 8}"#,
        r#"{"sampler": "rk45", "error_norm": "batch"}"#,
        r#"{"sampler": "rk45", "t_end": 1}"#,
        r#"{"sampler": "gddim", "order": 4}"#,
        r#"{"sampler": "gddim", "order": 0}"#,
        r#"{"sampler": "gddim", "order": 3, "steps": 2}"#,
        r#"{"sampler": "sde_dpmpp", "order": 3}"#,
        r#"{"sampler": "gddim", "eta": 1.5}"#,
        r#"{"sampler": "gddim", "eta": -0.5}"#,
        r#"{"sampler": "gddim", "eta": 0.5, "order": 2}"#,
        r#"{"sampler": "gddim", "clip": 1.5}"#,
        r#"{"sampler": "gddim", "clip": {"percentile": 0.9, "max": 0.5}}"#,
        r#"{"sampler": "gddim", "clip": {"percentile": 0.9, "most": 1}}"#,
        r#"{"encode": true, "clip": true}"#,
        r#"{"sampler": "gddim", "lower_order_final": true}"#,
        r#"{"sampler": "gddim", "published": true}"#,
        r#"{"sampler": "dpmpp", "published": true}"#,
        r#"{"sampler": "unipc", "published": true}"#,
        r#"{"sampler": "unipc", "variant": "bh1"}"#,
        r#"{"sampler": "unipc", "variant": "bh3"}"#,
        r#"{"sampler": "ddim"}"#,
        r#"{"sampler": "exp_heun", "order": 2}"#,
        r#"{"seed": -1}"#,
        r#"{"time_grid": {"name": "uniform"}}"#,
        r#"[1]"#,
        r#"{"steps": 10"#,
    ];
    let mut messages = String::new();
    for case in cases {
        let compiled = SamplerSpec::parse(case).and_then(|o| Sampler::compile(&published(), &o, None));
        let error = compiled.err().unwrap_or_else(|| panic!("accepted: {case}"));
        writeln!(messages, "{case} [{:?}]: {error}", error.status()).unwrap();
    }
    let quiet = options(json!({ "sampler": "roba", "lambda_s": 2.0 }));
    let error = Sampler::compile(&spec(json!({ "kind": "cld" }), json!({}), &[2]), &quiet, None).unwrap_err();
    insta::assert_snapshot!(error, @r#"
    `lambda_s` scales the position's noise, and psld with gamma = 0, nu = 4 has none (gamma is 0)
    hint: leave lambda_s out
    "#);
    let rk45 = options(json!({ "sampler": "rk45" }));
    let error = Sampler::compile(&published(), &rk45, Some(InpaintMethod::Published)).unwrap_err();
    writeln!(messages, "inpainting by rk45 [{:?}]: {error}", error.status()).unwrap();
    for resample in [0, 1001] {
        let em = options(json!({}));
        let painting = painting(InpaintMethod::Corrected, resample);
        let error = Sampler::compile(&published(), &em, painting).unwrap_err();
        writeln!(messages, "resampling [{:?}]: {error}", error.status()).unwrap();
    }
    let short = options(json!({ "nfe": 4 }));
    let error = Sampler::compile(&published(), &short, painting(InpaintMethod::Corrected, 4)).unwrap_err();
    writeln!(messages, "calls of resampling [{:?}]: {error}", error.status()).unwrap();
    insta::assert_snapshot!(messages, @r#"
    {"sampler": "em", "step": 10} [InvalidConfig]: sampler options: unknown field `step`
    hint: did you mean `steps`?
    {"temperature": 1} [InvalidConfig]: sampler options: unknown field `temperature`
    hint: known: kind, sampler, steps, nfe, time_grid, t_start, t_end, denoise, denoise_time, rtol, atol, max_nfe, error_norm, order, eta, lambda, matrix, lambda_s, variant, published, clip, lower_order_final, encode, seed
    {"sampler": "emm"} [InvalidArgument]: unknown sampler `emm`
    hint: did you mean `em`?
    {"sampler": "dpm-solver"} [InvalidArgument]: unknown sampler `dpm-solver`
    hint: known: em, sscs, ancestral, euler, heun, ddim, gddim, deis, exp_heun, dpmpp, unipc, sde_dpmpp, sa_solver, conjugate, rvv, roba, cvv, rk45, auto
    {"sampler": 3} [InvalidConfig]: sampler options: sampler: expected text, got 3
    {"kind": "heun", "sampler": "em"} [InvalidConfig]: sampler options: duplicate field `sampler`
    {"steps": 10, "nfe": 11} [InvalidArgument]: steps and nfe exclude each other: give one
    {"steps": 0} [InvalidArgument]: steps = 0: expected 1 to 1000000
    {"steps": -1} [InvalidConfig]: sampler options: steps: expected a whole number from 0 to 4294967295, got -1
    {"steps": 2.5} [InvalidConfig]: sampler options: steps: expected a whole number from 0 to 4294967295, got 2.5
    {"steps": 1000001} [InvalidArgument]: steps = 1000001: expected 1 to 1000000
    {"nfe": 0} [InvalidArgument]: nfe = 0: sampler `auto` takes 1 network call(s) a step and one to close, so at least 2 and at most 1000000 steps of them
    {"nfe": 1} [InvalidArgument]: nfe = 1: sampler `auto` takes 1 network call(s) a step and one to close, so at least 2 and at most 1000000 steps of them
    {"nfe": 0, "denoise": false} [InvalidArgument]: nfe = 0: sampler `auto` takes 1 network call(s) a step, so at least 1 and at most 1000000 steps of them
    {"sampler": "heun", "nfe": 2} [InvalidArgument]: nfe = 2: sampler `heun` takes 2 network call(s) a step and one to close, so at least 3 and at most 1000000 steps of them
    {"t_start": 1.5} [InvalidArgument]: t_start = 1.5, t_end = 0.001: expected 1e-7 <= t_end < t_start <= 1
    {"t_end": 0} [InvalidArgument]: t_start = 1.0, t_end = 0.0: expected 1e-7 <= t_end < t_start <= 1
    {"t_end": 1e-9} [InvalidArgument]: t_start = 1.0, t_end = 1e-9: expected 1e-7 <= t_end < t_start <= 1
    {"t_start": 0.2, "t_end": 0.3} [InvalidArgument]: t_start = 0.2, t_end = 0.3: expected 1e-7 <= t_end < t_start <= 1
    {"t_start": 0.5, "t_end": 0.49999999999999994, "steps": 2} [InvalidArgument]: t_start = 0.5, t_end = 0.49999999999999994: 2 steps of grid `quadratic` are closer than the spacing of numbers
    {"denoise": "yes"} [InvalidConfig]: sampler options: denoise: expected true or false, got "yes"
    {"denoise_time": "float16"} [InvalidConfig]: sampler options: denoise_time: expected one of exact, float32, got "float16"
    hint: did you mean `float32`?
    {"sampler": "em", "rtol": 1e-4} [InvalidArgument]: `rtol` is no option of sampler `em`
    hint: it is an option of: rk45
    {"sampler": "sscs", "atol": 1e-4} [InvalidArgument]: `atol` is no option of sampler `sscs`
    hint: it is an option of: rk45
    {"sampler": "heun", "max_nfe": 10} [InvalidArgument]: `max_nfe` is no option of sampler `heun`
    hint: it is an option of: rk45
    {"sampler": "em", "lambda": 0.3} [InvalidArgument]: `lambda` is no option of sampler `em`
    hint: it is an option of: conjugate, cvv
    {"sampler": "conjugate", "lambda": 0.3} [InvalidArgument]: `lambda` has no effect with `matrix` zero, the default
    hint: give `matrix` identity or ones
    {"sampler": "conjugate", "matrix": "two"} [InvalidConfig]: sampler options: matrix: expected one of zero, identity, ones, got "two"
    {"sampler": "conjugate", "matrix": "ones", "lambda": 80, "nfe": 21} [InvalidArgument]: lambda = 80.0: `conjugate` is unstable with it at 20 steps on this grid: unit normal data grow to a standard deviation of 2e15
    hint: take lambda between 0 and 3.90, or more steps
    {"sampler": "cvv", "lambda": 100, "nfe": 21} [InvalidArgument]: lambda = 100.0: `cvv` is unstable with it at 10 steps on this grid: unit normal data grow to a standard deviation of 2e15
    hint: take lambda between 0 and 5.00, or more steps
    {"sampler": "roba", "lambda_s": -1} [InvalidArgument]: `lambda_s` is -1.0: expected a finite number of at least 0
    {"sampler": "euler", "error_norm": "run"} [InvalidArgument]: `error_norm` is no option of sampler `euler`
    hint: it is an option of: rk45
    {"sampler": "rk45", "steps": 10} [InvalidArgument]: `steps` is no option of sampler `rk45`: it chooses its own steps; bound them with rtol, atol and max_nfe
    {"sampler": "rk45", "nfe": 10} [InvalidArgument]: `nfe` is no option of sampler `rk45`: it chooses its own steps; bound them with rtol, atol and max_nfe
    {"sampler": "rk45", "time_grid": "uniform"} [InvalidArgument]: `time_grid` is no option of sampler `rk45`: it chooses its own steps; bound them with rtol, atol and max_nfe
    {"sampler": "rk45", "rtol": 1e-15} [InvalidArgument]: rtol = 1e-15: expected a finite number of at least 2.220446049250313e-14
    {"sampler": "rk45", "atol": -1} [InvalidArgument]: atol = -1.0: expected a finite number of at least 0.0
    {"sampler": "rk45", "max_nfe": 8} [InvalidArgument]: max_nfe = 8: one step of `rk45` takes 9 network calls with its two to begin
    {"sampler": "rk45", "error_norm": "batch"} [InvalidConfig]: sampler options: error_norm: expected one of run, sample, got "batch"
    {"sampler": "rk45", "t_end": 1} [InvalidArgument]: t_start = 1.0, t_end = 1.0: expected 1e-7 <= t_end < t_start <= 1
    {"sampler": "gddim", "order": 4} [InvalidArgument]: order = 4: sampler `gddim` takes orders 1 to 3
    {"sampler": "gddim", "order": 0} [InvalidArgument]: order = 0: sampler `gddim` takes orders 1 to 3
    {"sampler": "gddim", "order": 3, "steps": 2} [InvalidArgument]: order = 3: sampler `gddim` reaches it with at least 3 steps, the grid has 2
    hint: take more steps, or order 2; without `order` it is at most the number of steps
    {"sampler": "sde_dpmpp", "order": 3} [InvalidArgument]: order = 3: sampler `sde_dpmpp` takes orders 1 to 2
    {"sampler": "gddim", "eta": 1.5} [InvalidArgument]: eta = 1.5: expected 0 (deterministic) to 1 (ancestral)
    {"sampler": "gddim", "eta": -0.5} [InvalidArgument]: eta = -0.5: expected 0 (deterministic) to 1 (ancestral)
    {"sampler": "gddim", "eta": 0.5, "order": 2} [InvalidArgument]: order: with eta > 0 `gddim` is of order 1
    hint: leave `order` out; `sde_dpmpp` is the stochastic sampler of order 2
    {"sampler": "gddim", "clip": 1.5} [InvalidArgument]: clip: percentile = 1.5: expected a share of a sample's values, above 0 and at most 1
    hint: 0.995 is the usual one
    {"sampler": "gddim", "clip": {"percentile": 0.9, "max": 0.5}} [InvalidArgument]: clip: max = 0.5: expected a finite number of at least 1, in halves of the data range
    {"sampler": "gddim", "clip": {"percentile": 0.9, "most": 1}} [InvalidConfig]: sampler options: clip: expected true, false, a percentile such as 0.995, or {"percentile": 0.995, "max": 1}, got {"percentile":0.9,"most":1}
    {"encode": true, "clip": true} [Unsupported]: clip: the way from data to noise (`encode`, likelihoods) follows the network's own estimates
    hint: leave `clip` out; it is for the way back
    {"sampler": "gddim", "lower_order_final": true} [InvalidArgument]: `lower_order_final` is no option of sampler `gddim`
    hint: it is an option of: dpmpp, unipc
    {"sampler": "gddim", "published": true} [InvalidArgument]: `published` is no option of sampler `gddim`
    hint: it is an option of: ddim, dpmpp, unipc, sde_dpmpp
    {"sampler": "dpmpp", "published": true} [Unsupported]: published: the papers' forms are for k = 1, the process has k = 2
    hint: leave `published` out: the general form is for any k
    {"sampler": "unipc", "published": true} [Unsupported]: published: the papers' forms are for k = 1, the process has k = 2
    hint: leave `published` out: the general form is for any k
    {"sampler": "unipc", "variant": "bh1"} [Unsupported]: variant: B(h) of `unipc` is for k = 1, the process has k = 2
    hint: leave `variant` out
    {"sampler": "unipc", "variant": "bh3"} [InvalidConfig]: sampler options: variant: expected one of bh1, bh2, got "bh3"
    hint: did you mean `bh2`?
    {"sampler": "ddim"} [Unsupported]: sampler `ddim` is for k = 1, the process has k = 2
    hint: use `gddim`, its form for any k
    {"sampler": "exp_heun", "order": 2} [InvalidArgument]: `order` is no option of sampler `exp_heun`
    hint: it is an option of: gddim, deis, dpmpp, unipc, sde_dpmpp, sa_solver
    {"seed": -1} [InvalidConfig]: sampler options: seed: expected a whole number from 0 to 18446744073709551615, got -1
    {"time_grid": {"name": "uniform"}} [InvalidConfig]: sampler options: time_grid: expected the name of a grid or file, or an array of times, got {"name":"uniform"}
    [1] [InvalidConfig]: sampler options: expected a JSON object
    {"steps": 10 [InvalidConfig]: sampler options: not valid JSON: EOF while parsing an object at line 1 column 12
    inpainting by rk45 [Unsupported]: inpainting needs a sampler with fixed steps, not `rk45`
    hint: use `em` or `sscs`
    resampling [InvalidArgument]: inpaint: resample = 0: expected 1 to 1000
    resampling [InvalidArgument]: inpaint: resample = 1001: expected 1 to 1000
    calls of resampling [InvalidArgument]: nfe = 4: sampler `ancestral` takes 4 network call(s) a step and one to close, so at least 5 and at most 1000000 steps of them
    "#);

    // Without `order`, a grid of few steps lowers it.
    for name in ["gddim", "deis", "dpmpp", "unipc", "sde_dpmpp", "sa_solver"] {
        assert_eq!(sampler(&published(), json!({ "sampler": name, "steps": 1 })).plan().unwrap().steps, 1);
    }
    // The other name of `sampler`, and the least that works.
    assert_eq!(SamplerSpec::parse(r#"{"kind": "heun"}"#).unwrap().name(), "heun");
    for least in
        [json!({ "nfe": 2 }), json!({ "nfe": 1, "denoise": false }), json!({ "sampler": "heun", "nfe": 3 })]
    {
        assert_eq!(sampler(&published(), least).plan().unwrap().steps, 1);
    }
    let given = options(json!({ "sampler": "sscs", "steps": 7, "seed": 3, "time_grid": [1.0, 0.5] }));
    let text = serde_json::to_string(&given).unwrap();
    assert_eq!(SamplerSpec::parse(&text).unwrap(), given, "{text}");
}
