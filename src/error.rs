//! One error type for the whole crate, and its one table to the numbers of the C ABI.

use std::fmt;

/// What a call came to, for programs.
///
/// In blocks of a hundred: 1xx argument, 2xx model, 3xx runtime or provider, 4xx numeric, 5xx run control,
/// 9xx internal. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[non_exhaustive]
pub enum Status {
    /// Success; never the status of an error.
    Ok = 0,
    /// An argument or option is out of range or contradicts another one.
    InvalidArgument = 100,
    /// A required pointer is NULL.
    NullPointer = 101,
    /// A handle is stale, of another type, or was never given out.
    InvalidHandle = 102,
    /// A caller's buffer is smaller than the result.
    BufferTooSmall = 103,
    /// A string is not UTF-8.
    InvalidUtf8 = 104,
    /// A JSON document (sampler options, plan, configuration) is malformed or has an unknown field.
    InvalidConfig = 105,
    /// A tensor has the wrong shape or type.
    ShapeMismatch = 106,
    /// The request needs more memory than its `max_memory`.
    MemoryLimit = 107,
    /// An input file cannot be read.
    ReadFailed = 108,
    /// An output file cannot be written.
    WriteFailed = 109,
    /// The combination is valid but this build does not offer it.
    Unsupported = 110,
    /// The object is of the process that this one was forked from.
    Forked = 111,
    /// The model file is not an ONNX model, or is damaged.
    ModelInvalid = 200,
    /// The model carries no `psld.spec` and none was given.
    SpecMissing = 201,
    /// The model's spec is malformed or inconsistent.
    SpecInvalid = 202,
    /// The model's inputs or outputs are not what its spec says.
    ModelMismatch = 203,
    /// No ONNX Runtime library was found.
    RuntimeNotFound = 300,
    /// The library found is no ONNX Runtime, or one of an unsupported version.
    RuntimeIncompatible = 301,
    /// Another ONNX Runtime library is loaded in this process already.
    RuntimeConflict = 302,
    /// The execution provider asked for cannot be had.
    ProviderUnavailable = 303,
    /// ONNX Runtime reported a failure.
    RuntimeFailure = 304,
    /// A value became NaN or infinite.
    NonFinite = 400,
    /// A computation is not possible at the given numbers (a covariance that is not positive definite, say).
    Numeric = 401,
    /// An adaptive solver reached its limit of network calls.
    MaxNfe = 402,
    /// The run was cancelled; it can be continued.
    Cancelled = 500,
    /// The object is in use by another thread.
    Busy = 501,
    /// The deadline passed; the run can be continued.
    DeadlineExceeded = 502,
    /// The run is not in the state that the call needs.
    RunState = 503,
    /// A checkpoint is torn, edited, or of another model or plan.
    CheckpointInvalid = 504,
    /// The deadline of an anytime run passed: there is a data estimate, and the run can be continued.
    Partial = 505,
    /// As many requests are in the engine as it was made for.
    QueueFull = 506,
    /// A defect of this library.
    Internal = 900,
    /// A panic was caught at the C boundary: a defect of this library.
    Panic = 901,
    /// Memory could not be allocated.
    OutOfMemory = 902,
}

impl Status {
    /// Whether it leaves a run that can be continued.
    pub fn is_interruption(self) -> bool {
        matches!(self, Self::Cancelled | Self::DeadlineExceeded | Self::Partial)
    }
}

/// Why a call failed: a status for programs, sentences for people.
pub struct Error {
    status: Status,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `status`; `message` says what, where, expected and got.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), hint: None, source: None }
    }

    /// [`Status::InvalidArgument`].
    pub fn argument(message: impl Into<String>) -> Self {
        Self::new(Status::InvalidArgument, message)
    }

    /// [`Status::ReadFailed`], of the file of a model.
    pub(crate) fn unreadable_model(file: impl fmt::Display, source: std::io::Error) -> Self {
        Self::new(Status::ReadFailed, format!("{file}: the model cannot be read")).source(source)
    }

    /// [`Status::Forked`], of what a process has from the one that it was forked from.
    pub(crate) fn forked(what: impl fmt::Display) -> Self {
        Self::new(Status::Forked, format!("{what} belongs to the process that this one was forked from"))
            .hint("load the model and start the work anew in this process, or start it without fork (spawn)")
    }

    /// Adds what the caller can do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the error that caused this one.
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says where it happened, in front of the message.
    pub fn context(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// The same once more, for another one whom it concerns; what caused it is part of the sentence.
    pub(crate) fn again(&self) -> Self {
        Self { status: self.status, message: self.sentence(), hint: self.hint.clone(), source: None }
    }

    /// The number for programs.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The sentence for people, without hint and cause.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The sentence for people with its cause, without the hint.
    pub fn sentence(&self) -> String {
        match &self.source {
            Some(source) => format!("{}: {source}", self.message),
            None => self.message.clone(),
        }
    }

    /// What the caller can do about it, if known.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence())?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?}] {self}", self.status)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| s.as_ref() as _)
    }
}
