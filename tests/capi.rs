//! The C ABI, called as C calls it: linked in, and a second time through the shared library. The programs in `tests/c` and
//! `tests/cpp` see it from outside.

#[path = "support/abi.rs"]
mod abi;

use abi::*;
use ndarray::ArrayD;
use psld::array::{Precision, Tensor, ValuesMut};
use psld::network::{Backend, Evaluator, Inputs, Network};
use psld::noise::{Purpose, fill_f64};
use psld::run::{Estimate, Overall, RunOptions, likelihood, sample};
use psld::spec::What;
use psld::{Model, ModelOptions, ModelSpec, Sampler, SamplerSpec, Status};
use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::{MaybeUninit, offset_of, size_of};
use std::ops::ControlFlow;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex};

const MIXTURE: &CStr = c"tests/data/capi/mixture.json";

fn ok(status: i32) {
    // SAFETY: a static string.
    let name = unsafe { CStr::from_ptr(psld_status_name(status)) };
    assert_eq!(status, Status::Ok as i32, "{name:?}");
}

fn is(status: i32, expected: Status) {
    assert_eq!(status, expected as i32, "expected {expected:?}");
}

/// Status, message and hint of a failed call.
fn failure(call: impl FnOnce(*mut *mut psld_error) -> i32) -> (i32, String, String) {
    let mut err = null_mut();
    let status = call(&mut err);
    assert_ne!(status, Status::Ok as i32);
    assert_eq!(psld_error_status(err), status);
    // SAFETY: strings of a live error.
    let text = |p: *const c_char| unsafe { CStr::from_ptr(p) }.to_str().unwrap().to_owned();
    let (message, hint) = (text(psld_error_message(err)), text(psld_error_hint(err)));
    ok(psld_error_free(err));
    (status, message, hint)
}

fn options<T>(init: extern "C" fn(*mut T, usize) -> i32) -> T {
    let mut options = MaybeUninit::<T>::uninit();
    ok(init(options.as_mut_ptr(), size_of::<T>()));
    // SAFETY: init has written all of it.
    unsafe { options.assume_init() }
}

fn load() -> *mut psld_model {
    let mut model = null_mut();
    ok(psld_model_load_file(null(), MIXTURE.as_ptr(), null(), &mut model, null_mut()));
    model
}

fn compile(model: *const psld_model, change: impl FnOnce(&mut psld_sampler_options)) -> *mut psld_sampler {
    let mut o = options(psld_sampler_options_init);
    change(&mut o);
    let mut sampler = null_mut();
    ok(psld_sampler_create(model, &o, &mut sampler, null_mut()));
    sampler
}

fn start(model: *const psld_model, sampler: *const psld_sampler, o: &psld_run_options) -> *mut psld_run {
    let mut run = null_mut();
    ok(psld_run_start(model, sampler, o, &mut run, null_mut()));
    run
}

fn text(call: impl Fn(*mut c_char, usize, *mut usize) -> i32) -> String {
    let mut needed = 0;
    ok(call(null_mut(), 0, &mut needed));
    let mut buffer = vec![0x55; needed];
    is(call(buffer.as_mut_ptr().cast(), needed - 1, null_mut()), Status::BufferTooSmall);
    assert!(buffer.iter().all(|byte| *byte == 0x55), "written although too small");
    ok(call(buffer.as_mut_ptr().cast(), needed, null_mut()));
    CString::from_vec_with_nul(buffer).unwrap().into_string().unwrap()
}

#[test]
fn all_of_it_through_the_shared_library() {
    // A network written in Rust belongs to the library that is linked in.
    again_through_the_shared_library(&["all_of_it", "a_panic_poisons_its_run_and_no_other"]);
}

#[test]
fn structs_keep_their_layout() {
    macro_rules! pinned {
        ($t:ident $size:literal: $($field:ident $offset:literal),*) => {
            assert_eq!(size_of::<$t>(), $size, stringify!($t));
            $(assert_eq!(offset_of!($t, $field), $offset, concat!(stringify!($t), ".", stringify!($field)));)*
        };
    }
    // Released numbers: append, never change.
    pinned!(psld_tensor 32: struct_size 0, data 8, dtype 16, ndim 20, shape 24);
    pinned!(psld_progress 56: struct_size 0, step 8, of 12, nfe 16, done 20, fraction 24, t 32, samples_done 40,
        samples 48);
    pinned!(psld_model_options 40: struct_size 0, spec_json 8, providers 16, device 24, threads 28,
        concurrent_calls 32);
    pinned!(psld_engine_options 24: struct_size 0, max_batch 8, queue 12, max_wait_seconds 16);
    pinned!(psld_observer 40: struct_size 0, user 8, progress 16, preview 24, preview_every 32);
    pinned!(psld_evaluation 104: struct_size 0, n 8, dtype 16, reserved 20, z 24, z_elements 32, t 40, labels 48, out 56,
        out_elements 64, message 72, message_capacity 80, indices 88, tags 96);
    pinned!(psld_sampler_options 232: struct_size 0, options_json 8, sampler 16, steps 24, nfe 28, time_grid 32,
        time_points 40, time_points_len 48, t_start 56, t_end 64, denoise 72, max_nfe 76, denoise_time 80, rtol 88,
        atol 96, error_norm 104, seed 112, inpaint 120, order 128, published 132, eta 136, lambda 144, lambda_s 152,
        matrix 160, variant 168, clip 176, inpaint_resample 180, guidance 184, guidance_from 192, guidance_to 200,
        guidance_rescale 208, encode 216, restore 224);
    pinned!(psld_run_options 176: struct_size 0, n 8, seed 16, precision 24, previews 28, batch 32, max_memory 40,
        deadline_seconds 48, cancel 56, init 64, noise 72, labels 80, labels_len 88, inpaint_image 96,
        inpaint_mask 104, anytime 112, scales 120, scales_len 128, guide 136, from_image 144,
        measurement 152, measurement_mask 160, tag 168);
}

