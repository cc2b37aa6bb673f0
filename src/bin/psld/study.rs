//! `psld study`.

use crate::args::{ModelArgs, labels};
use crate::report::digits;
use crate::{interrupt, report};
use clap::{Args, ValueHint};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use psld::array::Tensor;
use psld::config::OneOrMany;
use psld::evaluation::{Bootstrap, Figure};
#[cfg(feature = "onnxruntime")]
use psld::evaluation::{FeatureNetwork, Gaussian, Points, Reference, Statistics, subset};
use psld::hash::hex;
use psld::io::{self, NewFile, npy, png};
#[cfg(feature = "onnxruntime")]
use psld::network::onnxruntime::Runtime;
use psld::plan::{MapKind, Plan, Row};
use psld::plot::{self, Axis, Canvas, Panel, Point, Series, Style};
use psld::run::Overall;
use psld::spec::{DataSpec, Grid};
#[cfg(feature = "onnxruntime")]
use psld::study::Features;
use psld::study::{Figures, Solution, Study, StudyOptions};
use psld::tune::{ProbeOptions, listed, probe};
use psld::{Error, Model, ModelSpec, Result, Sampler, SamplerSpec, Status, solver};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// Images of each sampler and number of calls in the grid.
const IMAGES: usize = 4;

/// One sampler at one number of calls.
struct Entry {
    /// As it was asked for: a row of the grid, a line of the plot.
    name: String,
    /// The number of calls that was asked for; `None` where the sampler has its own.
    calls: Option<u32>,
    sampler: Arc<Sampler>,
    /// Whether it is only there to find the best (`--ratios`): it has no line in table, plot and grid.
    listed: bool,
}

