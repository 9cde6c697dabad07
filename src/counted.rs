//! A number with its noun: `1 datagram`, `2 datagrams`, `3 replies`.

/// The count and the noun, which is given in the singular.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_all_else_plural() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "socket")), ["0 sockets", "1 socket", "2 sockets"]);
        assert_eq!([1, 2].map(|count| counted(count, "reply")), ["1 reply", "2 replies"]);
    }
}
