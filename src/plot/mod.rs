//! Charts as PNG: what `psld study` shows of its figures, and `psld-training` of its losses.
//!
//! The crate `plotters` lays them out; [`Canvas`] is what it draws on. The font is one of 8 x 8 pixels that is compiled
//! in, so that a chart is the same on every machine and none needs system fonts.

mod canvas;

pub use canvas::{Canvas, Color, GLYPH};

use plotters::coord::ranged1d::{KeyPointHint, Ranged};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};
use plotters::style::{Color as _, FontTransform};
use plotters_backend::{BackendColor, BackendCoord, BackendTextStyle, DrawingErrorKind};
use std::convert::Infallible;
use std::ops::Range;

/// Pixels of the font's pixels, everywhere in a chart.
const SCALE: u32 = 2;
const TEXT: u32 = GLYPH * SCALE;
const BLACK: Color = [0; 3];
/// Pixels of a dash, and of the gap behind it.
const DASH: u32 = 8;
/// Colours that are told apart, also by most people who confuse some (after P. Tol's bright and muted schemes).
const COLORS: [Color; 10] = [
    [68, 119, 170],
    [238, 102, 119],
    [34, 136, 51],
    [204, 187, 68],
    [102, 204, 238],
    [170, 51, 119],
    [120, 120, 120],
    [136, 34, 85],
    [221, 170, 119],
    [17, 119, 101],
];

/// A value at a place on the x axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Where.
    pub x: f64,
    /// What.
    pub y: f64,
    /// Its interval, as a bar.
    pub interval: Option<[f64; 2]>,
}

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What the legend calls it; the same name has the same colour in all panels.
    pub name: String,
    /// From left to right; a logarithmic axis has a place below all others for those that are not positive.
    pub points: Vec<Point>,
    /// How it is drawn.
    pub style: Style,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As a line.
    Plain,
    /// With a mark at each point.
    Marked,
    /// Thin and pale: values that scatter, beside a line that says what they come to.
    Faint,
}

impl Style {
    /// The colour of the `number`th name, and the width of the line in pixels.
    fn pen(self, number: usize) -> (Color, u32) {
        let color = COLORS[number % COLORS.len()];
        match self {
            Self::Plain | Self::Marked => (color, 2),
            Self::Faint => (color.map(|c| 255 - (255 - c) / 5 * 2), 1),
        }
    }
}

/// An axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What it shows.
    pub name: String,
    /// Logarithmic.
    pub log: bool,
    /// Where the marks are; empty: chosen.
    pub ticks: Vec<f64>,
}

/// One chart of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// What stands above.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
    /// A level that the values are compared with, as a dashed line.
    pub level: Option<f64>,
}

/// Draws `panels` side by side, with one legend, on a canvas of `height` pixels.
pub fn draw(panels: &[Panel], panel_width: u32, height: u32) -> Canvas {
    let mut names: Vec<&str> = Vec::new();
    let mut styles = Vec::new();
    for series in panels.iter().flat_map(|panel| &panel.series) {
        if !names.contains(&series.name.as_str()) {
            names.push(&series.name);
            styles.push(series.style);
        }
    }
    let widest = names.iter().map(|name| Canvas::text_size(SCALE, name).0).max().unwrap_or(0);
    let legend = if names.is_empty() { 0 } else { widest + 5 * TEXT };
    let mut canvas = Canvas::new(panel_width * panels.len() as u32 + legend, height);
    {
        let root = Backend(&mut canvas).into_drawing_area();
        for (i, panel) in panels.iter().enumerate() {
            let left = (i as u32 * panel_width) as i32;
            let area = root.clone().shrink((left, 0), (panel_width, height));
            // The canvas takes everything: there is nothing to fail.
            let _ = draw_panel(&area, panel, &names);
        }
    }
    let left = (panel_width * panels.len() as u32) as i32;
    for (i, (name, style)) in names.iter().zip(styles).enumerate() {
        let (top, color) = ((3 * TEXT + i as u32 * 3 * TEXT / 2) as i32, style.pen(i).0);
        let middle = top + TEXT as i32 / 2;
        let drawn = |x: &i32| !dashed(i) || *x as u32 % (2 * DASH) < DASH;
        for (x, y) in (0..2 * TEXT as i32).filter(drawn).flat_map(|x| (-1..=1).map(move |y| (x, y))) {
            canvas.blend(left + TEXT as i32 + x, middle + y, color, 1.0);
        }
        canvas.text(left + 4 * TEXT as i32, top, SCALE, BLACK, false, name);
    }
    canvas
}

