//! An ONNX model as a score network.

use super::api::{Failure, Session, SessionOptions};
use super::evaluator::OnnxEvaluator;
use super::ports::{Ports, Time};
use super::session::{Model, Turns};
use super::{Provider, Runtime};
use crate::array::Precision;
use crate::decode::Clock;
use crate::hash::hex;
use crate::network::{Backend, Evaluator, Network};
use crate::spec::{ModelSpec, SPEC_KEY};
use crate::{Error, Result, Status, onnx};
use sha2::{Digest, Sha256};
use std::ffi::c_int;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct OnnxOptions {
    /// Used instead of the spec in the model's metadata.
    pub spec: Option<ModelSpec>,
    /// What shall execute the network: the first of these that can be had. There is no other fallback.
    pub providers: Vec<Provider>,
    /// Which GPU.
    pub device: i32,
    /// Threads of one network call; 0 is one for each CPU that this process may use.
    pub threads: usize,
    /// Whether these threads wait for work awake (ONNX Runtime's own default). They then take CPUs from the
    /// sampler's threads between calls, and from everything else: on a busy machine calls get several times
    /// slower. Only for a machine that has nothing else to do.
    pub spinning: bool,
    /// Calls that may be in flight at once, 1 to 1024; more take turns. More than one needs the CPU provider.
    pub concurrent_calls: usize,
}

impl Default for OnnxOptions {
    /// On the CPU, by all CPUs, with the model's own spec.
    fn default() -> Self {
        Self {
            spec: None,
            providers: vec![Provider::Cpu],
            device: 0,
            threads: 0,
            spinning: false,
            concurrent_calls: 1,
        }
    }
}

/// The most threads that can be asked for: ONNX Runtime starts them all at once.
const MAX_THREADS: usize = 1024;

/// The most calls at once that can be asked for.
pub const MAX_CALLS: usize = 1024;

/// A score network in ONNX form, run by ONNX Runtime. Shared: any thread, at once.
///
/// Evaluators of one network take turns in its session, [`OnnxOptions::concurrent_calls`] at a time.
pub struct OnnxNetwork {
    model: Arc<Model>,
    provider: Provider,
    source: Source,
    /// Computed when it is first asked for.
    hash: OnceLock<String>,
}

/// Where the model's bytes are, for its hash.
enum Source {
    Files(Files),
    Bytes { sha256: String },
}

/// A model's file, and those that hold its external data.
pub(crate) struct Files {
    model: Seen,
    /// By their names in the model, in the order of these.
    external: Vec<(String, Seen)>,
}

/// A file as it was when it was loaded.
struct Seen {
    path: PathBuf,
    len: u64,
    modified: Option<SystemTime>,
}

impl Seen {
    fn at(path: PathBuf) -> io::Result<(Self, File)> {
        // Before it is opened: a pipe would wait for who writes it.
        let metadata = std::fs::metadata(&path)?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let file = File::open(&path)?;
        Ok((Self { path, len: metadata.len(), modified: metadata.modified().ok() }, file))
    }

    /// The file that was loaded, which another one in its place must not pass for.
    fn open(&self) -> io::Result<File> {
        let (now, file) = Self::at(self.path.clone())?;
        if (now.len, now.modified) != (self.len, self.modified) {
            return Err(io::Error::other(format!("{} changed since it was loaded", self.path.display())));
        }
        Ok(file)
    }

