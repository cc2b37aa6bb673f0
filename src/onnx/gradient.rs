//! The gradient of what a graph computes, as more nodes of the same graph.
//!
//! Reverse mode, node by node: the nodes that lead from the input to the output are read from the last to the first, and
//! each one turns the gradient of its result into nodes for the gradients of its operands. A network is written once, by
//! whatever writes it; weights are stored once, and serve both ways.

use std::collections::{HashMap, HashSet};

use super::builder::Node;
use super::{Attribute, ElementType, Graph, Tensor, Value};

/// The gradients of a node's inputs, where it has them; `Err` says what stands against it.
type Backward = Result<Vec<Option<Value>>, String>;

impl Graph {
    /// The gradient in `x` of the sum of all elements of `weights * y`, where `weights` has the shape of `y`; it has the
    /// shape of `x`. In other words: the product of `weights` with the Jacobian of `y`, from the left.
    ///
    /// It is exact up to rounding. In float16 the normalisations of the way back are computed in float32.
    ///
    /// Known are the operators that networks here are made of: Add, AveragePool, Cast, Concat, Conv, DepthToSpace, Gemm,
    /// Identity, InstanceNormalization, LogSoftmax, MatMul, Mul, Reshape, Resize (by repetition), Sigmoid, Softmax, Split
    /// and Transpose. It is a mistake (see [`finish`](Self::finish)) if another one lies between `x` and `y`, or if nothing
    /// leads from one to the other. What depends on `x` must not be broadcast: a gradient would not be summed over the
    /// copies, and has another shape then, with which the model cannot be run.
    pub fn gradient(&mut self, y: Value, weights: Value, x: Value) -> Value {
        if !self.check("gradient", &[y, weights, x]) {
            return x;
        }
        self.expect_same("gradient", y, weights);
        let depends = self.depending_on(x);
        let mut gradients = HashMap::from([(y, weights)]);
        for place in (0..self.nodes.len()).rev() {
            let node = self.nodes[place].clone();
            let operands: Vec<_> =
                node.inputs.iter().map(|input| input.filter(|v| depends.contains(v))).collect();
            if operands.iter().all(Option::is_none) {
                continue;
            }
            let results: Vec<_> = node.outputs.iter().map(|output| gradients.remove(output)).collect();
            if results.iter().all(Option::is_none) {
                continue;
            }
            let parts = match self.backward(&node, &results) {
                Ok(parts) => parts,
                Err(what) => {
                    self.fail("gradient", &what);
                    return x;
                }
            };
            // What is a weight's would go nowhere, and `finish` leaves it out.
            for (i, operand) in operands.into_iter().enumerate() {
                let Some(operand) = operand else { continue };
                let Some(part) = parts.get(i).copied().flatten() else {
                    self.fail(
                        "gradient",
                        &format!("{}: no derivative in its input {i} is known here", node.op),
                    );
                    return x;
                };
                let sum = match gradients.get(&operand) {
                    Some(&sum) => self.add(sum, part),
                    None => part,
                };
                gradients.insert(operand, sum);
            }
        }
        gradients.get(&x).copied().unwrap_or_else(|| {
            self.fail("gradient", "the output does not depend on the input");
            x
        })
    }

    /// `x`, and all that changes smoothly with it: integers and booleans do not.
    fn depending_on(&self, x: Value) -> HashSet<Value> {
        let mut depends = HashSet::from([x]);
        for node in &self.nodes {
            if node.inputs.iter().flatten().any(|input| depends.contains(input)) {
                let real = |value: &&Value| {
                    use ElementType::{Bf16, F16, F32, F64};
                    matches!(value.element(), F32 | F64 | F16 | Bf16)
                };
                depends.extend(node.outputs.iter().filter(real));
            }
        }
        depends
    }

