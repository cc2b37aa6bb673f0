//! `tests/conformance.json`: what every language must get, to the bit on the analytic networks, within a tolerance on ONNX
//! networks. Here through the C ABI's functions, linked in and from the shared library, and with each instruction set;
//! `c_programs.rs` runs it from C and C++, `bindings/python` from Python. `PSLD_UPDATE_CONFORMANCE=1` writes the numbers
//! anew.

#[path = "support/abi.rs"]
mod abi;

use abi::*;
use psld::isa::Isa;
use psld::{Status, solver};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::mem::{MaybeUninit, size_of};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::Once;

const FILE: &str = "tests/conformance.json";

fn read() -> Value {
    serde_json::from_str(&std::fs::read_to_string(FILE).unwrap()).unwrap()
}

/// FNV-1a, 64 bits: a few lines in any language.
fn fnv1a(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// What a case gives.
struct Output {
    bytes: Vec<u8>,
    double: bool,
}

impl Output {
    fn hash(&self) -> String {
        fnv1a(&self.bytes)
    }

    fn values(&self) -> Vec<f64> {
        match self.double {
            true => self.bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect(),
            false => self.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes).into()).collect(),
        }
    }
}

fn is_onnx(case: &Value) -> bool {
    case["model"].as_str().unwrap().ends_with(".onnx")
}

/// ONNX Runtime of the environment, or of `make onnxruntime`.
fn load_onnxruntime() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let library = std::env::var("PSLD_ONNXRUNTIME").unwrap_or_else(|_| {
            concat!(env!("CARGO_MANIFEST_DIR"), "/target/onnxruntime/libonnxruntime.so").into()
        });
        let path = CString::new(library.as_str()).unwrap();
        let mut runtime = null_mut();
        let status = psld_runtime_load(path.as_ptr(), &mut runtime, null_mut());
        assert_eq!(
            status,
            Status::Ok as i32,
            "these tests need ONNX Runtime at {library}: run `make onnxruntime`"
        );
        psld_runtime_free(runtime);
    });
}

/// The output of a case, or status and message.
fn run(case: &Value) -> Result<Output, (i32, String)> {
    if is_onnx(case) {
        load_onnxruntime();
    }
    let mut err = null_mut();
    let check = |status: i32, err: &mut *mut psld_error| {
        if status == Status::Ok as i32 {
            return Ok(());
        }
        // SAFETY: the message of a live error.
        let message = unsafe { CStr::from_ptr(psld_error_message(*err)) }.to_str().unwrap().to_owned();
        psld_error_free(*err);
        Err((status, message))
    };
    let text = |value: &Value| CString::new(value.as_str().unwrap()).unwrap();
    let model_path = text(&case["model"]);
    let mut model = null_mut();
    check(psld_model_load_file(null(), model_path.as_ptr(), null(), &mut model, &mut err), &mut err)?;
    let json = CString::new(case["sampler"].to_string()).unwrap();
    let mut how = MaybeUninit::<psld_sampler_options>::uninit();
    psld_sampler_options_init(how.as_mut_ptr(), size_of::<psld_sampler_options>());
    // SAFETY: init has written all of it.
    let mut how = unsafe { how.assume_init() };
    how.options_json = json.as_ptr();
    let mut sampler = null_mut();
    let made = check(psld_sampler_create(model, &how, &mut sampler, &mut err), &mut err);
    let result = made.and_then(|()| {
        let mut what = MaybeUninit::<psld_run_options>::uninit();
        psld_run_options_init(what.as_mut_ptr(), size_of::<psld_run_options>());
        // SAFETY: as above.
        let mut what = unsafe { what.assume_init() };
        what.n = case["n"].as_i64().unwrap();
        what.seed = case["seed"].as_u64().unwrap();
        let double = case["precision"] == "f64";
        what.precision = i32::from(double);
        let output = i32::from(case["output"] == "state");
        let (mut shape, mut dims) = ([0; 8], 0);
        check(psld_model_shape(model, output, shape.as_mut_ptr(), 8, &mut dims, &mut err), &mut err)?;
        let count = what.n.max(0) as usize * shape[..dims].iter().product::<i64>() as usize;
        let mut out = vec![0u64; count];
        let sampled = psld_sample(
            model,
            sampler,
            &what,
            output,
            what.precision,
            out.as_mut_ptr().cast(),
            count,
            None,
            null_mut(),
            &mut err,
        );
        check(sampled, &mut err)?;
        let bytes: Vec<u8> = out.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(Output { bytes: bytes[..count * if double { 8 } else { 4 }].to_vec(), double })
    });
    psld_sampler_free(sampler);
    psld_model_free(model);
    result
}

