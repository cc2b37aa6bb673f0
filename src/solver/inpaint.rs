//! Inpainting as rows between the steps of any sampler (arXiv 2303.01748, section 5; published as `ip_em_sde`).

use super::compiler::Compiler;
use crate::Result;
use crate::noise::Purpose;
use crate::plan::{Map, MapKind, Row};
use crate::spec::InpaintMethod;

/// Before the first step: the known region is a draw of the kernel at t_start.
pub(super) fn open(c: &mut Compiler<'_>, grid: &[f64]) -> Result<()> {
    if c.inpaint.is_some() { replace(c, grid[0], true) } else { Ok(()) }
}

/// After the step that began at `t`. The published code perturbs the known region to the time at which the step
/// began, one step noisier than the state around it.
pub(super) fn after_step(c: &mut Compiler<'_>, t: f64) -> Result<()> {
    match c.inpaint {
        Some(InpaintMethod::Published) => replace(c, t, true),
        None => Ok(()),
    }
}

/// After the closing step at `t`: the kernel's mean, which is not quite the image.
pub(super) fn close(c: &mut Compiler<'_>, t: f64) -> Result<()> {
    match c.inpaint {
        Some(InpaintMethod::Published) => replace(c, t, false),
        None => Ok(()),
    }
}

fn replace(c: &mut Compiler<'_>, t: f64, noisy: bool) -> Result<()> {
    let mean = c.process.mean(t);
    let noise = match noisy {
        true => Some((Purpose::Inpaint, c.draw(Purpose::Inpaint), c.process.factor(t))),
        false => None,
    };
    let step = c.step();
    c.row(Row::Map(Map { step, kind: MapKind::Replace { t, mean, noise }, into: 0 }));
    Ok(())
}
