//! What a sample costs outside the network, beside peers in the same run.
//!
//! `make bench`. Needs ONNX Runtime (`PSLD_ONNXRUNTIME`); `PYTHON` names a Python with numpy and onnxruntime for the
//! loop that a user would write without this library.

use psld::array::{Precision, ValuesMut};
use psld::network::{Backend, Evaluator, Inputs, Network};
use psld::onnx::networks::UNet;
use psld::run::sample;
use psld::spec::What;
use psld::{Model, ModelOptions, ModelSpec, Result, Run, RunOptions, Sampler, SamplerSpec, Status};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Counts this process's allocations through Rust; those inside ONNX Runtime are its own.
struct Counting;
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

const SPEC: &str = r#"{"format": 1, "process": {"kind": "psld"}, "data": {"shape": [3, 32, 32]},
                       "network": {"prediction": "epsilon"}}"#;
const BATCH: usize = 16;

fn options(sampler: &str, steps: u32) -> SamplerSpec {
    SamplerSpec {
        sampler: Some(sampler.into()),
        steps: Some(steps),
        denoise: Some(false),
        ..Default::default()
    }
}

/// A network that costs nothing: what is left is this library.
struct Nothing(ModelSpec);
struct NoCalls;

impl Network for Nothing {
    fn spec(&self) -> &ModelSpec {
        &self.0
    }
    fn backend(&self) -> Backend {
        Backend { name: "analytic", version: String::new(), provider: "cpu".into(), library: None }
    }
    fn output_precision(&self, _: Precision) -> Precision {
        Precision::F32
    }
    fn hash(&self) -> Result<String> {
        Ok(String::new())
    }
    fn evaluator(&self) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(NoCalls))
    }
}

