//! What the task of token classification does with rows and logits: words and their labels, and entities.
//!
//! Loops over tokens that would be slow in a script; what is done when is said by `stdlib/tasks/ner.rhai`.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use indexmap::IndexMap;
use rhai::plugin::*;
use rhai::{Array, Dynamic, INT, Map};

use crate::api::encoding::{ScriptEncoding, int_array};
use crate::batch::Batch;
use crate::data::{Dataset, Row, Value};
use crate::error::{Error, Result, What};
use crate::head::entities::{self, Aggregation, Found, Pieces};
use crate::head::script::convert::{ScriptResult, from_dynamic, raise, to_dynamic};
use crate::head::token_labels::{self, LABEL_COLUMN, TEXT_COLUMN, Words};
use crate::tensor::shape::{conflict, shown};
use crate::tokenizer::Tokenizer;

/// Makes the functions known to an engine.
pub(super) fn register(engine: &mut rhai::Engine) {
    engine.register_global_module(rhai::exported_module!(token_rows).into());
}

#[export_module]
mod token_rows {
    /// The words of a row as an array, or its text as a string: what token classification encodes.
    ///
    /// The column is the one of `options.text_column_name`, else `tokens`, `words`, or a column of text.
    ///
    /// ```rhai
    /// let options = #{ text_column_name: () };
    /// expect(words_column(#{ tokens: ["Ada", "wrote"] }, options).len == 2, "words");
    /// expect(words_column(#{ text: "Ada wrote" }, options) == "Ada wrote", "a text");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn words_column(row: Map, options: Map) -> ScriptResult<Dynamic> {
        super::words(row, options).map_err(raise)
    }

    /// The ids of a row's labels, one a word, or `()` where the row has none.
    ///
    /// The column is the one of `options.label_column_name`, else `ner_tags`, `tags`, `labels` or `label`; it holds names out
    /// of `options.label_names`, or ids.
    ///
    /// ```rhai
    /// let options = #{ text_column_name: (), label_column_name: (), label_names: ["B-PER", "O"] };
    /// let row = #{ tokens: ["Ada", "wrote"], ner_tags: ["B-PER", "O"] };
    /// expect(word_labels(row, options) == [0, 1], "by their names");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn word_labels(row: Map, options: Map) -> ScriptResult<Dynamic> {
        super::labels(row, options).map_err(raise)
    }

    /// The labels of words on the tokens of their encoding: on the first token of each word, -100 on the others.
    ///
    /// With `options.label_all_tokens`, the other tokens of a word have its label too, `B-X` going on as `I-X`.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let encoding = tokenizer.encode(["Ada", "wrote"], #{ is_split_into_words: true });
    /// let labels = align_labels(encoding, [0, 1], #{ label_names: ["B-PER", "O"], label_all_tokens: false });
    /// expect(labels[0] == -100 && labels[1] == 0 && labels[-1] == -100, "special tokens have none");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn align_labels(encoding: ScriptEncoding, labels: Array, options: Map) -> ScriptResult<Array> {
        super::aligned(&encoding, &labels, options).map_err(raise)
    }

    /// What a pipeline encodes: the columns that a model reads, and under `pieces` what `token_entities` needs.
    ///
    /// `words` is what was encoded: a text, or an array of words, which `options.delimiter` joins to the sentence that offsets
    /// count in.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let words = ["Ada", "wrote"];
    /// let features = token_features(tokenizer.encode(words), words, #{ delimiter: " " });
    /// expect(features.pieces.sentence == "Ada wrote" && "input_ids" in features, "one sentence");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn token_features(encoding: ScriptEncoding, words: Dynamic, options: Map) -> ScriptResult<Map> {
        super::features(encoding, &words, options).map_err(raise)
    }

    /// The entities of each row, as Hugging Face's token-classification pipeline returns them, from logits `(tokens, labels)`.
    ///
    /// Of `options` it reads `aggregation_strategy`, `ignore_labels` and `label_names`. Only a pipeline can call it, whose rows
    /// have been encoded with `token_features`.
    ///
    /// ```rhai
    /// let ner = pipeline("ner", #{ model: "std/minilm-tiny", ignore_labels: [] });
    /// let found = ner.predict("Ada wrote");
    /// expect(found[0].start == 0 && found[-1].end == 9, "its `decode` calls `token_entities`");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn token_entities(logits: Tensor, batch: Batch, tokenizer: Tokenizer, options: Map) -> ScriptResult<Array> {
        super::found(&logits, &batch, &tokenizer, options).map_err(raise)
    }

    /// The entities of a text from those of its windows: of those that overlap, the longest, then the surest.
    ///
    /// ```rhai
    /// let one = #{ entity_group: "PER", score: 0.9, word: "Ada", start: 0, end: 3 };
    /// let longer = #{ entity_group: "PER", score: 0.8, word: "Ada L", start: 0, end: 5 };
    /// let found = join_windows([[one], [longer]]);
    /// expect(found.len == 1 && found[0].word == "Ada L", "the longer one");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn join_windows(windows: Array) -> ScriptResult<Array> {
        super::joined(&windows).map_err(raise)
    }

    /// The label with the highest score of each token, one array a row: what `seqeval` needs of logits `(tokens, labels)`.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 3] }, #{ input_ids: [4] }]);
    /// let logits = Tensor::from_array([[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]]);
    /// expect(best_token_labels(logits, batch) == [[0, 1], [1]], "one array a row");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn best_token_labels(logits: Tensor, batch: Batch) -> ScriptResult<Array> {
        super::best(&logits, &batch).map_err(raise)
    }

    /// The labels of a column of lists in the order of their ids: `label_list` of Hugging Face's run_ner.
    ///
    /// Names in the rows are sorted, each once. Ids have the names that the data set's files say, or else `LABEL_0`, `LABEL_1`, ...
    ///
    /// ```rhai
    /// let data = Dataset::from_rows([#{ tokens: ["Ada", "wrote"], ner_tags: ["B-PER", "O"] }, #{ tokens: [], ner_tags: [] }]);
    /// expect(label_list(data, "ner_tags") == ["B-PER", "O"], "each once");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn label_list(dataset: Dataset, column: &str) -> ScriptResult<Array> {
        let names = token_labels::label_list(&dataset, Some(column)).map_err(raise)?;
        Ok(names.into_iter().map(Dynamic::from).collect())
    }

    /// The labels of the column that holds them: `ner_tags`, `tags`, `labels` or `label`.
    ///
    /// ```rhai
    /// let data = Dataset::from_rows([#{ words: ["Ada", "wrote"], tags: [1, 0] }]);
    /// expect(label_list(data) == ["LABEL_0", "LABEL_1"], "ids without names");
    /// ```
    #[rhai_fn(name = "label_list", return_raw)]
    pub fn label_list_found(dataset: Dataset) -> ScriptResult<Array> {
        let names = token_labels::label_list(&dataset, None).map_err(raise)?;
        Ok(names.into_iter().map(Dynamic::from).collect())
    }
}

