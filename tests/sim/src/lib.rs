//! Whole agents under simulated time: the real shell around a store in memory and a kernel in memory, with faults on
//! every boundary, from one seed.
//!
//! * [`scenario`]: what happens, decided by the seed before anything runs.
//! * [`machine`]: a machine and the lives of its agents. [`store`]: the store as a machine reaches it.
//! * [`runtime`] (on [`sim::Sim`]): what container runtimes and operators ask.
//! * [`record`]: what was promised, and what is broken as it happens; [`tally`]: what became of blocks and loans, and who
//!   may do what to them; `check`: what must always hold, and what must hold at the end.
//! * [`shrink`]: the shortest list of events that still fails.
//!
//! All of a run happens in one thread, in tokio's paused time; nothing in it depends on the machine it runs on, so that a
//! seed gives the same run again. It proves nothing about the real kernel, the socket, the embedded store's durability
//! or real threads.
#![forbid(unsafe_code)]

mod check;
pub mod machine;
pub mod record;
pub mod runtime;
pub mod scenario;
pub mod shrink;
pub mod sim;
pub mod store;
pub mod tally;
pub mod trace;
