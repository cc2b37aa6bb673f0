//! A graph's inputs and outputs, checked against the spec.

use super::api::{Element, Outlet};
use crate::spec::{ModelSpec, NetworkSpec, NetworkTime};
use crate::{Error, Result, Status};
use std::ffi::CString;

/// The element types of states and outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Float {
    F32,
    F16,
    Bf16,
}

/// The element types of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    Float(Float),
    I64,
}

/// One input or output that the sampler uses.
#[derive(Debug)]
pub(super) struct Port<T> {
    pub name: CString,
    pub element: T,
    /// The shape of one sample.
    pub sample: Vec<usize>,
}

impl<T> Port<T> {
    /// The number of values of one sample.
    pub fn len(&self) -> usize {
        self.sample.iter().product()
    }
}

/// All inputs and outputs that the sampler uses.
#[derive(Debug)]
pub(super) struct Ports {
    pub state: Port<Float>,
    pub time: Port<Time>,
    pub label: Option<Port<()>>,
    pub output: Port<Float>,
    /// The number of samples that the graph is fixed to, if it is.
    pub batch: Option<usize>,
}

impl Ports {
    /// Finds in the graph of `model` the ports that `spec` names.
    ///
    /// # Errors
    /// [`Status::ModelMismatch`] with expected and found name, shape or type.
    pub fn find(model: &str, spec: &ModelSpec, inputs: &[Outlet], outputs: &[Outlet]) -> Result<Self> {
        let graph = Graph { model, inputs, outputs };
        let network = &spec.network;
        let k = spec.input_blocks(spec.process()?.k());
        let blocks = spec.output_blocks(k);
        let with_blocks = |blocks: usize| {
            let mut sample = spec.data.shape.clone();
            sample[0] *= blocks;
            sample
        };
        let channels = match k {
            1 => String::new(),
            2 => "PSLD models take position and momentum channels".into(),
            k => format!("a process with k = {k} takes {k} blocks of the data's channels"),
        };
        let output_channels = if blocks == k {
            channels.clone()
        } else {
            "the spec says that the output is one block of the data's channels (network.predicts, prediction)"
                .into()
        };

        let mut batch = Batch { model, fixed: None };
        let state = Side::Input.named(&network.state_input, "the state", "network.state_input");
        let state = graph.port(
            &state,
            with_blocks(k),
            &channels,
            float,
            "float32, float16 or bfloat16",
            &mut batch,
        )?;
        let time = Side::Input.named(&network.time_input, "the time", "network.time_input");
        let time =
            graph.port(&time, vec![], "", time_type, "float32, float16, bfloat16 or int64", &mut batch)?;
        let label = match &network.label_input {
            None => None,
            Some(name) => {
                let label = Side::Input.named(name, "the label", "network.label_input");
                let int64 = |element| (element == Element::I64).then_some(());
                Some(graph.port(&label, vec![], "", int64, "int64", &mut batch)?)
            }
        };
        let output = Side::Output.named(&network.output, "the output", "network.output");
        let output = graph.port(
            &output,
            with_blocks(blocks),
            &output_channels,
            float,
            "float32, float16 or bfloat16",
            &mut batch,
        )?;

        let integers = spec.network_time() == NetworkTime::Index;
        if time.element == Time::I64 && network.time_scale <= 1.0 && !integers {
            let lost = match spec.network_time() {
                NetworkTime::Sigma | NetworkTime::CNoise => "noise levels would be rounded to integers",
                _ => "times between 0 and 1 would all round to 0 or 1",
            };
            let message = format!(
                "input `{}` of {model} is int64, and network.time_scale is {}: {lost}",
                network.time_input, network.time_scale
            );
            return Err(Error::new(Status::ModelMismatch, message).hint(
                "set network.time_scale in the spec to what the network was trained with, such as 1000",
            ));
        }
        graph.has_no_other_inputs(network)?;
        Ok(Self { state, time, label, output, batch: batch.fixed.map(|(_, size)| size) })
    }
}

pub(super) fn float(element: Element) -> Option<Float> {
    match element {
        Element::F32 => Some(Float::F32),
        Element::F16 => Some(Float::F16),
        Element::BF16 => Some(Float::Bf16),
        _ => None,
    }
}

pub(super) fn time_type(element: Element) -> Option<Time> {
    if element == Element::I64 { Some(Time::I64) } else { float(element).map(Time::Float) }
}

#[derive(Clone, Copy)]
pub(super) enum Side {
    Input,
    Output,
}

/// What the spec says about a port.
pub(super) struct Named<'a> {
    side: Side,
    name: &'a str,
    role: &'static str,
    field: &'static str,
}

impl Side {
    pub fn named<'a>(self, name: &'a str, role: &'static str, field: &'static str) -> Named<'a> {
        Named { side: self, name, role, field }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

/// The largest batch that a graph may be fixed to. A call is filled up to it, and with the limit of a sample's size
/// it keeps all lengths far from overflow.
const MAX_BATCH: usize = 1 << 16;

