//! Models whose weights are in other files: they are part of what the model is.

use crate::support::runtime;
use psld::network::Network;
use psld::network::onnxruntime::{OnnxNetwork, OnnxOptions};
use psld::onnx::{Dim, ElementType, Graph, Model, Tensor as Weights, proto};
use psld::run::RunOptions;
use psld::spec::{SamplerSpec, What};
use psld::{Error, ModelOptions, Run, Sampler, Status};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// Where the weights of a tensor are.
#[derive(Clone, Copy)]
struct Place<'a> {
    file: &'a str,
    offset: Option<usize>,
    length: Option<usize>,
}

impl<'a> Place<'a> {
    fn of(file: &'a str) -> Self {
        Self { file, offset: None, length: None }
    }
}

/// A network that says that all data are a + b, of 8 elements each, which lie at these places.
fn points(a: Place<'_>, b: Place<'_>) -> Model {
    let mut g = Graph::new("points");
    let z = g.input("z", ElementType::F32, &[Dim::from("N"), Dim::from(8)]);
    g.input("t", ElementType::F32, &[Dim::from("N")]);
    let nothing = g.mul(z, 0.0);
    let [a_value, b_value] = ["a", "b"].map(|name| {
        let zeros = Weights::new(&[8], &[0.0f32; 8]).unwrap();
        g.parameter(name, zeros)
    });
    let x = g.add(nothing, a_value);
    let x = g.add(x, b_value);
    g.output("x0", x, &[Dim::from("N"), Dim::from(8)]);
    let mut model = g.finish().unwrap();
    let spec = r#"{"format": 1, "process": {"kind": "vp"}, "data": {"shape": [8]}, "network": {"prediction": "x0", "output": "x0"}}"#;
    model.set_metadata("psld.spec", spec);
    let eights = |t: &&mut proto::TensorProto| t.dims == [8];
    for (tensor, place) in model.graph_mut().initializer.iter_mut().filter(eights).zip([a, b]) {
        let mut entry = |key: &str, value: String| {
            let (key, value) = (Some(key.to_owned()), Some(value));
            tensor.external_data.push(proto::StringStringEntryProto { key, value });
        };
        entry("location", place.file.into());
        place.offset.into_iter().for_each(|offset| entry("offset", offset.to_string()));
        place.length.into_iter().for_each(|length| entry("length", length.to_string()));
        tensor.data_location = Some(1);
        tensor.raw_data = None;
        tensor.float_data.clear();
    }
    model
}

struct Folder(TempDir);

impl Folder {
    fn new(model: &Model) -> Self {
        let folder = Self(TempDir::new().unwrap());
        fs::write(folder.model(), model.to_bytes()).unwrap();
        folder
    }

    fn model(&self) -> PathBuf {
        self.0.path().join("model.onnx")
    }

    /// Writes floats to a file.
    fn weights(&self, file: &str, values: &[f32]) {
        let path = self.0.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    }

    fn load(&self) -> Result<OnnxNetwork, Error> {
        OnnxNetwork::from_file(runtime(), &self.model(), &OnnxOptions::default())
    }

    fn hash(&self) -> String {
        self.load().unwrap().hash().unwrap()
    }

    fn refused(&self) -> String {
        let error = self.load().unwrap_err();
        assert_eq!(error.status(), Status::ReadFailed, "{error}");
        error.to_string().replace(&self.0.path().display().to_string(), "DIR")
    }
}

#[test]
fn other_weights_are_another_model() {
    let folder = Folder::new(&points(Place::of("a.bin"), Place::of("sub/b.bin")));
    folder.weights("a.bin", &[0.25; 8]);
    folder.weights("sub/b.bin", &[0.5; 8]);
    let first = folder.hash();
    assert_eq!(folder.hash(), first);
    // Either file, and by a single element.
    let mut changed = [0.5; 8];
    changed[7] = 0.75;
    folder.weights("sub/b.bin", &changed);
    let second = folder.hash();
    folder.weights("a.bin", &changed);
    let third = folder.hash();
    assert!(first != second && second != third && first != third);
    // As it was, it is what it was; and in another folder it is the same.
    folder.weights("a.bin", &[0.25; 8]);
    folder.weights("sub/b.bin", &[0.5; 8]);
    assert_eq!(folder.hash(), first);
    let elsewhere = Folder::new(&points(Place::of("a.bin"), Place::of("sub/b.bin")));
    elsewhere.weights("a.bin", &[0.25; 8]);
    elsewhere.weights("sub/b.bin", &[0.5; 8]);
    assert_eq!(elsewhere.hash(), first);
    // Two files that change places are two others.
    elsewhere.weights("a.bin", &[0.5; 8]);
    elsewhere.weights("sub/b.bin", &[0.25; 8]);
    assert_ne!(elsewhere.hash(), first);

    // Changed since it was loaded.
    let network = folder.load().unwrap();
    for _ in 0..2 {
        network.hash().unwrap();
    }
    folder.weights("a.bin", &[0.25; 9]);
    assert!(network.hash().unwrap_err().to_string().contains("a.bin changed since it was loaded"));
}

