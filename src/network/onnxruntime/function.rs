//! A graph as a function of states: any of its tensors can be the result, of any shape.

use super::api::{Outlet, Session, Tensors};
use super::buffers::{self, Floats, Times};
use super::network::{self, NoSession};
use super::ports::{self, Batch, Float, Graph, Named, Port, Side, Time};
use super::{OnnxOptions, Provider, Runtime};
use crate::array::Values;
use crate::decode::Clock;
use crate::network::Backend;
use crate::onnx::proto::ValueInfoProto;
use crate::onnx::{ElementType, Model};
use crate::spec::{ModelSpec, SPEC_KEY};
use crate::{Error, Result, Status};
use std::ffi::CString;
use std::path::Path;

/// A loaded graph. With a spec its inputs are those of a score network; without one it has one input, of samples.
pub(crate) struct Function {
    name: String,
    runtime: &'static Runtime,
    provider: Provider,
    session: Session,
    spec: Option<ModelSpec>,
    clock: Option<Clock>,
    state: Port<Float>,
    time: Option<Port<Time>>,
    label: Option<Port<()>>,
    /// The number of samples that the graph is fixed to, if it is.
    batch: Option<usize>,
    output: CString,
    tensors: [Tensors; 3],
    state_buffer: Floats,
    time_buffer: Option<Times>,
    label_buffer: Vec<i64>,
}

/// What came out: `values` of `shape`, whose first dimension is that of the samples.
pub(crate) struct Made {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Function {
    /// Loads the graph in the file `path`, whose bytes `model` was read from; `output` names the result, which may
    /// be any tensor inside.
    pub fn load(
        runtime: &'static Runtime,
        path: &Path,
        mut model: Model,
        output: &str,
        options: &OnnxOptions,
    ) -> Result<Self> {
        let name = path.display().to_string();
        let files = network::Files::find(path)?;
        let spec = match (&options.spec, model.metadata(SPEC_KEY)) {
            (Some(spec), _) => Some(spec.clone()),
            (None, Some(text)) => Some(ModelSpec::parse(text).map_err(|e| e.context(&name))?),
            (None, None) => None,
        };
        let declared = model.outputs().iter().any(|port| port.name == output);
        if !declared {
            if files.has_external() {
                let message = format!("{name}: `{output}` is inside of a model with external data");
                return Err(Error::new(Status::ModelMismatch, message)
                    .hint("export it with its weights inside, or with this tensor among its outputs"));
            }
            expose(&mut model, output).map_err(|e| e.context(&name))?;
        }
        let (provider, session) = network::start(runtime, options, |session_options| {
            // From the file where that is possible: only then is external data found.
            if declared {
                Session::from_file(runtime.env(), session_options, path)
            } else {
                Session::from_bytes(runtime.env(), session_options, &model.to_bytes())
            }
        })
        .map_err(|e| match e {
            NoSession::Refused(e) => e,
            NoSession::Model(cause) => {
                let status = cause.status_or(Status::ModelInvalid);
                Error::new(status, format!("{name}: the model cannot be loaded")).source(cause)
            }
        })?;
        let failed = |cause| {
            Error::new(Status::ModelInvalid, format!("{name}: the graph cannot be read")).source(cause)
        };
        let (inputs, outputs) = (session.inputs().map_err(failed)?, session.outputs().map_err(failed)?);
        let graph = Graph { model: &name, inputs: &inputs, outputs: &outputs };
        let mut batch = Batch { model: &name, fixed: None };
        let (state, time, label) = match &spec {
            Some(spec) => ports_of(&graph, spec, &mut batch)?,
            None => (only_input(&graph, &mut batch)?, None, None),
        };
        // The inside of a graph may fix the batch where its inputs leave it open: ONNX Runtime infers it for the output.
        let outlet = outputs.iter().find(|outlet| outlet.name == output);
        let size = outlet.and_then(|outlet| usize::try_from(*outlet.dims.first()?).ok());
        if let Some(size) = size.filter(|size| *size > 0) {
            batch.meet(format!("output `{output}`"), size)?;
        }
        let batch = batch.fixed.map(|(_, size)| size);
        let tensors = |sample: &[usize]| Tensors::new(runtime.env(), sample).map_err(failed);
        Ok(Self {
            tensors: [tensors(&state.sample)?, tensors(&[])?, tensors(&[])?],
            state_buffer: Floats::new(state.element),
            time_buffer: time.as_ref().map(|port| Times::new(port.element)),
            label_buffer: Vec::new(),
            // A name out of a protobuf string may hold a NUL, but then the session has no such output.
            output: CString::new(output).map_err(|e| {
                Error::new(Status::ModelMismatch, format!("{name}: output `{output}`")).source(e)
            })?,
            name,
            runtime,
            provider,
            session,
            clock: spec.as_ref().map(Clock::new).transpose()?,
            spec,
            state,
            time,
            label,
            batch,
        })
    }

