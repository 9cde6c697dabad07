//! Finds everything that is wrong in the text of a settings file, once it is known that something is.
//!
//! Each key is read by itself, in the order of the file, so that one fault hides no other. What the keys are, and of
//! which kind their values, is taken from the defaults: every setting has one. The time is linear in the length of
//! the text, whatever it holds.

use serde::Deserialize;
use serde::de::IntoDeserializer;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::faults::{Faults, MAX_SHOWN, printable, quoted};
use super::{MAX_REFILL_SECONDS, Settings, keys, syntax};

/// Everything that is wrong in a text that is not a valid settings file.
pub(super) fn faults(text: &str) -> Faults {
    let (document, errors) = DeTable::parse_recoverable(text);
    let known = toml::Table::try_from(Settings::default()).unwrap_or_default();
    let mut diagnosis =
        Diagnosis { text, known: &known, found: Vec::new(), room: MAX_SHOWN, more: 0, spoilt: Vec::new() };
    // What toml makes of a broken text is worth a look only where nothing but values is broken.
    if errors.is_empty() || syntax::report(&mut diagnosis, document.get_ref(), &errors) {
        diagnosis.room = MAX_SHOWN;
        diagnosis.table(&[], &known, document.get_ref());
    }
    if errors.is_empty() {
        diagnosis.room = MAX_SHOWN;
        diagnosis.burst(document.get_ref());
    }
    Faults::new(text, diagnosis.found, diagnosis.more)
}

/// The faults found so far.
pub(super) struct Diagnosis<'t> {
    pub(super) text: &'t str,
    /// Every table and key, with its default.
    pub(super) known: &'t toml::Table,
    /// Each with the byte where it is.
    found: Vec<(usize, String)>,
    /// The number that still get a text: each pass over the file may find the first ones of it.
    room: usize,
    /// The number of those without a text.
    more: usize,
    /// The places, in rising order, of values that are not TOML: what became of them says nothing.
    pub(super) spoilt: Vec<usize>,
}