#[test]
fn samples_are_those_of_the_rust_api() {
    let model = Model::from_file(Path::new(MIXTURE.to_str().unwrap()), ModelOptions::default()).unwrap();
    let spec = SamplerSpec::parse(r#"{"sampler": "sscs", "steps": 12, "time_grid": "uniform"}"#).unwrap();
    let sampler = Arc::new(Sampler::compile(model.spec(), &spec, None).unwrap());
    let rust = sample::<f64>(
        &model,
        &sampler,
        &RunOptions { seed: 5, precision: Precision::F64, batch: Some(4), ..RunOptions::new(6) },
        What::State,
        |_| ControlFlow::Continue(()),
    )
    .unwrap();

    let model = load();
    let sampler = compile(model, |o| {
        o.options_json = c"{\"kind\": \"em\", \"steps\": 12}".as_ptr();
        o.sampler = c"sscs".as_ptr();
        o.time_grid = c"uniform".as_ptr();
        o.seed = 5;
    });
    let mut o = options(psld_run_options_init);
    (o.n, o.precision, o.batch) = (6, psld_dtype::F64 as i32, 4);
    let mut c = vec![0f64; 6 * 24];
    extern "C" fn count(user: *mut c_void, progress: *const psld_progress) -> i32 {
        // SAFETY: as passed below, and by the library.
        let (seen, progress) = unsafe { (&mut *user.cast::<Vec<psld_progress>>(), &*progress) };
        seen.push(*progress);
        0
    }
    let mut seen: Vec<psld_progress> = Vec::new();
    let (state, f64) = (psld_output::State as i32, psld_dtype::F64 as i32);
    let user = (&raw mut seen).cast();
    ok(psld_sample(
        model,
        sampler,
        &o,
        state,
        f64,
        c.as_mut_ptr().cast(),
        c.len(),
        Some(count),
        user,
        null_mut(),
    ));
    assert_eq!(rust.values.as_slice().unwrap(), c);
    // Two batches of twelve steps and the closing one.
    assert_eq!(seen.len(), 26);
    assert!(seen.windows(2).all(|w| w[0].fraction < w[1].fraction && w[0].done == 0));
    let last = seen.last().unwrap();
    assert_eq!((last.done, last.fraction, last.samples_done, last.samples, last.nfe), (1, 1.0, 6, 6, 13));

    let run = start(model, sampler, &o);
    let mut progress = options(psld_progress_init);
    while progress.done == 0 {
        ok(psld_run_step(run, 5, &mut progress, null_mut()));
    }
    let (mut shape, mut ndim) = ([0; 4], 0);
    ok(psld_run_shape(run, psld_output::Data as i32, shape.as_mut_ptr(), 4, &mut ndim, null_mut()));
    assert_eq!((shape, ndim), ([6, 3, 2, 2], 4));
    ok(psld_model_shape(model, state, shape.as_mut_ptr(), 4, &mut ndim, null_mut()));
    assert_eq!((&shape[..ndim], ndim), (&[6, 2, 2][..], 3));
    let mut stepped = vec![0f32; 6 * 24];
    ok(psld_run_read(run, state, 0, stepped.as_mut_ptr().cast(), stepped.len(), null_mut()));
    assert!(c.iter().zip(&stepped).all(|(c, s)| *c as f32 == *s));
    for handle in [psld_run_free(run), psld_sampler_free(sampler), psld_model_free(model)] {
        ok(handle);
    }
}

/// Images in: to latents, between them, and how likely they are.
#[test]
fn images_are_encoded_as_in_the_rust_api() {
    let rust = Model::from_file(Path::new(MIXTURE.to_str().unwrap()), ModelOptions::default()).unwrap();
    let spec = SamplerSpec::parse(r#"{"sampler": "exp_heun", "steps": 6, "encode": true}"#).unwrap();
    let values: Vec<f32> = (0..24).map(|i| (i as f32 * 0.7).sin() * 0.5).collect();
    let images = Tensor::F32(ArrayD::from_shape_vec(vec![2, 3, 2, 2], values.clone()).unwrap());
    let run = RunOptions { seed: 5, from_image: Some(images), ..RunOptions::new(2) };
    let sampler = Arc::new(Sampler::compile(rust.spec(), &spec, None).unwrap());
    let go = |_: Overall| ControlFlow::Continue(());
    let latents = sample::<f32>(&rust, &sampler, &run, What::State, go).unwrap().values;
    let estimate = Estimate { probes: 2, dequantise: false };
    let expected = likelihood(&rust, &spec, &run, estimate, go).unwrap();

    let model = load();
    let sampler = compile(model, |o| {
        o.sampler = c"exp_heun".as_ptr();
        (o.steps, o.encode, o.seed) = (6, 1, 5);
    });
    let shape = [2, 3, 2, 2];
    let mut tensor: psld_tensor = options(psld_tensor_init);
    (tensor.data, tensor.ndim, tensor.shape) = (values.as_ptr().cast(), 4, shape.as_ptr());
    let mut o = options(psld_run_options_init);
    (o.n, o.from_image) = (2, &tensor);
    let mut z = vec![0f32; 48];
    let (state, f32) = (psld_output::State as i32, psld_dtype::F32 as i32);
    let room = z.as_mut_ptr().cast();
    ok(psld_sample(model, sampler, &o, state, f32, room, 48, None, null_mut(), null_mut()));
    assert_eq!(latents.as_slice().unwrap(), z);

    let mut way = vec![0f32; 72];
    let state_shape = [2, 6, 2, 2];
    let mut starts: psld_tensor = options(psld_tensor_init);
    (starts.data, starts.ndim, starts.shape) = (z.as_ptr().cast(), 4, state_shape.as_ptr());
    let places = [0.0, 0.5, 1.0];
    let room = way.as_mut_ptr().cast();
    ok(psld_model_interpolate(model, &starts, places.as_ptr(), 3, f32, room, 72, null_mut()));
    assert_eq!((&way[..24], &way[48..]), (&z[..24], &z[24..]));
    let (status, message, _) = failure(|err| {
        psld_model_interpolate(model, null(), places.as_ptr(), 3, f32, way.as_mut_ptr().cast(), 72, err)
    });
    is(status, Status::NullPointer);
    assert_eq!(message, "latents is NULL");

    let (mut bits, mut errors) = ([0.0; 2], [0.0; 2]);
    let mut measure = |probes, n, errors: *mut f64, err| {
        let bits = bits.as_mut_ptr();
        psld_likelihood(model, sampler, &o, probes, 0, bits, errors, n, None, null_mut(), err)
    };
    ok(measure(2, 2, errors.as_mut_ptr(), null_mut()));
    for (probes, n, text) in [
        (0, 2, "probes = 0: expected 1 to 10000"),
        (-1, 2, "probes = -1: expected at least 1"),
        (1, 3, "n = 3: expected psld_run_options.n, 2"),
    ] {
        let (status, message, _) = failure(|err| measure(probes, n, null_mut(), err));
        is(status, Status::InvalidArgument);
        assert_eq!(message, text);
    }
    let (_, message, _) = failure(|err| measure(1, 2, [0.0; 2].as_mut_ptr(), err));
    assert_eq!(message, "errors: a standard error takes two probes or more");
    assert_eq!((&expected.bits[..], &expected.errors[..]), (&bits[..], &errors[..]));
    for status in [psld_sampler_free(sampler), psld_model_free(model)] {
        ok(status);
    }
}

/// The probe through C: options that make a sampler, heard of once and then from memory, and stopped by callback and token.
#[test]
fn a_probe_chooses() {
    extern "C" fn count(user: *mut c_void, progress: *const psld_progress) -> i32 {
        // SAFETY: what is passed below, and what the library promises.
        let (heard, progress) = unsafe { (&mut *user.cast::<i32>(), &*progress) };
        assert!((0.0..=1.0).contains(&progress.fraction) && progress.nfe >= 0);
        *heard += 1;
        0
    }
    extern "C" fn stop(_: *mut c_void, _: *const psld_progress) -> i32 {
        1
    }
    let model = load();
    let asked = c"{\"nfe\": 6, \"t_end\": 0.01}".as_ptr();
    let mut heard = 0;
    let user = (&raw mut heard).cast::<c_void>();
    let tell: psld_progress_callback = Some(count);
    let ask = |b, c, n| psld_model_probe(model, asked, null(), 0, null(), tell, user, b, c, n, null_mut());
    let first = text(ask);
    assert!(heard > 100, "{heard}");
    let before = heard;
    assert_eq!((text(ask), heard), (first.clone(), before), "the model keeps the answer");
    let chosen: serde_json::Value = serde_json::from_str(&first).unwrap();
    assert_eq!((&chosen["nfe"], &chosen["t_end"]), (&6.into(), &0.01.into()));
    assert!(chosen["sampler"].is_string() && chosen["time_grid"].is_string(), "{chosen}");
    let made = CString::new(first).unwrap();
    let sampler = compile(model, |o| o.options_json = made.as_ptr());
    let mut nfe = 0;
    ok(psld_sampler_nfe(sampler, &mut nfe, null_mut()));
    assert_eq!(nfe, 6);

    let another = c"{\"nfe\": 7}".as_ptr();
    let none = null_mut();
    let stopped = psld_model_probe(
        model,
        another,
        null(),
        0,
        null(),
        Some(stop),
        none,
        none.cast(),
        0,
        none.cast(),
        none.cast(),
    );
    is(stopped, Status::Cancelled);
    let mut cancel = null_mut();
    ok(psld_cancel_create(&mut cancel, null_mut()));
    ok(psld_cancel_cancel(cancel));
    let stopped = psld_model_probe(
        model,
        another,
        null(),
        0,
        cancel,
        None,
        none,
        none.cast(),
        0,
        none.cast(),
        none.cast(),
    );
    is(stopped, Status::Cancelled);
    for status in [psld_cancel_free(cancel), psld_sampler_free(sampler), psld_model_free(model)] {
        ok(status);
    }
}

#[test]
fn a_plan_makes_the_sampler_that_it_came_from() {
    let model = load();
    let sampler = compile(model, |o| o.nfe = 21);
    let hash = |s| text(|b, c, n| psld_sampler_hash(s, b, c, n, null_mut()));
    let plan = text(|b, c, n| psld_sampler_plan_json(sampler, b, c, n, null_mut()));
    let plan = CString::new(plan).unwrap();
    let mut again = null_mut();
    ok(psld_sampler_create_from_plan(model, plan.as_ptr(), &mut again, null_mut()));
    assert_eq!(hash(sampler), hash(again));
    assert_eq!(hash(again).len(), 64);
    let mut nfe = 0;
    ok(psld_sampler_nfe(again, &mut nfe, null_mut()));
    assert_eq!(nfe, 21);
    let rk45 = compile(model, |o| o.sampler = c"rk45".as_ptr());
    ok(psld_sampler_nfe(rk45, &mut nfe, null_mut()));
    assert_eq!(nfe, 0);
    let (status, message, _) = failure(|err| psld_sampler_plan_json(rk45, null_mut(), 0, null_mut(), err));
    is(status, Status::Unsupported);
    assert!(message.contains("rk45"), "{message}");
    for sampler in [sampler, again, rk45] {
        ok(psld_sampler_free(sampler));
    }
    ok(psld_model_free(model));
}

#[test]
fn texts_are_json() {
    let samplers = text(|b, c, n| psld_samplers_json(b, c, n, null_mut()));
    let samplers: serde_json::Value = serde_json::from_str(&samplers).unwrap();
    assert_eq!(samplers[0]["name"], "em");
    let model = load();
    let info = text(|b, c, n| psld_model_info_json(model, b, c, n, null_mut()));
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["k"], 2);
    assert_eq!(info["spec"]["network"]["predicts"], "all");
    // With the defaults filled in.
    assert_eq!(info["spec"]["process"]["nu"], 4.01);
    assert_eq!(info["spec"]["network"]["time"], "t");
    assert_eq!(info["backend"]["provider"], "cpu");
    assert_eq!(info["hash"].as_str().unwrap().len(), 64);
    ok(psld_model_free(model));
}

#[test]
fn a_model_loads_from_memory() {
    let bytes = std::fs::read(MIXTURE.to_str().unwrap()).unwrap();
    let mut model = null_mut();
    ok(psld_model_load_memory(null(), bytes.as_ptr().cast(), bytes.len(), null(), &mut model, null_mut()));
    ok(psld_model_free(model));
    let mut load = |bytes: &[u8]| {
        failure(|e| psld_model_load_memory(null(), bytes.as_ptr().cast(), bytes.len(), null(), &mut model, e))
            .0
    };
    is(load(b"{\"mixture\": 3}"), Status::ModelInvalid);
    is(load(b" {\xff}"), Status::ModelInvalid);
}

#[test]
fn noise_is_the_same_from_c() {
    let (mut c, mut rust) = ([0f64; 9], [0f64; 9]);
    let fill = |purpose, first, out: *mut f64, n, err| {
        psld_noise_fill(7, purpose, 3, first, psld_dtype::F64 as i32, out.cast(), n, err)
    };
    ok(fill(psld_noise::Inpaint as i32, 5, c.as_mut_ptr(), 9, null_mut()));
    fill_f64(7, Purpose::Inpaint, 3, 5, &mut rust);
    assert_eq!(c, rust);
    is(failure(|e| fill(4, 0, c.as_mut_ptr(), 9, e)).0, Status::InvalidArgument);
    is(failure(|e| fill(0, (4 << 32) - 8, c.as_mut_ptr(), 9, e)).0, Status::InvalidArgument);
    is(failure(|e| fill(0, u64::MAX, c.as_mut_ptr(), 9, e)).0, Status::InvalidArgument);
    is(failure(|e| fill(0, 0, null_mut(), 9, e)).0, Status::NullPointer);
    is(failure(|e| fill(0, 0, c.as_mut_ptr().wrapping_byte_add(1), 1, e)).0, Status::InvalidArgument);
    is(failure(|e| fill(0, 0, c.as_mut_ptr(), usize::MAX, e)).0, Status::InvalidArgument);
}

#[test]
fn structs_of_other_sizes() {
    // Of an older header: nothing beyond its end is touched.
    assert_ne!(psld_run_options_init(null_mut(), size_of::<psld_run_options>()), 0);
    for size in [0, 1, 7, size_of::<psld_progress>() - 1, 5000, usize::MAX] {
        let mut room = [0x55u8; 256];
        let progress = room.as_mut_ptr().cast::<psld_progress>();
        is(psld_progress_init(progress, size), Status::InvalidArgument);
        assert_eq!(room, [0x55; 256]);
    }
    // Of a newer one: its own fields become zero, those known here their defaults.
    #[repr(C)]
    struct Newer {
        known: psld_sampler_options,
        new: [u64; 3],
    }
    let mut newer = MaybeUninit::<Newer>::uninit();
    ok(psld_sampler_options_init(newer.as_mut_ptr().cast(), size_of::<Newer>()));
    // SAFETY: init has written all of it.
    let newer = unsafe { newer.assume_init() };
    assert_eq!((newer.known.struct_size, newer.new), (size_of::<Newer>(), [0; 3]));
    assert!(newer.known.rtol.is_nan() && newer.known.denoise == -1);
    let model = load();
    let mut sampler = null_mut();
    ok(psld_sampler_create(model, &newer.known, &mut sampler, null_mut()));
    ok(psld_sampler_free(sampler));
    let mut zero = newer.known;
    zero.struct_size = 0;
    let (status, message, hint) = failure(|e| psld_sampler_create(model, &zero, &mut sampler, e));
    is(status, Status::InvalidArgument);
    assert_eq!(
        message,
        "psld_sampler_options.struct_size = 0: expected sizeof(psld_sampler_options), at least 128"
    );
    assert!(hint.contains("psld_sampler_options_init"));
    ok(psld_model_free(model));
}

#[test]
fn messages_name_the_field() {
    let model = load();
    let mut sampler = null_mut();
    let mut create = |change: &dyn Fn(&mut psld_sampler_options)| {
        let mut o = options(psld_sampler_options_init);
        change(&mut o);
        let (status, message, hint) = failure(|e| psld_sampler_create(model, &o, &mut sampler, e));
        format!("{status} {message} | {hint}")
    };
    let points = [1.0, f64::NAN];
    let messages = [
        create(&|o| o.sampler = c"emm".as_ptr()),
        create(&|o| o.sampler = c"\xff".as_ptr()),
        create(&|o| o.steps = -5),
        create(&|o| (o.steps, o.nfe) = (5, 5)),
        create(&|o| o.denoise = 2),
        create(&|o| o.t_end = f64::INFINITY),
        create(&|o| o.t_end = 2.0),
        create(&|o| o.denoise_time = c"float16".as_ptr()),
        create(&|o| o.rtol = 1e-3),
        create(&|o| o.options_json = c"{\"stesp\": 5}".as_ptr()),
        create(&|o| o.options_json = c"[1]".as_ptr()),
        create(&|o| (o.time_points, o.time_points_len) = (points.as_ptr(), 2)),
        create(&|o| (o.time_points, o.time_points_len) = (points.as_ptr(), 1)),
        create(&|o| (o.time_points, o.time_points_len) = (null(), 2)),
        create(&|o| o.inpaint = c"publish".as_ptr()),
        create(&|o| o.inpaint_resample = 2),
        create(&|o| o.guidance = c"classifer".as_ptr()),
        create(&|o| o.guidance_from = 0.5),
        create(&|o| (o.guidance, o.guidance_to) = (c"cfg".as_ptr(), f64::INFINITY)),
        create(&|o| (o.guidance, o.guidance_rescale) = (c"cfg".as_ptr(), 2.0)),
        create(&|o| (o.inpaint, o.inpaint_resample) = (c"corrected".as_ptr(), -1)),
        create(&|o| o.restore = c"average".as_ptr()),
        create(&|o| o.restore = c"{\"operator\": {\"kind\": \"mean\"}}".as_ptr()),
        create(&|o| o.restore = c"{\"operator\": {\"kind\": \"mask\"}, \"nose\": 1}".as_ptr()),
        create(&|o| o.restore = c"{\"operator\": {\"kind\": \"average\", \"factor\": 3}}".as_ptr()),
    ]
    .join("\n");
    insta::assert_snapshot!(messages);
    let sampler = compile(model, |_| {});
    let (shape, data) = ([2i64, 6, 2, 2], [0f32; 48]);
    let mut tensor = options(psld_tensor_init);
    (tensor.data, tensor.ndim, tensor.shape) = (data.as_ptr().cast(), 4, shape.as_ptr());
    let no_dims = psld_tensor { ndim: 0, ..tensor };
    let no_type = psld_tensor { dtype: 9, ..tensor };
    let no_data = psld_tensor { data: null(), ..tensor };
    let no_size = psld_tensor { struct_size: 8, ..tensor };
    let (label, scale) = ([1i64], 1.0);
    let (negative, enormous) = ([2i64, -6, 2, 2], [i64::MAX, 6, 2, 2]);
    let ragged = psld_tensor { shape: negative.as_ptr(), ..tensor };
    let huge = psld_tensor { shape: enormous.as_ptr(), ..tensor };
    let mut run = null_mut();
    let mut begin = |change: &dyn Fn(&mut psld_run_options)| {
        let mut o = options(psld_run_options_init);
        change(&mut o);
        let (status, message, hint) = failure(|e| psld_run_start(model, sampler, &o, &mut run, e));
        format!("{status} {message} | {hint}")
    };
    let messages = [
        begin(&|o| o.n = 0),
        begin(&|o| o.n = -1),
        begin(&|o| o.batch = -1),
        begin(&|o| o.precision = 7),
        begin(&|o| o.previews = 7),
        begin(&|o| o.deadline_seconds = -1.0),
        begin(&|o| o.deadline_seconds = f64::NAN),
        begin(&|o| o.cancel = model.cast()),
        begin(&|o| o.cancel = std::ptr::without_provenance(0x7fff_1000)),
        begin(&|o| o.max_memory = 100),
        begin(&|o| o.init = &tensor),
        begin(&|o| o.init = &ragged),
        begin(&|o| o.init = &huge),
        begin(&|o| o.init = &no_dims),
        begin(&|o| o.init = &no_type),
        begin(&|o| o.init = &no_data),
        begin(&|o| o.init = &no_size),
        begin(&|o| (o.labels, o.labels_len) = (null(), 3)),
        begin(&|o| (o.labels, o.labels_len) = (label.as_ptr(), 1)),
        begin(&|o| o.inpaint_image = &tensor),
        begin(&|o| o.measurement_mask = &tensor),
        begin(&|o| o.measurement = &tensor),
        begin(&|o| (o.scales, o.scales_len) = (null(), 2)),
        begin(&|o| (o.scales, o.scales_len) = (&scale, 1)),
        begin(&|o| o.guide = sampler.cast()),
        begin(&|o| o.guide = model),
    ]
    .join("\n");
    insta::assert_snapshot!(messages);
    ok(psld_sampler_free(sampler));
    ok(psld_model_free(model));
}

#[test]
fn an_initial_state_and_labels_are_copied() {
    let model = load();
    let sampler = compile(model, |o| (o.sampler, o.steps) = (c"euler".as_ptr(), 4));
    let read = |precision: psld_dtype| {
        let shape = [1i64, 6, 2, 2];
        let (single, double) = ([0.5f32; 24], [0.5f64; 24]);
        let data = if precision == psld_dtype::F32 { single.as_ptr().cast() } else { double.as_ptr().cast() };
        let (struct_size, dtype) = (size_of::<psld_tensor>(), precision as i32);
        let init = psld_tensor { struct_size, data, dtype, ndim: 4, shape: shape.as_ptr() };
        let mut o = options(psld_run_options_init);
        o.init = &init;
        let run = start(model, sampler, &o);
        let mut out = [0f32; 24];
        ok(psld_run_read(run, psld_output::State as i32, 0, out.as_mut_ptr().cast(), 24, null_mut()));
        assert_eq!(out, [0.5; 24]);
        ok(psld_run_step(run, 100, null_mut(), null_mut()));
        ok(psld_run_read(run, psld_output::State as i32, 0, out.as_mut_ptr().cast(), 24, null_mut()));
        ok(psld_run_free(run));
        out
    };
    assert_eq!(read(psld_dtype::F32), read(psld_dtype::F64));
    ok(psld_sampler_free(sampler));
    ok(psld_model_free(model));
}

#[test]
fn measurements_are_met() {
    let model = load();
    let sampler = compile(model, |o| {
        (o.sampler, o.steps) = (c"dpmpp".as_ptr(), 6);
        o.restore = c"{\"operator\": {\"kind\": \"average\", \"factor\": 2}}".as_ptr();
    });
    let (shape, y) = ([1i64, 3, 1, 1], [0.25f32, -0.5, 0.125]);
    let mut measurement = options(psld_tensor_init);
    (measurement.data, measurement.ndim, measurement.shape) = (y.as_ptr().cast(), 4, shape.as_ptr());
    let mut o = options(psld_run_options_init);
    (o.n, o.measurement) = (2, &measurement);
    let mut out = [0f32; 24];
    let (what, dtype) = (psld_output::Data as i32, psld_dtype::F32 as i32);
    ok(psld_sample(
        model,
        sampler,
        &o,
        what,
        dtype,
        out.as_mut_ptr().cast(),
        24,
        None,
        null_mut(),
        null_mut(),
    ));
    for (i, square) in out.chunks(4).enumerate() {
        let mean = square.iter().sum::<f32>() / 4.0;
        assert!((mean - y[i % 3]).abs() < 1e-6, "{mean} for {}", y[i % 3]);
    }
    ok(psld_sampler_free(sampler));
    ok(psld_model_free(model));
}

#[test]
fn a_cancelled_run_goes_on_with_another_token() {
    let model = load();
    let sampler = compile(model, |o| o.steps = 10);
    let (mut cancel, mut progress) = (null_mut(), options(psld_progress_init));
    ok(psld_cancel_create(&mut cancel, null_mut()));
    let mut o = options(psld_run_options_init);
    o.cancel = cancel;
    let run = start(model, sampler, &o);
    ok(psld_run_step(run, 3, &mut progress, null_mut()));
    ok(psld_cancel_cancel(cancel));
    // A token that is freed still stops its runs.
    ok(psld_cancel_free(cancel));
    is(psld_cancel_cancel(cancel), Status::InvalidHandle);
    is(failure(|e| psld_run_step(run, 1, &mut progress, e)).0, Status::Cancelled);
    assert_eq!(progress.step, 3, "written although cancelled");
    ok(psld_run_resume(run, null(), 0.0, null_mut()));
    ok(psld_run_step(run, i32::MAX, &mut progress, null_mut()));
    assert_eq!((progress.step, progress.done), (11, 1));
    ok(psld_run_resume(run, null(), 1e-9, null_mut()));
    ok(psld_run_step(run, 1, &mut progress, null_mut()));
    ok(psld_run_free(run));
    ok(psld_sampler_free(sampler));
    ok(psld_model_free(model));
}

#[test]
fn a_callback_stops_the_sampling_between_batches_too() {
    let model = load();
    let sampler = compile(model, |o| o.steps = 2);
    extern "C" fn at_the_end_of_a_batch(_: *mut c_void, progress: *const psld_progress) -> i32 {
        // SAFETY: by the library.
        unsafe { i32::from((*progress).samples_done == 2) }
    }
    let mut o = options(psld_run_options_init);
    (o.n, o.batch) = (4, 2);
    let mut out = [f32::NAN; 48];
    let (status, message, _) = failure(|e| {
        let out = out.as_mut_ptr().cast();
        psld_sample(model, sampler, &o, 0, 0, out, 48, Some(at_the_end_of_a_batch), null_mut(), e)
    });
    is(status, Status::Cancelled);
    assert!(message.starts_with("cancelled"), "{message}");
    assert!(out[..24].iter().all(|x| x.is_finite()) && out[24..].iter().all(|x| x.is_nan()));
    for (elements, status) in [(47, Status::BufferTooSmall), (49, Status::InvalidArgument)] {
        let out = out.as_mut_ptr().cast();
        is(psld_sample(model, sampler, &o, 0, 0, out, elements, None, null_mut(), null_mut()), status);
    }
    o.n = i64::MAX;
    let sample = |e| psld_sample(model, sampler, &o, 0, 0, out.as_mut_ptr().cast(), 48, None, null_mut(), e);
    is(failure(sample).0, Status::BufferTooSmall);
    ok(psld_sampler_free(sampler));
    ok(psld_model_free(model));
}

type Act = Box<dyn Fn() -> i32 + Send + Sync>;

extern "C" fn act(user: *mut c_void, evaluation: *const psld_evaluation) -> i32 {
    // SAFETY: as passed below, and by the library.
    let (act, evaluation) = unsafe { (&*user.cast::<Act>(), &*evaluation) };
    // SAFETY: zeros of either type, in a buffer of so many elements.
    unsafe {
        match evaluation.dtype == psld_dtype::F32 as i32 {
            true => evaluation.out.cast::<f32>().write_bytes(0, evaluation.out_elements),
            false => evaluation.out.cast::<f64>().write_bytes(0, evaluation.out_elements),
        }
    }
    act()
}

extern "C" fn release(user: *mut c_void) {
    // SAFETY: as passed below; the library is done with it.
    drop(unsafe { Box::from_raw(user.cast::<Act>()) });
}

const VECTOR: &CStr = c"{\"format\": 1, \"process\": {\"kind\": \"vp\"}, \"data\": {\"shape\": [4]}}";

/// A network that does what a test tells it to at each call.
fn told(what: impl Fn() -> i32 + Send + Sync + 'static) -> *mut psld_model {
    let what: Act = Box::new(what);
    let mut o = options(psld_model_options_init);
    (o.spec_json, o.threads) = (VECTOR.as_ptr(), 1);
    let (user, mut model) = (Box::into_raw(Box::new(what)).cast(), null_mut());
    ok(psld_model_create(Some(act), user, Some(release), c"told".as_ptr(), &o, &mut model, null_mut()));
    model
}

/// A network written in Rust that panics at its second call.
#[derive(Clone)]
struct Panics {
    spec: ModelSpec,
    calls: Arc<AtomicU32>,
}

impl Network for Panics {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }
    fn backend(&self) -> Backend {
        Backend { name: "analytic", version: "0".into(), provider: "cpu".into(), library: None }
    }
    fn output_precision(&self, state: Precision) -> Precision {
        state
    }
    fn hash(&self) -> psld::Result<String> {
        Ok("panics".into())
    }
    fn evaluator(&self) -> psld::Result<Box<dyn Evaluator>> {
        Ok(Box::new(self.clone()))
    }
}

