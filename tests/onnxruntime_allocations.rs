//! An evaluator allocates nothing of ours after its first call with the same buffers. A program of its own, as it
//! counts all of this program's allocations.
#![cfg(feature = "onnxruntime")]

#[path = "onnxruntime/support.rs"]
mod support;

use psld::network::{Inputs, Network, Values, ValuesMut};
use psld::onnx::{Dim, ElementType};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use support::Affine;

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// One test: the counter is the program's.
#[test]
fn nothing_is_allocated_after_the_first_call() {
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
                        let inputs = Inputs { z, t: &t[..n], labels: None };
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
