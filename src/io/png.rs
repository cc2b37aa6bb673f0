//! Samples as PNG images, and images as samples.
//!
//! A value x of the data range becomes floor(255 (x - low) / (high - low)) of 0 to 255: clipped and truncated, as
//! the code published with arXiv 2303.01748 saves its samples. An allowance of 1e-4 of a level, past which no
//! rounding error goes, keeps an image of eight bits that is read and written again the same.

use super::file::open_regular;
use crate::spec::DataSpec;
use crate::{Error, Result, Status};
use ::png::{BitDepth, ColorType, Decoder, Encoder, Limits, Transformations};
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;

/// White pixels between the images of a grid.
pub(super) const GAP: usize = 2;

/// Whether the data are images that a PNG can hold: [1, H, W] or [3, H, W].
pub fn is_image(data: &DataSpec) -> bool {
    matches!(data.shape[..], [1 | 3, h, w] if h.max(w) < 1 << 31)
}

fn dimensions(data: &DataSpec) -> Result<(usize, usize, usize)> {
    match data.shape[..] {
        [c, h, w] if is_image(data) => Ok((c, h, w)),
        _ => Err(Error::argument(format!(
            "PNG holds images of shape [1, H, W] or [3, H, W], the model's data has shape {:?}",
            data.shape
        ))
        .hint("write .npy instead")),
    }
}

/// Columns and rows of a grid of `n` images, filled row by row: as square as can be, unless `columns` says how wide (a row need
/// not be full).
pub fn grid_layout(n: usize, columns: Option<usize>) -> (usize, usize) {
    let square = || n.isqrt() + usize::from(n.isqrt().pow(2) < n);
    let columns = columns.map_or_else(square, |columns| columns.min(n));
    (columns, n.div_ceil(columns.max(1)))
}

/// Width and height of a grid of `n` images.
///
/// # Errors
/// [`Status::InvalidArgument`]: the data are not images, or the grid would be larger than a PNG can be.
pub fn grid_size(data: &DataSpec, n: usize, columns: Option<usize>) -> Result<(u32, u32)> {
    let (_, h, w) = dimensions(data)?;
    let (columns, rows) = grid_layout(n, columns);
    let side = |count: usize, size: usize| {
        let pixels = count.checked_mul(size + GAP)?.checked_sub(GAP)?;
        u32::try_from(pixels).ok().filter(|pixels| *pixels < 1 << 31)
    };
    side(columns, w).zip(side(rows, h)).ok_or_else(|| {
        Error::argument(format!("a grid of {n} images of {w} x {h} is larger than a PNG can be"))
            .hint("write to a folder (--out DIR/), one image each, or .npy")
    })
}

/// The level that a value is shown as.
fn level(x: f32, [low, high]: [f64; 2]) -> u8 {
    // `as` clips, at both ends.
    (255.0 * (f64::from(x) - low) / (high - low) + 1e-4) as u8
}

fn encoder(
    out: &mut dyn Write,
    channels: usize,
    width: u32,
    height: u32,
) -> io::Result<::png::Writer<&mut dyn Write>> {
    let mut encoder = Encoder::new(out, width, height);
    encoder.set_color(if channels == 3 { ColorType::Rgb } else { ColorType::Grayscale });
    encoder.set_depth(BitDepth::Eight);
    encoder.write_header().map_err(plain)
}

/// The disk's error as it is: its number says what to do about it.
fn plain(error: ::png::EncodingError) -> io::Error {
    match error {
        ::png::EncodingError::IoError(error) => error,
        error => error.into(),
    }
}

