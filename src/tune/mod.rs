//! Tuned plans: grid and coefficients of a deterministic sampler fitted to the network at hand.
//!
//! A teacher (the same probability flow on a fine grid) says where each start goes. The student's grid is a choice of
//! the teacher's times, improved one time after another; on each grid, the coefficients of every step are the least
//! squares solution that brings the student to the teacher's states, step after step from where the student really
//! is. The network is a black box, called as in sampling. (The idea of learning solver coefficients from fine
//! trajectories is that of solver search, such as arXiv 2301.12935 and 2409.03845.)
//!
//! Coefficients are k x k blocks that all elements of all samples share: some tens of numbers from millions of
//! equations, so that a few dozen starts do not overfit. [`Report`] holds the errors on other starts.
//!
//! [`probe`] is the cheaper thing: it only chooses sampler, order and grid.

mod fit;
mod probe;

pub use probe::{ProbeOptions, Probed, Probing, Tried, listed, probe};

use crate::array::Precision;
use crate::decode::Times;
use crate::plan::{Plan, Row, Update};
use crate::run::RunOptions;
use crate::spec::{Grid, SamplerSpec, What};
use crate::{Error, Model, Result, Run, Sampler, Status, grid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What is tuned, and how hard.
#[derive(Clone, Debug)]
pub struct TuneOptions {
    /// The sampler to start from: deterministic, with fixed steps. A grid given by its points is kept; a named
    /// one, or none, is where the search begins.
    pub sampler: SamplerSpec,
    /// Starts to learn from; seeds `sampler.seed` and on.
    pub samples: usize,
    /// Further starts, with the seeds that follow, for the report.
    pub held_out: usize,
    /// Steps of the teacher.
    pub teacher_steps: usize,
    /// Grids that are tried at most.
    pub evaluations: usize,
    /// Samples of one network call; `None`: all.
    pub batch: Option<usize>,
    /// Class of each start, one after another, from the beginning again where there are fewer than starts; empty:
    /// the null class.
    pub labels: Vec<i64>,
    /// Grids that an interrupted call has tried, with their errors, so that they need not be tried again.
    pub known: Vec<Trial>,
}

impl TuneOptions {
    /// The defaults for `sampler`: 64 starts, 64 held out, a teacher of 128 steps, 80 grids.
    pub fn new(sampler: SamplerSpec) -> Self {
        Self {
            sampler,
            samples: 64,
            held_out: 64,
            teacher_steps: 128,
            evaluations: 80,
            batch: None,
            labels: Vec::new(),
            known: Vec::new(),
        }
    }
}

/// A grid that was tried: numbers of the teacher's times, and the mean error of the fitted plan on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Increasing, from 0 to the teacher's steps.
    pub grid: Vec<usize>,
    /// Mean over the starts of the root mean square distance to the teacher's data.
    pub error: f64,
}

/// How far the tuning is.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The teacher's run on the starts to learn from, 0 to 1.
    Teacher(f64),
    /// A grid was tried.
    Tried {
        /// The newest.
        trial: &'a Trial,
        /// How many there are.
        count: usize,
        /// The least error so far.
        best: f64,
    },
}

/// Distances of samples to the teacher's: root mean square over the elements of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distance {
    /// Over the samples.
    pub mean: f64,
    /// Over the samples.
    pub median: f64,
}

/// What tuning gained, on starts that it did not learn from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Network calls for each sample.
    pub nfe: usize,
    /// The sampler as it was given.
    pub given: Distance,
    /// On the tuned grid, with its own coefficients.
    pub on_grid: Distance,
    /// The tuned plan.
    pub tuned: Distance,
    /// The tuned plan on the starts that it learned from: far below `tuned` means too few samples.
    pub learned: Distance,
    /// Grids tried.
    pub trials: usize,
}

/// A tuned plan.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// Bound to the model by its hash.
    pub plan: Plan,
    /// What it gained.
    pub report: Report,
}

