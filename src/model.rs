//! A model: a network ready to be sampled from, with the threads to do it.

use crate::exec::Executor;
use crate::network::analytic::{Mixture, MixtureNetwork};
#[cfg(feature = "onnxruntime")]
use crate::network::onnxruntime::{OnnxNetwork, OnnxOptions, Provider, Runtime};
use crate::network::{Backend, Network};
use crate::spec::{ModelSpec, SPEC_KEY, What};
use crate::{Error, Result, Status, onnx};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    /// A spec that replaces the one in the file, for networks exported by others.
    pub spec: Option<ModelSpec>,
    /// Execution providers in order of preference; empty is the CPU. The first must be there: only what is listed
    /// after it is a fallback.
    #[cfg(feature = "onnxruntime")]
    pub providers: Vec<Provider>,
    /// Which device of the provider.
    pub device: i32,
    /// Threads for the network and for the solver, which take turns; 0: all CPUs that this process may use. 1
    /// starts none.
    pub threads: usize,
    /// Network calls that may be in flight at once, for several runs on one model; 0: 1. Others wait for their turn.
    /// More than one needs the CPU provider, and pays where a call does not use all CPUs (`threads` is few).
    pub concurrent_calls: usize,
}

impl ModelOptions {
    /// The part that ONNX Runtime needs.
    #[cfg(feature = "onnxruntime")]
    pub fn onnx(self) -> OnnxOptions {
        let Self { spec, mut providers, device, threads, concurrent_calls } = self;
        if providers.is_empty() {
            providers.push(Provider::Cpu);
        }
        // Awake between calls, the network's threads save a fifth of a short call on an idle machine; beside a GPU
        // they would only take CPUs from others.
        let spinning = providers[0] == Provider::Cpu;
        let concurrent_calls = concurrent_calls.max(1);
        OnnxOptions { spec, providers, device, threads, spinning, concurrent_calls }
    }

    /// Refuses providers that an analytic network does not have.
    fn cpu_only(&self) -> Result<()> {
        #[cfg(feature = "onnxruntime")]
        {
            if !self.providers.is_empty() && !self.providers.contains(&Provider::Cpu) {
                let message =
                    format!("provider `{}`: an analytic model runs on the CPU only", self.providers[0]);
                return Err(Error::new(Status::ProviderUnavailable, message));
            }
        }
        Ok(())
    }
}

/// A network ready to be sampled from. Shared: any thread, at once; clones are cheap.
#[derive(Clone)]
pub struct Model {
    network: Arc<dyn Network>,
    executor: Executor,
    kept: Arc<Kept>,
}

/// Answers that are costly to find, such as those of [`crate::tune::probe`], by their questions.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<BTreeMap<String, String>>);

impl Kept {
    pub fn get(&self, question: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(question).cloned()
    }

    pub fn keep(&self, question: String, answer: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(question, answer);
    }
}

