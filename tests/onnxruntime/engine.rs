//! An engine on a network in ONNX Runtime: batches of other sizes differ from a run alone by rounding only.

use crate::support::runtime;
use psld::engine::{Engine, EngineOptions, Request};
use psld::onnx::networks::UNet;
use psld::spec::What;
use psld::{Model, ModelOptions, Run, RunOptions, Sampler, SamplerSpec, Status};
use std::sync::Arc;

const SPEC: &str = r#"{"format": 1, "process": {"kind": "psld"}, "data": {"shape": [3, 32, 32]},
                       "network": {"prediction": "epsilon"}}"#;

#[test]
fn requests_equal_their_runs_alone_within_rounding() {
    runtime();
    let bytes = UNet::small(2).network(SPEC).unwrap().to_bytes();
    let model = Model::from_bytes(&bytes, ModelOptions { threads: 1, ..Default::default() }).unwrap();
    let engine = Engine::new(&model, EngineOptions { max_batch: 4, ..Default::default() }).unwrap();
    let request = |(i, name): (usize, &str)| {
        let options = SamplerSpec { sampler: Some(name.into()), steps: Some(3), ..Default::default() };
        let sampler = Arc::new(Sampler::compile(model.spec(), &options, None).unwrap());
        Request::new(&sampler, RunOptions { seed: 10 * i as u64, ..RunOptions::new(1 + i) })
    };
    let requests: Vec<_> = ["em", "heun", "sscs"].into_iter().enumerate().map(request).collect();
    let tickets: Vec<_> = requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    for (request, ticket) in requests.iter().zip(&tickets) {
        let mut run = Run::start(&model, &request.sampler, request.options.clone()).unwrap();
        assert_eq!(ticket.wait().unwrap(), run.step(usize::MAX).unwrap());
        let (mut gathered, mut alone) =
            (vec![0f32; request.options.n * 3072], vec![0f32; request.options.n * 3072]);
        ticket.read(What::Data, &mut gathered).unwrap();
        run.read(What::Data, &mut alone).unwrap();
        let scale = alone.iter().fold(1f32, |most, x| most.max(x.abs()));
        let far = gathered.iter().zip(&alone).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far <= 1e-4 * scale, "{}: {far:e} of {scale}", request.sampler.info().name);
    }
    // Closed at work: the call in flight is ended.
    let options = SamplerSpec { steps: Some(100_000), ..Default::default() };
    let long = Arc::new(Sampler::compile(model.spec(), &options, None).unwrap());
    let ticket = engine.submit(Request::new(&long, RunOptions::new(8))).unwrap();
    engine.close();
    assert_eq!(ticket.wait().unwrap_err().status(), Status::Cancelled);
}
