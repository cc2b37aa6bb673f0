//! Images in PNG files, as samplers and people keep them.

use super::png::{self, Pixels};
use crate::spec::DataSpec;
use crate::{Error, Result, Status};
use std::path::{Path, PathBuf};

pub(super) fn read_folder(folder: &Path, data: &DataSpec) -> Result<Vec<f32>> {
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

/// That a PNG holds no such data.
pub(super) fn no_png(path: &Path, data: &DataSpec) -> Error {
    mismatch(path, format_args!("the model's data has shape {:?}, which no PNG holds", data.shape))
        .hint("pass .npy instead")
}

/// Channels, height and width of data that a PNG can hold.
pub(super) fn dimensions(path: &Path, data: &DataSpec) -> Result<(usize, usize, usize)> {
    match data.shape[..] {
        [c, h, w] if png::is_image(data) => Ok((c, h, w)),
        _ => Err(no_png(path, data)),
    }
}

pub(super) fn read_grid(path: &Path, data: &DataSpec) -> Result<Vec<f32>> {
    let (c, h, w) = dimensions(path, data)?;
    let (width, height) = png::size(path)?;
    let other = || {
        let got = format!("got {width} x {height}");
        mismatch(path, format_args!("expected images of {w} x {h} pixels, or a grid of them, {got}"))
    };
    let (columns, rows) = cells(width, w).zip(cells(height, h)).ok_or_else(other)?;
    let pixels = png::read(path, height, width)?;
    let stored = pixels.channels;
    let line = width * stored;
    // Any picture may have the size of a grid: what makes one are its gaps.
    let in_gap = |x: usize, y: usize| x % (w + png::GAP) >= w || y % (h + png::GAP) >= h;
    let is_white = |levels: &[u16]| levels.iter().all(|level| *level == pixels.white);
    let lines = pixels.levels.chunks_exact(line).enumerate();
    let mut gaps = lines.flat_map(|(y, line)| {
        line.chunks_exact(stored).enumerate().filter(move |(x, _)| in_gap(*x, y)).map(|(_, levels)| levels)
    });
    if !gaps.all(is_white) {
        return Err(other().hint(format!(
            "a grid of {columns} x {rows} would have this size, but its gaps would be white: scale or crop the image"
        )));
    }
    let cell = |place: usize| {
        let (x, y) = (place % columns * (w + png::GAP), place / columns * (h + png::GAP));
        let lines = (y..y + h).flat_map(|y| &pixels.levels[y * line + x * stored..][..w * stored]);
        Pixels { levels: lines.copied().collect(), ..pixels }
    };
    let mut images: Vec<Pixels> = (0..columns * rows).map(cell).collect();
    // A grid is filled row by row: only its last row can have empty cells.
    while images.len() > columns * (rows - 1) + 1 && images.last().is_some_and(|last| is_white(&last.levels))
    {
        images.pop();
    }
    Ok(images.iter().flat_map(|image| planes(image, c, data.range)).collect())
}

/// How many images of `size` pixels, with gaps between them, are in `pixels`.
fn cells(pixels: usize, size: usize) -> Option<usize> {
    let count = (pixels + png::GAP) / (size + png::GAP);
    (count > 0 && count * (size + png::GAP) == pixels + png::GAP).then_some(count)
}

/// The value in a data range of a level that is a share of white.
pub(super) fn value(share: f64, [low, high]: [f64; 2]) -> f32 {
    (low + (high - low) * share) as f32
}

/// Pixels as [channels, height * width] in the data range: colours become grey where one channel is wanted, and the
/// other way round.
pub(super) fn planes(pixels: &Pixels, channels: usize, range: [f64; 2]) -> Vec<f32> {
    let value = |level: &u16| value(f64::from(*level) / f64::from(pixels.white), range);
    match (channels, pixels.channels) {
        (1, _) => pixels.luminance().iter().map(value).collect(),
        (_, 1) => (0..channels).flat_map(|_| pixels.levels.iter().map(value)).collect(),
        (_, stored) => (0..channels)
            .flat_map(|channel| pixels.levels.iter().skip(channel).step_by(stored).map(value))
            .collect(),
    }
}

pub(super) fn mismatch(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(Status::ShapeMismatch, format!("{}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{NewFile, npy, read_images};

    /// The values that are read.
    fn read(path: &Path, data: &DataSpec) -> Vec<f32> {
        read_images(path, data).unwrap().into_f32()
    }

    fn data(shape: &[usize]) -> DataSpec {
        DataSpec { shape: shape.to_vec(), range: [-1.0, 1.0] }
    }

    /// Samples whose values are levels, so that a PNG holds them exactly.
    fn samples(n: usize, len: usize) -> Vec<f32> {
        (0..n * len).map(|i| value((i * 37 % 251) as f64 / 255.0, [-1.0, 1.0])).collect()
    }

    #[test]
    fn grids_and_folders_and_arrays_hold_the_same() {
        let folder = tempfile::tempdir().unwrap();
        for (shape, n) in [(&[3, 4, 5][..], 7), (&[1, 2, 2], 1), (&[3, 2, 2], 9)] {
            let spec = data(shape);
            let all = samples(n, spec.shape.iter().product());
            let grid = folder.path().join("grid.png");
            NewFile::write_with(&grid, |out| png::write_grid(out, &spec, &all, None)).unwrap();
            assert_eq!(read(&grid, &spec), all);
            let images = folder.path().join(format!("images{n}"));
            std::fs::create_dir(&images).unwrap();
            std::fs::write(images.join("notes.txt"), "no image").unwrap();
            for (i, image) in all.chunks(all.len() / n).enumerate() {
                let path = images.join(format!("{i}.png"));
                NewFile::write_with(&path, |out| png::write_image(out, &spec, image)).unwrap();
            }
            assert_eq!(read(&images, &spec), all);
            let array = folder.path().join("array.npy");
            let dims = [&[n][..], shape].concat();
            NewFile::write_with(&array, |out| npy::write(out, &dims, &all)).unwrap();
            assert_eq!(read(&array, &spec), all);
            let levels: Vec<u8> = (0..all.len()).map(|i| (i * 37 % 251) as u8).collect();
            NewFile::write_with(&array, |out| npy::write(out, &dims, &levels)).unwrap();
            assert_eq!(read(&array, &spec), all);
        }
        let array = folder.path().join("flat.npy");
        NewFile::write_with(&array, |out| npy::write(out, &[2, 2, 2], &[0.5_f32; 8])).unwrap();
        assert_eq!(read(&array, &data(&[1, 2, 2])), [0.5; 8]);
    }

    /// A picture that happens to have a grid's size is none: each pixel of the gaps counts.
    #[test]
    fn a_photograph_is_no_grid() {
        let folder = tempfile::tempdir().unwrap();
        let (spec, path) = (data(&[1, 4, 4]), folder.path().join("photo.png"));
        // 10 = 2 * (4 + 2) - 2, and 16 = 3 * (4 + 2) - 2.
        for (h, w) in [(10, 10), (4, 10), (16, 4)] {
            let write = |dark: &[usize]| {
                let mut sample = vec![1.0_f32; h * w];
                dark.iter().for_each(|place| sample[*place] = 0.98);
                let all = data(&[1, h, w]);
                NewFile::write_with(&path, |out| png::write_image(out, &all, &sample)).unwrap();
            };
            let gap = |place: &usize| (place % w) % 6 >= 4 || (place / w) % 6 >= 4;
            for place in (0..h * w).filter(gap) {
                write(&[place]);
                let said = read_images(&path, &spec).unwrap_err().to_string();
                assert!(said.contains("4 x 4 pixels, or a grid of them") && said.contains("hint"), "{said}");
            }
            // One cell of the last row is not empty, and the gaps are white.
            write(&[(h - 1) * w]);
            read_images(&path, &spec).unwrap();
        }
        // Of one image there are no gaps.
        let image = samples(1, 16);
        NewFile::write_with(&path, |out| png::write_image(out, &spec, &image)).unwrap();
        assert_eq!(read(&path, &spec), image);
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
        let error = refused("levels.npy", &|path| array(path, &[1, 3, 4, 4], &[255; 48]));
        assert!(error.contains("integers other than uint8"), "{error}");
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
