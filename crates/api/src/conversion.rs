//! Conversion of any Kruise object between its served versions, on raw JSON.

use serde_json::Value;

use crate::cloneset;

/// Why an object could not be converted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConversionError {
    /// The object has no apiVersion or no kind.
    #[error("object has no apiVersion or no kind")]
    NoType,
    /// Nothing is known about converting this kind between these versions.
    #[error("cannot convert {kind} from {from} to {to}")]
    Unsupported {
        /// The object's kind.
        kind: String,
        /// The object's apiVersion.
        from: String,
        /// The apiVersion asked for.
        to: String,
    },
    /// A field does not hold an object, as it must.
    #[error("{0} is not an object")]
    NotAnObject(&'static str),
}

/// The object in the version asked for. An object that is in that version already comes back as it is.
pub fn convert(object: Value, desired_api_version: &str) -> Result<Value, ConversionError> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).map(str::to_owned);
    let (Some(from), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return Err(ConversionError::NoType);
    };
    if kind == cloneset::KIND {
        match (from.as_str(), desired_api_version) {
            (cloneset::V1ALPHA1, cloneset::V1BETA1) => return cloneset::conversion::to_v1beta1(object),
            (cloneset::V1BETA1, cloneset::V1ALPHA1) => return cloneset::conversion::to_v1alpha1(object),
            (cloneset::V1ALPHA1, cloneset::V1ALPHA1) | (cloneset::V1BETA1, cloneset::V1BETA1) => {
                return Ok(object);
            }
            _ => {}
        }
    }
    Err(ConversionError::Unsupported { kind, from, to: desired_api_version.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_already_in_the_version_asked_for_comes_back_unchanged() {
        let object = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet", "spec": {"x": 1}});
        assert_eq!(convert(object.clone(), "apps.kruise.io/v1beta1"), Ok(object));
    }

    #[test]
    fn unknown_kinds_and_versions_are_refused_by_name() {
        for (version, kind, desired) in [
            ("apps.kruise.io/v1beta1", "Deployment", "apps.kruise.io/v1alpha1"),
            ("apps.kruise.io/v1beta1", "CloneSet", "apps.kruise.io/v1"),
            ("apps.kruise.io/v1", "CloneSet", "apps.kruise.io/v1beta1"),
            ("apps/v1", "CloneSet", "apps.kruise.io/v1beta1"),
        ] {
            let error = convert(json!({"apiVersion": version, "kind": kind}), desired).unwrap_err();
            assert_eq!(error.to_string(), format!("cannot convert {kind} from {version} to {desired}"));
        }
    }

    #[test]
    fn something_that_is_no_object_is_refused() {
        for object in [json!({}), json!(null), json!({"kind": "CloneSet"}), json!([1])] {
            assert_eq!(convert(object, "apps.kruise.io/v1beta1"), Err(ConversionError::NoType));
        }
    }

    #[test]
    fn versions_are_dispatched_by_kind() {
        let object = json!({"apiVersion": "apps.kruise.io/v1alpha1", "kind": "CloneSet", "spec": {}});
        let hub = convert(object, "apps.kruise.io/v1beta1").unwrap();
        assert_eq!(hub["spec"]["updateStrategy"]["type"], "RollingUpdate");
        let spoke = convert(hub, "apps.kruise.io/v1alpha1").unwrap();
        assert_eq!(spoke["spec"]["updateStrategy"]["type"], "ReCreate");
    }
}
