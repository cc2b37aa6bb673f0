//! Conjugate integrators of the probability flow (arXiv 2310.07894): Euler in coordinates in which the stiff part of
//! the flow is constant. With B = 0 the exponential integrator (for k = 1 DDIM, arXiv 2010.02502); B = lambda I and
//! B = lambda times the matrix of ones are the paper's lambda-DDIM-I and -II.
//!
//! With z' = A_t z and dA/dt = A (B - F) the flow reads dz' = A B A^-1 z' dt + dPhi eps. One Euler step of it from t
//! down to u, written for z itself, needs well-scaled matrices only (A_t itself grows like e^16):
//! z_u = P z + Q eps, P = K(t, u) (I - h B), Q = 1/2 int_t^u K(s, u) G G^T L_s^-T ds, K(s, u) = A_u^-1 A_s.

use super::compiler::Compiler;
use super::quadrature::integral;
use super::stability::{self, Step};
use super::{SamplerInfo, Solver};
use crate::process::{Mat, Process};
use crate::spec::ConjugateMatrix;
use crate::{Error, Result};

pub(super) const SOLVER: Solver = Solver {
    info: SamplerInfo {
        name: "conjugate",
        title: "conjugate integrator, probability flow",
        order: "1",
        nfe_per_step: 1,
        stochastic: false,
        adaptive: false,
        paper: "arXiv 2310.07894",
        equation: "lambda-DDIM; B = 0 for k = 1 is DDIM",
        options: &["matrix", "lambda"],
    },
    steps,
};

/// Strength of B where none is given. The paper searches for one at each budget. On the exact mixtures tried, at 20 to
/// 100 calls, 1 is better than 0 for both matrices, 2 better still for ones, and 4 unstable at 20 calls.
const LAMBDA: f64 = 1.0;

fn steps(c: &mut Compiler<'_>, grid: &[f64]) -> Result<()> {
    let matrix = c.options.matrix.unwrap_or_default();
    if matrix == ConjugateMatrix::Zero && c.options.lambda.is_some() {
        return Err(Error::argument("`lambda` has no effect with `matrix` zero, the default")
            .hint("give `matrix` identity or ones"));
    }
    let default = if matrix == ConjugateMatrix::Zero { 0.0 } else { LAMBDA };
    let k = c.process.k();
    let unit = match matrix {
        ConjugateMatrix::Zero => Mat::zeros(k, k),
        ConjugateMatrix::Identity => Mat::identity(k),
        ConjugateMatrix::Ones => Mat::from_fn(k, k, |_, _| 1.0),
    };
    let process = c.process;
    let step = |lambda: f64, t: f64, u: f64| whole(process, unit * lambda, t, u);
    let (given, size) = ((c.options.lambda, default), unit.norm_inf().max(1.0));
    let lambda = stability::strength("conjugate", process, grid, given, size, |lambda, t, u| {
        vec![step(lambda, t, u)]
    })?;
    for pair in grid.windows(2) {
        let (t, u) = (pair[0], pair[1]);
        c.eval(0, t, 0);
        let z = c.state(0);
        let eps = c.epsilon(0, t, &z)?;
        let Step { on_z, on_eps, .. } = step(lambda, t, u);
        c.set(0, on_z * z + on_eps * eps);
        c.end_step(t);
    }
    Ok(())
}

/// The step of the whole flow.
fn whole(process: &Process, b: Mat, t: f64, u: f64) -> Step {
    let k = process.k();
    if k == 1 && b[(0, 0)] == 0.0 {
        // DDIM: the integral is sigma_u - (a_u / a_t) sigma_t, on paths too steep for a quadrature, too (a table of betas
        // whose last ones are near 1).
        let on_z = process.transition(t, u);
        return Step { t, on_z, on_eps: process.factor(u) - on_z * process.factor(t) };
    }
    // A multiple of the identity commutes with F, whatever F is: the process's own transition serves.
    if b == Mat::identity(k) * b[(0, 0)] {
        let lambda = b[(0, 0)];
        return step(process, b, Mat::identity(k), t, u, |s| {
            process.transition(s, u) * libm::exp((s - u) * lambda)
        });
    }
    part(process, b, Mat::identity(k), t, u)
}

/// The step of those rows of the flow that the projection `rows` keeps, conjugate by B.
pub(super) fn part(process: &Process, b: Mat, rows: Mat, t: f64, u: f64) -> Step {
    // For a recipe F is linear in time.
    let (at_t, at_u) = (rows * process.drift(t), rows * process.drift(u));
    let constant = b - at_u;
    let slope = (at_u - at_t) * (1.0 / (t - u));
    step(process, b, rows, t, u, |s| propagator(constant, slope, s - u))
}