    /// The derivative of one node; `results` are the gradients of its outputs, of which there is at least one.
    fn backward(&mut self, node: &Node, results: &[Option<Value>]) -> Backward {
        let inputs: Vec<Value> = node.inputs.iter().flatten().copied().collect();
        let (x, y) = (inputs[0], node.outputs[0]);
        self.check_form(node)?;
        let g = match (&*node.op, results[0]) {
            ("Split", _) => return self.backward_of_split(node, results),
            (_, Some(gradient)) => gradient,
            (op, None) => return Err(format!("{op}: only its first output has a derivative")),
        };
        let parts = match &*node.op {
            "Identity" => vec![g],
            "Add" => vec![g, g],
            "Mul" => vec![self.mul(g, inputs[1]), self.mul(g, x)],
            "Cast" => vec![self.cast(g, x.element())],
            "Sigmoid" => {
                let closed = self.sub(1.0, y);
                let slope = self.mul(y, closed);
                vec![self.mul(g, slope)]
            }
            "Softmax" => {
                let along = self.mul(g, y);
                let along = self.reduce_sum(along, &[node.int("axis", -1)], true);
                let rest = self.sub(g, along);
                vec![self.mul(y, rest)]
            }
            "LogSoftmax" => {
                let sum = self.reduce_sum(g, &[node.int("axis", -1)], true);
                let shares = self.exp(y);
                let along = self.mul(shares, sum);
                vec![self.sub(g, along)]
            }
            "Reshape" => vec![self.shaped_as(g, x)],
            "Transpose" => {
                let order = node.ints("perm");
                let mut back = vec![0; order.len()];
                order.iter().zip(0..).for_each(|(&axis, place)| back[axis as usize] = place);
                vec![self.transpose(g, &back)]
            }
            "Concat" => {
                let axis = node.int("axis", 0);
                let lengths: Vec<_> = inputs.iter().map(|&part| self.length(part, axis)).collect();
                let lengths = self.concat(&lengths, 0);
                let elements: Vec<_> = inputs.iter().map(|part| part.element()).collect();
                self.many("Split", &[Some(g), Some(lengths)], &[("axis", axis.into())], &elements)
            }
            "MatMul" => return self.backward_of_product(x, inputs[1], g),
            "Gemm" => {
                if (node.int("transA", 0), node.int("transB", 0)) != (0, 1) {
                    return Err("Gemm: only x weight^T + bias has a derivative here".into());
                }
                vec![self.matmul(g, inputs[1])]
            }
            "Conv" => vec![self.backward_of_convolution(node, x, inputs[1], g)],
            "InstanceNormalization" => vec![self.backward_of_normalisation(node, x, inputs[1], g)?],
            // A mean of a block, and a block of copies: each is the other's derivative, up to the block's size.
            "AveragePool" => {
                let size = node.ints("kernel_shape");
                if size != node.ints("strides") || size.len() != 2 || size[0] != size[1] {
                    return Err("AveragePool: only square blocks side by side have a derivative here".into());
                }
                let spread = self.upsample_nearest(g, size[0] as usize);
                vec![self.mul(spread, 1.0 / (size[0] * size[0]) as f64)]
            }
            "Resize" => {
                let size =
                    self.repetition(node).ok_or("Resize: only repeated pixels have a derivative here")?;
                let mean = self.average_pool(g, size);
                vec![self.mul(mean, (size * size) as f64)]
            }
            "DepthToSpace" => {
                vec![self.node("SpaceToDepth", &[g], &[("blocksize", node.int("blocksize", 1).into())])]
            }
            op => return Err(format!("{op}: its derivative is not known here")),
        };
        Ok(parts.into_iter().map(Some).collect())
    }

    /// Whether a node is of the form that its rule is for, in which this builder writes it: another attribute may mean another
    /// derivative.
    fn check_form(&self, node: &Node) -> Result<(), String> {
        let (known, whole): (&[&str], bool) = match &*node.op {
            "Conv" => {
                let axes = node.inputs.get(1).copied().flatten().and_then(|weight| self.rank(weight));
                let sizes = (node.ints("strides").len(), node.ints("pads").len());
                (&["strides", "pads", "group"], sizes == (2, 4) && axes.is_none_or(|axes| axes == 4))
            }
            "Gemm" => (&["transA", "transB"], true),
            "DepthToSpace" => (&["blocksize"], true),
            "AveragePool" => (&["kernel_shape", "strides"], true),
            "Transpose" => {
                let mut order = node.ints("perm");
                order.sort_unstable();
                (&["perm"], !order.is_empty() && order.iter().zip(0..).all(|(axis, place)| *axis == place))
            }
            _ => return Ok(()),
        };
        if whole && node.has_only(known) {
            return Ok(());
        }
        Err(format!("{}: only in the form in which this builder writes it has it a derivative here", node.op))
    }

