//! What can be said on the command line.

use crate::bench::BenchArgs;
use crate::completions::CompletionsArgs;
use crate::encode::EncodeArgs;
#[cfg(feature = "onnxruntime")]
use crate::fd::FdArgs;
use crate::info::InfoArgs;
use crate::interpolate::InterpolateArgs;
use crate::likelihood::LikelihoodArgs;
use crate::man::ManArgs;
use crate::measure::MeasureArgs;
use crate::noise::NoiseArgs;
use crate::plan::PlanArgs;
use crate::sample::SampleArgs;
use crate::samplers::SamplersArgs;
use crate::study::StudyArgs;
use crate::tune::TuneArgs;
#[cfg(feature = "onnxruntime")]
use crate::verify::VerifyArgs;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use psld::config::{Config, OneOrMany};
use psld::io::npy;
use psld::spec::{Clip, ConjugateMatrix, ErrorNorm, Grid, Operator, Variant};
use psld::{Error, Model, ModelOptions, ModelSpec, Result, SamplerSpec, Status, io};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Samplers of phase-space diffusion models (PSLD, CLD, VP) over ONNX Runtime.
#[derive(Parser)]
#[command(name = "psld", version, max_term_width = 100)]
#[command(
    after_help = "Exit status: 0 success, 1 failure at run time, 2 usage or bad input, 130 interrupted."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Draw samples from a model.
    Sample(Box<SampleArgs>),
    /// Take images to latents along the probability flow; `sample --init` takes latents to images.
    Encode(Box<EncodeArgs>),
    /// Make latents on the way through others.
    Interpolate(InterpolateArgs),
    /// Say how likely images are under a model, in bits per dimension.
    Likelihood(Box<LikelihoodArgs>),
    /// Measure images, for `sample --restore`: average, blur or convolve them, and add noise.
    Measure(MeasureArgs),
    /// Say what a model is: process, data, inputs, what runs it.
    Info(InfoArgs),
    /// Print a sampler's plan: each network call and update with its coefficients.
    Plan(Box<PlanArgs>),
    /// Check that a model computes here what it computed where it was trained.
    #[cfg(feature = "onnxruntime")]
    Verify(VerifyArgs),
    /// Measure how long sampling from a model takes here, and where the time goes.
    Bench(Box<BenchArgs>),
    /// Measure how good samples are: Frechet distance, precision and recall, energy distance, copies.
    #[cfg(feature = "onnxruntime")]
    Fd(Box<FdArgs>),
    /// Write the noise that a run draws, to use or check it elsewhere.
    Noise(NoiseArgs),
    /// Fit a plan of few network calls to a model.
    Tune(Box<TuneArgs>),
    /// Compare samplers on a model: error against network calls, as table, CSV and PNG.
    Study(Box<StudyArgs>),
    /// List the samplers.
    Samplers(SamplersArgs),
    /// Print what completes commands and options in a shell.
    Completions(CompletionsArgs),
    /// Print the manual page, or write those of all commands.
    Man(ManArgs),
}

/// The command line, with what a command needs first in its usage.
pub fn command() -> clap::Command {
    Cli::command().mut_subcommands(|command| {
        let options = command.get_arguments().filter(|arg| arg.is_required_set() && !arg.is_positional());
        let words: String = command.get_positionals().chain(options).map(word_of).collect();
        let usage = format!("psld {} {words}[OPTIONS]", command.get_name());
        command.override_usage(usage)
    })
}

/// An argument in a usage.
pub fn word_of(arg: &clap::Arg) -> String {
    let value = arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    let more = if matches!(arg.get_action(), clap::ArgAction::Append) { "..." } else { "" };
    match arg.get_long() {
        Some(long) => format!("--{long} <{value}> "),
        None => format!("<{value}>{more} "),
    }
}

/// What is done with images that are there already.
#[derive(Args)]
pub struct ImagesArgs {
    /// The images: .npy [n, C, ...] in the data range (or levels of 0 to 255 as uint8), PNG (an image or a grid), or a folder
    /// of PNG
    #[arg(value_name = "IMAGES", value_hint = ValueHint::AnyPath, help_heading = None::<&'static str>)]
    pub images: PathBuf,
    /// Print one JSON object on stdout that says what was done
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Say nothing on stderr but errors
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,
    /// Precision of the state
    #[arg(long, value_enum, default_value_t = State::F32, help_heading = "How to run")]
    pub state: State,
    /// Images of one network call [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "How to run")]
    pub batch: Option<usize>,
}

