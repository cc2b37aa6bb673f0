//! Symmetric splitting of the reverse-time SDE (arXiv 2112.07068, section 3.3, for CLD; arXiv 2303.01748,
//! appendix, for PSLD; published as `sscs_sde`).
//!
//! The reverse drift -F z + G G^T s splits into the time-reversed Ornstein-Uhlenbeck process of the recipe (Q
//! negated), which is solved exactly, and the rest, G G^T (s + S^-1 z), which is taken by Euler: half, whole, half.
//! Stated so, it holds for every recipe.

use super::compiler::Compiler;
use super::{SamplerInfo, Solver};
use crate::process::{Decomposition, Mat, Process};
use crate::{Error, Result, Status};

pub(super) const SOLVER: Solver = Solver {
    info: SamplerInfo {
        name: "sscs",
        title: "symmetric splitting (SSCS)",
        order: "weak 1, strong 1, small constant",
        nfe_per_step: 1,
        stochastic: true,
        adaptive: false,
        paper: "arXiv 2112.07068",
        equation: "section 3.3",
        options: &[],
    },
    steps,
};

fn steps(c: &mut Compiler<'_>, grid: &[f64]) -> Result<()> {
    let Some(reversed) = c.process.time_reversed_ou() else {
        return Err(Error::new(
            Status::Unsupported,
            format!(
                "sampler `sscs` needs a process built by the recipe (D, Q, S), which {} is not",
                c.process
            ),
        )
        .hint("use `em` or `ancestral`"));
    };
    let inverse_s = c.process.prior_covariance().inverse()?;
    for pair in grid.windows(2) {
        let (t, u) = (pair[0], pair[1]);
        let h = t - u;
        let middle = 0.5 * (t + u);
        half(c, &reversed, t, middle)?;
        c.eval(0, t, 0);
        let z = c.state(0);
        let score = c.score(0, t, &z)?;
        c.set(0, z.clone() + c.process.diffusion(t) * h * (score + inverse_s * z));
        half(c, &reversed, middle, u)?;
        c.end_step(t);
    }
    Ok(())
}

/// The exact half step from t down to u. Its covariance gets `numerical_eps` as the published code's does.
fn half(c: &mut Compiler<'_>, reversed: &Process, t: f64, u: f64) -> Result<()> {
    // The reversed process runs over the same increment of b(t); where it starts does not matter.
    let covariance = reversed.added_noise(u, t) + Mat::identity(reversed.k()) * reversed.numerical_eps();
    let factor = match reversed.decomposition() {
        Decomposition::Lower => covariance.cholesky_lower(),
        Decomposition::Upper => covariance.cholesky_upper(),
    };
    let factor = factor.map_err(|e| {
        Error::new(Status::Numeric, format!("sscs: the noise of the step from {t} to {u}")).source(e)
    })?;
    let noise = c.solver_noise(factor);
    c.set(0, reversed.transition(u, t) * c.state(0) + noise);
    Ok(())
}
