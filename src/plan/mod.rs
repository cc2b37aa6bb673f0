//! Plans: a sampler as plain data.
//!
//! On a Gaussian path every sampler advances the state by an affine map of things already computed,
//! z' = A z + sum_j B_j eps_j + sum_j C_j xi_j, with k x k blocks that depend on time only. A plan is the list of
//! those maps and of the network calls between them: printable, hashable, executable by anyone.

mod affine;
mod explain;

pub(crate) use affine::{Affine, push};

use crate::noise::Purpose;
use crate::process::{MAX_K, Mat};
use crate::{Error, Result, Status};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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
    /// Which network; 0 is the model's own.
    pub network: usize,
    /// State to read.
    pub from: usize,
    /// Forward time.
    pub t: f64,
    /// Slot to write.
    pub slot: usize,
}

/// state `into` = A state `from` + sum of B slot + sum of C noise.
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
    /// State to change.
    pub into: usize,
}

/// The kinds of [`Map`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
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
            Row::Map(Map { kind: MapKind::Replace { noise, .. }, .. }) => (&[][..], noise.as_ref()),
        };
        many.iter().chain(one).map(|(purpose, draw, _)| (*purpose, *draw))
    }

    /// The numbers of those draws, to change.
    pub(crate) fn draws_mut(&mut self) -> impl Iterator<Item = (Purpose, &mut u32)> {
        let (many, one) = match self {
            Row::Eval(_) => (&mut [][..], None),
            Row::Update(row) => (&mut row.noise[..], None),
            Row::Map(Map { kind: MapKind::Replace { noise, .. }, .. }) => (&mut [][..], noise.as_mut()),
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
        let plan: Self = serde_json::from_str(text)
            .map_err(|e| Error::new(Status::InvalidConfig, format!("plan: {e}")))?;
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
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Number of noise draws of shape [k*C, ...] that a run consumes, the prior not included.
    pub fn draws(&self) -> usize {
        self.rows.iter().map(|row| row.draws().count()).sum()
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
        let mut written_slots = vec![false; self.slots];
        for (i, row) in self.rows.iter().enumerate() {
            self.check_row(row, &mut written_states, &mut written_slots)
                .or_else(|what| bad(format!("row {i}: {what}")))?;
        }
        Ok(())
    }

    fn check_row(&self, row: &Row, states: &mut [bool], slots: &mut [bool]) -> Result<(), String> {
        let read = |written: &[bool], index: usize, what: &str| match written.get(index) {
            None => Err(missing(what, index, written.len())),
            Some(false) => Err(format!("{what} {index} is read before it is written")),
            Some(true) => Ok(()),
        };
        let shape = |m: &Mat, cols: usize, what: &str| {
            if (m.rows(), m.cols()) != (self.k, cols) {
                return Err(format!("{what} is {} x {}, expected {} x {cols}", m.rows(), m.cols(), self.k));
            }
            if !m.is_finite() { Err(format!("{what} is not finite")) } else { Ok(()) }
        };
        match row {
            Row::Eval(eval) => {
                read(states, eval.from, "state")?;
                if eval.network != 0 {
                    return Err(format!("network {}: this version runs network 0 only", eval.network));
                }
                if !(eval.t > 0.0 && eval.t <= 1.0) {
                    return Err(format!("t = {}: expected 0 < t <= 1", eval.t));
                }
                *slots.get_mut(eval.slot).ok_or_else(|| missing("slot", eval.slot, self.slots))? = true;
            }
            Row::Update(update) => {
                read(states, update.from, "state")?;
                shape(&update.a, self.k, "A")?;
                for (slot, b) in &update.terms {
                    read(slots, *slot, "slot")?;
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
        }
        Ok(())
    }
}

fn missing(what: &str, index: usize, count: usize) -> String {
    format!("there is no {what} {index}; the plan has {count}, counted from 0")
}
