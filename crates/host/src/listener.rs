//! Finding the process that listens on a port.
