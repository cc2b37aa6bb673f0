//! What can be said on the command line.

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use psld::config::{Config, OneOrMany};
use psld::io::npy;
use psld::spec::{Clip, ConjugateMatrix, ErrorNorm, Grid, InpaintMethod, Operator, Restoration, Variant};
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
fn word_of(arg: &clap::Arg) -> String {
    let value = arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    let more = if matches!(arg.get_action(), clap::ArgAction::Append) { "..." } else { "" };
    match arg.get_long() {
        Some(long) => format!("--{long} <{value}> "),
        None => format!("<{value}>{more} "),
    }
}

#[derive(Args)]
pub struct SampleArgs {
    /// Number of samples [default: 64, or as many as --init, --from-image, --noise, --measurement or --inpaint-image hold,
    /// or --label and --scale make]
    #[arg(short, value_name = "N", allow_negative_numbers = true)]
    pub n: Option<usize>,

    #[command(flatten)]
    pub sampler: SamplerArgs,

    /// Class of all samples, or a list (0,1,2 or 0-9) that the samples take in turn, a column of the grid for each, for
    /// class-conditional models and guidance [default: the null class]
    #[arg(long, value_name = "N", value_parser = labels, allow_hyphen_values = true, help_heading = "What to sample")]
    pub label: Option<OneOrMany<i64>>,
    /// Guidance scale, or a list: all classes of --label with the first, then all with the next, a row of the grid for each.
    /// Without "guidance" in --config classifier-free: 0 is the plain class-conditional sampler
    #[arg(long, value_name = "W", value_parser = scales, allow_hyphen_values = true, help_heading = "What to sample")]
    pub scale: Option<OneOrMany<f64>>,
    /// Initial state instead of a draw of the prior: .npy [n, k*C, ...]
    #[arg(long, value_name = "FILE.npy", value_hint = ValueHint::FilePath, help_heading = "What to sample")]
    pub init: Option<PathBuf>,
    /// Images to start from instead of noise, one for all or one for each sample, perturbed as at --t-start: .npy
    /// [n, C, ...] in the data range (or uint8), PNG (an image or a grid), or a folder of PNG
    #[arg(long, value_name = "FILE", value_hint = ValueHint::AnyPath, conflicts_with = "init", help_heading = "What to sample")]
    pub from_image: Option<PathBuf>,
    /// Noise instead of psld's own: .npy [draws, n, k*C, ...] in the order in which the plan consumes it
    #[arg(long, value_name = "FILE.npy", value_hint = ValueHint::FilePath, help_heading = "What to sample")]
    pub noise: Option<PathBuf>,
    /// Image to complete: .npy [n or 1, C, ...] in the data range (or uint8), or PNG
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "What to sample")]
    pub inpaint_image: Option<PathBuf>,
    /// Where it is known: .npy [n or 1, 1 or C, ...] with 1 = known, or PNG with white = known
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "What to sample")]
    pub inpaint_mask: Option<PathBuf>,
    /// How the known region enters: corrected (kept exactly) or published (the paper's code) [default: corrected]
    #[arg(long, value_name = "METHOD", value_parser = word::<InpaintMethod>, help_heading = "What to sample")]
    pub inpaint_method: Option<InpaintMethod>,
    /// How often each step is taken, with the state taken back in between; multiplies the network calls [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "What to sample")]
    pub inpaint_resample: Option<u32>,

    /// Restore images from what was measured of them: average:FACTOR (means over squares of pixels), blur:STD (a Gaussian, in
    /// pixels), convolve:KERNEL.npy, or mask (elements)
    #[arg(long, value_name = "OPERATOR", help_heading = "What to sample")]
    pub restore: Option<String>,
    /// What was measured: .npy [n or 1, C, ...] in the data range, or uint8 (for average [n or 1, C, H/FACTOR, W/FACTOR]), or PNG
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "What to sample")]
    pub measurement: Option<PathBuf>,
    /// For mask, where it was measured: .npy [n or 1, 1 or C, ...] with 1 = measured, or PNG with white = measured
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "What to sample")]
    pub measurement_mask: Option<PathBuf>,
    /// Standard deviation of the measurement's noise, in the units of the data range; 0: samples give the measurement exactly
    /// [default: 0]
    #[arg(long, value_name = "STD", allow_negative_numbers = true, help_heading = "What to sample")]
    pub measurement_noise: Option<f64>,

    /// Where to: FILE.png (one grid of all images), FILE.npy, or DIR/ (one PNG each) [default: samples.png for
    /// images, samples.npy for other data]
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath, help_heading = "Output")]
    pub out: Option<PathBuf>,
    /// Images side by side in a grid [default: as many as --label lists, or --scale without it; else about as many as rows]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Output")]
    pub columns: Option<usize>,
    /// Remove the images of an earlier run (0.png, 1.png, ...) from DIR/
    #[arg(long, help_heading = "Output")]
    pub overwrite: bool,
    /// What to write: data [n, C, ...] as float32, or (.npy only) the state [n, k*C, ...] in its precision
    #[arg(long, value_enum, default_value_t = What::Data, help_heading = "Output")]
    pub output: What,
    /// Print one JSON object on stdout that says what was done
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Say nothing on stderr but errors
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,

    /// Precision of the state
    #[arg(long, value_enum, default_value_t = State::F32, help_heading = "How to run")]
    pub state: State,
    /// Samples of one network call [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "How to run")]
    pub batch: Option<usize>,
    /// Refuse what needs more memory than this: 800M, 2GB (10^9), 2GiB (2^30) [default: 9/10 of what the process may have]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "How to run")]
    pub max_memory: Option<u64>,
    /// Give up sampling after this time
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true, help_heading = "How to run")]
    pub deadline: Option<Duration>,
    /// When the deadline passes, write the best estimates of the samples so far, and succeed; --json then says
    /// "status": "partial". Each sample gets one network call at least
    #[arg(long, requires = "deadline", conflicts_with_all = ["checkpoint", "resume"], help_heading = "How to run")]
    pub anytime: bool,
    /// Save there, from time to time and when it is stopped, all that --resume needs
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "How to run")]
    pub checkpoint: Option<PathBuf>,
    /// Go on from a checkpoint, as if it had never stopped. What was sampled how stands in it: other options need not be
    /// said again, and must not differ
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "How to run")]
    pub resume: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
}

