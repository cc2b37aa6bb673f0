//! Element types, and tensors as ONNX stores them: little-endian bytes.

use std::fmt;

use half::{bf16, f16};
use prost::bytes::Bytes;

use super::proto::TensorProto;
use crate::{Error, Result};

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an [`F32`](Self::F32).
    Bf16,
    /// Signed, 64 bits: shapes, indices, labels.
    I64,
    /// Signed, 32 bits.
    I32,
    /// Unsigned, 8 bits: images.
    U8,
    /// One byte, 0 or 1.
    Bool,
    /// Any other one, by its number in `TensorProto.DataType`.
    Other(i32),
}

impl ElementType {
    /// Its number in `TensorProto.DataType`.
    pub fn code(self) -> i32 {
        match self {
            Self::F32 => 1,
            Self::U8 => 2,
            Self::I32 => 6,
            Self::I64 => 7,
            Self::Bool => 9,
            Self::F16 => 10,
            Self::F64 => 11,
            Self::Bf16 => 16,
            Self::Other(code) => code,
        }
    }

    /// The element type of a number of `TensorProto.DataType`.
    pub fn from_code(code: i32) -> Self {
        [Self::F32, Self::F64, Self::F16, Self::Bf16, Self::I64, Self::I32, Self::U8, Self::Bool]
            .into_iter()
            .find(|element| element.code() == code)
            .unwrap_or(Self::Other(code))
    }

    /// Appends `value` to `raw`; `false` if the type cannot hold it. Rounding is fine, overflow is not.
    fn push(self, value: f64, raw: &mut Vec<u8>) -> bool {
        let integer = |low: f64, high: f64| value.fract() == 0.0 && (low..=high).contains(&value);
        let fits = match self {
            Self::F32 => !(value as f32).is_infinite() || value.is_infinite(),
            Self::F16 => !f16::from_f64(value).is_infinite() || value.is_infinite(),
            Self::Bf16 => !bf16::from_f64(value).is_infinite() || value.is_infinite(),
            Self::F64 => true,
            // Beyond 2^53 a double no longer names one integer.
            Self::I64 => integer(-9.007_199_254_740_992e15, 9.007_199_254_740_992e15),
            Self::I32 => integer(i32::MIN.into(), i32::MAX.into()),
            Self::U8 => integer(0.0, 255.0),
            Self::Bool => integer(0.0, 1.0),
            Self::Other(_) => false,
        };
        match self {
            _ if !fits => {}
            Self::F32 => (value as f32).write(raw),
            Self::F64 => value.write(raw),
            Self::F16 => f16::from_f64(value).write(raw),
            Self::Bf16 => bf16::from_f64(value).write(raw),
            Self::I64 => (value as i64).write(raw),
            Self::I32 => (value as i32).write(raw),
            Self::U8 => (value as u8).write(raw),
            Self::Bool => (value == 1.0).write(raw),
            Self::Other(_) => {}
        }
        fits
    }
}

impl fmt::Display for ElementType {
    /// The names numpy uses (and `bfloat16`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::U8 => "uint8",
            Self::Bool => "bool",
            Self::Other(code) => return write!(f, "ONNX element type {code}"),
        })
    }
}

/// A Rust type that is an [`ElementType`].
pub trait Element: Copy {
    /// Which one.
    const TYPE: ElementType;
    /// Appends the value's little-endian bytes.
    fn write(self, raw: &mut Vec<u8>);
}

macro_rules! element {
    ($($rust:ty: $element:ident),*) => {$(
        impl Element for $rust {
            const TYPE: ElementType = ElementType::$element;
            fn write(self, raw: &mut Vec<u8>) {
                raw.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
element!(f32: F32, f64: F64, f16: F16, bf16: Bf16, i64: I64, i32: I32, u8: U8);

impl Element for bool {
    const TYPE: ElementType = ElementType::Bool;
    fn write(self, raw: &mut Vec<u8>) {
        raw.push(self.into());
    }
}

/// A constant: element type, shape and little-endian bytes. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tensor {
    element: ElementType,
    dims: Vec<usize>,
    raw: Bytes,
}

impl Tensor {
    /// A tensor of `values` in row-major order; `dims` empty makes a scalar.
    pub fn new<T: Element>(dims: &[usize], values: &[T]) -> Result<Self> {
        Self::check_count(dims, values.len())?;
        let mut raw = Vec::with_capacity(size_of_val(values));
        values.iter().for_each(|value| value.write(&mut raw));
        Ok(Self { element: T::TYPE, dims: dims.to_vec(), raw: raw.into() })
    }

    /// A tensor of `element`, each of `values` rounded to it. A value that the type cannot hold (a fraction
    /// in an integer, 1e6 in a float16) is an error.
    pub fn convert(element: ElementType, dims: &[usize], values: &[f64]) -> Result<Self> {
        Self::check_count(dims, values.len())?;
        let mut raw = Vec::new();
        for &value in values {
            if !element.push(value, &mut raw) {
                return Err(Error::argument(format!("a tensor of {element} cannot hold {value}")));
            }
        }
        Ok(Self { element, dims: dims.to_vec(), raw: raw.into() })
    }

    /// The type of its elements.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// Its shape.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    fn check_count(dims: &[usize], got: usize) -> Result<()> {
        let expected = dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        if expected == Some(got) {
            return Ok(());
        }
        Err(Error::argument(format!("a tensor of shape {dims:?} cannot be made of {got} values")))
    }

    pub(super) fn to_proto(&self, name: Option<String>) -> TensorProto {
        TensorProto {
            dims: self.dims.iter().map(|&dim| dim as i64).collect(),
            data_type: Some(self.element.code()),
            name,
            raw_data: Some(self.raw.clone()),
            ..Default::default()
        }
    }
}
