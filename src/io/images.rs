//! Sets of images, or of other data, as samplers and people keep them.

use super::npy::{self, Kind};
use super::png::{self, Pixels};
use crate::run::Tensor;
use crate::spec::DataSpec;
use crate::{Error, Result, Status};
use std::path::{Path, PathBuf};

/// Samples [n, data.shape...], row-major, in the data range:
/// * `.npy` [n, ...] of floating-point numbers in the data range, or of integers 0 to 255, whose levels are mapped onto
///   the data range; of one channel also [n, H, W];
/// * `.png`: one image, or a grid of them as [`png::write_grid`] lays it out (white cells at its end are none);
/// * a folder: all its PNG files by name, each one image or grid.
///
/// # Errors
/// [`Status::ReadFailed`] or [`Status::ShapeMismatch`], naming the file.
pub fn read_images(path: &Path, data: &DataSpec) -> Result<Vec<f32>> {
    if path.is_dir() {
        return read_folder(path, data);
    }
    match path.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("png") => read_grid(path, data),
        Some(extension) if extension.eq_ignore_ascii_case("npy") => read_array(path, data),
        _ => {
            let message = format!("{}: expected .npy, .png or a folder of .png", path.display());
            Err(Error::new(Status::ReadFailed, message))
        }
    }
}

fn mismatch(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(Status::ShapeMismatch, format!("{}: {what}", path.display()))
}

fn read_array(path: &Path, data: &DataSpec) -> Result<Vec<f32>> {
    let array = npy::read(path)?;
    let shape = array.values.shape();
    let one_channel = data.shape[0] == 1 && data.shape.len() > 1 && shape.get(1..) == data.shape.get(1..);
    if shape.get(1..) != Some(&data.shape) && !one_channel {
        let sizes: String = data.shape.iter().map(|size| format!(", {size}")).collect();
        return Err(mismatch(path, format_args!("expected shape [n{sizes}], got {shape:?}")));
    }
    if shape[0] == 0 {
        return Err(mismatch(path, "holds no samples"));
    }
    let kind = array.kind;
    let values = array.values;
    let values: Vec<f32> = match values {
        Tensor::F32(a) => a.into_raw_vec_and_offset().0,
        Tensor::F64(a) => a.iter().map(|x| *x as f32).collect(),
    };
    if kind == Kind::Float {
        return Ok(values);
    }
    match values.iter().find(|level| !(0.0..=255.0).contains(*level)) {
        Some(level) => Err(mismatch(path, format_args!("integers are levels of 0 to 255, got {level}"))),
        None => Ok(values.into_iter().map(|level| value(level as u8, data.range)).collect()),
    }
}

fn read_folder(folder: &Path, data: &DataSpec) -> Result<Vec<f32>> {
    let failed = |e: std::io::Error| {
        Error::new(Status::ReadFailed, format!("{}: cannot be listed", folder.display())).source(e)
    };
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Error::new(Status::ReadFailed, format!("{}: holds no PNG files", folder.display())));
    }
    // By number where names are numbers of as many digits, as `psld sample` writes them.
    files.sort();
    let mut all = Vec::new();
    for file in files {
        all.extend(read_grid(&file, data)?);
    }
    Ok(all)
}

fn read_grid(path: &Path, data: &DataSpec) -> Result<Vec<f32>> {
    let [c, h, w] = data.shape[..] else {
        let what = format!("the data have shape {:?}, which no PNG holds", data.shape);
        return Err(mismatch(path, what).hint("pass .npy instead"));
    };
    let (width, height) = png::size(path)?;
    let Some((columns, rows)) = cells(width, w).zip(cells(height, h)) else {
        return Err(mismatch(
            path,
            format_args!("expected images of {w} x {h} pixels, or a grid of them, got {width} x {height}"),
        ));
    };
    let pixels = png::read(path, height, width)?;
    let stored = pixels.channels;
    let line = width * stored;
    let cell = |place: usize| {
        let (x, y) = (place % columns * (w + png::GAP), place / columns * (h + png::GAP));
        let lines = (y..y + h).flat_map(|y| &pixels.levels[y * line + x * stored..][..w * stored]);
        Pixels { channels: stored, levels: lines.copied().collect() }
    };
    let mut images: Vec<Pixels> = (0..columns * rows).map(cell).collect();
    // A grid is filled row by row: only its last row can have empty cells.
    let empty = |image: &Pixels| image.levels.iter().all(|level| *level == 255);
    while images.len() > columns * (rows - 1) + 1 && images.last().is_some_and(empty) {
        images.pop();
    }
    Ok(images.iter().flat_map(|image| planes(image, c, data.range)).collect())
}

