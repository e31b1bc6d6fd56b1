//! Identities and encrypted connections between nodes; carries opaque bytes.
