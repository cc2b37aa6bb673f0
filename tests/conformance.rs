//! `tests/conformance.json`: what every language must get, to the bit on the analytic networks. Here through the C ABI's
//! functions; `c_programs.rs` runs it through the built library from C, `bindings/python` from Python.
//! `PSLD_UPDATE_CONFORMANCE=1` writes the numbers anew.

use psld::capi::*;
use psld::{Status, solver};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::mem::{MaybeUninit, size_of};
use std::path::Path;
use std::ptr::{null, null_mut};

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

/// The hash of a case's output, or status and message.
fn run(case: &Value) -> Result<String, (i32, String)> {
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
        Ok(fnv1a(&bytes[..count * if double { 8 } else { 4 }]))
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
    cases
}

#[test]
fn every_case_through_the_c_abi() {
    if std::env::var_os("PSLD_UPDATE_CONFORMANCE").is_some() {
        let cases = cases().into_iter().map(|mut case| {
            match run(&case) {
                Ok(hash) => case["hash"] = hash.into(),
                Err((status, message)) => {
                    case["status"] = status.into();
                    case["message"] = message.into();
                }
            }
            case
        });
        let lines: Vec<String> = cases.map(|case| format!("  {case}")).collect();
        let about = "hash: FNV-1a (64 bits) of the result's bytes, little endian; paths are relative to the repository";
        let text = format!("{{\"about\": {},\n \"cases\": [\n{}\n ]}}\n", json!(about), lines.join(",\n"));
        std::fs::write(FILE, text).unwrap();
    }
    let file = read();
    let cases = file["cases"].as_array().unwrap();
    for case in cases {
        match run(case) {
            Ok(hash) => assert_eq!(case["hash"], hash, "{case}"),
            Err((status, message)) => {
                assert_eq!((&case["status"], &case["message"]), (&status.into(), &message.into()), "{case}");
            }
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
