//! Manifests for `poolwardctl apply`.

/// A pool; `more` are fields of its spec in YAML's flow style, such as `blockSize: 29, natOutgoing: true`.
pub(crate) fn pool(name: &str, cidr: &str, more: &str) -> String {
    format!(
        "---\napiVersion: poolward.io/v1\nkind: IPPool\nmetadata: {{name: {name}}}\n\
         spec: {{cidr: \"{cidr}\", {more}}}\n"
    )
}

/// A reservation of some ranges.
pub(crate) fn reservation(name: &str, ranges: &[&str]) -> String {
    format!(
        "---\napiVersion: poolward.io/v1\nkind: IPReservation\nmetadata: {{name: {name}}}\n\
         spec: {{reservedCIDRs: [\"{}\"]}}\n",
        ranges.join("\", \"")
    )
}

/// A namespace with annotations.
pub(crate) fn namespace(name: &str, annotations: &[(&str, &str)]) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}{}}}\n", flow(annotations))
}

/// A pod with annotations.
pub(crate) fn pod(namespace: &str, name: &str, annotations: &[(&str, &str)]) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {name}{}}}\n",
        flow(annotations)
    )
}

fn flow(annotations: &[(&str, &str)]) -> String {
    if annotations.is_empty() {
        return String::new();
    }
    // Values are JSON themselves: in single quotes nothing in them means anything to YAML.
    let pairs: Vec<String> = annotations.iter().map(|(key, value)| format!("{key}: '{value}'")).collect();
    format!(", annotations: {{{}}}", pairs.join(", "))
}
