//! Pictures: grids of samples and the plot of a log.

use std::path::Path;

use font8x8::legacy::BASIC_LEGACY;
use image::{ImageFormat, Rgb, RgbImage};
use psld::{Error, Result, Status};

use super::checkpoint::replace;
use super::log::Line;

const WHITE: Rgb<u8> = Rgb([255; 3]);
const BLACK: Rgb<u8> = Rgb([0; 3]);
const GREY: Rgb<u8> = Rgb([225; 3]);
const LIGHT: Rgb<u8> = Rgb([170, 200, 235]);
const BLUE: Rgb<u8> = Rgb([30, 90, 180]);

/// Writes samples [n, C, H, W] (C 1 or 3; others, and vectors, as points of their first two elements) as one PNG.
pub fn grid(path: &Path, samples: &[f32], shape: &[usize], range: [f64; 2]) -> Result<()> {
    let elements: usize = shape.iter().product();
    let n = samples.len() / elements;
    let [low, high] = range.map(|x| x as f32);
    let image = match *shape {
        [channels @ (1 | 3), height, width] => {
            let columns = (n as f64).sqrt().ceil() as usize;
            let mut image = RgbImage::from_pixel(
                (columns * (width + 1) - 1) as u32,
                (n.div_ceil(columns) * (height + 1) - 1) as u32,
                WHITE,
            );
            for (i, sample) in samples.chunks_exact(elements).enumerate() {
                let (left, top) = (i % columns * (width + 1), i / columns * (height + 1));
                // Truncated, as the published code saves its samples.
                let byte = |x: f32| (255.0 * (x - low) / (high - low)).clamp(0.0, 255.0) as u8;
                for pixel in 0..height * width {
                    let at =
                        |channel: usize| byte(sample[channel.min(channels - 1) * height * width + pixel]);
                    let (x, y) = (left + pixel % width, top + pixel / width);
                    image.put_pixel(x as u32, y as u32, Rgb([at(0), at(1), at(2)]));
                }
            }
            image
        }
        _ => {
            const SIDE: u32 = 512;
            let mut image = RgbImage::from_pixel(SIDE, SIDE, WHITE);
            let place =
                |x: f32| ((x - low) / (high - low) * (SIDE - 1) as f32).clamp(0.0, (SIDE - 1) as f32) as u32;
            for sample in samples.chunks_exact(elements) {
                let y = sample.get(1).copied().unwrap_or(0.5 * (low + high));
                image.put_pixel(place(sample[0]), SIDE - 1 - place(y), BLUE);
            }
            image
        }
    };
    save(path, &image)
}

/// Writes a log's loss over steps as a PNG: each line, and their running mean, on a logarithmic scale.
pub fn plot(path: &Path, lines: &[Line], title: &str) -> Result<()> {
    const SIZE: (u32, u32) = (900, 500);
    const MARGIN: (u32, u32, u32, u32) = (80, 20, 40, 45); // left, right, top, bottom
    let mut image = RgbImage::from_pixel(SIZE.0, SIZE.1, WHITE);
    text(&mut image, MARGIN.0, 14, title);
    let points: Vec<(f64, f64)> = lines
        .iter()
        .filter(|l| l.loss > 0.0 && l.loss.is_finite())
        .map(|l| (l.step as f64, l.loss.log10()))
        .collect();
    let Some(&(last, _)) = points.last() else { return save(path, &image) };
    let low = points.iter().map(|p| p.1).fold(f64::INFINITY, f64::min) - 0.02;
    let high = points.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max) + 0.02;
    let (width, height) = (SIZE.0 - MARGIN.0 - MARGIN.1, SIZE.1 - MARGIN.2 - MARGIN.3);
    let x = |step: f64| f64::from(MARGIN.0) + step / last.max(1.0) * f64::from(width);
    let y = |loss: f64| f64::from(MARGIN.2) + (high - loss) / (high - low) * f64::from(height);

    for i in 0..=5 {
        let share = f64::from(i) / 5.0;
        let (step, loss) = (share * last, low + share * (high - low));
        let (px, py) = (x(step) as u32, y(loss) as u32);
        line(&mut image, (f64::from(px), y(high)), (f64::from(px), y(low)), GREY);
        line(&mut image, (x(0.0), f64::from(py)), (x(last), f64::from(py)), GREY);
        let label = format!("{step:.0}");
        text(&mut image, px.saturating_sub(4 * label.len() as u32), SIZE.1 - 35, &label);
        text(&mut image, 4, py.saturating_sub(4), &format!("{:>8.4}", 10f64.powf(loss)));
    }
    text(&mut image, MARGIN.0 + width / 2 - 16, SIZE.1 - 16, "step");

    // A mean over the last twentieth of the lines or so, which is what one wants to see of a noisy loss; at the start,
    // where the loss falls fast, over fewer.
    let longest = points.len() as f64 / 20.0;
    let mut mean = points[0];
    for pair in points.windows(2) {
        line(&mut image, (x(pair[0].0), y(pair[0].1)), (x(pair[1].0), y(pair[1].1)), LIGHT);
    }
    for (i, &(step, loss)) in points.iter().enumerate() {
        let keep = 1.0 - 1.0 / (i as f64 / 5.0).min(longest).max(1.0);
        let next = (step, keep * mean.1 + (1.0 - keep) * loss);
        for offset in [0.0, 1.0] {
            line(&mut image, (x(mean.0), y(mean.1) + offset), (x(next.0), y(next.1) + offset), BLUE);
        }
        mean = next;
    }
    save(path, &image)
}

fn line(image: &mut RgbImage, from: (f64, f64), to: (f64, f64), color: Rgb<u8>) {
    let steps = (to.0 - from.0).abs().max((to.1 - from.1).abs()).ceil().max(1.0);
    for i in 0..=steps as u32 {
        let share = f64::from(i) / steps;
        let (x, y) = (from.0 + share * (to.0 - from.0), from.1 + share * (to.1 - from.1));
        if let Some(pixel) = image.get_pixel_mut_checked(x as u32, y as u32) {
            *pixel = color;
        }
    }
}

fn text(image: &mut RgbImage, left: u32, top: u32, text: &str) {
    for (i, glyph) in text.bytes().filter_map(|c| BASIC_LEGACY.get(usize::from(c))).enumerate() {
        for (row, bits) in glyph.iter().enumerate() {
            for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                if let Some(pixel) =
                    image.get_pixel_mut_checked(left + 8 * i as u32 + column, top + row as u32)
                {
                    *pixel = BLACK;
                }
            }
        }
    }
}

fn save(path: &Path, image: &RgbImage) -> Result<()> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image
        .write_to(&mut bytes, ImageFormat::Png)
        .map_err(std::io::Error::other)
        .and_then(|()| replace(path, bytes.get_ref()))
        .map_err(|e| {
            Error::new(Status::WriteFailed, format!("{}: cannot be written", path.display())).source(e)
        })
}
