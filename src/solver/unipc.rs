//! Predictor-corrector at one call a step: UniPC (arXiv 2302.04867) for k = 1, its form in gDDIM's frame for k > 1.
//!
//! Both interpolate the data estimate, which extrapolates far better from few calls than epsilon does. For k > 1 the
//! weights are those of [`dpmpp`](super::dpmpp): exact integrals.
//!
//! A step predicts from the newest calls. The call at the prediction then serves twice: it corrects the step before
//! (one node more, so one order more), and it is the newest value of the next prediction. The last step is not
//! corrected, which would take a call of its own.
//!
//! What is corrected is the prediction, by the difference of the weights with the new node and without: in one row with
//! the next prediction, and with the noise that the prediction drew where it draws any
//! ([`sa_solver`](super::sa_solver)). State 0 holds the prediction, which is what the network sees.

use super::frame::{Frame, Step};
use super::multistep::{self, History};
use super::{Compiler, SamplerInfo, Solver, dpmpp};
use crate::process::{Mat, Process};
use crate::spec::Variant;
use crate::{Error, Result, Status};

pub(super) const SOLVER: Solver = Solver {
    info: SamplerInfo {
        name: "unipc",
        title: "predictor-corrector, multistep (UniPC)",
        order: "`order` + 1: 2 to 4 (`order` 1 to 3, default 2, to encode 3); exact for point data",
        nfe_per_step: 1,
        stochastic: false,
        adaptive: false,
        paper: "arXiv 2302.04867",
        equation: "Algorithms 1 and 2; k > 1 in the frame of arXiv 2206.05564",
        options: &["order", "variant", "published", "lower_order_final"],
    },
    steps,
};

/// One step from t down to u.
pub(super) trait Scheme {
    /// The factor of the state at t.
    fn carried(&self) -> Mat;
    /// The weights of data estimates at `times`, newest first: t, earlier ones.
    fn predict(&self, times: &[f64]) -> Result<Vec<Mat>>;
    /// The same with one at u before them.
    fn correct(&self, times: &[f64]) -> Result<Vec<Mat>>;
    /// The factor of the noise that is added.
    fn noise(&self) -> Option<Mat> {
        None
    }
}

fn steps(c: &mut Compiler<'_>, grid: &[f64]) -> Result<()> {
    // Towards the noise latents and round trips are best at the highest order (`tests/editing.rs`).
    let order = multistep::order(c, grid, if c.options.encodes() { 3 } else { 2 }, 3)?;
    multistep::published(c)?;
    let process = c.process;
    let orders = multistep::orders(c, grid, order, usize::MAX);
    if process.k() == 1 {
        let variant = c.options.variant.unwrap_or_default();
        return drive(c, grid, &orders, |t, u| UniPc { process, t, u, variant });
    }
    if c.options.variant.is_some() {
        let message = format!("variant: B(h) of `unipc` is for k = 1, the process has k = {}", process.k());
        return Err(Error::new(Status::Unsupported, message).hint("leave `variant` out"));
    }
    let mut frame = Frame::rotating(process);
    drive(c, grid, &orders, |t, u| Rotated { process, step: frame.step(t, u) })
}

/// Predicts and corrects along `grid`, with the steps that `step` makes, each of its order.
pub(super) fn drive<S: Scheme>(
    c: &mut Compiler<'_>,
    grid: &[f64],
    orders: &[usize],
    mut step: impl FnMut(f64, f64) -> S,
) -> Result<()> {
    let mut history = History::new(orders.iter().max().map_or(1, |most| most + 1), 1);
    let mut before: Option<(S, usize)> = None;
    for (pair, order) in grid.windows(2).zip(orders.iter().copied()) {
        let (t, u) = (pair[0], pair[1]);
        history.call(c, t, &|c, slot, z| c.x0(slot, t, z))?;
        if let Some((before, order)) = before {
            let times = history.times(order + 1);
            let mut weights = before.correct(&times)?;
            for (weight, predicted) in weights[1..].iter_mut().zip(before.predict(&times[1..])?) {
                *weight = *weight - predicted;
            }
            c.set(0, history.weighted(c.state(0), &weights));
        }
        let scheme = step(t, u);
        let weights = scheme.predict(&history.times(order))?;
        let mut next = history.weighted(scheme.carried() * c.state(0), &weights);
        if let Some(factor) = scheme.noise() {
            next = next + c.solver_noise(factor);
        }
        c.set(0, next);
        c.end_step(t);
        before = Some((scheme, order));
    }
    Ok(())
}

