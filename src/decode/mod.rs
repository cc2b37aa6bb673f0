//! What a network's raw output says of epsilon, of the data and of the score, and which times it knows.

mod clock;
mod denoiser;
mod times;

pub(crate) use clock::Clock;
pub use times::Times;
pub(crate) use times::Whole;

use crate::plan::{Affine, Input};
use crate::process::{Mat, Process};
use crate::spec::{ModelSpec, Prediction, Predicts, SamplerSpec};
use crate::{Error, Result, Status};
use denoiser::Denoiser;
use std::sync::Arc;

/// Turns a raw network output into epsilon: eps = P z + R output, with z the state that the network saw.
#[derive(Clone, Debug)]
pub(crate) struct Decoder {
    pub(crate) prediction: Prediction,
    predicts: Predicts,
    /// Whether epsilon of all blocks is what the data estimate leaves.
    by_estimate: bool,
    /// Networks of k = 1 that need more than the state and its process.
    denoiser: Option<Arc<Denoiser>>,
    /// What the network is told of the time, where that is whole numbers.
    whole: Option<Arc<Clock>>,
    /// The last entry of a table of betas that sampling starts from, as forward time of the table and log SNR; `None`: the
    /// last that there is.
    first_entry: Option<(f64, f64)>,
}

/// Where the noise is so much larger than the data, errors of epsilon are errors of the data estimate 200 times as large: by
/// default a run does not start there. (Linear tables end at alpha 0.0063, cosine ones at 5e-5 and less.)
const LEAST_ALPHA: f64 = 0.005;

impl Decoder {
    pub fn new(model: &ModelSpec) -> Result<Self> {
        Ok(Self {
            prediction: model.network.prediction,
            predicts: model.network.predicts.unwrap_or(Predicts::All),
            by_estimate: false,
            denoiser: Denoiser::new(model)?.map(Arc::new),
            whole: model.network.whole_times.then(|| Clock::new(model).map(Arc::new)).transpose()?,
            first_entry: first_entry(model)?,
        })
    }

    /// For `options`: where they clip the data estimate, epsilon of all blocks is what the clipped one leaves,
    /// W (z - a x0). The exact network's is that in any case.
    pub fn with(self, options: &SamplerSpec) -> Self {
        Self { by_estimate: options.clipping().is_some(), ..self }
    }

    /// The times of `process` that a sampler with this network may use.
    pub fn times(&self, process: &Process) -> Result<Times> {
        let all = Times::of(process);
        let times = match &self.denoiser {
            Some(denoiser) => denoiser.times(process, all)?,
            None => all,
        };
        let foreign = self.denoiser.as_ref().is_some_and(|denoiser| denoiser.is_foreign());
        let start = match self.first_entry {
            None => times.high,
            Some((t, _)) if !foreign => t,
            Some((_, log_snr)) => process.time_of_log_snr(log_snr, times.low, times.high),
        };
        let whole = self.whole.clone().map(|clock| Whole { clock, foreign });
        Ok(Times { start, whole, ..times })
    }

    /// What the network sees of a state at time `t`; `None` for the state itself.
    pub fn input(&self, process: &Process, t: f64) -> Option<Input> {
        self.denoiser.as_ref().and_then(|denoiser| denoiser.input(process, t))
    }

    /// (P: k x k, R: k x output blocks) at time `t`.
    pub fn epsilon(&self, process: &Process, t: f64) -> Result<(Mat, Mat)> {
        if self.by_estimate && !self.is_denoiser() && self.half(process.k()).is_none() && process.k() > 1 {
            let (x, y) = self.x0(process, t)?;
            return Ok(Self::from_x0(process, t, x, y));
        }
        self.predicted_epsilon(process, t)
    }

    /// The same as the network says it.
    ///
    /// Half outputs determine the other half: the exact epsilon is W (z - a x0) with one unknown x0 for each
    /// element, which either half gives. The half that is predicted passes through unchanged.
    fn predicted_epsilon(&self, process: &Process, t: f64) -> Result<(Mat, Mat)> {
        if let Some(denoiser) = &self.denoiser {
            return Ok(denoiser.epsilon(process, t));
        }
        let k = process.k();
        let half = self.half(k);
        let unit = |i: usize| Mat::from_fn(1, k, |_, j| f64::from(i == j));
        Ok(match (self.prediction, half) {
            (Prediction::Epsilon, None) => (Mat::zeros(k, k), Mat::identity(k)),
            (Prediction::Score, None) => (Mat::zeros(k, k), process.eps_from_score(t)),
            // The last two have a denoiser.
            (Prediction::X0 | Prediction::V | Prediction::Velocity | Prediction::Edm, _) => {
                // x0 = X z + Y output
                let (x, y) = match self.prediction {
                    Prediction::X0 => (Mat::zeros(1, k), 1.0),
                    // v = alpha eps - sigma x0 with z = alpha x0 + sigma eps.
                    _ => {
                        let (alpha, sigma) = (process.mean(t)[(0, 0)], process.factor(t)[(0, 0)]);
                        let norm = alpha * alpha + sigma * sigma;
                        (Mat::from_fn(1, 1, |_, _| alpha / norm), -sigma / norm)
                    }
                };
                Self::from_x0(process, t, x, Mat::identity(1) * y)
            }
            (prediction, Some(i)) => {
                // One row of what is predicted reads w z - (w a) x0, up to sign.
                let whole = Self::eps_of_residual(process, t);
                let (row, sign) = match prediction {
                    Prediction::Epsilon => (unit(i) * whole, 1.0),
                    _ => (unit(i) * -process.score_from_eps(t) * whole, -1.0),
                };
                let visible = (row * process.mean(t))[(0, 0)];
                if visible == 0.0 {
                    return Err(Error::new(
                        Status::Numeric,
                        format!("the predicted half of the output does not determine x0 at t = {t}"),
                    ));
                }
                let output = Mat::identity(1) * (-sign / visible);
                let (mut p, mut r) = Self::from_x0(process, t, row * (1.0 / visible), output);
                if prediction == Prediction::Epsilon {
                    for j in 0..k {
                        p[(i, j)] = 0.0;
                    }
                    r[(i, 0)] = 1.0;
                }
                (p, r)
            }
        })
    }

