//! ONNX without ONNX Runtime: read a model file, look at its ports and metadata, write one.
//!
//! Three layers, each usable alone:
//! * [`proto`]: the protobuf messages, complete up to IR version 14, so that reading a model and writing it
//!   back loses nothing;
//! * [`Model`]: a model file with its ports and metadata, checked when it is read;
//! * [`Graph`]: a builder that makes writing a network feel like writing the mathematics, its gradients included
//!   ([`Graph::gradient`]).
//!
//! [`networks`] are generators written with the builder: exact networks of Gaussian mixtures, and U-Nets of
//! random weights for tests and benchmarks.
//!
//! ```
//! use psld::onnx::{Dim, ElementType, Graph, Model};
//!
//! let mut g = Graph::new("double");
//! let x = g.input("x", ElementType::F32, &[Dim::from("batch"), Dim::from(3)]);
//! let y = g.mul(x, 2.0);
//! g.output("y", y, &[Dim::from("batch"), Dim::from(3)]);
//! let mut model = g.finish()?;
//! model.set_metadata("note", "y = 2 x");
//!
//! let again = Model::read(model.to_bytes())?;
//! assert_eq!(again.metadata("note"), Some("y = 2 x"));
//! assert_eq!(again.outputs()[0].to_string(), "`y` [batch, 3] float32");
//! # Ok::<(), psld::Error>(())
//! ```

mod builder;
mod element;
#[cfg(feature = "onnxruntime")]
mod external;
mod gradient;
mod model;
pub mod networks;
pub mod proto;

pub use builder::{Attribute, Conv2d, Graph, Operand, Value};
pub use element::{Element, ElementType, Tensor};
#[cfg(feature = "onnxruntime")]
pub(crate) use external::{External, external};
pub use model::{Dim, Model, Port};
/// The buffer type that [`Model::read`] takes and tensors share; `Vec<u8>` converts into it without a copy.
pub use prost::bytes::Bytes;
