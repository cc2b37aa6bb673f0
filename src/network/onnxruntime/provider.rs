//! Execution providers: asked for by name, given or refused, never replaced.

use super::Runtime;
use super::api::{Failure, SessionOptions};
use crate::spec::strict;
use crate::{Error, Result, Status};
use std::ffi::CString;
use std::fmt;
use std::str::FromStr;

/// What executes a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Provider {
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU, by CUDA and cuDNN.
    Cuda,
    /// An NVIDIA GPU, by TensorRT; what TensorRT has no kernel for runs by CUDA.
    TensorRt,
}

impl Provider {
    /// All providers that this crate can ask for.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Cuda, Self::TensorRt];

    /// The name that options and reports use: "cpu", "cuda", "tensorrt".
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        }
    }

    /// ONNX Runtime's own name for it, which options may use, too.
    pub fn onnxruntime_name(self) -> &'static str {
        match self {
            Self::Cpu => "CPUExecutionProvider",
            Self::Cuda => "CUDAExecutionProvider",
            Self::TensorRt => "TensorrtExecutionProvider",
        }
    }

    /// Adds the provider to `options`. ONNX Runtime puts the CPU behind every other one, for the nodes that the
    /// other has no kernel for.
    pub(super) fn register(self, runtime: &Runtime, device: i32, options: &mut SessionOptions) -> Result<()> {
        if !runtime.providers().iter().any(|name| name == self.onnxruntime_name()) {
            let message = format!(
                "provider `{self}`: this build of ONNX Runtime ({}, {}) has only {}",
                runtime.version(),
                runtime.library_path().display(),
                runtime.providers().join(", ")
            );
            return Err(Error::new(Status::ProviderUnavailable, message).hint(self.needs()));
        }
        // The digits of an integer have no NUL.
        let device = CString::new(device.to_string()).unwrap_or_default();
        match self {
            Self::Cpu => Ok(()),
            Self::Cuda => options.append_cuda(&device),
            Self::TensorRt => options.append_tensorrt(&device).and_then(|()| options.append_cuda(&device)),
        }
        .map_err(|e| self.unavailable(e))
    }

    pub(super) fn unavailable(self, cause: Failure) -> Error {
        let message = format!("provider `{self}` cannot be started");
        Error::new(Status::ProviderUnavailable, message).source(cause).hint(self.needs())
    }

    fn needs(self) -> &'static str {
        match self {
            Self::Cpu => "use a build of ONNX Runtime with the CPU provider",
            Self::Cuda => {
                "needs an NVIDIA GPU with its driver, the libraries of the `onnxruntime-gpu` package, and those of \
                 CUDA 13 and cuDNN 9 where the loader finds them (LD_LIBRARY_PATH)"
            }
            Self::TensorRt => {
                "needs an NVIDIA GPU with its driver, the libraries of the `onnxruntime-gpu` package, and those of \
                 CUDA 13, cuDNN 9 and TensorRT 10 (libnvinfer.so.10) where the loader finds them (LD_LIBRARY_PATH)"
            }
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Provider {
    type Err = Error;

    /// By its name here, or by ONNX Runtime's.
    fn from_str(name: &str) -> Result<Self> {
        let is = |provider: &Self| [provider.name(), provider.onnxruntime_name()].contains(&name);
        Self::ALL.into_iter().find(is).ok_or_else(|| {
            let named = match name.ends_with("Provider") {
                true => Self::onnxruntime_name,
                false => Self::name,
            };
            Error::argument(format!("unknown provider `{name}`"))
                .hint(strict::did_you_mean(name, Self::ALL.iter().map(|provider| named(*provider))))
        })
    }
}
