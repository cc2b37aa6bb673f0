//! `auto`: a sampler, order and grid chosen by the number of network calls, from a table of measured errors.
//!
//! The table is measured with `tests/scripts/auto_table.py` on the small networks of `models/study/` and on exact mixtures, and
//! held against others by `psld study --ratios` (`scripts/study.sh`); `psld samplers --why` prints it. What is best differs from
//! network to network: `psld tune --probe` looks at the one at hand.

use super::SamplerInfo;
use crate::decode::Times;
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
    pub data: Data,
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

/// What samples are: solutions for smooth sequences, and those of few elements, which are far from smooth where a lone mode ends,
/// are followed best by other samplers than those for images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Data {
    /// Fewer elements than [`FEW`].
    Points,
    /// As many or more, in one or two dimensions, as actions of a robot over time.
    Sequences,
    /// In three dimensions or more.
    Images,
}

/// Elements from which samples are no longer points.
pub const FEW: usize = 16;

impl Data {
    /// Those of `shape`.
    pub fn of(shape: &[usize]) -> Self {
        match shape.len() {
            _ if shape.iter().product::<usize>() < FEW => Self::Points,
            ..=2 => Self::Sequences,
            _ => Self::Images,
        }
    }
}

const fn row(
    paths: Paths,
    data: Data,
    up_to: u32,
    sampler: &'static str,
    order: u32,
    grid: &'static str,
) -> Choice {
    Choice { paths, data, up_to, sampler, order, grid }
}

use Data::{Images, Points, Sequences};
use Paths::{Edm, Flow, Phase, Ve, Vp};

/// Measured at 5, 8, 10, 15, 20 and 30 calls (December 2026).
#[rustfmt::skip]
const TABLE: [Choice; 41] = [
    row(Vp, Images, 6, "dpmpp", 2, "order2"),
    row(Vp, Images, 9, "dpmpp", 3, "order2.5"),
    row(Vp, Images, 17, "unipc", 2, "logistic"),
    row(Vp, Images, u32::MAX, "unipc", 3, "log_snr"),
    row(Flow, Images, 17, "unipc", 2, "logistic"),
    row(Flow, Images, u32::MAX, "unipc", 3, "log_snr"),
    row(Edm, Images, 17, "unipc", 2, "logistic"),
    row(Edm, Images, u32::MAX, "unipc", 3, "logistic"),
    row(Ve, Images, 6, "unipc", 2, "logistic"),
    row(Ve, Images, 17, "gddim", 3, "karras"),
    row(Ve, Images, u32::MAX, "unipc", 3, "logistic"),
    row(Phase, Images, 6, "unipc", 1, "order2"),
    row(Phase, Images, u32::MAX, "unipc", 3, "order2.5"),
    row(Vp, Sequences, 12, "dpmpp", 2, "order2.5"),
    row(Vp, Sequences, 24, "unipc", 2, "logistic"),
    row(Vp, Sequences, u32::MAX, "unipc", 2, "quadratic"),
    row(Flow, Sequences, 6, "dpmpp", 2, "order2"),
    row(Flow, Sequences, 24, "unipc", 2, "logistic"),
    row(Flow, Sequences, u32::MAX, "unipc", 3, "log_snr"),
    row(Edm, Sequences, 24, "unipc", 2, "logistic"),
    row(Edm, Sequences, u32::MAX, "unipc", 3, "log_snr"),
    row(Ve, Sequences, 6, "gddim", 3, "logistic"),
    row(Ve, Sequences, 12, "gddim", 3, "log_snr"),
    row(Ve, Sequences, u32::MAX, "unipc", 2, "logistic"),
    row(Phase, Sequences, 6, "unipc", 1, "order2.5"),
    row(Phase, Sequences, 17, "unipc", 3, "logistic"),
    row(Phase, Sequences, u32::MAX, "unipc", 3, "quadratic"),
    row(Vp, Points, 6, "dpmpp", 3, "order2.5"),
    row(Vp, Points, 17, "dpmpp", 2, "order2.5"),
    row(Vp, Points, u32::MAX, "unipc", 3, "logistic"),
    row(Flow, Points, 9, "dpmpp", 2, "order2"),
    row(Flow, Points, 17, "unipc", 2, "order2.5"),
    row(Flow, Points, 24, "unipc", 3, "logistic"),
    row(Flow, Points, u32::MAX, "unipc", 3, "order2.5"),
    row(Edm, Points, 12, "unipc", 2, "logistic"),
    row(Edm, Points, u32::MAX, "unipc", 3, "logistic"),
    row(Ve, Points, 6, "unipc", 2, "log_snr"),
    row(Ve, Points, 9, "gddim", 3, "karras"),
    row(Ve, Points, 17, "gddim", 3, "log_snr"),
    row(Ve, Points, u32::MAX, "unipc", 3, "logistic"),
    row(Phase, Points, u32::MAX, "unipc", 3, "logistic"),
];

/// The table, in the order in which it is searched.
pub fn table() -> &'static [Choice] {
    &TABLE
}

/// The options with sampler, order and grid filled in, for samples of `shape` and evaluations of `each` network calls.
pub(super) fn choose(
    options: &SamplerSpec,
    process: &Process,
    times: &Times,
    shape: &[usize],
    each: u32,
) -> Result<SamplerSpec> {
    let steps =
        grid::resolve_for(options, process, times, grid::Calls { step: each, closing: each })?.len() - 1;
    let calls = steps + usize::from(options.denoise.unwrap_or(true));
    let kind = (Paths::of(process), Data::of(shape));
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
