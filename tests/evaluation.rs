//! The figures of `psld::evaluation` against numpy's and scipy's (tests/scripts/evaluation_reference.py).

use psld::Status;
use psld::evaluation::{
    About, Bootstrap, Gaussian, Options, Points, Reference, Report, Set, Statistics, evaluate,
};
use serde::Deserialize;
use serde_json::Value;
use std::fs;
use std::path::Path;

#[derive(Deserialize)]
struct Golden {
    seed: u64,
    resamples: u32,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    dim: usize,
    neighbours: usize,
    samples: Vec<f32>,
    train: Vec<f32>,
    test: Vec<f32>,
    report: Value,
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/evaluation/reference.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

impl Case {
    /// The points serve as data and as features.
    fn report(&self, bootstrap: Bootstrap, threads: usize) -> Report {
        let set = |values| {
            let points = Points::new(values, self.dim).unwrap();
            Set { data: points, features: points }
        };
        let (samples, train, test) = (set(&self.samples), set(&self.train), set(&self.test));
        let reference = Reference::new(Gaussian::of(train.features).unwrap()).unwrap();
        let options = Options { neighbours: self.neighbours, bootstrap };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| evaluate(samples, &reference, Some(train), Some(test), &options, &|_| ()).unwrap())
    }
}

/// Each number of `got` within `tolerance` of `expected`, and nothing missing.
fn compare(place: &str, got: &Value, expected: &Value, tolerance: f64) {
    match (got, expected) {
        (Value::Object(got), Value::Object(expected)) => {
            assert!(got.keys().eq(expected.keys()), "{place}: {:?}", got.keys());
            for (key, value) in got {
                compare(&format!("{place}.{key}"), value, &expected[key], tolerance);
            }
        }
        _ => {
            let (got, expected) = (got.as_f64().unwrap(), expected.as_f64().unwrap());
            assert!((got - expected).abs() <= tolerance, "{place}: {got} for {expected}");
        }
    }
}

#[test]
fn figures_are_those_of_numpy() {
    let Golden { seed, resamples, cases } = golden();
    for case in cases {
        let report = case.report(Bootstrap { resamples, seed }, 2);
        // Far from the origin float32 has fewer digits left for distances, about 1e-5 of 100.
        let tolerance = if case.name == "far" { 2e-5 } else { 5e-6 };
        compare(&case.name, &serde_json::to_value(report).unwrap(), &case.report, tolerance);
        assert_eq!(report, case.report(Bootstrap { resamples, seed }, 1), "{}: threads", case.name);
    }
}

#[test]
fn less_to_compare_with_is_less_to_say() {
    let case = &golden().cases[0];
    let points = |values| Points::new(values, case.dim).unwrap();
    let set = |values| Set { data: points(values), features: points(values) };
    let reference = Reference::new(Gaussian::of(points(&case.train)).unwrap()).unwrap();
    let options = Options { bootstrap: Bootstrap { resamples: 5, seed: 0 }, ..Options::default() };
    let of = |train, test| evaluate(set(&case.samples), &reference, train, test, &options, &|_| ()).unwrap();
    let names = |report: &Report| report.rows().iter().map(|row| row.0).collect::<Vec<_>>();

    let alone = of(None, None);
    assert_eq!(names(&alone), ["Frechet distance"]);
    assert!(alone.frechet_distance.floor.is_none());
    let floor = of(None, Some(set(&case.test)));
    assert_eq!(names(&floor), ["Frechet distance"]);
    assert!(floor.frechet_distance.floor.is_some());
    let train = of(Some(set(&case.train)), None);
    assert_eq!(
        names(&train),
        ["Frechet distance", "precision", "recall", "energy distance", "nearest training image"]
    );
    assert!(train.rows().iter().all(|row| row.1.floor.is_none()));
}

#[test]
fn sets_that_do_not_fit_are_refused() {
    let values = [0.5_f32; 24];
    let points = |count: usize, dim| Points::new(&values[..count * dim], dim).unwrap();
    let set = |count, data, features| Set { data: points(count, data), features: points(count, features) };
    let reference = Reference::new(Gaussian::of(points(6, 2)).unwrap()).unwrap();
    let options = Options { bootstrap: Bootstrap { resamples: 0, seed: 0 }, ..Options::default() };
    let refused = |samples, train| {
        evaluate(samples, &reference, Some(train), None, &options, &|_| ()).unwrap_err().to_string()
    };
    let torn = Set { data: points(5, 4), features: points(6, 2) };
    assert!(refused(torn, set(6, 4, 2)).contains("samples: features of 6 images, but 5 images"));
    assert!(refused(set(6, 4, 2), set(6, 3, 2)).contains("points of 3 and of 4 values"));
    assert!(refused(set(6, 4, 2), set(6, 4, 3)).contains("points of 3 and of 2 values"));
    assert!(refused(set(6, 4, 3), set(6, 4, 3)).contains("3 features cannot be compared with 2"));
    assert!(refused(set(3, 4, 2), set(6, 4, 2)).contains("3 neighbours: expected 1 to 2"));
    assert!(Points::new(&[f32::NAN], 1).unwrap_err().to_string().contains("sample 0 holds NaN"));
    assert!(Points::new(&values[..5], 2).is_err() && Points::new(&[], 2).is_err());
}

fn statistics() -> Statistics {
    let about = About {
        format: 1,
        model: "f.onnx".into(),
        sha256: "00ff".into(),
        output: "features".into(),
        t: None,
        shape: vec![1, 2, 2],
        range: [-1.0, 1.0],
        images: String::new(),
    };
    let gaussian = Gaussian { count: 7, mean: vec![0.5, -1.0], covariance: vec![2.0, 0.25, 0.25, 1.0] };
    Statistics { about, gaussian }
}

#[test]
fn statistics_of_numpy_and_our_own_are_read() {
    let numpy = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/evaluation/statistics.npz");
    assert_eq!(Statistics::read(&numpy).unwrap(), statistics());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.npz");
    let own = Statistics { about: About { t: Some(1e-3), ..statistics().about }, ..statistics() };
    own.write(&path).unwrap();
    assert_eq!(Statistics::read(&path).unwrap(), own);
    own.check(&own.about).unwrap();
    let error = own.check(&statistics().about).unwrap_err();
    assert!(error.message().contains("statistics are of other features"), "{error}");
}

#[test]
fn statistics_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.npz");
    let refused = |statistics: &Statistics| {
        statistics.write(&path).unwrap();
        let error = Statistics::read(&path).unwrap_err();
        assert_eq!(error.status(), Status::ReadFailed);
        error.to_string()
    };
    let with = |change: &dyn Fn(&mut Statistics)| {
        let mut statistics = statistics();
        change(&mut statistics);
        statistics
    };
    assert!(refused(&with(&|s| s.about.format = 2)).contains("format 2"));
    assert!(refused(&with(&|s| s.gaussian.count = 1)).contains("at least 2"));
    assert!(refused(&with(&|s| s.gaussian.mean[0] = f64::NAN)).contains("not finite"));
    let torn = Gaussian { mean: vec![], covariance: vec![], count: 2 };
    assert!(refused(&with(&|s| s.gaussian = torn.clone())).contains("expected [D] and [D, D]"));
    fs::write(&path, "no archive").unwrap();
    assert!(Statistics::read(&path).unwrap_err().to_string().contains("not an .npz file"));
    assert!(Statistics::read(&folder.path().join("missing.npz")).is_err());
}