pub fn run(args: Box<StudyArgs>) -> Result<()> {
    interrupt::install()?;
    // Cheap mistakes first: before the model is loaded, let alone sampled from.
    let read = |text: &String| sampler(text).map(|spec| on_grid(spec, args.grid.as_deref()));
    let named: Vec<(&str, SamplerSpec)> =
        args.samplers.iter().map(|text| Ok((text.as_str(), read(text)?))).collect::<Result<_>>()?;
    if let Some((text, _)) =
        named.iter().find(|(_, spec)| spec.nfe.is_some() || spec.steps.is_some() || spec.seed.is_some())
    {
        return Err(Error::argument(format!("--samplers {text}: no nfe, steps or seed here"))
            .hint("name the numbers of calls with --nfe, for all samplers, and the seed with --seed"));
    }
    let mut calls = args.nfe.clone();
    calls.sort_unstable();
    calls.dedup();
    let options = StudyOptions {
        n: args.n,
        seed: args.seed,
        labels: args.label.as_ref().map(every_label).unwrap_or_default(),
        batch: args.batch,
        reference: sampler(&args.reference).map_err(|e| e.context("--reference"))?,
        bootstrap: Bootstrap { resamples: args.resamples, seed: 0 },
        ..StudyOptions::new()
    };
    let model_options = args.model.options()?;
    let folder = Folder::new(&args.out)?;
    if !args.quiet {
        report::forward_log();
    }
    let model = Model::from_file(&args.model.model, model_options)?;
    let mut entries = entries(&model, &named, &calls, &args.plan)?;
    if args.ratios {
        entries.extend(rivals(&model, &options, &calls)?);
    }
    let study = Study::new(&model, &options)?;
    let mut judge = Judge::new(&args, &model.spec().data)?;

    let head = json!({
        "model": model.hash()?,
        "spec": model.spec(),
        "n": options.n,
        "seed": options.seed,
        "labels": options.labels,
        "reference": study.reference().hash(),
        "resamples": args.resamples,
        "features": judge.about(),
    });
    let known = folder.read(&head, model.spec())?;
    let image = png::is_image(&model.spec().data);
    let bar = Bar::new(args.quiet);
    let polled = interrupt::polled();
    let (mut state, converged) = match known {
        Some(known) => known,
        None => {
            bar.stage("converged solution");
            let converged = study.converge(|overall| bar.show(overall))?;
            bar.stage("a less converged one");
            let less = study.converge_less(|overall| bar.show(overall))?;
            let floor = judge.figures(&study, &less, &converged, false, &bar)?;
            let state = State {
                format: 1,
                of: head,
                converged_nfe: converged.nfe,
                converged_sha256: sha256(&converged.data),
                floor,
                cells: BTreeMap::new(),
            };
            folder.keep(&state, &converged, model.spec())?;
            (state, converged)
        }
    };
    let done = |entry: &Entry| {
        state.cells.contains_key(&entry.sampler.hash())
            && (!image || entry.listed || folder.pictures(entry).is_file())
    };
    let before = entries.iter().filter(|entry| done(entry)).count();
    if !args.quiet && before > 0 {
        report::stderr(&format!("going on: {before} of {} were measured before", entries.len()));
    }
    // Two names of one plan, such as `auto` and what it chooses, are measured once.
    let mut seen = BTreeSet::new();
    let left: Vec<&Entry> =
        entries.iter().filter(|entry| !done(entry) && seen.insert(entry.sampler.hash())).collect();
    let mut failed = Vec::new();
    for (i, entry) in left.iter().enumerate() {
        bar.stage(&format!("{}/{}: {}", i + 1, left.len(), entry.label()));
        let info = entry.sampler.info();
        let made = match study.draw(&entry.sampler, |overall| bar.show(overall)) {
            Ok(made) => made,
            Err(e) if e.status() == Status::NonFinite && entry.listed => continue,
            Err(e) if e.status() == Status::NonFinite => {
                failed.push(format!("{}: {}", entry.label(), e.message()));
                continue;
            }
            Err(e) if e.status() == Status::Cancelled => {
                let kept =
                    format!("{} keeps the {} that were measured", args.out.display(), state.cells.len());
                return Err(Error::new(Status::Cancelled, format!("interrupted; {kept}"))
                    .hint("the same command goes on from there"));
            }
            Err(e) => return Err(e.context(entry.label())),
        };
        let figures = match judge.figures(&study, &made, &converged, info.stochastic, &bar) {
            Ok(figures) if figures.finite() => figures,
            _ if entry.listed => continue,
            Ok(_) => {
                failed.push(format!("{}: samples too far away to be measured", entry.label()));
                continue;
            }
            Err(e) if matches!(e.status(), Status::NonFinite | Status::Numeric) => {
                failed.push(format!("{}: {}", entry.label(), e.message()));
                continue;
            }
            Err(e) => return Err(e.context(entry.label())),
        };
        if image && !entry.listed {
            folder.keep_pictures(entry, &model.spec().data, &made)?;
        }
        let cell = Cell { nfe: made.nfe, sampler: info.name.into(), stochastic: info.stochastic, figures };
        state.cells.insert(entry.sampler.hash(), cell);
        folder.write(&state)?;
    }
    drop(polled);
    bar.0.finish_and_clear();

    let all: Vec<(&Entry, &Cell)> =
        entries.iter().filter_map(|entry| Some((entry, state.cells.get(&entry.sampler.hash())?))).collect();
    let rows: Vec<_> = all.iter().copied().filter(|(entry, _)| !entry.listed).collect();
    let failures = || {
        Error::new(
            Status::NonFinite,
            format!("{} of {} samplers failed\n{}", failed.len(), entries.len(), failed.join("\n")),
        )
        .hint(match rows.len() {
            0 => "give them more calls (--nfe), or take others (--samplers)",
            _ => "the others are measured; leave these out with --samplers, or give them more calls",
        })
    };
    // Of nothing there is no chart.
    if rows.is_empty() {
        return Err(failures());
    }
    folder.file("study.csv", |out| out.write_all(csv(&all, &state).as_bytes()))?;
    folder.file("study.png", |out| chart(&rows, &state, &calls).write(out))?;
    if image {
        let grid = grid(&folder, &rows, &calls)?;
        folder.file("grid.png", |out| grid.write(out))?;
    }
    report::stdout(&table(&args, &study, &rows, &state))?;
    if args.ratios {
        report::stdout(&ratios(&all, &calls))?;
    }
    if !args.quiet {
        let pictures = if image { ", grid.png" } else { "" };
        let out = args.out.display();
        report::stderr(&format!("wrote {out}: study.csv, study.png{pictures}, study.json"));
    }
    if interrupt::requested() {
        let message = format!("interrupted when all was measured: {} is complete", args.out.display());
        return Err(Error::new(Status::Cancelled, message));
    }
    if !failed.is_empty() {
        return Err(failures());
    }
    Ok(())
}

