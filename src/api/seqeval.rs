//! `seqeval(predictions, references)` and its table: the scores of entities, with the keys of Hugging Face's `evaluate`.
//!
//! Arrays of tags flow in, one array a sentence, or arrays of label ids with their names; maps and text flow out.

use rhai::plugin::*;
use rhai::{Dynamic, Map};

use crate::api::options::Options;
use crate::data::Value;
use crate::error::{Error, Place, Result, What};
use crate::head::script::convert::{ScriptResult, from_dynamic, raise, type_name};
use crate::metrics::classification::{Average, Scores};
use crate::metrics::seqeval::{EntityTally, Reading};
use crate::metrics::tag_schemes::{Affix, NAMES, Scheme};
use crate::tensor::loss::IGNORE_INDEX;

/// Makes the functions known to an engine.
pub(super) fn register(engine: &mut rhai::Engine) {
    engine.register_global_module(rhai::exported_module!(functions).into());
}

#[export_module]
mod functions {
    /// Precision, recall, F1 and accuracy of entities, as `seqeval` of Hugging Face's `evaluate` gives them.
    ///
    /// Both arrays hold one array of tags for each sentence. The map has `overall_precision`, `overall_recall`, `overall_f1`,
    /// `overall_accuracy` (of tags), and for each type a map with `precision`, `recall`, `f1` and `number`.
    ///
    /// ```rhai
    /// let references = [["O", "B-PER", "I-PER", "O"], ["B-LOC", "O"]];
    /// let predictions = [["O", "B-PER", "I-PER", "O"], ["O", "O"]];
    /// let scores = seqeval(predictions, references);
    /// expect(scores.overall_precision == 1.0 && scores.overall_recall == 0.5, "one of two was found");
    /// expect(scores.LOC.f1 == 0.0 && scores.PER.number == 1, "by type");
    /// ```
    #[rhai_fn(name = "seqeval", return_raw)]
    pub fn seqeval_of(predictions: Dynamic, references: Dynamic) -> ScriptResult<Map> {
        super::scores(&predictions, &references, Map::new()).map_err(raise)
    }

    /// Precision, recall, F1 and accuracy of entities, with options.
    ///
    /// - `mode`: `"default"`, which reads tags as conlleval does, or `"strict"`: only what follows the scheme is an entity.
    /// - `scheme`: what `"strict"` follows: `"IOB1"`, `"IOB2"`, `"IOE1"`, `"IOE2"`, `"IOBES"` (also `"BIOES"`) or `"BILOU"`; found
    ///   by the letters of the references unless given.
    /// - `suffix`: `true` for tags such as `PER-B`.
    /// - `zero_division`: the score where a ratio is 0 / 0: 0 (the default) or 1.
    /// - `average`: what the overall scores are: `"micro"` (the default), `"macro"` or `"weighted"`.
    /// - `label_names`: for arrays of label ids: the tag of each id. Tokens whose reference is -100 are left out.
    ///
    /// ```rhai
    /// let scores = seqeval([["I-PER", "O"]], [["B-PER", "O"]], #{ mode: "strict", scheme: "IOB2" });
    /// expect(scores.overall_f1 == 0.0, "an entity begins with B");
    /// let names = ["O", "B-PER"];
    /// expect(seqeval([[0, 1, 0]], [[-100, 1, 0]], #{ label_names: names }).overall_f1 == 1.0, "ids of labels");
    /// ```
    #[rhai_fn(name = "seqeval", return_raw)]
    pub fn seqeval_with(predictions: Dynamic, references: Dynamic, options: Map) -> ScriptResult<Map> {
        super::scores(&predictions, &references, options).map_err(raise)
    }

    /// The table of each type's scores and their averages, as `classification_report` of seqeval prints it.
    ///
    /// ```rhai
    /// let table = seqeval_report([["B-PER", "O"]], [["B-PER", "B-LOC"]]);
    /// expect(table.contains("LOC       0.00"), "a line for each type");
    /// ```
    #[rhai_fn(name = "seqeval_report", return_raw)]
    pub fn report_of(predictions: Dynamic, references: Dynamic) -> ScriptResult<String> {
        super::report(&predictions, &references, Map::new()).map_err(raise)
    }

