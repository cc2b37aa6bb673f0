//! Convergence orders and exactness of every sampler by exact moment propagation of its plan on Gaussian data:
//! no random numbers, and nothing shared with the executor.

mod support;

use psld::plan::{Plan, Row};
use psld::process::Mat;
use psld::{ModelSpec, Sampler, Status};
use serde_json::{Value, json};
use support::moments::{Gaussian, Moments};
use support::{named, planned, psld, sampler, spec, third_order, with};

/// Uniform grid from 1 to `t_end`, no closing step; a sampler by its name (and options, as [`named`] reads them) or its
/// options.
fn plan(spec: &ModelSpec, options: impl Into<Value>, steps: usize, t_end: f64) -> Plan {
    let options = match options.into() {
        Value::String(name) => named(&name),
        options => options,
    };
    let grid = json!({ "steps": steps, "time_grid": "uniform", "t_end": t_end, "denoise": false });
    sampler(spec, with(options, grid)).plan().unwrap().clone()
}

/// max |mean, covariance| error at t = 0.05 for data N(0.5, 0.36), started from the exact marginal at t = 1.
fn weak_error(law: &Gaussian, options: impl Into<Value>, steps: usize) -> f64 {
    weak_error_at(0.05, law, options, steps)
}

fn weak_error_at(t_end: f64, law: &Gaussian, options: impl Into<Value>, steps: usize) -> f64 {
    let end = law.propagate(&plan(law.spec(), options, steps, t_end), &law.marginal(1.0));
    end.distance(&law.marginal(t_end))
}

fn gaussian(process: Value, network: Value) -> Gaussian {
    Gaussian::new(&spec(process, network, &[1]), 0.5, 0.36)
}

/// Every kind of process and of factor.
fn processes() -> Vec<(&'static str, Value)> {
    vec![
        ("psld", psld()),
        ("psld, upper", with(psld(), json!({ "decomposition": "upper" }))),
        ("psld, dsm", with(psld(), json!({ "score_matching": "dsm" }))),
        ("psld, linear beta", with(psld(), json!({ "beta_min": 4.0, "beta_max": 12.0 }))),
        ("cld", json!({ "kind": "cld", "numerical_eps": 0.0 })),
        ("position noise only", json!({ "kind": "psld", "gamma": 4.0, "nu": 0.0, "numerical_eps": 0.0 })),
        ("vp", json!({ "kind": "vp" })),
        ("third order", third_order(4.0)),
    ]
}

/// Weak errors by an independent implementation, to the digits given.
#[test]
fn weak_errors_of_the_reference() {
    let law = gaussian(psld(), json!({}));
    let rows = [
        ("em", ["0.245", "0.0928", "0.0408", "0.0192"]),
        ("sscs", ["0.0266", "0.0133", "0.00653", "0.00321"]),
        ("ancestral", ["0.0927", "0.0694", "0.0423", "0.0233"]),
        ("gddim eta=0.5", ["0.0908", "0.0560", "0.0311", "0.0164"]),
        ("gddim eta=1", ["0.0927", "0.0694", "0.0423", "0.0233"]),
        ("sde_dpmpp", ["0.0320", "0.0104", "0.00309", "0.000909"]),
        ("roba", ["0.177", "0.107", "0.0588", "0.0309"]),
    ];
    for (name, expected) in rows {
        for (steps, text) in [25, 50, 100, 200].into_iter().zip(expected) {
            let decimals = text.len() - 2;
            assert_eq!(
                format!("{:.decimals$}", weak_error(&law, name, steps)),
                text,
                "{name}, {steps} steps"
            );
        }
    }
}

/// `sa_solver`'s, by a transcription in numpy whose `sde_dpmpp` has the errors of that table.
#[test]
fn weak_errors_of_sa_solver() {
    let law = gaussian(psld(), json!({}));
    let rows = [
        (1, ["0.0940", "0.0657", "0.0290", "0.00956"]),
        (2, ["0.0390", "0.0127", "0.00264", "0.000435"]),
        (3, ["0.0943", "0.0430", "0.00884", "0.00157"]),
    ];
    for (order, expected) in rows {
        for (steps, text) in [25, 50, 100, 200].into_iter().zip(expected) {
            let decimals = text.len() - 2;
            let error = weak_error(&law, json!({ "sampler": "sa_solver", "order": order }), steps);
            assert_eq!(format!("{error:.decimals$}"), text, "order {order}, {steps} steps");
        }
    }
}

