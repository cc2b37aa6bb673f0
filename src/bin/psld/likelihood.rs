//! `psld likelihood`.

use crate::args::{LikelihoodArgs, State};
use crate::sample::Progress;
use crate::{interrupt, report};
use psld::array::Precision;
use psld::io::{NewFile, check_writable, npy, read_images};
use psld::run::{Estimate, LIKELIHOOD_SAMPLER, RunOptions, likelihood};
use psld::{Error, Model, Result, SamplerSpec, Status};
use serde::Serialize;

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
