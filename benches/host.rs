//! What a program that embeds this library waits for: the end of a run that it cancels, a sample in each cycle of a control
//! loop, a step through the C ABI, a sample from Python.
//!
//! `make bench-core`. Needs ONNX Runtime (`PSLD_ONNXRUNTIME`); `PYTHON` names a Python with numpy. `PSLD_BENCH_CYCLES` is the
//! number of the control loop's cycles, 500 by default, 10 seconds; 10000 is the goal's.

use psld::capi::*;
use psld::onnx::networks::UNet;
use psld::onnx::{Dim, ElementType, Graph};
use psld::run::{Cancel, sample};
use psld::spec::What;
use psld::{Error, Model, ModelOptions, Result, Run, RunOptions, Sampler, SamplerSpec, Status};
use std::ffi::{CStr, c_void};
use std::io::{BufRead, BufReader, Write};
use std::mem::{MaybeUninit, size_of};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::ptr::null_mut;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const SPEC: &str = r#"{"format": 1, "process": {"kind": "psld"}, "data": {"shape": [3, 32, 32]},
                       "network": {"prediction": "epsilon"}}"#;
const BATCH: usize = 16;

/// Names the model for a program of this that is a [`Peer`].
const SERVES: &str = "PSLD_BENCH_HOST_SERVES";

fn main() -> Result<()> {
    if let Some(model) = std::env::var_os(SERVES) {
        return serve(model.as_ref());
    }
    cancel_latency()?;
    control_loop()?;
    step_call()?;
    from_python()
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn median(values: Vec<f64>) -> f64 {
    let values = sorted(values);
    values[values.len() / 2]
}

fn verdict(ok: bool) -> &'static str {
    if ok { "" } else { "   <-- goal missed" }
}

fn seconds<T>(work: impl FnOnce() -> Result<T>) -> Result<f64> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed().as_secs_f64())
}

/// Products of matrices of that size, one node each.
const NODES: usize = 200;
const SIZE: usize = 960;

