//! Training: the loss and the step against other people's arithmetic, what is learned against what is true, and
//! checkpoints under everything that can happen to them.
#![cfg(feature = "torch")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use psld::array::{Values, ValuesMut};
use psld::network::analytic::MixtureNetwork;
use psld::network::{Inputs, Network as _};
use psld::process::Mat;
use psld::{ModelSpec, Status};
use psld_training::data::{Dataset, Split, Values as Elements};
use psld_training::net::{Mode, Network, TorchParams};
use psld_training::recipe::{Recipe, TrainRecipe, Weighting};
use psld_training::train::{
    Batch, Checkpoint, Log, Newest, Objective, Outcome, Trainer, Weights, evaluate, newest,
};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

/// libtorch's generator is the process's own: tests that draw from it take turns.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn turn() -> std::sync::MutexGuard<'static, ()> {
    tch::set_num_threads(1);
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn spec(process: &str, shape: &str) -> ModelSpec {
    ModelSpec::parse(&format!(r#"{{"format": 1, "process": {process}, "data": {{"shape": {shape}}}}}"#))
        .unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.detach().to_kind(Kind::Double).contiguous().view(-1)).unwrap()
}

fn tensor(values: &[f64], shape: &[i64]) -> Tensor {
    Tensor::from_slice(values).to_kind(Kind::Float).view(shape)
}

/// `tests/scripts/train_step.py` wrote the numbers.
#[test]
fn loss_gradient_and_steps_are_those_of_a_numpy_transcription() {
    #[derive(Deserialize)]
    struct Case {
        weights: Vec<f64>,
        x0: Vec<f64>,
        eps: Vec<[f64; 2]>,
        t: Vec<f64>,
        names: Vec<String>,
        loss: f64,
        gradient: Vec<f64>,
        norms: Vec<f64>,
        after: Vec<f64>,
        ema: Vec<f64>,
    }
    let case: Case = serde_json::from_str(include_str!("data/train_step.json")).unwrap();
    let _turn = turn();
    let config = r#"{"kind": "mlp", "in_ch": 2, "out_ch": 2, "width": 4, "blocks": 1}"#;
    let network = Network::new(&serde_json::from_str(config).unwrap()).unwrap();
    assert_eq!(network.parameters().iter().map(|p| p.name.clone()).collect::<Vec<_>>(), case.names);
    let mut rest = case.weights.iter().map(|x| *x as f32);
    let values: BTreeMap<_, _> = network
        .parameters()
        .iter()
        .map(|p| (p.name.clone(), rest.by_ref().take(p.len()).collect()))
        .collect();

    let objective = Objective::new(&spec(r#"{"kind": "psld"}"#, "[1]"), Weighting::Eps, false).unwrap();
    let batch = Batch { x0: tensor(&case.x0, &[-1, 1]), labels: None, times: case.t };
    let normals = tensor(case.eps.as_flattened(), &[-1, 2, 1]);
    let mut weights = Weights::of_values(&network, &values, Device::Cpu);
    let recipe =
        TrainRecipe { lr: 0.01, warmup: 2, clip: 0.1, ema: 0.9, steps: 100, ..TrainRecipe::default() };
    for step in 0..3 {
        let parameters = weights.parameters(&network).unwrap();
        let loss = objective.loss_at(&network, &parameters, &batch, &normals, Mode::Eval, Kind::Float);
        let gradient = Tensor::run_backward(&[&loss], &[&weights.raw], false, false).remove(0);
        if step == 0 {
            assert!((loss.double_value(&[]) / case.loss - 1.0).abs() < 1e-5);
            // The frequencies have a gradient too; that they stay is the step's business.
            close("gradient", &floats(&gradient)[4..], &case.gradient[4..], 2e-6);
        }
        let norm = weights.step(gradient, step, &recipe).double_value(&[]);
        assert!((norm / case.norms[step as usize] - 1.0).abs() < 1e-4, "norm at step {step}: {norm}");
    }
    close("weights", &floats(&weights.raw), &case.after, 3e-6);
    close("average", &floats(&weights.ema), &case.ema, 3e-6);
    assert_eq!(
        floats(&weights.raw)[..4],
        case.weights[..4].iter().map(|x| f64::from(*x as f32)).collect::<Vec<_>>()
    );
}

fn close(what: &str, got: &[f64], expected: &[f64], bound: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let worst = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    println!("{what}: largest difference {worst:.1e}");
    assert!(worst < bound, "{what}: {worst}");
}

const DSM: &str = r#"{"kind": "psld", "gamma": 0.02, "nu": 4.02, "score_matching": "dsm"}"#;
const HSM: &str = r#"{"kind": "psld", "gamma": 0.02, "nu": 4.02}"#;
const UPPER: &str = r#"{"kind": "psld", "gamma": 4.0, "nu": 0.0, "decomposition": "upper"}"#;
const THIRD: &str = r#"{"kind": "recipe", "d": [[0,0,0],[0,0,0],[0,0,5.19615]],
    "q": [[0,-1,0],[1,0,-2.82843],[0,2.82843,0]], "s": [[1,0,0],[0,1,0],[0,0,1]], "kappa": 0.04,
    "score_matching": "dsm", "beta_min": 4, "beta_max": 4}"#;

#[test]
fn perturbed_states_have_the_process_moments() {
    const N: i64 = 100_000;
    let _turn = turn();
    for process in [HSM, DSM, UPPER, r#"{"kind": "cld"}"#, r#"{"kind": "vp"}"#, THIRD] {
        let spec = spec(process, "[1]");
        let objective = Objective::new(&spec, Weighting::Eps, false).unwrap();
        let process = spec.process().unwrap();
        let k = process.k();
        for t in [0.03, 0.4, 1.0] {
            tch::manual_seed(3);
            let batch = Batch {
                x0: Tensor::full([N, 1], 0.7, (Kind::Float, Device::Cpu)),
                labels: None,
                times: vec![t; N as usize],
            };
            let z = objective.perturbed(&batch, &objective.normals(&batch.x0)).view([N, k as i64]);
            let z = z.to_kind(Kind::Double);
            let mean = z.mean_dim([0i64].as_slice(), false, Kind::Double);
            let centred = &z - &mean;
            let covariance = centred.transpose(0, 1).matmul(&centred) / N as f64;
            // What is drawn is always z_t given x_0 alone, whatever eps refers to.
            let (a, expected) = (process.mean(t), process.data_covariance(t));
            for i in 0..k {
                let sigma = expected[(i, i)].sqrt();
                let off = (mean.double_value(&[i as i64]) - 0.7 * a[(i, 0)]) / sigma * (N as f64).sqrt();
                assert!(off.abs() < 5.0, "{process} at {t}: mean {i} is {off} standard errors off");
                for j in 0..k {
                    let scale = sigma * expected[(j, j)].sqrt();
                    let off = (covariance.double_value(&[i as i64, j as i64]) - expected[(i, j)]) / scale;
                    assert!(
                        off.abs() < 5.0 * (2.0 / N as f64).sqrt(),
                        "{process} at {t}: covariance {i}{j} {off}"
                    );
                }
            }
        }
    }
}

/// The eps that a recipe's network should give, at states of its own process: its RMS error.
fn eps_error(trainer: &Trainer, exact: impl Fn(&[f64], f64) -> Vec<f64>) -> f64 {
    const N: usize = 2000;
    let recipe = trainer.recipe();
    let data = Dataset::load(&recipe.data, Split::Train, 99).unwrap();
    let Elements::F32(values) = &data.values else { panic!("a mixture's points") };
    let d = data.shape[0];
    let x0: Vec<f64> = values[..N * d].iter().map(|x| f64::from(*x)).collect();
    let times: Vec<f64> = (0..N).map(|i| 0.01 + 0.99 * (i as f64 + 0.5) / N as f64).collect();
    let spec = recipe.spec(&data.shape, data.range, 0).unwrap();
    let objective = Objective::new(&spec, Weighting::Eps, false).unwrap();
    tch::manual_seed(5);
    let batch = Batch { x0: tensor(&x0, &[N as i64, d as i64]), labels: None, times };
    let z = objective.perturbed(&batch, &objective.normals(&batch.x0)).view([N as i64, -1]);
    let t = tensor(&batch.times, &[-1]);
    let parameters = trainer.weights().averaged(trainer.network()).unwrap();
    let got = floats(&trainer.network().forward(&parameters, &z, &t, None, Mode::Eval, Kind::Float));
    let z = floats(&z);
    let len = z.len() / N;
    let square: f64 = (0..N)
        .map(|i| {
            let expected = exact(&z[i * len..][..len], batch.times[i]);
            let got = &got[i * len..][..len];
            got.iter().zip(expected).map(|(a, b)| (a - b).powi(2)).sum::<f64>()
        })
        .sum();
    (square / (N * len) as f64).sqrt()
}

fn trained(recipe: &str, folder: &Path) -> Trainer {
    let mut trainer = Trainer::start(Recipe::parse(recipe, &[]).unwrap(), folder, Device::Cpu).unwrap();
    let outcome = trainer.run(&AtomicBool::new(false), Instant::now()).unwrap();
    assert_eq!(outcome, Outcome::Finished);
    trainer
}

#[test]
fn hybrid_and_denoising_score_matching_learn_the_same_score() {
    let _turn = turn();
    let (mean, variance) = (0.3, 0.25);
    for score_matching in ["hsm", "dsm"] {
        let folder = tempfile::tempdir().unwrap();
        let recipe = format!(
            "[data]\nkind = 'mixture'\nmixture = {{ weights = [1], means = [[{mean}]], variances = [{variance}], \
             count = 50000 }}\n[process]\nkind = 'psld'\nscore_matching = '{score_matching}'\n[net]\nkind = 'mlp'\n\
             width = 64\nblocks = 2\n[train]\nbatch = 512\nsteps = 800\nlr = 3e-3\nwarmup = 50\ncooldown = 0.7\n\
             ema = 0.98\ntimes = 'stratified'\n[output]\nlog = 200\ncheckpoint = 10000\nsample = 0\n"
        );
        let trainer = trained(&recipe, folder.path());
        let process = trainer.recipe().spec(&[1], [-1.0, 1.0], 0).unwrap().process().unwrap();
        let error = eps_error(&trainer, |z, t| {
            // z_t is Gaussian: its score is linear, and eps = -L^T s with the factor that the network was trained on.
            let a = process.mean(t);
            let covariance = process.data_covariance(t) + a * a.transpose() * variance;
            let centred = Mat::from_fn(2, 1, |i, _| z[i] - mean * a[(i, 0)]);
            let score = -(covariance.inverse().unwrap() * centred);
            let eps = process.eps_from_score(t) * score;
            vec![eps[(0, 0)], eps[(1, 0)]]
        });
        println!("{score_matching}: RMS error of eps {error:.4}");
        assert!(error < 0.03, "{score_matching}: {error}");
    }
}

#[test]
fn the_mlp_learns_a_mixture_to_a_stated_error() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let text = include_str!("../recipes/mixture2d.toml");
    let set = ["train.batch=512", "train.steps=1200", "output.sample=0", "net.width=96"].map(String::from);
    let recipe = Recipe::parse(text, &set).unwrap();
    let mixture = recipe.data.mixture.as_ref().unwrap().mixture();
    let trainer = trained(&recipe.to_toml(), folder.path());
    let spec = trainer.recipe().spec(&[2], [-1.0, 1.0], 0).unwrap();
    let exact = MixtureNetwork::new(spec, mixture).unwrap();
    let error = eps_error(&trainer, |z, t| {
        let mut eps = vec![0.0; z.len()];
        let inputs = Inputs { z: Values::F64(z), t: &[t], labels: None };
        exact.evaluator().unwrap().evaluate(inputs, ValuesMut::F64(&mut eps)).unwrap();
        eps
    });
    println!("mixture: RMS error of eps {error:.4}");
    assert!(error < 0.05, "{error}");
}

#[test]
fn a_process_that_is_no_recipe_is_refused() {
    let error = Objective::new(&spec(r#"{"kind": "flow"}"#, "[2]"), Weighting::Eps, false).unwrap_err();
    assert_eq!(error.status(), Status::Unsupported, "{error}");
}

/// Small images with labels: a recipe that uses everything that is random.
fn images(folder: &Path) -> Recipe {
    let pixels: Vec<u8> = (0..40 * 64u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let labels: Vec<i64> = (0..40).map(|i| i % 3).collect();
    npy(&folder.join("images.npy"), "|u1", &[40, 1, 8, 8], &pixels);
    npy(
        &folder.join("labels.npy"),
        "<i8",
        &[40],
        &labels.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(),
    );
    let text = format!(
        "[data]\nkind = 'npy'\npath = '{0}/images.npy'\nlabels_path = '{0}/labels.npy'\nlabels = true\nflip = true\n\
         [process]\nkind = 'psld'\n[net]\nkind = 'ncsnpp'\nnf = 8\nch_mult = [1, 2]\nnum_res_blocks = 1\n\
         attn_resolutions = [4]\n[train]\nbatch = 8\naccumulation = 2\nsteps = 30\nwarmup = 5\nlr = 1e-3\n\
         label_dropout = 0.3\n[output]\nlog = 7\ncheckpoint = 10\nsample = 0\nsamples = 4\n[output.sampler]\nnfe = 3\n",
        folder.display()
    );
    Recipe::parse(&text, &[]).unwrap()
}

#[test]
fn a_classifier_is_right_where_classes_can_be_seen() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let recipe = images(folder.path());
    // A class is a brightness.
    let pixels: Vec<u8> = (0..40 * 64).map(|i| [20, 128, 235][i / 64 % 3]).collect();
    npy(&folder.path().join("images.npy"), "|u1", &[40, 1, 8, 8], &pixels);
    let set = ["net.kind=classifier", "train.steps=120", "train.lr=5e-3", "train.ema=0.9"].map(String::from);
    let place = folder.path().join("run");
    let mut trainer = Trainer::start(recipe.with(&set).unwrap(), &place, Device::Cpu).unwrap();
    run(&mut trainer).unwrap();
    let checkpoint = newest(&place.join("checkpoints"), Device::Cpu).unwrap().whole.unwrap().1;
    let data = Dataset::load(&recipe.data, Split::Train, 0).unwrap();
    let bands = evaluate(&checkpoint, &data, false, Device::Cpu).unwrap();
    assert_eq!(bands.iter().map(|b| b.times[0]).collect::<Vec<_>>(), [1e-5, 0.05, 0.15, 0.4, 0.7, 1e-5]);
    let accuracy = |i: usize| bands[i].accuracy.unwrap();
    assert!(accuracy(0) > 0.85 && bands[0].loss < 0.5, "{bands:?}");
    // At the end nothing is left of the image.
    assert!(accuracy(4) < 0.7 && bands[4].loss > 0.9, "{bands:?}");
    let mean: f64 = bands[..5].iter().map(|b| (b.times[1] - b.times[0]) * b.loss).sum();
    assert!((bands[5].loss - mean).abs() < 0.2, "{bands:?}");
    // Initial weights tell nothing.
    let untrained = ["net.kind=classifier", "train.steps=1", "train.lr=1e-9"].map(String::from);
    let place = folder.path().join("untrained");
    run(&mut Trainer::start(recipe.with(&untrained).unwrap(), &place, Device::Cpu).unwrap()).unwrap();
    let checkpoint = newest(&place.join("checkpoints"), Device::Cpu).unwrap().whole.unwrap().1;
    let start = evaluate(&checkpoint, &data, true, Device::Cpu).unwrap();
    assert!(start[0].loss > 0.9, "{start:?}");
}

fn npy(path: &Path, kind: &str, shape: &[usize], bytes: &[u8]) {
    let shape: String = shape.iter().map(|size| format!("{size},")).collect();
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    header.push_str(&" ".repeat(63 - (10 + header.len()) % 64));
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    file.extend(bytes);
    fs::write(path, file).unwrap();
}

fn run(trainer: &mut Trainer) -> psld::Result<Outcome> {
    trainer.run(&AtomicBool::new(false), Instant::now())
}

/// Step, loss and gradient norm.
type LineBits = (u64, u64, u64);

/// All bits of a run's newest checkpoint, and its log without the speed.
fn state(folder: &Path) -> (Vec<Vec<u64>>, Vec<LineBits>) {
    let Newest { whole, damaged } = newest(&folder.join("checkpoints"), Device::Cpu).unwrap();
    assert!(damaged.is_empty(), "{damaged:?}");
    let Checkpoint { weights, .. } = whole.unwrap().1;
    let [m, v] = &weights.moments;
    let bits =
        [&weights.raw, &weights.ema, m, v].map(|part| floats(part).into_iter().map(f64::to_bits).collect());
    let lines = Log::read(&folder.join("log.csv")).unwrap();
    (bits.to_vec(), lines.iter().map(|l| (l.step, l.loss.to_bits(), l.gradient_norm.to_bits())).collect())
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one_bit_for_bit() {
    let _turn = turn();
    let data = tempfile::tempdir().unwrap();
    let recipe = images(data.path()).with(&["train.steps=100".into()]).unwrap();
    let [whole, halves] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    run(&mut Trainer::start(recipe.clone(), whole.path(), Device::Cpu).unwrap()).unwrap();
    let half = recipe.with(&["train.steps=50".into()]).unwrap();
    run(&mut Trainer::start(half, halves.path(), Device::Cpu).unwrap()).unwrap();
    // What others draw in between must not matter.
    let _ = Tensor::randn([17], (Kind::Float, Device::Cpu));
    run(&mut Trainer::resume(halves.path(), &["train.steps=100".into()], Device::Cpu).unwrap()).unwrap();
    let ((whole, log), (halves, resumed)) = (state(whole.path()), state(halves.path()));
    assert!(whole == halves, "weights, average or moments differ");
    // The half ended with a line of its own, at step 50.
    let at_ends = |line: &&LineBits| line.0 < 50 || line.0 > 56;
    assert_eq!(
        log.iter().filter(at_ends).collect::<Vec<_>>(),
        resumed.iter().filter(at_ends).collect::<Vec<_>>()
    );
}

#[test]
fn torn_and_damaged_checkpoints_are_passed_over() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    run(&mut Trainer::start(images(folder.path()), &folder.path().join("run"), Device::Cpu).unwrap())
        .unwrap();
    let checkpoints = folder.path().join("run/checkpoints");
    let names = || {
        let mut names: Vec<_> = fs::read_dir(&checkpoints).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["step-000000020.safetensors", "step-000000030.safetensors"]);
    let last = checkpoints.join("step-000000030.safetensors");
    let whole = fs::read(&last).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for bytes in [&whole[..0], &whole[..7], &whole[..whole.len() / 2], &whole[..whole.len() - 1], &flipped] {
        fs::write(&last, bytes).unwrap();
        let Newest { whole: found, damaged } = newest(&checkpoints, Device::Cpu).unwrap();
        assert_eq!(found.unwrap().1.progress.step, 20);
        assert_eq!(damaged.len(), 1);
        assert_eq!(damaged[0].status(), Status::CheckpointInvalid);
    }
    // A temporary file of a killed process is no checkpoint, and is overwritten.
    fs::write(checkpoints.join("step-000000030.partial"), b"half").unwrap();
    // Nor is half a line of the log one.
    let log = folder.path().join("run/log.csv");
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, &text[..text.find("\n14,").unwrap() + 9]).unwrap();
    run(&mut Trainer::resume(&folder.path().join("run"), &[], Device::Cpu).unwrap()).unwrap();
    let steps: Vec<u64> = Log::read(&log).unwrap().iter().map(|line| line.step).collect();
    assert_eq!(steps, [7, 21, 28, 30]);
    // The same tensors; the document before them tells the seconds that it took, in as many digits as they have.
    assert!(fs::read(&last).unwrap().ends_with(&whole[whole.len() / 2..]));
    assert_eq!(names(), ["step-000000020.safetensors", "step-000000030.safetensors"]);
}

#[test]
fn a_full_disk_and_a_lost_loss_leave_the_last_good_checkpoint() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let recipe = images(folder.path());
    let checkpoints = folder.path().join("full/checkpoints");
    fs::create_dir_all(&checkpoints).unwrap();
    std::os::unix::fs::symlink("/dev/full", checkpoints.join("step-000000020.partial")).unwrap();
    let error = run(&mut Trainer::start(recipe.clone(), &folder.path().join("full"), Device::Cpu).unwrap())
        .unwrap_err();
    assert_eq!(error.status(), Status::WriteFailed);
    assert!(error.to_string().contains("make room"), "{error}");
    assert_eq!(newest(&checkpoints, Device::Cpu).unwrap().whole.unwrap().1.progress.step, 10);

    let run_folder = folder.path().join("lost");
    let set = ["train.steps=10".to_string()];
    run(&mut Trainer::start(recipe.with(&set).unwrap(), &run_folder, Device::Cpu).unwrap()).unwrap();
    let set = ["train.steps=30", "train.lr=1e30", "output.log=1000"].map(String::from);
    let error = run(&mut Trainer::resume(&run_folder, &set, Device::Cpu).unwrap()).unwrap_err();
    assert_eq!(error.status(), Status::NonFinite);
    assert_eq!(
        newest(&run_folder.join("checkpoints"), Device::Cpu).unwrap().whole.unwrap().1.progress.step,
        10
    );
}

#[test]
fn a_folder_belongs_to_one_run_at_a_time() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let recipe = images(folder.path()).with(&["train.steps=2".into()]).unwrap();
    let place = folder.path().join("run");
    let status = |result: psld::Result<Trainer>| result.err().map(|e| e.status());
    let mut first = Trainer::start(recipe.clone(), &place, Device::Cpu).unwrap();
    assert_eq!(status(Trainer::start(recipe.clone(), &place, Device::Cpu)), Some(Status::Busy));
    run(&mut first).unwrap();
    first.pictures().unwrap();
    assert!(place.join("loss.png").exists() && place.join("samples/step-000000002.png").exists());
    drop(first);
    assert_eq!(status(Trainer::start(recipe, &place, Device::Cpu)), Some(Status::InvalidArgument));
    let other = ["process.gamma=0.02".into(), "process.nu=4.02".into()];
    assert_eq!(status(Trainer::resume(&place, &other, Device::Cpu)), Some(Status::InvalidArgument));
}

