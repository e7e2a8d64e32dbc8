//! Sampler stub.