/// A network of [`NODES`] nodes that take their time.
fn slow() -> Result<Model> {
    let mut g = Graph::new("slow");
    let dims = [Dim::from("N"), Dim::from(2)];
    let z = g.input("z", ElementType::F32, &dims);
    let t = g.input("t", ElementType::F32, &dims[..1]);
    // Rows of sum one: the product of any number of them is as large as its factors.
    let matrix = g.constant(&[SIZE, SIZE], &vec![1.0 / SIZE as f32; SIZE * SIZE]);
    let mean = g.reduce_mean(t, &[0], false);
    let mut product = g.add(matrix, mean);
    for _ in 0..NODES {
        product = g.matmul(product, matrix);
    }
    let tiny = g.reduce_mean(product, &[0, 1], false);
    let tiny = g.mul(tiny, 1e-9);
    let eps = g.add(z, tiny);
    g.output("eps", eps, &dims);
    let mut model = g.finish()?;
    model.set_metadata("psld.spec", r#"{"format": 1, "process": {"kind": "psld"}, "data": {"shape": [1]}}"#);
    Model::from_bytes(&model.to_bytes(), ModelOptions::default())
}

/// From the cancel on another thread to the return of the step whose network call it ends.
fn cancel_latency() -> Result<()> {
    const TIMES: u32 = 40;
    let model = slow()?;
    let options = SamplerSpec { sampler: Some("euler".into()), steps: Some(1000), ..Default::default() };
    let sampler = Arc::new(Sampler::compile(model.spec(), &options, None)?);
    let mut run = Run::start(&model, &sampler, RunOptions::new(1))?;
    let call = median((0..5).map(|_| seconds(|| run.step(1))).collect::<Result<_>>()?);
    let node = call / NODES as f64;
    let mut latencies = Vec::new();
    for i in 0..TIMES {
        let cancel = Cancel::new();
        run.resume_with(None, Some(cancel.clone()));
        // At places all over the call, but within it.
        let wait = Duration::from_secs_f64(call * (0.1 + 0.6 * f64::from(i * 37 % TIMES) / f64::from(TIMES)));
        let cancelled = thread::spawn(move || {
            thread::sleep(wait);
            let at = Instant::now();
            cancel.cancel();
            at
        });
        match run.step(1) {
            Err(error) if error.status() == Status::Cancelled => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(Error::new(Status::Internal, "the call ended before the cancel")),
        }
        let back = Instant::now();
        latencies.push((back - cancelled.join().expect("no panic")).as_secs_f64());
    }
    let latencies = sorted(latencies);
    let worst = latencies[latencies.len() - 1];
    println!(
        "cancel in the middle of a network call of {NODES} nodes of {:.1} ms, {TIMES} times",
        1e3 * node
    );
    println!(
        "  median {:.1} ms, worst {:.1} ms (goal: a node's time, {:.1} ms){}",
        1e3 * latencies[latencies.len() / 2],
        1e3 * worst,
        1e3 * node,
        verdict(worst <= node)
    );
    Ok(())
}

const VECTOR: &CStr = c"{\"format\": 1, \"process\": {\"kind\": \"psld\"}, \"data\": {\"shape\": [16, 7]}}";

/// A network of the caller's that takes the time that `user` points to, without sleeping, as a network does.
extern "C" fn busy(user: *mut c_void, evaluation: *const psld_evaluation) -> i32 {
    let began = Instant::now();
    // SAFETY: a Duration that outlives the model; the library's struct, and floats in it.
    let time = unsafe {
        let evaluation = &*evaluation;
        evaluation.out.cast::<f32>().write_bytes(0, evaluation.out_elements);
        *user.cast::<Duration>()
    };
    while began.elapsed() < time {
        std::hint::spin_loop();
    }
    0
}

fn ok(status: i32) -> Result<()> {
    // SAFETY: a static string.
    let name = || unsafe { CStr::from_ptr(psld_status_name(status)) }.to_string_lossy().into_owned();
    if status == Status::Ok as i32 { Ok(()) } else { Err(Error::new(Status::Internal, name())) }
}

fn options<T>(init: extern "C" fn(*mut T, usize) -> i32) -> Result<T> {
    let mut options = MaybeUninit::<T>::uninit();
    ok(init(options.as_mut_ptr(), size_of::<T>()))?;
    // SAFETY: init has written all of it.
    Ok(unsafe { options.assume_init() })
}

/// A model of [`busy`] and a sampler for it, through the C ABI.
fn made(time: &Duration, sampler_name: &CStr, nfe: i32) -> Result<(*mut psld_model, *mut psld_sampler)> {
    let (mut model, mut sampler) = (null_mut(), null_mut());
    let mut how = options(psld_model_options_init)?;
    (how.spec_json, how.threads) = (VECTOR.as_ptr(), 1);
    let user = (&raw const *time).cast_mut().cast();
    ok(psld_model_create(Some(busy), user, None, c"busy".as_ptr(), &how, &mut model, null_mut()))?;
    let mut how = options(psld_sampler_options_init)?;
    (how.sampler, how.nfe) = (sampler_name.as_ptr(), nfe);
    ok(psld_sampler_create(model, &how, &mut sampler, null_mut()))?;
    Ok((model, sampler))
}

/// A controller that draws 16 actions of 7 values in each cycle of 20 ms, by 10 calls of a network of 1 ms.
fn control_loop() -> Result<()> {
    const PERIOD: Duration = Duration::from_millis(20);
    const NFE: i32 = 10;
    let cycles = match std::env::var("PSLD_BENCH_CYCLES") {
        Ok(text) => text.parse().map_err(|_| Error::argument(format!("PSLD_BENCH_CYCLES = {text}")))?,
        Err(_) => 500u32,
    };
    let time = Duration::from_millis(1);
    let (model, sampler) = made(&time, c"auto", NFE)?;
    let mut how = options(psld_run_options_init)?;
    let mut actions = [0f32; 112];
    let (mut times, mut late) = (Vec::new(), 0);
    let began = Instant::now();
    for cycle in 0..cycles {
        let due = began + PERIOD * cycle;
        if due.elapsed() > PERIOD {
            // It was over before the one before it was done.
            late += 1;
            continue;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        how.seed = cycle.into();
        let out = actions.as_mut_ptr().cast();
        ok(psld_sample(model, sampler, &how, 0, 0, out, 112, None, null_mut(), null_mut()))?;
        // From when it was due: waking up late counts.
        let took = Instant::now() - due;
        late += u32::from(took > PERIOD);
        times.push(took.as_secs_f64());
    }
    ok(psld_sampler_free(sampler))?;
    ok(psld_model_free(model))?;
    let times = sorted(times);
    let at = |share: f64| 1e3 * times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "\ncontrol loop of 50 Hz, {cycles} cycles, {NFE} calls of a network of 1 ms in each (PSLD_BENCH_CYCLES)"
    );
    println!(
        "  {late} deadlines missed (goal 0); median {:.2} ms, p99 {:.2} ms, worst {:.2} ms of 20{}",
        at(0.5),
        at(0.99),
        at(1.0),
        verdict(late == 0)
    );
    Ok(())
}

/// What `psld_run_step` takes besides the network, which takes nothing.
fn step_call() -> Result<()> {
    const STEPS: i32 = 5000;
    println!("\na step of batch 1, 16 x 7 values, by psld_run_step, outside the network");
    for name in [c"euler", c"em", c"sscs"] {
        let (model, sampler) = made(&Duration::ZERO, name, STEPS)?;
        let mut run = null_mut();
        ok(psld_run_start(model, sampler, &options(psld_run_options_init)?, &mut run, null_mut()))?;
        let mut progress = options(psld_progress_init)?;
        let times = (1..STEPS).map(|_| seconds(|| ok(psld_run_step(run, 1, &mut progress, null_mut()))));
        let step = median(times.collect::<Result<_>>()?);
        println!(
            "  {:<6} {:.2} us (goal 20 us){}",
            name.to_string_lossy(),
            1e6 * step,
            verdict(step <= 20e-6)
        );
        ok(psld_run_free(run))?;
        ok(psld_sampler_free(sampler))?;
        ok(psld_model_free(model))?;
    }
    Ok(())
}

/// A program that samples when it is told to.
struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    fn python(model: &Path) -> std::result::Result<Self, String> {
        let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        Self::start(
            Command::new(&python)
                .arg(format!("{root}benches/python.py"))
                .arg(model)
                .args([&BATCH.to_string(), env!("CARGO_PKG_VERSION")])
                .env("PYTHONPATH", format!("{root}bindings/python"))
                .env("PSLD_LIBRARY", program.with_file_name("libpsld.so")),
        )
        .map_err(|e| format!("{python}: {e}"))
    }

    /// This program, see [`serve`].
    fn rust(model: &Path) -> std::result::Result<Self, String> {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        Self::start(Command::new(program).env(SERVES, model))
    }

    fn start(command: &mut Command) -> std::result::Result<Self, String> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else { return Err("no pipes".into()) };
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    /// Seconds of a batch.
    fn batch(&mut self) -> std::result::Result<f64, String> {
        writeln!(self.input).map_err(|e| e.to_string())?;
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(|e| e.to_string())?;
        line.trim().parse().map_err(|_| format!("a peer said {line:?}"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Samples a batch for each line that it reads, and prints the seconds: what benches/python.py does.
fn serve(model: &Path) -> Result<()> {
    let model = Model::from_file(model, ModelOptions::default())?;
    let how = SamplerSpec {
        sampler: Some("euler".into()),
        steps: Some(50),
        denoise: Some(false),
        ..Default::default()
    };
    let sampler = Arc::new(Sampler::compile(model.spec(), &how, None)?);
    for _ in std::io::stdin().lines() {
        let go = |_| ControlFlow::Continue(());
        let took =
            seconds(|| sample::<f32>(&model, &sampler, &RunOptions::new(BATCH), What::Data, go).map(drop))?;
        println!("{took}");
    }
    Ok(())
}

/// The same samples from a program in Rust and from one in Python, in turn. A second one in Rust says what is between two
/// programs in any case, by where their memory happens to lie.
fn from_python() -> Result<()> {
    const ROUNDS: usize = 31;
    let path = std::env::temp_dir().join(format!("psld-bench-host-{}.onnx", std::process::id()));
    std::fs::write(&path, UNet::small(2).network(SPEC)?.to_bytes()).expect("room for a model");
    println!(
        "\nfrom Python against from Rust, batch {BATCH}, euler, 50 steps, 3 x 32 x 32, {ROUNDS} rounds in turn"
    );
    let rounds = || -> std::result::Result<Vec<[f64; 3]>, String> {
        let mut peers = [Peer::rust(&path)?, Peer::rust(&path)?, Peer::python(&path)?];
        let mut round = |i: usize| {
            let mut took = [0.0; 3];
            // Each is behind each other one as often.
            for j in 0..3 {
                let who = if i.is_multiple_of(2) { (i + j) % 3 } else { (i + 3 - j) % 3 };
                took[who] = peers[who].batch()?;
            }
            Ok(took)
        };
        // What comes first is slower.
        round(0)?;
        (0..ROUNDS).map(round).collect()
    };
    let measured = rounds();
    std::fs::remove_file(&path).expect("our own file");
    match measured {
        Ok(rounds) => {
            let of = |who: usize| median(rounds.iter().map(|round| round[who]).collect());
            let over =
                |who: usize| 100.0 * median(rounds.iter().map(|round| round[who] / round[0] - 1.0).collect());
            println!(
                "  Rust {:.1} ms, Python {:.1} ms: {:+.2} % (goal 1 %; another in Rust {:+.2} %)  network call {:.2} ms{}",
                1e3 * of(0),
                1e3 * of(2),
                over(2),
                over(1),
                1e3 * of(0) / 50.0,
                verdict(over(2) <= 1.0)
            );
        }
        Err(why) => println!("  NO PEER: {why}; set PYTHON to one with numpy"),
    }
    Ok(())
}