fn map_of(map: Map) -> Result<Row> {
    match from_dynamic(&Dynamic::from_map(map))? {
        Value::Map(row) => Ok(row),
        _ => Err(What::Internal("a map became something else".into()).into()),
    }
}

fn text<'a>(options: &'a Row, key: &str) -> Option<&'a str> {
    options.get(key).and_then(Value::as_str)
}

fn names(options: &Row) -> Vec<&str> {
    let names = options.get("label_names").and_then(Value::as_list).unwrap_or_default();
    names.iter().filter_map(Value::as_str).collect()
}

fn words(row: Map, options: Map) -> Result<Dynamic> {
    let (row, options) = (map_of(row)?, map_of(options)?);
    Ok(match token_labels::words_of(&row, text(&options, TEXT_COLUMN))? {
        Words::Text(text) => to_dynamic(&Value::Str(text)),
        Words::Split(words) => {
            Dynamic::from_array(words.into_iter().map(|word| to_dynamic(&Value::Str(word))).collect())
        }
    })
}

fn labels(row: Map, options: Map) -> Result<Dynamic> {
    let (row, options) = (map_of(row)?, map_of(options)?);
    let words = token_labels::words_of(&row, text(&options, TEXT_COLUMN))?;
    let ids = token_labels::word_labels(&row, &words, text(&options, LABEL_COLUMN), &names(&options))?;
    Ok(ids.map_or(Dynamic::UNIT, |ids| Dynamic::from_array(ids.into_iter().map(Dynamic::from).collect())))
}

