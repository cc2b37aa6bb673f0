//! Running a network: what fits its ports is bound as it is, the rest goes through buffers of their types.

use super::api::{Tensor, Tensors, Termination};
use super::buffers::{self, Floats, Times};
use super::ports::{self, Float, Port};
use super::session::Model;
use crate::array::{Values, ValuesMut};
use crate::network::{Evaluator, Inputs, Interrupt};
use crate::{Error, Result, Status};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The per-run part of an [`OnnxNetwork`](super::OnnxNetwork). It keeps the model alive.
pub(super) struct OnnxEvaluator {
    model: Arc<Model>,
    call: Arc<Call>,
    state: Tensors,
    time: Tensors,
    label: Tensors,
    output: Tensors,
    state_buffer: Floats,
    time_buffer: Times,
    label_buffer: Vec<i64>,
    output_buffer: Floats,
    /// Whether the shape that the graph really makes was seen to be the right one. ONNX Runtime compares it with
    /// a bound output on the CPU, but elsewhere only the number of elements.
    shape_seen: bool,
}

/// What another thread needs to end this evaluator's calls.
struct Call {
    model: Arc<Model>,
    termination: Termination,
    interrupted: AtomicBool,
}

impl Interrupt for Call {
    fn interrupt(&self) {
        self.interrupted.store(true, Ordering::SeqCst);
        self.termination.set();
        self.model.turns.wake();
    }

    fn clear(&self) {
        self.interrupted.store(false, Ordering::SeqCst);
        self.termination.clear();
    }
}

impl OnnxEvaluator {
    pub fn new(model: Arc<Model>) -> Result<Self> {
        let ports = &model.ports;
        let tensors =
            |sample: &[usize]| Tensors::new(model.runtime.env(), sample).map_err(|e| model.failed(e));
        let termination = Termination::new(model.runtime.env()).map_err(|e| model.failed(e))?;
        Ok(Self {
            call: Arc::new(Call {
                model: Arc::clone(&model),
                termination,
                interrupted: AtomicBool::new(false),
            }),
            state: tensors(&ports.state.sample)?,
            time: tensors(&[])?,
            label: tensors(&[])?,
            output: tensors(&ports.output.sample)?,
            state_buffer: Floats::new(ports.state.element),
            time_buffer: Times::new(ports.time.element),
            label_buffer: Vec::new(),
            output_buffer: Floats::new(ports.output.element),
            shape_seen: false,
            model,
        })
    }
}

impl Evaluator for OnnxEvaluator {
    fn evaluate(&mut self, inputs: Inputs<'_>, out: ValuesMut<'_>) -> Result<()> {
        let model = Arc::clone(&self.model);
        let ports = &model.ports;
        let n = inputs.t.len();
        let ValuesMut::F32(out) = out else {
            return Err(mismatch("output", "float32 values", "float64 values"));
        };
        check_len("state", inputs.z.len(), n, &ports.state)?;
        check_len("output", out.len(), n, &ports.output)?;
        check_labels(inputs.labels, n, &model)?;

        // A graph that is fixed to a batch size is run in pieces of that size, the last one filled up.
        let size = ports.batch.unwrap_or(n);
        let mut start = 0;
        while start < n {
            let piece = start..n.min(start.saturating_add(size));
            self.evaluate_piece(
                &model,
                &inputs,
                piece.clone(),
                size,
                &mut out[values(&piece, &ports.output)],
            )
            .map_err(|e| e.context(&model.name))?;
            start = piece.end;
        }
        Ok(())
    }

    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        Some(Arc::clone(&self.call) as _)
    }
}

