//! The probe: which sampler, order and grid are best for the network at hand, at one number of network calls.
//!
//! Deterministic samplers are tried against a converged solution from the same few starts. All of them go a first round; the
//! better ones go on, with more starts each time, so that most of the work is spent on telling the best apart.

use crate::run::{Cancel, RunOptions, sample};
use crate::solver::Sampler;
use crate::solver::auto::FEW;
use crate::spec::{Grid, SamplerSpec, What};
use crate::{Error, Model, Result, Status, grid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What is tried: sampler and order (0: it has none).
const SAMPLERS: [(&str, u32); 12] = [
    ("unipc", 2),
    ("unipc", 3),
    ("dpmpp", 2),
    ("dpmpp", 3),
    ("gddim", 1),
    ("gddim", 2),
    ("gddim", 3),
    ("unipc", 1),
    ("unipc", 4),
    ("heun", 0),
    ("exp_heun", 0),
    ("rvv", 0),
];

/// What is tried for k = 1 where neither sampler nor order nor grid is given: each is within a few per cent of the best of
/// [`SAMPLERS`] on all grids somewhere (`tests/scripts/auto_table.py`), and together they cover nearly all, so that the probe is cheap.
#[rustfmt::skip]
const SHORT: &[(&str, u32, &str)] = &[
    ("unipc", 2, "logistic"), ("unipc", 3, "logistic"), ("dpmpp", 3, "order2.5"), ("dpmpp", 2, "order2.5"),
    ("dpmpp", 2, "order2"), ("gddim", 3, "uniform"), ("unipc", 2, "log_snr"), ("dpmpp", 3, "logistic"),
    ("gddim", 3, "logistic"), ("unipc", 3, "log_snr"), ("gddim", 3, "karras"), ("dpmpp", 2, "logistic"),
    ("unipc", 3, "order2.5"), ("unipc", 2, "order2.5"), ("dpmpp", 3, "order2"), ("unipc", 2, "quadratic"),
    ("heun", 0, "order2"), ("gddim", 3, "order2.5"), ("unipc", 3, "karras"), ("gddim", 2, "uniform"),
    ("unipc", 1, "karras"), ("heun", 0, "quadratic"), ("unipc", 2, "order2"), ("gddim", 3, "quadratic"),
    ("gddim", 2, "karras"), ("unipc", 2, "karras"), ("gddim", 3, "order2"), ("dpmpp", 3, "karras"),
    ("gddim", 2, "logistic"), ("dpmpp", 2, "uniform"), ("dpmpp", 3, "quadratic"), ("dpmpp", 2, "quadratic"),
];

/// The same in phase space.
#[rustfmt::skip]
const SHORT_OF_PHASE: &[(&str, u32, &str)] = &[
    ("unipc", 3, "logistic"), ("unipc", 3, "order2.5"), ("unipc", 3, "order2"), ("unipc", 3, "quadratic"),
    ("unipc", 2, "order2"), ("unipc", 2, "order2.5"), ("unipc", 3, "log_snr"), ("unipc", 1, "order2"),
    ("gddim", 1, "order2.5"), ("gddim", 1, "uniform"), ("unipc", 2, "logistic"), ("dpmpp", 3, "logistic"),
];

/// Starts after each round, in eighths of all, and how many of the candidates take part in the next.
const ROUNDS: [(usize, usize); 3] = [(1, 8), (3, 3), (8, 1)];

/// Calls of the converged solution for each call of the candidates, and at least.
const TEACHER: (u32, u32) = (3, 40);

/// What is probed, and how hard.
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    /// `nfe` or `steps`, and what else the samples will be drawn with (`clip`, `t_start`, ...). Of sampler, order and grid,
    /// what is given is kept, and the rest is chosen.
    pub sampler: SamplerSpec,
    /// Starts, the seeds from `sampler.seed` on; `None`: 48, and 128 where the data have few elements.
    pub starts: Option<usize>,
    /// Samples of one network call; `None`: at most 64.
    pub batch: Option<usize>,
    /// Class of each start, one after another, from the beginning again where there are fewer than starts; empty:
    /// the null class.
    pub labels: Vec<i64>,
    /// Stops it from another thread.
    pub cancel: Option<Cancel>,
}

