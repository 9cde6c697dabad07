//! The names of keys in faults: how a key is shown, and what one that does not exist was meant to be.

use super::faults::{printable, quoted};

/// The longest name that is compared with those that exist.
const MAX_COMPARED: usize = 40;

/// A key with its table, as in `log.level`.
pub(super) fn shown(path: &[&str]) -> String {
    let is_bare = |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    let keys = path.iter().map(|key| if is_bare(key) { printable(key) } else { quoted(key) });
    keys.collect::<Vec<_>>().join(".")
}

/// Says what to do about a key, or a table, that does not exist.
pub(super) fn unknown(known: &toml::Table, table: &[&str], key: &str, is_table: bool) -> String {
    let meant = hint(known, table, &normal(key), is_table).unwrap_or_else(|| all_of(known, table));
    let path = shown(&[table, &[key]].concat());
    match is_table {
        true => format!("{path}: there is no table [{path}]; {meant}"),
        false => format!("{path}: unknown key {}; {meant}", quoted(key)),
    }
}

/// A key in the spelling of all keys: small letters and hyphens.
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
    if key.len() > MAX_COMPARED {
        return None;
    }
    let alike = here.iter().filter(|(_, default)| default.is_table() == is_table);
    let (distance, name) = alike.map(|(name, _)| (strsim::osa_distance(key, name), name)).min()?;
    (distance <= 1.max(key.len() / 3)).then(|| did_you_mean(name, is_table))
}

fn did_you_mean(name: &str, is_table: bool) -> String {
    if is_table { format!("did you mean `[{name}]`?") } else { format!("did you mean `{name}`?") }
}

/// The names that a table has.
fn all_of(known: &toml::Table, table: &[&str]) -> String {
    let here = table.iter().try_fold(known, |known, &key| known.get(key)?.as_table());
    let (tables, keys): (Vec<_>, Vec<_>) = here.into_iter().flatten().partition(|(_, default)| default.is_table());
    let keys = keys.into_iter().map(|(key, _)| &**key).collect::<Vec<_>>().join(", ");
    match table {
        [] => {
            let tables: Vec<_> = tables.into_iter().map(|(name, _)| format!("[{name}]")).collect();
            format!("there are {keys} and the tables {}", tables.join(", "))
        }
        _ => format!("[{}] has {keys}", table.join(".")),
    }
}
