//! Dormand-Prince 5(4) on the probability-flow ODE with the step controller of scipy's RK45, which the published
//! `bb_ode` uses (arXiv 2303.01748, section 4; Dormand and Prince 1980; Hairer, Norsett, Wanner, II.4).
//!
//! The drift is affine in the state and the network's outputs, so every stage is one update row from the state at
//! the start of the step: z_i = z + h sum_j a_ij f_j with each f_j expanded in z and the earlier outputs.

use super::compiler::Decoder;
use super::{CALLS_OF_GUIDED, SamplerInfo, Times};
use crate::plan::{Affine, Update};
use crate::process::Process;
use crate::spec::{Guidance, ModelSpec, SamplerSpec};
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<Guidance>,
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

/// What the solver asks of a run. State 0 is the solution, state 1 a stage.
pub(crate) trait Rows {
    /// Calls the network (and what guides it) on `state` at time `t`, into `slot`; gives the number of calls.
    fn eval(&mut self, state: usize, t: f64, slot: usize) -> Result<u32>;
    /// Executes an update.
    fn update(&mut self, row: &Update) -> Result<()>;
    /// Root mean square, over the whole run, of `row` over atol + rtol max(|scale|).
    fn scaled_rms(&mut self, row: &Update, scale: [usize; 2], atol: f64, rtol: f64) -> Result<f64>;
}

/// The state of an adaptive run between attempted steps.
#[derive(Clone, Debug)]
pub(crate) struct Rk45 {
    options: Options,
    decoder: Decoder,
    /// Reversed time since t_start.
    tau: f64,
    step_size: f64,
    rejected: bool,
    /// Slot of the output at the current state and time, once there is one (the last stage of an accepted step is
    /// the first of the next).
    first: Option<usize>,
    pub nfe: u32,
    pub done: bool,
}

