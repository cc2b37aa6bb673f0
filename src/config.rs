//! Configuration files: what a command line can say about a run, kept.

use crate::plan::Plan;
use crate::spec::{
    Conditioning, Grid, Guidance, GuidanceKind, InpaintMethod, Inpainting, ModelSpec, Operator, Restoration,
    SamplerSpec, strict,
};
use crate::{Error, Result, Sampler, Status, grid, io};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A configuration file: `{"sampler": {...}, "inpaint": {"image", "mask", "method", "resample"}, "guidance": {"kind",
/// "scale", "label", "interval", "rescale", "model"}, "restore": {"operator", "noise", "data_std", "resample", "measurement", "mask"}, "plan": FILE}`, all parts
/// optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The sampler's options.
    pub sampler: SamplerSpec,
    /// What is to be completed.
    pub inpaint: Option<InpaintFiles>,
    /// What guides.
    pub guidance: Option<GuidanceFile>,
    /// What images are restored from.
    pub restore: Option<RestoreFiles>,
    /// A plan to execute in place of a sampler; of the sampler's options only the seed may then be given.
    pub plan: Option<PathBuf>,
}

/// One value for all samples, or a list that they take in turn, as [`conditions`] says.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected a number, or a list of numbers")]
pub enum OneOrMany<T> {
    /// One for all.
    One(T),
    /// Taken in turn.
    Many(Vec<T>),
}

impl<T: Copy> OneOrMany<T> {
    /// The values as a list.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }

    /// One value for each of `n` samples, or one for all: each value of a list for `times` samples, and from its end on again.
    pub fn for_samples(&self, n: usize, times: usize) -> Vec<T> {
        match self {
            Self::One(value) => vec![*value],
            Self::Many(values) => {
                let each = values.iter().flat_map(|value| std::iter::repeat_n(*value, times));
                each.cycle().take(n).collect()
            }
        }
    }
}

/// Labels and scales of `n` samples. They take the labels of a list in turn; where there are lists of both, all labels with the
/// first scale, then all with the next: in a grid with a column for each label, a row for each scale.
pub fn conditions(
    labels: Option<&OneOrMany<i64>>,
    scales: Option<&OneOrMany<f64>>,
    n: usize,
) -> (Option<Vec<i64>>, Option<Vec<f64>>) {
    let times = labels.map_or(1, |labels| labels.as_slice().len());
    (labels.map(|labels| labels.for_samples(n, 1)), scales.map(|scales| scales.for_samples(n, times)))
}

/// Guidance, as far as it is given.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct GuidanceFile {
    /// What guides; default `cfg`, and to be given where there is a `model`.
    #[serde(default)]
    pub kind: Option<GuidanceKind>,
    /// The scale w of each sample.
    #[serde(default)]
    pub scale: Option<OneOrMany<f64>>,
    /// The class of each sample.
    #[serde(default)]
    pub label: Option<OneOrMany<i64>>,
    /// Forward times between which guidance acts; default all.
    #[serde(default)]
    pub interval: Option<[f64; 2]>,
    /// How far outputs are brought back to their spread; default 0.
    #[serde(default)]
    pub rescale: Option<f64>,
    /// The guidance network.
    #[serde(default)]
    pub model: Option<PathBuf>,
}

impl GuidanceFile {
    /// How the sampler is guided; `None` where every scale is 0, which is the plain sampler.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] where kind or scale is missing, or contradicts the rest.
    pub fn guidance(&self) -> Result<Option<Guidance>> {
        let Some(scale) = &self.scale else {
            return Err(Error::argument("guidance: no scale is given").hint("`--scale W`, or \"scale\": W"));
        };
        let kind = match (self.kind, &self.model) {
            (Some(GuidanceKind::Classifier), None) => {
                return Err(Error::argument("guidance: kind `classifier` needs a guidance network")
                    .hint("\"model\": FILE, a network with the output `grad`"));
            }
            (Some(kind), _) => kind,
            (None, None) => GuidanceKind::Cfg,
            (None, Some(_)) => {
                return Err(Error::argument("guidance: a model, but no kind is given")
                    .hint("`classifier` for a classifier's gradient, `cfg` for a second, weaker network"));
            }
        };
        if scale.as_slice().is_empty() || self.label.as_ref().is_some_and(|label| label.as_slice().is_empty())
        {
            return Err(Error::argument("guidance: a list of scales or labels is empty"));
        }
        let interval = self.interval.unwrap_or([0.0, 1.0]);
        let guidance = Guidance { kind, interval, rescale: self.rescale.unwrap_or(0.0) };
        guidance.check()?;
        Ok(scale.as_slice().iter().any(|w| *w != 0.0).then_some(guidance))
    }
}

/// Files and method of an inpainting run, as far as they are given.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct InpaintFiles {
    /// The known image, for [`io::read_image`].
    #[serde(default)]
    pub image: Option<PathBuf>,
    /// Where it is known, for [`io::read_mask`].
    #[serde(default)]
    pub mask: Option<PathBuf>,
    /// How the known region enters.
    #[serde(default)]
    pub method: Option<InpaintMethod>,
    /// How often each step is taken.
    #[serde(default)]
    pub resample: Option<u32>,
}