/// A sampler with its options: `dpmpp:order=2:grid=karras`.
fn sampler(text: &str) -> Result<SamplerSpec> {
    let mut parts = text.split(':');
    let mut object = Map::from_iter([("sampler".into(), parts.next().unwrap_or_default().trim().into())]);
    for part in parts {
        let Some((option, value)) = part.split_once('=') else {
            return Err(Error::argument(format!("sampler `{text}`: expected OPTION=VALUE, got `{part}`"))
                .hint("for example dpmpp:order=2:grid=karras"));
        };
        let option = if option.trim() == "grid" { "time_grid" } else { option.trim() };
        let value = value.trim();
        // Numbers and truths are themselves; anything else is a word.
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        object.insert(option.into(), value);
    }
    SamplerSpec::from_json(object.into()).map_err(|e| e.context(format_args!("sampler `{text}`")))
}

/// On `grid`, unless it has a grid or chooses it.
fn on_grid(spec: SamplerSpec, grid: Option<&str>) -> SamplerSpec {
    let own = solver::list().any(|info| info.name == spec.name() && (info.adaptive || info.name == "auto"));
    let time_grid = spec.time_grid.clone().or(grid.filter(|_| !own).map(crate::args::grid));
    SamplerSpec { time_grid, ..spec }
}

fn every_label(given: &OneOrMany<i64>) -> Vec<i64> {
    match given {
        OneOrMany::One(label) => vec![*label],
        OneOrMany::Many(labels) => labels.clone(),
    }
}

/// Everything that is to be measured, compiled.
fn entries(
    model: &Model,
    named: &[(&str, SamplerSpec)],
    calls: &[u32],
    plans: &[PathBuf],
) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let compile = |spec: &SamplerSpec| Sampler::compile(model.spec(), spec, None).map(Arc::new);
    for (name, spec) in named {
        let of = |calls: Option<u32>| -> Result<Entry> {
            let spec = SamplerSpec { nfe: calls, ..spec.clone() };
            let sampler = compile(&spec).map_err(|e| match calls {
                Some(calls) => e.context(format_args!("{name}, {calls} calls")),
                None => e.context(name),
            })?;
            Ok(Entry { name: (*name).to_owned(), calls, sampler, listed: false })
        };
        let adaptive = solver::list().any(|info| info.adaptive && info.name == spec.name());
        match adaptive {
            true => entries.push(of(None)?),
            false => entries.extend(calls.iter().map(|calls| of(Some(*calls))).collect::<Result<Vec<_>>>()?),
        }
    }
    for path in plans {
        let plan = Plan::parse(&io::read_text(path)?);
        let sampler = plan
            .and_then(|plan| Sampler::from_plan(model.spec(), plan))
            .map_err(|e| e.context(path.display()))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let taken = entries.iter().any(|entry: &Entry| entry.name == stem);
        let name = if taken { path.display().to_string() } else { stem };
        entries.push(Entry { name, calls: None, sampler: Arc::new(sampler), listed: false });
    }
    for Entry { name, sampler, .. } in &entries {
        if sampler.encodes() {
            return Err(Error::argument(format!("{name}: it leads to noise, and a study compares samples")));
        }
        let conditions = |row: &Row| matches!(row, Row::Map(map) if !matches!(map.kind, MapKind::Clip { .. } | MapKind::Threshold(_)));
        if sampler.plan().is_some_and(|plan| plan.rows.iter().any(conditions)) {
            return Err(Error::argument(format!(
                "{name}: a study has no guidance and no images to complete or restore"
            )));
        }
    }
    Ok(entries)
}

