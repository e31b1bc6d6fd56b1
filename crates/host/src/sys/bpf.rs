//! eBPF through the bare `bpf` system call: maps, programs, links, pins. After
//! `include/uapi/linux/bpf.h`; no library, no compiler, no object file. What is here
//! is what the guard needs and no more: array and hash maps, programs at tc, tcx links.
//!
//! The kernel reads and writes memory by the sizes of the *map*, not of our buffers.
//! So a [`Map`] carries the sizes the kernel has for it, and checks every buffer.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// Commands of the system call.
mod command {
    pub(super) const MAP_CREATE: libc::c_int = 0;
    pub(super) const MAP_LOOKUP_ELEM: libc::c_int = 1;
    pub(super) const MAP_UPDATE_ELEM: libc::c_int = 2;
    pub(super) const MAP_DELETE_ELEM: libc::c_int = 3;
    pub(super) const MAP_GET_NEXT_KEY: libc::c_int = 4;
    pub(super) const PROG_LOAD: libc::c_int = 5;
    pub(super) const OBJ_PIN: libc::c_int = 6;
    pub(super) const OBJ_GET: libc::c_int = 7;
    pub(super) const PROG_TEST_RUN: libc::c_int = 10;
    pub(super) const PROG_GET_FD_BY_ID: libc::c_int = 13;
    pub(super) const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
    pub(super) const PROG_QUERY: libc::c_int = 16;
    pub(super) const LINK_CREATE: libc::c_int = 28;
    pub(super) const LINK_UPDATE: libc::c_int = 29;
    pub(super) const LINK_GET_FD_BY_ID: libc::c_int = 30;
    pub(super) const LINK_DETACH: libc::c_int = 34;
}

/// Values of `BPF_F_MMAPABLE`, `BPF_F_BEFORE`, `BPF_PROG_TYPE_SCHED_CLS`.
const MAP_MMAPABLE: u32 = 1 << 10;
const LINK_BEFORE: u32 = 1 << 3;
const PROGRAM_SCHED_CLS: u32 = 3;
const MAP_TYPE_HASH: u32 = 1;
const MAP_TYPE_ARRAY: u32 = 2;

/// The verifier's words are kept for our error text: enough for its last lines.
const VERIFIER_LOG_BYTES: usize = 64 * 1024;
/// How much of them an error carries.
const VERIFIER_LOG_SHOWN: usize = 600;

/// Calls `bpf(command, attribute)`.
///
/// # Safety
///
/// Every pointer inside `attribute` must be valid for what `command` reads or writes.
unsafe fn bpf<T>(command: libc::c_int, attribute: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attribute is a live, initialised, plain structure and its own size is
    // passed, so the kernel stays inside it; what it points to is the caller's word.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attribute),
            size_of::<T>(),
        )
    };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

/// Takes over the descriptor that a command has just made.
fn take(descriptor: libc::c_long) -> io::Result<OwnedFd> {
    let raw = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us (with close-on-exec, as
    // for all of bpf); nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// The address of a buffer as the kernel wants it.
fn address<T>(of: *const T) -> u64 {
    of as usize as u64
}

/// The kind of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// Keys to values.
    Hash,
    /// A fixed number of values that can be mapped into memory; the key is a `u32`.
    MappedArray,
}

/// What a map holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapShape {
    /// Its kind.
    pub kind: MapKind,
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// How many entries at most (of an array: exactly).
    pub entries: u32,
}

/// A map of the kernel.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    shape: MapShape,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    returned: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct MapElement {
    map_fd: u32,
    unused: u32,
    key: u64,
    value_or_next: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct MapInfo {
    map_type: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    link_type: u32,
    id: u32,
    program_id: u32,
    unused: u32,
    ifindex: u32,
    attach_type: u32,
    rest: [u64; 8],
}

#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    unused: u32,
    expected_revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link_fd: u32,
    new_program_fd: u32,
    flags: u32,
    old_program_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    unused: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    program_type: u32,
    id: u32,
    before_name: [u64; 7],
    name: [u8; 16],
}

/// The number of a descriptor as the kernel's structures carry it.
fn number(fd: BorrowedFd<'_>) -> u32 {
    // A descriptor that lives is never negative.
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

/// A name of at most 15 bytes, padded with zeros; `bpftool` shows it.
fn name16(name: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    for (to, from) in padded.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    padded
}

/// A path that the kernel can read.
fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

fn info<T: Default>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::default();
    let mut attribute = InfoByFd {
        fd: number(fd),
        length: u32::try_from(size_of::<T>()).map_err(io::Error::other)?,
        info: address(std::ptr::from_mut(&mut info)),
    };
    // SAFETY: `info` outlives the call, and the kernel writes no more than `length`
    // bytes of plain numbers into it.
    unsafe { bpf(command::OBJ_GET_INFO_BY_FD, &mut attribute) }?;
    Ok(info)
}

