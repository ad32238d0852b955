//! Defaults of pod templates in workloads.
