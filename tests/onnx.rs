//! Reading, writing and building ONNX files. That the networks compute what they should is checked against
//! `tests/data/onnx`; the check itself needs an ONNX runtime: `tests/scripts/onnx_check.py` runs it in
//! Python on the files that the ignored test `export` writes.

use std::path::PathBuf;

use half::{bf16, f16};
use psld::Status;
use psld::onnx::networks::{Half, Means, Mixture, Path, UNet};
use psld::onnx::{Bytes, Conv2d, Dim, ElementType, Graph, Model, Tensor};
use psld::spec::SPEC_KEY;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

const SPEC: &str = r#"{"format": 1}"#;

fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/onnx").join(path)
}

/// The mixtures of the golden file, by name.
fn mixtures() -> Vec<(String, Mixture)> {
    let text = std::fs::read_to_string(data("mixture.json")).unwrap();
    let golden: Json = serde_json::from_str(&text).unwrap();
    golden["cases"].as_array().unwrap().iter().map(mixture).collect()
}

fn mixture(case: &Json) -> (String, Mixture) {
    let floats =
        |json: &Json| -> Vec<f64> { json.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect() };
    let integers = |json: &Json| -> Vec<usize> {
        json.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
    };
    let path = &case["path"];
    let constant = |name: &str| path[name].as_f64().unwrap();
    let (beta_min, beta_max) = (constant("beta_min"), constant("beta_max"));
    let mixture = Mixture {
        path: match path["kind"].as_str().unwrap() {
            "vp" => Path::Vp { beta_min, beta_max },
            _ => Path::Psld {
                beta_min,
                beta_max,
                gamma: constant("gamma"),
                nu: constant("nu"),
                kappa: constant("kappa"),
            },
        },
        numerical_eps: case["numerical_eps"].as_f64().unwrap(),
        shape: integers(&case["shape"]),
        weights: floats(&case["weights"]),
        means: match case.get("pixels") {
            Some(pixels) => Means::Pixels {
                pixels: integers(pixels).into_iter().map(|pixel| pixel as u8).collect(),
                range: [case["range"][0].as_f64().unwrap(), case["range"][1].as_f64().unwrap()],
            },
            None => Means::Values(floats(&case["means"])),
        },
        variances: floats(&case["variances"]),
        labels: integers(&case["labels"]),
        classes: case["classes"].as_u64().unwrap() as usize,
        half: if case["half"] == "momentum" { Half::Momentum } else { Half::All },
        ports: ElementType::F32,
    };
    (case["name"].as_str().unwrap().to_owned(), mixture)
}

/// The U-Net of `tests/data/onnx/unet.json`: every kind of layer, in miniature.
fn tiny_unet() -> UNet {
    UNet { size: 8, width: 8, multipliers: vec![1, 2], blocks: 1, attention: 4, seed: 7, ..UNet::cifar10(2) }
}

fn example_mixture() -> Mixture {
    mixtures().into_iter().find(|(name, _)| name == "psld").unwrap().1
}

// Files

#[test]
fn a_written_model_reads_back_the_same() {
    let model = example_mixture().network(SPEC).unwrap();
    let bytes = model.to_bytes();
    let again = Model::read(bytes.clone()).unwrap();
    assert_eq!(again, model);
    assert_eq!(again.to_bytes(), bytes);
    assert_eq!((again.opset(), again.ir_version()), (20, 9));
    assert_eq!(again.metadata(SPEC_KEY), Some(SPEC));
    assert_eq!(again.metadata("psld"), None);
    let ports: Vec<_> = again.inputs().iter().chain(&again.outputs()).map(ToString::to_string).collect();
    assert_eq!(
        ports,
        ["`z` [batch, 6, 2, 2] float32", "`t` [batch] float32", "`eps` [batch, 6, 2, 2] float32"]
    );
}

