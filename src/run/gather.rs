//! Reordering the samples of a run in flight: what sequential Monte Carlo needs, with a reward that is the caller's own.

use super::call::Own;
use super::guide::Guide;
use super::{Calls, Cursor, Run};
use crate::array::{Buffer, Spare, gather};
use crate::exec::{Batch, Known, Measured};
use crate::plan::Row;
use crate::{Error, Result, Status};
use serde::{Deserialize, Serialize};

/// How the samples of a run came to be where they are.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    /// Seed of the first sample, and number of samples, at the start.
    pub first: u64,
    pub count: usize,
    pub gathered: Vec<Gathered>,
}

/// One call of [`Run::gather`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gathered {
    /// Steps done before it.
    step: usize,
    indices: Vec<usize>,
    /// Seed of each sample from then on.
    seeds: Vec<u64>,
}

/// The numbers by which networks know the `n` samples of a run (see [`Rows`](crate::network::Rows)), of which the first was
/// `first` at the start; `None` for a history that cannot be.
pub(super) fn indices(first: usize, n: usize, history: Option<&History>) -> Option<Vec<i64>> {
    let count = history.map_or(n, |history| history.count);
    let number = |sample: usize| {
        let mut gathered = history.into_iter().flat_map(|history| &history.gathered).rev();
        let original = gathered.try_fold(sample, |i, gathered| gathered.indices.get(i).copied());
        i64::try_from(first.checked_add(original.filter(|i| *i < count)?)?).ok()
    };
    (0..n).map(number).collect()
}

