//! Finds where the plain text of a JSON string stops, for 64 bytes at once.
//!
//! No loop over bytes here branches on one, so that the compiler makes vector instructions of it on every target that
//! has them. One function for each width does the same byte by byte; none reads beyond the text.

/// The bytes that one [`Stops`] covers: as many as a word has bits.
const WINDOW: usize = u64::BITS as usize;

/// The stops in a window of a text, and the way to those after it.
pub(super) struct Stops {
    /// One bit for each byte, the first one lowest.
    found: u64,
    /// Where the window ends.
    end: usize,
}

impl Stops {
    /// Creates the window before the text, which has nothing in it: the first one costs nothing until it is needed.
    pub(super) const fn new() -> Self {
        Self { found: 0, end: 0 }
    }

    /// Returns where the next stop is, from this place on: the length of the text if there is none.
    ///
    /// A place is never before an earlier one.
    #[inline(always)]
    pub(super) fn next(&mut self, text: &[u8], mut at: usize) -> usize {
        loop {
            if at < self.end {
                let ahead = self.found >> (at.wrapping_sub(self.end) % WINDOW);
                if ahead != 0 {
                    return at + ahead.trailing_zeros() as usize;
                }
                at = if self.found == 0 { skip_plain(text, self.end) } else { self.end };
            }
            if at >= text.len() {
                return text.len();
            }
            self.found = find(text, at);
            self.end = at + WINDOW;
        }
    }
}

/// Returns whether a string cannot go on with this byte without a closer look: its closing quote, an escape, a control
/// character, or UTF-8 beyond ASCII.
#[inline(always)]
const fn is_stop(byte: u8) -> bool {
    // As a signed number what is beyond ASCII is below the blank, too.
    (byte as i8) < b' ' as i8 || byte == b'"' || byte == b'\\'
}

/// The stops of the window that begins here, where the text has not ended yet.
#[inline(never)]
fn find(text: &[u8], at: usize) -> u64 {
    let rest = text.get(at..).unwrap_or_default();
    if let Some(window) = rest.first_chunk() {
        stops_of_64(window)
    } else if let Some(last) = text.last_chunk() {
        stops_of_64(last) >> ((WINDOW - rest.len()) % WINDOW)
    } else {
        stops_of_short(text) >> (at % WINDOW)
    }
}

/// The stops of a whole text that is shorter than a window.
#[inline(always)]
fn stops_of_short(text: &[u8]) -> u64 {
    let Some(last) = text.last_chunk() else { return stops_of_tiny(text) };
    // Up to four parts; the last one overlaps another, which finds the same there.
    let mut found = stops_of_16(last) << ((text.len() - 16) % WINDOW);
    for (part, first) in text.as_chunks().0.iter().zip([0, 16, 32]) {
        found |= stops_of_16(part) << first;
    }
    found
}

#[cold]
#[inline(never)]
fn stops_of_tiny(text: &[u8]) -> u64 {
    text.iter().rev().fold(0, |found, &byte| found << 1 | u64::from(is_stop(byte)))
}

#[inline(always)]
fn stops_of_64(text: &[u8; WINDOW]) -> u64 {
    text.as_chunks().0.iter().rev().fold(0, |found, part| found << 16 | stops_of_16(part))
}

#[inline(always)]
fn stops_of_16(text: &[u8; 16]) -> u64 {
    let ones = text.map(|byte| u8::from(is_stop(byte)));
    // Each product has the lowest bits of the eight bytes side by side in its highest byte.
    let bits = |eight: &[u8; 8]| u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    ones.as_chunks().0.iter().rev().fold(0, |found, eight| found << 8 | bits(eight))
}

/// Returns the first place from here on whose window is not plain, or is not whole.
#[inline(never)]
fn skip_plain(text: &[u8], mut at: usize) -> usize {
    let windows = text.get(at..).unwrap_or_default().as_chunks::<WINDOW>().0;
    for window in windows {
        if window.iter().fold(false, |found, &byte| found | is_stop(byte)) {
            break;
        }
        at += WINDOW;
    }
    at
}
