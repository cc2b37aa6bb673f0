//! The loops over the elements of one sample, written once and compiled for each instruction set.
//!
//! An update is one pass that sums A z and all network outputs in registers; then each noise draw is generated and
//! added, in chunks that stay in the first cache. All loops are plain, so the result does not depend on the instruction
//! set.

use super::{Batch, Buffer, Float};
use crate::isa::{Isa, Kernel};
use crate::noise::{self, Purpose};
use crate::plan::{Threshold, Update};
use crate::process::{MAX_K, Mat};
use std::marker::PhantomData;

const CHUNK: usize = 512;

/// Where the normals of one sample come from.
pub(super) struct Noise<'a> {
    seed: u64,
    isa: Isa,
    /// The caller's draws from the next one on, with the distance from one to the next, at this sample.
    given: Option<(&'a Buffer, usize, usize)>,
}

impl<'a> Noise<'a> {
    pub fn of(batch: &'a Batch, sample: usize, isa: Isa) -> Self {
        let len = batch.k * batch.d;
        let stride = batch.n * len;
        let given = batch.draws.as_ref().map(|draws| (draws, batch.consumed * stride + sample * len, stride));
        Self { seed: batch.seeds[sample], isa, given }
    }

    /// Normals of elements `first..first + out.len()`; `nth` counts the draws of the row.
    fn fill<T: Float>(&self, purpose: Purpose, draw: u32, nth: usize, first: usize, out: &mut [T]) {
        match self.given {
            None => noise::fill(self.isa, self.seed, purpose, draw, first as u64, out),
            Some((draws, start, stride)) => {
                let at = start + nth * stride + first;
                match draws {
                    Buffer::F32(v) => {
                        out.iter_mut().zip(&v[at..]).for_each(|(o, x)| *o = T::from_f64(f64::from(*x)));
                    }
                    Buffer::F64(v) => out.iter_mut().zip(&v[at..]).for_each(|(o, x)| *o = T::from_f64(*x)),
                }
            }
        }
    }
}

/// sum += c x
#[inline(always)]
fn add_scaled<T: Float, E: Float>(sum: &mut [T], c: f64, x: &[E]) {
    let c = T::from_f64(c);
    for (s, x) in sum.iter_mut().zip(x) {
        *s += c * T::from_f64(x.to_f64());
    }
}

/// sums[b] += M[b, c] x[c] over the blocks, for the elements `at..at + len` of each block.
#[inline(always)]
fn add_product<T: Float, E: Float>(
    sums: &mut [[T; CHUNK]],
    m: &Mat,
    x: &[E],
    d: usize,
    at: usize,
    len: usize,
) {
    for (b, sum) in sums.iter_mut().enumerate().take(m.rows()) {
        for c in 0..m.cols() {
            let coefficient = m[(b, c)];
            if coefficient != 0.0 {
                add_scaled(&mut sum[..len], coefficient, &x[c * d + at..][..len]);
            }
        }
    }
}

/// The chunks of a block of `d` elements: (first, length).
#[inline(always)]
fn chunks(d: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..d).step_by(CHUNK).map(move |at| (at, CHUNK.min(d - at)))
}

/// An update row on one sample; returns whether all that it wrote is finite.
pub(super) struct Sample<'a, T, E> {
    pub row: &'a Update,
    /// The state read, unless it is the one written.
    pub from: Option<&'a [T]>,
    pub into: &'a mut [T],
    pub states: &'a [Buffer],
    pub slots: &'a [Buffer],
    pub index: usize,
    pub d: usize,
    pub noise: Noise<'a>,
    pub outputs: PhantomData<E>,
}

/// The part of slot `slot` that belongs to sample `index`.
#[inline(always)]
fn slot_of<'a, E: Float>(slots: &'a [Buffer], slot: usize, b: &Mat, index: usize, d: usize) -> &'a [E] {
    let len = b.cols() * d;
    &E::of(&slots[slot])[index * len..][..len]
}

impl<T: Float, E: Float> Sample<'_, T, E> {
    pub fn run(self) -> bool {
        match self.row.a.rows() {
            1 => self.update::<1>(),
            2 => self.update::<2>(),
            3 => self.update::<3>(),
            _ => self.update::<MAX_K>(),
        }
    }
}

/// A block of network output with its coefficients in the K blocks of the state.
type Column<'a, T, E, const K: usize> = (&'a [E], [T; K]);

/// Blocks of network output that one pass over the state adds; a row with more takes more passes.
const COLUMNS: usize = 4;