impl Diagnosis<'_> {
    /// Notes a fault at this byte of the text.
    pub(super) fn note(&mut self, offset: usize, message: impl FnOnce(&Self) -> String) {
        match self.room.checked_sub(1) {
            Some(room) => {
                let message = message(self);
                self.found.push((offset, message));
                self.room = room;
            }
            None => self.more += 1,
        }
    }

    /// Looks at each key of a table.
    fn table(&mut self, path: &[&str], known: &toml::Table, table: &DeTable<'_>) {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let (at, key) = (key.span().start, &**key.get_ref());
            let is_table = value.get_ref().is_table();
            let inner = [path, &[key]].concat();
            match (known.get(key), value.get_ref()) {
                (None, _) => self.note(at, |this| keys::unknown(this.known, path, key, is_table)),
                (Some(toml::Value::Table(known)), DeValue::Table(table)) => self.table(&inner, known, table),
                (Some(default), _) if self.spoilt.binary_search(&value.span().start).is_err() => {
                    self.value(&inner, default, value);
                }
                _ => {}
            }
        }
    }

    /// Looks at the value of a key.
    fn value(&mut self, path: &[&str], default: &toml::Value, value: &Spanned<DeValue<'_>>) {
        match (default, value.get_ref()) {
            (toml::Value::Array(_), DeValue::Array(list)) => self.list(path, default, value, list),
            _ => {
                if let Some(message) = self.judge(path, default, value) {
                    self.note(value.span().start, |_| format!("{}: {message}", keys::shown(path)));
                }
            }
        }
    }

    /// Looks at each element of a list; where each is good by itself, for the first that does not go with the others.
    fn list(&mut self, path: &[&str], default: &toml::Value, value: &Spanned<DeValue<'_>>, list: &DeArray<'_>) {
        if self.judge(path, default, value).is_none() {
            return;
        }
        let mut each_is_good = true;
        for (number, element) in list.iter().enumerate() {
            if let Some(message) = self.judge(path, default, &list_of(std::slice::from_ref(element))) {
                each_is_good = false;
                let at = element.span().start;
                self.note(at, |_| format!("{}[{number}]: {message}", keys::shown(path)));
            }
        }
        if each_is_good {
            let lengths: Vec<_> = (1..list.len()).collect();
            let is_good = |&length: &usize| self.judge(path, default, &list_of(&list[..length])).is_none();
            let number = lengths.partition_point(is_good);
            let (at, shorter) = match list.get(number) {
                Some(element) => (element.span().start, list_of(&list[..=number])),
                None => (value.span().start, value.clone()),
            };
            let message = self.judge(path, default, &shorter).unwrap_or_default();
            self.note(at, |_| format!("{}: {message}", keys::shown(path)));
        }
    }

    /// Says what is wrong with a value, in plain words.
    pub(super) fn judge(&self, path: &[&str], default: &toml::Value, value: &Spanned<DeValue<'_>>) -> Option<String> {
        let error = read(path, value).err()?;
        // The source of a list of one element is the element.
        let source = match value.get_ref() {
            DeValue::Array(list) if list.len() == 1 => list[0].span(),
            _ => value.span(),
        };
        let source = self.text.get(source).unwrap_or_default();
        let message = match error.message() {
            // Nothing was said of what was expected.
            message if message.ends_with("overflowed") => read(path, &table_for(value)).err()?.message().to_owned(),
            message if message.ends_with("expected text in quotes") => match quoted_element(value, source) {
                None => message.to_owned(),
                Some(element) => match read(path, &element) {
                    Ok(_) => return Some(must_be_quoted(source)),
                    Err(error) => error.message().to_owned(),
                },
            },
            message => message.to_owned(),
        };
        // The source of a table that a dotted key or a header makes is its name.
        let is_named = value.get_ref().is_table() && !source.starts_with('{');
        let found = if is_named { "a table".to_owned() } else { quoted(source) };
        Some(in_plain_words(&message, path, default, source, &found))
    }

    /// Looks at the one rule that binds two keys.
    fn burst(&mut self, document: &DeTable<'_>) {
        let Some(table) = document.get("rate-limit") else { return };
        let Ok(Settings { rate_limit, .. }) = read(&["rate-limit"], table) else { return };
        let (rate, burst) = (rate_limit.per_second.value(), rate_limit.burst.value());
        let (least, most) = rate_limit.sensible_bursts().into_inner();
        if (least..=most).contains(&burst) {
            return;
        }
        let place = |key: &str| table.get_ref().get(key).map(|value| value.span().start);
        let refill = format!("a burst has to refill within {MAX_REFILL_SECONDS} s");
        let (key, rule) = if burst < least {
            ("burst", format!("must be at least {least}, what the largest datagram costs, unless per-second = 0"))
        } else if place("burst").is_some() {
            let by_default = if place("per-second").is_none() { " (the default)" } else { "" };
            ("burst", format!("must be at most {most}: {refill} at per-second = {rate}{by_default}"))
        } else {
            let needed = burst.div_ceil(MAX_REFILL_SECONDS);
            ("per-second", format!("must be at least {needed}: {refill}, with burst = {burst} (the default)"))
        };
        self.note(place(key).unwrap_or_default(), |_| format!("rate-limit.{key}: {rule}"));
    }
}

/// The settings of a file that has this one value.
fn read(path: &[&str], value: &Spanned<DeValue<'_>>) -> Result<Settings, toml::de::Error> {
    let mut document = value.clone();
    for &key in path.iter().rev() {
        let mut table = DeTable::new();
        table.insert(Spanned::new(0..0, key.into()), document);
        document = Spanned::new(0..0, DeValue::Table(table));
    }
    Settings::deserialize(document.into_deserializer())
}

