//! `psld plan`.

use crate::args::{SamplerArgs, spec_of};
use crate::report;
use clap::{Args, ValueHint};
use psld::{Error, Result, Sampler, Status};
use std::path::PathBuf;

#[derive(Args)]
pub struct PlanArgs {
    /// The network: .onnx, or .json for an analytic mixture
    #[arg(value_hint = ValueHint::FilePath)]
    pub model: PathBuf,
    /// The network's spec, instead of the one in the model's metadata
    #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath)]
    pub spec: Option<PathBuf>,
    /// Print a table for people instead of JSON
    #[arg(long, overrides_with = "json")]
    pub explain: bool,
    /// Print JSON, one row a line: the default
    #[arg(long, overrides_with = "explain")]
    pub json: bool,
    #[command(flatten)]
    pub sampler: SamplerArgs,
}

pub fn run(args: PlanArgs) -> Result<()> {
    let config = args.sampler.config()?;
    let spec = spec_of(&args.model, args.spec.as_deref())?;
    let sampler = Sampler::from_config(&spec, &config)?;
    let Some(plan) = sampler.plan() else {
        let name = sampler.info().name;
        let message =
            format!("sampler `{name}` has no plan: it is adaptive and makes its rows while it runs");
        return Err(Error::new(Status::Unsupported, message));
    };
    let table = args.explain && !args.json;
    report::stdout(&if table { plan.explain() } else { plan.to_json() })
}