impl<T: Float, E: Float> Sample<'_, T, E> {
    fn update<const K: usize>(self) -> bool {
        let Self { row, from, into, states, slots, index, d, noise, .. } = self;
        let isa = noise.isa;
        let outputs = row.terms.iter().flat_map(|(slot, b)| {
            let x = slot_of::<E>(slots, *slot, b, index, d);
            (0..b.cols()).map(move |c| (&x[c * d..][..d], coefficients::<T, K>(b, c)))
        });
        let mut finite = add_columns(isa, from, Some(&row.a), into, outputs, d);
        if !row.states.is_empty() {
            let others = row.states.iter().flat_map(|(state, a)| {
                let x = &T::of(&states[*state])[index * K * d..][..K * d];
                // A stored data estimate fills one block of its state: columns of zeros cost nothing.
                (0..K)
                    .filter(|c| (0..K).any(|b| a[(b, *c)] != 0.0))
                    .map(move |c| (&x[c * d..][..d], coefficients::<T, K>(a, c)))
            });
            finite &= add_columns(isa, None, None, into, others, d);
        }
        for (nth, entry) in row.noise.iter().enumerate() {
            for (at, len) in chunks(d) {
                finite &= add_noise(&mut into[at..], d, entry, nth, &noise, Chunk { d, at, len });
            }
        }
        finite
    }
}

/// z = A from + sum of columns (`from` of `None` is z itself, A of `None` the identity), as many passes as it takes;
/// whether all that it wrote is finite.
#[inline(always)]
fn add_columns<'a, T: Float, E: Float, const K: usize>(
    isa: Isa,
    from: Option<&[T]>,
    a: Option<&Mat>,
    into: &mut [T],
    columns: impl Iterator<Item = Column<'a, T, E, K>>,
    d: usize,
) -> bool {
    let mut all = columns.peekable();
    let mut from = from;
    let identity = std::array::from_fn(|c| std::array::from_fn(|b| T::from_f64(f64::from(b == c))));
    let mut a: [[T; K]; K] = a.map_or(identity, |a| std::array::from_fn(|c| coefficients(a, c)));
    let mut finite = true;
    loop {
        let mut columns: [Column<'_, T, E, K>; COLUMNS] = [(&[], [T::default(); K]); COLUMNS];
        let mut count = 0;
        while count < COLUMNS
            && let Some(column) = all.next()
        {
            columns[count] = column;
            count += 1;
        }
        finite &= match from {
            Some(from) => pass(isa, a, from, into, columns, count, d),
            None => pass(isa, a, InPlace, into, columns, count, d),
        };
        if all.peek().is_none() {
            return finite;
        }
        // The next pass adds to what this one wrote.
        (from, a) = (None, identity);
    }
}

/// One pass with the first `count` of `columns`.
#[inline(always)]
fn pass<T: Float, E: Float, S: Source<T>, const K: usize>(
    isa: Isa,
    a: [[T; K]; K],
    from: S,
    into: &mut [T],
    columns: [Column<'_, T, E, K>; COLUMNS],
    count: usize,
    d: usize,
) -> bool {
    match columns {
        [p, q, r, s] if count == 4 => isa.run(Affine { a, from, into, columns: [p, q, r, s], d }),
        [p, q, r, _] if count == 3 => isa.run(Affine { a, from, into, columns: [p, q, r], d }),
        [p, q, _, _] if count == 2 => isa.run(Affine { a, from, into, columns: [p, q], d }),
        [p, _, _, _] if count == 1 => isa.run(Affine { a, from, into, columns: [p], d }),
        _ => isa.run(Affine::<T, E, S, K, 0> { a, from, into, columns: [], d }),
    }
}

/// Column `c` of a coefficient matrix, in the state's precision.
#[inline(always)]
fn coefficients<T: Float, const K: usize>(m: &Mat, c: usize) -> [T; K] {
    std::array::from_fn(|b| T::from_f64(m[(b, c)]))
}

/// Elements whose sums stay in registers while the inputs pass by.
const LANES: usize = 32;

/// The state that an update reads.
trait Source<T> {
    /// N values from `at` on, where `into` is the state that is written.
    fn read<const N: usize>(&self, into: &[T], at: usize) -> [T; N];
}

/// The state that is written as well.
struct InPlace;

impl<T: Float> Source<T> for InPlace {
    #[inline(always)]
    fn read<const N: usize>(&self, into: &[T], at: usize) -> [T; N] {
        array(&into[at..])
    }
}

/// Another state.
impl<T: Float> Source<T> for &[T] {
    #[inline(always)]
    fn read<const N: usize>(&self, _: &[T], at: usize) -> [T; N] {
        array(&self[at..])
    }
}

/// z = A from + sum of Q columns, for a whole sample; whether all that it wrote is finite.
///
/// A kernel of its own for each source, K and Q: in one large function the compiler gives up vectorising.
struct Affine<'a, T, E, S, const K: usize, const Q: usize> {
    /// By columns.
    a: [[T; K]; K],
    from: S,
    into: &'a mut [T],
    columns: [Column<'a, T, E, K>; Q],
    d: usize,
}

impl<T: Float, E: Float, S: Source<T>, const K: usize, const Q: usize> Kernel for Affine<'_, T, E, S, K, Q> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let Self { a, from, into, columns, d } = self;
        let outputs: [&[E]; Q] = std::array::from_fn(|q| &columns[q].0[..d]);
        let on_output: [[T; K]; Q] = std::array::from_fn(|q| columns[q].1);
        let whole = d - d % LANES;
        let mut bad = [T::default(); LANES];
        for i in (0..whole).step_by(LANES) {
            lanes(&a, &on_output, &from, into, &outputs, d, i, &mut bad);
        }
        let mut bad_rest = [T::default()];
        for i in whole..d {
            lanes(&a, &on_output, &from, into, &outputs, d, i, &mut bad_rest);
        }
        bad.iter().chain(&bad_rest).all(|bad| *bad == T::default())
    }
}

