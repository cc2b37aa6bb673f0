//! The caller's token that stops runs, also in the middle of a network call.

use crate::network::Interrupt;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A request to stop, made by the caller and passed to any number of runs. Sticky: a request that comes before a run
/// starts is not lost, and nothing takes it back. Any thread.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Token>);

#[derive(Default)]
struct Token {
    cancelled: AtomicBool,
    /// The network calls that the token ends.
    calls: Mutex<Vec<Arc<dyn Interrupt>>>,
}

impl Cancel {
    /// A token that nobody has cancelled yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the runs that hold this token to stop: before their next network call, and, where the network can be
    /// interrupted, within the one in flight.
    pub fn cancel(&self) {
        // First: a call that is added later finds it set.
        self.0.cancelled.store(true, Ordering::SeqCst);
        self.calls().iter().for_each(|call| call.interrupt());
    }

    /// Whether [`Self::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Arc<dyn Interrupt>>> {
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancel").field(&self.is_cancelled()).finish()
    }
}

/// A token that watches over the network calls of one run, until it is dropped.
pub(crate) struct Watch {
    cancel: Cancel,
    /// Of the model, and of its guide.
    calls: Vec<Arc<dyn Interrupt>>,
}

impl Watch {
    pub fn new(cancel: Cancel, calls: Vec<Arc<dyn Interrupt>>) -> Self {
        let mut watched = cancel.calls();
        watched.extend(calls.iter().cloned());
        if cancel.is_cancelled() {
            calls.iter().for_each(|call| call.interrupt());
        }
        drop(watched);
        Self { cancel, calls }
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Under the lock, so that no interrupt comes after this.
        self.cancel.calls().retain(|other| !self.calls.iter().any(|call| Arc::ptr_eq(other, call)));
    }
}
