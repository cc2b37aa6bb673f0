//! Gaussian paths against what shares no code with them: a 150-digit reference, published numbers, the
//! differential equation, and the algebra any linear process obeys.

use proptest::prelude::*;
use psld::process::{Beta, Cld, Decomposition, MAX_K, Mat, Process, Psld, Recipe, ScoreMatching};
use psld::{Result, Status};
use serde_json::Value;

/// Worst elementwise relative error; an exact zero must be met exactly.
fn relative(actual: Mat, expected: Mat) -> f64 {
    assert_eq!((actual.rows(), actual.cols()), (expected.rows(), expected.cols()));
    let mut worst: f64 = 0.0;
    for i in 0..actual.rows() {
        for j in 0..actual.cols() {
            let (a, e) = (actual[(i, j)], expected[(i, j)]);
            let error = if a == e { 0.0 } else { (a - e).abs() / e.abs() };
            assert!(!error.is_nan(), "{actual:?} against {expected:?}");
            worst = worst.max(error);
        }
    }
    worst
}

/// Largest difference, relative to the largest element.
fn normwise(actual: Mat, expected: Mat) -> f64 {
    (actual - expected).max_abs() / expected.max_abs()
}

fn scalar(x: f64) -> Mat {
    Mat::from_rows([[x]])
}

fn third_order() -> Recipe {
    Recipe::third_order(Beta { min: 8.0, max: 8.0 }, 0.04)
}

/// A recipe with every element in use.
fn dense() -> Recipe {
    Recipe {
        d: Mat::from_rows([[0.5, -0.25, 0.125], [-0.25, 0.75, 0.0], [0.125, 0.0, 0.25]]),
        q: Mat::from_rows([[0.0, -0.5, 0.25], [0.5, 0.0, 1.0], [-0.25, -1.0, 0.0]]),
        s: Mat::from_rows([[1.0, 0.25, -0.125], [0.25, 0.5, 0.0625], [-0.125, 0.0625, 2.0]]),
        beta: Beta { min: 0.5, max: 6.0 },
        ..third_order()
    }
}

fn examples() -> Vec<Process> {
    let psld = Psld { numerical_eps: 0.0, ..Psld::default() };
    vec![
        Process::vp(0.1, 20.0, 0.0).unwrap(),
        Process::cld(Cld::default()).unwrap(),
        Process::psld(psld).unwrap(),
        Process::psld(Psld { beta_min: 0.1, beta_max: 20.0, decomposition: Decomposition::Upper, ..psld })
            .unwrap(),
        Process::psld(Psld { score_matching: ScoreMatching::Dsm, ..psld }).unwrap(),
        Process::recipe(third_order()).unwrap(),
        Process::recipe(Recipe { decomposition: Decomposition::Upper, ..dense() }).unwrap(),
    ]
}

/// The process of one entry of reference.json.
fn build(p: &Value) -> Result<Process> {
    if p.get("beta").is_none() {
        let mut spec = p.clone();
        for shared in ["kappa", "numerical_eps", "score_matching", "decomposition"] {
            spec.as_object_mut().unwrap().remove(shared);
        }
        let spec = serde_json::json!({ "format": 1, "process": spec, "data": { "shape": [1] } });
        return psld::ModelSpec::parse(&spec.to_string())?.process();
    }
    let number = |key: &str| p[key].as_f64().unwrap();
    let mat = |key: &str| serde_json::from_value::<Mat>(p[key].clone()).unwrap();
    let beta = Beta { min: p["beta"][0].as_f64().unwrap(), max: p["beta"][1].as_f64().unwrap() };
    let decomposition = serde_json::from_value(p["decomposition"].clone()).unwrap();
    let score_matching = serde_json::from_value(p["score_matching"].clone()).unwrap();
    let (kappa, numerical_eps) = (number("kappa"), number("numerical_eps"));
    match p["kind"].as_str().unwrap() {
        "vp" => Process::vp(beta.min, beta.max, numerical_eps),
        "psld" => Process::psld(Psld {
            beta_min: beta.min,
            beta_max: beta.max,
            gamma: number("gamma"),
            nu: number("nu"),
            kappa,
            decomposition,
            score_matching,
            numerical_eps,
        }),
        "recipe" => Process::recipe(Recipe {
            d: mat("d"),
            q: mat("q"),
            s: mat("s"),
            beta,
            kappa,
            numerical_eps,
            decomposition,
            score_matching,
        }),
        kind => panic!("{kind}"),
    }
}

