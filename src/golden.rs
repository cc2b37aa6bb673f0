//! `psld.golden`: one evaluation of a network that its file carries, to be repeated anywhere.

use crate::noise::{Purpose, fill_f32};
use crate::onnx::ElementType;
use crate::spec::strict;
use crate::{Error, Result, Status};
use serde::{Deserialize, Serialize};

/// The metadata key under which a network carries one evaluation of itself ([`Golden`], JSON).
pub const GOLDEN_KEY: &str = "psld.golden";

/// One evaluation (z, t) → output of a network, for whoever wants to know whether a file, a machine or a provider
/// still computes the same.
///
/// The batch is one sample. Its state is standard normal noise, [`fill_f32`]`(seed, Purpose::Probe, 0, 0, ..)`,
/// element by element in row-major order: see [`Self::state`]. Its time is `t`, in units of the process (the
/// network's input is `t` times the spec's `time_scale`), its label `y`. Of the output, in the same order,
/// `values[i]` is element `indices[i]`, and `rms` is the root of the mean square of all elements. The numbers are
/// those of the program that trained the network, in float32, whatever type the model was exported in.
///
/// `psld-training export` writes it as JSON under the metadata key [`GOLDEN_KEY`]; `psld verify` repeats it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Golden {
    /// Version of this document; 1.
    pub format: u32,
    /// Seed of the state.
    pub seed: u64,
    /// The time, in (0, 1].
    pub t: f32,
    /// The label, if the network takes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<i64>,
    /// The output that is meant, such as a classifier's logits; by default the model's only one, or else the one that
    /// the spec names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Places in the output.
    pub indices: Vec<usize>,
    /// What is there.
    pub values: Vec<f32>,
    /// The size of the whole output.
    pub rms: f64,
}

/// How far an output is from a golden one; all relative to the golden output's `rms`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The largest magnitude of a difference among the golden values.
    pub max_abs: f64,
    /// The root of the mean square of these differences.
    pub rms: f64,
    /// How much larger the whole output is, so that what lies between the golden values is looked at, too:
    /// 1e-3 is one part in a thousand, -1 an output of zeros.
    pub size: f64,
}

impl Difference {
    /// Whether neither `rms` nor `size` is past `tolerance`. Never for values that are not finite.
    pub fn within(&self, tolerance: f64) -> bool {
        self.rms <= tolerance && self.size.abs() <= tolerance
    }
}

impl Golden {
    /// How many values of an output it holds, at most.
    const VALUES: usize = 64;

    /// The state that the evaluation is of: `len` elements.
    pub fn state(seed: u64, len: usize) -> Vec<f32> {
        let mut state = vec![0.0; len];
        fill_f32(seed, Purpose::Probe, 0, 0, &mut state);
        state
    }

    /// The evaluation with this output, which is not empty.
    pub fn new(seed: u64, t: f32, y: Option<i64>, output: &[f32]) -> Self {
        let count = output.len().min(Self::VALUES);
        let indices: Vec<_> = (0..count).map(|i| i * output.len() / count).collect();
        Self {
            format: 1,
            seed,
            t,
            y,
            output: None,
            values: indices.iter().map(|&i| output[i]).collect(),
            indices,
            rms: rms(output.iter().map(|&value| value.into())),
        }
    }

    /// Reads what stands in a model's metadata under [`GOLDEN_KEY`].
    ///
    /// # Errors
    /// [`Status::ModelInvalid`] for `None`, and for what is no such document, naming the field.
    pub fn from_metadata(text: Option<&str>) -> Result<Self> {
        const BAD: Status = Status::ModelInvalid;
        let Some(text) = text else {
            return Err(Error::new(
                BAD,
                format!("the model holds no golden output (metadata key `{GOLDEN_KEY}`)"),
            )
            .hint("psld-training writes one when it exports; networks of others carry none"));
        };
        let golden: Self = strict::from_value(strict::parse(text, BAD, GOLDEN_KEY)?, BAD, GOLDEN_KEY)?;
        let Self { format, t, indices, values, rms, .. } = &golden;
        let what = if *format != 1 {
            format!("format {format} is not known to this version, which reads format 1")
        } else if !(*t > 0.0 && *t <= 1.0) {
            format!("t: expected a time in (0, 1], got {t}")
        } else if values.is_empty() || values.len() != indices.len() {
            format!("expected a value for each index, got {} for {}", values.len(), indices.len())
        } else if !(values.iter().all(|value| value.is_finite()) && rms.is_finite() && *rms >= 0.0) {
            "values and rms must be finite".into()
        } else {
            return Ok(golden);
        };
        Err(Error::new(BAD, format!("{GOLDEN_KEY}: {what}")))
    }

