//! nf_tables over netlink: numbers of `include/uapi/linux/netfilter/nf_tables.h`, and
//! batches of messages that take effect together or not at all.

use crate::netlink::{Writer, flag};

/// Family `netdev`.
const NFPROTO_NETDEV: u8 = 5;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
/// `NFNLGRP_NFTABLES`, as a bit.
pub(crate) const GROUP_NFTABLES: u32 = 1 << (7 - 1);

/// `enum nf_tables_msg_types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    NewTable = 0,
    GetTable = 1,
    DelTable = 2,
    NewChain = 3,
    GetChain = 4,
    DelChain = 5,
    NewRule = 6,
    NewSet = 9,
    NewElement = 12,
    GetElement = 13,
    DelElement = 14,
}

impl Verb {
    /// As the type of a message.
    pub(crate) const fn kind(self) -> u16 {
        NFNL_SUBSYS_NFTABLES << 8 | self as u16
    }
}

/// Attributes of all kinds of objects that name a table.
pub(crate) const TABLE: u16 = 1;

/// `enum nft_table_attributes`.
pub(crate) mod table {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const FLAGS: u16 = 2;
    pub(crate) const USE: u16 = 3;
    pub(crate) const USERDATA: u16 = 6;
    pub(crate) const OWNER: u16 = 7;
}

/// `enum nft_chain_attributes` and `enum nft_hook_attributes`.
pub(crate) mod chain {
    pub(crate) const NAME: u16 = 3;
    pub(crate) const HOOK: u16 = 4;
    pub(crate) const POLICY: u16 = 5;
    pub(crate) const USE: u16 = 6;
    pub(crate) const TYPE: u16 = 7;
    pub(crate) const HOOK_NUMBER: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
    pub(crate) const HOOK_DEVICE: u16 = 3;
    pub(crate) const HOOK_DEVICES: u16 = 4;
}

/// `enum nft_rule_attributes`.
pub(crate) mod rule {
    pub(crate) const CHAIN: u16 = 2;
    pub(crate) const EXPRESSIONS: u16 = 4;
}

/// `enum nft_set_attributes`.
pub(crate) mod set {
    pub(crate) const NAME: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_TYPE: u16 = 4;
    pub(crate) const KEY_LENGTH: u16 = 5;
    pub(crate) const DATA_TYPE: u16 = 6;
    pub(crate) const ID: u16 = 10;
    pub(crate) const FLAG_MAP: u32 = 0x8;
    pub(crate) const FLAG_TIMEOUT: u32 = 0x10;
}

/// `enum nft_set_elem_list_attributes` and `enum nft_set_elem_attributes`.
pub(crate) mod element {
    pub(crate) const SET: u16 = 2;
    pub(crate) const LIST: u16 = 3;
    pub(crate) const KEY: u16 = 1;
    pub(crate) const DATA: u16 = 2;
    pub(crate) const TIMEOUT: u16 = 4;
}

/// An entry of any list.
pub(crate) const ENTRY: u16 = 1;
/// `NFTA_DATA_VALUE`.
pub(crate) const VALUE: u16 = 1;

/// The head of each message: family, version, and a resource that only batches have.
pub(crate) const HEAD: [u8; 4] = [NFPROTO_NETDEV, 0, 0, 0];

/// Messages that take effect together or not at all.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    writer: Writer,
    sequence: u32,
}

impl Batch {
    /// A batch whose messages, and the answers to them, carry `sequence`.
    pub(crate) fn new(sequence: u32) -> Self {
        let mut batch = Self {
            writer: Writer::default(),
            sequence,
        };
        batch.edge(NFNL_MSG_BATCH_BEGIN);
        batch
    }

    fn edge(&mut self, kind: u16) {
        let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
        self.writer.message(
            kind,
            flag::REQUEST,
            self.sequence,
            &[0, 0, high, low],
            |_| {},
        );
    }

    /// Adds a message. Only failures are answered.
    pub(crate) fn add(&mut self, verb: Verb, body: impl FnOnce(&mut Writer)) {
        let create = match verb {
            Verb::NewTable | Verb::NewChain | Verb::NewRule | Verb::NewSet | Verb::NewElement => {
                flag::CREATE
            }
            Verb::GetTable
            | Verb::DelTable
            | Verb::GetChain
            | Verb::DelChain
            | Verb::GetElement
            | Verb::DelElement => 0,
        };
        // Rules are put behind one another.
        let append = if verb == Verb::NewRule {
            flag::APPEND
        } else {
            0
        };
        let flags = flag::REQUEST | create | append;
        self.writer
            .message(verb.kind(), flags, self.sequence, &HEAD, body);
    }

    /// The finished batch.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.edge(NFNL_MSG_BATCH_END);
        self.writer.bytes
    }

    /// What its messages and the answers to them carry.
    pub(crate) fn sequence(&self) -> u32 {
        self.sequence
    }
}

/// A request outside of a batch.
pub(crate) fn request(verb: Verb, flags: u16, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.message(verb.kind(), flag::REQUEST | flags, 1, &HEAD, body);
    writer.bytes
}
