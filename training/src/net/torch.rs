//! Computes a network with libtorch.

use std::cell::RefCell;
use std::collections::HashMap;

use psld::{Error, Result};
use tch::{Device, Kind, Tensor};

use super::ops::{Conv, Init, Kernel, Layer, NORM_EPSILON, Ops};
use super::{Network, Weights};

/// A network's parameters as tensors: float32, all on one device.
#[derive(Debug)]
pub struct TorchParams(HashMap<String, Tensor>);

impl TorchParams {
    /// The parameters of `network` as views into `flat`, in which they follow one another in the order of
    /// [`Network::parameters`]; gradients arrive in `flat`.
    pub fn of_flat(network: &Network, flat: &Tensor) -> Result<Self> {
        let count: usize = network.parameters().iter().map(|p| p.len()).sum();
        if flat.size() != [count as i64] {
            let message =
                format!("a network of {count} parameters needs as many values, not {:?}", flat.size());
            return Err(Error::argument(message));
        }
        let lengths: Vec<_> = network.parameters().iter().map(|p| p.len() as i64).collect();
        let views = flat.split_with_sizes(&lengths[..], 0).into_iter().zip(network.parameters());
        Ok(Self(views.map(|(view, p)| (p.name.clone(), view.view(&dims(&p.shape)[..]))).collect()))
    }

    /// The parameters of `network` with these values, on the CPU.
    pub fn of_weights(network: &Network, weights: &Weights) -> Result<Self> {
        network.check(weights)?;
        let flat: Vec<f32> =
            network.parameters().iter().flat_map(|p| weights[&p.name].iter().copied()).collect();
        Self::of_flat(network, &Tensor::from_slice(&flat))
    }

    /// The parameter `name`, one of the network's.
    pub fn get(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("`{name}` is no parameter of the network these are for"))
    }
}

/// What a network is evaluated for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Its output.
    Eval,
    /// Learning: this share of the features is dropped, by libtorch's generator.
    Train {
        /// In [0, 1).
        dropout: f64,
    },
}

impl Network {
    /// The output, in float32, for states `z` [batch, ...], times `t` [batch] and labels `y` [batch] (int64;
    /// `classes` is "no class").
    ///
    /// Weights are cast to `compute` (`Float` or `BFloat16`) where they are used; norms accumulate in float32
    /// and the time embedding is computed in it.
    pub fn forward(
        &self,
        parameters: &TorchParams,
        z: &Tensor,
        t: &Tensor,
        y: Option<&Tensor>,
        mode: Mode,
        compute: Kind,
    ) -> Tensor {
        assert_eq!(
            y.is_some(),
            self.config().classes() > 0,
            "labels are given exactly if the network has classes"
        );
        let mut ops = Torch { parameters, mode, compute };
        let z = Shared(z.to_kind(compute));
        let y = y.map(|y| Shared(y.shallow_clone()));
        self.build(&mut ops, z, Shared(t.to_kind(Kind::Float)), y).0.to_kind(Kind::Float)
    }

    /// The gradient in `z` of log p(y | z, t), the network being a classifier that gives logits; arguments as in
    /// [`forward`](Self::forward).
    pub fn gradient(&self, parameters: &TorchParams, z: &Tensor, t: &Tensor, y: &Tensor) -> Tensor {
        let z = z.detach().set_requires_grad(true);
        let logits = self.forward(parameters, &z, t, None, Mode::Eval, Kind::Float);
        let chosen = logits.log_softmax(-1, Kind::Float).gather(1, &y.unsqueeze(1), false);
        // Not `backward`: gradients of the parameters are nobody's here.
        Tensor::run_backward(&[chosen.sum(Kind::Float)], &[&z], false, false).remove(0)
    }
}

struct Torch<'a> {
    parameters: &'a TorchParams,
    mode: Mode,
    compute: Kind,
}

/// A tensor whose clones share storage and history.
struct Shared(Tensor);

impl Clone for Shared {
    fn clone(&self) -> Self {
        Self(self.0.shallow_clone())
    }
}

/// By bits, device and type.
type Constants = HashMap<(Vec<u32>, Device, Kind), Tensor>;

thread_local! {
    /// Those that were used before: a copy to a GPU would make the program wait for all that it has asked the GPU to
    /// do, once for each constant of each evaluation.
    static CONSTANTS: RefCell<Constants> = RefCell::default();
}

/// `values` as a vector.
fn constant(values: &[f32], device: Device, kind: Kind) -> Tensor {
    let key = (values.iter().map(|value| value.to_bits()).collect(), device, kind);
    CONSTANTS.with_borrow_mut(|constants| {
        let new = || Tensor::from_slice(values).to_device(device).to_kind(kind);
        constants.entry(key).or_insert_with(new).shallow_clone()
    })
}

impl Torch<'_> {
    fn cast(&self, p: &Shared) -> Tensor {
        p.0.to_kind(self.compute)
    }
}

fn dims(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&dim| dim as i64).collect()
}

