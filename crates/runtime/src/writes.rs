//! Requests of controllers to the API server, and what their failures mean.

use std::fmt;
use std::time::Duration;

use kruise_common::key::ObjectKey;
use kruise_common::patch::PodPatch;
use kruise_common::pod::PodView;
use kruise_common::pod_wire::PodWire;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde::Serialize;

use crate::client::{is_namespace_terminating, said};
use crate::controller::{Failed, Requeue};
use crate::store::Store;

/// How long the stores get to learn of a change that a write met before they did.
const AFTER_CONFLICT: Duration = Duration::from_millis(100);

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object changed or was replaced after it was read: decide again.
    #[error("{0} changed after it was read")]
    Conflict(ObjectKey),
    /// The namespace is being deleted, and everything in it.
    #[error("{0} is not written: its namespace is being deleted")]
    NamespaceGone(ObjectKey),
    /// The API server refused, or did not answer.
    #[error("cannot write {key}: {}", said(.cause))]
    Api {
        /// What was to be written.
        key: ObjectKey,
        /// The cause.
        cause: Box<kube::Error>,
    },
    /// An object that this process built or received is not what it should be.
    #[error("{key} is malformed: {detail}")]
    Malformed {
        /// Which object.
        key: ObjectKey,
        /// What is wrong.
        detail: String,
    },
}

impl Error {
    /// What the API server said, in its own words if it said something: for users, who know what was to be written.
    pub fn said(&self) -> String {
        match self {
            Self::Api { cause, .. } => said(cause),
            other => other.to_string(),
        }
    }
}

/// The end of a round, with the failures taken out that are none: an object that changed meanwhile is decided about again,
/// without a back-off, and one that goes with its namespace is left alone. `due` is after what time something of the object
/// is due even so.
///
/// # Errors
/// Every other failure.
pub fn settled(ended: Result<Requeue, Error>, due: Option<Duration>) -> Result<Requeue, Failed<Error>> {
    match ended {
        Err(error @ Error::Conflict(_)) => {
            tracing::debug!(%error, "decided again");
            Ok(Requeue::After(due.map_or(AFTER_CONFLICT, |due| due.min(AFTER_CONFLICT))))
        }
        Err(error @ Error::NamespaceGone(_)) => {
            tracing::debug!(%error, "left to the end of the namespace");
            Ok(Requeue::None)
        }
        ended => ended.map_err(|error| Failed { error, due }),
    }
}

/// What it means if an object cannot be read or written down.
pub fn malformed<E: fmt::Display>(key: &ObjectKey) -> impl Fn(E) -> Error {
    move |error| Error::Malformed { key: key.clone(), detail: error.to_string() }
}

/// What a failed request means.
pub fn failure(key: &ObjectKey, error: kube::Error) -> Error {
    if is_code(&error, 409) && !is_reason(&error, "AlreadyExists") {
        Error::Conflict(key.clone())
    } else if is_namespace_terminating(&error) {
        Error::NamespaceGone(key.clone())
    } else {
        Error::Api { key: key.clone(), cause: Box::new(error) }
    }
}

/// True if the API server answered with this code.
pub fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// True if a JSON patch was refused because the object is not what it was when it was read. The API server says so in the
/// same words whatever did not fit; refusals of what was to be written name the field.
pub fn is_outdated(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status.code == 409
        || (status.code == 422 && status.message.starts_with("the server rejected our request"))
}

/// True if the API server gave this reason.
pub fn is_reason(error: &kube::Error, reason: &str) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == reason)
}

/// Deletes the object of this identity only, and, if given, of this version only.
pub fn only(uid: &str, resource_version: Option<&str>) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: resource_version.map(str::to_owned),
        }),
        ..DeleteParams::default()
    }
}

/// Patches the status of this very pod and puts the answer in its store. A pod that is gone is left to the watch.
///
/// # Errors
/// Every other failure.
pub async fn patch_pod_status(
    client: &kube::Client,
    pods: &Store<PodView>,
    pod: &PodView,
    mut patch: PodPatch,
) -> Result<(), Error> {
    patch.metadata.uid = Some(pod.uid.to_string());
    let api = Api::<PodWire>::namespaced(client.clone(), &pod.key.namespace);
    match api.patch_status(&pod.key.name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
        Ok(answer) => {
            pods.apply_own(PodView::from(answer));
            Ok(())
        }
        Err(error) if is_code(&error, 404) => Ok(()),
        Err(error) => Err(failure(&pod.key, error)),
    }
}

/// A merge patch for the object of one identity.
#[derive(Debug, Serialize)]
pub struct StatusPatch<'a, S> {
    /// Whose it is.
    pub metadata: Guard<'a>,
    /// The status.
    pub status: S,
}

/// The identity, and if need be the version, a patch is meant for.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Guard<'a> {
    /// `metadata.uid`.
    pub uid: &'a str,
    /// `metadata.resourceVersion`; absent for any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<&'a str>,
}

/// A merge patch of metadata.
#[derive(Debug, Serialize)]
pub struct MetadataPatch<M> {
    /// What is patched.
    pub metadata: M,
}

/// A merge patch of finalizers, for one version of the object.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finalizers<'a> {
    /// `metadata.uid`.
    pub uid: &'a str,
    /// `metadata.resourceVersion`.
    pub resource_version: &'a str,
    /// All that shall be left.
    pub finalizers: Vec<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_changed_or_goes_anyway_is_no_failure() {
        let key = || ObjectKey::new("n", "a");
        assert_eq!(settled(Err(Error::Conflict(key())), None).unwrap(), Requeue::After(AFTER_CONFLICT));
        assert_eq!(settled(Err(Error::NamespaceGone(key())), None).unwrap(), Requeue::None);
        assert_eq!(settled(Ok(Requeue::None), None).unwrap(), Requeue::None);
        let refused = failure(&key(), kube::Error::LinesCodecMaxLineLengthExceeded);
        let due = Some(Duration::from_millis(7));
        let failed = settled(Err(refused), due).unwrap_err();
        assert!(matches!(failed, Failed { error: Error::Api { .. }, due: at } if at == due));
        let after = settled(Err(Error::Conflict(key())), due).unwrap();
        assert_eq!(after, Requeue::After(Duration::from_millis(7)));
    }

    #[test]
    fn a_log_line_tells_once_what_the_api_server_said() {
        let status = kube::core::Status::failure("no endpoints available", "InternalError").with_code(500);
        let refused = failure(&ObjectKey::new("", "node1"), kube::Error::Api(status.boxed()));
        assert_eq!(
            format!("{:#}", anyhow::Error::from(refused)),
            "cannot write node1: no endpoints available"
        );
    }
}