#[test]
fn a_run_goes_on_with_its_own_weights_only() {
    let folder = Folder::new(&points(Place::of("w"), Place { offset: Some(32), ..Place::of("w") }));
    let sampler = |model: &psld::Model| {
        let spec = SamplerSpec::parse(r#"{"sampler": "ddim", "nfe": 10}"#).unwrap();
        Arc::new(Sampler::compile(model.spec(), &spec, None).unwrap())
    };
    let load = || psld::Model::from_file(&folder.model(), ModelOptions::default()).unwrap();
    folder.weights("w", &[0.25; 16]);
    let model = load();
    let mut run = Run::start(&model, &sampler(&model), RunOptions::new(1)).unwrap();
    run.step(3).unwrap();
    let saved = run.save().unwrap();
    let mut again = Run::load(&load(), &sampler(&model), &saved).unwrap();
    assert!(again.step(usize::MAX).unwrap().done);
    let mut x = [0.0f32; 8];
    again.read(What::Data, &mut x).unwrap();
    assert!(x.iter().all(|x| (x - 0.5).abs() < 0.05), "{x:?}");
    folder.weights("w", &[-0.5; 16]);
    let error = Run::load(&load(), &sampler(&model), &saved).err().unwrap();
    assert_eq!(error.status(), Status::CheckpointInvalid);
    assert!(error.message().contains("another model"), "{error}");
}

#[test]
fn files_that_are_missing_or_torn_are_named() {
    let folder = Folder::new(&points(
        Place { offset: Some(64), length: Some(32), ..Place::of("w") },
        Place { length: Some(32), ..Place::of("v") },
    ));
    folder.weights("w", &[0.5; 24]);
    assert_eq!(
        folder.refused(),
        "DIR/model.onnx: its external data `v` (of `b`) cannot be read: No such file or directory (os error 2)\n\
         hint: keep the files of a model together, under the names that they were exported with"
    );
    folder.weights("v", &[0.5; 8]);
    folder.hash();
    folder.weights("w", &[0.5; 23]);
    assert_eq!(
        folder.refused(),
        "DIR/model.onnx: its external data `w` (of `a`) is torn: expected at least 96 bytes, got 92\n\
         hint: copy or export it again"
    );
    fs::remove_file(folder.0.path().join("v")).unwrap();
    fs::create_dir(folder.0.path().join("v")).unwrap();
    assert!(folder.refused().contains("`v` (of `"));
    // Without a length it follows from the shape.
    let folder = Folder::new(&points(Place::of("w"), Place::of("w")));
    folder.weights("w", &[0.5; 7]);
    assert!(folder.refused().contains("expected at least 32 bytes, got 28"), "{}", folder.refused());
}

#[test]
fn a_model_in_memory_has_no_other_files() {
    let model = points(Place::of("weights.bin"), Place::of("weights.bin"));
    let error = OnnxNetwork::from_bytes(runtime(), &model.to_bytes(), &OnnxOptions::default()).unwrap_err();
    assert_eq!(error.status(), Status::ModelInvalid);
    assert!(error.message().contains("`weights.bin`") && error.message().contains("in memory"), "{error}");
}

/// Where there is none the hash is that of the file, as it was.
#[test]
fn without_external_data_it_is_the_file_s() {
    let path = Path::new("tests/data/onnxruntime/model.onnx");
    let network = OnnxNetwork::from_file(runtime(), path, &OnnxOptions::default()).unwrap();
    let bytes = fs::read(path).unwrap();
    let in_memory = OnnxNetwork::from_bytes(runtime(), &bytes, &OnnxOptions::default()).unwrap();
    assert_eq!(network.hash().unwrap(), in_memory.hash().unwrap());
}
