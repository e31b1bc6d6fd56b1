//! Agreement: the engine and its durable log behind our own port.
