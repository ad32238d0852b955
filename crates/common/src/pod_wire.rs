//! Reading a PodView straight off the wire.
