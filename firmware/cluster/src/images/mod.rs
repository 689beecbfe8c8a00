//! The container runtime: pull, pin, progress.
