//! What the first bytes of a file say about it, whatever its name says.

use crate::data::format::Format;

/// A kind of file that begins in a way of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Magic {
    Gzip,
    Parquet,
    Zip,
    Zstd,
    Bzip2,
    Xz,
    Arrow,
    Sqlite,
    Hdf5,
    Pdf,
    Html,
    LfsPointer,
}

const BEGINNINGS: &[(&[u8], Magic)] = &[
    (&[0x1F, 0x8B, 0x08], Magic::Gzip),
    (b"PAR1", Magic::Parquet),
    (b"PARE", Magic::Parquet),
    (b"PK\x03\x04", Magic::Zip),
    (&[0x28, 0xB5, 0x2F, 0xFD], Magic::Zstd),
    (b"BZh91AY&SY", Magic::Bzip2),
    (&[0xFD, b'7', b'z', b'X', b'Z', 0x00], Magic::Xz),
    (b"ARROW1\0\0", Magic::Arrow),
    (b"SQLite format 3\0", Magic::Sqlite),
    (b"\x89HDF\r\n\x1A\n", Magic::Hdf5),
    (b"%PDF-", Magic::Pdf),
    (b"<!DOCTYPE html", Magic::Html),
    (b"<!doctype html", Magic::Html),
    (b"<html", Magic::Html),
    (b"version https://git-lfs.github.com/spec/", Magic::LfsPointer),
];

impl Magic {
    /// What the bytes begin like; `None` for most text.
    pub(super) fn of(bytes: &[u8]) -> Option<Magic> {
        BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning)).map(|(_, magic)| *magic)
    }

    /// Whether a file of this format may begin so. Text that people wrote may be about anything.
    pub(super) fn fits(self, format: Format) -> bool {
        match self {
            Magic::Pdf | Magic::Html | Magic::LfsPointer => format == Format::Text,
            Magic::Parquet => format == Format::Parquet,
            _ => false,
        }
    }

    /// The kind of file, as a message says it.
    pub(super) fn what(self) -> &'static str {
        match self {
            Magic::Gzip => "it is packed with gzip a second time",
            Magic::Parquet => "it is a Parquet file",
            Magic::Zip => "it is a zip archive, or a file of Excel or another office program",
            Magic::Zstd => "it is packed with Zstandard",
            Magic::Bzip2 => "it is packed with bzip2",
            Magic::Xz => "it is packed with xz",
            Magic::Arrow => "it is an Arrow file",
            Magic::Sqlite => "it is an SQLite database",
            Magic::Hdf5 => "it is an HDF5 file",
            Magic::Pdf => "it is a PDF document",
            Magic::Html => "it is a web page",
            Magic::LfsPointer => "it is a pointer of Git LFS, not the file itself",
        }
    }

    /// What to do about it.
    pub(super) fn hint(self) -> &'static str {
        match self {
            Magic::Gzip | Magic::Zstd | Magic::Bzip2 | Magic::Xz => "unpack it first",
            Magic::Parquet => "call it `.parquet`, or give `format: \"parquet\"`",
            Magic::Zip => "unpack an archive first; save a table of an office program as CSV",
            Magic::Arrow => "save it as Parquet in Python: `dataset.to_parquet(\"train.parquet\")`",
            Magic::Sqlite | Magic::Hdf5 | Magic::Pdf => "save its rows as CSV, JSON Lines or Parquet",
            Magic::Html => "the download gave a page about the file instead of the file",
            Magic::LfsPointer => "fetch the file with `git lfs pull`",
        }
    }
}
