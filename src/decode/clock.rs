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

    /// The network's process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Whether it runs against forward time.
    pub fn is_reversed(&self) -> bool {
        self.time == NetworkTime::Reversed
    }

    /// The forward time at which the time input holds `number`.
    pub fn time(&self, number: f64) -> f64 {
        let (number, (first, last)) = (number / self.scale, self.process.times());
        let of_log_snr = |log_snr: f64| self.process.time_of_log_snr(log_snr, first, last);
        match self.time {
            NetworkTime::T => number,
            NetworkTime::Reversed => 1.0 - number,
            NetworkTime::Sigma => of_log_snr(-libm::log(number)),
            NetworkTime::CNoise => of_log_snr(-4.0 * number),
            NetworkTime::Index => (number + 1.0) / self.process.entries().unwrap_or(1) as f64,
        }
    }

    /// What the time input holds at forward time `t`.
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
