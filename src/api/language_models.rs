//! What the tasks of language models do with tokens: hide them, count right guesses, fill in masks; and their perplexity.

use candle_core::Tensor;
use rhai::plugin::*;
use rhai::{Array, INT, Map};

use crate::api::options::Options;
use crate::batch::Batch;
use crate::error::{Error, Result, What};
use crate::head::script::convert::{ScriptResult, raise, type_name};
use crate::head::{fill_mask, generation, masking::Masking};
use crate::metrics::perplexity::{self as measure, TokenTally};
use crate::tokenizer::Tokenizer;

/// Makes the functions known to an engine.
pub(crate) fn register(engine: &mut rhai::Engine) {
    engine.register_global_module(exported_module!(language_models).into());
}

#[export_module]
mod language_models {
    /// The same batch with tokens hidden and `labels` that hold what was hidden (-100 elsewhere), as `DataCollatorForLanguageModeling` does it.
    ///
    /// `options` is what a task's `collate` is given: `mlm_probability` of each token to be chosen, and of the chosen ones the shares
    /// `mask_replace_prob` that become the mask and `random_replace_prob` that become any token. Special tokens are never
    /// chosen. While training, the choice depends on the seed, the step, the row and the position; in evaluation on the
    /// row's own tokens, so that it is the same for every run.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [2, 50, 60, 70, 3] }]);
    /// let options = #{
    ///     mlm_probability: 1.0, mask_replace_prob: 1.0, random_replace_prob: 0.0,
    ///     mask_token_id: 4, vocab_size: 100, special_token_ids: [0, 1, 2, 3, 4],
    /// };
    /// let masked = batch.mask_tokens(options);
    /// expect(masked.input_ids.to_array() == [2, 4, 4, 4, 3], "all but the special tokens");
    /// expect(masked.labels.to_array() == [-100, 50, 60, 70, -100], "what was there");
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn mask_tokens(batch: &mut Batch, options: Map) -> ScriptResult<Batch> {
        masking(&options).and_then(|masking| masking.apply(batch)).map_err(raise)
    }

    /// For each row how many labels are the token with the best score, and how many there are, as `[right, asked]`; -100 is no label.
    ///
    /// `logits` has the shape `(tokens, vocabulary)`, `labels` `(tokens)`. It is what `reduce` of a language model's task returns.
    ///
    /// ```rhai
    /// let batch = Batch::of([#{ input_ids: [1, 0] }, #{ input_ids: [1] }]);
    /// let logits = Tensor::from_array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]);
    /// let labels = Tensor::from_array([1, -100, 1]);
    /// expect(token_tally(logits, labels, batch) == [[1, 1], [0, 1]], "one of one, none of one");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn token_tally(logits: Tensor, labels: Tensor, batch: Batch) -> ScriptResult<Array> {
        let tallies = measure::tally(&logits, &labels, &batch.starts).map_err(raise)?;
        let pair = |tally: TokenTally| vec![Dynamic::from(tally.right as INT), Dynamic::from(tally.asked as INT)];
        Ok(tallies.into_iter().map(|tally| Dynamic::from_array(pair(tally))).collect())
    }

    /// The share of right guesses in what `token_tally` counted; `()` where nothing was asked.
    ///
    /// ```rhai
    /// expect(token_accuracy([[1, 2], [2, 2]]) == 0.75, "three of four");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn token_accuracy(tallies: Array) -> ScriptResult<Dynamic> {
        let sum = tallies.iter().try_fold(TokenTally::default(), |sum, one| Ok::<_, Error>(sum.plus(tally_of(one)?)));
        Ok(sum.map_err(raise)?.accuracy().map_or(Dynamic::UNIT, Dynamic::from))
    }

    /// The perplexity of a mean loss a token, as run_clm computes it of `eval_loss`: its exponential.
    ///
    /// ```rhai
    /// expect(perplexity(0.0) == 1.0, "nothing surprises");
    /// expect((perplexity(4.0) - 54.598).abs() < 0.001, "as if 55 tokens were equally likely");
    /// ```
    pub fn perplexity(mean_loss: f64) -> f64 {
        measure::perplexity(mean_loss)
    }

    /// For each row the likeliest tokens for its mask, or one such list for each mask where there are several, as Hugging Face's fill-mask pipeline has them.
    ///
    /// Each is a map `#{ score, token, token_str, sequence }`. `logits` has the shape `(tokens, vocabulary)`. Options: `top_k` (5), and
    /// `targets`, a word or an array of words that alone are looked at. A row without a mask is an error.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("std/minilm-tiny");
    /// let model = AutoModelForMaskedLM::from_pretrained("std/minilm-tiny");
    /// let batch = Batch::of([tokenizer.encode("a [MASK] film").to_map()]);
    /// let filled = fill_masks(model.forward(batch).logits, batch, tokenizer, #{ targets: ["fine", "dull"] });
    /// expect(filled[0].len == 2 && filled[0][0].score >= filled[0][1].score, "two words, the likelier first");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn fill_masks(logits: Tensor, batch: Batch, tokenizer: Dynamic, options: Map) -> ScriptResult<Array> {
        fill(&logits, &batch, &tokenizer, options).map_err(raise)
    }

    /// The options of `model.generate` and of the pipeline `text-generation`, each with `()`: for `options` of a task that generates.
    ///
    /// ```rhai
    /// expect("max_new_tokens" in generation_options(), "Hugging Face's names");
    /// ```
    pub fn generation_options() -> Map {
        let names = generation::KEYS.into_iter().chain(["stop_sequence"]);
        names.map(|name| (name.into(), Dynamic::UNIT)).collect()
    }
}