    /// The table of each type's scores, with the options of `seqeval` and `digits` behind the point (2 unless given).
    ///
    /// ```rhai
    /// let table = seqeval_report([["B-PER", "O"]], [["B-PER", "B-LOC"]], #{ digits: 4 });
    /// expect(table.contains("micro avg     1.0000    0.5000    0.6667         2"), "with four digits");
    /// ```
    #[rhai_fn(name = "seqeval_report", return_raw)]
    pub fn report_with(predictions: Dynamic, references: Dynamic, options: Map) -> ScriptResult<String> {
        super::report(&predictions, &references, options).map_err(raise)
    }
}

/// The options that say how entities are counted.
struct Counting {
    scheme: Option<Scheme>,
    strict: bool,
    affix: Affix,
    zero_division: f64,
    names: Option<Vec<String>>,
}

impl Counting {
    fn read(options: &mut Options) -> Result<Self> {
        let mode = options.choice("mode", &["default", "strict"])?;
        let scheme = options.choice("scheme", &NAMES.map(|(name, _)| name))?;
        let suffix = options.bool("suffix")?.unwrap_or(false);
        let zero_division = match options.take("zero_division") {
            None => 0.0,
            Some(value) => match (value.as_int(), value.as_float(), value.clone().into_string().as_deref()) {
                (Ok(0), ..) | (_, Ok(0.0), _) | (.., Ok("warn")) => 0.0,
                (Ok(1), ..) | (_, Ok(1.0), _) => 1.0,
                _ => {
                    let name = format!("`zero_division` of {}", options.of());
                    return Err(What::OutOfRange {
                        name,
                        value: value.to_string(),
                        allowed: "0, 1 or \"warn\"".into(),
                    }
                    .into());
                }
            },
        };
        let names = match options.array("label_names")? {
            None => None,
            Some(names) => {
                Some(names.iter().enumerate().map(|(id, name)| label_name(id, name)).collect::<Result<_>>()?)
            }
        };
        Ok(Counting {
            scheme: scheme.and_then(|name| NAMES.iter().find(|(known, _)| *known == name).map(|(_, scheme)| *scheme)),
            strict: mode.as_deref() == Some("strict"),
            affix: if suffix { Affix::Suffix } else { Affix::Prefix },
            zero_division,
            names,
        })
    }

    fn count(&self, predictions: &Dynamic, references: &Dynamic) -> Result<EntityTally> {
        let (predictions, references) = (sentences("predictions", predictions)?, sentences("references", references)?);
        let (predictions, references) = (rows(&predictions), rows(&references));
        if predictions.len() != references.len() {
            let (predicted, wanted) = (predictions.len(), references.len());
            let problem = format!("there are {predicted} predicted sentences, but {wanted} reference sentences");
            return Err(What::BadData(problem).into());
        }
        let pair = |at: usize| {
            let pair = self.pair(&predictions[at], &references[at]);
            pair.map_err(|error| error.at(Place::Within(format!("sentence {at}"))))
        };
        let reading = match (self.strict, self.scheme) {
            (false, _) => Reading::Conlleval,
            (true, Some(scheme)) => Reading::Strict(scheme),
            (true, None) => {
                let mut tags = std::collections::BTreeSet::new();
                for at in 0..references.len() {
                    tags.extend(pair(at)?.1);
                }
                Reading::Strict(Scheme::detect(tags.into_iter(), self.affix)?)
            }
        };
        let mut tally = EntityTally::new(reading, self.affix);
        for at in 0..references.len() {
            let (predicted, wanted) = pair(at)?;
            tally.add(&predicted, &wanted).map_err(|error| error.at(Place::Within(format!("sentence {at}"))))?;
        }
        if tally.accuracy().is_nan() {
            let error = Error::new(What::BadData("there are no tags to score".into()));
            return Err(error.hint("tokens whose reference is -100 are left out"));
        }
        Ok(tally)
    }

