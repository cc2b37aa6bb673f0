//! The probe: which sampler is best for a model at one number of network calls.

use super::convert::{self};
use super::guard::guard;
use super::handle;
use super::run::psld_progress_callback;
use super::structs::Struct;
use super::types::{psld_cancel, psld_error, psld_model, psld_progress};
use crate::SamplerSpec;
use crate::tune::{ProbeOptions, Probing, probe};
use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;

/// Chooses sampler, order and grid for a model: tries some sixty on a few starts against a converged solution, and gives the
/// options with the best filled in, as the JSON that psld_sampler_options.options_json takes. Size-query form: the model keeps
/// the answer, so that the second call, as any with the same question, gives it at once.
///
/// Threads: any. It takes as long as some tens of network calls on 64 samples for each 10 of `nfe`.
///
/// @param[in]  model         a model.
/// @param[in]  options_json  options of the sampler as a JSON object: `nfe` or `steps`, and what else the samples will be drawn
///                           with. Of sampler, order and grid, what is given is kept. NULL: none, as in
///                           psld_sampler_options.
/// @param[in]  labels        classes of the starts, which take them in turn; NULL: the null class.
/// @param[in]  labels_len    number of labels.
/// @param[in]  cancel        a token that stops it with PSLD_STATUS_CANCELLED; NULL: none.
/// @param[in]  progress      NULL, or is called after each step of each candidate: `fraction`, and as `nfe` the network calls so
///                           far, of one sample each. A return value other than 0 stops the probe with
///                           PSLD_STATUS_CANCELLED.
/// @param[in]  user          passed to `progress`.
/// @param[out] buffer        receives the text with its NUL; or NULL.
/// @param[in]  capacity      bytes in `buffer`; 0 with NULL.
/// @param[out] needed        NULL, or receives the bytes needed, the NUL included.
/// @param[out] err           NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, PSLD_STATUS_CANCELLED, PSLD_STATUS_INVALID_ARGUMENT for a sampler that
///         is no candidate, or as psld_sampler_create and psld_run_step.
#[unsafe(no_mangle)]
pub extern "C" fn psld_model_probe(
    model: *const psld_model,
    options_json: *const c_char,
    labels: *const i64,
    labels_len: usize,
    cancel: *const psld_cancel,
    progress: psld_progress_callback,
    user: *mut c_void,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let model = handle::get(model, "model")?;
        let text = convert::optional_text(options_json, "options_json")?;
        let sampler = text.map(SamplerSpec::parse).transpose()?.unwrap_or_default();
        let labels = convert::slice(labels, labels_len, "labels")?.to_vec();
        let cancel = handle::get_optional(cancel, "cancel")?;
        let options = ProbeOptions { labels, cancel, ..ProbeOptions::new(sampler) };
        let probed = probe(&model, &options, |now| match progress.map(|tell| tell(user, &of(now))) {
            None | Some(0) => ControlFlow::Continue(()),
            Some(_) => ControlFlow::Break(()),
        })?;
        convert::put_text(&serde_json::json!(probed.options).to_string(), buffer, capacity, needed)
    })
}

fn of(now: Probing) -> psld_progress {
    let nfe = i32::try_from(now.calls).unwrap_or(i32::MAX);
    psld_progress { nfe, fraction: now.fraction, ..psld_progress::defaults() }
}