impl Ops for Torch<'_> {
    type T = Shared;
    type P = Shared;

    fn param(&mut self, name: &str, _: &[usize], init: Init) -> Shared {
        let p = self.parameters.get(name);
        Shared(if init.trained() { p.shallow_clone() } else { p.detach() })
    }

    fn constant(&mut self, values: Vec<f32>) -> Shared {
        let device = self.parameters.0.values().next().map_or(Device::Cpu, Tensor::device);
        Shared(constant(&values, device, Kind::Float))
    }

    fn scaled(&mut self, p: &Shared, gain: f64) -> Shared {
        Shared(&p.0 * gain)
    }

    fn sum(&mut self, p: &Shared, q: &Shared) -> Shared {
        Shared(&p.0 + &q.0)
    }

    fn shape(&self, x: &Shared) -> Vec<usize> {
        x.0.size()[1..].iter().map(|&dim| dim as usize).collect()
    }

    fn conv2d(&mut self, x: &Shared, weight: &Shared, bias: Option<&Shared>, how: Conv) -> Shared {
        let (before, after) = (how.before as i64, how.after as i64);
        let stride = [how.stride as i64; 2];
        let (weight, bias) = (self.cast(weight), bias.map(|bias| self.cast(bias)));
        if before == after {
            return Shared(x.0.conv2d(&weight, bias, stride, [before; 2], [1, 1], 1));
        }
        let padded = x.0.constant_pad_nd([before, after, before, after]);
        Shared(padded.conv2d(&weight, bias, stride, [0, 0], [1, 1], 1))
    }

    fn linear(&mut self, x: &Shared, weight: &Shared, bias: Option<&Shared>) -> Shared {
        Shared(x.0.linear(&self.cast(weight), bias.map(|bias| self.cast(bias))))
    }

    fn pixelwise(&mut self, x: &Shared, map: &Layer<Shared>) -> Shared {
        let weight = map.weight.0.transpose(0, 1).unsqueeze(-1).unsqueeze(-1);
        self.conv2d(x, &Shared(weight), Some(&map.bias), Conv::pad(0))
    }

    fn group_norm(&mut self, x: &Shared, groups: usize, weight: &Shared, bias: &Shared) -> Shared {
        let (weight, bias) = (Some(self.cast(weight)), Some(self.cast(bias)));
        Shared(x.0.group_norm(groups as i64, weight, bias, NORM_EPSILON, true))
    }

    fn attention(&mut self, x: &Shared, maps: &[Layer<Shared>; 4]) -> Shared {
        let (_, channels, height, width) = x.0.size4().expect("attention is over [batch, C, H, W]");
        // [batch, head, pixel, channel], one head, through one product for all three.
        let pixels = x.0.flatten(2, 3).transpose(1, 2).unsqueeze(1);
        let [query, key, value, output] = maps;
        let inner = [query, key, value];
        let weight = Tensor::cat(&inner.map(|map| self.cast(&map.weight)), 1);
        let bias = Tensor::cat(&inner.map(|map| self.cast(&map.bias)), 0);
        let parts = (pixels.matmul(&weight) + bias).split(channels, -1);
        let mixed = Tensor::scaled_dot_product_attention(
            &parts[0],
            &parts[1],
            &parts[2],
            None::<&Tensor>,
            0.0,
            false,
            None,
            false,
        );
        let mixed = mixed.matmul(&self.cast(&output.weight)) + self.cast(&output.bias);
        Shared(mixed.squeeze_dim(1).transpose(1, 2).reshape([-1, channels, height, width]))
    }

    fn silu(&mut self, x: &Shared) -> Shared {
        Shared(x.0.silu())
    }

    fn add(&mut self, x: &Shared, y: &Shared) -> Shared {
        Shared(&x.0 + &y.0)
    }

    fn scale(&mut self, x: &Shared, gain: f64) -> Shared {
        Shared(&x.0 * gain)
    }

    fn shift(&mut self, x: &Shared, by: &Shared) -> Shared {
        Shared(&x.0 + by.0.unsqueeze(-1).unsqueeze(-1))
    }

    fn concat(&mut self, x: &Shared, y: &Shared) -> Shared {
        Shared(Tensor::cat(&[&x.0, &y.0], 1))
    }

    fn reshape(&mut self, x: &Shared, shape: &[usize]) -> Shared {
        let dims: Vec<_> = std::iter::once(-1).chain(dims(shape)).collect();
        Shared(x.0.reshape(&dims[..]))
    }

    fn dropout(&mut self, x: &Shared) -> Shared {
        match self.mode {
            Mode::Train { dropout } if dropout > 0.0 => Shared(x.0.dropout(dropout, true)),
            _ => x.clone(),
        }
    }

    fn upsample(&mut self, x: &Shared) -> Shared {
        let (_, _, height, width) = x.0.size4().expect("upsampling is of [batch, C, H, W]");
        Shared(x.0.upsample_nearest2d([2 * height, 2 * width], None, None))
    }

    fn halve(&mut self, x: &Shared) -> Shared {
        Shared(x.0.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None))
    }

    fn filter(&mut self, x: &Shared, kernel: &Kernel, how: Conv) -> Shared {
        let (channels, size) = (x.0.size()[1], kernel.taps.len() as i64);
        let values: Vec<f32> = kernel.values().iter().map(|&value| value as f32).collect();
        let weight = constant(&values, x.0.device(), self.compute)
            .view([1, 1, size, size])
            .repeat([channels, 1, 1, 1]);
        let (stride, padding) = ([how.stride as i64; 2], [how.before as i64; 2]);
        Shared(x.0.conv2d(&weight, None::<&Tensor>, stride, padding, [1, 1], channels))
    }

    fn ln(&mut self, t: &Shared) -> Shared {
        Shared(t.0.log())
    }

    fn waves(&mut self, t: &Shared, frequencies: &Shared, factor: f64) -> Shared {
        let angles = t.0.unsqueeze(1) * frequencies.0.unsqueeze(0) * factor;
        Shared(Tensor::cat(&[angles.sin(), angles.cos()], 1).to_kind(self.compute))
    }

    fn embed(&mut self, labels: &Shared, table: &Shared) -> Shared {
        Shared(Tensor::embedding(&self.cast(table), &labels.0, -1, false, false))
    }
}
