//! Solvers: one paper, one file. Each does its mathematics once, in f64, and emits the rows of a plan; the
//! adaptive one emits rows while it runs.

mod ancestral;
pub mod auto;
pub(crate) mod clip;
mod compiler;
mod conjugate;
mod cvv;
mod ddim;
mod deis;
mod dpmpp;
mod em;
mod encode;
mod euler;
mod exp_heun;
mod frame;
mod gddim;
mod heun;
mod inpaint;
mod multistep;
mod quadrature;
pub(crate) mod rk45;
mod roba;
mod rvv;
mod sa_solver;
mod sde_dpmpp;
mod splitting;
mod sscs;
mod stability;
mod unipc;

use crate::decode::Decoder;
use crate::plan::{GUIDE, Plan, Row};
use crate::process::{Mat, Process};
use crate::restoration::Linear;
use crate::spec::strict::did_you_mean;
use crate::spec::{
    Conditioning, ErrorNorm, Guidance, GuidanceKind, Inpainting, ModelSpec, Prediction, SamplerSpec,
};
use crate::{Error, Result, Status, grid};
use compiler::Compiler;
use serde::Serialize;
use std::sync::Arc;

/// What a sampler is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SamplerInfo {
    /// The name to ask for it by.
    pub name: &'static str,
    /// Its full name.
    pub title: &'static str,
    /// Convergence order, and in which sense.
    pub order: &'static str,
    /// Network calls a step; for an adaptive sampler, an attempted step.
    pub nfe_per_step: u32,
    /// Whether it draws noise after the prior.
    pub stochastic: bool,
    /// Whether it chooses its own steps.
    pub adaptive: bool,
    /// Where it was published.
    pub paper: &'static str,
    /// Where in the paper.
    pub equation: &'static str,
    /// The options that it takes beside those of all samplers.
    pub options: &'static [&'static str],
}

/// Network calls of a guided evaluation: the model's and the guide's. A budget counts every evaluation as a guided one,
/// also those outside of the guidance interval: how many there are depends on the grid, which depends on the budget.
pub(crate) const CALLS_OF_GUIDED: u32 = 2;

/// Network calls of an evaluation.
fn calls_of(conditioning: &Conditioning) -> u32 {
    if conditioning.guidance.is_some() { CALLS_OF_GUIDED } else { 1 }
}

/// A sampler that emits a plan.
struct Solver {
    info: SamplerInfo,
    /// Appends the rows of all steps on `grid`.
    steps: fn(&mut Compiler<'_>, grid: &[f64]) -> Result<()>,
}

const PLANNED: [Solver; 17] = [
    em::SOLVER,
    sscs::SOLVER,
    ancestral::SOLVER,
    euler::SOLVER,
    heun::SOLVER,
    ddim::SOLVER,
    gddim::SOLVER,
    deis::SOLVER,
    exp_heun::SOLVER,
    dpmpp::SOLVER,
    unipc::SOLVER,
    sde_dpmpp::SOLVER,
    sa_solver::SOLVER,
    conjugate::SOLVER,
    rvv::SOLVER,
    roba::SOLVER,
    cvv::SOLVER,
];

/// The samplers, in the order in which they are listed to people.
pub fn list() -> impl Iterator<Item = &'static SamplerInfo> {
    PLANNED.iter().map(|solver| &solver.info).chain([&rk45::INFO, &auto::INFO])
}

/// A compiled sampler: immutable, shared by any number of threads and runs.
#[derive(Clone, Debug)]
pub struct Sampler {
    pub(crate) model: ModelSpec,
    pub(crate) process: Process,
    /// What the network's raw output says, to this sampler.
    pub(crate) decoder: Decoder,
    /// What standard normals are multiplied with to make the initial state.
    pub(crate) prior_factor: Mat,
    /// A run that starts from an image starts from the first times the image plus the second times standard normals.
    pub(crate) image_start: (Mat, Mat),
    info: SamplerInfo,
    options: SamplerSpec,
    pub(crate) rows: Rows,
    pub(crate) conditioning: Conditioning,
    /// What was measured, of a sampler that restores.
    pub(crate) measured: Option<Arc<Linear>>,
}

/// Where the rows of a run come from.
#[derive(Clone, Debug)]
pub(crate) enum Rows {
    Planned(Arc<Plan>),
    Adaptive(rk45::Options),
}