/// N elements of each block from element `i` on. All are read before any is written, so the state may be
/// updated in place; `bad` stays zero where all sums are finite.
///
/// Written with indices over arrays of known length: that is what the compiler keeps in vector registers.
#[inline(always)]
#[allow(clippy::needless_range_loop, clippy::too_many_arguments)]
fn lanes<T: Float, E: Float, S: Source<T>, const K: usize, const Q: usize, const N: usize>(
    on_state: &[[T; K]; K],
    on_output: &[[T; K]; Q],
    from: &S,
    into: &mut [T],
    outputs: &[&[E]; Q],
    d: usize,
    i: usize,
    bad: &mut [T; N],
) {
    let mut sums = [[T::default(); N]; K];
    for c in 0..K {
        let z: [T; N] = from.read(into, c * d + i);
        for b in 0..K {
            for l in 0..N {
                sums[b][l] += on_state[c][b] * z[l];
            }
        }
    }
    for q in 0..Q {
        let x: [E; N] = array(&outputs[q][i..]);
        for b in 0..K {
            for l in 0..N {
                sums[b][l] += on_output[q][b] * T::from_f64(x[l].to_f64());
            }
        }
    }
    for b in 0..K {
        into[b * d + i..][..N].copy_from_slice(&sums[b]);
        for l in 0..N {
            // Zero times what is not finite is NaN, and stays it: two instructions, a comparison takes four.
            bad[l] += T::default() * sums[b][l];
        }
    }
}

/// The first N values.
#[inline(always)]
fn array<T: Float, const N: usize>(values: &[T]) -> [T; N] {
    let mut array = [T::default(); N];
    array.copy_from_slice(&values[..N]);
    array
}

/// A chunk of each block of a sample: elements `at..at + len` of `d`.
#[derive(Clone, Copy)]
struct Chunk {
    d: usize,
    at: usize,
    len: usize,
}

/// z += C xi on a chunk, which is in the first cache by now; whether all that it wrote is finite. The chunks of the
/// blocks begin at `into[0]`, `into[stride]`, ...
#[inline(always)]
fn add_noise<T: Float>(
    into: &mut [T],
    stride: usize,
    (purpose, draw, c): &(Purpose, u32, Mat),
    nth: usize,
    noise: &Noise<'_>,
    Chunk { d, at, len }: Chunk,
) -> bool {
    let mut finite = true;
    let mut normals = [T::default(); CHUNK];
    for column in 0..c.cols() {
        // A column of zeros (the position's noise of CLD, say) costs no normals.
        if (0..c.rows()).all(|b| c[(b, column)] == 0.0) {
            continue;
        }
        noise.fill(*purpose, *draw, nth, column * d + at, &mut normals[..len]);
        for b in (0..c.rows()).filter(|b| c[(*b, column)] != 0.0) {
            let (sum, x) = (&mut into[b * stride..][..len], &normals[..len]);
            finite &= noise.isa.run(AddScaled { sum, c: c[(b, column)], x });
        }
    }
    finite
}

/// sum += c x; whether all sums are finite.
struct AddScaled<'a, T> {
    sum: &'a mut [T],
    c: f64,
    x: &'a [T],
}

impl<T: Float> Kernel for AddScaled<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        add_scaled(self.sum, self.c, self.x);
        all_finite(self.sum)
    }
}