impl ProbeOptions {
    /// The defaults for `sampler`.
    pub fn new(sampler: SamplerSpec) -> Self {
        Self { sampler, starts: None, batch: None, labels: Vec::new(), cancel: None }
    }
}

/// How far a probe is.
#[derive(Clone, Copy, Debug)]
pub struct Probing {
    /// Share of the work that is done, 0 to 1.
    pub fraction: f64,
    /// Network calls so far, of one sample each.
    pub calls: usize,
}

/// A candidate and its error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tried {
    /// Its name.
    pub sampler: String,
    /// Its order, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
    /// The grid.
    pub time_grid: Grid,
    /// Starts that it was tried on.
    pub starts: usize,
    /// Of the root mean square distances to the converged solution from these the mean of the middle half.
    pub error: f64,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probed {
    /// The options as they were given, with sampler, order and grid filled in.
    pub options: SamplerSpec,
    /// The chosen one's error.
    pub error: f64,
    /// Network calls that it took, of one sample each.
    pub calls: usize,
    /// The candidates of the last rounds before the others, the best first.
    pub tried: Vec<Tried>,
}

/// What an answer depends on, beside the model.
fn question(options: &ProbeOptions) -> Result<String> {
    let ProbeOptions { sampler, starts, labels, .. } = options;
    serde_json::to_string(&(sampler, starts, labels))
        .map_err(|e| Error::new(Status::Internal, "probe: the question").source(e))
}

/// Chooses sampler, order and grid for `model`. Deterministic. The model keeps the answer: the same question is answered at
/// once.
///
/// # Errors
/// [`Status::InvalidArgument`] for options out of range or a sampler that is none of the candidates;
/// [`Status::Cancelled`] where `observe` breaks; those of [`Sampler::compile`] and [`sample`].
pub fn probe(
    model: &Model,
    options: &ProbeOptions,
    observe: impl FnMut(Probing) -> ControlFlow<()>,
) -> Result<Probed> {
    let json = |e| Error::new(Status::Internal, "probe: what the model keeps").source(e);
    let question = question(options)?;
    if let Some(known) = model.kept().get(&question) {
        return serde_json::from_str(&known).map_err(json);
    }
    let probed = Probe::new(model, options, observe)?.choose()?;
    model.kept().keep(question, serde_json::to_string(&probed).map_err(json)?);
    Ok(probed)
}

struct Probe<'a, F> {
    model: &'a Model,
    options: &'a ProbeOptions,
    observe: F,
    /// Elements of one data sample.
    d: usize,
    starts: usize,
    candidates: Vec<Candidate>,
    teacher: Arc<Sampler>,
    /// Calls so far, and in all.
    calls: usize,
    of: usize,
}

struct Candidate {
    spec: SamplerSpec,
    sampler: Arc<Sampler>,
    /// Distance of each start so far.
    apart: Vec<f64>,
}

impl Candidate {
    /// The mean of the middle half: as blind as the median to samples that land elsewhere, and less a matter of chance.
    fn error(&self) -> f64 {
        let mut each = self.apart.clone();
        each.sort_by(f64::total_cmp);
        let quarter = each.len() / 4;
        let middle = &each[quarter..each.len() - quarter];
        middle.iter().sum::<f64>() / middle.len().max(1) as f64
    }
}

