//! Ctrl+C: at once while nothing is at stake, after the step while sampling, and at once the second time.

use psld::{Error, Result, Status};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether someone looks at [`requested`] soon.
static POLLED: AtomicBool = AtomicBool::new(false);
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Takes over Ctrl+C for the rest of the process, unless whoever began it wants none heeded: `trap '' INT`, a job in the
/// background of a script.
pub fn install() -> Result<()> {
    if is_ignored() {
        return Ok(());
    }
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

fn is_ignored() -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: only asks; `now` is writable, and read only if the call filled it.
    unsafe {
        libc::sigaction(libc::SIGINT, std::ptr::null(), now.as_mut_ptr()) == 0
            && now.assume_init().sa_sigaction == libc::SIG_IGN
    }
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
