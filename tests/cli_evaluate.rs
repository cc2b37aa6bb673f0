//! `psld verify` and `psld fd`: whether a network computes what it did, and whether its samples are good.
//!
//! `PSLD_ONNXRUNTIME` names ONNX Runtime's library; `make onnxruntime` fetches one.

#![cfg(all(feature = "cli", feature = "onnxruntime"))]

#[path = "cli/harness.rs"]
mod harness;
#[path = "onnxruntime/support.rs"]
#[allow(dead_code)]
mod support;

use harness::{Folder, Ran};
use psld::evaluation::{Bootstrap, Gaussian, Options, Points, Reference, Set, Statistics, evaluate};
use psld::golden::{GOLDEN_KEY, Golden};
use psld::io::{NewFile, npy, png};
use psld::noise::{Purpose, fill_f32};
use psld::onnx::{Dim, ElementType, Graph, Model};
use serde_json::Value;
use std::fs;
use support::Affine;

/// Snapshots what a command printed, without what differs between machines.
macro_rules! snapshot {
    ($name:expr, $ran:expr) => {
        insta::with_settings!({ filters => [
            (r"onnxruntime \d+\.\d+\.\d+", "onnxruntime [VERSION]"),
            (r"sha256 [0-9a-f]+", "sha256 [HASH]"),
        ] }, { insta::assert_snapshot!($name, $ran.to_string()) })
    };
}

fn need_onnxruntime() {
    let path = std::env::var_os("PSLD_ONNXRUNTIME").unwrap_or_default();
    assert!(
        std::path::Path::new(&path).is_file(),
        "PSLD_ONNXRUNTIME must name ONNX Runtime's library (it is {path:?}); `make test` sets it"
    );
}

fn write(folder: &Folder, name: &str, model: &Model) {
    fs::write(folder.path(name), model.to_bytes()).unwrap();
}

/// The golden output of [`Affine`], by its formula.
fn golden(affine: &Affine, seed: u64, t: f32, y: Option<i64>) -> Golden {
    let state = Golden::state(seed, affine.state.iter().product());
    let scale = if affine.time_type == ElementType::I64 { 1000.0 } else { 1.0 };
    let shift = t * scale + 10.0 * y.unwrap_or_default() as f32;
    let output: Vec<f32> = state.iter().map(|z| 2.0 * z + shift).collect();
    Golden::new(seed, t, y, &output)
}

fn with(affine: &Affine, golden: &Golden) -> Model {
    let mut model = affine.model();
    model.set_metadata(GOLDEN_KEY, &golden.to_json());
    model
}

#[test]
fn a_sound_model_is_verified() {
    need_onnxruntime();
    let folder = Folder::new();
    let plain = Affine::default();
    write(&folder, "sound.onnx", &with(&plain, &golden(&plain, 3, 0.5, None)));
    snapshot!("verify", folder.psld(["verify", "sound.onnx"]).success());
    let json = |name: &str| -> Value {
        serde_json::from_str(&folder.psld(["verify", name, "--json"]).success().stdout).unwrap()
    };
    let report = json("sound.onnx");
    assert_eq!(report["verified"], true);
    assert_eq!(
        (&report["elements"], &report["compared"], &report["t"]),
        (&96.into(), &64.into(), &0.5.into())
    );
    assert!(report["rms"].as_f64().unwrap() < 1e-6);

    // Types, labels, a fixed batch, a time in steps.
    let cases = [
        (
            "half",
            Affine { state_type: ElementType::F16, output_type: ElementType::F16, ..Affine::default() },
            1e-3,
        ),
        (
            "brain",
            Affine { state_type: ElementType::Bf16, output_type: ElementType::Bf16, ..Affine::default() },
            1e-2,
        ),
        ("labels", Affine { labels: true, ..Affine::default() }, 1e-6),
        ("batch", Affine { batch: 4.into(), time_type: ElementType::I64, ..Affine::default() }, 1e-6),
    ];
    for (name, affine, most) in cases {
        let golden = golden(&affine, 1, 0.25, affine.labels.then_some(2));
        write(&folder, &format!("{name}.onnx"), &with(&affine, &golden));
        let report = json(&format!("{name}.onnx"));
        let rms = report["rms"].as_f64().unwrap();
        assert!(rms <= most, "{name}: {rms}");
        assert_eq!(report["label"].as_i64(), affine.labels.then_some(2));
    }
    // The output that the document names, where that is not the spec's.
    let mut other = plain.model();
    for name in other.graph_mut().output.iter_mut().map(|port| &mut port.name) {
        *name = Some("logits".into());
    }
    for node in &mut other.graph_mut().node {
        node.output.iter_mut().filter(|name| *name == "eps").for_each(|name| *name = "logits".into());
    }
    let renamed = Golden { output: Some("logits".into()), ..golden(&plain, 3, 0.5, None) };
    other.set_metadata(GOLDEN_KEY, &renamed.to_json());
    write(&folder, "logits.onnx", &other);
    assert_eq!(json("logits.onnx")["output"], "logits");
    // Without a name it is the only one.
    other.set_metadata(GOLDEN_KEY, &golden(&plain, 3, 0.5, None).to_json());
    write(&folder, "only.onnx", &other);
    assert_eq!(json("only.onnx")["output"], "logits");
}

