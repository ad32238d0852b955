//! Random histories against a whole manager on the sandbox, in virtual time.
//!
//! A [`history::History`] is what a user does and what goes wrong, made from a seed. [`run::run`] plays it; meanwhile
//! [`check::Checker`] looks at every write the moment it is stored, and at the end the world must have converged and be
//! quiet. A history that fails is made smaller by [`shrink::shrink`]. [`mistake::Mistake`] makes the manager wrong on
//! purpose, from outside, to show that the checks would notice.

pub mod check;
pub mod history;
pub mod mistake;
pub mod run;
pub mod shrink;
