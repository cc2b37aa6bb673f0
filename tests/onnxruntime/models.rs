//! Loading models: what is accepted, and what is said about what is not.

use crate::support::{Affine, load, runtime};
use psld::network::Network;
use psld::network::onnxruntime::{LogLevel, OnnxNetwork, OnnxOptions, Provider, set_log_sink};
use psld::onnx::{Dim, ElementType, Graph, Model, proto};
use psld::spec::ModelSpec;
use psld::{Error, Status};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

fn refused(model: &Model) -> Error {
    load(model, &OnnxOptions::default()).unwrap_err()
}

/// The error of loading a file with these bytes, or none.
fn file_refused(bytes: Option<&[u8]>) -> String {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.onnx");
    if let Some(bytes) = bytes {
        std::fs::write(&path, bytes).unwrap();
    }
    let error = OnnxNetwork::from_file(runtime(), &path, &OnnxOptions::default()).unwrap_err();
    format!("{error:?}").replace(&folder.path().display().to_string(), "DIR")
}

#[test]
fn files_that_are_no_models() {
    let model = Affine::default().model().to_bytes();
    let mut report = vec![
        file_refused(None),
        file_refused(Some(b"")),
        file_refused(Some(b"just some text\n")),
        file_refused(Some(b"\x89PNG\r\n\x1a\n")),
        file_refused(Some(&model[..model.len() / 2])),
    ];
    let folder = OnnxNetwork::from_file(runtime(), Path::new("/"), &OnnxOptions::default()).unwrap_err();
    report.push(format!("{folder:?}"));
    insta::assert_snapshot!(report.join("\n\n"), @"
    [ReadFailed] DIR/model.onnx: the model cannot be read: No such file or directory (os error 2)

    [ModelInvalid] DIR/model.onnx: this is an empty file, not an ONNX model

    [ModelInvalid] DIR/model.onnx: this is not an ONNX model: failed to decode Protobuf message: buffer underflow

    [ModelInvalid] DIR/model.onnx: this is a PNG image, not an ONNX model

    [ModelInvalid] DIR/model.onnx: the ONNX model is truncated or damaged: failed to decode Protobuf message: ModelProto.graph: buffer underflow

    [ReadFailed] /: the model cannot be read: it is not a file
    ");
}

/// A path is bytes: those that are no UTF-8 are as good as others, and a NUL in one is an error that names it.
#[cfg(unix)]
#[test]
fn paths_of_all_bytes() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = TempDir::new().unwrap();
    let named = |name: &[u8]| folder.path().join(OsStr::from_bytes(name));
    let path = named(b"m\xff\xfe.onnx");
    std::fs::write(&path, Affine::default().model().to_bytes()).unwrap();
    let model = psld::Model::from_file(&path, Default::default()).unwrap();
    assert_eq!(model.hash().unwrap().len(), 64);
    for name in [&b"m\0.onnx"[..], b"m.json\0", b"\0"] {
        for error in [
            psld::Model::from_file(&named(name), Default::default()).unwrap_err(),
            OnnxNetwork::from_file(runtime(), &named(name), &OnnxOptions::default()).unwrap_err(),
            psld::Model::read_spec(&named(name), None).unwrap_err(),
        ] {
            assert_eq!(error.status(), Status::ReadFailed, "{error}");
            assert!(error.to_string().contains("NUL byte"), "{error}");
        }
    }
}

#[test]
fn a_model_that_onnx_runtime_cannot_run() {
    let mut model = Affine::default().model();
    model.graph_mut().node[0].op_type = Some("Frobnicate".into());
    let error = refused(&model);
    assert_eq!(error.status(), Status::ModelInvalid);
    assert!(error.to_string().contains("Frobnicate"), "{error}");
}