/// What a probe chooses at each number of calls, from starts of its own, and all that it chooses from.
fn rivals(model: &Model, options: &StudyOptions, calls: &[u32]) -> Result<Vec<Entry>> {
    // The listed come last: a plan that is also the probe's is measured as the probe's, with its pictures.
    let (mut entries, mut all) = (Vec::new(), Vec::new());
    let compile = |spec: &SamplerSpec| Sampler::compile(model.spec(), spec, None).map(Arc::new);
    for calls in calls.iter().copied() {
        let spec = SamplerSpec { nfe: Some(calls), ..SamplerSpec::default() };
        for spec in listed(model, &spec)? {
            let order = spec.order.map(|order| format!(":order={order}")).unwrap_or_default();
            let grid = match &spec.time_grid {
                Some(Grid::Name(grid)) => format!(":grid={grid}"),
                _ => String::new(),
            };
            let name = format!("{}{order}{grid}", spec.name());
            all.push(Entry { name, calls: Some(calls), sampler: compile(&spec)?, listed: true });
        }
        // None of the study's starts.
        let spec = SamplerSpec { seed: Some(options.seed.wrapping_add(1 << 32)), ..spec };
        let probing =
            ProbeOptions { labels: options.labels.clone(), batch: options.batch, ..ProbeOptions::new(spec) };
        let chosen = probe(model, &probing, |_| match interrupt::requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })?;
        let chosen = SamplerSpec { seed: None, ..chosen.options };
        entries.push(Entry {
            name: "probe".into(),
            calls: Some(calls),
            sampler: compile(&chosen)?,
            listed: false,
        });
    }
    entries.extend(all);
    Ok(entries)
}

/// At each number of calls the best of all, and how many times its error others have.
fn ratios(rows: &[(&Entry, &Cell)], calls: &[u32]) -> String {
    let mut out = "\nRMS (median) at each number of calls: the best of all listed samplers, and how many times that the others have\n"
        .to_owned();
    for calls in calls {
        let of: Vec<_> = rows
            .iter()
            .filter(|(entry, _)| entry.calls == Some(*calls))
            .filter_map(|(entry, cell)| Some((entry, cell.figures.rms?.value)))
            .collect();
        let listed = || of.iter().filter(|(entry, _)| entry.listed);
        let Some((best, least)) = listed().min_by(|a, b| a.1.total_cmp(&b.1)) else { continue };
        let others: Vec<_> = of
            .iter()
            .filter(|(entry, _)| !entry.listed)
            .map(|(entry, rms)| format!("{} {:.2}", entry.name, rms / least))
            .collect();
        let _ = writeln!(
            out,
            "{calls:>4}  {} {} (of {})  {}",
            best.name,
            digits(*least),
            listed().count(),
            others.join("  ")
        );
    }
    out
}

impl Entry {
    fn label(&self) -> String {
        match self.calls {
            Some(calls) => format!("{}, {calls} calls", self.name),
            None => self.name.clone(),
        }
    }
}

/// What was measured.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cell {
    /// Of the sampler itself, where `auto` was asked for, too.
    sampler: String,
    nfe: usize,
    stochastic: bool,
    figures: Figures,
}

/// The file `study.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    format: u32,
    /// What the figures depend on beside the sampler.
    of: Value,
    /// Calls of the converged solution, and the SHA-256 of its samples.
    converged_nfe: usize,
    converged_sha256: String,
    /// Figures of the less converged one.
    floor: Figures,
    /// By the plan's hash.
    cells: BTreeMap<String, Cell>,
}

/// The folder of a study.
struct Folder(PathBuf);

impl Folder {
    fn new(path: &Path) -> Result<Self> {
        let cells = path.join("cells");
        fs::create_dir_all(&cells).map_err(|e| {
            Error::new(Status::WriteFailed, format!("{}: the folder cannot be made", cells.display()))
                .source(e)
        })?;
        io::check_writable(&path.join("study.json"), 0)?;
        Ok(Self(path.into()))
    }

    fn file(&self, name: &str, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
        NewFile::write_with(&self.0.join(name), write)
    }

