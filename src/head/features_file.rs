//! The file of an encoded data set: numbers in little-endian order behind a mark and a digest.
//!
//! Features flow in and out. A file that is cut short, damaged or of another version is no file: its digest says so.

use std::io::Write;
use std::path::Path;

use crate::batch::{Column, Features, ListLabels};
use crate::data::digest::digest;
use crate::data::{Row, Value};
use crate::error::{Result, What};
use crate::head::prepare::Prepared;

/// The first bytes: the format and its version.
const MARK: &[u8; 8] = b"retune\x00\x01";
/// Hexadecimal digits of a digest.
const DIGEST: usize = 64;
/// Files that are kept; the oldest make room.
const KEPT: usize = 32;

/// Writes the features as a whole or not at all.
///
/// # Errors
/// A folder that cannot be written to.
pub(super) fn write(path: &Path, prepared: &Prepared) -> Result<()> {
    let wrap = |source| What::Write { path: path.to_path_buf(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(wrap)?;
    let mut body = Vec::new();
    encode(prepared, &mut body);
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(wrap)?;
    let written = [&MARK[..], digest(&body).as_bytes(), &body].iter().try_for_each(|part| file.write_all(part));
    written.map_err(wrap)?;
    file.persist(path).map_err(|error| wrap(error.error))?;
    make_room(folder);
    Ok(())
}

/// The features of a file, where it is there and whole.
pub(super) fn read(path: &Path) -> Option<Prepared> {
    let bytes = std::fs::read(path).ok()?;
    let body = bytes.strip_prefix(MARK)?.get(DIGEST..)?;
    let said = bytes.get(MARK.len()..MARK.len() + DIGEST)?;
    if digest(body).as_bytes() != said {
        return None;
    }
    Reader(body).prepared()
}

fn make_room(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> =
        entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    files.sort();
    for (_, path) in files.iter().take(files.len().saturating_sub(KEPT)) {
        // Another process may have been quicker.
        let _ = std::fs::remove_file(path);
    }
}

fn encode(prepared: &Prepared, out: &mut Vec<u8>) {
    let Prepared { features, rows, n_truncated, max_length, options } = prepared;
    text(&options.to_json().to_string(), out);
    for number in [*n_truncated, *max_length, features.len()] {
        count(number, out);
    }
    for (row, one) in rows.iter().zip(features) {
        count(*row, out);
        ids(&one.input_ids, out);
        for optional in [&one.token_type_ids, &one.position_ids] {
            out.push(u8::from(optional.is_some()));
            ids(optional.as_deref().unwrap_or_default(), out);
        }
        out.push(u8::from(one.truncated));
        out.push(u8::from(one.list_labels == ListLabels::PerRow));
        text(&Value::Map(one.kept.clone()).to_json().to_string(), out);
        count(one.columns.len(), out);
        for (name, column) in &one.columns {
            text(name, out);
            match column {
                Column::Int(value) => tagged(0, &[value.to_le_bytes()], out),
                Column::Float(value) => tagged(1, &[value.to_le_bytes()], out),
                Column::Ints(values) => tagged(2, &values.iter().map(|v| v.to_le_bytes()).collect::<Vec<_>>(), out),
                Column::Floats(values) => tagged(3, &values.iter().map(|v| v.to_le_bytes()).collect::<Vec<_>>(), out),
            }
        }
    }
}

fn count(number: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(number as u64).to_le_bytes());
}

fn text(text: &str, out: &mut Vec<u8>) {
    count(text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

fn ids(ids: &[u32], out: &mut Vec<u8>) {
    count(ids.len(), out);
    ids.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
}

fn tagged(tag: u8, values: &[[u8; 8]], out: &mut Vec<u8>) {
    out.push(tag);
    count(values.len(), out);
    values.iter().for_each(|value| out.extend_from_slice(value));
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn prepared(mut self) -> Option<Prepared> {
        let options = Value::from(serde_json::from_str::<serde_json::Value>(self.text()?).ok()?);
        let (n_truncated, max_length, n) = (self.count()?, self.count()?, self.count()?);
        let (mut features, mut rows) = (Vec::new(), Vec::new());
        for _ in 0..n {
            rows.push(self.count()?);
            features.push(self.features()?);
        }
        self.0.is_empty().then_some(Prepared { features, rows, n_truncated, max_length, options })
    }

    fn features(&mut self) -> Option<Features> {
        let input_ids = self.ids()?;
        let mut optional = || -> Option<Option<Vec<u32>>> {
            let is_there = self.byte()? != 0;
            let ids = self.ids()?;
            Some(is_there.then_some(ids))
        };
        let (token_type_ids, position_ids) = (optional()?, optional()?);
        let truncated = self.byte()? != 0;
        let list_labels = if self.byte()? != 0 { ListLabels::PerRow } else { ListLabels::ByLength };
        let kept = match Value::from(serde_json::from_str::<serde_json::Value>(self.text()?).ok()?) {
            Value::Map(map) => map,
            _ => Row::default(),
        };
        let mut columns = Vec::new();
        for _ in 0..self.count()? {
            let name = self.text()?.to_string();
            let (tag, n) = (self.byte()?, self.count()?);
            let words = self.take(n.checked_mul(8)?)?.as_chunks::<8>().0;
            let int = |word: &[u8; 8]| i64::from_le_bytes(*word);
            let float = |word: &[u8; 8]| f64::from_le_bytes(*word);
            let column = match tag {
                0 => Column::Int(int(words.first()?)),
                1 => Column::Float(float(words.first()?)),
                2 => Column::Ints(words.iter().map(int).collect()),
                _ => Column::Floats(words.iter().map(float).collect()),
            };
            columns.push((name, column));
        }
        Some(Features { input_ids, token_type_ids, position_ids, columns, kept, truncated, list_labels })
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(part)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(u64::from_le_bytes(self.take(8)?.try_into().ok()?)).ok()
    }

    fn text(&mut self) -> Option<&'a str> {
        let n = self.count()?;
        std::str::from_utf8(self.take(n)?).ok()
    }

    fn ids(&mut self) -> Option<Vec<u32>> {
        let n = self.count()?;
        let words = self.take(n.checked_mul(4)?)?.as_chunks::<4>().0;
        Some(words.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared() -> Prepared {
        let kept = [("text".to_string(), Value::from("größe"))].into_iter().collect();
        let features = Features {
            input_ids: vec![2, 7, 3],
            token_type_ids: Some(vec![0, 0, 1]),
            position_ids: None,
            columns: vec![
                ("labels".into(), Column::Ints(vec![-100, 1, i64::MIN])),
                ("score".into(), Column::Float(0.1)),
                ("place".into(), Column::Int(-1)),
                ("scores".into(), Column::Floats(vec![])),
            ],
            kept: std::sync::Arc::new(kept),
            truncated: true,
            list_labels: ListLabels::PerRow,
        };
        let options = Value::from(serde_json::json!({ "max_length": 3 }));
        Prepared {
            features: vec![features.clone(), features],
            rows: vec![0, 4],
            n_truncated: 2,
            max_length: 3,
            options,
        }
    }

    #[test]
    fn features_come_back_as_they_were_and_damaged_files_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/x.bin");
        let written = prepared();
        write(&path, &written).unwrap();
        let back = read(&path).unwrap();
        assert_eq!((back.features, back.rows), (written.features, written.rows));
        assert_eq!((back.n_truncated, back.max_length, back.options), (2, 3, written.options));
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            assert!(read(&path).is_none(), "byte {at}");
            std::fs::write(&path, &bytes[..at]).unwrap();
            assert!(read(&path).is_none(), "cut at {at}");
        }
    }
}
