//! Networks as ONNX, through ONNX Runtime: against the authors' vectors, and against the plain interpreter that
//! `net_torch.rs` compares libtorch with.
//!
//! libtorch and ONNX Runtime never share a process, so these tests exist only in the build without libtorch:
//! `cargo test -p psld-training`, then `cargo test -p psld-training --features torch`.
#![cfg(not(feature = "torch"))]

mod common;

use std::path::PathBuf;
use std::sync::OnceLock;

use common::{
    Case, VECTORS, assert_close, combinations, gradient_cases, gradients, random, random_networks, reference,
    tensors, vector,
};
use half::{bf16, f16};
use ort::environment::Environment;
use ort::session::Session;
use ort::value::{DynValue, PrimitiveTensorElementType, Tensor};
use psld::onnx::{ElementType, Model};
use psld::spec::{ModelSpec, SPEC_KEY};
use psld_training::export::{GOLDEN_KEY, Golden, LOGITS, export, export_gradient};
use psld_training::net::{FEATURES, NetConfig, Network};

fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let beside =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/onnxruntime/libonnxruntime.so");
        let library = std::env::var_os("PSLD_ONNXRUNTIME").map_or(beside, PathBuf::from);
        let place = library.display().to_string();
        let loaded = ort::init_from(&library)
            .unwrap_or_else(|error| panic!("{place}: {error}; `make onnxruntime` fetches it"));
        loaded.build().unwrap()
    })
}