impl Evaluator for Panics {
    fn evaluate(&mut self, _: Inputs<'_>, out: ValuesMut<'_>) -> psld::Result<()> {
        match out {
            ValuesMut::F32(out) => out.fill(0.0),
            ValuesMut::F64(out) => out.fill(0.0),
        }
        assert!(self.calls.fetch_add(1, SeqCst) != 1, "injected");
        Ok(())
    }
}

#[test]
fn a_panic_poisons_its_run_and_no_other() {
    let spec = ModelSpec::parse(VECTOR.to_str().unwrap()).unwrap();
    let network = Panics { spec, calls: Arc::default() };
    let model = share_model(Model::new(Arc::new(network), 1).unwrap()).unwrap();
    let sampler = compile(model, |o| o.steps = 5);
    let (run, other) = (start(model, sampler, &options(psld_run_options_init)), {
        start(model, sampler, &options(psld_run_options_init))
    });
    ok(psld_run_step(run, 1, null_mut(), null_mut()));
    let (status, message, _) = failure(|e| psld_run_step(run, 1, null_mut(), e));
    is(status, Status::Panic);
    assert!(message.contains("injected at tests/capi.rs"), "{message}");
    let mut out = [0f32; 4];
    is(failure(|e| psld_run_read(run, 0, 0, out.as_mut_ptr().cast(), 4, e)).0, Status::Panic);
    is(failure(|e| psld_run_step(run, 1, null_mut(), e)).0, Status::Panic);
    ok(psld_run_free(run));
    ok(psld_run_step(other, 100, null_mut(), null_mut()));
    ok(psld_run_free(other));
    ok(psld_sampler_free(sampler));
    ok(psld_model_free(model));
}

