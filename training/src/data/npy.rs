//! `.npy` arrays, [samples, ...]: floating-point values as they are, bytes as pixels.

use std::path::Path;

use npyz::{DType, NpyFile, TypeChar};
use psld::{Error, Result, Status};

use super::{Dataset, Values, damaged, range_of, read};
use crate::recipe::DataRecipe;

pub(super) fn load(path: &Path, recipe: &DataRecipe) -> Result<Dataset> {
    let bytes = read(path)?;
    let array = open(path, &bytes)?;
    let shape: Vec<usize> = array.shape().iter().map(|size| *size as usize).collect();
    if shape.len() < 2 || shape.contains(&0) {
        return Err(damaged(
            path,
            format!("expected an array [samples, ...] with samples, got shape {shape:?}"),
        ));
    }
    let values = match kind(&array) {
        (TypeChar::Uint, 1) => Values::U8(values(path, array)?),
        (TypeChar::Float, 4) => Values::F32(values(path, array)?),
        (TypeChar::Float, 8) => {
            Values::F32(values::<f64>(path, array)?.into_iter().map(|x| x as f32).collect())
        }
        (kind, size) => {
            let message = format!("elements of type {kind:?}{size}: expected float32, float64 or uint8");
            return Err(damaged(path, message));
        }
    };
    let range = match &values {
        Values::U8(_) => [-1.0, 1.0],
        Values::F32(v) => match v.iter().position(|x| !x.is_finite()) {
            Some(i) => {
                let sample = i / shape[1..].iter().product::<usize>();
                return Err(damaged(path, format!("sample {sample} holds a value that is not finite")));
            }
            None => recipe.range.unwrap_or_else(|| range_of(v)),
        },
    };
    let labels = recipe.labels_path.as_deref().map(labels).transpose()?;
    let classes = labels.as_ref().map_or(0, |l| l.iter().max().map_or(0, |last| (last + 1).max(0) as usize));
    let data = Dataset { shape: shape[1..].to_vec(), values, labels, classes, range, skipped: Vec::new() };
    data.checked().map_err(|e| e.context(path.display()))
}

fn labels(path: &Path) -> Result<Vec<i64>> {
    let bytes = read(path)?;
    let array = open(path, &bytes)?;
    match kind(&array) {
        (TypeChar::Int, 8) => values(path, array),
        (TypeChar::Int, 4) => Ok(values::<i32>(path, array)?.into_iter().map(i64::from).collect()),
        (TypeChar::Uint, 1) => Ok(values::<u8>(path, array)?.into_iter().map(i64::from).collect()),
        (kind, size) => {
            Err(damaged(path, format!("elements of type {kind:?}{size}: expected int64, int32 or uint8")))
        }
    }
}

fn open<'a>(path: &Path, bytes: &'a [u8]) -> Result<NpyFile<&'a [u8]>> {
    let array = NpyFile::new(bytes).map_err(|e| damaged(path, "not a .npy file").source(e))?;
    if array.order() == npyz::Order::Fortran && array.shape().len() > 1 {
        let error = Error::new(Status::Unsupported, format!("{}: stored column by column", path.display()));
        return Err(error.hint("save it with numpy.ascontiguousarray"));
    }
    Ok(array)
}

/// The letter of the element type, and its size in bytes.
fn kind(array: &NpyFile<&[u8]>) -> (TypeChar, u64) {
    match array.dtype() {
        DType::Plain(kind) => (kind.type_char(), kind.size_field()),
        _ => (TypeChar::RawData, 0),
    }
}

fn values<T: npyz::Deserialize>(path: &Path, array: NpyFile<&[u8]>) -> Result<Vec<T>> {
    array.into_vec().map_err(|e| damaged(path, "its elements cannot be read").source(e))
}
