//! What all Kruise workloads share, without I/O: every decision here is a function from values to values.

pub mod budget;
pub mod counts;
pub mod deadline;
pub mod gates;
pub mod go_duration;
pub mod image_ref;
pub mod inplace;
pub mod key;
pub mod lifecycle;
pub mod patch;
pub mod placement;
pub mod pod;
pub mod pod_wire;
pub mod pre_download;
pub mod pull_checks;
pub mod readiness;
pub mod revision;
pub mod selector;
pub mod template_defaults;
pub mod texts;
pub mod update_sort;
pub mod wire;
