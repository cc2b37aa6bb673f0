//! Files that people exchange samples in: numpy's `.npy` and `.npz`, and PNG.
//!
//! Everything read here is checked before memory is taken for it, and everything written is there whole or not at
//! all ([`NewFile`]).

mod arrays;
mod file;
mod images;
pub mod npy;
pub mod npz;
pub mod png;

pub use arrays::{read_image, read_images, read_mask, read_states};
pub use file::{NewFile, NewImages, beside, check_writable, read_bytes, read_text};
