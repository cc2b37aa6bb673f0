//! process (to come)