/// Writes one grid of all `samples`, [n, C, H, W] in row-major order; `columns` as in [`grid_layout`].
///
/// Memory for a few rows of pixels only, whatever the number of images.
///
/// # Errors
/// Those of [`grid_size`], as [`io::ErrorKind::InvalidInput`]; and those of `out`.
pub fn write_grid(
    out: &mut dyn Write,
    data: &DataSpec,
    samples: &[f32],
    columns: Option<usize>,
) -> io::Result<()> {
    let invalid = |e| io::Error::new(io::ErrorKind::InvalidInput, e);
    let (c, h, w) = dimensions(data).map_err(invalid)?;
    let n = samples.len() / (c * h * w);
    let (width, height) = grid_size(data, n, columns).map_err(invalid)?;
    let (columns, rows) = grid_layout(n, columns);
    let mut writer = encoder(out, c, width, height)?;
    let mut pixels = writer.stream_writer().map_err(plain)?;
    let mut line = vec![255; width as usize * c];
    for row in 0..rows {
        let images: Vec<_> = samples.chunks_exact(c * h * w).skip(row * columns).take(columns).collect();
        for y in 0..h {
            line.fill(255);
            for (column, image) in images.iter().enumerate() {
                fill_line(&mut line[column * (w + GAP) * c..][..w * c], image, (c, h, w), y, data.range);
            }
            pixels.write_all(&line)?;
        }
        if row + 1 < rows {
            line.fill(255);
            (0..GAP).try_for_each(|_| pixels.write_all(&line))?;
        }
    }
    pixels.finish().map_err(plain)?;
    writer.finish().map_err(plain)
}

/// Writes one sample, [C, H, W].
///
/// # Errors
/// As [`write_grid`].
pub fn write_image(out: &mut dyn Write, data: &DataSpec, sample: &[f32]) -> io::Result<()> {
    write_grid(out, data, sample, None)
}

/// Pixels of line `y`: channels last.
fn fill_line(line: &mut [u8], image: &[f32], (c, h, w): (usize, usize, usize), y: usize, range: [f64; 2]) {
    for (x, pixel) in line.chunks_exact_mut(c).enumerate() {
        for (channel, value) in pixel.iter_mut().enumerate() {
            *value = level(image[(channel * h + y) * w + x], range);
        }
    }
}

/// An image as it stands in a file, channels last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// The level of white: 65535 for a file of 16 bits, and 255 for all others, to which fewer bits are spread.
    pub white: u16,
    /// [height, width, channels].
    pub levels: Vec<u16>,
}

impl Pixels {
    /// The brightness of each pixel (ITU-R BT.601).
    pub fn luminance(&self) -> Vec<u16> {
        if self.channels == 1 {
            return self.levels.clone();
        }
        let weigh =
            |p: &[u16]| (299 * u32::from(p[0]) + 587 * u32::from(p[1]) + 114 * u32::from(p[2]) + 500) / 1000;
        self.levels.chunks_exact(3).map(|pixel| weigh(pixel) as u16).collect()
    }

    /// The levels in eight bits.
    pub fn bytes(&self) -> Vec<u8> {
        let white = u32::from(self.white);
        self.levels.iter().map(|level| ((255 * u32::from(*level) + white / 2) / white) as u8).collect()
    }
}

fn open(path: &Path) -> Result<Decoder<BufReader<File>>> {
    let (file, _) = open_regular(path)?;
    Ok(Decoder::new_with_limits(BufReader::new(file), Limits { bytes: 256 << 20 }))
}

fn damaged(path: &Path, error: ::png::DecodingError) -> Error {
    let failed = |what: &str| Error::new(Status::ReadFailed, format!("{}: {what}", path.display()));
    match error {
        ::png::DecodingError::IoError(e) => failed("cannot be read").source(e),
        e => failed("not a readable PNG").source(e),
    }
}

/// Width and height of an image, from its first bytes.
///
/// # Errors
/// [`Status::ReadFailed`]: missing, no PNG.
pub fn size(path: &Path) -> Result<(usize, usize)> {
    let mut decoder = open(path)?;
    let info = decoder.read_header_info().map_err(|e| damaged(path, e))?;
    Ok((info.width as usize, info.height as usize))
}

