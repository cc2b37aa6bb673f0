//! NCSN++, with all its options, by the authors' parameter names.
//!
//! Modules are numbered in the order in which they are made, `all_modules.N`, so the order of the calls here is
//! part of the file format.

use std::f64::consts::{FRAC_1_SQRT_2, TAU};

use super::config::{Combine, Embedding, Ncsnpp, Progressive, ProgressiveInput, ResBlock};
use super::ops::{Conv, Init, Kernel, Layer, Ops};

/// The network's output for states `z`, times `t` and labels `y`.
pub(super) fn ncsnpp<O: Ops>(ops: &mut O, config: &Ncsnpp, z: O::T, t: O::T, y: Option<O::T>) -> O::T {
    let mut net = Writer { ops, config, modules: 0 };
    let time = net.embedding(t, y);
    let (h, skips) = net.encode(z, time.as_ref());
    net.decode(h, skips, time.as_ref())
}

/// The features in the middle of the network, flat, through one linear layer.
pub(super) fn classifier<O: Ops>(ops: &mut O, config: &Ncsnpp, classes: usize, z: O::T, t: O::T) -> O::T {
    let mut net = Writer { ops, config, modules: 0 };
    let time = net.embedding(t, None);
    let (h, _) = net.encode(z, time.as_ref());
    net.ops.features(&h);
    let features = net.ops.shape(&h).iter().product();
    let h = net.ops.reshape(&h, &[features]);
    let module = net.module();
    let weight = module.param(net.ops, "weight", &[classes, features], Init::FanAverage(1.0));
    net.ops.linear(&h, &weight, None)
}

struct Writer<'a, O> {
    ops: &'a mut O,
    config: &'a Ncsnpp,
    modules: usize,
}

/// The place of a parameter: `all_modules.N`, or a layer inside.
struct Module(String);

impl Module {
    fn layer(&self, name: &str) -> Module {
        Module(format!("{}.{name}", self.0))
    }

    fn param<O: Ops>(&self, ops: &mut O, name: &str, shape: &[usize], init: Init) -> O::P {
        ops.param(&format!("{}.{name}", self.0), shape, init)
    }
}

/// Which way a resampling goes.
#[derive(Clone, Copy, PartialEq)]
enum Resample {
    Up,
    Down,
}
use Resample::{Down, Up};