/// The contract of the module, 1e-9, with the margin it has been found to have.
#[test]
fn kernels_equal_150_digit_arithmetic() {
    let reference: Value = serde_json::from_str(include_str!("data/process/reference.json")).unwrap();
    let mut worst = (0.0, String::new());
    let mut entries = 0;
    for example in reference.as_array().unwrap() {
        let process = build(&example["process"]).unwrap();
        for case in example["cases"].as_array().unwrap() {
            let t = case["t"].as_f64().unwrap();
            let number = |key: &str| scalar(case[key].as_f64().unwrap());
            let mat = |value: &Value| serde_json::from_value::<Mat>(value.clone()).unwrap();
            let log_snr = case["log_snr"].as_f64().unwrap();
            if let (Some(drift), Some(diffusion)) = (case.get("drift"), case.get("diffusion")) {
                assert!(relative(process.drift(t), mat(drift)) < 1e-9, "drift of {} at {t}", example["name"]);
                let error = relative(process.diffusion(t), mat(diffusion));
                assert!(error < 1e-9, "diffusion of {} at {t}: {error:e}", example["name"]);
            }
            for (what, actual, expected) in [
                ("mean", process.mean(t), mat(&case["mean"])),
                ("transition", process.transition(0.0, t), mat(&case["transition"])),
                ("covariance", process.covariance(t), mat(&case["covariance"])),
                ("data_covariance", process.data_covariance(t), mat(&case["data_covariance"])),
                ("determinant", scalar(process.determinant(t)), number("determinant")),
                ("factor", process.factor(t), mat(&case["factor"])),
                ("inverse_factor", process.inverse_factor(t), mat(&case["inverse_factor"])),
                ("x0_weights", process.x0_weights(t), mat(&case["x0_weights"])),
                // A logarithm has a zero: near it, what is relative is the error of its argument.
                (
                    "log_snr",
                    scalar(1.0 + (process.log_snr(t) - log_snr) / log_snr.abs().max(1.0)),
                    scalar(1.0),
                ),
                ("half transition", process.transition(t / 2.0, t), mat(&case["half"]["transition"])),
                ("half added_noise", process.added_noise(t / 2.0, t), mat(&case["half"]["added_noise"])),
            ] {
                let error = relative(actual, expected);
                let place =
                    format!("{what} of {} at t = {t}: {actual:?} against {expected:?}", example["name"]);
                assert!(error < 1e-9, "{place}: relative error {error:e}");
                entries += 1;
                if error > worst.0 {
                    worst = (error, place);
                }
            }
        }
    }
    assert!(entries > 1000, "only {entries} entries");
    println!("worst relative error {:e}: {}", worst.0, worst.1); // shown by --nocapture
}

/// Printed by an independent implementation: gamma, t, S row-major, (Σxx, Σxm, Σmm), (L⁻ᵀ₁₁, ₁₂, ₂₂) for β = 8, ν = Γ + 4, κ = 0.04, eps = 1e-9.
///
/// As printed there, but for the last number of the first row: 11.1634212 there, by a formula that cancels.
#[rustfmt::skip]
const GOLDEN: &str = "
    0    1e-5  .99999999680 1.59987201e-4 -3.99968001e-5 .999840010  1.25664163e-9 1.60601502e-6 .0100767886  28209.4279 -14267.0925 11.1634213
    0    .1    .80879214 .71892634 -.17973159 .08986579  .22181006204 .12985984037 .21575835155  2.12329031 -1.56619872 2.67518144
    .01  1e-5  .999999597 1.59987137e-4 -3.99967841e-5 .999839610  8.01256321e-7 1.60601373e-6 .0100769806  1117.15714 -19.9701788 9.96332201
    .01  1e-3  .99992817 .01587188 -.00396797 .98405630  8.31914374e-5 2.19167303e-4 .0175762255  109.637894 -20.2063379 7.66991368
    .01  .1    .80556343 .71605638 -.17901410 .08950705  .22801074575 .12882510611 .21603119193  2.09422019 -1.49281029 2.64216191
    .01  .5    .08976482 .14362372 -.03590593 -.05385889  .98699161177 .00507958905 .24801457787  1.00656835 -.0103347364 2.00809514
    .01  1     .00290078 .00515694 -.00128924 -.00225616  .99998520390 6.5321668e-6 .24999711721  1.00000740 -1.306460e-5 2.00001153
    .02  .1    .80234761 .71319788 -.17829947 .08914973  .23416202188 .12779861669 .21630185829  2.06653027 -1.42564711 2.61217546";

