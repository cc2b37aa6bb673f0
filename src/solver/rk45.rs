//! Dormand-Prince 5(4) on the probability-flow ODE with the step controller of scipy's RK45, which the published
//! `bb_ode` uses (arXiv 2303.01748, section 4; Dormand and Prince 1980; Hairer, Norsett, Wanner, II.4).
//!
//! With `error_norm: sample` every sample has its own error norm and steps, as if it were alone. The samples attempt their
//! steps together, so the network is still called on batches, at times that differ; who has arrived waits for the
//! last one.
//!
//! The drift is affine in the state and the network's outputs, so every stage is one update row from the state at
//! the start of the step: z_i = z + h sum_j a_ij f_j with each f_j expanded in z and the earlier outputs.

use super::encode::position;
use super::{CALLS_OF_GUIDED, SamplerInfo};
use crate::decode::{Decoder, Times};
use crate::hash::hex;
use crate::plan::{Affine, Update};
use crate::process::Process;
use crate::spec::{Clip, ErrorNorm, Guidance, ModelSpec, SamplerSpec};
use crate::{Error, Result, Status};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(crate) const INFO: SamplerInfo = SamplerInfo {
    name: "rk45",
    title: "adaptive Dormand-Prince, probability flow",
    order: "5 (adaptive)",
    nfe_per_step: 6,
    stochastic: false,
    adaptive: true,
    paper: "arXiv 2303.01748",
    equation: "probability flow; Dormand-Prince 5(4)",
    options: &["rtol", "atol", "max_nfe", "error_norm"],
};

/// Options of an adaptive run, checked.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Options {
    pub t_start: f64,
    pub t_end: f64,
    pub rtol: f64,
    pub atol: f64,
    pub max_nfe: u32,
    pub denoise: bool,
    #[serde(skip_serializing_if = "is_run")]
    pub error_norm: ErrorNorm,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<Guidance>,
    /// Whether it leads from data to noise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub encode: bool,
    /// How data estimates are clipped, and the sample at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<Clip>,
}

/// The hash of a sampler with the norm of all versions stays what it was.
fn is_run(norm: &ErrorNorm) -> bool {
    *norm == ErrorNorm::Run
}

impl Options {
    pub fn new(spec: &SamplerSpec, times: &Times) -> Result<Self> {
        let (t_start, t_end) = times.interval(spec)?;
        let tolerance = |name: &str, given: Option<f64>, least: f64| {
            let value = given.unwrap_or(1e-4);
            if value >= least && value.is_finite() {
                return Ok(value);
            }
            Err(Error::argument(format!(
                "{name} = {value:?}: expected a finite number of at least {least:?}"
            )))
        };
        let options = Self {
            t_start,
            t_end,
            // Below 100 machine epsilons the error estimate is rounding noise (scipy's bound).
            rtol: tolerance("rtol", spec.rtol, 100.0 * f64::EPSILON)?,
            atol: tolerance("atol", spec.atol, 0.0)?,
            max_nfe: spec.max_nfe.unwrap_or(10_000),
            denoise: spec.denoise.unwrap_or(true),
            error_norm: spec.error_norm.unwrap_or_default(),
            guidance: None,
            encode: spec.encodes(),
            clip: spec.clipping(),
        };
        let least = 8 + u32::from(options.denoise);
        if options.max_nfe < least {
            return Err(Error::argument(format!(
                "max_nfe = {}: one step of `rk45` takes {least} network calls with its two to begin",
                options.max_nfe
            )));
        }
        Ok(options)
    }

    /// Where the solver starts.
    pub fn first_time(&self) -> f64 {
        self.at(0.0)
    }

    /// The forward time after the way `tau`.
    fn at(&self, tau: f64) -> f64 {
        if self.encode { (self.t_end + tau).min(self.t_start) } else { self.t_start - tau }
    }

    /// SHA-256 of what determines an adaptive run's rows besides the data.
    pub fn hash(&self, model: &ModelSpec) -> String {
        let mut text = serde_json::json!({ "sampler": INFO.name, "options": self, "process": model.process });
        if self.clip.is_some() {
            text["range"] = serde_json::json!(model.data.range);
        }
        hex(&Sha256::digest(text.to_string().as_bytes()))
    }
}

