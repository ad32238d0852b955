//! The kruise-manager as a library: flags, feature gates and the table of controllers, put together on a client.
//!
//! The binary adds what belongs to a process of its own: the command line, signals, logging. Others, such as the
//! sandbox, run the same manager inside theirs.

pub mod catalogue;
pub mod commands;
mod controllers;
mod degraded;
mod election;
pub mod flags;
mod parts;
pub mod run;
pub mod selection;
mod table;
