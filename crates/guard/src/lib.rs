//! Kernel enforcement of leases: eBPF and nftables.
