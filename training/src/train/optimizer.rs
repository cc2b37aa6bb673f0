//! Adam, clipping and the running average, on one flat buffer: about fifteen kernels a step, however many parameters
//! the network has.

use psld::{Error, Result, Status};
use tch::{Device, Kind, Tensor};

use crate::net::{self, Network, TorchParams};
use crate::recipe::{Optimizer, TrainRecipe};

/// Everything that a step changes. All buffers hold the parameters of [`Network::parameters`] one after another.
#[derive(Debug)]
pub struct Weights {
    /// The weights.
    pub raw: Tensor,
    /// Their running average.
    pub ema: Tensor,
    /// Adam's running means of the gradient and of its square.
    pub moments: [Tensor; 2],
    /// 1 where a parameter is trained; `None` if all are.
    trained: Option<Tensor>,
}

impl Weights {
    /// The initial weights of a network.
    pub fn new(network: &Network, seed: u64, device: Device) -> Self {
        Self::of_values(network, &network.initial_values(seed), device)
    }

    /// Weights to begin with.
    ///
    /// # Panics
    /// If `values` are not those of the network's parameters ([`Network::check`]).
    pub fn of_values(network: &Network, values: &net::Weights, device: Device) -> Self {
        let flat: Vec<f32> =
            network.parameters().iter().flat_map(|p| values[&p.name].iter().copied()).collect();
        let raw = Tensor::from_slice(&flat).to_device(device);
        let (ema, moments) = (raw.copy(), [raw.zeros_like(), raw.zeros_like()]);
        Self::from_parts(network, raw, ema, moments)
    }

    /// Weights as they were.
    pub(super) fn from_parts(network: &Network, raw: Tensor, ema: Tensor, moments: [Tensor; 2]) -> Self {
        let trained = network.parameters().iter().any(|p| !p.trained).then(|| {
            let mask =
                network.parameters().iter().flat_map(|p| std::iter::repeat_n(f32::from(p.trained), p.len()));
            Tensor::from_slice(&mask.collect::<Vec<f32>>()).to_device(raw.device())
        });
        Self { raw: raw.set_requires_grad(true), ema, moments, trained }
    }

    /// The weights, to be differentiated by.
    pub fn parameters(&self, network: &Network) -> Result<TorchParams> {
        TorchParams::of_flat(network, &self.raw)
    }

    /// The running average, to sample with.
    pub fn averaged(&self, network: &Network) -> Result<TorchParams> {
        TorchParams::of_flat(network, &self.ema)
    }

    /// One step along `gradient`, the `step`-th from 0. Returns the gradient's norm before it was clipped.
    pub fn step(&mut self, mut gradient: Tensor, step: u64, recipe: &TrainRecipe) -> Tensor {
        let _guard = tch::no_grad_guard();
        let TrainRecipe { betas: [beta1, beta2], eps, weight_decay, .. } = *recipe;
        let lr = learning_rate(step, recipe);
        if let Some(trained) = &self.trained {
            gradient *= trained;
        }
        let norm = gradient.norm();
        if recipe.clip > 0.0 {
            gradient *= (recipe.clip / (&norm + 1e-6)).clamp_max(1.0);
        }
        if weight_decay > 0.0 {
            // Parameters that are not trained do not decay either.
            let decayed = self
                .trained
                .as_ref()
                .map_or_else(|| self.raw.detach(), |trained| self.raw.detach() * trained);
            match recipe.optimizer {
                Optimizer::Adam => gradient += decayed * weight_decay,
                Optimizer::AdamW => self.raw -= decayed * (lr * weight_decay),
            }
        }
        let [mean, square] = &mut self.moments;
        let _ = mean.lerp_(&gradient, 1.0 - beta1);
        let _ = square.g_mul_scalar_(beta2).addcmul_(&gradient, &(&gradient * (1.0 - beta2)));
        let n = (step + 1) as f64;
        let denominator = (&*square / (1.0 - beta2.powf(n))).sqrt() + eps;
        let _ = self.raw.addcdiv_(&(&*mean * (-lr / (1.0 - beta1.powf(n)))), &denominator);
        let _ = self.ema.lerp_(&self.raw, 1.0 - average_decay(step, recipe));
        norm
    }

    /// Values by name, of the running average if `ema`.
    pub fn values(&self, network: &Network, ema: bool) -> Result<net::Weights> {
        let flat = floats(if ema { &self.ema } else { &self.raw })?;
        let mut rest = &flat[..];
        Ok(network
            .parameters()
            .iter()
            .map(|p| {
                let (values, tail) = rest.split_at(p.len());
                rest = tail;
                (p.name.clone(), values.to_vec())
            })
            .collect())
    }
}

/// The values of a tensor in row-major order.
pub(super) fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    let flat = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view(-1);
    Vec::<f32>::try_from(&flat).map_err(|e| Error::new(Status::Internal, "a tensor cannot be read").source(e))
}

/// The learning rate of a step: 0 at the first, growing to its full value over `warmup` steps; over the last `cooldown`
/// share of all steps it falls to 0 along a half cosine.
pub fn learning_rate(step: u64, recipe: &TrainRecipe) -> f64 {
    let warm = if recipe.warmup == 0 { 1.0 } else { (step as f64 / recipe.warmup as f64).min(1.0) };
    let falling = recipe.cooldown * recipe.steps as f64;
    let into = step as f64 - (recipe.steps as f64 - falling);
    let cold =
        if into > 0.0 { 0.5 + 0.5 * (std::f64::consts::PI * (into / falling).min(1.0)).cos() } else { 1.0 };
    recipe.lr * warm * cold
}

/// The decay of the running average at a step.
fn average_decay(step: u64, recipe: &TrainRecipe) -> f64 {
    let n = step as f64;
    if recipe.ema_warmup { recipe.ema.min((1.0 + n) / (10.0 + n)) } else { recipe.ema }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_starts_and_may_end_at_zero() {
        let recipe = TrainRecipe { lr: 2.0, warmup: 10, steps: 100, cooldown: 0.5, ..TrainRecipe::default() };
        let lr = |step| learning_rate(step, &recipe);
        assert_eq!([lr(0), lr(5), lr(10), lr(50), lr(75), lr(100)], [0.0, 1.0, 2.0, 2.0, 1.0, 0.0]);
        assert_eq!(learning_rate(0, &TrainRecipe { warmup: 0, ..recipe }), 2.0);
    }
    #[test]
    fn a_warmed_up_average_forgets_the_start() {
        let recipe = TrainRecipe { ema: 0.999, ema_warmup: true, ..TrainRecipe::default() };
        let start = |recipe: &TrainRecipe| (0..300).map(|step| average_decay(step, recipe)).product::<f64>();
        assert!(start(&recipe) < 1e-9, "{}", start(&recipe));
        assert!(start(&TrainRecipe { ema_warmup: false, ..recipe.clone() }) > 0.7);
        assert_eq!(average_decay(1_000_000, &recipe), 0.999);
    }
}
