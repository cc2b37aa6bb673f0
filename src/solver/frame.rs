//! The factor R of gDDIM (arXiv 2206.05564): the coordinates in which a point's noise stands still.
//!
//! Along the probability flow of data at a point, z = a x_0 + R e with a constant e where R R^T = Sigma and
//! dR/dt = F R + 1/2 G G^T R^-T. Such an R is the triangular factor L times a rotation O, dO/dt = W O with W
//! skew-symmetric: because L^-1 dL/dt stays triangular, W is given by the other triangle of
//! L^-1 F L + 1/2 L^-1 G G^T L^-T. A network trained in L therefore drives a solver in R at no cost.
//!
//! Sigma is the covariance of z given x_0 alone, whatever the network was trained with: under denoising score matching
//! too, that is what makes a step exact for a point.

use super::quadrature;
use crate::process::{Decomposition, Mat, Process};

/// Nodes of one panel, over which time at most halves: enough for 1e-12 where the integrand goes like t^-1/2.
const POINTS: usize = 10;

/// The factor at one time.
#[derive(Clone, Copy)]
pub(super) struct Factor {
    pub r: Mat,
    pub inverse: Mat,
}

/// A node of a step's quadrature.
pub(super) struct Node {
    pub s: f64,
    weight: f64,
    pub at: Factor,
}

/// A step from t to u, in either direction, with the factor at its ends and at the nodes of a quadrature between them.
pub(super) struct Step {
    pub t: f64,
    pub u: f64,
    pub from: Factor,
    pub to: Factor,
    /// Panels one after the other, from t to u, [`POINTS`] nodes each.
    nodes: Vec<Node>,
    /// Half of each panel's length; negative where time decreases.
    halves: Vec<f64>,
}

/// The factor along a grid, walked step by step.
pub(super) struct Frame<'a> {
    process: &'a Process,
    /// Whether the factor turns, or is the triangular one itself.
    turns: bool,
    /// O at the time that has been reached.
    rotation: Mat,
    rule: [(f64, f64); POINTS],
    cumulative: [[f64; POINTS]; POINTS],
}

/// The most that the frame may turn within one panel, in radians.
const TURN: f64 = 1.5;

impl<'a> Frame<'a> {
    /// R, which turns; its constant rotation is the one that makes it triangular at the first time.
    pub fn rotating(process: &'a Process) -> Self {
        Self::new(process, process.k() > 1)
    }

    /// The triangular factor.
    pub fn triangular(process: &'a Process) -> Self {
        Self::new(process, false)
    }

    fn new(process: &'a Process, turns: bool) -> Self {
        let rule = quadrature::rule();
        let cumulative = quadrature::cumulative(&rule);
        Self { process, turns, rotation: Mat::identity(process.k()), rule, cumulative }
    }

    /// The next step, from the time that has been reached to u.
    pub fn step(&mut self, t: f64, u: f64) -> Step {
        let process = self.process;
        let least = if self.turns {
            let speed = |s: f64| s * self.spin(s, process.data_factor(s)).max_abs();
            let turn = f64::max(speed(t), speed(u)) * libm::log(t / u).abs();
            libm::ceil(turn / TURN).clamp(1.0, 4096.0) as usize
        } else {
            1
        };
        let from = self.factor(process.data_factor(t), &self.rotation);
        let mut edges = quadrature::edges(t.min(u), t.max(u), least);
        if u < t {
            edges.reverse();
        }
        let mut nodes = Vec::with_capacity(POINTS * (edges.len() - 1));
        let mut halves = Vec::with_capacity(edges.len() - 1);
        for pair in edges.windows(2) {
            let (middle, half) = (0.5 * (pair[0] + pair[1]), 0.5 * (pair[1] - pair[0]));
            let times = self.rule.map(|(x, _)| middle + half * x);
            let factors = times.map(|s| process.data_factor(s));
            let rotations = if self.turns {
                let spins = std::array::from_fn(|i| self.spin(times[i], factors[i]));
                let (rotations, end) = self.propagate(half, &spins, self.rotation);
                self.rotation = end;
                rotations
            } else {
                [self.rotation; POINTS]
            };
            for (i, s) in times.into_iter().enumerate() {
                let at = self.factor(factors[i], &rotations[i]);
                nodes.push(Node { s, weight: half * self.rule[i].1, at });
            }
            halves.push(half);
        }
        let to = self.factor(process.data_factor(u), &self.rotation);
        Step { t, u, from, to, nodes, halves }
    }

