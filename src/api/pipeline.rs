//! `pipeline(task, #{ model, tokenizer, ... })`: a saved or trained model in use.

use indexmap::IndexMap;
use rhai::plugin::*;
use rhai::{Array, Map};

use crate::api::model::load_for;
use crate::api::options::Options;
use crate::api::session::Session;
use crate::data::conll::TOKENS;
use crate::data::hub::{Hub, open_tokenizer};
use crate::data::{Dataset, Row, Value};
use crate::error::{Error, Result, What};
use crate::head::Model;
use crate::head::labels::FOR_TASK;
use crate::head::script::convert::{ScriptResult, from_dynamic, raise, to_dynamic, type_name};
use crate::pipeline::{Pipeline, question_rows, suffix_of, text_row};
use crate::tokenizer::{Tokenizer, TokenizerOptions};

/// Makes the namespace and the type known to an engine.
pub fn register(engine: &mut rhai::Engine) {
    engine.register_type_with_name::<Pipeline>("Pipeline");
    engine.register_global_module(exported_module!(pipeline_functions).into());
}

fn make(context: &NativeCallContext, task: &str, options: Map) -> Result<Pipeline> {
    let session = Session::of(context);
    let suffix = suffix_of(task)?;
    let mut options = Options::new("`pipeline`", options);
    let revision = options.string("revision")?;
    let model = options.take("model");
    let model = model.ok_or_else(|| options.missing("model", "give a directory, a hub name or a loaded model"))?;
    let tokenizer = options.take("tokenizer");
    let batch_size = options.count("batch_size", 1)?.unwrap_or(32);
    let name = model.clone().into_string().ok();
    let model = match (&name, model.clone().try_cast::<Model>()) {
        (Some(name), _) => load_for(context, suffix, name, revision.as_deref())?,
        (None, Some(model)) => model,
        (None, None) => return Err(wrong("model", "a directory, a hub name or a model", &model)),
    };
    if model.architecture() != model.family().class_name(suffix) && !model.architecture().ends_with(FOR_TASK) {
        let problem =
            format!("the pipeline `{task}` needs a model `...{suffix}`, but this is a `{}`", model.architecture());
        return Err(Error::new(What::Conflict(problem)).hint(format!("load it with `AutoModel{suffix}`")));
    }
    let tokenizer = match tokenizer {
        Some(value) => match (value.clone().try_cast::<Tokenizer>(), value.clone().into_string()) {
            (Some(tokenizer), _) => tokenizer,
            (None, Ok(name)) => open(&session, &name, revision.as_deref())?,
            (None, Err(_)) => return Err(wrong("tokenizer", "a directory, a hub name or a tokenizer", &value)),
        },
        None => match &name {
            Some(name) => open(&session, name, revision.as_deref())?,
            None => {
                let what = What::MissingOption { key: "tokenizer".into(), of: "`pipeline`".into() };
                return Err(
                    Error::new(what).hint("a loaded model does not bring its tokenizer: give `tokenizer: tokenizer`")
                );
            }
        },
    };
    let settings = rest(options, &model)?;
    Ok(Pipeline::new(model, tokenizer, batch_size, settings)?.seeded(session.seed()))
}

fn open(session: &Session, name: &str, revision: Option<&str>) -> Result<Tokenizer> {
    let folder = open_tokenizer(session.places(), &Hub::from_env(), name, revision)?;
    Tokenizer::from_folder(&folder, TokenizerOptions::default())
}

fn wrong(key: &str, wanted: &str, got: &Dynamic) -> Error {
    What::WrongType { name: format!("`{key}` of `pipeline`"), wanted: wanted.into(), got: type_name(got) }.into()
}

/// Options of Hugging Face's pipelines that are not there, and what to write instead.
const REFUSED: [(&str, &str); 5] = [
    ("return_all_scores", "write `top_k: ()`, which gives the scores of all labels"),
    ("grouped_entities", "write `aggregation_strategy: \"simple\"`"),
    ("device", "leave it out: `--device` of the command line says where to compute"),
    ("device_map", "leave it out: `--device` of the command line says where to compute"),
    ("torch_dtype", "leave it out: pipelines compute in f32"),
];

/// What is left of the options: those of the model's task.
fn rest(mut options: Options, model: &Model) -> Result<Row> {
    for (key, hint) in REFUSED {
        if options.has(key) {
            let error = Error::new(What::UnknownOption { key: key.to_string(), of: options.of().to_string() });
            return Err(error.hint(hint));
        }
    }
    let mut settings: IndexMap<_, _> = options.rest()?.into_iter().collect();
    // Given as nothing, it asks for all labels; not given, for the best one without an array around it.
    if model.architecture().ends_with("ForSequenceClassification")
        && let Some(top_k @ Value::Null) = settings.get_mut("top_k")
    {
        *top_k = Value::Int(0);
    }
    Ok(Row::new(settings))
}

/// The option of token classification that says that inputs are arrays of words.
const SPLIT: &str = "is_split_into_words";

fn row_of(value: &Dynamic, split: bool) -> Result<Row> {
    if let (Ok(text), false) = (value.clone().into_string(), split) {
        return Ok(text_row(&text));
    }
    match from_dynamic(value)? {
        Value::Map(map) => Ok(map),
        Value::List(words) if split => Ok(Row::new(IndexMap::from([(TOKENS.to_string(), Value::List(words))]))),
        _ if split => Err(wrong("input", "an array of words, because of `is_split_into_words: true`,", value)),
        Value::List(words) if !words.is_empty() && words.iter().all(|word| word.as_str().is_some()) => {
            Err(wrong("input", "a text", value)
                .hint("for words that were split before, give `is_split_into_words: true`"))
        }
        _ => Err(wrong("input", "a text, a map such as #{ text, text_pair }, or an array of them", value)),
    }
}

