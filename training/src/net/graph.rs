//! Writes a network as an ONNX graph, in the forms that ONNX Runtime executes fastest.

use std::rc::Rc;

use psld::onnx::{Conv2d, Dim, ElementType, Graph, Tensor, Value};
use psld::{Error, Result};

use super::ops::{Conv, Init, Kernel, Layer, NORM_EPSILON, Ops};
use super::{Network, Weights};

/// The name of the output that describes what a classifier sees.
pub const FEATURES: &str = "features";

/// The names of a graph's ports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports<'a> {
    pub state: &'a str,
    pub time: &'a str,
    pub label: &'a str,
    pub output: &'a str,
}

/// The graph of `network` with `weights`, which are stored as `element`, as are state and output; times are
/// float32 in any case. bfloat16 is for storage: ONNX Runtime's CPU provider cannot compute in it.
pub(crate) fn graph(
    network: &Network,
    weights: &Weights,
    element: ElementType,
    ports: Ports,
) -> Result<Graph> {
    let Written { mut g, output, features, .. } = write(network, weights, element, ports)?;
    let value = g.cast(output.value, element);
    g.output(ports.output, value, &dims(&output.shape));
    if let Some(features) = features {
        let value = g.cast(features.value, element);
        g.output(FEATURES, value, &dims(&features.shape));
    }
    Ok(g)
}

/// The graph of the gradient in the state of log p(label | state, time), `network` being a classifier that gives logits.
/// For the label that is one past the classes, "no class", it is 0.
pub(crate) fn gradient(
    network: &Network,
    weights: &Weights,
    element: ElementType,
    ports: Ports,
) -> Result<Graph> {
    let Written { mut g, z, output, .. } = write(network, weights, element, ports)?;
    let y = g.input(ports.label, ElementType::I64, &dims(&[]));
    // Probabilities, and their logarithms, in float32 in any case.
    let logits = g.cast(output.value, ElementType::F32);
    let log_probabilities = g.log_softmax(logits, -1);
    let classes: Vec<i64> = (0..).take(output.shape[0]).collect();
    let classes = g.constant(&[1, classes.len()], &classes);
    let y = g.unsqueeze(y, &[1]);
    let chosen = g.equal(y, classes);
    let chosen = g.cast(chosen, ElementType::F32);
    let gradient = g.gradient(log_probabilities, chosen, z.value);
    let gradient = g.cast(gradient, element);
    g.output(ports.output, gradient, &dims(&z.shape));
    Ok(g)
}

/// [batch, shape...]
fn dims(shape: &[usize]) -> Vec<Dim> {
    std::iter::once("batch".into()).chain(shape.iter().map(|&dim| dim.into())).collect()
}

/// A network in a graph that has no outputs yet.
struct Written {
    g: Graph,
    z: Map,
    output: Map,
    features: Option<Map>,
}

fn write(network: &Network, weights: &Weights, element: ElementType, ports: Ports) -> Result<Written> {
    network.check(weights)?;
    let compute = match element {
        ElementType::F32 | ElementType::F16 => element,
        ElementType::Bf16 => ElementType::F32,
        other => {
            let message = format!("a network is exported as float32, float16 or bfloat16, not {other}");
            return Err(Error::argument(message));
        }
    };
    let config = network.config();
    let mut g = Graph::new("network");
    let z = g.input(ports.state, element, &dims(&config.state_shape()));
    let t = g.input(ports.time, ElementType::F32, &dims(&[]));
    let y = (config.classes() > 0).then(|| g.input(ports.label, ElementType::I64, &dims(&[])));
    let z = Map { value: g.cast(z, compute), shape: config.state_shape() };
    let scalar = |value| Map { value, shape: Vec::new() };
    let mut ops = GraphOps { g, weights, element, compute, features: None, error: None };
    let output = network.build(&mut ops, z.clone(), scalar(t), y.map(scalar));
    match ops.error {
        Some(error) => Err(error),
        None => Ok(Written { g: ops.g, z, output, features: ops.features }),
    }
}

struct GraphOps<'a> {
    g: Graph,
    weights: &'a Weights,
    /// What weights are stored as.
    element: ElementType,
    compute: ElementType,
    features: Option<Map>,
    error: Option<Error>,
}

/// A tensor and the shape of a sample of it.
#[derive(Clone, Debug)]
struct Map {
    value: Value,
    shape: Vec<usize>,
}

impl Map {
    fn with(&self, value: Value) -> Self {
        Self { value, shape: self.shape.clone() }
    }
}

