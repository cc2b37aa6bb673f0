//! Checkpoints of others, made here from the authors' vectors.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{folder, vector};
use psld::Status;
use psld_training::import::{Which, import, save};
use psld_training::net::{NetConfig, Network};

/// A Lightning checkpoint of the vector `name`, and the file that reading it must not create.
fn checkpoint(name: &str, place: &Path) -> (PathBuf, PathBuf) {
    let (out, trap) = (place.join("last.ckpt"), place.join("executed"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/lightning_checkpoint.py");
    let status = Command::new("python3")
        .arg(script)
        .arg(folder(name).join("weights.safetensors"))
        .args([&out, &trap])
        .status()
        .expect("python3 makes the checkpoint");
    assert!(status.success());
    (out, trap)
}

#[test]
fn lightning_checkpoints_are_read_and_not_executed() {
    let place = tempfile::tempdir().unwrap();
    let (case, _) = vector("sota_fir_residual");
    let (path, trap) = checkpoint("sota_fir_residual", place.path());
    assert_eq!(import(&case.network, &path, Which::Ema).unwrap(), case.weights);
    let raw = import(&case.network, &path, Which::Raw).unwrap();
    for (name, values) in &raw {
        let halves: Vec<_> = case.weights[name].iter().map(|value| 0.5 * value).collect();
        assert_eq!(*values, halves, "{name}");
    }
    assert!(!trap.exists(), "the checkpoint's code was executed");
}

#[test]
fn saved_parameters_come_back() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("model.safetensors");
    let (case, _) = vector("ddpm_blocks");
    save(&case.network, &case.weights, &path).unwrap();
    assert_eq!(import(&case.network, &path, Which::Ema).unwrap(), case.weights);
}

#[test]
fn a_wrong_configuration_names_the_parameters() {
    let weights = folder("default_positional").join("weights.safetensors");
    let import_with = |change: &dyn Fn(&mut serde_json::Value)| {
        let text = std::fs::read_to_string(folder("default_positional").join("config.json")).unwrap();
        let mut config = serde_json::from_str(&text).unwrap();
        change(&mut config);
        let config: NetConfig = serde_json::from_value(config).unwrap();
        import(&Network::new(&config).unwrap(), &weights, Which::Ema).unwrap_err()
    };
    let error = import_with(&|config| config["in_ch"] = 2.into());
    assert_eq!(error.status(), Status::ShapeMismatch);
    let expected = "1 of another shape: all_modules.2.weight (expected [16, 2, 3, 3], got [16, 6, 3, 3])";
    assert!(error.message().contains(expected), "{error}");
    let error = import_with(&|config| config["num_res_blocks"] = 2.into());
    assert!(error.message().contains("missing: all_modules.6.Conv_0.weight, "), "{error}");
    let error = import_with(&|config| config["classes"] = 5.into());
    assert!(error.message().contains("1 missing: label.weight"), "{error}");
    let error = import_with(&|config| config["attn_resolutions"] = serde_json::json!([]));
    assert!(error.message().contains("unexpected: "), "{error}");
}

#[test]
fn files_that_are_no_checkpoints_say_so() {
    let place = tempfile::tempdir().unwrap();
    let network = Network::new(&NetConfig::preset("tiny").unwrap()).unwrap();
    let error_of = |bytes: &[u8]| {
        let path = place.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        import(&network, &path, Which::Ema).unwrap_err()
    };
    for bytes in [&b""[..], b"hello", b"PK\x03\x04 but no archive"] {
        let error = error_of(bytes);
        assert_eq!(error.status(), Status::ReadFailed, "{error}");
        assert!(error.message().contains("/file: "), "{error}");
    }
    let error = import(&network, &place.path().join("nothing"), Which::Ema).unwrap_err();
    assert_eq!(error.status(), Status::ReadFailed, "{error}");
}
