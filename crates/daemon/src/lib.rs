//! Threads, driver and supervision: where rooms meet.
