//! `get`: objects as lists for people, as manifests for programs.

use std::collections::BTreeMap;

use model::Cidr;
use rpc::{GetReply, GetRequest, Reply, Request};
use serde::Serialize;
use serde_json::Value;
use store::Key;
use store::manifest::Kind;

use super::{Context, unexpected};
use crate::cli::{GetArgs, plural};
use crate::exit::{Exit, Failure};
use crate::output::color::Tone;
use crate::output::table::{Align, Cell, Column, Table};

/// Where pods are that are named without a namespace.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// A list as Kubernetes writes it, so that the same tools read it and `apply` takes it back.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    api_version: &'static str,
    kind: &'static str,
    items: &'a [Value],
}

/// Shows a list, or one object.
pub(crate) fn run(context: &Context, args: &GetArgs) -> Result<Exit, Failure> {
    let many = plural(args.kind);
    let name = args.name.as_deref().map(|name| object_name(args.kind, name, args.namespace.as_deref()));
    if args.namespace.is_some() && args.kind != Kind::Pod {
        return Err(Failure::new(Exit::Usage, format!("get {many}: {many} have no namespace"))
            .with_next("leave --namespace out"));
    }
    let operation =
        name.as_ref().map_or_else(|| format!("get {many}"), |name| format!("get {} {name}", args.kind));
    let request = Request::Get(GetRequest { kind: args.kind.word().to_owned(), name: name.clone() });
    let mut objects = match context.ask(&operation, &request)? {
        Reply::Objects(GetReply { objects }) => objects,
        reply => return Err(unexpected(&operation, &reply)),
    };
    if let (None, Some(namespace)) = (&name, &args.namespace) {
        objects.retain(|pod| field(pod, "/metadata/namespace") == *namespace);
    }
    match (&name, objects.as_slice()) {
        (Some(_), [object]) => context.output.show(object, |color| render(args.kind, &objects, color))?,
        (Some(_), []) => {
            return Err(Failure::new(Exit::NotFound, format!("{operation}: there is none"))
                .with_next(format!("`poolwardctl get {many}` lists what there is")));
        }
        (_, objects) => {
            let list = List { api_version: "v1", kind: "List", items: objects };
            if objects.is_empty() && context.output.format == crate::cli::Format::Table {
                context.output.note(&nothing_there(args.kind));
            } else {
                context.output.show(&list, |color| render(args.kind, objects, color))?;
            }
        }
    }
    Ok(Exit::Ok)
}

/// The name as the agent knows it: pods with their namespace, blocks by name where a range is given.
pub(crate) fn object_name(kind: Kind, name: &str, namespace: Option<&str>) -> String {
    match kind {
        Kind::Pod if !name.contains('/') => format!("{}/{name}", namespace.unwrap_or(DEFAULT_NAMESPACE)),
        Kind::IpBlock => name
            .parse::<Cidr>()
            .map_or_else(|_| name.to_owned(), |cidr| Key::of_block(cidr).as_str().to_owned()),
        _ => name.to_owned(),
    }
}

fn nothing_there(kind: Kind) -> String {
    let many = plural(kind);
    let next = match kind {
        Kind::IpPool => {
            "create one with `poolwardctl apply -f FILE`; `poolwardctl apply --help` shows a manifest"
        }
        Kind::IpReservation => {
            "none is needed; an IPReservation keeps addresses from being handed out by themselves"
        }
        Kind::IpBlock => {
            "a node takes its first block when its first pod starts; `poolwardctl status` says whether it is ready"
        }
        Kind::IpamConfig => "none is needed; without it each agent goes by its own configuration",
        Kind::NodeAddresses => {
            "agents write them once they have given addresses out, where there is a cluster"
        }
        Kind::Namespace | Kind::Pod => {
            "Kubernetes brings them; without it, apply a manifest of them: `poolwardctl apply -f FILE`"
        }
    };
    format!("no {many}\nnext: {next}")
}

fn render(kind: Kind, objects: &[Value], color: bool) -> String {
    let columns: &[Column] = match kind {
        Kind::IpPool => &POOL_COLUMNS,
        Kind::IpReservation => &[("NAME", Align::Left), ("CIDRS", Align::Left)],
        Kind::IpBlock => {
            &[("NAME", Align::Left), ("CIDR", Align::Left), ("POOL", Align::Left), ("NODE", Align::Left)]
        }
        Kind::IpamConfig => &[("NAME", Align::Left), ("SETTINGS", Align::Left)],
        Kind::NodeAddresses => &[("NODE", Align::Left), ("COUNT", Align::Right), ("ADDRESSES", Align::Left)],
        Kind::Namespace => &[
            ("NAME", Align::Left),
            ("IPV4 POOLS", Align::Left),
            ("IPV6 POOLS", Align::Left),
            ("LABELS", Align::Left),
        ],
        Kind::Pod => &POD_COLUMNS,
    };
    let row = match kind {
        Kind::IpPool => pool_row,
        Kind::IpReservation => reservation_row,
        Kind::IpBlock => block_row,
        Kind::IpamConfig => ipam_config_row,
        Kind::NodeAddresses => node_addresses_row,
        Kind::Namespace => namespace_row,
        Kind::Pod => pod_row,
    };
    let mut table = Table::new(columns);
    for object in objects {
        table.row(row(object));
    }
    table.render(color)
}

