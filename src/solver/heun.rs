//! Heun's second-order method for the probability-flow ODE (arXiv 2206.00364, Algorithm 1, in t).

use super::compiler::Compiler;
use super::{SamplerInfo, Solver};
use crate::Result;

pub(super) const SOLVER: Solver = Solver {
    info: SamplerInfo {
        name: "heun",
        title: "Heun, probability flow",
        order: "2",
        nfe_per_step: 2,
        stochastic: false,
        adaptive: false,
        paper: "arXiv 2206.00364",
        equation: "Algorithm 1",
        options: &[],
    },
    steps,
};

fn steps(c: &mut Compiler<'_>, grid: &[f64]) -> Result<()> {
    for pair in grid.windows(2) {
        let (t, u) = (pair[0], pair[1]);
        let h = t - u;
        let z = c.state(0);
        let first = c.reverse_drift(0, t, 0, &z, 0.5)?;
        let euler = z.clone() + h * first.clone();
        c.set(1, euler.clone());
        let second = c.reverse_drift(1, u, 1, &euler, 0.5)?;
        c.set(0, z + (0.5 * h) * (first + second));
        c.end_step(t);
    }
    Ok(())
}
