//! What goes to stdout and stderr.

use psld::{Error, Result, Status};
use std::io::{self, IsTerminal, Write};

/// Writes to stdout. A reader that has seen enough (a closed pipe) is not an error.
pub fn stdout(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::new(Status::WriteFailed, "stdout: cannot be written").source(e))
        }
        _ => Ok(()),
    }
}

/// Writes to stderr; there is nobody to tell if that fails.
pub fn stderr(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// "error: ...", and a hint where there is one.
pub fn error(error: &Error) {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let paint =
        |code: &str, word: &str| if colour { format!("\x1b[{code}m{word}\x1b[0m") } else { word.into() };
    let text = error.to_string();
    let text = match text.split_once("\nhint:") {
        Some((message, hint)) => format!("{message}\n{}{hint}", paint("1;36", "hint:")),
        None => text,
    };
    stderr(&format!("{} {text}", paint("1;31", "error:")));
}

/// Versions of psld and of what it finds at run time.
pub fn versions() -> String {
    let plan = psld::plan::FORMAT;
    format!("{}\nplan format {plan}\n{}", env!("CARGO_PKG_VERSION"), onnxruntime())
}

#[cfg(feature = "onnxruntime")]
fn onnxruntime() -> String {
    match psld::network::onnxruntime::Runtime::load(None) {
        Ok(runtime) => format!("ONNX Runtime {} ({})", runtime.version(), runtime.library_path().display()),
        Err(e) => format!("ONNX Runtime: {}", e.message().lines().next().unwrap_or_default()),
    }
}

#[cfg(not(feature = "onnxruntime"))]
fn onnxruntime() -> String {
    "ONNX Runtime: not in this build".into()
}

/// Shows warnings: the library's, and ONNX Runtime's. Errors of either come back as ours.
pub fn forward_log() {
    psld::log::set_sink(Some(std::sync::Arc::new(|text| stderr(&format!("warning: {text}")))));
    #[cfg(feature = "onnxruntime")]
    {
        use psld::network::onnxruntime::{LogLevel, set_log_sink};
        set_log_sink(Some(std::sync::Arc::new(|level, text| {
            if level == LogLevel::Warning {
                stderr(&format!("onnxruntime: {text}"));
            }
        })));
    }
}

/// Four significant digits.
pub fn digits(value: f64) -> String {
    let magnitude = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    match magnitude {
        -4..=3 => format!("{value:.*}", (3 - magnitude).max(0) as usize),
        _ => format!("{value:.3e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::digits;

    #[test]
    fn figures_have_four_digits() {
        let text = [12.3456, -0.00123456, 0.0, 9999.4, 123_456.0, 1.5e-7].map(digits);
        assert_eq!(text, ["12.35", "-0.001235", "0.000", "9999", "1.235e5", "1.500e-7"]);
    }
}
