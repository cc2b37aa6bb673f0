//! Measurement operators, ready to be applied.

use crate::spec::{Operator, Restoration};
use crate::{Error, Result};
use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlannerScalar};
use std::fmt;
use std::sync::Arc;

/// H on one sample [C, ...], and what it takes to come back. Arithmetic is in double precision.
pub(crate) struct Linear {
    kind: Kind,
    data: Vec<usize>,
    noise: f64,
}

enum Kind {
    Mask,
    Average(usize),
    Convolve(Spectrum),
}

/// A periodic convolution, diagonal in frequencies. Its transforms use no vector instructions: with them the order of sums, and
/// so the last bits, would be the processor's. (Roots of unity are the system library's.)
struct Spectrum {
    response: Vec<Complex<f64>>,
    height: usize,
    width: usize,
    /// (rows, columns), and their inverses.
    forward: [Arc<dyn Fft<f64>>; 2],
    inverse: [Arc<dyn Fft<f64>>; 2],
}

/// Below this share of the largest response a frequency counts as lost: single precision's rounding, of 6e-8, grows by the
/// inverse.
const LEAST_RESPONSE: f64 = 1e-3;

impl Linear {
    /// # Errors
    /// [`Status::InvalidArgument`](crate::Status::InvalidArgument) where the operator does not fit data of this shape, or cannot
    /// be undone without noise.
    pub fn new(restoration: &Restoration, data: &[usize]) -> Result<Self> {
        restoration.check()?;
        let noise = restoration.noise;
        let kind = match &restoration.operator {
            Operator::Mask => Kind::Mask,
            Operator::Average { factor } => {
                let [height, width] = plane(data)?;
                if *factor == 0 || height % factor != 0 || width % factor != 0 {
                    return Err(Error::argument(format!(
                        "restore: factor = {factor}: expected a divisor of height and width, {height} x {width}"
                    )));
                }
                Kind::Average(*factor)
            }
            Operator::Blur { std } => {
                // Beyond this a kernel cut off at four deviations has more elements than any image.
                if !(*std > 0.0 && *std < 1e4) {
                    return Err(Error::argument(format!(
                        "restore: std = {std:?}: expected a standard deviation in pixels, above 0"
                    )));
                }
                let kernel = gaussian(*std, plane(data)?);
                Kind::Convolve(Spectrum::new(&kernel, plane(data)?, noise)?)
            }
            Operator::Convolve { kernel } => {
                let [height, width] = plane(data)?;
                let columns = kernel.first().map_or(0, Vec::len);
                if kernel.iter().any(|row| row.len() != columns) {
                    return Err(Error::argument("restore: kernel: its rows differ in length"));
                }
                if !(1..=height).contains(&kernel.len()) || !(1..=width).contains(&columns) {
                    return Err(Error::argument(format!(
                        "restore: kernel of {} x {columns}: expected at least 1 x 1 and at most {height} x {width}",
                        kernel.len()
                    )));
                }
                if kernel.iter().flatten().any(|x| !x.is_finite()) {
                    return Err(Error::argument("restore: kernel: a number is not finite"));
                }
                Kind::Convolve(Spectrum::new(&periodic(kernel, [height, width]), [height, width], noise)?)
            }
        };
        Ok(Self { kind, data: data.to_vec(), noise })
    }

    /// The shape of a measurement of one sample.
    pub fn shape(&self) -> Vec<usize> {
        match (&self.kind, &self.data[..]) {
            (Kind::Average(factor), [channels, height, width]) => {
                vec![*channels, height / factor, width / factor]
            }
            _ => self.data.clone(),
        }
    }

    /// Numbers in a measurement of one sample.
    pub fn measurements(&self) -> usize {
        self.shape().iter().product()
    }

    /// Standard deviation of the measurement's noise.
    pub fn noise(&self) -> f64 {
        self.noise
    }

    /// Whether what is measured of a constant is that constant, so that measurements are in the data range, too.
    pub fn keeps_level(&self) -> bool {
        match &self.kind {
            Kind::Mask | Kind::Average(_) => true,
            Kind::Convolve(spectrum) => {
                spectrum.response.first().is_some_and(|r| (r.norm() - 1.0).abs() < 1e-3)
            }
        }
    }

    /// Whether the run says which elements are measured.
    pub fn is_mask(&self) -> bool {
        matches!(self.kind, Kind::Mask)
    }

