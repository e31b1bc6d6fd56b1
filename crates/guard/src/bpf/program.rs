//! The program that judges each packet on each device.
//!
//! What it finds in a packet is an address that speaks (egress: IP source, ARP sender,
//! target of a neighbour advertisement) or is spoken to (ingress: IP destination,
//! target of an ARP request or of a neighbour solicitation). If that address is
//! guarded and the deadline of its group has passed, the packet is dropped. All else
//! goes on to whatever else is attached.
//!
//! ARP *replies* that come in are not judged: they ask nothing of us, and the reply
//! form of the holder's gratuitous ARP must teach a standby where the address is now.
//!
//! Headers are found by themselves (EtherType, up to two VLAN tags, up to four IPv6
//! extension headers), not by what the sender said to its own kernel: a frame sent
//! through `AF_PACKET` may claim any protocol.

use super::assembler::{Assembler, Helper, Label, Reg, When, Width};
use evenkeel_host::sys::bpf::Tcx;

/// How frames of a device begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// With an Ethernet header (the loopback device too).
    Ethernet,
    /// Otherwise: tunnels, `tun`, PPP. The kernel's own idea of protocol and network
    /// header is taken.
    Other,
}

const ETHERTYPE_IPV4: i32 = 0x0800;
const ETHERTYPE_ARP: i32 = 0x0806;
const ETHERTYPE_VLAN: i32 = 0x8100;
const ETHERTYPE_IPV6: i32 = 0x86dd;
const ETHERTYPE_QINQ: i32 = 0x88a8;
const ETHERNET_HEADER: i32 = 14;
const VLAN_TAG: i32 = 4;
/// More than two tags are not made by any bridge or switch of today.
const VLAN_TAGS_MAX: usize = 2;

const ICMPV6: i32 = 58;
const NEIGHBOUR_SOLICITATION: i32 = 135;
const NEIGHBOUR_ADVERTISEMENT: i32 = 136;
/// Hop-by-hop options, routing, destination options: all say their own length alike.
const EXTENSION_HEADERS: [i32; 3] = [0, 43, 60];
/// RFC 8200 section 4.1 knows no more before an ICMPv6 message that is not fragmented,
/// and RFC 6980 forbids to fragment neighbour discovery.
const EXTENSION_HEADERS_MAX: usize = 4;
const IPV6_HEADER: i32 = 40;
const ARP_REQUEST: i32 = 1;

/// `TCX_NEXT`: the next program may judge.
const NEXT: i32 = -1;
/// `TCX_DROP`.
const DROP: i32 = 2;

/// Offset of `protocol` in `struct __sk_buff`.
const SK_BUFF_PROTOCOL: i16 = 16;
/// `BPF_HDR_START_NET`.
const FROM_NETWORK_HEADER: i32 = 1;

/// The address that is looked up, 16 bytes on the stack.
const KEY: i16 = -16;
/// A few bytes of a header.
const SCRATCH: i16 = -24;

struct Writer {
    asm: Assembler,
    framing: Framing,
    at: Tcx,
    addresses: i32,
    slots: i32,
    next: Label,
    drop: Label,
}

/// The program for devices with `framing` at `at`; `addresses` and `slots` are the
/// descriptors of its maps.
pub(crate) fn program(framing: Framing, at: Tcx, addresses: i32, slots: i32) -> Vec<u64> {
    let mut asm = Assembler::default();
    let (next, drop) = (asm.label(), asm.label());
    let mut writer = Writer {
        asm,
        framing,
        at,
        addresses,
        slots,
        next,
        drop,
    };
    writer.whole();
    writer.asm.finish()
}

