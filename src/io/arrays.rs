//! What a command is given as files, by what it is: images, masks, measurements, states. Each reader refuses what cannot be
//! that, naming the file, and says nothing of how many there must be, which is for the run to say.

use super::images::{self, mismatch, value};
use super::npy::{self, Array, Kind};
use super::png;
use crate::array::Tensor;
use crate::spec::DataSpec;
use crate::{Error, Result, Status};
use ndarray::{ArrayD, Dimension};
use std::path::Path;

/// Images, [n, data.shape...], of at least one:
/// * `.npy` [n, ...] of floating-point numbers in the data range, or of uint8, whose levels of 0 to 255 are mapped onto the
///   data range; of one channel also [n, H, W];
/// * `.png`: one image, or a grid of them as [`png::write_grid`] lays it out (white cells at its end are none);
/// * a folder: all its PNG files by name, each one image or grid.
///
/// # Errors
/// [`Status::ReadFailed`], [`Status::ShapeMismatch`] or [`Status::InvalidArgument`], naming the file.
pub fn read_images(path: &Path, data: &DataSpec) -> Result<Tensor> {
    let values = if path.is_dir() {
        images::read_folder(path, data)?
    } else if is_png(path) {
        images::read_grid(path, data)?
    } else if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy")) {
        let array = npy::read(path)?;
        let got = array.values.shape().to_vec();
        let (n, rest) = got.split_first().map_or((0, &[][..]), |(n, rest)| (*n, rest));
        let one_channel = data.shape.len() > 1 && data.shape[0] == 1 && rest == &data.shape[1..];
        if got.is_empty() || rest != data.shape && !one_channel {
            return Err(mismatch(
                path,
                format_args!("expected shape [n{}], got {got:?}", sizes(&data.shape)),
            ));
        }
        if n == 0 {
            return Err(mismatch(path, format_args!("holds no samples: shape {got:?}")));
        }
        return reshaped(data_values(array, path, data)?, [&[n][..], &data.shape].concat());
    } else {
        let message = format!("{}: expected .npy, .png or a folder of .png", path.display());
        return Err(Error::new(Status::ReadFailed, message));
    };
    let n = values.len() / data.shape.iter().product::<usize>();
    tensor([&[n][..], &data.shape].concat(), values)
}

/// The known image, or a measurement, [n or 1, data.shape...]: `.npy` of floating-point numbers in the data range, or of uint8
/// as in [`read_images`], also without the batch (and [H, W] for one channel); or a PNG, whose levels are mapped onto the data
/// range.
///
/// # Errors
/// As [`read_images`].
pub fn read_image(path: &Path, data: &DataSpec) -> Result<Tensor> {
    if is_png(path) {
        let (c, h, w) = images::dimensions(path, data)?;
        let pixels = png::read(path, h, w)?;
        return tensor(vec![1, c, h, w], images::planes(&pixels, c, data.range));
    }
    let Array { kind, values } = npy::read(path)?;
    let given = values.shape().to_vec();
    let values = with_batch(values, data, data.shape[0] == 1)?;
    match values.shape() {
        [n, sample @ ..] if *n > 0 && *sample == data.shape => {
            data_values(Array { kind, values }, path, data)
        }
        _ => {
            let sizes = sizes(&data.shape);
            Err(mismatch(path, format_args!("expected shape [n or 1{sizes}], got {given:?}")))
        }
    }
}

/// The mask, 1 where the image is known, [n or 1, 1 or C, ...]: `.npy` of any numbers from 0 to 1 or bool, also without the
/// batch, and without the channel; or a PNG, whose bright half (from the middle of its levels on) is known.
///
/// # Errors
/// As [`read_images`].
pub fn read_mask(path: &Path, data: &DataSpec) -> Result<Tensor> {
    if is_png(path) {
        let [_, h, w] = data.shape[..] else { return Err(images::no_png(path, data)) };
        let pixels = png::read(path, h, w)?;
        let known = |level: u16| f32::from(2 * u32::from(level) > u32::from(pixels.white));
        return tensor(vec![1, 1, h, w], pixels.luminance().into_iter().map(known).collect());
    }
    let Array { kind, values } = npy::read(path)?;
    let given = values.shape().to_vec();
    let values = with_batch(values, data, true)?;
    let (channels, rest) = (data.shape[0], &data.shape[1..]);
    match values.shape() {
        [n, c, space @ ..] if *n > 0 && (*c == 1 || *c == channels) && space == rest => {}
        _ => {
            let sizes = sizes(rest);
            let expected = format!("[n or 1, 1 or {channels}{sizes}]");
            return Err(mismatch(path, format_args!("expected a mask of shape {expected}, got {given:?}")));
        }
    }
    match values.find(|x| !(0.0..=1.0).contains(&x)) {
        None => Ok(values),
        Some(x) => {
            let message =
                format!("{}: a mask holds numbers from 0 (unknown) to 1 (known), got {x}", path.display());
            let error = Error::argument(message);
            Err(if kind == Kind::Byte { error.hint("divide levels by 255") } else { error })
        }
    }
}

