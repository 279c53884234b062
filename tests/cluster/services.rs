//! Services by kube-proxy on top of Poolward: to the same and to other nodes, to itself, from nodes and from outside.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use harness::cluster::{DNS_ADDRESS, DNS_DOMAIN};
use harness::cluster::{PORT, Pod, PodOptions};
use serde_json::{Value, json};

use crate::reach::{who, who_from_outside};
use crate::site::{NODES_COUNT, SOON, Site, site, wait_until};

const NAMESPACE: &str = "services";

/// Ports of nodes.
const NODE_PORT_CLUSTER: u16 = 30080;
const NODE_PORT_LOCAL: u16 = 30081;
const HOST_PORT: u16 = 18080;

/// Where web servers of pods on the nodes' own network listen.
const NODES_OWN_PORT: u16 = 18081;

/// A web server on every node, clients beside them, and Services: made once, used by every test.
struct Web {
    /// On node N: `web-N`.
    servers: Vec<Pod>,
    /// On node N: `client-N`.
    clients: Vec<Pod>,
    /// On the network of node N: `host-N`.
    on_nodes: Vec<Pod>,
    /// Leads to `web-1` only.
    one: String,
    /// Leads to all servers.
    all: String,
    /// Leads to all servers, and a client always to the same.
    sticky: String,
}

fn web(site: &Site) -> &'static Web {
    static WEB: OnceLock<Web> = OnceLock::new();
    WEB.get_or_init(|| Web::create(site))
}

impl Web {
    fn create(site: &Site) -> Self {
        site.namespace(NAMESPACE, &[]);
        let all = json!({"app": "web"});
        let one = json!({"app": "web", "number": "1"});
        let sticky = json!({"sessionAffinity": "ClientIP"});
        let node_port = |port: u16, policy: &str| {
            json!({
                "type": "NodePort", "externalTrafficPolicy": policy,
                "ports": [{"port": 80, "targetPort": PORT, "nodePort": port}],
            })
        };
        let services = [
            service("all", &all, &json!({})),
            service("one", &one, &json!({})),
            service("sticky", &all, &sticky),
            service("port-cluster", &one, &node_port(NODE_PORT_CLUSTER, "Cluster")),
            service("port-local", &one, &node_port(NODE_PORT_LOCAL, "Local")),
        ];
        let list = json!({"apiVersion": "v1", "kind": "List", "items": services});
        site.kubectl().apply_unchecked(&list.to_string()).unwrap();

        let names =
            |role: &str| (1..=NODES_COUNT).map(|number| format!("{role}-{number}")).collect::<Vec<_>>();
        let (servers, clients, on_nodes) = (names("web"), names("client"), names("host"));
        let numbers = names("").iter().map(|name| name[1..].to_owned()).collect::<Vec<_>>();
        let labels: Vec<_> =
            numbers.iter().map(|number| [("app", "web"), ("number", number.as_str())]).collect();
        let host_network = json!({"hostNetwork": true});
        let mut options = Vec::new();
        for (index, number) in (0..).zip(1..=NODES_COUNT) {
            let index: usize = index;
            let on = PodOptions { namespace: NAMESPACE, node: Some(number), ..PodOptions::default() };
            options.push(PodOptions { name: &servers[index], labels: &labels[index], ..on.clone() });
            options.push(PodOptions { name: &clients[index], ..on.clone() });
            let more = host_network.clone();
            options.push(PodOptions { name: &on_nodes[index], port: NODES_OWN_PORT, more, ..on });
        }
        let pods = site.pods(&options);
        let of =
            |role: &str| pods.iter().filter(|pod| pod.name.starts_with(role)).cloned().collect::<Vec<_>>();
        let web = Self {
            servers: of("web"),
            clients: of("client"),
            on_nodes: of("host"),
            one: cluster_ip(site, "one"),
            all: cluster_ip(site, "all"),
            sticky: cluster_ip(site, "sticky"),
        };
        // Every kube-proxy has heard of the endpoints once one client of each node gets an answer.
        for client in &web.clients {
            wait_until("Services lead somewhere", || {
                [&web.one, &web.all, &web.sticky].iter().all(|address| who(site, client, address).is_ok())
            });
        }
        web
    }
}