/// What of [`Rk45`] a checkpoint holds; the rest follows from the sampler.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saved {
    tau: f64,
    step_size: f64,
    rejected: bool,
    first: Option<usize>,
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
    pub fn new(options: Options, decoder: Decoder) -> Self {
        Self { options, decoder, tau: 0.0, step_size: 0.0, rejected: false, first: None, nfe: 0, done: false }
    }

    pub fn save(&self) -> Saved {
        // Named one by one, so that a field that is added is not forgotten here.
        let Self { options: _, decoder: _, tau, step_size, rejected, first, nfe, done } = self;
        Saved { tau: *tau, step_size: *step_size, rejected: *rejected, first: *first, nfe: *nfe, done: *done }
    }

    /// The solver that [`Self::save`] was called on; `None` for a state that no solver is in.
    pub fn load(options: Options, decoder: Decoder, saved: Saved) -> Option<Self> {
        let Saved { tau, step_size, rejected, first, nfe, done } = saved;
        let new = Self::new(options, decoder);
        let possible = (0.0..=new.length()).contains(&tau)
            && step_size >= 0.0
            && step_size.is_finite()
            && nfe <= options.max_nfe
            && first.is_none_or(|slot| slot < SLOTS);
        possible.then_some(Self { tau, step_size, rejected, first, nfe, done, ..new })
    }

    /// The forward time that the solution has reached.
    pub fn time(&self) -> f64 {
        self.options.t_start - self.tau
    }

    /// The share of the interval that is done, 0 to 1.
    pub fn fraction(&self) -> f64 {
        if self.done { 1.0 } else { self.tau / self.length() }
    }

    fn length(&self) -> f64 {
        self.options.t_start - self.options.t_end
    }

    /// The drift of the probability flow in reversed time at the state that `z` expresses.
    fn drift(&self, process: &Process, slot: usize, t: f64, z: &Affine) -> Result<Affine> {
        let (p, r) = self.decoder.epsilon(process, t)?;
        let eps = p * z.clone() + Affine::slot(z.from(), slot, r);
        let score = process.score_from_eps(t) * eps;
        Ok(-process.drift(t) * z.clone() + process.diffusion(t) * 0.5 * score)
    }

    /// One attempted step, or the closing one. On an error the solution in state 0 is untouched, and the step can
    /// be asked for again.
    pub fn advance(&mut self, process: &Process, rows: &mut dyn Rows) -> Result<()> {
        let z = Affine::state(0, process.k());
        if self.tau >= self.length() {
            return self.finish(process, &z, rows);
        }
        let first = match self.first {
            Some(slot) => slot,
            None => self.begin(process, &z, rows)?,
        };
        self.reserve(6)?;

        let reached = self.tau;
        let least = 10.0 * (reached.next_up() - reached);
        let size = self.step_size.max(least);
        let end = (reached + size).min(self.length());
        let h = end - reached;

        // The outputs of stages 1 to 6 go to the slots that do not hold that of stage 0.
        let mut slots = (0..SLOTS).filter(|slot| *slot != first);
        let mut last = first;
        let mut drifts = vec![self.drift(process, first, self.options.t_start - reached, &z)?];
        for (node, weights) in NODES.iter().zip(STAGES) {
            let state = combine(&z, h, weights, &drifts);
            let t = self.options.t_start - if *node == 1.0 { end } else { reached + node * h };
            last = slots.next().unwrap_or(last);
            rows.update(&state.clone().into_update(0, 1))?;
            self.nfe += rows.eval(1, t, last)?;
            drifts.push(self.drift(process, last, t, &state)?);
        }
        let zero = 0.0 * z.clone();
        let estimate = combine(&zero, h, &ERROR, &drifts).into_update(0, 1);
        let error = rows.scaled_rms(&estimate, [0, 1], self.options.atol, self.options.rtol)?;

        if error < 1.0 {
            let grow = if error == 0.0 { 10.0 } else { f64::min(10.0, 0.9 * libm::pow(error, -0.2)) };
            self.step_size = h * if self.rejected { grow.min(1.0) } else { grow };
            self.rejected = false;
            rows.update(&Affine::state(1, process.k()).into_update(0, 0))?;
            self.first = Some(last);
            self.tau = end;
        } else {
            self.step_size = h * f64::max(0.2, 0.9 * libm::pow(error, -0.2));
            self.rejected = true;
            self.first = Some(first);
            if self.step_size < least {
                return Err(Error::new(
                    Status::Numeric,
                    format!("rk45: the step size fell below the spacing of numbers at t = {}", self.time()),
                )
                .hint("raise rtol and atol, or t_end"));
            }
        }
        if self.tau >= self.length() && !self.options.denoise {
            self.done = true;
        }
        Ok(())
    }

    /// The two calls that choose the first step size (Hairer, Norsett, Wanner, II.4).
    fn begin(&mut self, process: &Process, z: &Affine, rows: &mut dyn Rows) -> Result<usize> {
        let Options { t_start, atol, rtol, .. } = self.options;
        self.nfe = rows.eval(0, t_start, 0)?;
        let f0 = self.drift(process, 0, t_start, z)?;
        let scale = |rows: &mut dyn Rows, what: &Affine| {
            rows.scaled_rms(&what.clone().into_update(0, 0), [0, 0], atol, rtol)
        };
        let (d0, d1) = (scale(rows, z)?, scale(rows, &f0)?);
        let guess = if d0 < 1e-5 || d1 < 1e-5 { 1e-6 } else { 0.01 * d0 / d1 };
        let h0 = guess.min(self.length());
        let probe = z.clone() + h0 * f0.clone();
        rows.update(&probe.clone().into_update(0, 1))?;
        self.nfe += rows.eval(1, t_start - h0, 1)?;
        let f1 = self.drift(process, 1, t_start - h0, &probe)?;
        let d2 = scale(rows, &(f1 + -1.0 * f0))? / h0;
        let h1 = if d1 <= 1e-15 && d2 <= 1e-15 {
            f64::max(1e-6, 1e-3 * h0)
        } else {
            libm::pow(0.01 / d1.max(d2), 0.2)
        };
        self.step_size = (100.0 * h0).min(h1).min(self.length());
        self.first = Some(0);
        Ok(0)
    }

    /// The closing noise-free step of length t_end, with the probability flow's drift; on paths that are no recipes, the
    /// data estimate.
    fn finish(&mut self, process: &Process, z: &Affine, rows: &mut dyn Rows) -> Result<()> {
        let t = self.options.t_end;
        self.nfe += rows.eval(0, t, 0)?;
        let end = match process.parameters() {
            Some(_) => z.clone() + t * self.drift(process, 0, t, z)?,
            None => self.decoder.x0_of_slot(process, t, 0)?,
        };
        rows.update(&end.into_update(0, 0))?;
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

/// z + h sum of weights times drifts.
fn combine(z: &Affine, h: f64, weights: &[f64], drifts: &[Affine]) -> Affine {
    let terms = weights.iter().zip(drifts).filter(|(w, _)| **w != 0.0);
    terms.fold(z.clone(), |sum, (w, drift)| sum + (h * w) * drift.clone())
}