impl<O: Ops> Writer<'_, O> {
    /// SiLU(temb): every block sees the embedding through it.
    fn embedding(&mut self, t: O::T, y: Option<O::T>) -> Option<O::T> {
        let (config, wide) = (self.config, 4 * self.config.nf);
        let frequencies = (config.embedding_type == Embedding::Fourier).then(|| {
            let module = self.module();
            module.param(self.ops, "W", &[config.nf], Init::Fixed(config.fourier_scale))
        });
        let mut embedding = None;
        if config.noise_cond {
            let waves = match frequencies {
                Some(frequencies) => {
                    let t = self.ops.ln(&t);
                    self.ops.waves(&t, &frequencies, TAU)
                }
                None => positional(self.ops, &t, config.nf),
            };
            let (first, second) = (self.module(), self.module());
            let h = self.dense(&first, &waves, wide);
            let h = self.ops.silu(&h);
            embedding = Some(self.dense(&second, &h, wide));
        }
        if let Some(y) = y {
            // One more row than classes: that of "no class".
            let table = self.ops.param("label.weight", &[config.classes + 1, wide], Init::Normal(1.0));
            let label = self.ops.embed(&y, &table);
            embedding = Some(match embedding {
                Some(time) => self.ops.add(&time, &label),
                None => label,
            });
        }
        embedding.map(|embedding| self.ops.silu(&embedding))
    }

    /// The way down and the middle: features, and the stack of what the way up needs.
    fn encode(&mut self, z: O::T, time: Option<&O::T>) -> (O::T, Vec<O::T>) {
        let config = self.config;
        let first = self.module();
        let mut h = self.conv(&first, &z, config.nf, 3, 1.0);
        let mut pyramid = z;
        let mut skips = vec![h.clone()];
        for (level, multiple) in config.ch_mult.iter().enumerate() {
            for _ in 0..config.num_res_blocks {
                h = self.block(&h, config.nf * multiple, None, time);
                h = self.attention_if_listed(h, level);
                skips.push(h.clone());
            }
            if level + 1 == config.ch_mult.len() {
                break;
            }
            let channels = config.nf * multiple;
            h = match config.resblock_type {
                ResBlock::Biggan => self.block(&h, channels, Some(Down), time),
                ResBlock::Ddpm => self.resample_layer(&h, Down, channels, config.resamp_with_conv),
            };
            match config.progressive_input {
                ProgressiveInput::None => {}
                ProgressiveInput::InputSkip => {
                    pyramid = self.resample(&pyramid, Down);
                    let module = self.module();
                    let entering = self.conv(&module.layer("Conv_0"), &pyramid, channels, 1, 1.0);
                    h = match config.progressive_combine {
                        Combine::Sum => self.ops.add(&entering, &h),
                        Combine::Cat => self.ops.concat(&entering, &h),
                    };
                }
                ProgressiveInput::Residual => {
                    let smaller = self.resample_layer(&pyramid, Down, channels, true);
                    h = self.sum(&smaller, &h);
                    pyramid = h.clone();
                }
            }
            skips.push(h.clone());
        }
        let channels = self.ops.shape(&h)[0];
        h = self.block(&h, channels, None, time);
        h = self.attention(&h);
        h = self.block(&h, channels, None, time);
        (h, skips)
    }

    /// The way up and the output.
    fn decode(&mut self, mut h: O::T, mut skips: Vec<O::T>, time: Option<&O::T>) -> O::T {
        let config = self.config;
        let mut pyramid = None;
        for (level, multiple) in config.ch_mult.iter().enumerate().rev() {
            let channels = config.nf * multiple;
            for _ in 0..=config.num_res_blocks {
                let skip =
                    skips.pop().expect("as many features are pushed on the way down as are popped here");
                h = self.ops.concat(&h, &skip);
                h = self.block(&h, channels, None, time);
            }
            h = self.attention_if_listed(h, level);
            match (config.progressive, pyramid.take()) {
                (Progressive::None, _) => {}
                (Progressive::OutputSkip, None) => {
                    pyramid = Some(self.head(&h, config.out_ch, config.init_scale))
                }
                (Progressive::OutputSkip, Some(smaller)) => {
                    let smaller = self.resample(&smaller, Up);
                    let here = self.head(&h, config.out_ch, config.init_scale);
                    pyramid = Some(self.ops.add(&smaller, &here));
                }
                (Progressive::Residual, None) => pyramid = Some(self.head(&h, channels, 1.0)),
                (Progressive::Residual, Some(smaller)) => {
                    let smaller = self.resample_layer(&smaller, Up, channels, true);
                    h = self.sum(&smaller, &h);
                    pyramid = Some(h.clone());
                }
            }
            if level > 0 {
                h = match config.resblock_type {
                    ResBlock::Biggan => self.block(&h, channels, Some(Up), time),
                    ResBlock::Ddpm => self.resample_layer(&h, Up, channels, config.resamp_with_conv),
                };
            }
        }
        match (config.progressive, pyramid) {
            (Progressive::OutputSkip, Some(output)) => output,
            _ => self.head(&h, config.out_ch, config.init_scale),
        }
    }

    /// A residual block to `channels`.
    fn block(&mut self, x: &O::T, channels: usize, resample: Option<Resample>, time: Option<&O::T>) -> O::T {
        let (module, config, gain) = (self.module(), self.config, self.gain());
        let inputs = self.ops.shape(x)[0];
        let h = self.norm(&module.layer("GroupNorm_0"), x);
        let h = self.ops.silu(&h);
        let first = self.conv_layer(&module.layer("Conv_0"), channels, inputs, 3, 1.0);
        let mut h = match resample {
            Some(way) => self.resample_conv(&h, way, &first),
            None => self.ops.conv2d(&h, &first.weight, Some(&first.bias), Conv::pad(1)),
        };
        if let Some(time) = time {
            let shift = self.dense(&module.layer("Dense_0"), time, channels);
            h = self.ops.shift(&h, &shift);
        }
        let h = self.norm(&module.layer("GroupNorm_1"), &h);
        let h = self.ops.silu(&h);
        let h = self.ops.dropout(&h);
        let last = self.conv_layer(&module.layer("Conv_1"), channels, channels, 3, config.init_scale);
        let mut last = self.scaled_layer(last, gain);

        let x = match config.resblock_type {
            _ if inputs == channels && resample.is_none() => self.scaled(x.clone(), gain),
            ResBlock::Biggan => {
                let shortcut = self.conv_layer(&module.layer("Conv_2"), channels, inputs, 1, 1.0);
                let Layer { weight, bias } = self.scaled_layer(shortcut, gain);
                last.bias = self.ops.sum(&last.bias, &bias);
                // Without its bias it can change places with a resampling, and goes where there are fewer pixels.
                let narrow = |net: &mut Self, x: &O::T| net.ops.conv2d(x, &weight, None, Conv::pad(0));
                match resample {
                    None => narrow(self, x),
                    Some(Up) => {
                        let x = narrow(self, x);
                        self.resample(&x, Up)
                    }
                    Some(Down) => {
                        let x = self.resample(x, Down);
                        narrow(self, &x)
                    }
                }
            }
            ResBlock::Ddpm => {
                let map = self.pixelwise(&module.layer("NIN_0"), inputs, channels, NIN_SCALE);
                let map = self.scaled_layer(map, gain);
                self.ops.pixelwise(x, &map)
            }
        };
        let h = self.ops.conv2d(&h, &last.weight, Some(&last.bias), Conv::pad(1));
        self.ops.add(&x, &h)
    }

    fn attention_if_listed(&mut self, h: O::T, level: usize) -> O::T {
        match self.config.attn_resolutions.contains(&(self.config.image_size >> level)) {
            true => self.attention(&h),
            false => h,
        }
    }

    fn attention(&mut self, x: &O::T) -> O::T {
        let (module, gain, last) = (self.module(), self.gain(), self.config.init_scale);
        let channels = self.ops.shape(x)[0];
        let h = self.norm(&module.layer("GroupNorm_0"), x);
        let mut map = |name: &str, scale| self.pixelwise(&module.layer(name), channels, channels, scale);
        let [query, key, value] = ["NIN_0", "NIN_1", "NIN_2"].map(|name| map(name, NIN_SCALE));
        let output = map("NIN_3", last);
        let output = self.scaled_layer(output, gain);
        let h = self.ops.attention(&h, &[query, key, value, output]);
        let x = self.scaled(x.clone(), gain);
        self.ops.add(&x, &h)
    }

    /// Group normalisation, SiLU and a convolution.
    fn head(&mut self, h: &O::T, channels: usize, init_scale: f64) -> O::T {
        let module = self.module();
        let h = self.norm(&module, h);
        let h = self.ops.silu(&h);
        let module = self.module();
        self.conv(&module, &h, channels, 3, init_scale)
    }

    /// To twice or half the size, without parameters.
    fn resample(&mut self, x: &O::T, way: Resample) -> O::T {
        match (way, self.config.fir) {
            (Up, false) => self.ops.upsample(x),
            (Down, false) => self.ops.halve(x),
            (Up, true) => {
                // Zeros between the pixels and then [1, 3, 3, 1] / 4, as a doubling and then [1, 2, 1] / 4:
                // (1 + z)(1 + 2 z + z^2) = 1 + 3 z + 3 z^2 + z^3.
                let doubled = self.ops.upsample(x);
                self.ops.filter(&doubled, &Kernel { taps: vec![0.25, 0.5, 0.25] }, Conv::pad(1))
            }
            (Down, true) => self.ops.filter(x, &fir(), Conv::pad(1).halving()),
        }
    }

    /// To twice or half the size: a module of its own, with a convolution to `channels` if asked for.
    fn resample_layer(&mut self, x: &O::T, way: Resample, channels: usize, convolve: bool) -> O::T {
        let module = self.module();
        if !convolve {
            return self.resample(x, way);
        }
        let module = module.layer(if self.config.fir { "Conv2d_0" } else { "Conv_0" });
        let layer = self.conv_layer(&module, channels, self.ops.shape(x)[0], 3, 1.0);
        let (weight, bias) = (&layer.weight, Some(&layer.bias));
        match (way, self.config.fir) {
            // The authors' own filtered upsampling with a convolution stops with an error (it reverses an axis
            // by a negative step), so no checkpoint depends on which side of the filter the convolution is.
            (Up, _) => self.resample_conv(x, Up, &layer),
            (Down, false) => self.ops.conv2d(x, weight, bias, Conv { stride: 2, before: 0, after: 1 }),
            (Down, true) => {
                let filtered = self.ops.filter(x, &fir(), Conv::pad(2));
                self.ops.conv2d(&filtered, weight, bias, Conv::pad(0).halving())
            }
        }
    }

    /// To twice or half the size, then a convolution of 3 x 3.
    fn resample_conv(&mut self, x: &O::T, way: Resample, layer: &Layer<O::P>) -> O::T {
        if way == Up && !self.config.fir {
            return self.ops.upsample_conv(x, layer);
        }
        let x = self.resample(x, way);
        self.ops.conv2d(&x, &layer.weight, Some(&layer.bias), Conv::pad(1))
    }

    /// The sum of two branches.
    fn sum(&mut self, x: &O::T, y: &O::T) -> O::T {
        let (gain, sum) = (self.gain(), self.ops.add(x, y));
        self.scaled(sum, gain)
    }

    /// What `skip_rescale` multiplies sums with.
    fn gain(&self) -> f64 {
        if self.config.skip_rescale { FRAC_1_SQRT_2 } else { 1.0 }
    }

    fn scaled(&mut self, x: O::T, gain: f64) -> O::T {
        if gain == 1.0 { x } else { self.ops.scale(&x, gain) }
    }

    fn scaled_layer(&mut self, layer: Layer<O::P>, gain: f64) -> Layer<O::P> {
        if gain == 1.0 {
            return layer;
        }
        Layer { weight: self.ops.scaled(&layer.weight, gain), bias: self.ops.scaled(&layer.bias, gain) }
    }

    fn norm(&mut self, module: &Module, x: &O::T) -> O::T {
        let channels = self.ops.shape(x)[0];
        let weight = module.param(self.ops, "weight", &[channels], Init::Constant(1.0));
        let bias = module.param(self.ops, "bias", &[channels], Init::Constant(0.0));
        self.ops.group_norm(x, (channels / 4).clamp(1, 32), &weight, &bias)
    }

    fn dense(&mut self, module: &Module, x: &O::T, features: usize) -> O::T {
        dense(self.ops, &module.0, x, features, 1.0)
    }

    /// A convolution that keeps the size.
    fn conv(&mut self, module: &Module, x: &O::T, channels: usize, size: usize, scale: f64) -> O::T {
        let Layer { weight, bias } = self.conv_layer(module, channels, self.ops.shape(x)[0], size, scale);
        self.ops.conv2d(x, &weight, Some(&bias), Conv::pad(size / 2))
    }

    fn conv_layer(
        &mut self,
        module: &Module,
        outputs: usize,
        inputs: usize,
        size: usize,
        scale: f64,
    ) -> Layer<O::P> {
        let shape = [outputs, inputs, size, size];
        Layer {
            weight: module.param(self.ops, "weight", &shape, Init::FanAverage(scale)),
            bias: module.param(self.ops, "bias", &[outputs], Init::Constant(0.0)),
        }
    }

    fn pixelwise(&mut self, module: &Module, inputs: usize, outputs: usize, scale: f64) -> Layer<O::P> {
        Layer {
            weight: module.param(self.ops, "W", &[inputs, outputs], Init::FanAverage(scale)),
            bias: module.param(self.ops, "b", &[outputs], Init::Constant(0.0)),
        }
    }

    fn module(&mut self) -> Module {
        let module = Module(format!("all_modules.{}", self.modules));
        self.modules += 1;
        module
    }
}

