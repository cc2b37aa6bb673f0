//! The C ABI: `include/psld.h` is generated from this module, and its documentation is written for a C reader.
//!
//! Nothing is computed here: each function checks its arguments, converts them, calls the Rust API and converts the
//! result. The body of every export is one guard (`guard`), so no panic crosses the border; handles are
//! checked numbers (`handle`), so a stale one is a status and not undefined behaviour.

#![allow(non_camel_case_types)]
// `@param[in]` is Doxygen's, not a link.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]
// Every export takes raw pointers whose rules stand in the header once, under "Rules"; the unsafe blocks are in
// `convert`, behind checks. A Rust caller has the safe API of this crate.
#![allow(clippy::not_unsafe_ptr_arg_deref)]

mod convert;
mod engine;
mod error;
mod error_text;
mod guard;
mod handle;
mod init;
mod log;
mod model;
mod network;
mod noise;
mod probe;
mod run;
mod runtime;
mod sampler;
mod structs;
mod types;
mod version;

pub use engine::*;
pub use error::*;
pub use init::*;
pub use log::*;
pub use model::*;
pub use network::*;
pub use noise::*;
pub use probe::*;
pub use run::*;
pub use runtime::*;
pub use sampler::*;
pub use types::*;
pub use version::*;
