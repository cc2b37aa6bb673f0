//! A folder of images. With subfolders, each is a class, in alphabetical order.

use std::path::{Path, PathBuf};

use image::DynamicImage;
use image::imageops::FilterType;
use psld::{Error, Result, Status};

use super::{Dataset, damaged};
use crate::recipe::DataRecipe;

const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

pub(super) fn load(folder: &Path, recipe: &DataRecipe) -> Result<Dataset> {
    let Some(size) = recipe.size.filter(|size| *size > 0) else {
        let error = Error::new(Status::InvalidConfig, "data.size: a folder's images are brought to one size");
        return Err(error.hint("set data.size, the height and width of the network's images"));
    };
    let channels = recipe.channels.unwrap_or(3);
    if !matches!(channels, 1 | 3) {
        return Err(Error::new(
            Status::InvalidConfig,
            format!("data.channels: expected 1 or 3, got {channels}"),
        ));
    }
    let entries = entries(folder)?;
    let classes: Vec<&PathBuf> = entries.iter().filter(|path| path.is_dir()).collect();
    let files: Vec<(PathBuf, i64)> = if classes.is_empty() {
        entries.iter().filter(|path| is_image(path)).map(|path| (path.clone(), 0)).collect()
    } else {
        let mut files = Vec::new();
        for (label, class) in classes.iter().enumerate() {
            files
                .extend(self::entries(class)?.into_iter().filter(|p| is_image(p)).map(|p| (p, label as i64)));
        }
        files
    };
    if files.is_empty() {
        let known = EXTENSIONS.join(", ");
        return Err(damaged(
            folder,
            format!("no images here or one folder below; expected files of type {known}"),
        ));
    }

    let (mut pixels, mut labels, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    for (path, label) in files {
        match decode(&path, size, channels) {
            Ok(image) => {
                pixels.extend(image);
                labels.push(label);
            }
            Err(_) if recipe.skip_bad => skipped.push(path),
            Err(e) => return Err(e.hint("remove the file, or leave out what cannot be read: --skip-bad")),
        }
    }
    let labels = (!classes.is_empty()).then_some((labels, classes.len()));
    let data =
        Dataset::images([channels, size, size], pixels, labels).map_err(|e| e.context(folder.display()))?;
    Ok(Dataset { skipped, ..data })
}

/// What a folder holds, sorted, so that the order of samples does not depend on the file system.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut entries = list().map_err(|e| damaged(folder, "cannot be listed").source(e))?;
    entries.sort();
    Ok(entries)
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// The middle square of an image, scaled to `size`, channels first.
fn decode(path: &Path, size: usize, channels: usize) -> Result<Vec<u8>> {
    let image = image::ImageReader::open(path)
        .and_then(|reader| reader.with_guessed_format())
        .map_err(|e| damaged(path, "cannot be read").source(e))?
        .decode()
        .map_err(|e| damaged(path, "not a readable image").source(e))?;
    let side = image.width().min(image.height());
    let square = image.crop_imm((image.width() - side) / 2, (image.height() - side) / 2, side, side);
    let scaled = match side as usize == size {
        true => square,
        false => square.resize_exact(size as u32, size as u32, FilterType::Lanczos3),
    };
    Ok(planes(&scaled, channels))
}

fn planes(image: &DynamicImage, channels: usize) -> Vec<u8> {
    if channels == 1 {
        return image.to_luma8().into_raw();
    }
    let pixels = image.to_rgb8().into_raw();
    (0..3).flat_map(|channel| pixels[channel..].iter().step_by(3).copied().collect::<Vec<u8>>()).collect()
}