impl<'a, F: FnMut(Probing) -> ControlFlow<()>> Probe<'a, F> {
    fn new(model: &'a Model, options: &'a ProbeOptions, observe: F) -> Result<Self> {
        if options.sampler.encodes() {
            return Err(Error::new(
                Status::Unsupported,
                "probe: what encodes has no solution to be held against",
            ));
        }
        let d = model.spec().data_len();
        // Each element of a sample tells of the error: of few elements, more samples must.
        let starts = options.starts.unwrap_or(if d < FEW { 128 } else { 48 });
        if starts == 0 {
            return Err(Error::argument("starts = 0: expected at least 1"));
        }
        let candidates = candidates(model, &options.sampler)?;
        let calls = candidates.iter().map(|c| calls(&c.sampler)).max().unwrap_or(1);
        let teacher = SamplerSpec {
            sampler: Some("auto".into()),
            order: None,
            steps: None,
            nfe: Some(u32::try_from(calls).unwrap_or(u32::MAX).saturating_mul(TEACHER.0).max(TEACHER.1)),
            time_grid: None,
            variant: None,
            published: None,
            lower_order_final: None,
            ..options.sampler.clone()
        };
        let teacher = Arc::new(Sampler::compile(model.spec(), &teacher, None)?);
        let mut probe = Self { model, options, observe, d, starts, candidates, teacher, calls: 0, of: 0 };
        let mut left = probe.candidates.len();
        let mut before = 0;
        for (eighths, keep) in ROUNDS {
            let upto = probe.upto(eighths);
            probe.of += (upto - before) * (calls * left + self::calls(&probe.teacher));
            // Who goes on makes up for nothing: all have been on the starts before.
            (left, before) = (left.min(keep), upto);
        }
        Ok(probe)
    }

    /// The number of starts after the round of `eighths`.
    fn upto(&self, eighths: usize) -> usize {
        (self.starts * eighths).div_ceil(8)
    }

    fn choose(mut self) -> Result<Probed> {
        let mut from = 0;
        let mut out = Vec::new();
        for (eighths, keep) in ROUNDS {
            let upto = self.upto(eighths);
            if upto > from {
                let truth = self.solve(&Arc::clone(&self.teacher), from, upto)?;
                for i in 0..self.candidates.len() {
                    let made = match self.solve(&Arc::clone(&self.candidates[i].sampler), from, upto) {
                        Ok(made) => made,
                        // It is no candidate, and the others may be.
                        Err(e) if e.status() == Status::NonFinite => vec![f32::INFINITY; truth.len()],
                        Err(e) => return Err(e),
                    };
                    let apart = made.chunks(self.d).zip(truth.chunks(self.d)).map(|(a, b)| super::rms(a, b));
                    self.candidates[i].apart.extend(apart);
                }
            }
            from = upto;
            // Stable: of equals the first listed.
            self.candidates.sort_by(|a, b| a.error().total_cmp(&b.error()));
            let others = self.candidates.split_off(keep.min(self.candidates.len()));
            out.splice(0..0, others);
        }
        out.splice(0..0, self.candidates);
        let Some(best) = out.first().filter(|best| best.error().is_finite()) else {
            return Err(Error::new(
                Status::NonFinite,
                "probe: no sampler has finite samples at so few calls",
            )
            .hint("give them more calls: nfe"));
        };
        let tried = |c: &Candidate| Tried {
            sampler: c.spec.name().to_owned(),
            order: c.spec.order,
            time_grid: c.spec.time_grid.clone().unwrap_or(Grid::Points(Vec::new())),
            starts: c.apart.len(),
            error: c.error(),
        };
        let (options, error) = (best.spec.clone(), best.error());
        let finite = out.iter().filter(|c| c.error().is_finite());
        Ok(Probed { options, error, calls: self.calls, tried: finite.map(tried).collect() })
    }

    /// The data that `sampler` makes of starts `from` to `upto`.
    fn solve(&mut self, sampler: &Arc<Sampler>, from: usize, upto: usize) -> Result<Vec<f32>> {
        let labels = &self.options.labels;
        let n = upto - from;
        let run = RunOptions {
            seed: self.options.sampler.seed().wrapping_add(from as u64),
            batch: self.options.batch,
            labels: (!labels.is_empty()).then(|| (from..upto).map(|i| labels[i % labels.len()]).collect()),
            cancel: self.options.cancel.clone(),
            ..RunOptions::new(n)
        };
        let (before, of, all) = (self.calls, self.of.max(1), calls(sampler) * n);
        let observe = &mut self.observe;
        let made = sample::<f32>(self.model, sampler, &run, What::Data, |overall| {
            let calls = before + (overall.fraction() * all as f64) as usize;
            observe(Probing { fraction: (calls as f64 / of as f64).min(1.0), calls })
        });
        self.calls = before + all;
        let cancelled = |e: Error| match e.status() {
            Status::Cancelled => Error::new(Status::Cancelled, "the probe was cancelled"),
            _ => e,
        };
        Ok(made.map_err(cancelled)?.values.into_raw_vec_and_offset().0)
    }
}

