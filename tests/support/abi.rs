//! The functions of `include/psld.h`, for the tests of the C ABI: those linked into the test, or, where
//! `PSLD_TEST_LIBRARY` names a library, those that it exports.

#![allow(dead_code, reason = "each test binary uses its part")]

pub use psld::capi::*;

use std::ffi::{CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::{env, mem};

const VARIABLE: &str = "PSLD_TEST_LIBRARY";

/// Held open for good, like the library of a program that is linked with it.
static LIBRARY: LazyLock<Option<usize>> = LazyLock::new(|| {
    let path = env::var(VARIABLE).ok()?;
    let name = CString::new(path.as_str()).unwrap();
    // SAFETY: loading psld runs no code but that of Rust's standard library.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!library.is_null(), "{path} cannot be loaded");
    Some(library.expose_provenance())
});

/// The address of an export of the library, if there is one.
fn symbol(name: &str) -> Option<*mut c_void> {
    let library = std::ptr::with_exposed_provenance_mut((*LIBRARY)?);
    let symbol = CString::new(name).unwrap();
    // SAFETY: a handle that dlopen gave, never closed.
    let address = unsafe { libc::dlsym(library, symbol.as_ptr()) };
    assert!(!address.is_null(), "the library does not export {name}");
    Some(address)
}

macro_rules! exports {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $returned:ty;)*) => {
        $(pub extern "C" fn $name($($argument: $type),*) -> $returned {
            let mut function: extern "C" fn($($type),*) -> $returned = psld::capi::$name;
            if let Some(address) = symbol(stringify!($name)) {
                // SAFETY: the function of that name, built from the same source.
                function = unsafe { mem::transmute::<*mut c_void, extern "C" fn($($type),*) -> $returned>(address) };
            }
            function($($argument),*)
        })*
    };
}
include!("exports.rs");

/// Runs this test program again, through the shared library of this build: all tests but `except`, the caller being one.
pub fn again_through_the_shared_library(except: &[&str]) {
    assert!(LIBRARY.is_none(), "again and again");
    let program = env::current_exe().unwrap();
    let library: PathBuf = program.parent().unwrap().join("libpsld.so");
    assert!(Path::is_file(&library), "{} was not built", library.display());
    let mut command = Command::new(program);
    command.env(VARIABLE, &library).env_remove("PSLD_UPDATE_CONFORMANCE");
    for test in except {
        command.args(["--skip", test]);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("test result: ok"),
        "through {}:\n{said}",
        library.display()
    );
}