/// Some elements of a list as a list, or a list of an element.
pub(super) fn list_of<'i>(elements: &[Spanned<DeValue<'i>>]) -> Spanned<DeValue<'i>> {
    let span =
        elements.first().map_or(0, |first| first.span().start)..elements.last().map_or(0, |last| last.span().end);
    let mut list = DeArray::new();
    elements.iter().cloned().for_each(|element| list.push(element));
    Spanned::new(span, DeValue::Array(list))
}

/// A list of one element, a number or the like, as if this element were in quotes.
fn quoted_element<'i>(list: &Spanned<DeValue<'i>>, source: &str) -> Option<Spanned<DeValue<'i>>> {
    match list.get_ref().as_array()?.iter().next()?.get_ref() {
        DeValue::Array(_) | DeValue::Table(_) | DeValue::String(_) => None,
        _ => Some(list_of(&[Spanned::new(list.span(), DeValue::String(source.to_owned().into()))])),
    }
}

/// Says that quotes are missing.
pub(super) fn must_be_quoted(source: &str) -> String {
    format!("text must be quoted: \"{}\"", printable(source))
}

/// A table in place of a value, which nothing takes for one.
fn table_for<'i>(value: &Spanned<DeValue<'i>>) -> Spanned<DeValue<'i>> {
    let table = Spanned::new(value.span(), DeValue::Table(DeTable::new()));
    if value.get_ref().is_array() { list_of(&[table]) } else { table }
}

