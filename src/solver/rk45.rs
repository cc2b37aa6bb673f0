//! Dormand-Prince 5(4) on the probability-flow ODE with the step controller of scipy's RK45, which the published
//! `bb_ode` uses (arXiv 2303.01748, section 4; Dormand and Prince 1980; Hairer, Norsett, Wanner, II.4).
//!
//! With `error_norm: sample` every sample has its own error norm and steps, as if it were alone. The samples attempt their
//! steps together, so the network is still called on batches, at times that differ; who has arrived waits for the
//! last one.
//!
//! The drift is affine in the state and the network's outputs, so every stage is one update row from the state at
//! the start of the step: z_i = z + h sum_j a_ij f_j with each f_j expanded in z and the earlier outputs.

use super::compiler::Decoder;
use super::{CALLS_OF_GUIDED, SamplerInfo, Times};
use crate::plan::{Affine, Update};
use crate::process::Process;
use crate::spec::{ErrorNorm, Guidance, ModelSpec, SamplerSpec};
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

    /// SHA-256 of what determines an adaptive run's rows besides the data.
    pub fn hash(&self, model: &ModelSpec) -> String {
        let text = serde_json::json!({ "sampler": INFO.name, "options": self, "process": model.process });
        Sha256::digest(text.to_string().as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What the solver asks of a run. State 0 is the solution, state 1 a stage. Everything is given for each system: one for
/// the whole run, or one for each sample; `None` leaves the samples of a system alone.
pub(crate) trait Rows {
    /// Calls the network (and what guides it) on `state` at the systems' times, into `slot`; gives the number of calls.
    fn eval(&mut self, state: usize, times: &[Option<f64>], slot: usize) -> Result<u32>;
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

/// Equations that share their steps: those of all samples of the run, or of one sample.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct System {
    /// Reversed time since t_start.
    tau: f64,
    step_size: f64,
    rejected: bool,
}

/// A system's attempt at a step.
struct Attempt {
    reached: f64,
    end: f64,
    h: f64,
    /// The spacing of numbers at `reached`, ten times.
    least: f64,
    drifts: Vec<Affine>,
}

/// The state of an adaptive run between attempted steps.
#[derive(Clone, Debug)]
pub(crate) struct Rk45 {
    options: Options,
    decoder: Decoder,
    systems: Vec<System>,
    /// Whether slot 0 holds the outputs at the current states and times (the last stage of an accepted step is the
    /// first of the next).
    begun: bool,
    pub nfe: u32,
    pub done: bool,
}

/// What of [`Rk45`] a checkpoint holds; the rest follows from the sampler.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saved {
    systems: Vec<System>,
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
        Self { options, decoder, systems: vec![system; systems], begun: false, nfe: 0, done: false }
    }

    pub fn save(&self) -> Saved {
        // Named one by one, so that a field that is added is not forgotten here.
        let Self { options: _, decoder: _, systems, begun, nfe, done } = self;
        Saved { systems: systems.clone(), begun: *begun, nfe: *nfe, done: *done }
    }

    /// The solver of a run of `n` samples that [`Self::save`] was called on; `None` for a state that no solver is in.
    pub fn load(options: Options, decoder: Decoder, n: usize, saved: Saved) -> Option<Self> {
        let Saved { systems, begun, nfe, done } = saved;
        let new = Self::new(options, decoder, n);
        let possible = |system: &System| {
            (0.0..=new.length()).contains(&system.tau)
                && system.step_size >= 0.0
                && system.step_size.is_finite()
        };
        let possible =
            systems.len() == new.systems.len() && systems.iter().all(possible) && nfe <= options.max_nfe;
        possible.then_some(Self { systems, begun, nfe, done, ..new })
    }

    /// Reorders the samples: sample i is from here on what sample `indices[i]` was.
    pub fn gather(&mut self, indices: &[usize]) {
        if self.options.error_norm == ErrorNorm::Sample {
            self.systems = indices.iter().map(|index| self.systems[*index].clone()).collect();
        }
    }

    /// The reversed time that all systems have reached.
    fn reached(&self) -> f64 {
        self.systems.iter().map(|system| system.tau).fold(f64::INFINITY, f64::min)
    }

    /// The forward time that all systems have reached.
    pub fn time(&self) -> f64 {
        self.options.t_start - self.reached()
    }

    /// The share of the interval that is done, 0 to 1.
    pub fn fraction(&self) -> f64 {
        if self.done { 1.0 } else { self.reached() / self.length() }
    }

    fn length(&self) -> f64 {
        self.options.t_start - self.options.t_end
    }

    /// The drift of the probability flow in reversed time at the state that `z` expresses.
    fn drift(&self, process: &Process, slot: usize, t: f64, z: &Affine) -> Result<Affine> {
        let (p, r) = self.decoder.epsilon(process, t)?;
        let eps = p * z.clone() + Affine::slot(slot, r);
        let score = process.score_from_eps(t) * eps;
        Ok(-process.drift(t) * z.clone() + process.diffusion(t) * 0.5 * score)
    }

    /// One attempted step of every system that has not arrived, or the closing one of all. On an error the solution
    /// in state 0 is untouched, and the step can be asked for again.
    pub fn advance(&mut self, process: &Process, rows: &mut dyn Rows) -> Result<()> {
        let z = Affine::state(0, process.k());
        if self.reached() >= self.length() {
            return self.finish(process, &z, rows);
        }
        if !self.begun {
            self.begin(process, &z, rows)?;
        }
        self.reserve(6)?;

        let (length, t_start) = (self.length(), self.options.t_start);
        let attempt = |system: &System| {
            let reached = system.tau;
            if reached >= length {
                return Ok(None);
            }
            let least = 10.0 * (reached.next_up() - reached);
            let end = (reached + system.step_size.max(least)).min(length);
            let drifts = vec![self.drift(process, 0, t_start - reached, &z)?];
            Ok(Some(Attempt { reached, end, h: end - reached, least, drifts }))
        };
        let mut attempts = self.systems.iter().map(attempt).collect::<Result<Vec<_>>>()?;
        for (slot, (node, weights)) in (1..).zip(NODES.iter().zip(STAGES)) {
            let stage = |attempt: &Attempt| combine(&z, attempt.h, weights, &attempt.drifts);
            let time = |attempt: &Attempt| {
                let Attempt { reached, end, h, .. } = *attempt;
                t_start - if *node == 1.0 { end } else { reached + node * h }
            };
            rows.update(&each(&attempts, |attempt| stage(attempt).into_update(0, 1)))?;
            self.nfe += rows.eval(1, &each(&attempts, time), slot)?;
            for attempt in attempts.iter_mut().flatten() {
                let drift = self.drift(process, slot, time(attempt), &stage(attempt))?;
                attempt.drifts.push(drift);
            }
        }
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
                    let t = t_start - system.tau;
                    return Err(Error::new(
                        Status::Numeric,
                        format!("rk45: the step size fell below the spacing of numbers at t = {t}"),
                    )
                    .hint("raise rtol and atol, or t_end"));
                }
            }
        }
        if self.reached() >= length && !self.options.denoise {
            self.done = true;
        }
        Ok(())
    }

    /// The two calls that choose the first step sizes (Hairer, Norsett, Wanner, II.4).
    fn begin(&mut self, process: &Process, z: &Affine, rows: &mut dyn Rows) -> Result<()> {
        let Options { t_start, atol, rtol, .. } = self.options;
        let (n, length) = (self.systems.len(), self.length());
        let scale = |rows: &mut dyn Rows, what: &Affine| {
            rows.scaled_rms(&vec![Some(what.clone().into_update(0, 0)); n], [0, 0], atol, rtol)
        };
        self.nfe = rows.eval(0, &vec![Some(t_start); n], 0)?;
        let f0 = self.drift(process, 0, t_start, z)?;
        let (d0, d1) = (scale(rows, z)?, scale(rows, &f0)?);
        let h0: Vec<f64> = d0
            .iter()
            .zip(&d1)
            .map(|(d0, d1)| if *d0 < 1e-5 || *d1 < 1e-5 { 1e-6 } else { 0.01 * d0 / d1 })
            .map(|guess| guess.min(length))
            .collect();
        let probe = |h0: f64| z.clone() + h0 * f0.clone();
        rows.update(&h0.iter().map(|h0| Some(probe(*h0).into_update(0, 1))).collect::<Vec<_>>())?;
        self.nfe += rows.eval(1, &h0.iter().map(|h0| Some(t_start - h0)).collect::<Vec<_>>(), 1)?;
        let change = |h0: &f64| {
            let f1 = self.drift(process, 1, t_start - h0, &probe(*h0))?;
            Ok(Some((f1 + -1.0 * f0.clone()).into_update(0, 0)))
        };
        let changes = h0.iter().map(change).collect::<Result<Vec<_>>>()?;
        let d2 = rows.scaled_rms(&changes, [0, 0], atol, rtol)?;
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

    /// The closing noise-free step of length t_end, with the probability flow's drift; on paths that are no recipes, the
    /// data estimate.
    fn finish(&mut self, process: &Process, z: &Affine, rows: &mut dyn Rows) -> Result<()> {
        let (t, n) = (self.options.t_end, self.systems.len());
        self.nfe += rows.eval(0, &vec![Some(t); n], 0)?;
        let end = match process.parameters() {
            Some(_) => z.clone() + t * self.drift(process, 0, t, z)?,
            None => self.decoder.x0_of_slot(process, t, 0)?,
        };
        rows.update(&vec![Some(end.into_update(0, 0)); n])?;
        self.done = true;
        Ok(())
    }

    fn reserve(&self, calls: u32) -> Result<()> {
        let each = if self.options.guidance.is_some() { CALLS_OF_GUIDED } else { 1 };
        let needed = self.nfe + each * (calls + u32::from(self.options.denoise));
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
