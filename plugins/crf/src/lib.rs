//! `plugin:crf`: token classification with a linear-chain conditional random field (Lafferty, McCallum, Pereira 2001).
//!
//! A linear layer scores each label at each token, as `std/tasks/ner` does; a matrix scores each step from a label to the next.
//! The loss is the negative log-likelihood of the right sequence, a native operation with its own gradient; predictions are the
//! most likely sequences. A chain is a row's first pieces of words: other tokens take no part.
//!
//! - [`chain`]: one chain: its likelihood, marginals and best sequence
//! - [`loss`]: the loss over the chains of a batch, for autograd

pub mod chain;
pub mod loss;

use chain::{Scores, best, marginals};
use loss::{Chain, NegativeLogLikelihood};
use retune_plugin_sdk::{
    Cx, Error, Function, Init, Json, Linear, Outputs, Param, Result, TaskHead, Tensor, export_heads,
};

/// The head: a linear layer over each token, scores of steps between labels, and of the labels at both ends.
pub struct Crf {
    dropout: f64,
    n_labels: usize,
    classifier: Linear,
    transitions: Param,
    boundaries: Param,
}

/// The column that says of each token whether a word begins there.
const WORD_START: &str = "word_start";

impl TaskHead for Crf {
    const NAME: &'static str = "crf";
    const OPTIONS: &'static str = r#"{
        "text_column_name": null, "label_column_name": null, "return_entity_level_metrics": false,
        "mode": "default", "scheme": null, "suffix": false,
        "aggregation_strategy": "none", "ignore_labels": ["O"], "stride": null,
        "is_split_into_words": false, "delimiter": " "
    }"#;
    const FUNCTIONS: &'static [Function] =
        &[Function::Encode, Function::Decode, Function::Merge, Function::Reduce, Function::Metrics];

    fn create(cx: Cx<'_>, config: &Json) -> Result<Self> {
        let (hidden, n_labels) = (config.count("hidden_size")?, config.count("num_labels")?);
        Ok(Crf {
            dropout: config.number("head_dropout")?,
            n_labels,
            classifier: Linear::new(cx, "classifier", hidden, n_labels),
            transitions: Param::new(cx, "crf.transitions", &[n_labels, n_labels], Init::Zeros),
            boundaries: Param::new(cx, "crf.boundaries", &[2, n_labels], Init::Zeros),
        })
    }

    fn forward<'c>(&self, _: Cx<'c>, hidden: Tensor<'c>) -> Result<Outputs<'c>> {
        Ok(self.classifier.forward(hidden.dropout(self.dropout)).into()) // (tokens, labels)
    }

    fn loss<'c>(&self, cx: Cx<'c>) -> Result<Tensor<'c>> {
        if cx.input("label_smoothing").item()? != 0.0 {
            return Err(Error::new("a CRF has no label smoothing: leave `label_smoothing_factor` out"));
        }
        let labels = cx.input("labels").to_ints()?;
        let chains = rows(cx)?.into_iter().map(|tokens| {
            let tokens: Vec<usize> =
                tokens.filter(|&token| labels.get(token).is_some_and(|&label| label >= 0)).collect();
            let tags: Vec<usize> = tokens.iter().map(|&token| labels[token] as usize).collect();
            Chain { tokens, tags }
        });
        let op = NegativeLogLikelihood::new(chains.collect(), self.n_labels)?;
        Ok(cx.custom(op, &[cx.input("logits"), self.transitions.value(cx), self.boundaries.value(cx)], &[]))
    }

    fn encode(&self, cx: Cx<'_>, row: &Json, options: &Json) -> Result<Json> {
        let words = cx.call("words_column", &[row.clone(), options.clone()])?;
        let predicting = options.get("predicting").is_true();
        let mut cut = Json::map([("truncation", true.into()), ("max_length", options.get("max_length").clone())]);
        if predicting && !options.get("stride").is_null() {
            cut.set("stride", options.get("stride"));
            cut.set("return_overflowing_tokens", true);
        }
        let encoding = cx.call("encode", &[cx.tokenizer(), words.clone(), cut])?;
        let mut windows = vec![encoding.clone()];
        if predicting {
            windows.extend_from_slice(cx.call(".overflowing", std::slice::from_ref(&encoding))?.list());
        }
        let mut rows = Vec::new();
        for window in windows {
            let word_ids = cx.call(".word_ids", std::slice::from_ref(&window))?;
            if word_ids.list().is_empty() {
                continue; // words that become no tokens at all
            }
            let mut features = match predicting {
                true => cx.call("token_features", &[window, words.clone(), options.clone()])?,
                false => labelled(cx, &window, row, options)?,
            };
            features.set(WORD_START, word_starts(word_ids.list()));
            rows.push(features);
        }
        Ok(Json::List(rows))
    }

    fn decode(&self, cx: Cx<'_>, options: &Json) -> Result<Json> {
        let logits = self.decided(cx, options.get("label_names").list())?;
        cx.call("token_entities", &[logits.into(), cx.batch(), cx.tokenizer(), options.clone()])
    }

    fn merge(&self, cx: Cx<'_>, results: &Json, _: &Json, _: &Json) -> Result<Json> {
        cx.call("join_windows", std::slice::from_ref(results))
    }

    fn reduce(&self, cx: Cx<'_>, _: &Json) -> Result<Json> {
        let (emissions, scores) = self.scores(cx)?;
        let row = |tokens: std::ops::Range<usize>, chain: Vec<usize>| {
            let mut labels = vec![0; tokens.len()];
            let found = best(&gathered(&emissions, &chain, self.n_labels), &scores);
            chain.iter().zip(found).for_each(|(token, label)| labels[token - tokens.start] = label);
            Json::from(labels)
        };
        let chains = self.chains(cx)?;
        Ok(Json::List(rows(cx)?.into_iter().zip(chains).map(|(tokens, chain)| row(tokens, chain)).collect()))
    }

    fn metrics(&self, cx: Cx<'_>, predictions: &Json, references: &Json, options: &Json) -> Result<Json> {
        let keys = ["label_names", "mode", "scheme", "suffix"];
        let counting = Json::map(keys.map(|key| (key, options.get(key).clone())));
        let scores = cx.call("seqeval", &[predictions.clone(), references.clone(), counting])?;
        let overall = ["precision", "recall", "f1", "accuracy"];
        let mut metrics = Json::map(overall.map(|key| (key, scores.get(&format!("overall_{key}")).clone())));
        if let (true, Json::Map(scores)) = (options.get("return_entity_level_metrics").is_true(), &scores) {
            for (name, parts) in scores.iter().filter(|(_, parts)| matches!(parts, Json::Map(_))) {
                for key in ["precision", "recall", "f1", "number"] {
                    metrics.set(&format!("{name}_{key}"), parts.get(key));
                }
            }
        }
        Ok(metrics)
    }
}