impl Evaluator for NoCalls {
    fn evaluate(&mut self, inputs: Inputs<'_>, _: ValuesMut<'_>) -> Result<()> {
        black_box(inputs);
        Ok(())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Median seconds of a step after the first, and allocations of all those steps.
fn steps(model: &Model, sampler: &str, n: usize, count: usize) -> Result<(f64, usize)> {
    let sampler = Arc::new(Sampler::compile(model.spec(), &options(sampler, count as u32), None)?);
    let mut run = Run::start(model, &sampler, RunOptions::new(n))?;
    run.step(2)?;
    let mut times = Vec::with_capacity(count);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 2..count {
        let began = Instant::now();
        run.step(1)?;
        times.push(began.elapsed().as_secs_f64());
    }
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    Ok((median(times), allocations))
}

fn verdict(ok: bool) -> &'static str {
    if ok { "" } else { "   <-- goal missed" }
}

fn main() -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("psld {}, {threads} threads, {}", env!("CARGO_PKG_VERSION"), psld::isa::Isa::detect());
    let folder = std::env::temp_dir().join(format!("psld-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    let small = folder.join("small.onnx");
    std::fs::write(&small, UNet::small(2).network(SPEC)?.to_bytes()).expect("room for a model");

    outside_the_network(&small)?;
    fused_update()?;
    tiny_step()?;
    compile_times()?;
    against_python(&small)?;
    std::fs::remove_dir_all(&folder).expect("our own folder");
    Ok(())
}

/// The share of a run that is not spent in network calls.
fn outside_the_network(path: &Path) -> Result<()> {
    println!("\nshare of wall time outside the network: batch {BATCH}, 3 x 32 x 32, PSLD");
    let model = Model::from_file(path, ModelOptions::default())?;
    for (name, goal) in [("euler", 0.01), ("heun", 0.01), ("em", 0.05), ("sscs", 0.10), ("ancestral", 0.05)] {
        let sampler = Arc::new(Sampler::compile(model.spec(), &options(name, 50), None)?);
        let shares = (0..9).map(|_| {
            let mut run = Run::start(&model, &sampler, RunOptions::new(BATCH))?;
            run.step(1)?;
            let (began, network) = (Instant::now(), run.network_time());
            run.step(usize::MAX)?;
            let (wall, network) = (began.elapsed(), run.network_time() - network);
            Ok((1.0 - network.as_secs_f64() / wall.as_secs_f64(), network.as_secs_f64()))
        });
        let runs = shares.collect::<Result<Vec<_>>>()?;
        let share = median(runs.iter().map(|r| r.0).collect());
        let calls = sampler.plan().map_or(1, |plan| plan.nfe - 1);
        let network = median(runs.iter().map(|r| r.1).collect()) / calls as f64;
        let (step, allocations) = steps(&model, name, BATCH, 50)?;
        println!(
            "  {name:<10} {:5.2} %  (goal {:.0} %)  network call {:.2} ms, step {:.2} ms, allocations after the \
             first steps: {allocations}{}",
            100.0 * share,
            100.0 * goal,
            1e3 * network,
            1e3 * step,
            verdict(share <= goal && allocations == 0)
        );
    }
    Ok(())
}

/// One update row against memcpy of the bytes that it reads and writes, on one thread.
fn fused_update() -> Result<()> {
    println!("\nfused update against memcpy of the same bytes, one thread, f32");
    let model = Model::new(Arc::new(Nothing(ModelSpec::parse(SPEC)?)), 1)?;
    for n in [BATCH, 512] {
        let (step, _) = steps(&model, "euler", n, 60)?;
        // The state and the output are read, the state is written; a copy reads and writes each byte.
        let bytes = n * 6 * 1024 * 4;
        let (from, mut to) = (vec![1u8; bytes * 3 / 2], vec![0u8; bytes * 3 / 2]);
        let copies = (0..60).map(|_| {
            let began = Instant::now();
            black_box(&mut to).copy_from_slice(black_box(&from));
            began.elapsed().as_secs_f64()
        });
        let copy = median(copies.collect());
        println!(
            "  batch {n:<4} update {:.1} us, memcpy {:.1} us: {:.0} % of its rate (goal 60 %){}",
            1e6 * step,
            1e6 * copy,
            100.0 * copy / step,
            verdict(copy / step >= 0.6)
        );
    }
    Ok(())
}

/// A step of batch 1 on [16, 7] values outside the network: what a control loop pays.
fn tiny_step() -> Result<()> {
    println!("\nstep of batch 1, 16 x 7 values, outside the network");
    let spec = SPEC.replace("[3, 32, 32]", "[16, 7]");
    let model = Model::new(Arc::new(Nothing(ModelSpec::parse(&spec)?)), 0)?;
    for name in ["euler", "em", "sscs"] {
        let (step, allocations) = steps(&model, name, 1, 2000)?;
        println!(
            "  {name:<6} {:.2} us (goal 20 us), allocations {allocations}{}",
            1e6 * step,
            verdict(step <= 20e-6 && allocations == 0)
        );
    }
    Ok(())
}

/// Compiling plans of 100 steps.
fn compile_times() -> Result<()> {
    println!("\ncompile time of 100 steps, ms (goal 50)");
    let third = r#"{"kind": "recipe", "d": [[0,0,0],[0,0,0],[0,0,5.2]], "q": [[0,-1,0],[1,0,-2.8],[0,2.8,0]],
                    "s": [[1,0,0],[0,1,0],[0,0,1]], "beta_min": 4, "beta_max": 4}"#;
    for (name, process) in
        [("vp", r#"{"kind": "vp"}"#), ("psld", r#"{"kind": "psld"}"#), ("third order", third)]
    {
        let model = ModelSpec::parse(&SPEC.replace(r#"{"kind": "psld"}"#, process))?;
        let mut line = String::new();
        for info in psld::solver::list().filter(|info| !info.adaptive) {
            let times = (0..5).map(|_| {
                let began = Instant::now();
                let compiled = Sampler::compile(&model, &options(info.name, 100), None);
                (began.elapsed().as_secs_f64(), compiled)
            });
            let times: Vec<_> = times.collect();
            match &times[0].1 {
                Err(e) if e.status() == Status::Unsupported => continue,
                Err(e) => return Err(psld::Error::new(e.status(), e.to_string())),
                Ok(_) => {}
            }
            let time = median(times.iter().map(|(time, _)| *time).collect());
            line += &format!(
                " {} {:.1}{}",
                info.name,
                1e3 * time,
                if time > 0.05 { " <-- goal missed" } else { "" }
            );
        }
        println!("  {name}:{line}");
    }
    Ok(())
}

/// Rounds of a comparison whose parts take turns, so that a machine that slows down slows both.
const ROUNDS: usize = 21;

/// Loading and sampling against what a user would write in Python: onnxruntime's own session, and a loop in numpy.
fn against_python(path: &Path) -> Result<()> {
    let model = Model::from_file(path, ModelOptions::default())?;
    let sampler = Arc::new(Sampler::compile(model.spec(), &options("em", 50), None)?);
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let peer = peer(path);
        let loads = (0..15).map(|_| {
            let began = Instant::now();
            let model = Model::from_file(path, ModelOptions::default())?;
            black_box(Sampler::compile(model.spec(), &options("em", 99), None)?);
            Ok(began.elapsed().as_secs_f64())
        });
        let load = median(loads.collect::<Result<Vec<_>>>()?);
        let rates = (0..5).map(|_| {
            let began = Instant::now();
            let run = RunOptions::new(BATCH);
            black_box(sample::<f32>(&model, &sampler, &run, What::Data, |_| ControlFlow::Continue(()))?);
            Ok(BATCH as f64 / began.elapsed().as_secs_f64())
        });
        let rate = median(rates.collect::<Result<Vec<_>>>()?);
        ours.push([load, rate]);
        match peer {
            Ok(peer) => {
                ratios.push([load / peer[0], rate / peer[1]]);
                theirs.push(peer);
            }
            Err(why) => {
                println!(
                    "\nload and compile: psld {:.1} ms; images a second, em, 50 steps, batch {BATCH}: psld {rate:.1}; NO \
                     PEER: {why}; set PYTHON to one with numpy and onnxruntime",
                    1e3 * load
                );
                return Ok(());
            }
        }
    }
    let of = |values: &[[f64; 2]], i: usize| median(values.iter().map(|v| v[i]).collect());
    let range = |i: usize| {
        let all = || ratios.iter().map(|ratio| ratio[i]);
        format!("{:.2} to {:.2}", all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max))
    };
    let (load, rate) = (of(&ratios, 0), of(&ratios, 1));
    println!(
        "\nload and compile against the creation of onnxruntime's session in Python, ms, {ROUNDS} rounds in turn"
    );
    println!(
        "  psld {:.1}, session {:.1}: {load:.2} ({}; goal 1.1){}",
        1e3 * of(&ours, 0),
        1e3 * of(&theirs, 0),
        range(0),
        verdict(load <= 1.1)
    );
    println!("\nimages a second, em, 50 steps, batch {BATCH}, {ROUNDS} rounds in turn");
    println!(
        "  psld {:.1}, onnxruntime + numpy {:.1}: {rate:.2} times ({}; goal 1.2){}",
        of(&ours, 1),
        of(&theirs, 1),
        range(1),
        verdict(rate >= 1.2)
    );
    Ok(())
}

/// Seconds to create a session, and images a second, of benches/peer.py.
fn peer(path: &Path) -> std::result::Result<[f64; 2], String> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peer.py");
    let output = Command::new(&python).args([script.as_ref(), path.as_os_str()]).output();
    let output = output.map_err(|e| format!("{python}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>().as_deref() {
        Ok(&[session, rate]) => Ok([session, rate]),
        _ => {
            let why = String::from_utf8_lossy(&output.stderr);
            Err(format!("{python} cannot run {script} ({})", why.lines().last().unwrap_or("no output")))
        }
    }
}
