//! `ipam.type: host-local`: the standard plugin gives the addresses, from ranges that the cluster gave the node.
//!
//! `usePodCidr` and `usePodCidrIPv6` as a `subnet` mean those ranges, as Calico has it. Everything else under `ipam` is
//! the other plugin's, and passed on as it is.

use std::net::IpAddr;

use rpc::{Reply, Request};
use serde_json::{Map, Value, json};

use crate::agent;
use crate::config::{Config, SpecVersion};
use crate::delegate::Delegate;
use crate::env::{Env, Verb};
use crate::error::{CniError, Code};
use crate::json::Object;
use crate::result::CniResult;

/// The plugin's name: `ipam.type`.
pub(crate) const NAME: &str = "host-local";

/// A word, which ranges it stands for, and one that stands for all of them.
type Word = (&'static str, fn(&str) -> bool, &'static str);

/// What stands for the node's own ranges.
const WORDS: [Word; 2] = [
    ("usePodCidr", |cidr| !cidr.contains(':'), "0.0.0.0/0"),
    ("usePodCidrIPv6", |cidr| cidr.contains(':'), "::/0"),
];

/// The plugin, with its configuration.
#[derive(Debug)]
pub(crate) struct HostLocal {
    delegate: Delegate,
    config: Map<String, Value>,
}

impl HostLocal {
    /// Finds the plugin and fills the node's ranges in. A DEL is served without the agent's word on them: by it the
    /// plugin goes by the container's id alone.
    pub(crate) fn prepare(env: &Env, config: &Config) -> Result<Self, CniError> {
        let delegate = Delegate::find(env, NAME, config.timeout)?;
        let mut root = config.root().clone();
        // The newest version that the plugin has been seen to speak; its results are read in any.
        let version = config.version.min(SpecVersion::V1_0_0);
        root.insert("cniVersion".to_owned(), version.as_str().into());
        root.remove("runtimeConfig");
        if env.verb == Verb::Add {
            root.remove("prevResult");
        }
        let mut ipam =
            Object::root(config.root()).object("ipam")?.map(|ipam| ipam.map().clone()).unwrap_or_default();
        if wants_ranges(&ipam) {
            let cidrs = match env.verb {
                Verb::Del | Verb::Gc => None,
                _ => Some(ask_ranges(env, config)?),
            };
            fill(&mut ipam, cidrs.as_deref())?;
        }
        root.insert("ipam".to_owned(), ipam.into());
        Ok(Self { delegate, config: root })
    }

    /// Its addresses for an ADD: at most one of each family, and one at least.
    ///
    /// An earlier ADD that was cut short may have left the container with an address: then it is taken back first.
    pub(crate) fn add(&self) -> Result<Vec<IpAddr>, CniError> {
        let result = match self.delegate.call(Verb::Add, &self.config) {
            Ok(result) => result,
            Err(first) => {
                self.delegate.call(Verb::Del, &self.config).map_err(|_| first.clone())?;
                self.delegate.call(Verb::Add, &self.config).map_err(|_| first)?
            }
        };
        let result = result.unwrap_or_else(|| json!({}));
        let addresses = Object::at("result of host-local".to_owned(), &result)
            .and_then(|object| CniResult::parse(&object))
            .map(|result| result.addresses());
        let addresses = addresses.and_then(|addresses| {
            let four = addresses.iter().filter(|address| address.is_ipv4()).count();
            if addresses.is_empty() || four > 1 || addresses.len() - four > 1 {
                let count = addresses.len();
                return Err(CniError::new(
                    Code::UnsupportedField,
                    format!("host-local gave {count} addresses: expected one, or one of each family"),
                ));
            }
            Ok(addresses)
        });
        addresses.map_err(|error| self.take_back(error))
    }

    /// Takes back what an ADD was given, since the rest of it failed.
    pub(crate) fn take_back(&self, error: CniError) -> CniError {
        match self.delegate.call(Verb::Del, &self.config) {
            Ok(_) => error,
            Err(second) => error.detail(second.line()),
        }
    }

    /// DEL, and CHECK.
    pub(crate) fn call(&self, verb: Verb) -> Result<(), CniError> {
        self.delegate.call(verb, &self.config).map(drop)
    }
}

