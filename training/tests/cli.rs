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
