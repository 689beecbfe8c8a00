//! Snapshots of the datastore: taken, sent away encrypted, restored, drilled.
