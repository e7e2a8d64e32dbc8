//! Encoded rows joined into blocks of one length, as `group_texts` of Hugging Face's run_clm and run_mlm does.
//!
//! A thousand rows at a time are written one after the other and cut into blocks; the tokens that are left over at the
//! end of the thousand are dropped.

use crate::batch::{Column, Features};
use crate::error::{Error, Result, What};

/// How many rows are joined at a time: the batch size of `datasets.map`.
const ROWS: usize = 1000;

/// The blocks of `rows`, each of `size` tokens, with the number of the row in which each begins.
///
/// Rows come in order with their numbers; those without tokens may be left out.
///
/// # Errors
/// The number of a row that has other columns than the first, or a column without one whole number a token.
pub fn join(rows: &[(usize, Features)], size: usize) -> std::result::Result<Vec<(usize, Features)>, (usize, Error)> {
    let mut blocks = Vec::new();
    for group in rows.chunk_by(|(a, _), (b, _)| a / ROWS == b / ROWS) {
        let Some((_, first)) = group.first() else { continue };
        let mut joined = Features { position_ids: None, truncated: false, ..first.clone() };
        let mut owners = vec![group[0].0; first.n_tokens()];
        for (number, row) in &group[1..] {
            append(&mut joined, row).map_err(|error| (*number, error))?;
            owners.resize(joined.n_tokens(), *number);
        }
        for start in (0..owners.len() / size).map(|block| block * size) {
            blocks.push((owners[start], slice(&joined, start, size)));
        }
    }
    Ok(blocks)
}

fn append(all: &mut Features, row: &Features) -> Result<()> {
    all.input_ids.extend_from_slice(&row.input_ids);
    match (&mut all.token_type_ids, &row.token_type_ids) {
        (Some(all), Some(row)) => all.extend_from_slice(row),
        (None, None) => {}
        _ => return Err(uneven("token_type_ids")),
    }
    if all.columns.len() != row.columns.len() {
        return Err(uneven("labels"));
    }
    for (name, column) in &mut all.columns {
        match (column, row.column(name)) {
            (Column::Ints(all), Some(Column::Ints(values))) if values.len() == row.n_tokens() => all.extend(values),
            _ => return Err(uneven(name)),
        }
    }
    Ok(())
}

fn slice(all: &Features, start: usize, size: usize) -> Features {
    let range = start..start + size;
    let columns = all.columns.iter().map(|(name, column)| {
        let cut = match column {
            Column::Ints(values) => Column::Ints(values[range.clone()].to_vec()),
            other => other.clone(),
        };
        (name.clone(), cut)
    });
    Features {
        input_ids: all.input_ids[range.clone()].to_vec(),
        token_type_ids: all.token_type_ids.as_ref().map(|ids| ids[range.clone()].to_vec()),
        position_ids: None,
        columns: columns.collect(),
        kept: all.kept.clone(),
        truncated: false,
        list_labels: all.list_labels,
    }
}

fn uneven(name: &str) -> Error {
    Error::new(What::BadData(format!("`{name}` does not have one whole number a token in every row")))
        .hint("rows that are joined into blocks have the same columns, each with one value a token")
}