impl Sampler {
    /// Compiles the sampler that `options` describe for networks of spec `model`, and for what `conditioning` says
    /// (an inpainting method, or a whole [`Conditioning`]). With `auto`, the result's [`info`](Self::info) and
    /// [`options`](Self::options) are those of what was chosen.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] naming the option and the rule; [`Status::Unsupported`] where the sampler is
    /// not defined for the process.
    pub fn compile(
        model: &ModelSpec,
        options: &SamplerSpec,
        conditioning: impl Into<Conditioning>,
    ) -> Result<Self> {
        Self::compile_for(model, options, conditioning.into())
    }

    fn compile_for(model: &ModelSpec, options: &SamplerSpec, conditioning: Conditioning) -> Result<Self> {
        if options.name() == auto::INFO.name {
            special(options, &auto::INFO)?;
            if options.encodes() {
                let default = SamplerSpec { sampler: None, ..options.clone() };
                return Self::compile_for(model, &default, conditioning);
            }
            // Steps that are taken again cannot be made of earlier ones.
            if conditioning.resample() > 1 {
                let chosen =
                    SamplerSpec { sampler: Some(ancestral::SOLVER.info.name.into()), ..options.clone() };
                return Self::compile_for(model, &chosen, conditioning);
            }
            let process = model.process()?;
            let (times, each) = (Decoder::new(model)?.times(&process)?, calls_of(&conditioning));
            let chosen = auto::choose(options, &process, &times, &model.data.shape, each)?;
            return Self::compile_for(model, &chosen, conditioning);
        }
        let process = model.process()?;
        let (inpaint, restores) = (conditioning.inpaint.is_some(), conditioning.restore.is_some());
        let resample = conditioning.resample();
        if model.is_gradient() {
            return Err(Error::new(
                Status::ModelMismatch,
                "the model is a guidance network (its output is `grad`), which has no samples of its own",
            )
            .hint(
                "name it in a configuration, as \"model\" of \"guidance\", beside the model that it guides",
            ));
        }
        if let Some(guidance) = &conditioning.guidance {
            guidance.check()?;
        }
        if !(1..=1000).contains(&resample) {
            let of = if restores { "restore" } else { "inpaint" };
            return Err(Error::argument(format!("{of}: resample = {resample}: expected 1 to 1000")));
        }
        if inpaint && restores {
            return Err(Error::argument("inpaint and restore exclude each other")
                .hint("to complete a measurement with noise, restore with the operator `mask`"));
        }
        let measured = conditioning.restore.as_ref();
        let measured =
            measured.map(|restore| Linear::new(restore, &model.data.shape).map(Arc::new)).transpose()?;
        if options.encodes() {
            encode::check(options, inpaint || restores)?;
        }
        if let Some(clip) = options.clipping() {
            clip.check()?;
        }
        let decoder = Decoder::new(model)?.with(options);
        let times = decoder.times(&process)?;
        let name = options.name();
        let (info, rows) = if name == rk45::INFO.name {
            let excluded = [
                ("steps", options.steps.is_some()),
                ("nfe", options.nfe.is_some()),
                ("time_grid", options.time_grid.is_some()),
            ];
            reject(name, &excluded, "it chooses its own steps; bound them with rtol, atol and max_nfe")?;
            if inpaint || restores {
                let what = if inpaint { "inpainting" } else { "restoration" };
                return Err(Error::new(
                    Status::Unsupported,
                    format!("{what} needs a sampler with fixed steps, not `rk45`"),
                )
                .hint("use `em` or `sscs`"));
            }
            special(options, &rk45::INFO)?;
            let own = rk45::Options::new(options, &times)?;
            if conditioning.guidance.is_some() && own.error_norm == ErrorNorm::Sample {
                return Err(Error::new(
                    Status::Unsupported,
                    "guidance needs one time for all samples: error_norm `run`, not `sample`",
                ));
            }
            (rk45::INFO, Rows::Adaptive(rk45::Options { guidance: conditioning.guidance, ..own }))
        } else {
            let Some(solver) = PLANNED.iter().find(|s| s.info.name == name) else {
                return Err(Error::argument(format!("unknown sampler `{name}`"))
                    .hint(did_you_mean(name, list().map(|i| i.name).collect::<Vec<_>>().into_iter())));
            };
            special(options, &solver.info)?;
            let each = calls_of(&conditioning);
            // A path that is no recipe closes with an estimate, which no call leads back from.
            let closing = if options.encodes() && process.parameters().is_none() { 0 } else { each };
            let calls = grid::Calls { step: solver.info.nfe_per_step * resample * each, closing };
            let mut grid = grid::resolve_for(options, &process, &times, calls)?;
            if options.encodes() {
                grid.reverse();
            }
            // Those that can do both are stochastic where they are asked for noise.
            let noisy = solver.info.stochastic || options.eta.is_some_and(|eta| eta > 0.0);
            let info = SamplerInfo { stochastic: noisy, ..solver.info };
            let plan = Compiler::new(model, &process, &decoder, options, &conditioning)
                .compile(solver, &info, grid)?;
            (info, Rows::Planned(Arc::new(plan)))
        };
        let start = match &rows {
            Rows::Planned(plan) => plan.grid[0],
            Rows::Adaptive(options) => options.first_time(),
        };
        let prior_factor = prior_factor(model, &process, start)?;
        let image_start = image_start(&process, start, options.encodes());
        let options = options.clone();
        let model = model.clone();
        Ok(Self {
            model,
            process,
            decoder,
            prior_factor,
            image_start,
            info,
            options,
            rows,
            conditioning,
            measured,
        })
    }