/// A graph whose inside fixes the batch, which its inputs leave open: the golden sample is filled up to it, as samples are.
#[test]
fn a_model_whose_inside_fixes_the_batch_is_verified() {
    need_onnxruntime();
    let folder = Folder::new();
    let affine = Affine::default();
    for (name, declared) in [("declared", Dim::from(3)), ("inferred", Dim::from("N"))] {
        let mut g = Graph::new("fixed");
        let n = Dim::from("N");
        let dims = [n.clone(), 6.into(), 4.into(), 4.into()];
        let z = g.input("z", ElementType::F32, &dims);
        let t = g.input("t", ElementType::F32, &[n]);
        let t = g.reshape(t, &[-1, 1, 1, 1]);
        let eps = g.mul(z, 2.0);
        let eps = g.add(eps, t);
        let eps = g.reshape(eps, &[3, 6, 4, 4]);
        g.output("eps", eps, &[declared, 6.into(), 4.into(), 4.into()]);
        let mut model = g.finish().unwrap();
        model.set_metadata("psld.spec", &affine.spec());
        model.set_metadata(GOLDEN_KEY, &golden(&affine, 3, 0.5, None).to_json());
        let file = format!("{name}.onnx");
        write(&folder, &file, &model);
        let sampled = ["sample", &file, "-n", "4", "--nfe", "3", "--quiet", "--out", "x.npy"];
        folder.psld(sampled).success();
        let ran = folder.psld(["verify", &file]).success();
        assert!(ran.stdout.contains("\nverdict    ok"), "{ran}");
        let report: Value =
            serde_json::from_str(&folder.psld(["verify", &file, "--json"]).success().stdout).unwrap();
        assert_eq!((&report["verified"], &report["elements"]), (&true.into(), &96.into()));
    }
}

#[test]
fn the_bundled_models_are_sound() {
    need_onnxruntime();
    let folder = Folder::new();
    for model in ["fashion-small", "fashion-classifier", "fashion-classifier-b", "fashion-classifier-grad"] {
        let path = format!("{}/models/{model}.onnx", env!("CARGO_MANIFEST_DIR"));
        folder.psld(["verify", &path]).success();
    }
}

#[test]
fn a_model_that_computes_something_else_is_not() {
    need_onnxruntime();
    let folder = Folder::new();
    let affine = Affine::default();
    let sound = golden(&affine, 3, 0.5, None);
    let mut off = sound.clone();
    off.values[5] += 0.01;
    write(&folder, "off.onnx", &with(&affine, &off));
    let ran = folder.psld(["verify", "off.onnx"]);
    assert_eq!(ran.code, Some(1));
    snapshot!("verify_off", ran);
    // A state of another seed, elsewhere than at the golden values, and a tolerance that lets it pass.
    write(&folder, "seed.onnx", &with(&affine, &Golden { seed: 4, ..sound.clone() }));
    assert_eq!(folder.psld(["verify", "seed.onnx"]).code, Some(1));
    write(&folder, "size.onnx", &with(&affine, &Golden { rms: 2.0 * sound.rms, ..sound.clone() }));
    assert_eq!(folder.psld(["verify", "size.onnx"]).code, Some(1));
    folder.psld(["verify", "off.onnx", "--tolerance", "0.01"]).success();
    assert_eq!(folder.psld(["verify", "off.onnx", "--tolerance", "-1"]).code, Some(2));
}