/// What the solver does to a run. State 0 is the solution, state 1 a stage. Everything is given for each system: one for
/// the whole run, or one for each sample; `None` leaves the samples of a system alone.
pub(crate) trait Rows {
    /// Executes an update, whose coefficients differ between systems.
    fn update(&mut self, rows: &[Option<Update>]) -> Result<()>;
    /// Root mean square, over each system, of its row over atol + rtol max(|scale|); 0 where there is no row.
    fn scaled_rms(
        &mut self,
        rows: &[Option<Update>],
        scale: [usize; 2],
        atol: f64,
        rtol: f64,
    ) -> Result<Vec<f64>>;
    /// Copies the outputs in slot `from` to slot `to` for some of the systems.
    fn copy_slot(&mut self, from: usize, to: usize, systems: &[bool]);
}

/// A network call that the solver waits for: the outputs at `state` and the systems' times, in `slot`.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub state: usize,
    pub times: Vec<Option<f64>>,
    pub slot: usize,
}

/// Equations that share their steps: those of all samples of the run, or of one sample.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct System {
    /// The way that is done, in time.
    tau: f64,
    step_size: f64,
    rejected: bool,
}

/// A system's attempt at a step.
#[derive(Clone, Debug)]
struct Attempt {
    reached: f64,
    end: f64,
    h: f64,
    /// The spacing of numbers at `reached`, ten times.
    least: f64,
    drifts: Vec<Affine>,
}

/// The state of an adaptive run.
#[derive(Clone, Debug)]
pub(crate) struct Rk45 {
    options: Options,
    decoder: Decoder,
    systems: Vec<System>,
    /// Whether the position has been taken from t = 0 to t_end, where the solver encodes.
    opened: bool,
    /// Whether slot 0 holds the outputs at the current states and times (the last stage of an accepted step is the
    /// first of the next).
    begun: bool,
    pub nfe: u32,
    pub done: bool,
    phase: Phase,
    /// `nfe` and `begun` at the start of the step in flight, which may have to be taken again.
    start: (u32, bool),
}

/// Which network call of a step is awaited.
#[derive(Clone, Debug)]
enum Phase {
    /// None: the solver is between attempted steps.
    Between,
    /// That of the opening step, where the solver encodes.
    Opening,
    /// The first of the two that choose the first step sizes.
    First,
    /// The second: after a step of Euler's, of size `h0`.
    Second { h0: Vec<f64>, d1: Vec<f64> },
    /// That of the stage whose outputs go into `slot`.
    Stage { slot: usize, attempts: Vec<Option<Attempt>> },
    /// That of the closing step.
    Closing,
}

/// What of [`Rk45`] a checkpoint holds; the rest follows from the sampler.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saved {
    systems: Vec<System>,
    opened: bool,
    begun: bool,
    nfe: u32,
    done: bool,
}

/// Nodes and weights of stages 1 to 6; the last is the solution of order 5 itself.
const NODES: [f64; 6] = [1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0, 1.0];
const STAGES: [&[f64]; 6] = [
    &[1.0 / 5.0],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
    &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
];
/// Weights of the error estimate on all seven stages.
const ERROR: [f64; 7] =
    [-71.0 / 57600.0, 0.0, 71.0 / 16695.0, -71.0 / 1920.0, 17253.0 / 339200.0, -22.0 / 525.0, 1.0 / 40.0];

/// Slots: seven stages.
pub(crate) const SLOTS: usize = 7;
pub(crate) const STATES: usize = 2;

impl Rk45 {
    /// For a run of `n` samples.
    pub fn new(options: Options, decoder: Decoder, n: usize) -> Self {
        let system = System { tau: 0.0, step_size: 0.0, rejected: false };
        let systems = match options.error_norm {
            ErrorNorm::Run => 1,
            ErrorNorm::Sample => n,
        };
        Self {
            options,
            decoder,
            systems: vec![system; systems],
            opened: !(options.encode && options.denoise),
            begun: false,
            nfe: 0,
            done: false,
            phase: Phase::Between,
            start: (0, false),
        }
    }

    /// The solver between steps, for a checkpoint.
    pub fn save(&self) -> Saved {
        // Named one by one, so that a field that is added is not forgotten here.
        let Self { options: _, decoder: _, systems, opened, begun, nfe, done, phase: _, start: _ } = self;
        Saved { systems: systems.clone(), opened: *opened, begun: *begun, nfe: *nfe, done: *done }
    }

    /// The solver of a run of `n` samples that [`Self::save`] was called on; `None` for a state that no solver is in.
    pub fn load(options: Options, decoder: Decoder, n: usize, saved: Saved) -> Option<Self> {
        let Saved { systems, opened, begun, nfe, done } = saved;
        let new = Self::new(options, decoder, n);
        let possible = |system: &System| {
            (0.0..=new.length()).contains(&system.tau)
                && system.step_size >= 0.0
                && system.step_size.is_finite()
        };
        let possible = systems.len() == new.systems.len()
            && systems.iter().all(possible)
            && nfe <= options.max_nfe
            && (opened || !new.opened);
        possible.then_some(Self { systems, opened, begun, nfe, done, ..new })
    }

