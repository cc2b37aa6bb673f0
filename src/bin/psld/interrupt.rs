//! Ctrl+C: at once while nothing is at stake, after the step while sampling, and at once the second time.

use psld::{Error, Result, Status};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether someone looks at [`requested`] soon.
static POLLED: AtomicBool = AtomicBool::new(false);
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Takes over Ctrl+C for the rest of the process.
pub fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        if POLLED.load(Ordering::SeqCst) && !REQUESTED.swap(true, Ordering::SeqCst) {
            eprintln!("\ninterrupted: finishing the step (Ctrl+C again stops at once)");
            return;
        }
        eprintln!("\ninterrupted");
        // SAFETY: ends the process without running what others registered for its end, which can crash while
        // another thread is within ONNX Runtime.
        unsafe { libc::_exit(130) }
    })
    .map_err(|e| Error::new(Status::Internal, "Ctrl+C cannot be handled").source(e))
}

/// From here to the drop of the result, Ctrl+C only sets what [`requested`] says.
pub fn polled() -> Polled {
    POLLED.store(true, Ordering::SeqCst);
    Polled
}

pub struct Polled;

impl Drop for Polled {
    fn drop(&mut self) {
        POLLED.store(false, Ordering::SeqCst);
    }
}

pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}
