//! Network interfaces by name and by index (`if_nametoindex(3)`): the scope of a link-local address (RFC 4007 s11).

use std::ffi::{CStr, CString};
use std::io;

/// The index of the interface with this name or, as getaddrinfo(3) has it, of the one with this number.
///
/// # Errors
/// It does not exist now: `ENODEV` for a name, `ENXIO` for a number.
pub fn interface_index(name: &str) -> io::Result<u32> {
    match (index_of_name(name), name.parse()) {
        (Err(_), Ok(index)) => interface_name(index).map(|_| index),
        (found, _) => found,
    }
}

fn index_of_name(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: `name` is a live string that ends in NUL.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 { Err(io::Error::last_os_error()) } else { Ok(index) }
}

/// The name of the interface with this index.
///
/// # Errors
/// It does not exist now (`ENXIO`).
pub fn interface_name(index: u32) -> io::Result<String> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: `name` is writable for the IF_NAMESIZE bytes that the function may write.
    let written = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    if written.is_null() {
        return Err(io::Error::last_os_error());
    }
    let name = CStr::from_bytes_until_nul(&name).map_err(io::Error::other)?;
    Ok(name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_by_name_and_by_number() {
        assert_eq!(interface_index("lo").unwrap(), 1);
        assert_eq!(interface_index("1").unwrap(), 1);
        assert_eq!(interface_name(1).unwrap(), "lo");
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let errno = |error: io::Error| error.raw_os_error();
        for index in [0, u32::MAX] {
            assert_eq!(interface_name(index).map_err(errno), Err(Some(libc::ENXIO)));
            assert_eq!(interface_index(&index.to_string()).map_err(errno), Err(Some(libc::ENXIO)));
        }
        for name in ["", "a name that is too long for one", "4294967296"] {
            assert_eq!(interface_index(name).map_err(errno), Err(Some(libc::ENODEV)), "{name:?}");
        }
        assert!(interface_index("l\0o").is_err());
    }
}
