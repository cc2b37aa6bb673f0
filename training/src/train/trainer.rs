//! A run: from a recipe or a checkpoint to trained weights.

use std::fs::{self, File};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use psld::{Error, ModelSpec, Result, Status};
use tch::{Device, Kind, Tensor};

use super::checkpoint::{Checkpoint, Newest, Progress, newest};
use super::log::{Line, Log};
use super::loss::{Batch, Objective};
use super::optimizer::{Weights, learning_rate};
use super::sample::{TorchNetwork, draw};
use super::{grid, plot};
use crate::data::{Dataset, Split, Values};
use crate::net::{Mode, Network};
use crate::random::{self, Purpose};
use crate::recipe::{Precision, Recipe, Span, Times};

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// The time budget is spent; a checkpoint was written.
    OutOfTime,
    /// It was asked to stop; a checkpoint was written.
    Interrupted,
}

/// A run in its folder: `recipe.toml`, `log.csv`, `loss.png`, `samples/`, `checkpoints/`.
pub struct Trainer {
    folder: PathBuf,
    recipe: Recipe,
    spec: ModelSpec,
    network: Network,
    weights: Weights,
    objective: Objective,
    data: DeviceData,
    progress: Progress,
    device: Device,
    /// Held as long as the run is open, so that no second one writes to the folder.
    _lock: File,
}

/// The data on the device, and the epoch's order there: a step then waits for nothing from the host.
struct DeviceData {
    values: Tensor,
    labels: Option<Tensor>,
    flip: bool,
    samples: usize,
    seed: u64,
    /// Number, order and mirroring of the epoch at hand.
    epoch: Option<(u64, Tensor, Option<Tensor>)>,
}

impl Trainer {
    /// Starts a run in `folder`, which must not hold one.
    pub fn start(recipe: Recipe, folder: &Path, device: Device) -> Result<Self> {
        let lock = lock(folder)?;
        if let Some((path, _)) = newest(&folder.join("checkpoints"), Device::Cpu)?.whole {
            let error = Error::argument(format!("{}: holds a run already", path.display()));
            return Err(error.hint("go on with it: psld-training resume; or choose another --out"));
        }
        let data = load(&recipe)?;
        let classes = data.classes;
        let spec = recipe.spec(&data.shape, data.range, classes)?;
        let network = Network::new(&recipe.network(&spec, classes)?)?;
        let weights = Weights::new(&network, recipe.train.seed, device);
        let progress = Progress { step: 0, seconds: 0.0, pending: (0.0, 0.0, 0) };
        Self::new(folder, Checkpoint { progress, recipe, spec, network, weights }, data, device, lock)
    }

    /// Goes on with the run in `folder`, from its newest whole checkpoint, with `overrides` of its recipe.
    pub fn resume(folder: &Path, overrides: &[String], device: Device) -> Result<Self> {
        let lock = lock(folder)?;
        let Newest { whole, damaged } = newest(&folder.join("checkpoints"), device)?;
        for error in &damaged {
            eprintln!("left out: {error}");
        }
        let Some((path, mut checkpoint)) = whole else {
            let message = format!("{}: holds no checkpoint to resume from", folder.display());
            return Err(
                Error::new(Status::ReadFailed, message).hint("begin with: psld-training train RECIPE")
            );
        };
        eprintln!("resuming {} at step {}", path.display(), checkpoint.progress.step);
        checkpoint.recipe = checkpoint.recipe.with(overrides)?;
        let data = load(&checkpoint.recipe)?;
        let spec = checkpoint.recipe.spec(&data.shape, data.range, data.classes)?;
        let config = checkpoint.recipe.network(&spec, data.classes)?;
        if (&spec, &config) != (&checkpoint.spec, checkpoint.network.config()) {
            let message = format!("{}: was trained on other data, process or network", path.display());
            return Err(Error::argument(message).hint("only [train] and [output] may change within a run"));
        }
        Self::new(folder, checkpoint, data, device, lock)
    }

