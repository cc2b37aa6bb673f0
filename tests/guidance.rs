//! Guidance against networks that are guided themselves: a network that computes the guided output of one class needs
//! no guidance, and must give the same samples by every sampler.

mod support;

use psld::array::{Precision, Values, ValuesMut};
use psld::network::analytic::{Mixture, MixtureNetwork};
use psld::network::{Backend, Evaluator, Inputs, Network};
use psld::plan::Plan;
use psld::run::{Cancel, Inpaint};
use psld::spec::{Conditioning, Guidance, GuidanceKind, InpaintMethod, What};
use psld::{Error, Model, ModelSpec, Result, Run, RunOptions, Sampler, Status};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::*;

/// Every sampler that is defined for the process.
fn samplers(spec: &ModelSpec) -> Vec<&'static str> {
    let mut all = planned(spec);
    all.push("rk45");
    all
}

fn few_steps(name: &str) -> Value {
    match name {
        "rk45" => json!({ "sampler": name, "rtol": 1e-3, "atol": 1e-3 }),
        _ => json!({ "sampler": name, "steps": 6 }),
    }
}

/// The plane's mixture with a class for each component.
fn classes() -> Mixture {
    Mixture { labels: vec![0, 1, 2], ..plane() }
}

/// A spec of `network` for data in the plane, and the same with classes.
fn specs(process: Value, network: Value) -> (ModelSpec, ModelSpec) {
    let mut labelled = network.clone();
    (labelled["label_input"], labelled["classes"]) = (json!("y"), json!(3));
    (spec(process.clone(), network, &[2]), spec(process, labelled, &[2]))
}

/// The exact classifier of [`classes`] on a process.
fn classifier(process: Value) -> Model {
    let spec = spec(process, json!({ "output": "grad", "label_input": "y", "classes": 3 }), &[2]);
    model(&spec, &classes())
}

fn guided(spec: &ModelSpec, options: Value, guidance: impl Into<Guidance>) -> Arc<Sampler> {
    Arc::new(Sampler::compile(spec, &support::options(options), guidance.into()).unwrap())
}

fn run(n: usize, label: i64, scale: f64) -> RunOptions {
    RunOptions { labels: Some(vec![label]), scales: Some(vec![scale]), ..f64_run(n) }
}

/// Own output, guide's output and time to the output of one sample.
type Combine = dyn Fn(&[f64], &[f64], f64) -> Vec<f64> + Send + Sync;

/// What a guided network of class `label` gives, computed by itself.
struct Combined {
    spec: ModelSpec,
    own: MixtureNetwork,
    other: MixtureNetwork,
    label: i64,
    combine: Arc<Combine>,
}

impl Network for Combined {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }
    fn backend(&self) -> Backend {
        self.own.backend()
    }
    fn output_precision(&self, state: Precision) -> Precision {
        state
    }
    fn hash(&self) -> Result<String> {
        self.own.hash()
    }
    fn evaluator(&self) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(CombinedEvaluator {
            own: self.own.evaluator()?,
            other: self.other.evaluator()?,
            label: self.label,
            combine: self.combine.clone(),
        }))
    }
}

struct CombinedEvaluator {
    own: Box<dyn Evaluator>,
    other: Box<dyn Evaluator>,
    label: i64,
    combine: Arc<Combine>,
}

impl Evaluator for CombinedEvaluator {
    fn evaluate(&mut self, inputs: Inputs<'_>, out: ValuesMut<'_>) -> Result<()> {
        let ValuesMut::F64(out) = out else { panic!("in double precision") };
        let n = inputs.t.len();
        let (mut own, mut other) = (vec![0.0; out.len()], vec![0.0; out.len()]);
        let labels = vec![self.label; n];
        self.own.evaluate(Inputs { labels: Some(&labels), ..inputs }, ValuesMut::F64(&mut own))?;
        self.other.evaluate(Inputs { labels: None, ..inputs }, ValuesMut::F64(&mut other))?;
        let len = out.len() / n;
        for i in 0..n {
            let at = i * len..(i + 1) * len;
            out[at.clone()].copy_from_slice(&(self.combine)(&own[at.clone()], &other[at], inputs.t[i]));
        }
        Ok(())
    }
}

/// The model that is guided by itself.
fn combined(
    plain: &ModelSpec,
    labelled: &ModelSpec,
    other: &Mixture,
    label: i64,
    combine: impl Fn(&[f64], &[f64], f64) -> Vec<f64> + Send + Sync + 'static,
) -> Model {
    let network = Combined {
        spec: plain.clone(),
        own: MixtureNetwork::new(labelled.clone(), classes()).unwrap(),
        other: MixtureNetwork::new(plain.clone(), other.clone()).unwrap(),
        label,
        combine: Arc::new(combine),
    };
    Model::new(Arc::new(network), 1).unwrap()
}

