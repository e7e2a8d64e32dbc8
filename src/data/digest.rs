//! The name of a content: its sha256, by which scripts, stages of a cache and plugins are told apart.

use sha2::{Digest, Sha256};

/// The sha256 of some bytes as 64 hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The first digits of a digest, for people.
pub fn short(digest: &str) -> &str {
    digest.get(..8).unwrap_or(digest)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
