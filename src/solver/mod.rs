//! Solvers: one paper, one file. Each does its mathematics once, in f64, and emits the rows of a plan; the
//! adaptive one emits rows while it runs.

mod ancestral;
mod compiler;
mod conjugate;
mod cvv;
mod em;
mod euler;
mod heun;
mod inpaint;
mod quadrature;
pub(crate) mod rk45;
mod roba;
mod rvv;
mod splitting;
mod sscs;
mod stability;

pub(crate) use compiler::Decoder;

use crate::guidance::GUIDE;
use crate::plan::Plan;
use crate::process::Process;
use crate::spec::strict::did_you_mean;
use crate::spec::{Conditioning, Guidance, GuidanceKind, Inpainting, ModelSpec, SamplerSpec};
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

/// A sampler that emits a plan.
struct Solver {
    info: SamplerInfo,
    /// Appends the rows of all steps on `grid`.
    steps: fn(&mut Compiler<'_>, grid: &[f64]) -> Result<()>,
}

const PLANNED: [Solver; 9] = [
    em::SOLVER,
    sscs::SOLVER,
    ancestral::SOLVER,
    euler::SOLVER,
    heun::SOLVER,
    conjugate::SOLVER,
    rvv::SOLVER,
    roba::SOLVER,
    cvv::SOLVER,
];

/// The samplers, in the order in which they are listed to people.
pub fn list() -> impl Iterator<Item = &'static SamplerInfo> {
    PLANNED.iter().map(|solver| &solver.info).chain([&rk45::INFO])
}

/// A compiled sampler: immutable, shared by any number of threads and runs.
#[derive(Clone, Debug)]
pub struct Sampler {
    pub(crate) model: ModelSpec,
    pub(crate) process: Process,
    info: SamplerInfo,
    options: SamplerSpec,
    pub(crate) rows: Rows,
    pub(crate) conditioning: Conditioning,
}

/// Where the rows of a run come from.
#[derive(Clone, Debug)]
pub(crate) enum Rows {
    Planned(Arc<Plan>),
    Adaptive(rk45::Options),
}

impl Sampler {
    /// Compiles the sampler that `options` describe for networks of spec `model`, and for what `conditioning` says
    /// (an inpainting method, or a whole [`Conditioning`]).
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
        let process = model.process()?;
        let inpaint = conditioning.inpaint;
        let resample = inpaint.map_or(1, |inpaint| inpaint.resample);
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
            return Err(Error::argument(format!("inpaint: resample = {resample}: expected 1 to 1000")));
        }
        let name = options.name();
        let (info, rows) = if name == rk45::INFO.name {
            let excluded = [
                ("steps", options.steps.is_some()),
                ("nfe", options.nfe.is_some()),
                ("time_grid", options.time_grid.is_some()),
            ];
            reject(name, &excluded, "it chooses its own steps; bound them with rtol, atol and max_nfe")?;
            if inpaint.is_some() {
                return Err(Error::new(
                    Status::Unsupported,
                    "inpainting needs a sampler with fixed steps, not `rk45`",
                )
                .hint("use `em` or `sscs`"));
            }
            special(options, &rk45::INFO)?;
            let own = rk45::Options::new(options)?;
            (rk45::INFO, Rows::Adaptive(rk45::Options { guidance: conditioning.guidance, ..own }))
        } else {
            let Some(solver) = PLANNED.iter().find(|s| s.info.name == name) else {
                return Err(Error::argument(format!("unknown sampler `{name}`"))
                    .hint(did_you_mean(name, list().map(|i| i.name).collect::<Vec<_>>().into_iter())));
            };
            special(options, &solver.info)?;
            let each = if conditioning.guidance.is_some() { CALLS_OF_GUIDED } else { 1 };
            let calls = grid::Calls { step: solver.info.nfe_per_step * resample * each, closing: each };
            let grid = grid::resolve_for(options, &process, calls)?;
            let plan = Compiler::new(model, &process, options, &conditioning).compile(solver, grid)?;
            (solver.info, Rows::Planned(Arc::new(plan)))
        };
        Ok(Self { model: model.clone(), process, info, options: options.clone(), rows, conditioning })
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
        let conditioning = Conditioning {
            inpaint: plan.inpaints().then(Inpainting::default),
            guidance: plan.guidance().map(Guidance::from),
        };
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
        let rows = Rows::Planned(Arc::new(plan));
        Ok(Self { model: model.clone(), process, info, options: SamplerSpec::default(), rows, conditioning })
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
        // A batch of twice the samples, for the calls with and without the class at once.
        let twice = match self.conditioning.guidance {
            Some(Guidance { kind: GuidanceKind::Cfg, .. }) => 2 * (k + outputs),
            _ => 0,
        };
        ((states * k + slots + twice + 1) as u128) * self.model.data_len() as u128
    }

    /// SHA-256 of what the sampler does: of the plan, or of the adaptive solver's options.
    pub fn hash(&self) -> String {
        match &self.rows {
            Rows::Planned(plan) => plan.hash(),
            Rows::Adaptive(options) => options.hash(&self.model),
        }
    }
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
