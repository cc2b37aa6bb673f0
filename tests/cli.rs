//! The command line, as its users meet it: the built program, its files, messages and exit codes. Models here are
//! analytic; what needs ONNX Runtime is in `cli_onnx.rs`.

#![cfg(feature = "cli")]

#[path = "cli/harness.rs"]
mod harness;

use harness::{Folder, Ran, values};
use psld::io::{NewFile, npy};
use psld::noise::{Purpose, fill_f32};
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Snapshots what a command printed, without what differs between machines.
macro_rules! snapshot {
    ($name:expr, $ran:expr) => {
        insta::with_settings!({ filters => [
            (r"limit is \d+ [kMG]B", "limit is [SIZE]"),
            (r"has \d+ [kMG]B free", "has [SIZE] free"),
            (r"[0-9.]+ s, [0-9.]+ samples/s", "[TIME]"),
            (r"psld \d+\.\d+\.\d+", "psld [VERSION]"),
        ] }, { insta::assert_snapshot!($name, $ran.to_string()) })
    };
}

/// A folder with the models of `tests/data/models`.
fn folder() -> Folder {
    let folder = Folder::new();
    for model in ["image", "labelled", "classifier", "vector"] {
        folder.copy(&format!("tests/data/models/{model}.json"), &format!("{model}.json"));
    }
    folder
}

fn array(folder: &Folder, name: &str, shape: &[usize], value: impl Fn(usize) -> f32) {
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    NewFile::write_with(&folder.path(name), |out| npy::write(out, shape, &values)).unwrap();
}

#[test]
fn help() {
    let folder = folder();
    snapshot!("help", folder.psld(["--help"]));
    for command in [
        "sample",
        "encode",
        "interpolate",
        "likelihood",
        "measure",
        "info",
        "plan",
        "verify",
        "bench",
        "fd",
        "noise",
        "tune",
        "study",
        "samplers",
        "completions",
        "man",
    ] {
        snapshot!(format!("help_{command}"), folder.psld([command, "--help"]));
    }
    snapshot!("version", folder.psld(["-V"]));
    assert_eq!(folder.psld(Vec::<&str>::new()).code, Some(2));
    let long = folder.psld(["--version"]).success().stdout;
    assert!(
        long.starts_with("psld ") && long.contains("plan format 1") && long.contains("ONNX Runtime"),
        "{long}"
    );
}

#[test]
fn lists_and_descriptions() {
    let folder = folder();
    snapshot!("samplers", folder.psld(["samplers"]));
    snapshot!("samplers_why", folder.psld(["samplers", "--why"]));
    let listed: serde_json::Value =
        serde_json::from_str(&folder.psld(["samplers", "--json"]).stdout).unwrap();
    let names: Vec<_> =
        listed.as_array().unwrap().iter().map(|info| info["name"].as_str().unwrap()).collect();
    assert_eq!(names, psld::solver::list().map(|info| info.name).collect::<Vec<_>>());
    snapshot!("info", folder.psld(["info", "labelled.json"]));
    let guide = folder.psld(["info", "classifier.json"]).stdout;
    assert!(guide.contains("grad [n, 2, 4, 4]: gradient of log p(y | z, t) in z"), "{guide}");
    snapshot!("info_json", folder.psld(["info", "vector.json", "--json"]));

    // A network of one path that drives another one.
    let driven = r#"{"format": 1, "process": {"kind": "psld"}, "data": {"shape": [5], "range": [-1.0, 1.0]},
        "network": {"process": {"kind": "ddpm", "schedule": "linear", "entries": 1000}}}"#;
    fs::write(folder.path("driven.json"), driven).unwrap();
    let info =
        |rest: &[&str]| folder.psld([&["info", "vector.json", "--spec", "driven.json"], rest].concat());
    snapshot!("info_driven", info(&[]));
    let mut json: serde_json::Value = serde_json::from_str(&info(&["--json"]).success().stdout).unwrap();
    rounded(&mut json);
    let own = serde_json::json!({ "times": json["times"], "network_process": json["network_process"] });
    insta::assert_snapshot!("info_driven_json", format!("{own:#}"));
}

/// Numbers to nine digits: the rest is for the tests of the processes to judge.
fn rounded(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Number(number) if number.is_f64() => {
            let digits: f64 = format!("{:.8e}", number.as_f64().unwrap()).parse().unwrap();
            *value = digits.into();
        }
        serde_json::Value::Array(all) => all.iter_mut().for_each(rounded),
        serde_json::Value::Object(all) => all.values_mut().for_each(rounded),
        _ => {}
    }
}

/// Samplers that need position and momentum, which the model `vector.json` (VP) has not.
const SPLITTINGS: [&str; 3] = ["rvv", "roba", "cvv"];

#[test]
fn plans_of_all_samplers_at_four_steps() {
    let folder = folder();
    let any_k = |info: &&psld::solver::SamplerInfo| !info.adaptive && info.name != "ddim";
    for sampler in psld::solver::list().filter(any_k).map(|info| info.name) {
        for model in ["image", "vector"] {
            if model == "vector" && SPLITTINGS.contains(&sampler) {
                continue;
            }
            let model_file = format!("{model}.json");
            let ran = folder.psld(["plan", &model_file, "--sampler", sampler, "--steps", "4"]);
            let mut plan: serde_json::Value = serde_json::from_str(&ran.success().stdout).unwrap();
            rounded(&mut plan);
            let rows = plan.as_object_mut().unwrap().remove("rows").unwrap();
            let lines: Vec<_> = rows.as_array().unwrap().iter().map(|row| row.to_string()).collect();
            insta::assert_snapshot!(
                format!("plan_{sampler}_{model}"),
                format!("{plan}\n{}", lines.join("\n"))
            );
        }
    }
    for sampler in SPLITTINGS {
        snapshot!(
            format!("plan_{sampler}_vector"),
            folder.psld(["plan", "vector.json", "--sampler", sampler])
        );
    }
    snapshot!("plan_rk45", folder.psld(["plan", "image.json", "--sampler", "rk45"]));
    snapshot!(
        "plan_explain",
        folder.psld(["plan", "image.json", "--sampler", "heun", "--steps", "2", "--explain"])
    );
}

#[test]
fn samples_of_all_samplers() {
    let folder = folder();
    let mut all = String::new();
    for sampler in ["em", "ancestral", "euler", "heun", "conjugate", "rk45"] {
        let steps: &[&str] = if sampler == "rk45" { &[] } else { &["--steps", "20"] };
        let args =
            ["sample", "vector.json", "-n", "2", "--seed", "7", "--sampler", sampler, "--out", "x.npy"];
        folder.psld(args.iter().chain(steps)).success();
        let (shape, x) = values(&folder.path("x.npy"));
        assert_eq!(shape, [2, 5]);
        let x: Vec<_> = x.iter().map(|x| format!("{x:.4}")).collect();
        all += &format!("{sampler}: {}\n", x.join(" "));
    }
    insta::assert_snapshot!(all);
}

/// `--error-norm sample`: a sample does not depend on those beside it, to the bit, and may be in the calls of the run that it is
/// by itself; over the whole run it does.
#[test]
fn an_error_norm_for_each_sample() {
    let folder = folder();
    let x = |norm: &str, n: &str| {
        let tolerance = ["--rtol", "1e-2", "--atol", "1e-2", "--error-norm", norm];
        let args = [
            "sample",
            "vector.json",
            "-n",
            n,
            "--seed",
            "7",
            "--sampler",
            "rk45",
            "--json",
            "--out",
            "x.npy",
        ];
        let ran = folder.psld(args.iter().chain(&tolerance)).success();
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        let (shape, x) = values(&folder.path("x.npy"));
        assert_eq!(shape, [n.parse().unwrap(), 5]);
        (x, report["nfe"].as_u64().unwrap())
    };
    let ((one, few), (four, most)) = (x("sample", "1"), x("sample", "4"));
    assert_eq!(four[..5], one[..]);
    assert!(few <= most, "{few} calls for one of the samples, {most} for all");
    assert_ne!(x("run", "4").0[..5], x("run", "1").0[..]);
    let refused =
        ["sample", "vector.json", "-n", "1", "--sampler", "em", "--error-norm", "sample", "--out", "x.npy"];
    assert_eq!(folder.psld(refused).code, Some(2));
}

