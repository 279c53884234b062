//! What `from_pod` costs per packet, by test runs in the kernel, for 1, 100 and 10,000 pool prefixes. Prints JSON.
//!
//! * `hot_ns`: one source address again and again, everything in the cache; the median of several runs of many
//!   repetitions, for a pool with a mark alone and for one with a DSCP to rewrite (kept as is after the first).
//! * `spread_ns`: another random source address in another prefix for every packet, so that the trie is walked
//!   cold; the median of single repetitions. It has the cost of starting and stopping the kernel's clock in it,
//!   which `single_floor_ns` shows: a single repetition of `to_pod` on a frame that it passes over.
//!
//! Needs root and a bpffs. Attaches nothing; its pins are removed at the end.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use model::{Cidr, Dscp, TagId};
use poolward_bpf::{Bpf, Endpoint, MapSizes, OpenOptions, PoolRule};
use serde_json::json;

/// A test run without a device is on the loopback device.
const LOOPBACK_IFINDEX: u32 = 1;
const RUNS: usize = 9;
const REPEAT: u32 = 200_000;
const SPREAD_RUNS: usize = 2_001;

fn main() -> Result<()> {
    let pin_dir = PathBuf::from(format!("/sys/fs/bpf/pw-cost-{}", std::process::id()));
    let measured = measure_all(&pin_dir);
    Bpf::unload_all(&pin_dir).context("removing the pins")?;
    println!("{}", serde_json::to_string_pretty(&measured?)?);
    Ok(())
}

fn measure_all(pin_dir: &Path) -> Result<serde_json::Value> {
    let mut options = OpenOptions::new(pin_dir);
    options.sizes = MapSizes { max_endpoints: 16, max_pools: 16_384, ..MapSizes::default() };
    let mut bpf = Bpf::open(&options)?;
    let not_ip = [&[0u8; 12][..], &[0x08, 0x06], &[0; 46]].concat();
    let floor = hot_ns(bpf.to_pod_program()?, &not_ip)?;
    let single_floor =
        median((0..SPREAD_RUNS).map(|_| run_ns(bpf.to_pod_program()?, &not_ip, 1)).collect::<Result<_>>()?);
    let mut results = Vec::new();
    let mut written = 0;
    for prefixes in [1u32, 100, 10_000] {
        for index in written..prefixes {
            bpf.set_pool(prefix(index)?, rule(index, None)?)?;
        }
        written = prefixes;
        let address = address_in(prefixes / 2, 5);
        bpf.set_endpoint(
            LOOPBACK_IFINDEX,
            Endpoint { ipv4: Some(address), ipv6: None, ..Endpoint::default() },
        )?;
        let frame = frame_from(address);
        let hot = hot_ns(bpf.from_pod_program()?, &frame)?;
        bpf.set_pool(prefix(prefixes / 2)?, rule(prefixes / 2, Some(46))?)?;
        let with_dscp = hot_ns(bpf.from_pod_program()?, &frame)?;
        bpf.set_pool(prefix(prefixes / 2)?, rule(prefixes / 2, None)?)?;
        let spread = spread_ns(&mut bpf, prefixes)?;
        results.push(json!({
            "prefixes": prefixes,
            "ns_per_packet": hot,
            "hot_ns": hot,
            "hot_dscp_ns": with_dscp,
            "spread_ns": spread,
        }));
    }
    Ok(
        json!({ "program": "from_pod", "floor_ns": floor, "single_floor_ns": single_floor, "results": results }),
    )
}

/// The `index`th /26 of 10.0.0.0/8.
fn prefix(index: u32) -> Result<Cidr> {
    Cidr::containing(address_in(index, 0).into(), 26).context("a /26")
}

fn address_in(index: u32, host: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + index * 64 + host)
}

/// Few pools have many prefixes each: 64 tags.
fn rule(index: u32, dscp: Option<u32>) -> Result<PoolRule> {
    let tag = u16::try_from(index % 64 + 1).ok().and_then(TagId::new).context("a tag")?;
    Ok(PoolRule { tag, nat_outgoing: false, dscp: dscp.map(Dscp::new).transpose()? })
}

/// A UDP packet of 64 bytes on the wire.
fn frame_from(source: Ipv4Addr) -> Vec<u8> {
    let ethernet = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 8, 0];
    let header = [0x45, 46 << 2, 0, 50, 0, 0, 0x40, 0, 64, 17, 0, 0];
    [&ethernet[..], &header, &source.octets(), &[192, 0, 2, 1], &[0; 30]].concat()
}

fn spread_ns(bpf: &mut Bpf, prefixes: u32) -> Result<u64> {
    // A multiplicative generator: no two runs of the program differ in what they ask.
    let mut state = 0x2545_f491u32;
    let mut samples = Vec::new();
    for _ in 0..SPREAD_RUNS {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let address = address_in((state >> 8) % prefixes, 1 + (state >> 3) % 60);
        bpf.set_endpoint(
            LOOPBACK_IFINDEX,
            Endpoint { ipv4: Some(address), ipv6: None, ..Endpoint::default() },
        )?;
        samples.push(run_ns(bpf.from_pod_program()?, &frame_from(address), 1)?);
    }
    Ok(median(samples))
}

fn hot_ns(program: &SchedClassifier, frame: &[u8]) -> Result<u64> {
    let samples = (0..RUNS).map(|_| run_ns(program, frame, REPEAT)).collect::<Result<Vec<_>>>()?;
    Ok(median(samples))
}

/// Nanoseconds per repetition, as the kernel measures them.
fn run_ns(program: &SchedClassifier, frame: &[u8], repeat: u32) -> Result<u64> {
    let result = program
        .test_run(TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() })
        .context("test run")?;
    anyhow::ensure!(result.return_value == u32::MAX, "the frame was dropped");
    u64::try_from(result.duration.as_nanos()).context("duration")
}

fn median(mut samples: Vec<u64>) -> u64 {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}
