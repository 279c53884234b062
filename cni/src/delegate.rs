//! Running another plugin as our IPAM: found in `CNI_PATH`, called as the specification says (section 4), with our
//! environment and a configuration on its standard input.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::env::{Env, Verb};
use crate::error::{CniError, Code, quote};

/// How often it is looked whether the plugin has ended.
const POLL: Duration = Duration::from_millis(1);

/// The most that a plugin may say: what a pipe holds.
const MAX_OUTPUT_BYTES: u64 = 64 * 1024;

/// A plugin that was found.
#[derive(Debug)]
pub(crate) struct Delegate {
    path: PathBuf,
    timeout: Duration,
}

impl Delegate {
    /// Looks a plugin up in the directories of `CNI_PATH`, in their order.
    pub(crate) fn find(env: &Env, name: &str, timeout: Duration) -> Result<Self, CniError> {
        let in_dir = |dir: &str| Some(Path::new(dir).join(name)).filter(|path| path.is_file());
        let found = env.path.split(':').filter(|dir| !dir.is_empty()).find_map(in_dir);
        found.map(|path| Self { path, timeout }).ok_or_else(|| {
            CniError::new(
                Code::InvalidEnvironment,
                format!("ipam.type={}: no such plugin in CNI_PATH={}", quote(name), quote(&env.path)),
            )
        })
    }

    /// Calls it with a verb, which need not be the runtime's: what an ADD has made is taken back by a DEL. The result, if
    /// it printed one.
    pub(crate) fn call(&self, verb: Verb, config: &Map<String, Value>) -> Result<Option<Value>, CniError> {
        let failed = |why: String| {
            let path = self.path.display();
            CniError::new(Code::Delegate, format!("{} by the IPAM plugin {path}: {why}", verb.as_str()))
        };
        let mut child = Command::new(&self.path)
            .env("CNI_COMMAND", verb.as_str())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // What it says there is the runtime's to keep, as what we say.
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        // One that does not read it all says itself what it misses.
        let written = child
            .stdin
            .take()
            .map(|mut stdin| stdin.write_all(Value::from(config.clone()).to_string().as_bytes()));
        let ended = wait(&mut child, self.timeout).map_err(&failed)?;
        let mut output = String::new();
        if let Some(stdout) = child.stdout.take() {
            let read = stdout.take(MAX_OUTPUT_BYTES).read_to_string(&mut output);
            read.map_err(|error| failed(format!("its output: {error}")))?;
        }
        let said = serde_json::from_str::<Value>(&output).ok();
        if ended {
            return match (said, output.trim().is_empty()) {
                (None, false) => Err(failed("its output is no JSON".to_owned())),
                (said, _) => Ok(said),
            };
        }
        let told = said.as_ref().and_then(|said| said.get("msg")).and_then(Value::as_str);
        let written = written.and_then(Result::err).map(|error| format!("its input: {error}"));
        let why = told
            .map(str::to_owned)
            .or(written)
            .unwrap_or_else(|| "it failed and does not say why".to_owned());
        let error = failed(why);
        let details = said.as_ref().and_then(|said| said.get("details")).and_then(Value::as_str);
        Err(details.filter(|text| !text.is_empty()).map_or(error.clone(), |text| error.detail(text)))
    }
}

/// Whether it ended well; it is killed if it does not end in time.
fn wait(child: &mut Child, timeout: Duration) -> Result<bool, String> {
    let deadline = Instant::now() + timeout;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status.success()),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it had not ended after {} ms", timeout.as_millis()));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}
