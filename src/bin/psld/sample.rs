//! `psld sample`.

use crate::args::{ModelArgs, SamplerArgs, State, What, labels, operator, scales, seconds, size, word};
use crate::output::{Target, Values};
use crate::{interrupt, report};
use clap::{Args, ValueHint};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use psld::array::{Element, Precision};
use psld::config::{Config, OneOrMany, conditions};
use psld::io::{self, read_image, read_images, read_mask, read_states};
use psld::run::{self, Checkpoint, Inpaint, Made, Measurement, Overall, RunOptions, Sampling, Seconds};
use psld::spec::{DataSpec, GuidanceKind, InpaintMethod};
use psld::{Error, Model, ModelOptions, Result, Sampler, SamplerSpec, Status};
use serde::Serialize;
use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    sampler: &'a str,
    nfe: usize,
    /// How many calls were asked for, where the sampler makes fewer: its steps take several.
    #[serde(skip_serializing_if = "Option::is_none")]
    nfe_asked: Option<u32>,
    samples: usize,
    /// "complete", or "partial" where a deadline left estimates.
    status: &'a str,
    /// How many of the samples are estimates.
    estimates: usize,
    seconds: Timing,
    samples_per_second: f64,
    provider: &'a str,
    seeds: Vec<u64>,
    next_seed: u64,
    plan_hash: String,
    versions: Versions<'a>,
    out: String,
}

/// Where the time went; `total` is the whole command's.
#[derive(Serialize)]
struct Timing {
    load: f64,
    compile: f64,
    network: f64,
    solver: f64,
    total: f64,
}

#[derive(Serialize)]
struct Versions<'a> {
    psld: &'a str,
    onnxruntime: Option<&'a str>,
}

