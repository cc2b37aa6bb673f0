//! `psld samplers`.

use crate::args::SamplersArgs;
use crate::report;
use psld::{Error, Result, Status, solver};

pub fn run(args: SamplersArgs) -> Result<()> {
    let all: Vec<_> = solver::list().collect();
    if args.json {
        let json = serde_json::to_string_pretty(&all)
            .map_err(|e| Error::new(Status::Internal, "the list cannot be written as JSON").source(e))?;
        return report::stdout(&format!("{json}\n"));
    }
    let mut rows = vec![["NAME", "ORDER", "CALLS/STEP", "NOISE", "WHAT", "PAPER"].map(String::from)];
    rows.extend(all.iter().map(|info| {
        [
            info.name.into(),
            info.order.into(),
            info.nfe_per_step.to_string(),
            if info.stochastic { "yes" } else { "no" }.into(),
            info.title.into(),
            format!("{}, {}", info.paper, info.equation),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut out = String::new();
    for row in &rows {
        let line: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out += line.join("  ").trim_end();
        out.push('\n');
    }
    report::stdout(&out)
}
