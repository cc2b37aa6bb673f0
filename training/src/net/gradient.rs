//! Differentiates a classifier as an ONNX graph: grad log p(y | z_t, t) in the state, without a framework at run time.
//!
//! Reverse mode over the network's operations: forward, each operation that depends on the state writes its nodes and
//! leaves on a tape what its derivative needs; backward, the tape is read from its end, and each entry turns the gradient
//! of its result into nodes for those of its operands. What depends on time only (the embedding) leaves nothing. Weights
//! are stored once and used by both ways: the derivative of a convolution is ConvTranspose with the same kernel.

use psld::onnx::{ElementType, Graph, Value};
use psld::{Error, Result};

use super::graph::{GraphOps, Map, Ports, Start, Weight};
use super::ops::{Conv, Init, Kernel, Layer, NORM_EPSILON, Ops};
use super::{NetConfig, Network, Weights};

/// The graph of the gradient of `network`, a classifier: of the log probability of the label at the state's classes.
pub(crate) fn gradient(
    network: &Network,
    weights: &Weights,
    element: ElementType,
    ports: Ports,
) -> Result<Graph> {
    let NetConfig::Classifier(classifier) = network.config() else {
        return Err(Error::argument("a gradient is exported of a classifier, and this network is none"));
    };
    let Start { ops, z, t, .. } = Start::new(network, weights, element, ports)?;
    let mut tape = Tape { ops, entries: Vec::new(), count: 0 };
    let state = tape.variable(z);
    let logits = network.build(&mut tape, state.clone(), Traced { map: t, id: None }, None);
    let labels = tape.ops.g.input(ports.label, ElementType::I64, &["batch".into()]);
    // d/d logits of log softmax at the label: one there, less the softmax everywhere.
    let classes = classifier.n_cls;
    let g = &mut tape.ops.g;
    let numbers: Vec<i64> = (0..classes as i64).collect();
    let numbers = g.constant(&[1, classes], &numbers);
    let labels = g.unsqueeze(labels, &[1]);
    let here = g.equal(labels, numbers);
    let here = g.cast(here, logits.map.value.element());
    let probabilities = g.softmax(logits.map.value, -1);
    let seed = g.sub(here, probabilities);
    let (Some(end), Some(start)) = (logits.id, state.id) else {
        return Err(Error::argument("the classifier does not depend on its state"));
    };
    let mut gradients = tape.backward(end, seed);
    let Some(gradient) = gradients[start].take() else {
        return Err(Error::argument("the classifier does not depend on its state"));
    };
    tape.ops.finish(gradient, element, ports.output, &network.config().state_shape())
}

/// Writes the gradients of an operation's operands, given that of its result.
type Back = Box<dyn FnOnce(&mut GraphOps<'_>, Value) -> Vec<(usize, Value)>>;

struct Tape<'a> {
    ops: GraphOps<'a>,
    /// (result, derivative) in the order of the operations.
    entries: Vec<(usize, Back)>,
    count: usize,
}

/// A tensor, and its number where it depends on the state.
#[derive(Clone)]
struct Traced {
    map: Map,
    id: Option<usize>,
}

impl Tape<'_> {
    fn variable(&mut self, map: Map) -> Traced {
        self.count += 1;
        Traced { map, id: Some(self.count - 1) }
    }

    /// The result of an operation on one tensor; `back` turns the result's gradient into the operand's.
    fn unary(
        &mut self,
        x: &Traced,
        map: Map,
        back: impl FnOnce(&mut GraphOps<'_>, Value) -> Value + 'static,
    ) -> Traced {
        let Some(from) = x.id else { return Traced { map, id: None } };
        let result = self.variable(map);
        self.entries.push((self.count - 1, Box::new(move |ops, gradient| vec![(from, back(ops, gradient))])));
        result
    }

    /// The gradients of all numbered tensors, from that of tensor `end`.
    fn backward(&mut self, end: usize, seed: Value) -> Vec<Option<Value>> {
        let mut gradients = vec![None; self.count];
        gradients[end] = Some(seed);
        for (result, back) in std::mem::take(&mut self.entries).into_iter().rev() {
            // What the result does not lead to has none.
            let Some(gradient) = gradients[result].take() else { continue };
            for (operand, part) in back(&mut self.ops, gradient) {
                gradients[operand] = Some(match gradients[operand] {
                    Some(sum) => self.ops.g.add(sum, part),
                    None => part,
                });
            }
        }
        gradients
    }
}

/// [0, shape...] for a reshape.
fn dims(shape: &[usize]) -> Vec<i64> {
    std::iter::once(0).chain(shape.iter().map(|&dim| dim as i64)).collect()
}

