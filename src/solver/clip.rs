//! Clipping of the data estimate: rows, so that every sampler does it and none knows of it.
//!
//! A row after each call moves what its output says of x_0 into the data range: statically, or by dynamic thresholding
//! (arXiv 2205.11487, section 2.3). All that a sampler makes of the call follows: epsilon of all blocks is what the clipped
//! estimate leaves, so that for k = 1 `ddim` with `eta` 1 takes the posterior given it, as DDPM does (arXiv 2006.11239).

use crate::Result;
use crate::decode::Decoder;
use crate::plan::{Eval, Map, MapKind, Threshold};
use crate::process::Process;
use crate::spec::Clip;

/// The row that follows the model's call `eval`, its guidance and its restoration.
pub(crate) fn row(
    clip: Clip,
    [low, high]: [f64; 2],
    decoder: &Decoder,
    process: &Process,
    eval: &Eval,
) -> Result<Map> {
    let kind = MapKind::Threshold(threshold(clip, [low, high], decoder, process, eval.from, eval.t)?);
    Ok(Map { step: eval.step, kind, into: eval.slot })
}

/// How the data estimate of a call on state `from` at time `t` is clipped.
pub(crate) fn threshold(
    clip: Clip,
    [low, high]: [f64; 2],
    decoder: &Decoder,
    process: &Process,
    from: usize,
    t: f64,
) -> Result<Threshold> {
    let (on_z, on_output) = decoder.x0(process, t)?;
    let b = decoder.output_from_x0(process, t)?;
    let (percentile, max) = match clip {
        Clip::Percentile { percentile, max } => (Some(percentile), max),
        Clip::Off | Clip::Range => (None, None),
    };
    Ok(Threshold { from, on_z, on_output, b, low, high, percentile, max })
}

/// The last word of a run that clips, in step `step`: the sample is in the data range.
pub(super) fn sample([low, high]: [f64; 2], step: usize) -> Map {
    Map { step, kind: MapKind::Clip { low, high }, into: 0 }
}
