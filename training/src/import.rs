//! Brings parameters that others have trained.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use half::{bf16, f16};
use psld::io::NewFile;
use psld::{Error, Result, Status};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::net::{Network, Weights};

/// Which of the two sets of parameters that a training run keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The running average: the one to sample from.
    Ema,
    /// What the optimiser works on.
    Raw,
}

/// Reads the parameters of `network` from a file: safetensors, or a checkpoint of PyTorch or PyTorch Lightning
/// (which needs Python, without any packages; nothing in the checkpoint is executed).
///
/// Names are those of [`Network::parameters`]. Where a checkpoint has two sets of them, each behind a prefix such as
/// `ema_score_fn.` and `score_fn.`, `which` chooses; where it has one set, that one is read. What belongs to no set
/// is ignored.
///
/// # Errors
/// [`Status::ReadFailed`] where the file cannot be read; [`Status::ShapeMismatch`], with all names, where
/// parameters are missing, unexpected or of another shape; [`Status::NonFinite`], with the name, where one holds
/// NaN or infinity.
pub fn import(network: &Network, path: &Path, which: Which) -> Result<Weights> {
    load(network, path, which).map_err(|error| error.context(path.display()))
}

fn load(network: &Network, path: &Path, which: Which) -> Result<Weights> {
    let bytes = read(path)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| {
        Error::new(Status::ReadFailed, "this is neither a safetensors file nor a PyTorch checkpoint")
            .source(error)
    })?;
    let names = file.names();
    let prefix = prefix(&names, which)?;
    let views: BTreeMap<&str, TensorView> =
        file.iter().filter_map(|(name, view)| Some((name.strip_prefix(prefix)?, view))).collect();
    let shapes = views.iter().map(|(&name, view)| (name, view.shape())).collect();
    network.check_shapes(&shapes)?;
    views.into_iter().map(|(name, view)| Ok((name.to_owned(), values(name, &view)?))).collect()
}

/// What stands before the names of the chosen set, in files whose networks are part of something larger.
fn prefix<'a>(names: &[&'a str], which: Which) -> Result<&'a str> {
    let mut prefixes: Vec<_> =
        names.iter().filter_map(|name| name.find("all_modules.").map(|end| &name[..end])).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    let chosen: Vec<_> = prefixes
        .iter()
        .copied()
        .filter(|prefix| prefix.starts_with("ema") == (which == Which::Ema))
        .collect();
    match (&prefixes[..], &chosen[..]) {
        ([], _) => Ok(""),
        ([prefix], _) | (_, [prefix]) => Ok(prefix),
        _ => Err(Error::new(
            Status::ShapeMismatch,
            format!(
                "it is unclear which parameters are meant; there are several sets: {}",
                prefixes.join(", ")
            ),
        )),
    }
}

fn values(name: &str, view: &TensorView) -> Result<Vec<f32>> {
    let data = view.data();
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        Dtype::F64 => data.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes) as f32).collect(),
        Dtype::F16 => data.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
        Dtype::BF16 => data.as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
        other => {
            let message = format!("{name}: expected floating-point numbers, got {other:?}");
            return Err(Error::new(Status::ShapeMismatch, message));
        }
    };
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(Error::new(Status::NonFinite, format!("{name} holds {value}"))),
        None => Ok(values),
    }
}

/// The bytes of `path` as safetensors.
fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |error: io::Error| Error::new(Status::ReadFailed, "cannot be read").source(error);
    let mut file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.by_ref().take(4).read_to_end(&mut bytes).map_err(failed)?;
    if bytes == b"PK\x03\x04" {
        return convert(path);
    }
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Turns a PyTorch checkpoint into safetensors.
fn convert(path: &Path) -> Result<Vec<u8>> {
    const SCRIPT: &str = include_str!("../scripts/lightning_to_safetensors.py");
    let output = Command::new("python3")
        .args(["-I", "-c", SCRIPT])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
        Error::new(Status::Unsupported, "PyTorch checkpoints are read with python3, which cannot be started")
            .source(error)
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(Status::ReadFailed, format!("not a readable PyTorch checkpoint: {}", message.trim())))
}

/// Writes `weights` as safetensors, by their names.
pub fn save(network: &Network, weights: &Weights, path: &Path) -> Result<()> {
    network.check(weights)?;
    let bytes: Vec<(&str, &[usize], Vec<u8>)> = network
        .parameters()
        .iter()
        .map(|p| (&p.name[..], &p.shape[..], weights[&p.name].iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let failed = |error| Error::new(Status::Internal, "the parameters as safetensors").source(error);
    let views: Vec<_> = bytes
        .iter()
        .map(|(name, shape, data)| Ok((*name, TensorView::new(Dtype::F32, shape.to_vec(), data)?)))
        .collect::<Result<_, safetensors::SafeTensorError>>()
        .map_err(failed)?;
    let bytes = safetensors::serialize(views, None).map_err(failed)?;
    NewFile::write_with(path, |out| out.write_all(&bytes))
}
