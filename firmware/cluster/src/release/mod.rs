//! Releases: a site's manifests, brought onto its Kubernetes and taken back when they fail.
//!
//! ```text
//! manifests ── parse ──▶ Release ── plan ──▶ [Step] ── machine ──▶ Step ── engine ──▶ Target
//!                           ▲                             │  ▲                │
//!                        store (by digest)          journal  └── Outcome ─────┘
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`model`] | a release, its objects, what a site has of ours |
//! | [`parse`] | YAML to objects; every complaint names file, document and field |
//! | `admit` | what is asked of a release that is new here |
//! | [`images`], [`credentials`] | which images a release needs, and who asks registries for them |
//! | [`order`] | what comes before what |
//! | [`plan`] | steps, in order; a dry run prints them |
//! | [`journal`] | what survives `kill -9`, and the texts of releases |
//! | [`machine`] | which step is next, given how the last one ended |
//! | [`engine`] | drives the machine, stores, tells |
//! | [`target`] | what an engine needs from outside |
//! | [`trial`] | what a release would do and what is in its way, without changing anything |
//! | [`live`] | the real target: API server, container runtime, manager |
//! | `stuck` | pods that keep their StatefulSet from its newest form |
//! | `texts` | the text of the release in force, kept on the site |
//! | [`schema`] | custom resources against a definition that comes with them |
//!
//! It deletes only what carries [`MANAGED_BY_LABEL`](holdfast_api::marks::MANAGED_BY_LABEL), and
//! refuses to apply over an object that is there without it.

mod admit;
pub mod credentials;
pub mod engine;
mod execute;
#[cfg(test)]
mod fake;
pub mod images;
pub mod journal;
pub mod live;
pub mod machine;
pub mod model;
pub mod order;
pub mod parse;
pub mod plan;
pub mod schema;
mod stuck;
pub mod target;
mod texts;
pub mod trial;