fn extrapolate(w: f64) -> impl Fn(&[f64], &[f64], f64) -> Vec<f64> + Copy {
    move |own, other, _| own.iter().zip(other).map(|(a, b)| (1.0 + w) * a - w * b).collect()
}

/// With every sampler and whatever the network predicts.
#[test]
fn classifier_free_guidance() {
    let networks = [json!({}), json!({ "prediction": "x0" }), json!({ "prediction": "score" })];
    for process in [psld(), json!({ "kind": "cld" }), json!({ "kind": "vp" })] {
        for network in &networks {
            let (plain, labelled) = specs(process.clone(), network.clone());
            let model = model(&labelled, &classes());
            let w = 1.75;
            let reference = combined(&plain, &labelled, &plane(), 1, extrapolate(w));
            for name in samplers(&plain) {
                let what = format!("{name}, {process}, {network}");
                let (expected, end) = finish(&reference, &sampler(&plain, few_steps(name)), f64_run(3));
                let sampler = guided(&labelled, few_steps(name), GuidanceKind::Cfg);
                let (z, progress) = finish(&model, &sampler, run(3, 1, w));
                assert_close(&z, &expected, 1e-9, &what);
                assert_eq!(progress.nfe, 2 * end.nfe, "{what}: both evaluations count");
                if let Some(plan) = sampler.plan() {
                    assert_eq!(plan.nfe, progress.nfe, "{what}");
                }
            }
        }
    }
}

/// Without a scale there is no second call, and not a bit changes.
#[test]
fn scale_zero_is_the_conditional_sampler() {
    let (_, labelled) = specs(psld(), json!({}));
    let model = model(&labelled, &classes());
    for name in samplers(&labelled) {
        let plain = sampler(&labelled, few_steps(name));
        let (expected, end) = finish(&model, &plain, RunOptions { labels: Some(vec![2]), ..f64_run(3) });
        let cfg = guided(&labelled, few_steps(name), GuidanceKind::Cfg);
        let (z, progress) = finish(&model, &cfg, run(3, 2, 0.0));
        assert_same(&z, &expected, name);
        assert_eq!(progress.nfe, end.nfe, "{name}");
    }
}

/// By Bayes' rule: the exact classifier at scale 1 makes the unconditional network the conditional one, whatever it
/// predicts.
#[test]
fn a_classifier_at_scale_one_is_exact() {
    let processes = [
        psld(),
        json!({ "kind": "psld", "decomposition": "upper", "gamma": 0.25, "nu": 4.25 }),
        json!({ "kind": "psld", "score_matching": "dsm" }),
        json!({ "kind": "cld" }),
        json!({ "kind": "vp" }),
        third_order(4.0),
    ];
    let networks = [
        json!({ "predicts": "all" }),
        json!({ "predicts": "momentum" }),
        json!({ "predicts": "position" }),
        json!({ "prediction": "score", "predicts": "all" }),
        json!({ "prediction": "x0" }),
        json!({ "prediction": "v" }),
    ];
    for process in &processes {
        let guide = classifier(process.clone());
        for network in &networks {
            let text =
                json!({ "format": 1, "process": process, "data": { "shape": [2] }, "network": network });
            // Halves are for k = 2, v for k = 1.
            let Ok(plain) = ModelSpec::parse(&text.to_string()) else { continue };
            let (_, labelled) = specs(process.clone(), network.clone());
            for name in samplers(&plain) {
                let options = |json: Value| {
                    let mut json = json;
                    json["t_end"] = json!(0.05);
                    json
                };
                let what = format!("{name}, {process}, {network}");
                let conditional = sampler(&labelled, options(few_steps(name)));
                let own = RunOptions { labels: Some(vec![1]), previews: true, ..f64_run(2) };
                let mut expected = Run::start(&model(&labelled, &classes()), &conditional, own).unwrap();
                let guided = guided(&plain, options(few_steps(name)), GuidanceKind::Classifier);
                let by_guide = RunOptions { guide: Some(guide.clone()), previews: true, ..run(2, 1, 1.0) };
                let mut run = Run::start(&model(&plain, &plane()), &guided, by_guide).unwrap();
                let end = (expected.step(usize::MAX).unwrap(), run.step(usize::MAX).unwrap());
                assert_eq!(end.1.nfe, 2 * end.0.nfe, "{what}");
                for part in [What::State, What::X0] {
                    let expected = read(&expected, part);
                    // Third-order paths at six steps are far outside of where they are accurate.
                    let scale = expected.iter().fold(1.0_f64, |scale, x| scale.max(x.abs()));
                    assert_close(&read(&run, part), &expected, 1e-8 * scale, &what);
                }
            }
        }
    }
}

