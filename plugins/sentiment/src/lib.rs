//! `plugin:sentiment`: sequence classification, the task `std/tasks/sentiment` in Rust. One vector a row, to the labels: a single
//! one, several, or numbers.
//!
//! Parameters, options and numbers are those of the script; which token the head reads and what its layers are called is the
//! model family's own (`sequence_head` of the configuration).

use retune_plugin_sdk::{Cx, Error, Function, Json, Linear, Outputs, Result, TaskHead, Tensor, export_heads};

/// The head: an optional dense layer, and the layer that gives the labels' scores.
pub struct Sentiment {
    reads_last: bool,
    /// A row's last token is the last that is none of these.
    pad_token_id: Option<i64>,
    drops_first: bool,
    dense: Option<Linear>,
    activation: String,
    dropout: f64,
    out: Linear,
    n_labels: usize,
    problem_type: Option<String>,
}

impl TaskHead for Sentiment {
    const NAME: &'static str = "sentiment";
    const OPTIONS: &'static str = r#"{"top_k": null, "function_to_apply": null, "class_weights": null}"#;
    const FUNCTIONS: &'static [Function] = &[Function::Encode, Function::Collate, Function::Decode, Function::Metrics];

    fn create(cx: Cx<'_>, config: &Json) -> Result<Self> {
        let (spec, hidden, n_labels) =
            (config.get("sequence_head"), config.count("hidden_size")?, config.count("num_labels")?);
        let dense = spec.get("dense").as_str().map(|name| Linear::new(cx, name, hidden, hidden));
        let out = match spec.get("out_bias").is_true() {
            true => Linear::new(cx, spec.text("out")?, hidden, n_labels),
            false => Linear::without_bias(cx, spec.text("out")?, hidden, n_labels),
        };
        Ok(Sentiment {
            reads_last: spec.text("token")? == "last",
            pad_token_id: config.get("pad_token_id").as_i64(),
            drops_first: spec.get("dropout_first").is_true(),
            dense,
            activation: spec.text("activation")?.to_string(),
            dropout: spec.number("dropout")?,
            out,
            n_labels,
            problem_type: config.get("problem_type").as_str().map(str::to_string),
        })
    }

    fn forward<'c>(&self, _: Cx<'c>, hidden: Tensor<'c>) -> Result<Outputs<'c>> {
        let mut x = if self.reads_last { hidden.last_unpadded(self.pad_token_id) } else { hidden.first() }; // (rows, hidden)
        if self.drops_first {
            x = x.dropout(self.dropout);
        }
        if let Some(dense) = &self.dense {
            x = dense.forward(x).activation(&self.activation)?;
        }
        Ok(self.out.forward(x.dropout(self.dropout)).into()) // (rows, labels)
    }

    fn loss<'c>(&self, cx: Cx<'c>) -> Result<Tensor<'c>> {
        let (logits, labels) = (cx.input("logits"), cx.input("labels"));
        Ok(match self.problem_type(labels)? {
            "regression" => {
                let shape: Vec<i64> = labels.dims()?.iter().map(|&size| size as i64).collect();
                logits.reshape(&shape).mse_loss(labels)
            }
            "multi_label_classification" => logits.bce_with_logits(labels),
            _ => logits.task_cross_entropy(labels)?,
        })
    }

    fn encode(&self, cx: Cx<'_>, row: &Json, options: &Json) -> Result<Json> {
        let texts = cx.call("text_columns", std::slice::from_ref(row))?;
        let [text, pair] = texts.list() else { return Err(Error::new("a row has a text, and perhaps a second one")) };
        let cut = Json::map([
            ("text_pair", pair.clone()),
            ("truncation", true.into()),
            ("max_length", options.get("max_length").clone()),
        ]);
        let encoding = cx.call("encode", &[cx.tokenizer(), text.clone(), cut])?;
        let mut features = cx.call("to_map", std::slice::from_ref(&encoding))?;
        features.set("truncated", cx.call(".truncated", &[encoding])?);
        let label = cx.call("encode_label", &[row.clone(), options.clone()])?;
        if !label.is_null() {
            features.set("labels", label);
        }
        Ok(features)
    }

    fn collate(&self, cx: Cx<'_>, options: &Json) -> Result<()> {
        cx.call("with_class_weights", &[cx.batch(), options.get("class_weights").clone()]).map(drop)
    }

    fn decode(&self, cx: Cx<'_>, options: &Json) -> Result<Json> {
        let (logits, names) = (cx.input("logits"), options.get("label_names"));
        let usual = match options.get("problem_type").as_str() {
            Some("regression") => "none",
            Some("multi_label_classification") => "sigmoid",
            _ if names.list().len() == 1 => "sigmoid",
            _ => "softmax",
        };
        let scores = match options.get("function_to_apply").as_str().unwrap_or(usual) {
            "softmax" => logits.softmax(-1),
            "sigmoid" => logits.sigmoid(),
            "none" => logits,
            other => {
                return Err(Error::new(format!("`function_to_apply` is softmax, sigmoid or none, not {other}")));
            }
        };
        cx.call("best_labels", &[scores.into(), names.clone(), options.get("top_k").clone()])
    }

    fn metrics(&self, cx: Cx<'_>, predictions: &Json, references: &Json, _: &Json) -> Result<Json> {
        let (first, both) = (&predictions.list()[0], |values: Json| [values, references.clone()]);
        if matches!(references.list().first(), Some(Json::List(_))) {
            // A score above 0 is a probability above one half.
            let above = Json::map([("threshold", Json::Float(0.0))]);
            let f1 = cx.call("multi_label_f1", &[predictions.clone(), references.clone(), above])?;
            return Ok(Json::map([("f1", f1)]));
        }
        if first.list().len() == 1 {
            let values = Json::List(predictions.list().iter().map(|scores| scores.list()[0].clone()).collect());
            let named =
                ["mse", "pearson", "spearman"].map(|metric| Ok((metric, cx.call(metric, &both(values.clone()))?)));
            return Ok(Json::map(named.into_iter().collect::<Result<Vec<_>>>()?));
        }
        let classes = cx.call("argmax", std::slice::from_ref(predictions))?;
        let average = Json::map([("average", "macro".into())]);
        let scores = cx.call("precision_recall_f1", &[classes.clone(), references.clone(), average])?;
        let accuracy = cx.call("accuracy", &both(classes))?;
        Ok(Json::map([("accuracy", accuracy), ("f1", scores.get("f1").clone())]))
    }
}

impl Sentiment {
    /// As Hugging Face decides where the configuration does not say: one label is a number, whole labels are classes.
    fn problem_type(&self, labels: Tensor<'_>) -> Result<&str> {
        Ok(match &self.problem_type {
            Some(named) => named,
            None if self.n_labels == 1 => "regression",
            None if labels.is_int()? && labels.rank()? == 1 => "single_label_classification",
            None => "multi_label_classification",
        })
    }
}

export_heads!(Sentiment);
