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
    /// Of k = 1: whether it is for the paths whose noise level spans decades, `ve` and `edm`, or for all others.
    pub explodes: bool,
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

/// The paths that a row is for.
#[derive(Clone, Copy)]
enum Paths {
    /// k = 1, but those of the next.
    One,
    /// `ve` and `edm`.
    Exploding,
    /// k > 1.
    Phase,
}

#[allow(clippy::too_many_arguments)] // A row of a table.
const fn row(
    paths: Paths,
    up_to: u32,
    sampler: &'static str,
    order: u32,
    grid: &'static str,
    measured_at: u32,
    error: f64,
    next: (&'static str, f64),
) -> Choice {
    let (k1, explodes) = (!matches!(paths, Paths::Phase), matches!(paths, Paths::Exploding));
    Choice { k1, explodes, up_to, sampler, order, grid, measured_at, error, next }
}

use Paths::{Exploding, One, Phase};

/// Root mean square distances on 256 starts, the geometric mean over two mixtures under VP, under VE and EDM, and under PSLD
/// (November 2026).
#[rustfmt::skip]
const TABLE: [Choice; 24] = [
    row(One, 6, "dpmpp", 3, "order2", 5, 0.0568, ("unipc", 0.123)),
    row(One, 9, "dpmpp", 3, "order2.5", 8, 0.0202, ("gddim", 0.0431)),
    row(One, 12, "dpmpp", 3, "order2.5", 10, 0.0126, ("gddim", 0.024)),
    row(One, 17, "dpmpp", 3, "order2.5", 15, 0.00413, ("gddim", 0.00845)),
    row(One, 24, "dpmpp", 3, "order2.5", 20, 0.00186, ("gddim", 0.00387)),
    row(One, 38, "unipc", 3, "order2.5", 30, 0.000528, ("dpmpp", 0.000646)),
    row(One, 70, "unipc", 3, "order2.5", 50, 6.38e-05, ("dpmpp", 0.000151)),
    row(One, u32::MAX, "unipc", 3, "order2.5", 100, 4.06e-06, ("dpmpp", 1.89e-05)),
    row(Exploding, 6, "unipc", 2, "log_snr", 5, 0.126, ("gddim", 0.221)),
    // By 13 % not the least error; the order and grid of its neighbours.
    row(Exploding, 9, "unipc", 2, "log_snr", 8, 0.0741, ("gddim", 0.0655)),
    row(Exploding, 12, "unipc", 3, "log_snr", 10, 0.0357, ("gddim", 0.0425)),
    row(Exploding, 17, "unipc", 3, "log_snr", 15, 0.0149, ("gddim", 0.0193)),
    row(Exploding, 24, "unipc", 3, "log_snr", 20, 0.00409, ("dpmpp", 0.0101)),
    row(Exploding, 38, "unipc", 3, "log_snr", 30, 0.000623, ("dpmpp", 0.00253)),
    row(Exploding, 70, "unipc", 3, "log_snr", 50, 7.11e-05, ("dpmpp", 0.000494)),
    row(Exploding, u32::MAX, "unipc", 3, "log_snr", 100, 4.18e-06, ("dpmpp", 5.78e-05)),
    // Not the least error on the two mixtures: held against networks that the table is not made of (64 images, a mixture
    // of rank 8 in 3072 dimensions, models/fashion-small.onnx), where gddim's at 5 calls is up to 100 times as large.
    row(Phase, 6, "unipc", 1, "order2", 5, 0.588, ("gddim", 0.442)),
    row(Phase, 9, "unipc", 3, "order2.5", 8, 0.238, ("dpmpp", 0.276)),
    row(Phase, 12, "unipc", 3, "order2.5", 10, 0.101, ("dpmpp", 0.158)),
    row(Phase, 17, "unipc", 3, "order2.5", 15, 0.0253, ("dpmpp", 0.0496)),
    row(Phase, 24, "unipc", 3, "order2.5", 20, 0.0086, ("dpmpp", 0.0216)),
    row(Phase, 38, "unipc", 3, "order2.5", 30, 0.00175, ("dpmpp", 0.00631)),
    row(Phase, 70, "unipc", 3, "order2.5", 50, 0.000308, ("dpmpp", 0.00145)),
    row(Phase, u32::MAX, "unipc", 3, "order2.5", 100, 2.09e-05, ("dpmpp", 0.000191)),
];

/// The table, in the order in which it is searched.
pub fn table() -> &'static [Choice] {
    &TABLE
}

/// The options with sampler, order and grid filled in.
pub(super) fn choose(options: &SamplerSpec, process: &Process, times: &Times) -> Result<SamplerSpec> {
    let steps = grid::resolve(options, process, times, 1)?.len() - 1;
    let calls = steps + usize::from(options.denoise.unwrap_or(true));
    let (k1, explodes) = (process.k() == 1, process.explodes());
    let rows = || TABLE.iter().filter(|row| (row.k1, row.explodes) == (k1, explodes));
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
