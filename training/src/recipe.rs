//! A training run as a document: data, process, network, and how to train it.
//!
//! Recipes are TOML (`training/recipes/`); every field can be overridden on the command line
//! (`--set train.lr=1e-4`). The process has the fields of `psld.spec`, the network those of its configuration.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use psld::network::analytic::Mixture;
use psld::{Error, ModelSpec, Result, SamplerSpec, Status};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::net::NetConfig;

/// A whole training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What is learned from.
    pub data: DataRecipe,
    /// The forward process, as in `psld.spec`.
    pub process: Map<String, Value>,
    /// The network: `preset` and fields that differ from it, or `kind` and fields. Channels, image size and number
    /// of classes follow from data and process.
    pub net: Map<String, Value>,
    /// How it is trained.
    #[serde(default)]
    pub train: TrainRecipe,
    /// What is written along the way.
    #[serde(default)]
    pub output: OutputRecipe,
}

/// The kinds of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataKind {
    /// CIFAR-10, as `psld-training data fetch` leaves it.
    Cifar10,
    /// MNIST.
    Mnist,
    /// Fashion-MNIST.
    FashionMnist,
    /// A folder of PNG, JPEG or WebP files; subfolders are classes.
    Folder,
    /// A `.npy` array, [samples, ...]: floating-point values as they are, integers as levels of 0 to 255.
    Npy,
    /// Points drawn from a Gaussian mixture, whose exact score is known.
    Mixture,
}

/// What is learned from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// Which kind.
    pub kind: DataKind,
    /// File or folder; by default `data/` and the kind's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Whether the network sees the labels.
    #[serde(default)]
    pub labels: bool,
    /// Labels of a `.npy` array: a second one, [samples] of integers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels_path: Option<PathBuf>,
    /// Whether images are mirrored at random.
    #[serde(default)]
    pub flip: bool,
    /// Height and width: files of a folder are resized and cropped to it, smaller images padded with the lowest
    /// value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// Channels of the images of a folder, 1 or 3; default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<usize>,
    /// The smallest and largest value of a floating-point array; default: those that occur.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
    /// Uses only this many samples, the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Leaves out unreadable files of a folder instead of stopping at them.
    #[serde(default)]
    pub skip_bad: bool,
    /// The mixture that points are drawn from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixture: Option<MixtureRecipe>,
}

/// A Gaussian mixture to draw points from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixtureRecipe {
    /// Weight of each component.
    pub weights: Vec<f64>,
    /// Mean of each component.
    pub means: Vec<Vec<f64>>,
    /// Variance of each component, the same in every direction.
    pub variances: Vec<f64>,
    /// Points to draw.
    pub count: usize,
}

impl MixtureRecipe {
    /// What psld's exact network is made of.
    pub fn mixture(&self) -> Mixture {
        Mixture {
            weights: self.weights.clone(),
            means: self.means.clone(),
            variances: self.variances.clone(),
            labels: Vec::new(),
        }
    }
}

/// An optimiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam; weight decay, if any, goes into the gradient.
    Adam,
    /// Adam with weight decay apart from the gradient.
    AdamW,
}

/// What the network computes in; master weights and the loss are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    Fp32,
    /// bfloat16.
    Bf16,
}

/// How errors at different times are weighted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weighting {
    /// |eps_net - eps|^2, as published.
    Eps,
    /// |G^T (s_net - s)|^2, the bound on the likelihood.
    Likelihood,
}

/// How times are drawn within a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Times {
    /// Independently, as published.
    Uniform,
    /// One from each of as many equal intervals as there are samples, so that losses vary less.
    Stratified,
}

