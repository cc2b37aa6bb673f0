//! The guide of a run: the model itself without a class, or a network of its own.

use crate::network::Network;
use crate::{Model, Result};
use std::sync::Arc;

/// What network 1 of a plan is.
pub(super) enum Guide {
    /// The model with the null class.
    Model,
    /// A network of its own, with the class of each sample where it takes one.
    Other { network: Arc<dyn Network>, labels: Option<Vec<i64>> },
}

impl Guide {
    pub fn other(model: &Model, labels: Option<Vec<i64>>) -> Self {
        let labelled = model.spec().network.label_input.is_some();
        Self::Other { network: model.network().clone(), labels: labels.filter(|_| labelled) }
    }

    /// SHA-256 of a network of its own.
    pub fn hash(&self) -> Result<Option<String>> {
        match self {
            Self::Model => Ok(None),
            Self::Other { network, .. } => network.hash().map(Some),
        }
    }
}
