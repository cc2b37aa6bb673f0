//! Computes networks in double precision, by the definitions and with no thought of speed.

use std::rc::Rc;

use psld_training::net::{Conv, Init, Kernel, Layer, NORM_EPSILON, Ops};

use super::Case;

/// The output of `case`.
pub fn output(case: &Case) -> Vec<f64> {
    outputs(case).0
}

/// The output, and the features of a classifier.
pub fn outputs(case: &Case) -> (Vec<f64>, Vec<f64>) {
    outputs_at(case, case.z.iter().map(|&value| value.into()).collect(), case.y.as_deref())
}

/// The same at another state, and with these labels.
fn outputs_at(case: &Case, z: Vec<f64>, y: Option<&[i64]>) -> (Vec<f64>, Vec<f64>) {
    let sample = case.network.config().state_shape();
    let batch = |shape: Vec<usize>, data: Vec<f64>| Batch { count: case.batch, shape, data: Rc::new(data) };
    let t = case.t.iter().map(|&value| value.into()).collect();
    let y = y.map(|y| batch(vec![], y.iter().map(|&label| label as f64).collect()));
    let mut ops = Reference { case, features: Vec::new() };
    let output = case.network.build(&mut ops, batch(sample, z), batch(vec![], t), y);
    (output.data.to_vec(), ops.features)
}

/// Of a classifier, log p(y | z, t) of each sample of `case`, for its labels, at the states `z`.
pub fn log_probabilities(case: &Case, z: Vec<f64>) -> Vec<f64> {
    let logits = outputs_at(case, z, None).0;
    let labels = case.y.as_ref().expect("a case of a classifier's gradient has labels");
    let log_probability = |(logits, &label): (&[f64], &i64)| {
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|x| (x - largest).exp()).sum();
        logits[label as usize] - largest - sum.ln()
    };
    logits.chunks(logits.len() / case.batch).zip(labels).map(log_probability).collect()
}

struct Reference<'a> {
    case: &'a Case,
    features: Vec<f64>,
}

#[derive(Clone)]
struct Batch {
    count: usize,
    shape: Vec<usize>,
    data: Rc<Vec<f64>>,
}

impl Batch {
    fn samples(&self) -> std::slice::ChunksExact<'_, f64> {
        self.data.chunks_exact(self.shape.iter().product::<usize>().max(1))
    }

    fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self { data: Rc::new(self.data.iter().map(|&x| f(x)).collect()), ..self.clone() }
    }

    /// Each sample turned into one of `shape`.
    fn each(&self, shape: Vec<usize>, f: impl Fn(&[f64]) -> Vec<f64>) -> Self {
        Self { count: self.count, shape, data: Rc::new(self.samples().flat_map(f).collect()) }
    }

    fn with(&self, other: &Self, shape: Vec<usize>, f: impl Fn(&[f64], &[f64]) -> Vec<f64>) -> Self {
        let data = self.samples().zip(other.samples()).flat_map(|(a, b)| f(a, b));
        Self { count: self.count, shape, data: Rc::new(data.collect()) }
    }

    fn pixels(&self) -> usize {
        self.shape[1] * self.shape[2]
    }
}

/// A weight.
#[derive(Clone)]
struct Array {
    shape: Vec<usize>,
    data: Rc<Vec<f64>>,
}

fn dot(a: impl Iterator<Item = f64>, b: impl Iterator<Item = f64>) -> f64 {
    a.zip(b).map(|(a, b)| a * b).sum()
}

/// Output (o, row, column) of a convolution whose kernel for input channel c, if any, is `kernel(o, c)`.
fn convolve<'a>(
    x: &Batch,
    channels: usize,
    size: usize,
    how: Conv,
    kernel: impl Fn(usize, usize) -> Option<&'a [f64]>,
    bias: Option<&Array>,
) -> Batch {
    let (inputs, height, width) = (x.shape[0], x.shape[1], x.shape[2]);
    let (rows, columns) = (how.size(height, size).unwrap(), how.size(width, size).unwrap());
    x.each(vec![channels, rows, columns], |sample| {
        let mut out = Vec::new();
        for o in 0..channels {
            for at in 0..rows * columns {
                let (top, left) = (at / columns * how.stride, at % columns * how.stride);
                let mut sum = bias.map_or(0.0, |bias| bias.data[o]);
                for c in 0..inputs {
                    let Some(kernel) = kernel(o, c) else { continue };
                    for (i, tap) in kernel.iter().enumerate() {
                        let (row, column) = (top + i / size, left + i % size);
                        let inside = |place: usize, end| (how.before..how.before + end).contains(&place);
                        if inside(row, height) && inside(column, width) {
                            let pixel = (row - how.before) * width + column - how.before;
                            sum += tap * sample[c * height * width + pixel];
                        }
                    }
                }
                out.push(sum);
            }
        }
        out
    })
}

