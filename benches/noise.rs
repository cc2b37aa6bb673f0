//! Nanoseconds a normal on one thread, for each instruction set of this machine, beside numpy in the same run.
//!
//! `cargo bench --bench noise`; `PYTHON` names a Python with numpy if `python3` has none.

use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use psld::isa::Isa;
use psld::noise::{Purpose, Real, fill};

/// 8 MiB of f64: more than a core's own caches hold, as in a run.
const LENGTH: usize = 1 << 20;
const REPEATS: u32 = 30;

/// The best of [`REPEATS`], in ns a normal.
fn ours<T: Real + Default>(isa: Isa) -> f64 {
    let mut out = vec![T::default(); LENGTH];
    let mut best = f64::INFINITY;
    for draw in 0..REPEATS {
        let start = Instant::now();
        fill(isa, 0, Purpose::Solver, draw, 0, black_box(&mut out));
        best = best.min(start.elapsed().as_secs_f64());
    }
    best * 1e9 / LENGTH as f64
}

/// The same for numpy's `standard_normal` in f64 and f32, into an existing array; `Err` says what is missing.
fn numpy() -> Result<(String, [f64; 2]), String> {
    let program = format!(
        "import numpy, time
generator = numpy.random.default_rng(0)
print(numpy.__version__)
for dtype in numpy.float64, numpy.float32:
    out = numpy.empty({LENGTH}, dtype)
    best = float('inf')
    for _ in range({REPEATS}):
        start = time.perf_counter()
        generator.standard_normal(dtype=dtype, out=out)
        best = min(best, time.perf_counter() - start)
    print(best * 1e9 / {LENGTH})"
    );
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let output =
        Command::new(&python).args(["-c", &program]).output().map_err(|e| format!("{python}: {e}"))?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<_> = stdout.lines().collect();
    let parsed = match lines[..] {
        [version, wide, narrow] => wide.parse().ok().zip(narrow.parse().ok()).map(|t| (version, t)),
        _ => None,
    };
    let (version, (wide, narrow)) = parsed.ok_or_else(|| {
        let reason = stderr.lines().last().unwrap_or("no output");
        format!("{python}: {reason} (set PYTHON to one where `pip install numpy` has run)")
    })?;
    Ok((version.to_owned(), [wide, narrow]))
}

fn main() {
    let numpy = numpy();
    let reference = match &numpy {
        Ok((version, [wide, narrow])) => {
            println!("numpy {version:<10} f64 {wide:5.2} ns          f32 {narrow:5.2} ns");
            Some([*wide, *narrow])
        }
        Err(reason) => {
            println!("no comparison with numpy: {reason}");
            None
        }
    };
    for isa in Isa::available() {
        let times = [ours::<f64>(isa), ours::<f32>(isa)];
        let [wide, narrow] = match reference {
            Some(r) => [0, 1].map(|i| format!("({:.1}x)", r[i] / times[i])),
            None => Default::default(),
        };
        println!("psld {isa:<11} f64 {:5.2} ns {wide:8} f32 {:5.2} ns {narrow}", times[0], times[1]);
    }
}