impl Crf {
    /// The logits `(tokens, labels)`, row by row, and the scores of steps and ends.
    fn scores(&self, cx: Cx<'_>) -> Result<(Vec<f32>, Scores)> {
        let (transitions, boundaries) =
            (self.transitions.value(cx).to_floats()?, self.boundaries.value(cx).to_floats()?);
        Ok((cx.input("logits").to_floats()?, Scores::new(&transitions, &boundaries, self.n_labels)))
    }

    /// The tokens of each row's chain: where words begin, else where there are labels, else all.
    fn chains(&self, cx: Cx<'_>) -> Result<Vec<Vec<usize>>> {
        let marks = match cx.optional_input(WORD_START) {
            Some(starts) => Some(starts.to_ints()?.into_iter().map(|start| start > 0).collect::<Vec<_>>()),
            None => match cx.optional_input("labels") {
                Some(labels) => Some(labels.to_ints()?.into_iter().map(|label| label >= 0).collect()),
                None => None,
            },
        };
        let is_in = |token: &usize| marks.as_ref().is_none_or(|marks| marks.get(*token).copied().unwrap_or(false));
        Ok(rows(cx)?.into_iter().map(|tokens| tokens.filter(is_in).collect()).collect())
    }

    /// Logits from which a pipeline reads the best sequence: the logarithms of each label's probability in its chain, the label
    /// of the best sequence on top. The other pieces of a word go on with its label.
    fn decided<'c>(&self, cx: Cx<'c>, names: &[Json]) -> Result<Tensor<'c>> {
        let (mut logits, scores) = self.scores(cx)?;
        let n = self.n_labels;
        for (tokens, chain) in rows(cx)?.into_iter().zip(self.chains(cx)?) {
            let emissions = gathered(&logits, &chain, n);
            let labels = best(&emissions, &scores);
            let probabilities = marginals(&emissions, &scores);
            let mut word = None;
            for token in tokens {
                let here = &mut logits[token * n..(token + 1) * n];
                if let Some(place) = chain.iter().position(|&other| other == token) {
                    let own: Vec<f32> =
                        probabilities[place * n..(place + 1) * n].iter().map(|p| p.ln().max(-80.0) as f32).collect();
                    here.copy_from_slice(&own);
                    let top = own
                        .iter()
                        .copied()
                        .enumerate()
                        .max_by(|a, b| a.1.total_cmp(&b.1))
                        .map_or(0, |(label, _)| label);
                    here.swap(labels[place], top);
                    word = Some((here.to_vec(), labels[place]));
                } else if let Some((first, label)) = &word {
                    here.copy_from_slice(first);
                    if let Some(inside) = inside_of(names, *label) {
                        here.swap(*label, inside);
                    }
                }
            }
        }
        let n_tokens = logits.len() / n.max(1);
        Ok(cx.floats(&logits, &[n_tokens, n]))
    }
}

