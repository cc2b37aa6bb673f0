//! The likelihood of images under a model, along the probability flow (arXiv 2011.13456, section 4.3; in phase space
//! arXiv 2112.07068, appendix B).
//!
//! Along dz = f dt the log density changes by minus the divergence of f, so log p(z at t_end) = log p(z at t_start) + the
//! integral of div f. With f = F z - 1/2 G G^T score all of the divergence but the trace of G G^T times the score's Jacobian H
//! is known, and that is estimated from random directions: with R the root
//! of G G^T and random signs v, it is E[(R v)^T H R v], and H R v a difference of two outputs at z + h R v and z - h R v, up
//! to h^2. (R H R is symmetric: any other split of G G^T is noisier, since noise of the position tells of momenta, whose share is
//! a hundred times larger.)

use super::{Overall, Run, RunOptions};
use crate::array::{Buffer, Float, Precision, Tensor};
use crate::decode::Decoder;
use crate::noise::{Purpose, fill_f64};
use crate::plan::{Eval, Plan};
use crate::process::{Mat, Process};
use crate::solver::{Rows, Sampler, prior_factor};
use crate::spec::{DataSpec, SamplerSpec, What};
use crate::{Error, Model, Result, Status};
use ndarray::ArrayD;
use std::f64::consts::{LN_2, PI, SQRT_2};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Levels of the images that are dequantised.
const LEVELS: f64 = 256.0;
/// What follows the flow by default.
pub const SAMPLER: &str = "gddim";
/// The draw of purpose `probe` that dequantises: not one that a direction has.
const DEQUANTISE: u32 = u32::MAX;

/// How likelihoods are estimated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Random directions at each time, at least 1, of two network calls each. Two or more give a standard error of each
    /// image.
    pub probes: u32,
    /// Whether the images' values are taken for levels of 0 to 255 over the data range, each spread evenly over its bin of the
    /// 256: the bits are then those of 8-bit images, comparable with the literature's.
    pub dequantise: bool,
}

impl Default for Estimate {
    fn default() -> Self {
        Self { probes: 1, dequantise: false }
    }
}

/// Likelihoods in bits per dimension: -log2 p(x)/d of each image, the lower the likelier.
#[derive(Clone, Debug, PartialEq)]
pub struct Likelihood {
    /// The sampler that followed the flow.
    pub sampler: String,
    /// Of each image.
    pub bits: Vec<f64>,
    /// The standard error of each by the random directions; empty with one of them a time.
    pub errors: Vec<f64>,
    /// Network calls for each image.
    pub nfe: usize,
}

impl Likelihood {
    /// Mean over the images.
    pub fn mean(&self) -> f64 {
        self.bits.iter().sum::<f64>() / self.bits.len() as f64
    }

    /// Standard error of the mean, by the images' spread: that of the estimates is in it. `None` for one image.
    pub fn standard_error(&self) -> Option<f64> {
        let (n, mean) = (self.bits.len() as f64, self.mean());
        let square: f64 = self.bits.iter().map(|b| (b - mean) * (b - mean)).sum();
        (n > 1.0).then(|| libm::sqrt(square / (n - 1.0) / n))
    }
}

