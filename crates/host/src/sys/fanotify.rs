//! Notices of what changes anywhere on a file system (`fanotify(7)`), and the way from a handle,
//! which is how they name a directory, to the directory itself (`open_by_handle_at(2)`).
//!
//! Both take rights of the machine's own root: `CAP_SYS_ADMIN` for marks on whole file systems,
//! `CAP_DAC_READ_SEARCH` for handles.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The longest handle that any file system has: `MAX_HANDLE_SZ`.
pub const HANDLE_BYTES_MAX: usize = 128;

/// What is told: contents, attributes and names, of directories too. `FAN_RENAME` needs
/// Linux 5.17.
pub const TOLD: u64 = libc::FAN_MODIFY
    | libc::FAN_ATTRIB
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_RENAME
    | libc::FAN_ONDIR;

/// A group that is told of directories by their handles and of entries by their names, whose
/// reader does not block. Its queue is as long as the kernel's setting
/// (`fs.fanotify.max_queued_events`) was when it was made.
pub fn group() -> io::Result<OwnedFd> {
    let flags = libc::FAN_CLASS_NOTIF
        | libc::FAN_CLOEXEC
        | libc::FAN_NONBLOCK
        | libc::FAN_REPORT_DFID_NAME_TARGET;
    let opened_with = libc::c_uint::try_from(libc::O_RDONLY).unwrap_or(0);
    // SAFETY: it takes plain numbers.
    let group = unsafe { libc::fanotify_init(flags, opened_with) };
    if group < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(group) })
}

/// Has the group told of everything on the file system on which an open directory lies.
pub fn mark_file_system(group: BorrowedFd<'_>, on: BorrowedFd<'_>, told: u64) -> io::Result<()> {
    let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
    // SAFETY: both descriptors are open for the time of the call; without a path the second one
    // itself says what is meant.
    let answer = unsafe {
        libc::fanotify_mark(
            group.as_raw_fd(),
            flags,
            told,
            on.as_raw_fd(),
            std::ptr::null(),
        )
    };
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `struct file_handle`, with room for the longest.
#[repr(C)]
struct Handle {
    head: libc::file_handle,
    bytes: [u8; HANDLE_BYTES_MAX],
}

/// The handle of an open directory: its kind and its bytes.
pub fn handle_of(directory: BorrowedFd<'_>) -> io::Result<(i32, Vec<u8>)> {
    let mut handle = Handle {
        head: libc::file_handle {
            handle_bytes: HANDLE_BYTES_MAX as libc::c_uint,
            handle_type: 0,
            f_handle: [],
        },
        bytes: [0; HANDLE_BYTES_MAX],
    };
    let mut mount = 0;
    // SAFETY: the descriptor is open for the time of the call, the path is an empty C string, and
    // the handle has as many bytes of room behind its head as it says; the mount's number is
    // written to a number of ours.
    let answer = unsafe {
        libc::name_to_handle_at(
            directory.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut handle).cast::<libc::file_handle>(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    let length = (handle.head.handle_bytes as usize).min(HANDLE_BYTES_MAX);
    Ok((handle.head.handle_type, handle.bytes[..length].to_vec()))
}

/// The directory of a handle, by its path alone (`O_PATH`), on the mount of another directory
/// that is open for reading. `ESTALE` if there is none any more.
pub fn open_directory(mount: BorrowedFd<'_>, kind: i32, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut handle = Handle {
        head: libc::file_handle {
            handle_bytes: libc::c_uint::try_from(bytes.len()).unwrap_or(libc::c_uint::MAX),
            handle_type: kind,
            f_handle: [],
        },
        bytes: [0; HANDLE_BYTES_MAX],
    };
    let Some(room) = handle.bytes.get_mut(..bytes.len()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    room.copy_from_slice(bytes);
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the descriptor is open for the time of the call. The handle is laid out as the
    // kernel has it, its bytes directly behind its head (both are of four-byte fields and bytes,
    // so there is nothing between them), and it says no more bytes than are there.
    let opened = unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            (&raw mut handle).cast::<libc::file_handle>(),
            flags,
        )
    };
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_handle_is_laid_out_as_the_kernel_has_it() {
        assert_eq!(size_of::<libc::file_handle>(), 8);
        assert_eq!(std::mem::offset_of!(Handle, bytes), 8);
    }

    #[test]
    fn a_handle_that_is_too_long_is_refused() {
        let here = std::fs::File::open("/").expect("it is there");
        let long = [0; HANDLE_BYTES_MAX + 1];
        let error = open_directory(here.as_fd(), 1, &long).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
