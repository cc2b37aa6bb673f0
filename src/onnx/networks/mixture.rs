//! The exact epsilon network of a Gaussian mixture.

use crate::onnx::{Dim, ElementType, Graph, Model, Tensor, Value};
use crate::spec::SPEC_KEY;
use crate::{Error, Result};

/// The forward process whose network is written. Time runs in [0, 1] and `beta` is linear in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Path {
    /// Variance preserving: the state is the position.
    Vp {
        /// beta(0).
        beta_min: f64,
        /// beta(1).
        beta_max: f64,
    },
    /// Phase-space Langevin at critical damping, hybrid score matching, lower factor; CLD is `gamma` 0.
    Psld {
        /// beta(0).
        beta_min: f64,
        /// beta(1).
        beta_max: f64,
        /// Friction of the position.
        gamma: f64,
        /// Friction of the momentum, larger than `gamma`: the inverse mass is (nu - gamma)^2 / 4.
        nu: f64,
        /// Variance of the momentum at t = 0, in units of the mass; below 2.
        kappa: f64,
    },
}

impl Path {
    /// Blocks of the state: 1 (position) or 2 (position, momentum).
    pub fn k(&self) -> usize {
        match self {
            Self::Vp { .. } => 1,
            Self::Psld { .. } => 2,
        }
    }
}

/// The means of a mixture's components, one after another, each of the data's shape.
#[derive(Clone, Debug, PartialEq)]
pub enum Means {
    /// Numbers.
    Values(Vec<f64>),
    /// Images of 8-bit pixels, stored as such (an eighth of the size) and spread over `range` in the graph:
    /// 0 is `range[0]`, 255 is `range[1]`.
    Pixels {
        /// The pixels.
        pixels: Vec<u8>,
        /// What black and white are in the data.
        range: [f64; 2],
    },
}

/// Which part of epsilon the network gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Every block of the state.
    All,
    /// The momentum block only, all that a sampler of CLD needs.
    Momentum,
}

/// A mixture of isotropic Gaussians, x_0 ~ sum_i w_i N(mu_i, c_i I), and the network that is exact for it.
///
/// [`network`](Self::network) writes eps(z, t) = -L(t)^T grad ln p_t(z), where L L^T is the covariance of the
/// perturbation kernel, including `numerical_eps`: what a trained network converges to, since it is trained
/// on states z = mean + L noise with that same L. It computes in float64 whatever its ports are.
///
/// The kernel enters through its mean a(t) x_0 (a is k numbers) and Sigma(t) only. Given a component, the
/// state depends on x_0 through the one vector u = a^T Sigma^-1 z, whose precision is h = a^T Sigma^-1 a, so
/// ```text
/// ln p(i | z) = ln w_i - D/2 ln(1 + c_i h)
///               + (u . mu_i + c_i |u|^2 / 2 - h |mu_i|^2 / 2) / (1 + c_i h) + const
/// E[x_0 | z]  = sum_i p(i | z) (mu_i + c_i u) / (1 + c_i h)
/// eps         = L^-1 (z - a E[x_0 | z])
/// ```
/// That is two matrix products whatever k is, and no difference of squares of nearby images.
///
/// Class-conditional with [`labels`](Self::labels): input `y [batch]` int64 leaves only the components of
/// that class, and the null class (equal to [`classes`](Self::classes)) leaves all. A label beyond that
/// leaves none, and the output is NaN: an error at run time, never a plausible picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    /// The forward process.
    pub path: Path,
    /// Added to the diagonal of the kernel's covariance.
    pub numerical_eps: f64,
    /// Shape of one data point, channels first.
    pub shape: Vec<usize>,
    /// Weight of each component; their sum does not matter.
    pub weights: Vec<f64>,
    /// Mean of each component.
    pub means: Means,
    /// Variance of each component, or one for all.
    pub variances: Vec<f64>,
    /// Class of each component; empty for an unconditional network.
    pub labels: Vec<usize>,
    /// Number of classes; 0 for an unconditional network.
    pub classes: usize,
    /// What the network gives.
    pub half: Half,
    /// Element type of `z`, `t` and `eps`: float32 or float16.
    pub ports: ElementType,
}

