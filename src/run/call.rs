//! Network calls of a run: what it waits for, what the networks are shown of it, and where their outputs go. A run on its
//! own makes its calls itself; in an engine they are gathered with those of other runs.

use super::guide::Guide;
use super::{Run, Workpiece, place};
use crate::array::{Buffer, Precision};
use crate::network::{Evaluator, Inputs, Interrupt, Network, Rows};
use crate::plan::{Eval, GUIDE};
use crate::solver::{clip, rk45};
use crate::{Error, Result, Status};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A network call that a run waits for. In lanes: one for each sample, or two where the model is its own guide, the first
/// half with the samples' classes and the second without.
#[derive(Clone, Debug)]
pub(crate) struct Evaluation {
    whose: Whose,
    /// The state that is evaluated.
    from: usize,
    /// Forward time of the call; the latest where the samples have times of their own.
    t: f64,
    times: Times,
    /// Whether networks see a projection of the state instead of it.
    projected: bool,
    /// Where the outputs go.
    slot: usize,
}

/// Whose outputs are wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Whose {
    Model,
    Guide,
    /// The model's with classes and without, the latter into this slot.
    Both(usize),
}

/// The networks' times.
#[derive(Clone, Debug)]
enum Times {
    One(f64),
    /// Of each sample; one that has none is left alone.
    Each(Vec<Option<Time>>),
}

#[derive(Clone, Copy, Debug)]
struct Time {
    /// Forward time on the path that is sampled.
    t: f64,
    /// On the path that the network was trained on.
    own: f64,
}

impl Evaluation {
    fn own_time(&self, sample: usize) -> Option<f64> {
        match &self.times {
            Times::One(t) => Some(*t),
            Times::Each(times) => times[sample].map(|time| time.own),
        }
    }

    /// Rows of a plan that it stands for.
    pub(super) fn rows(&self) -> usize {
        if let Whose::Both(_) = self.whose { 2 } else { 1 }
    }
}

/// How a run on its own makes its calls.
pub(super) struct Own {
    pub evaluator: Box<dyn Evaluator>,
    /// Of a guidance network of its own.
    pub guide: Option<Box<dyn Evaluator>>,
    /// Samples of one call.
    pub size: usize,
    pub times: Vec<f64>,
    /// The run's tag, for each sample.
    pub tags: Vec<u64>,
    /// For calls with classes and without at once.
    pub twice: Option<Sheet>,
    /// That started the run: the threads that calls and rows use are its own.
    pub process: u32,
}

impl Own {
    /// What ends the calls.
    pub fn interrupts(&self) -> impl Iterator<Item = Arc<dyn Interrupt>> {
        self.evaluator.interrupt().into_iter().chain(self.guide.as_ref().and_then(|guide| guide.interrupt()))
    }
}

/// The size of what a network is shown of a sample, and of what it gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lengths {
    pub input: usize,
    pub output: usize,
}

/// Lanes gathered for one network call.
pub(crate) struct Sheet {
    pub lengths: Lengths,
    z: Buffer,
    times: Vec<f64>,
    labels: Vec<i64>,
    indices: Vec<i64>,
    tags: Vec<u64>,
    /// The null class, of a network that takes classes.
    null: Option<i64>,
    capacity: usize,
    out: Buffer,
}

impl Sheet {
    /// For `capacity` lanes of `network` at most, with inputs of precision `state`.
    pub fn new(network: &dyn Network, lengths: Lengths, state: Precision, capacity: usize) -> Result<Self> {
        let too_large = || Error::new(Status::OutOfMemory, format!("{capacity} samples cannot be gathered"));
        let room = |len: usize| capacity.checked_mul(len).ok_or_else(too_large);
        let spec = &network.spec().network;
        Ok(Self {
            lengths,
            z: Buffer::zeros(state, room(lengths.input)?)?,
            times: Vec::with_capacity(capacity),
            labels: Vec::with_capacity(capacity),
            indices: Vec::with_capacity(capacity),
            tags: Vec::with_capacity(capacity),
            null: spec.label_input.as_ref().map(|_| spec.classes.into()),
            capacity,
            out: Buffer::zeros(network.output_precision(state), room(lengths.output)?)?,
        })
    }

    pub fn clear(&mut self) {
        self.times.clear();
        self.labels.clear();
        self.indices.clear();
        self.tags.clear();
    }

