//! Generators of networks, for tests, benchmarks and the demo: nothing here is trained.
//!
//! * [`Mixture`]: the exact network of a Gaussian mixture, of which every sampler's result is known;
//! * [`UNet`]: a convolutional network of random weights, with the cost and the graph of a real one.

mod mixture;
mod unet;

pub use mixture::{Half, Means, Mixture, Path};
pub use unet::UNet;
