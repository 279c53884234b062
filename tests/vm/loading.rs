//! Every program of the object is taken by the kernel's verifier, and the tier runs in the kernels it is for.

use bpf::{Bpf, OpenOptions};
use harness::{Run, has_tcx, kernel_version};

#[test]
fn every_program_is_taken_by_the_verifier() {
    let pins = format!("/sys/fs/bpf/pwvm-{}", std::process::id());
    let bpf = Bpf::open(&OpenOptions::new(&pins)).unwrap();
    let listed = Run::new("bpftool").args(["-j", "prog", "show"]).ok().unwrap();
    for program in ["from_pod", "to_pod", "from_uplink", "to_uplink"] {
        assert!(listed.contains(&format!("\"name\":\"{program}\"")), "{program} in {listed}");
    }
    assert_eq!(bpf.uses_tcx(), has_tcx(), "{:?}", kernel_version());
    drop(bpf);
    Bpf::unload_all(pins.as_ref()).unwrap();
}
