//! Data for hosts without a network: a folder as numbered pieces that pass upload limits, and back.

use std::io::Read;
use std::path::{Path, PathBuf};

use psld::io::NewFile;
use psld::{Error, Result, Status};
use sha2::{Digest, Sha256};

use super::fetch::{create, hex};
use super::{damaged, read};

/// Bytes of a piece.
const PIECE: usize = 60_000_000;

/// Writes the files of `folder` as `NAME.000`, `NAME.001`, ... into `goal`, with `NAME.json` that lists and sums them.
/// Returns the paths written.
pub fn pack(folder: &Path, goal: &Path) -> Result<Vec<PathBuf>> {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.ok_or_else(|| Error::argument(format!("{}: has no name", folder.display())))?;
    let (mut bytes, mut files) = (Vec::new(), Vec::new());
    let entries = std::fs::read_dir(folder).map_err(|e| damaged(folder, "cannot be listed").source(e))?;
    let mut paths: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|p| p.is_file()).collect();
    paths.sort();
    for path in paths {
        let file = read(&path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push((name, file.len(), hex(&Sha256::digest(&file))));
        bytes.extend(file);
    }
    if files.is_empty() {
        return Err(damaged(folder, "holds no files"));
    }
    create(goal)?;
    let mut out = Vec::new();
    let mut write = |path: PathBuf, bytes: &[u8]| {
        NewFile::write_with(&path, |out| out.write_all(bytes))?;
        out.push(path);
        Ok::<(), Error>(())
    };
    for (i, piece) in bytes.chunks(PIECE).enumerate() {
        write(goal.join(format!("{name}.{i:03}")), piece)?;
    }
    let list = serde_json::json!({"files": files, "pieces": bytes.len().div_ceil(PIECE)});
    write(goal.join(format!("{name}.json")), list.to_string().as_bytes())?;
    Ok(out)
}

/// Puts the pieces beside `list`, a `NAME.json`, together again into `folder`, verified. Returns the paths written.
pub fn unpack(list: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct List {
        files: Vec<(String, usize, String)>,
        pieces: usize,
    }
    let text = read(list)?;
    let List { files, pieces } =
        serde_json::from_slice(&text).map_err(|e| damaged(list, "not a list of packed files").source(e))?;
    let mut bytes = Vec::new();
    for i in 0..pieces {
        bytes.extend(read(&list.with_extension(format!("{i:03}")))?);
    }
    create(folder)?;
    let mut rest = &bytes[..];
    let mut out = Vec::new();
    for (name, len, sum) in files {
        // A name from a file never leads out of the folder.
        let plain = Path::new(&name).file_name().is_some_and(|plain| plain == name.as_str());
        let mut file = vec![0; len.min(rest.len())];
        rest.read_exact(&mut file).map_err(|e| damaged(list, "a piece is too short").source(e))?;
        if !plain || file.len() != len || hex(&Sha256::digest(&file)) != sum {
            return Err(Error::new(Status::ReadFailed, format!("{}: `{name}` is damaged", list.display())));
        }
        let path = folder.join(&name);
        NewFile::write_with(&path, |out| out.write_all(&file))?;
        out.push(path);
    }
    Ok(out)
}