#[derive(Args)]
pub struct ModelArgs {
    /// The network: .onnx, or .json for an analytic mixture
    #[arg(value_hint = ValueHint::FilePath, help_heading = None::<&'static str>)]
    pub model: PathBuf,
    /// The network's spec, instead of the one in the model's metadata
    #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath, help_heading = "How to run")]
    pub spec: Option<PathBuf>,
    #[command(flatten)]
    pub backend: BackendArgs,
}

#[derive(Args)]
pub struct BackendArgs {
    /// What runs the network: cpu, cuda, tensorrt; further ones after commas are fallbacks
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "cpu",
        help_heading = "How to run"
    )]
    pub provider: Vec<String>,
    /// Which device of the provider
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true,
        help_heading = "How to run"
    )]
    pub device: i32,
    /// Threads for network and solver [default: all CPUs that this process may use]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "How to run")]
    pub threads: Option<usize>,
}

#[derive(Args)]
#[command(next_help_heading = "Sampler")]
pub struct SamplerArgs {
    /// Sampler, inpainting and guidance options as JSON; what is also on the command line overrides them
    #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// A plan to execute in place of a sampler, as `psld plan`, `psld tune` and examples/plans write them
    #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath)]
    pub plan: Option<PathBuf>,
    /// Which sampler; `psld samplers` lists them [default: auto; to encode unipc, for likelihoods gddim]
    #[arg(long, value_name = "NAME")]
    pub sampler: Option<String>,
    /// Solver steps, instead of --nfe
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub steps: Option<u32>,
    /// All network calls, the closing one included [default: 30, to encode 100]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub nfe: Option<u32>,
    /// Time grid: uniform, quadratic, order2, order2.5, log_snr, logistic, karras; a file of times; or times after commas
    /// [default: quadratic]
    #[arg(long, value_name = "GRID")]
    pub grid: Option<String>,
    /// Forward time at which sampling starts [default: 1; of tables of betas see `psld info`]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub t_start: Option<f64>,
    /// Forward time at which the solver's steps end [default: 0.001]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub t_end: Option<f64>,
    /// Leave out the closing noise-free step of length t_end
    #[arg(long)]
    pub no_denoise: bool,
    /// Relative tolerance of adaptive samplers [default: 1e-4]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub rtol: Option<f64>,
    /// Absolute tolerance of adaptive samplers [default: 1e-4]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub atol: Option<f64>,
    /// Limit of network calls of adaptive samplers [default: 10000]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_nfe: Option<u32>,
    /// Over what adaptive samplers take their error norm: run (all samples share their steps), sample (each has its
    /// own) [default: run]
    #[arg(long, value_name = "OVER", value_parser = word::<ErrorNorm>)]
    pub error_norm: Option<ErrorNorm>,
    /// Order of the scheme [default: the sampler's]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub order: Option<u32>,
    /// Share of the reverse-time noise: 0 deterministic, 1 ancestral
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub eta: Option<f64>,
    /// Strength of the conjugate integrator's matrix
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub lambda: Option<f64>,
    /// The conjugate integrator's matrix: zero, identity, ones
    #[arg(long, value_name = "NAME", value_parser = word::<ConjugateMatrix>)]
    pub matrix: Option<ConjugateMatrix>,
    /// Strength of the position's noise in stochastic splittings
    #[arg(long, alias = "lambda_s", value_name = "X", allow_negative_numbers = true)]
    pub lambda_s: Option<f64>,
    /// Form of the sampler: bh1, bh2 (unipc)
    #[arg(long, value_name = "NAME", value_parser = word::<Variant>)]
    pub variant: Option<Variant>,
    /// For k = 1, the sampler as its paper publishes it, to the letter
    #[arg(long)]
    pub published: bool,
    /// Clip every data estimate to the data range, or by a percentile (dynamic thresholding): --clip=0.995
    #[arg(long, value_name = "PERCENTILE", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = clip)]
    pub clip: Option<Clip>,
    /// Lower orders in the last steps (dpmpp, unipc), as diffusers takes them
    #[arg(long, alias = "lower_order_final")]
    pub lower_order_final: bool,
    /// Seed of the first sample; sample i has seed + i [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seed: Option<u64>,
    /// Set by `psld encode`.
    #[arg(skip)]
    pub encode: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    Data,
    State,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum State {
    F32,
    F64,
}

/// A number of bytes: "1000", "800M", "1.5GiB".
pub fn size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1_u64 << 40,
        _ => return Err("expected a size such as 800M, 2GB or 2GiB".into()),
    };
    let number: f64 = number.parse().map_err(|_| "expected a size such as 800M, 2GB or 2GiB")?;
    // `as` saturates: a limit past 2^64 bytes is none.
    Ok((number * unit as f64) as u64)
}

