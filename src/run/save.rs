//! A run to bytes and back. Resumed, it goes on as if it had never stopped: bit for bit with the analytic network, and
//! through ONNX Runtime for the same batch and threads.

use super::call::Own;
use super::checkpoint::{Reader, Writer, invalid};
use super::gather::{self, History};
use super::guide::Guide;
use super::{Calls, Cursor, Progress, Run, adaptive, precision_of};
use crate::array::{Buffer, Precision};
use crate::exec::{Batch, Known, Measured};
use crate::guidance::check_guide;
use crate::solver::rk45::{self, Rk45};
use crate::solver::{Rows, Sampler};
use crate::spec::{Guidance, GuidanceKind};
use crate::{Error, Model, Result, Status};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const KIND: &str = "run";

/// All of a run but its arrays.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    plan: String,
    model: String,
    n: usize,
    precision: Precision,
    /// Samples of one network call.
    size: usize,
    first_sample: usize,
    seeds: Vec<u64>,
    labels: Option<Vec<i64>>,
    scales: Vec<f64>,
    /// Hash and labels of a guidance network.
    guide: Option<String>,
    guide_labels: Option<Vec<i64>>,
    /// State and time of the model's last call.
    seen: (usize, f64),
    rows: SavedCursor,
    progress: Progress,
    network_seconds: f64,
    anytime: bool,
    tag: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    history: Option<History>,
}

/// Where in its rows a run is.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum SavedCursor {
    /// Index of the next row.
    Planned(usize),
    Adaptive(rk45::Saved),
}

impl Run {
    /// The run as bytes, for [`Self::load`]: between any two steps, and after an interruption.
    ///
    /// # Errors
    /// [`Status::RunState`] after a failure; [`Status::ReadFailed`] where the model's file, whose hash is part of it,
    /// is gone or has changed; [`Status::OutOfMemory`].
    pub fn save(&self) -> Result<Vec<u8>> {
        // Each field by name, so that one that is added is not forgotten here.
        let Self {
            network: _,
            sampler,
            batch,
            calls,
            own,
            executor: _,
            rows,
            progress,
            deadline: _,
            anytime,
            cancel: _,
            first_sample,
            poisoned,
            hashes: _,
            history,
        } = self;
        let Batch {
            n,
            k: _,
            d: _,
            states,
            slots,
            seeds,
            draws,
            consumed: _,
            known,
            measured,
            scales,
            partial: _,
        } = batch;
        // Indices follow from the history.
        let Calls { decoder: _, labels, indices: _, tag, guide, seen, projected: _, x0, seconds } = calls;
        let Some(Own { size, .. }) = own else {
            return Err(Error::new(Status::Unsupported, "a run in an engine has no checkpoint"));
        };
        if *poisoned {
            return Err(Error::new(Status::RunState, "the run has failed before and cannot be saved"));
        }
        let (plan, model) = self.hashes()?.clone();
        let saved = Saved {
            plan,
            model,
            n: *n,
            precision: self.precision(),
            size: *size,
            first_sample: *first_sample,
            seeds: seeds.clone(),
            labels: labels.clone(),
            scales: scales.clone(),
            guide: guide.as_ref().map(Guide::hash).transpose()?.flatten(),
            guide_labels: match guide {
                Some(Guide::Other { labels, .. }) => labels.clone(),
                _ => None,
            },
            seen: *seen,
            rows: match rows {
                Cursor::Planned { plan: _, next } => SavedCursor::Planned(*next),
                Cursor::Adaptive { solver, asked: _ } => SavedCursor::Adaptive(solver.save()),
            },
            progress: *progress,
            network_seconds: seconds.as_secs_f64(),
            anytime: *anytime,
            tag: *tag,
            history: history.clone(),
        };
        let mut writer = Writer::new();
        for (i, state) in states.iter().enumerate() {
            writer.buffer(format!("state {i}"), state)?;
        }
        for (i, slot) in slots.iter().enumerate() {
            writer.buffer(format!("slot {i}"), slot)?;
        }
        if let Some(draws) = draws {
            writer.buffer("draws", draws)?;
        }
        if let Some(Measured { linear: _, values, mask }) = measured {
            writer.floats("measurement", crate::array::Values::F32(values))?;
            writer.floats("measurement mask", crate::array::Values::F32(mask))?;
        }
        if let Some(Known { image, mask }) = known {
            writer.floats("image", crate::array::Values::F32(image))?;
            writer.floats("mask", crate::array::Values::F32(mask))?;
        }
        if let Some(x0) = x0 {
            writer.buffer("x0", x0)?;
        }
        debug_assert_eq!((sampler.buffers().0, sampler.buffers().1.len()), (states.len(), slots.len()));
        writer.finish(KIND, &saved)
    }