    fn backward_of_split(&mut self, node: &Node, results: &[Option<Value>]) -> Backward {
        let parts: Vec<Value> = node
            .outputs
            .iter()
            .zip(results)
            .map(|(&output, &gradient)| match gradient {
                Some(gradient) => gradient,
                // A part that leads nowhere.
                None => self.mul(output, 0.0),
            })
            .collect();
        Ok(vec![Some(self.concat(&parts, node.int("axis", 0)))])
    }

    /// Of a b: g b^T and a^T g.
    fn backward_of_product(&mut self, a: Value, b: Value, g: Value) -> Backward {
        let (Some(rank_a), Some(rank_b)) = (self.rank(a), self.rank(b)) else {
            return Err("MatMul: the number of its operands' axes is not known".into());
        };
        // One matrix for the whole batch is a weight.
        let turned = self.swapped(b, rank_b);
        let of_a = self.matmul(g, turned);
        let of_b = (rank_a == rank_b).then(|| {
            let turned = self.swapped(a, rank_a);
            self.matmul(turned, g)
        });
        Ok(vec![Some(of_a), of_b])
    }

    /// With the last two axes exchanged.
    fn swapped(&mut self, x: Value, rank: usize) -> Value {
        let mut order: Vec<i64> = (0..rank as i64).collect();
        if rank > 1 {
            order.swap(rank - 2, rank - 1);
        }
        self.transpose(x, &order)
    }

    /// Where the kernel stops everywhere, the derivative is a convolution too, by the kernel with its channels exchanged
    /// and turned by 180 degrees, which ONNX Runtime does once, when it loads the model; it computes that faster than a
    /// transposed convolution.
    fn backward_of_convolution(&mut self, node: &Node, x: Value, weight: Value, g: Value) -> Value {
        let (strides, pads, groups) = (node.ints("strides"), node.ints("pads"), node.int("group", 1));
        let kernel = self.stored(weight).map(|tensor| [2, 3].map(|axis| tensor.dims()[axis] as i64));
        if let (Some([height, width]), 1, true) = (kernel, groups, strides.iter().all(|&stride| stride == 1))
        {
            let around: Vec<i64> =
                [height, width, height, width].iter().zip(&pads).map(|(k, pad)| k - 1 - pad).collect();
            if around.iter().all(|&pad| pad >= 0) {
                let mut turned = self.transpose(weight, &[1, 0, 2, 3]);
                if (height, width) != (1, 1) {
                    let [last, first, axes] =
                        [[-1, -1], [i64::MIN, i64::MIN], [2, 3]].map(|places| self.constant(&[2], &places));
                    turned = self.node("Slice", &[turned, last, first, axes, last], &[]);
                }
                return self.node("Conv", &[g, turned], &[("pads", around[..].into())]);
            }
        }
        // Up to a stride less one, the last rows and columns of what was padded go into no result; so there is more at the
        // end than is needed, and it is cut off.
        let more: Vec<i64> = strides.iter().map(|stride| stride - 1).collect();
        let attributes = [
            ("strides", strides[..].into()),
            ("pads", [pads[0], pads[1], 0, 0][..].into()),
            ("output_padding", more[..].into()),
            ("group", groups.into()),
        ];
        let whole = self.node("ConvTranspose", &[g, weight], &attributes);
        let size = self.nodes("Shape", &[Some(x)], &[("start", 2.into())], [ElementType::I64])[0];
        let (start, axes) = (self.constant(&[2], &[0i64, 0]), self.constant(&[2], &[2i64, 3]));
        self.node("Slice", &[whole, start, size, axes], &[])
    }

    /// With n = (x - mean) / deviation and h = scale g, means being those over the pixels:
    /// (h - mean(h) - n mean(h n)) / deviation.
    fn backward_of_normalisation(
        &mut self,
        node: &Node,
        x: Value,
        scale: Value,
        g: Value,
    ) -> Result<Value, String> {
        let rank = self.rank(x).ok_or("InstanceNormalization: the number of its axes is not known")?;
        let pixels: Vec<i64> = (2..rank as i64).collect();
        let compute = if x.element() == ElementType::F16 { ElementType::F32 } else { x.element() };
        let mut h = self.cast(g, compute);
        if !self.is_ones(scale) {
            let dims: Vec<i64> = std::iter::once(-1).chain(pixels.iter().map(|_| 1)).collect();
            let scale = self.reshape(scale, &dims);
            let scale = self.cast(scale, compute);
            h = self.mul(h, scale);
        }
        let wide = self.cast(x, compute);
        let mean = self.reduce_mean(wide, &pixels, true);
        let centred = self.sub(wide, mean);
        let squares = self.mul(centred, centred);
        let variance = self.reduce_mean(squares, &pixels, true);
        let variance = self.add(variance, f64::from(node.float("epsilon", 1e-5)));
        let deviation = self.sqrt(variance);
        let normal = self.div(centred, deviation);
        let level = self.reduce_mean(h, &pixels, true);
        let along = self.mul(h, normal);
        let along = self.reduce_mean(along, &pixels, true);
        let along = self.mul(normal, along);
        let rest = self.sub(h, level);
        let rest = self.sub(rest, along);
        let result = self.div(rest, deviation);
        Ok(self.cast(result, x.element()))
    }

