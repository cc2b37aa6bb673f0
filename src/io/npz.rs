//! numpy's archives (`.npz`): ZIP files of arrays, not compressed.

use crate::{Error, Result, Status};
use std::io::{self, Write};
use std::path::Path;

/// The largest archive that is read: two covariances of 4096 features, and then some.
const LARGEST: u64 = 1 << 30;

const LOCAL: &[u8; 4] = b"PK\x03\x04";
const CENTRAL: &[u8; 4] = b"PK\x01\x02";
const END: &[u8; 4] = b"PK\x05\x06";
/// The first day that ZIP knows: the same content always gives the same bytes.
const DATE: u16 = 0x21;

/// Writes an archive of `members`, each a name of ASCII letters and its bytes: an array `x` is the member `x.npy`.
pub fn write(out: &mut dyn Write, members: &[(&str, Vec<u8>)]) -> io::Result<()> {
    let (mut offset, mut directory) = (0_u32, Vec::new());
    let word = |len: usize| u32::try_from(len).map_err(|_| io::Error::other("more than ZIP can hold"));
    for (name, bytes) in members {
        let (len, crc) = (word(bytes.len())?, crc32(bytes));
        // Version, flags, method (stored), time, date; then what both headers share.
        let mut common = Vec::new();
        [20, 0, 0, 0, DATE].iter().for_each(|half: &u16| common.extend(half.to_le_bytes()));
        [crc, len, len].iter().for_each(|word| common.extend(word.to_le_bytes()));
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0; 2]);
        out.write_all(LOCAL)?;
        out.write_all(&common)?;
        out.write_all(name.as_bytes())?;
        out.write_all(bytes)?;
        directory.extend(CENTRAL);
        directory.extend(20_u16.to_le_bytes());
        directory.extend(&common);
        // Comment, disk, attributes.
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
        let header = 30 + name.len();
        offset = offset
            .checked_add(word(header + bytes.len())?)
            .ok_or_else(|| io::Error::other("more than ZIP can hold"))?;
    }
    out.write_all(&directory)?;
    out.write_all(END)?;
    out.write_all(&[0; 4])?;
    let count =
        u16::try_from(members.len()).map_err(|_| io::Error::other("more members than ZIP can hold"))?;
    out.write_all(&count.to_le_bytes())?;
    out.write_all(&count.to_le_bytes())?;
    out.write_all(&word(directory.len())?.to_le_bytes())?;
    out.write_all(&offset.to_le_bytes())?;
    out.write_all(&[0; 2])
}

/// The members of an archive: names, and bytes whose checksums are right.
///
/// # Errors
/// [`Status::ReadFailed`]: missing, larger than 1 GiB, no ZIP file, damaged, or compressed.
pub fn read(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let error = |what: &str| Error::new(Status::ReadFailed, format!("{}: {what}", path.display()));
    let failed = |e: io::Error| error("cannot be read").source(e);
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(error("is not a regular file"));
    }
    if metadata.len() > LARGEST {
        return Err(error("more than 1 GiB: no file of statistics"));
    }
    parse(&std::fs::read(path).map_err(failed)?).map_err(|bad| match bad {
        Bad::Damaged => error("not an .npz file, or a damaged one"),
        Bad::Compressed(name) => error(&format!("its member `{name}` is compressed"))
            .hint("write it with numpy.savez, not savez_compressed"),
    })
}

#[derive(Debug, PartialEq)]
enum Bad {
    Damaged,
    Compressed(String),
}

fn parse(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Bad> {
    let at = |place: usize, len: usize| {
        place.checked_add(len).and_then(|end| bytes.get(place..end)).ok_or(Bad::Damaged)
    };
    let half = |place: usize| Ok(usize::from(u16::from_le_bytes([at(place, 2)?[0], at(place, 2)?[1]])));
    let word = |place: usize| {
        let word = at(place, 4)?;
        Ok(u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
    };
    // Behind the end's record a comment may follow.
    let first = bytes.len().saturating_sub(22 + usize::from(u16::MAX));
    let last = bytes.len().checked_sub(22).ok_or(Bad::Damaged)?;
    let end = (first..=last).rev().find(|&place| bytes[place..].starts_with(END)).ok_or(Bad::Damaged)?;
    let (count, mut place) = (half(end + 10)?, word(end + 16)? as usize);
    let mut members = Vec::new();
    for _ in 0..count {
        if at(place, 46)?[..4] != *CENTRAL {
            return Err(Bad::Damaged);
        }
        let (method, crc, stored, len) =
            (half(place + 10)?, word(place + 16)?, word(place + 20)?, word(place + 24)? as usize);
        let (name_len, extra, comment) = (half(place + 28)?, half(place + 30)?, half(place + 32)?);
        let local = word(place + 42)? as usize;
        let name = std::str::from_utf8(at(place + 46, name_len)?).map_err(|_| Bad::Damaged)?.to_owned();
        if method != 0 {
            return Err(Bad::Compressed(name));
        }
        if at(local, 30)?[..4] != *LOCAL || stored as usize != len {
            return Err(Bad::Damaged);
        }
        // numpy's local headers have more to them than the directory says.
        let data = at(local + 30 + half(local + 26)? + half(local + 28)?, len)?;
        if crc32(data) != crc {
            return Err(Bad::Damaged);
        }
        members.push((name, data.to_vec()));
        place += 46 + name_len + extra + comment;
    }
    Ok(members)
}

/// ZIP's checksum.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let (mut crc, mut bit) = (i as u32, 0);
            while bit < 8 {
                crc = (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn archive() -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, &[("a.npy", b"hello".to_vec()), ("empty", vec![])]).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let members = [("a.npy".to_owned(), b"hello".to_vec()), ("empty".to_owned(), vec![])];
        assert_eq!(parse(&archive()), Ok(members.to_vec()));
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let mut commented = archive();
        let end = commented.len() - 2;
        commented[end..].copy_from_slice(&3_u16.to_le_bytes());
        commented.extend(b"end");
        assert_eq!(parse(&commented), Ok(members.to_vec()));
    }

    #[test]
    fn damage_is_seen() {
        for bad in [&b""[..], b"PK", &[0; 100], b"\x93NUMPY\x01\x00 no archive at all, but long enough"] {
            assert_eq!(parse(bad), Err(Bad::Damaged));
        }
        let mut flipped = archive();
        flipped[36] ^= 1;
        assert_eq!(parse(&flipped), Err(Bad::Damaged));
        let mut packed = archive();
        let directory = packed.windows(4).position(|four| four == CENTRAL).unwrap();
        packed[directory + 10] = 8;
        assert_eq!(parse(&packed), Err(Bad::Compressed("a.npy".into())));
    }

    proptest! {
        /// Any damage is an error or an archive, never a panic.
        #[test]
        fn any_damage(at in 0_usize..200, byte: u8, cut in 0_usize..200) {
            let mut bytes = archive();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = parse(&bytes);
            bytes.truncate(cut);
            let _ = parse(&bytes);
        }
    }
}