/// The kernel at the batch's times; each value is [batch, 1].
struct Kernel {
    /// a: what x_0 is multiplied with, by block.
    mean: Vec<Value>,
    /// L, the lower Cholesky factor, row by row without the zeros above the diagonal.
    factor: Vec<Value>,
    /// Sigma^-1 a, by block.
    dual: Vec<Value>,
    /// h = a^T Sigma^-1 a.
    precision: Value,
}

impl Mixture {
    /// The network, with `spec` as its `psld.spec`. The ports are `z [batch, k C, ...]`, `t [batch]`, with
    /// labels `y [batch]`, and `eps`.
    ///
    /// Accurate for t in [1e-5, 1] and wherever e^(beta nu) is a number. Parameters out of range are errors
    /// that name them.
    pub fn network(&self, spec: &str) -> Result<Model> {
        self.validate()?;
        let k = self.path.k();
        let size: usize = self.shape.iter().product();
        let count = self.weights.len();

        let mut g = Graph::new("gaussian mixture");
        let batch = Dim::from("batch");
        let state_dims = |blocks: usize| {
            let mut dims = vec![batch.clone(), Dim::from(blocks * self.shape[0])];
            dims.extend(self.shape[1..].iter().map(|&dim| Dim::from(dim)));
            dims
        };
        let z = g.input("z", self.ports, &state_dims(k));
        let t = g.input("t", self.ports, std::slice::from_ref(&batch));
        let label = (self.classes > 0).then(|| g.input("y", ElementType::I64, std::slice::from_ref(&batch)));

        let t = g.cast(t, ElementType::F64);
        let t = g.unsqueeze(t, &[1]);
        let z = g.cast(z, ElementType::F64);
        let z = g.reshape(z, &[0, (k * size) as i64]);
        let blocks = match k {
            1 => vec![z],
            _ => g.split(z, 1, [size; 2]).to_vec(),
        };
        let kernel = g.scope("kernel", |g| self.kernel(g, t));

        let mean_values = self.mean_values();
        let squares: Vec<f64> =
            mean_values.chunks(size).map(|mean| mean.iter().map(|v| v * v).sum()).collect();
        let total: f64 = self.weights.iter().sum();
        let log_weights: Vec<f64> = self.weights.iter().map(|weight| libm::log(weight / total)).collect();
        let means = self.means(&mut g, mean_values, count, size)?;
        let squares = g.constant(&[1, count], &squares);
        let variances = g.constant(&[1, self.variances.len()], &self.variances);
        let mut logits = g.constant(&[1, count], &log_weights);

        let u = weighted_sum(&mut g, &kernel.dual, &blocks);
        // 1 + c h and its inverse: [batch, 1] where the variance is shared, else [batch, components].
        let widened = g.mul(variances, kernel.precision);
        let widened = g.add(widened, 1.0);
        let shrink = g.div(1.0, widened);

        let mut exponent = g.linear(u, means, None);
        let pull = g.mul(kernel.precision, squares);
        let pull = g.mul(pull, 0.5);
        exponent = g.sub(exponent, pull);
        if self.variances.len() > 1 {
            // With one variance these two terms are the same for all components.
            let norm = g.mul(u, u);
            let norm = g.reduce_sum(norm, &[1], true);
            let norm = g.mul(norm, 0.5);
            let norm = g.mul(variances, norm);
            exponent = g.add(exponent, norm);
            let volume = g.log(widened);
            let volume = g.mul(volume, -0.5 * size as f64);
            logits = g.add(logits, volume);
        }
        exponent = g.mul(exponent, shrink);
        logits = g.add(logits, exponent);
        if let Some(label) = label {
            logits = self.keep_class(&mut g, logits, label);
        }
        let posterior = g.softmax(logits, 1);

        let towards = g.mul(posterior, shrink);
        let x0 = g.matmul(towards, means);
        let own = g.mul(towards, variances);
        let own = g.reduce_sum(own, &[1], true);
        let own = g.mul(own, u);
        let x0 = g.add(x0, own);

        let eps = g.scope("eps", |g| self.epsilon(g, &kernel, &blocks, x0));
        let dims = state_dims(if self.half == Half::All { k } else { 1 });
        let shape: Vec<i64> = std::iter::once(0)
            .chain(dims[1..].iter().map(|dim| match dim {
                Dim::Fixed(length) => *length as i64,
                _ => -1,
            }))
            .collect();
        let eps = g.reshape(eps, &shape);
        let eps = g.cast(eps, self.ports);
        g.output("eps", eps, &dims);

        let mut model = g.finish()?;
        model.set_metadata(SPEC_KEY, spec);
        Ok(model)
    }

