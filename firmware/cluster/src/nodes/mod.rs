//! One node at a time: reboot lock, drain, replacement.