/// Likelihoods of the images [`RunOptions::from_image`] under the law that the probability flow makes of the prior.
///
/// The flow is followed from `t_end` to `t_start` by a sampler that encodes (default `gddim`, whose states between two steps
/// are the solution; of `sampler`, `encode` and `denoise` do not matter), and the divergence is integrated over its grid by cubics: what `steps` or `nfe` leaves of error is
/// in the result. The density is that of the data at `t_end`, which has no closing step.
///
/// In phase space an image has no momenta. They are drawn from q(m | x), their law at `t_end` given the image, and
/// log p(x) >= E[log p(x, m) - log q(m | x)] is estimated: a lower bound, which is tight where data are smooth on the scale of
/// the noise at `t_end`. So the bits are an upper bound there.
///
/// Not with guidance or inpainting: they have no density of their own. A caller's noise, previews and `anytime` are not used; sample i has the seed
/// `seed` + i, from which momenta, directions and dequantisation are drawn.
///
/// # Errors
/// Those of [`Sampler::compile`] and [`Run::start`]; [`Status::InvalidArgument`] for `probes`, missing images, or images out of
/// the data range that are to be dequantised; [`Status::Unsupported`] for `rk45`; [`Status::Cancelled`] also where `observe`
/// breaks.
pub fn likelihood(
    model: &Model,
    sampler: &SamplerSpec,
    options: &RunOptions,
    estimate: Estimate,
    mut observe: impl FnMut(Overall) -> ControlFlow<()>,
) -> Result<Likelihood> {
    if !(1..=10_000).contains(&estimate.probes) {
        return Err(Error::argument(format!("probes = {}: expected 1 to 10000", estimate.probes)));
    }
    let Some(images) = &options.from_image else {
        return Err(Error::argument("from_image: a likelihood is one of images, and none are given"));
    };
    let name = sampler.sampler.clone().unwrap_or_else(|| SAMPLER.into());
    let spec =
        SamplerSpec { sampler: Some(name), encode: Some(true), denoise: Some(false), ..sampler.clone() };
    let compiled = Sampler::compile(model.spec(), &spec, None)?;
    let Rows::Planned(plan) = &compiled.rows else {
        let name = compiled.info().name;
        return Err(Error::new(Status::Unsupported, format!("likelihood: `{name}` chooses its own times"))
            .hint("take a sampler of fixed steps, such as `gddim`"));
    };
    let way = Way::new(model, &compiled, plan, estimate.probes)?;
    let sampler = Arc::new(way.sampler(compiled.clone(), plan));
    let (n, data) = (options.n, &model.spec().data);
    let options = RunOptions { noise: None, previews: false, anytime: false, ..options.clone() };
    // First: other checks may take memory for each image. Directions and the state are kept in double precision.
    let batch = options.batch.unwrap_or(64).clamp(1, n.max(1));
    let directions = options.bytes(batch as u128 * 4 * (way.k * way.d) as u128);
    options.check_memory(directions.saturating_add(options.needed(&sampler, batch)))?;
    options.check(model.spec(), &sampler)?;
    if estimate.dequantise {
        check_range(images, data)?;
    }
    options.warn_of_range(&sampler);

    let began = std::time::Instant::now();
    let mut likelihood =
        Likelihood { sampler: compiled.info().name.to_owned(), bits: Vec::new(), errors: Vec::new(), nfe: 0 };
    while likelihood.bits.len() < n {
        let first = likelihood.bits.len();
        let range = first..(first + batch).min(n);
        let mut part = options.slice(range.clone());
        part.deadline = options.deadline.map(|deadline| deadline.saturating_sub(began.elapsed()));
        if estimate.dequantise
            && let Some(images) = &part.from_image
        {
            part.from_image = Some(dequantised(images, data, part.n, part.seed)?);
        }
        let mut run = Run::start_at(first, model, &sampler, part)?;
        let in_flight = range.len();
        let estimates = way.follow(&mut run, |run| {
            let overall = Overall { n, finished: first, in_flight, run };
            match observe(overall) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(Error::new(
                    Status::Cancelled,
                    format!("cancelled after step {}, with {first} of {n} images finished before", run.step),
                )),
            }
        })?;
        let offset = match estimate.dequantise {
            true => libm::log2(LEVELS / (data.range[1] - data.range[0])),
            false => 0.0,
        };
        let bits = |log: f64| offset - log / (way.d as f64 * LN_2);
        for logs in estimates.chunks(way.probes) {
            let count = logs.len() as f64;
            let mean = logs.iter().sum::<f64>() / count;
            likelihood.bits.push(bits(mean));
            if logs.len() > 1 {
                let square: f64 = logs.iter().map(|log| (bits(*log) - bits(mean)).powi(2)).sum();
                likelihood.errors.push(libm::sqrt(square / (count - 1.0) / count));
            }
        }
        likelihood.nfe = run.progress().nfe;
    }
    Ok(likelihood)
}

/// Refuses images with values that are no levels.
fn check_range(images: &Tensor, data: &DataSpec) -> Result<()> {
    let [low, high] = data.range;
    let slack = 0.5 / (LEVELS - 1.0) * (high - low);
    match images.find(|x| !(low - slack..=high + slack).contains(&x)) {
        None => Ok(()),
        Some(x) => Err(Error::argument(format!(
            "dequantise: a value is {x:?}, out of the data range {low:?} to {high:?}"
        ))
        .hint("levels are within the range: clip the images, or read them from PNG")),
    }
}