    /// A sampler that executes a plan made by the caller.
    ///
    /// # Errors
    /// [`Status::InvalidConfig`] where the plan cannot be executed, or not with networks of spec `model`.
    pub fn from_plan(model: &ModelSpec, plan: Plan) -> Result<Self> {
        plan.check()?;
        let process = model.process()?;
        let blocks = model.output_blocks(process.k());
        if (plan.k, plan.output_blocks) != (process.k(), blocks) {
            return Err(Error::new(
                Status::InvalidConfig,
                format!(
                    "plan: made for k = {} and {} output block(s), the model has k = {} and {blocks}",
                    plan.k,
                    plan.output_blocks,
                    process.k()
                ),
            ));
        }
        let seen = model.input_blocks(process.k());
        if let Some(i) = plan.rows.iter().position(|row| match row {
            // A classifier sees the whole state.
            Row::Eval(eval) if eval.network == GUIDE && plan.guidance() == Some(GuidanceKind::Classifier) => {
                eval.input.is_some()
            }
            Row::Eval(eval) => eval.input.as_ref().map_or(process.k(), |_| 1) != seen,
            _ => false,
        }) {
            let what = if seen == 1 { "needs an `input`" } else { "has an `input`" };
            return Err(Error::new(
                Status::InvalidConfig,
                format!(
                    "plan: row {i} {what}, and the model's network takes {seen} of {} blocks",
                    process.k()
                ),
            ));
        }
        let conditioning = Conditioning {
            inpaint: plan.inpaints().then(Inpainting::default),
            guidance: plan.guidance().map(Guidance::from),
            restore: plan.restore.clone(),
        };
        let measured = plan.restore.as_ref().map(|restore| Linear::new(restore, &model.data.shape));
        let measured = measured.transpose().map_err(|e| e.context("plan"))?.map(Arc::new);
        let info = SamplerInfo {
            name: "plan",
            title: "a plan made by the caller",
            order: "as made",
            nfe_per_step: 0,
            stochastic: plan.draws() > 0,
            adaptive: false,
            paper: "",
            equation: "",
            options: &[],
        };
        let start = plan.grid.first().copied().unwrap_or(1.0);
        let prior_factor = prior_factor(model, &process, start)?;
        let image_start = image_start(&process, start, plan.encodes());
        let rows = Rows::Planned(Arc::new(plan));
        let decoder = Decoder::new(model)?;
        let (model, options) = (model.clone(), SamplerSpec::default());
        Ok(Self {
            model,
            process,
            decoder,
            prior_factor,
            image_start,
            info,
            options,
            rows,
            conditioning,
            measured,
        })
    }

    /// The same, of a plan, with the options that describe it.
    pub(crate) fn described_by(self, options: SamplerSpec) -> Self {
        Self { options, ..self }
    }

    /// What the sampler is.
    pub fn info(&self) -> &SamplerInfo {
        &self.info
    }

    /// The options it was compiled from.
    pub fn options(&self) -> &SamplerSpec {
        &self.options
    }

    /// The plan, unless the sampler is adaptive.
    pub fn plan(&self) -> Option<&Plan> {
        match &self.rows {
            Rows::Planned(plan) => Some(plan),
            Rows::Adaptive(_) => None,
        }
    }

    /// The network calls that were asked for, where the plan makes fewer: a step takes several, or guidance acts on a part of
    /// the way.
    pub fn nfe_asked(&self) -> Option<u32> {
        let made = self.plan()?.nfe;
        self.options.nfe.filter(|asked| made < *asked as usize)
    }

    /// Whether it leads from data to noise ([`SamplerSpec::encode`]).
    pub fn encodes(&self) -> bool {
        match &self.rows {
            Rows::Planned(plan) => plan.encodes(),
            Rows::Adaptive(options) => options.encode,
        }
    }

