//! `plugin:ner`: token classification, the task `std/tasks/ner` in Rust. One label a token.
//!
//! Parameters, options and numbers are those of the script: words with a label each become tokens as in Hugging Face's run_ner,
//! texts become entities as in its pipeline.

use retune_plugin_sdk::{Cx, Error, Function, Json, Linear, Outputs, Result, TaskHead, Tensor, export_heads};

/// The head: a linear layer over each token.
pub struct Ner {
    dropout: f64,
    classifier: Linear,
}

impl TaskHead for Ner {
    const NAME: &'static str = "ner";
    const OPTIONS: &'static str = r#"{
        "text_column_name": null, "label_column_name": null, "label_all_tokens": false,
        "return_entity_level_metrics": false, "class_weights": null,
        "mode": "default", "scheme": null, "suffix": false,
        "aggregation_strategy": "none", "ignore_labels": ["O"], "stride": null,
        "is_split_into_words": false, "delimiter": " "
    }"#;
    const FUNCTIONS: &'static [Function] =
        &[Function::Encode, Function::Collate, Function::Decode, Function::Merge, Function::Reduce, Function::Metrics];

    fn create(cx: Cx<'_>, config: &Json) -> Result<Self> {
        let classifier = Linear::new(cx, "classifier", config.count("hidden_size")?, config.count("num_labels")?);
        Ok(Ner { dropout: config.number("head_dropout")?, classifier })
    }

    fn forward<'c>(&self, _: Cx<'c>, hidden: Tensor<'c>) -> Result<Outputs<'c>> {
        Ok(self.classifier.forward(hidden.dropout(self.dropout)).into()) // (tokens, labels)
    }

    fn loss<'c>(&self, cx: Cx<'c>) -> Result<Tensor<'c>> {
        cx.input("logits").task_cross_entropy(cx.input("labels"))
    }

    fn encode(&self, cx: Cx<'_>, row: &Json, options: &Json) -> Result<Json> {
        let words = cx.call("words_column", &[row.clone(), options.clone()])?;
        let mut cut = Json::map([("truncation", true.into()), ("max_length", options.get("max_length").clone())]);
        if options.get("predicting").is_true() {
            return encode_windows(cx, &words, &mut cut, options);
        }
        let encoding = cx.call("encode", &[cx.tokenizer(), words, cut])?;
        if length(cx, &encoding)? == 0 {
            return Ok(Json::List(Vec::new())); // words that become no tokens at all
        }
        let mut features = cx.call("to_map", std::slice::from_ref(&encoding))?;
        features.set("truncated", cx.call(".truncated", std::slice::from_ref(&encoding))?);
        let labels = cx.call("word_labels", &[row.clone(), options.clone()])?;
        if !labels.is_null() {
            features.set("labels", cx.call("align_labels", &[encoding, labels, options.clone()])?);
        }
        Ok(features)
    }

    fn collate(&self, cx: Cx<'_>, options: &Json) -> Result<()> {
        cx.call("with_class_weights", &[cx.batch(), options.get("class_weights").clone()]).map(drop)
    }

    fn decode(&self, cx: Cx<'_>, options: &Json) -> Result<Json> {
        cx.call("token_entities", &[cx.input("logits").into(), cx.batch(), cx.tokenizer(), options.clone()])
    }

    fn merge(&self, cx: Cx<'_>, results: &Json, _: &Json, _: &Json) -> Result<Json> {
        cx.call("join_windows", std::slice::from_ref(results))
    }

    fn reduce(&self, cx: Cx<'_>, _: &Json) -> Result<Json> {
        cx.call("best_token_labels", &[cx.input("logits").into(), cx.batch()])
    }

    fn metrics(&self, cx: Cx<'_>, predictions: &Json, references: &Json, options: &Json) -> Result<Json> {
        let keys = ["label_names", "mode", "scheme", "suffix"];
        let counting = Json::map(keys.map(|key| (key, options.get(key).clone())));
        let scores = cx.call("seqeval", &[predictions.clone(), references.clone(), counting])?;
        if options.get("return_entity_level_metrics").is_true() {
            return Ok(flat(&scores));
        }
        let overall = ["precision", "recall", "f1", "accuracy"];
        Ok(Json::map(overall.map(|key| (key, scores.get(&format!("overall_{key}")).clone()))))
    }
}

fn length(cx: Cx<'_>, encoding: &Json) -> Result<i64> {
    Ok(cx.call("len", std::slice::from_ref(encoding))?.as_i64().unwrap_or(0))
}

/// Where there are no labels to learn from: offsets are kept for `decode`, and a stride splits long texts.
fn encode_windows(cx: Cx<'_>, words: &Json, cut: &mut Json, options: &Json) -> Result<Json> {
    let stride = options.get("stride");
    if !stride.is_null() {
        if options.get("aggregation_strategy").as_str() == Some("none") {
            return Err(Error::new(
                "`stride` needs an `aggregation_strategy` other than \"none\", which joins what the windows found",
            ));
        }
        cut.set("stride", stride.clone());
        cut.set("return_overflowing_tokens", true);
    }
    let encoding = cx.call("encode", &[cx.tokenizer(), words.clone(), cut.clone()])?;
    let overflowing = cx.call(".overflowing", std::slice::from_ref(&encoding))?;
    let mut windows = Vec::new();
    for window in std::iter::once(&encoding).chain(overflowing.list()) {
        if length(cx, window)? > 0 {
            windows.push(cx.call("token_features", &[window.clone(), words.clone(), options.clone()])?);
        }
    }
    Ok(Json::List(windows))
}

/// The scores of each type beside the overall ones, as run_ner names them: `PER_f1`, `overall_f1`.
fn flat(scores: &Json) -> Json {
    let Json::Map(scores) = scores else { return Json::map::<&str>([]) };
    let each = scores.iter().flat_map(|(name, value)| match value {
        Json::Map(parts) => parts.iter().map(|(key, value)| (format!("{name}_{key}"), value.clone())).collect(),
        one => vec![(name.clone(), one.clone())],
    });
    Json::map(each)
}

export_heads!(Ner);