/// The slope of the weak error from `steps` to twice as many.
fn check_slope(process: &str, law: &Gaussian, name: &str, order: f64, steps: usize) {
    let (coarse, fine) = (weak_error(law, name, steps), weak_error(law, name, 2 * steps));
    let slope = (coarse / fine).log2();
    println!("{process}, {name}: {slope:.3} ({coarse:.2e} -> {fine:.2e})");
    let tolerance = 0.1 * order;
    assert!((slope - order).abs() < tolerance, "{process}, {name}: {slope:.3} ({coarse:e} -> {fine:e})");
}

#[test]
fn orders_of_exponential_integrators() {
    for (process, description) in processes() {
        let law = gaussian(description, json!({}));
        for (name, order, steps) in [
            ("gddim order=1", 1.0, 800),
            ("gddim order=2", 2.0, 200),
            ("gddim order=3", 3.0, 100),
            ("gddim eta=0.5", 1.0, 800),
            ("deis order=1", 1.0, 800),
            ("deis order=2", 2.0, 400),
            ("exp_heun", 2.0, 200),
            ("dpmpp order=1", 1.0, 800),
            ("dpmpp order=2", 2.0, 200),
            ("dpmpp order=3", 3.0, 100),
            ("unipc order=1", 2.0, 200),
            ("unipc order=2", 3.0, 100),
            ("sde_dpmpp order=1", 1.0, 800),
            ("sde_dpmpp order=2", 2.0, 800),
            ("sa_solver", 2.0, 800),
        ] {
            let steps = match (process, name) {
                // Errors of two signs: the asymptotic regime begins later.
                ("position noise only", "gddim order=3" | "dpmpp order=3") => 400,
                ("position noise only", "unipc order=1") => 800,
                ("position noise only", "unipc order=2") => 200,
                ("third order", "unipc order=2") => 400,
                // Later than is quick to compute.
                ("third order", "deis order=1" | "sa_solver") => continue,
                // The leading term of the error is small: 3.0 and 2.8 are seen.
                ("position noise only", "dpmpp order=2" | "sde_dpmpp order=2" | "sa_solver") => continue,
                // Its kernels are slow to make.
                ("third order", _) if order == 1.0 => steps / 2,
                _ => steps,
            };
            check_slope(process, &law, name, order, steps);
        }
    }
}

#[test]
fn orders() {
    for (process, description) in processes() {
        let law = gaussian(description, json!({}));
        let mut cases = vec![
            (json!("em"), 1.0),
            (json!("sscs"), 1.0),
            (json!("ancestral"), 1.0),
            (json!("euler"), 1.0),
            (json!("heun"), 2.0),
            (json!("conjugate"), 1.0),
            (json!({ "sampler": "conjugate", "matrix": "identity", "lambda": 0.3 }), 1.0),
            (json!({ "sampler": "conjugate", "matrix": "ones", "lambda": 0.3 }), 1.0),
        ];
        if process == "third order" {
            // Its kernels are slow to make, and B = lambda I takes the same path as B = 0.
            cases.remove(6);
        }
        if law.spec().process().unwrap().k() == 2 {
            cases.extend([
                (json!("rvv"), 1.0),
                (json!("roba"), 1.0),
                (json!({ "sampler": "cvv", "lambda": 0.0 }), 1.0),
                (json!({ "sampler": "cvv", "lambda": 1.0 }), 1.0),
            ]);
        }
        for (options, order) in cases {
            // In third order the errors of the conjugate integrator have two signs, and cancel later.
            let late = process == "third order" && options.to_string().contains("conjugate");
            let (steps, t_end, tolerance) = if late { (400, 0.2, 0.15) } else { (800, 0.05, 0.1) };
            let error = |steps| weak_error_at(t_end, &law, options.clone(), steps);
            let (coarse, fine) = (error(steps), error(2 * steps));
            let slope = (coarse / fine).log2();
            println!("{process}, {options}: {slope:.3} ({coarse:.2e} -> {fine:.2e})");
            assert!(
                (slope - order).abs() < tolerance,
                "{process}, {options}: {slope:.3} ({coarse:e} -> {fine:e})"
            );
        }
    }
}

