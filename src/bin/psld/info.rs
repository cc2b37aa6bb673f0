//! `psld info`.

use crate::args::ModelArgs;
use crate::report;
use clap::Args;
use psld::decode::Times;
use psld::process::{Mat, Process};
use psld::spec::{ModelSpec, NetworkTime, Predicts};
use psld::{Model, Result};
use serde_json::{Value, json};
use std::fmt::Write;

#[derive(Args)]
pub struct InfoArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: InfoArgs) -> Result<()> {
    let model = Model::from_file(&args.model.model, args.model.options()?)?;
    let info = describe(&args.model.model.display().to_string(), &model)?;
    if args.json {
        return report::stdout(&format!("{info:#}\n"));
    }
    report::stdout(&table(&info, model.spec())?)
}

/// All there is to know about a model.
fn describe(name: &str, model: &Model) -> Result<Value> {
    let spec = model.spec();
    let process = spec.process()?;
    let (k, network) = (process.k(), &spec.network);
    let shape = |blocks: usize| {
        let mut shape = vec![json!("n")];
        shape.push(json!(blocks * spec.data.shape[0]));
        shape.extend(spec.data.shape[1..].iter().map(|dim| json!(dim)));
        shape
    };
    let time = match spec.network_time() {
        NetworkTime::T => "time",
        NetworkTime::Reversed => "(1 - time)",
        NetworkTime::Sigma => "sigma",
        NetworkTime::CNoise => "ln(sigma)/4",
        NetworkTime::Index => "entry",
    };
    let mut inputs = vec![
        json!({ "name": network.state_input, "what": "state", "shape": shape(spec.input_blocks(k)) }),
        json!({ "name": network.time_input, "what": format!("{time} * {}", network.time_scale), "shape": ["n"] }),
    ];
    if let Some(label) = &network.label_input {
        let what = format!("class, 0 to {}, or {} for none", network.classes - 1, network.classes);
        inputs.push(json!({ "name": label, "what": what, "shape": ["n"] }));
    }
    let mut info = json!({
        "model": name,
        "sha256": model.hash()?,
        "backend": model.backend(),
        "spec": spec.filled(),
        "inputs": inputs,
        "output": { "name": network.output, "shape": shape(spec.output_blocks(k)) },
        "process": parameters(&process),
    });
    if spec.network.process.is_some() {
        let times = Times::of_model(spec)?;
        info["network_process"] = parameters(&spec.network_process()?);
        info["times"] = json!([times.low, times.high]);
    }
    info["t_start"] = json!(Times::of_model(spec)?.start);
    Ok(info)
}

fn parameters(process: &Process) -> Value {
    let ends = ends(process).map(|t| (format!("t = {t}"), json!(process.log_snr(t))));
    let mut info = json!({
        "k": process.k(),
        "numerical_eps": process.numerical_eps(),
        "decomposition": process.decomposition(),
        "score_matching": process.score_matching(),
        "prior_covariance": process.prior_covariance(),
        "log_snr": serde_json::Map::from_iter(ends),
    });
    if let Some(recipe) = process.parameters() {
        info["D"] = json!(recipe.d);
        info["Q"] = json!(recipe.q);
        info["S"] = json!(recipe.s);
        info["beta"] = json!([recipe.beta.min, recipe.beta.max]);
        info["kappa"] = json!(recipe.kappa);
    }
    info
}

/// The last time of a process, and the one at which sampling ends by default.
fn ends(process: &Process) -> [f64; 2] {
    let times = Times::of(process);
    [times.high, times.end]
}

fn table(info: &Value, spec: &ModelSpec) -> Result<String> {
    let process = spec.process()?;
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<11} {text}");
    };
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let shape = |v: &Value| {
        format!("[{}]", v.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", "))
    };
    line("model", text(&info["model"]));
    line("sha256", text(&info["sha256"]));
    let backend = &info["backend"];
    let library = backend["library"].as_str().map_or_else(String::new, |path| format!(" ({path})"));
    line(
        "runs by",
        format!(
            "{} {} on {}{library}",
            text(&backend["name"]),
            text(&backend["version"]),
            text(&backend["provider"])
        ),
    );
    line("data", format!("{:?}, {} to {}", spec.data.shape, spec.data.range[0], spec.data.range[1]));
    for input in info["inputs"].as_array().into_iter().flatten() {
        line(
            "input",
            format!("{} {}: {}", text(&input["name"]), shape(&input["shape"]), text(&input["what"])),
        );
    }
    let network = &info["spec"]["network"];
    let part = match spec.network.predicts {
        Some(Predicts::Momentum) => " of the momentum",
        Some(Predicts::Position) => " of the position",
        _ => "",
    };
    let output = &info["output"];
    let what = match spec.is_gradient() {
        true => "gradient of log p(y | z, t) in z".into(),
        false => format!("{}{part}", text(&network["prediction"])),
    };
    line("output", format!("{} {}: {what}", text(&output["name"]), shape(&output["shape"])));
    if spec.network.process.is_some() {
        let own = spec.network_process()?;
        line("trained on", format!("{own}, log SNR {}", log_snr(&own)));
        let times = Times::of_model(spec)?;
        line("drives", format!("{process} for t from {:.6} to {:.6}", times.low, times.high));
    }
    let times = Times::of_model(spec)?;
    if times.start < times.high {
        let why = "the largest entry with alpha of at least 0.005";
        line("starts at", format!("t = {:.6} ({why}; --t-start: up to {})", times.start, times.high));
    }
    let kind = text(&info["spec"]["process"]["kind"]);
    match process.parameters() {
        None => line("process", format!("{kind} ({process}), k = 1")),
        Some(p) => {
            line("process", format!("{kind}, k = {}", process.k()));
            line("D", matrix(&p.d));
            line("Q", matrix(&p.q));
            line("S", matrix(&p.s));
            line(
                "beta",
                if p.beta.min == p.beta.max {
                    p.beta.min.to_string()
                } else {
                    format!("{} to {}", p.beta.min, p.beta.max)
                },
            );
        }
    }
    if let Some(p) = process.parameters().filter(|_| process.k() > 1) {
        line("kappa", p.kappa.to_string());
        line("factor", text(&info["process"]["decomposition"]));
        line("matching", text(&info["process"]["score_matching"]));
    }
    if process.parameters().is_some() {
        line("eps", process.numerical_eps().to_string());
    }
    line("prior", format!("normal, covariance {}", matrix(&process.prior_covariance())));
    line("log SNR", log_snr(&process));
    Ok(out)
}

fn log_snr(process: &Process) -> String {
    let [last, first] = ends(process).map(|t| format!("{:.3} at t = {t}", process.log_snr(t)));
    format!("{last}, {first}")
}

fn matrix(m: &Mat) -> String {
    let row = |i| m.row_slice(i).iter().map(f64::to_string).collect::<Vec<_>>().join(" ");
    format!("[{}]", (0..m.rows()).map(row).collect::<Vec<_>>().join("; "))
}
