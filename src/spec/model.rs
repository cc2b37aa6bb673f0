//! `psld.spec`: everything about a network that its ONNX graph does not say.

use super::strict;
use crate::process::{Beta, Decomposition, Mat, Process, Psld, Recipe, ScoreMatching};
use crate::{Error, Result, Status};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::onnx::SPEC_KEY;

/// The output by which a guidance network is known.
pub const GRADIENT_OUTPUT: &str = "grad";

/// The spec of a score network: forward process, data, and what its inputs and outputs mean.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelSpec {
    /// Version of this document; 1.
    pub format: u32,
    /// The forward process that the network was trained on.
    pub process: ProcessSpec,
    /// Shape and range of one data sample.
    pub data: DataSpec,
    /// Names and meaning of the network's inputs and outputs.
    pub network: NetworkSpec,
}

/// The kinds of forward process that a spec can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessKind {
    /// Variance preserving, k = 1.
    Vp,
    /// Critically damped Langevin, k = 2 (PSLD with gamma 0).
    Cld,
    /// Phase space Langevin diffusion, k = 2.
    Psld,
    /// Any constant D, Q, S (arXiv 2303.01748).
    Recipe,
}

/// The forward process; which fields apply depends on `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Which process.
    pub kind: ProcessKind,
    /// Beta at t = 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_min: Option<f64>,
    /// Beta at t = 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_max: Option<f64>,
    /// Friction of the position (psld).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
    /// Friction of the momentum (psld, cld).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nu: Option<f64>,
    /// Initial momentum variance over the mass (psld, cld, recipe).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kappa: Option<f64>,
    /// D of the recipe, k x k.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub d: Option<Mat>,
    /// Q of the recipe, k x k.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q: Option<Mat>,
    /// Stationary covariance of the recipe, k x k.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s: Option<Mat>,
    /// Which triangular factor of the covariance epsilon refers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decomposition: Option<Decomposition>,
    /// Which kernel the network was trained with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_matching: Option<ScoreMatching>,
    /// Added to the diagonal of the kernel's covariance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numerical_eps: Option<f64>,
}

/// One data sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataSpec {
    /// Channels first: [C, H, W], [D], [C, T], ...
    pub shape: Vec<usize>,
    /// Smallest and largest data value.
    #[serde(default = "default_range")]
    pub range: [f64; 2],
}

fn default_range() -> [f64; 2] {
    [-1.0, 1.0]
}

/// What a network's output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prediction {
    /// epsilon: z_t = a x_0 + L epsilon.
    Epsilon,
    /// The score, grad_z log p_t.
    Score,
    /// The data estimate E[x_0 | z_t] (C channels).
    X0,
    /// v = alpha epsilon - sigma x_0 (k = 1).
    V,
}

/// Which part of epsilon or the score an output holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Predicts {
    /// All k blocks of C channels.
    All,
    /// The last block only (k = 2).
    Momentum,
    /// The first block only (k = 2).
    Position,
}

/// The network's inputs and outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// What the output is.
    #[serde(default = "default_prediction")]
    pub prediction: Prediction,
    /// Which part of it; by default all, but the momentum where gamma = 0 (lower factor) and the position
    /// where nu = 0 (upper factor), as published.
    #[serde(default)]
    pub predicts: Option<Predicts>,
    /// Name of the state input, [batch, k*C, ...].
    #[serde(default = "default_state_input")]
    pub state_input: String,
    /// Name of the time input, [batch].
    #[serde(default = "default_time_input")]
    pub time_input: String,
    /// Name of the output; `grad` makes it a guidance network ([`ModelSpec::is_gradient`]).
    #[serde(default = "default_output")]
    pub output: String,
    /// What the network's time input is per unit of forward time t.
    #[serde(default = "default_time_scale")]
    pub time_scale: f64,
    /// Name of the label input, [batch] int64.
    #[serde(default)]
    pub label_input: Option<String>,
    /// Number of classes; the null class is `classes`.
    #[serde(default)]
    pub classes: u32,
    /// Further named inputs.
    #[serde(default)]
    pub inputs: Vec<Value>,
}

fn default_prediction() -> Prediction {
    Prediction::Epsilon
}
fn default_state_input() -> String {
    "z".into()
}
fn default_time_input() -> String {
    "t".into()
}
fn default_output() -> String {
    "eps".into()
}
fn default_time_scale() -> f64 {
    1.0
}

