//! What solvers write rows with: states and slots as affine expressions, the network's output as epsilon or
//! score, the closing step.

use super::{SamplerInfo, Solver, clip};
use crate::decode::Decoder;
use crate::noise::Purpose;
use crate::plan::{Affine, Eval, FORMAT, GUIDE, Map, MapKind, Plan, Row, push};
use crate::process::{Mat, Process};
use crate::spec::{Conditioning, DenoiseTime, Guidance, Inpainting, ModelSpec, Restoration, SamplerSpec};
use crate::{Error, Result, Status, guidance, restoration};

/// Stands for the guide's slot until the solver's slots are known.
const UNNUMBERED: usize = usize::MAX;

/// Writes the rows of one plan.
pub(crate) struct Compiler<'a> {
    pub process: &'a Process,
    pub inpaint: Option<Inpainting>,
    pub options: &'a SamplerSpec,
    /// Smallest and largest value of the data.
    pub data_range: [f64; 2],
    guidance: Option<Guidance>,
    restore: Option<&'a Restoration>,
    resample: u32,
    decoder: &'a Decoder,
    output_blocks: usize,
    grid: Vec<f64>,
    rows: Vec<Row>,
    step: usize,
    draws: [u32; 4],
    /// The first error of a row that could not be written.
    failed: Option<Error>,
    /// Rows and draws before the step being written.
    before: (usize, [u32; 4]),
    /// Whether the closing step of a stochastic sampler follows the probability flow.
    flow_closes: bool,
}

impl<'a> Compiler<'a> {
    pub fn new(
        model: &ModelSpec,
        process: &'a Process,
        decoder: &'a Decoder,
        options: &'a SamplerSpec,
        conditioning: &'a Conditioning,
    ) -> Self {
        Self {
            process,
            inpaint: conditioning.inpaint,
            guidance: conditioning.guidance,
            restore: conditioning.restore.as_ref(),
            resample: conditioning.resample(),
            failed: None,
            options,
            data_range: model.data.range,
            decoder,
            output_blocks: model.output_blocks(process.k()),
            grid: Vec::new(),
            rows: Vec::new(),
            step: 0,
            draws: [0; 4],
            before: (0, [0; 4]),
            flow_closes: false,
        }
    }

