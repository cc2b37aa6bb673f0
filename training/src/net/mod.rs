//! Networks: each written once, over [`Ops`], and then listed, computed with libtorch or written as ONNX.

mod config;
mod declare;
mod graph;
mod mlp;
mod ncsnpp;
mod ops;
#[cfg(feature = "torch")]
mod torch;

use std::collections::{BTreeMap, HashSet};

use psld::noise::{Purpose, fill_f64, philox4x32};
use psld::{Error, Result, Status};

pub use config::{
    Classifier, Combine, Embedding, Mlp, Ncsnpp, NetConfig, Nonlinearity, PRESETS, Progressive,
    ProgressiveInput, ResBlock,
};
pub use graph::FEATURES;
pub(crate) use graph::{Ports, gradient, graph};
pub use ops::{Conv, Init, Kernel, Layer, NORM_EPSILON, Ops};
#[cfg(feature = "torch")]
pub use torch::{Mode, TorchParams};

use declare::Declare;

/// Values of parameters by name, each in row-major order.
pub type Weights = BTreeMap<String, Vec<f32>>;

/// A parameter of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// The authors' name for it, or ours where they have none.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// How it begins.
    pub init: Init,
    /// Whether training changes it.
    pub trained: bool,
}

impl ParamSpec {
    /// How many values it has.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no values at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A network: a configuration that was checked, and the parameters that it has.
#[derive(Clone, Debug)]
pub struct Network {
    config: NetConfig,
    parameters: Vec<ParamSpec>,
}

impl Network {
    /// The network of `config`, or what is wrong with it.
    pub fn new(config: &NetConfig) -> Result<Self> {
        config.check()?;
        let mut declare = Declare::default();
        let y = (config.classes() > 0).then(Vec::new);
        let output = build(config, &mut declare, config.state_shape(), Vec::new(), y);
        let parameters = declare.finish()?;
        debug_assert_eq!(output, config.output_shape());
        Ok(Self { config: config.clone(), parameters })
    }

    /// What it was made from.
    pub fn config(&self) -> &NetConfig {
        &self.config
    }

    /// Its parameters, in an order that never changes.
    pub fn parameters(&self) -> &[ParamSpec] {
        &self.parameters
    }

    /// Values to begin training with: a pure function of `seed`, each parameter having numbers of its own.
    pub fn initial_values(&self, seed: u64) -> Weights {
        let draws = 1..; // draw 0 is what a sampler with this seed starts from
        self.parameters.iter().zip(draws).map(|(p, draw)| (p.name.clone(), initial(p, seed, draw))).collect()
    }

    /// Whether `weights` are exactly this network's; if not, which names are missing, unexpected or have
    /// another number of values.
    pub fn check(&self, weights: &Weights) -> Result<()> {
        let found = weights.iter().map(|(name, values)| (name.as_str(), values.len()));
        self.compare(&found.collect(), |p, &count| match count == p.len() {
            true => Ok(()),
            false => Err(format!("{count} values")),
        })
    }

    /// The same for parameters of which only the shapes are known, which says more.
    pub(crate) fn check_shapes(&self, shapes: &BTreeMap<&str, &[usize]>) -> Result<()> {
        self.compare(shapes, |p, shape| match p.shape == *shape {
            true => Ok(()),
            false => Err(format!("{shape:?}")),
        })
    }

    /// Compares what was `found` under each name with the parameters; `fits` describes it if it does not fit.
    fn compare<F>(
        &self,
        found: &BTreeMap<&str, F>,
        fits: impl Fn(&ParamSpec, &F) -> Result<(), String>,
    ) -> Result<()> {
        /// A wrong option shifts all names behind it, and the first ones tell which it is.
        const NAMED: usize = 16;
        let (mut missing, mut misshaped) = (Vec::new(), Vec::new());
        for p in &self.parameters {
            match found.get(&p.name[..]).map(|found| fits(p, found)) {
                None => missing.push(p.name.clone()),
                Some(Err(got)) => misshaped.push(format!("{} (expected {:?}, got {got})", p.name, p.shape)),
                Some(Ok(())) => {}
            }
        }
        let known: HashSet<_> = self.parameters.iter().map(|p| &p.name[..]).collect();
        let unexpected = found.keys().filter(|name| !known.contains(*name)).map(|name| name.to_string());
        let lists =
            [("missing", missing), ("unexpected", unexpected.collect()), ("of another shape", misshaped)];
        let found: Vec<_> = lists
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| {
                let more = match names.len().saturating_sub(NAMED) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!("{} {what}: {}{more}", names.len(), names[..names.len().min(NAMED)].join(", "))
            })
            .collect();
        if found.is_empty() {
            return Ok(());
        }
        Err(Error::new(Status::ShapeMismatch, found.join("; "))
            .context("the parameters are not those of the configured network")
            .hint("compare the network's configuration with the one that these parameters were trained with"))
    }

    /// Reads the network with `ops`.
    pub fn build<O: Ops>(&self, ops: &mut O, z: O::T, t: O::T, y: Option<O::T>) -> O::T {
        build(&self.config, ops, z, t, y)
    }
}

fn build<O: Ops>(config: &NetConfig, ops: &mut O, z: O::T, t: O::T, y: Option<O::T>) -> O::T {
    match config {
        NetConfig::Ncsnpp(config) => ncsnpp::ncsnpp(ops, config, z, t, y),
        NetConfig::Classifier(config) => ncsnpp::classifier(ops, &config.encoder, config.n_cls, z, t),
        NetConfig::Mlp(config) => mlp::mlp(ops, config, z, t, y),
    }
}

fn initial(p: &ParamSpec, seed: u64, draw: u32) -> Vec<f32> {
    let normals = |std: f64| {
        let mut values = vec![0.0; p.len()];
        fill_f64(seed, Purpose::Prior, draw, 0, &mut values);
        values.iter().map(|normal| (std * normal) as f32).collect()
    };
    match p.init {
        Init::Constant(value) => vec![value as f32; p.len()],
        Init::Normal(std) | Init::Fixed(std) => normals(std),
        Init::FanAverage(scale) => {
            let kernel: usize = p.shape[2..].iter().product();
            let fan = (kernel * (p.shape[0] + p.shape[1])) as f64 / 2.0;
            let scale = if scale == 0.0 { 1e-10 } else { scale };
            // Uniform in [-bound, bound] has variance bound^2 / 3.
            let bound = (3.0 * scale / fan).sqrt();
            let key = [seed as u32, (seed >> 32) as u32];
            let words = (0..p.len().div_ceil(4))
                .flat_map(|block| philox4x32([block as u32, draw, Purpose::Prior as u32, 0], key));
            let unit = |word: u32| (f64::from(word) + 0.5) / (1u64 << 31) as f64 - 1.0;
            words.take(p.len()).map(|word| (bound * unit(word)) as f32).collect()
        }
    }
}
