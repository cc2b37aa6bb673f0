//! What a run is started with.

use super::Cancel;
use super::limit::default_memory;
use crate::array::{Precision, Tensor, warn_of_known};
use crate::solver::{Rows, Sampler};
use crate::spec::{Guidance, GuidanceKind, ModelSpec};
use crate::{Error, Model, Result, Status, guidance};
use std::ops::Range;
use std::time::Duration;

/// The known part of an image to be completed.
#[derive(Clone, Debug, PartialEq)]
pub struct Inpaint {
    /// [n or 1, C, ...] in the data range.
    pub image: Tensor,
    /// [n or 1, 1 or C, ...], 0 to 1; 1 is known.
    pub mask: Tensor,
}

/// What was measured of the images that a sampler restores.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// y of each sample, or one for all: [n or 1, ...] with the shape that the operator gives ([`Sampler::measurement_shape`]),
    /// in the units of the data range; finite where it was measured.
    pub values: Tensor,
    /// Of the operator `mask`: [n or 1, 1 or C, ...], 1 measured, 0 not.
    pub mask: Option<Tensor>,
}

/// What a run is started with, the sampler's options aside.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Number of samples.
    pub n: usize,
    /// Seed of the first sample; sample i has seed + i (wrapping).
    pub seed: u64,
    /// Precision of the state.
    pub precision: Precision,
    /// Samples of one network call; `None`: for [`Run::start`](super::Run::start) all, for
    /// [`sample`](super::sample()) at most 64.
    pub batch: Option<usize>,
    /// Bytes that the run may allocate for its arrays; `None`: nine tenths of the machine's memory, or of what the control
    /// groups (cgroups) that the process is in allow it.
    pub max_memory: Option<u64>,
    /// Time from the start after which the run stops with [`Status::DeadlineExceeded`].
    pub deadline: Option<Duration>,
    /// The caller's token.
    pub cancel: Option<Cancel>,
    /// Initial state [n, k*C, ...] instead of a draw of the prior.
    pub init: Option<Tensor>,
    /// Images [n or 1, C, ...] in the data range to start from, instead of a draw of the prior: z = a(t) x_0 + L(t) xi with
    /// the sampler's first time t, mean a and factor L of the covariance of the exact perturbation kernel, and the noise xi
    /// that the prior would be drawn with (the sample's seed, purpose `prior`, draw 0). With a `t_start` below 1 the samples
    /// keep what of the image is left there. A sampler that encodes starts from the image itself, with momenta drawn as they
    /// are at `t_end` given the image (for k = 2 with mean a_m x_0 and standard deviation sqrt(Sigma_mm), times xi's
    /// momenta), so that latents are distributed as the prior is.
    pub from_image: Option<Tensor>,
    /// Noise [draws, n, k*C, ...], in the order in which the plan consumes it, instead of Philox's.
    pub noise: Option<Tensor>,
    /// Class of each sample, n or one for all; `None`: the null class. With [`GuidanceKind::Classifier`] it is the
    /// guidance network's, and a class-conditional model runs with the null class.
    pub labels: Option<Vec<i64>>,
    /// Image and mask of a sampler that was compiled for inpainting.
    pub inpaint: Option<Inpaint>,
    /// The measurement of a sampler that was compiled for restoration.
    pub measurement: Option<Measurement>,
    /// Guidance scale of each sample, n or one for all, of a sampler that was compiled with guidance. 0 leaves a sample to
    /// the model; where all are 0 the guide is not called.
    pub scales: Option<Vec<f64>>,
    /// The guidance network: a classifier's gradient, or for [`GuidanceKind::Cfg`] a second, weaker network in place of
    /// the model with the null class.
    pub guide: Option<Model>,
    /// Whether to keep the data estimate at each network call, for [`What::X0`](super::What::X0).
    pub previews: bool,
    /// Whether the deadline leaves the best data estimate so far ([`Status::Partial`]) instead of nothing; at least one
    /// network call is made then. Implies [`previews`](Self::previews).
    pub anytime: bool,
    /// A number of the caller's, which networks are told with each sample ([`Rows`](crate::network::Rows)): it tells the
    /// requests of an engine apart.
    pub tag: u64,
}

impl RunOptions {
    /// `n` samples, everything else at its default.
    pub fn new(n: usize) -> Self {
        Self {
            n,
            seed: 0,
            precision: Precision::F32,
            batch: None,
            max_memory: None,
            deadline: None,
            cancel: None,
            init: None,
            from_image: None,
            noise: None,
            labels: None,
            inpaint: None,
            measurement: None,
            scales: None,
            guide: None,
            previews: false,
            anytime: false,
            tag: 0,
        }
    }