#[derive(Args)]
#[command(after_help = "\
A latent is the state at --t-start: [n, k*C, ...], with the momenta of images drawn from their law at --t-end by the \
sample's seed. `psld sample --init` with the same sampler gives the images back, up to the sampler's error.")]
pub struct EncodeArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub of: ImagesArgs,
    /// The latents
    #[arg(short, long, value_name = "FILE.npy", value_hint = ValueHint::FilePath, help_heading = "Output")]
    pub out: PathBuf,

    #[command(flatten)]
    pub sampler: SamplerArgs,

    /// Class of all images, or a list that they take in turn [default: the null class]
    #[arg(long, value_name = "N", value_parser = labels, allow_hyphen_values = true, help_heading = "What to sample")]
    pub label: Option<OneOrMany<i64>>,
}

#[derive(Args)]
#[command(after_help = "\
Bits per dimension, -log2 p(x)/d, along the probability flow that `encode` follows, by random directions and central \
differences: the lower the likelier. In phase space they are an upper bound (momenta are drawn). The mean's standard error \
is by the spread over the images.")]
pub struct LikelihoodArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub of: ImagesArgs,
    #[command(flatten)]
    pub sampler: SamplerArgs,

    /// Take values for 8-bit levels, each spread over its bin: bits as of 8-bit images
    #[arg(long, help_heading = "What to measure")]
    pub dequantise: bool,
    /// Random directions at each time, of two network calls each; from 2 on each image has a standard error
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        allow_negative_numbers = true,
        help_heading = "What to measure"
    )]
    pub probes: u32,
    /// Class of all images, or a list that they take in turn: likelihoods given the class [default: the null class]
    #[arg(long, value_name = "N", value_parser = labels, allow_hyphen_values = true, help_heading = "What to measure")]
    pub label: Option<OneOrMany<i64>>,

    /// The bits of each image: .npy [n], float64
    #[arg(short, long, value_name = "FILE.npy", value_hint = ValueHint::FilePath, help_heading = "Output")]
    pub out: Option<PathBuf>,
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
pub struct InterpolateArgs {
    /// The network: .onnx, or .json for an analytic mixture
    #[arg(value_hint = ValueHint::FilePath)]
    pub model: PathBuf,
    /// Two latents or more, as `psld encode` writes them: .npy [m, k*C, ...]
    #[arg(value_name = "LATENTS.npy", value_hint = ValueHint::FilePath)]
    pub latents: PathBuf,
    /// The latents on the way through them, for `psld sample --init`
    #[arg(short, long, value_name = "FILE.npy", value_hint = ValueHint::FilePath)]
    pub out: PathBuf,
    /// Steps from one latent to the next
    #[arg(long, value_name = "N", default_value_t = 8, allow_negative_numbers = true)]
    pub steps: usize,
    /// The network's spec, instead of the one in the model's metadata
    #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath)]
    pub spec: Option<PathBuf>,
}

