//! Explicit Euler of the probability-flow ODE (arXiv 2011.13456).

use super::compiler::Compiler;
use super::{SamplerInfo, Solver};
use crate::Result;

pub(super) const SOLVER: Solver = Solver {
    info: SamplerInfo {
        name: "euler",
        title: "Euler, probability flow",
        order: "1",
        nfe_per_step: 1,
        stochastic: false,
        adaptive: false,
        paper: "arXiv 2011.13456",
        equation: "probability flow, Eq. 13",
        options: &[],
    },
    steps,
};

fn steps(c: &mut Compiler<'_>, grid: &[f64]) -> Result<()> {
    for pair in grid.windows(2) {
        let (t, h) = (pair[0], pair[0] - pair[1]);
        let z = c.state(0);
        let drift = c.reverse_drift(0, t, 0, &z, 0.5)?;
        c.set(0, z + h * drift);
        c.end_step(t);
    }
    Ok(())
}
