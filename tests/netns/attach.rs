//! How programs come to be on interfaces: at once by filters, later by TCX links, and never unguarded between.

use std::net::SocketAddr;
use std::time::Duration;

use harness::lab::OUTSIDE_IPV4;
use harness::{AgentOptions, EchoServer, RawSender, UdpFrame, wait_until};

use crate::kernel::{agreed, filtered, linked};
use crate::manifest::pool;
use crate::site::Site;
use crate::traffic::{Stream, count_marks, mark_of_pool, marks_of};

const PORT: u16 = 7600;

#[test]
fn the_change_from_filters_to_links_loses_no_packet_no_mark_and_no_drop() {
    let site = Site::new();
    let mut node = site.start_with(&AgentOptions { resync_seconds: 1, ..AgentOptions::default() });
    node.apply(&[pool("a", "10.78.0.0/26", "blockSize: 29")]);
    site.lab.route_to_node("10.78.0.0/26").unwrap();
    count_marks(&site.lab.node);
    let _server = EchoServer::start(&site.lab.outside, [PORT]).unwrap();
    let pod = node.add_container("a");
    let index = u64::from(node.netns().link(&pod.host_ifname()).unwrap().index);
    assert!(filtered(node.netns()).contains(&index) && !linked(&site.files).contains(&index));

    let stream = Stream::start(&pod, SocketAddr::from((OUTSIDE_IPV4, PORT)));
    let spoofed = UdpFrame {
        source_mac: pod.netns.link("eth0").unwrap().mac,
        destination_mac: node.netns().link(&pod.host_ifname()).unwrap().mac,
        source: "10.78.0.60".parse().unwrap(),
        destination: OUTSIDE_IPV4.into(),
        source_port: PORT,
        destination_port: PORT,
        tos: 0,
        payload: Vec::new(),
    };
    let sender = RawSender::new(&pod.netns, "eth0").unwrap();
    let frame = spoofed.build().unwrap();
    let mut spoofed_count = 0;
    wait_until(Duration::from_secs(12), "a link in the place of the filter", || {
        linked(&site.files).contains(&index) && filtered(node.netns()).is_empty()
    });
    for _ in 0..20 {
        sender.send(&frame).unwrap();
        spoofed_count += 1;
    }
    let counts = stream.stop();
    assert!(counts.sent > 1000 && counts.echoed == counts.sent, "{counts:?}");
    assert_eq!(marks_of(&node, &pod), [(mark_of_pool(&node, "a"), counts.sent)], "every packet, each once");
    assert_eq!(node.dropped("ipv4_source"), spoofed_count);
    assert_eq!(node.check(&pod), None);
    agreed(&node);

    // The next agent finds links and leaves them.
    node.agent.kill().unwrap();
    node.agent.start_again().unwrap();
    assert_eq!(node.first_planned(), 0, "{}", node.agent.log_tail());
    node.del(&pod);
    wait_until(Duration::from_secs(3), "its pins go as well", || linked(&site.files).is_empty());
    assert!(agreed(&node).is_empty());
}

#[test]
fn an_agent_that_attaches_in_another_way_loses_no_packet_and_leaves_no_pod_unguarded() {
    let site = Site::new();
    let options = |mode: &str| AgentOptions {
        resync_seconds: 1,
        more_yaml: format!("attachMode: {mode}\n"),
        ..AgentOptions::default()
    };
    let mut node = site.start_with(&options("clsact"));
    node.apply(&[pool("a", "10.78.0.0/26", "blockSize: 29")]);
    site.lab.route_to_node("10.78.0.0/26").unwrap();
    count_marks(&site.lab.node);
    let _server = EchoServer::start(&site.lab.outside, [PORT]).unwrap();
    let pod = node.add_container("a");
    let index = u64::from(node.netns().link(&pod.host_ifname()).unwrap().index);
    let mark = mark_of_pool(&node, "a");
    let stream = Stream::start(&pod, SocketAddr::from((OUTSIDE_IPV4, PORT)));
    for mode in ["tcx", "clsact", "auto", "tcx"] {
        std::thread::sleep(Duration::from_millis(200));
        node.agent.kill().unwrap();
        node = site.start_with(&options(mode));
        wait_until(Duration::from_secs(3), mode, || node.status()["ready"] == true);
        // Right after the change both may be there; what they do is idempotent.
        let guarded = linked(&site.files).contains(&index) || filtered(node.netns()).contains(&index);
        assert!(guarded, "{mode}");
        assert_eq!(node.check(&pod), None, "{mode}");
    }
    let counts = stream.stop();
    assert!(counts.sent > 500 && counts.echoed == counts.sent, "{counts:?}");
    assert_eq!(marks_of(&node, &pod), [(mark, counts.sent)]);
    node.del(&pod);
}
