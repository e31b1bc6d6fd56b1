//! Processes by pidfd: their death is an event.
