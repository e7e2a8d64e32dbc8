//! Changes of bytes that readers get wrong: cut short, repeated, with huge numbers, nested deeply, with keys twice.
//!
//! The same number gives the same change, so that what is found can be found again. Where the bytes are JSON, or begin with a length
//! and JSON as safetensors do, values are changed as values, so that most changes get past the parser.

use serde_json::Value as Json;

/// Random numbers, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number (splitmix64).
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `n`, or 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.draw() % n as u64) as usize }
    }
}

/// Numbers at the ends of types.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1",
    "2",
    "255",
    "65536",
    "2147483648",
    "4294967295",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "1e999",
    "-0.0",
    "0.5",
    "1e-400",
    "100000000000000000000000000000",
];

/// Pieces that mean something in one of the formats.
const PIECES: &[&str] = &[
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "true",
    "NaN",
    "Infinity",
    "\n",
    "\r\n",
    "\t",
    "\u{feff}",
    "\u{0}",
    "\u{202e}",
    "é",
    "😀",
    "B-",
    "I-",
    "O",
    "-DOCSTART-",
    "#",
    "---",
    "&a",
    "*a",
    "<<: *a",
    "fn ",
    "loop { ",
    "|x| ",
    "#{ ",
    "`${",
    "import \"",
    "PAR1",
];

/// A changed copy of `seed`; parts of `other` may be put in.
pub fn mutate(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + random.below(4) {
        bytes = match random.below(4) {
            0 => json(&bytes, random).unwrap_or_else(|| raw(&bytes, other, random)),
            1 => lines(&bytes, random),
            2 => number(&bytes, random),
            _ => raw(&bytes, other, random),
        };
    }
    bytes.truncate(1 << 20);
    bytes
}

/// Bytes changed as bytes.
fn raw(bytes: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = random.below(bytes.len() + 1);
    let end = (at + 1 + random.below(64)).min(bytes.len());
    let at = at.min(end);
    match random.below(9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = random.draw() as u8,
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let part = bytes[at..end].repeat(1 + random.below(40));
            drop(bytes.splice(at..at, part));
        }
        5 => {
            let piece = PIECES[random.below(PIECES.len())].repeat(1 + random.below(3) * random.below(400));
            drop(bytes.splice(at..at, piece.into_bytes()));
        }
        6 => {
            let from = random.below(other.len());
            let part = other[from..(from + 1 + random.below(200)).min(other.len())].to_vec();
            drop(bytes.splice(at..end, part));
        }
        7 => {
            // A length or an offset in binary.
            let value = [0, 1, u64::MAX, 1 << 31, 1 << 32, 1 << 63, bytes.len() as u64, random.draw()][random.below(8)];
            let size = [1, 2, 4, 8][random.below(4)];
            for (place, byte) in value.to_le_bytes().iter().take(size).enumerate() {
                if let Some(target) = bytes.get_mut(at + place) {
                    *target = *byte;
                }
            }
        }
        _ => bytes.reverse(),
    }
    bytes
}

/// Lines doubled, left out, swapped or joined.
fn lines(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let (one, two) = (random.below(lines.len()), random.below(lines.len()));
    match random.below(4) {
        0 => lines.insert(two, lines[one]),
        1 => drop(lines.remove(one)),
        2 => lines.swap(one, two),
        _ => return lines.concat(),
    }
    lines.join(&b'\n')
}

/// A number in the text replaced by another one.
fn number(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let is_digit = |at: usize| bytes[at].is_ascii_digit();
    let starts: Vec<usize> = (0..bytes.len()).filter(|&at| is_digit(at) && (at == 0 || !is_digit(at - 1))).collect();
    let Some(&start) = starts.get(random.below(starts.len())) else { return bytes.to_vec() };
    let end = (start..bytes.len()).find(|&at| !is_digit(at)).unwrap_or(bytes.len());
    let number = NUMBERS[random.below(NUMBERS.len())].as_bytes();
    [&bytes[..start], number, &bytes[end..]].concat()
}

