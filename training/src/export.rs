//! Writes a network as an ONNX model that describes itself.

pub use psld::golden::{GOLDEN_KEY, Golden};
use psld::onnx::{ElementType, Model};
use psld::spec::{GRADIENT_OUTPUT, ModelSpec, SPEC_KEY};
use psld::{Error, Result};

use crate::net::{self, Classifier, NetConfig, Network, Weights};

/// The output's name in an exported classifier, whose spec names that of a score network.
pub const LOGITS: &str = "logits";

/// The model of `network` with `weights`: opset 20, any batch size.
///
/// Weights, state and output are of type `element`: float32, float16 or bfloat16 (which computes in float32);
/// times are float32 in any case. Ports have the names that `spec` gives them; a classifier's output is
/// [`LOGITS`], and a second one, [`FEATURES`](net::FEATURES) [batch, channels], the means of its last feature maps: what a
/// Frechet distance is computed from.
pub fn export(
    network: &Network,
    weights: &Weights,
    spec: &ModelSpec,
    element: ElementType,
    golden: Option<&Golden>,
) -> Result<Model> {
    check(network.config(), spec).map_err(|error| error.context("the network does not fit its spec"))?;
    let classifier = matches!(network.config(), NetConfig::Classifier(_));
    let ports = net::Ports {
        state: &spec.network.state_input,
        time: &spec.network.time_input,
        label: spec.network.label_input.as_deref().unwrap_or_default(),
        output: if classifier { LOGITS } else { &spec.network.output },
    };
    let model = net::graph(network, weights, element, ports)?.finish()?;
    let output = classifier.then(|| LOGITS.to_owned());
    Ok(described(model, spec, golden.map(|golden| Golden { output, ..golden.clone() })))
}

/// The guidance network of a classifier: the gradient of log p(y | z_t, t) in the state, as an ONNX graph, any batch size.
///
/// Its inputs are the classifier's, and the label `y` [batch], int64 (or what `spec` calls it), for which one past the
/// classes is "no class", with a gradient of 0; its output is `grad`, in the state's shape, by which psld knows a guidance
/// network. `element` as in [`export`]. A gradient has small numbers in it that float16 loses: float32 is the one to take
/// unless a file must be small.
///
/// # Errors
/// Where `network` is no classifier, or does not fit `spec`.
pub fn export_gradient(
    network: &Network,
    weights: &Weights,
    spec: &ModelSpec,
    element: ElementType,
    golden: Option<&Golden>,
) -> Result<Model> {
    check(network.config(), spec).map_err(|error| error.context("the network does not fit its spec"))?;
    let classifier = classifier(network)?;
    let mut spec = spec.clone();
    spec.network.output = GRADIENT_OUTPUT.into();
    let label = spec.network.label_input.get_or_insert_with(|| "y".into()).clone();
    spec.network.classes = classifier.n_cls as u32;
    let ports = net::Ports {
        state: &spec.network.state_input,
        time: &spec.network.time_input,
        label: &label,
        output: GRADIENT_OUTPUT,
    };
    let model = net::gradient(network, weights, element, ports)?.finish()?;
    Ok(described(model, &spec, golden.cloned()))
}

fn described(mut model: Model, spec: &ModelSpec, golden: Option<Golden>) -> Model {
    model.set_metadata(SPEC_KEY, &spec.to_json());
    if let Some(golden) = golden {
        model.set_metadata(GOLDEN_KEY, &golden.to_json());
    }
    model
}

fn classifier(network: &Network) -> Result<&Classifier> {
    match network.config() {
        NetConfig::Classifier(classifier) => Ok(classifier),
        _ => Err(Error::argument("a gradient is exported of a classifier, and this network is none")
            .hint("net.kind = \"classifier\" trains one")),
    }
}

fn check(config: &NetConfig, spec: &ModelSpec) -> Result<()> {
    let k = spec.process()?.k();
    let shape = |blocks: usize| {
        let mut shape = spec.data.shape.clone();
        shape[0] *= blocks;
        shape
    };
    let same = |what: &str, network: Vec<usize>, spec: Vec<usize>| match network == spec {
        true => Ok(()),
        false => Err(Error::argument(format!("{what}: the network has {network:?}, the spec {spec:?}"))),
    };
    same("state", config.state_shape(), shape(k))?;
    if !matches!(config, NetConfig::Classifier(_)) {
        same("output", config.output_shape(), shape(spec.output_blocks(k)))?;
        same("classes", vec![config.classes()], vec![spec.network.classes as usize])?;
    }
    if spec.network.time_scale != 1.0 {
        let message = format!("time_scale: these networks take t itself, not {} t", spec.network.time_scale);
        return Err(Error::argument(message));
    }
    Ok(())
}

/// The [`Golden`] output of `network`: evaluated with libtorch, on the CPU, in the middle of its time.
#[cfg(feature = "torch")]
pub fn golden(network: &Network, weights: &Weights) -> Result<Golden> {
    use crate::net::{Mode, TorchParams};
    use tch::Kind;

    let parameters = TorchParams::of_weights(network, weights)?;
    let y = (network.config().classes() > 0).then_some(0);
    evaluated(network, y, |z, t, y| {
        tch::no_grad(|| network.forward(&parameters, z, t, y.as_ref(), Mode::Eval, Kind::Float))
    })
}

/// The same of the guidance network that [`export_gradient`] makes of `network`, a classifier: by libtorch's own
/// differentiation.
#[cfg(feature = "torch")]
pub fn golden_gradient(network: &Network, weights: &Weights) -> Result<Golden> {
    classifier(network)?;
    let parameters = crate::net::TorchParams::of_weights(network, weights)?;
    evaluated(network, Some(0), |z, t, y| network.gradient(&parameters, z, t, &y.expect("there is a label")))
}

/// The golden evaluation that `evaluate` makes of state, time and label.
#[cfg(feature = "torch")]
fn evaluated(
    network: &Network,
    y: Option<i64>,
    evaluate: impl FnOnce(&tch::Tensor, &tch::Tensor, Option<tch::Tensor>) -> tch::Tensor,
) -> Result<Golden> {
    use tch::Tensor;

    let (seed, t) = (0, 0.5);
    let shape = network.config().state_shape();
    let dims: Vec<_> = std::iter::once(1).chain(shape.iter().map(|&dim| dim as i64)).collect();
    let z = Tensor::from_slice(&Golden::state(seed, shape.iter().product())).view(&dims[..]);
    let output = evaluate(&z, &Tensor::from_slice(&[t]), y.map(|y| Tensor::from_slice(&[y])));
    let output = Vec::<f32>::try_from(output.flatten(0, -1))
        .map_err(|error| Error::argument("the network's output cannot be read").source(error))?;
    if let Some(place) = output.iter().position(|value| !value.is_finite()) {
        let message = format!("the network's output at t = {t} is {} at element {place}", output[place]);
        return Err(Error::new(psld::Status::NonFinite, message));
    }
    Ok(Golden::new(seed, t, y, &output))
}