/// For k = 1, the forms that are not those of other samplers. The third order of DPM-Solver++ as published is the
/// second: its last coefficient is half of what integrating the quadratic gives (2211.01095, Algorithm 3 in its code).
#[test]
fn orders_of_the_published_forms() {
    let law = gaussian(json!({ "kind": "vp" }), json!({}));
    for (name, order, steps) in [
        ("ddim", 1.0, 800),
        ("ddim eta=0.5", 1.0, 800),
        ("ddim eta=1", 1.0, 800),
        ("dpmpp published=true order=1", 1.0, 800),
        ("dpmpp published=true order=2", 2.0, 200),
        ("dpmpp published=true order=3", 2.0, 200),
        ("sde_dpmpp published=true order=1", 1.0, 800),
        ("sde_dpmpp published=true order=2", 2.0, 200),
        ("unipc variant=\"bh1\" order=1", 2.0, 200),
        ("unipc variant=\"bh2\" order=2", 3.0, 100),
    ] {
        check_slope("vp", &law, name, order, steps);
    }
}

/// Whatever the network predicts, and under whatever factor, the sampler's law is the same: the decoding to
/// epsilon is exact. The closing step is included.
#[test]
fn every_prediction_gives_the_same_moments() {
    let cases: [(&str, Vec<Value>); 7] = [
        ("psld", vec![json!({})]),
        ("psld, dsm", vec![json!({ "score_matching": "dsm" })]),
        ("psld, upper", vec![json!({ "decomposition": "upper" })]),
        ("psld, linear beta", vec![json!({ "beta_min": 4.0, "beta_max": 12.0 })]),
        (
            "cld",
            vec![
                json!({ "gamma": 0.0, "nu": 4.0 }),
                json!({ "gamma": 0.0, "nu": 4.0, "decomposition": "upper" }),
            ],
        ),
        ("vp", vec![]),
        ("third order", vec![]),
    ];
    for (case, variants) in cases {
        let (bases, k) = match case {
            "vp" => (vec![json!({ "kind": "vp" })], 1),
            "third order" => (vec![third_order(4.0)], 3),
            _ => (variants.into_iter().map(|fields| with(psld(), fields)).collect(), 2),
        };
        let mut networks = vec![
            json!({ "predicts": "all" }),
            json!({ "prediction": "score", "predicts": "all" }),
            json!({ "prediction": "x0" }),
        ];
        if k == 1 {
            networks.push(json!({ "prediction": "v" }));
        }
        if k == 2 {
            for half in ["momentum", "position"] {
                networks.push(json!({ "predicts": half }));
                networks.push(json!({ "prediction": "score", "predicts": half }));
            }
        }
        for name in planned(gaussian(bases[0].clone(), json!({})).spec()).into_iter().chain(["gddim eta=0.5"])
        {
            let mut first: Option<Moments> = None;
            for base in &bases {
                // What is held constant over a step is epsilon in a factor.
                if ["conjugate", "cvv", "deis"].contains(&name) {
                    first = None;
                }
                for network in &networks {
                    let law = gaussian(base.clone(), network.clone());
                    // The interpreter's kernels cancel at small t, the more the higher the order.
                    let t_end = if k == 3 { 0.1 } else { 0.01 };
                    let options = with(named(name), json!({ "steps": 20, "t_end": t_end }));
                    let plan = sampler(law.spec(), options).plan().unwrap().clone();
                    let end = law.propagate(&plan, &law.marginal(1.0));
                    let relative = first.get_or_insert(end).distance(&end) / (1.0 + end.covariance.max_abs());
                    assert!(relative < 1e-8, "{case}, {name}, {base} {network}: {relative:e}");
                }
            }
        }
    }
}

/// For data at a point a step is exact, whatever its length, and whatever the factor is conditioned on.
#[test]
fn exact_for_a_point() {
    const EXACT: [&str; 12] = [
        "ancestral",
        "gddim order=1",
        "gddim",
        "gddim eta=0.5",
        "gddim eta=1",
        "exp_heun",
        "dpmpp order=1",
        "dpmpp",
        "unipc",
        "sde_dpmpp",
        "sa_solver order=1",
        "sa_solver",
    ];
    const K1: [&str; 7] = [
        "ddim",
        "ddim eta=0.5",
        "deis",
        "dpmpp published=true",
        "sde_dpmpp published=true",
        "unipc variant=\"bh1\"",
        "unipc order=3",
    ];
    for (process, description) in processes() {
        let dsm = description["score_matching"] == "dsm";
        let law = Gaussian::new(&spec(description, json!({}), &[1]), 0.7, 0.0);
        for name in EXACT.into_iter().chain(K1.into_iter().filter(|_| process == "vp")) {
            if name == "ancestral" && dsm {
                continue; // Its posterior is that of a point in phase space; with m_0 spread it is not exact.
            }
            for (steps, t_end) in [(1, 0.5), (1, 0.05), (3, 0.05)] {
                if steps < 3 && name.contains("order=3") {
                    continue;
                }
                let end = law.propagate(&plan(law.spec(), name, steps, t_end), &law.marginal(1.0));
                let distance = end.distance(&law.marginal(t_end));
                // The interpreter's kernels cancel, and the second call of exp_heun weighs that.
                assert!(distance < 1e-6, "{process}, {name}: {steps} step(s) to {t_end}: {distance:e}");
            }
        }
    }
}

