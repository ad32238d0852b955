//! The ImageListPullJob controller: an ImagePullJob for each image.

pub mod controller;
pub mod plan;
