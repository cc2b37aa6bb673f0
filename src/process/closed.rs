//! Closed forms of the kernel: one function of b = ∫β each, in f64.

use super::mat::Mat;
use super::{Decomposition, Kernel};

/// k = 1: dz = −d z db + √(2d) dw, S = 1 (VP has d = 1/2).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scalar {
    pub d: f64,
}

impl Scalar {
    pub fn drift(&self) -> Mat {
        Mat::from_rows([[-self.d]])
    }

    pub fn transition(&self, b: f64) -> Mat {
        Mat::from_rows([[libm::exp(-self.d * b)]])
    }

    pub fn noise(&self, b: f64) -> Mat {
        Mat::from_rows([[0.0 - libm::expm1(-2.0 * self.d * b)]])
    }

    pub fn kernel(&self, b: f64, eps: f64) -> Kernel {
        let variance = self.noise(b)[(0, 0)] + eps;
        let deviation = libm::sqrt(variance);
        Kernel {
            covariance: Mat::from_rows([[variance]]),
            determinant: variance,
            factor: Mat::from_rows([[deviation]]),
            inverse_factor: Mat::from_rows([[1.0 / deviation]]),
        }
    }
}

/// k = 2 at critical damping, M⁻¹ = δ² with δ = (ν − Γ)/2: PSLD and CLD.
///
/// The published kernel (2303.01748, appendix; CLD: 2112.07068, appendix) is the stationary form written out,
/// and cancels like it. Its terms collected by powers of B = b, with c = (Γ + ν)/2, r₃(u) = e^u − 1 − u − u²/2
/// and N the noise part divided by e^{−cB}, do not:
/// Nxx = ΓB + ½ΓνB² + r₃(cB), Nmm = M (νB + ½ΓνB² + r₃(cB)), Nxm = ½δB².
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Critical {
    gamma: f64,
    nu: f64,
    delta: f64,
    /// κM, the momentum's variance at t = 0.
    initial: f64,
    /// 1, or −1 for the process with −Q, which negates everything off the diagonal.
    orientation: f64,
}

/// e^{−u} r₃(u) = u³/6 − ... without cancellation.
fn scaled_r3(u: f64) -> f64 {
    if u.abs() < 0.7 {
        // Horner's scheme; 0.7^18 · 3! / 21! is below the last bit.
        let tail = (4..21).rev().fold(1.0, |tail, n| 1.0 + tail * u / f64::from(n));
        libm::exp(-u) * tail * u * u * u / 6.0
    } else {
        1.0 - libm::exp(-u) * (1.0 + u + 0.5 * u * u)
    }
}

impl Critical {
    pub fn new(gamma: f64, nu: f64, kappa: f64) -> Self {
        let delta = (nu - gamma) / 2.0;
        Self { gamma, nu, delta, initial: kappa / (delta * delta), orientation: 1.0 }
    }

    /// The same process with −Q in place of Q.
    pub fn reversed(&self) -> Self {
        Self { orientation: -self.orientation, ..*self }
    }

    fn mass_inverse(&self) -> f64 {
        self.delta * self.delta
    }

    /// c = (Γ + ν)/2.
    fn damping(&self) -> f64 {
        (self.gamma + self.nu) / 2.0
    }

    /// ½ [[−Γ, M⁻¹], [−1, −ν]] (2303.01748).
    pub fn drift(&self) -> Mat {
        let half_turn = 0.5 * self.orientation;
        Mat::from_rows([
            [0.0 - 0.5 * self.gamma, half_turn * self.mass_inverse()],
            [-half_turn, 0.0 - 0.5 * self.nu],
        ])
    }

    pub fn transition(&self, b: f64) -> Mat {
        let e = libm::exp(-0.5 * self.damping() * b);
        let (h, turn) = (0.5 * b, self.orientation);
        Mat::from_rows([
            [e * (1.0 + self.delta * h), e * turn * self.mass_inverse() * h],
            [e * -turn * h, e * (1.0 - self.delta * h)],
        ])
    }

    /// (Σxx, Σxm, Σmm) of the noise part.
    fn noise_parts(&self, b: f64) -> (f64, f64, f64) {
        let u = self.damping() * b;
        let (e, r3) = (libm::exp(-u), scaled_r3(u));
        let shared = 0.5 * self.gamma * self.nu * b * b * e;
        let xx = self.gamma * b * e + shared + r3;
        let mm = (self.nu * b * e + shared + r3) / self.mass_inverse();
        (xx, self.orientation * 0.5 * self.delta * b * b * e, mm)
    }

    pub fn noise(&self, b: f64) -> Mat {
        let (xx, xm, mm) = self.noise_parts(b);
        Mat::from_rows([[xx, xm], [xm, mm]])
    }

    pub fn kernel(&self, b: f64, initial: bool, eps: f64, decomposition: Decomposition) -> Kernel {
        let (nxx, nxm, nmm) = self.noise_parts(b);
        // The column of Φ that carries the momentum's initial variance v; the determinant's part in v is a
        // quadratic form with adj(N), so that the two parts, each without cancellation, never mix.
        let v = if initial { self.initial } else { 0.0 };
        let phi = self.transition(b);
        let (p1, p2) = (phi[(0, 1)], phi[(1, 1)]);
        let (xx, xm, mm) = (nxx + v * p1 * p1, nxm + v * p1 * p2, nmm + v * p2 * p2);
        let det = nxx * nmm - nxm * nxm + v * (p2 * p2 * nxx - 2.0 * p1 * p2 * nxm + p1 * p1 * nmm);

        let determinant = det + eps * (xx + mm) + eps * eps;
        let (xx, mm) = (xx + eps, mm + eps);
        // Either factor takes its second pivot from the determinant: mm − xm²/xx would cancel.
        let (factor, inverse_factor) = match decomposition {
            Decomposition::Lower => {
                let (l11, l22) = (libm::sqrt(xx), libm::sqrt(determinant / xx));
                let l21 = xm / l11;
                ([[l11, 0.0], [l21, l22]], [[1.0 / l11, 0.0], [0.0 - l21 / l11 / l22, 1.0 / l22]])
            }
            Decomposition::Upper => {
                let (u22, u11) = (libm::sqrt(mm), libm::sqrt(determinant / mm));
                let u12 = xm / u22;
                ([[u11, u12], [0.0, u22]], [[1.0 / u11, 0.0 - u12 / u11 / u22], [0.0, 1.0 / u22]])
            }
        };
        Kernel {
            covariance: Mat::from_rows([[xx, xm], [xm, mm]]),
            determinant,
            factor: Mat::from_rows(factor),
            inverse_factor: Mat::from_rows(inverse_factor),
        }
    }
}