#[test]
fn golden_numbers_of_the_published_settings() {
    for row in GOLDEN.trim().lines() {
        let mut printed = row.split_whitespace();
        let mut number = || printed.next().unwrap().parse::<f64>().unwrap();
        let (gamma, t) = (number(), number());
        let process = Process::psld(Psld { gamma, nu: gamma + 4.0, ..Psld::default() }).unwrap();
        let (s, c, l) =
            (process.transition(0.0, t), process.covariance(t), process.inverse_factor(t).transpose());
        assert_eq!(process.score_from_eps(t), -l);
        let computed = [
            s.row_slice(0),
            s.row_slice(1),
            c.row_slice(0),
            &c.row_slice(1)[1..],
            l.row_slice(0),
            &l.row_slice(1)[1..],
        ];
        let computed: Vec<f64> = computed.concat();
        let printed: Vec<&str> = printed.collect();
        assert_eq!(computed.len(), printed.len());
        for (value, text) in computed.into_iter().zip(printed) {
            // Half a unit of the last digit printed.
            let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
            let decimals = mantissa.split_once('.').unwrap().1.len() as i32;
            let half_unit = 0.5 * 10f64.powi(exponent.parse::<i32>().unwrap() - decimals);
            let expected: f64 = text.parse().unwrap();
            assert!((value - expected).abs() <= 1.001 * half_unit, "{value} against {text} in {row}");
        }
    }
}

#[test]
fn recipe_with_the_matrices_of_psld_is_psld() {
    for (gamma, nu) in [(0.0, 4.0), (0.01, 4.01), (0.25, 4.25), (4.0, 0.0), (3.0, 0.5)] {
        for score_matching in [ScoreMatching::Hsm, ScoreMatching::Dsm] {
            let preset =
                Process::psld(Psld { gamma, nu, score_matching, numerical_eps: 0.0, ..Psld::default() })
                    .unwrap();
            let general = Process::recipe(*preset.parameters().unwrap()).unwrap();
            for (preset, general) in [
                (&preset, &general),
                (&preset.time_reversed_ou().unwrap(), &general.time_reversed_ou().unwrap()),
            ] {
                for t in [1e-7, 1e-4, 0.03, 0.3, 1.0] {
                    assert!(relative(general.transition(0.0, t), preset.transition(0.0, t)) < 1e-9);
                    assert!(relative(general.transition(t, 0.0), preset.transition(t, 0.0)) < 1e-9);
                    assert!(relative(general.covariance(t), preset.covariance(t)) < 1e-9);
                    assert!(relative(general.factor(t), preset.factor(t)) < 1e-9);
                    assert!(relative(general.inverse_factor(t), preset.inverse_factor(t)) < 1e-9);
                    assert!(relative(scalar(general.determinant(t)), scalar(preset.determinant(t))) < 1e-9);
                    assert!(relative(general.added_noise(t / 3.0, t), preset.added_noise(t / 3.0, t)) < 1e-9);
                    assert!(relative(general.drift(t), preset.drift(t)) < 1e-15);
                    assert_eq!(general.diffusion(t), preset.diffusion(t));
                }
            }
        }
    }
}

#[test]
fn transitions_compose_and_invert() {
    for process in examples() {
        for (s, t, u) in [(0.0, 0.3, 0.8), (0.9, 0.2, 0.5), (1e-6, 1e-3, 1.0), (1.0, 0.4, 0.4)] {
            let composed = process.transition(t, u) * process.transition(s, t);
            assert!(normwise(composed, process.transition(s, u)) < 1e-9, "{process}");
        }
        assert_eq!(process.transition(0.4, 0.4), Mat::identity(process.k()));
    }
}

#[test]
fn added_noise_carries_one_marginal_to_another() {
    for process in examples() {
        let eps = Mat::identity(process.k()) * process.numerical_eps();
        for (s, t, u) in [(0.1, 0.3, 0.8), (0.01, 0.011, 0.5), (1e-6, 1e-3, 1.0)] {
            let psi = process.transition(t, u);
            let composed = psi * process.added_noise(s, t) * psi.transpose() + process.added_noise(t, u);
            assert!(normwise(composed, process.added_noise(s, u)) < 1e-12, "{process}");
            let carried =
                psi * (process.covariance(t) - eps) * psi.transpose() + process.added_noise(t, u) + eps;
            assert!(normwise(carried, process.covariance(u)) < 1e-12, "{process}");
        }
        assert_eq!(process.added_noise(0.4, 0.4), Mat::zeros(process.k(), process.k()));
        // The reverse sign is that of the integral.
        let psi = process.transition(0.2, 0.3);
        let back = -(psi * process.added_noise(0.3, 0.2) * psi.transpose());
        assert!(normwise(back, process.added_noise(0.2, 0.3)) < 1e-12, "{process}");
    }
}

/// dΣ/dt = F Σ + Σ Fᵀ + G Gᵀ, with the derivative by central differences.
#[test]
fn covariance_solves_the_lyapunov_equation() {
    for process in examples() {
        for t in [0.02, 0.2, 0.7] {
            let h = 1e-4 * t;
            let slope = (process.covariance(t + h) - process.covariance(t - h)) * (0.5 / h);
            let clean = process.covariance(t) - Mat::identity(process.k()) * process.numerical_eps();
            let moved = process.drift(t) * clean;
            let expected = moved + moved.transpose() + process.diffusion(t);
            let scale = moved.max_abs().max(process.diffusion(t).max_abs());
            assert!((slope - expected).max_abs() < 1e-6 * scale, "{process} at {t}: {slope:?} {expected:?}");
        }
    }
}