#[derive(Args)]
pub struct MeasureArgs {
    /// The network whose images they are: .onnx, or .json for an analytic mixture
    #[arg(value_hint = ValueHint::FilePath)]
    pub model: PathBuf,
    /// The images: .npy [n, C, ...] in the data range (or uint8), PNG (an image or a grid), or a folder of PNG
    #[arg(value_hint = ValueHint::AnyPath)]
    pub images: PathBuf,
    /// What is measured: average:FACTOR, blur:STD, convolve:KERNEL.npy, or mask (every element, to be masked later)
    #[arg(long, value_name = "OPERATOR")]
    pub restore: String,
    /// Standard deviation of the noise, in the units of the data range
    #[arg(long, value_name = "STD", default_value_t = 0.0, allow_negative_numbers = true)]
    pub measurement_noise: f64,
    /// Seed of the first image's noise; image i has seed + i
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub seed: u64,
    /// The measurement, for `psld sample --measurement`
    #[arg(short, long, value_name = "FILE.npy", value_hint = ValueHint::FilePath)]
    pub out: PathBuf,
    /// The network's spec, instead of the one in the model's metadata
    #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath)]
    pub spec: Option<PathBuf>,
}

impl MeasureArgs {
    /// What is measured.
    pub fn restoration(&self) -> Result<Restoration> {
        Ok(Restoration { noise: self.measurement_noise, ..operator(&self.restore)?.into() })
    }
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

#[derive(Args)]
pub struct TuneArgs {
    #[command(flatten)]
    pub sampler: SamplerArgs,

    /// Only choose sampler, order and grid, the best of some sixty on a few starts (--nfe says for how many calls): writes
    /// options for --config, to stdout without --out. A fraction of the work of a plan
    #[arg(long, conflicts_with_all = ["held_out", "teacher_steps", "evaluations"])]
    pub probe: bool,
    /// A folder where --probe keeps its results, and finds them again; nothing is kept without it
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "probe")]
    pub cache: Option<PathBuf>,

    /// The plan to write, for `--plan` and psld_sampler_create_from_plan; or what --probe chose
    #[arg(short, long, value_name = "FILE.json", value_hint = ValueHint::FilePath, required_unless_present = "probe", help_heading = "Output")]
    pub out: Option<PathBuf>,
    /// Print one JSON object on stdout that says what was gained
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Say nothing on stderr but errors
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,

    /// Starts to learn from [default: 64; with --probe 48, more of data with few elements]
    #[arg(long, value_name = "N", help_heading = "How to tune")]
    pub samples: Option<usize>,
    /// Further starts that the report is made with
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "How to tune")]
    pub held_out: usize,
    /// Steps of the teacher
    #[arg(long, value_name = "N", default_value_t = 128, help_heading = "How to tune")]
    pub teacher_steps: usize,
    /// Grids to try at most
    #[arg(long, value_name = "N", default_value_t = 80, help_heading = "How to tune")]
    pub evaluations: usize,
    /// Classes of the starts, one after another [default: the null class]
    #[arg(long, value_name = "N,...", value_delimiter = ',', help_heading = "How to tune")]
    pub label: Vec<i64>,
    /// Samples of one network call [default: all]
    #[arg(long, value_name = "N", help_heading = "How to run")]
    pub batch: Option<usize>,
    #[command(flatten)]
    pub model: ModelArgs,
}