#[inline(always)]
fn all_finite<T: Float>(values: &[T]) -> bool {
    values.iter().fold(true, |finite, x| finite & x.finite())
}

/// z = factor xi(prior, 0) on one sample.
pub(super) struct Prior<'a, T> {
    pub factor: &'a Mat,
    pub seed: u64,
    pub isa: Isa,
    pub d: usize,
    pub into: &'a mut [T],
}

impl<T: Float> Kernel for Prior<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let noise = Noise { seed: self.seed, isa: self.isa, given: None };
        let entry = (Purpose::Prior, 0, *self.factor);
        self.into.fill(T::default());
        for (at, len) in chunks(self.d) {
            add_noise(&mut self.into[at..], self.d, &entry, 0, &noise, Chunk { d: self.d, at, len });
        }
    }
}

/// Where mask = 1, z = mean image + C xi; elsewhere z stays. Masks between 0 and 1 blend.
pub(super) struct Replace<'a, T> {
    pub mean: &'a Mat,
    pub draw: Option<&'a (Purpose, u32, Mat)>,
    pub image: &'a [f32],
    pub mask: &'a [f32],
    pub noise: Noise<'a>,
    pub d: usize,
    pub into: &'a mut [T],
}

impl<T: Float> Kernel for Replace<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let k = self.mean.rows();
        for (at, len) in chunks(self.d) {
            let mut sums = [[T::default(); CHUNK]; MAX_K];
            add_product(&mut sums[..k], self.mean, self.image, self.d, at, len);
            if let Some(entry) = self.draw {
                let chunk = Chunk { d: self.d, at, len };
                add_noise(sums.as_flattened_mut(), CHUNK, entry, 0, &self.noise, chunk);
            }
            for (b, sum) in sums.iter().enumerate().take(k) {
                let target = &mut self.into[b * self.d + at..][..len];
                for ((z, s), mask) in target.iter_mut().zip(sum).zip(&self.mask[at..]) {
                    let mask = f64::from(*mask);
                    *z = T::from_f64(1.0 - mask) * *z + T::from_f64(mask) * *s;
                }
            }
        }
    }
}

/// values = clip(values, low, high).
pub(super) struct Clip<'a, T> {
    pub low: f64,
    pub high: f64,
    pub values: &'a mut [T],
}

impl<T: Float> Kernel for Clip<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        // Comparisons, not min and max: a NaN must stay one, so that the next row reports it.
        for value in self.values {
            let x = value.to_f64();
            if x < self.low {
                *value = T::from_f64(self.low);
            } else if x > self.high {
                *value = T::from_f64(self.high);
            }
        }
    }
}

/// Moves what the outputs of one sample say of x_0 to its clipped value.
pub(super) struct Clipped<'a, Z, E> {
    pub row: &'a Threshold,
    /// s, in half ranges: 1, or what the percentile says.
    pub bound: f64,
    pub z: &'a [Z],
    pub out: &'a mut [E],
    pub d: usize,
}

impl<Z: Float, E: Float> Kernel for Clipped<'_, Z, E> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { row, bound, z, out, d } = self;
        let (middle, half) = (0.5 * (row.low + row.high), 0.5 * (row.high - row.low));
        for (at, len) in chunks(d) {
            let mut moved = [[0.0_f64; CHUNK]; 1];
            add_product(&mut moved, &row.on_z, z, d, at, len);
            add_product(&mut moved, &row.on_output, out, d, at, len);
            for x in &mut moved[0][..len] {
                // Comparisons, not min and max: a NaN must stay one, so that the next row reports it.
                let clipped = if bound == 1.0 {
                    if *x < row.low {
                        row.low
                    } else if *x > row.high {
                        row.high
                    } else {
                        *x
                    }
                } else {
                    let y = (*x - middle) / half;
                    middle + half * (if y.abs() > bound { bound.copysign(y) } else { y }) / bound
                };
                *x = clipped - *x;
            }
            for (block, out) in out.chunks_mut(d).enumerate() {
                add_scaled_own(&mut out[at..][..len], row.b[(block, 0)], &moved[0][..len]);
            }
        }
    }
}

/// x += c moved, in double precision where anything is moved: what is not stays as it is, to the bit.
#[inline(always)]
fn add_scaled_own<E: Float>(x: &mut [E], c: f64, moved: &[f64]) {
    for (x, m) in x.iter_mut().zip(moved) {
        if *m != 0.0 {
            *x = E::from_f64(x.to_f64() + c * m);
        }
    }
}

/// How a guide amends a network's output.
#[derive(Clone, Copy)]
pub(super) enum Amendment<'a> {
    /// (1 + w) output - w guide, brought back by `rescale` to the output's own spread.
    Cfg { rescale: f64 },
    /// output + w B guide.
    Gradient(&'a Mat),
}