/// How many images of `size` pixels, with gaps between them, are in `pixels`.
fn cells(pixels: usize, size: usize) -> Option<usize> {
    let count = (pixels + png::GAP) / (size + png::GAP);
    (count > 0 && count * (size + png::GAP) == pixels + png::GAP).then_some(count)
}

/// The value of a level in a data range.
pub(super) fn value(level: u8, [low, high]: [f64; 2]) -> f32 {
    (low + (high - low) * f64::from(level) / 255.0) as f32
}

/// Pixels as [channels, height * width] in the data range: colours become grey where one channel is wanted, and the
/// other way round.
pub(super) fn planes(pixels: &Pixels, channels: usize, range: [f64; 2]) -> Vec<f32> {
    let value = |level: &u8| value(*level, range);
    match (channels, pixels.channels) {
        (1, _) => pixels.luminance().iter().map(value).collect(),
        (_, 1) => (0..channels).flat_map(|_| pixels.levels.iter().map(value)).collect(),
        (_, stored) => (0..channels)
            .flat_map(|channel| pixels.levels.iter().skip(channel).step_by(stored).map(value))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::NewFile;

    fn data(shape: &[usize]) -> DataSpec {
        DataSpec { shape: shape.to_vec(), range: [-1.0, 1.0] }
    }

    /// Samples whose values are levels, so that a PNG holds them exactly.
    fn samples(n: usize, len: usize) -> Vec<f32> {
        (0..n * len).map(|i| value((i * 37 % 251) as u8, [-1.0, 1.0])).collect()
    }

    #[test]
    fn grids_and_folders_and_arrays_hold_the_same() {
        let folder = tempfile::tempdir().unwrap();
        for (shape, n) in [(&[3, 4, 5][..], 7), (&[1, 2, 2], 1), (&[3, 2, 2], 9)] {
            let spec = data(shape);
            let all = samples(n, spec.shape.iter().product());
            let grid = folder.path().join("grid.png");
            NewFile::write_with(&grid, |out| png::write_grid(out, &spec, &all)).unwrap();
            assert_eq!(read_images(&grid, &spec).unwrap(), all);
            let images = folder.path().join(format!("images{n}"));
            std::fs::create_dir(&images).unwrap();
            std::fs::write(images.join("notes.txt"), "no image").unwrap();
            for (i, image) in all.chunks(all.len() / n).enumerate() {
                let path = images.join(format!("{i}.png"));
                NewFile::write_with(&path, |out| png::write_image(out, &spec, image)).unwrap();
            }
            assert_eq!(read_images(&images, &spec).unwrap(), all);
            let array = folder.path().join("array.npy");
            let dims = [&[n][..], shape].concat();
            NewFile::write_with(&array, |out| npy::write(out, &dims, &all)).unwrap();
            assert_eq!(read_images(&array, &spec).unwrap(), all);
            let levels: Vec<u8> = (0..all.len()).map(|i| (i * 37 % 251) as u8).collect();
            NewFile::write_with(&array, |out| npy::write(out, &dims, &levels)).unwrap();
            assert_eq!(read_images(&array, &spec).unwrap(), all);
        }
        let array = folder.path().join("flat.npy");
        NewFile::write_with(&array, |out| npy::write(out, &[2, 2, 2], &[0.5_f32; 8])).unwrap();
        assert_eq!(read_images(&array, &data(&[1, 2, 2])).unwrap(), [0.5; 8]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let spec = data(&[3, 4, 4]);
        let refused = |name: &str, write: &dyn Fn(&Path)| {
            let path = folder.path().join(name);
            write(&path);
            let error = read_images(&path, &spec).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
            error
        };
        let array = |path: &Path, shape: &[usize], values: &[i64]| {
            NewFile::write_with(path, |out| npy::write(out, shape, values)).unwrap();
        };
        let error = refused("shape.npy", &|path| array(path, &[2, 3, 4], &[0; 24]));
        assert!(error.contains("expected shape [n, 3, 4, 4], got [2, 3, 4]"), "{error}");
        let error = refused("levels.npy", &|path| array(path, &[1, 3, 4, 4], &[256; 48]));
        assert!(error.contains("levels of 0 to 255, got 256"), "{error}");
        let error = refused("none.npy", &|path| array(path, &[0, 3, 4, 4], &[]));
        assert!(error.contains("no samples"), "{error}");
        let error = refused("size.png", &|path| {
            let wide = data(&[3, 4, 9]);
            NewFile::write_with(path, |out| png::write_image(out, &wide, &[0.0; 108])).unwrap();
        });
        assert!(error.contains("4 x 4 pixels, or a grid of them, got 9 x 4"), "{error}");
        refused("folder", &|path| std::fs::create_dir(path).unwrap());
        refused("text.txt", &|path| std::fs::write(path, "x").unwrap());
        refused("missing.png", &|_| ());
    }
}
