//! numpy's array files (`.npy`; numpy's NEP 1): what a sampler exchanges, which is less than numpy can write.

use super::file::open_regular;
use crate::array::Tensor;
use crate::{Error, Result, Status};
use half::f16;
use ndarray::{ArrayD, IxDyn, ShapeBuilder};
use std::io::{self, Read, Write};
use std::path::Path;

/// What kind of numbers a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// float16, float32, float64, and C's long double.
    Float,
    /// uint8: what images of eight bits are kept in.
    Byte,
    /// Other integers of 8 to 64 bits, with a sign or without.
    Integer,
    /// bool.
    Bool,
}

/// An array as it was read: in row-major order, in the precision that holds its numbers (float64, integers of 32 bits and
/// more, and long doubles, rounded, as float64; everything else as float32).
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// What the file holds.
    pub kind: Kind,
    /// The numbers.
    pub values: Tensor,
}

/// Past what numpy reads itself; a longer header is a damaged file.
const MAX_HEADER: usize = 1 << 16;

/// Reads an array. Memory is taken only once the header fits the file's length.
///
/// # Errors
/// [`Status::ReadFailed`]: the file is missing, truncated, not an `.npy` file, or holds what is not read here
/// (objects, structures, text, complex numbers).
pub fn read(path: &Path) -> Result<Array> {
    let (mut file, len) = open_regular(path)?;
    read_from(&mut file, len).map_err(|e| e.explained().context(path.display()))
}

/// The array in `bytes`, the content of a file.
///
/// # Errors
/// [`Status::ReadFailed`], as [`read`].
pub(crate) fn parse(bytes: &[u8]) -> Result<Array> {
    read_from(&mut &bytes[..], bytes.len() as u64).map_err(Bad::explained)
}

enum Bad {
    Io(io::Error),
    File(String),
    Type(String),
    Memory(usize),
}

impl Bad {
    fn explained(self) -> Error {
        let error = |what: String| Error::new(Status::ReadFailed, what);
        match self {
            Self::Io(e) => error("cannot be read".into()).source(e),
            Self::File(what) => error(what),
            Self::Type(what) => error(what).hint("convert it: numpy.save(path, array.astype('<f4'))"),
            Self::Memory(bytes) => {
                Error::new(Status::OutOfMemory, format!("{bytes} bytes cannot be allocated"))
            }
        }
    }
}

impl From<io::Error> for Bad {
    fn from(e: io::Error) -> Self {
        Bad::Io(e)
    }
}