/// Pins what `fd` stands for at `path` in a bpffs: it lives on without us.
pub fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attribute = Object {
        path: address(path.as_ptr()),
        fd: number(fd),
        flags: 0,
    };
    // SAFETY: the path is a live string that ends in zero.
    unsafe { bpf(command::OBJ_PIN, &mut attribute) }?;
    Ok(())
}

/// Opens what is pinned at `path`.
fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attribute = Object {
        path: address(path.as_ptr()),
        fd: 0,
        flags: 0,
    };
    // SAFETY: the path is a live string that ends in zero.
    take(unsafe { bpf(command::OBJ_GET, &mut attribute) }?)
}

impl Map {
    /// Makes a map. `name` is for people, 15 bytes of it are kept.
    pub fn create(name: &str, shape: MapShape) -> io::Result<Self> {
        let (map_type, map_flags) = match shape.kind {
            MapKind::Hash => (MAP_TYPE_HASH, 0),
            MapKind::MappedArray => (MAP_TYPE_ARRAY, MAP_MMAPABLE),
        };
        let mut attribute = MapCreate {
            map_type,
            key_size: shape.key,
            value_size: shape.value,
            max_entries: shape.entries,
            map_flags,
            map_name: name16(name),
            ..MapCreate::default()
        };
        // SAFETY: the attribute points to nothing.
        let fd = take(unsafe { bpf(command::MAP_CREATE, &mut attribute) }?)?;
        Ok(Self { fd, shape })
    }

    /// Opens the map pinned at `path`, or `None` if what is there has another shape.
    pub fn open(path: &Path, shape: MapShape) -> io::Result<Option<Self>> {
        let fd = open_pin(path)?;
        let found: MapInfo = info(fd.as_fd())?;
        let kind = match (found.map_type, found.map_flags & MAP_MMAPABLE != 0) {
            (MAP_TYPE_HASH, _) => MapKind::Hash,
            (MAP_TYPE_ARRAY, true) => MapKind::MappedArray,
            _ => return Ok(None),
        };
        let found = MapShape {
            kind,
            key: found.key_size,
            value: found.value_size,
            entries: found.max_entries,
        };
        Ok((found == shape).then_some(Self { fd, shape }))
    }

    /// Fails unless `bytes` has exactly the size the kernel will read or write.
    fn sized(bytes: &[u8], size: u32) -> io::Result<u64> {
        if bytes.len() == size as usize {
            Ok(address(bytes.as_ptr()))
        } else {
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        }
    }

    /// Sets the value of `key`, in one step for readers.
    pub fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let mut attribute = MapElement {
            map_fd: number(self.fd.as_fd()),
            key: Self::sized(key, self.shape.key)?,
            value_or_next: Self::sized(value, self.shape.value)?,
            ..MapElement::default()
        };
        // SAFETY: both buffers live and have the sizes by which the kernel reads.
        unsafe { bpf(command::MAP_UPDATE_ELEM, &mut attribute) }?;
        Ok(())
    }

    /// Copies the value of `key` into `value`; false if there is none.
    pub fn get(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        let mut attribute = MapElement {
            map_fd: number(self.fd.as_fd()),
            key: Self::sized(key, self.shape.key)?,
            value_or_next: Self::sized(value, self.shape.value)?,
            ..MapElement::default()
        };
        // SAFETY: both buffers live, have the sizes by which the kernel reads and
        // writes, and `value` is borrowed for writing.
        absent(unsafe { bpf(command::MAP_LOOKUP_ELEM, &mut attribute) })
    }

    /// Removes `key`; false if it was not there.
    pub fn remove(&self, key: &[u8]) -> io::Result<bool> {
        let mut attribute = MapElement {
            map_fd: number(self.fd.as_fd()),
            key: Self::sized(key, self.shape.key)?,
            ..MapElement::default()
        };
        // SAFETY: the key lives and has the size by which the kernel reads.
        absent(unsafe { bpf(command::MAP_DELETE_ELEM, &mut attribute) })
    }

    /// All keys. If others change the map meanwhile, some may be missing or double;
    /// never more than the map has entries.
    pub fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let mut next = vec![0; self.shape.key as usize];
        while keys.len() < self.shape.entries as usize {
            let previous = keys.last().map_or(0, |key| address(key.as_ptr()));
            let mut attribute = MapElement {
                map_fd: number(self.fd.as_fd()),
                key: previous,
                value_or_next: address(next.as_mut_ptr()),
                ..MapElement::default()
            };
            // SAFETY: both buffers live and have the map's key size; a null key asks
            // for the first one.
            if !absent(unsafe { bpf(command::MAP_GET_NEXT_KEY, &mut attribute) })? {
                break;
            }
            keys.push(next.clone());
        }
        Ok(keys)
    }

    /// Maps the values of a [`MapKind::MappedArray`] into memory.
    pub fn words(&self) -> io::Result<MappedWords> {
        if self.shape.kind != MapKind::MappedArray || !self.shape.value.is_multiple_of(8) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let bytes = self.shape.value as usize * self.shape.entries as usize;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::SHARED | rustix::mm::MapFlags::POPULATE,
                &self.fd,
                0,
            )
        }?;
        let start = NonNull::new(start.cast::<AtomicU64>())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))?;
        Ok(MappedWords {
            start,
            count: bytes / 8,
        })
    }
}

