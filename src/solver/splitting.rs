//! What the splittings of position and momentum share (arXiv 2310.07894).

use crate::plan::Affine;
use crate::process::{Mat, Process};
use crate::{Error, Result, Status};

/// Projections on the position (A) and on the momentum (B), which a splitting advances in turn.
pub(super) struct Parts {
    pub position: Mat,
    pub momentum: Mat,
}

impl Parts {
    /// # Errors
    /// [`Status::Unsupported`] unless k = 2.
    pub fn of(name: &str, process: &Process) -> Result<Self> {
        let k = process.k();
        if k == 2 {
            return Ok(Self { position: Mat::diagonal(&[1.0, 0.0]), momentum: Mat::diagonal(&[0.0, 1.0]) });
        }
        let error = Error::new(
            Status::Unsupported,
            format!(
                "sampler `{name}` advances position and momentum in turn, so it needs a process with k = 2; this one, \
                 {process}, has k = {k}"
            ),
        );
        Err(error.hint(if k == 1 {
            "use `conjugate` (DDIM for k = 1), `heun` or `ancestral`"
        } else {
            "use `conjugate`, `heun` or `sscs`, which take any k"
        }))
    }
}

/// An Euler step of length h of one part: z + h part (linear z + pull), where `pull` is the rest of the drift.
pub(super) fn euler(part: Mat, h: f64, linear: Mat, z: Affine, pull: &Affine) -> Affine {
    z.clone() + part * h * (linear * z + pull.clone())
}
