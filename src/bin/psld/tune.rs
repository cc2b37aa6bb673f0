//! `psld tune`.

use crate::args::{ModelArgs, SamplerArgs};
use crate::{interrupt, report};
use clap::{Args, ValueHint};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use psld::io::NewFile;
use psld::tune::{Distance, Event, Report, Trial, TuneOptions, tune};
use psld::{Error, Model, Result, Status};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

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

pub fn run(args: TuneArgs) -> Result<()> {
    interrupt::install()?;
    let config = args.sampler.config()?;
    if config.inpaint.is_some() {
        return Err(Error::argument("inpaint: a plan is tuned without images to complete"));
    }
    if config.restore.is_some() {
        return Err(Error::argument("restore: a plan is tuned without measurements"));
    }
    if config.guidance.is_some() {
        return Err(Error::argument("guidance: a plan is tuned without it"));
    }
    if config.plan.is_some() {
        return Err(Error::argument("plan: what is tuned is a sampler; name it with --sampler"));
    }
    if args.probe {
        return crate::probe::run(&args, config.sampler);
    }
    let options = args.model.options()?;
    let Some(out) = args.out.as_deref() else {
        return Err(Error::argument("--out: a plan is written to a file"));
    };
    psld::io::check_writable(out, 0)?;
    let model = Model::from_file(&args.model.model, options)?;
    let mut options = TuneOptions {
        samples: args.samples.unwrap_or(64),
        held_out: args.held_out,
        teacher_steps: args.teacher_steps,
        evaluations: args.evaluations,
        batch: args.batch,
        labels: args.label.clone(),
        ..TuneOptions::new(config.sampler)
    };
    let mut diary = Diary::read(out, &model, &options)?;
    options.known = diary.known.clone();
    if !options.known.is_empty() && !args.quiet {
        report::stderr(&format!("going on: {} grids were tried before", options.known.len()));
    }

    let bar = bar(args.quiet);
    let mut failure = None;
    let tuned = {
        let _polled = interrupt::polled();
        tune(&model, &options, |event| {
            match event {
                Event::Teacher(share) => {
                    bar.set_message("teacher");
                    bar.set_position((share * 1000.0) as u64);
                }
                Event::Tried { trial, count, best } => {
                    bar.set_message(format!("grid {count}/{}, error {best:.5}", options.evaluations));
                    bar.set_position((1000 * count / options.evaluations) as u64);
                    if let Err(e) = diary.note(trial) {
                        failure = Some(e);
                        return ControlFlow::Break(());
                    }
                }
            }
            if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    };
    bar.finish_and_clear();
    if let Some(e) = failure {
        return Err(e);
    }
    let tuned = tuned.map_err(|e| match e.status() {
        Status::Cancelled => Error::new(
            Status::Cancelled,
            format!("interrupted; {} keeps the grids that were tried", diary.path.display()),
        )
        .hint("the same command goes on from there"),
        _ => e,
    })?;
    NewFile::write_with(out, |out| out.write_all(tuned.plan.to_json().as_bytes()))?;
    diary.remove();
    if args.json {
        let line = json!({
            "plan": out.display().to_string(),
            "plan_hash": tuned.plan.hash(),
            "model": tuned.plan.model,
            "sampler": tuned.plan.sampler,
            "grid": tuned.plan.grid,
            "distance_to_teacher": tuned.report,
        });
        report::stdout(&format!("{line}\n"))?;
    }
    if !args.quiet {
        report::stderr(&table(out, &tuned.report, options.held_out));
    }
    Ok(())
}

fn table(out: &Path, report: &Report, held_out: usize) -> String {
    let row = |name: &str, d: Distance| format!("  {name:<28} {:>10.5} {:>10.5}\n", d.mean, d.median);
    format!(
        "wrote {}: {} network calls, {} grids tried\nRMS distance to the teacher on {held_out} other starts: mean, median\n{}{}{}{}",
        out.display(),
        report.nfe,
        report.trials,
        row("sampler as given", report.given),
        row("on the tuned grid", report.on_grid),
        row("tuned plan", report.tuned),
        row("(on the starts learned from)", report.learned).trim_end(),
    )
}

pub fn bar(quiet: bool) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(1000), target);
    let style = ProgressStyle::with_template("{bar:40} {percent:>3}%  {msg}  {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// The grids tried so far, kept beside the plan until it is there, so that an interrupted command can go on.
struct Diary {
    path: PathBuf,
    /// What the errors depend on: the first line. A file with another one is begun anew.
    head: Value,
    known: Vec<Trial>,
    /// Opened for the first grid.
    file: Option<File>,
}

impl Diary {
    fn read(out: &Path, model: &Model, options: &TuneOptions) -> Result<Self> {
        let path = psld::io::beside(out, ".trials");
        let head = json!({
            "model": model.hash()?,
            "spec": model.spec(),
            "sampler": options.sampler,
            "samples": options.samples,
            "teacher_steps": options.teacher_steps,
            "labels": options.labels,
        });
        let known = Self::trials(&path, &head);
        Ok(Self { path, head, known, file: None })
    }

    /// The whole lines of a file with the same head; a torn last line is a grid that is tried again.
    fn trials(path: &Path, head: &Value) -> Vec<Trial> {
        let Ok(file) = File::open(path) else { return Vec::new() };
        let mut lines = BufReader::new(file).lines().map_while(|line| line.ok());
        if lines.next().and_then(|line| serde_json::from_str::<Value>(&line).ok()).as_ref() != Some(head) {
            return Vec::new();
        }
        lines.map_while(|line| serde_json::from_str(&line).ok()).collect()
    }

    fn note(&mut self, trial: &Trial) -> Result<()> {
        self.write(trial).map_err(|e| {
            Error::new(Status::WriteFailed, format!("{}: cannot be written", self.path.display())).source(e)
        })
    }

    fn write(&mut self, trial: &Trial) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                // Written whole again: the old one may end in half a line.
                let mut file = File::create(&self.path)?;
                writeln!(file, "{}", self.head)?;
                self.known.iter().try_for_each(|trial| writeln!(file, "{}", json!(trial)))?;
                self.file.insert(file)
            }
        };
        writeln!(file, "{}", json!(trial))
    }

    fn remove(self) {
        // It has done its work; if it stays, the next command goes on with it or finds other options in it.
        let _ = fs::remove_file(self.path);
    }
}
