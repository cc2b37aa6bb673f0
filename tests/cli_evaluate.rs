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
use psld::onnx::{ElementType, Model};
use psld::spec::{GOLDEN_KEY, Golden};
use serde_json::Value;
use std::fs;
use support::Affine;

/// Snapshots what a command printed, without what differs between machines.
macro_rules! snapshot {
    ($name:expr, $ran:expr) => {
        insta::with_settings!({ filters => [
            (r"onnxruntime \d+\.\d+\.\d+", "onnxruntime [VERSION]"),
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
