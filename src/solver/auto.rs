//! `auto`: a sampler, order and grid chosen by the number of network calls, from a table of measured errors.
//!
//! The table is measured with `tests/scripts/auto_table.py` on the small networks of `models/study/` and on exact mixtures, and
//! held against others by `psld study --ratios` (`scripts/study.sh`); `psld samplers --why` prints it. What is best differs from
//! network to network: `psld tune --probe` looks at the one at hand.

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
    /// The paths that the row is for.
    pub paths: Paths,
    /// The data that the row is for.
    pub data: Size,
    /// Network calls, the closing one included, up to which the row holds.
    pub up_to: u32,
    /// The sampler taken.
    pub sampler: &'static str,
    /// Its order.
    pub order: u32,
    /// Its grid, where none is given.
    pub grid: &'static str,
}

/// Paths of one kind: the same times mean about the same noise levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Paths {
    /// k = 1 with most of its time in noise, as `vp` and the linear tables of `ddpm`.
    Vp,
    /// k = 1 with as much signal as noise half way or before, as `flow` and the cosine tables.
    Flow,
    /// `edm`: the noise level is the time.
    Edm,
    /// `ve`: its logarithm is.
    Ve,
    /// k > 1.
    Phase,
}

impl Paths {
    /// Those of `process`.
    pub fn of(process: &Process) -> Self {
        if process.k() > 1 {
            Self::Phase
        } else if process.explodes() {
            // The middle of the time is the geometric mean of the noise levels, or the arithmetic one.
            let at = |t: f64| process.log_snr(t);
            let (low, high) = process.times();
            let middle = at(0.5 * (low + high));
            let even = 0.5 * (at(low) + at(high));
            if (middle - even).abs() < 0.1 * (at(low) - at(high)).abs() { Self::Ve } else { Self::Edm }
        } else if process.log_snr(0.5) > -0.25 {
            // VP has -1.2 there, Stable Diffusion's table -0.5, the straight path and the cosine have 0.
            Self::Flow
        } else {
            Self::Vp
        }
    }
}

/// How many elements a sample has: of few, solutions are far from smooth where a lone mode ends, and another sampler is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// Fewer than [`FEW`].
    Few,
    /// As many or more.
    Many,
}

/// Elements from which a sample has many.
pub const FEW: usize = 16;

impl Size {
    /// That of samples of `elements`.
    pub fn of(elements: usize) -> Self {
        if elements < FEW { Self::Few } else { Self::Many }
    }
}

const fn row(
    paths: Paths,
    data: Size,
    up_to: u32,
    sampler: &'static str,
    order: u32,
    grid: &'static str,
) -> Choice {
    Choice { paths, data, up_to, sampler, order, grid }
}

use Paths::{Edm, Flow, Phase, Ve, Vp};
use Size::{Few, Many};

/// Measured at 5, 8, 10, 15, 20 and 30 calls (December 2026).
#[rustfmt::skip]
const TABLE: [Choice; 34] = [
    row(Vp, Many, 6, "dpmpp", 2, "order2"),
    row(Vp, Many, 9, "dpmpp", 3, "order2.5"),
    row(Vp, Many, 17, "unipc", 2, "logistic"),
    row(Vp, Many, u32::MAX, "unipc", 3, "log_snr"),
    row(Flow, Many, 17, "unipc", 2, "logistic"),
    row(Flow, Many, u32::MAX, "unipc", 3, "log_snr"),
    row(Edm, Many, 12, "unipc", 2, "logistic"),
    row(Edm, Many, 24, "unipc", 3, "logistic"),
    row(Edm, Many, u32::MAX, "unipc", 3, "log_snr"),
    row(Ve, Many, 6, "unipc", 2, "logistic"),
    row(Ve, Many, 9, "gddim", 3, "log_snr"),
    row(Ve, Many, 12, "gddim", 3, "karras"),
    row(Ve, Many, 24, "unipc", 3, "logistic"),
    row(Ve, Many, u32::MAX, "unipc", 3, "log_snr"),
    row(Phase, Many, 6, "unipc", 1, "order2"),
    row(Phase, Many, 17, "unipc", 3, "order2.5"),
    row(Phase, Many, 24, "unipc", 3, "order2"),
    row(Phase, Many, u32::MAX, "unipc", 3, "order2.5"),
    row(Vp, Few, 6, "dpmpp", 3, "order2.5"),
    row(Vp, Few, 9, "dpmpp", 2, "order2.5"),
    row(Vp, Few, 12, "dpmpp", 2, "order2"),
    row(Vp, Few, 17, "dpmpp", 3, "order2.5"),
    row(Vp, Few, 24, "dpmpp", 3, "order2"),
    row(Vp, Few, u32::MAX, "unipc", 3, "order2.5"),
    row(Flow, Few, 12, "dpmpp", 2, "order2"),
    row(Flow, Few, 24, "unipc", 2, "quadratic"),
    row(Flow, Few, u32::MAX, "unipc", 3, "order2.5"),
    row(Edm, Few, 9, "unipc", 2, "log_snr"),
    row(Edm, Few, u32::MAX, "unipc", 3, "log_snr"),
    row(Ve, Few, 6, "unipc", 2, "log_snr"),
    row(Ve, Few, 17, "gddim", 3, "log_snr"),
    row(Ve, Few, u32::MAX, "unipc", 3, "log_snr"),
    row(Phase, Few, 6, "unipc", 2, "order2"),
    row(Phase, Few, u32::MAX, "unipc", 3, "order2.5"),
];

/// The table, in the order in which it is searched.
pub fn table() -> &'static [Choice] {
    &TABLE
}

/// The options with sampler, order and grid filled in, for samples of `elements` and evaluations of `each` network calls.
pub(super) fn choose(
    options: &SamplerSpec,
    process: &Process,
    times: &Times,
    elements: usize,
    each: u32,
) -> Result<SamplerSpec> {
    let steps =
        grid::resolve_for(options, process, times, grid::Calls { step: each, closing: each })?.len() - 1;
    let calls = steps + usize::from(options.denoise.unwrap_or(true));
    let kind = (Paths::of(process), Size::of(elements));
    let rows = || TABLE.iter().filter(|row| (row.paths, row.data) == kind);
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