#[test]
fn the_prior_is_stationary() {
    for process in examples() {
        let s = process.prior_covariance();
        let pull = process.drift(0.5) * s;
        assert!((pull + pull.transpose() + process.diffusion(0.5)).max_abs() < 1e-13, "{process}");
        let psi = process.transition(0.1, 0.6);
        assert!(normwise(psi * s * psi.transpose() + process.added_noise(0.1, 0.6), s) < 1e-12, "{process}");
        let factor = process.prior_factor();
        assert!(normwise(factor * factor.transpose(), s) < 1e-15, "{process}");
        // SSCS's half A keeps it too, and turns the other way.
        let half = process.time_reversed_ou().unwrap();
        let psi = half.transition(0.1, 0.6);
        assert!(normwise(psi * s * psi.transpose() + half.added_noise(0.1, 0.6), s) < 1e-12, "{process}");
        assert!(
            (process.drift(0.5) + half.drift(0.5) + process.diffusion(0.5) * s.inverse().unwrap()).max_abs()
                < 1e-12
        );
        assert_eq!(half.time_reversed_ou().unwrap().drift(0.5), process.drift(0.5));
    }
}

/// SSCS's half A of PSLD is the forward kernel with its off-diagonal elements negated.
#[test]
fn the_reversed_half_of_psld_negates_what_couples() {
    let psld = Process::psld(Psld::default()).unwrap();
    let half = psld.time_reversed_ou().unwrap();
    let flip = Mat::diagonal(&[1.0, -1.0]);
    for (u, t) in [(0.001, 0.002), (0.3, 0.9)] {
        assert_eq!(half.transition(u, t), flip * psld.transition(u, t) * flip);
        assert_eq!(half.added_noise(u, t), flip * psld.added_noise(u, t) * flip);
    }
}

#[test]
fn eps_score_and_x0_are_three_views_of_one_state() {
    for process in examples() {
        let k = process.k();
        for t in [1e-4, 0.05, 0.5] {
            let identity = process.eps_from_score(t) * process.score_from_eps(t);
            assert!((identity - Mat::identity(k)).max_abs() < 1e-9, "{process}");
            // z = a x_0 + L ε (with m_0 = 0, a draw of either kernel).
            let (x0, eps) = (0.7, Mat::from_fn(k, 1, |i, _| [0.3, -1.1, 0.4][i]));
            let z = process.mean(t) * x0 + process.factor(t) * eps;
            let (on_z, on_eps) = process.x0_from_eps(t);
            assert_eq!((on_z.rows(), on_z.cols(), on_eps.rows(), on_eps.cols()), (1, k, 1, k));
            assert!(((on_z * z + on_eps * eps)[(0, 0)] - x0).abs() < 1e-9, "{process} at {t}");
            // The projection is unbiased, with the variance that log_snr says.
            let w = process.x0_weights(t);
            assert!(((w * process.mean(t))[(0, 0)] - 1.0).abs() < 1e-9, "{process}");
            let variance = (w * process.data_covariance(t) * w.transpose())[(0, 0)];
            let expected = (-2.0 * process.log_snr(t)).exp();
            assert!((variance / expected - 1.0).abs() < 1e-6, "{process} at {t}: {variance} {expected}");
        }
    }
}

#[test]
fn vp_is_the_textbook_process() {
    let (low, high, t) = (0.1, 20.0, 0.4);
    let vp = Process::vp(low, high, 0.0).unwrap();
    let b = low * t + 0.5 * (high - low) * t * t;
    let (alpha, sigma) = ((-0.5 * b).exp(), (1.0 - (-b).exp()).sqrt());
    let beta = vp.parameters().unwrap().beta;
    assert!((beta.integral(0.0, t) - b).abs() < 1e-14);
    assert!((vp.mean(t)[(0, 0)] - alpha).abs() < 1e-14);
    assert!((vp.factor(t)[(0, 0)] - sigma).abs() < 1e-14);
    assert!((vp.log_snr(t) - (alpha / sigma).ln()).abs() < 1e-13);
    assert!((vp.drift(t)[(0, 0)] + 0.5 * beta.at(t)).abs() < 1e-14);
    assert!((vp.diffusion(t)[(0, 0)] - beta.at(t)).abs() < 1e-14);
    assert!((vp.x0_weights(t)[(0, 0)] - 1.0 / alpha).abs() < 1e-13);
    let (on_z, on_eps) = vp.x0_from_eps(t);
    assert!((on_z[(0, 0)] - 1.0 / alpha).abs() < 1e-13 && (on_eps[(0, 0)] + sigma / alpha).abs() < 1e-13);
}

