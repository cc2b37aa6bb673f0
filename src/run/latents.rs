//! Ways between latents.

use crate::array::Tensor;
use crate::process::{MAX_K, Mat};
use crate::spec::ModelSpec;
use crate::{Error, Result, Status};
use ndarray::ArrayD;

/// Below this sine two directions are one, or opposite.
const PARALLEL: f64 = 1e-6;

/// Latents on the way through others, by spherical interpolation (arXiv 1609.04468): on a straight way they would be nearer
/// to zero than the prior's draws are, which networks have never seen.
///
/// `latents` is [m, k*C, ...], such as a sampler that encodes makes them; place p of `at`, 0 to m - 1, is between latents
/// floor(p) and floor(p) + 1, and a whole number is that latent itself, to the bit. Each block (position, momentum) goes its
/// own way, in the coordinates in which the prior is white. Gives [at.len(), k*C, ...] in the precision of `latents`.
///
/// # Errors
/// [`Status::ShapeMismatch`]; [`Status::InvalidArgument`] for a value that is not finite or a place outside of the way;
/// [`Status::Numeric`] between opposite latents, where every way is as good as another.
pub fn interpolate(spec: &ModelSpec, latents: &Tensor, at: &[f64]) -> Result<Tensor> {
    let process = spec.process()?;
    let (k, d) = (process.k(), spec.data_len());
    let shape = latents.shape();
    let mut sample = spec.data.shape.clone();
    sample[0] *= k;
    if shape.len() != sample.len() + 1 || shape[1..] != sample || shape[0] == 0 {
        let sizes: String = sample.iter().map(|size| format!(", {size}")).collect();
        return Err(Error::new(
            Status::ShapeMismatch,
            format!("latents: expected shape [m{sizes}], got {shape:?}"),
        )
        .hint("latents are states: what `psld encode` writes"));
    }
    let m = shape[0];
    if let Some(place) = at.iter().find(|place| !(**place >= 0.0 && **place <= (m - 1) as f64)) {
        return Err(Error::argument(format!(
            "place {place:?}: expected 0 to {}, as there are {m} latents",
            m - 1
        )));
    }
    let values: Vec<f64> = match latents {
        Tensor::F32(a) => a.iter().map(|x| f64::from(*x)).collect(),
        Tensor::F64(a) => a.iter().copied().collect(),
    };
    if values.iter().any(|x| !x.is_finite()) {
        return Err(Error::argument("latents: a value is not finite"));
    }
    let colour = process.prior_factor();
    let whiten = colour.inverse()?;
    let latent = |i: usize| &values[i * k * d..][..k * d];
    let mut made = Vec::new();
    made.try_reserve_exact(at.len().saturating_mul(k * d)).map_err(|e| {
        Error::new(Status::OutOfMemory, format!("{} latents cannot be allocated", at.len())).source(e)
    })?;
    for place in at {
        let from = place.floor() as usize;
        let w = place - place.floor();
        if w == 0.0 {
            made.extend_from_slice(latent(from));
            continue;
        }
        let ends = [latent(from), latent(from + 1)].map(|z| map(&whiten, z));
        let between = spherical(&ends, k, w).ok_or_else(|| {
            let message = format!("latents {from} and {} are opposite: there is no shortest way", from + 1);
            Error::new(Status::Numeric, message)
        })?;
        made.extend(map(&colour, &between));
    }
    let mut shape = shape.to_vec();
    shape[0] = at.len();
    let failed = |e| Error::new(Status::Internal, "the latents' shape").source(e);
    Ok(match latents {
        Tensor::F32(_) => {
            let made = made.into_iter().map(|x| x as f32).collect();
            Tensor::F32(ArrayD::from_shape_vec(shape, made).map_err(failed)?)
        }
        Tensor::F64(_) => Tensor::F64(ArrayD::from_shape_vec(shape, made).map_err(failed)?),
    })
}

/// m (k x k) times a state [k, d].
fn map(m: &Mat, z: &[f64]) -> Vec<f64> {
    let k = m.rows();
    let d = z.len() / k;
    let element = |i: usize| (0..k).map(|b| m[(i / d, b)] * z[b * d + i % d]).sum();
    (0..z.len()).map(element).collect()
}

/// The state a share `w` of the way between two, block by block; `None` between opposite ones.
fn spherical([a, b]: &[Vec<f64>; 2], k: usize, w: f64) -> Option<Vec<f64>> {
    let d = a.len() / k;
    let mut weights = [(0.0, 0.0); MAX_K];
    for (block, weights) in weights.iter_mut().enumerate().take(k) {
        let (a, b) = (&a[block * d..][..d], &b[block * d..][..d]);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let norms = libm::sqrt(dot(a, a) * dot(b, b));
        let cosine = if norms > 0.0 { (dot(a, b) / norms).clamp(-1.0, 1.0) } else { 1.0 };
        let angle = libm::acos(cosine);
        let sine = libm::sin(angle);
        *weights = match sine > PARALLEL {
            true => (libm::sin((1.0 - w) * angle) / sine, libm::sin(w * angle) / sine),
            false if cosine > 0.0 => (1.0 - w, w),
            false => return None,
        };
    }
    let element = |i: usize| weights[i / d].0 * a[i] + weights[i / d].1 * b[i];
    Some((0..a.len()).map(element).collect())
}