/// How the network is trained; the defaults are the published ones (arXiv 2303.01748, CIFAR-10).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainRecipe {
    /// Samples of a step.
    pub batch: usize,
    /// Parts that a batch is computed in, one after another.
    pub accumulation: usize,
    /// Steps in all.
    pub steps: u64,
    /// The learning rate after warm-up.
    pub lr: f64,
    /// Steps over which the learning rate grows from 0.
    pub warmup: u64,
    /// The share of the steps, at the end, over which the learning rate falls to 0 along a half cosine.
    pub cooldown: f64,
    /// The largest norm of a gradient; 0: any.
    pub clip: f64,
    /// Decay of the running average of the weights.
    pub ema: f64,
    /// Whether the average reaches back over no more than about a tenth of the steps so far, so that it has forgotten
    /// the initial weights early; published runs wait.
    pub ema_warmup: bool,
    /// The optimiser.
    pub optimizer: Optimizer,
    /// Its decay rates.
    pub betas: [f64; 2],
    /// What keeps it from dividing by 0.
    pub eps: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Where all randomness comes from.
    pub seed: u64,
    /// What the network computes in.
    pub precision: Precision,
    /// How errors at different times are weighted.
    pub weighting: Weighting,
    /// How times are drawn.
    pub times: Times,
    /// The interval that times are drawn from.
    pub t_range: [f64; 2],
    /// The share of samples whose label is withheld, so that the network also learns without it.
    pub label_dropout: f64,
    /// Stops with a checkpoint after this long: `90s`, `9m`, `1.5h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_budget: Option<Span>,
}

impl Default for TrainRecipe {
    fn default() -> Self {
        Self {
            batch: 128,
            accumulation: 1,
            steps: 800_000,
            lr: 2e-4,
            warmup: 5000,
            cooldown: 0.0,
            clip: 1.0,
            ema: 0.9999,
            ema_warmup: false,
            optimizer: Optimizer::Adam,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            seed: 0,
            precision: Precision::Fp32,
            weighting: Weighting::Eps,
            times: Times::Uniform,
            t_range: [1e-5, 1.0],
            label_dropout: 0.1,
            time_budget: None,
        }
    }
}

/// What is written along the way, in steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputRecipe {
    /// Steps between lines of the log.
    pub log: u64,
    /// Steps between checkpoints.
    pub checkpoint: u64,
    /// Checkpoints that are kept.
    pub keep: usize,
    /// Steps between grids of samples; 0: none.
    pub sample: u64,
    /// Samples of a grid.
    pub samples: usize,
    /// How they are drawn; psld's sampler options.
    pub sampler: Map<String, Value>,
}

impl Default for OutputRecipe {
    fn default() -> Self {
        Self { log: 100, checkpoint: 5000, keep: 2, sample: 10_000, samples: 64, sampler: Map::new() }
    }
}

/// A length of time, `90s`, `9m` or `1.5h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl std::str::FromStr for Span {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let seconds = text
            .char_indices()
            .last()
            .and_then(|(end, unit)| {
                let scale =
                    [('s', 1.0), ('m', 60.0), ('h', 3600.0)].into_iter().find(|(name, _)| *name == unit)?;
                Some(text[..end].parse::<f64>().ok()? * scale.1)
            })
            .filter(|seconds| (0.0..1e9).contains(seconds));
        match seconds {
            Some(seconds) => Ok(Self(Duration::from_secs_f64(seconds))),
            None => Err(Error::argument(format!("`{text}`: expected a length of time like 90s, 9m or 1.5h"))),
        }
    }
}

impl TryFrom<String> for Span {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0.as_secs_f64())
    }
}

