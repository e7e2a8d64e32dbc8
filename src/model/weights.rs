//! The tensors of a checkpoint: safetensors files, single or in shards, decoded to f32.
//!
//! Stored types F64, F32, F16, BF16 and F8_E4M3 are read. Names are brought into the form of the model with a head
//! (`bert.encoder...`), whatever the checkpoint was saved from. Formats that run code when they are read are refused.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};
use indexmap::IndexMap;
use rayon::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::data::files::Folder;
use crate::data::foreign_weights;
use crate::data::stages::{self, Key};
use crate::data::stored::Stored;
use crate::error::{Error, Place, Result, What};
use crate::kernels::pages;
use crate::model::family::Family;

/// The tensors of a checkpoint, by the model's own names.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    shards: Vec<Arc<Shard>>,
    entries: IndexMap<String, Entry>,
    /// Whether tensors are decoded once: where the weights are kept. A model copies what it takes.
    keeps: bool,
    decoded: Arc<Mutex<IndexMap<String, Arc<[f32]>>>>,
}

#[derive(Debug)]
struct Shard {
    file: Stored,
    data_start: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    stored_name: String,
    shard: usize,
    info: TensorInfo,
}

/// The file of a checkpoint in one piece.
pub const SINGLE: &str = "model.safetensors";
/// The file that lists the shards of a checkpoint in pieces.
pub const INDEX: &str = "model.safetensors.index.json";

impl Weights {
    /// No weights: for a model from its configuration alone.
    pub fn none() -> Self {
        Weights::default()
    }

    /// As [`Weights::open`], kept where stages are kept: a model copies what it takes.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn kept(folder: &Folder, family: &Family, is_tied: bool) -> Result<Self> {
        let key = || -> Result<Option<Key>> {
            let Some(path) = folder.on_disk() else { return Ok(None) };
            let files = shard_files(folder)?;
            let known = files.iter().map(|file| stages::identity(&path.join(file))).collect::<Option<Vec<_>>>();
            let about = path.display().to_string();
            let family = format!("{} {is_tied}", family.prefix);
            let parts = |known: Vec<String>| vec![("files", known.join("; ")), ("family", family)];
            Ok(known.map(|known| Key { stage: "weights", about, parts: parts(known) }))
        };
        let keeps = stages::is_on();
        stages::cached(key, || Ok(Weights { keeps, ..Self::open(folder, family, is_tied)? }))
    }

    /// Opens the checkpoint in `folder`. Copies of tied tensors are left out where `is_tied`.
    ///
    /// # Errors
    /// A folder without safetensors, or files that are broken.
    pub fn open(folder: &Folder, family: &Family, is_tied: bool) -> Result<Self> {
        let mut weights = Weights::default();
        for file in shard_files(folder)? {
            let stored = Stored::open(folder, &file)?.ok_or_else(|| {
                Error::new(What::NotFound { kind: "file", name: folder.join(&file).display().to_string() })
                    .hint("the index names a shard that is not there; fetch the model again")
            })?;
            weights.add(stored, family, is_tied).map_err(|error| error.at(Place::file(folder.join(&file))))?;
        }
        Ok(weights)
    }

    fn add(&mut self, file: Stored, family: &Family, is_tied: bool) -> Result<()> {
        let (header, metadata) = header(&file)?;
        let tensors = metadata.tensors();
        let prefixed = tensors.keys().any(|name| name.starts_with(&format!("{}.", family.prefix)));
        let mut names: Vec<_> = tensors.into_iter().collect();
        names.sort_by_key(|(_, info)| info.data_offsets);
        for (stored, info) in names {
            let name = family.canonical_name(&stored, prefixed);
            if let Some(name) = name.filter(|name| !(is_tied && family.copies.contains(&name.as_str()))) {
                let entry = Entry { stored_name: stored, shard: self.shards.len(), info: info.clone() };
                self.entries.insert(name, entry);
            }
        }
        self.shards.push(Arc::new(Shard { file, data_start: header + LENGTH }));
        Ok(())
    }

    /// The shape of `name`, where the checkpoint has it.
    pub fn shape(&self, name: &str) -> Option<&Vec<usize>> {
        self.entries.get(name).map(|entry| &entry.info.shape)
    }

    /// Whether there are no weights at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The stored type of most of the numbers, for the loading report.
    pub fn stored_type(&self) -> String {
        let mut counts: IndexMap<String, usize> = IndexMap::new();
        for entry in self.entries.values() {
            *counts.entry(format!("{:?}", entry.info.dtype)).or_default() += entry.info.shape.iter().product::<usize>();
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map_or_else(|| "F32".into(), |(name, _)| name)
    }

    /// The tensor `name` as f32.
    ///
    /// # Errors
    /// As [`Weights::values`].
    ///
    /// # Panics
    /// As [`Weights::values`].
    pub fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        let shape = self.shape(name).cloned().unwrap_or_default();
        Ok(Tensor::from_vec(self.values(name)?, shape, device)?)
    }

    /// The numbers of the tensor `name` as f32.
    ///
    /// # Errors
    /// A stored type that cannot be read as f32, a file that cannot be read any more.
    ///
    /// # Panics
    /// Never for a name whose [`Weights::shape`] is known.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        let entry = self
            .entries
            .get(name)
            .ok_or_else(|| Error::new(What::NotFound { kind: "tensor", name: name.to_string() }))?;
        let mut decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(values) = decoded.get(name) {
            return Ok(values.to_vec());
        }
        let shard = &self.shards[entry.shard];
        let TensorInfo { dtype, shape, data_offsets: (start, _) } = &entry.info;
        let values = read(*dtype, &shard.file, shard.data_start + start, shape.iter().product())?.ok_or_else(|| {
            Error::new(What::Unsupported(format!("the stored type {dtype:?}")))
                .at(Place::Tensor(entry.stored_name.clone()))
                .hint("stored types F64, F32, F16, BF16 and F8_E4M3 can be read; convert the weights")
        })?;
        if self.keeps {
            decoded.insert(name.to_string(), values.as_slice().into());
        }
        Ok(values)
    }

    /// The names that are neither matched nor of another shape.
    pub fn names_except(&self, matched: &[String], mismatched: &[(String, Vec<usize>, Vec<usize>)]) -> Vec<String> {
        let used: std::collections::HashSet<&str> =
            matched.iter().map(String::as_str).chain(mismatched.iter().map(|(name, ..)| name.as_str())).collect();
        let unused = self.entries.iter().filter(|(name, _)| !used.contains(name.as_str()));
        unused.map(|(_, entry)| entry.stored_name.clone()).collect()
    }
}

