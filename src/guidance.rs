//! Guidance: rows that amend what a network gave, so that every sampler is guided and none knows of it.
//!
//! A guided evaluation is three rows: the call of the model into its slot, the call of the guide (network 1) into a slot
//! of its own, and a map that amends the first slot by the second, with the scale of each sample.
//!
//! * Classifier-free (arXiv 2207.12598): the guide is the model itself with the null class, or a second, weaker network
//!   (autoguidance, arXiv 2406.02507). Outputs are affine in epsilon with the same coefficients, so
//!   (1 + w) output - w guide is the guided output whatever the network predicts.
//! * Classifier (arXiv 2105.05233): the guide gives the gradient of log p(y | z_t, t) in the state, and
//!   score += w gradient is epsilon -= w L^T gradient.

use crate::decode::Decoder;
use crate::plan::{Eval, GUIDE, Map, MapKind};
use crate::process::{Mat, Process};
use crate::spec::{Guidance, GuidanceKind, ModelSpec, NetworkSpec, Prediction, Predicts, ProcessSpec};
use crate::{Error, Result, Status};

/// The rows that follow the call `eval` at a time at which guidance acts: the guide's call into `slot`, and the map.
pub(crate) fn rows(
    guidance: &Guidance,
    decoder: &Decoder,
    process: &Process,
    eval: &Eval,
    slot: usize,
) -> Result<Option<(Eval, Map)>> {
    if !guidance.acts_at(eval.t) {
        return Ok(None);
    }
    let kind = match guidance.kind {
        GuidanceKind::Cfg => MapKind::Cfg { slot, rescale: guidance.rescale },
        GuidanceKind::Classifier => {
            MapKind::Gradient { slot, b: decoder.output_from_gradient(process, eval.t)? }
        }
    };
    // A classifier sees the whole state, whatever the model sees of it.
    let input = eval.input.clone().filter(|_| guidance.kind == GuidanceKind::Cfg);
    let call = Eval { network: GUIDE, slot, input, ..eval.clone() };
    Ok(Some((call, Map { step: eval.step, kind, into: eval.slot })))
}

/// How a guide fits a model: what is said where it does not.
pub(crate) fn check_guide(kind: GuidanceKind, model: &ModelSpec, guide: &ModelSpec) -> Result<()> {
    let refuse = |what: String| Err(Error::new(Status::ModelMismatch, format!("guidance network: {what}")));
    if guide.data.shape != model.data.shape {
        return refuse(format!(
            "its data has shape {:?}, the model's {:?}",
            guide.data.shape, model.data.shape
        ));
    }
    let (own, other) = (model.process()?, guide.process()?);
    // The law of z_t, in which a gradient is taken; how epsilon is written does not matter to it.
    let same_law = match (own.parameters(), other.parameters()) {
        (Some(a), Some(b)) => (a.d, a.q, a.s, a.beta, a.kappa) == (b.d, b.q, b.s, b.beta, b.kappa),
        _ => own == other,
    };
    if !same_law || kind == GuidanceKind::Cfg && own != other {
        return refuse("its process is not the model's".into());
    }
    match kind {
        GuidanceKind::Classifier if !guide.is_gradient() => {
            let output = &guide.network.output;
            Err(Error::new(
                Status::ModelMismatch,
                format!(
                    "guidance network: expected the output `grad` of a classifier's gradient, got `{output}`"
                ),
            )
            .hint("a second, weaker network guides by kind `cfg`"))
        }
        GuidanceKind::Cfg if guide.is_gradient() => Err(Error::new(
            Status::ModelMismatch,
            "guidance network: kind `cfg` takes a second score network, this one is a classifier's gradient",
        )
        .hint("the kind for it is `classifier`")),
        GuidanceKind::Cfg if output_of(&guide.network) != output_of(&model.network) => refuse(
            "it does not predict what the model predicts (network.prediction, predicts, process, sigma_data)"
                .into(),
        ),
        _ => Ok(()),
    }
}

/// All that an output's meaning depends on.
fn output_of(network: &NetworkSpec) -> (Prediction, Option<Predicts>, Option<&ProcessSpec>, Option<f64>) {
    (network.prediction, network.predicts, network.process.as_ref(), network.sigma_data)
}

impl Decoder {
    /// What the gradient of log p(y | z_t, t) changes in the network's raw output: output_blocks x k. Where the output
    /// holds a part of epsilon or the score, that part's change; for a data estimate, E[x_0 | z] = the first row of
    /// Psi(t -> 0) (z + C score).
    fn output_from_gradient(&self, process: &Process, t: f64) -> Result<Mat> {
        let k = process.k();
        if self.is_denoiser() {
            let (_, on_output) = self.x0(process, t)?;
            let on_gradient = process.transition(t, 0.0).row(0) * process.data_covariance(t);
            return Ok(on_gradient * (1.0 / on_output[(0, 0)]));
        }
        let whole = match self.prediction {
            Prediction::Score => Mat::identity(k),
            _ => process.eps_from_score(t),
        };
        Ok(self.half(k).map_or(whole, |block| whole.row(block)))
    }
}
