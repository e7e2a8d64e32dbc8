//! Weights in files of other programs, which are refused: what they are, and how they become safetensors.

/// A file of weights that is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignWeights<'a> {
    /// The file's name.
    pub file: &'a str,
    /// Whose file it is: `PyTorch weights`, ...
    pub kind: &'static str,
    /// Why it is refused, and how to convert it.
    pub hint: &'static str,
}

const PICKLE: &str = "it is a pickle, which runs code when it is read, and is refused; convert it once with transformers: \
                      `AutoModel.from_pretrained(DIR).save_pretrained(DIR)` writes safetensors";
const TENSORFLOW: &str =
    "convert it once with transformers: `AutoModel.from_pretrained(DIR, from_tf=True).save_pretrained(DIR)`";
const FLAX: &str =
    "convert it once with transformers: `AutoModel.from_pretrained(DIR, from_flax=True).save_pretrained(DIR)`";
const OTHER: &str = "save the model as safetensors where it was made";

/// Endings of such files, those that Hugging Face's own names have first.
const KINDS: [(&str, &str, &str); 8] = [
    ("pytorch_model.bin", "PyTorch weights", PICKLE),
    (".h5", "TensorFlow weights", TENSORFLOW),
    (".msgpack", "Flax weights", FLAX),
    (".bin", "PyTorch weights", PICKLE),
    (".pt", "PyTorch weights", PICKLE),
    (".pth", "PyTorch weights", PICKLE),
    (".ckpt", "PyTorch weights", PICKLE),
    (".onnx", "ONNX weights", OTHER),
];

/// The first file of such weights among the names of a folder or a repository.
pub fn find<'a>(files: impl IntoIterator<Item = &'a String>) -> Option<ForeignWeights<'a>> {
    // What a trainer leaves beside the weights is a pickle too, and no weights.
    let files: Vec<&String> = files.into_iter().filter(|file| !file.ends_with("training_args.bin")).collect();
    KINDS.iter().find_map(|(ending, kind, hint)| {
        let file = files.iter().find(|file| file.ends_with(ending))?;
        Some(ForeignWeights { file, kind, hint })
    })
}