    /// H x. Of a mask: x itself.
    pub fn apply(&self, x: &[f64]) -> Vec<f64> {
        match &self.kind {
            Kind::Mask => x.to_vec(),
            Kind::Average(factor) => self.means(*factor, x),
            Kind::Convolve(spectrum) => {
                let mut y = Vec::with_capacity(x.len());
                for x in x.chunks(spectrum.response.len()) {
                    let plane = x.iter().map(|x| Complex::new(*x, 0.0)).collect();
                    y.extend(spectrum.filter(plane, |response, x, _| response * x));
                }
                y
            }
        }
    }

    /// Replaces an estimate x of variance `variance` by what y moves it by: v H^T (v H H^T + noise^2)^-1 (y - H x).
    pub fn correction(&self, variance: f64, y: &[f32], mask: &[f32], x: &mut [f64]) {
        let noise = self.noise * self.noise;
        match &self.kind {
            Kind::Mask => {
                let gain = variance / (variance + noise);
                for ((x, y), mask) in x.iter_mut().zip(y).zip(mask) {
                    // What was not measured may be anything, NaN included.
                    *x = if *mask == 1.0 { gain * (f64::from(*y) - *x) } else { 0.0 };
                }
            }
            Kind::Average(factor) => {
                // H H^T is 1/n for squares of n pixels, and n H^T gives each pixel its square's value.
                let gain = variance / (variance + (factor * factor) as f64 * noise);
                let residual: Vec<f64> = y
                    .iter()
                    .zip(self.means(*factor, x))
                    .map(|(y, mean)| gain * (f64::from(*y) - mean))
                    .collect();
                self.squares(*factor, |pixel, square| x[pixel] = residual[square]);
            }
            Kind::Convolve(spectrum) => {
                let size = spectrum.response.len();
                for (x, y) in x.chunks_mut(size).zip(y.chunks(size)) {
                    // Two real images in one transform.
                    let both = x.iter().zip(y).map(|(x, y)| Complex::new(*x, f64::from(*y))).collect();
                    let moved = spectrum.filter(both, |response, x, y| {
                        let power = variance * response.norm_sqr() + noise;
                        if power > 0.0 {
                            response.conj() * (variance / power) * (y - response * x)
                        } else {
                            0.0.into()
                        }
                    });
                    x.copy_from_slice(&moved);
                }
            }
        }
    }

    /// The mean of each square.
    fn means(&self, factor: usize, x: &[f64]) -> Vec<f64> {
        let squares = factor * factor;
        let mut sums = vec![0.0; x.len() / squares];
        self.squares(factor, |pixel, square| sums[square] += x[pixel]);
        sums.iter_mut().for_each(|sum| *sum /= squares as f64);
        sums
    }

    /// Each pixel with its square.
    fn squares(&self, factor: usize, mut each: impl FnMut(usize, usize)) {
        let [channels, height, width] = self.data[..] else { return };
        for row in 0..channels * height {
            let (channel, i) = (row / height, row % height);
            let first = (channel * (height / factor) + i / factor) * (width / factor);
            for j in 0..width {
                each(row * width + j, first + j / factor);
            }
        }
    }
}

impl fmt::Debug for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Linear").field("data", &self.data).field("noise", &self.noise).finish_non_exhaustive()
    }
}

impl Spectrum {
    /// Of a kernel laid out over the whole plane, its centre at the origin.
    fn new(kernel: &[f64], [height, width]: [usize; 2], noise: f64) -> Result<Self> {
        let mut planner = FftPlannerScalar::new();
        let mut new = Self {
            forward: [planner.plan_fft_forward(width), planner.plan_fft_forward(height)],
            inverse: [planner.plan_fft_inverse(width), planner.plan_fft_inverse(height)],
            response: kernel.iter().map(|x| Complex::new(*x, 0.0)).collect(),
            height,
            width,
        };
        let mut response = std::mem::take(&mut new.response);
        new.transform(&mut response, &new.forward);
        let power = |response: &Complex<f64>| response.norm();
        let largest = response.iter().map(power).fold(0.0, f64::max);
        let least = response.iter().map(power).fold(f64::INFINITY, f64::min);
        if largest == 0.0 {
            return Err(Error::argument("restore: kernel: it is zero, and measures nothing"));
        }
        if noise == 0.0 && least < LEAST_RESPONSE * largest {
            return Err(Error::argument(format!(
                "restore: the convolution loses frequencies (the least response is {:.1e} of the largest), and nothing gives \
                 them back from a measurement without noise",
                least / largest
            ))
            .hint("say how much noise there is: images of 8 bits in the range -1 to 1 have 0.0023 by rounding"));
        }
        new.response = response;
        Ok(new)
    }

