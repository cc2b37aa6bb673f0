//! `.npy` arrays, [samples, ...]: floating-point values as they are, integers as the levels of pixels.

use std::path::Path;

use psld::array::Tensor;
use psld::io::npy::{self, Array, Kind};
use psld::{Error, Result, Status};

use super::{Dataset, Values, damaged, range_of};
use crate::recipe::DataRecipe;

/// Labels are below it: each class is a row of a table.
const CLASSES: f64 = (1 << 20) as f64;

pub(super) fn load(path: &Path, recipe: &DataRecipe) -> Result<Dataset> {
    let Array { kind, values } = npy::read(path)?;
    let shape = values.shape().to_vec();
    if shape.len() < 2 || shape.contains(&0) {
        return Err(damaged(
            path,
            format!("expected an array [samples, ...] with samples, got shape {shape:?}"),
        ));
    }
    let sample = |i: usize| i / shape[1..].iter().product::<usize>();
    let values: Vec<f32> = match values {
        Tensor::F32(values) => values.into_raw_vec_and_offset().0,
        Tensor::F64(values) => values.into_iter().map(|x| x as f32).collect(),
    };
    let (values, range) = match kind {
        Kind::Float => {
            if let Some(i) = values.iter().position(|x| !x.is_finite()) {
                let what = format!("sample {} holds a value that is not finite", sample(i));
                return Err(damaged(path, what));
            }
            let range = recipe.range.unwrap_or_else(|| range_of(&values));
            (Values::F32(values), range)
        }
        Kind::Byte | Kind::Integer => {
            if let Some(i) = values.iter().position(|x| !(0.0..=255.0).contains(x)) {
                let what =
                    format!("sample {} holds {}: integers are levels of 0 to 255", sample(i), values[i]);
                return Err(damaged(path, what));
            }
            (Values::U8(values.into_iter().map(|x| x as u8).collect()), [-1.0, 1.0])
        }
        Kind::Bool => {
            return Err(damaged(
                path,
                "truth values: expected floating-point numbers, or integers of 0 to 255",
            ));
        }
    };
    let labels = recipe.labels_path.as_deref().map(labels).transpose()?;
    let classes = labels.as_ref().map_or(0, |l| l.iter().max().map_or(0, |last| (last + 1).max(0) as usize));
    let data = Dataset { shape: shape[1..].to_vec(), values, labels, classes, range, skipped: Vec::new() };
    data.checked().map_err(|e| e.context(path.display()))
}

fn labels(path: &Path) -> Result<Vec<i64>> {
    let Array { kind, values } = npy::read(path)?;
    if !matches!(kind, Kind::Byte | Kind::Integer) {
        return Err(damaged(path, "labels are integers"));
    }
    let labels: Vec<f64> = match values {
        Tensor::F32(labels) => labels.into_iter().map(f64::from).collect(),
        Tensor::F64(labels) => labels.into_iter().collect(),
    };
    match labels.iter().position(|label| *label >= CLASSES) {
        Some(i) => {
            let what = format!("the label of sample {i} is {}: expected less than {CLASSES}", labels[i]);
            Err(Error::new(Status::ShapeMismatch, format!("{}: {what}", path.display())))
        }
        None => Ok(labels.into_iter().map(|label| label as i64).collect()),
    }
}