    pub fn len(&self) -> usize {
        self.times.len()
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Adds a lane: what is shown lies in `from` at element `at`.
    fn push(&mut self, from: &Buffer, at: usize, t: f64, label: Option<i64>, (index, tag): (i64, u64)) {
        let input = self.lengths.input;
        self.z.copy_from(self.len() * input, from, at..at + input);
        self.times.push(t);
        self.labels.extend(self.null.map(|null| label.unwrap_or(null)));
        self.indices.push(index);
        self.tags.push(tag);
    }

    /// Calls the network on what was gathered.
    pub fn evaluate(&mut self, evaluator: &mut dyn Evaluator) -> Result<()> {
        let n = self.len();
        let inputs = Inputs {
            z: self.z.values(0..n * self.lengths.input),
            t: &self.times,
            labels: self.null.map(|_| &*self.labels),
            rows: Some(Rows { indices: &self.indices, tags: &self.tags }),
        };
        evaluator.evaluate(inputs, self.out.values_mut(0..n * self.lengths.output))
    }
}

impl Run {
    /// The call of a row, and of the following one where both are of one network on the same states and times.
    pub(super) fn evaluation(&mut self, row: &Eval, guide: Option<&Eval>) -> Evaluation {
        self.progress.t = row.t;
        if let (Some(input), Some(projected)) = (&row.input, &mut self.calls.projected) {
            self.executor.project(&self.batch, row.from, &input.project, projected);
        }
        let whose = match guide {
            Some(guide) => Whose::Both(guide.slot),
            None if row.network == GUIDE => Whose::Guide,
            None => Whose::Model,
        };
        let t = row.input.as_ref().map_or(row.t, |input| input.t);
        let projected = row.input.is_some();
        Evaluation { whose, from: row.from, t: row.t, times: Times::One(t), projected, slot: row.slot }
    }

    /// The call of an adaptive solver whose systems have times of their own.
    pub(super) fn evaluation_of_each(&mut self, call: &rk45::Call) -> Evaluation {
        let latest = call.times.iter().flatten().copied().fold(f64::NAN, f64::max);
        self.progress.t = latest;
        let (decoder, process) = (&self.calls.decoder, &self.sampler.process);
        let inputs: Vec<_> = call.times.iter().map(|t| t.and_then(|t| decoder.input(process, t))).collect();
        if let Some(projected) = &mut self.calls.projected {
            let projects: Vec<_> = inputs.iter().map(|input| input.as_ref().map(|i| i.project)).collect();
            self.executor.project_each(&self.batch, call.state, &projects, projected);
        }
        let time = |(t, input): (&Option<f64>, &Option<crate::plan::Input>)| {
            t.map(|t| Time { t, own: input.as_ref().map_or(t, |input| input.t) })
        };
        Evaluation {
            whose: Whose::Model,
            from: call.state,
            t: latest,
            times: Times::Each(call.times.iter().zip(&inputs).map(time).collect()),
            projected: self.calls.projected.is_some(),
            slot: call.slot,
        }
    }

    /// Makes the call on the run's own, in batches of its size.
    pub(super) fn call(&mut self, evaluation: &Evaluation) -> Result<()> {
        // Taken out while the rest of the run is shown and written.
        let Some(mut own) = self.own.take() else {
            return Err(Error::new(Status::Internal, "a run in an engine makes no calls by itself"));
        };
        let began = Instant::now();
        let made = self.call_by(&mut own, evaluation);
        self.own = Some(own);
        self.calls.seconds += began.elapsed();
        made.or_else(|e| {
            // Of a call that was ended on request; where it failed by itself, it will again.
            self.interrupted()?;
            Err(e.context(place(&self.progress)))
        })
    }

