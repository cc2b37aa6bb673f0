//! `psld noise`.

use crate::args::NoiseArgs;
use crate::{interrupt, report};
use psld::io::{NewFile, check_writable, npy};
use psld::noise::{MAX_ELEMENTS, Purpose, fill_f32};
use psld::{Error, Result, Status};
use std::io::Write;

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