/// `len` is the length of all that `file` will give.
fn read_from(file: &mut dyn Read, len: u64) -> Result<Array, Bad> {
    let mut magic = [0; 8];
    let not_npy = || Bad::File("not an .npy file".into());
    if len < 10 {
        return Err(not_npy());
    }
    file.read_exact(&mut magic)?;
    if magic[..6] != *b"\x93NUMPY" {
        return Err(not_npy());
    }
    let truncated = || Bad::File("truncated: the file ends within its header".into());
    let header_len = match magic[6] {
        1 => {
            let mut bytes = [0; 2];
            file.read_exact(&mut bytes)?;
            usize::from(u16::from_le_bytes(bytes))
        }
        2 | 3 => {
            let mut bytes = [0; 4];
            file.read_exact(&mut bytes).map_err(|_| truncated())?;
            u32::from_le_bytes(bytes) as usize
        }
        version => return Err(Bad::File(format!(".npy format {version} is not known to this version"))),
    };
    let start = (if magic[6] == 1 { 10 } else { 12 }) + header_len as u64;
    if start > len {
        return Err(truncated());
    }
    if header_len > MAX_HEADER {
        return Err(Bad::File(format!("a header of {header_len} bytes: expected at most {MAX_HEADER}")));
    }
    let mut header = vec![0; header_len];
    file.read_exact(&mut header)?;
    let header = Header::parse(&header).map_err(|e| match e {
        What::Malformed => Bad::File(format!("malformed header: {}", excerpt(&header))),
        What::Structured => Bad::Type("structured arrays are not read, only plain numbers".into()),
    })?;

    let Type { element, bytes, big } = Type::parse(&header.descr).map_err(Bad::Type)?;
    let shape = format!("{:?}", header.shape);
    let too_large = || Bad::File(format!("shape {shape} is more than a file can hold"));
    // The sizes other than zero too: that they can be multiplied is what an array's strides rest on.
    let product = header.shape.iter().filter(|dim| **dim != 0).try_fold(1_u64, |n, dim| n.checked_mul(*dim));
    let product = product.and_then(|n| n.checked_mul(bytes)).filter(|n| *n <= isize::MAX as u64);
    let wanted = if header.shape.contains(&0) { 0 } else { product.ok_or_else(too_large)? };
    product.ok_or_else(too_large)?;
    let got = len - start;
    if got != wanted {
        let what = if got < wanted { "truncated" } else { "longer than its header says" };
        return Err(Bad::File(format!(
            "{what}: shape {shape} of {} needs {wanted} bytes, the file has {got}",
            header.descr
        )));
    }
    let count = (wanted / bytes) as usize;
    let shape: Vec<usize> = header.shape.iter().map(|dim| *dim as usize).collect();
    let order = Order { fortran: header.fortran, big };
    let singles = |array| Ok(Tensor::F32(array));
    let doubles = |array| Ok(Tensor::F64(array));
    let values: Result<Tensor, Bad> = match element {
        Element::F16 => singles(array(file, count, shape, order, |b| f16::from_le_bytes(b).to_f32())?),
        Element::F32 => singles(array(file, count, shape, order, f32::from_le_bytes)?),
        Element::F64 => doubles(array(file, count, shape, order, f64::from_le_bytes)?),
        Element::Extended12 => doubles(extended::<12>(file, count, shape, order)?),
        Element::Extended16 => doubles(extended::<16>(file, count, shape, order)?),
        Element::Bool => singles(array(file, count, shape, order, |[b]| f32::from(b != 0))?),
        Element::U8 => singles(array(file, count, shape, order, |[b]| f32::from(b))?),
        Element::I8 => singles(array(file, count, shape, order, |[b]| f32::from(b as i8))?),
        Element::U16 => singles(array(file, count, shape, order, |b| u16::from_le_bytes(b).into())?),
        Element::I16 => singles(array(file, count, shape, order, |b| i16::from_le_bytes(b).into())?),
        Element::U32 => doubles(array(file, count, shape, order, |b| u32::from_le_bytes(b).into())?),
        Element::I32 => doubles(array(file, count, shape, order, |b| i32::from_le_bytes(b).into())?),
        Element::U64 => doubles(array(file, count, shape, order, |b| u64::from_le_bytes(b) as f64)?),
        Element::I64 => doubles(array(file, count, shape, order, |b| i64::from_le_bytes(b) as f64)?),
    };
    Ok(Array { kind: element.kind(), values: values? })
}

/// The beginning of a header that cannot be read, for people to see why.
fn excerpt(header: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(header).trim().chars().take(120).collect();
    text.replace(|c: char| c.is_control(), "?")
}

/// What a file's numbers are, and their size in bytes.
#[derive(Clone, Copy)]
struct Type {
    element: Element,
    bytes: u64,
    /// Whether the most significant byte comes first.
    big: bool,
}

#[derive(Clone, Copy)]
enum Element {
    F16,
    F32,
    F64,
    /// The x86's numbers of 80 bits, with padding: C's long double there.
    Extended12,
    Extended16,
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
}

impl Type {
    /// The type that numpy calls `descr`.
    fn parse(descr: &str) -> Result<Self, String> {
        use Element::*;
        let (order, name) = match descr.chars().next() {
            Some(order @ ('<' | '>' | '|' | '=')) => (order, &descr[1..]),
            _ => ('<', descr),
        };
        let (element, bytes) = match name {
            "f2" => (F16, 2),
            "f4" => (F32, 4),
            "f8" => (F64, 8),
            "f12" => (Extended12, 12),
            "f16" => (Extended16, 16),
            "b1" | "?" => (Bool, 1),
            "u1" => (U8, 1),
            "i1" => (I8, 1),
            "u2" => (U16, 2),
            "i2" => (I16, 2),
            "u4" => (U32, 4),
            "i4" => (I32, 4),
            "u8" => (U64, 8),
            "i8" => (I64, 8),
            "O" => return Err("dtype object (pickled Python) is not read, only plain numbers".into()),
            _ => return Err(format!("dtype {descr:?} is not read, only float, integer and bool")),
        };
        Ok(Self { element, bytes, big: order == '>' })
    }
}

impl Element {
    fn kind(self) -> Kind {
        use Element::*;
        match self {
            F16 | F32 | F64 | Extended12 | Extended16 => Kind::Float,
            Bool => Kind::Bool,
            U8 => Kind::Byte,
            I8 | U16 | I16 | U32 | I32 | U64 | I64 => Kind::Integer,
        }
    }
}

