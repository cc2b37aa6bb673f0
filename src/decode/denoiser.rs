//! Any denoiser drives any path: a network of k = 1 shown what it knows of a state of any k.
//!
//! On a Gaussian path the state tells of x_0 only through w z, w = a^T C^-1 / (a^T C^-1 a), which is x_0 plus noise of
//! variance 1 / (a^T C^-1 a): what a network of k = 1 was trained on, scaled by its alpha, at its own time t' of equal
//! signal-to-noise ratio. Its epsilon is that of the state's whitened residual C^-1/2 (z - a x_0) along p = C^-1/2 a;
//! across p the residual does not depend on x_0 and is known from z. So the network gives every block of the path's
//! epsilon, exactly if it is exact itself.

use super::Times;
use crate::plan::Input;
use crate::process::{Mat, Process};
use crate::spec::{ModelSpec, Prediction};
use crate::{Error, Result};

/// A network of k = 1 and the path that it was trained on.
#[derive(Debug)]
pub(super) struct Denoiser {
    process: Process,
    prediction: Prediction,
    /// Whether velocities point along forward time (1) or against it (-1).
    direction: f64,
    sigma_data: f64,
    /// Whether the path to sample along is another one.
    foreign: bool,
}

/// What the network's output says, in terms of y = alpha w z: epsilon = eps.0 y + eps.1 output, and so for x_0.
struct Reading {
    eps: (f64, f64),
    x0: (f64, f64),
}

impl Denoiser {
    /// `None` for networks that are shown the state as it is, and whose outputs need nothing of their path beyond
    /// alpha and sigma.
    pub fn new(model: &ModelSpec) -> Result<Option<Self>> {
        let network = &model.network;
        let foreign = network.process.is_some();
        if !foreign && !matches!(network.prediction, Prediction::Velocity | Prediction::Edm) {
            return Ok(None);
        }
        let reversed = model.network_time() == crate::spec::NetworkTime::Reversed;
        Ok(Some(Self {
            process: model.network_process()?,
            prediction: network.prediction,
            direction: if reversed { -1.0 } else { 1.0 },
            sigma_data: network.sigma_data.unwrap_or(0.5),
            foreign,
        }))
    }

    /// The times of `process` at which the signal-to-noise ratio is one that the network knows.
    pub fn times(&self, process: &Process, all: Times) -> Result<Times> {
        if !self.foreign {
            return Ok(all);
        }
        let (first, last) = self.process.times();
        let (most, least) = (self.process.log_snr(first), self.process.log_snr(last));
        let (highest, lowest) = (process.log_snr(all.low), process.log_snr(all.high));
        if least >= highest || most <= lowest {
            return Err(Error::argument(format!(
                "the network was trained on {}, with log SNR from {least:.3} to {most:.3}, and {process} has {lowest:.3} \
                 to {highest:.3}: no time of it is one that the network knows",
                self.process
            )));
        }
        let at = |target| process.time_of_log_snr(target, all.low, all.high);
        let low = if most >= highest { all.low } else { at(most) };
        let high = if least <= lowest { all.high } else { at(least) };
        let clipped = low > all.low || high < all.high;
        Ok(Times { low, high, start: high, end: all.end.max(low), clipped, whole: None })
    }

    /// Whether the network was trained on another path than the one to sample along.
    pub fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// The network's time for the time `t` of `process`.
    fn time(&self, process: &Process, t: f64) -> f64 {
        if !self.foreign {
            return t;
        }
        let (first, last) = self.process.times();
        self.process.time_of_log_snr(process.log_snr(t), first, last)
    }

    /// What the network sees of a state at time `t` of `process`, unless that is the state itself.
    pub fn input(&self, process: &Process, t: f64) -> Option<Input> {
        if !self.foreign && self.prediction != Prediction::Edm {
            return None;
        }
        let own = self.time(process, t);
        let (alpha, sigma) = self.at(own);
        let scale = match self.prediction {
            // c_in, of x = x_0 + sigma/alpha n.
            Prediction::Edm => 1.0 / libm::hypot(sigma / alpha, self.sigma_data),
            _ => alpha,
        };
        Some(Input { project: process.x0_weights(t) * scale, t: own })
    }

    fn at(&self, own: f64) -> (f64, f64) {
        (self.process.mean(own)[(0, 0)], self.process.factor(own)[(0, 0)])
    }

    fn reading(&self, own: f64) -> Reading {
        let (alpha, sigma) = self.at(own);
        // From epsilon = a y + b output, x_0 = (y - sigma epsilon)/alpha.
        let by_eps =
            |a: f64, b: f64| Reading { eps: (a, b), x0: ((1.0 - sigma * a) / alpha, -sigma * b / alpha) };
        match self.prediction {
            Prediction::Epsilon => by_eps(0.0, 1.0),
            Prediction::Score => by_eps(0.0, -sigma),
            Prediction::X0 => Reading { eps: (1.0 / sigma, -alpha / sigma), x0: (0.0, 1.0) },
            Prediction::V => {
                let norm = alpha * alpha + sigma * sigma;
                Reading { eps: (sigma / norm, alpha / norm), x0: (alpha / norm, -sigma / norm) }
            }
            // y = (1 - t) x_0 + t epsilon and v = epsilon - x_0.
            Prediction::Velocity => {
                Reading { eps: (1.0, alpha * self.direction), x0: (1.0, -sigma * self.direction) }
            }
            Prediction::Edm => {
                // Of x = y/alpha with noise s: c_skip = d^2/(s^2 + d^2), c_out = s d / sqrt(s^2 + d^2), and
                // epsilon = (x - x_0)/s, with 1 - c_skip = s^2/(s^2 + d^2).
                let (s, d) = (sigma / alpha, self.sigma_data);
                let norm = libm::hypot(s, d);
                Reading {
                    eps: (s / (norm * norm * alpha), -d / norm),
                    x0: (d * d / (norm * norm * alpha), s * d / norm),
                }
            }
        }
    }

    /// (P: k x k, R: k x 1) with the path's epsilon = P z + R output at time `t` of `process`.
    pub fn epsilon(&self, process: &Process, t: f64) -> (Mat, Mat) {
        let own = self.time(process, t);
        let Reading { eps: (on_y, on_output), .. } = self.reading(own);
        let (whitening, p, snr) = process.whitened_mean(t);
        let along = p * (1.0 / libm::sqrt(snr));
        // For k = 1 nothing is across, and no rounding may claim that epsilon depends on the state.
        let across = match process.k() {
            1 => Mat::zeros(1, 1),
            k => Mat::identity(k) - along * along.transpose(),
        };
        let y = process.x0_weights(t) * self.at(own).0;
        let path = process.eps_from_whitened(t);
        (path * (across * whitening + along * y * on_y), path * along * on_output)
    }

    /// (1 x k on z, 1 x 1 on the output) of the data estimate.
    pub fn x0(&self, process: &Process, t: f64) -> (Mat, Mat) {
        let own = self.time(process, t);
        let Reading { x0: (on_y, on_output), .. } = self.reading(own);
        (process.x0_weights(t) * (self.at(own).0 * on_y), Mat::identity(1) * on_output)
    }
}