    fn call_by(&mut self, own: &mut Own, evaluation: &Evaluation) -> Result<()> {
        let n = self.batch.n;
        let spare = (0..n).find_map(|i| evaluation.own_time(i)).unwrap_or(evaluation.t);
        let Lengths { input, output } = self.lengths_of(evaluation);
        let mut first = 0;
        while first < n {
            let samples = first..(first + own.size).min(n);
            first = samples.end;
            if let Whose::Both(_) = evaluation.whose {
                self.call_both(own, evaluation, samples)?;
                continue;
            }
            if samples.clone().all(|i| evaluation.own_time(i).is_none()) {
                continue;
            }
            // Who is left alone keeps its place, so that shapes and addresses stay; it is given a time that the network
            // knows.
            let times = &mut own.times[..samples.len()];
            times.iter_mut().zip(samples.clone()).for_each(|(to, i)| {
                *to = evaluation.own_time(i).unwrap_or(spare);
            });
            let (evaluator, labels) = match (evaluation.whose, &self.calls.guide) {
                (Whose::Guide, Some(Guide::Other { labels, .. })) => {
                    (own.guide.as_mut().unwrap_or(&mut own.evaluator), labels.as_deref())
                }
                (Whose::Guide, _) => (&mut own.evaluator, None),
                _ => (&mut own.evaluator, self.calls.labels.as_deref()),
            };
            let of = |len: usize| samples.start * len..samples.end * len;
            let shown = match &self.calls.projected {
                Some(projected) if evaluation.projected => projected,
                _ => &self.batch.states[evaluation.from],
            };
            let labels = labels.map(|labels| &labels[samples.clone()]);
            let indices = &self.calls.indices[samples.clone()];
            let rows = Some(Rows { indices, tags: &own.tags[..samples.len()] });
            let inputs = Inputs { z: shown.values(of(input)), t: times, labels, rows };
            evaluator.evaluate(inputs, self.batch.slots[evaluation.slot].values_mut(of(output)))?;
        }
        Ok(())
    }

    /// Calls the model with the samples' classes and without, at once, in a batch of twice the samples.
    fn call_both(&mut self, own: &mut Own, evaluation: &Evaluation, samples: Range<usize>) -> Result<()> {
        let Some(sheet) = &mut own.twice else {
            return Err(Error::new(Status::Internal, "a guide of its own is called on its own"));
        };
        let n = self.batch.n;
        let lanes = || samples.clone().chain(samples.start + n..samples.end + n);
        sheet.clear();
        lanes().for_each(|lane| {
            self.show(evaluation, lane, sheet);
        });
        sheet.evaluate(&mut *own.evaluator)?;
        lanes().enumerate().for_each(|(at, lane)| {
            self.take(evaluation, lane, sheet, at);
        });
        Ok(())
    }

    /// What is shown to a network, and what it gives, for one lane.
    pub(crate) fn lengths_of(&self, evaluation: &Evaluation) -> Lengths {
        let d = self.batch.d;
        let network = if evaluation.whose == Whose::Guide { GUIDE } else { 0 };
        Lengths {
            input: if evaluation.projected { d } else { self.batch.k * d },
            output: self.sampler.blocks_of(network) * d,
        }
    }

    /// The network that is called.
    pub(crate) fn network_of(&self, evaluation: &Evaluation) -> &Arc<dyn Network> {
        match (evaluation.whose, &self.calls.guide) {
            (Whose::Guide, Some(Guide::Other { network, .. })) => network,
            _ => &self.network,
        }
    }

    /// Lanes of a call, those that are left alone included.
    pub(crate) fn lanes(&self, evaluation: &Evaluation) -> usize {
        self.batch.n * evaluation.rows()
    }

    /// Lanes from `first` on that are not left alone.
    pub(crate) fn lanes_left(&self, evaluation: &Evaluation, first: usize) -> usize {
        let lanes = first..self.lanes(evaluation);
        match &evaluation.times {
            Times::One(_) => lanes.len(),
            Times::Each(times) => lanes.filter(|lane| times[lane % self.batch.n].is_some()).count(),
        }
    }

    /// Puts what a lane shows on a sheet; `false` where it is left alone.
    pub(crate) fn show(&self, evaluation: &Evaluation, lane: usize, sheet: &mut Sheet) -> bool {
        let (n, sample) = (self.batch.n, lane % self.batch.n);
        let Some(t) = evaluation.own_time(sample) else { return false };
        let from = match &self.calls.projected {
            Some(projected) if evaluation.projected => projected,
            _ => &self.batch.states[evaluation.from],
        };
        let labels = match (evaluation.whose, &self.calls.guide) {
            (Whose::Guide, Some(Guide::Other { labels, .. })) => labels.as_ref(),
            (Whose::Guide, _) => None,
            (Whose::Both(_), _) if lane >= n => None,
            _ => self.calls.labels.as_ref(),
        };
        let row = (self.calls.indices[sample], self.calls.tag);
        sheet.push(from, sample * sheet.lengths.input, t, labels.map(|labels| labels[sample]), row);
        true
    }

