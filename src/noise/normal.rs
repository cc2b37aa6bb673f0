//! Words to normals: the Box-Muller transform in plain IEEE arithmetic.
//!
//! Only `+ - * /`, square roots and bit operations in a fixed order. IEEE 754 defines each of them exactly, so
//! that every platform gives the same bits; and nothing branches, so that a loop over it vectorises. The
//! polynomials are Taylor's, with each coefficient rounded to f64, by Horner's rule.

use std::f64::consts::{FRAC_1_SQRT_2, LN_2, TAU};

/// Two independent normals from two independent uniform words, to within 1e-12.
///
/// With u = (word + 1/2) 2^-32: r = sqrt(-2 ln u_0), then r cos(2 pi u_1) and r sin(2 pi u_1).
#[inline(always)]
pub(super) fn box_muller(word: [u32; 2]) -> [f64; 2] {
    let r = minus_two_ln(uniform(word[0])).sqrt();
    // The first bit of u_1 is half a turn, which is a sign; what is left is less than half a turn, and counted
    // from its middle less than a quarter to either side: cos(x + pi/2) = -sin x and sin(x + pi/2) = cos x.
    let half_turn = u64::from(word[1] >> 31) << 63;
    let x = TAU * (uniform(word[1] & 0x7FFF_FFFF) - 0.25);
    let r = f64::from_bits(r.to_bits() ^ half_turn);
    [-r * sin(x), r * cos(x)]
}

/// (word + 1/2) 2^-32, exact: 33 bits of the 53 are used, and it is never 0 or 1.
#[inline(always)]
fn uniform(word: u32) -> f64 {
    const ULP: f64 = 1.0 / (1u64 << 32) as f64;
    (f64::from(word) + 0.5) * ULP
}

/// -2 ln u for normal u in 2^-64..1, to within 1e-13 of its value.
#[inline(always)]
fn minus_two_ln(u: f64) -> f64 {
    // u = 2^e m with m in [sqrt(1/2), sqrt(2)), so that e = 0 where u is close to 1 and nothing cancels.
    const BIAS: u64 = 64;
    let shifted = u.to_bits() - (FRAC_1_SQRT_2.to_bits() - (BIAS << 52));
    let e = f64::from((shifted >> 52) as u32) - BIAS as f64;
    let m = f64::from_bits(u.to_bits() + (BIAS << 52) - (shifted >> 52 << 52));
    // ln m = 2 artanh s = 2 s (1 + s^2/3 + s^4/5 + ...) with |s| < 0.172.
    let s = (m - 1.0) / (m + 1.0);
    (-2.0 * LN_2) * e + (-4.0 * s) * horner(s * s, &ARTANH)
}

/// sin x for |x| < pi/2, to within 5e-14.
#[inline(always)]
fn sin(x: f64) -> f64 {
    x * horner(x * x, &SIN)
}

/// cos x for |x| < pi/2, to within 5e-15.
#[inline(always)]
fn cos(x: f64) -> f64 {
    horner(x * x, &COS)
}

/// c_0 + z (c_1 + z (c_2 + ...)).
#[inline(always)]
fn horner<const N: usize>(z: f64, c: &[f64; N]) -> f64 {
    let mut sum = c[N - 1];
    for i in (0..N - 1).rev() {
        sum = sum * z + c[i];
    }
    sum
}

/// 1, 1/3, 1/5, ...
const ARTANH: [f64; 8] = {
    let mut c = [0.0; 8];
    let mut i = 0;
    while i < c.len() {
        c[i] = 1.0 / (2 * i + 1) as f64;
        i += 1;
    }
    c
};
/// 1, -1/3!, 1/5!, ...
const SIN: [f64; 9] = alternating_inverse_factorials(1);
/// 1, -1/2!, 1/4!, ...
const COS: [f64; 10] = alternating_inverse_factorials(0);

/// (-1)^i / (2i + first)!, correctly rounded: factorials up to 22! are exact in f64.
const fn alternating_inverse_factorials<const N: usize>(first: usize) -> [f64; N] {
    let mut c = [0.0; N];
    let mut factorial = 1.0;
    let mut i = 0;
    while i < N {
        c[i] = 1.0 / factorial;
        let n = 2 * i + first;
        factorial *= -(((n + 1) * (n + 2)) as f64);
        i += 1;
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the pieces of the formulas meet, and words all over.
    fn words() -> impl Iterator<Item = u32> {
        let edges = [0, 1 << 30, 1 << 31, 3 << 30, (FRAC_1_SQRT_2 * 4294967296.0) as u32];
        let edges = edges.into_iter().chain((0..32).map(|bit| 1 << bit));
        let near = edges.flat_map(|edge: u32| (0..8).map(move |i| edge.wrapping_add(i).wrapping_sub(4)));
        near.chain((0..500).map(|i: u32| i.wrapping_mul(0x9E37_79B9)))
    }

    #[test]
    fn every_word_is_within_the_bound() {
        let worst = words()
            .flat_map(|a| words().map(move |b| [a, b]))
            .map(|[a, b]| {
                let u = [a, b].map(|word| (f64::from(word) + 0.5) / 4294967296.0);
                let (sin, cos) = (TAU * u[1]).sin_cos();
                let r = (-2.0 * u[0].ln()).sqrt();
                let [x, y] = box_muller([a, b]);
                assert!(x.is_finite() && y.is_finite(), "words {a:#x}, {b:#x}");
                (x - r * cos).abs().max((y - r * sin).abs())
            })
            .fold(0.0, f64::max);
        println!("largest error of a normal: {worst:e}");
        assert!(worst < 1e-12);
    }

    #[test]
    fn logarithm_is_relative_to_its_value() {
        for word in words() {
            let u = uniform(word);
            let expected = -2.0 * (u - 1.0).ln_1p();
            assert!((minus_two_ln(u) / expected - 1.0).abs() < 1e-13, "word {word:#x}");
        }
    }
}
