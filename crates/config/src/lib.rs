//! The configuration file: one module per element, diagnostics with line and column.
