//! The exact network of a Gaussian mixture: ground truth for every sampler, without ONNX Runtime.
//!
//! For data x_0 ~ sum_j w_j N(mu_j, v_j I) and z_t | x_0 ~ N(a x_0, C), put y = C^-1/2 z, p = C^-1/2 a and, for
//! component j, e_j = y - p mu_j. Then the component's whitened residual is e_j - v_j p (p . e_j) / (1 + v_j |p|^2),
//! its data estimate mu_j + v_j (p . e_j) / (1 + v_j |p|^2), and its responsibility follows from
//! |e_j|^2 - v_j (p . e_j)^2 / (1 + v_j |p|^2): no mixture covariance is ever inverted, so nothing cancels at small t.
//!
//! Components may have classes. Under a spec with a label input the network is that of the class's components; with the
//! output `grad` it is the guidance network of the exact classifier, grad log p(y | z_t, t): the score among the class's
//! components less the score of all.

use super::{Backend, Evaluator, Inputs, Network, Precision, Values, ValuesMut};
use crate::hash::hex;
use crate::process::{MAX_K, Mat, Process};
use crate::spec::strict;
use crate::spec::{ModelSpec, NetworkTime, Prediction, Predicts};
use crate::{Error, Result, Status};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// A Gaussian mixture in data space, with isotropic components.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Mixture {
    /// Weight of each component, positive; normalised on use.
    pub weights: Vec<f64>,
    /// Mean of each component, flat in the data's row-major order.
    pub means: Vec<Vec<f64>>,
    /// Variance of each component, the same in every direction; zero makes it a point.
    pub variances: Vec<f64>,
    /// Class of each component, for class-conditional specs.
    #[serde(default)]
    pub labels: Vec<i64>,
}

/// The exact network of a [`Mixture`]. Computes in f64; deterministic on every platform.
pub struct MixtureNetwork(Arc<Inner>);

struct Inner {
    spec: ModelSpec,
    process: Process,
    mixture: Mixture,
    hash: String,
}

impl Inner {
    fn sigma_data(&self) -> f64 {
        self.spec.network.sigma_data.unwrap_or(0.5)
    }
}

impl MixtureNetwork {
    /// The network of `mixture` under `spec`.
    ///
    /// # Errors
    /// [`Status::ModelInvalid`] naming the part of the mixture that is out of range.
    pub fn new(spec: ModelSpec, mixture: Mixture) -> Result<Self> {
        let process = spec.network_process()?;
        mixture.check(&spec)?;
        let mut hash = Sha256::new();
        hash.update(spec.to_json());
        let numbers = mixture.weights.iter().chain(mixture.means.iter().flatten()).chain(&mixture.variances);
        numbers.for_each(|x| hash.update(x.to_le_bytes()));
        mixture.labels.iter().for_each(|x| hash.update(x.to_le_bytes()));
        let hash = hex(&hash.finalize());
        Ok(Self(Arc::new(Inner { spec, process, mixture, hash })))
    }

    /// Reads `{"psld.spec": {...}, "mixture": {"weights", "means", "variances", "labels"}}`.
    ///
    /// # Errors
    /// [`Status::ModelInvalid`] or [`Status::SpecInvalid`], naming the field.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_as(text, None)
    }

    /// [`Self::parse`], with another spec than the file's where one is given.
    pub(crate) fn parse_as(text: &str, spec: Option<ModelSpec>) -> Result<Self> {
        #[derive(Deserialize)]
        struct File {
            #[serde(rename = "psld.spec")]
            spec: Option<Value>,
            mixture: Value,
        }
        const BAD: Status = Status::ModelInvalid;
        let file: File =
            strict::from_value(strict::parse(text, BAD, "analytic model")?, BAD, "analytic model")?;
        let mixture = strict::from_value(file.mixture, BAD, "analytic model: mixture")?;
        let spec = match (spec, file.spec) {
            (Some(spec), _) => spec,
            (None, Some(spec)) => ModelSpec::parse(&spec.to_string())?,
            (None, None) => {
                let message = "analytic model: key `psld.spec` is missing";
                return Err(Error::new(Status::SpecMissing, message).hint("add it, or pass a spec (--spec)"));
            }
        };
        Self::new(spec, mixture)
    }
}

