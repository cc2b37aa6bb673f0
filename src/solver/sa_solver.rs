//! SA-Solver (arXiv 2309.05019) with tau = 1 on any recipe: stochastic Adams steps of the reverse-time SDE with the data
//! estimate interpolated, predicted and corrected at one call a step.
//!
//! A step is that of [`sde_dpmpp`](super::sde_dpmpp), to order 3; what is predicted is corrected, with the same noise, by the
//! data estimate at the prediction ([`unipc`](super::unipc)). The data estimate of the exact network is a martingale, so
//! nothing but the noise's law is left to be of an order.

use super::frame::Frame;
use super::sde_dpmpp::Reverse;
use super::unipc::{self, Scheme};
use super::{Compiler, SamplerInfo, Solver, multistep};
use crate::Result;
use crate::process::Mat;

pub(super) const SOLVER: Solver = Solver {
    info: SamplerInfo {
        name: "sa_solver",
        title: "SDE data prediction, predictor-corrector (SA-Solver)",
        order: "weak 2 (`order` 1 to 3, default 2); exact for point data",
        nfe_per_step: 1,
        stochastic: true,
        adaptive: false,
        paper: "arXiv 2309.05019",
        equation: "Algorithm 1, tau = 1",
        options: &["order"],
    },
    steps,
};

fn steps(c: &mut Compiler<'_>, grid: &[f64]) -> Result<()> {
    let order = multistep::order(c, grid, 2, 3)?;
    c.close_along_the_flow();
    let process = c.process;
    let mut frame = Frame::triangular(process);
    unipc::drive(c, grid, &vec![order; grid.len() - 1], |t, u| Reverse::new(process, frame.step(t, u)))
}

impl Scheme for Reverse<'_> {
    fn carried(&self) -> Mat {
        self.carried()
    }
    fn predict(&self, times: &[f64]) -> Result<Vec<Mat>> {
        Ok(self.weights(times))
    }
    fn correct(&self, times: &[f64]) -> Result<Vec<Mat>> {
        Ok(self.weights(times))
    }
    fn noise(&self) -> Option<Mat> {
        Some(self.spread())
    }
}