fn draw_panel(
    area: &DrawingArea<Backend<'_>, plotters::coord::Shift>,
    panel: &Panel,
    names: &[&str],
) -> Result<(), DrawingAreaErrorKind<Infallible>> {
    let Panel { title, x, y, series, level } = panel;
    let points = || series.iter().flat_map(|series| &series.points);
    let xs = Scale::new(x, points().map(|p| p.x), 0.03);
    let heights = points().flat_map(|p| [Some(p.y), p.interval.map(|i| i[0]), p.interval.map(|i| i[1])]);
    let ys = Scale::new(y, heights.chain([*level]).flatten(), 0.05);
    let font = ("sans-serif", f64::from(TEXT));
    let mut chart = ChartBuilder::on(area)
        .caption(title, font)
        .margin(TEXT)
        .x_label_area_size(3 * TEXT)
        .y_label_area_size(7 * TEXT)
        .build_cartesian_2d(xs.clone(), ys.clone())?;
    chart
        .configure_mesh()
        .label_style(font)
        .axis_desc_style(font)
        .x_desc(x.name.as_str())
        .y_desc(y.name.as_str())
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .draw()?;
    let (left, right) = (xs.range.start, xs.range.end);
    if let Some(level) = level {
        let y = ys.of(*level);
        let dashes = (0..40).map(|i| left + (right - left) * f64::from(i) / 40.0);
        let dashes = dashes.map(|x| PathElement::new([(x, y), (x + (right - left) / 80.0, y)], BLACK_LINE));
        chart.draw_series(dashes)?;
    }
    for Series { name, points, style } in series {
        let number = names.iter().position(|known| known == name).unwrap_or(0);
        let ([r, g, b], width) = style.pen(number);
        let color = RGBColor(r, g, b);
        let at = |p: &Point, y: f64| (xs.of(p.x), ys.of(y));
        let (line, pen) = (points.iter().map(|p| at(p, p.y)), color.stroke_width(width));
        if dashed(number) {
            chart.draw_series(DashedLineSeries::new(line, DASH, DASH, pen))?;
        } else {
            chart.draw_series(LineSeries::new(line, pen))?;
        }
        let bars = points.iter().filter_map(|p| Some((p, p.interval?)));
        let bars =
            bars.map(|(p, [low, high])| PathElement::new([at(p, low), at(p, high)], color.stroke_width(1)));
        chart.draw_series(bars)?;
        if *style == Style::Marked {
            // A triangle points down at what lies below all that can be shown.
            let (below, shown): (Vec<&Point>, Vec<&Point>) = points.iter().partition(|p| ys.is_below(p.y));
            chart.draw_series(shown.iter().map(|p| Circle::new(at(p, p.y), 4, color.filled())))?;
            let triangles = below.iter().map(|p| TriangleMarker::new(at(p, p.y), -7, color.filled()));
            chart.draw_series(triangles)?;
        }
    }
    Ok(())
}

/// Whether the line of the `number`th name is dashed: where the colours begin anew.
fn dashed(number: usize) -> bool {
    number / COLORS.len() % 2 == 1
}

const BLACK_LINE: ShapeStyle =
    ShapeStyle { color: RGBAColor(90, 90, 90, 1.0), filled: false, stroke_width: 1 };

/// An axis as plotters sees it: linear, in logarithms where the axis is logarithmic.
#[derive(Clone)]
struct Scale {
    range: Range<f64>,
    log: bool,
    ticks: Vec<f64>,
    /// Of a logarithmic axis: the place of all values that are not positive, where there are any.
    floor: Option<f64>,
}

