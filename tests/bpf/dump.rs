//! What an operator sees: `bpftool map dump` prints the names of fields.

use harness::Run;
use serde_json::Value;

use crate::bench::{Bench, Given, PinDir, Program, rule};
use crate::frames::{POD_V4, V4};

pub(crate) fn dump(pins: &std::path::Path, name: &str) -> Value {
    let path = pins.join(format!("v{}", bpf::SCHEMA_VERSION)).join(name);
    let path = path.to_str().unwrap();
    let text = Run::new("bpftool").args(["-j", "map", "dump", "pinned", path]).ok().unwrap();
    serde_json::from_str::<Value>(&text).unwrap()
}

#[test]
fn maps_are_dumped_with_the_names_of_their_fields() {
    let mut bench = Bench::new();
    bench.set_pools(rule(5, true, Some(46)));
    bench.run(Program::FromPod, &V4::from(POD_V4).frame(), Given::default());
    let formatted = |name: &str| dump(bench.pin_dir(), name)[0]["formatted"].clone();

    let endpoint = formatted("pw_endpoints");
    assert_eq!(endpoint["key"]["ifindex"], bench.ifindex);
    assert_eq!(endpoint["value"]["flags"], 3);
    assert_eq!(endpoint["value"]["ipv4"], serde_json::json!([10, 1, 0, 5]));

    let pool = formatted("pw_pools_v4");
    assert_eq!(pool["key"]["prefix_len"], 26);
    assert_eq!(pool["key"]["data"], serde_json::json!([10, 1, 0, 0]));
    assert_eq!((&pool["value"]["tag"], &pool["value"]["dscp"]), (&5.into(), &46.into()));
    assert_eq!(formatted("pw_pools_v6")["value"]["tag"], 5);

    let stats = formatted("pw_pool_stats");
    assert_eq!(stats["key"]["tag"], 5);
    let per_cpu = stats["values"].as_array().unwrap();
    let sent: u64 = per_cpu.iter().map(|one| one["value"]["tx_packets"].as_u64().unwrap()).sum();
    assert_eq!(sent, 1);

    let settings = formatted("pw_settings");
    assert_eq!(settings["value"]["mark_mask"], 0x0fff_0000);
    assert_eq!(settings["value"]["nat_bit"], 0x0800_0000);
}

#[test]
fn every_map_is_in_the_directory_under_its_own_name() {
    let pins = PinDir::unique();
    drop(bpf::Bpf::open(&bpf::OpenOptions::new(pins.path())).unwrap());
    for name in bpf::map_name::ALL {
        assert!(name.len() <= 15, "{name} would be cut");
        let path = pins.version().join(name);
        let text =
            Run::new("bpftool").args(["-j", "map", "show", "pinned", path.to_str().unwrap()]).ok().unwrap();
        let shown: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(shown["name"], name);
    }
}