#[derive(Args)]
#[command(after_help = "\
A sampler is a name with its options: dpmpp, dpmpp:order=2:grid=karras, gddim:eta=0.5. One that chooses its own steps, such as \
rk45:rtol=1e-3:atol=1e-3, and every --plan take part once, with their own number of calls.

DIR receives study.csv, study.png (error against network calls), grid.png (for images: a row for each sampler, a column for each \
number of calls, the same starts everywhere), and study.json with what is needed to go on: an interrupted command goes on \
where it was, and further samplers or numbers of calls are added to what is there.

Deterministic samplers are compared with the converged solution from the same starts: the median over the samples of the root mean \
square distance, and the share of samples that land elsewhere. The others are compared by their distribution. In brackets: \
95 % intervals (bootstrap); the floor is the same figure of a less converged reference.")]
pub struct StudyArgs {
    /// Where to: a folder
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Output")]
    pub out: PathBuf,
    /// Say nothing on stderr but errors
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,

    /// Samplers to compare
    #[arg(
        long,
        value_name = "NAME[:OPTION=VALUE...],...",
        value_delimiter = ',',
        default_value = "auto,dpmpp,unipc,gddim,deis,euler,em,ancestral,sde_dpmpp",
        help_heading = "What to compare"
    )]
    pub samplers: Vec<String>,
    /// Time grid of samplers that name none, as --grid of `psld sample` [default: the sampler's own]
    #[arg(long, value_name = "GRID", help_heading = "What to compare")]
    pub grid: Option<String>,
    /// Numbers of network calls, the closing one included
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_values_t = [5, 8, 10, 15, 20],
        help_heading = "What to compare"
    )]
    pub nfe: Vec<u32>,
    /// Also measures every deterministic sampler, order and grid, and what `psld tune --probe` chooses; and prints how many
    /// times the error of the best the samplers have
    #[arg(long, help_heading = "What to compare")]
    pub ratios: bool,
    /// A plan to compare with them, such as one of `psld tune`; can be given several times
    #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath, help_heading = "What to compare")]
    pub plan: Vec<PathBuf>,
    /// What counts as converged: a deterministic sampler, with nfe or steps where it does not choose its own steps
    #[arg(
        long,
        value_name = "NAME[:OPTION=VALUE...]",
        default_value = "rk45:rtol=1e-5:atol=1e-5",
        help_heading = "What to compare"
    )]
    pub reference: String,
    /// Number of starts
    #[arg(
        short,
        value_name = "N",
        default_value_t = 256,
        allow_negative_numbers = true,
        help_heading = "What to compare"
    )]
    pub n: usize,
    /// Seed of the first start; sample i has seed + i
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true,
        help_heading = "What to compare"
    )]
    pub seed: u64,
    /// Class of all samples, or a list (0,1,2 or 0-9) that the samples take in turn [default: the null class]
    #[arg(long, value_name = "N", value_parser = labels, allow_hyphen_values = true, help_heading = "What to compare")]
    pub label: Option<OneOrMany<i64>>,

    /// A feature network, for the Frechet distance: see `psld fd --help`
    #[cfg(feature = "onnxruntime")]
    #[arg(long, value_name = "FILE.onnx", value_hint = ValueHint::FilePath, help_heading = "Features")]
    pub features: Option<PathBuf>,
    /// Which tensor of it the features are
    #[cfg(feature = "onnxruntime")]
    #[arg(long, value_name = "NAME", requires = "features", help_heading = "Features")]
    pub feature_output: Option<String>,
    /// Statistics of the training images' features, made by `psld fd --make-stats` [default: those of --train]
    #[cfg(feature = "onnxruntime")]
    #[arg(long, value_name = "FILE.npz", value_hint = ValueHint::FilePath, requires = "features", help_heading = "Features")]
    pub stats: Option<PathBuf>,
    /// Training images, for precision and recall (and statistics, where there are none): .npy, PNG or a folder
    #[cfg(feature = "onnxruntime")]
    #[arg(long, value_name = "IMAGES", value_hint = ValueHint::AnyPath, requires = "features", help_heading = "Features")]
    pub train: Option<PathBuf>,

    /// Resamples of the bootstrap; 0 for no intervals
    #[arg(
        long,
        value_name = "N",
        default_value_t = 200,
        value_parser = clap::value_parser!(u32).range(..=100_000),
        allow_negative_numbers = true,
        help_heading = "How to run"
    )]
    pub resamples: u32,
    /// Samples of one network call [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "How to run")]
    pub batch: Option<usize>,
    #[command(flatten)]
    pub model: ModelArgs,
}

