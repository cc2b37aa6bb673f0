//! gDDIM in phase space (arXiv 2206.05564): the probability flow with epsilon interpolated in the frame in which a
//! point's noise stands still, and its stochastic form.
//!
//! With R of the [frame](super::frame) and e = -R^T score, z_u = Psi z + sum_j Q_j e_j with
//! Q_j = 1/2 integral of l_j Psi(s -> u) G G^T R^-T over the step, l_j the Lagrange basis on the times of the newest
//! calls (their number is the order). Order 1 is closed, Q = R_u - Psi R_t, and exact in one step for data at a point;
//! for k = 1 it is DDIM.
//!
//! With eta > 0 (order 1): z_u = Psi z + (Psi_eta - Psi) R_t e + N(0, Sigma_u - Psi_eta Sigma_t Psi_eta^T), where
//! Psi_eta is the transition of F + 1/2 (1 + eta^2) G G^T Sigma^-1. The covariance is closed, so the law of a point's
//! data is exact for every eta; eta = 1 is `ancestral`.

use super::frame::{Frame, Node, Step};
use super::multistep::{self, History};
use super::{Compiler, SamplerInfo, Solver};
use crate::plan::Affine;
use crate::process::{Mat, Process};
use crate::{Error, Result};

pub(super) const SOLVER: Solver = Solver {
    info: SamplerInfo {
        name: "gddim",
        title: "gDDIM, epsilon in the rotated frame",
        order: "1 to 3 (`order`, default 3); weak 1 with `eta` > 0; exact for point data",
        nfe_per_step: 1,
        stochastic: false,
        adaptive: false,
        paper: "arXiv 2206.05564",
        equation: "section 4, multistep; stochastic: lambda = eta",
        options: &["order", "eta"],
    },
    steps,
};

fn steps(c: &mut Compiler<'_>, grid: &[f64]) -> Result<()> {
    let eta = multistep::eta(c)?;
    if eta > 0.0 {
        if c.options.order.is_some_and(|order| order > 1) {
            return Err(Error::argument("order: with eta > 0 `gddim` is of order 1")
                .hint("leave `order` out; `sde_dpmpp` is the stochastic sampler of order 2"));
        }
        return stochastic(c, grid, eta);
    }
    let order = multistep::order(c, grid, 3, 3)?;
    let process = c.process;
    let mut frame = Frame::rotating(process);
    let mut history = History::new(order, 1);
    for pair in grid.windows(2) {
        let (t, u) = (pair[0], pair[1]);
        let step = frame.step(t, u);
        history.call(c, t, &|c, slot, z| epsilon(c, &step, slot, z))?;
        let weights = weights(process, &step, &history.times(order));
        c.set(0, history.weighted(process.transition(t, u) * c.state(0), &weights));
        c.end_step(t);
    }
    Ok(())
}

/// Epsilon in the frame at the beginning of a step.
pub(super) fn epsilon(c: &Compiler<'_>, step: &Step, slot: usize, z: &Affine) -> Result<Affine> {
    Ok(-step.from.r.transpose() * c.score(slot, step.t, z)?)
}

/// Q_j for epsilons at `times`.
pub(super) fn weights(process: &Process, step: &Step, times: &[f64]) -> Vec<Mat> {
    let total = step.to.r - process.transition(step.t, step.u) * step.from.r;
    step.weights(times, |s| s, |node| pull(process, step, node), Some(total))
}

/// 1/2 Psi(s -> u) G G^T R^-T.
pub(super) fn pull(process: &Process, step: &Step, node: &Node) -> Mat {
    let inward = process.diffusion(node.s) * (node.at.inverse.transpose() * 0.5);
    process.transition(node.s, step.u) * inward
}

fn stochastic(c: &mut Compiler<'_>, grid: &[f64], eta: f64) -> Result<()> {
    let process = c.process;
    let mut frame = Frame::rotating(process);
    for pair in grid.windows(2) {
        let (t, u) = (pair[0], pair[1]);
        let step = frame.step(t, u);
        c.eval(0, t, 0);
        let z = c.state(0);
        let eps = epsilon(c, &step, 0, &z)?;
        let inner = transition(process, &frame, &step, eta);
        let down = process.transition(t, u);
        let noise = c.solver_noise(spread(&step, inner));
        c.set(0, down * z + (step.to.r * inner - down * step.from.r) * eps + noise);
        c.end_step(t);
    }
    Ok(())
}

/// R_u^-1 Psi_eta(t -> u) R_t: the identity for eta = 0, a contraction else.
fn transition(process: &Process, frame: &Frame<'_>, step: &Step, eta: f64) -> Mat {
    let ancestral = || {
        step.to.r.transpose() * process.transition(step.u, step.t).transpose() * step.from.inverse.transpose()
    };
    match process.k() {
        _ if eta == 1.0 => ancestral(),
        1 => Mat::from_rows([[libm::pow(ancestral()[(0, 0)], eta * eta)]]),
        _ => frame.transition(step, |node| {
            let inverse = node.at.inverse;
            inverse * process.diffusion(node.s) * inverse.transpose() * (0.5 * eta * eta)
        }),
    }
}

/// The factor of the noise that a step with R_u^-1 Psi R_t = `inner` adds to keep the law of a point's data:
/// R_u (1 - inner inner^T)^(1/2).
pub(super) fn spread(step: &Step, inner: Mat) -> Mat {
    step.to.r * (Mat::identity(inner.rows()) - inner * inner.transpose()).psd_factor()
}
