//! Pods that kubelets and containerd have made reach each other, nodes reach them, and they reach the outside.

use harness::cluster::{DEFAULT_POOL, PORT, Pod, PodOptions};

use crate::site::{NODES_COUNT, Site, site};

const BUSYBOX: &str = "/bin/busybox";

/// Whom the web server at this place says it is, and whom it says has asked.
pub(crate) fn who(site: &Site, from: &Pod, to: &str) -> Result<(String, String), String> {
    let url = format!("http://{to}/cgi-bin/who");
    site.exec(from, &["timeout", "5", "wget", "-q", "-O", "-", &url]).and_then(|said| parse(&said))
}

/// The same, asked by the server outside.
pub(crate) fn who_from_outside(site: &Site, to: &str) -> Result<(String, String), String> {
    let url = format!("http://{to}/cgi-bin/who");
    site.outside(&["timeout", "3", BUSYBOX, "wget", "-q", "-O", "-", &url]).and_then(|said| parse(&said))
}

fn parse(said: &str) -> Result<(String, String), String> {
    let words: Vec<&str> = said.split_whitespace().collect();
    match words.as_slice() {
        // Behind a socket of IPv6 that takes IPv4, too.
        [name, address] => {
            let address = address.trim_matches(['[', ']']).trim_start_matches("::ffff:");
            Ok(((*name).to_owned(), address.to_owned()))
        }
        _ => Err(format!("no name and address in {said:?}")),
    }
}

#[test]
fn pods_reach_pods_on_every_node_under_their_own_addresses() {
    let site = site();
    let namespace = site.namespace("reach", &[]);
    let names: Vec<String> = (1..=NODES_COUNT).map(|number| format!("on-{number}")).collect();
    let options: Vec<_> = names
        .iter()
        .zip(1..)
        .map(|(name, number)| PodOptions {
            namespace: &namespace,
            name,
            node: Some(number),
            ..PodOptions::default()
        })
        .collect();
    let pods = site.pods(&options);
    for from in &pods {
        assert!(DEFAULT_POOL.contains(from.address), "{from:?}");
        for to in &pods {
            let answer = who(&site, from, &format!("{}:{PORT}", to.address));
            assert_eq!(answer, Ok((to.name.clone(), from.address.to_string())), "{from:?} to {to:?}");
        }
    }
    assert!(site.assert_sealed().encapsulated > 0, "nothing was encapsulated");

    site.delete_at_once(&namespace);
}