impl Recipe {
    /// Reads a recipe file and applies `overrides`, each `section.field=value`.
    ///
    /// # Errors
    /// [`Status::ReadFailed`], or [`Status::InvalidConfig`] naming the field and the nearest known one.
    pub fn from_file(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::new(Status::ReadFailed, format!("{}: cannot be read", path.display())).source(e)
        })?;
        Self::parse(&text, overrides).map_err(|e| e.context(path.display()))
    }

    /// Reads a recipe and applies `overrides`; see [`from_file`](Self::from_file).
    pub fn parse(text: &str, overrides: &[String]) -> Result<Self> {
        // Without overrides the text itself is read, so that errors come with line and column.
        if overrides.is_empty() {
            return toml::from_str::<Self>(text).map_err(|e| invalid(e.to_string())).and_then(Self::checked);
        }
        let table = toml::from_str(text).map_err(|e: toml::de::Error| invalid(e.to_string()))?;
        Self::overridden(table, overrides)
    }

    /// This recipe with `overrides` applied.
    pub fn with(&self, overrides: &[String]) -> Result<Self> {
        let table = toml::Table::try_from(self).map_err(|e| {
            Error::new(Status::Internal, "a recipe that was read cannot be written").source(e)
        })?;
        Self::overridden(table, overrides)
    }

    fn overridden(mut table: toml::Table, overrides: &[String]) -> Result<Self> {
        for text in overrides {
            set(&mut table, text)?;
        }
        table.try_into::<Self>().map_err(|e| invalid(e.message().to_string())).and_then(Self::checked)
    }

    /// The recipe as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe holds only numbers, strings, arrays and tables")
    }

    fn checked(self) -> Result<Self> {
        let t = &self.train;
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let decay = |x: f64| (0.0..1.0).contains(&x);
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let not_negative = |x: f64| x.is_finite() && x >= 0.0;
        let [t_min, t_max] = t.t_range;
        let rules = [
            (t.batch > 0, "train.batch: expected at least 1"),
            (
                t.accumulation > 0 && t.batch.is_multiple_of(t.accumulation.max(1)),
                "train.accumulation: expected a divisor of train.batch",
            ),
            (t.steps > 0, "train.steps: expected at least 1"),
            (positive(t.lr), "train.lr: expected a positive number"),
            (share(t.cooldown), "train.cooldown: expected 0 to 1"),
            (not_negative(t.clip), "train.clip: expected a number of at least 0"),
            (decay(t.ema), "train.ema: expected 0 to below 1"),
            (t.betas.into_iter().all(decay), "train.betas: expected two numbers from 0 to below 1"),
            (positive(t.eps), "train.eps: expected a positive number"),
            (not_negative(t.weight_decay), "train.weight_decay: expected a number of at least 0"),
            (share(t.label_dropout), "train.label_dropout: expected 0 to 1"),
            (
                t_min >= 1e-7 && t_min < t_max && t_max <= 1.0,
                "train.t_range: expected 1e-7 <= low < high <= 1",
            ),
            (self.output.log > 0, "output.log: expected at least 1"),
            (self.output.checkpoint > 0, "output.checkpoint: expected at least 1"),
            (self.output.keep > 0, "output.keep: expected at least 1"),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(Error::new(Status::InvalidConfig, rule)),
            None => Ok(self),
        }
    }

    /// The spec of the network that this recipe trains on data of `shape` and `range`, of `classes` classes.
    pub fn spec(&self, shape: &[usize], range: [f64; 2], classes: usize) -> Result<ModelSpec> {
        let conditional = self.data.labels && !self.is_classifier()?;
        if self.data.labels && classes == 0 {
            return Err(Error::new(Status::InvalidConfig, "data.labels: the data have no labels"));
        }
        let network = match conditional {
            true => json!({"label_input": "y", "classes": classes}),
            false => json!({}),
        };
        let document = json!({
            "format": 1, "process": self.process, "data": {"shape": shape, "range": range}, "network": network,
        });
        ModelSpec::parse(&document.to_string())
    }

    /// The configuration of the network for models of `spec`, told apart `classes` classes if it is a classifier.
    pub fn network(&self, spec: &ModelSpec, classes: usize) -> Result<NetConfig> {
        let k = spec.process()?.k();
        let shape = &spec.data.shape;
        let mut config = self.net_fields()?;
        config.insert("in_ch".into(), json!(k * shape[0]));
        config.insert("out_ch".into(), json!(spec.output_blocks(k) * shape[0]));
        let kind = kind(&config).to_string();
        if kind == "mlp" {
            config.insert("extent".into(), json!(shape[1..]));
        } else {
            let &[_, height, width] = shape.as_slice() else {
                return Err(invalid(format!(
                    "net.kind: `{kind}` takes images, the data have shape {shape:?}"
                ))
                .hint("`mlp` takes data of any shape"));
            };
            if height != width {
                return Err(invalid(format!(
                    "data: `{kind}` takes square images, these are {height} x {width}"
                )));
            }
            config.insert("image_size".into(), json!(height));
        }
        if kind == "classifier" {
            if classes == 0 {
                return Err(invalid("net.kind: a classifier needs labels, and the data have none".into()));
            }
            config.insert("n_cls".into(), json!(classes));
        } else {
            config.insert("classes".into(), json!(spec.network.classes));
        }
        serde_json::from_value(Value::Object(config)).map_err(|e| invalid(e.to_string()).context("net"))
    }

    /// Whether the network tells classes apart instead of predicting epsilon.
    pub fn is_classifier(&self) -> Result<bool> {
        Ok(kind(&self.net_fields()?) == "classifier")
    }

    /// The preset's fields, with the recipe's own over them.
    fn net_fields(&self) -> Result<Map<String, Value>> {
        const DERIVED: [&str; 6] = ["in_ch", "out_ch", "image_size", "extent", "classes", "n_cls"];
        if let Some(derived) = DERIVED.iter().find(|name| self.net.contains_key(**name)) {
            return Err(invalid(format!("net.{derived}: follows from data and process, and is not set")));
        }
        with_preset(self.net.clone()).map_err(|e| e.context("net"))
    }

    /// How grids of samples are drawn.
    pub fn sampler(&self) -> Result<SamplerSpec> {
        SamplerSpec::from_json(Value::Object(self.output.sampler.clone()))
            .map_err(|e| e.context("output.sampler"))
    }
}