/// Images whose values lie evenly in the bins of their levels, one for each of the `n` samples from `seed` on.
fn dequantised(images: &Tensor, data: &DataSpec, n: usize, seed: u64) -> Result<Tensor> {
    let ([low, high], d) = (data.range, data.shape.iter().product::<usize>());
    let values: Vec<f64> = match images {
        Tensor::F32(a) => a.iter().map(|x| f64::from(*x)).collect(),
        Tensor::F64(a) => a.iter().copied().collect(),
    };
    let mut spread = Vec::with_capacity(n * d);
    let mut noise = vec![0.0; d];
    for i in 0..n {
        fill_f64(seed.wrapping_add(i as u64), Purpose::Probe, DEQUANTISE, 0, &mut noise);
        let image = &values[(i * d) % values.len()..][..d];
        spread.extend(image.iter().zip(&noise).map(|(x, xi)| {
            let level = libm::round((x - low) / (high - low) * (LEVELS - 1.0)).clamp(0.0, LEVELS - 1.0);
            let uniform = 0.5 * libm::erfc(-xi / SQRT_2);
            low + (high - low) * (level + uniform) / LEVELS
        }));
    }
    let mut shape = vec![n];
    shape.extend(&data.shape);
    let array = ArrayD::from_shape_vec(shape, spread);
    Ok(Tensor::F64(array.map_err(|e| Error::new(Status::Internal, "the images' shape").source(e))?))
}

/// The way to the prior: its times, and what is known of the divergence at each.
struct Way {
    process: Process,
    k: usize,
    d: usize,
    probes: usize,
    times: Vec<Time>,
    /// The factor of the prior's covariance.
    prior: Mat,
    /// Where directions are written, and their two outputs.
    state: usize,
    slots: [usize; 2],
}

/// One time of the grid.
struct Time {
    t: f64,
    /// Weight of the divergence there in its integral.
    weight: f64,
    /// The trace of F, for each element of the data.
    known: f64,
    /// -1/2 R times what the score has of the state itself, times R. Its trace is known, too, but only together with what the
    /// output has of the state is it symmetric where the output is a half or a data estimate.
    own: Mat,
    /// -1/2 R times what the score has of the output, times the scale of directions: k x output blocks.
    pull: Mat,
    /// R, scaled so that directions are as large as the noise there is.
    direction: Mat,
    input: Option<crate::plan::Input>,
}

impl Way {
    fn new(model: &Model, sampler: &Sampler, plan: &Plan, probes: u32) -> Result<Self> {
        let (spec, process) = (model.spec(), sampler.process.clone());
        let decoder = Decoder::new(spec)?;
        let k = process.k();
        let trace = |m: Mat| (0..k).map(|i| m[(i, i)]).sum::<f64>();
        let time = |(t, weight): (&f64, f64)| -> Result<Time> {
            let (p, r) = decoder.epsilon(&process, *t)?;
            let score = process.score_from_eps(*t);
            let root = process.diffusion(*t).psd_factor();
            // The largest part of the noise that a direction is: h is relative to it.
            let scale = (process.data_factor(*t).1 * root).max_abs();
            Ok(Time {
                t: *t,
                weight,
                known: trace(process.drift(*t)),
                own: root * score * p * root * -0.5,
                pull: root * score * r * (-0.5 * scale),
                direction: root * (1.0 / scale),
                input: decoder.input(&process, *t),
            })
        };
        let times = plan.grid.iter().zip(weights(&plan.grid)).map(time).collect::<Result<_>>()?;
        let end = plan.grid[plan.grid.len() - 1];
        Ok(Self {
            k,
            d: spec.data_len(),
            probes: probes as usize,
            times,
            prior: prior_factor(spec, &process, end)?,
            state: plan.states,
            slots: [plan.slots, plan.slots + 1],
            process,
        })
    }

