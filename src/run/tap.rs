//! A run row by row, for who makes a plan while it runs.

use super::{Cursor, Run};
use crate::Result;
use crate::array::Buffer;
use crate::plan::{Plan, Row};
use std::sync::Arc;

impl Run {
    /// The row that comes next, with its number; none after the last one, or for an adaptive sampler.
    pub(crate) fn upcoming(&self) -> Option<(usize, &Row)> {
        match &self.rows {
            Cursor::Planned { plan, next } => plan.rows.get(*next).map(|row| (*next, row)),
            Cursor::Adaptive { .. } => None,
        }
    }

    /// Puts another row in the place of the one that comes next. It must read and write what that one does.
    pub(crate) fn rewrite(&mut self, row: Row) {
        if let Cursor::Planned { plan, next } = &mut self.rows
            && let Some(place) = Arc::make_mut(plan).rows.get_mut(*next)
        {
            *place = row;
        }
    }

    /// Executes the row that comes next.
    pub(crate) fn advance_row(&mut self) -> Result<()> {
        self.advance()
    }

    /// The plan with all that was rewritten.
    pub(crate) fn plan(&self) -> Option<&Plan> {
        match &self.rows {
            Cursor::Planned { plan, .. } => Some(plan),
            Cursor::Adaptive { .. } => None,
        }
    }

    pub(crate) fn state_buffer(&self, state: usize) -> &Buffer {
        &self.batch.states[state]
    }

    pub(crate) fn slot_buffer(&self, slot: usize) -> &Buffer {
        &self.batch.slots[slot]
    }
}
