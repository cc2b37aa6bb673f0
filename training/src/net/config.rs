//! What a network is made of.

use psld::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};

/// The configuration of a network, tagged by `kind`.
///
/// A document without `kind` is read as the published ones are meant: a classifier if it has `n_cls`, else an
/// NCSN++.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum NetConfig {
    /// The U-Net of the published checkpoints.
    Ncsnpp(Ncsnpp),
    /// Its encoder, with class scores at the end: p(class | z, t).
    Classifier(Classifier),
    /// Residual linear layers, for vector data.
    Mlp(Mlp),
}

/// NCSN++ with the authors' field names; the defaults are their CIFAR-10 ablation's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ncsnpp {
    /// Channels of the state.
    pub in_ch: usize,
    /// Channels of the output.
    pub out_ch: usize,
    /// The activation.
    pub nonlinearity: Nonlinearity,
    /// Channels at full resolution, in units of which `ch_mult` counts.
    pub nf: usize,
    /// Channels at each resolution; each one is half as large as the one before.
    pub ch_mult: Vec<usize>,
    /// Residual blocks at each resolution (one more on the way up).
    pub num_res_blocks: usize,
    /// The resolutions that have attention.
    pub attn_resolutions: Vec<usize>,
    /// The share of features that training drops in each block.
    pub dropout: f64,
    /// Whether resampling between levels of `ddpm` blocks is followed by a convolution.
    pub resamp_with_conv: bool,
    /// Whether the network sees the time.
    pub noise_cond: bool,
    /// Whether resampling filters.
    pub fir: bool,
    /// The filter.
    pub fir_kernel: [u32; 4],
    /// Whether sums of two branches are divided by sqrt 2.
    pub skip_rescale: bool,
    /// The kind of residual block.
    pub resblock_type: ResBlock,
    /// The pyramid of outputs.
    pub progressive: Progressive,
    /// The pyramid of inputs.
    pub progressive_input: ProgressiveInput,
    /// How the input pyramid enters.
    pub progressive_combine: Combine,
    /// How the network sees the time.
    pub embedding_type: Embedding,
    /// Scale of the initial weights that end a branch; 0 starts every branch at 0.
    pub init_scale: f64,
    /// Standard deviation of the frequencies of a `fourier` embedding.
    pub fourier_scale: f64,
    /// Height and width of the images.
    pub image_size: usize,
    /// Classes of the label input, which has one more value for "no class"; 0 for a network without labels.
    pub classes: usize,
}

/// The noise-conditional classifier: an [`Ncsnpp`] up to its middle, then one linear layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Classifier {
    /// The encoder.
    #[serde(flatten)]
    pub encoder: Ncsnpp,
    /// Classes that it tells apart.
    pub n_cls: usize,
}

