//! Data prediction, the form of DPM-Solver++ (arXiv 2211.01095) on any recipe: the data estimate interpolated, all else
//! exact.
//!
//! z_u = P z + sum_j W_j x0_j with P = R_u R_t^-1 in the [frame](super::frame) of gDDIM and
//! W_j = -1/2 integral of l_j P(s -> u) G G^T Sigma^-1 a over the step; the W_j add up to a_u - P a_t, so a step is exact
//! for data at a point.
//!
//! `published` (k = 1): multistep DPM-Solver++ with the paper's coefficients in half the log-SNR.

use super::frame::{Frame, Node, Step};
use super::multistep::{self, History};
use super::{Compiler, SamplerInfo, Solver};
use crate::Result;
use crate::process::{Mat, Process};

pub(super) const SOLVER: Solver = Solver {
    info: SamplerInfo {
        name: "dpmpp",
        title: "data prediction, multistep (DPM-Solver++)",
        order: "1 to 3 (`order`, default 2); exact for point data",
        nfe_per_step: 1,
        stochastic: false,
        adaptive: false,
        paper: "arXiv 2211.01095",
        equation: "Algorithm 2; `published`: its code, multistep 1 to 3",
        options: &["order", "published", "lower_order_final"],
    },
    steps,
};

/// `lower_order_final` acts with fewer calls than this, as in the published code.
const FEW: usize = 15;

fn steps(c: &mut Compiler<'_>, grid: &[f64]) -> Result<()> {
    let order = multistep::order(c, grid, 2, 3)?;
    let orders = multistep::orders(c, grid, order, FEW);
    let mut history = History::new(order, 1);
    if multistep::published(c)? {
        return published(c, grid, &orders, history);
    }
    let process = c.process;
    let mut frame = Frame::rotating(process);
    for (pair, order) in grid.windows(2).zip(orders) {
        let (t, u) = (pair[0], pair[1]);
        let step = frame.step(t, u);
        history.call(c, t, &|c, slot, z| c.x0(slot, t, z))?;
        let carried = step.to.r * step.from.inverse;
        let weights = weights(process, &step, &history.times(order));
        c.set(0, history.weighted(carried * c.state(0), &weights));
        c.end_step(t);
    }
    Ok(())
}

/// W_j for data estimates at `times`.
pub(super) fn weights(process: &Process, step: &Step, times: &[f64]) -> Vec<Mat> {
    let total = process.mean(step.u) - step.to.r * step.from.inverse * process.mean(step.t);
    let pull = |node: &Node| {
        let inverse = node.at.inverse;
        let seen = inverse.transpose() * inverse * process.mean(node.s);
        step.to.r * inverse * process.diffusion(node.s) * seen * -0.5
    };
    step.weights(times, |s| s, pull, Some(total))
}

fn published(c: &mut Compiler<'_>, grid: &[f64], orders: &[usize], mut history: History) -> Result<()> {
    let lambda = |c: &Compiler<'_>, t: f64| c.process.log_snr(t);
    for (pair, order) in grid.windows(2).zip(orders) {
        let (t, u) = (pair[0], pair[1]);
        history.call(c, t, &|c, slot, z| c.x0(slot, t, z))?;
        let times: Vec<f64> = history.times(*order).iter().map(|t| lambda(c, *t)).collect();
        let ((_, sigma_t), (alpha_u, sigma_u)) =
            (multistep::scales(c.process, t), multistep::scales(c.process, u));
        let weights: Vec<Mat> =
            coefficients(&times, lambda(c, u)).iter().map(|w| Mat::from_rows([[alpha_u * w]])).collect();
        let kept = Mat::from_rows([[sigma_u / sigma_t]]);
        c.set(0, history.weighted(kept * c.state(0), &weights));
        c.end_step(t);
    }
    Ok(())
}

/// The weights of the newest data estimates, over alpha_u, of the step from `lambdas[0]` to `end`; the order is the
/// number of lambdas. Second order simplifies, as published; third order is published with half the weight that
/// integrating the quadratic gives its last term.
fn coefficients(lambdas: &[f64], end: f64) -> Vec<f64> {
    let h = end - lambdas[0];
    let phi_1 = libm::expm1(-h);
    match *lambdas {
        [now, before] => {
            let r = (now - before) / h;
            vec![-phi_1 * (1.0 + 0.5 / r), phi_1 * 0.5 / r]
        }
        [now, before, earlier] => {
            let (r_0, r_1) = ((now - before) / h, (before - earlier) / h);
            let (phi_2, sum) = (phi_1 / h + 1.0, r_0 + r_1);
            let phi_3 = phi_2 / h - 0.5;
            // Of D_1 and D_2, both made of the differences x0_0 - x0_1 and x0_1 - x0_2.
            let first = (phi_2 * (1.0 + r_0 / sum) - phi_3 / sum) / r_0;
            let second = -(phi_2 * r_0 / sum - phi_3 / sum) / r_1;
            vec![first - phi_1, second - first, -second]
        }
        _ => vec![-phi_1],
    }
}
