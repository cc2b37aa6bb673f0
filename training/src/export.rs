//! Writes a network as an ONNX model that describes itself.

use psld::onnx::{ElementType, Model};
pub use psld::spec::{GOLDEN_KEY, Golden};
use psld::spec::{ModelSpec, SPEC_KEY};
use psld::{Error, Result};

use crate::net::{self, NetConfig, Network, Weights};

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
    let mut model = net::graph(network, weights, element, ports)?.finish()?;
    model.set_metadata(SPEC_KEY, &spec.to_json());
    if let Some(golden) = golden {
        let output = classifier.then(|| LOGITS.to_owned());
        model.set_metadata(GOLDEN_KEY, &Golden { output, ..golden.clone() }.to_json());
    }
    Ok(model)
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
    use tch::{Kind, Tensor};

    let (seed, t) = (0, 0.5);
    let parameters = TorchParams::of_weights(network, weights)?;
    let shape = network.config().state_shape();
    let dims: Vec<_> = std::iter::once(1).chain(shape.iter().map(|&dim| dim as i64)).collect();
    let z = Tensor::from_slice(&Golden::state(seed, shape.iter().product())).view(&dims[..]);
    let y = (network.config().classes() > 0).then_some(0);
    let labels = y.map(|y| Tensor::from_slice(&[y]));
    let output = tch::no_grad(|| {
        let t = Tensor::from_slice(&[t]);
        network.forward(&parameters, &z, &t, labels.as_ref(), Mode::Eval, Kind::Float)
    });
    let output = Vec::<f32>::try_from(output.flatten(0, -1))
        .map_err(|error| Error::argument("the network's output cannot be read").source(error))?;
    if let Some(place) = output.iter().position(|value| !value.is_finite()) {
        let message = format!("the network's output at t = {t} is {} at element {place}", output[place]);
        return Err(Error::new(psld::Status::NonFinite, message));
    }
    Ok(Golden::new(seed, t, y, &output))
}