const POOL_COLUMNS: [Column; 9] = [
    ("NAME", Align::Left),
    ("CIDR", Align::Left),
    ("BLOCK", Align::Right),
    ("IPIP", Align::Left),
    ("NAT", Align::Left),
    ("DSCP", Align::Right),
    ("TAG", Align::Right),
    ("SELECTOR", Align::Left),
    ("STATE", Align::Left),
];

fn pool_row(pool: &Value) -> Vec<Cell> {
    let nat = if flag(pool, "/spec/natOutgoing") { "yes" } else { "no" };
    vec![
        field(pool, "/metadata/name").into(),
        field(pool, "/spec/cidr").into(),
        format!("/{}", field(pool, "/spec/blockSize")).into(),
        field(pool, "/spec/ipipMode").into(),
        nat.into(),
        field(pool, "/spec/dscp").into(),
        field(pool, "/status/tag").into(),
        selectors(pool).into(),
        pool_state(pool),
    ]
}

/// The first of these that holds says most about what the pool does.
fn pool_state(pool: &Value) -> Cell {
    let refused = pool
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .and_then(|conditions| conditions.iter().find(|c| field(c, "/type") == "Allocatable"))
        .filter(|condition| field(condition, "/status") == "False");
    if flag(pool, "/status/terminating") {
        Cell::toned("terminating", Tone::Warn)
    } else if let Some(condition) = refused {
        Cell::toned(format!("not allocatable ({})", field(condition, "/reason")), Tone::Bad)
    } else if flag(pool, "/spec/disabled") {
        Cell::toned("disabled", Tone::Warn)
    } else if field(pool, "/spec/assignmentMode") == "Manual" {
        "on request".into()
    } else {
        Cell::toned("active", Tone::Good)
    }
}

/// Only what restricts.
fn selectors(pool: &Value) -> String {
    let parts: Vec<String> = [("nodes", "/spec/nodeSelector"), ("namespaces", "/spec/namespaceSelector")]
        .into_iter()
        .map(|(who, path)| (who, field(pool, path)))
        .filter(|(_, selector)| !matches!(selector.as_str(), "" | "all()"))
        .map(|(who, selector)| format!("{who}: {selector}"))
        .collect();
    if parts.is_empty() { "all()".to_owned() } else { parts.join("; ") }
}

fn reservation_row(reservation: &Value) -> Vec<Cell> {
    vec![field(reservation, "/metadata/name").into(), field(reservation, "/spec/reservedCIDRs").into()]
}

fn block_row(block: &Value) -> Vec<Cell> {
    ["/metadata/name", "/spec/cidr", "/spec/pool", "/spec/node"]
        .map(|path| field(block, path).into())
        .to_vec()
}

fn ipam_config_row(config: &Value) -> Vec<Cell> {
    let spec = config.pointer("/spec").and_then(Value::as_object);
    let settings = spec.into_iter().flatten().map(|(key, value)| format!("{key}={}", text(value)));
    vec![field(config, "/metadata/name").into(), settings.collect::<Vec<_>>().join(", ").into()]
}

fn node_addresses_row(node: &Value) -> Vec<Cell> {
    let entries = node.pointer("/addresses").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let addresses = entries.iter().map(|entry| field(entry, "/address")).collect::<Vec<_>>().join(",");
    vec![field(node, "/metadata/name").into(), entries.len().to_string().into(), addresses.into()]
}

/// Annotations that choose pools: ours first, then Calico's.
fn pools_annotation(object: &Value, key: &str) -> String {
    let annotation = |prefix: &str| {
        let text = object.pointer("/metadata/annotations")?.get(format!("{prefix}/{key}"))?.as_str()?;
        // A list shows as its items; what does not parse shows as it is.
        let list: Option<Vec<String>> = serde_json::from_str(text).ok();
        Some(list.map_or_else(|| text.to_owned(), |items| items.join(",")))
    };
    annotation("poolward.io").or_else(|| annotation("cni.projectcalico.org")).unwrap_or_default()
}

fn labels(object: &Value) -> String {
    let labels: BTreeMap<String, Value> = object
        .pointer("/metadata/labels")
        .and_then(Value::as_object)
        .map(|labels| labels.clone().into_iter().collect())
        .unwrap_or_default();
    labels.iter().map(|(key, value)| format!("{key}={}", text(value))).collect::<Vec<_>>().join(",")
}

fn namespace_row(namespace: &Value) -> Vec<Cell> {
    vec![
        field(namespace, "/metadata/name").into(),
        pools_annotation(namespace, "ipv4pools").into(),
        pools_annotation(namespace, "ipv6pools").into(),
        labels(namespace).into(),
    ]
}

const POD_COLUMNS: [Column; 6] = [
    ("NAMESPACE", Align::Left),
    ("NAME", Align::Left),
    ("NODE", Align::Left),
    ("IPV4 POOLS", Align::Left),
    ("IPV6 POOLS", Align::Left),
    ("LABELS", Align::Left),
];