pub fn run(args: SampleArgs, began: Instant) -> Result<()> {
    interrupt::install()?;
    // Cheap mistakes first: before the model is loaded, let alone sampled from.
    let config = args.config()?;
    let conditioning = config.conditioning()?;
    let files = config.inpaint.as_ref().map(|inpaint| inpaint.files()).transpose()?;
    let measured = config.restore.as_ref().map(|restore| restore.files()).transpose()?;
    let out = args.out.as_deref().map(Target::parse).transpose()?;
    let options = args.model.options()?;
    if let Some(out) = &out {
        out.check_place(0, args.overwrite)?;
    }
    if args.columns == Some(0) {
        return Err(Error::argument("columns = 0: expected at least 1"));
    }
    if let Some(path) = &args.checkpoint {
        io::check_writable(path, 0)?;
    }
    let resumed = args.resume.as_deref().map(read_checkpoint).transpose()?;
    // What is not said again stands in the checkpoint.
    let kept = resumed.as_ref().filter(|_| config.plan.is_none() && !says_how(&config.sampler));
    let conditioning =
        conditioning.or(resumed.as_ref().map(|saved| saved.conditioning().clone()).unwrap_or_default());
    if !args.quiet {
        report::forward_log();
    }

    let loading = Instant::now();
    let model = Model::from_file(&args.model.model, options.clone())?;
    // Where every scale is 0 there is nothing to guide.
    let guided = config.guidance.as_ref().filter(|_| conditioning.guidance.is_some());
    let guide = match guided.and_then(|guidance| guidance.model.as_deref()) {
        Some(path) => Some(Model::from_file(path, ModelOptions { spec: None, ..options })?),
        None => None,
    };
    let load = loading.elapsed().as_secs_f64();
    let compiling = Instant::now();
    let sampler = Arc::new(match kept.map(|checkpoint| (checkpoint.plan(), checkpoint.sampler())) {
        None if config.plan.is_some() => Sampler::from_config(model.spec(), &config)?,
        None => Sampler::compile(model.spec(), &config.sampler, conditioning.clone())?,
        Some((Some(plan), _)) => Sampler::from_plan(model.spec(), plan.clone())?,
        Some((None, spec)) => Sampler::compile(model.spec(), spec, conditioning.clone())?,
    });
    let compile = compiling.elapsed().as_secs_f64();

    let data = &model.spec().data;
    let state = &run::shape(&sampler, 1, psld::spec::What::State)[1..];
    let init = args.init.as_deref().map(|path| read_states(path, "init", &["n"], state)).transpose()?;
    let noise = args.noise.as_deref();
    let noise = noise.map(|path| read_states(path, "noise", &["draws", "n"], state)).transpose()?;
    let from_image = args.from_image.as_deref().map(|path| read_images(path, data)).transpose()?;
    let measurement = match (measured, sampler.measurement_shape()) {
        (None, _) | (_, None) => None,
        (Some((values, mask)), Some(shape)) => Some(Measurement {
            values: read_image(values, &DataSpec { shape, ..data.clone() })?,
            mask: mask.map(|path| read_mask(path, data)).transpose()?,
        }),
    };
    let inpaint = match files {
        None => None,
        Some((image, mask)) => {
            Some(Inpaint { image: read_image(image, data)?, mask: read_mask(mask, data)? })
        }
    };
    // The arrays with the axis that counts samples. One image is for all of them; who encodes one wants one latent.
    let [measured_values, measured_mask] = match measured {
        Some((values, mask)) => [Some(values), mask],
        None => [None; 2],
    };
    let measurements = measurement.as_ref();
    let arrays = [
        (args.init.as_deref(), init.as_ref(), 0, false),
        (args.noise.as_deref(), noise.as_ref(), 1, false),
        (args.from_image.as_deref(), from_image.as_ref(), 0, !config.sampler.encodes()),
        (measured_values, measurements.map(|m| &m.values), 0, true),
        (measured_mask, measurements.and_then(|m| m.mask.as_ref()), 0, true),
        (files.map(|(image, _)| image), inpaint.as_ref().map(|known| &known.image), 0, true),
        (files.map(|(_, mask)| mask), inpaint.as_ref().map(|known| &known.mask), 0, true),
    ];
    let given = arrays.iter().find_map(|(_, array, axis, shared)| {
        array.map(|array| array.shape()[*axis]).filter(|n| *n > 1 || !shared)
    });
    // A classifier's class means nothing to a model that it does not guide.
    let of_classifier = config.guidance.as_ref().is_some_and(|g| g.kind == Some(GuidanceKind::Classifier));
    let label = args.label.as_ref().or(config.guidance.as_ref().and_then(|g| g.label.as_ref()));
    let lists = Lists::of(label, config.guidance.as_ref().and_then(|guidance| guidance.scale.as_ref()));
    let n = args.n.or(given).or(lists.both()).unwrap_or(64);
    if resumed.is_none() && n > 0 {
        for (path, array, axis, shared) in arrays {
            let (Some(path), Some(array)) = (path, array) else { continue };
            let rows = array.shape()[axis];
            if rows != n && !(shared && rows == 1) {
                let (one, got) = (if shared && n > 1 { "1 or " } else { "" }, array.shape());
                let message =
                    format!("{}: expected {one}{n} samples, got {rows}: shape {got:?}", path.display());
                return Err(Error::new(Status::ShapeMismatch, message));
            }
        }
    }
    let mut options = RunOptions {
        seed: config.sampler.seed(),
        precision: if args.state == State::F64 { Precision::F64 } else { Precision::F32 },
        batch: args.batch,
        init,
        from_image,
        noise,
        guide,
        inpaint,
        measurement,
        ..RunOptions::new(n)
    };
    let label = label.filter(|_| conditioning.guidance.is_some() || !of_classifier);
    let scale = guided.and_then(|guidance| guidance.scale.as_ref());
    let what = if args.output == What::State { psld::spec::What::State } else { psld::spec::What::Data };
    let (options, what) = match &resumed {
        None => (options, what),
        Some(checkpoint) => {
            let n = checkpoint.options().n;
            (options.labels, options.scales) = conditions(label, scale, n);
            agree(checkpoint, &options, args.n.or(given), config.sampler.seed, what)?;
            (RunOptions { guide: options.guide, ..checkpoint.options().clone() }, checkpoint.what())
        }
    };
    let (deadline, anytime) = (args.deadline, args.anytime);
    let mut options = RunOptions { max_memory: args.max_memory, deadline, anytime, ..options };
    let n = options.n;
    let output = if what == psld::spec::What::State { What::State } else { What::Data };
    run::check_size(&sampler, &options, what)?;
    // Only now: there may be more samples than memory for a label each.
    if resumed.is_none() {
        (options.labels, options.scales) = conditions(label, scale, n);
    }
    let named = out.is_some();
    let out = out.unwrap_or_else(|| Target::default_for(data, output));
    let columns = match (&out, args.columns) {
        (Target::Png(_), Some(columns)) => Some(columns),
        (_, Some(_)) => return Err(Error::argument("--columns: only a grid has them: --out FILE.png")),
        // Of a checkpoint only its samples are left, not the lists that they were of.
        (_, None) => lists.columns(n),
    };
    out.check_form(data, n, columns, output)?;
    let shape = run::shape(&sampler, n, what);
    let elements = shape.iter().map(|size| *size as u128).product();
    out.check_place(out.size(elements, output, options.precision), args.overwrite)?;

    let (values, made) = {
        let _polled = interrupt::polled();
        let drawing = Drawing {
            model: &model,
            sampler: &sampler,
            options: &options,
            what,
            resumed: resumed.as_ref(),
            progress: Progress::new(n, args.quiet).of(&sampler),
            checkpoint: args.checkpoint.as_deref(),
            // `encode` is short, and has no checkpoints.
            can_save: !args.sampler.encode,
        };
        if what == psld::spec::What::State && options.precision == Precision::F64 {
            let (values, made) = drawing.draw::<f64>()?;
            (Values::F64(values), made)
        } else {
            let (values, made) = drawing.draw::<f32>()?;
            (Values::F32(values), made)
        }
    };
    {
        // Writing takes a moment; it is better finished than thrown away.
        let _polled = interrupt::polled();
        out.write(data, &shape, &values, columns, args.overwrite)?;
    }
    let Made { nfe, seconds, estimates } = made;

    let backend = model.backend();
    let Seconds { network, solver } = seconds;
    let rate = n as f64 / (network + solver).max(f64::MIN_POSITIVE);
    let place = if let Target::Folder(folder) = &out { folder.join("") } else { out.path().to_path_buf() };
    if args.json {
        let report = Report {
            sampler: sampler.info().name,
            nfe,
            nfe_asked: sampler.nfe_asked(),
            samples: n,
            status: if estimates > 0 { "partial" } else { "complete" },
            estimates,
            seconds: Timing { load, compile, network, solver, total: began.elapsed().as_secs_f64() },
            samples_per_second: rate,
            provider: &backend.provider,
            seeds: (0..n as u64).map(|i| options.seed.wrapping_add(i)).collect(),
            next_seed: options.seed.wrapping_add(n as u64),
            plan_hash: sampler.hash(),
            versions: Versions {
                psld: env!("CARGO_PKG_VERSION"),
                onnxruntime: (backend.name == "onnxruntime").then_some(&*backend.version),
            },
            out: place.display().to_string(),
        };
        let json = serde_json::to_string(&report)
            .map_err(|e| Error::new(Status::Internal, "the report cannot be written as JSON").source(e))?;
        report::stdout(&format!("{json}\n"))?;
    }
    if !args.quiet {
        if estimates > 0 {
            report::stderr(&format!("the deadline passed: {estimates} of {n} samples are estimates"));
        }
        let asked = sampler.nfe_asked().map_or_else(String::new, |asked| format!(" of {asked} asked for"));
        let how = if named { "" } else { " (--out names another place)" };
        report::stderr(&format!(
            "wrote {}{how}: {n} sample{}, {}, {nfe} network calls{asked}, {:.2} s, {rate:.1} samples/s, {}",
            place.display(),
            if n == 1 { "" } else { "s" },
            sampler.info().name,
            network + solver,
            backend.provider,
        ));
    }
    if interrupt::requested() {
        return Err(Error::new(
            Status::Cancelled,
            format!("interrupted when all samples were drawn; {} is complete", place.display()),
        ));
    }
    Ok(())
}

