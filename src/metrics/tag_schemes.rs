//! Tag schemes: which tags begin, continue and end an entity, read strictly as `seqeval`'s `mode="strict"` reads them.
//!
//! One sentence's tags flow in, its well-formed entities flow out; what breaks the scheme's pattern is no entity. The
//! patterns are those of seqeval 1.2.2 (`seqeval/scheme.py`), of which each says: the letter before, the letter here,
//! and whether both have the same type.

use crate::error::{Error, Result, What};

/// How entities are written as tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Inside, outside; `B` only where an entity follows another of its type.
    Iob1,
    /// Every entity begins with `B`.
    Iob2,
    /// Inside, outside; `E` only where an entity of the same type follows.
    Ioe1,
    /// Every entity ends with `E`.
    Ioe2,
    /// `B`, `I`, `E`, and `S` for entities of one token; also called BIOES.
    Iobes,
    /// `B`, `I`, `L`, and `U` for entities of one token.
    Bilou,
}

/// Where the letter of a tag stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affix {
    /// In front: `B-PER`.
    #[default]
    Prefix,
    /// Behind: `PER-B`.
    Suffix,
}

/// An entity of one sentence: its type, its first token and the token behind its last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entity<'a> {
    /// The type, `_` where a tag is a letter alone.
    pub kind: &'a str,
    /// The first token.
    pub start: usize,
    /// The token behind the last one.
    pub end: usize,
}

/// The names that scripts and Hugging Face's `evaluate` use.
pub const NAMES: [(&str, Scheme); 7] = [
    ("IOB1", Scheme::Iob1),
    ("IOB2", Scheme::Iob2),
    ("IOE1", Scheme::Ioe1),
    ("IOE2", Scheme::Ioe2),
    ("IOBES", Scheme::Iobes),
    ("BILOU", Scheme::Bilou),
    ("BIOES", Scheme::Iobes),
];

// Letters as a set of bits.
const I: u8 = 1;
const O: u8 = 2;
const B: u8 = 4;
const E: u8 = 8;
const S: u8 = 16;
const U: u8 = 32;
const L: u8 = 64;
const ANY: u8 = I | O | B | E | S | U | L;

const LETTERS: [(char, u8); 7] = [('I', I), ('O', O), ('B', B), ('E', E), ('S', S), ('U', U), ('L', L)];

/// Whether the types of two neighbours have to agree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Types {
    Any,
    Same,
    Other,
}
use Types::{Any, Other, Same};

/// The letters allowed before and here, and what their types have to be.
type Pattern = (u8, u8, Types);

struct Rules {
    allowed: u8,
    start: &'static [Pattern],
    inside: &'static [Pattern],
    end: &'static [Pattern],
}

const IOB1: Rules = Rules {
    allowed: I | O | B,
    start: &[(O, I, Any), (I, I, Other), (B, I, Any), (I, B, Same), (B, B, Same)],
    inside: &[(B, I, Same), (I, I, Same)],
    end: &[(I, I, Other), (I, O, Any), (I, B, Any), (B, O, Any), (B, I, Other), (B, B, Same)],
};
const IOB2: Rules = Rules {
    allowed: I | O | B,
    start: &[(ANY, B, Any)],
    inside: &[(B, I, Same), (I, I, Same)],
    end: &[(I, O, Any), (I, I, Other), (I, B, Any), (B, O, Any), (B, I, Other), (B, B, Any)],
};
const IOE1: Rules = Rules {
    allowed: I | O | E,
    start: &[(O, I, Any), (I, I, Other), (E, I, Any), (E, E, Same)],
    inside: &[(I, I, Same), (I, E, Same)],
    end: &[(I, I, Other), (I, O, Any), (I, E, Other), (E, I, Same), (E, E, Same)],
};
const IOE2: Rules = Rules {
    allowed: I | O | E,
    start: &[(O, I, Any), (O, E, Any), (E, I, Any), (E, E, Any), (I, I, Other), (I, E, Other)],
    inside: &[(I, E, Same), (I, I, Same)],
    end: &[(E, ANY, Any)],
};
const IOBES: Rules = Rules {
    allowed: I | O | B | E | S,
    start: &[(ANY, B, Any), (ANY, S, Any)],
    inside: &[(B, I, Same), (B, E, Same), (I, I, Same), (I, E, Same)],
    end: &[(S, ANY, Any), (E, ANY, Any)],
};
const BILOU: Rules = Rules {
    allowed: B | I | L | O | U,
    start: &[(ANY, B, Any), (ANY, U, Any)],
    inside: &[(B, I, Same), (B, L, Same), (I, I, Same), (I, L, Same)],
    end: &[(U, ANY, Any), (L, ANY, Any)],
};

/// A tag taken apart.
#[derive(Clone, Copy)]
struct Token<'a> {
    letter: u8,
    kind: &'a str,
}

const OUTSIDE: Token<'static> = Token { letter: O, kind: "_" };

