//! A model file: its ports, its metadata, and what can be wrong with it.

use std::fmt;

use prost::Message;
use prost::bytes::Bytes;

use super::ElementType;
use super::proto::{self, dimension, type_proto};
use crate::{Error, Result, Status};

/// An ONNX model in memory.
///
/// It is what [`Graph::finish`](super::Graph::finish) makes and what [`Model::read`] finds in a file. The
/// whole file is kept (see [`proto`](super::proto)), so a model can be read, amended and written.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    proto: proto::ModelProto,
    graph: proto::GraphProto,
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The type of its elements; `None` where it is no tensor (a sequence, a map), or untyped.
    pub element: Option<ElementType>,
    /// Its shape; `None` where the model does not even say the rank.
    pub dims: Option<Vec<Dim>>,
}

/// One dimension of a [`Port`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Always this long.
    Fixed(usize),
    /// As long as every other dimension of this name.
    Symbol(String),
    /// Any length (or one that makes no sense, such as the -1 that some exporters write).
    Unknown,
}

impl From<usize> for Dim {
    fn from(length: usize) -> Self {
        Self::Fixed(length)
    }
}

impl From<&str> for Dim {
    fn from(symbol: &str) -> Self {
        Self::Symbol(symbol.to_owned())
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(length) => write!(f, "{length}"),
            Self::Symbol(name) => f.write_str(name),
            Self::Unknown => f.write_str("?"),
        }
    }
}

impl fmt::Display for Port {
    /// As error messages show it: `` `z` [batch, 6, 32, 32] float32 ``.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ", self.name)?;
        match &self.dims {
            Some(dims) => {
                let dims: Vec<_> = dims.iter().map(Dim::to_string).collect();
                write!(f, "[{}] ", dims.join(", "))?;
            }
            None => f.write_str("[unknown rank] ")?,
        }
        match self.element {
            Some(element) => element.fmt(f),
            None => f.write_str("(not a tensor)"),
        }
    }
}

impl Model {
    /// Reads the bytes of a `.onnx` file. Weights are not copied: they stay slices of `bytes`.
    ///
    /// Fails with [`Status::ModelInvalid`] where the bytes are not an ONNX model or not a whole one. (A file
    /// cut exactly between two top-level fields behind the graph and its opset is still a valid file, and
    /// nothing can tell. Nesting deeper than 100 messages is refused.)
    pub fn read(bytes: impl Into<Bytes>) -> Result<Self> {
        let bytes = bytes.into();
        if let Some(what) = known_stranger(&bytes) {
            return Err(invalid(format!("this is {what}, not an ONNX model")));
        }
        // Every known exporter writes the IR version first, as the schema numbers it.
        let looks_like_onnx = bytes[0] == 0x08;
        let mut proto = proto::ModelProto::decode(bytes).map_err(|error| {
            let message = if looks_like_onnx {
                "the ONNX model is truncated or damaged"
            } else {
                "this is not an ONNX model"
            };
            invalid(message).source(error)
        })?;
        let Some(graph) = proto.graph.take() else {
            return Err(invalid("this is not an ONNX model, or a truncated one: it holds no graph"));
        };
        if proto.ir_version() < 1 {
            return Err(invalid("this is not an ONNX model: it names no IR version"));
        }
        if graph.output.is_empty() {
            return Err(invalid("the ONNX model has no outputs"));
        }
        let model = Self { proto, graph };
        // From IR version 3 (2017) on, the opset is mandatory; before, it was 1.
        if model.opset() == 0 && model.ir_version() >= 3 {
            return Err(invalid("the ONNX model names no operator set: it is truncated or damaged"));
        }
        Ok(model)
    }

    pub(super) fn from_parts(proto: proto::ModelProto, graph: proto::GraphProto) -> Self {
        Self { proto, graph }
    }