    /// Reorders the samples: sample i is from here on what sample `indices[i]` was.
    pub fn gather(&mut self, indices: &[usize]) {
        if self.options.error_norm == ErrorNorm::Sample {
            self.systems = indices.iter().map(|index| self.systems[*index].clone()).collect();
        }
    }

    /// The way that all systems have done.
    fn reached(&self) -> f64 {
        self.systems.iter().map(|system| system.tau).fold(f64::INFINITY, f64::min)
    }

    /// The forward time that all systems have reached.
    pub fn time(&self) -> f64 {
        self.options.at(self.reached())
    }

    /// The share of the interval that is done, 0 to 1.
    pub fn fraction(&self) -> f64 {
        if self.done { 1.0 } else { self.reached() / self.length() }
    }

    fn length(&self) -> f64 {
        self.options.t_start - self.options.t_end
    }

    /// The drift of the probability flow along the way at the state that `z` expresses.
    fn drift(&self, process: &Process, slot: usize, t: f64, z: &Affine) -> Result<Affine> {
        let (p, r) = self.decoder.epsilon(process, t)?;
        let eps = p * z.clone() + Affine::slot(slot, r);
        let score = process.score_from_eps(t) * eps;
        let decoding = -process.drift(t) * z.clone() + process.diffusion(t) * 0.5 * score;
        Ok(if self.options.encode { -1.0 * decoding } else { decoding })
    }

    /// Goes on to the next network call, whose outputs are in their slot when this is called again, or (`None`) to the end
    /// of an attempted step of every system that has not arrived, or of the opening or closing one of all.
    pub fn advance(&mut self, process: &Process, rows: &mut dyn Rows) -> Result<Option<Call>> {
        let z = Affine::state(0, process.k());
        match std::mem::replace(&mut self.phase, Phase::Between) {
            Phase::Between => {
                self.start = (self.nfe, self.begun);
                if !self.opened {
                    return self.open(process, &z, rows);
                }
                if self.reached() >= self.length() {
                    self.phase = Phase::Closing;
                    return Ok(Some(self.call_at(self.options.t_end)));
                }
                if !self.begun {
                    self.phase = Phase::First;
                    return Ok(Some(self.call_at(self.options.first_time())));
                }
                self.attempt(process, &z, rows)
            }
            Phase::Opening => {
                let t = self.options.t_end;
                let start = z.clone() + position(process.k()) * (t * self.drift(process, 0, t, &z)?);
                self.opened(start, rows).map(|()| None)
            }
            Phase::First => self.probe(process, &z, rows),
            Phase::Second { h0, d1 } => {
                self.choose(process, &z, rows, &h0, &d1)?;
                self.attempt(process, &z, rows)
            }
            Phase::Stage { slot, mut attempts } => {
                let (node, weights) = (NODES[slot - 1], STAGES[slot - 1]);
                for attempt in attempts.iter_mut().flatten() {
                    let z = combine(&z, attempt.h, weights, &attempt.drifts);
                    let drift = self.drift(process, slot, self.time_of(attempt, node), &z)?;
                    attempt.drifts.push(drift);
                }
                match slot {
                    6 => self.judge(process, &z, rows, attempts).map(|()| None),
                    _ => self.stage(&z, rows, slot + 1, attempts).map(Some),
                }
            }
            Phase::Closing => self.finish(process, &z, rows).map(|()| None),
        }
    }

    /// Counts network calls that were made for the solver.
    pub fn called(&mut self, calls: u32) {
        self.nfe += calls;
    }

    /// Whether a step is begun and not ended.
    pub fn is_within_step(&self) -> bool {
        !matches!(self.phase, Phase::Between)
    }

    /// Takes the step in flight from its start again. Nothing is lost but its calls: the solution in state 0 changes with
    /// the end of a step only.
    pub fn restart(&mut self) {
        if self.is_within_step() {
            (self.nfe, self.begun) = self.start;
            self.phase = Phase::Between;
        }
    }

    /// A call for the solution of all systems, at one time.
    fn call_at(&self, t: f64) -> Call {
        Call { state: 0, times: vec![Some(t); self.systems.len()], slot: 0 }
    }

