//! The door to the API server: connect, apply, readiness, events.