/// "No such entry" is an answer, not a failure.
fn absent(answer: io::Result<libc::c_long>) -> io::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The values of an array map as words in our memory. Kernel programs and other
/// processes read and write the same words, hence atomics.
#[derive(Debug)]
pub struct MappedWords {
    start: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the memory is shared with the kernel anyhow and only reached as atomics.
unsafe impl Send for MappedWords {}
// SAFETY: as above.
unsafe impl Sync for MappedWords {}

impl MappedWords {
    /// All words.
    pub fn as_slice(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, holds `count` words, is unmapped only
        // when `self` is dropped, and every bit pattern is a word.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl Drop for MappedWords {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `Map::words`, and no borrow of it lives.
        // A failure leaves it mapped, which harms nobody.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.count * 8) };
    }
}

/// A loaded program of type `BPF_PROG_TYPE_SCHED_CLS`.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// Loads `instructions` (as the kernel's `struct bpf_insn`, one per word). The
    /// error of a refused program ends with the verifier's last words.
    pub fn load(name: &str, instructions: &[u64]) -> io::Result<Self> {
        match Self::load_quietly(name, instructions, None) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EINVAL)) => {
                let mut log = vec![0; VERIFIER_LOG_BYTES];
                Self::load_quietly(name, instructions, Some(&mut log)).map_err(|_| {
                    let text = String::from_utf8_lossy(&log);
                    let text = text.trim_end_matches('\0').trim_end();
                    let shown: String = text
                        .chars()
                        .skip(text.chars().count().saturating_sub(VERIFIER_LOG_SHOWN))
                        .collect();
                    io::Error::new(error.kind(), format!("{error}; the verifier says: {shown}"))
                })
            }
            answer => answer,
        }
    }

    fn load_quietly(
        name: &str,
        instructions: &[u64],
        log: Option<&mut Vec<u8>>,
    ) -> io::Result<Self> {
        // The time of the boot clock is only given to programs under the GPL or a
        // compatible licence; this project may be used under the MIT licence.
        let license = c"Dual MIT/GPL";
        let mut attribute = ProgramLoad {
            program_type: PROGRAM_SCHED_CLS,
            instruction_count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
            instructions: address(instructions.as_ptr()),
            license: address(license.as_ptr()),
            name: name16(name),
            ..ProgramLoad::default()
        };
        if let Some(log) = log {
            attribute.log_level = 1;
            attribute.log_size = u32::try_from(log.len()).map_err(io::Error::other)?;
            attribute.log_buffer = address(log.as_mut_ptr());
        }
        // SAFETY: the instructions, the licence and the log live through the call and
        // have the stated sizes; the log is borrowed for writing.
        take(unsafe { bpf(command::PROG_LOAD, &mut attribute) }?).map(Self)
    }
}

