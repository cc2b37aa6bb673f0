//! `psld plan`.

use crate::args::{PlanArgs, spec_of};
use crate::report;
use psld::{Error, Result, Sampler, Status};

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
