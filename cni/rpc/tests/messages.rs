//! Every message crosses the wire unchanged, and the names on the wire are the ones that peers rely on.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use poolward_rpc::frame::{HEADER_SIZE_BYTES, Header, Kind, decode_body, encode};
use poolward_rpc::{
    AddDelegatedRequest, AddReply, AddRequest, AddressReply, AddressUsage, ApplyReply, ApplyRequest,
    AssignedAddress, AssignedReply, Attachment, BlockUsage, CheckRequest, DelRequest, DeleteRequest,
    Document, DropCount, ErrorCode, GcReply, GcRequest, GetReply, GetRequest, InterfaceReply, IpamAddRequest,
    IpamCheckReply, IpamReleaseReply, IpamReleaseRequest, IpamReply, IpamShowRequest, IpamViolation,
    NetworkOptions, NodeStatusReply, ObjectResult, PodCidrsReply, PodRef, PoolRange, PoolTraffic, PoolUsage,
    PoolsExportReply, ReconcileStatus, Reply, Request, RpcError, Usage, ValidAttachment, VersionReply,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    kind: Kind,
    tag: (&str, &str),
    message: &T,
) {
    let frame = encode(kind, false, message).unwrap();
    let (header, body) = frame.split_first_chunk::<HEADER_SIZE_BYTES>().unwrap();
    let header = Header::parse(header).unwrap();
    assert_eq!((header.kind, header.body_len_bytes as usize), (kind, body.len()));
    let value: serde_json::Value = decode_body(body).unwrap();
    assert_eq!(value[tag.0], tag.1, "{value}");
    assert_eq!(&decode_body::<T>(body).unwrap(), message);
}

fn attachment() -> Attachment {
    Attachment { container_id: "c0ffee".into(), ifname: "eth0".into(), network: "net".into() }
}

#[test]
fn every_request_crosses_unchanged() {
    let requests = [
        (
            "cniAdd",
            Request::CniAdd(AddRequest {
                attachment: attachment(),
                netns_path: "/run/netns/a".into(),
                pod: PodRef { namespace: "ns".into(), name: "p".into(), uid: "u".into() },
                options: NetworkOptions {
                    ipv4_pools: Some(vec!["a".into()]),
                    ipv6_pools: Some(vec![]),
                    assign_ipv4: Some(true),
                    assign_ipv6: None,
                    mtu_bytes: Some(1400),
                },
            }),
        ),
        (
            "cniAddDelegated",
            Request::CniAddDelegated(AddDelegatedRequest {
                add: AddRequest { attachment: attachment(), ..AddRequest::default() },
                addresses: vec!["10.244.1.7".parse().unwrap()],
            }),
        ),
        (
            "cniIpamAdd",
            Request::CniIpamAdd(IpamAddRequest {
                add: AddRequest { attachment: attachment(), ..AddRequest::default() },
                on_link: true,
                subnets: vec!["10.0.0.0/8".into()],
                gateways: Some(vec!["10.0.0.1".parse().unwrap()]),
            }),
        ),
        ("podCidrs", Request::PodCidrs),
        ("cniDel", Request::CniDel(DelRequest { attachment: attachment() })),
        (
            "cniCheck",
            Request::CniCheck(CheckRequest {
                attachment: attachment(),
                expected_addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            }),
        ),
        (
            "cniGc",
            Request::CniGc(GcRequest {
                network: "net".into(),
                valid: vec![ValidAttachment { container_id: "c".into(), ifname: "e".into() }],
                called_at_boot_ms: u64::MAX,
            }),
        ),
        ("cniStatus", Request::CniStatus),
        (
            "apply",
            Request::Apply(ApplyRequest {
                documents: vec![Document {
                    source: "a.yaml, document 1".into(),
                    body: json!({"kind": "IPPool"}),
                }],
                dry_run: true,
            }),
        ),
        ("get", Request::Get(GetRequest { kind: "ippool".into(), name: Some("a".into()) })),
        ("delete", Request::Delete(DeleteRequest { kind: "pod".into(), name: "ns/p".into() })),
        ("ipamShow", Request::IpamShow(IpamShowRequest { address: Some("10.0.0.1".parse().unwrap()) })),
        (
            "ipamRelease",
            Request::IpamRelease(IpamReleaseRequest { handle: "c/eth0".into(), address: None, force: true }),
        ),
        ("ipamCheck", Request::IpamCheck),
        ("poolsExport", Request::PoolsExport),
        ("nodeStatus", Request::NodeStatus),
        ("version", Request::Version),
    ];
    for (op, request) in &requests {
        check(Kind::Request, ("op", op), request);
    }
}