impl Scale {
    /// That holds all values that can be shown, with a part of its length free at both ends.
    fn new(axis: &Axis, values: impl Iterator<Item = f64>, free: f64) -> Self {
        let log = axis.log;
        let mut below = false;
        let shown = values.filter(|value| {
            let is_below = log && *value <= 0.0;
            below |= is_below;
            value.is_finite() && !is_below
        });
        let (mut low, mut high) = shown
            .map(|value| if log { value.log10() } else { value })
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        // A level line has room, too.
        let room = (free * (high - low)).max(if log { 0.02 } else { 1e-6 + 1e-3 * high.abs() });
        let range = low - room..high + room;
        let ticks = if axis.ticks.is_empty() { ticks(&range, log) } else { axis.ticks.clone() };
        let places = ticks.iter().map(|tick| if log { tick.log10() } else { *tick });
        let mut ticks: Vec<f64> = places.filter(|place| range.contains(place)).collect();
        if !below {
            return Self { range, log, ticks, floor: None };
        }
        // A strip below the axis that is left, away from its lowest mark.
        let strip = (range.end - range.start) / 8.0;
        let floor = range.start - 0.5 * strip;
        ticks.insert(0, floor);
        Self { range: range.start - strip..range.end, log, ticks, floor: Some(floor) }
    }

    /// Whether a value is none that the axis can show.
    fn is_below(&self, value: f64) -> bool {
        self.log && value <= 0.0
    }

    /// A value's place.
    fn of(&self, value: f64) -> f64 {
        let place = match self.log {
            true if value > 0.0 => value.log10(),
            true => self.floor.unwrap_or(self.range.start),
            false => value,
        };
        place.clamp(self.range.start, self.range.end)
    }
}