    /// The sampler with room for directions.
    fn sampler(&self, mut sampler: Sampler, plan: &Plan) -> Sampler {
        let plan = Plan { states: plan.states + 1, slots: plan.slots + 2, ..plan.clone() };
        sampler.rows = Rows::Planned(Arc::new(plan));
        sampler
    }

    /// Runs to the prior, and gives the estimates of log p of each sample, one for each direction of a time.
    fn follow(
        &self,
        run: &mut Run,
        mut observe: impl FnMut(super::Progress) -> Result<()>,
    ) -> Result<Vec<f64>> {
        let n = run.samples();
        let mut logs = vec![0.0; n * self.probes];
        let mut own = self.momenta(run)?;
        for (i, time) in self.times.iter().enumerate() {
            for probe in 0..self.probes {
                let draw = (i * self.probes + probe) as u32;
                let traces = self.trace(run, time, draw)?;
                for (sample, trace) in traces.iter().enumerate() {
                    let divergence = self.d as f64 * time.known + trace;
                    logs[sample * self.probes + probe] += time.weight * divergence;
                }
            }
            if i + 1 < self.times.len() {
                let progress = run.step(1)?;
                observe(progress)?;
            }
        }
        let z = self.state(run)?;
        let white = self.prior.inverse()?;
        for (z, own) in z.chunks(self.k * self.d).zip(&mut own) {
            *own = self.normal(&white, z) - *own;
        }
        let of = |(i, log): (usize, &f64)| own[i / self.probes] + log;
        let logs: Vec<f64> = logs.iter().enumerate().map(of).collect();
        match logs.iter().position(|log| !log.is_finite()) {
            None => Ok(logs),
            Some(i) => Err(Error::new(
                Status::NonFinite,
                format!("likelihood: that of image {} is not finite", run.first_sample + i / self.probes),
            )),
        }
    }

    fn state(&self, run: &Run) -> Result<Vec<f64>> {
        let mut z = vec![0.0; run.samples() * self.k * self.d];
        run.read(What::State, &mut z)?;
        Ok(z)
    }

    /// log N(z; 0, S) of one state, or of its momenta, for S^-1/2 = `white` (of as many blocks as z has).
    fn normal(&self, white: &Mat, z: &[f64]) -> f64 {
        let blocks = white.rows();
        let mut square = 0.0;
        for j in 0..self.d {
            for i in 0..blocks {
                let y: f64 = (0..blocks).map(|b| white[(i, b)] * z[b * self.d + j]).sum();
                square += y * y;
            }
        }
        let volume = libm::log(white.det().abs()) - 0.5 * blocks as f64 * libm::log(2.0 * PI);
        self.d as f64 * volume - 0.5 * square
    }

    /// log q(m | x) of the momenta that each sample starts with; 0 without.
    fn momenta(&self, run: &Run) -> Result<Vec<f64>> {
        let n = run.samples();
        if self.k == 1 {
            return Ok(vec![0.0; n]);
        }
        let (k, d, start) = (self.k, self.d, self.times[0].t);
        let (mean, covariance) = (self.process.mean(start), self.process.data_covariance(start));
        let white =
            Mat::from_fn(k - 1, k - 1, |i, j| covariance[(i + 1, j + 1)]).cholesky_lower()?.inverse()?;
        let z = self.state(run)?;
        Ok(z.chunks(k * d)
            .map(|z| {
                let residual: Vec<f64> = (d..k * d).map(|i| z[i] - mean[(i / d, 0)] * z[i % d]).collect();
                self.normal(&white, &residual)
            })
            .collect())
    }

