//! What every implementation of [`crate::Store`] must do, as checks that run against any of them.