    fn new(folder: &Path, state: Checkpoint, data: Dataset, device: Device, lock: File) -> Result<Self> {
        let Checkpoint { progress, recipe, spec, network, weights } = state;
        if data.len() < recipe.train.batch {
            let message =
                format!("train.batch: {} is more than the data's {}", recipe.train.batch, data.len());
            return Err(Error::new(Status::InvalidConfig, message));
        }
        recipe.sampler()?;
        let objective = Objective::new(&spec, recipe.train.weighting, recipe.is_classifier()?)?;
        write(&folder.join("recipe.toml"), recipe.to_toml().as_bytes())?;
        let data = DeviceData::new(&data, &recipe, device);
        Ok(Self {
            folder: folder.into(),
            recipe,
            spec,
            network,
            weights,
            objective,
            data,
            progress,
            device,
            _lock: lock,
        })
    }

    /// Where the run is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// What it was started with.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// What a step changes.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Trains until all steps are done, `stop` is set or the time budget is spent; always leaves a checkpoint.
    ///
    /// # Errors
    /// [`Status::NonFinite`] where the loss is no number any more: the last checkpoint is then older than that.
    /// [`Status::WriteFailed`].
    pub fn run(&mut self, stop: &AtomicBool, began: Instant) -> Result<Outcome> {
        let train = self.recipe.train.clone();
        let output = self.recipe.output.clone();
        let mut log = Log::open(&self.folder.join("log.csv"), self.progress.step)?;
        let bar = bar(&self.recipe, self.progress.step);
        let before = self.progress.seconds;
        let start = Instant::now();
        let mut mark = Mark { at: start, step: self.progress.step };
        let mut optimizer = Duration::ZERO;
        // What was not read back yet: reading waits for the device.
        let pending = || Tensor::zeros([2], (Kind::Double, self.device));
        let mut sums = pending();
        let mut saved = None;
        let mut slowest_save = Duration::ZERO;
        let outcome = loop {
            if self.progress.step >= train.steps {
                break Outcome::Finished;
            }
            if stop.load(Ordering::Relaxed) {
                break Outcome::Interrupted;
            }
            let done = self.progress.step - mark.step;
            let step_time = if done > 0 { mark.at.elapsed() / done as u32 } else { Duration::ZERO };
            if let Some(Span(budget)) = train.time_budget
                && began.elapsed() + step_time + 2 * slowest_save >= budget
            {
                break Outcome::OutOfTime;
            }

            sums += self.step(&mut optimizer)?;
            self.progress.step += 1;
            self.progress.pending.2 += 1;
            self.progress.seconds = before + start.elapsed().as_secs_f64();
            let step = self.progress.step;
            if step.is_multiple_of(output.log) || step == train.steps {
                self.settle(&mut sums)?;
                let (loss, norm, steps) = std::mem::replace(&mut self.progress.pending, (0.0, 0.0, 0));
                let images = ((step - mark.step) * train.batch as u64) as f64;
                let line = Line {
                    step,
                    loss: loss / steps as f64,
                    lr: learning_rate(step - 1, &train),
                    images_per_second: images / mark.at.elapsed().as_secs_f64(),
                    gradient_norm: norm / steps as f64,
                };
                mark = Mark { at: Instant::now(), step };
                log.append(&line)?;
                report(&bar, &line);
            }
            bar.set_position(step);
            let in_time = output.sample > 0 && step.is_multiple_of(output.sample);
            if step.is_multiple_of(output.checkpoint) {
                let began = Instant::now();
                self.settle(&mut sums)?;
                self.save()?;
                slowest_save = slowest_save.max(began.elapsed());
                saved = Some(step);
            }
            if in_time && let Err(error) = self.pictures() {
                // What was learned is worth more than a look at it.
                bar.suspend(|| eprintln!("no pictures of step {step}: {error}"));
            }
        };
        if saved != Some(self.progress.step) {
            self.settle(&mut sums)?;
            self.save()?;
        }
        bar.finish_and_clear();
        let seconds = start.elapsed().as_secs_f64();
        if seconds > 0.0 {
            eprintln!(
                "step {}; {:.0} s in this session, {:.1} % of them in the optimiser",
                self.progress.step,
                seconds,
                100.0 * optimizer.as_secs_f64() / seconds
            );
        }
        Ok(outcome)
    }

