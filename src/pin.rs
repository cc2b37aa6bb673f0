//! The shared library, or program, that holds this code. It must stay in memory: threads of ours may still be on their way out
//! of it after the last call, ONNX Runtime, which is never unloaded, keeps the address of a function of ours, and what a thread
//! or the process does when it ends is written down by address, too.

use std::path::PathBuf;

/// Keeps what holds this code in memory until the process ends, whoever unloads it: libpsld.so, or a plugin that was linked
/// with libpsld.a. It is loaded again as what it is, with all that it knows.
#[cfg(unix)]
pub(crate) fn stay_loaded() {
    use std::os::unix::ffi::OsStrExt;
    use std::sync::Once;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Some(file) = file_of(stay_loaded as *const ()) else { return };
        let Ok(file) = std::ffi::CString::new(file.as_os_str().as_bytes()) else { return };
        // SAFETY: by the name that the loader itself gave it, and only if it is there already: nothing is loaded or run. The
        // program, which cannot be unloaded, may have no such name; dlerror() then takes back what that left for the host.
        unsafe {
            if libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE).is_null()
            {
                libc::dlerror();
            }
        }
    });
}

#[cfg(not(unix))]
pub(crate) fn stay_loaded() {}

/// The file that holds the code at `address`.
#[cfg(unix)]
pub(crate) fn file_of(address: *const ()) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: dladdr takes any address and fills `info` when it returns non-zero; the name is then a string of
    // the loader, or null.
    unsafe {
        if libc::dladdr(address.cast(), info.as_mut_ptr()) == 0 {
            return None;
        }
        let name = info.assume_init().dli_fname;
        if name.is_null() {
            return None;
        }
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(std::ffi::CStr::from_ptr(name).to_bytes())))
    }
}

#[cfg(all(not(unix), feature = "onnxruntime"))]
pub(crate) fn file_of(_: *const ()) -> Option<PathBuf> {
    None
}
