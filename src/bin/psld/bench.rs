//! `psld bench`.

use crate::args::{ModelArgs, SamplerArgs, State, labels};
use crate::sample::Progress;
use crate::{interrupt, report};
use clap::Args;
use psld::array::Precision;
use psld::config::OneOrMany;
use psld::run::{RunOptions, Seconds, sample};
use psld::spec::What;
use psld::{Error, Model, Result, Sampler};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

#[derive(Args)]
#[command(after_help = "\
Draws samples, once to warm up and then as many rounds as are asked for, and keeps none of them. All other work on the \
machine is measured, too.")]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub sampler: SamplerArgs,

    /// Samples of a round
    #[arg(
        short,
        value_name = "N",
        default_value_t = 16,
        allow_negative_numbers = true,
        help_heading = "What to measure"
    )]
    pub n: usize,
    /// Rounds after the first
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(..=100_000),
        allow_negative_numbers = true,
        help_heading = "What to measure"
    )]
    pub rounds: u32,
    /// Class of all samples, or a list that they take in turn [default: the null class]
    #[arg(long, value_name = "N", value_parser = labels, allow_hyphen_values = true, help_heading = "What to measure")]
    pub label: Option<OneOrMany<i64>>,

    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Say nothing on stderr but errors
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,

    /// Precision of the state
    #[arg(long, value_enum, default_value_t = State::F32, help_heading = "How to run")]
    pub state: State,
    /// Samples of one network call [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "How to run")]
    pub batch: Option<usize>,
}

pub fn run(args: BenchArgs) -> Result<()> {
    interrupt::install()?;
    if args.rounds == 0 {
        return Err(Error::argument("rounds = 0: expected at least 1"));
    }
    let config = args.sampler.config()?;
    let extra = [
        ("inpaint", config.inpaint.is_some()),
        ("guidance", config.guidance.is_some()),
        ("restore", config.restore.is_some()),
    ];
    if let Some((name, _)) = extra.iter().find(|(_, given)| *given) {
        return Err(Error::argument(format!("{name}: `bench` measures a model on its own")));
    }
    let options = args.model.options()?;
    if !args.quiet {
        report::forward_log();
    }
    let loading = Instant::now();
    let model = Model::from_file(&args.model.model, options)?;
    let load = loading.elapsed().as_secs_f64();
    let compiling = Instant::now();
    let sampler = Arc::new(Sampler::from_config(model.spec(), &config)?);
    let compile = compiling.elapsed().as_secs_f64();
    let options = RunOptions {
        seed: config.sampler.seed(),
        precision: if args.state == State::F64 { Precision::F64 } else { Precision::F32 },
        batch: args.batch,
        labels: args.label.as_ref().map(|label| label.for_samples(args.n, 1)),
        ..RunOptions::new(args.n)
    };

    // The first round is told apart: in it ONNX Runtime allocates.
    let mut rounds = Vec::new();
    let mut nfe = 0;
    let progress = Progress::new(args.n, args.quiet);
    for _ in 0..=args.rounds {
        let _polled = interrupt::polled();
        let samples =
            sample::<f32>(&model, &sampler, &options, What::Data, |overall| progress.show(overall))?;
        nfe = samples.nfe;
        rounds.push(samples.seconds);
    }
    drop(progress);

    // One call for a whole batch.
    let calls = (nfe * args.n.div_ceil(args.batch.unwrap_or(64))) as f64;
    let total = |seconds: &Seconds| seconds.network + seconds.solver;
    let parts = |seconds: &Seconds| {
        json!({
            "total": total(seconds),
            "network": seconds.network,
            "solver": seconds.solver,
            "network_call": seconds.network / calls,
        })
    };
    let first = rounds.remove(0);
    // Each column is one round, so that its parts are its sum.
    rounds.sort_by(|a, b| total(a).total_cmp(&total(b)));
    let median = rounds[rounds.len() / 2];
    let at_least = f64::MIN_POSITIVE;
    let json = json!({
        "model": args.model.model.display().to_string(),
        "backend": model.backend(),
        "sampler": sampler.info().name,
        "plan_hash": sampler.hash(),
        "nfe": nfe,
        "samples": args.n,
        "batch": args.batch.unwrap_or(64).min(args.n),
        "rounds": args.rounds,
        "seconds": {
            "load": load,
            "compile": compile,
            "first": parts(&first),
            "median": parts(&median),
            "best": parts(&rounds[0]),
            "worst": parts(&rounds[rounds.len() - 1]),
        },
        "outside_network": median.solver / total(&median).max(at_least),
        "samples_per_second": args.n as f64 / total(&median).max(at_least),
    });
    if args.json {
        return report::stdout(&format!("{json}\n"));
    }
    report::stdout(&table(&json))
}

fn table(json: &Value) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let time = |seconds: f64| match seconds {
        s if s < 1e-3 => format!("{} us", report::digits(s * 1e6)),
        s if s < 1.0 => format!("{} ms", report::digits(s * 1e3)),
        s => format!("{} s", report::digits(s)),
    };
    let (backend, seconds) = (&json["backend"], &json["seconds"]);
    let row = |name: &str| {
        let columns = ["first", "median", "best", "worst"].map(|round| time(number(&seconds[round][name])));
        columns.map(|column| format!("{column:<13}")).concat().trim_end().to_owned()
    };
    format!(
        "model         {}\n\
         runs by       {} {} on {}\n\
         sampler       {}, {} network calls\n\
         samples       {} a round, {} a network call\n\
         load          {}\n\
         compile       {}\n\
         of {:<10} first        median       best         worst\n\
         round         {}\n\
         network       {}\n\
         the rest      {}\n\
         network call  {}\n\
         outside the network {:.2} %, {} samples/s (median)\n",
        text(&json["model"]),
        text(&backend["name"]),
        text(&backend["version"]),
        text(&backend["provider"]),
        text(&json["sampler"]),
        json["nfe"],
        json["samples"],
        json["batch"],
        time(number(&seconds["load"])),
        time(number(&seconds["compile"])),
        format!("1 + {}", json["rounds"]),
        row("total"),
        row("network"),
        row("solver"),
        row("network_call"),
        100.0 * number(&json["outside_network"]),
        report::digits(number(&json["samples_per_second"])),
    )
}
