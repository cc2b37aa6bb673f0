//! Reduced OBA splitting of the reverse-time SDE (arXiv 2310.07894, "SPS-S"): friction and its noise exactly (O), then
//! with one score the momentum (B) and the position (A) by Euler.
//!
//! The reverse drift -F z + G G^T s is that of the friction, -beta D S^-1 z, with noise G, plus
//! beta (2 D + Q) S^-1 z + G G^T s, which B and A share by rows.
//!
//! `lambda_s` is the strength of the position's noise: its variance is that of a friction lambda_s times as strong,
//! 1 - exp(-lambda_s h beta Gamma), while the decay stays. Values above 1 help at few steps, because Euler loses
//! variance; they must fall towards 1 as steps are added, or the result keeps the noise. The paper multiplies by the
//! forward time t where this has the step's length h, which is not consistent as h goes to 0; a plan of
//! `examples/plans` does it.

use super::compiler::Compiler;
use super::splitting::{Parts, euler};
use super::{SamplerInfo, Solver};
use crate::{Error, Result, Status};

pub(super) const SOLVER: Solver = Solver {
    info: SamplerInfo {
        name: "roba",
        title: "reduced OBA splitting",
        order: "weak 1, strong 1 (lambda_s = 1)",
        nfe_per_step: 1,
        stochastic: true,
        adaptive: false,
        paper: "arXiv 2310.07894",
        equation: "stochastic splitting, ROBA",
        options: &["lambda_s"],
    },
    steps,
};

fn steps(c: &mut Compiler<'_>, grid: &[f64]) -> Result<()> {
    let Parts { position, momentum } = Parts::of("roba", c.process)?;
    let lambda_s = c.options.lambda_s.unwrap_or(1.0);
    if !(lambda_s >= 0.0 && lambda_s.is_finite()) {
        return Err(Error::argument(format!(
            "`lambda_s` is {lambda_s:?}: expected a finite number of at least 0"
        )));
    }
    if lambda_s != 1.0 && c.process.parameters().is_some_and(|recipe| recipe.d[(0, 0)] == 0.0) {
        return Err(Error::argument(format!(
            "`lambda_s` scales the position's noise, and {} has none (gamma is 0)",
            c.process
        ))
        .hint("leave lambda_s out"));
    }
    let (Some(exact), Some(scaled)) = (c.process.friction(1.0), c.process.friction(lambda_s)) else {
        return Err(Error::new(
            Status::Unsupported,
            "sampler `roba` needs a process built by the recipe (D, Q, S)",
        ));
    };
    for pair in grid.windows(2) {
        let (t, u) = (pair[0], pair[1]);
        let h = t - u;
        // The friction runs over the same increment of b(t); where it starts does not matter.
        let noise = c.solver_noise(scaled.added_noise(u, t).psd_factor());
        c.set(0, exact.transition(u, t) * c.state(0) + noise);
        c.eval(0, t, 0);
        let z = c.state(0);
        let pull = c.process.diffusion(t) * c.score(0, t, &z)?;
        let linear = -c.process.drift(t) - exact.drift(t);
        let pushed = euler(momentum, h, linear, z, &pull);
        let moved = euler(position, h, linear, pushed, &pull);
        c.set(0, moved);
        c.end_step(t);
    }
    Ok(())
}