/// A restoration and its files, as far as they are given; see [`Restoration`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct RestoreFiles {
    /// H.
    #[serde(default)]
    pub operator: Option<Operator>,
    /// Standard deviation of the measurement's noise; default 0.
    #[serde(default)]
    pub noise: Option<f64>,
    /// Standard deviation of the data; default a quarter of the range's width.
    #[serde(default)]
    pub data_std: Option<f64>,
    /// How often each step is taken; default 1.
    #[serde(default)]
    pub resample: Option<u32>,
    /// The measurement, for [`io::read_image`] with the measurement's shape.
    #[serde(default)]
    pub measurement: Option<PathBuf>,
    /// What of it was measured, for [`io::read_mask`].
    #[serde(default)]
    pub mask: Option<PathBuf>,
}

impl RestoreFiles {
    /// How images are restored, with the defaults.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] where the operator is missing or a number is out of range.
    pub fn restoration(&self) -> Result<Restoration> {
        let Some(operator) = &self.operator else {
            return Err(Error::argument("restore: no operator is given")
                .hint("`--restore average:4`, or \"operator\": {\"kind\": \"average\", \"factor\": 4}"));
        };
        let restoration = Restoration {
            operator: operator.clone(),
            noise: self.noise.unwrap_or(0.0),
            data_std: self.data_std,
            resample: self.resample.unwrap_or(1),
        };
        restoration.check()?;
        Ok(restoration)
    }

    /// Measurement and mask.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] where there is no measurement.
    pub fn files(&self) -> Result<(&Path, Option<&Path>)> {
        let Some(measurement) = &self.measurement else {
            return Err(Error::argument("restore: no measurement is given")
                .hint("`--measurement FILE`: what was measured, .npy or PNG"));
        };
        Ok((measurement, self.mask.as_deref()))
    }
}

impl Config {
    /// Reads a configuration file. Paths in it become relative to its folder.
    ///
    /// # Errors
    /// [`Status::ReadFailed`], or [`Status::InvalidConfig`] naming the field and, for an unknown one, the nearest
    /// known.
    pub fn read(path: &Path) -> Result<Self> {
        let text = io::read_text(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder).map_err(|e| e.context(path.display()))
    }

    /// Reads a configuration; paths in it are relative to `folder`.
    ///
    /// # Errors
    /// [`Status::InvalidConfig`], as [`Self::read`].
    pub fn parse(text: &str, folder: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Sections {
            #[serde(default)]
            sampler: Option<Value>,
            #[serde(default)]
            inpaint: Option<Value>,
            #[serde(default)]
            guidance: Option<Value>,
            #[serde(default)]
            restore: Option<Value>,
            #[serde(default)]
            plan: Option<PathBuf>,
        }
        const BAD: Status = Status::InvalidConfig;
        let sections: Sections =
            strict::from_value(strict::parse(text, BAD, "configuration")?, BAD, "configuration")?;
        let mut sampler = sections.sampler.map(SamplerSpec::from_json).transpose()?.unwrap_or_default();
        if let Some(Grid::Name(name)) = &mut sampler.time_grid
            && !grid::NAMES.contains(&name.as_str())
        {
            *name = folder.join(&name).to_string_lossy().into_owned();
        }
        let inpaint: Option<InpaintFiles> =
            sections.inpaint.map(|v| strict::from_value(v, BAD, "inpaint")).transpose()?;
        let inpaint = inpaint.map(|files| InpaintFiles {
            image: files.image.map(|path| folder.join(path)),
            mask: files.mask.map(|path| folder.join(path)),
            ..files
        });
        let guidance: Option<GuidanceFile> =
            sections.guidance.map(|v| strict::from_value(v, BAD, "guidance")).transpose()?;
        let guidance = guidance
            .map(|guidance| GuidanceFile { model: guidance.model.map(|path| folder.join(path)), ..guidance });
        let restore: Option<RestoreFiles> =
            sections.restore.map(|v| strict::from_value(v, BAD, "restore")).transpose()?;
        let restore = restore.map(|files| RestoreFiles {
            measurement: files.measurement.map(|path| folder.join(path)),
            mask: files.mask.map(|path| folder.join(path)),
            ..files
        });
        let plan = sections.plan.map(|path| folder.join(path));
        Ok(Self { sampler, inpaint, guidance, restore, plan })
    }

    /// What the sampler is to be compiled for.
    ///
    /// # Errors
    /// Those of [`GuidanceFile::guidance`] and [`RestoreFiles::restoration`].
    pub fn conditioning(&self) -> Result<Conditioning> {
        Ok(Conditioning {
            inpaint: self.inpaint.as_ref().map(InpaintFiles::inpainting),
            guidance: self.guidance.as_ref().map(GuidanceFile::guidance).transpose()?.flatten(),
            // A plan says by itself what was measured.
            restore: match &self.plan {
                None => self.restore.as_ref().map(RestoreFiles::restoration).transpose()?,
                Some(_) => None,
            },
        })
    }
}

