//! Requests as the API server itself counts them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::ControlPlane;

/// The metric: every request that has been answered, watches when they end.
const METRIC: &str = "apiserver_request_total";

/// What requests are counted apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestKind {
    /// `GET`, `LIST`, `WATCH`, `POST`, `PUT`, `PATCH`, `DELETE`, ...
    pub verb: String,
    /// API group; empty for core.
    pub group: String,
    /// Such as `nodes`; empty for what is no resource, such as `/readyz`.
    pub resource: String,
    /// Such as `status`.
    pub subresource: String,
    /// HTTP status.
    pub code: String,
}

/// How many of each were answered since the server started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests(BTreeMap<RequestKind, u64>);

impl ControlPlane {
    /// All metrics of the API server, as text.
    ///
    /// # Errors
    /// It is not there.
    pub fn metrics(&self) -> Result<String> {
        self.kubectl()?.raw("/metrics")
    }

    /// How many requests of each kind the server has answered since it started.
    ///
    /// # Errors
    /// It is not there, or counts otherwise than expected.
    pub fn requests(&self) -> Result<Requests> {
        Requests::parse(&self.metrics()?)
    }
}

impl Requests {
    fn parse(text: &str) -> Result<Self> {
        let mut counts = BTreeMap::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(METRIC).and_then(|rest| rest.strip_prefix('{')) else {
                continue;
            };
            let parsed = rest.rsplit_once("} ").and_then(|(labels, count)| {
                let label = |name: &str| {
                    let start = format!("{name}=\"");
                    let found = labels.split("\",").find_map(|label| label.strip_prefix(&start));
                    found.unwrap_or_default().trim_end_matches('"').to_owned()
                };
                let kind = RequestKind {
                    verb: label("verb"),
                    group: label("group"),
                    resource: label("resource"),
                    subresource: label("subresource"),
                    code: label("code"),
                };
                Some((kind, whole(count)?))
            });
            let (kind, count) = parsed.with_context(|| format!("metric not understood: {line}"))?;
            *counts.entry(kind).or_default() += count;
        }
        Ok(Self(counts))
    }

    /// What came since `earlier`, without kinds of which nothing came.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let new = self.0.iter().filter_map(|(kind, count)| {
            let before = earlier.0.get(kind).copied().unwrap_or(0);
            (*count > before).then(|| (kind.clone(), count - before))
        });
        Self(new.collect())
    }

    /// Without what does not fit.
    #[must_use]
    pub fn only(&self, fits: impl Fn(&RequestKind) -> bool) -> Self {
        let kept = self.0.iter().filter(|(kind, _)| fits(kind));
        Self(kept.map(|(kind, count)| (kind.clone(), *count)).collect())
    }

    /// All together.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// Each kind with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&RequestKind, u64)> {
        self.0.iter().map(|(kind, count)| (kind, *count))
    }
}

/// Go prints large counts as `1.234e+06`.
fn whole(text: &str) -> Option<u64> {
    let Some((mantissa, exponent)) = text.split_once("e+") else { return text.parse().ok() };
    let exponent: usize = exponent.parse().ok()?;
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    format!("{integer}{fraction:0<exponent$}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# TYPE apiserver_request_total counter
apiserver_request_total{code="200",component="apiserver",contentType="application/json",dry_run="",group="",resource="nodes",scope="cluster",subresource="",verb="LIST",version="v1"} 7
apiserver_request_total{code="200",component="apiserver",contentType="application/vnd",dry_run="",group="",resource="nodes",scope="cluster",subresource="",verb="LIST",version="v1"} 2
apiserver_request_total{code="0",component="apiserver",contentType="",dry_run="",group="poolward.io",resource="ipblocks",scope="cluster",subresource="",verb="WATCH",version="v1"} 1.5e+03
apiserver_request_duration_seconds_count{verb="LIST"} 3
"#;

    #[test]
    fn labels_that_are_not_asked_for_are_added_up() {
        let requests = Requests::parse(TEXT).unwrap();
        let of = |verb: &str| requests.only(|kind| kind.verb == verb).count();
        assert_eq!((of("LIST"), of("WATCH"), requests.count()), (9, 1500, 1509));
        let (watch, _) = requests.iter().find(|(kind, _)| kind.verb == "WATCH").unwrap();
        assert_eq!((watch.group.as_str(), watch.resource.as_str()), ("poolward.io", "ipblocks"));
    }

    #[test]
    fn only_what_is_new_is_left_of_a_difference() {
        let (before, after) = (Requests::parse(TEXT).unwrap(), TEXT.replace("} 2\n", "} 5\n"));
        let new = Requests::parse(&after).unwrap().since(&before);
        assert_eq!((new.count(), new.iter().count()), (3, 1));
        assert_eq!(before.since(&before).count(), 0);
    }

    #[test]
    fn a_count_that_cannot_be_read_is_an_error() {
        assert!(Requests::parse("apiserver_request_total{verb=\"GET\"} many\n").is_err());
        assert_eq!(whole("1.234567e+06"), Some(1_234_567));
    }
}
