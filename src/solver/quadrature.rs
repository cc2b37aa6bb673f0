//! Integrals of k x k matrices over time, for the coefficients of exponential integrators.

use crate::process::Mat;

/// Points of one panel.
const POINTS: usize = 16;

/// The integral of `f` from t to u (in either order; the sign follows), for 0 < t, u.
///
/// 16-point Gauss-Legendre on panels that at most double the time: what is integrated goes like a power of t near the
/// data, and is smooth in ln t. Panels that end before t = 1 at most halve 1 - t as well: there the linear path has a
/// pole, and is not used up to it.
pub(super) fn integral(t: f64, u: f64, f: impl Fn(f64) -> Mat) -> Mat {
    let (low, high) = (t.min(u), t.max(u));
    let panels = libm::ceil(libm::log2(high / low)).clamp(1.0, 64.0) as usize;
    let ratio = libm::log(high / low) / panels as f64;
    let edge = |i: usize| match i {
        0 => low,
        i if i == panels => high,
        i => low * libm::exp(ratio * i as f64),
    };
    let rule = rule();
    let mut sum: Option<Mat> = None;
    let pieces = (0..panels).flat_map(|i| {
        let (a, b) = (edge(i), edge(i + 1));
        let fall = if b < 1.0 { libm::log2((1.0 - a) / (1.0 - b)) } else { 0.0 };
        let parts = libm::ceil(fall).clamp(1.0, 64.0) as usize;
        let inner = move |j: usize| match j {
            0 => a,
            j if j == parts => b,
            j => 1.0 - (1.0 - a) * libm::exp2(-fall * j as f64 / parts as f64),
        };
        (0..parts).map(move |j| (inner(j), inner(j + 1)))
    });
    for (a, b) in pieces {
        let (middle, half) = (0.5 * (a + b), 0.5 * (b - a));
        for (x, weight) in rule {
            let term = f(middle + half * x) * (half * weight);
            sum = Some(sum.map_or(term, |sum| sum + term));
        }
    }
    let sum = sum.unwrap_or_else(|| f(low) * 0.0);
    if t <= u { sum } else { -sum }
}

/// Nodes in (-1, 1) with their weights: the zeros of the Legendre polynomial, by Newton's method.
fn rule() -> [(f64, f64); POINTS] {
    std::array::from_fn(|i| {
        let n = POINTS as f64;
        let mut x = -libm::cos(std::f64::consts::PI * (i as f64 + 0.75) / (n + 0.5));
        let mut slope = 1.0;
        for _ in 0..8 {
            let (mut p, mut before) = (1.0, 0.0);
            for j in 0..POINTS {
                let j = j as f64;
                (p, before) = (((2.0 * j + 1.0) * x * p - j * before) / (j + 1.0), p);
            }
            slope = n * (x * p - before) / (x * x - 1.0);
            x -= p / slope;
        }
        (x, 2.0 / ((1.0 - x * x) * slope * slope))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(t: f64, u: f64, f: impl Fn(f64) -> f64) -> f64 {
        integral(t, u, |s| Mat::from_rows([[f(s)]]))[(0, 0)]
    }

    #[test]
    fn powers_near_the_data_and_the_sign() {
        for (t, u) in [(1.0_f64, 1e-3_f64), (1e-7, 1.0), (0.3, 0.31)] {
            for power in [-0.5, 0.0, 1.0, 5.0_f64] {
                let exact = (u.powf(power + 1.0) - t.powf(power + 1.0)) / (power + 1.0);
                let error = (scalar(t, u, |s| s.powf(power)) / exact - 1.0).abs();
                assert!(error < 1e-13, "s^{power} from {t} to {u}: {error:e}");
            }
        }
    }

    #[test]
    fn a_pole_at_one() {
        for (t, u) in [(0.999_f64, 0.7_f64), (0.999, 1e-3), (0.4, 0.99)] {
            let exact = 1.0 / (1.0 - u) - 1.0 / (1.0 - t);
            let error = (scalar(t, u, |s| (1.0 - s).powi(-2)) / exact - 1.0).abs();
            assert!(error < 1e-12, "from {t} to {u}: {error:e}");
        }
    }
}