    /// In place, along rows and then columns, without normalisation.
    fn transform(&self, plane: &mut Vec<Complex<f64>>, [rows, columns]: &[Arc<dyn Fft<f64>>; 2]) {
        let transposed = |plane: &[Complex<f64>], height: usize, width: usize| {
            (0..width).flat_map(|j| (0..height).map(move |i| plane[i * width + j])).collect::<Vec<_>>()
        };
        rows.process(plane);
        let mut turned = transposed(plane, self.height, self.width);
        columns.process(&mut turned);
        *plane = transposed(&turned, self.width, self.height);
    }

    /// The real plane whose transform is `each` of the response and the transforms of the real and of the imaginary part of
    /// `both`.
    fn filter(
        &self,
        mut both: Vec<Complex<f64>>,
        each: impl Fn(Complex<f64>, Complex<f64>, Complex<f64>) -> Complex<f64>,
    ) -> Vec<f64> {
        self.transform(&mut both, &self.forward);
        let mut out: Vec<_> = (0..both.len())
            .map(|at| {
                let (i, j) = (at / self.width, at % self.width);
                let mirrored = (self.height - i) % self.height * self.width + (self.width - j) % self.width;
                let (plus, minus) = (both[at], both[mirrored].conj());
                let x = (plus + minus) * 0.5;
                let y = (plus - minus) * Complex::new(0.0, -0.5);
                each(self.response[at], x, y)
            })
            .collect();
        self.transform(&mut out, &self.inverse);
        let scale = 1.0 / out.len() as f64;
        out.iter().map(|x| x.re * scale).collect()
    }
}

/// Height and width of images.
fn plane(data: &[usize]) -> Result<[usize; 2]> {
    match data {
        [_, height, width] => Ok([*height, *width]),
        _ => Err(Error::argument(format!(
            "restore: expected images [C, H, W], the data has shape {data:?}: of it, a mask can be restored"
        ))),
    }
}

/// A kernel over the whole plane, its centre at the origin.
fn periodic(kernel: &[Vec<f64>], [height, width]: [usize; 2]) -> Vec<f64> {
    let mut out = vec![0.0; height * width];
    for (p, row) in kernel.iter().enumerate() {
        let i = (p + height - kernel.len() / 2) % height;
        for (q, x) in row.iter().enumerate() {
            out[i * width + (q + width - row.len() / 2) % width] += x;
        }
    }
    out
}