/// The batch size that a graph's ports agree on.
pub(super) struct Batch<'a> {
    pub model: &'a str,
    pub fixed: Option<(String, usize)>,
}

impl Batch<'_> {
    pub fn meet(&mut self, port: String, size: usize) -> Result<()> {
        if size > MAX_BATCH {
            let message =
                format!("{port} of {}: a fixed batch of {size} is more than {MAX_BATCH}", self.model);
            return Err(Error::new(Status::ModelMismatch, message));
        }
        match &self.fixed {
            Some((other, fixed)) if *fixed != size => Err(Error::new(
                Status::ModelMismatch,
                format!("{}: {other} has a fixed batch of {fixed}, but {port} one of {size}", self.model),
            )),
            _ => {
                self.fixed = Some((port, size));
                Ok(())
            }
        }
    }
}

pub(super) struct Graph<'a> {
    pub model: &'a str,
    pub inputs: &'a [Outlet],
    pub outputs: &'a [Outlet],
}

impl Graph<'_> {
    /// That `network` names all inputs.
    pub fn has_no_other_inputs(&self, network: &NetworkSpec) -> Result<()> {
        let known = [Some(&network.state_input), Some(&network.time_input), network.label_input.as_ref()];
        let extra: Vec<_> =
            self.inputs.iter().filter(|input| !known.contains(&Some(&input.name))).map(described).collect();
        if extra.is_empty() {
            return Ok(());
        }
        let message = format!("{} has inputs that its spec does not name: {}", self.model, extra.join(", "));
        Err(Error::new(Status::ModelMismatch, message)
            .hint("export the network without them, or name a label input in the spec (network.label_input)"))
    }

    pub fn port<T>(
        &self,
        named: &Named<'_>,
        sample: Vec<usize>,
        note: &str,
        accept: impl Fn(Element) -> Option<T>,
        accepted: &str,
        batch: &mut Batch<'_>,
    ) -> Result<Port<T>> {
        let (word, name, model) = (named.side.word(), named.name, self.model);
        let outlets = match named.side {
            Side::Input => self.inputs,
            Side::Output => self.outputs,
        };
        let Some(outlet) = outlets.iter().find(|outlet| outlet.name == name) else {
            let has: Vec<_> = outlets.iter().map(described).collect();
            let has = if has.is_empty() { "none".into() } else { has.join(", ") };
            let message = format!("{model} has no {word} `{name}` ({}); it has {has}", named.role);
            return Err(Error::new(Status::ModelMismatch, message).hint(format!(
                "name it in the spec ({}), or export the network with this name",
                named.field
            )));
        };
        let fits = match outlet.dims.split_first() {
            // No shape is declared; where samples are single numbers that could be a graph for one sample only,
            // which would broadcast silently.
            None => !sample.is_empty(),
            Some((&first, rest)) => {
                (first == -1 || first > 0)
                    && rest.len() == sample.len()
                    && rest
                        .iter()
                        .zip(&sample)
                        .all(|(&dim, &size)| dim == -1 || usize::try_from(dim) == Ok(size))
            }
        };
        let element = accept(outlet.element);
        let wanted = shape(None, &sample.iter().map(|&size| size as i64).collect::<Vec<_>>());
        let (wanted, got) = match (fits, &element) {
            (true, Some(_)) => (String::new(), String::new()),
            (true, None) => (accepted.to_string(), outlet.element.to_string()),
            (false, Some(_)) => (wanted, declared(&outlet.dims)),
            (false, None) => {
                (format!("{wanted} {accepted}"), format!("{} {}", declared(&outlet.dims), outlet.element))
            }
        };
        let (Some(element), true) = (element, fits) else {
            let mut message = format!("{word} `{name}` of {model}: expected {wanted}, got {got}");
            let other_channels = outlet.dims.get(1).copied() != sample.first().map(|&size| size as i64);
            if !fits && other_channels && !note.is_empty() {
                message = format!("{message}; {note}");
            }
            return Err(Error::new(Status::ModelMismatch, message));
        };
        if let Some(size) = outlet.dims.first().and_then(|&first| usize::try_from(first).ok()) {
            batch.meet(format!("{word} `{name}`"), size)?;
        }
        // A name that came out of a C string has no NUL.
        Ok(Port { name: CString::new(name).unwrap_or_default(), element, sample })
    }
}

pub(super) fn described(outlet: &Outlet) -> String {
    format!("`{}` {} {}", outlet.name, declared(&outlet.dims), outlet.element)
}

fn declared(dims: &[i64]) -> String {
    match dims.split_first() {
        None => "(a scalar, or no shape)".into(),
        Some((&first, rest)) => shape(Some(first), rest),
    }
}

/// "[N,6,32,32]", with N for an open batch and ? for another open dimension.
pub(super) fn shape(batch: Option<i64>, sample: &[i64]) -> String {
    let batch = batch.filter(|&size| size != -1).map_or("N".into(), |size| size.to_string());
    let sizes = sample.iter().map(|&dim| if dim == -1 { ",?".into() } else { format!(",{dim}") });
    format!("[{batch}{}]", sizes.collect::<String>())
}
