//! From data to noise: a deterministic sampler's steps of the probability flow, taken the other way (arXiv 2011.13456,
//! section 4.3, for any recipe). The state that they begin with is (x_0, m_0) at t = 0.
//!
//! Everything is as when decoding, in the opposite order: first the closing step from t_end to 0 is taken back, then the grid
//! is walked upwards. So who decodes with the same options gets the image back, up to the sampler's error.

use super::compiler::Compiler;
use crate::spec::SamplerSpec;
use crate::{Error, Result, Status};

/// The samplers whose steps lead both ways: those of the probability flow that interpolate epsilon or its drift. (In terms of
/// the data estimate, which little noise tells much of, errors grow with the noise.)
const BOTH_WAYS: [&str; 7] = ["exp_heun", "gddim", "deis", "ddim", "heun", "euler", "rk45"];

/// Refuses what leads from noise to data only.
pub(super) fn check(options: &SamplerSpec, inpaints: bool) -> Result<()> {
    let name = options.name();
    let refuse = |what: String| {
        let hint = format!("the samplers that encode are {}", BOTH_WAYS.join(", "));
        Err(Error::new(Status::Unsupported, format!("encode: {what}")).hint(hint))
    };
    if inpaints {
        return Err(Error::new(Status::Unsupported, "encode: there is nothing to complete on the way to noise"));
    }
    if super::list().any(|info| info.name == name) && !BOTH_WAYS.contains(&name) {
        return refuse(format!("sampler `{name}` leads from noise to data only"));
    }
    if options.eta.is_some_and(|eta| eta != 0.0) {
        return refuse(format!("with eta = {:?} sampler `{name}` draws noise", options.eta.unwrap_or(0.0)));
    }
    Ok(())
}

/// The first rows: from t = 0 to t_end by the closing step the other way, with the drift at t_end. On paths that are no
/// recipes, which close with the data estimate, the data are scaled as they are at t_end.
pub(super) fn open(c: &mut Compiler<'_>, t_end: f64) -> Result<()> {
    let z = c.state(0);
    match c.process.parameters() {
        Some(_) => {
            let drift = c.reverse_drift(0, t_end, 0, &z, 0.5)?;
            c.set(0, z + -t_end * drift);
        }
        None => c.set(0, c.process.mean(t_end) * z),
    }
    c.end_step();
    Ok(())
}
