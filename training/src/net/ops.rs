//! The operations that networks are written in.

/// What a network is made of. A network is one generic function over this trait; each implementation gives it
/// a meaning:
/// * `Declare` lists its parameters and checks its shapes;
/// * `Torch` computes it;
/// * `GraphOps` writes it as an ONNX graph.
///
/// Shapes are those of one sample: the batch dimension, always the first, is never spoken of.
pub trait Ops {
    /// A tensor with a batch dimension; cloning is cheap and shares.
    type T: Clone;
    /// A weight, without a batch dimension.
    type P: Clone;

    /// The parameter `name`.
    fn param(&mut self, name: &str, shape: &[usize], init: Init) -> Self::P;
    /// A constant vector.
    fn constant(&mut self, values: Vec<f32>) -> Self::P;
    /// `gain * p`: what scales a layer's output is best applied to its weights.
    fn scaled(&mut self, p: &Self::P, gain: f64) -> Self::P;
    /// `p + q`.
    fn sum(&mut self, p: &Self::P, q: &Self::P) -> Self::P;
    /// The shape of a sample of `x`.
    fn shape(&self, x: &Self::T) -> Vec<usize>;

    /// Convolution of [C, H, W] with `weight` [out, C / groups, kernel, kernel].
    fn conv2d(&mut self, x: &Self::T, weight: &Self::P, bias: Option<&Self::P>, how: Conv) -> Self::T;
    /// `weight x + bias` of [in], with `weight` [out, in].
    fn linear(&mut self, x: &Self::T, weight: &Self::P, bias: Option<&Self::P>) -> Self::T;
    /// The same linear map, its weight [in, out], at every pixel of [in, H, W].
    fn pixelwise(&mut self, x: &Self::T, map: &Layer<Self::P>) -> Self::T;
    /// Each of `groups` groups of channels to mean 0 and variance 1, then times `weight` plus `bias`, by channel.
    fn group_norm(&mut self, x: &Self::T, groups: usize, weight: &Self::P, bias: &Self::P) -> Self::T;
    /// Every pixel becomes a mean of all pixels' values, weighted by the softmax of query . key / sqrt C, then
    /// goes through the last map; the maps are those of query, key, value and output.
    fn attention(&mut self, x: &Self::T, maps: &[Layer<Self::P>; 4]) -> Self::T;

    /// `x sigmoid(x)`.
    fn silu(&mut self, x: &Self::T) -> Self::T;
    /// `x + y`.
    fn add(&mut self, x: &Self::T, y: &Self::T) -> Self::T;
    /// `gain * x`.
    fn scale(&mut self, x: &Self::T, gain: f64) -> Self::T;
    /// [C, H, W] plus [C], by channel.
    fn shift(&mut self, x: &Self::T, by: &Self::T) -> Self::T;
    /// One after the other, along the first dimension of a sample.
    fn concat(&mut self, x: &Self::T, y: &Self::T) -> Self::T;
    /// Another shape.
    fn reshape(&mut self, x: &Self::T, shape: &[usize]) -> Self::T;
    /// In training, zeroes a share of the features and enlarges the others.
    fn dropout(&mut self, x: &Self::T) -> Self::T;

    /// Each pixel twice, in both directions.
    fn upsample(&mut self, x: &Self::T) -> Self::T;
    /// [`upsample`](Self::upsample), then a convolution of 3 x 3 that keeps the size.
    fn upsample_conv(&mut self, x: &Self::T, layer: &Layer<Self::P>) -> Self::T {
        let doubled = self.upsample(x);
        self.conv2d(&doubled, &layer.weight, Some(&layer.bias), Conv::pad(1))
    }
    /// The mean of each 2 x 2 block.
    fn halve(&mut self, x: &Self::T) -> Self::T;
    /// `kernel`, square and symmetric, over each channel by itself.
    fn filter(&mut self, x: &Self::T, kernel: &Kernel, how: Conv) -> Self::T;

    /// The natural logarithm of times.
    fn ln(&mut self, t: &Self::T) -> Self::T;
    /// [sin, cos] of `factor t f` for times `t` and all frequencies `f`. Computed in float32 whatever the
    /// network computes in: the angles reach thousands.
    fn waves(&mut self, t: &Self::T, frequencies: &Self::P, factor: f64) -> Self::T;
    /// The row of `table` that each label names.
    fn embed(&mut self, labels: &Self::T, table: &Self::P) -> Self::T;

    /// Says that the means of `x` [C, H, W] over its pixels describe what the network sees: a further output, where
    /// there can be one.
    fn features(&mut self, _x: &Self::T) {}
}

/// What a layer learns.
#[derive(Clone, Debug)]
pub struct Layer<P> {
    /// Of a convolution [out, in, kernel, kernel]; of a linear map [out, in]; of a map of every pixel [in, out].
    pub weight: P,
    /// [out].
    pub bias: P,
}

/// A filter: the outer product of `taps` with itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// In one dimension.
    pub taps: Vec<f64>,
}

impl Kernel {
    /// The outer product, row by row, for one channel.
    pub fn values(&self) -> Vec<f64> {
        self.taps.iter().flat_map(|a| self.taps.iter().map(move |b| a * b)).collect()
    }
}

/// How a convolution moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Step, in both directions.
    pub stride: usize,
    /// Zeros before the first row and column.
    pub before: usize,
    /// Zeros behind the last ones.
    pub after: usize,
}

impl Conv {
    /// Padding on all sides.
    pub fn pad(pad: usize) -> Self {
        Self { stride: 1, before: pad, after: pad }
    }

    /// Every second place only.
    pub fn halving(self) -> Self {
        Self { stride: 2, ..self }
    }

    /// Height or width of the result, if the kernel fits at all.
    pub fn size(self, size: usize, kernel: usize) -> Option<usize> {
        (size + self.before + self.after).checked_sub(kernel).map(|room| room / self.stride + 1)
    }
}

/// How a parameter begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All the same.
    Constant(f64),
    /// Uniform with mean 0 and variance `scale / n`, n the mean number of inputs and outputs of the layer. 0
    /// counts as 1e-10: zero, but not so that gradients vanish too.
    FanAverage(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// The same, and it is never trained.
    Fixed(f64),
}

impl Init {
    /// Whether training changes it.
    pub fn trained(self) -> bool {
        !matches!(self, Self::Fixed(_))
    }
}

/// The constant of every group normalisation.
pub const NORM_EPSILON: f64 = 1e-6;
