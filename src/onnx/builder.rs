//! A graph builder: values in, values out, and one place where mistakes surface.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use prost::bytes::Bytes;

use super::proto::{self, AttributeType, dimension, type_proto};
use super::{Dim, Element, ElementType, Model, Tensor};
use crate::{Error, Result};

/// Operator set and file format of everything built: the newest that ONNX Runtime of 2023 (1.16) and every
/// later one loads.
const OPSET: i64 = 20;
const IR_VERSION: i64 = 9;

/// A graph under construction.
///
/// Every operation is a method that takes [`Value`]s and gives one. None of them returns a `Result`: the
/// first mistake (types that do not match, a constant that does not fit, a name used twice) is remembered
/// together with where it was made, what follows is ignored, and [`finish`](Self::finish) reports it. So a
/// network reads like its formula and still no mistake can pass.
///
/// Names are made from the operation and a running number, inside the current [`scope`](Self::scope), and
/// depend on nothing else: the same calls give the same bytes. Equal constants are stored once.
///
/// Operands that are written as numbers take the element type of the other operand, so that one piece of
/// code writes a float16 and a float64 network.
#[derive(Debug)]
pub struct Graph {
    stamp: u64,
    name: String,
    scope: String,
    /// Names by [`Value::index`]; a value may be renamed until the end (it becomes an output, say).
    names: Vec<String>,
    taken: HashSet<String>,
    pub(super) nodes: Vec<Node>,
    pub(super) inputs: Vec<(Value, Vec<Dim>)>,
    outputs: Vec<(Value, Vec<Dim>)>,
    pub(super) initializers: Vec<(Value, Tensor)>,
    constants: HashMap<Tensor, Value>,
    error: Option<Error>,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub op: String,
    pub inputs: Vec<Option<Value>>,
    pub outputs: Vec<Value>,
    attributes: Vec<proto::AttributeProto>,
}

/// Attributes of a node, where it has them.
impl Node {
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |attribute| attribute.i())
    }

    pub fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, |attribute| attribute.f())
    }

    pub fn ints(&self, name: &str) -> Vec<i64> {
        self.attribute(name).map_or(Vec::new(), |attribute| attribute.ints.clone())
    }

    pub fn text(&self, name: &str) -> &[u8] {
        self.attribute(name).map_or(b"", |attribute| attribute.s())
    }

    /// Whether it has no attributes besides these.
    pub fn has_only(&self, known: &[&str]) -> bool {
        self.attributes.iter().all(|attribute| known.contains(&attribute.name()))
    }

    fn attribute(&self, name: &str) -> Option<&proto::AttributeProto> {
        self.attributes.iter().find(|attribute| attribute.name() == name)
    }
}

/// A tensor in a [`Graph`]: a handle, valid in the graph that made it only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    stamp: u64,
    index: usize,
    element: ElementType,
}

impl Value {
    /// The type of its elements.
    pub fn element(self) -> ElementType {
        self.element
    }
}

/// What arithmetic takes: a [`Value`], or a number that becomes a scalar of the other operand's type.
#[derive(Clone, Copy, Debug)]
pub enum Operand {
    /// A tensor.
    Value(Value),
    /// A scalar constant.
    Number(f64),
}

impl From<Value> for Operand {
    fn from(value: Value) -> Self {
        Self::Value(value)
    }
}

impl From<f64> for Operand {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

/// An attribute of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// An integer, also an element type or a flag.
    Int(i64),
    /// A float.
    Float(f32),
    /// A text.
    Text(String),
    /// Integers.
    Ints(Vec<i64>),
    /// Floats.
    Floats(Vec<f32>),
    /// A tensor.
    Tensor(Tensor),
}

