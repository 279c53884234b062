//! `poolward`, the CNI plugin: checks what the runtime says, asks the node's agent over its unix socket, and
//! prints what the specification (1.1.0) wants printed.
//!
//! Under the name `poolward-ipam` it gives addresses to another main plugin, and makes no interface.
//!
//! It keeps no state, changes nothing on the node itself, and runs no other plugin but `host-local`, where that is
//! configured to give the addresses. It is started at least twice
//! for every pod, so it is small and has neither threads nor asynchronous code. It waits for the agent no longer
//! than two seconds to connect and the configuration's `timeoutMs` for the answer.
#![forbid(unsafe_code)]

mod agent;
mod config;
mod delegate;
mod env;
mod error;
mod host_local;
mod json;
mod netns;
mod result;
mod verb;

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use config::{Config, MAX_STDIN_BYTES, SpecVersion};
use env::{Env, Verb};
use error::{CniError, Code};

fn main() -> ExitCode {
    let called_at_boot_ms = boot_ms();
    let env = match Env::read(|name| std::env::var_os(name)) {
        Ok(Some(env)) => env,
        Ok(None) => return answer_a_person(),
        Err(error) => return print(&error.to_json(SpecVersion::NEWEST), ExitCode::FAILURE),
    };
    let is_ipam = is_called(verb::ipam::NAME);
    let mut call = Call { env, called_at_boot_ms, version: SpecVersion::NEWEST, debug: false, is_ipam };
    let outcome = read_stdin(call.env.verb).and_then(|stdin| call.run(&stdin));
    call.log(&outcome);
    match outcome {
        Ok(Some(value)) => print(&value, ExitCode::SUCCESS),
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => print(&error.to_json(call.version), ExitCode::FAILURE),
    }
}

/// One call of the runtime. `version` and `debug` are as good as they are known: errors are written with them.
struct Call {
    env: Env,
    called_at_boot_ms: u64,
    version: SpecVersion,
    debug: bool,
    /// Called as the IPAM of another main plugin.
    is_ipam: bool,
}

impl Call {
    /// What is to be printed, if anything.
    fn run(&mut self, stdin: &[u8]) -> Result<Option<Value>, CniError> {
        let verb = self.env.verb;
        if verb == Verb::Version {
            return verb::version::run(stdin).map(Some);
        }
        let root = config::decode(stdin)?;
        self.version = config::version(&root)?;
        require_version_of(verb, self.version)?;
        let config = Config::parse(root)?;
        self.debug = config.debug;
        match verb {
            Verb::Add if self.is_ipam => verb::ipam::add(&self.env, &config).map(Some),
            Verb::Check if self.is_ipam => verb::ipam::check(&self.env, &config).map(|()| None),
            Verb::Status if self.is_ipam => verb::status::run_as_ipam(&self.env, &config).map(|()| None),
            Verb::Add => verb::add::run(&self.env, &config).map(Some),
            Verb::Del => verb::del::run(&self.env, &config).map(|()| None),
            Verb::Check => verb::check::run(&self.env, &config).map(|()| None),
            Verb::Gc => verb::gc::run(&self.env, &config, self.called_at_boot_ms).map(|()| None),
            Verb::Status => verb::status::run(&self.env, &config).map(|()| None),
            Verb::Version => verb::version::run(stdin).map(Some),
        }
    }

    /// The one line that `"logLevel": "debug"` buys, on standard error, which runtimes keep.
    fn log(&self, outcome: &Result<Option<Value>, CniError>) {
        if !self.debug {
            return;
        }
        let took_ms = boot_ms().saturating_sub(self.called_at_boot_ms);
        let (verb, said) = (
            self.env.verb.as_str(),
            match outcome {
                Ok(_) => "done".to_owned(),
                Err(error) => format!("code {}: {}", error.number(), error.line()),
            },
        );
        // Nobody to tell when standard error is gone.
        let _ = writeln!(io::stderr(), "poolward: {verb} in {took_ms} ms: {said}");
    }
}