    /// `x` in the shape of `like`.
    fn shaped_as(&mut self, x: Value, like: Value) -> Value {
        let shape = self.shape(like);
        self.node("Reshape", &[x, shape], &[])
    }

    /// The length of an axis, a vector of one number.
    fn length(&mut self, x: Value, axis: i64) -> Value {
        let ends = [("start", Attribute::from(axis)), ("end", (axis + 1).into())];
        // Behind the last axis, counted from it, there is no place with a number.
        let ends = if axis == -1 { &ends[..1] } else { &ends[..] };
        self.nodes("Shape", &[Some(x)], ends, [ElementType::I64])[0]
    }

    /// The constant behind a value, if there is one, as it is stored: casts do not count.
    fn stored(&self, value: Value) -> Option<&Tensor> {
        match self.origin(value) {
            Some(node) if node.op == "Cast" => self.stored(node.inputs[0]?),
            Some(_) => None,
            None => self.initializers.iter().find(|(v, _)| *v == value).map(|(_, tensor)| tensor),
        }
    }

    fn is_ones(&self, value: Value) -> bool {
        self.stored(value).is_some_and(|tensor| {
            let ones = vec![1.0; tensor.dims().iter().product()];
            Tensor::convert(tensor.element(), tensor.dims(), &ones).is_ok_and(|ones| ones == *tensor)
        })
    }

    /// How often a Resize repeats each pixel, in both directions, if that is what it does.
    fn repetition(&self, node: &Node) -> Option<usize> {
        let scales = self.stored(node.inputs.get(2).copied()??)?;
        let nearest = node.text("mode") == b"nearest"
            && node.text("coordinate_transformation_mode") == b"asymmetric"
            && node.text("nearest_mode") == b"floor";
        (2..=64).filter(|_| nearest).find(|&size| {
            let same = Tensor::new(&[4], &[1.0, 1.0, size as f32, size as f32]);
            same.is_ok_and(|same| same == *scales)
        })
    }

    /// The number of axes, where it can be told without knowing shapes.
    fn rank(&self, value: Value) -> Option<usize> {
        self.rank_of(value, &mut HashMap::new())
    }

    /// The same; each value is looked at once, as a chain of x Sigmoid(x) doubles the ways to its beginning at each link.
    fn rank_of(&self, value: Value, known: &mut HashMap<Value, Option<usize>>) -> Option<usize> {
        if let Some(rank) = known.get(&value) {
            return *rank;
        }
        let rank = self.find_rank(value, known);
        known.insert(value, rank);
        rank
    }

    fn find_rank(&self, value: Value, known: &mut HashMap<Value, Option<usize>>) -> Option<usize> {
        if let Some((_, dims)) = self.inputs.iter().find(|(v, _)| *v == value) {
            return Some(dims.len());
        }
        let Some(node) = self.origin(value) else {
            return self.stored(value).map(|tensor| tensor.dims().len());
        };
        match &*node.op {
            "Reshape" => self.stored(node.inputs[1]?).map(|dims| dims.dims()[0]),
            "Transpose" => Some(node.ints("perm").len()),
            // Of these the first input has all the axes that there are.
            "Cast"
            | "Concat"
            | "Conv"
            | "Gemm"
            | "InstanceNormalization"
            | "LogSoftmax"
            | "Sigmoid"
            | "Softmax"
            | "Split" => self.rank_of(node.inputs[0]?, known),
            "Add" | "MatMul" | "Mul" => {
                let [a, b] = [0, 1].map(|i| node.inputs[i].and_then(|input| self.rank_of(input, known)));
                Some(a?.max(b?))
            }
            _ => None,
        }
    }

    fn origin(&self, value: Value) -> Option<&Node> {
        self.nodes.iter().find(|node| node.outputs.contains(&value))
    }
}
