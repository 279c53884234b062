//! Keys and values that cross into the kernel.
#![no_std]
#![forbid(unsafe_code)]
