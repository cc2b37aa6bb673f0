//! Networks that describe images by features, for figures of `evaluation`.

use super::About;
use crate::network::Backend;
use crate::network::onnxruntime::{Files, Function, OnnxOptions, Runtime};
use crate::spec::DataSpec;
use crate::{Error, Result, Status, onnx};
use std::path::Path;

/// A network from images to features: any ONNX model.
///
/// * **Input**: the model's only input, [N, C, H, W] (or another shape with every size but N fixed), float32, float16 or
///   bfloat16, of images in their data range. A model with a `psld.spec` takes states and times instead: it is asked at
///   [`Self::TIME`] about the mean of the images' states, a(t) x: a position as good as the image, a momentum near 0.
///   Where it takes labels it is given the null class.
/// * **Output**: [N, D]; of a feature map [N, D, ...] the mean over all places is taken. By default the output named
///   `features`, or the only one; any other tensor of the graph may be named, such as that of the layer before the last.
///
/// One thread at a time.
pub struct FeatureNetwork {
    function: Function,
    about: About,
    width: usize,
}

impl FeatureNetwork {
    /// The forward time at which a noise-conditional network is asked: the end of a sampler's steps, when next to no
    /// noise is left.
    pub const TIME: f64 = 1e-3;

    /// Loads the model in the file `path` and tries it on an image of zeros. `output` names the features; `range` is
    /// the data range of a model that has no spec, [-1, 1] by default. `runtime` is called once the file was read.
    ///
    /// # Errors
    /// [`Status::ReadFailed`] and [`Status::ModelInvalid`] for the file; [`Status::ModelMismatch`] for inputs and
    /// outputs that are not as above; [`Status::InvalidArgument`] where several outputs could be meant, or for a range
    /// beside that of a spec; and those of running it.
    pub fn load(
        runtime: impl FnOnce() -> Result<&'static Runtime>,
        path: &Path,
        output: Option<&str>,
        range: Option<[f64; 2]>,
        options: &OnnxOptions,
    ) -> Result<Self> {
        let name = path.display();
        let bytes = std::fs::read(path).map_err(|e| Error::unreadable_model(&name, e))?;
        let files = Files::find(path)?;
        let sha256 = files.hash().map_err(|e| {
            Error::new(Status::ReadFailed, format!("{name}: the model cannot be hashed")).source(e)
        })?;
        let model = onnx::Model::read(bytes).map_err(|e| e.context(&name))?;
        let output = match output {
            Some(output) => output.to_owned(),
            None => the_output(&model).map_err(|e| e.context(&name))?,
        };
        let function = Function::load(runtime()?, path, model, &output, options)?;
        let data = match (function.spec(), range) {
            (Some(_), Some(_)) => {
                return Err(Error::argument(format!("range: the spec of {name} says what it is")));
            }
            (Some(spec), None) => spec.data.clone(),
            (None, range) => {
                let [low, high] = range.unwrap_or([-1.0, 1.0]);
                if !(low.is_finite() && high.is_finite() && low < high) {
                    return Err(Error::argument(format!("range: expected low < high, got {low}, {high}")));
                }
                DataSpec { shape: function.sample().to_vec(), range: [low, high] }
            }
        };
        let about = About {
            format: 1,
            model: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            sha256,
            output,
            t: function.spec().map(|_| Self::TIME),
            shape: data.shape,
            range: data.range,
            images: String::new(),
        };
        let mut network = Self { function, about, width: 0 };
        let zeros = vec![0.0; network.about.shape.iter().product()];
        network.width = network.features(&zeros, 1, |_| ())?.len();
        Ok(network)
    }

    /// What its features are of.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Shape and range of one image.
    pub fn data(&self) -> DataSpec {
        DataSpec { shape: self.about.shape.clone(), range: self.about.range }
    }

    /// The number of features.
    pub fn width(&self) -> usize {
        self.width
    }

    /// What runs it.
    pub fn backend(&self) -> Backend {
        self.function.backend()
    }

    /// The features [n, width] of `images` [n, C, ...], `batch` images a call; `done` is told how many are done.
    ///
    /// # Errors
    /// [`Status::ShapeMismatch`] for no whole number of images; [`Status::NonFinite`] for a feature that is NaN or
    /// infinite, naming the image; [`Status::RuntimeFailure`].
    pub fn features(
        &mut self,
        images: &[f32],
        batch: usize,
        mut done: impl FnMut(usize),
    ) -> Result<Vec<f32>> {
        let len: usize = self.about.shape.iter().product();
        if !images.len().is_multiple_of(len) {
            let message = format!("images of {len} values: got {} values in all", images.len());
            return Err(Error::new(Status::ShapeMismatch, message));
        }
        let batch = batch.max(1);
        let mut features = Vec::new();
        let mut states = Vec::new();
        for (i, chunk) in images.chunks(batch * len).enumerate() {
            let n = chunk.len() / len;
            let states = match self.function.spec() {
                None => chunk,
                Some(spec) => {
                    let mean = spec.process()?.mean(Self::TIME);
                    states.clear();
                    for image in chunk.chunks_exact(len) {
                        for block in 0..mean.rows() {
                            let a = mean[(block, 0)];
                            states.extend(image.iter().map(|x| (a * f64::from(*x)) as f32));
                        }
                    }
                    &states
                }
            };
            let made = self.function.run(states, n, Self::TIME, None)?;
            let (width, places) = match made.shape[1..] {
                [] => {
                    let message =
                        format!("output `{}`: expected [N, D], got one number an image", self.about.output);
                    return Err(Error::new(Status::ModelMismatch, message).context(&self.about.model));
                }
                [width, ref places @ ..] => (width, places.iter().product::<usize>()),
            };
            if self.width != 0 && width != self.width {
                let message = format!("{width} features, where there were {}", self.width);
                return Err(Error::new(Status::ModelMismatch, message).context(&self.about.model));
            }
            if let Some(place) = made.values.iter().position(|value| !value.is_finite()) {
                let image = i * batch + place / (width * places);
                let message =
                    format!("{}: a feature of image {image} is {}", self.about.model, made.values[place]);
                return Err(Error::new(Status::NonFinite, message));
            }
            let mean =
                |place: &[f32]| (place.iter().map(|x| f64::from(*x)).sum::<f64>() / places as f64) as f32;
            features.extend(made.values.chunks_exact(places).map(mean));
            done(i * batch + n);
        }
        Ok(features)
    }
}

impl std::fmt::Debug for FeatureNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} features `{}` of {}", self.width, self.about.output, self.about.model)
    }
}

/// The output that is meant where none is named.
fn the_output(model: &onnx::Model) -> Result<String> {
    let outputs = model.outputs();
    match (outputs.iter().find(|port| port.name == "features"), &outputs[..]) {
        (Some(port), _) | (None, [port]) => Ok(port.name.clone()),
        _ => {
            let names: Vec<_> = outputs.iter().map(|port| port.to_string()).collect();
            Err(Error::argument(format!("which output are the features? there are {}", names.join(", ")))
                .hint("name one: --feature-output"))
        }
    }
}
