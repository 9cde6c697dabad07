//! Text that is not TOML: what is wrong with it in an operator's words, with the key where there is one.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

use super::diagnosis::{Diagnosis, list_of, must_be_quoted};
use super::faults::{printable, quoted};
use super::keys;

/// Notes the errors of a text, one for each line that has any; says whether nothing but values is broken.
///
/// `document` is what toml made of the text all the same.
pub(super) fn report(diagnosis: &mut Diagnosis<'_>, document: &DeTable<'_>, errors: &[Error]) -> bool {
    let text = diagnosis.text;
    let mut errors: Vec<_> = errors.iter().map(|error| (start(text, error), error)).collect();
    errors.sort_by_key(|&(at, _)| at);
    let mut values = Vec::new();
    collect(document, &[], &mut values);
    values.sort_by_key(|value| value.place.start);
    let unclosed = cut_at_unclosed_list(&values, &mut errors);

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
            Some(value) => format!("{}: {}", keys::shown(&value.path), explain_value(this, value, at, error)),
            None => explain(this, document, at, error),
        });
    }
    if let Some(list) = unclosed {
        diagnosis.spoilt.push(list.place.start);
        diagnosis.note(list.place.start, |_| {
            format!("{}: the list that begins here has no closing ]", keys::shown(&list.path))
        });
    }
    only_values
}

/// Finds the list that runs to the end of the text because its bracket is missing, and drops the errors that follow
/// from it.
///
/// A string before that which is not closed either is what is wrong, and takes the list's place.
fn cut_at_unclosed_list<'v, 'd, 'i>(
    values: &'v [Value<'d, 'i>],
    errors: &mut Vec<(usize, &Error)>,
) -> Option<&'v Value<'d, 'i>> {
    let is_unclosed = |error: &Error| error.message().starts_with("unclosed array");
    let &(end, _) = errors.iter().find(|(_, error)| is_unclosed(error))?;
    let list = values.iter().find(|value| value.place.contains(&end) || value.place.end == end)?;
    let inside = errors.partition_point(|&(at, _)| at < list.place.start);
    // From here on other keys were taken for elements.
    let swallowed = errors[inside..].iter().position(|(_, error)| error.message().starts_with("unexpected `=`"));
    let swallowed = swallowed.map_or(errors.len(), |count| inside + count);
    let is_string = |(_, error): &(usize, &Error)| {
        ["invalid basic string", "invalid literal string"].iter().any(|kind| error.message().starts_with(kind))
    };
    let string = errors[inside..swallowed].iter().position(is_string);
    errors.truncate(string.map_or(inside, |number| inside + number + 1));
    if let Some(number) = string {
        errors.drain(inside..inside + number);
        return None;
    }
    Some(list)
}

