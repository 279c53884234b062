//! Guest kernels: Debian's own 6.1 and 6.12 under QEMU, for what the machine's kernel cannot show.
//!
//! | module | what |
//! |---|---|
//! | `apt` | packages from Debian's archive, by state that is not the machine's |
//! | `images` | the cache: an emulator that depends on nothing outside itself, and the kernels |
//! | `bzimage`, `modules` | a kernel as it can be booted, and which of its modules in which order |
//! | `cpio`, `initramfs` | the guest's whole file system: tests, what they call, libraries |
//! | `guest` | one boot: what it prints, how it ends |
//!
//! What runs in a guest is decided elsewhere (`tiers`). What is inside the guest the first process, is `tests/guest`.

mod apt;
mod bzimage;
mod cpio;
mod guest;
mod images;
mod initramfs;
mod modules;

pub(crate) use self::guest::{Ended, Guest, GuestRun, boot};
pub(crate) use self::images::{Images, Kernel, fetch};
pub(crate) use self::initramfs::{Contents, Job, write};
