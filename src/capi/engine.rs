//! Engines, and the tickets of what is submitted to them.

use super::convert::{self, Buffer, Out};
use super::guard::guard;
use super::run::{of_run, psld_run_options, read};
use super::structs::Struct;
use super::types::{psld_engine, psld_error, psld_log, psld_model, psld_progress, psld_sampler, psld_ticket};
use super::{handle, log};
use crate::engine::{Engine, EngineOptions, Request};
use crate::{Error, Result};
use std::ffi::{c_char, c_void};
use std::mem::size_of;
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::Duration;

/// How an engine works. Fill it with psld_engine_options_init, then change what you need.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct psld_engine_options {
    /// sizeof(psld_engine_options); set by psld_engine_options_init.
    pub struct_size: usize,
    /// Samples of one network call at most; default 0: 64. Where a model is its own guide ("cfg") a sample counts twice.
    pub max_batch: i32,
    /// Requests that may be in the engine at once; one more is PSLD_STATUS_QUEUE_FULL. All of them are worked on, and hold
    /// their arrays; default 0: 256.
    pub queue: i32,
    /// Seconds that the first call after a pause waits for company, unless `max_batch` samples are there, or somebody's
    /// deadline passes, before; default 0. Later calls never wait: who comes while one is made joins the next.
    pub max_wait_seconds: f64,
}

// SAFETY: `repr(C)`, size first, then integers and floats.
unsafe impl Struct for psld_engine_options {
    const NAME: &str = "psld_engine_options";
    const LEAST: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self { struct_size: size_of::<Self>(), max_batch: 0, queue: 0, max_wait_seconds: 0.0 }
    }
}

/// Fills `options` with the defaults.
///
/// Threads: any.
///
/// @param[out] options      the struct.
/// @param[in]  struct_size  sizeof(psld_engine_options).
/// @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER, or PSLD_STATUS_INVALID_ARGUMENT for another size.
#[unsafe(no_mangle)]
pub extern "C" fn psld_engine_options_init(options: *mut psld_engine_options, struct_size: usize) -> i32 {
    guard(null_mut(), || psld_engine_options::init(options, struct_size))
}

/// Starts an engine, which serves many callers with one network: requests of any size, sampler, length and class are
/// submitted on any thread at any time, and the network calls that are due are made together, as one batch of samples at
/// different times t. Each request gets what a run of it alone would get: bit for bit on an analytic model, within
/// rounding through ONNX Runtime.
///
/// An engine has one thread of its own (also where the model was loaded with `threads` 1), which makes the network's calls
/// and executes the steps in between. Requests are served in the order in which they began to wait for a network call; a
/// level of priority is worth a head start of 8 calls. A call takes samples from one after the other until it has
/// `max_batch`; who has had that many and needs more goes to the end of the queue. So nobody is kept waiting by large
/// requests, nor for good by higher priorities. A sample that becomes non-finite fails its request only; a network call that
/// fails, fails the requests that have samples in it.
///
/// Threads: any.
///
/// @param[in]  model    the model; it may be freed while the engine lives.
/// @param[in]  options  NULL for the defaults.
/// @param[out] out      the engine; free it with psld_engine_free.
/// @param[out] err      NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_INVALID_ARGUMENT naming the option, PSLD_STATUS_OUT_OF_MEMORY, or another error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_engine_create(
    model: *const psld_model,
    options: *const psld_engine_options,
    out: *mut *mut psld_engine,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let out = Out::new(out, "out")?;
        let model = handle::get(model, "model")?;
        let options = engine_options(options)?;
        let engine = Engine::new(&model, options)?;
        out.set(handle::create(Arc::new(engine))?);
        log::emit(psld_log::Info, || {
            let EngineOptions { max_batch, queue, .. } = options;
            format!("started an engine: calls of at most {max_batch} samples, {queue} requests")
        });
        Ok(())
    })
}

/// Hands in a request: what psld_run_start takes, and a priority. The arrays are allocated, and the initial state is drawn,
/// in this call, and all that can be wrong with the request is said here; it does not wait for the network.
///
/// Threads: any.
///
/// @param[in]  engine    an engine.
/// @param[in]  sampler   a sampler compiled for the model's spec; it may be freed while the request lives.
/// @param[in]  options   NULL for the defaults. `batch` must be 0: network calls are shared, and the engine's `max_batch` bounds
///                       them. `deadline_seconds` counts from this call. `cancel` stops the request before its next
///                       network call, or within the one in flight where all who have samples in it are cancelled.
/// @param[in]  priority  -10 to 10; more is served earlier.
/// @param[out] out       the ticket; free it with psld_ticket_free.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK; PSLD_STATUS_QUEUE_FULL (submit again when a request has ended); as psld_run_start;
///         PSLD_STATUS_CANCELLED where the engine is closed.
#[unsafe(no_mangle)]
pub extern "C" fn psld_engine_submit(
    engine: *const psld_engine,
    sampler: *const psld_sampler,
    options: *const psld_run_options,
    priority: i32,
    out: *mut *mut psld_ticket,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let out = Out::new(out, "out")?;
        let (engine, sampler) = (handle::get(engine, "engine")?, handle::get(sampler, "sampler")?);
        let options = read(options, &sampler)?;
        let (n, name) = (options.n, sampler.info().name);
        let ticket = engine.submit(Request { sampler, options, priority })?;
        let id = ticket.id();
        out.set(handle::create(Arc::new(ticket))?);
        log::emit(psld_log::Debug, || format!("request {id}: submitted, {n} samples with sampler {name}"));
        Ok(())
    })
}

