//! Grids for networks that are told whole numbers of time (int64 inputs): at a time between two of them the network would be
//! asked about another noise level than the state has, so named grids are moved to the times of whole numbers.

use crate::decode::{Times, Whole};
use crate::process::Process;
use crate::spec::SamplerSpec;

/// The grid with its times moved to the nearest that the network can be told, no two to the same. Ends that the caller gave are
/// kept; so is a grid of more times than there are whole numbers.
pub(super) fn snap(grid: Vec<f64>, spec: &SamplerSpec, process: &Process, times: &Times) -> Vec<f64> {
    let Some(Whole { clock, foreign }) = &times.whole else { return grid };
    let own = clock.process();
    let (first, last) = own.times();
    let number_of =
        |t: f64| clock.at(if *foreign { own.time_of_log_snr(process.log_snr(t), first, last) } else { t });
    let time_of = |number: f64| {
        let t = clock.time(number);
        if *foreign { process.time_of_log_snr(own.log_snr(t), times.low, times.high) } else { t }
    };
    // Numbers that decrease along the grid, as times do.
    let sign = if clock.is_reversed() { -1.0 } else { 1.0 };
    let number = |t: f64| sign * number_of(t);
    let n = grid.len() - 1;
    let (from, to) = (usize::from(spec.t_start.is_some()), n - usize::from(spec.t_end.is_some()));
    if from > to {
        return grid;
    }
    // Rounding must not take the end of a table away.
    const SLACK: f64 = 1e-6;
    let top = match spec.t_start {
        Some(t) => (number(t) - SLACK).ceil() - 1.0,
        None => (number(times.start) + SLACK).floor(),
    };
    let bottom = match spec.t_end {
        Some(t) => (number(t) + SLACK).floor() + 1.0,
        None => (number(times.low) - SLACK).ceil(),
    };
    if top - bottom < (to - from) as f64 {
        return grid;
    }
    let mut snapped = grid.clone();
    let mut below = bottom - 1.0;
    for i in (from..=to).rev() {
        let nearest = number(grid[i]).round_ties_even().clamp(below + 1.0, top - (i - from) as f64);
        snapped[i] = time_of(sign * nearest);
        below = nearest;
    }
    match snapped.windows(2).all(|pair| pair[0] > pair[1]) {
        true => snapped,
        false => grid,
    }
}
