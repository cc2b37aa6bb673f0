//! Integrals of k x k matrices over time, for the coefficients of exponential integrators.

use crate::process::Mat;

/// Points of one panel of [`integral`].
const POINTS: usize = 16;

/// The integral of `f` from t to u (in either order; the sign follows), for 0 < t, u.
///
/// 16-point Gauss-Legendre on panels that at most double the time: what is integrated goes like a power of t near the
/// data, and is smooth in ln t. Panels that end before t = 1 at most halve 1 - t as well: there the linear path has a
/// pole, and is not used up to it.
pub(super) fn integral(t: f64, u: f64, f: impl Fn(f64) -> Mat) -> Mat {
    let rule = rule::<POINTS>();
    let (low, high) = (t.min(u), t.max(u));
    let edges = edges(low, high, 1);
    let terms = edges.windows(2).flat_map(|pair| {
        let (middle, half) = (0.5 * (pair[0] + pair[1]), 0.5 * (pair[1] - pair[0]));
        rule.map(|(x, weight)| f(middle + half * x) * (half * weight))
    });
    let sum = terms.reduce(|sum, term| sum + term).unwrap_or_else(|| f(low) * 0.0);
    if t <= u { sum } else { -sum }
}

/// The edges of panels from `low` to `high` as [`integral`] takes them, at least `least` by their ratio.
pub(super) fn edges(low: f64, high: f64, least: usize) -> Vec<f64> {
    let panels = (libm::ceil(libm::log2(high / low)).clamp(1.0, 64.0) as usize).max(least);
    let ratio = libm::log(high / low) / panels as f64;
    let edge = |i: usize| match i {
        0 => low,
        i if i == panels => high,
        i => low * libm::exp(ratio * i as f64),
    };
    let inner = (0..panels).flat_map(|i| {
        let (a, b) = (edge(i), edge(i + 1));
        let fall = if b < 1.0 { libm::log2((1.0 - a) / (1.0 - b)) } else { 0.0 };
        let parts = libm::ceil(fall).clamp(1.0, 64.0) as usize;
        (1..=parts).map(move |j| match j {
            j if j == parts => b,
            j => 1.0 - (1.0 - a) * libm::exp2(-fall * j as f64 / parts as f64),
        })
    });
    [low].into_iter().chain(inner).collect()
}

/// Row i: the weights of the integral from -1 to node i of what the rule's nodes interpolate.
pub(super) fn cumulative<const N: usize>(rule: &[(f64, f64); N]) -> [[f64; N]; N] {
    // The Lagrange polynomial of node j is w_j sum over n of (n + 1/2) P_n(x_j) P_n, and the integral of
    // (2n + 1) P_n is P_(n+1) - P_(n-1).
    let legendre = rule.each_ref().map(|&(x, _)| {
        let mut p = vec![1.0; N + 1];
        p[1] = x;
        for n in 1..N {
            p[n + 1] = ((2 * n + 1) as f64 * x * p[n] - n as f64 * p[n - 1]) / (n + 1) as f64;
        }
        p
    });
    std::array::from_fn(|i| {
        std::array::from_fn(|j| {
            let at = |n: usize| legendre[j][n] * (legendre[i][n + 1] - legendre[i][n - 1]);
            0.5 * rule[j].1 * (1.0 + rule[i].0 + (1..N).map(at).sum::<f64>())
        })
    })
}

/// Nodes in (-1, 1) with their weights: the zeros of the Legendre polynomial, by Newton's method.
pub(super) fn rule<const N: usize>() -> [(f64, f64); N] {
    std::array::from_fn(|i| {
        let n = N as f64;
        let mut x = -libm::cos(std::f64::consts::PI * (i as f64 + 0.75) / (n + 0.5));
        let mut slope = 1.0;
        for _ in 0..8 {
            let (mut p, mut before) = (1.0, 0.0);
            for j in 0..N {
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
    fn cumulative_integrals_of_polynomials() {
        let rule = rule::<POINTS>();
        let weights = cumulative(&rule);
        for power in 0..POINTS as i32 {
            for (row, (end, _)) in weights.iter().zip(rule) {
                let sum: f64 = row.iter().zip(rule).map(|(w, (x, _))| w * x.powi(power)).sum();
                let exact = (end.powi(power + 1) - (-1.0_f64).powi(power + 1)) / f64::from(power + 1);
                assert!((sum - exact).abs() < 1e-14, "x^{power} to {end}: {sum} is not {exact}");
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
