//! Exact moments of a plan on Gaussian data, without random numbers and without the library's executor.
//!
//! For data N(mu, v) the exact network is affine in the state, so every state and slot of a plan is an affine
//! function of the initial state and of the noise draws. The kernels come from the stationary shortcut
//! Sigma = S - Phi (S - Sigma_0) Phi^T with an exponential of our own (docs/methods.md, "Processes"), not from the closed
//! forms of the library; at the times used here it loses a few digits of sixteen.

use psld::ModelSpec;
use psld::noise::Purpose;
use psld::plan::{Plan, Row};
use psld::process::{Decomposition, Mat, ScoreMatching};
use psld::spec::{Prediction, Predicts, ProcessKind};

/// Mean (k x 1) and covariance (k x k).
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    pub mean: Mat,
    pub covariance: Mat,
}

impl Moments {
    /// max |difference| over means and covariances: the weak error.
    pub fn distance(&self, other: &Self) -> f64 {
        let distance = (self.mean - other.mean).max_abs().max((self.covariance - other.covariance).max_abs());
        assert!(distance.is_finite(), "{self:?}\n{other:?}");
        distance
    }
}

/// A process and one-dimensional data N(mean, variance) on it.
pub struct Gaussian {
    spec: ModelSpec,
    mean: f64,
    variance: f64,
    /// Drift per unit of b, S, Sigma_0 given x_0.
    drift: Mat,
    stationary: Mat,
    initial: Mat,
}

impl Gaussian {
    pub fn new(spec: &ModelSpec, mean: f64, variance: f64) -> Self {
        let p = &spec.process;
        let (d, q, stationary, kappa) = match p.kind {
            ProcessKind::Vp => (Mat::diagonal(&[0.5]), Mat::zeros(1, 1), Mat::identity(1), 0.0),
            ProcessKind::Cld | ProcessKind::Psld => {
                let cld = p.kind == ProcessKind::Cld;
                let gamma = if cld { 0.0 } else { p.gamma.unwrap_or(0.01) };
                let nu = p.nu.unwrap_or(if cld { 4.0 } else { 4.01 });
                let mass = 4.0 / (gamma - nu).powi(2);
                let d = Mat::diagonal(&[0.5 * gamma, 0.5 * mass * nu]);
                let q = Mat::from_rows([[0.0, -0.5], [0.5, 0.0]]);
                (d, q, Mat::diagonal(&[1.0, mass]), p.kappa.unwrap_or(0.04))
            }
            ProcessKind::Recipe => (p.d.unwrap(), p.q.unwrap(), p.s.unwrap(), p.kappa.unwrap_or(0.04)),
            kind => panic!("{kind:?} is no recipe"),
        };
        let mut initial = stationary * kappa;
        for i in 0..initial.rows() {
            (initial[(0, i)], initial[(i, 0)]) = (0.0, 0.0);
        }
        let drift = -(d + q) * stationary.inverse().unwrap();
        Self { spec: spec.clone(), mean, variance, drift, stationary, initial }
    }

    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn beta(&self) -> (f64, f64) {
        let p = &self.spec.process;
        let (low, high) = match p.kind {
            ProcessKind::Vp => (0.1, 20.0),
            ProcessKind::Recipe => (1.0, 1.0),
            _ => (8.0, 8.0),
        };
        (p.beta_min.unwrap_or(low), p.beta_max.unwrap_or(high))
    }

    /// F(t).
    pub fn drift(&self, t: f64) -> Mat {
        let (low, high) = self.beta();
        self.drift * (low + (high - low) * t)
    }

    /// G(t) G(t)^T = -(F S + S F^T), which makes S stationary.
    pub fn diffusion(&self, t: f64) -> Mat {
        let flow = self.drift(t) * self.stationary;
        -(flow + flow.transpose())
    }

    fn transition(&self, t: f64) -> Mat {
        let (low, high) = self.beta();
        exp(self.drift * (low * t + 0.5 * (high - low) * t * t))
    }

