//! Filters of a clsact qdisc, for kernels without TCX.
//!
//! Ours sit at one fixed place per side, priority 1 and handle 7077:1, under the program's name: so they are
//! found again without any state of our own, replaced in place, and nothing else on the device is touched. The
//! qdisc itself stays when they go: others may use it.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle as WireHandle, TcMessage, TcOption};

use aya::programs::SchedClassifier;
use aya::programs::links::Link;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};

use crate::attach::{Direction, interface_name};
use crate::error::{BpfError, Context};
use crate::netlink::dump;

const PRIORITY: u16 = 1;
const HANDLE_MAJOR: u16 = 0x7077;
const HANDLE_MINOR: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(HANDLE_MAJOR, HANDLE_MINOR);

/// The id of our program on one side of an interface, if it is there.
pub(crate) fn find_filter(ifindex: u32, direction: Direction) -> Result<Option<u32>, BpfError> {
    let describe = || format!("listing the clsact filters of interface {ifindex}");
    let mut request = TcMessage::default();
    request.header.index = i32::try_from(ifindex).kernel(describe)?;
    request.header.parent = parent(direction);
    let replies = dump(RouteNetlinkMessage::GetTrafficFilter(request)).kernel(describe)?;
    for reply in replies {
        let RouteNetlinkMessage::NewTrafficFilter(filter) = reply else { continue };
        let at = (filter.header.info >> 16, filter.header.handle);
        if at == (u32::from(PRIORITY), WireHandle { major: HANDLE_MAJOR, minor: HANDLE_MINOR })
            && let Some(program_id) = program_of(&filter, direction)
        {
            return Ok(Some(program_id));
        }
    }
    Ok(None)
}

/// Every interface of the calling thread's network namespace that has a clsact qdisc, in order.
pub(crate) fn list_interfaces() -> Result<Vec<u32>, BpfError> {
    let replies = dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))
        .kernel(|| "listing the queueing disciplines".to_owned())?;
    let mut found: Vec<u32> = replies
        .into_iter()
        .filter_map(|reply| match reply {
            RouteNetlinkMessage::NewQueueDiscipline(qdisc) => {
                let clsact =
                    qdisc.attributes.iter().any(|a| matches!(a, TcAttribute::Kind(kind) if kind == "clsact"));
                clsact.then(|| u32::try_from(qdisc.header.index).ok()).flatten()
            }
            _ => None,
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Puts the program at our place, or replaces what is there (`exists`) in one step.
pub(crate) fn attach(
    program: &mut SchedClassifier,
    interface: &str,
    direction: Direction,
    exists: bool,
) -> Result<(), BpfError> {
    let describe = || format!("attaching {} to {interface} by clsact", direction.program());
    let attached = if exists {
        let link = our_link(interface, direction).kernel(describe)?;
        program.attach_to_link(link).kernel(describe)?
    } else {
        match qdisc_add_clsact(interface) {
            Ok(()) => {}
            Err(error) if is_exists(&error) => {}
            Err(error) => return Err(error).kernel(|| format!("adding a clsact qdisc to {interface}")),
        }
        let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
        program
            .attach_with_options(interface, direction.attach_type(), TcAttachOptions::Netlink(options))
            .kernel(describe)?
    };
    keep(program.take_link(attached).kernel(describe)?);
    Ok(())
}

/// Takes our filter away, if it is there.
pub(crate) fn detach(ifindex: u32, direction: Direction) -> Result<(), BpfError> {
    let interface = match interface_name(ifindex, "detaching programs") {
        Ok(name) => name,
        // Filters go with their device.
        Err(BpfError::NoInterface { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    if find_filter(ifindex, direction)?.is_none() {
        return Ok(());
    }
    let describe = || format!("detaching {} from {interface}", direction.program());
    our_link(&interface, direction).kernel(describe)?.detach().kernel(describe)
}

fn our_link(interface: &str, direction: Direction) -> std::io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(interface, direction.attach_type(), PRIORITY, HANDLE, None)
}

/// Lets a filter stay when this process goes.
#[expect(
    clippy::mem_forget,
    reason = "dropping the link would delete the filter, and aya offers no other way"
)]
fn keep(link: SchedClassifierLink) {
    std::mem::forget(link);
}

fn is_exists(error: &TcError) -> bool {
    match error {
        TcError::AlreadyAttached => true,
        TcError::NetlinkError(error) => error.raw_os_error() == Some(libc::EEXIST),
        _ => false,
    }
}

/// Our program's id, if this filter runs a program of our name.
fn program_of(filter: &TcMessage, direction: Direction) -> Option<u32> {
    let mut named = false;
    let mut id = None;
    for attribute in &filter.attributes {
        let TcAttribute::Options(options) = attribute else { continue };
        for option in options {
            match option {
                TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => {
                    named = name.trim_end_matches('\0') == direction.program();
                }
                TcOption::Bpf(TcFilterBpfOption::ProgId(found)) => id = Some(*found),
                _ => {}
            }
        }
    }
    id.filter(|_| named)
}

/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS or TC_H_MIN_EGRESS)`.
fn parent(direction: Direction) -> WireHandle {
    let minor = if direction.is_ingress() { 0xfff2 } else { 0xfff3 };
    WireHandle { major: 0xffff, minor }
}
