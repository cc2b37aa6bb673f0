//! Runs, the token that stops them, and the whole way at once.

use super::convert::{self, Buffer, Out};
use super::guard::guard;
use super::handle::{self, Flight};
use super::log;
use super::structs::Struct;
use super::types::{
    psld_cancel, psld_dtype, psld_error, psld_log, psld_model, psld_progress, psld_run, psld_sampler,
    psld_tensor,
};
use crate::array::Element;
use crate::run::{self, Cancel, Estimate, Inpaint, Measurement, Overall, Progress, sample_into};
use crate::spec::What;
use crate::{Error, Model, Result, Run, RunOptions, Sampler, Status};
use std::ffi::{c_char, c_void};
use std::mem::{offset_of, size_of};
use std::ops::ControlFlow;
use std::ptr::{null, null_mut};
use std::sync::{Arc, MutexGuard, TryLockError};
use std::time::Duration;

/// What a run is started with, the sampler's options aside. Fill it with psld_run_options_init, then change what you
/// need. Arrays are copied before the call returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct psld_run_options {
    /// sizeof(psld_run_options); set by psld_run_options_init.
    pub struct_size: usize,
    /// Number of samples; default 1.
    pub n: i64,
    /// Seed of the first sample; sample i has seed + i. Default 0: the sampler's seed.
    pub seed: u64,
    /// Precision of the state, one of psld_dtype; default PSLD_DTYPE_F32.
    pub precision: i32,
    /// 1 keeps the data estimate of each step for PSLD_OUTPUT_X0; default 0.
    pub previews: i32,
    /// Samples of one network call; default 0: all in a run, at most 64 in psld_sample.
    pub batch: i64,
    /// Bytes that the arrays may take, or PSLD_STATUS_MEMORY_LIMIT; default 0: nine tenths of the machine's memory, or of what
    /// the control groups (cgroups) that the process is in allow it.
    pub max_memory: u64,
    /// Seconds from the start after which the run stops with PSLD_STATUS_DEADLINE_EXCEEDED; default 0: none.
    pub deadline_seconds: f64,
    /// A token that stops the run; default NULL. It may be freed while the run lives.
    pub cancel: *const psld_cancel,
    /// Initial state [n, k*C, ...]; default NULL: a draw of the prior.
    pub init: *const psld_tensor,
    /// Noise [draws, n, k*C, ...] in the order in which the plan consumes it; default NULL: psld_noise_fill's.
    pub noise: *const psld_tensor,
    /// Class of each sample, of a class-conditional model; default NULL: the null class. With classifier guidance it is the
    /// guidance network's, and the model runs with the null class.
    pub labels: *const i64,
    /// Number of labels: n, or 1 for all.
    pub labels_len: usize,
    /// Image to complete, [n or 1, C, ...] in the data's range; for a sampler compiled with `inpaint`.
    pub inpaint_image: *const psld_tensor,
    /// What of it is known, [n or 1, 1 or C, ...]: 1 known, 0 unknown.
    pub inpaint_mask: *const psld_tensor,
    /// 1: when the deadline passes, the best data estimate so far is there, with PSLD_STATUS_PARTIAL: PSLD_OUTPUT_X0 of a
    /// run, the result of psld_sample. At least one network call is made. Default 0: the run stops, and that is all.
    pub anytime: i32,
    /// Guidance scale of each sample, of a sampler compiled with `guidance`; 0 leaves a sample to the model. Default NULL:
    /// none.
    pub scales: *const f64,
    /// Number of scales: n, or 1 for all.
    pub scales_len: usize,
    /// The guidance network: a classifier's gradient, or for "cfg" a second, weaker network; default NULL: for "cfg" the
    /// model with the null class. It may be freed while the run lives.
    pub guide: *const psld_model,
    /// Images to start from, [n or 1, C, ...] in the data's range; default NULL: none. The initial state is a draw of the
    /// exact perturbation kernel at the sampler's first time: a(t) x_0 + L(t) xi, with the noise xi that the prior would be
    /// drawn with. With psld_sampler_options.t_start below 1 samples keep what of the image is left there. A sampler
    /// compiled with `encode` starts from the image itself, with momenta drawn as they are at t_end. Excludes `init`.
    pub from_image: *const psld_tensor,
    /// What was measured, for a sampler compiled with `restore`: [n or 1, C, H, W] in the data's range, for "average" by F [n or
    /// 1, C, H/F, W/F]; default NULL: none.
    pub measurement: *const psld_tensor,
    /// For "mask", which elements were measured: [n or 1, 1 or C, H, W], 1 measured, 0 not.
    pub measurement_mask: *const psld_tensor,
    /// A number of the caller's, which a psld_network_callback is told with each sample (psld_evaluation.tags); default 0.
    pub tag: u64,
}

