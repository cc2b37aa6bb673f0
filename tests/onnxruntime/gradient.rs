//! Gradients of graphs, operator by operator, against differences of what the graphs compute.

use crate::support::load;
use psld::array::{Values, ValuesMut};
use psld::network::onnxruntime::OnnxOptions;
use psld::network::{Inputs, Network};
use psld::noise::{Purpose, fill_f32, fill_f64};
use psld::onnx::{Conv2d, Dim, ElementType, Graph, Model, Tensor, Value};

/// A sample: small, and of no two equal sides where that can be.
const SHAPE: [usize; 3] = [4, 6, 6];
const LEN: usize = 4 * 6 * 6;

fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    fill_f32(seed, Purpose::Probe, 0, 0, &mut values);
    values
}

fn weight(g: &mut Graph, shape: &[usize], element: ElementType) -> Value {
    let len: usize = shape.iter().product();
    let mut values = vec![0.0; len];
    fill_f64(len as u64, Purpose::Probe, 0, 0, &mut values);
    let fan_in: usize = shape[1..].iter().product();
    values.iter_mut().for_each(|value| *value /= (fan_in as f64).sqrt());
    g.tensor(Tensor::convert(element, shape, &values).unwrap())
}

/// A network whose output is, in each element of a sample, the weighted sum of what `body` makes of it: `len` numbers; or,
/// if asked for, that sum's gradient.
fn network(body: &dyn Fn(&mut Graph, Value) -> Value, len: usize, gradient: bool) -> Model {
    let mut g = Graph::new("gradient");
    let dims: Vec<Dim> = std::iter::once("N".into()).chain(SHAPE.iter().map(|&size| size.into())).collect();
    let x = g.input("z", ElementType::F32, &dims);
    g.input("t", ElementType::F32, &dims[..1]);
    let y = body(&mut g, x);
    let y = g.reshape(y, &[0, len as i64]);
    let weights = g.constant(&[1, len], &random(7, len));
    let nothing = g.mul(x, 0.0);
    let result = if gradient {
        let flat = g.mul(y, 0.0);
        let weights = g.add(flat, weights);
        g.gradient(y, weights, x)
    } else {
        let weighted = g.mul(y, weights);
        let sum = g.reduce_sum(weighted, &[1], true);
        let sum = g.reshape(sum, &[-1, 1, 1, 1]);
        g.add(nothing, sum)
    };
    g.output("eps", result, &dims);
    let mut model = g.finish().unwrap();
    let spec = format!(r#"{{"format": 1, "process": {{"kind": "vp"}}, "data": {{"shape": {SHAPE:?}}}}}"#);
    model.set_metadata("psld.spec", &spec);
    model
}

fn run(model: &Model, z: &[f32]) -> Vec<f32> {
    let network = load(model, &OnnxOptions { threads: 1, ..Default::default() }).unwrap();
    let mut out = vec![0.0; z.len()];
    let times = vec![0.5; z.len() / LEN];
    let inputs = Inputs { z: Values::F32(z), t: &times, labels: None, rows: None };
    network.evaluator().unwrap().evaluate(inputs, ValuesMut::F32(&mut out)).unwrap();
    out
}

/// Each sample in a batch of three, and alone, has the gradient that differences show.
fn check(name: &str, len: usize, body: impl Fn(&mut Graph, Value) -> Value) {
    const H: f32 = 0.02;
    let z = random(1, 3 * LEN);
    let model = network(&body, len, true);
    let gradient = run(&model, &z);
    let alone = run(&model, &z[LEN..2 * LEN]);
    let rms = |values: &[f32]| (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32).sqrt();
    let size = rms(&gradient);
    assert!(size > 1e-2, "{name}: nothing to test, {size}");
    let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst(&alone, &gradient[LEN..2 * LEN]) < 1e-5 * size, "{name}: alone and in a batch");
    // Each element of the first sample moved forth and back, all in one batch.
    let moved = |h: f32| -> Vec<f32> {
        let sample =
            |i: usize| z[..LEN].iter().enumerate().map(move |(j, z)| if i == j { z + h } else { *z });
        (0..LEN).flat_map(sample).collect()
    };
    let forward = network(&body, len, false);
    let values = |h: f32| -> Vec<f32> { run(&forward, &moved(h)).into_iter().step_by(LEN).collect() };
    let differences: Vec<f32> = values(H).iter().zip(values(-H)).map(|(a, b)| (a - b) / (2.0 * H)).collect();
    let error = worst(&differences, &gradient[..LEN]) / size;
    assert!(error < 2e-3, "{name}: error {error} of {size}");
}

