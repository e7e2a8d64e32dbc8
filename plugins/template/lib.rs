//! `plugin:{{name}}`: sequence classification with the focal loss (Lin et al. 2017), which looks away from what is easy.
//!
//! The head is a linear layer on each row's first token. The loss is an operation of its own with a gradient of its own; delete
//! it and write `logits.cross_entropy(labels)` for the usual one.

use retune_plugin_sdk::{Cx, CustomOp, Dropout, Function, Json, Linear, Outputs, Result, TaskHead, Tensor, View, export_heads};

struct Head {
    dropout: Dropout,
    classifier: Linear,
}

impl TaskHead for Head {
    const NAME: &'static str = "{{name}}";
    const OPTIONS: &'static str = r#"{"top_k": null}"#;
    const FUNCTIONS: &'static [Function] = &[Function::Encode, Function::Decode, Function::Metrics];

    fn create(cx: Cx<'_>, config: &Json) -> Result<Self> {
        let (hidden, labels) = (config.count("hidden_size")?, config.count("num_labels")?);
        Ok(Head { dropout: Dropout::of(config, "head_dropout")?, classifier: Linear::new(cx, "classifier", hidden, labels) })
    }

    fn forward<'c>(&self, _: Cx<'c>, hidden: Tensor<'c>) -> Result<Outputs<'c>> {
        Ok(self.classifier.forward(self.dropout.forward(hidden.first())).into()) // (rows, labels)
    }

    fn loss<'c>(&self, cx: Cx<'c>) -> Result<Tensor<'c>> {
        let labels = cx.input("labels").to_ints()?;
        Ok(cx.custom(Focal { gamma: 2.0, labels }, &[cx.input("logits")], &[]))
    }

    fn encode(&self, cx: Cx<'_>, row: &Json, options: &Json) -> Result<Json> {
        let texts = cx.call("text_columns", &[row.clone()])?;
        let cut = Json::map([("truncation", true.into()), ("max_length", options.get("max_length").into())]);
        let encoding = cx.call("encode", &[cx.tokenizer(), texts.list()[0].clone(), cut])?;
        let mut features = cx.call("to_map", &[encoding])?;
        let label = cx.call("encode_label", &[row.clone(), options.clone()])?;
        if !label.is_null() {
            features.set("labels", label);
        }
        Ok(features)
    }

    fn decode(&self, cx: Cx<'_>, options: &Json) -> Result<Json> {
        let scores = cx.input("logits").softmax(-1);
        cx.call("best_labels", &[scores.into(), options.get("label_names").clone(), options.get("top_k").clone()])
    }

    fn metrics(&self, cx: Cx<'_>, predictions: &Json, references: &Json, _: &Json) -> Result<Json> {
        let classes = cx.call("argmax", &[predictions.clone()])?;
        Ok(Json::map([("accuracy", cx.call("accuracy", &[classes, references.clone()])?)]))
    }
}

/// The mean of `-(1 - p)^gamma ln p`, where `p` is the probability of the right label.
struct Focal {
    gamma: f32,
    labels: Vec<i64>,
}

impl Focal {
    /// The probabilities of a row, and the right one.
    fn row(&self, logits: &View<'_>, row: usize) -> (Vec<f32>, usize) {
        let n = logits.dims[1];
        let logits = &logits.data[row * n..(row + 1) * n];
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exp: Vec<f32> = logits.iter().map(|x| (x - max).exp()).collect();
        let sum: f32 = exp.iter().sum();
        (exp.into_iter().map(|x| x / sum).collect(), self.labels[row] as usize)
    }
}

impl CustomOp for Focal {
    fn forward(&self, inputs: &[View<'_>], output: &mut [f32]) -> Result<()> {
        let rows = inputs[0].dims[0];
        for row in 0..rows {
            let (p, label) = self.row(&inputs[0], row);
            output[0] -= (1.0 - p[label]).powf(self.gamma) * p[label].ln() / rows as f32;
        }
        Ok(())
    }

    fn backward(&self, inputs: &[View<'_>], _: &[f32], gradient: &[f32], gradients: &mut [&mut [f32]]) -> Result<()> {
        let (rows, n) = (inputs[0].dims[0], inputs[0].dims[1]);
        for row in 0..rows {
            let (p, label) = self.row(&inputs[0], row);
            let right = p[label];
            // The slope of the loss of a row in the probability of its right label.
            let slope = self.gamma * (1.0 - right).powf(self.gamma - 1.0) * right.ln() - (1.0 - right).powf(self.gamma) / right;
            for (other, p) in p.iter().enumerate() {
                let change = right * (if other == label { 1.0 } else { 0.0 } - p);
                gradients[0][row * n + other] = gradient[0] * slope * change / rows as f32;
            }
        }
        Ok(())
    }
}

export_heads!(Head);

#[cfg(test)]
mod tests {
    use super::*;
    use retune_plugin_sdk::testing::gradient_error;

    #[test]
    fn the_gradient_of_the_loss_is_right() {
        let logits = [0.3, -0.8, 1.1, 0.0, 0.4, -0.2];
        let op = Focal { gamma: 2.0, labels: vec![2, 0] };
        let error = gradient_error(&op, &[View { data: &logits, dims: &[2, 3] }], 1).unwrap();
        assert!(error < 2e-3, "{error}");
    }

    #[test]
    fn without_gamma_it_is_the_cross_entropy() {
        let op = Focal { gamma: 0.0, labels: vec![1] };
        let mut loss = [0.0];
        op.forward(&[View { data: &[0.0, 0.0], dims: &[1, 2] }], &mut loss).unwrap();
        assert!((loss[0] - 2.0f32.ln()).abs() < 1e-6, "{loss:?}");
    }
}
