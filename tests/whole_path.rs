//! The whole path through the C ABI and ONNX Runtime: the reference trajectories, and networks of a user's size.
//!
//! `PSLD_ONNXRUNTIME` names the library; `make onnxruntime` fetches one.

#![cfg(feature = "onnxruntime")]

use psld::Status;
use psld::array::Tensor;
use psld::capi::*;
use psld::io::npy;
use psld::onnx::ElementType;
use psld::onnx::networks::UNet;
use serde_json::Value;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};

/// Fails with the library's own message.
fn ok(call: impl FnOnce(*mut *mut psld_error) -> i32) {
    let mut err = null_mut();
    if call(&mut err) != Status::Ok as i32 {
        // SAFETY: the message of an error that is never freed.
        panic!("{}", unsafe { CStr::from_ptr(psld_error_message(err)) }.to_string_lossy());
    }
}

fn init<T>(init: extern "C" fn(*mut T, usize) -> i32) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    assert_eq!(init(value.as_mut_ptr(), size_of::<T>()), Status::Ok as i32);
    // SAFETY: init has written all of it.
    unsafe { value.assume_init() }
}

/// An array read from a file, as the C ABI takes it.
struct Given {
    values: Tensor,
    shape: Vec<i64>,
}

impl Given {
    fn read(path: PathBuf) -> Option<Self> {
        let values = path.exists().then(|| npy::read(&path).unwrap().values)?;
        let shape = values.shape().iter().map(|size| *size as i64).collect();
        Some(Self { values, shape })
    }

    fn view(&self) -> psld_tensor {
        let mut tensor = init(psld_tensor_init);
        (tensor.data, tensor.dtype) = match &self.values {
            Tensor::F32(a) => (a.as_ptr().cast(), psld_dtype::F32 as i32),
            Tensor::F64(a) => (a.as_ptr().cast(), psld_dtype::F64 as i32),
        };
        (tensor.ndim, tensor.shape) = (self.shape.len() as i32, self.shape.as_ptr());
        tensor
    }
}

fn view(given: &Option<Given>) -> Option<psld_tensor> {
    given.as_ref().map(Given::view)
}

fn pointer(tensor: &Option<psld_tensor>) -> *const psld_tensor {
    tensor.as_ref().map_or(null(), |tensor| tensor)
}

/// Replays a case in a state of type `dtype`: the largest difference to what the authors' code gave, and the NFE.
fn replay(case: &str, dtype: psld_dtype, float32_times: bool) -> (f64, i32) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reference").join(case);
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let mut sampler_json = config["sampler"].clone();
    if float32_times {
        sampler_json["denoise_time"] = "float32".into();
    }
    let sampler_json = CString::new(sampler_json.to_string()).unwrap();
    let inpaint = config["inpaint"]["method"].as_str().map(|method| CString::new(method).unwrap());

    let path = CString::new(folder.join("model.onnx").to_str().unwrap()).unwrap();
    let (mut model, mut sampler, mut run) = (null_mut(), null_mut(), null_mut());
    ok(|err| psld_model_load_file(null(), path.as_ptr(), null(), &mut model, err));
    let mut options = init(psld_sampler_options_init);
    options.options_json = sampler_json.as_ptr();
    options.inpaint = inpaint.as_ref().map_or(null(), |method| method.as_ptr());
    ok(|err| psld_sampler_create(model, &options, &mut sampler, err));

    let [z0, noise, x0, mask, expected] =
        ["z0", "noise", "x0", "mask", "expected"].map(|name| Given::read(folder.join(format!("{name}.npy"))));
    let (init_view, noise_view, image, mask) = (view(&z0), view(&noise), view(&x0), view(&mask));
    let mut options = init(psld_run_options_init);
    options.n = z0.as_ref().unwrap().shape[0];
    options.precision = dtype as i32;
    (options.init, options.noise) = (pointer(&init_view), pointer(&noise_view));
    (options.inpaint_image, options.inpaint_mask) = (pointer(&image), pointer(&mask));
    ok(|err| psld_run_start(model, sampler, &options, &mut run, err));
    let mut progress = init(psld_progress_init);
    while progress.done == 0 {
        ok(|err| psld_run_step(run, 1, &mut progress, err));
    }

    let Some(Given { values: Tensor::F64(expected), .. }) = expected else {
        panic!("expected.npy is float64")
    };
    let mut out = vec![0f64; expected.len()];
    let (state, f64) = (psld_output::State as i32, psld_dtype::F64 as i32);
    ok(|err| psld_run_read(run, state, f64, out.as_mut_ptr().cast(), out.len(), err));
    for status in [psld_model_free(model), psld_run_free(run), psld_sampler_free(sampler)] {
        assert_eq!(status, Status::Ok as i32);
    }
    let difference = out.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    (difference, progress.nfe)
}