    /// The shape of a measurement of one sample, of a sampler that restores.
    pub fn measurement_shape(&self) -> Option<Vec<usize>> {
        self.measured.as_ref().map(|measured| measured.shape())
    }

    /// States of a run, and the network whose outputs each slot holds.
    pub(crate) fn buffers(&self) -> (usize, Vec<usize>) {
        match &self.rows {
            Rows::Planned(plan) => (plan.states, plan.slot_networks()),
            Rows::Adaptive(options) => {
                let guides = options.guidance.map(|_| GUIDE);
                (rk45::STATES, [0; rk45::SLOTS].into_iter().chain(guides).collect())
            }
        }
    }

    /// Blocks of the outputs of network `network`.
    pub(crate) fn blocks_of(&self, network: usize) -> usize {
        let k = self.process.k();
        match self.conditioning.guidance {
            Some(Guidance { kind: GuidanceKind::Classifier, .. }) if network == GUIDE => k,
            _ => self.model.output_blocks(k),
        }
    }

    /// Elements of all buffers that a run holds for one sample, the data estimate included.
    pub(crate) fn elements(&self) -> u128 {
        let (states, slots) = self.buffers();
        let (k, outputs) = (self.process.k(), self.model.output_blocks(self.process.k()));
        let slots: usize = slots.into_iter().map(|network| self.blocks_of(network)).sum();
        let projected = usize::from(self.projects());
        // A batch of twice the samples, for the calls with and without the class at once.
        let twice = match self.conditioning.guidance {
            Some(Guidance { kind: GuidanceKind::Cfg, .. }) => 2 * (k + outputs),
            _ => 0,
        };
        ((states * k + slots + projected + twice + 1) as u128) * self.model.data_len() as u128
    }

    /// Whether network calls see a part of the state only.
    pub(crate) fn projects(&self) -> bool {
        match &self.rows {
            Rows::Planned(plan) => plan.projects(),
            Rows::Adaptive(_) => {
                self.model.network.process.is_some() || self.model.network.prediction == Prediction::Edm
            }
        }
    }

    /// SHA-256 of what the sampler does: of the plan, or of the adaptive solver's options.
    pub fn hash(&self) -> String {
        match &self.rows {
            Rows::Planned(plan) => plan.hash(),
            Rows::Adaptive(options) => options.hash(&self.model),
        }
    }
}

/// The prior from which a run that starts at `start` is drawn: the process's own, but where only a part of the path is
/// used the law of unit-variance data there. (A recipe that its own network drives starts from S wherever that is.)
pub(crate) fn prior_factor(model: &ModelSpec, process: &Process, start: f64) -> Result<Mat> {
    let own = process.parameters().is_some() && model.network.process.is_none();
    if own || start >= process.times().1 {
        Ok(process.prior_factor())
    } else {
        process.marginal_factor(start)
    }
}

/// What a run that starts from an image x_0 starts from, as (k x 1 on the image, k x k on standard normals): a draw of the
/// exact perturbation kernel at `start`; to encode, the image with momenta that are such a draw.
fn image_start(process: &Process, start: f64, encodes: bool) -> (Mat, Mat) {
    let mean = process.mean(start);
    if !encodes {
        return (mean, process.data_factor(start).0);
    }
    let (k, covariance) = (process.k(), process.data_covariance(start));
    let momenta = Mat::from_fn(k, k, |i, j| if i.min(j) == 0 { 0.0 } else { covariance[(i, j)] });
    (Mat::from_fn(k, 1, |i, _| if i == 0 { 1.0 } else { mean[(i, 0)] }), momenta.psd_factor())
}

/// Refuses the options that only other samplers take.
fn special(options: &SamplerSpec, info: &SamplerInfo) -> Result<()> {
    let foreign = |(option, given): &(&str, bool)| *given && !info.options.contains(option);
    let Some((option, _)) = options.special().into_iter().find(foreign) else { return Ok(()) };
    let of: Vec<_> = list().filter(|other| other.options.contains(&option)).map(|other| other.name).collect();
    let error = Error::argument(format!("`{option}` is no option of sampler `{}`", info.name));
    Err(error.hint(format!("it is an option of: {}", of.join(", "))))
}

fn reject(name: &str, options: &[(&str, bool)], why: &str) -> Result<()> {
    match options.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => {
            Err(Error::argument(format!("`{option}` is no option of sampler `{name}`: {why}")))
        }
    }
}