/// A network's fields: those of the preset that `preset` names, if it is there, with the others over them.
///
/// # Errors
/// [`Status::InvalidArgument`] for a preset that does not exist, [`Status::InvalidConfig`] for what is no name.
pub fn with_preset(mut fields: Map<String, Value>) -> Result<Map<String, Value>> {
    let mut config = match fields.remove("preset") {
        None => Map::new(),
        Some(Value::String(name)) => match serde_json::to_value(NetConfig::preset(&name)?) {
            Ok(Value::Object(preset)) => preset,
            _ => return Err(Error::new(Status::Internal, format!("the preset `{name}` is no table"))),
        },
        Some(other) => return Err(invalid(format!("preset: expected a name, got {other}"))),
    };
    config.append(&mut fields);
    Ok(config)
}

/// The kind of a network's configuration.
fn kind(config: &Map<String, Value>) -> &str {
    config.get("kind").and_then(Value::as_str).unwrap_or("ncsnpp")
}

/// `a.b.c=value`; a value that is no TOML is a string.
fn set(table: &mut toml::Table, text: &str) -> Result<()> {
    let Some((path, value)) = text.split_once('=') else {
        return Err(Error::argument(format!("--set {text}: expected section.field=value")));
    };
    let value = match toml::from_str::<toml::Table>(&format!("v = {value}")) {
        Ok(mut parsed) if parsed.len() == 1 => parsed.remove("v"),
        _ => None,
    }
    .unwrap_or_else(|| toml::Value::String(value.into()));
    let (sections, field) = path.rsplit_once('.').map_or((None, path), |(s, f)| (Some(s), f));
    let mut table = table;
    for section in sections.into_iter().flat_map(|s| s.split('.')) {
        let entry = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        table = entry
            .as_table_mut()
            .ok_or_else(|| Error::argument(format!("--set {text}: `{section}` is no section")))?;
    }
    table.insert(field.into(), value);
    Ok(())
}