fn aligned(encoding: &ScriptEncoding, labels: &[Dynamic], options: Map) -> Result<Array> {
    let options = map_of(options)?;
    let labels: Vec<i64> =
        labels.iter().map(|label| label.as_int().unwrap_or(crate::tensor::loss::IGNORE_INDEX)).collect();
    let all = options.get("label_all_tokens") == Some(&Value::Bool(true));
    let aligned = token_labels::align(&encoding.encoding.word_ids, &labels, &names(&options), all);
    Ok(aligned.into_iter().map(Dynamic::from).collect())
}

fn features(encoding: ScriptEncoding, words: &Dynamic, options: Map) -> Result<Map> {
    let options = map_of(options)?;
    let numbers = &encoding.encoding;
    let (sentence, offsets) = match from_dynamic(words)? {
        Value::Str(text) => (text, numbers.offsets.clone()),
        Value::List(words) => {
            let delimiter = text(&options, "delimiter").unwrap_or(" ");
            let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
            let mut starts = vec![0];
            for word in &words {
                starts.push(starts[starts.len() - 1] + word.chars().count() + delimiter.chars().count());
            }
            let moved = numbers.offsets.iter().zip(&numbers.word_ids).map(|(&(start, end), word)| {
                let by = word.and_then(|word| starts.get(word as usize)).copied().unwrap_or(0);
                (start + by, end + by)
            });
            (Arc::from(words.join(delimiter)), moved.collect())
        }
        other => {
            let (wanted, got) = ("a text or an array of words".into(), other.type_name().into());
            return Err(What::WrongType { name: "`words` of `token_features`".into(), wanted, got }.into());
        }
    };
    let list = |values: Vec<usize>| Dynamic::from_array(values.into_iter().map(|n| Dynamic::from(n as INT)).collect());
    let (starts, ends) = offsets.into_iter().unzip();
    let pieces = [
        ("sentence", to_dynamic(&Value::Str(sentence))),
        ("ids", Dynamic::from_array(int_array(&numbers.input_ids))),
        ("starts", list(starts)),
        ("ends", list(ends)),
        ("special", Dynamic::from_array(int_array(&numbers.special_tokens_mask))),
    ];
    let pieces = Dynamic::from_map(pieces.into_iter().map(|(key, value)| (key.into(), value)).collect());
    let columns = encoding.columns().into_iter();
    let mut map: Map = columns.map(|(name, ids)| (name.into(), Dynamic::from_array(int_array(ids)))).collect();
    map.insert("truncated".into(), Dynamic::from(encoding.encoding.truncated));
    map.insert("pieces".into(), pieces);
    Ok(map)
}

/// What [`features`] kept of a row.
fn pieces(kept: &Row) -> Result<Pieces> {
    let missing = || {
        Error::new(What::BadData("the row has no `pieces` to find entities in".into()))
            .hint("`encode` of the task returns `token_features(...)` where `options.predicting` is set")
    };
    let Some(Value::Map(map)) = kept.get("pieces") else { return Err(missing()) };
    let counts = |key: &str| -> Result<Vec<usize>> {
        let list = map.get(key).and_then(Value::as_list).ok_or_else(missing)?;
        list.iter().map(|n| n.as_int().and_then(|n| usize::try_from(n).ok()).ok_or_else(missing)).collect()
    };
    let sentence = map.get("sentence").and_then(Value::as_str).ok_or_else(missing)?.chars().collect();
    let pieces = Pieces {
        sentence,
        ids: counts("ids")?.into_iter().map(|id| u32::try_from(id).unwrap_or(u32::MAX)).collect(),
        offsets: counts("starts")?.into_iter().zip(counts("ends")?).collect(),
        special: counts("special")?.into_iter().map(|flag| flag != 0).collect(),
    };
    let n = pieces.ids.len();
    if pieces.offsets.len() == n && pieces.special.len() == n { Ok(pieces) } else { Err(missing()) }
}

