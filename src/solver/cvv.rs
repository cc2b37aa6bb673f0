//! Conjugate velocity Verlet of the probability flow (arXiv 2310.07894, "CSPS-D"): [`rvv`](super::rvv) with each Euler
//! part replaced by a step of the conjugate integrator of that part, with B = lambda [[1, 1], [0, 0]] for the
//! position and lambda [[0, 0], [1, 1]] for the momentum.
//!
//! The parts are made conjugate one by one. Splitting the flow in globally conjugate coordinates instead would be
//! unstable: their condition number is e^16.
//!
//! On exact networks it does not pay: over 40 uniform steps from t = 1 to 0.1 (methods 7.3, and `tests/golden.rs`) it
//! misses the exact 0.877 by 0.099, where plain `rvv` misses it by 0.0006. What the paper gains with it is a property of its
//! trained networks.

use super::compiler::Compiler;
use super::conjugate::part;
use super::splitting::Parts;
use super::stability::{self, Step};
use super::{SamplerInfo, Solver};
use crate::Result;
use crate::process::Mat;

pub(super) const SOLVER: Solver = Solver {
    info: SamplerInfo {
        name: "cvv",
        title: "conjugate velocity Verlet, probability flow",
        order: "1",
        nfe_per_step: 2,
        stochastic: false,
        adaptive: false,
        paper: "arXiv 2310.07894",
        equation: "conjugate splitting, CVV",
        options: &["lambda"],
    },
    steps,
};

/// Where none is given. Larger ones are better at 50 and 100 calls on the exact mixtures tried, and worse at 20.
const LAMBDA: f64 = 0.5;

fn steps(c: &mut Compiler<'_>, grid: &[f64]) -> Result<()> {
    let Parts { position, momentum } = Parts::of("cvv", c.process)?;
    let process = c.process;
    let ones = Mat::from_fn(2, 2, |_, _| 1.0);
    // Two parts, one for each network call; the first is momentum, then position, with the same epsilon.
    let parts = |lambda: f64, t: f64, u: f64| {
        let middle = 0.5 * (t + u);
        let conjugate = |rows: Mat, t: f64, u: f64| part(process, rows * ones * lambda, rows, t, u);
        let (first, whole) = (conjugate(momentum, t, middle), conjugate(position, t, u));
        let rest = Step { t: u, ..conjugate(momentum, middle, u) };
        let both =
            Step { t, on_z: whole.on_z * first.on_z, on_eps: whole.on_z * first.on_eps + whole.on_eps };
        [both, rest]
    };
    let given = (c.options.lambda, LAMBDA);
    let lambda = stability::strength("cvv", process, grid, given, ones.norm_inf(), |lambda, t, u| {
        parts(lambda, t, u).into()
    })?;
    for pair in grid.windows(2) {
        let (t, u) = (pair[0], pair[1]);
        for step in parts(lambda, t, u) {
            c.eval(0, step.t, 0);
            let z = c.state(0);
            let eps = c.epsilon(0, step.t, &z)?;
            c.set(0, step.on_z * z + step.on_eps * eps);
        }
        c.end_step(t);
    }
    Ok(())
}
