//! DDIM (arXiv 2010.02502), k = 1: x_u = alpha_u x0 + sqrt(sigma_u^2 - c^2) eps + c xi, with
//! c = eta sigma_u / sigma_t sqrt(sigma_t^2 - (alpha_t / alpha_u)^2 sigma_u^2).

use super::{Compiler, SamplerInfo, Solver, multistep};
use crate::Result;
use crate::process::Mat;

pub(super) const SOLVER: Solver = Solver {
    info: SamplerInfo {
        name: "ddim",
        title: "DDIM (k = 1)",
        order: "1; weak 1 with `eta` > 0; exact for point data",
        nfe_per_step: 1,
        stochastic: false,
        adaptive: false,
        paper: "arXiv 2010.02502",
        equation: "Eq. 12, Eq. 16",
        options: &["eta", "published"],
    },
    steps,
};

fn steps(c: &mut Compiler<'_>, grid: &[f64]) -> Result<()> {
    multistep::only_k1(c, "sampler `ddim` is", "use `gddim`, its form for any k")?;
    let eta = multistep::eta(c)?;
    let scalar = |x: f64| Mat::from_rows([[x]]);
    for pair in grid.windows(2) {
        let (t, u) = (pair[0], pair[1]);
        let ((alpha_t, sigma_t), (alpha_u, sigma_u)) =
            (multistep::scales(c.process, t), multistep::scales(c.process, u));
        c.eval(0, t, 0);
        let z = c.state(0);
        let eps = c.epsilon(0, t, &z)?;
        let ratio = alpha_u / alpha_t;
        // The variance that the forward process adds between u and t.
        let added = sigma_t * sigma_t - sigma_u * sigma_u / (ratio * ratio);
        let drawn = eta * sigma_u / sigma_t * libm::sqrt(added.max(0.0));
        let kept = libm::sqrt((sigma_u * sigma_u - drawn * drawn).max(0.0));
        let mut next = scalar(ratio) * z + scalar(kept - ratio * sigma_t) * eps;
        if eta > 0.0 {
            next = next + c.solver_noise(scalar(drawn));
        }
        c.set(0, next);
        c.end_step(t);
    }
    Ok(())
}
