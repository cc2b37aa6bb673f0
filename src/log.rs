//! What the library has to say beside its results. It says nothing unless somebody listens.

use crate::fork::PerProcess;
use std::sync::Arc;

/// Receives a warning: one line. Called on the thread that has something to say, on several at once if need be.
pub type Sink = Arc<dyn Fn(&str) + Send + Sync>;

static SINK: PerProcess<Option<Sink>> = PerProcess::new();

/// Sends warnings to `sink`, for the whole process; without one there are none.
pub fn set_sink(sink: Option<Sink>) {
    *SINK.write() = sink;
}

/// Says something, if anyone listens. Not under the lock: who listens may replace the sink.
pub(crate) fn warn(message: impl FnOnce() -> String) {
    let sink = SINK.read().clone();
    if let Some(sink) = sink {
        sink(&message());
    }
}

/// Whether anyone listens.
pub(crate) fn is_heard() -> bool {
    SINK.read().is_some()
}
