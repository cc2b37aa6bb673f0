//! Time grids: decreasing forward times t_0 = t_start > ... > t_N = t_end.

mod whole;

use crate::decode::Times;
use crate::process::Process;
use crate::spec::strict::did_you_mean;
use crate::spec::{Grid, SamplerSpec};
use crate::{Error, Result, Status};

/// The named grids.
pub const NAMES: [&str; 7] = ["uniform", "quadratic", "order2", "order2.5", "log_snr", "logistic", "karras"];

/// Network calls of a sampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calls {
    /// Of one step.
    pub step: u32,
    /// Of the closing step.
    pub closing: u32,
}

/// Resolves the grid of a sampler that takes `calls_per_step` network calls a step and one to close.
///
/// The number of steps comes from `steps`, from `nfe` (default [`SamplerSpec::default_nfe`]) less the closing call, or from a grid given
/// by its points; more than one of them must agree.
///
/// # Errors
/// [`Status::InvalidArgument`] naming the option and the rule; [`Status::ReadFailed`] for a grid file.
pub fn resolve(
    spec: &SamplerSpec,
    process: &Process,
    times: &Times,
    calls_per_step: u32,
) -> Result<Vec<f64>> {
    resolve_for(spec, process, times, Calls { step: calls_per_step, closing: 1 })
}

/// [`resolve`] for a sampler whose closing step may take several calls.
///
/// # Errors
/// Those of [`resolve`].
pub fn resolve_for(spec: &SamplerSpec, process: &Process, times: &Times, calls: Calls) -> Result<Vec<f64>> {
    match spec.time_grid.as_ref() {
        Some(Grid::Points(points)) => given(spec, times, points.clone()),
        Some(Grid::Name(name)) if !NAMES.contains(&name.as_str()) => given(spec, times, read(name)?),
        named => {
            let (start, end) = times.interval(spec)?;
            let n = steps(spec, calls)?;
            let name = match named {
                Some(Grid::Name(name)) => name.as_str(),
                // Where the noise level spans decades in time, quadratic steps are all spent on its upper end.
                _ if process.explodes() => "karras",
                _ => "quadratic",
            };
            let grid = build(name, process, n, start, end);
            if grid.windows(2).any(|pair| pair[0] <= pair[1]) {
                return Err(Error::argument(format!(
                    "t_start = {start}, t_end = {end}: {n} steps of grid `{name}` are closer than the spacing of numbers"
                )));
            }
            Ok(whole::snap(grid, spec, process, times))
        }
    }
}

fn steps(spec: &SamplerSpec, calls: Calls) -> Result<usize> {
    let Calls { step: calls_per_step, closing } = calls;
    let closing = if spec.denoise.unwrap_or(true) { closing } else { 0 };
    let steps = match (spec.steps, spec.nfe) {
        (Some(_), Some(_)) => return Err(Error::argument("steps and nfe exclude each other: give one")),
        (Some(steps), None) => steps,
        (None, nfe) => nfe.unwrap_or(spec.default_nfe()).saturating_sub(closing) / calls_per_step,
    };
    // A plan of a million rows is some hundred MB: past it lies a typing error, not a sampler.
    if !(1..=1_000_000).contains(&steps) {
        let least = calls_per_step.saturating_add(closing);
        return Err(Error::argument(match spec.steps {
            Some(steps) => format!("steps = {steps}: expected 1 to 1000000"),
            None => format!(
                "nfe = {}: sampler `{}` takes {calls_per_step} network call(s) a step{}, so at least {least} and at \
                 most 1000000 steps of them",
                spec.nfe.unwrap_or(spec.default_nfe()),
                spec.name(),
                match closing {
                    0 => String::new(),
                    1 => " and one to close".into(),
                    n => format!(" and {n} to close"),
                },
            ),
        }));
    }
    Ok(steps as usize)
}

