//! `psld noise`.

use crate::{interrupt, report};
use clap::{Args, ValueHint};
use psld::io::{NewFile, check_writable, npy};
use psld::noise::{MAX_ELEMENTS, Purpose, fill_f32};
use psld::{Error, Result, Status};
use std::io::Write;
use std::path::PathBuf;

#[derive(Args)]
pub struct NoiseArgs {
    /// Seed of the (first) sample
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub seed: u64,
    /// What the noise is for; each purpose counts its own draws
    #[arg(long, value_parser = ["prior", "solver", "inpaint", "probe"])]
    pub purpose: String,
    /// Which draw, from 0
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub draw: u32,
    /// Shape of one sample's whole state: k*C,...
    #[arg(long, value_name = "N,...", value_delimiter = ',', required = true, allow_negative_numbers = true)]
    pub shape: Vec<usize>,
    /// Write [N, shape]: of samples with seeds seed, seed + 1, ...
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub n: Option<usize>,
    /// The file, float32
    #[arg(short, long, value_name = "FILE.npy", value_hint = ValueHint::FilePath)]
    pub out: PathBuf,
}

/// Elements made at a time, whatever the size of a sample.
const CHUNK: usize = 1 << 16;

pub fn run(args: NoiseArgs) -> Result<()> {
    let NoiseArgs { seed, purpose, draw, shape, n, out } = args;
    interrupt::install()?;
    let purpose: Purpose = purpose.parse()?;
    if !out.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy")) {
        return Err(Error::argument(format!("--out {}: expected FILE.npy", out.display())));
    }
    let elements = shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim as u64));
    let Some(elements) = elements.filter(|elements| (1..=MAX_ELEMENTS).contains(elements)) else {
        return Err(Error::argument(format!("--shape {shape:?}: expected 1 to {MAX_ELEMENTS} elements")));
    };
    let samples = n.unwrap_or(1) as u64;
    check_writable(&out, u128::from(samples) * u128::from(elements) * 4 + 128)?;

    let _polled = interrupt::polled();
    let whole: Vec<usize> = n.into_iter().chain(shape).collect();
    let mut file = NewFile::create(&out)?;
    npy::write_header::<f32>(&mut file, &whole).map_err(|e| file.failed(e))?;
    let mut chunk = vec![0.0; CHUNK.min(elements as usize)];
    for sample in 0..samples {
        let mut first = 0;
        while first < elements {
            if interrupt::requested() {
                return Err(Error::new(
                    Status::Cancelled,
                    format!("interrupted: {} was not written", out.display()),
                ));
            }
            let len = chunk.len().min((elements - first) as usize);
            fill_f32(seed.wrapping_add(sample), purpose, draw, first, &mut chunk[..len]);
            npy::write_values(&mut file, &chunk[..len]).map_err(|e| file.failed(e))?;
            first += len as u64;
        }
    }
    file.flush().map_err(|e| file.failed(e))?;
    file.finish()?;
    report::stderr(&format!("wrote {}: float32 {whole:?}", out.display()));
    Ok(())
}
