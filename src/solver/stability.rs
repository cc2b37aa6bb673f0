//! Whether a strength that the caller chose makes a sampler unstable.
//!
//! The error of a step grows or decays as the linearised step says. On unit normal data the exact epsilon is linear,
//! eps = L^T V^-1 z with V = Sigma + a a^T, so the whole sampler is a product of matrices, and its growth is known
//! before it runs.

use crate::process::{Mat, Process};
use crate::{Error, Result};

/// z becomes on_z z + on_eps eps(z, t).
pub(super) struct Step {
    pub t: f64,
    pub on_z: Mat,
    pub on_eps: Mat,
}

/// Deviation of the position, for unit normal data, past which a sampler is taken to be unstable: ten times what
/// it must be is no sample of anything. First-order samplers at five steps are off by a factor of two or three.
const LIMIT: f64 = 10.0;

/// The most that B may move a state by over one step, as a power of e.
const REACH: f64 = 64.0;

/// A number given by the caller.
pub(super) fn finite(name: &str, value: f64) -> Result<f64> {
    if value.is_finite() {
        return Ok(value);
    }
    Err(Error::argument(format!("`{name}` is {value:?}: expected a finite number")))
}

/// The strength to take: `given`, or the default, halved where that is unstable on `grid`. A given one that makes a sampler unstable
/// which is stable without is refused, and one named that does not.
///
/// `size` is the largest norm of B for lambda 1: past [`REACH`] over one step nothing is computed, since the work of a step grows
/// with it. `steps(lambda, t, u)` gives the parts of the step from t to u; those of one step that share an epsilon are one
/// part.
pub(super) fn strength(
    name: &str,
    process: &Process,
    grid: &[f64],
    (given, default): (Option<f64>, f64),
    size: f64,
    steps: impl Fn(f64, f64, f64) -> Vec<Step>,
) -> Result<f64> {
    let lambda = finite("lambda", given.unwrap_or(default))?;
    if lambda == 0.0 {
        return Ok(0.0);
    }
    let longest = grid.windows(2).map(|pair| (pair[0] - pair[1]).abs()).fold(0.0, f64::max);
    let most = REACH / (size * longest);
    let within = lambda.clamp(-most, most);
    let growth = |lambda: f64| {
        let mut covariance = process.prior_covariance();
        let mut largest = 0.0_f64;
        for pair in grid.windows(2) {
            for step in steps(lambda, pair[0], pair[1]) {
                let map = step.on_z + step.on_eps * exact(process, step.t);
                covariance = map * covariance * map.transpose();
            }
            largest = largest.max(covariance[(0, 0)]);
            // Lost, and before long not a number.
            if largest > 1e30 {
                break;
            }
        }
        libm::sqrt(largest)
    };
    let stable = |lambda: f64| growth(lambda) <= LIMIT;
    // Where it is unstable without lambda too, the steps are too few, which no sampler refuses.
    if within == lambda && (stable(lambda) || !stable(0.0)) {
        return Ok(lambda);
    }
    if given.is_none() {
        // What nobody asked for must not be in the way: few steps take less of it, or nothing.
        let halves = (1..6).map(|i| within / f64::from(1 << i));
        return Ok(halves.into_iter().find(|lambda| stable(*lambda)).unwrap_or(0.0));
    }
    let n = grid.len() - 1;
    let why = if within == lambda {
        format!("unit normal data grow to a standard deviation of {:.0e}", growth(lambda))
    } else {
        format!("over its longest step, of {longest:.2}, a state would change by e^{REACH:.0} and more")
    };
    let error = Error::argument(format!(
        "lambda = {lambda:?}: `{name}` is unstable with it at {n} steps on this grid: {why}"
    ));
    // What is refused for its work alone leaves all that is not: where it is stable, or nothing would be.
    let (mut good, mut bad) = (0.0, within);
    if stable(within) || !stable(0.0) {
        (good, bad) = (within, within);
    }
    for _ in 0..12 {
        let middle = 0.5 * (good + bad);
        if stable(middle) { good = middle } else { bad = middle }
    }
    // Three digits, towards zero: what is named must be stable itself.
    let exponent = if good == 0.0 { 0.0 } else { libm::floor(libm::log10(good.abs())) };
    let digit = libm::pow(10.0, exponent - 2.0);
    let (good, digits) = (libm::trunc(good / digit) * digit, f64::max(0.0, 2.0 - exponent) as usize);
    Err(error.hint(format!("take lambda between 0 and {good:.digits$}, or more steps")))
}

/// E with eps = E z, exact for unit normal data.
fn exact(process: &Process, t: f64) -> Mat {
    let mean = process.mean(t);
    let marginal = process.data_covariance(t) + mean * mean.transpose();
    // A marginal of unit data is as far from singular as S is.
    let score = marginal.inverse().unwrap_or_else(|_| Mat::zeros(mean.rows(), mean.rows()));
    process.eps_from_score(t) * -score
}
