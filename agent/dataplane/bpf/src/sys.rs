//! The few calls of bpf(2) that aya has no public function for: links by pin, their device, and what is
//! attached to one. The only module with `unsafe` code.
//!
//! ```text
//! union bpf_attr, the parts used here (include/uapi/linux/bpf.h):
//!   OBJ_GET             pathname u64, fd u32, flags u32
//!   OBJ_GET_INFO_BY_FD  fd u32, info_len u32, info u64
//!   LINK_DETACH         fd u32
//!   PROG_QUERY          ifindex u32, attach type u32, flags u32, attach flags u32, prog ids u64, count u32,
//!                       pad u32, prog attach flags u64, link ids u64, link attach flags u64, revision u64
//! ```

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_DETACH: libc::c_int = 34;
const BPF_LINK_TYPE_TCX: u32 = 11;

/// Programs on one side of one device; the kernel allows 64 (`BPF_MPROG_MAX`).
const QUERY_MAX: usize = 64;

/// The side of a device, as the kernel numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TcxSide {
    Ingress = 46,
    Egress = 47,
}

/// What the kernel says about a TCX link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcxLinkInfo {
    pub(crate) link_id: u32,
    pub(crate) program_id: u32,
    /// The device, in whichever network namespace it is; 0 once it is gone.
    pub(crate) ifindex: u32,
}

/// A program found on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) program_id: u32,
    /// 0 if it was attached without a link.
    pub(crate) link_id: u32,
}

#[repr(C)]
#[derive(Default)]
struct ObjGetAttr {
    pathname: u64,
    fd: u32,
    file_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_link_info` as far as TCX links fill it.
#[repr(C)]
#[derive(Default)]
struct LinkInfoOut {
    kind: u32,
    id: u32,
    program_id: u32,
    pad: u32,
    ifindex: u32,
    attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkDetachAttr {
    fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    pad: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

const _: () = assert!(size_of::<QueryAttr>() == 64 && size_of::<LinkInfoOut>() == 24);

/// One bpf(2) call.
///
/// # Safety
/// `attr` must be what `command` expects, and every address in it must point to memory as long as `command`
/// reads or writes there.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<i64> {
    // SAFETY: `attr` is valid for its size; the rest is the caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>() as libc::c_uint)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Opens a pinned object. `Ok(None)` if there is nothing at `path`.
pub(crate) fn open_pin(path: &Path) -> io::Result<Option<OwnedFd>> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut attr = ObjGetAttr { pathname: path.as_ptr() as u64, ..ObjGetAttr::default() };
    // SAFETY: `path` is terminated and outlives the call.
    match unsafe { bpf(BPF_OBJ_GET, &mut attr) } {
        Ok(fd) => {
            let fd = i32::try_from(fd).map_err(io::Error::other)?;
            // SAFETY: the kernel has just given us this descriptor.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Asks about a link; an error for links that are not TCX.
pub(crate) fn tcx_link_info(link: &OwnedFd) -> io::Result<TcxLinkInfo> {
    let mut out = LinkInfoOut::default();
    let mut attr = InfoAttr {
        fd: raw(link),
        info_len: size_of::<LinkInfoOut>() as u32,
        info: std::ptr::from_mut(&mut out) as u64,
    };
    // SAFETY: `out` is `info_len` bytes long and outlives the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    if out.kind != BPF_LINK_TYPE_TCX {
        return Err(io::Error::other(format!("a link of type {}, not of type TCX", out.kind)));
    }
    Ok(TcxLinkInfo { link_id: out.id, program_id: out.program_id, ifindex: out.ifindex })
}

/// Detaches a link at once, whoever else holds it. Closing or unpinning alone detaches some time later.
pub(crate) fn detach_link(link: &OwnedFd) -> io::Result<()> {
    let mut attr = LinkDetachAttr { fd: raw(link) };
    // SAFETY: no addresses in it.
    unsafe { bpf(BPF_LINK_DETACH, &mut attr) }.map(|_| ())
}

/// What is attached to one side of a device in the calling thread's network namespace, in running order.
/// ENODEV if there is no such device, EINVAL if the kernel has no TCX.
pub(crate) fn query_tcx(ifindex: u32, side: TcxSide) -> io::Result<Vec<Attached>> {
    let mut programs = [0u32; QUERY_MAX];
    let mut links = [0u32; QUERY_MAX];
    let mut attr = QueryAttr {
        ifindex,
        attach_type: side as u32,
        program_ids: programs.as_mut_ptr() as u64,
        count: QUERY_MAX as u32,
        link_ids: links.as_mut_ptr() as u64,
        ..QueryAttr::default()
    };
    // SAFETY: both arrays have `count` elements and outlive the call.
    match unsafe { bpf(BPF_PROG_QUERY, &mut attr) } {
        Ok(_) => {}
        // A device that never had a program: kernels differ in whether that is an error.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let count = (attr.count as usize).min(QUERY_MAX);
    Ok(programs
        .into_iter()
        .zip(links)
        .take(count)
        .map(|(program_id, link_id)| Attached { program_id, link_id })
        .collect())
}

fn raw(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}
