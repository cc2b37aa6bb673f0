//! The command: one whole life of a run, and a process that dies at any moment.
#![cfg(feature = "torch")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const RECIPE: &str = "[data]\nkind = 'mixture'\nmixture = { weights = [1], means = [[0.3, 0.1]], variances = [0.1], \
                      count = 500 }\n[process]\nkind = 'psld'\n[net]\nkind = 'mlp'\nwidth = 16\nblocks = 1\n[train]\n\
                      batch = 16\nsteps = 1000000\n[output]\nlog = 50\ncheckpoint = 1\nsample = 0\nsamples = 20\n\
                      [output.sampler]\nnfe = 3\n";

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_psld-training"));
    command
        .args(["--threads", "1"])
        .args(arguments)
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Exit code, and all that was said.
fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = command(folder, arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said.into_owned())
}

#[test]
fn a_run_from_recipe_to_model() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("points.toml"), RECIPE).unwrap();
    let (code, said) = run(at, &["train", "points.toml", "--time-budget", "1s"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("time budget spent") && said.contains("in the optimiser"), "{said}");
    let (code, said) = run(at, &["train", "points.toml"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("psld-training resume"), "{said}");
    let (code, said) = run(at, &["info", "runs/points"]);
    assert!(code == Some(0) && said.contains("parameters") && said.contains("kind = \"mixture\""), "{said}");
    let (code, said) = run(at, &["sample", "runs/points", "-o", "grid.png", "-n", "9", "--sampler", "nfe=5"]);
    assert!(code == Some(0) && said.contains("5 network calls"), "{said}");
    let (code, said) = run(at, &["export", "runs/points", "-o", "model.onnx"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(at.join("grid.png").exists() && at.join("model.onnx").exists());
    let (code, said) = run(at, &["export", "runs/points", "--gradient", "-o", "grad.onnx"]);
    assert!(code == Some(2) && said.contains("a gradient is exported of a classifier"), "{said}");
    let (code, said) = run(at, &["train", "points.toml", "--out", "b", "--set", "train.stepz=1"]);
    assert!(code == Some(2) && said.contains("did you mean `steps`?"), "{said}");
}

#[test]
fn ctrl_c_leaves_a_checkpoint_and_kill_at_any_moment_loses_none_but_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("points.toml"), RECIPE).unwrap();
    let step = || -> u64 {
        let (code, said) = run(at, &["info", "runs/points"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(!said.contains("left out"), "a torn checkpoint was found: {said}");
        said.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let mut before = 0;
    for (i, milliseconds) in [3000, 1700, 2111, 2903].into_iter().enumerate() {
        // A checkpoint a step: most of the time, one is being written.
        let how: &[&str] = if i == 0 { &["train", "points.toml"] } else { &["resume", "runs/points"] };
        let mut child = command(at, how).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = step();
        assert!(now >= before, "step {now} after {before}");
        before = now;
    }
    let mut child = command(at, &["resume", "runs/points"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(3000));
    // SAFETY: a signal to a child of our own that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(step() > before);
}

#[test]
fn a_published_checkpoint_becomes_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let (at, here) = (folder.path(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"));
    let vector = here.join("data/ncsnpp/sota_fir_residual");
    let made = Command::new("python3")
        .arg(here.join("scripts/lightning_checkpoint.py"))
        .arg(vector.join("weights.safetensors"))
        .args([at.join("last.ckpt"), at.join("executed")])
        .status()
        .unwrap();
    assert!(made.success());
    let network = std::fs::read_to_string(vector.join("config.json")).unwrap();
    let process = r#"{"kind": "psld", "gamma": 0.02, "nu": 4.02}"#;
    let config = format!(r#"{{"process": {process}, "network": {network}}}"#);
    std::fs::write(at.join("config.json"), config).unwrap();
    let import = ["import", "last.ckpt", "-o", "weights.safetensors", "--config"];
    let (code, said) = run(at, &[&import[..], &["config.json"]].concat());
    assert!(code == Some(0) && said.contains("parameters"), "{said}");
    let (code, said) = run(at, &["export", "weights.safetensors", "--config", "config.json", "-o", "m.onnx"]);
    assert_eq!(code, Some(0), "{said}");
    let model = psld::onnx::Model::read(std::fs::read(at.join("m.onnx")).unwrap()).unwrap();
    assert!(model.metadata("psld.spec").unwrap().contains("4.02"));
    assert!(model.metadata("psld.golden").is_some());
    assert_eq!(model.inputs()[0].to_string(), "`z` [batch, 6, 16, 16] float32");

    let config = format!(r#"{{"process": {process}, "network": {{"preset": "tiny", "image_size": 16}}}}"#);
    std::fs::write(at.join("other.json"), config).unwrap();
    let (code, said) = run(at, &[&import[..], &["other.json"]].concat());
    assert!(code == Some(2) && said.contains("missing: ") && said.contains("all_modules."), "{said}");
    let config = format!(r#"{{"process": {process}, "network": {{"preset": "tinny"}}}}"#);
    std::fs::write(at.join("other.json"), config).unwrap();
    let (code, said) = run(at, &[&import[..], &["other.json"]].concat());
    assert!(code == Some(2) && said.contains("expected one of tiny, small"), "{said}");
}

#[test]
fn without_libtorch_it_is_named() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let mut program = std::fs::read(env!("CARGO_BIN_EXE_psld-training")).unwrap();
    // The places where the loader looks for it, which build.rs wrote.
    let place = b"/torch/lib";
    let found: Vec<usize> =
        (0..program.len() - place.len()).filter(|&i| program[i..].starts_with(place)).collect();
    assert!(!found.is_empty());
    found.into_iter().for_each(|i| program[i..i + place.len()].copy_from_slice(b"/torch/not"));
    let path = folder.path().join("psld-training");
    std::fs::write(&path, program).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(&path).arg("--help").env_remove("LD_LIBRARY_PATH").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(127), "{said}");
    assert!(said.contains("libtorch") && said.contains("cannot open shared object file"), "{said}");
}
