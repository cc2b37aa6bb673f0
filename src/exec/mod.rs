//! The CPU executor: one fused pass a row over the state, parallel over samples.
//!
//! The hot loop knows no solver: it applies k x k coefficients to states, network outputs and noise, generates the
//! noise block by block as it goes, and checks that what it writes is finite.

mod kernel;

use crate::array::{Buffer, Float};
use crate::isa::Isa;
use crate::noise::Purpose;
use crate::plan::{MapKind, Threshold, Update};
use crate::process::Mat;
use crate::restoration::Linear;
use crate::{Error, Result, Status};
use kernel::{Amend, Amendment, Clip, Clipped, Noise, Norm, Prior, Project, Replace, Sample, X0};
use rayon::prelude::*;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Threads and instructions to execute rows with. Shared by any number of runs.
#[derive(Clone)]
pub(crate) struct Executor {
    /// `None`: on the caller's thread.
    pool: Option<Arc<rayon::ThreadPool>>,
    isa: Isa,
}

/// Elements of work (a normal counts for eight) below which a row stays on the caller's thread: half a millisecond. ONNX
/// Runtime's threads stay awake for about as long after a call, and where they are as many as the CPUs a shorter row
/// waits longer for a CPU than it takes. Making them sleep costs each call more than the rows gain.
const PARALLEL_WORK: usize = 1 << 21;
const NOISE_WORK: usize = 8;
const RESTORE_WORK: usize = 64;
const THRESHOLD_WORK: usize = 4;

/// The samples of one run: what rows read and write. Arrays are [n, blocks, d], row-major.
pub(crate) struct Batch {
    pub n: usize,
    /// Blocks of a state.
    pub k: usize,
    /// Elements of a block: those of one data sample.
    pub d: usize,
    pub states: Vec<Buffer>,
    pub slots: Vec<Buffer>,
    /// Seed of each sample.
    pub seeds: Vec<u64>,
    /// The caller's draws, [draws, n, k*d] in the order the plan consumes them, instead of Philox's.
    pub draws: Option<Buffer>,
    /// How many of those have been consumed.
    pub consumed: usize,
    pub known: Option<Known>,
    pub measured: Option<Measured>,
    /// Guidance scale of each sample; empty without guidance.
    pub scales: Vec<f64>,
    /// One number a sample, for norms.
    pub partial: Vec<f64>,
}

impl Batch {
    /// Whether guidance changes anything: without a scale other than zero the guide is not called.
    pub fn guides(&self) -> bool {
        self.scales.iter().any(|w| *w != 0.0)
    }

    /// Copies the elements `range` of a slot to another one.
    pub fn copy_slot(&mut self, from: usize, to: usize, range: Range<usize>) {
        let Ok([from, to]) = self.slots.get_disjoint_mut([from, to]) else { return };
        match (from, to) {
            (Buffer::F32(from), Buffer::F32(to)) => to[range.clone()].copy_from_slice(&from[range]),
            (Buffer::F64(from), Buffer::F64(to)) => to[range.clone()].copy_from_slice(&from[range]),
            _ => unreachable!("a run's buffers of one kind have one precision"),
        }
    }
}

/// The known region of an inpainting run.
pub(crate) struct Known {
    /// [n or 1, d], in the data range.
    pub image: Vec<f32>,
    /// [n or 1, d]: 1 is known.
    pub mask: Vec<f32>,
}

/// What was measured, of a run that restores.
pub(crate) struct Measured {
    pub linear: Arc<Linear>,
    /// [n or 1, ...]: y.
    pub values: Vec<f32>,
    /// [n or 1, d]: 1 is measured; empty where the operator has no mask.
    pub mask: Vec<f32>,
}

impl Measured {
    /// Replaces the estimate of sample `i` by what its measurement moves it by.
    fn correction(&self, variance: f64, i: usize, estimate: &mut [f64]) {
        let (len, d) = (self.linear.measurements(), estimate.len());
        let values = if self.values.len() == len { &self.values } else { &self.values[i * len..][..len] };
        let mask = if self.mask.len() <= d { &self.mask } else { &self.mask[i * d..][..d] };
        self.linear.correction(variance, values, mask, estimate);
    }
}

