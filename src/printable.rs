//! Untrusted bytes as one line of printable ASCII, cut at a limit.
//!
//! JSON may hold raw newlines between its tokens and control or bidirectional characters inside its strings; plain
//! bytes may hold anything. What is written here is safe in a log line and on a terminal. Knows bytes only.

use std::fmt::{self, Display, Write};

use crate::counted::counted;

/// How bytes are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// Text: blanks outside JSON strings are collapsed, all but printable ASCII becomes `\uXXXX`.
    Json,
    /// Any bytes: all but printable ASCII, and the backslash itself, becomes `\xNN`.
    Raw,
}

/// Bytes that display as one line of printable ASCII.
///
/// When the escaped text would be longer than the limit, it ends with ` ... (N bytes left out)`, where N counts bytes
/// of the input.
///
/// ```
/// use echo_udpd::printable::Printable;
/// assert_eq!(Printable::json("{\"a\":\n \"\u{e9}\"}\n".as_bytes()).to_string(), r#"{"a": "\u00e9"}"#);
/// assert_eq!(Printable::raw(b"a\\\n").to_string(), r"a\x5c\x0a");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a> {
    bytes: &'a [u8],
    style: Style,
    limit: usize,
}

impl<'a> Printable<'a> {
    /// Shows JSON as JSON of the same meaning; blanks between its tokens become one space.
    #[must_use]
    pub fn json(bytes: &'a [u8]) -> Self {
        Self { bytes, style: Style::Json, limit: usize::MAX }
    }

    /// Shows any bytes.
    #[must_use]
    pub fn raw(bytes: &'a [u8]) -> Self {
        Self { bytes, style: Style::Raw, limit: usize::MAX }
    }

    /// Cuts the line after at most `limit` characters, counted after escaping.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    fn fmt_raw(&self, line: &mut Line<'_, '_>) -> fmt::Result {
        for (at, &byte) in self.bytes.iter().enumerate() {
            let shown = match byte {
                b'\\' => line.escape(format_args!("\\x5c"))?,
                b' '..=b'~' => line.character(byte)?,
                _ => line.escape(format_args!("\\x{byte:02x}"))?,
            };
            if !shown {
                return line.cut(self.bytes.len() - at);
            }
        }
        Ok(())
    }

    fn fmt_json(&self, line: &mut Line<'_, '_>) -> fmt::Result {
        let mut at = 0;
        let mut text = JsonText::default();
        for chunk in self.bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                if !text.show(character, line)? {
                    return line.cut(self.bytes.len() - at);
                }
                at += character.len_utf8();
            }
            for &byte in chunk.invalid() {
                if !line.escape(format_args!("\\x{byte:02x}"))? {
                    return line.cut(self.bytes.len() - at);
                }
                at += 1;
            }
        }
        Ok(())
    }
}

/// The beginning of a text: at most this many bytes, cut between characters.
#[cfg(feature = "daemon")]
pub(crate) fn beginning(text: &str, max_bytes: usize) -> &str {
    let end = (0..=max_bytes.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

impl Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Line { out: f, left: self.limit };
        match self.style {
            Style::Json => self.fmt_json(&mut line),
            Style::Raw => self.fmt_raw(&mut line),
        }
    }
}

/// The line being written, and how many characters it may still take.
struct Line<'a, 'f> {
    out: &'a mut fmt::Formatter<'f>,
    left: usize,
}

impl Line<'_, '_> {
    /// Writes one character if it fits; returns whether it did.
    fn character(&mut self, byte: u8) -> Result<bool, fmt::Error> {
        if self.left == 0 {
            return Ok(false);
        }
        self.left -= 1;
        self.out.write_char(char::from(byte))?;
        Ok(true)
    }

    /// Writes one escape, whole or not at all; returns whether it did.
    fn escape(&mut self, text: fmt::Arguments<'_>) -> Result<bool, fmt::Error> {
        struct Length(usize);
        impl Write for Length {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0 += text.len();
                Ok(())
            }
        }
        let mut length = Length(0);
        length.write_fmt(text)?;
        if length.0 > self.left {
            return Ok(false);
        }
        self.left -= length.0;
        self.out.write_fmt(text)?;
        Ok(true)
    }

    /// Ends a line that is cut before this many bytes of input.
    fn cut(&mut self, bytes: usize) -> fmt::Result {
        write!(self.out, " ... ({} left out)", counted(bytes as u64, "byte"))
    }
}

