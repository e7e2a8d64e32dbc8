//! Files packed with gzip: one or several members, one after the other.

use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Place, Result, What};

/// The unpacked bytes; `path` is what messages call the file.
///
/// # Errors
/// Bytes that are not gzip, a file that is cut short, a checksum that does not match.
pub fn unpack(bytes: &[u8], path: &Path) -> Result<Vec<u8>> {
    let fail = |problem: String, hint: &str| {
        let error = Error::new(What::Malformed { format: "gzip".into(), problem });
        Err(error.at(Place::file(path)).hint(hint))
    };
    if bytes.is_empty() {
        return fail("the file is empty".into(), "is it the right file?");
    }
    if !bytes.starts_with(&[0x1F, 0x8B]) {
        return fail("the file is not packed".into(), "take the `.gz` off its name");
    }
    let mut unpacked = Vec::new();
    match MultiGzDecoder::new(bytes).read_to_end(&mut unpacked) {
        Ok(_) => Ok(unpacked),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            let problem = format!("the file is cut short; {} bytes could be unpacked", unpacked.len());
            fail(problem, "copy or download it again")
        }
        Err(error) => fail(format!("the file is damaged: {error}"), "copy or download it again"),
    }
}
