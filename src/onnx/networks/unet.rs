//! A U-Net of random weights.

use crate::onnx::{Conv2d, Dim, ElementType, Graph, Model, Tensor, Value};
use crate::spec::SPEC_KEY;
use crate::{Error, Result};

/// An ordinary U-Net of random weights: residual blocks with group normalisation and SiLU, one head of
/// self-attention at one resolution, a time embedding that shifts every block.
///
/// It has the operators, the cost and the memory traffic of a trained network. What it computes means
/// nothing but is harmless: `eps = skip . z + small(z, t)`, smooth, with activations of order 1. With a skip
/// gain of 1 / sqrt(stationary variance), eps is exact for pure noise up to the small part, so that a
/// sampler's state stays of order 1 from t = 1 to the end.
///
/// `Bf16` keeps weights and ports in bfloat16 and computes in float32, since ONNX Runtime's CPU provider has
/// no bfloat16 arithmetic; `F16` computes in float16, its time embedding in float32.
#[derive(Clone, Debug, PartialEq)]
pub struct UNet {
    /// Channels of the state.
    pub channels: usize,
    /// Gain from a state channel to eps, one for each output channel. Outputs are the last channels of the
    /// state: all of them, or the momentum half.
    pub skip: Vec<f64>,
    /// Height and width of the images.
    pub size: usize,
    /// Channels at full resolution, a multiple of 4.
    pub width: usize,
    /// Channels at each resolution, in units of `width`; each one is half as large as the one before.
    pub multipliers: Vec<usize>,
    /// Residual blocks at each resolution (one more on the way up).
    pub blocks: usize,
    /// The resolution with attention after its blocks; attention is in the middle in any case.
    pub attention: usize,
    /// Type of weights and ports.
    pub element: ElementType,
    /// Which random weights.
    pub seed: u64,
}

impl UNet {
    /// 36 million parameters on images of 3 x 32 x 32: the width, depth and attention of DDPM's CIFAR-10
    /// network, which those of PSLD start from. `k` is the number of blocks of the state: 1, or 2 with a
    /// momentum of mass 1/4.
    pub fn cifar10(k: usize) -> Self {
        Self {
            channels: 3 * k,
            skip: [[1.0; 3], [2.0; 3]].into_iter().take(k).flatten().collect(),
            size: 32,
            width: 128,
            multipliers: vec![1, 2, 2, 2],
            blocks: 2,
            attention: 16,
            element: ElementType::F32,
            seed: 0,
        }
    }

    /// The same kinds of layers, fewer and thinner: about 5 ms for 16 images on two cores, which is what a
    /// benchmark of everything outside the network needs.
    pub fn small(k: usize) -> Self {
        Self { width: 16, multipliers: vec![1, 1, 2], blocks: 0, attention: 8, ..Self::cifar10(k) }
    }

    /// The network, with `spec` as its `psld.spec`. The ports are `z [batch, channels, size, size]`,
    /// `t [batch]` and `eps`.
    pub fn network(&self, spec: &str) -> Result<Model> {
        self.validate()?;
        let mut g = Graph::new("u-net");
        let dims = |channels: usize| ["batch".into(), channels.into(), self.size.into(), self.size.into()];
        let z = g.input("z", self.element, &dims(self.channels));
        let t = g.input("t", self.element, &[Dim::from("batch")]);
        let eps = Writer { net: self, g: &mut g, random: SplitMix(self.seed) }.write(z, t)?;
        let eps = g.cast(eps, self.element);
        g.output("eps", eps, &dims(self.skip.len()));
        let mut model = g.finish()?;
        model.set_metadata(SPEC_KEY, spec);
        Ok(model)
    }

    fn validate(&self) -> Result<()> {
        let check = |holds: bool, rule: &str| {
            if holds { Ok(()) } else { Err(Error::argument(format!("u-net: {rule}"))) }
        };
        check(
            (1..=self.channels).contains(&self.skip.len()),
            "skip must have one gain for each output channel, at most one for each channel of the state",
        )?;
        check(self.width > 0 && self.width.is_multiple_of(4), "width must be a positive multiple of 4")?;
        check(
            !self.multipliers.is_empty() && !self.multipliers.contains(&0),
            "multipliers must name at least one resolution, and none can be 0",
        )?;
        let halvings = self.multipliers.len() as u32 - 1;
        check(
            self.size > 0
                && 1usize.checked_shl(halvings).is_some_and(|factor| self.size.is_multiple_of(factor)),
            "size must be divisible by 2 once for each resolution after the first",
        )?;
        // Far beyond any use, and small enough that the sizes of weights cannot overflow.
        let widest = self.multipliers.iter().max().and_then(|most| most.checked_mul(self.width));
        check(
            widest.is_some_and(|channels| channels <= 2048) && self.channels <= 2048,
            "no resolution, nor the state, can have more than 2048 channels",
        )?;
        check(self.size <= 4096 && self.blocks <= 64, "size can be at most 4096, and blocks at most 64")?;
        check(
            matches!(self.element, ElementType::F32 | ElementType::F16 | ElementType::Bf16),
            "element must be float32, float16 or bfloat16",
        )
    }
}

