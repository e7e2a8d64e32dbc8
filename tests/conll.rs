//! CoNLL files: what is a token, what a comment, where sentences end, and what is refused and where.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use std::path::Path;

use proptest::prelude::*;
use retune::data::conll::{Columns, TAGS, TOKENS, parse};
use retune::data::format::Format;
use retune::data::{Parsed, Value};

/// Each sentence as `line: token/tag token/tag`.
fn shown(parsed: &Parsed) -> Vec<String> {
    let sentence = |(row, line): (&indexmap::IndexMap<String, Value>, &u32)| {
        let list = |name: &str| row[name].as_list().unwrap().to_vec();
        let pairs = list(TOKENS).into_iter().zip(list(TAGS));
        let pairs: Vec<String> =
            pairs.map(|(token, tag)| format!("{}/{}", token.as_str().unwrap(), tag.as_str().unwrap())).collect();
        format!("{line}: {}", pairs.join(" "))
    };
    parsed.rows.iter().zip(&parsed.lines).map(sentence).collect()
}

fn read(text: &str) -> Vec<String> {
    shown(&parse(text, Path::new("f"), Columns::ENDS).unwrap())
}

#[test]
fn sentences_are_read() {
    let cases: &[(&str, &[&str])] = &[
        // Tabs, spaces, and no blank line at the end.
        ("EU\tB-ORG\nrejects\tO\n\nPeter\tB-PER", &["1: EU/B-ORG rejects/O", "4: Peter/B-PER"]),
        ("EU  B-ORG\nrejects O\n", &["1: EU/B-ORG rejects/O"]),
        // CoNLL-2003: four columns, documents.
        (
            "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\n. . O O\n\n-DOCSTART- -X- -X- O\nRome NNP B-NP B-LOC\n",
            &["3: EU/B-ORG ./O", "7: Rome/B-LOC"],
        ),
        // A document mark parts sentences without a blank line.
        ("a O\n-DOCSTART- O\nb O\n", &["1: a/O", "3: b/O"]),
        // CRLF, several blank lines, blank lines of spaces.
        ("\r\na O\r\nb O\r\n \t\r\n\r\nc O\r\n", &["2: a/O b/O", "6: c/O"]),
        // A token with spaces needs tabs; spaces that are not ASCII are tokens.
        ("New York\tB-LOC\n\u{a0}\tO\n", &["1: New York/B-LOC \u{a0}/O"]),
        // Comments.
        ("# id 5f0c domain=en\nParis B-LOC\n\n# text = in Paris\nin O\n", &["2: Paris/B-LOC", "5: in/O"]),
        ("#comment\na O\n", &["2: a/O"]),
        ("# made\tby hand\na\tO\n## more\nb\tO\n", &["2: a/O b/O"]),
        // Tokens that look like comments.
        ("# O\n1 O\n\n#followback O\n", &["1: #/O 1/O", "4: #followback/O"]),
        ("a O\n# O\n#x B-MISC\n", &["1: a/O #/O #x/B-MISC"]),
        ("#win O\n#loss O\n", &["1: #win/O #loss/O"]),
        // A tag that is known from elsewhere marks a token, whatever it looks like.
        ("a NOUN\n\n# NOUN\n", &["1: a/NOUN", "3: #/NOUN"]),
        ("a NOUN\n\n# sent_id\nb NOUN\n", &["1: a/NOUN", "4: b/NOUN"]),
        ("", &[]),
        ("\n\n# nothing here\n\n", &[]),
    ];
    for (text, expected) in cases {
        assert_eq!(read(text), *expected, "{text:?}");
    }
}

#[test]
fn any_column_can_be_read() {
    let text = "1 Rome NNP B-LOC\n2 fell VBD O\n";
    let columns = |token, tag| shown(&parse(text, Path::new("f"), Columns { token, tag }).unwrap());
    assert_eq!(columns(1, -1), ["1: Rome/B-LOC fell/O"]);
    assert_eq!(columns(1, 2), ["1: Rome/NNP fell/VBD"]);
    assert_eq!(columns(-3, -2), ["1: Rome/NNP fell/VBD"]);
    let error = parse(text, Path::new("f"), Columns { token: 1, tag: 4 }).unwrap_err();
    assert_eq!(error.to_string(), "CoNLL: there is no column 4 in a line of 4 columns (f:1:12)");
    assert_eq!(error.hint_text(), Some("`tag_column` counts from 0 to 3, or from -1 at the end"));
}

#[test]
fn what_is_wrong_is_found_at_its_place() {
    let cases = [
        ("Paris\n", "CoNLL: there is no tag beside the token `Paris` (f:1:1)"),
        ("Paris,B-LOC\nis,O\n", "CoNLL: there is no tag beside the token `Paris,B-LOC` (f:1:1)"),
        ("a O\n\nb O\nc\n", "CoNLL: 1 column where line 1 has 2 (f:4:1)"),
        ("a O\nNew York B-LOC\n", "CoNLL: 3 columns where line 1 has 2 (f:2:5)"),
        ("a\tO\n\tO\n", "CoNLL: the token is empty (f:2:1)"),
        ("a\tx\tO\nb\t\tO\n", ""),
        ("a O\n#x\n", "CoNLL: 1 column where line 1 has 2 (f:2:1)"),
    ];
    for (text, expected) in cases {
        let result = parse(text, Path::new("f"), Columns::ENDS);
        match result {
            Ok(_) => assert_eq!(expected, "", "{text:?}"),
            Err(error) => {
                assert_eq!(error.to_string(), expected, "{text:?}");
                assert!(error.hint_text().is_some(), "{text:?}");
            }
        }
    }
}

#[test]
fn the_extension_tells_the_format() {
    for name in ["x.conll", "x.iob", "x.iob2", "x.bio", "X.CONLL"] {
        assert_eq!(Format::of(Path::new(name)).unwrap(), Format::Conll(Columns::ENDS), "{name}");
    }
    assert_eq!(Format::named("conll").unwrap(), Format::Conll(Columns::ENDS));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What is written is what is read, whatever the tokens, as long as they have no spaces.
    #[test]
    fn sentences_survive(
        sentences in prop::collection::vec(prop::collection::vec(("[^\\s]{1,6}", "O|[BIES]-[A-Z]{1,4}"), 1..5), 1..6),
        separator in prop::sample::select(vec![" ", "\t", "  "]),
        end in prop::sample::select(vec!["\n", "\r\n"]),
    ) {
        let write = |sentence: &Vec<(String, String)>| -> String {
            sentence.iter().map(|(token, tag)| format!("{token}{separator}{tag}{end}")).collect()
        };
        let text = sentences.iter().map(write).collect::<Vec<_>>().join(end);
        prop_assume!(!text.contains("-DOCSTART-"));
        let expected: Vec<String> = sentences
            .iter()
            .map(|sentence| sentence.iter().map(|(token, tag)| format!("{token}/{tag}")).collect::<Vec<_>>().join(" "))
            .collect();
        let found: Vec<String> =
            read(&text).into_iter().map(|line| line.split_once(": ").unwrap().1.to_string()).collect();
        prop_assert_eq!(found, expected);
    }

    /// No text makes it panic.
    #[test]
    fn any_text_is_read_or_refused(text in "([#\\-A-Z O\t\r\n]|\\PC){0,60}", token in -4i64..4, tag in -4i64..4) {
        let _ = parse(&text, Path::new("f"), Columns { token, tag });
    }
}
