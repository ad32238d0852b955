//! The parts of kube-controller-manager that workloads rely on, as ordinary clients: garbage collection, namespaces, ReplicaSets and the like.
