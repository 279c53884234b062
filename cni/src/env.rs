//! The `CNI_*` variables: which are there, what each verb needs, and what they may hold. Pure: the lookup is an
//! argument.

use std::ffi::OsString;

use model::{Handle, HandleError};
use rpc::{Attachment, PodRef};

use crate::error::{CniError, Code, quote};

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    /// As the specification spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    fn parse(text: &str) -> Result<Self, CniError> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            CniError::new(
                Code::InvalidEnvironment,
                format!("CNI_COMMAND={}: no such operation; operations are {known}", quote(text)),
            )
        })
    }

    /// DEL can do without the namespace: it may be gone. GC and STATUS are not about one attachment.
    fn required(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Self::Gc | Self::Status | Self::Version => &[],
        }
    }
}

/// The variables of one call. Empty is the same as absent, as runtimes pass it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Env {
    /// `CNI_COMMAND`.
    pub(crate) verb: Verb,
    container_id: String,
    ifname: String,
    /// `CNI_NETNS`.
    pub(crate) netns: String,
    args: String,
    /// `CNI_PATH`: where plugins are found that give addresses for us.
    pub(crate) path: String,
    /// `CNI_NETNS_OVERRIDE`: the caller knows that the namespace is the plugin's own.
    pub(crate) netns_override: bool,
}

impl Env {
    /// Reads what the verb needs. `None` without `CNI_COMMAND`: then this is no call of a runtime.
    pub(crate) fn read(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, CniError> {
        let get = |name: &str| match lookup(name).map(OsString::into_string) {
            None => Ok(String::new()),
            Some(Ok(text)) => Ok(text),
            Some(Err(bytes)) => Err(CniError::new(
                Code::InvalidEnvironment,
                format!("{name}={}: not UTF-8", quote(&bytes.to_string_lossy())),
            )),
        };
        let command = get("CNI_COMMAND")?;
        if command.is_empty() {
            return Ok(None);
        }
        let verb = Verb::parse(&command)?;
        let override_text = get("CNI_NETNS_OVERRIDE")?;
        let required = verb.required();
        // What a verb does not need is not read either: it cannot be wrong.
        let needed = |name: &str| if required.contains(&name) { get(name) } else { Ok(String::new()) };
        let env = Self {
            verb,
            container_id: needed("CNI_CONTAINERID")?,
            ifname: needed("CNI_IFNAME")?,
            netns: needed("CNI_NETNS")?,
            args: if verb == Verb::Add { get("CNI_ARGS")? } else { String::new() },
            // Lossily: a directory of another name is one in which nothing is found.
            path: lookup("CNI_PATH").map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
            netns_override: override_text == "1" || override_text.eq_ignore_ascii_case("true"),
        };
        let missing: Vec<&str> =
            [("CNI_CONTAINERID", &env.container_id), ("CNI_NETNS", &env.netns), ("CNI_IFNAME", &env.ifname)]
                .into_iter()
                .filter(|(name, text)| text.is_empty() && required.contains(name))
                .map(|(name, _)| name)
                .collect();
        if missing.is_empty() {
            Ok(Some(env))
        } else {
            Err(CniError::new(
                Code::InvalidEnvironment,
                format!("{}: not set, but required by {command}", missing.join(", ")),
            ))
        }
    }

    /// Who the call is about, checked by the rules of the specification and the kernel.
    pub(crate) fn attachment(&self, network: &str) -> Result<Attachment, CniError> {
        match Handle::new(&self.container_id, &self.ifname) {
            Ok(_) => Ok(Attachment {
                container_id: self.container_id.clone(),
                ifname: self.ifname.clone(),
                network: network.to_owned(),
            }),
            Err(error) => {
                let name = match error {
                    HandleError::ContainerId(_) => "CNI_CONTAINERID",
                    HandleError::Ifname(_) => "CNI_IFNAME",
                };
                Err(CniError::new(Code::InvalidEnvironment, format!("{name}: {error}")))
            }
        }
    }

    /// What `CNI_ARGS` says of the pod.
    ///
    /// The convention is that of the reference library: `KEY=value` pairs separated by `;`, and unknown keys are
    /// refused unless `IgnoreUnknown` is `1` or `true` (kubelet's runtimes always set it).
    pub(crate) fn pod(&self) -> Result<PodRef, CniError> {
        let mut pod = PodRef::default();
        let mut infra = String::new();
        let mut ignore = String::new();
        let mut unknown = Vec::new();
        for pair in self.args.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| bad_args(&format!("{} has no '='", quote(pair))))?;
            let slot = match key {
                "K8S_POD_NAMESPACE" => &mut pod.namespace,
                "K8S_POD_NAME" => &mut pod.name,
                "K8S_POD_UID" => &mut pod.uid,
                // Known so that it is not refused; CNI_CONTAINERID is what counts.
                "K8S_POD_INFRA_CONTAINER_ID" => &mut infra,
                "IgnoreUnknown" => &mut ignore,
                _ => {
                    unknown.push(quote(pair));
                    continue;
                }
            };
            if !slot.is_empty() && slot != value {
                return Err(bad_args(&format!("{key} is given twice: {} and {}", quote(slot), quote(value))));
            }
            if !value.chars().all(|c| c.is_ascii_alphanumeric() || "-._:".contains(c)) || value.len() > 253 {
                return Err(bad_args(&format!(
                    "{key}={}: expected at most 253 letters, digits, '-', '.', '_' or ':'",
                    quote(value)
                )));
            }
            value.clone_into(slot);
        }
        let ignore_unknown = match ignore.to_ascii_lowercase().as_str() {
            "1" | "true" => true,
            "" | "0" | "false" => false,
            _ => {
                return Err(bad_args(&format!(
                    "IgnoreUnknown={}: expected 0, 1, true or false",
                    quote(&ignore)
                )));
            }
        };
        if unknown.is_empty() || ignore_unknown {
            Ok(pod)
        } else {
            unknown.truncate(8);
            Err(bad_args(&format!("unknown: {}", unknown.join(", ")))
                .detail("add IgnoreUnknown=1 to CNI_ARGS if they are meant for another plugin"))
        }
    }
}