impl Ops for Reference<'_> {
    type T = Batch;
    type P = Array;

    fn param(&mut self, name: &str, shape: &[usize], _: Init) -> Array {
        let data = self.case.weights[name].iter().map(|&value| value.into()).collect();
        Array { shape: shape.to_vec(), data: Rc::new(data) }
    }

    fn constant(&mut self, values: Vec<f32>) -> Array {
        Array { shape: vec![values.len()], data: Rc::new(values.into_iter().map(f64::from).collect()) }
    }

    fn scaled(&mut self, p: &Array, gain: f64) -> Array {
        Array { data: Rc::new(p.data.iter().map(|x| gain * x).collect()), ..p.clone() }
    }

    fn sum(&mut self, p: &Array, q: &Array) -> Array {
        let sum = p.data.iter().zip(q.data.iter()).map(|(p, q)| p + q);
        Array { data: Rc::new(sum.collect()), ..p.clone() }
    }

    fn shape(&self, x: &Batch) -> Vec<usize> {
        x.shape.clone()
    }

    fn conv2d(&mut self, x: &Batch, weight: &Array, bias: Option<&Array>, how: Conv) -> Batch {
        let (inputs, size) = (weight.shape[1], weight.shape[2]);
        let area = size * size;
        let kernel =
            |o: usize, c: usize| weight.data.get((o * inputs + c) * area..).map(|rest| &rest[..area]);
        convolve(x, weight.shape[0], size, how, kernel, bias)
    }

    fn linear(&mut self, x: &Batch, weight: &Array, bias: Option<&Array>) -> Batch {
        let (outputs, inputs) = (weight.shape[0], weight.shape[1]);
        x.each(vec![outputs], |sample| {
            let rows = weight.data.chunks(inputs).enumerate();
            rows.map(|(o, row)| {
                dot(row.iter().copied(), sample.iter().copied()) + bias.map_or(0.0, |bias| bias.data[o])
            })
            .collect()
        })
    }

    fn pixelwise(&mut self, x: &Batch, map: &Layer<Array>) -> Batch {
        let (inputs, outputs, pixels) = (map.weight.shape[0], map.weight.shape[1], x.pixels());
        x.each(vec![outputs, x.shape[1], x.shape[2]], |sample| {
            let value = |at: usize| {
                let (o, pixel) = (at / pixels, at % pixels);
                let weights = (0..inputs).map(|c| map.weight.data[c * outputs + o]);
                dot(weights, (0..inputs).map(|c| sample[c * pixels + pixel])) + map.bias.data[o]
            };
            (0..outputs * pixels).map(value).collect()
        })
    }

    fn group_norm(&mut self, x: &Batch, groups: usize, weight: &Array, bias: &Array) -> Batch {
        let pixels = x.pixels();
        let group = x.shape[0] / groups * pixels;
        x.each(x.shape.clone(), |sample| {
            let mut out = Vec::new();
            for values in sample.chunks(group) {
                let mean = values.iter().sum::<f64>() / group as f64;
                let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / group as f64;
                out.extend(values.iter().map(|x| (x - mean) / (variance + NORM_EPSILON).sqrt()));
            }
            let scaled = out.iter().enumerate();
            scaled.map(|(i, x)| weight.data[i / pixels] * x + bias.data[i / pixels]).collect()
        })
    }

    fn attention(&mut self, x: &Batch, maps: &[Layer<Array>; 4]) -> Batch {
        let (channels, pixels) = (x.shape[0], x.pixels());
        let [query, key, value] = [0, 1, 2].map(|i| self.pixelwise(x, &maps[i]));
        let mut mixed = Vec::new();
        for ((query, key), value) in query.samples().zip(key.samples()).zip(value.samples()) {
            let at = |data: &[f64], pixel: usize| -> Vec<f64> {
                (0..channels).map(|c| data[c * pixels + pixel]).collect()
            };
            let mut out = vec![0.0; channels * pixels];
            for from in 0..pixels {
                let query = at(query, from);
                let score =
                    |to| dot(query.iter().copied(), at(key, to).into_iter()) / (channels as f64).sqrt();
                let weights: Vec<_> = (0..pixels).map(|to| f64::exp(score(to))).collect();
                let total: f64 = weights.iter().sum();
                for c in 0..channels {
                    let values = value[c * pixels..][..pixels].iter().copied();
                    out[c * pixels + from] = dot(weights.iter().copied(), values) / total;
                }
            }
            mixed.extend(out);
        }
        self.pixelwise(&Batch { data: Rc::new(mixed), ..x.clone() }, &maps[3])
    }

    fn silu(&mut self, x: &Batch) -> Batch {
        x.map(|x| x / (1.0 + (-x).exp()))
    }

    fn add(&mut self, x: &Batch, y: &Batch) -> Batch {
        x.with(y, x.shape.clone(), |x, y| x.iter().zip(y).map(|(x, y)| x + y).collect())
    }

    fn scale(&mut self, x: &Batch, gain: f64) -> Batch {
        x.map(|x| gain * x)
    }

    fn shift(&mut self, x: &Batch, by: &Batch) -> Batch {
        let pixels = x.pixels();
        x.with(by, x.shape.clone(), |x, by| x.iter().enumerate().map(|(i, x)| x + by[i / pixels]).collect())
    }

    fn concat(&mut self, x: &Batch, y: &Batch) -> Batch {
        let mut shape = x.shape.clone();
        shape[0] += y.shape[0];
        x.with(y, shape, |x, y| [x, y].concat())
    }

    fn reshape(&mut self, x: &Batch, shape: &[usize]) -> Batch {
        Batch { shape: shape.to_vec(), ..x.clone() }
    }

    fn dropout(&mut self, x: &Batch) -> Batch {
        x.clone()
    }

    fn upsample(&mut self, x: &Batch) -> Batch {
        let (channels, height, width) = (x.shape[0], x.shape[1], x.shape[2]);
        x.each(vec![channels, 2 * height, 2 * width], |sample| {
            let source = |at: usize| {
                let (row, column) = (at / (2 * width), at % (2 * width));
                row / 2 * width + column / 2
            };
            // Rows of all channels follow one another, and every channel has an even number of them.
            (0..4 * sample.len()).map(|at| sample[source(at)]).collect()
        })
    }

    fn halve(&mut self, x: &Batch) -> Batch {
        let quarter = [0.25; 4];
        let kernel = |o, c| (o == c).then_some(&quarter[..]);
        convolve(x, x.shape[0], 2, Conv::pad(0).halving(), kernel, None)
    }

    fn filter(&mut self, x: &Batch, kernel: &Kernel, how: Conv) -> Batch {
        let values = kernel.values();
        convolve(x, x.shape[0], kernel.taps.len(), how, |o, c| (o == c).then_some(&values[..]), None)
    }

    /// In float32, as the angles that are made of it.
    fn ln(&mut self, t: &Batch) -> Batch {
        t.map(|t| f64::from((t as f32).ln()))
    }

    fn waves(&mut self, t: &Batch, frequencies: &Array, factor: f64) -> Batch {
        t.each(vec![2 * frequencies.data.len()], |t| {
            let angles: Vec<_> =
                frequencies.data.iter().map(|&f| f64::from(t[0] as f32 * f as f32 * factor as f32)).collect();
            angles.iter().map(|a| a.sin()).chain(angles.iter().map(|a| a.cos())).collect()
        })
    }

    fn embed(&mut self, labels: &Batch, table: &Array) -> Batch {
        let width = table.shape[1];
        labels.each(vec![width], |label| table.data[label[0] as usize * width..][..width].to_vec())
    }
    fn features(&mut self, x: &Batch) {
        let pixels: usize = x.shape[1..].iter().product();
        let mean = |map: &[f64]| map.iter().sum::<f64>() / pixels as f64;
        let means = x.each(vec![x.shape[0]], |maps| maps.chunks(pixels).map(mean).collect());
        self.features = means.data.to_vec();
    }
}
