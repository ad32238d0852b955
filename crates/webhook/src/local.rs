//! Reviews answered inside the process, for an API server that needs no socket to reach its webhooks.

use serde_json::Value;

use crate::route::Router;
use crate::{convert, review};

/// The path of conversion reviews.
pub const CONVERT_PATH: &str = "/convert";

/// Answers what an API server posts to `path`, as the server would over HTTPS.
///
/// # Errors
/// Nothing answers that path, or the body is no review; the text is what a client of the server would be told.
pub async fn answer(router: &Router, path: &str, body: &[u8]) -> Result<Value, String> {
    if path == CONVERT_PATH {
        let converter = &router.convert;
        let answer = convert::answer(body, &|object, desired| converter(object, desired))
            .map_err(|malformed| malformed.to_string())?;
        return serde_json::to_value(answer).map_err(|error| error.to_string());
    }
    let route = router.find(path).ok_or("404 page not found")?;
    let (version, request) = review::decode(body).map_err(|error| error.to_string())?;
    let (uid, original) = (request.uid.clone(), request.object.clone());
    let verdict = (route.handler)(request).await;
    Ok(review::encode(version, &uid, original.as_ref(), verdict))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use serde_json::json;

    use super::*;
    use crate::review::Verdict;

    fn router() -> Router {
        Router::new()
            .route("/mutate", |request| {
                let mut object = request.object.unwrap_or_default();
                object["seen"] = json!(true);
                async { Verdict::patched(object) }.boxed()
            })
            .converter(|mut object, desired| {
                object["apiVersion"] = json!(desired);
                Ok(object)
            })
    }

    #[tokio::test]
    async fn admission_and_conversion_are_answered_like_over_https() {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {"uid": "u", "operation": "CREATE", "object": {"kind": "X"}},
        });
        let answer_of = |path: &'static str, body: Value| async move {
            answer(&router(), path, body.to_string().as_bytes()).await
        };
        let admitted = answer_of("/mutate", review).await.unwrap();
        assert_eq!(
            (&admitted["response"]["uid"], &admitted["response"]["allowed"]),
            (&json!("u"), &json!(true))
        );
        assert_eq!(admitted["response"]["patchType"], "JSONPatch");
        let review = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
            "request": {"uid": "u", "desiredAPIVersion": "x/v2", "objects": [{"apiVersion": "x/v1", "kind": "X"}]},
        });
        let converted = answer_of(CONVERT_PATH, review).await.unwrap();
        assert_eq!(converted["response"]["convertedObjects"][0]["apiVersion"], "x/v2");
    }

    #[tokio::test]
    async fn an_unknown_path_and_a_body_that_is_no_review_are_errors() {
        assert_eq!(answer(&router(), "/other", b"{}").await, Err("404 page not found".to_owned()));
        assert!(answer(&router(), "/mutate", b"{").await.is_err());
        assert!(answer(&router(), CONVERT_PATH, b"{}").await.is_err());
    }
}