/// Where in a JSON text the writer is: blanks mean nothing outside strings.
#[derive(Default)]
struct JsonText {
    in_string: bool,
    after_backslash: bool,
    blank_pending: bool,
    started: bool,
}

impl JsonText {
    /// Writes the next character if it fits; returns whether it did.
    fn show(&mut self, character: char, line: &mut Line<'_, '_>) -> Result<bool, fmt::Error> {
        if !self.in_string && matches!(character, ' ' | '\t' | '\n' | '\r') {
            self.blank_pending = self.started;
            return Ok(true);
        }
        if self.blank_pending {
            if !line.character(b' ')? {
                return Ok(false);
            }
            self.blank_pending = false;
        }
        self.started = true;
        if self.in_string {
            match character {
                _ if self.after_backslash => self.after_backslash = false,
                '\\' => self.after_backslash = true,
                '"' => self.in_string = false,
                _ => {}
            }
        } else if character == '"' {
            self.in_string = true;
        }
        match u8::try_from(character) {
            Ok(byte @ b' '..=b'~') => line.character(byte),
            _ => match *character.encode_utf16(&mut [0; 2]) {
                [high, low] => line.escape(format_args!("\\u{high:04x}\\u{low:04x}")),
                _ => line.escape(format_args!("\\u{:04x}", u32::from(character))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_outside_strings_collapse_and_inside_stay() {
        let text = " \r\n{ \"a  b\" :\t\n[1 ,\n\n2]\n}\n";
        assert_eq!(Printable::json(text.as_bytes()).to_string(), r#"{ "a  b" : [1 , 2] }"#);
    }

    #[test]
    fn an_escaped_quote_does_not_end_a_string() {
        assert_eq!(Printable::json(br#"["a\"  b\\",  1]"#).to_string(), r#"["a\"  b\\", 1]"#);
    }

    #[test]
    fn every_character_becomes_printable_ascii_of_the_same_meaning() {
        let every: String = (' '..='\u{10ffff}').step_by(7).filter(|c| !matches!(c, '"' | '\\')).collect();
        let quoted = format!("\"{every}\"");
        let line = Printable::json(quoted.as_bytes()).to_string();
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), every);
    }

    #[test]
    fn controls_bidi_marks_and_invalid_bytes_are_escaped() {
        let shown = Printable::json(b"\"\x7f\xc2\x85\xe2\x80\xae\xff\x1b[31m\"").to_string();
        assert_eq!(shown, "\"\\u007f\\u0085\\u202e\\xff\\u001b[31m\"");
        assert_eq!(Printable::raw(b"\x00a\xff\r\n").to_string(), "\\x00a\\xff\\x0d\\x0a");
    }

    #[cfg(feature = "daemon")]
    #[test]
    fn a_beginning_is_cut_between_characters() {
        let text = "a\u{e9}b";
        assert_eq!([0, 1, 2, 3, 4, 9].map(|limit| beginning(text, limit)), ["", "a", "a", "a\u{e9}", text, text]);
    }

    #[test]
    fn the_limit_counts_escaped_characters_and_says_what_was_left_out() {
        let text = "\"\u{e9}\u{e9}\"".as_bytes();
        assert_eq!(Printable::json(text).limit(14).to_string(), "\"\\u00e9\\u00e9\"");
        assert_eq!(Printable::json(text).limit(12).to_string(), "\"\\u00e9 ... (3 bytes left out)");
        assert_eq!(Printable::raw(b"abc").limit(2).to_string(), "ab ... (1 byte left out)");
        assert_eq!(Printable::json(text).limit(13).to_string(), "\"\\u00e9\\u00e9 ... (1 byte left out)");
        assert_eq!(Printable::json(b"\"\xff\xffab").limit(9).to_string(), "\"\\xff\\xff ... (2 bytes left out)");
        assert_eq!(Printable::json(b"\"\xff\xffab").limit(8).to_string(), "\"\\xff ... (3 bytes left out)");
        assert_eq!(Printable::raw(b"a\\bcd").limit(5).to_string(), "a\\x5c ... (3 bytes left out)");
        assert_eq!(Printable::json(b"12 \n").limit(2).to_string(), "12");
    }
}
