//! Which files besides the model's own hold its weights.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// External data of a model: of each file what is used of it.
pub(crate) type External = BTreeMap<String, Used>;

/// The tensor that reaches furthest into a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub tensor: String,
    /// The byte after its last.
    pub end: u64,
}

/// The kinds of messages that tensors can be within, of `onnx.proto`.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Function,
    Training,
    Sparse,
    Tensor,
}

impl Message {
    /// What the field `tag` holds, where tensors can be within it.
    fn field(self, tag: u64) -> Option<Self> {
        Some(match (self, tag) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) | (Self::Training, 1 | 2) => Self::Graph,
            (Self::Model, 20) => Self::Training,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Self::Tensor,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::Sparse,
            _ => return None,
        })
    }
}

/// Deeper than any graph, and less than a stack holds.
const DEPTH: usize = 100;

/// The external data that the model in `file` names. All else, weights inside it among that, is passed over and not read.
///
/// # Errors
/// Those of reading, and [`io::ErrorKind::InvalidData`] where it is no model, or a torn one.
pub(crate) fn external(file: impl Read + Seek) -> io::Result<External> {
    let mut reader = Reader { file: BufReader::new(file), at: 0 };
    let end = reader.file.seek(SeekFrom::End(0))?;
    reader.file.rewind()?;
    let mut found = External::new();
    reader.message(Message::Model, end, DEPTH, &mut found)?;
    Ok(found)
}

/// What follows a field's key.
enum Content {
    Number(u64),
    /// So many bytes of a message, text or numbers, which come next.
    Bytes(u64),
    Passed,
}

struct Reader<R> {
    file: BufReader<R>,
    at: u64,
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no protobuf message, or a torn one")
}

impl<R: Read + Seek> Reader<R> {
    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.file.read_exact(&mut byte)?;
            self.at += 1;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                return Ok(value);
            }
        }
        Err(invalid())
    }

    /// The next field before `end`.
    fn field(&mut self, end: u64) -> io::Result<(u64, Content)> {
        let key = self.varint()?;
        let content = match key & 7 {
            0 => Content::Number(self.varint()?),
            2 => Content::Bytes(self.varint()?),
            wire @ (1 | 5) => {
                self.skip(if wire == 1 { 8 } else { 4 })?;
                Content::Passed
            }
            _ => return Err(invalid()),
        };
        let length = if let Content::Bytes(length) = content { length } else { 0 };
        match self.at.checked_add(length) {
            Some(next) if next <= end => Ok((key >> 3, content)),
            _ => Err(invalid()),
        }
    }

    /// Passes over a field that nothing is made of.
    fn pass(&mut self, content: Content) -> io::Result<()> {
        if let Content::Bytes(length) = content { self.skip(length) } else { Ok(()) }
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        self.file.seek_relative(i64::try_from(length).map_err(|_| invalid())?)?;
        self.at += length;
        Ok(())
    }

    /// Text of at most a few kilobytes: a name, a path, a number.
    fn text(&mut self, length: u64) -> io::Result<String> {
        if length > 1 << 14 {
            return Err(invalid());
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact(&mut bytes)?;
        self.at += length;
        String::from_utf8(bytes).map_err(|_| invalid())
    }

    fn message(&mut self, kind: Message, end: u64, depth: usize, found: &mut External) -> io::Result<()> {
        if let Message::Tensor = kind {
            return self.tensor(end, found);
        }
        while self.at < end {
            let (tag, content) = self.field(end)?;
            match (kind.field(tag), content) {
                (Some(_), Content::Bytes(_)) if depth == 0 => return Err(invalid()),
                (Some(kind), Content::Bytes(length)) => {
                    self.message(kind, self.at + length, depth - 1, found)?
                }
                (_, content) => self.pass(content)?,
            }
        }
        Ok(())
    }

    fn tensor(&mut self, end: u64, found: &mut External) -> io::Result<()> {
        let (mut name, mut location, mut is_external) = (String::new(), None, false);
        let (mut offset, mut length) = (0u64, None);
        let (mut elements, mut size) = (1u64, 0);
        while self.at < end {
            match self.field(end)? {
                (1, Content::Number(dim)) => elements = elements.saturating_mul(dim),
                (2, Content::Number(code)) => size = element_size(code),
                (8, Content::Bytes(length)) => name = self.text(length)?,
                (13, Content::Bytes(bytes)) => {
                    let (key, value) = self.entry(self.at + bytes)?;
                    match &*key {
                        "location" => location = Some(value),
                        "offset" => offset = value.parse().unwrap_or(0),
                        "length" => length = value.parse().ok(),
                        _ => {}
                    }
                }
                (14, Content::Number(place)) => is_external = place == EXTERNAL,
                (_, content) => self.pass(content)?,
            }
        }
        if let Some(location) = location.filter(|_| is_external) {
            let length = length.unwrap_or_else(|| elements.saturating_mul(size));
            let used = Used { tensor: name, end: offset.saturating_add(length) };
            match found.get_mut(&location) {
                Some(known) if known.end >= used.end => {}
                _ => _ = found.insert(location, used),
            }
        }
        Ok(())
    }

    /// A `StringStringEntryProto`.
    fn entry(&mut self, end: u64) -> io::Result<(String, String)> {
        let (mut key, mut value) = (String::new(), String::new());
        while self.at < end {
            match self.field(end)? {
                (1, Content::Bytes(length)) => key = self.text(length)?,
                (2, Content::Bytes(length)) => value = self.text(length)?,
                (_, content) => self.pass(content)?,
            }
        }
        Ok((key, value))
    }
}

/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: u64 = 1;

/// Bytes of an element, by its code in `TensorProto.DataType`; 0 for what is packed or unknown.
fn element_size(code: u64) -> u64 {
    match code {
        2 | 3 | 9 => 1,
        4 | 5 | 10 | 16 => 2,
        1 | 6 | 12 => 4,
        7 | 11 | 13 => 8,
        _ => 0,
    }
}
