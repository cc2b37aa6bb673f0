//! The guide of a run: the model itself without a class, or a network of its own.

use crate::exec::Buffer;
use crate::network::{Evaluator, Inputs, Interrupt, Network, Precision};
use crate::{Model, Result};
use std::ops::Range;
use std::sync::Arc;

/// What network 1 of a plan is.
pub(super) enum Guide {
    /// The model with the null class.
    Model(Twice),
    /// A network of its own, with the class of each sample where it takes one.
    Other { network: Arc<dyn Network>, evaluator: Box<dyn Evaluator>, labels: Option<Vec<i64>> },
}

impl Guide {
    pub fn other(model: &Model, labels: Option<Vec<i64>>) -> Result<Self> {
        let labelled = model.spec().network.label_input.is_some();
        let network = model.network().clone();
        Ok(Self::Other { evaluator: network.evaluator()?, network, labels: labels.filter(|_| labelled) })
    }
}

impl Guide {
    /// What ends a call of a network of its own.
    pub fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        match self {
            Self::Model(_) => None,
            Self::Other { evaluator, .. } => evaluator.interrupt(),
        }
    }

    /// SHA-256 of a network of its own.
    pub fn hash(&self) -> Result<Option<String>> {
        match self {
            Self::Model(_) => Ok(None),
            Self::Other { network, .. } => network.hash().map(Some),
        }
    }
}

/// Sizes of a network call.
#[derive(Clone, Copy)]
pub(super) struct Lengths {
    /// Samples, at most.
    pub size: usize,
    /// Elements of a sample's input.
    pub input: usize,
    /// Elements of a sample's output.
    pub output: usize,
}

/// A batch that holds each sample twice: with its class, and without.
pub(super) struct Twice {
    lengths: Lengths,
    z: Buffer,
    out: Buffer,
    times: Vec<f64>,
    labels: Vec<i64>,
    null: i64,
}

impl Twice {
    /// `precisions` are those of inputs and outputs.
    pub fn new(lengths: Lengths, precisions: (Precision, Precision), null: i64) -> Result<Self> {
        let Lengths { size, input, output } = lengths;
        Ok(Self {
            lengths,
            z: Buffer::zeros(precisions.0, 2 * size * input)?,
            out: Buffer::zeros(precisions.1, 2 * size * output)?,
            times: vec![0.0; 2 * size],
            labels: vec![null; 2 * size],
            null,
        })
    }

    /// Evaluates `samples` of `state` at time `t`, with their `labels` and with the null class.
    pub fn evaluate(
        &mut self,
        evaluator: &mut dyn Evaluator,
        samples: &Range<usize>,
        state: &Buffer,
        t: f64,
        labels: Option<&[i64]>,
    ) -> Result<()> {
        let (n, input) = (samples.len(), self.lengths.input);
        let from = samples.start * input..samples.end * input;
        self.z.copy_from(0, state, from.clone());
        self.z.copy_from(n * input, state, from);
        self.times[..2 * n].fill(t);
        self.labels[..2 * n].fill(self.null);
        if let Some(labels) = labels {
            self.labels[..n].copy_from_slice(&labels[samples.clone()]);
        }
        let inputs = Inputs {
            z: self.z.values(0..2 * n * input),
            t: &self.times[..2 * n],
            labels: Some(&self.labels[..2 * n]),
        };
        evaluator.evaluate(inputs, self.out.values_mut(0..2 * n * self.lengths.output))
    }

    /// Copies the outputs of those samples to their places in the slots of the model and of its guide.
    pub fn read(&self, samples: &Range<usize>, slots: &mut [Buffer], own: usize, guide: usize) {
        let (n, output) = (samples.len(), self.lengths.output);
        slots[own].copy_from(samples.start * output, &self.out, 0..n * output);
        slots[guide].copy_from(samples.start * output, &self.out, n * output..2 * n * output);
    }
}