#[test]
fn a_failed_run_can_be_read_and_not_continued() {
    let model = told(|| 7);
    let sampler = compile(model, |o| o.steps = 5);
    let run = start(model, sampler, &options(psld_run_options_init));
    let (status, message, _) = failure(|e| psld_run_step(run, 1, null_mut(), e));
    is(status, Status::RuntimeFailure);
    let said = "the caller's network returned 7";
    assert!(message.ends_with(said) && message.starts_with("step 1 of 6"), "{message}");
    is(failure(|e| psld_run_step(run, 1, null_mut(), e)).0, Status::RunState);
    let mut out = [0f32; 4];
    ok(psld_run_read(run, 0, 0, out.as_mut_ptr().cast(), 4, null_mut()));
    ok(psld_run_free(run));
    ok(psld_sampler_free(sampler));
    ok(psld_model_free(model));
}

#[test]
fn a_second_thread_is_busy() {
    let barrier = Arc::new(Barrier::new(2));
    let inside = barrier.clone();
    let model = told(move || {
        inside.wait();
        inside.wait();
        0
    });
    let sampler = compile(model, |o| o.steps = 1);
    let run = start(model, sampler, &options(psld_run_options_init));
    let address = run.addr();
    let stepping = std::thread::spawn(move || {
        psld_run_step(std::ptr::without_provenance_mut(address), 1, null_mut(), null_mut())
    });
    barrier.wait();
    let mut out = [0f32; 4];
    is(psld_run_step(run, 1, null_mut(), null_mut()), Status::Busy);
    is(psld_run_read(run, 0, 0, out.as_mut_ptr().cast(), 4, null_mut()), Status::Busy);
    is(psld_run_shape(run, 0, null_mut(), 0, null_mut(), null_mut()), Status::Busy);
    is(psld_run_resume(run, null(), 0.0, null_mut()), Status::Busy);
    is(psld_run_free(run), Status::Busy);
    // Its parents may go at any time.
    ok(psld_sampler_free(sampler));
    ok(psld_model_free(model));
    barrier.wait();
    ok(stepping.join().unwrap());
    ok(psld_run_free(run));
    is(psld_run_free(run), Status::InvalidHandle);
}