/// A value in JSON replaced: of the whole, of one line, or of the header behind a length.
fn json(bytes: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    if let Some(changed) = document(bytes, random) {
        return Some(changed);
    }
    let length = bytes.get(..8).map(|length| u64::from_le_bytes(length.try_into().unwrap_or_default()));
    if let Some(length) = length.and_then(|length| usize::try_from(length).ok())
        && let Some(header) = length.checked_add(8).and_then(|end| bytes.get(8..end))
    {
        let changed = document(header, random)?;
        return Some([&(changed.len() as u64).to_le_bytes(), &changed[..], &bytes[8 + length..]].concat());
    }
    // A byte that chooses may stand before the document.
    if let Some(changed) = bytes.get(1..).and_then(|rest| document(rest, random)) {
        return Some([&bytes[..1], &changed[..]].concat());
    }
    let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let at = random.below(lines.len());
    lines[at] = document(&lines[at], random)?;
    Some(lines.join(&b'\n'))
}

fn document(bytes: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let mut value: Json = serde_json::from_slice(bytes).ok()?;
    if !value.is_object() && !value.is_array() {
        return None;
    }
    let n_nodes = count(&value);
    // Another part of the document may take the place of a part.
    let other = nth(&value, &mut random.below(n_nodes)).cloned().unwrap_or_default();
    let mut place = random.below(n_nodes);
    let mark = "\u{1}mark\u{1}";
    let text = match random.below(14) {
        0 => "null".into(),
        1 => NUMBERS[random.below(NUMBERS.len())].into(),
        2 => "\"\"".into(),
        3 => Json::from("x".repeat(1 << random.below(16))).to_string(),
        4 => "[]".into(),
        5 => "{}".into(),
        6 => {
            let depth = 1 + random.below(300);
            format!("{}{}", "[".repeat(depth), "]".repeat(depth))
        }
        7 => {
            let depth = 1 + random.below(140);
            format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth))
        }
        8 => "true".into(),
        9 => format!("[{}]", vec![other.to_string(); 1 + random.below(20)].join(",")),
        10 => {
            // A key that stands twice.
            match nth(&value, &mut place.clone()) {
                Some(Json::Object(map)) if !map.is_empty() => {
                    let (key, old) = map.iter().nth(random.below(map.len()))?;
                    let all: Vec<String> =
                        map.iter().map(|(key, value)| format!("{}:{value}", Json::from(key.as_str()))).collect();
                    let twice = if random.below(2) == 0 { old.to_string() } else { other.to_string() };
                    format!("{{{},{}:{twice}}}", all.join(","), Json::from(key.as_str()))
                }
                _ => other.to_string(),
            }
        }
        11 => PIECES[random.below(PIECES.len())].into(),
        12 => Json::from(PIECES[random.below(PIECES.len())]).to_string(),
        _ => other.to_string(),
    };
    if random.below(8) == 0 {
        remove(&mut value, &mut place);
        return serde_json::to_vec(&value).ok();
    }
    *nth_mut(&mut value, &mut place)? = mark.into();
    let whole = value.to_string().replacen(&Json::from(mark).to_string(), &text, 1);
    Some(whole.into_bytes())
}

fn children(value: &Json) -> Box<dyn Iterator<Item = &Json> + '_> {
    match value {
        Json::Array(values) => Box::new(values.iter()),
        Json::Object(map) => Box::new(map.values()),
        _ => Box::new(std::iter::empty()),
    }
}

fn count(value: &Json) -> usize {
    1 + children(value).map(count).sum::<usize>()
}

fn nth<'a>(value: &'a Json, place: &mut usize) -> Option<&'a Json> {
    if *place == 0 {
        return Some(value);
    }
    *place -= 1;
    children(value).find_map(|child| nth(child, place))
}

fn nth_mut<'a>(value: &'a mut Json, place: &mut usize) -> Option<&'a mut Json> {
    if *place == 0 {
        return Some(value);
    }
    *place -= 1;
    match value {
        Json::Array(values) => values.iter_mut().find_map(|child| nth_mut(child, place)),
        Json::Object(map) => map.values_mut().find_map(|child| nth_mut(child, place)),
        _ => None,
    }
}

/// Takes an entry out of the part at `place`.
fn remove(value: &mut Json, place: &mut usize) {
    match nth_mut(value, place) {
        Some(Json::Array(values)) if !values.is_empty() => drop(values.remove(0)),
        Some(Json::Object(map)) => {
            if let Some(key) = map.keys().next_back().cloned() {
                map.shift_remove(&key);
            }
        }
        _ => {}
    }
}