impl Model {
    /// Wraps any network. `threads` as in [`ModelOptions::threads`].
    pub fn new(network: Arc<dyn Network>, threads: usize) -> Result<Self> {
        let threads =
            if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads };
        if threads > 1024 {
            return Err(Error::argument(format!("threads = {threads}: expected at most 1024")));
        }
        Ok(Self { network, executor: Executor::new(threads)?, kept: Arc::default() })
    }

    /// Reads a model: an ONNX file, or the JSON of an analytic mixture (`.json`).
    pub fn from_file(path: &Path, options: ModelOptions) -> Result<Self> {
        Self::check_file(path)?;
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
            let name = path.display();
            let bytes = crate::io::read_bytes(path)?;
            return Self::analytic(&bytes, options).map_err(|e| e.context(name));
        }
        Self::from_onnx_file(path, options)
    }

    /// Whether there is a file that a model can be read from: who names one that is not there shall hear of that, whatever
    /// else is missing (a spec, ONNX Runtime).
    ///
    /// # Errors
    /// [`Status::ReadFailed`].
    pub fn check_file(path: &Path) -> Result<()> {
        let name = path.display();
        let unreadable = |e| Error::unreadable_model(&name, e);
        // Not opened before it is known what it is: whoever opens a pipe waits for somebody to write.
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        let what = match metadata.is_dir() {
            true => "a folder",
            false if metadata.is_file() => return std::fs::File::open(path).map(drop).map_err(unreadable),
            false => "no regular file",
        };
        Err(Error::new(Status::ReadFailed, format!("{name}: is {what}, not a model")))
    }

    /// Reads the spec in a model file, or takes the one `given` beside it, and nothing that runs the network: no ONNX Runtime
    /// is needed.
    ///
    /// # Errors
    /// [`Status::ReadFailed`] and [`Status::ModelInvalid`] for the file, [`Status::SpecMissing`] and
    /// [`Status::SpecInvalid`] for the spec.
    pub fn read_spec(path: &Path, given: Option<ModelSpec>) -> Result<ModelSpec> {
        let name = path.display();
        Self::check_file(path)?;
        let bytes = crate::io::read_bytes(path)?;
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
            let network = MixtureNetwork::parse_as(&String::from_utf8_lossy(&bytes), given);
            return Ok(network.map_err(|e| e.context(name))?.spec().clone());
        }
        let model = onnx::Model::read(bytes).map_err(|e| e.context(&name))?;
        let mut spec = match given {
            Some(spec) => spec,
            None => ModelSpec::from_metadata(model.metadata(SPEC_KEY)).map_err(|e| e.context(&name))?,
        };
        let is_time = |port: &onnx::Port| port.name == spec.network.time_input;
        let time = model.inputs().into_iter().find(is_time).and_then(|port| port.element);
        spec.network.whole_times = time == Some(onnx::ElementType::I64);
        Ok(spec)
    }

    #[cfg(feature = "onnxruntime")]
    fn from_onnx_file(path: &Path, options: ModelOptions) -> Result<Self> {
        let threads = options.threads;
        let network = OnnxNetwork::from_file(Runtime::load(None)?, path, &options.onnx())?;
        Self::new(Arc::new(network), threads)
    }

    #[cfg(feature = "onnxruntime")]
    fn from_onnx_bytes(bytes: &[u8], options: ModelOptions) -> Result<Self> {
        let threads = options.threads;
        let network = OnnxNetwork::from_bytes(Runtime::load(None)?, bytes, &options.onnx())?;
        Self::new(Arc::new(network), threads)
    }

    /// Reads a model from memory: the content of a file that [`Self::from_file`] reads, but without external data.
    pub fn from_bytes(bytes: &[u8], options: ModelOptions) -> Result<Self> {
        // No ONNX model begins with a brace, or a byte order mark: its first byte is the key of a protobuf field that it has.
        let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        if text.trim_ascii_start().first() == Some(&b'{') {
            return Self::analytic(bytes, options);
        }
        Self::from_onnx_bytes(bytes, options)
    }

    fn analytic(json: &[u8], options: ModelOptions) -> Result<Self> {
        options.cpu_only()?;
        let text = std::str::from_utf8(json)
            .map_err(|e| Error::new(Status::ModelInvalid, "analytic model: not UTF-8").source(e))?;
        let network = MixtureNetwork::parse_as(text, options.spec)?;
        Self::new(Arc::new(network), options.threads)
    }

    #[cfg(not(feature = "onnxruntime"))]
    fn from_onnx_file(path: &Path, _: ModelOptions) -> Result<Self> {
        Err(no_onnxruntime().context(path.display()))
    }

    #[cfg(not(feature = "onnxruntime"))]
    fn from_onnx_bytes(_: &[u8], _: ModelOptions) -> Result<Self> {
        Err(no_onnxruntime())
    }

    /// What the network was trained on and what its output means.
    pub fn spec(&self) -> &ModelSpec {
        self.network.spec()
    }

    /// The shape of `what` of one sample: [C, ...] or [k*C, ...].
    pub fn sample_shape(&self, what: What) -> Result<Vec<usize>> {
        let mut shape = self.spec().data.shape.clone();
        if what == What::State {
            shape[0] *= self.spec().process()?.k();
        }
        Ok(shape)
    }

    /// What runs the network.
    pub fn backend(&self) -> Backend {
        self.network.backend()
    }

    /// SHA-256 of the model, in hexadecimal; computed when it is first asked for.
    ///
    /// # Errors
    /// [`Status::ReadFailed`] where the file is gone or has changed since it was loaded.
    pub fn hash(&self) -> Result<String> {
        self.network.hash()
    }

    /// The law of the data, where it is known: of an analytic mixture.
    pub fn mixture(&self) -> Option<&Mixture> {
        self.network.mixture()
    }

    pub(crate) fn network(&self) -> &Arc<dyn Network> {
        &self.network
    }

    /// What it keeps.
    pub(crate) fn kept(&self) -> &Kept {
        &self.kept
    }

    pub(crate) fn executor(&self) -> &Executor {
        &self.executor
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("backend", &self.backend()).finish_non_exhaustive()
    }
}

#[cfg(not(feature = "onnxruntime"))]
fn no_onnxruntime() -> Error {
    Error::new(Status::Unsupported, "this build of psld has no ONNX Runtime support")
        .hint("build with the feature `onnxruntime`")
}