#[test]
fn every_reply_crosses_unchanged() {
    let usage = Usage { size: u64::MAX, used: 1, free: 2, cooling: 3, reserved: 4 };
    let replies = [
        (
            "error",
            Reply::Error(RpcError {
                code: ErrorCode::Exhausted,
                message: "m".into(),
                details: vec!["d".into()],
            }),
        ),
        ("done", Reply::Done),
        (
            "added",
            Reply::Added(AddReply {
                host: InterfaceReply { name: "pw0".into(), mac: "0a:00:00:00:00:01".into() },
                pod: InterfaceReply { name: "eth0".into(), mac: "0a:00:00:00:00:02".into() },
                addresses: vec![AddressReply {
                    address: "fd00::1".parse().unwrap(),
                    gateway: "fe80::1".parse().unwrap(),
                    pool: "p".into(),
                }],
                mtu_bytes: 1480,
            }),
        ),
        (
            "assigned",
            Reply::Assigned(AssignedReply {
                addresses: vec![AssignedAddress {
                    address: "10.0.0.7".parse().unwrap(),
                    prefix_len: 24,
                    gateway: Some("10.0.0.1".parse().unwrap()),
                    pool: "p".into(),
                }],
            }),
        ),
        ("podCidrs", Reply::PodCidrs(PodCidrsReply { cidrs: vec!["10.244.1.0/24".into()] })),
        (
            "collected",
            Reply::Collected(GcReply {
                freed: vec![ValidAttachment { container_id: "c".into(), ifname: "e".into() }],
                errors: vec!["x".into()],
            }),
        ),
        (
            "applied",
            Reply::Applied(ApplyReply {
                results: vec![ObjectResult {
                    kind: "ippool".into(),
                    name: "a".into(),
                    outcome: "created".into(),
                }],
                warnings: vec!["w".into()],
            }),
        ),
        ("objects", Reply::Objects(GetReply { objects: vec![json!({"a": [1, null, "x"]})] })),
        (
            "ipam",
            Reply::Ipam(IpamReply {
                pools: vec![PoolUsage { name: "p".into(), usage, ..PoolUsage::default() }],
                blocks: vec![BlockUsage { cidr: "10.0.0.0/29".into(), usage, ..BlockUsage::default() }],
                addresses: vec![AddressUsage {
                    address: "10.0.0.1".parse().unwrap(),
                    state: "used".into(),
                    pool: "p".into(),
                    block: "10.0.0.0/29".into(),
                    node: "n".into(),
                    handle: "c/eth0".into(),
                    pod: "ns/p".into(),
                    note: String::new(),
                }],
            }),
        ),
        ("released", Reply::Released(IpamReleaseReply { freed: vec!["10.0.0.1".parse().unwrap()] })),
        (
            "ipamChecked",
            Reply::IpamChecked(IpamCheckReply {
                blocks: 1,
                addresses: u64::MAX,
                violations: vec![IpamViolation {
                    kind: "duplicate-holder".into(),
                    message: "m".into(),
                    rule: "r".into(),
                    remedy: "do".into(),
                    at_rest: true,
                }],
            }),
        ),
        (
            "pools",
            Reply::Pools(PoolsExportReply {
                pools: vec![PoolRange {
                    name: "p".into(),
                    mark: u32::MAX,
                    dscp: Some(46),
                    ..PoolRange::default()
                }],
            }),
        ),
        (
            "node",
            Reply::Node(Box::new(NodeStatusReply {
                node: "n".into(),
                reconcile: ReconcileStatus {
                    runs: 3,
                    last_errors: vec!["e".into()],
                    ..ReconcileStatus::default()
                },
                drops: vec![DropCount { reason: "spoof".into(), packets: 1 }],
                traffic: vec![PoolTraffic { pool: "p".into(), tx_bytes: u64::MAX, ..PoolTraffic::default() }],
                ..NodeStatusReply::default()
            })),
        ),
        ("version", Reply::Version(VersionReply { version: "0.1.0".into(), protocol: 1, schema: 2 })),
    ];
    for (reply, message) in &replies {
        check(Kind::Reply, ("reply", reply), message);
    }
}

#[test]
fn every_error_code_crosses_by_its_name() {
    let codes = [
        (ErrorCode::Invalid, "invalid"),
        (ErrorCode::NotFound, "notFound"),
        (ErrorCode::Conflict, "conflict"),
        (ErrorCode::Exhausted, "exhausted"),
        (ErrorCode::TryAgain, "tryAgain"),
        (ErrorCode::NotReady, "notReady"),
        (ErrorCode::NotReadyLimited, "notReadyLimited"),
        (ErrorCode::CheckFailed, "checkFailed"),
        (ErrorCode::Cancelled, "cancelled"),
        (ErrorCode::Internal, "internal"),
        (ErrorCode::Version, "version"),
    ];
    for (code, name) in codes {
        assert_eq!(serde_json::to_value(code).unwrap(), name);
        assert_eq!(serde_json::from_value::<ErrorCode>(name.into()).unwrap(), code);
    }
}
