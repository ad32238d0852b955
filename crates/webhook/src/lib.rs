//! The HTTPS side of Kruise: admission and conversion reviews, the serving certificate, and the objects that
//! tell the API server where to find it all.
//!
//! Everything that decides is pure and works on raw JSON, so that fields this version does not know survive.
//! [`server`] and [`sync`] are the shells around it.

pub mod certs;
pub mod configure;
pub mod convert;
mod damper;
pub mod files;
pub mod local;
pub mod options;
pub mod probe;
pub mod protection;
pub mod removal;
pub mod review;
mod room;
pub mod route;
pub mod server;
pub mod sync;
pub mod template;
