//! Inpainting as rows between the steps of any sampler (arXiv 2303.01748, section 5; published as `ip_em_sde`), with
//! the resampling of arXiv 2201.09865 on top.

use super::compiler::Compiler;
use crate::noise::Purpose;
use crate::plan::{Map, MapKind, Row};
use crate::process::{Mat, Process};
use crate::spec::InpaintMethod;

impl Compiler<'_> {
    /// Before the first step: the known region is a draw of the kernel at t_start.
    pub(super) fn open_inpainting(&mut self, t_start: f64) {
        if self.inpaint.is_some() {
            self.perturb_known(t_start);
        }
    }

    /// Ends the step that began at `t`. With an image to complete the known region becomes a draw of the kernel: in the published
    /// code at the time at which the step began, one step noisier than the state around it; in the corrected method at which it
    /// ends.
    pub fn end_step(&mut self, t: f64) {
        if let Some(inpaint) = self.inpaint {
            let published = inpaint.method == InpaintMethod::Published;
            self.perturb_known(if published { t } else { self.end_of_step() });
        }
        self.repeat_step();
        self.count_step();
    }

    /// After the closing step at `t`: the kernel's mean, which is not quite the image. The corrected method restores the
    /// image by its last row instead.
    pub(super) fn close_inpainting(&mut self, t: f64) {
        if self.inpaint.is_some_and(|inpaint| inpaint.method == InpaintMethod::Published) {
            self.row(Row::Map(Map { step: self.step(), kind: mean(self.process, t), into: 0 }));
        }
    }

    /// The last row of the corrected method, in step `step`.
    pub(super) fn restore_known(&mut self, step: usize) {
        if self.inpaint.is_some_and(|inpaint| inpaint.method == InpaintMethod::Corrected) {
            self.row(Row::Map(Map { step, kind: image(self.process), into: 0 }));
        }
    }

    fn perturb_known(&mut self, t: f64) {
        let draw = self.draw(Purpose::Inpaint);
        self.row(Row::Map(perturbed(self.process, self.step(), t, draw)));
    }
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
