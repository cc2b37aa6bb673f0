//! Plans: a sampler as plain data.
//!
//! On a Gaussian path every sampler advances the state by an affine map of things already computed,
//! z' = A z + sum_j B_j eps_j + sum_j C_j xi_j, with k x k blocks that depend on time only. A plan is the list of
//! those maps and of the network calls between them: printable, hashable, executable by anyone.

mod affine;
mod explain;

pub(crate) use affine::{Affine, push};

use crate::hash::hex;
use crate::noise::Purpose;
use crate::process::{MAX_K, Mat};
use crate::spec::strict::{self, without_mark};
use crate::spec::{Clip, GuidanceKind, Restoration};
use crate::{Error, Result, Status};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The guide's number in plans.
pub(crate) const GUIDE: usize = 1;

/// Version of the plan's JSON form.
pub const FORMAT: u32 = 1;

/// A compiled sampler.
///
/// State 0 holds the prior draw at the start and the sample at the end. Slots hold raw network outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Version of this form; [`FORMAT`].
    pub format: u32,
    /// The sampler that made it.
    pub sampler: String,
    /// SHA-256 of the only model that the plan is meant for, where it was tuned for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What was measured, of a plan that restores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restoration>,
    /// Blocks of a state (1 VP, 2 position and momentum, ...).
    pub k: usize,
    /// Blocks of a network output: k, or 1.
    pub output_blocks: usize,
    /// Number of states.
    pub states: usize,
    /// Number of slots.
    pub slots: usize,
    /// Solver steps, the closing one not included.
    pub steps: usize,
    /// Network calls, the closing one included.
    pub nfe: usize,
    /// The time grid.
    pub grid: Vec<f64>,
    /// What is done, in order.
    pub rows: Vec<Row>,
}

/// One row of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "row", rename_all = "lowercase", deny_unknown_fields)]
#[allow(clippy::large_enum_variant)] // Rows are few.
pub enum Row {
    /// Calls the network on a state.
    Eval(Eval),
    /// The affine map.
    Update(Update),
    /// What is not affine.
    Map(Map),
}

/// slot = network(state `from`, time `t`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eval {
    /// The step that the row belongs to, from 0; the closing step is the last.
    pub step: usize,
    /// Which network: 0 is the model, 1 its guide (the model with the null class, or a network that the run is given).
    pub network: usize,
    /// State to read.
    pub from: usize,
    /// Forward time.
    pub t: f64,
    /// Slot to write.
    pub slot: usize,
    /// What the network sees where that is not the state at time `t`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Input>,
}

/// The input of a network of k = 1 that was trained on another path, or that scales its input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// 1 x k: the network's input is this times the state.
    pub project: Mat,
    /// Forward time on the network's own path.
    pub t: f64,
}

/// state `into` = A state `from` + sum of A further states + sum of B slot + sum of C noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// The step that the row belongs to.
    pub step: usize,
    /// State to read; may be `into`.
    pub from: usize,
    /// k x k.
    #[serde(rename = "A")]
    pub a: Mat,
    /// Further states to read (what a multistep sampler keeps of earlier calls) with their k x k coefficients; none
    /// of them is `into`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<(usize, Mat)>,
    /// Slots with their k x output_blocks coefficients B.
    pub terms: Vec<(usize, Mat)>,
    /// Noise draws (purpose, draw) with their k x k coefficients C.
    pub noise: Vec<(Purpose, u32, Mat)>,
    /// State to write.
    pub into: usize,
}

/// A map that is not affine in the state alone.
// `deny_unknown_fields` is the kind's: beside `flatten` it would refuse the kind's own fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Map {
    /// The step that the row belongs to.
    pub step: usize,
    /// What is done.
    #[serde(flatten)]
    pub kind: MapKind,
    /// State to change; of the kinds that guide, slot.
    pub into: usize,
}