impl Mixture {
    fn check(&self, spec: &ModelSpec) -> Result<()> {
        let bad = |message: String| Err(Error::new(Status::ModelInvalid, format!("mixture: {message}")));
        let (count, d) = (self.weights.len(), spec.data_len());
        if count == 0 || self.means.len() != count || self.variances.len() != count {
            return bad(format!(
                "{count} weights, {} means and {} variances: expected as many of each, at least one",
                self.means.len(),
                self.variances.len()
            ));
        }
        if let Some(w) = self.weights.iter().find(|w| !(**w > 0.0 && w.is_finite())) {
            return bad(format!("weights: expected positive numbers, got {w}"));
        }
        if let Some(v) = self.variances.iter().find(|v| !(**v >= 0.0 && v.is_finite())) {
            return bad(format!("variances: expected numbers of at least 0, got {v}"));
        }
        if let Some(i) = self.means.iter().position(|m| m.len() != d || m.iter().any(|x| !x.is_finite())) {
            return bad(format!(
                "means: mean {i} is not {d} finite numbers (the data's shape is {:?})",
                spec.data.shape
            ));
        }
        let classes = i64::from(spec.network.classes);
        if classes == 0 && self.labels.is_empty() {
            return Ok(());
        }
        if self.labels.len() != count {
            return bad(format!(
                "labels: expected {count}, one for each component, got {}",
                self.labels.len()
            ));
        }
        match (0..classes).find(|class| !self.labels.contains(class)) {
            Some(class) => bad(format!("labels: no component has class {class}")),
            None if self.labels.iter().any(|l| !(0..classes).contains(l)) => {
                bad(format!("labels: expected 0 to {}", classes - 1))
            }
            None => Ok(()),
        }
    }
}

impl Network for MixtureNetwork {
    fn spec(&self) -> &ModelSpec {
        &self.0.spec
    }

    fn backend(&self) -> Backend {
        Backend {
            name: "analytic",
            version: env!("CARGO_PKG_VERSION").into(),
            provider: "cpu".into(),
            library: None,
        }
    }

    fn output_precision(&self, state: Precision) -> Precision {
        state
    }

    fn hash(&self) -> Result<String> {
        Ok(self.0.hash.clone())
    }

    fn mixture(&self) -> Option<&Mixture> {
        Some(&self.0.mixture)
    }

    fn evaluator(&self) -> Result<Box<dyn Evaluator>> {
        let (k, d, count) = (self.0.process.k(), self.0.spec.data_len(), self.0.mixture.weights.len());
        Ok(Box::new(MixtureEvaluator {
            model: self.0.clone(),
            y: vec![0.0; k * d],
            residual: vec![0.0; k * d],
            x0: vec![0.0; d],
            log_weights: vec![0.0; count],
            gradient: vec![0.0; if self.0.spec.is_gradient() { k * d } else { 0 }],
        }))
    }
}

struct MixtureEvaluator {
    model: Arc<Inner>,
    /// C^-1/2 z, [k, d].
    y: Vec<f64>,
    /// E[C^-1/2 (z - a x0) | z], [k, d].
    residual: Vec<f64>,
    x0: Vec<f64>,
    /// Log weights of the components, then their responsibilities.
    log_weights: Vec<f64>,
    /// The gradient of log p(y | z_t, t), [k, d]; empty for a score network.
    gradient: Vec<f64>,
}

