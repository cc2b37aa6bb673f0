//! Inpainting as rows between the steps of any sampler (arXiv 2303.01748, section 5; published as `ip_em_sde`), with
//! the resampling of arXiv 2201.09865 on top.

use super::compiler::Compiler;
use crate::Result;
use crate::noise::Purpose;
use crate::plan::{Map, MapKind, Row};
use crate::process::{Mat, Process};
use crate::spec::InpaintMethod;

/// Before the first step: the known region is a draw of the kernel at t_start.
pub(super) fn open(c: &mut Compiler<'_>, grid: &[f64]) -> Result<()> {
    if c.inpaint.is_some() { perturb(c, grid[0]) } else { Ok(()) }
}

/// After the step that began at `t`: the known region is a draw of the kernel. The published code takes it at the
/// time at which the step began, one step noisier than the state around it; the corrected method at which it ends.
pub(super) fn after_step(c: &mut Compiler<'_>, t: f64) -> Result<()> {
    if let Some(inpaint) = c.inpaint {
        perturb(c, if inpaint.method == InpaintMethod::Published { t } else { c.end_of_step() })?;
    }
    c.repeat_step();
    Ok(())
}

/// After the closing step at `t`: the kernel's mean, which is not quite the image. The corrected method restores the
/// image by its last row instead.
pub(super) fn close(c: &mut Compiler<'_>, t: f64) -> Result<()> {
    if c.inpaint.is_some_and(|inpaint| inpaint.method == InpaintMethod::Published) {
        c.row(Row::Map(Map { step: c.step(), kind: mean(c.process, t), into: 0 }));
    }
    Ok(())
}

/// The last row of the corrected method, in step `step`.
pub(super) fn restore(process: &Process, step: usize) -> Map {
    Map { step, kind: image(process), into: 0 }
}

fn perturb(c: &mut Compiler<'_>, t: f64) -> Result<()> {
    let draw = c.draw(Purpose::Inpaint);
    c.row(Row::Map(perturbed(c.process, c.step(), t, draw)));
    Ok(())
}

/// The known region becomes draw `draw` of the kernel at `t`.
pub(super) fn perturbed(process: &Process, step: usize, t: f64, draw: u32) -> Map {
    let noise = Some((Purpose::Inpaint, draw, process.factor(t)));
    Map { step, kind: MapKind::Replace { t, mean: process.mean(t), noise }, into: 0 }
}

fn mean(process: &Process, t: f64) -> MapKind {
    MapKind::Replace { t, mean: process.mean(t), noise: None }
}

/// The kernel's mean at t = 0: the image in the position, and zero in what else the state has.
fn image(process: &Process) -> MapKind {
    let mean = Mat::from_fn(process.k(), 1, |i, _| f64::from(i == 0));
    MapKind::Replace { t: 0.0, mean, noise: None }
}
