//! What Hugging Face's guides call that has another name, another form, or no counterpart here: what to write instead.
//!
//! A name flows in that a script used and nobody knows; a sentence flows out.

/// What to write in place of a function.
pub(crate) fn function(name: &str) -> Option<&'static str> {
    Some(match name {
        "flatten_indices" | "set_format" | "with_format" | "reset_format" => {
            "leave it out: rows are used as they are, without formats or index mappings"
        }
        "cast_column" | "cast" | "class_encode_column" => {
            "leave it out: types are found in the data, and names of classes become numbers while training"
        }
        "save_to_disk" | "load_from_disk" | "to_csv" | "to_parquet" => {
            "a data set is made anew by each run: `load_dataset` reads JSON Lines, CSV, Parquet, CoNLL and SQuAD files"
        }
        "DataCollatorWithPadding"
        | "DataCollatorForTokenClassification"
        | "DefaultDataCollator"
        | "default_data_collator" => {
            "leave it and `data_collator` out: batches are packed without padding, so there is nothing to collate"
        }
        "DataCollatorForLanguageModeling" => {
            "leave it and `data_collator` out: the model's task hides tokens itself; `task_options: #{ mlm_probability: 0.15 }` of `Trainer` sets how many"
        }
        "load_metric" => "metrics are functions: `accuracy(predictions, references)`, `seqeval(...)`, `squad(...)`",
        "DatasetDict" => "a map of data sets is one: `#{ train: ds, validation: other }`",
        "to" | "cuda" | "cpu" | "half" | "compile" => {
            "leave it out: the model is where `--device` says, and `bf16` of the arguments chooses the precision"
        }
        "parameters" => {
            "the model itself stands for its parameters: `AdamW(model, #{ lr: 5e-5 })`; `model.parameter_names()` lists them"
        }
        "named_parameters" | "state_dict" => {
            "`model.parameter_names()` lists the names, `model.parameter(name)` gives a value"
        }
        "push_to_hub" | "create_model_card" => {
            "save with `trainer.save_model(dir)`, and upload the folder with the hub's own tools"
        }
        "Accelerator" | "prepare" => {
            "leave it out: there is nothing to prepare, and `loss.backward()` is the whole of it"
        }
        "resize_token_embeddings" | "add_tokens" | "add_special_tokens" => {
            "the vocabulary is that of the pretrained model"
        }
        "sorted" => "`array.sort()` sorts an array in place, `ds.sort(column)` the rows of a data set",
        "enumerate" => "write `for (item, index) in array`",
        "tqdm" => "go through the loader itself: `for batch in loader`",
        "__call__" => "write `.encode(...)` of a tokenizer, `.predict(...)` of a pipeline, `.forward(...)` of a model",
        "get_linear_schedule_with_warmup" | "get_cosine_schedule_with_warmup" => {
            "write `get_scheduler(\"linear\", #{ optimizer: optimizer, num_warmup_steps: 0, num_training_steps: 100 })`"
        }
        "SGD" | "Adam" | "Adafactor" => "the optimizer is `AdamW(model, #{ lr: 5e-5 })`",
        "topk" => "`argmax(x, -1)` gives the best place, `best_labels(scores, names, k)` the best labels",
        "tolist" | "numpy" => "write `.to_array()`",
        "view" => "write `.reshape(...)`",
        "items" => "`for key in map.keys()` goes through a map, and `map[key]` is the value",
        "tokens" | "word_ids" | "input_ids" | "attention_mask" => "it is a property: leave the brackets out",
        "to_pandas" | "to_dict" | "to_list" => {
            "`for row in ds` goes through the rows, `ds.column(name)` gives a column"
        }
        "getLogger" | "get_logger" => "`print(...)` writes a line",
        _ => return None,
    })
}

/// What to write in place of something in a namespace that is not there.
pub(crate) fn namespace(name: &str) -> Option<&'static str> {
    Some(match name {
        "torch" | "np" | "numpy" | "F" | "nn" => {
            "its functions stand by themselves or belong to a value: `Tensor::from_array(...)`, `x.softmax(-1)`, `cross_entropy(...)`, `no_grad(|| ...)`"
        }
        "evaluate" | "metric" => {
            "metrics are functions: `accuracy(predictions, references)`, `precision_recall_f1(...)`, `seqeval(...)`, `squad(...)`"
        }
        "AutoModel" | "BertModel" | "RobertaModel" | "DistilBertModel" | "ElectraModel" | "GPT2Model"
        | "XLMRobertaModel" => {
            "a model has a head here: `AutoModelForSequenceClassification`, ..., or one of your own with `AutoModelForTask::from_pretrained(name, \"task.rhai\")`"
        }
        "AutoModelForSeq2SeqLM"
        | "AutoModelForMultipleChoice"
        | "AutoModelForPreTraining"
        | "AutoModelForNextSentencePrediction" => {
            "there are `AutoModelForSequenceClassification`, `...ForTokenClassification`, `...ForQuestionAnswering`, `...ForCausalLM` and `...ForMaskedLM`; a head of your own is a task script for `AutoModelForTask`"
        }
        "AutoModelWithLMHead" => "write `AutoModelForCausalLM` or `AutoModelForMaskedLM`",
        "transformers" | "datasets" => "leave it out: everything is there without an import",
        "DatasetDict" => "a map of data sets is one: `#{ train: ds, validation: other }`",
        _ => return None,
    })
}