/// Means and variances of the classes of the wide mixture, from an unconditional network and its classifier, and from
/// the class-conditional network.
#[test]
fn class_means_and_variances() {
    let mixture = Mixture { labels: vec![0, 1, 2], ..golden_mixture() };
    let plain = spec(psld(), json!({}), &[1]);
    let labelled = spec(psld(), json!({ "label_input": "y", "classes": 3 }), &[1]);
    let gradient = spec(psld(), json!({ "output": "grad", "label_input": "y", "classes": 3 }), &[1]);
    let options = json!({ "sampler": "sscs", "steps": 150 });
    let n = 1500;
    let labels: Vec<i64> = (0..n as i64).map(|i| i % 3).collect();
    let by_classifier = RunOptions {
        labels: Some(labels.clone()),
        scales: Some(vec![1.0]),
        guide: Some(model(&gradient, &mixture)),
        ..f64_run(n)
    };
    let by_label = RunOptions { labels: Some(labels), ..f64_run(n) };
    let runs = [
        finish(
            &model(&plain, &golden_mixture()),
            &guided(&plain, options.clone(), GuidanceKind::Classifier),
            by_classifier,
        )
        .0,
        finish(&model(&labelled, &mixture), &sampler(&labelled, options), by_label).0,
    ];
    for z in runs {
        for class in 0..3 {
            let x: Vec<f64> = z.chunks(2).skip(class).step_by(3).map(|z| z[0]).collect();
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / x.len() as f64;
            let (mu, v) = (golden_mixture().means[class][0], golden_mixture().variances[class]);
            // Four standard errors of 500 samples.
            assert!((mean - mu).abs() < 4.0 * (v / 500.0).sqrt(), "class {class}: mean {mean}, not {mu}");
            assert!(
                (variance / v - 1.0).abs() < 4.0 * (2.0_f64 / 500.0).sqrt(),
                "class {class}: {variance}, not {v}"
            );
        }
    }
}

/// Guidance in a part of the time, outputs brought back to their spread, and a second network as guide.
#[test]
fn intervals_rescaling_and_autoguidance() {
    let (plain, labelled) = specs(psld(), json!({}));
    let model = model(&labelled, &classes());
    let w = 3.0;
    for name in ["em", "heun", "rk45"] {
        let compare = |reference: &Model, guidance: Guidance, options: RunOptions, what: &str| {
            let (expected, _) = finish(reference, &sampler(&plain, few_steps(name)), f64_run(3));
            let (z, progress) = finish(&model, &guided(&labelled, few_steps(name), guidance), options);
            assert_close(&z, &expected, 1e-9, &format!("{name}, {what}"));
            progress
        };
        let [from, to] = [0.1, 0.7];
        let inside = combined(&plain, &labelled, &plane(), 0, move |own, other, t| {
            if (from..=to).contains(&t) { extrapolate(w)(own, other, t) } else { own.to_vec() }
        });
        let guidance = Guidance { interval: [from, to], ..GuidanceKind::Cfg.into() };
        let progress = compare(&inside, guidance, run(3, 0, w), "interval");
        if name == "em" {
            // Times 1, .69, .44, .25, .11, .03 and the closing one: four of them are inside.
            assert_eq!(progress.nfe, 7 + 4);
        }

        let spread = |x: &[f64]| {
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt()
        };
        let rescaled = combined(&plain, &labelled, &plane(), 0, move |own, other, t| {
            let out = extrapolate(w)(own, other, t);
            let back = spread(own) / spread(&out);
            out.iter().map(|x| 0.7 * back * x + 0.3 * x).collect()
        });
        let guidance = Guidance { rescale: 0.7, ..GuidanceKind::Cfg.into() };
        compare(&rescaled, guidance, run(3, 0, w), "rescale");

        // A worse network of the same data, without classes.
        let worse = Mixture { variances: vec![0.3, 0.3, 0.3], ..plane() };
        let auto = combined(&plain, &labelled, &worse, 2, extrapolate(w));
        let options = RunOptions { guide: Some(support::model(&plain, &worse)), ..run(3, 2, w) };
        compare(&auto, GuidanceKind::Cfg.into(), options, "autoguidance");
    }
}