// SAFETY: `repr(C)`, size first, then pointers, integers and floats.
unsafe impl Struct for psld_run_options {
    const NAME: &str = "psld_run_options";
    // What follows was appended.
    const LEAST: usize = offset_of!(Self, anytime);
    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            n: 1,
            seed: 0,
            precision: 0,
            previews: 0,
            batch: 0,
            max_memory: 0,
            deadline_seconds: 0.0,
            cancel: null(),
            init: null(),
            noise: null(),
            labels: null(),
            labels_len: 0,
            inpaint_image: null(),
            inpaint_mask: null(),
            anytime: 0,
            scales: null(),
            scales_len: 0,
            guide: null(),
            from_image: null(),
            measurement: null(),
            measurement_mask: null(),
            tag: 0,
        }
    }
}

/// Fills `options` with the defaults.
///
/// Threads: any.
///
/// @param[out] options      the struct.
/// @param[in]  struct_size  sizeof(psld_run_options).
/// @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER, or PSLD_STATUS_INVALID_ARGUMENT for another size.
#[unsafe(no_mangle)]
pub extern "C" fn psld_run_options_init(options: *mut psld_run_options, struct_size: usize) -> i32 {
    guard(null_mut(), || psld_run_options::init(options, struct_size))
}

/// Makes a token by which runs can be stopped. It is sticky: a request that comes before the run starts is not lost, and
/// nothing takes it back.
///
/// Threads: any.
///
/// @param[out] out  the token; free it with psld_cancel_free.
/// @param[out] err  NULL, or receives the error.
/// @return PSLD_STATUS_OK or an error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_cancel_create(out: *mut *mut psld_cancel, err: *mut *mut psld_error) -> i32 {
    guard(err, || {
        let out = Out::new(out, "out")?;
        out.set(handle::create(Cancel::new())?);
        Ok(())
    })
}

/// Asks all runs that hold this token to stop with PSLD_STATUS_CANCELLED: before their next network call, and, where ONNX
/// Runtime runs the network, within the one in flight, between two nodes of its graph. It takes a lock, so a signal
/// handler should set a flag instead and leave this call to a thread.
///
/// Threads: any.
///
/// @param[in] cancel  a token.
/// @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER or PSLD_STATUS_INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn psld_cancel_cancel(cancel: *const psld_cancel) -> i32 {
    guard(null_mut(), || {
        handle::get(cancel, "cancel")?.cancel();
        Ok(())
    })
}

/// Frees a token. Runs that hold it keep its state.
///
/// Threads: any.
///
/// @param[in] cancel  a token, or NULL.
/// @return PSLD_STATUS_OK or PSLD_STATUS_INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn psld_cancel_free(cancel: *mut psld_cancel) -> i32 {
    guard(null_mut(), || handle::release(cancel, "cancel"))
}

/// Begins a run: allocates all that it needs and draws (or takes) the initial state. No network call yet.
///
/// Threads: any.
///
/// @param[in]  model    the model; it may be freed while the run lives.
/// @param[in]  sampler  a sampler compiled for the model's spec; it may be freed while the run lives.
/// @param[in]  options  NULL for the defaults.
/// @param[out] out      the run; free it with psld_run_free.
/// @param[out] err      NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_INVALID_ARGUMENT or PSLD_STATUS_SHAPE_MISMATCH naming the option,
///         PSLD_STATUS_MEMORY_LIMIT, PSLD_STATUS_OUT_OF_MEMORY, or another error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_run_start(
    model: *const psld_model,
    sampler: *const psld_sampler,
    options: *const psld_run_options,
    out: *mut *mut psld_run,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let out = Out::new(out, "out")?;
        let (model, sampler) = (handle::get(model, "model")?, handle::get(sampler, "sampler")?);
        let run = Flight::new(Run::start(&model, &sampler, read(options, &sampler)?)?);
        let id = run.id;
        out.set(handle::create(run)?);
        log::emit(psld_log::Debug, || format!("run {id}: started with sampler {}", sampler.info().name));
        Ok(())
    })
}

/// The bytes of the arrays that a run of psld_run_start with these arguments holds, those among them that it is given and
/// copies to keep (images to complete, measurements, noise), and that psld_run_options.max_memory bounds. The network's own
/// memory, which ONNX Runtime manages, is not part of it.
///
/// Threads: any.
///
/// @param[in]  sampler  a sampler.
/// @param[in]  options  NULL for the defaults. Only `n` and `precision` matter.
/// @param[out] bytes    the bytes; UINT64_MAX for more.
/// @param[out] err      NULL, or receives the error.
/// @return PSLD_STATUS_OK or an error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_run_memory(
    sampler: *const psld_sampler,
    options: *const psld_run_options,
    bytes: *mut u64,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let bytes = Out::new(bytes, "bytes")?;
        let sampler = handle::get(sampler, "sampler")?;
        let needed = run::memory(&sampler, &read(options, &sampler)?);
        bytes.set(u64::try_from(needed).unwrap_or(u64::MAX));
        Ok(())
    })
}