    /// Begins an attempted step: up to its first call, as the outputs at its start are there.
    fn attempt(&mut self, process: &Process, z: &Affine, rows: &mut dyn Rows) -> Result<Option<Call>> {
        self.reserve(6)?;
        let length = self.length();
        let attempt = |system: &System| {
            let reached = system.tau;
            if reached >= length {
                return Ok(None);
            }
            let least = 10.0 * (reached.next_up() - reached);
            let end = (reached + system.step_size.max(least)).min(length);
            let drifts = vec![self.drift(process, 0, self.options.at(reached), z)?];
            Ok(Some(Attempt { reached, end, h: end - reached, least, drifts }))
        };
        let attempts = self.systems.iter().map(attempt).collect::<Result<Vec<_>>>()?;
        self.stage(z, rows, 1, attempts).map(Some)
    }

    /// Makes the stage whose outputs go into `slot`, and asks for them.
    fn stage(
        &mut self,
        z: &Affine,
        rows: &mut dyn Rows,
        slot: usize,
        attempts: Vec<Option<Attempt>>,
    ) -> Result<Call> {
        let (node, weights) = (NODES[slot - 1], STAGES[slot - 1]);
        let stage = |a: &Attempt| combine(z, a.h, weights, &a.drifts).into_update(0, 1);
        rows.update(&each(&attempts, stage))?;
        let times = each(&attempts, |attempt| self.time_of(attempt, node));
        self.phase = Phase::Stage { slot, attempts };
        Ok(Call { state: 1, times, slot })
    }

    /// The forward time of an attempt's stage.
    fn time_of(&self, attempt: &Attempt, node: f64) -> f64 {
        let Attempt { reached, end, h, .. } = *attempt;
        self.options.at(if node == 1.0 { end } else { reached + node * h })
    }

    /// Accepts or rejects the attempts, and chooses the next step sizes.
    fn judge(
        &mut self,
        process: &Process,
        z: &Affine,
        rows: &mut dyn Rows,
        attempts: Vec<Option<Attempt>>,
    ) -> Result<()> {
        let (length, options) = (self.length(), self.options);
        let zero = 0.0 * z.clone();
        let estimates = each(&attempts, |a| combine(&zero, a.h, &ERROR, &a.drifts).into_update(0, 1));
        let errors = rows.scaled_rms(&estimates, [0, 1], self.options.atol, self.options.rtol)?;

        let accepted: Vec<bool> =
            attempts.iter().zip(&errors).map(|(attempt, error)| attempt.is_some() && *error < 1.0).collect();
        let solution = Affine::state(1, process.k()).into_update(0, 0);
        rows.update(&accepted.iter().map(|accepted| accepted.then(|| solution.clone())).collect::<Vec<_>>())?;
        rows.copy_slot(6, 0, &accepted);
        for (system, (attempt, error)) in self.systems.iter_mut().zip(attempts.iter().zip(errors)) {
            let Some(Attempt { end, h, least, .. }) = *attempt else { continue };
            if error < 1.0 {
                let grow = if error == 0.0 { 10.0 } else { f64::min(10.0, 0.9 * libm::pow(error, -0.2)) };
                system.step_size = h * if system.rejected { grow.min(1.0) } else { grow };
                system.rejected = false;
                system.tau = end;
            } else {
                system.step_size = h * f64::max(0.2, 0.9 * libm::pow(error, -0.2));
                system.rejected = true;
                if system.step_size < least {
                    let t = options.at(system.tau);
                    return Err(Error::new(
                        Status::Numeric,
                        format!("rk45: the step size fell below the spacing of numbers at t = {t}"),
                    )
                    .hint("raise rtol and atol, or t_end"));
                }
            }
        }
        if self.reached() >= length && (self.options.encode || !self.options.denoise) {
            self.done = true;
        }
        Ok(())
    }

    /// The position from t = 0 to t_end: as a plan opens ([`encode`](super::encode)).
    fn open(&mut self, process: &Process, z: &Affine, rows: &mut dyn Rows) -> Result<Option<Call>> {
        if process.parameters().is_some() {
            self.phase = Phase::Opening;
            return Ok(Some(self.call_at(self.options.t_end)));
        }
        self.opened(process.mean(self.options.t_end) * z.clone(), rows).map(|()| None)
    }

    fn opened(&mut self, start: Affine, rows: &mut dyn Rows) -> Result<()> {
        rows.update(&vec![Some(start.into_update(0, 0)); self.systems.len()])?;
        self.opened = true;
        Ok(())
    }

    /// Root mean square of what a row gives, over the tolerance, for each system.
    fn scale(&self, rows: &mut dyn Rows, what: &Affine) -> Result<Vec<f64>> {
        let row = Some(what.clone().into_update(0, 0));
        rows.scaled_rms(&vec![row; self.systems.len()], [0, 0], self.options.atol, self.options.rtol)
    }

