//! Running networks, against the formula that they were built from.

use crate::support::{Affine, load, runtime};
use half::{bf16, f16};
use psld::array::{Precision, Values, ValuesMut};
use psld::network::onnxruntime::{OnnxNetwork, OnnxOptions};
use psld::network::{Evaluator, Inputs, Network};
use psld::onnx::{Dim, ElementType, Graph};
use psld::{Error, Status};
use std::path::Path;

/// eps = 2 z + t + 10 y in f32, of what arrives behind the ports.
fn expected(affine: &Affine, z: &[f64], t: &[f64], y: Option<&[i64]>) -> Vec<f32> {
    let round = |element: ElementType, x: f64| match element {
        ElementType::F16 => f16::from_f32(x as f32).to_f32(),
        ElementType::Bf16 => bf16::from_f32(x as f32).to_f32(),
        ElementType::I64 => (x * 1000.0).round_ties_even() as f32,
        _ => x as f32,
    };
    let sample: usize = affine.state.iter().product();
    let label = |i: usize| if affine.labels { y.map_or(3.0, |y| y[i] as f32) } else { 0.0 };
    z.iter()
        .enumerate()
        .map(|(j, &z)| {
            let i = j / sample;
            let eps = 2.0 * round(affine.state_type, z) + round(affine.time_type, t[i]);
            let eps = if affine.labels { eps + 10.0 * label(i) } else { eps };
            round(affine.output_type, eps.into())
        })
        .collect()
}

fn state(affine: &Affine, n: usize) -> Vec<f64> {
    let len = n * affine.state.iter().product::<usize>();
    (0..len).map(|j| (j as f64 * 0.7).sin() * 3.0).collect()
}

fn times(n: usize) -> Vec<f64> {
    // Among them halves of a thousandth, where rounding half to even shows.
    (0..n).map(|i| [1.0, 0.0005, 0.0015, 0.0025, 0.3, 0.123456789][i % 6]).collect()
}

fn evaluate(
    evaluator: &mut dyn Evaluator,
    z: Values<'_>,
    t: &[f64],
    labels: Option<&[i64]>,
) -> Result<Vec<f32>, Error> {
    let mut out = vec![f32::NAN; z.len()];
    evaluator.evaluate(Inputs { z, t, labels, rows: None }, ValuesMut::F32(&mut out))?;
    Ok(out)
}

/// Several calls on one evaluator, f32 and f64 states, batches that grow, shrink and come back.
fn check(affine: &Affine) {
    let network = affine.network();
    assert_eq!(network.output_precision(Precision::F64), Precision::F32);
    let mut evaluator = network.evaluator().unwrap();
    for n in [1, 4, 7, 2, 8, 4] {
        let (z, t) = (state(affine, n), times(n));
        let labels: Vec<i64> = (0..n as i64).map(|i| i % 4).collect();
        let single: Vec<f32> = z.iter().map(|&z| z as f32).collect();
        for labels in [None, Some(labels.as_slice()).filter(|_| affine.labels)] {
            let want = expected(affine, &z, &t, labels);
            for _ in 0..2 {
                assert_eq!(
                    evaluate(&mut *evaluator, Values::F64(&z), &t, labels).unwrap(),
                    want,
                    "f64, n = {n}"
                );
                assert_eq!(
                    evaluate(&mut *evaluator, Values::F32(&single), &t, labels).unwrap(),
                    want,
                    "n = {n}"
                );
            }
        }
    }
}

#[test]
fn types_of_ports() {
    use ElementType::{Bf16, F16, F32, I64};
    for state_type in [F32, F16, Bf16] {
        for time_type in [F32, F16, Bf16, I64] {
            for output_type in [F32, F16, Bf16] {
                check(&Affine { state_type, time_type, output_type, ..Default::default() });
            }
        }
    }
}

#[test]
fn states_of_any_rank() {
    for state in [vec![2], vec![6], vec![4, 10], vec![2, 3, 4, 5]] {
        check(&Affine { state, ..Default::default() });
    }
}

#[test]
fn labels() {
    check(&Affine { labels: true, ..Default::default() });
}

#[test]
fn graphs_that_are_fixed_to_a_batch() {
    for batch in [1, 4] {
        check(&Affine { batch: Dim::from(batch), labels: true, ..Default::default() });
        check(&Affine { batch: Dim::from(batch), output_type: ElementType::F16, ..Default::default() });
    }
}

#[test]
fn many_buffers() {
    // More than an evaluator keeps bindings for.
    let affine = Affine::default();
    let mut evaluator = affine.network().evaluator().unwrap();
    let t = times(2);
    let states: Vec<Vec<f32>> =
        (0..40).map(|i| state(&affine, 2).iter().map(|z| *z as f32 + i as f32).collect()).collect();
    for _ in 0..2 {
        for z in &states {
            let wide: Vec<f64> = z.iter().map(|&z| z.into()).collect();
            let got = evaluate(&mut *evaluator, Values::F32(z), &t, None).unwrap();
            assert_eq!(got, expected(&affine, &wide, &t, None));
        }
    }
}

#[test]
fn evaluators_outlive_their_network_and_take_turns() {
    let affine = Affine { state: vec![6, 32, 32], ..Default::default() };
    let network = affine.network();
    let evaluators: Vec<_> = (0..4).map(|_| network.evaluator().unwrap()).collect();
    drop(network);
    std::thread::scope(|scope| {
        for mut evaluator in evaluators {
            let affine = &affine;
            scope.spawn(move || {
                for n in [3, 5, 3] {
                    let (z, t) = (state(affine, n), times(n));
                    let got = evaluate(&mut *evaluator, Values::F64(&z), &t, None).unwrap();
                    assert_eq!(got, expected(affine, &z, &t, None));
                }
            });
        }
    });
}