/// A residual multi-layer perceptron.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mlp {
    /// Channels of the state.
    pub in_ch: usize,
    /// Channels of the output.
    pub out_ch: usize,
    /// The dimensions behind the channels; none for plain vectors.
    pub extent: Vec<usize>,
    /// Features of the hidden layers.
    pub width: usize,
    /// Residual blocks.
    pub blocks: usize,
    /// The share of features that training drops in each block.
    pub dropout: f64,
    /// How the network sees the time.
    pub embedding_type: Embedding,
    /// Standard deviation of the frequencies of a `fourier` embedding.
    pub fourier_scale: f64,
    /// Scale of the initial weights that end a branch; 0 starts every branch at 0.
    pub init_scale: f64,
    /// Classes of the label input, which has one more value for "no class"; 0 for a network without labels.
    pub classes: usize,
}

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {$($(#[$variant_doc])* $variant),*}
    };
}

names! {
    /// An activation.
    Nonlinearity {
        /// x sigmoid(x).
        Swish
    }
}
names! {
    /// A kind of residual block.
    ResBlock {
        /// Resamples inside the block.
        Biggan,
        /// Resamples between blocks.
        Ddpm
    }
}
names! {
    /// A pyramid of outputs.
    Progressive {
        /// None.
        None,
        /// The output is a sum of outputs at all resolutions.
        OutputSkip,
        /// Features of all resolutions are added on the way up.
        Residual
    }
}
names! {
    /// A pyramid of inputs.
    ProgressiveInput {
        /// None.
        None,
        /// The shrunk input enters at every resolution.
        InputSkip,
        /// The same through convolutions, and it adds up.
        Residual
    }
}
names! {
    /// How two feature maps become one.
    Combine {
        /// Their sum.
        Sum,
        /// One behind the other.
        Cat
    }
}
names! {
    /// A time embedding.
    Embedding {
        /// Random frequencies of ln t.
        Fourier,
        /// Geometric frequencies of t.
        Positional
    }
}

impl Default for Ncsnpp {
    fn default() -> Self {
        Self {
            in_ch: 6,
            out_ch: 6,
            nonlinearity: Nonlinearity::Swish,
            nf: 128,
            ch_mult: vec![1, 2, 2, 2],
            num_res_blocks: 2,
            attn_resolutions: vec![16],
            dropout: 0.1,
            resamp_with_conv: true,
            noise_cond: true,
            fir: false,
            fir_kernel: FIR_KERNEL,
            skip_rescale: true,
            resblock_type: ResBlock::Biggan,
            progressive: Progressive::None,
            progressive_input: ProgressiveInput::None,
            progressive_combine: Combine::Sum,
            embedding_type: Embedding::Positional,
            init_scale: 0.0,
            fourier_scale: 16.0,
            image_size: 32,
            classes: 0,
        }
    }
}

impl Default for Mlp {
    fn default() -> Self {
        Self {
            in_ch: 4,
            out_ch: 4,
            extent: Vec::new(),
            width: 128,
            blocks: 4,
            dropout: 0.0,
            embedding_type: Embedding::Fourier,
            // Vectors are learned by few parameters: frequencies as high as those for images would be noise.
            fourier_scale: 0.2,
            init_scale: 0.0,
            classes: 0,
        }
    }
}

/// The only filter that published networks use, and the one that `net::ncsnpp` knows how to apply.
const FIR_KERNEL: [u32; 4] = [1, 3, 3, 1];

impl<'de> Deserialize<'de> for NetConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fn rest<T: de::DeserializeOwned, E: de::Error>(fields: Map<String, Value>) -> Result<T, E> {
            serde_json::from_value(Value::Object(fields)).map_err(E::custom)
        }
        let mut fields = Map::deserialize(deserializer)?;
        let kind = match fields.remove("kind") {
            Some(Value::String(kind)) => kind,
            Some(other) => return Err(de::Error::custom(format!("kind: expected a name, got {other}"))),
            None if fields.contains_key("n_cls") => "classifier".into(),
            None => "ncsnpp".into(),
        };
        match kind.as_str() {
            "ncsnpp" => rest(fields).map(Self::Ncsnpp),
            "mlp" => rest(fields).map(Self::Mlp),
            "classifier" => {
                let n_cls = fields.remove("n_cls").ok_or_else(|| de::Error::missing_field("n_cls"))?;
                let n_cls =
                    serde_json::from_value(n_cls).map_err(|e| de::Error::custom(format!("n_cls: {e}")))?;
                rest(fields).map(|encoder| Self::Classifier(Classifier { encoder, n_cls }))
            }
            _ => Err(de::Error::unknown_variant(&kind, &["ncsnpp", "classifier", "mlp"])),
        }
    }
}

/// The names that [`NetConfig::preset`] knows.
pub const PRESETS: [&str; 7] =
    ["tiny", "small", "cifar10-ddpmpp", "cifar10-best", "celeba64", "afhq128", "classifier-cifar10"];

impl NetConfig {
    /// A configuration by its name: the published ones, and two that a CPU can train.
    pub fn preset(name: &str) -> Result<Self> {
        let ablation = Ncsnpp::default;
        let best = || Ncsnpp {
            fir: true,
            progressive_input: ProgressiveInput::Residual,
            embedding_type: Embedding::Fourier,
            ..ablation()
        };
        Ok(Self::Ncsnpp(match name {
            "tiny" => Ncsnpp {
                nf: 16,
                ch_mult: vec![1, 2],
                num_res_blocks: 1,
                attn_resolutions: vec![],
                ..ablation()
            },
            "small" => Ncsnpp { nf: 32, ch_mult: vec![1, 2, 2], num_res_blocks: 3, ..ablation() },
            "cifar10-ddpmpp" => ablation(),
            "cifar10-best" => Ncsnpp { ch_mult: vec![2, 2, 2], num_res_blocks: 8, dropout: 0.15, ..best() },
            "celeba64" => Ncsnpp { num_res_blocks: 4, image_size: 64, ..best() },
            "afhq128" => Ncsnpp { ch_mult: vec![1, 2, 2, 2, 3], dropout: 0.2, image_size: 128, ..ablation() },
            "classifier-cifar10" => {
                let encoder = Ncsnpp {
                    ch_mult: vec![1, 2, 3, 4],
                    num_res_blocks: 4,
                    attn_resolutions: vec![16, 8],
                    ..ablation()
                };
                return Ok(Self::Classifier(Classifier { encoder, n_cls: 10 }));
            }
            _ => {
                let message =
                    format!("unknown network preset `{name}`; expected one of {}", PRESETS.join(", "));
                return Err(Error::argument(message));
            }
        }))
    }

    /// The shape of one sample's state.
    pub fn state_shape(&self) -> Vec<usize> {
        match self {
            Self::Ncsnpp(c) | Self::Classifier(Classifier { encoder: c, .. }) => {
                vec![c.in_ch, c.image_size, c.image_size]
            }
            Self::Mlp(c) => std::iter::once(c.in_ch).chain(c.extent.iter().copied()).collect(),
        }
    }