/// How many classes and scales there are lists of; 1 where there is no list.
struct Lists {
    labels: usize,
    scales: usize,
}

impl Lists {
    fn of(labels: Option<&OneOrMany<i64>>, scales: Option<&OneOrMany<f64>>) -> Self {
        Self {
            labels: labels.map_or(1, |list| list.as_slice().len()),
            scales: scales.map_or(1, |list| list.as_slice().len()),
        }
    }

    /// How many samples there are of all classes with all scales, where there are lists of both.
    fn both(&self) -> Option<usize> {
        (self.labels > 1 && self.scales > 1).then(|| self.labels.checked_mul(self.scales)).flatten()
    }

    /// Images in a row of a grid of `n`, such that those in a column have something in common: the class, or the scale.
    fn columns(&self, n: usize) -> Option<usize> {
        let columns = if self.labels > 1 { self.labels } else { self.scales };
        // One row of many is worse to look at than a square.
        let rows = n / columns.max(1);
        (columns > 1 && (rows > 1 || rows == 1 && columns <= 20)).then_some(columns)
    }
}

fn read_checkpoint(path: &Path) -> Result<Checkpoint> {
    Checkpoint::read(&io::read_bytes(path)?).map_err(|e| e.context(path.display()))
}

/// Whether the command line says anything about the sampler; the plans are compared then.
fn says_how(given: &SamplerSpec) -> bool {
    SamplerSpec { seed: None, ..given.clone() } != SamplerSpec::default()
}