    /// One step; returns its loss and gradient norm, still on the device.
    fn step(&mut self, optimizer: &mut Duration) -> Result<Tensor> {
        let train = &self.recipe.train;
        let step = self.progress.step;
        tch::manual_seed(random::step_seed(train.seed, step));
        let part = train.batch / train.accumulation;
        let mode = Mode::Train { dropout: self.network.config().dropout() };
        let compute = match train.precision {
            Precision::Fp32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
        };
        let mut total: Option<(Tensor, Tensor)> = None;
        for i in 0..train.accumulation {
            let batch = self.data.batch(&self.recipe, &self.spec, step, i * part..(i + 1) * part);
            let parameters = self.weights.parameters(&self.network)?;
            let loss = self.objective.loss(&self.network, &parameters, &batch, mode, compute)
                / train.accumulation as f64;
            let gradient = Tensor::run_backward(&[&loss], &[&self.weights.raw], false, false).remove(0);
            let loss = loss.detach().to_kind(Kind::Double);
            total = Some(match total {
                None => (loss, gradient),
                Some((sum, whole)) => (sum + loss, whole + gradient),
            });
        }
        let Some((loss, gradient)) = total else { unreachable!("a batch has at least one part") };
        // Kernels are launched, not waited for: on a GPU this is the optimiser's share of what the host does.
        let began = Instant::now();
        let norm = self.weights.step(gradient, step, train);
        *optimizer += began.elapsed();
        Ok(Tensor::stack(&[loss, norm.to_kind(Kind::Double)], 0))
    }

    /// Reads the sums of losses and norms back, and stops if they are no numbers.
    fn settle(&mut self, sums: &mut Tensor) -> Result<()> {
        let (loss, norm) = (sums.double_value(&[0]), sums.double_value(&[1]));
        if !(loss.is_finite() && norm.is_finite()) {
            let message =
                format!("the loss became {loss} (gradient norm {norm}) by step {}", self.progress.step);
            let error = Error::new(Status::NonFinite, message);
            return Err(
                error.hint("resume from the last checkpoint with a smaller train.lr, or check the data")
            );
        }
        self.progress.pending.0 += loss;
        self.progress.pending.1 += norm;
        let _ = sums.zero_();
        Ok(())
    }

    fn save(&self) -> Result<PathBuf> {
        Checkpoint::write(
            &self.folder.join("checkpoints"),
            self.recipe.output.keep,
            &self.progress,
            &self.recipe,
            &self.spec,
            &self.network,
            &self.weights,
        )
    }

    /// The plot of the loss and, unless it is a classifier, a grid of samples.
    pub fn pictures(&self) -> Result<()> {
        let lines = Log::read(&self.folder.join("log.csv"))?;
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy();
        plot(&self.folder.join("loss.png"), &lines, &format!("{name}: loss (log scale)"))?;
        if self.recipe.is_classifier()? {
            return Ok(());
        }
        let parameters = self.weights.averaged(&self.network)?;
        let network = TorchNetwork::new(self.spec.clone(), self.network.clone(), parameters, self.device);
        let samples = draw(network, &self.recipe.sampler()?, self.recipe.output.samples, &[])?;
        let folder = self.folder.join("samples");
        create(&folder)?;
        let path = folder.join(format!("step-{:09}.png", self.progress.step));
        let values: Vec<f32> = samples.values.iter().copied().collect();
        grid(&path, &values, &self.spec.data)
    }
}

struct Mark {
    at: Instant,
    step: u64,
}

impl DeviceData {
    fn new(data: &Dataset, recipe: &Recipe, device: Device) -> Self {
        let mut shape: Vec<i64> = data.shape.iter().map(|size| *size as i64).collect();
        shape.insert(0, data.len() as i64);
        let values = match &data.values {
            Values::U8(values) => Tensor::from_slice(values),
            Values::F32(values) => Tensor::from_slice(values),
        };
        let labels = data.labels.as_ref().filter(|_| recipe.data.labels);
        Self {
            values: values.view(&shape[..]).to_device(device),
            labels: labels.map(|labels| Tensor::from_slice(labels).to_device(device)),
            flip: recipe.data.flip,
            samples: data.len(),
            seed: recipe.train.seed,
            epoch: None,
        }
    }

