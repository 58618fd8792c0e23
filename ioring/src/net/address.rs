//! Socket addresses as the kernel wants them.

#![expect(unsafe_code, reason = "reads a union of C structures by its family field")]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// An IPv4 or IPv6 address in the kernel's layout.
#[derive(Clone, Copy)]
pub(crate) struct RawAddress {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl RawAddress {
    /// Room for the kernel to write an address into.
    pub(crate) fn empty() -> RawAddress {
        // SAFETY: all zeros is a valid `sockaddr_storage` (family AF_UNSPEC).
        let storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        RawAddress { storage, length }
    }

    pub(crate) fn new(address: SocketAddr) -> RawAddress {
        let mut raw = RawAddress::empty();
        let storage = &raw mut raw.storage;
        match address {
            SocketAddr::V4(address) => {
                let value = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
                    sin_zero: [0; 8],
                };
                // SAFETY: the storage is large enough and aligned for every kind of address.
                unsafe { storage.cast::<libc::sockaddr_in>().write(value) };
                raw.length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            SocketAddr::V6(address) => {
                let value = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    sin6_scope_id: address.scope_id(),
                };
                // SAFETY: as above.
                unsafe { storage.cast::<libc::sockaddr_in6>().write(value) };
                raw.length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            }
        }
        raw
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        let storage = &raw const self.storage;
        match i32::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that this is what the storage holds.
                let value = unsafe { storage.cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(u32::from_be(value.sin_addr.s_addr));
                Ok(SocketAddrV4::new(ip, u16::from_be(value.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let value = unsafe { storage.cast::<libc::sockaddr_in6>().read() };
                let ip = Ipv6Addr::from(value.sin6_addr.s6_addr);
                let (port, flow) = (u16::from_be(value.sin6_port), value.sin6_flowinfo);
                Ok(SocketAddrV6::new(ip, port, flow, value.sin6_scope_id).into())
            }
            family => Err(io::Error::other(format!("address family {family} is not TCP/IP"))),
        }
    }

    pub(crate) fn family(&self) -> i32 {
        i32::from(self.storage.ss_family)
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        (&raw mut self.storage).cast()
    }

    pub(crate) fn length(&self) -> libc::socklen_t {
        self.length
    }

    pub(crate) fn length_mut(&mut self) -> *mut libc::socklen_t {
        &raw mut self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_layout() {
        for text in ["127.0.0.1:6400", "[::1]:1", "[fe80::7]:65535", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddress::new(address).address().unwrap(), address);
        }
        assert!(RawAddress::empty().address().is_err());
    }
}