/// `everything.onnx` (tests/scripts/everything.py) has each field of the schema, written by the official
/// Python package; byte for byte is more than protobuf promises, and what a diff tool wants.
#[test]
fn a_foreign_model_comes_back_byte_for_byte() {
    let bytes = std::fs::read(data("everything.onnx")).unwrap();
    let mut model = Model::read(bytes.clone()).unwrap();
    assert!(model.to_bytes() == bytes, "the bytes differ");

    model.set_metadata("note", "added");
    model.set_metadata("key", "replaced");
    let again = Model::read(model.to_bytes()).unwrap();
    assert_eq!(again.metadata("note"), Some("added"));
    assert_eq!(again.metadata("key"), Some("replaced"));
    assert_eq!(again.graph(), model.graph());
    // Initialisers that are listed as inputs too, as old exporters did, need not be fed.
    let inputs: Vec<_> = again.inputs().iter().map(ToString::to_string).collect();
    assert_eq!(
        inputs,
        [
            "`x` [batch, 3] float32",
            "`unranked` [unknown rank] float16",
            "`odd` [?, ?] uint16",
            "`list` [unknown rank] (not a tensor)"
        ]
        .map(|port| port.replace("uint16", "ONNX element type 4"))
    );
}

#[test]
fn weights_are_not_copied_when_a_model_is_read() {
    let bytes = Bytes::from(tiny_unet().network(SPEC).unwrap().to_bytes());
    let model = Model::read(bytes.clone()).unwrap();
    let file = bytes.as_ptr_range();
    for tensor in &model.graph().initializer {
        assert!(file.contains(&tensor.raw_data().as_ptr()), "{}", tensor.name());
    }
}

