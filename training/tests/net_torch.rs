//! Networks through libtorch: against the authors' vectors, and against a plain interpreter.
#![cfg(feature = "torch")]

mod common;

use common::{
    Case, VECTORS, assert_close, gradient_cases, gradients, random, random_networks, reference, tensors,
    vector,
};
use psld_training::export::{self, Golden};
use psld_training::net::{Mode, NetConfig, Network, TorchParams};
use tch::{Device, Kind, Tensor};

fn inputs(case: &Case) -> (Tensor, Tensor, Option<Tensor>) {
    let shape = case.network.config().state_shape();
    let dims: Vec<_> = std::iter::once(-1).chain(shape.iter().map(|&dim| dim as i64)).collect();
    let y = case.y.as_ref().map(|y| Tensor::from_slice(y));
    (Tensor::from_slice(&case.z).view(&dims[..]), Tensor::from_slice(&case.t), y)
}

fn output(case: &Case, compute: Kind) -> Vec<f32> {
    let parameters = TorchParams::of_weights(&case.network, &case.weights).unwrap();
    let (z, t, y) = inputs(case);
    let output = tch::no_grad(|| case.network.forward(&parameters, &z, &t, y.as_ref(), Mode::Eval, compute));
    output.flatten(0, -1).try_into().unwrap()
}

#[test]
fn computes_what_the_authors_network_does() {
    for name in VECTORS {
        let (case, expected) = vector(name);
        let worst =
            output(&case, Kind::Float).iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{name}: worst error {worst:e}");
    }
}

#[test]
fn agrees_with_the_plain_interpreter() {
    for case in random_networks() {
        assert_close(&case.name, &output(&case, Kind::Float), &reference::output(&case), 1e-5);
    }
}

#[test]
fn computes_in_bfloat16() {
    for name in VECTORS {
        let (case, expected) = vector(name);
        let expected: Vec<f64> = expected.iter().map(|&value| value.into()).collect();
        assert_close(name, &output(&case, Kind::BFloat16), &expected, 0.1);
    }
}

/// Gradients arrive in the flat buffer, those of weights cast to bfloat16 too, but none of frozen frequencies.
#[test]
fn gradients_reach_every_trained_parameter() {
    let (case, _) = vector("sota_fir_residual");
    let flat: Vec<f32> =
        case.network.parameters().iter().flat_map(|p| case.weights[&p.name].iter().copied()).collect();
    let (z, t, _) = inputs(&case);
    for compute in [Kind::Float, Kind::BFloat16] {
        let flat = Tensor::from_slice(&flat).set_requires_grad(true);
        let parameters = TorchParams::of_flat(&case.network, &flat).unwrap();
        let output = case.network.forward(&parameters, &z, &t, None, Mode::Eval, compute);
        output.square().mean(Kind::Float).backward();
        let mut place = 0;
        for p in case.network.parameters() {
            let size = flat.grad().narrow(0, place, p.len() as i64).abs().max().double_value(&[]);
            assert_eq!(size > 0.0, p.trained, "{} in {compute:?}", p.name);
            place += p.len() as i64;
        }
    }
}

#[test]
fn dropout_is_for_training_only() {
    let (case, _) = vector("default_positional");
    let parameters = TorchParams::of_weights(&case.network, &case.weights).unwrap();
    let (z, t, _) = inputs(&case);
    let run = |mode| case.network.forward(&parameters, &z, &t, None, mode, Kind::Float);
    let none = run(Mode::Train { dropout: 0.0 });
    assert!(none.equal(&run(Mode::Eval)));
    tch::manual_seed(1);
    assert!(!none.equal(&run(Mode::Train { dropout: 0.5 })));
}

#[test]
fn a_flat_buffer_must_have_the_right_length() {
    let network = Network::new(&NetConfig::preset("tiny").unwrap()).unwrap();
    let error = TorchParams::of_flat(&network, &Tensor::zeros([7], (Kind::Float, Device::Cpu))).unwrap_err();
    assert!(error.to_string().contains("[7]"), "{error}");
}

#[test]
fn the_golden_output_is_that_of_the_documented_input() {
    let case = random("tiny", &NetConfig::preset("tiny").unwrap(), 5);
    let golden = export::golden(&case.network, &case.weights).unwrap();
    let state = Golden::state(golden.seed, case.z.len() / case.batch);
    let case = Case { batch: 1, z: state, t: vec![golden.t], y: golden.y.map(|y| vec![y]), ..case };
    let expected = reference::output(&case);
    let at: Vec<_> = golden.indices.iter().map(|&i| expected[i]).collect();
    assert_eq!(golden.values.len(), 64);
    assert_close("golden", &golden.values, &at, 1e-5);
}

/// libtorch's own differentiation of `case`, in the state.
fn autograd(case: &Case) -> Vec<f32> {
    let parameters = TorchParams::of_weights(&case.network, &case.weights).unwrap();
    let (z, t, y) = inputs(case);
    case.network.gradient(&parameters, &z, &t, &y.unwrap()).flatten(0, -1).try_into().unwrap()
}

/// What `net_onnx.rs` compares exported gradients with; `PSLD_UPDATE_GRADIENTS=1` writes it anew.
#[test]
fn the_gradients_on_file_are_those_of_libtorch() {
    let cases = gradient_cases();
    if std::env::var_os("PSLD_UPDATE_GRADIENTS").is_some() {
        let bytes: Vec<(String, Vec<u8>)> = cases
            .iter()
            .map(|case| (case.name.clone(), autograd(case).into_iter().flat_map(f32::to_le_bytes).collect()))
            .collect();
        let views = bytes.iter().map(|(name, bytes)| {
            let view =
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![bytes.len() / 4], bytes);
            (name, view.unwrap())
        });
        std::fs::write(gradients(), safetensors::serialize(views, None).unwrap()).unwrap();
    }
    let expected = tensors(&gradients());
    assert_eq!(expected.len(), cases.len());
    for case in cases {
        let expected: Vec<f64> = expected[&case.name].iter().map(|&value| value.into()).collect();
        assert_close(&case.name, &autograd(&case), &expected, 1e-5);
    }
}

#[test]
fn the_golden_gradient_is_that_of_the_documented_input() {
    let case = gradient_cases().remove(0);
    let golden = export::golden_gradient(&case.network, &case.weights).unwrap();
    let state = Golden::state(golden.seed, case.z.len() / case.batch);
    let case = Case { batch: 1, z: state, t: vec![golden.t], y: golden.y.map(|y| vec![y]), ..case };
    let expected = autograd(&case);
    let at: Vec<_> = golden.indices.iter().map(|&i| f64::from(expected[i])).collect();
    assert_eq!((golden.y, golden.values.len()), (Some(0), 64));
    assert_close("golden", &golden.values, &at, 1e-6);
    let score = random("tiny", &NetConfig::preset("tiny").unwrap(), 5);
    let error = export::golden_gradient(&score.network, &score.weights).unwrap_err();
    assert!(error.to_string().contains("of a classifier"), "{error}");
}