impl Writer {
    /// R6: the packet. R7: where its network header is. R8: what comes next.
    fn whole(&mut self) {
        self.asm.copy(Reg::R6, Reg::R1);
        match self.framing {
            Framing::Ethernet => self.ethertype_of_frame(),
            Framing::Other => self.ethertype_of_kernel(),
        }
        let (ipv4, ipv6, arp) = (self.asm.label(), self.asm.label(), self.asm.label());
        self.asm.jump_if(Reg::R8, When::Equal, ETHERTYPE_IPV4, ipv4);
        self.asm.jump_if(Reg::R8, When::Equal, ETHERTYPE_IPV6, ipv6);
        self.asm.jump_if(Reg::R8, When::Equal, ETHERTYPE_ARP, arp);
        self.asm.jump(self.next);
        self.asm.place(ipv4);
        self.ipv4();
        self.asm.place(arp);
        self.arp();
        self.asm.place(ipv6);
        self.ipv6();
        self.asm.place(self.next);
        self.asm.answer(NEXT);
        self.asm.place(self.drop);
        self.asm.answer(DROP);
    }

    /// Copies `length` bytes at `base + offset` of the packet to the stack. A packet
    /// that is too short is none of ours.
    fn fetch(&mut self, base: Reg, offset: i32, to: i16, length: i32) {
        self.asm.copy(Reg::R1, Reg::R6);
        self.asm.copy(Reg::R2, base);
        self.asm.add(Reg::R2, offset);
        self.asm.copy(Reg::R3, Reg::Frame);
        self.asm.add(Reg::R3, i32::from(to));
        self.asm.set(Reg::R4, length);
        match self.framing {
            Framing::Ethernet => self.asm.call(Helper::LoadBytes),
            Framing::Other => {
                self.asm.set(Reg::R5, FROM_NETWORK_HEADER);
                self.asm.call(Helper::LoadBytesRelative);
            }
        }
        self.asm.jump_if(Reg::R0, When::Differs, 0, self.next);
    }

    /// Reads the EtherType past the VLAN tags.
    fn ethertype_of_frame(&mut self) {
        self.asm.set(Reg::R7, ETHERNET_HEADER);
        let known = self.asm.label();
        for tags in 0..=VLAN_TAGS_MAX {
            self.fetch(Reg::R7, -2, SCRATCH, 2);
            self.asm.load(Width::Half, Reg::R8, Reg::Frame, SCRATCH);
            self.asm.network16(Reg::R8);
            if tags == VLAN_TAGS_MAX {
                break;
            }
            let tagged = self.asm.label();
            self.asm
                .jump_if(Reg::R8, When::Equal, ETHERTYPE_VLAN, tagged);
            self.asm
                .jump_if(Reg::R8, When::Differs, ETHERTYPE_QINQ, known);
            self.asm.place(tagged);
            self.asm.add(Reg::R7, VLAN_TAG);
        }
        self.asm.place(known);
    }

    fn ethertype_of_kernel(&mut self) {
        self.asm.set(Reg::R7, 0);
        self.asm
            .load(Width::Word, Reg::R8, Reg::R6, SK_BUFF_PROTOCOL);
        self.asm.network16(Reg::R8);
    }

    /// The key becomes `::ffff:a.b.c.d` with the four bytes at `base + offset`.
    fn fetch_ipv4(&mut self, base: Reg, offset: i32) {
        let [_, _, _, _, _, _, _, _, a, b, c, d, ..] =
            std::net::Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets();
        self.asm.store(Width::Double, Reg::Frame, KEY, 0);
        self.asm.store(
            Width::Word,
            Reg::Frame,
            KEY + 8,
            i32::from_ne_bytes([a, b, c, d]),
        );
        self.fetch(base, offset, KEY + 12, 4);
    }

    fn ipv4(&mut self) {
        let offset = match self.at {
            Tcx::Egress => 12,
            Tcx::Ingress => 16,
        };
        self.fetch_ipv4(Reg::R7, offset);
        self.judge(self.next);
    }

