//! Affine expressions in a state, slots and noise: what solvers do their algebra with.

use super::{Row, Update};
use crate::noise::Purpose;
use crate::process::Mat;
use std::ops::{Add, Mul};

/// Sum of A state + sum of B slot + sum of C noise.
#[derive(Clone, Debug)]
pub(crate) struct Affine {
    states: Vec<(usize, Mat)>,
    terms: Vec<(usize, Mat)>,
    noise: Vec<(Purpose, u32, Mat)>,
}

impl Affine {
    /// A whole state.
    pub fn state(state: usize, k: usize) -> Self {
        Self { states: vec![(state, Mat::identity(k))], terms: Vec::new(), noise: Vec::new() }
    }

    /// B slot.
    pub fn slot(slot: usize, b: Mat) -> Self {
        Self { states: Vec::new(), terms: vec![(slot, b)], noise: Vec::new() }
    }

    /// C xi.
    pub fn noise(purpose: Purpose, draw: u32, c: Mat) -> Self {
        Self { states: Vec::new(), terms: Vec::new(), noise: vec![(purpose, draw, c)] }
    }

    /// The number of rows of its value, in blocks.
    pub fn rows(&self) -> usize {
        let of = self.states.iter().chain(&self.terms).map(|(_, m)| m).chain(self.noise.iter().map(|n| &n.2));
        of.map(Mat::rows).next().unwrap_or(1)
    }

    /// Whether the expression keeps its value when states change.
    pub fn reads_no_state(&self) -> bool {
        self.states.iter().all(|(_, a)| a.max_abs() == 0.0)
    }

    /// The update that writes this expression into a state.
    pub fn into_update(self, step: usize, into: usize) -> Update {
        // Zero coefficients arise by algebra (position noise of CLD, say) and must not cost a pass.
        let rows = self.rows();
        let terms: Vec<_> = self.terms.into_iter().filter(|(_, b)| b.max_abs() > 0.0).collect();
        let noise: Vec<_> = self.noise.into_iter().filter(|(_, _, c)| c.max_abs() > 0.0).collect();
        let mut states = self.states;
        if !states.iter().all(|(_, a)| a.max_abs() == 0.0) {
            states.retain(|(_, a)| a.max_abs() > 0.0);
        }
        // The state that is written comes first where it is read as well: a row updates it in place.
        let first = states.iter().position(|(state, _)| *state == into).unwrap_or(0);
        let (from, a) = match states.is_empty() {
            true => (0, Mat::zeros(rows, rows)),
            false => states.remove(first),
        };
        states.retain(|(_, a)| a.max_abs() > 0.0);
        Update { step, from, a, states, terms, noise, into }
    }
}

impl Mul<Affine> for Mat {
    type Output = Affine;
    fn mul(self, x: Affine) -> Affine {
        Affine {
            states: x.states.into_iter().map(|(state, a)| (state, self * a)).collect(),
            terms: x.terms.into_iter().map(|(slot, b)| (slot, self * b)).collect(),
            noise: x.noise.into_iter().map(|(purpose, draw, c)| (purpose, draw, self * c)).collect(),
        }
    }
}

impl Mul<Affine> for f64 {
    type Output = Affine;
    fn mul(self, mut x: Affine) -> Affine {
        x.states.iter_mut().chain(&mut x.terms).for_each(|(_, m)| *m = *m * self);
        x.noise.iter_mut().for_each(|(_, _, c)| *c = *c * self);
        x
    }
}

impl Add for Affine {
    type Output = Affine;
    fn add(mut self, other: Affine) -> Affine {
        merge(&mut self.states, other.states);
        merge(&mut self.terms, other.terms);
        self.noise.extend(other.noise);
        self
    }
}

/// Adds what is read from the same place.
fn merge(sums: &mut Vec<(usize, Mat)>, others: Vec<(usize, Mat)>) {
    for (place, m) in others {
        match sums.iter_mut().find(|(p, _)| *p == place) {
            Some((_, sum)) => *sum = *sum + m,
            None => sums.push((place, m)),
        }
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
    let mut states = vec![(first.from, first.a)];
    merge(&mut states, first.states.clone());
    let mapped = second.a * Affine { states, terms: first.terms.clone(), noise: first.noise.clone() };
    let added = Affine { states: second.states, terms: second.terms, noise: second.noise };
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
            states: vec![],
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