/// An error about a recipe; serde's "unknown field `x`, expected one of `y`, `z`" gets the nearest as its hint.
fn invalid(message: String) -> Error {
    let mut names = message.split('`').skip(1).step_by(2);
    let nearest = message.contains("unknown").then(|| {
        let wrong = names.next()?;
        let similarity = |name: &str| strsim::jaro_winkler(wrong, name);
        names.max_by(|a, b| similarity(a).total_cmp(&similarity(b))).filter(|name| similarity(name) > 0.75)
    });
    let error = Error::new(Status::InvalidConfig, message.trim_end());
    match nearest.flatten() {
        Some(name) => error.hint(format!("did you mean `{name}`?")),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "[data]\nkind = 'mnist'\n[process]\nkind = 'psld'\n[net]\npreset = 'tiny'\n";

    #[test]
    fn unknown_fields_name_the_nearest() {
        let error = Recipe::parse(&format!("{MINIMAL}[train]\nwarm_up = 3\n"), &[]).unwrap_err().to_string();
        assert!(error.contains("warm_up") && error.contains("did you mean `warmup`?"), "{error}");
        assert!(error.contains("line 8"), "{error}");
        let error = Recipe::parse(MINIMAL, &["train.learning=1".into()]).unwrap_err().to_string();
        assert!(error.contains("unknown field `learning`"), "{error}");
        let error = Recipe::parse(MINIMAL, &["data.kind=fashion-mnits".into()]).unwrap_err().to_string();
        assert!(error.contains("did you mean `fashion-mnist`?"), "{error}");
        let spec = |set: &str| Recipe::parse(MINIMAL, &[set.into()])?.spec(&[1, 28, 28], [-1.0, 1.0], 10);
        assert!(spec("process.gama=0.1").unwrap_err().to_string().contains("did you mean `gamma`?"));
    }

    #[test]
    fn every_field_can_be_overridden() {
        let set =
            ["train.lr=1e-4", "train.time_budget=9m", "data.path=a b", "output.sampler.nfe=7", "net.nf=8"];
        let recipe = Recipe::parse(MINIMAL, &set.map(String::from)).unwrap();
        assert_eq!(recipe.train.lr, 1e-4);
        assert_eq!(recipe.train.time_budget, Some(Span(Duration::from_secs(540))));
        assert_eq!(recipe.data.path.as_deref(), Some(Path::new("a b")));
        assert_eq!(recipe.sampler().unwrap().nfe, Some(7));
        assert_eq!(recipe.net["nf"], 8);
        assert_eq!(Recipe::parse(&recipe.to_toml(), &[]).unwrap(), recipe);
    }

    #[test]
    fn values_out_of_range_are_named() {
        for (set, field) in [
            ("train.lr=0", "train.lr"),
            ("train.accumulation=3", "train.accumulation"),
            ("train.t_range=[0,1]", "t_range"),
        ] {
            let error = Recipe::parse(MINIMAL, &[set.into()]).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn the_recipes_that_come_along_build_and_keep_their_size() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
        let mut sizes = std::collections::BTreeMap::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let recipe = Recipe::from_file(&path, &[]).unwrap();
            let (shape, classes) = match recipe.data.kind {
                DataKind::Cifar10 => (vec![3, 32, 32], 10),
                DataKind::Mixture => (vec![2], 0),
                _ => (vec![1, 28, 28], 10),
            };
            let spec = recipe.spec(&shape, [-1.0, 1.0], classes).unwrap();
            let network = crate::net::Network::new(&recipe.network(&spec, classes).unwrap()).unwrap();
            recipe.sampler().unwrap();
            let count: usize = network.parameters().iter().map(|p| p.len()).sum();
            sizes.insert(path.file_stem().unwrap().to_string_lossy().into_owned(), count);
        }
        println!("{sizes:?}");
        assert!(4 * sizes["fashion-small"] <= 4_000_000, "{sizes:?}");
        assert!(2 * sizes["cifar10-small"] <= 12_000_000, "{sizes:?}");
    }
}
