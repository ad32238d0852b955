//! The conversion envelope: all objects of a review are converted, or none is.
//!
//! Objects are read one by one: as values they take ten times the memory of their text.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// Why a body is no conversion review; answered with HTTP 400.
#[derive(Debug, thiserror::Error)]
pub enum MalformedReview {
    /// The body is no JSON, or a field has the wrong type.
    #[error("couldn't decode the conversion review: {0}")]
    Json(#[from] serde_json::Error),
    /// It is JSON of another kind or of a version this server does not speak.
    #[error("unexpected {0}, expected a ConversionReview of apiextensions.k8s.io/v1 or v1beta1")]
    WrongType(String),
    /// There is no request in the review.
    #[error("the conversion review has no request")]
    NoRequest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(borrow)]
    request: Option<Request<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    #[serde(default)]
    uid: String,
    #[serde(rename = "desiredAPIVersion")]
    desired_api_version: String,
    #[serde(borrow, default)]
    objects: Vec<&'a RawValue>,
}

/// The answer to a conversion review.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    api_version: String,
    kind: String,
    response: Response,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    converted_objects: Vec<Box<RawValue>>,
    result: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(tag = "status")]
enum Outcome {
    Success,
    Failure { message: String },
}

impl Answer {
    /// Whether it has the objects that were asked for.
    pub const fn succeeded(&self) -> bool {
        matches!(self.response.result, Outcome::Success)
    }
}

/// Answers a `ConversionReview` in its own version. One object that cannot be converted fails them all.
pub fn answer(
    body: &[u8],
    convert: &dyn Fn(Value, &str) -> Result<Value, String>,
) -> Result<Answer, MalformedReview> {
    let review: Review<'_> = serde_json::from_slice(body)?;
    let known =
        matches!(review.api_version.as_str(), "apiextensions.k8s.io/v1" | "apiextensions.k8s.io/v1beta1");
    if review.kind != "ConversionReview" || !known {
        return Err(MalformedReview::WrongType(format!("{:?} of {:?}", review.kind, review.api_version)));
    }
    let Request { uid, desired_api_version: desired, objects } =
        review.request.ok_or(MalformedReview::NoRequest)?;
    let one = |raw: &RawValue| {
        let object = serde_json::from_str(raw.get()).map_err(|error| error.to_string())?;
        let converted = convert_one(object, &desired, convert)?;
        serde_json::value::to_raw_value(&converted).map_err(|error| error.to_string())
    };
    let (converted_objects, result) = match objects.into_iter().map(one).collect() {
        Ok(objects) => (objects, Outcome::Success),
        Err(message) => (Vec::new(), Outcome::Failure { message }),
    };
    let response = Response { uid, converted_objects, result };
    Ok(Answer { api_version: review.api_version, kind: review.kind, response })
}

fn convert_one(
    object: Value,
    desired: &str,
    convert: &dyn Fn(Value, &str) -> Result<Value, String>,
) -> Result<Value, String> {
    let text =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, from) = (text(&object, "kind"), text(&object, "apiVersion"));
    if kind.is_empty() || from.is_empty() {
        return Err("an object without kind or apiVersion cannot be converted".to_owned());
    }
    if from == desired {
        return Err(format!("conversion is not allowed between same type {kind} of {from}"));
    }
    let converted = convert(object, desired)?;
    // The API server would refuse it too, with a message that names neither.
    if text(&converted, "apiVersion") == desired && text(&converted, "kind") == kind {
        Ok(converted)
    } else {
        Err(format!("conversion of {kind} from {from} to {desired} gave another type"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(
        body: &[u8],
        convert: &dyn Fn(Value, &str) -> Result<Value, String>,
    ) -> Result<Value, MalformedReview> {
        let answer = super::answer(body, convert)?;
        let value = serde_json::to_value(&answer).unwrap();
        assert_eq!(answer.succeeded(), value["response"]["result"]["status"] == "Success");
        Ok(value)
    }

    fn set_version(mut object: Value, desired: &str) -> Result<Value, String> {
        if object.get("bad").is_some() {
            return Err("bad object".to_owned());
        }
        object["apiVersion"] = json!(desired);
        Ok(object)
    }

    fn review(version: &str, objects: &Value) -> Vec<u8> {
        json!({
            "apiVersion": format!("apiextensions.k8s.io/{version}"), "kind": "ConversionReview",
            "request": {"uid": "u1", "desiredAPIVersion": "apps.kruise.io/v1beta1", "objects": objects}
        })
        .to_string()
        .into_bytes()
    }

    fn old(name: &str) -> Value {
        json!({"apiVersion": "apps.kruise.io/v1alpha1", "kind": "CloneSet", "metadata": {"name": name}})
    }

    #[test]
    fn objects_come_back_in_order_with_the_uid_and_in_the_version_of_the_review() {
        for version in ["v1", "v1beta1"] {
            let answer = answer(&review(version, &json!([old("a"), old("b")])), &set_version).unwrap();
            assert_eq!(answer["apiVersion"], format!("apiextensions.k8s.io/{version}"));
            assert_eq!(answer["response"]["uid"], "u1");
            assert_eq!(answer["response"]["result"], json!({"status": "Success"}));
            let names: Vec<_> = answer["response"]["convertedObjects"].as_array().unwrap().iter().collect();
            assert_eq!(names[0]["metadata"]["name"], "a");
            assert_eq!(names[1]["apiVersion"], "apps.kruise.io/v1beta1");
        }
    }

    #[test]
    fn one_bad_object_fails_all_and_nothing_comes_back() {
        let mut bad = old("b");
        bad["bad"] = json!(true);
        let mut same = old("c");
        same["apiVersion"] = json!("apps.kruise.io/v1beta1");
        for other in [bad, same, json!({"kind": "CloneSet"})] {
            let answer = answer(&review("v1", &json!([old("a"), other])), &set_version).unwrap();
            assert_eq!(answer["response"]["result"]["status"], "Failure");
            assert_ne!(answer["response"]["result"]["message"], "");
            assert_eq!(answer["response"]["convertedObjects"], json!([]));
            assert_eq!(answer["response"]["uid"], "u1");
        }
    }

    #[test]
    fn a_converter_that_returns_the_wrong_version_fails_the_review() {
        let answer = answer(&review("v1", &json!([old("a")])), &|object, _| Ok(object)).unwrap();
        assert_eq!(answer["response"]["result"]["status"], "Failure");
    }

    #[test]
    fn malformed_reviews_are_errors() {
        assert!(matches!(answer(b"", &set_version), Err(MalformedReview::Json(_))));
        assert!(matches!(answer(b"{}", &set_version), Err(MalformedReview::WrongType(_))));
        let none = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview"}).to_string();
        assert!(matches!(answer(none.as_bytes(), &set_version), Err(MalformedReview::NoRequest)));
    }
}
