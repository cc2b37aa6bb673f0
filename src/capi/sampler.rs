//! Samplers.

use super::convert::{self, Out};
use super::guard::guard;
use super::handle;
use super::structs::Struct;
use super::types::{psld_error, psld_model, psld_sampler};
use crate::plan::Plan;
use crate::spec::{Conditioning, Guidance, GuidanceKind, InpaintMethod, Inpainting, Restoration, strict};
use crate::{Error, Result, Sampler, SamplerSpec, Status, solver};
use serde_json::{Map, Value, json};
use std::ffi::c_char;
use std::mem::{offset_of, size_of};
use std::ptr::{null, null_mut};
use std::sync::Arc;

/// Which sampler, and its options. Fill it with psld_sampler_options_init, then change what you need. A field at the
/// value that init gave it is "not given"; an option that the chosen sampler does not know is an error.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct psld_sampler_options {
    /// sizeof(psld_sampler_options); set by psld_sampler_options_init.
    pub struct_size: usize,
    /// All options as a JSON object, with the names of these fields; NULL: none. A field given below replaces the
    /// one in here. Only in here: "lower_order_final" (of "dpmpp" and "unipc", as diffusers has it; default false).
    pub options_json: *const c_char,
    /// Name of the sampler, one of psld_samplers_json; NULL: "auto", with `encode` "unipc".
    pub sampler: *const c_char,
    /// Solver steps, the closing one not included; 0: not given. Excludes `nfe`.
    pub steps: i32,
    /// All network calls, the closing one included; 0: not given, which is 30 without `steps`, with `encode` 100.
    pub nfe: i32,
    /// Name of the time grid ("uniform", "quadratic", "order2", "order2.5", "log_snr", "logistic", "karras") or path of a grid file;
    /// NULL: "quadratic".
    pub time_grid: *const c_char,
    /// The time grid itself: decreasing forward times in [1e-7, 1]; NULL: not given. Excludes `time_grid`.
    pub time_points: *const f64,
    /// Number of elements of `time_points`.
    pub time_points_len: usize,
    /// Forward time at which sampling starts, at most 1; NaN: 1, or the largest that the network knows. Of tables of betas with
    /// prediction epsilon or score it is the largest entry with alpha of at least 0.005 ("t_start" of `psld info --json`).
    pub t_start: f64,
    /// Forward time at which the solver's steps end, at least 1e-7; NaN: 0.001.
    pub t_end: f64,
    /// Whether a noise-free step of length `t_end` closes the run, 0 or 1; -1: 1.
    pub denoise: i32,
    /// Limit of network calls of adaptive samplers; 0: 10000.
    pub max_nfe: i32,
    /// Times of the closing step, "exact" or "float32" (the published code's rounding); NULL: "exact".
    pub denoise_time: *const c_char,
    /// Relative tolerance of adaptive samplers; NaN: 1e-4.
    pub rtol: f64,
    /// Absolute tolerance of adaptive samplers; NaN: 1e-4.
    pub atol: f64,
    /// Over what adaptive samplers take their error norm: "run" (all samples share their steps) or "sample" (each has
    /// its own, and does not depend on the others); NULL: "run".
    pub error_norm: *const c_char,
    /// Seed of the first sample of runs that give none; sample i has seed + i; default 0.
    pub seed: u64,
    /// Compiles for the completion of images, by this method: "corrected" (known pixels are kept exactly) or "published"
    /// (the code of the paper); NULL: no completion. Runs then need psld_run_options.inpaint_image and inpaint_mask.
    pub inpaint: *const c_char,
    /// Order of the scheme; 0: the sampler's default.
    pub order: i32,
    /// For k = 1, the sampler as its paper publishes it, 0 or 1; -1: 0.
    pub published: i32,
    /// Share of the reverse-time noise, 0 (deterministic) to 1 (ancestral); NaN: the sampler's default.
    pub eta: f64,
    /// Strength of the conjugate integrator's `matrix`; NaN: the sampler's default.
    pub lambda: f64,
    /// Strength of the position's noise in stochastic splittings; NaN: the sampler's default.
    pub lambda_s: f64,
    /// The conjugate integrator's matrix, "zero", "identity" or "ones"; NULL: "zero".
    pub matrix: *const c_char,
    /// Form of a sampler that has several ("bh1", "bh2"); NULL: the sampler's default.
    pub variant: *const c_char,
    /// Whether every data estimate is clipped to the data range, the closing one included, 0 or 1; -1: 0. Dynamic thresholding
    /// is said in `options_json`, as "clip": {"percentile": 0.995, "max": 1}. Not with `encode`, nor for likelihoods.
    pub clip: i32,
    /// With `inpaint`, how often each step is taken, the state taken back by the forward process in between; it
    /// multiplies the network calls. 0: 1.
    pub inpaint_resample: i32,
    /// Compiles with guidance: "cfg" (classifier-free, or by a second, weaker network) or "classifier" (by the gradient of
    /// one); NULL: none. Runs then need psld_run_options.scales. A guided evaluation is two network calls, and `nfe` counts
    /// both.
    pub guidance: *const c_char,
    /// Forward time from which on guidance acts; NaN: 0.
    pub guidance_from: f64,
    /// Forward time up to which guidance acts; NaN: 1.
    pub guidance_to: f64,
    /// For "cfg", how far outputs are brought back to the spread that they have without guidance, 0 to 1; NaN: 0.
    pub guidance_rescale: f64,
    /// 1: follows the probability flow from data to noise, from `t_end` to `t_start`, by a deterministic sampler (NULL:
    /// "unipc" of order 3): runs take images (psld_run_options.from_image) and end with latents (PSLD_OUTPUT_STATE), which are
    /// initial states (psld_run_options.init) of samplers that decode. 0 or -1: from noise to data.
    pub encode: i32,
    /// Compiles for the restoration of images from linear measurements: a JSON object, {"operator": {"kind": "average", "factor":
    /// 4}, "noise": 0.05, "data_std": 0.5, "resample": 1}, of which the operator must be given: "mask"; "average" with its
    /// "factor"; "blur" with its "std", in pixels; or "convolve" with its "kernel", rows of numbers. Without noise samples give
    /// the measurement exactly. NULL: none. Runs then need psld_run_options.measurement. Excludes `inpaint`.
    pub restore: *const c_char,
}