    /// The spec, where there is one.
    pub fn spec(&self) -> Option<&ModelSpec> {
        self.spec.as_ref()
    }

    /// The shape of one sample of the state.
    pub fn sample(&self) -> &[usize] {
        &self.state.sample
    }

    /// The type of the state.
    pub fn element(&self) -> ElementType {
        match self.state.element {
            Float::F32 => ElementType::F32,
            Float::F16 => ElementType::F16,
            Float::Bf16 => ElementType::Bf16,
        }
    }

    pub fn backend(&self) -> Backend {
        network::backend(self.runtime, self.provider)
    }

    /// The result for `n` states at time `t` with label `y` (by default the null class).
    pub fn run(&mut self, states: &[f32], n: usize, t: f64, y: Option<i64>) -> Result<Made> {
        let len = self.state.len();
        let size = self.batch.unwrap_or(n);
        let mut made = Made { shape: vec![n], values: Vec::new() };
        let mut start = 0;
        while start < n {
            let used = size.min(n - start);
            let (sample, values) = self.run_piece(&states[start * len..][..used * len], used, size, t, y)?;
            if start > 0 && sample != made.shape[1..] {
                let message = format!("{}: the output's shape changes between samples", self.name);
                return Err(Error::new(Status::ModelMismatch, message));
            }
            made.shape.truncate(1);
            made.shape.extend(sample);
            made.values.extend(values);
            start += used;
        }
        Ok(made)
    }