/// A weight that is not yet in the graph: layers fold what they can into it first.
#[derive(Clone, Debug)]
struct Weight {
    name: String,
    shape: Vec<usize>,
    values: Rc<Vec<f64>>,
}

impl Weight {
    fn new(name: impl Into<String>, shape: &[usize], values: Vec<f64>) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), values: Rc::new(values) }
    }

    fn scaled(&self, gain: f64) -> Self {
        Self::new(&self.name, &self.shape, self.values.iter().map(|value| gain * value).collect())
    }

    fn reshaped(&self, shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), ..self.clone() }
    }

    /// Of a matrix.
    fn transposed(&self) -> Self {
        let (rows, columns) = (self.shape[0], self.shape[1]);
        let values = (0..rows * columns).map(|i| self.values[i % rows * columns + i / rows]).collect();
        Self::new(&self.name, &[columns, rows], values)
    }

    /// The product of matrices; a vector is a matrix of one row.
    fn times(&self, other: &Self) -> Self {
        let (inner, columns) = (other.shape[0], other.shape[1]);
        let mut values = vec![0.0; self.values.len() / inner * columns];
        for (row, out) in self.values.chunks(inner).zip(values.chunks_mut(columns)) {
            for (a, row) in row.iter().zip(other.values.chunks(columns)) {
                out.iter_mut().zip(row).for_each(|(out, b)| *out += a * b);
            }
        }
        let rows = &self.shape[..self.shape.len() - 1];
        Self::new(&self.name, &[rows, &[columns]].concat(), values)
    }

    fn plus(&self, other: &Self) -> Self {
        let sum = self.values.iter().zip(other.values.iter()).map(|(a, b)| a + b);
        Self::new(&self.name, &self.shape, sum.collect())
    }

    /// One behind the other, along the first dimension.
    fn joined(name: &str, parts: [&Self; 2]) -> Self {
        let values: Vec<f64> = parts.iter().flat_map(|part| part.values.iter().copied()).collect();
        let mut shape = parts[0].shape.clone();
        shape[0] = parts.iter().map(|part| part.shape[0]).sum();
        Self::new(name, &shape, values)
    }
}

impl GraphOps<'_> {
    /// Puts `weight` into the graph.
    fn place(&mut self, weight: &Weight, shape: &[usize]) -> Value {
        let stored = self.store(weight, shape, self.element);
        self.g.cast(stored, self.compute)
    }

    fn store(&mut self, weight: &Weight, shape: &[usize], element: ElementType) -> Value {
        match Tensor::convert(element, shape, &weight.values) {
            Ok(tensor) => self.g.parameter(&weight.name, tensor),
            Err(error) => {
                self.error.get_or_insert(error.context(format!("parameter {}", weight.name)));
                self.g.constant_as(element, &[], &[0.0])
            }
        }
    }

    fn convolution(
        &mut self,
        x: &Map,
        weight: &Weight,
        bias: Option<&Weight>,
        how: Conv,
        groups: usize,
    ) -> Map {
        let kernel = weight.shape[2];
        let [height, width] = [x.shape[1], x.shape[2]].map(|size| how.size(size, kernel).unwrap_or(0));
        let pads = [how.before, how.before, how.after, how.after];
        let form = Conv2d { stride: how.stride, pads, groups };
        let (weights, bias) =
            (self.place(weight, &weight.shape), bias.map(|bias| self.place(bias, &bias.shape)));
        let value = self.g.conv2d(x.value, weights, bias, form);
        Map { value, shape: vec![weight.shape[0], height, width] }
    }
}

