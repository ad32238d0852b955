//! How a Kubernetes API server answers, asked of the sandbox and, where `CONFORMANCE_KUBECONFIG` names one, of a real one.
//!
//! A case is a function over a [`harness::Target`]: it sends requests and the harness writes down each request with its
//! answer, every fleeting value (UIDs, times, resource versions, generated names) replaced by a stable name. The transcript
//! must equal the one in `recorded/`, which was taken from a real API server: `CONFORMANCE_RECORD=1` with
//! `CONFORMANCE_KUBECONFIG` takes it anew. Read a case together with its file there: the file holds the expectations.
//!
//! Each case is two tests: `<module>::sandbox::<case>` and `<module>::cluster::<case>`; the second does nothing without
//! `CONFORMANCE_KUBECONFIG`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is a test"
)]
#![allow(
    clippy::pedantic,
    reason = "cases read best with literals passed by value and text put together where it is needed"
)]

#[macro_use]
mod harness;
mod known;
mod mask;

mod apply;
mod create;
mod custom;
mod definitions;
mod delete;
mod http;
mod list;
mod patch;
mod pods;
mod schema;
mod subresources;
mod update;
mod views;
mod watch;
mod webhooks;
