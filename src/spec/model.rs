//! `psld.spec`: everything about a network that its ONNX graph does not say.

use super::strict;
use crate::process::{Beta, Decomposition, Mat, Process, Psld, Recipe, ScoreMatching};
use crate::{Error, Result, Status};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The metadata key under which a network carries its spec (one JSON document).
pub const SPEC_KEY: &str = "psld.spec";

/// The output by which a guidance network is known.
pub const GRADIENT_OUTPUT: &str = "grad";

/// The spec of a score network: forward process, data, and what its inputs and outputs mean.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelSpec {
    /// Version of this document; 1.
    pub format: u32,
    /// The forward process that samples are drawn along, and that the network was trained on unless
    /// [`NetworkSpec::process`] names another.
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
    /// Variance exploding (arXiv 2011.13456), k = 1.
    Ve,
    /// Noise level as time (EDM, arXiv 2206.00364), k = 1.
    Edm,
    /// The linear path of flow matching (arXiv 2210.02747), k = 1.
    Flow,
    /// A table of betas (DDPM, arXiv 2006.11239), k = 1.
    Ddpm,
}

/// Named tables of betas (ddpm), entries i = 0..N-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// From beta_min to beta_max in equal steps (arXiv 2006.11239); default 1e-4 to 0.02.
    Linear,
    /// Their square roots in equal steps (arXiv 2112.10752); default 0.00085 to 0.012.
    ScaledLinear,
    /// 1 - f((i+1)/N) / f(i/N), at most max_beta, with f(x) = cos^2(pi/2 (x + offset)/(1 + offset))
    /// (arXiv 2102.09672).
    Cosine,
}

/// The forward process; which fields apply depends on `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Which process.
    pub kind: ProcessKind,
    /// Beta at t = 0; for ddpm the first entry of a `linear` or `scaled_linear` schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_min: Option<f64>,
    /// Beta at t = 1; for ddpm the last entry.
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
    /// Smallest noise level (ve: default 0.01; edm: 0.002).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_min: Option<f64>,
    /// Largest noise level (ve: default 50; edm: 80).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_max: Option<f64>,
    /// The table of betas (ddpm), instead of a schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub betas: Option<Vec<f64>>,
    /// A named table (ddpm); default linear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Entries of a named table; default 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<u32>,
    /// Offset of the cosine schedule; default 0.008.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<f64>,
    /// Largest beta of the cosine schedule; default 0.999.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_beta: Option<f64>,
}

/// One data sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataSpec {
    /// Channels first: `[C, H, W]`, `[D]`, `[C, T]`, ...
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
    /// The velocity of the linear path (flow) along the time that the network takes: epsilon - x_0, or x_0 - epsilon
    /// where that time is `reversed`.
    Velocity,
    /// The raw network F of EDM (k = 1): for x = x_0 + sigma n it takes c_in x, and x_0 is estimated as
    /// c_skip x + c_out F (arXiv 2206.00364, table 1).
    Edm,
}