    pub(crate) fn check(&self, spec: &ModelSpec, sampler: &Sampler) -> Result<()> {
        let (n, k) = (self.n, sampler.process.k());
        if n == 0 {
            return Err(Error::argument("n = 0: expected at least one sample"));
        }
        if self.batch == Some(0) {
            return Err(Error::argument("batch = 0: expected at least one sample"));
        }
        if self.anytime && sampler.encodes() {
            return Err(Error::argument(
                "anytime: a deadline leaves estimates of data, and the sampler makes latents",
            ));
        }
        let mut state_shape = vec![n];
        state_shape.extend(&spec.data.shape);
        state_shape[1] *= k;
        if let Some(init) = &self.init {
            expect("init", init.shape(), &state_shape)?;
            finite("init", init)?;
        }
        match (&self.from_image, &self.init) {
            (Some(_), Some(_)) => {
                return Err(Error::argument("init and from_image exclude each other: give one"));
            }
            (Some(image), None) => {
                expect_shared("from_image", image.shape(), n, &spec.data.shape, false)?;
                finite("from_image", image)?;
            }
            (None, None) if sampler.encodes() => {
                return Err(Error::argument("from_image: the sampler encodes images and needs them"));
            }
            (None, _) => {}
        }
        if let Some(noise) = &self.noise {
            let Rows::Planned(plan) = &sampler.rows else {
                return Err(Error::argument(format!("noise: sampler `{}` draws none", sampler.info().name)));
            };
            let mut shape = vec![plan.draws()];
            shape.extend(&state_shape);
            expect("noise", noise.shape(), &shape)?;
            finite("noise", noise)?;
        }
        self.check_guidance(spec, sampler.conditioning.guidance)?;
        match (&self.inpaint, sampler.conditioning.inpaint) {
            (None, None) => {}
            (Some(_), None) => {
                return Err(Error::argument("inpaint: the sampler was not compiled for inpainting"));
            }
            (None, Some(_)) => {
                return Err(Error::argument(
                    "inpaint: the sampler completes images and needs an image and a mask",
                ));
            }
            (Some(Inpaint { image, mask }), Some(_)) => {
                expect_shared("inpaint image", image.shape(), n, &spec.data.shape, false)?;
                expect_shared("inpaint mask", mask.shape(), n, &spec.data.shape, true)?;
                finite("inpaint image", image)?;
                if !mask.all(|x| (0.0..=1.0).contains(&x)) {
                    return Err(Error::argument(
                        "inpaint mask: expected values from 0 (unknown) to 1 (known)",
                    ));
                }
            }
        }
        self.check_measurement(spec, sampler)
    }

    fn check_measurement(&self, spec: &ModelSpec, sampler: &Sampler) -> Result<()> {
        let (n, data) = (self.n, &spec.data.shape);
        let (Measurement { values, mask }, measured) = match (&self.measurement, &sampler.measured) {
            (None, None) => return Ok(()),
            (Some(_), None) => {
                return Err(Error::argument("measurement: the sampler was not compiled for restoration"));
            }
            (None, Some(_)) => {
                return Err(Error::argument(
                    "measurement: the sampler restores images and needs what was measured",
                ));
            }
            (Some(measurement), Some(measured)) => (measurement, measured),
        };
        expect_shared("measurement", values.shape(), n, &measured.shape(), false)?;
        match mask {
            None if measured.is_mask() => {
                Err(Error::argument("measurement mask: the operator `mask` needs one"))
            }
            Some(_) if !measured.is_mask() => {
                Err(Error::argument("measurement mask: it is for the operator `mask` only"))
            }
            None => finite("measurement", values),
            Some(mask) => {
                expect_shared("measurement mask", mask.shape(), n, data, true)?;
                if !mask.all(|x| x == 0.0 || x == 1.0) {
                    return Err(Error::argument(
                        "measurement mask: expected 0 (not measured) or 1 (measured)",
                    ));
                }
                // Elsewhere it may be NaN, as missing values often are.
                let (values, mask) = (values.clone().into_f32(), mask.clone().broadcast_mask(data));
                let measured = |i: usize| mask[i % mask.len()] == 1.0;
                let all = 0..values.len().max(mask.len());
                match all.into_iter().any(|i| measured(i) && !values[i % values.len()].is_finite()) {
                    false => Ok(()),
                    true => Err(Error::argument("measurement: a value is not finite where the mask is 1")),
                }
            }
        }
    }

