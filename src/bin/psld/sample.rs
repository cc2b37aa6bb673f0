//! `psld sample`.

use crate::args::{SampleArgs, State, What};
use crate::output::{Target, Values};
use crate::{interrupt, report};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use psld::io::npy;
use psld::network::Precision;
use psld::run::{self, Inpaint, Overall, RunOptions, Seconds, Tensor};
use psld::spec::GuidanceKind;
use psld::{Error, Model, ModelOptions, Result, Sampler, Status};
use serde::Serialize;
use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    sampler: &'a str,
    nfe: usize,
    samples: usize,
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

pub fn run(args: Box<SampleArgs>, began: Instant) -> Result<()> {
    interrupt::install()?;
    // Cheap mistakes first: before the model is loaded, let alone sampled from.
    let config = args.config()?;
    let conditioning = config.conditioning()?;
    let files = config.inpaint.as_ref().map(|inpaint| inpaint.files()).transpose()?;
    let out = args.out.as_deref().map(Target::parse).transpose()?;
    let options = args.model.options()?;
    if let Some(out) = &out {
        out.check_place(0)?;
    }
    if !args.quiet {
        report::forward_runtime_log();
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
    let sampler = Arc::new(Sampler::compile(model.spec(), &config.sampler, conditioning.clone())?);
    let compile = compiling.elapsed().as_secs_f64();

    let data = &model.spec().data;
    let init = args.init.as_deref().map(|path| floats(path, "init")).transpose()?;
    let noise = args.noise.as_deref().map(|path| floats(path, "noise")).transpose()?;
    let of_arrays =
        [init.as_ref().and_then(|t| t.shape().first()), noise.as_ref().and_then(|t| t.shape().get(1))];
    let n = args.n.or(of_arrays.into_iter().flatten().next().copied()).unwrap_or(64);
    let mut options = RunOptions {
        seed: config.sampler.seed(),
        precision: if args.state == State::F64 { Precision::F64 } else { Precision::F32 },
        batch: args.batch,
        max_memory: args.max_memory,
        deadline: args.deadline,
        init,
        noise,
        guide,
        inpaint: match files {
            None => None,
            Some((image, mask)) => Some(Inpaint {
                image: psld::io::read_image(image, data)?,
                mask: psld::io::read_mask(mask, data)?,
            }),
        },
        ..RunOptions::new(n)
    };
    let what = if args.output == What::State { run::What::State } else { run::What::Data };
    run::check_size(&sampler, &options, what)?;
    options.scales = guided.and_then(|guidance| guidance.scale.as_ref()).map(|scale| scale.for_samples(n));
    // A classifier's class means nothing to a model that it does not guide.
    let of_classifier = config.guidance.as_ref().is_some_and(|g| g.kind == Some(GuidanceKind::Classifier));
    if conditioning.guidance.is_some() || !of_classifier {
        let label = args.label.as_ref().or(config.guidance.as_ref().and_then(|g| g.label.as_ref()));
        options.labels = label.map(|label| label.for_samples(n));
    }
    let named = out.is_some();
    let out = out.unwrap_or_else(|| Target::default_for(data, args.output));
    out.check_form(data, n, args.output)?;
    let blocks = if what == run::What::State { model.spec().process()?.k() } else { 1 };
    let elements = n as u128 * (blocks * model.spec().data_len()) as u128;
    out.check_place(out.size(elements, args.output, options.precision))?;

    let (shape, values, nfe, seconds) = {
        let _polled = interrupt::polled();
        let progress = Progress::new(n, args.quiet);
        let observe = |overall: Overall| progress.show(overall);
        let lost = |e: Error| progress.stopped(e);
        if what == run::What::State && options.precision == Precision::F64 {
            let made = run::sample::<f64>(&model, &sampler, &options, what, observe).map_err(lost)?;
            (made.values.shape().to_vec(), Values::F64(flat(made.values)), made.nfe, made.seconds)
        } else {
            let made = run::sample::<f32>(&model, &sampler, &options, what, observe).map_err(lost)?;
            (made.values.shape().to_vec(), Values::F32(flat(made.values)), made.nfe, made.seconds)
        }
    };
    {
        // Writing takes a moment; it is better finished than thrown away.
        let _polled = interrupt::polled();
        out.write(data, &shape, &values)?;
    }

    let backend = model.backend();
    let Seconds { network, solver } = seconds;
    let rate = n as f64 / (network + solver).max(f64::MIN_POSITIVE);
    let place = if let Target::Folder(folder) = &out { folder.join("") } else { out.path().to_path_buf() };
    if args.json {
        let report = Report {
            sampler: sampler.info().name,
            nfe,
            samples: n,
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
        let how = if named { "" } else { " (--out names another place)" };
        report::stderr(&format!(
            "wrote {}{how}: {n} sample{}, {}, {nfe} network calls, {:.2} s, {rate:.1} samples/s, {}",
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

/// An array of floating-point numbers.
fn floats(path: &Path, name: &str) -> Result<Tensor> {
    let array = npy::read(path)?;
    if array.kind == npy::Kind::Float {
        return Ok(array.values);
    }
    let message = format!("{name}: {} holds no floating-point numbers", path.display());
    Err(Error::new(Status::ShapeMismatch, message))
}

fn flat<T: Clone>(array: ndarray::ArrayD<T>) -> Vec<T> {
    // Made in this order and at no offset.
    array.into_raw_vec_and_offset().0
}

/// The progress bar: on a terminal only.
struct Progress {
    bar: ProgressBar,
    n: usize,
    finished: Cell<usize>,
}

impl Progress {
    const TICKS: u64 = 1000;

    fn new(n: usize, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(Self::TICKS), target);
        let style = ProgressStyle::with_template("{bar:40} {percent:>3}%  {msg}  {elapsed} (left {eta})");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, n, finished: Cell::new(0) }
    }

    /// Shows where the run is; breaks it where Ctrl+C asked for that.
    fn show(&self, overall: Overall) -> ControlFlow<()> {
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
            self.bar.set_message(samples);
            self.bar.set_position((share * Self::TICKS as f64) as u64);
        }
        if interrupt::requested() && share < 1.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Progress {
    /// Says what is lost with a run that was stopped.
    fn stopped(&self, e: Error) -> Error {
        let lost = format!(
            "{}; {} of {} samples were finished, nothing is written",
            e.message(),
            self.finished.get(),
            self.n
        );
        match e.status() {
            Status::Cancelled => Error::new(Status::Cancelled, lost),
            Status::DeadlineExceeded => Error::new(Status::DeadlineExceeded, lost)
                .hint("raise --deadline, or ask for fewer samples or network calls"),
            _ => e,
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