/// The kinds of [`Map`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
#[allow(clippy::large_enum_variant)] // Rows are few.
pub enum MapKind {
    /// Inpainting: where the mask is 1, the state becomes mean * image + C noise.
    Replace {
        /// Forward time of the perturbation kernel (for people; the numbers are in `mean` and `noise`).
        t: f64,
        /// k x 1.
        mean: Mat,
        /// (purpose, draw, C), or none for the kernel's mean.
        noise: Option<(Purpose, u32, Mat)>,
    },
    /// The first block of the state, where the sample stands, is clipped to [low, high]; its other blocks stay.
    Clip {
        /// Lower bound, of the data's range.
        low: f64,
        /// Upper bound; low < high.
        high: f64,
    },
    /// The data estimate X state `from` + Y slot `into` is clipped, and slot `into` gains B times what that moved it by.
    Threshold(Threshold),
    /// Classifier-free guidance: slot `into` becomes (1 + w) slot `into` - w slot `slot`, with the scale w of each
    /// sample; samples of scale 0 stay as they are.
    Cfg {
        /// The guide's output.
        slot: usize,
        /// How far the result is brought back to the spread that slot `into` had over one sample, 0 to 1.
        rescale: f64,
    },
    /// Classifier guidance: slot `into` gains w B slot `slot`, with the scale w of each sample.
    Gradient {
        /// The guide's output, the gradient of log p(y | z_t, t): k blocks.
        slot: usize,
        /// output_blocks x k: what the gradient is in terms of the network's output.
        #[serde(rename = "B")]
        b: Mat,
    },
    /// Restoration: the data estimate X state `from` + Y slot `into` is moved to what the measurement says, and slot `into`
    /// gains B times what it was moved by.
    Restore {
        /// The state that the network saw.
        from: usize,
        /// 1 x k.
        #[serde(rename = "X")]
        on_z: Mat,
        /// 1 x output_blocks.
        #[serde(rename = "Y")]
        on_output: Mat,
        /// output_blocks x 1: what a change of the data estimate is in terms of the network's output.
        #[serde(rename = "B")]
        b: Mat,
        /// Variance of the data given the state, which noise in the measurement is weighed against; above 0.
        variance: f64,
    },
    /// The last word of a restoration without noise: the first block of the state becomes the nearest image that gives the
    /// measurement.
    Consistent,
}

/// How a call's data estimate is clipped ([`crate::spec::Clip`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// The state that the network saw.
    pub from: usize,
    /// 1 x k.
    #[serde(rename = "X")]
    pub on_z: Mat,
    /// 1 x output_blocks.
    #[serde(rename = "Y")]
    pub on_output: Mat,
    /// output_blocks x 1: what a change of the data estimate is in terms of the network's output.
    #[serde(rename = "B")]
    pub b: Mat,
    /// Lower bound, of the data's range.
    pub low: f64,
    /// Upper bound; low < high.
    pub high: f64,
    /// Of dynamic thresholding: the percentile of a sample's distances from the middle of the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentile: Option<f64>,
    /// The most that the percentile counts for, in halves of the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

impl MapKind {
    /// The draw that the map consumes.
    fn noise(&self) -> Option<&(Purpose, u32, Mat)> {
        match self {
            Self::Replace { noise, .. } => noise.as_ref(),
            Self::Clip { .. }
            | Self::Threshold(_)
            | Self::Cfg { .. }
            | Self::Gradient { .. }
            | Self::Restore { .. }
            | Self::Consistent => None,
        }
    }

    /// What kind of guidance it is a part of.
    fn guidance(&self) -> Option<GuidanceKind> {
        match self {
            Self::Cfg { .. } => Some(GuidanceKind::Cfg),
            Self::Gradient { .. } => Some(GuidanceKind::Classifier),
            Self::Replace { .. }
            | Self::Clip { .. }
            | Self::Threshold(_)
            | Self::Restore { .. }
            | Self::Consistent => None,
        }
    }
}

impl Row {
    /// The step that the row belongs to.
    pub fn step(&self) -> usize {
        match self {
            Row::Eval(row) => row.step,
            Row::Update(row) => row.step,
            Row::Map(row) => row.step,
        }
    }