    /// What an earlier command has measured, with the converged solution; `None` where there is nothing, or not the
    /// solution that its figures are of.
    fn read(&self, of: &Value, spec: &ModelSpec) -> Result<Option<(State, Solution)>> {
        let path = self.0.join("study.json");
        if !path.exists() {
            return Ok(None);
        }
        let bad = |what: String| {
            Error::new(Status::CheckpointInvalid, format!("{}: {what}", path.display()))
                .hint("name another folder (--out), or remove the file to begin anew")
        };
        let text = io::read_text(&path)?;
        let state: State = serde_json::from_str(&text)
            .map_err(|e| bad("torn, or no study of this version".into()).source(e))?;
        if state.format != 1 {
            return Err(bad(format!(
                "format {} is not known to this version, which reads format 1",
                state.format
            )));
        }
        if state.of != *of {
            let wanted = of.as_object().into_iter().flatten();
            let differs =
                wanted.filter(|(key, value)| state.of.get(key.as_str()) != Some(*value)).map(|(key, _)| key);
            let what = differs.map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(bad(format!("holds a study with another {what}")));
        }
        let data = match npy::read(&self.0.join("converged.npy")).map(|array| array.values) {
            Ok(Tensor::F32(values)) => values.into_raw_vec_and_offset().0,
            _ => return Ok(None),
        };
        if !data.len().is_multiple_of(spec.data_len()) || sha256(&data) != state.converged_sha256 {
            return Ok(None);
        }
        let nfe = state.converged_nfe;
        Ok(Some((state, Solution { data, nfe })))
    }

    fn write(&self, state: &State) -> Result<()> {
        let text = serde_json::to_string_pretty(state)
            .map_err(|e| Error::new(Status::Internal, "the study cannot be written as JSON").source(e))?;
        self.file("study.json", |out| writeln!(out, "{text}"))
    }

    /// Keeps a new study with its converged solution.
    fn keep(&self, state: &State, converged: &Solution, spec: &ModelSpec) -> Result<()> {
        let mut shape = vec![converged.data.len() / spec.data_len()];
        shape.extend(&spec.data.shape);
        self.file("converged.npy", |out| npy::write(out, &shape, &converged.data))?;
        if png::is_image(&spec.data) {
            self.write_pictures("converged.png", &spec.data, converged)?;
        }
        self.write(state)
    }

    fn pictures(&self, entry: &Entry) -> PathBuf {
        let hash = entry.sampler.hash();
        self.0.join("cells").join(format!("{}.png", hash.get(..16).unwrap_or(&hash)))
    }

    fn keep_pictures(&self, entry: &Entry, data: &DataSpec, made: &Solution) -> Result<()> {
        let name = self.pictures(entry);
        let name = name.strip_prefix(&self.0).unwrap_or(&name).to_string_lossy().into_owned();
        self.write_pictures(&name, data, made)
    }

    fn write_pictures(&self, name: &str, data: &DataSpec, made: &Solution) -> Result<()> {
        let len: usize = data.shape.iter().product();
        let first = &made.data[..made.data.len().min(IMAGES * len)];
        self.file(name, |out| png::write_grid(out, data, first, None))
    }
}

fn sha256(values: &[f32]) -> String {
    sha256_of(values.iter().map(|x| x.to_le_bytes()))
}

fn sha256_of(words: impl Iterator<Item = impl AsRef<[u8]>>) -> String {
    let mut hash = Sha256::new();
    words.for_each(|word| hash.update(word.as_ref()));
    hex(&hash.finalize())
}

/// The feature network, where one is named, and what its features are compared with.
#[cfg(feature = "onnxruntime")]
struct Judge(Option<Featured>);

#[cfg(feature = "onnxruntime")]
struct Featured {
    network: FeatureNetwork,
    reference: Reference,
    /// Features of training images, as many as there are starts at most.
    train: Option<Vec<f32>>,
    /// Features of the converged solution.
    converged: Option<Vec<f32>>,
    about: Value,
}

#[cfg(feature = "onnxruntime")]
impl Judge {
    /// Images of one network call.
    const BATCH: usize = 64;

