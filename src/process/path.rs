//! Paths of one coordinate that are no recipes: z_t = α(t) x_0 + σ(t) ε, dz = F z dt + G dw, in closed form.
//!
//! They have no stationary law, or no constant ratio of friction to noise. Each is written in terms that do not
//! cancel, on steps of any length.

use super::check_positive;
use crate::{Error, Result};
use std::sync::Arc;

/// How α and σ run; F and G follow from F = α'/α and G² = (σ²)' − 2 F σ².
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Path {
    /// α = 1, σ = min (max/min)^t.
    Ve { min: f64, max: f64 },
    /// α = 1, σ = max t.
    Edm { min: f64, max: f64 },
    /// α = 1 − t, σ = t.
    Flow,
    /// α² = exp(−b), σ² = 1 − exp(−b), b by a table.
    Ddpm(Table),
}

/// The last time of the linear path that is used. At t = 1 nothing of the data is left and F is infinite; here the
/// ratio of signal to noise is 1e-3, a sixth of VP's at t = 1.
const FLOW_END: f64 = 0.999;

impl Path {
    pub fn ve(min: f64, max: f64) -> Result<Self> {
        check_sigmas(min, max)?;
        Ok(Self::Ve { min, max })
    }

    pub fn edm(min: f64, max: f64) -> Result<Self> {
        check_sigmas(min, max)?;
        if min / max < 1e-7 {
            return Err(Error::argument(format!(
                "`sigma_min` is {min:?} and `sigma_max` is {max:?}; the time sigma_min/sigma_max must be at least 1e-7"
            )));
        }
        Ok(Self::Edm { min, max })
    }

    /// First and last time that the path is meant for.
    pub fn times(&self) -> (f64, f64) {
        match self {
            Self::Ve { .. } => (1e-7, 1.0),
            Self::Edm { min, max } => (min / max, 1.0),
            Self::Flow => (1e-7, FLOW_END),
            Self::Ddpm(table) => (1.0 / table.len() as f64, 1.0),
        }
    }

    pub fn drift(&self, t: f64) -> f64 {
        match self {
            Self::Ve { .. } | Self::Edm { .. } => 0.0,
            Self::Flow => -1.0 / (1.0 - t),
            Self::Ddpm(table) => -0.5 * table.slope(t),
        }
    }

    pub fn diffusion(&self, t: f64) -> f64 {
        match self {
            Self::Ve { min, max } => 2.0 * libm::log(max / min) * self.variance(t),
            Self::Edm { max, .. } => 2.0 * max * max * t,
            Self::Flow => 2.0 * t / (1.0 - t),
            Self::Ddpm(table) => table.slope(t),
        }
    }

    /// α(to) / α(from).
    pub fn transition(&self, from: f64, to: f64) -> f64 {
        match self {
            Self::Ve { .. } | Self::Edm { .. } => 1.0,
            Self::Flow => (1.0 - to) / (1.0 - from),
            Self::Ddpm(table) => libm::exp(-0.5 * table.integral(from, to)),
        }
    }

    /// σ²(to) − (α(to)/α(from))² σ²(from).
    pub fn noise(&self, from: f64, to: f64) -> f64 {
        match self {
            Self::Ve { min, max } => {
                self.variance(from) * libm::expm1(2.0 * libm::log(max / min) * (to - from))
            }
            Self::Edm { max, .. } => max * max * (to - from) * (to + from),
            Self::Flow => {
                let rest = 1.0 - from;
                (to - from) * (to * rest + from * (1.0 - to)) / (rest * rest)
            }
            Self::Ddpm(table) => 0.0 - libm::expm1(-table.integral(from, to)),
        }
    }

    pub fn variance(&self, t: f64) -> f64 {
        let sigma = match self {
            Self::Ve { min, max } => min * libm::exp(libm::log(max / min) * t),
            Self::Edm { max, .. } => max * t,
            Self::Flow => t,
            Self::Ddpm(table) => return 0.0 - libm::expm1(-table.integral(0.0, t)),
        };
        sigma * sigma
    }

    /// The variance of the prior.
    pub fn prior(&self) -> f64 {
        match self {
            Self::Ve { max, .. } | Self::Edm { max, .. } => max * max,
            Self::Flow | Self::Ddpm(_) => 1.0,
        }
    }
}

fn check_sigmas(min: f64, max: f64) -> Result<()> {
    check_positive("sigma_min", min)?;
    check_positive("sigma_max", max)?;
    let squares = [min * min, max * max, 1.0 / (min * min)];
    if min >= max || squares.iter().any(|x| !(x.is_finite() && *x > 0.0)) {
        return Err(Error::argument(format!(
            "`sigma_min` is {min:?} and `sigma_max` is {max:?}; sigma_min must be less than sigma_max, and their squares \
             finite and > 0"
        )));
    }
    Ok(())
}

