//! The rules of the table, as nf_tables expressions.
//!
//! They judge as the eBPF program does, with what nftables can see: the protocol as
//! the kernel's own, ARP with hardware addresses of six bytes, and no VLAN tag inside
//! of the frame.

use super::words::{Batch, ENTRY, TABLE, VALUE, Verb, chain, rule, set};
use crate::netlink::{Writer, find, read_text};
use evenkeel_core::GroupId;

pub(crate) const INGRESS: &str = "ingress";
pub(crate) const EGRESS: &str = "egress";
pub(crate) const GUARDED4: &str = "guarded4";
pub(crate) const GUARDED6: &str = "guarded6";
pub(crate) const HELD: &str = "held";
pub(crate) const ATTEMPTS4: &str = "attempts4";
pub(crate) const ATTEMPTS6: &str = "attempts6";
const GROUP_CHAIN: &str = "group-";

/// Chains and sets of the table besides those of devices and groups.
pub(crate) const FIXED_OBJECTS: u32 = 7;
/// Rules of the chain [`INGRESS`].
pub(crate) const INGRESS_RULES: u32 = 6;
/// Rules of the chain [`EGRESS`].
pub(crate) const EGRESS_RULES: u32 = 4;

/// `NFT_REG_1`: what is loaded and looked up, 16 bytes.
const LOADED: u32 = 1;
/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// What is compared and loaded in a packet.
#[derive(Clone, Copy)]
enum Base {
    /// `NFT_PAYLOAD_NETWORK_HEADER`
    Network = 1,
    /// `NFT_PAYLOAD_TRANSPORT_HEADER`
    Transport = 2,
}

/// Data types as `nft` knows them when it lists the table.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_MARK: u32 = 19;
const TYPE_VERDICT: u32 = 0xffff_ff00;

/// Bytes of a [`Tag`].
pub(crate) const TAG_BYTES: usize = 4;

/// A group in the set of held groups: 32 bits, because that is what a rule can load
/// that holds for every packet. The keeper refuses two groups with one tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(u32);

impl Tag {
    /// The tag of `group`.
    pub(crate) fn of(group: GroupId) -> Self {
        Self((group.0 >> 32) as u32 ^ group.0 as u32)
    }

    /// As the table stores it.
    pub(crate) fn to_bytes(self) -> [u8; TAG_BYTES] {
        self.0.to_ne_bytes()
    }
}

/// Adds the sets, the two common chains and their rules.
pub(crate) fn add_all(batch: &mut Batch, table: &str) {
    add_map(batch, table, GUARDED4, (TYPE_IPV4, 4), 1);
    add_map(batch, table, GUARDED6, (TYPE_IPV6, 16), 2);
    batch.add(Verb::NewSet, |writer| {
        writer.text(TABLE, table);
        writer.text(set::NAME, HELD);
        writer.number(set::FLAGS, set::FLAG_TIMEOUT);
        writer.number(set::KEY_TYPE, TYPE_MARK);
        writer.number(set::KEY_LENGTH, TAG_BYTES as u32);
        writer.number(set::ID, 3);
    });
    add_attempts(batch, table, ATTEMPTS4, (TYPE_IPV4, 4), 4);
    add_attempts(batch, table, ATTEMPTS6, (TYPE_IPV6, 16), 5);
    for name in [INGRESS, EGRESS] {
        batch.add(Verb::NewChain, |writer| {
            writer.text(TABLE, table);
            writer.text(chain::NAME, name);
        });
    }
    let egress = [
        Rule::new(ETHERTYPE_IPV4).load(GUARDED4, Base::Network, 12),
        Rule::new(ETHERTYPE_ARP).load(GUARDED4, Base::Network, 14),
        Rule::new(ETHERTYPE_IPV6).load(GUARDED6, Base::Network, 8),
        Rule::new(ETHERTYPE_IPV6)
            .icmpv6(136)
            .load(GUARDED6, Base::Transport, 8),
    ];
    let ingress = [
        Rule::new(ETHERTYPE_IPV4).load(GUARDED4, Base::Network, 16),
        Rule::new(ETHERTYPE_ARP)
            .arp_request()
            .load(GUARDED4, Base::Network, 24),
        Rule::new(ETHERTYPE_IPV6).load(GUARDED6, Base::Network, 24),
        Rule::new(ETHERTYPE_IPV6)
            .icmpv6(135)
            .load(GUARDED6, Base::Transport, 8),
    ];
    // Behind the others: what the guard closes never gets so far, and what comes so far is
    // let pass or dropped. Nothing here can open anything.
    let attempts = [
        Rule::new(ETHERTYPE_IPV4)
            .attempt()
            .drop_if_in(ATTEMPTS4, Base::Network, 16),
        Rule::new(ETHERTYPE_IPV6)
            .attempt()
            .drop_if_in(ATTEMPTS6, Base::Network, 24),
    ];
    let ingress = ingress.into_iter().chain(attempts);
    for (chain, rules) in [(EGRESS, Vec::from(egress)), (INGRESS, ingress.collect())] {
        for rule in rules {
            rule.add(batch, table, chain);
        }
    }
}