// SAFETY: `repr(C)`, size first, then pointers, integers and floats.
unsafe impl Struct for psld_sampler_options {
    const NAME: &str = "psld_sampler_options";
    // What follows was appended.
    const LEAST: usize = offset_of!(Self, order);
    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            options_json: null(),
            sampler: null(),
            steps: 0,
            nfe: 0,
            time_grid: null(),
            time_points: null(),
            time_points_len: 0,
            t_start: f64::NAN,
            t_end: f64::NAN,
            denoise: -1,
            max_nfe: 0,
            denoise_time: null(),
            rtol: f64::NAN,
            atol: f64::NAN,
            error_norm: null(),
            seed: 0,
            inpaint: null(),
            order: 0,
            published: -1,
            eta: f64::NAN,
            lambda: f64::NAN,
            lambda_s: f64::NAN,
            matrix: null(),
            variant: null(),
            clip: -1,
            inpaint_resample: 0,
            guidance: null(),
            guidance_from: f64::NAN,
            guidance_to: f64::NAN,
            guidance_rescale: f64::NAN,
            encode: -1,
            restore: null(),
        }
    }
}

/// Fills `options` with the defaults.
///
/// Threads: any.
///
/// @param[out] options      the struct.
/// @param[in]  struct_size  sizeof(psld_sampler_options).
/// @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER, or PSLD_STATUS_INVALID_ARGUMENT for another size.
#[unsafe(no_mangle)]
pub extern "C" fn psld_sampler_options_init(options: *mut psld_sampler_options, struct_size: usize) -> i32 {
    guard(null_mut(), || psld_sampler_options::init(options, struct_size))
}

/// The samplers of this library, as a JSON array of objects: `name`, `title`, `order`, `nfe_per_step`, `stochastic`,
/// `adaptive`, `paper`, `equation`. Size-query form.
///
/// Threads: any.
///
/// @param[out] buffer    receives the text with its NUL; or NULL.
/// @param[in]  capacity  bytes in `buffer`; 0 with NULL.
/// @param[out] needed    NULL, or receives the bytes needed, the NUL included.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, or an error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_samplers_json(
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let list: Vec<_> = solver::list().collect();
        convert::put_text(&json!(list).to_string(), buffer, capacity, needed)
    })
}