#[test]
fn what_is_said_reaches_the_callback_and_nobody_else() {
    static LINES: Mutex<Vec<(i32, String)>> = Mutex::new(Vec::new());
    extern "C" fn listen(user: *mut c_void, level: i32, message: *const c_char) {
        assert_eq!(user.addr(), 0x123);
        // SAFETY: by the library.
        let message = unsafe { CStr::from_ptr(message) }.to_str().unwrap().to_owned();
        LINES.lock().unwrap().push((level, message));
        is(psld_set_log_callback(0, None, null_mut()), Status::Busy);
        // What a callback provokes is not reported to it: this would recurse for ever.
        ok(psld_model_free(load()));
    }
    let user = std::ptr::without_provenance_mut(0x123);
    is(psld_set_log_callback(9, Some(listen), user), Status::InvalidArgument);
    ok(psld_set_log_callback(psld_log::Info as i32, Some(listen), user));
    ok(psld_model_free(load()));
    ok(psld_set_log_callback(psld_log::Error as i32, Some(listen), user));
    ok(psld_model_free(load()));
    ok(psld_set_log_callback(psld_log::Off as i32, None, null_mut()));
    // Other tests of this process load models, too.
    let lines = LINES.lock().unwrap();
    let line = format!("loaded {}: analytic {} on cpu", MIXTURE.to_str().unwrap(), env!("CARGO_PKG_VERSION"));
    assert!(lines.contains(&(psld_log::Info as i32, line)), "{lines:?}");
}

