//! Text that is not TOML: explains what is wrong with it in an operator's words, with the key if there is one.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

use super::diagnosis::Diagnosis;
use super::faults::{printable, quoted};
use super::{keys, listen};

/// Notes the errors of a text, one for each line that has any; returns whether nothing but values is broken.
///
/// `document` is what toml made of the text in spite of them.
pub(super) fn report(diagnosis: &mut Diagnosis<'_>, document: &DeTable<'_>, errors: &[Error]) -> bool {
    let text = diagnosis.text;
    let mut errors: Vec<_> = errors.iter().map(|error| (start(text, error), error)).collect();
    errors.sort_by_key(|&(at, _)| at);
    let mut values = Vec::new();
    collect(text, document, &[], None, &mut values);
    values.sort_by_key(|value| value.place.start);
    let unclosed = cut_at_unclosed(&values, &mut errors);

    let mut only_values = true;
    let mut next_line = 0;
    for (at, error) in errors {
        let broken = values[..values.partition_point(|value| value.place.start <= at)].last();
        let broken = broken.filter(|value| at <= value.place.end);
        if let Some(value) = broken
            && diagnosis.spoilt.last() != Some(&value.place.start)
        {
            diagnosis.spoilt.push(value.place.start);
        }
        only_values &= broken.is_some();
        if at < next_line {
            continue;
        }
        next_line = text[at..].find('\n').map_or(text.len() + 1, |newline| at + newline + 1);
        diagnosis.note(at, |this| match broken {
            Some(value) => explain_value(this, value, at, error),
            None => explain(this, document, at, error),
        });
    }
    if let Some((value, closing)) = unclosed {
        diagnosis.spoilt.push(value.place.start);
        diagnosis.end = value.place.start;
        let what = match (value.value.get_ref(), closing) {
            (DeValue::Table(_), _) => "the table that begins here",
            (_, '}') => "a table in the list that begins here",
            _ => "the list that begins here",
        };
        diagnosis.note(value.place.start, |_| format!("{}: {what} has no closing {closing}", value.name()));
    }
    only_values
}

/// Finds the list or inline table that runs to the end of the text because a bracket or brace is missing, and returns
/// it with the missing character; removes the errors that follow from it.
///
/// If a string in it is not closed either, that is the fault.
fn cut_at_unclosed<'v, 'd, 'i>(
    values: &'v [Value<'d, 'i>],
    errors: &mut Vec<(usize, &Error)>,
) -> Option<(&'v Value<'d, 'i>, char)> {
    let begins = |error: &Error, kinds: &[&str]| kinds.iter().any(|kind| error.message().starts_with(kind));
    let &(end, error) = errors.iter().find(|(_, error)| begins(error, &["unclosed array", "unclosed inline table"]))?;
    let closing = if begins(error, &["unclosed array"]) { ']' } else { '}' };
    let holds = |value: &Value<'_, '_>, at| value.place.contains(&at) || value.place.end == at;
    let mut candidates =
        values.iter().filter(|value| value.value.get_ref().is_array() || value.value.get_ref().is_table());
    // toml may have given up on it before the end: then it is the last one that contains an error.
    let holds_error = |value: &&Value<'_, '_>| {
        let next = errors.partition_point(|&(at, _)| at <= value.place.start);
        errors.get(next).is_some_and(|&(at, _)| holds(value, at))
    };
    let value = candidates.clone().find(|value| holds(value, end)).or_else(|| candidates.rfind(holds_error))?;
    let inside = errors.partition_point(|&(at, _)| at < value.place.start);
    // From here on toml took other keys for elements.
    let swallowed = errors[inside..].iter().position(|(_, error)| error.message().starts_with("unexpected `=`"));
    let swallowed = swallowed.map_or(errors.len(), |count| inside + count);
    let is_string = |(_, error): &(usize, &Error)| begins(error, &["invalid basic string", "invalid literal string"]);
    let string = errors[inside..swallowed].iter().position(is_string);
    errors.truncate(string.map_or(inside, |number| inside + number + 1));
    if let Some(number) = string {
        errors.drain(inside..inside + number);
        return None;
    }
    Some((value, closing))
}

