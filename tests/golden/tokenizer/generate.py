"""Writes cases.json: what Hugging Face's transformers makes of difficult texts.

    python -m venv venv && venv/bin/pip install tokenizers==0.23.3 transformers==5.23.0
    venv/bin/python tests/golden/tokenizer/generate.py

Texts, pairs, split words, truncation and windows, with the embedded WordPiece tokenizer and two small byte-level
BPE tokenizers (trained for this project on its own reviews). `config` cases check what saving writes.
"""

import json
import tempfile
from pathlib import Path

from transformers import AutoTokenizer, RobertaTokenizer

here = Path(__file__).parent
root = here.parents[2]
folders = {"minilm-tiny": root / "stdlib/minilm-tiny", "gpt2": here / "gpt2", "roberta": here / "roberta"}

TEXTS = [
    "A fine movie, really!",
    "",
    " ",
    "  leading and   inner spaces  ",
    "Crème brûlée à la façon d'Été",
    "Cre\u0300me bru\u0302le\u0301e",
    "I\u0307stanbul ǅungla ﬁnal ẞ",
    "这部电影很好看 ok",
    "東京タワー は 高い",
    "한국어 영화",
    "so good 😀👍🏽👨‍👩‍👧 indeed",
    "tab\tnewline\nreturn\r\nnull\x00bell\x07zero\u200bwidth\ufeff",
    "non\u00a0breaking\u3000ideographic\u2028separator",
    "x" * 150 + " after a very long word",
    "supercalifragilisticexpialidocious " * 3,
    "don't can't I'll we've $3.50 50% (a-b) [c] {d} e@f.gh",
    "The [MASK] was [SEP] good [CLS] [UNK]",
    "<s>inside</s> <mask> <|endoftext|> end",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "\U0001d54f\U0001d556 math",
    "1234567890 3,000.00",
]
LONG = " ".join(["The plot is thin but the actors carry it with charm and wit"] * 3)
QUESTION = "What carries the film?"
WORDS = [
    ["A", "fine", "movie", "!"],
    ["Crème", "brûlée", "", "😀", "supercalifragilistic"],
    ["don't", " spaced ", "这部", "a b"],
    [],
    [""],
]
cases = []


def window(encoding):
    return {
        "ids": encoding.ids,
        "type_ids": encoding.type_ids,
        "special_tokens_mask": encoding.special_tokens_mask,
        "offsets": [list(pair) for pair in encoding.offsets],
        "word_ids": encoding.word_ids,
        "sequence_ids": encoding.sequence_ids,
    }


def case(name, tokenizer, text, pair=None, prefix_space=False, **options):
    backend = tokenizer.backend_tokenizer
    truncation = options.get("truncation")
    if truncation:
        backend.enable_truncation(options["max_length"], stride=options.get("stride", 0), strategy=truncation)
    else:
        backend.no_truncation()
    backend.no_padding()
    encoding = backend.encode(
        text, pair, is_pretokenized=isinstance(text, list), add_special_tokens=options.get("add_special_tokens", True)
    )
    backend.no_truncation()
    cases.append({
        "tokenizer": name, "prefix_space": prefix_space, "text": text, "pair": pair, "options": options,
        "expected": [window(part) for part in [encoding, *encoding.overflowing]],
        "tokens": encoding.tokens,
        "decoded": tokenizer.decode(encoding.ids, skip_special_tokens=False, clean_up_tokenization_spaces=False),
        "decoded_plain": tokenizer.decode(encoding.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
    })


for name, folder in folders.items():
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        case(name, tokenizer, text)
        case(name, tokenizer, text, add_special_tokens=False)
    case(name, tokenizer, TEXTS[4], TEXTS[7])
    case(name, tokenizer, "", "")
    for max_length, stride in [(16, 0), (16, 5), (9, 2), (200, 3)]:
        case(name, tokenizer, LONG, truncation="longest_first", max_length=max_length, stride=stride)
        case(name, tokenizer, LONG, truncation="only_first", max_length=max_length, stride=stride)
        case(name, tokenizer, LONG, truncation="longest_first", max_length=max_length, stride=stride,
             add_special_tokens=False)
    for max_length, stride in [(32, 0), (32, 6), (48, 16)]:
        for strategy in ["longest_first", "only_second"]:
            case(name, tokenizer, QUESTION, LONG, truncation=strategy, max_length=max_length, stride=stride)
        case(name, tokenizer, LONG, QUESTION, truncation="only_first", max_length=max_length, stride=stride)
        case(name, tokenizer, LONG, LONG, truncation="longest_first", max_length=max_length, stride=stride)
    for words in WORDS:
        case(name, tokenizer, words)
        case(name, tokenizer, words, truncation="longest_first", max_length=7, stride=1)
    case(name, tokenizer, WORDS[0], WORDS[1])
    case(name, tokenizer, WORDS[1], WORDS[2], truncation="only_second", max_length=60, stride=2)

tokenizer = RobertaTokenizer.from_pretrained(folders["roberta"], add_prefix_space=True)
for text in [*TEXTS[:6], *WORDS]:
    case("roberta", tokenizer, text, prefix_space=True)

configs = {}
with tempfile.TemporaryDirectory() as scratch:
    for name, folder in folders.items():
        AutoTokenizer.from_pretrained(folder).save_pretrained(f"{scratch}/{name}")
        configs[name] = {
            "files": sorted(path.name for path in Path(f"{scratch}/{name}").iterdir()),
            "tokenizer_config": json.loads(Path(f"{scratch}/{name}/tokenizer_config.json").read_text()),
        }
        tokenizer = AutoTokenizer.from_pretrained(folder)
        configs[name]["vocab_size"] = tokenizer.vocab_size
        configs[name]["len"] = len(tokenizer)

lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
(here / "cases.json").write_text(f'{{"configs": {json.dumps(configs)},\n"cases": [\n{lines}\n]}}\n')
print(len(cases), "cases")
