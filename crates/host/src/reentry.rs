//! Frames that come in again: what a holder does with attempts to connect that it has kept
//! from its own programs, when the move that they waited for is called off.
//!
//! They must come in by the device by which they came: a frame from elsewhere would be
//! refused where the system checks sources (`rp_filter`), and no socket can send one into a
//! device's own ear. An eBPF program can, also in a trial run (`BPF_PROG_TEST_RUN`), where it
//! is attached to nothing and sees this frame alone. Everything judges the frame anew, the
//! guard included: nothing comes in by this that is shut out.

use std::io;

use crate::attempt::readdress;
use crate::frame::Mac;
use crate::sys::bpf::Program;

/// A door into one device.
#[derive(Debug)]
pub struct Reentry(Program);

/// An instruction of eBPF: operation, register, constant.
fn op(code: u64, register: u64, constant: u32) -> u64 {
    code | register << 8 | u64::from(constant) << 32
}

impl Reentry {
    /// Into the device with this number. Fails where there is no eBPF for us.
    pub fn open(device: u32) -> io::Result<Self> {
        const SET: u64 = 0xb7;
        const CALL: u64 = 0x85;
        const EXIT: u64 = 0x95;
        /// `bpf_clone_redirect(packet, device, flags)`
        const CLONE_REDIRECT: u32 = 13;
        /// `BPF_F_INGRESS`
        const INWARDS: u32 = 1;
        let program = [
            op(SET, 2, device),
            op(SET, 3, INWARDS),
            op(CALL, 0, CLONE_REDIRECT),
            op(EXIT, 0, 0),
        ];
        Program::load("evenkeel_reentry", &program).map(Self)
    }

    /// Lets an attempt to connect, as it came in, come in again. `own` is the device's
    /// hardware address.
    pub fn put_back(&self, frame: &mut [u8], own: Mac) -> io::Result<()> {
        let from: Option<Mac> = frame.get(6..12).and_then(|from| from.try_into().ok());
        let from = from.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        // A checksum that a card of this machine would have completed is not taken for whole.
        readdress(frame, own, from)
            .map_err(|unfit| io::Error::new(io::ErrorKind::InvalidInput, unfit))?;
        match self.0.run_on(frame)? {
            0 => Ok(()),
            refused => Err(io::Error::other(format!(
                "the kernel refused the frame: {}",
                refused.cast_signed()
            ))),
        }
    }
}