fn ask_ranges(env: &Env, config: &Config) -> Result<Vec<String>, CniError> {
    match agent::ask(env.verb, config, &Request::PodCidrs, None)? {
        Reply::PodCidrs(reply) => Ok(reply.cidrs),
        _ => Err(agent::unexpected(env.verb)),
    }
}

fn wants_ranges(ipam: &Map<String, Value>) -> bool {
    let is_word = |value: &Value| WORDS.iter().any(|(word, ..)| value == word);
    ipam.get("subnet").is_some_and(is_word) || subnets(&mut ipam.clone()).iter().any(|value| is_word(value))
}

/// Puts the node's ranges in the place of the words for them; without any, one that stands for all.
fn fill(ipam: &mut Map<String, Value>, cidrs: Option<&[String]>) -> Result<(), CniError> {
    for subnet in subnets(ipam) {
        let Some((word, is_of_family, all)) = WORDS.iter().find(|(word, ..)| subnet == word) else {
            continue;
        };
        let found = match cidrs {
            None => Some((*all).to_owned()),
            Some(cidrs) => cidrs.iter().find(|cidr| is_of_family(cidr)).cloned(),
        };
        let Some(found) = found else {
            return Err(CniError::new(
                Code::TryAgain,
                format!("network configuration: ipam: \"{word}\": the cluster gave this node no such range"),
            )
            .detail("spec.podCIDRs of the Node object; kube-controller-manager gives them with --allocate-node-cidrs"));
        };
        *subnet = found.into();
    }
    Ok(())
}

/// `subnet` of the configuration itself and of each of its ranges.
fn subnets(ipam: &mut Map<String, Value>) -> Vec<&mut Value> {
    let mut found = Vec::new();
    for (key, value) in ipam {
        match (key.as_str(), value) {
            ("subnet", value) => found.push(value),
            ("ranges", Value::Array(sets)) => {
                let ranges = sets.iter_mut().filter_map(Value::as_array_mut).flatten();
                found.extend(ranges.filter_map(|range| range.get_mut("subnet")));
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_ranges_take_the_place_of_the_words_for_them() {
        let cidrs = ["10.244.1.0/24".to_owned(), "fd00:1::/64".to_owned()];
        let check = |ipam: Value, cidrs: Option<&[String]>, expected: Result<Value, &str>| {
            let mut map = ipam.as_object().unwrap().clone();
            match (fill(&mut map, cidrs), expected) {
                (Ok(()), Ok(expected)) => assert_eq!(Value::from(map), expected, "{ipam}"),
                (Err(error), Err(word)) => assert!(error.line().contains(word), "{}", error.line()),
                (found, _) => panic!("{ipam}: {found:?}"),
            }
        };
        let one = json!({"type": "host-local", "subnet": "usePodCidr", "dataDir": "/d"});
        check(
            one.clone(),
            Some(&cidrs),
            Ok(json!({"type": "host-local", "subnet": "10.244.1.0/24", "dataDir": "/d"})),
        );
        let both =
            json!({"ranges": [[{"subnet": "usePodCidr"}], [{"subnet": "usePodCidrIPv6", "gateway": "g"}]]});
        check(
            both.clone(),
            Some(&cidrs),
            Ok(
                json!({"ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:1::/64", "gateway": "g"}]]}),
            ),
        );
        check(
            both.clone(),
            None,
            Ok(json!({"ranges": [[{"subnet": "0.0.0.0/0"}], [{"subnet": "::/0", "gateway": "g"}]]})),
        );
        check(both, Some(&cidrs[..1]), Err("usePodCidrIPv6"));
        check(one, Some(&[]), Err("usePodCidr"));
        let fixed = json!({"ranges": [[{"subnet": "192.0.2.0/24"}, {}], 7], "subnet": 5});
        check(fixed.clone(), Some(&[]), Ok(fixed.clone()));
        assert!(!wants_ranges(fixed.as_object().unwrap()));
        assert!(wants_ranges(json!({"ranges": [[{"subnet": "usePodCidrIPv6"}]]}).as_object().unwrap()));
    }
}