/// Puts a message of serde in an operator's words, with what stands in the file.
fn in_plain_words(message: &str, path: &[&str], default: &toml::Value, source: &str, found: &str) -> String {
    // Of serde's "invalid type: .., expected .." the latter part is ours.
    let expected = message.strip_prefix("expected ").or_else(|| {
        let is_serdes = message.starts_with("invalid type: ") || message.starts_with("invalid value: ");
        message.rsplit_once(", expected ").filter(|_| is_serdes).map(|(_, expected)| expected)
    });
    match (default, expected) {
        (toml::Value::Table(_), Some(_)) => format!("expected a table, [{}], not {found}", path.join(".")),
        (toml::Value::Array(_), Some("a sequence")) if source.starts_with(['"', '\'']) => {
            format!("expected a list: [{}]", printable(source))
        }
        (toml::Value::Array(_), Some("a sequence")) => format!("expected a list in brackets, not {found}"),
        (toml::Value::Boolean(_), Some(_)) => format!("expected true or false, not {found}"),
        (_, Some(expected)) => format!("expected {expected}, not {found}"),
        (_, None) => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(text: &str) -> Vec<String> {
        faults(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_fault_is_found_in_the_order_of_the_file() {
        let text = "wrokers = 2
receive-buffer-bytes = '8MB'
listen = ['[::]:1', 'x', '[ff02::1]:1']
log = 5
[rate-limit]
per-second = 1
[access]
allow = [\"192.0.2.7/24\", '::1']
deny = 'x'
";
        assert_eq!(
            lines(text),
            [
                "1:1: wrokers: unknown key; did you mean `workers`?",
                "2:24: receive-buffer-bytes: expected 4096 to 1073741824 bytes, such as 8388608 or \"8MiB\" (units: \
                 KiB, MiB, GiB or K, M, G), not '8MB'",
                "3:21: listen[1]: expected an address and a port, such as \"[::]:9000\" or \"192.0.2.1:9000\", not 'x'",
                "3:26: listen[2]: `[ff02::1]:1` is a multicast address, and only datagrams to one host get a reply",
                "4:7: log: expected a table, [log], not `5`",
                "6:14: rate-limit.per-second: must be at least 2: a burst has to refill within 300 s, with burst = 400 \
                 (the default)",
                "8:10: access.allow[0]: `192.0.2.7/24` has host bits set; did you mean `192.0.2.0/24`?",
                "9:8: access.deny: expected a list: ['x']",
            ]
        );
    }

    #[test]
    fn a_key_that_does_not_exist_gets_the_one_that_was_meant() {
        for (text, expected) in [
            ("receive_buffer_bytes = 1", "receive_buffer_bytes: unknown key; did you mean `receive-buffer-bytes`?"),
            ("Workers = 1", "Workers: unknown key; did you mean `workers`?"),
            ("[rate_limit]\nburst = 60", "rate_limit: unknown table; did you mean [rate-limit]?"),
            ("level = 'info'", "level: unknown key; `level` belongs in [log]"),
            ("[log]\nper_second = 1", "log.per_second: unknown key; `per-second` belongs in [rate-limit]"),
            (
                "[log]\nworkers = 1",
                "log.workers: unknown key; `workers` belongs at the top of the file, before the first table",
            ),
            ("[log.reply]\na = 1", "log.reply: unknown table; did you mean [reply]?"),
            ("[log]\nlevle = 'info'", "log.levle: unknown key; did you mean `level`?"),
            ("[logging]\nlevel = 'info'", "logging: unknown table; did you mean [log]?"),
            ("[limits]\nburst = 60", "limits: unknown table; did you mean [rate-limit]?"),
            ("[rate-limit]\nburst-size = 60", "rate-limit.burst-size: unknown key; did you mean `burst`?"),
            ("[metrics]\nport = 1", "metrics: unknown table; the tables are [access], [log], [rate-limit], [reply]"),
            ("[log.metrics]\n", "log.metrics: unknown table; the tables are [access], [log], [rate-limit], [reply]"),
            ("[reply]\nport = 1", "reply.port: unknown key; [reply] has invalid-json, protocol"),
            (
                "port = 1",
                "port: unknown key; the keys before the first table are listen, receive-buffer-bytes, \
                 send-buffer-bytes, workers",
            ),
            ("\"a\\nb\" = 1", "`a\\nb`: unknown key; the keys before the first table are listen, "),
        ] {
            let lines = lines(text);
            assert_eq!(lines.len(), 1, "{lines:?}");
            let (_, message) = lines[0].split_once(": ").unwrap();
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn an_address_that_does_not_go_with_an_earlier_one_is_shown_where_it_is() {
        let text = "listen = [\n  '[::]:1',\n  '[::]:2',\n  '127.0.0.1:1',\n  '0.0.0.0:2',\n]";
        assert_eq!(lines(text), ["4:3: listen: `[::]:1` includes `127.0.0.1:1`: list one of them"]);
        assert_eq!(lines("listen = ['[::]:1', '[::]:1']"), ["1:21: listen: `[::]:1` is listed twice"]);
        let none = "1:10: listen: expected at least one address, such as [\"[::]:9000\"], not `[]`";
        assert_eq!(lines("listen = []"), [none]);
    }

    #[test]
    fn what_is_no_text_is_told_how_it_would_be() {
        for (text, expected) in [
            ("[access]\ndeny-source-ports = [1900]", "access.deny-source-ports[0]: text must be quoted: \"1900\""),
            (
                "[access]\ndeny-source-ports = ['1', 190000]",
                "access.deny-source-ports[1]: expected a port or a range of ports from 0 to 65535, such as \"1900\" or \
                 \"1-1023\", not `190000`",
            ),
            ("[access]\nallow = [true]", "access.allow[0]: expected an IP address or prefix, such as"),
            (
                "log.level.name = 'x'",
                "log.level: expected \"error\", \"warn\", \"info\", \"debug\" or \"trace\", not a table",
            ),
            ("[access]\nallow = [[]]", "access.allow[0]: expected text in quotes, not `[]`"),
            ("listen = [9000]", "listen[0]: expected an address and a port, such as \"[::]:9000\" or"),
        ] {
            let [line] = &lines(text)[..] else { panic!("{text}") };
            let (_, message) = line.split_once(": ").unwrap();
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn a_prefix_that_is_too_long_is_told_the_limit() {
        let text = "[access]\nallow = ['10.0.0.0/33', '::/129', '10.0.0.0/999']";
        let bits = |family: &str, bits| format!("an {family} prefix has at most {bits} bits");
        assert_eq!(
            lines(text),
            [
                format!("2:10: access.allow[0]: {}", bits("IPv4", 32)),
                format!("2:25: access.allow[1]: {}", bits("IPv6", 128)),
                format!("2:35: access.allow[2]: {}", bits("IPv4", 32)),
            ]
        );
    }

    /// The longest line of a fault, without the file's name.
    const LONGEST_LINE: usize = 250;

    #[test]
    fn many_long_keys_make_no_long_line() {
        let key = vec!["k".repeat(80); 70].join(".");
        for text in [
            format!("{key} = 1"),
            format!("{key} = x"),
            format!("{key} 1"),
            format!("[{key}]\na = x"),
            format!("[{key}"),
            format!("{key} = 1\n{key} = 1"),
            format!("[{key}]\n[{key}]"),
            format!("{key} = ["),
        ] {
            let lines = lines(&text);
            assert!(!lines.is_empty() && lines.iter().all(|line| line.chars().count() <= LONGEST_LINE), "{lines:#?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_long_line(pieces in prop::collection::vec(piece(), 1..30)) {
            let text = pieces.concat();
            if Settings::parse(&text).is_err() {
                for line in lines(&text) {
                    prop_assert!(line.chars().count() <= LONGEST_LINE, "{}", line);
                }
            }
        }
    }

    /// What settings are made of, right and wrong, short and long.
    fn piece() -> impl Strategy<Value = String> {
        let known = toml::Table::try_from(Settings::default()).unwrap();
        let names = known.iter().flat_map(|(name, value)| {
            let keys = value.as_table().into_iter().flatten().map(|(key, _)| format!("{key} = "));
            keys.chain([format!("{name} = "), format!("[{name}]\n")])
        });
        let signs =
            ["\n", "\n", ", ", "=", ".", ":", "[", "]", "[[", "{", "}", "'", "\"", "\"\"\"", "#", "1", "x", "\\"];
        let odd = ["\u{202e}", "\u{1b}", "'", "-", "k", "k.", "[", "[1,", "1"].map(|text| text.repeat(90));
        let all: Vec<_> = names.chain(signs.map(String::from)).chain(odd).collect();
        prop_oneof![3 => prop::sample::select(all), 1 => "[a-z0-9.:/'\"]{0,200}"]
    }

    #[test]
    fn a_long_value_is_cut_and_control_characters_are_escaped() {
        let long = format!("[log]\nlevel = \"\\u001b{}\"", "x".repeat(1000));
        let [line] = &lines(&long)[..] else { panic!() };
        assert!(line.ends_with("xxx...") && line.len() < 200, "{line}");
        let odd = "workers = '\u{202e}\t'";
        assert_eq!(lines(odd), ["1:11: workers: expected a whole number from 0 to 256, not '\\u{202e}\\t'"]);
    }

    #[test]
    fn many_faults_are_counted() {
        let text: String = (0..500).map(|number| format!("key-{number} = {number}\n")).collect();
        let faults = faults(&text);
        assert_eq!((faults.len(), faults.iter().count()), (500, MAX_SHOWN));
        assert!(faults.to_string().ends_with(" (and 499 more)"), "{faults}");
    }

    #[test]
    fn the_time_is_linear_in_the_length_of_a_hostile_text() {
        let length = 1 << 18;
        let begun = std::time::Instant::now();
        for piece in ["1,", "[[]],", "'x',", "'127.0.0.1:1',"] {
            let more = faults(&format!("listen = [{}]", piece.repeat(length / piece.len()))).len();
            assert!(more > 1 || piece.contains(':'), "{piece}");
        }
        for piece in ["=", "a\n", "a=b\n", "[", "workers=1\n", "a.", "x"] {
            faults(&piece.repeat(length / piece.len()));
        }
        // Some seconds on a busy machine without optimisation; hours if it were quadratic.
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{:?}", begun.elapsed());
    }
}
