//! Precision and recall by manifolds of nearest neighbours (T. Kynkäänniemi and others, *Improved precision and recall
//! metric for assessing generative models*, arXiv 1904.06991).

use super::bootstrap::{Bootstrap, Figure};
use super::pairs;
use super::points::Points;
use crate::{Error, Result};

/// How much of the samples is like the reference, and how much of the reference is like the samples.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct PrecisionRecall {
    /// The share of samples within the reference's manifold. The interval is that of new samples.
    pub precision: Figure,
    /// The share of reference points within the samples' manifold. The interval is that of new reference points, as a
    /// resample of samples, having repetitions, would be a smaller manifold.
    pub recall: Figure,
}

/// Precision and recall of `samples` for `reference`, both in the same features. The manifold of a set is the union of
/// balls about its points, each as large as the distance to the point's `neighbours`-th nearest other one (3 in the
/// paper).
///
/// They depend on the numbers of points: the paper has as many of both.
///
/// # Errors
/// [`Status::ShapeMismatch`](crate::Status::ShapeMismatch) for points of different dimensions;
/// [`Status::InvalidArgument`](crate::Status::InvalidArgument) if a set has not more points than `neighbours`, or that
/// is 0.
pub fn precision_recall(
    samples: Points<'_>,
    reference: Points<'_>,
    neighbours: usize,
    bootstrap: &Bootstrap,
) -> Result<PrecisionRecall> {
    samples.check_same(&reference)?;
    let least = samples.len().min(reference.len());
    if neighbours == 0 || neighbours >= least {
        return Err(Error::argument(format!(
            "{neighbours} neighbours: expected 1 to {}, fewer than there are points",
            least - 1
        )));
    }
    let within = |points, manifold| bootstrap.mean(&covered(points, manifold, &radii(manifold, neighbours)));
    Ok(PrecisionRecall { precision: within(samples, reference), recall: within(reference, samples) })
}

/// The squared distance of each point to its `k`-th nearest other one.
fn radii(points: Points<'_>, k: usize) -> Vec<f32> {
    let nearest = pairs::fold(
        points,
        points,
        |i| (i, Vec::with_capacity(k + 1)),
        |(i, nearest): &mut (usize, Vec<f32>), first, squares| {
            for (j, &square) in squares.iter().enumerate() {
                if first + j == *i || nearest.len() == k && square >= nearest[k - 1] {
                    continue;
                }
                let place = nearest.partition_point(|known| *known <= square);
                nearest.insert(place, square);
                nearest.truncate(k);
            }
        },
    );
    nearest.into_iter().map(|(_, nearest)| nearest.last().copied().unwrap_or_default()).collect()
}

/// 1 for each point that is within one of the balls about `centres`, else 0.
fn covered(points: Points<'_>, centres: Points<'_>, radii: &[f32]) -> Vec<f64> {
    let inside = pairs::fold(
        points,
        centres,
        |_| false,
        |inside, first, squares| {
            *inside |= squares.iter().zip(&radii[first..]).any(|(square, radius)| square <= radius);
        },
    );
    inside.into_iter().map(|inside| f64::from(u8::from(inside))).collect()
}