    /// The run that [`Self::save`] made `bytes` of, with neither deadline nor token; [`Self::resume_with`] gives it
    /// others.
    ///
    /// # Errors
    /// [`Status::CheckpointInvalid`] where the bytes are torn or edited, or of another model or sampler than these.
    pub fn load(model: &Model, sampler: &Arc<Sampler>, bytes: &[u8]) -> Result<Self> {
        Self::load_guided(model, sampler, None, bytes)
    }

    /// [`Self::load`] of a run that had a guidance network of its own.
    ///
    /// # Errors
    /// Those of [`Self::load`]; [`Status::CheckpointInvalid`] also for another guidance network than the run's.
    pub fn load_guided(
        model: &Model,
        sampler: &Arc<Sampler>,
        guide: Option<&Model>,
        bytes: &[u8],
    ) -> Result<Self> {
        let (reader, saved) = Reader::new::<Saved>(KIND, bytes)?;
        let network = model.network();
        let spec = network.spec();
        if !spec.is_of(&sampler.model) {
            return Err(Error::argument("the sampler was compiled for another model")
                .hint("compile it with the spec of the model that runs it"));
        }
        let hashes = (sampler.hash(), network.hash()?);
        for (what, saved, own) in [("model", &saved.model, &hashes.1), ("sampler", &saved.plan, &hashes.0)] {
            if saved != own {
                return Err(invalid(format!("of another {what}: its hash is {saved}, expected {own}"))
                    .hint("resume with the model and the sampler options that the run was started with"));
            }
        }
        let Saved { n, precision, size, seeds, labels, scales, guide_labels, seen, progress, .. } = saved;
        let own = guide.map(Model::hash).transpose()?;
        if saved.guide != own {
            let named = |hash: &Option<String>| hash.clone().unwrap_or_else(|| "none".into());
            return Err(invalid(format!(
                "of another guidance network: its hash is {}, expected {}",
                named(&saved.guide),
                named(&own)
            ))
            .hint("load it with the guidance network that it was started with (psld_run_load_guided)"));
        }
        let damaged = |what: &str| invalid(format!("its {what} cannot be"));
        let (k, d) = (sampler.process.k(), spec.data_len());
        let (states, slots) = sampler.buffers();
        // The state is in the file: numbers that fit it need no other bound.
        let len = n.checked_mul(k * d).filter(|_| n > 0).ok_or_else(|| damaged("number of samples"))?;
        let array = |name: String| reader.buffer_of(&name, precision, len);
        let slot = |(i, of): (usize, &usize)| {
            let precision = precision_of(*of, model, guide, precision);
            reader.buffer_of(&format!("slot {i}"), precision, n * sampler.blocks_of(*of) * d)
        };
        if seeds.len() != n || !(1..=n).contains(&size) {
            return Err(damaged("seeds or batch"));
        }
        for (labels, spec) in [(&labels, Some(spec)), (&guide_labels, guide.map(Model::spec))] {
            let Some(labels) = labels else { continue };
            let possible = spec.is_some_and(|spec| {
                let classes = i64::from(spec.network.classes);
                spec.network.label_input.is_some()
                    && labels.len() == n
                    && labels.iter().all(|label| (0..=classes).contains(label))
            });
            if !possible {
                return Err(damaged("labels"));
            }
        }
        let guidance = sampler.conditioning.guidance;
        let scaled = if guidance.is_some() { n } else { 0 };
        if scales.len() != scaled || scales.iter().any(|w| !w.is_finite()) || seen.0 >= states {
            return Err(damaged("scales"));
        }
        let guided_by = match (guidance, guide) {
            (None, None) => None,
            (None, Some(_)) => return Err(damaged("guidance")),
            (Some(guidance), Some(guide)) => {
                check_guide(guidance.kind, spec, guide.spec())?;
                Some(Guide::other(guide, guide_labels))
            }
            (Some(Guidance { kind: GuidanceKind::Classifier, .. }), None) => {
                return Err(damaged("guidance"));
            }
            (Some(_), None) => Some(Guide::Model),
        };
        let decoder = sampler.decoder.clone();
        let (rows, consumed, draws, done) = match (&sampler.rows, saved.rows) {
            (Rows::Planned(plan), SavedCursor::Planned(next)) if next <= plan.rows.len() => {
                let consumed = plan.rows[..next].iter().map(|row| row.draws().count()).sum();
                (
                    Cursor::Planned { plan: plan.clone(), next },
                    consumed,
                    plan.draws(),
                    next == plan.rows.len(),
                )
            }
            (Rows::Adaptive(options), SavedCursor::Adaptive(saved)) => {
                let solver =
                    Rk45::load(*options, decoder.clone(), n, saved).ok_or_else(|| damaged("position"))?;
                let done = solver.done;
                (adaptive(solver), 0, 0, done)
            }
            _ => return Err(damaged("position")),
        };
        if done != progress.done {
            return Err(damaged("progress"));
        }
        let known = match sampler.conditioning.inpaint {
            None => None,
            Some(_) => {
                let shared = |name: &str| {
                    let all = reader.buffer_of(name, Precision::F32, n * d);
                    all.or_else(|_| reader.buffer_of(name, Precision::F32, d)).map(|values| values.into_f32())
                };
                Some(Known { image: shared("image")?, mask: shared("mask")? })
            }
        };
        let measured = match &sampler.measured {
            None => None,
            Some(linear) => {
                let shared = |name: &str, len: usize| {
                    let all = reader.buffer_of(name, Precision::F32, n * len);
                    all.or_else(|_| reader.buffer_of(name, Precision::F32, len))
                        .map(|values| values.into_f32())
                };
                Some(Measured {
                    values: shared("measurement", linear.measurements())?,
                    mask: if linear.is_mask() { shared("measurement mask", d)? } else { Vec::new() },
                    linear: linear.clone(),
                })
            }
        };
        let seconds = Duration::try_from_secs_f64(saved.network_seconds).map_err(|_| damaged("times"))?;
        let batch = Batch {
            n,
            k,
            d,
            states: (0..states).map(|i| array(format!("state {i}"))).collect::<Result<_>>()?,
            slots: slots.iter().enumerate().map(slot).collect::<Result<_>>()?,
            seeds,
            draws: match reader.has("draws") {
                true => Some(reader.buffer("draws", draws.saturating_mul(len))?),
                false => None,
            },
            consumed,
            known,
            measured,
            scales,
            partial: vec![0.0; n],
        };
        let mut run = Self {
            own: None,
            calls: Calls {
                decoder,
                labels,
                indices: gather::indices(saved.first_sample, n, saved.history.as_ref())
                    .ok_or_else(|| damaged("history"))?,
                tag: saved.tag,
                guide: guided_by,
                seen,
                // Made anew for each call.
                projected: if sampler.projects() { Some(Buffer::zeros(precision, n * d)?) } else { None },
                x0: match reader.has("x0") {
                    true => Some(reader.buffer_of("x0", precision, n * d)?),
                    false => None,
                },
                seconds,
            },
            network: network.clone(),
            sampler: sampler.clone(),
            batch,
            executor: model.executor().clone(),
            rows,
            progress,
            deadline: None,
            anytime: saved.anytime,
            cancel: None,
            first_sample: saved.first_sample,
            poisoned: false,
            hashes: OnceLock::from(hashes),
            history: saved.history,
        };
        run.own = Some(run.open(guide, size)?);
        run.resume_with(None, None);
        Ok(run)
    }
}
