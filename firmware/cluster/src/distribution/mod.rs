//! k3s: its configuration, its process, why it does not come up, its upgrade.