/// The number by which log messages call a run ("run 7: ..."); it counts from 1 in each process.
///
/// Threads: any.
///
/// @param[in]  run  a run.
/// @param[out] id   the number.
/// @param[out] err  NULL, or receives the error.
/// @return PSLD_STATUS_OK or an error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_run_id(run: *const psld_run, id: *mut u64, err: *mut *mut psld_error) -> i32 {
    guard(err, || {
        let id = Out::new(id, "id")?;
        id.set(handle::get(run, "run")?.id);
        Ok(())
    })
}

/// Advances a run by at most `max_steps` solver steps.
///
/// Threads: one at a time per run; a second one gets PSLD_STATUS_BUSY.
///
/// @param[in]  run        a run.
/// @param[in]  max_steps  at least 0; 0 only tells how far the run is.
/// @param[out] progress   NULL, or receives how far the run is, also where it was interrupted or failed ("Status" above); its
///                        struct_size must be set. `progress->done` is 1 after the last step.
/// @param[out] err        NULL, or receives the error.
/// @return PSLD_STATUS_OK; PSLD_STATUS_CANCELLED, PSLD_STATUS_DEADLINE_EXCEEDED or PSLD_STATUS_PARTIAL (the run can be
///         read and saved, and continued after psld_run_resume); PSLD_STATUS_NON_FINITE, PSLD_STATUS_MAX_NFE or another error (the run
///         can only be read); PSLD_STATUS_PANIC (the run can only be freed).
#[unsafe(no_mangle)]
pub extern "C" fn psld_run_step(
    run: *mut psld_run,
    max_steps: i32,
    progress: *mut psld_progress,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        psld_progress::check(progress)?;
        let max_steps = usize::try_from(max_steps)
            .map_err(|_| Error::argument(format!("max_steps = {max_steps}: expected at least 0")))?;
        let run = handle::get(run, "run")?;
        let (now, outcome) = step(&run, max_steps)?;
        if !progress.is_null() {
            now.write(progress)?;
        }
        outcome
    })
}

/// Makes sample i of a run what its sample `indices[i]` was, between two steps: its state and all that goes with it (what a
/// multistep sampler remembers, class, scale, image and mask, data estimate). An index that comes several times makes
/// copies, one that does not come drops its sample. So a caller does sequential Monte Carlo: after each step it weighs
/// the samples by a reward of its own and draws indices by the weights; see bindings/c/examples/steering.c. It works after
/// the last step, too.
///
/// Draws go on counting: a copy with its original's seed stays a copy of it to the bit, and takes a way of its own, where
/// the sampler is stochastic, with a seed that no other sample has or had.
///
/// Threads: one at a time per run; a second one gets PSLD_STATUS_BUSY.
///
/// @param[in] run        a run.
/// @param[in] indices    `n` indices of samples, 0 to the run's number of samples less one.
/// @param[in] n          the number of samples from here on: 1 to as many as there are.
/// @param[in] new_seeds  `n` seeds, the sample's from here on; NULL: seeds follow their samples.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK; PSLD_STATUS_INVALID_ARGUMENT naming the index or the number; PSLD_STATUS_UNSUPPORTED for a run
///         whose noise the caller gave; PSLD_STATUS_RUN_STATE after a failure, or where the run was interrupted within a
///         step; or another error. After an error the run is as it was.
#[unsafe(no_mangle)]
pub extern "C" fn psld_run_gather(
    run: *mut psld_run,
    indices: *const i64,
    n: usize,
    new_seeds: *const u64,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let indices = convert::slice(indices, n, "indices")?;
        let seeds = match new_seeds.is_null() {
            true => None,
            false => Some(convert::slice(new_seeds, n, "new_seeds")?),
        };
        let index = |(i, index): (usize, &i64)| {
            usize::try_from(*index).map_err(|_| {
                Error::argument(format!("gather: index {index} at place {i}: expected at least 0"))
            })
        };
        let indices = indices.iter().enumerate().map(index).collect::<Result<Vec<_>>>()?;
        let flight = handle::get(run, "run")?;
        lock(&flight)?.gather(&indices, seeds)?;
        log::emit(psld_log::Debug, || format!("run {}: gathered {n} samples", flight.id));
        Ok(())
    })
}

/// Hears of a run's data estimate, on the thread that called psld_run_finish: `x0` is PSLD_OUTPUT_X0 of the run, as
/// float, row-major, and lives through the call like `progress`. A return value other than 0 stops the run with
/// PSLD_STATUS_CANCELLED. It must return: no exception, no longjmp.
pub type psld_preview_callback = Option<
    extern "C" fn(user: *mut c_void, progress: *const psld_progress, x0: *const f32, elements: usize) -> i32,
>;

/// Who is told while a run goes on. Fill it with psld_observer_init, then set what you need.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct psld_observer {
    /// sizeof(psld_observer); set by psld_observer_init.
    pub struct_size: usize,
    /// Passed to the callbacks; default NULL.
    pub user: *mut c_void,
    /// Called after each step; default NULL: nobody is. It may call any function of psld, on this run, too.
    pub progress: psld_progress_callback,
    /// Called with the data estimate; default NULL: nobody is. Needs a run with `previews` or `anytime`.
    pub preview: psld_preview_callback,
    /// Steps from one preview to the next, at least 1; default 1. The last step always has one.
    pub preview_every: i32,
}

