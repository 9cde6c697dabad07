//! Tells whether bytes are one JSON value (RFC 8259), in one pass that builds and allocates nothing and does not
//! recurse.
//!
//! Strings are skipped from stop to stop ([`Stops`]); everything else is read byte by byte. What it accepts is exactly
//! what serde_json does, whose errors have a line and a column: ask it why something was refused.

use super::stops::Stops;

/// The levels of nesting that one word records; its highest bit set marks the outermost one.
const LEVELS: usize = u64::BITS as usize - 1;
/// Words for the levels beyond the first [`LEVELS`]: enough for whatever fits in a datagram, `[` and `]` for each.
const OUTER_WORDS: usize = MOST_BYTES / 2 / LEVELS;
/// JSON of up to this many bytes is accepted whatever its nesting: more than any datagram has.
const MOST_BYTES: usize = 65_536;

/// Returns whether bytes are JSON; longer than [`MOST_BYTES`], also `false` where they are nested too deeply to tell.
pub(super) fn is_json(text: &[u8]) -> bool {
    match Reader::new(text, &mut []).read() {
        Ok(()) => true,
        Err(Refused::Invalid) => false,
        Err(Refused::TooDeep) => is_deep_json(text),
    }
}

/// The same from the beginning, with room for the whole nesting, which nothing else has to clear.
#[cold]
#[inline(never)]
fn is_deep_json(text: &[u8]) -> bool {
    Reader::new(text, &mut [0; OUTER_WORDS]).read().is_ok()
}

enum Refused {
    Invalid,
    TooDeep,
}

/// What is open around a place: for each level one bit, set where it is an object.
struct Nesting<'a> {
    /// The innermost levels, the last one lowest, below a bit that marks the end.
    inner: u64,
    /// The levels around them, [`LEVELS`] in each word.
    outer: &'a mut [u64],
    outer_used: usize,
}

impl Nesting<'_> {
    #[inline(always)]
    fn open(&mut self, object: bool) -> Result<(), Refused> {
        if self.inner >> LEVELS != 0 {
            *self.outer.get_mut(self.outer_used).ok_or(Refused::TooDeep)? = self.inner;
            self.outer_used += 1;
            self.inner = 1;
        }
        self.inner = self.inner << 1 | u64::from(object);
        Ok(())
    }

    /// Closes the innermost level.
    #[inline(always)]
    const fn close(&mut self) {
        self.inner >>= 1;
        if self.inner == 1 && self.outer_used > 0 {
            self.outer_used -= 1;
            self.inner = self.outer[self.outer_used];
        }
    }

    #[inline(always)]
    const fn is_empty(&self) -> bool {
        self.inner == 1
    }

    /// Returns whether the innermost level is an object, not an array.
    #[inline(always)]
    const fn in_object(&self) -> bool {
        self.inner & 1 == 1
    }
}

/// A text with the place up to which it has been read.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    stops: Stops,
    nesting: Nesting<'a>,
}

impl<'a> Reader<'a> {
    #[inline(always)]
    const fn new(text: &'a [u8], outer: &'a mut [u64]) -> Self {
        Self { text, at: 0, stops: Stops::new(), nesting: Nesting { inner: 1, outer, outer_used: 0 } }
    }

    /// Reads the whole text.
    #[inline(always)]
    fn read(mut self) -> Result<(), Refused> {
        loop {
            let first = self.next_token();
            if matches!(first, b'{' | b'[') {
                if self.opened(first)? {
                    continue;
                }
            } else {
                self.scalar(first)?;
            }
            // A value has ended, and with it perhaps those that it is in.
            loop {
                if self.nesting.is_empty() {
                    self.blanks();
                    return if self.at == self.text.len() { Ok(()) } else { Err(Refused::Invalid) };
                }
                match (self.next_token(), self.nesting.in_object()) {
                    (b',', false) => break,
                    (b',', true) => {
                        let quote = self.next_token();
                        self.key(quote)?;
                        break;
                    }
                    (b']', false) | (b'}', true) => self.nesting.close(),
                    _ => return Err(Refused::Invalid),
                }
            }
        }
    }