#[test]
fn third_order_is_critically_damped() {
    // A triple eigenvalue -√3 means (A + √3)³ = 0.
    let drift =
        Process::recipe(Recipe { beta: Beta { min: 1.0, max: 1.0 }, ..third_order() }).unwrap().drift(0.0);
    let nilpotent = drift + Mat::identity(3) * 3f64.sqrt();
    assert!((nilpotent * nilpotent * nilpotent).max_abs() < 1e-13);
}

#[test]
fn data_covariance_holds_the_momentum_that_dsm_conditions_on() {
    let hsm = Process::psld(Psld::default()).unwrap();
    let dsm = Process::psld(Psld { score_matching: ScoreMatching::Dsm, ..Psld::default() }).unwrap();
    assert_eq!(dsm.data_covariance(0.01), hsm.covariance(0.01));
    assert_eq!(dsm.log_snr(0.01), hsm.log_snr(0.01));
    // docs/methods.md, "What a network says": l22 .130 against .089 at t = 1e-3.
    assert!(
        (hsm.factor(1e-3)[(1, 1)] - 0.130).abs() < 5e-4 && (dsm.factor(1e-3)[(1, 1)] - 0.089).abs() < 5e-4
    );
}

#[test]
fn paths_start_at_the_data() {
    for process in examples() {
        let k = process.k();
        assert_eq!(process.mean(0.0), Mat::identity(k).column(0));
        let Recipe { s, kappa, numerical_eps, .. } = *process.parameters().unwrap();
        let start = Mat::from_fn(k, k, |i, j| if i > 0 && j > 0 { kappa * s[(i, j)] } else { 0.0 });
        let start = start + Mat::identity(k) * numerical_eps;
        assert!((process.data_covariance(0.0) - start).max_abs() < 1e-16, "{process}");
        assert!(process.determinant(0.0) <= numerical_eps);
    }
}

prop_compose! {
    fn any_beta()(min in 0.05..25.0f64, max in 0.05..25.0f64) -> Beta {
        Beta { min, max }
    }
}

prop_compose! {
    fn any_decomposition()(lower: bool) -> Decomposition {
        if lower { Decomposition::Lower } else { Decomposition::Upper }
    }
}

prop_compose! {
    fn any_psld()(
        beta in any_beta(),
        gamma in prop_oneof![Just(0.0), 0.001..1.0f64],
        gap in 0.5..6.0f64,
        swap: bool,
        kappa in prop_oneof![Just(0.0), 1e-3..1.0f64],
        numerical_eps in prop_oneof![Just(0.0), 1e-12..1e-6f64],
        decomposition in any_decomposition(),
        hsm: bool,
    ) -> Process {
        let (gamma, nu) = if swap { (gamma + gap, gamma) } else { (gamma, gamma + gap) };
        let score_matching = if hsm { ScoreMatching::Hsm } else { ScoreMatching::Dsm };
        let (beta_min, beta_max) = (beta.min, beta.max);
        Process::psld(Psld { beta_min, beta_max, gamma, nu, kappa, decomposition, score_matching, numerical_eps })
            .unwrap()
    }
}

prop_compose! {
    /// S = R Rᵀ scaled to S₁₁ = 1, D = V Vᵀ, Q from its upper triangle, for k = 1 to 4.
    fn any_recipe()(
        k in 1..=MAX_K,
        entries in proptest::array::uniform32(-1.0..1.0f64),
        kappa in 0.0..1.0f64,
        beta in any_beta(),
        decomposition in any_decomposition(),
    ) -> Process {
        let v = Mat::from_fn(k, k, |i, j| entries[4 * i + j] + f64::from(i == j));
        let q = Mat::from_fn(k, k, |i, j| entries[4 * i.min(j) + i.max(j)] * (j as f64 - i as f64));
        let r = Mat::from_fn(k, k, |i, j| 0.5 * entries[16 + 4 * i + j] + 2.0 * f64::from(i == j));
        let s = r * r.transpose();
        let scale = s[(0, 0)].sqrt();
        let s = Mat::from_fn(k, k, |i, j| match (i, j) {
            (0, 0) => 1.0,
            (0, _) | (_, 0) => s[(i, j)] / scale,
            _ => s[(i, j)],
        });
        let d = v * v.transpose() + Mat::identity(k) * 0.01;
        Process::recipe(Recipe { d, q, s, beta, kappa, decomposition, ..third_order() }).unwrap()
    }
}