impl InpaintFiles {
    /// How images are completed, with the defaults.
    pub fn inpainting(&self) -> Inpainting {
        Inpainting { method: self.method.unwrap_or_default(), resample: self.resample.unwrap_or(1) }
    }

    /// Image and mask.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] where one of them is missing.
    pub fn files(&self) -> Result<(&Path, &Path)> {
        match (&self.image, &self.mask) {
            (Some(image), Some(mask)) => Ok((image, mask)),
            (Some(_), None) => Err(Error::argument("inpaint: an image, but no mask is given")
                .hint("`--inpaint-mask FILE` says where the image is known")),
            (None, Some(_)) => Err(Error::argument("inpaint: a mask, but no image is given")
                .hint("`--inpaint-image FILE` is the image to be completed")),
            (None, None) => Err(Error::argument("inpaint: neither image nor mask is given")
                .hint("`--inpaint-image FILE --inpaint-mask FILE`")),
        }
    }
}

impl Sampler {
    /// The sampler that a configuration describes: compiled from its options, or the plan that it names.
    ///
    /// # Errors
    /// Those of [`Self::compile`] and [`Self::from_plan`]; [`Status::ReadFailed`]; [`Status::InvalidArgument`] for
    /// options beside a plan, which has them in it.
    pub fn from_config(model: &ModelSpec, config: &Config) -> Result<Self> {
        let Some(path) = &config.plan else {
            return Self::compile(model, &config.sampler, config.conditioning()?);
        };
        let extra = match &config.inpaint {
            Some(inpaint) if inpaint.method.is_some() || inpaint.resample.is_some() => {
                Some("inpaint method".to_owned())
            }
            _ if config.restore.as_ref().is_some_and(|restore| restore.operator.is_some()) => {
                Some("restore operator".to_owned())
            }
            _ => config.sampler.first_given(),
        };
        if let Some(option) = extra {
            return Err(Error::argument(format!(
                "plan: excludes the option `{option}`: a plan is compiled already"
            ))
            .hint("of the sampler's options, leave the seed alone"));
        }
        let plan = Plan::parse(&io::read_text(path)?);
        let sampler =
            plan.and_then(|plan| Self::from_plan(model, plan)).map_err(|e| e.context(path.display()))?;
        Ok(sampler.described_by(config.sampler.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_file() {
        let text = r#"{"sampler": {"kind": "em", "time_grid": "grid.txt"}, "plan": "p.json",
                       "inpaint": {"image": "x.npy", "mask": "/abs/m.npy", "method": "published"}}"#;
        let config = Config::parse(text, Path::new("/some/where")).unwrap();
        assert_eq!(config.sampler.time_grid, Some(Grid::Name("/some/where/grid.txt".into())));
        assert_eq!(config.plan.as_deref(), Some(Path::new("/some/where/p.json")));
        let inpaint = config.inpaint.unwrap();
        assert_eq!(inpaint.files().unwrap(), (Path::new("/some/where/x.npy"), Path::new("/abs/m.npy")));
        let named = Config::parse(r#"{"sampler": {"time_grid": "karras"}}"#, Path::new("/x")).unwrap();
        assert_eq!(named.sampler.time_grid, Some(Grid::Name("karras".into())));
    }

    #[test]
    fn each_label_is_drawn_with_each_scale() {
        let (labels, scales) = (OneOrMany::Many(vec![4, 5, 6]), OneOrMany::Many(vec![0.0, 2.0]));
        let (of_labels, of_scales) = conditions(Some(&labels), Some(&scales), 8);
        assert_eq!(of_labels.unwrap(), [4, 5, 6, 4, 5, 6, 4, 5]);
        assert_eq!(of_scales.unwrap(), [0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0, 0.0]);
        let one = OneOrMany::One(3);
        assert_eq!(conditions(Some(&one), Some(&scales), 3), (Some(vec![3]), Some(vec![0.0, 2.0, 0.0])));
        assert_eq!(conditions(None, Some(&scales), 1), (None, Some(vec![0.0])));
        assert_eq!(conditions(None, None, 1), (None, None));
    }

    #[test]
    fn unknown_fields_are_named() {
        for (text, nearest) in [
            (r#"{"sample": {}}"#, "sampler"),
            (r#"{"sampler": {"stepz": 3}}"#, "steps"),
            (r#"{"inpaint": {"msk": "a"}}"#, "mask"),
            (r#"{"guidance": {"scales": 1}}"#, "scale"),
        ] {
            let error = Config::parse(text, Path::new("")).unwrap_err();
            assert_eq!(error.status(), Status::InvalidConfig);
            assert_eq!(error.hint_text(), Some(&*format!("did you mean `{nearest}`?")));
        }
    }
}
