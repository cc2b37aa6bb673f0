//! Checkpoints: one safetensors file each, with a JSON document in its metadata.
//!
//! A file is written beside its goal, synced and renamed, so that under its name it is whole or not there; its
//! document holds the SHA-256 of the tensors, so that damage that comes later is found too.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use psld::{Error, ModelSpec, Result, Status};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use super::optimizer::{Weights, floats};
use crate::net::{NetConfig, Network};
use crate::recipe::Recipe;

/// The key of the document.
const KEY: &str = "psld.training";
/// The tensors of each parameter: its weights, their running average, Adam's two.
const GROUPS: [&str; 4] = ["raw", "ema", "adam_m", "adam_v"];

/// Where a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Steps done. With the recipe's seed it determines all randomness to come.
    pub step: u64,
    /// Seconds of training so far, over all sessions.
    pub seconds: f64,
    /// Losses and gradient norms summed since the log's last line, and over how many steps.
    pub pending: (f64, f64, u64),
}

/// A checkpoint's document.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    /// Version of this form; 1.
    format: u32,
    progress: Progress,
    recipe: Recipe,
    spec: serde_json::Value,
    network: NetConfig,
    /// SHA-256 of all tensors' bytes, in the order of the network's parameters, group by group.
    sha256: String,
}

/// A checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where the run is.
    pub progress: Progress,
    /// What it was started with.
    pub recipe: Recipe,
    /// What the network is for.
    pub spec: ModelSpec,
    /// The network.
    pub network: Network,
    /// Everything that a step changes.
    pub weights: Weights,
}