#[test]
fn specs() {
    let mut model = Affine::default().model();
    model.set_metadata("psld.spec", "{");
    let malformed = refused(&model);
    model.set_metadata("psld.spec", &Affine::default().spec().replace("shape", "shapes"));
    let unknown_field = refused(&model);
    let bare = Affine::default().without_spec();
    let missing = refused(&bare);
    insta::assert_snapshot!(format!("{missing:?}\n\n{malformed:?}\n\n{unknown_field:?}"), @"
    [SpecMissing] the model in memory: metadata key `psld.spec` is missing
    hint: export with psld-training, or pass a spec (--spec, psld_model_options.spec_json)

    [SpecInvalid] the model in memory: psld.spec: not valid JSON: EOF while parsing an object at line 1 column 1

    [SpecInvalid] the model in memory: psld.spec: data: unknown field `shapes`
    hint: did you mean `shape`?
    ");

    // A spec of the caller's replaces that of the model.
    let spec = ModelSpec::parse(&Affine::default().spec()).unwrap();
    let options = OnnxOptions { spec: Some(spec.clone()), ..Default::default() };
    for model in [&model, &bare] {
        assert_eq!(*load(model, &options).unwrap().spec(), spec);
    }
}

#[test]
fn ports_that_are_not_what_the_spec_says() {
    let affine = Affine::default();
    let with_spec = |model: &Model, from: &str, to: &str| {
        let mut model = model.clone();
        model.set_metadata("psld.spec", &affine.spec().replace(from, to));
        model
    };
    let named =
        |fields: &str| with_spec(&affine.model(), r#""network": {"#, &format!(r#""network": {{{fields}, "#));
    let mut report = vec![
        refused(&with_spec(&Affine { state: vec![3, 4, 4], ..affine.clone() }.model(), "", "")),
        refused(&with_spec(&affine.model(), "4, 4", "4, 8")),
        refused(&with_spec(&affine.model(), "[3, 4, 4]", "[3, 16]")),
        refused(&with_spec(&affine.model(), "\"time_scale\"", "\"predicts\": \"momentum\", \"time_scale\"")),
        refused(&Affine { state_type: ElementType::F64, ..affine.clone() }.model()),
        refused(&Affine { output_type: ElementType::I32, ..affine.clone() }.model()),
        refused(&Affine { time_type: ElementType::I32, ..affine.clone() }.model()),
        refused(&with_spec(&Affine { time_type: ElementType::I64, ..affine.clone() }.model(), "", "")),
        refused(&named(r#""state_input": "x""#)),
        refused(&named(r#""label_input": "y", "classes": 3"#)),
        refused(&with_spec(&Affine { labels: true, ..affine.clone() }.model(), "", "")),
    ];

    // A time for one sample only would broadcast, and an output without a shape is seen when it is made.
    let mut g = Graph::new("scalar time");
    let state = [Dim::from("N"), Dim::from(6), Dim::from(4), Dim::from(4)];
    let z = g.input("z", ElementType::F32, &state);
    let t = g.input("t", ElementType::F32, &[]);
    let eps = g.add(z, t);
    g.output("eps", eps, &state);
    let mut scalar_time = g.finish().unwrap();
    scalar_time.set_metadata("psld.spec", &affine.spec());
    report.push(refused(&scalar_time));

    let mut mixed = Affine { batch: Dim::from(8), ..affine.clone() }.model();
    mixed.graph_mut().input[1] =
        Affine { batch: Dim::from(1), ..affine.clone() }.model().graph().input[1].clone();
    report.push(refused(&mixed));

    report.push(refused(&Affine { batch: Dim::from(1 << 40), ..affine.clone() }.model()));

    assert!(report.iter().all(|e| e.status() == Status::ModelMismatch), "{report:?}");
    let report: Vec<String> = report.iter().map(Error::to_string).collect();
    insta::assert_snapshot!(report.join("\n\n"), @"
    input `z` of the model in memory: expected [N,6,4,4], got [N,3,4,4]; PSLD models take position and momentum channels

    input `z` of the model in memory: expected [N,6,4,8], got [N,6,4,4]

    input `z` of the model in memory: expected [N,6,16], got [N,6,4,4]

    output `eps` of the model in memory: expected [N,3,4,4], got [N,6,4,4]; the spec says that the output is one block of the data's channels (network.predicts, prediction)

    input `z` of the model in memory: expected float32, float16 or bfloat16, got float64

    output `eps` of the model in memory: expected float32, float16 or bfloat16, got int32

    input `t` of the model in memory: expected float32, float16, bfloat16 or int64, got int32

    input `t` of the model in memory is int64, and network.time_scale is 1: times between 0 and 1 would all round to 0 or 1
    hint: set network.time_scale in the spec to what the network was trained with, such as 1000

    the model in memory has no input `x` (the state); it has `z` [N,6,4,4] float32, `t` [N] float32
    hint: name it in the spec (network.state_input), or export the network with this name

    the model in memory has no input `y` (the label); it has `z` [N,6,4,4] float32, `t` [N] float32
    hint: name it in the spec (network.label_input), or export the network with this name

    the model in memory has inputs that its spec does not name: `y` [N] int64
    hint: export the network without them, or name a label input in the spec (network.label_input)

    input `t` of the model in memory: expected [N], got (a scalar, or no shape)

    the model in memory: input `z` has a fixed batch of 8, but input `t` one of 1

    input `z` of the model in memory: a fixed batch of 1099511627776 is more than 65536
    ");
}

#[test]
fn an_input_that_is_no_tensor() {
    // A sequence of sequences, at which bindings of ONNX Runtime are known to panic.
    use proto::type_proto::Value::{SequenceType, TensorType};
    let mut model = Affine::default().model();
    let tensor = model.graph().input[0].r#type.clone();
    assert!(matches!(tensor.as_ref().unwrap().value, Some(TensorType(_))));
    let sequence = |of: Option<proto::TypeProto>| proto::TypeProto {
        value: Some(SequenceType(proto::type_proto::Wrapper { elem_type: of.map(Box::new) })),
        ..Default::default()
    };
    let nested = sequence(Some(sequence(tensor)));
    let extra = proto::ValueInfoProto { name: Some("s".into()), r#type: Some(nested), ..Default::default() };
    model.graph_mut().input.push(extra);
    let error = refused(&model);
    assert!(matches!(error.status(), Status::ModelMismatch | Status::ModelInvalid), "{error:?}");
}

#[test]
fn providers() {
    let model = Affine::default().model();
    let with = |providers: &[Provider]| {
        load(&model, &OnnxOptions { providers: providers.to_vec(), ..Default::default() })
    };
    let (cpu, cuda, tensorrt) = (Provider::Cpu, Provider::Cuda, Provider::TensorRt);
    assert_eq!(with(&[cpu]).unwrap().provider(), cpu);
    // Falling back is what the caller writes down.
    assert_eq!(with(&[tensorrt, cuda, cpu]).unwrap().backend().provider, "cpu");

    let redact = |error: Error| {
        let library = runtime().library_path().display().to_string();
        assert_eq!(error.status(), Status::ProviderUnavailable);
        let providers = runtime().providers().join(", ");
        let text = error.to_string().replace(&library, "ORT").replace(&providers, "PROVIDERS");
        text.replace(&format!("({}, ORT)", runtime().version()), "(VERSION, ORT)")
    };
    let report = [with(&[cuda]), with(&[tensorrt]), with(&[tensorrt, cuda])];
    let report: Vec<String> = report.into_iter().map(|result| redact(result.unwrap_err())).collect();
    insta::assert_snapshot!(report.join("\n\n"), @"
    provider `cuda`: this build of ONNX Runtime (VERSION, ORT) has only PROVIDERS
    hint: needs an NVIDIA GPU with its driver, the libraries of the `onnxruntime-gpu` package, and those of CUDA 13 and cuDNN 9 where the loader finds them (LD_LIBRARY_PATH)

    provider `tensorrt`: this build of ONNX Runtime (VERSION, ORT) has only PROVIDERS
    hint: needs an NVIDIA GPU with its driver, the libraries of the `onnxruntime-gpu` package, and those of CUDA 13, cuDNN 9 and TensorRT 10 (libnvinfer.so.10) where the loader finds them (LD_LIBRARY_PATH)

    none of the providers can be had:
      provider `tensorrt`: this build of ONNX Runtime (VERSION, ORT) has only PROVIDERS
      provider `cuda`: this build of ONNX Runtime (VERSION, ORT) has only PROVIDERS
    hint: needs an NVIDIA GPU with its driver, the libraries of the `onnxruntime-gpu` package, and those of CUDA 13, cuDNN 9 and TensorRT 10 (libnvinfer.so.10) where the loader finds them (LD_LIBRARY_PATH)
    ");

    insta::assert_snapshot!(with(&[]).unwrap_err(), @"
    providers: the list is empty
    hint: known: cpu, cuda, tensorrt
    ");
    insta::assert_snapshot!("cud".parse::<Provider>().unwrap_err(), @"
    unknown provider `cud`
    hint: did you mean `cuda`?
    ");
    insta::assert_snapshot!("rocm".parse::<Provider>().unwrap_err(), @"
    unknown provider `rocm`
    hint: known: cpu, cuda, tensorrt
    ");
    insta::assert_snapshot!("CUDAExecutionProvidr".parse::<Provider>().unwrap_err(), @"
    unknown provider `CUDAExecutionProvidr`
    hint: did you mean `CUDAExecutionProvider`?
    ");
    for provider in Provider::ALL {
        assert_eq!(provider.to_string().parse::<Provider>().unwrap(), provider);
        assert_eq!(provider.onnxruntime_name().parse::<Provider>().unwrap(), provider);
    }
}

#[test]
fn options_out_of_range() {
    let model = Affine::default().model();
    let threads = load(&model, &OnnxOptions { threads: 1_000_000, ..Default::default() });
    let device = load(&model, &OnnxOptions { device: -1, ..Default::default() });
    insta::assert_snapshot!(format!("{:?}\n{:?}", threads.unwrap_err(), device.unwrap_err()), @"
    [InvalidArgument] threads: expected at most 1024, got 1000000
    [InvalidArgument] device: expected 0 or more, got -1
    ");
}

#[test]
fn backend_and_hash() {
    let bytes = Affine::default().model().to_bytes();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, &bytes).unwrap();
    let file = OnnxNetwork::from_file(runtime(), &path, &OnnxOptions::default()).unwrap();
    let memory = OnnxNetwork::from_bytes(runtime(), &bytes, &OnnxOptions::default()).unwrap();
    assert_eq!(file.hash().unwrap(), memory.hash().unwrap());
    assert_eq!(file.hash().unwrap().len(), 64);

    let backend = file.backend();
    assert_eq!((backend.name, backend.provider.as_str()), ("onnxruntime", "cpu"));
    assert_eq!(backend.version, runtime().version());
    assert_eq!(backend.library.as_deref().map(Path::new), Some(runtime().library_path()));

    std::fs::write(&path, &bytes[1..]).unwrap();
    let error = format!("{:?}", file.hash().unwrap_err());
    insta::assert_snapshot!(error.replace(&folder.path().display().to_string(), "DIR"), @"[ReadFailed] DIR/model.onnx: the model cannot be hashed: DIR/model.onnx changed since it was loaded");
}

#[test]
fn weights_in_a_file_beside_the_model() {
    let mut model = Affine::default().model();
    let weight = model.graph_mut().initializer.iter_mut().find(|t| t.data_type == Some(1)).unwrap();
    let entry = |key: &str, value: &str| proto::StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value.into()),
    };
    let data = weight.raw_data.take().unwrap();
    weight.external_data = vec![entry("location", "weights.bin"), entry("length", &data.len().to_string())];
    weight.data_location = Some(1);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, model.to_bytes()).unwrap();

    let without = OnnxNetwork::from_file(runtime(), &path, &OnnxOptions::default()).unwrap_err();
    assert_eq!(without.status(), Status::ReadFailed);
    assert!(without.to_string().contains("weights.bin"), "{without}");
    std::fs::write(folder.path().join("weights.bin"), data).unwrap();
    OnnxNetwork::from_file(runtime(), &path, &OnnxOptions::default()).unwrap();
}

#[test]
fn messages_go_to_the_sink() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    set_log_sink(Some(Arc::new(move |level, text| {
        sink.lock().unwrap().push((level, text.to_owned()));
        panic!("a panic in the sink goes no further");
    })));
    // An initializer that no node uses: ONNX Runtime warns and removes it.
    let mut model = Affine::default().model();
    let mut unused = model.graph().initializer[0].clone();
    unused.name = Some("unused_weight".into());
    model.graph_mut().initializer.push(unused);
    load(&model, &OnnxOptions::default()).unwrap();
    set_log_sink(None);
    let seen = seen.lock().unwrap_or_else(|e| e.into_inner());
    assert!(
        seen.iter().any(|(level, text)| *level == LogLevel::Warning && text.contains("unused_weight")),
        "{seen:?}"
    );
}