/// For k = 1 samplers that are the same by their formulas have the same coefficients.
#[test]
fn equivalences_for_k_1() {
    let law = gaussian(json!({ "kind": "vp" }), json!({}));
    let start = law.marginal(1.0);
    let end = |name: &str| law.propagate(&plan(law.spec(), name, 12, 1e-3), &start);
    for (a, b) in [
        ("ddim", "gddim order=1"),
        ("ddim", "dpmpp order=1"),
        ("ddim", "dpmpp order=1 published=true"),
        ("ddim eta=1", "gddim eta=1"),
        ("ddim eta=1", "ancestral"),
        ("sde_dpmpp order=1", "ancestral"),
        ("sde_dpmpp order=1", "sde_dpmpp order=1 published=true"),
        ("gddim order=2", "deis order=2"),
        ("gddim order=3", "deis order=3"),
        // B(h) only enters where a weight is simplified.
        ("unipc order=1 variant=\"bh1\"", "unipc order=1 variant=\"bh1\" published=true"),
    ] {
        let distance = end(a).distance(&end(b));
        assert!(distance < 1e-10, "{a} and {b}: {distance:e}");
    }
    assert!(end("unipc variant=\"bh1\"").distance(&end("unipc")) > 1e-6);
    assert!(end("ddim eta=0.5").distance(&end("gddim eta=0.5")) > 1e-6, "they agree at 0 and 1 only");
}

/// Where the data are stationary themselves (N(0, 1), kappa 1), the score cancels the part of SSCS that is taken
/// by Euler, and what is left, the exact part, keeps N(0, S) over steps of any length.
#[test]
fn the_exact_part_of_sscs_keeps_the_prior() {
    for (process, description) in processes() {
        let description =
            if process == "vp" { description } else { with(description, json!({ "kappa": 1.0 })) };
        if description["score_matching"] == "dsm" {
            continue; // The start of the momentum is what kappa = 1 makes stationary.
        }
        let law = Gaussian::new(&spec(description, json!({}), &[1]), 0.0, 1.0);
        let start = law.marginal(1.0);
        for steps in [1, 2, 7] {
            let end = law.propagate(&plan(law.spec(), "sscs", steps, 0.05), &start);
            let distance = end.distance(&start);
            assert!(distance < 1e-12, "{process}, {steps} steps: {distance:e}");
        }
    }
}

/// The published code adds `numerical_eps` to each half step's covariance.
#[test]
fn sscs_adds_numerical_eps_in_each_half_step() {
    let excess = |eps: f64| {
        let law = Gaussian::new(
            &spec(with(psld(), json!({ "kappa": 1.0, "numerical_eps": eps })), json!({}), &[1]),
            0.0,
            1.0,
        );
        let start = Moments { mean: Mat::zeros(2, 1), covariance: Mat::diagonal(&[1.0, 0.25]) };
        // Without network: the A part alone.
        let mut plan = plan(law.spec(), "sscs", 1, 0.05);
        let half_steps = |plan: &Plan| {
            plan.rows
                .iter()
                .filter_map(|row| match row {
                    Row::Update(row) => Some(row.noise.len()),
                    _ => None,
                })
                .sum::<usize>()
        };
        assert_eq!(half_steps(&plan), 2);
        // What is left of the first row: A z + C xi, covariance A S A^T + C C^T = S + eps.
        plan.rows.truncate(1);
        law.propagate(&plan, &start).covariance - start.covariance
    };
    assert!(excess(0.0).max_abs() < 1e-15);
    assert!((excess(1e-3) - Mat::identity(2) * 1e-3).max_abs() < 1e-15);
}

