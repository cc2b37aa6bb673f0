//! What the library has to say beside its results. It says nothing unless somebody listens.

use std::sync::{Arc, PoisonError, RwLock};

/// Receives a warning: one line. Called on the thread that has something to say, on several at once if need be.
pub type Sink = Arc<dyn Fn(&str) + Send + Sync>;

static SINK: RwLock<Option<Sink>> = RwLock::new(None);

/// Sends warnings to `sink`, for the whole process; without one there are none.
pub fn set_sink(sink: Option<Sink>) {
    *SINK.write().unwrap_or_else(PoisonError::into_inner) = sink;
}

/// Says something, if anyone listens. Not under the lock: who listens may replace the sink.
pub(crate) fn warn(message: impl FnOnce() -> String) {
    let sink = SINK.read().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(sink) = sink {
        sink(&message());
    }
}

/// Whether anyone listens.
pub(crate) fn is_heard() -> bool {
    SINK.read().unwrap_or_else(PoisonError::into_inner).is_some()
}
