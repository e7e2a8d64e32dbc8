//! Entity scores against seqeval 1.2.2 (`golden/seqeval_generate.py`): every number to the last bit, every table to the letter.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking; clippy exempts only the test functions themselves")]

use retune::metrics::classification::{Average, Scores};
use retune::metrics::seqeval::{EntityTally, Reading};
use retune::metrics::tag_schemes::{Affix, NAMES, Scheme};
use serde_json::Value;

fn sentences(value: &Value) -> Vec<Vec<&str>> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().split_whitespace().collect()).collect()
}

fn scheme(name: &str) -> Scheme {
    NAMES.iter().find(|(known, _)| *known == name).unwrap().1
}

fn tally(case: &Value) -> EntityTally {
    let (predictions, references) = (sentences(&case["predictions"]), sentences(&case["references"]));
    let affix = if case["suffix"].as_bool().unwrap() { Affix::Suffix } else { Affix::Prefix };
    let reading = match (case["mode"].as_str(), case["scheme"].as_str()) {
        (None, _) => Reading::Conlleval,
        (Some(_), Some(name)) => Reading::Strict(scheme(name)),
        (Some(_), None) => {
            let found = Scheme::detect(references.iter().flatten().copied(), affix).unwrap();
            assert_eq!(found, scheme(case["detected"].as_str().unwrap()), "{case}");
            Reading::Strict(found)
        }
    };
    let mut tally = EntityTally::new(reading, affix);
    for (prediction, reference) in predictions.iter().zip(&references) {
        tally.add(prediction, reference).unwrap();
    }
    tally
}

fn check(case: &Value, name: &str, expected: &Value, got: Scores) {
    for (at, number) in [got.precision, got.recall, got.f1, got.support as f64].into_iter().enumerate() {
        let wanted = expected[at].as_f64().unwrap_or(f64::NAN);
        assert!(
            number.to_bits() == wanted.to_bits() || (number.is_nan() && wanted.is_nan()),
            "{name}[{at}] is {number}, seqeval has {wanted} for {case}"
        );
    }
}

#[test]
fn two_hundred_cases_and_the_documented_ones_are_seqevals() {
    let golden: Value = serde_json::from_str(include_str!("golden/seqeval.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 220);
    for case in cases {
        let tally = tally(case);
        let zero_division = case["zero_division"].as_f64().unwrap();
        let types = tally.per_type(zero_division);
        assert_eq!(types.len(), case["types"].as_array().unwrap().len(), "{case}");
        for (at, (name, scores)) in types.into_iter().enumerate() {
            check(case, &name, &case["types"][at], scores);
        }
        for (name, average) in [("micro", Average::Micro), ("macro", Average::Macro), ("weighted", Average::Weighted)] {
            check(case, name, &case[name], tally.average(average, zero_division));
        }
        assert_eq!(tally.accuracy().to_bits(), case["accuracy"].as_f64().unwrap().to_bits(), "{case}");
        if let Some(report) = case["report"].as_str() {
            let digits = usize::try_from(case["digits"].as_u64().unwrap()).unwrap();
            assert_eq!(tally.report(digits, zero_division), report, "{case}");
        }
    }
}

#[test]
fn what_is_no_tag_is_refused() {
    let add =
        |reading, tags: &[&str]| EntityTally::new(reading, Affix::Prefix).add(tags, tags).unwrap_err().to_string();
    let strict = Reading::Strict(Scheme::Iob2);
    assert_eq!(add(strict, &["B-PER", "E-PER"]), "the tag `E-PER` does not belong to the scheme IOB2");
    assert_eq!(add(strict, &["NOUN"]), "`NOUN` is not a tag of an entity");
    assert_eq!(add(Reading::Conlleval, &["O", ""]), "a tag is empty");
    let mixed = Scheme::detect(["B-PER", "L-PER", "E-PER"].into_iter(), Affix::Prefix).unwrap_err();
    assert_eq!(mixed.to_string(), "the letters of the tags, `BEL`, fit none of IOB2, IOE2, IOBES and BILOU");
    let uneven = EntityTally::new(strict, Affix::Prefix).add(&["O"], &["O", "O"]).unwrap_err();
    assert_eq!(uneven.to_string(), "a sentence has 1 predicted tags, but 2 reference tags");
}

/// Entities of one sentence, found the long way: every run of tokens is asked whether it is one.
fn by_definition(tags: &[(char, u8)]) -> Vec<(u8, usize, usize)> {
    let runs = (0..tags.len()).flat_map(|start| (start + 1..=tags.len()).map(move |end| (start, end)));
    let is_entity = |&(start, end): &(usize, usize)| {
        let inside = |at: usize| tags[at] == ('I', tags[start].1);
        tags[start].0 == 'B' && (start + 1..end).all(inside) && !(end < tags.len() && inside(end))
    };
    runs.filter(is_entity).map(|(start, end)| (tags[start].1, start, end)).collect()
}

#[test]
fn strict_iob2_is_its_definition_on_all_short_sentences() {
    let alphabet = [('O', 0), ('B', 1), ('I', 1), ('B', 2), ('I', 2)];
    for number in 0..alphabet.len().pow(6) {
        let tags: Vec<(char, u8)> =
            (0..6).map(|place| alphabet[number / alphabet.len().pow(place) % alphabet.len()]).collect();
        let texts: Vec<String> = tags.iter().map(|(letter, kind)| format!("{letter}-{kind}")).collect();
        let texts: Vec<&str> = texts.iter().map(|text| if text == "O-0" { "O" } else { text }).collect();
        let found = Scheme::Iob2.entities(&texts, Affix::Prefix).unwrap();
        let found: Vec<(u8, usize, usize)> =
            found.iter().map(|one| (one.kind.parse().unwrap(), one.start, one.end)).collect();
        assert_eq!(found, by_definition(&tags), "{texts:?}");
    }
}