fn is_sound(process: &Process, t: f64) -> std::result::Result<(), TestCaseError> {
    let (covariance, factor) = (process.covariance(t), process.factor(t));
    for m in [covariance, factor, process.score_from_eps(t), process.mean(t), process.x0_weights(t)] {
        prop_assert!(m.is_finite(), "{process} at {t}: {m:?}");
    }
    prop_assert!(process.log_snr(t).is_finite());
    prop_assert!(process.log_snr(t) < process.log_snr(0.9 * t) + 1e-12);
    prop_assert!(process.determinant(t) > 0.0);
    for i in 0..process.k() {
        prop_assert!(factor[(i, i)] > 0.0);
        for j in 0..process.k() {
            let zero = if process.decomposition() == Decomposition::Lower { j > i } else { j < i };
            prop_assert!(!zero || factor[(i, j)] == 0.0);
            // Elementwise at the scale Cauchy-Schwarz gives the element: a relative test of small blocks too.
            let scale = (covariance[(i, i)] * covariance[(j, j)]).sqrt();
            let product = (factor * factor.transpose())[(i, j)];
            prop_assert!((product - covariance[(i, j)]).abs() <= 1e-12 * scale, "{process} at {t}");
        }
    }
    let inverse = process.inverse_factor(t);
    let magnitude = |m: Mat| Mat::from_fn(m.rows(), m.cols(), |i, j| m[(i, j)].abs());
    let (identity, bound) = (factor * inverse, magnitude(factor) * magnitude(inverse));
    for i in 0..process.k() {
        for j in 0..process.k() {
            prop_assert!(
                (identity[(i, j)] - f64::from(i == j)).abs() <= 1e-13 * bound[(i, j)],
                "{process} at {t}"
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn psld_kernels_are_sound(process in any_psld(), exponent in -7.0..0.0f64) {
        is_sound(&process, 10f64.powf(exponent))?;
    }

    #[test]
    fn recipe_kernels_are_sound(process in any_recipe(), exponent in -7.0..0.0f64) {
        is_sound(&process, 10f64.powf(exponent))?;
    }

    #[test]
    fn matrices_round_trip(entries in proptest::array::uniform16(-2.0..2.0f64), n in 1..=MAX_K, m in 1..=MAX_K) {
        let a = Mat::from_fn(n, m, |i, j| entries[4 * i + j]);
        let json = serde_json::to_string(&a).unwrap();
        // serde_json's parser is off by a unit of the last place unless its feature float_roundtrip is on.
        prop_assert!((serde_json::from_str::<Mat>(&json).unwrap() - a).max_abs() < 1e-15);
        let spd = a * a.transpose() + Mat::identity(n) * 0.1;
        prop_assert!((spd * spd.inverse().unwrap() - Mat::identity(n)).max_abs() < 1e-10);
        let (lower, upper, root) = (spd.cholesky_lower().unwrap(), spd.cholesky_upper().unwrap(), spd.psd_factor());
        for f in [lower, upper, root] {
            prop_assert!((f * f.transpose() - spd).max_abs() < 1e-12);
        }
        let volume = (0..n).fold(1.0, |p, i| p * lower[(i, i)] * lower[(i, i)]);
        prop_assert!((spd.det() / volume - 1.0).abs() < 1e-10);
        // exp((A + Aᵀ)) from the eigenvalues.
        let (values, v) = spd.symmetric_eigen();
        let exponential = v * Mat::diagonal(&values.map(f64::exp)[..n]) * v.transpose();
        prop_assert!(normwise(spd.expm(), exponential) < 1e-11);
    }
}

#[test]
fn matrices() {
    let a = Mat::from_rows([[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]]);
    assert_eq!(serde_json::to_string(&a).unwrap(), "[[1.0,2.0,3.0],[4.0,5.0,6.5]]");
    assert_eq!(a.row_slice(1), [4.0, 5.0, 6.5]);
    assert_eq!((a.row(0), a.column(2)), (Mat::from_rows([[1.0, 2.0, 3.0]]), Mat::from_rows([[3.0], [6.5]])));
    assert_eq!(a * a.transpose(), Mat::from_rows([[14.0, 33.5], [33.5, 83.25]]));
    assert_eq!(a - a, a * 0.0);
    let turn = Mat::from_rows([[0.0, -1.0], [1.0, 0.0]]);
    assert_eq!((turn.det(), turn.inverse().unwrap()), (1.0, -turn));
    let (sin, cos) = 1f64.sin_cos();
    assert!((turn.expm() - Mat::from_rows([[cos, -sin], [sin, cos]])).max_abs() < 1e-15);
    // A covariance of rank one that rounding has pushed out of the cone.
    let flat = Mat::from_rows([[1.0, 1.0], [1.0, 1.0 - 1e-15]]);
    let f = flat.psd_factor();
    assert!((f * f.transpose() - flat).max_abs() < 1e-14);

    insta::assert_debug_snapshot!(flat.cholesky_lower().unwrap_err(), @"[Numeric] the matrix [[1.0, 1.0], [1.0, 0.999999999999999]] is not positive definite: its Cholesky pivot is -9.992007221626409e-16");
    insta::assert_debug_snapshot!((turn - turn).inverse().unwrap_err(), @"[Numeric] the matrix [[0.0, 0.0], [0.0, 0.0]] is singular: it has no inverse");
    let parse = |text: &str| serde_json::from_str::<Mat>(text).unwrap_err().to_string();
    insta::assert_snapshot!(parse("[[1,2],[3]]"), @"the rows of a matrix must have equal lengths");
    insta::assert_snapshot!(parse("[]"), @"a matrix has 1 to 4 rows and columns, got 0 x 0");
    insta::assert_snapshot!(parse("[[1,2,3,4,5]]"), @"a matrix has 1 to 4 rows and columns, got 1 x 5");
}

#[test]
fn names() {
    let names: Vec<String> = examples().iter().map(Process::to_string).collect();
    insta::assert_debug_snapshot!(names, @r#"
    [
        "vp",
        "cld with nu = 4",
        "psld with gamma = 0.01, nu = 4.01",
        "psld with gamma = 0.01, nu = 4.01",
        "psld with gamma = 0.01, nu = 4.01",
        "recipe of k = 3",
        "recipe of k = 3",
    ]
    "#);
    insta::assert_snapshot!(examples()[2].time_reversed_ou().unwrap(), @"psld with gamma = 0.01, nu = 4.01, time-reversed");
    let json = serde_json::to_string(&(
        Decomposition::Lower,
        Decomposition::Upper,
        ScoreMatching::Hsm,
        ScoreMatching::Dsm,
    ));
    insta::assert_snapshot!(json.unwrap(), @r#"["lower","upper","hsm","dsm"]"#);
}

/// The message of a refusal, whose status is always that of an argument.
fn refusal(result: Result<Process>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.status(), Status::InvalidArgument);
    error.to_string()
}

#[test]
fn refused_presets() {
    let psld = Psld::default();
    let refuse = |psld| refusal(Process::psld(psld));
    insta::assert_snapshot!(refuse(Psld { gamma: -1.0, ..psld }), @"psld: `gamma` is -1.0; it must be finite and >= 0");
    insta::assert_snapshot!(refuse(Psld { gamma: f64::NAN, ..psld }), @"psld: `gamma` is NaN; it must be finite and >= 0");
    insta::assert_snapshot!(refuse(Psld { nu: -0.5, ..psld }), @"psld: `nu` is -0.5; it must be finite and >= 0");
    insta::assert_snapshot!(refuse(Psld { nu: f64::INFINITY, ..psld }), @"psld: `nu` is inf; it must be finite and >= 0");
    insta::assert_snapshot!(refuse(Psld { gamma: 0.0, nu: 0.0, ..psld }), @"psld: `gamma` and `nu` are both 0; one of them must be > 0, or nothing diffuses");
    insta::assert_snapshot!(refuse(Psld { gamma: 2.0, nu: 2.0, ..psld }), @"psld: `gamma` is 2.0 and `nu` is 2.0; they must differ: critical damping makes the inverse mass (gamma - nu)^2/4 = 0.0, which must be finite and > 0");
    insta::assert_snapshot!(refuse(Psld { beta_min: 0.0, ..psld }), @"psld: `beta_min` is 0.0; it must be finite and > 0");
    insta::assert_snapshot!(refuse(Psld { beta_max: -8.0, ..psld }), @"psld: `beta_max` is -8.0; it must be finite and > 0");
    insta::assert_snapshot!(refuse(Psld { beta_max: f64::NAN, ..psld }), @"psld: `beta_max` is NaN; it must be finite and > 0");
    insta::assert_snapshot!(refuse(Psld { kappa: -0.04, ..psld }), @"psld: `kappa` is -0.04; it must be finite and >= 0");
    insta::assert_snapshot!(refuse(Psld { kappa: f64::NAN, ..psld }), @"psld: `kappa` is NaN; it must be finite and >= 0");
    insta::assert_snapshot!(refuse(Psld { numerical_eps: -1e-9, ..psld }), @"psld: `numerical_eps` is -1e-9; it must be finite and >= 0");
    insta::assert_snapshot!(refuse(Psld { numerical_eps: f64::NAN, ..psld }), @"psld: `numerical_eps` is NaN; it must be finite and >= 0");
    insta::assert_snapshot!(refuse(Psld { beta_min: 1e6, beta_max: 1e6, ..psld }), @"psld: `beta_min` is 1000000.0, `beta_max` is 1000000.0, and the drift per unit of beta is [[-0.005, 2.0], [-0.5, -2.005]]; the kernel at t = 1.0 must be finite and positive definite in double precision, and is not");
    insta::assert_snapshot!(refuse(Psld { gamma: 1e160, nu: 1.0, ..psld }), @"psld: `gamma` is 1e160 and `nu` is 1.0; they must differ: critical damping makes the inverse mass (gamma - nu)^2/4 = inf, which must be finite and > 0");
    insta::assert_snapshot!(refusal(Process::cld(Cld { nu: 0.0, ..Cld::default() })), @"cld: `nu` is 0.0; it must be finite and > 0");
    insta::assert_snapshot!(refusal(Process::vp(f64::NAN, 20.0, 0.0)), @"vp: `beta_min` is NaN; it must be finite and > 0");
    insta::assert_snapshot!(refusal(Process::vp(0.1, 20.0, -1.0)), @"vp: `numerical_eps` is -1.0; it must be finite and >= 0");
}

#[test]
fn refused_recipes() {
    let good = third_order();
    let refuse = |recipe| refusal(Process::recipe(recipe));
    insta::assert_snapshot!(refuse(Recipe { q: Mat::zeros(2, 2), ..good }), @"recipe: `q` is 2 x 2; d, q and s must be square and of one size, and d has 3 rows");
    insta::assert_snapshot!(refuse(Recipe { d: Mat::zeros(3, 2), ..good }), @"recipe: `d` is 3 x 2; d, q and s must be square and of one size, and d has 3 rows");
    insta::assert_snapshot!(refuse(Recipe { s: Mat::diagonal(&[1.0, f64::NAN, 1.0]), ..good }), @"recipe: `s` is [[1.0, 0.0, 0.0], [0.0, NaN, 0.0], [0.0, 0.0, 1.0]]; its elements must be finite");
    insta::assert_snapshot!(
        refuse(Recipe { d: Mat::from_rows([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), ..good }), @"recipe: `d` is [[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]; it must be symmetric");
    insta::assert_snapshot!(refuse(Recipe { d: Mat::diagonal(&[f64::INFINITY, 1.0, 1.0]), ..good }), @"recipe: `d` is [[inf, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]; its elements must be finite");
    insta::assert_snapshot!(refuse(Recipe { d: Mat::diagonal(&[0.0, -1.0, 1.0]), ..good }), @"recipe: `d` is [[0.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]; it must be positive semidefinite, and has the eigenvalue -1.0");
    insta::assert_snapshot!(refuse(Recipe { q: Mat::identity(3), ..good }), @"recipe: `q` is [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]; it must be skew-symmetric: qᵀ = -q");
    insta::assert_snapshot!(
        refuse(Recipe { s: Mat::from_rows([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), ..good }), @"recipe: `s` is [[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]; it must be symmetric");
    insta::assert_snapshot!(refuse(Recipe { s: Mat::diagonal(&[1.0, 1.0, 0.0]), ..good }), @"recipe: `s` is [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]; it must be positive definite");
    insta::assert_snapshot!(refuse(Recipe { s: Mat::diagonal(&[2.0, 1.0, 1.0]), ..good }), @"recipe: `s` is [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]; s[0][0], the stationary variance of the position, must be 1");
    insta::assert_snapshot!(refuse(Recipe { q: Mat::zeros(3, 3), ..good }), @"recipe: `d` is [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 5.196152422706632]] and `q` is [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]; the noise of d must reach every coordinate, directly or through q");
    insta::assert_snapshot!(refuse(Recipe { d: Mat::zeros(3, 3), ..good }), @"recipe: `d` is [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]] and `q` is [[0.0, -1.0, 0.0], [1.0, 0.0, -2.8284271247461903], [0.0, 2.8284271247461903, 0.0]]; the noise of d must reach every coordinate, directly or through q");
    insta::assert_snapshot!(refuse(Recipe { beta: Beta { min: -1.0, max: 1.0 }, ..good }), @"recipe: `beta_min` is -1.0; it must be finite and > 0");
    insta::assert_snapshot!(refuse(Recipe { kappa: -1.0, ..good }), @"recipe: `kappa` is -1.0; it must be finite and >= 0");
    insta::assert_snapshot!(refuse(Recipe { beta: Beta { min: 1e4, max: 1e4 }, ..good }), @"recipe: `beta_min` is 10000.0, `beta_max` is 10000.0, and the drift per unit of beta is [[0.0, 1.0, 0.0], [-1.0, 0.0, 2.8284271247461903], [0.0, -2.8284271247461903, -5.196152422706632]]; the kernel at t = 1.0 must be finite and positive definite in double precision, and is not");
    insta::assert_snapshot!(refuse(Recipe { beta: Beta { min: 1e-80, max: 1e-80 }, ..good }), @"recipe: `beta_min` is 1e-80, `beta_max` is 1e-80, and the drift per unit of beta is [[0.0, 1.0, 0.0], [-1.0, 0.0, 2.8284271247461903], [0.0, -2.8284271247461903, -5.196152422706632]]; the kernel at t = 1e-7 must be finite and positive definite in double precision, and is not");
}