    /// Takes the output of a lane from the sheet, where it is the one numbered `at`; `false` where it is left alone.
    pub(crate) fn take(&mut self, evaluation: &Evaluation, lane: usize, sheet: &Sheet, at: usize) -> bool {
        let (n, output) = (self.batch.n, sheet.lengths.output);
        if evaluation.own_time(lane % n).is_none() {
            return false;
        }
        let slot = match evaluation.whose {
            Whose::Both(slot) if lane >= n => slot,
            _ => evaluation.slot,
        };
        self.batch.slots[slot].copy_from(lane % n * output, &sheet.out, at * output..(at + 1) * output);
        true
    }

    /// Counts time in a network call; of one that was shared, its share.
    pub(crate) fn spent(&mut self, time: Duration) {
        self.calls.seconds += time;
    }

    /// Goes on from a call whose outputs are all there.
    pub(crate) fn evaluated(&mut self, evaluation: &Evaluation) -> Result<()> {
        self.note(evaluation)?;
        self.pass(evaluation.rows());
        Ok(())
    }

    /// Makes the call of a row that is none of the run's own.
    pub(super) fn eval(&mut self, row: &Eval) -> Result<()> {
        let evaluation = self.evaluation(row, None);
        self.call(&evaluation)?;
        self.note(&evaluation)
    }

    /// Counts a call, and makes its data estimate.
    fn note(&mut self, evaluation: &Evaluation) -> Result<()> {
        self.progress.nfe += evaluation.rows();
        if evaluation.whose == Whose::Guide {
            return Ok(());
        }
        self.calls.seen = (evaluation.from, evaluation.t);
        match &evaluation.times {
            Times::One(_) => self.preview(evaluation.slot),
            Times::Each(times) => {
                self.clip_each(evaluation, times)?;
                self.preview_each(evaluation, times)
            }
        }
    }

    /// Makes the data estimate of the model's last call, whose output is in `slot`, where it is wanted.
    pub(super) fn preview(&mut self, slot: usize) -> Result<()> {
        let (from, t) = self.calls.seen;
        if let Some(x0) = &mut self.calls.x0 {
            let (on_z, on_output) = self.calls.decoder.x0(&self.sampler.process, t)?;
            self.executor.x0(&self.batch, from, slot, &on_z, &on_output, x0);
        }
        Ok(())
    }

    /// Clips the data estimates of a call at times of the samples' own; of others a row of the plan does.
    fn clip_each(&mut self, evaluation: &Evaluation, times: &[Option<Time>]) -> Result<()> {
        let Some(how) = self.sampler.options().clipping() else { return Ok(()) };
        let (decoder, process, range) =
            (&self.calls.decoder, &self.sampler.process, self.sampler.model.data.range);
        let row = |time: &Option<Time>| {
            time.map(|time| clip::threshold(how, range, decoder, process, evaluation.from, time.t))
                .transpose()
        };
        let rows = times.iter().map(row).collect::<Result<Vec<_>>>()?;
        self.executor.threshold_each(&mut self.batch, evaluation.slot, &rows);
        Ok(())
    }

    fn preview_each(&mut self, evaluation: &Evaluation, times: &[Option<Time>]) -> Result<()> {
        if let Some(x0) = &mut self.calls.x0 {
            let (decoder, process) = (&self.calls.decoder, &self.sampler.process);
            let map = |time: &Option<Time>| time.map(|time| decoder.x0(process, time.t)).transpose();
            let maps = times.iter().map(map).collect::<Result<Vec<_>>>()?;
            self.executor.x0_each(&self.batch, evaluation.from, evaluation.slot, &maps, x0);
        }
        Ok(())
    }

    /// "step 3 of 100 (t = 0.94)": where it is, for errors.
    pub(crate) fn place(&self) -> String {
        place(&self.progress)
    }

    pub(super) fn workpiece(&mut self) -> Workpiece<'_> {
        Workpiece {
            executor: &self.executor,
            batch: &mut self.batch,
            sampler: &self.sampler,
            progress: &self.progress,
            first_sample: self.first_sample,
        }
    }
}
