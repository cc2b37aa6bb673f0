//! How good samples are: figures on sets of points, each with an interval of a bootstrap.
//!
//! Pure mathematics on [`Points`], which are data or what a feature network
//! ([`FeatureNetwork`]) makes of them:
//! * [`frechet_distance`] between Gaussians, and of points to a [`Gaussian`]: [`Reference::distance_of`];
//! * [`precision_recall`] by manifolds of nearest neighbours;
//! * [`energy_distance`], also of pairs: [`energy_distance_of_pairs`];
//! * how the samples of a known mixture fill its [`modes`];
//! * [`nearest`] neighbours and, from them, whether samples [`copying`] the training set.
//!
//! [`evaluate`] does all of them. A figure alone says little: it comes with its *floor*, the same figure of held-out
//! data in the place of the samples, and as many of them.
//!
//! # Intervals
//! [`Bootstrap`] draws the samples again, with replacement, and holds what they are compared with. [`Figure::low`] and
//! [`Figure::high`] are 2.5 % and 97.5 % quantiles of the figures of these resamples. A resample has repetitions, which
//! bias a Fréchet distance upwards; this bias, the mean of the resampled distances less the distance, is taken out.
//! So an interval is the spread of the figure at this number of samples, not an estimate of its value for infinitely
//! many. Fréchet distances fall with the number of samples: compare at equal numbers, and with the floor.
//!
//! All is deterministic: resamples and subsets are functions of a seed (Philox), and sums do not depend on the
//! number of threads. Another processor may round a matrix product otherwise.

mod bootstrap;
mod energy;
#[cfg(feature = "onnxruntime")]
mod features;
mod frechet;
mod manifold;
mod modes;
mod nearest;
mod pairs;
mod points;
mod report;
mod statistics;
mod symmetric;

pub use bootstrap::{Bootstrap, Figure, subset};
pub use energy::{energy_distance, energy_distance_of_pairs};
#[cfg(feature = "onnxruntime")]
pub use features::FeatureNetwork;
pub use frechet::{Gaussian, MAX_FEATURES, Reference, frechet_distance};
pub use manifold::{PrecisionRecall, precision_recall};
pub use modes::{ModeFigures, modes};
pub use nearest::{copying, median, nearest};
pub use points::Points;
pub use report::{Options, Report, Row, Set, evaluate};
pub use statistics::{About, Statistics};