    /// The draws that the row consumes, in order.
    pub fn draws(&self) -> impl Iterator<Item = (Purpose, u32)> + '_ {
        let (many, one) = match self {
            Row::Eval(_) => (&[][..], None),
            Row::Update(row) => (&row.noise[..], None),
            Row::Map(Map { kind, .. }) => (&[][..], kind.noise()),
        };
        many.iter().chain(one).map(|(purpose, draw, _)| (*purpose, *draw))
    }

    /// The numbers of those draws, to change.
    pub(crate) fn draws_mut(&mut self) -> impl Iterator<Item = (Purpose, &mut u32)> {
        let (many, one) = match self {
            Row::Eval(_) => (&mut [][..], None),
            Row::Update(row) => (&mut row.noise[..], None),
            Row::Map(Map { kind: MapKind::Replace { noise, .. }, .. }) => (&mut [][..], noise.as_mut()),
            Row::Map(_) => (&mut [][..], None),
        };
        many.iter_mut().chain(one).map(|(purpose, draw, _)| (*purpose, draw))
    }
}

impl Plan {
    /// Reads a plan from JSON and checks it.
    ///
    /// # Errors
    /// [`Status::InvalidConfig`], naming the row and the rule.
    pub fn parse(text: &str) -> Result<Self> {
        const BAD: Status = Status::InvalidConfig;
        let plan: Self = match serde_json::from_str(without_mark(text)) {
            Ok(plan) => plan,
            // Once more as other documents are read, which takes longer and says more.
            Err(e) => {
                strict::from_value::<Self>(strict::parse(text, BAD, "plan")?, BAD, "plan")?;
                return Err(Error::new(BAD, format!("plan: {e}")));
            }
        };
        plan.check()?;
        Ok(plan)
    }

    /// The plan as JSON, one row a line.
    pub fn to_json(&self) -> String {
        explain::to_json(self)
    }

    /// The plan as a table for people.
    pub fn explain(&self) -> String {
        explain::table(self)
    }

    /// SHA-256 of the plan's JSON, in hexadecimal: equal for equal numbers on every platform.
    pub fn hash(&self) -> String {
        let digest = Sha256::digest(self.to_json().as_bytes());
        hex(&digest)
    }

    /// Number of noise draws of shape [k*C, ...] that a run consumes, the prior not included.
    pub fn draws(&self) -> usize {
        self.rows.iter().map(|row| row.draws().count()).sum()
    }

    /// Whether it leads from data to noise: its times increase.
    pub(crate) fn encodes(&self) -> bool {
        matches!(self.grid[..], [first, .., last] if first < last)
    }

    /// The kind of guidance whose maps the plan holds.
    pub(crate) fn guidance(&self) -> Option<GuidanceKind> {
        self.maps().find_map(MapKind::guidance)
    }

    /// Whether a map completes images.
    pub(crate) fn inpaints(&self) -> bool {
        self.maps().any(|kind| matches!(kind, MapKind::Replace { .. }))
    }

    /// Whether a map holds samples to a measurement.
    fn restores(&self) -> bool {
        self.maps().any(|kind| matches!(kind, MapKind::Restore { .. } | MapKind::Consistent))
    }

    fn maps(&self) -> impl Iterator<Item = &MapKind> {
        self.rows.iter().filter_map(|row| if let Row::Map(map) = row { Some(&map.kind) } else { None })
    }

    /// The network whose outputs each slot holds.
    pub(crate) fn slot_networks(&self) -> Vec<usize> {
        let mut networks = vec![0; self.slots];
        for row in &self.rows {
            if let Row::Eval(eval) = row {
                networks[eval.slot] = eval.network;
            }
        }
        networks
    }

    /// Whether a network call sees a part of the state only.
    pub(crate) fn projects(&self) -> bool {
        self.rows.iter().any(|row| matches!(row, Row::Eval(Eval { input: Some(_), .. })))
    }