#[test]
fn what_is_no_onnx_model_says_so() {
    let valid = example_mixture().network(SPEC).unwrap().to_bytes();
    let noise: Vec<u8> = (0..4096u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    let cases: &[(&str, &[u8], &str)] = &[
        ("empty", b"", "this is an empty file, not an ONNX model"),
        ("noise", &noise, "this is not an ONNX model"),
        ("zeros", &[0; 64], "this is not an ONNX model"),
        ("text", b"hello, I am a network", "this is not an ONNX model"),
        ("page", b"\n<!DOCTYPE html><html>404", "this is an HTML or XML page (a failed download?)"),
        ("png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "this is a PNG image"),
        ("checkpoint", b"PK\x03\x04archive", "this is a zip archive (PyTorch checkpoints are)"),
        ("lfs", b"version https://git-lfs.github.com/spec/v1\n", "this is a Git LFS pointer"),
        ("safetensors", b"\x60\0\0\0\0\0\0\0{\"w\":{}}", "this is a safetensors file"),
        ("truncated", &valid[..valid.len() / 2], "the ONNX model is truncated or damaged"),
        ("only a header", &valid[..2], "it holds no graph"),
    ];
    for (name, bytes, expected) in cases {
        let error = Model::read(bytes.to_vec()).unwrap_err();
        assert_eq!(error.status(), Status::ModelInvalid, "{name}");
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
}

#[test]
fn a_cut_model_is_an_error_or_lacks_only_metadata() {
    let whole = tiny_unet().network(SPEC).unwrap();
    let bytes = whole.to_bytes();
    let ends = [bytes.len() - 64..bytes.len(), 0..512, bytes.len() / 2..bytes.len() / 2 + 512];
    for end in ends.into_iter().flatten() {
        match Model::read(bytes[..end].to_vec()) {
            Err(error) => assert_eq!(error.status(), Status::ModelInvalid),
            Ok(model) => {
                assert_eq!(model.graph(), whole.graph());
                assert_eq!(model.metadata(SPEC_KEY), None);
            }
        }
    }
}

#[test]
fn damage_is_never_a_panic() {
    let bytes = example_mixture().network(SPEC).unwrap().to_bytes();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0xff;
        if let Ok(model) = Model::read(damaged) {
            // Ports come from the file, too.
            model.inputs().iter().chain(&model.outputs()).for_each(|port| drop(port.to_string()));
        }
    }
}

#[test]
fn bottomless_nesting_is_an_error() {
    // A sequence of a sequence of ... : each level wraps the last one in field 1 of field 4.
    let mut kind: Vec<u8> = vec![];
    let wrap = |tag: u8, inner: &[u8]| {
        let mut outer = vec![tag << 3 | 2];
        let mut length = inner.len();
        while length >= 0x80 {
            outer.push(length as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.extend_from_slice(inner);
        outer
    };
    for _ in 0..50_000 / 8 {
        kind = wrap(4, &wrap(1, &kind));
    }
    let output = wrap(12, &wrap(2, &kind));
    let mut bytes = vec![0x08, 9];
    bytes.extend(wrap(7, &output));
    let error = Model::read(bytes).unwrap_err();
    assert_eq!(error.status(), Status::ModelInvalid);
    assert!(error.to_string().contains("recursion limit"), "{error}");
}

// Builder

#[test]
fn the_same_calls_give_the_same_bytes() {
    for (name, mixture) in mixtures() {
        let bytes = || mixture.network(SPEC).unwrap().to_bytes();
        assert!(bytes() == bytes(), "{name}");
    }
    let bytes = || tiny_unet().network(SPEC).unwrap().to_bytes();
    assert!(bytes() == bytes());
}

#[test]
fn names_are_scoped_unique_and_say_what_they_are() {
    let mut g = Graph::new("names");
    let x = g.input("x", ElementType::F32, &[Dim::from("n")]);
    // A name that the builder would have given is free to take.
    let bias = g.parameter("down.Add_0", Tensor::new(&[1], &[1f32]).unwrap());
    let y = g.scope("down", |g| {
        let y = g.add(x, bias);
        g.scope("inner", |g| g.mul(y, 3.0))
    });
    let z = g.exp(y);
    // Neither an input nor an output twice can be renamed: each gets a node of its own.
    g.output("y", z, &[Dim::from("n")]);
    g.output("same", z, &[Dim::from("n")]);
    g.output("through", x, &[Dim::from("n")]);
    let model = g.finish().unwrap();
    let names: Vec<_> = model.graph().node.iter().map(|node| (node.op_type(), node.name())).collect();
    assert_eq!(
        names,
        [
            ("Add", "down.Add_0_"),
            ("Mul", "down.inner.Mul_1"),
            ("Exp", "y"),
            ("Identity", "same"),
            ("Identity", "through")
        ]
    );
    let outputs: Vec<_> = model.outputs().into_iter().map(|port| port.name).collect();
    assert_eq!(outputs, ["y", "same", "through"]);
}

#[test]
fn equal_constants_are_stored_once() {
    let mut g = Graph::new("constants");
    let x = g.input("x", ElementType::F16, &[]);
    let a = g.add(x, 0.5);
    let b = g.mul(a, 0.5);
    let half = g.constant(&[], &[f16::from_f32(0.5)]);
    let c = g.sub(half, b);
    // Equal bytes of another shape or type are another constant.
    let shaped = g.constant(&[1], &[f16::from_f32(0.5)]);
    let c = g.add(c, shaped);
    g.output("y", c, &[]);
    let model = g.finish().unwrap();
    assert_eq!(model.graph().initializer.len(), 2);
}

#[test]
fn what_no_output_needs_is_left_out() {
    let mut g = Graph::new("g");
    let x = g.input("x", ElementType::F32, &[2.into()]);
    let unused = g.mul(x, 3.0);
    let y = g.mul(x, 2.0);
    g.exp(unused);
    g.output("y", y, &[2.into()]);
    let model = g.finish().unwrap();
    assert_eq!((model.graph().node.len(), model.graph().initializer.len()), (1, 1));
}

#[test]
fn constants_are_little_endian_of_their_type() {
    let mut g = Graph::new("types");
    let element = |g: &mut Graph, element| g.constant_as(element, &[1], &[1.0]);
    let types = [
        (ElementType::F32, 1f32.to_le_bytes().to_vec()),
        (ElementType::F64, 1f64.to_le_bytes().to_vec()),
        (ElementType::F16, f16::ONE.to_le_bytes().to_vec()),
        (ElementType::Bf16, bf16::ONE.to_le_bytes().to_vec()),
        (ElementType::I64, 1i64.to_le_bytes().to_vec()),
        (ElementType::I32, 1i32.to_le_bytes().to_vec()),
        (ElementType::U8, vec![1]),
        (ElementType::Bool, vec![1]),
    ];
    for (i, (kind, _)) in types.iter().enumerate() {
        let value = element(&mut g, *kind);
        assert_eq!(value.element(), *kind);
        g.output(&i.to_string(), value, &[Dim::from(1)]);
    }
    let model = g.finish().unwrap();
    for (tensor, (kind, raw)) in model.graph().initializer.iter().zip(types) {
        assert_eq!(ElementType::from_code(tensor.data_type()), kind);
        assert_eq!(tensor.raw_data(), raw, "{kind}");
    }
}

#[test]
fn the_first_mistake_is_the_one_reported() {
    type Mistake = fn(&mut Graph);
    let cases: &[(Mistake, &str)] = &[
        (|_| {}, "graph `g`, finish: the graph has no outputs"),
        (
            |g| {
                let x = g.input("x", ElementType::F32, &[]);
                let t = g.input("t", ElementType::F64, &[]);
                let sum = g.scope("deep", |g| g.add(x, t));
                g.output("x", sum, &[]);
            },
            "graph `g`, deep.Add: the operands are float32 and float64",
        ),
        (
            |g| {
                let x = g.input("x", ElementType::F32, &[]);
                g.output("x", x, &[]);
            },
            "graph `g`, `x`: the name is taken",
        ),
        (
            |g| {
                let n = g.input("n", ElementType::I64, &[]);
                let y = g.add(n, 0.5);
                g.output("y", y, &[]);
            },
            "graph `g`, constant: a tensor of int64 cannot hold 0.5",
        ),
        (
            |g| {
                let x = g.input("x", ElementType::F32, &[2.into()]);
                let y = g.sin(x);
                let y = g.gradient(y, x, x);
                g.output("y", y, &[2.into()]);
            },
            "graph `g`, gradient: Sin: its derivative is not known here",
        ),
        (
            |g| {
                let x = g.input("x", ElementType::F32, &[1.into(), 1.into(), 8.into(), 8.into()]);
                let w = g.constant(&[1, 1, 3, 3], &[0f32; 9]);
                let sizes = [1i64, 1, 1, 1];
                let wide = [
                    ("strides", sizes[..2].into()),
                    ("pads", sizes[..].into()),
                    ("dilations", [2i64, 2][..].into()),
                ];
                let y = g.node("Conv", &[x, w], &wide);
                g.gradient(y, y, x);
            },
            "graph `g`, gradient: Conv: only in the form in which this builder writes it has it a derivative here",
        ),
        (
            |g| {
                let x = g.input("x", ElementType::F32, &[1.into(), 1.into(), 8.into()]);
                let w = g.constant(&[1, 1, 3], &[0f32; 3]);
                let y = g.node("Conv", &[x, w], &[]);
                g.gradient(y, y, x);
            },
            "graph `g`, gradient: Conv: only in the form in which this builder writes it has it a derivative here",
        ),
        (
            |g| {
                let x = g.input("x", ElementType::F32, &[2.into(), 2.into()]);
                let y = g.node("Transpose", &[x], &[("perm", [0i64, 7][..].into())]);
                g.gradient(y, y, x);
            },
            "graph `g`, gradient: Transpose: only in the form in which this builder writes it has it a derivative here",
        ),
        (
            // Sixty links of x Sigmoid(x), each of which doubles the ways to the beginning.
            |g| {
                let x = g.input("x", ElementType::F32, &[2.into(), 2.into()]);
                let other = g.sin(x);
                let y = (0..60).fold(x, |y, _| {
                    let gate = g.sigmoid(y);
                    g.mul(y, gate)
                });
                let product = g.matmul(y, y);
                let y = g.add(product, other);
                g.gradient(y, y, x);
            },
            "graph `g`, gradient: Sin: its derivative is not known here",
        ),
        (
            |g| {
                let x = g.input("x", ElementType::F32, &[2.into(), 2.into()]);
                let y = g.linear(x, x, None);
                g.gradient(y, y, x);
            },
            "graph `g`, gradient: Gemm: no derivative in its input 1 is known here",
        ),
        (
            |g| {
                let x = g.input("x", ElementType::F32, &[2.into()]);
                let y = g.input("y", ElementType::F32, &[2.into()]);
                let y = g.mul(y, 2.0);
                g.gradient(y, y, x);
            },
            "graph `g`, gradient: the output does not depend on the input",
        ),
        (
            |g| {
                let x = g.input("x", ElementType::F16, &[]);
                let y = g.mul(x, 1e6);
                g.output("y", y, &[]);
            },
            "graph `g`, constant: a tensor of float16 cannot hold 1000000",
        ),
        (
            |g| {
                let w = g.constant(&[2, 3], &[0f32; 5]);
                g.output("y", w, &[]);
            },
            "graph `g`, constant: a tensor of shape [2, 3] cannot be made of 5 values",
        ),
        (
            |g| {
                let stranger = Graph::new("other").input("x", ElementType::F32, &[]);
                let y = g.exp(stranger);
                g.output("y", y, &[]);
            },
            "graph `g`, Exp: an input belongs to another graph",
        ),
        (
            |g| {
                let x = g.input("x", ElementType::F32, &[]);
                let one = g.constant(&[6, 1, 1], &[1f32; 6]);
                let y = g.group_norm(x, 4, &[6, 8, 8], one, one, 1e-6);
                g.output("y", y, &[]);
            },
            "graph `g`, group_norm: 6 channels cannot be divided into 4 groups",
        ),
        (
            |g| {
                let y = g.add(1.0, 2.0);
                g.output("y", y, &[]);
            },
            "graph `g`, Add: at least one operand must be a tensor",
        ),
        (
            |g| {
                let x = g.input("", ElementType::F32, &[]);
                g.output("y", x, &[]);
            },
            "graph `g`, a name: names cannot be empty: that is how ONNX marks an absent input",
        ),
    ];
    for (mistake, expected) in cases {
        let mut g = Graph::new("g");
        mistake(&mut g);
        let error = g.finish().unwrap_err();
        assert_eq!((error.status(), error.message()), (Status::InvalidArgument, *expected));
    }
}

/// One node of everything the builder writes. `onnx_check.py` has it checked with full shape inference, and
/// runs it.
fn every_operation() -> Model {
    let mut g = Graph::new("every operation");
    let x = g.input("x", ElementType::F32, &["batch".into(), 4.into(), 8.into(), 8.into()]);
    let a = g.abs(x);
    let a = g.add(a, 1.0);
    let mut h = x;
    for op in [Graph::sqrt, Graph::log, Graph::sin, Graph::cos, Graph::neg, Graph::exp, Graph::tanh] {
        let term = op(&mut g, a);
        h = g.add(h, term);
    }
    let power = g.pow(a, 2.0);
    let h = g.min(h, power);
    let h = g.max(-1.0, h);
    let h = g.silu(h);
    let h = g.div(h, a);

    let weight =
        g.parameter("weight", Tensor::convert(ElementType::F32, &[8, 2, 3, 3], &[0.01; 144]).unwrap());
    let h = g.conv2d(h, weight, None, Conv2d { stride: 2, pads: [0, 0, 1, 1], groups: 2 });
    let h = g.upsample_nearest(h, 2);
    let h = g.average_pool(h, 2);
    let scale = g.constant(&[8, 1, 1], &[1f32; 8]);
    let bias = g.constant(&[8, 1, 1], &[0f32; 8]);
    let h = g.group_norm(h, 2, &[8, 4, 4], scale, bias, 1e-5);

    let flat = g.reshape(h, &[0, 8, 16]);
    let turned = g.transpose(flat, &[0, 2, 1]);
    let scores = g.matmul(flat, turned);
    let weights = g.softmax(scores, -1);
    let mixed = g.matmul(weights, flat);
    let [left, right] = g.split(mixed, 1, [3, 5]);
    let mixed = g.concat(&[right, left], 1);
    let part = g.slice(mixed, 2, -3, 16);
    let top = g.reduce_max(part, &[2], true);
    let mean = g.reduce_mean(part, &[2], true);
    let lse = g.reduce_log_sum_exp(part, &[2], true);
    let table = g.constant(&[3, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    let indices = g.constant(&[1], &[1i64]);
    let row = g.gather(table, indices, 0);
    let row = g.linear(row, table, None);
    let row = g.unsqueeze(row, &[0]);
    let row = g.squeeze(row, &[0]);
    let spread = g.sub(top, mean);
    let above = g.greater(spread, 0.0);
    let below = g.less(lse, 0.0);
    let same = g.equal(top, mean);
    let any = g.or(above, below);
    let all = g.and(any, same);
    let chosen = g.choose(all, lse, spread);
    let y = g.mul(chosen, row);
    let y = g.log_softmax(y, 2);
    let rows = g.shape(y);
    let rows = g.cast(rows, ElementType::F32);
    let rows = g.reduce_sum(rows, &[0], false);
    let y = g.add(y, rows);
    g.output("y", y, &["batch".into(), 8.into(), 3.into()]);
    g.finish().unwrap()
}

#[test]
fn every_operation_is_accepted_by_the_builder() {
    let model = every_operation();
    assert_eq!(Model::read(model.to_bytes()).unwrap(), model);
}

// Networks

#[test]
fn networks_refuse_parameters_out_of_range_by_name() {
    type Change = fn(&mut Mixture);
    let cases: &[(Change, &str)] = &[
        (|m| m.weights[0] = 0.0, "weights"),
        (|m| m.weights.clear(), "weights"),
        (|m| m.variances[1] = -1.0, "variances"),
        (|m| m.variances.truncate(2), "variances"),
        (|m| m.variances[0] = f64::NAN, "variances"),
        (|m| m.means = Means::Values(vec![0.0; 7]), "means"),
        (|m| m.shape = vec![], "shape"),
        (|m| m.shape = vec![3, 0, 2], "shape"),
        (|m| m.shape = vec![usize::MAX, 2], "shape"),
        (|m| m.classes = 2, "labels"),
        (|m| m.labels = vec![0; 4], "labels"),
        (|m| (m.classes, m.labels) = (3, vec![0, 1, 0, 1]), "labels"),
        (|m| m.numerical_eps = -1e-9, "numerical_eps"),
        (|m| m.ports = ElementType::F64, "ports"),
        (|m| m.path = Path::Vp { beta_min: -0.1, beta_max: 20.0 }, "beta_min"),
        (
            |m| (m.path, m.half) = (Path::Vp { beta_min: 0.1, beta_max: 20.0 }, Half::Momentum),
            "momentum half",
        ),
        (|m| m.path = Path::Psld { beta_min: 8.0, beta_max: 8.0, gamma: 4.0, nu: 4.0, kappa: 0.04 }, "nu"),
        (|m| m.path = Path::Psld { beta_min: 8.0, beta_max: 8.0, gamma: 0.0, nu: 4.0, kappa: -1.0 }, "kappa"),
    ];
    for (change, name) in cases {
        let mut mixture = example_mixture();
        change(&mut mixture);
        let error = mixture.network(SPEC).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
        assert!(error.message().contains(name), "{name}: {error}");
    }
    type Tweak = fn(&mut UNet);
    let cases: &[(Tweak, &str)] = &[
        (|n| n.skip.clear(), "skip"),
        (|n| n.skip = vec![1.0; 7], "skip"),
        (|n| n.skip[0] = f64::MAX, "float32 cannot hold"),
        (|n| n.width = 6, "width"),
        (|n| n.multipliers.clear(), "multipliers"),
        (|n| n.width = 1 << 40, "2048 channels"),
        (|n| n.blocks = usize::MAX, "blocks"),
        (|n| n.size = 9, "size"),
        (|n| n.multipliers = vec![1; 80], "size"),
        (|n| n.element = ElementType::F64, "element"),
    ];
    for (change, name) in cases {
        let mut net = tiny_unet();
        change(&mut net);
        let error = net.network(SPEC).unwrap_err();
        assert!(error.message().contains(name), "{name}: {error}");
    }
}

#[test]
fn presets_have_the_size_they_promise() {
    let parameters = |net: UNet| -> i64 {
        let model = net.network(SPEC).unwrap();
        model.graph().initializer.iter().map(|tensor| tensor.dims.iter().product::<i64>()).sum()
    };
    let large = parameters(UNet::cifar10(2));
    assert!((35_000_000..37_000_000).contains(&large), "{large}");
    let small = parameters(UNet::small(2));
    assert!(small < 200_000, "{small}");
}

/// The card names the very file beside it.
#[test]
fn the_demo_model_is_the_one_its_card_describes() {
    let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models");
    let bytes = std::fs::read(models.join("cifar10-exact.onnx")).unwrap();
    let card = std::fs::read_to_string(models.join("cifar10-exact.md")).unwrap();
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(card.contains(&hash), "models/cifar10-exact.md should name sha256 {hash}");
    assert!(bytes.len() < 300_000);

    let model = Model::read(bytes).unwrap();
    let ports: Vec<_> = model.inputs().iter().chain(&model.outputs()).map(ToString::to_string).collect();
    assert_eq!(
        ports,
        ["`z` [batch, 6, 32, 32] float32", "`t` [batch] float32", "`eps` [batch, 6, 32, 32] float32"]
    );
    let spec: Json = serde_json::from_str(model.metadata(SPEC_KEY).unwrap()).unwrap();
    assert_eq!(spec["process"]["numerical_eps"], 1e-9);
}

/// Writes every network to a folder for `tests/scripts/onnx_check.py` and prints where:
/// `cargo test --test onnx -- --ignored export --nocapture`.
#[test]
#[ignore = "writes files for tests/scripts/onnx_check.py"]
fn export() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("onnx");
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, model: Model| {
        std::fs::write(folder.join(format!("{name}.onnx")), model.to_bytes()).unwrap();
    };
    for (name, mixture) in mixtures() {
        let halved = Mixture { ports: ElementType::F16, ..mixture.clone() };
        write(&format!("mixture_{name}"), mixture.network(SPEC).unwrap());
        write(&format!("mixture_{name}.f16"), halved.network(SPEC).unwrap());
    }
    for (name, net) in [("tiny", tiny_unet()), ("small", UNet::small(2)), ("cifar10", UNet::cifar10(2))] {
        for (suffix, element) in
            [("", ElementType::F32), (".f16", ElementType::F16), (".bf16", ElementType::Bf16)]
        {
            let net = UNet { element, ..net.clone() };
            write(&format!("unet_{name}{suffix}"), net.network(SPEC).unwrap());
        }
    }
    write("every_operation", every_operation());
    println!("{}", folder.display());
}