    /// Reads on after the bracket of an array or an object, and returns whether a value of it is to follow.
    #[inline(always)]
    fn opened(&mut self, bracket: u8) -> Result<bool, Refused> {
        let is_object = bracket == b'{';
        let next = self.next_token();
        if next == if is_object { b'}' } else { b']' } {
            return Ok(false);
        }
        self.nesting.open(is_object)?;
        if is_object {
            self.key(next)?;
        } else {
            self.at -= 1;
        }
        Ok(true)
    }

    /// Reads on after the first byte of what has no values in it.
    #[inline(always)]
    fn scalar(&mut self, first: u8) -> Result<(), Refused> {
        match first {
            b'"' => self.string(),
            b'0'..=b'9' => self.number(first),
            b'-' => {
                let digit = self.next();
                if digit.is_ascii_digit() { self.number(digit) } else { Err(Refused::Invalid) }
            }
            b't' => self.word(b"rue"),
            b'f' => self.word(b"alse"),
            b'n' => self.word(b"ull"),
            _ => Err(Refused::Invalid),
        }
    }

    #[inline(always)]
    fn word(&mut self, rest: &[u8]) -> Result<(), Refused> {
        if !self.text.get(self.at..).is_some_and(|text| text.starts_with(rest)) {
            return Err(Refused::Invalid);
        }
        self.at += rest.len();
        Ok(())
    }