/// Adds a set of addresses to which no connection may be begun: each for a while, so that
/// a dead daemon holds nobody up for ever.
fn add_attempts(batch: &mut Batch, table: &str, name: &str, key: (u32, u32), id: u32) {
    batch.add(Verb::NewSet, |writer| {
        writer.text(TABLE, table);
        writer.text(set::NAME, name);
        writer.number(set::FLAGS, set::FLAG_TIMEOUT);
        writer.number(set::KEY_TYPE, key.0);
        writer.number(set::KEY_LENGTH, key.1);
        writer.number(set::ID, id);
    });
}

fn add_map(batch: &mut Batch, table: &str, name: &str, key: (u32, u32), id: u32) {
    batch.add(Verb::NewSet, |writer| {
        writer.text(TABLE, table);
        writer.text(set::NAME, name);
        writer.number(set::FLAGS, set::FLAG_MAP);
        writer.number(set::KEY_TYPE, key.0);
        writer.number(set::KEY_LENGTH, key.1);
        writer.number(set::DATA_TYPE, TYPE_VERDICT);
        writer.number(set::ID, id);
    });
}

/// Adds a rule to `chain` that goes to `target` and comes back.
pub(crate) fn add_jump(batch: &mut Batch, table: &str, chain: &str, target: &str) {
    let mut expressions = Writer::default();
    verdict(&mut expressions, &Verdict::Jump(target.to_owned()));
    add_rule(batch, table, chain, &expressions);
}

/// Name of the chain that judges packets of `group`.
pub(crate) fn group_chain(group: GroupId) -> String {
    format!("{GROUP_CHAIN}{:016x}", group.0)
}

/// The group that a chain judges.
pub(crate) fn group_of(chain: &str) -> Option<GroupId> {
    let number = chain.strip_prefix(GROUP_CHAIN)?;
    u64::from_str_radix(number, 16).ok().map(GroupId)
}

/// Adds the chain that judges packets of `group`.
pub(crate) fn add_group(batch: &mut Batch, table: &str, group: GroupId) {
    let name = group_chain(group);
    batch.add(Verb::NewChain, |writer| {
        writer.text(TABLE, table);
        writer.text(chain::NAME, &name);
    });
    let mut expressions = Writer::default();
    load_tag(&mut expressions, Tag::of(group));
    lookup(&mut expressions, HELD, Lookup::Absent);
    verdict(&mut expressions, &Verdict::Drop);
    add_rule(batch, table, &name, &expressions);
}

fn add_rule(batch: &mut Batch, table: &str, chain: &str, expressions: &Writer) {
    batch.add(Verb::NewRule, |writer| {
        writer.text(TABLE, table);
        writer.text(rule::CHAIN, chain);
        writer.nest(rule::EXPRESSIONS, |writer| {
            writer.bytes.extend(&expressions.bytes)
        });
    });
}

/// A rule in the making: its expressions so far.
struct Rule {
    expressions: Writer,
}

impl Rule {
    /// Only for packets of this protocol.
    fn new(ethertype: u16) -> Self {
        const NFT_META_PROTOCOL: u32 = 1;
        let mut expressions = Writer::default();
        meta(&mut expressions, NFT_META_PROTOCOL);
        equals(&mut expressions, &ethertype.to_be_bytes());
        Self { expressions }
    }

    /// Only for ICMPv6 messages of this type; finds them behind extension headers.
    fn icmpv6(mut self, kind: u8) -> Self {
        const NFT_META_L4PROTO: u32 = 16;
        const ICMPV6: u8 = 58;
        meta(&mut self.expressions, NFT_META_L4PROTO);
        equals(&mut self.expressions, &[ICMPV6]);
        payload(&mut self.expressions, Base::Transport, 0, 1);
        equals(&mut self.expressions, &[kind]);
        self
    }

    /// Only for ARP requests.
    fn arp_request(mut self) -> Self {
        payload(&mut self.expressions, Base::Network, 6, 2);
        equals(&mut self.expressions, &[0, 1]);
        self
    }

    /// Looks up the address at `offset` in `map`, and goes to the chain of its group.
    fn load(mut self, map: &str, base: Base, offset: u32) -> Self {
        let length = if map == GUARDED4 { 4 } else { 16 };
        payload(&mut self.expressions, base, offset, length);
        lookup(&mut self.expressions, map, Lookup::Verdict);
        self
    }

    /// Only for the first segment of a TCP connection: of FIN, SYN, RST and ACK it has SYN
    /// alone.
    fn attempt(mut self) -> Self {
        const NFT_META_L4PROTO: u32 = 16;
        const TCP: u8 = 6;
        const FIN_SYN_RST_ACK: u8 = 0x17;
        const SYN: u8 = 0x02;
        meta(&mut self.expressions, NFT_META_L4PROTO);
        equals(&mut self.expressions, &[TCP]);
        payload(&mut self.expressions, Base::Transport, 13, 1);
        bitwise(&mut self.expressions, &[FIN_SYN_RST_ACK], &[0]);
        equals(&mut self.expressions, &[SYN]);
        self
    }