    fn new(args: &StudyArgs, data: &DataSpec) -> Result<Self> {
        let Some(path) = &args.features else { return Ok(Self(None)) };
        if args.stats.is_none() && args.train.is_none() {
            return Err(Error::argument("--features: a Frechet distance is one to training images")
                .hint("give their statistics (--stats, of `psld fd --make-stats`) or themselves (--train)"));
        }
        let options = args.model.backend.options(None)?.onnx();
        let output = args.feature_output.as_deref();
        let mut network = FeatureNetwork::load(|| Runtime::load(None), path, output, None, &options)?;
        if network.data() != *data {
            let got = network.data();
            return Err(Error::argument(format!(
                "features: the network takes images {:?} from {} to {}, the model makes {:?} from {} to {}",
                got.shape, got.range[0], got.range[1], data.shape, data.range[0], data.range[1]
            )));
        }
        let mut about = json!({ "network": network.about() });
        let mut reference = None;
        if let Some(path) = &args.stats {
            let statistics = Statistics::read(path)?;
            statistics.check(network.about()).map_err(|e| e.context(path.display()))?;
            let Gaussian { mean, covariance, .. } = &statistics.gaussian;
            about["stats"] = sha256_of(mean.iter().chain(covariance).map(|x| x.to_le_bytes())).into();
            reference = Some(Reference::new(statistics.gaussian)?);
        }
        let mut train = None;
        if let Some(path) = &args.train {
            let images = io::read_images(path, data)?.into_f32();
            about["train"] = sha256(&images).into();
            let features = network.features(&images, Self::BATCH, |_| ())?;
            let points = Points::new(&features, network.width())?;
            if reference.is_none() {
                reference = Some(Reference::new(Gaussian::of(points)?)?);
            }
            train = Some(points.select(&subset(0, 0, args.n.min(points.len()), points.len())?));
        }
        let reference =
            reference.ok_or_else(|| Error::new(Status::Internal, "features without a reference"))?;
        Ok(Self(Some(Featured { network, reference, train, converged: None, about })))
    }

    fn about(&self) -> Value {
        self.0.as_ref().map_or(Value::Null, |featured| featured.about.clone())
    }

    fn figures(
        &mut self,
        study: &Study<'_>,
        samples: &Solution,
        converged: &Solution,
        stochastic: bool,
        bar: &Bar,
    ) -> Result<Figures> {
        let Some(Featured { network, reference, train, converged: known, .. }) = &mut self.0 else {
            return study.figures(samples, converged, stochastic, None);
        };
        bar.stage("features");
        let own = network.features(&samples.data, Self::BATCH, |_| ())?;
        let theirs = match known {
            Some(known) => known,
            None => known.insert(network.features(&converged.data, Self::BATCH, |_| ())?),
        };
        let width = network.width();
        let features = Features {
            samples: Points::new(&own, width)?,
            converged: Points::new(theirs, width)?,
            reference,
            train: train.as_ref().map(|train| Points::new(train, width)).transpose()?,
        };
        study.figures(samples, converged, stochastic, Some(features))
    }
}

/// Without ONNX Runtime there are no feature networks.
#[cfg(not(feature = "onnxruntime"))]
struct Judge;

#[cfg(not(feature = "onnxruntime"))]
impl Judge {
    fn new(_: &StudyArgs, _: &DataSpec) -> Result<Self> {
        Ok(Self)
    }

    fn about(&self) -> Value {
        Value::Null
    }

    fn figures(
        &mut self,
        study: &Study<'_>,
        samples: &Solution,
        converged: &Solution,
        stochastic: bool,
        _: &Bar,
    ) -> Result<Figures> {
        study.figures(samples, converged, stochastic, None)
    }
}

fn csv(rows: &[(&Entry, &Cell)], state: &State) -> String {
    let mut out = "name,sampler,calls,nfe,stochastic".to_owned();
    for name in Figures::NAMES {
        let _ = write!(out, ",{name},{name}_low,{name}_high");
    }
    let line = |out: &mut String, start: String, figures: &Figures| {
        out.push('\n');
        out.push_str(&start);
        for figure in figures.all() {
            match figure {
                Some(Figure { value, low, high }) => {
                    let _ = write!(out, ",{value:.6e},{low:.6e},{high:.6e}");
                }
                None => out.push_str(",,,"),
            }
        }
    };
    line(&mut out, "(floor),,,,false".into(), &state.floor);
    for (entry, cell) in rows {
        // Names hold no quotes that would have to be doubled, and commas separate them on the command line.
        let name = entry.name.replace(['"', ',', '\n'], " ");
        let calls = entry.calls.map_or_else(String::new, |calls| calls.to_string());
        line(
            &mut out,
            format!("{name},{},{calls},{},{}", cell.sampler, cell.nfe, cell.stochastic),
            &cell.figures,
        );
    }
    out.push('\n');
    out
}

