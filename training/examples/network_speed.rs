//! One side of the comparison that `benches/network.py` makes.
//!
//!     network_speed export PRESET OUT.onnx       random weights, as ONNX
//!     network_speed time PRESET BATCH CALLS THREADS      through libtorch: milliseconds of each call, and of CPU time

use std::error::Error;

use psld::onnx::ElementType;
use psld::spec::ModelSpec;
use psld_training::export::export;
use psld_training::net::{NetConfig, Network, Weights};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let [action, preset, rest @ ..] = &arguments[..] else { return Err("which action and preset?".into()) };
    let config = NetConfig::preset(preset)?;
    let network = Network::new(&config)?;
    let weights = network.initial_values(0);
    match (*action, rest) {
        ("export", [out]) => {
            let [_, height, width] = config.state_shape()[..] else { unreachable!("presets are for images") };
            let spec = format!(
                r#"{{"format": 1, "process": {{"kind": "psld"}}, "data": {{"shape": [3, {height}, {width}]}}}}"#
            );
            let spec = ModelSpec::parse(&spec)?;
            let model = export(&network, &weights, &spec, ElementType::F32, None)?;
            Ok(std::fs::write(out, model.to_bytes())?)
        }
        ("time", [batch, calls, threads]) => {
            time(&network, &weights, batch.parse()?, calls.parse()?, threads.parse()?)
        }
        _ => Err("export PRESET OUT.onnx, or time PRESET BATCH CALLS THREADS".into()),
    }
}

#[cfg(feature = "torch")]
fn time(
    network: &Network,
    weights: &Weights,
    batch: i64,
    calls: usize,
    threads: i32,
) -> Result<(), Box<dyn Error>> {
    use psld_training::net::{Mode, TorchParams};
    use std::time::Instant;
    use tch::{Device, Kind, Tensor};

    tch::set_num_threads(threads);
    let parameters = TorchParams::of_weights(network, weights)?;
    let shape = network.config().state_shape();
    let dims: Vec<_> = std::iter::once(batch).chain(shape.iter().map(|&dim| dim as i64)).collect();
    let z = Tensor::randn(&dims[..], (Kind::Float, Device::Cpu));
    let t = Tensor::full([batch], 0.5, (Kind::Float, Device::Cpu));
    for _ in 0..calls {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let _output = tch::no_grad(|| network.forward(&parameters, &z, &t, None, Mode::Eval, Kind::Float));
        println!("{:.3} {:.3}", 1e3 * start.elapsed().as_secs_f64(), 1e3 * (cpu_seconds() - cpu));
    }
    Ok(())
}

/// CPU time of this process: what a call costs on a machine that others use too.
#[cfg(feature = "torch")]
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes to the structure it is given, which outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

#[cfg(not(feature = "torch"))]
fn time(_: &Network, _: &Weights, _: i64, _: usize, _: i32) -> Result<(), Box<dyn Error>> {
    Err("built without the feature `torch`".into())
}
