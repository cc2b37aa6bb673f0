//! The command line over ONNX Runtime: the reference trajectories replayed, and models that are none.
//!
//! `PSLD_ONNXRUNTIME` names the library; `make onnxruntime` fetches one.

#![cfg(all(feature = "cli", feature = "onnxruntime"))]

#[path = "cli/harness.rs"]
mod harness;

use harness::{Folder, Ran};
use psld::array::{Tensor, Values, ValuesMut};
use psld::network::onnxruntime::{OnnxNetwork, OnnxOptions, Runtime};
use psld::network::{Inputs, Network};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const CASES: [&str; 7] =
    ["em_cld", "em_inpaint", "em_psld", "em_psld_quadratic", "em_vp", "rk45_psld", "sscs_psld"];

/// Fails, with one line, where there is no library: a test that is skipped tests nothing.
fn need_onnxruntime() {
    let path = std::env::var_os("PSLD_ONNXRUNTIME").unwrap_or_default();
    assert!(
        Path::new(&path).is_file(),
        "PSLD_ONNXRUNTIME must name ONNX Runtime's library (it is {path:?}); `make test` sets it"
    );
}

fn read(path: &Path) -> (Vec<usize>, Vec<f64>) {
    let values = psld::io::npy::read(path).unwrap().values;
    let all = match &values {
        Tensor::F32(a) => a.iter().map(|x| f64::from(*x)).collect(),
        Tensor::F64(a) => a.iter().copied().collect(),
    };
    (values.shape().to_vec(), all)
}

/// Replays a reference case with `change` made to its configuration; the largest difference, and the report.
fn replay(case: &str, state: &str, change: impl Fn(&mut Value)) -> (f64, Value) {
    need_onnxruntime();
    let folder = Folder::new();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reference").join(case);
    for entry in fs::read_dir(&from).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        folder.copy(&format!("tests/data/reference/{case}/{name}"), &name);
    }
    let mut config: Value = serde_json::from_slice(&fs::read(folder.path("config.json")).unwrap()).unwrap();
    change(&mut config);
    fs::write(folder.path("config.json"), config.to_string()).unwrap();
    let args = ["sample", "model.onnx", "--config", "config.json", "--init", "z0.npy", "--output", "state"];
    let mut args: Vec<_> = args.into_iter().chain(["--state", state, "--out", "out.npy", "--json"]).collect();
    if folder.path("noise.npy").exists() {
        args.extend(["--noise", "noise.npy"]);
    }
    let ran = folder.psld(args).success();
    let (shape, out) = read(&folder.path("out.npy"));
    let (expected_shape, expected) = read(&folder.path("expected.npy"));
    assert_eq!(shape, expected_shape, "{case}");
    let difference = out.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    (difference, serde_json::from_str(&ran.stdout).unwrap())
}

#[test]
fn reference_trajectories() {
    for case in CASES {
        let (exact, report) = replay(case, "f64", |_| {});
        // The published probability-flow code does not round its last times.
        let (rounded, _) = replay(case, "f64", |config| {
            if case != "rk45_psld" {
                config["sampler"]["denoise_time"] = json!("float32");
            }
        });
        let (single, _) = replay(case, "f32", |_| {});
        println!(
            "{case}: {exact:.1e} with exact times, {rounded:.1e} with float32 times, {single:.1e} in float32"
        );
        assert!(exact <= 2e-5, "{case}: {exact:e} with exact times");
        assert!(rounded <= 2e-6, "{case}: {rounded:e} with float32 times");
        assert!(single <= 5e-5, "{case}: {single:e} in float32 state");
        assert_eq!(report["provider"], "cpu");
        assert!(report["versions"]["onnxruntime"].as_str().unwrap().starts_with("1."));
        if case == "rk45_psld" {
            let recorded = fs::read_to_string(
                Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reference/rk45_psld/nfe.txt"),
            );
            let recorded: i64 = recorded.unwrap().trim().parse().unwrap();
            // One attempted step is six calls.
            assert!((report["nfe"].as_i64().unwrap() - recorded).abs() <= 6, "{}", report["nfe"]);
        }
    }
}