fn bad_args(why: &str) -> CniError {
    CniError::new(Code::InvalidEnvironment, format!("CNI_ARGS: {why}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Option<Env>, CniError> {
        let vars: BTreeMap<&str, &str> = vars.iter().copied().collect();
        Env::read(|name| vars.get(name).map(OsString::from))
    }

    const ADD: [(&str, &str); 4] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c0ffee"),
        ("CNI_NETNS", "/run/netns/a"),
        ("CNI_IFNAME", "eth0"),
    ];

    fn add_with(name: &'static str, value: &str) -> Result<Env, CniError> {
        let mut vars: Vec<(&str, &str)> = ADD.into_iter().filter(|(n, _)| *n != name).collect();
        vars.push((name, value));
        read(&vars).map(|env| env.unwrap())
    }

    #[test]
    fn without_a_command_there_is_no_call() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("CNI_COMMAND", ""), ("CNI_IFNAME", "x")]), Ok(None));
    }

    #[test]
    fn each_verb_names_all_variables_that_it_misses() {
        let check = |verb: &str, expected: Option<&str>| {
            let found = read(&[("CNI_COMMAND", verb)]).map_err(|e| e.line());
            match expected {
                Some(line) => assert_eq!(found, Err(line.to_owned())),
                None => assert!(found.is_ok(), "{found:?}"),
            }
        };
        check("ADD", Some("CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME: not set, but required by ADD"));
        check("CHECK", Some("CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME: not set, but required by CHECK"));
        check("DEL", Some("CNI_CONTAINERID, CNI_IFNAME: not set, but required by DEL"));
        check("GC", None);
        check("STATUS", None);
        check("VERSION", None);
        check(
            "add",
            Some(
                "CNI_COMMAND=\"add\": no such operation; operations are ADD, DEL, CHECK, GC, STATUS, VERSION",
            ),
        );
    }

    #[test]
    fn container_ids_and_interface_names_are_checked_and_the_variable_is_named() {
        let check = |name: &'static str, value: &str| {
            let error = add_with(name, value).unwrap().attachment("net").unwrap_err();
            let (code, line) = error.parts();
            assert_eq!(code, Code::InvalidEnvironment);
            assert!(line.starts_with(name), "{line}");
        };
        check("CNI_CONTAINERID", "../etc");
        check("CNI_CONTAINERID", "a/b");
        check("CNI_IFNAME", "1234567890123456");
        check("CNI_IFNAME", "..");
        check("CNI_IFNAME", "eth/0");
        let attachment = add_with("CNI_IFNAME", "net1").unwrap().attachment("net").unwrap();
        assert_eq!((attachment.ifname.as_str(), attachment.network.as_str()), ("net1", "net"));
    }

    #[test]
    fn bytes_that_are_not_text_are_refused_where_they_matter() {
        let raw = |bad: &'static str| {
            Env::read(move |name| {
                if name == bad {
                    return Some(OsString::from_vec(vec![b'a', 0xff]));
                }
                ADD.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(*v))
            })
        };
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_COMMAND"] {
            let error = raw(name).unwrap_err().line();
            assert!(error.starts_with(name) && error.contains("not UTF-8"), "{error}");
        }
        assert!(raw("CNI_PATH").is_ok());
    }

    #[test]
    fn cni_args_say_which_pod_it_is() {
        let pod = |args: &str| add_with("CNI_ARGS", args).unwrap().pod().map_err(|error| error.line());
        assert_eq!(pod(""), Ok(PodRef::default()));
        let full = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID=c0ffee;\
                    K8S_POD_UID=1f-2e;K8S_OTHER=x y";
        let expected = PodRef { namespace: "ns".into(), name: "web-1".into(), uid: "1f-2e".into() };
        assert_eq!(pod(full), Ok(expected.clone()));
        assert_eq!(pod(&full.replace("=1;", "=true;")), Ok(expected.clone()));
        assert_eq!(pod(&full.replace("IgnoreUnknown=1;", "").replace(";K8S_OTHER=x y", "")), Ok(expected));
    }

    #[test]
    fn bad_cni_args_are_refused_with_the_reason() {
        let check = |args: &str, expected: &str| {
            let error = add_with("CNI_ARGS", args).unwrap().pod().unwrap_err();
            assert_eq!(error.parts().0, Code::InvalidEnvironment);
            assert_eq!(error.line(), format!("CNI_ARGS: {expected}"));
        };
        check("FOO=1;BAR=2", r#"unknown: "FOO=1", "BAR=2""#);
        check("IgnoreUnknown=0;FOO=1", r#"unknown: "FOO=1""#);
        check("K8S_POD_NAME", r#""K8S_POD_NAME" has no '='"#);
        check("IgnoreUnknown=yes", r#"IgnoreUnknown="yes": expected 0, 1, true or false"#);
        check("K8S_POD_NAME=a;K8S_POD_NAME=b", r#"K8S_POD_NAME is given twice: "a" and "b""#);
        check(
            "K8S_POD_NAMESPACE=../x",
            r#"K8S_POD_NAMESPACE="../x": expected at most 253 letters, digits, '-', '.', '_' or ':'"#,
        );
    }

    #[test]
    fn only_add_looks_at_cni_args() {
        let env = read(&[
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "c"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "garbage"),
        ]);
        assert_eq!(env.unwrap().unwrap().pod(), Ok(PodRef::default()));
    }
}