/// How elements follow each other, and the bytes in them.
#[derive(Clone, Copy)]
struct Order {
    fortran: bool,
    big: bool,
}

/// Reads long doubles, each rounded to the nearest double.
///
/// Elsewhere than on x86 numpy calls numbers of another layout by the same name. Those of 80 bits are told apart by the first
/// bit of their fraction, which they spell out: it is 0 for zeros and what is nearly zero, and else 1.
fn extended<const N: usize>(
    file: &mut dyn Read,
    count: usize,
    shape: Vec<usize>,
    order: Order,
) -> Result<ArrayD<f64>, Bad> {
    let (mut foreign, mut nonzero, mut padded) = (false, false, false);
    let array = array(file, count, shape, order, |bytes: [u8; N]| {
        let mut fraction = [0; 8];
        fraction.copy_from_slice(&bytes[..8]);
        let fraction = u64::from_le_bytes(fraction);
        let head = u16::from_le_bytes([bytes[8], bytes[9]]);
        let exponent = head & 0x7fff;
        foreign |= (exponent != 0) != (fraction >> 63 == 1);
        nonzero |= fraction != 0;
        padded |= bytes[10..].iter().any(|byte| *byte != 0);
        let magnitude = match exponent {
            0x7fff if fraction << 1 == 0 => f64::INFINITY,
            0x7fff => f64::NAN,
            _ => libm::ldexp(fraction as f64, i32::from(exponent.max(1)) - 16383 - 63),
        };
        if head >> 15 == 1 { -magnitude } else { magnitude }
    })?;
    // Only of zeros can padding be told from the upper bytes of another layout.
    match foreign || !nonzero && padded {
        true => Err(Bad::Type("long doubles of another kind of processor are not read".into())),
        false => Ok(array),
    }
}

/// Reads `count` elements of `N` bytes each.
fn array<T: Clone, const N: usize>(
    file: &mut dyn Read,
    count: usize,
    shape: Vec<usize>,
    order: Order,
    mut decode: impl FnMut([u8; N]) -> T,
) -> Result<ArrayD<T>, Bad> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| Bad::Memory(count.saturating_mul(size_of::<T>())))?;
    // Whole elements, also of 12 bytes.
    let most = (1 << 16) / N * N;
    let mut buffer = vec![0; count.saturating_mul(N).min(most)];
    let mut left = count * N;
    while left > 0 {
        let chunk = &mut buffer[..left.min(most)];
        file.read_exact(chunk)?;
        let (elements, _) = chunk.as_chunks_mut::<N>();
        values.extend(elements.iter_mut().map(|bytes| {
            if order.big {
                bytes.reverse();
            }
            decode(*bytes)
        }));
        left -= chunk.len();
    }
    let shape = IxDyn(&shape);
    let made = if order.fortran {
        ArrayD::from_shape_vec(shape.f(), values)
    } else {
        ArrayD::from_shape_vec(shape, values)
    };
    let array = made.map_err(|e| Bad::File(format!("the shape: {e}")))?;
    Ok(if array.is_standard_layout() { array } else { array.as_standard_layout().into_owned() })
}

/// What an `.npy` header says.
struct Header {
    descr: String,
    fortran: bool,
    shape: Vec<u64>,
}

enum What {
    Malformed,
    Structured,
}

impl Header {
    /// A Python dictionary with exactly the keys descr, fortran_order and shape, in any order.
    ///
    /// Read by hand and not as Python: there is nothing to nest, so no file can exhaust the stack.
    fn parse(header: &[u8]) -> Result<Self, What> {
        let mut text = Text(std::str::from_utf8(header).map_err(|_| What::Malformed)?);
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        text.expect('{')?;
        while !text.eat('}') {
            let key = text.quoted()?;
            text.expect(':')?;
            match key {
                "descr" if text.peek() == Some('[') => return Err(What::Structured),
                "descr" => descr = Some(text.quoted()?.to_owned()),
                "fortran_order" => fortran = Some(text.word()),
                "shape" => shape = Some(text.integers()?),
                _ => return Err(What::Malformed),
            }
            if !text.eat(',') && text.peek() != Some('}') {
                return Err(What::Malformed);
            }
        }
        let fortran = match fortran {
            Some("True") => true,
            Some("False") => false,
            _ => return Err(What::Malformed),
        };
        match (descr, shape, text.0.trim()) {
            (Some(descr), Some(shape), "") => Ok(Self { descr, fortran, shape }),
            _ => Err(What::Malformed),
        }
    }
}

