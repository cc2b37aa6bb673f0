//! How well a network does on data that it was not trained on.

use psld::Result;
use tch::{Device, Kind, Tensor};

use super::checkpoint::Checkpoint;
use super::loss::{Batch, Objective};
use crate::data::{Dataset, Values};
use crate::net::Mode;

/// The times at which one band ends and the next begins; the first and the last end are the recipe's.
const EDGES: [f64; 4] = [0.05, 0.15, 0.4, 0.7];
/// Samples of one evaluation of the network.
const BATCH: usize = 100;

/// Means over the samples of a data set, each at a time of its own within a band.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// Where its times begin and end.
    pub times: [f64; 2],
    /// The loss that training minimises.
    pub loss: f64,
    /// The share of samples whose class scores highest; of classifiers.
    pub accuracy: Option<f64>,
}

/// Evaluates a checkpoint's running average (its last weights if `raw`) on `data`, with the labels given and noise from
/// a seed of its own. The last of the bands is all times, as training draws them.
///
/// # Errors
/// [`psld::Status::InvalidConfig`] where the objective does not fit the process.
pub fn evaluate(checkpoint: &Checkpoint, data: &Dataset, raw: bool, device: Device) -> Result<Vec<Band>> {
    let Checkpoint { recipe, spec, network, weights, .. } = checkpoint;
    let classifier = recipe.is_classifier()?;
    let objective = Objective::new(spec, recipe.train.weighting, classifier)?;
    let parameters = if raw { weights.parameters(network) } else { weights.averaged(network) }?;
    let mut shape: Vec<i64> = data.shape.iter().map(|size| *size as i64).collect();
    shape.insert(0, data.len() as i64);
    let values = match &data.values {
        Values::U8(values) => Tensor::from_slice(values),
        Values::F32(values) => Tensor::from_slice(values),
    };
    let values = values.view(&shape[..]).to_device(device);
    let labels = data.labels.as_ref().filter(|_| recipe.data.labels);
    let labels = labels.map(|labels| Tensor::from_slice(labels).to_device(device));
    let mut state = shape.clone();
    state[1] *= spec.process()?.k() as i64;
    state[0] = -1;

    let [low, high] = recipe.train.t_range;
    let inner = EDGES.into_iter().filter(|edge| (low..high).contains(edge));
    let edges: Vec<f64> = std::iter::once(low).chain(inner).chain([high]).collect();
    let bands = edges.windows(2).map(|pair| [pair[0], pair[1]]).chain([[low, high]]);
    let _guard = tch::no_grad_guard();
    bands
        .map(|times| {
            tch::manual_seed(1);
            let (mut loss, mut right) = (0.0, 0.0);
            for start in (0..data.len()).step_by(BATCH) {
                let len = BATCH.min(data.len() - start);
                let part = |all: &Tensor| all.narrow(0, start as i64, len as i64);
                let mut x0 = part(&values);
                if x0.kind() == Kind::Uint8 {
                    x0 = x0.to_kind(Kind::Float) / 127.5 - 1.0;
                }
                // A stride that is prime to the batch, so that neighbours, often of one class, see different times.
                let place = |i: usize| ((i * 37 % BATCH) as f64 + 0.5) / BATCH as f64;
                let batch = Batch {
                    x0,
                    labels: labels.as_ref().map(part),
                    times: (0..len).map(|i| times[0] + (times[1] - times[0]) * place(i)).collect(),
                };
                let normals = objective.normals(&batch.x0);
                let mean = objective.loss_at(network, &parameters, &batch, &normals, Mode::Eval, Kind::Float);
                loss += mean.double_value(&[]) * len as f64;
                if let (true, Some(labels)) = (classifier, &batch.labels) {
                    let z = objective.perturbed(&batch, &normals).view(&state[..]);
                    let t: Vec<f32> = batch.times.iter().map(|t| *t as f32).collect();
                    let t = Tensor::from_slice(&t).to_device(device);
                    let scores = network.forward(&parameters, &z, &t, None, Mode::Eval, Kind::Float);
                    let hits = scores.argmax(1, false).eq_tensor(labels).sum(Kind::Double);
                    right += hits.double_value(&[]);
                }
            }
            let n = data.len() as f64;
            Ok(Band { times, loss: loss / n, accuracy: classifier.then_some(right / n) })
        })
        .collect()
}
