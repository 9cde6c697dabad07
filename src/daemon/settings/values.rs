//! The kinds of values in the settings file: each can hold only valid ones, and says what it expects.

use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Declares a choice between names, which may be written in any case.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$attribute:meta])* $variant:ident = $text:literal $(| $alias:literal)?,)+
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$attribute])* $variant,)+
        }

        impl $name {
            /// The name in the settings file.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// The names to choose from, as in `"json" or "raw"`.
            pub(super) fn expected() -> String {
                one_of(&[$($text),+])
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text.to_ascii_lowercase().as_str() {
                    $($text $(| $alias)? => Ok(Self::$variant),)+
                    _ => Err(format!("expected {}", Self::expected())),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Parsed { expected: Self::expected(), value: PhantomData })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }
    };
}

choice! {
    /// The form of a valid datagram.
    Protocol {
        /// Valid JSON.
        Json = "json",
        /// Anything (RFC 862).
        Raw = "raw",
    }
}
choice! {
    /// The reply to what is not JSON.
    InvalidJson {
        /// An error reply.
        Error = "error",
        /// None.
        Ignore = "ignore",
    }
}
choice! {
    /// The destination of the log.
    LogTarget {
        /// To journald when standard error is connected to it, else to standard error.
        Auto = "auto",
        /// To journald.
        Journald = "journald",
        /// To standard error.
        Stderr = "stderr",
    }
}
choice! {
    /// The least severe level that is logged.
    LogLevel {
        /// Only what the operator should act on.
        Error = "error",
        /// Also what the operator should know.
        Warn = "warn" | "warning",
        /// Also what happens in the ordinary course.
        Info = "info",
        /// Also what helps to find a fault.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

/// Names in quotes, to choose one of.
fn one_of(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Whole<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Whole<MIN, MAX> {
    /// This number.
    ///
    /// # Panics
    /// It is out of range.
    #[must_use]
    pub const fn of(number: u32) -> Self {
        assert!(MIN <= number && number <= MAX, "a number out of its range");
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0
    }

    fn within(number: i64) -> Option<Self> {
        u32::try_from(number).ok().filter(|number| (MIN..=MAX).contains(number)).map(Self)
    }
}

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number<const MIN: u32, const MAX: u32>;
        impl<const MIN: u32, const MAX: u32> Visitor<'_> for Number<MIN, MAX> {
            type Value = Whole<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {MIN} to {MAX}")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                Whole::within(number).ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
            }
        }
        deserializer.deserialize_i64(Number::<MIN, MAX>)
    }
}

/// A number of bytes from `MIN` to `MAX`: a whole number, or text with a unit as in systemd's files (`8M`, `8MiB`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Size<const MIN: u32, const MAX: u32>(Whole<MIN, MAX>);

impl<const MIN: u32, const MAX: u32> Size<MIN, MAX> {
    /// This number of bytes.
    ///
    /// # Panics
    /// They are out of range.
    #[must_use]
    pub const fn of(bytes: u32) -> Self {
        Self(Whole::of(bytes))
    }

    /// The number of bytes.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0.value()
    }
}

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Size<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes<const MIN: u32, const MAX: u32>;
        impl<const MIN: u32, const MAX: u32> Visitor<'_> for Bytes<MIN, MAX> {
            type Value = Size<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{MIN} to {MAX} bytes, such as 8388608 or \"8MiB\" (units: KiB, MiB, GiB or K, M, G)")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                Whole::within(number).map(Size).ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                let within = bytes(text).and_then(|number| Whole::within(number.into()));
                within.map(Size).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Bytes::<MIN, MAX>)
    }
}

/// The number of bytes that text such as `8MiB` stands for. `8MB` is refused: some would take it for 8 000 000.
fn bytes(text: &str) -> Option<u32> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor: u32 = match unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase().as_str() {
        "" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return None,
    };
    number.parse::<u32>().ok()?.checked_mul(factor)
}

/// A value that is written as text, or as a whole number that stands for its digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromText<T>(pub T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for FromText<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "text in quotes".to_owned();
        deserializer.deserialize_str(Parsed { expected, value: PhantomData }).map(Self)
    }
}

/// Parses text; `expected` describes it to those who wrote something else.
struct Parsed<T> {
    expected: String,
    value: PhantomData<T>,
}

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

impl<T: fmt::Display> Serialize for FromText<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A list of values; a single one needs no brackets.
pub(super) struct OneOrMore<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Values<T> {
            type Value = OneOrMore<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list in brackets")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<OneOrMore<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(OneOrMore)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<OneOrMore<T>, E> {
                T::deserialize(text.into_deserializer()).map(|value| OneOrMore(vec![value]))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<OneOrMore<T>, E> {
                T::deserialize(number.into_deserializer()).map(|value| OneOrMore(vec![value]))
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<OneOrMore<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(table)).map(|value| OneOrMore(vec![value]))
            }
        }
        deserializer.deserialize_any(Values(PhantomData))
    }
}

/// A list of at most `MAX` values that are written as text; a single one needs no brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T, const MAX: usize>(Vec<FromText<T>>);

impl<T, const MAX: usize> List<T, MAX> {
    /// These values.
    ///
    /// # Panics
    /// They are too many.
    #[must_use]
    pub fn of<const LENGTH: usize>(values: [T; LENGTH]) -> Self {
        assert!(LENGTH <= MAX, "more values than a list may have");
        Self(values.map(FromText).into())
    }

    /// The values.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|value| &value.0)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let OneOrMore(values) = OneOrMore::deserialize(deserializer)?;
        if values.len() > MAX {
            return Err(D::Error::custom(format_args!("the list is too long: at most {MAX} entries")));
        }
        Ok(Self(values))
    }
}

impl<T: fmt::Display, const MAX: usize> Serialize for List<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// A range of ports, or one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRange(pub(super) RangeInclusive<u16>);

impl FromStr for PortRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self(first..=last)),
            _ => Err("expected a port or a range of ports from 0 to 65535, such as 1900 or \"1-1023\""),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_means_what_systemd_means_by_it() {
        for (text, expected) in [
            ("8388608", Some(8 << 20)),
            ("8MiB", Some(8 << 20)),
            ("8M", Some(8 << 20)),
            ("8 mib", Some(8 << 20)),
            ("512KiB", Some(512 << 10)),
            ("512K", Some(512 << 10)),
            ("1GiB", Some(1 << 30)),
            ("1G", Some(1 << 30)),
            ("4G", None),
            ("8  MiB", None),
            ("8MB", None),
            ("8B", None),
            ("MiB", None),
            ("", None),
            ("-1", None),
            ("+1M", None),
            ("1.5M", None),
            ("1M ", None),
            ("\u{664}K", None),
        ] {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
    }
}