/// Names of the samplers, once each, as they were asked for.
fn names<'a>(rows: &[(&'a Entry, &Cell)]) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (entry, _) in rows {
        if !names.contains(&entry.name.as_str()) {
            names.push(entry.name.as_str());
        }
    }
    names
}

/// Error against network calls, with intervals: of deterministic samplers against the converged solution, and of all by
/// their distribution.
fn chart(rows: &[(&Entry, &Cell)], state: &State, calls: &[u32]) -> Canvas {
    type Of = fn(&Figures) -> Option<Figure>;
    let features = rows.iter().any(|(_, cell)| cell.figures.frechet_distance.is_some());
    let (name, distribution): (_, Of) = match features {
        true => ("Frechet distance of features", |figures| figures.frechet_distance),
        false => ("energy distance", |figures| Some(figures.energy_distance)),
    };
    let of_samples: Of = |figures| figures.rms;
    let ticks: Vec<f64> = calls.iter().map(|calls| f64::from(*calls)).collect();
    let all = [
        ("RMS distance to the converged solution (median)", of_samples, false),
        (name, distribution, features),
    ];
    let panels: Vec<Panel> = all
        .into_iter()
        .filter_map(|(title, figure, level)| {
            let series: Vec<Series> = names(rows)
                .into_iter()
                .map(|name| {
                    let own = rows.iter().filter(|(entry, _)| entry.name == name);
                    let points = own.filter_map(|(_, cell)| {
                        let Figure { value, low, high } = figure(&cell.figures)?;
                        Some(Point { x: cell.nfe as f64, y: value, interval: Some([low, high]) })
                    });
                    Series { name: name.into(), points: points.collect(), style: Style::Marked }
                })
                .collect();
            if series.iter().all(|series| series.points.is_empty()) {
                return None;
            }
            let level = if level { figure(&state.floor).map(|figure| figure.value) } else { None };
            let axis = |name: &str, ticks| Axis { name: name.into(), log: true, ticks };
            Some(Panel {
                title: title.into(),
                x: axis("network calls", ticks.clone()),
                y: axis("", Vec::new()),
                series,
                level,
            })
        })
        .collect();
    plot::draw(&panels, 760, 620)
}

/// A row for the converged solution and each sampler, a column for each number of calls, the same starts everywhere.
fn grid(folder: &Folder, rows: &[(&Entry, &Cell)], calls: &[u32]) -> Result<Canvas> {
    const GAP: u32 = 8;
    let names = names(rows);
    let first = rows.first().map(|(entry, _)| folder.pictures(entry));
    let Some(first) = first else { return Ok(Canvas::new(1, 1)) };
    let (width, height) = png::size(&first)?;
    // Tiny images are shown larger.
    let zoom = (64 / width.max(1)).max(1);
    let (wide, high) = ((width * zoom) as u32, (height * zoom) as u32);
    let columns: Vec<Option<u32>> = calls
        .iter()
        .map(|calls| Some(*calls))
        .chain(rows.iter().any(|(entry, _)| entry.calls.is_none()).then_some(None))
        .collect();
    let left = names.iter().map(|name| Canvas::text_size(1, name).0).max().unwrap_or(0);
    let left = left.max(Canvas::text_size(1, "converged").0) + 2 * GAP;
    let column = wide.max(Canvas::text_size(1, "own calls").0) + GAP;
    // The converged solution stands above the numbers of calls, of which it has none of.
    let heads = GAP + high + 2 * GAP;
    let top = heads + plot::GLYPH + GAP;
    let mut canvas =
        Canvas::new(left + columns.len() as u32 * column, top + names.len() as u32 * (high + GAP));
    let y_of = |row: usize| top + row as u32 * (high + GAP);
    let mut show = |path: &Path, y: u32, at: usize| -> Result<()> {
        let pixels = png::read(path, height, width)?;
        let x = left + at as u32 * column;
        canvas.image((x as i32, y as i32), width, zoom, pixels.channels, &pixels.bytes());
        Ok(())
    };
    show(&folder.0.join("converged.png"), GAP, 0)?;
    for (entry, _) in rows {
        let row = names.iter().position(|name| *name == entry.name).unwrap_or(0);
        let at = columns.iter().position(|calls| *calls == entry.calls).unwrap_or(0);
        show(&folder.pictures(entry), y_of(row), at)?;
    }
    let of_names = names.iter().enumerate().map(|(row, name)| (y_of(row), *name));
    for (y, name) in [(GAP, "converged")].into_iter().chain(of_names) {
        let middle = y + high / 2 - plot::GLYPH / 2;
        canvas.text(GAP as i32, middle as i32, 1, [0; 3], false, name);
    }
    for (at, calls) in columns.iter().enumerate() {
        let text = calls.map_or_else(|| "own calls".into(), |calls| format!("{calls} calls"));
        canvas.text((left + at as u32 * column) as i32, heads as i32, 1, [0; 3], false, &text);
    }
    Ok(canvas)
}