fn shard_files(folder: &Folder) -> Result<Vec<String>> {
    if folder.has(SINGLE) {
        return Ok(vec![SINGLE.to_string()]);
    }
    let place = Place::file(folder.join(""));
    let Some(text) = folder.read_text(INDEX)? else {
        let others = folder.files()?;
        let error = Error::new(What::Weights("the model directory has no `model.safetensors`".into())).at(place);
        return Err(match foreign_weights::find(&others) {
            Some(found) => error.hint(format!("`{}` holds {}: {}", found.file, found.kind, found.hint)),
            None => error.hint("a model directory holds config.json, model.safetensors and the tokenizer's files"),
        });
    };
    let malformed = |problem: String| {
        Error::new(What::Malformed { format: INDEX.into(), problem }).at(Place::file(folder.join(INDEX)))
    };
    let index: serde_json::Value = serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    let map = index.get("weight_map").and_then(|map| map.as_object());
    let map = map.ok_or_else(|| malformed("it has no `weight_map`".into()))?;
    let mut files = Vec::new();
    for file in map.values() {
        let name = file.as_str().filter(|name| !name.contains(['/', '\\']) && name.ends_with(".safetensors"));
        let name = name.ok_or_else(|| malformed(format!("`{file}` is not the name of a shard")))?;
        if !files.iter().any(|known| known == name) {
            files.push(name.to_string());
        }
    }
    Ok(files)
}

/// Bytes of the number in front of a safetensors header: the header's length.
const LENGTH: usize = 8;
/// Longer headers are refused, as by the library.
const LONGEST: usize = 100_000_000;

/// The length of a file's header, and what it says: every tensor lies in the file.
fn header(file: &Stored) -> Result<(usize, Metadata)> {
    let length = file.len();
    let known = || -> Option<(usize, Metadata)> {
        let mut number = [0; LENGTH];
        file.read(0, &mut number).ok()?;
        let n = usize::try_from(u64::from_le_bytes(number)).ok().filter(|n| *n <= LONGEST && *n + LENGTH <= length)?;
        let mut text = vec![0; n];
        file.read(LENGTH, &mut text).ok()?;
        // What is read this way has been validated: tensors follow each other, and each is as long as its shape says.
        let metadata: Metadata = serde_json::from_slice(&text).ok()?;
        let end = metadata.tensors().values().map(|info| info.data_offsets.1).max().unwrap_or(0);
        (end + n + LENGTH == length).then_some((n, metadata))
    };
    if let Some(known) = known() {
        return Ok(known);
    }
    // The library says what is wrong.
    let bytes = file.all()?;
    SafeTensors::read_metadata(&bytes).map_err(|error| {
        let problem = format!("{error} ({length} bytes in the file)");
        Error::new(What::Malformed { format: "safetensors".into(), problem })
            .hint("the file is damaged or was cut short; fetch or save it again")
    })
}

