//! Finds everything that is wrong in the text of a settings file that could not be read.
//!
//! Each key is read by itself, in the order of the file, so that no fault hides another. The keys and the kinds of
//! their values are taken from the defaults: every setting has one. The time is linear in the length of the text,
//! whatever it contains.

use std::ops::Range;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use super::faults::{Faults, MAX_SHOWN, quoted};
use super::{ListenEntry, Settings, keys, listen, syntax};
use crate::admission::MAX_REFILL_SECONDS;

/// Finds everything that is wrong in a text that is not a valid settings file.
pub(super) fn faults(text: &str) -> Faults {
    let (document, errors) = DeTable::parse_recoverable(text);
    let known = toml::Table::try_from(Settings::default()).unwrap_or_default();
    let mut diagnosis = Diagnosis {
        text,
        known: &known,
        found: Vec::new(),
        room: MAX_SHOWN,
        more: 0,
        spoilt: Vec::new(),
        end: text.len(),
    };
    // The document that toml makes of a broken text is worth checking only if nothing but values is broken.
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
    /// Each message with the byte where its fault is.
    found: Vec<(usize, String)>,
    /// The number of faults that still get a message; each pass over the file starts with the full number, since it may
    /// find the first faults of the file.
    room: usize,
    /// The number of faults without a message.
    more: usize,
    /// The places, in ascending order, of values that are not TOML: what toml made of them is not checked.
    pub(super) spoilt: Vec<usize>,
    /// The end of what is checked: keys beyond it belong to a list or table that is not closed.
    pub(super) end: usize,
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

    /// Checks each key of a table.
    fn table(&mut self, path: &[&str], known: &toml::Table, table: &DeTable<'_>) {
        for (key, value) in in_order_of_the_file(table) {
            let (at, key) = (key.span().start, &**key.get_ref());
            if at > self.end {
                break;
            }
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

    /// Checks the value of a key.
    fn value(&mut self, path: &[&str], default: &toml::Value, value: &Spanned<DeValue<'_>>) {
        match (default, value.get_ref()) {
            (toml::Value::Array(_), DeValue::Array(list)) => self.list(path, default, value, list),
            (toml::Value::Array(_), _) => {
                self.element(path, None, default, value);
            }
            _ => {
                if let Some(message) = self.judge(path, default, value) {
                    self.note(value.span().start, |_| format!("{}: {message}", keys::shown(path)));
                }
            }
        }
    }

    /// Checks each element of a list; if each is valid by itself, finds the first that conflicts with an earlier one.
    fn list(&mut self, path: &[&str], default: &toml::Value, value: &Spanned<DeValue<'_>>, list: &DeArray<'_>) {
        if self.judge(path, default, value).is_none() {
            return;
        }
        let mut each_is_good = true;
        for (number, element) in list.iter().enumerate() {
            each_is_good &= self.element(path, Some(number), default, element);
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

    /// Checks an element of a list, or a single one without a list; returns whether it is valid.
    fn element(
        &mut self,
        path: &[&str],
        number: Option<usize>,
        default: &toml::Value,
        element: &Spanned<DeValue<'_>>,
    ) -> bool {
        if let (["listen"], DeValue::Table(table)) = (path, element.get_ref()) {
            return self.listener(number, default, element, table);
        }
        let Some(message) = self.judge_as(default, element, |element| read_element(path, element)) else { return true };
        self.note(element.span().start, |_| format!("{}: {message}", keys::shown_element(path, number)));
        false
    }

    /// Checks the table of a listener; returns whether it is valid.
    fn listener(
        &mut self,
        number: Option<usize>,
        default: &toml::Value,
        element: &Spanned<DeValue<'_>>,
        table: &DeTable<'_>,
    ) -> bool {
        let name = || keys::shown_element(&["listen"], number);
        let (mut is_good, mut is_complete) = (true, table.contains_key("address"));
        for (key, value) in in_order_of_the_file(table) {
            if self.spoilt.binary_search(&value.span().start).is_ok() {
                is_good = false;
                continue;
            }
            let (key_at, key) = (key.span().start, &**key.get_ref());
            if !ListenEntry::KEYS.contains(&key) {
                // This may be `address`, misspelt.
                is_complete = true;
                is_good = false;
                self.note(key_at, |_| keys::unknown_of_listener(&name(), key));
            } else if let Some(message) = self.judge_as(default, value, |value| read_listener(key, value)) {
                is_good = false;
                self.note(value.span().start, |_| format!("{}.{key}: {message}", name()));
            }
        }
        if !is_complete {
            self.note(element.span().start, |_| {
                format!("{}: the key `address` is missing; expected a table such as {}", name(), listen::EXAMPLE)
            });
        }
        is_good && is_complete
    }

    /// Explains what is wrong with a value, in plain words; `None` if nothing is.
    fn judge(&self, path: &[&str], default: &toml::Value, value: &Spanned<DeValue<'_>>) -> Option<String> {
        let message = self.judge_as(default, value, |value| read(path, value))?;
        if default.is_table() {
            return Some(expected(&format!("a table, [{}]", path.join(".")), &self.found(value)));
        }
        Some(message)
    }

    /// Explains what would be wrong with this text as a key's value, or as an element of it; `None` if there is no such
    /// key.
    pub(super) fn judge_text(&self, path: &[&str], place: Range<usize>, text: &str) -> Option<Result<(), String>> {
        let text = Spanned::new(place, DeValue::String(text.to_owned().into()));
        let message = match (path, self.default_of(path)) {
            (["listen", key], _) if ListenEntry::KEYS.contains(key) => {
                self.judge_as(self.known.get("listen")?, &text, |text| read_listener(key, text))
            }
            (_, None) => return None,
            (_, Some(list @ toml::Value::Array(_))) => self.judge_as(list, &text, |text| read_element(path, text)),
            (_, Some(default)) => self.judge(path, default, &text),
        };
        Some(message.map_or(Ok(()), Err))
    }

    /// The default of a key, if it exists.
    pub(super) fn default_of(&self, path: &[&str]) -> Option<&toml::Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.known.get(*first)?, |table, &key| table.get(key))
    }

    /// Explains what is wrong with a value that `read` reads; `None` if nothing is.
    fn judge_as(
        &self,
        default: &toml::Value,
        value: &Spanned<DeValue<'_>>,
        read: impl Fn(&Spanned<DeValue<'_>>) -> Result<Settings, toml::de::Error>,
    ) -> Option<String> {
        let error = read(value).err()?;
        let message = error.message();
        // These say little about what is expected; the message about the same value as text says more.
        let says_little = message.ends_with("overflowed")
            || message.ends_with("expected text in quotes")
            || value.get_ref().is_datetime();
        let error = if says_little { read(&as_text(value, self.source(value))).err().unwrap_or(error) } else { error };
        Some(in_plain_words(error.message(), default, &self.found(value)))
    }

    /// The text of a value.
    fn source(&self, value: &Spanned<DeValue<'_>>) -> &str {
        self.text.get(value.span()).unwrap_or_default()
    }

    /// The text of a value as a message shows it.
    fn found(&self, value: &Spanned<DeValue<'_>>) -> String {
        let source = self.source(value);
        // The source of a table made by a dotted key or a header is its name.
        let is_named = value.get_ref().is_table() && !source.starts_with('{');
        if is_named { "a table".to_owned() } else { quoted(source) }
    }

    /// Checks the one rule that involves two keys.
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

/// The keys of a table and their values.
fn in_order_of_the_file<'t, 'i>(table: &'t DeTable<'i>) -> Vec<(&'t Spanned<DeString<'i>>, &'t Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// Reads a file that contains this one value.
fn read(path: &[&str], value: &Spanned<DeValue<'_>>) -> Result<Settings, toml::de::Error> {
    let mut document = value.clone();
    for &key in path.iter().rev() {
        let mut table = DeTable::new();
        table.insert(Spanned::new(0..0, key.into()), document);
        document = Spanned::new(0..0, DeValue::Table(table));
    }
    Settings::deserialize(document.into_deserializer())
}

/// Reads a file that contains a list of this one element.
fn read_element(path: &[&str], element: &Spanned<DeValue<'_>>) -> Result<Settings, toml::de::Error> {
    read(path, &list_of(std::slice::from_ref(element)))
}

/// Reads a file that contains one listener, a table with this key.
fn read_listener(key: &str, value: &Spanned<DeValue<'_>>) -> Result<Settings, toml::de::Error> {
    let mut table = DeTable::new();
    let address = Spanned::new(0..0, DeValue::String("[::]:0".into()));
    table.insert(Spanned::new(0..0, "address".into()), address);
    table.insert(Spanned::new(0..0, key.into()), value.clone());
    read(&["listen"], &Spanned::new(value.span(), DeValue::Table(table)))
}

/// Some elements of a list as a list.
fn list_of<'i>(elements: &[Spanned<DeValue<'i>>]) -> Spanned<DeValue<'i>> {
    let mut list = DeArray::new();
    elements.iter().cloned().for_each(|element| list.push(element));
    Spanned::new(0..0, DeValue::Array(list))
}

/// A value as if it were in quotes.
fn as_text<'i>(value: &Spanned<DeValue<'i>>, source: &str) -> Spanned<DeValue<'i>> {
    Spanned::new(value.span(), DeValue::String(source.to_owned().into()))
}