#[test]
fn reference_trajectories() {
    for case in ["em_cld", "em_inpaint", "em_psld", "em_psld_quadratic", "em_vp", "rk45_psld", "sscs_psld"] {
        let (exact, nfe) = replay(case, psld_dtype::F64, false);
        let (published, _) = replay(case, psld_dtype::F64, true);
        let (single, _) = replay(case, psld_dtype::F32, false);
        println!("{case}: {exact:.1e}, with float32 times {published:.1e}, in a float32 state {single:.1e}");
        assert!(exact <= 2e-5 && published <= 2e-6 && single <= 5e-5, "{case}");
        if case == "rk45_psld" {
            let recorded = include_str!("data/reference/rk45_psld/nfe.txt").trim().parse::<i32>().unwrap();
            assert!((nfe - recorded).abs() <= 6, "{nfe} network calls, {recorded} recorded");
        }
    }
}

/// Samples from a network in memory; `n` samples in `steps` steps of Euler-Maruyama.
fn sample(network: &UNet, n: usize, steps: i32) -> Vec<f32> {
    const SPEC: &str =
        r#"{"format": 1, "process": {"kind": "psld"}, "data": {"shape": [3, 32, 32]}, "network": {}}"#;
    let bytes = network.network(SPEC).unwrap().to_bytes();
    let (mut model, mut sampler) = (null_mut(), null_mut());
    ok(|err| psld_model_load_memory(null(), bytes.as_ptr().cast(), bytes.len(), null(), &mut model, err));
    let mut options = init(psld_sampler_options_init);
    options.steps = steps;
    ok(|err| psld_sampler_create(model, &options, &mut sampler, err));
    let mut options = init(psld_run_options_init);
    options.n = n as i64;
    let mut out = vec![f32::NAN; n * 3 * 32 * 32];
    let (data, f32) = (psld_output::Data as i32, psld_dtype::F32 as i32);
    ok(|err| {
        psld_sample(
            model,
            sampler,
            &options,
            data,
            f32,
            out.as_mut_ptr().cast(),
            out.len(),
            None,
            null_mut(),
            err,
        )
    });
    psld_sampler_free(sampler);
    psld_model_free(model);
    out
}

/// The largest difference, and the root mean square of `a`.
fn compare(a: &[f32], b: &[f32]) -> (f32, f32) {
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    (worst, (a.iter().map(|x| x * x).sum::<f32>() / a.len() as f32).sqrt())
}

#[test]
fn a_network_of_40_million_parameters() {
    // DDPM's CIFAR-10 network, a little wider: 40.3 million.
    let network = UNet { width: 136, ..UNet::cifar10(2) };
    let two = sample(&network, 2, 4);
    let (_, rms) = compare(&two, &two);
    assert!((0.1..10.0).contains(&rms), "rms {rms}");
    // The second sample does not depend on the first one's company, but for the rounding of another batch size.
    let one = sample(&network, 1, 4);
    let (difference, _) = compare(&one, &two[..one.len()]);
    assert!(difference <= 1e-4, "{difference}");
}

#[test]
fn a_half_precision_network() {
    let single = sample(&UNet::small(2), 2, 8);
    let half = sample(&UNet { element: ElementType::F16, ..UNet::small(2) }, 2, 8);
    let (difference, rms) = compare(&single, &half);
    assert!(difference > 0.0, "a half-precision network gives the same bits: it is none");
    assert!(difference <= 0.05 * rms, "{difference} of {rms}");
}
