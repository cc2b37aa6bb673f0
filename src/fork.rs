//! Processes that fork. A child has one thread, that which forked, and a copy of all else: locks that other threads of its
//! parent held stay locked for good, and nobody does the work that those threads did.

use std::ptr::null_mut;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

/// The process that this is: what a child has from its parent carries another number.
pub(crate) fn process() -> u32 {
    std::process::id()
}

/// A value of which a child of fork() gets one of its own.
pub(crate) trait Inherit: Sized + 'static {
    /// What a child has of its parent's value. `None` at the start, and where a thread of the parent's was writing it.
    fn inherit(parents: Option<&Self>) -> Self;
}

/// What can be copied, a child takes over.
impl<T: Clone + 'static> Inherit for Option<T> {
    fn inherit(parents: Option<&Self>) -> Self {
        parents.cloned().flatten()
    }
}

/// A static with a lock that no child of fork() finds locked: it never looks at its parent's again. What that one holds is
/// never dropped in the child, either: to drop an engine, say, is to wait for its thread.
pub(crate) struct PerProcess<T> {
    current: AtomicPtr<Of<T>>,
}

struct Of<T> {
    process: u32,
    value: RwLock<T>,
    /// Kept for nothing but tools that look for lost memory.
    _parents: *mut Of<T>,
}

impl<T: Inherit> PerProcess<T> {
    pub const fn new() -> Self {
        Self { current: AtomicPtr::new(null_mut()) }
    }

    pub fn read(&'static self) -> RwLockReadGuard<'static, T> {
        self.lock().read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&'static self) -> RwLockWriteGuard<'static, T> {
        self.lock().write().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&'static self) -> &'static RwLock<T> {
        let process = process();
        let parents = self.current.load(Ordering::Acquire);
        // SAFETY: NULL, or made below and never freed.
        let before = unsafe { parents.as_ref() };
        if let Some(of) = before
            && of.process == process
        {
            return &of.value;
        }
        let value = match before.map(|of| of.value.try_read()) {
            Some(Ok(value)) => T::inherit(Some(&value)),
            Some(Err(TryLockError::Poisoned(value))) => T::inherit(Some(&value.into_inner())),
            Some(Err(TryLockError::WouldBlock)) | None => T::inherit(None),
        };
        let made = Box::into_raw(Box::new(Of { process, value: RwLock::new(value), _parents: parents }));
        let exchanged = self.current.compare_exchange(parents, made, Ordering::AcqRel, Ordering::Acquire);
        // SAFETY: the one that stays is never freed. The other one nobody has seen.
        unsafe {
            match exchanged {
                Ok(_) => &(*made).value,
                Err(theirs) => {
                    drop(Box::from_raw(made));
                    &(*theirs).value
                }
            }
        }
    }
}