/// What an engine has done so far, as a JSON object of numbers: `requests` (in the engine now), `submitted`, `completed`,
/// `failed` (also those that were cancelled or late), `calls` (of the network), `samples` (in all those calls together).
/// Size-query form.
///
/// Threads: any.
///
/// @param[in]  engine    an engine.
/// @param[out] buffer    receives the text with its NUL; or NULL. 256 bytes are always enough.
/// @param[in]  capacity  bytes in `buffer`; 0 with NULL.
/// @param[out] needed    NULL, or receives the bytes needed, the NUL included. While the engine works it may grow.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, or an error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_engine_stats_json(
    engine: *const psld_engine,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let stats = handle::get(engine, "engine")?.stats();
        convert::put_text(&serde_json::json!(stats).to_string(), buffer, capacity, needed)
    })
}

/// Ends an engine, also while it works: the network call in flight is ended, where ONNX Runtime runs it between two nodes of
/// its graph, the tickets of requests that have not ended end with PSLD_STATUS_CANCELLED, and this returns when the engine's
/// thread is gone (called on that thread, by a network, it returns before). More requests are refused with
/// PSLD_STATUS_CANCELLED; tickets stay, and can be read and freed.
///
/// Threads: any.
///
/// @param[in]  engine  an engine.
/// @param[out] err     NULL, or receives the error.
/// @return PSLD_STATUS_OK or an error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_engine_close(engine: *const psld_engine, err: *mut *mut psld_error) -> i32 {
    guard(err, || {
        handle::get(engine, "engine")?.close();
        Ok(())
    })
}

/// Frees an engine. Its tickets keep it at work: requests that were submitted go on to their ends (psld_engine_close ends them
/// at once). Without tickets this returns when the engine's thread is gone; otherwise the last psld_ticket_free does.
///
/// Threads: any.
///
/// @param[in] engine  an engine, or NULL.
/// @return PSLD_STATUS_OK or PSLD_STATUS_INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn psld_engine_free(engine: *mut psld_engine) -> i32 {
    guard(null_mut(), || {
        if let Some(engine) = handle::remove(engine, "engine")? {
            // Another thread may still be handing in a request: it is refused from here on.
            engine.retire();
        }
        Ok(())
    })
}

/// Waits for the end of a request, at most for a time.
///
/// Threads: any; several at once, if need be.
///
/// @param[in]  ticket           a ticket.
/// @param[in]  timeout_seconds  seconds to wait at most: 0 only looks, INFINITY waits as long as it takes.
/// @param[out] progress         NULL, or receives how far the request is, also where it failed; its struct_size must be set.
///                              `progress->done` is 1 where it is complete, and 0 where the time is over.
/// @param[out] err              NULL, or receives the error.
/// @return PSLD_STATUS_OK (complete, or not yet: see `progress`); why the request ended otherwise, the same at each call:
///         PSLD_STATUS_CANCELLED (also by psld_engine_close), PSLD_STATUS_DEADLINE_EXCEEDED, PSLD_STATUS_PARTIAL (of
///         an `anytime` request: read PSLD_OUTPUT_X0), PSLD_STATUS_NON_FINITE, PSLD_STATUS_MAX_NFE, or what a network call
///         failed with; PSLD_STATUS_INVALID_ARGUMENT for a negative time.
#[unsafe(no_mangle)]
pub extern "C" fn psld_ticket_wait(
    ticket: *const psld_ticket,
    timeout_seconds: f64,
    progress: *mut psld_progress,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        psld_progress::check(progress)?;
        let ticket = handle::get(ticket, "ticket")?;
        let timeout = seconds(timeout_seconds, "timeout_seconds")?;
        let outcome = ticket.wait_for(timeout);
        if !progress.is_null() {
            let now = outcome.as_ref().map_or_else(|_| ticket.progress(), |now| *now);
            of_run(now, ticket.samples()).write(progress)?;
        }
        outcome.map(drop)
    })
}

/// Asks for the end of a request, with PSLD_STATUS_CANCELLED; as a psld_cancel that was passed with it. It does nothing to one
/// that has ended.
///
/// Threads: any.
///
/// @param[in] ticket  a ticket.
/// @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER or PSLD_STATUS_INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn psld_ticket_cancel(ticket: *const psld_ticket) -> i32 {
    guard(null_mut(), || {
        handle::get(ticket, "ticket")?.cancel();
        Ok(())
    })
}