    /// With the outputs at the start: the step of Euler's to the second of the two calls that choose the first step sizes
    /// (Hairer, Norsett, Wanner, II.4).
    fn probe(&mut self, process: &Process, z: &Affine, rows: &mut dyn Rows) -> Result<Option<Call>> {
        let options = self.options;
        let f0 = self.drift(process, 0, options.first_time(), z)?;
        let (d0, d1) = (self.scale(rows, z)?, self.scale(rows, &f0)?);
        let h0: Vec<f64> = d0
            .iter()
            .zip(&d1)
            .map(|(d0, d1)| if *d0 < 1e-5 || *d1 < 1e-5 { 1e-6 } else { 0.01 * d0 / d1 })
            .map(|guess| guess.min(self.length()))
            .collect();
        let probe = |h0: f64| (z.clone() + h0 * f0.clone()).into_update(0, 1);
        rows.update(&h0.iter().map(|h0| Some(probe(*h0))).collect::<Vec<_>>())?;
        let times = h0.iter().map(|h0| Some(options.at(*h0))).collect();
        self.phase = Phase::Second { h0, d1 };
        Ok(Some(Call { state: 1, times, slot: 1 }))
    }

    /// With the outputs there: the first step sizes.
    fn choose(
        &mut self,
        process: &Process,
        z: &Affine,
        rows: &mut dyn Rows,
        h0: &[f64],
        d1: &[f64],
    ) -> Result<()> {
        let (length, options) = (self.length(), self.options);
        let f0 = self.drift(process, 0, options.first_time(), z)?;
        let change = |h0: &f64| {
            let f1 = self.drift(process, 1, options.at(*h0), &(z.clone() + *h0 * f0.clone()))?;
            Ok(Some((f1 + -1.0 * f0.clone()).into_update(0, 0)))
        };
        let changes = h0.iter().map(change).collect::<Result<Vec<_>>>()?;
        let d2 = rows.scaled_rms(&changes, [0, 0], options.atol, options.rtol)?;
        for (i, system) in self.systems.iter_mut().enumerate() {
            let (h0, d1) = (h0[i], d1[i]);
            let d2 = d2[i] / h0;
            let h1 = if d1 <= 1e-15 && d2 <= 1e-15 {
                f64::max(1e-6, 1e-3 * h0)
            } else {
                libm::pow(0.01 / d1.max(d2), 0.2)
            };
            system.step_size = (100.0 * h0).min(h1).min(length);
        }
        self.begun = true;
        Ok(())
    }

    /// With the outputs there: the closing noise-free step of length t_end, with the probability flow's drift; on paths that
    /// are no recipes, the data estimate.
    fn finish(&mut self, process: &Process, z: &Affine, rows: &mut dyn Rows) -> Result<()> {
        let t = self.options.t_end;
        let end = match process.parameters() {
            Some(_) => z.clone() + t * self.drift(process, 0, t, z)?,
            None => self.decoder.x0_of_slot(process, t, 0)?,
        };
        rows.update(&vec![Some(end.into_update(0, 0)); self.systems.len()])?;
        self.done = true;
        Ok(())
    }

    fn reserve(&self, calls: u32) -> Result<()> {
        let each = if self.options.guidance.is_some() { CALLS_OF_GUIDED } else { 1 };
        // To encode, the call of the closing step came first.
        let closing = u32::from(self.options.denoise && !self.options.encode);
        let needed = self.nfe.saturating_add(each * (calls + closing));
        if needed > self.options.max_nfe {
            return Err(Error::new(
                Status::MaxNfe,
                format!(
                    "rk45: max_nfe = {} is reached at t = {} after {} network calls",
                    self.options.max_nfe,
                    self.time(),
                    self.nfe
                ),
            )
            .hint("raise max_nfe, rtol or atol"));
        }
        Ok(())
    }
}

/// What `make` gives for each attempt.
fn each<T>(attempts: &[Option<Attempt>], make: impl Fn(&Attempt) -> T) -> Vec<Option<T>> {
    attempts.iter().map(|attempt| attempt.as_ref().map(&make)).collect()
}

/// z + h sum of weights times drifts.
fn combine(z: &Affine, h: f64, weights: &[f64], drifts: &[Affine]) -> Affine {
    let terms = weights.iter().zip(drifts).filter(|(w, _)| **w != 0.0);
    terms.fold(z.clone(), |sum, (w, drift)| sum + (h * w) * drift.clone())
}
