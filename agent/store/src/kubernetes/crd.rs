//! The custom resource definitions of our kinds, made from the Rust types.
//!
//! Field names, descriptions, defaults, bounds, patterns and words come from the types in [`crate::resource`]; this
//! adds what only Kubernetes needs: names, columns, subresources and rules. The rules (CEL) hold from Kubernetes 1.25
//! on; older servers drop them, so each of them is enforced by agents as well: manifests in [`crate::manifest`], and
//! stored objects where they are read. They use nothing that came to CEL after 1.25.

use serde_json::{Map, Value, json};

use crate::resource::{
    IpBlock, IpBlockSpec, IpPool, IpPoolRegistry, IpPoolRegistrySpec, IpPoolSpec, IpPoolStatus,
    IpReservation, IpReservationSpec, IpamConfig, IpamConfigSpec, NodeAddress, NodeAddresses, Resource,
};

/// The group of our kinds.
const GROUP: &str = "poolward.io";

/// A definition, and the name of the file it is kept in.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// `ippools.poolward.io`.
    pub name: String,
    /// `poolward.io_ippools.yaml`.
    pub file_name: String,
    /// The whole object.
    pub body: Value,
}

impl Definition {
    /// The file's text.
    ///
    /// # Errors
    /// It cannot be written as YAML.
    pub fn to_yaml(&self) -> Result<String, serde_saphyr::ser::Error> {
        let yaml = serde_saphyr::to_string(&self.body)?;
        Ok(format!("# Made by `cargo xtask codegen` from agent/store/src/resource; do not edit.\n{yaml}"))
    }
}

/// The definitions of all our kinds, in order of name.
#[must_use]
pub fn definitions() -> Vec<Definition> {
    let mut all =
        vec![ip_pool(), ip_reservation(), ip_block(), ip_pool_registry(), node_addresses(), ipam_config()];
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn ip_pool() -> Definition {
    let spec = schema_of::<IpPoolSpec>();
    let spec = with_rules(
        spec,
        &[
            ("self.cidr == oldSelf.cidr", "the range of a pool cannot change: make another pool"),
            (
                "has(self.blockSize) == has(oldSelf.blockSize) && (!has(self.blockSize) || self.blockSize == \
                 oldSelf.blockSize)",
                "the block size of a pool cannot change: make another pool",
            ),
            (
                "!has(self.blockSize) || (self.cidr.contains(':') ? self.blockSize >= 116 : self.blockSize >= 20 && \
                 self.blockSize <= 32)",
                "expected 20 to 32 for IPv4, 116 to 128 for IPv6",
            ),
            (
                "!has(self.blockSize) || self.blockSize >= int(self.cidr.split('/')[1])",
                "a block cannot be larger than its pool",
            ),
            ("!self.cidr.contains(':') || self.ipipMode == 'Never'", "IPIP carries IPv4 only"),
        ],
    );
    define::<IpPool>(Kind {
        short_names: &["ipp"],
        list: "IPPoolList",
        columns: &[
            ("CIDR", "string", ".spec.cidr"),
            ("IPIP", "string", ".spec.ipipMode"),
            ("NAT", "boolean", ".spec.natOutgoing"),
            ("Disabled", "boolean", ".spec.disabled"),
            ("Allocatable", "string", ".status.conditions[?(@.type==\"Allocatable\")].status"),
        ],
        description: "A pool of addresses, cut into blocks that belong to nodes.",
        fields: vec![("spec", spec), ("status", schema_of::<IpPoolStatus>())],
        required: &["spec"],
        rules: &[],
    })
}

fn ip_reservation() -> Definition {
    define::<IpReservation>(Kind {
        short_names: &["ipr"],
        list: "IPReservationList",
        columns: &[("Ranges", "string", ".spec.reservedCIDRs")],
        description: "Ranges that are not handed out automatically.",
        fields: vec![("spec", schema_of::<IpReservationSpec>())],
        required: &["spec"],
        rules: &[],
    })
}

fn ip_block() -> Definition {
    define::<IpBlock>(Kind {
        short_names: &["ipb"],
        list: "IPBlockList",
        columns: &[
            ("CIDR", "string", ".spec.cidr"),
            ("Pool", "string", ".spec.pool"),
            ("Node", "string", ".spec.node"),
        ],
        description: "A part of a pool that belongs to one node. Written by agents only.",
        fields: vec![("spec", schema_of::<IpBlockSpec>())],
        required: &["spec"],
        rules: &[],
    })
}

fn ip_pool_registry() -> Definition {
    define::<IpPoolRegistry>(Kind {
        short_names: &[],
        list: "IPPoolRegistryList",
        columns: &[("Pools", "string", ".spec.entries[*].name")],
        description: "Which pools are admitted, and their tags. Written by agents only.",
        fields: vec![("spec", schema_of::<IpPoolRegistrySpec>())],
        required: &["spec"],
        rules: &[("self.metadata.name == 'default'", "there is one, called default")],
    })
}

fn node_addresses() -> Definition {
    let addresses = json!({
        "description": "One entry an address, in order of address.",
        "type": "array",
        "items": schema_of::<NodeAddress>(),
        "default": [],
    });
    define::<NodeAddresses>(Kind {
        short_names: &["nodeaddr"],
        list: "NodeAddressesList",
        columns: &[("Addresses", "string", ".addresses[*].address")],
        description: "The addresses that a node has given out, named after the node. Written by its agent some time \
                      after the fact; nothing is decided by it.",
        fields: vec![("addresses", addresses)],
        required: &[],
        rules: &[],
    })
}

fn ipam_config() -> Definition {
    define::<IpamConfig>(Kind {
        short_names: &["ipamcfg"],
        list: "IPAMConfigList",
        columns: &[
            ("Strict", "boolean", ".spec.strictAffinity"),
            ("Auto", "boolean", ".spec.autoAllocateBlocks"),
            ("MaxBlocks", "integer", ".spec.maxBlocksPerNode"),
            ("AtLimit", "string", ".spec.atBlockLimit"),
        ],
        description: "How addresses are given, in the whole cluster. There is one, called default, or none: then \
                      each agent goes by its own configuration.",
        fields: vec![("spec", schema_of::<IpamConfigSpec>())],
        required: &["spec"],
        rules: &[("self.metadata.name == 'default'", "there is one, called default")],
    })
}

/// What is said of a kind beyond its types.
struct Kind {
    short_names: &'static [&'static str],
    list: &'static str,
    /// Name, type and path.
    columns: &'static [(&'static str, &'static str, &'static str)],
    description: &'static str,
    fields: Vec<(&'static str, Value)>,
    required: &'static [&'static str],
    /// Rules about the whole object, each with what to say when it is broken.
    rules: &'static [(&'static str, &'static str)],
}

