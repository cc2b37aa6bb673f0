//! ONNX Runtime and models for tests.

use psld::Result;
use psld::network::onnxruntime::{OnnxNetwork, OnnxOptions, Runtime};
use psld::onnx::{Dim, ElementType, Graph, Model};
use std::path::PathBuf;

/// The library that these tests run with; they fail without it.
pub fn library() -> PathBuf {
    let path = match std::env::var_os("PSLD_ONNXRUNTIME") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/onnxruntime/libonnxruntime.so")),
    };
    assert!(path.is_file(), "these tests need ONNX Runtime at {}: run `make onnxruntime`", path.display());
    path
}

pub fn runtime() -> &'static Runtime {
    Runtime::load(Some(&library())).unwrap()
}

/// What varies among the test networks eps = 2 z + t + 10 y.
#[derive(Clone)]
pub struct Affine {
    /// One sample of the state.
    pub state: Vec<usize>,
    pub state_type: ElementType,
    pub time_type: ElementType,
    pub output_type: ElementType,
    pub batch: Dim,
    pub labels: bool,
}

impl Default for Affine {
    fn default() -> Self {
        Self {
            state: vec![6, 4, 4],
            state_type: ElementType::F32,
            time_type: ElementType::F32,
            output_type: ElementType::F32,
            batch: Dim::from("N"),
            labels: false,
        }
    }
}

impl Affine {
    pub fn spec(&self) -> String {
        let mut data = self.state.clone();
        data[0] /= 2;
        let scale = if self.time_type == ElementType::I64 { 1000 } else { 1 };
        let labels = if self.labels { r#", "label_input": "y", "classes": 3"# } else { "" };
        format!(
            r#"{{"format": 1, "process": {{"kind": "psld"}}, "data": {{"shape": {data:?}}},
                "network": {{"time_scale": {scale}{labels}}}}}"#
        )
    }

    pub fn model(&self) -> Model {
        let mut model = self.without_spec();
        model.set_metadata("psld.spec", &self.spec());
        model
    }

    pub fn without_spec(&self) -> Model {
        let mut g = Graph::new("affine");
        let mut dims = vec![self.batch.clone()];
        dims.extend(self.state.iter().map(|&size| Dim::from(size)));
        let z = g.input("z", self.state_type, &dims);
        let t = g.input("t", self.time_type, std::slice::from_ref(&self.batch));
        let mut column = vec![-1];
        column.resize(dims.len(), 1);

        let (z, t) = (g.cast(z, ElementType::F32), g.cast(t, ElementType::F32));
        let t = g.reshape(t, &column);
        let eps = g.mul(z, 2.0);
        let mut eps = g.add(eps, t);
        if self.labels {
            let y = g.input("y", ElementType::I64, std::slice::from_ref(&self.batch));
            let y = g.cast(y, ElementType::F32);
            let y = g.reshape(y, &column);
            let y = g.mul(y, 10.0);
            eps = g.add(eps, y);
        }
        let eps = g.cast(eps, self.output_type);
        g.output("eps", eps, &dims);
        g.finish().unwrap()
    }

    pub fn network(&self) -> OnnxNetwork {
        load(&self.model(), &OnnxOptions::default()).unwrap()
    }
}

pub fn load(model: &Model, options: &OnnxOptions) -> Result<OnnxNetwork> {
    OnnxNetwork::from_bytes(runtime(), &model.to_bytes(), options)
}