// SAFETY: `repr(C)`, size first, then pointers and integers.
unsafe impl Struct for psld_observer {
    const NAME: &str = "psld_observer";
    const LEAST: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            user: null_mut(),
            progress: None,
            preview: None,
            preview_every: 1,
        }
    }
}

/// Fills `observer` with the defaults: nobody.
///
/// Threads: any.
///
/// @param[out] observer     the struct.
/// @param[in]  struct_size  sizeof(psld_observer).
/// @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER, or PSLD_STATUS_INVALID_ARGUMENT for another size.
#[unsafe(no_mangle)]
pub extern "C" fn psld_observer_init(observer: *mut psld_observer, struct_size: usize) -> i32 {
    guard(null_mut(), || psld_observer::init(observer, struct_size))
}

/// Advances a run to its end: psld_run_step in a loop, with callbacks between the steps.
///
/// Threads: one at a time per run; a second one gets PSLD_STATUS_BUSY.
///
/// @param[in]  run       a run.
/// @param[in]  observer  NULL, or who is told.
/// @param[out] progress  NULL, or receives how far the run is, also where it was interrupted or failed ("Status" above); its
///                       struct_size must be set.
/// @param[out] err       NULL, or receives the error.
/// @return as psld_run_step; PSLD_STATUS_CANCELLED also where a callback returns another value than 0;
///         PSLD_STATUS_RUN_STATE where previews are wanted of a run that makes none.
#[unsafe(no_mangle)]
pub extern "C" fn psld_run_finish(
    run: *mut psld_run,
    observer: *const psld_observer,
    progress: *mut psld_progress,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        psld_progress::check(progress)?;
        let observer =
            if observer.is_null() { psld_observer::defaults() } else { psld_observer::read(observer)? };
        let flight = handle::get(run, "run")?;
        let (now, outcome) = finish(&flight, &observer)?;
        if !progress.is_null() {
            now.write(progress)?;
        }
        outcome
    })
}

/// The run as bytes, from which psld_run_load makes it again, in any process: what it has computed, and what it was
/// started with (the arrays of psld_run_options among it), with a checksum and the hashes of model and sampler.
/// Between any two steps, and after an interruption. Size-query form; the size changes with the run's progress only.
///
/// Threads: one at a time per run; a second one gets PSLD_STATUS_BUSY.
///
/// @param[in]  run       a run.
/// @param[out] buffer    receives the bytes; or NULL.
/// @param[in]  capacity  bytes in `buffer`; 0 with NULL.
/// @param[out] needed    NULL, or receives the bytes needed.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, PSLD_STATUS_RUN_STATE (after a failure),
///         PSLD_STATUS_READ_FAILED (the model's file, which is hashed once, has changed), or another error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_run_save(
    run: *const psld_run,
    buffer: *mut c_void,
    capacity: usize,
    needed: *mut usize,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let flight = handle::get(run, "run")?;
        let bytes = lock(&flight)?.save()?;
        convert::put_bytes(&bytes, buffer, capacity, needed)?;
        if !buffer.is_null() {
            log::emit(psld_log::Info, || format!("run {}: saved in {} bytes", flight.id, bytes.len()));
        }
        Ok(())
    })
}

/// Makes a run again of what psld_run_save gave. It goes on as if it had never stopped: with the same bits on an analytic
/// model, and through ONNX Runtime for the same number of threads. Deadline and token are not part of it: psld_run_resume
/// sets them.
///
/// Threads: any.
///
/// @param[in]  model    the model that the run was started with.
/// @param[in]  sampler  a sampler of the same options, or of the same plan.
/// @param[in]  bytes    what psld_run_save gave; not needed any more after the call.
/// @param[in]  size     its number of bytes.
/// @param[out] out      the run; free it with psld_run_free.
/// @param[out] err      NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_CHECKPOINT_INVALID (torn, edited, of another model, another sampler, or a later
///         version), or another error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_run_load(
    model: *const psld_model,
    sampler: *const psld_sampler,
    bytes: *const c_void,
    size: usize,
    out: *mut *mut psld_run,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || load(model, sampler, null(), (bytes, size), out))
}

/// psld_run_load of a run that had a guidance network (psld_run_options.guide).
///
/// Threads: any.
///
/// @param[in]  model    the model that the run was started with.
/// @param[in]  sampler  a sampler of the same options, or of the same plan.
/// @param[in]  guide    the guidance network that the run was started with; it may be freed while the run lives. NULL: none.
/// @param[in]  bytes    what psld_run_save gave; not needed any more after the call.
/// @param[in]  size     its number of bytes.
/// @param[out] out      the run; free it with psld_run_free.
/// @param[out] err      NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_CHECKPOINT_INVALID (torn, edited, of another model, sampler or guidance network, or a
///         later version), or another error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_run_load_guided(
    model: *const psld_model,
    sampler: *const psld_sampler,
    guide: *const psld_model,
    bytes: *const c_void,
    size: usize,
    out: *mut *mut psld_run,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || load(model, sampler, guide, (bytes, size), out))
}