/// A sample does not depend on its neighbours' classes and scales, nor on batches, to the bit.
#[test]
fn neighbours() {
    let (plain, labelled) = specs(psld(), json!({}));
    let (labels, scales) = (vec![0, 2, 1, 1, 0], vec![0.0, 2.0, -0.5, 7.0, 1.0]);
    for (kind, model, spec, guide) in [
        (GuidanceKind::Cfg, model(&labelled, &classes()), &labelled, None),
        (GuidanceKind::Classifier, model(&plain, &plane()), &plain, Some(classifier(psld()))),
    ] {
        for name in ["em", "heun"] {
            for rescale in [0.0, 0.5] {
                if kind == GuidanceKind::Classifier && rescale > 0.0 {
                    continue;
                }
                let sampler = guided(spec, few_steps(name), Guidance { rescale, ..kind.into() });
                let of = |at: std::ops::Range<usize>, batch| RunOptions {
                    seed: at.start as u64,
                    labels: Some(labels[at.clone()].to_vec()),
                    scales: Some(scales[at.clone()].to_vec()),
                    guide: guide.clone(),
                    batch,
                    ..f64_run(at.len())
                };
                let together = finish(&model, &sampler, of(0..5, None)).0;
                assert_same(&finish(&model, &sampler, of(0..5, Some(2))).0, &together, name);
                let alone: Vec<f64> =
                    (0..5).flat_map(|i| finish(&model, &sampler, of(i..i + 1, None)).0).collect();
                assert_same(&alone, &together, name);
                let whole =
                    psld::run::sample::<f64>(&model, &sampler, &of(0..5, Some(2)), What::State, |_| {
                        std::ops::ControlFlow::Continue(())
                    });
                assert_same(whole.unwrap().values.as_slice().unwrap(), &together, name);
            }
        }
    }
}

/// A network that counts its calls and their samples.
struct Counted(MixtureNetwork, Arc<[AtomicUsize; 2]>, Option<(usize, Cancel)>);

impl Network for Counted {
    fn spec(&self) -> &ModelSpec {
        self.0.spec()
    }
    fn backend(&self) -> Backend {
        self.0.backend()
    }
    fn output_precision(&self, state: Precision) -> Precision {
        state
    }
    fn hash(&self) -> Result<String> {
        self.0.hash()
    }
    fn evaluator(&self) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(CountedEvaluator(self.0.evaluator()?, self.1.clone(), self.2.clone())))
    }
}

struct CountedEvaluator(Box<dyn Evaluator>, Arc<[AtomicUsize; 2]>, Option<(usize, Cancel)>);

impl Evaluator for CountedEvaluator {
    fn evaluate(&mut self, inputs: Inputs<'_>, out: ValuesMut<'_>) -> Result<()> {
        let calls = self.1[0].fetch_add(1, Ordering::Relaxed);
        self.1[1].fetch_add(inputs.t.len(), Ordering::Relaxed);
        if let Some((at, cancel)) = &self.2
            && calls == *at
        {
            cancel.cancel();
        }
        self.0.evaluate(inputs, out)
    }
}

