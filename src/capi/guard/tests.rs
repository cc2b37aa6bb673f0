//! A panic in every export.

use super::*;
use crate::array::Precision;
use crate::capi::*;
use crate::network::{Backend, Evaluator, Network};
use crate::{Model, ModelSpec};
use std::any::TypeId;
use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null, null_mut};

thread_local! {
    /// Where the calls below put their errors.
    static ERR: Cell<*mut psld_error> = const { Cell::new(null_mut()) };
}

/// An argument that says nothing: 0, NULL, no callback; but a place for an error.
trait Blank {
    fn blank() -> Self;
}

impl<T: 'static> Blank for *mut T {
    fn blank() -> Self {
        let error = TypeId::of::<T>() == TypeId::of::<*mut psld_error>();
        if error { ERR.with(Cell::as_ptr).cast() } else { null_mut() }
    }
}

impl<T> Blank for *const T {
    fn blank() -> Self {
        null()
    }
}

impl<T> Blank for Option<T> {
    fn blank() -> Self {
        None
    }
}

macro_rules! numbers {
    ($($number:ty)*) => {
        $(impl Blank for $number {
            fn blank() -> Self {
                Default::default()
            }
        })*
    };
}
numbers! { i32 u32 u64 usize f64 }

/// What an export returns, as text.
trait Returned {
    fn text(self) -> String;
}

impl Returned for i32 {
    fn text(self) -> String {
        self.to_string()
    }
}

impl Returned for usize {
    fn text(self) -> String {
        self.to_string()
    }
}

impl Returned for *const c_char {
    fn text(self) -> String {
        assert!(!self.is_null());
        // SAFETY: not NULL, and a string by the header.
        format!("{:?}", unsafe { CStr::from_ptr(self) })
    }
}

struct Export {
    name: &'static str,
    has_err: bool,
    /// Calls it with blank arguments.
    call: fn() -> String,
}

macro_rules! exports {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $returned:ty;)*) => {
        fn exports() -> Vec<Export> {
            vec![$(Export {
                name: stringify!($name),
                has_err: stringify!($($argument)*).ends_with("err"),
                call: || $name($(<$type as Blank>::blank()),*).text(),
            }),*]
        }
    };
}
// `tests/header.rs` holds it against the header.
include!("../../../tests/support/exports.rs");

/// PSLD_STATUS_PANIC
const PANIC: &str = "901";
/// What an export that has no status gives instead, as the header says.
const VALUES: [(&str, &str); 7] = [
    ("psld_version", "\"\""),
    ("psld_abi_version", "0"),
    ("psld_status_name", "\"PSLD_STATUS_UNKNOWN\""),
    ("psld_debug_live_handles", "0"),
    ("psld_error_message", "\"\""),
    ("psld_error_hint", "\"\""),
    ("psld_error_status", PANIC),
];

/// No panic leaves an export: an `extern "C"` function that one would leave ends the process, and these tests with it.
#[test]
fn a_panic_in_any_export_is_a_status() {
    for Export { name, has_err, call } in exports() {
        let (returned, panicked) = injected::within(call);
        assert!(panicked, "{name} has no guard");
        let value = VALUES.iter().find(|(value, _)| *value == name);
        assert_eq!(returned, value.map_or(PANIC, |(_, value)| *value), "{name}");
        let err = ERR.replace(null_mut());
        assert_eq!(!err.is_null(), has_err, "{name} and its error");
        if has_err {
            // SAFETY: the message of a live error.
            let message = unsafe { CStr::from_ptr(psld_error_message(err)) }.to_str().unwrap();
            assert!(message.contains("panic: injected at src/capi/guard.rs"), "{name}: {message}");
            assert_eq!(psld_error_status(err), Status::Panic as i32);
            assert_eq!(psld_error_free(err), Status::Ok as i32);
        }
    }
}

/// A function that frees panics before or after it has ended the handle: a second try succeeds, or finds nothing. It
/// is never freed twice.
#[test]
fn a_panic_in_a_free_leaves_the_handle_live_or_gone() {
    let mut cancel = null_mut();
    assert_eq!(psld_cancel_create(&mut cancel, null_mut()), 0);
    let (status, panicked) = injected::within(|| psld_cancel_free(cancel));
    assert!(panicked && status == Status::Panic as i32);
    assert_eq!(psld_cancel_free(cancel), 0);
    assert_eq!(psld_cancel_free(cancel), Status::InvalidHandle as i32);

    struct PanicsWhenDropped(ModelSpec);
    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("injected into drop");
        }
    }
    impl Network for PanicsWhenDropped {
        fn spec(&self) -> &ModelSpec {
            &self.0
        }
        fn backend(&self) -> Backend {
            unreachable!()
        }
        fn output_precision(&self, state: Precision) -> Precision {
            state
        }
        fn hash(&self) -> Result<String> {
            Ok(String::new())
        }
        fn evaluator(&self) -> Result<Box<dyn Evaluator>> {
            unreachable!()
        }
    }
    let spec = r#"{"format": 1, "process": {"kind": "vp"}, "data": {"shape": [4]}}"#;
    let network = PanicsWhenDropped(ModelSpec::parse(spec).unwrap());
    let model = share_model(Model::new(Arc::new(network), 1).unwrap()).unwrap();
    assert_eq!(psld_model_free(model), Status::Panic as i32);
    assert_eq!(psld_model_free(model), Status::InvalidHandle as i32);
    // What was shared with others is sound: the table goes on.
    assert_eq!(psld_cancel_create(&mut cancel, null_mut()), 0);
    assert_eq!(psld_cancel_free(cancel), 0);
}

#[test]
fn a_panic_in_a_place_without_err() {
    assert_eq!(guard(null_mut(), || panic!("injected")), Status::Panic as i32);
    assert_eq!(guard_value(7, || panic!("injected")), 7);
}
