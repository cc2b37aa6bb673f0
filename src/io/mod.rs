//! Files that people exchange samples in: numpy's `.npy` and PNG.
//!
//! Everything read here is checked before memory is taken for it, and everything written is there whole or not at
//! all ([`NewFile`]).

mod file;
mod known;
pub mod npy;
pub mod png;

pub use file::{NewFile, check_writable, read_text};
pub use known::{read_image, read_mask};