/// One of the words that a configuration file takes in the same place.
pub fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|e| e.to_string())
}

/// What [`Clip`] is in JSON: `true`, a percentile, or an object.
pub fn clip(text: &str) -> Result<Clip, String> {
    let form = "expected nothing, a percentile such as 0.995, or {\"percentile\": 0.995, \"max\": 1}";
    let clip: Clip = serde_json::from_str(text).map_err(|_| form.to_owned())?;
    clip.check().map_err(|e| e.message().to_owned())?;
    Ok(clip)
}

/// Two numbers: "-1,1".
#[cfg(feature = "onnxruntime")]
pub fn range(text: &str) -> Result<[f64; 2], String> {
    let numbers: Option<Vec<f64>> = text.split(',').map(|word| word.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[low, high]) if low < high => Ok([low, high]),
        _ => Err("expected two ascending numbers, such as -1,1".into()),
    }
}

pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "expected a number of seconds of at least 0".into())
}

/// The spec in a side file.
pub fn read_spec(path: Option<&Path>) -> Result<Option<ModelSpec>> {
    let read = |path: &Path| ModelSpec::parse(&io::read_text(path)?).map_err(|e| e.context(path.display()));
    path.map(read).transpose()
}

impl ModelArgs {
    pub fn options(&self) -> Result<ModelOptions> {
        Model::check_file(&self.model)?;
        self.backend.options(self.spec.as_deref())
    }
}

impl BackendArgs {
    /// With the spec in a side file, if one is named.
    pub fn options(&self, spec: Option<&Path>) -> Result<ModelOptions> {
        if self.threads == Some(0) {
            return Err(Error::argument("threads = 0: expected at least 1"));
        }
        let options = ModelOptions {
            spec: read_spec(spec)?,
            #[cfg(feature = "onnxruntime")]
            providers: self.provider.iter().map(|name| name.parse()).collect::<Result<_>>()?,
            device: self.device,
            threads: self.threads.unwrap_or(0),
            concurrent_calls: 1,
        };
        #[cfg(not(feature = "onnxruntime"))]
        if self.provider != ["cpu"] {
            let message = format!("provider `{}`: this build has the CPU only", self.provider[0]);
            return Err(Error::new(psld::Status::Unsupported, message));
        }
        Ok(options)
    }
}

/// The spec in a side file, or else in a model that is there.
pub fn spec_of(model: &Path, side: Option<&Path>) -> Result<ModelSpec> {
    Model::check_file(model)?;
    Model::read_spec(model, read_spec(side)?)
}

impl SamplerArgs {
    /// The configuration file with the command line over it.
    pub fn config(&self) -> Result<Config> {
        let mut config = self.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
        let given = SamplerSpec {
            sampler: self.sampler.clone(),
            steps: self.steps,
            nfe: self.nfe,
            time_grid: self.grid.as_deref().map(grid),
            t_start: self.t_start,
            t_end: self.t_end,
            denoise: self.no_denoise.then_some(false),
            denoise_time: None,
            rtol: self.rtol,
            atol: self.atol,
            max_nfe: self.max_nfe,
            error_norm: self.error_norm,
            order: self.order,
            eta: self.eta,
            lambda: self.lambda,
            matrix: self.matrix,
            lambda_s: self.lambda_s,
            variant: self.variant,
            published: self.published.then_some(true),
            clip: self.clip,
            lower_order_final: self.lower_order_final.then_some(true),
            encode: self.encode.then_some(true),
            seed: self.seed,
        };
        config.sampler = given.or(config.sampler);
        config.plan = self.plan.clone().or(config.plan);
        Ok(config)
    }
}

