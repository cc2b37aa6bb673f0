//! Linear restoration against exact posteriors: of Gaussian data all of it, of mixtures as far as the method is exact.

mod support;

use ndarray::ArrayD;
use psld::array::Tensor;
use psld::restoration::measure;
use psld::run::{Checkpoint, Measurement, Sampling};
use psld::spec::{Conditioning, Operator, Restoration, What};
use psld::{ModelSpec, Run, RunOptions, Sampler, Status};
use serde_json::{Value, json};
use std::sync::Arc;
use support::*;

const SHAPE: [usize; 3] = [1, 4, 4];
const D: usize = 16;
const STD: f64 = 0.6;

fn restorer(spec: &ModelSpec, o: Value, restoration: &Restoration) -> Arc<Sampler> {
    Arc::new(Sampler::compile(spec, &options(o), restoration.clone()).unwrap())
}

fn restoration(operator: Operator, noise: f64) -> Restoration {
    Restoration { noise, data_std: Some(STD), ..operator.into() }
}

fn operators() -> [Operator; 4] {
    let kernel = vec![vec![0.1, 0.2, 0.1], vec![0.2, 0.9, 0.2], vec![0.0, 0.2, 0.1]];
    [
        Operator::Average { factor: 2 },
        Operator::Blur { std: 0.8 },
        Operator::Convolve { kernel },
        Operator::Mask,
    ]
}

/// The mask that the tests use: every third element is not measured.
fn mask() -> Vec<f64> {
    (0..D).map(|i| f64::from(i % 3 != 1)).collect()
}

fn measured(restoration: &Restoration, shape: &[usize], y: &[f64]) -> Measurement {
    let masked = restoration.operator == Operator::Mask;
    Measurement { values: tensor(shape, y), mask: masked.then(|| tensor(&[1, 1, 4, 4], &mask())) }
}

/// What the operator makes of images [n, D], without noise.
fn apply(spec: &ModelSpec, operator: &Operator, images: &[f64]) -> ArrayD<f32> {
    let shape = [&[images.len() / D][..], &SHAPE].concat();
    let made = measure(&operator.clone().into(), &spec.data, tensor(&shape, images), 0).unwrap();
    match operator {
        Operator::Mask => {
            let mask = mask();
            let mut y = made;
            y.iter_mut().enumerate().for_each(|(i, y)| *y *= mask[i % D] as f32);
            y
        }
        _ => made,
    }
}

/// H as a matrix: its columns.
fn columns(spec: &ModelSpec, operator: &Operator) -> Vec<Vec<f64>> {
    let identity: Vec<f64> = (0..D * D).map(|i| f64::from(i / D == i % D)).collect();
    let made = apply(spec, operator, &identity);
    let values: Vec<f64> = made.iter().map(|x| f64::from(*x)).collect();
    values.chunks(values.len() / D).map(<[f64]>::to_vec).collect()
}

/// The inverse of a symmetric positive matrix.
fn inverse(mut a: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let n = a.len();
    a.iter_mut().enumerate().for_each(|(i, row)| row.extend((0..n).map(|j| f64::from(i == j))));
    for pivot in 0..n {
        let scale = 1.0 / a[pivot][pivot];
        a[pivot].iter_mut().for_each(|x| *x *= scale);
        let row = a[pivot].clone();
        for (_, other) in a.iter_mut().enumerate().filter(|(i, _)| *i != pivot) {
            let factor = other[pivot];
            other.iter_mut().zip(&row).for_each(|(x, y)| *x -= factor * y);
        }
    }
    a.iter().map(|row| row[n..].to_vec()).collect()
}

/// Mean and covariance of N(mean, STD^2) given y = H x + noise.
fn posterior(columns: &[Vec<f64>], noise: f64, mean: &[f64], y: &[f64]) -> (Vec<f64>, Vec<Vec<f64>>) {
    // The precision's inverse, with enough noise to have one.
    let (weight, prior) = (1.0 / (noise * noise), 1.0 / (STD * STD));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let precision =
        |i: usize, j: usize| weight * dot(&columns[i], &columns[j]) + if i == j { prior } else { 0.0 };
    let covariance = inverse((0..D).map(|i| (0..D).map(|j| precision(i, j)).collect()).collect());
    let known: Vec<f64> = (0..D).map(|i| weight * dot(&columns[i], y) + prior * mean[i]).collect();
    (covariance.iter().map(|row| dot(row, &known)).collect(), covariance)
}