fn define<R: Resource>(kind: Kind) -> Definition {
    let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
    let column =
        |(name, kind, path): &(&str, &str, &str)| json!({"name": name, "type": kind, "jsonPath": path});
    let columns: Vec<Value> = kind.columns.iter().map(column).chain([age]).collect();
    let has_status = kind.fields.iter().any(|(name, _)| *name == "status");
    let mut properties = Map::new();
    properties.insert("apiVersion".to_owned(), json!({"type": "string"}));
    properties.insert("kind".to_owned(), json!({"type": "string"}));
    properties.insert("metadata".to_owned(), json!({"type": "object"}));
    for (name, schema) in kind.fields {
        properties.insert(name.to_owned(), schema);
    }
    let mut schema = json!({"type": "object", "description": kind.description, "properties": properties});
    if !kind.required.is_empty() {
        schema["required"] = json!(kind.required);
    }
    let mut version = json!({
        "name": "v1",
        "served": true,
        "storage": true,
        "schema": {"openAPIV3Schema": with_rules(schema, kind.rules)},
        "additionalPrinterColumns": columns,
    });
    if has_status {
        version["subresources"] = json!({"status": {}});
    }
    let mut names = json!({
        "kind": R::KIND,
        "listKind": kind.list,
        "plural": R::PLURAL,
        "singular": R::KIND.to_ascii_lowercase(),
        "categories": ["poolward"],
    });
    if !kind.short_names.is_empty() {
        names["shortNames"] = json!(kind.short_names);
    }
    let name = format!("{}.{GROUP}", R::PLURAL);
    let body = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name},
        "spec": {"group": GROUP, "scope": "Cluster", "names": names, "versions": [version]},
    });
    Definition { name, file_name: format!("{GROUP}_{}.yaml", R::PLURAL), body }
}

fn with_rules(mut schema: Value, rules: &[(&str, &str)]) -> Value {
    if !rules.is_empty() {
        let rule = |(rule, message): &(&str, &str)| json!({"rule": rule, "message": message});
        schema["x-kubernetes-validations"] = rules.iter().map(rule).collect();
    }
    schema
}

/// The schema of a type as Kubernetes wants it (structural): nothing is referred to, every type is one word.
fn schema_of<T: schemars::JsonSchema>() -> Value {
    let settings = schemars::generate::SchemaSettings::draft07().with(|settings| {
        settings.meta_schema = None;
        settings.inline_subschemas = true;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    make_structural(&mut schema);
    schema
}

fn make_structural(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    fields.remove("title");
    if fields.get("default").is_some_and(Value::is_null) {
        fields.remove("default");
    }
    // Fields that may be left out are not required; null is not a value of them.
    if let Some(Value::Array(types)) = fields.get("type")
        && let Some(plain) = types.iter().find(|kind| *kind != "null").cloned()
    {
        fields.insert("type".to_owned(), plain);
    }
    // Kubernetes knows these two; the bounds of the others stand in `minimum` and `maximum`.
    if fields.get("format").is_some_and(|format| format != "int32" && format != "int64") {
        fields.remove("format");
    }
    if let Some(Value::String(text)) = fields.get_mut("description") {
        *text = plain_text(text);
    }
    for nested in ["properties", "items", "additionalProperties"] {
        match fields.get_mut(nested) {
            Some(Value::Object(by_name)) if nested == "properties" => {
                by_name.values_mut().for_each(make_structural);
            }
            Some(other) => make_structural(other),
            None => {}
        }
    }
}

/// A doc comment as people read it: lines joined, no links and no code marks.
fn plain_text(text: &str) -> String {
    let joined =
        text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    joined.collect::<Vec<_>>().join("\n").replace(['`', '[', ']'], "")
}
