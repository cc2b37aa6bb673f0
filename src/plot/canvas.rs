//! An image to draw on, with a font inside.

use font8x8::legacy::BASIC_LEGACY;
use png::{BitDepth, ColorType, Compression, Encoder};
use std::io::{self, Write};

/// Width and height of a character at scale 1.
pub const GLYPH: u32 = 8;

/// Red, green and blue.
pub type Color = [u8; 3];

/// An image of 8-bit red, green and blue; white at first. What is drawn beyond its edges is cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canvas {
    width: u32,
    height: u32,
    /// [height, width, 3].
    pixels: Vec<u8>,
}

impl Canvas {
    /// A white one.
    pub fn new(width: u32, height: u32) -> Self {
        Self { width, height, pixels: vec![255; width as usize * height as usize * 3] }
    }

    /// Width and height.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// The colour at a place; white beyond the edges.
    pub fn at(&self, x: i32, y: i32) -> Color {
        self.place(x, y).map_or([255; 3], |at| std::array::from_fn(|c| self.pixels[at + c]))
    }

    fn place(&self, x: i32, y: i32) -> Option<usize> {
        let (x, y) = (u32::try_from(x).ok()?, u32::try_from(y).ok()?);
        (x < self.width && y < self.height).then(|| (y as usize * self.width as usize + x as usize) * 3)
    }

    /// Lays `color` over a pixel: 0 leaves the pixel, 1 replaces it.
    pub fn blend(&mut self, x: i32, y: i32, color: Color, alpha: f64) {
        let Some(at) = self.place(x, y) else { return };
        for (pixel, color) in self.pixels[at..at + 3].iter_mut().zip(color) {
            let (old, new) = (f64::from(*pixel), f64::from(color));
            *pixel = (old + (new - old) * alpha.clamp(0.0, 1.0)).round() as u8;
        }
    }

    /// Copies an image of 1 or 3 `channels`, [height, `width`, channels], with its upper left corner at `place`, each pixel
    /// `zoom` pixels wide and high.
    pub fn image(&mut self, place: (i32, i32), width: usize, zoom: usize, channels: usize, levels: &[u8]) {
        for (i, pixel) in levels.chunks_exact(channels).enumerate() {
            let color = [0, 1, 2].map(|c: usize| pixel[c.min(channels - 1)]);
            let (left, top) = (place.0 + (i % width * zoom) as i32, place.1 + (i / width * zoom) as i32);
            for (x, y) in (0..zoom as i32).flat_map(|x| (0..zoom as i32).map(move |y| (x, y))) {
                self.blend(left + x, top + y, color, 1.0);
            }
        }
    }

    /// Writes `text` with its upper left corner at (`left`, `top`), each pixel of the font `scale` pixels wide and high.
    /// `upwards`: turned by 90 degrees, from that corner, which is then the lower left one, upwards. Characters other than
    /// ASCII are left blank.
    pub fn text(&mut self, left: i32, top: i32, scale: u32, color: Color, upwards: bool, text: &str) {
        let scale = scale as i32;
        for (i, character) in text.chars().enumerate() {
            let glyph = BASIC_LEGACY.get(character as usize).copied().unwrap_or_default();
            for (row, bits) in glyph.into_iter().enumerate() {
                for column in (0..GLYPH).filter(|column| bits >> column & 1 == 1) {
                    let along = (i as i32 * GLYPH as i32 + column as i32) * scale;
                    let across = row as i32 * scale;
                    for (a, b) in (0..scale).flat_map(|a| (0..scale).map(move |b| (a, b))) {
                        let (x, y) = if upwards { (across + a, -along - b) } else { (along + a, across + b) };
                        self.blend(left + x, top + y, color, 1.0);
                    }
                }
            }
        }
    }

    /// Width and height of [`Self::text`].
    pub fn text_size(scale: u32, text: &str) -> (u32, u32) {
        (text.chars().count() as u32 * GLYPH * scale, GLYPH * scale)
    }

    /// Writes it as PNG.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut encoder = Encoder::new(out, self.width, self.height);
        encoder.set_color(ColorType::Rgb);
        encoder.set_depth(BitDepth::Eight);
        encoder.set_compression(Compression::High);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        Ok(writer.finish()?)
    }
}