/// Compiles a sampler for models of this spec: all its mathematics is done here, once.
///
/// Threads: any.
///
/// @param[in]  model    the model, or another one of the same spec.
/// @param[in]  options  NULL for the defaults.
/// @param[out] out      the sampler; free it with psld_sampler_free.
/// @param[out] err      NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_INVALID_ARGUMENT or PSLD_STATUS_INVALID_CONFIG naming the option and the
///         rule, PSLD_STATUS_UNSUPPORTED where the sampler is not defined for the model's process, or another error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_sampler_create(
    model: *const psld_model,
    options: *const psld_sampler_options,
    out: *mut *mut psld_sampler,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let out = Out::new(out, "out")?;
        let model = handle::get(model, "model")?;
        let options =
            if options.is_null() { Struct::defaults() } else { psld_sampler_options::read(options)? };
        let sampler = Sampler::compile(model.spec(), &spec(&options)?, conditioning(&options)?)?;
        out.set(handle::create(Arc::new(sampler))?);
        Ok(())
    })
}

/// Makes a sampler of a plan: one that psld_sampler_plan_json gave, or of your own making.
///
/// Threads: any.
///
/// @param[in]  model      the model, or another one of the same spec.
/// @param[in]  plan_json  the plan.
/// @param[out] out        the sampler; free it with psld_sampler_free.
/// @param[out] err        NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_INVALID_CONFIG naming the row and the rule, or another error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_sampler_create_from_plan(
    model: *const psld_model,
    plan_json: *const c_char,
    out: *mut *mut psld_sampler,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let out = Out::new(out, "out")?;
        let model = handle::get(model, "model")?;
        let plan = Plan::parse(convert::text(plan_json, "plan_json")?)?;
        let sampler = Sampler::from_plan(model.spec(), plan)?;
        out.set(handle::create(Arc::new(sampler))?);
        Ok(())
    })
}

/// The plan of a sampler as JSON, one row a line: every coefficient, in double precision. Size-query form.
///
/// Threads: any.
///
/// @param[in]  sampler   a sampler that is not adaptive.
/// @param[out] buffer    receives the text with its NUL; or NULL.
/// @param[in]  capacity  bytes in `buffer`; 0 with NULL.
/// @param[out] needed    NULL, or receives the bytes needed, the NUL included.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, PSLD_STATUS_UNSUPPORTED (an adaptive sampler has no plan),
///         or another error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_sampler_plan_json(
    sampler: *const psld_sampler,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let sampler = handle::get(sampler, "sampler")?;
        let plan = sampler.plan().ok_or_else(|| {
            let name = sampler.info().name;
            Error::new(
                Status::Unsupported,
                format!("sampler `{name}` has no plan: it chooses its steps as it runs"),
            )
        })?;
        convert::put_text(&plan.to_json(), buffer, capacity, needed)
    })
}

/// SHA-256 of what the sampler does (of its plan, or of an adaptive sampler's options), 64 hexadecimal digits. Equal
/// hashes are equal numbers, on every platform. Size-query form.
///
/// Threads: any.
///
/// @param[in]  sampler   a sampler.
/// @param[out] buffer    receives the text with its NUL (65 bytes); or NULL.
/// @param[in]  capacity  bytes in `buffer`; 0 with NULL.
/// @param[out] needed    NULL, or receives the bytes needed, the NUL included.
/// @param[out] err       NULL, or receives the error.
/// @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, or an error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_sampler_hash(
    sampler: *const psld_sampler,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let sampler = handle::get(sampler, "sampler")?;
        convert::put_text(&sampler.hash(), buffer, capacity, needed)
    })
}

/// The network calls that a run of this sampler makes, the closing one included.
///
/// Threads: any.
///
/// @param[in]  sampler  a sampler.
/// @param[out] nfe      the calls; 0 for an adaptive sampler, which cannot know before it runs.
/// @param[out] err      NULL, or receives the error.
/// @return PSLD_STATUS_OK or an error.
#[unsafe(no_mangle)]
pub extern "C" fn psld_sampler_nfe(
    sampler: *const psld_sampler,
    nfe: *mut i32,
    err: *mut *mut psld_error,
) -> i32 {
    guard(err, || {
        let nfe = Out::new(nfe, "nfe")?;
        let sampler = handle::get(sampler, "sampler")?;
        nfe.set(sampler.plan().map_or(0, |plan| i32::try_from(plan.nfe).unwrap_or(i32::MAX)));
        Ok(())
    })
}

/// Frees a sampler. Runs that use it go on.
///
/// Threads: any.
///
/// @param[in] sampler  a sampler, or NULL.
/// @return PSLD_STATUS_OK or PSLD_STATUS_INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn psld_sampler_free(sampler: *mut psld_sampler) -> i32 {
    guard(null_mut(), || handle::release(sampler, "sampler"))
}