impl Scheme {
    /// The name in Hugging Face's `evaluate`.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, scheme)| *scheme == self).map_or("", |(name, _)| name)
    }

    fn rules(self) -> &'static Rules {
        match self {
            Scheme::Iob1 => &IOB1,
            Scheme::Iob2 => &IOB2,
            Scheme::Ioe1 => &IOE1,
            Scheme::Ioe2 => &IOE2,
            Scheme::Iobes => &IOBES,
            Scheme::Bilou => &BILOU,
        }
    }

    /// The entities of one sentence.
    ///
    /// # Errors
    /// A tag whose letter the scheme does not have.
    pub fn entities<'a>(self, tags: &[&'a str], affix: Affix) -> Result<Vec<Entity<'a>>> {
        let rules = self.rules();
        let mut tokens = Vec::with_capacity(tags.len() + 1);
        for tag in tags {
            let token = Token::read(tag, affix)?;
            if token.letter & rules.allowed == 0 {
                let problem = format!("the tag `{tag}` does not belong to the scheme {}", self.name());
                let letters = LETTERS.iter().filter(|(_, bit)| bit & rules.allowed != 0);
                let letters = letters.map(|(letter, _)| letter.to_string()).collect::<Vec<_>>().join(", ");
                return Err(Error::new(What::BadData(problem)).hint(format!("its letters are {letters}")));
            }
            tokens.push(token);
        }
        tokens.push(OUTSIDE);
        let fits = |patterns: &[Pattern], before: Token<'_>, here: Token<'_>| {
            patterns.iter().any(|&(left, right, types)| {
                let same = before.kind == here.kind;
                let agree = types == Any || (types == Same) == same;
                before.letter & left != 0 && here.letter & right != 0 && agree
            })
        };
        let mut found = Vec::new();
        let (mut at, mut before) = (0, OUTSIDE);
        while at < tokens.len() {
            let start = at;
            at += 1;
            if fits(rules.start, before, tokens[start]) {
                while at < tokens.len() && fits(rules.inside, tokens[at - 1], tokens[at]) {
                    at += 1;
                }
                if at < tokens.len() && fits(rules.end, tokens[at - 1], tokens[at]) {
                    found.push(Entity { kind: tokens[start].kind, start, end: at });
                }
            }
            before = tokens[at - 1];
        }
        Ok(found)
    }

    /// The scheme whose letters the tags of a data set use, as seqeval's `auto_detect` finds it: IOB2, IOE2, IOBES or BILOU.
    ///
    /// # Errors
    /// A tag that is none, or letters that fit no scheme.
    pub fn detect<'a>(tags: impl Iterator<Item = &'a str>, affix: Affix) -> Result<Scheme> {
        let mut letters = 0;
        for tag in tags {
            letters |= Token::read(tag, affix)?.letter;
        }
        let within = |all: u8, needed: u8| letters & !all == 0 && letters & needed == needed;
        if within(I | O | B, B) {
            Ok(Scheme::Iob2)
        } else if within(I | O | E, E) {
            Ok(Scheme::Ioe2)
        } else if within(I | O | B | E | S, B | E) || letters == S {
            Ok(Scheme::Iobes)
        } else if within(I | O | B | L | U, B | L) || letters == U {
            Ok(Scheme::Bilou)
        } else {
            let used: String =
                LETTERS.iter().filter(|(_, bit)| bit & letters != 0).map(|(letter, _)| *letter).collect();
            let problem = format!("the letters of the tags, `{used}`, fit none of IOB2, IOE2, IOBES and BILOU");
            Err(Error::new(What::BadData(problem)).hint("give `scheme`, or leave out `mode: \"strict\"`"))
        }
    }
}

impl<'a> Token<'a> {
    fn read(tag: &'a str, affix: Affix) -> Result<Self> {
        let (letter, kind) = split(tag, affix)?;
        let Some((_, bit)) = LETTERS.iter().find(|(known, _)| *known == letter) else {
            let problem = format!("`{tag}` is not a tag of an entity");
            let hint = match affix {
                Affix::Prefix => "tags are `O`, or one of B, I, E, S, L, U in front of a type: `B-PER`",
                Affix::Suffix => "with `suffix: true`, tags are `O`, or a type in front of B, I, E, S, L or U: `PER-B`",
            };
            return Err(Error::new(What::BadData(problem)).hint(hint));
        };
        let kind = kind.trim_matches('-');
        Ok(Token { letter: *bit, kind: if kind.is_empty() { "_" } else { kind } })
    }
}

/// The letter of a tag, and what is left of it.
///
/// # Errors
/// An empty tag.
pub(super) fn split(tag: &str, affix: Affix) -> Result<(char, &str)> {
    let mut letters = tag.chars();
    let letter = if affix == Affix::Prefix { letters.next() } else { letters.next_back() };
    match letter {
        Some(letter) => Ok((letter, letters.as_str())),
        None => {
            Err(Error::new(What::BadData("a tag is empty".into())).hint("tokens without an entity have the tag `O`"))
        }
    }
}