/// Tunes a plan for `model`. Deterministic: the same options give the same plan, interrupted or not.
///
/// # Errors
/// [`Status::InvalidArgument`] for a sampler that draws noise or chooses its own steps, and for options out of range;
/// [`Status::Cancelled`] where `observe` breaks; those of [`Sampler::compile`] and [`Run`].
pub fn tune(
    model: &Model,
    options: &TuneOptions,
    mut observe: impl FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Tuned> {
    let tuner = Tuner::new(model, options)?;
    let starts = tuner.starts(0, options.samples);
    let teacher = tuner.teach(&starts, true, |share| observe(Event::Teacher(share)))?;

    let mut trials: BTreeMap<Vec<usize>, f64> =
        options.known.iter().map(|trial| (trial.grid.clone(), trial.error)).collect();
    let (mut count, mut best) = (0, f64::INFINITY);
    let mut seen = std::collections::BTreeSet::new();
    let mut error_of = |grid: &[usize]| -> Result<Option<f64>> {
        if !seen.contains(grid) {
            if count == options.evaluations {
                return Ok(None);
            }
            count += 1;
            seen.insert(grid.to_vec());
        }
        if let Some(error) = trials.get(grid) {
            best = best.min(*error);
            return Ok(Some(*error));
        }
        let error = tuner.learn(grid, &starts, &teacher)?.1.mean;
        trials.insert(grid.to_vec(), error);
        best = best.min(error);
        let trial = Trial { grid: grid.to_vec(), error };
        match observe(Event::Tried { trial: &trial, count, best }) {
            ControlFlow::Continue(()) => Ok(Some(error)),
            ControlFlow::Break(()) => Err(cancelled()),
        }
    };
    let chosen = tuner.search(&mut error_of)?;
    let trials = count;

    let (mut plan, learned) = tuner.learn(&chosen, &starts, &teacher)?;
    plan.model = Some(model.hash()?);
    let others = tuner.starts(options.samples, options.held_out);
    let truth = tuner.teach(&others, false, |_| ControlFlow::Continue(()))?;
    let distance = |sampler: Sampler| tuner.distance(sampler, &others, &truth.data);
    let given = distance(Sampler::compile(model.spec(), &options.sampler, None)?)?;
    let on_grid = distance(tuner.compile(&chosen)?)?;
    let nfe = plan.nfe;
    let tuned = distance(Sampler::from_plan(model.spec(), plan.clone())?)?;
    Ok(Tuned { plan, report: Report { nfe, given, on_grid, tuned, learned, trials } })
}

fn cancelled() -> Error {
    Error::new(Status::Cancelled, "tuning was cancelled")
}

struct Tuner<'a> {
    model: &'a Model,
    options: &'a TuneOptions,
    /// The teacher's times.
    fine: Vec<f64>,
    steps: usize,
    /// Elements of one data sample.
    d: usize,
    k: usize,
}

/// Where the teacher goes.
struct Teacher {
    /// The state at each of its times, [n, k, d]; empty where only the end is wanted.
    path: Vec<Vec<f32>>,
    /// The state after the closing step.
    end: Vec<f32>,
    /// Its data, [n, d].
    data: Vec<f32>,
}

impl<'a> Tuner<'a> {
    fn new(model: &'a Model, options: &'a TuneOptions) -> Result<Self> {
        if options.sampler.encodes() {
            return Err(Error::new(
                Status::Unsupported,
                "tune: what encodes has no teacher that it could follow",
            ));
        }
        let sampler = Sampler::compile(model.spec(), &options.sampler, None)?;
        let Some(plan) = sampler.plan().filter(|plan| plan.draws() == 0) else {
            let name = sampler.info().name;
            return Err(Error::argument(format!(
                "`{name}` cannot be tuned: it draws noise or chooses its own steps"
            ))
            .hint("tune a deterministic sampler with fixed steps, such as `dpmpp` or `gddim`"));
        };
        let steps = plan.steps;
        for (name, value, least) in [
            ("samples", options.samples, 1),
            ("held_out", options.held_out, 1),
            ("evaluations", options.evaluations, 1),
            ("teacher_steps", options.teacher_steps, 4 * steps),
        ] {
            if value < least {
                return Err(Error::argument(format!("{name} = {value}: expected at least {least}")));
            }
        }
        let process = model.spec().process()?;
        let fine = match options.sampler.time_grid {
            Some(Grid::Points(_)) => refined(&plan.grid, options.teacher_steps),
            _ => {
                let fine = SamplerSpec {
                    steps: Some(u32::try_from(options.teacher_steps).unwrap_or(u32::MAX)),
                    nfe: None,
                    time_grid: None,
                    ..options.sampler.clone()
                };
                grid::resolve(&fine, &process, &Times::of_model(model.spec())?, 1)?
            }
        };
        Ok(Self { model, options, fine, steps, d: model.spec().data_len(), k: process.k() })
    }