/// The fields that are given, on top of `options_json`, read by the parser of the JSON form: names, defaults and
/// messages are the same in both.
fn spec(options: &psld_sampler_options) -> Result<SamplerSpec> {
    let mut fields = match convert::optional_text(options.options_json, "options_json")? {
        None => Map::new(),
        Some(text) => strict::parse_fields(text, Status::InvalidConfig, "sampler options")?,
    };
    let names = [
        ("sampler", options.sampler),
        ("time_grid", options.time_grid),
        ("denoise_time", options.denoise_time),
        ("error_norm", options.error_norm),
        ("matrix", options.matrix),
        ("variant", options.variant),
    ];
    for (name, value) in names {
        if let Some(value) = convert::optional_text(value, name)? {
            if name == "sampler" {
                fields.remove("kind");
            }
            fields.insert(name.into(), value.into());
        }
    }
    let counts = [
        ("steps", options.steps),
        ("nfe", options.nfe),
        ("max_nfe", options.max_nfe),
        ("order", options.order),
    ];
    for (name, value) in counts {
        if let Some(value) = convert::count::<u32>(value, name)? {
            fields.insert(name.into(), value.into());
        }
    }
    let numbers = [
        ("t_start", options.t_start),
        ("t_end", options.t_end),
        ("rtol", options.rtol),
        ("atol", options.atol),
        ("eta", options.eta),
        ("lambda", options.lambda),
        ("lambda_s", options.lambda_s),
    ];
    for (name, value) in numbers {
        if value.is_infinite() {
            return Err(Error::argument(format!(
                "{name} = {value}: expected a finite number, or NaN for the default"
            )));
        }
        if !value.is_nan() {
            fields.insert(name.into(), value.into());
        }
    }
    if options.time_points_len > 0 || !options.time_points.is_null() {
        if !options.time_grid.is_null() {
            return Err(Error::argument("time_grid and time_points exclude each other: give one"));
        }
        let points = convert::slice(options.time_points, options.time_points_len, "time_points")?;
        if let Some(i) = points.iter().position(|t| !t.is_finite()) {
            return Err(Error::argument(format!("time_points: time {i} is {}", points[i])));
        }
        fields.insert("time_grid".into(), points.into());
    }
    let flags = [
        ("denoise", options.denoise),
        ("published", options.published),
        ("clip", options.clip),
        ("encode", options.encode),
    ];
    for (name, value) in flags {
        if value != -1 {
            fields.insert(name.into(), convert::flag(value, name)?.into());
        }
    }
    if options.seed != 0 {
        fields.insert("seed".into(), options.seed.into());
    }
    SamplerSpec::from_json(Value::Object(fields))
}

/// What the sampler is compiled for.
fn conditioning(options: &psld_sampler_options) -> Result<Conditioning> {
    let resample = convert::count::<u32>(options.inpaint_resample, "inpaint_resample")?;
    let inpaint = match convert::optional_text(options.inpaint, "inpaint")? {
        Some(name) => {
            let method: InpaintMethod =
                serde_json::from_value(name.into()).map_err(|e| Error::argument(format!("inpaint: {e}")))?;
            Some(Inpainting { method, resample: resample.unwrap_or(1) })
        }
        None if resample.is_some() => {
            return Err(Error::argument("inpaint_resample is given, but no `inpaint`"));
        }
        None => None,
    };
    let or = |value: f64, default: f64| if value.is_nan() { default } else { value };
    let numbers = [options.guidance_from, options.guidance_to, options.guidance_rescale];
    let guidance = match convert::optional_text(options.guidance, "guidance")? {
        Some(name) => {
            let kind: GuidanceKind =
                serde_json::from_value(name.into()).map_err(|e| Error::argument(format!("guidance: {e}")))?;
            let interval = [or(options.guidance_from, 0.0), or(options.guidance_to, 1.0)];
            Some(Guidance { kind, interval, rescale: or(options.guidance_rescale, 0.0) })
        }
        None if numbers.iter().any(|x| !x.is_nan()) => {
            return Err(Error::argument(
                "guidance_from, guidance_to or guidance_rescale is given, but no `guidance`",
            ));
        }
        None => None,
    };
    let restore = convert::optional_text(options.restore, "restore")?;
    let restore = restore.map(Restoration::parse).transpose()?;
    Ok(Conditioning { inpaint, guidance, restore })
}
