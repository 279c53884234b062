//! One file per operation. Each takes the checked environment and configuration, and returns what is to be
//! printed, if anything.

pub(crate) mod add;
pub(crate) mod check;
pub(crate) mod del;
pub(crate) mod gc;
pub(crate) mod ipam;
pub(crate) mod status;
pub(crate) mod version;
