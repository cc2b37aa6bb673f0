//! From data to noise: a deterministic sampler's steps of the probability flow, taken the other way (arXiv 2011.13456,
//! section 4.3, for any recipe).
//!
//! Everything is as when decoding, in the opposite order: first the closing step from t_end to 0 is taken back, then the grid
//! is walked upwards. So who decodes with the same options gets the image back, up to the sampler's error. Data have no
//! momenta; with momenta drawn as they are at t_end given the image, latents are distributed as the prior is. (At t = 0 their
//! spread is another one by a third, which no single step up to t_end makes up for.) So only the position takes the
//! closing step back.

use super::compiler::Compiler;
use crate::process::Mat;
use crate::spec::SamplerSpec;
use crate::{Error, Result, Status};

/// The samplers whose steps lead both ways, the best first: exact for a point's data in either direction, or plain steps of
/// the probability flow. (With `dpmpp` errors of the data estimate grow with the noise; `unipc` corrects them.)
const BOTH_WAYS: [&str; 8] = ["unipc", "gddim", "exp_heun", "deis", "ddim", "heun", "euler", "rk45"];

/// What keeps of a state its position.
pub(super) fn position(k: usize) -> Mat {
    Mat::from_fn(k, k, |i, j| f64::from(i == 0 && j == 0))
}

/// Refuses what leads from noise to data only.
pub(super) fn check(options: &SamplerSpec, inpaints: bool) -> Result<()> {
    let name = options.name();
    let refuse = |what: String| {
        let hint = format!("the samplers that encode are {}", BOTH_WAYS.join(", "));
        Err(Error::new(Status::Unsupported, format!("encode: {what}")).hint(hint))
    };
    if inpaints {
        return Err(Error::new(
            Status::Unsupported,
            "encode: there is nothing to complete on the way to noise",
        ));
    }
    if options.clipping().is_some() {
        return Err(Error::new(
            Status::Unsupported,
            "clip: the way from data to noise (`encode`, likelihoods) follows the network's own estimates",
        )
        .hint("leave `clip` out; it is for the way back"));
    }
    if super::list().any(|info| info.name == name) && !BOTH_WAYS.contains(&name) {
        return refuse(format!("sampler `{name}` leads from noise to data only"));
    }
    if options.eta.is_some_and(|eta| eta != 0.0) {
        return refuse(format!("with eta = {:?} sampler `{name}` draws noise", options.eta.unwrap_or(0.0)));
    }
    Ok(())
}

impl Compiler<'_> {
    /// The first rows: the position from t = 0 to t_end by the closing step the other way, with the drift at t_end. On paths that
    /// are no recipes, which close with the data estimate, the data are scaled as they are at t_end.
    pub(super) fn open_encoding(&mut self, t_end: f64) -> Result<()> {
        let z = self.state(0);
        match self.process.parameters() {
            Some(_) => {
                let drift = self.reverse_drift(0, t_end, 0, &z, 0.5)?;
                self.set(0, z + position(self.process.k()) * (-t_end * drift));
            }
            None => self.set(0, self.process.mean(t_end) * z),
        }
        self.count_step();
        Ok(())
    }
}