/// Initial scale of channel mixing that does not end a branch.
const NIN_SCALE: f64 = 0.1;

/// [1, 3, 3, 1] with sum 1.
fn fir() -> Kernel {
    Kernel { taps: [1.0, 3.0, 3.0, 1.0].map(|tap| tap / 8.0).to_vec() }
}

/// Sines and cosines of t at `width / 2` frequencies from 1 to 1 / 10000.
pub(super) fn positional<O: Ops>(ops: &mut O, t: &O::T, width: usize) -> O::T {
    let half = width / 2;
    let step = 10000f64.ln() / (half - 1) as f64;
    let frequencies = (0..half).map(|i| (-(i as f64) * step).exp() as f32).collect();
    let frequencies = ops.constant(frequencies);
    ops.waves(t, &frequencies, 1.0)
}

/// The linear layer `name` to `features`.
pub(super) fn dense<O: Ops>(ops: &mut O, name: &str, x: &O::T, features: usize, scale: f64) -> O::T {
    let inputs = ops.shape(x)[0];
    let weight = ops.param(&format!("{name}.weight"), &[features, inputs], Init::FanAverage(scale));
    let bias = ops.param(&format!("{name}.bias"), &[features], Init::Constant(0.0));
    ops.linear(x, &weight, Some(&bias))
}
