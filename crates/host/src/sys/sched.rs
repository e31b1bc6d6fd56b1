//! Real-time scheduling and locked memory for the threads that must not wait.
