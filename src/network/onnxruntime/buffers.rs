//! Buffers of a port's own type, for callers' values of another type or batch size.

use super::api::{Failure, Input, Output, Scalar, Tensor, Tensors};
use super::ports::{Float, Time};
use crate::array::Values;
use crate::decode::Clock;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// A floating-point type of a port.
trait Narrow: Scalar + Default {
    fn from_f32(to: &mut [Self], from: &[f32]);
    fn to_f32(from: &[Self], to: &mut [f32]);

    /// Rounded twice, through f32, on every machine: the direct conversions of `half` round twice where the CPU
    /// has the instructions and once where it has not.
    fn from_f64(to: &mut [Self], from: &[f64]) {
        const CHUNK: usize = 256;
        let mut single = [0f32; CHUNK];
        for (to, from) in to.chunks_mut(CHUNK).zip(from.chunks(CHUNK)) {
            let single = &mut single[..from.len()];
            single.iter_mut().zip(from).for_each(|(to, &from)| *to = from as f32);
            Self::from_f32(to, single);
        }
    }
}

impl Narrow for f32 {
    fn from_f32(to: &mut [Self], from: &[f32]) {
        to.copy_from_slice(from);
    }
    fn to_f32(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Narrow for f16 {
    fn from_f32(to: &mut [Self], from: &[f32]) {
        to.convert_from_f32_slice(from);
    }
    fn to_f32(from: &[Self], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }
}

impl Narrow for bf16 {
    fn from_f32(to: &mut [Self], from: &[f32]) {
        to.convert_from_f32_slice(from);
    }
    fn to_f32(from: &[Self], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }
}

/// Does `$body` with the vector of whatever type that `$floats` holds.
macro_rules! each_type {
    ($floats:expr, $data:ident => $body:expr) => {
        match $floats {
            Floats::F32($data) => $body,
            Floats::F16($data) => $body,
            Floats::Bf16($data) => $body,
        }
    };
}

fn resized<T: Clone + Default>(data: &mut Vec<T>, len: usize) -> Result<&mut [T], Failure> {
    // A graph that is fixed to a large batch can ask for more than there is.
    data.try_reserve(len.saturating_sub(data.len())).map_err(|_| Failure::out_of_memory(len))?;
    data.resize(len, T::default());
    Ok(data)
}

/// A buffer of floating-point values. It grows to the largest batch and is then not allocated again.
pub(super) enum Floats {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Floats {
    pub fn new(element: Float) -> Self {
        match element {
            Float::F32 => Self::F32(Vec::new()),
            Float::F16 => Self::F16(Vec::new()),
            Float::Bf16 => Self::Bf16(Vec::new()),
        }
    }

    /// Makes the buffer `values`, rounded to nearest, filled up to `len` by repeating the last sample: a network
    /// meets there what it was trained on, which zeros are not.
    pub fn fill(&mut self, values: Values<'_>, len: usize, sample: usize) -> Result<(), Failure> {
        fn fill<T: Narrow>(to: &mut [T], values: Values<'_>, sample: usize) {
            let used = values.len();
            match values {
                Values::F32(from) => T::from_f32(&mut to[..used], from),
                Values::F64(from) => T::from_f64(&mut to[..used], from),
            }
            for start in (used..to.len()).step_by(sample) {
                to.copy_within(start - sample..start, start);
            }
        }
        each_type!(self, to => fill(resized(to, len)?, values, sample));
        Ok(())
    }

    /// The buffer as `batch` samples to read.
    pub fn input<'a>(&'a self, tensors: &'a mut Tensors, batch: usize) -> Result<Input<'a>, Failure> {
        each_type!(self, data => tensors.input(data, batch))
    }

    /// The buffer as `batch` samples, of `len` values in all, to write.
    pub fn output<'a>(
        &'a mut self,
        tensors: &'a mut Tensors,
        batch: usize,
        len: usize,
    ) -> Result<Output<'a>, Failure> {
        each_type!(self, data => tensors.output(resized(data, len)?, batch))
    }

    /// Copies as many values as `out` takes.
    pub fn read(&self, out: &mut [f32]) {
        each_type!(self, data => Narrow::to_f32(&data[..out.len()], out))
    }
}

/// Copies from `tensor`, whose type and shape were checked, as many values as `out` takes.
pub(super) fn read(tensor: &Tensor, element: Float, out: &mut [f32]) -> Result<(), Failure> {
    fn read<T: Narrow>(tensor: &Tensor, out: &mut [f32]) -> Result<(), Failure> {
        T::to_f32(&tensor.data()?[..out.len()], out);
        Ok(())
    }
    match element {
        Float::F32 => read::<f32>(tensor, out),
        Float::F16 => read::<f16>(tensor, out),
        Float::Bf16 => read::<bf16>(tensor, out),
    }
}

/// The time input's buffer.
pub(super) enum Times {
    Float { scaled: Vec<f64>, buffer: Floats },
    I64(Vec<i64>),
}

impl Times {
    pub fn new(element: Time) -> Self {
        match element {
            Time::Float(element) => Self::Float { scaled: Vec::new(), buffer: Floats::new(element) },
            Time::I64 => Self::I64(Vec::new()),
        }
    }

    /// Makes the buffer the network's own times, rounded (integers: half to even), filled up to `size` with the last.
    pub fn fill(&mut self, t: &[f64], clock: &Clock, size: usize) -> Result<(), Failure> {
        match self {
            Self::Float { scaled, buffer } => {
                scaled.clear();
                scaled.extend(t.iter().map(|t| clock.at(*t)));
                buffer.fill(Values::F64(scaled), size, 1)
            }
            Self::I64(times) => {
                times.clear();
                times.extend(t.iter().map(|t| clock.at(*t).round_ties_even() as i64));
                times.resize(size, times.last().copied().unwrap_or_default());
                Ok(())
            }
        }
    }

    /// The buffer as `batch` times to read.
    pub fn input<'a>(&'a self, tensors: &'a mut Tensors, batch: usize) -> Result<Input<'a>, Failure> {
        match self {
            Self::Float { buffer, .. } => buffer.input(tensors, batch),
            Self::I64(times) => tensors.input(times, batch),
        }
    }
}