/// Both evaluations are one call of twice the samples; an interrupted run continues to the same bits.
#[test]
fn calls() {
    let (_, labelled) = specs(psld(), json!({}));
    let network = || MixtureNetwork::new(labelled.clone(), classes()).unwrap();
    for name in samplers(&labelled) {
        let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let model = Model::new(Arc::new(Counted(network(), counts.clone(), None)), 1).unwrap();
        let sampler = guided(&labelled, few_steps(name), GuidanceKind::Cfg);
        let (expected, end) = finish(&model, &sampler, run(3, 1, 2.0));
        let [calls, samples] = [0, 1].map(|i| counts[i].load(Ordering::Relaxed));
        assert_eq!((2 * calls, samples), (end.nfe, 6 * calls), "{name}");
        for at in 0..calls - 1 {
            let cancel = Cancel::new();
            let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
            let network = Counted(network(), counts, Some((at, cancel.clone())));
            let model = Model::new(Arc::new(network), 1).unwrap();
            let options = RunOptions { cancel: Some(cancel), ..run(3, 1, 2.0) };
            let mut run = Run::start(&model, &sampler, options).unwrap();
            assert_eq!(run.step(usize::MAX).unwrap_err().status(), Status::Cancelled);
            run.resume_with(None, None);
            assert_eq!(run.step(usize::MAX).unwrap(), end, "{name}, call {at}");
            assert_same(&read(&run, What::State), &expected, name);
        }
    }
    // A budget counts both evaluations, the closing ones too, and is not overdrawn.
    for (name, budget, nfe) in [("em", 100, 100), ("em", 101, 100), ("heun", 100, 98)] {
        let options = json!({ "sampler": name, "nfe": budget });
        assert_eq!(guided(&labelled, options, GuidanceKind::Cfg).plan().unwrap().nfe, nfe, "{name}");
    }
    // `auto` is chosen by evaluations, and of an order that their steps reach.
    for nfe in 4..30 {
        let auto = guided(&labelled, json!({ "nfe": nfe }), GuidanceKind::Cfg);
        let alone = support::sampler(&labelled, json!({ "nfe": nfe / 2 }));
        assert_eq!(auto.info(), alone.info(), "{nfe} calls");
        assert_eq!(
            (auto.options().order, &auto.options().time_grid),
            (alone.options().order, &alone.options().time_grid)
        );
    }
    let options = support::options(json!({ "nfe": 3 }));
    let guidance = Guidance::from(GuidanceKind::Cfg);
    insta::assert_snapshot!(Sampler::compile(&labelled, &options, guidance).unwrap_err(), @"nfe = 3: sampler `auto` takes 2 network call(s) a step and 2 to close, so at least 4 and at most 1000000 steps of them");
}

/// A guided run that is saved and loaded goes on to the same bits, with the guidance network that it had and no other.
#[test]
fn saved_runs() {
    let (plain, labelled) = specs(psld(), json!({}));
    let guide = classifier(psld());
    for (kind, model, spec, guide) in [
        (GuidanceKind::Cfg, model(&labelled, &classes()), &labelled, None),
        (GuidanceKind::Classifier, model(&plain, &plane()), &plain, Some(&guide)),
    ] {
        for name in ["em", "heun", "rk45"] {
            let sampler = guided(spec, few_steps(name), kind);
            let options = RunOptions {
                labels: Some(vec![0, 2, 1]),
                scales: Some(vec![2.0, 0.0, 1.0]),
                guide: guide.cloned(),
                previews: true,
                ..f64_run(3)
            };
            let mut run = Run::start(&model, &sampler, options).unwrap();
            run.step(2).unwrap();
            let bytes = run.save().unwrap();
            let mut again = Run::load_guided(&model, &sampler, guide, &bytes).unwrap();
            assert_eq!(again.step(usize::MAX).unwrap(), run.step(usize::MAX).unwrap(), "{name}");
            for part in [What::State, What::X0] {
                assert_same(&read(&again, part), &read(&run, part), name);
            }
            let other = guide.is_none().then(|| classifier(psld()));
            let error = Run::load_guided(&model, &sampler, other.as_ref(), &bytes).err().unwrap();
            assert_eq!(error.status(), Status::CheckpointInvalid);
            assert!(error.message().contains("of another guidance network"), "{error}");
        }
    }
}

/// Guided and completed at once: known pixels are kept, the rest is of the class.
#[test]
fn with_inpainting() {
    let (_, labelled) = specs(psld(), json!({}));
    let guidance = Guidance::from(GuidanceKind::Cfg);
    let conditioning = Conditioning { guidance: Some(guidance), ..Some(InpaintMethod::Corrected).into() };
    let options = support::options(json!({ "sampler": "sscs", "steps": 60 }));
    let sampler = Arc::new(Sampler::compile(&labelled, &options, conditioning).unwrap());
    let inpaint = Inpaint { image: tensor(&[1, 2], &[0.5, 0.0]), mask: tensor(&[1, 2], &[1.0, 0.0]) };
    let options = RunOptions { inpaint: Some(inpaint), ..run(64, 2, 1.0) };
    let (z, _) = finish(&model(&labelled, &classes()), &sampler, options);
    assert!(z.chunks(4).all(|z| z[0] == 0.5));
    // Class 2 is at (0, -1), and elsewhere nothing is below -0.5.
    let of_class = z.chunks(4).filter(|z| z[1] < -0.5).count();
    assert!(of_class > 56, "{of_class} of 64");
}

