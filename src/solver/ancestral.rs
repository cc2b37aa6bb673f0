//! Ancestral sampling: the exact posterior step given the data estimate, which is stochastic gDDIM at lambda = 1
//! (arXiv 2206.05564); for k = 1 the ancestral sampler of DDPM (arXiv 2006.11239).
//!
//! z_u = Psi z + (Psi1 - Psi) L_t eps + N(0, P), Psi1 = Sigma_u Psi(u -> t)^T Sigma_t^-1,
//! P = Sigma_u - Psi1 Sigma_t Psi1^T; exact in one step where the data is a point.

use super::compiler::Compiler;
use super::{SamplerInfo, Solver};
use crate::Result;

pub(super) const SOLVER: Solver = Solver {
    info: SamplerInfo {
        name: "ancestral",
        title: "ancestral (posterior of the data estimate)",
        order: "weak 1; exact for point data",
        nfe_per_step: 1,
        stochastic: true,
        adaptive: false,
        paper: "arXiv 2206.05564",
        equation: "stochastic gDDIM, lambda = 1",
        options: &[],
    },
    steps,
};

fn steps(c: &mut Compiler<'_>, grid: &[f64]) -> Result<()> {
    for pair in grid.windows(2) {
        let (t, u) = (pair[0], pair[1]);
        c.eval(0, t, 0);
        let z = c.state(0);
        let eps = c.epsilon(0, t, &z)?;
        let process = c.process;
        let inverse = process.inverse_factor(t);
        let precision = inverse.transpose() * inverse;
        let posterior = process.covariance(u) * process.transition(u, t).transpose() * precision;
        let down = process.transition(t, u);
        let spread = process.covariance(u) - posterior * process.covariance(t) * posterior.transpose();
        let noise = c.solver_noise(spread.psd_factor());
        c.set(0, down * z + (posterior - down) * process.factor(t) * eps + noise);
        c.end_step(t);
    }
    Ok(())
}