    /// Drops what has an address at `offset` that is in `set`.
    fn drop_if_in(mut self, set: &str, base: Base, offset: u32) -> Self {
        let length = if set == ATTEMPTS4 { 4 } else { 16 };
        payload(&mut self.expressions, base, offset, length);
        lookup(&mut self.expressions, set, Lookup::Present);
        verdict(&mut self.expressions, &Verdict::Drop);
        self
    }

    fn add(self, batch: &mut Batch, table: &str, chain: &str) {
        add_rule(batch, table, chain, &self.expressions);
    }
}

fn expression(writer: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) {
    const NAME: u16 = 1;
    const DATA: u16 = 2;
    writer.nest(ENTRY, |writer| {
        writer.text(NAME, name);
        writer.nest(DATA, body);
    });
}

fn meta(writer: &mut Writer, key: u32) {
    const DREG: u16 = 1;
    const KEY: u16 = 2;
    expression(writer, "meta", |writer| {
        writer.number(DREG, LOADED);
        writer.number(KEY, key);
    });
}

fn payload(writer: &mut Writer, base: Base, offset: u32, length: u32) {
    const DREG: u16 = 1;
    const BASE: u16 = 2;
    const OFFSET: u16 = 3;
    const LENGTH: u16 = 4;
    expression(writer, "payload", |writer| {
        writer.number(DREG, LOADED);
        writer.number(BASE, base as u32);
        writer.number(OFFSET, offset);
        writer.number(LENGTH, length);
    });
}

fn equals(writer: &mut Writer, value: &[u8]) {
    const SREG: u16 = 1;
    const OPERATION: u16 = 2;
    const DATA: u16 = 3;
    const EQUAL: u32 = 0;
    expression(writer, "cmp", |writer| {
        writer.number(SREG, LOADED);
        writer.number(OPERATION, EQUAL);
        writer.nest(DATA, |writer| writer.attribute(VALUE, value));
    });
}

/// What a lookup is for.
#[derive(Clone, Copy)]
enum Lookup {
    /// Does what the map says of the key; a key that is not there ends the rule.
    Verdict,
    /// Goes on if the key is not there.
    Absent,
    /// Goes on if the key is there.
    Present,
}

fn lookup(writer: &mut Writer, set: &str, what: Lookup) {
    const SET: u16 = 1;
    const SREG: u16 = 2;
    const DREG: u16 = 3;
    const FLAGS: u16 = 5;
    const INVERT: u32 = 1;
    expression(writer, "lookup", |writer| {
        writer.text(SET, set);
        writer.number(SREG, LOADED);
        match what {
            Lookup::Verdict => writer.number(DREG, VERDICT),
            Lookup::Absent => writer.number(FLAGS, INVERT),
            Lookup::Present => {}
        }
    });
}

/// Loads `tag`, whatever the packet: `meta mark & 0 ^ tag`. The mark itself is left
/// alone.
fn load_tag(writer: &mut Writer, tag: Tag) {
    const NFT_META_MARK: u32 = 3;
    meta(writer, NFT_META_MARK);
    bitwise(writer, &[0; TAG_BYTES], &tag.to_bytes());
}

/// What is loaded becomes `loaded & mask ^ xor`.
fn bitwise(writer: &mut Writer, mask: &[u8], xor: &[u8]) {
    const SREG: u16 = 1;
    const DREG: u16 = 2;
    const LENGTH: u16 = 3;
    const MASK: u16 = 4;
    const XOR: u16 = 5;
    expression(writer, "bitwise", |writer| {
        writer.number(SREG, LOADED);
        writer.number(DREG, LOADED);
        writer.number(LENGTH, mask.len() as u32);
        writer.nest(MASK, |writer| writer.attribute(VALUE, mask));
        writer.nest(XOR, |writer| writer.attribute(VALUE, xor));
    });
}

fn verdict(writer: &mut Writer, verdict: &Verdict) {
    const DREG: u16 = 1;
    const DATA: u16 = 2;
    expression(writer, "immediate", |writer| {
        writer.number(DREG, VERDICT);
        writer.nest(DATA, |writer| verdict.write(writer));
    });
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is dropped.
    Drop,
    /// A chain judges it.
    Jump(String),
}

impl Verdict {
    const ATTRIBUTE: u16 = 2;
    const CODE: u16 = 1;
    const CHAIN: u16 = 2;
    const NF_DROP: i32 = 0;
    const NFT_JUMP: i32 = -3;

    /// As the data of an element or of an expression.
    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.nest(Self::ATTRIBUTE, |writer| match self {
            Self::Drop => {
                writer.attribute(Self::CODE, &Self::NF_DROP.to_be_bytes());
            }
            Self::Jump(chain) => {
                writer.attribute(Self::CODE, &Self::NFT_JUMP.to_be_bytes());
                writer.text(Self::CHAIN, chain);
            }
        });
    }

    /// The chain that judges, in the data of an element.
    pub(crate) fn read_chain(data: &[u8]) -> Option<&str> {
        read_text(find(data, Self::ATTRIBUTE)?, Self::CHAIN)
    }
}