/// Sequential Monte Carlo with a reward r = -l/2 |x - c|^2, which makes a Gaussian mixture another one: component N(mu, v)
/// becomes N((mu + l v c)/(1 + l v), v/(1 + l v)), and its weight falls by what the reward is worth there.
#[test]
fn steered_samples_have_the_tilted_law() {
    let (l, c) = (3.0, [0.5, 0.0]);
    let square = |x: &[f64]| (x[0] - c[0]).powi(2) + (x[1] - c[1]).powi(2);
    let of = |x: &[f64]| [x[0], x[1], x[0] * x[0], x[0] * x[1], x[1] * x[1]];
    let mixture = plane();
    let mut exact = [0.0; 5];
    let mut total = 0.0;
    for ((weight, mu), v) in mixture.weights.iter().zip(&mixture.means).zip(&mixture.variances) {
        let shrink = 1.0 + l * v;
        let weight = weight / shrink * (-0.5 * l * square(mu) / shrink).exp();
        let [x, y] = [0, 1].map(|i| (mu[i] + l * v * c[i]) / shrink);
        total += weight;
        let moments = [x, y, x * x + v / shrink, x * y, y * y + v / shrink];
        exact.iter_mut().zip(moments).for_each(|(sum, moment)| *sum += weight * moment);
    }
    let exact = exact.map(|sum| sum / total);

    // A sampler that remembers the step before.
    let (plain, _) = specs(psld(), json!({}));
    let model = model(&plain, &mixture);
    let sampler = sampler(&plain, json!({ "sampler": "sde_dpmpp", "steps": 40 }));
    let (n, repeats) = (500, 40);
    let reward = |x: &[f64]| -0.5 * l * square(x);
    let mut seed = 0;
    let estimates: Vec<[f64; 5]> = (0..repeats)
        .map(|_| {
            let options = RunOptions { seed, previews: true, ..f64_run(n) };
            let mut run = Run::start(&model, &sampler, options).unwrap();
            seed += n as u64;
            let (mut logs, mut rewards) = (vec![0.0; n], vec![0.0; n]);
            loop {
                let done = run.step(1).unwrap().done;
                let x = read(&run, if done { What::Data } else { What::X0 });
                for (i, x) in x.chunks(2).enumerate() {
                    logs[i] += reward(x) - rewards[i];
                    rewards[i] = reward(x);
                }
                let weights: Vec<f64> = logs.iter().map(|log| log.exp()).collect();
                let sum: f64 = weights.iter().sum();
                if done {
                    let weighted =
                        |m: usize| x.chunks(2).zip(&weights).map(|(x, w)| w * of(x)[m]).sum::<f64>();
                    return std::array::from_fn(|m| weighted(m) / sum);
                }
                if sum * sum > 0.7 * n as f64 * weights.iter().map(|w| w * w).sum::<f64>() {
                    continue;
                }
                // Systematic resampling.
                let (mut from, mut reached) = (0, weights[0]);
                let indices: Vec<usize> = (0..n)
                    .map(|i| {
                        while reached < (i as f64 + 0.5) / n as f64 * sum && from + 1 < n {
                            from += 1;
                            reached += weights[from];
                        }
                        from
                    })
                    .collect();
                let seeds: Vec<u64> = (seed..).take(n).collect();
                seed += n as u64;
                run.gather(&indices, Some(&seeds)).unwrap();
                rewards = indices.iter().map(|i| rewards[*i]).collect();
                logs.fill(0.0);
            }
        })
        .collect();
    for (m, exact) in exact.iter().enumerate() {
        let mean = estimates.iter().map(|e| e[m]).sum::<f64>() / f64::from(repeats);
        let spread = estimates.iter().map(|e| (e[m] - mean).powi(2)).sum::<f64>() / f64::from(repeats - 1);
        let error = (spread / f64::from(repeats)).sqrt();
        println!("moment {m}: {mean:.4} +- {error:.4}, exactly {exact:.4}");
        assert!(error < 0.01, "moment {m}: the repeats differ by {error}");
        // The sampler's own error at 40 steps is part of it.
        assert!((mean - exact).abs() < 4.0 * error + 0.005, "moment {m}: {mean} +- {error}, not {exact}");
    }
}

