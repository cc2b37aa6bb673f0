//! An error as C reads it.

use crate::{Error, Status};
use std::ffi::CString;

/// An [`Error`] as C strings.
pub struct ErrorText {
    pub status: Status,
    pub message: CString,
    pub hint: CString,
}

impl ErrorText {
    pub fn new(error: &Error) -> Self {
        // A NUL can come from a file's content only; it ends the text.
        let text = |text: String| {
            CString::new(text).unwrap_or_else(|e| {
                let end = e.nul_position();
                let mut bytes = e.into_vec();
                bytes.truncate(end);
                CString::new(bytes).unwrap_or_default()
            })
        };
        Self {
            status: error.status(),
            message: text(error.sentence()),
            hint: text(error.hint_text().unwrap_or_default().into()),
        }
    }
}