fn table(args: &StudyArgs, study: &Study<'_>, rows: &[(&Entry, &Cell)], state: &State) -> String {
    let heads = [
        "RMS (median)",
        "elsewhere",
        "energy distance",
        "modes: chi-square",
        "modes: spread",
        "Frechet distance",
        "Frechet excess",
        "precision",
        "recall",
    ];
    let all = || rows.iter().map(|(_, cell)| &cell.figures).chain([&state.floor]);
    let shown: Vec<usize> = (0..heads.len()).filter(|i| all().any(|f| f.all()[*i].is_some())).collect();
    let text = |figure: Option<Figure>| match figure {
        Some(Figure { value, low, high }) if args.resamples > 0 => {
            format!("{} [{}, {}]", digits(value), digits(low), digits(high))
        }
        Some(figure) => digits(figure.value),
        None => String::new(),
    };
    let line = |name: &str, figures: &Figures| -> Vec<String> {
        [format!("  {name}")].into_iter().chain(shown.iter().map(|i| text(figures.all()[*i]))).collect()
    };
    let mut lines: Vec<Vec<String>> = Vec::new();
    let titles = shown.iter().map(|i| heads[*i].to_owned());
    lines.push([String::new()].into_iter().chain(titles).collect());
    lines.push(line("floor", &state.floor));
    let mut groups: Vec<Option<u32>> = Vec::new();
    for (entry, _) in rows {
        if !groups.contains(&entry.calls) {
            groups.push(entry.calls);
        }
    }
    groups.sort_by_key(|calls| calls.unwrap_or(u32::MAX));
    for calls in groups {
        let of: Vec<_> = rows.iter().filter(|(entry, _)| entry.calls == calls).collect();
        let rms = |cell: &Cell| cell.figures.rms.map(|figure| figure.value);
        let best = of.iter().filter_map(|(_, cell)| rms(cell)).fold(f64::INFINITY, f64::min);
        lines.push(vec![calls.map_or_else(|| "own calls".into(), |calls| format!("{calls} calls"))]);
        for (entry, cell) in of {
            let name = match (&entry.name, entry.calls) {
                (name, None) => format!("{name} ({})", cell.nfe),
                (name, Some(calls)) if cell.nfe != calls as usize => format!("{name} ({})", cell.nfe),
                (name, _) if name == "auto" => format!("{name} ({})", cell.sampler),
                (name, _) => name.clone(),
            };
            let mut line = line(&name, &cell.figures);
            if entry.calls.is_some() && rms(cell) == Some(best) {
                line[0] = format!("*{}", &line[0][1..]);
            }
            lines.push(line);
        }
    }
    let widths: Vec<usize> = (0..=shown.len())
        .map(|i| {
            lines.iter().filter_map(|line| line.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut out = format!(
        "{}: {} starts from seed {}; converged: {}, {} network calls\n\n",
        args.model.model.display(),
        args.n,
        args.seed,
        study.reference().info().name,
        state.converged_nfe,
    );
    for line in lines {
        let cells: Vec<_> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out.push_str("\n*: least RMS at this number of calls\n");
    out
}

/// The progress bar: on a terminal only.
struct Bar(ProgressBar);

impl Bar {
    const TICKS: u64 = 1000;

    fn new(quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(Self::TICKS), target);
        let style = ProgressStyle::with_template("{bar:40} {percent:>3}%  {msg}  {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }

    fn stage(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    fn show(&self, overall: Overall) -> ControlFlow<()> {
        self.0.set_position((overall.fraction() * Self::TICKS as f64) as u64);
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
