//! What a network is told of the time.

use crate::Result;
use crate::process::Process;
use crate::spec::{ModelSpec, NetworkTime};

/// Turns forward times of the network's process into what its time input holds.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    process: Process,
    time: NetworkTime,
    scale: f64,
}

impl Clock {
    pub fn new(spec: &ModelSpec) -> Result<Self> {
        let (time, scale) = (spec.network_time(), spec.network.time_scale);
        Ok(Self { process: spec.network_process()?, time, scale })
    }

    pub fn at(&self, t: f64) -> f64 {
        self.scale
            * match self.time {
                NetworkTime::T => t,
                NetworkTime::Reversed => 1.0 - t,
                NetworkTime::Sigma => libm::exp(-self.process.log_snr(t)),
                NetworkTime::CNoise => -0.25 * self.process.log_snr(t),
                NetworkTime::Index => {
                    let index = t * self.process.entries().unwrap_or(1) as f64 - 1.0;
                    // The time of an entry is rounded; the entry is not.
                    let entry = libm::round(index);
                    if (index - entry).abs() < 1e-6 { entry } else { index }
                }
            }
    }
}