/// Network calls of a sampler with fixed steps.
fn calls(sampler: &Sampler) -> usize {
    sampler.plan().map_or(0, |plan| plan.nfe)
}

/// What a probe compares itself with: every deterministic sampler with fixed steps, order and named grid that fits what is given;
/// of those that make the same plan, the first.
///
/// # Errors
/// Those of [`probe`] before its first network call.
pub fn listed(model: &Model, given: &SamplerSpec) -> Result<Vec<SamplerSpec>> {
    Ok(compiled(model, every(given)?)?.into_iter().map(|candidate| candidate.spec).collect())
}

/// The short list, or all that fits where some of it is given.
fn candidates(model: &Model, given: &SamplerSpec) -> Result<Vec<Candidate>> {
    let free = given.sampler.as_deref().is_none_or(|name| name == "auto");
    if !free || given.order.is_some() || given.time_grid.is_some() {
        return compiled(model, every(given)?);
    }
    let short = if model.spec().process()?.k() == 1 { SHORT } else { SHORT_OF_PHASE };
    let specs = short.iter().map(|(sampler, order, grid)| SamplerSpec {
        sampler: Some((*sampler).into()),
        order: (*order > 0).then_some(*order),
        time_grid: Some(Grid::Name((*grid).into())),
        ..given.clone()
    });
    compiled(model, specs.collect())
}

/// Every sampler, order and grid that fits what is given.
fn every(given: &SamplerSpec) -> Result<Vec<SamplerSpec>> {
    let name = given.sampler.as_deref().filter(|name| *name != "auto");
    if let Some(name) = name.filter(|name| !SAMPLERS.iter().any(|(own, _)| own == name)) {
        let mut names: Vec<_> = SAMPLERS.iter().map(|(own, _)| *own).collect();
        names.dedup();
        return Err(Error::argument(format!("probe: `{name}` is none of the samplers that it chooses from"))
            .hint(format!(
                "leave it out, or name one of {}",
                BTreeSet::from_iter(names).into_iter().collect::<Vec<_>>().join(", ")
            )));
    }
    let grids: Vec<Grid> = match &given.time_grid {
        Some(grid) => vec![grid.clone()],
        None => grid::NAMES.iter().map(|name| Grid::Name((*name).to_owned())).collect(),
    };
    let mut specs = Vec::new();
    for (sampler, order) in SAMPLERS {
        let order = (order > 0).then_some(order);
        if name.is_some_and(|name| name != sampler) || given.order.is_some() && given.order != order {
            continue;
        }
        specs.extend(grids.iter().map(|grid| SamplerSpec {
            sampler: Some(sampler.into()),
            order,
            time_grid: Some(grid.clone()),
            ..given.clone()
        }));
    }
    Ok(specs)
}

/// Those of `specs` that the model takes; of equal plans the first.
fn compiled(model: &Model, specs: Vec<SamplerSpec>) -> Result<Vec<Candidate>> {
    let mut found: Vec<Candidate> = Vec::new();
    let mut hashes = BTreeSet::new();
    let mut failure = None;
    for spec in specs {
        match Sampler::compile(model.spec(), &spec, None) {
            Ok(sampler) => {
                if hashes.insert(sampler.hash()) {
                    found.push(Candidate { spec, sampler: Arc::new(sampler), apart: Vec::new() });
                }
            }
            // Such as an order that so few steps do not reach, or a splitting where there is no momentum.
            Err(e) => failure = failure.take().or(Some(e)),
        }
    }
    match (found.is_empty(), failure) {
        (false, _) => Ok(found),
        (true, Some(e)) => Err(e.context("probe")),
        (true, None) => {
            Err(Error::argument("probe: no candidate has the sampler and the order that are given"))
        }
    }
}