/// `average:4`, `blur:1.5`, `convolve:kernel.npy` or `mask`.
pub fn operator(text: &str) -> Result<Operator> {
    let read = match text.split_once(':') {
        None if text == "mask" => Some(Operator::Mask),
        Some(("average", factor)) => factor.parse().ok().map(|factor| Operator::Average { factor }),
        Some(("blur", std)) => std.parse().ok().map(|std| Operator::Blur { std }),
        Some(("convolve", path)) => Some(Operator::Convolve { kernel: kernel(Path::new(path))? }),
        _ => None,
    };
    read.ok_or_else(|| {
        Error::argument(format!(
            "--restore {text}: expected average:FACTOR, blur:STD, convolve:KERNEL.npy or mask"
        ))
    })
}

pub fn kernel(path: &Path) -> Result<Vec<Vec<f64>>> {
    let array = npy::read(path)?.values;
    let (rows, columns) = match array.shape() {
        &[rows, columns] if rows > 0 && columns > 0 => (rows, columns),
        shape => {
            let message =
                format!("{}: a kernel has two axes, this array has shape {shape:?}", path.display());
            return Err(Error::new(Status::ShapeMismatch, message));
        }
    };
    let mut values = vec![0.0; rows * columns];
    array.copy_into(&mut values)?;
    Ok(values.chunks(columns.max(1)).map(<[f64]>::to_vec).collect())
}

/// One of a list of `what`, or the list.
pub fn list<T>(
    text: &str,
    what: &str,
    read: impl Fn(&str) -> Option<Vec<T>>,
) -> Result<OneOrMany<T>, String> {
    let words: Option<Vec<Vec<T>>> = text.split(',').map(|word| read(word.trim())).collect();
    let mut values: Vec<T> = words.ok_or_else(|| format!("expected {what}"))?.into_iter().flatten().collect();
    Ok(if values.len() == 1 { OneOrMany::One(values.remove(0)) } else { OneOrMany::Many(values) })
}

/// "3", "0,1,2", "0-9".
pub fn labels(text: &str) -> Result<OneOrMany<i64>, String> {
    list(text, "classes: 3, or 0,1,2, or 0-9", |word| {
        if let Ok(label) = word.parse() {
            return Some(vec![label]);
        }
        let (first, last): (i64, i64) =
            word.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))?;
        // Past a million classes lies a typing error.
        (first <= last && last - first < 1_000_000).then(|| (first..=last).collect())
    })
}

/// "2.5", "0,1,2".
pub fn scales(text: &str) -> Result<OneOrMany<f64>, String> {
    list(text, "numbers: 2.5, or 0,1,2", |word| word.parse().ok().map(|scale| vec![scale]))
}

/// A list of numbers is a grid; anything else names one, or a file.
pub fn grid(text: &str) -> Grid {
    let points: Option<Vec<f64>> = text.split(',').map(|word| word.trim().parse().ok()).collect();
    match points {
        Some(points) => Grid::Points(points),
        None => Grid::Name(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        command().debug_assert();
    }

    #[test]
    fn sizes() {
        let read =
            ["17", "800M", "2GB", "2GiB", "1.5k", "99999999999999999999T"].map(|text| size(text).unwrap());
        assert_eq!(read, [17, 800_000_000, 2_000_000_000, 2 << 30, 1500, u64::MAX]);
        for bad in ["", "G", "2 apples", "-1", "1e9"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lists() {
        assert_eq!(labels("3"), Ok(OneOrMany::One(3)));
        assert_eq!(labels("-1"), Ok(OneOrMany::One(-1)));
        assert_eq!(labels("0, 2,7-9"), Ok(OneOrMany::Many(vec![0, 2, 7, 8, 9])));
        for bad in ["", "cat", "1,", "3-1", "0-9999999", "1.5", "--2"] {
            assert!(labels(bad).is_err(), "{bad:?}");
        }
        assert_eq!(scales("0,-1.5"), Ok(OneOrMany::Many(vec![0.0, -1.5])));
        assert!(scales("2x").is_err());
    }

    #[test]
    fn grids() {
        assert!(matches!(grid("quadratic"), Grid::Name(_)));
        assert!(matches!(grid("a,b.txt"), Grid::Name(_)));
        assert_eq!(grid("1, 0.5,0.001"), Grid::Points(vec![1.0, 0.5, 0.001]));
    }
}
