"""Writes splits.json: which files of a folder Hugging Face's `datasets` takes for which split, with README.md and without.

    python -m venv venv && venv/bin/pip install datasets==5.2.0
    venv/bin/python tests/golden/data/generate_splits.py
"""

import json
import tempfile
from pathlib import Path

from datasets.data_files import DataFilesDict, get_data_patterns
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData, DatasetCard

FOLDERS = [
    ["train.jsonl", "test.jsonl"],
    ["train.csv.gz", "dev.csv.gz", "eval.csv.gz"],
    ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "validation-00000-of-00001.parquet"],
    ["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"],
    ["data/train-00000-of-00001-0a1b2c3d4e5f6789.parquet", "data/extra_hard-00000-of-00001-0a1b2c3d4e5f6789.parquet"],
    ["data/train-00000-of-00001.parquet", "data/b-00000-of-00001.parquet", "data/a-00000-of-00001.parquet", "other.parquet"],
    ["data/train.jsonl", "data/test.jsonl"],
    ["train/a.csv", "train/b.csv", "test/a.csv"],
    ["deep/er/train/a.csv", "deep/er/test/a.csv"],
    ["my_train_set/x.csv", "validation2/x.csv"],
    ["a.jsonl", "b.jsonl"],
    ["sub/a.jsonl", "b.jsonl"],
    ["train1.txt", "dev-2.txt", "3_test.txt"],
    ["trainer.txt", "contest.txt"],
    ["valid.json", "evaluation.json"],
    ["training.json", "testing.json", "val.json"],
    ["books train.csv", "books.test.csv"],
    ["test.csv"],
    ["train/test.csv", "train/train.csv"],
    ["en/train.jsonl", "en/test.jsonl", "de/train.jsonl"],
]

READMES = [
    (["a/x.csv", "a/y.csv", "b/x.csv"],
     "configs:\n- config_name: one\n  data_files: a/*.csv\n- config_name: two\n  data_files: b/x.csv\n", "one"),
    (["a.csv", "b.csv", "c.csv"],
     "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: [a.csv, 'b.csv']\n  - split: hold_out\n    path: c.csv\n",
     "default"),
    (["en/train.csv", "en/test.csv", "de/train.csv"],
     "configs:\n- config_name: en\n  data_dir: en\n  default: true\n- config_name: de\n  data_dir: de\n", "en"),
    (["en/train.csv", "en/test.csv", "de/train.csv"],
     "configs:\n- config_name: en\n  data_dir: en\n- config_name: de\n  data_dir: de\n", "de"),
    (["x/1.jsonl", "x/y/2.jsonl", "3.jsonl"],
     "license: mit\nconfigs:\n- config_name: all\n  data_files:\n  - split: train\n    path: '**/*.jsonl'\n", "all"),
    (["x/1.jsonl", "x/2.jsonl"], "configs:\n- config_name: all\n  data_files:\n  - x/1.jsonl\n  - x/2.jsonl\n", "all"),
    (["d/p/1.csv", "d/q/2.csv"],
     "configs:\n- config_name: p\n  data_dir: d\n  data_files:\n  - split: test\n    path: p/*\n", "p"),
]


def relative(files, base):
    return {str(split): sorted(str(Path(path).relative_to(base)) for path in paths) for split, paths in files.items()}


cases = []
for names, readme, config in [(names, None, None) for names in FOLDERS] + READMES:
    with tempfile.TemporaryDirectory() as base:
        base = str(Path(base).resolve())
        for name in names:
            path = Path(base) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
        if readme is None:
            splits = relative(DataFilesDict.from_patterns(get_data_patterns(base), base_path=base), base)
        else:
            text = f"---\n{readme}---\n# A data set\n"
            metadata = MetadataConfigs.from_dataset_card_data(DatasetCard(text).data)[config]
            folder = base + "/" + metadata["data_dir"] if metadata.get("data_dir") else base
            from datasets.data_files import sanitize_patterns
            patterns = metadata.get("data_files")
            patterns = sanitize_patterns(patterns) if patterns else get_data_patterns(folder)
            splits = relative(DataFilesDict.from_patterns(patterns, base_path=folder), base)
            readme = text
        cases.append({"files": names, "readme": readme, "config": config, "splits": splits})
Path(__file__).with_name("splits.json").write_text(json.dumps(cases, indent=1) + "\n")
