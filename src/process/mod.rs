//! Gaussian paths: the forward processes that data are diffused along.

mod mat;

pub use mat::{MAX_K, Mat};