/// Numbers that one task reads and decodes.
const CHUNK: usize = 1 << 16;

/// Reads `n` numbers of a file from byte `start` on; `None` for a type that is no f32 and does not become one.
fn read(dtype: Dtype, file: &Stored, start: usize, n: usize) -> Result<Option<Vec<f32>>> {
    let (size, decode) = match decoder(dtype) {
        Some(known) => known,
        None => return Ok(None),
    };
    let mut values = pages::zeros(n);
    values.par_chunks_mut(CHUNK).enumerate().try_for_each_init(Vec::new, |bytes, (chunk, values)| {
        bytes.resize(values.len() * size, 0);
        file.read(start + chunk * CHUNK * size, bytes)?;
        decode(bytes, values);
        Ok::<_, Error>(())
    })?;
    Ok(Some(values))
}

/// Turns little-endian numbers into f32.
type Decode = fn(&[u8], &mut [f32]);

/// Bytes of a number, and how such numbers are decoded.
fn decoder(dtype: Dtype) -> Option<(usize, Decode)> {
    fn each<const N: usize>(bytes: &[u8], values: &mut [f32], read: impl Fn([u8; N]) -> f32) {
        for (value, chunk) in values.iter_mut().zip(bytes.as_chunks::<N>().0) {
            *value = read(*chunk);
        }
    }
    Some(match dtype {
        Dtype::F64 => (8, |bytes, values| each(bytes, values, |chunk| f64::from_le_bytes(chunk) as f32)),
        Dtype::F32 => (4, |bytes, values| each(bytes, values, f32::from_le_bytes)),
        Dtype::F16 => (2, |bytes, values| each(bytes, values, |chunk| half::f16::from_le_bytes(chunk).to_f32())),
        Dtype::BF16 => (2, |bytes, values| each(bytes, values, |chunk| half::bf16::from_le_bytes(chunk).to_f32())),
        Dtype::F8_E4M3 => (1, |bytes, values| {
            let table: Vec<f32> = (0..=255).map(f8_e4m3).collect();
            each(bytes, values, |[byte]| table[usize::from(byte)]);
        }),
        _ => return None,
    })
}

/// One 8-bit float with 4 exponent bits (bias 7) and 3 mantissa bits; no infinities, all ones is NaN
/// (Micikevicius et al. 2022, "FP8 formats for deep learning").
fn f8_e4m3(byte: u8) -> f32 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(byte >> 3 & 0xf), f32::from(byte & 7));
    match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => sign * mantissa / 8.0 * 2f32.powi(-6),
        _ => sign * (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of table 1 of the paper: largest, smallest normal, largest and smallest subnormal.
    #[test]
    fn eight_bit_floats_have_the_values_of_the_paper() {
        let cases =
            [(0x7e, 448.0), (0x08, 2f32.powi(-6)), (0x07, 0.875 * 2f32.powi(-6)), (0x01, 2f32.powi(-9)), (0x00, 0.0)];
        for (byte, value) in cases {
            assert_eq!(f8_e4m3(byte), value);
            assert_eq!(f8_e4m3(byte | 0x80), -value);
        }
        assert!(f8_e4m3(0x7f).is_nan() && f8_e4m3(0xff).is_nan());
    }

    #[test]
    fn half_precision_is_decoded_exactly() {
        let decode = |dtype, bytes: &[u8]| {
            let (size, decode) = decoder(dtype)?;
            let mut values = vec![0.0; bytes.len() / size];
            decode(bytes, &mut values);
            Some(values)
        };
        assert_eq!(decode(Dtype::BF16, &[0x80, 0x3f, 0x00, 0xc0]), Some(vec![1.0, -2.0]));
        assert_eq!(decode(Dtype::F16, &[0x00, 0x3c, 0x00, 0xc0]), Some(vec![1.0, -2.0]));
        assert_eq!(decode(Dtype::F64, &1.5f64.to_le_bytes()), Some(vec![1.5]));
        assert_eq!(decode(Dtype::I64, &[0; 8]), None);
    }
}