    fn factor(&self, (l, inverse): (Mat, Mat), rotation: &Mat) -> Factor {
        Factor { r: l * *rotation, inverse: rotation.transpose() * inverse }
    }

    /// W, from the triangle in which L has zeros.
    fn spin(&self, s: f64, (l, inverse): (Mat, Mat)) -> Mat {
        let process = self.process;
        let free = inverse * (process.drift(s) * l + process.diffusion(s) * (inverse.transpose() * 0.5));
        let lower = process.decomposition() == Decomposition::Lower;
        Mat::from_fn(l.rows(), l.rows(), |i, j| match (i < j) == lower {
            _ if i == j => 0.0,
            true => free[(i, j)],
            false => 0.0 - free[(j, i)],
        })
    }

    /// Solves dY/ds = A Y over one panel, with A at its nodes: Y at the nodes and at the end.
    ///
    /// Collocation at the nodes, solved by Picard's iteration, which converges like |A|^m / m!.
    fn propagate(&self, half: f64, a: &[Mat; POINTS], start: Mat) -> ([Mat; POINTS], Mat) {
        let mut y = [start; POINTS];
        for _ in 0..60 {
            let slopes: [Mat; POINTS] = std::array::from_fn(|j| a[j] * y[j] * half);
            let mut change = 0.0_f64;
            y = std::array::from_fn(|i| {
                let new = (0..POINTS).fold(start, |sum, j| sum + slopes[j] * self.cumulative[i][j]);
                change = change.max((new - y[i]).max_abs());
                new
            });
            if change <= 1e-16 * start.max_abs() {
                break;
            }
        }
        let end = (0..POINTS).fold(start, |sum, j| sum + a[j] * y[j] * (half * self.rule[j].1));
        (y, end)
    }

    /// The transition of dY/ds = A(s) Y over a whole step.
    pub fn transition(&self, step: &Step, a: impl Fn(&Node) -> Mat) -> Mat {
        let start = Mat::identity(self.process.k());
        step.nodes.chunks(POINTS).zip(&step.halves).fold(start, |y, (nodes, half)| {
            let generators = std::array::from_fn(|i| a(&nodes[i]));
            self.propagate(*half, &generators, y).1
        })
    }
}

impl Step {
    /// The integrals from t to u of `kernel` times each of the weights that `share` gives at a time.
    fn integrals(
        &self,
        count: usize,
        kernel: impl Fn(&Node) -> Mat,
        share: impl Fn(f64, usize) -> f64,
    ) -> Vec<Mat> {
        let mut sums: Vec<Option<Mat>> = vec![None; count];
        for node in &self.nodes {
            let value = kernel(node) * node.weight;
            for (j, sum) in sums.iter_mut().enumerate() {
                let term = value * share(node.s, j);
                *sum = Some(sum.map_or(term, |sum| sum + term));
            }
        }
        sums.into_iter().flatten().collect()
    }

    /// The weights of f(times[0]), f(times[1]), ... in the integral from t to u of `kernel` f, with f the polynomial in
    /// `variable` through these values.
    ///
    /// Where the integral of the kernel itself is known in closed form (`total`) the first weight completes it, so
    /// that whatever the quadrature's error is, constants are integrated exactly.
    pub fn weights(
        &self,
        times: &[f64],
        variable: impl Fn(f64) -> f64,
        kernel: impl Fn(&Node) -> Mat,
        total: Option<Mat>,
    ) -> Vec<Mat> {
        if let (1, Some(total)) = (times.len(), total) {
            return vec![total];
        }
        let at: Vec<f64> = times.iter().map(|t| variable(*t)).collect();
        let basis = |s: f64, j: usize| {
            let y = variable(s);
            let others = at.iter().enumerate().filter(|(i, _)| *i != j);
            others.map(|(_, other)| (y - other) / (at[j] - other)).product::<f64>()
        };
        match total {
            None => self.integrals(at.len(), kernel, basis),
            Some(total) => {
                let rest = self.integrals(at.len() - 1, kernel, |s, j| basis(s, j + 1));
                let first = rest.iter().fold(total, |first, weight| first - *weight);
                [first].into_iter().chain(rest).collect()
            }
        }
    }
}
