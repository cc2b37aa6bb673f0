//! An evaluator allocates nothing of ours after its first call with the same buffers, and a run holds the memory that it said
//! it would. A program of its own, as it counts all of this program's allocations.
#![cfg(feature = "onnxruntime")]

#[path = "onnxruntime/support.rs"]
mod support;

use psld::array::{Precision, Tensor, Values, ValuesMut};
use psld::network::{Inputs, Network};
use psld::onnx::{Dim, ElementType};
use psld::run::{self, Inpaint, Measurement};
use psld::spec::{Conditioning, InpaintMethod, Operator, Restoration};
use psld::{Model, Run, RunOptions, Sampler, SamplerSpec};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use support::Affine;

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Bytes that are allocated now.
static HELD: AtomicIsize = AtomicIsize::new(0);
/// The counters are the program's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

// SAFETY: everything is the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        HELD.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        HELD.fetch_add(size as isize - layout.size() as isize, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn nothing_is_allocated_after_the_first_call() {
    let _alone = ALONE.lock();
    let plain = Affine::default();
    let narrow = Affine {
        state_type: ElementType::F16,
        time_type: ElementType::I64,
        output_type: ElementType::Bf16,
        labels: true,
        ..Default::default()
    };
    let fixed = Affine { batch: Dim::from(3), ..Default::default() };
    for affine in [plain, narrow, fixed] {
        let mut evaluator = affine.network().evaluator().unwrap();
        // A chunk, the last one's shorter chunk, and two states and two outputs as a solver of second order has.
        let states = [vec![0.5f32; 8 * 96], vec![0.25; 8 * 96]];
        let wide = vec![0.5f64; 8 * 96];
        let mut outs = [vec![0f32; 8 * 96], vec![0f32; 8 * 96]];
        let t = [0.5; 8];
        let mut pass = || {
            for n in [8, 5] {
                for z in [
                    Values::F32(&states[0][..n * 96]),
                    Values::F32(&states[1][..n * 96]),
                    Values::F64(&wide[..n * 96]),
                ] {
                    for out in &mut outs {
                        let inputs = Inputs { z, t: &t[..n], labels: None, rows: None };
                        evaluator.evaluate(inputs, ValuesMut::F32(&mut out[..n * 96])).unwrap();
                    }
                }
            }
        };
        pass();
        let before = COUNT.load(Ordering::Relaxed);
        pass();
        pass();
        assert_eq!(COUNT.load(Ordering::Relaxed) - before, 0);
    }
}

/// What `run::memory` says is what a run holds, but for a few numbers a sample.
#[test]
fn a_run_holds_what_was_estimated() {
    let _alone = ALONE.lock();
    const N: usize = 1000;
    let model = Model::new(Arc::new(Affine::default().network()), 1).unwrap();
    let filled = |shape: &[usize]| Tensor::F32(ndarray::ArrayD::from_elem(shape, 0.5));
    let masked = |rows: usize| ndarray::ArrayD::from_elem(vec![rows, 1, 4, 4], 1.0f32);
    let image = |rows: usize| filled(&[rows, 3, 4, 4]);
    let plain = || RunOptions { previews: true, ..RunOptions::new(N) };
    let inpainting = Conditioning::from(Some(InpaintMethod::Corrected));
    let average = Conditioning::from(Restoration::from(Operator::Average { factor: 2 }));
    let mask = Conditioning::from(Restoration::from(Operator::Mask));
    let cases = [
        ("plain", Conditioning::default(), plain()),
        ("double", Conditioning::default(), RunOptions { precision: Precision::F64, ..plain() }),
        ("noise", Conditioning::default(), RunOptions { noise: Some(filled(&[4, N, 6, 4, 4])), ..plain() }),
        (
            "images",
            inpainting.clone(),
            RunOptions {
                inpaint: Some(Inpaint { image: image(N), mask: Tensor::F32(masked(N)) }),
                ..plain()
            },
        ),
        (
            "one image",
            inpainting,
            RunOptions {
                inpaint: Some(Inpaint { image: image(1), mask: Tensor::F32(masked(1)) }),
                ..plain()
            },
        ),
        (
            "measurements",
            average,
            RunOptions {
                measurement: Some(Measurement { values: filled(&[N, 3, 2, 2]), mask: None }),
                ..plain()
            },
        ),
        (
            "masked",
            mask,
            RunOptions {
                measurement: Some(Measurement { values: image(N), mask: Some(Tensor::F32(masked(N))) }),
                ..plain()
            },
        ),
    ];
    for (name, conditioning, options) in cases {
        let spec = SamplerSpec::parse(r#"{"sampler": "em", "steps": 4}"#).unwrap();
        let sampler = Arc::new(Sampler::compile(model.spec(), &spec, conditioning).unwrap());
        let estimate = run::memory(&sampler, &options) as f64;
        let before = HELD.load(Ordering::Relaxed);
        let run = Run::start(&model, &sampler, options.clone()).unwrap();
        let held = (HELD.load(Ordering::Relaxed) - before) as f64;
        // Outputs are counted in the precision of the state, which this network's do not have.
        let least = if options.precision == Precision::F64 { -0.2 } else { 0.0 };
        assert!(
            (least..0.05).contains(&(held / estimate - 1.0)),
            "{name}: {held} held, {estimate} estimated"
        );
        drop(run);
    }
}
