//! From images: image to image, latents and back, likelihood; against closed forms on Gaussian data and on mixtures.

mod support;

use psld::run::{Tensor, What};
use psld::{Model, ModelSpec, RunOptions, Sampler};
use serde_json::{Value, json};
use std::sync::Arc;
use support::*;

/// The samplers that encode, where they are defined.
fn both_ways(spec: &ModelSpec) -> Vec<&'static str> {
    let all = ["exp_heun", "gddim", "deis", "ddim", "heun", "euler", "rk45"];
    all.into_iter().filter(|name| *name != "ddim" || spec.process().unwrap().k() == 1).collect()
}

#[test]
#[ignore]
fn measure() {
    let wide = mixture(&[0.3, 0.5, 0.2], &[&[-0.8, 0.1], &[0.3, -0.4], &[0.9, 0.6]], &[0.25, 0.16, 0.09]);
    for (process, mixture) in [(psld(), plane()), (json!({"kind":"vp"}), plane()), (psld(), wide)] {
        let spec = spec(process.clone(), json!({}), &[2]);
        let model = model(&spec, &mixture);
        let n = 200;
        let base = sampler(&spec, json!({"sampler": "sscs", "steps": 100}));
        let base = if process["kind"] == "vp" { sampler(&spec, json!({"sampler": "em", "steps": 300})) } else { base };
        let (z, _) = finish(&model, &base, f64_run(n));
        let k = z.len() / n / 2;
        let x: Vec<f64> = z.chunks(2 * k).flat_map(|z| z[..2].to_vec()).collect();
        for name in both_ways(&spec) {
            for grid in ["quadratic", "order2", "log_snr", "uniform", "karras"] {
                let mut o = json!({"sampler": name, "nfe": 50, "time_grid": grid});
                if name == "rk45" { o = json!({"sampler": name, "rtol": 1e-6, "atol": 1e-6}); }
                let mut oe = o.clone();
                oe["encode"] = json!(true);
                let enc = sampler(&spec, oe);
                let options = RunOptions { from_image: Some(tensor(&[n, 2], &x)), ..f64_run(n) };
                let (lat, p) = finish(&model, &enc, options);
                let (back, q) = finish(&model, &sampler(&spec, o), RunOptions { init: Some(tensor(&[n, 2 * k], &lat)), ..f64_run(n) });
                let sq: f64 = back.chunks(2 * k).zip(x.chunks(2)).map(|(a, b)| (a[0]-b[0]).powi(2) + (a[1]-b[1]).powi(2)).sum();
                let var: f64 = lat.iter().map(|x| x*x).sum::<f64>() / lat.len() as f64;
                println!("{process} {name} {grid}: nfe {} {}: rms {:.2e}, latent {var:.3}", p.nfe, q.nfe, (sq / (2 * n) as f64).sqrt());
            }
        }
    }
}
