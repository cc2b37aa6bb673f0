//! The command `psld-training`.

use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::{Parser, Subcommand, ValueEnum};
use psld::io::{NewFile, npy};
use psld::onnx::ElementType;
use psld::{Error, ModelSpec, Result, SamplerSpec, Status};
use psld_training::data::{self, Dataset, Split};
use psld_training::export::{export, export_gradient, golden, golden_gradient};
use psld_training::import::{Which, import, save};
use psld_training::net::{NetConfig, Network};
use psld_training::recipe::{DataKind, DataRecipe, Recipe, with_preset};
use psld_training::train::{
    Band, Checkpoint, Newest, Outcome, TorchNetwork, Trainer, draw, evaluate, grid, newest,
};
use tch::Device;

/// Trains phase-space score networks and exports them to ONNX for psld.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Where to compute.
    #[arg(long, global = true, value_enum, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Threads of libtorch; by default all CPUs.
    #[arg(long, global = true)]
    threads: Option<i32>,
}

#[derive(Subcommand)]
enum Command {
    /// Train a network as a recipe says.
    Train {
        /// A recipe, TOML.
        recipe: PathBuf,
        /// The run's folder [default: runs/ and the recipe's name]
        #[arg(long)]
        out: Option<PathBuf>,
        #[command(flatten)]
        changes: Changes,
    },
    /// Go on with a run from its newest whole checkpoint.
    Resume {
        /// The run's folder.
        folder: PathBuf,
        #[command(flatten)]
        changes: Changes,
    },
    /// Write a trained network as ONNX.
    Export {
        /// A checkpoint, or a run's folder.
        checkpoint: PathBuf,
        /// The model to write.
        #[arg(short, long)]
        output: PathBuf,
        /// Type of weights, state and output.
        #[arg(long, value_enum, default_value_t = Dtype::F32)]
        dtype: Dtype,
        /// Of a classifier, the gradient of log p(y | z, t) in the state: a network for psld's classifier guidance.
        #[arg(long)]
        gradient: bool,
        /// The weights as they were last, not their running average.
        #[arg(long)]
        raw: bool,
        /// What `import` was told, for weights that it brought in.
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Bring in the weights of a published checkpoint, PyTorch's or safetensors.
    Import {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// JSON: `process` as in psld.spec, and `network`, the authors' configuration or a `preset`.
        #[arg(long)]
        config: PathBuf,
        /// The safetensors to write.
        #[arg(short, long)]
        output: PathBuf,
        /// The weights as they were last, not their running average.
        #[arg(long)]
        raw: bool,
    },
    /// Fetch data, or carry them to a host without a network.
    Data {
        #[command(subcommand)]
        command: DataCommand,
    },
    /// Draw a grid of samples.
    Sample {
        /// A checkpoint, or a run's folder.
        checkpoint: PathBuf,
        /// The PNG to write.
        #[arg(short, long)]
        output: PathBuf,
        /// Number of samples.
        #[arg(short, long, default_value_t = 64)]
        n: usize,
        /// Class of all samples; the null class is the number of classes. By default one after another.
        #[arg(long)]
        label: Option<i64>,
        /// An option of psld's samplers, `name=value` [default: the recipe's]
        #[arg(long = "sampler", value_name = "NAME=VALUE")]
        options: Vec<String>,
        /// The weights as they were last, not their running average.
        #[arg(long)]
        raw: bool,
    },
    /// Say how well a checkpoint does on the part of its data that is held back: loss (of a classifier, accuracy
    /// too) by time.
    Test {
        /// A checkpoint, or a run's folder.
        checkpoint: PathBuf,
        /// Samples to use, the first.
        #[arg(long, default_value_t = 2000)]
        limit: usize,
        /// The weights as they were last, not their running average.
        #[arg(long)]
        raw: bool,
    },
    /// Say what a checkpoint holds.
    Info {
        /// A checkpoint, or a run's folder.
        checkpoint: PathBuf,
    },
}

#[derive(clap::Args)]
struct Changes {
    /// Override a field of the recipe.
    #[arg(long = "set", value_name = "SECTION.FIELD=VALUE")]
    set: Vec<String>,
    /// Stop with a checkpoint after this long: 90s, 9m, 1.5h.
    #[arg(long)]
    time_budget: Option<String>,
    /// Leave out files that cannot be read.
    #[arg(long)]
    skip_bad: bool,
}

impl Changes {
    fn overrides(self) -> Vec<String> {
        let mut set = self.set;
        set.extend(self.time_budget.map(|span| format!("train.time_budget={span}")));
        set.extend(self.skip_bad.then(|| "data.skip_bad=true".into()));
        set
    }
}

#[derive(Subcommand)]
enum DataCommand {
    /// Fetch a public data set and verify it.
    Fetch {
        /// Which.
        #[arg(value_enum)]
        name: Public,
        /// Where to [default: data/ and the name]
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Write the samples of a recipe's data as .npy, [n, C, ...] float32: what `psld fd` compares with.
    Npy {
        /// A recipe, TOML.
        recipe: PathBuf,
        /// The array to write.
        #[arg(short, long)]
        output: PathBuf,
        /// The part that is held back instead of the one to train on.
        #[arg(long)]
        test: bool,
        /// Override a field of the recipe.
        #[arg(long = "set", value_name = "SECTION.FIELD=VALUE")]
        set: Vec<String>,
    },
    /// Write a folder's files as pieces of 60 MB.
    Pack {
        /// The folder to pack.
        folder: PathBuf,
        /// Where the pieces go.
        goal: PathBuf,
    },
    /// Put pieces together again.
    Unpack {
        /// The `.json` beside the pieces.
        list: PathBuf,
        /// Where the files go.
        folder: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Public {
    Cifar10,
    Mnist,
    FashionMnist,
}

#[derive(Clone, Copy, ValueEnum)]
enum DeviceChoice {
    /// A GPU if there is one.
    Auto,
    Cpu,
    Cuda,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    F16,
    Bf16,
}

fn main() -> ExitCode {
    let began = Instant::now();
    let arguments = Arguments::parse();
    match run(arguments, began) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            let usage = (100..200).contains(&(error.status() as i32));
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn run(arguments: Arguments, began: Instant) -> Result<ExitCode> {
    let device = device(arguments.device)?;
    if let Some(threads) = arguments.threads {
        if threads < 1 {
            return Err(Error::argument(format!("--threads {threads}: expected at least 1")));
        }
        tch::set_num_threads(threads);
    }
    match arguments.command {
        Command::Train { recipe: path, out, changes } => {
            let recipe = Recipe::from_file(&path, &changes.overrides())?;
            let folder = out.unwrap_or_else(|| Path::new("runs").join(path.file_stem().unwrap_or_default()));
            return train(Trainer::start(recipe, &folder, device)?, &folder, began);
        }
        Command::Resume { folder, changes } => {
            return train(Trainer::resume(&folder, &changes.overrides(), device)?, &folder, began);
        }
        Command::Export { checkpoint, output, dtype, gradient, raw, config } => {
            let (spec, network, values) = match config {
                Some(config) => {
                    let (spec, network) = described(&config)?;
                    let values = import(&network, &checkpoint, which(raw))?;
                    (spec, network, values)
                }
                None => {
                    let Checkpoint { spec, network, weights, .. } = open(&checkpoint, Device::Cpu)?;
                    let values = weights.values(&network, !raw)?;
                    (spec, network, values)
                }
            };
            let element = match dtype {
                Dtype::F32 => ElementType::F32,
                Dtype::F16 => ElementType::F16,
                Dtype::Bf16 => ElementType::Bf16,
            };
            let model = if gradient {
                let golden = golden_gradient(&network, &values)?;
                export_gradient(&network, &values, &spec, element, Some(&golden))?
            } else {
                let golden = golden(&network, &values)?;
                export(&network, &values, &spec, element, Some(&golden))?
            };
            let bytes = model.to_bytes();
            NewFile::write_with(&output, |out| out.write_all(&bytes))?;
            println!("{}: {:.2} MB", output.display(), bytes.len() as f64 / 1e6);
        }
        Command::Import { checkpoint, config, output, raw } => {
            let (_, network) = described(&config)?;
            save(&network, &import(&network, &checkpoint, which(raw))?, &output)?;
            println!("{}: {} parameters", output.display(), parameters(&network));
        }
        Command::Data { command } => data_command(command)?,
        Command::Sample { checkpoint, output, n, label, options, raw } => {
            let Checkpoint { recipe, spec, network, weights, .. } = open(&checkpoint, device)?;
            let sampler: SamplerSpec = if options.is_empty() {
                recipe.sampler()?
            } else {
                let set: Vec<String> =
                    options.iter().map(|option| format!("output.sampler.{option}")).collect();
                recipe.with(&set)?.sampler()?
            };
            let parameters = if raw { weights.parameters(&network) } else { weights.averaged(&network) }?;
            let data = spec.data.clone();
            let labels: Vec<i64> = label.into_iter().collect();
            let samples = draw(TorchNetwork::new(spec, network, parameters, device), &sampler, n, &labels)?;
            grid(&output, &samples.values.iter().copied().collect::<Vec<f32>>(), &data)?;
            println!("{}: {n} samples, {} network calls each", output.display(), samples.nfe);
        }
        Command::Test { checkpoint, limit, raw } => {
            let checkpoint = open(&checkpoint, device)?;
            let recipe = &checkpoint.recipe;
            let data = DataRecipe { limit: Some(limit), ..recipe.data.clone() };
            let data = Dataset::load(&data, Split::Test, recipe.train.seed)?;
            for Band { times: [low, high], loss, accuracy } in evaluate(&checkpoint, &data, raw, device)? {
                let accuracy = accuracy.map_or_else(String::new, |share| format!(" accuracy {share:.4}"));
                println!("t from {low} to {high}: loss {loss:.5}{accuracy}");
            }
        }
        Command::Info { checkpoint } => {
            let Checkpoint { progress, recipe, spec, network, .. } = open(&checkpoint, Device::Cpu)?;
            let (hours, count) = (progress.seconds / 3600.0, parameters(&network));
            println!("# {} steps, {hours:.2} h, {count} parameters\n# {}\n", progress.step, spec.to_json());
            print!("{}", recipe.to_toml());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn train(mut trainer: Trainer, folder: &Path, began: Instant) -> Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("stopping after this step; once more to stop at once, without a checkpoint");
    })
    .map_err(|e| Error::new(Status::Internal, "Ctrl+C cannot be caught").source(e))?;
    eprintln!("{} parameters, in {}", parameters(trainer.network()), folder.display());
    let outcome = trainer.run(&stop, began)?;
    let step = trainer.progress().step;
    let resume = format!("go on with: psld-training resume {}", folder.display());
    match outcome {
        Outcome::Finished => {
            trainer.pictures()?;
            eprintln!("finished: {step} steps; {} has its pictures", folder.display());
            Ok(ExitCode::SUCCESS)
        }
        Outcome::OutOfTime => {
            eprintln!("time budget spent at step {step}; {resume}");
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Interrupted => {
            eprintln!("interrupted at step {step}; {resume}");
            Ok(ExitCode::from(130))
        }
    }
}

fn data_command(command: DataCommand) -> Result<()> {
    let list = |paths: Vec<PathBuf>| paths.iter().for_each(|path| println!("{}", path.display()));
    match command {
        DataCommand::Fetch { name, dir } => {
            let kind = match name {
                Public::Cifar10 => DataKind::Cifar10,
                Public::Mnist => DataKind::Mnist,
                Public::FashionMnist => DataKind::FashionMnist,
            };
            println!("{}", data::fetch(kind, &dir.unwrap_or_else(|| Path::new("data").join(kind.name())))?);
        }
        DataCommand::Npy { recipe, output, test, set } => {
            let recipe = Recipe::from_file(&recipe, &set)?;
            let split = if test { Split::Test } else { Split::Train };
            let data = Dataset::load(&recipe.data, split, recipe.train.seed)?;
            let mut shape = vec![data.len()];
            shape.extend(&data.shape);
            NewFile::write_with(&output, |out| npy::write(out, &shape, &data.scaled()))?;
            println!("{}: {shape:?}", output.display());
        }
        DataCommand::Pack { folder, goal } => list(data::pack(&folder, &goal)?),
        DataCommand::Unpack { list: pieces, folder } => list(data::unpack(&pieces, &folder)?),
    }
    Ok(())
}

fn parameters(network: &Network) -> usize {
    network.parameters().iter().map(|p| p.len()).sum()
}

fn which(raw: bool) -> Which {
    if raw { Which::Raw } else { Which::Ema }
}

/// The spec and the network of someone else's checkpoint.
fn described(path: &Path) -> Result<(ModelSpec, Network)> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        process: serde_json::Value,
        network: serde_json::Map<String, serde_json::Value>,
    }
    let invalid = |e: serde_json::Error| {
        Error::new(Status::InvalidConfig, format!("{}: not a description of a network", path.display()))
            .source(e)
    };
    let text = std::fs::read_to_string(path).map_err(|e| {
        Error::new(Status::ReadFailed, format!("{}: cannot be read", path.display())).source(e)
    })?;
    let Config { process, network } = serde_json::from_str(&text).map_err(invalid)?;
    let network = with_preset(network).map_err(|e| e.context(path.display()))?;
    let config: NetConfig = serde_json::from_value(network.into()).map_err(invalid)?;
    let network = Network::new(&config).map_err(|e| e.context(path.display()))?;
    // The data have the state's shape, with one block of its channels; how many blocks follows from the process.
    let mut shape = network.config().state_shape();
    let spec = |shape: &[usize]| {
        let (classes, label) = (network.config().classes(), (network.config().classes() > 0).then_some("y"));
        let document = serde_json::json!({"format": 1, "process": process, "data": {"shape": shape},
                                          "network": {"label_input": label, "classes": classes}});
        ModelSpec::parse(&document.to_string()).map_err(|e| e.context(path.display()))
    };
    shape[0] = (shape[0] / spec(&shape)?.process()?.k()).max(1);
    Ok((spec(&shape)?, network))
}

/// A checkpoint by its path, or the newest whole one of a run.
fn open(path: &Path, device: Device) -> Result<Checkpoint> {
    if !path.is_dir() {
        return Checkpoint::read(path, device);
    }
    let Newest { whole, damaged } = newest(&path.join("checkpoints"), device)?;
    damaged.iter().for_each(|error| eprintln!("left out: {error}"));
    match whole {
        Some((_, checkpoint)) => Ok(checkpoint),
        None => Err(Error::new(Status::ReadFailed, format!("{}: holds no whole checkpoint", path.display()))),
    }
}

/// Loads libtorch's CUDA half, which the binary does not link so that it runs without, and picks the device.
fn device(choice: DeviceChoice) -> Result<Device> {
    const CUDA: &CStr = c"libtorch_cuda.so";
    if let DeviceChoice::Cpu = choice {
        return Ok(Device::Cpu);
    }
    // SAFETY: the name is a C string; the library's initialisers are those of libtorch, made to be loaded.
    let loaded = !unsafe { libc::dlopen(CUDA.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) }.is_null();
    match (choice, loaded && tch::Cuda::is_available()) {
        (_, true) => Ok(Device::Cuda(0)),
        (DeviceChoice::Cuda, false) => {
            let why = if loaded {
                "libtorch finds no GPU"
            } else {
                "libtorch_cuda.so or what it needs is not found"
            };
            Err(Error::new(Status::ProviderUnavailable, format!("--device cuda: {why}")))
        }
        _ => Ok(Device::Cpu),
    }
}
