//! The witness is worth what it says only if it says so when something is wrong: with the program that encapsulates taken
//! off, it must count.