/// A feature map and its shape.
#[derive(Clone, Copy)]
struct Map {
    value: Value,
    channels: usize,
    size: usize,
}

struct Writer<'a> {
    net: &'a UNet,
    g: &'a mut Graph,
    random: SplitMix,
}

const NORM_EPSILON: f32 = 1e-6;

impl Writer<'_> {
    fn write(&mut self, z: Value, t: Value) -> Result<Value> {
        let net = self.net;
        let compute = self.compute();
        let z = self.g.cast(z, compute);
        let time = self.time_embedding(t)?;

        let state = Map { value: z, channels: net.channels, size: net.size };
        let mut h = self.conv("stem", state, net.width, 3, 1, 1.0)?;
        let mut skips = vec![h];
        for (level, &multiplier) in net.multipliers.iter().enumerate() {
            for block in 0..net.blocks {
                h = self.block(&format!("down{level}.{block}"), h, time, net.width * multiplier)?;
                if h.size == net.attention {
                    h = self.attention(&format!("down{level}.{block}.attention"), h)?;
                }
                skips.push(h);
            }
            if level + 1 < net.multipliers.len() {
                h = self.conv(&format!("down{level}.halve"), h, h.channels, 3, 2, 1.0)?;
                skips.push(h);
            }
        }
        h = self.block("middle.0", h, time, h.channels)?;
        h = self.attention("middle.attention", h)?;
        h = self.block("middle.1", h, time, h.channels)?;
        for (level, &multiplier) in net.multipliers.iter().enumerate().rev() {
            for block in 0..=net.blocks {
                if let Some(skip) = skips.pop() {
                    let value = self.g.concat(&[h.value, skip.value], 1);
                    h = Map { value, channels: h.channels + skip.channels, ..h };
                }
                h = self.block(&format!("up{level}.{block}"), h, time, net.width * multiplier)?;
                if h.size == net.attention {
                    h = self.attention(&format!("up{level}.{block}.attention"), h)?;
                }
            }
            if level > 0 {
                h = Map { value: self.g.upsample_nearest(h.value, 2), size: 2 * h.size, ..h };
                h = self.conv(&format!("up{level}.double"), h, h.channels, 3, 1, 1.0)?;
            }
        }
        h = self.norm("out.norm", h)?;
        h.value = self.g.silu(h.value);
        let outputs = net.skip.len();
        let small = self.conv("out", h, outputs, 3, 1, 0.1)?;

        let direct = self.g.slice(z, 1, (net.channels - outputs) as i64, net.channels as i64);
        let gains = self.parameter("skip", &[outputs, 1, 1], &net.skip)?;
        let direct = self.g.mul(direct, gains);
        Ok(self.g.add(direct, small.value))
    }

    /// Sines and cosines of t at rates from 1 to 100, in float32 since float16 has no digits left for an
    /// angle of 100, then two linear layers.
    fn time_embedding(&mut self, t: Value) -> Result<Value> {
        let half = self.net.width / 2;
        let rates: Vec<f32> =
            (0..half).map(|j| libm::pow(100.0, j as f64 / (half - 1) as f64) as f32).collect();
        let rates = self.g.constant(&[1, half], &rates);
        let t = self.g.cast(t, ElementType::F32);
        let t = self.g.unsqueeze(t, &[1]);
        let angle = self.g.mul(t, rates);
        let parts = [self.g.sin(angle), self.g.cos(angle)];
        let waves = self.g.concat(&parts, 1);
        let waves = self.g.cast(waves, self.compute());
        let wide = 4 * self.net.width;
        let hidden = self.linear("time.0", waves, 2 * half, wide)?;
        let hidden = self.g.silu(hidden);
        let embedding = self.linear("time.1", hidden, wide, wide)?;
        // Every block wants it through SiLU.
        Ok(self.g.silu(embedding))
    }

    fn block(&mut self, name: &str, x: Map, time: Value, channels: usize) -> Result<Map> {
        let mut h = self.norm(&format!("{name}.norm0"), x)?;
        h.value = self.g.silu(h.value);
        h = self.conv(&format!("{name}.conv0"), h, channels, 3, 1, 1.0)?;
        let shift = self.linear(&format!("{name}.time"), time, 4 * self.net.width, channels)?;
        let shift = self.g.reshape(shift, &[0, channels as i64, 1, 1]);
        h.value = self.g.add(h.value, shift);
        h = self.norm(&format!("{name}.norm1"), h)?;
        h.value = self.g.silu(h.value);
        h = self.conv(&format!("{name}.conv1"), h, channels, 3, 1, 1.0)?;
        let x = match x.channels == channels {
            true => x,
            false => self.conv(&format!("{name}.shortcut"), x, channels, 1, 1, 1.0)?,
        };
        self.average(x, h)
    }

    fn attention(&mut self, name: &str, x: Map) -> Result<Map> {
        let (channels, pixels) = (x.channels, x.size * x.size);
        let h = self.norm(&format!("{name}.norm"), x)?;
        let qkv = self.conv(&format!("{name}.qkv"), h, 3 * channels, 1, 1, 1.0)?;
        let qkv = self.g.reshape(qkv.value, &[0, 3 * channels as i64, pixels as i64]);
        let [query, key, value] = self.g.split(qkv, 1, [channels; 3]);
        // [batch, pixels, channels] x [batch, channels, pixels]; ONNX Runtime folds the transpositions into
        // the products.
        let query = self.g.transpose(query, &[0, 2, 1]);
        let scores = self.g.matmul(query, key);
        let scores = self.g.mul(scores, 1.0 / (channels as f64).sqrt());
        let weights = self.g.softmax(scores, -1);
        let value = self.g.transpose(value, &[0, 2, 1]);
        let mixed = self.g.matmul(weights, value);
        let mixed = self.g.transpose(mixed, &[0, 2, 1]);
        let value = self.g.reshape(mixed, &[0, channels as i64, x.size as i64, x.size as i64]);
        let h = self.conv(&format!("{name}.out"), Map { value, ..x }, channels, 1, 1, 1.0)?;
        self.average(x, h)
    }

    /// (x + h) / sqrt 2: the sum of two maps of order 1 is again of order 1.
    fn average(&mut self, x: Map, h: Map) -> Result<Map> {
        let sum = self.g.add(x.value, h.value);
        Ok(Map { value: self.g.mul(sum, std::f64::consts::FRAC_1_SQRT_2), ..h })
    }

    fn norm(&mut self, name: &str, x: Map) -> Result<Map> {
        // At least 4 channels a group and at most 32 groups, as NCSN++ has it; but groups must divide.
        let groups = (1..=(x.channels / 4).clamp(1, 32))
            .rev()
            .find(|&groups| x.channels.is_multiple_of(groups))
            .unwrap_or(1);
        let (mut scale, bias) = (self.random.values(x.channels, 0.1), self.random.values(x.channels, 0.1));
        scale.iter_mut().for_each(|scale| *scale += 1.0);
        let scale = self.parameter(&format!("{name}.scale"), &[x.channels, 1, 1], &scale)?;
        let bias = self.parameter(&format!("{name}.bias"), &[x.channels, 1, 1], &bias)?;
        let sample = [x.channels, x.size, x.size];
        let value = self.g.group_norm(x.value, groups, &sample, scale, bias, NORM_EPSILON);
        Ok(Map { value, ..x })
    }

    fn conv(
        &mut self,
        name: &str,
        x: Map,
        channels: usize,
        kernel: usize,
        stride: usize,
        gain: f64,
    ) -> Result<Map> {
        let fan_in = x.channels * kernel * kernel;
        let weight = self.random.values(channels * fan_in, gain / (fan_in as f64).sqrt());
        let dims = [channels, x.channels, kernel, kernel];
        let weight = self.parameter(&format!("{name}.weight"), &dims, &weight)?;
        let bias = self.random.values(channels, 0.1 * gain);
        let bias = self.parameter(&format!("{name}.bias"), &[channels], &bias)?;
        let how = Conv2d { stride, ..Conv2d::same(kernel) };
        let value = self.g.conv2d(x.value, weight, Some(bias), how);
        Ok(Map { value, channels, size: x.size / stride })
    }

    fn linear(&mut self, name: &str, x: Value, inputs: usize, outputs: usize) -> Result<Value> {
        let weight = self.random.values(outputs * inputs, 1.0 / (inputs as f64).sqrt());
        let weight = self.parameter(&format!("{name}.weight"), &[outputs, inputs], &weight)?;
        let bias = self.random.values(outputs, 0.1);
        let bias = self.parameter(&format!("{name}.bias"), &[outputs], &bias)?;
        Ok(self.g.linear(x, weight, Some(bias)))
    }

    fn parameter(&mut self, name: &str, dims: &[usize], values: &[f64]) -> Result<Value> {
        let stored = self.g.parameter(name, Tensor::convert(self.net.element, dims, values)?);
        Ok(self.g.cast(stored, self.compute()))
    }

    /// The type that the network computes in.
    fn compute(&self) -> ElementType {
        match self.net.element {
            ElementType::Bf16 => ElementType::F32,
            other => other,
        }
    }
}

/// The SplitMix64 generator: weights need no more, and the same seed gives the same file for ever.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Uniform numbers of mean 0 and standard deviation `std`.
    fn values(&mut self, count: usize, std: f64) -> Vec<f64> {
        let width = std * 12f64.sqrt();
        (0..count).map(|_| ((self.next() >> 11) as f64 / (1u64 << 53) as f64 - 0.5) * width).collect()
    }
}
