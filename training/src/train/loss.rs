//! What is minimised: hybrid and denoising score matching, and a classifier's cross-entropy.
//!
//! With z_t = a(t) x_0 + L(t) eps the loss is the mean of |eps_net(z_t, t) - eps|^2 over batch and outputs
//! (arXiv 2303.01748): HSM, where L also covers the momentum at t = 0. Under DSM that momentum is drawn,
//! m_0 ~ N(0, kappa M), and z_t = Psi(0 -> t) (x_0, m_0) + L eps. All coefficients come from [`psld::process`] in f64
//! and are rounded once.

use psld::process::{Mat, Process, ScoreMatching};
use psld::spec::Predicts;
use psld::{Error, ModelSpec, Result, Status};
use tch::{Device, Kind, Reduction, Tensor};

use crate::net::{Mode, Network, TorchParams};
use crate::recipe::Weighting;

/// Samples to learn from, on the device.
#[derive(Debug)]
pub struct Batch {
    /// [batch, C, ...], in the data's range.
    pub x0: Tensor,
    /// [batch], with the null class where the label is withheld; for a classifier the truth.
    pub labels: Option<Tensor>,
    /// The time of each sample.
    pub times: Vec<f64>,
}

/// A loss: how states are made, and what is asked of the network there.
#[derive(Clone, Debug)]
pub struct Objective {
    process: Process,
    /// The blocks of eps that the network predicts.
    blocks: std::ops::Range<usize>,
    weighting: Weighting,
    classifier: bool,
    /// kappa S without the position, factored: what momenta at t = 0 are drawn with under DSM.
    momentum: Option<Mat>,
}

impl Objective {
    /// The loss of networks of `spec`, or of a classifier of its states.
    pub fn new(spec: &ModelSpec, weighting: Weighting, classifier: bool) -> Result<Self> {
        let process = spec.process()?;
        let k = process.k();
        let blocks = match spec.network.predicts {
            Some(Predicts::Momentum) => k - 1..k,
            Some(Predicts::Position) => 0..1,
            _ => 0..k,
        };
        let Some(parameters) = process.parameters() else {
            let message =
                "process: networks are trained for processes with D, Q and S (vp, cld, psld, recipe)";
            return Err(Error::new(Status::Unsupported, message)
                .hint("networks of other processes are deployed with a spec at their side"));
        };
        let draws_momentum =
            k > 1 && process.score_matching() == ScoreMatching::Dsm && parameters.kappa > 0.0;
        let momentum = draws_momentum
            .then(|| {
                Mat::from_fn(k - 1, k - 1, |i, j| parameters.kappa * parameters.s[(i + 1, j + 1)])
                    .cholesky_lower()
            })
            .transpose()?;
        if classifier && weighting != Weighting::Eps {
            return Err(Error::argument("train.weighting: a classifier's loss has none"));
        }
        Ok(Self { process, blocks, weighting, classifier, momentum })
    }

    /// The mean loss of a batch, with noise from libtorch's generator.
    pub fn loss(
        &self,
        network: &Network,
        parameters: &TorchParams,
        batch: &Batch,
        mode: Mode,
        compute: Kind,
    ) -> Tensor {
        let normals = self.normals(&batch.x0);
        self.loss_at(network, parameters, batch, &normals, mode, compute)
    }

    /// The standard normals that states are made of, [batch, blocks, elements]: those of eps, then those of the
    /// momenta at t = 0 where these are drawn.
    pub fn normals(&self, x0: &Tensor) -> Tensor {
        let k = self.process.k();
        let blocks = if self.momentum.is_some() { 2 * k - 1 } else { k };
        let elements: i64 = x0.size()[1..].iter().product();
        Tensor::randn([x0.size()[0], blocks as i64, elements], (Kind::Float, x0.device()))
    }

    /// The states [batch, k, elements] that a batch becomes at its times.
    pub fn perturbed(&self, batch: &Batch, normals: &Tensor) -> Tensor {
        let x0 = batch.x0.flatten(1, -1).unsqueeze(1);
        let inputs = Tensor::cat(&[&x0, normals], 1);
        let coefficients = batch.times.iter().flat_map(|t| self.coefficients(*t));
        let shape = [inputs.size()[0], self.process.k() as i64, inputs.size()[1]];
        upload(coefficients, inputs.device()).view(shape).bmm(&inputs)
    }

    /// [`loss`](Self::loss) with the [`normals`](Self::normals) given.
    pub fn loss_at(
        &self,
        network: &Network,
        parameters: &TorchParams,
        batch: &Batch,
        normals: &Tensor,
        mode: Mode,
        compute: Kind,
    ) -> Tensor {
        let device = batch.x0.device();
        let mut shape = batch.x0.size();
        shape[1] *= self.process.k() as i64;
        let z = self.perturbed(batch, normals).view(&shape[..]);
        let t = upload(batch.times.iter().copied(), device);
        if self.classifier {
            let labels = batch.labels.as_ref().expect("a classifier is trained on labelled data");
            let scores = network.forward(parameters, &z, &t, None, mode, compute);
            return scores.cross_entropy_loss(labels, None::<Tensor>, Reduction::Mean, -100, 0.0);
        }
        let output = network.forward(parameters, &z, &t, batch.labels.as_ref(), mode, compute);
        let blocks = self.blocks.len() as i64;
        let eps = normals.narrow(1, self.blocks.start as i64, blocks);
        let error = output.view_as(&eps) - eps;
        match self.weighting {
            Weighting::Eps => error.square().mean(Kind::Float),
            Weighting::Likelihood => {
                let weights = batch.times.iter().flat_map(|t| self.likelihood_weights(*t));
                let weights = upload(weights, device).view([-1, self.process.k() as i64, blocks]);
                // A sum over blocks, a mean over data dimensions.
                weights.bmm(&error).square().sum_dim_intlist(1, false, Kind::Float).mean(Kind::Float)
            }
        }
    }

    /// k rows of what x_0 and the normals are multiplied with.
    fn coefficients(&self, t: f64) -> Vec<f64> {
        let k = self.process.k();
        let (psi, factor) = (self.process.transition(0.0, t), self.process.factor(t));
        let mut rows = Vec::with_capacity(k * 2 * k);
        for i in 0..k {
            rows.push(psi[(i, 0)]);
            rows.extend((0..k).map(|j| factor[(i, j)]));
            if let Some(momentum) = &self.momentum {
                rows.extend(
                    (0..k - 1).map(|j| (0..k - 1).map(|m| psi[(i, m + 1)] * momentum[(m, j)]).sum::<f64>()),
                );
            }
        }
        rows
    }

    /// W, k x blocks, with |W error|^2 = |G^T (s_net - s)|^2, as s = -L^-T eps and G = sqrt(2 beta D).
    fn likelihood_weights(&self, t: f64) -> Vec<f64> {
        let k = self.process.k();
        let weights = self.process.diffusion(t).psd_factor().transpose() * self.process.score_from_eps(t);
        (0..k).flat_map(|i| self.blocks.clone().map(move |j| (i, j))).map(|at| weights[at]).collect()
    }
}

/// Numbers rounded to f32, on the device.
fn upload(values: impl Iterator<Item = f64>, device: Device) -> Tensor {
    let values: Vec<f32> = values.map(|x| x as f32).collect();
    let tensor = Tensor::from_slice(&values);
    match device {
        // From pinned memory the copy does not wait for what the device is doing.
        Device::Cuda(_) => tensor.pin_memory(device).to_device_(device, Kind::Float, true, false),
        _ => tensor,
    }
}