#[test]
fn report_as_json() {
    let folder = folder();
    let ran = folder.psld([
        "sample",
        "image.json",
        "-n",
        "3",
        "--seed",
        "5",
        "--nfe",
        "10",
        "--out",
        "x.npy",
        "--json",
    ]);
    let ran = ran.success();
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    insta::assert_json_snapshot!(report, {
        ".seconds.load" => "[s]", ".seconds.compile" => "[s]", ".seconds.network" => "[s]", ".seconds.solver" => "[s]", ".seconds.total" => "[s]", ".samples_per_second" => "[rate]", ".versions.psld" => "[version]",
    });
    for name in ["load", "compile", "network", "solver", "total"] {
        assert!(report["seconds"][name].as_f64().unwrap() >= 0.0);
    }
    // One object and nothing else, whatever is said beside it.
    assert_eq!(ran.stdout.lines().count(), 1);
    let quiet = folder.psld(["sample", "image.json", "-n", "1", "--nfe", "10", "--out", "x.npy", "--quiet"]);
    assert_eq!((quiet.code, quiet.stdout.as_str(), quiet.stderr.as_str()), (Some(0), "", ""));
    // Adaptive: the hash is there although there is no plan.
    let ran =
        folder.psld(["sample", "image.json", "-n", "1", "--sampler", "rk45", "--out", "x.npy", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&ran.success().stdout).unwrap();
    assert_eq!(report["plan_hash"].as_str().unwrap().len(), 64);
    assert!(report["nfe"].as_u64().unwrap() > 10);
}

/// A deadline that leaves estimates: that is what was asked for, so it succeeds.
#[test]
fn anytime() {
    let folder = folder();
    let run = |more: &str| {
        let all = format!("sample image.json -n 5 --batch 2 --seed 3 --out x.npy --json {more}");
        let ran = folder.psld(all.split(' ')).success();
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        (report, ran.stderr, values(&folder.path("x.npy")).1)
    };
    let (report, stderr, estimates) = run("--sampler em --steps 100000 --deadline 0.3 --anytime");
    assert_eq!((&report["status"], &report["estimates"]), (&"partial".into(), &5.into()));
    assert!(report["nfe"].as_u64().unwrap() < 100_000);
    assert!(stderr.contains("the deadline passed: 5 of 5 samples are estimates\n"), "{stderr}");
    assert!(estimates.iter().all(|x| x.is_finite() && x.abs() < 2.0), "{estimates:?}");
    // One call each at least, whatever the deadline.
    assert_eq!(run("--sampler em --steps 100000 --deadline 0 --anytime").0["nfe"], 1);
    // In time, and it changes nothing.
    let (report, stderr, samples) = run("--steps 10 --deadline 1000 --anytime");
    assert_eq!((&report["status"], &report["estimates"]), (&"complete".into(), &0.into()));
    assert!(!stderr.contains("deadline") && samples == run("--steps 10").2);
}

#[test]
fn samples_depend_on_their_seed_only() {
    let folder = folder();
    let run = |name: &str, more: &[&str]| {
        let args = ["sample", "image.json", "--nfe", "12", "--quiet", "--out", name];
        folder.psld(args.iter().chain(more)).success();
        fs::read(folder.path(name)).unwrap()
    };
    let whole = run("a.npy", &["-n", "9", "--seed", "3"]);
    assert_eq!(whole, run("b.npy", &["-n", "9", "--seed", "3", "--batch", "2", "--threads", "1"]));
    run("c.npy", &["-n", "1", "--seed", "5"]);
    let (shape, all) = values(&folder.path("a.npy"));
    assert_eq!(shape, [9, 3, 4, 4]);
    assert_eq!(all[2 * 48..3 * 48], values(&folder.path("c.npy")).1);
}

#[test]
fn forms_of_output() {
    let folder = folder();
    let ran = folder.psld(["sample", "image.json", "-n", "11", "--nfe", "8"]);
    snapshot!("default_output", ran);
    let grid = psld::io::png::read(&folder.path("samples.png"), 3 * 4 + 2 * 2, 4 * 4 + 3 * 2).unwrap();
    assert_eq!(grid.channels, 3);

    folder.psld(["sample", "image.json", "-n", "11", "--nfe", "8", "--out", "all/"]).success();
    assert_eq!(folder.names("all"), (0..11).map(|i| format!("{i:02}.png")).collect::<Vec<_>>());
    // Again, into the folder that is there now.
    folder.psld(["sample", "image.json", "-n", "11", "--nfe", "8", "--out", "all", "--overwrite"]).success();
    // The second image of the grid, pixel for pixel.
    let second = psld::io::png::read(&folder.path("all/01.png"), 4, 4).unwrap();
    for y in 0..4 {
        let line = &grid.levels[(y * 22 + 6) * 3..][..12];
        assert_eq!(line, &second.levels[y * 12..][..12]);
    }
    // And the pixels are the data: clipped, truncated.
    folder.psld(["sample", "image.json", "-n", "11", "--nfe", "8", "--out", "x.npy"]).success();
    let data = values(&folder.path("x.npy")).1;
    for (i, level) in second.levels.iter().enumerate() {
        let x = data[48 + i % 3 * 16 + i / 3];
        assert_eq!(*level, u16::from((255.0 * (0.5 * x + 0.5) + 1e-4) as u8));
    }

    let state = |precision: &str| {
        let args = ["sample", "image.json", "-n", "2", "--nfe", "8", "--output", "state", "--out", "z.npy"];
        folder.psld(args.iter().chain(&["--state", precision])).success();
        let bytes = fs::read(folder.path("z.npy")).unwrap();
        let (shape, z) = values(&folder.path("z.npy"));
        assert_eq!(shape, [2, 6, 4, 4]);
        (bytes.len(), z)
    };
    let ((short, f32s), (long, f64s)) = (state("f32"), state("f64"));
    assert_eq!((short, long), (128 + 192 * 4, 128 + 192 * 8));
    assert!(f32s.iter().zip(&f64s).all(|(a, b)| (a - b).abs() < 1e-4));
    assert_eq!(folder.psld(["sample", "vector.json", "-n", "1", "--nfe", "3"]).success().code, Some(0));
    assert_eq!(values(&folder.path("samples.npy")).0, [1, 5]);
    let left = folder.names("");
    assert!(left.iter().all(|name| !name.ends_with(".tmp")), "{left:?}");
}

#[test]
fn given_state_and_noise() {
    let folder = folder();
    array(&folder, "z0.npy", &[3, 6, 4, 4], |i| (i as f32 * 0.37).sin());
    array(&folder, "noise.npy", &[4, 3, 6, 4, 4], |i| (i as f32 * 0.11).cos());
    // n is that of the arrays.
    let args = [
        "sample",
        "image.json",
        "--sampler",
        "em",
        "--steps",
        "4",
        "--out",
        "x.npy",
        "--init",
        "z0.npy",
        "--noise",
        "noise.npy",
    ];
    folder.psld(args).success();
    let (shape, first) = values(&folder.path("x.npy"));
    assert_eq!(shape, [3, 3, 4, 4]);
    // The seed has nothing left to decide.
    folder.psld(args.iter().chain(&["--seed", "99"])).success();
    assert_eq!(values(&folder.path("x.npy")).1, first);
    // The noise that psld would draw, given: the same samples.
    array(&folder, "own.npy", &[4, 3, 6, 4, 4], |_| 0.0);
    let mut own = vec![0.0; 4 * 3 * 96];
    for (i, out) in own.chunks_mut(96).enumerate() {
        fill_f32(20 + (i % 3) as u64, Purpose::Solver, (i / 3) as u32, 0, out);
    }
    NewFile::write_with(&folder.path("own.npy"), |out| npy::write(out, &[4, 3, 6, 4, 4], &own)).unwrap();
    let own = "sample image.json --sampler em --steps 4 --out x.npy --init z0.npy --seed 20";
    let own: Vec<_> = own.split(' ').collect();
    folder.psld(&own).success();
    let drawn = values(&folder.path("x.npy")).1;
    folder.psld(own.iter().chain(&["--noise", "own.npy"])).success();
    assert_eq!(values(&folder.path("x.npy")).1, drawn);
}

#[test]
fn configuration_files() {
    let folder = folder();
    fs::create_dir(folder.path("sub")).unwrap();
    fs::write(folder.path("sub/grid.txt"), "1 0.5\n0.1, 0.001").unwrap();
    fs::write(
        folder.path("sub/c.json"),
        r#"{"sampler": {"kind": "heun", "time_grid": "grid.txt", "seed": 4}}"#,
    )
    .unwrap();
    let json = |args: &[&str]| -> serde_json::Value {
        let all = ["sample", "vector.json", "-n", "2", "--out", "x.npy", "--json"];
        serde_json::from_str(&folder.psld(all.iter().chain(args)).success().stdout).unwrap()
    };
    let report = json(&["--config", "sub/c.json"]);
    assert_eq!((&report["sampler"], &report["nfe"]), (&"heun".into(), &7.into()));
    assert_eq!((&report["seeds"], &report["next_seed"]), (&serde_json::json!([4, 5]), &6.into()));
    // The command line wins; steps and nfe are one option said in two ways.
    let report =
        json(&["--config", "sub/c.json", "--sampler", "euler", "--seed", "8", "--grid", "1,0.1,0.001"]);
    assert_eq!(
        (&report["sampler"], &report["nfe"], &report["next_seed"]),
        (&"euler".into(), &3.into(), &10.into())
    );
    fs::write(folder.path("nfe.json"), r#"{"sampler": {"kind": "em", "nfe": 50, "denoise": true}}"#).unwrap();
    let report = json(&["--config", "nfe.json", "--steps", "6", "--no-denoise"]);
    assert_eq!((&report["sampler"], &report["nfe"]), (&"em".into(), &6.into()));
}

#[test]
fn completing_images() {
    let folder = folder();
    array(&folder, "image.npy", &[3, 4, 4], |i| i as f32 / 48.0 - 0.5);
    array(&folder, "mask.npy", &[4, 4], |i| f32::from(i % 4 < 2));
    let run = |name: &str, mask: &str, more: &[&str]| {
        let inpaint = ["--inpaint-image", "image.npy", "--inpaint-mask", mask];
        let args = ["sample", "image.json", "-n", "2", "--nfe", "50", "--out", name];
        folder.psld(args.iter().chain(&inpaint).chain(more)).success();
        values(&folder.path(name)).1
    };
    // Known pixels are kept exactly by default, and nearly by the published method.
    let kept = |samples: &[f32]| {
        let known = samples.iter().enumerate().filter(|(i, _)| i % 4 < 2);
        known.map(|(i, x)| (x - ((i % 48) as f32 / 48.0 - 0.5)).abs()).fold(0.0, f32::max)
    };
    let samples = run("c.npy", "mask.npy", &[]);
    assert_eq!(kept(&samples), 0.0);
    assert_eq!(run("d.npy", "mask.npy", &["--inpaint-method", "corrected"]), samples);
    assert_eq!(run("d.npy", "mask.npy", &["--inpaint-resample", "1"]), samples);
    let twice = run("e.npy", "mask.npy", &["--inpaint-resample", "2"]);
    assert!(kept(&twice) == 0.0 && twice != samples);
    let published = ["--inpaint-method", "published"];
    let samples = run("x.npy", "mask.npy", &published);
    assert!((1e-6..0.05).contains(&kept(&samples)), "{}", kept(&samples));
    // The same mask as a PNG.
    let grey = psld::spec::DataSpec { shape: vec![1, 4, 4], range: [0.0, 1.0] };
    let mask: Vec<f32> = (0..16).map(|i| f32::from(i % 4 < 2)).collect();
    NewFile::write_with(&folder.path("mask.png"), |out| psld::io::png::write_image(out, &grey, &mask))
        .unwrap();
    assert_eq!(run("y.npy", "mask.png", &published), samples);
    // Two images are for two samples.
    array(&folder, "two.npy", &[2, 3, 4, 4], |i| i as f32 / 96.0);
    let two = ["--inpaint-image", "two.npy", "--inpaint-mask", "mask.npy"];
    folder.psld(["sample", "image.json", "--nfe", "3", "--out", "two-out.npy"].iter().chain(&two)).success();
    assert_eq!(values(&folder.path("two-out.npy")).0, [2, 3, 4, 4]);
    let plan = ["plan", "image.json", "--steps", "2", "--explain", "--config", "inpaint.json"];
    fs::write(folder.path("inpaint.json"), r#"{"inpaint": {"method": "published"}}"#).unwrap();
    snapshot!("plan_inpaint", folder.psld(plan));
    fs::write(folder.path("inpaint.json"), r#"{"inpaint": {"resample": 2}}"#).unwrap();
    snapshot!("plan_inpaint_corrected", folder.psld(plan));
}

#[test]
fn restoring_images() {
    let folder = folder();
    array(&folder, "images.npy", &[2, 3, 4, 4], |i| (i as f32 * 0.37).sin());
    array(&folder, "kernel.npy", &[1, 3], |i| [0.2, 0.7, 0.1][i]);
    array(&folder, "mask.npy", &[4, 4], |i| f32::from(i % 3 != 1));
    let measure = |what: &str, out: &str, more: &[&str]| {
        folder
            .psld(["measure", "image.json", "images.npy", "--restore", what, "--out", out].iter().chain(more))
            .success();
        values(&folder.path(out))
    };
    let (shape, averages) = measure("average:2", "y.npy", &[]);
    assert_eq!(shape, [2, 3, 2, 2]);
    let noisy = measure("average:2", "noisy.npy", &["--measurement-noise", "0.1", "--seed", "3"]).1;
    let off: f32 = noisy.iter().zip(&averages).map(|(a, b)| (a - b).abs()).sum::<f32>() / 24.0;
    assert!((0.03..0.2).contains(&off), "{off}");
    measure("convolve:kernel.npy", "blurred.npy", &[]);

    let restore = |name: &str, more: &[&str]| {
        let args = ["sample", "image.json", "--sampler", "dpmpp", "--nfe", "8", "--out", name];
        folder.psld(args.iter().chain(more)).success();
        fs::copy(folder.path(name), folder.path("restored.npy")).unwrap();
        values(&folder.path(name)).1
    };
    let average = ["--restore", "average:2", "--measurement", "y.npy"];
    let samples = restore("a.npy", &average);
    // What is measured of the samples is the measurement.
    folder
        .psld(["measure", "image.json", "restored.npy", "--restore", "average:2", "--out", "again.npy"])
        .success();
    let again = values(&folder.path("again.npy")).1;
    assert!(again.iter().zip(&averages).all(|(a, b)| (a - b).abs() < 1e-6));
    // The same by a configuration file, with paths of its own; noise is another sampler.
    let config = r#"{"restore": {"operator": {"kind": "average", "factor": 2}, "measurement": "y.npy"}}"#;
    fs::write(folder.path("restore.json"), config).unwrap();
    assert_eq!(restore("b.npy", &["--config", "restore.json"]), samples);
    assert_ne!(restore("c.npy", &["--config", "restore.json", "--measurement-noise", "0.1"]), samples);
    restore("d.npy", &["--restore", "convolve:kernel.npy", "--measurement", "blurred.npy"]);
    let masked = ["--restore", "mask", "--measurement", "images.npy", "--measurement-mask", "mask.npy"];
    let images = values(&folder.path("images.npy")).1;
    let samples = restore("e.npy", &masked);
    assert!((0..96).all(|i| i % 16 % 3 == 1 || (samples[i] - images[i]).abs() < 1e-6));
    // A measurement as a picture, one for all.
    let small = psld::spec::DataSpec { shape: vec![3, 2, 2], range: [-1.0, 1.0] };
    NewFile::write_with(&folder.path("y.png"), |out| {
        psld::io::png::write_image(out, &small, &averages[..12])
    })
    .unwrap();
    restore(
        "f.npy",
        &["--restore", "average:2", "--measurement", "y.png", "--measurement-noise", "0.01", "-n", "2"],
    );

    // An interrupted command goes on with the measurement that it began with, and with no other.
    let slow = "sample image.json --restore average:2 --measurement y.npy --sampler em --steps 100000 --deadline 0.2 --checkpoint saved";
    assert_eq!(folder.psld(slow.split_whitespace()).code, Some(1));
    for (of, code) in [("y.npy", 1), ("noisy.npy", 2)] {
        let resume = [
            "sample",
            "image.json",
            "--resume",
            "saved",
            "--restore",
            "average:2",
            "--measurement",
            of,
            "--deadline",
            "0.1",
        ];
        let ran = folder.psld(resume);
        assert_eq!(ran.code, Some(code), "{ran}");
        assert_eq!(
            ran.stderr.contains("restoration: the checkpoint was made with another"),
            code == 2,
            "{ran}"
        );
    }

    let plan =
        ["plan", "image.json", "--sampler", "dpmpp", "--steps", "2", "--explain", "--config", "restore.json"];
    snapshot!("plan_restore", folder.psld(plan));
}

/// Images to latents, between them, and back; image to image; by arrays, pictures and folders.
#[test]
fn images_in() {
    let folder = folder();
    let psld = |args: &str| folder.psld(args.split(' '));
    psld("sample image.json -n 3 --sampler heun --nfe 101 --seed 5 --out three.npy").success();
    let (shape, images) = values(&folder.path("three.npy"));
    psld("encode image.json three.npy --nfe 100 --out z.npy").success();
    let (latent_shape, latents) = values(&folder.path("z.npy"));
    assert_eq!((shape, latent_shape), (vec![3, 3, 4, 4], vec![3, 6, 4, 4]));
    psld("sample image.json --init z.npy --sampler unipc --order 3 --nfe 100 --out back.npy").success();
    let (_, back) = values(&folder.path("back.npy"));
    let far = back.iter().zip(&images).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far < 5e-3, "{far}");
    psld("interpolate image.json z.npy --steps 4 --out way.npy").success();
    let (shape, way) = values(&folder.path("way.npy"));
    assert_eq!(shape, [9, 6, 4, 4]);
    for i in 0..3 {
        assert_eq!(way[4 * i * 96..][..96], latents[i * 96..][..96], "latent {i}");
    }
    psld("sample image.json --init way.npy --sampler gddim --nfe 50 --out way.png").success();

    // The nearer to the data it starts, the nearer an image stays; one image is for all samples.
    let distance = |args: &str| {
        psld(&format!("sample image.json --from-image three.npy --nfe 50 --out x.npy {args}")).success();
        let (_, x) = values(&folder.path("x.npy"));
        x.iter().zip(&images).map(|(a, b)| (a - b).abs()).sum::<f32>() / 144.0
    };
    let far = ["0.02", "0.2", "1"].map(|t| distance(&format!("--t-start {t}")));
    assert!(far[0] < far[1] && far[1] < far[2] && far[0] < 0.1, "{far:?}");
    psld("sample image.json --from-image three.npy --nfe 10 --out pictures/").success();
    psld("sample image.json --from-image pictures --nfe 10 --out x.npy").success();
    assert_eq!(values(&folder.path("x.npy")).0[0], 3);
    psld("sample image.json --from-image pictures/0.png -n 5 --nfe 10 --out x.npy").success();
    assert_eq!(values(&folder.path("x.npy")).0[0], 5);
    // Stopped and resumed, without the images being said again.
    let resumed =
        "sample image.json --from-image three.npy --nfe 10 --batch 1 --out y.npy --checkpoint c.ckpt";
    psld(resumed).success();
    psld("sample image.json --resume c.ckpt --out z.npy").success();
    assert_eq!(values(&folder.path("y.npy")), values(&folder.path("z.npy")));

    let mut said = String::new();
    for args in [
        "encode image.json three.npy --sampler em --out z.npy",
        "encode image.json three.npy --out z.png",
        "encode image.json nowhere.png --out z.npy",
        "encode image.json back.json --out z.npy",
        "sample image.json --from-image three.npy -n 2 --out x.npy",
        "sample image.json --from-image three.npy --init z.npy --out x.npy",
        "sample image.json --from-image way.npy --out x.npy",
        "interpolate image.json three.npy --out x.npy",
        "interpolate image.json way.npy --steps 0 --out x.npy",
    ] {
        let ran = psld(args);
        assert_eq!(ran.code, Some(2), "{args}");
        said += &format!("{args}\n{}\n", ran.stderr);
    }
    insta::assert_snapshot!("images_refused", said);
}

/// What the library gives, as text, JSON and array.
#[test]
fn likelihood() {
    let folder = folder();
    let psld = |args: &str| folder.psld(args.split(' '));
    psld("sample labelled.json -n 3 --label 0-2 --sampler heun --nfe 101 --seed 5 --out three.npy").success();
    let likelihood = "likelihood labelled.json three.npy --nfe 20 --seed 4";
    let json = |args: &str| -> serde_json::Value {
        serde_json::from_str(&psld(&format!("{likelihood} --json {args}")).success().stdout).unwrap()
    };
    let plain = json("--out bits.npy --probes 2");
    let bits: Vec<f64> = serde_json::from_value(plain["bits"].clone()).unwrap();
    assert_eq!(plain["bits_per_dimension"], bits.iter().sum::<f64>() / 3.0);
    assert_eq!((&plain["nfe"], &plain["images"]), (&(20 + 21 * 4).into(), &3.into()));
    assert_eq!(plain["errors"].as_array().unwrap().len(), 3);
    assert_eq!(json("--probes 2 --batch 1")["bits"], plain["bits"]);
    let (shape, written) = values(&folder.path("bits.npy"));
    assert_eq!(shape, [3]);
    assert!(written.iter().zip(&bits).all(|(a, b)| *a == *b as f32));
    // Each image is likelier given its class, by about a third of its bits' worth.
    let by_class = json("--probes 2 --label 0-2");
    assert!(by_class["bits_per_dimension"].as_f64().unwrap() < plain["bits_per_dimension"].as_f64().unwrap());
    let said = psld(likelihood).success();
    assert!(said.stdout.contains(" bits/dim (3 images, gddim, 62 network calls each)"), "{}", said.stdout);
    // 8-bit bits: log2 128 more, but for where in its bin a value is.
    let dequantised = json("--dequantise --probes 2")["bits_per_dimension"].as_f64().unwrap();
    let more = dequantised - plain["bits_per_dimension"].as_f64().unwrap();
    assert!((more - 7.0).abs() < 0.1, "{more}");

    fs::write(folder.path("restored.json"), r#"{"restore": {"operator": {"kind": "mask"}}}"#).unwrap();
    let mut said = String::new();
    for args in [
        "likelihood labelled.json three.npy --sampler dpmpp",
        "likelihood labelled.json three.npy --sampler rk45",
        "likelihood labelled.json three.npy --probes 0",
        "likelihood labelled.json three.npy --label 7",
        "likelihood image.json three.npy",
        "likelihood labelled.json three.npy --config restored.json",
        "likelihood labelled.json nowhere",
    ] {
        let ran = psld(args);
        assert_eq!(ran.code, Some(2), "{args}");
        said += &format!("{args}\n{}\n", ran.stderr);
    }
    insta::assert_snapshot!("likelihood_refused", said);
}

/// Classes by label, by classifier-free guidance and by a classifier: samples are near their class's mean, which differ.
#[test]
fn classes() {
    let folder = folder();
    let run = |args: &str| {
        let command = format!("sample labelled.json --steps 40 --sampler sscs --out x.npy --json {args}");
        let report: serde_json::Value =
            serde_json::from_str(&folder.psld(command.split(' ')).success().stdout).unwrap();
        let means: Vec<f32> =
            values(&folder.path("x.npy")).1.chunks(16).map(|x| x.iter().sum::<f32>() / 16.0).collect();
        let classes: Vec<i32> = means.iter().map(|mean| (mean / 0.6).round() as i32 + 1).collect();
        (classes, report["nfe"].as_u64().unwrap())
    };
    assert_eq!(run("-n 3 --label 2"), (vec![2, 2, 2], 41));
    assert_eq!(run("-n 4 --label 0-2"), (vec![0, 1, 2, 0], 41));
    assert_eq!(run("-n 3 --label 0,2"), (vec![0, 2, 0], 41));
    assert_eq!(run("-n 3 --label 2 --scale 0"), (vec![2, 2, 2], 41));
    assert_eq!(run("--label 1,0,2 --scale 0,0.5"), (vec![1, 0, 2, 1, 0, 2], 82));
    let config = |name: &str, text: &str| fs::write(folder.path(name), text).unwrap();
    config(
        "cfg.json",
        r#"{"guidance": {"kind": "cfg", "scale": 1, "label": [2, 0], "interval": [0.0, 0.5]}}"#,
    );
    let (classes, nfe) = run("-n 3 --config cfg.json");
    assert!(classes == [2, 0, 2] && 41 < nfe && nfe < 82, "{classes:?}, {nfe}");
    // The command line replaces what the file says.
    assert_eq!(run("-n 2 --config cfg.json --label 1 --scale 0"), (vec![1, 1], 41));
    fs::create_dir_all(folder.path("sub")).unwrap();
    config(
        "sub/bayes.json",
        r#"{"guidance": {"kind": "classifier", "scale": 1, "label": 0, "model": "../classifier.json"}}"#,
    );
    assert_eq!(run("-n 3 --config sub/bayes.json"), (vec![0, 0, 0], 82));
    assert_eq!(run("-n 3 --config sub/bayes.json --label 0-2"), (vec![0, 1, 2], 82));
    snapshot!(
        "plan_guided",
        folder.psld("plan labelled.json --steps 2 --explain --config cfg.json".split(' '))
    );
}

#[test]
fn bench() {
    let folder = folder();
    let psld = |args: &str| folder.psld(args.split(' '));
    let said =
        psld("bench labelled.json --sampler heun --nfe 11 -n 5 --batch 2 --label 0-2 --rounds 3 --json")
            .success();
    assert_eq!(said.stderr, "");
    let json: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((&json["sampler"], &json["nfe"]), (&"heun".into(), &11.into()));
    assert_eq!((&json["samples"], &json["batch"], &json["rounds"]), (&5.into(), &2.into(), &3.into()));
    assert_eq!(json["backend"]["provider"], "cpu");
    let seconds = |round: &str, part: &str| json["seconds"][round][part].as_f64().unwrap();
    for round in ["first", "median", "best", "worst"] {
        let (network, total) = (seconds(round, "network"), seconds(round, "total"));
        assert!(network > 0.0 && (network + seconds(round, "solver") - total).abs() < 1e-12);
        // Three batches of eleven calls.
        assert!((seconds(round, "network_call") * 33.0 - network).abs() < 1e-12);
    }
    assert!(seconds("best", "total") <= seconds("median", "total"));
    assert!(seconds("median", "total") <= seconds("worst", "total"));
    let rate = json["samples_per_second"].as_f64().unwrap();
    assert!((rate * seconds("median", "total") - 5.0).abs() < 1e-9);
    let table = psld("bench image.json --sampler em --nfe 4").success().stdout;
    assert!(
        table.contains("sampler       em, 4 network calls\nsamples       16 a round, 16 a network call\n"),
        "{table}"
    );
    assert_eq!(folder.names(""), ["classifier.json", "image.json", "labelled.json", "vector.json"]);
    for args in ["-n 0", "--rounds 0", "--batch 0", "--label 1", "--nfe 1"] {
        assert_eq!(psld(&format!("bench image.json {args}")).code, Some(2), "{args}");
    }
}

#[test]
fn noise() {
    let folder = folder();
    let args =
        ["noise", "--seed", "7", "--purpose", "solver", "--draw", "3", "--shape", "2,5,7", "--out", "n.npy"];
    folder.psld(args).success();
    let (shape, noise) = values(&folder.path("n.npy"));
    let mut expected = vec![0.0_f32; 70];
    fill_f32(7, Purpose::Solver, 3, 0, &mut expected);
    assert_eq!((shape, noise), (vec![2, 5, 7], expected.clone()));
    folder.psld(args.map(|arg| if arg == "7" { "6" } else { arg }).iter().chain(&["--n", "3"])).success();
    let (shape, noise) = values(&folder.path("n.npy"));
    assert_eq!(shape, [3, 2, 5, 7]);
    assert_eq!(noise[70..140], expected);
    snapshot!(
        "noise_bad_purpose",
        folder.psld(["noise", "--purpose", "priors", "--shape", "3", "--out", "n.npy"])
    );
    snapshot!(
        "noise_bad_shape",
        folder.psld(["noise", "--purpose", "prior", "--shape", "3,0", "--out", "n.npy"])
    );
    let huge =
        ["noise", "--purpose", "prior", "--shape", "1000", "--n", "1000000000000000", "--out", "n.npy"];
    snapshot!("noise_bad_size", folder.psld(huge));
}

/// Each mistake has its message and its exit code, and leaves no file.
#[test]
fn bad_input() {
    let folder = folder();
    fs::write(folder.path("broken.json"), r#"{"psld.spec": {"format": 1,"#).unwrap();
    fs::write(
        folder.path("no_spec.json"),
        r#"{"mixture": {"weights": [1], "means": [[0]], "variances": [1]}}"#,
    )
    .unwrap();
    fs::write(
        folder.path("spec.json"),
        r#"{"format": 1, "process": {"kind": "psld", "gama": 1}, "data": {"shape": [5]}}"#,
    )
    .unwrap();
    fs::write(
        folder.path("rule.json"),
        r#"{"format": 1, "process": {"kind": "psld", "gamma": -1}, "data": {"shape": [5]}}"#,
    )
    .unwrap();
    fs::write(folder.path("field.json"), r#"{"sampler": {"kind": "em", "stepz": 4}}"#).unwrap();
    for (name, guidance) in [
        ("field", r#"{"scales": 1}"#),
        ("kind", r#"{"kind": "clasifier", "scale": 1}"#),
        ("no_scale", r#"{"kind": "cfg", "label": 1}"#),
        ("no_model", r#"{"kind": "classifier", "scale": 1, "label": 1}"#),
        ("no_kind", r#"{"scale": 1, "label": 1, "model": "classifier.json"}"#),
        ("missing", r#"{"kind": "classifier", "scale": 1, "label": 1, "model": "nowhere.json"}"#),
        ("interval", r#"{"kind": "cfg", "scale": 1, "label": 1, "interval": [0.5, 0.1]}"#),
        ("other", r#"{"kind": "classifier", "scale": 1, "label": 1, "model": "classifier.json"}"#),
    ] {
        let text = format!(r#"{{"guidance": {guidance}}}"#);
        fs::write(folder.path(&format!("guidance_{name}.json")), text).unwrap();
    }
    fs::write(folder.path("section.json"), r#"{"samplers": {}}"#).unwrap();
    fs::write(folder.path("method.json"), r#"{"inpaint": {"image": "a", "mask": "b", "method": "correct"}}"#)
        .unwrap();
    fs::write(folder.path("text.txt"), "hello").unwrap();
    let nan = |i| if i == 100 { f32::NAN } else { 0.0 };
    array(&folder, "good.npy", &[2, 6, 4, 4], |_| 0.0);
    array(&folder, "nan.npy", &[2, 6, 4, 4], nan);
    array(&folder, "data.npy", &[2, 3, 4, 4], |_| 0.0);
    array(&folder, "noise.npy", &[3, 2, 6, 4, 4], |_| 0.0);
    array(&folder, "flat.npy", &[6], |_| 0.0);
    let damaged = |name: &str, damage: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(folder.path("good.npy")).unwrap();
        damage(&mut bytes);
        fs::write(folder.path(name), bytes).unwrap();
    };
    let header = |from: &'static str, to: &'static str| {
        move |bytes: &mut Vec<u8>| {
            let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            bytes.splice(at..at + from.len(), to.bytes());
            // The padding keeps the length.
            let end = bytes.iter().position(|b| *b == b'\n').unwrap();
            let padding = to.len() - from.len();
            bytes.drain(end - padding..end);
        }
    };
    damaged("short.npy", &|bytes| bytes.truncate(500));
    damaged("stub.npy", &|bytes| bytes.truncate(20));
    damaged("huge.npy", &header("(2,", "(99999999999999,"));
    damaged("object.npy", &header("'<f4'", "'|O'  "));
    damaged("big.npy", &header("'<f4'", "'>f4'"));
    folder.copy("tests/data/reference/em_vp/model.onnx", "em_vp.onnx");

    let sample = |args: &str| format!("sample image.json --out x.npy {args}");
    let mut onnx = fs::read(folder.path("em_vp.onnx")).unwrap();
    onnx.truncate(onnx.len() / 2);
    fs::write(folder.path("short.onnx"), &onnx).unwrap();
    fs::write(folder.path("empty.onnx"), "").unwrap();
    fs::write(folder.path("text.onnx"), "hello").unwrap();
    let mut foreign = psld::onnx::Model::read(fs::read(folder.path("em_vp.onnx")).unwrap()).unwrap();
    foreign.set_metadata(psld::spec::SPEC_KEY, "{}");
    fs::write(folder.path("foreign.onnx"), foreign.to_bytes()).unwrap();
    let before = folder.names("");
    let cases = [
        ("onnx_short", "plan short.onnx".to_owned()),
        ("onnx_empty", "plan empty.onnx".into()),
        ("onnx_text", "plan text.onnx".into()),
        ("onnx_spec", "plan foreign.onnx".into()),
        ("model_missing", "sample missing.json".into()),
        ("model_missing_onnx", "sample missing.onnx".into()),
        ("model_folder", "sample .".into()),
        ("model_malformed", "sample broken.json".into()),
        ("model_no_spec", "info no_spec.json".into()),
        ("spec_field", "info image.json --spec spec.json".into()),
        ("spec_rule", "info image.json --spec rule.json".into()),
        ("spec_missing", "info image.json --spec missing.json".into()),
        ("sampler_unknown", sample("--sampler emm")),
        ("sampler_unknown_far", sample("--sampler zzz")),
        ("flag_unknown", sample("--stepz 3")),
        ("flag_of_later", sample("--scale 3")),
        ("config_field", sample("--config field.json")),
        ("config_section", sample("--config section.json")),
        ("config_missing", sample("--config missing.json")),
        ("steps_and_nfe", sample("--steps 3 --nfe 3")),
        ("steps_zero", sample("--steps 0")),
        ("steps_negative", sample("--steps -3")),
        ("nfe_one", sample("--nfe 1")),
        ("rk45_steps", sample("--sampler rk45 --steps 3")),
        ("em_rtol", sample("--rtol 1e-3")),
        ("grid_unknown", sample("--grid quadratc")),
        ("grid_increasing", sample("--grid 0.001,1")),
        ("grid_file", sample("--grid text.txt")),
        ("interval", sample("--t-end 2")),
        ("init_shape", sample("--init data.npy")),
        ("init_n", sample("--init good.npy -n 3")),
        ("init_nan", sample("--init nan.npy")),
        ("init_flat", sample("--init flat.npy")),
        ("noise_draws", sample("--noise noise.npy --steps 4")),
        ("noise_shape", sample("--noise good.npy --steps 4")),
        ("noise_adaptive", sample("--noise noise.npy --sampler rk45")),
        ("npy_missing", sample("--init missing.npy")),
        ("npy_short", sample("--init short.npy")),
        ("npy_stub", sample("--init stub.npy")),
        ("npy_huge", sample("--init huge.npy")),
        ("npy_object", sample("--init object.npy")),
        ("npy_text", sample("--init text.txt")),
        ("n_zero", sample("-n 0")),
        ("n_absurd", sample("-n 1000000000000000")),
        ("n_absurd_limited", sample("-n 1000000000000000 --max-memory 1GB")),
        ("n_absurd_labelled", "sample labelled.json --label 1 -n 1000000000000000".into()),
        ("memory", sample("-n 1000 --max-memory 100k")),
        ("memory_unit", sample("--max-memory 3apples")),
        ("batch_zero", sample("--batch 0")),
        ("threads_zero", sample("--threads 0")),
        ("label_unconditional", sample("--label 1")),
        ("label_range", "sample labelled.json --label 4".into()),
        ("label_negative", "sample labelled.json --label -1".into()),
        ("label_word", "sample labelled.json --label cat".into()),
        ("scale_word", "sample labelled.json --label 1 --scale much".into()),
        ("scale_nan", "sample labelled.json --label 1 --scale nan".into()),
        ("scale_no_label", "sample labelled.json --scale 2".into()),
        ("scale_unconditional", sample("--label 1 --scale 2")),
        ("guidance_field", sample("--config guidance_field.json")),
        ("guidance_kind", sample("--config guidance_kind.json")),
        ("guidance_no_scale", sample("--config guidance_no_scale.json")),
        ("guidance_no_model", sample("--config guidance_no_model.json")),
        ("guidance_no_kind", sample("--config guidance_no_kind.json")),
        ("guidance_missing", sample("--config guidance_missing.json")),
        ("guidance_interval", sample("--config guidance_interval.json")),
        ("guidance_other", sample("--config guidance_other.json")),
        ("guidance_alone", "sample classifier.json".into()),
        ("inpaint_method", sample("--inpaint-image data.npy --inpaint-mask data.npy --inpaint-method exact")),
        ("inpaint_resample", sample("--inpaint-image data.npy --inpaint-mask data.npy --inpaint-resample 0")),
        ("inpaint_method_later", sample("--config method.json")),
        ("inpaint_no_mask", sample("--inpaint-image data.npy")),
        ("inpaint_no_image", sample("--inpaint-mask data.npy")),
        ("inpaint_no_files", sample("--inpaint-method corrected")),
        ("restore_word", sample("--restore mean:2 --measurement data.npy")),
        ("restore_no_operator", sample("--measurement data.npy")),
        ("restore_no_measurement", sample("--restore average:2")),
        ("restore_singular", sample("--restore blur:3 --measurement data.npy")),
        (
            "restore_and_inpaint",
            sample("--restore mask --measurement data.npy --inpaint-image data.npy --inpaint-mask data.npy"),
        ),
        ("restore_noise", sample("--restore average:2 --measurement data.npy --measurement-noise -1")),
        ("measure_shape", "measure image.json good.npy --restore average:2 --out y.npy".into()),
        ("measure_factor", "measure image.json data.npy --restore average:3 --out y.npy".into()),
        ("measure_nowhere", "measure image.json nowhere.npy --restore average:2 --out y.npy".into()),
        ("restore_kernel", sample("--restore convolve:data.npy --measurement data.npy")),
        ("restore_shape", sample("--restore average:2 --measurement data.npy")),
        ("inpaint_shape", sample("--inpaint-image good.npy --inpaint-mask data.npy")),
        ("out_extension", "sample image.json --out x.jpg".into()),
        ("out_folder_missing", "sample image.json --out no/x.png".into()),
        ("out_folder_missing_deep", "sample image.json --out no/deeper/".into()),
        ("out_state_png", "sample image.json --out x.png --output state".into()),
        ("out_vector_png", "sample vector.json --out x.png".into()),
        ("out_vector_folder", "sample vector.json --out d/".into()),
        ("deadline", sample("--deadline 0")),
        ("deadline_negative", sample("--deadline -1")),
        ("anytime_alone", sample("--anytime")),
        ("anytime_checkpoint", sample("--anytime --deadline 1 --checkpoint c")),
        ("anytime_state", sample("--anytime --deadline 1 --output state")),
    ];
    for (name, command) in &cases {
        let ran = folder.psld(command.split(' '));
        let code = match *name {
            "deadline" | "out_folder_missing" | "out_folder_missing_deep" => 1,
            _ => 2,
        };
        assert_eq!(ran.code, Some(code), "{name}: {ran}");
        assert_eq!(ran.stdout, "", "{name}");
        snapshot!(format!("bad_{name}"), ran);
    }
    assert_eq!(folder.names(""), before);
}

#[test]
fn a_file_that_cannot_be_written_is_found_before_sampling() {
    let folder = folder();
    fs::create_dir(folder.path("x.npy")).unwrap();
    fs::create_dir(folder.path("x.npy/y.npy")).unwrap();
    // A folder is where one PNG each goes, whatever it is called.
    folder.psld(["sample", "image.json", "--nfe", "4", "-n", "1", "--out", "x.npy"]).success();
    let slow = ["sample", "image.json", "--nfe", "1000000", "-n", "64", "--out", "/dev/null/x.npy"];
    snapshot!("bad_out_not_a_folder", folder.psld(slow));
}

#[test]
fn a_full_disk_loses_nothing() {
    let folder = folder();
    let args = ["sample", "image.json", "-n", "200", "--nfe", "4", "--out"];
    for name in ["x.npy", "x.png", "d/"] {
        let file = if name == "d/" { "d/000.png" } else { name };
        folder.psld(args.iter().chain(&[name])).success();
        let old = fs::read(folder.path(file)).unwrap();
        let overwrite = if name == "d/" { &["--overwrite"][..] } else { &[] };
        let mut command = folder.command(args.iter().chain(&[name]).chain(overwrite));
        // SAFETY: setrlimit may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                let limit = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
                if libc::setrlimit(libc::RLIMIT_FSIZE, &limit) == 0 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            });
        }
        let ran = Ran::of(command.output().unwrap());
        assert_eq!(ran.code, Some(1), "{ran}");
        snapshot!(format!("full_disk_{}", name.trim_matches(['x', '.', '/'])), ran);
        assert_eq!(fs::read(folder.path(file)).unwrap(), old);
        let left = [folder.names(""), folder.names("d")].concat();
        assert!(left.iter().all(|name| !name.ends_with(".tmp")), "{left:?}");
        if name == "x.png" {
            fs::create_dir(folder.path("d")).unwrap();
        }
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let folder = folder();
    let mut command = folder.command(["plan", "image.json", "--steps", "3000"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));

    let mut command = folder.command(["plan", "image.json", "--steps", "3000"]);
    command.stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    snapshot!("full_stdout", Ran::of(command.output().unwrap()));
}

/// Whether the process has taken over SIGINT.
fn handles_interrupts(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & 2 != 0)
}

#[test]
fn an_interrupt_finishes_the_step() {
    let folder = folder();
    let args = [
        "sample",
        "image.json",
        "-n",
        "2000",
        "--batch",
        "2000",
        "--sampler",
        "em",
        "--nfe",
        "20000",
        "--out",
        "x.npy",
    ];
    // Into the sampling: before it, an interrupt ends the program at once (with the same code). How long the way there
    // is depends on the machine.
    let interrupted = |wait: u64| {
        let child = folder.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let began = Instant::now();
        while !handles_interrupts(child.id()) && began.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_secs(wait));
        let pid = i32::try_from(child.id()).unwrap();
        // SAFETY: sends a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
        let ran = Ran::of(child.wait_with_output().unwrap());
        assert_eq!(ran.code, Some(130), "{ran}");
        ran
    };
    let in_time = [1, 4, 15, 60]
        .into_iter()
        .map(interrupted)
        .find(|ran| ran.stderr.contains("interrupted: finishing the step"));
    let ran = in_time.expect("the sampling begins within a minute");
    assert!(ran.stderr.contains("cancelled after step"), "{ran}");
    assert!(ran.stderr.contains("nothing is written"), "{ran}");
    assert!(!folder.path("x.npy").exists());
}

/// A tuned plan, its report, and what an interrupted command leaves behind.
#[test]
fn tuning() {
    let folder = folder();
    let args = "tune image.json --sampler heun --nfe 7 --samples 16 --held-out 16 --teacher-steps 32 --evaluations 9 \
                -o plan.json --json";
    let ran = folder.psld(args.split_whitespace()).success();
    assert!(ran.stderr.starts_with("wrote plan.json: 7 network calls, 9 grids tried\n"), "{ran}");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let mean = |of: &str| report["distance_to_teacher"][of]["mean"].as_f64().unwrap();
    assert!(mean("tuned") < mean("given"), "{ran}");
    let plan = psld::plan::Plan::parse(&fs::read_to_string(folder.path("plan.json")).unwrap()).unwrap();
    assert_eq!(report["plan_hash"], plan.hash());
    assert_eq!(folder.names("").iter().filter(|name| name.contains("trials")).count(), 0, "left behind");

    let other = "{\"model\":\"another\"}\n{\"grid\":[0,1],\"error\":0}\n";
    fs::write(folder.path("plan.json.trials"), other).unwrap();
    let again = folder.psld(args.split_whitespace()).success();
    assert_eq!(
        (again.stdout, again.stderr),
        (ran.stdout, ran.stderr),
        "trials of other options are not used"
    );
    snapshot!("tune_em", folder.psld("tune image.json --sampler em -o p.json".split_whitespace()));
    snapshot!("tune_nowhere", folder.psld("tune image.json --sampler heun -o no/p.json".split_whitespace()));
    snapshot!("tune_inpaint", {
        fs::write(folder.path("c.json"), r#"{"inpaint": {"image": "x.npy", "mask": "m.npy"}}"#).unwrap();
        folder.psld("tune image.json --config c.json -o p.json".split_whitespace())
    });
    snapshot!("tune_restore", {
        fs::write(folder.path("c.json"), r#"{"restore": {"operator": {"kind": "mask"}}}"#).unwrap();
        folder.psld("tune image.json --config c.json -o p.json".split_whitespace())
    });
    assert_eq!(folder.names("").iter().filter(|name| name.starts_with("p.json")).count(), 0, "left behind");
}

/// The columns of a study's CSV by name, for each line.
fn study_csv(folder: &Folder, name: &str) -> Vec<std::collections::HashMap<String, String>> {
    let text = fs::read_to_string(folder.path(name)).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
    let head = lines.next().unwrap();
    lines.map(|line| head.iter().cloned().zip(line).collect()).collect()
}

/// The figures are those of the samples that `psld sample` draws.
#[test]
fn a_study_measures_what_is_sampled() {
    let folder = folder();
    let args = "study image.json -n 15 --seed 3 --samplers auto,dpmpp:order=2:grid=order2,em,rk45:rtol=0.1:atol=0.1 \
                --nfe 7,5 --resamples 20 -o d";
    let ran = folder.psld(args.split_whitespace()).success();
    insta::with_settings!({ filters => [(r"\d+\.\d+(e-?\d+)?", "#"), (r" +", " ")] }, {
        insta::assert_snapshot!("study", ran.to_string());
    });
    assert_eq!(
        folder.names("d"),
        ["cells", "converged.npy", "converged.png", "grid.png", "study.csv", "study.json", "study.png"]
    );
    // The converged solution (2 x 2 images, shown 60 pixels wide) stands above the numbers of calls: it is of none of them.
    let (width, height) = psld::io::png::size(&folder.path("d/grid.png")).unwrap();
    let pictures = psld::io::png::read(&folder.path("d/grid.png"), height, width).unwrap();
    let kinds = |lines: std::ops::Range<usize>| {
        let levels = &pictures.levels[lines.start * width * 3..lines.end * width * 3];
        let is = |pixel: &[u16], level| pixel.iter().all(|x| *x == level);
        let colours = levels.chunks_exact(3).filter(|pixel| !is(pixel, 0) && !is(pixel, 255)).count();
        (levels.chunks_exact(3).any(|pixel| is(pixel, 0)), colours > 0)
    };
    assert_eq!([kinds(0..8), kinds(68..84), kinds(84..92)], [(false, false), (false, false), (true, false)]);
    assert!(kinds(8..68).1 && kinds(100..160).1);
    let sampled = |more: &str| {
        let args = format!("sample image.json -n 15 --seed 3 --out x.npy --quiet {more}");
        folder.psld(args.split_whitespace()).success();
        values(&folder.path("x.npy")).1
    };
    let converged = sampled("--sampler rk45 --rtol 1e-5 --atol 1e-5 --state f64");
    assert_eq!(values(&folder.path("d/converged.npy")), (vec![15, 3, 4, 4], converged.clone()));
    let rows = study_csv(&folder, "d/study.csv");
    assert_eq!(
        rows.len(),
        1 + 3 * 2 + 1,
        "the floor, three samplers at two numbers of calls, and an adaptive one"
    );
    for (name, nfe, options) in [
        ("dpmpp:order=2:grid=order2", "7", "--sampler dpmpp --order 2 --grid order2 --nfe 7"),
        ("auto", "5", "--sampler auto --nfe 5"),
        ("rk45:rtol=0.1:atol=0.1", "", "--sampler rk45 --rtol 0.1 --atol 0.1"),
    ] {
        let row = rows.iter().find(|row| row["name"] == name && row["calls"] == nfe).unwrap();
        let x = sampled(options);
        let rms = |x: &[f32], y: &[f32]| {
            let sum: f64 = x.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum();
            (sum / 48.0).sqrt()
        };
        let end = |i: usize| &converged[i % 15 * 48..][..48];
        let mut apart: Vec<f64> = x.chunks(48).enumerate().map(|(i, x)| rms(x, end(i))).collect();
        let mut typical: Vec<f64> = (0..15).map(|i| rms(end(i), end(i + 7))).collect();
        apart.sort_by(f64::total_cmp);
        typical.sort_by(f64::total_cmp);
        let elsewhere = apart.iter().filter(|apart| **apart > 0.5 * typical[7]).count() as f64 / 15.0;
        assert!((row["elsewhere"].parse::<f64>().unwrap() - elsewhere).abs() < 1e-6, "{name}: {elsewhere}");
        let rms: f64 = row["rms"].parse().unwrap();
        assert!((rms / apart[7] - 1.0).abs() < 1e-5, "{name}: {rms} for {}", apart[7]);
        assert!(row["rms_low"].parse::<f64>().unwrap() <= rms && rms <= row["rms_high"].parse().unwrap());
        assert!(row["mode_spread"].parse::<f64>().unwrap() > 0.0, "the law of an analytic model is known");
    }
    // A sampler that draws noise has no converged solution of its own.
    let em = rows.iter().find(|row| row["name"] == "em" && row["nfe"] == "7").unwrap();
    assert_eq!((&*em["rms"], &*em["stochastic"], &*em["frechet_distance"]), ("", "true", ""));
    assert!(em["energy_distance"].parse::<f64>().unwrap() > 0.0);
}

/// Begun with less, interrupted or damaged, and gone on: the same files as made at once.
#[test]
fn a_study_goes_on() {
    let folder = folder();
    let common = "study image.json -n 12 --resamples 10 --quiet --samplers";
    let study = |more: &str| folder.psld(format!("{common} {more}").split_whitespace());
    study("euler,em --nfe 4,6 -o whole").success();
    let files = ["study.csv", "study.png", "study.json", "grid.png", "converged.npy"];
    let same = |name: &str| {
        for file in files {
            let of = |name: &str| fs::read(folder.path(&format!("{name}/{file}"))).unwrap();
            assert!(of(name) == of("whole"), "{name}/{file}");
        }
    };
    study("em --nfe 6 -o parts").success();
    study("euler,em --nfe 6,4 -o parts").success();
    same("parts");
    // Of what is there nothing is measured again, but pictures and the solution that are gone.
    let again = folder
        .psld("study image.json -n 12 --resamples 10 --samplers euler,em --nfe 4,6 -o parts".split(' '));
    assert!(again.success().stderr.starts_with("going on: 4 of 4 were measured before"));
    fs::remove_file(folder.path("parts/cells").join(&folder.names("parts/cells")[0])).unwrap();
    fs::write(folder.path("parts/converged.npy"), "torn").unwrap();
    study("euler,em --nfe 4,6 -o parts").success();
    same("parts");

    let long = "study image.json -n 300 --resamples 0 --samplers em --nfe 5,20000 -o killed";
    let long: Vec<&str> = long.split(' ').collect();
    let measured = |_| {
        fs::read_to_string(folder.path("killed/study.json")).is_ok_and(|text| text.contains("\"nfe\": 5"))
    };
    let child = begin(&folder, &long, measured);
    kill(&child, libc::SIGINT);
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(130), "{ran}");
    assert!(ran.stderr.contains("interrupted; killed keeps the 1 that were measured"), "{ran}");
    let fewer: Vec<&str> =
        long.iter().map(|word| if word.contains("20000") { "5,6" } else { *word }).collect();
    let ran = folder.psld(fewer).success();
    assert!(ran.stderr.starts_with("going on: 1 of 2 were measured before"), "{ran}");

    let state = fs::read_to_string(folder.path("parts/study.json")).unwrap();
    fs::write(folder.path("parts/study.json"), &state[..state.len() / 2]).unwrap();
    insta::with_settings!({ filters => [(r"EOF while .*", "[WHERE]")] }, {
        insta::assert_snapshot!("study_torn", study("euler --nfe 4 -o parts").to_string());
    });
    fs::write(folder.path("parts/study.json"), &state).unwrap();
    snapshot!("study_other", study("euler --nfe 4 --seed 1 --reference euler:steps=500 -o parts"));
}

/// Plans of one file name are told apart, and what is the same plan under two names is measured once.
#[test]
fn a_study_of_plans() {
    let folder = folder();
    fs::create_dir(folder.path("other")).unwrap();
    for (name, sampler) in [("plan.json", "euler"), ("other/plan.json", "deis")] {
        let args = format!("plan image.json --sampler {sampler} --steps 4 --json");
        let plan = folder.psld(args.split(' ')).success().stdout;
        fs::write(folder.path(name), plan).unwrap();
    }
    let args = "study image.json -n 8 --resamples 0 --samplers euler --nfe 5 --plan plan.json --plan other/plan.json -o d";
    folder.psld(args.split(' ')).success();
    let rows = study_csv(&folder, "d/study.csv");
    let names: Vec<&str> = rows.iter().map(|row| &*row["name"]).collect();
    assert_eq!(names, ["(floor)", "euler", "plan", "other/plan.json"]);
    assert_eq!(rows[1]["rms"], rows[2]["rms"]);
    assert_ne!(rows[2]["rms"], rows[3]["rms"]);
    assert_eq!(folder.names("d/cells").len(), 2);
}

/// A probe's options are a configuration; a cache is where it was asked for, and nothing else is written anywhere.
#[test]
fn a_probe_is_a_configuration() {
    let folder = folder();
    let probe = |args: &str| {
        let args = format!("tune --probe image.json --nfe 6 --samples 12 {args}");
        let ran = folder.psld(args.split_whitespace()).success();
        (ran.stdout, ran.stderr)
    };
    let before = folder.names(".");
    let (stdout, _) = probe("--quiet");
    assert_eq!(folder.names("."), before, "nothing is written that was not asked for");
    let chosen: Value = serde_json::from_str(&stdout).unwrap();
    let chosen = &chosen["sampler"];
    assert_eq!(chosen["nfe"], 6);
    assert!(chosen["kind"].is_string() && chosen["time_grid"].is_string(), "{chosen}");
    assert_eq!(probe("--quiet -o best.json").0, "");
    assert_eq!(fs::read_to_string(folder.path("best.json")).unwrap(), stdout);
    let sample = "sample image.json -n 2 --config best.json --out x.npy --json --quiet";
    let made: Value = serde_json::from_str(&folder.psld(sample.split(' ')).success().stdout).unwrap();
    assert_eq!((&made["nfe"], &made["sampler"]), (&json!(6), &chosen["kind"]));

    let cached = |args: &str| -> Value {
        serde_json::from_str(&probe(&format!("--json --cache kept {args}")).0).unwrap()
    };
    let first = cached("");
    assert_eq!((&first["cached"], &first["options"]["sampler"]), (&json!(false), &chosen["kind"]));
    let again = cached("");
    assert_eq!(
        (&again["cached"], &again["options"], &again["tried"]),
        (&json!(true), &first["options"], &first["tried"])
    );
    assert_eq!(cached("--t-end 0.01")["cached"], false, "another question");
    assert_eq!(folder.names("kept").len(), 2);
    // A torn file is made again.
    for name in folder.names("kept") {
        fs::write(folder.path("kept").join(name), "{").unwrap();
    }
    assert_eq!(cached("")["cached"], false);
    for args in ["--evaluations 5", "--sampler em", "--plan best.json"] {
        let args = format!("tune --probe image.json {args}");
        assert_eq!(folder.psld(args.split(' ')).code, Some(2), "{args}");
    }
    // With the ratios, `auto` and the probe beside the best of all.
    let study = "study image.json -n 8 --resamples 0 --samplers auto --ratios --nfe 5 --quiet -o s";
    let out = folder.psld(study.split(' ')).success().stdout;
    let line = out.lines().last().unwrap();
    assert!(line.starts_with("   5  ") && line.contains("auto ") && line.contains("probe "), "{out}");
}

#[test]
fn studies_that_cannot_be() {
    let folder = folder();
    let plan = folder.psld("plan image.json --sampler euler --steps 4".split(' ')).success().stdout;
    fs::write(folder.path("plan.json"), plan).unwrap();
    let mut said = String::new();
    for args in [
        "study image.json --samplers nonsense",
        "study image.json --samplers dpmpp:ordre=2",
        "study image.json --samplers dpmpp:order",
        "study image.json --samplers dpmpp:nfe=9",
        "study image.json --samplers dpmpp:order=3 --nfe 2",
        "study image.json --samplers em:order=2",
        "study image.json --reference em:nfe=100",
        "study image.json --reference dpmpp:order=9",
        "study image.json --grid nonsense",
        "study image.json --nfe 0",
        "study image.json -n 1",
        "study image.json --batch 0",
        "study image.json -n 100000000000000 --batch 1",
        "study image.json --resamples 100001",
        "study image.json --samplers euler:encode=true",
        "study image.json --grid 1,0.5,0.001 --nfe 5",
        "study image.json --label 1",
        "study vector.json --plan plan.json",
        "study missing.json",
        "study image.json -o image.json",
    ] {
        let ran =
            folder.psld(args.split(' ').chain(if args.contains("-o") { vec![] } else { vec!["-o", "d"] }));
        said += &format!("{args}\n{ran}");
    }
    insta::with_settings!({ filters => [(r"the limit is \d+ \w+", "the limit is [LIMIT]")] }, {
        insta::assert_snapshot!("study_bad", said);
    });
}

/// Starts a long sampling and waits until `ready`.
fn begin(folder: &Folder, args: &[&str], ready: impl Fn(u32) -> bool) -> std::process::Child {
    let child = folder.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while !ready(child.id()) && began.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

fn kill(child: &std::process::Child, signal: i32) {
    // SAFETY: sends a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(i32::try_from(child.id()).unwrap(), signal) }, 0);
}

/// Interrupted or killed, and resumed in another process: the same bytes as without.
#[test]
fn a_checkpoint_is_resumed() {
    for options in ["--steps 600", "--sampler rk45 --rtol 1e-7 --atol 1e-7 --output state --state f64"] {
        let folder = folder();
        let made = format!("sample image.json -n 24 --batch 16 --seed 5 --threads 1 {options} --out");
        let made: Vec<&str> = made.split(' ').collect();
        folder.psld([&made[..], &["whole.npy"]].concat()).success();
        let whole = fs::read(folder.path("whole.npy")).unwrap();
        let saving = [&made[..], &["x.npy", "--checkpoint", "saved"]].concat();
        let is_there = |_| folder.path("saved").exists();

        let child = begin(&folder, &saving, is_there);
        kill(&child, libc::SIGINT);
        let ran = Ran::of(child.wait_with_output().unwrap());
        assert_eq!(ran.code, Some(130), "{ran}");
        assert!(ran.stderr.contains("saved in saved"), "{ran}");
        assert!(ran.stderr.contains("go on with --resume saved"), "{ran}");
        assert!(!folder.path("x.npy").exists());
        // Said again or not, and saved anew as it goes.
        folder.psld([&made[..], &["again.npy", "--resume", "saved"]].concat()).success();
        assert!(fs::read(folder.path("again.npy")).unwrap() == whole, "{options}");
        let resume = ["sample", "image.json", "--resume", "saved", "--checkpoint", "saved", "--out", "y.npy"];
        folder.psld(resume).success();
        assert!(fs::read(folder.path("y.npy")).unwrap() == whole, "{options}");
        // What is left is the complete one: nothing is computed again.
        folder.psld(["sample", "image.json", "--resume", "saved", "--out", "z.npy"]).success();
        assert!(fs::read(folder.path("z.npy")).unwrap() == whole, "{options}");

        fs::remove_file(folder.path("saved")).unwrap();
        let mut child = begin(&folder, &saving, is_there);
        kill(&child, libc::SIGKILL);
        child.wait().unwrap();
        folder.psld(["sample", "image.json", "--resume", "saved", "--out", "w.npy"]).success();
        assert!(fs::read(folder.path("w.npy")).unwrap() == whole, "{options}");
    }
}

#[test]
fn checkpoints_that_do_not_fit() {
    let folder = folder();
    let deadline = "sample image.json -n 4 --seed 3 --sampler em --steps 100000 --deadline 0.2 --checkpoint saved --out x.npy";
    let ran = folder.psld(deadline.split(' '));
    assert_eq!(ran.code, Some(1), "{ran}");
    assert!(ran.stderr.contains("0 of 4 samples were finished, saved in saved"), "{ran}");
    let mut torn = fs::read(folder.path("saved")).unwrap();
    torn.truncate(torn.len() / 2);
    fs::write(folder.path("torn"), torn).unwrap();
    let mut said = String::new();
    for args in [
        "--resume missing",
        "--resume torn",
        "--resume image.json",
        "--resume saved -n 5",
        "--resume saved --seed 4",
        "--resume saved --output state",
        "--resume saved --batch 2",
    ] {
        let ran = folder.psld(format!("sample image.json {args} --out y.npy").split(' '));
        assert_eq!(ran.code, Some(2), "{ran}");
        said += &format!("{args}\n{ran}");
    }
    // A plan of the caller's stands in the checkpoint.
    let plan = folder.psld("plan image.json --sampler em --steps 20000 --json".split(' ')).success().stdout;
    fs::write(folder.path("plan.json"), plan).unwrap();
    let deadline = "sample image.json -n 4 --plan plan.json --deadline 0.2 --checkpoint own --out x.npy";
    assert_eq!(folder.psld(deadline.split(' ')).code, Some(1));
    fs::remove_file(folder.path("plan.json")).unwrap();
    let ran = folder.psld("sample image.json --resume own --deadline 0.2 --out x.npy".split(' '));
    assert!(ran.code == Some(1) && ran.stderr.contains("the deadline passed after step"), "{ran}");

    for args in ["sample vector.json", "sample image.json --steps 9"] {
        let ran = folder.psld(format!("{args} --resume saved --out y.npy").split(' '));
        assert_eq!(ran.code, Some(2), "{ran}");
        assert!(ran.stderr.contains("checkpoint: of another"), "{ran}");
    }
    snapshot!("checkpoints_that_do_not_fit", said);
    let ran =
        folder.psld("sample image.json --checkpoint no/saved --sampler em --steps 100000 -n 64".split(' '));
    assert!(ran.code == Some(1) && ran.stderr.contains("no/saved"), "{ran}");
}
