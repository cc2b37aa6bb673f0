//! Double-double arithmetic: an unevaluated sum of two f64, about 31 decimal digits.
//!
//! Only [`super::linear`] uses it. A kernel's small pivots are differences of nearly equal numbers
//! (third order at t = 1e-7: one part in 1e20), so plain f64 cannot reach the accuracy of this module,
//! and no closed form is known for a general recipe. The algorithms are the classical ones of Dekker
//! (Numer. Math. 18, 1971) and Knuth (TAOCP 2, 4.2.2), without fused multiply-add, so that every
//! platform computes the same bits. Operands stay far from the overflow of Dekker's split (1e300).

use std::ops::{Add, Div, Mul, Neg, Sub};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Dd {
    hi: f64,
    lo: f64,
}

/// a + b exactly (Knuth).
fn two_sum(a: f64, b: f64) -> Dd {
    let hi = a + b;
    let bb = hi - a;
    Dd { hi, lo: (a - (hi - bb)) + (b - bb) }
}

/// a + b exactly for |a| >= |b| (Dekker).
fn quick_two_sum(a: f64, b: f64) -> Dd {
    let hi = a + b;
    Dd { hi, lo: b - (hi - a) }
}

/// a * b exactly (Dekker, Veltkamp).
fn two_prod(a: f64, b: f64) -> Dd {
    let split = |x: f64| {
        let c = 134_217_729.0 * x; // 2^27 + 1
        let hi = c - (c - x);
        (hi, x - hi)
    };
    let hi = a * b;
    let ((ah, al), (bh, bl)) = (split(a), split(b));
    Dd { hi, lo: ((ah * bh - hi) + ah * bl + al * bh) + al * bl }
}

impl Dd {
    pub const ZERO: Self = Self { hi: 0.0, lo: 0.0 };
    pub const ONE: Self = Self { hi: 1.0, lo: 0.0 };

    /// The nearest f64.
    pub fn round(self) -> f64 {
        self.hi
    }

    /// The square root; zero for a value that is zero or, by rounding, below it.
    pub fn sqrt(self) -> Self {
        if self.hi <= 0.0 {
            return Self::ZERO;
        }
        // One Newton step from the f64 root doubles its digits.
        let root = libm::sqrt(self.hi);
        quick_two_sum(root, (self - two_prod(root, root)).hi / (2.0 * root))
    }
}

impl From<f64> for Dd {
    fn from(hi: f64) -> Self {
        Self { hi, lo: 0.0 }
    }
}

impl Add for Dd {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let (s, t) = (two_sum(self.hi, other.hi), two_sum(self.lo, other.lo));
        let s = quick_two_sum(s.hi, s.lo + t.hi);
        quick_two_sum(s.hi, s.lo + t.lo)
    }
}

impl Neg for Dd {
    type Output = Self;
    fn neg(self) -> Self {
        Self { hi: -self.hi, lo: -self.lo }
    }
}

impl Sub for Dd {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Mul for Dd {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let p = two_prod(self.hi, other.hi);
        quick_two_sum(p.hi, p.lo + (self.hi * other.lo + self.lo * other.hi))
    }
}

impl Div for Dd {
    type Output = Self;
    fn div(self, other: Self) -> Self {
        // Long division, one f64 digit at a time.
        let q1 = self.hi / other.hi;
        let r = self - other * q1.into();
        let q2 = r.hi / other.hi;
        let r = r - other * q2.into();
        quick_two_sum(q1, q2) + (r.hi / other.hi).into()
    }
}

#[cfg(test)]
mod tests {
    use super::Dd;

    #[test]
    fn keeps_thirty_digits() {
        let third = Dd::ONE / 3.0.into();
        assert!((third * 3.0.into() - Dd::ONE).round().abs() < 1e-31);
        let two = Dd::from(2.0);
        assert!((two.sqrt() * two.sqrt() - two).round().abs() < 1e-31);
        let tiny = Dd::from(1e-25);
        assert!(((Dd::ONE + tiny) - Dd::ONE - tiny).round().abs() < 1e-31);
    }
}