#[test]
fn what_does_not_fit() {
    let (plain, labelled) = (Affine::default(), Affine { labels: true, ..Default::default() });
    let mut evaluator = plain.network().evaluator().unwrap();
    let z = vec![0f32; 2 * 96];
    let mut report = Vec::new();
    report.push(evaluate(&mut *evaluator, Values::F32(&z), &[0.5], None).unwrap_err());
    report.push(evaluate(&mut *evaluator, Values::F32(&z), &[0.5; 2], Some(&[0, 0])).unwrap_err());
    let inputs = Inputs { z: Values::F32(&z), t: &[0.5; 2], labels: None, rows: None };
    report.push(evaluator.evaluate(inputs, ValuesMut::F32(&mut [0.0; 96])).unwrap_err());
    report.push(evaluator.evaluate(inputs, ValuesMut::F64(&mut [0.0; 2 * 96])).unwrap_err());
    let mut evaluator = labelled.network().evaluator().unwrap();
    report.push(evaluate(&mut *evaluator, Values::F32(&z), &[0.5; 2], Some(&[0])).unwrap_err());
    report.push(evaluate(&mut *evaluator, Values::F32(&z), &[0.5; 2], Some(&[0, 4])).unwrap_err());
    report.push(evaluate(&mut *evaluator, Values::F32(&z), &[0.5; 2], Some(&[-1, 0])).unwrap_err());
    let report: Vec<String> = report.iter().map(|e| format!("{e:?}")).collect();
    insta::assert_snapshot!(report.join("\n"), @"
    [ShapeMismatch] state: expected 1 samples of 96 values, got 192 values
    [InvalidArgument] the model in memory takes no labels
    [ShapeMismatch] output: expected 2 samples of 96 values, got 96 values
    [ShapeMismatch] output: expected float32 values, got float64 values
    [ShapeMismatch] labels: expected 2, got 1
    [InvalidArgument] label 4: the model in memory has classes 0 to 2, and 3 for none
    [InvalidArgument] label -1: the model in memory has classes 0 to 2, and 3 for none
    ");

    // No samples are no error, and nothing to do.
    assert_eq!(evaluate(&mut *evaluator, Values::F32(&[]), &[], None).unwrap(), Vec::<f32>::new());
}

/// A network that gives its state as [`dims`], which nothing can know before it runs.
fn reshaped(dims: &[i64]) -> Box<dyn Evaluator> {
    let affine = Affine { state: vec![2, 4], ..Default::default() };
    let mut g = Graph::new("reshaped");
    let z = g.input("z", ElementType::F32, &[Dim::from("N"), Dim::from(2), Dim::from(4)]);
    let t = g.input("t", ElementType::F32, &[Dim::from("N")]);
    let zero = g.mul(t, 0.0);
    let zero = g.reduce_sum(zero, &[0], false);
    let zero = g.cast(zero, ElementType::I64);
    let dims = g.constant(&[dims.len()], dims);
    let dims = g.add(dims, zero);
    let eps = g.node("Reshape", &[z, dims], &[]);
    g.output("eps", eps, &[Dim::Unknown, Dim::Unknown, Dim::Unknown]);
    let mut model = g.finish().unwrap();
    model.set_metadata("psld.spec", &affine.spec());
    load(&model, &OnnxOptions::default()).unwrap().evaluator().unwrap()
}

#[test]
fn an_output_of_another_shape_than_it_should_have() {
    // As many values in another order would be garbage that nothing else notices.
    let mut evaluator = reshaped(&[-1, 4, 2]);
    let error = evaluate(&mut *evaluator, Values::F32(&[0.0; 24]), &[0.5; 3], None).unwrap_err();
    insta::assert_snapshot!(format!("{error:?}"), @"[ModelMismatch] the model in memory: output `eps`: expected [3,2,4], the network made [3, 4, 2]");
}

#[test]
fn a_failure_while_running() {
    let mut evaluator = reshaped(&[3, 2, 4]);
    let z = [1.0; 32];
    for _ in 0..2 {
        evaluate(&mut *evaluator, Values::F32(&z[..24]), &[0.5; 3], None).unwrap();
    }
    let error = evaluate(&mut *evaluator, Values::F32(&z), &[0.5; 4], None).unwrap_err();
    assert_eq!(error.status(), Status::RuntimeFailure);
    assert!(error.to_string().contains("Reshape"), "{error}");
    // And it is usable afterwards.
    evaluate(&mut *evaluator, Values::F32(&z[..24]), &[0.5; 3], None).unwrap();
}

#[test]
fn a_reference_model_as_python_runs_it() {
    // Made by data/onnxruntime/make.py with the onnxruntime package of the same version.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/onnxruntime");
    let read = |name: &str| -> Vec<f32> {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        npyz::NpyFile::new(&bytes[..]).unwrap().into_vec().unwrap()
    };
    let (z, eps) = (read("z.npy"), read("eps.npy"));
    let model = folder.join("model.onnx");
    let network = OnnxNetwork::from_file(runtime(), &model, &OnnxOptions::default()).unwrap();
    assert_eq!(network.spec().data.shape, [3, 4, 4]);
    let t = [1.0, 0.5, 0.1, 0.001];
    let got = evaluate(&mut *network.evaluator().unwrap(), Values::F32(&z), &t, None).unwrap();
    for (got, eps) in got.iter().zip(&eps) {
        assert!((got - eps).abs() <= 1e-6 * eps.abs().max(1.0), "{got} {eps}");
    }
}
