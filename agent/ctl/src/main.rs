//! `poolwardctl`: the command line for operators.
//!
//! This file only dispatches. What the commands are called stands in [`cli`], what they do in [`command`] (and in
//! [`cluster`], where they speak to the API server), what they look like in [`output`], and how they end in [`exit`].
#![forbid(unsafe_code)]

mod cli;
mod cluster;
mod command;
mod exit;
mod manifest;
mod output;
mod ranges;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, CrdsCommand, NodeCommand};
use command::Context;
use exit::{Exit, Failure};
use output::Output;
use output::color::Colors;

fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let output = Output { format: global.output, colors: Colors::detect(global.no_color) };
    let context =
        Context { socket: global.socket(), cluster: global.cluster(), timeout: global.timeout, output };
    let exit = run(&context, &command).unwrap_or_else(|failure| {
        output.failure(&failure);
        failure.exit
    });
    ExitCode::from(exit as u8)
}

fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::Apply(args) => command::apply::run(context, args),
        Command::Get(args) => command::get::run(context, args),
        Command::Delete(args) => command::delete::run(context, args),
        Command::Ipam(command) => command::ipam::run(context, command),
        Command::Pools(command) => command::pools::run(context, command),
        Command::Crds(CrdsCommand::Apply) => command::crds::run(context),
        Command::Node(NodeCommand::Cleanup(args)) => command::node::cleanup(args),
        Command::Status => command::status::run(context),
        Command::Version(args) => command::version::run(context, args),
        Command::Completions(args) => command::completions::run(args),
    }
}
