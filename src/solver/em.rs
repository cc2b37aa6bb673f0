//! Euler-Maruyama of the reverse-time SDE (arXiv 2303.01748, section 4; published as `em_sde`).

use super::compiler::Compiler;
use super::{SamplerInfo, Solver};
use crate::Result;

pub(super) const SOLVER: Solver = Solver {
    info: SamplerInfo {
        name: "em",
        title: "Euler-Maruyama",
        order: "weak 1, strong 1 (additive noise)",
        nfe_per_step: 1,
        stochastic: true,
        adaptive: false,
        paper: "arXiv 2303.01748",
        equation: "reverse-time SDE",
        options: &[],
    },
    steps,
};

fn steps(c: &mut Compiler<'_>, grid: &[f64]) -> Result<()> {
    for pair in grid.windows(2) {
        let (t, h) = (pair[0], pair[0] - pair[1]);
        let z = c.state(0);
        let drift = c.reverse_drift(0, t, 0, &z, 1.0)?;
        let diffusion = (c.process.diffusion(t) * h).psd_factor();
        let noise = c.solver_noise(diffusion);
        c.set(0, z + h * drift + noise);
        c.end_step(t);
    }
    Ok(())
}
