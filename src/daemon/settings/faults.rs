//! The faults of a settings file: a list, each on one line with its line and column.

use std::fmt;
use std::path::Path;

/// The most faults that are shown; more are counted.
pub(super) const MAX_SHOWN: usize = 20;

/// The most characters of the file that one quotation shows.
const MAX_QUOTED: usize = 80;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// The key, what was wrong and what was expected: one line of printable characters.
    pub message: String,
}

impl Fault {
    /// A fault at this byte of the text.
    pub(super) fn at(text: &str, offset: usize, message: &str) -> Self {
        // A message of toml itself could hold what a quotation would not.
        let message = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let before = text.get(..offset).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1, message }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// Everything that is wrong in a settings file: at least one fault, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    first: Fault,
    others: Vec<Fault>,
    /// The number of faults that are not shown.
    hidden: usize,
}

impl Faults {
    /// These faults, each with the byte where it is, in any order; `more` is the number of further ones.
    pub(super) fn new(text: &str, mut found: Vec<(usize, String)>, more: usize) -> Self {
        found.sort_by_key(|&(offset, _)| offset);
        let hidden = more + found.len().saturating_sub(MAX_SHOWN);
        let mut faults = found.into_iter().take(MAX_SHOWN).map(|(offset, message)| Fault::at(text, offset, &message));
        let first = faults.next().unwrap_or_else(|| Fault::at(text, 0, "not a settings file"));
        Self { first, others: faults.collect(), hidden }
    }

    /// The first fault of the file.
    #[must_use]
    pub fn first(&self) -> &Fault {
        &self.first
    }

    /// The faults that are shown: the first 20 of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The number of all faults, at least 1.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        1 + self.others.len() + self.hidden
    }

    /// The faults as `path:line:column: key: message`, one per line, and at the end the number of those not shown.
    pub fn lines(&self, path: &Path) -> impl Iterator<Item = String> {
        let path = path.display();
        let rest = (self.hidden > 0).then(|| format!("{path}: and {} more", self.hidden));
        self.iter().map(move |fault| format!("{path}:{fault}")).chain(rest)
    }
}

impl fmt::Display for Faults {
    /// Writes the first fault and the number of others on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.len() - 1 {
            0 => self.first.fmt(f),
            more => write!(f, "{} (and {more} more)", self.first),
        }
    }
}

/// Text of the file, in backticks unless it has quotes.
pub(super) fn quoted(text: &str) -> String {
    let shown = printable(text);
    if text.contains(['"', '\'']) { shown } else { format!("`{shown}`") }
}

/// Text of the file as it can be shown: printable, on one line, and not too long.
pub(super) fn printable(text: &str) -> String {
    let escaped = text.chars().map(|character| match character {
        '"' | '\'' | '\\' => character.to_string(),
        _ => character.escape_debug().to_string(),
    });
    cut(escaped)
}

/// The pieces together, up to the first that would make them too long.
pub(super) fn cut(pieces: impl IntoIterator<Item = String>) -> String {
    let mut shown = String::new();
    let mut room = MAX_QUOTED;
    for piece in pieces {
        match room.checked_sub(piece.chars().count()) {
            Some(remaining) => room = remaining,
            None => return shown + "...",
        }
        shown.push_str(&piece);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quotation_is_one_printable_line_of_bounded_length() {
        assert_eq!(quoted("a\tb\n\u{1b}[1m\u{202e}\u{e9}\\"), r"`a\tb\n\u{1b}[1m\u{202e}é\`");
        assert_eq!(quoted("'a\t'"), r"'a\t'");
        assert_eq!(quoted(&"x".repeat(80)), format!("`{}`", "x".repeat(80)));
        assert_eq!(quoted(&"x".repeat(81)), format!("`{}...`", "x".repeat(80)));
        assert_eq!(quoted(&"\u{202e}".repeat(81)), format!("`{}...`", r"\u{202e}".repeat(10)));
    }

    #[test]
    fn the_first_twenty_faults_are_shown_in_the_order_of_the_file_and_the_rest_counted() {
        let text = "a\n".repeat(25);
        let found = (0..25).rev().map(|line| (2 * line, format!("number {line}"))).collect();
        let faults = Faults::new(&text, found, 100);
        assert_eq!((faults.len(), faults.iter().count()), (125, 20));
        assert_eq!(faults.first(), &Fault { line: 1, column: 1, message: "number 0".into() });
        assert_eq!(faults.to_string(), "1:1: number 0 (and 124 more)");
        let lines: Vec<_> = faults.lines(Path::new("/x")).collect();
        assert_eq!(
            (&*lines[0], &*lines[19], &*lines[20]),
            ("/x:1:1: number 0", "/x:20:1: number 19", "/x: and 105 more")
        );
        assert_eq!(lines.len(), 21);
    }

    #[test]
    fn a_single_fault_counts_no_others() {
        let faults = Faults::new("é=1", vec![(3, "wrong".into())], 0);
        assert_eq!(faults.to_string(), "1:3: wrong");
        assert_eq!(faults.lines(Path::new("x")).collect::<Vec<_>>(), ["x:1:3: wrong"]);
    }
}