fn load(
    model: *const psld_model,
    sampler: *const psld_sampler,
    guide: *const psld_model,
    (bytes, size): (*const c_void, usize),
    out: *mut *mut psld_run,
) -> Result<()> {
    let out = Out::new(out, "out")?;
    let (model, sampler) = (handle::get(model, "model")?, handle::get(sampler, "sampler")?);
    let guide = handle::get_optional(guide, "guide")?;
    let bytes = convert::slice(bytes.cast::<u8>(), size, "bytes")?;
    let run = Run::load_guided(&model, &sampler, guide.as_ref(), bytes)?;
    let step = run.progress().step;
    let flight = Flight::new(run);
    let id = flight.id;
    out.set(handle::create(flight)?);
    log::emit(psld_log::Info, || format!("run {id}: loaded after step {step}"));
    Ok(())
}

/// What made a run's samples, as a JSON object: `psld` (version), `sampler` (name, options), `plan` and `model` (hashes),
/// `process`, `backend` (what runs the network), `noise` ("philox" or "caller"), `seeds` (first, count: at the start),
/// `gathered` (step, indices, seeds of each psld_run_gather), `conditioning`, `scales`, `guide`, `precision`, `batch`,
/// `labels`, `steps`, `nfe`, `t`, `done`, `network_seconds`. Size-query form.
///
/// Threads: one at a time per run; a second one gets PSLD_STATUS_BUSY.
///
/// @param[in]  run       a run.
/// @param[out] buffer    receives the text with its NUL; or NULL.
/// @param[in]  capacity  bytes in `buffer`; 0 with NULL.
/// @param[out] needed    NULL, or receives the bytes needed, the NUL included.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, PSLD_STATUS_READ_FAILED (the model's file, which is hashed
///         once, has changed), or another error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_run_provenance_json(
    run: *const psld_run,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let run = handle::get(run, "run")?;
        let provenance = lock(&run)?.provenance()?;
        convert::put_text(&provenance.to_string(), buffer, capacity, needed)
    })
}

/// Gives an interrupted run another token and another deadline, so that psld_run_step can continue it.
///
/// Threads: one at a time per run; a second one gets PSLD_STATUS_BUSY.
///
/// @param[in]  run               a run.
/// @param[in]  cancel            a token, or NULL for none.
/// @param[in]  deadline_seconds  seconds from now, or 0 for none.
/// @param[out] err               NULL, or receives the error.
/// @return PSLD_STATUS_OK or an error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_run_resume(
    run: *mut psld_run,
    cancel: *const psld_cancel,
    deadline_seconds: f64,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let run = handle::get(run, "run")?;
        let (deadline, cancel) = (deadline(deadline_seconds)?, handle::get_optional(cancel, "cancel")?);
        lock(&run)?.resume_with(deadline, cancel);
        Ok(())
    })
}

/// The shape of what psld_run_read gives. Size-query form.
///
/// Threads: one at a time per run; a second one gets PSLD_STATUS_BUSY.
///
/// @param[in]  run       a run.
/// @param[in]  what      one of psld_output.
/// @param[out] shape     receives the sizes, n first; or NULL.
/// @param[in]  capacity  elements of `shape`; 0 with NULL.
/// @param[out] ndim      NULL, or receives the number of sizes.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, or an error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_run_shape(
    run: *const psld_run,
    what: i32,
    shape: *mut i64,
    capacity: usize,
    ndim: *mut usize,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let what = convert::what(what)?;
        let run = handle::get(run, "run")?;
        let sizes = lock(&run)?.shape(what);
        convert::put_sizes(&sizes, shape, capacity, ndim)
    })
}

/// Copies out what a run holds; also between steps, and after an error other than PSLD_STATUS_PANIC.
///
/// Threads: one at a time per run; a second one gets PSLD_STATUS_BUSY.
///
/// @param[in]  run       a run.
/// @param[in]  what      one of psld_output.
/// @param[in]  dtype     type of the buffer's elements, one of psld_dtype; converted where the state has another.
/// @param[out] buffer    receives the array, row-major.
/// @param[in]  elements  elements (not bytes) of `buffer`: exactly the product of psld_run_shape.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, PSLD_STATUS_INVALID_ARGUMENT for a buffer of more elements,
///         PSLD_STATUS_RUN_STATE (no data estimate), or another error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_run_read(
    run: *const psld_run,
    what: i32,
    dtype: i32,
    buffer: *mut c_void,
    elements: usize,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let what = convert::what(what)?;
        let run = handle::get(run, "run")?;
        let run = lock(&run)?;
        match convert::buffer(buffer, dtype, elements)? {
            Buffer::F32(out) => run.read(what, out),
            Buffer::F64(out) => run.read(what, out),
        }
    })
}

