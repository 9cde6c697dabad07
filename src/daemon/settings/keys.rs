//! Keys in messages: how a key is shown, and which key was meant by an unknown one.

use super::ListenEntry;
use super::faults::{cut, printable};

/// The longest name that is compared with known ones, in bytes.
const MAX_COMPARED: usize = 40;

/// The fewest letters that two related words have in common.
const MIN_COMMON: usize = 3;

/// A key with its table, as in `log.level`; cut where it is too long.
pub(super) fn shown(path: &[&str]) -> String {
    let is_bare = |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    let keys = path.iter().map(|key| if is_bare(key) { printable(key) } else { format!("`{}`", printable(key)) });
    let path = keys.collect::<Vec<_>>().join(".");
    cut(path.chars().map(String::from))
}

/// An element of a list, as in `listen[1]`; without a number, the key alone.
pub(super) fn shown_element(path: &[&str], number: Option<usize>) -> String {
    number.map_or_else(|| shown(path), |number| format!("{}[{number}]", shown(path)))
}

/// The message about an unknown key in the table of a listener.
pub(super) fn unknown_of_listener(listener: &str, key: &str) -> String {
    let meant = alike(&normal(key), &ListenEntry::KEYS).map(|name| did_you_mean(name, false));
    let meant = meant.unwrap_or_else(|| format!("a listener has {}", ListenEntry::KEYS.join(", ")));
    format!("{listener}.{}: unknown key; {meant}", shown(&[key]))
}

/// The message about an unknown key or table.
pub(super) fn unknown(known: &toml::Table, table: &[&str], key: &str, is_table: bool) -> String {
    let meant = hint(known, table, &normal(key), is_table);
    let meant = meant.unwrap_or_else(|| if is_table { tables_of(known) } else { keys_of(known, table) });
    let what = if is_table { "table" } else { "key" };
    format!("{}: unknown {what}; {meant}", shown(&[table, &[key]].concat()))
}

/// A key in the spelling of all keys: lower case, with hyphens.
fn normal(key: &str) -> String {
    key.to_ascii_lowercase().replace('_', "-")
}

/// The name that was meant: the same in another spelling or another table, or one that is nearly the same.
fn hint(known: &toml::Table, table: &[&str], key: &str, is_table: bool) -> Option<String> {
    let here = table.iter().try_fold(known, |known, &key| known.get(key)?.as_table())?;
    if here.get(key).is_some_and(|default| default.is_table() == is_table) {
        return Some(did_you_mean(key, is_table));
    }
    if known.get(key).is_some_and(toml::Value::is_table) {
        return Some(did_you_mean(key, true));
    }
    if !table.is_empty() && known.contains_key(key) {
        return Some(format!("`{key}` belongs at the top of the file, before the first table"));
    }
    let has_it = |(_, value): &(&String, &toml::Value)| value.as_table().is_some_and(|table| table.contains_key(key));
    if let Some((name, _)) = known.iter().find(has_it) {
        return Some(format!("`{key}` belongs in [{name}]"));
    }
    let names = here.iter().filter(|(_, default)| default.is_table() == is_table).map(|(name, _)| &**name);
    alike(key, &names.collect::<Vec<_>>()).map(|name| did_you_mean(name, is_table))
}

/// The name that is nearly the same, or the only one that is related.
fn alike<'n>(key: &str, names: &[&'n str]) -> Option<&'n str> {
    if key.len() > MAX_COMPARED {
        return None;
    }
    let (distance, nearest) = names.iter().map(|&name| (strsim::osa_distance(key, name), name)).min()?;
    if distance <= 1.max(key.len() / 3) {
        return Some(nearest);
    }
    let mut related = names.iter().copied().filter(|name| are_related(key, name));
    related.next().filter(|_| related.next().is_none())
}

/// Returns whether a word of one name begins with a word of the other, as `logging` does with `log`.
fn are_related(one: &str, other: &str) -> bool {
    let begins = |long: &str, short: &str| short.len() >= MIN_COMMON && long.starts_with(short);
    one.split('-').any(|one| other.split('-').any(|other| begins(one, other) || begins(other, one)))
}

fn did_you_mean(name: &str, is_table: bool) -> String {
    if is_table { format!("did you mean [{name}]?") } else { format!("did you mean `{name}`?") }
}

/// The names of all tables.
fn tables_of(known: &toml::Table) -> String {
    let tables = known.iter().filter(|(_, default)| default.is_table());
    let names: Vec<_> = tables.map(|(name, _)| format!("[{name}]")).collect();
    format!("the tables are {}", names.join(", "))
}

/// The names of the keys of a table.
fn keys_of(known: &toml::Table, table: &[&str]) -> String {
    let here = table.iter().try_fold(known, |known, &key| known.get(key)?.as_table());
    let keys = here.into_iter().flatten().filter(|(_, default)| !default.is_table());
    let names = keys.map(|(key, _)| &**key).collect::<Vec<_>>().join(", ");
    match table {
        [] => format!("the keys before the first table are {names}"),
        _ => format!("[{}] has {names}", table.join(".")),
    }
}
