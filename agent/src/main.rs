//! The agent's process.
fn main() {}