    /// The samples at `part` of a step's batch. An epoch has whole batches only; what is left over is left out.
    fn batch(&mut self, recipe: &Recipe, spec: &ModelSpec, step: u64, part: std::ops::Range<usize>) -> Batch {
        let train = &recipe.train;
        let steps = (self.samples / train.batch) as u64;
        let (epoch, place) = (step / steps, (step % steps) as usize * train.batch + part.start);
        if self.epoch.as_ref().is_none_or(|(number, ..)| *number != epoch) {
            let device = self.values.device();
            let order = random::order(self.seed, epoch, self.samples);
            let flips = self.flip.then(|| {
                let flips: Vec<bool> = (0..self.samples)
                    .map(|i| random::uniform(self.seed, Purpose::Flip, epoch, i as u32) < 0.5)
                    .collect();
                Tensor::from_slice(&flips).to_device(device)
            });
            self.epoch = Some((epoch, Tensor::from_slice(&order).to_device(device), flips));
        }
        let Some((_, order, flips)) = &self.epoch else { unreachable!("the epoch was prepared above") };
        let (start, len) = (place as i64, part.len() as i64);
        let samples = order.narrow(0, start, len);
        let mut x0 = self.values.index_select(0, &samples);
        if x0.kind() == Kind::Uint8 {
            x0 = x0.to_kind(Kind::Float) / 127.5 - 1.0;
        }
        if let Some(flips) = flips {
            let mirrored = x0.flip([-1]);
            x0 = mirrored.where_self(&flips.narrow(0, start, len).view([-1, 1, 1, 1]), &x0);
        }
        let labels = self.labels.as_ref().map(|labels| {
            let labels = labels.index_select(0, &samples);
            let null = i64::from(spec.network.classes);
            if null == 0 || train.label_dropout == 0.0 {
                return labels;
            }
            let withheld: Vec<bool> = part
                .clone()
                .map(|i| random::uniform(train.seed, Purpose::Label, step, i as u32) < train.label_dropout)
                .collect();
            labels.masked_fill(&Tensor::from_slice(&withheld).to_device(labels.device()), null)
        });
        let [low, high] = train.t_range;
        let times = part.map(|i| {
            let u = random::uniform(train.seed, Purpose::Time, step, i as u32);
            let u = match train.times {
                Times::Uniform => u,
                Times::Stratified => (i as f64 + u) / train.batch as f64,
            };
            low + (high - low) * u
        });
        Batch { x0, labels, times: times.collect() }
    }
}

fn load(recipe: &Recipe) -> Result<Dataset> {
    let data = Dataset::load(&recipe.data, Split::Train, recipe.train.seed)?;
    for path in &data.skipped {
        eprintln!("left out, not readable: {}", path.display());
    }
    Ok(data)
}

fn lock(folder: &Path) -> Result<File> {
    create(folder)?;
    let path = folder.join("lock");
    let file = File::create(&path).map_err(|e| unwritable(&path, e))?;
    file.try_lock().map_err(|e| {
        Error::new(Status::Busy, format!("{}: another process trains in this folder", folder.display()))
            .source(e)
    })?;
    Ok(file)
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| unwritable(folder, e))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    super::checkpoint::replace(path, bytes).map_err(|e| unwritable(path, e))
}

fn unwritable(path: &Path, error: std::io::Error) -> Error {
    Error::new(Status::WriteFailed, format!("{}: cannot be written", path.display())).source(error)
}

fn bar(recipe: &Recipe, step: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{bar:30} {pos}/{len} {msg} left {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(recipe.train.steps).with_style(style).with_position(step);
    bar.reset_eta();
    bar
}

fn report(bar: &ProgressBar, line: &Line) {
    let Line { step, loss, images_per_second, .. } = line;
    if bar.is_hidden() {
        eprintln!("step {step} loss {loss:.5} {images_per_second:.1} images/s");
    } else {
        bar.set_message(format!("loss {loss:.5}, {images_per_second:.1} images/s"));
    }
}