/// What is left to be read.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn peek(&mut self) -> Option<char> {
        self.0 = self.0.trim_start();
        self.0.chars().next()
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.0 = &self.0[c.len_utf8()..];
        }
        found
    }

    fn expect(&mut self, c: char) -> Result<(), What> {
        if self.eat(c) { Ok(()) } else { Err(What::Malformed) }
    }

    fn quoted(&mut self) -> Result<&'a str, What> {
        let quote = self.peek().filter(|c| matches!(c, '\'' | '"')).ok_or(What::Malformed)?;
        let (text, rest) = self.0[1..].split_once(quote).ok_or(What::Malformed)?;
        self.0 = rest;
        Ok(text)
    }

    fn word(&mut self) -> &'a str {
        self.peek();
        let end = self.0.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }

    fn integers(&mut self) -> Result<Vec<u64>, What> {
        self.expect('(')?;
        let mut all = Vec::new();
        while !self.eat(')') {
            // Python 2 wrote 3L.
            let word = self.word();
            all.push(word.strip_suffix('L').unwrap_or(word).parse().map_err(|_| What::Malformed)?);
            if all.len() > 64 || !self.eat(',') && self.peek() != Some(')') {
                return Err(What::Malformed);
            }
        }
        Ok(all)
    }
}

/// A type that can be written.
pub trait Number: Copy + sealed::Bytes {}
impl Number for f32 {}
impl Number for f64 {}
impl Number for i64 {}
impl Number for u8 {}

mod sealed {
    pub trait Bytes {
        const DESCR: &str;
        fn append(self, to: &mut Vec<u8>);
    }
    impl Bytes for f32 {
        const DESCR: &str = "<f4";
        fn append(self, to: &mut Vec<u8>) {
            to.extend(self.to_le_bytes());
        }
    }
    impl Bytes for i64 {
        const DESCR: &str = "<i8";
        fn append(self, to: &mut Vec<u8>) {
            to.extend(self.to_le_bytes());
        }
    }
    impl Bytes for u8 {
        const DESCR: &str = "|u1";
        fn append(self, to: &mut Vec<u8>) {
            to.push(self);
        }
    }
    impl Bytes for f64 {
        const DESCR: &str = "<f8";
        fn append(self, to: &mut Vec<u8>) {
            to.extend(self.to_le_bytes());
        }
    }
}

/// Writes the header of an array of `shape`; the elements follow in row-major order, by [`write_values`].
pub fn write_header<T: Number>(out: &mut dyn Write, shape: &[usize]) -> io::Result<()> {
    let mut dims: String = shape.iter().map(|dim| format!("{dim}, ")).collect();
    if shape.len() > 1 {
        dims.truncate(dims.len() - 2);
    }
    let dims = dims.trim_end();
    let mut header = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({dims}), }}", T::DESCR);
    // The data shall begin at a multiple of 64 bytes.
    let padding = (64 - (10 + header.len() + 1) % 64) % 64;
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    let len = u16::try_from(header.len()).map_err(|_| io::Error::other("too many dimensions"))?;
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(header.as_bytes())
}