/// For Gaussian data of the stated variance the samples have the posterior's law, whatever the operator, its noise, the process,
/// the prediction and the sampler.
#[test]
fn gaussian_posteriors_are_exact() {
    let mean: Vec<f64> = (0..D).map(|i| (i as f64 * 0.9).sin() * 0.5).collect();
    let mixture = mixture(&[1.0], &[&mean], &[STD * STD]);
    let truth: Vec<f64> = (0..D).map(|i| mean[i] + STD * (i as f64 * 2.3).cos()).collect();
    let n = 3000;
    let cases = [
        (psld(), json!({}), "dpmpp order=2"),
        (psld(), json!({ "prediction": "score" }), "sde_dpmpp"),
        (json!({ "kind": "cld" }), json!({ "predicts": "momentum" }), "unipc"),
        (json!({ "kind": "vp" }), json!({ "prediction": "v" }), "ancestral"),
    ];
    for (operator, (process, network, name)) in operators().iter().zip(cases) {
        for noise in [0.0, 0.25] {
            if noise == 0.0 && matches!(operator, Operator::Blur { .. }) {
                continue;
            }
            let spec = spec(process.clone(), network.clone(), &SHAPE);
            let columns = columns(&spec, operator);
            let y: Vec<f64> =
                apply(&spec, operator, &truth).iter().map(|y| f64::from(*y) + 0.3 * noise).collect();
            let (expected, covariance) = posterior(&columns, noise.max(1e-4), &mean, &y);
            let how = restoration(operator.clone(), noise);
            let steps = if name == "ancestral" { 300 } else { 80 };
            let sampler =
                restorer(&spec, with(named(name), json!({ "steps": steps, "time_grid": "order2" })), &how);
            let mut shape = sampler.measurement_shape().unwrap();
            shape.insert(0, 1);
            let options = RunOptions { measurement: Some(measured(&how, &shape, &y)), ..f64_run(n) };
            let (z, _) = finish(&model(&spec, &mixture), &sampler, options);
            let k = z.len() / n / D;
            let x: Vec<&[f64]> = z.chunks(k * D).map(|z| &z[..D]).collect();
            let got: Vec<f64> = (0..D).map(|i| x.iter().map(|x| x[i]).sum::<f64>() / n as f64).collect();
            let mut worst: (f64, f64) = (0.0, 0.0);
            for i in 0..D {
                // Standard errors, with room for the sampler's own error.
                let error = (covariance[i][i] / n as f64).sqrt();
                worst.0 = worst.0.max((got[i] - expected[i]).abs() - 4.0 * error);
                for j in 0..D {
                    let c = x.iter().map(|x| (x[i] - got[i]) * (x[j] - got[j])).sum::<f64>() / n as f64;
                    let spread = covariance[i][i] * covariance[j][j] + covariance[i][j] * covariance[i][j];
                    worst.1 = worst.1.max((c - covariance[i][j]).abs() - 4.0 * (spread / n as f64).sqrt());
                }
            }
            println!(
                "{operator:?}, noise {noise}, {name}: mean off by {:.4}, covariance by {:.4}",
                worst.0, worst.1
            );
            assert!(worst.0 < 3e-3 && worst.1 < 3e-3, "{operator:?}, noise {noise}, {name}: {worst:?}");
        }
    }
}