    /// S - Phi (S - initial) Phi^T + eps.
    fn covariance_from(&self, t: f64, initial: Mat) -> Mat {
        let phi = self.transition(t);
        let k = phi.rows();
        let eps = self.spec.process.numerical_eps.unwrap_or(if k == 2 { 1e-9 } else { 0.0 });
        self.stationary - phi * (self.stationary - initial) * phi.transpose() + Mat::identity(k) * eps
    }

    /// The law of z_t.
    pub fn marginal(&self, t: f64) -> Moments {
        let mut initial = self.initial;
        initial[(0, 0)] = self.variance;
        Moments {
            mean: self.transition(t).column(0) * self.mean,
            covariance: self.covariance_from(t, initial),
        }
    }

    /// The exact score, P z + c.
    pub fn score(&self, t: f64) -> (Mat, Mat) {
        let Moments { mean, covariance } = self.marginal(t);
        let precision = covariance.inverse().unwrap();
        (-precision, precision * mean)
    }

    /// What the network of the spec gives at time t: P z + c.
    pub fn output(&self, t: f64) -> (Mat, Mat) {
        let k = self.drift.rows();
        let (score, offset) = self.score(t);
        let p = &self.spec.process;
        let initial = match p.score_matching.unwrap_or(ScoreMatching::Hsm) {
            ScoreMatching::Hsm => self.initial,
            ScoreMatching::Dsm => Mat::zeros(k, k),
        };
        let sigma = self.covariance_from(t, initial);
        let factor = match p.decomposition.unwrap_or(Decomposition::Lower) {
            Decomposition::Lower => sigma.cholesky_lower().unwrap(),
            Decomposition::Upper => sigma.cholesky_upper().unwrap(),
        };
        let to_eps = -factor.transpose();
        // E[x_0 | z] = mu + v a^T V^-1 (z - a mu) = mu - v a^T score.
        let gain = self.transition(t).column(0).transpose() * -self.variance;
        let (x0, x0_offset) = (gain * score, gain * offset + Mat::diagonal(&[self.mean]));
        let whole = match self.spec.network.prediction {
            Prediction::Epsilon => (to_eps * score, to_eps * offset),
            Prediction::Score => (score, offset),
            Prediction::X0 => return (x0, x0_offset),
            Prediction::V => {
                let (alpha, sigma) = (self.transition(t)[(0, 0)], factor[(0, 0)]);
                let on_z = to_eps * score * alpha - x0 * sigma;
                return (on_z, to_eps * offset * alpha - x0_offset * sigma);
            }
            other => panic!("{other:?} is read in tests/paths.rs"),
        };
        match self.spec.network.predicts {
            Some(Predicts::Momentum) => (whole.0.row(k - 1), whole.1.row(k - 1)),
            Some(Predicts::Position) => (whole.0.row(0), whole.1.row(0)),
            _ => whole,
        }
    }

    /// The data estimate E[x_0 | z], P z + c.
    pub fn x0(&self, t: f64) -> (Mat, Mat) {
        let (score, offset) = self.score(t);
        let gain = self.transition(t).column(0).transpose() * -self.variance;
        (gain * score, gain * offset + Mat::diagonal(&[self.mean]))
    }

    /// The plan's result as an affine function of initial state and noise.
    pub fn interpret(&self, plan: &Plan) -> Affine {
        plan_as_affine(plan, &|t| self.output(t))
    }

    /// The moments of the plan's result from `start`.
    pub fn propagate(&self, plan: &Plan, start: &Moments) -> Moments {
        self.interpret(plan).moments(start)
    }
}

/// offset + sum of gain times (initial state, noise draws in the order in which the plan first uses them).
#[derive(Clone, Debug)]
pub struct Affine {
    pub offset: Vec<f64>,
    /// For each block, the weights of k initial numbers and of k numbers for each draw.
    pub gain: Vec<Vec<f64>>,
}

impl Affine {
    fn zeros(blocks: usize) -> Self {
        Self { offset: vec![0.0; blocks], gain: vec![Vec::new(); blocks] }
    }