/// Puts a message of serde in an operator's words, with the text of the file.
fn in_plain_words(message: &str, default: &toml::Value, found: &str) -> String {
    // In serde's "invalid type: .., expected .." the second part is ours.
    let form = message.strip_prefix("expected ").or_else(|| {
        let is_serdes = message.starts_with("invalid type: ") || message.starts_with("invalid value: ");
        message.rsplit_once(", expected ").filter(|_| is_serdes).map(|(_, expected)| expected)
    });
    match (default, form) {
        (toml::Value::Boolean(_), Some(_)) => expected("true or false", found),
        (_, Some(form)) => expected(form, found),
        (_, None) => message.to_owned(),
    }
}

fn expected(form: &str, found: &str) -> String {
    format!("expected {form}, not {found}")
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
                "9:8: access.deny: expected an IP address or prefix, such as \"192.0.2.0/24\" or \"2001:db8::/32\", \
                 not 'x'",
            ]
        );
    }

    #[test]
    fn an_unknown_key_gets_the_one_that_was_meant() {
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
                 send-buffer-bytes, udp-gro, workers",
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
    fn an_address_that_conflicts_with_an_earlier_one_is_shown_where_it_is() {
        let text = "listen = [\n  '[::]:1',\n  '[::]:2',\n  '127.0.0.1:1',\n  '0.0.0.0:2',\n]";
        assert_eq!(lines(text), ["4:3: listen: `[::]:1` includes `127.0.0.1:1`: list one of them"]);
        assert_eq!(lines("listen = ['[::]:1', '[::]:1']"), ["1:21: listen: `[::]:1` is listed twice"]);
        let tables = "listen = [{ address = '[::]:1' }, '[::]:2', { address = '[::1]:1', protocol = 'raw' }]";
        assert_eq!(lines(tables), ["1:45: listen: `[::]:1` includes `[::1]:1`: list one of them"]);
        let none = "1:10: listen: expected at least one address, such as [\"[::]:9000\"], not `[]`";
        assert_eq!(lines("listen = []"), [none]);
    }

    const NO_ADDRESS: &str = "expected an address and a port, such as \"[::]:9000\" or \"192.0.2.1:9000\"";
    const NO_LISTENER: &str = "expected an address and a port, such as \"[::]:9000\", or a table, such as { address = \
                               \"[::]:7\", protocol = \"raw\" }";
    const NO_PREFIX: &str = "expected an IP address or prefix, such as \"192.0.2.0/24\" or \"2001:db8::/32\"";
    const NO_PORTS: &str = "expected a port or a range of ports from 0 to 65535, such as 1900 or \"1-1023\"";

    #[test]
    fn the_message_about_a_wrong_type_says_what_is_expected() {
        for (text, expected) in [
            (
                "[access]\ndeny-source-ports = ['1', 190000, -1]",
                &[
                    format!("2:27: access.deny-source-ports[1]: {NO_PORTS}, not `190000`"),
                    format!("2:35: access.deny-source-ports[2]: {NO_PORTS}, not `-1`"),
                ][..],
            ),
            (
                "[access]\ndeny-source-ports = 70000",
                &[format!("2:21: access.deny-source-ports: {NO_PORTS}, not `70000`")],
            ),
            ("[access]\nallow = [true]", &[format!("2:10: access.allow[0]: {NO_PREFIX}, not `true`")]),
            ("[access]\nallow = [[]]", &[format!("2:10: access.allow[0]: {NO_PREFIX}, not `[]`")]),
            ("[access.allow]\na = 1", &[format!("1:1: access.allow: {NO_PREFIX}, not a table")]),
            (
                "log.level.name = 'x'",
                &["1:5: log.level: expected \"error\", \"warn\", \"info\", \"debug\" or \"trace\", not a table".into()],
            ),
            (
                "[reply]\nprotocol = ['raw']",
                &["2:12: reply.protocol: expected \"json\" or \"raw\", not ['raw']".into()],
            ),
            ("listen = [9000]", &[format!("1:11: listen[0]: {NO_LISTENER}, not `9000`")]),
            ("listen = true", &[format!("1:10: listen: {NO_LISTENER}, not `true`")]),
            ("listen = ''", &[format!("1:10: listen: {NO_ADDRESS}, not ''")]),
        ] {
            assert_eq!(lines(text), expected, "{text}");
        }
    }

    #[test]
    fn each_key_of_each_listener_is_checked() {
        let text = "listen = [
    'raw:[::]:7',
    { adress = '[::]:7', protocol = 'rwa' },
    { protocol = 'raw' },
    { address = 7, protocol = ['raw'], Address = 1, port = 7 },
    { address = ['[::]:7'] },
    { address = '224.0.0.1:1' },
    2026-11-24,
    [],
]
workers = 300";
        let table = "{ address = \"[::]:7\", protocol = \"raw\" }";
        assert_eq!(
            lines(text),
            [
                format!("2:5: listen[0]: a listener with its own protocol is a table, such as {table}"),
                "3:7: listen[1].adress: unknown key; did you mean `address`?".into(),
                "3:37: listen[1].protocol: expected \"json\" or \"raw\", not 'rwa'".into(),
                format!("4:5: listen[2]: the key `address` is missing; expected a table such as {table}"),
                format!("5:17: listen[3].address: {NO_ADDRESS}, not `7`"),
                "5:31: listen[3].protocol: expected \"json\" or \"raw\", not ['raw']".into(),
                "5:40: listen[3].Address: unknown key; did you mean `address`?".into(),
                "5:53: listen[3].port: unknown key; a listener has address, protocol".into(),
                format!("6:17: listen[4].address: {NO_ADDRESS}, not ['[::]:7']"),
                "7:17: listen[5].address: `224.0.0.1:1` is a multicast address, and only datagrams to one host get a \
                 reply"
                    .into(),
                format!("8:5: listen[6]: {NO_ADDRESS}, not `2026-11-24`"),
                format!("9:5: listen[7]: {NO_LISTENER}, not `[]`"),
                "11:11: workers: expected a whole number from 0 to 256, not `300`".into(),
            ]
        );
        for single in ["listen = { protocol = 7, port = 7 }", "[listen]\nprotocol = 7\nport = 7"] {
            let messages = lines(single).into_iter().map(|line| line.split_once(": ").unwrap().1.to_owned());
            let expected = [
                "listen.protocol: expected \"json\" or \"raw\", not `7`",
                "listen.port: unknown key; a listener has address, protocol",
            ];
            assert_eq!(messages.collect::<Vec<_>>(), expected, "{single}");
        }
        assert_eq!(
            lines("[[listen]]\nprotocol = 'raw'\n[[listen]]\naddress = 'x'"),
            [
                format!("1:1: listen[0]: the key `address` is missing; expected a table such as {table}"),
                format!("4:11: listen[1].address: {NO_ADDRESS}, not 'x'"),
            ]
        );
    }

    #[test]
    fn the_message_about_a_prefix_that_is_too_long_names_the_limit() {
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

    /// The parts that settings are made of, right and wrong, short and long.
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
        let start = std::time::Instant::now();
        for piece in ["1,", "[[]],", "'x',", "'127.0.0.1:1',", "{},", "{a=1},", "{address='127.0.0.1:1'},"] {
            let more = faults(&format!("listen = [{}]", piece.repeat(length / piece.len()))).len();
            assert!(more > 1 || piece.contains(':'), "{piece}");
        }
        for piece in ["=", "a\n", "a=b\n", "[", "workers=1\n", "a.", "x", "[[listen]]\n", "[[listen]]\naddress=x\n"] {
            faults(&piece.repeat(length / piece.len()));
        }
        faults(&format!("listen = [{}]", "{address=x},".repeat(length / 12)));
        faults(&format!("listen = [{}", "{address='x'\n,".repeat(length / 14)));
        // A few seconds on a busy machine without optimisation; hours if it were quadratic.
        assert!(start.elapsed() < std::time::Duration::from_secs(60), "{:?}", start.elapsed());
    }
}