/// The tokens of each row.
fn rows(cx: Cx<'_>) -> Result<Vec<std::ops::Range<usize>>> {
    let (starts, lengths) = (cx.input("starts").to_ints()?, cx.input("lengths").to_ints()?);
    Ok(starts.iter().zip(lengths).map(|(&start, length)| start as usize..(start + length) as usize).collect())
}

/// The scores of a chain's tokens, in f64.
fn gathered(emissions: &[f32], tokens: &[usize], n_labels: usize) -> Vec<f64> {
    tokens
        .iter()
        .flat_map(|&token| &emissions[token * n_labels..(token + 1) * n_labels])
        .map(|&x| f64::from(x))
        .collect()
}

fn labelled(cx: Cx<'_>, encoding: &Json, row: &Json, options: &Json) -> Result<Json> {
    let mut features = cx.call("to_map", std::slice::from_ref(encoding))?;
    features.set("truncated", cx.call(".truncated", std::slice::from_ref(encoding))?);
    let labels = cx.call("word_labels", &[row.clone(), options.clone()])?;
    if !labels.is_null() {
        features.set("labels", cx.call("align_labels", &[encoding.clone(), labels, options.clone()])?);
    }
    Ok(features)
}

/// 1 for each token that begins a word, else 0.
fn word_starts(word_ids: &[Json]) -> Json {
    let mut before = &Json::Null;
    let starts = word_ids.iter().map(|word| {
        let begins = !word.is_null() && word != before;
        before = word;
        i64::from(begins)
    });
    Json::from(starts.collect::<Vec<_>>())
}

/// The label `I-X` of a label `B-X`, where there is one.
fn inside_of(names: &[Json], label: usize) -> Option<usize> {
    let kind = names.get(label)?.as_str()?.strip_prefix("B-")?;
    let inside = format!("I-{kind}");
    names.iter().position(|name| name.as_str() == Some(&inside))
}

export_heads!(Crf);
