//! Linear restoration: rows that hold the data estimate to a measurement y = H x + noise, so that every sampler restores
//! and none knows of it (arXiv 2212.00490, in phase space and for any prediction).
//!
//! Let the data estimate be m = E[x_0 | z_t]. If x_0 given z_t were N(m, r^2 1), with r^2 = (1/s^2 + a^T C^-1 a)^-1 for data of
//! variance s^2, then given y, too, its mean would be
//!
//!   m + r^2 H^T (r^2 H H^T + noise^2)^-1 (y - H m),
//!
//! which without noise is m + H^+ (y - H m). The score of z_t given y is C^-1 (a E[x_0 | z_t, y] - z), so moving the data
//! estimate by delta moves epsilon by -L^T C^-1 a delta. No derivative of the network is needed; for Gaussian data of variance
//! s^2 it is all exact.

mod linear;

pub(crate) use linear::Linear;

use crate::array::{Tensor, warn_of_range};
use crate::decode::Decoder;
use crate::isa::Isa;
use crate::noise::{self, Purpose};
use crate::plan::{Eval, Map, MapKind};
use crate::process::Process;
use crate::spec::{DataSpec, Restoration};
use crate::{Error, Result, Status};
use ndarray::ArrayD;

/// Measures images: y = H x + noise n, with n the normals of purpose `probe`, draw 0, and seed `seed` + i for image i. Of the
/// operator `mask` each element is measured, and the mask is a matter of who restores.
///
/// `images` are [n, C, ...] in the data range; the result is [n, ...] with the shape that the operator gives.
///
/// # Errors
/// [`Status::InvalidArgument`] where the operator does not fit or an image is not finite; [`Status::ShapeMismatch`].
pub fn measure(restoration: &Restoration, data: &DataSpec, images: Tensor, seed: u64) -> Result<ArrayD<f32>> {
    let linear = Linear::new(restoration, &data.shape)?;
    let n = images.shape().first().copied().unwrap_or(0);
    if images.shape().get(1..) != Some(&data.shape[..]) {
        let (got, expected) = (images.shape(), &data.shape);
        return Err(Error::new(
            Status::ShapeMismatch,
            format!("images: expected shape [n, ...] with {expected:?}, got {got:?}"),
        ));
    }
    if images.find(|x| !x.is_finite()).is_some() {
        return Err(Error::argument("images: a value is not finite"));
    }
    warn_of_range("images", &images, data.range);
    let mut shape = vec![n];
    shape.extend(linear.shape());
    let mut values = vec![0.0; images.shape().iter().product()];
    images.copy_into(&mut values)?;
    let mut out = Vec::with_capacity(shape.iter().product());
    for (i, image) in values.chunks(data.shape.iter().product()).enumerate() {
        let y = linear.apply(image);
        let mut normals = vec![0.0; y.len()];
        noise::fill(Isa::detect(), seed.wrapping_add(i as u64), Purpose::Probe, 0, 0, &mut normals);
        out.extend(y.iter().zip(&normals).map(|(y, n)| (y + restoration.noise * n) as f32));
    }
    ArrayD::from_shape_vec(shape, out)
        .map_err(|e| Error::new(Status::Internal, "the measurement's shape").source(e))
}

/// The row that follows the model's call `eval`, and its guidance.
pub(crate) fn row(
    restoration: &Restoration,
    range: [f64; 2],
    decoder: &Decoder,
    process: &Process,
    eval: &Eval,
) -> Result<Map> {
    let (on_z, on_output) = decoder.x0(process, eval.t)?;
    let snr = libm::exp(2.0 * process.log_snr(eval.t));
    let kind = MapKind::Restore {
        from: eval.from,
        on_z,
        on_output,
        b: decoder.output_from_x0(process, eval.t)?,
        variance: 1.0 / (1.0 / restoration.data_variance(range) + snr),
    };
    Ok(Map { step: eval.step, kind, into: eval.slot })
}