impl Executor {
    /// `threads` in all, the caller's included; 1 makes none.
    pub fn new(threads: usize) -> Result<Self> {
        let pool = match threads {
            0 | 1 => None,
            n => {
                let pool =
                    rayon::ThreadPoolBuilder::new().num_threads(n).thread_name(|i| format!("psld-{i}"));
                Some(Arc::new(pool.build().map_err(|e| {
                    Error::new(Status::OutOfMemory, format!("{n} threads cannot be started")).source(e)
                })?))
            }
        };
        Ok(Self { pool, isa: Isa::detect() })
    }

    /// State 0 = factor times the prior's draw.
    pub fn prior(&self, batch: &mut Batch, factor: &Mat) {
        match &batch.states[0] {
            Buffer::F32(_) => self.prior_in::<f32>(batch, factor),
            Buffer::F64(_) => self.prior_in::<f64>(batch, factor),
        }
    }

    fn prior_in<T: Float>(&self, batch: &mut Batch, factor: &Mat) {
        let Batch { states, seeds, d, k, .. } = batch;
        let len = *k * *d;
        self.samples(T::of_mut(&mut states[0]), len, NOISE_WORK, |i, into| {
            self.isa.run(Prior { factor, seed: seeds[i], d: *d, into, isa: self.isa });
        });
    }

    /// Executes an update row; the error is the first sample that became non-finite.
    pub fn update(&self, batch: &mut Batch, row: &Update) -> Result<(), usize> {
        let result = self.update_by(batch, row, |_| Some(row));
        batch.consumed += row.noise.len();
        result
    }

    /// Executes an update whose coefficients differ between samples; without a row a sample is left alone. The rows
    /// draw no noise, and read and write the same states.
    pub fn update_each(&self, batch: &mut Batch, rows: &[Option<Update>]) -> Result<(), usize> {
        match rows.iter().flatten().next() {
            Some(row) => self.update_by(batch, row, |i| rows[i].as_ref()),
            None => Ok(()),
        }
    }

