//! `psld verify`.

use crate::args::ModelArgs;
use crate::report;
use clap::Args;
use psld::golden::Golden;
use psld::network::onnxruntime::{Runtime, Verification, verify};
use psld::{Error, Result, Status};
use serde_json::json;

#[derive(Args)]
#[command(after_help = "\
A model of psld-training carries one evaluation of itself. It is repeated through ONNX Runtime; the exit status is 1 where \
the outputs differ by more than the tolerance.")]
pub struct VerifyArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Largest difference, as root mean square relative to that of the output [default: 1e-4, or 2e-2 for a float16
    /// and 1e-1 for a bfloat16 model]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub tolerance: Option<f64>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: VerifyArgs) -> Result<()> {
    if args.tolerance.is_some_and(|tolerance| tolerance.is_nan() || tolerance < 0.0) {
        return Err(Error::argument("--tolerance: expected a number of at least 0"));
    }
    let path = &args.model.model;
    let options = args.model.options()?.onnx();
    let verified = verify(|| Runtime::load(None), path, &options)?;
    let Verification { golden, output, len, element, backend, difference } = &verified;
    let tolerance = args.tolerance.unwrap_or_else(|| Golden::tolerance(*element));
    let passed = difference.within(tolerance);
    if args.json {
        let json = json!({
            "model": path.display().to_string(),
            "backend": backend,
            "output": output,
            "elements": len,
            "compared": golden.values.len(),
            "seed": golden.seed,
            "t": golden.t,
            "label": golden.y,
            "state_type": element.to_string(),
            "max_abs": difference.max_abs,
            "rms": difference.rms,
            "size": difference.size,
            "tolerance": tolerance,
            "verified": passed,
        });
        report::stdout(&format!("{json:#}\n"))?;
    } else {
        let label = golden.y.map_or_else(String::new, |y| format!(", label {y}"));
        report::stdout(&format!(
            "model      {}\n\
             runs by    {} {} on {}\n\
             golden     {} of {len} elements of `{output}` at t = {}{label}, state of seed {}\n\
             max abs    {:.2e}\n\
             rms        {:.2e}\n\
             size       {:+.2e}\n\
             tolerance  {tolerance:e} for {element}: of rms and size; all relative to the output's rms, {:.4e}\n\
             verdict    {}\n",
            path.display(),
            backend.name,
            backend.version,
            backend.provider,
            golden.values.len(),
            golden.t,
            golden.seed,
            difference.max_abs,
            difference.rms,
            difference.size,
            golden.rms,
            if passed {
                "ok: the model computes here what it computed where it was exported"
            } else {
                "failed: the output differs by more than the tolerance"
            },
        ))?;
    }
    if passed {
        return Ok(());
    }
    Err(Error::new(
        Status::Numeric,
        format!("{}: the output differs from the golden one by more than {tolerance:e}", path.display()),
    )
    .hint(if backend.provider == "cpu" {
        "the file was changed since its export, or the provider computes wrong"
    } else {
        "a GPU that multiplies float32 as TF32 needs --tolerance 1e-2"
    }))
}