/// An amendment of one sample's output by its guide, with scale w.
pub(super) struct Amend<'a, E, G> {
    pub how: Amendment<'a>,
    pub scale: f64,
    pub guide: &'a [G],
    pub out: &'a mut [E],
    pub d: usize,
}

impl<E: Float, G: Float> Kernel for Amend<'_, E, G> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { how, scale, guide, out, d } = self;
        match how {
            Amendment::Cfg { rescale } => {
                let before = if rescale > 0.0 { variance(out) } else { 0.0 };
                let (own, other) = (E::from_f64(1.0 + scale), E::from_f64(-scale));
                for (o, g) in out.iter_mut().zip(guide) {
                    *o = own * *o + other * E::from_f64(g.to_f64());
                }
                if rescale > 0.0 {
                    let after = variance(out);
                    // An output without spread has none to be brought back to.
                    if after > 0.0 {
                        let factor = E::from_f64(1.0 - rescale + rescale * (before / after).sqrt());
                        out.iter_mut().for_each(|o| *o = factor * *o);
                    }
                }
            }
            Amendment::Gradient(b) => {
                for row in 0..b.rows() {
                    for column in 0..b.cols() {
                        let coefficient = scale * b[(row, column)];
                        if coefficient != 0.0 {
                            add_scaled(&mut out[row * d..][..d], coefficient, &guide[column * d..][..d]);
                        }
                    }
                }
            }
        }
    }
}

/// The variance over the elements, summed in their order.
#[inline(always)]
fn variance<E: Float>(values: &[E]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().map(|x| x.to_f64()).sum::<f64>() / n;
    values.iter().map(|x| (x.to_f64() - mean) * (x.to_f64() - mean)).sum::<f64>() / n
}

/// on_z z + on_output output on one sample.
pub(super) struct X0<'a, Z, E, T> {
    pub on_z: &'a Mat,
    pub on_output: &'a Mat,
    pub z: &'a [Z],
    pub output: &'a [E],
    pub into: &'a mut [T],
}

impl<Z: Float, E: Float, T: Float> Kernel for X0<'_, Z, E, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let d = self.into.len();
        for (at, len) in chunks(d) {
            let mut sums = [[T::default(); CHUNK]; 1];
            add_product(&mut sums, self.on_z, self.z, d, at, len);
            add_product(&mut sums, self.on_output, self.output, d, at, len);
            self.into[at..][..len].copy_from_slice(&sums[0][..len]);
        }
    }
}

/// A 1 x k projection of the state of one sample.
pub(super) struct Project<'a, T> {
    pub project: &'a Mat,
    pub z: &'a [T],
    pub into: &'a mut [T],
}

impl<T: Float> Kernel for Project<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let d = self.into.len();
        for (at, len) in chunks(d) {
            let mut sums = [[T::default(); CHUNK]; 1];
            add_product(&mut sums, self.project, self.z, d, at, len);
            self.into[at..][..len].copy_from_slice(&sums[0][..len]);
        }
    }
}

/// Sum of squares of (A z + sum B slot) / (atol + rtol max(|scale 0|, |scale 1|)) on one sample.
pub(super) struct Norm<'a, T, E> {
    pub row: &'a Update,
    pub from: &'a [T],
    pub scale: [&'a [T]; 2],
    pub slots: &'a [Buffer],
    pub index: usize,
    pub d: usize,
    pub atol: f64,
    pub rtol: f64,
    pub outputs: PhantomData<E>,
}

impl<T: Float, E: Float> Kernel for Norm<'_, T, E> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let Self { row, from, scale, slots, index, d, atol, rtol, .. } = self;
        let k = row.a.rows();
        let mut total = 0.0;
        for (at, len) in chunks(d) {
            // In f64 whatever the state: an error estimate is a difference of nearly equal numbers.
            let mut sums = [[0.0_f64; CHUNK]; MAX_K];
            add_product(&mut sums[..k], &row.a, from, d, at, len);
            for (slot, b) in &row.terms {
                add_product(&mut sums[..k], b, slot_of::<E>(slots, *slot, b, index, d), d, at, len);
            }
            for (b, sum) in sums.iter().enumerate().take(k) {
                let range = b * d + at..b * d + at + len;
                for ((s, x), y) in sum.iter().zip(&scale[0][range.clone()]).zip(&scale[1][range]) {
                    let size = x.to_f64().abs().max(y.to_f64().abs());
                    let ratio = s / (atol + rtol * size);
                    total += ratio * ratio;
                }
            }
        }
        total
    }
}