/// Frees a run.
///
/// Threads: any; while another thread is in a call on this run it gets PSLD_STATUS_BUSY, and the run stays.
///
/// @param[in] run  a run, or NULL.
/// @return PSLD_STATUS_OK, PSLD_STATUS_INVALID_HANDLE or PSLD_STATUS_BUSY.
#[unsafe(no_mangle)]
pub extern "C" fn psld_run_free(run: *mut psld_run) -> i32 {
    guard(null_mut(), || {
        if run.is_null() {
            return Ok(());
        }
        let object = match handle::get(run, "run") {
            Err(e) if e.status() == Status::Forked => return handle::release(run, "run"),
            object => object?,
        };
        // Held across the removal, so that a step begins before it (and this call is refused) or after it.
        let held = match object.run.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(busy()),
            held => held,
        };
        let removed = handle::remove(run, "run");
        drop(held);
        removed.map(drop)
    })
}

/// Hears after each step of psld_sample how far it is, on the thread that called it; `progress` lives through the call.
/// A return value other than 0 stops the sampling with PSLD_STATUS_CANCELLED. It may call any function of psld, and
/// must return: no exception, no longjmp.
pub type psld_progress_callback =
    Option<extern "C" fn(user: *mut c_void, progress: *const psld_progress) -> i32>;

/// Draws samples, the whole way at once: psld_run_start, psld_run_step and psld_run_read, in batches of
/// psld_run_options.batch. Sample i has the same noise whatever the batch.
///
/// Threads: any.
///
/// @param[in]  model     the model.
/// @param[in]  sampler   a sampler compiled for the model's spec.
/// @param[in]  options   NULL for the defaults: one sample.
/// @param[in]  what      PSLD_OUTPUT_DATA or PSLD_OUTPUT_STATE.
/// @param[in]  dtype     type of the buffer's elements, one of psld_dtype.
/// @param[out] buffer    receives the samples, [n, C, ...] or [n, k*C, ...] row-major. After an error it holds the
///                       batches that were finished, and is otherwise as it was.
/// @param[in]  elements  elements (not bytes) of `buffer`: exactly the product of that shape.
/// @param[in]  progress  NULL, or is called after each step; not where the sampling fails or is interrupted.
/// @param[in]  user      passed to `progress`.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK; PSLD_STATUS_PARTIAL where the deadline of an anytime call passed and `buffer` holds data
///         estimates of some samples (with several batches each has its share of the time); or as psld_run_start,
///         psld_run_step and psld_run_read.
#[unsafe(no_mangle)]
pub extern "C" fn psld_sample(
    model: *const psld_model,
    sampler: *const psld_sampler,
    options: *const psld_run_options,
    what: i32,
    dtype: i32,
    buffer: *mut c_void,
    elements: usize,
    progress: psld_progress_callback,
    user: *mut c_void,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let what = convert::what(what)?;
        let (model, sampler) = (handle::get(model, "model")?, handle::get(sampler, "sampler")?);
        let options = read(options, &sampler)?;
        let call = Call { model: &model, sampler: &sampler, options: &options, what, progress, user };
        match convert::buffer(buffer, dtype, elements)? {
            Buffer::F32(out) => call.sample_into(out),
            Buffer::F64(out) => call.sample_into(out),
        }
    })
}