    /// Warns of data values far out of the data range, which are in other units more often than not: once for each array.
    ///
    /// What is not known of an image, or was not measured, may be anything.
    pub(crate) fn warn_of_range(&self, sampler: &Sampler) {
        let range = sampler.model.data.range;
        let warn = |name: &str, values: &Tensor, mask: Option<&Tensor>, more: f64| {
            warn_of_known(name, values, mask, range, more);
        };
        if let Some(image) = &self.from_image {
            warn("from_image", image, None, 0.0);
        }
        if let Some(Inpaint { image, mask }) = &self.inpaint {
            warn("inpaint image", image, Some(mask), 0.0);
        }
        if let (Some(Measurement { values, mask }), Some(linear)) = (&self.measurement, &sampler.measured)
            && linear.keeps_level()
        {
            warn("measurement", values, mask.as_ref(), 6.0 * linear.noise());
        }
    }

    fn check_guidance(&self, spec: &ModelSpec, guidance: Option<Guidance>) -> Result<()> {
        let n = self.n;
        let Some(guidance) = guidance else {
            let given = [("scale", self.scales.is_some()), ("guidance network", self.guide.is_some())];
            if let Some((name, _)) = given.iter().find(|(_, given)| *given) {
                return Err(Error::argument(format!(
                    "{name}: the sampler was not compiled with guidance, which it would be for"
                )));
            }
            return self.check_labels(spec, true);
        };
        let Some(scales) = &self.scales else {
            return Err(Error::argument("scale: the sampler guides and needs a scale"));
        };
        if scales.len() != n && scales.len() != 1 {
            return Err(Error::argument(format!("scale: expected 1 or {n} scales, got {}", scales.len())));
        }
        if let Some(scale) = scales.iter().find(|scale| !scale.is_finite()) {
            return Err(Error::argument(format!("scale = {scale}: expected a finite number")));
        }
        if let Some(guide) = &self.guide {
            guidance::check_guide(guidance.kind, spec, guide.spec())?;
        }
        match (guidance.kind, &self.guide) {
            (GuidanceKind::Classifier, None) => {
                Err(Error::argument("guidance network: kind `classifier` needs one that gives `grad`")
                    .hint("the section Conditioning of the README says what it is"))
            }
            (GuidanceKind::Classifier, Some(guide)) => {
                self.check_labels(guide.spec(), false).map_err(|e| e.context("guidance network"))?;
                match &self.labels {
                    Some(_) => Ok(()),
                    None => Err(Error::argument("label: kind `classifier` guides to a class and needs one")),
                }
            }
            (GuidanceKind::Cfg, None) if self.labels.is_none() => {
                self.labelled(spec)?;
                Err(Error::argument("label: classifier-free guidance needs the class to guide to"))
            }
            // A second network guides without classes, too.
            (GuidanceKind::Cfg, _) => self.check_labels(spec, true),
        }
    }

    /// Refuses a network that takes no classes.
    fn labelled(&self, spec: &ModelSpec) -> Result<()> {
        match spec.network.label_input {
            Some(_) => Ok(()),
            None => Err(Error::argument(
                "label: the model is not class-conditional (its spec has no label_input)",
            )),
        }
    }

    /// Checks the labels against the classes of a network, which may know the null class as well.
    fn check_labels(&self, spec: &ModelSpec, null: bool) -> Result<()> {
        let (n, classes) = (self.n, spec.network.classes);
        let Some(labels) = &self.labels else { return Ok(()) };
        self.labelled(spec)?;
        if labels.len() != n && labels.len() != 1 {
            return Err(Error::argument(format!("label: expected 1 or {n} labels, got {}", labels.len())));
        }
        let end = i64::from(classes) + i64::from(null);
        if let Some(label) = labels.iter().find(|label| !(0..end).contains(*label)) {
            let or_null = if null { format!(", or {classes} for the null class") } else { String::new() };
            return Err(Error::argument(format!("label {label}: expected 0 to {}{or_null}", classes - 1)));
        }
        Ok(())
    }

    /// Bytes of `elements` elements of the state's precision.
    pub(crate) fn bytes(&self, elements: u128) -> u128 {
        elements.saturating_mul(match self.precision {
            Precision::F32 => 4,
            Precision::F64 => 8,
        })
    }

    /// Bytes of all arrays that a run of `n` of these samples holds.
    pub(crate) fn needed(&self, sampler: &Sampler, n: usize) -> u128 {
        self.bytes((n as u128).saturating_mul(sampler.elements())).saturating_add(self.kept(sampler, n))
    }