impl Run {
    /// Makes sample i what sample `indices[i]` was, between two steps: its state and all that goes with it (what a multistep
    /// sampler remembers, class, scale, image and mask, data estimate, steps of its own). An index that comes several
    /// times makes copies, one that does not come drops its sample.
    ///
    /// With that a caller does sequential Monte Carlo: it weighs the samples by a reward of its own, on
    /// [`What::X0`](super::What::X0), say, and draws indices by the weights. After the last step it works, too.
    ///
    /// `new_seeds` has the seed of each sample from here on; `None` lets seeds follow their samples. Draws go on counting,
    /// so a copy with its original's seed stays a copy of it to the bit, and with a seed that no other sample has (or had,
    /// since sample i of a run begins with seed + i) takes a way of its own where the sampler is stochastic.
    ///
    /// There can be fewer indices than samples, but not more; the run has as many samples then. Whatever the order, a sample
    /// gets the same numbers as without: bit for bit, where that holds for other batches (not with `rk45`'s error norm over
    /// the whole run, whose sum follows the order of the samples).
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] naming the index, or the number of them or of the seeds;
    /// [`Status::Unsupported`] for a run whose noise the caller gave; [`Status::RunState`] after a failure, or where the
    /// run was interrupted within a step; [`Status::OutOfMemory`]. The run is then as it was.
    pub fn gather(&mut self, indices: &[usize], new_seeds: Option<&[u64]>) -> Result<()> {
        self.check_gather(indices, new_seeds)?;
        // Each field by name, so that one that is added is not forgotten here.
        let Self {
            network: _,
            sampler: _,
            batch,
            calls,
            own,
            executor: _,
            rows,
            progress,
            deadline: _,
            anytime: _,
            cancel: _,
            first_sample: _,
            poisoned: _,
            hashes: _,
            history,
        } = self;
        let Batch {
            n,
            k: _,
            d,
            states,
            slots,
            seeds,
            draws: _,
            consumed: _,
            known,
            measured,
            scales,
            partial,
        } = batch;
        let Calls {
            decoder: _,
            labels,
            indices: own_indices,
            tag: _,
            guide,
            seen: _,
            projected,
            x0,
            seconds: _,
        } = calls;
        let before = *n;
        let buffers: Vec<&mut Buffer> = states.iter_mut().chain(slots).chain(projected).chain(x0).collect();
        // An image or mask of one sample's length is one for all.
        let known = known.iter_mut().flat_map(|Known { image, mask }| [(image, *d), (mask, *d)]);
        let measured = measured
            .iter_mut()
            .flat_map(|Measured { linear, values, mask }| [(values, linear.measurements()), (mask, *d)]);
        let mut images: Vec<(&mut Vec<f32>, usize)> = known.chain(measured).collect();
        images.retain(|(values, len)| values.len() == before * len);
        let mut spare = Spare::default();
        buffers.iter().try_for_each(|buffer| spare.reserve(buffer.precision(), buffer.len()))?;
        images
            .iter()
            .try_for_each(|(values, _)| spare.reserve(crate::array::Precision::F32, values.len()))?;

        // From here on nothing fails.
        for buffer in buffers {
            buffer.gather(buffer.len() / before, indices, &mut spare);
        }
        for (values, len) in images {
            spare.gather_f32(values, len, indices);
        }
        let of_guide = match guide {
            Some(Guide::Other { labels, .. }) => labels.as_mut(),
            _ => None,
        };
        for labels in labels.iter_mut().chain(of_guide) {
            gather(labels, 1, indices, &mut Vec::new());
        }
        gather(own_indices, 1, indices, &mut Vec::new());
        if !scales.is_empty() {
            gather(scales, 1, indices, &mut Vec::new());
        }
        if let Cursor::Adaptive { solver, asked: _ } = rows {
            solver.gather(indices);
        }
        let history = history.get_or_insert_with(|| History {
            first: seeds.first().copied().unwrap_or_default(),
            count: before,
            gathered: Vec::new(),
        });
        match new_seeds {
            Some(new) => *seeds = new.to_vec(),
            None => gather(seeds, 1, indices, &mut Vec::new()),
        }
        history.gathered.push(Gathered {
            step: progress.step,
            indices: indices.to_vec(),
            seeds: seeds.clone(),
        });
        *n = indices.len();
        partial.truncate(*n);
        if let Some(Own { evaluator: _, guide: _, size, times, tags, twice: _, process: _ }) = own {
            *size = (*size).min(*n);
            times.truncate(*size);
            tags.truncate(*size);
        }
        Ok(())
    }

    fn check_gather(&self, indices: &[usize], new_seeds: Option<&[u64]>) -> Result<()> {
        let (n, len) = (self.batch.n, indices.len());
        if !(1..=n).contains(&len) {
            let error = Error::argument(format!("gather: expected 1 to {n} indices, got {len}"));
            return Err(match len > n {
                true => error.hint("a run cannot grow: start it with as many samples as it may ever have"),
                false => error,
            });
        }
        if let Some((i, index)) = indices.iter().enumerate().find(|(_, index)| **index >= n) {
            return Err(Error::argument(format!(
                "gather: index {index} at place {i}: expected 0 to {}",
                n - 1
            )));
        }
        if let Some(seeds) = new_seeds.filter(|seeds| seeds.len() != len) {
            return Err(Error::argument(format!(
                "gather: expected {len} seeds, one for each index, got {}",
                seeds.len()
            )));
        }
        if self.batch.draws.is_some() {
            return Err(Error::new(
                Status::Unsupported,
                "gather: the run's noise is the caller's own, with a place for each sample",
            )
            .hint("leave `noise` out: noise by seeds follows the samples"));
        }
        if self.poisoned {
            return Err(Error::new(Status::RunState, "gather: the run has failed before"));
        }
        if let Cursor::Planned { plan, next } = &self.rows {
            let step = |row: usize| plan.rows.get(row).map(Row::step);
            if *next > 0 && step(*next - 1) == step(*next) {
                return Err(Error::new(
                    Status::RunState,
                    format!("gather: the run was interrupted within step {}", self.progress.step + 1),
                )
                .hint("finish the step first"));
            }
        }
        Ok(())
    }
}