/// What a network's time input holds, times [`NetworkSpec::time_scale`]. t is the forward time of the network's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkTime {
    /// t.
    T,
    /// 1 - t: 0 is noise, 1 data.
    Reversed,
    /// The noise level sigma(t)/alpha(t) (k = 1).
    Sigma,
    /// EDM's c_noise, ln(sigma/alpha)/4 (k = 1).
    CNoise,
    /// The entry of the table of betas, from 0: t N - 1 (ddpm). An int64 input takes the nearest.
    Index,
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
    /// The process of k = 1 that the network was trained on, where that is not the one to sample along: the network is
    /// then shown the part of the state that tells of x_0, at its own time of equal signal-to-noise ratio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessSpec>,
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
    /// Name of the time input, `[batch]`.
    #[serde(default = "default_time_input")]
    pub time_input: String,
    /// Name of the output; `grad` makes it a guidance network ([`ModelSpec::is_gradient`]).
    #[serde(default = "default_output")]
    pub output: String,
    /// What the network takes for its time; by default `c_noise` for prediction `edm`, else `sigma` for the processes
    /// `ve` and `edm`, `index` for `ddpm`, and `t`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<NetworkTime>,
    /// What the network's time input is per unit of [`Self::time`].
    #[serde(default = "default_time_scale")]
    pub time_scale: f64,
    /// Whether the graph's time input takes whole numbers only. The graph says it, not the spec.
    #[serde(skip)]
    pub whole_times: bool,
    /// Standard deviation of the data in the preconditioning of prediction `edm`; default 0.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma_data: Option<f64>,
    /// Name of the label input, `[batch]` int64.
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
        let mut network = sections.network.unwrap_or_else(|| Value::Object(Default::default()));
        // Read by itself: only the fields of what is read strictly are known by name.
        let own = network.get_mut("process").map(Value::take).filter(|own| !own.is_null());
        let own = own.map(|own| strict::from_value(own, BAD, "psld.spec: network.process")).transpose()?;
        let mut spec = Self {
            format: sections.format,
            process: strict::from_value(sections.process, BAD, "psld.spec: process")?,
            data: strict::from_value(sections.data, BAD, "psld.spec: data")?,
            network: strict::from_value(network, BAD, "psld.spec: network")?,
        };
        spec.network.process = own;
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

    /// Whether both describe the same model, whatever is known of its graph.
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        let whole_times = other.network.whole_times;
        let network = NetworkSpec { whole_times, ..self.network.clone() };
        Self { network, ..self.clone() } == *other
    }

    /// The spec as JSON text, as it is stored in a model.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a spec holds only finite numbers and strings")
    }

    /// The same spec with every default written out, for people and other programs. (Hashes are of the spec as it was given.)
    pub fn filled(&self) -> Self {
        let own = self.network.process.as_ref().map(ProcessSpec::filled);
        let network = NetworkSpec { process: own, time: Some(self.network_time()), ..self.network.clone() };
        Self { process: self.process.filled(), network, ..self.clone() }
    }

    fn check(&mut self) -> Result<()> {
        let bad = |message: String| Err(Error::new(Status::SpecInvalid, format!("psld.spec: {message}")));
        let process = self.process()?;
        let k = process.k();
        let own = self.network_process()?;
        if own.k() != 1 && self.network.process.is_some() {
            return bad(format!(
                "network.process: expected a process of k = 1, got k = {}; a phase-space network drives its own process \
                 only",
                own.k()
            ));
        }

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
        let kind = network.process.as_ref().unwrap_or(&self.process).kind;
        match network.prediction {
            Prediction::V if own.k() != 1 => {
                return bad(format!(
                    "network.prediction: `v` is defined for k = 1, this process has k = {k}"
                ));
            }
            Prediction::Edm if own.k() != 1 => {
                return bad(format!(
                    "network.prediction: `edm` is defined for k = 1, and the network's process has k = {k}; name the \
                     process that it was trained on in network.process"
                ));
            }
            Prediction::Velocity if kind != ProcessKind::Flow => {
                return bad(format!(
                    "network.prediction: `velocity` is that of process kind Flow, and the network's is {kind:?}"
                ));
            }
            _ => {}
        }
        match (network.prediction, network.sigma_data) {
            (Prediction::Edm, Some(s)) if !(s.is_finite() && s > 0.0) => {
                return bad(format!("network.sigma_data: expected a positive number, got {s}"));
            }
            (Prediction::Edm, None) => network.sigma_data = Some(0.5),
            (Prediction::Edm, _) | (_, None) => {}
            (other, Some(_)) => {
                return bad(format!(
                    "network.sigma_data: it belongs to prediction `edm`, and the prediction is {other:?}"
                ));
            }
        }
        match network.time {
            Some(NetworkTime::Sigma | NetworkTime::CNoise) if own.k() != 1 => {
                return bad(format!(
                    "network.time: a noise level is defined for k = 1, and the network's process has k = {k}"
                ));
            }
            Some(NetworkTime::Index) if own.entries().is_none() => {
                return bad(format!(
                    "network.time: `index` is an entry of a table of betas (process kind Ddpm), and the network's \
                     process is {kind:?}"
                ));
            }
            _ => {}
        }
        if !(network.time_scale.is_finite() && network.time_scale > 0.0) {
            return bad(format!(
                "network.time_scale: expected a positive number, got {}",
                network.time_scale
            ));
        }
        let whole_output = own.k() == 1 || network.prediction == Prediction::X0;
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
            Some(half) if network.prediction == Prediction::X0 || own.k() != 2 => {
                return bad(format!(
                    "network.predicts: {half:?} needs k = 2 and prediction `epsilon` or `score`, not k = {} and {:?}",
                    own.k(),
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

    /// The forward process that the network was trained on.
    ///
    /// # Errors
    /// [`Status::SpecInvalid`], naming the parameter and the rule.
    pub fn network_process(&self) -> Result<Process> {
        match &self.network.process {
            None => self.process(),
            Some(process) => process
                .build()
                .map_err(|e| Error::new(Status::SpecInvalid, "psld.spec: network.process").source(e)),
        }
    }

    /// What the network's time input holds.
    pub fn network_time(&self) -> NetworkTime {
        let kind = self.network.process.as_ref().unwrap_or(&self.process).kind;
        self.network.time.unwrap_or(match (self.network.prediction, kind) {
            (Prediction::Edm, _) => NetworkTime::CNoise,
            (_, ProcessKind::Ve | ProcessKind::Edm) => NetworkTime::Sigma,
            (_, ProcessKind::Ddpm) => NetworkTime::Index,
            _ => NetworkTime::T,
        })
    }

    /// How many blocks of C channels the network's state input has, for a process of `k`: k, or 1 where the network
    /// was trained on another process.
    pub fn input_blocks(&self, k: usize) -> usize {
        if self.network.process.is_some() { 1 } else { k }
    }

    /// How many blocks of C channels the output has: those of the input, or 1 for a half or a data estimate.
    pub fn output_blocks(&self, k: usize) -> usize {
        if self.is_gradient() {
            return k;
        }
        match (self.network.prediction, self.network.predicts) {
            (Prediction::X0 | Prediction::V | Prediction::Velocity | Prediction::Edm, _) => 1,
            (_, Some(Predicts::Momentum | Predicts::Position)) => 1,
            _ => self.input_blocks(k),
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
        let kind = self.kind;
        let (recipe, phase) = (kind == Recipe, matches!(kind, Psld | Cld | Recipe));
        let named = kind == Ddpm && self.betas.is_none();
        let cosine = self.schedule == Some(Schedule::Cosine);
        let given = [
            ("gamma", self.gamma.is_some(), kind == Psld),
            ("nu", self.nu.is_some(), matches!(kind, Psld | Cld)),
            ("kappa", self.kappa.is_some(), phase),
            ("decomposition", self.decomposition.is_some(), phase),
            ("score_matching", self.score_matching.is_some(), phase),
            ("d", self.d.is_some(), recipe),
            ("q", self.q.is_some(), recipe),
            ("s", self.s.is_some(), recipe),
            ("numerical_eps", self.numerical_eps.is_some(), phase || kind == Vp),
            ("beta_min", self.beta_min.is_some(), phase || kind == Vp || kind == Ddpm),
            ("beta_max", self.beta_max.is_some(), phase || kind == Vp || kind == Ddpm),
            ("sigma_min", self.sigma_min.is_some(), matches!(kind, Ve | Edm)),
            ("sigma_max", self.sigma_max.is_some(), matches!(kind, Ve | Edm)),
            ("betas", self.betas.is_some(), kind == Ddpm),
            ("schedule", self.schedule.is_some(), kind == Ddpm),
            ("entries", self.entries.is_some(), kind == Ddpm),
            ("offset", self.offset.is_some(), kind == Ddpm),
            ("max_beta", self.max_beta.is_some(), kind == Ddpm),
        ];
        // CLD is PSLD with gamma 0: a spec that says so in words is right, not an error.
        let cld_gamma_zero = self.kind == Cld && self.gamma == Some(0.0);
        if let Some((name, ..)) = given
            .iter()
            .find(|(name, set, applies)| *set && !applies && !(cld_gamma_zero && *name == "gamma"))
        {
            return Err(Error::argument(format!("`{name}` is no parameter of process kind {:?}", self.kind)));
        }
        if kind == Ddpm {
            // Among the parameters of ddpm, those that another of them excludes.
            let excluded = [
                ("schedule", self.schedule.is_some(), named, "beside `betas`"),
                ("entries", self.entries.is_some(), named, "beside `betas`"),
                (
                    "beta_min",
                    self.beta_min.is_some(),
                    named && !cosine,
                    "beside `betas` or a cosine schedule",
                ),
                (
                    "beta_max",
                    self.beta_max.is_some(),
                    named && !cosine,
                    "beside `betas` or a cosine schedule",
                ),
                ("offset", self.offset.is_some(), named && cosine, "without a cosine schedule"),
                ("max_beta", self.max_beta.is_some(), named && cosine, "without a cosine schedule"),
            ];
            if let Some((name, _, _, why)) = excluded.iter().find(|(_, set, applies, _)| *set && !applies) {
                return Err(Error::argument(format!("`{name}` has no meaning {why}")));
            }
        }
        self.filled().process()
    }

    /// With the defaults written out.
    fn filled(&self) -> Self {
        use ProcessKind::*;
        let or = |given: Option<f64>, default: f64| Some(given.unwrap_or(default));
        let mut full = self.clone();
        let phase = |full: &mut Self| {
            full.kappa = or(self.kappa, 0.04);
            full.decomposition = Some(self.decomposition.unwrap_or(Decomposition::Lower));
            full.score_matching = Some(self.score_matching.unwrap_or(ScoreMatching::Hsm));
        };
        match self.kind {
            Vp => {
                (full.beta_min, full.beta_max) = (or(self.beta_min, 0.1), or(self.beta_max, 20.0));
                full.numerical_eps = or(self.numerical_eps, 0.0);
            }
            Cld | Psld => {
                phase(&mut full);
                (full.beta_min, full.beta_max) = (or(self.beta_min, 8.0), or(self.beta_max, 8.0));
                let (gamma, nu) = if self.kind == Cld { (0.0, 4.0) } else { (0.01, 4.01) };
                (full.gamma, full.nu) = (or(self.gamma, gamma), or(self.nu, nu));
                full.numerical_eps = or(self.numerical_eps, 1e-9);
            }
            Recipe => {
                phase(&mut full);
                (full.beta_min, full.beta_max) = (or(self.beta_min, 1.0), or(self.beta_max, 1.0));
                let k = self.d.map_or(1, |d| d.rows());
                full.numerical_eps = or(self.numerical_eps, if k == 2 { 1e-9 } else { 0.0 });
            }
            Ve => (full.sigma_min, full.sigma_max) = (or(self.sigma_min, 0.01), or(self.sigma_max, 50.0)),
            Edm => (full.sigma_min, full.sigma_max) = (or(self.sigma_min, 0.002), or(self.sigma_max, 80.0)),
            Flow => {}
            Ddpm if self.betas.is_some() => {}
            Ddpm => {
                let schedule = self.schedule.unwrap_or(Schedule::Linear);
                full.schedule = Some(schedule);
                full.entries = Some(self.entries.unwrap_or(1000));
                let mut ends = |low, high| {
                    (full.beta_min, full.beta_max) = (or(self.beta_min, low), or(self.beta_max, high));
                };
                match schedule {
                    Schedule::Linear => ends(1e-4, 0.02),
                    Schedule::ScaledLinear => ends(0.00085, 0.012),
                    Schedule::Cosine => {
                        (full.offset, full.max_beta) = (or(self.offset, 0.008), or(self.max_beta, 0.999));
                    }
                }
            }
        }
        full
    }

    /// The process of a spec that is [filled](Self::filled).
    fn process(&self) -> Result<Process> {
        use ProcessKind::*;
        // What is not there passes no check.
        let number = |x: Option<f64>| x.unwrap_or(f64::NAN);
        let decomposition = self.decomposition.unwrap_or(Decomposition::Lower);
        let score_matching = self.score_matching.unwrap_or(ScoreMatching::Hsm);
        match self.kind {
            Vp => Process::vp(number(self.beta_min), number(self.beta_max), number(self.numerical_eps)),
            Cld | Psld => Process::psld(self::Psld {
                beta_min: number(self.beta_min),
                beta_max: number(self.beta_max),
                gamma: number(self.gamma),
                nu: number(self.nu),
                kappa: number(self.kappa),
                decomposition,
                score_matching,
                numerical_eps: number(self.numerical_eps),
            }),
            Ve => Process::ve(number(self.sigma_min), number(self.sigma_max)),
            Edm => Process::edm(number(self.sigma_min), number(self.sigma_max)),
            Flow => Ok(Process::flow()),
            Ddpm => match &self.betas {
                Some(betas) => Process::ddpm(betas),
                None => Process::ddpm(&self.table()?),
            },
            Recipe => {
                let required = |name: &str, m: Option<Mat>| {
                    m.ok_or_else(|| Error::argument(format!("`{name}` is required by process kind Recipe")))
                };
                Process::recipe(self::Recipe {
                    d: required("d", self.d)?,
                    q: required("q", self.q)?,
                    s: required("s", self.s)?,
                    beta: Beta { min: number(self.beta_min), max: number(self.beta_max) },
                    kappa: number(self.kappa),
                    numerical_eps: number(self.numerical_eps),
                    decomposition,
                    score_matching,
                })
            }
        }
    }

    /// The table of a named schedule, of a spec that is [filled](Self::filled).
    fn table(&self) -> Result<Vec<f64>> {
        let schedule = self.schedule.unwrap_or(Schedule::Linear);
        let n = self.entries.unwrap_or(1000);
        // Before anything of that size is made; Process::ddpm checks the rest.
        if !(2..=100_000).contains(&n) {
            return Err(Error::argument(format!("`entries` is {n}; expected 2 to 100000")));
        }
        let ends = [("beta_min", self.beta_min), ("beta_max", self.beta_max)];
        for (name, beta) in ends.into_iter().filter_map(|(name, beta)| Some((name, beta?))) {
            if !(beta > 0.0 && beta < 1.0) {
                return Err(Error::argument(format!(
                    "`{name}` is {beta:?}; an entry of a table of betas must be > 0 and < 1"
                )));
            }
        }
        // Those that the schedule does not have are not used.
        let number = |x: Option<f64>| x.unwrap_or(f64::NAN);
        let (low, high) = (number(self.beta_min), number(self.beta_max));
        let last = f64::from(n - 1);
        let between = |low: f64, high: f64, i: u32| low + (high - low) * (f64::from(i) / last);
        Ok(match schedule {
            Schedule::Linear => (0..n).map(|i| between(low, high, i)).collect(),
            Schedule::ScaledLinear => {
                let root = |i| between(libm::sqrt(low), libm::sqrt(high), i);
                (0..n).map(|i| root(i) * root(i)).collect()
            }
            Schedule::Cosine => {
                let (offset, most) = (number(self.offset), number(self.max_beta));
                if !(offset.is_finite() && offset >= 0.0) {
                    return Err(Error::argument(format!(
                        "`offset` is {offset:?}; it must be finite and >= 0"
                    )));
                }
                if !(most > 0.0 && most < 1.0) {
                    return Err(Error::argument(format!("`max_beta` is {most:?}; it must be > 0 and < 1")));
                }
                let f = |i: u32| {
                    let x = (f64::from(i) / f64::from(n) + offset) / (1.0 + offset);
                    let cos = libm::cos(std::f64::consts::FRAC_PI_2 * x);
                    cos * cos
                };
                (0..n).map(|i| f64::min(1.0 - f(i + 1) / f(i), most)).collect()
            }
        })
    }
}
