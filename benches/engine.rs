//! What many callers get of one network: through an engine, one run at a time, and in static batches of whole runs.
//!
//! `make bench-core`. Needs ONNX Runtime (`PSLD_ONNXRUNTIME`).

use psld::array::{Precision, ValuesMut};
use psld::engine::{Engine, EngineOptions, Request};
use psld::network::{Backend, Evaluator, Inputs, Network};
use psld::onnx::networks::UNet;
use psld::{Model, ModelOptions, ModelSpec, Result, Run, RunOptions, Sampler, SamplerSpec};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

const SPEC: &str = r#"{"format": 1, "process": {"kind": "psld"}, "data": {"shape": [3, 32, 32]},
                       "network": {"prediction": "epsilon"}}"#;
const BATCH: usize = 16;
/// Samples of a request, and network calls of its sampler, each as likely as the others.
const SIZES: [usize; 3] = [1, 2, 4];
const LENGTHS: [u32; 3] = [10, 25, 50];
/// Share of the throughput of full batches that is asked for.
const LOAD: f64 = 0.7;
const WINDOW: f64 = 8.0;
/// A request is in time within so many times its own time alone.
const PATIENCE: f64 = 5.0;

fn compile(model: &Model, nfe: u32) -> Result<Arc<Sampler>> {
    let options = SamplerSpec { sampler: Some("em".into()), nfe: Some(nfe), ..Default::default() };
    Ok(Arc::new(Sampler::compile(model.spec(), &options, None)?))
}