    /// Checks that the plan can be executed: indices, shapes, finite numbers, no slot read before it is written,
    /// steps in order.
    pub fn check(&self) -> Result<()> {
        let bad = |message: String| Err(Error::new(Status::InvalidConfig, format!("plan: {message}")));
        if self.format != FORMAT {
            return bad(format!("format {} is not known to this version, which reads {FORMAT}", self.format));
        }
        if !(1..=MAX_K).contains(&self.k) || !(1..=self.k).contains(&self.output_blocks) {
            return bad(format!(
                "k = {}, output_blocks = {}: expected 1 <= output_blocks <= k <= {MAX_K}",
                self.k, self.output_blocks
            ));
        }
        // A slot or state is a whole batch of samples: a count past this is a damaged file.
        if !(1..=64).contains(&self.states) || self.slots > 64 {
            return bad(format!(
                "{} states and {} slots: expected 1 to 64 and at most 64",
                self.states, self.slots
            ));
        }
        let nfe = self.rows.iter().filter(|row| matches!(row, Row::Eval(_))).count();
        if nfe != self.nfe {
            return bad(format!("nfe = {}, but the rows call the network {nfe} times", self.nfe));
        }
        // Runs report their progress by the rows' step numbers.
        if self.rows.is_empty() {
            return bad("there are no rows".into());
        }
        let mut step = 0;
        for (i, row) in self.rows.iter().enumerate() {
            if row.step() != step && (i == 0 || row.step() != step + 1) {
                return bad(format!(
                    "row {i}: step {} after step {step}: steps count from 0, one by one",
                    row.step()
                ));
            }
            step = row.step();
        }
        let mut written_states = vec![false; self.states];
        written_states[0] = true;
        let mut written_slots = vec![None; self.slots];
        for (i, row) in self.rows.iter().enumerate() {
            self.check_row(row, &mut written_states, &mut written_slots)
                .or_else(|what| bad(format!("row {i}: {what}")))?;
        }
        let kinds = |kind| self.maps().filter_map(MapKind::guidance).any(|k| k == kind);
        let kinds = (kinds(GuidanceKind::Cfg), kinds(GuidanceKind::Classifier));
        if kinds == (true, true) {
            return bad("maps of kinds `cfg` and `gradient`: the guide of a plan is one network".into());
        }
        match (&self.restore, self.restores()) {
            (None, true) => {
                return bad("maps of kinds `restore` or `consistent`, but no `restore` says of what".into());
            }
            (Some(_), false) => return bad("`restore` is given, but no map reads it".into()),
            (Some(restore), true) => restore.check().map_err(|e| e.context("plan"))?,
            (None, false) => {}
        }
        if kinds == (false, false) && written_slots.contains(&Some(GUIDE)) {
            return bad("the guide (network 1) is called, but no map reads its output".into());
        }
        Ok(())
    }

