//! `psld likelihood`.

use crate::args::{ImagesArgs, ModelArgs, SamplerArgs, State, labels};
use crate::sample::Progress;
use crate::{interrupt, report};
use clap::{Args, ValueHint};
use psld::array::Precision;
use psld::config::OneOrMany;
use psld::io::{NewFile, check_writable, npy, read_images};
use psld::run::{Estimate, LIKELIHOOD_SAMPLER, RunOptions, likelihood};
use psld::{Error, Model, Result, SamplerSpec, Status};
use serde::Serialize;
use std::path::PathBuf;

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

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    /// Mean over the images.
    bits_per_dimension: f64,
    /// By the images' spread; null for one image.
    standard_error: Option<f64>,
    images: usize,
    bits: &'a [f64],
    /// By the random directions; empty with one of them a time.
    errors: &'a [f64],
    nfe: usize,
    probes: u32,
    dequantised: bool,
    sampler: &'a str,
}

pub fn run(args: LikelihoodArgs) -> Result<()> {
    interrupt::install()?;
    let config = args.sampler.config()?;
    let extra = [
        ("plan", config.plan.is_some()),
        ("inpaint", config.inpaint.is_some()),
        ("guidance", config.guidance.is_some()),
        ("restore", config.restore.is_some()),
    ];
    if let Some((name, _)) = extra.iter().find(|(_, given)| *given) {
        return Err(Error::argument(format!("{name}: a likelihood is one of the model on its own")));
    }
    let name = config.sampler.sampler.unwrap_or_else(|| LIKELIHOOD_SAMPLER.into());
    let spec = SamplerSpec { sampler: Some(name), encode: Some(true), ..config.sampler };
    let options = args.model.options()?;
    if let Some(out) = &args.out {
        check_writable(out, 0)?;
    }
    if !args.of.quiet {
        report::forward_log();
    }
    let model = Model::from_file(&args.model.model, options)?;
    let data = &model.spec().data;
    let images = read_images(&args.of.images, data)?;
    let n = images.shape()[0];
    let options = RunOptions {
        seed: spec.seed(),
        precision: if args.of.state == State::F64 { Precision::F64 } else { Precision::F32 },
        batch: args.of.batch,
        labels: args.label.as_ref().map(|label| label.for_samples(n, 1)),
        from_image: Some(images),
        ..RunOptions::new(n)
    };
    let estimate = Estimate { probes: args.probes, dequantise: args.dequantise };
    let progress = Progress::new(n, args.of.quiet);
    let made = {
        let _polled = interrupt::polled();
        likelihood(&model, &spec, &options, estimate, |overall| progress.show(overall))?
    };
    drop(progress);
    if let Some(out) = &args.out {
        NewFile::write_with(out, |file| npy::write(file, &[n], &made.bits))?;
    }
    if args.of.json {
        let report = Report {
            bits_per_dimension: made.mean(),
            standard_error: made.standard_error(),
            images: n,
            bits: &made.bits,
            errors: &made.errors,
            nfe: made.nfe,
            probes: args.probes,
            dequantised: args.dequantise,
            sampler: &made.sampler,
        };
        let json = serde_json::to_string(&report)
            .map_err(|e| Error::new(Status::Internal, "the report cannot be written as JSON").source(e))?;
        return report::stdout(&format!("{json}\n"));
    }
    let error = made.standard_error().map_or(String::new(), |error| format!(" +- {error:.4}"));
    let (calls, what) = (made.nfe, if n == 1 { "image" } else { "images" });
    report::stdout(&format!(
        "{:.4}{error} bits/dim ({n} {what}, {}, {calls} network calls each)\n",
        made.mean(),
        made.sampler
    ))
}