    /// The bytes of the model as a `.onnx` file. The same model always gives the same bytes.
    ///
    /// Protobuf, and so ONNX Runtime, cannot load a file of 2 GiB or more.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.clone().into_proto().encode_to_vec()
    }

    /// The whole model as the protobuf message it is stored as.
    pub fn into_proto(mut self) -> proto::ModelProto {
        self.proto.graph = Some(self.graph);
        self.proto
    }

    /// The graph: nodes, initialisers and ports.
    pub fn graph(&self) -> &proto::GraphProto {
        &self.graph
    }

    /// The graph, to amend; [`Model::read`] of the amended model's bytes checks it again.
    pub fn graph_mut(&mut self) -> &mut proto::GraphProto {
        &mut self.graph
    }

    /// The version of the file format.
    pub fn ir_version(&self) -> i64 {
        self.proto.ir_version()
    }

    /// The version of the standard operator set; 0 where the model names none.
    pub fn opset(&self) -> i64 {
        let standard = |id: &&proto::OperatorSetIdProto| matches!(id.domain(), "" | "ai.onnx");
        self.proto.opset_import.iter().find(standard).map_or(0, proto::OperatorSetIdProto::version)
    }

    /// The metadata entry `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.proto.metadata_props.iter().find(|entry| entry.key() == key).map(|entry| entry.value())
    }

    /// Adds the metadata entry `key`, or replaces its value.
    pub fn set_metadata(&mut self, key: &str, value: &str) {
        let entries = &mut self.proto.metadata_props;
        match entries.iter_mut().find(|entry| entry.key() == key) {
            Some(entry) => entry.value = Some(value.to_owned()),
            None => entries.push(proto::StringStringEntryProto {
                key: Some(key.to_owned()),
                value: Some(value.to_owned()),
            }),
        }
    }

    /// What must be fed: the graph's inputs without those that an initialiser already gives a value.
    pub fn inputs(&self) -> Vec<Port> {
        let given = |name: &str| self.graph.initializer.iter().any(|tensor| tensor.name() == name);
        self.graph.input.iter().filter(|info| !given(info.name())).map(port).collect()
    }

    /// What comes out.
    pub fn outputs(&self) -> Vec<Port> {
        self.graph.output.iter().map(port).collect()
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Status::ModelInvalid, message)
}

fn port(info: &proto::ValueInfoProto) -> Port {
    let tensor = match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => Some(tensor),
        _ => None,
    };
    let dim = |dim: &proto::Dimension| match &dim.value {
        Some(dimension::Value::DimValue(length)) => usize::try_from(*length).map_or(Dim::Unknown, Dim::Fixed),
        Some(dimension::Value::DimParam(name)) if !name.is_empty() => Dim::Symbol(name.clone()),
        _ => Dim::Unknown,
    };
    Port {
        name: info.name().to_owned(),
        element: tensor
            .and_then(|tensor| tensor.elem_type)
            .filter(|&code| code != 0)
            .map(ElementType::from_code),
        dims: tensor
            .and_then(|tensor| tensor.shape.as_ref())
            .map(|shape| shape.dim.iter().map(dim).collect()),
    }
}

/// What files that are handed over in place of an ONNX model most often are. Protobuf has no magic number,
/// so without this the message would be one about wire types.
fn known_stranger(bytes: &[u8]) -> Option<&'static str> {
    const SIGNATURES: &[(usize, &[u8], &str)] = &[
        (0, b"version https://git-lfs", "a Git LFS pointer whose file was never fetched"),
        (0, b"PK\x03\x04", "a zip archive (PyTorch checkpoints are)"),
        (0, b"\x80\x02", "a Python pickle"),
        (4, b"ORTM", "a model in ONNX Runtime's own `.ort` format"),
        (8, b"{\"", "a safetensors file"),
        (0, b"\x89HDF", "an HDF5 file"),
        (0, b"\x89PNG", "a PNG image"),
        (0, b"\x1f\x8b", "a gzip archive"),
        (0, b"\x93NUMPY", "a numpy array"),
    ];
    if bytes.is_empty() {
        return Some("an empty file");
    }
    let text = bytes.trim_ascii_start();
    if text.first() == Some(&b'<') {
        return Some("an HTML or XML page (a failed download?)");
    }
    if text.first() == Some(&b'{') {
        return Some("a JSON document");
    }
    let starts = |&&(at, signature, _): &&(usize, &[u8], &str)| {
        bytes.get(at..).is_some_and(|rest| rest.starts_with(signature))
    };
    SIGNATURES.iter().find(starts).map(|&(_, _, what)| what)
}
