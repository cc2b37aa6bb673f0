//! Files that people exchange samples in: numpy's `.npy` and `.npz`, and PNG.
//!
//! Everything read here is checked before memory is taken for it, and everything written is there whole or not at
//! all ([`NewFile`]).

mod file;
mod images;
mod known;
pub mod npy;
pub mod npz;
pub mod png;

pub use file::{NewFile, check_writable, read_text};
pub use images::read_images;
pub use known::{read_image, read_mask};
