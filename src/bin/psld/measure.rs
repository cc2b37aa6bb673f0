//! `psld measure`: images to measurements.

use crate::args::{operator, spec_of};
use crate::report;
use clap::{Args, ValueHint};
use psld::Result;
use psld::io::{NewFile, check_writable, npy, read_images};
use psld::restoration::measure;
use psld::spec::Restoration;
use std::path::PathBuf;

#[derive(Args)]
pub struct MeasureArgs {
    /// The network whose images they are: .onnx, or .json for an analytic mixture
    #[arg(value_hint = ValueHint::FilePath)]
    pub model: PathBuf,
    /// The images: .npy [n, C, ...] in the data range (or uint8), PNG (an image or a grid), or a folder of PNG
    #[arg(value_hint = ValueHint::AnyPath)]
    pub images: PathBuf,
    /// What is measured: average:FACTOR, blur:STD, convolve:KERNEL.npy, or mask (every element, to be masked later)
    #[arg(long, value_name = "OPERATOR")]
    pub restore: String,
    /// Standard deviation of the noise, in the units of the data range
    #[arg(long, value_name = "STD", default_value_t = 0.0, allow_negative_numbers = true)]
    pub measurement_noise: f64,
    /// Seed of the first image's noise; image i has seed + i
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub seed: u64,
    /// The measurement, for `psld sample --measurement`
    #[arg(short, long, value_name = "FILE.npy", value_hint = ValueHint::FilePath)]
    pub out: PathBuf,
    /// The network's spec, instead of the one in the model's metadata
    #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath)]
    pub spec: Option<PathBuf>,
}

impl MeasureArgs {
    /// What is measured.
    pub fn restoration(&self) -> Result<Restoration> {
        Ok(Restoration { noise: self.measurement_noise, ..operator(&self.restore)?.into() })
    }
}

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