/// Of a mixture the posterior is a mixture again. What is measured is met, and where it tells one component from the other most
/// samples are of the right one; but not all: the network weighs components by what it sees of the state, not by y, as with every
/// method that does without the network's derivatives.
#[test]
fn posteriors_of_mixtures() {
    let spec = spec(psld(), json!({}), &[2]);
    let (means, std, noise) = ([[-1.0, -0.8], [1.0, 0.8]], 0.3, 0.2);
    let model = model(&spec, &mixture(&[0.5, 0.5], &[&means[0], &means[1]], &[std * std; 2]));
    // The deviation of the first coordinate over both components.
    let how = Restoration { noise, data_std: Some(1.04), ..Operator::Mask.into() };
    let sampler = restorer(&spec, json!({ "sampler": "sscs", "steps": 150 }), &how);
    let n = 3000;
    for (y, own) in [(-1.1, 0), (0.9, 1)] {
        // In the component that y tells: gain of the first coordinate, and the second as it was.
        let gain = std * std / (std * std + noise * noise);
        let expected = means[own][0] + gain * (y - means[own][0]);
        let values = tensor(&[1, 2], &[y, f64::NAN]);
        let measurement = Measurement { values, mask: Some(tensor(&[1, 2], &[1.0, 0.0])) };
        let (z, _) = finish(&model, &sampler, RunOptions { measurement: Some(measurement), ..f64_run(n) });
        let right: Vec<&[f64]> = z.chunks(4).filter(|z| z[1] * means[own][1] > 0.0).collect();
        let moments = |coordinate: usize| {
            let mean = right.iter().map(|z| z[coordinate]).sum::<f64>() / right.len() as f64;
            let squares = right.iter().map(|z| (z[coordinate] - mean).powi(2)).sum::<f64>();
            (mean, squares / right.len() as f64)
        };
        let share = right.len() as f64 / n as f64;
        let (first, second) = (moments(0), moments(1));
        println!(
            "y = {y}: {share:.3} of the right component; {first:.3?} of {expected:.3}, {:.3}; {second:.3?}",
            gain * noise * noise
        );
        assert!(share > 0.85, "{share}");
        assert!(
            (first.0 - expected).abs() < 0.03 && (first.1 - gain * noise * noise).abs() < 0.01,
            "{first:?}"
        );
        assert!((second.0 - means[own][1]).abs() < 0.1 && (second.1 - std * std).abs() < 0.03, "{second:?}");
    }
}

/// Without noise samples give the measurement, by every sampler, and with guidance rows between; with noise they stay off it.
#[test]
fn samples_give_the_measurement() {
    let mixture = mixture(&[0.4, 0.6], &[&[0.5; D], &[-0.3; D]], &[0.2, 0.1]);
    for process in [psld(), json!({ "kind": "vp" }), third_order(4.0)] {
        let spec = spec(process, json!({}), &SHAPE);
        let model = model(&spec, &mixture);
        for (i, name) in planned(&spec).into_iter().enumerate() {
            let how = restoration(operators()[[0, 2, 3][i % 3]].clone(), 0.0);
            let truth: Vec<f64> = (0..D).map(|i| (i as f64).cos()).collect();
            let y: Vec<f64> = apply(&spec, &how.operator, &truth).iter().map(|y| f64::from(*y)).collect();
            let sampler = restorer(&spec, json!({ "sampler": name, "steps": 8 }), &how);
            let shape = [&[1][..], &sampler.measurement_shape().unwrap()].concat();
            let options = RunOptions { measurement: Some(measured(&how, &shape, &y)), ..f64_run(2) };
            let (z, progress) = finish(&model, &sampler, options);
            for z in z.chunks(z.len() / 2) {
                let got = apply(&spec, &how.operator, &z[..D]);
                let got: Vec<f64> = got.iter().map(|y| f64::from(*y)).collect();
                assert_close(&got, &y, 1e-6, name);
            }
            assert_eq!(progress.nfe, sampler.plan().unwrap().nfe, "{name}");
        }
    }
}

fn given(sampler: &Sampler, n: usize, y: &[f64]) -> RunOptions {
    let shape = [&[n][..], &sampler.measurement_shape().unwrap()].concat();
    RunOptions {
        measurement: Some(Measurement { values: tensor(&shape, y), mask: None }),
        seed: 3,
        ..f64_run(n)
    }
}

