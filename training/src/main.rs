//! The command `psld-training`.
fn main() {}
