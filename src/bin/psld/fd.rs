//! `psld fd`.

use crate::args::{BackendArgs, range};
use crate::report::digits;
use crate::{interrupt, report};
use clap::{Args, ValueHint};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use psld::array::warn_of_range;
use psld::evaluation::{
    About, Bootstrap, FeatureNetwork, Figure, Gaussian, Options, Points, Reference, Report, Set, Statistics,
    evaluate,
};
use psld::network::onnxruntime::Runtime;
use psld::{Error, Result, io};
use serde_json::json;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

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

/// Images of one kind, with their features.
struct Images {
    data: Vec<f32>,
    features: Vec<f32>,
}

pub fn run(args: Box<FdArgs>) -> Result<()> {
    interrupt::install()?;
    // Cheap mistakes first: before networks are loaded and images read.
    if args.batch == 0 {
        return Err(Error::argument("--batch 0: expected at least 1"));
    }
    if let Some(out) = &args.make_stats {
        io::check_writable(out, 0)?;
    } else if args.stats.is_none() && args.train.is_empty() {
        return Err(Error::argument("nothing to compare the samples with")
            .hint("name training images (--train), or statistics of them (--stats)"));
    }
    let options = args.backend.options(args.spec.as_deref())?.onnx();
    let statistics = args.stats.as_deref().map(Statistics::read).transpose()?;
    if !args.quiet {
        report::forward_log();
    }
    let mut network = FeatureNetwork::load(
        || Runtime::load(None),
        &args.features,
        args.feature_output.as_deref(),
        args.range,
        &options,
    )?;
    if let Some(statistics) = &statistics {
        statistics.check(network.about()).map_err(|e| e.context(path_text(args.stats.as_deref())))?;
    }

    let bar = Progress::new(args.quiet);
    let mut read = |paths: &[PathBuf], what: &str| images(&mut network, paths, what, args.batch, &bar);
    let samples = read(&args.samples, if args.make_stats.is_some() { "images" } else { "samples" })?;
    let train = read(&args.train, "training images")?;
    let test = read(&args.test, "test images")?;
    let about = network.about().clone();
    let (len, width) = (about.shape.iter().product(), network.width());
    let set = |images| Images::set(images, len, width);
    let (Some(samples), train, test) = (set(samples.as_ref())?, set(train.as_ref())?, set(test.as_ref())?)
    else {
        return Err(Error::argument("no samples are named"));
    };

    if let Some(out) = &args.make_stats {
        bar.stage("mean and covariance");
        let gaussian = Gaussian::of(samples.features)?;
        let count = gaussian.count;
        let about = About { images: list(&args.samples), ..about };
        Statistics { about, gaussian }.write(out)?;
        drop(bar);
        if args.json {
            let json = json!({"out": out.display().to_string(), "images": count, "features": network.about(), "width": width});
            report::stdout(&format!("{json:#}\n"))?;
        }
        if !args.quiet {
            report::stderr(&format!("wrote {}: {width} features of {count} images", out.display()));
        }
        return Ok(());
    }

    bar.stage("covariance of the training images");
    let gaussian = match (statistics, train) {
        (Some(statistics), _) => statistics.gaussian,
        (None, Some(train)) => Gaussian::of(train.features)?,
        (None, None) => return Err(Error::argument("nothing to compare the samples with")),
    };
    let count = gaussian.count;
    let reference = Reference::new(gaussian)?;
    let bootstrap = Bootstrap { resamples: args.resamples, seed: args.seed };
    let options = Options { neighbours: args.neighbours, bootstrap };
    let found = evaluate(samples, &reference, train, test, &options, &|stage| bar.stage(stage))?;
    drop(bar);
    if args.json {
        let json = json!({
            "features": about,
            "width": width,
            "backend": network.backend(),
            "samples": list(&args.samples),
            "reference_images": count,
            "neighbours": args.neighbours,
            "resamples": args.resamples,
            "seed": args.seed,
            "figures": found,
        });
        return report::stdout(&format!("{json:#}\n"));
    }
    report::stdout(&table(&found, &about, width, count, args.neighbours))
}

impl Images {
    fn set(images: Option<&Self>, len: usize, width: usize) -> Result<Option<Set<'_>>> {
        let Some(Self { data, features }) = images else { return Ok(None) };
        Ok(Some(Set { data: Points::new(data, len)?, features: Points::new(features, width)? }))
    }
}

/// The images in `paths`, one after the other, with their features; `None` for no paths.
fn images(
    network: &mut FeatureNetwork,
    paths: &[PathBuf],
    what: &str,
    batch: usize,
    bar: &Progress,
) -> Result<Option<Images>> {
    if paths.is_empty() {
        return Ok(None);
    }
    bar.stage(&format!("reading {what}"));
    let spec = network.data();
    let mut data = Vec::new();
    for path in paths {
        let images = io::read_images(path, &spec)?;
        warn_of_range(&path.display().to_string(), &images, spec.range);
        let images = images.into_f32();
        // The file is named here; later only the sample could be.
        Points::new(&images, spec.shape.iter().product())
            .map_err(|e| Error::argument(format!("{}: {}", path.display(), e.message())))?;
        if data.is_empty() { data = images } else { data.extend(images) }
    }
    let n = data.len() / spec.shape.iter().product::<usize>();
    bar.stage(&format!("features of {n} {what}"));
    let features = network.features(&data, batch, |done| bar.at(done, n))?;
    Ok(Some(Images { data, features }))
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn path_text(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn table(found: &Report, about: &About, width: usize, count: usize, neighbours: usize) -> String {
    let mut out = String::new();
    let figure = |figure: Figure| {
        format!("{:<10} [{}, {}]", digits(figure.value), digits(figure.low), digits(figure.high))
    };
    let _ =
        writeln!(out, "features   {width} of `{}` in {}, sha256 {}", about.output, about.model, about.sha256);
    let _ = writeln!(out, "reference  {count} images");
    if let Some(compared) = found.compared_images {
        let _ = writeln!(
            out,
            "compared   with {compared} of the training images: precision, recall ({neighbours} neighbours), energy distance"
        );
    }
    out.push('\n');
    let floor = found.floor_images.map_or_else(String::new, |n| format!("floor: {n} test images"));
    let head = format!("{:<24}{:<36}{floor}", "", format!("{} samples", found.samples));
    let _ = writeln!(out, "{}", head.trim_end());
    for (name, row) in found.rows() {
        let floor = row.floor.map(figure).unwrap_or_default();
        let line = format!("{name:<24}{:<36}{floor}", figure(row.samples));
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out.push_str("\nin brackets: 95 % interval of as many new samples (bootstrap)\n");
    out
}

/// What is being done: on a terminal only.
struct Progress(ProgressBar);

impl Progress {
    fn new(quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::with_template("{spinner} {msg}  {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    fn stage(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    fn at(&self, done: usize, of: usize) {
        if !self.0.is_hidden() {
            self.0.set_message(format!("features of {done}/{of} images"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
