//! Exponential Heun: the trapezoidal rule for epsilon in gDDIM's frame (arXiv 2206.05564), with the linear part exact.
//!
//! z_p = Psi z + (Q_0 + Q_1) e(z, t); z_u = Psi z + Q_0 e(z, t) + Q_1 e(z_p, u), with Q_0, Q_1 the weights of the line
//! through both times.

use super::frame::Frame;
use super::{Compiler, SamplerInfo, Solver, gddim};
use crate::Result;

pub(super) const SOLVER: Solver = Solver {
    info: SamplerInfo {
        name: "exp_heun",
        title: "exponential Heun in the rotated frame",
        order: "2",
        nfe_per_step: 2,
        stochastic: false,
        adaptive: false,
        paper: "arXiv 2206.05564",
        equation: "Heun's rule in the frame of section 4",
        options: &[],
    },
    steps,
};

fn steps(c: &mut Compiler<'_>, grid: &[f64]) -> Result<()> {
    let process = c.process;
    let mut frame = Frame::rotating(process);
    for pair in grid.windows(2) {
        let (t, u) = (pair[0], pair[1]);
        let step = frame.step(t, u);
        let drifted = process.transition(t, u) * c.state(0);
        let weights = gddim::weights(process, &step, &[t, u]);
        c.eval(0, t, 0);
        let first = gddim::epsilon(c, &step, 0, &c.state(0))?;
        let predicted = drifted.clone() + (weights[0] + weights[1]) * first.clone();
        c.set(1, predicted.clone());
        c.eval(1, u, 1);
        let second = -step.to.r.transpose() * c.score(1, u, &predicted)?;
        c.set(0, drifted + weights[0] * first + weights[1] * second);
        c.end_step(t);
    }
    Ok(())
}