    /// Run options of `count` starts from number `first` on.
    fn starts(&self, first: usize, count: usize) -> RunOptions {
        let labels = &self.options.labels;
        RunOptions {
            seed: self.options.sampler.seed().wrapping_add(first as u64),
            precision: Precision::F32,
            batch: self.options.batch,
            labels: (!labels.is_empty())
                .then(|| (first..first + count).map(|i| labels[i % labels.len()]).collect()),
            ..RunOptions::new(count)
        }
    }

    /// The sampler on a choice of the teacher's times.
    fn compile(&self, grid: &[usize]) -> Result<Sampler> {
        let spec = SamplerSpec {
            steps: None,
            nfe: None,
            t_start: None,
            t_end: None,
            time_grid: Some(Grid::Points(grid.iter().map(|i| self.fine[*i]).collect())),
            ..self.options.sampler.clone()
        };
        Sampler::compile(self.model.spec(), &spec, None)
    }

    fn teach(
        &self,
        starts: &RunOptions,
        path: bool,
        mut observe: impl FnMut(f64) -> ControlFlow<()>,
    ) -> Result<Teacher> {
        let all: Vec<usize> = (0..self.fine.len()).collect();
        let sampler = Arc::new(self.compile(&all)?);
        if path {
            let states = (self.fine.len() + 1) * self.k * self.d;
            let states = starts.bytes(starts.n as u128 * states as u128);
            starts.check_memory(states.saturating_add(starts.needed(&sampler, starts.n)))?;
        }
        let mut run = Run::start(self.model, &sampler, starts.clone())?;
        let mut states = Vec::new();
        let read = |run: &Run, what: What| -> Result<Vec<f32>> {
            let mut out = vec![0.0; run.shape(what).iter().product()];
            run.read(what, &mut out)?;
            Ok(out)
        };
        if path {
            states.push(read(&run, What::State)?);
        }
        while !run.progress().done {
            let progress = run.step(1)?;
            if path && progress.step < self.fine.len() {
                states.push(read(&run, What::State)?);
            }
            if observe(progress.fraction).is_break() {
                return Err(cancelled());
            }
        }
        Ok(Teacher { path: states, end: read(&run, What::State)?, data: read(&run, What::Data)? })
    }

    /// The plan on `grid` with its coefficients fitted step by step, and its distance to the teacher.
    fn learn(&self, grid: &[usize], starts: &RunOptions, teacher: &Teacher) -> Result<(Plan, Distance)> {
        let sampler = Arc::new(self.compile(grid)?);
        let mut run = Run::start(self.model, &sampler, starts.clone())?;
        let last_of_step = sampler.plan().map(last_updates).unwrap_or_default();
        while let Some((number, row)) = run.upcoming() {
            if let (Row::Update(update), true) = (row, last_of_step.contains(&number)) {
                let target = match last_of_step.last() {
                    Some(end) if *end == number => &teacher.end,
                    _ => &teacher.path[grid[update.step + 1]],
                };
                let slots: Vec<_> = update.terms.iter().map(|(slot, _)| run.slot_buffer(*slot)).collect();
                let further = update.states.iter().map(|(state, _)| *state);
                let states: Vec<_> =
                    [update.from].into_iter().chain(further).map(|state| run.state_buffer(state)).collect();
                let fitted = fit::fit(update, &states, &slots, target, self.d);
                run.rewrite(Row::Update(fitted));
            }
            run.advance_row()?;
        }
        let plan = run.plan().cloned().ok_or_else(|| Error::new(Status::Internal, "tune: no plan"))?;
        let mut data = vec![0.0; teacher.data.len()];
        run.read(What::Data, &mut data)?;
        Ok((plan, self.apart(&data, &teacher.data)))
    }

    fn distance(&self, sampler: Sampler, starts: &RunOptions, truth: &[f32]) -> Result<Distance> {
        let mut run = Run::start(self.model, &Arc::new(sampler), starts.clone())?;
        run.step(usize::MAX)?;
        let mut data = vec![0.0; truth.len()];
        run.read(What::Data, &mut data)?;
        Ok(self.apart(&data, truth))
    }

