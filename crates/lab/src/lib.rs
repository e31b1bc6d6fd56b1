//! Real hosts in namespaces: demo, fault matrix, benchmarks.