fn service(name: &str, selector: &Value, more: &Value) -> Value {
    let mut spec = json!({"selector": selector, "ports": [{"port": 80, "targetPort": PORT}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})
}

fn cluster_ip(site: &Site, name: &str) -> String {
    let service = site.kubectl().json(&["get", "service", "--namespace", NAMESPACE, name]).unwrap();
    service.pointer("/spec/clusterIP").and_then(Value::as_str).unwrap().to_owned()
}

/// The server answers and sees this client's own address.
fn assert_seen(site: &Site, client: &Pod, to: &str, server: &Pod) {
    let expected = Ok((server.name.clone(), client.address.to_string()));
    assert_eq!(who(site, client, to), expected, "{client:?} to {to}");
}

#[test]
fn a_cluster_ip_leads_pods_of_every_node_to_its_pod_and_keeps_their_addresses() {
    let site = site();
    let web = web(&site);
    for client in &web.clients {
        assert_seen(&site, client, &web.one, &web.servers[0]);
    }
    site.assert_sealed();
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let site = site();
    let web = web(&site);
    for _ in 0..3 {
        let (name, seen) = who(&site, &web.servers[0], &web.one).unwrap();
        assert_eq!(name, web.servers[0].name);
        // Without another address the answer would not come back by the Service.
        assert_ne!(seen, web.servers[0].address.to_string());
    }
    site.assert_sealed();
}

#[test]
fn a_cluster_ip_leads_from_the_nodes_own_network_to_pods_of_the_same_and_of_other_nodes() {
    let site = site();
    let web = web(&site);
    for from in &web.on_nodes {
        let (name, _) = who(&site, from, &web.one).unwrap_or_else(|error| panic!("{from:?}: {error}"));
        assert_eq!(name, web.servers[0].name, "{from:?}");
    }
    site.assert_sealed();
}

#[test]
fn pods_and_nodes_reach_web_servers_on_the_network_of_nodes() {
    let site = site();
    let web = web(&site);
    for to in &web.on_nodes {
        let place = format!("{}:{NODES_OWN_PORT}", to.address);
        for from in [&web.clients[0], &web.on_nodes[0]] {
            let (name, _) =
                who(&site, from, &place).unwrap_or_else(|error| panic!("{from:?} to {to:?}: {error}"));
            assert_eq!(name, to.node, "{from:?}");
        }
    }
    site.assert_sealed();
}

#[test]
fn a_node_port_of_policy_cluster_leads_from_outside_by_any_node() {
    let site = site();
    let web = web(&site);
    for number in 1..=NODES_COUNT {
        let place = format!("{}:{NODE_PORT_CLUSTER}", site.node_address(number));
        let (name, _) =
            who_from_outside(&site, &place).unwrap_or_else(|error| panic!("node {number}: {error}"));
        assert_eq!(name, web.servers[0].name, "by node {number}");
    }
    site.assert_sealed();
}

#[test]
fn a_node_port_of_policy_local_keeps_the_clients_address_and_leads_by_its_pods_node_only() {
    let site = site();
    let web = web(&site);
    let place = |number: u8| format!("{}:{NODE_PORT_LOCAL}", site.node_address(number));
    let outside = harness::lab::OUTSIDE_IPV4.to_string();
    assert_eq!(who_from_outside(&site, &place(1)), Ok((web.servers[0].name.clone(), outside)));
    let answer = who_from_outside(&site, &place(2));
    assert!(answer.is_err(), "a node without a pod of the Service answers: {answer:?}");
    site.assert_sealed();
}

#[test]
fn session_affinity_keeps_a_client_at_its_server_and_without_it_all_servers_are_used() {
    let site = site();
    let web = web(&site);
    let client = &web.clients[1];
    let servers = |to: &str, count: usize| -> BTreeSet<String> {
        (0..count).map(|_| who(&site, client, to).unwrap().0).collect()
    };
    assert_eq!(servers(&web.sticky, 12).len(), 1);
    // With three servers, forty answers miss one of them once in some millions of runs.
    let mut used = BTreeSet::new();
    wait_until("all servers are used", || {
        used.extend(servers(&web.all, 5));
        used.len() == web.servers.len()
    });
    site.assert_sealed();
}

#[test]
fn a_host_port_leads_from_outside_to_its_pod() {
    let site = site();
    let web = web(&site);
    let containers = |pod: &Value| {
        let mut containers = pod["spec"]["containers"].clone();
        containers[0]["ports"] = json!([{"containerPort": PORT, "hostPort": HOST_PORT}]);
        json!({"containers": containers})
    };
    let plain =
        PodOptions { namespace: NAMESPACE, name: "host-port", node: Some(3), ..PodOptions::default() };
    let pod = site.pods(&[PodOptions { more: containers(&plain.object()), ..plain }]).remove(0);
    let place = format!("{}:{HOST_PORT}", site.node_address(3));
    let outside = harness::lab::OUTSIDE_IPV4.to_string();
    assert_eq!(who_from_outside(&site, &place), Ok((pod.name.clone(), outside)));
    let (name, _) = who(&site, &web.clients[0], &place).unwrap();
    assert_eq!(name, pod.name);
    site.delete(NAMESPACE, &[&pod.name]);
    wait_until("the port is closed", || who_from_outside(&site, &place).is_err());
    site.assert_sealed();
}

#[test]
fn kubelets_probe_pods() {
    let site = site();
    web(&site);
    let probe =
        json!({"httpGet": {"path": "/cgi-bin/who", "port": PORT}, "periodSeconds": 1, "failureThreshold": 1});
    let plain = PodOptions { namespace: NAMESPACE, name: "probed", node: Some(1), ..PodOptions::default() };
    let mut containers = plain.object()["spec"]["containers"].clone();
    containers[0]["readinessProbe"] = probe.clone();
    containers[0]["livenessProbe"] = probe;
    let pod = site.pods(&[PodOptions { more: json!({"containers": containers}), ..plain }]).remove(0);
    // It became ready by its probe. Now the probe fails, and with it the readiness.
    site.exec(&pod, &["rm", "/www/cgi-bin/who"]).unwrap();
    let limit = format!("--timeout={}s", SOON.as_secs());
    let wait = ["wait", "--for=condition=Ready=false", &limit, "--namespace", NAMESPACE, "pod/probed"];
    site.kubectl().long(&wait, SOON).unwrap();
    site.delete(NAMESPACE, &[&pod.name]);
}

#[test]
fn a_dns_pod_tells_pods_of_every_node_the_address_of_a_service() {
    let site = site();
    let web = web(&site);
    let name = format!("one.{NAMESPACE}.svc.{DNS_DOMAIN}");
    let plain = PodOptions {
        namespace: NAMESPACE,
        name: "dns",
        node: Some(2),
        labels: &[("app", "dns")],
        ..PodOptions::default()
    };
    let mut containers = plain.object()["spec"]["containers"].clone();
    containers[0]["command"] = json!(["names", name, web.one]);
    let server = PodOptions { more: json!({"containers": containers}), ..plain };
    let asking: Vec<String> = (1..=NODES_COUNT).map(|number| format!("asking-{number}")).collect();
    let mut options = vec![server];
    options.extend(asking.iter().zip(1..).map(|(name, number)| PodOptions {
        namespace: NAMESPACE,
        name,
        node: Some(number),
        more: json!({"dnsPolicy": "ClusterFirst"}),
        ..PodOptions::default()
    }));
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "dns", "namespace": NAMESPACE},
        "spec": {
            "clusterIP": DNS_ADDRESS, "selector": {"app": "dns"},
            "ports": [{"name": "dns", "protocol": "UDP", "port": 53}],
        },
    });
    site.kubectl().apply_unchecked(&service.to_string()).unwrap();
    let pods = site.pods(&options);
    for pod in &pods[1..] {
        // By what the kubelet wrote into resolv.conf. The server answers for names of IPv4 only.
        let mut said = String::new();
        wait_until(&format!("{pod:?} learns the address of {name}"), || {
            said = site.exec(pod, &["nslookup", "-type=a", &name]).unwrap_or_else(|error| error);
            said.contains(&format!("Address: {}", web.one))
        });
        assert!(said.contains(&format!("{DNS_ADDRESS}:53")), "{said}");
    }
    site.assert_sealed();
}