    /// `used` samples in a batch of `size`: the shape of the result for one of them, and its values.
    fn run_piece(
        &mut self,
        states: &[f32],
        used: usize,
        size: usize,
        t: f64,
        y: Option<i64>,
    ) -> Result<(Vec<usize>, Vec<f32>)> {
        let name = &self.name;
        let failed = |cause: super::api::Failure| {
            let status = cause.status_or(Status::RuntimeFailure);
            Error::new(status, format!("{name}: the network cannot be run")).source(cause)
        };
        let [state_tensors, time_tensors, label_tensors] = &mut self.tensors;
        let len = self.state.len();
        self.state_buffer.fill(Values::F32(states), size * len, len).map_err(failed)?;
        let state = self.state_buffer.input(state_tensors, size).map_err(failed)?;
        let z = &*self.state.name;
        let spec = self.spec.as_ref().map(|spec| &spec.network);
        let time = match (&self.time, &mut self.time_buffer, &self.clock) {
            (Some(port), Some(buffer), Some(clock)) => {
                buffer.fill(&vec![t; used], clock, size).map_err(failed)?;
                Some((&*port.name, buffer.input(time_tensors, size).map_err(failed)?))
            }
            _ => None,
        };
        let label = match (&self.label, spec) {
            (Some(port), Some(spec)) => {
                self.label_buffer.clear();
                self.label_buffer.resize(size, y.unwrap_or(spec.classes.into()));
                Some((&*port.name, label_tensors.input(&self.label_buffer, size).map_err(failed)?))
            }
            _ => None,
        };
        let (session, output) = (&mut self.session, &*self.output);
        let tensor = match (time, label) {
            (Some((t, time)), Some((y, label))) => session.run([z, t, y], [state, time, label], output, None),
            (Some((t, time)), None) => session.run([z, t], [state, time], output, None),
            (None, _) => session.run([z], [state], output, None),
        }
        .map_err(failed)?;
        let wrong = |got: String| {
            let message = format!(
                "output `{}` of {name}: expected [{size}, ...] of floating-point numbers, got {got}",
                self.output.to_string_lossy()
            );
            Error::new(Status::ModelMismatch, message)
        };
        let tensor = tensor.ok_or_else(|| wrong("nothing".into()))?;
        let (element, dims) = tensor.describe().map_err(failed)?;
        let outlet = Outlet { name: self.output.to_string_lossy().into_owned(), element, dims };
        let dims: Option<Vec<usize>> = outlet.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
        let (Some(float), Some([batch, sample @ ..])) = (ports::float(element), dims.as_deref()) else {
            return Err(wrong(ports::described(&outlet)));
        };
        let count: usize = sample.iter().product();
        if *batch != size || count == 0 {
            return Err(wrong(ports::described(&outlet)));
        }
        let mut values = vec![0.0; used * count];
        buffers::read(&tensor, float, &mut values).map_err(failed)?;
        Ok((sample.to_vec(), values))
    }
}

/// Makes the tensor `name` inside the graph one of its outputs.
fn expose(model: &mut Model, name: &str) -> Result<()> {
    let inside = model.graph().node.iter().any(|node| node.output.iter().any(|output| output == name));
    if !inside || name.is_empty() {
        let declared: Vec<_> = model.outputs().iter().map(|port| format!("`{}`", port.name)).collect();
        let message = format!("there is no tensor `{name}`; the outputs are {}", declared.join(", "));
        return Err(Error::new(Status::ModelMismatch, message));
    }
    // Its type follows from the graph.
    model.graph_mut().output.push(ValueInfoProto { name: Some(name.into()), ..Default::default() });
    Ok(())
}

type Inputs = (Port<Float>, Option<Port<Time>>, Option<Port<()>>);

/// The inputs that a spec names.
fn ports_of(graph: &Graph<'_>, spec: &ModelSpec, batch: &mut Batch<'_>) -> Result<Inputs> {
    let network = &spec.network;
    let mut sample = spec.data.shape.clone();
    sample[0] *= spec.input_blocks(spec.process()?.k());
    let state = Side::Input.named(&network.state_input, "the state", "network.state_input");
    let state = graph.port(&state, sample, "", ports::float, FLOATS, batch)?;
    let time = Side::Input.named(&network.time_input, "the time", "network.time_input");
    let time =
        graph.port(&time, vec![], "", ports::time_type, "float32, float16, bfloat16 or int64", batch)?;
    // A classifier's spec may be that of the network that it guides, which takes labels.
    let label = network.label_input.as_deref().filter(|name| graph.inputs.iter().any(|i| i.name == *name));
    let label = label.map(|name| {
        let label: Named<'_> = Side::Input.named(name, "the label", "network.label_input");
        let int64 = |element| (element == super::api::Element::I64).then_some(());
        graph.port(&label, vec![], "", int64, "int64", batch)
    });
    graph.has_no_other_inputs(network)?;
    Ok((state, Some(time), label.transpose()?))
}

/// The input of a graph without a spec.
fn only_input(graph: &Graph<'_>, batch: &mut Batch<'_>) -> Result<Port<Float>> {
    let model = graph.model;
    let [input] = graph.inputs else {
        let has: Vec<_> = graph.inputs.iter().map(ports::described).collect();
        let message = format!("{model}: expected one input, the samples; it has {}", has.join(", "));
        return Err(Error::new(Status::ModelMismatch, message)
            .hint("a network of states and times needs a spec (metadata key `psld.spec`)"));
    };
    let sample: Option<Vec<usize>> = match &input.dims[..] {
        [_, sample @ ..] if !sample.is_empty() => {
            sample.iter().map(|&dim| usize::try_from(dim).ok().filter(|&dim| dim > 0)).collect()
        }
        _ => None,
    };
    let Some(sample) = sample else {
        let message = format!(
            "{model}: input {}: expected [N, C, H, W], or another shape, with every size but N fixed",
            ports::described(input)
        );
        return Err(Error::new(Status::ModelMismatch, message));
    };
    let named = Side::Input.named(&input.name, "the samples", "network.state_input");
    graph.port(&named, sample, "", ports::float, FLOATS, batch)
}

const FLOATS: &str = "float32, float16 or bfloat16";