impl Evaluator for MixtureEvaluator {
    fn evaluate(&mut self, inputs: Inputs<'_>, mut out: ValuesMut<'_>) -> Result<()> {
        let model = self.model.clone();
        let state_len = self.y.len();
        let output_len = model.spec.output_blocks(model.process.k()) * self.x0.len();
        for (i, &t) in inputs.t.iter().enumerate() {
            let label = inputs.labels.map(|labels| labels[i]);
            let kernel = Kernel::at(&model, t);
            match inputs.z {
                Values::F32(z) => self.whiten(&kernel, |j| kernel.input * f64::from(z[i * state_len + j])),
                Values::F64(z) => self.whiten(&kernel, |j| kernel.input * z[i * state_len + j]),
            }
            let first = i * output_len;
            if model.spec.is_gradient() {
                self.gradient(&kernel, label);
                match &mut out {
                    ValuesMut::F32(o) => {
                        o[first..][..output_len]
                            .iter_mut()
                            .zip(&self.gradient)
                            .for_each(|(o, x)| *o = *x as f32);
                    }
                    ValuesMut::F64(o) => o[first..][..output_len].copy_from_slice(&self.gradient),
                }
                continue;
            }
            self.estimate(&kernel, label);
            match &mut out {
                ValuesMut::F32(o) => self.write(&kernel, |j, x| o[first + j] = x as f32),
                ValuesMut::F64(o) => self.write(&kernel, |j, x| o[first + j] = x),
            }
        }
        Ok(())
    }
}

/// The perturbation kernel at one time.
struct Kernel {
    k: usize,
    whitening: Mat,
    /// The network's epsilon from the whitened residual.
    eps: Mat,
    /// The score from the whitened residual.
    score: Mat,
    alpha: f64,
    sigma: f64,
    /// The state over what the network sees of it.
    input: f64,
    /// Of EDM's preconditioning: the noise level s of x = x_0 + s n, and sqrt(s^2 + sigma_data^2).
    level: f64,
    norm: f64,
    /// C^-1/2 a.
    p: [f64; MAX_K],
    /// |C^-1/2 a|^2.
    signal: f64,
}

impl Kernel {
    fn at(model: &Inner, t: f64) -> Self {
        let process = &model.process;
        let whitening = process.whitening(t);
        let seen = whitening * process.mean(t);
        let mut p = [0.0; MAX_K];
        (0..process.k()).for_each(|b| p[b] = seen[(b, 0)]);
        let (alpha, sigma) = (process.mean(t)[(0, 0)], process.factor(t)[(0, 0)]);
        let level = sigma / alpha;
        let norm = libm::hypot(level, model.sigma_data());
        Self {
            k: process.k(),
            whitening,
            eps: process.eps_from_whitened(t),
            score: -whitening.transpose(),
            alpha,
            sigma,
            input: if model.spec.network.prediction == Prediction::Edm { alpha * norm } else { 1.0 },
            level,
            norm,
            p,
            signal: p.iter().map(|x| x * x).sum(),
        }
    }
}

impl MixtureEvaluator {
    /// y = C^-1/2 z.
    fn whiten(&mut self, kernel: &Kernel, z: impl Fn(usize) -> f64) {
        let d = self.x0.len();
        for j in 0..d {
            for b in 0..kernel.k {
                self.y[b * d + j] = (0..kernel.k).map(|c| kernel.whitening[(b, c)] * z(c * d + j)).sum();
            }
        }
    }

