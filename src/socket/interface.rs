//! Network interfaces by name and by index (`if_nametoindex(3)`): the scope of a link-local address (RFC 4007 s11).

use std::ffi::{CStr, CString};

/// The index of the interface with this name; `None` if there is none now.
#[must_use]
pub fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: `name` is a live string that ends in NUL.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// The name of the interface with this index; `None` if there is none now.
#[must_use]
pub fn interface_name(index: u32) -> Option<String> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: `name` is writable for the IF_NAMESIZE bytes that the function may write.
    let written = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    if written.is_null() {
        return None;
    }
    Some(CStr::from_bytes_until_nul(&name).ok()?.to_str().ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_by_name_and_by_index() {
        assert_eq!(interface_index("lo"), Some(1));
        assert_eq!(interface_name(1).as_deref(), Some("lo"));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        assert_eq!(interface_name(0), None);
        assert_eq!(interface_name(u32::MAX), None);
        for name in ["", "a name that is too long for one", "l\0o"] {
            assert_eq!(interface_index(name), None, "{name:?}");
        }
    }
}
