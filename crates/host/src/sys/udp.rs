//! Two UDP sockets on one port: the kernel sorts lease datagrams from QUIC.