#[test]
fn models_that_cannot_be_verified() {
    need_onnxruntime();
    let folder = Folder::new();
    let affine = Affine::default();
    let sound = golden(&affine, 3, 0.5, None);
    write(&folder, "none.onnx", &affine.model());
    let mut torn = affine.model();
    torn.set_metadata(GOLDEN_KEY, "{\"format\": 1,");
    write(&folder, "torn.onnx", &torn);
    write(&folder, "label.onnx", &with(&affine, &Golden { y: Some(1), ..sound.clone() }));
    let indices = sound.indices.iter().map(|i| i + 96).collect();
    write(&folder, "other.onnx", &with(&affine, &Golden { indices, ..sound.clone() }));
    write(&folder, "output.onnx", &with(&affine, &Golden { output: Some("grad".into()), ..sound.clone() }));
    let mut bare = affine.without_spec();
    bare.set_metadata(GOLDEN_KEY, &sound.to_json());
    write(&folder, "spec.onnx", &bare);
    fs::write(folder.path("mixture.json"), "{}").unwrap();
    for name in ["none", "torn", "label", "other", "output", "spec", "missing"] {
        let ran = folder.psld(["verify", &format!("{name}.onnx")]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{name}: {ran}");
        snapshot!(format!("verify_{name}"), ran);
    }
    assert_eq!(folder.psld(["verify", "mixture.json"]).code, Some(2));
    // What can be said without ONNX Runtime is said without it.
    let ran = Ran::of(
        folder.command(["verify", "none.onnx"]).env("PSLD_ONNXRUNTIME", "/no/such").output().unwrap(),
    );
    assert!(ran.stderr.contains("holds no golden output"), "{ran}");
}

/// Feature d of an image is the sum of its pixels with these weights.
fn weight(pixel: usize, feature: usize) -> f32 {
    ((pixel * 7 + feature * 5) % 11) as f32 / 11.0 - 0.4
}

const PIXELS: usize = 16;
const FEATURES: usize = 5;

/// A feature network of images [1, 4, 4]: a linear map, and behind it another output that is not meant.
fn linear_features() -> Model {
    let mut g = Graph::new("features");
    let x = g.input("image", ElementType::F32, &["N".into(), 1.into(), 4.into(), 4.into()]);
    let flat = g.reshape(x, &[0, PIXELS as i64]);
    let weights: Vec<f32> = (0..PIXELS * FEATURES).map(|at| weight(at / FEATURES, at % FEATURES)).collect();
    let weights = g.constant(&[PIXELS, FEATURES], &weights);
    let features = g.matmul(flat, weights);
    let logits = g.mul(features, 2.0);
    g.output("logits", logits, &["N".into(), FEATURES.into()]);
    g.output("features", features, &["N".into(), FEATURES.into()]);
    g.finish().unwrap()
}

fn features_of(images: &[f32]) -> Vec<f32> {
    let feature = |image: &[f32], d| image.iter().enumerate().map(|(i, x)| x * weight(i, d)).sum::<f32>();
    images
        .chunks(PIXELS)
        .flat_map(|image| (0..FEATURES).map(|d| feature(image, d)).collect::<Vec<_>>())
        .collect()
}

/// Images whose values are levels of eight bits.
fn images(n: usize, seed: u64, contrast: f32) -> Vec<f32> {
    let mut values = vec![0.0; n * PIXELS];
    fill_f32(seed, Purpose::Probe, 0, 0, &mut values);
    let level = |x: f32| (127.5 + 40.0 * contrast * x).clamp(0.0, 255.0).round();
    values.iter().map(|x| (-1.0 + 2.0 * f64::from(level(*x)) / 255.0) as f32).collect()
}

fn save(folder: &Folder, name: &str, images: &[f32]) {
    let shape = [images.len() / PIXELS, 1, 4, 4];
    NewFile::write_with(&folder.path(name), |out| npy::write(out, &shape, images)).unwrap();
}

fn fd_folder() -> Folder {
    let folder = Folder::new();
    write(&folder, "f.onnx", &linear_features());
    save(&folder, "samples.npy", &images(60, 1, 1.2));
    save(&folder, "train.npy", &images(150, 2, 1.0));
    save(&folder, "test.npy", &images(70, 3, 1.0));
    folder
}

fn json(ran: Ran) -> Value {
    serde_json::from_str(&ran.success().stdout).unwrap()
}

const FD: [&str; 4] = ["fd", "samples.npy", "--features", "f.onnx"];

#[test]
fn figures_are_those_of_the_features() {
    need_onnxruntime();
    let folder = fd_folder();
    let fd = |more: &[&str]| folder.psld(FD.iter().chain(more));
    let all = ["--train", "train.npy", "--test", "test.npy", "--seed", "4", "--resamples", "30"];
    let report = json(fd(&[&all[..], &["--json"]].concat()));
    let (samples, train, test) = (images(60, 1, 1.2), images(150, 2, 1.0), images(70, 3, 1.0));
    let features = [&samples, &train, &test].map(|images| features_of(images));
    let set = |images, features| Set {
        data: Points::new(images, PIXELS).unwrap(),
        features: Points::new(features, FEATURES).unwrap(),
    };
    let (samples, train, test) =
        (set(&samples, &features[0]), set(&train, &features[1]), set(&test, &features[2]));
    let reference = Reference::new(Gaussian::of(train.features).unwrap()).unwrap();
    let options = Options { bootstrap: Bootstrap { resamples: 30, seed: 4 }, ..Options::default() };
    let expected = evaluate(samples, &reference, Some(train), Some(test), &options, &|_| ()).unwrap();
    let expected = serde_json::to_value(expected).unwrap();
    for (name, figure) in expected.as_object().unwrap() {
        for key in ["value", "low", "high"].iter().filter(|_| figure.is_object()) {
            for (got, expected) in [
                (&report["figures"][name][key], &figure[key]),
                (&report["figures"][name]["floor"][key], &figure["floor"][key]),
            ] {
                let (got, expected) = (got.as_f64().unwrap(), expected.as_f64().unwrap());
                assert!((got - expected).abs() < 1e-4, "{name} {key}: {got} for {expected}");
            }
        }
    }
    assert_eq!((&report["width"], &report["features"]["output"]), (&5.into(), &"features".into()));
    snapshot!("fd", fd(&all).success());
    // Batches and threads change nothing; a tensor that is no output can be named, and is another feature space.
    let again = json(fd(&[&all[..], &["--json", "--batch", "7", "--threads", "1"]].concat()));
    assert_eq!(again["figures"], report["figures"]);
    let model = linear_features();
    let flat = &model.graph().node.iter().find(|node| node.op_type() == "Reshape").unwrap().output[0];
    let pixels = json(fd(&["--train", "train.npy", "--resamples", "0", "--feature-output", flat, "--json"]));
    assert_eq!((&pixels["width"], &pixels["figures"]["copying"]), (&16.into(), &Value::Null));
}

#[test]
fn statistics_serve_in_place_of_images() {
    need_onnxruntime();
    let folder = fd_folder();
    let made = folder.psld(["fd", "train.npy", "--features", "f.onnx", "--make-stats", "s.npz"]).success();
    assert_eq!((made.stdout.as_str(), made.stderr.as_str()), ("", "wrote s.npz: 5 features of 150 images\n"));
    let fd = |more: &[&str]| json(folder.psld(FD.iter().chain(more).chain(&["--json", "--resamples", "5"])));
    let (stats, train) = (fd(&["--stats", "s.npz"]), fd(&["--train", "train.npy"]));
    assert_eq!(stats["figures"]["frechet_distance"], train["figures"]["frechet_distance"]);
    assert_eq!(stats["figures"]["precision"], Value::Null);

    // The same images as grids, as single files and as levels.
    let all = images(60, 1, 1.2);
    let spec = psld::spec::DataSpec { shape: vec![1, 4, 4], range: [-1.0, 1.0] };
    NewFile::write_with(&folder.path("a.png"), |out| png::write_grid(out, &spec, &all[..40 * PIXELS], None))
        .unwrap();
    fs::create_dir(folder.path("b")).unwrap();
    for (i, image) in all[40 * PIXELS..].chunks(PIXELS).enumerate() {
        NewFile::write_with(&folder.path(&format!("b/{i:02}.png")), |out| {
            png::write_image(out, &spec, image)
        })
        .unwrap();
    }
    let args = ["fd", "a.png", "b", "--features", "f.onnx", "--stats", "s.npz", "--json", "--resamples", "5"];
    let pictures = json(folder.psld(args));
    assert_eq!(pictures["figures"], stats["figures"]);
}

/// Arrays without axes, without elements, of other integers: refused by every list of images; levels in other units: warned of.
#[test]
fn images_that_are_none() {
    need_onnxruntime();
    let folder = fd_folder();
    NewFile::write_with(&folder.path("levels.npy"), |out| {
        npy::write(out, &[60, 1, 4, 4], &vec![7_i64; 60 * PIXELS])
    })
    .unwrap();
    for (name, shape) in
        [("scalar.npy", &[][..]), ("empty.npy", &[0, 1, 4, 4]), ("axes.npy", &[2, 2, 1, 4, 4])]
    {
        let values = vec![0.5_f32; shape.iter().product()];
        NewFile::write_with(&folder.path(name), |out| npy::write(out, shape, &values)).unwrap();
    }
    for (name, what) in [
        ("scalar.npy", "[]"),
        ("empty.npy", "[0, 1, 4, 4]"),
        ("axes.npy", "[2, 2, 1, 4, 4]"),
        ("levels.npy", "uint8"),
    ] {
        for (samples, train, test) in [
            (name, "train.npy", "test.npy"),
            ("samples.npy", name, "test.npy"),
            ("samples.npy", "train.npy", name),
        ] {
            let args = ["fd", samples, "--features", "f.onnx", "--train", train, "--test", test];
            let ran = folder.psld(args);
            assert_eq!(ran.code, Some(2), "{ran}");
            assert!(ran.stderr.contains(name) && ran.stderr.contains(what), "{ran}");
        }
    }
    let far: Vec<f32> = images(60, 1, 1.0).iter().map(|x| 127.5 * (x + 1.0)).collect();
    save(&folder, "far.npy", &far);
    let ran =
        folder.psld(["fd", "far.npy", "--features", "f.onnx", "--train", "train.npy", "--resamples", "0"]);
    let warned: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert!(warned.len() == 1 && warned[0].contains("far.npy") && warned[0].contains("-1 to 1"), "{ran}");
}

#[test]
fn a_noise_conditional_network_sees_the_mean_state() {
    need_onnxruntime();
    let folder = fd_folder();
    // Its feature map is the state; the mean over places is that of position and momentum.
    let mut g = Graph::new("classifier");
    let z = g.input("z", ElementType::F32, &["N".into(), 2.into(), 4.into(), 4.into()]);
    let t = g.input("t", ElementType::F32, &[Dim::from("N")]);
    let t = g.reshape(t, &[-1, 1, 1, 1]);
    let map = g.add(z, t);
    g.output("features", map, &["N".into(), 2.into(), 4.into(), 4.into()]);
    let mut model = g.finish().unwrap();
    let spec = r#"{"format": 1, "process": {"kind": "psld"}, "data": {"shape": [1, 4, 4]}}"#;
    model.set_metadata("psld.spec", spec);
    write(&folder, "c.onnx", &model);
    // Far from zero, so that the factors of the mean show.
    let bright: Vec<f32> = images(150, 2, 1.0).iter().map(|x| x + 3.0).collect();
    save(&folder, "bright.npy", &bright);
    let report = json(folder.psld([
        "fd",
        "bright.npy",
        "--features",
        "c.onnx",
        "--make-stats",
        "c.npz",
        "--json",
        "-q",
    ]));
    assert_eq!((&report["features"]["t"], &report["width"]), (&1e-3.into(), &2.into()));
    let a = psld::ModelSpec::parse(spec).unwrap().process().unwrap().mean(1e-3);
    assert!(a[(0, 0)] < 1.0 - 1e-6 && a[(1, 0)] < -1e-4, "{a:?}");
    let mean = bright.iter().map(|x| f64::from(*x)).sum::<f64>() / bright.len() as f64;
    let found = Statistics::read(&folder.path("c.npz")).unwrap().gaussian.mean;
    for (block, found) in found.iter().enumerate() {
        let expected = a[(block, 0)] * mean + 1e-3;
        assert!((found - expected).abs() < 1e-6, "{block}: {found} for {expected}");
    }
}

#[test]
fn what_cannot_be_measured_is_said() {
    need_onnxruntime();
    let folder = fd_folder();
    folder.psld(["fd", "train.npy", "--features", "f.onnx", "--make-stats", "s.npz"]).success();
    let refused = |name: &str, args: &[&str]| {
        let ran = folder.psld(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{name}: {ran}");
        snapshot!(format!("fd_{name}"), ran);
    };
    let fd =
        |more: &[&'static str]| -> Vec<&str> { FD.iter().copied().chain(more.iter().copied()).collect() };
    refused("nothing", &fd(&[]));
    refused("other_stats", &fd(&["--stats", "s.npz", "--feature-output", "logits"]));
    refused("no_tensor", &fd(&["--train", "train.npy", "--feature-output", "pool"]));
    refused("no_stats", &fd(&["--stats", "none.npz"]));
    refused("no_images", &fd(&["--train", "none.npy"]));
    refused("range", &fd(&["--train", "train.npy", "--range", "1,-1"]));
    refused("batch", &fd(&["--train", "train.npy", "--batch", "0"]));
    refused("neighbours", &fd(&["--train", "train.npy", "--neighbours", "60", "--resamples", "0"]));
    refused("conflict", &fd(&["--make-stats", "t.npz", "--train", "train.npy"]));
    write(&folder, "state.onnx", &Affine::default().without_spec());
    refused("two_inputs", &["fd", "samples.npy", "--features", "state.onnx", "--train", "train.npy"]);
    write(&folder, "wide.onnx", &Affine::default().model());
    refused("other_shape", &["fd", "samples.npy", "--features", "wide.onnx", "--train", "train.npy"]);
    let mut bad = images(3, 0, 1.0);
    bad[20] = f32::NAN;
    save(&folder, "nan.npy", &bad);
    refused("nan", &["fd", "nan.npy", "--features", "f.onnx", "--stats", "s.npz"]);
}

/// The study of a class-conditional network, by features: figures are those of `psld fd` on what was sampled.
#[test]
fn a_study_with_features() {
    need_onnxruntime();
    let folder = fd_folder();
    folder.copy("tests/data/models/labelled.json", "m.json");
    folder.psld("fd train.npy --features f.onnx --make-stats s.npz".split(' ')).success();
    let study = "study m.json -n 60 --seed 9 --label 0,2,1 --samplers dpmpp,em --nfe 6 --features f.onnx --stats s.npz \
                 --train train.npy --resamples 25 -o d";
    folder.psld(study.split_whitespace()).success();
    let text = fs::read_to_string(folder.path("d/study.csv")).unwrap();
    let column = |line: &str, name: &str| -> f64 {
        let mut lines = text.lines();
        let at = lines.next().unwrap().split(',').position(|head| head == name).unwrap();
        let line = lines.find(|row| row.starts_with(line)).unwrap();
        line.split(',').nth(at).unwrap().parse().unwrap()
    };
    let sample = |options: &str| {
        let args = format!("sample m.json -n 60 --seed 9 --label 0,2,1 {options} --quiet --out samples.npy");
        folder.psld(args.split_whitespace()).success();
        json(
            folder.psld("fd samples.npy --features f.onnx --train train.npy --resamples 0 --json".split(' ')),
        )
    };
    let own = sample("--sampler rk45 --rtol 1e-5 --atol 1e-5 --state f64");
    for name in ["dpmpp", "em"] {
        let expected = sample(&format!("--sampler {name} --nfe 6"));
        let of = |report: &Value, name: &str| report["figures"][name]["value"].as_f64().unwrap();
        for figure in ["frechet_distance", "precision", "recall"] {
            let (got, expected) = (column(name, figure), of(&expected, figure));
            assert!(
                (got - expected).abs() < 1e-5 * expected.max(0.1),
                "{name} {figure}: {got} for {expected}"
            );
        }
        let excess = of(&expected, "frechet_distance") - of(&own, "frechet_distance");
        assert!((column(name, "frechet_excess") - excess).abs() < 1e-4 * excess.abs(), "{name}");
    }
    let alone =
        "study m.json -n 60 --samplers dpmpp --nfe 6 --features f.onnx --stats s.npz --resamples 0 -o e";
    folder.psld(alone.split_whitespace()).success();
    let mut said = String::new();
    for args in [
        "study m.json --features f.onnx -o f",
        "study m.json --features missing.onnx --stats s.npz -o f",
        "study m.json --stats s.npz -o f",
        "study m.json --features f.onnx --stats samples.npy -o f",
        "study m.json --features f.onnx --stats s.npz --feature-output nothing -o f",
        "study big.json --features f.onnx --stats s.npz -o f",
        "study m.json -n 60 --samplers dpmpp --nfe 6 --features f.onnx --train train.npy --resamples 0 -o e",
    ] {
        folder.copy("tests/data/models/image.json", "big.json");
        said += &format!("{args}\n{}", folder.psld(args.split(' ')));
    }
    insta::with_settings!({ filters => [(r"sha256 [0-9a-f]+", "sha256 [HASH]")] }, {
        insta::assert_snapshot!("study_features_bad", said);
    });
}