/// A sample depends on its own measurement only: not on its neighbours, chunks, gathering, saving or loading. Data estimates on
/// the way give the measurement, too.
#[test]
fn each_sample_has_its_own_measurement() {
    let spec = spec(psld(), json!({}), &SHAPE);
    let model = model(&spec, &mixture(&[0.4, 0.6], &[&[0.5; D], &[-0.3; D]], &[0.2, 0.1]));
    let how = Restoration { resample: 2, ..restoration(Operator::Average { factor: 2 }, 0.0) };
    let sampler = restorer(&spec, json!({ "sampler": "ancestral", "steps": 6 }), &how);
    let y: Vec<f64> = (0..12).map(|i| f64::from(i) * 0.1 - 0.5).collect();
    let whole = given(&sampler, 3, &y);
    let (all, progress) = finish(&model, &sampler, whole.clone());
    assert_eq!(progress.nfe, 6 * 2 + 1);
    for i in 0..3 {
        let alone = RunOptions { seed: 3 + i as u64, ..given(&sampler, 1, &y[i * 4..][..4]) };
        let (z, _) = finish(&model, &sampler, alone);
        assert_same(&z, &all[i * 2 * D..][..2 * D], "alone");
    }
    let shared = RunOptions { measurement: given(&sampler, 1, &y[..4]).measurement, ..whole.clone() };
    assert_same(&finish(&model, &sampler, shared).0[..2 * D], &all[..2 * D], "one for all");

    // In chunks, interrupted and resumed.
    let chunks = RunOptions { batch: Some(2), ..whole.clone() };
    let mut out = vec![0.0_f64; 3 * 2 * D];
    let mut sampling = Sampling::new(&model, &sampler, &chunks, What::State).unwrap();
    for _ in 0..4 {
        sampling.step(&mut out).unwrap();
    }
    let saved = Checkpoint::read(&sampling.save(&out).unwrap()).unwrap();
    drop(sampling);
    assert_eq!(saved.conditioning(), &Conditioning::from(how.clone()));
    let mut out = vec![0.0_f64; 3 * 2 * D];
    let resumed = saved.options().clone();
    let mut sampling = saved.resume(&model, &sampler, &resumed, &mut out).unwrap();
    while !sampling.done() {
        sampling.step(&mut out).unwrap();
    }
    assert_same(&out, &all, "resumed");

    // Reordered in flight, and saved after that.
    let mut run = Run::start(&model, &sampler, RunOptions { previews: true, ..whole }).unwrap();
    run.step(3).unwrap();
    run.gather(&[2, 0], None).unwrap();
    let mut run = Run::load(&model, &sampler, &run.save().unwrap()).unwrap();
    let mut x0 = vec![0.0_f64; 2 * D];
    run.step(1).unwrap();
    run.read(What::X0, &mut x0).unwrap();
    let estimates: Vec<f64> = apply(&spec, &how.operator, &x0).iter().map(|y| f64::from(*y)).collect();
    assert_close(&estimates, &[&y[8..], &y[..4]].concat(), 1e-6, "estimates");
    run.step(usize::MAX).unwrap();
    let gathered = read(&run, What::State);
    assert_same(&gathered[..2 * D], &all[2 * 2 * D..], "gathered");
    assert_same(&gathered[2 * D..], &all[..2 * D], "gathered");
}

/// Masks of the samples' own are saved, gathered and cut into chunks with them.
#[test]
fn each_sample_has_its_own_mask() {
    let spec = spec(psld(), json!({}), &SHAPE);
    let model = model(&spec, &mixture(&[0.4, 0.6], &[&[0.5; D], &[-0.3; D]], &[0.2, 0.1]));
    let sampler =
        restorer(&spec, json!({ "sampler": "dpmpp", "steps": 6 }), &restoration(Operator::Mask, 0.1));
    let mask: Vec<f64> = (0..3 * D).map(|i| f64::from(i % 5 < 1 + i / D)).collect();
    let y: Vec<f64> = (0..3 * D).map(|i| if mask[i] == 1.0 { (i as f64).sin() } else { f64::NAN }).collect();
    let own = |range: std::ops::Range<usize>| {
        let shape = [range.len(), 1, 4, 4];
        let part = |values: &[f64]| tensor(&shape, &values[range.start * D..range.end * D]);
        let measurement = Some(Measurement { values: part(&y), mask: Some(part(&mask)) });
        RunOptions { measurement, seed: range.start as u64, ..f64_run(range.len()) }
    };
    let (all, _) = finish(&model, &sampler, own(0..3));
    for i in 0..3 {
        assert_same(&finish(&model, &sampler, own(i..i + 1)).0, &all[i * 2 * D..][..2 * D], "alone");
    }
    let mut run = Run::start(&model, &sampler, own(0..3)).unwrap();
    run.step(2).unwrap();
    run.gather(&[2, 1], None).unwrap();
    let mut run = Run::load(&model, &sampler, &run.save().unwrap()).unwrap();
    run.step(usize::MAX).unwrap();
    let gathered = [&all[4 * D..], &all[2 * D..4 * D]].concat();
    assert_same(&read(&run, What::State), &gathered, "gathered");

    let chunks = RunOptions { batch: Some(2), ..own(0..3) };
    let mut out = vec![0.0_f64; 3 * 2 * D];
    let mut sampling = Sampling::new(&model, &sampler, &chunks, What::State).unwrap();
    sampling.step(&mut out).unwrap();
    let saved = Checkpoint::read(&sampling.save(&out).unwrap()).unwrap();
    let resumed = saved.options().clone();
    let mut sampling = saved.resume(&model, &sampler, &resumed, &mut out).unwrap();
    while !sampling.done() {
        sampling.step(&mut out).unwrap();
    }
    assert_same(&out, &all, "resumed");
}

