//! All figures of a set of samples, each with its floor.

use super::bootstrap::{Bootstrap, Figure, subset};
use super::energy::energy_distance;
use super::frechet::Reference;
use super::manifold::precision_recall;
use super::nearest::{copying, median, nearest};
use super::points::Points;
use crate::{Error, Result, Status};
use serde::Serialize;

/// Images, and their features in the same order.
#[derive(Clone, Copy, Debug)]
pub struct Set<'a> {
    /// The data themselves.
    pub data: Points<'a>,
    /// What a feature network made of them.
    pub features: Points<'a>,
}

impl Set<'_> {
    /// That there are features of each image, and that they are those of `other`'s spaces.
    fn check(&self, what: &str, other: &Set<'_>) -> Result<()> {
        let (data, features) = (self.data.len(), self.features.len());
        if data != features {
            let message = format!("{what}: features of {features} images, but {data} images");
            return Err(Error::new(Status::ShapeMismatch, message));
        }
        self.data.check_same(&other.data)?;
        self.features.check_same(&other.features)
    }

    /// At most `count` images, by lot.
    fn part(&self, count: usize, seed: u64, which: u32) -> Result<Part> {
        let n = self.data.len();
        let chosen = subset(seed, which, count.min(n), n)?;
        let (data, features) = (self.data.select(&chosen), self.features.select(&chosen));
        Ok(Part { data, features, dims: [self.data.dim(), self.features.dim()] })
    }
}

/// Images of a set, copied.
struct Part {
    data: Vec<f32>,
    features: Vec<f32>,
    dims: [usize; 2],
}

impl Part {
    fn set(&self) -> Result<Set<'_>> {
        let [data, features] = self.dims;
        Ok(Set { data: Points::new(&self.data, data)?, features: Points::new(&self.features, features)? })
    }
}

/// How figures are made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Of precision and recall; the paper's 3 by default.
    pub neighbours: usize,
    /// Intervals, and the seed of all draws.
    pub bootstrap: Bootstrap,
}

impl Default for Options {
    fn default() -> Self {
        Self { neighbours: 3, bootstrap: Bootstrap::default() }
    }
}

/// A figure of the samples beside the same figure of held-out data.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The samples'.
    #[serde(flatten)]
    pub samples: Figure,
    /// That of held-out data, at most as many as there are samples; `None` without such data.
    pub floor: Option<Figure>,
}

/// What [`evaluate`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Number of samples.
    pub samples: usize,
    /// Number of held-out images that floors are made of.
    pub floor_images: Option<usize>,
    /// Number of training images that precision, recall and energy distance are made with.
    pub compared_images: Option<usize>,
    /// [`Reference::distance_of`] of the features.
    pub frechet_distance: Row,
    /// [`precision_recall`] of the features.
    pub precision: Option<Row>,
    /// The same.
    pub recall: Option<Row>,
    /// [`energy_distance`] of the data to training data.
    pub energy_distance: Option<Row>,
    /// The [`median`] distance of the data to the [`nearest`] training data.
    pub nearest_training: Option<Row>,
    /// [`copying`] of the training data.
    pub copying: Option<Row>,
}

impl Report {
    /// The rows that there are, with names for people.
    pub fn rows(&self) -> Vec<(&'static str, Row)> {
        [
            ("Frechet distance", Some(self.frechet_distance)),
            ("precision", self.precision),
            ("recall", self.recall),
            ("energy distance", self.energy_distance),
            ("nearest training image", self.nearest_training),
            ("nearer than held-out", self.copying),
        ]
        .into_iter()
        .filter_map(|(name, row)| Some((name, row?)))
        .collect()
    }
}

/// Evaluates `samples` against the features of the training set, whose Gaussian is `reference`; and, as far as there
/// are the images themselves, against training images and with the floor of held-out (`test`) images.
///
/// Floors are made of as many test images as there are samples, if there are as many, and precision, recall and energy
/// distance against as many training images: subsets by lot, [`subset`] number 1 and 0. Distances to the nearest
/// training image are to all of them. `stage` is told what is being computed.
///
/// # Errors
/// Those of the figures.
pub fn evaluate(
    samples: Set<'_>,
    reference: &Reference,
    train: Option<Set<'_>>,
    test: Option<Set<'_>>,
    options: &Options,
    stage: &dyn Fn(&str),
) -> Result<Report> {
    samples.check("samples", &samples)?;
    let Options { neighbours, bootstrap } = options;
    let n = samples.data.len();
    let part = |set: Option<Set<'_>>, which, what: &str| {
        let part = |set: Set<'_>| set.check(what, &samples).and_then(|()| set.part(n, bootstrap.seed, which));
        set.map(part).transpose()
    };
    let few_train = part(train, 0, "training images")?;
    let few_test = part(test, 1, "test images")?;
    let few_train = few_train.as_ref().map(Part::set).transpose()?;
    let few_test = few_test.as_ref().map(Part::set).transpose()?;

    stage("Frechet distance");
    let frechet_distance = Row {
        samples: reference.distance_of(samples.features, bootstrap)?,
        floor: few_test.map(|test| reference.distance_of(test.features, bootstrap)).transpose()?,
    };
    let mut report = Report {
        samples: n,
        floor_images: few_test.map(|test| test.data.len()),
        compared_images: few_train.map(|train| train.data.len()),
        frechet_distance,
        precision: None,
        recall: None,
        energy_distance: None,
        nearest_training: None,
        copying: None,
    };
    let (Some(few_train), Some(train)) = (few_train, train) else { return Ok(report) };

    stage("precision and recall");
    let of = |features| precision_recall(features, few_train.features, *neighbours, bootstrap);
    let mine = of(samples.features)?;
    let floor = few_test.map(|test| of(test.features)).transpose()?;
    report.precision = Some(Row { samples: mine.precision, floor: floor.map(|floor| floor.precision) });
    report.recall = Some(Row { samples: mine.recall, floor: floor.map(|floor| floor.recall) });

    stage("energy distance");
    let of = |data| energy_distance(data, few_train.data, bootstrap);
    report.energy_distance =
        Some(Row { samples: of(samples.data)?, floor: few_test.map(|test| of(test.data)).transpose()? });

    stage("nearest training images");
    let mine = nearest(samples.data, train.data)?;
    let held_out = few_test.map(|test| nearest(test.data, train.data)).transpose()?;
    report.nearest_training = Some(Row {
        samples: median(&mine, bootstrap),
        floor: held_out.as_ref().map(|held_out| median(held_out, bootstrap)),
    });
    if let Some(held_out) = &held_out {
        report.copying = Some(Row {
            samples: copying(&mine, held_out, bootstrap)?,
            floor: Some(copying(held_out, held_out, bootstrap)?),
        });
    }
    Ok(report)
}