fn pod_row(pod: &Value) -> Vec<Cell> {
    vec![
        field(pod, "/metadata/namespace").into(),
        field(pod, "/metadata/name").into(),
        field(pod, "/spec/nodeName").into(),
        pools_annotation(pod, "ipv4pools").into(),
        pools_annotation(pod, "ipv6pools").into(),
        labels(pod).into(),
    ]
}

/// What stands at a JSON pointer, for people; empty where nothing does.
pub(crate) fn field(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).map(text).unwrap_or_default()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

fn flag(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pools_show_what_they_do() {
        let pool = |name: &str, spec: Value, status: Value| {
            let mut all = json!({"cidr": "192.0.2.0/26", "blockSize": 29, "ipipMode": "Always", "natOutgoing": false,
                "nodeSelector": "all()", "namespaceSelector": "all()", "assignmentMode": "Automatic"});
            all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            json!({"kind": "IPPool", "metadata": {"name": name}, "spec": all, "status": status})
        };
        let objects = [
            pool("external-pool", json!({"dscp": 46}), json!({"tag": 1})),
            pool("internal-pool", json!({"natOutgoing": true, "disabled": true}), json!({"tag": 12})),
            pool(
                "manual",
                json!({"assignmentMode": "Manual", "nodeSelector": "zone == 'a'", "namespaceSelector": "has(x)"}),
                json!({}),
            ),
            pool("old", json!({}), json!({"terminating": true})),
            pool(
                "over",
                json!({}),
                json!({"conditions": [{"type": "Allocatable", "status": "False", "reason": "CIDROverlap"}]}),
            ),
        ];
        assert_eq!(
            render(Kind::IpPool, &objects, false),
            "\
NAME            CIDR           BLOCK   IPIP     NAT   DSCP   TAG   SELECTOR                                 STATE
external-pool   192.0.2.0/26     /29   Always   no      46     1   all()                                    active
internal-pool   192.0.2.0/26     /29   Always   yes      -    12   all()                                    disabled
manual          192.0.2.0/26     /29   Always   no       -     -   nodes: zone == 'a'; namespaces: has(x)   on request
old             192.0.2.0/26     /29   Always   no       -     -   all()                                    terminating
over            192.0.2.0/26     /29   Always   no       -     -   all()                                    not allocatable (CIDROverlap)
"
        );
    }

    #[test]
    fn the_other_kinds_show_what_chooses_addresses() {
        let check =
            |kind, object: Value, expected: &str| assert_eq!(render(kind, &[object], false), expected);
        check(
            Kind::IpReservation,
            json!({"metadata": {"name": "gateways"}, "spec": {"reservedCIDRs": ["192.0.2.0/32", "192.0.2.8/29"]}}),
            "NAME       CIDRS\ngateways   192.0.2.0/32,192.0.2.8/29\n",
        );
        check(
            Kind::IpBlock,
            json!({"metadata": {"name": "192-0-2-0-29"}, "spec": {"cidr": "192.0.2.0/29", "pool": "a", "node": "n1"}}),
            "NAME           CIDR           POOL   NODE\n192-0-2-0-29   192.0.2.0/29   a      n1\n",
        );
        check(
            Kind::Namespace,
            json!({"metadata": {"name": "external-ns", "labels": {"team": "a", "env": "b"},
                "annotations": {"cni.projectcalico.org/ipv4pools": "[\"external-pool\", \"b\"]", "poolward.io/ipv6pools": "oops"}}}),
            "NAME          IPV4 POOLS        IPV6 POOLS   LABELS\nexternal-ns   external-pool,b   oops         env=b,team=a\n",
        );
        check(
            Kind::Pod,
            json!({"metadata": {"name": "web-1", "namespace": "external-ns"}, "spec": {"nodeName": "n1"}}),
            "NAMESPACE     NAME    NODE   IPV4 POOLS   IPV6 POOLS   LABELS\nexternal-ns   web-1   n1     -            -            -\n",
        );
    }

    #[test]
    fn names_are_completed_to_what_the_agent_knows() {
        for (kind, name, namespace, expected) in [
            (Kind::IpPool, "a", None, "a"),
            (Kind::Pod, "web", None, "default/web"),
            (Kind::Pod, "web", Some("ns"), "ns/web"),
            (Kind::Pod, "other/web", Some("ns"), "other/web"),
            (Kind::IpBlock, "192.0.2.8/29", None, "192-0-2-8-29"),
            (Kind::IpBlock, "192-0-2-8-29", None, "192-0-2-8-29"),
        ] {
            assert_eq!(object_name(kind, name, namespace), expected);
        }
    }

    #[test]
    fn an_object_without_the_fields_expected_is_still_a_row() {
        for kind in [Kind::IpPool, Kind::IpReservation, Kind::IpBlock, Kind::Namespace, Kind::Pod] {
            for object in
                [json!({}), json!(null), json!([1]), json!({"metadata": 3, "spec": {"cidr": {"a": 1}}})]
            {
                assert_eq!(render(kind, &[object], false).lines().count(), 2);
            }
        }
    }
}
