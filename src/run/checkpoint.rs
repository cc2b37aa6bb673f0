//! The form in which a run is saved: arrays, then a JSON head that describes them, then a checksum of both.
//!
//! ```text
//! "psld.run" | arrays, little endian, one after the other | head | length of head: u64 | SHA-256 of all before
//! ```
//! The checksum finds what was torn or edited; what a head claims is still checked before it is used.

use crate::array::{Buffer, Precision, Values};
use crate::{Error, Result, Status};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"psld.run";
/// Version of the form.
const FORMAT: u32 = 1;
const SUM: usize = 32;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head<T> {
    format: u32,
    /// The version of psld that wrote it, for people.
    psld: String,
    kind: String,
    arrays: Vec<Array>,
    content: T,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Array {
    name: String,
    kind: Kind,
    len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    F32,
    F64,
    Bytes,
}

impl Kind {
    fn size(self) -> usize {
        match self {
            Kind::F32 => 4,
            Kind::F64 => 8,
            Kind::Bytes => 1,
        }
    }
}

pub(super) fn invalid(what: impl std::fmt::Display) -> Error {
    Error::new(Status::CheckpointInvalid, format!("checkpoint: {what}"))
}

/// A checkpoint in the making.
pub(super) struct Writer {
    bytes: Vec<u8>,
    arrays: Vec<Array>,
}

impl Writer {
    pub fn new() -> Self {
        Self { bytes: MAGIC.to_vec(), arrays: Vec::new() }
    }

    pub fn floats(&mut self, name: impl Into<String>, values: Values<'_>) -> Result<()> {
        match values {
            Values::F32(values) => {
                self.begin(name, Kind::F32, values.len())?;
                values.iter().for_each(|x| self.bytes.extend_from_slice(&x.to_le_bytes()));
            }
            Values::F64(values) => {
                self.begin(name, Kind::F64, values.len())?;
                values.iter().for_each(|x| self.bytes.extend_from_slice(&x.to_le_bytes()));
            }
        }
        Ok(())
    }

    pub fn buffer(&mut self, name: impl Into<String>, buffer: &Buffer) -> Result<()> {
        self.floats(name, buffer.values(0..buffer.len()))
    }

    pub fn bytes(&mut self, name: impl Into<String>, bytes: &[u8]) -> Result<()> {
        self.begin(name, Kind::Bytes, bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn begin(&mut self, name: impl Into<String>, kind: Kind, len: usize) -> Result<()> {
        self.bytes.try_reserve(len * kind.size()).map_err(|e| {
            Error::new(Status::OutOfMemory, "there is no memory for the checkpoint").source(e)
        })?;
        self.arrays.push(Array { name: name.into(), kind, len });
        Ok(())
    }

    pub fn finish(mut self, kind: &str, content: &impl Serialize) -> Result<Vec<u8>> {
        let head = Head {
            format: FORMAT,
            psld: env!("CARGO_PKG_VERSION").into(),
            kind: kind.into(),
            arrays: self.arrays,
            content,
        };
        let head = serde_json::to_vec(&head).map_err(|e| {
            Error::new(Status::Internal, "the checkpoint cannot be written as JSON").source(e)
        })?;
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(&(head.len() as u64).to_le_bytes());
        let sum = Sha256::digest(&self.bytes);
        self.bytes.extend_from_slice(&sum);
        Ok(self.bytes)
    }
}

/// A checkpoint that was read: its arrays are taken out by name.
pub(super) struct Reader<'a> {
    body: &'a [u8],
    arrays: Vec<(Array, usize)>,
}

impl<'a> Reader<'a> {
    /// Checks `bytes` and reads the head.
    pub fn new<T: DeserializeOwned>(kind: &str, bytes: &'a [u8]) -> Result<(Self, T)> {
        if !bytes.starts_with(MAGIC) {
            return Err(invalid("this is none of psld"));
        }
        let torn = || invalid("torn or edited: its checksum is not that of its content");
        let (content, sum) = bytes.split_last_chunk::<SUM>().ok_or_else(torn)?;
        if Sha256::digest(content)[..] != sum[..] {
            return Err(torn());
        }
        let (rest, len) = content.split_last_chunk::<8>().ok_or_else(torn)?;
        let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| torn())?;
        let at = rest.len().checked_sub(len).filter(|at| *at >= MAGIC.len()).ok_or_else(torn)?;
        let (body, head) = rest.split_at(at);

        // The format first: what follows it may have another form.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
            psld: String,
            kind: String,
        }
        let version: Version = serde_json::from_slice(head).map_err(|e| invalid("its head").source(e))?;
        if version.format != FORMAT {
            return Err(invalid(format!(
                "written by psld {} in format {}, this version reads format {FORMAT}",
                version.psld, version.format
            )));
        }
        if version.kind != kind {
            return Err(invalid(format!("it holds a {}, expected a {kind}", version.kind)));
        }
        let head: Head<T> = serde_json::from_slice(head).map_err(|e| invalid("its head").source(e))?;
        let mut end = MAGIC.len();
        let mut arrays = Vec::new();
        for array in head.arrays {
            let begin = end;
            let size = array.len.checked_mul(array.kind.size()).ok_or_else(|| invalid("its arrays"))?;
            end = begin
                .checked_add(size)
                .filter(|end| *end <= body.len())
                .ok_or_else(|| invalid("its arrays"))?;
            arrays.push((array, begin));
        }
        if end != body.len() {
            return Err(invalid("its arrays"));
        }
        Ok((Self { body, arrays }, head.content))
    }

    pub fn has(&self, name: &str) -> bool {
        self.arrays.iter().any(|(array, _)| array.name == name)
    }

    /// The array `name`, of `len` elements of any precision.
    pub fn buffer(&self, name: &str, len: usize) -> Result<Buffer> {
        let (array, bytes) = self.find(name)?;
        if array.len != len {
            return Err(invalid(format!("`{name}` has {} elements, expected {len}", array.len)));
        }
        Ok(match array.kind {
            Kind::F32 => Buffer::F32(bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect()),
            Kind::F64 => Buffer::F64(bytes.as_chunks().0.iter().map(|x| f64::from_le_bytes(*x)).collect()),
            Kind::Bytes => return Err(invalid(format!("`{name}` holds no numbers"))),
        })
    }

    /// The array `name`, of `len` elements of `precision`.
    pub fn buffer_of(&self, name: &str, precision: Precision, len: usize) -> Result<Buffer> {
        let buffer = self.buffer(name, len)?;
        if buffer.precision() != precision {
            return Err(invalid(format!("`{name}` has another precision than the run")));
        }
        Ok(buffer)
    }

    pub fn bytes(&self, name: &str) -> Result<&'a [u8]> {
        let (array, bytes) = self.find(name)?;
        if array.kind == Kind::Bytes { Ok(bytes) } else { Err(invalid(format!("`{name}` holds no bytes"))) }
    }

    fn find(&self, name: &str) -> Result<(&Array, &'a [u8])> {
        let found = self.arrays.iter().find(|(array, _)| array.name == name);
        let (array, begin) = found.ok_or_else(|| invalid(format!("`{name}` is missing")))?;
        Ok((array, &self.body[*begin..begin + array.len * array.kind.size()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_come_back() {
        let mut writer = Writer::new();
        writer.floats("a", Values::F32(&[1.5, f32::MIN_POSITIVE])).unwrap();
        writer.bytes("b", b"xyz").unwrap();
        writer.floats("c", Values::F64(&[-0.1])).unwrap();
        let bytes = writer.finish("test", &7).unwrap();
        let (reader, content) = Reader::new::<i32>("test", &bytes).unwrap();
        assert_eq!(content, 7);
        assert!(matches!(reader.buffer("a", 2).unwrap(), Buffer::F32(a) if a == [1.5, f32::MIN_POSITIVE]));
        assert_eq!(reader.bytes("b").unwrap(), b"xyz");
        assert!(matches!(reader.buffer_of("c", Precision::F64, 1).unwrap(), Buffer::F64(c) if c == [-0.1]));
        for e in [reader.buffer("a", 3), reader.buffer("b", 3), reader.buffer_of("c", Precision::F32, 1)] {
            assert_eq!(e.unwrap_err().status(), Status::CheckpointInvalid);
        }
        assert_eq!(
            Reader::new::<i32>("other", &bytes).err().unwrap().message(),
            "checkpoint: it holds a test, expected a other"
        );
    }

    #[test]
    fn any_change_is_found() {
        let mut writer = Writer::new();
        writer.floats("a", Values::F32(&[1.0, 2.0])).unwrap();
        let bytes = writer.finish("test", &7).unwrap();
        for i in 0..bytes.len() {
            let mut edited = bytes.clone();
            edited[i] ^= 1;
            assert!(Reader::new::<i32>("test", &edited).is_err(), "byte {i}");
            assert!(Reader::new::<i32>("test", &bytes[..i]).is_err(), "{i} bytes");
        }
    }

    /// A checksum is no signature: what it covers can still be nonsense, and must not be believed.
    #[test]
    fn lengths_that_are_not_there_are_refused() {
        for len in ["3", "18446744073709551615", "4611686018427387905"] {
            let head = format!(
                r#"{{"format":1,"psld":"","kind":"test","arrays":[{{"name":"a","kind":"f32","len":{len}}}],"content":7}}"#
            );
            let mut bytes = [&MAGIC[..], &[0; 8], head.as_bytes()].concat();
            bytes.extend_from_slice(&(head.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&Sha256::digest(&bytes));
            assert!(Reader::new::<i32>("test", &bytes).is_err(), "{len}");
        }
    }
}