    /// RFC 826: 8 bytes, then hardware and protocol address of the sender, then of the
    /// target; the length of hardware addresses is in the fifth byte.
    fn arp(&mut self) {
        self.fetch(Reg::R7, 0, SCRATCH, 8);
        self.asm.load(Width::Byte, Reg::R9, Reg::Frame, SCRATCH + 4);
        match self.at {
            Tcx::Egress => {
                self.asm.add_reg(Reg::R9, Reg::R7);
                self.fetch_ipv4(Reg::R9, 8);
            }
            Tcx::Ingress => {
                self.asm.load(Width::Half, Reg::R8, Reg::Frame, SCRATCH + 6);
                self.asm.network16(Reg::R8);
                self.asm
                    .jump_if(Reg::R8, When::Differs, ARP_REQUEST, self.next);
                self.asm.shift_left(Reg::R9, 1);
                self.asm.add_reg(Reg::R9, Reg::R7);
                self.fetch_ipv4(Reg::R9, 12);
            }
        }
        self.judge(self.next);
    }

    fn ipv6(&mut self) {
        let (offset, message) = match self.at {
            Tcx::Egress => (8, NEIGHBOUR_ADVERTISEMENT),
            Tcx::Ingress => (24, NEIGHBOUR_SOLICITATION),
        };
        self.fetch(Reg::R7, offset, KEY, 16);
        let passed = self.asm.label();
        self.judge(passed);
        self.asm.place(passed);
        self.find_icmpv6();
        self.fetch(Reg::R9, 0, SCRATCH, 1);
        self.asm.load(Width::Byte, Reg::R8, Reg::Frame, SCRATCH);
        self.asm.jump_if(Reg::R8, When::Differs, message, self.next);
        self.fetch(Reg::R9, 8, KEY, 16);
        self.judge(self.next);
    }

    /// Puts into R9 where the ICMPv6 message begins; other packets go on.
    fn find_icmpv6(&mut self) {
        let found = self.asm.label();
        self.fetch(Reg::R7, 6, SCRATCH, 1);
        self.asm.load(Width::Byte, Reg::R8, Reg::Frame, SCRATCH);
        self.asm.copy(Reg::R9, Reg::R7);
        self.asm.add(Reg::R9, IPV6_HEADER);
        for _ in 0..EXTENSION_HEADERS_MAX {
            self.asm.jump_if(Reg::R8, When::Equal, ICMPV6, found);
            let extension = self.asm.label();
            for header in EXTENSION_HEADERS {
                self.asm.jump_if(Reg::R8, When::Equal, header, extension);
            }
            self.asm.jump(self.next);
            self.asm.place(extension);
            self.fetch(Reg::R9, 0, SCRATCH, 2);
            self.asm.load(Width::Byte, Reg::R8, Reg::Frame, SCRATCH);
            self.asm.load(Width::Byte, Reg::R1, Reg::Frame, SCRATCH + 1);
            self.asm.shift_left(Reg::R1, 3);
            self.asm.add(Reg::R1, 8);
            self.asm.add_reg(Reg::R9, Reg::R1);
        }
        self.asm.jump_if(Reg::R8, When::Differs, ICMPV6, self.next);
        self.asm.place(found);
    }

    /// Drops if the key is guarded and the deadline of its group has passed; goes to
    /// `free` otherwise. An address whose slot does not exist is dropped.
    fn judge(&mut self, free: Label) {
        self.asm.map(Reg::R1, self.addresses);
        self.asm.copy(Reg::R2, Reg::Frame);
        self.asm.add(Reg::R2, i32::from(KEY));
        self.asm.call(Helper::MapLookup);
        self.asm.jump_if(Reg::R0, When::Equal, 0, free);
        self.asm.map(Reg::R1, self.slots);
        self.asm.copy(Reg::R2, Reg::R0);
        self.asm.call(Helper::MapLookup);
        self.asm.jump_if(Reg::R0, When::Equal, 0, self.drop);
        self.asm.load(Width::Double, Reg::R9, Reg::R0, 0);
        self.asm.call(Helper::BootTime);
        self.asm
            .jump_if_reg(Reg::R0, When::AtLeast, Reg::R9, self.drop);
        self.asm.jump(free);
    }
}