    /// Whether the output says one thing, x0, of a state's blocks together.
    pub(crate) fn is_denoiser(&self) -> bool {
        let estimates = [Prediction::X0, Prediction::V, Prediction::Velocity, Prediction::Edm];
        self.denoiser.is_some() || estimates.contains(&self.prediction)
    }

    /// The block that the output holds, where it holds one.
    pub(crate) fn half(&self, k: usize) -> Option<usize> {
        match self.predicts {
            Predicts::All => None,
            Predicts::Position => Some(0),
            Predicts::Momentum => Some(k - 1),
        }
    }

    /// W, by which the exact epsilon is W (z - a x0): -L^T score, with the score of z given x0 alone. Under HSM that
    /// is L^-1; a network trained by DSM has an L that leaves the spread of m_0 out.
    fn eps_of_residual(process: &Process, t: f64) -> Mat {
        process.eps_from_whitened(t) * process.whitening(t)
    }

    /// eps = W (z - a x0) for x0 = X z + Y output.
    fn from_x0(process: &Process, t: f64, x: Mat, y: Mat) -> (Mat, Mat) {
        let whole = Self::eps_of_residual(process, t);
        let seen = whole * process.mean(t);
        (whole - seen * x, -(seen * y))
    }

    /// What a change of the data estimate changes in the network's raw output: output_blocks x 1.
    pub fn output_from_x0(&self, process: &Process, t: f64) -> Result<Mat> {
        if self.is_denoiser() {
            let (_, on_output) = self.x0(process, t)?;
            return Ok(Mat::identity(1) * (1.0 / on_output[(0, 0)]));
        }
        let whitening = process.whitening(t);
        let score = whitening.transpose() * whitening * process.mean(t);
        let whole = match self.prediction {
            Prediction::Score => score,
            _ => process.eps_from_score(t) * score,
        };
        Ok(self.half(process.k()).map_or(whole, |block| whole.row(block)))
    }

    /// (1 x k on z, 1 x output blocks on the output) of the data estimate E[x0 | z].
    pub fn x0(&self, process: &Process, t: f64) -> Result<(Mat, Mat)> {
        if let Some(denoiser) = &self.denoiser {
            return Ok(denoiser.x0(process, t));
        }
        if self.prediction == Prediction::X0 {
            return Ok((Mat::zeros(1, process.k()), Mat::identity(1)));
        }
        // w (z + C score), with w the weights of least variance: the first row of Psi(t -> 0) (z - L eps) is the same for
        // the exact network, but amplifies the errors of a trained one by a hundred more near t = 1.
        let (p, r) = self.predicted_epsilon(process, t)?;
        let on_eps =
            process.mean(t).transpose() * libm::exp(-2.0 * process.log_snr(t)) * process.score_from_eps(t);
        Ok((process.x0_weights(t) + on_eps * p, on_eps * r))
    }
}

impl Decoder {
    /// The data estimate as a state of a path of k = 1, by the call on state 0 at time `t` that filled `slot`.
    pub fn x0_of_slot(&self, process: &Process, t: f64, slot: usize) -> Result<Affine> {
        let (on_z, on_output) = self.x0(process, t)?;
        Ok(on_z * Affine::state(0, 1) + Affine::slot(slot, on_output))
    }
}

/// The largest entry with alpha of at least [`LEAST_ALPHA`], of networks that predict the noise on a table of betas.
fn first_entry(model: &ModelSpec) -> Result<Option<(f64, f64)>> {
    if !matches!(model.network.prediction, Prediction::Epsilon | Prediction::Score) {
        return Ok(None);
    }
    let process = model.network_process()?;
    let Some(n) = process.entries() else { return Ok(None) };
    let time = |i: usize| (i + 1) as f64 / n as f64;
    let entry = (0..n).rev().find(|i| process.mean(time(*i))[(0, 0)] >= LEAST_ALPHA);
    Ok(entry.filter(|i| i + 1 < n).map(|i| (time(i), process.log_snr(time(i)))))
}
