//! What can be read of a run.

use serde::{Deserialize, Serialize};

/// What to read from a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// The position half of the state, [n, C, ...]: after the last step, the samples.
    Data,
    /// The whole state, [n, k*C, ...].
    State,
    /// The data estimate E[x_0 | z_t] at the last network call, [n, C, ...]; needs [`RunOptions::previews`](crate::RunOptions::previews).
    X0,
}
