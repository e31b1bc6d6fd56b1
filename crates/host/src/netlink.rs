//! Route netlink: links, addresses, routes, and their changes.