    /// Whitened residual and data estimate of the state in `y`, among the components of class `label`.
    fn estimate(&mut self, kernel: &Kernel, label: Option<i64>) {
        let Inner { mixture, spec, .. } = &*self.model;
        let (k, d, p) = (kernel.k, self.x0.len(), &kernel.p);
        let class = label.filter(|l| *l != i64::from(spec.network.classes));
        let shrink = |i: usize| mixture.variances[i] / (1.0 + mixture.variances[i] * kernel.signal);
        // e and p . e at one element.
        let residual = |y: &[f64], j: usize, mu: f64| -> ([f64; MAX_K], f64) {
            let mut e = [0.0; MAX_K];
            (0..k).for_each(|b| e[b] = y[b * d + j] - p[b] * mu);
            (e, (0..k).map(|b| p[b] * e[b]).sum())
        };

        let mut largest = f64::NEG_INFINITY;
        for (i, mean) in mixture.means.iter().enumerate() {
            if class.is_some_and(|c| mixture.labels[i] != c) {
                self.log_weights[i] = f64::NEG_INFINITY;
                continue;
            }
            let mut squares = 0.0;
            for (j, mu) in mean.iter().enumerate() {
                let (e, along) = residual(&self.y, j, *mu);
                squares += e.iter().map(|x| x * x).sum::<f64>() - shrink(i) * along * along;
            }
            let volume = d as f64 * libm::log1p(mixture.variances[i] * kernel.signal);
            self.log_weights[i] = libm::log(mixture.weights[i]) - 0.5 * (volume + squares);
            largest = largest.max(self.log_weights[i]);
        }
        let mut sum = 0.0;
        for w in &mut self.log_weights {
            *w = libm::exp(*w - largest);
            sum += *w;
        }
        self.residual.fill(0.0);
        self.x0.fill(0.0);
        for (i, mean) in mixture.means.iter().enumerate() {
            let share = self.log_weights[i] / sum;
            if share == 0.0 {
                continue;
            }
            for (j, mu) in mean.iter().enumerate() {
                let (e, along) = residual(&self.y, j, *mu);
                let step = shrink(i) * along;
                self.x0[j] += share * (mu + step);
                (0..k).for_each(|b| self.residual[b * d + j] += share * (e[b] - p[b] * step));
            }
        }
    }

    /// The gradient of the exact classifier: the class's score less that of all components.
    fn gradient(&mut self, kernel: &Kernel, label: Option<i64>) {
        let (k, d) = (kernel.k, self.x0.len());
        self.estimate(kernel, label);
        let own = self.residual.clone();
        self.estimate(kernel, None);
        for j in 0..d {
            for b in 0..k {
                let difference = |c: usize| own[c * d + j] - self.residual[c * d + j];
                self.gradient[b * d + j] = (0..k).map(|c| kernel.score[(b, c)] * difference(c)).sum();
            }
        }
    }

    /// What the spec says that the network predicts, element by element.
    fn write(&self, kernel: &Kernel, mut out: impl FnMut(usize, f64)) {
        let network = &self.model.spec.network;
        let (k, d) = (kernel.k, self.x0.len());
        let direction = if self.model.spec.network_time() == NetworkTime::Reversed { -1.0 } else { 1.0 };
        let blocks = match network.predicts {
            Some(Predicts::Momentum) => k - 1..k,
            Some(Predicts::Position) => 0..1,
            _ => 0..k,
        };
        let mapped = |m: &Mat, b: usize, j: usize| -> f64 {
            (0..k).map(|c| m[(b, c)] * self.residual[c * d + j]).sum()
        };
        for j in 0..d {
            match network.prediction {
                Prediction::X0 => out(j, self.x0[j]),
                Prediction::V => out(j, kernel.alpha * mapped(&kernel.eps, 0, j) - kernel.sigma * self.x0[j]),
                Prediction::Velocity => {
                    out(j, direction * (mapped(&kernel.eps, 0, j) - self.x0[j]));
                }
                // (x_0 - c_skip x)/c_out with x_0 = x - s epsilon, and x = s y.
                Prediction::Edm => {
                    let Kernel { level, norm, .. } = *kernel;
                    let noise = norm * mapped(&kernel.eps, 0, j);
                    out(j, (level * level / norm * self.y[j] - noise) / self.model.sigma_data());
                }
                Prediction::Epsilon => {
                    blocks.clone().enumerate().for_each(|(o, b)| out(o * d + j, mapped(&kernel.eps, b, j)));
                }
                Prediction::Score => {
                    blocks.clone().enumerate().for_each(|(o, b)| out(o * d + j, mapped(&kernel.score, b, j)));
                }
            }
        }
    }
}