/// How often a dimension of the data may be, and how many there may be in all: 2^31 elements a state is past
/// every model of this kind, and keeps all index arithmetic far from overflow.
const MAX_ELEMENTS: usize = 1 << 31;

impl ModelSpec {
    /// Reads and checks a spec.
    ///
    /// # Errors
    /// [`Status::SpecInvalid`], naming the field.
    pub fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Sections {
            format: u32,
            process: Value,
            data: Value,
            network: Option<Value>,
        }
        const BAD: Status = Status::SpecInvalid;
        let sections: Sections = strict::from_value(strict::parse(text, BAD, SPEC_KEY)?, BAD, SPEC_KEY)?;
        if sections.format != 1 {
            return Err(Error::new(
                BAD,
                format!(
                    "{SPEC_KEY}: format {} is not known to this version, which reads format 1",
                    sections.format
                ),
            ));
        }
        let network = sections.network.unwrap_or_else(|| Value::Object(Default::default()));
        let mut spec = Self {
            format: sections.format,
            process: strict::from_value(sections.process, BAD, "psld.spec: process")?,
            data: strict::from_value(sections.data, BAD, "psld.spec: data")?,
            network: strict::from_value(network, BAD, "psld.spec: network")?,
        };
        spec.check()?;
        Ok(spec)
    }

    /// Reads what stands in a model's metadata under [`SPEC_KEY`].
    ///
    /// # Errors
    /// [`Status::SpecMissing`] for `None`; else those of [`Self::parse`].
    pub fn from_metadata(text: Option<&str>) -> Result<Self> {
        match text {
            Some(text) => Self::parse(text),
            None => Err(Error::new(Status::SpecMissing, format!("metadata key `{SPEC_KEY}` is missing"))
                .hint("export with psld-training, or pass a spec (--spec, psld_model_options.spec_json)")),
        }
    }

    /// The spec as JSON text, as it is stored in a model.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a spec holds only finite numbers and strings")
    }

    fn check(&mut self) -> Result<()> {
        let bad = |message: String| Err(Error::new(Status::SpecInvalid, format!("psld.spec: {message}")));
        let process = self.process()?;
        let k = process.k();

        let shape = &self.data.shape;
        let elements = shape.iter().try_fold(k, |n, &dim| n.checked_mul(dim).filter(|n| *n <= MAX_ELEMENTS));
        if shape.is_empty() || shape.contains(&0) || shape.len() > 8 {
            return bad(format!("data.shape: expected 1 to 8 positive sizes, channels first, got {shape:?}"));
        }
        if elements.is_none() {
            return bad(format!(
                "data.shape: {shape:?} with k = {k} is more than {MAX_ELEMENTS} elements a sample"
            ));
        }
        let [low, high] = self.data.range;
        if !(low.is_finite() && high.is_finite() && low < high) {
            return bad(format!("data.range: expected [low, high] with low < high, got [{low}, {high}]"));
        }

        let network = &mut self.network;
        if network.prediction == Prediction::V && k != 1 {
            return bad(format!("network.prediction: `v` is defined for k = 1, this process has k = {k}"));
        }
        if !(network.time_scale.is_finite() && network.time_scale > 0.0) {
            return bad(format!(
                "network.time_scale: expected a positive number, got {}",
                network.time_scale
            ));
        }
        let whole_output = matches!(network.prediction, Prediction::X0 | Prediction::V);
        match network.predicts {
            None if whole_output => network.predicts = Some(Predicts::All),
            None => {
                let p = &self.process;
                let lower = p.decomposition.unwrap_or(Decomposition::Lower) == Decomposition::Lower;
                let gamma = if p.kind == ProcessKind::Cld { Some(0.0) } else { p.gamma };
                network.predicts = Some(match (gamma, p.nu) {
                    (Some(0.0), _) if lower => Predicts::Momentum,
                    (_, Some(0.0)) if !lower => Predicts::Position,
                    _ => Predicts::All,
                });
            }
            Some(Predicts::All) => {}
            Some(half) if whole_output || k != 2 => {
                return bad(format!(
                    "network.predicts: {half:?} needs k = 2 and prediction `epsilon` or `score`, not k = {k} and {:?}",
                    network.prediction
                ));
            }
            Some(_) => {}
        }
        if network.output == GRADIENT_OUTPUT && network.label_input.is_none() {
            return bad("network.label_input: a guidance network (output `grad`) has a label input".into());
        }
        match (&network.label_input, network.classes) {
            (Some(_), 0) => {
                return bad("network.classes: a network with a label_input has at least one class".into());
            }
            (None, n) if n > 0 => return bad(format!("network.label_input: {n} classes need a label input")),
            _ => {}
        }
        if !network.inputs.is_empty() {
            return Err(Error::new(
                Status::Unsupported,
                "psld.spec: network.inputs: further named inputs are not supported by this version",
            ));
        }
        Ok(())
    }

    /// The forward process that the spec describes.
    ///
    /// # Errors
    /// [`Status::SpecInvalid`], naming the parameter and the rule.
    pub fn process(&self) -> Result<Process> {
        self.process.build().map_err(|e| Error::new(Status::SpecInvalid, "psld.spec: process").source(e))
    }

    /// Whether the network is a guidance network: it gives the gradient of log p(y | z_t, t) in the state.
    pub fn is_gradient(&self) -> bool {
        self.network.output == GRADIENT_OUTPUT
    }

    /// How many blocks of C channels the output has: k, or 1 for a half or a data estimate.
    pub fn output_blocks(&self, k: usize) -> usize {
        if self.is_gradient() {
            return k;
        }
        match (self.network.prediction, self.network.predicts) {
            (Prediction::X0 | Prediction::V, _) => 1,
            (_, Some(Predicts::Momentum | Predicts::Position)) => 1,
            _ => k,
        }
    }

    /// Number of elements of one data sample.
    pub fn data_len(&self) -> usize {
        self.data.shape.iter().product()
    }
}