/// Refuses what is said again and differs from the checkpoint.
fn agree(
    checkpoint: &Checkpoint,
    given: &RunOptions,
    n: Option<usize>,
    seed: Option<u64>,
    what: psld::spec::What,
) -> Result<()> {
    let saved = checkpoint.options();
    let differs = [
        ("-n", n.is_some_and(|n| n != saved.n)),
        ("--seed", seed.is_some_and(|seed| seed != saved.seed)),
        ("--batch", given.batch.is_some() && given.batch != saved.batch),
        ("--label", given.labels.is_some() && given.labels != saved.labels),
        ("--scale", given.scales.is_some() && given.scales != saved.scales),
        ("--init", given.init.is_some() && given.init != saved.init),
        ("--from-image", given.from_image.is_some() && given.from_image != saved.from_image),
        ("--noise", given.noise.is_some() && given.noise != saved.noise),
        ("inpainting", given.inpaint.is_some() && given.inpaint != saved.inpaint),
        ("restoration", given.measurement.is_some() && given.measurement != saved.measurement),
        ("--state", given.precision != Precision::default() && given.precision != saved.precision),
        ("--output", what != psld::spec::What::Data && what != checkpoint.what()),
    ];
    match differs.iter().find(|(_, differs)| *differs) {
        None => Ok(()),
        Some((option, _)) => Err(Error::argument(format!("{option}: the checkpoint was made with another"))
            .hint("leave it out: --resume takes it from the checkpoint")),
    }
}

/// The work itself.
struct Drawing<'a> {
    model: &'a Model,
    sampler: &'a Arc<Sampler>,
    options: &'a RunOptions,
    what: psld::spec::What,
    resumed: Option<&'a Checkpoint>,
    progress: Progress,
    checkpoint: Option<&'a Path>,
    can_save: bool,
}

impl Drawing<'_> {
    fn draw<T: Element>(&self) -> Result<(Vec<T>, Made)> {
        let Self { model, sampler, options, what, .. } = *self;
        let mut out = run::room::<T>(sampler, options, what)?;
        let mut sampling = match self.resumed {
            None => Sampling::new(model, sampler, options, what)?,
            Some(checkpoint) => checkpoint.resume(model, sampler, options, &mut out)?,
        };
        let mut saver = self.checkpoint.map(Saver::new);
        loop {
            let stopped = match sampling.step(&mut out) {
                Ok(None) => break,
                Ok(Some(overall)) => match self.progress.show(overall) {
                    ControlFlow::Continue(()) => None,
                    ControlFlow::Break(()) if sampling.done() => None,
                    ControlFlow::Break(()) => Some(sampling.cancelled(overall)),
                },
                Err(e) if e.status().is_interruption() => Some(e),
                Err(e) => return Err(e),
            };
            if let Some(saver) = &mut saver
                && (stopped.is_some() || sampling.done() || saver.is_due())
            {
                saver.save(&sampling, &out)?;
            }
            if let Some(stopped) = stopped {
                return Err(self.progress.stopped(stopped, self.checkpoint, self.can_save));
            }
        }
        Ok((out, sampling.made()))
    }
}

