//! MNIST and Fashion-MNIST: idx files, gzipped or not.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use psld::Result;

use super::{Dataset, Split, damaged, read};

pub(super) fn load(folder: &Path, split: Split) -> Result<Dataset> {
    let part = match split {
        Split::Train => "train",
        Split::Test => "t10k",
    };
    let (sizes, pixels) = parse(folder, &format!("{part}-images-idx3-ubyte"), 3)?;
    let (_, labels) = parse(folder, &format!("{part}-labels-idx1-ubyte"), 1)?;
    let labels = labels.into_iter().map(i64::from).collect();
    Dataset::images([1, sizes[1], sizes[2]], pixels, Some((labels, 10)))
        .map_err(|e| e.context(folder.display()))
}

/// The sizes and bytes of an idx file of `rank` dimensions, which is there as it is or gzipped.
fn parse(folder: &Path, name: &str, rank: usize) -> Result<(Vec<usize>, Vec<u8>)> {
    let zipped = folder.join(format!("{name}.gz"));
    let (path, bytes) = if zipped.exists() {
        let mut bytes = Vec::new();
        let file = read(&zipped)?;
        GzDecoder::new(&file[..])
            .read_to_end(&mut bytes)
            .map_err(|e| damaged(&zipped, "not a gzip file").source(e))?;
        (zipped, bytes)
    } else {
        let path = folder.join(name);
        let bytes = read(&path)?;
        (path, bytes)
    };
    // Two zeros, 8 for unsigned bytes, the rank; then the sizes, big-endian.
    let header = 4 + 4 * rank;
    if bytes.len() < header || bytes[..4] != [0, 0, 8, rank as u8] {
        return Err(damaged(&path, format!("not an idx file of bytes in {rank} dimensions")));
    }
    let (sizes, _) = bytes[4..header].as_chunks::<4>();
    let sizes: Vec<usize> = sizes.iter().map(|size| u32::from_be_bytes(*size) as usize).collect();
    let expected = sizes.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    if expected != Some(bytes.len() - header) {
        return Err(damaged(
            &path,
            format!("{} bytes of data, its sizes are {sizes:?}", bytes.len() - header),
        ));
    }
    Ok((sizes, bytes[header..].to_vec()))
}