    /// The tags of one sentence on both sides.
    fn pair<'a>(&'a self, predictions: &'a Value, references: &'a Value) -> Result<(Vec<&'a str>, Vec<&'a str>)> {
        let list = |value: &'a Value, of: &str| {
            value.as_list().ok_or_else(|| wrong(of, "an array of tags, one for each token", value.type_name()))
        };
        let (predictions, references) = (list(predictions, "a prediction")?, list(references, "a reference")?);
        if predictions.len() != references.len() {
            let (predicted, wanted) = (predictions.len(), references.len());
            let problem = format!("there are {predicted} predicted tags, but {wanted} reference tags");
            return Err(Error::new(What::BadData(problem)).hint("both sides have one tag a token"));
        }
        let both = predictions.iter().zip(references);
        let counted = both.filter(|(_, reference)| **reference != Value::Int(IGNORE_INDEX));
        let tags = counted.map(|(one, other)| Ok((self.tag(one, "a prediction")?, self.tag(other, "a reference")?)));
        let tags: Vec<(&str, &str)> = tags.collect::<Result<_>>()?;
        Ok(tags.into_iter().unzip())
    }

    fn tag<'a>(&'a self, value: &'a Value, of: &str) -> Result<&'a str> {
        match (value, &self.names) {
            (Value::Str(tag), _) => Ok(tag),
            (Value::Int(id), Some(names)) => {
                let name = usize::try_from(*id).ok().and_then(|id| names.get(id));
                name.map(String::as_str).ok_or_else(|| {
                    let allowed = format!("0 to {} (there are {} `label_names`)", names.len() as i64 - 1, names.len());
                    What::OutOfRange { name: of.into(), value: id.to_string(), allowed }.into()
                })
            }
            (Value::Int(_), None) => Err(wrong(of, "a tag, such as \"B-PER\"", "an integer")
                .hint("for ids of labels, give their names: `label_names`")),
            (Value::List(_), _) => {
                Err(wrong(of, "a tag, such as \"B-PER\"", "a list")
                    .hint("scores become labels with `argmax(predictions)`"))
            }
            _ => Err(wrong(of, "a tag, such as \"B-PER\"", value.type_name())),
        }
    }
}

fn label_name(id: usize, name: &Dynamic) -> Result<String> {
    name.clone().into_string().map_err(|_| wrong(&format!("`label_names[{id}]`"), "a string", &type_name(name)))
}

fn wrong(name: &str, wanted: &str, got: &str) -> Error {
    What::WrongType { name: name.into(), wanted: wanted.into(), got: got.into() }.into()
}

fn sentences(name: &str, array: &Dynamic) -> Result<Value> {
    match from_dynamic(array)? {
        list @ Value::List(_) => Ok(list),
        _ => Err(wrong(&format!("`{name}`"), "an array with one array of tags for each sentence", &type_name(array))),
    }
}

fn rows(value: &Value) -> &[Value] {
    value.as_list().unwrap_or_default()
}

fn scores(predictions: &Dynamic, references: &Dynamic, options: Map) -> Result<Map> {
    let mut options = Options::new("`seqeval`", options);
    let counting = Counting::read(&mut options)?;
    let average = match options.choice("average", &["micro", "macro", "weighted"])?.as_deref() {
        Some("macro") => Average::Macro,
        Some("weighted") => Average::Weighted,
        _ => Average::Micro,
    };
    options.finish()?;
    let tally = counting.count(predictions, references)?;
    let mut map = Map::new();
    for (name, scores) in tally.per_type(counting.zero_division) {
        let Scores { precision, recall, f1, support } = scores;
        let parts = [
            ("precision", Dynamic::from(precision)),
            ("recall", recall.into()),
            ("f1", f1.into()),
            ("number", Dynamic::from(support as i64)),
        ];
        let parts = parts.into_iter().map(|(key, value)| (key.into(), value)).collect();
        map.insert(name.into(), Dynamic::from_map(parts));
    }
    let overall = tally.average(average, counting.zero_division);
    for (key, value) in [
        ("overall_precision", overall.precision),
        ("overall_recall", overall.recall),
        ("overall_f1", overall.f1),
        ("overall_accuracy", tally.accuracy()),
    ] {
        map.insert(key.into(), value.into());
    }
    Ok(map)
}

fn report(predictions: &Dynamic, references: &Dynamic, options: Map) -> Result<String> {
    let mut options = Options::new("`seqeval_report`", options);
    let counting = Counting::read(&mut options)?;
    let digits = options.count("digits", 0)?.unwrap_or(2);
    options.finish()?;
    if digits > 17 {
        let (name, allowed) = ("`digits` of `seqeval_report`".into(), "0 to 17".into());
        return Err(What::OutOfRange { name, value: digits.to_string(), allowed }.into());
    }
    Ok(counting.count(predictions, references)?.report(digits, counting.zero_division))
}