/// The number by which messages call a request ("request 7: ..."); it counts from 1 in each process.
///
/// Threads: any.
///
/// @param[in]  ticket  a ticket.
/// @param[out] id      the number.
/// @param[out] err     NULL, or receives the error.
/// @return PSLD_STATUS_OK or an error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_ticket_id(ticket: *const psld_ticket, id: *mut u64, err: *mut *mut psld_error) -> i32 {
    guard(err, || {
        let id = Out::new(id, "id")?;
        id.set(handle::get(ticket, "ticket")?.id());
        Ok(())
    })
}

/// The shape of what psld_ticket_read gives. Size-query form.
///
/// Threads: any.
///
/// @param[in]  ticket    a ticket.
/// @param[in]  what      one of psld_output.
/// @param[out] shape     receives the sizes, n first; or NULL.
/// @param[in]  capacity  elements of `shape`; 0 with NULL.
/// @param[out] ndim      NULL, or receives the number of sizes.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, or an error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_ticket_shape(
    ticket: *const psld_ticket,
    what: i32,
    shape: *mut i64,
    capacity: usize,
    ndim: *mut usize,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let what = convert::what(what)?;
        let sizes = handle::get(ticket, "ticket")?.shape(what);
        convert::put_sizes(&sizes, shape, capacity, ndim)
    })
}

/// Copies out the samples of a request that is complete; or, at any time and also after a failure, the data estimate of one
/// that was submitted with `previews` or `anytime`.
///
/// Threads: any.
///
/// @param[in]  ticket    a ticket.
/// @param[in]  what      one of psld_output.
/// @param[in]  dtype     type of the buffer's elements, one of psld_dtype; converted where the state has another.
/// @param[out] buffer    receives the array, row-major.
/// @param[in]  elements  elements (not bytes) of `buffer`: exactly the product of psld_ticket_shape.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_RUN_STATE (not complete, or no data estimate), PSLD_STATUS_BUFFER_TOO_SMALL,
///         PSLD_STATUS_INVALID_ARGUMENT for a buffer of more elements, or another error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_ticket_read(
    ticket: *const psld_ticket,
    what: i32,
    dtype: i32,
    buffer: *mut c_void,
    elements: usize,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let what = convert::what(what)?;
        let ticket = handle::get(ticket, "ticket")?;
        match convert::buffer(buffer, dtype, elements)? {
            Buffer::F32(out) => ticket.read(what, out),
            Buffer::F64(out) => ticket.read(what, out),
        }
    })
}

/// What made a request's samples: a JSON object as psld_run_provenance_json gives it, in which `batch` is null. Size-query
/// form.
///
/// Threads: any.
///
/// @param[in]  ticket    a ticket.
/// @param[out] buffer    receives the text with its NUL; or NULL.
/// @param[in]  capacity  bytes in `buffer`; 0 with NULL.
/// @param[out] needed    NULL, or receives the bytes needed.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, PSLD_STATUS_READ_FAILED (the model's file, which is hashed
///         once, has changed), or another error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_ticket_provenance_json(
    ticket: *const psld_ticket,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let provenance = handle::get(ticket, "ticket")?.provenance()?;
        convert::put_text(&provenance.to_string(), buffer, capacity, needed)
    })
}

/// Frees a ticket, and what its request holds. A request that has not ended is cancelled; a thread that waits for it is told
/// so. The last ticket of an engine that was freed before waits for the network call in flight.
///
/// Threads: any.
///
/// @param[in] ticket  a ticket, or NULL.
/// @return PSLD_STATUS_OK or PSLD_STATUS_INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn psld_ticket_free(ticket: *mut psld_ticket) -> i32 {
    guard(null_mut(), || {
        if let Some(ticket) = handle::remove(ticket, "ticket")? {
            ticket.cancel();
        }
        Ok(())
    })
}

fn engine_options(options: *const psld_engine_options) -> Result<EngineOptions> {
    let o = if options.is_null() { Struct::defaults() } else { psld_engine_options::read(options)? };
    let default = EngineOptions::default();
    Ok(EngineOptions {
        max_batch: convert::count(o.max_batch, "max_batch")?.unwrap_or(default.max_batch),
        queue: convert::count(o.queue, "queue")?.unwrap_or(default.queue),
        max_wait: seconds(o.max_wait_seconds, "max_wait_seconds")?,
    })
}

/// A time that is not negative; a century and more is for ever.
fn seconds(seconds: f64, name: &str) -> Result<Duration> {
    // NaN is neither.
    let bounded = if seconds >= 0.0 { seconds.min(3e9) } else { -1.0 };
    Duration::try_from_secs_f64(bounded)
        .map_err(|_| Error::argument(format!("{name} = {seconds}: expected at least 0")))
}
