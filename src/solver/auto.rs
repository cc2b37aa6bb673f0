//! `auto`: a sampler, order and grid chosen by the number of network calls, from a table of measured errors.
//!
//! The table is measured with `tests/scripts/auto_table.py` on exact networks, and held against `psld study` on others
//! (`scripts/study.sh`); `psld samplers --why` prints it.

use super::{SamplerInfo, Times};
use crate::process::Process;
use crate::spec::{Grid, SamplerSpec};
use crate::{Result, grid};
use serde::Serialize;

pub(crate) const INFO: SamplerInfo = SamplerInfo {
    name: "auto",
    title: "chosen by the number of calls from a measured table (`psld samplers --why`)",
    order: "of what is chosen",
    nfe_per_step: 1,
    stochastic: false,
    adaptive: false,
    paper: "this repository",
    equation: "tests/scripts/auto_table.py",
    options: &[],
};

/// What `auto` takes up to a number of network calls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// Whether the row is for k = 1, or for every larger k.
    pub k1: bool,
    /// Network calls, the closing one included, up to which the row holds.
    pub up_to: u32,
    /// The sampler taken.
    pub sampler: &'static str,
    /// Its order.
    pub order: u32,
    /// Its grid, where none is given.
    pub grid: &'static str,
    /// Calls at which it was measured.
    pub measured_at: u32,
    /// Its error there: root mean square distance to the converged solution from the same starts.
    pub error: f64,
    /// The best of the other samplers there, each on its best order and grid, and its error.
    pub next: (&'static str, f64),
}

#[allow(clippy::too_many_arguments)] // A row of a table.
const fn row(
    k1: bool,
    up_to: u32,
    sampler: &'static str,
    order: u32,
    grid: &'static str,
    measured_at: u32,
    error: f64,
    next: (&'static str, f64),
) -> Choice {
    Choice { k1, up_to, sampler, order, grid, measured_at, error, next }
}

/// Root mean square distances on 256 starts, the geometric mean over two mixtures (November 2026).
#[rustfmt::skip]
const TABLE: [Choice; 16] = [
    row(true, 6, "dpmpp", 3, "order2", 5, 0.0568, ("unipc", 0.123)),
    row(true, 9, "dpmpp", 2, "order2", 8, 0.0215, ("gddim", 0.0431)),
    row(true, 12, "dpmpp", 2, "order2", 10, 0.0149, ("gddim", 0.024)),
    row(true, 17, "dpmpp", 3, "order2", 15, 0.00598, ("gddim", 0.00845)),
    row(true, 24, "dpmpp", 3, "order2", 20, 0.00207, ("gddim", 0.00387)),
    row(true, 38, "unipc", 3, "log_snr", 30, 0.00065, ("dpmpp", 0.000732)),
    row(true, 70, "unipc", 3, "log_snr", 50, 7.41e-05, ("dpmpp", 0.000175)),
    row(true, u32::MAX, "unipc", 3, "log_snr", 100, 4.33e-06, ("dpmpp", 2.14e-05)),
    // Not the least error on the two mixtures: on three networks that the table is not made of (64 images, a mixture of
    // rank 8 in 3072 dimensions, models/fashion-small.onnx) gddim's at 5 calls is 1.3, 1.6 and 72 times as large.
    row(false, 6, "dpmpp", 2, "order2", 5, 0.573, ("gddim", 0.442)),
    row(false, 9, "dpmpp", 3, "order2", 8, 0.279, ("gddim", 0.357)),
    row(false, 12, "dpmpp", 3, "order2", 10, 0.165, ("gddim", 0.267)),
    row(false, 17, "dpmpp", 3, "order2", 15, 0.0496, ("gddim", 0.135)),
    row(false, 24, "dpmpp", 3, "order2", 20, 0.0216, ("gddim", 0.0808)),
    row(false, 38, "dpmpp", 3, "order2", 30, 0.00641, ("unipc", 0.0338)),
    row(false, 70, "dpmpp", 3, "order2", 50, 0.00151, ("unipc", 0.00223)),
    row(false, u32::MAX, "unipc", 3, "order2", 100, 0.000148, ("dpmpp", 0.000206)),
];

/// The table, in the order in which it is searched.
pub fn table() -> &'static [Choice] {
    &TABLE
}

/// The options with sampler, order and grid filled in.
pub(super) fn choose(options: &SamplerSpec, process: &Process, times: &Times) -> Result<SamplerSpec> {
    let steps = grid::resolve(options, process, times, 1)?.len() - 1;
    let calls = steps + usize::from(options.denoise.unwrap_or(true));
    let k1 = process.k() == 1;
    let rows = || TABLE.iter().filter(|row| row.k1 == k1);
    let row = rows().find(|row| calls <= row.up_to as usize).or(rows().next_back());
    let Some(row) = row else { return Ok(options.clone()) };
    Ok(SamplerSpec {
        sampler: Some(row.sampler.into()),
        // A few steps do not reach every order.
        order: Some(row.order.min(u32::try_from(steps).unwrap_or(u32::MAX))),
        time_grid: options.time_grid.clone().or_else(|| Some(Grid::Name(row.grid.into()))),
        ..options.clone()
    })
}