#[derive(Args)]
pub struct InfoArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct PlanArgs {
    /// The network: .onnx, or .json for an analytic mixture
    #[arg(value_hint = ValueHint::FilePath)]
    pub model: PathBuf,
    /// The network's spec, instead of the one in the model's metadata
    #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath)]
    pub spec: Option<PathBuf>,
    /// Print a table for people instead of JSON
    #[arg(long, overrides_with = "json")]
    pub explain: bool,
    /// Print JSON, one row a line: the default
    #[arg(long, overrides_with = "explain")]
    pub json: bool,
    #[command(flatten)]
    pub sampler: SamplerArgs,
}

#[cfg(feature = "onnxruntime")]
#[derive(Args)]
#[command(after_help = "\
A model of psld-training carries one evaluation of itself. It is repeated through ONNX Runtime; the exit status is 1 where \
the outputs differ by more than the tolerance.")]
pub struct VerifyArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Largest difference, as root mean square relative to that of the output [default: 1e-4, or 2e-2 for a float16
    /// and 1e-1 for a bfloat16 model]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub tolerance: Option<f64>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
#[command(after_help = "\
Draws samples, once to warm up and then as many rounds as are asked for, and keeps none of them. All other work on the \
machine is measured, too.")]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub sampler: SamplerArgs,

    /// Samples of a round
    #[arg(
        short,
        value_name = "N",
        default_value_t = 16,
        allow_negative_numbers = true,
        help_heading = "What to measure"
    )]
    pub n: usize,
    /// Rounds after the first
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(..=100_000),
        allow_negative_numbers = true,
        help_heading = "What to measure"
    )]
    pub rounds: u32,
    /// Class of all samples, or a list that they take in turn [default: the null class]
    #[arg(long, value_name = "N", value_parser = labels, allow_hyphen_values = true, help_heading = "What to measure")]
    pub label: Option<OneOrMany<i64>>,

    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Say nothing on stderr but errors
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,

    /// Precision of the state
    #[arg(long, value_enum, default_value_t = State::F32, help_heading = "How to run")]
    pub state: State,
    /// Samples of one network call [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "How to run")]
    pub batch: Option<usize>,
}

#[cfg(feature = "onnxruntime")]
#[derive(Args)]
#[command(after_help = "\
Samples and images: .npy [n, C, H, W] (floating-point numbers in the data range, or levels of 0 to 255 as uint8), PNG of one image or \
a grid, or folders of PNG; several are taken together. --train and --test can be given several times.

The Frechet distance needs statistics or training images, the other figures training images, and floors test images: as \
many of them as there are samples, by lot. The distance is one of this network's features: compare it with its floor, \
never with distances of other features or other numbers of samples.")]
pub struct FdArgs {
    /// The samples; with --make-stats, the training images
    #[arg(required = true, value_name = "SAMPLES", value_hint = ValueHint::AnyPath)]
    pub samples: Vec<PathBuf>,

    /// The feature network: any ONNX model with an input [N, C, H, W], or one with a psld.spec, asked at t = 0.001
    #[arg(long, value_name = "FILE.onnx", value_hint = ValueHint::FilePath, help_heading = "Features")]
    pub features: PathBuf,
    /// Which tensor of it the features are, [N, D] or [N, D, ...], of which the mean over all places is taken
    /// [default: the output `features`, or the only one]
    #[arg(long, value_name = "NAME", help_heading = "Features")]
    pub feature_output: Option<String>,
    /// The range of the network's images, where it has no spec [default: -1,1]
    #[arg(long, value_name = "LOW,HIGH", value_parser = range, allow_negative_numbers = true, help_heading = "Features")]
    pub range: Option<[f64; 2]>,
    /// The network's spec, instead of the one in its metadata
    #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath, help_heading = "Features")]
    pub spec: Option<PathBuf>,