#[test]
fn plans() {
    let (plain, labelled) = specs(json!({ "kind": "psld" }), json!({}));
    let guidance = Guidance { interval: [0.2, 1.0], rescale: 0.5, ..GuidanceKind::Cfg.into() };
    let cfg = guided(&labelled, json!({ "sampler": "heun", "steps": 2 }), guidance);
    let gradient = guided(&plain, json!({ "sampler": "em", "steps": 2 }), GuidanceKind::Classifier);
    let mut tables = String::new();
    for sampler in [&cfg, &gradient] {
        let plan = sampler.plan().unwrap();
        writeln!(tables, "{}", plan.explain()).unwrap();
        let again = Plan::parse(&plan.to_json()).unwrap();
        assert_eq!((&again, again.hash()), (plan, plan.hash()));
    }
    insta::assert_snapshot!("plans.txt", tables);
    insta::assert_snapshot!("gradient.json", gradient.plan().unwrap().to_json());

    // A plan that was read runs as the sampler it came from.
    let by_plan = Arc::new(Sampler::from_plan(&labelled, cfg.plan().unwrap().clone()).unwrap());
    let model = model(&labelled, &classes());
    assert_same(&finish(&model, &by_plan, run(2, 1, 2.0)).0, &finish(&model, &cfg, run(2, 1, 2.0)).0, "plan");

    let good: Value = serde_json::from_str(&gradient.plan().unwrap().to_json()).unwrap();
    let mut messages = String::new();
    // Rows: 0 eval, 1 eval of the guide, 2 map, 3 update, ...
    let cfg_row = json!({ "row": "map", "step": 0, "kind": "cfg", "slot": 1, "rescale": 0.0, "into": 0 });
    for (at, value) in [
        ("/rows/1/network", json!(2)),
        ("/rows/1/network", json!(0)),
        ("/rows/1/slot", json!(0)),
        ("/rows/2/slot", json!(0)),
        ("/rows/2/slot", json!(7)),
        ("/rows/2/into", json!(1)),
        ("/rows/2/B", json!([[1.0, 0.0]])),
        ("/rows/2/extra", json!(1)),
        ("/rows/2", cfg_row),
        ("/rows/3/terms/0/0", json!(1)),
    ] {
        let mut bad = good.clone();
        match bad.pointer_mut(at) {
            Some(place) => *place = value.clone(),
            None => bad["rows"][2]["extra"] = value.clone(),
        }
        let error = Plan::parse(&bad.to_string()).expect_err(at);
        assert_eq!(error.status(), Status::InvalidConfig);
        writeln!(messages, "{at} = {value}: {error}").unwrap();
    }
    let mut unread = good.clone();
    let rows = unread["rows"].as_array_mut().unwrap();
    rows.retain(|row| row["row"] != "map");
    writeln!(messages, "no maps: {}", Plan::parse(&unread.to_string()).unwrap_err()).unwrap();
    insta::assert_snapshot!("refused", messages);

    // What a run of an adaptive sampler does is in its hash.
    let rk45 = |guidance: Guidance| guided(&labelled, json!({ "sampler": "rk45" }), guidance).hash();
    let plain = sampler(&labelled, json!({ "sampler": "rk45" })).hash();
    assert_ne!(rk45(GuidanceKind::Cfg.into()), plain);
    assert_ne!(rk45(GuidanceKind::Cfg.into()), rk45(guidance));
}