#[test]
fn data_that_do_not_fit_the_recipe_start_nothing() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("run");
    let recipe = images(folder.path()).with(&["train.steps=1".into()]).unwrap();
    let refused = |recipe: &Recipe, status, expected: &str| {
        let error = Trainer::start(recipe.clone(), &place, Device::Cpu).err().expect(expected);
        assert!(error.status() == status && error.to_string().contains(expected), "{error}");
        assert!(!place.join("recipe.toml").exists());
    };
    let large = recipe.with(&["train.batch=64".into()]).unwrap();
    refused(&large, Status::InvalidConfig, "train.batch: 64 is more than the data's 40");
    let text = recipe.to_toml();
    let unlabelled: String =
        text.lines().filter(|l| !l.starts_with("labels_path")).collect::<Vec<_>>().join("\n");
    let unlabelled = Recipe::parse(&unlabelled, &[]).unwrap();
    refused(&unlabelled, Status::InvalidConfig, "data.labels: the data have no labels");
    let classifier = unlabelled.with(&["net.kind=classifier".into(), "data.labels=false".into()]).unwrap();
    refused(&classifier, Status::InvalidConfig, "a classifier needs labels");
    npy(&folder.path().join("labels.npy"), "|u1", &[39], &[0; 39]);
    refused(&recipe, Status::ShapeMismatch, "39 labels for 40 samples");
    npy(&folder.path().join("labels.npy"), "|u1", &[40], &[0; 40]);
    run(&mut Trainer::start(recipe, &place, Device::Cpu).unwrap()).unwrap();
}