/// CHECK came with 0.4.0, GC and STATUS with 1.1.0; a runtime must not use them on older configurations.
fn require_version_of(verb: Verb, version: SpecVersion) -> Result<(), CniError> {
    let since = match verb {
        Verb::Check => SpecVersion::V0_4_0,
        Verb::Gc | Verb::Status => SpecVersion::V1_1_0,
        Verb::Add | Verb::Del | Verb::Version => SpecVersion::V0_3_1,
    };
    if version >= since {
        return Ok(());
    }
    let (verb, version, since) = (verb.as_str(), version.as_str(), since.as_str());
    Err(CniError::new(
        Code::IncompatibleVersion,
        format!("network configuration: cniVersion \"{version}\": {verb} exists since {since}"),
    ))
}

/// Whether this program was started under that name.
fn is_called(name: &str) -> bool {
    let called = std::env::args_os().next();
    called.as_deref().map(Path::new).and_then(Path::file_name).is_some_and(|file| file == name)
}

fn read_stdin(verb: Verb) -> Result<Vec<u8>, CniError> {
    let stdin = io::stdin();
    let mut bytes = Vec::new();
    // A person who asks for the version types no configuration.
    if verb == Verb::Version && stdin.is_terminal() {
        return Ok(bytes);
    }
    let what = "network configuration on standard input";
    stdin
        .lock()
        .take(MAX_STDIN_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| CniError::new(Code::Io, format!("{what}: read: {error}")))?;
    if bytes.len() as u64 > MAX_STDIN_BYTES {
        return Err(CniError::new(
            Code::InvalidConfig,
            format!("{what}: longer than {MAX_STDIN_BYTES} bytes"),
        ));
    }
    Ok(bytes)
}

/// Milliseconds of `CLOCK_BOOTTIME`, which the agent's graces count in.
fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let ms = i128::from(now.tv_sec) * 1000 + i128::from(now.tv_nsec) / 1_000_000;
    u64::try_from(ms).unwrap_or_default()
}

/// One line on standard output. A runtime that has closed it is told by the exit code alone.
fn print(value: &Value, code: ExitCode) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{value}").and_then(|()| stdout.flush()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

const ABOUT: &str = concat!(
    "poolward ",
    env!("CARGO_PKG_VERSION"),
    ": the CNI plugin of Poolward (CNI 0.3.1, 0.4.0, 1.0.0, 1.1.0)\n",
    "\n",
    "Container runtimes run it, with CNI_COMMAND and the other CNI_* variables set and a network\n",
    "configuration on standard input. It asks the agent of this node; it does nothing by itself.\n",
    "\n",
    "  people use            poolwardctl status, poolwardctl ipam show, poolwardctl get\n",
    "  what it speaks        CNI_COMMAND=VERSION poolward\n",
    "  is the agent ready    echo '{\"cniVersion\":\"1.1.0\",\"name\":\"test\"}' | CNI_COMMAND=STATUS poolward\n",
);

/// Called without `CNI_COMMAND`: by a person, or by a runtime that forgot it, who reads standard output.
fn answer_a_person() -> ExitCode {
    let argument = std::env::args_os().nth(1);
    let asked = match argument.as_ref().and_then(|argument| argument.to_str()) {
        Some("--version" | "-V") => Some(concat!("poolward ", env!("CARGO_PKG_VERSION"), "\n")),
        Some("--help" | "-h") => Some(ABOUT),
        _ => None,
    };
    if let Some(text) = asked {
        return match io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let _ = io::stderr().write_all(ABOUT.as_bytes());
    if io::stdout().is_terminal() {
        return ExitCode::FAILURE;
    }
    let error = CniError::new(Code::InvalidEnvironment, "CNI_COMMAND: not set");
    print(&error.to_json(SpecVersion::NEWEST), ExitCode::FAILURE)
}
