//! Compares JSON texts: some things a server may write differently, others not.
//!
//! Whitespace between tokens and the escapes in strings may differ. Digits, the order of members and duplicate members
//! belong to what was sent: a server that changes them has not echoed it. No value is built, so neither nesting depth
//! nor the size of numbers matters, nor do lone surrogates.

use std::str::EncodeUtf16;

use serde_json::value::RawValue;

/// Returns whether both consist of the same tokens in the same order; strings are compared without their escapes, all
/// other tokens byte for byte.
pub(super) fn is_same(a: &RawValue, b: &RawValue) -> bool {
    Pieces::of(a).eq(Pieces::of(b))
}

/// A part of a JSON text, without whitespace and escapes.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    /// A character of a token outside strings, or a quote at either end of a string. In valid JSON one of these always
    /// separates two tokens, never whitespace alone.
    Syntax(u16),
    /// A UTF-16 code unit of a string (RFC 8259 s7: an escape is one unit).
    Content(u16),
}

/// Reads a valid JSON text piece by piece.
struct Pieces<'a> {
    units: EncodeUtf16<'a>,
    in_string: bool,
}

impl<'a> Pieces<'a> {
    fn of(json: &'a RawValue) -> Self {
        Self { units: json.get().encode_utf16(), in_string: false }
    }

    /// The unit that an escape stands for; its backslash has been read.
    fn escaped(&mut self) -> Option<u16> {
        let unit = self.units.next()?;
        Some(match character(unit) {
            'b' => 0x08,
            'f' => 0x0c,
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            'u' => {
                let digits = self.units.by_ref().take(4).filter_map(|digit| character(digit).to_digit(16));
                return u16::try_from(digits.fold(0, |unit, digit| unit << 4 | digit)).ok();
            }
            _ => unit,
        })
    }
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let mut unit = self.units.next()?;
        while !self.in_string && matches!(character(unit), ' ' | '\t' | '\n' | '\r') {
            unit = self.units.next()?;
        }
        match character(unit) {
            '"' => self.in_string = !self.in_string,
            '\\' => return self.escaped().map(Piece::Content),
            _ if self.in_string => return Some(Piece::Content(unit)),
            _ => {}
        }
        Some(Piece::Syntax(unit))
    }
}

/// The character of this unit; half of a surrogate pair is none that matters to the grammar.
fn character(unit: u16) -> char {
    char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::printable::Printable;

    fn raw(text: &str) -> Option<&RawValue> {
        serde_json::from_str(text).ok()
    }

    fn same(a: &str, b: &str) -> bool {
        is_same(raw(a).unwrap(), raw(b).unwrap())
    }

    #[test]
    fn blanks_and_escapes_are_ways_of_writing() {
        for (a, b) in [
            (r#"{"a":[1,"b"]}"#, " {\t\"a\" :\r\n[ 1 , \"b\" ] }\n"),
            (r#""\u00e9""#, "\"\u{e9}\""),
            (r#""\u00e9""#, r#""\u00E9""#),
            (r#""\ud83d\ude00""#, "\"\u{1f600}\""),
            (r#""\b\f\n\r\t\/\"\\""#, r#""\u0008\u000c\u000a\u000d\u0009/\u0022\u005c""#),
            (r#"{"\u0061":null}"#, r#"{"a":null}"#),
            (r#"["\ud800",1e400]"#, r#"[ "\uD800", 1e400 ]"#),
        ] {
            assert!(same(a, b), "{a} {b}");
        }
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        assert!(same(&deep, &deep.replace('[', "[ ")));
    }

    #[test]
    fn digits_order_and_members_are_what_was_sent() {
        for (a, b) in [
            (r#"{"t":0.1}"#, r#"{"t":0.1000000000000000055511151231257827}"#),
            (r#"{"id":1.0000000000000000001}"#, r#"{"id":1.0000000000000000002}"#),
            (r#"{"a":1}"#, r#"{"a":1.0}"#),
            ("1e2", "1E2"),
            ("-0", "0"),
            (r#"{"a":1}"#, r#"{"a":9,"a":1}"#),
            (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#),
            ("[1]", "[1,1]"),
            (r#"["a","b"]"#, r#"["a\",\"b"]"#),
            (r#"["a b"]"#, r#"["ab"]"#),
            (r#"["\ud800"]"#, r#"["\udc00"]"#),
            (r#""A""#, r#""a""#),
            ("\"1\"", "1"),
            ("\"\u{122}\"", "\"\\\"\""),
            ("[\"\u{15c}n\"]", r#"["\n"]"#),
        ] {
            assert!(!same(a, b) && !same(b, a), "{a} {b}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let plain = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[ -~\n]{0,8}".prop_map(Value::from),
        ];
        plain.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(Value::from),
                vec(("[a-c\"\\\\ ]{0,2}", inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_again_is_the_same(value in value()) {
            let compact = value.to_string();
            prop_assert!(same(&compact, &serde_json::to_string_pretty(&value).unwrap()));
            // In ASCII alone, as Python's json writes.
            prop_assert!(same(&compact, &Printable::json(compact.as_bytes()).to_string()));
        }

        #[test]
        fn a_changed_byte_is_a_difference(value in value(), at: prop::sample::Index, byte in b' '..=b'~') {
            let compact = value.to_string();
            let mut changed = compact.clone().into_bytes();
            let at = at.index(changed.len());
            // The case of an escape's digits means nothing.
            prop_assume!(!changed[at].eq_ignore_ascii_case(&byte));
            changed[at] = byte;
            let Some(changed) = str::from_utf8(&changed).ok().and_then(raw) else { return Ok(()) };
            prop_assert!(!is_same(raw(&compact).unwrap(), changed), "{compact} {changed}");
        }

        #[test]
        fn members_in_another_order_are_a_difference(
            members in vec(("[ab]", 0..3), 2..6).prop_map(|members| {
                members.into_iter().map(|(key, value)| format!("\"{key}\":{value}")).collect::<Vec<_>>()
            }),
        ) {
            let mut rotated = members.clone();
            rotated.rotate_left(1);
            let text = |members: &[String]| format!("{{{}}}", members.join(","));
            prop_assert_eq!(same(&text(&members), &text(&rotated)), members == rotated);
        }
    }
}