/// The data estimate in gDDIM's frame, interpolated in t.
struct Rotated<'a> {
    process: &'a Process,
    step: Step,
}

impl Scheme for Rotated<'_> {
    fn carried(&self) -> Mat {
        self.step.to.r * self.step.from.inverse
    }
    fn predict(&self, times: &[f64]) -> Result<Vec<Mat>> {
        Ok(dpmpp::weights(self.process, &self.step, times))
    }
    fn correct(&self, times: &[f64]) -> Result<Vec<Mat>> {
        self.predict(times)
    }
}

/// The data estimate, interpolated in half the log-SNR as in the paper and its code.
struct UniPc<'a> {
    process: &'a Process,
    t: f64,
    u: f64,
    variant: Variant,
}

impl UniPc<'_> {
    /// The weights of x0 at u (where it is there) and at `times`, t being the first.
    fn weights(&self, times: &[f64], corrects: bool) -> Result<Vec<f64>> {
        let lambda = |t: f64| self.process.log_snr(t);
        let (alpha, _) = multistep::scales(self.process, self.u);
        let h = lambda(self.u) - lambda(self.t);
        // The code's variables for data prediction: hh = -h.
        let grown = libm::expm1(-h);
        let b = match self.variant {
            Variant::Bh1 => -h,
            Variant::Bh2 => grown,
        };
        let order = times.len();
        // Distances of the values whose differences from x0(t) are used, in steps: earlier ones, then u.
        let mut distances: Vec<f64> =
            times[1..].iter().map(|earlier| (lambda(*earlier) - lambda(self.t)) / h).collect();
        if corrects {
            distances.push(1.0);
        }
        let rho = match distances.len() {
            0 => Vec::new(),
            // Simplified, as published.
            1 => vec![0.5],
            n => {
                // sum over i of rho_i r_i^(j - 1) = j! phi_(j + 1)(-h) (-h) / B.
                let powers = Mat::from_fn(n, n, |j, i| libm::pow(distances[i], j as f64));
                let mut phi = grown / -h - 1.0;
                let mut factorial = 1.0;
                let right = Mat::from_fn(n, 1, |j, _| {
                    let value = phi * factorial / b;
                    factorial *= (j + 2) as f64;
                    phi = phi / -h - 1.0 / factorial;
                    value
                });
                let rho = powers.inverse()? * right;
                (0..n).map(|i| rho[(i, 0)]).collect()
            }
        };
        let mut weights = vec![0.0; order];
        weights[0] = -alpha * grown;
        let mut newest = None;
        for (i, (rho, distance)) in rho.iter().zip(&distances).enumerate() {
            let weight = -alpha * b * rho / distance;
            weights[0] -= weight;
            match weights.get_mut(i + 1) {
                Some(earlier) => *earlier += weight,
                None => newest = Some(weight),
            }
        }
        Ok(newest.into_iter().chain(weights).collect())
    }
}

impl Scheme for UniPc<'_> {
    fn carried(&self) -> Mat {
        let sigma = |t| multistep::scales(self.process, t).1;
        Mat::from_rows([[sigma(self.u) / sigma(self.t)]])
    }
    fn predict(&self, times: &[f64]) -> Result<Vec<Mat>> {
        Ok(self.weights(times, false)?.into_iter().map(|w| Mat::from_rows([[w]])).collect())
    }
    fn correct(&self, times: &[f64]) -> Result<Vec<Mat>> {
        Ok(self.weights(&times[1..], true)?.into_iter().map(|w| Mat::from_rows([[w]])).collect())
    }
}