/// The spec of a network for samples of this state and output.
fn spec(config: &NetConfig) -> ModelSpec {
    let mut shape = config.state_shape();
    let label = match config.classes() {
        0 => String::new(),
        classes => format!(r#", "network": {{"label_input": "y", "classes": {classes}}}"#),
    };
    // With gamma 0 the output is the momentum half.
    let halves = config.output_shape()[0] * 2 == shape[0];
    let gamma = if halves { r#", "gamma": 0.0, "nu": 4.0"# } else { "" };
    shape[0] /= 2;
    let text = format!(
        r#"{{"format": 1, "process": {{"kind": "psld"{gamma}}}, "data": {{"shape": {shape:?}}}{label}}}"#
    );
    ModelSpec::parse(&text).unwrap()
}

fn model(case: &Case, element: ElementType) -> Model {
    let config = case.network.config();
    export(&case.network, &case.weights, &spec(config), element, None).unwrap()
}

/// The output of `model` with the state of `case` as `T`.
fn run<T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static>(
    case: &Case,
    model: &Model,
    from: fn(f32) -> T,
    to: fn(T) -> f32,
) -> Vec<f32> {
    run_all(case, model, from, to).remove(0)
}

/// All its outputs.
fn run_all<T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static>(
    case: &Case,
    model: &Model,
    from: fn(f32) -> T,
    to: fn(T) -> f32,
) -> Vec<Vec<f32>> {
    let session = Session::builder(environment()).unwrap().with_intra_threads(1).unwrap();
    let mut session = { session }.commit_from_memory(&model.to_bytes()).unwrap();
    let mut shape = vec![case.batch];
    shape.extend(case.network.config().state_shape());
    let z: Vec<T> = case.z.iter().map(|&value| from(value)).collect();
    let mut inputs: Vec<(&str, DynValue)> = vec![
        ("z", Tensor::from_array((shape, z)).unwrap().into_dyn()),
        ("t", Tensor::from_array(([case.batch], case.t.clone())).unwrap().into_dyn()),
    ];
    if let Some(y) = &case.y {
        inputs.push(("y", Tensor::from_array(([case.batch], y.clone())).unwrap().into_dyn()));
    }
    let outputs = session.run(inputs).unwrap();
    let values =
        |output: &DynValue| output.try_extract_tensor::<T>().unwrap().1.iter().cloned().map(to).collect();
    (0..outputs.len()).map(|i| values(&outputs[i])).collect()
}

fn run_f32(case: &Case) -> Vec<f32> {
    run(case, &model(case, ElementType::F32), |x| x, |x| x)
}

#[test]
fn computes_what_the_authors_network_does() {
    for name in VECTORS {
        let (case, expected) = vector(name);
        let worst = run_f32(&case).iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{name}: worst error {worst:e}");
    }
}

/// libtorch is within 1e-5 of the same interpreter, so the two are within 2e-5 of each other.
#[test]
fn agrees_with_the_plain_interpreter() {
    for case in random_networks() {
        assert_close(&case.name, &run_f32(&case), &reference::output(&case), 1e-5);
    }
}

#[test]
fn half_precision_stays_close() {
    for name in VECTORS {
        let (case, expected) = vector(name);
        let expected: Vec<f64> = expected.iter().map(|&value| value.into()).collect();
        let half = run(&case, &model(&case, ElementType::F16), f16::from_f32, f16::to_f32);
        assert_close(&format!("{name} as float16"), &half, &expected, 2e-2);
        // Weights and state of 8 binary digits: what is asked of libtorch in bfloat16.
        let brain = run(&case, &model(&case, ElementType::Bf16), bf16::from_f32, bf16::to_f32);
        assert_close(&format!("{name} as bfloat16"), &brain, &expected, 0.1);
    }
}

#[test]
fn every_combination_of_options_can_be_exported() {
    for (name, config) in combinations() {
        let network = Network::new(&config).unwrap_or_else(|error| panic!("{name}: {error}"));
        let weights = network.initial_values(0);
        export(&network, &weights, &spec(&config), ElementType::F32, None)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn a_model_describes_itself() {
    let config: NetConfig =
        serde_json::from_str(r#"{"nf": 8, "ch_mult": [1], "attn_resolutions": [], "classes": 4}"#).unwrap();
    let case = random("labels", &config, 0);
    let golden = Golden::new(3, 0.5, Some(0), &[1.0, -1.0]);
    let model =
        export(&case.network, &case.weights, &spec(&config), ElementType::F16, Some(&golden)).unwrap();
    let model = Model::read(model.to_bytes()).unwrap();
    assert_eq!((model.opset(), model.ir_version()), (20, 9));
    let ports = [model.inputs(), model.outputs()].concat();
    assert_eq!(
        ports.iter().map(|port| port.to_string()).collect::<Vec<_>>(),
        [
            "`z` [batch, 6, 32, 32] float16",
            "`t` [batch] float32",
            "`y` [batch] int64",
            "`eps` [batch, 6, 32, 32] float16",
        ]
    );
    assert_eq!(ModelSpec::parse(model.metadata(SPEC_KEY).unwrap()).unwrap(), spec(&config));
    let read: Golden = serde_json::from_str(model.metadata(GOLDEN_KEY).unwrap()).unwrap();
    assert_eq!(read, golden);
    assert_eq!((read.indices, read.rms), (vec![0, 1], 1.0));
}

#[test]
fn a_classifier_gives_logits_and_features() {
    let (case, _) = vector("classifier");
    let exported = model(&case, ElementType::F32);
    let ports: Vec<_> = exported.outputs().iter().map(|port| port.to_string()).collect();
    let (logits, features) = reference::outputs(&case);
    let width = features.len() / case.batch;
    assert_eq!(
        ports,
        [format!("`{LOGITS}` [batch, 10] float32"), format!("`{FEATURES}` [batch, {width}] float32")]
    );
    let outputs = run_all(&case, &exported, |x| x, |x| x);
    assert_close("logits", &outputs[0], &logits, 1e-5);
    assert_close("features", &outputs[1], &features, 1e-5);
}

fn gradient_model(case: &Case, element: ElementType) -> Model {
    export_gradient(&case.network, &case.weights, &spec(case.network.config()), element, None).unwrap()
}

/// One sample of `case`.
fn alone(case: &Case, i: usize) -> Case {
    let len = case.z.len() / case.batch;
    Case {
        name: case.name.clone(),
        network: case.network.clone(),
        weights: case.weights.clone(),
        batch: 1,
        z: case.z[i * len..][..len].to_vec(),
        t: vec![case.t[i]],
        y: case.y.as_ref().map(|y| vec![y[i]]),
    }
}

/// libtorch's own are in a file: it never shares a process with ONNX Runtime, and `net_torch.rs` checks the file.
#[test]
fn gradients_are_those_of_libtorch() {
    let expected = tensors(&gradients());
    let cases = gradient_cases();
    assert_eq!(expected.len(), cases.len());
    for case in cases {
        let expected: Vec<f64> = expected[&case.name].iter().map(|&value| value.into()).collect();
        let model = gradient_model(&case, ElementType::F32);
        let gradient = run(&case, &model, |x| x, |x| x);
        // Sample by sample: at small times they are larger.
        let len = expected.len() / case.batch;
        for i in 0..case.batch {
            let of_sample = i * len..(i + 1) * len;
            assert_close(&case.name, &gradient[of_sample.clone()], &expected[of_sample], 1e-4);
        }
        let one = run(&alone(&case, 1), &model, |x| x, |x| x);
        assert_close(&format!("{}, alone", case.name), &one, &expected[len..2 * len], 1e-4);
    }
}

/// Along the gradient and in another direction, by differences of the interpreter, which computes in f64.
#[test]
fn gradients_are_those_of_the_log_probability() {
    const H: f64 = 1e-4;
    for case in gradient_cases() {
        let gradient = run(&case, &gradient_model(&case, ElementType::F32), |x| x, |x| x);
        let gradient: Vec<f64> = gradient.into_iter().map(f64::from).collect();
        let len = gradient.len() / case.batch;
        let length = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let random = |seed| {
            let mut v = vec![0.0; gradient.len()];
            psld::noise::fill_f64(seed, psld::noise::Purpose::Solver, 0, 0, &mut v);
            v
        };
        for mut direction in [gradient.clone(), random(1)] {
            direction.chunks_mut(len).for_each(|v| {
                let length = length(v);
                v.iter_mut().for_each(|x| *x /= length);
            });
            let moved = |h: f64| {
                let z = case.z.iter().zip(&direction).map(|(&z, v)| f64::from(z) + h * v).collect();
                reference::log_probabilities(&case, z)
            };
            let (forth, back) = (moved(H), moved(-H));
            for i in 0..case.batch {
                let part = |v: &[f64]| v[i * len..][..len].to_vec();
                let (gradient, direction) = (part(&gradient), part(&direction));
                let along: f64 = gradient.iter().zip(&direction).map(|(g, v)| g * v).sum();
                let difference = (forth[i] - back[i]) / (2.0 * H);
                let error = (along - difference).abs() / length(&gradient);
                assert!(error < 1e-4, "{}, sample {i}: {along} and {difference}: {error:e}", case.name);
            }
        }
    }
}

#[test]
fn gradients_in_half_the_bits_stay_close() {
    for case in gradient_cases().into_iter().step_by(6) {
        let expected = run(&case, &gradient_model(&case, ElementType::F32), |x| x, |x| x);
        let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
        let half = run(&case, &gradient_model(&case, ElementType::F16), f16::from_f32, f16::to_f32);
        assert_close(&format!("{} as float16", case.name), &half, &expected, 5e-2);
        let brain = run(&case, &gradient_model(&case, ElementType::Bf16), bf16::from_f32, bf16::to_f32);
        assert_close(&format!("{} as bfloat16", case.name), &brain, &expected, 0.3);
    }
}

#[test]
fn a_gradient_describes_itself() {
    let case = gradient_cases().remove(0);
    let spec = spec(case.network.config());
    let golden = Golden::new(0, 0.5, Some(0), &[1.0, -1.0]);
    let model =
        export_gradient(&case.network, &case.weights, &spec, ElementType::F32, Some(&golden)).unwrap();
    let model = Model::read(model.to_bytes()).unwrap();
    let ports = [model.inputs(), model.outputs()].concat();
    assert_eq!(
        ports.iter().map(|port| port.to_string()).collect::<Vec<_>>(),
        [
            "`z` [batch, 2, 8, 8] float32",
            "`t` [batch] float32",
            "`y` [batch] int64",
            "`grad` [batch, 2, 8, 8] float32",
        ]
    );
    let written = ModelSpec::parse(model.metadata(SPEC_KEY).unwrap()).unwrap();
    assert!(written.is_gradient());
    assert_eq!((written.network.label_input.as_deref(), written.network.classes), (Some("y"), 5));
    let read: Golden = serde_json::from_str(model.metadata(GOLDEN_KEY).unwrap()).unwrap();
    assert_eq!(read, golden);

    // "No class" does not guide.
    let nobody = Case { y: Some(vec![5; 3]), ..case };
    assert!(run(&nobody, &model, |x| x, |x| x).iter().all(|&x| x == 0.0));

    // Weights are stored once, for both ways.
    let (large, _) = vector("classifier");
    let spec = self::spec(large.network.config());
    let forward = export(&large.network, &large.weights, &spec, ElementType::F32, None).unwrap();
    let gradient = export_gradient(&large.network, &large.weights, &spec, ElementType::F32, None).unwrap();
    let sizes = [forward, gradient].map(|model| model.to_bytes().len());
    assert!(sizes[1] < sizes[0] + 150_000, "{sizes:?}");

    let score = random("tiny", &NetConfig::preset("tiny").unwrap(), 0);
    let spec = self::spec(score.network.config());
    let error = export_gradient(&score.network, &score.weights, &spec, ElementType::F32, None).unwrap_err();
    assert!(error.to_string().contains("a gradient is exported of a classifier"), "{error}");
}

#[test]
fn network_and_spec_must_fit() {
    let case = random("tiny", &NetConfig::preset("tiny").unwrap(), 0);
    let small = spec(&serde_json::from_str(r#"{"image_size": 16}"#).unwrap());
    let error = export(&case.network, &case.weights, &small, ElementType::F32, None).unwrap_err().to_string();
    assert!(error.contains("state: the network has [6, 32, 32], the spec [6, 16, 16]"), "{error}");
    let error = export(&case.network, &case.weights, &spec(case.network.config()), ElementType::F64, None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("not float64"), "{error}");
}