    fn apart(&self, a: &[f32], b: &[f32]) -> Distance {
        let mut each: Vec<f64> = a.chunks(self.d).zip(b.chunks(self.d)).map(|(a, b)| rms(a, b)).collect();
        each.sort_by(f64::total_cmp);
        let middle = each.len() / 2;
        let median = if each.len() % 2 == 1 { each[middle] } else { 0.5 * (each[middle - 1] + each[middle]) };
        Distance { mean: each.iter().sum::<f64>() / each.len() as f64, median }
    }

    /// Named grids first, then the best of them with one time after another moved by ever smaller distances.
    fn search(&self, error_of: &mut impl FnMut(&[usize]) -> Result<Option<f64>>) -> Result<Vec<usize>> {
        let fine = self.fine.len() - 1;
        let (process, times) = (self.model.spec().process()?, Times::of_model(self.model.spec())?);
        let mut best: Option<(Vec<usize>, f64)> = None;
        let asked = match &self.options.sampler.time_grid {
            Some(Grid::Points(points)) => return Ok(self.nearest(points)),
            Some(Grid::Name(name)) => Some(name.as_str()),
            None => None,
        };
        let names = asked.into_iter().chain(grid::NAMES.into_iter().filter(|name| Some(*name) != asked));
        for name in names {
            let spec = SamplerSpec {
                steps: u32::try_from(self.steps).ok(),
                nfe: None,
                time_grid: Some(Grid::Name(name.into())),
                ..self.options.sampler.clone()
            };
            let candidate = self.nearest(&grid::resolve(&spec, &process, &times, 1)?);
            let Some(error) = error_of(&candidate)? else { break };
            if best.as_ref().is_none_or(|(_, least)| error < *least) {
                best = Some((candidate, error));
            }
        }
        let Some((mut grid, mut least)) = best else {
            return Err(Error::new(Status::Internal, "tune: no grid was tried"));
        };
        let mut stride = (fine / 16).max(1);
        loop {
            let mut moved = false;
            for i in 1..grid.len() - 1 {
                for up in [true, false] {
                    let mut candidate = grid.clone();
                    candidate[i] = if up { grid[i] + stride } else { grid[i].saturating_sub(stride) };
                    if candidate[i] <= grid[i - 1] || candidate[i] >= grid[i + 1] {
                        continue;
                    }
                    let Some(error) = error_of(&candidate)? else { return Ok(grid) };
                    if error < least {
                        (grid, least, moved) = (candidate, error, true);
                        break;
                    }
                }
            }
            if !moved {
                if stride == 1 {
                    return Ok(grid);
                }
                stride /= 2;
            }
        }
    }

    /// The teacher's times nearest to `times`, each of its own.
    fn nearest(&self, times: &[f64]) -> Vec<usize> {
        let (last, fine) = (times.len() - 1, self.fine.len() - 1);
        let mut chosen = Vec::with_capacity(times.len());
        for (i, t) in times.iter().enumerate() {
            let after = self.fine.partition_point(|fine| fine > t).min(fine);
            let before = after.saturating_sub(1);
            let near =
                if (self.fine[before] - t).abs() < (self.fine[after] - t).abs() { before } else { after };
            // Room for those that come before and after.
            let least = chosen.last().map_or(0, |previous: &usize| previous + 1);
            chosen.push(near.clamp(least, fine - (last - i)));
        }
        chosen[0] = 0;
        chosen
    }
}

/// Root of the mean square of the difference.
fn rms(a: &[f32], b: &[f32]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b) * f64::from(a - b)).sum();
    libm::sqrt(sum / a.len() as f64)
}

/// The numbers of the rows that end a step in state 0.
fn last_updates(plan: &Plan) -> Vec<usize> {
    let mut last = BTreeMap::new();
    for (number, row) in plan.rows.iter().enumerate() {
        if let Row::Update(Update { step, into: 0, .. }) = row {
            last.insert(*step, number);
        }
    }
    last.into_values().collect()
}

/// About `steps` steps that hold all times of `grid`.
fn refined(grid: &[f64], steps: usize) -> Vec<f64> {
    let parts = steps.div_ceil(grid.len() - 1);
    let mut fine = vec![grid[0]];
    for pair in grid.windows(2) {
        let (a, b) = (libm::sqrt(pair[0]), libm::sqrt(pair[1]));
        fine.extend((1..parts).map(|i| a + (b - a) * (i as f64 / parts as f64)).map(|root| root * root));
        fine.push(pair[1]);
    }
    fine
}
