//! The name of a content: its sha256, by which scripts, stages of a cache and plugins are told apart.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::data::{Row, Value};

/// The sha256 of some bytes as 64 hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The first digits of a digest, for people.
pub fn short(digest: &str) -> &str {
    digest.get(..8).unwrap_or(digest)
}

/// The digest of rows: of their names, types and values, in order.
pub fn digest_rows(rows: &[Row]) -> String {
    /// Rows that are digested together; it never changes, because the digest depends on it.
    const TOGETHER: usize = 1024;
    let together = |rows: &[Row]| {
        let mut bytes = Vec::new();
        for row in rows {
            spell(&Value::Map(row.clone()), &mut bytes);
        }
        Sha256::digest(&bytes)
    };
    let parts: Vec<_> = rows.par_chunks(TOGETHER).map(together).collect();
    hex(&Sha256::digest(parts.concat()))
}

/// A value as bytes that no other value has.
fn spell(value: &Value, out: &mut Vec<u8>) {
    let text = |text: &str, out: &mut Vec<u8>| {
        out.extend_from_slice(&text.len().to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    match value {
        Value::Null => out.push(0),
        Value::Bool(flag) => out.extend_from_slice(&[1, u8::from(*flag)]),
        Value::Int(number) => {
            out.push(2);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::Float(number) => {
            out.push(3);
            out.extend_from_slice(&number.to_bits().to_le_bytes());
        }
        Value::Str(string) => {
            out.push(4);
            text(string, out);
        }
        Value::List(values) => {
            out.push(5);
            out.extend_from_slice(&values.len().to_le_bytes());
            values.iter().for_each(|value| spell(value, out));
        }
        Value::Map(map) => {
            out.push(6);
            out.extend_from_slice(&map.len().to_le_bytes());
            for (key, value) in map.iter() {
                text(key, out);
                spell(value, out);
            }
        }
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