#[test]
fn names_of_statuses() {
    // SAFETY: static strings.
    let name = |n| unsafe { CStr::from_ptr(psld_status_name(n)) }.to_str().unwrap();
    let header = std::fs::read_to_string("include/psld.h").unwrap();
    let constants = header.lines().filter_map(|l| l.trim().trim_end_matches(',').split_once(" = "));
    let constants: Vec<_> = constants.filter(|(name, _)| name.starts_with("PSLD_STATUS_")).collect();
    assert!(constants.len() > 30);
    for (constant, number) in constants {
        assert_eq!(name(number.parse().unwrap()), constant);
    }
    assert_eq!(name(-1), "PSLD_STATUS_UNKNOWN");
}

#[test]
fn stale_foreign_and_mistyped_handles() {
    let model = load();
    let sampler = compile(model, |_| {});
    let mut nfe = 7;
    let (status, message, _) = failure(|e| psld_sampler_nfe(model.cast(), &mut nfe, e));
    is(status, Status::InvalidHandle);
    assert_eq!(message, "sampler: expected a psld_sampler, got a psld_model");
    let local = 0u64;
    let (status, message, _) = failure(|e| psld_sampler_nfe((&raw const local).cast(), &mut nfe, e));
    is(status, Status::InvalidHandle);
    assert_eq!(message, "sampler: expected a psld_sampler, got a pointer that is no handle of psld");
    ok(psld_sampler_free(sampler));
    let (status, message, _) = failure(|e| psld_sampler_nfe(sampler, &mut nfe, e));
    is(status, Status::InvalidHandle);
    assert_eq!(message, "sampler: this psld_sampler was freed, or never given out");
    is(failure(|e| psld_sampler_nfe(null(), &mut nfe, e)).0, Status::NullPointer);
    assert_eq!(nfe, 7);
    is(psld_sampler_free(sampler), Status::InvalidHandle);
    is(psld_model_free(sampler.cast()), Status::InvalidHandle);
    ok(psld_model_free(null_mut()));
    ok(psld_model_free(model));
    // Any bit pattern is a status.
    let mut x = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..100_000 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        is(psld_sampler_free(std::ptr::without_provenance_mut(x as usize | 1 << 63)), Status::InvalidHandle);
    }
}