fn alone(model: &Model, sampler: &Arc<Sampler>, n: usize) -> Result<f64> {
    let began = Instant::now();
    Run::start(model, sampler, RunOptions::new(n))?.step(usize::MAX)?;
    Ok(began.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<()> {
    let bytes = UNet::small(2).network(SPEC)?.to_bytes();
    let model = Model::from_bytes(&bytes, ModelOptions::default())?;
    let rate = callers_of_one_sample(&model)?;
    println!("\nthe same network, on a CPU, where a sample costs nearly the same in any batch");
    arrivals(&model, rate)?;
    println!("\na network that takes 3 ms for a call and 0.1 ms for a sample, as on an accelerator");
    let model = Model::new(Arc::new(Accelerator(ModelSpec::parse(&SPEC.replace("[3, 32, 32]", "[8]"))?)), 1)?;
    arrivals(&model, BATCH as f64 / call_time(BATCH).as_secs_f64())
}

/// The time of a call, and nothing else.
struct Accelerator(ModelSpec);

fn call_time(samples: usize) -> Duration {
    Duration::from_micros(3000 + 100 * samples as u64)
}

impl Network for Accelerator {
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
        Ok(Box::new(Sleeper))
    }
}

struct Sleeper;

impl Evaluator for Sleeper {
    fn evaluate(&mut self, inputs: Inputs<'_>, _: ValuesMut<'_>) -> Result<()> {
        thread::sleep(call_time(inputs.t.len()));
        Ok(())
    }
}

/// Sixteen callers of one sample against a batch of sixteen; gives the samples a second of full calls.
fn callers_of_one_sample(model: &Model) -> Result<f64> {
    const NFE: u32 = 51;
    let sampler = compile(model, NFE)?;
    let engine = Engine::new(model, EngineOptions { max_batch: BATCH, ..Default::default() })?;
    let (mut batch, mut callers, mut solo) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..9 {
        batch.push(alone(model, &sampler, BATCH)?);
        let began = Instant::now();
        thread::scope(|scope| {
            let one = |seed| {
                let options = RunOptions { seed, ..RunOptions::new(1) };
                engine.submit(Request::new(&sampler, options))?.wait()
            };
            let threads: Vec<_> = (0..BATCH as u64).map(|seed| scope.spawn(move || one(seed))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("no panic").map(drop))
        })?;
        callers.push(began.elapsed().as_secs_f64());
        solo.push((0..BATCH).map(|_| alone(model, &sampler, 1)).sum::<Result<f64>>()?);
    }
    let [batch, callers, solo] = [batch, callers, solo].map(median);
    let evaluations = BATCH as f64 * f64::from(NFE);
    println!("{BATCH} callers of one sample, em, {NFE} calls, 3 x 32 x 32");
    println!(
        "  engine {:.0} ms, one batch {:.0} ms: {:.2} of its rate (goal 0.95){}; one run after the other {:.0} ms",
        1e3 * callers,
        1e3 * batch,
        batch / callers,
        if batch / callers >= 0.95 { "" } else { "   <-- goal missed" },
        1e3 * solo,
    );
    Ok(evaluations / batch)
}

#[derive(Clone, Copy)]
struct Arrival {
    at: f64,
    n: usize,
    length: usize,
}

/// Arrivals of a Poisson process, the same at each call.
fn poisson(rate: f64) -> Vec<Arrival> {
    let mut state = 7u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    let (mut at, mut arrivals) = (0.0, Vec::new());
    loop {
        at -= uniform().ln() / rate;
        if at > WINDOW {
            return arrivals;
        }
        let mut pick = || (uniform() * 3.0) as usize;
        arrivals.push(Arrival { at, n: SIZES[pick()], length: pick() });
    }
}

/// Latencies of all arrivals. `submit` begins a request, and sends its number when it has ended.
fn play(arrivals: &[Arrival], mut submit: impl FnMut(usize, mpsc::Sender<(usize, Instant)>)) -> Vec<f64> {
    let (sender, ended) = mpsc::channel();
    let began = Instant::now();
    for (i, arrival) in arrivals.iter().enumerate() {
        thread::sleep(Duration::from_secs_f64(arrival.at).saturating_sub(began.elapsed()));
        submit(i, sender.clone());
    }
    drop(sender);
    let mut latencies = vec![f64::INFINITY; arrivals.len()];
    for (i, end) in ended {
        latencies[i] = (end - began).as_secs_f64() - arrivals[i].at;
    }
    latencies
}

type Queue = (Mutex<(VecDeque<(usize, mpsc::Sender<(usize, Instant)>)>, bool)>, Condvar);

/// A thread that runs whole requests: the first of the queue, with as many of its length as `most` samples allow.
fn whole_runs(
    model: &Model,
    samplers: &[Arc<Sampler>],
    arrivals: &[Arrival],
    most: usize,
) -> Result<Vec<f64>> {
    let queue: Queue = Default::default();
    thread::scope(|scope| {
        let worker = scope.spawn(|| -> Result<()> {
            loop {
                let (mut queued, mut chosen) = (queue.0.lock().expect("no panic"), Vec::new());
                while queued.0.is_empty() {
                    if queued.1 {
                        return Ok(());
                    }
                    queued = queue.1.wait(queued).expect("no panic");
                }
                let length = arrivals[queued.0[0].0].length;
                let (mut n, mut left) = (0, VecDeque::new());
                for entry in std::mem::take(&mut queued.0) {
                    let arrival = arrivals[entry.0];
                    if arrival.length == length && (n == 0 || n + arrival.n <= most) {
                        n += arrival.n;
                        chosen.push(entry);
                    } else {
                        left.push_back(entry);
                    }
                }
                queued.0 = left;
                drop(queued);
                alone(model, &samplers[length], n)?;
                let end = Instant::now();
                for (i, sender) in chosen {
                    // Who hears of it waits for all.
                    let _ = sender.send((i, end));
                }
            }
        });
        let latencies = play(arrivals, |i, sender| {
            let mut queued = queue.0.lock().expect("no panic");
            queued.0.push_back((i, sender));
            queued.1 = i + 1 == arrivals.len();
            queue.1.notify_all();
        });
        worker.join().expect("no panic").map(|()| latencies)
    })
}

fn through_engine(model: &Model, samplers: &[Arc<Sampler>], arrivals: &[Arrival]) -> Result<Vec<f64>> {
    let options = EngineOptions { max_batch: BATCH, queue: 1 << 16, ..Default::default() };
    let engine = Engine::new(model, options)?;
    let latencies = thread::scope(|scope| {
        play(arrivals, |i, sender| {
            let (arrival, engine) = (arrivals[i], &engine);
            let request = Request::new(&samplers[arrival.length], RunOptions::new(arrival.n));
            scope.spawn(move || {
                engine.submit(request).and_then(|ticket| ticket.wait()).expect("a request that is sound");
                let _ = sender.send((i, Instant::now()));
            });
        })
    });
    let stats = engine.stats();
    println!("  (the engine's calls had {:.1} samples)", stats.samples as f64 / stats.calls as f64);
    Ok(latencies)
}

fn arrivals(model: &Model, rate: f64) -> Result<()> {
    let samplers: Vec<_> = LENGTHS.iter().map(|nfe| compile(model, *nfe)).collect::<Result<_>>()?;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let work = mean(&SIZES.map(|n| n as f64)) * mean(&LENGTHS.map(f64::from));
    let arrivals = poisson(LOAD * rate / work);
    let mut limits = Vec::new();
    for sampler in &samplers {
        for n in SIZES {
            let times = (0..3).map(|_| alone(model, sampler, n)).collect::<Result<Vec<_>>>()?;
            limits.push(PATIENCE * median(times));
        }
    }
    let size = |n: usize| SIZES.iter().position(|size| *size == n).unwrap_or(0);
    println!(
        "Poisson arrivals at {:.0} % of the rate of full batches of {BATCH}: {} requests in {WINDOW} s, of {SIZES:?} \
         samples and {LENGTHS:?} calls; in time is within {PATIENCE} times a run alone",
        100.0 * LOAD,
        arrivals.len()
    );
    for (name, latencies) in [
        ("engine", through_engine(model, &samplers, &arrivals)?),
        ("one run at a time", whole_runs(model, &samplers, &arrivals, 1)?),
        ("static batches", whole_runs(model, &samplers, &arrivals, BATCH)?),
    ] {
        let in_time = |(latency, a): &(&f64, &Arrival)| **latency <= limits[a.length * 3 + size(a.n)];
        let good = latencies.iter().zip(&arrivals).filter(in_time).count();
        let mut sorted = latencies.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| 1e3 * sorted[((sorted.len() - 1) as f64 * share) as usize];
        println!(
            "  {name:<18} p50 {:6.0} ms, p99 {:6.0} ms, in time {:.0} % ({:.1} a second)",
            at(0.5),
            at(0.99),
            100.0 * good as f64 / latencies.len() as f64,
            good as f64 / WINDOW,
        );
    }
    Ok(())
}
