//! Pictures: grids of samples and the plot of a log.

use std::path::Path;

use psld::Result;
use psld::io::{NewFile, png};
use psld::plot::{self, Axis, Canvas, Panel, Point, Series, Style};
use psld::spec::DataSpec;

use super::log::Line;

/// Writes samples [n, data.shape...] as one PNG: images as a grid, other data as points of their first two elements.
///
/// # Errors
/// [`Status::WriteFailed`](psld::Status::WriteFailed).
pub fn grid(path: &Path, samples: &[f32], data: &DataSpec) -> Result<()> {
    if png::is_image(data) {
        return NewFile::write_with(path, |out| png::write_grid(out, data, samples, None));
    }
    const SIDE: u32 = 512;
    const BLUE: plot::Color = [68, 119, 170];
    let mut canvas = Canvas::new(SIDE, SIDE);
    let [low, high] = data.range;
    let last = f64::from(SIDE - 1);
    let place = |x: f32| ((f64::from(x) - low) / (high - low) * last).clamp(0.0, last) as i32;
    for sample in samples.chunks_exact(data.shape.iter().product()) {
        let y = sample.get(1).map_or(last as i32 / 2, |y| place(*y));
        canvas.blend(place(sample[0]), last as i32 - y, BLUE, 1.0);
    }
    NewFile::write_with(path, |out| canvas.write(out))
}

/// Writes a log's loss over steps as a PNG: each line of the log, and their running mean, on a logarithmic scale.
///
/// # Errors
/// [`Status::WriteFailed`](psld::Status::WriteFailed).
pub fn plot(path: &Path, lines: &[Line], title: &str) -> Result<()> {
    let losses: Vec<(f64, f64)> = lines
        .iter()
        .filter(|line| line.loss > 0.0 && line.loss.is_finite())
        .map(|line| (line.step as f64, line.loss))
        .collect();
    let series = |name: &str, style, values: Vec<f64>| {
        let points = losses.iter().zip(values).map(|(&(x, _), y)| Point { x, y, interval: None });
        Series { name: name.into(), points: points.collect(), style }
    };
    let axis = |name: &str, log| Axis { name: name.into(), log, ticks: Vec::new() };
    let panel = Panel {
        title: title.into(),
        x: axis("step", false),
        y: axis("loss", true),
        series: vec![
            series("loss", Style::Faint, losses.iter().map(|loss| loss.1).collect()),
            series("running mean", Style::Plain, running_mean(&losses)),
        ],
        level: None,
    };
    let canvas = plot::draw(&[panel], 900, 520);
    NewFile::write_with(path, |out| canvas.write(out))
}

/// Geometric means, as befits a logarithmic scale, of about a twentieth of the values around each: what one wants to see
/// of a noisy loss. At the start, where it falls fast, of fewer.
fn running_mean(losses: &[(f64, f64)]) -> Vec<f64> {
    let mean = |i: usize| {
        let reach = (i / 5).min(losses.len() / 40);
        let around = &losses[i - reach..(i + reach + 1).min(losses.len())];
        (around.iter().map(|loss| loss.1.ln()).sum::<f64>() / around.len() as f64).exp()
    };
    (0..losses.len()).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(losses: impl Iterator<Item = f64>) -> Vec<Line> {
        let line = |(i, loss): (u64, f64)| Line {
            step: 10 * i + 10,
            loss,
            lr: 0.0,
            images_per_second: 0.0,
            gradient_norm: 0.0,
        };
        (0..).zip(losses).map(line).collect()
    }

    #[test]
    fn the_running_mean_follows_a_fall_and_smooths_what_scatters() {
        // From 1 to 0.01 in a tenth of the run, with a factor of 2 up and down from one line to the next.
        let level = |i: usize| 10f64.powf(-2.0 * (i as f64 / 40.0).min(1.0));
        let losses: Vec<(f64, f64)> =
            (0..400).map(|i| (i as f64, level(i) * if i % 2 == 0 { 2.0 } else { 0.5 })).collect();
        let means = running_mean(&losses);
        assert_eq!((means.len(), means[0]), (400, losses[0].1));
        for (i, mean) in means.iter().enumerate().skip(20) {
            assert!((mean / level(i)).ln().abs() < 0.5, "{i}: {mean} for {}", level(i));
        }
        assert!((means[300] / 0.01).ln().abs() < 0.05, "{}", means[300]);
        assert!(running_mean(&[]).is_empty());
    }

    #[test]
    fn pictures_of_all_kinds_of_data_and_of_odd_losses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture.png");
        let size = |path: &Path| png::size(path).unwrap();
        plot(&path, &log([].into_iter()), "no line yet").unwrap();
        let empty = std::fs::read(&path).unwrap();
        plot(&path, &log([1.0, f64::NAN, f64::INFINITY, 0.0, 0.1].into_iter()), "a title").unwrap();
        assert!(std::fs::read(&path).unwrap() != empty && size(&path).1 == 520);

        let data = |shape: &[usize]| DataSpec { shape: shape.to_vec(), range: [-1.0, 1.0] };
        grid(&path, &[0.0; 5 * 3 * 4 * 6], &data(&[3, 4, 6])).unwrap();
        assert_eq!(size(&path), (3 * 6 + 2 * 2, 2 * 4 + 2));
        grid(&path, &[0.0, 1.0, f32::NAN, 9.0], &data(&[2])).unwrap();
        let points = png::read(&path, 512, 512).unwrap().levels;
        let dots = points.chunks(3).enumerate().filter(|(_, pixel)| **pixel != [255; 3]);
        assert_eq!(dots.map(|(place, _)| (place % 512, place / 512)).collect::<Vec<_>>(), [(0, 0), (255, 0)]);
        for shape in [&[1][..], &[4, 2, 2]] {
            grid(&path, &[0.5; 16], &data(shape)).unwrap();
        }
    }
}