/// The logits of each row, one list a token.
fn rows(logits: &Tensor, batch: &Batch, of: &str) -> Result<Vec<Vec<Vec<f32>>>> {
    if logits.rank() != 2 || logits.dims()[0] != batch.n_tokens() || logits.dims()[1] == 0 {
        let (got, n) = (shown(logits.dims()), batch.n_tokens());
        return Err(conflict(format!("`{of}` takes logits of ({n}, labels) for a batch of {n} tokens, but got {got}")));
    }
    let all: Vec<Vec<f32>> = logits.to_dtype(DType::F32)?.to_vec2()?;
    let mut all = all.into_iter();
    Ok(batch.lengths.iter().map(|&length| all.by_ref().take(length).collect()).collect())
}

fn found(logits: &Tensor, batch: &Batch, tokenizer: &Tokenizer, options: Map) -> Result<Array> {
    let options = map_of(options)?;
    let aggregation = Aggregation::named(text(&options, "aggregation_strategy").unwrap_or("none"))?;
    let ignored = options.get("ignore_labels").and_then(Value::as_list).unwrap_or_default();
    let names = names(&options);
    if logits.dims().get(1) != Some(&names.len()) {
        let (got, n) = (shown(logits.dims()), names.len());
        return Err(conflict(format!("`token_entities` takes one logit for each of {n} labels, but got {got}")));
    }
    let mut all = Array::new();
    for (kept, logits) in batch.kept.iter().zip(rows(logits, batch, "token_entities")?) {
        let found = entities::entities(&pieces(kept)?, &logits, &names, aggregation, tokenizer)?;
        let shown = found.iter().filter(|one| !ignored.iter().any(|label| label.as_str() == Some(&one.label)));
        all.push(Dynamic::from_array(shown.map(entity_map).collect()));
    }
    Ok(all)
}

/// An entity with Hugging Face's keys.
fn entity_map(found: &Found) -> Dynamic {
    let key = if found.index.is_some() { "entity" } else { "entity_group" };
    let mut map: IndexMap<String, Value> = IndexMap::from([
        (key.to_string(), Value::from(found.label.as_str())),
        ("score".into(), Value::Float(f64::from(found.score))),
        ("word".into(), Value::from(found.word.as_str())),
        ("start".into(), Value::Int(found.start as i64)),
        ("end".into(), Value::Int(found.end as i64)),
    ]);
    if let Some(index) = found.index {
        map.insert("index".into(), Value::Int(index as i64));
    }
    to_dynamic(&Value::Map(Arc::new(map)))
}

fn joined(windows: &[Dynamic]) -> Result<Array> {
    let wrong = |got: &str| {
        let wanted = "an array of entities for each window".into();
        Error::new(What::WrongType { name: "`windows` of `join_windows`".into(), wanted, got: got.into() })
    };
    let read = |value: &Value| -> Result<Found> {
        let Value::Map(map) = value else { return Err(wrong(value.type_name())) };
        let label = map.get("entity_group").or_else(|| map.get("entity")).and_then(Value::as_str);
        let place = |key: &str| map.get(key).and_then(Value::as_int).and_then(|n| usize::try_from(n).ok());
        let (Some(label), Some(start), Some(end)) = (label, place("start"), place("end")) else {
            return Err(
                wrong("a map without them").hint("an entity has `entity_group`, `score`, `word`, `start` and `end`")
            );
        };
        let score = map.get("score").and_then(Value::as_float).unwrap_or(0.0) as f32;
        let word = map.get("word").and_then(Value::as_str).unwrap_or_default().to_string();
        Ok(Found { label: label.into(), score, index: place("index"), word, start, end })
    };
    if let [one] = windows {
        return one.clone().into_array().map_err(wrong);
    }
    let mut all = Vec::with_capacity(windows.len());
    for window in windows {
        let window = from_dynamic(window)?;
        let entities = window.as_list().ok_or_else(|| wrong(window.type_name()))?;
        all.push(entities.iter().map(read).collect::<Result<Vec<_>>>()?);
    }
    Ok(entities::join_windows(all).iter().map(entity_map).collect())
}

fn best(logits: &Tensor, batch: &Batch) -> Result<Array> {
    let best = |scores: &Vec<f32>| {
        let start = (0, f32::NEG_INFINITY);
        let best =
            scores.iter().enumerate().fold(start, |best, (at, &score)| if score > best.1 { (at, score) } else { best });
        Dynamic::from(best.0 as INT)
    };
    let rows = rows(logits, batch, "best_token_labels")?;
    Ok(rows.iter().map(|row| Dynamic::from_array(row.iter().map(best).collect())).collect())
}