/// Saves often, but for no more than a twentieth of the time.
struct Saver<'a> {
    path: &'a Path,
    last: Option<(Instant, Duration)>,
}

impl<'a> Saver<'a> {
    fn new(path: &'a Path) -> Self {
        Self { path, last: None }
    }

    fn is_due(&self) -> bool {
        self.last.is_none_or(|(at, took)| at.elapsed() >= 20 * took)
    }

    fn save<T: Element>(&mut self, sampling: &Sampling<'_>, out: &[T]) -> Result<()> {
        let began = Instant::now();
        let bytes = sampling.save(out)?;
        io::NewFile::write_with(self.path, |file| file.write_all(&bytes))?;
        self.last = Some((Instant::now(), began.elapsed()));
        Ok(())
    }
}

/// The progress bar: on a terminal only.
pub struct Progress {
    bar: ProgressBar,
    n: usize,
    /// Said of each step: how many calls the sampler makes, where that is not what was asked for.
    calls: String,
    finished: Cell<usize>,
}

impl Progress {
    const TICKS: u64 = 1000;

    pub fn new(n: usize, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(Self::TICKS), target);
        let style = ProgressStyle::with_template("{bar:40} {percent:>3}%  {msg}  {elapsed} (left {eta})");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, n, calls: String::new(), finished: Cell::new(0) }
    }

    /// With what the sampler makes of the network calls that were asked for.
    fn of(mut self, sampler: &Sampler) -> Self {
        self.calls = match (sampler.nfe_asked(), sampler.plan()) {
            (Some(asked), Some(plan)) => format!(" ({} of {asked} calls)", plan.nfe),
            _ => String::new(),
        };
        self
    }

    /// Shows where the run is; breaks it where Ctrl+C asked for that.
    pub fn show(&self, overall: Overall) -> ControlFlow<()> {
        let Overall { finished, in_flight, run, .. } = overall;
        self.finished.set(if run.done { finished + in_flight } else { finished });
        let share = overall.fraction();
        if !self.bar.is_hidden() {
            let step = if run.of == 0 {
                format!("step {}", run.step)
            } else {
                format!("step {}/{}", run.step, run.of)
            };
            let samples = if in_flight == self.n {
                step
            } else {
                format!("sample {}/{}, {step}", finished + 1, self.n)
            };
            self.bar.set_message(format!("{samples}{}", self.calls));
            self.bar.set_position((share * Self::TICKS as f64) as u64);
        }
        if interrupt::requested() && share < 1.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Progress {
    /// Says what is kept, or lost, of a run that was stopped.
    fn stopped(&self, e: Error, checkpoint: Option<&Path>, can_save: bool) -> Error {
        let kept = match checkpoint {
            None => "nothing is written".into(),
            Some(path) => format!("saved in {}", path.display()),
        };
        let message =
            format!("{}; {} of {} samples were finished, {kept}", e.message(), self.finished.get(), self.n);
        let error = Error::new(e.status(), message);
        match (checkpoint, e.status()) {
            (Some(path), _) => error.hint(format!("go on with --resume {}", path.display())),
            (None, Status::Cancelled) if can_save => error.hint(
                "with --checkpoint FILE an interrupted run is saved, and --resume FILE goes on with it",
            ),
            (None, Status::DeadlineExceeded) => error.hint(
                "raise --deadline, ask for fewer samples or network calls, or for estimates (--anytime)",
            ),
            _ => error,
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
