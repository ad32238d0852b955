//! Conversion of any Kruise object between its served versions, on raw JSON.

use serde_json::Value;

use crate::{
    V1ALPHA1, V1BETA1, advancedcronjob, broadcastjob, cloneset, containerrecreaterequest, imagelistpulljob,
    imagepulljob, nodeimage,
};

/// Rewrites an object of one version as another.
type Rewrite = fn(Value) -> Result<Value, ConversionError>;

/// Every kind, with its way to v1beta1 and its way back; none where both versions have one shape.
const KINDS: [(&str, Option<(Rewrite, Rewrite)>); 7] = [
    (advancedcronjob::KIND, Some((advancedcronjob::to_v1beta1, advancedcronjob::to_v1alpha1))),
    (broadcastjob::KIND, None),
    (cloneset::KIND, Some((cloneset::conversion::to_v1beta1, cloneset::conversion::to_v1alpha1))),
    (
        containerrecreaterequest::KIND,
        Some((
            containerrecreaterequest::conversion::to_v1beta1,
            containerrecreaterequest::conversion::to_v1alpha1,
        )),
    ),
    (imagelistpulljob::KIND, None),
    (imagepulljob::KIND, None),
    (nodeimage::KIND, None),
];

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
    /// A field has no place in the version asked for.
    #[error("{0} is not supported in {1}")]
    NotSupported(&'static str, &'static str),
}

/// The object in the version asked for. An object that is in that version already comes back as it is.
pub fn convert(object: Value, desired_api_version: &str) -> Result<Value, ConversionError> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).map(str::to_owned);
    let (Some(from), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return Err(ConversionError::NoType);
    };
    if let Some((_, ways)) = KINDS.iter().find(|(known, _)| *known == kind) {
        match (from.as_str(), desired_api_version, ways) {
            (V1ALPHA1, V1ALPHA1, _) | (V1BETA1, V1BETA1, _) => return Ok(object),
            (V1ALPHA1, V1BETA1, Some((to_v1beta1, _))) => return to_v1beta1(object),
            (V1BETA1, V1ALPHA1, Some((_, to_v1alpha1))) => return to_v1alpha1(object),
            (V1ALPHA1, V1BETA1, None) | (V1BETA1, V1ALPHA1, None) => {
                return Ok(renamed(object, desired_api_version));
            }
            _ => {}
        }
    }
    Err(ConversionError::Unsupported { kind, from, to: desired_api_version.to_owned() })
}

/// The object with another apiVersion and nothing else changed.
pub(crate) fn renamed(mut object: Value, api_version: &str) -> Value {
    if let Some(field) = object.get_mut("apiVersion") {
        *field = Value::from(api_version);
    }
    object
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

    #[test]
    fn kinds_of_one_shape_only_change_their_version() {
        for kind in ["BroadcastJob", "ImagePullJob", "ImageListPullJob", "NodeImage"] {
            let object = json!({"apiVersion": "apps.kruise.io/v1alpha1", "kind": kind, "spec": {"x": [1]}});
            let hub = convert(object.clone(), "apps.kruise.io/v1beta1").unwrap();
            assert_eq!(
                hub,
                json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": kind, "spec": {"x": [1]}})
            );
            assert_eq!(convert(hub, "apps.kruise.io/v1alpha1").unwrap(), object);
        }
    }
}
