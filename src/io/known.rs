//! Image and mask of an inpainting run, and measurements, as `.npy` or PNG.

use super::npy::{self, Kind};
use super::{images, png};
use crate::run::Tensor;
use crate::spec::DataSpec;
use crate::{Error, Result, Status};
use ndarray::ArrayD;
use std::path::Path;

/// The known image: `.npy` of floating-point numbers in the data range, [n or 1, C, ...] or [C, ...] (and [H, W] for
/// one channel); or a PNG, whose levels 0 to 255 are mapped onto the data range.
///
/// # Errors
/// [`Status::ReadFailed`] or [`Status::ShapeMismatch`], naming the file.
pub fn read_image(path: &Path, data: &DataSpec) -> Result<Tensor> {
    if !is_png(path) {
        let array = npy::read(path)?;
        if array.kind != Kind::Float {
            let [low, high] = data.range;
            return Err(Error::new(
                Status::ShapeMismatch,
                format!("{}: an image must hold floating-point numbers from {low} to {high}", path.display()),
            )
            .hint("convert it, or pass a PNG"));
        }
        return Ok(with_batch(array.values, data, data.shape[0] == 1));
    }
    let (c, h, w) = channels(path, data)?;
    let pixels = png::read(path, h, w)?;
    tensor(vec![1, c, h, w], images::planes(&pixels, c, data.range))
}

/// The mask, 1 where the image is known: `.npy` of any numbers from 0 to 1 or bool, [n or 1, 1 or C, ...], also
/// without the batch, and without the channel; or a PNG, whose bright half (luminance 128 and up) is known.
///
/// # Errors
/// [`Status::ReadFailed`] or [`Status::ShapeMismatch`], naming the file.
pub fn read_mask(path: &Path, data: &DataSpec) -> Result<Tensor> {
    if !is_png(path) {
        return Ok(with_batch(npy::read(path)?.values, data, true));
    }
    let (_, h, w) = channels(path, data)?;
    let known = png::read(path, h, w)?.luminance().into_iter().map(|level| f32::from(level >= 128));
    tensor(vec![1, 1, h, w], known.collect())
}

fn is_png(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"))
}

fn channels(path: &Path, data: &DataSpec) -> Result<(usize, usize, usize)> {
    match data.shape[..] {
        [c, h, w] => Ok((c, h, w)),
        _ => Err(Error::new(
            Status::ShapeMismatch,
            format!("{}: the model's data has shape {:?}, which no PNG holds", path.display(), data.shape),
        )
        .hint("pass .npy instead")),
    }
}

fn tensor(shape: Vec<usize>, values: Vec<f32>) -> Result<Tensor> {
    let array = ArrayD::from_shape_vec(shape, values);
    Ok(Tensor::F32(array.map_err(|e| Error::new(Status::Internal, "the image's shape").source(e))?))
}

/// Adds the batch axis, and the channel axis where all channels are alike, to an array that has none. Whether the
/// result fits is for the run to say, which knows n.
fn with_batch(values: Tensor, data: &DataSpec, one_channel: bool) -> Tensor {
    let shape = values.shape();
    let missing =
        if shape == data.shape || one_channel && shape.get(1..) == data.shape.get(1..) && shape[0] == 1 {
            1
        } else if one_channel && data.shape.len() > 1 && *shape == data.shape[1..] {
            2
        } else {
            0
        };
    let mut full = vec![1; missing];
    full.extend(shape);
    match values {
        Tensor::F32(a) => {
            Tensor::F32(a.into_shape_with_order(full).unwrap_or_else(|_| unreachable!("ones only")))
        }
        Tensor::F64(a) => {
            Tensor::F64(a.into_shape_with_order(full).unwrap_or_else(|_| unreachable!("ones only")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::NewFile;

    fn shape_of(shape: &[usize], data: &[usize], mask: bool) -> Vec<usize> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        let values = vec![0.5_f32; shape.iter().product()];
        NewFile::write_with(&path, |out| npy::write(out, shape, &values)).unwrap();
        let data = DataSpec { shape: data.to_vec(), range: [-1.0, 1.0] };
        let read = if mask { read_mask(&path, &data) } else { read_image(&path, &data) };
        read.unwrap().shape().to_vec()
    }

    #[test]
    fn axes_that_are_left_out() {
        let data = [3, 4, 5];
        assert_eq!(shape_of(&[2, 3, 4, 5], &data, false), [2, 3, 4, 5]);
        assert_eq!(shape_of(&[3, 4, 5], &data, false), [1, 3, 4, 5]);
        assert_eq!(shape_of(&[3, 4, 5], &data, true), [1, 3, 4, 5]);
        assert_eq!(shape_of(&[1, 4, 5], &data, true), [1, 1, 4, 5]);
        assert_eq!(shape_of(&[4, 5], &data, true), [1, 1, 4, 5]);
        assert_eq!(shape_of(&[4, 5], &[1, 4, 5], false), [1, 1, 4, 5]);
        // Not to be guessed: left for the run to refuse.
        assert_eq!(shape_of(&[4, 5], &data, false), [4, 5]);
        assert_eq!(shape_of(&[2, 4, 5], &data, true), [2, 4, 5]);
        assert_eq!(shape_of(&[7], &[7], true), [1, 7]);
        assert_eq!(shape_of(&[2, 7], &[7], true), [2, 7]);
    }

    #[test]
    fn a_png_is_an_image_or_a_mask() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.PNG");
        let rgb = DataSpec { shape: vec![3, 1, 2], range: [0.0, 1.0] };
        // Red 1, then white.
        let sample = [1.0, 1.0, 0.0, 1.0, 0.0, 1.0_f32];
        NewFile::write_with(&path, |out| png::write_image(out, &rgb, &sample)).unwrap();
        let expect = |shape: &[usize], values: &[f32]| {
            Tensor::F32(ArrayD::from_shape_vec(shape, values.to_vec()).unwrap())
        };
        assert_eq!(read_image(&path, &rgb).unwrap(), expect(&[1, 3, 1, 2], &sample));
        assert_eq!(read_mask(&path, &rgb).unwrap(), expect(&[1, 1, 1, 2], &[0.0, 1.0]));
        let grey = DataSpec { shape: vec![1, 1, 2], range: [0.0, 255.0] };
        assert_eq!(read_image(&path, &grey).unwrap(), expect(&[1, 1, 1, 2], &[76.0, 255.0]));
        let other = DataSpec { shape: vec![3, 2, 1], range: [0.0, 1.0] };
        assert_eq!(read_image(&path, &other).unwrap_err().status(), Status::ShapeMismatch);
    }
}