/// Likelihoods of images in bits per dimension, -log2 p(x)/d of each, along the probability flow: the lower the likelier. The
/// divergence is estimated by random directions and central differences, at each time of the grid.
///
/// In phase space momenta are drawn, and the bits are an upper bound, tight where data are smooth on the scale of the noise
/// at t_end. With classes, likelihoods given the class; not with guidance or inpainting.
///
/// Threads: any.
///
/// @param[in]  model       the model.
/// @param[in]  sampler     whose options (nfe, time_grid, t_end, ...) the flow is followed with: a sampler that can be compiled
///                         with `encode` (one without a name is taken for "gddim", one that "auto" chose for what it
///                         chose, which may not encode); psld_sampler_options.encode and denoise do not matter.
/// @param[in]  options     `n` images `from_image`, and what else the run takes; psld_run_options.precision PSLD_DTYPE_F64
///                         takes smaller differences of a network that computes in double precision.
/// @param[in]  probes      random directions at each time, of two network calls each, at least 1.
/// @param[in]  dequantise  1: the images' values are levels of 0 to 255 over the data range, each is spread over its bin of
///                         256, and the bits are those of 8-bit images; 0: of the density.
/// @param[out] bits        `n` numbers; after an error as they were.
/// @param[out] errors      NULL, or `n` numbers: the standard error of each by the directions; needs two probes or more.
/// @param[in]  n           psld_run_options.n.
/// @param[in]  progress    NULL, or is called after each step.
/// @param[in]  user        passed to `progress`.
/// @param[out] err         NULL, or receives the error.
/// @return PSLD_STATUS_OK; PSLD_STATUS_INVALID_ARGUMENT or PSLD_STATUS_SHAPE_MISMATCH naming the option;
///         PSLD_STATUS_UNSUPPORTED for a sampler that does not encode by fixed steps; or as psld_run_start and psld_run_step.
#[unsafe(no_mangle)]
pub extern "C" fn psld_likelihood(
    model: *const psld_model,
    sampler: *const psld_sampler,
    options: *const psld_run_options,
    probes: i32,
    dequantise: i32,
    bits: *mut f64,
    errors: *mut f64,
    n: usize,
    progress: psld_progress_callback,
    user: *mut c_void,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let (model, sampler) = (handle::get(model, "model")?, handle::get(sampler, "sampler")?);
        if sampler.info().name == "plan" {
            let message = "likelihood: the sampler is a plan, and its options are what is needed";
            return Err(Error::new(Status::Unsupported, message));
        }
        let options = read(options, &sampler)?;
        let probes = u32::try_from(probes)
            .map_err(|_| Error::argument(format!("probes = {probes}: expected at least 1")))?;
        let estimate = Estimate { probes, dequantise: convert::flag(dequantise, "dequantise")? };
        if n != options.n {
            return Err(Error::argument(format!("n = {n}: expected psld_run_options.n, {}", options.n)));
        }
        if !errors.is_null() && probes < 2 {
            return Err(Error::argument("errors: a standard error takes two probes or more"));
        }
        let f64 = psld_dtype::F64 as i32;
        let bits = convert::buffer(bits.cast(), f64, n)?;
        let errors = if errors.is_null() { None } else { Some(convert::buffer(errors.cast(), f64, n)?) };
        let made = run::likelihood(&model, sampler.options(), &options, estimate, |overall| {
            let Some(callback) = progress else { return ControlFlow::Continue(()) };
            match callback(user, &of_sampling(overall)) {
                0 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        })?;
        for (to, from) in [(Some(bits), &made.bits), (errors, &made.errors)] {
            if let Some(Buffer::F64(to)) = to {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    })
}

/// The arguments of [`psld_sample`] but for the buffer.
struct Call<'a> {
    model: &'a Model,
    sampler: &'a Arc<Sampler>,
    options: &'a RunOptions,
    what: What,
    progress: psld_progress_callback,
    user: *mut c_void,
}

impl Call<'_> {
    fn sample_into<T: Element>(&self, out: &mut [T]) -> Result<()> {
        let id = handle::next_run();
        let made = sample_into(self.model, self.sampler, self.options, self.what, out, |overall| {
            let Some(callback) = self.progress else { return ControlFlow::Continue(()) };
            match callback(self.user, &of_sampling(overall)) {
                0 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        })?;
        let (n, network) = (self.options.n, Duration::from_secs_f64(made.seconds.network));
        log::emit(psld_log::Info, || finished(id, n, made.nfe, network));
        match made.estimates {
            0 => Ok(()),
            estimates => Err(Error::new(
                Status::Partial,
                format!("the deadline passed: {estimates} of {n} samples are data estimates"),
            )),
        }
    }
}

/// Steps a run: how far it is then, and how that went. Fails where the run cannot be asked.
fn step(flight: &Flight, max_steps: usize) -> Result<(psld_progress, Result<()>)> {
    let mut run = lock(flight)?;
    let was_done = run.progress().done;
    let outcome = run.step(max_steps).map(drop);
    let now = run.progress();
    match &outcome {
        Ok(()) => {
            log::emit(psld_log::Debug, || format!("run {}: step {} (t = {})", flight.id, now.step, now.t));
            if now.done && !was_done {
                let network = run.network_time();
                log::emit(psld_log::Info, || finished(flight.id, run.samples(), now.nfe, network));
            }
        }
        Err(e) => {
            let level = if e.status().is_interruption() { psld_log::Info } else { psld_log::Error };
            log::emit(level, || format!("run {}: {}", flight.id, e.sentence()));
        }
    }
    Ok((of_run(now, run.samples()), outcome))
}

/// The body of [`psld_run_finish`], as [`step`]. The run is free while a callback runs, so that it can read or save it.
fn finish(flight: &Flight, observer: &psld_observer) -> Result<(psld_progress, Result<()>)> {
    let every = Some(observer.preview_every).filter(|every| *every > 0).ok_or_else(|| {
        Error::argument(format!("preview_every = {}: expected at least 1", observer.preview_every))
    })?;
    let stop =
        |step: i32| Err(Error::new(Status::Cancelled, format!("cancelled by a callback after step {step}")));
    let mut x0 = match observer.preview.map(|_| lock(flight)?.preview_buffer()).transpose() {
        Ok(x0) => x0.unwrap_or_default(),
        Err(e) => return Ok((place(flight)?, Err(e))),
    };
    loop {
        // Looked at each time: a callback may have stepped it.
        let before = place(flight)?;
        if before.done == 1 {
            return Ok((before, Ok(())));
        }
        let (told, outcome) = step(flight, 1)?;
        if outcome.is_err() {
            return Ok((told, outcome));
        }
        if let Some(callback) = observer.progress
            && callback(observer.user, &told) != 0
            && told.done == 0
        {
            return Ok((told, stop(told.step)));
        }
        if let Some(callback) = observer.preview
            && (told.step % every == 0 || told.done == 1)
        {
            if let Err(e) = lock(flight)?.read(What::X0, &mut x0) {
                return Ok((told, Err(e)));
            }
            if callback(observer.user, &told, x0.as_ptr(), x0.len()) != 0 && told.done == 0 {
                return Ok((told, stop(told.step)));
            }
        }
    }
}