fn predict(pipeline: &Pipeline, input: &Dynamic, options: Map) -> Result<Dynamic> {
    let call = rest(Options::new("`predict`", options), pipeline.model())?;
    let split = pipeline.option(SPLIT, &call) == Some(&Value::Bool(true));
    if let Some(dataset) = input.clone().try_cast::<Dataset>() {
        let results = pipeline.predict(dataset.rows(), &call)?;
        return Ok(Dynamic::from_array(results.iter().map(to_dynamic).collect()));
    }
    if let Some(list) = input.clone().try_cast::<Array>() {
        // As in Hugging Face, one array of words is a list of one.
        let rows = match split && !list.iter().all(Dynamic::is_array) {
            true => vec![row_of(input, split)?],
            false => list.iter().map(|item| row_of(item, split)).collect::<Result<Vec<_>>>()?,
        };
        let results = pipeline.predict(&rows, &call)?;
        return Ok(Dynamic::from_array(results.iter().map(to_dynamic).collect()));
    }
    let row = row_of(input, split)?;
    if let Some(rows) = question_rows(&row)? {
        let results = pipeline.predict(&rows, &call)?;
        return Ok(Dynamic::from_array(results.iter().map(to_dynamic).collect()));
    }
    let results = pipeline.predict(&[row], &call)?;
    Ok(results.first().map_or(Dynamic::UNIT, to_dynamic))
}

/// Models in use.
#[export_module]
mod pipeline_functions {
    /// Makes a pipeline: `text-classification` (`sentiment-analysis`), `token-classification` (`ner`), `question-answering`, `fill-mask` or `text-generation`.
    ///
    /// `model` is a directory, a hub name or a loaded model; with a loaded model, `tokenizer` is needed too. Other
    /// options: `batch_size`, `revision`, and for every call those of the model's task, for example `top_k` (`()` or 0 means all
    /// labels) and `function_to_apply` of text classification; `top_k`, `doc_stride`, `max_answer_len`, `max_seq_len`, `max_question_len`,
    /// `handle_impossible_answer` and `align_to_words` of question answering.
    ///
    /// ```rhai
    /// let classifier = pipeline("text-classification", #{ model: "std/minilm-tiny" });
    /// let result = classifier.predict("a fine film");
    /// expect(result.label == "LABEL_0" || result.label == "LABEL_1", "the labels have no names yet");
    /// ```
    #[rhai_fn(name = "pipeline", return_raw)]
    pub fn new_pipeline(context: NativeCallContext, task: &str, options: Map) -> ScriptResult<Pipeline> {
        make(&context, task, options).map_err(raise)
    }

    /// Makes a pipeline of a model that is named by a directory or a hub name, with no other options.
    ///
    /// ```rhai
    /// let classifier = pipeline("text-classification", "std/minilm-tiny");
    /// expect(classifier.predict("a fine film").score > 0.0, "a label with its score");
    /// ```
    #[rhai_fn(name = "pipeline", return_raw)]
    pub fn pipeline_of(context: NativeCallContext, task: &str, model: &str) -> ScriptResult<Pipeline> {
        let options = Map::from_iter([("model".into(), Dynamic::from(model.to_string()))]);
        make(&context, task, options).map_err(raise)
    }

    /// Predicts a text, a map `#{ text, text_pair }`, an array of them, or a data set: `#{ label, score }` for each.
    ///
    /// Token classification gives an array for each text: `#{ entity, score, index, word, start, end }` for each token, or
    /// `#{ entity_group, score, word, start, end }` for each entity with an `aggregation_strategy`; places count characters.
    ///
    /// Question answering takes maps `#{ question, context }`, either of which may be an array, and gives `#{ score, start, end, answer }`;
    /// `start` and `end` count characters of the context.
    ///
    /// ```rhai
    /// let classifier = pipeline("sentiment-analysis", #{ model: "std/minilm-tiny" });
    /// let results = classifier.predict(["a fine film", "a dull film"]);
    /// expect(results.len == 2 && results[0].score > 0.0, "one result a text");
    /// ```
    #[rhai_fn(name = "predict", pure, return_raw)]
    pub fn predict_one(pipeline: &mut Pipeline, input: Dynamic) -> ScriptResult<Dynamic> {
        predict(pipeline, &input, Map::new()).map_err(raise)
    }

    /// Predicts with options of the task for this call, for example `top_k` (`()` or 0 means all labels) and `function_to_apply`.
    ///
    /// Of token classification: `aggregation_strategy` (`"none"`, `"simple"`, `"first"`, `"average"`, `"max"`), `ignore_labels`
    /// (`["O"]`), `stride` (reads long texts in windows that share so many tokens), `is_split_into_words` for inputs that are
    /// arrays of words, and `delimiter`, which joins them.
    ///
    /// ```rhai
    /// let classifier = pipeline("text-classification", #{ model: "std/minilm-tiny" });
    /// let all = classifier.predict("a fine film", #{ top_k: () });
    /// expect(all.len == 2 && all[0].score >= all[1].score, "all labels, best first");
    /// ```
    #[rhai_fn(name = "predict", pure, return_raw)]
    pub fn predict_with(pipeline: &mut Pipeline, input: Dynamic, options: Map) -> ScriptResult<Dynamic> {
        predict(pipeline, &input, options).map_err(raise)
    }

    /// The kind of object.
    ///
    /// ```rhai
    /// expect(pipeline("text-classification", #{ model: "std/minilm-tiny" }).to_string() == "Pipeline", "a pipeline");
    /// ```
    #[rhai_fn(global, name = "to_string", name = "to_debug", pure)]
    pub fn to_string(_pipeline: &mut Pipeline) -> String {
        "Pipeline".into()
    }
}
