//! `psld interpolate`.

use crate::args::spec_of;
use clap::{Args, ValueHint};
use psld::array::Tensor;
use psld::io::{NewFile, npy, read_states};
use psld::run::interpolate;
use psld::{Error, Result};
use std::path::PathBuf;

#[derive(Args)]
pub struct InterpolateArgs {
    /// The network: .onnx, or .json for an analytic mixture
    #[arg(value_hint = ValueHint::FilePath)]
    pub model: PathBuf,
    /// Two latents or more, as `psld encode` writes them: .npy [m, k*C, ...]
    #[arg(value_name = "LATENTS.npy", value_hint = ValueHint::FilePath)]
    pub latents: PathBuf,
    /// The latents on the way through them, for `psld sample --init`
    #[arg(short, long, value_name = "FILE.npy", value_hint = ValueHint::FilePath)]
    pub out: PathBuf,
    /// Steps from one latent to the next
    #[arg(long, value_name = "N", default_value_t = 8, allow_negative_numbers = true)]
    pub steps: usize,
    /// The network's spec, instead of the one in the model's metadata
    #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath)]
    pub spec: Option<PathBuf>,
}

pub fn run(args: InterpolateArgs) -> Result<()> {
    let InterpolateArgs { model, latents, out, steps, spec } = args;
    let spec = spec_of(&model, spec.as_deref())?;
    // Past a million lies a typing error.
    if !(1..=1_000_000).contains(&steps) {
        return Err(Error::argument(format!("steps = {steps}: expected 1 to 1000000")));
    }
    let mut state = spec.data.shape.clone();
    state[0] *= spec.process()?.k();
    let values = read_states(&latents, "latents", &["m"], &state).map_err(|e| {
        if e.hint_text().is_some() { e } else { e.hint("latents are states: what `psld encode` writes") }
    })?;
    let legs = values.shape().first().copied().unwrap_or(0).saturating_sub(1);
    if legs == 0 {
        let message = format!("{}: expected two latents or more", latents.display());
        return Err(Error::argument(message).hint("`psld encode` writes as many as it is given images"));
    }
    let places: Vec<f64> = (0..=legs * steps).map(|i| i as f64 / steps as f64).collect();
    let made = interpolate(&spec, &values, &places).map_err(|e| e.context(latents.display()))?;
    let shape = made.shape().to_vec();
    NewFile::write_with(&out, |file| match &made {
        Tensor::F32(a) => npy::write(file, &shape, a.as_slice().unwrap_or_default()),
        Tensor::F64(a) => npy::write(file, &shape, a.as_slice().unwrap_or_default()),
    })
}