/// How far a run is.
fn place(flight: &Flight) -> Result<psld_progress> {
    let run = lock(flight)?;
    Ok(of_run(run.progress(), run.samples()))
}

fn lock(flight: &Flight) -> Result<MutexGuard<'_, Run>> {
    flight.run.try_lock().map_err(|e| match e {
        TryLockError::WouldBlock => busy(),
        // The panic that interrupted a call on this run poisoned it, and no other.
        TryLockError::Poisoned(_) => {
            Error::new(Status::Panic, "run: an earlier call on it met a defect in psld; it can only be freed")
        }
    })
}

fn busy() -> Error {
    Error::new(Status::Busy, "run: another thread is in a call on it")
        .hint("a run is one thread at a time; to stop it, use a psld_cancel")
}

pub(super) fn read(options: *const psld_run_options, sampler: &Sampler) -> Result<RunOptions> {
    let o = if options.is_null() { Struct::defaults() } else { psld_run_options::read(options)? };
    let n = usize::try_from(o.n).map_err(|_| Error::argument(format!("n = {}: expected at least 1", o.n)))?;
    let labels = convert::slice(o.labels, o.labels_len, "labels")?;
    let scales = convert::slice(o.scales, o.scales_len, "scales")?;
    let inpaint = match (
        convert::tensor(o.inpaint_image, "inpaint_image")?,
        convert::tensor(o.inpaint_mask, "inpaint_mask")?,
    ) {
        (None, None) => None,
        (Some(image), Some(mask)) => Some(Inpaint { image, mask }),
        _ => return Err(Error::argument("inpaint_image and inpaint_mask go together: give both")),
    };
    let mask = convert::tensor(o.measurement_mask, "measurement_mask")?;
    let measurement = match convert::tensor(o.measurement, "measurement")? {
        None if mask.is_some() => {
            return Err(Error::argument("measurement_mask is given, but no `measurement`"));
        }
        values => values.map(|values| Measurement { values, mask }),
    };
    Ok(RunOptions {
        n,
        seed: if o.seed == 0 { sampler.options().seed() } else { o.seed },
        precision: convert::precision(o.precision, "precision")?,
        batch: convert::count(o.batch, "batch")?,
        max_memory: (o.max_memory > 0).then_some(o.max_memory),
        deadline: deadline(o.deadline_seconds)?,
        cancel: handle::get_optional(o.cancel, "cancel")?,
        init: convert::tensor(o.init, "init")?,
        from_image: convert::tensor(o.from_image, "from_image")?,
        noise: convert::tensor(o.noise, "noise")?,
        labels: (!labels.is_empty()).then(|| labels.to_vec()),
        inpaint,
        measurement,
        scales: (!scales.is_empty()).then(|| scales.to_vec()),
        guide: handle::get_optional(o.guide, "guide")?,
        previews: convert::flag(o.previews, "previews")?,
        anytime: convert::flag(o.anytime, "anytime")?,
        tag: o.tag,
    })
}

fn deadline(seconds: f64) -> Result<Option<Duration>> {
    if seconds == 0.0 {
        return Ok(None);
    }
    // NaN is no deadline either. A century is, and past what an instant can hold lies an overflow.
    let bounded = if seconds > 0.0 { seconds.min(3e9) } else { -1.0 };
    Duration::try_from_secs_f64(bounded).map(Some).map_err(|_| {
        Error::argument(format!("deadline_seconds = {seconds}: expected a positive number, or 0 for none"))
    })
}

pub(super) fn of_run(progress: Progress, samples: usize) -> psld_progress {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    psld_progress {
        step: count(progress.step),
        of: count(progress.of),
        nfe: count(progress.nfe),
        done: i32::from(progress.done),
        fraction: progress.fraction,
        t: progress.t,
        samples_done: if progress.done { samples as i64 } else { 0 },
        samples: samples as i64,
        ..psld_progress::defaults()
    }
}

fn of_sampling(overall: Overall) -> psld_progress {
    let finished = overall.finished + if overall.run.done { overall.in_flight } else { 0 };
    psld_progress {
        done: i32::from(finished == overall.n),
        fraction: overall.fraction(),
        samples_done: finished as i64,
        samples: overall.n as i64,
        ..of_run(overall.run, overall.n)
    }
}

fn finished(id: u64, samples: usize, nfe: usize, network: Duration) -> String {
    format!("run {id}: {samples} samples in {nfe} network calls each, {:.3} s of them", network.as_secs_f64())
}