    /// Bytes that a run of `n` of these samples keeps of the arrays that it is given, whose shapes may still be wrong.
    fn kept(&self, sampler: &Sampler, n: usize) -> u128 {
        // One for each sample, or one for all.
        let rows = |tensor: &Tensor| tensor.shape().first().map_or(0, |rows| *rows.min(&n)) as u128;
        let d = sampler.model.data_len() as u128;
        let known = self.inpaint.iter().map(|inpaint| (rows(&inpaint.image) + rows(&inpaint.mask)) * d);
        let measured = sampler.measured.iter().zip(&self.measurement).map(|(linear, measurement)| {
            let mask = measurement.mask.as_ref().map_or(0, rows);
            rows(&measurement.values) * linear.measurements() as u128 + mask * d
        });
        let draws = self.noise.iter().map(|noise| match noise.shape() {
            [draws, all, state @ ..] => {
                let state: u128 = state.iter().map(|size| *size as u128).product();
                *draws as u128 * n.min(*all) as u128 * state * noise.element_size() as u128
            }
            _ => 0,
        });
        let single = size_of::<f32>() as u128;
        known.chain(measured).map(|elements| elements * single).chain(draws).sum()
    }

    /// Refuses what would not fit, before anything is allocated.
    pub(crate) fn check_memory(&self, needed: u128) -> Result<()> {
        let limit = self.max_memory.map_or_else(default_memory, u128::from);
        if needed > limit {
            return Err(Error::new(
                Status::MemoryLimit,
                format!("{} samples need {} of memory, the limit is {}", self.n, bytes(needed), bytes(limit)),
            )
            .hint("take fewer samples at once (n, batch), or raise max_memory"));
        }
        Ok(())
    }

    /// The options for the samples `range` of these.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        let shared = |t: &Tensor| if t.shape()[0] == 1 { t.clone() } else { t.slice(0, range.clone()) };
        Self {
            n: range.len(),
            seed: self.seed.wrapping_add(range.start as u64),
            init: self.init.as_ref().map(|t| t.slice(0, range.clone())),
            from_image: self.from_image.as_ref().map(shared),
            noise: self.noise.as_ref().map(|t| t.slice(1, range.clone())),
            labels: self.labels.as_deref().map(|labels| part(labels, &range)),
            scales: self.scales.as_deref().map(|scales| part(scales, &range)),
            guide: self.guide.clone(),
            inpaint: self
                .inpaint
                .as_ref()
                .map(|i| Inpaint { image: shared(&i.image), mask: shared(&i.mask) }),
            measurement: self
                .measurement
                .as_ref()
                .map(|m| Measurement { values: shared(&m.values), mask: m.mask.as_ref().map(shared) }),
            cancel: self.cancel.clone(),
            ..*self
        }
    }
}

/// Of one value each the samples `range`, or the one value for all.
fn part<T: Clone>(values: &[T], range: &Range<usize>) -> Vec<T> {
    if values.len() == 1 { values.to_vec() } else { values[range.clone()].to_vec() }
}

fn bytes(n: u128) -> String {
    match n {
        0..10_000_000 => format!("{} kB", n.div_ceil(1000)),
        10_000_000..10_000_000_000 => format!("{} MB", n.div_ceil(1_000_000)),
        _ => format!("{} GB", n.div_ceil(1_000_000_000)),
    }
}

fn expect(name: &str, got: &[usize], expected: &[usize]) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::new(Status::ShapeMismatch, format!("{name}: expected shape {expected:?}, got {got:?}")))
}

/// [n or 1, C, ...], or with one channel for all.
fn expect_shared(name: &str, got: &[usize], n: usize, data: &[usize], one_channel: bool) -> Result<()> {
    let fits = got.len() == data.len() + 1
        && (got[0] == n || got[0] == 1)
        && (got[1] == data[0] || one_channel && got[1] == 1)
        && got[2..] == data[1..];
    if fits {
        return Ok(());
    }
    let channels = if one_channel { format!("1 or {}", data[0]) } else { data[0].to_string() };
    let rest: String = data[1..].iter().map(|dim| format!(", {dim}")).collect();
    Err(Error::new(
        Status::ShapeMismatch,
        format!("{name}: expected shape [{n} or 1, {channels}{rest}], got {got:?}"),
    ))
}

fn finite(name: &str, tensor: &Tensor) -> Result<()> {
    if tensor.all(f64::is_finite) {
        Ok(())
    } else {
        Err(Error::argument(format!("{name}: a value is not finite")))
    }
}