/// A Gaussian over the whole plane, wound around it where it is wider.
fn gaussian(std: f64, [height, width]: [usize; 2]) -> Vec<f64> {
    let radius = (4.0 * std).ceil() as i64;
    let line = |size: usize| {
        let mut out = vec![0.0; size];
        for i in -radius..=radius {
            let x = i as f64 / std;
            out[i.rem_euclid(size as i64) as usize] += libm::exp(-0.5 * x * x);
        }
        let sum: f64 = out.iter().sum();
        out.iter_mut().for_each(|x| *x /= sum);
        out
    };
    let across = line(width);
    line(height).iter().flat_map(|x| across.iter().map(move |y| x * y)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(operator: Operator, noise: f64, data: &[usize]) -> Result<Linear> {
        Linear::new(&Restoration { noise, ..operator.into() }, data)
    }

    fn image(len: usize) -> Vec<f64> {
        (0..len).map(|i| ((i * 37 + 11) % 23) as f64 / 11.0 - 1.0).collect()
    }

    /// The definition, by loops.
    #[test]
    fn a_convolution_is_the_periodic_sum() {
        let kernel = vec![vec![0.1, 0.2], vec![0.5, -0.3], vec![0.05, 0.7]];
        let (height, width) = (5, 4);
        let operator =
            linear(Operator::Convolve { kernel: kernel.clone() }, 0.1, &[2, height, width]).unwrap();
        let x = image(2 * height * width);
        let y = operator.apply(&x);
        for c in 0..2 {
            for i in 0..height {
                for j in 0..width {
                    let mut sum = 0.0;
                    for (p, row) in kernel.iter().enumerate() {
                        for (q, k) in row.iter().enumerate() {
                            let (a, b) = ((i + height + 1 - p) % height, (j + width + 1 - q) % width);
                            sum += k * x[(c * height + a) * width + b];
                        }
                    }
                    assert!((y[(c * height + i) * width + j] - sum).abs() < 1e-12);
                }
            }
        }
    }

    /// v H^T (v H H^T + s^2)^-1 (y - H x), with H as a matrix and the inverse by elimination.
    #[test]
    fn corrections_are_those_of_the_matrix() {
        let data = [1, 4, 4];
        let n: usize = data.iter().product();
        let kernel = vec![vec![0.1, 0.2, 0.1], vec![0.3, 0.9, 0.2], vec![0.0, 0.2, 0.1]];
        for operator in [
            Operator::Average { factor: 2 },
            Operator::Blur { std: 0.7 },
            Operator::Convolve { kernel },
            Operator::Mask,
        ] {
            for noise in [0.0, 0.3] {
                if noise == 0.0 && matches!(operator, Operator::Blur { .. }) {
                    continue;
                }
                let linear = linear(operator.clone(), noise, &data).unwrap();
                let columns: Vec<_> = (0..n)
                    .map(|j| linear.apply(&(0..n).map(|i| f64::from(i == j)).collect::<Vec<_>>()))
                    .collect();
                let m = columns[0].len();
                let h = |i: usize, j: usize| columns[j][i];
                let (variance, x) = (0.4, image(n));
                let y: Vec<f32> = (0..m).map(|i| (i as f32 * 0.7).sin()).collect();
                let mut system: Vec<Vec<f64>> = (0..m)
                    .map(|i| {
                        let covariance = |j: usize| (0..n).map(|l| h(i, l) * h(j, l)).sum::<f64>();
                        let residual = f64::from(y[i]) - (0..n).map(|j| h(i, j) * x[j]).sum::<f64>();
                        let diagonal = |j: usize| if i == j { noise * noise } else { 0.0 };
                        (0..m).map(|j| variance * covariance(j) + diagonal(j)).chain([residual]).collect()
                    })
                    .collect();
                for pivot in 0..m {
                    let row = system[pivot].clone();
                    for (i, other) in system.iter_mut().enumerate().filter(|(i, _)| *i != pivot) {
                        let factor = other[pivot] / row[pivot];
                        let _ = i;
                        other.iter_mut().zip(&row).for_each(|(a, b)| *a -= factor * b);
                    }
                }
                let solved = |i: usize| system[i][m] / system[i][i];
                let mut moved = x.clone();
                linear.correction(variance, &y, &vec![1.0; n], &mut moved);
                for (j, moved) in moved.iter().enumerate() {
                    let expected: f64 = (0..m).map(|i| variance * h(i, j) * solved(i)).sum();
                    assert!(
                        (moved - expected).abs() < 1e-10,
                        "{operator:?}, noise {noise}: {moved} for {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cases = [
            (Operator::Average { factor: 3 }, vec![1, 4, 4], "divisor"),
            (Operator::Average { factor: 0 }, vec![1, 4, 4], "divisor"),
            (Operator::Average { factor: 2 }, vec![4], "expected images"),
            (Operator::Blur { std: 2.0 }, vec![1, 8, 8], "loses frequencies"),
            (Operator::Blur { std: f64::NAN }, vec![1, 8, 8], "std"),
            (Operator::Convolve { kernel: vec![] }, vec![1, 4, 4], "at least 1 x 1"),
            (Operator::Convolve { kernel: vec![vec![1.0; 5]] }, vec![1, 4, 4], "at most 4 x 4"),
            (Operator::Convolve { kernel: vec![vec![1.0], vec![]] }, vec![1, 4, 4], "differ in length"),
            (Operator::Convolve { kernel: vec![vec![0.0; 3]] }, vec![1, 4, 4], "it is zero"),
            (Operator::Convolve { kernel: vec![vec![f64::INFINITY]] }, vec![1, 4, 4], "not finite"),
        ];
        for (operator, data, what) in cases {
            let error = linear(operator.clone(), 0.0, &data).unwrap_err();
            assert!(error.to_string().contains(what), "{operator:?}: {error}");
        }
        assert!(linear(Operator::Mask, -1.0, &[4]).unwrap_err().to_string().contains("noise"));
    }
}