    /// The shape of one sample's output.
    pub fn output_shape(&self) -> Vec<usize> {
        match self {
            Self::Ncsnpp(c) => vec![c.out_ch, c.image_size, c.image_size],
            Self::Classifier(c) => vec![c.n_cls],
            Self::Mlp(c) => std::iter::once(c.out_ch).chain(c.extent.iter().copied()).collect(),
        }
    }

    /// Classes of the label input; 0 if it has none.
    pub fn classes(&self) -> usize {
        match self {
            Self::Ncsnpp(c) => c.classes,
            Self::Classifier(_) => 0,
            Self::Mlp(c) => c.classes,
        }
    }

    /// The share of features that training drops.
    pub fn dropout(&self) -> f64 {
        match self {
            Self::Ncsnpp(c) | Self::Classifier(Classifier { encoder: c, .. }) => c.dropout,
            Self::Mlp(c) => c.dropout,
        }
    }

    /// Checks what holds without looking at the layers.
    pub(super) fn check(&self) -> Result<()> {
        let positive = |fields: &[(&str, usize)]| match fields.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(Error::argument(format!("network: {name} must be at least 1"))),
            None => Ok(()),
        };
        let share = self.dropout();
        if !(0.0..1.0).contains(&share) {
            return Err(Error::argument(format!("network: dropout must be in [0, 1), not {share}")));
        }
        match self {
            Self::Ncsnpp(c) => c.check(),
            Self::Classifier(c) => {
                positive(&[("n_cls", c.n_cls)])?;
                if c.encoder.classes != 0 {
                    return Err(Error::argument(
                        "network: a classifier's `classes` must be 0: it takes no labels",
                    ));
                }
                c.encoder.check()
            }
            Self::Mlp(c) => {
                let extent = c.extent.iter().product();
                positive(&[
                    ("in_ch", c.in_ch),
                    ("out_ch", c.out_ch),
                    ("extent", extent),
                    ("blocks", c.blocks),
                ])?;
                even_width("width", c.width)?;
                scales(c.init_scale, c.fourier_scale)
            }
        }
    }
}

impl Ncsnpp {
    fn check(&self) -> Result<()> {
        let bad = |message: String| Err(Error::argument(format!("network: {message}")));
        let levels = self.ch_mult.len();
        let size = self.image_size;
        if self.in_ch == 0 || self.out_ch == 0 {
            return bad(format!(
                "in_ch and out_ch must be at least 1, not {} and {}",
                self.in_ch, self.out_ch
            ));
        }
        even_width("nf", self.nf)?;
        if levels == 0 || self.ch_mult.contains(&0) {
            return bad(format!(
                "ch_mult must name at least one level and none can be 0, not {:?}",
                self.ch_mult
            ));
        }
        if self.num_res_blocks == 0 {
            return bad("num_res_blocks must be at least 1".into());
        }
        if size == 0
            || u32::try_from(levels - 1)
                .ok()
                .and_then(|n| 2usize.checked_pow(n))
                .is_none_or(|n| !size.is_multiple_of(n))
        {
            return bad(format!(
                "image_size must be divisible by 2 once for each of the {} resolutions after the first, {size} is not",
                levels - 1
            ));
        }
        let resolutions: Vec<_> = (0..levels).map(|level| size >> level).collect();
        if let Some(stranger) = self.attn_resolutions.iter().find(|r| !resolutions.contains(r)) {
            return bad(format!("attn_resolutions: {stranger} is none of this network's, {resolutions:?}"));
        }
        if self.fir_kernel != FIR_KERNEL {
            return bad(format!("fir_kernel must be {FIR_KERNEL:?}, not {:?}", self.fir_kernel));
        }
        if self.progressive == Progressive::OutputSkip && self.out_ch != self.in_ch {
            return bad(format!(
                "out_ch must equal in_ch when progressive is output_skip, not {} and {}",
                self.out_ch, self.in_ch
            ));
        }
        scales(self.init_scale, self.fourier_scale)
    }
}

fn even_width(name: &str, width: usize) -> Result<()> {
    // Half of the positional embedding is sines, and its frequencies need a first and a last one.
    if width < 4 || !width.is_multiple_of(2) {
        return Err(Error::argument(format!("network: {name} must be even and at least 4, not {width}")));
    }
    Ok(())
}

fn scales(init: f64, fourier: f64) -> Result<()> {
    for (name, value) in [("init_scale", init), ("fourier_scale", fourier)] {
        if !(value.is_finite() && value >= 0.0) {
            return Err(Error::argument(format!(
                "network: {name} must be a number of at least 0, not {value}"
            )));
        }
    }
    Ok(())
}
