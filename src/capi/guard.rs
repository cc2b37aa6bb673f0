//! The border: what comes out of Rust is a status, never a panic, and nothing is printed on the way.

use super::error_text::ErrorText;
use super::handle;
use super::types::psld_error;
use crate::{Error, Result, Status, pin};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};

/// Runs the body of an export that returns a status; a failure is also handed out through `err` unless it is NULL.
pub fn guard(err: *mut *mut psld_error, body: impl FnOnce() -> Result<()>) -> i32 {
    match catch(body) {
        Ok(Ok(())) => Status::Ok as i32,
        Ok(Err(error)) => report(err, error),
        Err(panic) => report(err, panic),
    }
}

/// Runs the body of an export that returns a value; `failed` is what a panic becomes.
pub fn guard_value<T>(failed: T, body: impl FnOnce() -> T) -> T {
    catch(body).unwrap_or(failed)
}

fn report(err: *mut *mut psld_error, error: Error) -> i32 {
    let status = error.status() as i32;
    if !err.is_null() {
        // Without memory for the sentence the number still arrives.
        let handle = catch(|| handle::create(Arc::new(ErrorText::new(&error))));
        if let Ok(Ok(handle)) = handle {
            // SAFETY: the caller passes NULL or a place for a handle.
            unsafe { err.write(handle) };
        }
    }
    status
}

thread_local! {
    /// Whether this thread is inside of an export.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn catch<T>(body: impl FnOnce() -> T) -> Result<T> {
    pin::stay_loaded();
    silence_panics();
    let outer = INSIDE.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        #[cfg(test)]
        injected::panic_if_asked();
        body()
    }));
    INSIDE.set(outer);
    outcome.map_err(|payload| {
        let what = PANIC.take().unwrap_or_else(|| text(&*payload));
        // A payload may panic when it is dropped.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
        Error::new(Status::Panic, format!("a defect in psld: {what}")).hint("please report it")
    })
}

/// Keeps the standard hook from printing the panics that become a status: those inside of an export, and those on
/// the threads of an executor, which come back to one. All others go where they went before.
fn silence_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let ours = std::thread::current().name().is_some_and(|name| name.starts_with("psld-"));
            if INSIDE.get() {
                let place = info.location().map(|at| format!(" at {at}")).unwrap_or_default();
                PANIC.set(Some(text(info.payload()) + &place));
            } else if !ours {
                previous(info);
            }
        }));
    });
}

fn text(payload: &(dyn Any + Send)) -> String {
    let text =
        payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("of unknown cause"))
}

/// A panic in the body of an export, for tests: it is compiled into the library's own tests and nowhere else.
#[cfg(test)]
mod injected {
    use std::cell::Cell;

    thread_local! {
        static ASKED: Cell<bool> = const { Cell::new(false) };
    }

    /// `call`, in which the first body of an export panics; and whether there was one.
    pub fn within<T>(call: impl FnOnce() -> T) -> (T, bool) {
        ASKED.set(true);
        let value = call();
        (value, !ASKED.replace(false))
    }

    pub fn panic_if_asked() {
        assert!(!ASKED.replace(false), "injected");
    }
}

#[cfg(test)]
mod tests;
