//! Refusals as the socket carries them.

use std::fmt::Display;

use rpc::{ErrorCode, Reply, RpcError};

/// What a request comes to.
pub type Answer<T> = Result<T, RpcError>;

/// A refusal without further lines.
pub fn refuse(code: ErrorCode, message: impl Display) -> RpcError {
    RpcError { code, message: message.to_string(), details: Vec::new() }
}

/// The request itself is wrong.
pub fn invalid(message: impl Display) -> RpcError {
    refuse(ErrorCode::Invalid, message)
}

/// The kernel, the store or this node failed.
pub fn internal(message: impl Display) -> RpcError {
    refuse(ErrorCode::Internal, message)
}

/// Not now; the same again may work.
pub fn try_again(message: impl Display) -> RpcError {
    refuse(ErrorCode::TryAgain, message)
}

/// An answer as a reply.
pub fn reply<T>(answer: Answer<T>, wrap: impl FnOnce(T) -> Reply) -> Reply {
    match answer {
        Ok(told) => wrap(told),
        Err(error) => Reply::Error(error),
    }
}