/// The cases, without their results.
fn cases() -> Vec<Value> {
    let mut cases = Vec::new();
    let models = ["tests/data/capi/mixture.json", "tests/data/capi/vp.json"];
    for info in solver::list() {
        let sampler = match info.adaptive {
            true => json!({ "sampler": info.name, "rtol": 1e-3 }),
            false => json!({ "sampler": info.name, "steps": 6 }),
        };
        for (model, precision, output) in
            [(models[0], "f32", "data"), (models[0], "f64", "state"), (models[1], "f32", "state")]
        {
            let case = json!({
                "model": model, "sampler": sampler, "n": 3, "seed": 11, "precision": precision, "output": output
            });
            // A sampler of k = 1 has one model only.
            if run(&case).is_ok() {
                cases.push(case);
            }
        }
    }
    let how = |sampler: Value| {
        json!({
            "model": models[0], "sampler": sampler, "n": 2, "seed": 0, "precision": "f32", "output": "data"
        })
    };
    cases.extend([
        how(json!({ "sampler": "em", "nfe": 12, "time_grid": "uniform", "seed": 18446744073709551615u64 })),
        how(json!({ "sampler": "heun", "steps": 4, "denoise": false, "t_end": 0.01 })),
        how(json!({ "sampler": "sscs", "time_grid": [1.0, 0.6, 0.2, 0.001] })),
        how(json!({ "sampler": "huen" })),
        how(json!({ "stesp": 4 })),
        how(json!({ "steps": 4, "nfe": 4 })),
        how(json!({ "sampler": "em", "rtol": 1e-3 })),
        how(json!({ "t_end": 2.0 })),
        how(json!({ "sampler": "rk45", "max_nfe": 20, "rtol": 1e-9, "atol": 1e-9 })),
        json!({
            "model": "tests/data/nowhere.json", "sampler": {}, "n": 1, "seed": 0, "precision": "f32", "output": "data"
        }),
        json!({
            "model": models[0], "sampler": {}, "n": 0, "seed": 0, "precision": "f32", "output": "data"
        }),
    ]);
    let onnx = |model: &str, sampler: Value, precision: &str, output: &str| {
        json!({
            "model": format!("tests/data/{model}"), "sampler": sampler, "n": 2, "seed": 11, "precision": precision,
            "output": output
        })
    };
    let (psld, vp) = ("onnxruntime/model.onnx", "reference/em_vp/model.onnx");
    cases.extend([
        onnx(psld, json!({ "sampler": "em", "steps": 6 }), "f32", "data"),
        onnx(psld, json!({ "sampler": "sscs", "steps": 6, "time_grid": "uniform" }), "f64", "state"),
        onnx(psld, json!({ "sampler": "dpmpp", "order": 3, "nfe": 8 }), "f32", "data"),
        onnx(psld, json!({ "sampler": "auto", "nfe": 10 }), "f32", "data"),
        onnx(psld, json!({ "sampler": "rk45", "rtol": 1e-3 }), "f32", "data"),
        onnx(vp, json!({ "sampler": "ddim", "steps": 6 }), "f32", "data"),
        onnx(vp, json!({ "sampler": "unipc", "nfe": 8, "published": true }), "f64", "state"),
        onnx("diffusers/unet.onnx", json!({}), "f32", "data"),
    ]);
    cases
}