    /// `slots` holds the network that wrote each slot.
    fn check_row(&self, row: &Row, states: &mut [bool], slots: &mut [Option<usize>]) -> Result<(), String> {
        let read = |written: &[bool], index: usize, what: &str| match written.get(index) {
            None => Err(missing(what, index, written.len())),
            Some(false) => Err(format!("{what} {index} is read before it is written")),
            Some(true) => Ok(()),
        };
        let read_slot = |slots: &[Option<usize>], index: usize, network: usize| match slots.get(index) {
            None => Err(missing("slot", index, slots.len())),
            Some(None) => Err(format!("slot {index} is read before it is written")),
            Some(Some(written)) if *written != network => {
                let holds = if network == GUIDE { "the model's" } else { "the guide's" };
                Err(format!("slot {index} holds {holds} output"))
            }
            Some(_) => Ok(()),
        };
        let sized = |m: &Mat, rows: usize, cols: usize, what: &str| {
            if (m.rows(), m.cols()) != (rows, cols) {
                return Err(format!("{what} is {} x {}, expected {rows} x {cols}", m.rows(), m.cols()));
            }
            if !m.is_finite() { Err(format!("{what} is not finite")) } else { Ok(()) }
        };
        let shape = |m: &Mat, cols: usize, what: &str| sized(m, self.k, cols, what);
        // A map that moves the data estimate of a call.
        let estimate =
            |states: &[bool], slots: &[Option<usize>], from, into, (x, y, b): (&Mat, &Mat, &Mat)| {
                read(states, from, "state")?;
                read_slot(slots, into, 0)?;
                sized(x, 1, self.k, "X")?;
                sized(y, 1, self.output_blocks, "Y")?;
                sized(b, self.output_blocks, 1, "B")
            };
        let range = |low: f64, high: f64| match low.is_finite() && high.is_finite() && low < high {
            true => Ok(()),
            false => Err(format!("low = {low:?}, high = {high:?}: expected finite low < high")),
        };
        match row {
            Row::Eval(eval) => {
                read(states, eval.from, "state")?;
                if eval.network > GUIDE {
                    let network = eval.network;
                    return Err(format!("network {network}: there are 0 (the model) and 1 (its guide)"));
                }
                let times = [("t", Some(eval.t)), ("input.t", eval.input.as_ref().map(|input| input.t))];
                for (name, t) in times {
                    if t.is_some_and(|t| !(t > 0.0 && t <= 1.0)) {
                        return Err(format!("{name} = {}: expected 0 < {name} <= 1", t.unwrap_or_default()));
                    }
                }
                if let Some(Input { project: m, .. }) = &eval.input {
                    if (m.rows(), m.cols()) != (1, self.k) {
                        let (rows, cols) = (m.rows(), m.cols());
                        return Err(format!("input.project is {rows} x {cols}, expected 1 x {}", self.k));
                    }
                    if !m.is_finite() {
                        return Err("input.project is not finite".into());
                    }
                }
                let slot = slots.get_mut(eval.slot).ok_or_else(|| missing("slot", eval.slot, self.slots))?;
                if slot.is_some_and(|network| network != eval.network) {
                    return Err(format!("slot {} is written by the model and by its guide", eval.slot));
                }
                *slot = Some(eval.network);
            }
            Row::Update(update) => {
                read(states, update.from, "state")?;
                shape(&update.a, self.k, "A")?;
                for (state, a) in &update.states {
                    read(states, *state, "state")?;
                    shape(a, self.k, "A")?;
                    if *state == update.into {
                        return Err(format!("state {state} is among `states` and written: it can be `from`"));
                    }
                }
                for (slot, b) in &update.terms {
                    read_slot(slots, *slot, 0)?;
                    shape(b, self.output_blocks, "B")?;
                }
                for (_, _, c) in &update.noise {
                    shape(c, self.k, "C")?;
                }
                *states.get_mut(update.into).ok_or_else(|| missing("state", update.into, self.states))? =
                    true;
            }
            Row::Map(Map { kind: MapKind::Replace { mean, noise, .. }, into, .. }) => {
                read(states, *into, "state")?;
                shape(mean, 1, "mean")?;
                if let Some((_, _, c)) = noise {
                    shape(c, self.k, "C")?;
                }
            }
            Row::Map(Map { kind: MapKind::Clip { low, high }, into, .. }) => {
                read(states, *into, "state")?;
                range(*low, *high)?;
            }
            Row::Map(Map { kind: MapKind::Threshold(row), into, .. }) => {
                let Threshold { from, on_z, on_output, b, low, high, percentile, max } = row;
                estimate(states, slots, *from, *into, (on_z, on_output, b))?;
                range(*low, *high)?;
                let clip = match (percentile, max) {
                    (Some(percentile), max) => Clip::Percentile { percentile: *percentile, max: *max },
                    (None, None) => Clip::Range,
                    (None, Some(_)) => return Err("max: it bounds a percentile, and none is given".into()),
                };
                clip.check().map_err(|e| e.message().to_owned())?;
            }
            Row::Map(Map { kind: MapKind::Cfg { slot, rescale }, into, .. }) => {
                read_slot(slots, *into, 0)?;
                read_slot(slots, *slot, GUIDE)?;
                if !(0.0..=1.0).contains(rescale) {
                    return Err(format!("rescale = {rescale:?}: expected 0 to 1"));
                }
            }
            Row::Map(Map { kind: MapKind::Gradient { slot, b }, into, .. }) => {
                read_slot(slots, *into, 0)?;
                read_slot(slots, *slot, GUIDE)?;
                sized(b, self.output_blocks, self.k, "B")?;
            }
            Row::Map(Map { kind: MapKind::Restore { from, on_z, on_output, b, variance }, into, .. }) => {
                estimate(states, slots, *from, *into, (on_z, on_output, b))?;
                if !(*variance > 0.0 && variance.is_finite()) {
                    return Err(format!("variance = {variance:?}: expected a number above 0"));
                }
            }
            Row::Map(Map { kind: MapKind::Consistent, into, .. }) => {
                read(states, *into, "state")?;
                if self.restore.as_ref().is_some_and(|restore| restore.noise != 0.0) {
                    return Err("kind `consistent` is for measurements without noise".into());
                }
            }
        }
        Ok(())
    }
}

fn missing(what: &str, index: usize, count: usize) -> String {
    format!("there is no {what} {index}; the plan has {count}, counted from 0")
}
