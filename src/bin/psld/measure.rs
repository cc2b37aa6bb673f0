//! `psld measure`: images to measurements.

use crate::args::{MeasureArgs, spec_of};
use crate::report;
use psld::Result;
use psld::io::{NewFile, check_writable, npy, read_images};
use psld::restoration::measure;

pub fn run(args: MeasureArgs) -> Result<()> {
    report::forward_log();
    check_writable(&args.out, 0)?;
    let restoration = args.restoration()?;
    let data = spec_of(&args.model, args.spec.as_deref())?.data;
    let images = read_images(&args.images, &data)?;
    let measured = measure(&restoration, &data, images, args.seed)?;
    let values: Vec<f32> = measured.iter().copied().collect();
    NewFile::write_with(&args.out, |file| npy::write(file, measured.shape(), &values))
}