impl Program {
    /// Runs the program once on a packet of its own with these bytes (`BPF_PROG_TEST_RUN`)
    /// in the network namespace of the calling thread, and says what it returned.
    pub fn run_on(&self, frame: &[u8]) -> io::Result<u32> {
        let mut attribute = TestRun {
            program: self.0.as_raw_fd().cast_unsigned(),
            data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
            data_in: address(frame.as_ptr()),
            ..TestRun::default()
        };
        // SAFETY: the frame lives through the call, has the stated size and is only read;
        // nothing is asked to be written but the attribute itself.
        unsafe { bpf(command::PROG_TEST_RUN, &mut attribute) }?;
        Ok(attribute.returned)
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The kernel lets no more programs sit at one place (`BPF_MPROG_MAX`).
const ATTACHED_MAX: usize = 64;

/// Opens a program or link by its number.
fn by_id(command: libc::c_int, id: u32) -> io::Result<OwnedFd> {
    let mut attribute = ById {
        id,
        ..ById::default()
    };
    // SAFETY: the attribute points to nothing.
    take(unsafe { bpf(command, &mut attribute) }?)
}

/// Where a program sits on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tcx {
    /// What comes in.
    Ingress,
    /// What goes out.
    Egress,
}

impl Tcx {
    /// `enum bpf_attach_type`.
    const fn attach_type(self) -> u32 {
        match self {
            Self::Ingress => 46,
            Self::Egress => 47,
        }
    }
}

/// A program attached to a device; it stays while a descriptor or a pin holds it.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    /// Attaches `program` to device `ifindex` before all others that are there now,
    /// so that none of them can let a packet pass around it (kernel 6.6 or newer).
    pub fn attach(program: &Program, ifindex: u32, at: Tcx) -> io::Result<Self> {
        let mut attribute = LinkCreate {
            program_fd: number(program.as_fd()),
            target_ifindex: ifindex,
            attach_type: at.attach_type(),
            flags: LINK_BEFORE,
            ..LinkCreate::default()
        };
        // SAFETY: the attribute points to nothing.
        take(unsafe { bpf(command::LINK_CREATE, &mut attribute) }?).map(Self)
    }

    /// Opens the link pinned at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        open_pin(path).map(Self)
    }

    /// Replaces the program in one step: no packet passes between the two.
    pub fn replace(&self, program: &Program) -> io::Result<()> {
        let mut attribute = LinkUpdate {
            link_fd: number(self.0.as_fd()),
            new_program_fd: number(program.as_fd()),
            ..LinkUpdate::default()
        };
        // SAFETY: the attribute points to nothing.
        unsafe { bpf(command::LINK_UPDATE, &mut attribute) }?;
        Ok(())
    }

    /// All links on device `ifindex` at `at` whose program is called `name`, whoever
    /// made them.
    pub fn all_on(ifindex: u32, at: Tcx, name: &str) -> io::Result<Vec<Self>> {
        let mut programs = [0_u32; ATTACHED_MAX];
        let mut links = [0_u32; ATTACHED_MAX];
        let mut attribute = Query {
            target_ifindex: ifindex,
            attach_type: at.attach_type(),
            program_ids: address(programs.as_mut_ptr()),
            link_ids: address(links.as_mut_ptr()),
            count: ATTACHED_MAX as u32,
            ..Query::default()
        };
        // SAFETY: both arrays live through the call and have room for `count` numbers.
        unsafe { bpf(command::PROG_QUERY, &mut attribute) }?;
        let mut found = Vec::new();
        for (program, link) in programs
            .into_iter()
            .zip(links)
            .take(attribute.count as usize)
        {
            // What is gone meanwhile is none; number 0 stands for no link.
            if link != 0
                && by_id(command::PROG_GET_FD_BY_ID, program)
                    .and_then(|fd| info::<ProgramInfo>(fd.as_fd()))
                    .is_ok_and(|info| info.name == name16(name))
                && let Ok(link) = by_id(command::LINK_GET_FD_BY_ID, link)
            {
                found.push(Self(link));
            }
        }
        Ok(found)
    }

    /// Its number, by which the kernel tells links apart.
    pub fn id(&self) -> io::Result<u32> {
        info::<LinkInfo>(self.0.as_fd()).map(|info| info.id)
    }

    /// Takes the program off the device, whoever else holds the link.
    pub fn detach(&self) -> io::Result<()> {
        let mut attribute = LinkUpdate {
            link_fd: number(self.0.as_fd()),
            ..LinkUpdate::default()
        };
        // SAFETY: the attribute points to nothing.
        unsafe { bpf(command::LINK_DETACH, &mut attribute) }?;
        Ok(())
    }

    /// Whether the link sits on device `ifindex` at `at`. A link whose device is gone,
    /// or that somebody detached, sits nowhere.
    pub fn is_on(&self, ifindex: u32, at: Tcx) -> io::Result<bool> {
        let found: LinkInfo = info(self.0.as_fd())?;
        Ok(found.ifindex == ifindex && found.attach_type == at.attach_type())
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