/// The closing step is one noise-free Euler step of length t_end at t_end: of the reverse-time SDE for stochastic
/// samplers of first order, of the probability flow for the others.
#[test]
fn closing_step() {
    for (process, description) in processes() {
        let law = gaussian(description, json!({}));
        for name in planned(law.spec()).into_iter().chain(["gddim eta=0.5"]) {
            let stochastic = sampler(law.spec(), named(name)).info().stochastic;
            let along_the_flow = !stochastic || ["sde_dpmpp", "sa_solver"].contains(&name);
            let weight = if along_the_flow { 0.5 } else { 1.0 };
            let t = 0.1;
            let compile = |denoise: bool| {
                let options = with(named(name), json!({ "steps": 3, "t_end": t, "denoise": denoise }));
                sampler(law.spec(), options).plan().unwrap().clone()
            };
            let start = law.marginal(1.0);
            let open = law.propagate(&compile(false), &start);
            let closed = law.propagate(&compile(true), &start);
            let (score, offset) = law.score(t);
            let pull = law.diffusion(t) * (weight * t);
            let map = Mat::identity(score.rows()) - law.drift(t) * t + pull * score;
            let expected = Moments {
                mean: map * open.mean + pull * offset,
                covariance: map * open.covariance * map.transpose(),
            };
            let relative = closed.distance(&expected) / (1.0 + expected.covariance.max_abs());
            assert!(relative < 1e-9, "{process}, {name}: {relative:e}");
        }
    }
}

/// `denoise_time: float32` is the published code's rounding of the closing step, to the digits that an independent
/// implementation gives.
#[test]
fn closing_step_of_the_published_code() {
    let law = gaussian(psld(), json!({}));
    let options = json!({ "sampler": "em", "steps": 2, "denoise_time": "float32" });
    let plan = sampler(law.spec(), options).plan().unwrap().clone();
    let Row::Eval(last) = &plan.rows[plan.rows.len() - 2] else { panic!("{}", plan.explain()) };
    assert!((last.t - 9.999_871_253_97e-4).abs() < 1e-15, "{:e}", last.t);
    let Row::Update(update) = &plan.rows[plan.rows.len() - 1] else { panic!() };
    // A = I - h F with F_12 = 4 M^-1 = 16.16... at M^-1 = 4 and beta = 8.
    let h = -update.a[(0, 1)] / 16.0;
    assert!((h - 1.000_000_047_497_451_3e-3).abs() < 1e-18, "{h:e}");
    // The published probability-flow code does not round.
    let compile = |time: &str| {
        sampler(law.spec(), json!({ "sampler": "euler", "steps": 2, "denoise_time": time })).hash()
    };
    assert_eq!(compile("float32"), compile("exact"));
}

/// For k = 1 and B = 0, the exponential integrator of epsilon is DDIM (arXiv 2010.02502, eq. 12, eta = 0), written here
/// with alpha and sigma of VP in closed form.
#[test]
fn conjugate_of_vp_is_ddim() {
    for (low, high) in [(0.1_f64, 20.0_f64), (5.0, 5.0)] {
        let spec = spec(json!({ "kind": "vp", "beta_min": low, "beta_max": high }), json!({}), &[1]);
        for grid in ["uniform", "quadratic", "log_snr"] {
            let options = json!({ "sampler": "conjugate", "steps": 7, "time_grid": grid, "denoise": false });
            let plan = sampler(&spec, options).plan().unwrap().clone();
            let b = |t: f64| low * t + 0.5 * (high - low) * t * t;
            let (alpha, sigma) = (|t: f64| (-0.5 * b(t)).exp(), |t: f64| (-(-b(t)).exp_m1()).sqrt());
            for (step, pair) in plan.grid.windows(2).enumerate() {
                let (t, u) = (pair[0], pair[1]);
                let Row::Update(row) = &plan.rows[2 * step + 1] else { panic!("{}", plan.explain()) };
                let scale = alpha(u) / alpha(t);
                let expected = sigma(u) - sigma(t) * scale;
                assert!((row.a[(0, 0)] / scale - 1.0).abs() < 1e-13, "{t} -> {u}");
                assert!((row.terms[0].1[(0, 0)] / expected - 1.0).abs() < 1e-11, "{grid}, {t} -> {u}");
            }
        }
    }
}

