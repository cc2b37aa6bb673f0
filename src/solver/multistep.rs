//! What multistep samplers share: the values of earlier calls, and the order that is reached with them.

use super::compiler::Compiler;
use crate::plan::Affine;
use crate::process::{Mat, Process};
use crate::{Error, Result, Status};
use std::collections::VecDeque;

/// What a sampler takes from a network call, and keeps: an expression in the state that the call saw and its slot.
type Value<'a> = dyn Fn(&Compiler<'_>, usize, &Affine) -> Result<Affine> + 'a;

/// Values of the newest calls.
///
/// A value that is a multiple of the network's output stays in the output's slot. One that reads the state as well
/// (the data estimate of an epsilon network, epsilon of half an output) is written into a state of its own, because the
/// state that the call saw is overwritten.
pub(super) struct History {
    depth: usize,
    /// The first of the states that values may be written into.
    state: usize,
    calls: usize,
    times: VecDeque<f64>,
    values: VecDeque<Affine>,
}

impl History {
    /// Keeps the newest `depth` values; those that need a state get one from `state` on.
    pub fn new(depth: usize, state: usize) -> Self {
        Self { depth, state, calls: 0, times: VecDeque::new(), values: VecDeque::new() }
    }

    /// Calls the network on state 0 at `t` and keeps `value` of the call: k rows, or one for a data estimate.
    pub fn call(&mut self, c: &mut Compiler<'_>, t: f64, value: &Value<'_>) -> Result<()> {
        let k = c.process.k();
        let place = self.calls % self.depth;
        let z = c.state(0);
        c.eval(0, t, place);
        let mut value = value(c, place, &z)?;
        // Asked anew for each call: where the network's own process is another one, rounding may decide.
        let keeps = self.depth == 1 || value.reads_no_state();
        if !keeps {
            let state = self.state + place;
            let rows = value.rows();
            let pad = Mat::from_fn(k, rows, |i, j| f64::from(i == j));
            c.set(state, pad * value);
            value = pad.transpose() * c.state(state);
        }
        self.calls += 1;
        self.times.push_front(t);
        self.values.push_front(value);
        self.times.truncate(self.depth);
        self.values.truncate(self.depth);
        Ok(())
    }

    /// The times of the newest values, newest first, at most `count`.
    pub fn times(&self, count: usize) -> Vec<f64> {
        self.times.iter().take(count).copied().collect()
    }

    /// start + sum of weights times values, newest first.
    pub fn weighted(&self, start: Affine, weights: &[Mat]) -> Affine {
        weights.iter().zip(&self.values).fold(start, |sum, (weight, value)| sum + *weight * value.clone())
    }
}

/// The order asked for, `default` without (less where the grid has fewer steps).
///
/// The first steps have fewer earlier values than the order needs and are of lower order; a grid with fewer steps than
/// an order asked for would never reach it.
pub(super) fn order(c: &Compiler<'_>, grid: &[f64], default: usize, most: usize) -> Result<usize> {
    let steps = grid.len() - 1;
    let sampler = c.options.name();
    match c.options.order {
        None => Ok(default.min(steps)),
        Some(order) if !(1..=most).contains(&(order as usize)) => Err(Error::argument(format!(
            "order = {order}: sampler `{sampler}` takes orders 1 to {most}"
        ))),
        Some(order) if order as usize > steps => Err(Error::argument(format!(
            "order = {order}: sampler `{sampler}` reaches it with at least {order} steps, the grid has {steps}"
        ))
        .hint(format!("take more steps, or order {steps}; without `order` it is at most the number of steps"))),
        Some(order) => Ok(order as usize),
    }
}

/// The order of each step: with `lower_order_final` no step's is more than the network calls that are left, itself and the
/// closing one included, as published for few steps. `below`: only with fewer calls than that.
pub(super) fn orders(c: &Compiler<'_>, grid: &[f64], order: usize, below: usize) -> Vec<usize> {
    let steps = grid.len() - 1;
    let calls = steps + usize::from(c.options.denoise.unwrap_or(true));
    let lowers = c.options.lower_order_final.unwrap_or(false) && calls < below;
    (0..steps).map(|i| if lowers { order.min(calls - i) } else { order }).collect()
}

/// eta, 0 without.
pub(super) fn eta(c: &Compiler<'_>) -> Result<f64> {
    let eta = c.options.eta.unwrap_or(0.0);
    if (0.0..=1.0).contains(&eta) {
        return Ok(eta);
    }
    Err(Error::argument(format!("eta = {eta:?}: expected 0 (deterministic) to 1 (ancestral)")))
}

/// Whether the published form is asked for; an error unless k = 1.
pub(super) fn published(c: &Compiler<'_>) -> Result<bool> {
    let published = c.options.published.unwrap_or(false);
    if published {
        only_k1(
            c,
            "published: the papers' forms are",
            "leave `published` out: the general form is for any k",
        )?;
    }
    Ok(published)
}

/// Refuses processes of k > 1.
pub(super) fn only_k1(c: &Compiler<'_>, what: &str, hint: &str) -> Result<()> {
    match c.process.k() {
        1 => Ok(()),
        k => {
            Err(Error::new(Status::Unsupported, format!("{what} for k = 1, the process has k = {k}"))
                .hint(hint))
        }
    }
}

/// alpha and sigma of a process of k = 1.
pub(super) fn scales(process: &Process, t: f64) -> (f64, f64) {
    (process.mean(t)[(0, 0)], process.factor(t)[(0, 0)])
}
