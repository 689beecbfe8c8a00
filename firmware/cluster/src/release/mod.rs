//! Releases: manifests → plan → journal → machine.
