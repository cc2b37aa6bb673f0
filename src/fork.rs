//! Processes that fork. A child has one thread, that which forked, and a copy of all else: locks that other threads of its
//! parent held stay locked for good, and nobody does the work that those threads did.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

/// The process that this is: what a child has from its parent carries another number. Of calls that compute next to nothing it is
/// a large part to ask the system, so Linux writes it down: in memory that a child finds empty.
pub(crate) fn process() -> u32 {
    match page::marked() {
        None => std::process::id(),
        Some(mark) => match mark.load(Ordering::Relaxed) {
            0 => begin(mark),
            process => process,
        },
    }
}

/// Gives this process a number that none of those that it descends from has: theirs are counted in memory that it has a copy of.
#[cold]
fn begin(mark: &AtomicU32) -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    mark.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed)
        .map_or_else(|theirs| theirs, |_| number)
}

#[cfg(target_os = "linux")]
mod page {
    use std::ptr::{NonNull, null_mut};
    use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

    /// Where Linux cannot (before 4.14).
    const NONE: *mut AtomicU32 = NonNull::dangling().as_ptr();

    static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(null_mut());

    /// A number in a page that is filled with zeros in each child of fork(), by whatever call.
    pub fn marked() -> Option<&'static AtomicU32> {
        let page = match PAGE.load(Ordering::Acquire) {
            page if page.is_null() => make(),
            page => page,
        };
        // SAFETY: but for `NONE` it is a page of zeros that was made below and is never unmapped.
        if page == NONE { None } else { Some(unsafe { &*page }) }
    }

    #[cold]
    fn make() -> *mut AtomicU32 {
        // SAFETY: new memory of this process' own; it is unmapped again only where nobody was told of it.
        unsafe {
            let size = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096);
            let (access, kind) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let memory = libc::mmap(null_mut(), size, access, kind, -1, 0);
            let wiped = memory != libc::MAP_FAILED && libc::madvise(memory, size, libc::MADV_WIPEONFORK) == 0;
            let page = if wiped { memory.cast() } else { NONE };
            let told = PAGE.compare_exchange(null_mut(), page, Ordering::AcqRel, Ordering::Acquire);
            if memory != libc::MAP_FAILED && (!wiped || told.is_err()) {
                libc::munmap(memory, size);
            }
            told.map_or_else(|theirs| theirs, |_| page)
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod page {
    pub fn marked() -> Option<&'static std::sync::atomic::AtomicU32> {
        None
    }
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