    pub fn compile(mut self, solver: &Solver, info: &SamplerInfo, grid: Vec<f64>) -> Result<Plan> {
        self.grid.clone_from(&grid);
        let (encodes, denoise) = (self.options.encodes(), self.options.denoise.unwrap_or(true));
        if encodes && denoise {
            self.open_encoding(grid[0])?;
        }
        self.open_inpainting(grid[0]);
        self.before = (self.rows.len(), self.draws);
        (solver.steps)(&mut self, &grid)?;
        if denoise && !encodes {
            self.close(info, grid[grid.len() - 1])?;
            // The closing step of a recipe ends a little beside the clipped estimate; so does rounding.
            if self.options.clipping().is_some() {
                self.rows.push(Row::Map(clip::sample(self.data_range, self.step - 1)));
            }
        }
        self.restore_known(self.step - 1);
        if self.restore.is_some_and(|restore| restore.noise == 0.0) {
            self.rows.push(Row::Map(Map { step: self.step - 1, kind: MapKind::Consistent, into: 0 }));
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.number_guide();
        let uses = |count: fn(&Row) -> usize| self.rows.iter().map(count).max().unwrap_or(0);
        let plan = Plan {
            format: FORMAT,
            sampler: info.name.into(),
            model: None,
            restore: self.restore.cloned(),
            k: self.process.k(),
            output_blocks: self.output_blocks,
            states: uses(|row| match row {
                Row::Eval(row) => row.from + 1,
                Row::Update(row) => {
                    row.states.iter().map(|(state, _)| *state).fold(row.from.max(row.into), usize::max) + 1
                }
                Row::Map(Map { kind: MapKind::Replace { .. } | MapKind::Clip { .. }, into, .. }) => into + 1,
                Row::Map(_) => 1,
            }),
            slots: uses(|row| if let Row::Eval(row) = row { row.slot + 1 } else { 0 }),
            steps: grid.len() - 1,
            nfe: self.rows.iter().filter(|row| matches!(row, Row::Eval(_))).count(),
            grid,
            rows: self.rows,
        };
        // A plan that fails here is a defect of a solver or a parameter at the edge of double precision; either
        // way it must not be executed.
        plan.check().map_err(|e| Error::new(Status::Numeric, "the compiled plan is not usable").source(e))?;
        Ok(plan)
    }

    /// Says that the closing step follows the probability flow, though the sampler is stochastic: for samplers whose law at
    /// t_end is so near to that of the data that the spread which the other closing step takes away is missed.
    pub fn close_along_the_flow(&mut self) {
        self.flow_closes = true;
    }

    /// One noise-free Euler step of length t_end at t_end (docs/methods.md, "Grids"): of the
    /// reverse-time SDE for stochastic samplers (but [`Self::close_along_the_flow`]), of the probability flow for
    /// deterministic ones. On paths that are no
    /// recipes it ends with the data estimate, as their own samplers do.
    fn close(&mut self, info: &SamplerInfo, t_end: f64) -> Result<()> {
        if self.process.parameters().is_none() {
            self.eval(0, t_end, 0);
            let estimate = self.decoder.x0_of_slot(self.process, t_end, 0)?;
            self.set(0, estimate);
            self.close_inpainting(t_end);
            self.count_step();
            return Ok(());
        }
        let (mut t, mut h) = (t_end, t_end);
        let reverse = info.stochastic && !self.flow_closes;
        if reverse && self.options.denoise_time == Some(DenoiseTime::Float32) {
            (t, h) = (1.0 - f64::from((1.0 - t_end) as f32), f64::from(t_end as f32));
        }
        let z = self.state(0);
        let weight = if reverse { 1.0 } else { 0.5 };
        let drift = self.reverse_drift(0, t, 0, &z, weight)?;
        self.set(0, z + h * drift);
        self.close_inpainting(t);
        self.count_step();
        Ok(())
    }

    /// The current value of a state.
    pub fn state(&self, state: usize) -> Affine {
        Affine::state(state, self.process.k())
    }

    /// Calls the network on state `from` at time `t`, and its guide where there is one; then the data estimate is held to
    /// what was measured, and clipped.
    pub fn eval(&mut self, from: usize, t: f64, slot: usize) {
        let input = self.decoder.input(self.process, t);
        let eval = Eval { step: self.step, network: 0, from, t, slot, input };
        let restored = self
            .restore
            .map(|restore| restoration::row(restore, self.data_range, self.decoder, self.process, &eval));
        let clipped = self.options.clipping();
        let clipped = clipped.map(|clip| clip::row(clip, self.data_range, self.decoder, self.process, &eval));
        let guided = self.guidance.map_or(Ok(None), |guidance| {
            guidance::rows(&guidance, self.decoder, self.process, &eval, UNNUMBERED)
        });
        self.rows.push(Row::Eval(eval));
        match guided {
            Ok(None) => {}
            Ok(Some((call, map))) => self.rows.extend([Row::Eval(call), Row::Map(map)]),
            Err(error) => self.failed = self.failed.take().or(Some(error)),
        }
        for row in [restored, clipped].into_iter().flatten() {
            match row {
                Ok(row) => self.rows.push(Row::Map(row)),
                Err(error) => self.failed = self.failed.take().or(Some(error)),
            }
        }
    }

    /// Gives the guide's slot its number, the first that the solver does not use.
    fn number_guide(&mut self) {
        let used = self.rows.iter().map(|row| match row {
            Row::Eval(Eval { network: 0, slot, .. }) => slot + 1,
            _ => 0,
        });
        let number = used.max().unwrap_or(0);
        for row in &mut self.rows {
            match row {
                Row::Eval(Eval { network: GUIDE, slot, .. })
                | Row::Map(Map {
                    kind: MapKind::Cfg { slot, .. } | MapKind::Gradient { slot, .. }, ..
                }) => {
                    *slot = number;
                }
                _ => {}
            }
        }
    }

    /// Epsilon of the call that filled `slot` at time `t`, where `z` expresses the state it saw in terms of the
    /// state of the wanted expression.
    pub fn epsilon(&self, slot: usize, t: f64, z: &Affine) -> Result<Affine> {
        let (p, r) = self.decoder.epsilon(self.process, t)?;
        Ok(p * z.clone() + Affine::slot(slot, r))
    }

    /// The score of the same call.
    pub fn score(&self, slot: usize, t: f64, z: &Affine) -> Result<Affine> {
        Ok(self.process.score_from_eps(t) * self.epsilon(slot, t, z)?)
    }

    /// The data estimate of the same call: one row.
    pub fn x0(&self, slot: usize, t: f64, z: &Affine) -> Result<Affine> {
        let (on_z, on_output) = self.decoder.x0(self.process, t)?;
        Ok(on_z * z.clone() + Affine::slot(slot, on_output))
    }

    /// Calls the network on state `from` (which `z` expresses) and gives the drift of the reverse-time dynamics,
    /// -F z + weight G G^T score: weight 1 for the SDE, 1/2 for the probability flow.
    pub fn reverse_drift(
        &mut self,
        from: usize,
        t: f64,
        slot: usize,
        z: &Affine,
        weight: f64,
    ) -> Result<Affine> {
        self.eval(from, t, slot);
        let score = self.score(slot, t, z)?;
        Ok(-self.process.drift(t) * z.clone() + self.process.diffusion(t) * weight * score)
    }

    /// A fresh solver draw, C xi.
    pub fn solver_noise(&mut self, c: Mat) -> Affine {
        let draw = self.draw(Purpose::Solver);
        Affine::noise(Purpose::Solver, draw, c)
    }

    /// The number of the next draw for `purpose`.
    pub fn draw(&mut self, purpose: Purpose) -> u32 {
        let next = &mut self.draws[purpose as usize];
        *next += 1;
        *next - 1
    }

    /// Writes an expression into a state.
    pub fn set(&mut self, into: usize, value: Affine) {
        push(&mut self.rows, value.into_update(self.step, into));
    }

    /// Appends a row as it is.
    pub fn row(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// The number of the step being written.
    pub fn step(&self) -> usize {
        self.step
    }

    /// The time at which the step being written ends.
    pub fn end_of_step(&self) -> f64 {
        self.grid[self.step + 1]
    }

    /// As often as the conditioning asks for, takes the state from the end of the step being written back to its start, by the
    /// forward process, and writes the step's rows again with noise of their own.
    pub fn repeat_step(&mut self) {
        let resample = self.resample;
        if resample == 1 {
            return;
        }
        let (t, u) = (self.grid[self.step], self.end_of_step());
        let (first, draws) = self.before;
        let rows = self.rows[first..].to_vec();
        if remembers(&rows) {
            // What it remembers lies on the path that is left when the step is taken again.
            let of = if self.restore.is_some() { "restore" } else { "inpaint" };
            let name = self.options.name();
            let error = Error::new(
                Status::Unsupported,
                format!("{of}: resample = {resample}: sampler `{name}` makes its steps of earlier ones, too"),
            );
            let hint = "resample with `ancestral`, `sscs`, `em` or `heun`, or with `order` 1 of another than `unipc` and `sa_solver`";
            self.failed = self.failed.take().or(Some(error.hint(hint)));
            return;
        }
        let used: [u32; 4] = std::array::from_fn(|purpose| self.draws[purpose] - draws[purpose]);
        for _ in 1..resample {
            let noise = self.solver_noise(self.process.added_noise(u, t).psd_factor());
            self.set(0, self.process.transition(u, t) * self.state(0) + noise);
            let offset = self.draws;
            for row in &rows {
                let mut row = row.clone();
                row.draws_mut().for_each(|(purpose, draw)| {
                    *draw = *draw - draws[purpose as usize] + offset[purpose as usize];
                });
                match row {
                    Row::Update(update) => push(&mut self.rows, update),
                    other => self.rows.push(other),
                }
            }
            (0..4).for_each(|purpose| self.draws[purpose] += used[purpose]);
        }
    }

    /// Says that the rows so far end a step.
    pub(super) fn count_step(&mut self) {
        self.step += 1;
        self.before = (self.rows.len(), self.draws);
    }
}

/// Whether a step's rows read what was made before the step, the state aside.
fn remembers(rows: &[Row]) -> bool {
    let (mut states, mut slots) = (vec![0], Vec::new());
    rows.iter().any(|row| match row {
        Row::Eval(eval) => {
            slots.push(eval.slot);
            !states.contains(&eval.from)
        }
        Row::Update(update) => {
            let old = !states.contains(&update.from)
                || update.states.iter().any(|(state, _)| !states.contains(state))
                || update.terms.iter().any(|(slot, _)| !slots.contains(slot));
            states.push(update.into);
            old
        }
        Row::Map(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ModelSpec;

    /// What is added to the output moves the data estimate by exactly what was asked for, whatever the network predicts.
    #[test]
    fn the_estimate_moves_by_what_is_asked() {
        let specs = [
            r#"{"process": {"kind": "psld"}, "network": {}}"#,
            r#"{"process": {"kind": "psld"}, "network": {"prediction": "score"}}"#,
            r#"{"process": {"kind": "psld", "score_matching": "dsm"}, "network": {}}"#,
            r#"{"process": {"kind": "cld"}, "network": {"predicts": "momentum"}}"#,
            r#"{"process": {"kind": "vp"}, "network": {}}"#,
            r#"{"process": {"kind": "vp"}, "network": {"prediction": "v"}}"#,
            r#"{"process": {"kind": "vp"}, "network": {"prediction": "x0"}}"#,
            r#"{"process": {"kind": "edm"}, "network": {"prediction": "edm"}}"#,
            r#"{"process": {"kind": "flow"}, "network": {"prediction": "velocity"}}"#,
            r#"{"process": {"kind": "psld"}, "network": {"process": {"kind": "vp"}}}"#,
        ];
        for text in specs {
            let text = text.replacen('{', r#"{"format": 1, "data": {"shape": [4]}, "#, 1);
            let spec = ModelSpec::parse(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let (process, decoder) = (spec.process().unwrap(), Decoder::new(&spec).unwrap());
            for t in [0.003, 0.1, 0.5, 0.9] {
                let (_, on_output) = decoder.x0(&process, t).unwrap();
                let moved = (on_output * decoder.output_from_x0(&process, t).unwrap())[(0, 0)];
                assert!((moved - 1.0).abs() < 1e-9, "{text} at t = {t}: moved by {moved}");
            }
        }
    }
}