impl Ops for Tape<'_> {
    type T = Traced;
    type P = Weight;

    fn param(&mut self, name: &str, shape: &[usize], init: Init) -> Weight {
        self.ops.param(name, shape, init)
    }

    fn constant(&mut self, values: Vec<f32>) -> Weight {
        self.ops.constant(values)
    }

    fn scaled(&mut self, p: &Weight, gain: f64) -> Weight {
        self.ops.scaled(p, gain)
    }

    fn sum(&mut self, p: &Weight, q: &Weight) -> Weight {
        self.ops.sum(p, q)
    }

    fn shape(&self, x: &Traced) -> Vec<usize> {
        x.map.shape.clone()
    }

    fn conv2d(&mut self, x: &Traced, weight: &Weight, bias: Option<&Weight>, how: Conv) -> Traced {
        let map = self.ops.conv2d(&x.map, weight, bias, how);
        let (weight, shape) = (weight.clone(), x.map.shape.clone());
        self.unary(x, map, move |ops, gradient| {
            let kernel = ops.place(&weight, &weight.shape);
            ops.transposed_convolution(gradient, kernel, weight.shape[2], how, 1, &shape)
        })
    }

    fn linear(&mut self, x: &Traced, weight: &Weight, bias: Option<&Weight>) -> Traced {
        let map = self.ops.linear(&x.map, weight, bias);
        let weight = weight.clone();
        self.unary(x, map, move |ops, gradient| {
            let weights = ops.place(&weight, &weight.shape);
            ops.g.matmul(gradient, weights)
        })
    }

    fn pixelwise(&mut self, x: &Traced, map: &Layer<Weight>) -> Traced {
        let weight = map.weight.transposed();
        let weight = weight.reshaped(&[weight.shape[0], weight.shape[1], 1, 1]);
        self.conv2d(x, &weight, Some(&map.bias), Conv::pad(0))
    }

    /// With normal = (x - mean) / std and g = weight * gradient, over each group:
    /// (g - mean(g) - normal mean(g normal)) / std.
    fn group_norm(&mut self, x: &Traced, groups: usize, weight: &Weight, bias: &Weight) -> Traced {
        let map = self.ops.group_norm(&x.map, groups, weight, bias);
        let (x_map, weight) = (x.map.clone(), weight.clone());
        self.unary(x, map, move |ops, gradient| {
            let scale = ops.place(&weight, &[x_map.shape[0], 1, 1]);
            let g = &mut ops.g;
            let mean = |g: &mut Graph, x: Value| g.reduce_mean(x, &[2], true);
            let grouped = g.reshape(x_map.value, &[0, groups as i64, -1]);
            let center = mean(g, grouped);
            let centered = g.sub(grouped, center);
            let squares = g.mul(centered, centered);
            let variance = mean(g, squares);
            let variance = g.add(variance, NORM_EPSILON);
            let std = g.sqrt(variance);
            let normal = g.div(centered, std);
            let scaled = g.mul(gradient, scale);
            let scaled = g.reshape(scaled, &[0, groups as i64, -1]);
            let level = mean(g, scaled);
            let along = g.mul(scaled, normal);
            let along = mean(g, along);
            let along = g.mul(normal, along);
            let rest = g.sub(scaled, level);
            let rest = g.sub(rest, along);
            let result = g.div(rest, std);
            g.reshape(result, &dims(&x_map.shape))
        })
    }

    /// In the folded form of [`GraphOps::attention`]: query and value are maps q, v of x and the key is x itself, scores
    /// are s = q^T x, weights P = softmax(s) over the last axis, and the result is v P^T.
    fn attention(&mut self, x: &Traced, maps: &[Layer<Weight>; 4]) -> Traced {
        let folded = GraphOps::folded_attention(maps);
        let channels = x.map.shape[0];
        let mapped = self.ops.conv2d(&x.map, &folded.weight, Some(&folded.bias), Conv::pad(0));
        let (map, parts) = self.ops.attend(&x.map, &mapped);
        let shape = x.map.shape.clone();
        self.unary(x, map, move |ops, gradient| {
            let g = &mut ops.g;
            let (c, pixels) = (channels as i64, (shape[1] * shape[2]) as i64);
            let gradient = g.reshape(gradient, &[0, c, pixels]);
            let swap = |g: &mut Graph, x: Value| g.transpose(x, &[0, 2, 1]);
            // Of P: row i, column j is gradient_i . v_j.
            let rows = swap(g, gradient);
            let of_weights = g.matmul(rows, parts.value);
            let of_value = g.matmul(gradient, parts.weights);
            // Through the softmax of each row.
            let along = g.mul(of_weights, parts.weights);
            let along = g.reduce_sum(along, &[2], true);
            let of_scores = g.sub(of_weights, along);
            let of_scores = g.mul(parts.weights, of_scores);
            let of_scores_back = swap(g, of_scores);
            let of_query = g.matmul(parts.key, of_scores_back);
            let query = swap(g, parts.query_rows);
            let of_key = g.matmul(query, of_scores);
            let of_mapped = g.concat(&[of_query, of_value], 1);
            let of_mapped = g.reshape(of_mapped, &dims(&[2 * channels, shape[1], shape[2]]));
            let of_key = g.reshape(of_key, &dims(&shape));
            let kernel = ops.place(&folded.weight, &folded.weight.shape);
            let through = ops.transposed_convolution(of_mapped, kernel, 1, Conv::pad(0), 1, &shape);
            ops.g.add(through, of_key)
        })
    }

    /// s (1 + x (1 - s)) with s = sigmoid(x).
    fn silu(&mut self, x: &Traced) -> Traced {
        let map = self.ops.silu(&x.map);
        let value = x.map.value;
        self.unary(x, map, move |ops, gradient| {
            let g = &mut ops.g;
            let gate = g.sigmoid(value);
            let closed = g.sub(1.0, gate);
            let slope = g.mul(value, closed);
            let slope = g.add(slope, 1.0);
            let slope = g.mul(gate, slope);
            g.mul(gradient, slope)
        })
    }

    fn add(&mut self, x: &Traced, y: &Traced) -> Traced {
        let map = self.ops.add(&x.map, &y.map);
        let operands: Vec<usize> = [x.id, y.id].into_iter().flatten().collect();
        if operands.is_empty() {
            return Traced { map, id: None };
        }
        let result = self.variable(map);
        let back: Back = Box::new(move |_, gradient| operands.into_iter().map(|id| (id, gradient)).collect());
        self.entries.push((self.count - 1, back));
        result
    }

    fn scale(&mut self, x: &Traced, gain: f64) -> Traced {
        let map = self.ops.scale(&x.map, gain);
        self.unary(x, map, move |ops, gradient| ops.g.mul(gradient, gain))
    }

    /// What images are shifted by comes from the time.
    fn shift(&mut self, x: &Traced, by: &Traced) -> Traced {
        let map = self.ops.shift(&x.map, &by.map);
        debug_assert!(by.id.is_none(), "a shift that depends on the state");
        self.unary(x, map, |_, gradient| gradient)
    }

    fn concat(&mut self, x: &Traced, y: &Traced) -> Traced {
        let map = self.ops.concat(&x.map, &y.map);
        if x.id.is_none() && y.id.is_none() {
            return Traced { map, id: None };
        }
        let (ids, lengths) = ([x.id, y.id], [x.map.shape[0], y.map.shape[0]]);
        let result = self.variable(map);
        let back: Back = Box::new(move |ops, gradient| {
            let parts = ops.g.split(gradient, 1, lengths);
            ids.into_iter().zip(parts).filter_map(|(id, part)| id.map(|id| (id, part))).collect()
        });
        self.entries.push((self.count - 1, back));
        result
    }

    fn reshape(&mut self, x: &Traced, shape: &[usize]) -> Traced {
        let map = self.ops.reshape(&x.map, shape);
        let back = dims(&x.map.shape);
        self.unary(x, map, move |ops, gradient| ops.g.reshape(gradient, &back))
    }

    fn dropout(&mut self, x: &Traced) -> Traced {
        x.clone()
    }

    fn upsample(&mut self, x: &Traced) -> Traced {
        let map = self.ops.upsample(&x.map);
        self.unary(x, map, |ops, gradient| {
            let mean = ops.g.average_pool(gradient, 2);
            ops.g.mul(mean, 4.0)
        })
    }

    fn halve(&mut self, x: &Traced) -> Traced {
        let map = self.ops.halve(&x.map);
        self.unary(x, map, |ops, gradient| {
            let spread = ops.g.upsample_nearest(gradient, 2);
            ops.g.mul(spread, 0.25)
        })
    }

    fn filter(&mut self, x: &Traced, kernel: &Kernel, how: Conv) -> Traced {
        let map = self.ops.filter(&x.map, kernel, how);
        let (kernel, shape) = (kernel.clone(), x.map.shape.clone());
        self.unary(x, map, move |ops, gradient| {
            let weights = ops.filter_weights(&kernel, shape[0]);
            ops.transposed_convolution(gradient, weights, kernel.taps.len(), how, shape[0], &shape)
        })
    }

    fn ln(&mut self, t: &Traced) -> Traced {
        Traced { map: self.ops.ln(&t.map), id: None }
    }

    fn waves(&mut self, t: &Traced, frequencies: &Weight, factor: f64) -> Traced {
        Traced { map: self.ops.waves(&t.map, frequencies, factor), id: None }
    }

    fn embed(&mut self, labels: &Traced, table: &Weight) -> Traced {
        Traced { map: self.ops.embed(&labels.map, table), id: None }
    }
}