impl ProcessSpec {
    fn build(&self) -> Result<Process> {
        use ProcessKind::*;
        let given = [
            ("gamma", self.gamma.is_some(), matches!(self.kind, Psld)),
            ("nu", self.nu.is_some(), matches!(self.kind, Psld | Cld)),
            ("kappa", self.kappa.is_some(), !matches!(self.kind, Vp)),
            ("decomposition", self.decomposition.is_some(), !matches!(self.kind, Vp)),
            ("score_matching", self.score_matching.is_some(), !matches!(self.kind, Vp)),
            ("d", self.d.is_some(), matches!(self.kind, Recipe)),
            ("q", self.q.is_some(), matches!(self.kind, Recipe)),
            ("s", self.s.is_some(), matches!(self.kind, Recipe)),
        ];
        // CLD is PSLD with gamma 0: a spec that says so in words is right, not an error.
        let cld_gamma_zero = self.kind == Cld && self.gamma == Some(0.0);
        if let Some((name, ..)) = given
            .iter()
            .find(|(name, set, applies)| *set && !applies && !(cld_gamma_zero && *name == "gamma"))
        {
            return Err(Error::argument(format!("`{name}` is no parameter of process kind {:?}", self.kind)));
        }
        let decomposition = self.decomposition.unwrap_or(Decomposition::Lower);
        let score_matching = self.score_matching.unwrap_or(ScoreMatching::Hsm);
        match self.kind {
            Vp => Process::vp(
                self.beta_min.unwrap_or(0.1),
                self.beta_max.unwrap_or(20.0),
                self.numerical_eps.unwrap_or(0.0),
            ),
            Cld | Psld => Process::psld(self::Psld {
                beta_min: self.beta_min.unwrap_or(8.0),
                beta_max: self.beta_max.unwrap_or(8.0),
                gamma: if self.kind == Cld { 0.0 } else { self.gamma.unwrap_or(0.01) },
                nu: self.nu.unwrap_or(if self.kind == Cld { 4.0 } else { 4.01 }),
                kappa: self.kappa.unwrap_or(0.04),
                decomposition,
                score_matching,
                numerical_eps: self.numerical_eps.unwrap_or(1e-9),
            }),
            Recipe => {
                let required = |name: &str, m: Option<Mat>| {
                    m.ok_or_else(|| Error::argument(format!("`{name}` is required by process kind Recipe")))
                };
                let d = required("d", self.d)?;
                Process::recipe(self::Recipe {
                    d,
                    q: required("q", self.q)?,
                    s: required("s", self.s)?,
                    beta: Beta { min: self.beta_min.unwrap_or(1.0), max: self.beta_max.unwrap_or(1.0) },
                    kappa: self.kappa.unwrap_or(0.04),
                    numerical_eps: self.numerical_eps.unwrap_or(if d.rows() == 2 { 1e-9 } else { 0.0 }),
                    decomposition,
                    score_matching,
                })
            }
        }
    }
}