/// A plan says by itself what is restored.
#[test]
fn plans_restore() {
    let spec = spec(psld(), json!({}), &SHAPE);
    let model = model(&spec, &mixture(&[1.0], &[&[0.5; D]], &[0.2]));
    let how = restoration(Operator::Convolve { kernel: vec![vec![0.8, 0.3]] }, 0.1);
    let sampler = restorer(&spec, json!({ "sampler": "dpmpp", "steps": 5 }), &how);
    let text = sampler.plan().unwrap().to_json();
    let plan = psld::plan::Plan::parse(&text).unwrap();
    assert!(plan.explain().contains("what y moves"));
    let read = Arc::new(Sampler::from_plan(&spec, plan).unwrap());
    let y = [0.25; D];
    let one = finish(&model, &sampler, given(&sampler, 1, &y)).0;
    assert_same(&finish(&model, &read, given(&read, 1, &y)).0, &one, "a plan that was read");
    let config = psld::config::Config {
        plan: Some("nowhere.json".into()),
        restore: Some(psld::config::RestoreFiles { operator: Some(Operator::Mask), ..Default::default() }),
        ..Default::default()
    };
    let error = Sampler::from_config(&spec, &config).unwrap_err();
    assert!(error.message().contains("excludes the option `restore operator`"), "{error}");
    let edits = [
        (r#""noise":0.1"#, r#""noise":-0.1"#, "noise = -0.1"),
        (r#""kernel":[[0.8,0.3]]"#, r#""kernel":[[0.8,0.3,1,1,1]]"#, "at most 4 x 4"),
        (r#""kind":"restore""#, r#""kind":"consistent""#, "without noise"),
        (r#","variance":"#, r#","variance":-"#, "variance"),
        (
            r#""restore":{"operator":{"kind":"convolve","kernel":[[0.8,0.3]]},"noise":0.1,"data_std":0.6},"#,
            "",
            "no `restore`",
        ),
    ];
    for (from, to, what) in edits {
        assert!(text.contains(from), "{from}");
        let error = psld::plan::Plan::parse(&text.replacen(from, to, 1))
            .and_then(|plan| Sampler::from_plan(&spec, plan))
            .unwrap_err();
        assert!(error.to_string().contains(what), "{to}: {error}");
    }
}

#[test]
fn what_is_refused() {
    let spec = spec(psld(), json!({}), &SHAPE);
    let model = model(&spec, &mixture(&[1.0], &[&[0.5; D]], &[0.2]));
    let compile = |o: Value, how: Conditioning| Sampler::compile(&spec, &options(o), how).unwrap_err();
    let average = || Restoration::from(Operator::Average { factor: 2 });
    let both = Conditioning { inpaint: Some(Default::default()), ..average().into() };
    for (o, how, status, what) in [
        (json!({ "sampler": "rk45" }), average().into(), Status::Unsupported, "fixed steps"),
        (json!({ "encode": true }), average().into(), Status::Unsupported, "nothing to complete"),
        (json!({}), both, Status::InvalidArgument, "exclude each other"),
        (json!({}), Restoration { resample: 0, ..average() }.into(), Status::InvalidArgument, "resample = 0"),
        (
            json!({}),
            Restoration { data_std: Some(0.0), ..average() }.into(),
            Status::InvalidArgument,
            "data_std",
        ),
        (json!({}), Restoration { noise: f64::NAN, ..average() }.into(), Status::InvalidArgument, "noise"),
        (
            json!({}),
            Restoration::from(Operator::Average { factor: 3 }).into(),
            Status::InvalidArgument,
            "divisor",
        ),
        (
            json!({ "sampler": "unipc" }),
            Restoration { resample: 2, ..average() }.into(),
            Status::Unsupported,
            "makes its steps of earlier ones",
        ),
    ]
    .map(|(o, how, status, what): (Value, Conditioning, Status, &str)| (o, how, status, what))
    {
        let error = compile(o, how);
        assert_eq!(error.status(), status, "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }

    let of = |how: Restoration| restorer(&spec, json!({ "steps": 3 }), &how);
    let (plain, averaged) = (sampler(&spec, json!({ "steps": 3 })), of(average()));
    let masked = of(Operator::Mask.into());
    let (y, image) = (tensor(&[1, 1, 2, 2], &[0.1; 4]), tensor(&[1, 1, 4, 4], &[0.1; D]));
    let half = tensor(&[1, 1, 4, 4], &[0.5; D]);
    let (missing, known) =
        (tensor(&[1, 1, 4, 4], &[f64::NAN; D]), tensor(&[2, 1, 4, 4], &[[0.0; D], [1.0; D]].concat()));
    let of_arrays = |values: &Tensor, mask: Option<&Tensor>| {
        Some(Measurement { values: values.clone(), mask: mask.cloned() })
    };
    for (sampler, measurement, status, what) in [
        (&plain, of_arrays(&y, None), Status::InvalidArgument, "not compiled for restoration"),
        (&averaged, None, Status::InvalidArgument, "needs what was measured"),
        (&averaged, of_arrays(&image, None), Status::ShapeMismatch, "[2 or 1, 1, 2, 2]"),
        (
            &averaged,
            of_arrays(&tensor(&[3, 1, 2, 2], &[0.0; 12]), None),
            Status::ShapeMismatch,
            "[2 or 1, 1, 2, 2]",
        ),
        (
            &averaged,
            of_arrays(&tensor(&[1, 1, 2, 2], &[f64::NAN; 4]), None),
            Status::InvalidArgument,
            "not finite",
        ),
        (&averaged, of_arrays(&y, Some(&image)), Status::InvalidArgument, "`mask` only"),
        (&masked, of_arrays(&image, None), Status::InvalidArgument, "needs one"),
        (
            &masked,
            of_arrays(&missing, Some(&known)),
            Status::InvalidArgument,
            "not finite where the mask is 1",
        ),
        (&masked, of_arrays(&image, Some(&half)), Status::InvalidArgument, "0 (not measured) or 1"),
        (&masked, of_arrays(&image, Some(&y)), Status::ShapeMismatch, "measurement mask"),
    ] {
        let error = Run::start(&model, sampler, RunOptions { measurement, ..f64_run(2) }).err().unwrap();
        assert_eq!(error.status(), status, "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
    let wrong = measure(&average(), &spec.data, tensor(&[1, 1, 2, 2], &[0.1; 4]), 0).unwrap_err();
    assert_eq!(wrong.status(), Status::ShapeMismatch);
    let wrong = measure(&average(), &spec.data, missing, 0).unwrap_err();
    assert_eq!(wrong.message(), "images: a value is not finite");
}

/// Noise of a measurement has the stated deviation, and its own seed for each image.
#[test]
fn measurements_have_their_noise() {
    let spec = spec(psld(), json!({}), &SHAPE);
    let how = restoration(Operator::Average { factor: 2 }, 0.3);
    let measure = |n: usize, seed: u64| -> Vec<f32> {
        let images = tensor(&[n, 1, 4, 4], &vec![0.25; n * D]);
        measure(&how, &spec.data, images, seed).unwrap().into_raw_vec_and_offset().0
    };
    let y = measure(2000, 5);
    let mean = y.iter().sum::<f32>() / y.len() as f32;
    let std = (y.iter().map(|y| (y - mean) * (y - mean)).sum::<f32>() / y.len() as f32).sqrt();
    assert!((mean - 0.25).abs() < 0.015 && (std - 0.3).abs() < 0.01, "{mean} {std}");
    assert_eq!(measure(1, 7), y[2 * 4..3 * 4]);
}