/// Snapshots what a command printed, without what differs between machines.
macro_rules! snapshot {
    ($name:expr, $ran:expr) => {
        insta::with_settings!({ filters => [
            (r"ONNX Runtime \(?\d+\.\d+\.\d+, [^)]*\)?", "ONNX Runtime [VERSION]"),
            (r"onnxruntime \d+\.\d+\.\d+ on cpu \([^)]*\)", "onnxruntime [VERSION] on cpu ([LIBRARY])"),
            (r"has only .*", "has only [PROVIDERS]"),
        ] }, { insta::assert_snapshot!($name, $ran.to_string()) })
    };
}

#[test]
fn models_that_are_none() {
    need_onnxruntime();
    let folder = Folder::new();
    folder.copy("tests/data/reference/em_psld/model.onnx", "good.onnx");
    let bytes = fs::read(folder.path("good.onnx")).unwrap();
    fs::write(folder.path("short.onnx"), &bytes[..bytes.len() / 2]).unwrap();
    fs::write(folder.path("empty.onnx"), "").unwrap();
    fs::write(folder.path("text.onnx"), "hello, I am no model\n").unwrap();
    let mut model = psld::onnx::Model::read(bytes.clone()).unwrap();
    let spec: Value = serde_json::from_str(model.metadata(psld::spec::SPEC_KEY).unwrap()).unwrap();
    let mut write = |name: &str, text: &str| {
        model.set_metadata(psld::spec::SPEC_KEY, text);
        fs::write(folder.path(name), model.to_bytes()).unwrap();
    };
    write("malformed.onnx", "{\"format\": 1,");
    let mut other = spec.clone();
    other["process"]["gama"] = json!(1);
    write("field.onnx", &other.to_string());
    let mut other = spec.clone();
    other["data"]["shape"] = json!([3, 5, 5]);
    write("shape.onnx", &other.to_string());
    let mut other = spec.clone();
    other["network"]["output"] = json!("epsilon");
    write("port.onnx", &other.to_string());
    let mut proto = psld::onnx::Model::read(bytes).unwrap().into_proto();
    proto.metadata_props.clear();
    fs::write(folder.path("no_spec.onnx"), prost::Message::encode_to_vec(&proto)).unwrap();
    fs::write(folder.path("spec.json"), spec.to_string()).unwrap();

    for name in ["missing", "short", "empty", "text", "malformed", "field", "shape", "port", "no_spec"] {
        let ran = folder.psld(["sample", &format!("{name}.onnx"), "-n", "1", "--nfe", "3", "--out", "x.npy"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{name}: {ran}");
        assert!(!folder.path("x.npy").exists());
        snapshot!(format!("model_{name}"), ran);
    }
    // A spec at the side is all that the last one lacks.
    folder.psld(["info", "no_spec.onnx", "--spec", "spec.json"]).success();
    snapshot!("info", folder.psld(["info", "good.onnx"]));
}

/// A study is of the network under its spec: under another the folder's figures are not its own.
#[test]
fn a_study_under_another_spec() {
    need_onnxruntime();
    let folder = Folder::new();
    for name in ["unet.onnx", "spec.json"] {
        folder.copy(&format!("tests/data/diffusers/{name}"), name);
    }
    let text = fs::read_to_string(folder.path("spec.json")).unwrap();
    let mut spec: serde_json::Value = serde_json::from_str(&text).unwrap();
    spec["network"]["prediction"] = "v".into();
    fs::write(folder.path("v.json"), spec.to_string()).unwrap();
    let study = |spec: &str| {
        let args =
            "study unet.onnx -n 2 --samplers euler --nfe 3 --reference euler:steps=4 --resamples 0 --spec";
        folder.psld(args.split(' ').chain([spec, "-o", "d"]))
    };
    study("spec.json").success();
    let ran = study("v.json");
    assert!(ran.code == Some(2) && ran.stderr.contains("holds a study with another spec"), "{ran}");
}

/// A network of the diffusers package as PyTorch exported it, deployed by a spec at its side, against that package's own
/// network and scheduler (tests/scripts/diffusers_unet.py).
#[test]
fn a_network_of_others() {
    need_onnxruntime();
    let folder = Folder::new();
    for name in ["unet.onnx", "spec.json", "z0.npy", "noise.npy", "eps.npy", "expected.npy"] {
        folder.copy(&format!("tests/data/diffusers/{name}"), name);
    }
    let refused = folder.psld(["info", "unet.onnx"]);
    assert!(refused.stderr.contains("`psld.spec` is missing"), "{refused}");

    // One evaluation at t = 0.9, which is timestep 899.
    let spec = psld::ModelSpec::parse(&fs::read_to_string(folder.path("spec.json")).unwrap()).unwrap();
    let options = OnnxOptions { spec: Some(spec), ..OnnxOptions::default() };
    let network =
        OnnxNetwork::from_file(Runtime::load(None).unwrap(), &folder.path("unet.onnx"), &options).unwrap();
    let (_, z) = read(&folder.path("z0.npy"));
    let (_, expected) = read(&folder.path("eps.npy"));
    let mut eps = vec![0.0_f32; z.len()];
    let inputs = Inputs { z: Values::F64(&z), t: &[0.9, 0.9], labels: None, rows: None };
    network.evaluator().unwrap().evaluate(inputs, ValuesMut::F32(&mut eps)).unwrap();
    let worst = eps.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-5, "{worst:e}");

    // Ancestral steps through 699, 499, 299, 99 to the data: DDPMScheduler's, with its noise. The last timestep is t_end, and
    // the closing step its data estimate.
    let args = ["sample", "unet.onnx", "--spec", "spec.json", "--sampler", "ancestral"];
    let args = args.iter().chain(&["--grid", "0.9,0.7,0.5,0.3,0.1", "--t-start", "0.9", "--t-end", "0.1"]);
    let args = args.chain(&[
        "--init",
        "z0.npy",
        "--noise",
        "noise.npy",
        "--state",
        "f64",
        "--out",
        "x.npy",
        "--json",
    ]);
    let report: Value = serde_json::from_str(&folder.psld(args).success().stdout).unwrap();
    assert_eq!(report["nfe"], 5);
    let ((shape, x), (_, expected)) = (read(&folder.path("x.npy")), read(&folder.path("expected.npy")));
    assert_eq!(shape, [2, 3, 8, 8]);
    let rms = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let error = rms(&mut x.iter().zip(&expected).map(|(a, b)| a - b)) / rms(&mut expected.iter().copied());
    println!("eps {worst:.1e}, trajectory {error:.1e} relative");
    assert!(error < 1e-5, "{error:e}");
}

#[test]
fn providers() {
    need_onnxruntime();
    let folder = Folder::new();
    folder.copy("tests/data/reference/em_psld/model.onnx", "m.onnx");
    let run = |provider: &str| {
        folder.psld(["sample", "m.onnx", "-n", "1", "--nfe", "3", "--provider", provider, "--json"])
    };
    let unknown = run("cudo");
    assert_eq!(unknown.code, Some(2));
    snapshot!("provider_unknown", unknown);
    // The CPU build of the library has no CUDA; a fallback is what the user wrote down.
    let report = |ran: Ran| -> Value { serde_json::from_str(&ran.success().stdout).unwrap() };
    let cuda = run("cuda");
    if cuda.code == Some(0) {
        assert_eq!(report(cuda)["provider"], "cuda");
    } else {
        assert_eq!(cuda.code, Some(1), "{cuda}");
        assert!(cuda.stderr.contains("provider `cuda`"), "{cuda}");
        assert_eq!(report(run("cuda,cpu"))["provider"], "cpu");
    }
}

#[test]
fn a_library_that_is_not_there() {
    let folder = Folder::new();
    folder.copy("tests/data/reference/em_psld/model.onnx", "m.onnx");
    let run = |args: &[&str], library: &str| {
        Ran::of(folder.command(args).env("PSLD_ONNXRUNTIME", library).output().unwrap())
    };
    let missing = run(&["sample", "m.onnx", "-n", "1"], "/no/such/libonnxruntime.so");
    assert_eq!(missing.code, Some(1), "{missing}");
    snapshot!("library_missing", missing);
    // What needs none says so by working.
    run(&["plan", "m.onnx", "--steps", "3"], "/no/such/libonnxruntime.so").success();
    run(&["--version"], "/no/such/libonnxruntime.so").success();
}