/// The byte at which an error begins: the start of a character, or the end of the text.
fn start(text: &str, error: &Error) -> usize {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    (0..=at).rfind(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// A value that is not a table of the file, with its key and its place in the text.
struct Value<'d, 'i> {
    path: Vec<&'d str>,
    /// In a table under `[[name]]`: the length of the path to `name`, and the table's number.
    element: Option<(usize, usize)>,
    place: Range<usize>,
    value: &'d Spanned<DeValue<'i>>,
}

impl Value<'_, '_> {
    /// The key as a message shows it.
    fn name(&self) -> String {
        match self.element {
            None => keys::shown(&self.path),
            Some((length, number)) => {
                let (list, key) = self.path.split_at(length);
                format!("{}.{}", keys::shown_element(list, Some(number)), keys::shown(key))
            }
        }
    }
}

fn collect<'d, 'i>(
    text: &str,
    table: &'d DeTable<'i>,
    path: &[&'d str],
    element: Option<(usize, usize)>,
    values: &mut Vec<Value<'d, 'i>>,
) {
    for (key, value) in table {
        let path = [path, &[&**key.get_ref()]].concat();
        let place = value.span();
        let source = text.get(place.clone()).unwrap_or_default();
        match value.get_ref() {
            // toml forgets what is broken in the inline table of a listener: it is checked as a whole.
            DeValue::Table(table) if path != ["listen"] || !source.starts_with('{') => {
                collect(text, table, &path, element, values);
            }
            DeValue::Array(list) if source.starts_with("[[") && list.iter().all(|table| is_headed(text, table)) => {
                for (number, table) in list.iter().filter_map(|table| table.get_ref().as_table()).enumerate() {
                    collect(text, table, &path, element.or(Some((path.len(), number))), values);
                }
            }
            _ => values.push(Value { path, element, place, value }),
        }
    }
}

/// Returns whether this is a table under a header, `[[name]]`.
fn is_headed(text: &str, element: &Spanned<DeValue<'_>>) -> bool {
    element.get_ref().is_table() && text.get(element.span()).is_some_and(|source| source.starts_with("[["))
}

/// Explains what is wrong with the value of a key.
fn explain_value(diagnosis: &Diagnosis<'_>, broken: &Value<'_, '_>, at: usize, error: &Error) -> String {
    let text = diagnosis.text;
    let (number, part) = innermost(broken.value, at);
    if broken.path == ["listen"]
        && let Some(begin) = open_brace(text, broken.place.start..at)
    {
        return explain_listener(diagnosis, number, begin, at, error);
    }
    let name = broken.name();
    let judge = |text: &str| diagnosis.judge_text(&broken.path, part.span(), text);
    // Would it be valid in quotes?
    let line = text[broken.place.start..].lines().next().unwrap_or_default();
    let line = line.split('#').next().unwrap_or_default().trim();
    let inner = line.strip_prefix('[').and_then(|line| line.strip_suffix(']'));
    let is_list = diagnosis.default_of(&broken.path).is_some_and(toml::Value::is_array);
    if let Some(&meant) = [line, inner.unwrap_or(line)].iter().find(|text| judge(text) == Some(Ok(()))) {
        return match (is_list, inner) {
            (true, Some(inner)) if inner == meant => format!("{name}: text must be quoted: [\"{}\"]", printable(meant)),
            _ => format!("{name}: {}", needs_quotes(diagnosis, &broken.path, meant)),
        };
    }
    let reason = explain_scalar(diagnosis, &broken.path, part.span(), error);
    format!("{name}: {reason}")
}

/// The last brace in this part of the text, if it opens.
fn open_brace(text: &str, part: Range<usize>) -> Option<usize> {
    let brace = part.start + text.get(part)?.rfind(['{', '}'])?;
    text[brace..].starts_with('{').then_some(brace)
}

/// Explains what is wrong in the inline table of a listener, which begins at this byte.
fn explain_listener(
    diagnosis: &Diagnosis<'_>,
    number: Option<usize>,
    begin: usize,
    at: usize,
    error: &Error,
) -> String {
    let text = diagnosis.text;
    let name = keys::shown_element(&["listen"], number);
    // toml's own reading of it may be wrong: only the text itself is certain.
    let pair_begin = text[begin..at].rfind(['{', ',']).map_or(begin, |separator| begin + separator + 1);
    let pair_end = text[at..].find([',', '}', '\n']).map_or(text.len(), |separator| at + separator);
    let pair = &text[pair_begin..pair_end];
    let Some((key, value)) = pair.split_once('=') else {
        let after_key = pair.trim().trim_start_matches(|c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        return if after_key.starts_with(':') {
            format!("{name}: expected `=` after the key, not `:`")
        } else {
            format!("{name}: expected a table such as {}", listen::EXAMPLE)
        };
    };
    let key = key.trim();
    let value_begin = pair_end - value.trim_start().len();
    let place = value_begin..value_begin + value.trim().len();
    let reason = match error.message() {
        "duplicate key" => "the key is set twice".to_owned(),
        _ => explain_scalar(diagnosis, &["listen", key], place, error),
    };
    format!("{name}.{}: {reason}", keys::shown(&[key]))
}

/// Explains what is wrong with a value that is neither a list nor a table, or with an element of a list.
fn explain_scalar(diagnosis: &Diagnosis<'_>, path: &[&str], place: Range<usize>, error: &Error) -> String {
    let source = diagnosis.text.get(place.clone()).unwrap_or_default();
    let message = || match error.message() {
        message if message.starts_with("invalid literal string") => "the closing ' is missing".to_owned(),
        message if message.starts_with("invalid basic string") => "the closing \" is missing".to_owned(),
        message => message.to_owned(),
    };
    let is_word = source.starts_with(char::is_alphabetic) || error.message().starts_with("string values must");
    match (diagnosis.judge_text(path, place, source), source.chars().next()) {
        (Some(Ok(())), _) => needs_quotes(diagnosis, path, source),
        (None, _) if is_word => must_be_quoted(source),
        (None, _) => message(),
        (Some(Err(_)), None) => "a value is missing".to_owned(),
        (Some(Err(_)), Some(quote @ ('"' | '\''))) if source.len() == 1 || !source.ends_with(quote) => {
            format!("the closing {quote} is missing")
        }
        (Some(Err(_)), Some('"' | '\'' | '[' | '{')) => message(),
        (Some(Err(reason)), Some(_)) => reason,
    }
}

/// Explains that text which would be valid in quotes needs them.
fn needs_quotes(diagnosis: &Diagnosis<'_>, path: &[&str], source: &str) -> String {
    if diagnosis.default_of(path).is_some_and(toml::Value::is_integer) {
        format!("sizes with a unit are strings: \"{}\"", printable(source))
    } else {
        must_be_quoted(source)
    }
}

fn must_be_quoted(source: &str) -> String {
    format!("text must be quoted: \"{}\"", printable(source))
}

/// The innermost value of a list at this byte, and the number of the list's element that contains it.
fn innermost<'d, 'i>(value: &'d Spanned<DeValue<'i>>, at: usize) -> (Option<usize>, &'d Spanned<DeValue<'i>>) {
    let (mut value, mut first) = (value, None);
    while let DeValue::Array(list) = value.get_ref()
        && let Some(number) = list.iter().rposition(|element| element.span().start <= at && at <= element.span().end)
    {
        value = &list[number];
        first = first.or(Some(number));
    }
    (first, value)
}

/// Explains an error outside values.
fn explain(diagnosis: &Diagnosis<'_>, document: &DeTable<'_>, at: usize, error: &Error) -> String {
    let before = &diagnosis.text[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = diagnosis.text[line_start..].lines().next().unwrap_or_default().trim();
    let message = error.message();
    if let Some(header) = line.strip_prefix('[') {
        let name = header.trim_start_matches('[').trim_end_matches(']');
        return match message {
            "duplicate key" => {
                format!("{}: the table is defined twice", keys::shown(&name.split('.').collect::<Vec<_>>()))
            }
            _ => format!("{}: {message}", quoted(line)),
        };
    }
    let key = line.split(['=', ':', ' ', '\t']).next().unwrap_or_default().trim();
    let table = before[..line_start].lines().rev().find_map(|line| line.trim().strip_prefix('['));
    let table = table.and_then(|header| header.trim_start_matches('[').split(']').next());
    let path: Vec<_> = table.into_iter().chain([key]).flat_map(|name| name.split('.')).map(str::trim).collect();
    let first = match table {
        Some(table) => document.get(table).and_then(|table| table.get_ref().as_table()?.get_key_value(key)),
        None => document.get_key_value(key),
    };
    match (message, first) {
        ("duplicate key", Some((first, _))) => {
            let line = diagnosis.text[..first.span().start].matches('\n').count() + 1;
            format!("{}: the key is set twice, first on line {line}", keys::shown(&path))
        }
        _ => format!("{}: {}", keys::shown(&path), without_equals_sign(line, key).unwrap_or(message)),
    }
}

/// Explains what is wrong with a line that sets a key without `=`.
fn without_equals_sign(line: &str, key: &str) -> Option<&'static str> {
    let rest = line.strip_prefix(key)?.trim_start();
    match rest.chars().next() {
        Some('=') => None,
        Some(':') => Some("expected `=` after the key, not `:`"),
        _ => Some("expected `=` after the key"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::diagnosis::faults;

    fn lines(text: &str) -> Vec<String> {
        faults(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn text_without_quotes_is_shown_with_quotes() {
        for (text, expected) in [
            ("[log]\nlevel = info", "2:9: log.level: text must be quoted: \"info\""),
            ("receive-buffer-bytes = 8MiB", "1:24: receive-buffer-bytes: sizes with a unit are strings: \"8MiB\""),
            ("reply = { protocol = json }", "1:22: reply.protocol: text must be quoted: \"json\""),
            ("listen = [::]:9000 # all", "1:11: listen: text must be quoted: \"[::]:9000\""),
            ("listen = [[::]:9000]", "1:12: listen: text must be quoted: [\"[::]:9000\"]"),
            ("listen = 127.0.0.1:9000", "1:15: listen: text must be quoted: \"127.0.0.1:9000\""),
            ("[access]\ndeny = [192.0.2.0/24, ::1]", "2:14: access.deny: text must be quoted: \"192.0.2.0/24\""),
            ("[log]\nrequests = yes", "2:12: log.requests: expected true or false, not `yes`"),
            ("workers = two", "1:11: workers: expected a whole number from 0 to 256, not `two`"),
            ("workers = 1_", "1:12: workers: expected a whole number from 0 to 256, not `1_`"),
            ("workers =", "1:10: workers: a value is missing"),
            ("[log]\nlevel = 'info", "2:14: log.level: the closing ' is missing"),
        ] {
            assert_eq!(lines(text), [expected], "{text}");
        }
        let of_an_unknown_key = lines("[log]\nlevle = info");
        assert_eq!(of_an_unknown_key[1..], ["2:9: log.levle: text must be quoted: \"info\""]);
    }

    #[test]
    fn a_broken_listener_is_reported_with_its_key() {
        for (listen, expected) in [
            ("[{ address = [::]:7, protocol = 'raw' }]", "1:24: listen[0].address: text must be quoted: \"[::]:7\""),
            ("{ address = [::]:7, protocol = 'raw' }", "1:23: listen.address: text must be quoted: \"[::]:7\""),
            (
                "['[::]:1', { address = '[::]:7', protocol = raw }]",
                "1:54: listen[1].protocol: text must be quoted: \"raw\"",
            ),
            (
                "{ address = '[::]:7', protocol = rwa }",
                "1:43: listen.protocol: expected \"json\" or \"raw\", not `rwa`",
            ),
            ("[{ address = , protocol = 'raw' }]", "1:23: listen[0].address: a value is missing"),
            ("[{ address: '[::]:7' }]", "1:20: listen[0]: expected `=` after the key, not `:`"),
            (
                "[{ '[::]:7' }]",
                "1:22: listen[0]: expected a table such as { address = \"[::]:7\", protocol = \"raw\" }",
            ),
            ("[{ address = '[::]:7', address = '[::]:8' }]", "1:33: listen[0].address: the key is set twice"),
        ] {
            let text = format!("listen = {listen}\nworkers = 300");
            let workers = "2:11: workers: expected a whole number from 0 to 256, not `300`";
            assert_eq!(lines(&text), [expected, workers], "{listen}");
        }
        assert_eq!(
            lines("[[listen]]\naddress = [::]:7\nprotocol = rwa\n[[listen]]\nprotocol: 'raw'"),
            [
                "2:12: listen[0].address: text must be quoted: \"[::]:7\"",
                "3:12: listen[0].protocol: expected \"json\" or \"raw\", not `rwa`",
                "5:9: listen.protocol: expected `=` after the key, not `:`",
            ]
        );
        assert_eq!(lines("[listen]\naddress = [::]:7"), ["2:12: listen.address: text must be quoted: \"[::]:7\""]);
    }

    #[test]
    fn a_listener_that_is_not_closed_is_reported_where_it_begins() {
        for (listen, expected) in [
            ("{ address = '[::]:7', protocol = 'raw'", "2:10: listen: the table that begins here has no closing }"),
            (
                "[{ address = '[::]:7', protocol = 'raw' ]",
                "2:10: listen: a table in the list that begins here has no closing }",
            ),
            (
                "[\n{ address = '[::]:7', protocol = 'raw'\n]",
                "2:10: listen: a table in the list that begins here has no closing }",
            ),
            ("[{ address = '[::]:7' }", "2:10: listen: the list that begins here has no closing ]"),
            ("[{ address = '[::]:7', protocol = 'raw }]", "2:51: listen: the closing ' is missing"),
        ] {
            let text =
                format!("workers = 300\nlisten = {listen}\nreceive-buffer-bytes = 4096\n[log]\nlevel = 'info'\n");
            let workers = "1:11: workers: expected a whole number from 0 to 256, not `300`";
            assert_eq!(lines(&text), [workers, expected], "{listen}");
        }
    }

    #[test]
    fn a_broken_value_hides_no_other_fault() {
        let text = "workers = 300\nreceive-buffer-bytes = 8MiB\n[log]\nlevel = info\ntraget = 'auto'\n";
        assert_eq!(
            lines(text),
            [
                "1:11: workers: expected a whole number from 0 to 256, not `300`",
                "2:24: receive-buffer-bytes: sizes with a unit are strings: \"8MiB\"",
                "4:9: log.level: text must be quoted: \"info\"",
                "5:1: log.traget: unknown key; did you mean `target`?",
            ]
        );
    }

    #[test]
    fn other_errors_are_reported_with_their_key_and_without_what_follows_from_them() {
        for (text, expected) in [
            ("workers = 1\nworkers = 2", "2:1: workers: the key is set twice, first on line 1"),
            ("[log]\nlevel = 'info'\n\nlevel = 'warn'", "4:1: log.level: the key is set twice, first on line 2"),
            ("log.level 'info'", "1:11: log.level: expected `=` after the key"),
            ("[log]\n[reply]\n[log]", "3:2: log: the table is defined twice"),
            ("[log\nlevel = 'info'", "1:5: `[log`: unclosed table, expected `]`"),
            ("[log]\nlevel 'info'", "2:7: log.level: expected `=` after the key"),
            ("[log]\nlevel", "2:6: log.level: expected `=` after the key"),
            ("listen = [\n'a'\n'b'\n]", "3:1: listen: missing comma between array elements, expected `,`"),
        ] {
            assert_eq!(lines(text), [expected], "{text}");
        }
    }

    #[test]
    fn a_list_that_is_not_closed_is_reported_where_it_begins_without_what_follows_from_it() {
        let allow = "workers = 300\n[access]\nallow = [\n";
        for rest in [
            "'10.0.0.0/8',\n[rate-limit]\nper-second = 5\nexempt = []\n",
            "'10.0.0.0/8'\n\n[rate-limit]\nper-second = 5\n[log]\nlevel='x'",
            "[log]\nlevel = 'info\n",
            "# ]",
            "[['::1',",
            "",
        ] {
            assert_eq!(
                lines(&format!("{allow}{rest}")),
                [
                    "1:11: workers: expected a whole number from 0 to 256, not `300`",
                    "3:9: access.allow: the list that begins here has no closing ]",
                ],
                "{rest}"
            );
        }
        let unclosed = "1:10: listen: the list that begins here has no closing ]";
        assert_eq!(lines("listen = [\n'[::]:1',\nworkers = 3\n[log]\nlevel = 'info'\n"), [unclosed]);
        // It is the quote that is missing.
        assert_eq!(lines("listen = ['::1', \"[::]:9]\nworkers = 3\n"), ["1:26: listen: the closing \" is missing"]);
    }

    #[test]
    fn a_colon_in_place_of_the_equals_sign_is_named() {
        for text in ["[access]\nallow: ['10.0.0.0/8']", "[access]\nallow : ['10.0.0.0/8']", "[access]\nallow: x"] {
            let lines = lines(text);
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(lines[0].ends_with(": access.allow: expected `=` after the key, not `:`"), "{lines:?}");
        }
        assert_eq!(lines("[log]\nlevel: info\nrequests: true").len(), 2, "each line that has one");
    }
}