/// The bytes of a run.
fn save(run: *const psld_run) -> Vec<u8> {
    let mut needed = 0;
    ok(psld_run_save(run, null_mut(), 0, &mut needed, null_mut()));
    let mut bytes = vec![0u8; needed];
    is(
        psld_run_save(run, bytes.as_mut_ptr().cast(), needed - 1, null_mut(), null_mut()),
        Status::BufferTooSmall,
    );
    ok(psld_run_save(run, bytes.as_mut_ptr().cast(), needed, null_mut(), null_mut()));
    bytes
}

fn state(run: *const psld_run, n: usize) -> Vec<f32> {
    let mut out = vec![0f32; n * 24];
    ok(psld_run_read(run, psld_output::State as i32, 0, out.as_mut_ptr().cast(), out.len(), null_mut()));
    out
}

/// Also one that had a guidance network.
#[test]
fn a_saved_run_is_loaded_with_its_guide() {
    let open = |path: &CStr| {
        let mut model = null_mut();
        ok(psld_model_load_file(null(), path.as_ptr(), null(), &mut model, null_mut()));
        model
    };
    let model = open(c"tests/data/models/labelled.json");
    let guide = open(c"tests/data/models/classifier.json");
    let sampler = compile(model, |o| (o.guidance, o.steps) = (c"classifier".as_ptr(), 6));
    let (label, scale) = (2, 1.5);
    let mut o = options(psld_run_options_init);
    (o.labels, o.labels_len, o.scales, o.scales_len, o.guide) = (&label, 1, &scale, 1, guide);
    let run = start(model, sampler, &o);
    ok(psld_run_step(run, 2, null_mut(), null_mut()));
    let bytes = save(run);
    let load = |guide, out: &mut *mut psld_run, err| {
        psld_run_load_guided(model, sampler, guide, bytes.as_ptr().cast(), bytes.len(), out, err)
    };
    for other in [null(), model.cast_const()] {
        let (status, message, hint) = failure(|e| load(other, &mut null_mut(), e));
        is(status, Status::CheckpointInvalid);
        assert!(
            message.contains("another guidance network") && hint.contains("load_guided"),
            "{message}: {hint}"
        );
    }
    let mut again = null_mut();
    ok(load(guide, &mut again, null_mut()));
    ok(psld_model_free(guide));
    let finished = |run| {
        ok(psld_run_step(run, i32::MAX, null_mut(), null_mut()));
        let mut out = [0f32; 32];
        ok(psld_run_read(run, psld_output::State as i32, 0, out.as_mut_ptr().cast(), out.len(), null_mut()));
        out
    };
    assert_eq!(finished(again), finished(run));
    for run in [run, again] {
        ok(psld_run_free(run));
    }
    ok(psld_sampler_free(sampler));
    ok(psld_model_free(model));
}

#[test]
fn a_saved_run_is_loaded() {
    let model = load();
    for name in [c"sscs", c"rk45"] {
        let sampler = compile(model, |o| o.sampler = name.as_ptr());
        let mut o = options(psld_run_options_init);
        (o.n, o.seed) = (2, 4);
        let run = start(model, sampler, &o);
        ok(psld_run_step(run, 2, null_mut(), null_mut()));
        let bytes = save(run);
        ok(psld_run_step(run, i32::MAX, null_mut(), null_mut()));
        let mut again = null_mut();
        let load = |bytes: &[u8], out: &mut *mut psld_run, err| {
            psld_run_load(model, sampler, bytes.as_ptr().cast(), bytes.len(), out, err)
        };
        ok(load(&bytes, &mut again, null_mut()));
        let mut progress = options(psld_progress_init);
        ok(psld_run_step(again, 0, &mut progress, null_mut()));
        assert_eq!((progress.step, progress.done), (2, 0));
        ok(psld_run_step(again, i32::MAX, &mut progress, null_mut()));
        assert_eq!(state(again, 2), state(run, 2));
        ok(psld_run_free(again));

        let mut edited = bytes.clone();
        edited[100] ^= 1;
        for bad in [&edited[..], &bytes[1..], &bytes[..bytes.len() / 2], b""] {
            let mut none = null_mut();
            let (status, message, _) = failure(|e| load(bad, &mut none, e));
            is(status, Status::CheckpointInvalid);
            assert!(message.starts_with("checkpoint: ") && none.is_null(), "{message}");
        }
        let other = compile(model, |o| o.steps = 3);
        let (status, _, hint) =
            failure(|e| psld_run_load(model, other, bytes.as_ptr().cast(), bytes.len(), &mut null_mut(), e));
        is(status, Status::CheckpointInvalid);
        assert!(hint.contains("sampler options"), "{hint}");

        let text = text(|b, c, n| psld_run_provenance_json(run, b, c, n, null_mut()));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["seeds"]["first"], &json["seeds"]["count"]), (&4.into(), &2.into()));
        assert_eq!(json["sampler"]["name"], name.to_str().unwrap());
        assert_eq!((&json["done"], &json["noise"]), (&true.into(), &"philox".into()));
        assert_eq!(json["model"].as_str().unwrap().len(), 64);
        for sampler in [sampler, other] {
            ok(psld_sampler_free(sampler));
        }
        ok(psld_run_free(run));
    }
    ok(psld_model_free(model));
}

#[test]
fn memory_is_told_before_a_run() {
    let model = load();
    let sampler = compile(model, |o| (o.sampler, o.steps) = (c"euler".as_ptr(), 5));
    let mut o = options(psld_run_options_init);
    o.n = 7;
    let mut bytes = 0;
    ok(psld_run_memory(sampler, &o, &mut bytes, null_mut()));
    // One state and one slot of [6, 2, 2], and a data estimate of [3, 2, 2].
    assert_eq!(bytes, 7 * 4 * (24 + 24 + 12));
    o.max_memory = bytes - 1;
    is(psld_run_start(model, sampler, &o, &mut null_mut(), null_mut()), Status::MemoryLimit);
    o.max_memory = bytes;
    ok(psld_run_free(start(model, sampler, &o)));
    let without = bytes;
    let values = [0f32; 7 * 12];
    let tensor = |shape: &[i64; 4]| psld_tensor {
        data: values.as_ptr().cast(),
        ndim: 4,
        shape: shape.as_ptr(),
        ..options(psld_tensor_init)
    };
    let shapes = [[7, 3, 2, 2], [1, 1, 2, 2]];
    let [image, mask] = [tensor(&shapes[0]), tensor(&shapes[1])];
    (o.inpaint_image, o.inpaint_mask) = (&image, &mask);
    ok(psld_run_memory(sampler, &o, &mut bytes, null_mut()));
    // The image of each sample, and the mask of all, as it is kept: [3, 2, 2].
    assert_eq!(bytes, without + 4 * (7 + 1) * 12);
    (o.inpaint_image, o.inpaint_mask) = (null(), null());
    o.n = i64::MAX;
    ok(psld_run_memory(sampler, &o, &mut bytes, null_mut()));
    assert_eq!(bytes, u64::MAX);
    ok(psld_sampler_free(sampler));
    ok(psld_model_free(model));
}

