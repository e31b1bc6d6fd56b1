//! A very small assembler for eBPF: the instructions of RFC 9669 that the guard's
//! program needs, with labels, so that no compiler is needed to build or run evenkeel.

/// A register. 0 carries results, 1-5 arguments (lost in a call), 6-9 keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reg {
    R0 = 0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    /// The frame: the stack lies below it.
    Frame,
}

/// How wide a load or store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// 4 bytes.
    Word = 0x00,
    /// 2 bytes.
    Half = 0x08,
    /// 1 byte.
    Byte = 0x10,
    /// 8 bytes.
    Double = 0x18,
}

/// When to jump; numbers compare as unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Equal.
    Equal = 0x10,
    /// Greater or equal.
    AtLeast = 0x30,
    /// Not equal.
    Differs = 0x50,
}

/// A place to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// A function of the kernel, by its number in `enum bpf_func_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Helper {
    /// `bpf_map_lookup_elem`.
    MapLookup = 1,
    /// `bpf_skb_load_bytes`: from the start of the frame.
    LoadBytes = 26,
    /// `bpf_skb_load_bytes_relative`: from a header.
    LoadBytesRelative = 68,
    /// `bpf_ktime_get_boot_ns`.
    BootTime = 125,
}

/// A program in the making.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    code: Vec<Instruction>,
    /// Where each label is, once it is placed.
    labels: Vec<Option<usize>>,
}

#[derive(Clone, Copy, Debug)]
struct Instruction {
    opcode: u8,
    to: u8,
    from: u8,
    offset: i16,
    number: i32,
    jump: Option<Label>,
}

impl Assembler {
    fn put(&mut self, opcode: u8, to: u8, from: u8, offset: i16, number: i32) {
        self.code.push(Instruction {
            opcode,
            to,
            from,
            offset,
            number,
            jump: None,
        });
    }

    /// A label to be placed later.
    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label is here.
    pub(crate) fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.code.len());
    }

    /// `to = number`
    pub(crate) fn set(&mut self, to: Reg, number: i32) {
        self.put(0xb7, to as u8, 0, 0, number);
    }

    /// `to = from`
    pub(crate) fn copy(&mut self, to: Reg, from: Reg) {
        self.put(0xbf, to as u8, from as u8, 0, 0);
    }

    /// `to += number`
    pub(crate) fn add(&mut self, to: Reg, number: i32) {
        self.put(0x07, to as u8, 0, 0, number);
    }

    /// `to += from`
    pub(crate) fn add_reg(&mut self, to: Reg, from: Reg) {
        self.put(0x0f, to as u8, from as u8, 0, 0);
    }

    /// `to <<= bits`
    pub(crate) fn shift_left(&mut self, to: Reg, bits: i32) {
        self.put(0x67, to as u8, 0, 0, bits);
    }

    /// `to = to as big-endian u16`
    pub(crate) fn network16(&mut self, to: Reg) {
        self.put(0xdc, to as u8, 0, 0, 16);
    }

    /// `to = *(from + offset)`
    pub(crate) fn load(&mut self, width: Width, to: Reg, from: Reg, offset: i16) {
        self.put(0x61 | width as u8, to as u8, from as u8, offset, 0);
    }

    /// `*(to + offset) = number`
    pub(crate) fn store(&mut self, width: Width, to: Reg, offset: i16, number: i32) {
        self.put(0x62 | width as u8, to as u8, 0, offset, number);
    }

    /// `to = ` the map with this descriptor.
    pub(crate) fn map(&mut self, to: Reg, descriptor: i32) {
        const PSEUDO_MAP_FD: u8 = 1;
        self.put(0x18, to as u8, PSEUDO_MAP_FD, 0, descriptor);
        self.put(0, 0, 0, 0, 0);
    }

    /// `r0 = helper(r1, r2, ...)`
    pub(crate) fn call(&mut self, helper: Helper) {
        self.put(0x85, 0, 0, 0, helper as i32);
    }

    /// Jumps if `left` compares so with `number`.
    pub(crate) fn jump_if(&mut self, left: Reg, when: When, number: i32, label: Label) {
        self.put(0x05 | when as u8, left as u8, 0, 0, number);
        self.aim(label);
    }

    /// Jumps if `left` compares so with `right`.
    pub(crate) fn jump_if_reg(&mut self, left: Reg, when: When, right: Reg, label: Label) {
        self.put(0x0d | when as u8, left as u8, right as u8, 0, 0);
        self.aim(label);
    }

    /// Jumps.
    pub(crate) fn jump(&mut self, label: Label) {
        self.put(0x05, 0, 0, 0, 0);
        self.aim(label);
    }

    fn aim(&mut self, label: Label) {
        if let Some(last) = self.code.last_mut() {
            last.jump = Some(label);
        }
    }

    /// Returns `number`.
    pub(crate) fn answer(&mut self, number: i32) {
        self.set(Reg::R0, number);
        self.put(0x95, 0, 0, 0, 0);
    }

    /// The finished program as the kernel's `struct bpf_insn`. A label that was never
    /// placed, or lies too far, becomes a jump that the verifier refuses.
    pub(crate) fn finish(self) -> Vec<u64> {
        let labels = self.labels;
        let resolve = |(at, instruction): (usize, &Instruction)| {
            let offset = match instruction.jump {
                None => instruction.offset,
                Some(label) => labels[label.0]
                    .and_then(|target| i16::try_from(target.checked_sub(at + 1)?).ok())
                    .unwrap_or(i16::MAX),
            };
            instruction.encode(offset)
        };
        self.code.iter().enumerate().map(resolve).collect()
    }
}

impl Instruction {
    fn encode(&self, offset: i16) -> u64 {
        // Two bit fields share a byte; their order is the machine's.
        let registers = if cfg!(target_endian = "little") {
            self.from << 4 | self.to
        } else {
            self.to << 4 | self.from
        };
        let [o0, o1] = offset.to_ne_bytes();
        let [n0, n1, n2, n3] = self.number.to_ne_bytes();
        u64::from_ne_bytes([self.opcode, registers, o0, o1, n0, n1, n2, n3])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against encodings written down by hand from RFC 9669.
    #[test]
    #[cfg(target_endian = "little")]
    fn encodes_as_the_kernel_reads() {
        let mut asm = Assembler::default();
        let end = asm.label();
        asm.copy(Reg::R6, Reg::R1);
        asm.jump_if(Reg::R6, When::Equal, 7, end);
        asm.load(Width::Double, Reg::R9, Reg::R0, 8);
        asm.place(end);
        asm.answer(-1);
        let bytes: Vec<[u8; 8]> = asm.finish().iter().map(|word| word.to_le_bytes()).collect();
        assert_eq!(bytes[0], [0xbf, 0x16, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[1], [0x15, 0x06, 1, 0, 7, 0, 0, 0]);
        assert_eq!(bytes[2], [0x79, 0x09, 8, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[3], [0xb7, 0x00, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(bytes[4], [0x95, 0, 0, 0, 0, 0, 0, 0]);
    }
}