/// Writes elements.
pub fn write_values<T: Number>(out: &mut dyn Write, values: &[T]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(values.len().min(8192) * size_of::<T>());
    for chunk in values.chunks(8192) {
        bytes.clear();
        chunk.iter().for_each(|x| x.append(&mut bytes));
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Writes a whole array, given in row-major order.
pub fn write<T: Number>(out: &mut dyn Write, shape: &[usize], values: &[T]) -> io::Result<()> {
    write_header::<T>(out, shape)?;
    write_values(out, values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Array, String> {
        read_from(&mut &bytes[..], bytes.len() as u64).map_err(|e| match e {
            Bad::Io(e) => e.to_string(),
            Bad::File(what) | Bad::Type(what) => what,
            Bad::Memory(bytes) => format!("memory {bytes}"),
        })
    }

    fn header(descr: &str, fortran: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n")
    }

    #[test]
    fn what_is_written_is_read() {
        for shape in [&[][..], &[5], &[2, 3], &[2, 0, 3], &[1, 2, 3, 4]] {
            let count = shape.iter().product();
            let values: Vec<f64> = (0..count).map(|i| i as f64 / 3.0).collect();
            let mut bytes = Vec::new();
            write(&mut bytes, shape, &values).unwrap();
            assert_eq!((bytes.len() - count * 8) % 64, 0);
            let witness = npyz::NpyFile::new(&bytes[..]).unwrap();
            assert!(
                witness.shape().iter().eq(shape.iter().map(|dim| *dim as u64).collect::<Vec<_>>().iter())
            );
            assert_eq!(witness.into_vec::<f64>().unwrap(), values);
            let array = ArrayD::from_shape_vec(IxDyn(shape), values).unwrap();
            assert_eq!(parse(&bytes), Ok(Array { kind: Kind::Float, values: Tensor::F64(array) }));
        }
    }

    #[test]
    fn types_and_orders() {
        let f32s = |shape: &[usize], v: &[f32]| {
            Tensor::F32(ArrayD::from_shape_vec(IxDyn(shape), v.to_vec()).unwrap())
        };
        let read = |h: &str, data: &[u8]| parse(&file(h, data)).unwrap();
        assert_eq!(read(&header("|b1", "False", "(2,)"), &[0, 1]).values, f32s(&[2], &[0.0, 1.0]));
        assert_eq!(read(&header("|u1", "False", "(2,)"), &[0, 255]).values, f32s(&[2], &[0.0, 255.0]));
        assert_eq!(read(&header("<f2", "False", "()"), &[0, 0x3c]).values, f32s(&[], &[1.0]));
        assert_eq!(read(&header("<i2", "False", "(1,)"), &[255, 255]).values, f32s(&[1], &[-1.0]));
        // Columns first: [[0, 2, 4], [1, 3, 5]].
        let fortran = read(&header("|i1", "True", "(2, 3)"), &[0, 1, 2, 3, 4, 5]);
        assert_eq!(fortran.kind, Kind::Integer);
        assert_eq!(fortran.values, f32s(&[2, 3], &[0.0, 2.0, 4.0, 1.0, 3.0, 5.0]));
        // Another order of keys, other quotes, Python 2.
        let other = "{\"shape\": (2L,), 'fortran_order':False, 'descr':'|u1'}";
        assert_eq!(read(other, &[1, 2]).values, f32s(&[2], &[1.0, 2.0]));
    }

    /// Every number that a type holds, from files of either byte order, as numpy 2.4 wrote them.
    #[test]
    fn byte_orders_and_long_doubles() {
        let doubles = |h: &str, data: &[u8]| match parse(&file(h, data)).unwrap().values {
            Tensor::F64(a) => a.into_raw_vec_and_offset().0,
            Tensor::F32(a) => a.iter().map(|x| f64::from(*x)).collect(),
        };
        let two = "(2,)";
        let numbers = [-1.5, 1.0 / 3.0];
        let bytes: Vec<u8> = numbers.iter().flat_map(|x: &f64| x.to_be_bytes()).collect();
        assert_eq!(doubles(&header(">f8", "False", two), &bytes), numbers);
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| (*x as f32).to_be_bytes()).collect();
        assert_eq!(doubles(&header(">f4", "False", two), &bytes), numbers.map(|x| f64::from(x as f32)));
        assert_eq!(doubles(&header(">f2", "False", two), &[0xbe, 0, 0x3c, 1]), [-1.5, 1.0 + 1.0 / 1024.0]);
        assert_eq!(doubles(&header(">u2", "False", two), &[1, 2, 0xff, 0xff]), [258.0, 65535.0]);
        assert_eq!(doubles(&header(">i4", "False", "(1,)"), &[0xff, 0xff, 0xff, 0xfe]), [-2.0]);
        assert_eq!(doubles(&header(">i8", "False", "(1,)"), &[0xff; 8]), [-1.0]);
        assert_eq!(doubles(&header("|u1", "False", two), &[7, 255]), [7.0, 255.0]);

        // numpy.longdouble([1, -2.5, 1/3 of 64 bits, 0, inf, 1e-4950 (below every double)]), its padding as it was found.
        let extended = |head: u16, fraction: u64, padding: u8| {
            let mut bytes = [padding; 16];
            bytes[..8].copy_from_slice(&fraction.to_le_bytes());
            bytes[8..10].copy_from_slice(&head.to_le_bytes());
            bytes
        };
        let third = 0xaaaa_aaaa_aaaa_aaab;
        let all = [
            (0x3fff, 1 << 63),
            (0xc000, 0xa000_0000_0000_0000),
            (0x3ffd, third),
            (0, 0),
            (0x7fff, 1 << 63),
            (0, 1),
        ];
        let expected = [1.0, -2.5, 1.0 / 3.0, 0.0, f64::INFINITY, 0.0];
        for padding in [0, 0xab] {
            let little: Vec<[u8; 16]> = all.iter().map(|(head, f)| extended(*head, *f, padding)).collect();
            assert_eq!(doubles(&header("<f16", "False", "(6,)"), little.as_flattened()), expected);
            let short: Vec<u8> = little.iter().flat_map(|bytes| bytes[..12].to_vec()).collect();
            assert_eq!(doubles(&header("<f12", "False", "(6,)"), &short), expected);
            let big: Vec<u8> =
                little.iter().flat_map(|bytes| bytes.iter().rev().copied().collect::<Vec<_>>()).collect();
            assert_eq!(doubles(&header(">f16", "False", "(6,)"), &big), expected);
        }
        // IEEE's numbers of 128 bits, of other processors: 1, and 1/3.
        let mut one = [0; 16];
        one[14..].copy_from_slice(&[0xff, 0x3f]);
        let mut third = [0x55; 16];
        third[14..].copy_from_slice(&[0xfd, 0x3f]);
        for other in [one, third] {
            let refused = parse(&file(&header("<f16", "False", "(1,)"), &other)).unwrap_err();
            assert!(refused.contains("another kind of processor"), "{refused}");
        }
        // More than is read at a time.
        let many: Vec<u8> =
            (0..20_000).flat_map(|i| extended(0x3fff, 1 << 63 | (i % 1000), 0)[..12].to_vec()).collect();
        assert!(doubles(&header("<f12", "False", "(20000,)"), &many).iter().all(|x| *x == 1.0));
    }

    #[test]
    fn hostile_files() {
        let refused = |h: &str, data: &[u8]| parse(&file(h, data)).unwrap_err();
        assert!(refused(&header("<f4", "False", "(2,)"), &[0; 7]).starts_with("truncated: shape [2]"));
        assert!(refused(&header("<f4", "False", "(2,)"), &[0; 9]).starts_with("longer"));
        let huge = header("<f4", "False", "(4294967296, 4294967296, 4294967296)");
        assert!(refused(&huge, &[]).contains("more than a file can hold"));
        let empty_but_huge = header("<f4", "False", "(0, 4294967296, 4294967296)");
        assert!(refused(&empty_but_huge, &[]).contains("more than a file can hold"));
        assert!(refused(&header("<f4", "False", "(1000000000000,)"), &[0; 4]).starts_with("truncated"));
        assert!(refused(&header("|O", "False", "(1,)"), &[0; 8]).contains("object"));
        assert!(refused(&header("<c8", "False", "(1,)"), &[0; 8]).contains("<c8"));
        assert!(
            refused("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", &[])
                .contains("struct")
        );
        for bad in
            ["", "{", "{}", "{'descr'", "(((((", "{'shape': (-1,)}", "{'shape': (18446744073709551616,)}"]
        {
            assert_eq!(refused(bad, &[]), format!("malformed header: {}", bad));
        }
        let axes = header("<f4", "False", &format!("({})", "1, ".repeat(65)));
        assert!(refused(&axes, &[0; 4]).starts_with("malformed header: {'descr': '<f4'"));
        assert_eq!(parse(b"").unwrap_err(), "not an .npy file");
        assert_eq!(parse(b"PK\x03\x04 and more").unwrap_err(), "not an .npy file");
        assert_eq!(
            parse(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").unwrap_err(),
            "truncated: the file ends within its header"
        );
        assert_eq!(
            parse(b"\x93NUMPY\x01\x00\xff\x00 ").unwrap_err(),
            "truncated: the file ends within its header"
        );
        assert_eq!(
            parse(b"\x93NUMPY\x02\x00\x00\x00").unwrap_err(),
            "truncated: the file ends within its header"
        );
    }

    proptest! {
        /// Any damage is an error or an array, never a panic.
        #[test]
        fn damage(at in 0_usize..140, byte: u8, cut in 0_usize..140) {
            let mut bytes = Vec::new();
            write(&mut bytes, &[2, 2], &[1.0_f32, 2.0, 3.0, 4.0]).unwrap();
            bytes[at] = byte;
            let _ = parse(&bytes);
            bytes.truncate(cut);
            let _ = parse(&bytes);
        }
    }
}