#[test]
fn pictures_that_cannot_be_had_do_not_end_a_run() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("run");
    fs::create_dir(&place).unwrap();
    fs::write(place.join("samples"), "in the way").unwrap();
    let set = ["train.steps=3", "output.sample=1", "output.log=1"].map(String::from);
    let recipe = images(folder.path()).with(&set).unwrap();
    let mut trainer = Trainer::start(recipe, &place, Device::Cpu).unwrap();
    assert_eq!(run(&mut trainer).unwrap(), Outcome::Finished);
    assert_eq!(newest(&place.join("checkpoints"), Device::Cpu).unwrap().whole.unwrap().1.progress.step, 3);
    assert!(place.join("loss.png").exists());
    let error = trainer.pictures().unwrap_err();
    assert!(error.status() == Status::WriteFailed && error.to_string().contains("samples"), "{error}");
}

#[test]
fn time_and_interruption_end_a_run_with_a_checkpoint() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let recipe = images(folder.path()).with(&["train.time_budget=0s".into()]).unwrap();
    let mut trainer = Trainer::start(recipe, &folder.path().join("a"), Device::Cpu).unwrap();
    assert_eq!(run(&mut trainer).unwrap(), Outcome::OutOfTime);
    let mut trainer = Trainer::start(images(folder.path()), &folder.path().join("b"), Device::Cpu).unwrap();
    assert_eq!(trainer.run(&AtomicBool::new(true), Instant::now()).unwrap(), Outcome::Interrupted);
    for run in ["a", "b"] {
        assert!(newest(&folder.path().join(run).join("checkpoints"), Device::Cpu).unwrap().whole.is_some());
    }
}