    /// `one` stands for what is common to the rows of all samples.
    fn update_by<'a>(
        &self,
        batch: &mut Batch,
        one: &Update,
        row: impl Fn(usize) -> Option<&'a Update> + Sync + Send,
    ) -> Result<(), usize> {
        match (&batch.states[0], batch.slots.first()) {
            (Buffer::F32(_), _) => self.update_in::<f32, f32>(batch, one, row),
            (Buffer::F64(_), Some(Buffer::F32(_))) => self.update_in::<f64, f32>(batch, one, row),
            (Buffer::F64(_), _) => self.update_in::<f64, f64>(batch, one, row),
        }
    }

    fn update_in<'a, T: Float, E: Float>(
        &self,
        batch: &mut Batch,
        one: &Update,
        row: impl Fn(usize) -> Option<&'a Update> + Sync + Send,
    ) -> Result<(), usize> {
        let len = batch.k * batch.d;
        // Taken out while the other states are read; a row may write the state that it reads.
        let mut into = std::mem::take(&mut batch.states[one.into]);
        let from = (one.from != one.into).then(|| T::of(&batch.states[one.from]));
        let first_bad = AtomicUsize::new(usize::MAX);
        let work = 1 + one.states.len() + one.terms.len() + NOISE_WORK * one.noise.len();
        let view = &*batch;
        self.samples(T::of_mut(&mut into), len, work, |i, into| {
            let Some(row) = row(i) else { return };
            let sample = Sample::<T, E> {
                row,
                from: from.map(|z| &z[i * len..][..len]),
                into,
                states: &view.states,
                slots: &view.slots,
                index: i,
                d: view.d,
                noise: Noise::of(view, i, self.isa),
                outputs: PhantomData,
            };
            if !sample.run() {
                first_bad.fetch_min(i, Ordering::Relaxed);
            }
        });
        batch.states[one.into] = into;
        match first_bad.into_inner() {
            usize::MAX => Ok(()),
            sample => Err(sample),
        }
    }

    /// Executes a map row.
    pub fn map(&self, batch: &mut Batch, kind: &MapKind, into: usize) {
        match kind {
            MapKind::Replace { mean, noise, .. } => {
                match &batch.states[into] {
                    Buffer::F32(_) => self.replace_in::<f32>(batch, mean, noise, into),
                    Buffer::F64(_) => self.replace_in::<f64>(batch, mean, noise, into),
                }
                batch.consumed += usize::from(noise.is_some());
            }
            MapKind::Clip { low, high } => match &batch.states[into] {
                Buffer::F32(_) => self.clip_in::<f32>(batch, [*low, *high], into),
                Buffer::F64(_) => self.clip_in::<f64>(batch, [*low, *high], into),
            },
            MapKind::Threshold(row) => {
                self.threshold_each(batch, into, std::slice::from_ref(&Some(row.clone())))
            }
            MapKind::Cfg { slot, rescale } => {
                self.amend(batch, into, *slot, Amendment::Cfg { rescale: *rescale });
            }
            MapKind::Gradient { slot, b } => self.amend(batch, into, *slot, Amendment::Gradient(b)),
            MapKind::Restore { from, on_z, on_output, b, variance } => {
                let mut slot = std::mem::take(&mut batch.slots[into]);
                let estimate = (on_z, on_output, *variance);
                match (&batch.states[*from], &mut slot) {
                    (Buffer::F32(z), Buffer::F32(out)) => self.restore_in(batch, z, out, estimate, b),
                    (Buffer::F32(z), Buffer::F64(out)) => self.restore_in(batch, z, out, estimate, b),
                    (Buffer::F64(z), Buffer::F32(out)) => self.restore_in(batch, z, out, estimate, b),
                    (Buffer::F64(z), Buffer::F64(out)) => self.restore_in(batch, z, out, estimate, b),
                }
                batch.slots[into] = slot;
            }
            MapKind::Consistent => {
                let mut state = std::mem::take(&mut batch.states[into]);
                match &mut state {
                    Buffer::F32(z) => self.consistent_in(batch, z),
                    Buffer::F64(z) => self.consistent_in(batch, z),
                }
                batch.states[into] = state;
            }
        }
    }

    /// Clips the first block of a state.
    fn clip_in<T: Float>(&self, batch: &mut Batch, [low, high]: [f64; 2], into: usize) {
        let Batch { states, k, d, .. } = batch;
        self.samples(T::of_mut(&mut states[into]), *k * *d, 1, |_, into| {
            self.isa.run(Clip { low, high, values: &mut into[..*d] });
        });
    }

    /// Clips what the outputs in slot `into` say of the data, with a row for each sample, or one for all; a sample without
    /// is left alone.
    pub fn threshold_each(&self, batch: &mut Batch, into: usize, rows: &[Option<Threshold>]) {
        let Some(from) = rows.iter().flatten().map(|row| row.from).next() else { return };
        let mut slot = std::mem::take(&mut batch.slots[into]);
        match (&batch.states[from], &mut slot) {
            (Buffer::F32(z), Buffer::F32(out)) => self.threshold_in(batch, z, out, rows),
            (Buffer::F32(z), Buffer::F64(out)) => self.threshold_in(batch, z, out, rows),
            (Buffer::F64(z), Buffer::F32(out)) => self.threshold_in(batch, z, out, rows),
            (Buffer::F64(z), Buffer::F64(out)) => self.threshold_in(batch, z, out, rows),
        }
        batch.slots[into] = slot;
    }

    fn threshold_in<T: Float, E: Float>(
        &self,
        batch: &Batch,
        z: &[T],
        out: &mut [E],
        rows: &[Option<Threshold>],
    ) {
        let (d, z_len, out_len) = (batch.d, batch.k * batch.d, out.len() / batch.n);
        self.samples(out, out_len, THRESHOLD_WORK, |i, out| {
            let Some(row) = rows.get(i).or(rows.first()).and_then(Option::as_ref) else { return };
            let z = &z[i * z_len..][..z_len];
            let bound = row.percentile.map_or(1.0, |percentile| {
                let mut estimate = vec![0.0; d];
                self.isa.run(X0 {
                    on_z: &row.on_z,
                    on_output: &row.on_output,
                    z,
                    output: out,
                    into: &mut estimate,
                });
                let (middle, half) = (0.5 * (row.low + row.high), 0.5 * (row.high - row.low));
                estimate.iter_mut().for_each(|x| *x = ((*x - middle) / half).abs());
                percentile_of(&mut estimate, percentile).clamp(1.0, row.max.unwrap_or(f64::INFINITY))
            });
            self.isa.run(Clipped { row, bound, z, out, d });
        });
    }

    /// Amends network outputs by those of the guide, sample by sample.
    fn amend(&self, batch: &mut Batch, into: usize, by: usize, how: Amendment<'_>) {
        let mut slot = std::mem::take(&mut batch.slots[into]);
        match (&mut slot, &batch.slots[by]) {
            (Buffer::F32(out), Buffer::F32(guide)) => self.amend_in(batch, out, guide, how),
            (Buffer::F32(out), Buffer::F64(guide)) => self.amend_in(batch, out, guide, how),
            (Buffer::F64(out), Buffer::F32(guide)) => self.amend_in(batch, out, guide, how),
            (Buffer::F64(out), Buffer::F64(guide)) => self.amend_in(batch, out, guide, how),
        }
        batch.slots[into] = slot;
    }

    fn amend_in<E: Float, G: Float>(&self, batch: &Batch, out: &mut [E], guide: &[G], how: Amendment<'_>) {
        let (len, guide_len) = (out.len() / batch.n, guide.len() / batch.n);
        self.samples(out, len, 2, |i, out| {
            let (scale, guide) = (batch.scales[i], &guide[i * guide_len..][..guide_len]);
            // Not only for speed: without guidance a sample stays as it is, to the bit.
            if scale != 0.0 {
                self.isa.run(Amend { how, scale, guide, out, d: batch.d });
            }
        });
    }

    /// Moves what outputs say of the data to what was measured. In double precision, and slow beside an update, but a small
    /// part of a network call.
    fn restore_in<T: Float, E: Float>(
        &self,
        batch: &Batch,
        z: &[T],
        out: &mut [E],
        (on_z, on_output, variance): (&Mat, &Mat, f64),
        b: &Mat,
    ) {
        let Some(measured) = &batch.measured else { return };
        let d = batch.d;
        let (z_len, out_len) = (on_z.cols() * d, on_output.cols() * d);
        self.samples(out, out_len, RESTORE_WORK, |i, out| {
            let mut moved = vec![0.0; d];
            let z = &z[i * z_len..][..z_len];
            self.isa.run(X0 { on_z, on_output, z, output: out, into: &mut moved });
            measured.correction(variance, i, &mut moved);
            for (block, out) in out.chunks_mut(d).enumerate() {
                let coefficient = b[(block, 0)];
                out.iter_mut().zip(&moved).for_each(|(o, x)| *o = E::from_f64(o.to_f64() + coefficient * x));
            }
        });
    }

    /// Moves the first block of a state to the nearest image that gives the measurement.
    fn consistent_in<T: Float>(&self, batch: &Batch, states: &mut [T]) {
        let Some(measured) = &batch.measured else { return };
        let d = batch.d;
        self.samples(states, batch.k * d, RESTORE_WORK, |i, state| {
            let position = &mut state[..d];
            let mut moved: Vec<f64> = position.iter().map(|x| x.to_f64()).collect();
            measured.correction(1.0, i, &mut moved);
            position.iter_mut().zip(&moved).for_each(|(z, x)| *z = T::from_f64(z.to_f64() + x));
        });
    }

    fn replace_in<T: Float>(
        &self,
        batch: &mut Batch,
        mean: &Mat,
        noise: &Option<(Purpose, u32, Mat)>,
        into: usize,
    ) {
        let mut state = std::mem::take(&mut batch.states[into]);
        let view = &*batch;
        let d = view.d;
        if let Some(known) = &view.known {
            let shared = |values: &'_ [f32]| values.len() == d;
            self.samples(T::of_mut(&mut state), view.k * d, 1 + NOISE_WORK, |i, into| {
                self.isa.run(Replace {
                    mean,
                    draw: noise.as_ref(),
                    image: if shared(&known.image) { &known.image } else { &known.image[i * d..][..d] },
                    mask: if shared(&known.mask) { &known.mask } else { &known.mask[i * d..][..d] },
                    noise: Noise::of(view, i, self.isa),
                    d,
                    into,
                });
            });
        }
        batch.states[into] = state;
    }

    /// Writes what a network sees of a state, `project` (1 x k) times it, into `out`, [n, d].
    pub fn project(&self, batch: &Batch, state: usize, project: &Mat, out: &mut Buffer) {
        self.project_each(batch, state, &[Some(*project)], out);
    }

    /// The same with a projection for each sample, or one for all; without one a sample is left alone.
    pub fn project_each(&self, batch: &Batch, state: usize, projects: &[Option<Mat>], out: &mut Buffer) {
        match &batch.states[state] {
            Buffer::F32(_) => self.project_in::<f32>(batch, state, projects, out),
            Buffer::F64(_) => self.project_in::<f64>(batch, state, projects, out),
        }
    }

    fn project_in<T: Float>(&self, batch: &Batch, state: usize, projects: &[Option<Mat>], out: &mut Buffer) {
        let (d, len, z) = (batch.d, batch.k * batch.d, T::of(&batch.states[state]));
        self.samples(T::of_mut(out), d, 2, |i, into| {
            let Some(project) = projects.get(i).or(projects.first()).and_then(Option::as_ref) else { return };
            self.isa.run(Project { project, z: &z[i * len..][..len], into });
        });
    }

    /// Writes the data estimate on_z z + on_output output into `out`, [n, d].
    pub fn x0(
        &self,
        batch: &Batch,
        state: usize,
        slot: usize,
        on_z: &Mat,
        on_output: &Mat,
        out: &mut Buffer,
    ) {
        self.x0_each(batch, state, slot, &[Some((*on_z, *on_output))], out);
    }

    /// The same with coefficients for each sample, or one pair for all; a sample without keeps its estimate.
    pub fn x0_each(
        &self,
        batch: &Batch,
        state: usize,
        slot: usize,
        maps: &[Option<(Mat, Mat)>],
        out: &mut Buffer,
    ) {
        match (&batch.states[state], &batch.slots[slot]) {
            (Buffer::F32(_), _) => self.x0_in::<f32, f32>(batch, state, slot, maps, out),
            (Buffer::F64(_), Buffer::F32(_)) => self.x0_in::<f64, f32>(batch, state, slot, maps, out),
            (Buffer::F64(_), Buffer::F64(_)) => self.x0_in::<f64, f64>(batch, state, slot, maps, out),
        }
    }

    fn x0_in<T: Float, E: Float>(
        &self,
        batch: &Batch,
        state: usize,
        slot: usize,
        maps: &[Option<(Mat, Mat)>],
        out: &mut Buffer,
    ) {
        let (d, z, output) = (batch.d, T::of(&batch.states[state]), E::of(&batch.slots[slot]));
        self.samples(T::of_mut(out), d, 2, |i, into| {
            let Some((on_z, on_output)) = maps.get(i).or(maps.first()).and_then(Option::as_ref) else {
                return;
            };
            let (z_len, output_len) = (on_z.cols() * d, on_output.cols() * d);
            self.isa.run(X0 {
                on_z,
                on_output,
                z: &z[i * z_len..][..z_len],
                output: &output[i * output_len..][..output_len],
                into,
            });
        });
    }

    /// Root mean square over all samples and elements of `row` (its `into` is not written) over
    /// atol + rtol max(|scale_a|, |scale_b|), where the scales are states.
    ///
    /// Summed a sample at a time and then in the order of the samples, so threads and batches do not change it.
    pub fn scaled_rms(
        &self,
        batch: &mut Batch,
        row: &Update,
        scale: [usize; 2],
        atol: f64,
        rtol: f64,
    ) -> f64 {
        self.partial_norms(batch, row, |_| Some(row), scale, atol, rtol);
        let sum: f64 = batch.partial.iter().sum();
        (sum / (batch.n * batch.k * batch.d) as f64).sqrt()
    }

    /// The same over each sample by itself, with a row for each; 0 without one.
    pub fn scaled_rms_each(
        &self,
        batch: &mut Batch,
        rows: &[Option<Update>],
        scale: [usize; 2],
        atol: f64,
        rtol: f64,
    ) -> Vec<f64> {
        if let Some(one) = rows.iter().flatten().next() {
            self.partial_norms(batch, one, |i| rows[i].as_ref(), scale, atol, rtol);
        }
        let elements = (batch.k * batch.d) as f64;
        let norm =
            |(sum, row): (&f64, &Option<Update>)| if row.is_some() { (sum / elements).sqrt() } else { 0.0 };
        batch.partial.iter().zip(rows).map(norm).collect()
    }

    /// Sums of squares of each sample, into `batch.partial`; `one` stands for what is common to all rows.
    fn partial_norms<'a>(
        &self,
        batch: &mut Batch,
        one: &Update,
        row: impl Fn(usize) -> Option<&'a Update> + Sync + Send,
        scale: [usize; 2],
        atol: f64,
        rtol: f64,
    ) {
        let mut partial = std::mem::take(&mut batch.partial);
        let tolerances = (atol, rtol);
        match (&batch.states[0], batch.slots.first()) {
            (Buffer::F32(_), _) => self.norms::<f32, f32>(batch, one, row, scale, tolerances, &mut partial),
            (Buffer::F64(_), Some(Buffer::F32(_))) => {
                self.norms::<f64, f32>(batch, one, row, scale, tolerances, &mut partial);
            }
            (Buffer::F64(_), _) => self.norms::<f64, f64>(batch, one, row, scale, tolerances, &mut partial),
        }
        batch.partial = partial;
    }

    fn norms<'a, T: Float, E: Float>(
        &self,
        batch: &Batch,
        one: &Update,
        row: impl Fn(usize) -> Option<&'a Update> + Sync + Send,
        scale: [usize; 2],
        (atol, rtol): (f64, f64),
        partial: &mut [f64],
    ) {
        let len = batch.k * batch.d;
        let state = |s: usize, i: usize| &T::of(&batch.states[s])[i * len..][..len];
        self.samples(partial, 1, len * (2 + one.terms.len()), |i, sum| {
            let Some(row) = row(i) else {
                sum[0] = 0.0;
                return;
            };
            sum[0] = self.isa.run(Norm::<T, E> {
                row,
                from: state(row.from, i),
                scale: scale.map(|s| state(s, i)),
                slots: &batch.slots,
                index: i,
                d: batch.d,
                atol,
                rtol,
                outputs: PhantomData,
            });
        });
    }

    /// Calls `work` for each sample's `len` elements of `values`, in parallel where `work_per_element` pays for it.
    fn samples<T: Send>(
        &self,
        values: &mut [T],
        len: usize,
        work_per_element: usize,
        work: impl Fn(usize, &mut [T]) + Sync + Send,
    ) {
        match &self.pool {
            Some(pool) if values.len() > len && values.len() * work_per_element >= PARALLEL_WORK => {
                pool.install(|| values.par_chunks_mut(len).enumerate().for_each(|(i, chunk)| work(i, chunk)));
            }
            _ => values.chunks_mut(len).enumerate().for_each(|(i, chunk)| work(i, chunk)),
        }
    }
}

/// The percentile of `values`, interpolated between neighbours; NaN where a value is.
fn percentile_of(values: &mut [f64], percentile: f64) -> f64 {
    if values.iter().any(|x| x.is_nan()) {
        return f64::NAN;
    }
    let place = percentile * (values.len() - 1) as f64;
    let below = place as usize;
    let (_, low, rest) = values.select_nth_unstable_by(below, f64::total_cmp);
    let low = *low;
    let next = rest.iter().copied().fold(f64::INFINITY, f64::min);
    let share = place - below as f64;
    if share > 0.0 { low + share * (next - low) } else { low }
}