    /// eps = L^-1 (z - a x0), by forward substitution.
    fn epsilon(&self, g: &mut Graph, kernel: &Kernel, blocks: &[Value], x0: Value) -> Value {
        let residual: Vec<Value> = (0..blocks.len())
            .map(|i| {
                let mean = g.mul(kernel.mean[i], x0);
                g.sub(blocks[i], mean)
            })
            .collect();
        let position = g.div(residual[0], kernel.factor[0]);
        if blocks.len() == 1 {
            return position;
        }
        let shared = g.mul(kernel.factor[1], position);
        let momentum = g.sub(residual[1], shared);
        let momentum = g.div(momentum, kernel.factor[2]);
        match self.half {
            Half::All => g.concat(&[position, momentum], 1),
            Half::Momentum => momentum,
        }
    }

    /// The kernel in its non-cancelling closed form.
    fn kernel(&self, g: &mut Graph, t: Value) -> Kernel {
        match self.path {
            Path::Vp { beta_min, beta_max } => {
                let b = integral(g, t, beta_min, beta_max);
                let rate = g.mul(b, -0.5);
                let mean = g.exp(rate);
                // 1 - e^-b = e^-b (e^b - 1)
                let decay = g.mul(mean, mean);
                let growth = exp_remainder(g, b, 1);
                let variance = g.mul(decay, growth);
                let variance = g.add(variance, self.numerical_eps);
                let dual = g.div(mean, variance);
                let precision = g.mul(mean, dual);
                Kernel { mean: vec![mean], factor: vec![g.sqrt(variance)], dual: vec![dual], precision }
            }
            Path::Psld { beta_min, beta_max, gamma, nu, kappa } => {
                let b = integral(g, t, beta_min, beta_max);
                self.langevin(g, b, gamma, nu, kappa)
            }
        }
    }

    /// The k = 2 kernel at critical damping, as a function of `b`, the integral of beta. It is what
    /// multiplying out Phi diag(0, kappa M) Phi^T + noise gives, with every power of b that the usual form
    /// subtracts cancelled by hand: all that is left is sums of positive terms, and one difference in the
    /// determinant that loses a factor of 4.
    fn langevin(&self, g: &mut Graph, b: Value, gamma: f64, nu: f64, kappa: f64) -> Kernel {
        let c = 0.5 * (gamma + nu);
        let delta = 0.5 * (nu - gamma);
        let mass = 1.0 / (delta * delta);
        let momentum0 = kappa * mass;
        let eps = self.numerical_eps;

        let rate = g.mul(b, -0.5 * c);
        let half_decay = g.exp(rate);
        let decay = g.mul(half_decay, half_decay);
        let bb = g.mul(b, b);

        // Phi = e^(-c b / 2) [[1 + delta b / 2, b / (2 M)], [-b / 2, 1 - delta b / 2]]
        let drift = g.mul(b, 0.5 * delta);
        let from_position = g.add(drift, 1.0);
        let to_momentum = g.mul(b, -0.5);
        let p1 = g.mul(b, 0.5 / mass);
        let p2 = g.sub(1.0, drift);
        let a1 = g.mul(half_decay, from_position);
        let a2 = g.mul(half_decay, to_momentum);

        // Covariances below are in units of e^(-c b); n: from the noise, without: with the initial momentum.
        let cb = g.mul(b, c);
        let rest = exp_remainder(g, cb, 3);
        let quadratic = g.mul(bb, 0.5 * gamma * nu);
        let common = g.add(quadratic, rest);
        let linear = g.mul(b, gamma);
        let nxx = g.add(common, linear);
        let linear = g.mul(b, nu);
        let nmm = g.add(common, linear);
        let nmm = g.mul(nmm, mass);
        let nxm = g.mul(bb, 0.5 * delta);
        let [p11, p12, p22] = [(p1, p1), (p1, p2), (p2, p2)].map(|(left, right)| {
            let product = g.mul(left, right);
            g.mul(product, momentum0)
        });
        let [xx, xm, mm] = [(nxx, p11), (nxm, p12), (nmm, p22)].map(|(noise, initial)| {
            let sum = g.add(noise, initial);
            g.mul(sum, decay)
        });

        // det / e^(-2 c b) = nxx nmm - nxm^2 + kappa M (p2^2 nxx - 2 p1 p2 nxm + p1^2 nmm)
        let main = g.mul(nxx, nmm);
        let cross = g.mul(nxm, nxm);
        let noise = g.sub(main, cross);
        let x_part = g.mul(p22, nxx);
        let m_part = g.mul(p11, nmm);
        let cross = g.mul(p12, nxm);
        let cross = g.mul(cross, 2.0);
        let mixed = g.add(x_part, m_part);
        let mixed = g.sub(mixed, cross);
        let det = g.add(noise, mixed);
        let decay2 = g.mul(decay, decay);
        let mut det = g.mul(det, decay2);
        if eps > 0.0 {
            let trace = g.add(xx, mm);
            let trace = g.add(trace, eps);
            let trace = g.mul(trace, eps);
            det = g.add(det, trace);
        }
        let xx = g.add(xx, eps);
        let mm = g.add(mm, eps);

        let l11 = g.sqrt(xx);
        let l21 = g.div(xm, l11);
        let ratio = g.div(det, xx);
        let l22 = g.sqrt(ratio);
        // adj(Sigma) a / det: a2 <= 0 <= xm, so both differences are sums.
        let dual: Vec<Value> = [(mm, a1, a2), (xx, a2, a1)]
            .into_iter()
            .map(|(own, a_own, a_other)| {
                let own = g.mul(own, a_own);
                let other = g.mul(xm, a_other);
                let sum = g.sub(own, other);
                g.div(sum, det)
            })
            .collect();
        let mean = vec![a1, a2];
        let precision = weighted_sum(g, &dual, &mean);
        Kernel { mean, factor: vec![l11, l21, l22], dual, precision }
    }