    fn hash(&self) -> io::Result<String> {
        let mut file = self.open()?;
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(hex(&digest.finalize())),
                Ok(len) => digest.update(&buffer[..len]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl Files {
    /// The files of the model at `path`.
    ///
    /// # Errors
    /// [`Status::ReadFailed`] naming the file that is not there, or shorter than the model says.
    pub fn find(path: &Path) -> Result<Self> {
        let name = path.display();
        let unreadable = |e| Error::unreadable_model(&name, e);
        let (model, file) = Seen::at(path.to_path_buf()).map_err(unreadable)?;
        let named = match onnx::external(file) {
            Ok(named) => named,
            // What is no model, or a torn one, is said when it is loaded.
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                onnx::External::new()
            }
            Err(e) => return Err(unreadable(e)),
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        let found = named.into_iter().map(|(location, used)| {
            let what = format!("{name}: its external data `{location}` (of `{}`)", used.tensor);
            let (seen, _) = Seen::at(folder.join(&location)).map_err(|e| {
                Error::new(Status::ReadFailed, format!("{what} cannot be read"))
                    .source(e)
                    .hint("keep the files of a model together, under the names that they were exported with")
            })?;
            if seen.len < used.end {
                let (len, end) = (seen.len, used.end);
                let message = format!("{what} is torn: expected at least {end} bytes, got {len}");
                return Err(Error::new(Status::ReadFailed, message).hint("copy or export it again"));
            }
            Ok((location, seen))
        });
        Ok(Self { external: found.collect::<Result<_>>()?, model })
    }

    /// Whether weights are in other files.
    pub fn has_external(&self) -> bool {
        !self.external.is_empty()
    }

    /// SHA-256 of the model's file; where it has external data, of the text of that hash and of name and hash of each of these
    /// files, whole.
    pub fn hash(&self) -> io::Result<String> {
        let model = self.model.hash()?;
        if !self.has_external() {
            return Ok(model);
        }
        let mut digest = Sha256::new().chain_update(model);
        for (name, file) in &self.external {
            digest.update(format!("\n{name} {}", file.hash()?));
        }
        Ok(hex(&digest.finalize()))
    }

    /// That all are still what was loaded.
    fn check(&self) -> io::Result<()> {
        let mut all = [&self.model].into_iter().chain(self.external.iter().map(|(_, file)| file));
        all.try_for_each(|file| file.open().map(drop))
    }
}

impl OnnxNetwork {
    /// Loads the model in the file `path`; external data is looked for beside it.
    ///
    /// # Errors
    /// [`Status::ReadFailed`] and [`Status::ModelInvalid`] for the file, [`Status::SpecMissing`] and
    /// [`Status::SpecInvalid`] for the spec, [`Status::ModelMismatch`] where graph and spec differ,
    /// [`Status::ProviderUnavailable`] where none of the providers can be had.
    pub fn from_file(runtime: &'static Runtime, path: &Path, options: &OnnxOptions) -> Result<Self> {
        let name = path.display().to_string();
        let source = Source::Files(Files::find(path)?);
        let session = |session_options: &_| Session::from_file(runtime.env(), session_options, path);
        Self::load(runtime, name, source, options, session, || std::fs::read(path))
    }

    /// Loads a model from memory. It cannot have external data: there is no folder that its names are of.
    ///
    /// # Errors
    /// As [`Self::from_file`]; [`Status::ModelInvalid`] for external data.
    pub fn from_bytes(runtime: &'static Runtime, model: &[u8], options: &OnnxOptions) -> Result<Self> {
        if let Some((file, used)) =
            onnx::external(io::Cursor::new(model)).unwrap_or_default().first_key_value()
        {
            let tensor = &used.tensor;
            let message = format!(
                "the model in memory has external data, `{file}` (of `{tensor}`), but no folder to look in"
            );
            return Err(Error::new(Status::ModelInvalid, message)
                .hint("load it from its file, or export it with its weights inside"));
        }
        let source = Source::Bytes { sha256: hex(&Sha256::digest(model)) };
        let session = |session_options: &_| Session::from_bytes(runtime.env(), session_options, model);
        Self::load(runtime, "the model in memory".into(), source, options, session, || Ok(model.to_vec()))
    }

    fn load(
        runtime: &'static Runtime,
        name: String,
        source: Source,
        options: &OnnxOptions,
        create: impl Fn(&SessionOptions) -> Result<Session, Failure>,
        bytes: impl Fn() -> io::Result<Vec<u8>>,
    ) -> Result<Self> {
        let (provider, session) = start(runtime, options, create).map_err(|e| match e {
            NoSession::Refused(e) => e,
            // Our own reader tells what is no model from what ONNX Runtime cannot run; only now, as reading a
            // large model twice would cost those that are sound.
            NoSession::Model(cause) => match bytes().map(onnx::Model::read) {
                Err(e) => Error::unreadable_model(&name, e),
                Ok(Err(e)) => e.context(&name),
                Ok(Ok(_)) => {
                    let status = cause.status_or(Status::ModelInvalid);
                    Error::new(status, format!("{name}: the model cannot be loaded")).source(cause)
                }
            },
        })?;
        let failed = |cause| {
            Error::new(Status::ModelInvalid, format!("{name}: the graph cannot be read")).source(cause)
        };
        let mut spec = match &options.spec {
            Some(spec) => spec.clone(),
            None => {
                let text = session.metadata(SPEC_KEY).map_err(failed)?;
                ModelSpec::from_metadata(text.as_deref()).map_err(|e| e.context(&name))?
            }
        };
        let inputs = session.inputs().map_err(failed)?;
        let outputs = session.outputs().map_err(failed)?;
        let ports = Ports::find(&name, &spec, &inputs, &outputs)?;
        spec.network.whole_times = ports.time.element == Time::I64;
        let clock = Clock::new(&spec)?;
        let turns = Turns::new(options.concurrent_calls);
        let model = Model { name, spec, clock, ports, session, turns, runtime };
        Ok(Self { model: Arc::new(model), provider, source, hash: OnceLock::new() })
    }

    /// The provider that runs the network: one of those asked for.
    pub fn provider(&self) -> Provider {
        self.provider
    }
}

/// Why there is no session.
pub(super) enum NoSession {
    /// Options or providers.
    Refused(Error),
    /// The model.
    Model(Failure),
}

/// A session on the first of the providers that can be had.
pub(super) fn start(
    runtime: &'static Runtime,
    options: &OnnxOptions,
    create: impl Fn(&SessionOptions) -> Result<Session, Failure>,
) -> Result<(Provider, Session), NoSession> {
    let mut refusals = Vec::new();
    for &provider in &options.providers {
        let session_options = session_options(runtime, options, provider);
        let session = session_options.map_err(NoSession::Refused).and_then(|session_options| {
            create(&session_options).map_err(|e| match e.code {
                // These are about the model, whatever runs it; the rest is about the device, if there is one.
                Failure::NO_SUCH_FILE
                | Failure::NO_MODEL
                | Failure::INVALID_PROTOBUF
                | Failure::INVALID_GRAPH
                | Failure::NOT_IMPLEMENTED => NoSession::Model(e),
                _ if provider == Provider::Cpu => NoSession::Model(e),
                _ => NoSession::Refused(provider.unavailable(e)),
            })
        });
        match session {
            Ok(session) => return Ok((provider, session)),
            Err(NoSession::Refused(e)) if e.status() == Status::ProviderUnavailable => refusals.push(e),
            Err(e) => return Err(e),
        }
    }
    Err(NoSession::Refused(match refusals.len() {
        0 => Error::argument("providers: the list is empty").hint("known: cpu, cuda, tensorrt"),
        1 => refusals.remove(0),
        _ => {
            let reason = |e: &Error| match std::error::Error::source(e) {
                Some(source) => format!("\n  {}: {source}", e.message()),
                None => format!("\n  {}", e.message()),
            };
            let all: String = refusals.iter().map(reason).collect();
            Error::new(Status::ProviderUnavailable, format!("none of the providers can be had:{all}"))
                .hint(refusals[0].hint_text().unwrap_or_default())
        }
    }))
}

fn session_options(runtime: &Runtime, options: &OnnxOptions, provider: Provider) -> Result<SessionOptions> {
    if options.threads > MAX_THREADS {
        return Err(Error::argument(format!(
            "threads: expected at most {MAX_THREADS}, got {}",
            options.threads
        )));
    }
    if options.device < 0 {
        return Err(Error::argument(format!("device: expected 0 or more, got {}", options.device)));
    }
    if !(1..=MAX_CALLS).contains(&options.concurrent_calls) {
        return Err(Error::argument(format!(
            "concurrent_calls: expected 1 to {MAX_CALLS}, got {}",
            options.concurrent_calls
        )));
    }
    if options.concurrent_calls > 1 && provider != Provider::Cpu {
        return Err(Error::argument(format!(
            "concurrent_calls = {}: provider `{provider}` runs one call at a time",
            options.concurrent_calls
        ))
        .hint("load the model several times, or take 1"));
    }
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS),
        threads => threads,
    };
    let failed = |cause| Error::new(Status::RuntimeFailure, "ONNX Runtime's session options").source(cause);
    let mut session_options = SessionOptions::new(runtime.env(), threads as c_int).map_err(failed)?;
    // While a GPU works, threads that wait awake only take CPUs from the sampler.
    let spinning = if options.spinning && provider == Provider::Cpu { c"1" } else { c"0" };
    session_options.set(c"session.intra_op.allow_spinning", spinning).map_err(failed)?;
    provider.register(runtime, options.device, &mut session_options)?;
    Ok(session_options)
}

impl Network for OnnxNetwork {
    fn spec(&self) -> &ModelSpec {
        &self.model.spec
    }

    fn backend(&self) -> Backend {
        backend(self.model.runtime, self.provider)
    }

    fn output_precision(&self, _: Precision) -> Precision {
        Precision::F32
    }

    fn hash(&self) -> Result<String> {
        let files = match &self.source {
            Source::Bytes { sha256 } => return Ok(sha256.clone()),
            Source::Files(files) => files,
        };
        let hash = match self.hash.get() {
            Some(hash) => files.check().map(|()| hash.clone()),
            None => files.hash().map(|hash| self.hash.get_or_init(|| hash).clone()),
        };
        hash.map_err(|e| {
            Error::new(Status::ReadFailed, format!("{}: the model cannot be hashed", self.model.name))
                .source(e)
        })
    }

    fn evaluator(&self) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(OnnxEvaluator::new(Arc::clone(&self.model))?))
    }
}

pub(super) fn backend(runtime: &Runtime, provider: Provider) -> Backend {
    Backend {
        name: "onnxruntime",
        version: runtime.version().into(),
        provider: provider.name().into(),
        library: Some(runtime.library_path().display().to_string()),
    }
}

impl std::fmt::Debug for OnnxNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} by {:?} on {}", self.model.name, self.model.runtime, self.provider)
    }
}
