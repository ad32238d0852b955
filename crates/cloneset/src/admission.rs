//! Defaults and validation of CloneSets.