impl Checkpoint {
    /// Writes `folder/step-N.safetensors` and deletes all but the last `keep` checkpoints. Returns the path.
    ///
    /// # Errors
    /// [`Status::WriteFailed`]; what was there before is then still there.
    pub fn write(
        folder: &Path,
        keep: usize,
        progress: &Progress,
        recipe: &Recipe,
        spec: &ModelSpec,
        network: &Network,
        weights: &Weights,
    ) -> Result<PathBuf> {
        let goal = folder.join(format!("step-{:09}.safetensors", progress.step));
        let parts = [&weights.raw, &weights.ema, &weights.moments[0], &weights.moments[1]];
        let flat: Vec<Vec<u8>> = parts
            .into_iter()
            .map(|part| Ok(floats(part)?.into_iter().flat_map(f32::to_le_bytes).collect()))
            .collect::<Result<_>>()?;
        let mut sum = Sha256::new();
        let mut tensors = Vec::new();
        for (group, bytes) in GROUPS.iter().zip(&flat) {
            sum.update(bytes);
            let mut rest = &bytes[..];
            for p in network.parameters() {
                let (bytes, tail) = rest.split_at(4 * p.len());
                rest = tail;
                let view = TensorView::new(Dtype::F32, p.shape.clone(), bytes).map_err(|e| {
                    Error::new(Status::Internal, format!("{}: not a tensor", p.name)).source(e)
                })?;
                tensors.push((format!("{group}.{}", p.name), view));
            }
        }
        let document = Document {
            format: 1,
            progress: progress.clone(),
            recipe: recipe.clone(),
            spec: serde_json::to_value(spec)
                .map_err(|e| Error::new(Status::Internal, "the spec").source(e))?,
            network: network.config().clone(),
            sha256: crate::data::hex(&sum.finalize()),
        };
        let text = serde_json::to_string(&document)
            .map_err(|e| Error::new(Status::Internal, "the checkpoint's document").source(e))?;
        let bytes = safetensors::serialize(tensors, Some(HashMap::from([(KEY.to_string(), text)])))
            .map_err(|e| Error::new(Status::Internal, "the checkpoint's tensors").source(e))?;
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(folder)?;
            replace(&goal, &bytes)
        };
        write().map_err(|e| {
            let error = Error::new(Status::WriteFailed, format!("{}: cannot be written", goal.display()));
            let full = matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            let error = error.source(e);
            if full {
                error.hint("make room; the last checkpoint is still there to resume from")
            } else {
                error
            }
        })?;
        for old in list(folder)?.iter().rev().skip(keep) {
            // One that stays does no harm.
            let _ = fs::remove_file(old);
        }
        Ok(goal)
    }

    /// Reads a checkpoint, to go on on `device`.
    ///
    /// # Errors
    /// [`Status::ReadFailed`], or [`Status::CheckpointInvalid`] for one that is torn, damaged or of another version.
    pub fn read(path: &Path, device: Device) -> Result<Self> {
        let bytes = fs::read(path).map_err(|e| {
            Error::new(Status::ReadFailed, format!("{}: cannot be read", path.display())).source(e)
        })?;
        let invalid =
            |what: String| Error::new(Status::CheckpointInvalid, format!("{}: {what}", path.display()));
        let torn = |e| invalid("torn, or not a checkpoint".into()).source(e);
        let tensors = SafeTensors::deserialize(&bytes).map_err(torn)?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(torn)?;
        let text = metadata.metadata().as_ref().and_then(|m| m.get(KEY));
        let text = text.ok_or_else(|| {
            invalid(format!("has no `{KEY}`: weights of another program"))
                .hint("psld-training import brings them in")
        })?;
        let document: Document =
            serde_json::from_str(text).map_err(|e| invalid("its document".into()).source(e))?;
        if document.format != 1 {
            return Err(invalid(format!("format {} is not known to this version", document.format)));
        }
        let spec = ModelSpec::parse(&document.spec.to_string()).map_err(|e| e.context(path.display()))?;
        let network = Network::new(&document.network).map_err(|e| e.context(path.display()))?;
        let mut sum = Sha256::new();
        let mut parts = Vec::new();
        for group in GROUPS {
            let mut flat = Vec::new();
            for p in network.parameters() {
                let name = format!("{group}.{}", p.name);
                let tensor = tensors.tensor(&name).map_err(|e| invalid(name.clone()).source(e))?;
                if tensor.dtype() != Dtype::F32 || tensor.shape() != p.shape {
                    let got = tensor.shape();
                    return Err(invalid(format!("{name}: expected float32 {:?}, got {got:?}", p.shape)));
                }
                sum.update(tensor.data());
                let (values, _) = tensor.data().as_chunks::<4>();
                flat.extend(values.iter().map(|value| f32::from_le_bytes(*value)));
            }
            parts.push(Tensor::from_slice(&flat).to_device(device));
        }
        if crate::data::hex(&sum.finalize()) != document.sha256 {
            return Err(invalid(
                "damaged: its tensors do not have the sum that was written with them".into(),
            ));
        }
        let Ok([raw, ema, m, v]) = <[Tensor; 4]>::try_from(parts) else { unreachable!("one for each group") };
        let weights = Weights::from_parts(&network, raw, ema, [m, v]);
        Ok(Self { progress: document.progress, recipe: document.recipe, spec, network, weights })
    }
}

/// What a search for checkpoints found.
#[derive(Debug)]
pub struct Newest {
    /// The newest one that is whole, and its path.
    pub whole: Option<(PathBuf, Checkpoint)>,
    /// What is wrong with each newer one.
    pub damaged: Vec<Error>,
}

/// The newest checkpoint in `folder` that is whole.
pub fn newest(folder: &Path, device: Device) -> Result<Newest> {
    let mut damaged = Vec::new();
    for path in list(folder)?.into_iter().rev() {
        match Checkpoint::read(&path, device) {
            Ok(checkpoint) => return Ok(Newest { whole: Some((path, checkpoint)), damaged }),
            Err(error) => damaged.push(error),
        }
    }
    Ok(Newest { whole: None, damaged })
}

/// The checkpoints in `folder`, oldest first.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => {
            return Err(
                Error::new(Status::ReadFailed, format!("{}: cannot be listed", folder.display())).source(e)
            );
        }
    };
    let is_checkpoint = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("step-") && name.ends_with(".safetensors")
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_checkpoint).collect();
    paths.sort();
    Ok(paths)
}

/// Puts `bytes` under `goal` such that, whatever happens, `goal` is what it was or holds all of them.
pub(super) fn replace(goal: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = goal.with_extension("partial");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, goal)?;
    // The rename itself is in the folder; that of a bare name is the current one.
    let folder = goal.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