    fn keep_class(&self, g: &mut Graph, logits: Value, label: Value) -> Value {
        let labels: Vec<i64> = self.labels.iter().map(|&label| label as i64).collect();
        let labels = g.constant(&[1, labels.len()], &labels);
        let label = g.unsqueeze(label, &[1]);
        let own = g.equal(label, labels);
        let null = g.equal(label, self.classes as f64);
        let keep = g.or(own, null);
        g.choose(keep, logits, f64::NEG_INFINITY)
    }

    fn mean_values(&self) -> Vec<f64> {
        match &self.means {
            Means::Values(values) => values.clone(),
            Means::Pixels { pixels, range: [low, high] } => {
                pixels.iter().map(|&pixel| low + (high - low) / 255.0 * f64::from(pixel)).collect()
            }
        }
    }

    /// The means as a float64 matrix [components, size].
    fn means(&self, g: &mut Graph, values: Vec<f64>, count: usize, size: usize) -> Result<Value> {
        Ok(match &self.means {
            Means::Values(_) => g.parameter("means", Tensor::new(&[count, size], &values)?),
            Means::Pixels { pixels, range: [low, high] } => {
                // ONNX Runtime folds these nodes into one constant when it loads the model.
                let pixels = g.parameter("pixels", Tensor::new(&[count, size], pixels)?);
                let pixels = g.cast(pixels, ElementType::F64);
                let spread = g.mul(pixels, (high - low) / 255.0);
                g.add(spread, *low)
            }
        })
    }