/// t_i, i = 0..=n, of a named grid; the end points are exact.
fn build(name: &str, process: &Process, n: usize, start: f64, end: f64) -> Vec<f64> {
    let remaining = |i: usize| (n - i) as f64 / n as f64;
    let mut grid: Vec<f64> = match name {
        "uniform" => (0..=n).map(|i| end + (start - end) * remaining(i)).collect(),
        "quadratic" => (0..=n).map(|i| end + (start - end) * (remaining(i) * remaining(i))).collect(),
        "order2" => {
            let (a, b) = (libm::sqrt(start), libm::sqrt(end));
            (0..=n).map(|i| b + (a - b) * remaining(i)).map(|root| root * root).collect()
        }
        // A little finer near the data than order2, for predictions that are corrected.
        "order2.5" => {
            let root = |t: f64| libm::pow(t, 0.4);
            let (a, b) = (root(start), root(end));
            (0..=n).map(|i| libm::pow(b + (a - b) * remaining(i), 2.5)).collect()
        }
        "log_snr" => {
            let (a, b) = (process.log_snr(start), process.log_snr(end));
            (0..=n).map(|i| process.time_of_log_snr(b + (a - b) * remaining(i), end, start)).collect()
        }
        // The steps in log-SNR are shortest about 1, where images take shape, and grow towards both ends. For predictions that
        // are corrected on paths that begin in much noise.
        "logistic" => {
            const MIDDLE: f64 = 1.0;
            const WIDTH: f64 = 2.5;
            let share = |t: f64| 1.0 / (1.0 + libm::exp((MIDDLE - process.log_snr(t)) / WIDTH));
            let (a, b) = (share(start), share(end));
            (0..=n)
                .map(|i| b + (a - b) * remaining(i))
                .map(|share| MIDDLE + WIDTH * libm::log(share / (1.0 - share)))
                .map(|log_snr| process.time_of_log_snr(log_snr, end, start))
                .collect()
        }
        "karras" => {
            // sigma^(1/7) uniform, sigma = exp(-log_snr) (arXiv 2206.00364, eq. 5).
            let root = |t: f64| libm::exp(-process.log_snr(t) / 7.0);
            let (a, b) = (root(start), root(end));
            (0..=n)
                .map(|i| -7.0 * libm::log(b + (a - b) * remaining(i)))
                .map(|log_snr| process.time_of_log_snr(log_snr, end, start))
                .collect()
        }
        _ => unreachable!("the caller matched the name against NAMES"),
    };
    grid[0] = start;
    grid[n] = end;
    grid
}

fn given(spec: &SamplerSpec, times: &Times, points: Vec<f64>) -> Result<Vec<f64>> {
    let bad = |what: String| Err(Error::argument(format!("time_grid: {what}")));
    if points.len() < 2 {
        return bad(format!("expected at least two times, got {}", points.len()));
    }
    if let Some(i) = points.iter().position(|t| !(*t >= times.low && *t <= times.high)) {
        let number = |t: f64| if t == 1.0 { "1".into() } else { format!("{t:?}") };
        return bad(format!(
            "time {i} is {}: expected {} to {}",
            points[i],
            number(times.low),
            number(times.high)
        ));
    }
    if let Some(i) = points.windows(2).position(|w| w[0] <= w[1]) {
        return bad(format!(
            "times must decrease (forward time, from noise to data), but time {} is {} after {}",
            i + 1,
            points[i + 1],
            points[i]
        ));
    }
    if spec.nfe.is_some() {
        return bad("a grid given by its points excludes nfe".into());
    }
    if let Some(steps) = spec.steps.filter(|s| *s as usize != points.len() - 1) {
        return bad(format!("{} points make {} steps, but steps = {steps}", points.len(), points.len() - 1));
    }
    for (name, asked, has) in
        [("t_start", spec.t_start, points[0]), ("t_end", spec.t_end, points[points.len() - 1])]
    {
        if asked.is_some_and(|t| t != has) {
            return bad(format!("the grid's {name} is {has}, but {name} = {}", asked.unwrap_or_default()));
        }
    }
    Ok(points)
}

/// A grid file: a JSON array, or times separated by white space or commas.
fn read(path: &str) -> Result<Vec<f64>> {
    let text = crate::io::read_text(path.as_ref()).map_err(|e| {
        let error = Error::new(Status::ReadFailed, "time_grid: no named grid, and no readable file");
        let name = std::path::Path::new(path).file_name().map_or(path.into(), |name| name.to_string_lossy());
        error.source(e).hint(did_you_mean(&name, NAMES.iter().copied()))
    })?;
    let parsed = if text.trim_start().starts_with('[') {
        serde_json::from_str(&text).map_err(|e| e.to_string())
    } else {
        text.split(|c: char| c.is_whitespace() || c == ',')
            .filter(|word| !word.is_empty())
            .map(|word| word.parse().map_err(|_| format!("not a number: {word}")))
            .collect()
    };
    parsed.map_err(|e| {
        Error::argument(format!("time_grid: {path}: expected a JSON array or a list of times: {e}"))
    })
}