/// The place of an error in the text, where a character begins or the text ends.
fn start(text: &str, error: &Error) -> usize {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    (0..=at).rfind(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// A value that is not a table, with its key and its place in the text.
struct Value<'d, 'i> {
    path: Vec<&'d str>,
    place: Range<usize>,
    value: &'d Spanned<DeValue<'i>>,
}

fn collect<'d, 'i>(table: &'d DeTable<'i>, path: &[&'d str], values: &mut Vec<Value<'d, 'i>>) {
    for (key, value) in table {
        let path = [path, &[&**key.get_ref()]].concat();
        match value.get_ref() {
            DeValue::Table(table) => collect(table, &path, values),
            _ => values.push(Value { path, place: value.span(), value }),
        }
    }
}

/// Says what is wrong with the value of a key.
fn explain_value(diagnosis: &Diagnosis<'_>, broken: &Value<'_, '_>, at: usize, error: &Error) -> String {
    let text = diagnosis.text;
    let broken_part = innermost(broken.value, at);
    let source = text.get(broken_part.span()).unwrap_or_default();
    let Some(default) = default_of(diagnosis, &broken.path) else {
        let is_word = source.starts_with(char::is_alphabetic) || error.message().starts_with("string values must");
        return if is_word { must_be_quoted(source) } else { error.message().to_owned() };
    };
    // Quoted, would it be right?
    let as_text = |text: &str| Spanned::new(broken_part.span(), DeValue::String(text.to_owned().into()));
    let line = text[broken.place.start..].lines().next().unwrap_or_default();
    let line = line.split('#').next().unwrap_or_default().trim();
    let inner = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')).unwrap_or(line);
    let is_element = |text: &str| diagnosis.judge(&broken.path, default, &list_of(&[as_text(text)])).is_none();
    if let Some(&meant) = [line, inner].iter().find(|text| is_element(text)) {
        return format!("text must be quoted: [\"{}\"]", printable(meant));
    }
    match source.chars().next() {
        None => "a value is missing".to_owned(),
        Some(quote @ ('"' | '\'')) if source.len() == 1 || !source.ends_with(quote) => {
            format!("the closing {quote} is missing")
        }
        Some('"' | '\'' | '[' | '{') => error.message().to_owned(),
        Some(_) => {
            let text = as_text(source);
            let value = if broken.value.get_ref().is_array() { list_of(&[text]) } else { text };
            match diagnosis.judge(&broken.path, default, &value) {
                None if default.is_integer() => format!("sizes with a unit are strings: \"{}\"", printable(source)),
                None => must_be_quoted(source),
                Some(message) => message,
            }
        }
    }
}

/// The default of a key, if it exists.
fn default_of<'d>(diagnosis: &Diagnosis<'d>, path: &[&str]) -> Option<&'d toml::Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(diagnosis.known.get(*first)?, |table, &key| table.get(key))
}

/// The innermost value at this byte.
fn innermost<'d, 'i>(value: &'d Spanned<DeValue<'i>>, at: usize) -> &'d Spanned<DeValue<'i>> {
    let mut value = value;
    while let DeValue::Array(list) = value.get_ref()
        && let Some(element) = list.iter().rfind(|element| element.span().start <= at && at <= element.span().end)
    {
        value = element;
    }
    value
}

/// Says what is wrong elsewhere.
fn explain(diagnosis: &Diagnosis<'_>, document: &DeTable<'_>, at: usize, error: &Error) -> String {
    let before = &diagnosis.text[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = diagnosis.text[line_start..].lines().next().unwrap_or_default().trim();
    let message = error.message();
    if let Some(header) = line.strip_prefix('[') {
        let name = header.trim_end_matches(']');
        return match message {
            "duplicate key" => {
                format!("{}: the table is defined twice", keys::shown(&name.split('.').collect::<Vec<_>>()))
            }
            _ => format!("{}: {message}", quoted(line)),
        };
    }
    let key = line.split(['=', ':', ' ', '\t']).next().unwrap_or_default().trim();
    let table = before[..line_start].lines().rev().find_map(|line| line.trim().strip_prefix('['));
    let table = table.and_then(|header| header.split(']').next());
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

/// Says what is wrong with a line that sets a key without `=`.
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
    fn text_without_quotes_is_told_with_the_quotes() {
        for (text, expected) in [
            ("[log]\nlevel = info", "2:9: log.level: text must be quoted: \"info\""),
            ("receive-buffer-bytes = 8MiB", "1:24: receive-buffer-bytes: sizes with a unit are strings: \"8MiB\""),
            ("reply = { protocol = json }", "1:22: reply.protocol: text must be quoted: \"json\""),
            ("listen = [::]:9000 # all", "1:11: listen: text must be quoted: [\"[::]:9000\"]"),
            ("listen = [[::]:9000]", "1:12: listen: text must be quoted: [\"[::]:9000\"]"),
            ("listen = 127.0.0.1:9000", "1:15: listen: text must be quoted: [\"127.0.0.1:9000\"]"),
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
    fn what_else_is_broken_is_told_with_its_key_and_without_what_follows_from_it() {
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
    fn a_list_that_is_not_closed_is_told_where_it_begins_and_nothing_that_follows_from_it() {
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
