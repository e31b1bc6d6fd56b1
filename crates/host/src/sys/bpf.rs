//! The bpf system call: maps, programs, links, pins, mapped pages.
