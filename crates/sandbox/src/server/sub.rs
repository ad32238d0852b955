//! Subresources other than status.

use std::sync::Arc;

use super::answer::Answer;
use super::handler::Call;
use crate::error::ApiError;

/// Answers a request to a subresource.
pub(crate) async fn run(call: &Arc<Call>) -> Result<Answer, ApiError> {
    let _ = call;
    std::future::ready(()).await;
    Err(ApiError::unknown_path())
}
