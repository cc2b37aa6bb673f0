//! Runs, the token that stops them, and the whole way at once.

use super::convert::{self, Buffer, Out, Struct};
use super::guard::guard;
use super::handle;
use super::log;
use super::types::{
    psld_cancel, psld_error, psld_log, psld_model, psld_progress, psld_run, psld_sampler, psld_tensor,
};
use crate::run::{Cancel, Element, Inpaint, Overall, Progress, sample_into};
use crate::{Error, Model, Result, Run, RunOptions, Sampler, Status};
use std::ffi::c_void;
use std::mem::{offset_of, size_of};
use std::ops::ControlFlow;
use std::ptr::{null, null_mut};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
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
    /// Bytes that the arrays may take, or PSLD_STATUS_MEMORY_LIMIT; default 0: nine tenths of the machine's memory.
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
    /// Guidance scale of each sample, of a sampler compiled with `guidance`; 0 leaves a sample to the model. Default NULL:
    /// none.
    pub scales: *const f64,
    /// Number of scales: n, or 1 for all.
    pub scales_len: usize,
    /// The guidance network: a classifier's gradient, or for "cfg" a second, weaker network; default NULL: for "cfg" the
    /// model with the null class. It may be freed while the run lives.
    pub guide: *const psld_model,
}

// SAFETY: `repr(C)`, size first, then pointers, integers and floats.
unsafe impl Struct for psld_run_options {
    const NAME: &str = "psld_run_options";
    // What follows was appended.
    const LEAST: usize = offset_of!(Self, scales);
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
            scales: null(),
            scales_len: 0,
            guide: null(),
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

/// Asks all runs that hold this token to stop, before their next network call, with PSLD_STATUS_CANCELLED. It takes a
/// lock, so a signal handler should set a flag instead and leave this call to a thread.
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
        let run = Run::start(&model, &sampler, read(options, &sampler)?)?;
        out.set(handle::create(Arc::new(Mutex::new(run)))?);
        Ok(())
    })
}

/// Advances a run by at most `max_steps` solver steps.
///
/// Threads: one at a time per run; a second one gets PSLD_STATUS_BUSY.
///
/// @param[in]  run        a run.
/// @param[in]  max_steps  at least 0; 0 only tells how far the run is.
/// @param[out] progress   NULL, or receives how far the run is; its struct_size must be set. `progress->done` is 1
///                        after the last step.
/// @param[out] err        NULL, or receives the error.
/// @return PSLD_STATUS_OK; PSLD_STATUS_CANCELLED or PSLD_STATUS_DEADLINE_EXCEEDED (the run can be read, and
///         continued after psld_run_resume); PSLD_STATUS_NON_FINITE, PSLD_STATUS_MAX_NFE or another error (the run
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
        let mut run = lock(&run)?;
        let before = run.progress();
        let now = run.step(max_steps)?;
        if now.done && !before.done {
            log::emit(psld_log::Info, || finished(run.samples(), now.nfe, run.network_time()));
        }
        if !progress.is_null() {
            of_run(now, run.samples()).write(progress)?;
        }
        Ok(())
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
        let object = handle::get(run, "run")?;
        // Held across the removal, so that a step begins before it (and this call is refused) or after it.
        let held = match object.try_lock() {
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
/// @param[in]  progress  NULL, or is called after each step.
/// @param[in]  user      passed to `progress`.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK, or as psld_run_start, psld_run_step and psld_run_read.
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

/// The arguments of [`psld_sample`] but for the buffer.
struct Call<'a> {
    model: &'a Model,
    sampler: &'a Arc<Sampler>,
    options: &'a RunOptions,
    what: crate::run::What,
    progress: psld_progress_callback,
    user: *mut c_void,
}

impl Call<'_> {
    fn sample_into<T: Element>(&self, out: &mut [T]) -> Result<()> {
        let (nfe, seconds) =
            sample_into(self.model, self.sampler, self.options, self.what, out, |overall| {
                let Some(callback) = self.progress else { return ControlFlow::Continue(()) };
                match callback(self.user, &of_sampling(overall)) {
                    0 => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                }
            })?;
        let network = Duration::from_secs_f64(seconds.network);
        log::emit(psld_log::Info, || finished(self.options.n, nfe, network));
        Ok(())
    }
}

fn lock(run: &Mutex<Run>) -> Result<MutexGuard<'_, Run>> {
    run.try_lock().map_err(|e| match e {
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

fn read(options: *const psld_run_options, sampler: &Sampler) -> Result<RunOptions> {
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
    Ok(RunOptions {
        n,
        seed: if o.seed == 0 { sampler.options().seed() } else { o.seed },
        precision: convert::precision(o.precision, "precision")?,
        batch: convert::count(o.batch, "batch")?,
        max_memory: (o.max_memory > 0).then_some(o.max_memory),
        deadline: deadline(o.deadline_seconds)?,
        cancel: handle::get_optional(o.cancel, "cancel")?,
        init: convert::tensor(o.init, "init")?,
        noise: convert::tensor(o.noise, "noise")?,
        labels: (!labels.is_empty()).then(|| labels.to_vec()),
        inpaint,
        scales: (!scales.is_empty()).then(|| scales.to_vec()),
        guide: handle::get_optional(o.guide, "guide")?,
        previews: convert::flag(o.previews, "previews")?,
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

fn of_run(progress: Progress, samples: usize) -> psld_progress {
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

fn finished(samples: usize, nfe: usize, network: Duration) -> String {
    format!("{samples} samples in {nfe} network calls each, {:.3} s of them", network.as_secs_f64())
}