    /// The document as JSON text, as it is stored in a model.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("it holds only numbers and strings")
    }

    /// Compares an output with this one.
    ///
    /// # Errors
    /// [`Status::ModelMismatch`]: the output has not as many elements as the golden one must have had;
    /// [`Status::NonFinite`]: an element is NaN or infinite.
    pub fn compare(&self, output: &[f32]) -> Result<Difference> {
        if let Some(index) = self.indices.iter().find(|&&index| index >= output.len()) {
            let message = format!(
                "{GOLDEN_KEY}: element {index} of the output is asked for, the network's output has {}",
                output.len()
            );
            return Err(Error::new(Status::ModelMismatch, message)
                .hint("the golden output is of another network: export the model again"));
        }
        if let Some(index) = output.iter().position(|value| !value.is_finite()) {
            let message = format!("the network's output is {} at element {index}", output[index]);
            return Err(Error::new(Status::NonFinite, message));
        }
        let differences: Vec<f64> = self
            .indices
            .iter()
            .zip(&self.values)
            .map(|(&index, &value)| f64::from(output[index]) - f64::from(value))
            .collect();
        // An output of zeros is compared as it is.
        let unit = if self.rms > 0.0 { self.rms } else { 1.0 };
        let size = rms(output.iter().map(|&value| value.into()));
        Ok(Difference {
            max_abs: differences.iter().fold(0.0, |most: f64, d| most.max(d.abs())) / unit,
            rms: rms(differences.iter().copied()) / unit,
            size: (size - self.rms) / unit,
        })
    }

    /// The [`Difference`] that a sound runtime stays within, for a model whose state is of type `element`: 1e-4 for
    /// float32, 2e-2 for float16 and 1e-1 for bfloat16, which rounds each weight to 8 binary digits.
    ///
    /// A GPU that multiplies float32 as TF32 needs about 1e-2.
    pub fn tolerance(element: ElementType) -> f64 {
        match element {
            ElementType::F16 => 2e-2,
            ElementType::Bf16 => 1e-1,
            _ => 1e-4,
        }
    }
}

fn rms(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    (values.map(|value| value * value).sum::<f64>() / count).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> Golden {
        Golden::new(7, 0.5, Some(2), &[3.0, -4.0])
    }

    #[test]
    fn differences_are_relative_to_the_whole_output() {
        assert_eq!(golden().rms, 12.5_f64.sqrt());
        let same = golden().compare(&[3.0, -4.0]).unwrap();
        assert_eq!((same.max_abs, same.rms, same.size), (0.0, 0.0, 0.0));
        assert!(same.within(0.0));
        let other = golden().compare(&[3.5, -4.0]).unwrap();
        assert!((other.max_abs - 0.5 / 12.5_f64.sqrt()).abs() < 1e-15);
        assert!((other.rms - 0.1).abs() < 1e-15);
        assert!((other.size - ((28.25_f64 / 2.0 / 12.5).sqrt() - 1.0)).abs() < 1e-15);
        assert!(other.within(0.11) && !other.within(0.09));
        // Right where it is looked at, wrong elsewhere.
        let long: Vec<f32> = (0..1000).map(|i| (i % 7) as f32).collect();
        let golden = Golden::new(0, 0.5, None, &long);
        assert_eq!((golden.values.len(), golden.indices[1], golden.indices[63]), (64, 15, 984));
        let halved: Vec<f32> = long
            .iter()
            .enumerate()
            .map(|(i, x)| if golden.indices.contains(&i) { *x } else { x / 2.0 })
            .collect();
        let difference = golden.compare(&halved).unwrap();
        assert_eq!(difference.rms, 0.0);
        assert!(difference.size < -0.4 && !difference.within(1e-2));
    }

    #[test]
    fn what_is_written_is_read() {
        let golden = Golden { output: Some("logits".into()), ..golden() };
        assert_eq!(Golden::from_metadata(Some(&golden.to_json())).unwrap(), golden);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let refused = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut document = serde_json::to_value(golden()).unwrap();
            change(&mut document);
            let error = Golden::from_metadata(Some(&document.to_string())).unwrap_err();
            assert_eq!(error.status(), Status::ModelInvalid);
            error.to_string()
        };
        assert!(refused(&|d| d["format"] = 2.into()).contains("format 2"));
        assert!(refused(&|d| d["t"] = 0.into()).contains("a time in (0, 1], got 0"));
        assert!(refused(&|d| d["indices"] = serde_json::json!([1])).contains("got 2 for 1"));
        assert!(refused(&|d| d["rms"] = (-1).into()).contains("finite"));
        assert!(refused(&|d| d["valuse"] = 1.into()).contains("did you mean `values`?"));
        assert!(Golden::from_metadata(Some("{")).unwrap_err().to_string().contains("not valid JSON"));
        assert!(Golden::from_metadata(None).unwrap_err().to_string().contains("holds no golden output"));
        let error = golden().compare(&[1.0]).unwrap_err();
        assert_eq!(error.status(), Status::ModelMismatch);
        assert!(error.message().contains("element 1 of the output is asked for, the network's output has 1"));
        assert_eq!(golden().compare(&[1.0, f32::NAN]).unwrap_err().status(), Status::NonFinite);
    }
}
