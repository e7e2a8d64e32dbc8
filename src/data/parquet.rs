//! Parquet: the columns of every row group, as rows; row groups are read in parallel and keep their order.
//!
//! Structs become maps, lists become lists, null stays null. Dates, times and decimals become text; bytes become text where
//! they are UTF-8, else a list of numbers. What Hugging Face's `datasets` says in the file about a column of classes, the
//! names behind its numbers, is kept beside the rows.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;
use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use rayon::prelude::*;
use serde_json::Value as Json;

use crate::data::dataset::{Classes, Parsed};
use crate::data::{Value, guard};
use crate::error::{Error, Place, Result, What};

type Cells = IndexMap<String, Value>;

/// Each file begins and ends with these bytes.
const MAGIC: &[u8] = b"PAR1";

/// What the message about a packing that is not read begins with.
const PACKING: &str = "its columns are packed with";

/// The key under which `datasets` writes what it knows of the columns.
const HUGGING_FACE: &str = "huggingface";

/// The rows of a file, and the names of its classes; `path` is what messages call it.
///
/// # Errors
/// A file that is not Parquet, is cut short or damaged, or uses a packing that is not read.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Parsed> {
    if bytes.is_empty() {
        return Ok(Parsed::default());
    }
    let fail = |problem: String, hint: &str| {
        let error = Error::new(What::Malformed { format: "Parquet".into(), problem });
        Err(error.at(Place::file(path)).hint(hint))
    };
    match (bytes.starts_with(MAGIC), bytes.len() >= 12 && bytes.ends_with(MAGIC)) {
        (true, true) => {}
        (true, false) => return fail("the file is cut short".into(), "copy or download it again"),
        (false, _) if bytes.starts_with(b"PARE") => {
            return fail("the file is encrypted".into(), "write it without encryption");
        }
        (false, _) => {
            return fail("the file is not Parquet: it does not begin with `PAR1`".into(), "is the ending right?");
        }
    }
    match read(bytes) {
        Ok(parsed) => Ok(parsed),
        Err(problem) if problem.contains(PACKING) => {
            fail(problem, "write it with snappy, gzip or zstd, as `dataset.to_parquet(path)` does")
        }
        Err(problem) => {
            fail(problem, "copy or download it again, or write it anew in Python: `dataset.to_parquet(path)`")
        }
    }
}

fn read(bytes: &[u8]) -> Result<Parsed, String> {
    let reader = guard::catch(|| SerializedFileReader::new(Bytes::copy_from_slice(bytes)).map_err(words))?;
    let metadata = reader.metadata();
    let mut columns = metadata.row_groups().iter().flat_map(|group| group.columns());
    if let Some(column) = columns.find(|column| !is_unpacked(column.compression())) {
        return Err(format!("{PACKING} {}, which is not read", column.compression()));
    }
    let groups: Vec<Result<Vec<Cells>, String>> = (0..metadata.num_row_groups())
        .into_par_iter()
        .map(|group| {
            // Of a crafted file the reader may panic; nothing but its own state is seen half done.
            guard::catch(|| {
                let group = reader.get_row_group(group).map_err(words)?;
                let wanted = group.metadata().num_rows();
                let rows = RowIter::from_row_group(None, &*group).map_err(words)?;
                let rows = rows.map(|row| row.map(cells).map_err(words)).collect::<Result<Vec<_>, String>>()?;
                match i64::try_from(rows.len()) == Ok(wanted) {
                    true => Ok(rows),
                    false => Err(format!("a row group has {} rows where {wanted} are stated", rows.len())),
                }
            })
        })
        .collect();
    let rows = groups.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    Ok(Parsed { lines: vec![0; rows.len()], rows, classes: classes(metadata) })
}

fn is_unpacked(packing: Compression) -> bool {
    use Compression::{GZIP, SNAPPY, UNCOMPRESSED, ZSTD};
    matches!(packing, UNCOMPRESSED | SNAPPY | GZIP(_) | ZSTD(_))
}

/// The reader's error without its type's name.
fn words(error: parquet::errors::ParquetError) -> String {
    let text = error.to_string();
    let text = text.split_once(": ").filter(|(kind, _)| !kind.contains(' ')).map_or(text.as_str(), |(_, rest)| rest);
    text.trim_end_matches('.').to_string()
}

fn cells(row: Row) -> Cells {
    row.into_columns().into_iter().map(|(name, field)| (name, value(field))).collect()
}

fn value(field: Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(flag) => Value::Bool(flag),
        Field::Byte(number) => Value::Int(number.into()),
        Field::Short(number) => Value::Int(number.into()),
        Field::Int(number) => Value::Int(number.into()),
        Field::Long(number) => Value::Int(number),
        Field::UByte(number) => Value::Int(number.into()),
        Field::UShort(number) => Value::Int(number.into()),
        Field::UInt(number) => Value::Int(number.into()),
        Field::ULong(number) => i64::try_from(number).map_or(Value::Float(number as f64), Value::Int),
        Field::Float16(number) => Value::Float(number.into()),
        Field::Float(number) => Value::Float(number.into()),
        Field::Double(number) => Value::Float(number),
        Field::Str(text) => Value::Str(text.into()),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(_) => Value::List(bytes.data().iter().map(|byte| Value::Int((*byte).into())).collect()),
        },
        Field::Group(row) => Value::Map(Arc::new(cells(row))),
        Field::ListInternal(list) => Value::List(list.elements().iter().cloned().map(value).collect()),
        Field::MapInternal(map) => entries(map.entries()),
        moment @ (Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_)) => Value::Str(moment.to_string().into()),
    }
}

/// A map whose keys are text is a map; any other is a list of pairs, as in Python.
fn entries(entries: &[(Field, Field)]) -> Value {
    let named = |(key, field): &(Field, Field)| match key {
        Field::Str(name) => Some((name.clone(), value(field.clone()))),
        _ => None,
    };
    match entries.iter().map(named).collect::<Option<Cells>>() {
        Some(cells) => Value::Map(Arc::new(cells)),
        None => {
            let pair = |(key, field): &(Field, Field)| Value::List([value(key.clone()), value(field.clone())].into());
            Value::List(entries.iter().map(pair).collect())
        }
    }
}

/// The names of classes by column: of a column of classes (`ClassLabel`), or of lists of them.
fn classes(metadata: &ParquetMetaData) -> Classes {
    let pairs = metadata.file_metadata().key_value_metadata().map(Vec::as_slice).unwrap_or_default();
    let text = pairs.iter().find(|pair| pair.key == HUGGING_FACE).and_then(|pair| pair.value.as_deref());
    let json: Option<Json> = text.and_then(|text| serde_json::from_str(text).ok());
    let features = json.as_ref().and_then(|json| json.pointer("/info/features")).and_then(Json::as_object);
    let columns = features.into_iter().flatten().filter_map(|(column, feature)| Some((column, names(feature)?)));
    columns.map(|(column, names)| (column.clone(), names)).collect()
}

fn names(feature: &Json) -> Option<Arc<[String]>> {
    match feature.get("_type").and_then(Json::as_str) {
        Some("ClassLabel") => {
            let names = feature.get("names")?.as_array()?;
            names.iter().map(|name| name.as_str().map(str::to_string)).collect()
        }
        Some("Sequence" | "List" | "LargeList") => names(feature.get("feature")?),
        _ => None,
    }
}
