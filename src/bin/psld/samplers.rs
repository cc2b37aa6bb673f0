//! `psld samplers`.

use crate::report;
use clap::Args;
use psld::solver::auto::{Data, FEW, Paths};
use psld::{Error, Result, Status, solver};
use serde::Serialize;

#[derive(Args)]
pub struct SamplersArgs {
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,

    /// Print the measured table that `auto` chooses from instead
    #[arg(long)]
    pub why: bool,
}

pub fn run(args: SamplersArgs) -> Result<()> {
    if args.why {
        return why(args.json);
    }
    let all: Vec<_> = solver::list().collect();
    if args.json {
        return print_json(&all);
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
    report::stdout(&table(&rows))
}

/// The table that `auto` chooses from.
fn why(json: bool) -> Result<()> {
    let choices = solver::auto::table();
    if json {
        return print_json(&choices);
    }
    let head = ["PATHS", "DATA", "CALLS UP TO", "SAMPLER", "ORDER", "GRID"];
    let mut rows = vec![head.map(String::from)];
    rows.extend(choices.iter().map(|row| {
        [
            match row.paths {
                Paths::Vp => "vp, ddpm linear",
                Paths::Flow => "flow, ddpm cosine",
                Paths::Edm => "edm",
                Paths::Ve => "ve",
                Paths::Phase => "psld, cld, recipe",
            }
            .into(),
            match row.data {
                Data::Points => format!("under {FEW} elements"),
                Data::Sequences => "sequences".into(),
                Data::Images => "images".into(),
            },
            if row.up_to == u32::MAX { "any".into() } else { row.up_to.to_string() },
            row.sampler.into(),
            row.order.to_string(),
            row.grid.into(),
        ]
    }));
    let how = "Samples with one or two dimensions (actions over time) are sequences, with more images. Each row was near the best on \
               the networks of models/study and, for few elements, two Gaussian mixtures, at 5, 8, 10, 15, 20 and 30 calls \
               (tests/scripts/auto_table.py). What is best differs between networks: `psld study --ratios` says by how much, and \
               `psld tune --probe` finds the best for one.\n";
    report::stdout(&format!("{}{how}", table(&rows)))
}

fn print_json(value: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(value)
        .map_err(|e| Error::new(Status::Internal, "the list cannot be written as JSON").source(e))?;
    report::stdout(&format!("{json}\n"))
}

/// Rows with their columns aligned.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for row in rows {
        let line: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out += line.join("  ").trim_end();
        out.push('\n');
    }
    out
}
