//! Sampling with libtorch: psld's own runs, with a network that libtorch computes.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use psld::array::{Precision, Values, ValuesMut};
use psld::network::{self, Backend, Evaluator, Inputs};
use psld::run::{Samples, sample};
use psld::spec::What;
use psld::{Error, Model, ModelSpec, Result, RunOptions, Sampler, SamplerSpec, Status};
use tch::{Device, Kind, Tensor};

use super::optimizer::floats;
use crate::net::{Mode, Network, TorchParams};

/// A network of psld that libtorch computes.
pub struct TorchNetwork(Arc<Inner>);

struct Inner {
    spec: ModelSpec,
    network: Network,
    // Tensors may be used by one thread at a time.
    parameters: Mutex<TorchParams>,
    device: Device,
}

impl TorchNetwork {
    /// `network` of `spec` with these parameters, which are on `device`.
    pub fn new(spec: ModelSpec, network: Network, parameters: TorchParams, device: Device) -> Self {
        Self(Arc::new(Inner { spec, network, parameters: Mutex::new(parameters), device }))
    }
}

impl network::Network for TorchNetwork {
    fn spec(&self) -> &ModelSpec {
        &self.0.spec
    }

    fn backend(&self) -> Backend {
        let provider = if self.0.device == Device::Cpu { "cpu" } else { "cuda" };
        Backend { name: "libtorch", version: "2.11".into(), provider: provider.into(), library: None }
    }

    fn output_precision(&self, _: Precision) -> Precision {
        Precision::F32
    }

    /// Weights in training have no file; a run saved from them cannot be resumed elsewhere.
    fn hash(&self) -> psld::Result<String> {
        Ok(String::new())
    }

    fn evaluator(&self) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(TorchEvaluator(self.0.clone())))
    }
}

struct TorchEvaluator(Arc<Inner>);

impl Evaluator for TorchEvaluator {
    fn evaluate(&mut self, inputs: Inputs<'_>, out: ValuesMut<'_>) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let Inner { spec, network, parameters, device } = &*self.0;
        let n = inputs.t.len();
        let z = match inputs.z {
            Values::F32(z) => Tensor::from_slice(z),
            Values::F64(z) => Tensor::from_slice(z).to_kind(Kind::Float),
        };
        let mut shape: Vec<i64> = spec.data.shape.iter().map(|size| *size as i64).collect();
        shape[0] = -1;
        shape.insert(0, n as i64);
        let z = z.to_device(*device).view(&shape[..]);
        let t: Vec<f32> = inputs.t.iter().map(|t| *t as f32).collect();
        let t = Tensor::from_slice(&t).to_device(*device);
        let null = vec![i64::from(spec.network.classes); n];
        let y = (spec.network.classes > 0)
            .then(|| Tensor::from_slice(inputs.labels.unwrap_or(&null)).to_device(*device));
        let parameters = parameters.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let eps = floats(&network.forward(&parameters, &z, &t, y.as_ref(), Mode::Eval, Kind::Float))?;
        match out {
            ValuesMut::F32(out) => out.copy_from_slice(&eps),
            ValuesMut::F64(_) => {
                return Err(Error::new(Status::Internal, "libtorch's outputs are single precision"));
            }
        }
        Ok(())
    }
}

/// Draws `n` samples [n, C, ...]; with labels, one class after another if `labels` is empty.
pub fn draw(network: TorchNetwork, sampler: &SamplerSpec, n: usize, labels: &[i64]) -> Result<Samples<f32>> {
    let spec = network.0.spec.clone();
    let classes = i64::from(spec.network.classes);
    let sampler_ = Arc::new(Sampler::compile(&spec, sampler, None)?);
    let model = Model::new(Arc::new(network), 1)?;
    let labels = match labels {
        [] if classes > 0 => Some((0..n as i64).map(|i| i % classes).collect()),
        [] => None,
        labels => Some(labels.iter().copied().cycle().take(n).collect()),
    };
    let options = RunOptions { seed: sampler.seed(), labels, ..RunOptions::new(n) };
    sample(&model, &sampler_, &options, What::Data, |_| ControlFlow::Continue(()))
}
