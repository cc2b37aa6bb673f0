//! `psld info`.

use crate::args::InfoArgs;
use crate::report;
use psld::process::Mat;
use psld::spec::{ModelSpec, Predicts};
use psld::{Model, Result};
use serde_json::{Value, json};
use std::fmt::Write;

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
    let mut inputs = vec![
        json!({ "name": network.state_input, "what": "state", "shape": shape(k) }),
        json!({ "name": network.time_input, "what": format!("time * {}", network.time_scale), "shape": ["n"] }),
    ];
    if let Some(label) = &network.label_input {
        let what = format!("class, 0 to {}, or {} for none", network.classes - 1, network.classes);
        inputs.push(json!({ "name": label, "what": what, "shape": ["n"] }));
    }
    let parameters = process.parameters();
    Ok(json!({
        "model": name,
        "sha256": model.hash()?,
        "backend": model.backend(),
        "spec": spec,
        "inputs": inputs,
        "output": { "name": network.output, "shape": shape(spec.output_blocks(k)) },
        "process": {
            "k": k,
            "D": parameters.d,
            "Q": parameters.q,
            "S": parameters.s,
            "beta": [parameters.beta.min, parameters.beta.max],
            "kappa": parameters.kappa,
            "numerical_eps": process.numerical_eps(),
            "decomposition": process.decomposition(),
            "score_matching": process.score_matching(),
            "prior_covariance": process.prior_covariance(),
            "log_snr": { "t = 1": process.log_snr(1.0), "t = 0.001": process.log_snr(0.001) },
        },
    }))
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
    line(
        "output",
        format!(
            "{} {}: {}{part}",
            text(&output["name"]),
            shape(&output["shape"]),
            text(&network["prediction"])
        ),
    );
    let p = process.parameters();
    line("process", format!("{}, k = {}", text(&info["spec"]["process"]["kind"]), process.k()));
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
    if process.k() > 1 {
        line("kappa", p.kappa.to_string());
        line("factor", text(&info["process"]["decomposition"]));
        line("matching", text(&info["process"]["score_matching"]));
    }
    line("eps", process.numerical_eps().to_string());
    line("prior", format!("normal, covariance {}", matrix(&process.prior_covariance())));
    line(
        "log SNR",
        format!("{:.3} at t = 1, {:.3} at t = 0.001", process.log_snr(1.0), process.log_snr(0.001)),
    );
    Ok(out)
}

fn matrix(m: &Mat) -> String {
    let row = |i| m.row_slice(i).iter().map(f64::to_string).collect::<Vec<_>>().join(" ");
    format!("[{}]", (0..m.rows()).map(row).collect::<Vec<_>>().join("; "))
}