#[test]
fn what_is_refused() {
    let (plain, labelled) = specs(psld(), json!({}));
    let (model, unlabelled) = (model(&labelled, &classes()), model(&plain, &plane()));
    let em = json!({ "steps": 3 });
    let cfg = guided(&labelled, em.clone(), GuidanceKind::Cfg);
    let bayes = guided(&plain, em.clone(), GuidanceKind::Classifier);
    let guide = classifier(psld());
    let with = |guide: &Model| RunOptions { guide: Some(guide.clone()), ..run(2, 1, 1.0) };
    let one = spec(psld(), json!({ "output": "grad", "label_input": "y", "classes": 3 }), &[1]);
    let other_shape = support::model(&one, &Mixture { labels: vec![0, 1, 2], ..golden_mixture() });
    let score = spec(psld(), json!({ "prediction": "score" }), &[2]);
    let (unguided, plain_sampler) = (sampler(&labelled, em.clone()), sampler(&plain, em.clone()));
    let cases: Vec<(&str, &Model, &Arc<Sampler>, RunOptions)> = vec![
        ("no scale", &model, &cfg, RunOptions { scales: None, ..run(2, 1, 1.0) }),
        ("NaN", &model, &cfg, run(2, 1, f64::NAN)),
        ("infinite", &model, &cfg, RunOptions { scales: Some(vec![1.0, f64::INFINITY]), ..run(2, 1, 1.0) }),
        ("scales", &model, &cfg, RunOptions { scales: Some(vec![1.0; 3]), ..run(2, 1, 1.0) }),
        ("no scales", &model, &cfg, RunOptions { scales: Some(vec![]), ..run(2, 1, 1.0) }),
        ("no label", &model, &cfg, RunOptions { labels: None, ..run(2, 1, 1.0) }),
        ("label", &model, &cfg, run(2, 4, 1.0)),
        ("gradient for cfg", &model, &cfg, with(&guide)),
        ("nothing to guide", &model, &unguided, run(2, 1, 1.0)),
        ("no guide", &unlabelled, &bayes, run(2, 1, 1.0)),
        (
            "guide of nothing",
            &unlabelled,
            &plain_sampler,
            RunOptions { guide: Some(guide.clone()), ..f64_run(2) },
        ),
        ("scores for a gradient", &unlabelled, &bayes, with(&model)),
        ("null class", &unlabelled, &bayes, RunOptions { guide: Some(guide.clone()), ..run(2, 3, 1.0) }),
        ("no class", &unlabelled, &bayes, RunOptions { labels: None, ..with(&guide) }),
        ("process", &unlabelled, &bayes, with(&classifier(json!({ "kind": "cld" })))),
        ("shape", &unlabelled, &bayes, with(&other_shape)),
        ("prediction", &model, &cfg, with(&support::model(&score, &plane()))),
    ];
    let mut messages = String::new();
    for (case, model, sampler, options) in cases {
        let error: Error = Run::start(model, sampler, options).err().expect(case);
        writeln!(messages, "{case} [{:?}]: {error}", error.status()).unwrap();
    }
    let compile = |spec: &ModelSpec, guidance: Guidance| {
        Sampler::compile(spec, &support::options(em.clone()), guidance).unwrap_err()
    };
    let cfg = Guidance::from(GuidanceKind::Cfg);
    for guidance in [
        Guidance { interval: [0.5, 0.5], ..cfg },
        Guidance { interval: [0.0, 2.0], ..cfg },
        Guidance { interval: [f64::NAN, 1.0], ..cfg },
        Guidance { rescale: 1.5, ..cfg },
        Guidance { rescale: 0.5, ..GuidanceKind::Classifier.into() },
    ] {
        writeln!(messages, "{}", compile(&labelled, guidance)).unwrap();
    }
    writeln!(
        messages,
        "{}",
        Sampler::compile(guide.spec(), &support::options(em.clone()), None).unwrap_err()
    )
    .unwrap();
    let bad =
        json!({ "format": 1, "process": psld(), "data": { "shape": [1] }, "network": { "output": "grad" } });
    writeln!(messages, "{}", ModelSpec::parse(&bad.to_string()).unwrap_err()).unwrap();
    insta::assert_snapshot!(messages);
}

/// The gradient network against differences of the log probability, which Bayes' rule gives from densities.
#[test]
fn the_gradient_of_the_exact_classifier() {
    let mixture = Mixture { labels: vec![0, 1, 0], ..golden_mixture() };
    let spec = spec(psld(), json!({ "output": "grad", "label_input": "y", "classes": 2 }), &[1]);
    let network = MixtureNetwork::new(spec.clone(), mixture.clone()).unwrap();
    let process = spec.process().unwrap();
    let (z, t) = ([0.4, -0.3], 0.4);
    let density = |z: [f64; 2], class: Option<i64>| -> f64 {
        let of = |i: usize| {
            let (a, sigma) = (process.mean(t), process.covariance(t));
            let v = sigma + a * a.transpose() * mixture.variances[i];
            let e = [0, 1].map(|b| z[b] - a[(b, 0)] * mixture.means[i][0]);
            let det = v[(0, 0)] * v[(1, 1)] - v[(0, 1)] * v[(1, 0)];
            let square =
                (v[(1, 1)] * e[0] * e[0] - 2.0 * v[(0, 1)] * e[0] * e[1] + v[(0, 0)] * e[1] * e[1]) / det;
            mixture.weights[i] * (-0.5 * square).exp() / det.sqrt()
        };
        (0..3).filter(|i| class.is_none_or(|c| mixture.labels[*i] == c)).map(of).sum()
    };
    for class in [0, 1] {
        let log = |z: [f64; 2]| (density(z, Some(class)) / density(z, None)).ln();
        let mut got = [0.0; 2];
        let inputs = Inputs { z: Values::F64(&z), t: &[t], labels: Some(&[class]), rows: None };
        network.evaluator().unwrap().evaluate(inputs, ValuesMut::F64(&mut got)).unwrap();
        for b in 0..2 {
            let at = |h: f64| {
                let mut z = z;
                z[b] += h;
                log(z)
            };
            let h = 1e-5;
            assert!(
                ((at(h) - at(-h)) / (2.0 * h) - got[b]).abs() < 1e-8,
                "class {class}, block {b}: {got:?}"
            );
        }
    }
}
