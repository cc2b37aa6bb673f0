//! Writes a network as an ONNX model that describes itself.

use psld::noise::{Purpose, fill_f32};
use psld::onnx::{ElementType, Model};
use psld::spec::{ModelSpec, SPEC_KEY};
use psld::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::net::{self, NetConfig, Network, Weights};

/// The metadata key under which a model carries its [`Golden`] output, as JSON.
pub const GOLDEN_KEY: &str = "psld.golden";

/// The output's name in an exported classifier, whose spec names that of a score network.
pub const LOGITS: &str = "logits";

/// The model of `network` with `weights`: opset 20, any batch size.
///
/// Weights, state and output are of type `element`: float32, float16 or bfloat16 (which computes in float32);
/// times are float32 in any case. Ports have the names that `spec` gives them; a classifier's output is
/// [`LOGITS`].
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
        model.set_metadata(GOLDEN_KEY, &serde_json::to_string(golden).expect("its numbers are finite"));
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

/// One evaluation of a network, for whoever wants to know whether a file, a machine or a provider still computes
/// the same.
///
/// The batch is one sample. Its state is standard normal noise, `psld::noise::fill_f32(seed, Purpose::Probe, 0, 0,
/// ..)`, element by element in row-major order; its time is `t` and its label `y`. Of the output, in the same
/// order, `values[i]` is element `indices[i]`, and `rms` is the root of the mean square of all elements. The
/// numbers are libtorch's in float32, whatever type the model was exported in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Golden {
    /// Version of this document; 1.
    pub format: u32,
    /// Seed of the state.
    pub seed: u64,
    /// The time.
    pub t: f32,
    /// The label, if the network takes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<i64>,
    /// Places in the output.
    pub indices: Vec<usize>,
    /// What is there.
    pub values: Vec<f32>,
    /// The size of the whole output.
    pub rms: f64,
}

impl Golden {
    /// How many values of the output it holds, at most.
    const VALUES: usize = 64;

    /// The state that the evaluation is of.
    pub fn state(seed: u64, len: usize) -> Vec<f32> {
        let mut state = vec![0.0; len];
        fill_f32(seed, Purpose::Probe, 0, 0, &mut state);
        state
    }

    /// The evaluation with this output.
    pub fn new(seed: u64, t: f32, y: Option<i64>, output: &[f32]) -> Self {
        let count = output.len().min(Self::VALUES);
        let indices: Vec<_> = (0..count).map(|i| i * output.len() / count).collect();
        let square = output.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
        Self {
            format: 1,
            seed,
            t,
            y,
            values: indices.iter().map(|&i| output[i]).collect(),
            indices,
            rms: (square / output.len() as f64).sqrt(),
        }
    }

    /// Evaluates `network`, on the CPU, in the middle of its time.
    #[cfg(feature = "torch")]
    pub fn evaluate(network: &Network, weights: &Weights) -> Result<Self> {
        use crate::net::{Mode, TorchParams};
        use tch::{Kind, Tensor};

        let (seed, t) = (0, 0.5);
        let parameters = TorchParams::of_weights(network, weights)?;
        let shape = network.config().state_shape();
        let dims: Vec<_> = std::iter::once(1).chain(shape.iter().map(|&dim| dim as i64)).collect();
        let z = Tensor::from_slice(&Self::state(seed, shape.iter().product())).view(&dims[..]);
        let y = (network.config().classes() > 0).then_some(0);
        let labels = y.map(|y| Tensor::from_slice(&[y]));
        let output = tch::no_grad(|| {
            network.forward(
                &parameters,
                &z,
                &Tensor::from_slice(&[t]),
                labels.as_ref(),
                Mode::Eval,
                Kind::Float,
            )
        });
        let output = Vec::<f32>::try_from(output.flatten(0, -1))
            .map_err(|error| Error::argument("the network's output cannot be read").source(error))?;
        if let Some(place) = output.iter().position(|value| !value.is_finite()) {
            let message = format!("the network's output at t = {t} is {} at element {place}", output[place]);
            return Err(Error::new(psld::Status::NonFinite, message));
        }
        Ok(Self::new(seed, t, y, &output))
    }
}
