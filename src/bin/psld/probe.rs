//! `psld tune --probe`.

use crate::tune::{TuneArgs, bar};
use crate::{interrupt, report};
use psld::hash::hex;
use psld::io::NewFile;
use psld::tune::{ProbeOptions, Probed, probe};
use psld::{Error, Model, Result, SamplerSpec, Status};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Candidates in the table that people see.
const SHOWN: usize = 5;

pub fn run(args: &TuneArgs, sampler: SamplerSpec) -> Result<()> {
    let model_options = args.model.options()?;
    if let Some(out) = &args.out {
        psld::io::check_writable(out, 0)?;
    }
    let model = Model::from_file(&args.model.model, model_options)?;
    let options = ProbeOptions {
        starts: args.samples,
        batch: args.batch,
        labels: args.label.clone(),
        ..ProbeOptions::new(sampler)
    };
    let cache = args.cache.as_deref().map(|folder| Cache::new(folder, &model, &options)).transpose()?;
    let known = cache.as_ref().and_then(Cache::read);
    let cached = known.is_some();
    let probed = match known {
        Some(probed) => probed,
        None => {
            let bar = bar(args.quiet);
            let polled = interrupt::polled();
            let probed = probe(&model, &options, |probing| {
                bar.set_message(format!("{} network calls", probing.calls));
                bar.set_position((probing.fraction * 1000.0) as u64);
                if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            drop(polled);
            bar.finish_and_clear();
            let probed = probed.map_err(|e| match e.status() {
                Status::Cancelled => Error::new(Status::Cancelled, "interrupted; nothing was written"),
                _ => e,
            })?;
            cache.as_ref().map_or(Ok(()), |cache| cache.write(&probed))?;
            probed
        }
    };
    // As configuration files have it.
    let mut sampler = json!(probed.options);
    if let Some(fields) = sampler.as_object_mut() {
        let kind = fields.remove("sampler").unwrap_or_default();
        fields.insert("kind".into(), kind);
    }
    let options = format!("{}\n", json!({ "sampler": sampler }));
    if let Some(out) = &args.out {
        NewFile::write_with(out, |file| file.write_all(options.as_bytes()))?;
    }
    if args.json {
        let Probed { options, error, calls, tried } = &probed;
        let line = json!({
            "options": options,
            "error": error,
            "calls": calls,
            "cached": cached,
            "model": model.hash()?,
            "tried": tried,
        });
        report::stdout(&format!("{line}\n"))?;
    } else if args.out.is_none() {
        report::stdout(&options)?;
    }
    if !args.quiet {
        report::stderr(&table(args.out.as_deref(), &probed, cached));
    }
    Ok(())
}

fn table(out: Option<&Path>, probed: &Probed, cached: bool) -> String {
    let mut text = out.map(|out| format!("wrote {}\n", out.display())).unwrap_or_default();
    let work = match cached {
        true => "from the cache".to_owned(),
        false => format!("{} network calls of one sample each", probed.calls),
    };
    let _ =
        write!(text, "{} samplers tried, {work}; RMS distance to the converged solution", probed.tried.len());
    for tried in probed.tried.iter().take(SHOWN) {
        let order = tried.order.map(|order| format!(" order {order}")).unwrap_or_default();
        let grid = match &tried.time_grid {
            psld::spec::Grid::Name(name) => name.as_str(),
            psld::spec::Grid::Points(_) => "as given",
        };
        let name = format!("{}{order}", tried.sampler);
        let _ = write!(text, "\n  {name:<16} {grid:<10} {:>10.5} on {} starts", tried.error, tried.starts);
    }
    text
}

/// A folder of results that the user named; nothing is kept elsewhere.
struct Cache {
    path: PathBuf,
    /// What the result depends on.
    of: Value,
}

impl Cache {
    fn new(folder: &Path, model: &Model, options: &ProbeOptions) -> Result<Self> {
        let of = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": model.hash()?,
            "spec": model.spec().filled(),
            "sampler": options.sampler,
            "starts": options.starts,
            "labels": options.labels,
        });
        fs::create_dir_all(folder).map_err(|e| {
            Error::new(Status::WriteFailed, format!("--cache {}: cannot be made", folder.display())).source(e)
        })?;
        let name = format!("probe-{}.json", hex(&Sha256::digest(of.to_string())[..16]));
        Ok(Self { path: folder.join(name), of })
    }

    /// `None` also for a file that says something else: it is made again.
    fn read(&self) -> Option<Probed> {
        let mut kept: Value = serde_json::from_str(&fs::read_to_string(&self.path).ok()?).ok()?;
        let probed = kept.get_mut("probed")?.take();
        (kept.get("of") == Some(&self.of)).then(|| serde_json::from_value(probed).ok()).flatten()
    }

    fn write(&self, probed: &Probed) -> Result<()> {
        let text = json!({ "of": self.of, "probed": probed }).to_string();
        NewFile::write_with(&self.path, |file| file.write_all(text.as_bytes()))
    }
}
