//! Calls a CNI plugin as a container runtime does: verb and attachment in the environment, configuration on standard
//! input, result on standard output (CNI specification 1.1.0, section 2).

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{NetNs, Run};

/// A plugin, where it runs, and its network configuration.
#[derive(Clone, Debug)]
pub struct Cni<'n> {
    plugin: PathBuf,
    node: &'n NetNs,
    config: Value,
    path: PathBuf,
}

/// An attachment: which interface of which container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_NETNS`; a runtime leaves it out of a DEL when the namespace is gone.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`.
    pub args: String,
}

impl Attachment {
    /// `eth0` of a pod in this namespace, with `CNI_ARGS` as kubelet's runtimes give them. An empty `uid` is left out,
    /// as old runtimes do.
    #[must_use]
    pub fn of_pod(container_id: &str, netns: &NetNs, namespace: &str, pod: &str, uid: &str) -> Self {
        let mut args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID={container_id}"
        );
        if !uid.is_empty() {
            args += &format!(";K8S_POD_UID={uid}");
        }
        Self {
            container_id: container_id.to_owned(),
            ifname: "eth0".to_owned(),
            netns: Some(netns.path()),
            args,
        }
    }
}

/// What a plugin answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Exit code.
    pub code: i32,
    /// Standard output; `Null` when there was none.
    pub json: Value,
    /// Standard error.
    pub stderr: String,
    /// From before the fork to after the exit.
    pub took: Duration,
}

impl Answer {
    /// The result of a call that worked.
    ///
    /// # Errors
    /// It did not: with what the plugin said.
    pub fn ok(self) -> Result<Value> {
        if self.code != 0 {
            bail!("exit code {}: {}{}", self.code, self.json, self.stderr);
        }
        Ok(self.json)
    }

    /// The `code` of a CNI error, if it is one.
    #[must_use]
    pub fn error_code(&self) -> Option<u64> {
        self.json.get("code").and_then(Value::as_u64)
    }
}

impl<'n> Cni<'n> {
    /// Our plugin, for the agent at this socket.
    #[must_use]
    pub fn poolward(plugin: &Path, node: &'n NetNs, socket: &Path) -> Self {
        let config = json!({
            "cniVersion": "1.0.0",
            "name": "poolward",
            "type": "poolward",
            "agentSocket": socket.display().to_string(),
        });
        Self::new(plugin, node, config)
    }

    /// Any plugin; those it delegates to are looked for beside it.
    #[must_use]
    pub fn new(plugin: &Path, node: &'n NetNs, config: Value) -> Self {
        let path = plugin.parent().unwrap_or(Path::new("/")).to_owned();
        Self { plugin: plugin.to_owned(), node, config, path }
    }

    /// The same plugin with another configuration.
    #[must_use]
    pub fn with_config(&self, change: impl FnOnce(&mut Value)) -> Self {
        let mut other = self.clone();
        change(&mut other.config);
        other
    }

    /// ADD.
    ///
    /// # Errors
    /// The plugin cannot be started or hangs. A refusal is an answer.
    pub fn add(&self, attachment: &Attachment) -> Result<Answer> {
        self.call("ADD", Some(attachment), &self.config)
    }

    /// DEL.
    ///
    /// # Errors
    /// As [`Cni::add`].
    pub fn del(&self, attachment: &Attachment) -> Result<Answer> {
        self.call("DEL", Some(attachment), &self.config)
    }

    /// CHECK against the result of an ADD.
    ///
    /// # Errors
    /// As [`Cni::add`].
    pub fn check(&self, attachment: &Attachment, result: &Value) -> Result<Answer> {
        let mut config = self.config.clone();
        config["prevResult"] = result.clone();
        self.call("CHECK", Some(attachment), &config)
    }

    /// GC: everything but these attachments is to go. Raises the configuration's version to 1.1.0, which GC needs.
    ///
    /// # Errors
    /// As [`Cni::add`].
    pub fn gc(&self, valid: &[&Attachment]) -> Result<Answer> {
        let mut config = self.config.clone();
        config["cniVersion"] = json!("1.1.0");
        config["cni.dev/valid-attachments"] = valid
            .iter()
            .map(|attachment| json!({"containerID": attachment.container_id, "ifname": attachment.ifname}))
            .collect();
        self.call("GC", None, &config)
    }

    /// STATUS, with the configuration's version raised to 1.1.0, which STATUS needs.
    ///
    /// # Errors
    /// As [`Cni::add`].
    pub fn status(&self) -> Result<Answer> {
        let mut config = self.config.clone();
        config["cniVersion"] = json!("1.1.0");
        self.call("STATUS", None, &config)
    }

    /// VERSION.
    ///
    /// # Errors
    /// As [`Cni::add`].
    pub fn version(&self) -> Result<Answer> {
        self.call("VERSION", None, &json!({"cniVersion": "1.0.0"}))
    }

    /// One call with exactly this standard input; every other method ends here.
    ///
    /// # Errors
    /// As [`Cni::add`].
    pub fn call_raw(&self, verb: &str, attachment: Option<&Attachment>, stdin: &[u8]) -> Result<Answer> {
        let mut run = Run::new(&self.plugin).clean_env().env("CNI_COMMAND", verb).env("CNI_PATH", &self.path);
        if let Some(attachment) = attachment {
            run = run
                .env("CNI_CONTAINERID", &attachment.container_id)
                .env("CNI_IFNAME", &attachment.ifname)
                .env("CNI_ARGS", &attachment.args);
            if let Some(netns) = &attachment.netns {
                run = run.env("CNI_NETNS", netns);
            }
        }
        let finished = run.stdin(stdin).finish_in(self.node)?;
        let text = String::from_utf8_lossy(&finished.stdout);
        let json = if text.trim().is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).with_context(|| format!("{verb}: not JSON: {text}"))?
        };
        Ok(Answer {
            code: finished.status.code().unwrap_or(-1),
            json,
            stderr: String::from_utf8_lossy(&finished.stderr).into_owned(),
            took: finished.took,
        })
    }

    fn call(&self, verb: &str, attachment: Option<&Attachment>, config: &Value) -> Result<Answer> {
        self.call_raw(verb, attachment, config.to_string().as_bytes())
    }
}

/// The addresses of an ADD's result, without their prefix lengths.
#[must_use]
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result.get("ips").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    ips.iter().filter_map(|ip| ip.get("address")?.as_str()?.split('/').next()?.parse().ok()).collect()
}

/// The first address of an ADD's result, without its prefix length.
#[must_use]
pub fn first_address(result: &Value) -> Option<IpAddr> {
    addresses(result).first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_a_result() {
        let result = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.9/32"}, {"address": "2001:db8::1/128"}]});
        assert_eq!(
            addresses(&result),
            ["10.0.0.9".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]
        );
        assert_eq!(first_address(&result), Some("10.0.0.9".parse().unwrap()));
        assert_eq!(first_address(&json!({"ips": []})), None);
        assert_eq!(first_address(&json!({"code": 7})), None);
    }
}
