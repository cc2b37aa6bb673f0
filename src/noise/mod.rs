//! Noise that anyone can reproduce: normals as a pure function of (seed, purpose, draw, element).
//!
//! An element is a flat index into one sample's whole state; element e is normal e % 4 of those that
//! [Philox4x32-10](philox4x32) gives at the counter (e / 4, draw, purpose, 0) under the key (low, high word of
//! the sample's seed). Its four words w make u = (w + 1/2) 2^-32, and each pair of them, by Box and Muller, two
//! normals: with r = sqrt(-2 ln u_0), r cos(2 pi u_1) and r sin(2 pi u_1).
//!
//! There is no hidden state, so neither batch, order, threads nor instruction set changes a bit; and the
//! arithmetic is our own, in plain IEEE operations, so neither does the platform.
//!
//! ```
//! use psld::noise::{Purpose, fill_f32};
//!
//! let (mut whole, mut part) = ([0.0; 100], [0.0; 10]);
//! fill_f32(7, Purpose::Solver, 3, 0, &mut whole);
//! fill_f32(7, Purpose::Solver, 3, 90, &mut part);
//! assert_eq!(part, whole[90..]);
//! ```

mod normal;
mod philox;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::isa::{Isa, Kernel};

pub use philox::philox4x32;

/// Elements of one sample's state that have noise of their own: the block number is a 32-bit word.
pub const MAX_ELEMENTS: u64 = 4 << 32;

/// What noise is for: draws of different purposes are independent, and each purpose counts its own from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u32)]
pub enum Purpose {
    /// The initial state.
    Prior = 0,
    /// The noise of a solver's updates.
    Solver = 1,
    /// The known region of an image that is inpainted.
    Inpaint = 2,
    /// Random directions of a trace estimate.
    Probe = 3,
}

impl Purpose {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Prior, Self::Solver, Self::Inpaint, Self::Probe];

    /// The name in JSON and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prior => "prior",
            Self::Solver => "solver",
            Self::Inpaint => "inpaint",
            Self::Probe => "probe",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Purpose {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|purpose| purpose.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Error::argument(format!("unknown noise purpose `{name}`; expected one of {known}"))
        })
    }
}

/// Writes standard normals for the elements from `first_element` on, as f32: those of [`fill_f64`] rounded once.
///
/// `first_element + out.len()` must not exceed [`MAX_ELEMENTS`]; beyond it numbers repeat.
pub fn fill_f32(seed: u64, purpose: Purpose, draw: u32, first_element: u64, out: &mut [f32]) {
    fill(Isa::detect(), seed, purpose, draw, first_element, out);
}

/// Writes standard normals for the elements from `first_element` on, as f64.
///
/// Within 1e-12 of the real-number formula, and at most sqrt(66 ln 2) = 6.76 in magnitude. They have the
/// resolution of the 32-bit words behind them, not that of f64.
/// `first_element + out.len()` must not exceed [`MAX_ELEMENTS`]; beyond it numbers repeat.
pub fn fill_f64(seed: u64, purpose: Purpose, draw: u32, first_element: u64, out: &mut [f64]) {
    fill(Isa::detect(), seed, purpose, draw, first_element, out);
}

/// [`fill_f32`] or [`fill_f64`] with the instruction set chosen by the caller, for tests and benchmarks.
pub fn fill<T: Real>(isa: Isa, seed: u64, purpose: Purpose, draw: u32, first_element: u64, out: &mut [T]) {
    debug_assert!(
        first_element.checked_add(out.len() as u64).is_some_and(|end| end <= MAX_ELEMENTS),
        "{} elements from {first_element} on exceed MAX_ELEMENTS",
        out.len()
    );
    isa.run(Fill { key: [seed as u32, (seed >> 32) as u32], purpose, draw, first_element, out });
}

/// A type of state: `f32` or `f64`.
pub trait Real: Copy + sealed::Sealed {
    /// The nearest value of this type.
    fn from_f64(normal: f64) -> Self;
}

impl Real for f32 {
    #[inline(always)]
    fn from_f64(normal: f64) -> Self {
        normal as f32
    }
}

impl Real for f64 {
    #[inline(always)]
    fn from_f64(normal: f64) -> Self {
        normal
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

struct Fill<'a, T> {
    key: [u32; 2],
    purpose: Purpose,
    draw: u32,
    first_element: u64,
    out: &'a mut [T],
}

impl<T: Real> Fill<'_, T> {
    /// The normals of four elements, those of one counter.
    #[inline(always)]
    fn block(&self, index: u32) -> [T; 4] {
        let [a, b, c, d] = philox4x32([index, self.draw, self.purpose as u32, 0], self.key);
        let ([a, b], [c, d]) = (normal::box_muller([a, b]), normal::box_muller([c, d]));
        [a, b, c, d].map(T::from_f64)
    }
}

impl<T: Real> Kernel for Fill<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        let out = std::mem::take(&mut self.out);
        let mut index = (self.first_element / 4) as u32;
        let skip = (self.first_element % 4) as usize;
        // An aligned range has no head, so that whole vectors of blocks stay whole.
        let (head, out) = out.split_at_mut(out.len().min((4 - skip) % 4));
        if !head.is_empty() {
            head.copy_from_slice(&self.block(index)[skip..skip + head.len()]);
            index = index.wrapping_add(1);
        }
        let (blocks, tail) = out.as_chunks_mut::<4>();
        for block in blocks {
            *block = self.block(index);
            index = index.wrapping_add(1);
        }
        if !tail.is_empty() {
            tail.copy_from_slice(&self.block(index)[..tail.len()]);
        }
    }
}
