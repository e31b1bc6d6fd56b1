//! Movers: ways to make traffic arrive at the holder.
