//! Whether a model computes here what it computed where it was trained.

use super::function::Function;
use super::{OnnxOptions, Runtime};
use crate::golden::{Difference, GOLDEN_KEY, Golden};
use crate::network::Backend;
use crate::onnx::{self, ElementType};
use crate::spec::{ModelSpec, SPEC_KEY};
use crate::{Error, Result, Status};
use std::path::Path;

/// A golden evaluation that was repeated.
#[derive(Clone, Debug)]
pub struct Verification {
    /// What the model says it computes.
    pub golden: Golden,
    /// The name of the output that was compared.
    pub output: String,
    /// Its number of elements.
    pub len: usize,
    /// The type of the model's state, from which its [`Golden::tolerance`] follows.
    pub element: ElementType,
    /// What repeated it.
    pub backend: Backend,
    /// How far the outputs are apart.
    pub difference: Difference,
}

/// Repeats the golden evaluation in the file `path` (see [`Golden`]) through ONNX Runtime. `runtime` is called once
/// it is known that there is one.
///
/// # Errors
/// [`Status::ModelInvalid`] where the file holds no golden evaluation, or none that can be read;
/// [`Status::SpecMissing`] where it has no spec and `options` has none; [`Status::ModelMismatch`] where golden
/// evaluation, spec and graph do not fit; [`Status::NonFinite`] for an output that is NaN or infinite; and those of
/// loading a model.
pub fn verify(
    runtime: impl FnOnce() -> Result<&'static Runtime>,
    path: &Path,
    options: &OnnxOptions,
) -> Result<Verification> {
    let name = path.display();
    let bytes = std::fs::read(path).map_err(|e| Error::unreadable_model(&name, e))?;
    let model = onnx::Model::read(bytes).map_err(|e| e.context(&name))?;
    let golden = Golden::from_metadata(model.metadata(GOLDEN_KEY)).map_err(|e| e.context(&name))?;
    let spec = match &options.spec {
        Some(spec) => spec.clone(),
        None => ModelSpec::from_metadata(model.metadata(SPEC_KEY)).map_err(|e| e.context(&name))?,
    };
    let output = golden.output.clone().unwrap_or_else(|| match &model.outputs()[..] {
        [only] => only.name.clone(),
        _ => spec.network.output.clone(),
    });
    if let Some(y) = golden.y
        && (spec.network.label_input.is_none() || !(0..=i64::from(spec.network.classes)).contains(&y))
    {
        let message =
            format!("{name}: {GOLDEN_KEY}: label {y}, but the spec has {} classes", spec.network.classes);
        return Err(Error::new(Status::ModelMismatch, message)
            .hint("the golden output is of another network: export the model again"));
    }
    let options = OnnxOptions { spec: Some(spec), ..options.clone() };
    let mut function = Function::load(runtime()?, path, model, &output, &options)?;
    let state = Golden::state(golden.seed, function.sample().iter().product());
    let made = function.run(&state, 1, golden.t.into(), golden.y)?;
    let difference = golden.compare(&made.values).map_err(|e| e.context(&name))?;
    Ok(Verification {
        output,
        len: made.values.len(),
        element: function.element(),
        backend: function.backend(),
        difference,
        golden,
    })
}