impl Ops for GraphOps<'_> {
    type T = Map;
    type P = Weight;

    fn param(&mut self, name: &str, shape: &[usize], _: Init) -> Weight {
        Weight::new(name, shape, self.weights[name].iter().map(|&value| value.into()).collect())
    }

    fn constant(&mut self, values: Vec<f32>) -> Weight {
        Weight::new("frequencies", &[values.len()], values.into_iter().map(f64::from).collect())
    }

    fn scaled(&mut self, p: &Weight, gain: f64) -> Weight {
        p.scaled(gain)
    }

    fn sum(&mut self, p: &Weight, q: &Weight) -> Weight {
        p.plus(q)
    }

    fn shape(&self, x: &Map) -> Vec<usize> {
        x.shape.clone()
    }

    fn conv2d(&mut self, x: &Map, weight: &Weight, bias: Option<&Weight>, how: Conv) -> Map {
        self.convolution(x, weight, bias, how, 1)
    }

    fn linear(&mut self, x: &Map, weight: &Weight, bias: Option<&Weight>) -> Map {
        let (weights, bias) =
            (self.place(weight, &weight.shape), bias.map(|bias| self.place(bias, &bias.shape)));
        Map { value: self.g.linear(x.value, weights, bias), shape: vec![weight.shape[0]] }
    }

    /// A convolution with a kernel of one pixel.
    fn pixelwise(&mut self, x: &Map, map: &Layer<Weight>) -> Map {
        let weight = map.weight.transposed();
        let weight = weight.reshaped(&[weight.shape[0], weight.shape[1], 1, 1]);
        self.convolution(x, &weight, Some(&map.bias), Conv::pad(0), 1)
    }

    fn group_norm(&mut self, x: &Map, groups: usize, weight: &Weight, bias: &Weight) -> Map {
        let shape = [x.shape[0], 1, 1];
        let (scale, bias) = (self.place(weight, &shape), self.place(bias, &shape));
        x.with(self.g.group_norm(x.value, groups, &x.shape, scale, bias, NORM_EPSILON as f32))
    }

    /// With maps x -> x W + b of each pixel, in two products less than the definition:
    /// * (x W_q + b_q) . (y W_k + b_k) is x (W_q W_k^T) . y + b_q W_k^T . y, up to what is the same for all y, which
    ///   a softmax over y does not see. So the key is y itself, and 1 / sqrt C goes into the query's map.
    /// * Weights of a mean sum to 1, so a mean of mapped values is the map of their mean, and so is its bias: the
    ///   output's map goes into the value's.
    fn attention(&mut self, x: &Map, [query, key, value, output]: &[Layer<Weight>; 4]) -> Map {
        let (channels, pixels) = (x.shape[0] as i64, (x.shape[1] * x.shape[2]) as i64);
        let gain = 1.0 / (channels as f64).sqrt();
        let back = key.weight.transposed();
        let (query, query_bias) =
            (query.weight.times(&back).scaled(gain), query.bias.times(&back).scaled(gain));
        let value_bias = value.bias.times(&output.weight).plus(&output.bias);
        let value = value.weight.times(&output.weight);
        let scope = query.name.trim_end_matches(".NIN_0.W");
        let weight = Weight::joined(
            &format!("{scope}.query_value.weight"),
            [&query.transposed(), &value.transposed()],
        );
        let weight = weight.reshaped(&[weight.shape[0], weight.shape[1], 1, 1]);
        let bias = Weight::joined(&format!("{scope}.query_value.bias"), [&query_bias, &value_bias]);
        let mapped = self.convolution(x, &weight, Some(&bias), Conv::pad(0), 1);
        let g = &mut self.g;
        let mapped = g.reshape(mapped.value, &[0, 2 * channels, pixels]);
        let [query, value] = g.split(mapped, 1, [x.shape[0]; 2]);
        let key = g.reshape(x.value, &[0, channels, pixels]);
        // ONNX Runtime folds both transpositions into the products.
        let query = g.transpose(query, &[0, 2, 1]);
        let scores = g.matmul(query, key);
        let weights = g.softmax(scores, -1);
        let weights = g.transpose(weights, &[0, 2, 1]);
        let mixed = g.matmul(value, weights);
        let shape: Vec<_> = std::iter::once(0).chain(x.shape.iter().map(|&dim| dim as i64)).collect();
        x.with(g.reshape(mixed, &shape))
    }

    fn silu(&mut self, x: &Map) -> Map {
        x.with(self.g.silu(x.value))
    }

    fn add(&mut self, x: &Map, y: &Map) -> Map {
        x.with(self.g.add(x.value, y.value))
    }

    /// A pass over `x`. That of `skip_rescale` could go into the weights of what is added to `x` and into the next
    /// norm's epsilon; without all fifteen of them `small` is less than 1 % faster.
    fn scale(&mut self, x: &Map, gain: f64) -> Map {
        x.with(self.g.mul(x.value, gain))
    }

    fn shift(&mut self, x: &Map, by: &Map) -> Map {
        let by = self.g.reshape(by.value, &[0, by.shape[0] as i64, 1, 1]);
        x.with(self.g.add(x.value, by))
    }

    fn concat(&mut self, x: &Map, y: &Map) -> Map {
        let mut shape = x.shape.clone();
        shape[0] += y.shape[0];
        Map { value: self.g.concat(&[x.value, y.value], 1), shape }
    }

    fn reshape(&mut self, x: &Map, shape: &[usize]) -> Map {
        let dims: Vec<_> = std::iter::once(0).chain(shape.iter().map(|&dim| dim as i64)).collect();
        Map { value: self.g.reshape(x.value, &dims), shape: shape.to_vec() }
    }

    fn dropout(&mut self, x: &Map) -> Map {
        x.clone()
    }

    fn upsample(&mut self, x: &Map) -> Map {
        let shape = vec![x.shape[0], 2 * x.shape[1], 2 * x.shape[2]];
        Map { value: self.g.upsample_nearest(x.value, 2), shape }
    }

    /// In a doubled image three neighbours are two different pixels. So the outputs at even and odd places, in both
    /// directions, are four convolutions of the small image by 2 x 2: 16 products instead of 36.
    fn upsample_conv(&mut self, x: &Map, Layer { weight, bias }: &Layer<Weight>) -> Map {
        // Which of the two pixels each of the three taps falls on, for an even place and an odd one.
        const PIXEL: [[usize; 3]; 2] = [[0, 1, 1], [0, 0, 1]];
        let (outputs, inputs) = (weight.shape[0], weight.shape[1]);
        let stored_bias = self.place(bias, &bias.shape);
        let mut quarters = Vec::new();
        for (row, column) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let mut values = vec![0.0; outputs * inputs * 4];
            for (at, value) in weight.values.iter().enumerate() {
                let (map, tap) = (at / 9, at % 9);
                values[4 * map + 2 * PIXEL[row][tap / 3] + PIXEL[column][tap % 3]] += value;
            }
            let name = format!("{}.{row}{column}", weight.name);
            let quarter = Weight::new(name, &[outputs, inputs, 2, 2], values);
            let stored = self.place(&quarter, &quarter.shape);
            let how = Conv2d { pads: [1 - row, 1 - column, row, column], ..Conv2d::default() };
            quarters.push(self.g.conv2d(x.value, stored, Some(stored_bias), how));
        }
        let joined = self.g.concat(&quarters, 1);
        let value = self.g.node("DepthToSpace", &[joined], &[("blocksize", 2.into())]);
        Map { value, shape: vec![outputs, 2 * x.shape[1], 2 * x.shape[2]] }
    }

    fn halve(&mut self, x: &Map) -> Map {
        let shape = vec![x.shape[0], x.shape[1] / 2, x.shape[2] / 2];
        Map { value: self.g.average_pool(x.value, 2), shape }
    }

    fn filter(&mut self, x: &Map, kernel: &Kernel, how: Conv) -> Map {
        let (channels, size) = (x.shape[0], kernel.taps.len());
        let values: Vec<f64> = (0..channels).flat_map(|_| kernel.values()).collect();
        let weights = self.g.constant_as(self.compute, &[channels, 1, size, size], &values);
        let pads = [how.before, how.before, how.after, how.after];
        let form = Conv2d { stride: how.stride, pads, groups: channels };
        let value = self.g.conv2d(x.value, weights, None, form);
        let [height, width] = [x.shape[1], x.shape[2]].map(|side| how.size(side, size).unwrap_or(0));
        Map { value, shape: vec![channels, height, width] }
    }

    fn ln(&mut self, t: &Map) -> Map {
        t.with(self.g.log(t.value))
    }

    fn waves(&mut self, t: &Map, frequencies: &Weight, factor: f64) -> Map {
        let count = frequencies.shape[0];
        let frequencies = self.store(frequencies, &[1, count], ElementType::F32);
        let t = self.g.unsqueeze(t.value, &[1]);
        let mut angles = self.g.mul(t, frequencies);
        if factor != 1.0 {
            angles = self.g.mul(angles, factor);
        }
        let parts = [self.g.sin(angles), self.g.cos(angles)];
        let waves = self.g.concat(&parts, 1);
        Map { value: self.g.cast(waves, self.compute), shape: vec![2 * count] }
    }

    fn embed(&mut self, labels: &Map, table: &Weight) -> Map {
        let rows = self.place(table, &table.shape);
        Map { value: self.g.gather(rows, labels.value, 0), shape: vec![table.shape[1]] }
    }

    fn features(&mut self, x: &Map) {
        let value = self.g.node("GlobalAveragePool", &[x.value], &[]);
        let value = self.g.reshape(value, &[0, x.shape[0] as i64]);
        self.features = Some(Map { value, shape: vec![x.shape[0]] });
    }
}
