//! DEIS (arXiv 2204.13902, tAB-DEIS) for any recipe: epsilon of the triangular factor L, which networks are trained in,
//! interpolated in t and integrated exactly with the linear part.
//!
//! z_u = Psi z + sum_j Q_j eps_j, Q_j = 1/2 integral of l_j Psi(s -> u) G G^T L^-T. In phase space the noise turns in
//! these coordinates, so constants are larger than those of `gddim`; for k = 1 the two are the same.

use super::frame::Frame;
use super::multistep::{self, History};
use super::{Compiler, SamplerInfo, Solver, gddim};
use crate::Result;

pub(super) const SOLVER: Solver = Solver {
    info: SamplerInfo {
        name: "deis",
        title: "DEIS, epsilon in the triangular frame",
        order: "1 to 3 (`order`, default 2)",
        nfe_per_step: 1,
        stochastic: false,
        adaptive: false,
        paper: "arXiv 2204.13902",
        equation: "tAB-DEIS",
        options: &["order"],
    },
    steps,
};

fn steps(c: &mut Compiler<'_>, grid: &[f64]) -> Result<()> {
    let order = multistep::order(c, grid, 2, 3)?;
    let process = c.process;
    let mut frame = Frame::triangular(process);
    let mut history = History::new(order, 1);
    for pair in grid.windows(2) {
        let (t, u) = (pair[0], pair[1]);
        let step = frame.step(t, u);
        history.call(c, t, &|c, slot, z| gddim::epsilon(c, &step, slot, z))?;
        let weights = match process.k() {
            1 => gddim::weights(process, &step, &history.times(order)),
            _ => {
                let pull = |node: &_| gddim::pull(process, &step, node);
                step.weights(&history.times(order), |s| s, pull, None)
            }
        };
        c.set(0, history.weighted(process.transition(t, u) * c.state(0), &weights));
        c.end_step(t);
    }
    Ok(())
}
