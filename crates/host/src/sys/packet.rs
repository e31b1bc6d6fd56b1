//! Addresses of the packet family (packet(7)): where a raw frame leaves this machine.

use socket2::SockAddr;

/// The end of a packet socket on the interface with `index`. The frame itself says
/// where it goes; `protocol` is its Ethernet type, for the kernel's filters.
pub fn link_layer(index: u32, protocol: u16) -> SockAddr {
    let index = libc::c_int::try_from(index).unwrap_or(0);
    let fill = |storage: *mut socket2::SockAddrStorage, length: *mut libc::socklen_t| {
        let address = storage.cast::<libc::sockaddr_ll>();
        // SAFETY: `try_init` hands out zeroed storage, larger and at least as strictly
        // aligned as any `sockaddr_*`, and zero is a valid `sockaddr_ll`; `length`
        // points to a number of ours. Nobody else holds either.
        unsafe {
            (*address).sll_family = libc::AF_PACKET as libc::sa_family_t;
            (*address).sll_protocol = protocol.to_be();
            (*address).sll_ifindex = index;
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        }
        Ok(())
    };
    // SAFETY: `fill` writes a whole `sockaddr_ll` and its length.
    let made = unsafe { SockAddr::try_init(fill) };
    let ((), address) = made.expect("filling it in does not fail");
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_whole_packet_address() {
        let address = link_layer(7, 0x0806);
        assert_eq!(i32::from(address.family()), libc::AF_PACKET);
        assert_eq!(address.len() as usize, size_of::<libc::sockaddr_ll>());
    }
}