    /// Statistics of the training images' features, made by --make-stats
    #[arg(long, value_name = "FILE.npz", value_hint = ValueHint::FilePath, help_heading = "Compared with")]
    pub stats: Option<PathBuf>,
    /// Training images
    #[arg(long, value_name = "IMAGES", value_hint = ValueHint::AnyPath, help_heading = "Compared with")]
    pub train: Vec<PathBuf>,
    /// Held-out images, for floors
    #[arg(long, value_name = "IMAGES", value_hint = ValueHint::AnyPath, help_heading = "Compared with")]
    pub test: Vec<PathBuf>,
    /// Write statistics of the images, and compute nothing else
    #[arg(long, value_name = "FILE.npz", value_hint = ValueHint::FilePath, conflicts_with_all = ["stats", "train", "test"], help_heading = "Compared with")]
    pub make_stats: Option<PathBuf>,

    /// Of precision and recall: which nearest neighbour a ball reaches to
    #[arg(
        long,
        value_name = "K",
        default_value_t = 3,
        allow_negative_numbers = true,
        help_heading = "Figures"
    )]
    pub neighbours: usize,
    /// Resamples of the bootstrap; 0 for no intervals
    #[arg(
        long,
        value_name = "N",
        default_value_t = 200,
        value_parser = clap::value_parser!(u32).range(..=100_000),
        allow_negative_numbers = true,
        help_heading = "Figures"
    )]
    pub resamples: u32,
    /// Seed of resamples and subsets
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true,
        help_heading = "Figures"
    )]
    pub seed: u64,
    /// Print one JSON object
    #[arg(long, help_heading = "Figures")]
    pub json: bool,
    /// Say nothing on stderr but errors
    #[arg(short, long, help_heading = "Figures")]
    pub quiet: bool,

    /// Images of one network call
    #[arg(
        long,
        value_name = "N",
        default_value_t = 64,
        allow_negative_numbers = true,
        help_heading = "How to run"
    )]
    pub batch: usize,
    #[command(flatten)]
    pub backend: BackendArgs,
}

#[derive(Args)]
pub struct NoiseArgs {
    /// Seed of the (first) sample
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub seed: u64,
    /// What the noise is for; each purpose counts its own draws
    #[arg(long, value_parser = ["prior", "solver", "inpaint", "probe"])]
    pub purpose: String,
    /// Which draw, from 0
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub draw: u32,
    /// Shape of one sample's whole state: k*C,...
    #[arg(long, value_name = "N,...", value_delimiter = ',', required = true, allow_negative_numbers = true)]
    pub shape: Vec<usize>,
    /// Write [N, shape]: of samples with seeds seed, seed + 1, ...
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub n: Option<usize>,
    /// The file, float32
    #[arg(short, long, value_name = "FILE.npy", value_hint = ValueHint::FilePath)]
    pub out: PathBuf,
}

#[derive(Args)]
pub struct SamplersArgs {
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,

    /// Print the measured table that `auto` chooses from instead
    #[arg(long)]
    pub why: bool,
}

#[derive(Args)]
#[command(after_help = "\
For bash, in ~/.bashrc: source <(psld completions bash). For zsh: write it to a file _psld in a folder of $fpath. For fish: \
write it to ~/.config/fish/completions/psld.fish. `make install` puts all of them where the shells look.")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

#[derive(Args)]
pub struct ManArgs {
    /// A folder for psld.1 and a page for each command, instead of psld.1 on stdout
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
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
fn size(text: &str) -> Result<u64, String> {
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
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|e| e.to_string())
}