    /// self += m x
    fn add(&mut self, m: &Mat, x: &Self) {
        for i in 0..m.rows() {
            for j in 0..m.cols() {
                let c = m[(i, j)];
                self.offset[i] += c * x.offset[j];
                if self.gain[i].len() < x.gain[j].len() {
                    self.gain[i].resize(x.gain[j].len(), 0.0);
                }
                self.gain[i].iter_mut().zip(&x.gain[j]).for_each(|(sum, x)| *sum += c * x);
            }
        }
    }

    fn add_offset(&mut self, c: &Mat) {
        (0..c.rows()).for_each(|i| self.offset[i] += c[(i, 0)]);
    }

    /// For an initial state of these moments and independent standard normal noise.
    fn moments(&self, start: &Moments) -> Moments {
        let k = self.offset.len();
        let first = Mat::from_fn(k, k, |i, j| self.gain[i][j]);
        let noise = Mat::from_fn(k, k, |i, j| {
            self.gain[i][k..].iter().zip(&self.gain[j][k..]).map(|(a, b)| a * b).sum()
        });
        Moments {
            mean: first * start.mean + Mat::from_fn(k, 1, |i, _| self.offset[i]),
            covariance: first * start.covariance * first.transpose() + noise,
        }
    }

    /// The result for given numbers: k of the initial state, then k for each draw.
    pub fn at(&self, numbers: &[f64]) -> Vec<f64> {
        let weigh = |gain: &Vec<f64>| gain.iter().zip(numbers).map(|(g, x)| g * x).sum::<f64>();
        self.gain.iter().zip(&self.offset).map(|(gain, offset)| offset + weigh(gain)).collect()
    }
}

fn plan_as_affine(plan: &Plan, network: &dyn Fn(f64) -> (Mat, Mat)) -> Affine {
    let k = plan.k;
    let unit = |column: usize| Affine {
        offset: vec![0.0; k],
        gain: (0..k).map(|i| (0..column + k).map(|j| f64::from(j == column + i)).collect()).collect(),
    };
    let mut states = vec![Affine::zeros(k); plan.states];
    let mut slots = vec![Affine::zeros(plan.output_blocks); plan.slots];
    states[0] = unit(0);
    let mut draws: Vec<(Purpose, u32)> = Vec::new();
    for row in &plan.rows {
        match row {
            Row::Eval(row) => {
                let (p, c) = network(row.t);
                let mut out = Affine::zeros(plan.output_blocks);
                out.add(&p, &states[row.from]);
                out.add_offset(&c);
                slots[row.slot] = out;
            }
            Row::Update(row) => {
                let mut out = Affine::zeros(k);
                out.add(&row.a, &states[row.from]);
                for (state, a) in &row.states {
                    out.add(a, &states[*state]);
                }
                for (slot, b) in &row.terms {
                    out.add(b, &slots[*slot]);
                }
                for (purpose, draw, c) in &row.noise {
                    let known = draws.iter().rposition(|d| *d == (*purpose, *draw));
                    let index = known.unwrap_or_else(|| {
                        draws.push((*purpose, *draw));
                        draws.len() - 1
                    });
                    // Only the draw's own columns: the rest of the unit vectors is zero.
                    let first = k * (1 + index);
                    for i in 0..k {
                        let length = out.gain[i].len().max(first + k);
                        out.gain[i].resize(length, 0.0);
                        (0..k).for_each(|j| out.gain[i][first + j] += c[(i, j)]);
                    }
                }
                states[row.into] = out;
            }
            Row::Map(_) => panic!("maps are not affine in the state"),
        }
    }
    states.swap_remove(0)
}

/// The matrix exponential: (Taylor of m / 1024)^1024.
fn exp(m: Mat) -> Mat {
    let x = m * (1.0 / 1024.0);
    let (mut sum, mut term) = (Mat::identity(m.rows()), Mat::identity(m.rows()));
    for n in 1..16 {
        term = term * x * (1.0 / f64::from(n));
        sum = sum + term;
    }
    (0..10).fold(sum, |e, _| e * e)
}
