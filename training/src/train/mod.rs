//! Training.

mod checkpoint;
mod evaluate;
mod log;
mod loss;
mod optimizer;
mod picture;
mod sample;
mod trainer;

pub use checkpoint::{Checkpoint, Newest, Progress, newest};
pub use evaluate::{Band, evaluate};
pub use log::{Line, Log};
pub use loss::{Batch, Objective};
pub use optimizer::Weights;
pub use picture::{grid, plot};
pub use sample::{TorchNetwork, draw};
pub use trainer::{Outcome, Trainer};