    /// v^T (own v + pull times the difference of outputs over 2 h) of each sample, for signs v of draw `draw`.
    fn trace(&self, run: &mut Run, time: &Time, draw: u32) -> Result<Vec<f64>> {
        let (n, k, d) = (run.samples(), self.k, self.d);
        // Differences of outputs in single precision lose more to rounding than to h^2.
        let h = match run.batch.slots[self.slots[0]].precision() {
            Precision::F32 => 1e-2,
            Precision::F64 => 1e-3,
        };
        let mut signs = vec![0.0; n * k * d];
        for (v, seed) in signs.chunks_mut(k * d).zip(&run.batch.seeds) {
            fill_f64(*seed, Purpose::Probe, draw, 0, v);
            v.iter_mut().for_each(|v| *v = f64::copysign(1.0, *v));
        }
        for (slot, h) in self.slots.into_iter().zip([h, -h]) {
            run.interrupted()?;
            let [from, to] =
                run.batch.states.get_disjoint_mut([0, self.state]).map_err(|e| {
                    Error::new(Status::Internal, "a direction has no state of its own").source(e)
                })?;
            let scaled = time.direction * h;
            match (from, to) {
                (Buffer::F32(from), Buffer::F32(to)) => shift(from, to, &scaled, &signs, d),
                (Buffer::F64(from), Buffer::F64(to)) => shift(from, to, &scaled, &signs, d),
                _ => return Err(Error::new(Status::Internal, "states of two precisions")),
            }
            let step = run.progress.step;
            let input = time.input.clone();
            run.eval(&Eval { step, network: 0, from: self.state, t: time.t, slot, input })?;
        }
        let [up, down] = self.slots.map(|slot| &run.batch.slots[slot]);
        let blocks = time.pull.cols();
        let at = |buffer: &Buffer, i: usize| match buffer {
            Buffer::F32(values) => f64::from(values[i]),
            Buffer::F64(values) => values[i],
        };
        let of = |sample: usize| -> f64 {
            let output = |o: usize, j: usize| {
                let i = (sample * blocks + o) * d + j;
                (at(up, i) - at(down, i)) / (2.0 * h)
            };
            let element = |b: usize, j: usize| -> f64 {
                let sign = |b: usize| signs[(sample * k + b) * d + j];
                let pulled: f64 = (0..blocks).map(|o| time.pull[(b, o)] * output(o, j)).sum();
                let own: f64 = (0..k).map(|c| time.own[(b, c)] * sign(c)).sum();
                sign(b) * (pulled + own)
            };
            (0..k).map(|b| (0..d).map(|j| element(b, j)).sum::<f64>()).sum()
        };
        Ok((0..n).map(of).collect())
    }
}

/// to = from + m v.
fn shift<T: Float>(from: &[T], to: &mut [T], m: &Mat, v: &[f64], d: usize) {
    let k = m.rows();
    for (i, (from, to)) in from.iter().zip(to).enumerate() {
        let (sample, block, j) = (i / (k * d), i % (k * d) / d, i % d);
        let step: f64 = (0..k).map(|b| m[(block, b)] * v[(sample * k + b) * d + j]).sum();
        *to = T::from_f64(from.to_f64() + step);
    }
}

/// Weights of values at `grid` in the integral over it: of the cubics through the four values around each step.
fn weights(grid: &[f64]) -> Vec<f64> {
    let mut weights = vec![0.0; grid.len()];
    let count = grid.len().min(4);
    for i in 0..grid.len() - 1 {
        let first = i.saturating_sub(1).min(grid.len() - count);
        let nodes = &grid[first..first + count];
        let (middle, half) = (0.5 * (grid[i] + grid[i + 1]), 0.5 * (grid[i + 1] - grid[i]));
        // Two Gauss points are exact for cubics.
        for x in [-1.0, 1.0].map(|sign| middle + sign * half / libm::sqrt(3.0)) {
            for (j, node) in nodes.iter().enumerate() {
                let others = nodes.iter().enumerate().filter(|(other, _)| *other != j);
                let basis: f64 = others.map(|(_, other)| (x - other) / (node - other)).product();
                weights[first + j] += half * basis;
            }
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cubics_are_integrated_exactly() {
        for grid in
            [&[0.1, 0.4][..], &[0.1, 0.2, 0.5], &[0.0, 0.1, 0.3, 0.35], &[0.0, 0.2, 0.25, 0.6, 0.7, 1.0]]
        {
            let weights = weights(grid);
            for power in 0..grid.len().min(4) as i32 {
                let sum: f64 = weights.iter().zip(grid).map(|(w, t)| w * t.powi(power)).sum();
                let end = |t: f64| t.powi(power + 1) / f64::from(power + 1);
                let exact = end(grid[grid.len() - 1]) - end(grid[0]);
                assert!((sum - exact).abs() < 1e-15, "t^{power} over {grid:?}: {sum}, not {exact}");
            }
        }
    }
}
