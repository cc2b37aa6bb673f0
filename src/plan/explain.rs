//! A plan as text: JSON with one row a line, and a table for people.

use super::{GUIDE, Input, Map, MapKind, Plan, Row};
use crate::process::Mat;
use std::fmt::Write;

/// JSON with one row a line: a plan is read and compared by people as well.
pub(super) fn to_json(plan: &Plan) -> String {
    let empty = Plan { rows: Vec::new(), ..plan.clone() };
    let head = serde_json::to_string(&empty).expect("a plan holds only finite numbers and strings");
    let mut out = head.strip_suffix("]}").expect("`rows` is the last field").to_owned();
    for (i, row) in plan.rows.iter().enumerate() {
        let row = serde_json::to_string(row).expect("a row holds only finite numbers and strings");
        let _ = write!(out, "{}\n{row}", if i == 0 { "" } else { "," });
    }
    out.push_str("\n]}\n");
    out
}

pub(super) fn table(plan: &Plan) -> String {
    let mut out = format!(
        "{}: {} steps, {} network calls, {} noise draws; k = {}, {} states, {} slots\n",
        plan.sampler,
        plan.steps,
        plan.nfe,
        plan.draws(),
        plan.k,
        plan.states,
        plan.slots
    );
    for row in &plan.rows {
        let _ = write!(out, "{:>4}  ", row.step());
        let _ = match row {
            Row::Eval(row) => {
                let network = if row.network == GUIDE { "guide" } else { "network" };
                let _ = match &row.input {
                    None => write!(out, "slot{} = {network}(z{}, t = {:.9})", row.slot, row.from, row.t),
                    Some(Input { project, t }) => write!(
                        out,
                        "slot{} = {network}({} z{}, its t = {t:.9}), t = {:.9}",
                        row.slot,
                        matrix(project),
                        row.from,
                        row.t
                    ),
                };
                writeln!(out)
            }
            Row::Update(row) => {
                let _ = write!(out, "z{} = {} z{}", row.into, matrix(&row.a), row.from);
                for (state, a) in &row.states {
                    let _ = write!(out, " + {} z{state}", matrix(a));
                }
                for (slot, b) in &row.terms {
                    let _ = write!(out, " + {} slot{slot}", matrix(b));
                }
                for (purpose, draw, c) in &row.noise {
                    let _ = write!(out, " + {} {purpose}{draw}", matrix(c));
                }
                writeln!(out)
            }
            Row::Map(Map { kind: MapKind::Replace { t, mean, noise }, into, .. }) => {
                let _ = write!(out, "z{into} = where known: {} image", matrix(mean));
                if let Some((purpose, draw, c)) = noise {
                    let _ = write!(out, " + {} {purpose}{draw}", matrix(c));
                }
                writeln!(out, " (kernel at t = {t:.9})")
            }
            Row::Map(Map { kind: MapKind::Clip { low, high }, into, .. }) => {
                writeln!(out, "z{into} = position clipped to [{low}, {high}]")
            }
            Row::Map(Map { kind: MapKind::Threshold(row), into, .. }) => {
                let _ = write!(
                    out,
                    "slot{into} = slot{into} + {} (what clipping {} z{} + {} slot{into} to [{}, {}] moves it by",
                    matrix(&row.b),
                    matrix(&row.on_z),
                    row.from,
                    matrix(&row.on_output),
                    row.low,
                    row.high
                );
                if let Some(percentile) = row.percentile {
                    let _ = write!(out, ", widened to percentile {percentile} and scaled back");
                }
                writeln!(out, ")")
            }
            Row::Map(Map { kind: MapKind::Cfg { slot, rescale }, into, .. }) => {
                let _ = write!(out, "slot{into} = slot{into} + scale (slot{into} - slot{slot})");
                let rescaled =
                    if *rescale > 0.0 { format!(", rescaled by {rescale}") } else { String::new() };
                writeln!(out, "{rescaled}")
            }
            Row::Map(Map { kind: MapKind::Gradient { slot, b }, into, .. }) => {
                writeln!(out, "slot{into} = slot{into} + scale {} slot{slot}", matrix(b))
            }
            Row::Map(Map { kind: MapKind::Restore { from, on_z, on_output, b, variance }, into, .. }) => {
                writeln!(
                    out,
                    "slot{into} = slot{into} + {} (what y moves {} z{from} + {} slot{into} of variance {variance:.3e} by)",
                    matrix(b),
                    matrix(on_z),
                    matrix(on_output)
                )
            }
            Row::Map(Map { kind: MapKind::Consistent, into, .. }) => {
                writeln!(out, "z{into} = position moved to what gives y")
            }
        };
    }
    out
}

fn matrix(m: &Mat) -> String {
    let row = |i| (0..m.cols()).map(|j| format!("{:.6}", m[(i, j)])).collect::<Vec<_>>().join(" ");
    format!("[{}]", (0..m.rows()).map(row).collect::<Vec<_>>().join("; "))
}
