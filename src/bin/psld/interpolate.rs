//! `psld interpolate`.

use crate::args::{InterpolateArgs, spec_of};
use psld::array::Tensor;
use psld::io::{NewFile, npy, read_states};
use psld::run::interpolate;
use psld::{Error, Result};

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