#[test]
fn arithmetic() {
    check("a sum, a product, a name", LEN, |g, x| {
        let scale = weight(g, &[4, 1, 1], ElementType::F32);
        let y = g.mul(x, scale);
        let y = g.node("Identity", &[y], &[]);
        let square = g.mul(x, y);
        g.add(square, x)
    });
    check("silu", LEN, |g, x| g.silu(x));
    check("in double precision", LEN, |g, x| {
        let x = g.cast(x, ElementType::F64);
        let y = g.silu(x);
        g.cast(y, ElementType::F32)
    });
    check("softmax", LEN, |g, x| g.softmax(x, 1));
    check("log softmax", LEN, |g, x| g.log_softmax(x, -1));
}

#[test]
fn shapes() {
    check("a turn of the axes", LEN, |g, x| {
        let y = g.transpose(x, &[0, 2, 3, 1]);
        g.softmax(y, -1)
    });
    check("side by side", 2 * LEN, |g, x| {
        let y = g.silu(x);
        g.concat(&[x, y], 1)
    });
    check("along the last axis, three", 3 * LEN, |g, x| {
        let y = g.silu(x);
        g.concat(&[y, x, y], -1)
    });
    check("parts", LEN, |g, x| {
        let [a, b] = g.split(x, 1, [1, 3]);
        let b = g.silu(b);
        g.concat(&[b, a], 1)
    });
    check("a part of which nothing comes", LEN / 4, |g, x| {
        let [_, b, _] = g.split(x, 1, [1, 1, 2]);
        g.silu(b)
    });
}

#[test]
fn products() {
    check("of two", 36 * 36, |g, x| {
        let flat = g.reshape(x, &[0, 4, 36]);
        let turned = g.transpose(flat, &[0, 2, 1]);
        let y = g.silu(flat);
        g.matmul(turned, y)
    });
    check("with one matrix for all", 4 * 6 * 3, |g, x| {
        let matrix = weight(g, &[6, 3], ElementType::F32);
        g.matmul(x, matrix)
    });
    check("a linear layer", 5, |g, x| {
        let flat = g.reshape(x, &[0, LEN as i64]);
        let matrix = weight(g, &[5, LEN], ElementType::F32);
        let bias = weight(g, &[5], ElementType::F32);
        g.linear(flat, matrix, Some(bias))
    });
}

#[test]
fn convolutions() {
    let even = |stride, pad| Conv2d { stride, pads: [pad; 4], groups: 1 };
    let cases: [(&str, [usize; 4], Conv2d, usize); 11] = [
        ("3 x 3", [5, 4, 3, 3], even(1, 1), 5 * 36),
        ("1 x 1", [3, 4, 1, 1], even(1, 0), 3 * 36),
        ("2 x 2, beside", [3, 4, 2, 2], Conv2d { pads: [1, 0, 0, 1], ..even(1, 0) }, 3 * 36),
        ("4 x 4, not padded", [2, 4, 4, 4], even(1, 0), 2 * 9),
        ("3 x 3, wide padding", [2, 4, 3, 3], even(1, 3), 2 * 100),
        ("3 x 3, every second", [5, 4, 3, 3], even(2, 1), 5 * 9),
        (
            "3 x 3, every second, padded behind",
            [5, 4, 3, 3],
            Conv2d { pads: [0, 0, 1, 1], ..even(2, 0) },
            5 * 9,
        ),
        ("2 x 2, every third", [3, 4, 2, 2], even(3, 0), 3 * 4),
        ("each channel by itself", [4, 1, 3, 3], Conv2d { groups: 4, ..even(1, 1) }, 4 * 36),
        ("each by itself, every second", [4, 1, 4, 4], Conv2d { groups: 4, ..even(2, 1) }, 4 * 9),
        ("in two groups", [6, 2, 3, 3], Conv2d { groups: 2, ..even(1, 1) }, 6 * 36),
    ];
    for (name, kernel, how, len) in cases {
        check(name, len, |g, x| {
            let kernel = weight(g, &kernel, ElementType::F32);
            g.conv2d(x, kernel, None, how)
        });
    }
    check("stored in half the bits", 5 * 36, |g, x| {
        let kernel = weight(g, &[5, 4, 3, 3], ElementType::Bf16);
        let kernel = g.cast(kernel, ElementType::F32);
        g.conv2d(x, kernel, None, even(1, 1))
    });
}

#[test]
fn normalisations() {
    check("of channels", LEN, |g, x| {
        let (scale, bias) = (weight(g, &[4], ElementType::F32), g.constant(&[4], &[0f32; 4]));
        g.instance_norm(x, scale, bias, 1e-3)
    });
    check("of groups", LEN, |g, x| {
        let (scale, bias) = (weight(g, &[4, 1, 1], ElementType::F32), g.constant(&[4, 1, 1], &[0f32; 4]));
        g.group_norm(x, 2, &SHAPE, scale, bias, 1e-6)
    });
}

#[test]
fn resampling() {
    check("means of blocks", LEN / 9, |g, x| g.average_pool(x, 3));
    check("repeated pixels", 4 * LEN, |g, x| g.upsample_nearest(x, 2));
    check("channels to pixels", LEN, |g, x| g.node("DepthToSpace", &[x], &[("blocksize", 2.into())]));
}
