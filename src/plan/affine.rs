//! Affine expressions in a state, slots and noise: what solvers do their algebra with.

use super::{Row, Update};
use crate::noise::Purpose;
use crate::process::Mat;
use std::ops::{Add, Mul};

/// A state + sum of B slot + sum of C noise.
#[derive(Clone, Debug)]
pub(crate) struct Affine {
    from: usize,
    a: Mat,
    terms: Vec<(usize, Mat)>,
    noise: Vec<(Purpose, u32, Mat)>,
}

impl Affine {
    /// The state that the expression reads.
    pub fn from(&self) -> usize {
        self.from
    }

    pub fn state(from: usize, k: usize) -> Self {
        Self { from, a: Mat::identity(k), terms: Vec::new(), noise: Vec::new() }
    }

    /// B slot, with a zero coefficient on the state `from`.
    pub fn slot(from: usize, slot: usize, b: Mat) -> Self {
        Self { from, a: Mat::zeros(b.rows(), b.rows()), terms: vec![(slot, b)], noise: Vec::new() }
    }

    pub fn noise(from: usize, purpose: Purpose, draw: u32, c: Mat) -> Self {
        Self { from, a: Mat::zeros(c.rows(), c.rows()), terms: Vec::new(), noise: vec![(purpose, draw, c)] }
    }

    /// The update that writes this expression into a state.
    pub fn into_update(self, step: usize, into: usize) -> Update {
        // Zero coefficients arise by algebra (position noise of CLD, say) and must not cost a pass.
        let terms = self.terms.into_iter().filter(|(_, b)| b.max_abs() > 0.0).collect();
        let noise = self.noise.into_iter().filter(|(_, _, c)| c.max_abs() > 0.0).collect();
        Update { step, from: self.from, a: self.a, terms, noise, into }
    }
}

impl Mul<Affine> for Mat {
    type Output = Affine;
    fn mul(self, x: Affine) -> Affine {
        Affine {
            from: x.from,
            a: self * x.a,
            terms: x.terms.into_iter().map(|(slot, b)| (slot, self * b)).collect(),
            noise: x.noise.into_iter().map(|(purpose, draw, c)| (purpose, draw, self * c)).collect(),
        }
    }
}

impl Mul<Affine> for f64 {
    type Output = Affine;
    fn mul(self, x: Affine) -> Affine {
        Mat::identity(x.a.rows()) * self * x
    }
}

impl Add for Affine {
    type Output = Affine;
    fn add(mut self, other: Affine) -> Affine {
        debug_assert_eq!(self.from, other.from, "expressions in different states do not add");
        self.a = self.a + other.a;
        for (slot, b) in other.terms {
            match self.terms.iter_mut().find(|(s, _)| *s == slot) {
                Some((_, sum)) => *sum = *sum + b,
                None => self.terms.push((slot, b)),
            }
        }
        self.noise.extend(other.noise);
        self
    }
}

/// Appends an update, composed with the last row where that row's result is only passed through it: one pass
/// over the state instead of two, with both noise entries kept.
pub(crate) fn push(rows: &mut Vec<Row>, next: Update) {
    if let Some(Row::Update(last)) = rows.last_mut()
        && next.from == last.into
        && next.into == last.into
    {
        *last = compose(last, next);
        return;
    }
    rows.push(Row::Update(next));
}

/// The update that does `first` and then `second` (which reads and overwrites what `first` wrote).
fn compose(first: &Update, second: Update) -> Update {
    let mapped = second.a
        * Affine { from: first.from, a: first.a, terms: first.terms.clone(), noise: first.noise.clone() };
    let added = Affine {
        from: first.from,
        a: Mat::zeros(second.a.rows(), second.a.rows()),
        terms: second.terms,
        noise: second.noise,
    };
    (mapped + added).into_update(first.step, second.into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(from: usize, into: usize, scale: f64, draw: u32) -> Update {
        let m = Mat::from_rows([[scale, 0.5], [-0.25, 1.0]]);
        Update {
            step: 0,
            from,
            a: m,
            terms: vec![(0, m * 0.1)],
            noise: vec![(Purpose::Solver, draw, m * 0.2)],
            into,
        }
    }

    #[test]
    fn adjacent_updates_compose_and_keep_both_draws() {
        let (first, second) = (update(0, 1, 0.9, 0), update(1, 1, 0.8, 1));
        let mut rows = Vec::new();
        push(&mut rows, first.clone());
        push(&mut rows, second.clone());
        let [Row::Update(both)] = &rows[..] else { panic!("expected one row, got {rows:?}") };
        assert_eq!((both.from, both.into), (0, 1));
        assert_eq!(both.a, second.a * first.a);
        assert_eq!(both.terms, vec![(0, second.a * first.terms[0].1 + second.terms[0].1)]);
        let draws: Vec<_> = both.noise.iter().map(|(_, draw, _)| *draw).collect();
        assert_eq!(draws, [0, 1]);
    }

    #[test]
    fn a_result_that_is_read_again_is_not_composed_away() {
        let mut rows = Vec::new();
        push(&mut rows, update(0, 1, 0.9, 0));
        push(&mut rows, update(0, 0, 0.8, 1));
        push(&mut rows, update(1, 0, 0.8, 2));
        assert_eq!(rows.len(), 3);
    }
}