fn step(process: &Process, b: Mat, rows: Mat, t: f64, u: f64, k: impl Fn(f64) -> Mat) -> Step {
    // G G^T L^-T is what multiplies -eps in the flow.
    let on_eps = integral(t, u, |s| k(s) * rows * process.diffusion(s) * process.score_from_eps(s) * -0.5);
    Step { t, on_z: k(t) * (Mat::identity(process.k()) - b * (t - u)), on_eps }
}

/// K(s), the solution of dK/ds = K (M + s N) with K(0) = I, for s >= 0.
///
/// B and F do not commute, so with a time-dependent beta this is no exponential. The coefficients of its power
/// series follow from the equation, and the series converges everywhere; on stretches on which M s is at most 1/2 it
/// does so fast and without cancellation: 0.5^18 / 18! is below the last bit.
fn propagator(m: Mat, n: Mat, s: f64) -> Mat {
    let norm = m.norm_inf() + n.norm_inf() * s;
    let stretches = libm::ceil(2.0 * norm * s).clamp(1.0, 1e6) as usize;
    let h = s / stretches as f64;
    let mut product = Mat::identity(m.rows());
    for i in 0..stretches {
        let (m, n) = ((m + n * (i as f64 * h)) * h, n * (h * h));
        let (mut sum, mut term, mut before) = (Mat::identity(m.rows()), Mat::identity(m.rows()), m * 0.0);
        for order in 1..18 {
            (term, before) = ((term * m + before * n) * (1.0 / f64::from(order)), term);
            sum = sum + term;
        }
        // K(0 -> s) = K(0 -> r) times what solves the equation from r on.
        product = product * sum;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    /// y at `to` for dy/ds = slope(s, y) and y = `start` at `from`: 4000 steps of the classical Runge-Kutta method,
    /// which shares nothing with series and quadrature.
    fn integrate(from: f64, to: f64, start: Mat, slope: impl Fn(f64, Mat) -> Mat) -> Mat {
        let h = (to - from) / 4000.0;
        (0..4000).fold(start, |y, i| {
            let s = from + f64::from(i) * h;
            let k1 = slope(s, y);
            let k2 = slope(s + 0.5 * h, y + k1 * (0.5 * h));
            let k3 = slope(s + 0.5 * h, y + k2 * (0.5 * h));
            let k4 = slope(s + h, y + k3 * h);
            y + (k1 + (k2 + k3) * 2.0 + k4) * (h / 6.0)
        })
    }

    #[test]
    fn the_propagator_solves_its_equation() {
        let m = Mat::from_rows([[2.0, -17.0], [7.0, 18.0]]);
        let n = Mat::from_rows([[0.5, -9.0], [4.0, 11.0]]);
        for s in [1e-3, 0.05, 0.3] {
            let k = integrate(0.0, s, Mat::identity(2), |at, k| k * (m + n * at));
            let error = (propagator(m, n, s) - k).max_abs() / k.max_abs();
            assert!(error < 1e-11, "{s}: {error:e}");
        }
        // Without slope it is the exponential.
        let error = (propagator(m, n * 0.0, 0.4) - (m * 0.4).expm()).max_abs();
        assert!(error < 1e-11 * (m * 0.4).expm().max_abs(), "{error:e}");
    }

    /// With epsilon and the drift of the conjugate coordinates held constant, z obeys
    /// dz/ds = (F - B) z + 1/2 G G^T L^-T eps from (I - h B) z on; beta depends on time here, so nothing commutes.
    #[test]
    fn a_step_solves_the_frozen_flow() {
        let psld = crate::process::Psld { beta_min: 4.0, beta_max: 12.0, ..Default::default() };
        let process = Process::psld(psld).unwrap();
        let ones = Mat::from_fn(2, 2, |_, _| 0.7);
        let momentum = Mat::diagonal(&[0.0, 1.0]);
        for (b, rows) in [
            (ones, Mat::identity(2)),
            (momentum * ones, momentum),
            (Mat::identity(2) * 0.7, Mat::identity(2)),
        ] {
            for (t, u) in [(0.9, 0.7), (0.1, 0.06)] {
                let flow = |s: f64, z: Mat, eps: Mat| {
                    let pull = process.diffusion(s) * process.inverse_factor(s).transpose() * 0.5;
                    (rows * process.drift(s) - b) * z + rows * pull * eps
                };
                let (one, none) = (Mat::identity(2), Mat::zeros(2, 2));
                let on_z = integrate(t, u, one - b * (t - u), |s, z| flow(s, z, none));
                let on_eps = integrate(t, u, none, |s, z| flow(s, z, one));
                let step = if rows == one { whole(&process, b, t, u) } else { part(&process, b, rows, t, u) };
                assert!((step.on_z - on_z).max_abs() < 1e-11, "{t} -> {u}: {:?} {on_z:?}", step.on_z);
                assert!((step.on_eps - on_eps).max_abs() < 1e-10, "{t} -> {u}: {:?} {on_eps:?}", step.on_eps);
            }
        }
    }
}
