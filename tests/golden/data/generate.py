"""Writes small Parquet and gzip files, and expected.json: their rows as pyarrow and Python read them.

    python -m venv venv && venv/bin/pip install pyarrow==26.0.1 datasets==5.2.0
    venv/bin/python tests/golden/data/generate.py
"""

import datetime
import decimal
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Sequence, Value

here = Path(__file__).parent
expected = {}


def plain(value):
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, (datetime.date, datetime.time, datetime.datetime)):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return list(value)
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value


def write(name, table, **options):
    pq.write_table(table, here / name, **options)
    read = pq.read_table(here / name)
    expected[name] = plain(read.to_pylist(maps_as_pydicts="strict"))


# Every type a text data set may have, with nulls, over three row groups.
types = pa.table({
    "text": pa.array(["one", None, "drei ß", "", "日本", "six"]),
    "large": pa.array(["a", "b", None, "d", "e", "f"], pa.large_string()),
    "flag": pa.array([True, False, None, True, True, False]),
    "i8": pa.array([-128, 127, None, 0, 1, 2], pa.int8()),
    "i16": pa.array([-32768, 32767, None, 0, 1, 2], pa.int16()),
    "i32": pa.array([-(2**31), 2**31 - 1, None, 0, 1, 2], pa.int32()),
    "i64": pa.array([-(2**63), 2**63 - 1, None, 0, 1, 2], pa.int64()),
    "u8": pa.array([255, 0, None, 1, 2, 3], pa.uint8()),
    "u16": pa.array([65535, 0, None, 1, 2, 3], pa.uint16()),
    "u32": pa.array([2**32 - 1, 0, None, 1, 2, 3], pa.uint32()),
    "u64": pa.array([2**63 - 1, 0, None, 1, 2, 3], pa.uint64()),
    "f16": pa.array([0.5, -1.25, None, 2.0, 3.0, 65504.0], pa.float16()),
    "f32": pa.array([0.1, -1e30, None, 2.0, 3.0, 4.0], pa.float32()),
    "f64": pa.array([0.1, -1e300, None, 2.0, 3.0, 4.0], pa.float64()),
    "bytes": pa.array([b"text", b"\xff\x00", None, b"", b"x", b"y"]),
    "nothing": pa.nulls(6),
    "day": pa.array([datetime.date(2024, 2, 29), datetime.date(1969, 12, 31), None] * 2),
    "price": pa.array([decimal.Decimal("12.34"), decimal.Decimal("-0.05"), None] * 2, pa.decimal128(9, 2)),
    "kind": pa.array(["red", "blue", None, "red", "red", "blue"]).dictionary_encode(),
    "tokens": pa.array([["a", "b"], [], None, [None, "c"], ["d"], ["e", "f", "g"]]),
    "matrix": pa.array([[[1, 2], [3]], [], None, [[], [4]], [None, [5]], [[6]]]),
    "pair": pa.array([[1.5, 2.5], [3.0, 4.0], None, [5.0, 6.0], [7.0, 8.0], [9.0, 0.0]], pa.list_(pa.float32(), 2)),
    "answers": pa.array(
        [{"text": ["x", "y"], "answer_start": [1, 2]}, {"text": [], "answer_start": []}, None] * 2,
    ),
    "turns": pa.array(
        [[{"role": "user", "content": "hi"}, {"role": "bot", "content": None}], [], None] * 2,
    ),
    "counts": pa.array([[("a", 1), ("b", 2)], [], None] * 2, pa.map_(pa.string(), pa.int64())),
})
write("types-snappy.parquet", types, row_group_size=2)
few = types.select(["text", "i64", "f64", "kind", "tokens", "answers"])
write("zstd.parquet", few, compression="zstd")
write("gzip.parquet", few, compression="gzip")
write("plain.parquet", few, compression="none", use_dictionary=False)
write("pages-v2.parquet", few, data_page_version="2.0", compression="zstd")
write("delta.parquet", few.select(["text", "i64"]), use_dictionary=False,
      column_encoding={"text": "DELTA_BYTE_ARRAY", "i64": "DELTA_BINARY_PACKED"})
pq.write_table(few, here / "brotli.parquet", compression="brotli")
moments = pa.table({
    "at": pa.array([datetime.datetime(2024, 2, 29, 12, 30, 1), None], pa.timestamp("ms")),
    "time": pa.array([datetime.time(12, 30, 1), None], pa.time32("ms")),
})
pq.write_table(moments, here / "moments.parquet")
pq.write_table(types.slice(0, 0), here / "empty.parquet")

# As `datasets` writes them, with the names of classes in the file.
reviews = Dataset.from_dict(
    {"text": ["good", "bad", "none"], "label": [1, 0, -1]},
    features=Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])}),
)
reviews.to_parquet(here / "classes.parquet")
expected["classes.parquet"] = reviews.to_list()
ner = Dataset.from_dict(
    {"tokens": [["Ada", "slept"], []], "ner_tags": [[1, 0], []]},
    features=Features({"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=["O", "B-PER"]))}),
)
ner.to_parquet(here / "ner.parquet")
expected["ner.parquet"] = ner.to_list()

# Gzip: one member, and two one after the other.
(here / "two.jsonl.gz").write_bytes(
    gzip.compress(b'{"i": 1}\n', mtime=0) + gzip.compress(b'{"i": 2}\n', mtime=0)
)
expected["two.jsonl.gz"] = [{"i": 1}, {"i": 2}]
(here / "table.csv.gz").write_bytes(gzip.compress("text,label\n\"ä, b\",1\n".encode(), mtime=0))
expected["table.csv.gz"] = [{"text": "ä, b", "label": 1}]

(here / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1) + "\n")