/// Of values on ONNX networks, absolute or relative: another ONNX Runtime or processor rounds otherwise.
const TOLERANCE: f64 = 1e-4;

fn write() {
    let cases = cases().into_iter().map(|mut case| {
        match run(&case) {
            Ok(output) if is_onnx(&case) => {
                let round = |x: f64| (x * 1e6).round() / 1e6;
                case["values"] = output.values().into_iter().map(round).collect();
            }
            Ok(output) => case["hash"] = output.hash().into(),
            Err((status, message)) => {
                case["status"] = status.into();
                case["message"] = message.into();
            }
        }
        case
    });
    let lines: Vec<String> = cases.map(|case| format!("  {case}")).collect();
    let about = "hash: FNV-1a (64 bits) of the result's bytes, little endian; values: all of the result, within tolerance, \
                 relative for values beyond 1; paths are relative to the repository";
    let text = format!(
        "{{\"about\": {},\n \"tolerance\": {TOLERANCE},\n \"cases\": [\n{}\n ]}}\n",
        json!(about),
        lines.join(",\n")
    );
    // At once: another of these tests may be reading.
    std::fs::write("tests/conformance.new", text).unwrap();
    std::fs::rename("tests/conformance.new", FILE).unwrap();
}

fn check(case: &Value, tolerance: f64) {
    match (run(case), case["values"].as_array()) {
        (Ok(output), Some(values)) => {
            let made = output.values();
            assert_eq!(made.len(), values.len(), "{case}");
            for (x, expected) in made.iter().zip(values) {
                let expected = expected.as_f64().unwrap();
                assert!(
                    (x - expected).abs() <= tolerance * expected.abs().max(1.0),
                    "{x}, not {expected}: {case}"
                );
            }
        }
        (Ok(output), None) => assert_eq!(case["hash"], output.hash(), "{case}"),
        (Err((status, message)), _) => {
            assert_eq!((&case["status"], &case["message"]), (&status.into(), &message.into()), "{case}");
        }
    }
}

#[test]
fn every_case_through_the_c_abi() {
    if std::env::var_os("PSLD_UPDATE_CONFORMANCE").is_some() {
        write();
    }
    let file = read();
    let cases = file["cases"].as_array().unwrap();
    for case in cases {
        // On processors that are emulated there is no ONNX Runtime.
        if cfg!(feature = "onnxruntime") || !is_onnx(case) {
            check(case, file["tolerance"].as_f64().unwrap());
        }
        assert!(Path::new(case["model"].as_str().unwrap()).is_file() || case["status"] == 108, "{case}");
    }
    // None is left out.
    let named: BTreeSet<&str> = cases
        .iter()
        .filter(|case| case["hash"].is_string())
        .filter_map(|case| case["sampler"]["sampler"].as_str())
        .collect();
    let missing: Vec<&str> =
        solver::list().map(|info| info.name).filter(|name| !named.contains(name)).collect();
    assert!(
        missing.is_empty(),
        "{missing:?} have no case: PSLD_UPDATE_CONFORMANCE=1 cargo test --test conformance"
    );
}

#[test]
fn all_of_it_through_the_shared_library() {
    again_through_the_shared_library(&["all_of_it", "every_instruction_set"]);
}

/// Beside it, other tests run with the same: what they get does not depend on it.
#[test]
fn every_instruction_set_gives_the_same_bits() {
    let file = read();
    let hashed = || file["cases"].as_array().unwrap().iter().filter(|case| case["hash"].is_string());
    assert!(hashed().count() > 40);
    let all: Vec<Isa> = Isa::available().collect();
    for isa in &all {
        Isa::limit(*isa);
        assert_eq!(Isa::detect(), *isa);
        hashed().for_each(|case| check(case, 0.0));
        println!("{isa}: {} cases, same bits", hashed().count());
    }
    assert_eq!(all.last(), Some(&Isa::detect()), "the widest is the last");
}