/// What an observer saw, and when it stops.
struct Seen {
    run: *mut psld_run,
    steps: Vec<i32>,
    previews: Vec<i32>,
    stop_at: i32,
}

extern "C" fn step_seen(user: *mut c_void, progress: *const psld_progress) -> i32 {
    // SAFETY: as passed below, and by the library.
    let (seen, progress) = unsafe { (&mut *user.cast::<Seen>(), &*progress) };
    seen.steps.push(progress.step);
    // The run is free between its steps.
    assert!(!save(seen.run).is_empty());
    i32::from(progress.step == seen.stop_at)
}

extern "C" fn preview_seen(
    user: *mut c_void,
    progress: *const psld_progress,
    x0: *const f32,
    n: usize,
) -> i32 {
    // SAFETY: as passed below, and by the library.
    let (seen, progress, x0) =
        unsafe { (&mut *user.cast::<Seen>(), &*progress, std::slice::from_raw_parts(x0, n)) };
    assert!(n == 24 && x0.iter().all(|x| x.is_finite()) && x0.iter().any(|x| *x != 0.0));
    seen.previews.push(progress.step);
    0
}

#[test]
fn observers_hear_of_steps_and_previews() {
    let model = load();
    let sampler = compile(model, |o| o.steps = 6);
    let mut o = options(psld_run_options_init);
    (o.n, o.previews) = (2, 1);
    let run = start(model, sampler, &o);
    let mut seen = Seen { run, steps: Vec::new(), previews: Vec::new(), stop_at: 3 };
    let mut observer = options(psld_observer_init);
    observer.user = (&raw mut seen).cast();
    observer.progress = Some(step_seen);
    observer.preview = Some(preview_seen);
    observer.preview_every = 2;
    let mut progress = options(psld_progress_init);
    let (status, message, _) = failure(|e| psld_run_finish(run, &observer, &mut progress, e));
    is(status, Status::Cancelled);
    assert_eq!((message.as_str(), progress.step), ("cancelled by a callback after step 3", 3));
    seen.stop_at = -1;
    ok(psld_run_finish(run, &observer, &mut progress, null_mut()));
    assert_eq!((&seen.steps[..], &seen.previews[..]), (&[1, 2, 3, 4, 5, 6, 7][..], &[2, 4, 6, 7][..]));
    assert_eq!(progress.done, 1);
    let whole = start(model, sampler, &o);
    ok(psld_run_finish(whole, null(), null_mut(), null_mut()));
    assert_eq!(state(whole, 2), state(run, 2));

    o.previews = 0;
    let blind = start(model, sampler, &o);
    is(failure(|e| psld_run_finish(blind, &observer, null_mut(), e)).0, Status::RunState);
    observer.preview_every = 0;
    is(failure(|e| psld_run_finish(blind, &observer, null_mut(), e)).0, Status::InvalidArgument);
    for run in [run, whole, blind] {
        ok(psld_run_free(run));
    }
    ok(psld_sampler_free(sampler));
    ok(psld_model_free(model));
}

#[test]
fn an_anytime_call_is_partial() {
    let model = told(|| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        0
    });
    let sampler = compile(model, |o| (o.sampler, o.steps) = (c"em".as_ptr(), 1000));
    let mut o = options(psld_run_options_init);
    (o.n, o.batch, o.anytime, o.deadline_seconds) = (4, 2, 1, 0.05);
    let mut out = [f32::NAN; 16];
    let sample = |out: &mut [f32; 16], what, e| {
        psld_sample(model, sampler, &o, what, 0, out.as_mut_ptr().cast(), 16, None, null_mut(), e)
    };
    let (status, message, _) = failure(|e| sample(&mut out, 0, e));
    is(status, Status::Partial);
    assert_eq!(message, "the deadline passed: 4 of 4 samples are data estimates");
    assert!(out.iter().all(|x| x.is_finite()), "{out:?}");
    let run = start(model, sampler, &o);
    is(psld_run_finish(run, null(), null_mut(), null_mut()), Status::Partial);
    ok(psld_run_read(run, psld_output::X0 as i32, 0, out.as_mut_ptr().cast(), 16, null_mut()));
    ok(psld_run_free(run));
    ok(psld_sampler_free(sampler));
    ok(psld_model_free(model));
}

#[test]
fn messages_name_their_run() {
    static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
    extern "C" fn listen(_: *mut c_void, _: i32, message: *const c_char) {
        // SAFETY: by the library.
        LINES.lock().unwrap().push(unsafe { CStr::from_ptr(message) }.to_str().unwrap().to_owned());
    }
    let model = load();
    let sampler = compile(model, |o| (o.sampler, o.steps) = (c"em".as_ptr(), 2));
    ok(psld_set_log_callback(psld_log::Debug as i32, Some(listen), null_mut()));
    let run = start(model, sampler, &options(psld_run_options_init));
    ok(psld_run_step(run, 9, null_mut(), null_mut()));
    ok(psld_set_log_callback(psld_log::Off as i32, None, null_mut()));
    let mut id = 0;
    ok(psld_run_id(run, &mut id, null_mut()));
    let lines = LINES.lock().unwrap().join("\n");
    for said in ["started with sampler em", "step 3 (t = 0.001)", "1 samples in 3 network calls each"] {
        assert!(lines.contains(&format!("run {id}: {said}")), "{said}: {lines}");
    }
    ok(psld_run_free(run));
    ok(psld_sampler_free(sampler));
    ok(psld_model_free(model));
}

/// The memory that this process has, in kB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn memory_stays_flat() {
    let model = load();
    let cycle = |i: u64| {
        let sampler = compile(model, |o| (o.sampler, o.steps) = (c"em".as_ptr(), 1));
        let mut o = options(psld_run_options_init);
        (o.n, o.seed) = (2, i);
        let mut cancel = null_mut();
        ok(psld_cancel_create(&mut cancel, null_mut()));
        o.cancel = cancel;
        let run = start(model, sampler, &o);
        ok(psld_run_step(run, 5, null_mut(), null_mut()));
        failure(|e| psld_run_read(run, 9, 0, null_mut(), 0, e));
        for freed in [psld_run_free(run), psld_cancel_free(cancel), psld_sampler_free(sampler)] {
            ok(freed);
        }
    };
    (0..500).for_each(cycle);
    let before = resident();
    (0..10_000).for_each(cycle);
    let after = resident();
    println!("resident after 500 cycles: {before} kB, after 10 500: {after} kB");
    // Other tests of this process run beside it; a leak of the runs alone would be 20 MB.
    assert!(after < before + 8_000, "{before} kB, then {after} kB");
    ok(psld_model_free(model));
}