/// Reads an image that must have the given size.
///
/// # Errors
/// [`Status::ReadFailed`]: missing, damaged, no PNG; [`Status::ShapeMismatch`] for another size.
pub fn read(path: &Path, height: usize, width: usize) -> Result<Pixels> {
    let error = |status, what: String| Error::new(status, format!("{}: {what}", path.display()));
    let damaged = |e| damaged(path, e);
    let mut decoder = open(path)?;
    decoder.set_transformations(Transformations::EXPAND);
    // The size first: a few bytes can announce an image of any size.
    let info = decoder.read_header_info().map_err(damaged)?;
    if (info.width as usize, info.height as usize) != (width, height) {
        let got =
            format!("expected an image of {width} x {height} pixels, got {} x {}", info.width, info.height);
        return Err(error(Status::ShapeMismatch, got));
    }
    let mut reader = decoder.read_info().map_err(damaged)?;
    let len = reader.output_buffer_size().ok_or_else(|| error(Status::ReadFailed, "too large".into()))?;
    let mut bytes = vec![0; len];
    let frame = reader.next_frame(&mut bytes).map_err(damaged)?;
    bytes.truncate(frame.buffer_size());
    let (channels, stored) = match frame.color_type {
        ColorType::Grayscale => (1, 1),
        ColorType::GrayscaleAlpha => (1, 2),
        ColorType::Rgb => (3, 3),
        ColorType::Rgba => (3, 4),
        ColorType::Indexed => {
            return Err(error(Status::ReadFailed, "a palette that cannot be resolved".into()));
        }
    };
    let (white, mut levels): (u16, Vec<u16>) = match frame.bit_depth {
        BitDepth::Sixteen => (u16::MAX, bytes.as_chunks().0.iter().map(|b| u16::from_be_bytes(*b)).collect()),
        _ => (255, bytes.into_iter().map(u16::from).collect()),
    };
    if stored != channels {
        // What shows through is not in the file, and what lies beneath it is not meant to be seen.
        if levels.chunks_exact(stored).any(|pixel| pixel[channels] != white) {
            return Err(error(Status::ReadFailed, "has transparent pixels".into())
                .hint("put the image on a background: without an alpha channel, or with an opaque one"));
        }
        levels = levels.chunks_exact(stored).flat_map(|pixel| &pixel[..channels]).copied().collect();
    }
    Ok(Pixels { channels, white, levels })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(shape: &[usize]) -> DataSpec {
        DataSpec { shape: shape.to_vec(), range: [-1.0, 1.0] }
    }

    #[test]
    fn every_level_survives_writing_and_reading() {
        let spec = data(&[1, 16, 16]);
        let sample: Vec<f32> = (0..256).map(|v| v as f32 / 127.5 - 1.0).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all.png");
        write_image(&mut File::create(&path).unwrap(), &spec, &sample).unwrap();
        let read = read(&path, 16, 16).unwrap();
        assert_eq!(read, Pixels { channels: 1, white: 255, levels: (0..=255).collect() });
        assert_eq!(read.bytes(), (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn values_are_clipped_and_truncated() {
        let levels = [-1e30, -1.0, 0.0, 0.996, 1.0, 7.0].map(|x| level(x, [-1.0, 1.0]));
        assert_eq!(levels, [0, 0, 127, 254, 255, 255]);
        assert_eq!(level(0.5, [0.0, 1.0]), 127);
    }

    #[test]
    fn a_grid_is_nearly_square_and_in_reading_order() {
        assert_eq!(
            [0, 1, 2, 3, 5, 64, 65].map(|n| grid_layout(n, None)),
            [(0, 0), (1, 1), (2, 1), (2, 2), (3, 2), (8, 8), (9, 8)]
        );
        let of = |columns| move |n| grid_layout(n, Some(columns));
        assert_eq!([0, 3, 10, 30, 31].map(of(10)), [(0, 0), (3, 1), (10, 1), (10, 3), (10, 4)]);
        assert_eq!([5, 64].map(of(1)), [(1, 5), (1, 64)]);
        let spec = data(&[3, 2, 1]);
        // Image i is -1 but for its red channel, which is level 10 i.
        let samples: Vec<f32> =
            (0..3).flat_map(|i| [10.0 * i as f32 / 127.5 - 1.0; 2].into_iter().chain([-1.0; 4])).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grid.png");
        write_grid(&mut File::create(&path).unwrap(), &spec, &samples, None).unwrap();
        assert_eq!(grid_size(&spec, 3, None).unwrap(), (4, 6));
        assert_eq!(grid_size(&spec, 3, Some(3)).unwrap(), (7, 2));
        let read = read(&path, 6, 4).unwrap();
        let red: Vec<u16> = read.levels.chunks_exact(3).map(|p| p[0]).collect();
        let w = 255;
        let expected = [[0, w, w, 10], [0, w, w, 10], [w; 4], [w; 4], [20, w, w, w], [20, w, w, w]];
        assert_eq!(red, expected.concat());
        assert_eq!(&read.levels[..6], [0, 0, 0, w, w, w]);
    }

    /// A file of any kind that PNG knows, of 2 x 1 pixels.
    fn encoded(
        color: ColorType,
        depth: BitDepth,
        bytes: &[u8],
        extra: impl Fn(&mut Encoder<'_, File>),
    ) -> Result<Pixels> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let mut encoder = Encoder::new(File::create(&path).unwrap(), 2, 1);
        encoder.set_color(color);
        encoder.set_depth(depth);
        extra(&mut encoder);
        encoder.write_header().unwrap().write_image_data(bytes).unwrap();
        read(&path, 1, 2)
    }

    #[test]
    fn depths_palettes_and_transparency() {
        let levels = |color, depth, bytes: &[u8]| {
            let pixels = encoded(color, depth, bytes, |_| ()).unwrap();
            (pixels.channels, pixels.white, pixels.levels)
        };
        use BitDepth::{Eight, Four, One, Sixteen, Two};
        // No bit of 16 is lost.
        let deep = [0x12, 0x34, 0xff, 0xfe];
        assert_eq!(levels(ColorType::Grayscale, Sixteen, &deep), (1, 65535, vec![0x1234, 0xfffe]));
        let deep = [0, 1, 0, 2, 0, 3, 1, 0, 2, 0, 3, 0];
        assert_eq!(levels(ColorType::Rgb, Sixteen, &deep), (3, 65535, vec![1, 2, 3, 256, 512, 768]));
        // Fewer than eight reach from black to white.
        assert_eq!(levels(ColorType::Grayscale, One, &[0b0100_0000]), (1, 255, vec![0, 255]));
        assert_eq!(levels(ColorType::Grayscale, Two, &[0b0110_0000]), (1, 255, vec![85, 170]));
        assert_eq!(levels(ColorType::Grayscale, Four, &[0x1f]), (1, 255, vec![17, 255]));
        let palette = |encoder: &mut Encoder<'_, File>| encoder.set_palette(vec![1, 2, 3, 40, 50, 60]);
        let indexed = encoded(ColorType::Indexed, One, &[0b1000_0000], palette).unwrap();
        assert_eq!((indexed.channels, indexed.levels), (3, vec![40, 50, 60, 1, 2, 3]));
        // Opaque is as good as no alpha; of anything else nobody knows what is seen.
        assert_eq!(levels(ColorType::GrayscaleAlpha, Eight, &[7, 255, 9, 255]), (1, 255, vec![7, 9]));
        let opaque = [1, 2, 3, 255, 4, 5, 6, 255];
        assert_eq!(levels(ColorType::Rgba, Eight, &opaque), (3, 255, vec![1, 2, 3, 4, 5, 6]));
        let clear = |encoder: &mut Encoder<'_, File>| {
            palette(encoder);
            encoder.set_trns(vec![0]);
        };
        for refused in [
            encoded(ColorType::GrayscaleAlpha, Eight, &[7, 255, 9, 254], |_| ()),
            encoded(ColorType::GrayscaleAlpha, Sixteen, &[0, 7, 255, 255, 0, 9, 255, 254], |_| ()),
            encoded(ColorType::Rgba, Eight, &[1, 2, 3, 0, 4, 5, 6, 255], |_| ()),
            encoded(ColorType::Indexed, One, &[0b1000_0000], clear),
        ] {
            assert!(refused.unwrap_err().to_string().contains("a.png: has transparent pixels"));
        }
    }

    #[test]
    fn what_is_no_image_is_said() {
        for shape in [&[7][..], &[2, 4, 4], &[3, 4]] {
            assert_eq!(grid_size(&data(shape), 1, None).unwrap_err().status(), Status::InvalidArgument);
        }
        let huge = grid_size(&data(&[3, 1 << 20, 1 << 20]), 1 << 40, None).unwrap_err();
        assert!(huge.to_string().contains("larger than a PNG can be"));
    }
}
