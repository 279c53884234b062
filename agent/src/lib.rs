//! The node agent: wiring of allocation, store, dataplane and socket.
//!
//! A library and a thin `main`, so that tests can run whole agents. Decisions live in `ipam` and
//! `dataplane`'s planner; here they are fetched for, carried out and remembered.
#![forbid(unsafe_code)]

pub mod answer;
pub mod bpffs;
pub mod cleanup;
pub mod clock;
pub mod config;
pub mod conflist;
pub mod files;
pub mod install;
pub mod journal;
pub mod logging;
pub mod node;
pub mod operator;
pub mod pods;
pub mod probe;
pub mod random;
pub mod run;
pub mod server;
pub mod service;