/// Round numbers within a range (of logarithms).
fn ticks(range: &Range<f64>, log: bool) -> Vec<f64> {
    let length = range.end - range.start;
    if log {
        let decades = range.start.floor() as i32..=range.end.ceil() as i32;
        let steps: &[f64] = if length > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let all = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
        return all.filter(|tick| range.contains(&tick.log10())).collect();
    }
    let unit = 10f64.powf((length / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|s| s * unit).into_iter().find(|step| length / step <= 6.0);
    let step = step.unwrap_or(length);
    let (first, last) = ((range.start / step).ceil() as i64, (range.end / step).floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

impl Ranged for Scale {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (low, high): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        low + (share * f64::from(high - low)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl plotters::coord::ranged1d::ValueFormatter<f64> for Scale {
    fn format_ext(&self, value: &f64) -> String {
        match self.floor {
            Some(floor) if floor == *value => "<= 0".into(),
            _ => number(if self.log { 10f64.powf(*value) } else { *value }),
        }
    }
}

/// A round number, short.
fn number(value: f64) -> String {
    let exponent = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    if (-3..5).contains(&exponent) {
        let text = format!("{value:.4}");
        return text.trim_end_matches('0').trim_end_matches('.').into();
    }
    format!("{:.0e}", value)
}

/// A canvas as plotters sees it.
struct Backend<'a>(&'a mut Canvas);

impl DrawingBackend for Backend<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.0.size()
    }

    fn ensure_prepared(&mut self) -> Result<(), DrawingErrorKind<Infallible>> {
        Ok(())
    }

    fn present(&mut self) -> Result<(), DrawingErrorKind<Infallible>> {
        Ok(())
    }

    fn draw_pixel(
        &mut self,
        (x, y): BackendCoord,
        color: BackendColor,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        let (r, g, b) = color.rgb;
        self.0.blend(x, y, [r, g, b], color.alpha);
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        text: &str,
        style: &S,
    ) -> Result<(u32, u32), DrawingErrorKind<Infallible>> {
        let (width, height) = Canvas::text_size(SCALE, text);
        Ok(match style.transform() {
            FontTransform::Rotate90 | FontTransform::Rotate270 => (height, width),
            _ => (width, height),
        })
    }

    fn draw_text<S: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &S,
        (x, y): BackendCoord,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        let (width, height) = Canvas::text_size(SCALE, text);
        let (width, height) = (width as i32, height as i32);
        // Along the text and across it, from its anchor to its upper left corner.
        let along = match style.anchor().h_pos {
            HPos::Left => 0,
            HPos::Center => width / 2,
            HPos::Right => width,
        };
        let across = match style.anchor().v_pos {
            VPos::Top => 0,
            VPos::Center => height / 2,
            VPos::Bottom => height,
        };
        let upwards = matches!(style.transform(), FontTransform::Rotate90 | FontTransform::Rotate270);
        let (left, top) = if upwards { (x - across, y + along) } else { (x - along, y - across) };
        self.0.text(left, top, SCALE, BLACK, upwards, text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(log: bool) -> Axis {
        Axis { name: "axis".into(), log, ticks: Vec::new() }
    }

    fn panel(points: &[(f64, f64)]) -> Panel {
        let points =
            points.iter().map(|&(x, y)| Point { x, y, interval: Some([0.5 * y, 2.0 * y]) }).collect();
        let series = vec![Series { name: "a line".into(), points, style: Style::Marked }];
        Panel { title: "title".into(), x: axis(false), y: axis(true), series, level: Some(0.1) }
    }

    /// The rows of the pixels of a colour.
    fn rows(canvas: &Canvas, color: Color, columns: Range<i32>) -> Vec<i32> {
        let (_, height) = canvas.size();
        (0..height as i32).filter(|y| columns.clone().any(|x| canvas.at(x, *y) == color)).collect()
    }

    #[test]
    fn a_chart_shows_its_values_where_they_are() {
        let canvas = draw(&[panel(&[(0.0, 1.0), (1.0, 0.1), (2.0, 0.01)])], 700, 500);
        assert_eq!(canvas.size(), (700 + (6 * 8 * 2 + 5 * 16), 500));
        // From the upper left to the lower right, and the same colour in the legend.
        let lines: Vec<_> = (0..700).map(|x| rows(&canvas, COLORS[0], x..x + 1)).collect();
        let marked: Vec<usize> = (0..700).filter(|x| lines[*x].len() > 30).collect();
        let middle = |x: usize| f64::from(lines[x].iter().sum::<i32>()) / lines[x].len() as f64;
        let (first, last) = (marked[0], *marked.last().unwrap());
        let between = (first + last) / 2;
        // Two decades, each as long.
        let (upper, lower) = (middle(between) - middle(first), middle(last) - middle(between));
        assert!(upper > 100.0 && (upper - lower).abs() < 6.0, "{upper}, {lower}");
        assert!(!rows(&canvas, COLORS[0], 700..canvas.size().0 as i32).is_empty());
        // Upright below and at the left, and turned beside the vertical axis; the same again.
        assert!(
            !rows(&canvas, BLACK, 0..20).is_empty()
                && rows(&canvas, BLACK, 300..400).iter().any(|y| *y > 470)
        );
        assert_eq!(canvas, draw(&[panel(&[(0.0, 1.0), (1.0, 0.1), (2.0, 0.01)])], 700, 500));
        let mut png = Vec::new();
        canvas.write(&mut png).unwrap();
        assert!(png.len() < 20_000, "{}", png.len());
    }

    #[test]
    fn a_faint_line_is_thin_and_pale_also_in_the_legend() {
        let [plain, faint] = [Style::Plain, Style::Faint].map(|style| {
            let mut panel = panel(&[(0.0, 0.1), (1.0, 0.1)]);
            let points = panel.series.remove(0).points.into_iter();
            let points = points.map(|point| Point { interval: None, ..point }).collect();
            panel.series.push(Series { name: "a line".into(), points, style });
            panel.level = None;
            draw(&[panel], 400, 300)
        });
        let pale = [181, 201, 221];
        assert_eq!(Style::Faint.pen(0).0, pale);
        // A level line: its pixels in one column are its width.
        assert!(rows(&plain, COLORS[0], 250..251).len() > 1);
        assert_eq!(rows(&faint, pale, 250..251).len(), 1);
        assert!(rows(&faint, COLORS[0], 0..faint.size().0 as i32).is_empty());
        assert!(!rows(&faint, pale, 400..faint.size().0 as i32).is_empty());
    }

    #[test]
    fn lines_of_one_colour_are_told_apart() {
        let mut panel = panel(&[(0.0, 0.1), (2.0, 0.1)]);
        let line = panel.series.remove(0);
        let names: Vec<String> = (0..=COLORS.len()).map(|i| i.to_string()).collect();
        panel.series = names.iter().map(|name| Series { name: name.clone(), ..line.clone() }).collect();
        for series in &mut panel.series[1..] {
            series.points.clear();
        }
        let pixels = |panel: &Panel| {
            let canvas = draw(std::slice::from_ref(panel), 700, 500);
            (0..700).filter(|x| !rows(&canvas, COLORS[0], *x..x + 1).is_empty()).count()
        };
        let whole = pixels(&panel);
        // The same values under the name that takes the first colour again.
        panel.series[COLORS.len()].points = std::mem::take(&mut panel.series[0].points);
        let parts = pixels(&panel);
        assert!(3 * whole > 5 * parts && 3 * parts > whole, "{whole}, {parts}");
    }

    /// What a logarithmic axis cannot show has a place of its own, below everything else and named so.
    #[test]
    fn values_that_are_not_positive_are_seen() {
        use plotters::coord::ranged1d::ValueFormatter;
        let values = [1e-3, 0.0, 1.0, -5.0];
        let scale = Scale::new(&axis(true), values.into_iter(), 0.05);
        assert_eq!(scale.of(0.0), scale.of(-5.0));
        assert!(scale.range.contains(&scale.of(0.0)) && scale.of(0.0) < scale.of(1e-3) - 0.1);
        assert_eq!(scale.format_ext(&scale.ticks[0]), "<= 0");
        assert!(scale.ticks[1..].iter().all(|tick| *tick >= -3.0));
        // Nothing of that where all are positive, or the axis is another.
        assert_eq!(Scale::new(&axis(true), [0.1, 1.0].into_iter(), 0.05).floor, None);
        assert_eq!(Scale::new(&axis(false), values.into_iter(), 0.05).floor, None);

        // A mark below the line that is seen whole: within the axes, and filled.
        let drawn = |y: f64| {
            let mut panel = panel(&[(0.0, 1.0), (1.0, 0.1), (2.0, y)]);
            panel.series[0].points.iter_mut().for_each(|point| point.interval = None);
            draw(&[panel], 700, 500)
        };
        let (zero, small) = (drawn(0.0), drawn(0.01));
        let lowest = |canvas: &Canvas| *rows(canvas, COLORS[0], 560..700).last().unwrap();
        assert!(lowest(&zero) > 400 && lowest(&zero) < 452, "{}", lowest(&zero));
        assert!(rows(&zero, COLORS[0], 560..700).len() > 10 && zero != small);
        assert_eq!(drawn(-1.0), zero);
    }

    #[test]
    fn what_cannot_be_shown_is_no_failure() {
        for points in
            [&[][..], &[(1.0, 0.0)], &[(1.0, -1.0), (2.0, f64::NAN)], &[(5.0, 1e300), (5.0, 1e-300)]]
        {
            draw(&[panel(points), panel(points)], 300, 200);
        }
        draw(&[panel(&[(1.0, 1.0)])], 10, 10);
        draw(&[], 100, 100);
    }

    #[test]
    fn marks_are_round_numbers() {
        assert_eq!(ticks(&(0.0..12.0), false), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
        assert_eq!(ticks(&(-2.1..-0.9), true), [0.01, 0.02, 0.05, 0.1]);
        assert_eq!(ticks(&(-6.5..1.0), true).len(), 7);
        let texts = [0.0, 0.05, 20.0, 1e-5, 12500.0, 3e7].map(number);
        assert_eq!(texts, ["0", "0.05", "20", "1e-5", "12500", "3e7"]);
    }
}