impl OnnxEvaluator {
    /// Evaluates the samples of `piece` in a batch of `size`.
    fn evaluate_piece(
        &mut self,
        model: &Model,
        inputs: &Inputs<'_>,
        piece: Range<usize>,
        size: usize,
        out: &mut [f32],
    ) -> Result<()> {
        let ports = &model.ports;
        let failed = |e| model.failed(e);
        let whole = piece.len() == size;

        let state = match inputs.z.slice(values(&piece, &ports.state)) {
            Values::F32(z) if whole && ports.state.element == Float::F32 => self.state.input(z, size),
            z => {
                let len = size * ports.state.len();
                self.state_buffer.fill(z, len, ports.state.len()).map_err(failed)?;
                self.state_buffer.input(&mut self.state, size)
            }
        }
        .map_err(failed)?;

        self.time_buffer.fill(&inputs.t[piece.clone()], &model.clock, size).map_err(failed)?;
        let time = self.time_buffer.input(&mut self.time, size).map_err(failed)?;

        let label = match &ports.label {
            None => None,
            Some(port) => {
                self.label_buffer.clear();
                if let Some(labels) = inputs.labels {
                    self.label_buffer.extend_from_slice(&labels[piece]);
                }
                self.label_buffer.resize(size, model.spec.network.classes.into());
                Some((&*port.name, self.label.input(&self.label_buffer, size).map_err(failed)?))
            }
        };

        let direct = whole && ports.output.element == Float::F32;
        let bound = match (self.shape_seen, direct) {
            (false, _) => None,
            (true, true) => Some(self.output.output(out, size).map_err(failed)?),
            (true, false) => {
                let len = size * ports.output.len();
                Some(self.output_buffer.output(&mut self.output, size, len).map_err(failed)?)
            }
        };

        let (z, t, eps) = (&*ports.state.name, &*ports.time.name, &*ports.output.name);
        let made = {
            let _turn = model
                .turns
                .take(&self.call.interrupted)
                .ok_or_else(|| Error::new(Status::Cancelled, "interrupted while waiting for the network"))?;
            let (session, end) = (&model.session, Some(&self.call.termination));
            // SAFETY: there are as many turns as the provider allows calls: more than one on the CPU only.
            unsafe {
                match label {
                    None => session.run_beside_others(end, [z, t], [state, time], eps, bound),
                    Some((y, label)) => {
                        session.run_beside_others(end, [z, t, y], [state, time, label], eps, bound)
                    }
                }
            }
            .map_err(failed)?
        };
        match made {
            Some(tensor) => {
                check_shape(model, &tensor, size)?;
                buffers::read(&tensor, ports.output.element, out).map_err(failed)?;
                self.shape_seen = true;
            }
            None if !direct => self.output_buffer.read(out),
            None => {}
        }
        Ok(())
    }
}

fn check_shape(model: &Model, tensor: &Tensor, size: usize) -> Result<()> {
    let port = &model.ports.output;
    let (_, dims) = tensor.describe().map_err(|e| model.failed(e))?;
    let sample: Vec<i64> = port.sample.iter().map(|&size| size as i64).collect();
    match dims.split_first() {
        Some((&batch, rest)) if usize::try_from(batch) == Ok(size) && rest == sample => Ok(()),
        _ => Err(Error::new(
            Status::ModelMismatch,
            format!(
                "output `{}`: expected {}, the network made {dims:?}",
                port.name.to_string_lossy(),
                ports::shape(i64::try_from(size).ok(), &sample),
            ),
        )),
    }
}

/// The values of a range of samples.
fn values<T>(samples: &Range<usize>, port: &Port<T>) -> Range<usize> {
    samples.start * port.len()..samples.end * port.len()
}

fn mismatch(what: &str, expected: impl std::fmt::Display, got: impl std::fmt::Display) -> Error {
    Error::new(Status::ShapeMismatch, format!("{what}: expected {expected}, got {got}"))
}

fn check_len<T>(what: &str, got: usize, n: usize, port: &Port<T>) -> Result<()> {
    if n.checked_mul(port.len()) == Some(got) {
        return Ok(());
    }
    Err(mismatch(what, format_args!("{n} samples of {} values", port.len()), format_args!("{got} values")))
}

fn check_labels(labels: Option<&[i64]>, n: usize, model: &Model) -> Result<()> {
    let Some(labels) = labels else { return Ok(()) };
    if model.ports.label.is_none() {
        return Err(Error::argument(format!("{} takes no labels", model.name)));
    }
    if labels.len() != n {
        return Err(mismatch("labels", n, labels.len()));
    }
    let classes = i64::from(model.spec.network.classes);
    match labels.iter().find(|label| !(0..=classes).contains(*label)) {
        None => Ok(()),
        Some(label) => Err(Error::argument(format!(
            "label {label}: {} has classes 0 to {}, and {classes} for none",
            model.name,
            classes - 1
        ))),
    }
}
