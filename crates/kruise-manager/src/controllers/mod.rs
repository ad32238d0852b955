//! One file per controller: how its crate is put on the shared parts.

pub(crate) mod broadcastjob;
pub(crate) mod cloneset;
pub(crate) mod cron;
pub(crate) mod images;
pub(crate) mod podreadiness;
pub(crate) mod recreate;