    /// Reads on after the first digit of a number.
    #[inline(always)]
    fn number(&mut self, first: u8) -> Result<(), Refused> {
        if first != b'0' {
            self.digits();
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.some_digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Ok(())
    }

    #[inline(always)]
    fn some_digits(&mut self) -> Result<(), Refused> {
        if !self.next().is_ascii_digit() {
            return Err(Refused::Invalid);
        }
        self.digits();
        Ok(())
    }

    #[inline(always)]
    fn digits(&mut self) {
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
    }

    /// Reads a key from its quote to its colon.
    #[inline(always)]
    fn key(&mut self, quote: u8) -> Result<(), Refused> {
        if quote != b'"' {
            return Err(Refused::Invalid);
        }
        self.string()?;
        if self.next_token() == b':' { Ok(()) } else { Err(Refused::Invalid) }
    }

    /// Reads on after the opening quote of a string.
    #[inline(always)]
    fn string(&mut self) -> Result<(), Refused> {
        loop {
            self.at = self.stops.next(self.text, self.at);
            match self.next() {
                b'"' => return Ok(()),
                b'\\' => self.escape()?,
                0x80.. => self.beyond_ascii()?,
                _ => return Err(Refused::Invalid),
            }
        }
    }

    #[inline(always)]
    fn escape(&mut self) -> Result<(), Refused> {
        match self.next() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => {
                let digits = self.text.get(self.at..).and_then(|text| text.first_chunk::<4>());
                self.at += 4;
                // A surrogate without its other half is within the grammar (s8.2).
                if digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                    Ok(())
                } else {
                    Err(Refused::Invalid)
                }
            }
            _ => Err(Refused::Invalid),
        }
    }

    /// Reads on after the first byte of a string's text that is not ASCII, up to the quote or escape after it.
    #[inline(never)]
    fn beyond_ascii(&mut self) -> Result<(), Refused> {
        let text = self.text.get(self.at - 1..).unwrap_or_default();
        let length = text.iter().position(|byte| matches!(byte, ..b' ' | b'"' | b'\\')).unwrap_or(text.len());
        self.at += length - 1;
        if std::str::from_utf8(&text[..length]).is_ok() { Ok(()) } else { Err(Refused::Invalid) }
    }

    /// The next byte that is not blank, or NUL.
    #[inline(always)]
    fn next_token(&mut self) -> u8 {
        if self.peek() <= b' ' {
            self.blanks();
        }
        self.next()
    }

    #[inline(never)]
    fn blanks(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    #[inline(always)]
    fn next(&mut self) -> u8 {
        let byte = self.peek();
        self.at += 1;
        byte
    }

    /// The byte to be read next; at the end of the text NUL, which JSON has nowhere.
    #[inline(always)]
    fn peek(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    /// Returns whether a text is JSON, and asserts that serde_json says the same.
    fn is_judged_alike(text: &[u8]) -> bool {
        let expected = serde_json::from_slice::<&RawValue>(text).is_ok();
        assert_eq!(is_json(text), expected, "{:?}", String::from_utf8_lossy(text));
        expected
    }

    /// Documents of many shapes: short and long strings, escapes, other scripts, numbers, nesting, blanks.
    fn documents() -> Vec<Vec<u8>> {
        let mut documents: Vec<Vec<u8>> = [
            r#"{"sequence":123456,"text":"0123456789012345678901234567890123"}"#,
            r#"{"echo":"0123456789abcdef0123456789abcdef01234567","pad":"aaaa"}"#,
            "[[], {}, [{}], [[1,-2.5e+10,0,1E-7,true,false,null]], {\"a\":{\"b\":[]}}]\n",
            r#" {"\u00e9\ud800\"\\\/\b\f\n\r\t" : "\u0000" , "" : [ "" ] } "#,
            "[\"h\u{e9}llo \u{1f600} \u{65e5}\u{672c}\u{8a9e}\",\"plain\",\"\u{7f}\u{80}\u{10ffff}\"]",
            "0",
            "-0.0",
            "\"\"",
        ]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect();
        for length in (0..20).chain(58..70).chain(122..135) {
            documents.push(format!("\"{}\"", "x".repeat(length)).into_bytes());
            documents.push(format!("[\"{}\\n\"]", "\u{e9}".repeat(length)).into_bytes());
        }
        documents
    }

    #[test]
    fn every_byte_at_every_place_of_a_document_is_judged_as_serde_json_does() {
        for mut document in documents() {
            assert!(is_judged_alike(&document));
            for at in 0..document.len() {
                is_judged_alike(&document[..at]);
                is_judged_alike(&document[at..]);
                let original = document[at];
                for byte in 0..=255 {
                    document[at] = byte;
                    is_judged_alike(&document);
                }
                document[at] = original;
            }
        }
    }

    #[test]
    fn every_short_text_of_the_characters_with_a_meaning_is_judged_as_serde_json_does() {
        const CHARACTERS: &[u8; 14] = b"{}[],:\"\\ 01-.e";
        let mut accepted = 0;
        for length in 0..=5 {
            for number in 0..CHARACTERS.len().pow(length) {
                let mut rest = number;
                let mut text = [0; 5];
                for byte in &mut text[..length as usize] {
                    *byte = CHARACTERS[rest % CHARACTERS.len()];
                    rest /= CHARACTERS.len();
                }
                accepted += u32::from(is_judged_alike(&text[..length as usize]));
            }
        }
        assert!(accepted > 1000, "{accepted}");
    }

    #[test]
    fn nesting_as_deep_as_a_datagram_allows_is_told_from_what_closes_wrongly() {
        for depth in [1, 62, 63, 64, 65, 126, 127, 4000, 32_763] {
            let mut deep = [vec![b'['; depth], vec![b']'; depth]].concat();
            assert!(is_judged_alike(&deep), "{depth}");
            for wrong in [0, depth - 1, depth, 2 * depth - 1] {
                let right = std::mem::replace(&mut deep[wrong], b'}');
                assert!(!is_judged_alike(&deep), "{depth}, {wrong}");
                deep[wrong] = right;
            }
            let objects = [r#"{"a":"#.repeat(depth.min(10_000)), "1".into(), "}".repeat(depth.min(10_000))].concat();
            assert!(is_judged_alike(objects.as_bytes()));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn documents_with_some_bytes_changed_are_judged_as_serde_json_does(
            document in prop::sample::select(documents()),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 0..4),
        ) {
            let mut document = document;
            for (at, byte, kind) in changes {
                let at = at.index(document.len().max(1)).min(document.len());
                match kind {
                    0 => document.insert(at, byte),
                    1 if at < document.len() => {
                        document.remove(at);
                    }
                    _ if at < document.len() => document[at] = byte,
                    _ => {}
                }
            }
            is_judged_alike(&document);
        }
    }
}