/// b(t) = −ln ∏ (1 − β_i), given at t = (i + 1)/N for the N entries of a table of betas, and b(0) = 0; in between the
/// monotone cubic of Fritsch and Butland (SIAM J. Sci. Stat. Comput. 5, 1984), whose slope β(t) is continuous.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table(Arc<[Cell]>);

/// b between two entries, as a function of s in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cell {
    /// b at s = 0.
    start: f64,
    /// Of s, s² and s³.
    coefficients: [f64; 3],
    /// b at s = 1 less b at s = 0.
    rise: f64,
}

/// More entries than any network was trained with.
const MAX_ENTRIES: usize = 100_000;

impl Table {
    pub fn new(betas: &[f64]) -> Result<Self> {
        if !(2..=MAX_ENTRIES).contains(&betas.len()) {
            return Err(Error::argument(format!(
                "`betas` has {} entries; expected 2 to {MAX_ENTRIES}",
                betas.len()
            )));
        }
        if let Some(i) = betas.iter().position(|beta| !(*beta > 0.0 && *beta < 1.0)) {
            return Err(Error::argument(format!(
                "`betas` has {:?} as entry {i}; each must be > 0 and < 1, so that something of the data is left",
                betas[i]
            )));
        }
        let rises: Vec<f64> = betas.iter().map(|beta| 0.0 - libm::log1p(-beta)).collect();
        if rises.iter().sum::<f64>() > 300.0 {
            return Err(Error::argument(
                "`betas` leave a signal-to-noise ratio below e^-300 at the end, which is nothing of the data",
            ));
        }
        let slope = |i: usize| match i {
            0 => rises[0],
            i if i == rises.len() => rises[i - 1],
            i => 2.0 * rises[i - 1] * rises[i] / (rises[i - 1] + rises[i]),
        };
        let mut start = 0.0;
        let cells = rises.iter().enumerate().map(|(i, &rise)| {
            let (first, last) = (slope(i), slope(i + 1));
            let coefficients = [first, 3.0 * rise - 2.0 * first - last, first + last - 2.0 * rise];
            let cell = Cell { start, coefficients, rise };
            start += rise;
            cell
        });
        Ok(Self(cells.collect()))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The cell that holds `t`, and s in it.
    fn at(&self, t: f64) -> (usize, f64) {
        let x = t * self.len() as f64;
        let cell = (x as usize).min(self.len() - 1);
        (cell, x - cell as f64)
    }

    /// β(t).
    pub fn slope(&self, t: f64) -> f64 {
        let (cell, s) = self.at(t);
        let [c1, c2, c3] = self.0[cell].coefficients;
        (c1 + s * (2.0 * c2 + s * 3.0 * c3)) * self.len() as f64
    }

    /// ∫ β between two times.
    pub fn integral(&self, from: f64, to: f64) -> f64 {
        if to < from {
            return -self.integral(to, from);
        }
        let ((i, a), (j, b)) = (self.at(from), self.at(to));
        // Within a cell by the divided difference: a difference of values would cancel on short steps.
        let within = |cell: &Cell, a: f64, b: f64, length: f64| {
            let [c1, c2, c3] = cell.coefficients;
            length * (c1 + c2 * (a + b) + c3 * (a * a + a * b + b * b))
        };
        if i == j {
            return within(&self.0[i], a, b, (to - from) * self.len() as f64);
        }
        let (first, last) = (&self.0[i], &self.0[j]);
        within(first, a, 1.0, 1.0 - a) + (last.start - first.start - first.rise) + within(last, 0.0, b, b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_met_at_its_entries_and_rises_smoothly_between() {
        let betas = [0.1, 0.5, 0.02, 0.3, 0.3];
        let table = Table::new(&betas).unwrap();
        let mut b = 0.0;
        for (i, beta) in betas.iter().enumerate() {
            b -= (1.0 - beta).ln();
            let t = (i + 1) as f64 / 5.0;
            assert!((table.integral(0.0, t) - b).abs() < 1e-15, "entry {i}");
            let gap = table.slope(t - 1e-9) - table.slope(t.min(1.0 - 1e-9) + 1e-9);
            assert!(gap.abs() < 1e-5, "entry {i}: {gap}");
        }
        for i in 0..1000 {
            let (t, u) = (f64::from(i) / 1000.0, f64::from(i + 1) / 1000.0);
            assert!(table.slope(t) > 0.0);
            let mean = table.integral(t, u) * 1000.0;
            assert!((mean - 0.5 * (table.slope(t) + table.slope(u))).abs() < 1e-3, "{t}");
            assert_eq!(table.integral(u, t), -table.integral(t, u));
        }
    }
}