fn masking(options: &Map) -> Result<Masking> {
    let given = |name: &str| options.get(name).cloned().unwrap_or(Dynamic::UNIT);
    let wrong = |name: &str, wanted: &str, got: &Dynamic| -> Error {
        let name = format!("`{name}` of `mask_tokens`");
        What::WrongType { name, wanted: wanted.into(), got: type_name(got) }.into()
    };
    let number = |name: &str| {
        let value = given(name);
        let number = value.as_float().or_else(|_| value.as_int().map(|whole| whole as f64));
        number.map_err(|_| wrong(name, "a number", &value))
    };
    let id = |name: &str, value: &Dynamic| {
        let id = value.as_int().ok().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| wrong(name, "a whole number from 0", value))
    };
    let mask = given("mask_token_id");
    if mask.is_unit() {
        return Err(Error::new(What::Conflict("there is no mask token to hide tokens behind".into())).hint(
            "give the Trainer `processing_class: tokenizer`, one that has a mask token; rows that have `labels` need none",
        ));
    }
    let special = given("special_token_ids").into_array().unwrap_or_default();
    let special = special.iter().map(|value| id("special_token_ids", value));
    let mut special_token_ids = special.collect::<Result<Vec<_>>>()?;
    special_token_ids.sort_unstable();
    Ok(Masking {
        mlm_probability: number("mlm_probability")?,
        mask_replace_prob: number("mask_replace_prob")?,
        random_replace_prob: number("random_replace_prob")?,
        mask_token_id: id("mask_token_id", &mask)?,
        vocab_size: id("vocab_size", &given("vocab_size"))?,
        special_token_ids,
    })
}

fn tally_of(value: &Dynamic) -> Result<TokenTally> {
    let wrong = || {
        let (name, got) = ("what `token_accuracy` is given".into(), type_name(value));
        What::WrongType { name, wanted: "an array of `[right, asked]`".into(), got }
    };
    let count = |value: &Dynamic| value.as_int().ok().and_then(|count| u64::try_from(count).ok()).ok_or_else(wrong);
    match value.as_array_ref().as_deref().map(Vec::as_slice) {
        Ok([right, asked]) => Ok(TokenTally { right: count(right)?, asked: count(asked)? }),
        _ => Err(wrong().into()),
    }
}

fn fill(logits: &Tensor, batch: &Batch, tokenizer: &Dynamic, options: Map) -> Result<Array> {
    let Some(tokenizer) = tokenizer.clone().try_cast::<Tokenizer>() else {
        let (name, got) = ("the tokenizer of `fill_masks`".into(), type_name(tokenizer));
        return Err(What::WrongType { name, wanted: "a tokenizer".into(), got }.into());
    };
    let mut options = Options::new("`fill_masks`", options);
    let top_k = options.count("top_k", 1)?.unwrap_or(5);
    let targets = match options.take("targets") {
        None => None,
        Some(value) => Some(fill_mask::target_ids(&words(&value)?, &tokenizer)?),
    };
    options.finish()?;
    let one = |filled: fill_mask::Filled| {
        let entries: [(&str, Dynamic); 4] = [
            ("score", Dynamic::from(filled.score)),
            ("token", Dynamic::from(INT::from(filled.token))),
            ("token_str", Dynamic::from(filled.token_str)),
            ("sequence", Dynamic::from(filled.sequence)),
        ];
        Dynamic::from_map(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
    };
    let list = |filled: Vec<fill_mask::Filled>| Dynamic::from_array(filled.into_iter().map(one).collect());
    let rows = fill_mask::fill_masks(logits, batch, &tokenizer, top_k, targets.as_deref())?;
    let row = |mut masks: Vec<Vec<fill_mask::Filled>>| match masks.len() {
        1 => masks.pop().map_or(Dynamic::UNIT, list),
        _ => Dynamic::from_array(masks.into_iter().map(list).collect()),
    };
    Ok(rows.into_iter().map(row).collect())
}

/// One word, or several.
fn words(value: &Dynamic) -> Result<Vec<String>> {
    let word = |value: &Dynamic| {
        let wanted = "a text, or an array of texts".into();
        let wrong = |_| What::WrongType { name: "`targets`".into(), wanted, got: type_name(value) };
        Ok(value.clone().into_string().map_err(wrong)?)
    };
    match value.as_array_ref() {
        Ok(several) => several.iter().map(word).collect(),
        Err(_) => Ok(vec![word(value)?]),
    }
}