impl From<i64> for Attribute {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f32> for Attribute {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}

impl From<&str> for Attribute {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<&[i64]> for Attribute {
    fn from(value: &[i64]) -> Self {
        Self::Ints(value.to_vec())
    }
}

impl From<ElementType> for Attribute {
    fn from(value: ElementType) -> Self {
        Self::Int(value.code().into())
    }
}

impl Attribute {
    fn to_proto(&self, name: &str) -> proto::AttributeProto {
        let mut attribute = proto::AttributeProto { name: Some(name.to_owned()), ..Default::default() };
        let kind = match self {
            Self::Int(value) => {
                attribute.i = Some(*value);
                AttributeType::Int
            }
            Self::Float(value) => {
                attribute.f = Some(*value);
                AttributeType::Float
            }
            Self::Text(value) => {
                attribute.s = Some(Bytes::copy_from_slice(value.as_bytes()));
                AttributeType::String
            }
            Self::Ints(value) => {
                attribute.ints = value.clone();
                AttributeType::Ints
            }
            Self::Floats(value) => {
                attribute.floats = value.clone();
                AttributeType::Floats
            }
            Self::Tensor(value) => {
                attribute.t = Some(Box::new(value.to_proto(None)));
                AttributeType::Tensor
            }
        };
        attribute.set_type(kind);
        attribute
    }
}

/// How [`Graph::conv2d`] moves its kernel. The default is stride 1, no padding, one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Step, the same in both directions.
    pub stride: usize,
    /// Zeros added at top, left, bottom and right.
    pub pads: [usize; 4],
    /// Groups of channels convolved separately.
    pub groups: usize,
}

impl Default for Conv2d {
    fn default() -> Self {
        Self { stride: 1, pads: [0; 4], groups: 1 }
    }
}

impl Conv2d {
    /// Stride 1, and the padding that keeps the size with a kernel of `kernel` x `kernel` (odd).
    pub fn same(kernel: usize) -> Self {
        Self { pads: [kernel / 2; 4], ..Self::default() }
    }
}

/// Methods for operators that take one tensor and keep its element type.
macro_rules! unary {
    ($($(#[$doc:meta])* $method:ident: $op:literal;)*) => {
        impl Graph {$(
            $(#[$doc])*
            pub fn $method(&mut self, x: Value) -> Value {
                self.node($op, &[x], &[])
            }
        )*}
    };
}

unary! {
    /// Square root.
    sqrt: "Sqrt";
    /// The exponential.
    exp: "Exp";
    /// The natural logarithm.
    log: "Log";
    /// Sine.
    sin: "Sin";
    /// Cosine.
    cos: "Cos";
    /// The opposite.
    neg: "Neg";
    /// The absolute value.
    abs: "Abs";
    /// Hyperbolic tangent.
    tanh: "Tanh";
    /// The logistic function.
    sigmoid: "Sigmoid";
}

/// Methods for operators of two tensors that broadcast.
macro_rules! binary {
    ($($(#[$doc:meta])* $method:ident: $op:literal;)*) => {
        impl Graph {$(
            $(#[$doc])*
            pub fn $method(&mut self, a: impl Into<Operand>, b: impl Into<Operand>) -> Value {
                let (a, b) = self.operands($op, a.into(), b.into());
                self.node($op, &[a, b], &[])
            }
        )*}
    };
}

binary! {
    /// `a + b`.
    add: "Add";
    /// `a - b`.
    sub: "Sub";
    /// `a b`, element by element.
    mul: "Mul";
    /// `a / b`.
    div: "Div";
    /// `a` to the power `b`.
    pow: "Pow";
    /// The larger of the two, element by element.
    max: "Max";
    /// The smaller of the two, element by element.
    min: "Min";
}

/// Methods for comparisons, which give booleans.
macro_rules! comparison {
    ($($(#[$doc:meta])* $method:ident: $op:literal;)*) => {
        impl Graph {$(
            $(#[$doc])*
            pub fn $method(&mut self, a: impl Into<Operand>, b: impl Into<Operand>) -> Value {
                let (a, b) = self.operands($op, a.into(), b.into());
                self.nodes($op, &[Some(a), Some(b)], &[], [ElementType::Bool])[0]
            }
        )*}
    };
}

comparison! {
    /// Whether `a = b`.
    equal: "Equal";
    /// Whether `a < b`.
    less: "Less";
    /// Whether `a > b`.
    greater: "Greater";
}

/// Methods for reductions over axes.
macro_rules! reduction {
    ($($(#[$doc:meta])* $method:ident: $op:literal;)*) => {
        impl Graph {$(
            $(#[$doc])*
            pub fn $method(&mut self, x: Value, axes: &[i64], keep_dims: bool) -> Value {
                let axes = self.ints(axes);
                self.node($op, &[x, axes], &[("keepdims", i64::from(keep_dims).into())])
            }
        )*}
    };
}

reduction! {
    /// Sum over `axes`, which stay with length 1 if `keep_dims`.
    reduce_sum: "ReduceSum";
    /// Largest over `axes`, which stay with length 1 if `keep_dims`.
    reduce_max: "ReduceMax";
    /// Mean over `axes`, which stay with length 1 if `keep_dims`.
    reduce_mean: "ReduceMean";
    /// `ln sum exp` over `axes`, which stay with length 1 if `keep_dims`.
    reduce_log_sum_exp: "ReduceLogSumExp";
}

/// Construction.
impl Graph {
    /// An empty graph. `name` is for people: viewers show it, and errors begin with it.
    pub fn new(name: &str) -> Self {
        static STAMP: AtomicU64 = AtomicU64::new(0);
        Self {
            stamp: STAMP.fetch_add(1, Ordering::Relaxed),
            name: name.to_owned(),
            scope: String::new(),
            names: Vec::new(),
            taken: HashSet::new(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            initializers: Vec::new(),
            constants: HashMap::new(),
            error: None,
        }
    }

    /// Puts `name` and a dot before the names of all nodes and parameters that `body` makes. Scopes nest.
    pub fn scope<T>(&mut self, name: &str, body: impl FnOnce(&mut Self) -> T) -> T {
        let outer = self.scope.len();
        self.scope.push_str(name);
        self.scope.push('.');
        let result = body(self);
        self.scope.truncate(outer);
        result
    }

    /// An input that the caller feeds.
    pub fn input(&mut self, name: &str, element: ElementType, dims: &[Dim]) -> Value {
        let value = self.value(name.to_owned(), element);
        self.inputs.push((value, dims.to_vec()));
        value
    }

    /// Makes `value` the output `name`.
    pub fn output(&mut self, name: &str, value: Value, dims: &[Dim]) {
        if !self.check("output", &[value]) {
            return;
        }
        // A node's result just takes the name. Inputs, initialisers and outputs have one already.
        let free = self.nodes.iter().any(|node| node.outputs.contains(&value))
            && !self.outputs.iter().any(|(output, _)| *output == value);
        let value = if free { value } else { self.node("Identity", &[value], &[]) };
        self.claim(name);
        if let Some(slot) = self.names.get_mut(value.index) {
            *slot = name.to_owned();
        }
        self.outputs.push((value, dims.to_vec()));
    }

    /// A constant of `values` in row-major order; `dims` empty makes a scalar.
    pub fn constant<T: Element>(&mut self, dims: &[usize], values: &[T]) -> Value {
        let tensor = Tensor::new(dims, values);
        self.tensor_or_error("constant", T::TYPE, tensor)
    }

    /// A constant of `element`, each of `values` rounded to it; `dims` empty makes a scalar.
    pub fn constant_as(&mut self, element: ElementType, dims: &[usize], values: &[f64]) -> Value {
        let tensor = Tensor::convert(element, dims, values);
        self.tensor_or_error("constant", element, tensor)
    }

    /// A constant.
    pub fn tensor(&mut self, tensor: Tensor) -> Value {
        if let Some(&value) = self.constants.get(&tensor) {
            return value;
        }
        let name = self.fresh(format!("constant_{}", self.constants.len()));
        let value = self.value(name, tensor.element());
        self.constants.insert(tensor.clone(), value);
        self.initializers.push((value, tensor));
        value
    }

    /// A constant with a name of its own, behind the scope's: a weight, which people and tools look up.
    pub fn parameter(&mut self, name: &str, tensor: Tensor) -> Value {
        let value = self.value(format!("{}{name}", self.scope), tensor.element());
        self.initializers.push((value, tensor));
        value
    }

    /// Any operator of one output, whose elements are those of the first input.
    pub fn node(&mut self, op: &str, inputs: &[Value], attributes: &[(&str, Attribute)]) -> Value {
        let element = inputs.first().map_or(ElementType::F32, |value| value.element);
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.nodes(op, &inputs, attributes, [element])[0]
    }

    /// Any operator: optional inputs left out are `None`, and there is one output for each of `elements`.
    pub fn nodes<const N: usize>(
        &mut self,
        op: &str,
        inputs: &[Option<Value>],
        attributes: &[(&str, Attribute)],
        elements: [ElementType; N],
    ) -> [Value; N] {
        let outputs = self.many(op, inputs, attributes, &elements);
        std::array::from_fn(|i| outputs[i])
    }

    /// The same for a number of outputs that is not known when this is compiled.
    pub(super) fn many(
        &mut self,
        op: &str,
        inputs: &[Option<Value>],
        attributes: &[(&str, Attribute)],
        elements: &[ElementType],
    ) -> Vec<Value> {
        let given: Vec<_> = inputs.iter().flatten().copied().collect();
        self.check(op, &given);
        let number = self.nodes.len();
        let mut output = |(i, element): (usize, &ElementType)| {
            let part = if i == 0 { String::new() } else { format!("_{i}") };
            let name = self.fresh(format!("{}{op}_{number}{part}", self.scope));
            self.value(name, *element)
        };
        let outputs: Vec<Value> = elements.iter().enumerate().map(&mut output).collect();
        self.nodes.push(Node {
            op: op.to_owned(),
            inputs: inputs.to_vec(),
            outputs: outputs.clone(),
            attributes: attributes.iter().map(|(name, attribute)| attribute.to_proto(name)).collect(),
        });
        outputs
    }

    /// The model, or the first mistake that was made. Nodes and constants that no output needs are left out.
    pub fn finish(mut self) -> Result<Model> {
        if self.outputs.is_empty() {
            self.fail("finish", "the graph has no outputs");
        }
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut needed: HashSet<Value> = self.outputs.iter().map(|(value, _)| *value).collect();
        let mut used: Vec<bool> = Vec::new();
        for node in self.nodes.iter().rev() {
            let use_it = node.outputs.iter().any(|output| needed.contains(output));
            needed.extend(node.inputs.iter().flatten().filter(|_| use_it));
            used.push(use_it);
        }
        self.nodes.retain(|_| used.pop().unwrap_or(false));
        self.initializers.retain(|(value, _)| needed.contains(value));
        let name = |value: &Value| self.names[value.index].clone();
        let ports = |ports: &[(Value, Vec<Dim>)]| {
            ports.iter().map(|(value, dims)| value_info(name(value), value.element, dims)).collect()
        };
        let node = |node: &Node| proto::NodeProto {
            input: node.inputs.iter().map(|input| input.as_ref().map_or(String::new(), name)).collect(),
            output: node.outputs.iter().map(name).collect(),
            name: node.outputs.first().map(name),
            op_type: Some(node.op.clone()),
            attribute: node.attributes.clone(),
            ..Default::default()
        };
        let graph = proto::GraphProto {
            node: self.nodes.iter().map(node).collect(),
            name: Some(self.name.clone()),
            initializer: self.initializers.iter().map(|(v, tensor)| tensor.to_proto(Some(name(v)))).collect(),
            input: ports(&self.inputs),
            output: ports(&self.outputs),
            ..Default::default()
        };
        let model = proto::ModelProto {
            ir_version: Some(IR_VERSION),
            // Without a version: a model's bytes, and so its hash, do not change with each release.
            producer_name: Some("psld".to_owned()),
            opset_import: vec![proto::OperatorSetIdProto {
                domain: Some(String::new()),
                version: Some(OPSET),
            }],
            ..Default::default()
        };
        Ok(Model::from_parts(model, graph))
    }

    fn value(&mut self, name: String, element: ElementType) -> Value {
        self.claim(&name);
        self.names.push(name);
        Value { stamp: self.stamp, index: self.names.len() - 1, element }
    }

    /// A made-up name gives way to one that the caller chose.
    fn fresh(&self, mut name: String) -> String {
        while self.taken.contains(&name) {
            name.push('_');
        }
        name
    }

    fn claim(&mut self, name: &str) {
        if name.is_empty() {
            self.fail("a name", "names cannot be empty: that is how ONNX marks an absent input");
        } else if !self.taken.insert(name.to_owned()) {
            self.fail(&format!("`{name}`"), "the name is taken");
        }
    }

    fn tensor_or_error(&mut self, what: &str, element: ElementType, tensor: Result<Tensor>) -> Value {
        match tensor {
            Ok(tensor) => self.tensor(tensor),
            Err(error) => {
                self.fail(what, error.message());
                // Any value will do: the graph cannot be finished any more.
                Value { stamp: self.stamp, index: 0, element }
            }
        }
    }

    /// Whether all `values` are this graph's.
    pub(super) fn check(&mut self, op: &str, values: &[Value]) -> bool {
        let ours = values.iter().all(|value| value.stamp == self.stamp);
        if !ours {
            self.fail(op, "an input belongs to another graph");
        }
        ours
    }

    /// Remembers the first mistake; those that follow from it would only hide it.
    pub(super) fn fail(&mut self, place: &str, message: &str) {
        if self.error.is_none() {
            let context = format!("graph `{}`, {}{place}", self.name, self.scope);
            self.error = Some(Error::argument(message).context(context));
        }
    }

    fn operands(&mut self, op: &str, a: Operand, b: Operand) -> (Value, Value) {
        let element = match (a, b) {
            (Operand::Value(value), _) | (_, Operand::Value(value)) => value.element,
            _ => {
                self.fail(op, "at least one operand must be a tensor");
                ElementType::F32
            }
        };
        let mut value = |operand| match operand {
            Operand::Value(value) => value,
            Operand::Number(number) => self.constant_as(element, &[], &[number]),
        };
        let (a, b) = (value(a), value(b));
        self.expect_same(op, a, b);
        (a, b)
    }

    pub(super) fn expect_same(&mut self, op: &str, a: Value, b: Value) {
        if a.element != b.element {
            self.fail(op, &format!("the operands are {} and {}", a.element, b.element));
        }
    }

    fn ints(&mut self, values: &[i64]) -> Value {
        self.constant(&[values.len()], values)
    }
}

/// Tensor algebra and shapes.
impl Graph {
    /// Matrix product over the last two axes.
    pub fn matmul(&mut self, a: Value, b: Value) -> Value {
        self.expect_same("MatMul", a, b);
        self.node("MatMul", &[a, b], &[])
    }

    /// `x weight^T + bias` for a matrix `x` and a `weight` of [out, in], as linear layers store it.
    pub fn linear(&mut self, x: Value, weight: Value, bias: Option<Value>) -> Value {
        self.expect_same("Gemm", x, weight);
        let inputs: Vec<_> = [x, weight].into_iter().chain(bias).collect();
        self.node("Gemm", &inputs, &[("transB", 1.into())])
    }

    /// Two-dimensional convolution of [N, C, H, W] with `weight` [out, C / groups, kernel, kernel].
    pub fn conv2d(&mut self, x: Value, weight: Value, bias: Option<Value>, how: Conv2d) -> Value {
        self.expect_same("Conv", x, weight);
        let inputs: Vec<_> = [x, weight].into_iter().chain(bias).collect();
        let stride = how.stride as i64;
        let pads = how.pads.map(|pad| pad as i64);
        let attributes = [
            ("strides", [stride; 2].as_slice().into()),
            ("pads", pads.as_slice().into()),
            ("group", (how.groups as i64).into()),
        ];
        self.node("Conv", &inputs, &attributes)
    }

    /// Changes the element type; nothing happens if it is that one already.
    pub fn cast(&mut self, x: Value, to: ElementType) -> Value {
        if x.element == to {
            return x;
        }
        self.nodes("Cast", &[Some(x)], &[("to", to.into())], [to])[0]
    }

    /// Another shape; 0 keeps the dimension at that place, -1 (once) is whatever remains.
    pub fn reshape(&mut self, x: Value, dims: &[i64]) -> Value {
        let dims = self.ints(dims);
        self.node("Reshape", &[x, dims], &[])
    }

    /// Reorders the axes: axis i of the result is axis `order[i]` of `x`.
    pub fn transpose(&mut self, x: Value, order: &[i64]) -> Value {
        self.node("Transpose", &[x], &[("perm", order.into())])
    }

    /// Adds axes of length 1; `axes` are places in the result.
    pub fn unsqueeze(&mut self, x: Value, axes: &[i64]) -> Value {
        let axes = self.ints(axes);
        self.node("Unsqueeze", &[x, axes], &[])
    }

    /// Removes axes of length 1.
    pub fn squeeze(&mut self, x: Value, axes: &[i64]) -> Value {
        let axes = self.ints(axes);
        self.node("Squeeze", &[x, axes], &[])
    }

    /// Puts tensors one after another along `axis`.
    pub fn concat(&mut self, values: &[Value], axis: i64) -> Value {
        if values.is_empty() {
            self.fail("Concat", "nothing to concatenate");
        }
        for pair in values.windows(2) {
            self.expect_same("Concat", pair[0], pair[1]);
        }
        self.node("Concat", values, &[("axis", axis.into())])
    }

    /// The part of `axis` from `start` up to but not including `end`; negative places count from its end.
    pub fn slice(&mut self, x: Value, axis: i64, start: i64, end: i64) -> Value {
        let [start, end, axis] = [start, end, axis].map(|place| self.ints(&[place]));
        self.node("Slice", &[x, start, end, axis], &[])
    }

    /// Cuts `axis` into pieces of these lengths.
    pub fn split<const N: usize>(&mut self, x: Value, axis: i64, lengths: [usize; N]) -> [Value; N] {
        let lengths = self.ints(&lengths.map(|length| length as i64));
        self.nodes("Split", &[Some(x), Some(lengths)], &[("axis", axis.into())], [x.element; N])
    }

    /// The entries of `x` along `axis` that `indices` name.
    pub fn gather(&mut self, x: Value, indices: Value, axis: i64) -> Value {
        if !matches!(indices.element, ElementType::I64 | ElementType::I32) {
            self.fail("Gather", &format!("indices are integers, not {}", indices.element));
        }
        self.node("Gather", &[x, indices], &[("axis", axis.into())])
    }

    /// The shape of `x`, an int64 vector.
    pub fn shape(&mut self, x: Value) -> Value {
        self.nodes("Shape", &[Some(x)], &[], [ElementType::I64])[0]
    }

    /// `a` where `condition` holds, else `b`.
    pub fn choose(&mut self, condition: Value, a: impl Into<Operand>, b: impl Into<Operand>) -> Value {
        let (a, b) = self.operands("Where", a.into(), b.into());
        if condition.element != ElementType::Bool {
            self.fail("Where", &format!("the condition is {}, not bool", condition.element));
        }
        self.nodes("Where", &[Some(condition), Some(a), Some(b)], &[], [a.element])[0]
    }

    /// Whether either holds.
    pub fn or(&mut self, a: Value, b: Value) -> Value {
        self.node("Or", &[a, b], &[])
    }

    /// Whether both hold.
    pub fn and(&mut self, a: Value, b: Value) -> Value {
        self.node("And", &[a, b], &[])
    }
}

/// Layers.
impl Graph {
    /// `exp x / sum exp x` along `axis`.
    pub fn softmax(&mut self, x: Value, axis: i64) -> Value {
        self.node("Softmax", &[x], &[("axis", axis.into())])
    }

    /// `ln softmax` along `axis`.
    pub fn log_softmax(&mut self, x: Value, axis: i64) -> Value {
        self.node("LogSoftmax", &[x], &[("axis", axis.into())])
    }

    /// `x sigmoid(x)`, in the two nodes that ONNX Runtime fuses into one.
    pub fn silu(&mut self, x: Value) -> Value {
        let gate = self.sigmoid(x);
        self.mul(x, gate)
    }

    /// Each channel of each sample to mean 0 and variance 1, times `scale` plus `bias`, which are vectors of
    /// one number a channel.
    pub fn instance_norm(&mut self, x: Value, scale: Value, bias: Value, epsilon: f32) -> Value {
        self.node("InstanceNormalization", &[x, scale, bias], &[("epsilon", epsilon.into())])
    }

    /// Each of `groups` groups of channels of each sample to mean 0 and variance 1, times `scale` plus
    /// `bias`, which broadcast to a sample (for images, [C, 1, 1]). `sample` is a sample's shape, channels
    /// first.
    ///
    /// Written as instance normalisation of [N, groups, rest], Mul and Add: ONNX Runtime has no CPU kernel
    /// for GroupNormalization and unfolds it into some twenty nodes, 10-25 % slower in a whole network.
    pub fn group_norm(
        &mut self,
        x: Value,
        groups: usize,
        sample: &[usize],
        scale: Value,
        bias: Value,
        epsilon: f32,
    ) -> Value {
        let channels = sample.first().copied().unwrap_or(0);
        if groups == 0 || channels % groups != 0 {
            let message = format!("{channels} channels cannot be divided into {groups} groups");
            self.fail("group_norm", &message);
        }
        let ones = self.constant_as(x.element, &[groups], &vec![1.0; groups]);
        let zeros = self.constant_as(x.element, &[groups], &vec![0.0; groups]);
        let grouped = self.reshape(x, &[0, groups as i64, -1]);
        let normal = self.instance_norm(grouped, ones, zeros, epsilon);
        let dims: Vec<i64> = std::iter::once(0).chain(sample.iter().map(|&dim| dim as i64)).collect();
        let normal = self.reshape(normal, &dims);
        // As one BatchNormalization it would be a pass less, in one thread: ONNX Runtime's CPU kernel uses no more.
        let scaled = self.mul(normal, scale);
        self.add(scaled, bias)
    }

    /// Repeats each pixel of [N, C, H, W] `factor` times in both directions.
    pub fn upsample_nearest(&mut self, x: Value, factor: usize) -> Value {
        let factor = factor as f32;
        let scales = self.constant(&[4], &[1.0, 1.0, factor, factor]);
        let attributes = [
            ("mode", "nearest".into()),
            // These two make it what PyTorch calls nearest; ONNX has other defaults.
            ("coordinate_transformation_mode", "asymmetric".into()),
            ("nearest_mode", "floor".into()),
        ];
        self.nodes("Resize", &[Some(x), None, Some(scales)], &attributes, [x.element])[0]
    }

    /// The mean of each `size` x `size` block of [N, C, H, W].
    pub fn average_pool(&mut self, x: Value, size: usize) -> Value {
        let size = [size as i64; 2];
        let attributes = [("kernel_shape", size.as_slice().into()), ("strides", size.as_slice().into())];
        self.node("AveragePool", &[x], &attributes)
    }
}

fn value_info(name: String, element: ElementType, dims: &[Dim]) -> proto::ValueInfoProto {
    let dimension = |dim: &Dim| proto::Dimension {
        value: match dim {
            Dim::Fixed(length) => Some(dimension::Value::DimValue(*length as i64)),
            Dim::Symbol(name) => Some(dimension::Value::DimParam(name.clone())),
            Dim::Unknown => None,
        },
        denotation: None,
    };
    let shape = proto::TensorShapeProto { dim: dims.iter().map(dimension).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(element.code()), shape: Some(shape) };
    proto::ValueInfoProto {
        name: Some(name),
        r#type: Some(proto::TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            denotation: None,
        }),
        ..Default::default()
    }
}