/// States, or noise, of samples whose state is `state` (k*C, ...): `.npy` of floating-point numbers, whose first axes are the
/// `leading` ones, the last of them the samples, of which there is at least one. `what` opens messages.
///
/// # Errors
/// As [`read_images`].
pub fn read_states(path: &Path, what: &str, leading: &[&str], state: &[usize]) -> Result<Tensor> {
    let Array { kind, values } = npy::read(path)?;
    let shape = values.shape();
    let fits = shape.len() == leading.len() + state.len()
        && shape.ends_with(state)
        && shape[..leading.len()].last() != Some(&0);
    if !fits {
        let expected = format!("[{}{}]", leading.join(", "), sizes(state));
        let got = format_args!("{what}: expected shape {expected}, got {shape:?}");
        return Err(mismatch(path, got));
    }
    if kind != Kind::Float {
        let message = format!("{what}: {} holds no floating-point numbers", path.display());
        return Err(Error::argument(message)
            .hint("its values are the network's, not levels of images: array.astype(numpy.float32)"));
    }
    Ok(values)
}

/// Values in the data range: floating-point numbers as they are, levels of eight bits mapped onto it. What other integers
/// mean nobody knows.
fn data_values(array: Array, path: &Path, data: &DataSpec) -> Result<Tensor> {
    let Array { kind, values } = array;
    match kind {
        Kind::Float => Ok(values),
        Kind::Byte => {
            let shape = values.shape().to_vec();
            let mut levels = vec![0.0_f64; shape.iter().product()];
            values.copy_into(&mut levels)?;
            tensor(shape, levels.into_iter().map(|level| value(level / 255.0, data.range)).collect())
        }
        Kind::Integer | Kind::Bool => {
            let [low, high] = data.range;
            let what = if kind == Kind::Bool { "bool" } else { "integers other than uint8" };
            let message = format!(
                "{}: holds {what}: expected floating-point numbers from {low} to {high}, or levels of 0 to 255 as uint8",
                path.display()
            );
            Err(Error::argument(message)
                .hint("array.astype(numpy.uint8) for levels, array.astype(numpy.float32) for values"))
        }
    }
}

fn is_png(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"))
}

/// ", 3, 32, 32": the sizes behind the first.
fn sizes(shape: &[usize]) -> String {
    shape.iter().map(|size| format!(", {size}")).collect()
}

fn tensor(shape: Vec<usize>, values: Vec<f32>) -> Result<Tensor> {
    let array = ArrayD::from_shape_vec(shape, values);
    Ok(Tensor::F32(array.map_err(|e| Error::new(Status::Internal, "the images' shape").source(e))?))
}

/// The same elements in a shape with as many.
fn reshaped(values: Tensor, shape: Vec<usize>) -> Result<Tensor> {
    fn to<T: Clone>(array: ArrayD<T>, shape: Vec<usize>) -> Result<ArrayD<T>> {
        if array.raw_dim().slice() == shape {
            return Ok(array);
        }
        let made = array.into_shape_with_order(shape);
        made.map_err(|e| Error::new(Status::Internal, "the array's shape").source(e))
    }
    Ok(match values {
        Tensor::F32(array) => Tensor::F32(to(array, shape)?),
        Tensor::F64(array) => Tensor::F64(to(array, shape)?),
    })
}