#[test]
fn classifiers_and_likelihood_weights_train() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let set = ["net.kind=classifier", "train.steps=40", "train.lr=5e-3", "output.log=10"].map(String::from);
    let place = folder.path().join("classifier");
    run(&mut Trainer::start(images(folder.path()).with(&set).unwrap(), &place, Device::Cpu).unwrap())
        .unwrap();
    let losses: Vec<f64> = Log::read(&place.join("log.csv")).unwrap().iter().map(|l| l.loss).collect();
    assert!((losses[0] - 3f64.ln()).abs() < 0.2, "{losses:?}");

    // |G^T (s_net - s)|^2 where the network is off by a constant, for k = 1: beta / sigma^2 times its square.
    let spec = spec(r#"{"kind": "vp", "beta_min": 0.1, "beta_max": 20.0}"#, "[2]");
    let config = r#"{"kind": "mlp", "in_ch": 2, "out_ch": 2, "width": 4, "blocks": 1}"#;
    let network = Network::new(&serde_json::from_str(config).unwrap()).unwrap();
    let parameters = TorchParams::of_weights(&network, &network.initial_values(1)).unwrap();
    let batch = Batch { x0: tensor(&[0.1, 0.2], &[1, 2]), labels: None, times: vec![0.3] };
    let normals = tensor(&[0.5, -1.0], &[1, 1, 2]);
    let [plain, weighted] = [Weighting::Eps, Weighting::Likelihood].map(|weighting| {
        let objective = Objective::new(&spec, weighting, false).unwrap();
        objective.loss_at(&network, &parameters, &batch, &normals, Mode::Eval, Kind::Float).double_value(&[])
    });
    let process = spec.process().unwrap();
    let beta = 0.1 + 0.3 * 19.9;
    let expected = beta / process.covariance(0.3)[(0, 0)];
    assert!((weighted / plain / expected - 1.0).abs() < 1e-5, "{} against {expected}", weighted / plain);
}
