//! Which characters of a text its tokens stand for, and a compact form of that.
//!
//! A window of a long text keeps this beside its tokens; as lists of numbers it would take many times the room of the
//! tokens. The compact form is a text of about three letters a token.

/// The characters and the word of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenSpan {
    /// The first character.
    pub start: usize,
    /// The character after the last one.
    pub end: usize,
    /// The number of the word; none where the tokenizer has no words.
    pub word: Option<u32>,
}

/// Spans as a text: for each token how its start, length and word differ from those of the token before.
pub fn pack(spans: &[TokenSpan]) -> String {
    let mut packed = String::with_capacity(spans.len() * 3);
    let (mut start, mut word) = (0, 0);
    for span in spans {
        let number = span.word.map_or(0, |word| i64::from(word) + 1);
        let starts_at = span.start as i64;
        for difference in [starts_at - start, span.end as i64 - starts_at, number - word] {
            put(&mut packed, difference);
        }
        (start, word) = (starts_at, number);
    }
    packed
}

/// The spans of [`pack`]; a text that `pack` has not made gives what can be read of it.
pub fn unpack(packed: &str) -> Vec<TokenSpan> {
    let mut letters = packed.bytes();
    let mut spans = Vec::new();
    let (mut start, mut word) = (0i64, 0i64);
    while let (Some(ahead), Some(length), Some(words)) = (take(&mut letters), take(&mut letters), take(&mut letters)) {
        start = start.saturating_add(ahead);
        word = word.saturating_add(words);
        let at = |place: i64| usize::try_from(place).unwrap_or(0);
        let known = u32::try_from(word - 1).ok();
        spans.push(TokenSpan { start: at(start), end: at(start.saturating_add(length)), word: known });
    }
    spans
}

/// Five bits a letter, the lowest first; a letter from `@` on says that another follows. The sign is the lowest bit.
fn put(packed: &mut String, number: i64) {
    let mut rest = ((number << 1) ^ (number >> 63)) as u64;
    loop {
        let more = rest >> 5 != 0;
        packed.push(char::from(b' ' + (rest & 31) as u8 + if more { 32 } else { 0 }));
        rest >>= 5;
        if !more {
            return;
        }
    }
}

fn take(letters: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let (mut number, mut shift) = (0u64, 0u32);
    loop {
        let letter = letters.next()?.checked_sub(b' ')?;
        number |= u64::from(letter & 31).checked_shl(shift).unwrap_or(0);
        shift += 5;
        if letter < 32 {
            return Some((number >> 1) as i64 ^ -((number & 1) as i64));
        }
    }
}