    fn validate(&self) -> Result<()> {
        let check = |holds: bool, rule: &str| {
            if holds { Ok(()) } else { Err(Error::argument(format!("mixture: {rule}"))) }
        };
        let (Path::Vp { beta_min, beta_max } | Path::Psld { beta_min, beta_max, .. }) = self.path;
        let finite = |values: &[f64]| values.iter().all(|value| value.is_finite());
        check(finite(&[beta_min, beta_max]), "beta_min and beta_max must be finite")?;
        check(
            beta_min >= 0.0 && beta_max >= 0.0 && beta_min + beta_max > 0.0,
            "beta_min and beta_max cannot be negative, nor both zero",
        )?;
        if let Path::Psld { gamma, nu, kappa, .. } = self.path {
            check(finite(&[gamma, nu, kappa]), "gamma, nu and kappa must be finite")?;
            check(gamma >= 0.0 && nu > gamma, "gamma cannot be negative, and nu must be larger than gamma")?;
            check((0.0..2.0).contains(&kappa), "kappa must be in [0, 2)")?;
        }
        check(
            self.numerical_eps.is_finite() && self.numerical_eps >= 0.0,
            "numerical_eps must be a finite number that is not negative",
        )?;
        let size = self.shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        let size = size.filter(|&size| size > 0 && !self.shape.is_empty());
        check(size.is_some(), "shape must name at least one dimension, and none of length 0")?;
        let count = self.weights.len();
        check(
            count > 0 && finite(&self.weights) && self.weights.iter().all(|&weight| weight > 0.0),
            "weights must be positive, one for each component",
        )?;
        let (length, range) = match &self.means {
            Means::Values(values) => (values.len(), values.as_slice()),
            Means::Pixels { pixels, range } => (pixels.len(), range.as_slice()),
        };
        check(finite(range), "means must be finite")?;
        check(
            size.and_then(|size| size.checked_mul(count)) == Some(length),
            "means must hold one value for each component and element of shape",
        )?;
        check(
            [1, count].contains(&self.variances.len())
                && finite(&self.variances)
                && self.variances.iter().all(|&variance| variance >= 0.0),
            "variances must be one number for all components or one for each, none negative",
        )?;
        check(
            self.labels.len() == if self.classes > 0 { count } else { 0 },
            "labels must name the class of each component, or be empty where classes is 0",
        )?;
        let mut seen = self.labels.clone();
        seen.sort_unstable();
        seen.dedup();
        check(
            seen.iter().copied().eq(0..self.classes),
            "labels must be below classes, and every class must have a component",
        )?;
        check(self.half == Half::All || self.path.k() == 2, "only a phase-space path has a momentum half")?;
        check(matches!(self.ports, ElementType::F32 | ElementType::F16), "ports must be float32 or float16")
    }
}

/// The integral of beta from 0 to t.
fn integral(g: &mut Graph, t: Value, beta_min: f64, beta_max: f64) -> Value {
    let slope = g.mul(t, 0.5 * (beta_max - beta_min));
    let mean = g.add(slope, beta_min);
    g.mul(mean, t)
}

/// sum_i scales_i vectors_i, of one term for each block of the state
fn weighted_sum(g: &mut Graph, scales: &[Value], vectors: &[Value]) -> Value {
    let mut sum = g.mul(scales[0], vectors[0]);
    for (&scale, &vector) in scales.iter().zip(vectors).skip(1) {
        let term = g.mul(scale, vector);
        sum = g.add(sum, term);
    }
    sum
}

/// e^x less the first `order` terms of its series (order 1: e^x - 1), for x >= 0 as [batch, 1], to full
/// relative accuracy.
fn exp_remainder(g: &mut Graph, x: Value, order: u32) -> Value {
    /// Below it the series is summed; above, the subtraction loses less than a factor of 30.
    const SERIES_BELOW: f64 = 0.7;
    /// 0.7^16 / 16! is 1e-16.
    const TERMS: u32 = 16;

    let factorial = |n: u32| (1..=n).map(f64::from).product::<f64>();
    let powers: Vec<f64> = (order..order + TERMS).map(f64::from).collect();
    let coefficients: Vec<f64> = (order..order + TERMS).map(|n| 1.0 / factorial(n)).collect();
    let powers = g.constant(&[1, powers.len()], &powers);
    let coefficients = g.constant(&[1, coefficients.len()], &coefficients);
    let series = g.pow(x, powers);
    let series = g.mul(series, coefficients);
    let series = g.reduce_sum(series, &[1], true);

    let mut direct = g.exp(x);
    for n in 0..order {
        let power = match n {
            0 => None,
            1 => Some(x),
            _ => Some(g.pow(x, f64::from(n))),
        };
        direct = match power {
            None => g.sub(direct, 1.0),
            Some(power) => {
                let term = g.mul(power, 1.0 / factorial(n));
                g.sub(direct, term)
            }
        };
    }
    let small = g.less(x, SERIES_BELOW);
    g.choose(small, series, direct)
}
