//! What the library warns of, through its log, in Rust and C: data values in other units than the model's.

use ndarray::ArrayD;
use psld::array::Tensor;
use psld::capi::{psld_log, psld_set_log_callback};
use psld::engine::{Engine, EngineOptions, Request};
use psld::restoration::measure;
use psld::run::{Estimate, Inpaint, Measurement, likelihood, sample};
use psld::spec::{Conditioning, Inpainting, Operator, Restoration, What};
use psld::{Model, ModelOptions, RunOptions, Sampler, SamplerSpec};
use std::ffi::{CStr, c_char, c_void};
use std::ops::ControlFlow;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex};

static HEARD: Mutex<Vec<(i32, String)>> = Mutex::new(Vec::new());

extern "C" fn listen(_: *mut c_void, level: i32, message: *const c_char) {
    // SAFETY: the library passes a NUL-terminated string that lives through the call.
    let text = unsafe { CStr::from_ptr(message) }.to_str().unwrap().to_owned();
    HEARD.lock().unwrap().push((level, text));
}

fn heard() -> Vec<(i32, String)> {
    std::mem::take(&mut HEARD.lock().unwrap())
}

fn images(n: usize, value: impl Fn(usize) -> f32) -> Tensor {
    Tensor::F32(ArrayD::from_shape_fn(vec![n, 3, 4, 4], |at| value(at[2] * 4 + at[3])))
}

#[test]
fn values_in_other_units() {
    assert_eq!(psld_set_log_callback(psld_log::Warn as i32, Some(listen), null_mut()), 0);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/image.json");
    let model = Model::from_file(&path, ModelOptions::default()).unwrap();
    let options = |text: &str| SamplerSpec::parse(text).unwrap();
    let compiled = |text: &str, conditioning: Conditioning| {
        Arc::new(Sampler::compile(model.spec(), &options(text), conditioning).unwrap())
    };
    let plain = compiled(r#"{"sampler": "euler", "nfe": 3, "t_start": 0.2}"#, Conditioning::default());
    let run = |sampler: &Arc<Sampler>, options: RunOptions| {
        let options = RunOptions { batch: Some(2), ..options };
        sample::<f32>(&model, sampler, &options, What::Data, |_| ControlFlow::Continue(())).unwrap();
        heard()
    };
    let warning = |name: &str, value: &str| {
        let text =
            format!("{name}: a value is {value}, far out of the data range -1 to 1: is it in other units?");
        vec![(psld_log::Warn as i32, text)]
    };
    let levels = || images(5, |i| 17.0 * i as f32);
    let from = |image: Tensor| RunOptions { from_image: Some(image), ..RunOptions::new(5) };
    // Once, whatever the batch; the value farthest away.
    assert_eq!(run(&plain, from(levels())), warning("from_image", "255"));
    assert_eq!(
        run(&plain, from(images(1, |i| if i == 3 { -4.0 } else { 3.0 }))),
        warning("from_image", "-4")
    );
    // A width of the range around its middle is room enough for what is only a little out.
    assert_eq!(run(&plain, from(images(5, |i| if i == 0 { -2.0 } else { 1.9 }))), []);
    psld::Run::start(&model, &plain, from(levels())).unwrap();
    assert_eq!(heard(), warning("from_image", "255"));
    let engine = Engine::new(&model, EngineOptions::default()).unwrap();
    engine.submit(Request::new(&plain, from(levels()))).unwrap();
    assert_eq!(heard(), warning("from_image", "255"));
    let of = options(r#"{"nfe": 3}"#);
    let estimate = Estimate { probes: 1, dequantise: false };
    likelihood(&model, &of, &from(levels()), estimate, |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(heard(), warning("from_image", "255"));

    // What is unknown of an image may be anything.
    let inpainting = Conditioning { inpaint: Some(Inpainting::default()), ..Conditioning::default() };
    let inpainter = compiled(r#"{"sampler": "euler", "nfe": 3}"#, inpainting);
    let half = |n: usize| Tensor::F32(ArrayD::from_shape_fn(vec![n, 1, 4, 4], |at| f32::from(at[2] < 2)));
    let known = |image: Tensor, mask: Tensor| RunOptions {
        inpaint: Some(Inpaint { image, mask }),
        ..RunOptions::new(5)
    };
    assert_eq!(run(&inpainter, known(levels(), half(1))), warning("inpaint image", "119"));
    assert_eq!(
        run(&inpainter, known(images(1, |i| 17.0 * i as f32), half(5))),
        warning("inpaint image", "119")
    );
    let holes = || images(1, |i| if i < 8 { 0.5 } else { f32::MAX });
    assert_eq!(run(&inpainter, known(holes(), half(5))), []);

    let restorer = |operator: Operator, noise: f64| {
        let restore = Restoration { noise, ..operator.into() };
        let conditioning = Conditioning { restore: Some(restore), ..Conditioning::default() };
        compiled(r#"{"sampler": "dpmpp", "nfe": 3}"#, conditioning)
    };
    let measured = |values: Tensor, mask: Option<Tensor>| RunOptions {
        measurement: Some(Measurement { values, mask }),
        ..RunOptions::new(5)
    };
    let blur = || Operator::Blur { std: 0.5 };
    assert_eq!(run(&restorer(blur(), 0.1), measured(levels(), None)), warning("measurement", "255"));
    assert_eq!(run(&restorer(Operator::Mask, 0.0), measured(holes(), Some(half(1)))), []);
    // Much noise reaches far, and a kernel of another sum is another unit.
    assert_eq!(run(&restorer(blur(), 50.0), measured(levels(), None)), []);
    let eight = Operator::Convolve { kernel: vec![vec![255.0]] };
    assert_eq!(run(&restorer(eight, 0.1), measured(levels(), None)), []);
    measure(&blur().into(), &model.spec().data, levels(), 0).unwrap();
    assert_eq!(heard(), warning("images", "255"));

    // Nobody listens: nothing is said, or kept.
    assert_eq!(psld_set_log_callback(psld_log::Off as i32, None, null_mut()), 0);
    assert_eq!(run(&plain, from(levels())), []);
}
