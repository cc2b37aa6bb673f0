//! The vector instructions a kernel may use, chosen at run time.
//!
//! A kernel is written once, as a plain loop without branches, and [`Isa::run`] holds one copy of it for each
//! instruction set, which the compiler vectorises. Rust neither reorders nor contracts floating-point
//! operations, so every copy gives the same bits and the choice is one of speed alone.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set that this processor has.
///
/// A value exists only for what the processor was found to support: this is what makes [`Isa::run`] safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Isa(Level);

/// From narrow to wide; a processor with one of them has those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
enum Level {
    Scalar,
    Avx2,
    Avx512,
}

/// The [`Level`] that [`Isa::limit`] set.
static LIMIT: AtomicU8 = AtomicU8::new(Level::Avx512 as u8);

/// Work to be compiled once for each instruction set.
pub trait Kernel {
    /// What the work returns.
    type Output;

    /// Does the work.
    ///
    /// This and all that its loops call must be `#[inline(always)]`: only code inlined into the copies that
    /// [`Isa::run`] holds is compiled with their instructions.
    fn run(self) -> Self::Output;
}

impl Isa {
    /// What this library was compiled for and no more (SSE2 on x86-64, NEON on AArch64).
    pub const SCALAR: Self = Self(Level::Scalar);

    /// The widest instruction set of this processor, or of those up to [`Self::limit`]. Cheap: the standard library
    /// remembers what it found.
    pub fn detect() -> Self {
        let limit = LIMIT.load(Ordering::Relaxed);
        Self::available().take_while(|isa| isa.0 as u8 <= limit).last().unwrap_or(Self::SCALAR)
    }

    /// Has this process use no wider instruction set than `widest` from here on, in models that are loaded later: to
    /// compare and to measure, as all give the same numbers.
    pub fn limit(widest: Self) {
        LIMIT.store(widest.0 as u8, Ordering::Relaxed);
    }

    fn widest() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // The parts of AVX-512 that every processor with 512-bit arithmetic since Skylake-X has.
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            return Self(if avx512 { Level::Avx512 } else { Level::Avx2 });
        }
        Self::SCALAR
    }

    /// All instruction sets of this processor, the narrowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        let widest = Self::widest();
        [Level::Scalar, Level::Avx2, Level::Avx512]
            .into_iter()
            .map(Self)
            .take_while(move |isa| isa.0 <= widest.0)
    }

    /// Runs the copy of `kernel` made for this instruction set.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            // SAFETY: only `detect` and `available` make this value, after finding these features.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { run_avx512(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { run_avx2(kernel) },
            _ => kernel.run(),
        }
    }
}

/// `scalar`, `avx2` or `avx512`.
impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self.0 {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        })
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}