/// Adds the batch axis, and the channel axis where all channels are alike, to an array that has none.
fn with_batch(values: Tensor, data: &DataSpec, one_channel: bool) -> Result<Tensor> {
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
    reshaped(values, full)
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
        read.map(|array| array.shape().to_vec()).unwrap_or_default()
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
        // Not to be guessed: refused.
        assert_eq!(shape_of(&[4, 5], &data, false), [0; 0]);
        assert_eq!(shape_of(&[2, 4, 5], &data, true), [0; 0]);
        assert_eq!(shape_of(&[7], &[7], true), [1, 7]);
        assert_eq!(shape_of(&[2, 7], &[7], true), [2, 7]);
    }

    /// Each reader with arrays that are nothing it takes: an error that names file and shape, never a panic.
    #[test]
    fn shapes_that_fit_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("odd.npy");
        let odd: [&[usize]; 12] = [
            &[],
            &[0],
            &[1],
            &[7],
            &[0, 3, 4, 5],
            &[2, 3, 4, 0],
            &[2, 0, 4, 5],
            &[3, 5, 4],
            &[1, 1, 3, 4, 5],
            &[1, 3, 4, 5, 1],
            &[0, 0, 0, 0],
            &[1; 30],
        ];
        for data in [&[3, 4, 5][..], &[1, 4, 5], &[7], &[1]] {
            let data = DataSpec { shape: data.to_vec(), range: [-1.0, 1.0] };
            for shape in odd {
                let values = vec![0.5_f32; shape.iter().product()];
                NewFile::write_with(&path, |out| npy::write(out, shape, &values)).unwrap();
                let state = [&[2 * data.shape[0]], &data.shape[1..]].concat();
                let read = [
                    read_images(&path, &data),
                    read_image(&path, &data),
                    read_mask(&path, &data),
                    read_states(&path, "init", &["n"], &state),
                    read_states(&path, "noise", &["draws", "n"], &state),
                ];
                for read in read {
                    match read {
                        Ok(array) => assert!(array.shape().len() > 1 && array.shape()[0] > 0, "{shape:?}"),
                        Err(error) => {
                            let said = error.to_string();
                            assert_eq!(error.status(), Status::ShapeMismatch, "{said}");
                            assert!(
                                said.contains("odd.npy") && said.contains(&format!("{shape:?}")),
                                "{said}"
                            );
                        }
                    }
                }
            }
        }
    }

    /// uint8 are levels, for images of every kind; other integers are nothing, and no levels are a state or a mask.
    #[test]
    fn integers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        let data = DataSpec { shape: vec![1, 1, 2], range: [-1.0, 1.0] };
        NewFile::write_with(&path, |out| npy::write(out, &[1, 1, 1, 2], &[0_u8, 51])).unwrap();
        let mapped = Tensor::F32(ArrayD::from_shape_vec(vec![1, 1, 1, 2], vec![-1.0, -0.6]).unwrap());
        assert_eq!(read_images(&path, &data).unwrap(), mapped);
        assert_eq!(read_image(&path, &data).unwrap(), mapped);
        let refused = |read: Result<Tensor>| {
            let error = read.unwrap_err();
            assert_eq!(error.status(), Status::InvalidArgument);
            error.to_string()
        };
        let mask = refused(read_mask(&path, &data));
        assert!(mask.contains("a.npy") && mask.contains("got 51") && mask.contains("divide"), "{mask}");
        assert!(refused(read_states(&path, "init", &["n"], &[1, 1, 2])).contains("a.npy"));
        NewFile::write_with(&path, |out| npy::write(out, &[1, 1, 1, 2], &[0_i64, 1])).unwrap();
        for read in [read_images(&path, &data), read_image(&path, &data)] {
            let said = refused(read);
            assert!(said.contains("a.npy") && said.contains("numpy.uint8"), "{said}");
        }
        assert!(refused(read_states(&path, "init", &["n"], &[1, 1, 2])).contains("numpy.float32"));
        assert_eq!(read_mask(&path, &data).unwrap().shape(), [1, 1, 1, 2]);
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
        // Of two or four channels a PNG has none; a mask is for all of them.
        for channels in [2, 4] {
            let latent = DataSpec { shape: vec![channels, 1, 2], range: [0.0, 1.0] };
            assert_eq!(read_image(&path, &latent).unwrap_err().status(), Status::ShapeMismatch);
            assert_eq!(read_images(&path, &latent).unwrap_err().status(), Status::ShapeMismatch);
            assert_eq!(read_mask(&path, &latent).unwrap(), expect(&[1, 1, 1, 2], &[0.0, 1.0]));
        }
        let other = DataSpec { shape: vec![3, 2, 1], range: [0.0, 1.0] };
        assert_eq!(read_image(&path, &other).unwrap_err().status(), Status::ShapeMismatch);
    }
}
