//! A loaded model: what its evaluators share, and their turns in it.

use super::Runtime;
use super::api::{Failure, Session};
use super::ports::Ports;
use crate::decode::Clock;
use crate::spec::ModelSpec;
use crate::{Error, Status};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What evaluators share.
pub(super) struct Model {
    /// The model's name in messages.
    pub name: String,
    pub spec: ModelSpec,
    pub clock: Clock,
    pub ports: Ports,
    /// Run it within a turn of `turns` only.
    pub session: Session,
    pub turns: Turns,
    pub runtime: &'static Runtime,
}

/// How many more calls may begin, and who waits for that.
pub(super) struct Turns {
    left: Mutex<usize>,
    changed: Condvar,
}

/// The right to be in a call, until it is dropped.
pub(super) struct Turn<'a>(&'a Turns);

impl Turns {
    pub fn new(calls: usize) -> Self {
        Self { left: Mutex::new(calls), changed: Condvar::new() }
    }

    fn left(&self) -> MutexGuard<'_, usize> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn; `None` if `interrupted` became true before there was one, and [`Self::wake`] was called.
    pub fn take(&self, interrupted: &AtomicBool) -> Option<Turn<'_>> {
        let mut left = self.left();
        while *left == 0 {
            if interrupted.load(Ordering::SeqCst) {
                return None;
            }
            left = self.changed.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
        *left -= 1;
        Some(Turn(self))
    }

    /// Lets all who wait look again.
    pub fn wake(&self) {
        // With the lock held once, nobody is between looking and waiting.
        drop(self.left());
        self.changed.notify_all();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.left() += 1;
        self.0.changed.notify_one();
    }
}

impl Model {
    /// An error of ONNX Runtime while this model ran.
    pub fn failed(&self, cause: Failure) -> Error {
        let status = cause.status_or(Status::RuntimeFailure);
        Error::new(status, "the network cannot be run").source(cause)
    }
}