/// What [`Clip`] is in JSON: `true`, a percentile, or an object.
fn clip(text: &str) -> Result<Clip, String> {
    let form = "expected nothing, a percentile such as 0.995, or {\"percentile\": 0.995, \"max\": 1}";
    let clip: Clip = serde_json::from_str(text).map_err(|_| form.to_owned())?;
    clip.check().map_err(|e| e.message().to_owned())?;
    Ok(clip)
}

/// Two numbers: "-1,1".
#[cfg(feature = "onnxruntime")]
fn range(text: &str) -> Result<[f64; 2], String> {
    let numbers: Option<Vec<f64>> = text.split(',').map(|word| word.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[low, high]) if low < high => Ok([low, high]),
        _ => Err("expected two ascending numbers, such as -1,1".into()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "expected a number of seconds of at least 0".into())
}

/// The spec in a side file.
fn read_spec(path: Option<&Path>) -> Result<Option<ModelSpec>> {
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

impl EncodeArgs {
    /// The sampling that this is: from images to states.
    pub fn sample(self) -> SampleArgs {
        let Self { model, of, out, sampler, label } = self;
        let ImagesArgs { images, json, quiet, state, batch } = of;
        SampleArgs {
            n: None,
            sampler: SamplerArgs { encode: true, ..sampler },
            label,
            scale: None,
            init: None,
            from_image: Some(images),
            noise: None,
            inpaint_image: None,
            inpaint_mask: None,
            inpaint_method: None,
            inpaint_resample: None,
            restore: None,
            measurement: None,
            measurement_mask: None,
            measurement_noise: None,
            out: Some(out),
            columns: None,
            overwrite: false,
            output: What::State,
            json,
            quiet,
            state,
            batch,
            max_memory: None,
            deadline: None,
            anytime: false,
            checkpoint: None,
            resume: None,
            model,
        }
    }
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

impl SampleArgs {
    /// The configuration file with the command line over it.
    pub fn config(&self) -> Result<Config> {
        let mut config = self.sampler.config()?;
        let given = self.inpaint_image.is_some() || self.inpaint_mask.is_some();
        if given || self.inpaint_method.is_some() || self.inpaint_resample.is_some() {
            let inpaint = config.inpaint.get_or_insert_default();
            inpaint.image = self.inpaint_image.clone().or(inpaint.image.take());
            inpaint.mask = self.inpaint_mask.clone().or(inpaint.mask.take());
            inpaint.method = self.inpaint_method.or(inpaint.method);
            inpaint.resample = self.inpaint_resample.or(inpaint.resample);
        }
        let files = self.measurement.is_some() || self.measurement_mask.is_some();
        if files || self.restore.is_some() || self.measurement_noise.is_some() {
            let restore = config.restore.get_or_insert_default();
            if let Some(text) = &self.restore {
                restore.operator = Some(operator(text)?);
            }
            restore.measurement = self.measurement.clone().or(restore.measurement.take());
            restore.mask = self.measurement_mask.clone().or(restore.mask.take());
            restore.noise = self.measurement_noise.or(restore.noise);
        }
        if self.scale.is_some() || config.guidance.is_some() {
            let guidance = config.guidance.get_or_insert_default();
            guidance.scale = self.scale.clone().or(guidance.scale.take());
            guidance.label = self.label.clone().or(guidance.label.take());
        }
        Ok(config)
    }
}

/// `average:4`, `blur:1.5`, `convolve:kernel.npy` or `mask`.
fn operator(text: &str) -> Result<Operator> {
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

fn kernel(path: &Path) -> Result<Vec<Vec<f64>>> {
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
fn list<T>(text: &str, what: &str, read: impl Fn(&str) -> Option<Vec<T>>) -> Result<OneOrMany<T>, String> {
    let words: Option<Vec<Vec<T>>> = text.split(',').map(|word| read(word.trim())).collect();
    let mut values: Vec<T> = words.ok_or_else(|| format!("expected {what}"))?.into_iter().flatten().collect();
    Ok(if values.len() == 1 { OneOrMany::One(values.remove(0)) } else { OneOrMany::Many(values) })
}

/// "3", "0,1,2", "0-9".
fn labels(text: &str) -> Result<OneOrMany<i64>, String> {
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
fn scales(text: &str) -> Result<OneOrMany<f64>, String> {
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