/// The noise of `roba` for other `lambda_s`: the position's variance is that of a friction lambda_s times as strong,
/// in closed form; the momentum's and the decay stay (docs/methods.md, "Samplers").
#[test]
fn lambda_s_scales_the_positions_noise() {
    let (gamma, nu, beta, h) = (0.01, 4.01, 8.0, 0.95_f64);
    let spec = spec(psld(), json!({}), &[1]);
    for lambda_s in [0.0, 0.5, 1.0, 7.0] {
        let plan = plan(&spec, json!({ "sampler": "roba", "lambda_s": lambda_s }), 1, 1.0 - h);
        let Row::Update(row) = &plan.rows[0] else { panic!("{}", plan.explain()) };
        let c = row.noise[0].2;
        let covariance = c * c.transpose();
        let expected = Mat::diagonal(&[
            -(-lambda_s * h * beta * gamma).exp_m1(),
            -(-h * beta * nu).exp_m1() / ((nu - gamma) * (nu - gamma) / 4.0),
        ]);
        assert!((covariance - expected).max_abs() < 1e-14, "{lambda_s}: {covariance:?}");
        let decay = Mat::diagonal(&[(-0.5 * h * beta * gamma).exp(), (-0.5 * h * beta * nu).exp()]);
        assert!((row.a - decay).max_abs() < 1e-14, "{lambda_s}: {:?}", row.a);
    }
}

/// A lambda that makes the sampler unstable is refused, and the one that is named instead is stable: the standard
/// deviation of unit normal data, which the moments give, stays in sight of 1.
#[test]
fn unstable_lambdas() {
    let spec = spec(psld(), json!({}), &[1]);
    let law = Gaussian::new(&spec, 0.0, 1.0);
    let deviation = |options: &Value| {
        let end = law.propagate(&plan(&spec, options.clone(), 20, 1e-3), &law.marginal(1.0));
        end.covariance[(0, 0)].sqrt()
    };
    for (options, bad) in [
        (json!({ "sampler": "conjugate", "matrix": "identity" }), 60.0),
        (json!({ "sampler": "conjugate", "matrix": "ones" }), 60.0),
        (json!({ "sampler": "conjugate", "matrix": "ones" }), -60.0),
        (json!({ "sampler": "cvv" }), 100.0),
    ] {
        let grid = json!({ "steps": 20, "time_grid": "uniform" });
        let unstable = with(options.clone(), with(grid, json!({ "lambda": bad })));
        let error = Sampler::compile(&spec, &support::options(unstable), None).unwrap_err();
        println!("{error}");
        assert_eq!(error.status(), Status::InvalidArgument);
        let hint = error.hint_text().unwrap();
        let named: f64 =
            hint.split(&[' ', ','][..]).find_map(|word| word.parse().ok().filter(|x| *x != 0.0)).unwrap();
        let stable = deviation(&with(options, json!({ "lambda": named })));
        assert!(stable < 20.0, "{error}: {stable}");
    }
}

/// The error of the samples' law, by exact moments: max |difference of mean, of standard deviation| of the position from
/// the data's, over the data's standard deviation; started from the prior, with the closing step. Each sampler on its best
/// grid.
fn error_at(law: &Gaussian, options: &Value, mean: f64, deviation: f64) -> (f64, &'static str) {
    let start = Moments { mean: Mat::zeros(2, 1), covariance: Mat::diagonal(&[1.0, 0.25]) };
    let of = |grid: &'static str| {
        let options = with(options.clone(), json!({ "time_grid": grid }));
        let end = law.propagate(support::sampler(law.spec(), options).plan().unwrap(), &start);
        let spread = (end.covariance[(0, 0)].sqrt() - deviation).abs();
        (spread.max((end.mean[(0, 0)] - mean).abs()) / deviation, grid)
    };
    psld::grid::NAMES.into_iter().map(of).min_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

/// Fifty calls are better than 200 of Euler-Maruyama on wide data, and than 1000 on narrow ones; `sa_solver` wherever the steps
/// end, `sde_dpmpp` up to t_end = 0.001, the default.
#[test]
fn stochastic_samplers_at_fifty_calls() {
    for (deviation, t_end, calls) in
        [(0.6, 1e-3, 200), (0.04, 1e-3, 1000), (0.04, 3e-4, 1000), (0.04, 1e-4, 1000)]
    {
        let law = Gaussian::new(&spec(psld(), json!({}), &[1]), 0.5, deviation * deviation);
        let error = |name: &str, calls: u32| {
            let options = with(named(name), json!({ "nfe": calls, "t_end": t_end }));
            error_at(&law, &options, 0.5, deviation)
        };
        let em = error("em", calls);
        let few = ["sa_solver", "sde_dpmpp"].map(|name| (name, error(name, 50)));
        println!("{deviation} to {t_end}: {few:?}, em at {calls} {em:?}");
        for (name, few) in few {
            if name == "sa_solver" || t_end == 1e-3 {
                assert!(few.0 < em.0, "{deviation} to {t_end}: {name} {few:?}, {em:?}");
            }
        }
    }
}
