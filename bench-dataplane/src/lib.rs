//! Placeholder head; filled by its first real code.
